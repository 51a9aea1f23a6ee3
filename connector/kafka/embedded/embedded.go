// Package embedded is a Kafka broker inside the process, for the demo, for benchmarks and for trying things out:
// nothing to install, nothing to download.
//
// It is kfake, the fake broker of the client library franz-go. It speaks Kafka's protocol over TCP: produce and fetch
// with idempotent and transactional producers, consumer groups with rebalances, commits with metadata, topic ids,
// administration. With a data folder it survives a restart with topics, records and committed offsets.
//
// It is not Kafka. There is one node, so nothing is replicated and acks=all means one write to the page cache; there
// is no authentication and no TLS; retention and compaction do not run; it does not enforce Kafka's limit on a
// commit's metadata; its speed says nothing about a real broker's. Who can reach its port can do everything: it
// listens on loopback alone. It must never hold data that anybody needs.
package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/weirsync/weir/connector/kafka"
)

// Options say what to start. The zero value is an empty broker in memory on a free port.
type Options struct {
	// Dir keeps topics, records and offsets over restarts; it is made if it is missing. "" keeps nothing. Two brokers
	// must not share one at the same time: this is not checked.
	Dir string
	// Port on 127.0.0.1; 0 picks a free one. A broker that is reopened for clients with a config needs its old one.
	Port int
	// Topics are made if they are missing, with so many partitions (1 or more). One that exists stays as it is.
	Topics map[string]int32
	// SessionTimeoutMin is the shortest session timeout that a group member may ask for, 0 means one second. A real
	// broker's is 6 s by default: a process that was killed keeps its partitions that long.
	SessionTimeoutMin time.Duration
}

// createMax bounds making the topics.
const createMax = 30 * time.Second

// A Broker is one that runs. Safe for concurrent use.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
}

// Start starts a broker and makes its topics. Close ends it. Errors are those of the folder, the port and the
// topics' names and partitions.
func Start(ctx context.Context, o Options) (_ *Broker, err error) {
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.ClusterID("weir-embedded"),
		kfake.GroupMinSessionTimeout(cmp.Or(o.SessionTimeoutMin, time.Second))}
	if o.Port != 0 {
		opts = append(opts, kfake.Ports(o.Port))
	}
	if o.Dir != "" {
		// Made here for its error: records may hold personal data, so nobody else may read them.
		if err := os.MkdirAll(filepath.Clean(o.Dir), 0o700); err != nil {
			return nil, fmt.Errorf("start the embedded broker: make its folder: %w", err)
		}
		opts = append(opts, kfake.DataDir(o.Dir))
	}
	cluster, err := kfake.NewCluster(opts...)
	if err != nil {
		return nil, fmt.Errorf("start the embedded broker: %w", err)
	}
	b := &Broker{cluster: cluster}
	defer func() {
		if err != nil {
			b.Close()
		}
	}()
	addrs := cluster.ListenAddrs()
	if len(addrs) != 1 {
		return nil, fmt.Errorf("start the embedded broker: it listens on %q, want one address", addrs)
	}
	b.addr = addrs[0]
	return b, b.create(ctx, o.Topics)
}

func (b *Broker) create(ctx context.Context, topics map[string]int32) error {
	if len(topics) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, createMax)
	defer cancel()
	admin, err := kafka.NewAdmin(kafka.Config{Brokers: []string{b.addr}})
	if err != nil {
		return fmt.Errorf("reach the embedded broker: %w", err)
	}
	defer admin.Close()
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		n := topics[name]
		if n < 1 { // kfake would take its own default
			return fmt.Errorf("create topic %s on the embedded broker: %d partitions: %w", name, n, errPartitions)
		}
		if _, err := admin.CreateTopic(ctx, name, n); err != nil {
			return fmt.Errorf("on the embedded broker: %w", err)
		}
	}
	return nil
}

var errPartitions = errors.New("want 1 or more")

// Addr is host:port of the broker, on loopback.
func (b *Broker) Addr() string { return b.addr }

// Close writes what is to be kept and ends the broker; its clients see their connections close. It may be called
// more than once.
func (b *Broker) Close() { b.cluster.Close() }
