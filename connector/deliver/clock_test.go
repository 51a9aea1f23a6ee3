package deliver

import (
	"testing"
	"time"
	"unsafe"

	"github.com/weirsync/weir/connector/profile"
)

// stepped is the time that the same moment would have had on a wall clock that is set by d, whole seconds, with the
// monotonic reading as it is. Package time has no way to make one: with a monotonic reading, the first word of a Time
// holds seconds above 30 bits of nanoseconds.
func stepped(t *testing.T, at time.Time, d time.Duration) time.Time {
	t.Helper()
	out := at
	*(*uint64)(unsafe.Pointer(&out)) += uint64(d/time.Second) << 30
	if got := out.Sub(at); got != 0 {
		t.Fatalf("the monotonic reading moved by %v", got)
	}
	if got := out.Round(0).Sub(at.Round(0)); got != d {
		t.Fatalf("the wall clock moved by %v, want %v", got, d)
	}
	return out
}

// A wall clock that is set, in either direction, neither frees slots of a window early nor holds them longer; a reset
// that a vendor named, a throttle and a breaker's probe stay where they were (promise 5).
func TestClockStep(t *testing.T) {
	const window = time.Hour
	for _, step := range []time.Duration{3 * window, -3 * window} {
		start := time.Now()
		at := func(d time.Duration) time.Time { return stepped(t, start.Add(d), step) }
		for _, l := range []*profile.Limit{
			{Name: "sliding", Kind: profile.SlidingWindow, N: 10, Window: window},
			{Name: "bucket", Kind: profile.TokenBucket, N: 10, Window: window, Burst: 10},
		} {
			q := NewQuota(l, start)
			for range 10 {
				if at := q.take(start); !at.IsZero() {
					t.Fatalf("%s: refused below the limit", l.Name)
				}
				q.free(start)
			}
			if q.take(at(time.Second)).IsZero() {
				t.Errorf("%s, clock set by %v: an eleventh request in the hour", l.Name, step)
			}
			if q.Room(at(time.Second)) != 0 {
				t.Errorf("%s, clock set by %v: room for an eleventh request in the hour", l.Name, step)
			}
			later := at(window + window/100)
			if when := q.take(later); !when.IsZero() {
				t.Errorf("%s, clock set by %v: refused after the hour, until %v later", l.Name, step, when.Sub(later))
			}
		}
		g := NewGate(&profile.Operation{Name: "create"}, []*Quota{NewQuota(&profile.Limit{Name: "l", Kind: profile.SlidingWindow, N: 10, Window: window}, start)}, start)
		g.Observe(profile.Usage{Limit: -1, Remaining: 0, Reset: start.Add(time.Minute).Round(0)}, start)
		g.Throttle(30*time.Second, start)
		if p, when, _ := g.Enter(at(time.Second)); p != nil || when.Sub(at(time.Second)) > time.Minute {
			t.Errorf("clock set by %v: a request before the vendor's reset, or a wait of %v", step, when.Sub(at(time.Second)))
		}
		if p, _, why := g.Enter(at(61 * time.Second)); p == nil {
			t.Errorf("clock set by %v: refused after the vendor's reset, for %s", step, why)
		}
		b := NewGate(&profile.Operation{Name: "create"}, nil, start)
		for i := range breakerFailuresMin + 1 {
			p, _, _ := b.Enter(start.Add(time.Duration(i) * breakerQuietMin))
			b.Leave(p, start.Add(time.Duration(i)*breakerQuietMin), Failing)
		}
		open := (breakerFailuresMin + 1) * breakerQuietMin
		if p, _, _ := b.Enter(at(open + probeMax)); p == nil || !p.Probe {
			t.Errorf("clock set by %v: no probe after the longest interval", step)
		}
	}
}

// With a health call, an open breaker lets no request through before that has succeeded, then one; if that one fails the
// call is asked again (design section 6, Outage).
func TestGuardedBreaker(t *testing.T) {
	g := NewGate(&profile.Operation{Name: "create"}, nil, t0)
	g.Guard(true)
	now := t0
	g.Allow() // says nothing of a closed one
	for s, _ := g.Breaker(); s == Closed; s, _ = g.Breaker() {
		p, _, _ := g.Enter(now)
		g.Leave(p, now, Failing)
		now = now.Add(100 * time.Millisecond)
	}
	for range 3 {
		now = now.Add(time.Minute)
		if p, at, why := g.Enter(now); p != nil || g.Room(now) != 0 || why != "outage" || !at.After(now) {
			t.Fatalf("Enter before the health call succeeded: %v, at %v, %q", p, at, why)
		}
		g.Allow()
		if g.Room(now) != 1 {
			t.Fatalf("room %d after the health call succeeded, want 1", g.Room(now))
		}
		p, _, _ := g.Enter(now)
		if p == nil || !p.Probe {
			t.Fatal("no probe after the health call succeeded")
		}
		g.Leave(p, now, Failing)
		if s, _ := g.Breaker(); s != Open {
			t.Fatalf("breaker is %s after a failed probe", s)
		}
	}
	g.Allow()
	now = now.Add(probeMax)
	p, _, _ := g.Enter(now)
	if !g.Leave(p, now, Healthy) || g.Room(now) < 1000 {
		t.Error("the probe's success does not open the gate wide")
	}
}
