package sample

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"unicode/utf8"
)

// AppendLine appends an item as `weir publish` reads it: one JSON object
//
//	{"entity":"customer","event":{...}}
//	{"entity":"customer","schema_version":1,"event":{...}}
//	{"entity":"customer","key":"cust_000001","event":null,"headers":{"ce_id":"..."}}
//
// and a newline. Fields of events are in order of their names, so the bytes are a function of the item. An event
// holds nil, bool, string, int, int64, []any and map[string]any and nothing else; another type is an error.
func AppendLine(b []byte, it Item) ([]byte, error) {
	b = append(b, `{"entity":`...)
	b = appendString(b, it.Entity)
	if it.Event == nil {
		b = append(b, `,"key":`...)
		b = appendString(b, it.Key)
	}
	if it.SchemaVersion != 0 {
		b = append(b, `,"schema_version":`...)
		b = strconv.AppendInt(b, int64(it.SchemaVersion), 10)
	}
	b = append(b, `,"event":`...)
	var err error
	if it.Event == nil {
		b = append(b, "null"...)
	} else if b, err = appendValue(b, it.Event); err != nil {
		return nil, fmt.Errorf("%s event %s: %w", it.Entity, it.Key, err)
	}
	if len(it.Headers) > 0 {
		b = append(b, `,"headers":{`...)
		for i, h := range it.Headers {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, h.Key)
			b = append(b, ':')
			b = appendString(b, h.Value)
		}
		b = append(b, '}')
	}
	return append(b, "}\n"...), nil
}

func appendValue(b []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(b, "null"...), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case string:
		return appendString(b, v), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case []any:
		b = append(b, '[')
		for i, e := range v {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = appendValue(b, e); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	case map[string]any:
		var room [32]string // the largest event has 26 fields
		keys := room[:0]
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		b = append(b, '{')
		for i, k := range keys {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendString(b, k), ':')
			if b, err = appendValue(b, v[k]); err != nil {
				return nil, fmt.Errorf("%s: %w", k, err)
			}
		}
		return append(b, '}'), nil
	}
	return nil, fmt.Errorf("a value of type %T has no place in an event", v)
}

// appendString appends s as a JSON string; what is not plain goes through encoding/json.
func appendString(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf && !utf8.ValidString(s) {
			quoted, err := json.Marshal(s)
			if err != nil {
				panic("sample: a string that JSON cannot hold: " + err.Error()) // there is none
			}
			return append(b, quoted...)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// Write writes the items that are left as JSON lines.
func (g *Generator) Write(w io.Writer) error {
	bw := bufio.NewWriterSize(w, 64<<10)
	var line []byte
	for it := range g.All() {
		var err error
		if line, err = AppendLine(line[:0], it); err != nil {
			return err
		}
		if _, err := bw.Write(line); err != nil {
			return fmt.Errorf("write sample events: %w", err)
		}
	}
	if err := bw.Flush(); err != nil {
		return fmt.Errorf("write sample events: %w", err)
	}
	return nil
}

// Reader gives the items that are left as JSON lines, made as they are read.
func (g *Generator) Reader() io.Reader { return &reader{g: g} }

type reader struct {
	g    *Generator
	line []byte
	rest []byte
}

func (r *reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if len(r.rest) == 0 {
			it, ok := r.g.Next()
			if !ok {
				if n == 0 && len(p) > 0 {
					return 0, io.EOF
				}
				return n, nil
			}
			line, err := AppendLine(r.line[:0], it)
			if err != nil {
				return n, err
			}
			r.line, r.rest = line, line
		}
		k := copy(p[n:], r.rest)
		n += k
		r.rest = r.rest[k:]
	}
	return n, nil
}
