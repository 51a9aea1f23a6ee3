package integration_test

import (
	"net/http"
	"testing"

	"github.com/weirsync/weir/integration_test/harness"
)

// The wall clock is set an hour ahead and back again, then a day back and right again: work goes on as if nothing were,
// and each step is one line in the log.
func TestFaultClock(t *testing.T) {
	t.Parallel()
	clock := harness.NewClock(t)
	r := newTrial(t, boxOptions{clock: clock})
	r.run()
	for _, step := range []struct {
		name           string
		seconds        int64
		there, andBack string // how the log gives it
	}{
		{"clock an hour ahead", 3600, "by=1h0m0s", "by=-1h0m0s"},
		{"clock a day behind", -24 * 3600, "by=-24h0m0s", "by=24h0m0s"},
	} {
		r.endure(fault{name: step.name, ready: http.StatusOK,
			start: func() { clock.Set(t, step.seconds); r.weir.WaitLine(t, step.there) },
			end:   func() { clock.Set(t, 0); r.weir.WaitLine(t, step.andBack) }})
	}
	r.finish(map[string]int{"the clock was set": 4})
}
