package schema

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
)

// Each case cites the rule of the Avro specification (1.12, "Schema Resolution") that it holds us to.
func TestResolution(t *testing.T) {
	t.Parallel()
	rec := func(fields string) string { return `{"type":"record","name":"R","fields":[` + fields + `]}` }
	for _, c := range []struct {
		rule           string
		writer, reader string
		native         any // what was written, in goavro's form
		want           any
		bad            string // part of the incompatibility; the value then fails unless want is set
	}{
		{"int is promotable to long", `"int"`, `"long"`, 5, int64(5), ""},
		{"int is promotable to float", `"int"`, `"float"`, 5, 5.0, ""},
		{"int is promotable to double", `"int"`, `"double"`, math.MaxInt32, float64(math.MaxInt32), ""},
		{"long is promotable to float", `"long"`, `"float"`, int64(7), 7.0, ""},
		{"long is promotable to double", `"long"`, `"double"`, int64(7), 7.0, ""},
		{"float is promotable to double", `"float"`, `"double"`, float32(1.5), 1.5, ""},
		{"string is promotable to bytes", `"string"`, `"bytes"`, "é", []byte("é"), ""},
		{"bytes is promotable to string", `"bytes"`, `"string"`, []byte("é"), "é", ""},
		{"long is not promotable to int", `"long"`, `"int"`, int64(1), nil, "long was written, int is read"},
		{"double is not promotable to float", `"double"`, `"float"`, 1.0, nil, "double was written"},
		{"float is not promotable to long", `"float"`, `"long"`, float32(1), nil, "float was written"},
		{"boolean is promotable to nothing", `"boolean"`, `"int"`, true, nil, "boolean was written"},
		{"same primitive: int", `"int"`, `"int"`, math.MinInt32, int64(math.MinInt32), ""},
		{"same primitive: long", `"long"`, `"long"`, int64(math.MinInt64), int64(math.MinInt64), ""},
		{"same primitive: null", `"null"`, `"null"`, nil, nil, ""},

		{"ordering of fields may be different", rec(`{"name":"a","type":"int"},{"name":"b","type":"string"}`), rec(`{"name":"b","type":"string"},{"name":"a","type":"int"}`),
			map[string]any{"a": 1, "b": "x"}, map[string]any{"a": int64(1), "b": "x"}, ""},
		{"a writer's field that the reader lacks is ignored", rec(`{"name":"a","type":"int"},{"name":"b","type":"string"}`), rec(`{"name":"a","type":"int"}`),
			map[string]any{"a": 1, "b": "x"}, map[string]any{"a": int64(1)}, ""},
		{"a reader's field that the writer lacks takes its default", rec(`{"name":"a","type":"long"}`), rec(`{"name":"a","type":"long"},{"name":"b","type":["null","string"],"default":null},{"name":"c","type":{"type":"array","items":"int"},"default":[1,2]}`),
			map[string]any{"a": 1}, map[string]any{"a": int64(1), "b": nil, "c": []any{int64(1), int64(2)}}, ""},
		{"without a default an error is signalled", rec(`{"name":"a","type":"int"}`), rec(`{"name":"a","type":"int"},{"name":"b","type":"int"}`),
			map[string]any{"a": 1}, nil, "b: the writer has no such field"},
		{"records match by unqualified name", `{"type":"record","name":"x.R","fields":[]}`, `{"type":"record","name":"y.R","fields":[]}`, map[string]any{}, map[string]any{}, ""},
		{"records of another name do not match", `{"type":"record","name":"Q","fields":[]}`, rec(""), map[string]any{}, nil, "record Q was written"},
		{"aliases: the reader's record has the writer's name as alias", `{"type":"record","name":"n.Q","fields":[]}`, `{"type":"record","name":"n.R","aliases":["Q"],"fields":[]}`, map[string]any{}, map[string]any{}, ""},
		{"aliases: the reader's field has the writer's name as alias", rec(`{"name":"old","type":"int"},{"name":"k","type":"long"}`), rec(`{"name":"new","type":"long","aliases":["older","old"]},{"name":"k","type":"long"}`),
			map[string]any{"old": 3, "k": 4}, map[string]any{"new": int64(3), "k": int64(4)}, ""},
		{"aliases: a name goes before an alias", rec(`{"name":"a","type":"long"},{"name":"b","type":"long"}`), rec(`{"name":"b","type":"long","aliases":["a"]},{"name":"a","type":"long","aliases":["b"]}`),
			map[string]any{"a": 1, "b": 2}, map[string]any{"a": int64(1), "b": int64(2)}, ""},
		{"aliases: a field that the reader has by name is no other's alias", rec(`{"name":"a","type":"long"}`), rec(`{"name":"x","type":"long","aliases":["a"],"default":9},{"name":"a","type":"long"}`),
			map[string]any{"a": 1}, map[string]any{"x": int64(9), "a": int64(1)}, ""},
		{"aliases: no two fields take one", rec(`{"name":"a","type":"long"}`), rec(`{"name":"x","type":"long","aliases":["a"]},{"name":"y","type":"long","aliases":["a"],"default":9}`),
			map[string]any{"a": 1}, map[string]any{"x": int64(1), "y": int64(9)}, ""},

		{"enum: symbols by name, not number", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["B","A"]}`, "B", "B", ""},
		{"enum: an unknown symbol reads as the reader's default", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["A"],"default":"A"}`, "B", "A", ""},
		{"enum: without default an error is signalled", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["A"]}`, "B", nil, "neither the symbol B"},
		{"enum: the writer's default plays no part", `{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}`, `{"type":"enum","name":"E","symbols":["A"]}`, "B", nil, "neither the symbol B"},
		{"enum: a symbol that is known reads as itself", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["A"]}`, "A", "A", "neither the symbol B"},
		{"enum: names match", `{"type":"enum","name":"E","symbols":["A"]}`, `{"type":"enum","name":"F","symbols":["A"]}`, "A", nil, "enum E was written"},
		{"enum: an alias renames", `{"type":"enum","name":"E","symbols":["A"]}`, `{"type":"enum","name":"F","aliases":["E"],"symbols":["A"]}`, "A", "A", ""},

		{"array: resolution applies to items", `{"type":"array","items":"int"}`, `{"type":"array","items":"long"}`, []any{1, 2}, []any{int64(1), int64(2)}, ""},
		{"array: items must match", `{"type":"array","items":"int"}`, `{"type":"array","items":"string"}`, []any{1}, nil, "[]: int was written"},
		{"map: resolution applies to values", `{"type":"map","values":"int"}`, `{"type":"map","values":"double"}`, map[string]any{"k": 1}, map[string]any{"k": 1.0}, ""},
		{"map: is no record", `{"type":"map","values":"int"}`, rec(""), map[string]any{}, nil, "map of int was written"},
		{"fixed: sizes and names match", `{"type":"fixed","name":"F","size":2}`, `{"type":"fixed","name":"F","size":2}`, []byte("ab"), []byte("ab"), ""},
		{"fixed: sizes differ", `{"type":"fixed","name":"F","size":2}`, `{"type":"fixed","name":"F","size":3}`, []byte("ab"), nil, "2 bytes"},
		{"fixed: names differ", `{"type":"fixed","name":"F","size":2}`, `{"type":"fixed","name":"G","size":2}`, []byte("ab"), nil, "fixed F was written"},

		{"both unions: the type that was written is resolved against the reader's union", `["null","string"]`, `["string","null"]`, goavro.Union("string", "x"), "x", ""},
		{"both unions: null", `["null","string"]`, `["string","null"]`, nil, nil, ""},
		{"both unions: a promotion where no type is the same", `["null","int"]`, `["null","string","long"]`, goavro.Union("int", 4), int64(4), ""},
		{"both unions: the same type goes before a promotion, as in the reference implementation", `["null","long"]`, `["double","long","null"]`, goavro.Union("long", int64(1<<60+1)), int64(1<<60 + 1), ""},
		{"both unions: none matches the type that was written", `["string","int"]`, `["string","null"]`, goavro.Union("int", 1), nil, "no place for it"},
		{"both unions: others still read", `["string","int"]`, `["string","null"]`, goavro.Union("string", "s"), "s", "no place for it"},
		{"reader's is a union, writer's is not: first match", `"int"`, `["null","long","double"]`, 4, int64(4), ""},
		{"reader's is a union, writer's is not: none matches", `"boolean"`, `["null","long"]`, true, nil, "no place for it"},
		{"writer's is a union, reader's is not: the type that was written matches", `["null","int"]`, `"long"`, goavro.Union("int", 4), int64(4), "null was written"},
		{"writer's is a union, reader's is not: it does not", `["null","int"]`, `"long"`, nil, nil, "null was written"},
		{"unions of records: by name", `["null",{"type":"record","name":"A","fields":[]},{"type":"record","name":"B","fields":[{"name":"x","type":"int"}]}]`,
			`[{"type":"record","name":"B","fields":[{"name":"x","type":"long"}]},"null",{"type":"record","name":"A","fields":[]}]`,
			goavro.Union("t1", map[string]any{"x": 1}), map[string]any{"x": int64(1)}, ""},
		{"unions of arrays and maps", `["null",{"type":"array","items":"int"},{"type":"map","values":"int"}]`, `[{"type":"map","values":"long"},{"type":"array","items":"long"},"null"]`,
			goavro.Union("array", []any{1}), []any{int64(1)}, ""},

		{"logical: date", `{"type":"int","logicalType":"date"}`, `{"type":"int","logicalType":"date"}`, int32(-1), "1969-12-31", ""},
		{"logical: timestamp-millis before 1970 is exact", `"long"`, `{"type":"long","logicalType":"timestamp-millis"}`, int64(-1), time.Unix(0, -1e6).UTC(), ""},
		{"logical: timestamp-micros", `{"type":"long","logicalType":"timestamp-micros"}`, `{"type":"long","logicalType":"timestamp-micros"}`, int64(1_000_001), time.Unix(1, 1000).UTC(), ""},
		{"logical: timestamp-nanos", `"long"`, `{"type":"long","logicalType":"timestamp-nanos"}`, int64(1), time.Unix(0, 1).UTC(), ""},
		{"logical: the reader's none reads the number", `{"type":"long","logicalType":"timestamp-millis"}`, `"long"`, int64(5), int64(5), ""},
		{"ours: another unit is no match", `{"type":"long","logicalType":"timestamp-millis"}`, `{"type":"long","logicalType":"timestamp-micros"}`, int64(5), nil, "would mean something else"},
		{"ours: nor through a promotion", `{"type":"int","logicalType":"date"}`, `{"type":"long","logicalType":"timestamp-millis"}`, 5, nil, "would mean something else"},
		{"logical: decimal", `{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, `{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, []byte{0xff, 0x85}, "-1.23", ""},
		{"logical: decimal of scale 0", `"bytes"`, `{"type":"bytes","logicalType":"decimal","precision":5}`, []byte{0x7b}, "123", ""},
		{"logical: decimal, leading zeros", `"bytes"`, `{"type":"bytes","logicalType":"decimal","precision":5,"scale":3}`, []byte{0, 0, 5}, "0.005", ""},
		{"decimals match if precision and scale do", `{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, `{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}`, []byte{1}, nil, "decimal(5,2) was written"},
	} {
		t.Run(c.rule, func(t *testing.T) {
			t.Parallel()
			w, rd := mustParse(t, c.writer), mustParse(t, c.reader)
			problems := Compatible(w, rd)
			switch {
			case c.bad == "" && len(problems) > 0:
				t.Fatalf("Compatible = %v, want none", problems)
			case c.bad != "" && !slices.ContainsFunc(problems, func(i Incompatibility) bool { return strings.Contains(i.String(), c.bad) }):
				t.Fatalf("Compatible = %v, want one with %q", problems, c.bad)
			}
			text, names := w.codecText()
			codec, err := newCodec(string(text))
			if err != nil {
				t.Fatal(err)
			}
			raw, err := codec.BinaryFromNative(nil, c.native)
			if err != nil {
				t.Fatal(err)
			}
			if f := sound(w, raw, 100); f != nil {
				t.Fatalf("sound bytes have a flaw: %v", f)
			}
			native, _, err := codec.NativeFromBinary(raw)
			if err != nil {
				t.Fatal(err)
			}
			r := &resolver{names: names, memo: map[pair]*lazy{}}
			got, f := apply(r.resolve(w, rd, "", 0), native)
			fails := c.bad != "" && c.want == nil
			if f != nil && !fails || f == nil && fails && !onlyCertain(problems) {
				t.Fatalf("flaw %v, want failure %v", f, fails)
			}
			if !fails && !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %#v, want %#v", got, c.want)
			}
		})
	}
}

// onlyCertain: a pair with a certain problem has no plan, so its step is never asked.
func onlyCertain(ps []Incompatibility) bool {
	return slices.ContainsFunc(ps, func(i Incompatibility) bool { return i.Certain })
}

func TestResolutionOfRecursiveSchemas(t *testing.T) {
	t.Parallel()
	w := mustParse(t, `{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]}]}`)
	rd := mustParse(t, `{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]},{"name":"v","type":"long"},{"name":"w","type":"string","default":"d"}]}`)
	if ps := Compatible(w, rd); ps != nil {
		t.Fatal(ps)
	}
	raw := []byte{2, 2, 4, 2, 6, 0} // 1, 2, 3
	p := compile(&Schema{Subject: "s", Type: w}, &Schema{Subject: "s", Type: rd})
	got, f := p.decode(raw, 100)
	if f != nil {
		t.Fatal(f)
	}
	b, _ := json.Marshal(got)
	if want := `{"next":{"next":{"next":null,"v":3,"w":"d"},"v":2,"w":"d"},"v":1,"w":"d"}`; string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
	same := compile(&Schema{Type: w}, &Schema{Type: w})
	if _, f := same.decode(raw, 100); f != nil {
		t.Errorf("the same recursive schema: %v", f)
	}
}

// A default that is a list or map is made anew: an event's owner may change it.
func TestDefaultsAreNotShared(t *testing.T) {
	t.Parallel()
	w := mustParse(t, `{"type":"record","name":"R","fields":[]}`)
	rd := mustParse(t, `{"type":"record","name":"R","fields":[{"name":"m","type":{"type":"map","values":"int"},"default":{"a":1}}]}`)
	p := compile(&Schema{Type: w}, &Schema{Type: rd})
	one, f1 := p.decode(nil, 10)
	two, f2 := p.decode(nil, 10)
	if f1 != nil || f2 != nil {
		t.Fatal(f1, f2)
	}
	one["m"].(map[string]any)["a"] = int64(2)
	if got := two["m"].(map[string]any)["a"]; got != int64(1) {
		t.Errorf("the second event's default became %v", got)
	}
}

func TestValuesOutOfRangeAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reader string
		native any
		want   string
	}{
		{`{"type":"long","logicalType":"timestamp-millis"}`, int64(math.MaxInt64), "outside the years"},
		{`{"type":"long","logicalType":"timestamp-millis"}`, int64(-62135596800001), "outside the years"},
		{`{"type":"int","logicalType":"date"}`, int32(math.MaxInt32), "outside the years"},
		{`{"type":"bytes","logicalType":"decimal","precision":2}`, []byte{100}, "more digits"},
		{`{"type":"bytes","logicalType":"decimal","precision":2}`, make([]byte, 0), "no bytes"},
		{`{"type":"bytes","logicalType":"decimal","precision":2}`, append([]byte{1}, make([]byte, 1<<20)...), "more digits"},
	} {
		rd := mustParse(t, c.reader)
		plain := mustParse(t, `"`+string(rd.Kind)+`"`)
		r := &resolver{memo: map[pair]*lazy{}}
		if _, f := apply(r.resolve(plain, rd, "", 0), c.native); f == nil || !strings.Contains(f.reason, c.want) {
			t.Errorf("%s: flaw %v, want one with %q", c.reader, f, c.want)
		}
	}
}

func TestDecimalTextAndBytesAreInverse(t *testing.T) {
	t.Parallel()
	for _, fixed := range []bool{false, true} {
		typ := &Type{Kind: Bytes, LogicalType: Decimal, Precision: 30, Scale: 4}
		if fixed {
			typ.Kind, typ.Size = Fixed, 16
		}
		for _, s := range []string{"0.0000", "0.0001", "-0.0001", "12.8000", "-0.0128", "-0.0129", "99999999999999999999999999.9999", "-99999999999999999999999999.9999", "-3.2768"} {
			raw, what := decimalBytes(typ, s)
			if what != "" {
				t.Fatalf("decimalBytes(%s): want %s", s, what)
			}
			got, f := decimalText(raw, typ)
			if f != nil || got != s {
				t.Errorf("%s: got %v (%v) from %x", s, got, f, raw)
			}
			r, _ := new(big.Rat).SetString(s)
			codec, err := goavro.NewCodec(`{"type":"bytes","logicalType":"decimal","precision":30,"scale":4}`)
			if err != nil {
				t.Fatal(err)
			}
			if !fixed {
				want, err := codec.BinaryFromNative(nil, r)
				if err != nil || fmt.Sprintf("%x", want[1:]) != fmt.Sprintf("%x", raw) {
					t.Errorf("%s: %x, goavro writes %x (%v)", s, raw, want[1:], err)
				}
			}
		}
		for _, s := range []string{"", "-", "1.", ".1", "1e3", "+1", "1.00001", "123456789012345678901234567", "0x1", "1 "} {
			if _, what := decimalBytes(typ, s); what == "" {
				t.Errorf("decimalBytes(%q) is accepted", s)
			}
		}
	}
}
