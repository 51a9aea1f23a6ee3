package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func request(url string) (*Sender, *profile.Request) {
	return NewSender(SenderConfig{BaseURL: url, Timeout: 2 * time.Second}), &profile.Request{Method: "POST", Path: "/payments", Body: []byte(`{"a":1}`)}
}

// How far a request got decides whether it may be repeated: each way to fail, on the wire.
func TestSendSaysHowFarItGot(t *testing.T) {
	hijack := func(f func(net.Conn)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			f(conn)
			conn.Close()
		}
	}
	for name, tc := range map[string]struct {
		handler http.HandlerFunc
		sent    checkpoint.Sent
		status  int
	}{
		"answered":         {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(201) }, checkpoint.Answered, 201},
		"server error":     {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, checkpoint.Answered, 503},
		"redirect":         {func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", 307) }, checkpoint.Answered, 307},
		"closed unread":    {hijack(func(net.Conn) {}), checkpoint.AnswerLost, 0},
		"half a head":      {hijack(func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 O") }), checkpoint.AnswerLost, 0},
		"body cut":         {hijack(func(c net.Conn) { fmt.Fprint(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"i") }), checkpoint.AnswerLost, 0},
		"not http":         {hijack(func(c net.Conn) { fmt.Fprint(c, "hello\r\n\r\n") }), checkpoint.AnswerLost, 0},
		"larger than read": {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, AnswerBytesMax+5)) }, checkpoint.Answered, 200},
	} {
		t.Run(name, func(t *testing.T) {
			var n atomic.Int32
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { n.Add(1); tc.handler(w, r) }))
			defer srv.Close()
			s, r := request(srv.URL)
			defer s.Close()
			r.Header = http.Header{"X-Idempotency-Key": {"k"}} // net/http would repeat such a request on its own
			ex := s.Send(context.Background(), r)
			if ex.Sent != tc.sent || (ex.Answer != nil) != (tc.sent == checkpoint.Answered) || ex.Answer != nil && ex.Answer.Status != tc.status {
				t.Errorf("Send = %v, answer %v, err %v; want %v, status %d", ex.Sent, ex.Answer, ex.Err, tc.sent, tc.status)
			}
			if n.Load() != 1 {
				t.Errorf("the vendor saw %d requests of one Send", n.Load())
			}
		})
	}
	t.Run("refused", func(t *testing.T) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		s, r := request("http://" + ln.Addr().String())
		if ex := s.Send(context.Background(), r); ex.Sent != checkpoint.NotSent || ex.Err == nil {
			t.Errorf("Send to a closed port = %v, %v; want not_sent", ex.Sent, ex.Err)
		}
	})
	t.Run("no such host", func(t *testing.T) {
		s, r := request("http://weir.invalid")
		if ex := s.Send(context.Background(), r); ex.Sent != checkpoint.NotSent {
			t.Errorf("Send to an unknown host = %v", ex.Sent)
		}
	})
	t.Run("timeout", func(t *testing.T) {
		release := make(chan struct{})
		srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		defer srv.Close()
		defer close(release)
		s, r := request(srv.URL)
		defer s.Close()
		r.Operation = &profile.Operation{Timeout: 30 * time.Millisecond}
		if ex := s.Send(context.Background(), r); ex.Sent != checkpoint.AnswerLost || !errors.Is(ex.Err, context.DeadlineExceeded) {
			t.Errorf("Send = %v, %v; want answer_lost by the deadline", ex.Sent, ex.Err)
		}
	})
	t.Run("no credential", func(t *testing.T) {
		s := NewSender(SenderConfig{BaseURL: "http://127.0.0.1:1", Credential: credential(t, "{kind: bearer, secret: api_key}", nil)})
		defer s.Close()
		_, r := request("")
		ex := s.Send(context.Background(), r)
		if _, ok := errors.AsType[*CredentialError](ex.Err); !ok || ex.Sent != checkpoint.NotSent {
			t.Errorf("Send = %v, %v; want a credential error, not sent", ex.Sent, ex.Err)
		}
	})
}

// An error text names operation and cause, not the URL's host or query.
func TestSendErrorHasNoURL(t *testing.T) {
	s, r := request("http://secret-host.invalid")
	ex := s.Send(context.Background(), r)
	if ex.Err == nil || strings.Contains(ex.Err.Error(), "http://") {
		t.Errorf("error %q repeats the URL", ex.Err)
	}
}

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Over any window the vendor, which may count a request at any moment between its send and its answer, counts at
// most the limit (promise 5).
func TestQuotaNeverExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 20).Draw(t, "limit")
		window := time.Duration(rapid.IntRange(1, 60).Draw(t, "window")) * time.Minute
		q := NewQuota(&profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: limit, Window: window}, t0)
		now := t0
		type span struct{ sent, answered time.Time }
		var open []time.Time
		var counted []span
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "do") {
			case 0:
				if at := q.take(now); at.IsZero() {
					open = append(open, now)
				} else if !at.After(now) {
					t.Fatalf("refused at %v, to ask again at %v: a busy loop", now, at)
				}
			case 1:
				if len(open) > 0 {
					counted = append(counted, span{open[0], now})
					open = open[1:]
					q.free(now)
				}
			case 2:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(window)/3).Draw(t, "dt")))
			}
		}
		for _, s := range open {
			counted = append(counted, span{s, now})
		}
		// The worst vendor counts each of them at the answer or at the send, whichever hurts: within any window
		// that ends now or at a send, count those whose span meets it entirely inside the last window.
		for _, end := range counted {
			n := 0
			for _, s := range counted {
				if !s.answered.Before(end.sent.Add(-window)) && !s.sent.After(end.sent) {
					n++
				}
			}
			if n > limit {
				t.Fatalf("%d requests may count in the window of %v that ends at %v, the limit is %d", n, window, end.sent, limit)
			}
		}
	})
}

// While work waits, a sliding window is used to at least 98 % (promise 5).
func TestQuotaIsUsed(t *testing.T) {
	q := NewQuota(&profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: 100, Window: time.Hour}, t0)
	now, sent := t0, 0
	for now.Before(t0.Add(50 * time.Hour)) {
		if at := q.take(now); at.IsZero() {
			q.free(now)
			sent++
		} else {
			now = at
		}
	}
	if want := 50 * 100 * 98 / 100; sent < want || sent > 51*100 {
		t.Errorf("%d requests in 50 hours at 100 an hour, want at least %d", sent, want)
	}
}

func TestTokenBucket(t *testing.T) {
	q := NewQuota(&profile.Limit{Name: "l", Kind: profile.TokenBucket, N: 60, Window: time.Minute, Burst: 10}, t0)
	now, sent := t0, 0
	for now.Before(t0.Add(10 * time.Minute)) {
		if at := q.take(now); at.IsZero() {
			q.free(now)
			sent++
		} else {
			now = at
		}
	}
	if sent < 600 || sent > 611 {
		t.Errorf("%d requests in 10 minutes at 60 a minute with a burst of 10, want 600 to 610", sent)
	}
}

// A limit that changes while requests are counted: none starts while the window that then holds has as many as the
// new limit allows, in flight or answered (promise 5).
func TestQuotaChangeNeverExceeds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() *profile.Limit {
			return &profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: rapid.IntRange(1, 20).Draw(t, "n"),
				Window: time.Duration(rapid.IntRange(1, 60).Draw(t, "window")) * time.Minute}
		}
		l, now, open := draw(), t0, 0
		q := NewQuota(l, now)
		var answered []time.Time
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch rapid.IntRange(0, 6).Draw(t, "do") {
			case 0, 1:
				at := q.take(now)
				if !at.IsZero() {
					if !at.After(now) {
						t.Fatalf("refused at %v, to ask again at %v: a busy loop", now, at)
					}
					break
				}
				counted := open + 1
				for _, a := range answered {
					if a.After(now.Add(-l.Window)) {
						counted++
					}
				}
				if counted > l.N {
					t.Fatalf("request %d of a limit of %d in %v", counted, l.N, l.Window)
				}
				open++
			case 2, 3:
				if open > 0 {
					open--
					q.free(now)
					answered = append(answered, now)
				}
			case 4, 5:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(l.Window)/3).Draw(t, "dt")))
			case 6:
				l = draw()
				q.Change(l, now)
			}
		}
	})
}

// A change is no gift and no loss: a larger limit is used at once, a smaller one frees as its requests age, and a
// token bucket keeps its tokens up to the new burst.
func TestQuotaChange(t *testing.T) {
	takes := func(q *Quota, now time.Time) (n int) {
		for ; q.take(now).IsZero(); n++ {
			q.free(now)
		}
		return n
	}
	sliding := func(n int, w time.Duration) *profile.Limit {
		return &profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: n, Window: w}
	}
	q := NewQuota(sliding(10, time.Hour), t0)
	if n := takes(q, t0); n != 10 {
		t.Fatalf("%d of 10 in the first hour", n)
	}
	q.Change(sliding(25, time.Hour), t0)
	if n := takes(q, t0); n != 15 {
		t.Errorf("%d more after the limit rose from 10 to 25, want 15", n)
	}
	q.Change(sliding(25, 2*time.Hour), t0)
	if n := takes(q, t0.Add(90*time.Minute)); n != 0 {
		t.Errorf("%d let through 90 minutes after 25 in a window of two hours, want none", n)
	}
	if n := takes(q, t0.Add(121*time.Minute)); n != 25 {
		t.Errorf("%d after the window, want 25", n)
	}
	q.Change(sliding(5, time.Minute), t0.Add(123*time.Minute))
	if n := takes(q, t0.Add(123*time.Minute)); n != 5 {
		t.Errorf("%d in a shorter window that holds none, want 5", n)
	}
	g := NewGate(&profile.Operation{Name: "o"}, []*Quota{q}, t0)
	g.Observe(profile.Usage{Limit: 3, Remaining: -1}, t0)
	q.Change(sliding(50, time.Minute), t0)
	if n := takes(q, t0.Add(200*time.Minute)); n != 3 {
		t.Errorf("%d although the vendor said 3, want 3", n)
	}

	b := NewQuota(&profile.Limit{Name: "b", Kind: profile.TokenBucket, N: 60, Window: time.Minute, Burst: 10}, t0)
	b.Change(&profile.Limit{Name: "b", Kind: profile.TokenBucket, N: 600, Window: time.Minute, Burst: 4}, t0)
	if n := takes(b, t0); n != 4 {
		t.Errorf("%d at once after the burst fell to 4", n)
	}
	b.Change(&profile.Limit{Name: "b", Kind: profile.TokenBucket, N: 600, Window: time.Minute, Burst: 100}, t0)
	if n := takes(b, t0.Add(time.Second)); n != 10 {
		t.Errorf("%d a second later at 10 a second, want 10", n)
	}
}

func TestQuotaLearnsFromHeaders(t *testing.T) {
	op := &profile.Operation{Name: "create"}
	q := NewQuota(&profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: 100, Window: time.Hour}, t0)
	g := NewGate(op, []*Quota{q}, t0)
	g.Observe(profile.Usage{Limit: 3, Remaining: 2}, t0)
	for range 3 {
		if p, _, _ := g.Enter(t0); p == nil {
			t.Fatal("refused below the learned limit")
		}
	}
	if p, _, why := g.Enter(t0); p != nil || why != "quota" {
		t.Fatalf("Enter beyond the learned limit of 3 = %v, %q", p, why)
	}
	reset := t0.Add(20 * time.Minute)
	g2 := NewGate(op, []*Quota{NewQuota(&profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: 100, Window: time.Hour}, t0)}, t0)
	g2.Observe(profile.Usage{Limit: -1, Remaining: 0, Reset: reset}, t0)
	if p, at, _ := g2.Enter(t0); p != nil || !at.Equal(reset) {
		t.Errorf("Enter after remaining 0 = %v, at %v; want refused until %v", p, at, reset)
	}
	if p, _, _ := g2.Enter(reset); p == nil {
		t.Error("refused after the reset")
	}
}

// A mix of good and bad keys never opens the breaker; a vendor that never succeeds does, is probed one request at
// a time, and the first success opens the gate wide (promise 7).
func TestBreaker(t *testing.T) {
	g := NewGate(&profile.Operation{Name: "create"}, nil, t0)
	now := t0
	for range 1000 {
		for _, r := range []Result{Failing, Failing, Failing, Healthy} {
			p, _, _ := g.Enter(now)
			if p == nil {
				t.Fatal("breaker open although every fourth request succeeds")
			}
			g.Leave(p, now, r)
			now = now.Add(20 * time.Millisecond)
		}
	}
	opened := false
	for range 100 {
		p, _, _ := g.Enter(now)
		if p == nil {
			opened = true
			break
		}
		g.Leave(p, now, Failing)
		now = now.Add(20 * time.Millisecond)
	}
	if !opened {
		t.Fatal("breaker still closed after 100 failures in a row")
	}
	end := now.Add(time.Minute)
	probes := 0
	for now.Before(end) {
		p, at, why := g.Enter(now)
		if p == nil {
			if why != "outage" {
				t.Fatalf("waits for %q", why)
			}
			now = at
			continue
		}
		if !p.Probe {
			t.Fatal("a request that is no probe passed an open breaker")
		}
		if q, _, _ := g.Enter(now); q != nil {
			t.Fatal("two probes at once")
		}
		probes++
		g.Leave(p, now, Failing)
	}
	if probes < 25 || probes > 40 {
		t.Errorf("%d probes in a minute of outage, want about one every %v", probes, probeMax)
	}
	now = now.Add(probeMax)
	p, _, _ := g.Enter(now)
	if p == nil {
		t.Fatal("no probe after the longest interval")
	}
	if !g.Leave(p, now, Healthy) || g.Room(now) < 1000 {
		t.Error("the first success does not open the gate wide")
	}
}

// A throttle closes the quota and leaves the breaker alone, however often it comes.
func TestThrottleNeverOpensTheBreaker(t *testing.T) {
	g := NewGate(&profile.Operation{Name: "create"}, []*Quota{NewQuota(&profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: 10, Window: time.Second}, t0)}, t0)
	now := t0
	for range 200 {
		p, at, why := g.Enter(now)
		if p == nil {
			if why != "quota" {
				t.Fatalf("waits for %q", why)
			}
			now = at
			continue
		}
		g.Leave(p, now, Throttled)
		g.Throttle(time.Second, now)
	}
	if s, _ := g.Breaker(); s != Closed {
		t.Errorf("breaker is %s", s)
	}
}

// An operation without a declared limit waits too when the vendor says so: no key runs into the same 429.
func TestThrottleClosesAnOperationWithoutLimits(t *testing.T) {
	g := NewGate(&profile.Operation{Name: "put"}, nil, t0)
	g.Throttle(3*time.Second, t0)
	if p, at, why := g.Enter(t0.Add(time.Second)); p != nil || !at.Equal(t0.Add(3*time.Second)) || why != "quota" || g.Room(t0.Add(time.Second)) != 0 {
		t.Errorf("Enter during the wait = %v, at %v, %q", p, at, why)
	}
	if p, _, _ := g.Enter(t0.Add(3 * time.Second)); p == nil {
		t.Error("refused after the wait")
	}
}

func TestBackoffBounds(t *testing.T) {
	for range 200 {
		b := NewBackoff(0)
		if d := b.Next(); d < 50*time.Millisecond || d > 100*time.Millisecond {
			t.Fatalf("first retry after %v, want 50 to 100 ms", d)
		}
		for i := range 20 {
			if d := b.Next(); d < 0 || d > BackoffMax {
				t.Fatalf("retry %d after %v, want at most %v", i+2, d, BackoffMax)
			}
		}
	}
}
