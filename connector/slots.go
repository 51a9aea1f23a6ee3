package connector

import (
	"context"
	"slices"
	"sync"
)

// slots bounds the requests on the wire (config max_in_flight, and inFlightLimit below it). A worker takes one when its request is
// made and gives it back with the answer: what a record costs before and after that, planning and judging, is not taken from
// the vendor's time, if others stand by. Those that wait are served in the order in which they came. Safe for concurrent
// use.
type slots struct {
	mu      sync.Mutex
	most    int
	used    int
	waiting []chan struct{} // closed when its slot is there
}

func newSlots(most int) *slots { return &slots{most: most} }

// standBy is how many workers beyond the slots may have a request ready: enough that one is ready whenever an answer
// comes, and few, for nothing supersedes what stands by.
func standBy(most int) int { return min(most/8, 64) }

// take waits for a slot, at most until ctx ends; waited reports whether there was none at once. Each that is taken must
// be given back.
func (s *slots) take(ctx context.Context) (taken, waited bool) {
	if ctx.Err() != nil {
		return false, false
	}
	s.mu.Lock()
	if s.used < s.most && len(s.waiting) == 0 {
		s.used++
		s.mu.Unlock()
		return true, false
	}
	ready := make(chan struct{})
	s.waiting = append(s.waiting, ready)
	s.mu.Unlock()
	select {
	case <-ready:
		return true, true
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.waiting, ready); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
	} else { // it came meanwhile
		s.used--
		s.serveLocked()
	}
	return false, true
}

func (s *slots) give() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.serveLocked()
}

// resize changes how many there are. Those in use beyond that are given back in time.
func (s *slots) resize(most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.most = most
	s.serveLocked()
}

// size is how many there are.
func (s *slots) size() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.most
}

func (s *slots) inUse() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.used
}

func (s *slots) serveLocked() {
	n := 0
	for n < len(s.waiting) && s.used < s.most {
		close(s.waiting[n])
		s.used++
		n++
	}
	s.waiting = slices.Delete(s.waiting, 0, n)
}
