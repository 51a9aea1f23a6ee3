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

// resolutionRules are the rules of the Avro specification 1.12, "Schema Resolution", in its order and in short (1.11 says
// the same; 1.12 allows a union's default to be of any of its types), then those of "Aliases", of "Default values" of
// fields and of "Logical Types" that bear on it, and last our own, which are stricter.
var resolutionRules = []struct {
	id, text string
	refuses  bool // there is something that it refuses
}{
	{"arrays", "both schemas are arrays whose item types match; resolution is applied to the items", true},
	{"maps", "both schemas are maps whose value types match; resolution is applied to the values", true},
	{"enum name", "both schemas are enums whose (unqualified) names match", true},
	{"fixed", "both schemas are fixed whose sizes and (unqualified) names match", true},
	{"record name", "both schemas are records with the same (unqualified) name", true},
	{"primitives", "both schemas have the same primitive type", true},
	{"promote int", "int is promotable to long, float, or double", true},
	{"promote long", "long is promotable to float or double", true},
	{"promote float", "float is promotable to double", true},
	{"promote string", "string is promotable to bytes", true},
	{"promote bytes", "bytes is promotable to string", true},
	{"promote none", "nothing else is promotable", true},
	{"record order", "the ordering of fields may be different: fields are matched by name", false},
	{"record fields", "schemas for fields with the same name in both records are resolved recursively", true},
	{"record extra", "a field of the writer's record that the reader's lacks is ignored", false},
	{"record default", "a field of the reader's record that the writer's lacks takes the reader's default", false},
	{"record missing", "without a default an error is signalled", true},
	{"enum symbols", "an enum's symbol that both have is read as itself", false},
	{"enum default", "a symbol that the reader lacks is read as the reader's default, without one an error is signalled", true},
	{"unions both", "both are unions: the first schema in the reader's union that matches the selected writer's schema is resolved against it; if none matches an error is signalled", true},
	{"union reader", "reader's is a union, writer's is not: the first schema in the reader's union that matches the writer's schema is resolved against it; if none matches an error is signalled", true},
	{"union writer", "writer's is a union, reader's is not: if the reader's schema matches the selected writer's schema it is resolved against it; if not an error is signalled", true},
	{"doc", "a schema's doc fields are ignored for the purposes of schema resolution", false},
	{"alias type", "Aliases: named types may have aliases; the writer's schema is rewritten with the reader's", true},
	{"alias field", "Aliases: fields may have aliases", true},
	{"named", "Names: a named type is used by its name, also inside itself", true},
	{"default forms", "a default has the JSON form of its type; a union's default is of its first type, since 1.12 of any of its types", true},
	{"logical", "Logical Types: a logical type that is not known or not valid is ignored; a decimal matches one of the same precision and scale", true},
	{"ours", "ours: what has a logical type is read exactly or not at all", true},
}

// Each case holds us to one rule of resolutionRules.
func TestResolution(t *testing.T) {
	t.Parallel()
	rec := func(fields string) string { return `{"type":"record","name":"R","fields":[` + fields + `]}` }
	read := func(typ, def string) string {
		return rec(`{"name":"a","type":"long"},{"name":"d","type":` + typ + `,"default":` + def + `}`)
	}
	wrote := map[string]any{"a": 1}
	defaulted := func(v any) map[string]any { return map[string]any{"a": int64(1), "d": v} }
	list := `{"type":"record","name":"L","fields":[{"name":"v","type":"int"},{"name":"next","type":["null","L"]}]}`
	accepted, refused := map[string]bool{}, map[string]bool{}
	for _, c := range []struct {
		rule, name     string
		writer, reader string
		native         any // what was written, in goavro's form
		want           any
		bad            string // part of the incompatibility; the value then fails unless want is set
	}{
		{"promote int", "int is promotable to long", `"int"`, `"long"`, 5, int64(5), ""},
		{"promote int", "int is promotable to float", `"int"`, `"float"`, 5, 5.0, ""},
		{"promote int", "int is promotable to double", `"int"`, `"double"`, math.MaxInt32, float64(math.MaxInt32), ""},
		{"promote long", "long is promotable to float", `"long"`, `"float"`, int64(7), 7.0, ""},
		{"promote long", "long is promotable to double", `"long"`, `"double"`, int64(7), 7.0, ""},
		{"promote long", "long is not promotable to int", `"long"`, `"int"`, int64(1), nil, "long was written, int is read"},
		{"promote float", "float is promotable to double", `"float"`, `"double"`, float32(1.5), 1.5, ""},
		{"promote float", "float is not promotable to long", `"float"`, `"long"`, float32(1), nil, "float was written"},
		{"promote string", "string is promotable to bytes", `"string"`, `"bytes"`, "é", []byte("é"), ""},
		{"promote bytes", "bytes is promotable to string", `"bytes"`, `"string"`, []byte("é"), "é", ""},
		{"promote none", "double is not promotable to float", `"double"`, `"float"`, 1.0, nil, "double was written"},
		{"promote none", "boolean is promotable to nothing", `"boolean"`, `"int"`, true, nil, "boolean was written"},
		{"primitives", "same primitive: int", `"int"`, `"int"`, math.MinInt32, int64(math.MinInt32), ""},
		{"primitives", "same primitive: long", `"long"`, `"long"`, int64(math.MinInt64), int64(math.MinInt64), ""},
		{"primitives", "same primitive: null", `"null"`, `"null"`, nil, nil, ""},
		{"record order", "ordering of fields may be different", rec(`{"name":"a","type":"int"},{"name":"b","type":"string"}`), rec(`{"name":"b","type":"string"},{"name":"a","type":"int"}`),
			map[string]any{"a": 1, "b": "x"}, map[string]any{"a": int64(1), "b": "x"}, ""},
		{"record extra", "a writer's field that the reader lacks is ignored", rec(`{"name":"a","type":"int"},{"name":"b","type":"string"}`), rec(`{"name":"a","type":"int"}`),
			map[string]any{"a": 1, "b": "x"}, map[string]any{"a": int64(1)}, ""},
		{"record default", "a reader's field that the writer lacks takes its default", rec(`{"name":"a","type":"long"}`), rec(`{"name":"a","type":"long"},{"name":"b","type":["null","string"],"default":null},{"name":"c","type":{"type":"array","items":"int"},"default":[1,2]}`),
			map[string]any{"a": 1}, map[string]any{"a": int64(1), "b": nil, "c": []any{int64(1), int64(2)}}, ""},
		{"record missing", "without a default an error is signalled", rec(`{"name":"a","type":"int"}`), rec(`{"name":"a","type":"int"},{"name":"b","type":"int"}`),
			map[string]any{"a": 1}, nil, "b: the writer has no such field"},
		{"record name", "records match by unqualified name", `{"type":"record","name":"x.R","fields":[]}`, `{"type":"record","name":"y.R","fields":[]}`, map[string]any{}, map[string]any{}, ""},
		{"record name", "records of another name do not match", `{"type":"record","name":"Q","fields":[]}`, rec(""), map[string]any{}, nil, "record Q was written"},
		{"alias type", "aliases: the reader's record has the writer's name as alias", `{"type":"record","name":"n.Q","fields":[]}`, `{"type":"record","name":"n.R","aliases":["Q"],"fields":[]}`, map[string]any{}, map[string]any{}, ""},
		{"alias type", "enum: an alias renames", `{"type":"enum","name":"E","symbols":["A"]}`, `{"type":"enum","name":"F","aliases":["E"],"symbols":["A"]}`, "A", "A", ""},
		{"alias field", "aliases: the reader's field has the writer's name as alias", rec(`{"name":"old","type":"int"},{"name":"k","type":"long"}`), rec(`{"name":"new","type":"long","aliases":["older","old"]},{"name":"k","type":"long"}`),
			map[string]any{"old": 3, "k": 4}, map[string]any{"new": int64(3), "k": int64(4)}, ""},
		{"alias field", "aliases: a name goes before an alias", rec(`{"name":"a","type":"long"},{"name":"b","type":"long"}`), rec(`{"name":"b","type":"long","aliases":["a"]},{"name":"a","type":"long","aliases":["b"]}`),
			map[string]any{"a": 1, "b": 2}, map[string]any{"a": int64(1), "b": int64(2)}, ""},
		{"alias field", "aliases: a field that the reader has by name is no other's alias", rec(`{"name":"a","type":"long"}`), rec(`{"name":"x","type":"long","aliases":["a"],"default":9},{"name":"a","type":"long"}`),
			map[string]any{"a": 1}, map[string]any{"x": int64(9), "a": int64(1)}, ""},
		{"alias field", "aliases: no two fields take one", rec(`{"name":"a","type":"long"}`), rec(`{"name":"x","type":"long","aliases":["a"]},{"name":"y","type":"long","aliases":["a"],"default":9}`),
			map[string]any{"a": 1}, map[string]any{"x": int64(1), "y": int64(9)}, ""},
		{"enum symbols", "enum: symbols by name, not number", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["B","A"]}`, "B", "B", ""},
		{"enum symbols", "enum: a symbol that is known reads as itself", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["A"]}`, "A", "A", "neither the symbol B"},
		{"enum default", "enum: an unknown symbol reads as the reader's default", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["A"],"default":"A"}`, "B", "A", ""},
		{"enum default", "enum: without default an error is signalled", `{"type":"enum","name":"E","symbols":["A","B"]}`, `{"type":"enum","name":"E","symbols":["A"]}`, "B", nil, "neither the symbol B"},
		{"enum default", "enum: the writer's default plays no part", `{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}`, `{"type":"enum","name":"E","symbols":["A"]}`, "B", nil, "neither the symbol B"},
		{"enum name", "enum: names match", `{"type":"enum","name":"E","symbols":["A"]}`, `{"type":"enum","name":"F","symbols":["A"]}`, "A", nil, "enum E was written"},
		{"arrays", "array: resolution applies to items", `{"type":"array","items":"int"}`, `{"type":"array","items":"long"}`, []any{1, 2}, []any{int64(1), int64(2)}, ""},
		{"arrays", "array: items must match", `{"type":"array","items":"int"}`, `{"type":"array","items":"string"}`, []any{1}, nil, "[]: int was written"},
		{"maps", "map: resolution applies to values", `{"type":"map","values":"int"}`, `{"type":"map","values":"double"}`, map[string]any{"k": 1}, map[string]any{"k": 1.0}, ""},
		{"maps", "map: is no record", `{"type":"map","values":"int"}`, rec(""), map[string]any{}, nil, "map of int was written"},
		{"fixed", "fixed: sizes and names match", `{"type":"fixed","name":"F","size":2}`, `{"type":"fixed","name":"F","size":2}`, []byte("ab"), []byte("ab"), ""},
		{"fixed", "fixed: sizes differ", `{"type":"fixed","name":"F","size":2}`, `{"type":"fixed","name":"F","size":3}`, []byte("ab"), nil, "2 bytes"},
		{"fixed", "fixed: names differ", `{"type":"fixed","name":"F","size":2}`, `{"type":"fixed","name":"G","size":2}`, []byte("ab"), nil, "fixed F was written"},
		{"unions both", "both unions: the type that was written is resolved against the reader's union", `["null","string"]`, `["string","null"]`, goavro.Union("string", "x"), "x", ""},
		{"unions both", "both unions: null", `["null","string"]`, `["string","null"]`, nil, nil, ""},
		{"unions both", "both unions: a promotion where no type is the same", `["null","int"]`, `["null","string","long"]`, goavro.Union("int", 4), int64(4), ""},
		{"unions both", "both unions: the same type goes before a promotion, as in the reference implementation", `["null","long"]`, `["double","long","null"]`, goavro.Union("long", int64(1<<60+1)), int64(1<<60 + 1), ""},
		{"unions both", "both unions: none matches the type that was written", `["string","int"]`, `["string","null"]`, goavro.Union("int", 1), nil, "no place for it"},
		{"unions both", "both unions: others still read", `["string","int"]`, `["string","null"]`, goavro.Union("string", "s"), "s", "no place for it"},
		{"unions both", "unions of records: by name", `["null",{"type":"record","name":"A","fields":[]},{"type":"record","name":"B","fields":[{"name":"x","type":"int"}]}]`,
			`[{"type":"record","name":"B","fields":[{"name":"x","type":"long"}]},"null",{"type":"record","name":"A","fields":[]}]`,
			goavro.Union("t1", map[string]any{"x": 1}), map[string]any{"x": int64(1)}, ""},
		{"unions both", "unions of arrays and maps", `["null",{"type":"array","items":"int"},{"type":"map","values":"int"}]`, `[{"type":"map","values":"long"},{"type":"array","items":"long"},"null"]`,
			goavro.Union("array", []any{1}), []any{int64(1)}, ""},
		{"union reader", "reader's is a union, writer's is not: first match", `"int"`, `["null","long","double"]`, 4, int64(4), ""},
		{"union reader", "reader's is a union, writer's is not: none matches", `"boolean"`, `["null","long"]`, true, nil, "no place for it"},
		{"union writer", "writer's is a union, reader's is not: the type that was written matches", `["null","int"]`, `"long"`, goavro.Union("int", 4), int64(4), "null was written"},
		{"union writer", "writer's is a union, reader's is not: it does not", `["null","int"]`, `"long"`, nil, nil, "null was written"},
		{"logical", "logical: date", `{"type":"int","logicalType":"date"}`, `{"type":"int","logicalType":"date"}`, int32(-1), "1969-12-31", ""},
		{"logical", "logical: timestamp-millis before 1970 is exact", `"long"`, `{"type":"long","logicalType":"timestamp-millis"}`, int64(-1), time.Unix(0, -1e6).UTC(), ""},
		{"logical", "logical: timestamp-micros", `{"type":"long","logicalType":"timestamp-micros"}`, `{"type":"long","logicalType":"timestamp-micros"}`, int64(1_000_001), time.Unix(1, 1000).UTC(), ""},
		{"logical", "logical: timestamp-nanos", `"long"`, `{"type":"long","logicalType":"timestamp-nanos"}`, int64(1), time.Unix(0, 1).UTC(), ""},
		{"logical", "logical: the reader's none reads the number", `{"type":"long","logicalType":"timestamp-millis"}`, `"long"`, int64(5), int64(5), ""},
		{"ours", "another unit is no match", `{"type":"long","logicalType":"timestamp-millis"}`, `{"type":"long","logicalType":"timestamp-micros"}`, int64(5), nil, "would mean something else"},
		{"ours", "nor through a promotion", `{"type":"int","logicalType":"date"}`, `{"type":"long","logicalType":"timestamp-millis"}`, 5, nil, "would mean something else"},
		{"logical", "logical: decimal", `{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, `{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, []byte{0xff, 0x85}, "-1.23", ""},
		{"logical", "logical: decimal of scale 0", `"bytes"`, `{"type":"bytes","logicalType":"decimal","precision":5}`, []byte{0x7b}, "123", ""},
		{"logical", "logical: decimal, leading zeros", `"bytes"`, `{"type":"bytes","logicalType":"decimal","precision":5,"scale":3}`, []byte{0, 0, 5}, "0.005", ""},
		{"logical", "decimals match if precision and scale do", `{"type":"bytes","logicalType":"decimal","precision":5,"scale":2}`, `{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}`, []byte{1}, nil, "decimal(5,2) was written"},
		{"promote int", "not to a string", `"int"`, `"string"`, 5, nil, "int was written, string is read"},
		{"promote string", "not to a long", `"string"`, `"long"`, "5", nil, "string was written, long is read"},
		{"promote bytes", "not to a long", `"bytes"`, `"long"`, []byte{5}, nil, "bytes was written, long is read"},
		{"promote none", "a boolean is a boolean", `"boolean"`, `"boolean"`, true, true, ""},
		{"primitives", "null is no int", `"null"`, `"int"`, nil, nil, "null was written, int is read"},
		{"primitives", "string", `"string"`, `"string"`, "x", "x", ""},
		{"primitives", "double", `"double"`, `"double"`, 0.1, 0.1, ""},
		{"primitives", "bytes", `"bytes"`, `"bytes"`, []byte{0xff}, []byte{0xff}, ""},
		{"maps", "values must match", `{"type":"map","values":"int"}`, `{"type":"map","values":"string"}`, map[string]any{"k": 1}, nil, "{}: int was written"},
		{"arrays", "is no map", `{"type":"array","items":"int"}`, `{"type":"map","values":"int"}`, []any{1}, nil, "array of int was written"},
		{"enum name", "unqualified", `{"type":"enum","name":"x.E","symbols":["A"]}`, `{"type":"enum","name":"y.E","symbols":["A"]}`, "A", "A", ""},
		{"fixed", "unqualified name", `{"type":"fixed","name":"x.F","size":1}`, `{"type":"fixed","name":"y.F","size":1}`, []byte("a"), []byte("a"), ""},
		{"fixed", "is not bytes", `{"type":"fixed","name":"F","size":1}`, `"bytes"`, []byte("a"), nil, "fixed F was written, bytes is read"},
		{"record fields", "recursively", rec(`{"name":"in","type":{"type":"record","name":"I","fields":[{"name":"x","type":"int"},{"name":"y","type":"int"}]}}`),
			rec(`{"name":"in","type":{"type":"record","name":"I","fields":[{"name":"x","type":"double"},{"name":"z","type":"string","default":"d"}]}}`),
			map[string]any{"in": map[string]any{"x": 1, "y": 2}}, map[string]any{"in": map[string]any{"x": 1.0, "z": "d"}}, ""},
		{"record fields", "a field of another type", rec(`{"name":"a","type":"string"}`), rec(`{"name":"a","type":"long"}`), map[string]any{"a": "x"}, nil, "a: string was written"},
		{"record missing", "in a record of a union", `["null",` + rec(`{"name":"a","type":"int"}`) + `]`, `["null",` + rec(`{"name":"a","type":"int"},{"name":"b","type":"int"}`) + `]`,
			goavro.Union("t0", map[string]any{"a": 1}), nil, "b: the writer has no such field"},
		{"record missing", "in a record of a union: the other types still read", `["int",` + rec(`{"name":"a","type":"int"}`) + `]`, `["int",` + rec(`{"name":"a","type":"int"},{"name":"b","type":"int"}`) + `]`,
			goavro.Union("int", 7), int64(7), "b: the writer has no such field"},
		{"record missing", "in the items of an array of a union", `["null",{"type":"array","items":` + rec("") + `}]`, `["null",{"type":"array","items":` + rec(`{"name":"b","type":"int"}`) + `}]`,
			goavro.Union("array", []any{map[string]any{}}), nil, "[].b: the writer has no such field"},
		{"record missing", "with a default there is none", rec(""), rec(`{"name":"b","type":"int","default":3}`), map[string]any{}, map[string]any{"b": int64(3)}, ""},
		{"unions both", "an enum's symbol and default within", `["null",{"type":"enum","name":"E","symbols":["A","B"]}]`, `["null",{"type":"enum","name":"E","symbols":["A"],"default":"A"}]`,
			goavro.Union("t0", "B"), "A", ""},
		{"unions both", "the first type that the value is promotable to", `["null","int"]`, `["null","float","double"]`, goavro.Union("int", 3), 3.0, ""},
		{"union reader", "the first of several promotions", `"string"`, `["null","bytes"]`, "x", []byte("x"), ""},
		{"union writer", "all of its types match", `["int","long"]`, `"long"`, goavro.Union("int", 4), int64(4), ""},
		{"union writer", "records", `["null",` + rec(`{"name":"a","type":"int"}`) + `]`, rec(`{"name":"a","type":"long"}`), goavro.Union("t0", map[string]any{"a": 1}), map[string]any{"a": int64(1)}, "null was written"},
		{"doc", "of record and field", `{"type":"record","name":"R","doc":"one","fields":[{"name":"a","type":"long","doc":"x"}]}`, `{"type":"record","name":"R","doc":"two","fields":[{"name":"a","type":"long"}]}`,
			map[string]any{"a": 1}, map[string]any{"a": int64(1)}, ""},
		{"alias type", "fixed", `{"type":"fixed","name":"F","size":1}`, `{"type":"fixed","name":"G","aliases":["F"],"size":1}`, []byte("a"), []byte("a"), ""},
		{"alias type", "in another namespace, by its full name", `{"type":"record","name":"x.Q","fields":[]}`, `{"type":"record","name":"y.R","aliases":["x.Q"],"fields":[]}`, map[string]any{}, map[string]any{}, ""},
		{"alias type", "is relative to the reader's namespace", `{"type":"record","name":"x.Q","fields":[]}`, `{"type":"record","name":"y.R","aliases":["Q"],"fields":[]}`, map[string]any{}, nil, "record x.Q was written"},
		{"alias type", "the writer's aliases play no part", `{"type":"record","name":"Q","aliases":["R"],"fields":[]}`, rec(""), map[string]any{}, nil, "record Q was written"},
		{"alias field", "the writer's aliases play no part", rec(`{"name":"old","aliases":["new"],"type":"int"}`), rec(`{"name":"new","type":"int"}`), map[string]any{"old": 1}, nil, "new: the writer has no such field"},
		{"alias field", "with a promotion, in a nested record", `{"type":"array","items":` + rec(`{"name":"unit","type":"int"}`) + `}`, `{"type":"array","items":` + rec(`{"name":"price","aliases":["unit"],"type":"long"}`) + `}`,
			[]any{map[string]any{"unit": 5}}, []any{map[string]any{"price": int64(5)}}, ""},
		{"named", "a type is used twice", rec(`{"name":"a","type":{"type":"fixed","name":"F","size":1}},{"name":"b","type":"F"}`), rec(`{"name":"b","type":{"type":"fixed","name":"F","size":1}},{"name":"a","type":"F"}`),
			map[string]any{"a": []byte("a"), "b": []byte("b")}, map[string]any{"a": []byte("a"), "b": []byte("b")}, ""},
		{"named", "inside itself", list, strings.Replace(list, `"int"`, `"long"`, 1), map[string]any{"v": 1, "next": goavro.Union("t0", map[string]any{"v": 2, "next": nil})},
			map[string]any{"v": int64(1), "next": map[string]any{"v": int64(2), "next": nil}}, ""},
		{"named", "inside itself, with a field that nothing gives", list, strings.Replace(list, `"fields":[`, `"fields":[{"name":"w","type":"int"},`, 1),
			map[string]any{"v": 1, "next": nil}, nil, "w: the writer has no such field"},
		{"default forms", "a union's first type", rec(`{"name":"a","type":"long"}`), read(`["string","null"]`, `"x"`), wrote, defaulted("x"), ""},
		{"default forms", "null first", rec(`{"name":"a","type":"long"}`), read(`["null","string"]`, `null`), wrote, defaulted(nil), ""},
		{"default forms", "any type of a union (1.12)", rec(`{"name":"a","type":"long"}`), read(`["null","string"]`, `"x"`), wrote, defaulted("x"), ""},
		{"default forms", "no type of a union", rec(`{"name":"a","type":"long"}`), read(`["null","string"]`, `3`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "boolean", rec(`{"name":"a","type":"long"}`), read(`"boolean"`, `true`), wrote, defaulted(true), ""},
		{"default forms", "int", rec(`{"name":"a","type":"long"}`), read(`"int"`, `-3`), wrote, defaulted(int64(-3)), ""},
		{"default forms", "int of 33 bits", rec(`{"name":"a","type":"long"}`), read(`"int"`, `2147483648`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "long beyond 2^53", rec(`{"name":"a","type":"long"}`), read(`"long"`, `9007199254740993`), wrote, defaulted(int64(9007199254740993)), ""},
		{"default forms", "long with a fraction", rec(`{"name":"a","type":"long"}`), read(`"long"`, `1.5`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "float as a value reads", rec(`{"name":"a","type":"long"}`), read(`"float"`, `0.1`), wrote, defaulted(float64(float32(0.1))), ""},
		{"default forms", "float beyond its range", rec(`{"name":"a","type":"long"}`), read(`"float"`, `1e300`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "double", rec(`{"name":"a","type":"long"}`), read(`"double"`, `0.1`), wrote, defaulted(0.1), ""},
		{"default forms", "bytes: code points are bytes", rec(`{"name":"a","type":"long"}`), read(`"bytes"`, `"\u00ff\u0001"`), wrote, defaulted([]byte{0xff, 1}), ""},
		{"default forms", "bytes: no code point above 255", rec(`{"name":"a","type":"long"}`), read(`"bytes"`, `"\u0100"`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "fixed of its size", rec(`{"name":"a","type":"long"}`), read(`{"type":"fixed","name":"F","size":2}`, `"ab"`), wrote, defaulted([]byte("ab")), ""},
		{"default forms", "fixed of another size", rec(`{"name":"a","type":"long"}`), read(`{"type":"fixed","name":"F","size":2}`, `"a"`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "enum", rec(`{"name":"a","type":"long"}`), read(`{"type":"enum","name":"E","symbols":["A","B"],"default":"A"}`, `"B"`), wrote, defaulted("B"), ""},
		{"default forms", "enum: none of its symbols, and its own default does not stand in", rec(`{"name":"a","type":"long"}`), read(`{"type":"enum","name":"E","symbols":["A"],"default":"A"}`, `"B"`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "map", rec(`{"name":"a","type":"long"}`), read(`{"type":"map","values":["null","int"]}`, `{"k":1,"n":null}`), wrote, defaulted(map[string]any{"k": int64(1), "n": nil}), ""},
		{"default forms", "record, with the defaults of its own fields", rec(`{"name":"a","type":"long"}`), read(`{"type":"record","name":"I","fields":[{"name":"x","type":"int"},{"name":"y","type":"string","default":"z"}]}`, `{"x":1}`),
			wrote, defaulted(map[string]any{"x": int64(1), "y": "z"}), ""},
		{"default forms", "record that lacks a field", rec(`{"name":"a","type":"long"}`), read(`{"type":"record","name":"I","fields":[{"name":"x","type":"int"}]}`, `{}`), wrote, nil, "d: the reader's default does not fit"},
		{"default forms", "date", rec(`{"name":"a","type":"long"}`), read(`{"type":"int","logicalType":"date"}`, `1`), wrote, defaulted("1970-01-02"), ""},
		{"default forms", "decimal", rec(`{"name":"a","type":"long"}`), read(`{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`, `"\u0001"`), wrote, defaulted("0.01"), ""},
		{"logical", "one that does not fit its type is ignored", `"string"`, `{"type":"string","logicalType":"date"}`, "x", "x", ""},
		{"logical", "one that is not known is ignored", `{"type":"long","logicalType":"of-our-own"}`, `{"type":"double","logicalType":"another"}`, int64(2), 2.0, ""},
		{"logical", "fixed decimal", `{"type":"fixed","name":"D","size":2,"logicalType":"decimal","precision":4,"scale":2}`, `{"type":"fixed","name":"D","size":2,"logicalType":"decimal","precision":4,"scale":2}`, []byte{0xff, 0x85}, "-1.23", ""},
		{"logical", "a date as the int that it is", `{"type":"int","logicalType":"date"}`, `"long"`, 5, int64(5), ""},
		{"ours", "the same logical type is the same", `{"type":"long","logicalType":"timestamp-millis"}`, `{"type":"long","logicalType":"timestamp-millis"}`, int64(1), time.Unix(0, 1e6).UTC(), ""},
		{"ours", "a decimal is no text of its bytes", `{"type":"bytes","logicalType":"decimal","precision":4}`, `"string"`, []byte{65}, nil, "it would not be exact"},
		{"ours", "text is no decimal", `"string"`, `{"type":"bytes","logicalType":"decimal","precision":4}`, "A", nil, "string was written"},
		{"ours", "a time is no float", `{"type":"long","logicalType":"timestamp-micros"}`, `"double"`, int64(1), nil, "it would not be exact"},
		{"ours", "nor within a union", `{"type":"long","logicalType":"timestamp-micros"}`, `["null","double"]`, int64(1), nil, "no place for it"},
		{"ours", "a date is no float", `{"type":"int","logicalType":"date"}`, `"float"`, 1, nil, "it would not be exact"},
	} {
		if c.bad == "" {
			accepted[c.rule] = true
		} else {
			refused[c.rule] = true
		}
		t.Run(c.rule+": "+c.name, func(t *testing.T) {
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
	for _, r := range resolutionRules {
		if !accepted[r.id] {
			t.Errorf("no case accepts anything by rule %q: %s", r.id, r.text)
		}
		if r.refuses && !refused[r.id] {
			t.Errorf("no case refuses anything by rule %q: %s", r.id, r.text)
		}
		delete(accepted, r.id)
		delete(refused, r.id)
	}
	for id := range accepted {
		t.Errorf("no rule has the id %q", id)
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
		{`"double"`, int64(1<<53 + 1), "more digits"},
		{`"double"`, int64(math.MaxInt64), "more digits"},
		{`"float"`, int64(1<<24 + 1), "more digits"},
		{`"float"`, int32(math.MaxInt32), "more digits"},
		{`{"type":"long","logicalType":"timestamp-millis"}`, int64(math.MaxInt64), "outside the years"},
		{`{"type":"long","logicalType":"timestamp-millis"}`, int64(-62135596800001), "outside the years"},
		{`{"type":"int","logicalType":"date"}`, int32(math.MaxInt32), "outside the years"},
		{`{"type":"bytes","logicalType":"decimal","precision":2}`, []byte{100}, "more digits"},
		{`{"type":"bytes","logicalType":"decimal","precision":2}`, make([]byte, 0), "no bytes"},
		{`{"type":"bytes","logicalType":"decimal","precision":2}`, append([]byte{1}, make([]byte, 1<<20)...), "more digits"},
	} {
		rd := mustParse(t, c.reader)
		plain := &Type{Kind: rd.Kind}
		switch c.native.(type) {
		case int32:
			plain.Kind = Int
		case int64:
			plain.Kind = Long
		}
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
