package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"reflect"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite config.schema.json from the field tags")

// TestSchemaFile keeps the published JSON Schema in step with the field tags: go test -run SchemaFile -update.
func TestSchemaFile(t *testing.T) {
	s := schemaOf(t, reflect.TypeFor[Config](), "", "")
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = "https://github.com/weirsync/weir/connector/config/config.schema.json"
	s["title"] = "weir.yaml"
	want, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile("config.schema.json", want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, JSONSchema()) {
		t.Error("config.schema.json is not what the field tags say; run go test -run SchemaFile -update")
	}
}

func schemaOf(t *testing.T, typ reflect.Type, path string, tag reflect.StructTag) map[string]any {
	s := map[string]any{}
	if d := tag.Get("desc"); d != "" {
		s["description"] = d
	} else if path != "" && typ.Kind() != reflect.String && typ != secretType && typ.Kind() != reflect.Pointer && typ.Kind() != reflect.Struct {
		t.Errorf("%s: no desc tag", path)
	}
	def := tag.Get("default")
	if def != "" && typ.Kind() != reflect.Int {
		s["default"] = def
	}
	switch {
	case typ == secretType:
		s["type"], s["pattern"] = "string", `^\$\{(env:[A-Za-z_][A-Za-z0-9_]*|file:[^{}$\r\n]+)\}$`
	case typ == sizeType:
		s["type"], s["pattern"] = "string", "^[0-9]+ ?(B|KB|MB|GB|KiB|MiB|GiB)$"
	case typ == durationType:
		s["type"], s["pattern"] = "string", "^([0-9]+(\\.[0-9]+)?(ns|us|µs|ms|s|m|h))+$"
	case typ == startType:
		s["type"], s["pattern"] = "string", "^(earliest|latest|[0-9]{4}-[0-9]{2}-[0-9]{2}T.+)$"
	case typ.Kind() == reflect.Pointer:
		return schemaOf(t, typ.Elem(), path, tag)
	case typ.Kind() == reflect.Struct:
		s["type"], s["additionalProperties"] = "object", false
		props, required := map[string]any{}, []string{}
		for _, f := range fieldsOf(typ) {
			props[f.key] = schemaOf(t, typ.Field(f.index).Type, join2(path, f.key), f.tag)
			if f.tag.Get("required") != "" {
				required = append(required, f.key)
			}
		}
		s["properties"] = props
		if len(required) > 0 {
			s["required"] = required
		}
	case typ.Kind() == reflect.Map:
		s["type"], s["additionalProperties"] = "object", false
		s["patternProperties"] = map[string]any{tag.Get("keypattern"): schemaOf(t, typ.Elem(), path+".*", "")}
		if tag.Get("required") != "" {
			s["minProperties"] = 1
		}
	case typ.Kind() == reflect.Slice:
		s["type"], s["items"], s["minItems"] = "array", schemaOf(t, typ.Elem(), path+"[]", ""), 1
	case typ.Kind() == reflect.Int:
		s["type"] = "integer"
		for key, v := range map[string]string{"minimum": tag.Get("min"), "maximum": tag.Get("max"), "default": def} {
			if n := bound(typ, v); n != nil {
				s[key] = *n
			}
		}
	case typ.Kind() == reflect.String:
		s["type"] = "string"
		if strings.HasSuffix(path, ".vars.*") {
			s["type"] = []string{"string", "number", "boolean"} // taken as they are written
		}
		if e := tag.Get("enum"); e != "" {
			s["enum"] = strings.Split(e, ",")
		}
		if p := tag.Get("pattern"); p != "" {
			s["pattern"] = p
		}
	default:
		t.Fatalf("%s: no schema for %s", path, typ)
	}
	return s
}

// Every default is a value that the field may have.
func TestDefaultsAreValid(t *testing.T) {
	c := (&Config{Kafka: Kafka{Brokers: []string{"b:1"}}, Connectors: map[string]*Connector{"a": {Profile: "p"}}}).WithDefaults()
	if err := c.Validate(); err != nil {
		t.Errorf("a config of defaults is refused: %v", err)
	}
}
