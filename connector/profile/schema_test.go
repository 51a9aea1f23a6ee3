package profile

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/weirsync/weir/schema"
)

// A schemaTree is the JSON Schema, as a tree.
type schemaTree struct {
	root map[string]any
	seen map[string]bool // pointers of objects with properties, and of enums, that were compared
}

// objects are the schemas of mappings, lists and enums that n stands for, with their pointers.
func (s *schemaTree) objects(n any, at string) map[string]map[string]any {
	out := map[string]map[string]any{}
	m, _ := n.(map[string]any)
	if ref, ok := m["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/$defs/")
		return s.objects(s.root["$defs"].(map[string]any)[name], "#/$defs/"+name)
	}
	for i, alt := range list(m["anyOf"]) {
		maps.Copy(out, s.objects(alt, fmt.Sprintf("%s/anyOf/%d", at, i)))
	}
	if m["properties"] != nil || m["additionalProperties"] != nil || m["items"] != nil || m["enum"] != nil {
		out[at] = m
	}
	return out
}

func list(v any) []any             { l, _ := v.([]any); return l }
func mapping(v any) map[string]any { m, _ := v.(map[string]any); return m }

// find follows the path of a profile's key, such as operations.create.verdicts[0].
func (s *schemaTree) find(path string) map[string]map[string]any {
	here := map[string]map[string]any{"#": s.root}
	for _, part := range strings.FieldsFunc(strings.ReplaceAll(path, "[", ".["), func(r rune) bool { return r == '.' }) {
		next := map[string]map[string]any{}
		for at, m := range here {
			if strings.HasPrefix(part, "[") {
				maps.Copy(next, s.objects(m["items"], at+"/items"))
			} else if p := mapping(m["properties"])[part]; p != nil {
				maps.Copy(next, s.objects(p, at+"/properties/"+part))
			} else {
				maps.Copy(next, s.objects(m["additionalProperties"], at+"/additionalProperties"))
			}
		}
		here = next
	}
	return here
}

// profiles that together have every key that there is.
func everyKey(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("*.yaml")
	if err != nil || len(files) < 3 {
		t.Fatalf("profiles %v, %v", files, err)
	}
	return append(files, filepath.FromSlash("testdata/every_key.yaml"), filepath.FromSlash("../../integration_test/testdata/ledgerly.yaml"))
}

// The reader and the JSON Schema know the same keys, at each place of a profile.
func TestSchemaHasEveryKey(t *testing.T) {
	s := &schemaTree{seen: map[string]bool{}}
	if err := json.Unmarshal(JSONSchema(), &s.root); err != nil {
		t.Fatal(err)
	}
	for _, file := range everyKey(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		root, err := parseYAML(file, text)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{file: file, visit: func(path string, known []string) {
			found := false
			for at, m := range s.find(path) {
				props, ok := m["properties"].(map[string]any)
				if !ok {
					continue
				}
				found = true
				s.seen[at] = true
				if got := slices.Sorted(maps.Keys(props)); !slices.Equal(got, known) {
					t.Errorf("%s: %s: the schema (%s) has the keys %v, the reader takes %v", file, path, at, got, known)
				}
			}
			if !found {
				t.Errorf("%s: %s: the schema knows no mapping there; the reader takes %v", file, path, known)
			}
		}, visitWord: func(path string, known []string) {
			found := false
			for at, m := range s.find(path) {
				if m["enum"] == nil {
					continue
				}
				found = true
				s.seen[at] = true
				var words []string
				for _, w := range list(m["enum"]) {
					words = append(words, fmt.Sprint(w))
				}
				if slices.Sort(words); !slices.Equal(words, slices.Sorted(slices.Values(known))) {
					t.Errorf("%s: %s: the schema (%s) has the words %v, the reader takes %v", file, path, at, words, known)
				}
			}
			if !found {
				t.Errorf("%s: %s: the schema takes any text there; the reader takes %v", file, path, known)
			}
		}}
		r.profile(root, &Profile{file: file})
		for _, e := range r.errs {
			t.Errorf("%v", e)
		}
	}
	var walk func(n any, at string)
	walk = func(n any, at string) {
		m, _ := n.(map[string]any)
		if m == nil {
			return
		}
		props, _ := m["properties"].(map[string]any)
		if props != nil && !s.seen[at] {
			t.Errorf("no profile of this test has the mapping %s of the schema", at)
		}
		if _, ok := m["enum"].([]any); ok && !s.seen[at] {
			t.Errorf("no profile of this test has the enum %s of the schema", at)
		}
		for k, p := range props {
			walk(p, at+"/properties/"+k)
			if d, _ := p.(map[string]any)["description"].(string); d == "" && p.(map[string]any)["$ref"] == nil {
				t.Errorf("%s/properties/%s has no description", at, k)
			}
		}
		for _, k := range []string{"additionalProperties", "items"} {
			walk(m[k], at+"/"+k)
		}
		for i, alt := range list(m["anyOf"]) {
			walk(alt, fmt.Sprintf("%s/anyOf/%d", at, i))
		}
	}
	walk(s.root, "#")
	for name, d := range s.root["$defs"].(map[string]any) {
		walk(d, "#/$defs/"+name)
	}
}

// What the schema calls required the reader misses, at each place of profiles that together have every key.
func TestSchemaRequires(t *testing.T) {
	s := &schemaTree{}
	if err := json.Unmarshal(JSONSchema(), &s.root); err != nil {
		t.Fatal(err)
	}
	missing := func(file string, doc any) (out []string) {
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		root, err := parseYAML(file, text)
		if err != nil {
			t.Fatal(err)
		}
		r := &reader{file: file}
		r.profile(root, &Profile{file: file})
		for _, e := range r.errs {
			out = append(out, e.Error())
		}
		return out
	}
	tried := map[string]bool{}
	for _, file := range everyKey(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := yaml.Unmarshal(text, &doc); err != nil {
			t.Fatal(err)
		}
		if errs := missing(file, doc); len(errs) > 0 {
			t.Fatalf("%s, as JSON: %v", file, errs)
		}
		var walk func(n any, path string)
		walk = func(n any, path string) {
			for i, v := range list(n) {
				walk(v, fmt.Sprintf("%s[%d]", path, i))
			}
			m := mapping(n)
			for at, def := range s.find(path) {
				for _, k := range list(def["required"]) {
					key := k.(string)
					v, ok := m[key]
					if !ok || tried[at+" "+key] {
						continue
					}
					tried[at+" "+key] = true
					delete(m, key)
					if missing(file, doc) == nil {
						t.Errorf("%s: %s: the schema (%s) requires %s, the reader does not", file, path, at, key)
					}
					m[key] = v
				}
			}
			for k, v := range m {
				walk(v, join(path, k))
			}
		}
		walk(doc, "")
	}
	if len(tried) < 20 {
		t.Errorf("%d required keys were tried, want at least 20", len(tried))
	}
}

func compiledSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(JSONSchema())))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("profile.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("profile.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	j, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(j)))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(doc)
}

// Profiles that load are valid by the schema, and what the schema can refuse the reader refuses too.
func TestSchemaAndReaderAgree(t *testing.T) {
	s := compiledSchema(t)
	for _, file := range everyKey(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, string(text)); err != nil {
			t.Errorf("%s is not valid by the schema: %v", file, err)
		}
	}
	good, err := os.ReadFile("plain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{
		{"class: overwrite", "class: sometimes"},
		{"class: overwrite", "klass: overwrite"},
		{"auth: {kind: bearer,", "auth: {kind: password,"},
		{"method: PUT", "method: SEND"},
		{"path: /things/{id}", "path: things/{id}"},
		{"profile: plain", "profile: The Plain"},
		{"profile: plain\n", ""},
		{"verdict: throttle", "verdict: wait"},
		{"status: 429", "status: 29"},
		{"status: [401, 403]", "status: []"},
		{"{type: string, required: true}", "{type: text, required: true}"},
		{"{type: string, required: true}", "{type: string, required: please}"},
		{"environments:\n", "environments: sandbox\nrest:\n"},
	} {
		text := strings.Replace(string(good), c[0], c[1], 1)
		if text == string(good) {
			t.Errorf("plain.yaml does not hold %q", c[0])
			continue
		}
		if err := validate(t, s, text); err == nil {
			t.Errorf("%q in the place of %q is valid by the schema", c[1], c[0])
		}
		if _, err := Parse("plain.yaml", []byte(text)); err == nil {
			t.Errorf("%q in the place of %q is read", c[1], c[0])
		}
	}
}

// TestReferencePage keeps docs/profile-reference.md in step with the schema: go test ./connector/profile -run
// ReferencePage -update.
func TestReferencePage(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(JSONSchema(), &root); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Profile reference\n\nEvery key of a vendor profile. Made from the JSON Schema (`weir vendor schema`) by `go test ./connector/profile -run\n" +
		"ReferencePage -update`; do not edit. How the parts work together, and the expressions: [FORMAT.md](../connector/profile/FORMAT.md);\n" +
		"step by step: [write-a-profile.md](write-a-profile.md). **Bold** keys are required.\n\n## The file\n\n")
	p := &page{b: &b}
	p.table(root)
	defs := mapping(root["$defs"])
	for _, name := range slices.Sorted(maps.Keys(defs)) {
		d := mapping(defs[name])
		fmt.Fprintf(&b, "\n## %s\n\n%s\n", name, d["description"])
		for _, o := range append([]any{d}, list(d["anyOf"])...) {
			if m := mapping(o); m["properties"] != nil {
				b.WriteString("\n")
				p.table(m)
			}
		}
	}
	const file = "../../docs/profile-reference.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(file); err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the schema says (%v); run go test ./connector/profile -run ReferencePage -update", file, err)
	}
}

type page struct{ b *strings.Builder }

// table lists the keys of an object, and of the objects inside, dotted.
func (p *page) table(m map[string]any) {
	p.b.WriteString("| key | value | default | meaning |\n| --- | --- | --- | --- |\n")
	p.rows(m, "")
}

func (p *page) rows(m map[string]any, prefix string) {
	props := mapping(m["properties"])
	for _, k := range slices.Sorted(maps.Keys(props)) {
		v := mapping(props[k])
		key := "`" + prefix + k + "`"
		if slices.Contains(list(m["required"]), any(k)) {
			key = "**" + key + "**"
		}
		def := ""
		if d, ok := v["default"]; ok {
			def = fmt.Sprintf("`%v`", d)
		}
		text, _ := v["description"].(string)
		fmt.Fprintf(p.b, "| %s | %s | %s | %s |\n", key, strings.ReplaceAll(kindOf(v), "|", "\\|"), def, strings.ReplaceAll(text, "|", "\\|"))
		switch {
		case v["properties"] != nil:
			p.rows(v, prefix+k+".")
		case mapping(v["additionalProperties"])["properties"] != nil:
			p.rows(mapping(v["additionalProperties"]), prefix+k+".<name>.")
		case mapping(v["items"])["properties"] != nil:
			p.rows(mapping(v["items"]), prefix+k+"[].")
		}
	}
}

// kindOf says what stands at a key.
func kindOf(v map[string]any) string {
	if ref, ok := v["$ref"].(string); ok {
		name := strings.TrimPrefix(ref, "#/$defs/")
		return "[" + name + "](#" + name + ")"
	}
	if e := list(v["enum"]); e != nil {
		var words []string
		for _, w := range e {
			words = append(words, fmt.Sprintf("`%v`", w))
		}
		return strings.Join(words, ", ")
	}
	if alts := list(v["anyOf"]); alts != nil {
		var kinds []string
		for _, a := range alts {
			kinds = append(kinds, kindOf(mapping(a)))
		}
		return strings.Join(kinds, " or ")
	}
	kind := "any"
	switch t := v["type"].(type) {
	case string:
		kind = t
	case []any:
		if text, _ := v["description"].(string); strings.HasSuffix(text, "CEL.") {
			return "CEL"
		}
		var kinds []string
		for _, k := range t {
			kinds = append(kinds, fmt.Sprint(k))
		}
		kind = strings.Join(kinds, " or ")
	}
	switch {
	case kind == "string" && strings.HasPrefix(fmt.Sprint(v["pattern"]), "^[0-9]+("):
		return "duration"
	case kind == "array":
		return "list of " + kindOf(mapping(v["items"]))
	case kind == "object" && v["properties"] == nil && mapping(v["additionalProperties"]) != nil:
		if mapping(v["additionalProperties"])["properties"] != nil {
			return "mapping of names to mappings"
		}
		return "mapping of names to " + kindOf(mapping(v["additionalProperties"]))
	case kind == "object":
		return "mapping"
	}
	return kind
}

// The file of docs/write-a-profile.md, block by block, is a good profile, by the schema too, and its tests pass.
func TestWriteAProfilePage(t *testing.T) {
	text, err := os.ReadFile("../../docs/write-a-profile.md")
	if err != nil {
		t.Fatal(err)
	}
	var file strings.Builder
	for _, part := range strings.Split(string(text), "```yaml\n")[1:] {
		block, _, ok := strings.Cut(part, "```")
		if !ok {
			t.Fatal("a block does not end")
		}
		file.WriteString(block)
	}
	p, err := Parse("acme.yaml", []byte(file.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := validate(t, compiledSchema(t), file.String()); err != nil {
		t.Error(err)
	}
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	results, err := p.RunTests(t.Context(), Options{Connector: "acme", Environment: "sandbox", Secrets: []string{"api_key"}, Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != 2 {
		t.Errorf("%d tests, want 2", len(results))
	}
	for _, r := range results {
		if len(r.Problems) > 0 {
			t.Errorf("%s: %v", r.Name, r.Problems)
		}
	}
}
