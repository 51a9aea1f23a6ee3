package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/integration_test/harness"
)

// The fault tests break one thing around a running weir while events keep coming, and mend it again. Each holds that
// nothing is lost, doubled or reordered (the independent checker says so), that the log has one line when it starts and
// one when it ends, that readiness and status say what is true, and that work goes on by itself; and each prints how
// long that took.

// faultTime is how long a fault lasts.
func faultTime() time.Duration {
	if os.Getenv("WEIR_TEST_SOAK") == "1" {
		return 30 * time.Second
	}
	return 3 * time.Second
}

// A fault is one thing that breaks, and what must be seen of it.
type fault struct {
	name       string
	start, end func()
	state      string // of the connector; "": it goes on as it was
	reason     string // part of the status' reason
	ready      int    // of /readyz
	exit       int    // of weir status
	// late bounds the time from its end to the first effect after it.
	late time.Duration
}

// A trial is a box with a running weir, and events that keep coming.
type trial struct {
	*box
	weir    *harness.Process
	url     string // of ops.listen
	traffic *traffic
}

// newTrial makes a box for faults: its ops.listen is known, as an operator's is.
func newTrial(t *testing.T, o boxOptions) *trial {
	t.Helper()
	o.ops = harness.Addr(t)
	o.scale = true
	if o.vendor == "" || o.vendor == "plain" {
		o.profile = plainAppliedSoon(t)
	}
	b := newBox(t, o)
	return &trial{box: b, url: "http://" + o.ops}
}

// plainAppliedSoon is the plain profile with a short late_apply: its sandbox carries a request out at once or never, and
// a key whose answer was lost would wait half a minute in each test.
func plainAppliedSoon(t *testing.T) (file string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(harness.Root(t), "connector", "profile", "plain.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	const class = "    class: overwrite\n"
	if !strings.Contains(string(text), class) {
		t.Fatal("profile plain has no operation of class overwrite")
	}
	file = filepath.Join(t.TempDir(), "plain.yaml")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(string(text), class, class+"    late_apply: 1s\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// run starts weir and the events, and waits until the vendor has some.
func (r *trial) run(args ...string) {
	r.t.Helper()
	r.weir = r.start(args...)
	r.traffic = r.startTraffic()
	r.sandbox.WaitEffects(r.t, boxWait, func(es []harness.Effect) bool { return len(es) > 50 })
	r.weir.WaitStatus(r.t, r.url+"/readyz", http.StatusOK)
}

// endure lets a fault come and go.
func (r *trial) endure(f fault) {
	t := r.t
	t.Helper()
	at := time.Now()
	f.start()
	if f.state != "" {
		s := r.waitStatusCode(f.name, f.exit, func(s boxStatus) bool { return s.State == f.state && strings.Contains(s.Reason, f.reason) })
		if s.Since == nil || s.Since.Before(at.Add(-time.Second)) || s.Since.After(time.Now()) {
			t.Errorf("%s: since %v, want after its start at %v", f.name, s.Since, at)
		}
	}
	r.weir.WaitStatus(t, r.url+"/readyz", f.ready)
	for end := at.Add(faultTime()); time.Now().Before(end); time.Sleep(5 * boxPoll) { // what must not happen has no signal
		if got := get(t, r.url+"/healthz"); got != http.StatusOK {
			t.Fatalf("%s: /healthz %d, want 200: the process is alive", f.name, got)
		}
		if got := get(t, r.url+"/readyz"); got != f.ready {
			t.Fatalf("%s: /readyz %d, want %d as long as it lasts", f.name, got, f.ready)
		}
	}
	if f.state != "" {
		if s, err := r.statusCode(f.exit); err != nil || s.State != f.state {
			t.Errorf("%s: at its end the state is %s (%s), %v; want %s", f.name, s.State, s.Reason, err, f.state)
		}
	}
	lasted := time.Since(at)
	f.end()
	before, ended := len(r.sandbox.Applied(t)), time.Now()
	r.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(r.sandbox.Applied(t)) > before })
	first := time.Since(ended)
	r.weir.WaitStatus(t, r.url+"/readyz", http.StatusOK)
	r.waitStatus("running after "+f.name, inState("running"))
	t.Logf("%s lasted %v: first effect after %v, ready and running after %v", f.name, lasted.Round(time.Millisecond), first.Round(time.Millisecond), time.Since(ended).Round(time.Millisecond))
	if f.late > 0 && first > f.late {
		t.Errorf("%s: first effect %v after its end, want within %v", f.name, first, f.late)
	}
}

// finish lets everything be done, drains, and asks the checker. Each text must be in so many lines of the log.
func (r *trial) finish(lines map[string]int) {
	t := r.t
	t.Helper()
	n := r.traffic.stop()
	began := time.Now()
	r.waitLag0()
	lag0 := time.Since(began)
	r.stop(r.weir)
	rep := r.clean()
	t.Logf("%s: %d events, lag 0 %v after the last; %d delivered, %d superseded, %d parked", r.cluster.Kind, n, lag0.Round(time.Millisecond), rep.Delivered, rep.Superseded, rep.Parked)
	if rep.Delivered == 0 {
		t.Error("nothing was delivered")
	}
	out := r.weir.Stderr.String()
	for text, want := range lines {
		if got := linesWith(out, text); len(got) != want {
			t.Errorf("%d lines of the log hold %q, want %d:\n%s", len(got), text, want, strings.Join(got, "\n"))
		}
	}
	r.quietLog(out)
}

// quietLog: a fault is no line per record or retry, whatever it says.
func (r *trial) quietLog(out string) {
	r.t.Helper()
	loud := 0
	for _, l := range strings.Split(out, "\n") {
		if strings.Contains(l, "level=WARN") || strings.Contains(l, "level=ERROR") || l != "" && !strings.HasPrefix(l, "time=") {
			loud++
		}
	}
	if loud > 10 {
		r.t.Errorf("%d warnings, errors and other lines in the log:\n%s", loud, tail(out))
	}
}

func linesWith(log, text string) (out []string) {
	for l := range strings.SplitSeq(log, "\n") {
		if strings.Contains(l, text) {
			out = append(out, l)
		}
	}
	return out
}

// quiet is a log for servers of tests whose errors are wanted.
func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func get(t *testing.T, url string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("GET %s: %v", url, err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// statusCode is what weir status says, whose exit code must be so.
func (b *box) statusCode(code int) (boxStatus, error) {
	b.t.Helper()
	all, got, err := b.statuses()
	if err != nil || len(all) != 1 {
		return boxStatus{}, fmt.Errorf("weir status: exit code %d, %d connectors, %v", got, len(all), err)
	}
	if got != code {
		return all[0], fmt.Errorf("weir status: exit code %d, want %d", got, code)
	}
	return all[0], nil
}

func (b *box) waitStatusCode(what string, code int, ok func(boxStatus) bool) (s boxStatus) {
	b.t.Helper()
	b.until("status: "+what, boxWait, func() (bool, string) {
		var err error
		s, err = b.statusCode(code)
		return err == nil && ok(s), fmt.Sprintf("%+v, %v", s, err)
	})
	return s
}

// traffic is events that keep coming: states of few customers, each newer than the one before, and payments.
type traffic struct {
	b      *box
	client *kgo.Client
	quit   chan struct{}
	done   chan struct{}
	n      int
	failed atomic.Pointer[error]
}

// Two events every trafficEvery, of so many customers.
const (
	trafficEvery     = 10 * time.Millisecond
	trafficCustomers = 40
)

func (b *box) startTraffic() *traffic {
	b.t.Helper()
	f := &traffic{b: b, client: b.cluster.Client(b.t, kgo.ProducerLinger(0)), quit: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(f.done)
		tick := time.NewTicker(trafficEvery)
		defer tick.Stop()
		for i := 0; ; i++ {
			who := fmt.Sprintf("c-%d", i%trafficCustomers)
			for _, e := range []event{customer(who, int64(1+i/trafficCustomers)), invoice(fmt.Sprintf("i-%d", i), who, 1, 500)} {
				v, err := b.set.Encode(e.entity, e.fields)
				if err != nil {
					f.failed.Store(&err)
					return
				}
				f.n++
				f.client.Produce(context.Background(), &kgo.Record{Topic: b.topics[e.entity], Key: []byte(e.key), Value: v}, func(_ *kgo.Record, err error) {
					if err != nil {
						f.failed.Store(&err)
					}
				})
			}
			select {
			case <-tick.C:
			case <-f.quit:
				return
			}
		}
	}()
	b.t.Cleanup(func() {
		select {
		case <-f.quit:
		default:
			close(f.quit)
		}
		<-f.done
	})
	return f
}

// stop ends the events, waits until Kafka has all of them and returns how many there were.
func (f *traffic) stop() int {
	t := f.b.t
	t.Helper()
	close(f.quit)
	<-f.done
	ctx, cancel := context.WithTimeout(t.Context(), boxWait)
	defer cancel()
	err := f.client.Flush(ctx)
	if e := f.failed.Load(); e != nil {
		err = errors.Join(err, *e)
	}
	if err != nil {
		t.Fatalf("publish: %v", err)
	}
	return f.n
}
