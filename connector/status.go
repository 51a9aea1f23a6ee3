package connector

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
)

// States of a connector and of a partition (design section 17).
const (
	StateRunning = "running"
	StatePaused  = "paused"
	StateHalted  = "halted" // the credential
	StateOutage  = "outage" // the vendor, Kafka or the store
	StateHeld    = "held"   // a partition waits for a person or a newer build
	StateStopped = "stopped"
)

// Status is what a connector says of itself. The JSON names are a contract (design section 17).
type Status struct {
	Name       string            `json:"name"`
	State      string            `json:"state"`
	Reason     string            `json:"reason"`
	Since      time.Time         `json:"since"`
	Lag        int64             `json:"lag"`
	Pending    int               `json:"pending"`
	InFlight   int               `json:"in_flight"`
	Parked     int               `json:"parked"`
	ETASeconds *float64          `json:"eta_seconds"`
	Partitions []PartitionStatus `json:"partitions"`
	// Credentials says when requests carried which value of the secret; none where the vendor wants none.
	Credentials []deliver.Use `json:"credentials,omitempty"`
	// Spent is what requests have cost since the process started; none where the profile names no price.
	Spent []deliver.Spent `json:"spent,omitempty"`
}

// PartitionStatus is what a connector says of one partition. End is -1 if it is not known.
type PartitionStatus struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Mark      int64  `json:"mark"`
	End       int64  `json:"end"`
	State     string `json:"state"`
	Reason    string `json:"reason,omitempty"`
}

// Status is the connector's status as of at most a second ago. Safe for concurrent use.
func (c *Connector) Status() Status {
	s := Status{Name: c.cfg.Name, State: StateRunning, Since: c.started, Partitions: []PartitionStatus{}}
	if at := c.status.Load(); at != nil {
		s = *at
	}
	s.Credentials, s.Spent = c.cfg.Sender.Uses(), c.cfg.Sender.Spent()
	return s
}

// Ready reports whether Kafka and the store are reachable, and if not, why. A vendor's health is not ours.
func (c *Connector) Ready() error {
	if t := c.storeBad.now(); t != nil {
		return fmt.Errorf("connector %s: store: %s (since %s)", c.cfg.Name, t.reason, t.since.Format(time.RFC3339))
	}
	if t := c.kafkaBad.Load(); t != nil {
		return fmt.Errorf("connector %s: kafka: %s (since %s)", c.cfg.Name, t.reason, t.since.Format(time.RFC3339))
	}
	return nil
}

// measure takes the picture that Status shows (loop, every second).
func (c *Connector) measure() {
	s := Status{Name: c.cfg.Name, State: StateRunning, Since: c.started, InFlight: c.wire.inUse(), Partitions: []PartitionStatus{}}
	c.cfg.Observer.InFlight(s.InFlight, c.inFlightLimit.slots)
	now := c.now()
	remaining := -1
	for name, q := range c.quotas {
		used, _ := q.Used(now)
		c.cfg.Observer.Quota(name, used)
		if room := q.Room(now); remaining < 0 || room < remaining {
			remaining = room
		}
	}
	if remaining >= 0 {
		c.cfg.Observer.Remaining(remaining)
	}
	for _, g := range c.operations {
		state, _ := g.Breaker()
		c.cfg.Observer.Breaker(g.op.Name, state)
	}
	for _, p := range c.parts {
		ps := PartitionStatus{Topic: p.id.Topic, Partition: p.id.Index, Mark: p.mark, End: -1, State: StateRunning}
		n, _ := p.set.Pending()
		n += int(p.queuedRecords.Load())
		s.Pending += n
		if end, ok := c.ends[kafka.TP{Topic: p.id.Topic, Partition: p.id.Index}]; ok {
			ps.End = max(end, p.mark)
			s.Lag += ps.End - p.mark
		}
		if why := p.hold + p.waits; why != "" {
			ps.State, ps.Reason = StateHeld, why
			s.State, s.Reason, s.Since = StateHeld, p.id.String()+": "+why, p.holdSince
		}
		s.Partitions = append(s.Partitions, ps)
		lag := int64(-1)
		if ps.End >= 0 {
			lag = ps.End - ps.Mark
		}
		c.cfg.Observer.Measured(Measure{Topic: p.id.Topic, Partition: p.id.Index, Mark: p.mark, Lag: lag, Pending: n, State: ps.State, OldestPending: oldestPending(p)})
	}
	c.measureEntries()
	sort.Slice(s.Partitions, func(i, j int) bool {
		a, b := s.Partitions[i], s.Partitions[j]
		return a.Topic < b.Topic || a.Topic == b.Topic && a.Partition < b.Partition
	})
	if why := c.outageReason(); why != "" {
		s.State, s.Reason, s.Since = StateOutage, why, c.outage.since
	}
	if slices.ContainsFunc(c.operations, func(g *gateQueue) bool { return g.waiting() > 0 && g.why == "quota" }) {
		c.cfg.Observer.Throttled(measureEvery)
	}
	for _, g := range c.operations {
		if g.waiting() > 0 && g.why == "quota" && s.State == StateRunning {
			s.Reason = fmt.Sprintf("quota of operation %s is used up; %d keys wait until %s", g.op.Name, g.keys(), g.at.UTC().Format(time.RFC3339))
		}
	}
	if t := c.halted; t != nil {
		s.State, s.Reason, s.Since = StateHalted, t.reason, t.since
	}
	if t := c.copyBad.now(); t != nil {
		s.State, s.Reason, s.Since = StateOutage, "kafka: "+t.reason, t.since
	}
	if t := c.kafkaBad.Load(); t != nil {
		s.State, s.Reason, s.Since = StateOutage, "kafka: "+t.reason, t.since
	}
	if t := c.storeBad.now(); t != nil {
		s.State, s.Reason, s.Since = StateOutage, "store: "+t.reason, t.since
	}
	// A backlog's end, from the rate of the last seconds; none while nothing moves.
	total := int64(0)
	for _, p := range c.parts {
		total += p.mark
	}
	if c.lastTotal > 0 && total > c.lastTotal {
		c.rate = 0.8*c.rate + 0.2*float64(total-c.lastTotal)
	} else if c.lastTotal > 0 {
		c.rate *= 0.8
	}
	c.lastTotal = total
	if s.Lag == 0 {
		zero := 0.0
		s.ETASeconds = &zero
	} else if c.rate > 0.01 {
		eta := float64(s.Lag) / c.rate
		s.ETASeconds = &eta
	}
	s.Parked = c.parkedOpen
	c.status.Store(&s)
}

// measureEntries counts the records that are not done, by route and state (loop).
func (c *Connector) measureEntries() {
	n := make(map[entryKey]int)
	for _, p := range c.parts {
		p.set.Lanes(func(l *keyLane) {
			first := true
			l.Tasks(func(t *task) {
				state := "pending"
				switch {
				case !first:
				case l.Busy: // its head belongs to a worker
					state = "in_flight"
				case l.Where == laneTimer && t.Started:
					state = "retrying"
				}
				first = false
				n[entryKey{t.Route.Name, state}]++
			})
		})
	}
	for k, v := range c.parkedBy {
		n[k] += v
	}
	for _, routes := range c.routes {
		for _, r := range routes {
			for _, state := range EntryStates {
				c.cfg.Observer.Entries(r.Name, state, n[entryKey{r.Name, state}])
			}
		}
	}
}

// entryKey is a route and one of EntryStates.
type entryKey struct{ route, state string }

// parkedStates counts open parked records by route and state.
func parkedStates(open []checkpoint.Parked) map[entryKey]int {
	n := make(map[entryKey]int)
	for _, p := range open {
		state := "parked"
		switch p.Cause {
		case checkpoint.CauseAmbiguous, checkpoint.CauseExhausted:
			state = "unknown"
		case checkpoint.CauseFraming, checkpoint.CauseSchema, checkpoint.CauseRule, checkpoint.CauseNoKey, checkpoint.CauseKeyMismatch, checkpoint.CauseTooLarge, checkpoint.CauseTombstone:
			state = "dead_lettered"
		}
		n[entryKey{p.Position.Route, state}]++
	}
	return n
}

// oldestPending is the event time of the oldest record at the mark (approximately: Kafka's timestamp).
func oldestPending(p *partition) (t time.Time) {
	if n, _ := p.set.Pending(); n == 0 {
		return t
	}
	low := p.set.Low()
	p.set.Lanes(func(l *keyLane) {
		if h := l.Head(); t.IsZero() && h != nil && h.Offset == low {
			t = h.Work.rec.Timestamp
		}
	})
	return t
}

// readEnds asks Kafka for the ends of the partitions. One that is frozen may take much longer than the time it is given.
func (c *Connector) readEnds(ctx context.Context) {
	if c.cfg.Ends == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if ends, err := c.cfg.Ends(ctx); err == nil {
		c.do(func() { c.ends = ends })
	}
}

// publishStatus keeps the status in the store, for the CLI and other instances. It does not ask Kafka: the report must
// come while that is away too.
func (c *Connector) publishStatus(stopped bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), statusTimeout)
	defer cancel()
	if !stopped {
		open, err := c.cfg.Store.Parked(ctx, checkpoint.ParkedQuery{Connector: c.cfg.Name, States: []checkpoint.ParkedState{checkpoint.ParkedOpen}, Limit: parkedCountMax})
		if err == nil {
			by := parkedStates(open)
			c.do(func() { c.parkedOpen, c.parkedBy = len(open), by })
		}
		c.ifDamaged("count the parked records", err)
	}
	s := c.Status()
	if stopped {
		s.State, s.Reason, s.Since, s.InFlight = StateStopped, "", c.now(), 0
		if c.failed != nil { // the loop has ended
			s.Reason = c.failed.Error()
		}
		c.status.Store(&s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		return
	}
	if err := c.cfg.Store.SaveStatus(ctx, checkpoint.Status{Connector: c.cfg.Name, Instance: c.cfg.Instance, At: c.now(), JSON: b}); err != nil {
		c.ifDamaged("keep the status", err)
		c.log.Debug("status not kept", "err", err)
	}
}

// statusTimeout bounds one question of a status: the report is at most a few seconds late.
const statusTimeout = 2 * time.Second

// parkedCountMax is up to where open parked records are counted exactly.
const parkedCountMax = 10_000
