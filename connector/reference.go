package connector

import (
	"fmt"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// resolve looks up the vendor ids of the entities that a plan refers to, now, at dispatch (worker). done means
// that the record must wait, or is parked.
func (c *Connector) resolve(t *task, in *profile.Input, needs []profile.Need) (n next, done bool) {
	in.Refs = make(map[string]profile.Ref, len(needs))
	for _, need := range needs {
		key := checkpoint.EntityKey{Entity: need.Entity, Key: need.Key}
		s, err := c.stateNow(key)
		if err != nil {
			return next{kind: nextLost, err: err}, true
		}
		if tenant := t.Work.event.Tenant; s != nil && tenant != "" && s.Tenant != "" && s.Tenant != tenant {
			s = nil // another tenant's entity of the same id is none of ours
		}
		switch {
		case s != nil && s.Deleted && t.Work.suspect:
			// It may have been sent before the restart, and without the referent's id it cannot be sent the same again
			// (design section 6, Plan and Begin).
			t.Work.nameSends(in, needs)
			return c.park(t, ambiguous(fmt.Sprintf("it may have been sent before a restart, and the %s it refers to is deleted since", need.Entity))), true
		case s != nil && s.Deleted:
			return c.park(t, verdict{cause: checkpoint.CauseReferenceDeleted, reason: fmt.Sprintf("the %s it refers to is deleted", need.Entity), path: need.Name}), true
		case s == nil || s.IDs[need.ID] == "":
			return c.await(t, need)
		}
		in.Refs[need.Name] = profile.Ref{IDs: s.IDs, Remembered: s.Remembered}
	}
	return next{}, false
}

// nameSends gives a plan that cannot be built any more the idempotency keys that its sends had, which do not depend on
// referents: so the effect at the vendor can be found from the record, and the record from the effect (promise 10).
func (w *work) nameSends(in *profile.Input, needs []profile.Need) {
	if len(w.plan) > 0 {
		return
	}
	in.Refs = standIns(needs)
	for i, s := range w.steps {
		if r, err := s.Build(in, w.gens[i]); err == nil {
			w.plan = append(w.plan, checkpoint.Step{Step: s.Name, Operation: s.Operation.Name, IdempotencyKey: r.IdempotencyKey, Generation: w.gens[i], IDs: in.IDs})
		}
	}
}

// standIns are references with an id that means nothing, for requests that are built and not sent.
func standIns(needs []profile.Need) map[string]profile.Ref {
	refs := make(map[string]profile.Ref, len(needs))
	for _, n := range needs {
		refs[n.Name] = profile.Ref{IDs: map[string]string{n.ID: "unresolved"}}
	}
	return refs
}

// stateNow is an entity's durable state: from memory if we own its partition, else from the store.
func (c *Connector) stateNow(key checkpoint.EntityKey) (*checkpoint.State, error) {
	if e, ok := c.entities.Get(key); ok && !e.part.lostLease.Load() {
		c.cfg.Observer.Referenced(true)
		return e.state.Load(), nil
	}
	c.cfg.Observer.Referenced(false)
	states, err := c.states(c.ctx, []checkpoint.EntityKey{key})
	return states[key], err
}

// await registers the record as waiting for a referent. The store looks again in the transaction that registers
// it, so a referent that is delivered meanwhile cannot be missed.
func (c *Connector) await(t *task, need profile.Need) (next, bool) {
	w := t.Work
	waiter := checkpoint.Waiter{Position: c.position(t), Tenant: w.event.Tenant, RefEntity: need.Entity, RefKey: need.Key, RefID: need.ID, EntityKey: w.key, Since: c.now()}
	var present []bool
	err := c.persist("register a waiter", func() (err error) {
		present, err = c.cfg.Store.Await(c.ctx, []checkpoint.Waiter{waiter})
		return err
	})
	if err != nil {
		return next{kind: nextLost, err: err}, true
	}
	reason := fmt.Sprintf("the %s it refers to has no %s yet", need.Entity, need.ID)
	if w.refSince.IsZero() {
		w.refSince = c.now()
	} else if c.now().Sub(w.refSince) >= c.cfg.ReferenceWait && !present[0] {
		return c.parkWaiting(t, reason), true
	}
	// At once the first time: the referent's state may be on its way to us. If it is not what is needed, the waiter is
	// woken at the pace of wakeReferences.
	again := w.refPresent
	w.refPresent = present[0]
	return next{kind: nextReference, reason: reason, present: present[0] && !again}, true
}

func (c *Connector) parkWaiting(t *task, reason string) next {
	return c.park(t, verdict{cause: checkpoint.CauseMissingReference, reason: reason,
		guidance: "It is released by itself when the entity it refers to has been delivered."})
}

// waitForReference keeps a record in its lane until its referent is there (loop). Records that wait hold at most
// a quarter of their partition's window; the next ones, and those that waited ReferenceWait, are parked and
// released by the referent's settle (design section 5, Blocked work).
func (c *Connector) waitForReference(t *task, n next) {
	w, l := t.Work, t.Lane()
	if n.present || w.forgotten {
		w.forgotten = false
		c.wake(l)
		return
	}
	if w.part.waiters >= max(c.cfg.WindowRecords/4, 1) {
		w.refSince = time.Unix(0, 1) // waited long enough: its worker parks it
		c.wake(l)
		return
	}
	l.Where = laneRef
	w.part.waiters++
	c.waiting[c.position(t)] = t
	w.refTimer = time.AfterFunc(max(c.cfg.ReferenceWait-c.now().Sub(w.refSince), 0), func() {
		c.do(func() {
			if !w.waking {
				c.stopWaiting(t)
			}
		})
	})
}

// stopWaiting takes a record out of waiting and lets it look again (loop).
func (c *Connector) stopWaiting(t *task) {
	pos := c.position(t)
	if c.waiting[pos] != t {
		return
	}
	delete(c.waiting, pos)
	t.Work.refTimer.Stop()
	t.Work.part.waiters--
	if l := t.Lane(); l.Where == laneRef {
		l.Where = laneIdle
		c.wake(l)
	}
}

// wokenMax bounds how many woken waiters are taken at once.
const wokenMax = 1000

// wakeReferences lets records go on whose referent has appeared (loop). It asks the store, so it also sees what
// other instances have delivered.
func (c *Connector) wakeReferences() {
	if c.wakingRefs || c.storeBad.now() != nil {
		return
	}
	c.wakingRefs = true
	go func() {
		ws, err := c.cfg.Store.Woken(c.ctx, c.cfg.Name, wokenMax)
		if err != nil {
			c.ifDamaged("read the woken waiters", err)
			c.do(func() { c.wakingRefs = false })
			return
		}
		c.do(func() { c.woken(ws) })
	}()
}

// woken takes up waiters whose referent has appeared (loop). Their rows go first and they look again after that: one
// that looked before, and did not find what it needs, would have registered anew a row that then goes, and nothing would
// ever wake it.
func (c *Connector) woken(ws []checkpoint.Waiter) {
	c.wakingRefs = false
	var forget, release []checkpoint.Position
	var wake []*task
	for _, w := range ws {
		p := c.parts[kafka.TP{Topic: w.Position.Partition.Topic, Partition: w.Position.Partition.Index}]
		if p == nil || p.id != w.Position.Partition || p.gone || p.revoking {
			continue // another instance's, or it will be taken up with its partition
		}
		if t := c.waiting[w.Position]; t != nil {
			t.Work.waking = true
			t.Work.refTimer.Stop()
			wake = append(wake, t)
			forget = append(forget, w.Position)
		} else if w.Parked && !c.releasing[w.Position] {
			release = append(release, w.Position)
		}
	}
	if len(forget)+len(release) == 0 {
		return
	}
	c.wakingRefs = true
	c.forgetting = make(map[checkpoint.Position]bool, len(release))
	for _, pos := range release {
		c.forgetting[pos] = true
	}
	go func() {
		err := c.persist("release records whose reference appeared", func() error {
			if len(release) > 0 {
				if err := c.cfg.Store.ReleaseParked(c.ctx, release, 0, checkpoint.Audit{At: c.now(), Actor: "weir", Action: "release", Connector: c.cfg.Name,
					Target: fmt.Sprintf("%d records", len(release)), Reason: "the entity they refer to has been delivered"}); err != nil {
					return err
				}
			}
			return c.cfg.Store.Forget(c.ctx, append(forget, release...))
		})
		c.do(func() {
			c.wakingRefs, c.forgetting = false, nil
			for _, t := range wake {
				t.Work.waking = false
				if c.waiting[c.position(t)] == t {
					c.stopWaiting(t)
				} else {
					t.Work.forgotten = true // it was taken out of waiting, and may have registered anew
				}
			}
			if err != nil {
				return
			}
			c.takeReleased()
			if len(ws) == wokenMax {
				c.wakeReferences()
			}
		})
	}()
}

// takeReleased asks the store for released entries of our partitions and brings them back to their lanes (loop).
func (c *Connector) takeReleased() {
	if c.takingReleased {
		c.takeAgain = true
		return
	}
	c.takingReleased = true
	// Only now: a query that began before a settle may still list as released what the settle has closed, and to send
	// that again would be a second effect.
	for _, pos := range c.releasedOver {
		delete(c.releasing, pos)
	}
	c.releasedOver = nil
	go func() {
		entries, err := c.cfg.Store.Parked(c.ctx, checkpoint.ParkedQuery{Connector: c.cfg.Name, States: []checkpoint.ParkedState{checkpoint.ParkedReleased}, Limit: wokenMax})
		c.ifDamaged("read the released records", err)
		c.do(func() {
			if err != nil {
				// Nothing else may come to ask again: what is released must not wait for the next release.
				time.AfterFunc(takeReleasedAgain, func() {
					c.do(func() { c.takingReleased = false; c.takeReleased() })
				})
				return
			}
			c.releasedMore = len(entries) == wokenMax
			var mine []checkpoint.Parked
			for _, e := range entries {
				p := c.parts[kafka.TP{Topic: e.Position.Partition.Topic, Partition: e.Position.Partition.Index}]
				if p != nil && p.id == e.Position.Partition && !p.gone && !p.revoking && !c.releasing[e.Position] && !c.forgetting[e.Position] {
					c.releasing[e.Position] = true
					mine = append(mine, e)
				}
			}
			if len(mine) == 0 {
				c.takingReleased = false
				if c.takeAgain {
					c.takeAgain = false
					c.takeReleased()
				}
				return
			}
			go c.bringBack(mine)
		})
	}()
}

// takeReleasedAgain is the wait before the store is asked again for released records: they are taken within a second
// or two of the store's return.
const takeReleasedAgain = time.Second

// bringBack reads released records again, by their origin or, if Kafka has deleted that, by their copy in the
// parked topic, and hands them to their lanes.
func (c *Connector) bringBack(entries []checkpoint.Parked) {
	for _, e := range entries {
		a, err := c.reread(e)
		if err != nil && c.ctx.Err() != nil {
			return // stopping: the store keeps them released
		}
		if err != nil {
			c.log.Error("released record cannot be read again; it stays released and is tried again", "origin", fmt.Sprintf("%s/%d", e.Position.Partition, e.Position.Offset), "err", err)
			c.do(func() { delete(c.releasing, e.Position) })
			continue
		}
		states, err := c.states(c.ctx, []checkpoint.EntityKey{e.EntityKey})
		if err != nil {
			break
		}
		a.loaded = states[e.EntityKey]
		c.do(func() { c.admitReleased(e, a) })
	}
	c.do(func() {
		c.takingReleased = false
		c.takeReleased()
	})
}

// rereadTries bounds how often one read of a released record is repeated in a row.
const rereadTries = 3

func (c *Connector) reread(e checkpoint.Parked) (*arrival, error) {
	b := deliver.NewBackoff(100 * time.Millisecond)
	var err error
	for range rereadTries {
		var rec *kafka.Record
		rec, err = c.cfg.Reader.ReadAt(c.ctx, e.Position.Partition.Topic, e.Position.Partition.Index, e.Position.Offset)
		if err != nil && e.CopyTopic != "" {
			var dup *kafka.Record
			var err2 error
			if dup, err2 = c.cfg.Reader.ReadAt(c.ctx, e.CopyTopic, e.CopyPartition, e.CopyOffset); err2 == nil {
				dup.Topic, dup.Partition, dup.Offset, dup.TopicID = e.Position.Partition.Topic, e.Position.Partition.Index, e.Position.Offset, e.Position.Partition.ID
				rec, err = dup, nil
			}
		}
		if err == nil {
			rec.TopicID = e.Position.Partition.ID
			var ev *schema.Event
			if ev, err = c.cfg.Decoder.Decode(c.ctx, &rec.Record); err == nil {
				return &arrival{rec: rec, event: ev, key: e.EntityKey, hash: EventHash(ev.ID)}, nil
			}
		}
		select {
		case <-time.After(b.Next()):
		case <-c.ctx.Done():
			return nil, c.ctx.Err()
		}
	}
	return nil, err
}

// admitReleased puts a released record before what waits in its lane (loop).
func (c *Connector) admitReleased(e checkpoint.Parked, a *arrival) {
	p := c.parts[kafka.TP{Topic: e.Position.Partition.Topic, Partition: e.Position.Partition.Index}]
	var route *profile.Route
	for _, r := range c.routes[e.EntityKey.Entity] {
		if r.Name == e.Position.Route {
			route = r
		}
	}
	if p == nil || p.id != e.Position.Partition || p.gone || p.revoking || route == nil {
		delete(c.releasing, e.Position)
		return
	}
	ent := c.entityOf(p, a)
	w := &work{part: p, ent: ent, rec: a.rec, event: a.event, key: a.key, hash: a.hash, first: true, entry: &e, supersedes: e.Supersedes}
	w.open = p.open[position{e.Position.Offset, route.Name}]
	t := &task{Offset: e.Position.Offset, Route: route, Event: a.event, Work: w, Released: true}
	if w.open != nil {
		t.Started, w.suspect = true, true
	}
	var head *task
	if l := p.set.Lane(a.key); l != nil {
		head = l.Head()
	}
	l, _ := p.set.Admit(t, a.key, ent.state.Load(), true, nil)
	if head != nil && l.Head() == t {
		// What the lane waited for was the former head's own; the released record goes first and waits for itself.
		c.stopWaiting(head)
		if l.Where == laneTimer {
			l.Where = laneIdle
		}
	}
	if l.Where == laneIdle {
		c.wake(l)
	}
}

// restartChains releases the first parked record of each key that is only held: what it was held behind was resolved,
// and a crash came before it could follow.
func (c *Connector) restartChains() {
	var open []checkpoint.Parked
	err := c.persist("read the parked records", func() (err error) {
		open, err = c.cfg.Store.Parked(c.ctx, checkpoint.ParkedQuery{Connector: c.cfg.Name, States: []checkpoint.ParkedState{checkpoint.ParkedOpen, checkpoint.ParkedReleased}, Limit: parkedCountMax})
		return err
	})
	if err != nil {
		return
	}
	type chain struct {
		key   checkpoint.EntityKey
		route string
	}
	first := make(map[chain]checkpoint.Parked)
	for _, e := range open {
		k := chain{e.EntityKey, e.Position.Route}
		if f, ok := first[k]; !ok || e.Position.Partition == f.Position.Partition && e.Position.Offset < f.Position.Offset {
			first[k] = e
		}
	}
	for _, e := range first {
		if e.State == checkpoint.ParkedOpen && e.Cause == checkpoint.CauseHeld {
			c.do(func() { c.releaseFirst(e) })
		}
	}
}

// releaseFirst releases a held record if its partition is ours (loop).
func (c *Connector) releaseFirst(e checkpoint.Parked) {
	p := c.parts[kafka.TP{Topic: e.Position.Partition.Topic, Partition: e.Position.Partition.Index}]
	if p == nil || p.id != e.Position.Partition || p.gone || p.revoking || p.hold != "" {
		return
	}
	go func() {
		err := c.persist("release the next record of a key", func() error {
			return c.cfg.Store.ReleaseParked(c.ctx, []checkpoint.Position{e.Position}, e.Generation, checkpoint.Audit{At: c.now(), Actor: "weir", Action: "release",
				Connector: c.cfg.Name, Target: e.Position.Origin(), Reason: "the record before it is resolved"})
		})
		if err == nil {
			c.do(c.takeReleased)
		}
	}()
}

// releaseNext lets the next parked record of a key follow a released one: those that were only held behind it
// (loop). It ends when the parked tail is empty or the next one waits for something of its own.
func (c *Connector) releaseNext(p *partition, key checkpoint.EntityKey, route string, s *checkpoint.State) {
	if rs := routeState(s, route); rs.Open == 0 {
		return
	}
	go func() {
		var open []checkpoint.Parked
		err := c.persist("read the parked records of a key", func() (err error) {
			open, err = c.cfg.Store.Parked(c.ctx, checkpoint.ParkedQuery{Connector: c.cfg.Name, Entity: key.Entity, Key: key.Key,
				States: []checkpoint.ParkedState{checkpoint.ParkedOpen, checkpoint.ParkedReleased}})
			return err
		})
		if err != nil {
			return
		}
		for _, e := range open {
			if e.Position.Route != route || e.Position.Partition != p.id {
				continue
			}
			if e.Cause != checkpoint.CauseHeld || e.State == checkpoint.ParkedReleased {
				return // the oldest that is left has a cause of its own, or is on its way already
			}
			c.do(func() { c.releaseFirst(e) })
			return
		}
	}()
}
