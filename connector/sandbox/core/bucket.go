package core

import (
	"math"
	"time"
)

// bucketUnit is one token in the units that a bucket counts in: what a rate of one per minute refills in a nanosecond
// is one unit, so all arithmetic is exact.
const bucketUnit = int64(time.Minute)

// bucketMax bounds capacity and rate so that a full bucket fits an int64.
const bucketMax = int(math.MaxInt64 / bucketUnit)

// A Bucket is a token-bucket quota: it starts full with capacity tokens and refills perMinute tokens a minute, evenly.
// Not safe for concurrent use.
type Bucket struct {
	capacity, perMinute int64
	units               int64
	at                  int64 // Unix nanoseconds up to which it has been refilled
}

// NewBucket makes a full bucket. Both numbers must be at least 1; above 153 million they count as that.
func NewBucket(capacity, perMinute int) *Bucket {
	c := int64(min(capacity, bucketMax))
	return &Bucket{capacity: c, perMinute: int64(min(perMinute, bucketMax)), units: c * bucketUnit, at: math.MinInt64}
}

// Take takes a token at now if there is one, else it says after which time there will be one, rounded up to a
// nanosecond. A clock that steps back counts as standing still.
func (b *Bucket) Take(now time.Time) (wait time.Duration, ok bool) {
	if t := now.UnixNano(); b.at == math.MinInt64 {
		b.at = t
	} else if t > b.at {
		if full := b.capacity * bucketUnit; t-b.at >= (full-b.units)/b.perMinute+1 {
			b.units = full
		} else {
			b.units += (t - b.at) * b.perMinute
		}
		b.at = t
	}
	if b.units >= bucketUnit {
		b.units -= bucketUnit
		return 0, true
	}
	return time.Duration((bucketUnit - b.units + b.perMinute - 1) / b.perMinute), false
}

// Untake gives back a token: the request was answered with 429 for another reason, and those do not count.
func (b *Bucket) Untake() { b.units = min(b.units+bucketUnit, b.capacity*bucketUnit) }

// Buckets is a set of equal buckets by credential. Not safe for concurrent use.
type Buckets struct {
	capacity, perMinute int
	by                  map[string]*Bucket
}

// NewBuckets makes an empty set.
func NewBuckets(capacity, perMinute int) *Buckets {
	return &Buckets{capacity: capacity, perMinute: perMinute, by: map[string]*Bucket{}}
}

// Of returns the bucket of a credential. Beyond the bound of a set (only possible where any credential is accepted)
// newcomers share one.
func (bs *Buckets) Of(credential string) *Bucket {
	b, ok := bs.by[credential]
	if ok {
		return b
	}
	if len(bs.by) >= windowsMax {
		credential = ""
	}
	if b = bs.by[credential]; b == nil {
		b = NewBucket(bs.capacity, bs.perMinute)
		bs.by[credential] = b
	}
	return b
}
