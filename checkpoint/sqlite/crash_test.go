package sqlite

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/weirsync/weir/checkpoint"
)

// The crash tests start this test binary again as a child that settles, and kill it (SIGKILL) when its writer has
// reached a state: before or after the commit number N.
const (
	crashPathEnv  = "WEIR_CRASH_PATH"
	crashStateEnv = "WEIR_CRASH_STATE" // before or after
	crashAtEnv    = "WEIR_CRASH_AT"    // number of the commit

	crashCallers   = 4
	crashBatchRows = 5

	crashStateLogBytes = 1000 // about two transactions: states move to their table all the time
)

// crashChild settles batches from several callers, writes a line for each acknowledged one, and at the chosen
// state says so and waits for the kill.
func crashChild(path string) {
	at, err := strconv.ParseInt(os.Getenv(crashAtEnv), 10, 64)
	if err != nil {
		panic(err)
	}
	var commits atomic.Int64
	stop := func(state string) func() {
		return func() {
			if state == "before" {
				commits.Add(1)
			}
			if os.Getenv(crashStateEnv) == state && commits.Load() == at {
				fmt.Println("reached")
				select {}
			}
		}
	}
	ctx := context.Background()
	s, err := Open(ctx, path, Options{StateLogBytes: crashStateLogBytes, Hooks: Hooks{BeforeCommit: stop("before"), AfterCommit: stop("after")}})
	if err != nil {
		panic(err)
	}
	var wg sync.WaitGroup
	for i := range int32(crashCallers) {
		r, err := s.Acquire(ctx, customers(i), "child")
		if err != nil {
			panic(err)
		}
		wg.Go(func() {
			for off := int64(0); ; off += crashBatchRows {
				if err := s.Begin(ctx, []checkpoint.Begin{{Lease: r.Lease, Offset: off, Route: "create", Step: "s"}}); err != nil {
					panic(err)
				}
				if _, err := s.Settle(ctx, batchOf(r.Lease, off, crashBatchRows)); err != nil {
					panic(err)
				}
				fmt.Printf("settled %d %d\n", i, off+crashBatchRows)
			}
		})
	}
	wg.Wait()
}

// TestKill: kill -9 loses nothing acknowledged, and transactions stay whole.
func TestKill(t *testing.T) {
	for _, state := range []string{"before", "after"} {
		for _, at := range []int{1, 3, 6, 7, 20, 61} {
			t.Run(fmt.Sprintf("%s/%d", state, at), func(t *testing.T) {
				t.Parallel()
				path := filepath.Join(t.TempDir(), "weir.db")
				acknowledged := killAt(t, path, state, at)
				checkAfterKill(t, path, acknowledged)
			})
		}
	}
}

// killAt runs the child until it has reached the state, kills it, and answers what each caller had acknowledged.
func killAt(t *testing.T, path, state string, at int) (acknowledged [crashCallers]int64) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), crashPathEnv+"="+path, crashStateEnv+"="+state, crashAtEnv+"="+strconv.Itoa(at))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	reached := false
	lines := bufio.NewScanner(out)
	for lines.Scan() { // lines written before the kill are read after it
		var caller int
		var settled int64
		if lines.Text() == "reached" {
			reached = true
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		} else if _, err := fmt.Sscanf(lines.Text(), "settled %d %d", &caller, &settled); err == nil {
			acknowledged[caller] = settled
		}
	}
	err = cmd.Wait()
	if !reached {
		t.Fatalf("the child ended (%v) before commit %d:\n%s", err, at, stderr.String())
	}
	return acknowledged
}

func checkAfterKill(t *testing.T, path string, acknowledged [crashCallers]int64) {
	t.Helper()
	s := mustOpen(t, path, Options{}) // the lock went with the process
	total := int64(0)
	for i, acked := range acknowledged {
		p := customers(int32(i))
		r, err := s.Acquire(t.Context(), p, "parent")
		if err != nil {
			t.Fatal(err)
		}
		rows, err := s.Rows(t.Context(), p, 0, 1<<62)
		if err != nil {
			t.Fatal(err)
		}
		n := int64(len(rows))
		total += n
		if n < acked {
			t.Errorf("partition %d: %d rows, %d were acknowledged", i, n, acked)
		}
		if n%crashBatchRows != 0 || n > acked+crashBatchRows {
			t.Errorf("partition %d: %d rows after %d acknowledged: not whole batches of %d", i, n, acked, crashBatchRows)
		}
		mark := r.Cursor.Mark
		if n > 0 && mark != n || n == 0 && mark != -1 {
			t.Errorf("partition %d: mark %d with %d rows", i, mark, n)
		}
		if r.Last != n-1 {
			t.Errorf("partition %d: last %d with %d rows", i, r.Last, n)
		}
		for _, o := range r.Open {
			if o.Offset != n {
				t.Errorf("partition %d: offset %d is open with %d rows settled", i, o.Offset, n)
			}
		}
		if n > 0 {
			for _, r := range rows {
				key := checkpoint.EntityKey{Entity: "customer", Key: r.Event.Key}
				states, err := s.States(t.Context(), p.Connector, []checkpoint.EntityKey{key})
				if err != nil || states[key] == nil {
					t.Errorf("partition %d: the state of row %d is missing (%v)", i, r.Offset, err)
				}
			}
			if got := found(t, s, rows[n-1].Event.ID); got != 1 {
				t.Errorf("partition %d: the last row is found %d times by its event id", i, got)
			}
		}
		// What was in the air may be sent again: it is in whole, or not at all.
		_, err = s.Settle(t.Context(), batchOf(r.Lease, acked, crashBatchRows))
		if n == acked && err != nil || n > acked && !errors.Is(err, checkpoint.ErrSettled) {
			t.Errorf("partition %d: settle of the batch in the air with %d rows, %d acknowledged: %v", i, n, acked, err)
		}
		if n == acked {
			total += crashBatchRows
		}
	}
	counts, err := s.Counts(t.Context(), "pushcash")
	if err != nil || counts["create"][checkpoint.Delivered] != total {
		t.Errorf("counts %v, %v; want %d", counts, err, total)
	}
}
