package connector

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/lane"
)

var _ kafka.Handler = (*Connector)(nil)

// Assign takes the ownership of partitions and decides where each starts (design section 3).
func (c *Connector) Assign(ctx context.Context, as []kafka.Assignment) (map[kafka.TP]kafka.Start, error) {
	c.cfg.Observer.Rebalanced()
	starts := make(map[kafka.TP]kafka.Start, len(as))
	// The start policy applies once per topic, to all partitions that it has then: the first one acquired says
	// whether the store knew the topic.
	fresh := make(map[string]bool)
	for _, a := range as {
		p, start, err := c.take(ctx, a, fresh)
		if err != nil {
			// Nobody will revoke what the consumer was never told of.
			c.ask(func() {
				for tp := range starts {
					if p := c.parts[tp]; p != nil {
						c.drop(p)
					}
				}
			})
			return nil, err
		}
		starts[a.TP] = start
		if !c.ask(func() {
			if old := c.parts[a.TP]; old != nil {
				c.drop(old)
			}
			c.parts[a.TP] = p
		}) {
			return nil, errors.New("connector ended")
		}
		if !start.Hold {
			go c.intake(p)
		} else {
			close(p.intakeDone)
		}
	}
	c.do(func() { c.takeReleased(); c.wakeReferences() })
	go c.restartChains()
	return starts, nil
}

// take acquires one partition and applies the start table's decision.
func (c *Connector) take(ctx context.Context, a kafka.Assignment, fresh map[string]bool) (*partition, kafka.Start, error) {
	id := checkpoint.Partition{Connector: c.cfg.Name, Topic: a.Topic, ID: a.TopicID, Index: a.Partition}
	var rec checkpoint.Recovery
	if err := c.persist("acquire "+id.String(), func() (err error) {
		rec, err = c.cfg.Store.Acquire(ctx, id, c.cfg.Instance)
		if ctx.Err() != nil {
			return errStopped
		}
		return err
	}); err != nil {
		return nil, kafka.Start{}, err
	}
	if _, ok := fresh[a.Topic]; !ok {
		fresh[a.Topic] = rec.Fresh
	}
	cur := rec.Cursor
	in := kafka.StartInput{Committed: a.Committed, LogStart: a.LogStart, End: a.End, StoreID: c.cfg.Store.ID(), Mark: cur.Mark, LostBelow: cur.LostBelow,
		Fresh: fresh[a.Topic], OtherID: rec.OtherID, Policy: c.cfg.Start.Policy, TimeOffset: a.LogStart,
		StoreLost: c.cfg.Start.StoreLost, AcceptGap: c.cfg.Start.AcceptGap[a.TP], AcceptTopic: c.cfg.Start.AcceptTopic[a.Topic]}
	if c.cfg.Start.Policy == kafka.StartTime && cur.Mark < 0 && !a.Committed.OK {
		off, err := c.cfg.Start.OffsetAt(ctx, a.TP)
		if err != nil {
			return nil, kafka.Start{}, fmt.Errorf("look up the start time's offset of %s: %w", id, err)
		}
		in.TimeOffset = off
	}
	d := kafka.Decide(in)
	level := c.log.Info
	if d.Alert {
		level = c.log.Error
	}
	level("partition assigned", "partition", id.String(), "case", string(d.Case), "offset", d.Offset, "hold", string(d.Hold), "why", d.Text)
	p := &partition{
		id: id, lease: rec.Lease, set: lane.NewSet[*work](d.Offset), mapping: cur.Mapping, acquired: c.now(),
		suspects: make(map[checkpoint.EntityKey]bool), last: rec.Last,
		intake: make(chan struct{}, 1), room: make(chan struct{}, 1), intakeDone: make(chan struct{}), drained: make(chan struct{}),
		mark: d.Offset, committed: -1, horizon: max(cur.Horizon, d.Offset),
	}
	p.ctx, p.stop = context.WithCancel(c.ctx)
	if d.Hold != kafka.HoldNone {
		p.hold, p.holdSince = string(d.Hold)+": "+d.Text, c.now()
		return p, kafka.Start{Offset: d.Offset, Hold: true}, nil
	}
	if a.Committed.OK && !d.Commit {
		p.committed = a.Committed.Offset
	}
	audit := checkpoint.Audit{At: c.now(), Actor: "weir", Action: "start_" + string(d.Case), Connector: c.cfg.Name, Target: id.String(), Reason: d.Text}
	horizon := cur.Horizon
	if err := c.persist("start "+id.String(), func() error {
		if d.Rewind {
			horizon = max(d.Mark, d.LostBelow)
			if err := c.cfg.Store.Rewind(ctx, rec.Lease, checkpoint.Cursor{Partition: id, Epoch: rec.Lease.Epoch, Mark: d.Mark, Horizon: horizon, LostBelow: d.LostBelow, Mapping: cur.Mapping, At: c.now()}, audit); err != nil {
				return err
			}
		}
		if d.Skip != nil {
			return c.cfg.Store.Skip(ctx, checkpoint.Skip{Lease: rec.Lease, From: d.Skip.From, To: d.Skip.To, Reason: d.Skip.Reason, By: "start", At: c.now()})
		}
		return nil
	}); err != nil {
		return nil, kafka.Start{}, err
	}
	p.horizon = max(horizon, d.Offset)
	p.suspectBelow, p.lostBelow = horizon, d.LostBelow
	if len(rec.Open) > 0 {
		p.open = make(map[position]*checkpoint.Open, len(rec.Open))
		for i := range rec.Open {
			o := &rec.Open[i]
			p.open[position{o.Offset, o.Route}] = o
		}
		p.rejoin = rejoinings(p.open)
	}
	skips, err := c.cfg.Store.Skips(ctx, id)
	if err != nil {
		return nil, kafka.Start{}, fmt.Errorf("read the skips of %s: %w", id, err)
	}
	p.skips = skips
	return p, kafka.Start{Offset: d.Offset}, nil
}

// Records takes what a poll returned. It only queues.
func (c *Connector) Records(bs []kafka.Batch) {
	for _, b := range bs {
		c.cfg.Observer.Consumed(b.Topic, len(b.Records))
	}
	c.do(func() {
		for _, b := range bs {
			p := c.parts[b.TP]
			if p == nil || p.gone || p.revoking {
				continue
			}
			var bytes int64
			for _, r := range b.Records {
				bytes += int64(len(r.Key) + len(r.Value))
			}
			p.queuedRecords.Add(int64(len(b.Records)))
			p.queuedBytes.Add(bytes)
			p.queued.put(b.Records)
			select {
			case p.intake <- struct{}{}:
			default:
			}
			c.window(p)
		}
	})
}

// Revoke drains partitions before they are given up: dispatch stops, what is in flight ends within the drain
// limit, outcomes are settled, marks committed, leases released (design section 5, Rebalance).
func (c *Connector) Revoke(ctx context.Context, tps []kafka.TP) {
	c.cfg.Observer.Rebalanced()
	var ps []*partition
	ok := c.ask(func() {
		for _, tp := range tps {
			if p := c.parts[tp]; p != nil {
				p.revoking = true
				p.stop()
				c.idleMark(p)
				ps = append(ps, p)
				c.drainedYet(p)
			}
		}
	})
	if !ok {
		return
	}
	limit := time.NewTimer(c.cfg.Drain)
	defer limit.Stop()
	clean, late := true, false
	for _, p := range ps {
		if c.failedNow() != nil {
			clean = false
			break
		}
		select {
		case <-p.drained:
		case <-c.ctx.Done():
			clean = false
		case <-ctx.Done():
			clean = false
		case <-limit.C:
			if !late {
				c.log.Warn("drain limit reached: requests still under way end as suspect", "limit", c.cfg.Drain)
			}
			limit.Reset(0) // for the other partitions
			clean, late = false, true
		}
	}
	mine := make(map[*partition]bool, len(ps))
	for _, p := range ps {
		<-p.intakeDone
		mine[p] = true
	}
	var cs map[kafka.TP]kafka.Commit
	c.ask(func() { cs = c.commits(func(p *partition) bool { return mine[p] }) })
	if len(cs) > 0 {
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		c.cfg.Fail("committing")
		if err := c.source.Commit(cctx, cs); err != nil {
			c.log.Warn("last commit of revoked partitions refused; the next owner replays what the ledger already knows", "err", err)
		}
		cancel()
	}
	for _, p := range ps {
		c.giveUp(ctx, p, clean)
	}
	c.ask(func() {
		for _, p := range ps {
			c.drop(p)
		}
	})
}

// giveUp lowers the send horizon after a clean drain, so that nothing is suspect that was never sent, and
// releases the lease.
func (c *Connector) giveUp(ctx context.Context, p *partition, clean bool) {
	var low int64
	ok := c.ask(func() {
		low = p.mark
		if p.set.Next() < p.suspectBelow {
			// Not all that an earlier owner may have sent was read again yet: what was not stays suspect.
			low = max(low, p.suspectBelow)
		}
		p.set.Lanes(func(l *keyLane) {
			l.Tasks(func(t *task) {
				if (t.Started || t.Work.sent) && !t.Released {
					low = max(low, t.Offset+1)
				}
			})
		})
		clean = clean && p.inFlight == 0 && p.unsettled == 0 && p.hold == ""
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if ok && clean {
		if err := c.cfg.Store.Raise(ctx, []checkpoint.Horizon{{Lease: p.lease, Horizon: low, Mapping: c.cfg.Profile.Version, At: c.now(), Lower: true}}); err != nil {
			c.log.Debug("send horizon not lowered", "partition", p.id.String(), "err", err)
		}
	}
	if err := c.cfg.Store.Release(ctx, p.lease); err != nil {
		c.log.Debug("lease not released; it is fenced by the next owner", "partition", p.id.String(), "err", err)
	}
}

func (c *Connector) failedNow() (err error) {
	c.ask(func() { err = c.failed })
	return err
}

// drainedYet tells a waiting Revoke that nothing of the partition is under way any more (loop).
func (c *Connector) drainedYet(p *partition) {
	if p.revoking && p.inFlight == 0 && p.unsettled == 0 {
		select {
		case <-p.drained:
		default:
			close(p.drained)
		}
	}
}

// Lost drops partitions that are already somebody else's.
func (c *Connector) Lost(tps []kafka.TP) {
	c.cfg.Observer.Rebalanced()
	c.ask(func() {
		for _, tp := range tps {
			if p := c.parts[tp]; p != nil {
				c.drop(p)
			}
		}
	})
}

// lost drops a partition whose lease is somebody else's, or whose store writes are refused (loop).
func (c *Connector) lost(p *partition, err error) {
	if p.gone {
		return
	}
	if _, fenced := errors.AsType[*checkpoint.FencedError](err); fenced {
		c.log.Warn("partition lost to a newer owner", "partition", p.id.String(), "err", err)
		c.drop(p)
		return
	}
	if c.ctx.Err() == nil {
		c.fail(err)
	}
}

// drop forgets a partition and its lanes: they can never act again (loop).
func (c *Connector) drop(p *partition) {
	p.gone = true
	c.horizonLanes -= len(p.horizonLanes)
	p.horizonLanes = nil
	p.lostLease.Store(true)
	p.stop()
	tp := kafka.TP{Topic: p.id.Topic, Partition: p.id.Index}
	if c.parts[tp] == p {
		delete(c.parts, tp)
	}
	for pos, t := range c.waiting {
		if t.Work.part == p {
			t.Work.refTimer.Stop()
			delete(c.waiting, pos)
		}
	}
	for pos := range c.releasing {
		if pos.Partition == p.id {
			c.releasedOver = append(c.releasedOver, pos)
		}
	}
}

// Changed tells of Kafka going and coming.
func (c *Connector) Changed(err error) {
	if err == nil {
		if t := c.kafkaBad.Swap(nil); t != nil {
			c.log.Info("Kafka answers again", "after", time.Since(t.since).Round(time.Millisecond))
		}
		return
	}
	if c.kafkaBad.CompareAndSwap(nil, &trouble{since: c.now(), reason: err.Error()}) {
		c.log.Error("Kafka does not answer; nothing is lost, reading and commits wait", "err", err)
	}
}

// Trouble holds a partition that cannot be read on as it is.
func (c *Connector) Trouble(tp kafka.TP, err error) {
	c.do(func() {
		if p := c.parts[tp]; p != nil {
			c.holdPartition(p, err.Error())
		}
	})
}

// holdPartition stops the fetch of a partition until an operator acts (loop).
func (c *Connector) holdPartition(p *partition, reason string) {
	if p.hold == "" {
		c.log.Error("partition held", "partition", p.id.String(), "reason", reason)
		p.holdSince = c.now()
	}
	p.hold = reason
	p.paused = true
	c.source.Pause(kafka.TP{Topic: p.id.Topic, Partition: p.id.Index})
}

// noteHold says why a partition's intake waits (loop); it goes on by itself.
func (c *Connector) noteHold(p *partition, reason string) {
	if p.waits == "" {
		c.log.Error("partition waits; nothing is lost", "partition", p.id.String(), "reason", reason)
		p.holdSince = c.now()
	}
	p.waits = reason
}

func (c *Connector) clearHold(p *partition) {
	if p.waits != "" {
		c.log.Info("partition goes on", "partition", p.id.String(), "after", c.now().Sub(p.holdSince).Round(time.Millisecond))
		p.waits = ""
	}
}
