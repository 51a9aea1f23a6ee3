// Package bare is a consumer group member as one writes it in ten lines: franz-go with its defaults, offsets committed
// every five seconds whatever became of the records. It keeps no order and loses records in a crash. It is the floor
// that the benchmark puts beside Weir's figures, and of no other use.
package bare

import (
	"context"
	"errors"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
)

// Consume reads a topic from its start, as a member of a group that has no offsets yet, and calls f with the value of
// each record until ctx ends. The value is valid after f has returned.
func Consume(ctx context.Context, brokers []string, group, topic string, f func(value []byte)) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		return fmt.Errorf("make consumer: %w", err)
	}
	defer cl.Close()
	for {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			return nil
		}
		for _, e := range fetches.Errors() {
			if !errors.Is(e.Err, context.Canceled) {
				return fmt.Errorf("read %s/%d: %w", e.Topic, e.Partition, e.Err)
			}
		}
		fetches.EachRecord(func(r *kgo.Record) { f(r.Value) })
	}
}
