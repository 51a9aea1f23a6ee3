package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/verify"
)

func TestDemoRefuses(t *testing.T) {
	full := t.TempDir()
	write(t, filepath.Join(full, "something"), "")
	for want, args := range map[string][]string{
		"--for: 10ms is not within":       {"--for", "10ms"},
		"--events: -1 is not within":      {"--events", "-1"},
		"--limit-scale: 0 is not above 0": {"--limit-scale", "0"},
		"the folder is not empty":         {"--keep", full},
		"not a directory":                 {"--keep", filepath.Join(full, "something", "below")},
		"give the folder that weir demo":  {"--reopen", full},
		"takes no arguments":              {"now"},
		`"acme" is no vendor of the demo`: {"--vendors", "plain,acme"},
		"is named twice":                  {"--vendors", "plain,plain"},
	} {
		if r := invoke(t, "", nil, append([]string{"demo"}, args...)...); r.code != exitYours || !strings.Contains(r.stderr, want) {
			t.Errorf("demo %q: code %d, %s; want 2 and %q", args, r.code, r.stderr, want)
		}
	}
}

func TestDemoPlan(t *testing.T) {
	for _, c := range []struct {
		span   time.Duration
		given  bool
		events int
		want   time.Duration
		n      int
	}{
		{demoSpan, false, 0, demoSpan, 30 * demoRate},
		{10 * time.Second, true, 0, 10 * time.Second, 10 * demoRate},
		{10 * time.Second, true, 50, 10 * time.Second, 50},
		{demoSpan, false, 50, 5 * time.Second, 50},
		{demoSpan, false, 60 * demoRate, time.Minute, 60 * demoRate},
	} {
		d := &demoCmd{vendors: demoVendorsDefault, span: c.span, events: c.events, limitScale: 1}
		if err := d.plan(c.given); err != nil || d.span != c.want || d.events != c.n {
			t.Errorf("--for %v (given: %t) --events %d: %v and %d events, %v; want %v and %d", c.span, c.given, c.events, d.span, d.events, err, c.want, c.n)
		}
	}
}

// What the screen shows, on a terminal and in a log, after some time.
func TestDemoScreen(t *testing.T) {
	for name, terminal := range map[string]bool{"demo_screen_terminal.txt": true, "demo_screen_log.txt": false} {
		var out bytes.Buffer
		now := time.Unix(0, 0)
		a := &app{Env: &Env{Stderr: &out, IsTerminal: terminal, Getenv: func(string) string { return "" }, Now: func() time.Time { return now }}}
		s := a.demoScreen()
		v := demoView{span: 30 * time.Second, events: 12_000, rate: 399.6, process: "weir is process 4711; killed 2 times so far",
			connectors: []demoConnector{{name: "pushcash", state: "outage", applied: 2100, parked: 31, behind: 812},
				{name: "plain", state: "running", applied: 3977, parked: 90, behind: 3}}}
		s.news(colourBad, "OUTAGE  pushcash is away for 3.0 s: connections are closed")
		for range 3 {
			now = now.Add(5 * time.Second)
			v.published += 2000
			s.draw(&v)
			s.draw(&v) // too early: nothing
		}
		s.news(colourGood, "CHECK   sound\nin two lines")
		v.published = 12_000
		now = now.Add(5 * time.Second)
		s.draw(&v)
		s.end()
		golden(t, name, out.String())
		for line := range strings.Lines(out.String()) {
			if plain := strings.NewReplacer("\x1b[31m", "", "\x1b[32m", "", "\x1b[0m", "", "\r\x1b[6A\x1b[J", "", "\r\x1b[7A\x1b[J", "").Replace(line); terminal && len(plain) > 80 {
				t.Errorf("a line of %d columns wraps and spoils the block: %q", len(plain), plain)
			}
		}
	}
}

// The verdict of a clean run, and of one with a finding at the end and one right after a kill.
func TestDemoVerdict(t *testing.T) {
	clean := func() *verify.Report {
		return &verify.Report{Events: 6000, Delivered: 4278, Superseded: 994, Ignored: 454, Parked: 194, DeadLettered: 80, Effects: verify.Effects{Applied: 4300, Replayed: 12, Repeated: 7},
			Reasons: []verify.Reason{{Outcome: checkpoint.Ignored, Reason: "no_counterpart", Count: 454}, {Outcome: checkpoint.ParkedOut, Cause: checkpoint.CauseHeld, Reason: "x", Count: 99},
				{Outcome: checkpoint.ParkedOut, Cause: checkpoint.CauseRejected, Reason: "unsupported_country", Count: 95}, {Outcome: checkpoint.DeadLettered, Cause: checkpoint.CauseRule, Reason: "customer.email", Count: 80}}}
	}
	bad := clean()
	bad.Lost, bad.Kinds = 1, map[string]int{"no_outcome": 1}
	bad.Findings = []verify.Finding{{Promise: 1, Kind: "no_outcome", Topic: "canonical.invoice", Partition: 3, Offset: 17, EventID: "evt_1", Key: "inv_1", Detail: "no outcome on plain.invoice"}}
	for name, c := range map[string]struct {
		ended  demoEnd
		last   *verify.Report
		midway []demoFinding
		clean  bool
	}{
		"demo_verdict_clean.txt":   {demoDone, clean(), nil, true},
		"demo_verdict_broken.txt":  {demoDone, bad, []demoFinding{{2, "pushcash", bad}}, false},
		"demo_verdict_stalled.txt": {demoStalled, clean(), nil, false},
		"demo_verdict_stopped.txt": {demoStopped, clean(), nil, false},
	} {
		var out bytes.Buffer
		a := &app{Env: &Env{Command: func(...string) *exec.Cmd { return &exec.Cmd{Path: "/usr/bin/weir"} }, Now: time.Now}}
		d := &demo{demoCmd: &demoCmd{vendors: demoVendorsDefault, app: a}, dir: "/tmp/kept", world: &demoWorld{}, killed: 3, outages: 2, left: 12, midway: c.midway}
		if err := d.printVerdict(&out, c.ended, []*verify.Report{clean(), c.last}, c.clean, "cust_000598", 33.4); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
}
