package schema

import (
	"fmt"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"
)

// Vectors of the Avro project's share/test/data/schema-tests.txt, as unsigned numbers, and forms of the
// specification's "Transforming into Parsing Canonical Form".
func TestCanonicalFormAndFingerprint(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		text, form string
		fp         uint64
	}{
		{`"null"`, `"null"`, 0x63dd24e7cc258f8a},
		{`{"type":"null"}`, `"null"`, 0x63dd24e7cc258f8a},
		{`"boolean"`, `"boolean"`, 0x9f42fc78a4d4f764},
		{`"int"`, `"int"`, 0x7275d51a3f395c8f},
		{`"long"`, `"long"`, 0xd054e14493f41db7},
		{`"float"`, `"float"`, 0x4d7c02cb3ea8d790},
		{`"double"`, `"double"`, 0x8e7535c032ab957e},
		{`"bytes"`, `"bytes"`, 0x4fc016dac3201965},
		{`"string"`, `"string"`, 0x8f014872634503c7},
		{` { "logicalType":"date" , "type":"int" } `, `"int"`, 0x7275d51a3f395c8f},
		{`{"fields":[{"default":"x","type":{"type":"string"},"aliases":["b"],"name":"a"}],"namespace":"n.s","doc":"d","name":"R","type":"record"}`,
			`{"name":"n.s.R","type":"record","fields":[{"name":"a","type":"string"}]}`, 0},
		{`{"type":"fixed","size":16,"name":"F"}`, `{"name":"F","type":"fixed","size":16}`, 0},
		{`{"type":"enum","name":"E","namespace":"","symbols":["A","B"],"default":"A"}`, `{"name":"E","type":"enum","symbols":["A","B"]}`, 0},
		{`{"type":"array","items":["null",{"type":"map","values":"long"}]}`, `{"type":"array","items":["null",{"type":"map","values":"long"}]}`, 0},
		{`{"type":"record","name":"x.L","fields":[{"name":"next","type":["null","L"]}]}`,
			`{"name":"x.L","type":"record","fields":[{"name":"next","type":["null","x.L"]}]}`, 0},
	} {
		typ := mustParse(t, c.text)
		if got := string(typ.Canonical()); got != c.form {
			t.Errorf("Canonical(%s) = %s, want %s", c.text, got, c.form)
		}
		if got := typ.Fingerprint(); c.fp != 0 && got != c.fp {
			t.Errorf("Fingerprint(%s) = %016x, want %016x", c.text, got, c.fp)
		}
		if strings.Contains(c.text, "logicalType") || strings.Contains(c.text, `"L"`) {
			continue // goavro keeps logicalType and does not complete names: against the specification
		}
		codec, err := goavro.NewCodec(c.text)
		if err != nil {
			t.Errorf("goavro refuses %s: %v", c.text, err)
		} else if codec.Rabin != typ.Fingerprint() {
			t.Errorf("Fingerprint(%s) = %016x, goavro's is %016x", c.text, typ.Fingerprint(), codec.Rabin)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"type":"array","items":`, schemaDepthMax+2) + `"int"` + strings.Repeat("}", schemaDepthMax+2)
	for text, want := range map[string]string{
		``:                              "not JSON",
		`"int" "int"`:                   "after the end",
		`12`:                            "a number",
		`"nope"`:                        `unknown type "nope"`,
		`[]`:                            "union without types",
		`["int","int"]`:                 "twice in one union",
		`["int",["long"]]`:              "directly inside a union",
		`{"name":"x"}`:                  "without type",
		`{"type":"array"}`:              "without items",
		`{"type":"map"}`:                "without values",
		`{"type":"record","fields":[]}`: "without a name",
		`{"type":"record","name":"R"}`:  "without fields",
		`{"type":"record","name":"9R","fields":[]}`:                                                   "not an Avro name",
		`{"type":"record","name":"long","fields":[]}`:                                                 "may not be named",
		`{"type":"record","name":"R","fields":[{"name":"a"}]}`:                                        "has no type",
		`{"type":"record","name":"R","fields":[{"name":"a","type":"int"},{"name":"a","type":"int"}]}`: "field a twice",
		`{"type":"record","name":"R","fields":[{"name":"a b","type":"int"}]}`:                         "not an Avro name",
		`{"type":"enum","name":"E","symbols":[]}`:                                                     "0 symbols",
		`{"type":"enum","name":"E","symbols":["A","A"]}`:                                              "there twice",
		`{"type":"enum","name":"E","symbols":["A"],"default":"B"}`:                                    "none of its symbols",
		`{"type":"fixed","name":"F"}`:                                                                 "size is not",
		`{"type":"fixed","name":"F","size":0}`:                                                        "size is not",
		`[{"type":"fixed","name":"F","size":1},{"type":"fixed","name":"F","size":2}]`:                 "defined twice",
		deep: "nested deeper",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%.80s) = %v, want an error with %q", text, err, want)
		}
	}
}

func TestParseLogicalTypes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"type":"int","logicalType":"date"}`:                                                       Date,
		`{"type":"long","logicalType":"timestamp-micros"}`:                                          TimestampMicros,
		`{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}`:                          Decimal,
		`{"type":"bytes","logicalType":"decimal","precision":4}`:                                    Decimal, // scale 0
		`{"type":"bytes","logicalType":"decimal","precision":4,"scale":5}`:                          "",      // "if a logical type is invalid, it is ignored"
		`{"type":"bytes","logicalType":"decimal"}`:                                                  "",
		`{"type":"string","logicalType":"date"}`:                                                    "",
		`{"type":"long","logicalType":"of-our-own"}`:                                                "",
		`{"type":"fixed","name":"F","size":12,"logicalType":"duration"}`:                            "duration",
		`{"type":"fixed","name":"F","size":2,"logicalType":"decimal","precision":4,"scale":"zero"}`: "",
	} {
		if got := mustParse(t, text).LogicalType; got != want {
			t.Errorf("logical type of %s = %q, want %q", text, got, want)
		}
	}
}

func TestParseKnownTypesAndNullable(t *testing.T) {
	t.Parallel()
	dep := mustParse(t, `{"type":"record","name":"a.Outer","fields":[{"name":"in","type":{"type":"fixed","name":"Inner","size":2}}]}`)
	typ, err := Parse([]byte(`{"type":"record","name":"a.R","fields":[{"name":"x","type":["Inner","null"]}]}`), dep)
	if err != nil {
		t.Fatal(err)
	}
	inner, ok := typ.Field("x").Type.Nullable()
	if !ok || inner.Name != "a.Inner" {
		t.Errorf("Nullable = %v, %v, want fixed a.Inner, true", inner, ok)
	}
	if _, ok := mustParse(t, `["null","int","long"]`).Nullable(); ok {
		t.Error("a union of three types counts as nullable")
	}
}

// The normalised text keeps goavro from what it trips over (design section 15).
func TestCodecTextIsWhatGoavroReads(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`{"type":"record","name":"R","fields":[{"name":"d","type":{"type":"bytes","logicalType":"decimal","precision":4}}]}`, // panics without scale
		`{"type":"record","name":"R","fields":[{"name":"l","type":"long","default":9007199254740993}]}`,
		`{"type":"record","name":"R","fields":[{"name":"u","type":["null","int"],"default":3}]}`,
		`{"type":"record","name":"R","fields":[{"name":"f","type":{"type":"fixed","name":"F","size":2},"default":"\u00ff"}]}`,
		`{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"record","name":"b.R","fields":[{"name":"y","type":["null","a.R","b.R"]}]}}]}`,
		`{"type":"record","name":"array","fields":[{"name":"type","type":"string"},{"name":"items","type":["null","array"]}]}`,
		`{"type":"record","name":"R","fields":[{"name":"a","type":"array","items":"int"}]}`,
	} {
		typ := mustParse(t, text)
		norm, _ := typ.codecText()
		if _, err := newCodec(string(norm)); err != nil {
			t.Errorf("goavro refuses the normalised form of %s: %v\n%s", text, err, norm)
		}
	}
}

func TestFieldTags(t *testing.T) {
	t.Parallel()
	typ := embedded(t).Reader("customer").Type
	if f := typ.Field("email"); !f.PII() || fmt.Sprint(f.Tags()) != "[PII]" {
		t.Errorf("email: PII %v, tags %v, want true, [PII]", f.PII(), f.Tags())
	}
	if f := typ.Field("customer_id"); f.PII() || f.Tags() != nil {
		t.Errorf("customer_id: PII %v, tags %v, want false, none", f.PII(), f.Tags())
	}
}
