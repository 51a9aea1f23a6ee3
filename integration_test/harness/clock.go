package harness

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// stepClock is the package, of binaries with a clock alone, that takes the place of time.Now.
const stepClock = "connector/stepclock"

var (
	timeNow       = regexp.MustCompile(`\btime\.Now\b`)
	packageClause = regexp.MustCompile(`(?m)^package \w+$`)
)

// overlay writes a go build overlay in which every time.Now of weir's own code is one that a test can step, and returns
// its file. What libraries read is as ever, and so is the monotonic clock. The folder dir is the build's own.
func overlay(root, dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	replace := map[string]string{}
	add := func(name string, text []byte) error {
		file := filepath.Join(dir, strconv.Itoa(len(replace))+".go")
		replace[filepath.Join(root, name)] = file
		return os.WriteFile(file, text, 0o600)
	}
	for _, top := range []string{"cmd", "connector", "checkpoint", "schema"} {
		err := filepath.WalkDir(filepath.Join(root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil || !timeNow.Match(text) || !strings.Contains(string(text), "\t\"time\"\n") {
				return err
			}
			name, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			// The import stands in the line of the package, so that lines of traces are those of the source.
			text = timeNow.ReplaceAll(text, []byte("stepclock.Now"))
			clause := packageClause.FindIndex(text)
			if clause == nil {
				return fmt.Errorf("%s: no package clause", name)
			}
			imported := `; import stepclock "github.com/weirsync/weir/` + stepClock + `"`
			text = append(text[:clause[1]:clause[1]], append([]byte(imported), text[clause[1]:]...)...)
			text = append(text, "\nvar _, _ = time.Nanosecond, stepclock.Now // both imports are used\n"...)
			return add(name, text)
		})
		if err != nil {
			return "", err
		}
	}
	if len(replace) == 0 {
		return "", fmt.Errorf("nothing below %s reads the clock", root)
	}
	text, err := os.ReadFile(filepath.Join(root, "integration_test", "harness", "testdata", "clock", "clock.go.txt"))
	if err != nil {
		return "", err
	}
	if err := add(filepath.FromSlash(stepClock+"/clock.go"), text); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "overlay.json")
	return file, os.WriteFile(file, list, 0o600)
}

// A Clock is the wall clock of binaries that are built with Build.Clock and have its environment.
type Clock struct {
	file string
}

// NewClock makes a clock that shows the right time.
func NewClock(t testing.TB) *Clock {
	t.Helper()
	c := &Clock{file: filepath.Join(t.TempDir(), "clock")}
	c.Set(t, 0)
	return c
}

// Env is what makes a process go by the clock.
func (c *Clock) Env() string { return "STEP_CLOCK=" + c.file }

// Set makes the clock show a time that is so many seconds ahead of the right one, or behind it if negative. Processes
// see it within a hundredth of a second.
func (c *Clock) Set(t testing.TB, seconds int64) {
	t.Helper()
	tmp := c.file + ".new"
	if err := os.WriteFile(tmp, strconv.AppendInt(nil, seconds, 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, c.file); err != nil {
		t.Fatal(err)
	}
}
