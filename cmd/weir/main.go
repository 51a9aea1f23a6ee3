// Command weir keeps vendor systems in step with canonical Kafka events.
package main

import (
	"context"
	"io"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	// net/http tells the global logger of bytes that came without a request, and shows them: what a vendor answers may
	// hold personal data (promise 9). What matters of it is in the attempt.
	log.SetOutput(io.Discard)
	os.Exit(run(context.Background(), processEnv()))
}

// processEnv is the process as the commands see it. Nothing else in this package touches os.
func processEnv() *Env {
	return &Env{
		Args:       os.Args[1:],
		Getenv:     os.Getenv,
		Stdin:      os.Stdin,
		Stdout:     os.Stdout,
		Stderr:     os.Stderr,
		IsTerminal: isTerminal(os.Stderr),
		Hostname:   hostname(),
		Now:        time.Now,
		Open: func(path string) (io.ReadCloser, int64, error) {
			f, err := os.Open(path)
			if err != nil {
				return nil, 0, err
			}
			st, err := f.Stat()
			if err != nil {
				f.Close()
				return nil, 0, err
			}
			return f, st.Size(), nil
		},
		Create: func(path string) (io.WriteCloser, error) {
			return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600) // may hold personal data
		},
		Dir:     os.DirFS,
		Signals: notify(os.Interrupt, syscall.SIGTERM),
		Reload:  notify(syscall.SIGHUP),
		MakeDir: func(path string) error { return os.MkdirAll(path, 0o700) }, // what is in it may be personal data
		TempDir: func(pattern string) (string, error) { return os.MkdirTemp("", pattern) },
		Command: func(args ...string) *exec.Cmd {
			self, err := os.Executable()
			if err != nil {
				self = os.Args[0]
			}
			return exec.Command(self, args...)
		},
		Exit: os.Exit,
	}
}

// notify delivers signals until stop is called.
func notify(which ...os.Signal) func() (signals <-chan os.Signal, stop func()) {
	return func() (<-chan os.Signal, func()) {
		ch := make(chan os.Signal, 2) // 2: the second signal must not be lost while the first is handled
		signal.Notify(ch, which...)
		return ch, func() { signal.Stop(ch) }
	}
}

// isTerminal reports whether f is a character device: a terminal, as opposed to a file or pipe.
func isTerminal(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0
}

func hostname() string {
	h, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return h
}
