package connector

import (
	"maps"
	"slices"
	"time"

	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/profile"
)

// Bounds are the bounds of a Config that a running connector can change: see there for their meaning and defaults.
// A zero field is the default.
type Bounds struct {
	MaxInFlight   int
	WindowRecords int
	WindowBytes   int64
	AttemptsMax   int
	ElapsedMax    time.Duration
	// Limits replace the numbers of the profile's limits of the same name and kind; others are left as they are.
	Limits []*profile.Limit
}

// A patience is how much of a record's failing is borne. Workers read it.
type patience struct {
	attempts int
	elapsed  time.Duration
}

// Change puts other bounds in force while the connector runs. What is under way goes on: requests in flight and
// records read beyond a smaller bound end as they would have, and nothing new starts until there is room. Requests
// that were counted against a limit stay counted (promise 5). The number of idle connections is not changed. Safe
// for concurrent use; it does not wait.
func (c *Connector) Change(b Bounds) {
	c.do(func() {
		to := Config{MaxInFlight: b.MaxInFlight, WindowRecords: b.WindowRecords, WindowBytes: b.WindowBytes, AttemptsMax: b.AttemptsMax,
			ElapsedMax: b.ElapsedMax, Entities: c.cfg.Entities}.withDefaults()
		c.cfg.MaxInFlight, c.cfg.WindowRecords, c.cfg.WindowBytes = to.MaxInFlight, to.WindowRecords, to.WindowBytes
		c.inFlightLimit.slots = min(c.inFlightLimit.slots, to.MaxInFlight)
		if c.cfg.SchedLatency == nil { // nothing else raises it
			c.inFlightLimit.slots = to.MaxInFlight
		}
		c.wire.resize(c.inFlightLimit.slots)
		c.patience.Store(&patience{to.AttemptsMax, to.ElapsedMax})
		if to.Entities > c.cfg.Entities { // never smaller: records under way count on it
			c.cfg.Entities = to.Entities
			c.entities.Resize(to.Entities)
		}
		now := c.now()
		for _, l := range b.Limits {
			if q := c.quotas[l.Name]; q != nil {
				q.Change(l, now)
			}
		}
		for _, p := range c.parts {
			c.window(p)
		}
		for _, g := range c.operations {
			if g.outage == nil {
				c.openGate(g) // a larger limit has room at once
			}
		}
	})
}

// makeQuotas makes the quotas of the profile's limits and the gates before its operations.
func (c *Connector) makeQuotas() {
	c.quotas = make(map[string]*deliver.Quota)
	for _, l := range c.cfg.Profile.Limits {
		c.quotas[l.Name] = deliver.NewQuota(l, c.started)
	}
	for name, op := range c.cfg.Profile.Operations {
		var qs []*deliver.Quota
		for _, l := range op.Limits {
			qs = append(qs, c.quotas[l.Name])
		}
		c.lateApplyMax = max(c.lateApplyMax, op.LateApply)
		c.gates[name] = &gateQueue{Gate: deliver.NewGate(op, qs, c.started), op: op}
	}
	for _, name := range slices.Sorted(maps.Keys(c.gates)) {
		g := c.gates[name]
		c.operations = append(c.operations, g)
		if slices.ContainsFunc(g.op.Limits, func(l *profile.Limit) bool { return l.Kind == profile.Concurrency }) {
			c.concurrent = append(c.concurrent, g)
		}
	}
}
