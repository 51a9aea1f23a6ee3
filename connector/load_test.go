package connector_test

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/schema"
)

// A slowStore takes outcomes only when it is told to.
type slowStore struct {
	checkpoint.Store
	gate chan struct{} // closed: as fast as it can
}

func (s slowStore) Settle(ctx context.Context, b checkpoint.Batch) (checkpoint.Result, error) {
	select {
	case <-s.gate:
		return s.Store.Settle(ctx, b)
	case <-ctx.Done():
		return checkpoint.Result{}, ctx.Err()
	}
}

// A store that is slower than the vendor holds sending up: what is sent and not yet durable would be sent again after
// a crash, and it is kept in memory (promise 6). The window alone, 5,000 records of each partition, is no such bound.
func TestSendingWaitsForTheStore(t *testing.T) {
	const events, inFlight = 8000, 64
	w := benchWorld(t, events)
	url, seen := benchVendor(t)
	w.url = url
	gate := make(chan struct{})
	w.tweak = func(c *connector.Config) {
		c.Log = slog.New(slog.DiscardHandler)
		c.MaxInFlight = inFlight
		c.Store = slowStore{c.Store, gate}
	}
	w.start()
	// As many as one transaction under way, 2,048 that wait for the next, and what was in flight then. The transaction
	// under way is the first one: it began with what had an answer at once, at most all that was in flight.
	const most = inFlight + 2048 + inFlight
	if n := settled(t, seen.Load, 2048); n > most {
		t.Errorf("%d requests were sent while the store took no outcome, want 2,048 to %d", n, most)
	}
	close(gate)
	for deadline := time.Now().Add(30 * time.Second); seen.Load() < events; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events were sent after the store was back", seen.Load(), events)
		}
	}
}

// settled waits until count has reached least, and then until it has not grown for half a second: what it is then.
func settled(t *testing.T, count func() int64, least int64) int64 {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	last, since := int64(-1), time.Now()
	for last < least || time.Since(since) < 500*time.Millisecond {
		if n := count(); n != last {
			last, since = n, time.Now()
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d after a minute, want %d", last, least)
		}
		time.Sleep(time.Millisecond)
	}
	return last
}

// countingDecoder counts what was decoded.
type countingDecoder struct {
	schema.Decoder
	n *atomic.Int64
}

func (d countingDecoder) Decode(ctx context.Context, r *schema.Record) (*schema.Event, error) {
	d.n.Add(1)
	return d.Decoder.Decode(ctx, r)
}

// While all requests that may be under way are, records wait as bytes: decoded, each would take ten times the memory.
func TestIntakeWaitsForTheWorkers(t *testing.T) {
	const events, inFlight, partitions = 8000, 64, 4
	w := benchWorld(t, events)
	release := make(chan struct{})
	var seen, decoded atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		seen.Add(1)
		<-release
		w.WriteHeader(http.StatusOK)
	}))
	defer srv.Close()
	w.url = srv.URL
	w.tweak = func(c *connector.Config) {
		c.Log = slog.New(slog.DiscardHandler)
		c.MaxInFlight = inFlight
		c.Decoder = countingDecoder{c.Decoder, &decoded}
	}
	w.start()
	// 512 lanes that are ready, one step of 256 records of each partition that had begun before they were, and what is in
	// flight.
	const most = 512 + partitions*256 + inFlight
	if n := settled(t, decoded.Load, 512); n > most {
		t.Errorf("%d records were decoded while the vendor gave no answer, want 512 to %d", n, most)
	}
	close(release)
	for deadline := time.Now().Add(30 * time.Second); seen.Load() < events; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events were sent after the vendor was back", seen.Load(), events)
		}
	}
}

// Those that stand by are not on the wire: the vendor never has more than max_in_flight requests, and always as many
// while there is work.
func TestStandingBy(t *testing.T) {
	const events, inFlight = 400, 32
	w := benchWorld(t, events)
	var on, most, seen atomic.Int64
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		n := on.Add(1)
		defer on.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		seen.Add(1)
		<-release
		rw.WriteHeader(http.StatusOK)
	}))
	defer srv.Close()
	answer := sync.OnceFunc(func() { close(release) })
	defer answer() // a failed test must not leave the server waiting
	w.url = srv.URL
	w.tweak = func(c *connector.Config) {
		c.Log = slog.New(slog.DiscardHandler)
		c.MaxInFlight = inFlight
	}
	conn, _ := w.start()
	if n := settled(t, seen.Load, inFlight); n != inFlight {
		t.Errorf("%d requests are on the wire, want %d", n, inFlight)
	}
	for deadline := time.Now().Add(10 * time.Second); conn.Status().InFlight != inFlight; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("status says %d in flight, want %d", conn.Status().InFlight, inFlight)
		}
	}
	answer()
	for deadline := time.Now().Add(30 * time.Second); seen.Load() < events; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d events were sent", seen.Load(), events)
		}
	}
	if m := most.Load(); m != inFlight {
		t.Errorf("at most %d requests were on the wire at once, want %d", m, inFlight)
	}
}

// limitObserver keeps what may be on the wire.
type limitObserver struct {
	connector.NopObserver
	limit *atomic.Int64
}

func (o limitObserver) InFlight(_, limit int) { o.limit.Store(int64(limit)) }

// As many requests as are needed are under way, up to max_in_flight; while what is ready to run waits long for a CPU, an
// eighth of it, and all again afterwards. Nothing is lost on the way.
func TestFewerRequestsUnderPressure(t *testing.T) {
	const events, inFlight, least = 10_000, 256, 256 / 8
	w := benchWorld(t, events)
	var on, most, seen, limit, latency atomic.Int64
	var hold atomic.Pointer[chan struct{}] // closed: answers go on
	stop := func() (release func()) {
		ch := make(chan struct{})
		hold.Store(&ch)
		release = sync.OnceFunc(func() { close(ch) })
		t.Cleanup(release) // a failed test must not leave the server waiting
		return release
	}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		n := on.Add(1)
		defer on.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		seen.Add(1)
		<-*hold.Load()
		time.Sleep(20 * time.Millisecond)
		rw.WriteHeader(http.StatusOK)
	}))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.tweak = func(c *connector.Config) {
		c.Log = slog.New(slog.DiscardHandler)
		c.MaxInFlight = inFlight
		c.Observer = limitObserver{limit: &limit}
		c.SchedLatency = func() time.Duration { return time.Duration(latency.Load()) }
	}
	release := stop()
	w.start()
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: not so after 30 s; limit %d, at most %d at once, %d of %d sent", what, limit.Load(), most.Load(), seen.Load(), events)
			}
		}
	}
	until("the limit is raised", func() bool { return on.Load() == inFlight })
	latency.Store(int64(time.Hour))
	release()
	until("the limit is lowered", func() bool { return limit.Load() == least })
	until("what was above it is answered", func() bool { return on.Load() <= least })
	most.Store(0)
	at := seen.Load()
	until("it goes on", func() bool { return seen.Load() > at+4*least })
	if m := most.Load(); m > least {
		t.Errorf("%d requests were on the wire at once, want at most %d", m, least)
	}
	release = stop()
	latency.Store(0)
	until("the limit is raised again", func() bool { return most.Load() == inFlight })
	release()
	until("all is sent", func() bool { return seen.Load() == events })
	if m := most.Load(); m != inFlight {
		t.Errorf("%d requests were on the wire at once, want at most %d", m, inFlight)
	}
}
