//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// Enabled says whether this build stops at failpoints.
const Enabled = true

var (
	point, at = parse(os.Getenv("WEIR_FAILPOINT"))
	hits      atomic.Int64
)

func parse(s string) (string, int64) {
	if s == "" {
		return "", 0
	}
	name, n, _ := strings.Cut(s, "=")
	i, err := strconv.ParseInt(n, 10, 64)
	if err != nil || i < 1 {
		panic(fmt.Sprintf("WEIR_FAILPOINT=%q: want name=count", s))
	}
	return name, i
}

// Hit notes that the process is in a state, and kills it if it is the one that was asked for.
func Hit(name string) {
	if name == point && hits.Add(1) == at {
		fmt.Fprintf(os.Stderr, "failpoint %s=%d\n", point, at)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way; nothing more may happen on this goroutine
	}
}
