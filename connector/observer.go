package connector

import (
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
)

// An Observer is told what a connector does, for metrics. Its methods are called from several goroutines and
// must not block. Labels are bounded: no key, offset, URL or error text.
type Observer interface {
	// Consumed: n records of a topic were read.
	Consumed(topic string, n int)
	// Refused: a record could not be decoded or broke a rule.
	Refused(topic string, cause checkpoint.Cause)
	// Settled: a record has its outcome on a route, durably. occurred is the event's time, zero if unknown.
	Settled(route string, o checkpoint.Outcome, occurred time.Time)
	// Attempted: one request ended. outcome is success, retryable, permanent, throttled, auth or unknown.
	Attempted(route, operation, outcome string, status int, took time.Duration)
	// Deprecated: an answer of the operation says that it will go.
	Deprecated(operation string)
	// Breaker: the breaker of an operation changed.
	Breaker(operation string, s deliver.State)
	// Stored: one store operation ended.
	Stored(operation string, took time.Duration, err error)
	// Rebalanced: partitions were given or taken.
	Rebalanced()
	// Quota: how much of a limit is used, 0 to 1, every second.
	Quota(limit string, used float64)
	// Remaining: how many requests the tightest limit still lets through now, every second; never if there is none.
	Remaining(n int)
	// InFlight: so many requests are on the wire, of so many that may be now, every second.
	InFlight(n, limit int)
	// Batched: a batch of an operation was sent, with so many items.
	Batched(operation string, items int)
	// Referenced: an entity that a record refers to was looked up; hit: memory had it.
	Referenced(hit bool)
	// Entries: so many records of a route are in a state (EntryStates), every second.
	Entries(route, state string, n int)
	// Unconfirmed: so many accepted records wait for the vendor's word, and of so many it is overdue, every second;
	// never if the vendor says at once how a request ended.
	Unconfirmed(waiting, overdue int)
	// Throttled: requests waited for a quota for so long.
	Throttled(d time.Duration)
	// Measured: the state of a partition, every second.
	Measured(m Measure)
}

// EntryStates is the closed set of states of records that are not done, or wait for a person: waiting or queued, with a
// request under way, between two attempts, with a lost answer that somebody must look up, refused, no valid event.
var EntryStates = []string{"pending", "in_flight", "retrying", "unknown", "parked", "dead_lettered"}

// A Measure is the state of one partition at one moment.
type Measure struct {
	Topic         string
	Partition     int32
	Mark          int64
	Lag           int64 // -1: not known
	Pending       int
	OldestPending time.Time // zero: none pending
	State         string
}

// NopObserver ignores everything. Embed it to observe a part.
type NopObserver struct{}

var _ Observer = NopObserver{}

// Consumed ignores.
func (NopObserver) Consumed(string, int) {}

// Refused ignores.
func (NopObserver) Refused(string, checkpoint.Cause) {}

// Settled ignores.
func (NopObserver) Settled(string, checkpoint.Outcome, time.Time) {}

// Attempted ignores.
func (NopObserver) Attempted(string, string, string, int, time.Duration) {}

// Deprecated ignores.
func (NopObserver) Deprecated(string) {}

// Breaker ignores.
func (NopObserver) Breaker(string, deliver.State) {}

// Stored ignores.
func (NopObserver) Stored(string, time.Duration, error) {}

// Rebalanced ignores.
func (NopObserver) Rebalanced() {}

// Quota ignores.
func (NopObserver) Quota(string, float64) {}

// Remaining ignores.
func (NopObserver) Remaining(int) {}

// InFlight ignores.
func (NopObserver) InFlight(int, int) {}

// Batched ignores.
func (NopObserver) Batched(string, int) {}

// Referenced ignores.
func (NopObserver) Referenced(bool) {}

// Entries ignores.
func (NopObserver) Entries(string, string, int) {}

// Unconfirmed ignores.
func (NopObserver) Unconfirmed(int, int) {}

// Throttled ignores.
func (NopObserver) Throttled(time.Duration) {}

// Measured ignores.
func (NopObserver) Measured(Measure) {}
