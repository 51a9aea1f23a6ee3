package sample

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"strconv"
	"time"
)

// Options say what is generated. The zero value of a share is none of it.
type Options struct {
	// Seed chooses the events: same options, same bytes.
	Seed uint64
	// Events is the number of events, 0 means 1,000.
	Events int
	// Customers is the number of customers to pick from, 0 means a tenth of the events, at least 1. Those that are
	// never picked do not appear.
	Customers int
	// Zipf is the skew of the pick, greater than 1 (1.1 is what web traffic and invoices look like, 2 is one hot
	// key); 0 means that all customers are alike.
	Zipf float64
	// UpdateShare is the share of the picks of a known customer that change something that exists; the others add
	// a contract or an invoice.
	UpdateShare float64
	// DeleteShare is the share of the picks of a known customer that delete something; every second delete is a
	// tombstone.
	DeleteShare float64
	// OutOfOrderShare is the share of new customers whose first invoice comes before them.
	OutOfOrderShare float64
	// MagicShare is the share of invoice amounts that make Push Cash's sandbox misbehave (vendor sheet pushcash,
	// section 13): 50001, 50002, 50401, 42901.
	MagicShare float64
	// BadShare is the share of picks that give an event which is valid, and which Push Cash refuses: an
	// organisation, an address outside the US, no mail address, no identity, an invoice that is not in USD.
	BadShare float64
	// InvalidShare is the share of picks that give an event which decodes and breaks a rule of its schema.
	InvalidShare float64
	// OlderShare is the share of events that are written in an older version of their schema, as by publishers that
	// are not upgraded yet. It does not change what happens: what the older version has no place for is left out.
	OlderShare float64
	// PaymentMethods gives each customer a stored test method of FinFusion (vendor sheet finfusion, section 12). Without
	// one FinFusion's invoices wait for ever.
	PaymentMethods bool
	// Start is when the first event happened, zero means 2026-01-01 00:00 UTC. Events follow every few seconds.
	Start time.Time
}

// Demo is a mix of everything, in shares that show each kind within a thousand events.
func Demo(seed uint64, events int) Options {
	return Options{Seed: seed, Events: events, Zipf: 1.1, UpdateShare: 0.6, DeleteShare: 0.03,
		OutOfOrderShare: 0.05, MagicShare: 0.02, BadShare: 0.02, InvalidShare: 0.01, OlderShare: 0.3}
}

const (
	eventsDefault = 1_000
	// eventsMax keeps ids within their eight digits.
	eventsMax = 99_999_999
	// aheadMax is the largest number of events by which an invoice comes before its customer: some, so that other
	// keys come between them, and few, so that it is not parked in a short run.
	aheadMax = 20
)

func (o Options) withDefaults() Options {
	if o.Events == 0 {
		o.Events = eventsDefault
	}
	if o.Customers == 0 {
		o.Customers = max(1, o.Events/10)
	}
	if o.Start.IsZero() {
		o.Start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	}
	o.Start = o.Start.UTC().Truncate(time.Millisecond)
	return o
}

// Validate names every option that is out of bounds.
func (o Options) Validate() error {
	var errs []error
	if o.Events < 0 || o.Events > eventsMax {
		errs = append(errs, fmt.Errorf("events: %d is not within 0 to %d", o.Events, eventsMax))
	}
	if o.Customers < 0 || o.Customers > eventsMax/2 {
		errs = append(errs, fmt.Errorf("customers: %d is not within 0 to %d", o.Customers, eventsMax/2))
	}
	if o.Zipf != 0 && !(o.Zipf > 1 && o.Zipf <= 10) {
		errs = append(errs, fmt.Errorf("zipf: %v is neither 0 (no skew) nor greater than 1 and at most 10", o.Zipf))
	}
	for _, s := range []struct {
		name  string
		share float64
	}{{"update share", o.UpdateShare}, {"delete share", o.DeleteShare}, {"out of order share", o.OutOfOrderShare},
		{"magic share", o.MagicShare}, {"bad share", o.BadShare}, {"invalid share", o.InvalidShare}, {"older share", o.OlderShare}} {
		if !(s.share >= 0 && s.share <= 1) {
			errs = append(errs, fmt.Errorf("%s: %v is not within 0 to 1", s.name, s.share))
		}
	}
	if o.UpdateShare+o.DeleteShare > 1 {
		errs = append(errs, fmt.Errorf("update and delete share: %v together, more than 1", o.UpdateShare+o.DeleteShare))
	}
	if o.BadShare+o.InvalidShare > 1 {
		errs = append(errs, fmt.Errorf("bad and invalid share: %v together, more than 1", o.BadShare+o.InvalidShare))
	}
	if y := o.Start.Year(); !o.Start.IsZero() && (y < 1970 || y > 9000) {
		errs = append(errs, fmt.Errorf("start: the year %d is not within 1970 to 9000", y))
	}
	return errors.Join(errs...)
}

// A Header is a Kafka header of an item.
type Header struct{ Key, Value string }

// An Item is one event to publish.
type Item struct {
	Entity string // customer, contract or invoice
	Key    string
	// SchemaVersion is the version of the schema that Event is written in, 0: the newest.
	SchemaVersion int
	// Event is the event as decoded JSON, integers as int64, times as RFC 3339 text; nil is a tombstone. It is the
	// receiver's: no later event shares anything of it.
	Event   map[string]any
	Headers []Header // ce_* of a tombstone
	// Rule is the id of the rule that the event breaks, "" if it breaks none.
	Rule string
	// Expect says, for people, what should become of it.
	Expect string
}

// A Generator gives the items. It is not safe for concurrent use.
type Generator struct {
	o    Options
	rng  *rand.Rand
	zipf *rand.Zipf
	// versions chooses schema versions, apart from rng: another share gives the same events.
	versions *rand.Rand
	// tables are only read.
	tables *tables

	emitted   int
	at        time.Time
	customers []*customer // by number, nil: not yet seen
	late      []lateOne   // customers that are owed to an invoice, by due
	contracts int
	invoices  int
	extra     int // customers beyond Options.Customers: the refused ones
	deletes   int
}

type lateOne struct {
	due int
	c   *customer
}

// New makes a generator.
func New(o Options) (*Generator, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("sample options: %w", err)
	}
	o = o.withDefaults()
	// The second word only separates this use of the seed from others.
	rng := rand.New(rand.NewPCG(o.Seed, 0x77656972_73616d70))
	g := &Generator{o: o, rng: rng, versions: rand.New(rand.NewPCG(o.Seed, 0x77656972_76657273)), tables: newTables(), at: o.Start, customers: make([]*customer, o.Customers)}
	if o.Zipf != 0 {
		g.zipf = rand.NewZipf(rng, o.Zipf, 1, uint64(o.Customers-1))
	}
	return g, nil
}

// All gives the items that are left.
func (g *Generator) All() iter.Seq[Item] {
	return func(yield func(Item) bool) {
		for {
			it, ok := g.Next()
			if !ok || !yield(it) {
				return
			}
		}
	}
}

// Next gives the next item; false means that there is none.
func (g *Generator) Next() (Item, bool) {
	if g.emitted >= g.o.Events {
		return Item{}, false
	}
	// The last events are kept for the customers that invoices still wait for.
	if len(g.late) > 0 && (g.late[0].due <= g.emitted || len(g.late) >= g.o.Events-g.emitted) {
		c := g.late[0].c
		g.late = g.late[1:]
		return g.emit(g.createCustomer(c)), true
	}
	return g.emit(g.step()), true
}

func (g *Generator) emit(it Item) Item {
	g.emitted++
	g.at = g.at.Add(time.Duration(1+g.rng.IntN(10_000)) * time.Millisecond)
	if g.o.OlderShare > 0 && it.Event != nil && g.versions.Float64() < g.o.OlderShare {
		it.SchemaVersion = older(it.Entity, it.Event, g.versions)
	}
	return it
}

func (g *Generator) chance(share float64) bool { return share > 0 && g.rng.Float64() < share }

func (g *Generator) pick() int {
	if g.zipf != nil {
		return int(g.zipf.Uint64())
	}
	return g.rng.IntN(len(g.customers))
}

// step lets the next thing happen.
func (g *Generator) step() Item {
	odd := 1.0
	if g.o.BadShare+g.o.InvalidShare > 0 {
		odd = g.rng.Float64()
	}
	n := g.pick()
	c := g.customers[n]
	known := c != nil && c.version > 0 && !c.deleted
	switch {
	case odd < g.o.BadShare:
		if known && g.rng.IntN(3) == 0 {
			return g.foreignInvoice(c)
		}
		return g.refusedCustomer()
	case odd < g.o.BadShare+g.o.InvalidShare:
		return g.invalid(c, known)
	case c == nil:
		c = g.newCustomer(n)
		g.customers[n] = c
		// An invoice needs room for the customer after it.
		if g.o.Events-g.emitted-len(g.late) >= 2 && g.chance(g.o.OutOfOrderShare) {
			c.owed = true
			due := g.emitted + 2 + g.rng.IntN(aheadMax-1)
			if n := len(g.late); n > 0 {
				due = max(due, g.late[n-1].due+1)
			}
			g.late = append(g.late, lateOne{due, c})
			it := g.newInvoice(c)
			it.Expect = "waits for its customer, which comes later; " + it.Expect
			return it
		}
		return g.createCustomer(c)
	case c.owed:
		it := g.newInvoice(c)
		it.Expect = "waits for its customer, which comes later; " + it.Expect
		return it
	case c.deleted:
		return g.createCustomer(c)
	}
	switch r := g.rng.Float64(); {
	case r < g.o.DeleteShare:
		return g.delete(c)
	case r < g.o.DeleteShare+g.o.UpdateShare:
		return g.update(c)
	}
	if g.rng.IntN(5) == 0 {
		return g.newContract(c)
	}
	return g.newInvoice(c)
}

// envelope makes the fields that every event has.
func (g *Generator) envelope(e *entity, kind, source, what, tenant string) map[string]any {
	e.version++
	id := g.eventID()
	m := make(map[string]any, 25)
	m["event_id"] = id
	m["event_type"] = kind + "." + what
	m["occurred_at"] = stamp(g.at)
	m["source_system"] = source
	m["correlation_id"] = e.correlation
	m["causation_id"] = orNull(e.last)
	m["tenant"] = tenant
	m["entity_version"] = e.version
	m["operation"] = "upsert"
	e.last = id
	return m
}

// eventID is unique within a run by its number and between seeds by its 64 random bits.
func (g *Generator) eventID() string {
	b := append(make([]byte, 0, 32), "evt_"...)
	b = appendPadded(b, g.emitted+1, 8)
	b = append(b, '_')
	const hexDigits = "0123456789abcdef"
	for i, r := 0, g.rng.Uint64(); i < 16; i++ {
		b = append(b, hexDigits[r>>60])
		r <<= 4
	}
	return string(b)
}

// An entity is what all three have.
type entity struct {
	id          string
	correlation string
	version     int64
	last        string // event id
	deleted     bool
}

func newEntity(prefix string, n, digits int) entity {
	return entity{id: number(prefix, n, digits), correlation: number("corr_"+prefix, n, digits)}
}

func number(prefix string, n, digits int) string {
	return string(appendPadded(append(make([]byte, 0, 32), prefix...), n, digits))
}

// appendPadded appends n in at least the given number of digits.
func appendPadded(b []byte, n, digits int) []byte {
	for w := int(math.Pow10(digits - 1)); n < w && w > 1; w /= 10 {
		b = append(b, '0')
	}
	return strconv.AppendInt(b, int64(n), 10)
}

// stamp is RFC 3339 with milliseconds, which is the schema's unit.
func stamp(t time.Time) string {
	return string(t.AppendFormat(make([]byte, 0, 24), "2006-01-02T15:04:05.000Z"))
}

func date(t time.Time) string { return t.Format(time.DateOnly) }

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
