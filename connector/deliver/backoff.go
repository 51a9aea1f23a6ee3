package deliver

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Backoff is the wait before a record's next attempt: the first retry after 50 to 100 ms, unless the profile
// says otherwise, then exponential with full jitter, capped (design section 6).
type Backoff struct {
	first time.Duration
	exp   *backoff.ExponentialBackOff
	n     int
}

// BackoffMax caps one wait of our own; what a vendor asks for is clamped elsewhere.
const BackoffMax = 30 * time.Second

// NewBackoff starts a record's waits. first is the mean of the first one, 0 means 75 ms.
func NewBackoff(first time.Duration) *Backoff {
	if first <= 0 {
		first = 75 * time.Millisecond
	}
	e := backoff.NewExponentialBackOff()
	e.InitialInterval = 2 * first
	e.Multiplier = 2
	// A randomisation of 1 spreads a wait over (0, 2*interval]: full jitter with the interval as its mean.
	e.RandomizationFactor = 1
	e.MaxInterval = BackoffMax / 2
	e.MaxElapsedTime = 0 // elapsed time is bounded by the caller, who knows what counts (promise 7)
	e.Reset()
	return &Backoff{first: first, exp: e}
}

// Next is the wait before the next attempt.
func (b *Backoff) Next() time.Duration {
	b.n++
	if b.n == 1 {
		// Two thirds to four thirds of the mean: 50 to 100 ms by default.
		return time.Duration((2.0/3 + rand.Float64()*2/3) * float64(b.first))
	}
	return b.exp.NextBackOff()
}
