package deliver

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/connector/profile"
)

// A vendor that says "too many at once" halves what is under way, once for each burst of such answers; it grows again.
func TestConcurrencyLimit(t *testing.T) {
	q := NewQuota(&profile.Limit{Name: "at_once", Kind: profile.Concurrency, N: 8}, t0)
	g := NewGate(&profile.Operation{Name: "pay"}, []*Quota{q}, t0)
	now := t0
	enter := func() (n int) {
		var passes []*Pass
		for {
			p, at, why := g.Enter(now)
			if p == nil {
				if why != "quota" || !at.After(now) {
					t.Fatalf("full: at %v, %q", at, why)
				}
				break
			}
			passes = append(passes, p)
		}
		if g.Room(now) != 0 {
			t.Errorf("full, and room for %d", g.Room(now))
		}
		for _, p := range passes {
			g.Leave(p, now, Healthy)
		}
		if g.Room(now) != len(passes) {
			t.Errorf("all slots are free again, and room for %d of %d", g.Room(now), len(passes))
		}
		return len(passes)
	}
	if n := enter(); n != 8 {
		t.Fatalf("%d at once, want 8", n)
	}
	g.Observe(profile.Usage{Limit: 2, Remaining: 0, Reset: now.Add(time.Hour)}, now) // of some window
	g.Lower("another", now)
	if n := enter(); n != 8 {
		t.Errorf("%d at once after headers and limits that are not its own, want 8", n)
	}
	for range 5 {
		g.Lower("at_once", now)
	}
	if n := enter(); n != 4 {
		t.Errorf("%d at once after one burst of refusals, want 4", n)
	}
	for range 10 {
		now = now.Add(lowerEvery)
		g.Lower("at_once", now)
	}
	if n := enter(); n != 1 {
		t.Errorf("%d at once, want 1 at least and at most", n)
	}
	now = now.Add(3 * raiseEvery)
	if n := enter(); n != 4 {
		t.Errorf("%d at once after three waits, want 4", n)
	}
	now = now.Add(time.Hour)
	if n := enter(); n != 8 {
		t.Errorf("%d at once in the end, want 8", n)
	}
}

// However a vendor counts a request that meets the change of a month, and with a clock that is a few seconds off, no
// month holds more than the limit; and a month is used up.
func TestCalendarMonth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const limit = 10
		start := time.Date(2026, 2, 27, 0, 0, 0, 0, time.UTC)
		q := NewQuota(&profile.Limit{Name: "month", Kind: profile.CalendarMonth, N: limit}, start)
		skew := time.Duration(rapid.Int64Range(int64(-monthGuard)+1, int64(monthGuard)-1).Draw(t, "vendor's clock"))
		now := start
		var open []time.Time
		counts := map[time.Time]int{}
		count := func(at time.Time) { counts[monthOf(at.Add(skew))]++ }
		end := func() {
			sent := open[0]
			open = open[1:]
			q.free(now)
			count(sent)
			if monthOf(now.Add(skew)) != monthOf(sent.Add(skew)) {
				count(now) // it may count in either: the worst for each
			}
		}
		for range rapid.IntRange(50, 150).Draw(t, "steps") {
			switch rapid.IntRange(0, 3).Draw(t, "do") {
			case 0, 1:
				if at := q.take(now); at.IsZero() {
					open = append(open, now)
				} else if !at.After(now) {
					t.Fatalf("refused at %v, to ask again at %v: a busy loop", now, at)
				}
			case 2:
				if len(open) > 0 {
					end()
				}
			case 3:
				now = now.Add(time.Duration(rapid.Int64Range(0, int64(20*time.Hour)).Draw(t, "dt")))
			}
		}
		for len(open) > 0 {
			end()
		}
		for m, n := range counts {
			if n > limit {
				t.Fatalf("%d requests may count in %v, the limit is %d", n, m, limit)
			}
		}
	})
	now := time.Date(2026, 2, 1, 0, 1, 0, 0, time.UTC)
	q := NewQuota(&profile.Limit{Name: "month", Kind: profile.CalendarMonth, N: 100}, now)
	sent := map[time.Month]int{}
	for now.Before(time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)) {
		if at := q.take(now); at.IsZero() {
			sent[now.Month()]++
			q.free(now)
		} else {
			now = at
		}
	}
	if sent[time.February] != 100 || sent[time.March] != 100 || sent[time.April] != 100 {
		t.Errorf("sent by month: %v, want 100 in each", sent)
	}
	if used, _ := q.Used(now); used != 0 {
		t.Errorf("a new month begins with %v used", used)
	}
}
