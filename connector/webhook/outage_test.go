package webhook_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/webhook"
	"github.com/weirsync/weir/integration_test/harness"
	"github.com/weirsync/weir/schema"
)

// A wire is the network to a broker that a test can cut.
type wire struct {
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down {
		return nil, errors.New("connection refused: the broker is stopped")
	}
	c, err := new(net.Dialer).DialContext(ctx, network, address)
	if err == nil {
		w.conns[c] = true
	}
	return c, err
}

func (w *wire) set(down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down = down; down {
		for c := range w.conns {
			c.Close()
		}
		clear(w.conns)
	}
}

const outageSecret = "whsec_of_the_outage_test"

// outage delivers events as a vendor does, each until it is answered 2xx, a tenth of them twice, with Kafka away for a
// while in the middle. It answers how many facts Kafka has per event, and how many calls were answered 503.
func outage(t *testing.T, brokers []string, wire *wire, stop, start func(), events int, away time.Duration) (facts map[string]int, refused int64) {
	t.Helper()
	ctx := t.Context()
	kc := kafka.Config{Brokers: brokers, ProduceTimeout: 2 * time.Second, RequestTimeout: 15 * time.Second}
	if wire != nil {
		kc.Dial = wire.dial
	}
	admin, err := kafka.NewAdmin(kc)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.CreateTopic(ctx, "canonical.customer", 3); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.EnsureTopics(ctx, kafka.TopicPlan{Connector: "c", Sources: []string{"canonical.customer"}, Facts: true}); err != nil {
		t.Fatal(err)
	}
	producer, err := kafka.NewProducer(kc)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	store, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	p, err := profile.Load("finfusion")
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := p.Compile(profile.Options{Connector: "c", Environment: "sandbox", Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := webhook.New(webhook.Config{Store: store, Producer: producer, Wait: 2 * time.Second, MatchWait: -1, Sources: []*webhook.Source{{
		Connector: "c", Vendor: "finfusion", Hooks: compiled.Webhooks, Secret: func(string) (string, error) { return outageSecret, nil }}}})
	if err != nil {
		t.Fatal(err)
	}
	receiver := httptest.NewServer(srv)
	defer receiver.Close()
	const workers = 16
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	call := func(i int) int {
		body := fmt.Sprintf(`{"id":"evt_%d","type":"payment.succeeded","created":%d,"data":{"object":{"id":"pay_%d","status":"succeeded"}}}`, i, time.Now().Unix(), i%100)
		stamp := strconv.FormatInt(time.Now().Unix(), 10)
		mac := hmac.New(sha256.New, []byte(outageSecret))
		mac.Write([]byte(stamp + "." + body))
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, receiver.URL+"/webhooks/c", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0
		}
		req.Header.Set("x-finfusion-timestamp", stamp)
		req.Header.Set("x-finfusion-signature", hex.EncodeToString(mac.Sum(nil)))
		resp, err := client.Do(req)
		if err != nil {
			return 0
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	var next, done, refusals atomic.Int64
	middle := make(chan struct{})
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= events {
					return
				}
				again := i%10 == 0
				for {
					switch status := call(i); status {
					case 200:
						if again {
							again = false
							continue
						}
					case 503:
						refusals.Add(1)
						fallthrough
					case 0:
						select {
						case <-ctx.Done():
							return
						case <-time.After(50 * time.Millisecond):
						}
						continue
					default:
						t.Errorf("event %d is answered %d", i, status)
					}
					break
				}
				if done.Add(1) == int64(events/2) {
					close(middle)
				}
			}
		})
	}
	select {
	case <-middle:
		stop()
		time.Sleep(away) // how long it is away is what is tested
		start()
	case <-ctx.Done():
	}
	wg.Wait()

	ends, err := admin.Topics(ctx, "weir.c.facts")
	if err != nil {
		t.Fatal(err)
	}
	if got := ends["weir.c.facts"]; got.Partitions != 3 || got.CleanupPolicy != "delete" {
		t.Errorf("topic of the facts: %+v", got)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics("weir.c.facts"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	facts = map[string]int{}
	until, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for quiet := 0; quiet < 3; {
		poll, cancelPoll := context.WithTimeout(until, time.Second)
		fs := cl.PollFetches(poll)
		cancelPoll()
		if fs.NumRecords() == 0 {
			quiet++
		} else {
			quiet = 0
		}
		fs.EachRecord(func(r *kgo.Record) {
			for _, h := range r.Headers {
				if h.Key == "ce_id" {
					facts[string(h.Value)]++
				}
			}
		})
	}
	return facts, refusals.Load()
}

func judge(t *testing.T, facts map[string]int, refused int64, events int, away time.Duration) {
	t.Helper()
	doubled := 0
	for _, n := range facts {
		doubled += n - 1
	}
	t.Logf("%d deliveries, Kafka away for %v: %d facts after dropping %d doubles by their ids; %d calls answered 503", events, away, len(facts), doubled, refused)
	if len(facts) != events {
		t.Errorf("%d different facts, want %d", len(facts), events)
	}
	if refused == 0 {
		t.Error("no call was answered 503: Kafka was not away")
	}
}

// None is lost and none is there twice, once doubles are dropped by their id, though Kafka is away in the middle.
func TestKafkaOutage(t *testing.T) {
	const events, away = 2000, 3 * time.Second // longer than a call waits
	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	w := &wire{conns: map[net.Conn]bool{}}
	facts, refused := outage(t, fake.ListenAddrs(), w, func() { w.set(true) }, func() { w.set(false) }, events, away)
	judge(t, facts, refused, events, away)
}

// The same with a real Kafka that is stopped and started, 10,000 deliveries and 10 s.
func TestKafkaOutageLong(t *testing.T) {
	if os.Getenv("WEIR_TEST_SOAK") != "1" {
		t.Skip("takes a minute or two: set WEIR_TEST_SOAK=1, and WEIR_TEST_REAL=1")
	}
	const events, away = 10_000, 10 * time.Second
	k := harness.StartKafka(t, harness.KafkaConfig{})
	facts, refused := outage(t, []string{k.Addr()}, nil, func() { k.Stop(t) }, func() { k.Start(t) }, events, away)
	judge(t, facts, refused, events, away)
}
