package connector

import (
	"fmt"
	"runtime"
	"testing"
	"time"
)

// A modelled vendor answers after a time of its own, and our CPU serves so many exchanges a second: what is more under way
// waits, some part of that time ready to run.
type modelled struct {
	vendor time.Duration
	most   float64 // exchanges a second that our CPU serves
	seen   float64 // part of the wait that is measured
	taken  time.Duration
}

// at is what n requests under way come to.
func (m modelled) at(n int) (perSecond float64, latency, exchange time.Duration) {
	perSecond = m.most
	if m.vendor > 0 {
		perSecond = min(m.most, float64(n)/m.vendor.Seconds())
	}
	exchange = time.Duration(float64(n) / perSecond * float64(time.Second))
	return perSecond, time.Duration(m.seen*float64(exchange-m.vendor)) + m.taken, exchange + 2*m.taken
}

// However long the vendor takes, however fast we are, and however much of the wait is seen: fewer requests under way do not
// mean fewer done.
func TestLimitCostsNoThroughput(t *testing.T) {
	const most = 512
	for _, vendor := range []time.Duration{0, 100 * time.Microsecond, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond, time.Second} {
		for _, rate := range []float64{500, 5000, 20_000, 100_000} {
			for _, seen := range []float64{0.05, 0.15, 0.3, 0.7} {
				m := modelled{vendor: vendor, most: rate, seen: seen}
				l := firstLimit(&Config{MaxInFlight: most, SchedLatency: SchedLatency()})
				var done float64
				const intervals = 200
				for range intervals {
					n, latency, exchange := m.at(l.slots)
					done += n / intervals
					l.adapt(most, true, latency, exchange)
				}
				if all, _, _ := m.at(most); done < 0.9*all {
					t.Errorf("%+v: %.0f exchanges a second, and %.0f with all slots; at last %d slots", m, done, all, l.slots)
				}
			}
		}
	}
}

func TestLimitAdapts(t *testing.T) {
	const most = 512
	run := func(l *inFlightLimit, m modelled, intervals int) {
		for range intervals {
			_, latency, exchange := m.at(l.slots)
			l.adapt(most, true, latency, exchange)
		}
	}
	quick := modelled{most: 20_000, seen: 0.2}
	slow := modelled{vendor: 50 * time.Millisecond, most: 20_000, seen: 0.2}
	if fixed := firstLimit(&Config{MaxInFlight: most}); fixed.slots != most {
		t.Errorf("%d slots at first where nothing is measured, want %d", fixed.slots, most)
	}
	l := firstLimit(&Config{MaxInFlight: most, SchedLatency: SchedLatency()})
	for range 10 {
		l.adapt(most, false, 0, time.Millisecond)
	}
	if l.slots != most/slotsShare {
		t.Errorf("%d slots as long as that is enough, want %d", l.slots, most/slotsShare)
	}
	run(&l, slow, 6)
	if l.slots != most {
		t.Errorf("%d slots after 0.3 s of a slow vendor, want %d", l.slots, most)
	}
	run(&l, quick, pressedMin-1)
	if l.slots != most {
		t.Errorf("%d slots after two intervals of pressure, want %d: they may be those of a garbage collection", l.slots, most)
	}
	run(&l, slow, 1)
	run(&l, quick, pressedMin-1)
	if l.slots != most {
		t.Errorf("%d slots after intervals of pressure that do not follow one another, want %d", l.slots, most)
	}
	run(&l, quick, 20)
	if l.slots > most/4 {
		t.Errorf("%d slots for a vendor that answers at once, want at most %d", l.slots, most/4)
	}
	for range 20 {
		l.adapt(most, true, 5*time.Millisecond, 0)
	}
	if l.slots != most {
		t.Errorf("%d slots after a second in which the vendor has not answered, on a busy machine, want %d", l.slots, most)
	}
	run(&l, quick, 20)
	// Others take the CPU: an eighth is always there, and all when they are gone.
	run(&l, modelled{vendor: 5 * time.Millisecond, most: 20_000, seen: 0.2, taken: 20 * time.Millisecond}, 50)
	if l.slots != most/slotsShare {
		t.Errorf("%d slots while others take the CPU, want %d", l.slots, most/slotsShare)
	}
	run(&l, modelled{vendor: 5 * time.Millisecond, most: 20_000, seen: 0.02}, 10)
	if l.slots != most {
		t.Errorf("%d slots after others took the CPU, want %d", l.slots, most)
	}
}

func TestLimitBounds(t *testing.T) {
	for _, most := range []int{1, 2, 15, 16, 17, 127, 128, 129, 10_000} {
		t.Run(fmt.Sprint(most), func(t *testing.T) {
			least := min(most, max(16, most/8))
			l := inFlightLimit{slots: most}
			for range 100 {
				if l.adapt(most, true, time.Hour, time.Second); l.slots < least || l.slots > most {
					t.Fatalf("%d slots under pressure, want %d to %d", l.slots, least, most)
				}
			}
			if l.slots != least {
				t.Errorf("%d slots under pressure for long, want %d", l.slots, least)
			}
			for range 100 {
				if l.adapt(most, true, 0, time.Second); l.slots < least || l.slots > most {
					t.Fatalf("%d slots without pressure, want %d to %d", l.slots, least, most)
				}
			}
			if l.slots != most {
				t.Errorf("%d slots without pressure for long, want %d", l.slots, most)
			}
		})
	}
}

func TestExchangesMean(t *testing.T) {
	var e exchanges
	if got := e.mean(); got != 0 {
		t.Errorf("the mean of no exchange is %v", got)
	}
	e.note(time.Second)
	e.note(3 * time.Second)
	if got := e.mean(); got != 2*time.Second {
		t.Errorf("the mean of 1 s and 3 s is %v", got)
	}
	if got := e.mean(); got != 0 {
		t.Errorf("exchanges count twice: %v", got)
	}
}

// What waits for a CPU is seen: many goroutines that compute wait for one another.
func TestSchedLatency(t *testing.T) {
	latency := SchedLatency()
	latency()
	stop := make(chan struct{})
	for range 32 * runtime.GOMAXPROCS(0) {
		go func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				time.Sleep(time.Microsecond) // ready again at once
				for i := range 100_000 {
					n += i
				}
			}
		}()
	}
	defer close(stop)
	for deadline := time.Now().Add(10 * time.Second); ; {
		time.Sleep(50 * time.Millisecond)
		if d := latency(); d > 100*time.Microsecond {
			return
		} else if time.Now().After(deadline) {
			t.Fatalf("goroutines that compute wait for %v on average", d)
		}
	}
}
