package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weirsync/weir/checkpoint"
)

// readBytesMax is what one fetch of a Reader asks for. A larger record still comes whole (KIP-74).
const readBytesMax = 1 << 20

// A Reader fetches single records by their position, without a group: parked records, their originals, payloads for
// a trace. It reads committed records only. Safe for concurrent use.
type Reader struct {
	cfg Config
	cl  *kgo.Client
	dec kgo.Decompressor
}

// NewReader makes a reader. It connects with the first read. Errors are *ConfigError or the client's.
func NewReader(cfg Config) (*Reader, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	cl, err := kgo.NewClient(cfg.clientOpts()...)
	if err != nil {
		return nil, fmt.Errorf("make reader: %w", err)
	}
	return &Reader{cfg: cfg, cl: cl, dec: kgo.DefaultDecompressor()}, nil
}

// Close ends the reader.
func (r *Reader) Close() { r.cl.Close() }

// A Read is one position's record or why there is none.
type Read struct {
	TP
	Offset int64
	Record *Record // nil if Err is not nil
	Err    error   // ErrGone, ErrNotYet, ErrNoTopic, or what kept us from reading
}

// ReadAt reads one record. ErrGone if it is deleted, compacted, or of an aborted transaction; ErrNotYet at or after
// the last stable offset; ErrNoTopic. A control record (transaction marker) comes with Control set.
func (r *Reader) ReadAt(ctx context.Context, topic string, partition int32, offset int64) (*Record, error) {
	rs, err := r.ReadMany(ctx, TP{topic, partition}, []int64{offset})
	if err != nil {
		return nil, err
	}
	return rs[0].Record, rs[0].Err
}

// ReadMany reads records of one partition. The answer has one entry per offset, in the order of offsets, which may
// be any and may repeat. Neighbours come with one request. The error is what ended the reading as a whole: a ctx that
// ended, Kafka not answering for Config.RequestTimeout without any progress.
func (r *Reader) ReadMany(ctx context.Context, tp TP, offsets []int64) ([]Read, error) {
	order := make([]int, len(offsets))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(max(min(offsets[a]-offsets[b], 1), -1)) })
	out := make([]Read, len(offsets))
	for i, o := range offsets {
		out[i] = Read{TP: tp, Offset: o}
	}
	progress := time.Now()
	empty := int64(-1) // the wanted offset that was answered with nothing
	for next := 0; next < len(order); {
		want := offsets[order[next]]
		if want < 0 {
			out[order[next]].Err = fmt.Errorf("read %v/%d: %w", tp, want, ErrGone)
			next++
			continue
		}
		records, until, err := r.fetch(ctx, tp, want)
		if again := err != nil && kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err); again && !isNoTopic(err) {
			if time.Since(progress) < r.cfg.RequestTimeout {
				select {
				case <-ctx.Done():
					return nil, fmt.Errorf("read %v/%d: %w", tp, want, ctx.Err())
				case <-time.After(100 * time.Millisecond):
				}
				continue
			}
		}
		switch {
		case isNoTopic(err):
			for ; next < len(order); next++ {
				out[order[next]].Err = fmt.Errorf("read %v/%d: %w", tp, offsets[order[next]], ErrNoTopic)
			}
			return out, nil
		case errors.Is(err, ErrGone), errors.Is(err, ErrNotYet):
			out[order[next]].Err = fmt.Errorf("read %v/%d: %w", tp, want, err)
			next++
			progress = time.Now()
			continue
		case err != nil:
			return nil, fmt.Errorf("read %v/%d: %w", tp, want, err)
		}
		progress = time.Now()
		if until <= want {
			// Below the last stable offset, and the broker gave nothing. If it does so twice, the rest of the log
			// was compacted away; once may be a slow disk or tiered storage.
			if empty != want {
				empty = want
				continue
			}
			until = want + 1
		}
		// The answer settles every wanted offset below until: it is in records or not in the log.
		for i := 0; next < len(order) && offsets[order[next]] < until; next++ {
			o := offsets[order[next]]
			for i < len(records) && records[i].Offset < o {
				i++
			}
			if i < len(records) && records[i].Offset == o {
				out[order[next]].Record = records[i]
			} else {
				out[order[next]].Err = fmt.Errorf("read %v/%d: %w", tp, o, ErrGone)
			}
		}
	}
	return out, nil
}

// Scan calls f with each committed record in [from, to), control records included, in offset order, and returns f's
// error as it is. Gaps of compaction and aborted transactions are passed over. Each answer holds at most a few
// megabytes, so memory does not grow with the range. Errors of the reading are those of ReadMany; ErrNotYet if to is
// above the last stable offset, ErrGone if from is below the log start.
func (r *Reader) Scan(ctx context.Context, tp TP, from, to int64, f func(*Record) error) error {
	progress := time.Now()
	empty := int64(-1) // the offset that was answered with nothing
	for at := from; at < to; {
		records, until, err := r.fetch(ctx, tp, at)
		if again := err != nil && kerr.IsRetriable(err) || kgo.IsRetryableBrokerErr(err); again && !isNoTopic(err) && time.Since(progress) < r.cfg.RequestTimeout {
			select {
			case <-ctx.Done():
				return fmt.Errorf("read %v from %d: %w", tp, at, ctx.Err())
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		switch {
		case isNoTopic(err):
			return fmt.Errorf("read %v from %d: %w", tp, at, ErrNoTopic)
		case err != nil:
			return fmt.Errorf("read %v from %d: %w", tp, at, err)
		}
		progress = time.Now()
		for _, rec := range records {
			if rec.Offset < at {
				continue // the start of a batch that began earlier
			}
			if rec.Offset >= to {
				return nil
			}
			if err := f(rec); err != nil {
				return err
			}
		}
		if until <= at { // as in ReadMany
			if empty != at {
				empty = at
				continue
			}
			until = at + 1
		}
		at = until
	}
	return nil
}

// isNoTopic: an unknown topic id is not meant, it comes from a cached metadata answer and heals with the next one.
func isNoTopic(err error) bool { return errors.Is(err, kerr.UnknownTopicOrPartition) }

// fetch reads from offset on. The answer holds every committed record in [offset, until).
func (r *Reader) fetch(ctx context.Context, tp TP, offset int64) (rs []*Record, until int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.RequestTimeout)
	defer cancel()
	leader, epoch, id, err := r.leader(ctx, tp)
	if err != nil {
		return nil, 0, err
	}
	req := kmsg.NewPtrFetchRequest()
	req.ReplicaID = -1
	req.MaxWaitMillis, req.MinBytes, req.MaxBytes = 500, 1, readBytesMax
	req.IsolationLevel = readCommitted
	req.SessionID, req.SessionEpoch = 0, -1 // no fetch session
	rt := kmsg.NewFetchRequestTopic()
	rt.Topic, rt.TopicID = tp.Topic, id
	rp := kmsg.NewFetchRequestTopicPartition()
	rp.Partition, rp.FetchOffset, rp.PartitionMaxBytes, rp.CurrentLeaderEpoch = tp.Partition, offset, readBytesMax, epoch
	rt.Partitions = append(rt.Partitions, rp)
	req.Topics = append(req.Topics, rt)

	kresp, err := r.cl.Broker(int(leader)).Request(ctx, req)
	if err != nil {
		return nil, 0, err
	}
	resp := kresp.(*kmsg.FetchResponse)
	if err := kerr.ErrorForCode(resp.ErrorCode); err != nil {
		return nil, 0, err
	}
	if len(resp.Topics) != 1 || len(resp.Topics[0].Partitions) != 1 {
		return nil, 0, kerr.UnknownTopicOrPartition
	}
	fp, until := kgo.ProcessFetchPartition(kgo.ProcessFetchPartitionOpts{
		KeepControlRecords: true, Offset: offset, IsolationLevel: kgo.ReadCommitted(), Topic: tp.Topic, Partition: tp.Partition,
	}, &resp.Topics[0].Partitions[0], r.dec, func(kgo.FetchBatchMetrics) {})
	switch {
	case errors.Is(fp.Err, kerr.OffsetOutOfRange):
		ends, err := readEnds(ctx, r.cl, []TP{tp})
		if err != nil {
			return nil, 0, err
		}
		if offset < ends[tp].LogStart {
			return nil, 0, ErrGone
		}
		return nil, 0, ErrNotYet
	case fp.Err != nil:
		return nil, 0, fp.Err
	case offset >= fp.LastStableOffset:
		return nil, 0, ErrNotYet
	}
	for _, kr := range fp.Records {
		rec := toRecord(kr, id)
		rs = append(rs, &rec)
	}
	return rs, until, nil
}

// leader asks for a partition's leader, its epoch and the topic's id.
func (r *Reader) leader(ctx context.Context, tp TP) (leader, epoch int32, id checkpoint.TopicID, err error) {
	req := kmsg.NewPtrMetadataRequest()
	rt := kmsg.NewMetadataRequestTopic()
	rt.Topic = kmsg.StringPtr(tp.Topic)
	req.Topics = append(req.Topics, rt)
	resp, err := r.cl.RequestCachedMetadata(ctx, req, time.Second)
	if err != nil {
		return 0, 0, id, err
	}
	for _, t := range resp.Topics {
		if t.Topic == nil || *t.Topic != tp.Topic {
			continue
		}
		if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
			return 0, 0, id, err
		}
		for _, p := range t.Partitions {
			if p.Partition != tp.Partition {
				continue
			}
			if p.Leader < 0 {
				return 0, 0, id, kerr.LeaderNotAvailable
			}
			return p.Leader, p.LeaderEpoch, t.TopicID, nil
		}
	}
	return 0, 0, id, kerr.UnknownTopicOrPartition
}
