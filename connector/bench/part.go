package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/pprof"
	"time"
)

// The parts of a run, as Options.Command is asked for them.
const (
	PartBroker = "broker"
	PartVendor = "vendor"
	PartBare   = "bare"
	PartWeir   = "weir"
)

// A request is one line from the controller to a part.
type request struct {
	Do string `json:"do"` // stats, arm, count, report
	// Of arm.
	Events  int           `json:"events,omitempty"`
	Warm    int           `json:"warm,omitempty"` // events at the start that are not measured
	Keys    int           `json:"keys,omitempty"`
	Latency time.Duration `json:"latency,omitempty"`
	Start   int64         `json:"start,omitempty"` // Unix ns when the first event is due
	Every   time.Duration `json:"every,omitempty"` // between two due events, 0: all are due at the start
}

// An answer is one line from a part.
type answer struct {
	Addr  string `json:"addr,omitempty"`
	Error string `json:"error,omitempty"`
	// Of stats: what the part's process has used so far.
	CPU     time.Duration `json:"cpu,omitempty"` // user and system
	Mallocs uint64        `json:"mallocs,omitempty"`
	PeakRSS int64         `json:"peak_rss,omitempty"` // bytes
	// Of count and report.
	At         int64   `json:"at,omitempty"` // Unix ns
	Received   int     `json:"received,omitempty"`
	Distinct   int     `json:"distinct,omitempty"`
	Duplicated int     `json:"duplicated,omitempty"`
	Reordered  int     `json:"reordered,omitempty"`
	P50        float64 `json:"p50,omitempty"` // ms
	P99        float64 `json:"p99,omitempty"`
	P999       float64 `json:"p999,omitempty"`
}

// serve says ready and then answers each line of in until in ends, which is the order to stop, or ctx does. handle
// answers what is not stats.
func serve(ctx context.Context, in io.Reader, out io.Writer, ready answer, handle func(request) answer) error {
	enc := json.NewEncoder(out)
	if err := enc.Encode(ready); err != nil {
		return fmt.Errorf("tell the controller: %w", err)
	}
	lines := make(chan request)
	ended := make(chan error, 1)
	go func() {
		dec := json.NewDecoder(in)
		for {
			var r request
			if err := dec.Decode(&r); err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				ended <- err
				return
			}
			select {
			case lines <- r:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case r := <-lines:
			a := answer{Error: fmt.Sprintf("no such request %q", r.Do)}
			switch {
			case r.Do == "stats":
				a = usage()
			case handle != nil:
				a = handle(r)
			}
			if err := enc.Encode(a); err != nil {
				return fmt.Errorf("tell the controller: %w", err)
			}
		}
	}
}

// Under runs run, which is to be measured, as a part: it is stopped by the end of its context when in ends.
func Under(ctx context.Context, in io.Reader, out io.Writer, run func(context.Context) error) (err error) {
	if file := os.Getenv(profileVariable); file != "" {
		stop, perr := profileCPU(file)
		if perr != nil {
			return perr
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- run(ctx); cancel() }()
	err = serve(ctx, in, out, answer{}, nil)
	cancel()
	return errors.Join(err, <-done)
}

// profileCPU profiles the process into a file until stop is called.
func profileCPU(file string) (stop func() error, err error) {
	f, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("profile the process: %w", err)
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(fmt.Errorf("profile the process into %s: %w", file, err), f.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		return f.Close()
	}, nil
}

// Environment variables of a part.
const (
	keyVariable     = "WEIR_BENCH_KEY"         // the vendor's credential
	profileVariable = "WEIR_BENCH_CPU_PROFILE" // the file of an arm's CPU profile, empty: none is taken
)

// A part is a process of a run, seen from the controller.
type part struct {
	name string
	addr string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *json.Decoder
}

// stopMax bounds how long a part may take to end: Weir drains.
const stopMax = 60 * time.Second

// start starts a part and waits until it is ready. profile is the file for its CPU profile, "" for none.
func (b *bench) start(profile, name string, args ...string) (*part, error) {
	cmd := b.o.Command(name, args...)
	cmd.Stderr = b.o.Log
	cmd.Env = append(cmd.Environ(), keyVariable+"=benchmark", profileVariable+"="+profile) // the vendor takes any key
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &part{name: name, cmd: cmd, in: in, out: json.NewDecoder(bufio.NewReader(out))}
	var ready answer
	if err := p.read(&ready); err != nil {
		return nil, errors.Join(err, p.stop())
	}
	p.addr = ready.Addr
	return p, nil
}

func (p *part) read(a *answer) error {
	if err := p.out.Decode(a); err != nil {
		return fmt.Errorf("%s has ended: %w; its log says why", p.name, err)
	}
	if a.Error != "" {
		return fmt.Errorf("%s: %s", p.name, a.Error)
	}
	return nil
}

func (p *part) ask(r request) (a answer, err error) {
	if err := json.NewEncoder(p.in).Encode(r); err != nil {
		return a, fmt.Errorf("%s has ended: %w; its log says why", p.name, err)
	}
	return a, p.read(&a)
}

// stop ends a part and waits for it.
func (p *part) stop() error {
	p.in.Close()
	kill := time.AfterFunc(stopMax, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if err := p.cmd.Wait(); err != nil {
		return fmt.Errorf("%s ended badly: %w; its log says why", p.name, err)
	}
	return nil
}
