package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"go.uber.org/goleak"

	"github.com/weirsync/weir/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test: it is only reached when the test fails.
const patience = 30 * time.Second

// A broker is the one under test: a fake one of its own for each test, or the real one at WEIR_TEST_KAFKA.
type broker struct {
	t     *testing.T
	addrs []string
	fake  *kfake.Cluster // nil: real
	cl    *kgo.Client
	adm   *kadm.Client
	id    string // makes names unique on a shared broker
}

func testBroker(t *testing.T, opts ...kfake.Opt) *broker {
	t.Helper()
	b := &broker{t: t, id: strings.ReplaceAll(uuid.NewString()[:8], "-", "")}
	if addr := os.Getenv("WEIR_TEST_KAFKA"); addr != "" {
		b.addrs = strings.Split(addr, ",")
	} else {
		fake, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
		if err != nil {
			t.Fatalf("start fake broker: %v", err)
		}
		t.Cleanup(fake.Close)
		b.fake, b.addrs = fake, fake.ListenAddrs()
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	b.cl, b.adm = cl, kadm.NewClient(cl)
	return b
}

// onlyFake names what a real broker cannot be made to do from outside.
func (b *broker) onlyFake(what string) {
	b.t.Helper()
	if b.fake == nil {
		b.t.Skipf("needs the fake broker: %s", what)
	}
}

func (b *broker) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.t.Cleanup(cancel)
	return ctx
}

func (b *broker) config(topics ...string) Config {
	return Config{
		Brokers: b.addrs, Group: "weir.test-" + b.id, Topics: topics,
		SessionTimeout: 6 * time.Second, RebalanceTimeout: 10 * time.Second, CheckInterval: 200 * time.Millisecond,
		RequestTimeout: 5 * time.Second, FetchWait: 100 * time.Millisecond,
	}
}

func (b *broker) topic(name string, partitions int32, configs ...string) string {
	b.t.Helper()
	topic := name + "-" + b.id
	m := map[string]*string{}
	for i := 0; i < len(configs); i += 2 {
		m[configs[i]] = &configs[i+1]
	}
	if _, err := b.adm.CreateTopic(b.ctx(), partitions, 1, m, topic); err != nil {
		b.t.Fatalf("create topic %s: %v", topic, err)
	}
	b.visible(topic)
	if b.fake == nil {
		b.t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			_, _ = b.adm.DeleteTopic(ctx, topic) // a test may have deleted it
		})
	}
	return topic
}

// visible waits until the broker tells of a new topic: a real one answers before it does.
func (b *broker) visible(topic string) {
	b.t.Helper()
	for ctx := b.ctx(); ; {
		m, err := b.adm.Metadata(ctx, topic)
		if err != nil {
			b.t.Fatalf("wait for topic %s: %v", topic, err)
		}
		if d := m.Topics[topic]; d.Err == nil && len(d.Partitions) > 0 && d.Partitions[0].Leader >= 0 {
			return
		}
	}
}

// recreate deletes a topic and creates it again under another id.
func (b *broker) recreate(topic string, partitions int32) {
	b.t.Helper()
	if _, err := b.adm.DeleteTopic(b.ctx(), topic); err != nil {
		b.t.Fatalf("delete topic %s: %v", topic, err)
	}
	for ctx := b.ctx(); ; {
		_, err := b.adm.CreateTopic(ctx, partitions, 1, nil, topic)
		if err == nil {
			b.visible(topic)
			return
		}
		if ctx.Err() != nil {
			b.t.Fatalf("create topic %s again: %v", topic, err)
		}
	}
}

// produce writes n records with keys and values "from+i" to a partition.
func (b *broker) produce(topic string, partition int32, from, n int) {
	b.t.Helper()
	var rs []*kgo.Record
	for i := range n {
		s := fmt.Sprint(from + i)
		rs = append(rs, &kgo.Record{Topic: topic, Partition: partition, Key: []byte(s), Value: []byte(s)})
	}
	if err := b.cl.ProduceSync(b.ctx(), rs...).FirstErr(); err != nil {
		b.t.Fatalf("produce to %s/%d: %v", topic, partition, err)
	}
}

// produceTxn writes n records in one transaction.
func (b *broker) produceTxn(topic string, partition int32, n int, commit bool) {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.TransactionalID("txn-"+uuid.NewString()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	if err != nil {
		b.t.Fatal(err)
	}
	defer cl.Close()
	if err := cl.BeginTransaction(); err != nil {
		b.t.Fatal(err)
	}
	for range n {
		if err := cl.ProduceSync(b.ctx(), &kgo.Record{Topic: topic, Partition: partition, Value: []byte("txn")}).FirstErr(); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := cl.EndTransaction(b.ctx(), kgo.TransactionEndTry(commit)); err != nil {
		b.t.Fatal(err)
	}
	// A real broker answers before it has written the marker.
	for ctx := b.ctx(); ; {
		stable, err := b.adm.ListCommittedOffsets(ctx, topic)
		if err != nil {
			b.t.Fatal(err)
		}
		end, err := b.adm.ListEndOffsets(ctx, topic)
		if err != nil {
			b.t.Fatal(err)
		}
		s, _ := stable.Lookup(topic, partition)
		if e, _ := end.Lookup(topic, partition); s.Offset == e.Offset {
			return
		}
	}
}

func (b *broker) deleteRecords(topic string, partition int32, below int64) {
	b.t.Helper()
	os := make(kadm.Offsets)
	os.AddOffset(topic, partition, below, -1)
	rs, err := b.adm.DeleteRecords(b.ctx(), os)
	if err == nil {
		err = rs.Error()
	}
	if err != nil {
		b.t.Fatalf("delete records of %s/%d below %d: %v", topic, partition, below, err)
	}
}

// commit sets the group's offset as an operator's tool does, while nobody is in the group.
func (b *broker) commit(group, topic string, partition int32, at int64, metadata string) {
	b.t.Helper()
	os := make(kadm.Offsets)
	os.Add(kadm.Offset{Topic: topic, Partition: partition, At: at, LeaderEpoch: -1, Metadata: metadata})
	if err := b.adm.CommitAllOffsets(b.ctx(), group, os); err != nil {
		b.t.Fatalf("commit %s/%d: %v", topic, partition, err)
	}
}

func (b *broker) committed(group, topic string, partition int32) kadm.Offset {
	b.t.Helper()
	rs, err := b.adm.FetchOffsetsForTopics(b.ctx(), group, topic)
	if err != nil {
		b.t.Fatalf("fetch offsets of %s: %v", group, err)
	}
	o, _ := rs.Lookup(topic, partition)
	return o.Offset
}

// A recorder is a handler that remembers everything. Its hooks, if set before the consumer runs, decide.
type recorder struct {
	t    *testing.T
	name string
	c    *Consumer

	onAssign  func(context.Context, []Assignment) (map[TP]Start, error)
	onRevoke  func(context.Context, []TP)
	onLost    func([]TP)
	onRecords func([]Batch)

	mu       sync.Mutex
	signal   chan struct{} // closed and replaced at every change
	busy     bool          // a method runs
	assigned []Assignment
	records  map[TP][]*Record
	revoked  []TP
	lost     []TP
	changed  []error
	troubles map[TP][]error
	owned    map[TP]bool
	stray    []string // what broke the contract
}

func newRecorder(t *testing.T, name string) *recorder {
	return &recorder{t: t, name: name, signal: make(chan struct{}), records: map[TP][]*Record{}, troubles: map[TP][]error{}, owned: map[TP]bool{}}
}

// enter checks that methods come one at a time.
func (r *recorder) enter(what string) func() {
	r.mu.Lock()
	if r.busy {
		r.stray = append(r.stray, what+" while another method runs")
	}
	r.busy = true
	r.mu.Unlock()
	return func() {
		r.mu.Lock()
		r.busy = false
		close(r.signal)
		r.signal = make(chan struct{})
		r.mu.Unlock()
	}
}

func (r *recorder) Assign(ctx context.Context, as []Assignment) (map[TP]Start, error) {
	defer r.enter("Assign")()
	r.mu.Lock()
	r.assigned = append(r.assigned, as...)
	for _, a := range as {
		r.owned[a.TP] = true
	}
	r.mu.Unlock()
	if r.onAssign != nil {
		return r.onAssign(ctx, as)
	}
	starts := map[TP]Start{}
	for _, a := range as {
		starts[a.TP] = Start{Offset: a.LogStart}
		if a.Committed.OK {
			starts[a.TP] = Start{Offset: a.Committed.Offset}
		}
	}
	return starts, nil
}

func (r *recorder) Records(bs []Batch) {
	defer r.enter("Records")()
	r.mu.Lock()
	for _, b := range bs {
		if !r.owned[b.TP] {
			r.stray = append(r.stray, fmt.Sprintf("records of %v, which is not owned", b.TP))
		}
		r.records[b.TP] = append(r.records[b.TP], b.Records...)
	}
	r.mu.Unlock()
	if r.onRecords != nil {
		r.onRecords(bs)
	}
}

func (r *recorder) Revoke(ctx context.Context, tps []TP) {
	defer r.enter("Revoke")()
	if r.onRevoke != nil {
		r.onRevoke(ctx, tps)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.revoked = append(r.revoked, tps...)
	for _, tp := range tps {
		if !r.owned[tp] {
			r.stray = append(r.stray, fmt.Sprintf("revoke of %v, which is not owned", tp))
		}
		delete(r.owned, tp)
	}
}

func (r *recorder) Lost(tps []TP) {
	defer r.enter("Lost")()
	if r.onLost != nil {
		r.onLost(tps)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = append(r.lost, tps...)
	for _, tp := range tps {
		delete(r.owned, tp)
	}
}

func (r *recorder) Changed(err error) {
	defer r.enter("Changed")()
	r.mu.Lock()
	r.changed = append(r.changed, err)
	r.mu.Unlock()
}

func (r *recorder) Trouble(tp TP, err error) {
	defer r.enter("Trouble")()
	r.mu.Lock()
	r.troubles[tp] = append(r.troubles[tp], err)
	r.mu.Unlock()
}

// wait blocks until ok, which reads the recorder's fields, says yes.
func (r *recorder) wait(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		yes, signal := ok(), r.signal
		r.mu.Unlock()
		if yes {
			return
		}
		select {
		case <-signal:
		case <-deadline:
			r.mu.Lock()
			defer r.mu.Unlock()
			r.t.Fatalf("%s: waited in vain for %s; assigned %v, revoked %v, lost %v, changed %v, troubles %v, records %v",
				r.name, what, r.assigned, r.revoked, r.lost, r.changed, r.troubles, counts(r.records))
		}
	}
}

func counts(m map[TP][]*Record) map[TP]int {
	n := map[TP]int{}
	for tp, rs := range m {
		n[tp] = len(rs)
	}
	return n
}

// offsets lists the offsets that came for a partition.
func (r *recorder) offsets(tp TP) []int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return offsetsOf(r.records[tp])
}

func offsetsOf(rs []*Record) []int64 {
	var os []int64
	for _, rec := range rs {
		os = append(os, rec.Offset)
	}
	return os
}

func (r *recorder) waitOffset(tp TP, last int64) {
	r.t.Helper()
	r.wait(fmt.Sprintf("offset %d of %v", last, tp), func() bool {
		rs := r.records[tp]
		return len(rs) > 0 && rs[len(rs)-1].Offset >= last
	})
}

// run starts a consumer; the returned stop ends it and checks the contract. It is called at the test's end in any case.
func (r *recorder) run(cfg Config) (stop func()) {
	r.t.Helper()
	c, err := New(cfg, r, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	r.c = c
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				r.t.Errorf("%s: Run: %v", r.name, err)
			}
		case <-time.After(patience):
			panic(r.name + ": Run does not end") // with all goroutines
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, s := range r.stray {
			r.t.Errorf("%s: %s", r.name, s)
		}
		if len(r.owned) > 0 {
			r.t.Errorf("%s: after Run %v were neither revoked nor lost", r.name, r.owned)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

func seq(from, to int64) []int64 {
	var s []int64
	for ; from < to; from++ {
		s = append(s, from)
	}
	return s
}

func wantOffsets(t *testing.T, what string, got, want []int64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: offsets %v, want %v", what, got, want)
	}
}

// A line is a network that can be cut: it dials, and cut closes what it dialled and refuses more.
type line struct {
	mu    sync.Mutex
	down  bool
	conns map[net.Conn]bool
}

func (l *line) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.down {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.New("the line is cut")}
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	if l.conns == nil {
		l.conns = map[net.Conn]bool{}
	}
	l.conns[conn] = true
	return conn, nil
}

func (l *line) cut(down bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
	if down {
		for conn := range l.conns {
			conn.Close()
		}
		clear(l.conns)
	}
}

// openTxn begins a transaction with one record and leaves it open; the returned function aborts it.
func (b *broker) openTxn(topic string) func() {
	b.t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(b.addrs...), kgo.TransactionalID("txn-"+uuid.NewString()),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.DisableClientMetrics())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := cl.BeginTransaction(); err != nil {
		b.t.Fatal(err)
	}
	if err := cl.ProduceSync(b.ctx(), &kgo.Record{Topic: topic, Value: []byte("open")}).FirstErr(); err != nil {
		b.t.Fatal(err)
	}
	return func() {
		if err := cl.EndTransaction(b.ctx(), kgo.TryAbort); err != nil {
			b.t.Error(err)
		}
		cl.Close()
	}
}

func headers(kv ...string) []schema.Header {
	var hs []schema.Header
	for i := 0; i < len(kv); i += 2 {
		hs = append(hs, schema.Header{Key: kv[i], Value: []byte(kv[i+1])})
	}
	return hs
}
