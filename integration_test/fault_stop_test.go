package integration_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// A stop while the vendor is slow to answer: the first signal drains within its limit, a second one ends at once with
// 128 and its number. What was under way is in doubt then, and the next start leaves none of it lost or doubled.
func TestFaultStop(t *testing.T) {
	t.Parallel()
	const drain, slow = 2 * time.Second, 20 * time.Second
	r := newTrial(t, boxOptions{delivery: "{drain_timeout: 2s, request_timeout: 25s}"})
	r.run()
	busy := func() {
		t.Helper()
		before := len(r.sandbox.Effects(t))
		r.sandbox.SetFault(t, "slow", true, map[string]any{"delay_ms": slow.Milliseconds(), "phase": "after"})
		r.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return len(es) > before+20 })
	}
	again := func() {
		t.Helper()
		r.sandbox.SetFault(t, "slow", false, nil)
		before, began := len(r.sandbox.Applied(t)), time.Now()
		r.weir = r.start()
		r.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(r.sandbox.Applied(t)) > before })
		t.Logf("first effect %v after the next start", time.Since(began).Round(time.Millisecond))
	}

	busy()
	began := time.Now()
	res := r.weir.Stop(t, boxDrain)
	took := time.Since(began)
	if res.Code != 0 || took < drain/2 || took > drain+5*time.Second {
		t.Errorf("stop while answers take %v: exit code %d after %v, want 0 after the drain limit of %v\n%s", slow, res.Code, took, drain, tail(res.Stderr))
	}
	if got := linesWith(res.Stderr, "drain limit reached"); len(got) != 1 {
		t.Errorf("%d lines say that the drain limit was reached, want one", len(got))
	}
	again()

	busy()
	r.weir.Signal(t, syscall.SIGTERM)
	r.weir.WaitLine(t, "draining")
	began = time.Now()
	r.weir.Signal(t, syscall.SIGTERM)
	if res = r.weir.Wait(t, boxDrain); res.Code != 128+int(syscall.SIGTERM) || time.Since(began) > drain {
		t.Errorf("second signal: exit code %d after %v, want %d at once", res.Code, time.Since(began), 128+int(syscall.SIGTERM))
	}
	again()
	r.finish(nil)
}
