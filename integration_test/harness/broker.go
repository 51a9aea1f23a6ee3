package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// adminMax bounds one administrative request.
const adminMax = 30 * time.Second

// A Cluster is a Kafka cluster as a test sees it. Safe for concurrent use by tests that share it.
type Cluster struct {
	// Addr is host:port, several with commas between.
	Addr string
	// Kind says what answers there: "apache-kafka 4.1.1", "kfake", or "kafka v4.1 (external)" for the broker of
	// WEIR_TEST_KAFKA, whose version is a guess from the requests that it knows.
	Kind string
	// Real is false for kfake.
	Real bool

	fake    *kfake.Cluster
	jars    func() (string, error)
	names   *claims
	private bool // ends with the test, so nothing on it needs to be removed
}

// Broker returns the broker that the environment names (see the package comment): a shared real one, on which the
// test must keep to the names that it claims, or a kfake cluster of the test's own.
func Broker(t testing.TB) *Cluster {
	t.Helper()
	shared.need(t)
	if !wantReal() {
		return fake(t)
	}
	c, err := shared.real()
	if err != nil {
		t.Fatal(err)
	}
	shared.count(t, c.label())
	return c
}

// RealBroker is Broker for tests of what kfake does not do. They are skipped where no real broker is given.
func RealBroker(t testing.TB) *Cluster {
	t.Helper()
	if !wantReal() {
		t.Skipf("needs a real broker: set %s=1 or %s=host:port", envReal, envKafka)
	}
	return Broker(t)
}

func wantReal() bool { return os.Getenv(envKafka) != "" || os.Getenv(envReal) == "1" }

func fake(t testing.TB) *Cluster {
	t.Helper()
	f, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatalf("start kfake: %v", err)
	}
	t.Cleanup(f.Close)
	c := &Cluster{Addr: strings.Join(f.ListenAddrs(), ","), Kind: "kfake", fake: f, names: new(claims), private: true}
	c.names.init()
	return c
}

// startShared starts or reaches the real broker that the tests of the process share. It runs once.
func (p *process) startShared() (*Cluster, error) {
	if addr := os.Getenv(envKafka); addr != "" {
		c := &Cluster{Addr: addr, Real: true, jars: p.jars, names: &p.names}
		version, err := guessVersion(addr)
		if err != nil {
			return nil, fmt.Errorf("reach the broker of %s at %s: %w", envKafka, addr, err)
		}
		c.Kind = "kafka " + version + " (external)"
		return c, nil
	}
	dir := p.tmp
	if logs := os.Getenv(envLogs); logs != "" {
		if err := os.MkdirAll(logs, 0o755); err != nil {
			return nil, fmt.Errorf("folder of %s: %w", envLogs, err)
		}
		dir = logs
	}
	dir, err := os.MkdirTemp(dir, filepath.Base(os.Args[0])+"-shared-")
	if err != nil {
		return nil, err
	}
	ks, err := newKafkas(dir, p.jars, 1, KafkaConfig{})
	if err != nil {
		return nil, err
	}
	k := ks[0]
	k.cluster.names, k.cluster.private = &p.names, false
	p.mu.Lock()
	p.kafka = k
	p.mu.Unlock()
	if err := startAll(ks); err != nil {
		return nil, err
	}
	return k.cluster, nil
}

func guessVersion(addr string) (string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(addr, ",")...))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(context.Background(), adminMax)
	defer cancel()
	vs, err := kadm.NewClient(cl).ApiVersions(ctx)
	if err != nil {
		return "", err
	}
	for _, v := range vs {
		if v.Err == nil {
			return v.VersionGuess(), nil
		}
		err = v.Err
	}
	return "", errors.Join(errors.New("no broker tells its version"), err)
}

// label names a real cluster in the report.
func (c *Cluster) label() string {
	if v, ok := strings.CutPrefix(c.Kind, "apache-kafka "); ok {
		return "Apache Kafka " + v + " at " + c.Addr
	}
	return c.Kind + " at " + c.Addr
}

// Brokers are the addresses of Addr one by one.
func (c *Cluster) Brokers() []string { return strings.Split(c.Addr, ",") }

// Fake is the kfake cluster, for fault injection; nil if the cluster is real.
func (c *Cluster) Fake() *kfake.Cluster { return c.fake }

// Tools are Apache Kafka's command line tools for this cluster. The test fails if it is not a real one.
func (c *Cluster) Tools(t testing.TB) *Tools {
	t.Helper()
	if !c.Real {
		t.Fatalf("Kafka's tools are for real brokers, this is %s: ask for RealBroker", c.Kind)
	}
	java, err := javaPath()
	if err != nil {
		t.Fatal(err)
	}
	jars, err := c.jars()
	if err != nil {
		t.Fatal(err)
	}
	return &Tools{java: java, jars: jars, addr: c.Addr}
}

// Client is a Kafka client for the cluster, closed when the test ends.
func (c *Cluster) Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append([]kgo.Opt{kgo.SeedBrokers(c.Brokers()...)}, opts...)...)
	if err != nil {
		t.Fatalf("client of %s: %v", c.Kind, err)
	}
	t.Cleanup(cl.Close)
	return cl
}

// Admin is an administrative client for the cluster, closed when the test ends.
func (c *Cluster) Admin(t testing.TB) *kadm.Client {
	t.Helper()
	return kadm.NewClient(c.Client(t))
}

// CreateTopic claims the names, creates a topic of each with so many partitions, and deletes them when the test
// ends. A test that needs several calls it once, or claims all names first: claiming one by one could wait for a
// test that waits for this one.
func (c *Cluster) CreateTopic(t testing.TB, partitions int32, names ...string) {
	t.Helper()
	c.CreateTopicConfig(t, partitions, nil, names...)
}

// CreateTopicConfig is CreateTopic with topic configs, such as cleanup.policy.
func (c *Cluster) CreateTopicConfig(t testing.TB, partitions int32, configs map[string]string, names ...string) {
	t.Helper()
	c.Claim(t, names...)
	values := make(map[string]*string)
	for k, v := range configs {
		values[k] = &v
	}
	adm := c.Admin(t)
	ctx, cancel := context.WithTimeout(t.Context(), adminMax)
	defer cancel()
	rs, err := adm.CreateTopics(ctx, partitions, -1, values, names...)
	if err := errors.Join(err, rs.Error()); err != nil {
		t.Fatalf("create topics %q on %s: %v", names, c.Kind, err)
	}
	if err := c.waitTopics(ctx, adm, names, func(d kadm.TopicDetail, ok bool) bool {
		return ok && len(d.Partitions) == int(partitions) && !slices.ContainsFunc(d.Partitions.Sorted(), func(p kadm.PartitionDetail) bool { return p.Err != nil || p.Leader < 0 })
	}); err != nil {
		t.Fatalf("wait for the leaders of topics %q on %s: %v", names, c.Kind, err)
	}
}

// ClaimConnector claims what a connector of that name has in Kafka: its consumer group and its topics (design
// section 17).
func (c *Cluster) ClaimConnector(t testing.TB, connector string) {
	t.Helper()
	base := "weir." + connector
	c.Claim(t, base, base+".parked", base+".dead", base+".receipts", base+".facts")
}

// Claim reserves names for the test, as topics and as groups: another test that claims one of them waits. When the
// test ends, topics and consumer groups of these names are deleted. The test fails if a topic of a newly claimed
// name exists: it is somebody else's.
func (c *Cluster) Claim(t testing.TB, names ...string) {
	t.Helper()
	news, err := c.names.claim(t.Context(), t.Name(), names, c.free)
	if err != nil {
		t.Fatalf("claim names on %s at %s: %v", c.Kind, c.Addr, err)
	}
	if len(news) == 0 {
		return
	}
	t.Cleanup(func() {
		defer c.names.release(news)
		if c.private {
			return
		}
		if err := c.remove(news); err != nil {
			t.Errorf("remove %q from %s at %s: %v", news, c.Kind, c.Addr, err)
		}
	})
}

// free reports an error if a topic of one of the names exists.
func (c *Cluster) free(ctx context.Context, names []string) error {
	if c.private {
		return nil
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(ctx, adminMax)
	defer cancel()
	topics, err := kadm.NewClient(cl).ListTopics(ctx)
	if err != nil {
		return err
	}
	for _, n := range names {
		if topics.Has(n) {
			return fmt.Errorf("topic %s exists: tests need a broker without topics of their names", n)
		}
	}
	return nil
}

// remove deletes the topics and groups of these names that exist.
func (c *Cluster) remove(names []string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(c.Brokers()...))
	if err != nil {
		return err
	}
	defer cl.Close()
	adm := kadm.NewClient(cl)
	ctx, cancel := context.WithTimeout(context.Background(), adminMax)
	defer cancel()
	topics, err := adm.DeleteTopics(ctx, names...)
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range topics {
		if r.Err != nil && !errors.Is(r.Err, kerr.UnknownTopicOrPartition) {
			errs = append(errs, fmt.Errorf("delete topic %s: %w", r.Topic, r.Err))
		}
	}
	errs = append(errs, c.waitTopics(ctx, adm, names, func(_ kadm.TopicDetail, ok bool) bool { return !ok }))
	for _, n := range names {
		errs = append(errs, removeGroup(ctx, adm, n))
	}
	return errors.Join(errs...)
}

// removeGroup waits for the last members to go: a test that killed its consumer leaves one until its session ends.
func removeGroup(ctx context.Context, adm *kadm.Client, group string) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		r, err := adm.DeleteGroup(ctx, group)
		err = errors.Join(err, r.Err)
		switch {
		case err == nil, errors.Is(err, kerr.GroupIDNotFound):
			return nil
		case !errors.Is(err, kerr.NonEmptyGroup):
			return fmt.Errorf("delete group %s: %w", group, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("delete group %s: %w", group, err)
		}
	}
}

// waitTopics waits until the cluster's metadata shows each topic as ok wants it.
func (c *Cluster) waitTopics(ctx context.Context, adm *kadm.Client, names []string, ok func(kadm.TopicDetail, bool) bool) error {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		all, err := adm.ListTopics(ctx)
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(names, func(n string) bool {
			d, has := all[n]
			return !ok(d, has && d.Err == nil)
		}) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
