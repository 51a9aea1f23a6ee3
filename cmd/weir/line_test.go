package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/schema"
)

var knownEntities = []string{"contract", "customer", "invoice"}

// FuzzParseLine: whatever the line is, parseLine does not panic and answers either
//   - a line of a known entity with a JSON object as event, or a key where there is none, and headers in order, or
//   - a *lineError whose text holds nothing of the line's values (promise 9).
func FuzzParseLine(f *testing.F) {
	for _, s := range []string{
		customer(1, 1, 1), `{"entity":"customer","event":{"a":1},"headers":{"ce_id":"x","b":"y"}}`, `{"entity":"invoice","event":null,"key":"K"}`,
		`{"event":null}`, `{"entity":"customer","schema_version":1,"event":{}}`, `{"entity":"customer","schema_version":"SECRETVALUE","event":{}}`,
		`{"entity":"customer","key":"K","schema_version":1,"event":null}`, `{"event_type":"invoice.created"}`, `{"event_type":"SECRETVALUE.x"}`, `{"entity":"SECRETVALUE","event":{}}`, `{"a":1,"a":2}`,
		`[]`, `{`, `{} {}`, `"x"`, `null`, "\xff", strings.Repeat("[", 100), `{"event":{},"headers":{"a":1}}`, `{"event":"SECRETVALUE","entity":"customer"}`,
	} {
		f.Add([]byte(s), "")
	}
	f.Add([]byte(`{"x":1}`), "customer")
	f.Fuzz(func(t *testing.T, data []byte, entity string) {
		l, err := parseLine(data, entity, knownEntities)
		if err != nil {
			var le *lineError
			if !errors.As(err, &le) || le.reason == "" {
				t.Fatalf("parseLine = %v, want a *lineError with a reason", err)
			}
			if strings.Contains(err.Error(), "SECRETVALUE") {
				t.Errorf("the error repeats a value: %v", err)
			}
			return
		}
		if !slices.Contains(knownEntities, l.entity) || entity != "" && l.entity != entity {
			t.Errorf("entity %q of --entity %q", l.entity, entity)
		}
		var m map[string]any
		switch {
		case l.event == nil && l.key == "":
			t.Error("neither event nor key")
		case l.version < 0 || l.version > 0 && l.event == nil:
			t.Errorf("version %d of an event that is %q", l.version, l.event)
		case l.event != nil && (json.Unmarshal(l.event, &m) != nil || m == nil):
			t.Errorf("event is no JSON object: %q", l.event)
		}
		if !slices.IsSortedFunc(l.headers, func(a, b schema.Header) int { return strings.Compare(a.Key, b.Key) }) {
			t.Errorf("headers are not in order: %v", l.headers)
		}
	})
}

func TestReadLine(t *testing.T) {
	long := strings.Repeat("x", lineBytesMax+1)
	in := "a\n\n" + long + "\nb"
	r := bufio.NewReaderSize(strings.NewReader(in), 16)
	var got []string
	var read int64
	for {
		data, tooLong, n, err := readLine(r, nil)
		read += n
		if tooLong {
			data = []byte("too long")
		}
		got = append(got, strings.TrimSuffix(string(data), "\n"))
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if want := []string{"a", "", "too long", "b"}; !slices.Equal(got, want) || read != int64(len(in)) {
		t.Errorf("lines %.60q and %d bytes, want %q and %d", got, read, want, len(in))
	}
}
