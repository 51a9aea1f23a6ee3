package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/verify"
)

// TestVerify runs a connector over a few events and lets the checker look, first at what happened and then at an effects
// log that somebody has changed.
func TestVerify(t *testing.T) {
	w := newWorld(t)
	publish := func(e *Env) {
		e.Stdin = strings.NewReader(strings.Join([]string{customer(1, 1, 1), customer(2, 2, 1), customer(3, 1, 2)}, "\n"))
	}
	if r := invoke(t, w.dir, publish, "publish", "-", "--entity", "customer", "--create-topics"); r.code != 0 {
		t.Fatal(r.stderr)
	}
	for _, entity := range []string{"contract", "invoice"} {
		if err := createTopic(w, "canonical."+entity); err != nil {
			t.Fatal(err)
		}
	}
	store := filepath.Join(w.dir, "weir.db")
	w.config(t, "checkpoint: {store: \"sqlite:"+store+"\"}\n")
	if r := invoke(t, w.dir, nil, "verify"); r.code != exitEnv || !strings.Contains(r.stderr, "weir run creates it") {
		t.Errorf("verify without a store: code %d, %s; want 3 and a hint", r.code, r.stderr)
	}
	w.runUntilDone(t)

	verified := func(code int, args ...string) (*verify.Report, result) {
		t.Helper()
		r := invoke(t, w.dir, nil, append([]string{"verify", "--complete"}, args...)...)
		if r.code != code {
			t.Errorf("verify %q: code %d, want %d\n%s%s", args, r.code, code, r.stdout, r.stderr)
		}
		rep := new(verify.Report)
		if strings.HasPrefix(r.stdout, "{") {
			if err := json.Unmarshal([]byte(r.stdout), rep); err != nil {
				t.Errorf("verify %q: %v", args, err)
			}
		}
		return rep, r
	}
	rep, _ := verified(0, "--effects", w.vendor.AdminURL, "--json")
	if rep.Events != 3 || rep.Delivered+rep.Superseded != 3 || rep.Effects.Applied == 0 || !rep.Clean() {
		t.Errorf("report %+v, want 3 events, all delivered or superseded, and clean", rep)
	}
	if _, r := verified(0, "--effects", w.vendor.AdminURL); !strings.Contains(r.stdout, "\nClean: ") {
		t.Errorf("text of a clean report: %s", r.stdout)
	}
	if _, r := verified(0); !strings.Contains(r.stderr, "no effects log was given") {
		t.Errorf("verify without effects does not say what it cannot say: %s", r.stderr)
	}

	effects, err := verify.LoadEffects(context.Background(), nil, w.vendor.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, es []verify.Effect) string {
		var b strings.Builder
		for _, e := range es {
			line, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			b.Write(append(line, '\n'))
		}
		path := filepath.Join(w.dir, name)
		write(t, path, b.String())
		return path
	}
	// An effect of an entity that nobody published.
	foreign := effects[0]
	foreign.Seq, foreign.Reference, foreign.Object = int64(len(effects)+1), "CUST-9.1", "CUST-9"
	rep, _ = verified(exitOurs, "--effects", file("more.jsonl", append(effects, foreign)), "--json")
	if rep.Duplicated != 1 || rep.Kinds["effect_without_record"] != 1 {
		t.Errorf("an effect too many: %+v, want it found", rep)
	}
	_, r := verified(exitOurs, "--effects", file("none.jsonl", nil))
	if !strings.Contains(r.stdout, "effect_missing") || !strings.Contains(r.stdout, "canonical.customer/") || !strings.Contains(r.stdout, "weir trace evt-") {
		t.Errorf("a lost effect is not named with its record and the next command:\n%s", r.stdout)
	}

	for want, args := range map[string][]string{
		"is not in the config": {"--connector", "other"},
		"no such file":         {"--effects", filepath.Join(w.dir, "missing.jsonl")},
		"line 1":               {"--effects", filepath.Join(w.dir, "key")},
		"no name or no value":  {"--alias", "put"},
	} {
		if _, r := verified(exitYours, args...); !strings.Contains(r.stderr, want) {
			t.Errorf("verify %q: %s; want it to say %q", args, r.stderr, want)
		}
	}
	if _, r := verified(exitEnv, "--effects", "http://127.0.0.1:1"); !strings.Contains(r.stderr, "is it running?") {
		t.Errorf("an admin URL where nothing listens: %s", r.stderr)
	}
}

// runUntilDone runs the connectors until Kafka says that there is no lag.
func (w *world) runUntilDone(t *testing.T) {
	t.Helper()
	signals := make(chan os.Signal, 1)
	ended := make(chan result, 1)
	go func() {
		ended <- invoke(t, w.dir, func(e *Env) { e.Signals = func() (<-chan os.Signal, func()) { return signals, func() {} } }, "run")
	}()
	deadline := time.Now().Add(30 * time.Second)
	for {
		r := invoke(t, w.dir, nil, "status", "--json")
		var s statusReport
		if json.Unmarshal([]byte(r.stdout), &s) == nil && len(s.Connectors) == 1 && s.Connectors[0].Lag != nil && *s.Connectors[0].Lag == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the connector is not done: %s%s", r.stdout, r.stderr)
		}
		time.Sleep(50 * time.Millisecond) // another command's state: there is no signal
	}
	signals <- syscall.SIGTERM
	if r := <-ended; r.code != 0 {
		t.Fatalf("weir run: code %d\n%s", r.code, r.stderr)
	}
}
