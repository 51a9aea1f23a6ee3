package connector_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sample"
)

// A flaky stands before a sandbox. While it is down it takes requests and hangs up, so that each answer is lost.
type flaky struct {
	down, ill atomic.Bool
	mu        sync.Mutex
	lost      map[string]int // requests while it was down, by first part of the path
	health    atomic.Int64   // health calls
	secrets   atomic.Int64   // health calls with a credential
	next      http.Handler
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/health" {
		f.health.Add(1)
		if r.Header.Get("Authorization") != "" {
			f.secrets.Add(1)
		}
		if f.ill.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return
	}
	if !f.down.Load() {
		f.next.ServeHTTP(w, r)
		return
	}
	f.mu.Lock()
	f.lost[strings.Split(r.URL.Path, "/")[1]]++
	f.mu.Unlock()
	panic(http.ErrAbortHandler)
}

func (f *flaky) requests(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost[what]
}

// newFlaky puts a flaky before the world's vendor, and more text at the end of its profile.
func newFlaky(t *testing.T, w *world, more string) (f *flaky, log *lockedBuffer) {
	t.Helper()
	f = &flaky{lost: map[string]int{}, next: w.sandbox.Handler()}
	srv := httptest.NewUnstartedServer(f)
	srv.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	srv.Start()
	t.Cleanup(srv.Close)
	w.url = srv.URL
	text, err := os.ReadFile(filepath.Join("profile", w.vendor+".yaml"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), w.vendor+".yaml")
	if err := os.WriteFile(file, append(text, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := profile.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if w.profile, err = p.Compile(profile.Options{Connector: "v", Environment: "sandbox", BaseURL: w.url, LimitScale: 100_000, Schemas: w.set}); err != nil {
		t.Fatal(err)
	}
	log = new(lockedBuffer)
	w.tweak = func(c *connector.Config) { c.Log = slog.New(slog.NewTextHandler(log, nil)) }
	return f, log
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// lines are those that hold a text.
func (l *lockedBuffer) lines(text string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.b.String()) {
		if strings.Contains(line, text) {
			out = append(out, line)
		}
	}
	return out
}

func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so after 30s", what)
		}
	}
}

// quiet waits until something has stopped to grow, as when the last requests that were under way have ended, and then
// looks longer than the longest time between two probes that it stays as it is: what must not happen has no signal.
func quiet(t *testing.T, what string, n func() int) {
	t.Helper()
	last, since := n(), time.Now()
	until(t, what+" come to an end", func() bool {
		if now := n(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 500*time.Millisecond
	})
	for end := time.Now().Add(2500 * time.Millisecond); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if now := n(); now != last {
			t.Fatalf("%s: %d, then %d", what, last, now)
		}
	}
}

// samples are good customers and payments.
func samples(t *testing.T, seed uint64, n int) []sample.Item {
	t.Helper()
	return items(t, sample.Options{Seed: seed, Events: n})
}

// Where the profile has a health call, an outage costs no record a request until that call succeeds; its success lets
// one record probe at a time, and full rate is back within 2 s of that record's success (design section 6, Outage).
func TestHealthCallHalfOpens(t *testing.T) {
	w := newWorld(t, "plain", nil)
	f, log := newFlaky(t, w, "\nhealth: {method: GET, path: /health, auth: false}\n")
	c, stop := w.start()
	w.publish(samples(t, 1, 100)...)
	w.settleAll(30 * time.Second)
	if n := f.health.Load(); n != 0 {
		t.Fatalf("%d health calls without an outage", n)
	}
	f.down.Store(true)
	f.ill.Store(true)
	w.publish(samples(t, 2, 300)...)
	until(t, "the state is outage", func() bool { return c.Status().State == connector.StateOutage })
	since := c.Status().Since
	// The requests that were under way when the first breaker opened end, and each operation's own opens.
	until(t, "the health call is made", func() bool { return f.health.Load() >= 2 })
	all := func() int { return f.requests("things") + f.requests("payments") }
	quiet(t, "requests while the health call fails", all)
	before := all()
	f.ill.Store(false)
	until(t, "records probe", func() bool { return all() >= before+2 })
	began, first := time.Now(), all()
	for time.Since(began) < 2*time.Second {
		time.Sleep(10 * time.Millisecond)
	}
	// Two operations of the customers, contracts and payments each: at most one probe per breaker and interval.
	if n := all() - first; n > 3*12 {
		t.Errorf("%d probes within 2 s of a vendor that fails, want a few", n)
	}
	if s := c.Status(); s.State != connector.StateOutage || !s.Since.Equal(since) || !strings.Contains(s.Reason, "vendor") {
		t.Errorf("status in the outage: %s since %v (%s), want outage since %v", s.State, s.Since, s.Reason, since)
	}
	f.down.Store(false)
	began = time.Now()
	w.settleAll(30 * time.Second)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("all is settled %v after the vendor came back, want seconds", took)
	}
	until(t, "the state is running", func() bool { return c.Status().State == connector.StateRunning })
	n := f.health.Load()
	if time.Sleep(time.Second); f.health.Load() > n+1 { // one may have been on its way
		t.Error("health calls go on after the outage")
	}
	if f.secrets.Load() > 0 {
		t.Error("a health call with auth: false carries the credential")
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.clean(true)
	for _, text := range []string{"msg=\"outage:", "msg=\"outage over\""} {
		if got := log.lines(text); len(got) != 1 {
			t.Errorf("%d lines with %s, want one:\n%s", len(got), text, strings.Join(got, ""))
		}
	}
}

// Without a health call, operations that can be repeated probe first: a lost probe of a payment would be one more that
// a person must look up.
func TestSafeOperationsProbeFirst(t *testing.T) {
	w := newWorld(t, "plain", nil)
	f, log := newFlaky(t, w, "")
	c, stop := w.start()
	w.publish(samples(t, 1, 100)...)
	w.settleAll(30 * time.Second)
	f.down.Store(true)
	w.publish(samples(t, 2, 1000)...)
	until(t, "both kinds of operations fail", func() bool {
		r := c.Status().Reason
		return strings.Contains(r, "create_payment") && strings.Contains(r, "put_customer")
	})
	before := f.requests("things")
	quiet(t, "payments lost to probes", func() int { return f.requests("payments") })
	if f.requests("things") == before {
		t.Error("nothing probes")
	}
	f.down.Store(false)
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	rep := w.clean(true)
	// What was under way when the tenth in a row was lost, and no half second more of it.
	if got := f.requests("payments"); rep.Parked < got || got > 256+20 {
		t.Errorf("%d payments are lost and %d records parked, want at most what was in flight", got, rep.Parked)
	}
	if got := append(log.lines("msg=\"outage:"), log.lines("msg=\"outage over\"")...); len(got) != 2 {
		t.Errorf("want one line when it starts and one when it ends:\n%s", strings.Join(got, ""))
	}
	t.Logf("lost while it was down: %s", fmt.Sprint(f.lost))
}
