package bench

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The same seed gives the same events; the versions of a key rise by one.
func TestWorkload(t *testing.T) {
	a, b, c := newWorkload(1, 1000), newWorkload(1, 1000), newWorkload(2, 1000)
	if !slices.Equal(a.keyOf, b.keyOf) || slices.Equal(a.keyOf, c.keyOf) {
		t.Error("the seed does not choose the events")
	}
	last := map[int32]int32{}
	for i, k := range a.keyOf {
		if last[k]++; a.version[i] != last[k] {
			t.Fatalf("event %d of key %d has version %d, want %d", i, k, a.version[i], last[k])
		}
	}
	if len(last) < 150 || len(last) > 200 {
		t.Errorf("%d entities for 1,000 events, want nearly 200", len(last))
	}
}

// Every event passes schema and rules, and its request is what the vendor reads.
func TestVendorReadsWhatTheProfileWrites(t *testing.T) {
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := schema.EmbeddedRules(set)
	if err != nil {
		t.Fatal(err)
	}
	pr, err := profile.Parse("bench.yaml", profileText)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := pr.Compile(profile.Options{Connector: "bench", BaseURL: "http://127.0.0.1:1", Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	w := newWorkload(1, 50)
	values, err := encode(w)
	if err != nil {
		t.Fatal(err)
	}
	dec := schema.NewDecoder(set, nil, schema.DecoderOptions{Rules: rules, Topics: map[string]string{"t": entity}})
	v := &vendor{}
	v.handle(request{Do: "arm", Events: 50, Keys: w.keys})
	for i := range values.values {
		ev, err := dec.Decode(t.Context(), &schema.Record{Topic: "t", Key: []byte(values.keys[i]), Value: values.values[i]})
		if err != nil {
			t.Fatalf("event %d: %v", i, err)
		}
		in := &profile.Input{Event: ev}
		plan, err := compiled.RoutesFor(entity)[0].Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		req, err := plan.Steps[0].Build(in, 0)
		if err != nil {
			t.Fatal(err)
		}
		key, _ := v.receive([]byte(req.Path), req.Body)
		v.answered(key)
		if key != int(w.keyOf[i]) {
			t.Errorf("event %d of key %d is counted for key %d: %s", i, w.keyOf[i], key, req.Body)
		}
	}
	if a := v.handle(request{Do: "report"}); a.Error != "" || a.Distinct != 50 || a.Duplicated != 0 || a.Reordered != 0 {
		t.Errorf("report of 50 events in order: %+v", a)
	}
}

// The vendor is what the verdict rests on: each fault is seen, over a connection.
func TestVendorJudges(t *testing.T) {
	for name, tc := range map[string]struct {
		requests   []string // key, version, number
		duplicated int
		reordered  int
		distinct   int
		wrong      bool
	}{
		"clean":              {requests: []string{"0 1 0", "1 1 1", "0 2 2"}, distinct: 3},
		"twice":              {requests: []string{"0 1 0", "0 1 0"}, duplicated: 1, distinct: 1},
		"reordered":          {requests: []string{"0 2 2", "0 1 0"}, reordered: 1, distinct: 2},
		"one version twice":  {requests: []string{"0 1 0", "0 1 1"}, reordered: 1, distinct: 2},
		"a key of no event":  {requests: []string{"9 1 0"}, wrong: true},
		"an event of no run": {requests: []string{"0 1 9"}, wrong: true},
	} {
		t.Run(name, func(t *testing.T) {
			ask, addr := startVendor(t)
			if a := ask(request{Do: "arm", Events: 3, Keys: 2}); a.Error != "" {
				t.Fatal(a.Error)
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			r := bufio.NewReader(c)
			for _, q := range tc.requests {
				send(t, c, q)
				readAnswer(t, r)
			}
			a := ask(request{Do: "report"})
			if (a.Error != "") != tc.wrong {
				t.Fatalf("report says %q", a.Error)
			}
			if !tc.wrong && (a.Duplicated != tc.duplicated || a.Reordered != tc.reordered || a.Distinct != tc.distinct) {
				t.Errorf("report %+v, want %d duplicated, %d reordered, %d distinct", a, tc.duplicated, tc.reordered, tc.distinct)
			}
		})
	}
}

// Two requests of a key at the same time are out of order, whichever comes first.
func TestVendorSeesOverlap(t *testing.T) {
	ask, addr := startVendor(t)
	ask(request{Do: "arm", Events: 3, Keys: 2, Latency: 50 * time.Millisecond})
	var readers []*bufio.Reader
	began := time.Now()
	for _, q := range []string{"0 1 0", "0 2 2"} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		send(t, c, q)
		readers = append(readers, bufio.NewReader(c))
	}
	for _, r := range readers {
		readAnswer(t, r)
	}
	if took := time.Since(began); took < 50*time.Millisecond {
		t.Errorf("answered after %v, before the latency is over", took)
	}
	if a := ask(request{Do: "report"}); a.Reordered != 1 {
		t.Errorf("report of an overlap: %+v, want 1 reordered", a)
	}
}

func TestVendorTellsLatency(t *testing.T) {
	v := &vendor{}
	start := time.Now().Add(-time.Second).UnixNano()
	v.handle(request{Do: "arm", Events: 4, Keys: 1, Warm: 2, Start: start, Every: 100 * time.Millisecond})
	for n, took := range []time.Duration{9 * time.Second, 9 * time.Second, 10 * time.Millisecond, 30 * time.Millisecond} {
		v.at[n] = start + int64(took) // all four are of one group, and due together
	}
	if a := v.handle(request{Do: "report"}); a.P50 != 30 || a.P99 != 30 || a.P999 != 30 {
		t.Errorf("report %+v, want the upper of 10 and 30 ms, and nothing of the warm-up", a)
	}
	if got := quantile([]int64{1e6, 2e6, 3e6, 4e6}, 0.5); got != 3 {
		t.Errorf("quantile = %v, want 3", got)
	}
}

func startVendor(t *testing.T) (ask func(request) answer, addr string) {
	t.Helper()
	in, toVendor := io.Pipe()
	fromVendor, out := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- Vendor(t.Context(), in, out) }()
	dec := json.NewDecoder(fromVendor)
	var ready answer
	if err := dec.Decode(&ready); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		toVendor.Close()
		if err := <-done; err != nil {
			t.Errorf("vendor: %v", err)
		}
	})
	return func(r request) (a answer) {
		if err := json.NewEncoder(toVendor).Encode(r); err != nil {
			t.Fatal(err)
		}
		if err := dec.Decode(&a); err != nil {
			t.Fatal(err)
		}
		return a
	}, ready.Addr
}

// send sends the request "key version number".
func send(t *testing.T, w io.Writer, q string) {
	t.Helper()
	f := strings.Fields(q)
	body := fmt.Sprintf(`{"version":%s,"number":%s}`, f[1], f[2])
	if _, err := fmt.Fprintf(w, "PUT /things/con_%s HTTP/1.1\r\nHost: x\r\ncontent-length: %d\r\n\r\n%s", f[0], len(body), body); err != nil {
		t.Fatal(err)
	}
}

func readAnswer(t *testing.T, r io.Reader) {
	t.Helper()
	b := make([]byte, len(vendorAnswer))
	if _, err := io.ReadFull(r, b); err != nil || string(b) != vendorAnswer {
		t.Fatalf("answer %q, %v", b, err)
	}
}

// Weir reads the config that is written for it.
func TestConfigIsOne(t *testing.T) {
	b := &bench{o: Options{InFlight: 77}, brokers: []string{"127.0.0.1:1", "127.0.0.1:2"}}
	file, err := b.config(t.TempDir(), "bench-1-2", "topic", "http://127.0.0.1:3")
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(file, func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	k := cfg.Connectors["bench-1-2"]
	if k.Delivery.MaxInFlight != 77 || k.Topic(entity) != "topic" || k.BaseURL != "http://127.0.0.1:3" || k.ProfileFile() != filepath.Join(filepath.Dir(file), "bench.yaml") || len(cfg.Kafka.Brokers) != 2 {
		t.Errorf("config %+v", k)
	}
}

func TestOptionsAreBounded(t *testing.T) {
	for _, o := range []Options{{Events: -1}, {InFlight: 1 << 20}, {Rounds: 1000}, {Rate: -1}, {Scenarios: []Scenario{{"x", -1}}}, {Scenarios: []Scenario{{"x", time.Hour}}}} {
		if _, err := Run(t.Context(), o); !errors.Is(err, ErrOption) {
			t.Errorf("Run(%+v) = %v, want %v", o, err, ErrOption)
		}
	}
}

// Figures are medians, the ratio is taken in each round, and what the vendor objects to is added up.
func TestResult(t *testing.T) {
	b := &bench{o: Options{Events: 10, InFlight: 100}}
	bares := []run{{rate: 1000, cpu: 40}, {rate: 500, cpu: 50}, {rate: 2000, cpu: 60}}
	weirs := []run{{rate: 500, cpu: 90, peak: 1 << 20}, {rate: 400, cpu: 80, peak: 3 << 20, lost: 1}, {rate: 800, cpu: 100, report: answer{Duplicated: 2, Reordered: 3}}}
	r := b.result(Scenario{"50ms", 50 * time.Millisecond}, bares, weirs)
	if r.EventsPerS != 500 || r.BarePerS != 1000 || r.RatioBare != 0.5 || *r.RatioBound != 0.25 || r.CPUPerEvent != 90 || r.BareCPU != 50 || r.PeakRSSMiB != 3 {
		t.Errorf("result %+v, bound %v", r, *r.RatioBound)
	}
	if r.Lost != 1 || r.Duplicated != 2 || r.Reordered != 3 || (&Report{Scenarios: []Result{*r}}).Clean() {
		t.Errorf("lost %d, duplicated %d, reordered %d; want 1, 2, 3 and not clean", r.Lost, r.Duplicated, r.Reordered)
	}
	if r = b.result(Scenario{"0ms", 0}, bares[:1], weirs[:1]); r.RatioBound != nil || !(&Report{Scenarios: []Result{*r}}).Clean() {
		t.Errorf("bound %v without a latency, want none", r.RatioBound)
	}
	var out bytes.Buffer
	if err := (&Report{Scenarios: []Result{*r}, Stages: []Stage{{"lane", 900, 6}}}).Print(&out); err != nil || !strings.Contains(out.String(), "bare loop") {
		t.Errorf("Print: %v\n%s", err, out.String())
	}
}
