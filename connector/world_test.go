package connector_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"runtime/pprof"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sample"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/schema"
)

// A world is a broker, a vendor and a store around one connector, all in this process.
type world struct {
	t       testing.TB
	vendor  string
	brokers []string
	kc      kafka.Config
	set     *schema.Set
	decoder schema.Decoder
	topics  map[string]string
	sandbox *sandbox.Sandbox
	url     string
	dir     string
	store   *sqlite.Store
	profile *profile.Compiled
	tweak   func(*connector.Config)
	secret  func() string
	running *connector.Connector // the last one
}

func newWorld(t testing.TB, vendor string, switches map[string]string) *world {
	t.Helper()
	w := &world{t: t, vendor: vendor, dir: t.TempDir(), topics: map[string]string{}, secret: func() string { return "key" }}
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(4, "canonical.customer", "canonical.contract", "canonical.invoice"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	w.brokers = cluster.ListenAddrs()
	for _, e := range []string{"customer", "contract", "invoice"} {
		w.topics["canonical."+e] = e
	}
	w.kc = kafka.Config{Brokers: w.brokers, Group: "weir.v", Topics: []string{"canonical.contract", "canonical.customer", "canonical.invoice"}}
	if w.set, err = schema.Embedded(); err != nil {
		t.Fatal(err)
	}
	rules, err := schema.EmbeddedRules(w.set)
	if err != nil {
		t.Fatal(err)
	}
	w.decoder = schema.NewDecoder(w.set, nil, schema.DecoderOptions{Rules: rules})
	if w.sandbox, err = sandbox.New(vendor, sandbox.Options{LimitScale: 100_000, Switches: switches, Seed: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.sandbox.Close() })
	srv := httptest.NewServer(w.sandbox.Handler())
	t.Cleanup(srv.Close)
	w.url = srv.URL
	p, err := profile.Load(vendor)
	if err != nil {
		t.Fatal(err)
	}
	if w.profile, err = p.Compile(profile.Options{Connector: "v", Environment: "sandbox", BaseURL: w.url, LimitScale: 100_000, Schemas: w.set}); err != nil {
		t.Fatal(err)
	}
	admin, err := kafka.NewAdmin(w.kc)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.EnsureTopics(t.Context(), kafka.TopicPlan{Connector: "v", Sources: w.kc.Topics}); err != nil {
		t.Fatal(err)
	}
	return w
}

// open opens the store; the caller, or the next open, closes it.
func (w *world) open() *sqlite.Store {
	w.t.Helper()
	if w.store != nil {
		w.store.Close()
	}
	s, err := sqlite.Open(context.Background(), filepath.Join(w.dir, "weir.db"), sqlite.Options{Role: sqlite.Runner})
	if err != nil {
		w.t.Fatal(err)
	}
	w.store = s
	w.t.Cleanup(func() { s.Close() })
	return s
}

// start runs a connector; stop drains it and waits.
func (w *world) start() (c *connector.Connector, stop func() error) {
	w.t.Helper()
	if w.store == nil {
		w.open()
	}
	producer, err := kafka.NewProducer(w.kc)
	if err != nil {
		w.t.Fatal(err)
	}
	reader, err := kafka.NewReader(w.kc)
	if err != nil {
		w.t.Fatal(err)
	}
	secret := func(string) (string, error) { return w.secret(), nil }
	cfg := connector.Config{
		Name: "v", Instance: "test", Profile: w.profile, Decoder: w.decoder, Store: w.store, Producer: producer, Reader: reader,
		Sender: deliver.NewSender(deliver.SenderConfig{BaseURL: w.url, Connections: 256, Timeout: 5 * time.Second,
			Credential: deliver.NewCredential(w.profile, secret)}),
		Topics: w.topics, Start: connector.StartOptions{Policy: kafka.StartEarliest}, Log: slog.New(slog.NewTextHandler(testWriter{w.t}, &slog.HandlerOptions{Level: slog.LevelInfo})),
		SecretsPrint: w.secret, Drain: 5 * time.Second, CommitEvery: 50 * time.Millisecond,
		Recompile: func(text []byte) (*profile.Compiled, error) {
			return profile.CompileText(text, profile.Options{Connector: "v", Environment: "sandbox", BaseURL: w.url, LimitScale: 100_000, Schemas: w.set})
		},
	}
	if w.tweak != nil {
		w.tweak(&cfg)
	}
	c, err = connector.New(cfg, func(h kafka.Handler) (connector.Source, error) { return kafka.New(w.kc, h, cfg.Log) })
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() {
			cancel()
			select {
			case result = <-done:
			case <-time.After(30 * time.Second):
				result = errors.New("connector did not stop within 30 s")
			}
			producer.Close()
			reader.Close()
		})
		return result
	}
	w.t.Cleanup(func() { _ = stop() })
	w.running = c
	return c, stop
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	defer func() { _ = recover() }() // a line after the test's end is nobody's
	w.t.Log(string(p))
	return len(p), nil
}

// publish writes events in order, keyed.
func (w *world) publish(items ...sample.Item) {
	w.t.Helper()
	var outs []kafka.Out
	for _, it := range items {
		o := kafka.Out{Topic: "canonical." + it.Entity, Partition: -1, Key: []byte(it.Key)}
		if it.Event != nil {
			b, err := json.Marshal(it.Event)
			if err != nil {
				w.t.Fatal(err)
			}
			o.Value = w.encode(it.Entity, b)
		}
		for _, h := range it.Headers {
			o.Headers = append(o.Headers, schema.Header{Key: h.Key, Value: []byte(h.Value)})
		}
		outs = append(outs, o)
	}
	w.produce(outs...)
}

func (w *world) produce(outs ...kafka.Out) []kafka.Placed {
	w.t.Helper()
	p, err := kafka.NewProducer(w.kc)
	if err != nil {
		w.t.Fatal(err)
	}
	defer p.Close()
	placed, err := p.Produce(w.t.Context(), outs)
	if err != nil {
		w.t.Fatal(err)
	}
	return placed
}

func (w *world) encode(entity string, event []byte) []byte {
	w.t.Helper()
	dec := json.NewDecoder(bytesReader(event))
	dec.UseNumber()
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		w.t.Fatal(err)
	}
	b, err := w.set.Encode(entity, fields)
	if err != nil {
		w.t.Fatal(err)
	}
	return b
}

// settleAll waits until the group has committed everything.
func (w *world) settleAll(limit time.Duration) {
	w.t.Helper()
	admin, err := kafka.NewAdmin(w.kc)
	if err != nil {
		w.t.Fatal(err)
	}
	defer admin.Close()
	deadline := time.Now().Add(limit)
	for {
		lags, err := admin.GroupLag(w.t.Context(), w.kc.Group, w.kc.Topics...)
		left := int64(0)
		for _, l := range lags {
			left += l.Lag()
		}
		if err == nil && left == 0 && len(lags) > 0 {
			return
		}
		if time.Now().After(deadline) {
			var stacks bytes.Buffer
			_ = pprof.Lookup("goroutine").WriteTo(&stacks, 1)
			for _, l := range lags {
				if l.Lag() != 0 {
					w.t.Logf("%+v", l)
				}
			}
			if w.running != nil {
				w.t.Logf("%s\n%s", w.running.Picture(), stacks.String())
			}
			w.t.Fatalf("lag is still %d after %v (%v)", left, limit, err)
		}
		time.Sleep(20 * time.Millisecond) // another process's commits have no signal to wait for
	}
}

// verify asks the independent checker.
func (w *world) verify(complete bool) *verify.Report {
	w.t.Helper()
	entries, err := w.sandbox.Effects(0)
	if err != nil {
		w.t.Fatal(err)
	}
	var effects []verify.Effect
	for _, e := range entries {
		b, err := json.Marshal(e)
		if err != nil {
			w.t.Fatal(err)
		}
		var v verify.Effect
		if err := json.Unmarshal(b, &v); err != nil {
			w.t.Fatal(err)
		}
		effects = append(effects, v)
	}
	o := verify.Options{Connector: "v", Complete: complete, Classes: map[string]verify.Class{}, Alias: map[string]string{"put_customer": "put_thing", "put_contract": "put_thing"}}
	for _, r := range w.profile.Routes {
		o.Routes = append(o.Routes, verify.Route{Name: r.Name, Entity: r.Entity, Every: r.Semantics == profile.Every})
	}
	for name, op := range w.profile.Operations {
		o.Classes[name] = verify.Class(op.Class)
	}
	_, own := sandbox.Logged(w.vendor)
	for _, op := range own {
		o.Classes[op] = verify.ClassVendor
	}
	src := &source{w: w}
	rep, err := verify.Run(w.t.Context(), src, w.store, func(context.Context) ([]verify.Effect, error) { return effects, nil }, o)
	if err != nil {
		w.t.Fatal(err)
	}
	return rep
}

func (w *world) clean(complete bool) *verify.Report {
	w.t.Helper()
	rep := w.verify(complete)
	if len(rep.Findings) > 0 || rep.Lost+rep.Duplicated+rep.Reordered > 0 {
		b, _ := json.MarshalIndent(rep, "", " ")
		w.t.Errorf("the verdict is not clean: %s", b)
	}
	return rep
}

// source reads the world's broker for the checker.
type source struct{ w *world }

func (s *source) Partitions(ctx context.Context) ([]verify.Partition, error) {
	admin, err := kafka.NewAdmin(s.w.kc)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	infos, err := admin.Topics(ctx, s.w.kc.Topics...)
	if err != nil {
		return nil, err
	}
	lags, err := admin.GroupLag(ctx, s.w.kc.Group, s.w.kc.Topics...)
	if err != nil {
		return nil, err
	}
	var out []verify.Partition
	for tp, l := range lags {
		out = append(out, verify.Partition{Partition: checkpoint.Partition{Connector: "v", Topic: tp.Topic, ID: infos[tp.Topic].ID, Index: tp.Partition},
			Entity: s.w.topics[tp.Topic], Start: l.LogStart, End: l.End, Committed: l.Committed.Offset})
	}
	return out, nil
}

func (s *source) Records(ctx context.Context, p verify.Partition, f func(verify.Record) error) error {
	return s.read(ctx, p.Topic, p.Index, p.Start, p.End, func(r *kafka.Record) error {
		if r.Control {
			return f(verify.Record{Offset: r.Offset, Control: true})
		}
		v, err := verify.Decode(ctx, s.w.decoder, &r.Record)
		if err != nil {
			return err
		}
		return f(v)
	})
}

func (s *source) read(ctx context.Context, topic string, partition int32, from, to int64, f func(*kafka.Record) error) error {
	r, err := kafka.NewReader(s.w.kc)
	if err != nil {
		return err
	}
	defer r.Close()
	offs := make([]int64, 0, to-from)
	for o := from; o < to; o++ {
		offs = append(offs, o)
	}
	reads, err := r.ReadMany(ctx, kafka.TP{Topic: topic, Partition: partition}, offs)
	if err != nil {
		return err
	}
	for _, rd := range reads {
		if errors.Is(rd.Err, kafka.ErrGone) {
			continue
		}
		if rd.Err != nil {
			return rd.Err
		}
		if err := f(rd.Record); err != nil {
			return err
		}
	}
	return nil
}

func (s *source) Copies(ctx context.Context, topic string, f func(verify.Copy) error) error {
	admin, err := kafka.NewAdmin(s.w.kc)
	if err != nil {
		return err
	}
	defer admin.Close()
	infos, err := admin.Topics(ctx, topic)
	if err != nil || !infos[topic].Exists {
		return err
	}
	for i := range infos[topic].Partitions {
		tp := kafka.TP{Topic: topic, Partition: int32(i)}
		ends, err := admin.Ends(ctx, tp)
		if err != nil {
			return err
		}
		e := ends[tp]
		if err := s.read(ctx, topic, tp.Partition, e.LogStart, e.End, func(r *kafka.Record) error {
			return f(verify.Copy{Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: r.Headers})
		}); err != nil {
			return err
		}
	}
	return nil
}

func items(t testing.TB, o sample.Options) []sample.Item {
	t.Helper()
	g, err := sample.New(o)
	if err != nil {
		t.Fatal(err)
	}
	var out []sample.Item
	for it := range g.All() {
		out = append(out, it)
	}
	return out
}
