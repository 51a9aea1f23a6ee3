package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/bench"
)

type benchCmd struct {
	*app
	o        bench.Options
	scenario []string
	latency  time.Duration
}

func newBenchCommand(a *app) *cobra.Command {
	c := &benchCmd{app: a}
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure weir beside the bare loop, on this machine",
		Long: `Measure how many events weir delivers with everything on (Avro, rules, order per key, mapping, durable ledger), and
beside it, in the same run, the bare loop that it replaces: a franz-go consumer and net/http with --in-flight requests
under way, without order, schemas or ledger. Weir has as many at most, and fewer while they would wait for a CPU. Broker,
vendor and both arms are processes of their own; the arms take turns.

The vendor answers each request after a set time. It counts what it never saw (lost), saw twice (duplicated), or saw
before an older event of the same key was answered (reordered): the exit code is 1 if any of them is not 0.

ratio_bare is weir's rate by that of the bare loop; ratio_bound is weir's rate by in-flight / latency, which no client
can exceed (null without a latency). Without --rate all events wait at the start and the latencies are the age of that
backlog; with --rate they are from the time that an event was due. docs/performance.md says what is measured, and how.`,
		Example: `  weir bench
  weir bench --scenario 50ms --in-flight 256 --json
  weir bench --latency 5ms --rate 3000 --events 30000`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.IntVar(&c.o.Events, "events", 50_000, "events that are measured in each round; a fifth more come before them")
	fs.Uint64Var(&c.o.Seed, "seed", 1, "chooses the events: same seed, same events")
	fs.IntVar(&c.o.InFlight, "in-flight", 512, "requests that each arm may have under way")
	fs.IntVar(&c.o.Rounds, "rounds", 3, "how often each arm runs")
	fs.Float64Var(&c.o.Rate, "rate", 0, "publish so many events per second while the arm runs; 0: all before it starts")
	fs.StringSliceVar(&c.scenario, "scenario", nil, "scenario to run, 0ms or 50ms; may be repeated (default both)")
	fs.DurationVar(&c.latency, "latency", 0, "run one scenario whose vendor answers after this time")
	fs.StringSliceVar(&c.o.Brokers, "brokers", nil, "Kafka to use, host:port; topics of the run stay there (default an embedded broker)")
	fs.StringVar(&c.o.ProfileDir, "cpu-profile", "", "folder for a CPU profile of each run of an arm, for go tool pprof; it costs some percent")
	a.jsonFlag(cmd, "one JSON object {machine, seed, scenarios, stages}")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range []string{"events", "in-flight", "rounds"} {
			if cmd.Flags().Lookup(name).Value.String() == "0" {
				return usageError("--"+name, "0 is none", "use 1 or more")
			}
		}
		if cmd.Flags().Changed("latency") {
			if len(c.scenario) > 0 {
				return usageError("--latency", "cannot go with --scenario", "give one of them")
			}
			c.o.Scenarios = []bench.Scenario{{Name: c.latency.String(), Latency: c.latency}}
		}
		return nil
	}
	return cmd
}

func (c *benchCmd) run(ctx context.Context) error {
	for _, name := range c.scenario {
		found := false
		for _, s := range bench.Defaults() {
			if found = s.Name == name; found {
				c.o.Scenarios = append(c.o.Scenarios, s)
				break
			}
		}
		if !found {
			return usageError("--scenario", fmt.Sprintf("there is no scenario %q", name), "use 0ms or 50ms, or --latency for another one")
		}
	}
	if c.Command == nil {
		return errors.New("this build cannot start itself again")
	}
	c.o.Command = func(part string, args ...string) *exec.Cmd {
		return c.Command(append([]string{"bench-part", "--log-level", "warn", part}, args...)...)
	}
	if c.o.ProfileDir != "" {
		if err := c.MakeDir(c.o.ProfileDir); err != nil {
			return yours("--cpu-profile "+c.o.ProfileDir, err, "name a folder that can be written")
		}
		dir, err := filepath.Abs(c.o.ProfileDir)
		if err != nil {
			return yours("--cpu-profile "+c.o.ProfileDir, err, "")
		}
		c.o.ProfileDir = dir
	}
	c.o.Log = &lockedWriter{mu: &c.stderrMu, w: c.Stderr}
	var bar *progress
	drawn := ""
	c.o.Progress = func(what string, done, total int) {
		if bar == nil || what != drawn {
			if bar != nil {
				bar.end()
			}
			bar, drawn = c.progress(what), what
		}
		bar.update(int64(done), int64(total), int64(done))
	}
	ctx, stop := c.interruptible(ctx, nil)
	defer stop()
	report, err := bench.Run(ctx, c.o)
	if bar != nil {
		bar.end()
	}
	if errors.Is(err, bench.ErrOption) {
		return yours("bench", err, "")
	}
	if err != nil {
		return environment("bench", err, "")
	}
	if c.asJSON {
		err = c.printJSON(report)
	} else {
		err = report.Print(c.Stdout)
	}
	if err == nil && !report.Clean() {
		err = silent{exitOurs}
	}
	return err
}

// newBenchPartCommand is what `weir bench` starts itself again as.
func newBenchPartCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "bench-part PART [ARGUMENT...]",
		Hidden: true,
		Short:  "One process of weir bench",
		Long: `One process of weir bench, which starts it and talks to it on stdin and stdout: broker; vendor; bare TOPIC GROUP URL
IN-FLIGHT BROKER...; weir CONFIG.`,
		Example: "  weir bench-part vendor",
		Args: func(_ *cobra.Command, args []string) error {
			if n := len(args); n == 0 || args[0] == bench.PartBare && n < 6 || args[0] == bench.PartWeir && n != 2 {
				return usageError("bench-part", "misses arguments", "it is started by weir bench")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return a.benchPart(cmd.Context(), args[0], args[1:]) },
	}
}

func (a *app) benchPart(ctx context.Context, part string, args []string) error {
	switch part {
	case bench.PartBroker:
		return bench.Broker(ctx, a.Stdin, a.Stdout)
	case bench.PartVendor:
		return bench.Vendor(ctx, a.Stdin, a.Stdout)
	case bench.PartBare:
		n, err := strconv.Atoi(args[3])
		if err != nil {
			return usageError("bench-part", "the number of requests in flight is none", "it is started by weir bench")
		}
		return bench.Bare(ctx, a.Stdin, a.Stdout, bench.BareOptions{Topic: args[0], Group: args[1], URL: args[2], InFlight: n, Brokers: args[4:]})
	case bench.PartWeir:
		a.configPath = args[0]
		run := &runCmd{app: a, limitScale: 1}
		return bench.Under(ctx, a.Stdin, a.Stdout, run.run)
	}
	return usageError("bench-part", fmt.Sprintf("there is no part %q", part), "it is started by weir bench")
}
