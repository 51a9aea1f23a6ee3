package integration_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/weirsync/weir/integration_test/harness"
)

// A brokenBuild is weir with one promise broken on purpose, and what the demo must find. docs/verdict.md describes each.
type brokenBuild struct {
	patch string // testdata/breaks/<patch>.patch
	kinds string // pattern of one finding, with its kind and the record
	count func(demoSummary) int
	args  []string // of the demo
	short bool     // also in the short tier
}

var brokenBuilds = []brokenBuild{
	{patch: "commit_early", kinds: `(early_commit|commit_above_mark) +canonical\.\w+/\d+/\d+`, count: func(s demoSummary) int { return s.Lost }, args: []string{"--for", "14s"}},
	{patch: "no_order", kinds: `reordered +canonical\.\w+/\d+/\d+ +\w+ +evt_`, count: func(s demoSummary) int { return s.Reordered }, args: []string{"--for", "10s"}},
	{patch: "no_memory", kinds: `effect_doubled +canonical\.invoice/\d+/\d+ +inv_\d+ +evt_`, count: func(s demoSummary) int { return s.Duplicated }, args: []string{"--for", "30s"}},
	{patch: "drop_one", kinds: `no_outcome +canonical\.invoice/2/23 +\w+ +evt_`, count: func(s demoSummary) int { return s.Lost }, args: []string{"--for", "5s", "--kill=false"}, short: true},
	{patch: "send_twice", kinds: `effect_doubled +canonical\.invoice/\d+/23 +inv_\d+ +evt_`, count: func(s demoSummary) int { return s.Duplicated }, args: []string{"--for", "5s", "--kill=false"}},
}

// TestVerdictCanFail builds weir with each break and expects the demo's verdict to name what it did. One that is not
// found would mean that a clean verdict says little.
func TestVerdictCanFail(t *testing.T) {
	long := os.Getenv("WEIR_TEST_SOAK") == "1"
	for _, b := range brokenBuilds {
		if !long && !b.short {
			continue
		}
		t.Run(b.patch, func(t *testing.T) {
			t.Parallel()
			exe := filepath.Join(t.TempDir(), "weir")
			command(t, harness.Root(t), "go", "build", "-buildvcs=false", "-overlay", overlay(t, b.patch), "-o", exe, "./cmd/weir")
			w := harness.NewWeir(t, harness.Build{})
			w.Path = exe
			args := append([]string{"demo", "--events", "2500", "--seed", "5", "--json", "--keep", filepath.Join(t.TempDir(), "kept")}, b.args...)
			r := w.Start(t, args...).Wait(t, demoMax)
			if r.Code != 1 {
				t.Fatalf("the demo of a weir that is broken by %s.patch: exit code %d, want 1\n%s\n%s", b.patch, r.Code, r.Stdout, r.Stderr)
			}
			var s demoSummary
			if err := json.Unmarshal([]byte(r.LastLine()), &s); err != nil {
				t.Fatalf("%v\n%s", err, r.Stdout)
			}
			if b.count(s) == 0 || !strings.Contains(r.Stderr, "NOT CLEAN") || !regexp.MustCompile(b.kinds).MatchString(r.Stderr) {
				t.Errorf("%+v does not count it, or no finding matches %s:\n%s", s, b.kinds, r.Stderr)
			}
		})
	}
}

// TestBreaksApply keeps the patches applicable, so that the long tier does not find out first.
func TestBreaksApply(t *testing.T) {
	files, err := filepath.Glob("testdata/breaks/*.patch")
	if err != nil || len(files) != len(brokenBuilds) {
		t.Fatalf("patches %q, %v; want one for each of the %d breaks", files, err, len(brokenBuilds))
	}
	for _, b := range brokenBuilds {
		overlay(t, b.patch)
	}
}

var patched = regexp.MustCompile(`(?m)^\+\+\+ b/(\S+)$`)

// overlay applies a patch to copies of the files that it changes, and writes the file that makes go build take them in the
// place of the tree's.
func overlay(t *testing.T, name string) string {
	t.Helper()
	patch, err := filepath.Abs(filepath.Join("testdata", "breaks", name+".patch"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(patch)
	if err != nil {
		t.Fatal(err)
	}
	dir, replace := t.TempDir(), map[string]string{}
	for _, m := range patched.FindAllStringSubmatch(string(text), -1) {
		from, to := filepath.Join(harness.Root(t), m[1]), filepath.Join(dir, m[1])
		old, err := os.ReadFile(from)
		if err == nil {
			err = os.MkdirAll(filepath.Dir(to), 0o755)
		}
		if err == nil {
			err = os.WriteFile(to, old, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		replace[from] = to
	}
	if len(replace) == 0 {
		t.Fatalf("%s.patch changes no file", name)
	}
	command(t, dir, "git", "apply", "-C1", patch)
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// command runs a program in a folder; if it fails, so does the test.
func command(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), demoMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s(a patch that no longer fits: make the same change again, git diff -U1 > integration_test/testdata/breaks/NAME.patch)", cmd, err, out)
	}
}
