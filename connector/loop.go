package connector

import (
	"sync"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/lane"
	"github.com/weirsync/weir/connector/profile"
)

// A mailbox is the queue of the loop's messages. Sending never blocks: what can be queued is bounded by what is
// in flight and by the partitions' windows (promise 6).
type mailbox struct {
	mu    sync.Mutex
	queue []func()
	ready chan struct{} // size 1: a hint that queue is not empty
}

func newMailbox() *mailbox { return &mailbox{ready: make(chan struct{}, 1)} }

func (m *mailbox) send(f func()) {
	m.mu.Lock()
	m.queue = append(m.queue, f)
	m.mu.Unlock()
	select {
	case m.ready <- struct{}{}:
	default:
	}
}

func (m *mailbox) take(buf []func()) []func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	buf = append(buf[:0], m.queue...)
	clear(m.queue)
	m.queue = m.queue[:0]
	return buf
}

// do runs f on the loop, later.
func (c *Connector) do(f func()) { c.box.send(f) }

// ask runs f on the loop and waits for it, or for the loop's end.
func (c *Connector) ask(f func()) bool {
	done := make(chan struct{})
	c.do(func() { f(); close(done) })
	select {
	case <-done:
		return true
	case <-c.ended:
		return false
	}
}

// loop is the actor: it alone touches lanes, trackers and everything below "loop" in Connector.
func (c *Connector) loop() {
	defer close(c.ended)
	defer close(c.tasks)
	var buf []func()
	for !c.quit {
		<-c.box.ready
		buf = c.box.take(buf)
		for _, f := range buf {
			f()
		}
		clear(buf)
		c.dispatch()
		c.giveRoom()
		c.flush()
	}
}

// where a lane stands, for the loop.
const (
	laneIdle uint8 = iota
	laneReady
	laneBusy    // a worker has its head, or the head's outcome is on its way to the store
	laneGated   // waits for a breaker or a quota
	laneTimer   // waits for a retry or for late_apply
	laneRef     // waits for a reference
	laneHorizon // waits until the send horizon has passed it
	laneHalted  // waits for the credential
	laneBatch   // its head is in a bundle: gathered, on its way, or waiting for the others of its batch
)

type (
	task    = lane.Task[*work]
	keyLane = lane.Lane[*work]
)

// wake puts a lane into the ready queue.
func (c *Connector) wake(l *keyLane) {
	if l.Where == laneReady || l.Where == laneBusy || l.Where == laneBatch || l.Head() == nil {
		return
	}
	l.Where = laneReady
	c.ready = append(c.ready, l)
}

// roomToSend reports whether one more worker may start: as many as there are slots, and some that stand by. Where the
// store takes outcomes more slowly than the vendor gives them, sending waits for it: what is sent and not yet durable is
// sent again after a crash, and is kept in memory.
func (c *Connector) roomToSend() bool {
	slots := c.inFlightLimit.slots
	return c.inFlight < slots+standBy(slots) && len(c.batch.Settlements)+c.standing() < max(settlingMin, 2*slots)
}

// standing is how many workers stand by. They are bounded as lanes that are ready and as outcomes to come.
func (c *Connector) standing() int { return max(0, c.inFlight-c.inFlightLimit.slots) }

// settlingMin is how many outcomes may wait for the store, however few requests may be in flight: with half as many, all
// others wait for the store's one goroutine a tenth of the time.
const settlingMin = 2 * flushRows

// dispatch starts workers for the heads of ready lanes while there is room.
func (c *Connector) dispatch() {
	if c.failed != nil {
		return
	}
	c.dispatchBundles()
	for len(c.ready) > c.readyHead && c.roomToSend() {
		l := c.ready[c.readyHead]
		c.ready[c.readyHead] = nil
		c.readyHead++
		t := l.Head()
		if t == nil || l.Where != laneReady {
			continue
		}
		p := t.Work.part
		switch {
		case p.gone:
			continue
		case p.revoking:
			l.Where = laneIdle
			continue
		case l.Settling > 0:
			l.Where = laneIdle // its last superseded record wakes it when that is durable
			continue
		case c.halted != nil && t.Work.refused == nil && l != c.haltProbe:
			l.Where = laneHalted
			c.haltedLanes = append(c.haltedLanes, l)
			continue
		case t.Offset >= p.horizon && !t.Released:
			// No record is dispatched before an offset above it is durable as the send horizon (design section 5).
			l.Where = laneHorizon
			p.horizonLanes = append(p.horizonLanes, l)
			c.horizonLanes++
			c.raise(p)
			continue
		}
		if g := t.Work.gate; g != nil && g.at.After(c.now()) {
			c.waitAtGate(l, g)
			continue
		}
		l.Where, l.Busy = laneBusy, true
		c.inFlight++
		p.inFlight++
		select {
		case c.tasks <- t:
		default:
			go c.worker(t)
		}
	}
	if c.readyHead == len(c.ready) {
		c.ready, c.readyHead = c.ready[:0], 0
	} else if c.readyHead > 4096 {
		c.ready = append(c.ready[:0], c.ready[c.readyHead:]...)
		c.readyHead = 0
	}
}

// A gateQueue holds the lanes that wait for one operation's breaker or quota.
type gateQueue struct {
	*deliver.Gate
	op      *profile.Operation
	lanes   []*keyLane
	bundles []*bundle
	at      time.Time // do not ask before
	why     string
	since   time.Time
	timer   *time.Timer
	outage  *trouble // since when its breaker is open
}

// waiting is how many requests wait for the gate.
func (g *gateQueue) waiting() int { return len(g.lanes) + len(g.bundles) }

// keys is of how many keys they are.
func (g *gateQueue) keys() int {
	n := len(g.lanes)
	for _, b := range g.bundles {
		n += len(b.items)
	}
	return n
}

// await sees to it that the gate is asked again (loop).
func (g *gateQueue) await(c *Connector) {
	if g.timer == nil {
		g.timer = time.AfterFunc(max(g.at.Sub(c.now()), time.Millisecond), func() {
			c.do(func() { c.openGate(g) })
		})
	}
}

// openFull wakes lanes that wait for a limit of requests at once: a slot is free (loop).
func (c *Connector) openFull() {
	for _, g := range c.concurrent {
		if len(g.lanes) > 0 && g.why == "quota" && g.Room(c.now()) > 0 {
			c.openGate(g)
		}
	}
}

// waitAtGate queues a lane, in order of arrival, until its gate may open.
func (c *Connector) waitAtGate(l *keyLane, g *gateQueue) {
	l.Where = laneGated
	g.lanes = append(g.lanes, l)
	g.await(c)
}

// openGate wakes as many lanes as may get through at once. What does not fit comes back here.
func (c *Connector) openGate(g *gateQueue) {
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	g.at = time.Time{}
	if g.outage != nil {
		c.guard()
	}
	n := g.Room(c.now())
	for len(g.bundles) > 0 && n > 0 {
		c.bundles = append(c.bundles, g.bundles[0])
		g.bundles = g.bundles[1:]
		n--
	}
	for len(g.lanes) > 0 && n > 0 {
		l := g.lanes[0]
		g.lanes = g.lanes[1:]
		if l.Where != laneGated || l.Head() == nil || l.Head().Work.part.gone {
			continue
		}
		c.wake(l)
		n--
	}
	if g.waiting() > 0 && g.timer == nil {
		g.timer = time.AfterFunc(50*time.Millisecond, func() { c.do(func() { c.openGate(g) }) })
	}
	if g.waiting() == 0 {
		g.why = ""
	}
}

// raise moves a partition's send horizon ahead by a chunk, durably, and then wakes the lanes that wait for it.
func (c *Connector) raise(p *partition) {
	if p.raising || p.gone || p.revoking {
		return
	}
	p.raising = true
	h := checkpoint.Horizon{Lease: p.lease, Horizon: max(p.set.Next(), p.horizon) + horizonChunk, Mapping: c.cfg.Profile.Version, At: c.now()}
	if p.mapping != "" && p.mark < p.suspectBelow {
		h.Mapping = p.mapping // what the suspects were sent with; later sends say theirs in a Begin
	}
	go func() {
		err := c.persist("raise the send horizon of "+p.id.String(), func() error {
			return c.cfg.Store.Raise(c.ctx, []checkpoint.Horizon{h})
		})
		c.do(func() {
			p.raising = false
			if err != nil {
				c.lost(p, err)
				return
			}
			p.horizon = max(p.horizon, h.Horizon)
			lanes := p.horizonLanes
			p.horizonLanes = nil
			c.horizonLanes -= len(lanes)
			for _, l := range lanes {
				if l.Where == laneHorizon {
					l.Where = laneIdle
					c.wake(l)
				}
			}
		})
	}()
}

// horizonChunk is by how many offsets the send horizon runs ahead: a raise every few thousand records, and at
// most that many keys whose oldest record is taken for suspect after a crash.
const horizonChunk = 4096

// window checks a partition's look-ahead against its bounds, in records and bytes, and pauses or resumes its
// fetches. The poll loop is never blocked.
func (c *Connector) window(p *partition) {
	records, bytes := p.set.Pending()
	records += int(p.queuedRecords.Load())
	bytes += p.queuedBytes.Load()
	full := records >= c.cfg.WindowRecords || bytes >= c.cfg.WindowBytes
	low := records <= c.cfg.WindowRecords/2 && bytes <= c.cfg.WindowBytes/2
	switch {
	case full && !p.paused:
		p.paused = true
		c.source.Pause(kafka.TP{Topic: p.id.Topic, Partition: p.id.Index})
	case low && p.paused && p.hold == "" && !p.revoking && !p.gone:
		p.paused = false
		c.source.Resume(kafka.TP{Topic: p.id.Topic, Partition: p.id.Index})
	}
}
