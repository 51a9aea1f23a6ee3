package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
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

// Raw returns the JSON text of a name's value, nil if it is absent or null. It is a part of the body.
func (f Fields) Raw(name string) []byte {
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
func (f Fields) Has(name string) bool { return f.Raw(name) != nil }

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
	raw := f.Raw(name)
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
	n, err := strconv.ParseInt(string(f.Raw(name)), 10, 64)
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
	switch string(f.Raw(name)) {
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
	raw := f.Raw(name)
	if raw[0] != '{' {
		return nil, &InvalidError{path + name, "must be an object"}
	}
	return splitObject(raw), nil
}

// Array reads an array as the JSON texts of its elements, which are parts of the body.
func (f Fields) Array(path, name string, required bool) ([][]byte, error) {
	raw := f.Raw(name)
	if raw == nil {
		if required {
			return nil, &InvalidError{path + name, "is required"}
		}
		return nil, nil
	}
	if raw[0] != '[' {
		return nil, &InvalidError{path + name, "must be an array"}
	}
	var out [][]byte
	for b := bytes.TrimLeft(raw[1:], jsonSpace); b[0] != ']'; {
		n := valueLen(b)
		out = append(out, b[:n:n])
		if b = bytes.TrimLeft(b[n:], jsonSpace); b[0] == ',' {
			b = bytes.TrimLeft(b[1:], jsonSpace)
		}
	}
	return out, nil
}

// Texts reads an array of strings, none of them empty.
func (f Fields) Texts(path, name string, required bool) ([]string, error) {
	raws, err := f.Array(path, name, required)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(raws))
	for i, raw := range raws {
		if raw[0] != '"' || len(raw) == 2 {
			return nil, &InvalidError{path + name + "[" + strconv.Itoa(i) + "]", "must be a string that is not empty"}
		}
		out = append(out, unquote(raw))
	}
	return out, nil
}

// ElementFields reads an element of Array that is an object.
func ElementFields(raw []byte) (Fields, bool) {
	if raw[0] != '{' {
		return nil, false
	}
	return splitObject(raw), true
}

// EmailAddress accepts local@domain.tld without spaces or control characters, at most 254 bytes.
func EmailAddress(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && len(s) <= 254 && local != "" && !strings.Contains(domain, "@") && strings.Contains(domain, ".") &&
		!strings.HasPrefix(domain, ".") && !strings.HasSuffix(domain, ".") &&
		strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f }) < 0
}

// HookURL accepts https, and http to a loopback address so that tests need no certificates.
func HookURL(s string) bool {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return false
	}
	if u.Scheme == "https" {
		return true
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return u.Scheme == "http" && (u.Hostname() == "localhost" || err == nil && ip.IsLoopback())
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
