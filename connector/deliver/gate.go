package deliver

import (
	"sync"
	"time"

	"github.com/weirsync/weir/connector/profile"
)

// Bounds of the breaker (design section 6, Outage).
const (
	breakerFailuresMin = 10 // in a row, before it opens
	// Without a success, before it opens: a mix of good and bad keys never opens it. Class none does not wait for it: each
	// request that it lets go on failing may be one that a person must look up.
	breakerQuietMin = 500 * time.Millisecond
	probeFirst      = 250 * time.Millisecond
	probeMax        = 2 * time.Second // so that full rate is back within 2 s of the vendor's return

	// HealthFirst and HealthMax are the waits between two health calls, while one fails twice as long each time.
	HealthFirst = probeFirst
	HealthMax   = probeMax / 2 // its success lets the next probe through, which is due within the other half
)

// State of a breaker.
type State string

// The states of a breaker.
const (
	Closed   State = "closed"
	Open     State = "open"
	HalfOpen State = "half_open" // one probe is under way
)

// A Pass is the right to start one request; give it back with Gate.Leave.
type Pass struct {
	Probe bool
	lots  []*Quota
}

// A Gate stands before one operation of one connector: breaker and quotas. Safe for concurrent use.
type Gate struct {
	Operation *profile.Operation

	mu        sync.Mutex
	quotas    []*Quota
	fails     int
	lastOK    time.Time
	state     State
	since     time.Time
	probeAt   time.Time
	interval  time.Duration
	guarded   bool // an open breaker lets a probe through only after Allow
	allowed   bool
	successes uint64
	throttled time.Time // the vendor wants nothing of this operation until then
}

// NewGate makes the gate of an operation. Quotas are shared between the gates of the operations that they limit.
func NewGate(op *profile.Operation, quotas []*Quota, now time.Time) *Gate {
	return &Gate{Operation: op, quotas: quotas, state: Closed, since: now, lastOK: now}
}

// Enter asks to start a request. If it may not start yet, at says when to ask again and why says what it
// waits for: "outage" or "quota".
func (g *Gate) Enter(now time.Time) (p *Pass, at time.Time, why string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Before(g.throttled) {
		return nil, g.throttled, "quota"
	}
	probe := false
	switch g.state {
	case Open:
		if now.Before(g.probeAt) {
			return nil, g.probeAt, "outage"
		}
		if g.guarded && !g.allowed {
			return nil, now.Add(probeFirst), "outage"
		}
		probe = true
	case HalfOpen:
		return nil, now.Add(g.interval), "outage"
	}
	p = &Pass{Probe: probe}
	for _, q := range g.quotas {
		if at := q.take(now); !at.IsZero() {
			for _, taken := range p.lots {
				taken.untake()
			}
			return nil, at, "quota"
		}
		p.lots = append(p.lots, q)
	}
	if probe {
		g.state = HalfOpen
	}
	return p, time.Time{}, ""
}

// A Result is what a request says of the vendor's health.
type Result int

// What a request can say.
const (
	Healthy   Result = iota // any answer that is not a server error: the vendor is there
	Failing                 // connect error, timeout or 5xx
	Throttled               // the vendor's quota; says nothing of its health
	Alone                   // failed, but the record is to blame: others succeed
	Unused                  // no request was made after all
)

// Leave gives a pass back. changed reports whether the breaker opened or closed with it.
func (g *Gate) Leave(p *Pass, now time.Time, r Result) (changed bool) {
	for _, q := range p.lots {
		if r == Unused {
			q.untake()
		} else {
			q.free(now)
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch r {
	case Healthy:
		g.fails, g.lastOK = 0, now
		g.successes++
		if g.state != Closed {
			g.state, g.since, g.interval, g.allowed = Closed, now, 0, false
			return true
		}
	case Failing:
		g.fails++
		switch {
		case p.Probe && g.state == HalfOpen:
			g.interval = min(g.interval*2, probeMax)
			g.state, g.probeAt, g.allowed = Open, now.Add(g.interval), false
		case g.state == Closed && g.fails >= breakerFailuresMin && (now.Sub(g.lastOK) >= breakerQuietMin || g.Operation.Class == profile.ClassNone):
			g.state, g.since, g.interval = Open, now, probeFirst
			g.probeAt = now.Add(g.interval)
			return true
		}
	case Throttled, Alone, Unused:
		if p.Probe && g.state == HalfOpen {
			g.state, g.probeAt = Open, now.Add(max(g.interval, probeFirst))
		}
	}
	return false
}

// Guard says whether probes wait for something else that shows the vendor to be there, such as the profile's health
// call: then an open breaker lets none through before Allow.
func (g *Gate) Guard(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.guarded = on
}

// Allow lets one probe of a guarded gate through when it is due: it half-opens the breaker, and only that probe's
// success closes it.
func (g *Gate) Allow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.allowed = g.state != Closed
}

// Successes counts requests that found the vendor healthy. A record's failures count against it only if another
// one succeeded in between (promise 7).
func (g *Gate) Successes() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.successes
}

// Breaker is the breaker's state and when it was entered.
func (g *Gate) Breaker() (State, time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.since
}

// ProbeAt is when an open breaker lets the next probe through; zero if it is not open.
func (g *Gate) ProbeAt() time.Time {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state != Open {
		return time.Time{}
	}
	return g.probeAt
}

// Observe takes what an answer's headers say of the quota.
func (g *Gate) Observe(u profile.Usage, now time.Time) {
	for _, q := range g.quotas {
		q.observe(u, now)
	}
}

// Throttle closes the operation, and the quotas that it shares with others, for the wait that the vendor asked for.
func (g *Gate) Throttle(wait time.Duration, now time.Time) {
	g.mu.Lock()
	if until := now.Add(wait); until.After(g.throttled) {
		g.throttled = until
	}
	g.mu.Unlock()
	for _, q := range g.quotas {
		q.close(now.Add(wait))
	}
}

// Quotas are the limits that the gate keeps.
func (g *Gate) Quotas() []*Quota { return g.quotas }

// Room is how many requests may start now; 1 if a probe is due.
func (g *Gate) Room(now time.Time) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now.Before(g.throttled) {
		return 0
	}
	switch g.state {
	case Open:
		if now.Before(g.probeAt) || g.guarded && !g.allowed {
			return 0
		}
		return 1
	case HalfOpen:
		return 0
	}
	room := 1 << 20
	for _, q := range g.quotas {
		room = min(room, q.Room(now))
	}
	return room
}
