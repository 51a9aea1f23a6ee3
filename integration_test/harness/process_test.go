package harness

import (
	"bufio"
	"context"
	"errors"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestRunTellsCodeAndOutput(t *testing.T) {
	r := self(t, "print").Run(t, "one", "two", `{"last":1}`)
	if r.Code != 3 || r.Signal != 0 {
		t.Errorf("exit: code %d, signal %v, want 3 and none", r.Code, r.Signal)
	}
	if r.Stdout != "one\n{\"last\":1}\n" || r.Stderr != "two\n" {
		t.Errorf("stdout %q, stderr %q", r.Stdout, r.Stderr)
	}
	if got, want := r.LastLine(), `{"last":1}`; got != want {
		t.Errorf("last line %q, want %q", got, want)
	}
}

func TestCommandsDoNotSeeTheTestsOwnVariables(t *testing.T) {
	t.Setenv("WEIR_TEST_ANYTHING", "x")
	w := self(t, "env")
	w.Env = append(w.Env, "WEIR_GIVEN=y")
	out := strings.Split(w.MustRun(t).Stdout, "\n")
	if slices.Contains(out, "WEIR_TEST_ANYTHING=x") || !slices.Contains(out, "WEIR_GIVEN=y") {
		t.Errorf("environment of the command: %q, want WEIR_GIVEN only of the variables WEIR_*", out)
	}
}

func TestProcessIsWaitedForAndStopped(t *testing.T) {
	addr := Addr(t)
	p := self(t, "serve").Start(t, addr)
	p.WaitReady(t, "http://"+addr)
	if m := p.WaitLine(t, `^listening on (http://\S+)$`); m[1] != "http://"+addr {
		t.Errorf("line says %q, want http://%s", m[1], addr)
	}
	if r := p.Stop(t, waitMax); r.Code != 0 || !strings.HasSuffix(r.Stdout, "drained\n") {
		t.Errorf("after SIGTERM: code %d, stdout %q, want 0 and drained", r.Code, r.Stdout)
	}
}

func TestKillIsSeenAsASignal(t *testing.T) {
	p := self(t, "serve").Start(t, Addr(t))
	p.WaitLine(t, "^listening")
	p.Kill(t)
	if r := p.Wait(t, waitMax); r.Code != -1 || r.Signal != syscall.SIGKILL {
		t.Errorf("after Kill: code %d, signal %v, want -1 and killed", r.Code, r.Signal)
	}
}

func TestFrozenProcessCanBeStopped(t *testing.T) {
	p := self(t, "serve").Start(t, Addr(t))
	p.WaitLine(t, "^listening")
	p.Signal(t, syscall.SIGSTOP)
	if clean, err := p.child.stop(waitMax); !clean || err != nil {
		t.Errorf("stop of a frozen process: clean %t, error %v, want true and none", clean, err)
	}
}

func TestProcessThatDoesNotStopIsKilled(t *testing.T) {
	p := self(t, "stubborn").Start(t)
	p.WaitLine(t, "^ready")
	clean, err := p.child.stop(100 * time.Millisecond)
	if clean || err != nil || p.child.running() {
		t.Errorf("stop of a process that ignores SIGTERM: clean %t, error %v, running %t, want it killed", clean, err, p.child.running())
	}
}

func TestChildrenDieWithTheirParent(t *testing.T) {
	if childAttr() == nil {
		t.Skip("only Linux ends children with their parent")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	parent := self(t, "parent").Start(t, l.Addr().String())
	if err := l.(*net.TCPListener).SetDeadline(time.Now().Add(waitMax)); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	if _, err := r.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	parent.Kill(t)
	if err := c.SetReadDeadline(time.Now().Add(waitMax)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if _, err := r.ReadByte(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("connection of the grandchild after its parent was killed: %v, want it closed", err)
	}
}

func output(t *testing.T) *Output {
	t.Helper()
	o, err := newOutput(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.close)
	return o
}

func write(t *testing.T, o *Output, s string) {
	t.Helper()
	if n, err := o.Write([]byte(s)); n != len(s) || err != nil {
		t.Fatalf("write %q: %d, %v", s, n, err)
	}
}

func TestWaitLineFindsLinesFromTheStart(t *testing.T) {
	o := output(t)
	write(t, o, "one\ntwo\r\nthr")
	for _, want := range []string{"one", "two"} {
		if got, err := o.WaitLine(t.Context(), func(l string) bool { return l == want }); got != want || err != nil {
			t.Errorf("WaitLine(%q): %q, %v", want, got, err)
		}
	}
}

func TestWaitLineWaitsForTheWholeLine(t *testing.T) {
	o := output(t)
	write(t, o, "par")
	seen := make(chan string, 4)
	got := make(chan string, 1)
	go func() {
		line, err := o.WaitLine(t.Context(), func(l string) bool { seen <- l; return strings.HasPrefix(l, "par") })
		if err != nil {
			line = err.Error()
		}
		got <- line
	}()
	write(t, o, "t one\n")
	if line := <-got; line != "part one" {
		t.Errorf("WaitLine: %q, want %q", line, "part one")
	}
	if len(seen) != 1 {
		t.Errorf("%d lines were offered, want 1", len(seen))
	}
}

func TestWaitLineTakesTheLastLineWithoutItsEnd(t *testing.T) {
	o := output(t)
	write(t, o, "one\nlast")
	o.close()
	if got, err := o.WaitLine(t.Context(), func(l string) bool { return l == "last" }); got != "last" || err != nil {
		t.Errorf("WaitLine: %q, %v, want last", got, err)
	}
	if _, err := o.WaitLine(t.Context(), func(string) bool { return false }); !errors.Is(err, errNoLine) {
		t.Errorf("WaitLine for a line that never came: %v, want errNoLine", err)
	}
}

func TestWaitLineEndsWithItsContext(t *testing.T) {
	o := output(t)
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(cause)
	if _, err := o.WaitLine(ctx, func(string) bool { return true }); !errors.Is(err, cause) {
		t.Errorf("WaitLine: %v, want %v", err, cause)
	}
}

func TestTailIsWholeLines(t *testing.T) {
	o := output(t)
	write(t, o, "first\nsecond\nthird\n")
	for limit, want := range map[int]string{100: "first\nsecond\nthird\n", 10: "third\n", 15: "second\nthird\n"} {
		if got := o.Tail(limit); got != want {
			t.Errorf("Tail(%d): %q, want %q", limit, got, want)
		}
	}
}
