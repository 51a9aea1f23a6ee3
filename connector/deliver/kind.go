package deliver

import "time"

// Bounds of the quotas that are no windows.
const (
	// monthGuard is the time around the change of a month in which nothing is sent: the vendor's clock may be this far
	// from ours (design section 6, Quota).
	monthGuard = 5 * time.Second
	// fullWait is when a full concurrency limit is asked again; an answer before that wakes who waits.
	fullWait = 50 * time.Millisecond
	// lowerEvery bounds how fast a concurrency limit falls: the answers of one burst say the same thing.
	lowerEvery = time.Second
	// raiseEvery is how often it then grows by one again.
	raiseEvery = 10 * time.Second
)

// takeConcurrent takes one of the slots that are under way at once. The caller holds the lock.
func (q *Quota) takeConcurrent(now time.Time) time.Time {
	q.raise(now)
	if q.inFlight >= q.limit {
		return now.Add(fullWait)
	}
	q.inFlight++
	return time.Time{}
}

// raise gives back, bit by bit, what lower took. The caller holds the lock.
func (q *Quota) raise(now time.Time) {
	for q.limit < q.declared && now.Sub(q.lowered) >= raiseEvery {
		q.limit++
		q.lowered = q.lowered.Add(raiseEvery)
	}
}

// lower halves a concurrency limit that the vendor says is too high.
func (q *Quota) lower(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.limit < q.declared && now.Sub(q.lowered) < lowerEvery {
		return
	}
	q.limit, q.lowered = max(q.limit/2, 1), now
}

// takeMonth takes a slot of a calendar month in UTC. A request that is under way when the month changes counts in both:
// the vendor may count it in either. The caller holds the lock.
func (q *Quota) takeMonth(now time.Time) time.Time {
	q.month(now)
	start := monthOf(now)
	next := start.AddDate(0, 1, 0)
	switch {
	case now.Sub(start) < monthGuard:
		return start.Add(monthGuard)
	case next.Sub(now) <= monthGuard, q.used+q.inFlight >= q.limit:
		return next.Add(monthGuard)
	}
	q.inFlight++
	return time.Time{}
}

// month begins a new count when the month has changed. The caller holds the lock.
func (q *Quota) month(now time.Time) {
	if start := monthOf(now); start.After(q.started) {
		q.started, q.used = start, 0
	}
}

func monthOf(t time.Time) time.Time {
	t = t.UTC()
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
}

// Lower halves the concurrency limit of that name, which the vendor says is too high; it grows again by itself.
func (g *Gate) Lower(limit string, now time.Time) {
	for _, q := range g.quotas {
		if q.Name == limit {
			q.lower(now)
		}
	}
}
