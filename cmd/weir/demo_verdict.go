package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/verify"
)

// verdict lets the checker judge the whole run, prints what it says, and makes the exit code of it.
func (d *demo) verdict(ctx context.Context, ended demoEnd) error {
	var reps []*verify.Report
	for i, h := range d.histories {
		bar := d.progress("check " + h.connector)
		h.progress = bar.update
		rep, err := d.check(ctx, h, d.world.vendors[i], ended == demoDone)
		bar.end()
		if err != nil {
			return err
		}
		reps = append(reps, rep)
	}
	clean := ended == demoDone && len(d.midway) == 0
	sum := verify.Summary{Seconds: round3(d.Now().Sub(d.screen.start).Seconds()), Seed: d.seed}
	for _, r := range reps {
		clean = clean && r.Clean()
		addReport(&sum, r)
	}
	for _, m := range d.midway { // what was wrong then may be covered up by now
		sum.Lost, sum.Duplicated, sum.Reordered = max(sum.Lost, m.report.Lost), max(sum.Duplicated, m.report.Duplicated), max(sum.Reordered, m.report.Reordered)
	}
	out := d.Stdout
	if d.asJSON {
		out = d.Stderr
	}
	example, err := d.someParked(ctx)
	if err != nil {
		return err
	}
	if err := d.printVerdict(out, ended, reps, clean, cmp.Or(example, "cust_000001"), sum.Seconds); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	if d.asJSON {
		if err := d.printSummary(sum); err != nil {
			return err
		}
	}
	switch {
	case ended == demoStopped:
		return context.Cause(ctx)
	case !clean:
		return silent{exitOurs}
	}
	return nil
}

// addReport adds one connector's counts. Events are those of the topics, which all connectors read.
func addReport(s *verify.Summary, r *verify.Report) {
	s.Events = max(s.Events, r.Events)
	s.Delivered += r.Delivered
	s.Accepted += r.Accepted
	s.Unchanged += r.Unchanged
	s.Superseded += r.Superseded
	s.Folded += r.Folded
	s.Ignored += r.Ignored
	s.Parked += r.Parked
	s.DeadLettered += r.DeadLettered
	s.Lost += r.Lost
	s.Duplicated += r.Duplicated
	s.Reordered += r.Reordered
}

// demoRows are the lines of the verdict's table.
var demoRows = []struct {
	name, means string
	n           func(*verify.Report) int
	always      bool
}{
	{"events", "in the topics", func(r *verify.Report) int { return r.Events }, true},
	{"delivered", "done at the vendor", func(r *verify.Report) int { return r.Delivered }, true},
	{"accepted", "taken, not yet confirmed", func(r *verify.Report) int { return r.Accepted }, false},
	{"superseded", "a newer event went instead", func(r *verify.Report) int { return r.Superseded }, true},
	{"unchanged", "the vendor has it already", func(r *verify.Report) int { return r.Unchanged }, false},
	{"folded", "part of an aggregate", func(r *verify.Report) int { return r.Folded }, false},
	{"ignored", "nothing to send for it", func(r *verify.Report) int { return r.Ignored }, true},
	{"parked", "kept: refused, or in doubt", func(r *verify.Report) int { return r.Parked }, true},
	{"dead-lettered", "kept: no valid event", func(r *verify.Report) int { return r.DeadLettered }, true},
	{"skipped", "jumped over by an operator", func(r *verify.Report) int { return r.Skipped }, false},
	{"pending", "no outcome yet", func(r *verify.Report) int { return r.Pending }, false},
	{"LOST", "no outcome, or no effect", func(r *verify.Report) int { return r.Lost }, true},
	{"DUPLICATED", "done more than once", func(r *verify.Report) int { return r.Duplicated }, true},
	{"REORDERED", "an older one after a newer", func(r *verify.Report) int { return r.Reordered }, true},
}

// printVerdict prints the verdict for people; example is an id to trace.
func (d *demo) printVerdict(w io.Writer, ended demoEnd, reps []*verify.Report, clean bool, example string, seconds float64) error {
	var b strings.Builder
	switch {
	case ended == demoStopped:
		fmt.Fprintf(&b, "\nSTOPPED before the end. What was done until then:\n")
	case ended == demoStalled:
		fmt.Fprintf(&b, "\nNOT DONE: %s records had no outcome when nothing had moved for %v.\n", thousands(d.left), demoStall)
	case clean:
		fmt.Fprintf(&b, "\nCLEAN: nothing lost, nothing done twice, nothing out of order.\n")
	default:
		fmt.Fprintf(&b, "\nNOT CLEAN: topics, ledger and the vendors' logs disagree.\n")
	}
	fmt.Fprintf(&b, "The checker compared each record of the topics with weir's ledger and with what\nthe vendors logged. Each event has an outcome per vendor:\n\n")
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(tw, "\t")
	for _, v := range d.vendors {
		fmt.Fprintf(tw, "%10s\t", v)
	}
	fmt.Fprintln(tw)
	for _, row := range demoRows {
		some := row.always
		for _, r := range reps {
			some = some || row.n(r) > 0
		}
		if !some {
			continue
		}
		fmt.Fprintf(tw, "  %s\t", row.name)
		for _, r := range reps {
			fmt.Fprintf(tw, "%10s\t", thousands(int64(row.n(r))))
		}
		fmt.Fprintf(tw, "%s\n", row.means)
	}
	tw.Flush() // into b: cannot go wrong
	d.writeTrouble(&b, reps, seconds)
	d.writeReasons(&b, reps)
	for _, m := range d.midway {
		fmt.Fprintf(&b, "\nFound in connector %s right after kill %d:\n", m.connector, m.kill)
		if err := m.report.WriteFindings(&b); err != nil {
			return err
		}
	}
	for i, r := range reps {
		if !r.Clean() {
			fmt.Fprintf(&b, "\nFound in connector %s:\n", d.vendors[i])
			if err := r.WriteFindings(&b); err != nil {
				return err
			}
		}
	}
	d.writeNext(&b, example)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTrouble says what the run went through.
func (d *demo) writeTrouble(b *strings.Builder, reps []*verify.Report, seconds float64) {
	sum := map[string]int64{}
	for _, v := range d.world.vendors {
		for name, n := range v.box.Counters() {
			sum[name] += n
		}
	}
	repeats := 0
	for _, r := range reps {
		repeats += r.Effects.Replayed + r.Effects.Repeated
	}
	fmt.Fprintf(b, "\nIn %.0f s: weir killed with SIGKILL %s, %s with %s refused requests,\n%s answers lost, %s 5xx, %s 429s, %s slow answers. Of the requests that were\nsent again, %s changed nothing at the vendor.\n",
		seconds, times(d.killed), plural(d.outages, "outage"), thousands(sum["faults.outage"]), thousands(sum["faults.ambiguous"]),
		thousands(sum["faults.error"]), thousands(sum["faults.throttle"]), thousands(sum["faults.slow"]), thousands(int64(repeats)))
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// demoReasonsMax is how many reasons are shown of a connector.
const demoReasonsMax = 8

// writeReasons says why records are parked and dead-lettered.
func (d *demo) writeReasons(b *strings.Builder, reps []*verify.Report) {
	fmt.Fprintf(b, "\nWhy records were parked and dead-lettered:\n\n")
	tw := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	for i, r := range reps {
		shown, more := 0, 0
		for _, k := range r.Reasons {
			if k.Outcome == checkpoint.Ignored {
				continue
			}
			if shown == demoReasonsMax {
				more += k.Count
				continue
			}
			shown++
			reason := k.Reason
			if k.Cause == checkpoint.CauseHeld {
				reason = "behind a parked one of its key"
			}
			if r := []rune(reason); len(r) > 34 { // what is left of 80 columns
				reason = string(r[:31]) + "..."
			}
			fmt.Fprintf(tw, "  %s\t%s\t%6s\t%s\t%s\n", d.vendors[i], strings.ReplaceAll(string(k.Outcome), "_", "-"), thousands(int64(k.Count)), k.Cause, reason)
		}
		if more > 0 {
			fmt.Fprintf(tw, "  %s\t(others)\t%6s\t\t\n", d.vendors[i], thousands(int64(more)))
		}
	}
	tw.Flush() // into b: cannot go wrong
}

// writeNext names the commands that show more.
func (d *demo) writeNext(b *strings.Builder, example string) {
	config := shellWord(filepath.Join(d.dir, demoConfigFile))
	self := d.self()
	fmt.Fprintf(b, "\nEverything is kept in %s. Look around:\n\n", d.dir)
	fmt.Fprintf(b, "  %s trace %s --config %s\n", self, shellWord(example), config)
	fmt.Fprintf(b, "  %s parked ls --config %s\n", self, config)
	fmt.Fprintf(b, "  %s demo --reopen %s   # broker and vendors again\n", self, shellWord(d.dir))
	fmt.Fprintf(b, "  rm -r %s\n", shellWord(d.dir))
}

// someParked is the key of a parked record, "" if there is none.
func (d *demo) someParked(ctx context.Context) (string, error) {
	store, err := d.readStore(context.WithoutCancel(ctx), d.cfg)
	if err != nil {
		return "", err
	}
	ps, err := store.Parked(context.WithoutCancel(ctx), checkpoint.ParkedQuery{Connector: d.vendors[0], States: []checkpoint.ParkedState{checkpoint.ParkedOpen}, Limit: 1})
	if len(ps) == 0 {
		return "", errors.Join(err, store.Close())
	}
	return ps[0].EntityKey.Key, errors.Join(err, store.Close())
}
