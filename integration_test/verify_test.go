package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/integration_test/harness"
	"github.com/weirsync/weir/schema"
)

// verifyMax bounds one run of the checker over what a test produced.
const verifyMax = time.Minute

// A history is what the independent checker is asked to judge. It reads Kafka with a client of the test's own, the
// store beside a running weir or after it, and the sandbox's effects log.
type history struct {
	Cluster   *harness.Cluster
	Store     string // file of the SQLite store
	Connector string
	Vendor    string // name of the profile and of the sandbox
	// Topics maps entities to topics where they are not canonical.<entity>.
	Topics map[string]string
	// Sandbox is asked for its effects; nil: nothing is said about effects.
	Sandbox *harness.Sandbox
	// Complete: every record up to the end must have its outcomes.
	Complete bool
}

// verifyConnector asks the independent checker about a connector that reads the canonical topics. A finding fails
// the test.
func verifyConnector(t testing.TB, cluster *harness.Cluster, store, connector, vendor string, sandbox *harness.Sandbox, complete bool) *verify.Report {
	t.Helper()
	return verifyClean(t, history{Cluster: cluster, Store: store, Connector: connector, Vendor: vendor, Sandbox: sandbox, Complete: complete})
}

// verifyHistory returns the checker's report, clean or not.
func verifyHistory(t testing.TB, v history) *verify.Report {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), verifyMax)
	defer cancel()
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := schema.EmbeddedRules(set)
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Load(v.Vendor)
	if err != nil {
		t.Fatal(err)
	}
	compiled, err := p.Compile(profile.Options{Connector: v.Connector, Environment: "sandbox", BaseURL: "http://127.0.0.1:1", Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	o := verify.Options{Connector: v.Connector, Complete: v.Complete, Classes: map[string]verify.Class{},
		Alias: map[string]string{"put_customer": "put_thing", "put_contract": "put_thing"}}
	src := &kafkaSource{connector: v.Connector, topics: map[string]string{}, client: v.Cluster.Client(t)}
	src.admin = kadm.NewClient(src.client)
	names := map[string]string{} // topic -> entity, for the decoder
	for _, r := range compiled.Routes {
		o.Routes = append(o.Routes, verify.Route{Name: r.Name, Entity: r.Entity, Every: r.Semantics == profile.Every})
		topic := v.Topics[r.Entity]
		if topic == "" {
			topic = "canonical." + r.Entity
		}
		src.topics[topic], names[topic] = r.Entity, r.Entity
	}
	for name, op := range compiled.Operations {
		o.Classes[name] = verify.Class(op.Class)
	}
	src.decoder = schema.NewDecoder(set, nil, schema.DecoderOptions{Rules: rules, Topics: names})
	src.open = opener(v.Cluster)
	store, err := sqlite.Open(ctx, v.Store, sqlite.Options{Role: sqlite.Reader})
	if err != nil {
		t.Fatalf("open the store for the checker: %v", err)
	}
	defer store.Close()
	var log verify.EffectsLog
	if v.Sandbox != nil {
		log = func(context.Context) ([]verify.Effect, error) { return convertEffects(v.Sandbox.Effects(t)) }
	}
	rep, err := verify.Run(ctx, src, store, log, o)
	if err != nil {
		t.Fatalf("run the checker: %v", err)
	}
	return rep
}

// verifyClean is verifyHistory for one without any finding.
func verifyClean(t testing.TB, v history) *verify.Report {
	t.Helper()
	rep := verifyHistory(t, v)
	if !rep.Clean() {
		b, err := json.MarshalIndent(rep, "", " ")
		if err != nil {
			t.Fatal(err)
		}
		t.Errorf("the checker's verdict is not clean: %s", b)
	}
	return rep
}

// convertEffects brings the log to the checker's form by way of JSON, which is what the sandbox promises.
func convertEffects(es []harness.Effect) ([]verify.Effect, error) {
	b, err := json.Marshal(es)
	if err != nil {
		return nil, err
	}
	var out []verify.Effect
	return out, json.Unmarshal(b, &out)
}

// kafkaSource reads topics for the checker, each partition with a client of its own.
type kafkaSource struct {
	connector string
	topics    map[string]string // topic -> entity
	client    *kgo.Client
	admin     *kadm.Client
	decoder   schema.Decoder
	open      func(topic string, partition int32, from int64) (*kgo.Client, error)
	ids       map[string]kadm.TopicID
}

func (s *kafkaSource) Partitions(ctx context.Context) ([]verify.Partition, error) {
	var names []string
	for t := range s.topics {
		names = append(names, t)
	}
	topics, err := s.admin.ListTopics(ctx, names...)
	if err != nil {
		return nil, err
	}
	starts, err := s.admin.ListStartOffsets(ctx, names...)
	if err := errors.Join(err, starts.Error()); err != nil {
		return nil, err
	}
	ends, err := s.admin.ListCommittedOffsets(ctx, names...) // the last stable offsets
	if err := errors.Join(err, ends.Error()); err != nil {
		return nil, err
	}
	committed, err := s.admin.FetchOffsets(ctx, "weir."+s.connector)
	if err != nil && !errors.Is(err, kerr.GroupIDNotFound) {
		return nil, err
	}
	s.ids = map[string]kadm.TopicID{}
	var out []verify.Partition
	for _, d := range topics.Sorted() {
		if d.Err != nil {
			return nil, fmt.Errorf("topic %s: %w", d.Topic, d.Err)
		}
		s.ids[d.Topic] = d.ID
		for _, p := range d.Partitions.Sorted() {
			start, _ := starts.Lookup(d.Topic, p.Partition)
			end, _ := ends.Lookup(d.Topic, p.Partition)
			v := verify.Partition{Partition: checkpoint.Partition{Connector: s.connector, Topic: d.Topic, ID: checkpoint.TopicID(d.ID), Index: p.Partition},
				Entity: s.topics[d.Topic], Start: start.Offset, End: end.Offset, Committed: -1}
			if c, ok := committed.Lookup(d.Topic, p.Partition); ok && c.Err == nil && c.At >= 0 {
				v.Committed = c.At
			}
			out = append(out, v)
		}
	}
	return out, nil
}

func (s *kafkaSource) Records(ctx context.Context, p verify.Partition, f func(verify.Record) error) error {
	return s.read(ctx, p.Topic, p.Index, p.Start, p.End, func(r *kgo.Record) error {
		if r.Attrs.IsControl() {
			return f(verify.Record{Offset: r.Offset, Control: true})
		}
		v, err := verify.Decode(ctx, s.decoder, &schema.Record{Topic: r.Topic, TopicID: [16]byte(s.ids[r.Topic]), Partition: r.Partition, Offset: r.Offset,
			Timestamp: r.Timestamp, Key: r.Key, Value: r.Value, Headers: headersOf(r)})
		if err != nil {
			return err
		}
		return f(v)
	})
}

func (s *kafkaSource) Copies(ctx context.Context, topic string, f func(verify.Copy) error) error {
	return s.each(ctx, topic, func(r *kgo.Record) error {
		return f(verify.Copy{Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: headersOf(r)})
	})
}

// each gives all records of a topic, none if it does not exist.
func (s *kafkaSource) each(ctx context.Context, topic string, f func(*kgo.Record) error) error {
	topics, err := s.admin.ListTopics(ctx, topic)
	if err != nil {
		return err
	}
	if d, ok := topics[topic]; !ok || errors.Is(d.Err, kerr.UnknownTopicOrPartition) {
		return nil
	}
	starts, err := s.admin.ListStartOffsets(ctx, topic)
	if err := errors.Join(err, starts.Error()); err != nil {
		return err
	}
	ends, err := s.admin.ListEndOffsets(ctx, topic)
	if err := errors.Join(err, ends.Error()); err != nil {
		return err
	}
	for _, p := range topics[topic].Partitions.Sorted() {
		start, _ := starts.Lookup(topic, p.Partition)
		end, _ := ends.Lookup(topic, p.Partition)
		if err := s.read(ctx, topic, p.Partition, start.Offset, end.Offset, f); err != nil {
			return err
		}
	}
	return nil
}

// opener makes clients that read one partition of the cluster, committed records and markers.
func opener(c *harness.Cluster) func(topic string, partition int32, from int64) (*kgo.Client, error) {
	return func(topic string, partition int32, from int64) (*kgo.Client, error) {
		return kgo.NewClient(kgo.SeedBrokers(c.Brokers()...), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords(),
			kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {partition: kgo.NewOffset().At(from)}}), kgo.FetchMaxWait(100*time.Millisecond))
	}
}

// read gives the records of [from, to) of a partition of a topic that is not compacted: the one before to exists,
// as a record, as a marker, or as an aborted one, whose marker then follows it.
func (s *kafkaSource) read(ctx context.Context, topic string, partition int32, from, to int64, f func(*kgo.Record) error) error {
	if from >= to {
		return nil
	}
	cl, err := s.open(topic, partition, from)
	if err != nil {
		return err
	}
	defer cl.Close()
	for {
		fs := cl.PollFetches(ctx)
		if err := fs.Err(); err != nil {
			return fmt.Errorf("read %s/%d from %d to %d: %w", topic, partition, from, to, err)
		}
		for _, r := range fs.Records() {
			if r.Offset < to {
				if err := f(r); err != nil {
					return err
				}
			}
			if r.Offset >= to-1 {
				return nil
			}
		}
	}
}

func headersOf(r *kgo.Record) []schema.Header {
	var hs []schema.Header
	for _, h := range r.Headers {
		hs = append(hs, schema.Header{Key: h.Key, Value: h.Value})
	}
	return hs
}
