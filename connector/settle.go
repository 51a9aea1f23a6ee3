package connector

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
)

// settled is a task whose outcome is in a batch.
type settled struct {
	t     *task
	state *checkpoint.State // nil: unchanged
	out   checkpoint.Outcome
	head  bool // it is the head of its lane (not superseded inside it)
}

// retracted are members of an answered batch that go on when the answer is durable: until then a restart would take the
// whole batch for unanswered.
type retracted struct {
	part *partition
	then func() // loop
}

// finish takes what a worker has to say (loop).
func (c *Connector) finish(t *task, n next) {
	w, l := t.Work, t.Lane()
	c.inFlight--
	c.openFull()
	w.part.inFlight--
	// With its outcome on the way to the store it is still busy: nothing may supersede it or go before it.
	l.Busy, l.Where = n.kind == nextSettle, laneIdle
	t.Started = t.Started || w.sent
	if n.evidence != nil {
		c.evidence = append(c.evidence, checkpoint.Evidence{Position: c.position(t), Attempt: *n.evidence})
	}
	probe := c.haltProbe == l
	if probe {
		c.haltProbe = nil
	}
	if w.part.gone {
		return
	}
	if o := n.verdict.outcome; n.kind == nextSettle && w.sent && (o == checkpoint.Delivered || o == checkpoint.Accepted) {
		c.successes++
		clear(c.haltKeys)
		if probe && c.halted != nil {
			c.unhalt()
		}
	}
	switch n.kind {
	case nextSettle:
		l.Where = laneBusy
		c.settle(t, n.verdict)
	case nextRetry, nextLate:
		l.Where = laneTimer
		l.Turn++
		turn := l.Turn
		time.AfterFunc(max(n.at.Sub(c.now()), 0), func() {
			c.do(func() {
				if l.Where == laneTimer && l.Turn == turn {
					l.Where = laneIdle
					c.wake(l)
				}
			})
		})
	case nextGate:
		g := n.gate
		w.gate = g
		if g.why == "" {
			g.since = c.now()
		}
		g.at, g.why = n.at, n.why
		c.waitAtGate(l, g)
	case nextReference:
		c.waitForReference(t, n)
	case nextHalt:
		l.Where = laneHalted
		c.haltedLanes = append(c.haltedLanes, l)
		if len(c.haltKeys) < haltKeysMin {
			c.haltKeys[w.key] = true
		}
		if !w.blamed {
			w.blamed, w.blamedAt = true, c.successes
		}
		c.suspectCredential(n.reason)
	case nextBatch:
		if probe {
			// It is to show whether the credential works: it does not wait for others.
			w.alone, c.haltProbe = true, l
			c.wake(l)
		} else {
			c.gather(t)
		}
	case nextRejoin:
		c.rejoined(t, n.why)
	case nextLost:
		c.lost(w.part, n.err)
	}
	c.drainedYet(w.part)
}

// settle puts an outcome into the next batch (loop). The task leaves its lane when the batch is durable.
func (c *Connector) settle(t *task, v verdict) {
	w := t.Work
	// Made where it stays: it is large.
	c.batch.Settlements = append(c.batch.Settlements, checkpoint.Settlement{})
	s := &c.batch.Settlements[len(c.batch.Settlements)-1]
	s.Lease, s.State, s.Park, s.Close, s.Due = w.part.lease, v.state, v.park, v.closed, v.due
	// What the vendor has taken since for the entity is what counts there.
	s.Moot = t.Route.Semantics == profile.Latest && (v.outcome == checkpoint.Delivered || v.outcome == checkpoint.Accepted)
	row := &s.Row
	row.Partition, row.Offset, row.Route, row.LeaderEpoch, row.EventHash = w.part.id, t.Offset, t.Route.Name, w.rec.LeaderEpoch, w.hash
	row.Outcome, row.Cause, row.Reason, row.Rule, row.Path, row.SupersededBy = v.outcome, v.cause, v.reason, v.rule, v.path, v.supersededBy
	row.VendorID, row.Mapping, row.Plan, row.Attempts, row.At = w.vendorID, c.mappingOf(w), w.plan, w.attempts, c.now()
	if w.step < len(w.gens) {
		row.Generation = w.gens[w.step]
	} else if n := len(w.gens); n > 0 {
		row.Generation = w.gens[n-1]
	}
	row.Event = ledgerEvent(w)
	c.batchTasks = append(c.batchTasks, settled{t: t, state: v.state, out: v.outcome, head: !v.conflated})
	w.part.unsettled++
}

// mappingOf is the mapping version that made a task's plan, the current one if it has none.
func (c *Connector) mappingOf(w *work) string {
	if w.mapping != "" {
		return w.mapping
	}
	return c.cfg.Profile.Version
}

func ledgerEvent(w *work) checkpoint.Event {
	ev := w.event
	if ev == nil {
		return checkpoint.Event{Entity: w.key.Entity, Key: string(w.rec.Key)}
	}
	e := checkpoint.Event{ID: ev.ID, Type: ev.Type, Source: ev.Source, CorrelationID: ev.CorrelationID, Tenant: ev.Tenant, Entity: w.key.Entity,
		Key: w.key.Key, Version: ev.Version, Operation: string(ev.Operation), OccurredAt: ev.OccurredAt}
	if ev.Subject != "" {
		e.Schema = string(ev.Subject) + "/" + strconv.Itoa(ev.SchemaVersion)
	}
	return e
}

// flush settles what the loop has decided since the last flush, in one transaction, elsewhere. While one is
// under way the next batch gathers, so batches grow with the load. While all requests that may be under way are, no lane
// could use its outcome yet: then a batch gathers for flushEvery, which a transaction costs less for each record.
// Otherwise nobody lingers.
func (c *Connector) flush() {
	if c.flushing || len(c.batch.Settlements) == 0 && len(c.batch.Retractions) == 0 && len(c.evidence) == 0 && len(c.idleMarks) == 0 {
		return
	}
	if c.inFlight >= c.inFlightLimit.slots && len(c.batch.Settlements) < flushRows {
		if wait := flushEvery - time.Since(c.flushedAt); wait > 0 {
			if !c.flushLater {
				c.flushLater = true
				time.AfterFunc(wait, func() { c.do(func() { c.flushLater = false }) }) // the loop flushes after each message
			}
			return
		}
	}
	c.flushing, c.flushedAt = true, time.Now()
	batch, tasks, retracted, evidence := c.batch, c.batchTasks, c.batchRetracted, c.evidence
	// A settlement is large: the next batch gathers in the memory of the last one.
	c.batch = checkpoint.Batch{Settlements: c.spare.settlements}
	c.batchTasks, c.batchRetracted, c.evidence = c.spare.tasks, nil, nil
	c.spare = spareBatch{}
	moved := make(map[*partition]bool)
	for _, s := range tasks {
		if !s.t.Released && s.t.Work.part.set.Settle(s.t.Offset) {
			moved[s.t.Work.part] = true
		}
	}
	idle := c.idleMarks
	marks := maps.Clone(idle)
	c.idleMarks = nil
	if marks == nil {
		marks = make(map[*partition]int64, len(moved))
	}
	for p, mark := range marks {
		batch.Marks = append(batch.Marks, checkpoint.Mark{Lease: p.lease, Mark: mark})
	}
	for p := range moved {
		marks[p] = p.set.Low()
		batch.Marks = append(batch.Marks, checkpoint.Mark{Lease: p.lease, Mark: marks[p]})
	}
	go func() {
		start := time.Now()
		var res checkpoint.Result
		err := c.persist("settle", func() (err error) {
			if len(evidence) > 0 {
				if err := c.cfg.Store.Evidence(c.ctx, evidence); err != nil {
					return err
				}
				evidence = nil
			}
			if len(batch.Settlements) == 0 && len(batch.Retractions) == 0 && len(batch.Marks) == 0 {
				return nil
			}
			res, err = c.cfg.Store.Settle(c.ctx, batch)
			return err
		})
		c.cfg.Observer.Stored("settle", time.Since(start), err)
		if err == nil {
			c.cfg.Fail("settled")
		}
		c.do(func() {
			for p := range idle {
				p.unsettled--
			}
			c.flushed(tasks, retracted, marks, res, err)
			if err == nil {
				c.keepBatch(batch.Settlements, tasks)
			}
			for p := range idle {
				c.drainedYet(p)
			}
		})
	}()
}

// A spareBatch is the memory of a batch that is durable.
type spareBatch struct {
	settlements []checkpoint.Settlement
	tasks       []settled
}

// keepBatch keeps the memory of a batch for the next but one, unless it was an unusually large one (loop). The store keeps
// nothing of what it was given.
func (c *Connector) keepBatch(settlements []checkpoint.Settlement, tasks []settled) {
	if cap(settlements) > 2*settlingMin {
		return
	}
	clear(settlements)
	clear(tasks)
	c.spare = spareBatch{settlements[:0], tasks[:0]}
}

// An outcome in a batch of 500 takes a quarter to a third less CPU than in one of 64, and in one of 1,000 some 6 % less than that
// (BenchmarkSettle): flushEvery gathers some 800 at 10,000 a second. More would be sent again after a crash.
const (
	flushEvery = 80 * time.Millisecond
	flushRows  = 1024
)

// flushed takes the news that a batch is durable (loop).
func (c *Connector) flushed(tasks []settled, retracted []retracted, marks map[*partition]int64, res checkpoint.Result, err error) {
	c.flushing = false
	if err != nil {
		if !errors.Is(err, errStopped) || c.ctx.Err() == nil {
			c.fail(fmt.Errorf("settle %d outcomes: %w", len(tasks), err))
		}
		return
	}
	for _, id := range res.Fenced {
		// Only the assignment that made the batch is fenced: a later one of ours may own the partition.
		for _, s := range tasks {
			if p := s.t.Work.part; p.id == id {
				c.lost(p, &checkpoint.FencedError{Partition: id, Epoch: p.lease.Epoch})
			}
		}
		for p := range marks {
			if p.id == id {
				c.lost(p, &checkpoint.FencedError{Partition: id, Epoch: p.lease.Epoch})
			}
		}
		for _, r := range retracted {
			if p := r.part; p.id == id {
				c.lost(p, &checkpoint.FencedError{Partition: id, Epoch: p.lease.Epoch})
			}
		}
	}
	c.lastSettled = c.now()
	more := false // released entries wait for room
	for p, mark := range marks {
		if !p.gone {
			p.mark = max(p.mark, mark)
		}
	}
	for _, s := range tasks {
		w := s.t.Work
		p := w.part
		p.unsettled--
		if p.gone {
			continue
		}
		if s.state != nil {
			w.ent.state.Store(s.state)
		}
		var occurred time.Time
		if w.event != nil {
			occurred = w.event.OccurredAt
		}
		c.cfg.Observer.Settled(s.t.Route.Name, s.out, occurred)
		l := s.t.Lane()
		if !s.head {
			if l.Settling--; l.Settling == 0 && l.Where == laneIdle {
				c.wake(l)
			}
		}
		if s.head && l.Head() == s.t {
			l.Busy = false
			if l.Where == laneBusy {
				l.Where = laneIdle
			}
			if rest := p.set.Remove(s.t); rest != nil {
				c.wake(rest)
			} else if !w.ent.kept {
				// Its lane held the state until now; an intake under way would bring back what the store said before.
				c.keep(w.key, w.ent)
			}
		}
		if s.t.Released {
			c.releasedOver = append(c.releasedOver, c.position(s.t))
			more = c.releasedMore
			c.releaseNext(p, w.key, s.t.Route.Name, s.state)
		}
		if w.refSince != (time.Time{}) && s.out == checkpoint.ParkedOut {
			c.wakeReferences()
		}
	}
	for _, r := range retracted {
		if r.part.unsettled--; !r.part.gone {
			r.then()
		}
		c.drainedYet(r.part)
	}
	for p := range marks {
		c.window(p)
	}
	for _, s := range tasks {
		// Also where the mark did not move: one failing key must not keep its partition's fetch paused (promise 7).
		if p := s.t.Work.part; p.paused && !p.gone {
			c.window(p)
		}
	}
	if res.Woken > 0 {
		c.wakeReferences()
	}
	if more {
		c.takeReleased()
	}
	for _, s := range tasks {
		c.drainedYet(s.t.Work.part)
	}
}

// commit commits durable low-water marks to Kafka, elsewhere (loop; promise 1).
func (c *Connector) commit() {
	for _, p := range c.parts {
		c.idleMark(p)
	}
	if c.committing {
		return
	}
	cs := c.commits(func(p *partition) bool { return !p.revoking })
	if len(cs) == 0 {
		return
	}
	c.committing = true
	go func() {
		err := c.commitNow(cs)
		c.do(func() { c.committing = false; c.committed(cs, err) })
	}()
}

// commits lists what is durable and not yet committed (loop).
func (c *Connector) commits(which func(*partition) bool) map[kafka.TP]kafka.Commit {
	var cs map[kafka.TP]kafka.Commit
	for tp, p := range c.parts {
		if p.gone || p.hold != "" || !which(p) || p.mark <= p.committed {
			continue
		}
		if cs == nil {
			cs = make(map[kafka.TP]kafka.Commit)
		}
		cs[tp] = kafka.Commit{Offset: p.mark, LeaderEpoch: p.markEpoch, Metadata: kafka.EncodeMetadata(c.cfg.Store.ID(), p.mark)}
	}
	return cs
}

// idleMark lets a partition's mark move over records that needed no outcome of ours: transaction markers, and
// records that were settled before (loop). It is durable in the store before it is committed, like any mark.
func (c *Connector) idleMark(p *partition) {
	if n, _ := p.set.Pending(); n == 0 && p.unsettled == 0 && p.set.Low() > p.mark && !p.gone {
		if c.idleMarks == nil {
			c.idleMarks = make(map[*partition]int64)
		}
		c.idleMarks[p] = p.set.Low()
		p.unsettled++ // taken back when it is durable
	}
}

func (c *Connector) commitNow(cs map[kafka.TP]kafka.Commit) error {
	c.cfg.Fail("committing")
	err := c.source.Commit(c.ctx, cs)
	if err == nil {
		c.cfg.Fail("committed")
	}
	return err
}

// committed notes what a commit did (loop). A failed one is repeated at the next tick: marks only grow.
func (c *Connector) committed(cs map[kafka.TP]kafka.Commit, err error) {
	if err != nil {
		// Not a state of its own: the consumer tells when Kafka does not answer. A partition that was just taken
		// away refuses its commit, and rightly.
		c.log.Debug("commit refused; it is repeated, and nothing is lost without it", "err", err)
		return
	}
	for tp, cm := range cs {
		if p := c.parts[tp]; p != nil && !p.gone {
			p.committed = max(p.committed, cm.Offset)
		}
	}
}

// suspectCredential checks the credential after an answer that blames it (loop). The connector halts only if the
// check says so too, or cannot be made.
func (c *Connector) suspectCredential(reason string) {
	if c.halting || c.halted != nil {
		return
	}
	c.halting = true
	go func() {
		ok, why := c.checkCredential()
		c.do(func() {
			c.halting = false
			if !ok {
				c.halt(reasonOr(why, reason))
				return
			}
			check := c.cfg.Profile.Credential != nil
			if !check && len(c.haltKeys) >= haltKeysMin {
				// Nothing to ask, but it is not one record's own: two keys and no success in between.
				c.halt(reason)
				return
			}
			for _, l := range c.haltedLanes {
				// Without a check only another record's success since then says that the credential is good.
				if t := l.Head(); t != nil && (check || t.Work.blamed && c.successes > t.Work.blamedAt) {
					t.Work.passes++
				}
			}
			if check {
				c.wakeHalted()
				return
			}
			time.AfterFunc(haltAloneEvery, func() {
				c.do(func() {
					if c.halted == nil {
						c.wakeHalted()
					}
				})
			})
		})
	}()
}

// halt stops dispatch until the credential works again; nothing is lost, nothing dead-lettered (loop).
func (c *Connector) halt(reason string) {
	if c.halted != nil {
		return
	}
	h := &trouble{since: c.now(), reason: reason, over: make(chan struct{})}
	c.halted = h
	c.stopped.Store(true)
	c.log.Error("halted: the vendor does not take the credential; sending waits and goes on by itself when it works again", "reason", reason)
	go func() {
		seen := c.secretsPrint()
		for n := 0; ; n++ {
			select {
			case <-time.After(haltPollEvery):
			case <-h.over:
				return
			case <-c.ctx.Done():
				return
			}
			// At once when a secret changes, else on a slow timer (design section 6, Halt).
			if now := c.secretsPrint(); now == seen && n%haltCheckEvery != 0 {
				continue
			} else {
				seen = now
			}
			if c.cfg.Profile.Credential == nil {
				c.do(c.probeHalted) // a success of it ends the halt
			} else if ok, _ := c.checkCredential(); ok {
				break
			}
		}
		c.do(func() {
			if c.halted == h {
				c.unhalt()
			}
		})
	}()
}

// unhalt lets everything go on (loop).
func (c *Connector) unhalt() {
	c.log.Info("credential works again; sending goes on", "after", time.Since(c.halted.since).Round(time.Second))
	close(c.halted.over)
	c.halted, c.haltProbe = nil, nil
	c.stopped.Store(false)
	clear(c.haltKeys)
	c.wakeHalted()
}

// probeHalted lets one lane send, where the vendor has no call that checks a credential (loop).
func (c *Connector) probeHalted() {
	if c.halted == nil {
		return
	}
	if l := c.haltProbe; l != nil && (l.Where == laneReady || l.Where == laneBusy) {
		if t := l.Head(); t != nil && !t.Work.part.gone && !t.Work.part.revoking {
			return // it is on its way
		}
	}
	c.haltProbe = nil
	for i, l := range c.haltedLanes {
		if t := l.Head(); l.Where == laneHalted && t != nil && !t.Work.part.gone && !t.Work.part.revoking {
			c.haltedLanes = append(c.haltedLanes[:i:i], c.haltedLanes[i+1:]...)
			c.haltProbe = l
			l.Where = laneIdle
			c.wake(l)
			return
		}
	}
}

// haltKeysMin is how many keys in a row must blame the credential where the vendor has no call to check it with
// (design section 6, Halt).
const haltKeysMin = 2

// haltAloneEvery is how often a record asks again that alone blames the credential, where there is no check.
const haltAloneEvery = time.Second

// haltPollEvery is how often a halted connector looks whether a secret has changed, haltCheckEvery how many looks lie
// between two checks of a credential that did not: 15 s.
const (
	haltPollEvery  = 250 * time.Millisecond
	haltCheckEvery = 60
)

func (c *Connector) wakeHalted() {
	lanes := c.haltedLanes
	c.haltedLanes = nil
	for _, l := range lanes {
		if l.Where == laneHalted {
			l.Where = laneIdle
			if t := l.Head(); t != nil && !t.Work.part.gone {
				c.wake(l)
			}
		}
	}
}

// checkCredential asks the vendor whether it takes our credential. Without a check in the profile the next
// request is the check. An outage is no answer: it is asked again.
func (c *Connector) checkCredential() (ok bool, why string) {
	ch := c.cfg.Profile.Credential
	if ch == nil {
		return true, ""
	}
	b := deliver.NewBackoff(200 * time.Millisecond)
	renewed := false
	for {
		ex := c.cfg.Sender.Send(c.ctx, &profile.Request{Method: ch.Method, Path: ch.Path, Anonymous: !ch.Auth, Operation: &profile.Operation{Name: ch.Name, Timeout: ch.Timeout}})
		if _, bad := errors.AsType[*deliver.CredentialError](ex.Err); bad {
			return false, ex.Err.Error()
		}
		if ex.Sent == checkpoint.Answered {
			switch ch.Judge(ex.Answer.Status) {
			case profile.CheckGood:
				return true, ""
			case profile.CheckBad:
				if !renewed && c.cfg.Sender.Expired(ex) {
					renewed = true
					continue
				}
				return false, fmt.Sprintf("the credential check answered %d", ex.Answer.Status)
			}
			if ex.Answer.Status < 500 && ex.Answer.Status != http.StatusTooManyRequests {
				return true, "" // the vendor has no such check
			}
		}
		select {
		case <-time.After(b.Next()):
		case <-c.ctx.Done():
			return false, "stopped"
		}
	}
}

// secretsPrint changes when a secret changes.
func (c *Connector) secretsPrint() string {
	if c.cfg.SecretsPrint == nil {
		return ""
	}
	return c.cfg.SecretsPrint()
}
