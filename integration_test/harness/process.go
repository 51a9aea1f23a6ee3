package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// outputMax bounds the file of one output stream of a child: one that logs in a loop must not fill the disk.
const outputMax = 256 << 20

// readMax bounds what is read back of an output into memory at once.
const readMax = 16 << 20

// A child is a running or ended child process.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the child has ended and its output is complete
}

// startChild starts cmd and waits for it in the background. The goroutine keeps its thread for the child's
// lifetime, since the kernel's signal at the parent's death goes by thread, not by process (childAttr).
func startChild(cmd *exec.Cmd) (*child, error) {
	cmd.SysProcAttr = childAttr()
	// A grandchild may hold the output pipes open after the child is gone.
	cmd.WaitDelay = 10 * time.Second
	c := &child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait() // the result is read from ProcessState
		close(c.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return c, nil
}

// code is the exit code, -1 if a signal ended the child. Only after done.
func (c *child) code() int { return c.cmd.ProcessState.ExitCode() }

func (c *child) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// signal sends sig; to a child that has ended it does nothing.
func (c *child) signal(sig os.Signal) error {
	if err := c.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to process %d: %w", sig, c.cmd.Process.Pid, err)
	}
	return nil
}

// kill ends the child at once and waits until it is gone.
func (c *child) kill() error {
	if err := c.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-c.done
	return nil
}

// stop asks the child to end and kills it when it has not within the time; clean tells which it was.
func (c *child) stop(within time.Duration) (clean bool, err error) {
	// A frozen child would get SIGTERM only when it goes on.
	if err := errors.Join(c.signal(syscall.SIGTERM), c.signal(syscall.SIGCONT)); err != nil {
		return false, err
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c.done:
		return true, nil
	case <-timer.C:
		return false, c.kill()
	}
}

// An Output is one output stream of a child process, kept in a file of at most 256 MiB. Safe for concurrent use.
type Output struct {
	path string

	mu      sync.Mutex
	f       *os.File
	size    int64
	dropped bool
	closed  bool
	changed chan struct{} // closed and replaced at each change
}

func newOutput(path string) (*Output, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	return &Output{path: path, f: f, changed: make(chan struct{})}, nil
}

// Write takes output of the child. Beyond the bound it is dropped.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.dropped || o.size+int64(len(b)) > outputMax {
		o.dropped = true
		return len(b), nil
	}
	n, err := o.f.Write(b)
	o.size += int64(n)
	o.notify()
	return n, err
}

// close says that no more output will come.
func (o *Output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed = true
		o.f.Close()
		o.notify()
	}
}

func (o *Output) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

// Path is the file that holds the output.
func (o *Output) Path() string { return o.path }

// String is the output so far, at most its first 16 MiB.
func (o *Output) String() string {
	f, err := os.Open(o.path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, readMax))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// Tail is the end of the output, at most limit bytes, in whole lines if it was cut.
func (o *Output) Tail(limit int) string { return tail(o.path, limit) }

func tail(path string, limit int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	from := max(0, size-int64(limit))
	b, err := io.ReadAll(io.NewSectionReader(f, from, int64(limit)))
	if err != nil {
		return err.Error()
	}
	if from > 0 {
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	return string(b)
}

// WaitLine waits for a line of the output, from its start, that match accepts, and returns it without its line
// end. The errors are the context's, and errNoLine when the child has ended without such a line.
func (o *Output) WaitLine(ctx context.Context, match func(line string) bool) (string, error) {
	f, err := os.Open(o.path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	r := bufio.NewReader(f)
	var part strings.Builder
	for {
		o.mu.Lock()
		changed, ended := o.changed, o.closed || o.dropped
		o.mu.Unlock()
		for { // what was written before changed was taken
			s, err := r.ReadString('\n')
			part.WriteString(s)
			if err != nil && !errors.Is(err, io.EOF) {
				return "", err
			}
			if err != nil && (!ended || part.Len() == 0) {
				break
			}
			line := strings.TrimRight(part.String(), "\r\n")
			part.Reset()
			if match(line) {
				return line, nil
			}
			if err != nil {
				break
			}
		}
		if ended {
			return "", errNoLine
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
	}
}

var errNoLine = errors.New("the output ended without such a line")
