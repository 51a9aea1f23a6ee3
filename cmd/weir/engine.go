package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/failpoint"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/metrics"
	"github.com/weirsync/weir/connector/profile"
)

// runConnector wires one connector to Kafka, the store and its vendor, and runs it until ctx ends, then drains it.
func runConnector(ctx context.Context, r connectorRun) error {
	kc := r.Kafka
	kc.Group = config.Group(r.Name)
	kc.Topics = slices.Sorted(maps.Keys(r.Topics))
	admin, err := kafka.NewAdmin(kc)
	if err != nil {
		return environment("connect to Kafka", err, "")
	}
	defer admin.Close()
	batches, err := ensureTopics(ctx, admin, r, kc.Topics)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return nil // stopped before it began
	}
	kc.TopicBatchBytesMax = batches
	producer, err := kafka.NewProducer(kc)
	if err != nil {
		return environment("connect to Kafka", err, "")
	}
	defer producer.Close()
	reader, err := kafka.NewReader(kc)
	if err != nil {
		return environment("connect to Kafka", err, "")
	}
	defer reader.Close()

	secret := r.live.secret
	roots, err := r.Config.Roots()
	if err != nil {
		return yours("connector "+r.Name, err, "")
	}
	sender := deliver.NewSender(deliver.SenderConfig{
		BaseURL: r.Profile.BaseURL, Connections: r.Config.Delivery.MaxInFlight, Timeout: time.Duration(r.Config.Delivery.RequestTimeout),
		UserAgent:  "weir/" + readBuild().Version,
		Operations: r.Profile.Operations,
		Credential: deliver.NewCredential(r.Profile, secret).Overlap(r.live.previous), Proxy: r.Config.Proxy, Roots: roots,
		Sending: func() { failpoint.Hit("sent") },
	})
	routes := make(map[string][]string)
	for topic, entity := range r.Topics {
		for _, rt := range r.Profile.RoutesFor(entity) {
			routes[topic] = append(routes[topic], rt.Name)
		}
	}
	if err := rememberUses(ctx, r.Store, r.Name, sender); err != nil {
		r.Log.Warn("what an earlier process knew of the use of secrets is not known", "connector", r.Name, "error", err.Error())
	}
	r.Registry.MustRegister(metrics.Credentials(sender.Uses), metrics.Spending(sender.Spent))
	life := newSecretWatch(r)
	r.Registry.MustRegister(life.ends)
	observer := metrics.New(r.Registry, vendorOf(r.Profile), routes)
	cfg := connector.Config{
		Name: r.Name, Instance: r.Instance, Profile: r.Profile, Decoder: r.Decoder, Store: r.Store, Producer: producer, Reader: reader, Sender: sender,
		Topics: r.Topics, Start: startOptions(r, admin),
		MaxInFlight: r.Config.Delivery.MaxInFlight, SchedLatency: connector.SchedLatency(), AttemptsMax: r.Config.Delivery.AttemptsMax, ElapsedMax: time.Duration(r.Config.Delivery.ElapsedMax),
		ReferenceWait: time.Duration(r.Config.Delivery.ReferenceWait),
		Drain:         time.Duration(r.Config.Delivery.DrainTimeout), WindowRecords: r.Config.Window.Records, WindowBytes: int64(r.Config.Window.Bytes),
		DryRun: r.Config.DryRun(), CalledBack: r.Facts, Log: r.Log, Observer: observer, Fail: failpoint.Hit,
		SecretsPrint: func() string {
			h := sha256.New()
			for _, name := range append(slices.Clone(r.Profile.Secrets), r.Profile.OptionalSecrets...) {
				v, err := secret(name)
				old, _ := r.live.previous(name)
				fmt.Fprintf(h, "%d:%s%v%d:%s;", len(v), v, err, len(old), old)
			}
			return hex.EncodeToString(h.Sum(nil))
		},
		Recompile: func(text []byte) (*profile.Compiled, error) {
			return profile.CompileText(text, profile.Options{RequestTimeout: r.Config.Delivery.RequestTimeout.D(), Connector: r.Key, Environment: r.Config.Environment, BaseURL: r.Config.BaseURL,
				LimitScale: r.LimitScale, Schemas: r.Schemas})
		},
	}
	var consumer *kafka.Consumer
	cfg.Ends = func(ctx context.Context) (map[kafka.TP]int64, error) {
		ends, err := consumer.Ends(ctx)
		out := make(map[kafka.TP]int64, len(ends))
		for tp, e := range ends {
			out[tp] = e.End
		}
		return out, err
	}
	c, err := connector.New(cfg, func(h kafka.Handler) (connector.Source, error) {
		var err error
		consumer, err = kafka.New(kc, h, r.Log)
		return consumer, err
	})
	if err != nil {
		return err
	}
	if r.Watch != nil {
		r.Watch(c)
	}
	r.live.attach(c)
	watch, stop := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() { life.watch(watch) })
	watchers.Go(func() { watchRetention(watch, admin, kc.Topics, observer) })
	if r.Contract != nil {
		r.Contract.sender, r.Contract.drifted, r.Contract.log = sender, observer.Drifted, r.Log.With("connector", r.Name)
		watchers.Go(func() { r.Contract.watch(watch) })
	}
	defer func() { stop(); watchers.Wait() }()
	return c.Run(ctx)
}

// vendorOf is what metrics say of the vendor.
func vendorOf(p *profile.Compiled) metrics.Vendor {
	v := metrics.Vendor{Name: p.Vendor, Methods: make(map[string]string, len(p.Operations))}
	if u, err := url.Parse(p.BaseURL); err == nil {
		v.Address = u.Host
	}
	for name, op := range p.Operations {
		v.Methods[name] = op.Method
	}
	return v
}

// retentionEvery is how often the topics' retention is read: somebody may shorten it while there is a backlog.
const retentionEvery = 5 * time.Minute

// watchRetention shows for how long the topics keep records, until ctx ends. Kafka being away is told elsewhere.
func watchRetention(ctx context.Context, admin *kafka.Admin, topics []string, o *metrics.Observer) {
	t := time.NewTicker(retentionEvery)
	defer t.Stop()
	for {
		if infos, err := admin.Topics(ctx, topics...); err == nil {
			for _, i := range infos {
				if i.Exists && i.ConfigErr == nil {
					o.Retention(i.Name, time.Duration(i.RetentionMs)*time.Millisecond)
				}
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// ensureTopics makes the connector's own topics, and learns how large their batches may be. Kafka being away is no
// reason to end: it is tried again until ctx ends.
func ensureTopics(ctx context.Context, admin *kafka.Admin, r connectorRun, sources []string) (map[string]int32, error) {
	b := deliver.NewBackoff(500 * time.Millisecond)
	told := false
	for {
		made, err := admin.EnsureTopics(ctx, kafka.TopicPlan{Connector: r.Name, Sources: sources, Facts: r.Facts})
		if err == nil {
			sizes := make(map[string]int32, len(made))
			for _, m := range made {
				sizes[m.Topic] = int32(min(m.MessageBytesMax, math.MaxInt32))
				if m.Created {
					r.Log.Info("topic created", "topic", m.Topic)
				}
			}
			if told {
				r.Log.Info("the topics are ready")
			}
			return sizes, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		if kafka.KindOf(err) == kafka.KindConfig {
			return nil, yours("make the topics of connector "+r.Name, err, "")
		}
		if !told {
			told = true
			r.Log.Error("the topics are not ready yet; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(b.Next()):
		}
	}
}

func startOptions(r connectorRun, admin *kafka.Admin) connector.StartOptions {
	o := connector.StartOptions{Policy: kafka.StartEarliest, StoreLost: r.StoreLost, AcceptGap: make(map[kafka.TP]bool), AcceptTopic: make(map[string]bool)}
	for _, g := range r.AcceptGaps {
		o.AcceptGap[g] = true
	}
	for _, t := range r.AcceptTopics {
		o.AcceptTopic[t] = true
	}
	switch s := r.Config.Start; {
	case s.Latest:
		o.Policy = kafka.StartLatest
	case !s.Time.IsZero():
		o.Policy = kafka.StartTime
		o.OffsetAt = func(ctx context.Context, tp kafka.TP) (int64, error) {
			at, err := admin.OffsetsAt(ctx, s.Time, tp)
			return at[tp], err
		}
	}
	return o
}
