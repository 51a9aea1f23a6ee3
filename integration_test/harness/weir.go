package harness

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Bounds of the weir binary's life in tests.
const (
	buildMax    = 10 * time.Minute // from an empty build cache, beside other packages
	runMax      = 2 * time.Minute  // a command that should end by itself
	waitMax     = time.Minute      // a line, readiness
	stopMax     = 30 * time.Second // between SIGTERM and SIGKILL when a test ends
	failureTail = 4 << 10          // bytes of each stream in a failure's text
)

// Build says how the binary is built. The zero value is the shipped one.
type Build struct {
	// Tags are build tags, such as "failpoint".
	Tags []string
	// Race builds with the race detector.
	Race bool
	// Clock builds a binary whose wall clock a Clock sets.
	Clock bool
}

// Weir is the weir binary with the environment in which a test runs it.
type Weir struct {
	// Path is the binary.
	Path string
	// Dir is the folder in which commands run, default a temporary one of the test's.
	Dir string
	// Env is added to the environment, as NAME=value. Of the test's own environment commands see all but the
	// variables whose names begin with WEIR_.
	Env []string

	logs string
	runs *atomic.Int64
}

// NewWeir builds ./cmd/weir, once per test process and build, and returns it for the test.
func NewWeir(t testing.TB, b Build) *Weir {
	t.Helper()
	shared.need(t)
	path, err := shared.binary(b)
	if err != nil {
		t.Fatal(err)
	}
	return newWeir(t, path)
}

func newWeir(t testing.TB, path string) *Weir {
	t.Helper()
	return &Weir{Path: path, Dir: t.TempDir(), logs: logDir(t), runs: new(atomic.Int64)}
}

func (p *process) binary(b Build) (string, error) {
	key := fmt.Sprintf("weir-%s-race-%t-clock-%t", strings.Join(slices.Sorted(slices.Values(b.Tags)), "-"), b.Race, b.Clock)
	p.mu.Lock()
	build, ok := p.weirs[key]
	if !ok {
		path := filepath.Join(p.tmp, key)
		build = sync.OnceValues(func() (string, error) { return path, b.run(path) })
		p.weirs[key] = build
	}
	p.mu.Unlock()
	return build()
}

func (b Build) run(path string) error {
	root, err := moduleRoot()
	if err != nil {
		return err
	}
	args := []string{"build", "-buildvcs=false", "-o", path}
	if len(b.Tags) > 0 {
		args = append(args, "-tags", strings.Join(b.Tags, ","))
	}
	if b.Race {
		args = append(args, "-race")
	}
	if b.Clock {
		list, err := overlay(root, path+".overlay")
		if err != nil {
			return fmt.Errorf("build weir with a clock that can be set: %w", err)
		}
		args = append(args, "-overlay", list)
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildMax)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", append(args, "./cmd/weir")...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build weir: %s: %w\n%s", cmd, errors.Join(err, context.Cause(ctx)), out)
	}
	return nil
}

// moduleRoot is the folder of go.mod, from the package's folder upwards, in which go test runs its tests.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("find go.mod: no folder above the test's has one")
		}
		dir = up
	}
}

// Root is the folder of the module.
func Root(t testing.TB) string {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// A Result is how a command ended.
type Result struct {
	// Code is the exit code (design section 17), -1 if a signal ended the command.
	Code int
	// Signal is what ended the command, if a signal did.
	Signal syscall.Signal
	// Stdout and Stderr are what it printed, at most 16 MiB each.
	Stdout string
	Stderr string
}

// LastLine is the last line of stdout that is not empty, where commands print their JSON result.
func (r Result) LastLine() string {
	s := strings.TrimRight(r.Stdout, "\r\n")
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// Run runs a command to its end, within two minutes.
func (w *Weir) Run(t testing.TB, args ...string) Result {
	t.Helper()
	return w.Start(t, args...).Wait(t, runMax)
}

// MustRun is Run for a command that has to succeed.
func (w *Weir) MustRun(t testing.TB, args ...string) Result {
	t.Helper()
	r := w.Run(t, args...)
	if r.Code != 0 {
		t.Fatalf("weir %s: exit code %d (signal %v), want 0\nstdout:\n%s\nstderr:\n%s", strings.Join(args, " "), r.Code, r.Signal, r.Stdout, r.Stderr)
	}
	return r
}

// A Process is a running weir command. Its methods are safe for concurrent use.
type Process struct {
	// Stdout and Stderr are its output.
	Stdout *Output
	Stderr *Output

	name  string
	child *child
}

// Start starts a command. When the test ends it is stopped, and the end of its output is logged if the test
// failed.
func (w *Weir) Start(t testing.TB, args ...string) *Process {
	t.Helper()
	n := w.runs.Add(1)
	cmd := exec.Command(w.Path, args...)
	cmd.Dir = w.Dir
	cmd.Env = append(ownEnv(os.Environ()), w.Env...)
	p := &Process{name: "weir " + strings.Join(args, " ")}
	var err error
	if p.Stdout, err = newOutput(filepath.Join(w.logs, fmt.Sprintf("%d.stdout", n))); err != nil {
		t.Fatal(err)
	}
	if p.Stderr, err = newOutput(filepath.Join(w.logs, fmt.Sprintf("%d.stderr", n))); err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if p.child, err = startChild(cmd); err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
	go func() {
		<-p.child.done
		p.Stdout.close()
		p.Stderr.close()
	}()
	t.Cleanup(func() {
		if clean, err := p.child.stop(stopMax); err != nil || !clean {
			t.Errorf("%s: had to be killed, it did not stop within %v of SIGTERM (%v)", p.name, stopMax, err)
		}
		if t.Failed() {
			t.Logf("%s", p.describe())
		}
	})
	return p
}

// ownEnv is the environment without this package's and weir's own variables.
func ownEnv(env []string) []string {
	return slices.DeleteFunc(slices.Clone(env), func(kv string) bool { return strings.HasPrefix(kv, "WEIR_") })
}

func (p *Process) describe() string {
	return fmt.Sprintf("%s (%s)\nend of stdout:\n%s\nend of stderr:\n%s", p.name, p.state(), p.Stdout.Tail(failureTail), p.Stderr.Tail(failureTail))
}

func (p *Process) state() string {
	if p.child.running() {
		return "running"
	}
	return p.child.cmd.ProcessState.String()
}

// PID is the process id.
func (p *Process) PID() int { return p.child.cmd.Process.Pid }

// Done is closed when the process has ended and its output is complete.
func (p *Process) Done() <-chan struct{} { return p.child.done }

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(t testing.TB, sig os.Signal) {
	t.Helper()
	if err := p.child.signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the process as a crash does (SIGKILL) and waits until it is gone.
func (p *Process) Kill(t testing.TB) {
	t.Helper()
	if err := p.child.kill(); err != nil {
		t.Fatal(err)
	}
}

// Stop asks the process to end (SIGTERM), waits at most so long and returns how it ended.
func (p *Process) Stop(t testing.TB, within time.Duration) Result {
	t.Helper()
	p.Signal(t, syscall.SIGTERM)
	return p.Wait(t, within)
}

// Wait waits until the process has ended. If that takes longer the test fails.
func (p *Process) Wait(t testing.TB, within time.Duration) Result {
	t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.child.done:
	case <-timer.C:
		t.Fatalf("%s: still running after %v", p.name, within)
	}
	r := Result{Code: p.child.code(), Stdout: p.Stdout.String(), Stderr: p.Stderr.String()}
	if ws, ok := p.child.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		r.Signal = ws.Signal()
	}
	return r
}

// WaitLine waits, at most a minute, for a line of stdout or stderr that the pattern matches, whichever has it
// first, and returns its submatches as regexp does.
func (p *Process) WaitLine(t testing.TB, pattern string) []string {
	t.Helper()
	re, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatalf("wait for a line: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	type found struct {
		line string
		err  error
	}
	lines := make(chan found, 2)
	for _, o := range []*Output{p.Stdout, p.Stderr} {
		go func() {
			line, err := o.WaitLine(ctx, re.MatchString)
			lines <- found{line, err}
		}()
	}
	var errs []error
	for range 2 {
		f := <-lines
		if f.err == nil {
			return re.FindStringSubmatch(f.line)
		}
		errs = append(errs, f.err)
	}
	t.Fatalf("%s: wait for a line like %q: %v", p.name, pattern, errors.Join(errs...))
	return nil
}

// WaitReady waits, at most a minute, until base + "/readyz" answers 200. base is the URL of ops.listen.
func (p *Process) WaitReady(t testing.TB, base string) {
	t.Helper()
	p.WaitStatus(t, base+"/readyz", http.StatusOK)
}

// WaitStatus waits, at most a minute, until a GET of the URL answers the status.
func (p *Process) WaitStatus(t testing.TB, url string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		got, err := getStatus(ctx, url)
		if err == nil && got == status {
			return
		}
		select {
		case <-tick.C:
		case <-p.child.done:
			t.Fatalf("%s: ended while waiting for status %d of %s", p.name, status, url)
		case <-ctx.Done():
			t.Fatalf("%s: GET %s: status %d, error %v after %v, want %d", p.name, url, got, err, waitMax, status)
		}
	}
}

func getStatus(ctx context.Context, url string) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	return resp.StatusCode, resp.Body.Close()
}
