package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// produce writes n records to partition 0 of the topic and waits until they are acknowledged.
func produce(ctx context.Context, cl *kgo.Client, topic string, n int) error {
	rs := make([]*kgo.Record, n)
	for i := range rs {
		rs[i] = &kgo.Record{Topic: topic, Key: []byte("k"), Value: fmt.Append(nil, i)}
	}
	return cl.ProduceSync(ctx, rs...).FirstErr()
}

// consume reads until it has n records.
func consume(t *testing.T, cl *kgo.Client, n int) []*kgo.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	var rs []*kgo.Record
	for len(rs) < n {
		fs := cl.PollFetches(ctx)
		if err := fs.Err0(); err != nil {
			t.Fatalf("%d of %d records: %v", len(rs), n, err)
		}
		rs = append(rs, fs.Records()...)
	}
	return rs
}

// TestBrokerServesAGroup is a round trip through whatever broker the environment gives; with a real one Kafka's own
// tools must see the same.
func TestBrokerServesAGroup(t *testing.T) {
	c := Broker(t)
	if c.Real == (c.Kind == "kfake") {
		t.Errorf("kind %q, real %t", c.Kind, c.Real)
	}
	const topic, group, n = "harness.roundtrip", "harness.group", 10
	c.Claim(t, topic, group)
	c.CreateTopic(t, 1, topic)
	if err := produce(t.Context(), c.Client(t), topic, n); err != nil {
		t.Fatalf("produce to %s: %v", c.Kind, err)
	}
	cl := c.Client(t, kgo.ConsumeTopics(topic), kgo.ConsumerGroup(group), kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	rs := consume(t, cl, n)
	for i, r := range rs {
		if r.Offset != int64(i) || string(r.Value) != fmt.Sprint(i) {
			t.Errorf("record %d: offset %d, value %q", i, r.Offset, r.Value)
		}
	}
	if err := cl.CommitRecords(t.Context(), rs[6]); err != nil {
		t.Fatal(err)
	}
	offs, err := c.Admin(t).FetchOffsets(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := offs.Lookup(topic, 0); !ok || got.At != 7 {
		t.Errorf("committed offset: %+v, want 7", got)
	}
	cl.Close()
	if c.Real {
		checkTools(t, c, topic, group, n)
	}
}

func checkTools(t *testing.T, c *Cluster, topic, group string, n int64) {
	t.Helper()
	tools := c.Tools(t)
	check := func(what string, current int64) {
		t.Helper()
		want := GroupRow{Group: group, Topic: topic, Current: current, End: n, Lag: n - current}
		if rows := tools.DescribeGroup(t, group); len(rows) != 1 || rows[0] != want {
			t.Errorf("group %s: %+v, want %+v", what, rows, want)
		}
	}
	check("after the commit", 7)
	tools.ResetOffsets(t, group, ToEarliest, topic)
	check("reset to the earliest", 0)
	tools.ResetOffsets(t, group, ToLatest)
	check("reset to the latest", n)
	tools.ResetOffsets(t, group, ToOffset(3), topic)
	check("reset to offset 3", 3)
	tools.DeleteOffsets(t, group, topic)
	if rows := tools.DescribeGroup(t, group); len(rows) != 0 {
		t.Errorf("group after its offsets were deleted: %+v, want no rows", rows)
	}
	if got := tools.EndOffsets(t, topic); len(got) != 1 || got[0] != n {
		t.Errorf("end offsets: %v, want %d in partition 0", got, n)
	}
	if out := tools.Topics(t, "--describe", "--topic", topic); !strings.Contains(out, "PartitionCount: 1") {
		t.Errorf("description of the topic: %q", out)
	}
	if out, err := tools.Run(t.Context(), groupCommand, "--group", "none", "--describe"); err == nil {
		t.Errorf("description of a group that does not exist: %q, want an error", out)
	}
}

// TestNamesAreFreeAgain: two tests, one after the other, may use the same topic and group on a shared broker and
// see nothing of each other.
func TestNamesAreFreeAgain(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			c := Broker(t)
			c.ClaimConnector(t, "harness")
			c.CreateTopic(t, 2, "weir.harness.parked")
			cl := c.Client(t)
			if err := produce(t.Context(), cl, "weir.harness.parked", 1); err != nil {
				t.Fatal(err)
			}
			adm := c.Admin(t)
			ends, err := adm.ListEndOffsets(t.Context(), "weir.harness.parked")
			if err != nil {
				t.Fatal(err)
			}
			var sum int64
			ends.Each(func(o kadm.ListedOffset) { sum += o.Offset })
			if sum != 1 {
				t.Errorf("records in a new topic after one was written: %d, want 1", sum)
			}
			var commit kadm.Offsets
			commit.Add(kadm.Offset{Topic: "weir.harness.parked", At: 1, LeaderEpoch: -1})
			before, err := adm.FetchOffsets(t.Context(), "weir.harness")
			if errors.Is(err, kerr.GroupIDNotFound) { // says kfake; Kafka answers no offsets
				err = nil
			}
			if err != nil || len(before) != 0 {
				t.Errorf("offsets of a claimed group: %+v, %v, want none", before, err)
			}
			if err := adm.CommitAllOffsets(t.Context(), "weir.harness", commit); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestTopicOfAnotherIsNotTaken(t *testing.T) {
	c := RealBroker(t)
	const topic = "harness.foreign"
	adm := c.Admin(t)
	if _, err := adm.CreateTopic(t.Context(), 1, -1, nil, topic); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.remove([]string{topic}); err != nil {
			t.Error(err)
		}
	}()
	if _, err := c.names.claim(t.Context(), t.Name(), []string{topic}, c.free); err == nil || !strings.Contains(err.Error(), topic) {
		t.Errorf("claim of a topic that exists: %v, want an error that names it", err)
	}
}

func TestKafkaKeepsItsDataAndAddress(t *testing.T) {
	k := StartKafka(t, KafkaConfig{})
	if k.Version() != KafkaVersion || k.Cluster().Kind != "apache-kafka "+KafkaVersion {
		t.Errorf("version %q, kind %q, want %s", k.Version(), k.Cluster().Kind, KafkaVersion)
	}
	t.Logf("answered after %v, resident %s", k.StartTook(), resident(t, k))
	const topic = "harness.durable"
	c := k.Cluster()
	c.CreateTopic(t, 1, topic)
	cl := c.Client(t)
	total := 0
	write := func(after string) {
		t.Helper()
		total += 5
		ctx, cancel := context.WithTimeout(t.Context(), waitMax)
		defer cancel()
		if err := produce(ctx, cl, topic, 5); err != nil {
			t.Fatalf("produce after %s: %v", after, err)
		}
	}
	write("the start")
	k.Kill(t)
	k.Start(t)
	t.Logf("answered again %v after a kill", k.StartTook())
	write("a kill")
	k.Restart(t)
	write("a restart")

	k.Pause(t)
	// The client's own limit counts while it greets a broker, not the context's.
	impatient := c.Client(t, kgo.RequestTimeoutOverhead(time.Second), kgo.RetryTimeout(time.Second))
	if err := impatient.Ping(t.Context()); err == nil {
		t.Error("a paused broker answered")
	}
	k.Resume(t)
	write("a pause")

	rs := consume(t, c.Client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), total)
	if got := k.Tools(t).EndOffsets(t, topic)[0]; len(rs) != total || got != int64(total) {
		t.Errorf("%d records read, end offset %d, want %d", len(rs), got, total)
	}
}

// resident is the memory that the broker's process holds, as the kernel says it, empty where it does not.
func resident(t *testing.T, k *Kafka) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(k.child.cmd.Process.Pid), "status"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func TestClusterOutlivesABroker(t *testing.T) {
	ks := StartKafkaCluster(t, 3, KafkaConfig{HeapMiB: 256})
	for _, k := range ks {
		t.Logf("node %d answered after %v, resident %s", k.id, k.StartTook(), resident(t, k))
	}
	const topic = "harness.replicated"
	c := ks[0].Cluster()
	c.CreateTopic(t, 3, topic)
	cl := c.Client(t, kgo.RequiredAcks(kgo.AllISRAcks()))
	if err := produce(t.Context(), cl, topic, 5); err != nil {
		t.Fatal(err)
	}
	ks[1].Kill(t)
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	if err := produce(ctx, cl, topic, 5); err != nil {
		t.Fatalf("produce with one of three brokers gone: %v", err)
	}
	ks[1].Start(t)
	rs := consume(t, c.Client(t, kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())), 10)
	if len(rs) != 10 {
		t.Errorf("%d records, want 10", len(rs))
	}
}
