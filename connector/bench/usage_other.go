//go:build !unix

package bench

import (
	"runtime"
	"time"
)

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }

// usage has allocations alone here.
func usage() answer {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return answer{Mallocs: m.Mallocs}
}
