package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

// A Class says what an operation's repeat does at the vendor (design section 6). The words are those of
// profiles; the last three exist only here.
type Class string

// The classes.
const (
	ClassKey       Class = "key"       // the vendor recognises our key
	ClassOverwrite Class = "overwrite" // writes the same state again
	ClassNone      Class = "none"      // a second effect
	ClassRead      Class = "read"      // a step without an effect
	// ClassAggregate is for operations whose effect stands for many records (folded ones): such an effect is not
	// attributed to a record.
	ClassAggregate Class = "aggregate"
	// ClassVendor is for what the vendor logs of its own accord, as a user who pays: nobody asked for it.
	ClassVendor Class = "vendor"
)

// A Route is what the checker must know of one route of the connector.
type Route struct {
	Name   string
	Entity string
	// Operations are the event operations that the route takes; none means all. A record of another operation
	// needs no outcome on the route and may have ignored.
	Operations []schema.Operation
	// Every: each event is an effect of its own, so no record of the route may be superseded.
	Every bool
	// Lane is the queue that the route shares with others; "" means the one of its entity (design section 5).
	Lane string
}

// Takes reports whether the route is for events of the entity and operation.
func (r Route) Takes(entity string, op schema.Operation) bool {
	return r.Entity == entity && (len(r.Operations) == 0 || slices.Contains(r.Operations, op))
}

// lane is the name of the queue, never "".
func (r Route) lane() string { return cmp.Or(r.Lane, r.Entity) }

// Options say what to expect. The zero value of a field has the meaning given with it.
type Options struct {
	Connector string
	Routes    []Route
	// Classes are the classes of the vendor operations, by the names that plans use; aggregate and vendor by those
	// of the effects log. An operation that is not listed counts as key if its step has an idempotency key and as
	// none if it has not: the strict reading.
	Classes map[string]Class
	// Alias gives the name in the effects log of an operation of the plans, where it differs. Several operations of
	// a profile may be one of the vendor.
	Alias map[string]string
	// Vendor, if set, limits the effects log to one vendor.
	Vendor string
	// Complete says that the connector claims to be done: every record up to the end must have its outcomes.
	// Without it a record above commit and mark may be pending, and an effect that no outcome explains may be
	// that of a pending record.
	Complete bool
	// Marks are cursors that were seen earlier, in order of time; marks and epochs must never have moved back
	// since. Optional.
	Marks []checkpoint.Cursor
	// ParkedTopic and DeadTopic default to weir.<connector>.parked and .dead (design section 17).
	ParkedTopic string
	DeadTopic   string
	// FindingsMax bounds the findings that are kept, 0 means 1,000: more than a person reads, and at most about
	// half a megabyte of JSON.
	FindingsMax int
	// ParkedMax bounds the entries read from the parked index, 0 means 1,000,000. Reaching it is an error, not
	// a clean report.
	ParkedMax int
}

// Defaults of Options.
const (
	findingsMaxDefault = 1_000
	parkedMaxDefault   = 1_000_000
	// rowsWindow is the number of offsets per call of Ledger.Rows: bounds the memory of one answer.
	rowsWindow = 50_000
)

func (o Options) withDefaults() Options {
	o.ParkedTopic = cmp.Or(o.ParkedTopic, "weir."+o.Connector+".parked")
	o.DeadTopic = cmp.Or(o.DeadTopic, "weir."+o.Connector+".dead")
	o.FindingsMax = cmp.Or(o.FindingsMax, findingsMaxDefault)
	o.ParkedMax = cmp.Or(o.ParkedMax, parkedMaxDefault)
	return o
}

// Validate names everything in the options that would make a verdict meaningless.
func (o Options) Validate() error {
	var errs []error
	if o.Connector == "" {
		errs = append(errs, errors.New("connector: no name given"))
	}
	if len(o.Routes) == 0 {
		errs = append(errs, errors.New("routes: none given, so no record would need an outcome"))
	}
	seen := map[string]bool{}
	for i, r := range o.Routes {
		switch {
		case r.Name == "" || r.Entity == "":
			errs = append(errs, fmt.Errorf("routes[%d]: name and entity must be set, got %q and %q", i, r.Name, r.Entity))
		case seen[r.Name]:
			errs = append(errs, fmt.Errorf("routes[%d]: a second route is called %s", i, r.Name))
		}
		seen[r.Name] = true
	}
	for op, c := range o.Classes {
		switch c {
		case ClassKey, ClassOverwrite, ClassNone, ClassRead, ClassAggregate, ClassVendor:
		default:
			errs = append(errs, fmt.Errorf("classes[%s]: unknown class %q", op, c))
		}
	}
	if o.FindingsMax < 0 || o.ParkedMax < 0 {
		errs = append(errs, errors.New("findings and parked limits must not be negative"))
	}
	return errors.Join(errs...)
}

// class is the class of a step's operation.
func (o *Options) class(s checkpoint.Step) Class {
	if c, ok := o.Classes[s.Operation]; ok {
		return c
	}
	if s.IdempotencyKey != "" {
		return ClassKey
	}
	return ClassNone
}

func (o *Options) route(name string) (Route, bool) {
	for _, r := range o.Routes {
		if r.Name == name {
			return r, true
		}
	}
	return Route{}, false
}

// A Partition is one partition of an entity topic as it stands in Kafka.
type Partition struct {
	checkpoint.Partition
	Entity string
	// Start is the log start and End the offset after the last stable record (the end for read_committed).
	Start, End int64
	// Committed is the group's committed offset, -1 if it has none.
	Committed int64
	// Compacted: the topic is compacted, so an outcome without a record below End is normal.
	Compacted bool
}

// A Record is one record of an entity topic. Its slices are used only during the call.
type Record struct {
	Offset  int64
	Control bool // a transaction marker: nothing but its offset is set
	Key     []byte
	Value   []byte // nil: a tombstone
	Headers []schema.Header
	// Event is the decoded event, nil where it does not decode; of a refused record, what could be read of it.
	Event *schema.Event
	// Refused: the record does not decode or breaks a rule.
	Refused bool
}

// A Copy is one record of the parked or the dead topic. Its slices are used only during the call.
type Copy struct {
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte
	Headers   []schema.Header // the original's and those that begin with weir_
}

// A Source reads Kafka, read_committed. Its methods are called one after another.
type Source interface {
	// Partitions lists the partitions of all entity topics that the connector reads.
	Partitions(ctx context.Context) ([]Partition, error)
	// Records calls f with each record from Start to End, control records included, in offset order, and
	// returns f's error as it is. Aborted records are not given.
	Records(ctx context.Context, p Partition, f func(Record) error) error
	// Copies calls f with each record of a parked or dead topic. A topic that does not exist has none.
	Copies(ctx context.Context, topic string, f func(Copy) error) error
}

// A Ledger is the reading side of [checkpoint.Store].
type Ledger interface {
	Rows(ctx context.Context, p checkpoint.Partition, from, to int64) ([]checkpoint.Row, error)
	Skips(ctx context.Context, p checkpoint.Partition) ([]checkpoint.Skip, error)
	Parked(ctx context.Context, q checkpoint.ParkedQuery) ([]checkpoint.Parked, error)
	Cursors(ctx context.Context, connector string) ([]checkpoint.Cursor, error)
}

var _ Ledger = checkpoint.Store(nil)

// Decode makes a Record of a consumed one with a decoder of schema. An error that is not a refusal (registry not
// reachable, schema ahead of this build) is returned: a verdict without the event would be a guess.
func Decode(ctx context.Context, d schema.Decoder, r *schema.Record) (Record, error) {
	out := Record{Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: r.Headers}
	e, err := d.Decode(ctx, r)
	if refused, ok := errors.AsType[*schema.RefusedError](err); ok {
		out.Event, out.Refused = refused.Event, true
		return out, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("decode %s/%d/%d for the check: %w", r.Topic, r.Partition, r.Offset, err)
	}
	out.Event = e
	return out, nil
}

// An EffectsLog gives the vendor's whole log, by seq: one that starts after 1 or has a gap is a finding, since what is
// missing could be anything.
type EffectsLog func(context.Context) ([]Effect, error)

// Run reads everything and reports. Topics are read first, then the ledger, then the effects: so without
// [Options.Complete] it can look at a connector that runs, and sees at worst more effects than outcomes, never fewer.
// With a nil log nothing is said about effects (promise 3 and most of 2). The error is that of the reading (Kafka, store) or of the options; what the
// check finds is in the report, never in the error.
func Run(ctx context.Context, src Source, led Ledger, log EffectsLog, o Options) (*Report, error) {
	o = o.withDefaults()
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("check of connector %q: options: %w", o.Connector, err)
	}
	h, err := load(ctx, src, led, log, &o)
	if err != nil {
		return nil, fmt.Errorf("check of connector %s: %w", o.Connector, err)
	}
	return check(h, &o), nil
}

// check runs every check over a loaded history.
func check(h *history, o *Options) *Report {
	rep := newReport(o)
	h.prepare(o)
	if h.gap > 0 {
		rep.add(Finding{Promise: 10, Kind: "effects_log_gap", Seq: h.gap, Detail: fmt.Sprintf(
			"the effects log has no line before seq %d, so a missing effect proves nothing: raise the sandbox's bound of the log, or read all of it", h.gap)})
	}
	for _, p := range h.parts {
		checkOutcomes(rep, o, p)
		checkMarks(rep, o, p)
		checkCopies(rep, h, p)
	}
	checkEntries(rep, o, h)
	checkUnchanged(rep, h)
	checkSuperseded(rep, o, h)
	if h.logged {
		checkOrder(rep, checkEffects(rep, o, h))
	}
	rep.sortReasons()
	return rep
}

// A history is all that was read, reduced to what the checks need.
type history struct {
	parts   []*part
	effects []Effect                        // by seq
	logged  bool                            // there is an effects log
	gap     int64                           // seq of the first effect that does not follow its forerunner, 0 if none
	parked  map[position]*checkpoint.Parked // open and closed entries of the index
	copies  map[string][]copied             // by origin
	// byEvent finds the records of an event id, byRef those with a reference "<key>.<version>".
	byEvent map[string][]*record
	byRef   map[string][]*record
	// pending is the offset of the newest record without all its outcomes, by entity key.
	pending map[entityKey]int64
}

// An entityKey is one key of one partition.
type entityKey struct {
	part *part
	key  string
}

// pendingAfter reports whether a newer record of r's key has no outcome yet.
func (h *history) pendingAfter(r *record) bool {
	at, ok := h.pending[entityKey{r.part, r.key}]
	return ok && at > r.offset
}

// A position is a record's route in a ledger, comparable.
type position struct {
	topic  string
	index  int32
	offset int64
	route  string
}

type part struct {
	Partition
	cursor  *checkpoint.Cursor // nil: the store has none
	skips   []checkpoint.Skip
	records []*record // by offset
}

// A record is one offset of an entity topic: a record of the topic, or (gone) one that only the ledger knows.
type record struct {
	part      *part
	offset    int64
	entity    string
	key       string
	eventID   string
	source    string
	version   int64
	op        schema.Operation
	control   bool
	tombstone bool
	decoded   bool // its event is known
	refused   bool
	gone      bool // compacted, expired or never there
	digest    digest
	rows      []*row
}

func (r *record) origin() string {
	return fmt.Sprintf("%s/%d/%d", r.part.Topic, r.part.Index, r.offset)
}

// ref is how creates refer to the record at the vendor.
func (r *record) ref() string {
	if r.version == 0 {
		return r.key + "." + r.eventID // a tombstone has no version: its event id is its revision
	}
	return fmt.Sprintf("%s.%d", r.key, r.version)
}

// on is the record's outcome on a route, nil if it has none. A row of route * stands for all routes.
func (r *record) on(route string) *row {
	for _, w := range r.rows {
		if w.route == route || w.route == routeAll {
			return w
		}
	}
	return nil
}

// routeAll is the route of outcomes that hold for all routes: skips, and records of which nothing could be read.
const routeAll = "*"

// A row is an outcome, reduced.
type row struct {
	record       *record
	route        string
	outcome      checkpoint.Outcome
	cause        checkpoint.Cause
	reason       string
	rule         string
	supersededBy string
	vendorID     string
	generation   uint32
	plan         []checkpoint.Step
	done         int // steps of the plan that are finished
	lost         int // attempts whose answer was lost
}

func newRow(r *record, w *checkpoint.Row) *row {
	out := &row{record: r, route: w.Route, outcome: w.Outcome, cause: w.Cause, reason: w.Reason, rule: w.Rule,
		supersededBy: w.SupersededBy, vendorID: w.VendorID, generation: w.Generation, plan: w.Plan}
	accepted := map[string]bool{}
	for _, a := range w.Attempts {
		if a.Sent == checkpoint.AnswerLost {
			out.lost++
		}
		switch a.Verdict {
		case "accept", "accept_pending", "duplicate":
			accepted[a.Step] = true
		}
	}
	for out.done < len(w.Plan) && (w.Plan[out.done].Done || accepted[w.Plan[out.done].Step]) {
		out.done++
	}
	return out
}

// load reads the whole history.
func load(ctx context.Context, src Source, led Ledger, log EffectsLog, o *Options) (*history, error) {
	h := &history{}
	parts, err := src.Partitions(ctx)
	if err != nil {
		return nil, fmt.Errorf("list partitions: %w", err)
	}
	cursors, err := led.Cursors(ctx, o.Connector)
	if err != nil {
		return nil, fmt.Errorf("read the store's cursors: %w", err)
	}
	for _, sp := range parts {
		sp.Connector = o.Connector
		p := &part{Partition: sp}
		for _, c := range cursors {
			if c.Partition == sp.Partition {
				p.cursor = &c
			}
		}
		if err := p.load(ctx, src, led); err != nil {
			return nil, fmt.Errorf("partition %s: %w", sp.Partition, err)
		}
		h.parts = append(h.parts, p)
	}
	if err := h.loadParked(ctx, led, o); err != nil {
		return nil, fmt.Errorf("read the parked index: %w", err)
	}
	for _, topic := range []string{o.ParkedTopic, o.DeadTopic} {
		if err := src.Copies(ctx, topic, func(c Copy) error { h.addCopy(topic, c); return nil }); err != nil {
			return nil, fmt.Errorf("read topic %s: %w", topic, err)
		}
	}
	if log != nil {
		effects, err := log(ctx)
		if err != nil {
			return nil, err
		}
		h.takeEffects(effects, o)
	}
	return h, nil
}

func (h *history) takeEffects(effects []Effect, o *Options) {
	h.logged = true
	for i, e := range effects {
		if h.gap == 0 && (i == 0 && e.Seq != 1 || i > 0 && e.Seq != effects[i-1].Seq+1) {
			h.gap = e.Seq
		}
		if o.Vendor == "" || e.Vendor == o.Vendor {
			h.effects = append(h.effects, e)
		}
	}
}

func (h *history) loadParked(ctx context.Context, led Ledger, o *Options) error {
	h.parked = map[position]*checkpoint.Parked{}
	ps, err := led.Parked(ctx, checkpoint.ParkedQuery{Connector: o.Connector, Limit: o.ParkedMax})
	if err != nil {
		return err
	}
	if len(ps) >= o.ParkedMax {
		return fmt.Errorf("it has %d entries or more, the limit of this check: raise the limit, or release and trim first", o.ParkedMax)
	}
	for i := range ps {
		p := ps[i].Position
		h.parked[position{p.Partition.Topic, p.Partition.Index, p.Offset, p.Route}] = &ps[i]
	}
	return nil
}

func (p *part) load(ctx context.Context, src Source, led Ledger) error {
	last := int64(-1)
	err := src.Records(ctx, p.Partition, func(k Record) error {
		if k.Offset <= last {
			return fmt.Errorf("the reader gave offset %d after %d: records must come in offset order", k.Offset, last)
		}
		last = k.Offset
		p.records = append(p.records, p.newRecord(k))
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the topic: %w", err)
	}
	if p.skips, err = led.Skips(ctx, p.Partition.Partition); err != nil {
		return fmt.Errorf("read its skips: %w", err)
	}
	// Rows below the log start count too: what they delivered is still in the vendor's log.
	for from := int64(0); ; from += rowsWindow {
		to := from + rowsWindow
		if from >= p.End {
			to = math.MaxInt64 // nothing may be there, but looking is the point
		}
		rows, err := led.Rows(ctx, p.Partition.Partition, from, to)
		if err != nil {
			return fmt.Errorf("read its outcomes from offset %d: %w", from, err)
		}
		p.addRows(rows)
		if to == math.MaxInt64 {
			return nil
		}
	}
}

func (p *part) newRecord(k Record) *record {
	r := &record{part: p, offset: k.Offset, entity: p.Entity, control: k.Control, refused: k.Refused}
	if k.Control {
		return r
	}
	r.key = string(k.Key)
	r.tombstone = k.Value == nil
	r.digest = digestOf(k.Key, k.Value, k.Headers)
	if e := k.Event; e != nil {
		r.decoded = !k.Refused
		r.eventID, r.source, r.version, r.op = e.ID, e.Source, e.Version, e.Operation
		r.tombstone = e.Tombstone
		if e.Key != "" && !k.Refused {
			r.key = e.Key
		}
	}
	return r
}

// addRows hangs outcomes on their records; an outcome without a record makes one that is gone.
func (p *part) addRows(rows []checkpoint.Row) {
	var fresh []*record
	for i := range rows {
		w := &rows[i]
		if w.Route == routeAll && w.Outcome == checkpoint.Skipped {
			continue // synthesised from a skip, which is read as such
		}
		at, ok := slices.BinarySearchFunc(p.records, w.Offset, func(r *record, off int64) int { return cmp.Compare(r.offset, off) })
		var r *record
		switch {
		case ok:
			r = p.records[at]
		case len(fresh) > 0 && fresh[len(fresh)-1].offset == w.Offset:
			r = fresh[len(fresh)-1]
		default:
			r = &record{part: p, offset: w.Offset, entity: p.Entity, key: w.Event.Key, eventID: w.Event.ID,
				source: w.Event.Source, version: w.Event.Version, op: schema.Operation(w.Event.Operation), decoded: true, gone: true}
			fresh = append(fresh, r)
		}
		nr := newRow(r, w)
		if ok && r.eventID != "" && w.EventHash != eventHash(r.eventID) {
			nr.outcome = foreign // claims nothing about this record
		}
		r.rows = append(r.rows, nr)
	}
	if len(fresh) > 0 {
		p.records = append(p.records, fresh...)
		slices.SortStableFunc(p.records, func(a, b *record) int { return cmp.Compare(a.offset, b.offset) })
	}
}

// prepare builds the lookups that several checks share.
func (h *history) prepare(o *Options) {
	h.byEvent, h.byRef, h.pending = map[string][]*record{}, map[string][]*record{}, map[entityKey]int64{}
	for _, p := range h.parts {
		for _, r := range p.records {
			if r.control {
				continue
			}
			if !r.gone && len(settledOf(o, r).missing) > 0 {
				h.pending[entityKey{p, r.key}] = r.offset // offsets rise
			}
			if r.eventID != "" {
				h.byEvent[r.eventID] = append(h.byEvent[r.eventID], r)
			}
			if r.key != "" && !r.tombstone {
				h.byRef[r.ref()] = append(h.byRef[r.ref()], r)
			}
		}
	}
	slices.SortStableFunc(h.effects, func(a, b Effect) int { return cmp.Compare(a.Seq, b.Seq) })
}

func (p *part) skipped(off int64) bool {
	return slices.ContainsFunc(p.skips, func(s checkpoint.Skip) bool { return s.From <= off && off < s.To })
}
