package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/schema"
)

// A world is a Kafka, a vendor and a config in a folder of its own.
type world struct {
	dir    string
	kafka  *kfake.Cluster
	vendor sandbox.Listener
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	var err error
	if w.kafka, err = kfake.NewCluster(kfake.NumBrokers(1)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.kafka.Close)
	s, err := sandbox.New("plain", sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if w.vendor, err = s.Start(context.Background(), "", ""); err != nil {
		t.Fatal(err)
	}
	w.config(t, "")
	return w
}

// config writes the config file; more is added at its end.
func (w *world) config(t *testing.T, more string) {
	write(t, filepath.Join(w.dir, "weir.yaml"), fmt.Sprintf(`kafka: {brokers: [%q]}
ops: {listen: 127.0.0.1:0}
connectors:
  plain:
    profile: plain
    base_url: %s
    secrets: {api_key: "${file:key}"}
%s`, w.kafka.ListenAddrs()[0], w.vendor.URL, more))
	write(t, filepath.Join(w.dir, "key"), "secret-key\n")
}

// price gives an operation of the vendor's profile a price of 5.25 cents.
func (w *world) price(t *testing.T, operation string) {
	t.Helper()
	text, err := os.ReadFile("../../connector/profile/plain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	head := "  " + operation + ":\n"
	write(t, filepath.Join(w.dir, "priced.yaml"), strings.Replace(string(text), head, head+"    price: {amount: \"0.0525\", currency: EUR}\n", 1))
	file := filepath.Join(w.dir, "weir.yaml")
	if text, err = os.ReadFile(file); err != nil {
		t.Fatal(err)
	}
	write(t, file, strings.Replace(string(text), "profile: plain", "profile: ./priced.yaml", 1))
}

func customer(event, id, version int) string {
	return fmt.Sprintf(`{"event_id":"evt-%d","event_type":"customer.updated","occurred_at":"2026-01-01T00:00:00Z","source_system":"crm",`+
		`"correlation_id":"corr-%d","tenant":"acme","entity_version":%d,"operation":"upsert","kind":"person","customer_id":"CUST-%d","legal_name":"Jane Doe","currency":"USD"}`, event, event, version, id)
}

// records reads a topic's n records, in order per partition.
func (w *world) records(t *testing.T, topic string, n int) []*kgo.Record {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(w.kafka.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var rs []*kgo.Record
	for len(rs) < n {
		f := cl.PollFetches(ctx)
		if err := f.Err0(); err != nil {
			t.Fatalf("%d of %d records of %s: %v", len(rs), n, topic, err)
		}
		rs = append(rs, f.Records()...)
	}
	return rs
}

func TestPublish(t *testing.T) {
	w := newWorld(t)
	stdin := func(lines ...string) func(*Env) {
		return func(e *Env) { e.Stdin = strings.NewReader(strings.Join(lines, "\n")) }
	}
	if r := invoke(t, w.dir, stdin(customer(1, 1, 1)), "publish", "-"); r.code != exitEnv || !strings.Contains(r.stderr, "--create-topics") {
		t.Fatalf("publish without a topic: code %d, %s; want 3 and a hint", r.code, r.stderr)
	}
	r := invoke(t, w.dir, stdin(
		customer(1, 1, 1), customer(2, 2, 1), customer(3, 1, 2), "nonsense",
		`{"entity":"customer","event":`+customer(4, 1, 3)+`,"headers":{"ce_id":"evt-4","traceparent":"00-x"}}`,
		`{"entity":"customer","key":"CUST-2","event":null,"headers":{"ce_id":"evt-5"}}`,
	), "publish", "-", "--create-topics", "--partitions", "3", "--json")
	var sum publishSummary
	if err := json.Unmarshal([]byte(r.stdout), &sum); err != nil {
		t.Fatalf("summary %q: %v", r.stdout, err)
	}
	if sum.Read != 6 || sum.Published != 5 || sum.Refused != 1 || r.code != exitYours {
		t.Errorf("published %+v with code %d; want 6 read, 5 published, 1 refused, code 2", sum, r.code)
	}
	if r.stderr != "line 4: not JSON at column 1\n" {
		t.Errorf("stderr %q, want line 4 refused", r.stderr)
	}
	byKey := map[string][]*kgo.Record{}
	for _, rec := range w.records(t, "canonical.customer", 5) {
		byKey[string(rec.Key)] = append(byKey[string(rec.Key)], rec)
	}
	one, two := byKey["CUST-1"], byKey["CUST-2"]
	if len(one) != 3 || len(two) != 2 {
		t.Fatalf("%d records of CUST-1 and %d of CUST-2, want 3 and 2", len(one), len(two))
	}
	c, err := (&app{Env: &Env{}}).loadContract(nil)
	if err != nil {
		t.Fatal(err)
	}
	for i, rec := range one {
		e, err := c.decoder.Decode(context.Background(), &schema.Record{Topic: rec.Topic, Key: rec.Key, Value: rec.Value})
		if err != nil || e.Version != int64(i+1) {
			t.Errorf("record %d of CUST-1: %+v, %v; want version %d", i, e, err, i+1)
		}
	}
	var headers []string
	for _, h := range one[2].Headers {
		headers = append(headers, h.Key+"="+string(h.Value))
	}
	if got := strings.Join(headers, " "); got != "ce_id=evt-4 traceparent=00-x" {
		t.Errorf("headers %q, want those of the line", got)
	}
	if two[1].Value != nil {
		t.Errorf("the tombstone has a value of %d bytes", len(two[1].Value))
	}
}

func TestPublishSample(t *testing.T) {
	w := newWorld(t)
	r := invoke(t, w.dir, nil, "publish", "--sample", "300", "--seed", "7", "--customers", "20", "--delete-share", "0.05", "--create-topics", "--json")
	if r.code != exitDone || !strings.Contains(r.stdout, `"published": 300`) {
		t.Fatalf("code %d: %s%s, want 300 published", r.code, r.stdout, r.stderr)
	}
	if r := invoke(t, "", nil, "publish", "--sample", "-1", "--dry-run"); r.code != exitYours {
		t.Errorf("a negative number of events: code %d, %s; want 2", r.code, r.stderr)
	}
}

// Kafka that is away is the environment, for every command that needs it.
func TestKafkaAway(t *testing.T) {
	w := newWorld(t)
	store, err := sqlite.Open(context.Background(), filepath.Join(w.dir, "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	store.Close()
	w.kafka.Close()
	for _, args := range [][]string{{"publish", "-"}, {"status", "--json"}, {"check"}} {
		r := invoke(t, w.dir, nil, args...)
		if r.code != exitEnv {
			t.Errorf("%v: code %d, want 3: %s%s", args, r.code, r.stdout, r.stderr)
		}
		if args[0] == "status" {
			var rep statusReport
			if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil || len(rep.Connectors) != 1 || rep.Connectors[0].Lag != nil {
				t.Errorf("status without Kafka: %s, %v; want what the store knows, and lag null", r.stdout, err)
			}
		}
	}
}

// TestStory is the whole of it: publish, run, status, trace, parked, on one Kafka, one vendor and one store.
func TestStory(t *testing.T) {
	w := newWorld(t)
	w.price(t, "put_customer")
	must := func(args ...string) result {
		t.Helper()
		r := invoke(t, w.dir, nil, args...)
		if r.code != exitDone {
			t.Fatalf("weir %v: code %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
		return r
	}
	if r := invoke(t, w.dir, nil, "status"); r.code != exitEnv || !strings.Contains(r.stderr, "weir run creates it") {
		t.Errorf("status without a store: code %d, %s; want 3 and a hint", r.code, r.stderr)
	}
	events := filepath.Join(w.dir, "events.jsonl")
	write(t, events, customer(1, 1, 1)+"\n"+customer(2, 2, 1)+"\n")
	must("publish", events, "--create-topics", "--partitions", "2")
	for _, topic := range []string{"canonical.contract", "canonical.invoice"} {
		if err := createTopic(w, topic); err != nil {
			t.Fatal(err)
		}
	}
	if r := invoke(t, w.dir, nil, "check", "--json"); r.code != exitDone {
		t.Errorf("check: code %d, want 0:\n%s", r.code, r.stdout)
	}

	signals := make(chan os.Signal, 2)
	pipeR, pipeW := io.Pipe()
	done := make(chan result, 1)
	go func() {
		defer pipeW.Close()
		done <- invoke(t, w.dir, func(e *Env) {
			e.Stderr = pipeW
			e.Signals = func() (<-chan os.Signal, func()) { return signals, func() {} }
		}, "run")
	}()
	logs := newLogs(pipeR)
	base := logs.wait(t, "ops listener", "url")
	get := func(path string) (int, string) {
		resp, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	deadline := time.Now().Add(30 * time.Second)
	var rep statusReport
	for {
		code, body := get("/api/v1/status")
		if code != 200 {
			t.Fatalf("/api/v1/status: %d %s", code, body)
		}
		rep = statusReport{}
		if err := json.Unmarshal([]byte(body), &rep); err != nil {
			t.Fatal(err)
		}
		if c := rep.Connectors[0]; c.State == "running" && c.Lag != nil && *c.Lag == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("lag does not reach 0: %s\n%s", body, logs.all())
		}
		time.Sleep(50 * time.Millisecond) // polls another process's view; nothing signals it
	}
	if got, want := fmt.Sprint(rep.Connectors[0].Spent), "[{put_customer EUR 2 105000}]"; got != want {
		t.Errorf("status says that %s was spent, want %s", got, want)
	}
	if _, body := get("/metrics"); !strings.Contains(body, `weir_vendor_spent_total{connector="plain",currency="EUR",operation="put_customer"} 0.105`) {
		t.Error("/metrics does not say that two requests cost 0.105 EUR")
	}
	for path, want := range map[string]string{"/healthz": "ok\n", "/readyz": "ready\n", "/metrics": "weir_build_info"} {
		if code, body := get(path); code != 200 || !strings.Contains(body, want) {
			t.Errorf("GET %s = %d %.200s, want 200 and %q", path, code, body, want)
		}
	}
	if r := invoke(t, w.dir, nil, "run"); r.code != exitEnv || !strings.Contains(r.stderr, "one running weir owns an SQLite store") {
		t.Errorf("a second run: code %d, %s; want 3 and why", r.code, r.stderr)
	}
	signals <- syscall.SIGTERM
	if r := <-done; r.code != exitDone {
		t.Fatalf("run ended with %d\n%s", r.code, logs.all())
	}

	if r := must("status"); !strings.Contains(r.stdout, "stopped") {
		t.Errorf("status after a stop:\n%s", r.stdout)
	}
	if err := json.Unmarshal([]byte(must("status", "--json").stdout), &rep); err != nil {
		t.Fatal(err)
	}
	c := rep.Connectors[0]
	if c.State != "stopped" || c.Lag == nil || *c.Lag != 0 || c.Parked == nil || *c.Parked != 0 || len(c.Partitions) == 0 {
		t.Errorf("status after a stop: %+v", c)
	}
	for _, p := range c.Partitions {
		if p.State != "stopped" || p.End == nil {
			t.Errorf("partition after a stop: %+v, want it stopped, with its end", p)
		}
	}

	// From any id the same story (promise 10).
	var byEvent traceReport
	if err := json.Unmarshal([]byte(must("trace", "evt-1", "--json").stdout), &byEvent); err != nil {
		t.Fatal(err)
	}
	if len(byEvent.Events) != 1 || len(byEvent.Events[0].Outcomes) == 0 {
		t.Fatalf("trace evt-1: %+v", byEvent)
	}
	e := byEvent.Events[0]
	o := e.Outcomes[0]
	if e.Key != "CUST-1" || o.Outcome != "delivered" || o.VendorID == "" || len(o.Plan) != 1 || len(o.Attempts) != 1 || o.Attempts[0].Status/100 != 2 {
		t.Errorf("trace evt-1: %+v", e)
	}
	for _, id := range []string{"CUST-1", "corr-1", e.Origin, o.VendorID, o.Plan[0].IdempotencyKey} {
		if id == "" {
			continue // class overwrite has no idempotency key
		}
		var rep traceReport
		if err := json.Unmarshal([]byte(must("trace", id, "--json").stdout), &rep); err != nil {
			t.Fatal(err)
		}
		rep.Query = byEvent.Query
		a, _ := json.Marshal(rep)
		b, _ := json.Marshal(byEvent)
		if string(a) != string(b) {
			t.Errorf("trace %s:\n got %s\nwant %s", id, a, b)
		}
	}
	if r := must("trace", "evt-1"); !strings.Contains(r.stdout, "delivered") || !strings.Contains(r.stdout, "attempt 1") || strings.Contains(r.stdout, "Jane") {
		t.Errorf("trace for people:\n%s", r.stdout)
	}
	if r := invoke(t, w.dir, nil, "trace", "nobody"); r.code != exitYours || !strings.Contains(r.stderr, "no record leads from this id") {
		t.Errorf("trace of an unknown id: code %d, %s", r.code, r.stderr)
	}
	if r := must("parked", "ls"); r.stdout != "nothing is parked\n" {
		t.Errorf("parked ls: %q", r.stdout)
	}
}

func createTopic(w *world, name string) error {
	a, err := kafka.NewAdmin(kafka.Config{Brokers: w.kafka.ListenAddrs()})
	if err != nil {
		return err
	}
	defer a.Close()
	created, err := a.CreateTopic(context.Background(), name, 2)
	if err == nil && !created {
		return fmt.Errorf("topic %s existed", name)
	}
	return err
}

// logs reads JSON log lines as they come.
type logs struct {
	lines chan string
	seen  []string
}

func newLogs(r io.Reader) *logs {
	l := &logs{lines: make(chan string, 10_000)}
	go func() {
		defer close(l.lines)
		dec := json.NewDecoder(r)
		for {
			var raw json.RawMessage
			if dec.Decode(&raw) != nil {
				_, _ = io.Copy(io.Discard, r)
				return
			}
			l.lines <- string(raw)
		}
	}()
	return l
}

// wait waits for a message and returns one of its attributes.
func (l *logs) wait(t *testing.T, msg, attr string) string {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case line, ok := <-l.lines:
			if !ok {
				t.Fatalf("the log ended before %q:\n%s", msg, l.all())
			}
			l.seen = append(l.seen, line)
			var m map[string]any
			if json.Unmarshal([]byte(line), &m) == nil && m["msg"] == msg {
				return fmt.Sprint(m[attr])
			}
		case <-timeout:
			t.Fatalf("no log line %q:\n%s", msg, l.all())
		}
	}
}

func (l *logs) all() string {
	for {
		select {
		case line, ok := <-l.lines:
			if ok {
				l.seen = append(l.seen, line)
				continue
			}
		default:
		}
		return strings.Join(l.seen, "\n")
	}
}

// What the vendor accepted and has not confirmed is in the status, and named when it is overdue.
func TestStatusUnconfirmed(t *testing.T) {
	w := newWorld(t)
	s, err := sqlite.Open(t.Context(), filepath.Join(w.dir, "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	part := checkpoint.Partition{Connector: "plain", Topic: "canonical.customer", ID: checkpoint.TopicID{1}}
	rec, err := s.Acquire(t.Context(), part, "test")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var batch checkpoint.Batch
	for i, event := range []string{"evt-1", "evt-2"} {
		batch.Settlements = append(batch.Settlements, checkpoint.Settlement{Lease: rec.Lease, Due: at.Add(time.Duration(i+1) * time.Hour), Row: checkpoint.Row{
			Offset: int64(i), Route: "plain.customer", Outcome: checkpoint.Accepted, VendorID: "v-" + event, At: at, Event: checkpoint.Event{ID: event, Entity: "customer", Key: "CUST-" + event}}})
	}
	if _, err := s.Settle(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		now  time.Time
		want string
	}{
		{at.Add(30 * time.Minute), "plain: 2 accepted requests wait for the vendor's word, the first until 2026-01-02T04:04:05Z\n"},
		{at.Add(90 * time.Minute), "plain: the vendor has not said how 1 of 2 accepted requests ended, and should have; the first since 2026-01-02T04:04:05Z: weir trace evt-1\n"},
	} {
		if r := invoke(t, w.dir, func(e *Env) { e.Now = func() time.Time { return c.now } }, "status"); !strings.Contains(r.stdout, c.want) {
			t.Errorf("status:\n%s%s\nwant %q in it", r.stdout, r.stderr, c.want)
		}
	}
	r := invoke(t, w.dir, func(e *Env) { e.Now = func() time.Time { return at.Add(90 * time.Minute) } }, "status", "--json")
	if want := `"unconfirmed":{"waiting":2,"overdue":1,"first":[{"event_id":"evt-1","vendor_id":"v-evt-1","entity":"customer","key":"CUST-evt-1","since":"2026-01-02T03:04:05Z","due":"2026-01-02T04:04:05Z"},`; !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(r.stdout, "\n", ""), " ", ""), want) {
		t.Errorf("status --json:\n%s\nwant %s in it", r.stdout, want)
	}
}

// parkedStore writes a store with a parked record, one that it holds, and the copies in Kafka.
func parkedStore(t *testing.T, w *world) {
	t.Helper()
	ctx := context.Background()
	c, err := (&app{Env: &Env{}}).loadContract(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, value, err := c.encode(ctx, "customer", 0, []byte(customer(1, 1, 1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := createTopic(w, "weir.plain.parked"); err != nil {
		t.Fatal(err)
	}
	p, err := kafka.NewProducer(kafka.Config{Brokers: w.kafka.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	placed, err := p.Produce(ctx, []kafka.Out{{Topic: "weir.plain.parked", Partition: 1, Key: []byte(key), Value: value}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlite.Open(ctx, filepath.Join(w.dir, "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	part := checkpoint.Partition{Connector: "plain", Topic: "canonical.customer", ID: checkpoint.TopicID{1}, Index: 1}
	rec, err := s.Acquire(ctx, part, "test")
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	settle := func(offset int64, event string, cause checkpoint.Cause, more func(*checkpoint.Row, *checkpoint.Parked)) checkpoint.Settlement {
		row := checkpoint.Row{Partition: part, Offset: offset, Route: "plain.customer", Outcome: checkpoint.ParkedOut, Cause: cause, Reason: "reason_" + event, At: at,
			Event: checkpoint.Event{ID: event, Entity: "customer", Key: "CUST-1", Version: offset, Operation: "upsert", OccurredAt: at, Schema: "canonical.customer-value/1"}}
		pk := checkpoint.Parked{Position: checkpoint.Position{Partition: part, Offset: offset, Route: "plain.customer"}, EntityKey: checkpoint.EntityKey{Entity: "customer", Key: "CUST-1"},
			Tenant: "acme", EventID: event, Version: offset, Cause: cause, Reason: row.Reason, At: at, State: checkpoint.ParkedOpen, Since: at,
			CopyTopic: "weir.plain.parked", CopyPartition: 1, CopyOffset: placed[0].Offset}
		if more != nil {
			more(&row, &pk)
		}
		return checkpoint.Settlement{Lease: rec.Lease, Row: row, Park: &pk}
	}
	_, err = s.Settle(ctx, checkpoint.Batch{Settlements: []checkpoint.Settlement{
		settle(5, "evt-1", checkpoint.CauseRejected, func(r *checkpoint.Row, p *checkpoint.Parked) {
			p.Attempts, p.Guidance, p.Supersedes = 2, "correct the name at the source", []string{"evt-0"}
			r.Plan = []checkpoint.Step{{Step: "put", Operation: "put_thing", IdempotencyKey: "idem-1"}}
			r.Attempts = []checkpoint.Attempt{
				{N: 1, At: at, Step: "put", Status: 503, Verdict: "retry", Sent: checkpoint.Answered},
				{N: 2, At: at.Add(time.Second), Step: "put", Status: 400, Verdict: "reject", Sent: checkpoint.Answered, Wait: 900 * time.Millisecond, Guidance: "correct the name at the source"},
			}
		}),
		settle(6, "evt-2", checkpoint.CauseHeld, nil),
	}})
	if err != nil {
		t.Fatal(err)
	}
}

func TestParked(t *testing.T) {
	w := newWorld(t)
	parkedStore(t, w)
	clock := func(e *Env) { e.Now = func() time.Time { return time.Date(2026, 1, 2, 5, 4, 5, 0, time.UTC) } }
	get := func(args ...string) string {
		t.Helper()
		r := invoke(t, w.dir, clock, args...)
		if r.code != exitDone {
			t.Fatalf("weir %v: code %d\n%s%s", args, r.code, r.stdout, r.stderr)
		}
		return r.stdout
	}
	golden(t, "parked_ls.txt", get("parked", "ls"))
	golden(t, "parked_ls.json", get("parked", "ls", "--cause", "rejected", "--connector", "plain", "--json"))
	golden(t, "parked_show.txt", get("parked", "show", "canonical.customer/1/5"))
	golden(t, "parked_show_payload.json", get("parked", "show", "evt-1", "--payload", "--json"))
	golden(t, "trace_parked.txt", get("trace", "CUST-1"))
	golden(t, "trace_parked.json", get("trace", "idem-1", "--json"))
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"parked", "ls", "--cause", "bored"}, "is not a cause"},
		{[]string{"parked", "ls", "--connector", "nobody"}, "use one of plain"},
		{[]string{"parked", "ls", "--limit", "0"}, "is not within"},
		{[]string{"parked", "show", "canonical.customer/1/7"}, "no parked record"},
		{[]string{"parked", "show", "evt-9"}, "no parked record"},
	} {
		if r := invoke(t, w.dir, nil, c.args...); r.code != exitYours || !strings.Contains(r.stderr, c.want) {
			t.Errorf("weir %v: code %d, %s; want 2 and %q", c.args, r.code, r.stderr, c.want)
		}
	}
	if out := get("parked", "ls", "--limit", "1"); strings.Count(out, "\n") != 2 {
		t.Errorf("parked ls --limit 1:\n%s", out)
	}
}

// golden compares with a file of testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, file, got)
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\n got\n%s\nwant\n%s", name, got, want)
	}
}

// While the store takes no writes, no report of a running weir gets into it: readiness and status come from the
// connectors themselves, also for the command beside it.
func TestOpsAsksTheConnectors(t *testing.T) {
	w := newWorld(t)
	store, err := sqlite.Open(context.Background(), filepath.Join(w.dir, "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	since := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	c := &fakeConnector{status: connector.Status{Name: "plain", State: connector.StateOutage, Reason: "store: no room left", Since: since, Pending: 7}, ready: errors.New("store: no room left")}
	cfg, err := (&app{Env: &Env{Getenv: func(string) string { return "" }}, configPath: filepath.Join(w.dir, "weir.yaml")}).config()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: w.kafka.ListenAddrs()})
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	o := &opsServer{app: &app{Env: &Env{Now: time.Now}}, cfg: cfg, store: store, admin: admin, log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry()}
	o.watch("plain", c)
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: o.handler()}}
	srv.Start()
	defer srv.Close()
	get := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "no room left") {
		t.Errorf("/readyz: %d %s, want 503 and why", code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d, want 200: the process is alive", code)
	}
	want := func(what string, rep statusReport) {
		t.Helper()
		if len(rep.Connectors) != 1 {
			t.Fatalf("%s: %+v, want one connector", what, rep)
		}
		s := rep.Connectors[0]
		if s.State != connector.StateOutage || s.Reason != "store: no room left" || s.Since == nil || !s.Since.Equal(since) || s.Pending == nil || *s.Pending != 7 {
			t.Errorf("%s: %+v, want what the connector says", what, s)
		}
	}
	var rep statusReport
	if _, body := get("/api/v1/status"); json.Unmarshal([]byte(body), &rep) != nil {
		t.Fatalf("/api/v1/status: %s", body)
	}
	want("/api/v1/status", rep)

	command := func() statusReport {
		t.Helper()
		r := invoke(t, w.dir, nil, "status", "--json")
		var rep statusReport
		if err := json.Unmarshal([]byte(r.stdout), &rep); err != nil || r.code != 0 {
			t.Fatalf("weir status: code %d, %v: %s%s", r.code, err, r.stdout, r.stderr)
		}
		return rep
	}
	if s := command().Connectors[0]; s.State != stateStopped {
		t.Errorf("nobody listens on ops.listen, and weir status says %s", s.State)
	}
	text, err := os.ReadFile(filepath.Join(w.dir, "weir.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	listening := strings.Replace(string(text), "127.0.0.1:0", l.Addr().String(), 1)
	write(t, filepath.Join(w.dir, "weir.yaml"), listening)
	want("weir status", command())
	write(t, filepath.Join(w.dir, "weir.yaml"), listening+"checkpoint: {store: \"sqlite:other.db\"}\n")
	other, err := sqlite.Open(context.Background(), filepath.Join(w.dir, "other.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	other.Close()
	if s := command().Connectors[0]; s.State != stateStopped {
		t.Errorf("a weir with another store listens, and weir status says %s", s.State)
	}
	c.ready = nil
	o.readyAt = time.Time{}
	if code, body := get("/readyz"); code != 200 {
		t.Errorf("/readyz: %d %s, want 200", code, body)
	}
}

type fakeConnector struct {
	status connector.Status
	ready  error
}

func (c *fakeConnector) Status() connector.Status { return c.status }
func (c *fakeConnector) Ready() error             { return c.ready }
