//go:build unix

package sqlite

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirsync/weir/checkpoint"
)

// settlementAt is a realistic settlement: 380 bytes of row, a plan of one step, one attempt, a state with a vendor id
// and a fingerprint, and lookups by event, key, correlation, vendor id and idempotency key. Entities repeat: a state
// is new for the first entities records and replaced after.
func settlementAt(l checkpoint.Lease, off, entities int64) checkpoint.Settlement {
	sum := sha256.Sum256([]byte(fmt.Sprint(off)))
	hash := hex.EncodeToString(sum[:])
	entity := sha256.Sum256([]byte(fmt.Sprint("entity", off%entities)))
	key := "cus_" + hex.EncodeToString(entity[:12])
	now := time.Unix(1_780_000_000, off*1e6).UTC()
	vendor := "usr_" + hash[:20]
	return checkpoint.Settlement{
		Lease: l,
		Row: checkpoint.Row{Offset: off, Route: "customer.upsert", LeaderEpoch: 3, EventHash: uint64(off) * 0x9e3779b97f4a7c15,
			Event: checkpoint.Event{ID: hash[:8] + "-" + hash[8:12] + "-" + hash[12:16] + "-" + hash[16:20] + "-" + hash[20:32], Type: "customer.changed", Source: "crm",
				CorrelationID: "req-" + hash[32:56], Tenant: "acme", Entity: "customer", Key: key, Version: off/entities + 1, Operation: "upsert", OccurredAt: now, Schema: "canonical.customer-value/3"},
			Outcome: checkpoint.Delivered, VendorID: vendor, Mapping: "9f86d081884c7d65",
			Plan:     []checkpoint.Step{{Step: "create", Operation: "create_user", IdempotencyKey: hash[:52]}},
			Attempts: []checkpoint.Attempt{{N: 1, At: now, Step: "create", Status: 201, Verdict: "accept", Sent: checkpoint.Answered, Took: 41 * time.Millisecond}},
			At:       now},
		State: &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: key}, Tenant: "acme",
			Versions: checkpoint.Table[int64]{{Name: "crm", Value: off/entities + 1}}, IDs: map[string]string{"user_id": vendor},
			Routes: checkpoint.Table[checkpoint.RouteState]{{Name: "customer.upsert", Value: checkpoint.RouteState{Version: off/entities + 1, Fingerprint: hash}}}},
	}
}

func openBench(b *testing.B, o Options) *Store {
	s, err := Open(b.Context(), filepath.Join(b.TempDir(), "weir.db"), o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

// BenchmarkSettle is one caller that settles batches with sequential offsets over 50,000 entities.
func BenchmarkSettle(b *testing.B) {
	for _, size := range []int64{1, 64, 500} {
		b.Run(fmt.Sprintf("rows=%d", size), func(b *testing.B) {
			s := openBench(b, Options{})
			r, err := s.Acquire(b.Context(), checkpoint.Partition{Connector: "pushcash", Topic: "canonical.customer"}, "bench")
			if err != nil {
				b.Fatal(err)
			}
			off := int64(0)
			var cpu time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				batch := checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: r.Lease, Mark: off + size}}}
				for range size {
					batch.Settlements = append(batch.Settlements, settlementAt(r.Lease, off, 50_000))
					off++
				}
				before := cpuTime(b)
				b.StartTimer()
				if _, err := s.Settle(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				cpu += cpuTime(b) - before
			}
			report(b, off)
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(off), "cpu-ns/row")
		})
	}
}

// BenchmarkSettleConcurrent is callers that settle batches in partitions of their own at the same time: their batches
// are committed together. 64 callers of one row are lanes that wait for their flush.
func BenchmarkSettleConcurrent(b *testing.B) {
	for _, c := range []struct{ callers, size int64 }{{64, 1}, {4, 500}} {
		b.Run(fmt.Sprintf("callers=%d/rows=%d", c.callers, c.size), func(b *testing.B) {
			s := openBench(b, Options{})
			leases := make([]checkpoint.Lease, c.callers)
			for i := range leases {
				r, err := s.Acquire(b.Context(), checkpoint.Partition{Connector: "pushcash", Topic: "canonical.customer", Index: int32(i)}, "bench")
				if err != nil {
					b.Fatal(err)
				}
				leases[i] = r.Lease
			}
			var next atomic.Int64 // entity and ids; each caller has offsets of its own
			n := int64(0)
			var cpu time.Duration
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				batches := make([]checkpoint.Batch, c.callers)
				for i, l := range leases {
					for k := range c.size {
						st := settlementAt(l, next.Add(1), 50_000)
						st.Row.Offset = n*c.size + k
						batches[i].Settlements = append(batches[i].Settlements, st)
					}
				}
				before := cpuTime(b)
				b.StartTimer()
				var wg sync.WaitGroup
				for _, batch := range batches {
					wg.Go(func() {
						if _, err := s.Settle(b.Context(), batch); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				cpu += cpuTime(b) - before
				n++
			}
			rows := n * c.callers * c.size
			report(b, rows)
			b.ReportMetric(float64(cpu.Nanoseconds())/float64(rows), "cpu-ns/row")
		})
	}
}

// BenchmarkStates reads states of random entities, 100 a call.
func BenchmarkStates(b *testing.B) {
	const entities = 20_000
	s := openBench(b, Options{})
	r, err := s.Acquire(b.Context(), checkpoint.Partition{Connector: "pushcash", Topic: "canonical.customer"}, "bench")
	if err != nil {
		b.Fatal(err)
	}
	var keys []checkpoint.EntityKey
	for off := int64(0); off < entities; off += 500 {
		var batch checkpoint.Batch
		for i := range int64(500) {
			st := settlementAt(r.Lease, off+i, entities)
			keys = append(keys, st.State.EntityKey)
			batch.Settlements = append(batch.Settlements, st)
		}
		if _, err := s.Settle(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		at := n * 100 % entities
		got, err := s.States(b.Context(), "pushcash", keys[at:at+100])
		if err != nil || len(got) != 100 {
			b.Fatal(len(got), err)
		}
		n++
	}
	report(b, int64(n)*100)
}

// BenchmarkSeen looks for event ids that were never seen, in a ledger of 100,000 rows: each run is searched.
func BenchmarkSeen(b *testing.B) {
	s := openBench(b, Options{})
	r, err := s.Acquire(b.Context(), checkpoint.Partition{Connector: "pushcash", Topic: "canonical.customer"}, "bench")
	if err != nil {
		b.Fatal(err)
	}
	for off := int64(0); off < 100_000; off += 500 {
		var batch checkpoint.Batch
		for i := range int64(500) {
			batch.Settlements = append(batch.Settlements, settlementAt(r.Lease, off+i, 50_000))
		}
		if _, err := s.Settle(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	n := int64(0)
	for b.Loop() {
		seen, err := s.Seen(b.Context(), "pushcash", fmt.Sprint("never-", n), checkpoint.Position{})
		if err != nil || seen {
			b.Fatal(seen, err)
		}
		n++
	}
	report(b, n)
}

// cpuTime is what the process has used of all cores: the figure that a busy machine does not blur.
func cpuTime(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func report(b *testing.B, rows int64) {
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(rows), "ns/row")
}
