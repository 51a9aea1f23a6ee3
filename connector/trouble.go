package connector

import (
	"sync"
	"time"
)

// A trouble is a condition that holds something up, since when and why.
type trouble struct {
	since  time.Time
	reason string
	over   chan struct{} // of a halt: closed when it ends
}

// A blockage is one trouble of all callers that meet it. It begins when the first of them fails and is over when the
// last of them got through or gave up: others succeed meanwhile, as reads do while a disk is full, and are no sign
// that it is over. So it is told once at its start and once at its end. Safe for concurrent use.
type blockage struct {
	mu     sync.Mutex
	failed int
	is     *trouble
}

// enter adds a caller that has failed and reports whether it is the first.
func (b *blockage) enter(reason string, now time.Time) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failed++
	if b.is != nil {
		return false
	}
	b.is = &trouble{since: now, reason: reason}
	return true
}

// leave takes a caller out again. What it returns has ended with it, nil if others still wait.
func (b *blockage) leave() (over *trouble) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed--; b.failed > 0 {
		return nil
	}
	over, b.is = b.is, nil
	return over
}

// now is the trouble, nil if there is none.
func (b *blockage) now() *trouble {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.is
}

// retryMax caps the wait before an operation of the store or of Kafka is repeated: work goes on within seconds of its
// return, and one question in that time is no load.
const retryMax = 2 * time.Second
