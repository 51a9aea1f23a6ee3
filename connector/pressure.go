package connector

import (
	"math"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

// More requests under way than it takes to make up for the vendor's time gain nothing. Where answers wait for a CPU of ours
// they wait for one another, and what each needs (its stack, its socket, its event) has left the processor's caches when its
// turn comes: with a vendor that answers at once, an event of 512 under way takes a third more CPU than one of 64.
//
// So few are under way at first, and more as long as there is work for more and what is ready to run waits shortly for a CPU,
// beside what an exchange takes; where it waits long, fewer: an adaptive concurrency limit, of which max_in_flight is the
// most. The vendor's own time is no reason: with a slow one the wait is short beside the exchange, whatever its time does. If
// others take the CPU, the wait is soon short again: a process that uses less of it than its share is served at once.
const (
	// adaptEvery is how often the limit is set: from its least to its most it takes six times.
	adaptEvery = 50 * time.Millisecond
	// latencyMatters is from which wait for a CPU, on average, fewer requests may be under way. Half of it is short.
	latencyMatters = 750 * time.Microsecond
	// latencyShare is from which part of an exchange the wait matters; from half of it down it is short.
	latencyShare = 12
	// pressedMin is in how many intervals in a row the wait must matter. One or two may be those of a garbage collection.
	pressedMin = 3
	// slotsShare is the part of max_in_flight that may always be under way, and slotsMin how many if that is less.
	slotsShare = 8
	slotsMin   = 16
)

// exchanges sums up exchanges of an interval. Safe for concurrent use.
type exchanges struct {
	n, took atomic.Int64
}

func (e *exchanges) note(took time.Duration) {
	e.n.Add(1)
	e.took.Add(int64(took))
}

// mean is the mean time of the exchanges since it was asked last, 0 if there were none.
func (e *exchanges) mean() time.Duration {
	n, took := e.n.Swap(0), e.took.Swap(0)
	return time.Duration(took / max(n, 1))
}

// An inFlightLimit is how many requests may be under way now.
type inFlightLimit struct {
	slots    int
	exchange time.Duration // what one took when one ended last, or has taken since
	pressed  int           // so many intervals in a row what was ready to run has waited long
}

// firstLimit is that of a start.
func firstLimit(cfg *Config) inFlightLimit {
	if cfg.SchedLatency == nil {
		return inFlightLimit{slots: cfg.MaxInFlight}
	}
	return inFlightLimit{slots: leastSlots(cfg.MaxInFlight)}
}

func leastSlots(most int) int { return min(most, max(most/slotsShare, slotsMin)) }

// adapt sets the limit, to most at most, after an interval in which what was ready to run waited for latency and an exchange
// took exchange, both on average; an exchange of 0 says that none ended. full says that there is work for more.
func (l *inFlightLimit) adapt(most int, full bool, latency, exchange time.Duration) {
	if exchange > 0 {
		l.exchange = exchange
	} else if full {
		l.exchange += adaptEvery
	}
	matters := max(latencyMatters, l.exchange/latencyShare)
	l.pressed++
	switch {
	case exchange == 0 || latency <= matters:
		l.pressed = 0
	case l.pressed >= pressedMin:
		l.slots -= l.slots / 4
	}
	if full && latency < matters/2 {
		l.slots += l.slots/2 + 1
	}
	l.slots = min(most, max(l.slots, leastSlots(most)))
}

// adapt sets how many requests may be under way (loop).
func (c *Connector) adapt(latency time.Duration) {
	before := c.inFlightLimit.slots
	c.inFlightLimit.adapt(c.cfg.MaxInFlight, c.inFlight >= before, latency, c.exchanges.mean())
	if c.inFlightLimit.slots != before {
		c.wire.resize(c.inFlightLimit.slots)
	}
}

// SchedLatency answers how long goroutines of the process that were ready to run waited for a CPU, on average, since it was asked
// last (runtime/metrics, /sched/latencies:seconds). It takes some microseconds. One goroutine may use it.
func SchedLatency() func() time.Duration {
	sample := []metrics.Sample{{Name: "/sched/latencies:seconds"}}
	var before []uint64
	return func() time.Duration {
		metrics.Read(sample)
		if sample[0].Value.Kind() != metrics.KindFloat64Histogram {
			return 0 // a later Go has it no more: then nothing keeps the limit below max_in_flight
		}
		h := sample[0].Value.Float64Histogram()
		if before == nil {
			before = make([]uint64, len(h.Counts))
		}
		var n, sum float64
		for i, count := range h.Counts {
			low, high := h.Buckets[i], h.Buckets[i+1]
			if math.IsInf(low, -1) {
				low = 0
			}
			if math.IsInf(high, 1) {
				high = low
			}
			more := float64(count - before[i])
			n += more
			sum += more * (low + high) / 2
			before[i] = count
		}
		return time.Duration(sum / max(n, 1) * float64(time.Second))
	}
}
