package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/schema"
)

// An Out is one record to write. Its slices must not change until it is written.
type Out struct {
	Topic string
	// Partition to write to; negative: by the key as Kafka's own clients do it (murmur2), or any if there is no key.
	// Parked and dead records go to the partition number of their origin, so that a key's records keep their order.
	Partition int32
	Key       []byte
	Value     []byte // nil: a tombstone
	Headers   []schema.Header
	Timestamp time.Time // zero: now
}

// A Placed says where a record was written, or why it was not.
type Placed struct {
	TP
	Offset int64
	Err    error // not nil: it is not known to be written, and may have been
}

// A Producer writes records: idempotent, acknowledged by all replicas in sync. What waits is bounded in count and
// bytes (Config.ProduceBufferRecordsMax, ProduceBufferBytesMax), beyond that Produce blocks. Safe for concurrent use.
type Producer struct {
	cfg Config
	cl  *kgo.Client
}

// NewProducer makes a producer. It connects with the first record. Errors are *ConfigError or the client's.
func NewProducer(cfg Config) (*Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	cl, err := kgo.NewClient(append(cfg.clientOpts(),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.RecordPartitioner(partitioner{}),
		kgo.MaxBufferedRecords(cfg.ProduceBufferRecordsMax),
		kgo.MaxBufferedBytes(cfg.ProduceBufferBytesMax),
		// A topic that was just created may be on its way to all brokers, on a busy cluster for seconds; one that
		// stays away is an error within the produce timeout.
		kgo.UnknownTopicRetries(10),
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
			if n, ok := cfg.TopicBatchBytesMax[topic]; ok {
				return n
			}
			return cfg.BatchBytesMax
		}),
		// A caller waits for most records of ours, so nothing is held back.
		kgo.ProducerLinger(0),
	)...)
	if err != nil {
		return nil, fmt.Errorf("make producer: %w", err)
	}
	return &Producer{cfg: cfg, cl: cl}, nil
}

// errNoAnswer ends the wait for a record whose fate is open.
var errNoAnswer = errors.New("no answer yet: it may still be written")

// Produce writes records and waits for all of them, until ctx ends or for Config.ProduceTimeout. The answer has one
// entry per record, in their order. Records of one partition keep their order, those of different partitions have
// none. The error joins those of the records, so nil means that every record is durable. A record with an error may
// have been written, or may be later: write it again only where a double is harmless.
func (p *Producer) Produce(ctx context.Context, outs []Out) ([]Placed, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.ProduceTimeout)
	defer cancel()
	var mu sync.Mutex // guards placed and left: an answer may come after we have given up
	placed := make([]Placed, len(outs))
	left := len(outs)
	all := make(chan struct{})
	if left == 0 {
		close(all)
	}
	for i, o := range outs {
		placed[i] = Placed{TP: TP{o.Topic, o.Partition}, Offset: -1, Err: fmt.Errorf("write to %s: %w", o.Topic, errNoAnswer)}
	}
	for i := range outs {
		p.ProduceAsync(ctx, outs[i], func(pl Placed) {
			mu.Lock()
			defer mu.Unlock()
			placed[i] = pl
			if left--; left == 0 {
				close(all)
			}
		})
	}
	var ended error
	select {
	case <-all:
	case <-ctx.Done():
		ended = ctx.Err()
	}
	mu.Lock()
	defer mu.Unlock()
	placed = slices.Clone(placed)
	var errs []error
	for i := range placed {
		if err := placed[i].Err; errors.Is(err, errNoAnswer) && ended != nil {
			placed[i].Err = fmt.Errorf("%w (%w)", err, ended)
		}
		if placed[i].Err != nil {
			errs = append(errs, placed[i].Err)
		}
	}
	return placed, errors.Join(errs...)
}

// ProduceAsync writes a record and calls done once, from one of the producer's goroutines, which must not be blocked
// and must not call Produce. It blocks only while the buffer is full, until ctx ends or for Config.ProduceTimeout;
// once the record is buffered, ctx has no meaning. A record that was sent and not answered is repeated, under the
// same sequence number, until the broker answers or the producer is closed: only that tells whether it is written.
func (p *Producer) ProduceAsync(ctx context.Context, o Out, done func(Placed)) {
	r := &kgo.Record{Topic: o.Topic, Partition: o.Partition, Key: o.Key, Value: o.Value, Timestamp: o.Timestamp}
	if len(o.Headers) > 0 {
		r.Headers = make([]kgo.RecordHeader, len(o.Headers))
		for i, h := range o.Headers {
			r.Headers[i] = kgo.RecordHeader{Key: h.Key, Value: h.Value}
		}
	}
	// Not the caller's context: the client fails all records of a partition when one's context ends, so one
	// caller's end would fail the others' records. And not the client's delivery timeout, which counts from the
	// record's timestamp: a copy of an old record would be late at birth.
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), p.cfg.ProduceTimeout)
	buffered := context.AfterFunc(ctx, cancel)
	p.cl.Produce(rctx, r, func(r *kgo.Record, err error) {
		cancel()
		pl := Placed{TP: TP{r.Topic, r.Partition}, Offset: r.Offset}
		if err != nil {
			pl.Offset = -1
			pl.Err = fmt.Errorf("write to %s%s: %w", o.Topic, hint(err), err)
		}
		p.cfg.Metrics.Produced(o.Topic, len(o.Key)+len(o.Value), err)
		done(pl)
	})
	buffered()
}

// hint adds what an operator can do about the errors whose text does not say it.
func hint(err error) string {
	switch {
	case errors.Is(err, kerr.MessageTooLarge):
		return " (raise its max.message.bytes, and batch bytes with it)"
	case errors.Is(err, kerr.NotEnoughReplicas), errors.Is(err, kerr.NotEnoughReplicasAfterAppend):
		return " (fewer replicas in sync than min.insync.replicas)"
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		return " (it does not exist: create it)"
	}
	return ""
}

// Flush waits until everything buffered is written or has failed.
func (p *Producer) Flush(ctx context.Context) error {
	if err := p.cl.Flush(ctx); err != nil {
		return fmt.Errorf("flush producer: %w", err)
	}
	return nil
}

// Close ends the producer. Records still buffered fail: Flush before.
func (p *Producer) Close() { p.cl.Close() }

// partitioner takes the record's partition if it has one, else partitions by key.
type partitioner struct{}

func (partitioner) ForTopic(topic string) kgo.TopicPartitioner {
	return &topicPartitioner{kgo.StickyKeyPartitioner(nil).ForTopic(topic)}
}

type topicPartitioner struct{ byKey kgo.TopicPartitioner }

var (
	_ kgo.TopicPartitioner           = (*topicPartitioner)(nil)
	_ kgo.TopicPartitionerOnNewBatch = (*topicPartitioner)(nil)
)

func (t *topicPartitioner) RequiresConsistency(r *kgo.Record) bool {
	return r.Partition >= 0 || t.byKey.RequiresConsistency(r)
}

// Partition may answer one that the topic does not have; the client then fails the record.
func (t *topicPartitioner) Partition(r *kgo.Record, n int) int {
	if r.Partition >= 0 {
		return int(r.Partition)
	}
	return t.byKey.Partition(r, n)
}

func (t *topicPartitioner) OnNewBatch() {
	if nb, ok := t.byKey.(kgo.TopicPartitionerOnNewBatch); ok {
		nb.OnNewBatch()
	}
}
