// Package integration_test holds the tests of the whole: black-box and crash tests, and those of the source tree.
package integration_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/format"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/weirsync/weir"

// A listed package is what go list -json says of one of ours. Paths in it are without the module's.
type listed struct {
	ImportPath   string
	Name         string
	Doc          string
	GoFiles      []string
	Deps         []string // all that it imports, directly or not, tests aside
	TestImports  []string
	XTestImports []string
}

// within reports whether the package path p is dir or below it.
func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

// ours gives the module's own packages of a list, as paths inside the module.
func ours(imports []string) []string {
	var in []string
	for _, imp := range imports {
		if p, ok := strings.CutPrefix(imp, module+"/"); ok {
			in = append(in, p)
		}
	}
	return in
}

// list reads the packages of the module. A package that does not compile is listed with what is known of it: the
// build reports the error, better than this test could.
func list(t *testing.T) []listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Name,Doc,GoFiles,Deps,TestImports,XTestImports", "./...")
	cmd.Dir = ".."
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	var ps []listed
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := dec.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		p.ImportPath = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		ps = append(ps, p)
	}
	if len(ps) < 3 {
		t.Fatalf("%s: %d packages, want the whole module", cmd, len(ps))
	}
	return ps
}

// A rule forbids imports, directly and through other packages.
type rule struct {
	name string
	from func(pkg string) bool // packages that it binds
	not  func(pkg string) bool // of ours, what they must not import
	test bool                  // their tests too
}

// in makes a predicate: below one of the folders.
func in(dirs ...string) func(string) bool {
	return func(p string) bool {
		return slices.ContainsFunc(dirs, func(d string) bool { return within(p, d) })
	}
}

func not(f func(string) bool) func(string) bool { return func(p string) bool { return !f(p) } }

// rules are the directions of imports: cmd -> connector -> checkpoint, schema.
var rules = []rule{
	{name: "checkpoint imports nothing of ours", from: in("checkpoint"), not: not(in("checkpoint"))},
	{name: "schema imports nothing of ours", from: in("schema"), not: not(in("schema"))},
	{name: "nothing imports cmd", from: not(in("cmd")), not: in("cmd"), test: true},
	{name: "what ships does not import test helpers", from: not(in("integration_test")), not: in("integration_test", "checkpoint/checkpointtest")},
	// The checker of deliveries judges what the others did, so it shares no code with them.
	{name: "connector/verify is independent", from: in("connector/verify"), not: func(p string) bool {
		return p == "connector" || in("connector/lane", "connector/deliver")(p)
	}},
	{name: "connector does not import its wiring", from: in("connector"), not: in("cmd", "deploy"), test: true},
}

// broken lists what p imports against the rule.
func (r rule) broken(p listed) []string {
	if !r.from(p.ImportPath) {
		return nil
	}
	imports := ours(p.Deps)
	if r.test {
		imports = append(imports, append(ours(p.TestImports), ours(p.XTestImports)...)...)
	}
	imports = slices.DeleteFunc(imports, func(imp string) bool { return imp == p.ImportPath || !r.not(imp) })
	slices.Sort(imports)
	return slices.Compact(imports)
}

func TestImportsPointOneWay(t *testing.T) {
	for _, p := range list(t) {
		for _, r := range rules {
			if bad := r.broken(p); len(bad) > 0 {
				t.Errorf("%s: package %s imports %q", r.name, p.ImportPath, bad)
			}
		}
	}
}

// TestRulesFindWhatTheyForbid holds the rules themselves to examples.
func TestRulesFindWhatTheyForbid(t *testing.T) {
	m := module + "/"
	for _, c := range []struct {
		p     listed
		rules int // how many it breaks
	}{
		{listed{ImportPath: "checkpoint/sqlite", Deps: []string{"io", m + "checkpoint"}}, 0},
		{listed{ImportPath: "checkpoint/sqlite", Deps: []string{m + "schema"}}, 1},
		{listed{ImportPath: "schema", Deps: []string{m + "connector/kafka"}}, 1},
		{listed{ImportPath: "connector/lane", Deps: []string{m + "schema", m + "checkpoint"}}, 0},
		{listed{ImportPath: "integration_test", XTestImports: []string{m + "cmd/weir"}}, 1},
		{listed{ImportPath: "connector/deliver", TestImports: []string{m + "integration_test/harness"}}, 0},
		{listed{ImportPath: "connector/deliver", Deps: []string{m + "integration_test/harness"}}, 1},
		{listed{ImportPath: "connector/verify", Deps: []string{m + "connector/kafka", m + "schema"}}, 0},
		{listed{ImportPath: "connector/verify", Deps: []string{m + "connector"}}, 1},
		{listed{ImportPath: "connector/verify", Deps: []string{m + "connector/lane/x"}}, 1},
	} {
		var n int
		for _, r := range rules {
			if len(r.broken(c.p)) > 0 {
				n++
			}
		}
		if n != c.rules {
			t.Errorf("%+v breaks %d rules, want %d", c.p, n, c.rules)
		}
	}
}

// kafkaClients are the packages of the Kafka client and where shipped code may import them. Fakes and the kernel of
// the protocol (kfake, kmsg, kerr, kversion) are free.
var kafkaClients = map[string]func(dir string) bool{
	"github.com/twmb/franz-go/pkg/kgo": in("connector/kafka", "integration_test"),
	"github.com/twmb/franz-go/pkg/sr":  in("connector/kafka", "integration_test", "schema/registry"),
}

// TestOnlyOnePackageImportsTheKafkaClient reads the files and not go list, to see those of all build tags.
func TestOnlyOnePackageImportsTheKafkaClient(t *testing.T) {
	seen := false
	for _, f := range sources(t) {
		if path.Ext(f.path) != ".go" {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), f.path, f.text, parser.ImportsOnly)
		if err != nil {
			t.Errorf("imports of %s: %v", f.path, err)
			continue
		}
		for _, spec := range parsed.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("import %s of %s: %v", spec.Path.Value, f.path, err)
			}
			allowed, ok := kafkaClients[imp]
			seen = seen || ok
			if ok && !strings.HasSuffix(f.path, "_test.go") && !allowed(path.Dir(f.path)) {
				t.Errorf("%s imports %s: only connector/kafka talks to Kafka", f.path, imp)
			}
		}
	}
	if !seen {
		t.Error("no file imports the Kafka client: the test looks at the wrong files")
	}
}

func TestFolderNames(t *testing.T) {
	// Go refuses to import what lies in a folder named vendor; the others say nothing about what lies in them.
	bad := []string{"vendor", "util", "utils", "common", "types", "helpers", "misc"}
	for _, f := range sources(t) {
		for dir := range strings.SplitSeq(path.Dir(f.path), "/") {
			if slices.Contains(bad, dir) {
				t.Errorf("%s: no folder is named %s", f.path, dir)
			}
		}
	}
}

func TestPackagesHaveADocComment(t *testing.T) {
	for _, p := range list(t) {
		if len(p.GoFiles) > 0 && p.Doc == "" {
			t.Errorf("package %s has no doc comment", p.ImportPath)
		}
	}
}

// A source is a file of the tree, its path with slashes from the root.
type source struct {
	path string
	text []byte
}

// sources reads the Go files, the pages and the scripts of the tree, without what git and tools keep there.
func sources(t *testing.T) []source {
	t.Helper()
	var found []source
	root := os.DirFS("..")
	err := fs.WalkDir(root, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p == ".git" || d.Name() == "node_modules" {
				return fs.SkipDir
			}
			return nil
		}
		switch {
		case !d.Type().IsRegular():
			return nil
		case slices.Contains([]string{".go", ".md", ".sh", ".yaml", ".yml"}, path.Ext(p)), p == "Makefile", p == ".ci/run":
		default:
			return nil
		}
		text, err := fs.ReadFile(root, p)
		if errors.Is(err, fs.ErrNotExist) { // gone since the folder was read
			return nil
		}
		found = append(found, source{p, text})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func inTestdata(p string) bool { return slices.Contains(strings.Split(p, "/"), "testdata") }

func TestGoFilesAreFormatted(t *testing.T) {
	for _, f := range sources(t) {
		if path.Ext(f.path) != ".go" || inTestdata(f.path) {
			continue
		}
		want, err := format.Source(f.text)
		if err != nil {
			t.Errorf("%s: %v", f.path, err)
			continue
		}
		if !bytes.Equal(f.text, want) {
			t.Errorf("%s is not formatted: run gofmt -w %s", f.path, filepath.FromSlash(f.path))
		}
	}
}

// untidy are texts that no file of the tree may hold. The patterns are written so that they do not match
// themselves.
var untidy = []struct {
	what    string
	pattern *regexp.Regexp
}{
	{"a mark of unfinished work: finish it, or open an issue", regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME)\b`)},
	{"an absolute path of one machine", regexp.MustCompile(`(^|[\s"'` + "`" + `(=:])(/work|/root|/home/[a-z]+|/Users/[A-Za-z]+|[A-Z]:\\Users)(/[\w.-]+)+`)},
	{"a conflict of a merge", regexp.MustCompile(`(?m)^(<{7}|>{7}) `)},
	{"a carriage return", regexp.MustCompile(`\r\n`)},
}

func TestTreeIsTidy(t *testing.T) {
	for _, f := range sources(t) {
		if inTestdata(f.path) {
			continue // recorded from elsewhere
		}
		for _, u := range untidy {
			if at := u.pattern.FindIndex(f.text); at != nil {
				line := 1 + bytes.Count(f.text[:at[0]], []byte("\n"))
				t.Errorf("%s:%d: %s: %q", f.path, line, u.what, f.text[at[0]:at[1]])
			}
		}
	}
}

// TestUntidyTextsAreFound holds the patterns to examples.
func TestUntidyTextsAreFound(t *testing.T) {
	for _, c := range []struct {
		text  string
		found bool
	}{
		{"// TO" + "DO: later", true},
		{"a FIX" + "ME b", true},
		{"the todo list, a TODOS column", false},
		{`open("/ro` + `ot/go/x")`, true},
		{"see /wo" + "rk/x.md", true},
		{"file in /ho" + "me/someone/x", true},
		{"C:\\Us" + "ers\\someone\\x and \"C:\\Us" + "ers/x\"", true},
		{"/homework/x, a/work/y, https://example.com/work/x, /v1/root/x", false},
		{"one\r" + "\ntwo", true},
		{"<<<<<<" + "< HEAD", true},
	} {
		found := slices.ContainsFunc(untidy, func(u struct {
			what    string
			pattern *regexp.Regexp
		}) bool {
			return u.pattern.MatchString(c.text)
		})
		if found != c.found {
			t.Errorf("%q is untidy: %t, want %t", c.text, found, c.found)
		}
	}
}
