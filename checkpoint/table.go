package checkpoint

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// A Table is a small map. Its entries lie in one piece of memory, which is copied and read in a fraction of the time that a
// map takes: each record copies and reads the state of its entity. As JSON it is an object.
type Table[V any] []TableEntry[V]

// A TableEntry is one entry of a Table, whose names differ.
type TableEntry[V any] struct {
	Name  string
	Value V
}

// Get returns the value of a name, the zero value if it has none.
func (t Table[V]) Get(name string) V {
	v, _ := t.Find(name)
	return v
}

// Find returns the value of a name, and whether it has one.
func (t Table[V]) Find(name string) (v V, ok bool) {
	for i := range t {
		if t[i].Name == name {
			return t[i].Value, true
		}
	}
	return v, false
}

// Set gives a name a value. It changes the table itself, not a copy.
func (t *Table[V]) Set(name string, v V) {
	for i := range *t {
		if (*t)[i].Name == name {
			(*t)[i].Value = v
			return
		}
	}
	*t = append(*t, TableEntry[V]{name, v})
}

// UnmarshalJSON reads an object; its entries keep their order.
func (t *Table[V]) UnmarshalJSON(b []byte) error {
	*t = nil
	d := json.NewDecoder(bytes.NewReader(b))
	if open, err := d.Token(); err != nil || open == nil { // null
		return err
	} else if open != json.Delim('{') {
		return fmt.Errorf("want a JSON object, not %v", open)
	}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return err
		}
		var v V
		if err := d.Decode(&v); err != nil {
			return err
		}
		t.Set(name.(string), v) // a name of an object is a string, or Token had failed
	}
	_, err := d.Token()
	return err
}

// MarshalJSON writes an object.
func (t Table[V]) MarshalJSON() ([]byte, error) {
	m := make(map[string]V, len(t))
	for _, e := range t {
		m[e.Name] = e.Value
	}
	return json.Marshal(m)
}
