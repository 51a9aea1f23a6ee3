package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/integration_test/harness"
	"github.com/weirsync/weir/schema"
)

// Bounds of waits for another process, which has no signal for us.
const (
	boxWait  = time.Minute // under a load that other packages make
	boxPoll  = 100 * time.Millisecond
	boxDrain = 30 * time.Second
)

// boxKey is a key of the form that Push Cash gives out (vendor sheet pushcash, section 2).
const boxKey = "push_sandbox_00000000000000000000000000000000"

// A box is one connector as its operator sees it: the binary, its config, a broker and a vendor.
type box struct {
	t       *testing.T
	name    string
	vendor  string
	cluster *harness.Cluster
	weir    *harness.Weir
	sandbox *harness.Sandbox
	topics  map[string]string // by entity
	store   string
	config  string
	secret  string // file of the vendor's key
	set     *schema.Set
	client  *kgo.Client // hashes keys as producers do
	raw     *kgo.Client // partitions are chosen by the test
	admin   *kadm.Client
}

// boxOptions: the zero value is the plain vendor, 3 partitions and topics of the test's own.
type boxOptions struct {
	vendor     string
	partitions int32
	canonical  bool     // canonical.<entity>, which weir publish writes to
	window     int      // window.records
	sandbox    []string // further arguments
	scale      bool     // quotas 100,000 times as large, at sandbox and weir
	baseURL    string
	behind     string           // base_url of something that stands before the sandbox
	cluster    *harness.Cluster // default: the one that the environment names
	dir        string           // of config and store, default a temporary one
	profile    string           // default: the vendor's
	ops        string           // ops.listen, default a port that nobody knows
	delivery   string           // connectors.<name>.delivery
	more       string           // further keys of the connector, in lines
	clock      *harness.Clock   // of weir, if it is to be set
}

func newBox(t *testing.T, o boxOptions) *box {
	t.Helper()
	b := &box{t: t, vendor: o.vendor, topics: map[string]string{}, cluster: o.cluster, weir: harness.NewWeir(t, harness.Build{Clock: o.clock != nil})}
	if o.clock != nil {
		b.weir.Env = append(b.weir.Env, o.clock.Env())
	}
	if b.cluster == nil {
		b.cluster = harness.Broker(t)
	}
	if b.vendor == "" {
		b.vendor = "plain"
	}
	b.name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, t.Name())
	b.name = b.name[max(0, len(b.name)-50):]
	b.name = "b" + strings.TrimLeft(b.name, "-0123456789")
	claims := []string{}
	for _, e := range []string{"customer", "contract", "invoice"} {
		b.topics[e] = b.name + "." + e
		if o.canonical {
			b.topics[e] = "canonical." + e
		}
		claims = append(claims, b.topics[e])
	}
	base := "weir." + b.name
	b.cluster.Claim(t, append(slices.Clone(claims), base, base+".parked", base+".dead", base+".receipts", base+".facts")...)
	if o.partitions == 0 {
		o.partitions = 3
	}
	b.cluster.CreateTopicConfig(t, o.partitions, map[string]string{"max.message.bytes": "4194304"}, claims...)
	args := o.sandbox
	if o.scale {
		args = append(args, "--limit-scale", "100000")
	}
	if o.baseURL == "" {
		b.sandbox = harness.StartSandbox(t, b.weir, b.vendor, args...)
		o.baseURL = b.sandbox.URL
	}
	if o.behind != "" {
		o.baseURL = o.behind
	}
	dir := o.dir
	if dir == "" {
		dir = t.TempDir()
	}
	b.store, b.config, b.secret = filepath.Join(dir, "weir.db"), filepath.Join(dir, "weir.yaml"), filepath.Join(dir, "secret")
	b.write(b.secret, boxKey)
	if o.profile == "" {
		o.profile = b.vendor
	}
	if o.ops == "" {
		o.ops = "127.0.0.1:0"
	}
	var cfg strings.Builder
	fmt.Fprintf(&cfg, "kafka: {brokers: [%q]}\ncheckpoint: {store: %q}\nops: {listen: %q}\nconnectors:\n  %s:\n", strings.Join(b.cluster.Brokers(), `", "`), "sqlite:"+b.store, o.ops, b.name)
	fmt.Fprintf(&cfg, "    profile: %s\n    base_url: %s\n    start: earliest\n    secrets: {api_key: \"${file:%s}\"}\n", o.profile, o.baseURL, b.secret)
	fmt.Fprintf(&cfg, "    topics: {customer: %q, contract: %q, invoice: %q}\n", b.topics["customer"], b.topics["contract"], b.topics["invoice"])
	if o.window > 0 {
		fmt.Fprintf(&cfg, "    window: {records: %d}\n", o.window)
	}
	if o.delivery != "" {
		fmt.Fprintf(&cfg, "    delivery: %s\n", o.delivery)
	}
	cfg.WriteString(o.more)
	b.write(b.config, cfg.String())
	var err error
	if b.set, err = schema.Embedded(); err != nil {
		t.Fatal(err)
	}
	b.connect()
	return b
}

// connect makes clients that remember nothing of the topics.
func (b *box) connect() {
	b.t.Helper()
	b.client = b.cluster.Client(b.t, kgo.ProducerBatchMaxBytes(4<<20), kgo.ProducerLinger(0))
	b.raw = b.cluster.Client(b.t, kgo.ProducerBatchMaxBytes(4<<20), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	b.admin = kadm.NewClient(b.client)
}

func (b *box) write(file, text string) {
	b.t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// start starts weir run with further arguments.
func (b *box) start(args ...string) *harness.Process {
	b.t.Helper()
	return b.weir.Start(b.t, append([]string{"run", "--config", b.config, "--limit-scale", "100000", "--log-format", "text"}, args...)...)
}

// stop drains a weir.
func (b *box) stop(p *harness.Process) {
	b.t.Helper()
	if r := p.Stop(b.t, boxDrain); r.Code != 0 {
		b.t.Fatalf("drain: exit code %d, want 0\n%s", r.Code, tail(r.Stderr))
	}
}

// An event is one canonical event, ready to be changed before it is published.
type event struct {
	entity string
	key    string
	fields map[string]any
}

const boxTime = "2026-03-04T05:06:07.089Z"

func newEvent(entity, key string, version int64, fields map[string]any) event {
	e := event{entity: entity, key: key, fields: map[string]any{
		"event_id": fmt.Sprintf("evt-%s-%d", key, version), "event_type": entity + ".updated", "occurred_at": boxTime, "source_system": "crm",
		"correlation_id": "corr-" + key, "tenant": "acme", "entity_version": version, "operation": "upsert", entity + "_id": key}}
	maps.Copy(e.fields, fields)
	return e
}

func customer(key string, version int64) event {
	return newEvent("customer", key, version, map[string]any{
		"kind": "person", "legal_name": "Ada Lovelace", "first_name": "Ada", "last_name": "Lovelace", "email": fmt.Sprintf("v%d@example.com", version),
		"billing_address": map[string]any{"line1": "1 Main St", "city": "Springfield", "region": "IL", "postal_code": "62701", "country": "US"},
		"currency":        "USD", "status": "active",
		"extensions": map[string]any{"pushcash": map[string]any{"date_of_birth": "1985-12-10", "government_id_type": "passport",
			"government_id_last4": "1234", "identity_verified": "true"}, "finfusion": map[string]any{"payment_method_id": "pm_test_ok"}}})
}

func invoice(key, customer string, version, minor int64) event {
	return newEvent("invoice", key, version, map[string]any{"customer_id": customer, "currency": "USD", "status": "issued", "issued_at": boxTime, "total_minor": minor,
		"tax_minor": int64(0), "line_items": []any{}})
}

func (b *box) encode(e event) []byte {
	b.t.Helper()
	v, err := b.set.Encode(e.entity, e.fields)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *box) record(e event) *kgo.Record {
	b.t.Helper()
	return &kgo.Record{Topic: b.topics[e.entity], Key: []byte(e.key), Value: b.encode(e)}
}

// publish writes events and returns their records, with partitions and offsets.
func (b *box) publish(es ...event) []*kgo.Record {
	b.t.Helper()
	rs := make([]*kgo.Record, len(es))
	for i, e := range es {
		rs[i] = b.record(e)
	}
	b.produce(b.client, rs...)
	return rs
}

func (b *box) produce(cl *kgo.Client, rs ...*kgo.Record) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), boxWait)
	defer cancel()
	if err := cl.ProduceSync(ctx, rs...).FirstErr(); err != nil {
		b.t.Fatalf("produce: %v", err)
	}
}

func originOf(r *kgo.Record) string { return fmt.Sprintf("%s/%d/%d", r.Topic, r.Partition, r.Offset) }

// until polls what until it holds.
func (b *box) until(what string, within time.Duration, holds func() (bool, string)) {
	b.t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(boxPoll)
	defer tick.Stop()
	for {
		ok, is := holds()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			b.t.Fatalf("%s: not so after %v: %s", what, within, is)
		}
	}
}

// lags gives, of each partition, the distance of the committed offset to the end. A broker that has just started
// may have to find its coordinator first.
func (b *box) lags() (lags map[string]int64, err error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), boxWait)
	defer cancel()
	topics := slices.Collect(maps.Values(b.topics))
	starts, err := b.admin.ListStartOffsets(ctx, topics...)
	if err := errors.Join(err, starts.Error()); err != nil {
		return nil, err
	}
	ends, err := b.admin.ListEndOffsets(ctx, topics...)
	if err := errors.Join(err, ends.Error()); err != nil {
		return nil, err
	}
	commits, err := b.admin.FetchOffsets(ctx, "weir."+b.name)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, err
	}
	lags = map[string]int64{}
	ends.Each(func(o kadm.ListedOffset) {
		start, _ := starts.Lookup(o.Topic, o.Partition)
		from := start.Offset
		if c, ok := commits.Lookup(o.Topic, o.Partition); ok && c.At >= 0 {
			from = max(from, c.At)
		}
		lags[fmt.Sprintf("%s/%d", o.Topic, o.Partition)] = o.Offset - from
	})
	return lags, nil
}

// waitLag0 waits until the group has committed the end of everything.
func (b *box) waitLag0() {
	b.t.Helper()
	b.until("lag 0", boxWait, func() (bool, string) {
		lags, err := b.lags()
		for _, l := range lags {
			if l != 0 {
				return false, fmt.Sprint(lags)
			}
		}
		return err == nil, fmt.Sprint(err)
	})
}

// The contract of design section 17, as far as the tests read it.
type (
	boxStatus struct {
		Name       string         `json:"name"`
		State      string         `json:"state"`
		Reason     string         `json:"reason"`
		Since      *time.Time     `json:"since"`
		Lag        *int64         `json:"lag"`
		Pending    *int64         `json:"pending"`
		InFlight   *int64         `json:"in_flight"`
		Parked     *int64         `json:"parked"`
		Partitions []boxPartition `json:"partitions"`

		Credentials []credentialUse `json:"credentials"`
	}
	boxPartition struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Mark      *int64 `json:"mark"`
		End       *int64 `json:"end"`
		State     string `json:"state"`
		Reason    string `json:"reason"`
	}
	story struct {
		Query  string       `json:"query"`
		Events []storyEvent `json:"events"`
	}
	storyEvent struct {
		EventID  string         `json:"event_id"`
		Entity   string         `json:"entity"`
		Key      string         `json:"key"`
		Origin   string         `json:"origin"`
		Schema   string         `json:"schema"`
		Outcomes []storyOutcome `json:"outcomes"`
	}
	storyOutcome struct {
		Route        string `json:"route"`
		Outcome      string `json:"outcome"`
		Cause        string `json:"cause"`
		Reason       string `json:"reason"`
		SupersededBy string `json:"superseded_by"`
		VendorID     string `json:"vendor_id"`
		Plan         []struct {
			Step           string `json:"step"`
			Operation      string `json:"operation"`
			IdempotencyKey string `json:"idempotency_key"`
		} `json:"plan"`
		Attempts []struct {
			N       int    `json:"n"`
			At      string `json:"at"`
			Status  int    `json:"status"`
			Verdict string `json:"verdict"`
			Sent    string `json:"sent"`
			WaitMS  int64  `json:"wait_ms"`
		} `json:"attempts"`
	}
	boxParked struct {
		Origin string `json:"origin"`
		Key    string `json:"key"`
		Cause  string `json:"cause"`
		Reason string `json:"reason"`
		State  string `json:"state"`
	}
)

// status is what weir status --json says of the connector; the error is the command's.
func (b *box) status() (boxStatus, error) {
	b.t.Helper()
	all, code, err := b.statuses()
	if code != 0 {
		return boxStatus{}, fmt.Errorf("weir status: exit code %d, %v", code, err)
	}
	if err != nil || len(all) != 1 {
		b.t.Fatalf("weir status shows %d connectors, want 1: %+v, %v", len(all), all, err)
	}
	return all[0], nil
}

// statuses is what weir status --json says of all connectors, and its exit code; the error is that of what it printed.
func (b *box) statuses() (all []boxStatus, code int, err error) {
	b.t.Helper()
	r := b.weir.Run(b.t, "status", "--config", b.config, "--json")
	var rep struct {
		Connectors []boxStatus `json:"connectors"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &rep); err != nil {
		return nil, r.Code, fmt.Errorf("weir status --json: %w: %s%s", err, r.Stdout, r.Stderr)
	}
	return rep.Connectors, r.Code, nil
}

// waitStatus waits until status accepts. A store that is not there yet is waited for too.
func (b *box) waitStatus(what string, ok func(boxStatus) bool) boxStatus {
	b.t.Helper()
	var s boxStatus
	b.until("status: "+what, boxWait, func() (bool, string) {
		var err error
		if s, err = b.status(); err != nil {
			return false, err.Error()
		}
		return ok(s), fmt.Sprintf("%+v", s)
	})
	return s
}

func inState(state string) func(boxStatus) bool {
	return func(s boxStatus) bool { return s.State == state }
}

// partition is one partition of a status.
func (s boxStatus) partition(topic string, n int32) boxPartition {
	for _, p := range s.Partitions {
		if p.Topic == topic && p.Partition == n {
			return p
		}
	}
	return boxPartition{}
}

// trace is what weir trace --json tells of an id that leads somewhere.
func (b *box) trace(id string) story {
	b.t.Helper()
	r := b.weir.MustRun(b.t, "trace", id, "--config", b.config, "--json")
	var s story
	if err := json.Unmarshal([]byte(r.Stdout), &s); err != nil {
		b.t.Fatalf("weir trace %s --json: %v\n%s", id, err, r.Stdout)
	}
	return s
}

// outcome is the only outcome of the only event that an id leads to.
func (b *box) outcome(id string) storyOutcome {
	b.t.Helper()
	s := b.trace(id)
	if len(s.Events) != 1 || len(s.Events[0].Outcomes) != 1 {
		b.t.Fatalf("trace %s: want one event with one outcome, got %+v", id, s)
	}
	return s.Events[0].Outcomes[0]
}

// parked is what weir parked ls --json lists, with further arguments.
func (b *box) parked(args ...string) []boxParked {
	b.t.Helper()
	r := b.weir.MustRun(b.t, append([]string{"parked", "ls", "--config", b.config, "--json"}, args...)...)
	var ps []boxParked
	if err := json.Unmarshal([]byte(r.Stdout), &ps); err != nil {
		b.t.Fatalf("weir parked ls --json: %v\n%s", err, r.Stdout)
	}
	return ps
}

// history is the box's for the checker.
func (b *box) history() history {
	return history{Cluster: b.cluster, Store: b.store, Connector: b.name, Vendor: b.vendor, Topics: b.topics, Sandbox: b.sandbox, Complete: true}
}

// clean asks the checker, which must have nothing to say.
func (b *box) clean() *verify.Report {
	b.t.Helper()
	return verifyClean(b.t, b.history())
}

// appliedTo counts the applied effects per object or reference that f names; "" is not counted.
func (b *box) appliedTo(f func(harness.Effect) string) map[string]int {
	b.t.Helper()
	n := map[string]int{}
	for _, e := range b.sandbox.Applied(b.t) {
		if k := f(e); k != "" {
			n[k]++
		}
	}
	return n
}

// copies reads a topic of the connector's from its start.
func (b *box) copies(topic string) []*kgo.Record {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), boxWait)
	defer cancel()
	ends, err := b.admin.ListEndOffsets(ctx, topic)
	if err := errors.Join(err, ends.Error()); err != nil {
		b.t.Fatalf("read topic %s: %v", topic, err)
	}
	r, err := kafka.NewReader(kafka.Config{Brokers: b.cluster.Brokers()})
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	var out []*kgo.Record
	ends.Each(func(o kadm.ListedOffset) {
		err := r.Scan(ctx, kafka.TP{Topic: topic, Partition: o.Partition}, 0, o.Offset, func(r *kafka.Record) error {
			k := &kgo.Record{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value}
			for _, h := range r.Headers {
				k.Headers = append(k.Headers, kgo.RecordHeader{Key: h.Key, Value: h.Value})
			}
			out = append(out, k)
			return nil
		})
		if err != nil {
			b.t.Fatalf("read topic %s: %v", topic, err)
		}
	})
	return out
}
