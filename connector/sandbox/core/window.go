package core

import "time"

// windowGranules bounds the entries of one window. Up to that limit a window is exact; above it, requests that fall
// into the same 1/65,536 of the window share one entry that carries the newest of their times, so a slot frees at most
// one granule late (55 ms for an hour) and never early.
const windowGranules = 1 << 16

// A Window is a sliding-window quota: at most limit requests in any span of its length. Not safe for concurrent use;
// vendors use it under the sandbox's lock.
type Window struct {
	limit   int
	span    time.Duration
	granule time.Duration
	ring    []granule // ring buffer, oldest at head
	head, n int
	used    int
}

type granule struct {
	at    int64 // Unix nanoseconds of its newest request
	count int
}

// NewWindow makes a window of limit requests per span.
func NewWindow(limit int, span time.Duration) *Window {
	w := &Window{limit: limit, span: span}
	if limit > windowGranules {
		w.granule = span / windowGranules
	}
	return w
}

// Usage is what the rate-limit headers say.
type Usage struct {
	Limit     int
	Remaining int
	// Reset is the first moment at which a slot frees: the oldest counted request plus the span; zero if none counts.
	Reset time.Time
}

// Take counts a request at now if the quota allows it, and says what is left. A clock that steps back counts as
// standing still.
func (w *Window) Take(now time.Time) (Usage, bool) {
	t := now.UnixNano()
	if w.n > 0 {
		t = max(t, w.ring[(w.head+w.n-1)%len(w.ring)].at)
	}
	for w.n > 0 && w.ring[w.head].at+int64(w.span) <= t {
		w.used -= w.ring[w.head].count
		w.head = (w.head + 1) % len(w.ring)
		w.n--
	}
	ok := w.used < w.limit
	if ok {
		w.used++
		w.push(t)
	}
	u := Usage{Limit: w.limit, Remaining: w.limit - w.used}
	if w.n > 0 {
		u.Reset = time.Unix(0, w.ring[w.head].at+int64(w.span))
	}
	return u, ok
}

// Untake gives back the newest request: it was answered with 429 for another reason, and those do not count.
func (w *Window) Untake() {
	if w.n == 0 {
		return
	}
	last := &w.ring[(w.head+w.n-1)%len(w.ring)]
	last.count--
	w.used--
	if last.count == 0 {
		w.n--
	}
}

func (w *Window) push(t int64) {
	if w.granule > 0 && w.n > 0 {
		last := &w.ring[(w.head+w.n-1)%len(w.ring)]
		if t/int64(w.granule) == last.at/int64(w.granule) {
			last.at = t
			last.count++
			return
		}
	}
	if w.n == len(w.ring) {
		bigger := make([]granule, max(16, 2*len(w.ring)))
		for i := range w.n {
			bigger[i] = w.ring[(w.head+i)%len(w.ring)]
		}
		w.ring, w.head = bigger, 0
	}
	w.ring[(w.head+w.n)%len(w.ring)] = granule{at: t, count: 1}
	w.n++
}

// windowsMax bounds the windows of one set: beyond it (only possible where any credential is accepted) newcomers
// share one window.
const windowsMax = 10_000

// Windows is a set of windows of the same span by name, for example credential and endpoint. Not safe for concurrent
// use.
type Windows struct {
	span time.Duration
	by   map[windowKey]*Window
}

type windowKey struct{ credential, endpoint string }

// NewWindows makes an empty set.
func NewWindows(span time.Duration) *Windows {
	return &Windows{span: span, by: map[windowKey]*Window{}}
}

// Take counts a request of a credential against an endpoint's limit.
func (ws *Windows) Take(credential, endpoint string, limit int, now time.Time) (Usage, bool) {
	return ws.window(credential, endpoint, limit).Take(now)
}

// Untake gives back the newest request that Take counted for this credential and endpoint.
func (ws *Windows) Untake(credential, endpoint string) {
	ws.window(credential, endpoint, 1).Untake()
}

func (ws *Windows) window(credential, endpoint string, limit int) *Window {
	k := windowKey{credential, endpoint}
	w, ok := ws.by[k]
	if ok {
		return w
	}
	if len(ws.by) >= windowsMax {
		k.credential = ""
	}
	if w = ws.by[k]; w == nil {
		w = NewWindow(limit, ws.span)
		ws.by[k] = w
	}
	return w
}
