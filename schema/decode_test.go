package schema

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecodeFramings(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	d := embeddedDecoder(t, DecoderOptions{})
	framed := encoded(t, s, "invoice", invoiceFields())
	single, err := s.EncodeSingleObject("invoice", invoiceFields())
	if err != nil {
		t.Fatal(err)
	}
	plain := framed[5:]
	reg := &fakeRegistry{byID: map[ID]*Schema{}}
	if reg.byID[77], err = NewSchema("canonical.invoice-value", 2, 77, s.Reader("invoice").Text); err != nil {
		t.Fatal(err)
	}
	guid := append([]byte{1}, make([]byte, 12)...)
	guid = append(guid, 0, 0, 0, 77)
	for _, c := range []struct {
		name    string
		d       *AvroDecoder
		value   []byte
		headers []Header
		id      ID
	}{
		{"Confluent", d, framed, nil, 6},
		{"single object", d, single, nil, 6},
		{"header with id", d, plain, []Header{{HeaderSchemaID, []byte{0, 0, 0, 0, 6}}}, 6},
		{"the last header counts", d, plain, []Header{{HeaderSchemaID, []byte("junk")}, {HeaderSchemaID, []byte{0, 0, 0, 0, 6}}}, 6},
		{"header with GUID", NewDecoder(s, reg, DecoderOptions{}), plain, []Header{{HeaderSchemaID, guid}}, 77},
		{"a registry's id", NewDecoder(s, reg, DecoderOptions{}), append([]byte{0, 0, 0, 0, 77}, plain...), nil, 77},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := record("invoice", "inv-1", bytes.Clone(c.value))
			r.Headers = c.headers
			ev, err := c.d.Decode(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			want := &Event{
				ID: "evt-1", Type: "invoice.issued", Source: "crm", CorrelationID: "corr-1", Tenant: "acme", Entity: "invoice", Key: "inv-1",
				Version: 7, Operation: Upsert, OccurredAt: at, Subject: "canonical.invoice-value", SchemaVersion: 2, SchemaID: c.id,
				Fields:     invoiceFields(),
				References: []Reference{{"customer_id", "customer", "cus-1"}, {"contract_id", "contract", "con-1"}},
			}
			if !reflect.DeepEqual(ev, want) {
				t.Errorf("got  %+v\nwant %+v", ev, want)
			}
			clear(r.Value) // invariant 3: nothing of the record is kept
			if !reflect.DeepEqual(ev.Fields, want.Fields) {
				t.Error("the event changed with the record's bytes")
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	d := embeddedDecoder(t, DecoderOptions{})
	good := encoded(t, s, "contract", contractFields())
	id := func(n uint32, rest []byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{0}, n), rest...)
	}
	change := func(path string, v any) []byte {
		return encoded(t, s, "contract", with(contractFields(), map[string]any{path: v}))
	}
	bigPayload := change("extensions", map[string]any{"v": map[string]any{"k": strings.Repeat("x", 1<<20)}})
	for _, c := range []struct {
		name, key         string
		value             []byte
		headers           []Header
		cause, rule, path string
		reason            string
		fields            bool // the event was decoded
	}{
		{"no key", "", good, nil, "no_key", "", "", "no key", false},
		{"no key, tombstone", "", nil, nil, "no_key", "", "", "no key", false},
		{"key mismatch", "con-2", good, nil, "key_mismatch", "", "contract_id", "not the entity's id", true},
		{"empty value", "con-1", []byte{}, nil, "framing", "", "", "empty", false},
		{"no framing", "con-1", []byte(`{"json":1}`), nil, "framing", "", "", "byte 0x7b", false},
		{"cut framing", "con-1", []byte{0, 0, 0}, nil, "framing", "", "", "takes 5", false},
		{"cut single object", "con-1", []byte{0xc3, 1, 0}, nil, "framing", "", "", "takes 10", false},
		{"half a magic", "con-1", []byte{0xc3}, nil, "framing", "", "", "byte 0xc3", false},
		{"bad header", "con-1", good[5:], []Header{{HeaderSchemaID, []byte{1, 2}}}, "framing", "", "", "has 2 bytes", false},
		{"header, then nothing", "con-1", []byte{}, []Header{{HeaderSchemaID, []byte{0, 0, 0, 0, 2}}}, "framing", "", "event_id", "end inside", false},
		{"GUID without registry", "con-1", good[5:], []Header{{HeaderSchemaID, append([]byte{1}, make([]byte, 16)...)}}, "schema", "", "", "needs a registry", false},
		{"unknown id", "con-1", id(4711, good[5:]), nil, "schema", "", "", "4711", false},
		{"unknown fingerprint", "con-1", append([]byte{0xc3, 1}, good...), nil, "schema", "", "", "fingerprint", false},
		{"schema of another entity", "con-1", id(1, good[5:]), nil, "schema", "", "", "id 1 is of subject canonical.customer-value", false},
		{"trailing bytes", "con-1", append(bytes.Clone(good), 0), nil, "framing", "", "", "1 bytes after", false},
		{"cut value", "con-1", good[:len(good)-1], nil, "framing", "", "extensions", "end inside", false},
		{"too large", "con-1", bigPayload, nil, "too_large", "", "", "1048576", false},
		{"rule", "con-1", change("currency", "EURO"), nil, "rule", "contract.currency", "currency", "ISO 4217", true},
		{"rule of the envelope: event id", "con-1", change("event_id", ""), nil, "rule", "envelope.event_id", "event_id", "1 to 255", true},
		{"rule of the envelope: version", "con-1", change("entity_version", int64(0)), nil, "rule", "envelope.entity_version", "entity_version", "1 or more", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := record("contract", c.key, c.value)
			r.Headers = append(c.headers, Header{"ce_id", []byte("ce-9")})
			ev, err := d.Decode(t.Context(), r)
			re := refused(t, err)
			if ev != nil {
				t.Errorf("an event beside the refusal: %+v", ev)
			}
			if re.Cause != c.cause || re.Rule != c.rule || re.Path != c.path || !strings.Contains(re.Reason, c.reason) {
				t.Errorf("got {%s %s %s %s}, want {%s %s %s ...%s...}", re.Cause, re.Rule, re.Path, re.Reason, c.cause, c.rule, c.path, c.reason)
			}
			if re.Event == nil || re.Event.Entity != "contract" || re.Event.Key != c.key {
				t.Fatalf("the refusal's event is %+v, want entity contract and key %q", re.Event, c.key)
			}
			if c.fields != (re.Event.Fields != nil) {
				t.Errorf("fields known: %v, want %v", re.Event.Fields != nil, c.fields)
			}
			if !c.fields && re.Event.ID != "ce-9" && c.value != nil {
				t.Errorf("event id %q, want that of the header", re.Event.ID)
			}
		})
	}
}

// Promise 9: what a value holds appears in no refusal, whatever is wrong with it.
func TestRefusalsHoldNoData(t *testing.T) {
	t.Parallel()
	const secret = "zq-secret"
	s := embedded(t)
	d := embeddedDecoder(t, DecoderOptions{})
	base := with(customerFields(), map[string]any{
		"legal_name": secret, "email": secret, "phone": secret, "extensions": map[string]any{secret: map[string]any{secret: secret}},
		"customer_id": "cus-1",
	})
	good := encoded(t, s, "customer", base)
	n := 0
	for i := 5; i < len(good); i++ {
		for _, x := range []byte{0, 1, 0x7f, 0x80, 0xff} {
			bad := bytes.Clone(good)
			bad[i] = x
			_, err := d.Decode(t.Context(), record("customer", "cus-1", bad))
			if err == nil {
				continue
			}
			n++
			if strings.Contains(err.Error(), "zq-") || strings.Contains(err.Error(), "secret") {
				t.Fatalf("byte %d as %#x: %v", i, x, err)
			}
		}
	}
	if n < 100 {
		t.Errorf("only %d of the changed values were refused: the test shows little", n)
	}
}

func TestTombstones(t *testing.T) {
	t.Parallel()
	d := embeddedDecoder(t, DecoderOptions{})
	when := time.Date(2025, 1, 2, 3, 4, 5, 6, time.UTC)
	r := record("customer", "cus-1", nil)
	r.TopicID = [16]byte{0xab, 15: 1}
	ev, err := d.Decode(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want := &Event{ID: "ab000000000000000000000000000001/3/42", Entity: "customer", Key: "cus-1", Operation: Delete, Tombstone: true, OccurredAt: at}
	if !reflect.DeepEqual(ev, want) {
		t.Errorf("without headers: got %+v, want %+v", ev, want)
	}

	r.Headers = []Header{{"ce_id", []byte("e-1")}, {"ce_time", []byte("2025-01-02T05:04:05.000000006+02:00")}, {"ce_tenant", []byte("acme")},
		{"ce_source", []byte("crm")}, {"ce_type", []byte("customer.erased")}, {"ce_correlationid", []byte("c")}, {"ce_causationid", []byte("d")}, {"other", nil}}
	if ev, err = d.Decode(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	want = &Event{ID: "e-1", Type: "customer.erased", Source: "crm", CorrelationID: "c", CausationID: "d", Tenant: "acme", Entity: "customer", Key: "cus-1",
		Operation: Delete, Tombstone: true, OccurredAt: when}
	if !reflect.DeepEqual(ev, want) {
		t.Errorf("with headers: got %+v, want %+v", ev, want)
	}

	for _, c := range []struct {
		key    string
		header Header
		rule   string
	}{
		{"cus-1", Header{"ce_time", []byte("yesterday")}, RuleTombstoneTime},
		{"cus-1", Header{"ce_id", bytes.Repeat([]byte("x"), 256)}, RuleTombstoneHeader},
		{"cus-1", Header{"ce_tenant", []byte{0xff}}, RuleTombstoneHeader},
		{strings.Repeat("k", 256), Header{}, RuleTombstoneKey},
		{"\xff", Header{}, RuleTombstoneKey},
	} {
		r := record("customer", c.key, nil)
		r.Headers = []Header{c.header}
		_, err := d.Decode(t.Context(), r)
		re := refused(t, err)
		if re.Cause != "rule" || re.Rule != c.rule || re.Event.Key != c.key || !re.Event.Tombstone {
			t.Errorf("%s: got %+v, want rule %s", c.header.Key, re, c.rule)
		}
	}
}

// A writer schema that is newer than this build is never a bad record (design section 4).
func TestSchemaAhead(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	text := s.Reader("contract").Text
	newer := strings.Replace(text, `"weir.schema_version": 3`, `"weir.schema_version": 4`, 1)
	must := func(old, repl, in string) string {
		t.Helper()
		if !strings.Contains(in, old) {
			t.Fatalf("the schema's text has no %s", old)
		}
		return strings.Replace(in, old, repl, 1)
	}
	forward := must(`{"name": "currency"`, `{"name": "colour", "type": "string"}, {"name": "currency"`, newer)
	breaking := must(`"name": "amount_minor", "type": "long"`, `"name": "amount_minor", "type": "string"`, newer)
	branch := must(`"name": "end_date", "type": ["null"`, `"name": "end_date", "type": ["null", "string"`, newer)
	foreign := must(`"weir.schema_version": 4,`, ``, breaking)
	plain := encoded(t, s, "contract", contractFields())[5:]
	schemaOf := func(version int, text string) *Schema {
		t.Helper()
		sch, err := NewSchema("canonical.contract-value", version, 900, text)
		if err != nil {
			t.Fatal(err)
		}
		return sch
	}
	decode := func(sch *Schema, datum []byte) (*Event, error) {
		d := NewDecoder(s, &fakeRegistry{byID: map[ID]*Schema{900: sch}}, DecoderOptions{})
		return d.Decode(t.Context(), record("contract", "con-1", append([]byte{0, 0, 0, 3, 0x84}, datum...)))
	}

	fields := with(contractFields(), map[string]any{"colour": "red"})
	datum, err := (&Schema{Entity: "contract", Type: mustParse(t, forward)}).encode(nil, fields)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := decode(schemaOf(4, forward), datum)
	if err != nil || !reflect.DeepEqual(ev.Fields, contractFields()) || ev.SchemaVersion != 4 || ev.SchemaID != 900 {
		t.Errorf("a newer schema that resolves: event %+v, %v", ev, err)
	}

	for _, c := range []struct {
		name string
		sch  *Schema
	}{
		{"cannot resolve, newer by its text, whatever the registry's number", schemaOf(1, breaking)},
		{"cannot resolve, newer by the registry's number", schemaOf(4, foreign)},
	} {
		_, err := decode(c.sch, plain)
		if ahead, ok := errors.AsType[*AheadError](err); !ok || ahead.ID != 900 || ahead.Subject != "canonical.contract-value" || !strings.Contains(ahead.Reason, "amount_minor") {
			t.Errorf("%s: got %v, want an *AheadError that names amount_minor", c.name, err)
		}
	}
	_, err = decode(schemaOf(1, foreign), plain)
	if re := refused(t, err); re.Cause != "schema" || !strings.Contains(re.Reason, "amount_minor") {
		t.Errorf("cannot resolve and is not newer: got %v, want a refusal schema", err)
	}

	// Only some values cannot be read: those are ahead, the others are read.
	sch := schemaOf(4, branch)
	with1, err := (&Schema{Entity: "contract", Type: sch.Type}).encode(nil, with(contractFields(), map[string]any{"end_date": nil}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(sch, with1); err != nil {
		t.Errorf("a value without the new type: %v", err)
	}
	with2, err := (&Schema{Entity: "contract", Type: sch.Type}).encode(nil, with(contractFields(), map[string]any{"end_date": "soon"}))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := decode(sch, with2); !isAhead(err) {
		t.Errorf("a value with the new type: got %v, want an *AheadError", err)
	}
}

func isAhead(err error) bool { _, ok := errors.AsType[*AheadError](err); return ok }

// What is not the record's fault is neither a refusal nor ahead.
func TestEnvironmentErrors(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	down := errors.New("connection refused")
	d := NewDecoder(s, &fakeRegistry{err: down}, DecoderOptions{})
	_, err := d.Decode(t.Context(), record("contract", "con-1", encoded(t, s, "contract", contractFields())))
	if _, isRefusal := errors.AsType[*RefusedError](err); isRefusal || isAhead(err) || !errors.Is(err, down) {
		t.Errorf("registry down: got %v, want a plain error that wraps %v", err, down)
	}
	_, err = d.Decode(t.Context(), record("unknown", "k", nil))
	if _, isRefusal := errors.AsType[*RefusedError](err); isRefusal || err == nil || !strings.Contains(err.Error(), "canonical.unknown") {
		t.Errorf("a topic without entity: got %v, want a plain error that names it", err)
	}
}

// Bytes that lie about counts, sizes and depth cost little and are refused (promise 6).
func TestHostileBytesAreBounded(t *testing.T) {
	long := func(n int64) []byte { return binary.AppendVarint(nil, n) }
	deep := `{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}`
	wide := `{"type":"record","name":"R0","fields":[`
	var b strings.Builder // 2^30 nulls in no bytes
	b.WriteString(wide + `{"name":"n","type":"null"}]}`)
	for i := 1; i <= 30; i++ {
		inner := b.String()
		b.Reset()
		fmt.Fprintf(&b, `{"type":"record","name":"R%d","fields":[{"name":"a","type":%s},{"name":"b","type":"R%d"}]}`, i, inner, i-1)
	}
	for _, c := range []struct {
		name, schema string
		bytes        []byte
		want, cause  string
	}{
		{"array count", `{"type":"array","items":"long"}`, long(1 << 30), "more entries", "too_large"},
		{"map count", `{"type":"map","values":"long"}`, long(1 << 30), "more entries", "too_large"},
		{"negative count", `{"type":"array","items":"long"}`, append(long(-(1 << 40)), 0), "more entries", "too_large"},
		{"the most negative count", `{"type":"array","items":"long"}`, long(-1 << 63), "impossible count", ""},
		{"items without bytes", `{"type":"array","items":"null"}`, append(long(100_000), 0), "more entries", "too_large"},
		{"many blocks", `{"type":"array","items":"null"}`, bytes.Repeat(long(1000), 100), "more entries", "too_large"},
		{"count beyond the bytes", `{"type":"array","items":"long"}`, long(60_000), "end inside", ""},
		{"block size", `{"type":"array","items":"int"}`, []byte{1, 4, 2, 0}, "another size", ""},
		{"block size beyond the bytes", `{"type":"array","items":"int"}`, []byte{1, 40, 2, 0}, "longer than", ""},
		{"string length", `"string"`, long(1 << 40), "end inside", ""},
		{"negative length", `"bytes"`, long(-5), "negative", ""},
		{"not UTF-8", `"string"`, []byte{2, 0xff}, "UTF-8", ""},
		{"int of 33 bits", `"int"`, long(1 << 31), "32 bits", ""},
		{"long of 65 bits", `"long"`, append(bytes.Repeat([]byte{0xff}, 9), 2), "64 bits", ""},
		{"endless varint", `"long"`, bytes.Repeat([]byte{0x80}, 100), "64 bits", ""},
		{"boolean 2", `"boolean"`, []byte{2}, "neither", ""},
		{"enum out of range", `{"type":"enum","name":"E","symbols":["A"]}`, []byte{2}, "no symbol", ""},
		{"enum negative", `{"type":"enum","name":"E","symbols":["A"]}`, []byte{1}, "no symbol", ""},
		{"union out of range", `["null"]`, []byte{2}, "no type", ""},
		{"depth", deep, bytes.Repeat([]byte{2}, 1<<20), "deeper", "too_large"},
		{"parts without bytes", b.String(), nil, "more parts", "too_large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			typ := mustParse(t, c.schema)
			f := sound(typ, c.bytes, 1<<16)
			if f == nil || !strings.Contains(f.reason, c.want) || f.cause != c.cause {
				t.Fatalf("flaw %+v, want one with %q and cause %q", f, c.want, c.cause)
			}
			if allocs := testing.AllocsPerRun(1, func() { sound(typ, c.bytes, 1<<16) }); allocs > 200 {
				t.Errorf("%v allocations to refuse it", allocs)
			}
		})
	}
}
