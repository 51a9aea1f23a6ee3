package main

import (
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// A child is a process of this program that another command runs. Its methods are safe for concurrent use.
type child struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; set before done is closed
}

// startChild starts this program with other arguments; it writes all its output to out, which must be safe for
// concurrent use with its other writers.
func (a *app) startChild(out io.Writer, args ...string) (*child, error) {
	c := &child{cmd: a.Command(args...), done: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.SysProcAttr = out, out, childAttr()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the kernel ties the child's life to this thread, see childAttr
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.cmd.Path, err)
	}
	return c, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// kill ends it as a crash does, and waits until it is gone.
func (c *child) kill() {
	_ = c.cmd.Process.Kill() // it has ended already, or it ends
	<-c.done
}

// stop asks it to end (SIGTERM) and kills it if that takes longer than within.
func (c *child) stop(within time.Duration) error {
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil && !c.ended() {
		c.kill()
		return fmt.Errorf("ask process %d to stop: %w", c.pid(), err)
	}
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-c.done:
		return c.err
	case <-timer.C:
		c.kill()
		return errors.New("it did not stop within " + within.String() + " of SIGTERM and was killed")
	}
}

func (c *child) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}
