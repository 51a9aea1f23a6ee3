package integration_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/weirsync/weir/integration_test/harness"
)

// TestBench runs the benchmark small: every event arrives once and in order, and the figures are there under the names
// of design section 17. What they are, a busy machine does not say.
func TestBench(t *testing.T) {
	w := harness.NewWeir(t, harness.Build{})
	profiles := filepath.Join(t.TempDir(), "profiles")
	r := w.MustRun(t, "bench", "--events", "1000", "--rounds", "1", "--in-flight", "64", "--latency", "2ms", "--rate", "2000", "--seed", "7",
		"--cpu-profile", profiles, "--json")
	var report struct {
		Machine   map[string]any   `json:"machine"`
		Seed      int              `json:"seed"`
		Scenarios []map[string]any `json:"scenarios"`
		Stages    []map[string]any `json:"stages"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil {
		t.Fatalf("%v\n%s", err, r.Stdout)
	}
	if len(report.Machine) == 0 || report.Seed != 7 || len(report.Scenarios) != 1 || len(report.Stages) == 0 {
		t.Fatalf("report %s", r.Stdout)
	}
	s := report.Scenarios[0]
	for _, name := range []string{"events", "events_per_s", "bare_events_per_s", "ratio_bare", "ratio_bound", "cpu_us_per_event", "bare_cpu_us_per_event",
		"allocs_per_event", "peak_rss_mib", "p50_ms", "p99_ms", "p999_ms"} {
		if f, ok := s[name].(float64); !ok || f <= 0 {
			t.Errorf("%s is %v, want more than 0", name, s[name])
		}
	}
	for _, name := range []string{"lost", "duplicated", "reordered"} {
		if f, ok := s[name].(float64); !ok || f != 0 {
			t.Errorf("%s is %v, want 0", name, s[name])
		}
	}
	if s["name"] != "2ms" || s["events"] != 1000.0 {
		t.Errorf("name %v, events %v", s["name"], s["events"])
	}
	for _, arm := range []string{"bare", "weir"} {
		b, err := os.ReadFile(filepath.Join(profiles, "2ms-1-"+arm+".pprof"))
		if err != nil || !bytes.HasPrefix(b, []byte{0x1f, 0x8b}) { // pprof files are gzip
			t.Errorf("the profile of %s has %d bytes, %v", arm, len(b), err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
	}{
		{[]string{"bench", "--cpu-profile", filepath.Join(file, "profiles")}, 2},
		{[]string{"bench", "--scenario", "3ms"}, 2},
		{[]string{"bench", "--events", "0"}, 2},
		{[]string{"bench", "--rounds", "1000"}, 2},
		{[]string{"bench", "--scenario", "0ms", "--latency", "1ms"}, 2},
		{[]string{"bench", "--brokers", "127.0.0.1:1", "--events", "10", "--rounds", "1"}, 3},
	} {
		if r := w.Run(t, c.args...); r.Code != c.code {
			t.Errorf("%q: exit code %d, want %d\n%s", c.args, r.Code, c.code, r.Stderr)
		}
	}
}
