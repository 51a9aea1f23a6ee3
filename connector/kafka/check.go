package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/checkpoint"
)

// A checker collects what the poll loop and the client's callbacks see, for the check loop, the only one that calls
// Handler.Changed and Handler.Trouble: so each is told once and in order. Its lock is a leaf.
type checker struct {
	wake chan struct{} // size 1: a hint that there is something to look at

	mu       sync.Mutex
	group    error // what keeps us from the group
	assign   error // what keeps a new assignment from being learned
	request  error // what the check itself met
	fetch    map[TP]fetchFault
	troubles []troubleReport
	missing  map[string]int // topics that were not there in so many checks in a row
	short    map[TP]int     // partitions that ended before our position in so many checks in a row
	told     bool           // Handler.Changed was told of an error
}

// A fetchFault is a fetch error that the client does not retry. It is over when checks have passed without another.
type fetchFault struct {
	err  error
	left int
}

type troubleReport struct {
	tp  TP
	seq uint64
	err error
}

func (k *checker) init() {
	k.wake = make(chan struct{}, 1)
	k.fetch = make(map[TP]fetchFault)
	k.missing = make(map[string]int)
	k.short = make(map[TP]int)
}

// kick makes the check run soon. It never blocks.
func (k *checker) kick() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

func (k *checker) set(p *error, err error) {
	k.mu.Lock()
	changed := (*p == nil) != (err == nil)
	*p = err
	k.mu.Unlock()
	if changed {
		k.kick()
	}
}

func (k *checker) groupError(err error)  { k.set(&k.group, err) }
func (k *checker) assignError(err error) { k.set(&k.assign, err) }

func (k *checker) fetchError(tp TP, err error) {
	k.mu.Lock()
	_, known := k.fetch[tp]
	k.fetch[tp] = fetchFault{err, 2}
	k.mu.Unlock()
	if !known {
		k.kick()
	}
}

func (k *checker) trouble(tp TP, seq uint64, err error) {
	k.mu.Lock()
	k.troubles = append(k.troubles, troubleReport{tp, seq, err})
	k.mu.Unlock()
	k.kick()
}

func (k *checker) forget(tps []TP) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, tp := range tps {
		delete(k.fetch, tp)
		delete(k.short, tp)
	}
}

// condition is the environment's first fault, nil if there is none.
func (k *checker) condition() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, err := range []error{k.request, k.group, k.assign} {
		if err != nil {
			return err
		}
	}
	var first *TP
	var err error
	for tp, f := range k.fetch {
		if first == nil || compareTP(tp, *first) < 0 {
			first, err = &tp, f.err
		}
	}
	return err
}

// brokerHooks tell of connections that come and go, so that an outage is seen at once and not at the next check.
type brokerHooks struct{ kick func() }

var (
	_ kgo.HookBrokerConnect    = (*brokerHooks)(nil)
	_ kgo.HookBrokerDisconnect = (*brokerHooks)(nil)
)

func (h *brokerHooks) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		h.kick()
	}
}

func (h *brokerHooks) OnBrokerDisconnect(kgo.BrokerMetadata, net.Conn) { h.kick() }

// checkGap is the least time between two checks: a storm of disconnects is one check.
const checkGap = 200 * time.Millisecond

// checkTimeout is how long Kafka may say nothing until it counts as away: a broker that has frozen keeps its connections.
const checkTimeout = 5 * time.Second

// checkLoop checks every Config.CheckInterval, after a kick, and every second while something is wrong.
func (c *Consumer) checkLoop(ctx context.Context, cl *kgo.Client) {
	timer := time.NewTimer(c.cfg.CheckInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.check.wake:
		}
		c.checkOnce(ctx, cl)
		again := c.cfg.CheckInterval
		if c.check.condition() != nil {
			again = min(again, time.Second)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(checkGap, c.cfg.CheckInterval)):
		}
		timer.Reset(again)
	}
}

// checkOnce looks at topic ids and log ranges and reports what has changed.
func (c *Consumer) checkOnce(ctx context.Context, cl *kgo.Client) {
	rctx, cancel := context.WithTimeout(ctx, min(c.cfg.RequestTimeout, checkTimeout))
	defer cancel()
	k := &c.check

	// Positions first, ranges then: an end that was read before a position could seem to lie below it.
	parts := c.snapshot()
	var running []TP
	for tp, p := range parts {
		if !p.held || p.troubled {
			running = append(running, tp)
		}
	}
	meta, err := topicsMeta(rctx, cl, c.cfg.Topics)
	var starts, ends map[TP]listed
	if err == nil {
		starts, ends, err = ranges(rctx, cl, running)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		err = fmt.Errorf("ask kafka (%s): %w", c.cfg.Brokers[0], err)
	}
	k.mu.Lock()
	k.request = err
	k.mu.Unlock()
	if err == nil {
		for _, t := range c.cfg.Topics {
			c.checkTopic(t, meta[t], parts)
		}
		for _, tp := range running {
			c.checkRange(parts[tp], starts[tp], ends[tp])
		}
		c.reportTroubles(starts, ends)
		c.endSuspensions(parts)
	}

	cond := k.condition()
	k.mu.Lock()
	tell := (cond != nil) != k.told
	k.told = cond != nil
	k.mu.Unlock()
	if tell {
		c.call(func() { c.h.Changed(cond) })
	}
}

func (c *Consumer) snapshot() map[TP]part {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[TP]part, len(c.parts))
	for tp, p := range c.parts {
		out[tp] = *p
	}
	return out
}

// checkTopic compares a topic's id with the one that its partitions were assigned under.
func (c *Consumer) checkTopic(topic string, m topicMeta, parts map[TP]part) {
	var none checkpoint.TopicID
	k := &c.check
	if m.err != nil && !m.missing() {
		return // not readable just now, or not permitted: the fetch says so
	}
	if m.missing() {
		// Twice in a row: a broker that has just started may not know a topic yet.
		k.mu.Lock()
		k.missing[topic]++
		deleted := k.missing[topic] == 2
		k.mu.Unlock()
		if deleted {
			for tp, p := range parts {
				if tp.Topic == topic && p.told {
					c.tellTrouble(tp, p.seq, &TopicChangedError{Topic: topic, Old: p.id})
				}
			}
		}
		return
	}
	k.mu.Lock()
	delete(k.missing, topic)
	k.mu.Unlock()

	var changed []TP
	for tp, p := range parts {
		if tp.Topic == topic && m.id != none && p.id != m.id && (p.id != none || !p.told) {
			changed = append(changed, tp)
		}
	}
	if len(changed) == 0 {
		return
	}
	for _, tp := range changed {
		if p := parts[tp]; p.told {
			c.tellTrouble(tp, p.seq, &TopicChangedError{Topic: topic, Old: p.id, New: m.id})
		}
	}
	c.lose(c.sameAs(changed, parts))
	c.mu.Lock()
	if _, going := c.readd[topic]; !going {
		c.readd[topic] = false
	}
	c.wakeLocked()
	c.mu.Unlock()
}

// sameAs keeps the partitions whose assignment is still that of the snapshot.
func (c *Consumer) sameAs(tps []TP, parts map[TP]part) []TP {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []TP
	for _, tp := range tps {
		if p := c.parts[tp]; p != nil && p.seq == parts[tp].seq && !p.revoking {
			out = append(out, tp)
		}
	}
	return out
}

// checkRange finds a position that fell out of the log while nothing was fetched, as under a long pause.
func (c *Consumer) checkRange(p part, start, end listed) {
	if p.held || p.next < 0 || start.err != nil || end.err != nil {
		return
	}
	k := &c.check
	bad := p.next < start.offset
	if !bad && p.next > end.offset {
		// Twice in a row: a new leader may not know its own end for a moment.
		k.mu.Lock()
		k.short[p.TP]++
		bad = k.short[p.TP] >= 2
		k.mu.Unlock()
	} else if !bad {
		k.mu.Lock()
		delete(k.short, p.TP)
		k.mu.Unlock()
	}
	if bad {
		c.tellTrouble(p.TP, p.seq, &OutOfRangeError{Next: p.next, LogStart: start.offset, End: end.offset})
	}
}

// reportTroubles tells the handler what the poll loop found. One whose range is not known yet waits for the next
// check, unless Kafka cannot say.
func (c *Consumer) reportTroubles(starts, ends map[TP]listed) {
	k := &c.check
	k.mu.Lock()
	reports := k.troubles
	k.troubles = nil
	k.mu.Unlock()
	for _, r := range reports {
		if oor, ok := errors.AsType[*OutOfRangeError](r.err); ok {
			s, known := starts[r.tp]
			if !known { // found after this check had begun
				k.trouble(r.tp, r.seq, r.err)
				continue
			}
			full := *oor
			full.LogStart, full.End = -1, -1
			if e := ends[r.tp]; s.err == nil && e.err == nil {
				full.LogStart, full.End = s.offset, e.offset
			}
			r.err = &full
		}
		c.tellTrouble(r.tp, r.seq, r.err)
	}
}

// tellTrouble holds a partition and tells the handler, if the assignment is still the one it was found in.
func (c *Consumer) tellTrouble(tp TP, seq uint64, err error) {
	c.call(func() {
		c.mu.Lock()
		p := c.parts[tp]
		ok := p != nil && p.seq == seq && p.told && !p.revoking
		if ok {
			p.held, p.troubled = true, true
			delete(c.starts, tp)
			c.syncLocked(p)
		}
		c.mu.Unlock()
		if !ok {
			return
		}
		c.h.Trouble(tp, err)
	})
}

// endSuspensions lets partitions that met an error try again; a fault is over after two checks without another.
func (c *Consumer) endSuspensions(parts map[TP]part) {
	c.mu.Lock()
	for tp, was := range parts {
		if p := c.parts[tp]; p != nil && p.seq == was.seq && was.suspended {
			p.suspended = false
			c.syncLocked(p)
		}
	}
	c.mu.Unlock()
	k := &c.check
	k.mu.Lock()
	defer k.mu.Unlock()
	for tp, f := range k.fetch {
		f.left--
		if k.fetch[tp] = f; f.left < 0 {
			delete(k.fetch, tp)
		}
	}
}
