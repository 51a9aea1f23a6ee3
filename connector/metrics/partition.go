package metrics

import (
	"time"

	"github.com/weirsync/weir/connector"
)

// partitionStatuses is the closed set of weir_partition_status: Burrow's words, with "stopped" for a partition that
// is held until somebody acts (lineage_and_operations, C2).
var partitionStatuses = []string{"ok", "warning", "stalled", "stopped", "rewind"}

// Burrow judges a window of the last ten offsets; ours are taken every 30 s, so that five minutes without progress
// show and a quota of one request a minute does not.
const (
	sampleEvery = 30 * time.Second
	samplesMax  = 10
)

type sample struct {
	at   time.Time
	mark int64
	lag  int64
}

// A partitionWatch judges one partition by its last samples.
type partitionWatch struct {
	samples  []sample
	rewindAt time.Time
}

// judge takes a measure and says how the partition stands.
func (w *partitionWatch) judge(m connector.Measure, now time.Time) string {
	n := len(w.samples)
	if n > 0 && m.Mark < w.samples[n-1].mark {
		w.samples, w.rewindAt = nil, now
		n = 0
	}
	if n == 0 || now.Sub(w.samples[n-1].at) >= sampleEvery {
		w.samples = append(w.samples, sample{now, m.Mark, m.Lag})
		if len(w.samples) > samplesMax {
			w.samples = w.samples[1:]
		}
	}
	switch {
	case m.State == connector.StateHeld:
		return "stopped"
	case !w.rewindAt.IsZero() && now.Sub(w.rewindAt) < samplesMax*sampleEvery:
		return "rewind"
	case m.Lag <= 0 || len(w.samples) < samplesMax:
		return "ok"
	}
	moved, fell := false, false
	for i := range w.samples {
		if w.samples[i].lag == 0 {
			return "ok"
		}
		if i > 0 {
			moved = moved || w.samples[i].mark != w.samples[i-1].mark
			fell = fell || w.samples[i].lag < w.samples[i-1].lag
		}
	}
	switch {
	case !moved && m.Mark == w.samples[0].mark:
		return "stalled"
	case !fell:
		return "warning"
	}
	return "ok"
}
