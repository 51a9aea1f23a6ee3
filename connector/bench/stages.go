package bench

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/lane"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// A Stage is what one event costs in one part of its way, measured alone in this process.
type Stage struct {
	Name   string  `json:"name"`
	NS     float64 `json:"ns_per_event"` // CPU of all cores
	Allocs float64 `json:"allocs_per_event"`
}

const (
	stageEvents   = 4096 // different events that a stage goes round
	stageTime     = 300 * time.Millisecond
	settleBatch   = 512
	stageInFlight = 64
)

// measure calls f, which handles n events, until stageTime has passed.
func measure(name string, n int, f func() error) (Stage, error) {
	if err := f(); err != nil { // once to fill caches
		return Stage{}, fmt.Errorf("stage %s: %w", name, err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cpu, began, events := cpuTime(), time.Now(), 0
	for time.Since(began) < stageTime {
		if err := f(); err != nil {
			return Stage{}, fmt.Errorf("stage %s: %w", name, err)
		}
		events += n
	}
	used := cpuTime() - cpu
	runtime.ReadMemStats(&after)
	return Stage{Name: name, NS: round(float64(used)/float64(events), 0), Allocs: round(float64(after.Mallocs-before.Mallocs)/float64(events), 1)}, nil
}

// stages measures each stage with the events of the run.
func (b *bench) stages(ctx context.Context) (stages []Stage, err error) {
	set, err := schema.Embedded()
	if err != nil {
		return nil, err
	}
	rules, err := schema.EmbeddedRules(set)
	if err != nil {
		return nil, err
	}
	pr, err := profile.Parse("bench.yaml", profileText)
	if err != nil {
		return nil, err
	}
	compiled, err := pr.Compile(profile.Options{Connector: "bench", BaseURL: "http://" + b.vendor.addr, Schemas: set})
	if err != nil {
		return nil, err
	}
	route := compiled.RoutesFor(entity)[0]
	n := min(stageEvents, len(b.values.values))
	dec := schema.NewDecoder(set, nil, schema.DecoderOptions{Topics: map[string]string{"t": entity}})
	events, requests := make([]*schema.Event, n), make([]*profile.Request, n)
	add := func(name string, n int, f func() error) {
		if err == nil {
			var s Stage
			if s, err = measure(name, n, f); err == nil {
				stages = append(stages, s)
			}
		}
	}
	b.o.Progress("stages", 0, 7)
	add("decode and project", n, func() error {
		for i := range events {
			var err error
			if events[i], err = dec.Decode(ctx, &schema.Record{Topic: "t", Key: []byte(b.values.keys[i]), Value: b.values.values[i], Offset: int64(i)}); err != nil {
				return err
			}
		}
		return nil
	})
	add("rules", n, func() error {
		for _, ev := range events {
			if v := rules.Check(entity, ev.Fields); v != nil {
				return fmt.Errorf("event breaks rule %s", v.Rule)
			}
		}
		return nil
	})
	b.o.Progress("stages", 2, 7)
	add("map (plan, request, hash)", n, func() error {
		for i, ev := range events {
			in := &profile.Input{Event: ev}
			plan, err := route.Plan(in)
			if err != nil {
				return err
			}
			if requests[i], err = plan.Steps[0].Build(in, 0); err != nil {
				return err
			}
		}
		return nil
	})
	add("hash (key and fingerprint, part of map)", n, func() error {
		for i, r := range requests {
			_ = profile.Key("bench", route.Name, "put", events[i].Key, 0)
			sum := sha256.Sum256(r.Body)
			_ = hex.EncodeToString(sum[:])
		}
		return nil
	})
	lanes, at := lane.NewSet[int](0), int64(0)
	add("lane", n, func() error {
		for _, ev := range events {
			t := &lane.Task[int]{Offset: at, Route: route, Event: ev}
			lanes.Add(at, 1, 400)
			lanes.Admit(t, checkpoint.EntityKey{Entity: entity, Key: ev.Key}, nil, false, nil)
			lanes.Settle(at)
			lanes.Remove(t)
			at++
		}
		return nil
	})
	b.o.Progress("stages", 5, 7)
	if err != nil {
		return nil, err
	}
	if _, err := b.vendor.ask(request{Do: "arm", Events: len(b.values.values), Keys: b.w.keys}); err != nil {
		return nil, err
	}
	sender := deliver.NewSender(deliver.SenderConfig{BaseURL: "http://" + b.vendor.addr, Connections: stageInFlight})
	defer sender.Close()
	add("HTTP", n, func() error {
		var wg sync.WaitGroup
		errs := make(chan error, stageInFlight)
		for w := range stageInFlight {
			wg.Go(func() {
				for i := w; i < n; i += stageInFlight {
					if ex := sender.Send(ctx, requests[i]); ex.Sent != checkpoint.Answered {
						errs <- ex.Err
						return
					}
				}
			})
		}
		wg.Wait()
		close(errs)
		return <-errs
	})
	if err != nil {
		return nil, err
	}
	s, err := b.settleStage(ctx, compiled, route, events, requests)
	return append(stages, s), err
}

// settleStage makes outcomes durable, as many in a transaction as the engine gathers under load.
func (b *bench) settleStage(ctx context.Context, c *profile.Compiled, route *profile.Route, events []*schema.Event, requests []*profile.Request) (s Stage, err error) {
	dir, err := os.MkdirTemp(b.o.Dir, "stage-")
	if err != nil {
		return s, fmt.Errorf("make a folder for the store: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	store, err := sqlite.Open(ctx, filepath.Join(dir, "weir.db"), sqlite.Options{})
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	rec, err := store.Acquire(ctx, checkpoint.Partition{Connector: "bench", Topic: "t"}, "bench")
	if err != nil {
		return s, err
	}
	off := int64(0)
	n := min(settleBatch, len(events))
	return measure("settle (durable, "+strconv.Itoa(n)+" in a transaction)", n, func() error {
		batch := checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: rec.Lease, Mark: off + int64(n)}}}
		for range n {
			i := int(off) % len(events)
			ev, req := events[i], requests[i]
			now := time.Now().UTC()
			batch.Settlements = append(batch.Settlements, checkpoint.Settlement{Lease: rec.Lease,
				Row: checkpoint.Row{Offset: off, Route: route.Name, EventHash: uint64(off), Outcome: checkpoint.Delivered, VendorID: ev.Key, Mapping: c.Version, At: now,
					Event: checkpoint.Event{ID: ev.ID, Type: ev.Type, Source: ev.Source, CorrelationID: ev.CorrelationID, Tenant: ev.Tenant, Entity: ev.Entity, Key: ev.Key,
						Version: ev.Version, Operation: string(ev.Operation), OccurredAt: ev.OccurredAt, Schema: string(ev.Subject)},
					Plan:     []checkpoint.Step{{Step: req.Step, Operation: req.Operation.Name, IdempotencyKey: req.IdempotencyKey}},
					Attempts: []checkpoint.Attempt{{N: 1, At: now, Step: req.Step, Status: 200, Verdict: string(profile.Accept), Sent: checkpoint.Answered, Took: time.Millisecond}}},
				State: &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: ev.Entity, Key: ev.Key}, Tenant: ev.Tenant, Versions: checkpoint.Table[int64]{{Name: ev.Source, Value: ev.Version}},
					Routes: checkpoint.Table[checkpoint.RouteState]{{Name: route.Name, Value: checkpoint.RouteState{Version: ev.Version, Fingerprint: req.Fingerprint}}}}})
			off++
		}
		_, err := store.Settle(ctx, batch)
		return err
	})
}
