package connector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
)

// bare is a connector that can persist and nothing else. Its loop does not run: the test takes what it is told.
func bare(ctx context.Context, log *bytes.Buffer) *Connector {
	c := &Connector{log: slog.New(slog.NewTextHandler(log, nil)), box: newMailbox()}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	return c
}

// A full disk refuses writes for minutes and answers reads: it is told once when it starts and once when the last write
// got through, the state holds in between, and no wait is longer than retryMax.
func TestStoreTroubleIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := bare(t.Context(), &log)
		began := time.Now()
		const full = 5 * time.Minute
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				var last time.Time
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				if err := c.persist("settle", func() error {
					if now := time.Now(); now.Sub(last) > retryMax && !last.IsZero() {
						t.Errorf("asked after %v, want at most %v", now.Sub(last), retryMax)
					}
					last = time.Now()
					if time.Since(began) < full {
						return fmt.Errorf("write: %w", checkpoint.ErrFull)
					}
					return nil
				}); err != nil {
					t.Errorf("persist: %v", err)
				}
			})
		}
		for time.Since(began) < full-time.Second {
			time.Sleep(777 * time.Millisecond)
			if err := c.persist("read", func() error { return nil }); err != nil {
				t.Fatal(err)
			}
			if c.storeBad.now() == nil || !strings.Contains(c.storeBad.now().reason, checkpoint.ErrFull.Error()) {
				t.Fatalf("after %v of a full disk the trouble is %v", time.Since(began), c.storeBad.now())
			}
		}
		wg.Wait()
		if c.storeBad.now() != nil {
			t.Error("the trouble outlives it")
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || !strings.Contains(log.String(), "store answers again") {
			t.Errorf("%d lines, want one at the start and one at the end:\n%s", n, &log)
		}
		c.cancel(nil)
	})
}

// A store that is damaged, or does not know what is on its disk, ends the connector at once, whoever met it, and stays
// its trouble.
func TestDamageEndsTheConnector(t *testing.T) {
	for _, damage := range []error{checkpoint.ErrCorrupt, checkpoint.ErrBroken} {
		var log bytes.Buffer
		c := bare(t.Context(), &log)
		for range 3 {
			if err := c.persist("read the ledger", func() error { return fmt.Errorf("page 7: %w", damage) }); !errors.Is(err, damage) {
				t.Fatalf("persist: %v", err)
			}
		}
		for _, f := range c.box.take(nil) {
			f()
		}
		if !errors.Is(context.Cause(c.ctx), damage) || c.failed == nil {
			t.Errorf("the connector goes on: cause %v, failed %v", context.Cause(c.ctx), c.failed)
		}
		if err := c.Ready(); err == nil || !strings.Contains(err.Error(), damage.Error()) {
			t.Errorf("ready: %v", err)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines, want one:\n%s", n, &log)
		}
	}
}

// The wall clock may be set while a key waits for late_apply, and while the process is down.
func TestClockSetBack(t *testing.T) {
	c := &Connector{lateApplyMax: 10 * time.Second}
	stored := time.Now().Add(time.Hour).UTC().Round(0) // written before the clock was set back by an hour
	w := &work{}
	if !c.late(w, stored) {
		t.Error("nothing is late although a lost request may still be applied")
	}
	if d := time.Until(w.lateWait); d > 10*time.Second || d < 9*time.Second {
		t.Errorf("waits %v, want at most the longest late_apply, 10s", d)
	}
	w.lateWait = time.Now().Add(-time.Millisecond)
	if c.late(w, stored) {
		t.Error("waits again although it has waited")
	}
	if c.late(&work{}, time.Time{}) || c.late(&work{}, time.Now().Add(-time.Minute)) {
		t.Error("waits for nothing")
	}

	op := &profile.Operation{KeyRetention: 24 * time.Hour}
	now := time.Now()
	for age, gone := range map[time.Duration]bool{0: false, time.Hour: false, 24*time.Hour - 1: false, 24 * time.Hour: true, -time.Hour: true} {
		if why := keyGone(op, now.Add(-age), now); (why != "") != gone {
			t.Errorf("key of a send that was begun %v ago: gone %q, want %v", age, why, gone)
		}
	}
}
