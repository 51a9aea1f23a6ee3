package metrics

import (
	"testing"
	"time"

	"github.com/weirsync/weir/connector"
)

// Burrow's rules on our own marks: ok while lag is 0 or falls, warning while it only grows, stalled while the mark
// stays, rewind after it went back, stopped while the partition is held.
func TestPartitionStatus(t *testing.T) {
	type at struct{ mark, lag int64 }
	for name, tc := range map[string]struct {
		step  func(i int64) at
		state string
		want  string
	}{
		"caught up":      {func(i int64) at { return at{i, 0} }, connector.StateRunning, "ok"},
		"catching up":    {func(i int64) at { return at{i, 100 - i} }, connector.StateRunning, "ok"},
		"falling behind": {func(i int64) at { return at{i, 10 + i} }, connector.StateRunning, "warning"},
		"no progress":    {func(i int64) at { return at{7, 10 + i} }, connector.StateRunning, "stalled"},
		"held":           {func(i int64) at { return at{7, 10} }, connector.StateHeld, "stopped"},
		"went back": {func(i int64) at {
			if i < 11 {
				return at{100 + i, 0}
			}
			return at{3, 50}
		}, connector.StateRunning, "rewind"},
	} {
		t.Run(name, func(t *testing.T) {
			w := partitionWatch{}
			now, got := time.Unix(0, 0), ""
			for i := range int64(12) {
				s := tc.step(i)
				got = w.judge(connector.Measure{Mark: s.mark, Lag: s.lag, State: tc.state}, now)
				now = now.Add(sampleEvery)
			}
			if got != tc.want {
				t.Errorf("status %q, want %q", got, tc.want)
			}
		})
	}
	w := partitionWatch{}
	if got := w.judge(connector.Measure{Mark: 1, Lag: 5, State: connector.StateRunning}, time.Unix(0, 0)); got != "ok" {
		t.Errorf("a partition that was seen once is %q, want ok: nothing is known of its progress", got)
	}
}
