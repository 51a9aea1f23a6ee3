package connector

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSlots: never more are taken than there are, in the order of their coming, and one that gives up takes none along.
func TestSlots(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2)
		for range 2 {
			if taken, waited := s.take(t.Context()); !taken || waited {
				t.Fatalf("a free slot: taken %v, waited %v", taken, waited)
			}
		}
		var order []int
		var mu sync.Mutex
		gone, leave := context.WithCancel(t.Context())
		for i := range 5 {
			go func() {
				ctx := t.Context()
				if i == 1 {
					ctx = gone
				}
				taken, waited := s.take(ctx)
				mu.Lock()
				defer mu.Unlock()
				if taken != (i != 1) || !waited {
					t.Errorf("%d: taken %v, waited %v", i, taken, waited)
				}
				if taken {
					order = append(order, i)
				}
			}()
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		for range 2 {
			s.give()
			synctest.Wait()
		}
		if n := s.inUse(); n != 2 || len(order) != 2 || order[0] != 0 || order[1] != 2 {
			t.Errorf("%d in use, served %v; want 2, and 0 and 2", n, order)
		}
		s.resize(3)
		synctest.Wait()
		if n := s.inUse(); n != 3 || len(order) != 3 {
			t.Errorf("after there are 3: %d in use, served %v", n, order)
		}
		s.resize(1)
		for range 3 {
			s.give()
		}
		synctest.Wait()
		if n := s.inUse(); n != 1 || len(order) != 4 {
			t.Errorf("after there is 1: %d in use, served %v", n, order)
		}
		s.give()
		if n := s.inUse(); n != 0 {
			t.Errorf("%d in use at the end", n)
		}
		if taken, _ := s.take(gone); taken {
			t.Error("taken with a context that had ended")
		}
	})
}

// TestSlotsTogether: under many that take, give and give up, no more are taken than there are and none is lost.
func TestSlotsTogether(t *testing.T) {
	const most = 3
	s := newSlots(most)
	var held atomic.Int64
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for n := range 2000 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(n%5)*10*time.Microsecond)
				if taken, _ := s.take(ctx); taken {
					if n := held.Add(1); n > most {
						t.Errorf("%d are held", n)
					}
					held.Add(-1)
					s.give()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if n := s.inUse(); n != 0 || len(s.waiting) != 0 {
		t.Errorf("%d in use, %d waiting at the end", n, len(s.waiting))
	}
}
