package connector

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/lane"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// batches is the queue between the poll loop and a partition's intake. It is bounded by the partition's window:
// past it the partition's fetches are paused.
type batches struct {
	mu    sync.Mutex
	queue [][]*kafka.Record
}

func (b *batches) put(rs []*kafka.Record) {
	b.mu.Lock()
	b.queue = append(b.queue, rs)
	b.mu.Unlock()
}

func (b *batches) take() []*kafka.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		return nil
	}
	rs := b.queue[0]
	b.queue[0] = nil
	b.queue = b.queue[1:]
	return rs
}

// intakeMax is how many records one step of an intake takes: large enough to share look-ups, small enough that
// the first ones are soon on their way.
const intakeMax = 256

// An arrival is a record on its way from intake to lane.
type arrival struct {
	rec     *kafka.Record
	event   *schema.Event
	refused *schema.RefusedError
	key     checkpoint.EntityKey
	hash    uint64
	routes  []*profile.Route // without an outcome yet
	bytes   int
	ent     *entity           // that of memory, nil if it had none
	loaded  *checkpoint.State // else what the store knew of the entity
}

// intake reads ledger rows and entity states, decodes, and hands records to the loop in offset order. It ends
// with the assignment.
func (c *Connector) intake(p *partition) {
	defer close(p.intakeDone)
	for {
		rs := p.queued.take()
		if rs == nil {
			select {
			case <-p.intake:
				continue
			case <-p.ctx.Done():
				return
			}
		}
		for len(rs) > 0 {
			if !c.awaitRoom(p) {
				return
			}
			n := min(len(rs), intakeMax)
			if !c.admitBatch(p, rs[:n]) {
				return
			}
			rs = rs[n:]
		}
	}
}

// awaitRoom waits while more lanes are ready than the workers will take for a while: what would queue behind them is
// kept as the bytes that it came in, a tenth of the memory that it takes once decoded. Lanes that wait, for a quota, an
// outage or a reference, are not ready: behind them intake goes on, so that newer states conflate, up to the window.
// It reports false when the assignment has ended.
func (c *Connector) awaitRoom(p *partition) bool {
	most := int64(max(readyMin, 2*c.wire.size()))
	if c.readyLanes.Load() < most {
		return true
	}
	// The loop stores readyLanes before it looks for waiting intakes, we say that we wait before we look at readyLanes:
	// one of the two sees the other.
	c.waitingIntakes.Add(1)
	defer c.waitingIntakes.Add(-1)
	for c.readyLanes.Load() >= most {
		select {
		case <-p.room:
		case <-p.ctx.Done():
			return false
		}
	}
	return true
}

// readyMin is how many ready lanes do not hold intake up, however few requests may be in flight: two of its steps.
const readyMin = 2 * intakeMax

// giveRoom tells waiting intakes how many lanes are ready (loop).
func (c *Connector) giveRoom() {
	c.readyLanes.Store(int64(len(c.ready) - c.readyHead + c.horizonLanes + c.standing())) // those that wait for the horizon are ready in a moment
	if c.waitingIntakes.Load() == 0 {
		return
	}
	for _, p := range c.parts {
		select {
		case p.room <- struct{}{}:
		default:
		}
	}
}

// yieldEvery is after how many records an intake lets others run: an answer that has come is not to wait for a batch, which
// takes some milliseconds.
const yieldEvery = 16

// admitBatch takes up to intakeMax records of a partition. It reports false when the assignment has ended.
func (c *Connector) admitBatch(p *partition, rs []*kafka.Record) bool {
	rows, err := c.rowsOf(p, rs)
	if err != nil {
		return false
	}
	as := make([]arrival, 0, len(rs))
	give := func() bool {
		ok := c.admitAll(p, as)
		as = nil // they are the lanes' now
		return ok
	}
	for i, r := range rs {
		if i%yieldEvery == yieldEvery-1 {
			runtime.Gosched()
		}
		a := arrival{rec: r, bytes: len(r.Key) + len(r.Value)}
		if r.Control || skipped(p.skips, r.Offset) {
			as = append(as, a)
			continue
		}
		if !c.decode(p, &a, give) {
			return false
		}
		entity := c.cfg.Topics[r.Topic]
		a.hash = EventHash(a.eventID())
		a.routes = c.routes[entity]
		if len(rows[r.Offset]) > 0 {
			left := make([]*profile.Route, 0, len(a.routes))
			for _, rt := range a.routes {
				row, ok := rows[r.Offset][rt.Name]
				if !ok {
					left = append(left, rt)
				} else if row.EventHash != a.hash {
					c.do(func() {
						c.holdPartition(p, fmt.Sprintf("log_changed: the ledger has another event at %s/%d (%s); the topic was truncated or written over: check its brokers, then restart with --accept-topic %s",
							p.id, r.Offset, row.Event.ID, p.id.Topic))
					})
					return false
				}
			}
			a.routes = left
		}
		as = append(as, a)
	}
	return give()
}

// admitAll hands records to the loop. It reports false when the assignment has ended.
func (c *Connector) admitAll(p *partition, as []arrival) bool {
	if !c.loadStates(p, as) {
		return false
	}
	done := make(chan struct{})
	c.do(func() {
		defer close(done)
		if p.gone || p.revoking {
			return
		}
		for i := range as {
			c.admit(p, &as[i])
		}
		c.window(p)
		c.giveRoom() // before the next step of this intake looks
	})
	select {
	case <-done:
		return p.ctx.Err() == nil
	case <-p.ctx.Done():
		return false
	}
}

// rowsOf returns the ledger rows of the records, by offset and route. Only records up to the last row that there
// was at the start can be repeats.
func (c *Connector) rowsOf(p *partition, rs []*kafka.Record) (map[int64]map[string]checkpoint.Row, error) {
	if len(rs) == 0 || rs[0].Offset > p.last {
		return nil, nil
	}
	var rows []checkpoint.Row
	err := c.persist("read the ledger of "+p.id.String(), func() (err error) {
		rows, err = c.cfg.Store.Rows(p.ctx, p.id, rs[0].Offset, rs[len(rs)-1].Offset+1)
		if p.ctx.Err() != nil {
			return errStopped
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	m := make(map[int64]map[string]checkpoint.Row, len(rows))
	for _, r := range rows {
		if m[r.Offset] == nil {
			m[r.Offset] = make(map[string]checkpoint.Row, 1)
		}
		m[r.Offset][r.Route] = r
	}
	return m, nil
}

func skipped(skips []checkpoint.Skip, offset int64) bool {
	for _, s := range skips {
		if s.From <= offset && offset < s.To {
			return true
		}
	}
	return false
}

// decode fills in what a record says. A schema that is newer than this build, or a registry that is away, holds
// the partition until it can be read: good events are never dead-lettered. Before it waits, give hands over the records
// before this one, which have nothing to wait for. It reports false when the assignment ended meanwhile.
func (c *Connector) decode(p *partition, a *arrival, give func() bool) bool {
	var b *deliver.Backoff
	defer func() {
		if b != nil {
			c.do(func() { c.clearHold(p) })
		}
	}()
	for {
		ev, err := c.cfg.Decoder.Decode(p.ctx, &a.rec.Record)
		if err == nil {
			a.event = ev
			a.key = checkpoint.EntityKey{Entity: ev.Entity, Key: ev.Key}
			return true
		}
		if refused, ok := errors.AsType[*schema.RefusedError](err); ok {
			a.refused, a.event = refused, refused.Event
			a.key = checkpoint.EntityKey{Entity: c.cfg.Topics[a.rec.Topic], Key: string(a.rec.Key)}
			if len(a.rec.Key) == 0 {
				// No key, so no lane to hold: one of its own.
				a.key.Key = fmt.Sprintf("\x00%d/%d", a.rec.Partition, a.rec.Offset)
			}
			c.cfg.Observer.Refused(a.rec.Topic, checkpoint.Cause(refused.Cause))
			return true
		}
		if p.ctx.Err() != nil {
			return false
		}
		if b == nil {
			if !give() {
				return false
			}
			b = deliver.NewBackoff(250 * time.Millisecond)
		}
		wait := min(b.Next(), retryMax)
		if _, ok := errors.AsType[*schema.AheadError](err); ok {
			wait = deliver.BackoffMax
		}
		c.do(func() { c.noteHold(p, err.Error()) })
		select {
		case <-time.After(wait):
		case <-p.ctx.Done():
			return false
		}
	}
}

func (a *arrival) eventID() string {
	if a.event != nil && a.event.ID != "" {
		return a.event.ID
	}
	// Bytes that cannot be read have no event id: the origin names them.
	return fmt.Sprintf("%s/%d/%d", checkpoint.TopicID(a.rec.TopicID), a.rec.Partition, a.rec.Offset)
}

// EventHash is what the ledger recognises an event by: the first 8 bytes of SHA-256 of its id, big-endian.
func EventHash(id string) uint64 {
	var usual [64]byte // an id up to this takes no memory of its own
	h := sha256.Sum256(append(usual[:0], id...))
	return binary.BigEndian.Uint64(h[:8])
}

// loadStates looks up, at once, the states of the entities that memory does not have.
func (c *Connector) loadStates(p *partition, as []arrival) bool {
	var keys []checkpoint.EntityKey
	asked := make(map[checkpoint.EntityKey]bool)
	for i := range as {
		a := &as[i]
		if len(a.routes) == 0 {
			continue
		}
		if e, ok := c.entities.Get(a.key); ok && e.part == p {
			a.ent = e
		} else if !asked[a.key] {
			asked[a.key] = true
			keys = append(keys, a.key)
		}
	}
	if len(keys) == 0 {
		return true
	}
	states, err := c.states(p.ctx, keys)
	if err != nil {
		return false
	}
	for i := range as {
		if as[i].ent == nil {
			as[i].loaded = states[as[i].key]
		}
	}
	return true
}

func (c *Connector) states(ctx context.Context, keys []checkpoint.EntityKey) (states map[checkpoint.EntityKey]*checkpoint.State, err error) {
	err = c.persist("read entity states", func() (err error) {
		states, err = c.cfg.Store.States(ctx, c.cfg.Name, keys)
		if ctx.Err() != nil {
			return errStopped
		}
		return err
	})
	return states, err
}

// admit puts one record into its lane (loop).
func (c *Connector) admit(p *partition, a *arrival) {
	p.queuedRecords.Add(-1)
	p.queuedBytes.Add(-int64(a.bytes))
	p.set.Add(a.rec.Offset, len(a.routes), a.bytes)
	p.markEpoch = a.rec.LeaderEpoch
	if p.set.Next()+horizonChunk/2 > p.horizon {
		c.raise(p)
	}
	if len(a.routes) == 0 {
		return
	}
	ent := c.entityOf(p, a)
	state := ent.state.Load()
	replayed := state != nil && state.LastTopic == p.id.ID && state.LastPartition == p.id.Index && a.rec.Offset < state.LastOffset
	for i, rt := range a.routes {
		// One piece of memory for both: they live and end together.
		both := &struct {
			t task
			w work
		}{w: work{part: p, ent: ent, rec: a.rec, refused: a.refused, key: a.key, hash: a.hash, first: i == 0}}
		t, w := &both.t, &both.w
		*t = task{Offset: a.rec.Offset, Route: rt, Event: a.event, Work: w}
		w.open = p.open[position{a.rec.Offset, rt.Name}]
		delete(p.open, position{a.rec.Offset, rt.Name}) // what is begun from now on is another send
		if a.rec.Offset < p.suspectBelow || w.open != nil {
			// The oldest outcome-less record of a key below the horizon may have been sent before the restart;
			// those behind it were not: they waited for its outcome.
			if !p.suspects[a.key] || w.open != nil {
				p.suspects[a.key] = true
				// One that was not newer than what is settled was never sent, unless its Begin says so: sending it now
				// would be a second effect.
				if w.open != nil || !lane.Older(rt, a.event, state, replayed) {
					t.Started, w.suspect = true, a.refused == nil
				}
			}
		}
		w.event = a.event
		if a.refused != nil {
			t.Event = nil // it supersedes nothing, and nothing supersedes it
		}
		var head *task
		if l := p.set.Lane(a.key); l != nil {
			head = l.Head()
		}
		l, superseded := p.set.Admit(t, a.key, state, replayed, func() bool { return c.fits(t) })
		for _, old := range superseded {
			w.supersedes = append(w.supersedes, old.Work.event.ID)
			if a.event.Tombstone && a.event.Tenant == "" {
				a.event.Tenant = old.Work.event.Tenant // else nothing would remember it: the superseded leave no state
			}
			w.supersedes = append(w.supersedes, old.Work.supersedes...)
			if n := len(w.supersedes); n > supersedesMax {
				w.supersedes = w.supersedes[n-supersedesMax:]
			}
			l.Settling++
			c.settle(old, verdict{outcome: checkpoint.Superseded, supersededBy: a.event.ID, conflated: true})
		}
		if head != nil && l.Head() != head {
			// What the lane waited for was its superseded head's own (a reference, late_apply): that head's timer
			// would never wake it, so the new head asks for itself.
			c.stopWaiting(head)
			if l.Where == laneTimer {
				l.Where = laneIdle
			}
		}
		if l.Where == laneIdle {
			c.wake(l)
		}
	}
}

// supersedesMax bounds how many superseded event ids a parked entry lists: the newest.
const supersedesMax = 100

// entityOf returns the entity of a key with its durable state. A key with tasks has its entity in them, so an
// eviction from memory cannot lose a state that is newer than what was loaded.
func (c *Connector) entityOf(p *partition, a *arrival) *entity {
	if l := p.set.Lane(a.key); l != nil && l.Head() != nil {
		return l.Head().Work.ent
	}
	if a.ent != nil && a.ent.kept {
		return a.ent // found in memory a moment ago, and still there
	}
	if e, ok := c.entities.Get(a.key); ok && e.part == p {
		return e
	}
	e := &entity{part: p}
	e.state.Store(a.loaded)
	c.keep(a.key, e)
	return e
}

// keep puts an entity into memory (loop). The loop alone does, so that it also alone puts others out.
func (c *Connector) keep(key checkpoint.EntityKey, e *entity) {
	e.kept = true
	c.entities.Add(key, e)
}

// fits reports whether a task's request could be built from what is known now, with a stand-in for references
// that are resolved at dispatch: only such a record may supersede another (design section 5).
func (c *Connector) fits(t *task) bool {
	in := input(t.Work.event, t.Work.ent.state.Load())
	plan, err := t.Route.Plan(in)
	if err != nil || len(plan.Steps) == 0 {
		return false
	}
	if len(plan.Needs) > 0 {
		in.Refs = standIns(plan.Needs)
	}
	for i, s := range plan.Steps {
		if _, err := s.Build(profile.StandIn(plan.Steps, i, in), 0); err != nil {
			return false
		}
	}
	return true
}

func input(ev *schema.Event, state *checkpoint.State) *profile.Input {
	in := &profile.Input{Event: ev}
	if state != nil {
		in.IDs, in.Remembered = state.IDs, state.Remembered
	}
	return in
}
