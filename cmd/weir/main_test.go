package main

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite golden files and docs/cli.md")

func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){"weir": main})
}

// leakChecked fails a passed run that leaves goroutines behind.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := l.m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println("goroutines left behind: " + err.Error())
			return 1
		}
	}
	return code
}

// TestScripts runs the commands that need no servers, each script in a folder of its own.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{Dir: "testdata/script", UpdateScripts: *update, RequireExplicitExec: true})
}

// A result is what one in-process invocation did.
type result struct {
	code           int
	stdout, stderr string
}

// invoke runs a command line in-process, in dir.
func invoke(t *testing.T, dir string, change func(*Env), args ...string) result {
	t.Helper()
	var out, errOut bytes.Buffer
	env := processEnv()
	env.Args, env.Stdin, env.Stdout, env.Stderr, env.IsTerminal = args, strings.NewReader(""), &out, &errOut, false
	env.Getenv = func(k string) string {
		if k == "WEIR_CONFIG" && dir != "" {
			return filepath.Join(dir, "weir.yaml")
		}
		return ""
	}
	env.Signals = func() (<-chan os.Signal, func()) { return nil, func() {} }
	env.Exit = func(code int) { t.Errorf("Exit(%d) without a second signal", code) }
	if change != nil {
		change(env)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code := run(ctx, env)
	return result{code, out.String(), errOut.String()}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
