package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// Properties: Decode never panics; its error about a record is a *RefusedError with entity and key or an
// *AheadError; an accepted event, encoded again, decodes to an equal event (invariant 1).
func FuzzDecode(f *testing.F) {
	s := embedded(f)
	d := embeddedDecoder(f, DecoderOptions{})
	for i, entity := range s.Entities() {
		key, _ := s.KeyOf(entity, sample(entity))
		value := encoded(f, s, entity, sample(entity))
		f.Add(uint8(i), key, value, []byte(nil))
		f.Add(uint8(i), key, value[5:], value[:5])
		single, _ := s.EncodeSingleObject(entity, sample(entity))
		f.Add(uint8(i), key, single, []byte(nil))
		f.Add(uint8(i), key, value[:len(value)/2], []byte(nil))
		f.Add(uint8(i), "", []byte{0}, append([]byte{1}, make([]byte, 16)...))
	}
	f.Fuzz(func(t *testing.T, which uint8, key string, value, header []byte) {
		entity := s.Entities()[int(which)%len(s.Entities())]
		r := record(entity, key, value)
		if header != nil {
			r.Headers = []Header{{HeaderSchemaID, header}}
		}
		before := bytes.Clone(value)
		ev, err := d.Decode(t.Context(), r)
		if !bytes.Equal(value, before) {
			t.Fatal("Decode changed the record")
		}
		if err != nil {
			re, ok := errors.AsType[*RefusedError](err)
			if !ok && !isAhead(err) {
				t.Fatalf("error %v is neither a refusal nor ahead", err)
			}
			if ok && (re.Event == nil || re.Event.Entity != entity || re.Event.Key != key) {
				t.Fatalf("refusal %+v without entity and key", re)
			}
			return
		}
		if ev.Tombstone {
			return
		}
		again, err := s.Encode(entity, ev.Fields)
		if err != nil {
			t.Fatalf("an accepted event does not encode: %v", err)
		}
		two, err := d.Decode(t.Context(), record(entity, key, again))
		if err != nil {
			t.Fatalf("an accepted event, encoded, is refused: %v", err)
		}
		two.Subject, two.SchemaVersion, two.SchemaID = ev.Subject, ev.SchemaVersion, ev.SchemaID
		if !reflect.DeepEqual(ev, two) {
			t.Fatalf("got %+v\nthen %+v", ev, two)
		}
	})
}

// Properties, for any two schemas and any bytes: parsing, resolving and decoding never panic; goavro reads all
// bytes that are sound for a schema, save a map with a key twice; a schema resolves to itself, and what is read
// with it encodes to bytes that read as an equal value. Of two schemas: there is a plan unless a problem is certain; a
// reader that is compatible refuses a value for what it is and never for its schema; and what it reads is a value of
// the reader's schema, whole: it encodes with it to bytes that read as an equal value.
func FuzzProjection(f *testing.F) {
	for _, texts := range [][2]string{
		{`{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}`, `{"type":"record","name":"R","fields":[{"name":"a","type":"long"},{"name":"b","type":["null","string"],"default":null}]}`},
		{`{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"n","type":["null","L"]}]}`, `{"type":"record","name":"L","fields":[{"name":"n","type":["null","L"]}]}`},
		{`["null",{"type":"enum","name":"E","symbols":["A","B"]},"int"]`, `["double",{"type":"enum","name":"E","symbols":["A"],"default":"A"},"null"]`},
		{`{"type":"map","values":{"type":"array","items":{"type":"bytes","logicalType":"decimal","precision":4}}}`, `{"type":"map","values":{"type":"array","items":"string"}}`},
		{`{"type":"record","name":"R","fields":[{"name":"a","type":{"type":"fixed","name":"F","size":2}},{"name":"f","type":"float"}]}`, `{"type":"record","name":"Q","aliases":["R"],"fields":[{"name":"z","aliases":["f"],"type":"double"}]}`},
		{`{"type":"long","logicalType":"timestamp-millis"}`, `"long"`},
	} {
		for _, raw := range [][]byte{{}, {0}, {2, 2, 4, 0}, {2, 0x61, 2, 2, 0x62, 0, 0}} {
			f.Add(texts[0], texts[1], raw)
		}
	}
	s := embedded(f)
	for _, entity := range s.Entities() { // each version with each: the older readers too
		for _, w := range s.Versions(entity) {
			raw, err := os.ReadFile(filepath.Join("testdata", strings.TrimSuffix(w.File, "avsc")+"bin"))
			if err != nil {
				f.Fatal(err)
			}
			for _, r := range s.Versions(entity) {
				f.Add(w.Text, r.Text, raw[5:])
			}
		}
	}
	f.Add(`["null",{"type":"record","name":"R","fields":[]}]`, `["null",{"type":"record","name":"R","fields":[{"name":"a","type":"int"}]}]`, []byte{2})
	f.Add(`{"type":"record","name":"R","fields":[{"name":"a","type":["int",{"type":"record","name":"S","fields":[]}]}]}`,
		`{"type":"record","name":"R","fields":[{"name":"a","type":["int",{"type":"record","name":"S","fields":[{"name":"b","type":"int"}]}]}]}`, []byte{2})
	f.Add(`{"type":"record","name":"R","fields":[{"name":"a","type":"long"}]}`, `{"type":"record","name":"R","fields":[{"name":"b","aliases":["a"],"type":"double"},{"name":"c","type":"float","default":0.1}]}`, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, writer, reader string, raw []byte) {
		if strings.Contains(writer, `"double"`) || strings.Contains(writer, `"float"`) {
			raw = bytes.ReplaceAll(raw, []byte{0xff}, []byte{0}) // no NaN, which equals nothing
		}
		w, err := Parse([]byte(writer))
		if err != nil {
			return
		}
		for _, p := range Compatible(w, w) {
			t.Fatalf("%s does not read itself: %s", writer, p)
		}
		ws := &Schema{Subject: "w", Type: w, Text: writer}
		if rd, err := Parse([]byte(reader)); err == nil {
			projects(t, ws, &Schema{Subject: "r", Type: rd, Text: reader}, raw)
		}
		if sound(w, raw, 1000) != nil {
			return
		}
		p := compile(ws, ws)
		if p.broken != nil {
			t.Fatalf("no plan for %s: %v", writer, p.broken)
		}
		if _, _, err := p.codec.NativeFromBinary(raw); err != nil {
			if strings.Contains(err.Error(), "duplicate key") {
				return
			}
			t.Fatalf("goavro refuses sound bytes %x of %s: %v", raw, writer, err)
		}
		if w.Kind != RecordKind {
			return
		}
		one, fl := p.decode(raw, 1000)
		if fl != nil {
			return // a date or decimal out of range
		}
		again, err := ws.encode(nil, one)
		if err != nil {
			t.Fatalf("%v of %s does not encode: %v", one, writer, err)
		}
		if ambiguous(w, map[*Type]bool{}) {
			return
		}
		two, fl := p.decode(again, 1000)
		if fl != nil || !reflect.DeepEqual(one, two) {
			t.Fatalf("%s: got %v, then %v (%v)", writer, one, two, fl)
		}
	})
}

// projects checks the properties of two schemas.
func projects(t *testing.T, w, rd *Schema, raw []byte) {
	t.Helper()
	problems := Compatible(w.Type, rd.Type)
	p := compile(w, rd)
	if certain := onlyCertain(problems); certain != (p.broken != nil) {
		t.Fatalf("%s as %s: problems %v, plan %v", w.Text, rd.Text, problems, p.broken)
	}
	if p.broken != nil {
		return
	}
	one, fl := p.decode(raw, 1000)
	if fl != nil {
		if fl.cause == causeSchema && problems == nil {
			t.Fatalf("%s as %s is compatible, and %x is refused for its schema: %v", w.Text, rd.Text, raw, fl)
		}
		return
	}
	again, err := rd.encode(nil, one)
	if err != nil {
		t.Fatalf("%s as %s: %v does not encode: %v", w.Text, rd.Text, one, err)
	}
	if ambiguous(rd.Type, map[*Type]bool{}) {
		return
	}
	two, fl := compile(rd, rd).decode(again, 1000)
	if fl != nil || !reflect.DeepEqual(one, two) {
		t.Fatalf("%s as %s: got %v, then %v (%v)", w.Text, rd.Text, one, two, fl)
	}
}

// ambiguous: in a union of more than null and a type, an unwrapped value may fit more than one type; writing takes
// the first. The canonical schemas have none.
func ambiguous(t *Type, seen map[*Type]bool) bool {
	if t == nil || seen[t] {
		return false
	}
	seen[t] = true
	if _, ok := t.Nullable(); t.Kind == Union && !ok {
		return true
	}
	for _, f := range t.Fields {
		if ambiguous(f.Type, seen) {
			return true
		}
	}
	for _, b := range t.Branches {
		if ambiguous(b, seen) {
			return true
		}
	}
	return ambiguous(t.Items, seen) || ambiguous(t.Values, seen)
}

// Properties: Encode of any JSON never panics; its error is an *EncodeError with at least one path or reason and at
// most 20 problems; what it accepts decodes (without rules) to fields that encode to the same bytes.
func FuzzEncodeJSON(f *testing.F) {
	s := embedded(f)
	d := NewDecoder(s, nil, DecoderOptions{})
	f.Add(uint8(2), invoiceJSON)
	for i, e := range s.Entities() {
		b, err := json.Marshal(sample(e))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), string(b))
		f.Add(uint8(i), strings.Replace(string(b), `"tenant"`, `"tenent"`, 1))
	}
	f.Fuzz(func(t *testing.T, which uint8, text string) {
		entity := s.Entities()[int(which)%len(s.Entities())]
		dec := json.NewDecoder(strings.NewReader(text))
		dec.UseNumber()
		var fields map[string]any
		if dec.Decode(&fields) != nil {
			return
		}
		value, err := s.Encode(entity, fields)
		if err != nil {
			ee, ok := errors.AsType[*EncodeError](err)
			if !ok || len(ee.Problems) == 0 || len(ee.Problems) > problemsMax {
				t.Fatalf("got error %v", err)
			}
			return
		}
		key, err := s.KeyOf(entity, fields)
		if err != nil {
			return
		}
		ev, err := d.Decode(t.Context(), record(entity, key, value))
		if err != nil {
			if re, ok := errors.AsType[*RefusedError](err); ok && re.Cause == causeTooLarge {
				return
			}
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		again, err := s.Encode(entity, ev.Fields)
		if err != nil || !bytes.Equal(again, value) {
			t.Fatalf("encoded again: %x, want %x (%v)", again, value, err)
		}
	})
}
