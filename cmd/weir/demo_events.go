package main

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/sample"
	"github.com/weirsync/weir/schema"
)

// demoBrokenEvery: one record in so many is no event at all.
const demoBrokenEvery = 200

// A demoPublisher writes a demo's events at an even rate. count may be read while it runs.
type demoPublisher struct {
	contract *contract
	brokers  []string
	events   int // records in all
	span     time.Duration
	seed     uint64
	count    atomic.Int64 // acknowledged
}

// run publishes until all events are written or ctx ends. An error is that of the first record that the broker did
// not take.
func (p *demoPublisher) run(ctx context.Context) error {
	producer, err := kafka.NewProducer(kafka.Config{Brokers: p.brokers})
	if err != nil {
		return environment("publish the demo's events", err, "")
	}
	defer producer.Close()
	broken := p.events / demoBrokenEvery
	mix := sample.Demo(p.seed, max(p.events-broken, 1))
	mix.MagicShare = 0.005    // each 42901 among them closes Push Cash's quota for a second
	mix.PaymentMethods = true // FinFusion's invoices need one, the others do not mind
	g, err := sample.New(mix)
	if err != nil {
		return yours("--events", err, "")
	}
	var failed atomic.Pointer[error]
	start := time.Now()
	var last *kafka.Out // what a broken record is made of
	for n := 0; n < p.events; n++ {
		due := time.Duration(float64(p.span) * float64(n) / float64(p.events))
		if wait := due - time.Since(start); wait > 0 {
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil || failed.Load() != nil {
			break
		}
		var out *kafka.Out
		if n%demoBrokenEvery == demoBrokenEvery-1 && last != nil {
			out = brokenRecord(last, n/demoBrokenEvery)
		} else {
			it, ok := g.Next()
			if !ok {
				break
			}
			if out, err = p.record(it); err != nil {
				return err
			}
			if out.Value != nil {
				last = out
			}
		}
		producer.ProduceAsync(ctx, *out, func(pl kafka.Placed) {
			if pl.Err != nil {
				failed.CompareAndSwap(nil, &pl.Err)
				return
			}
			p.count.Add(1)
		})
	}
	flushCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	err = producer.Flush(flushCtx)
	if f := failed.Load(); f != nil && ctx.Err() == nil {
		err = errors.Join(err, *f)
	}
	if err != nil {
		return environment("publish the demo's events", err, "")
	}
	return nil
}

// record is a sample event as a publisher sends it. Unlike `weir publish` it does not read the event back: some break a
// rule on purpose.
func (p *demoPublisher) record(it sample.Item) (*kafka.Out, error) {
	out := &kafka.Out{Topic: canonicalTopic(it.Entity), Partition: -1, Key: []byte(it.Key)}
	for _, h := range it.Headers {
		out.Headers = append(out.Headers, schema.Header{Key: h.Key, Value: []byte(h.Value)})
	}
	if it.Event == nil {
		return out, nil
	}
	var err error
	if out.Value, err = p.contract.set.Encode(it.Entity, it.Event); err != nil {
		return nil, fmt.Errorf("encode a sample event: %w", err)
	}
	return out, nil
}

// brokenRecord is what publishers get wrong, one kind after the other, under a key of its own.
func brokenRecord(like *kafka.Out, n int) *kafka.Out {
	out := &kafka.Out{Topic: like.Topic, Partition: -1, Key: []byte(fmt.Sprintf("broken_%04d", n))}
	switch n % 4 {
	case 0: // JSON where Avro is agreed
		out.Value = []byte(`{"customer_id":"CUST-1"}`)
	case 1: // cut off
		out.Value = like.Value[:len(like.Value)/2]
	case 2: // an event under another entity's key
		out.Value = like.Value
	case 3: // a schema that nobody has registered
		out.Value = append([]byte{0, 0x7f, 0xff, 0xff, 0xff}, like.Value[5:]...)
	}
	return out
}
