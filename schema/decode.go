package schema

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/linkedin/goavro/v2"
)

// HeaderSchemaID is the record header in which Confluent's newer serialisers carry the schema's id: 0x01 and a
// GUID of 16 bytes, or 0x00 and an id of 4.
const HeaderSchemaID = "__value_schema_id"

// Rules that the decoder itself enforces, named like those of the files.
const (
	RuleTombstoneKey    = "tombstone.key"
	RuleTombstoneHeader = "tombstone.header"
	RuleTombstoneTime   = "tombstone.ce_time"
)

// DecoderOptions bound and direct a decoder. Zero fields mean the defaults.
type DecoderOptions struct {
	// ValueBytesMax is the size of the largest value that is read; a larger one is refused too_large. Default
	// 1,048,576, Kafka's default message.max.bytes without the record's overhead.
	ValueBytesMax int
	// ItemsMax bounds the entries of all arrays and maps of one value together; more is refused too_large. Default
	// 65,536: an entry costs a byte on the wire and some hundred bytes in memory.
	ItemsMax int
	// Topics maps topics to entities where the name is not canonical.<entity>.
	Topics map[string]string
	// Rules are checked on every decoded event; nil: none are.
	Rules *Rules
}

// An AvroDecoder is a Decoder for Avro values in Confluent framing or single-object encoding. Safe for concurrent
// use.
type AvroDecoder struct {
	set    *Set
	lookup Lookup
	o      DecoderOptions
	plans  *lru.Cache[planKey, *plan]
	// subjects are those of the topics that have a name that is known before; never changed.
	subjects map[string]Subject
}

var _ Decoder = (*AvroDecoder)(nil)

// plansMax bounds the compiled pairs of schemas that are kept; one takes about 50 KiB. A registry of a large
// company has some hundred versions of a subject.
const plansMax = 512

type planKey struct {
	writer *Schema
	reader *Schema
}

// A plan reads values of one writer schema as one reader schema. Immutable.
type plan struct {
	writer, reader *Schema
	codec          *goavro.Codec
	project        step
	broken         error // no value can be read
}

// NewDecoder makes a decoder that reads values as the newest schemas of set and finds writer schemas in lookup;
// nil: in set.
func NewDecoder(set *Set, lookup Lookup, o DecoderOptions) *AvroDecoder {
	if lookup == nil {
		lookup = set
	}
	if o.ValueBytesMax <= 0 {
		o.ValueBytesMax = 1 << 20
	}
	if o.ItemsMax <= 0 {
		o.ItemsMax = 1 << 16
	}
	plans, err := lru.New[planKey, *plan](plansMax)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	d := &AvroDecoder{set: set, lookup: lookup, o: o, plans: plans, subjects: make(map[string]Subject)}
	for topic := range o.Topics {
		d.subjects[topic] = valueSubject(topic)
	}
	for _, entity := range set.Entities() {
		d.subjects["canonical."+entity] = valueSubject("canonical." + entity)
	}
	return d
}

// EntityOf is the entity whose events a topic carries, "" if none is known: DecoderOptions.Topics, else
// canonical.<entity>.
func (d *AvroDecoder) EntityOf(topic string) string {
	if e, ok := d.o.Topics[topic]; ok {
		return e
	}
	if e, ok := strings.CutPrefix(topic, "canonical."); ok && d.set.Reader(e) != nil {
		return e
	}
	return ""
}

// Decode implements Decoder.
//
// A refusal's Event has at least entity and key, so that the refusal can hold the key; the key is always that of
// the Kafka record, by which order is kept, and so also in a key_mismatch.
func (d *AvroDecoder) Decode(ctx context.Context, r *Record) (*Event, error) {
	entity := d.EntityOf(r.Topic)
	reader := d.set.Reader(entity)
	if reader == nil {
		return nil, fmt.Errorf("topic %s carries no known entity: name it in the topic map, or subscribe to canonical.<entity> with one of %s",
			r.Topic, strings.Join(d.set.Entities(), ", "))
	}
	ev := &Event{Entity: entity, Key: string(r.Key)}
	if len(r.Key) == 0 {
		ev.ID = headerID(r)
		return nil, &RefusedError{Cause: causeNoKey, Reason: "the record has no key: publish it with the entity's id as key", Event: ev}
	}
	if r.Value == nil {
		return d.tombstone(r, ev)
	}
	refuse := func(cause, path, reason string) (*Event, error) {
		ev.ID = headerID(r)
		return nil, &RefusedError{Cause: cause, Path: path, Reason: reason, Event: ev}
	}
	if len(r.Value) > d.o.ValueBytesMax {
		return refuse(causeTooLarge, "", fmt.Sprintf("the value has %d bytes, at most %d are read", len(r.Value), d.o.ValueBytesMax))
	}
	writer, datum, err := d.frame(ctx, r, reader)
	if err != nil {
		var re *RefusedError
		if errors.As(err, &re) {
			return refuse(re.Cause, re.Path, re.Reason)
		}
		return nil, err
	}
	p := d.plan(writer, reader)
	ev.Subject, ev.SchemaVersion, ev.SchemaID = writer.Subject, writer.Version, writer.ID
	if p.broken != nil {
		if ahead(writer, reader) {
			return nil, &AheadError{Subject: writer.Subject, Version: writer.Version, ID: writer.ID, Reason: p.broken.Error()}
		}
		return refuse(causeSchema, "", fmt.Sprintf("%s version %d (id %d) does not read as version %d: %v",
			writer.Subject, writer.Version, writer.ID, reader.Version, p.broken))
	}
	fields, f := p.decode(datum, d.o.ItemsMax)
	if f != nil {
		cause := f.cause
		if cause == "" {
			cause = causeFraming
		}
		if cause == causeSchema && ahead(writer, reader) {
			return nil, &AheadError{Subject: writer.Subject, Version: writer.Version, ID: writer.ID, Reason: f.Error()}
		}
		return refuse(cause, f.Path(), f.reason)
	}
	reader.fill(ev, fields)
	if id, _ := fields[reader.IDField].(string); id != ev.Key {
		return nil, &RefusedError{Cause: causeKeyMismatch, Path: reader.IDField, Event: ev,
			Reason: "the record's key is not the entity's id: publish it with the id as key"}
	}
	if d.o.Rules != nil {
		if v := d.o.Rules.Check(entity, fields); v != nil {
			return nil, &RefusedError{Cause: causeRule, Rule: v.Rule, Path: v.Path, Reason: v.Message, Event: ev}
		}
	}
	return ev, nil
}

// ahead reports whether the writer's schema is newer than what this build has: by the number that its text
// carries, else by the registry's.
func ahead(writer, reader *Schema) bool {
	if n := writer.own(); n > 0 {
		return n > reader.Version
	}
	return writer.Version > reader.Version
}

// tombstone makes the event of a null value: a delete whose envelope comes from CloudEvents headers.
func (d *AvroDecoder) tombstone(r *Record, ev *Event) (*Event, error) {
	ev.Tombstone, ev.Operation = true, Delete
	ev.OccurredAt = r.Timestamp.UTC()
	refuse := func(rule, path, reason string) (*Event, error) {
		return nil, &RefusedError{Cause: causeRule, Rule: rule, Path: path, Reason: reason, Event: ev}
	}
	ev.ID = hex.EncodeToString(r.TopicID[:]) + "/" + strconv.Itoa(int(r.Partition)) + "/" + strconv.FormatInt(r.Offset, 10)
	if !validID(r.Key) {
		return refuse(RuleTombstoneKey, "key", "the key is not UTF-8 text of 1 to 255 characters")
	}
	for _, h := range r.Headers {
		if len(h.Value) == 0 {
			continue
		}
		var to *string
		switch h.Key {
		case "ce_id":
			to = &ev.ID
		case "ce_type":
			to = &ev.Type
		case "ce_source":
			to = &ev.Source
		case "ce_tenant":
			to = &ev.Tenant
		case "ce_correlationid":
			to = &ev.CorrelationID
		case "ce_causationid":
			to = &ev.CausationID
		case "ce_time":
			t, err := time.Parse(time.RFC3339Nano, string(h.Value))
			if err != nil {
				return refuse(RuleTombstoneTime, "headers.ce_time", "the header is not an RFC 3339 time")
			}
			ev.OccurredAt = t.UTC()
			continue
		default:
			continue
		}
		if !validID(h.Value) {
			return refuse(RuleTombstoneHeader, "headers."+h.Key, "the header is not UTF-8 text of 1 to 255 characters")
		}
		*to = string(h.Value)
	}
	return ev, nil
}

// validID: the bound of ids in the rule files, for what has no fields to check.
func validID(b []byte) bool {
	return len(b) > 0 && utf8.Valid(b) && utf8.RuneCount(b) <= idCharactersMax
}

// headerID is the event id that the headers tell of a record whose value was not read, "" without one.
func headerID(r *Record) string {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if h := r.Headers[i]; h.Key == "ce_id" && validID(h.Value) {
			return string(h.Value)
		}
	}
	return ""
}

// valueSubject is the subject of a topic's values: the registry's TopicName strategy.
func valueSubject(topic string) Subject { return Subject(topic + "-value") }

// frame finds the writer schema and the bytes of the value itself. Errors: *RefusedError without its Event, else
// the environment.
func (d *AvroDecoder) frame(ctx context.Context, r *Record, reader *Schema) (*Schema, []byte, error) {
	subject, known := d.subjects[r.Topic]
	if !known {
		subject = valueSubject(r.Topic)
	}
	bad := func(format string, a ...any) (*Schema, []byte, error) {
		return nil, nil, &RefusedError{Cause: causeFraming, Reason: fmt.Sprintf(format, a...)}
	}
	var writer *Schema
	var err error
	datum := r.Value
	header, found := lastHeader(r.Headers, HeaderSchemaID)
	switch {
	case found && len(header) == 17 && header[0] == 1:
		writer, err = d.lookup.ByGUID(ctx, subject, [16]byte(header[1:]))
	case found && len(header) == 5 && header[0] == 0:
		writer, err = d.lookup.ByID(ctx, subject, ID(binary.BigEndian.Uint32(header[1:])))
	case found:
		return bad("header %s has %d bytes: want 0x01 and a GUID, or 0x00 and an id of 4 bytes", HeaderSchemaID, len(header))
	case len(datum) == 0:
		return bad("the value is empty: a delete has a null value, an event Avro bytes")
	case datum[0] == 0:
		if len(datum) < 5 {
			return bad("the value has %d bytes: Confluent framing takes 5", len(datum))
		}
		id := ID(binary.BigEndian.Uint32(datum[1:5]))
		datum = datum[5:]
		writer, err = d.lookup.ByID(ctx, subject, id)
	case datum[0] == 0xc3 && len(datum) >= 2 && datum[1] == 1:
		if len(datum) < 10 {
			return bad("the value has %d bytes: single-object encoding takes 10", len(datum))
		}
		fp := binary.LittleEndian.Uint64(datum[2:10])
		datum = datum[10:]
		if writer = d.set.ByFingerprint(fp); writer == nil {
			err = fmt.Errorf("no schema of this build has the fingerprint %016x: %w", fp, ErrUnknownSchema)
		}
	default:
		return bad("the value starts with byte 0x%02x: want Confluent framing (0x00) or single-object encoding (0xc3 0x01)", datum[0])
	}
	if err != nil {
		if errors.Is(err, ErrUnknownSchema) {
			return nil, nil, &RefusedError{Cause: causeSchema, Reason: err.Error()}
		}
		return nil, nil, fmt.Errorf("look the schema of %s up: %w", subject, err)
	}
	if writer.Entity != "" && writer.Entity != reader.Entity || writer.Entity == "" && writer.Subject != subject && writer.Subject != reader.Subject {
		return nil, nil, &RefusedError{Cause: causeSchema,
			Reason: fmt.Sprintf("schema id %d is of subject %s, the topic carries %s", writer.ID, writer.Subject, subject)}
	}
	return writer, datum, nil
}

func lastHeader(hs []Header, key string) ([]byte, bool) {
	for i := len(hs) - 1; i >= 0; i-- {
		if hs[i].Key == key {
			return hs[i].Value, true
		}
	}
	return nil, false
}

func (d *AvroDecoder) plan(writer, reader *Schema) *plan {
	key := planKey{writer, reader}
	if p, ok := d.plans.Get(key); ok {
		return p
	}
	p := compile(writer, reader)
	d.plans.Add(key, p)
	return p
}

func compile(writer, reader *Schema) *plan {
	p := &plan{writer: writer, reader: reader}
	text, names := writer.Type.codecText()
	p.codec, p.broken = newCodec(string(text))
	if p.broken != nil {
		return p
	}
	r := &resolver{names: names, memo: map[pair]*lazy{}}
	p.project = r.resolve(writer.Type, reader.Type, "", 0)
	for _, i := range r.problems {
		if i.Certain {
			p.broken = errors.New(i.String())
			return p
		}
	}
	return p
}

// newCodec asks goavro for a codec. It panics on some schemas; on a normalised one none is known.
func newCodec(text string) (c *goavro.Codec, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("goavro panics on the schema")
		}
	}()
	c, err = goavro.NewCodec(text)
	if err != nil {
		return nil, fmt.Errorf("goavro refuses the schema: %w", err)
	}
	return c, nil
}

// decode reads one value. A panic is a flaw: whatever the bytes, the process goes on.
func (p *plan) decode(datum []byte, itemsMax int) (fields map[string]any, f *flaw) {
	defer func() {
		if r := recover(); r != nil {
			fields, f = nil, &flaw{reason: "the Avro decoder panics on the bytes"}
		}
	}()
	if f := sound(p.writer.Type, datum, itemsMax); f != nil {
		return nil, f
	}
	v, rest, err := p.codec.NativeFromBinary(datum)
	if err != nil || len(rest) != 0 { // goavro's own text may hold a map key
		return nil, &flaw{reason: fmt.Sprintf("the bytes do not decode with %s version %d (id %d); a map may have a key twice",
			p.writer.Subject, p.writer.Version, p.writer.ID)}
	}
	if v, f = apply(p.project, v); f != nil {
		return nil, f
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return nil, wrongForm(v)
	}
	return fields, nil
}

// fill sets what the fields say of the event. The reader schema was checked at load, so the types fit.
func (s *Schema) fill(ev *Event, fields map[string]any) {
	text := func(name string) string { t, _ := fields[name].(string); return t }
	ev.ID = text(FieldEventID)
	ev.Type = text(FieldEventType)
	ev.Source = text(FieldSourceSystem)
	ev.CorrelationID = text(FieldCorrelationID)
	ev.CausationID = text(FieldCausationID)
	ev.Tenant = text(s.TenantField)
	ev.Operation = Operation(text(FieldOperation))
	ev.Version, _ = fields[s.VersionField].(int64)
	ev.OccurredAt, _ = fields[FieldOccurredAt].(time.Time)
	ev.Fields = fields
	n := 0
	for _, ref := range s.References {
		if fields[ref.Field] != nil {
			n++
		}
	}
	if n > 0 {
		ev.References = make([]Reference, 0, n)
	}
	for _, ref := range s.References {
		if key, ok := fields[ref.Field].(string); ok {
			ev.References = append(ev.References, Reference{Field: ref.Field, Entity: ref.Entity, Key: key})
		}
	}
}
