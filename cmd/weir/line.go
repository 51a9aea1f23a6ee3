package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/weirsync/weir/schema"
)

// A line is one line of a publish file, read but not yet encoded.
type line struct {
	entity  string
	event   []byte // JSON of the event, nil for a tombstone
	key     string // as given, "" if it was not
	version int    // of the schema that the event is written in, 0: the newest
	headers []schema.Header
}

// Bounds of a publish file. A Kafka record is at most about 1 MB, so a line of 4 MiB leaves room for JSON's
// overhead.
const (
	lineBytesMax   = 4 << 20
	headersMax     = 64
	headerBytesMax = 16 << 10
	jsonDepthMax   = 64
)

// A lineError says what is wrong with a line: where, and why. It shows no value of the line (promise 9).
type lineError struct {
	path, reason string
}

func (e *lineError) Error() string {
	if e.path == "" {
		return e.reason
	}
	return e.path + ": " + e.reason
}

// parseLine reads one line of `weir publish`: {"entity", "event", "key", "headers", "schema_version"}, or the bare event of
// entity, or a bare event whose event_type begins with one of the known entities and a dot. entity is that of
// --entity, "" if it was not given. The error is a *lineError.
func parseLine(data []byte, entity string, entities []string) (line, error) {
	if !utf8.Valid(data) {
		return line{}, &lineError{reason: "not valid UTF-8"}
	}
	if err := checkJSON(data); err != nil {
		return line{}, err
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil || top == nil {
		return line{}, &lineError{reason: "not a JSON object"}
	}
	raw, wrapped := top["event"]
	if !wrapped {
		return bareEvent(data, top, entity, entities)
	}
	l := line{entity: entity}
	for name := range top {
		if !slices.Contains([]string{"entity", "event", "key", "headers", "schema_version"}, name) {
			return line{}, &lineError{reason: "has a field beside entity, event, key, headers and schema_version"}
		}
	}
	if err := text(top, "entity", &l.entity); err != nil {
		return line{}, err
	}
	if entity != "" && l.entity != entity {
		return line{}, &lineError{"entity", "differs from --entity"}
	}
	if err := text(top, "key", &l.key); err != nil {
		return line{}, err
	}
	if v, ok := top["schema_version"]; ok {
		n, err := strconv.Atoi(string(v))
		if err != nil || n < 1 {
			return line{}, &lineError{"schema_version", "not an integer from 1"}
		}
		if string(raw) == "null" {
			return line{}, &lineError{"schema_version", "a tombstone (event null) has none"}
		}
		l.version = n
	}
	if h, ok := top["headers"]; ok {
		var err error
		if l.headers, err = parseHeaders(h); err != nil {
			return line{}, err
		}
	}
	if string(raw) == "null" {
		if l.key == "" {
			return line{}, &lineError{"key", "missing: a tombstone (event null) needs the entity's id as key"}
		}
	} else {
		if raw[0] != '{' {
			return line{}, &lineError{"event", "neither an object nor null"}
		}
		l.event = raw
		if l.entity == "" {
			l.entity = inferEntity(raw, entities)
		}
	}
	return l, knownEntity(l.entity, entities)
}

func bareEvent(data []byte, top map[string]json.RawMessage, entity string, entities []string) (line, error) {
	if entity == "" {
		entity = inferEntity(data, entities)
	}
	if entity == "" {
		if _, ok := top["event_type"]; !ok {
			return line{}, &lineError{"event_type", "missing, so the entity is not known; give --entity or wrap the event as {\"entity\":…,\"event\":…}"}
		}
		return line{}, &lineError{"event_type", "does not begin with a known entity and a dot; give --entity (known: " + strings.Join(entities, ", ") + ")"}
	}
	return line{entity: entity, event: data}, knownEntity(entity, entities)
}

func knownEntity(entity string, entities []string) error {
	switch {
	case entity == "":
		return &lineError{"entity", "missing; give it here or as --entity (known: " + strings.Join(entities, ", ") + ")"}
	case !slices.Contains(entities, entity):
		return &lineError{"entity", "not known; there are " + strings.Join(entities, ", ")}
	}
	return nil
}

// inferEntity is the part of event_type before the first dot, if it is a known entity; else "".
func inferEntity(event []byte, entities []string) string {
	var e struct {
		Type any `json:"event_type"`
	}
	if json.Unmarshal(event, &e) != nil {
		return ""
	}
	s, _ := e.Type.(string)
	prefix, _, dotted := strings.Cut(s, ".")
	if dotted && slices.Contains(entities, prefix) {
		return prefix
	}
	return ""
}

func text(top map[string]json.RawMessage, name string, into *string) error {
	raw, ok := top[name]
	if !ok {
		return nil
	}
	var s *string
	if json.Unmarshal(raw, &s) != nil || s == nil || *s == "" {
		return &lineError{name, "not a text with at least one character"}
	}
	*into = *s
	return nil
}

func parseHeaders(raw []byte) ([]schema.Header, error) {
	var m map[string]*string
	if json.Unmarshal(raw, &m) != nil {
		return nil, &lineError{"headers", "not an object of texts"}
	}
	if len(m) > headersMax {
		return nil, &lineError{"headers", fmt.Sprintf("more than %d", headersMax)}
	}
	hs := make([]schema.Header, 0, len(m))
	size := 0
	for k, v := range m {
		if v == nil || k == "" {
			return nil, &lineError{"headers", "not an object of texts"}
		}
		size += len(k) + len(*v)
		hs = append(hs, schema.Header{Key: k, Value: []byte(*v)})
	}
	if size > headerBytesMax {
		return nil, &lineError{"headers", fmt.Sprintf("larger than %d bytes", headerBytesMax)}
	}
	slices.SortFunc(hs, func(a, b schema.Header) int { return strings.Compare(a.Key, b.Key) })
	return hs, nil
}

// checkJSON refuses what is no single JSON value, is nested too deeply, or has one key twice: which of the two
// values is meant, nobody knows (promise 8).
func checkJSON(data []byte) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	type level struct {
		keys   map[string]bool // nil: an array
		value  bool            // the next token of an object is a value
		object bool
	}
	var stack []level
	for n := 0; ; n++ {
		tok, err := dec.Token()
		whole := n > 0 && len(stack) == 0
		if whole && err == io.EOF {
			return nil
		}
		if whole || err != nil {
			return &lineError{reason: fmt.Sprintf("not JSON at column %d", dec.InputOffset()+1)}
		}
		if d, ok := tok.(json.Delim); ok && (d == '}' || d == ']') {
			stack = stack[:len(stack)-1]
			continue
		}
		if top := len(stack) - 1; top >= 0 && stack[top].object {
			if !stack[top].value {
				key, _ := tok.(string)
				if stack[top].keys[key] {
					return &lineError{reason: fmt.Sprintf("one key twice in an object, at column %d", dec.InputOffset()+1)}
				}
				stack[top].keys[key] = true
				stack[top].value = true
				continue
			}
			stack[top].value = false
		}
		if d, ok := tok.(json.Delim); ok {
			if len(stack) == jsonDepthMax {
				return &lineError{reason: fmt.Sprintf("nested more than %d deep", jsonDepthMax)}
			}
			l := level{object: d == '{'}
			if l.object {
				l.keys = map[string]bool{}
			}
			stack = append(stack, l)
		}
	}
}
