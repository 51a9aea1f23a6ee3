package harness

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Bounds of a broker's life. It answers after about 3 s on an idle machine with 2 cores (design section 16); a
// test machine may be busy with other packages.
const (
	kafkaStartMax  = 2 * time.Minute
	kafkaStopMax   = 30 * time.Second
	kafkaFormatMax = time.Minute
	pollEvery      = 50 * time.Millisecond
)

// KafkaConfig says how a broker is started. The zero value is good.
type KafkaConfig struct {
	// Properties are added to server.properties, or replace what is there.
	Properties map[string]string
	// HeapMiB is the size of the broker's heap in MiB, default 512; resident it takes about 400.
	HeapMiB int
}

// Kafka is one node of a real Apache Kafka: a JVM that is broker and controller, on loopback ports and a data
// folder that stay the same over restarts. Its methods are not for concurrent use.
type Kafka struct {
	id    int
	nodes int
	addr  string
	ctrl  string
	dir   string // server.properties, broker.log and data/
	java  string
	jars  string
	heap  int

	release func() // gives the ports back
	child   *child
	version string
	started time.Time
	took    time.Duration
	cluster *Cluster
}

// StartKafka starts a broker of the test's own, which ends with the test. The test is skipped unless
// WEIR_TEST_REAL=1.
func StartKafka(t testing.TB, cfg KafkaConfig) *Kafka {
	t.Helper()
	return StartKafkaCluster(t, 1, cfg)[0]
}

// StartKafkaCluster starts a cluster of n brokers, n odd, of the test's own. With three, internal and new topics
// are kept on three of them and need two (min.insync.replicas). The test is skipped unless WEIR_TEST_REAL=1.
func StartKafkaCluster(t testing.TB, n int, cfg KafkaConfig) []*Kafka {
	t.Helper()
	shared.need(t)
	if os.Getenv(envReal) != "1" {
		t.Skipf("needs a real Apache Kafka: set %s=1", envReal)
	}
	ks, err := newKafkas(logDir(t), shared.jars, n, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, k := range ks {
			if err := k.close(t.Failed(), t.Output()); err != nil {
				t.Error(err)
			}
		}
	})
	if err := startAll(ks); err != nil {
		t.Fatal(err)
	}
	shared.count(t, ks[0].cluster.label())
	return ks
}

// newKafkas makes the folders of a cluster's nodes and formats their storage.
func newKafkas(dir string, jars func() (string, error), n int, cfg KafkaConfig) (ks []*Kafka, err error) {
	java, err := javaPath()
	if err != nil {
		return nil, err
	}
	lib, err := jars()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			for _, k := range ks {
				k.release()
			}
		}
	}()
	var voters, brokers []string
	for i := range n {
		k := &Kafka{id: i + 1, nodes: n, java: java, jars: lib, heap: cfg.HeapMiB, dir: filepath.Join(dir, fmt.Sprintf("kafka-%d", i+1))}
		if k.heap == 0 {
			k.heap = 512
		}
		port, release, err := reservePort()
		if err != nil {
			return ks, err
		}
		k.release = release
		ks = append(ks, k)
		ctrl, releaseCtrl, err := reservePort()
		if err != nil {
			return ks, err
		}
		k.release = func() { release(); releaseCtrl() }
		k.addr, k.ctrl = loopback(port), loopback(ctrl)
		voters = append(voters, fmt.Sprintf("%d@%s", k.id, k.ctrl))
		brokers = append(brokers, k.addr)
	}
	id := clusterID()
	for _, k := range ks {
		k.cluster = &Cluster{Addr: strings.Join(brokers, ","), Real: true, jars: jars, names: new(claims), private: true}
		k.cluster.names.init()
		if err := k.format(id, strings.Join(voters, ","), cfg.Properties); err != nil {
			return ks, err
		}
	}
	return ks, nil
}

// clusterID is a random id in Kafka's form, 16 bytes in URL-safe base64. One that starts with a dash would be read
// as a flag.
func clusterID() string {
	for {
		id := uuid.New()
		if s := base64.RawURLEncoding.EncodeToString(id[:]); s[0] != '-' {
			return s
		}
	}
}

// properties is the node's server.properties. What is not commented makes a small, quick, single-purpose broker;
// the session bounds let tests use short ones, the intervals let them see retention, compaction and expiry soon.
func (k *Kafka) properties(voters string, more map[string]string) string {
	replicas, inSync := "1", "1"
	if k.nodes >= 3 {
		replicas, inSync = "3", "2"
	}
	p := map[string]string{
		"process.roles":                  "broker,controller",
		"node.id":                        strconv.Itoa(k.id),
		"controller.quorum.voters":       voters,
		"listeners":                      "BROKER://" + k.addr + ",CONTROLLER://" + k.ctrl,
		"advertised.listeners":           "BROKER://" + k.addr,
		"listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"inter.broker.listener.name":     "BROKER",
		"controller.listener.names":      "CONTROLLER",
		"log.dirs":                       filepath.Join(k.dir, "data"),

		"auto.create.topics.enable":      "false",
		"num.partitions":                 "1",
		"default.replication.factor":     replicas,
		"min.insync.replicas":            inSync,
		"num.network.threads":            "2",
		"num.io.threads":                 "4",
		"background.threads":             "2",
		"log.cleaner.threads":            "1",
		"log.cleaner.dedupe.buffer.size": strconv.Itoa(16 << 20), // from the heap
		"log.index.size.max.bytes":       strconv.Itoa(1 << 20),
		"log.segment.bytes":              strconv.Itoa(16 << 20),

		"offsets.topic.num.partitions":                     "4",
		"offsets.topic.replication.factor":                 replicas,
		"transaction.state.log.num.partitions":             "2",
		"transaction.state.log.replication.factor":         replicas,
		"transaction.state.log.min.isr":                    inSync,
		"share.coordinator.state.topic.num.partitions":     "1",
		"share.coordinator.state.topic.replication.factor": replicas,
		"share.coordinator.state.topic.min.isr":            inSync,

		"group.initial.rebalance.delay.ms":                            "0",
		"group.min.session.timeout.ms":                                "500",
		"group.consumer.min.session.timeout.ms":                       "500",
		"group.consumer.min.heartbeat.interval.ms":                    "100",
		"log.retention.check.interval.ms":                             "1000",
		"log.cleaner.backoff.ms":                                      "200",
		"log.segment.delete.delay.ms":                                 "1000",
		"offsets.retention.check.interval.ms":                         "1000",
		"transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",
		// A killed broker may come back only when the others have given it up.
		"broker.session.timeout.ms":    "3000",
		"broker.heartbeat.interval.ms": "500",
	}
	maps.Copy(p, more)
	var b strings.Builder
	for _, key := range slices.Sorted(maps.Keys(p)) {
		fmt.Fprintf(&b, "%s=%s\n", key, p[key])
	}
	return b.String()
}

func (k *Kafka) format(clusterID, voters string, more map[string]string) error {
	if err := os.MkdirAll(k.dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(k.file("server.properties"), []byte(k.properties(voters, more)), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), kafkaFormatMax)
	defer cancel()
	_, err := runJava(ctx, k.java, k.jars, "kafka.tools.StorageTool", "format", "-t", clusterID, "-c", k.file("server.properties"))
	if err != nil {
		return fmt.Errorf("format the storage of Kafka node %d: %w", k.id, err)
	}
	return nil
}

func (k *Kafka) file(name string) string { return filepath.Join(k.dir, name) }

// Addr is the node's host:port. The cluster's addresses are in Cluster.
func (k *Kafka) Addr() string { return k.addr }

// Version is what the running broker wrote to its log as its version, such as "4.1.1".
func (k *Kafka) Version() string { return k.version }

// Cluster is the node's cluster as tests use it.
func (k *Kafka) Cluster() *Cluster { return k.cluster }

// LogFile is the broker's log over all its restarts.
func (k *Kafka) LogFile() string { return k.file("broker.log") }

// StartTook is how long the last start took until the broker answered.
func (k *Kafka) StartTook() time.Duration { return k.took }

// Tools are the broker's own command line tools, connected to the cluster.
func (k *Kafka) Tools(t testing.TB) *Tools {
	t.Helper()
	return k.cluster.Tools(t)
}

// Start starts the broker again after Stop or Kill and waits until it answers.
func (k *Kafka) Start(t testing.TB) {
	t.Helper()
	if err := k.start(); err != nil {
		t.Fatal(err)
	}
	if err := k.ready(1); err != nil {
		t.Fatal(err)
	}
}

// Restart stops the broker in order and starts it again on the same port and data.
func (k *Kafka) Restart(t testing.TB) {
	t.Helper()
	k.Stop(t)
	k.Start(t)
}

// Stop ends the broker in order. One that has not ended within 30 s fails the test.
func (k *Kafka) Stop(t testing.TB) {
	t.Helper()
	if k.child == nil {
		return
	}
	clean, err := k.child.stop(kafkaStopMax)
	k.child = nil
	if err != nil {
		t.Fatal(err)
	}
	if !clean {
		t.Errorf("Kafka node %d had to be killed: it did not stop within %v\n%s", k.id, kafkaStopMax, tail(k.LogFile(), 4096))
	}
}

// Kill ends the broker at once, as a crash does.
func (k *Kafka) Kill(t testing.TB) {
	t.Helper()
	if err := k.kill(); err != nil {
		t.Fatal(err)
	}
}

// Pause freezes the broker (SIGSTOP): connections stay open and nothing answers. Resume ends it.
func (k *Kafka) Pause(t testing.TB) {
	t.Helper()
	k.send(t, syscall.SIGSTOP)
}

// Resume continues a paused broker.
func (k *Kafka) Resume(t testing.TB) {
	t.Helper()
	k.send(t, syscall.SIGCONT)
}

func (k *Kafka) send(t testing.TB, sig os.Signal) {
	t.Helper()
	if k.child == nil {
		t.Fatalf("send %v to Kafka node %d: it is not running", sig, k.id)
	}
	if err := k.child.signal(sig); err != nil {
		t.Fatal(err)
	}
}

func (k *Kafka) kill() error {
	if k.child == nil {
		return nil
	}
	err := k.child.kill()
	k.child = nil
	return err
}

// close ends the node for good. The end of the log of a failed test goes to w and the file is kept.
func (k *Kafka) close(failed bool, w io.Writer) error {
	err := k.kill()
	k.release()
	if failed {
		fmt.Fprintf(w, "Kafka node %d at %s, log in %s, its end:\n%s", k.id, k.addr, k.LogFile(), tail(k.LogFile(), 4096))
		return errors.Join(err, os.RemoveAll(k.file("data")))
	}
	return errors.Join(err, os.RemoveAll(k.dir))
}

// startAll starts the nodes beside each other, since a quorum is needed before the first one answers.
func startAll(ks []*Kafka) error {
	for _, k := range ks {
		if err := k.start(); err != nil {
			return err
		}
	}
	errs := make([]error, len(ks))
	var wg sync.WaitGroup
	for i, k := range ks {
		wg.Go(func() { errs[i] = k.ready(len(ks)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (k *Kafka) start() error {
	if k.child != nil {
		return fmt.Errorf("start Kafka node %d: it is running", k.id)
	}
	log, err := os.OpenFile(k.LogFile(), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() // the child has its own
	// The serial collector and the first compiler alone start a broker in 2.6 s instead of 3.9 s with half the CPU
	// time (2 cores), and leave the cores to the tests.
	cmd := exec.Command(k.java, fmt.Sprintf("-Xmx%dm", k.heap), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
		"-XX:+ExitOnOutOfMemoryError", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
		"-cp", filepath.Join(k.jars, "*"), "kafka.Kafka", k.file("server.properties"))
	cmd.Dir = k.dir
	cmd.Stdout, cmd.Stderr = log, log
	k.started = time.Now()
	k.child, err = startChild(cmd)
	if err != nil {
		return fmt.Errorf("start Kafka node %d: %w", k.id, err)
	}
	return nil
}

var versionLine = regexp.MustCompile(`AppInfoParser - Kafka version: (\S+)`)

// ready waits until the node answers as a broker and knows of at least n brokers.
func (k *Kafka) ready(n int) error {
	ctx, cancel := context.WithTimeout(context.Background(), kafkaStartMax)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(k.addr), kgo.RetryTimeout(time.Second))
	if err != nil {
		return err
	}
	defer cl.Close()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	var last error
	for {
		last = k.answers(ctx, cl, n)
		if last == nil {
			break
		}
		select {
		case <-tick.C:
		case <-k.child.done:
			return fmt.Errorf("start Kafka node %d: it ended with exit code %d; the end of %s:\n%s", k.id, k.child.code(), k.LogFile(), tail(k.LogFile(), 4096))
		case <-ctx.Done():
			return fmt.Errorf("start Kafka node %d: no answer at %s within %v: %w; the end of %s:\n%s", k.id, k.addr, kafkaStartMax, last, k.LogFile(), tail(k.LogFile(), 4096))
		}
	}
	k.took = time.Since(k.started)
	log, err := os.ReadFile(k.LogFile())
	if err != nil {
		return err
	}
	m := versionLine.FindAllSubmatch(log, -1)
	if m == nil {
		return fmt.Errorf("start Kafka node %d: its log %s names no version", k.id, k.LogFile())
	}
	k.version = string(m[len(m)-1][1])
	k.cluster.Kind = "apache-kafka " + k.version
	return nil
}

// answers asks this node, and no other of the cluster, which brokers it knows.
func (k *Kafka) answers(ctx context.Context, cl *kgo.Client, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{} // none; nil would mean all
	m, err := req.RequestWith(ctx, cl.SeedBrokers()[0])
	switch {
	case err != nil:
		return err
	case len(m.Brokers) < n:
		return fmt.Errorf("%d of %d brokers", len(m.Brokers), n)
	case !slices.ContainsFunc(m.Brokers, func(b kmsg.MetadataResponseBroker) bool { return b.NodeID == int32(k.id) }):
		return fmt.Errorf("node %d is not among the brokers", k.id)
	}
	return nil
}
