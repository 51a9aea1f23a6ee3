package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// demoMax bounds a short demo on a machine that other tests load.
const demoMax = 5 * time.Minute

// A demoSummary is the last line of weir demo --json.
type demoSummary struct {
	Events, Delivered, Accepted, Unchanged, Superseded, Folded, Ignored, Parked int
	DeadLettered                                                                int `json:"dead_lettered"`
	Lost, Duplicated, Reordered                                                 int
	Seconds                                                                     float64
	Seed                                                                        uint64
}

// TestDemo runs the demo as a stranger does, with kills, and then what it says to run next.
func TestDemo(t *testing.T) {
	t.Parallel()
	w := harness.NewWeir(t, harness.Build{})
	dir := filepath.Join(t.TempDir(), "kept")
	r := w.Start(t, "demo", "--vendors", "all", "--for", "8s", "--events", "1200", "--seed", "3", "--keep", dir, "--json").Wait(t, demoMax)
	if r.Code != 0 {
		t.Fatalf("exit code %d, want 0\n%s\n%s", r.Code, r.Stdout, r.Stderr)
	}
	if strings.Count(strings.TrimSpace(r.Stdout), "\n") != 0 {
		t.Errorf("--json prints more than one line to stdout:\n%s", r.Stdout)
	}
	keys := `^\{"events":\d+,"delivered":\d+,"accepted":\d+,"unchanged":\d+,"superseded":\d+,"folded":\d+,"ignored":\d+,"parked":\d+,"dead_lettered":\d+,"lost":0,"duplicated":0,"reordered":0,"seconds":[\d.]+,"seed":3\}$`
	if line := r.LastLine(); !regexp.MustCompile(keys).MatchString(line) {
		t.Errorf("last line %s, want it to match %s", line, keys)
	}
	var s demoSummary
	if err := json.Unmarshal([]byte(r.LastLine()), &s); err != nil {
		t.Fatal(err)
	}
	outcomes := s.Delivered + s.Accepted + s.Unchanged + s.Superseded + s.Folded + s.Ignored + s.Parked + s.DeadLettered
	if s.Events != 1200 || outcomes != 3*s.Events { // one outcome for each event and connector
		t.Errorf("%d events and %d outcomes, want 1200 and three times as many: %+v", s.Events, outcomes, s)
	}
	if s.Delivered == 0 || s.Superseded+s.Unchanged == 0 || s.Ignored == 0 || s.Parked == 0 || s.DeadLettered == 0 {
		t.Errorf("the demo shows too little: %+v", s)
	}
	for _, want := range []string{"warning: vendor quotas are multiplied by 1000000", "gets SIGKILL", "CHECK   sound: ", "weir runs again", "OUTAGE  pushcash",
		"OUTAGE  plain", "OUTAGE  finfusion", "429     pushcash", "CLEAN: nothing lost", "ambiguous", "unsupported_country", "framing", " trace ", " parked ls ", " demo --reopen " + dir} {
		if !strings.Contains(r.Stderr, want) {
			t.Errorf("stderr does not say %q:\n%s", want, r.Stderr)
		}
	}
	noChildren(t, dir)

	config := filepath.Join(dir, "weir.yaml")
	if r := w.MustRun(t, "parked", "ls", "--config", config); !strings.Contains(r.Stdout, "pushcash") {
		t.Errorf("parked ls of the kept folder:\n%s", r.Stdout)
	}
	if r := w.Run(t, "status", "--config", config); r.Code != 3 || !strings.Contains(r.Stdout, "pushcash") || !strings.Contains(r.Stderr, "Kafka") {
		t.Errorf("status without the broker: code %d, want 3, what the store knows, and that Kafka is away\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := w.Run(t, "demo", "--keep", dir); r.Code != 2 || !strings.Contains(r.Stderr, "--reopen") {
		t.Errorf("a demo in the folder of another: code %d, %s; want 2 and how to go on", r.Code, r.Stderr)
	}

	again := w.Start(t, "demo", "--reopen", dir)
	effects := again.WaitLine(t, `verify --config \S+ --connector plain --effects (http\S+)`)[1]
	w.MustRun(t, "verify", "--config", config, "--connector", "plain", "--effects", effects, "--complete")
	w.MustRun(t, "verify", "--config", config, "--connector", "pushcash", "--effects", filepath.Join(dir, "pushcash.effects.jsonl"), "--complete")
	w.MustRun(t, "trace", "cust_000001", "--config", config)
	if r := again.Stop(t, time.Minute); r.Code != 0 {
		t.Errorf("demo --reopen: code %d after SIGTERM, want 0\n%s", r.Code, r.Stderr)
	}
}

// TestDemoStops: the first Ctrl-C ends it in order, with what was done until then, the second at once. Neither leaves
// the connector process behind.
func TestDemoStops(t *testing.T) {
	t.Parallel()
	w := harness.NewWeir(t, harness.Build{})
	for _, signals := range []int{1, 2} {
		t.Run(fmt.Sprint(signals), func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "kept")
			p := w.Start(t, "demo", "--for", "10m", "--keep", dir, "--kill=false")
			p.WaitLine(t, `pushcash running`)
			if n := len(children(t, dir)); n != 1 {
				t.Fatalf("%d connector processes run, want 1", n)
			}
			p.Signal(t, syscall.SIGINT)
			p.WaitLine(t, `stopping \(interrupt\)`)
			want := 1
			if signals == 2 {
				p.Signal(t, syscall.SIGINT)
				want = 128 + int(syscall.SIGINT)
			}
			r := p.Wait(t, time.Minute)
			// A demo that is quick may have stopped in order before the second signal came.
			if r.Code != want && !(signals == 2 && r.Code == 1) {
				t.Errorf("exit code %d, want %d\n%s", r.Code, want, r.Stderr)
			}
			if r.Code == 1 && !strings.Contains(r.Stdout, "STOPPED before the end") {
				t.Errorf("no word of what was done:\n%s%s", r.Stdout, r.Stderr)
			}
			noChildren(t, dir)
		})
	}
}

// noChildren fails the test if a process runs on the folder's config. One that was killed may take a moment to go.
func noChildren(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for len(children(t, dir)) > 0 {
		if time.Now().After(deadline) {
			t.Fatalf("processes %v of the demo are still there", children(t, dir))
		}
		time.Sleep(50 * time.Millisecond) // not our process: there is no signal
	}
}

// children lists the processes whose command line names the folder's config and run.
func children(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		args := strings.Split(string(text), "\x00")
		if len(args) > 1 && args[1] == "run" && slices.Contains(args, filepath.Join(dir, "weir.yaml")) {
			out = append(out, f)
		}
	}
	return out
}
