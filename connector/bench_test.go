package connector_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/kafka"
)

// benchEvents is how many events one benchmark iteration delivers: payments of distinct invoices of the plain
// vendor's contract route, so that each event is one request and nothing conflates.
const benchEvents = 20_000

const benchInFlight = 256

// benchVendor answers at once and counts.
func benchVendor(b testing.TB) (url string, seen *atomic.Int64) {
	seen = new(atomic.Int64)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"x"}`)
	}))
	b.Cleanup(srv.Close)
	return srv.URL, seen
}

func benchWorld(b testing.TB, events int) *world {
	w := newWorld(b, "plain", nil)
	outs := make([]kafka.Out, events)
	for i := range outs {
		key := fmt.Sprintf("con_%06d", i)
		outs[i] = kafka.Out{Topic: "canonical.contract", Partition: -1, Key: []byte(key), Value: w.encode("contract", fmt.Appendf(nil,
			`{"event_id":"evt_%06d","event_type":"contract.created","occurred_at":"2026-01-01T00:00:00Z","source_system":"crm","correlation_id":null,"causation_id":null,
			"tenant":"t1","entity_version":1,"operation":"upsert","contract_id":%q,"customer_id":"cust_1","status":"active","start_date":"2026-01-01","end_date":null,
			"amount_minor":1000,"currency":"USD","billing_period":"monthly","extensions":{}}`, i, key))}
	}
	for len(outs) > 0 {
		n := min(len(outs), 5000)
		w.produce(outs[:n]...)
		outs = outs[n:]
	}
	return w
}

func report(b *testing.B, began time.Time, mem *runtime.MemStats) {
	b.StopTimer()
	took := time.Since(began)
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	b.ReportMetric(benchEvents/took.Seconds(), "events/s")
	b.ReportMetric(float64(after.Mallocs-mem.Mallocs)/benchEvents, "allocs/event")
	b.ReportMetric(float64(took.Nanoseconds())/benchEvents, "ns/event")
}

// BenchmarkWeir is the whole way with everything on: Avro, rules, order per key, mapping, ledger with fsync.
// Broker and vendor are in the same process, in both benchmarks.
func BenchmarkWeir(b *testing.B) {
	w := benchWorld(b, benchEvents)
	url, seen := benchVendor(b)
	w.url = url
	w.tweak = func(c *connector.Config) {
		c.Log = slog.New(slog.DiscardHandler)
		c.MaxInFlight = benchInFlight
	}
	for b.Loop() {
		w.dir = b.TempDir()
		w.kc.Group = fmt.Sprintf("weir.v%d", seen.Load())
		w.open()
		want := seen.Load() + benchEvents
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		began := time.Now()
		_, stop := w.start()
		for seen.Load() < want {
			time.Sleep(time.Millisecond)
		}
		report(b, began, &mem)
		if err := stop(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkBare is the floor (design section 15): a franz-go consumer and net/http with as many requests in flight,
// without order, Avro or ledger.
func BenchmarkBare(b *testing.B) {
	w := benchWorld(b, benchEvents)
	url, seen := benchVendor(b)
	for b.Loop() {
		want := seen.Load() + benchEvents
		var mem runtime.MemStats
		runtime.ReadMemStats(&mem)
		began := time.Now()
		cl, err := kgo.NewClient(kgo.SeedBrokers(w.brokers...), kgo.ConsumerGroup(fmt.Sprintf("bare%d", want)), kgo.ConsumeTopics("canonical.contract"),
			kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			b.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: benchInFlight, MaxIdleConns: benchInFlight}}
		work := make(chan []byte)
		var wg sync.WaitGroup
		for range benchInFlight {
			wg.Go(func() {
				for v := range work {
					resp, err := client.Post(url+"/things", "application/json", bytes.NewReader(v))
					if err != nil {
						b.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
			})
		}
		for n := 0; n < benchEvents; {
			fs := cl.PollFetches(context.Background())
			fs.EachRecord(func(r *kgo.Record) { work <- r.Value; n++ })
		}
		close(work)
		wg.Wait()
		report(b, began, &mem)
		client.CloseIdleConnections()
		cl.Close()
		b.StartTimer()
	}
}
