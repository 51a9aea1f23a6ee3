package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// printing lists the commands that print data: each has --json (design section 12).
var printing = []string{
	"weir bench", "weir check", "weir config print", "weir demo", "weir parked ls", "weir parked show", "weir publish", "weir schema check", "weir schema ls", "weir status", "weir trace", "weir vendor check", "weir vendor diff", "weir vendor ls", "weir vendor preview", "weir vendor show", "weir vendor test", "weir verify", "weir version",
}

func tree() *cobra.Command { return newRoot(&app{Env: &Env{}}) }

func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		walk(sub, visit)
	}
}

// TestCommandTree walks the real tree: every command explains itself, and those that print data do so as JSON.
func TestCommandTree(t *testing.T) {
	var withJSON []string
	walk(tree(), func(c *cobra.Command) {
		path := c.CommandPath()
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s: needs a short text, a long text and an example", path)
		}
		if strings.HasSuffix(c.Short, ".") || len(c.Short) > 70 {
			t.Errorf("%s: short text %q is no headline of at most 70 characters without a full stop", path, c.Short)
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if len(line) > 122 {
				t.Errorf("%s: help has a line of %d characters: %s", path, len(line), line)
			}
		}
		if !strings.Contains(c.Example, path) && c.HasParent() {
			t.Errorf("%s: its example does not call it:\n%s", path, c.Example)
		}
		if c.RunE == nil || c.Run != nil {
			t.Errorf("%s: must have RunE, so that its exit code comes from one place", path)
		}
		if c.Flags().Lookup("json") != nil {
			withJSON = append(withJSON, path)
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s: has no text", path, f.Name)
			}
		})
	})
	slices.Sort(withJSON)
	if !slices.Equal(withJSON, printing) {
		t.Errorf("commands with --json:\n got %q\nwant %q", withJSON, printing)
	}
}

// Each example is a command line that the tree understands: the command exists and has the flags.
func TestExamplesParse(t *testing.T) {
	walk(tree(), func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			line, _, _ = strings.Cut(line, "#")
			line, _, _ = strings.Cut(line, "|")
			line, _, _ = strings.Cut(line, ">")
			words := strings.Fields(line)
			if len(words) == 0 {
				continue
			}
			cmd, rest, err := tree().Find(words[1:])
			if err != nil || words[0] != "weir" {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
				continue
			}
			if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), line, err)
			}
		}
	})
}

// TestReference keeps docs/cli.md up to date: go test ./cmd/weir -run Reference -update.
func TestReference(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "cli.md")
	want := commandReference(tree())
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Error("docs/cli.md is not what the commands say; run go test ./cmd/weir -run Reference -update")
	}
}

// Only main.go touches the process: the others take an Env (style page, Commands and cockpit). os.Signal is a
// type and no state.
func TestOnlyMainTouchesOS(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, name := range files {
		if name == "main.go" || strings.HasSuffix(name, "_test.go") {
			continue
		}
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if ok && (pkg.Name == "os" && sel.Sel.Name != "Signal" || pkg.Name == "signal" && pkg.Obj == nil) {
				t.Errorf("%s uses %s.%s", fset.Position(n.Pos()), pkg.Name, sel.Sel.Name)
			}
			return true
		})
	}
}
