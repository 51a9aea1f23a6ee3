package kafka

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func (b *broker) producer(cfg Config) *Producer {
	b.t.Helper()
	p, err := NewProducer(cfg)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(p.Close)
	return p
}

func (b *broker) reader() *Reader {
	b.t.Helper()
	r, err := NewReader(b.config())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(r.Close)
	return r
}

func (b *broker) admin() *Admin {
	b.t.Helper()
	a, err := NewAdmin(b.config())
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(a.Close)
	return a
}

func TestProduceToTheNamedPartitionOrByKey(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("parked", 7)
	p := b.producer(b.config())
	var outs []Out
	for i := range int32(7) {
		outs = append(outs, Out{Topic: topic, Partition: i, Key: []byte("same key")})
	}
	// Kafka's own test vector: murmur2("21") = -973932308; without its sign bit 1173551340, modulo 7 = 5.
	outs = append(outs, Out{Topic: topic, Partition: -1, Key: []byte("21")}, Out{Topic: topic, Partition: -1, Value: []byte("no key")})
	placed, err := p.Produce(b.ctx(), outs)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(7) {
		if placed[i].TP != (TP{topic, i}) || placed[i].Offset != 0 {
			t.Errorf("record for partition %d: %+v", i, placed[i])
		}
	}
	if want := int32(1173551340 % 7); placed[7].Partition != want {
		t.Errorf("key 21 went to partition %d, want %d", placed[7].Partition, want)
	}
	if _, err := b.reader().ReadAt(b.ctx(), topic, placed[8].Partition, placed[8].Offset); err != nil {
		t.Errorf("record without key: %v", err)
	}
	if placed, err := p.Produce(b.ctx(), nil); err != nil || len(placed) != 0 {
		t.Errorf("Produce of nothing: %v, %v", placed, err)
	}
	if err := p.Flush(b.ctx()); err != nil {
		t.Errorf("Flush: %v", err)
	}
}

// One bad record does not fail the others, and each says what became of it.
func TestProduceErrorsArePerRecord(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("parked", 2)
	cfg := b.config()
	cfg.BatchBytesMax, cfg.TopicBatchBytesMax = 10_000, map[string]int32{topic: 2_000}
	p := b.producer(cfg)
	placed, err := p.Produce(b.ctx(), []Out{
		{Topic: topic, Partition: 0, Value: []byte("a")},
		{Topic: topic, Partition: 0, Value: make([]byte, 5_000)},
		{Topic: topic, Partition: 9, Value: []byte("b")},
		{Topic: "missing-" + b.id, Partition: 0, Value: []byte("c")},
		{Topic: topic, Partition: 1, Value: []byte("d")},
	})
	if err == nil || !errors.Is(err, kerr.MessageTooLarge) {
		t.Errorf("Produce: %v, want the errors of its records", err)
	}
	for i, bad := range []bool{false, true, true, true, false} {
		if (placed[i].Err != nil) != bad {
			t.Errorf("record %d: %+v, want an error: %v", i, placed[i], bad)
		}
	}
	if !strings.Contains(placed[1].Err.Error(), "max.message.bytes") || KindOf(placed[1].Err) != KindConfig {
		t.Errorf("too large: %v", placed[1].Err)
	}
	if !strings.Contains(placed[3].Err.Error(), "create it") {
		t.Errorf("no topic: %v", placed[3].Err)
	}
}

// The broker is away: Produce gives up at its time, and the record is written once when the broker is back.
func TestProduceThroughAnOutage(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("parked", 1)
	var l line
	cfg := b.config()
	cfg.Dial, cfg.ProduceTimeout = l.dial, time.Second
	p := b.producer(cfg)
	if _, err := p.Produce(b.ctx(), []Out{{Topic: topic, Value: []byte("before")}}); err != nil {
		t.Fatal(err)
	}
	l.cut(true)
	begun := time.Now()
	_, err := p.Produce(b.ctx(), []Out{{Topic: topic, Value: []byte("during")}})
	if err == nil || KindOf(err) != KindEnvironment {
		t.Errorf("Produce without a broker: %v, want the environment", err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("Produce without a broker took %v", took)
	}
	l.cut(false)
	if _, err := p.Produce(b.ctx(), []Out{{Topic: topic, Value: []byte("after")}}); err != nil {
		t.Fatalf("Produce after the outage: %v", err)
	}
	rs, err := b.reader().ReadMany(b.ctx(), TP{topic, 0}, []int64{0, 1, 2})
	if err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, r := range rs {
		if r.Err == nil {
			count[string(r.Record.Value)]++
		}
	}
	if count["before"] != 1 || count["after"] != 1 || count["during"] > 1 {
		t.Errorf("written: %v, want before and after once and during at most once", count)
	}
}

// A lost answer is repeated under the same sequence number: the broker keeps one.
func TestProduceIsIdempotent(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	b.onlyFake("an answer that is lost")
	topic := b.topic("parked", 1)
	p := b.producer(b.config())
	fault := b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Err: kerr.NotEnoughReplicasAfterAppend, Count: 2})
	placed, err := p.Produce(b.ctx(), []Out{{Topic: topic, Value: []byte("once")}})
	if err != nil || placed[0].Offset != 0 || fault.Hits() != 2 {
		t.Fatalf("Produce: %+v, %v after %d lost answers", placed, err, fault.Hits())
	}
	ends, err := b.admin().Ends(b.ctx(), TP{topic, 0})
	if err != nil || ends[TP{topic, 0}].End != 1 {
		t.Errorf("the log ends at %+v, %v, want one record", ends, err)
	}
}

// An old timestamp is no reason to be late (a copy keeps its original's).
func TestProduceOldTimestamp(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("parked", 1)
	at := time.UnixMilli(1_000_000_000_000)
	placed, err := b.producer(b.config()).Produce(b.ctx(), []Out{{Topic: topic, Value: []byte("old"), Timestamp: at}})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := b.reader().ReadAt(b.ctx(), topic, 0, placed[0].Offset)
	if err != nil || !rec.Timestamp.Equal(at) {
		t.Errorf("ReadAt: %+v, %v, want timestamp %v", rec, err, at)
	}
}

func TestReader(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	tp := TP{topic, 0}
	b.produce(topic, 0, 0, 6)        // 0 to 5
	b.produceTxn(topic, 0, 2, false) // 6, 7 aborted, marker 8
	b.produce(topic, 0, 9, 3)        // 9 to 11
	b.deleteRecords(topic, 0, 2)
	r := b.reader()
	offsets := []int64{11, 0, 3, 6, 8, 1, 12, 3, 7, 9, 500, -4}
	reads, err := r.ReadMany(b.ctx(), tp, offsets)
	if err != nil {
		t.Fatal(err)
	}
	want := map[int64]error{0: ErrGone, 1: ErrGone, 6: ErrGone, 7: ErrGone, 12: ErrNotYet, 500: ErrNotYet, -4: ErrGone}
	for i, rd := range reads {
		if rd.Offset != offsets[i] || rd.TP != tp {
			t.Errorf("answer %d is for %v/%d, want %d", i, rd.TP, rd.Offset, offsets[i])
		}
		if w := want[rd.Offset]; w != nil {
			if !errors.Is(rd.Err, w) || rd.Record != nil {
				t.Errorf("offset %d: %v, want %v", rd.Offset, rd.Err, w)
			}
			continue
		}
		switch {
		case rd.Err != nil || rd.Record.Offset != rd.Offset:
			t.Errorf("offset %d: %+v, %v", rd.Offset, rd.Record, rd.Err)
		case rd.Record.Control != (rd.Offset == 8):
			t.Errorf("offset %d: Control %v", rd.Offset, rd.Record.Control)
		case rd.Offset != 8 && string(rd.Record.Value) != fmt.Sprint(rd.Offset):
			t.Errorf("offset %d: value %q", rd.Offset, rd.Record.Value)
		}
	}
	for _, c := range []TP{{topic, 7}, {"missing-" + b.id, 0}} {
		if _, err := r.ReadAt(b.ctx(), c.Topic, c.Partition, 0); !errors.Is(err, ErrNoTopic) {
			t.Errorf("ReadAt in %v: %v, want ErrNoTopic", c, err)
		}
	}
	if _, err := r.ReadAt(b.ctx(), topic, 1, 0); !errors.Is(err, ErrNotYet) {
		t.Errorf("ReadAt in an empty partition: %v, want ErrNotYet", err)
	}
	var scanned []int64
	scan := func(from, to int64) error {
		scanned = nil
		return r.Scan(b.ctx(), tp, from, to, func(rec *Record) error {
			if rec.Control != (rec.Offset == 8) || !rec.Control && string(rec.Value) != fmt.Sprint(rec.Offset) {
				t.Errorf("scanned offset %d: control %v, value %q", rec.Offset, rec.Control, rec.Value)
			}
			scanned = append(scanned, rec.Offset)
			return nil
		})
	}
	for _, c := range []struct {
		from, to int64
		want     []int64
	}{{2, 12, []int64{2, 3, 4, 5, 8, 9, 10, 11}}, {3, 5, []int64{3, 4}}, {6, 8, nil}, {7, 7, nil}} {
		if err := scan(c.from, c.to); err != nil || !slices.Equal(scanned, c.want) {
			t.Errorf("Scan from %d to %d: %d, %v; want %d", c.from, c.to, scanned, err, c.want)
		}
	}
	if err := scan(0, 12); !errors.Is(err, ErrGone) {
		t.Errorf("Scan from below the log start: %v, want ErrGone", err)
	}
	if err := scan(10, 13); !errors.Is(err, ErrNotYet) {
		t.Errorf("Scan beyond the end: %v, want ErrNotYet", err)
	}
	stop := errors.New("stop")
	if err := r.Scan(b.ctx(), tp, 2, 12, func(*Record) error { return stop }); err != stop {
		t.Errorf("Scan with a function that fails: %v, want its error as it is", err)
	}
	open := b.openTxn(topic) // at 12
	defer open()
	if _, err := r.ReadAt(b.ctx(), topic, 0, 12); !errors.Is(err, ErrNotYet) {
		t.Errorf("ReadAt of an open transaction's record: %v, want ErrNotYet", err)
	}
}

// A record larger than a fetch comes whole.
func TestReaderLargeRecord(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1, "max.message.bytes", "4000000")
	cfg := b.config()
	cfg.BatchBytesMax = 3_900_000
	value := bytes.Repeat([]byte{1, 2, 3, 4, 5}, 600_000)
	if _, err := rand.Read(value); err != nil {
		t.Fatal(err)
	}
	if _, err := b.producer(cfg).Produce(b.ctx(), []Out{{Topic: topic, Value: value}, {Topic: topic, Value: []byte("small")}}); err != nil {
		t.Fatal(err)
	}
	reads, err := b.reader().ReadMany(b.ctx(), TP{topic, 0}, []int64{0, 1})
	if err != nil || reads[0].Err != nil || reads[1].Err != nil {
		t.Fatalf("ReadMany: %v, %v, %v", err, reads[0].Err, reads[1].Err)
	}
	if !bytes.Equal(reads[0].Record.Value, value) || string(reads[1].Record.Value) != "small" {
		t.Errorf("values of %d and %d bytes, want %d and 5", len(reads[0].Record.Value), len(reads[1].Record.Value), len(value))
	}
}

// Holes of compaction are ErrGone, not an endless wait.
func TestReaderCompacted(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	b.onlyFake("compaction at a known moment")
	topic := b.topic("canonical", 1, "cleanup.policy", "compact")
	for i := range 5 {
		r := &kgo.Record{Topic: topic, Key: []byte("k"), Value: []byte(fmt.Sprint(i))}
		if i == 0 {
			r.Key = []byte("stays")
		}
		if err := b.cl.ProduceSync(b.ctx(), r).FirstErr(); err != nil {
			t.Fatal(err)
		}
	}
	b.fake.Compact()
	reads, err := b.reader().ReadMany(b.ctx(), TP{topic, 0}, []int64{1, 2, 4})
	if err != nil {
		t.Fatal(err)
	}
	var left []int64
	if err := b.reader().Scan(b.ctx(), TP{topic, 0}, 0, 5, func(rec *Record) error { left = append(left, rec.Offset); return nil }); err != nil || !slices.Equal(left, []int64{0, 3, 4}) {
		t.Errorf("Scan over what was compacted: offsets %d, %v; want 0, and 3 and 4 of the newest segment", left, err)
	}
	if !errors.Is(reads[0].Err, ErrGone) || !errors.Is(reads[1].Err, ErrGone) || reads[2].Err != nil {
		t.Errorf("after compaction: %v, %v, %v, want gone, gone and a record", reads[0].Err, reads[1].Err, reads[2].Err)
	}
}

func TestEnsureAndCheckTopics(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	source := b.topic("canonical.customer", 4, "max.message.bytes", "2000000")
	other := b.topic("canonical.invoice", 2, "cleanup.policy", "compact")
	a := b.admin()
	connector := "pc-" + b.id
	sources := []string{source, other}
	codes := func(connector string, sources ...string) (out []string) {
		t.Helper()
		fs, err := a.CheckTopics(b.ctx(), connector, sources)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range fs {
			out = append(out, fmt.Sprintf("%s %s %v", strings.ReplaceAll(f.Topic, "-"+b.id, ""), f.Code, f.Refuse))
		}
		return out
	}
	want := []string{"canonical.invoice source_compacted false", "weir.pc.parked topic_missing false", "weir.pc.dead topic_missing false"}
	if got := codes(connector, sources...); !slices.Equal(got, want) {
		t.Errorf("before: %q, want %q", got, want)
	}
	plan := TopicPlan{Connector: connector, Sources: sources, Replication: 3}
	es, err := a.EnsureTopics(b.ctx(), plan)
	if err != nil || len(es) != 2 || !es[0].Created || !es[1].Created {
		t.Fatalf("EnsureTopics: %+v, %v", es, err)
	}
	infos, err := a.Topics(b.ctx(), ParkedTopic(connector), DeadTopic(connector), "missing-"+b.id)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{ParkedTopic(connector), DeadTopic(connector)} {
		in := infos[n]
		if !in.Exists || in.Partitions != 4 || in.CleanupPolicy != "delete" || in.RetentionMs != -1 || in.MessageBytesMax != 2_065_536 || in.ID == [16]byte{} {
			t.Errorf("%s: %+v", n, in)
		}
	}
	if infos["missing-"+b.id].Exists {
		t.Error("a topic that is not there exists")
	}
	if got := codes(connector, sources...); !slices.Equal(got, want[:1]) {
		t.Errorf("after: %q, want %q", got, want[:1])
	}
	if es, err = a.EnsureTopics(b.ctx(), plan); err != nil || es[0].Created || es[0].Grown || es[0].Raised {
		t.Errorf("EnsureTopics again: %+v, %v, want nothing done", es, err)
	}

	// The sources grow: so do ours.
	if rs, err := b.adm.UpdatePartitions(b.ctx(), 6, source); err != nil || rs.Error() != nil {
		t.Fatal(err, rs.Error())
	}
	larger := b.topic("canonical.contract", 1, "max.message.bytes", "3000000")
	plan.Sources = append(plan.Sources, larger)
	for ctx := b.ctx(); ; {
		if es, err = a.EnsureTopics(ctx, plan); err != nil {
			t.Fatal(err)
		}
		if es[0].Partitions == 6 { // the broker's metadata may lag
			break
		}
	}
	if es[0].MessageBytesMax != 3_065_536 {
		t.Errorf("EnsureTopics after growth: %+v", es)
	}
	for ctx := b.ctx(); ; {
		infos, err = a.Topics(ctx, ParkedTopic(connector))
		if err != nil {
			t.Fatal(err)
		}
		if in := infos[ParkedTopic(connector)]; in.Partitions == 6 && in.MessageBytesMax == 3_065_536 {
			break
		}
	}

	// A parked topic that can expire, made by somebody else.
	bad := "bad-" + b.id
	b.adm.CreateTopic(b.ctx(), 1, 1, map[string]*string{"retention.ms": kmsg.StringPtr("1000"), "retention.bytes": kmsg.StringPtr("5000")}, ParkedTopic(bad))
	b.adm.CreateTopic(b.ctx(), 1, 1, map[string]*string{"retention.ms": kmsg.StringPtr("-1"), "cleanup.policy": kmsg.StringPtr("compact")}, DeadTopic(bad))
	got := codes(bad, source, "missing-"+b.id)
	wantBad := []string{
		"missing source_missing true", "weir.bad.parked topic_expires true", "weir.bad.parked topic_expires true", "weir.bad.dead topic_compacted true",
	}
	if !slices.Equal(got, wantBad) {
		t.Errorf("bad topics: %q, want %q", got, wantBad)
	}
	wantBad = append([]string{}, "weir.bad.parked topic_expires true", "weir.bad.parked topic_expires true", "weir.bad.parked too_few_partitions false", "weir.bad.parked message_bytes_too_small false",
		"weir.bad.dead topic_compacted true", "weir.bad.dead too_few_partitions false", "weir.bad.dead message_bytes_too_small false")
	if got := codes(bad, source); !slices.Equal(got, wantBad) {
		t.Errorf("bad topics: %q, want %q", got, wantBad)
	}
	if _, err := a.EnsureTopics(b.ctx(), TopicPlan{Connector: "x", Sources: []string{"missing-" + b.id}}); !errors.Is(err, ErrNoTopic) {
		t.Errorf("EnsureTopics without its source: %v, want ErrNoTopic", err)
	}
	for _, n := range []string{ParkedTopic(connector), DeadTopic(connector), ParkedTopic(bad), DeadTopic(bad)} {
		if _, err := b.adm.DeleteTopic(b.ctx(), n); err != nil {
			t.Errorf("delete %s: %v", n, err)
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	c, err := b.admin().Describe(b.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if c.ID == "" || c.Controller < 0 || len(c.Brokers) == 0 || !strings.Contains(c.Version, "v") {
		t.Errorf("Describe: %+v", c)
	}
	nobody, err := NewAdmin(Config{Brokers: []string{"127.0.0.1:1"}, RequestTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer nobody.Close()
	if _, err := nobody.Describe(b.ctx()); KindOf(err) != KindEnvironment {
		t.Errorf("Describe without a broker: %v, kind %d, want the environment", err, KindOf(err))
	}
}

// An admin that has reached Kafka before notices that it is gone: readiness asks with it.
func TestDescribeAsksAgain(t *testing.T) {
	t.Parallel()
	fake, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	defer fake.Close()
	a, err := NewAdmin(Config{Brokers: fake.ListenAddrs(), RequestTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for range 2 {
		if _, err := a.Describe(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	fake.Close()
	if _, err := a.Describe(t.Context()); KindOf(err) != KindEnvironment {
		t.Errorf("Describe of a cluster that is gone: %v, kind %d, want the environment", err, KindOf(err))
	}
}

func TestGroupLagAndTrim(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	b.produce(topic, 0, 0, 10)
	b.produce(topic, 1, 0, 4)
	group := "weir.lag-" + b.id
	a := b.admin()
	lag, err := a.GroupLag(b.ctx(), group, topic)
	if err != nil || lag[TP{topic, 0}].Lag() != 10 || lag[TP{topic, 0}].Committed.OK {
		t.Errorf("lag of a group that never was: %+v, %v, want 10 without a commit", lag, err)
	}
	b.commit(group, topic, 0, 7, "m")
	lag, err = a.GroupLag(b.ctx(), group, topic)
	if err != nil || lag[TP{topic, 0}].Lag() != 3 || lag[TP{topic, 0}].Committed.Metadata != "m" || lag[TP{topic, 1}].Lag() != 4 {
		t.Errorf("lag: %+v, %v, want 3 and 4", lag, err)
	}
	if err := a.Trim(b.ctx(), map[TP]int64{{topic, 0}: 9, {topic, 1}: 0}); err != nil {
		t.Fatal(err)
	}
	if err := a.Trim(b.ctx(), map[TP]int64{{topic, 0}: 5}); err != nil {
		t.Errorf("Trim below the log start: %v, want nothing to do", err)
	}
	lag, err = a.GroupLag(b.ctx(), group, topic)
	if err != nil || lag[TP{topic, 0}].LogStart != 9 || lag[TP{topic, 0}].Lag() != 1 || lag[TP{topic, 1}].LogStart != 0 {
		t.Errorf("after Trim: %+v, %v, want log starts 9 and 0, lag 1", lag, err)
	}
	if _, err := a.GroupLag(b.ctx(), group, "missing-"+b.id); KindOf(err) != KindEnvironment {
		t.Errorf("lag on a missing topic: %v", err)
	}
}

func TestSASLAndTLS(t *testing.T) {
	t.Parallel()
	server, roots := certificate(t)
	for _, mech := range []string{Plain, ScramSHA256, ScramSHA512} {
		t.Run(mech, func(t *testing.T) {
			t.Parallel()
			fake, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.EnableSASL(), kfake.Superuser(mech, "weir", "s3cret-pw"),
				kfake.TLS(&tls.Config{Certificates: []tls.Certificate{server}}))
			if err != nil {
				t.Fatal(err)
			}
			defer fake.Close()
			pass := "s3cret-pw"
			cfg := Config{
				Brokers: fake.ListenAddrs(), TLS: &tls.Config{RootCAs: roots}, RequestTimeout: 3 * time.Second,
				SASL: &SASL{Mechanism: mech, User: "weir", Password: func() (string, error) { return pass, nil }},
			}
			describe := func(cfg Config) error {
				a, err := NewAdmin(cfg)
				if err != nil {
					t.Fatal(err)
				}
				defer a.Close()
				_, err = a.Describe(t.Context())
				return err
			}
			if err := describe(cfg); err != nil {
				t.Errorf("good credentials: %v", err)
			}
			pass = "wr0ng-pw"
			err = describe(cfg)
			if KindOf(err) != KindEnvironment || strings.Contains(fmt.Sprint(err), pass) {
				t.Errorf("wrong password: %v, kind %d, want the environment and no password in the text", err, KindOf(err))
			}
			pass = ""
			if err := describe(cfg); KindOf(err) != KindConfig {
				t.Errorf("empty password: %v, kind %d, want config", err, KindOf(err))
			}
			pass = "s3cret-pw"
			cfg.TLS = &tls.Config{}
			if err := describe(cfg); KindOf(err) != KindEnvironment {
				t.Errorf("unknown authority: %v, kind %d, want the environment", err, KindOf(err))
			}
		})
	}
}

func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "broker"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// The topic of facts is made where the vendor calls back, as an ordinary stream: with the cluster's own retention.
func TestFactsTopic(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	source := b.topic("canonical.customer", 3)
	connector := "facts-" + b.id
	a, err := NewAdmin(b.config())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	names := []string{ParkedTopic(connector), DeadTopic(connector), FactsTopic(connector)}
	if b.fake == nil {
		defer b.adm.DeleteTopics(b.ctx(), names...)
	}
	plan := TopicPlan{Connector: connector, Sources: []string{source}}
	if es, err := a.EnsureTopics(b.ctx(), plan); err != nil || len(es) != 2 {
		t.Fatalf("without facts: %+v, %v, want two topics", es, err)
	}
	plan.Facts = true
	if es, err := a.EnsureTopics(b.ctx(), plan); err != nil || len(es) != 3 || es[1].Created || !es[2].Created {
		t.Fatalf("with facts: %+v, %v, want the third made", es, err)
	}
	infos, err := a.Topics(b.ctx(), names...)
	if err != nil {
		t.Fatal(err)
	}
	if f := infos[names[2]]; f.Partitions != 3 || f.CleanupPolicy != "delete" || f.RetentionMs == -1 {
		t.Errorf("topic of facts: %+v, want 3 partitions, delete, the cluster's retention", f)
	}
	if p := infos[names[0]]; p.RetentionMs != -1 {
		t.Errorf("parked topic: %+v, want no retention", p)
	}
	if es, err := a.EnsureTopics(b.ctx(), plan); err != nil || es[2].Created || es[2].Grown || es[2].Raised {
		t.Errorf("again: %+v, %v, want nothing done", es, err)
	}
}
