package connector_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/sample"
	"github.com/weirsync/weir/connector/sandbox/core"
)

func bytesReader(b []byte) io.Reader { return bytes.NewReader(b) }

// A mix of everything, without faults: each record gets its outcome, and the checker finds nothing.
func TestSampleEndToEnd(t *testing.T) {
	for _, vendor := range []string{"pushcash", "plain"} {
		t.Run(vendor, func(t *testing.T) {
			w := newWorld(t, vendor, nil)
			o := sample.Demo(1, 1000)
			o.MagicShare = 0
			w.publish(items(t, o)...)
			_, stop := w.start()
			w.settleAll(30 * time.Second)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			rep := w.clean(true)
			t.Logf("%+v", rep)
		})
	}
}

// The same with a vendor that misbehaves in every way that leaves a doubt.
func TestSampleUnderFaults(t *testing.T) {
	faults := []string{"ambiguous=rate:0.03", "error=rate:0.05", "throttle=rate:0.02", "drop_before=rate:0.02"}
	for _, vendor := range []string{"pushcash", "plain"} {
		t.Run(vendor, func(t *testing.T) {
			w := newWorld(t, vendor, nil)
			for _, f := range faults {
				fault, err := core.ParseFault(f, nil)
				if err != nil {
					t.Fatal(err)
				}
				if err := w.sandbox.SetFault(fault); err != nil {
					t.Fatal(err)
				}
			}
			w.tweak = func(c *connector.Config) { c.AttemptsMax = 4 } // some amounts always fail
			w.publish(items(t, sample.Demo(2, 1000))...)
			_, stop := w.start()
			w.settleAll(90 * time.Second)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			rep := w.clean(true)
			t.Logf("%+v", rep.Effects)
			if rep.Effects.Rejected == 0 {
				t.Error("no fault fired: the run shows nothing")
			}
		})
	}
}

// A stuckStore keeps no mapping before it is told to stop.
type stuckStore struct {
	checkpoint.Store
	asked chan struct{}
}

func (s stuckStore) SaveMapping(ctx context.Context, _ string, _ []byte) error {
	close(s.asked)
	<-ctx.Done()
	return ctx.Err()
}

// A connector that is told to stop while it starts has not failed.
func TestStopWhileStarting(t *testing.T) {
	w := newWorld(t, "plain", nil)
	asked := make(chan struct{})
	w.tweak = func(c *connector.Config) { c.Store = stuckStore{c.Store, asked} }
	_, stop := w.start()
	<-asked
	if err := stop(); err != nil {
		t.Error(err)
	}
}
