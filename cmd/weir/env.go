package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/weirsync/weir/connector/config"
)

// An Env is all that commands see of the process, so that tests run them in-process.
type Env struct {
	Args       []string // without the program's name
	Getenv     func(string) string
	Stdin      io.Reader
	Stdout     io.Writer
	Stderr     io.Writer
	IsTerminal bool // of Stderr: progress bars are drawn
	Hostname   string
	Now        func() time.Time
	// Open opens a file and says its size in bytes; Create makes or truncates one.
	Open   func(path string) (io.ReadCloser, int64, error)
	Create func(path string) (io.WriteCloser, error)
	// Dir is a folder's files.
	Dir func(path string) fs.FS
	// MakeDir makes a folder and those above it, for this user alone. TempDir makes a new one among temporary files.
	MakeDir func(path string) error
	TempDir func(pattern string) (string, error)
	// Signals delivers SIGINT and SIGTERM until stop is called.
	Signals func() (signals <-chan os.Signal, stop func())
	// Command makes a process of this program with other arguments.
	Command func(args ...string) *exec.Cmd
	// Reload delivers SIGHUP until stop is called.
	Reload func() (signals <-chan os.Signal, stop func())
	// Exit ends the process at once; only a second signal does that.
	Exit func(code int)
	// RunConnector replaces the engine in tests; nil: the engine.
	RunConnector func(ctx context.Context, r connectorRun) error
}

// An app is one invocation: the Env and the global flags.
type app struct {
	*Env
	configPath string
	logLevel   string
	logFormat  string
	asJSON     bool // --json of the command that runs
	started    bool // the command line was understood
	stderrMu   sync.Mutex
}

// config loads the config file; its errors are exit code 2.
func (a *app) config() (*config.Config, error) {
	return config.Load(a.configFile(), a.Getenv)
}

// configFile: flag > environment > default.
func (a *app) configFile() string {
	if a.configPath != "" {
		return a.configPath
	}
	if p := a.Getenv("WEIR_CONFIG"); p != "" {
		return p
	}
	return defaultConfig
}

const defaultConfig = "weir.yaml"

// log makes the logger of --log-level and --log-format; it writes to Stderr.
func (a *app) log() (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(a.logLevel)); err != nil {
		return nil, usageError("--log-level", fmt.Sprintf("%q is not a level", a.logLevel), "use debug, info, warn or error")
	}
	opts := &slog.HandlerOptions{Level: level}
	w := &lockedWriter{mu: &a.stderrMu, w: a.Stderr}
	switch a.logFormat {
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	}
	return nil, usageError("--log-format", fmt.Sprintf("%q is not a format", a.logFormat), "use json or text")
}

type lockedWriter struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// printJSON writes v as indented JSON and a newline, without HTML escapes.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.Stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// notef writes one line to Stderr.
func (a *app) notef(format string, args ...any) {
	a.stderrMu.Lock()
	defer a.stderrMu.Unlock()
	fmt.Fprintf(a.Stderr, format+"\n", args...)
}

// interruptible is ctx until the first SIGINT or SIGTERM. A second one ends the process at once with 128 + its
// number (style page, Goroutines: stop has two stages). first, if not nil, is called at the first.
func (a *app) interruptible(ctx context.Context, first func(os.Signal)) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals, stop := a.Signals()
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			select {
			case s := <-signals:
				if n > 0 {
					a.Exit(128 + signalNumber(s))
					return
				}
				if first != nil {
					first(s)
				}
				cancel(fmt.Errorf("stopped by %s", s))
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		stop()
		close(done)
		<-ended
		cancel(nil)
	}
}
