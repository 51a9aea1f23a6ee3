package deliver

import (
	"sync"
	"time"

	"github.com/weirsync/weir/connector/profile"
)

// slices is how finely a sliding window is counted. A slot frees with its whole slice, so at most 1/slices of
// the window is given away.
const slices = 512

// A Quota keeps one limit of one credential's account. A slot is taken when a request starts and frees one
// window after its answer, not after its send: the vendor may have counted it at any moment in between (design
// section 6). It counts by the time since it was made, on the monotonic clock: a wall clock that is set forward frees
// nothing early, one that is set back holds nothing longer. Safe for concurrent use.
type Quota struct {
	Name string

	base     time.Time
	mu       sync.Mutex
	declared int
	window   time.Duration
	burst    int // token bucket: its capacity; 0 for the other kinds
	limit    int // in force: what is declared, or less if headers said so
	learned  int // what headers said last, 0 if nothing
	inFlight int
	answered int             // ever
	counts   [slices + 1]int // by slice of the answer's time
	first    int64           // slice number of the oldest one counted
	used     int
	closed   time.Time
	tokens   float64
	filled   time.Time
	kind     profile.LimitKind
	lowered  time.Time // concurrency: when the limit was last lowered, or raised after that
	started  time.Time // calendar month: its first moment
}

// NewQuota makes the quota of a declared limit.
func NewQuota(l *profile.Limit, now time.Time) *Quota {
	q := &Quota{Name: l.Name, declared: l.N, window: l.Window, limit: l.N, base: now, filled: now, kind: l.Kind}
	if l.Kind == profile.TokenBucket {
		q.burst = max(l.Burst, 1)
		q.tokens = float64(q.burst)
	}
	return q
}

func (q *Quota) slice(t time.Time) int64 { return int64(max(t.Sub(q.base), 0) / q.width()) }

func (q *Quota) width() time.Duration { return q.window / slices }

// take takes a slot, or says when to ask again.
func (q *Quota) take(now time.Time) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.closed) {
		return q.closed
	}
	switch q.kind {
	case profile.Concurrency:
		return q.takeConcurrent(now)
	case profile.CalendarMonth:
		return q.takeMonth(now)
	}
	if q.burst > 0 {
		q.fill(now)
		if q.tokens < 1 {
			rate := float64(q.limit) / float64(q.window)
			return now.Add(time.Duration((1-q.tokens)/rate) + time.Millisecond)
		}
		q.tokens--
		q.inFlight++
		return time.Time{}
	}
	q.advance(now)
	if q.used+q.inFlight < q.limit {
		q.inFlight++
		return time.Time{}
	}
	if q.used == 0 {
		return now.Add(50 * time.Millisecond) // all of it is in flight
	}
	// The oldest slice that has a count frees when the window has passed its end.
	for s := q.first; ; s++ {
		if q.counts[s%(slices+1)] > 0 {
			return q.base.Add(time.Duration(s+slices+1) * q.width())
		}
	}
}

// fill adds the tokens that have come since the last time.
func (q *Quota) fill(now time.Time) {
	if d := now.Sub(q.filled); d > 0 {
		rate := float64(q.limit) / float64(q.window)
		q.tokens = min(float64(q.burst), q.tokens+rate*float64(d))
		q.filled = now
	}
}

// Change puts another declared limit of the same kind in force. What was counted stays counted, so that no window
// of the new length holds more than the new limit, save what had been let through before (promise 5). Of a longer
// window the part before the old one is not known: all that was ever answered may lie in it, as late as it can.
func (q *Quota) Change(l *profile.Limit, now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.burst > 0 {
		q.fill(now) // at the old rate
		q.burst, q.window = max(l.Burst, 1), l.Window
		q.tokens = min(q.tokens, float64(q.burst))
	} else if l.Window != q.window {
		q.advance(now)
		counts, first, before, length := q.counts, q.first, q.window, q.width()
		earlier := q.answered - q.used
		q.counts, q.used, q.window = [slices + 1]int{}, 0, l.Window
		q.first = max(q.slice(now)-slices, 0)
		count := func(at time.Time, n int) {
			if s := min(q.slice(at), q.slice(now)); s >= q.first {
				q.counts[s%(slices+1)] += n
				q.used += n
			}
		}
		count(now.Add(-before), earlier)
		for s := first; s <= first+slices; s++ {
			count(q.base.Add(time.Duration(s+1)*length), counts[s%(slices+1)])
		}
	}
	q.declared, q.limit = l.N, l.N
	if q.learned > 0 {
		q.limit = min(l.N, q.learned)
	}
}

// advance forgets slices that have left the window.
func (q *Quota) advance(now time.Time) {
	oldest := q.slice(now) - slices
	for q.first < oldest {
		if q.used == 0 {
			q.first = oldest
			break
		}
		i := q.first % (slices + 1)
		q.used -= q.counts[i]
		q.counts[i] = 0
		q.first++
	}
}

// free notes the answer of a request: its slot frees one window from now.
func (q *Quota) free(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inFlight--
	q.answered++
	switch {
	case q.burst > 0, q.kind == profile.Concurrency:
		return
	case q.kind == profile.CalendarMonth:
		q.month(now)
		q.used++
		return
	}
	q.advance(now)
	// A clock without a monotonic reading may step back, and must not count into a slice that is forgotten.
	s := max(q.slice(now), q.first)
	q.counts[s%(slices+1)]++
	q.used++
}

// untake gives a slot back that was not used.
func (q *Quota) untake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.inFlight--
	if q.burst > 0 {
		q.tokens++
	}
}

// close lets nothing through until a time.
func (q *Quota) close(until time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if until.After(q.closed) {
		q.closed = until
	}
}

// observe learns from rate-limit headers: a smaller limit than declared, and a window that is used up.
func (q *Quota) observe(u profile.Usage, now time.Time) {
	if q.kind == profile.Concurrency || q.kind == profile.CalendarMonth {
		return // the headers speak of a window
	}
	if u.Limit > 0 {
		q.mu.Lock()
		q.learned = u.Limit
		q.limit = min(q.declared, u.Limit)
		q.mu.Unlock()
	}
	if u.Remaining == 0 && u.Reset.After(now) {
		q.close(now.Add(u.Reset.Sub(now))) // from here on by the monotonic clock
	}
}

// Used is the part of the limit that is taken, 0 to 1, and until when the quota is closed (zero: it is open).
func (q *Quota) Used(now time.Time) (ratio float64, closed time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.closed) {
		closed = q.closed
	}
	if q.burst > 0 {
		return 1 - q.tokens/float64(q.burst), closed
	}
	switch q.kind {
	case profile.Concurrency:
		q.raise(now)
	case profile.CalendarMonth:
		q.month(now)
	default:
		q.advance(now)
	}
	return float64(q.used+q.inFlight) / float64(max(q.limit, 1)), closed
}

// Room is how many requests may start now.
func (q *Quota) Room(now time.Time) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if now.Before(q.closed) {
		return 0
	}
	if q.burst > 0 {
		q.fill(now)
		return int(q.tokens)
	}
	switch q.kind {
	case profile.Concurrency:
		q.raise(now)
	case profile.CalendarMonth:
		q.month(now)
	default:
		q.advance(now)
	}
	return max(q.limit-q.used-q.inFlight, 0)
}
