package kafka

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weirsync/weir/checkpoint"
)

// Timestamps with a meaning of their own in ListOffsets.
const (
	listEnd   int64 = -1
	listStart int64 = -2
)

// Isolation levels in ListOffsets and Fetch.
const readCommitted int8 = 1

func (tp TP) String() string { return fmt.Sprintf("%s/%d", tp.Topic, tp.Partition) }

func compareTP(a, b TP) int {
	return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
}

func sortedKeys[V any](m map[TP]V) []TP { return slices.SortedFunc(maps.Keys(m), compareTP) }

// byTopic groups partitions as the client wants them.
func byTopic(tps ...TP) map[string][]int32 {
	m := make(map[string][]int32)
	for _, tp := range tps {
		m[tp.Topic] = append(m[tp.Topic], tp.Partition)
	}
	return m
}

func flatten(m map[string][]int32) []TP {
	var tps []TP
	for t, ps := range m {
		for _, p := range ps {
			tps = append(tps, TP{t, p})
		}
	}
	slices.SortFunc(tps, compareTP)
	return tps
}

// A listed is one partition's answer to ListOffsets.
type listed struct {
	offset int64
	err    error
}

// listOffsets asks the leaders for offsets by timestamp. Every asked partition is in the answer: a broker that
// could not be reached is an error of its partitions. The error is set only if nothing at all came back.
func listOffsets(ctx context.Context, cl *kgo.Client, tps []TP, timestamp int64) (map[TP]listed, error) {
	out := make(map[TP]listed, len(tps))
	if len(tps) == 0 {
		return out, nil
	}
	req := kmsg.NewPtrListOffsetsRequest()
	req.IsolationLevel = readCommitted // so "end" means the last stable offset
	for t, ps := range byTopic(tps...) {
		rt := kmsg.NewListOffsetsRequestTopic()
		rt.Topic = t
		for _, p := range ps {
			rp := kmsg.NewListOffsetsRequestTopicPartition()
			rp.Partition, rp.Timestamp = p, timestamp
			rt.Partitions = append(rt.Partitions, rp)
		}
		req.Topics = append(req.Topics, rt)
	}
	var failed error
	for _, shard := range cl.RequestSharded(ctx, req) {
		if shard.Err != nil {
			failed = shard.Err
			if sr, ok := shard.Req.(*kmsg.ListOffsetsRequest); ok {
				for _, t := range sr.Topics {
					for _, p := range t.Partitions {
						out[TP{t.Topic, p.Partition}] = listed{-1, shard.Err}
					}
				}
			}
			continue
		}
		for _, t := range shard.Resp.(*kmsg.ListOffsetsResponse).Topics {
			for _, p := range t.Partitions {
				out[TP{t.Topic, p.Partition}] = listed{p.Offset, kerr.ErrorForCode(p.ErrorCode)}
			}
		}
	}
	good := 0
	for _, tp := range tps {
		l, ok := out[tp]
		if !ok {
			out[tp] = listed{-1, cmp.Or(failed, error(kerr.UnknownTopicOrPartition))}
		} else if l.err == nil {
			good++
		}
	}
	if good == 0 && failed != nil {
		return nil, failed
	}
	return out, nil
}

// A topicMeta is what one metadata answer says of a topic.
type topicMeta struct {
	id         checkpoint.TopicID
	partitions int
	err        error
}

func (m topicMeta) missing() bool {
	return errors.Is(m.err, kerr.UnknownTopicOrPartition) || errors.Is(m.err, kerr.UnknownTopicID)
}

// topicsMeta asks a broker for topics, past the client's cache, so that a recreated topic is seen at once.
func topicsMeta(ctx context.Context, cl *kgo.Client, topics []string) (map[string]topicMeta, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, t := range topics {
		rt := kmsg.NewMetadataRequestTopic()
		rt.Topic = kmsg.StringPtr(t)
		req.Topics = append(req.Topics, rt)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	out := make(map[string]topicMeta, len(topics))
	for _, t := range resp.Topics {
		if t.Topic != nil {
			out[*t.Topic] = topicMeta{id: t.TopicID, partitions: len(t.Partitions), err: kerr.ErrorForCode(t.ErrorCode)}
		}
	}
	for _, t := range topics {
		if _, ok := out[t]; !ok {
			out[t] = topicMeta{err: kerr.UnknownTopicOrPartition}
		}
	}
	return out, nil
}

// ranges lists log start and last stable offset, one error per partition that cannot say.
func ranges(ctx context.Context, cl *kgo.Client, tps []TP) (starts, ends map[TP]listed, err error) {
	if starts, err = listOffsets(ctx, cl, tps, listStart); err != nil {
		return nil, nil, err
	}
	if ends, err = listOffsets(ctx, cl, tps, listEnd); err != nil {
		return nil, nil, err
	}
	return starts, ends, nil
}

// ends is the body of Consumer.Ends and Admin.Ends.
func readEnds(ctx context.Context, cl *kgo.Client, tps []TP) (map[TP]End, error) {
	starts, ends, err := ranges(ctx, cl, tps)
	if err != nil {
		return nil, fmt.Errorf("list offsets of %d partitions: %w", len(tps), err)
	}
	out := make(map[TP]End, len(tps))
	var errs []error
	now := time.Now().UTC()
	for _, tp := range tps {
		if err := cmp.Or(starts[tp].err, ends[tp].err); err != nil {
			errs = append(errs, fmt.Errorf("list offsets of %v: %w", tp, err))
			continue
		}
		out[tp] = End{TP: tp, LogStart: starts[tp].offset, End: ends[tp].offset, At: now}
	}
	return out, errors.Join(errs...)
}

// offsetsAt finds the first offset at or after a time, the last stable offset where there is none.
func offsetsAt(ctx context.Context, cl *kgo.Client, tps []TP, at time.Time) (map[TP]int64, error) {
	ends, err := listOffsets(ctx, cl, tps, listEnd)
	if err != nil {
		return nil, fmt.Errorf("list ends of %d partitions: %w", len(tps), err)
	}
	// A negative timestamp would mean something else to the broker.
	found, err := listOffsets(ctx, cl, tps, max(at.UnixMilli(), 0))
	if err != nil {
		return nil, fmt.Errorf("list offsets at %s of %d partitions: %w", at.UTC().Format(time.RFC3339), len(tps), err)
	}
	out := make(map[TP]int64, len(tps))
	for _, tp := range tps {
		if err := cmp.Or(ends[tp].err, found[tp].err); err != nil {
			return nil, fmt.Errorf("list offset at %s of %v: %w", at.UTC().Format(time.RFC3339), tp, err)
		}
		out[tp] = ends[tp].offset
		if o := found[tp].offset; o >= 0 {
			out[tp] = min(o, out[tp])
		}
	}
	return out, nil
}
