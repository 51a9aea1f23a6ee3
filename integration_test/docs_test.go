package integration_test

import (
	"bytes"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weirsync/weir/connector/config"
)

var updateDocs = flag.Bool("update-docs", false, "rewrite the generated part of docs/config.md")

// Marks around the table of docs/config.md that is made from the field tags.
const (
	keysBegin = "<!-- keys: made from the field tags by go test ./integration_test -run TestConfigPage -update-docs -->\n"
	keysEnd   = "<!-- end of keys -->\n"
)

// TestConfigPage keeps docs/config.md in step with the field tags of connector/config.
func TestConfigPage(t *testing.T) {
	const file = "../docs/config.md"
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(page), keysBegin)
	got, after, ok2 := strings.Cut(rest, keysEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s lacks the lines %q and %q", file, keysBegin, keysEnd)
	}
	rows := keyRows(reflect.TypeFor[config.Config](), "", false)
	if len(rows) < 30 {
		t.Fatalf("%d keys found in the field tags, want all of them", len(rows))
	}
	want := "| key | value | default | bounds | live | meaning |\n| --- | --- | --- | --- | --- | --- |\n" + strings.Join(rows, "")
	if got == want {
		return
	}
	if !*updateDocs {
		t.Errorf("the table of %s is not what the field tags say: run go test ./integration_test -run TestConfigPage -update-docs", file)
		return
	}
	if err := os.WriteFile(file, []byte(before+keysBegin+want+keysEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// keyRows lists the keys of a struct and of the structs inside, one table row each. all says that all of them are live.
func keyRows(typ reflect.Type, at string, all bool) []string {
	var rows []string
	for i := range typ.NumField() {
		f := typ.Field(i)
		key, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		p := at + key
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Map {
			p += "." + "&lt;name&gt;"
			inner = inner.Elem()
			if inner.Kind() == reflect.Pointer {
				inner = inner.Elem()
			}
		}
		kind, leaf := valueKind(inner)
		def, bounds := f.Tag.Get("default"), boundsOf(f.Tag)
		if def != "" {
			def = "`" + def + "`"
		}
		if f.Tag.Get("required") != "" {
			def = "required"
		}
		live := ""
		if all || f.Tag.Get("live") != "" {
			live = "yes"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s | %s | %s |\n", strings.ReplaceAll(p, "&lt;name&gt;", "<name>"), kind, def, bounds, live, f.Tag.Get("desc")))
		if !leaf {
			rows = append(rows, keyRows(inner, p+".", live != "")...)
		}
	}
	return rows
}

func valueKind(typ reflect.Type) (kind string, leaf bool) {
	switch typ {
	case reflect.TypeFor[config.Secret]():
		return "reference", true
	case reflect.TypeFor[config.Duration]():
		return "duration", true
	case reflect.TypeFor[config.Size]():
		return "size", true
	case reflect.TypeFor[config.Start]():
		return "start", true
	}
	switch typ.Kind() {
	case reflect.Struct:
		return "mapping", false
	case reflect.Slice:
		return "list", true
	case reflect.String:
		return "text", true
	case reflect.Int:
		return "number", true
	}
	return typ.Kind().String(), true
}

func boundsOf(tag reflect.StructTag) string {
	switch {
	case tag.Get("min") != "":
		return tag.Get("min") + " to " + tag.Get("max")
	case tag.Get("enum") != "":
		return strings.ReplaceAll(tag.Get("enum"), ",", ", ")
	case tag.Get("keydesc") != "":
		return "the name is " + tag.Get("keydesc")
	case tag.Get("pattern") != "":
		return "`" + tag.Get("pattern") + "`"
	}
	return ""
}

// constants are the values of the string constants of a type in one file.
func constants(t *testing.T, file, typ string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.FromSlash(file), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	var values []string
	for _, d := range parsed.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			if id, ok := v.Type.(*ast.Ident); !ok || id.Name != typ {
				continue
			}
			for _, x := range v.Values {
				lit, ok := x.(*ast.BasicLit)
				if !ok {
					t.Fatalf("%s: constant %s of type %s is no literal", file, v.Names[0], typ)
				}
				s, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				if s != "" {
					values = append(values, s)
				}
			}
		}
	}
	if len(values) == 0 {
		t.Fatalf("%s has no constants of type %s: the test looks at the wrong file", file, typ)
	}
	slices.Sort(values)
	return values
}

var tableWord = regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\|")

// tableWords are the words in the first column of the tables below a heading of a page.
func tableWords(t *testing.T, page []byte, heading string) []string {
	t.Helper()
	_, rest, ok := bytes.Cut(page, []byte("\n## "+heading+"\n"))
	if !ok {
		t.Fatalf("the page has no heading %q", heading)
	}
	section, _, _ := bytes.Cut(rest, []byte("\n## "))
	var words []string
	for _, m := range tableWord.FindAllSubmatch(section, -1) {
		words = append(words, string(m[1]))
	}
	slices.Sort(words)
	return words
}

// TestOutcomesPage keeps docs/outcomes.md and docs/troubleshooting.md in step with the closed sets of words.
func TestOutcomesPage(t *testing.T) {
	for _, c := range []struct{ page, heading, file, typ string }{
		{"../docs/outcomes.md", "Outcomes", "../checkpoint/checkpoint.go", "Outcome"},
		{"../docs/outcomes.md", "Causes", "../checkpoint/checkpoint.go", "Cause"},
		{"../docs/outcomes.md", "States of a parked record", "../checkpoint/checkpoint.go", "ParkedState"},
		{"../docs/troubleshooting.md", "Reasons of a held partition at its start", "../connector/kafka/start.go", "HoldReason"},
	} {
		page, err := os.ReadFile(c.page)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tableWords(t, page, c.heading), constants(t, c.file, c.typ); !slices.Equal(got, want) {
			t.Errorf("%s, %q:\n got %q\nwant %q, the constants of %s in %s", c.page, c.heading, got, want, c.typ, c.file)
		}
	}
}

var profileReason = regexp.MustCompile(`\b(?:ignore|reason): ([a-z_]+)`)

// TestReasonsArePageWords: each reason that a built-in profile gives to a record is explained.
func TestReasonsArePageWords(t *testing.T) {
	page, err := os.ReadFile("../docs/outcomes.md")
	if err != nil {
		t.Fatal(err)
	}
	known := tableWords(t, page, "Reasons")
	files, err := filepath.Glob("../connector/profile/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("profiles: %q, %v", files, err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range profileReason.FindAllSubmatch(text, -1) {
			if !slices.Contains(known, string(m[1])) {
				t.Errorf("docs/outcomes.md does not explain the reason %s of %s", m[1], f)
			}
		}
	}
}

var pageLink = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// TestLinksOfPages: a relative link of a page leads to a file of the tree.
func TestLinksOfPages(t *testing.T) {
	n := 0
	for _, f := range sources(t) {
		if path.Ext(f.path) != ".md" || inTestdata(f.path) {
			continue
		}
		for _, m := range pageLink.FindAllSubmatch(f.text, -1) {
			to, _, _ := strings.Cut(string(m[1]), "#")
			if to == "" || strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			n++
			if _, err := os.Stat(filepath.Join("..", filepath.FromSlash(path.Join(path.Dir(f.path), to)))); err != nil {
				t.Errorf("%s: link to %s: %v", f.path, m[1], err)
			}
		}
	}
	if n == 0 {
		t.Error("no page has a link: the test looks at the wrong files")
	}
}
