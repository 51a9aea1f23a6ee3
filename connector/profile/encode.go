package profile

import (
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// An encoder writes one declared field of a request body as canonical JSON: declared order, no white space, no
// escapes but those that JSON demands, absent for null. It is compiled once; writing makes no map.
type encoder struct {
	name     string
	key      []byte // "name":
	kind     string
	path     string // in the body, for refusals
	required bool
	nullable bool
	enum     []string
	min, max *int64
	value    *program   // nil for an object that is built of its fields
	fields   []*encoder // of an object
	set      setBy      // where the value comes from if not from value
}

// errRequired says that a required field has no value, which does not matter in an optional object that has none
// at all.
type errRequired struct{ refusal *Refusal }

func (e *errRequired) Error() string { return e.refusal.Error() }
func (e *errRequired) Unwrap() error { return e.refusal }

type setBy uint8

const (
	setByMap setBy = iota
	setByKey       // the idempotency key
	setByRef       // the reference
)

// A buffer is where a body is written. skip marks the bytes of a generated idempotency key, which are not part of
// the fingerprint.
type buffer struct {
	b         []byte
	skipFrom  int
	skipTo    int
	key       string
	naturalID bool
	reference string
}

// write appends the field with a comma before it unless first. It reports whether it wrote anything.
func (e *encoder) write(b *buffer, a *activation, first bool) (bool, error) {
	start := len(b.b)
	if !first {
		b.b = append(b.b, ',')
	}
	b.b = append(b.b, e.key...)
	wrote, err := e.content(b, a, start)
	if err != nil || !wrote {
		b.b = b.b[:start]
	}
	if err == nil && !wrote && e.required {
		return false, &errRequired{e.refuse(a, "missing_field", "the vendor requires %s and the event has no value for it")}
	}
	return wrote, err
}

func (e *encoder) content(b *buffer, a *activation, start int) (bool, error) {
	switch {
	case e.set == setByKey:
		if err := e.text(b, a, b.key); err != nil {
			return false, err
		}
		if !b.naturalID {
			b.skipFrom, b.skipTo = start, len(b.b)
		}
		return true, nil
	case e.set == setByRef:
		return true, e.text(b, a, b.reference)
	case e.value == nil:
		return e.object(b, a)
	}
	v, err := e.value.eval(a)
	if err != nil {
		return false, e.value.refuse(a, e.path, err)
	}
	if v == nil {
		if e.nullable {
			b.b = append(b.b, "null"...)
		}
		return e.nullable, nil
	}
	switch e.kind {
	case "string":
		s, ok := v.(string)
		if !ok {
			return false, e.refuse(a, "wrong_type", "%s is not a text")
		}
		return true, e.text(b, a, s)
	case "integer":
		i, ok := v.(int64)
		if !ok {
			return false, e.refuse(a, "wrong_type", "%s is not an integer")
		}
		if e.min != nil && i < *e.min || e.max != nil && i > *e.max {
			return false, e.refuse(a, "out_of_range", "%s is outside of what the vendor takes")
		}
		b.b = strconv.AppendInt(b.b, i, 10)
		return true, nil
	case "boolean":
		t, ok := v.(bool)
		if !ok {
			return false, e.refuse(a, "wrong_type", "%s is not a boolean")
		}
		b.b = strconv.AppendBool(b.b, t)
		return true, nil
	case "number":
		switch v.(type) {
		case int64, float64, uint64:
		default:
			return false, e.refuse(a, "wrong_type", "%s is not a number")
		}
	}
	n := len(b.b)
	if b.b, err = appendValue(b.b, v); err != nil {
		return false, e.refuse(a, "wrong_type", "%s has no form in JSON")
	}
	if c := b.b[n]; e.kind == "object" && c != '{' || e.kind == "array" && c != '[' {
		return false, e.refuse(a, "wrong_type", "%s is of another kind than the vendor takes")
	}
	return true, nil
}

// object writes the fields of an object. One without any is left out; then its required fields are not missed.
func (e *encoder) object(b *buffer, a *activation) (bool, error) {
	b.b = append(b.b, '{')
	var missing error
	any := false
	for _, f := range e.fields {
		wrote, err := f.write(b, a, !any)
		if r, ok := errors.AsType[*errRequired](err); ok && !e.required {
			if missing == nil {
				missing = r
			}
			continue
		}
		if err != nil {
			return false, err
		}
		any = any || wrote
	}
	if any && missing != nil {
		return false, missing
	}
	b.b = append(b.b, '}')
	return any, nil
}

func writeFields(fields []*encoder, b *buffer, a *activation) (any bool, err error) {
	for _, f := range fields {
		wrote, err := f.write(b, a, !any)
		if err != nil {
			return false, err
		}
		any = any || wrote
	}
	return any, nil
}

func (e *encoder) text(b *buffer, a *activation, s string) error {
	if e.enum != nil && !slices.Contains(e.enum, s) {
		return e.refuse(a, "unsupported_value", "%s is none of the values that the vendor takes")
	}
	if e.min != nil || e.max != nil {
		n := int64(utf8.RuneCountInString(s))
		if e.max != nil && n > *e.max {
			return e.refuse(a, "too_long", "%s is longer than the vendor takes")
		}
		if e.min != nil && n < *e.min {
			return e.refuse(a, "too_short", "%s is shorter than the vendor takes")
		}
	}
	b.b = appendString(b.b, s)
	return nil
}

// refuse blames the event's field where the mapping reads one, else the field of the request. The text holds no
// value: it is shown to people who may not see the event (promise 9).
func (e *encoder) refuse(a *activation, reason, guidance string) *Refusal {
	path := ""
	if e.value != nil {
		path = e.value.blame(a.in.Event)
	}
	if path == "" {
		path = e.path
	}
	return &Refusal{Reason: reason, Path: path, Guidance: fmt.Sprintf(guidance, "the request's field "+e.path)}
}

// refuse turns an error of evaluation into a refusal, or into our own error where the event is not to blame.
func (p *program) refuse(a *activation, target string, err error) error {
	if our := notTheEvent(err); our != nil {
		return fmt.Errorf("%s: %w", target, our)
	}
	r := &Refusal{Reason: "missing_field", Path: p.blame(a.in.Event)}
	r.Guidance = "the mapping of " + target + " could not be evaluated: a value is absent, or has another form than the mapping expects"
	if r.Path == "" {
		r.Reason, r.Path = "mapping_error", target
	}
	return r
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string with the fewest escapes. Bytes that are not UTF-8 become U+FFFD.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= 0x20 && c != '"' && c != '\\' {
				i++
				continue
			}
			b = append(b, s[from:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			from = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 {
			b = append(b, s[from:i]...)
			b = append(b, "\ufffd"...)
			i++
			from = i
			continue
		}
		i += n
	}
	b = append(b, s[from:]...)
	return append(b, '"')
}

// appendValue appends any value that an expression can have. The keys of maps are sorted and those without a
// value left out, so that a new nullable field in a schema changes no fingerprint.
func appendValue(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case string:
		return appendString(b, v), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case uint64:
		return strconv.AppendUint(b, v, 10), nil
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return b, fmt.Errorf("%v has no form in JSON", v)
		}
		return strconv.AppendFloat(b, v, 'g', -1, 64), nil
	case time.Time:
		return appendString(b, isoTime(v)), nil
	case []byte:
		return append(base64.StdEncoding.AppendEncode(append(b, '"'), v), '"'), nil
	case []any:
		b = append(b, '[')
		for i, x := range v {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendValue(b, x); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		return appendMap(b, v)
	case traits.Lister:
		b = append(b, '[')
		for i, it := 0, v.Iterator(); it.HasNext() == types.True; i++ {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = appendValue(b, native(it.Next())); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	case traits.Mapper:
		m := make(map[string]any)
		for it := v.Iterator(); it.HasNext() == types.True; {
			k := it.Next()
			name, ok := k.(types.String)
			if !ok {
				return b, fmt.Errorf("a key is a %s, not a text", k.Type().TypeName())
			}
			m[string(name)] = native(v.Get(k))
		}
		return appendMap(b, m)
	case ref.Val:
		return b, fmt.Errorf("a %s has no form in JSON", v.Type().TypeName())
	}
	return b, fmt.Errorf("a %T has no form in JSON", v)
}

func appendMap(b []byte, m map[string]any) ([]byte, error) {
	b = append(b, '{')
	first := true
	for _, k := range sortedKeys(m) {
		if m[k] == nil {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(appendString(b, k), ':')
		var err error
		if b, err = appendValue(b, m[k]); err != nil {
			return b, err
		}
	}
	return append(b, '}'), nil
}
