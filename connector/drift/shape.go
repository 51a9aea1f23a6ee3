package drift

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// A Shape is what an answer looks like: the types of its values, in the place of the values. Its JSON is the name of the
// type where nothing else is said, as in the declarations of a profile.
type Shape struct {
	Type     string            `json:"type"`               // string, integer, number, boolean, object, array, null (so far), any
	Nullable bool              `json:"nullable,omitempty"` // null is good too
	Optional bool              `json:"optional,omitempty"` // may be absent
	Enum     []string          `json:"enum,omitempty"`     // of a string that is one of a few words
	Text     string            `json:"text,omitempty"`     // of a string that is a sentence for people
	Fields   map[string]*Shape `json:"fields,omitempty"`   // of an object; one without fields takes any
	Items    *Shape            `json:"items,omitempty"`    // of an array; one without items takes any
}

var shapeTypes = []string{"string", "integer", "number", "boolean", "object", "array", "null", "any"}

// MarshalJSON writes the type alone where it says all.
func (s *Shape) MarshalJSON() ([]byte, error) {
	type plain Shape
	if !s.Nullable && !s.Optional && s.Enum == nil && s.Text == "" && s.Fields == nil && s.Items == nil {
		return json.Marshal(s.Type)
	}
	return json.Marshal((*plain)(s))
}

// UnmarshalJSON reads both forms and refuses what would never be compared.
func (s *Shape) UnmarshalJSON(text []byte) error {
	type plain Shape
	p := plain{}
	if bytes.HasPrefix(text, []byte(`"`)) {
		if err := json.Unmarshal(text, &p.Type); err != nil {
			return err
		}
	} else {
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&p); err != nil {
			return err
		}
	}
	switch {
	case !slices.Contains(shapeTypes, p.Type):
		return fmt.Errorf("%q is no type; use %s", clip(p.Type), strings.Join(shapeTypes, ", "))
	case p.Fields != nil && p.Type != "object", p.Items != nil && p.Type != "array", (p.Enum != nil || p.Text != "") && p.Type != "string":
		return fmt.Errorf("type %s has something that belongs to another type", p.Type)
	}
	*s = Shape(p)
	return nil
}

var (
	wordValue = regexp.MustCompile(`^([a-z]+(_[a-z]+)*|[A-Z]{2,8}[0-9]{0,3})$`)
	sentence  = regexp.MustCompile(`^[^\s\d]+( [^\s\d]+)+$`) // a digit is likely a value
)

const (
	wordMax = 40
	textMax = 500
)

// A sent is what the requests of a check held: a text that comes back in an answer is no narrative of the vendor.
type sent []string

func (e sent) has(text string) bool {
	return slices.ContainsFunc(e, func(s string) bool { return s != "" && strings.Contains(text, s) })
}

// shapeOf normalises a value. free names fields whose content is not looked at.
func shapeOf(v any, echo sent, free []string) *Shape {
	switch v := v.(type) {
	case nil:
		return &Shape{Type: "null"}
	case bool:
		return &Shape{Type: "boolean"}
	case json.Number:
		return &Shape{Type: numberType(v)}
	case string:
		s := &Shape{Type: "string"}
		switch {
		case len(v) <= wordMax && wordValue.MatchString(v):
			s.Enum = []string{v}
		case len(v) <= textMax && sentence.MatchString(v) && !echo.has(v):
			s.Text = v
		}
		return s
	case []any:
		s := &Shape{Type: "array"}
		for _, item := range v {
			s.Items = union(s.Items, shapeOf(item, echo, free))
		}
		return s
	case map[string]any:
		s := &Shape{Type: "object", Fields: map[string]*Shape{}}
		for k, f := range v {
			if s.Fields[k] = shapeOf(f, echo, free); slices.Contains(free, k) {
				s.Fields[k] = &Shape{Type: s.Fields[k].Type}
			}
		}
		return s
	}
	panic(fmt.Sprintf("drift: a %T is no JSON value", v)) // decode makes no others
}

func numberType(n json.Number) string {
	if strings.ContainsAny(n.String(), ".eE") {
		return "number"
	}
	return "integer"
}

// union takes what fits a or b.
func union(a, b *Shape) *Shape {
	switch {
	case a == nil:
		return b
	case a.Type == "any" || b.Type == "any":
		return &Shape{Type: "any"}
	case a.Type == "null" || b.Type == "null":
		if a.Type == "null" {
			a, b = b, a
		}
		u := *a
		u.Nullable = u.Nullable || u.Type != "null"
		return &u
	case a.Type != b.Type:
		if (a.Type == "integer" || a.Type == "number") && (b.Type == "integer" || b.Type == "number") {
			return &Shape{Type: "number", Nullable: a.Nullable || b.Nullable}
		}
		return &Shape{Type: "any"}
	}
	u := &Shape{Type: a.Type, Nullable: a.Nullable || b.Nullable, Optional: a.Optional || b.Optional}
	if a.Enum != nil && b.Enum != nil {
		u.Enum = slices.Compact(slices.Sorted(slices.Values(slices.Concat(a.Enum, b.Enum))))
	}
	if a.Text == b.Text {
		u.Text = a.Text
	}
	switch {
	case a.Items != nil && b.Items != nil:
		u.Items = union(a.Items, b.Items)
	case a.Items != nil:
		u.Items = a.Items
	default:
		u.Items = b.Items
	}
	if a.Fields == nil || b.Fields == nil {
		return u
	}
	u.Fields = map[string]*Shape{}
	for k, f := range a.Fields {
		if g := b.Fields[k]; g != nil {
			u.Fields[k] = union(f, g)
			continue
		}
		u.Fields[k] = optional(f)
	}
	for k, f := range b.Fields {
		if a.Fields[k] == nil {
			u.Fields[k] = optional(f)
		}
	}
	return u
}

func optional(s *Shape) *Shape {
	o := *s
	o.Optional = true
	return &o
}

// compare reports how a value differs from the shape. free names fields whose content is not looked at.
func (s *Shape) compare(path string, v any, free []string, report func(kind Kind, path, want, got string)) {
	got := typeOf(v)
	switch {
	case s.Type == "null" || s.Type == "any": // nothing is known but that it is there
		return
	case got == "null" && s.Nullable:
		return
	case got != s.Type && (s.Type != "number" || got != "integer"):
		report(Retyped, path, s.Type, got)
		return
	}
	switch v := v.(type) {
	case string:
		switch {
		case s.Enum != nil && !slices.Contains(s.Enum, v):
			report(NewValue, path, strings.Join(s.Enum, ", "), word(v))
		case s.Text != "" && s.Text != v:
			report(TextChanged, path, s.Text, clip(v))
		}
	case []any:
		if s.Items == nil {
			return
		}
		seen := map[string]bool{} // one finding for all items
		for _, item := range v {
			s.Items.compare(path+"[]", item, free, func(kind Kind, path, want, got string) {
				if k := string(kind) + path; !seen[k] {
					seen[k] = true
					report(kind, path, want, got)
				}
			})
		}
	case map[string]any:
		if s.Fields == nil {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(s.Fields)) {
			f := s.Fields[k]
			inner, ok := v[k]
			switch {
			case ok && slices.Contains(free, k):
				(&Shape{Type: f.Type, Nullable: f.Nullable}).compare(join(path, k), inner, free, report)
			case ok:
				f.compare(join(path, k), inner, free, report)
			case !f.Optional:
				report(Missing, join(path, k), f.Type, "")
			}
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if s.Fields[k] == nil {
				report(NewField, join(path, clip(k)), "", typeOf(v[k]))
			}
		}
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case json.Number:
		return numberType(v)
	case string:
		return "string"
	case []any:
		return "array"
	}
	return "object"
}

// word is a value that stands where one of a few words is expected; what is no word is not repeated.
func word(s string) string {
	if len(s) <= wordMax && plainWord.MatchString(s) {
		return s
	}
	return fmt.Sprintf("a text of %d bytes", len(s))
}

var plainWord = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)

// clip bounds what is repeated of a file or an answer.
func clip(s string) string {
	if r := []rune(s); len(r) > 120 {
		return string(r[:117]) + "..."
	}
	return s
}

// decode reads an answer's JSON, nil and false for an empty body.
func decode(body []byte) (v any, there bool, err error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, false, nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, true, errNoJSON
	}
	if d.More() {
		return nil, true, errNoJSON
	}
	return v, true, nil
}

var errNoJSON = errors.New("no JSON")
