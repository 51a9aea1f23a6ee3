package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"
)

// Fields is a JSON object whose names are compared exactly (encoding/json alone would accept any case). Of a name that
// comes twice, the last counts. It is a slice because request bodies have few fields and are split on every request.
type Fields []field

type field struct {
	name string
	raw  []byte // valid JSON without space around it; a part of the body
}

// An InvalidError is a validation error of a request body.
type InvalidError struct {
	Field   string // JSON path, "" for the whole body
	Message string
}

func (e *InvalidError) Error() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

// ParseFields reads a JSON object. Anything else, also trailing data or text that is not UTF-8, is an *InvalidError.
func ParseFields(body []byte) (Fields, error) {
	if !utf8.Valid(body) {
		return nil, &InvalidError{Message: "the body is not UTF-8"}
	}
	body = bytes.TrimLeft(body, jsonSpace)
	if len(body) == 0 || body[0] != '{' || !json.Valid(body) {
		return nil, &InvalidError{Message: "the body is not a JSON object"}
	}
	return splitObject(body), nil
}

const jsonSpace = " \t\r\n"

// splitObject splits a JSON object that json.Valid has accepted, so it checks nothing.
func splitObject(b []byte) Fields {
	f := make(Fields, 0, 10)
	b = bytes.TrimLeft(b[1:], jsonSpace)
	for b[0] != '}' {
		n := valueLen(b)
		name := unquote(b[:n])
		b = bytes.TrimLeft(b[n:], jsonSpace)
		b = bytes.TrimLeft(b[1:], jsonSpace) // the colon
		n = valueLen(b)
		f = append(f, field{name, b[:n:n]})
		b = bytes.TrimLeft(b[n:], jsonSpace)
		if b[0] == ',' {
			b = bytes.TrimLeft(b[1:], jsonSpace)
		}
	}
	return f
}

// valueLen is the length of the valid JSON value that b starts with and that something follows.
func valueLen(b []byte) int {
	switch b[0] {
	case '"':
		for i := 1; ; i++ {
			switch b[i] {
			case '\\':
				i++
			case '"':
				return i + 1
			}
		}
	case '{', '[':
		depth := 0
		for i := 0; ; i++ {
			switch b[i] {
			case '"':
				i += valueLen(b[i:]) - 1
			case '{', '[':
				depth++
			case '}', ']':
				if depth--; depth == 0 {
					return i + 1
				}
			}
		}
	default:
		return bytes.IndexAny(b, ",}] \t\r\n")
	}
}

func unquote(raw []byte) string {
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1])
	}
	var s string
	_ = json.Unmarshal(raw, &s) // json.Valid has accepted it
	return s
}

// raw returns the value of a name, nil if it is absent or null.
func (f Fields) raw(name string) []byte {
	for i := len(f) - 1; i >= 0; i-- {
		if f[i].name == name {
			if f[i].raw[0] == 'n' {
				return nil
			}
			return f[i].raw
		}
	}
	return nil
}

// Has says whether the field is there and not null.
func (f Fields) Has(name string) bool { return f.raw(name) != nil }

// Names lists the names in the order of the body.
func (f Fields) Names() []string {
	names := make([]string, 0, len(f))
	for _, x := range f {
		names = append(names, x.name)
	}
	return names
}

// Text reads a string; a missing or null field is "" or, when required, an error. path is the object's own path with
// a final dot, "" for the body.
func (f Fields) Text(path, name string, required bool) (string, error) {
	raw := f.raw(name)
	if raw == nil {
		if required {
			return "", &InvalidError{path + name, "is required"}
		}
		return "", nil
	}
	if raw[0] != '"' {
		return "", &InvalidError{path + name, "must be a string"}
	}
	s := unquote(raw)
	if required && s == "" {
		return "", &InvalidError{path + name, "must not be empty"}
	}
	return s, nil
}

// Integer reads a whole number without fraction or exponent.
func (f Fields) Integer(path, name string, required bool) (int64, error) {
	if !f.Has(name) {
		if required {
			return 0, &InvalidError{path + name, "is required"}
		}
		return 0, nil
	}
	n, err := strconv.ParseInt(string(f.raw(name)), 10, 64)
	if err != nil {
		return 0, &InvalidError{path + name, "must be an integer"}
	}
	return n, nil
}

// Bool reads a boolean.
func (f Fields) Bool(path, name string, required bool) (bool, error) {
	if !f.Has(name) {
		if required {
			return false, &InvalidError{path + name, "is required"}
		}
		return false, nil
	}
	switch string(f.raw(name)) {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, &InvalidError{path + name, "must be true or false"}
}

// Object reads a nested object.
func (f Fields) Object(path, name string, required bool) (Fields, error) {
	if !f.Has(name) {
		if required {
			return nil, &InvalidError{path + name, "is required"}
		}
		return nil, nil
	}
	raw := f.raw(name)
	if raw[0] != '{' {
		return nil, &InvalidError{path + name, "must be an object"}
	}
	return splitObject(raw), nil
}

// AsInvalid unwraps the validation error of a request, nil if there is none.
func AsInvalid(err error) *InvalidError {
	if v, ok := errors.AsType[*InvalidError](err); ok {
		return v
	}
	if err != nil {
		return &InvalidError{Message: err.Error()}
	}
	return nil
}

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string. Bytes that are not UTF-8 become the replacement character.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
			i++
		case c < 0x20 || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			i++
		case c < utf8.RuneSelf:
			b = append(b, c)
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			b = utf8.AppendRune(b, r)
			i += n
		}
	}
	return append(b, '"')
}
