package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// One process, two vendors: while one is away in full, the other keeps at least 95 % of its rate. A quota far below what
// the machine can do sets the rate, so that it says nothing of the machine.
func TestVendorAwayLeavesTheOther(t *testing.T) {
	t.Parallel()
	const perSecond, windows = 50, 3
	limits := map[string]string{
		"pushcash": fmt.Sprintf("{creates: {n: %d, window: 1s}}", perSecond),
		"plain":    fmt.Sprintf("{calls: {n: %d, window: 1s}}", perSecond),
	}
	profiles := map[string]string{"pushcash": "pushcash", "plain": plainLimited(t)}
	window := 5 * time.Second
	if faultTime() > 10*time.Second {
		window = faultTime()
	}
	for stays, goes := range map[string]string{"pushcash": "plain", "plain": "pushcash"} {
		t.Run(stays, func(t *testing.T) {
			t.Parallel()
			weir := harness.NewWeir(t, harness.Build{})
			log := filepath.Join(t.TempDir(), "effects.jsonl")
			away := harness.StartSandbox(t, weir, goes, "--effects-file", log, "--limit-scale", "100000")
			host := strings.TrimPrefix(away.URL, "http://")
			name := "away-" + goes + "-" + stays
			o := boxOptions{vendor: stays, profile: profiles[stays], sandbox: []string{"--limit-scale", "100000"}, more: "    limits: " + limits[stays] + "\n"}
			// The second connector follows the box's own in the file, and reads the same topics.
			second := fmt.Sprintf("  %s:\n    profile: %s\n    base_url: %s\n    start: earliest\n    secrets: {api_key: \"${env:AWAY_KEY}\"}\n    limits: %s\n    delivery: {request_timeout: 2s}\n",
				name, profiles[goes], away.URL, limits[goes])
			b := newBox(t, o)
			group := "weir." + name
			b.cluster.Claim(t, group, group+".parked", group+".dead")
			b.weir.Env = append(b.weir.Env, "AWAY_KEY="+boxKey)
			b.write(b.config, b.configText()+second+fmt.Sprintf("    topics: {customer: %q, contract: %q, invoice: %q}\n", b.topics["customer"], b.topics["contract"], b.topics["invoice"]))

			phases := []struct {
				name       string
				start, end func()
			}{
				{"both answer", func() {}, func() {}},
				{"no connection", func() { away.Process.Kill(t) }, func() {
					away = harness.StartSandbox(t, weir, goes, "--effects-file", log, "--listen", host, "--limit-scale", "100000")
				}},
				{"503", func() { away.SetFault(t, "outage", true, map[string]any{"mode": "503"}) }, func() { away.SetFault(t, "outage", false, nil) }},
				{"no answer", func() { away.SetFault(t, "black_hole", true, nil) }, func() { away.SetFault(t, "black_hole", false, nil) }},
			}
			// Enough that neither runs dry: work waits all the time.
			events := make([]event, int(windows*window/time.Second+10)*(len(phases)+1)*perSecond)
			for i := range events {
				events[i] = customer(fmt.Sprintf("c-%d", i), 1)
			}
			b.publish(events...)
			p := b.start("--limit-scale", "1") // the last one counts
			b.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return len(es) > 2*perSecond })
			away.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return len(es) > 2*perSecond })
			rates := make([]float64, len(phases))
			for i, ph := range phases {
				ph.start()
				if i > 0 {
					b.until(goes+" away: "+ph.name, boxWait, func() (bool, string) {
						s := b.states()[name]
						return s == "outage", s
					})
				}
				// A machine that stands still for half a second is no neighbour's fault: what a vendor's outage costs, it costs
				// in each window.
				for range windows {
					if rates[i] = max(rates[i], b.rate(window)); rates[i] >= 0.97*max(rates[0], perSecond) {
						break
					}
				}
				if i > 0 {
					if s := b.states(); s[name] != "outage" || s[b.name] != "running" {
						t.Errorf("%s: at the end %v, want outage and running", ph.name, s)
					}
				}
				ph.end()
				if i > 0 {
					b.until(goes+" back after: "+ph.name, boxWait, func() (bool, string) {
						s := b.states()[name]
						return s == "running", s
					})
				}
				t.Logf("%s, %s: %.1f/s to %s", goes, ph.name, rates[i], stays)
			}
			if rates[0] < perSecond/2 {
				t.Errorf("both answer: %.1f/s to %s, too little of its %d/s to compare with", rates[0], stays, perSecond)
			}
			for i, ph := range phases[1:] {
				if rates[i+1] < 0.95*rates[0] {
					t.Errorf("%s %s: %s gets %.1f requests/s, want 95 %% of %.1f", goes, ph.name, stays, rates[i+1], rates[0])
				}
			}
			b.stop(p)
		})
	}
}

// plainLimited is the plain profile with a limit, calls, that customers count against.
func plainLimited(t *testing.T) (file string) {
	t.Helper()
	text, err := os.ReadFile(plainAppliedSoon(t))
	if err != nil {
		t.Fatal(err)
	}
	const class, verdicts = "    class: overwrite\n", "\nverdicts:"
	if strings.Count(string(text), verdicts) != 1 {
		t.Fatal("profile plain has no verdicts")
	}
	s := strings.ReplaceAll(string(text), class, class+"    limits: [calls]\n")
	s = strings.Replace(s, verdicts, "\nlimits:\n  calls: {kind: sliding_window, n: 1, window: 1s}\n"+verdicts, 1)
	file = filepath.Join(t.TempDir(), "plain.yaml")
	if err := os.WriteFile(file, []byte(s), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// rate is how many requests a second the vendor takes, over a time that begins now.
func (b *box) rate(over time.Duration) float64 {
	b.t.Helper()
	start := time.Now()
	time.Sleep(over) // a rate has no signal
	n := 0
	for _, e := range b.sandbox.Applied(b.t) {
		if !e.At.Before(start) && e.At.Before(start.Add(over)) {
			n++
		}
	}
	return float64(n) / over.Seconds()
}

// states are those of all connectors, by name; none if the command fails.
func (b *box) states() map[string]string {
	b.t.Helper()
	all, _, err := b.statuses()
	if err != nil {
		return nil
	}
	states := map[string]string{}
	for _, c := range all {
		states[c.Name] = c.State
	}
	return states
}
