package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// Exit codes (design section 17).
const (
	exitDone  = 0
	exitOurs  = 1 // Weir failed, or a verdict is not clean
	exitYours = 2 // usage, config, or data refused
	exitEnv   = 3 // Kafka, vendor, store or registry not reachable or not permitted
)

// A failure is an error that knows whose it is and what to do.
type failure struct {
	code int
	what string // what was being done, to what
	err  error  // why
	hint string
}

func (f *failure) Error() string { return f.what + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// usageError is a command line that cannot be obeyed.
func usageError(what, why, hint string) error {
	return &failure{exitYours, what, errors.New(why), hint}
}

// yours wraps an error that its user can mend.
func yours(what string, err error, hint string) error {
	return &failure{exitYours, what, err, hint}
}

// environment wraps an error of Kafka, a vendor, the store or a registry, unless err says itself whose it is.
func environment(what string, err error, hint string) error {
	code := exitCode(err)
	if code == exitOurs {
		code = exitEnv
	}
	return &failure{code, what, err, hint}
}

// silent is an error whose text has been printed already; only its code is left.
type silent struct{ code int }

func (s silent) Error() string { return fmt.Sprintf("exit code %d", s.code) }

// exitCode is the one place where an error becomes an exit code.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if s, ok := errors.AsType[silent](err); ok {
		return s.code
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.code
	}
	if _, ok := errors.AsType[*config.Error](err); ok {
		return exitYours
	}
	if _, ok := errors.AsType[profile.Errors](err); ok {
		return exitYours
	}
	if _, ok := errors.AsType[*schema.RefusedError](err); ok {
		return exitYours
	}
	for _, of := range []error{checkpoint.ErrLocked, checkpoint.ErrCorrupt, checkpoint.ErrBroken, checkpoint.ErrFull} {
		if errors.Is(err, of) {
			return exitEnv
		}
	}
	switch kafka.KindOf(err) {
	case kafka.KindConfig:
		return exitYours
	case kafka.KindEnvironment:
		return exitEnv
	}
	return exitOurs
}

// printError writes an error once: weir: what: why, then what to do.
func printError(w io.Writer, err error) {
	if _, ok := errors.AsType[silent](err); ok || err == nil {
		return
	}
	if errors.Is(err, context.Canceled) {
		fmt.Fprintln(w, "weir: stopped before it was done")
		return
	}
	fmt.Fprintf(w, "weir: %s\n", strings.TrimRight(err.Error(), "\n"))
	if f, ok := errors.AsType[*failure](err); ok && f.hint != "" {
		fmt.Fprintf(w, "hint: %s\n", f.hint)
	} else if _, ok := errors.AsType[*config.Error](err); ok && errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(w, "hint: give the path of the config with --config or WEIR_CONFIG, or put %s here\n", defaultConfig)
	}
}

// signalNumber is the number of a signal for exit code 128+n.
func signalNumber(s os.Signal) int {
	if n, ok := s.(syscall.Signal); ok {
		return int(n)
	}
	return 0
}
