package verify

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

const (
	customers = "canonical.customer"
	invoices  = "canonical.invoice"
)

// A world is a small Kafka, ledger and vendor that a test writes by hand. It is Source and Ledger.
type world struct {
	opts    Options
	parts   []*worldPart
	parked  []checkpoint.Parked
	copies  map[string][]Copy
	effects []Effect
}

type worldPart struct {
	Partition
	records []Record
	rows    []checkpoint.Row
	skips   []checkpoint.Skip
	cursor  *checkpoint.Cursor
}

// newWorld has one partition per entity and four routes:
//
//	put_thing    customer, latest, class overwrite, no key: PUT by the entity's own id, with a reference
//	create_user  customer, latest, class key: the tag is the customer id
//	pay          invoice, every, class none: POST with a reference
//	bill         invoice, latest: cancel (overwrite, by vendor id) and create (class key)
//
// A test picks those that it needs.
func newWorld(routes ...string) *world {
	w := &world{copies: map[string][]Copy{}}
	w.opts = Options{Connector: "c", Complete: true, Classes: map[string]Class{
		"put_thing": ClassOverwrite, "create_user": ClassKey, "pay": ClassNone, "cancel": ClassOverwrite, "create": ClassKey, "find": ClassRead, "push": ClassAggregate}}
	all := map[string]Route{
		"put_thing":   {Name: "put_thing", Entity: "customer"},
		"create_user": {Name: "create_user", Entity: "customer", Operations: []schema.Operation{schema.Upsert}},
		"pay":         {Name: "pay", Entity: "invoice", Every: true},
		"bill":        {Name: "bill", Entity: "invoice"},
	}
	for _, r := range routes {
		w.opts.Routes = append(w.opts.Routes, all[r])
	}
	for i, topic := range []string{customers, invoices} {
		p := &worldPart{}
		p.Topic, p.Index, p.ID = topic, 0, checkpoint.TopicID{byte(i + 1)}
		p.Connector = "c"
		p.Entity = topic[len("canonical."):]
		w.parts = append(w.parts, p)
	}
	return w
}

func (w *world) part(topic string) *worldPart {
	for _, p := range w.parts {
		if p.Topic == topic {
			return p
		}
	}
	panic(topic)
}

// publish appends an upsert; its event id is "<key>-<version>".
func (w *world) publish(topic, key string, version int64) int64 {
	return w.publishAs(topic, key, version, fmt.Sprintf("%s-%d", key, version))
}

func (w *world) publishAs(topic, key string, version int64, eventID string) int64 {
	p := w.part(topic)
	off := p.End
	p.records = append(p.records, Record{Offset: off, Key: []byte(key), Value: fmt.Appendf(nil, "value of %s at %d", eventID, off),
		Headers: []schema.Header{{Key: "ce_type", Value: []byte("t")}},
		Event:   &schema.Event{ID: eventID, Source: "crm", Entity: p.Entity, Key: key, Version: version, Operation: schema.Upsert}})
	p.End++
	p.finish()
	return off
}

// garbage appends a record that does not decode; a marker is a transaction marker.
func (w *world) garbage(topic, key string) int64 {
	off := w.publishAs(topic, key, 0, "")
	r := &w.part(topic).records[len(w.part(topic).records)-1]
	r.Event, r.Refused = nil, true
	return off
}

func (w *world) marker(topic string) int64 {
	off := w.publishAs(topic, "", 0, "")
	w.part(topic).records[len(w.part(topic).records)-1] = Record{Offset: off, Control: true}
	return off
}

// finish says that all is settled and committed.
func (p *worldPart) finish() {
	p.Committed = p.End
	p.cursor = &checkpoint.Cursor{Partition: p.Partition.Partition, Epoch: 1, Mark: p.End, Horizon: p.End}
}

func (w *world) record(topic string, off int64) *Record {
	p := w.part(topic)
	return &p.records[slices.IndexFunc(p.records, func(r Record) bool { return r.Offset == off })]
}

// settle gives the record at an offset an outcome.
func (w *world) settle(topic string, off int64, route string, o checkpoint.Outcome, edit ...func(*checkpoint.Row)) *checkpoint.Row {
	p := w.part(topic)
	row := checkpoint.Row{Partition: p.Partition.Partition, Offset: off, Route: route, Outcome: o}
	if i := slices.IndexFunc(p.records, func(r Record) bool { return r.Offset == off }); i >= 0 && p.records[i].Event != nil {
		e := p.records[i].Event
		row.EventHash = eventHash(e.ID)
		row.Event = checkpoint.Event{ID: e.ID, Key: e.Key, Version: e.Version, Operation: string(e.Operation)}
	}
	for _, f := range edit {
		f(&row)
	}
	p.rows = append(p.rows, row)
	return &p.rows[len(p.rows)-1]
}

func plan(steps ...checkpoint.Step) func(*checkpoint.Row) {
	return func(r *checkpoint.Row) { r.Plan = steps }
}

// step has no key, keyed has one, cancel addresses a vendor object.
func step(op string) checkpoint.Step { return checkpoint.Step{Step: op, Operation: op} }
func keyed(op, key string) checkpoint.Step {
	return checkpoint.Step{Step: op, Operation: op, IdempotencyKey: key}
}
func cancel(object string) checkpoint.Step {
	return checkpoint.Step{Step: "cancel", Operation: "cancel", IDs: map[string]string{"intent_id": object}}
}
func done(s checkpoint.Step) checkpoint.Step { s.Done = true; return s }

func succ(eventID string) func(*checkpoint.Row) {
	return func(r *checkpoint.Row) { r.SupersededBy = eventID }
}

// park settles as parked (or dead-letters, for a dead cause), with index entry and copy.
func (w *world) park(topic string, off int64, route string, c checkpoint.Cause, edit ...func(*checkpoint.Row)) *checkpoint.Row {
	out, to := checkpoint.ParkedOut, "weir.c.parked"
	if knownCause("dead_lettered", c) {
		out, to = checkpoint.DeadLettered, "weir.c.dead"
	}
	row := w.settle(topic, off, route, out, edit...)
	row.Cause = c
	r := w.record(topic, off)
	if out == checkpoint.ParkedOut {
		w.parked = append(w.parked, checkpoint.Parked{Position: checkpoint.Position{Partition: w.part(topic).Partition.Partition, Offset: off, Route: route},
			EventID: row.Event.ID, EntityKey: checkpoint.EntityKey{Key: string(r.Key)}, Cause: c, State: checkpoint.ParkedOpen})
	}
	w.copies[to] = append(w.copies[to], Copy{Offset: int64(len(w.copies[to])), Key: r.Key, Value: r.Value, Headers: append(slices.Clone(r.Headers),
		schema.Header{Key: "weir_outcome", Value: []byte(out)}, schema.Header{Key: "weir_cause", Value: []byte(c)},
		schema.Header{Key: "weir_origin", Value: fmt.Appendf(nil, "%s/0/%d", topic, off)})})
	return row
}

// apply appends an effect to the vendor's log.
func (w *world) apply(op, object, reference, key string) {
	w.effect(EffectApplied, op, object, reference, key)
}
func (w *world) replay(op, object, reference, key string) {
	w.effect(EffectReplayed, op, object, reference, key)
}

func (w *world) effect(what, op, object, reference, key string) {
	w.effects = append(w.effects, Effect{Vendor: "v", Operation: op, Object: object, Reference: reference, IdempotencyKey: key, Status: 200, Effect: what})
}

// put publishes a customer and delivers it on put_thing; pay an invoice on pay.
func (w *world) put(key string, version int64) int64 {
	off := w.publish(customers, key, version)
	w.settle(customers, off, "put_thing", checkpoint.Delivered, plan(step("put_thing")))
	w.apply("put_thing", key, fmt.Sprintf("%s.%d", key, version), "")
	return off
}

func (w *world) pay(key string, version int64) int64 {
	off := w.publish(invoices, key, version)
	w.settle(invoices, off, "pay", checkpoint.Delivered, plan(step("pay")))
	w.apply("pay", fmt.Sprintf("payment_%d", len(w.effects)), fmt.Sprintf("%s.%d", key, version), "")
	return off
}

func (w *world) run(t testing.TB) *Report {
	t.Helper()
	for i := range w.effects {
		w.effects[i].Seq = int64(i + 1)
	}
	rep, err := Run(context.Background(), w, w, w.log, w.opts)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	return rep
}

func (w *world) log(context.Context) ([]Effect, error) { return w.effects, nil }

// Source.

func (w *world) Partitions(context.Context) ([]Partition, error) {
	var out []Partition
	for _, p := range w.parts {
		out = append(out, p.Partition)
	}
	return out, nil
}

func (w *world) Records(_ context.Context, p Partition, f func(Record) error) error {
	for _, r := range w.part(p.Topic).records {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) Copies(_ context.Context, topic string, f func(Copy) error) error {
	for _, c := range w.copies[topic] {
		if err := f(c); err != nil {
			return err
		}
	}
	return nil
}

// Ledger.

func (w *world) Rows(_ context.Context, p checkpoint.Partition, from, to int64) ([]checkpoint.Row, error) {
	var out []checkpoint.Row
	for _, r := range w.part(p.Topic).rows {
		if r.Partition == p && from <= r.Offset && r.Offset < to {
			out = append(out, r)
		}
	}
	slices.SortStableFunc(out, func(a, b checkpoint.Row) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
	})
	for _, s := range w.part(p.Topic).skips {
		if max(s.From, from) < min(s.To, to) { // as the store synthesises them
			out = append(out, checkpoint.Row{Partition: p, Offset: max(s.From, from), Route: "*", Outcome: checkpoint.Skipped})
		}
	}
	return out, nil
}

func (w *world) Skips(_ context.Context, p checkpoint.Partition) ([]checkpoint.Skip, error) {
	return w.part(p.Topic).skips, nil
}

func (w *world) Parked(_ context.Context, q checkpoint.ParkedQuery) ([]checkpoint.Parked, error) {
	return w.parked[:min(len(w.parked), q.Limit)], nil
}

func (w *world) Cursors(context.Context, string) ([]checkpoint.Cursor, error) {
	var out []checkpoint.Cursor
	for _, p := range w.parts {
		if p.cursor != nil {
			out = append(out, *p.cursor)
		}
	}
	return out, nil
}

func lostAnswer(step string) checkpoint.Attempt {
	return checkpoint.Attempt{N: 1, At: time.Unix(0, 0), Step: step, Verdict: "retry", Sent: checkpoint.AnswerLost}
}
