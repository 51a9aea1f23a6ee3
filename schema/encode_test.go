package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
)

func decodeJSON(t testing.TB, text string) map[string]any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	return m
}

const invoiceJSON = `{"event_id":"evt-1","event_type":"invoice.issued","occurred_at":"2026-03-04T06:06:07.089+01:00","source_system":"crm",
	"tenant":"acme","entity_version":7,"operation":"upsert","invoice_id":"inv-1","customer_id":"cus-1","status":"issued","currency":"USD",
	"total_minor":9007199254740993,"line_items":[{"line_id":"l1","quantity":1,"unit_price_minor":9007199254740993,"amount_minor":9007199254740993}],
	"issued_at":"2026-03-04T05:06:07Z","extensions":{"finfusion":{"payment_method_id":"pm_1"}}}`

func TestEncodeJSON(t *testing.T) {
	t.Parallel()
	d := embeddedDecoder(t, DecoderOptions{})
	ev, err := d.Decode(t.Context(), record("invoice", "inv-1", encoded(t, embedded(t), "invoice", decodeJSON(t, invoiceJSON))))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"event_id": "evt-1", "event_type": "invoice.issued", "occurred_at": at, "source_system": "crm", "correlation_id": nil, "causation_id": nil,
		"tenant": "acme", "entity_version": int64(7), "operation": "upsert", "invoice_id": "inv-1", "contract_id": nil, "customer_id": "cus-1",
		"status": "issued", "purchase_order": nil, "currency": "USD", "total_minor": int64(9007199254740993), "tax_minor": int64(0),
		"line_items": []any{map[string]any{"line_id": "l1", "description": "", "quantity": int64(1), "unit_price_minor": int64(9007199254740993), "amount_minor": int64(9007199254740993)}},
		"issued_at":  at.Truncate(time.Second), "due_at": nil, "paid_at": nil,
		"extensions": map[string]any{"finfusion": map[string]any{"payment_method_id": "pm_1"}},
	}
	if !reflect.DeepEqual(ev.Fields, want) {
		t.Errorf("got  %#v\nwant %#v", ev.Fields, want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	edit := func(old, repl string) map[string]any {
		if !strings.Contains(invoiceJSON, old) {
			t.Fatalf("the sample has no %s", old)
		}
		return decodeJSON(t, strings.Replace(invoiceJSON, old, repl, 1))
	}
	for _, c := range []struct {
		entity string
		fields map[string]any
		want   string
	}{
		{"invoice", edit(`"quantity":1`, `"quantity":"3"`), `line_items[0].quantity: want an integer, got "3"`},
		{"invoice", edit(`"quantity":1`, `"quantity":1.0`), `line_items[0].quantity: want an integer of 64 bits, got 1.0`},
		{"invoice", edit(`"quantity":1`, `"quantity":1e0`), `line_items[0].quantity: want an integer of 64 bits, got 1e0`},
		{"invoice", edit(`"quantity":1`, `"quantity":9223372036854775808`), `want an integer of 64 bits, got 9223372036854775808`},
		{"invoice", edit(`"quantity":1`, `"quantity":null`), `line_items[0].quantity: want an integer, got null`},
		{"invoice", edit(`"quantity":1`, `"quantity":true`), `line_items[0].quantity: want an integer, got true`},
		{"invoice", edit(`"quantity":1,`, ``), `line_items[0].quantity: missing, and the schema has no default for it`},
		{"invoice", edit(`"quantity":1`, `"quantity":1,"quantty":2`), `line_items[0].quantty: unknown field: did you mean quantity?`},
		{"invoice", edit(`"tenant"`, `"x":1,"tenant"`), `x: unknown field: known are event_id,`},
		{"invoice", edit(`"status":"issued"`, `"status":"Issued"`), `status: want one of draft, open, issued, overdue, paid, void, refunded, uncollectible, got "Issued"`},
		{"invoice", edit(`"line_items":[`, `"line_items":[7,`), `line_items[0]: want an object, got 7`},
		{"invoice", edit(`"issued_at":"2026-03-04T05:06:07Z"`, `"issued_at":1772600767`), `issued_at: want an RFC 3339 time like 2006-01-02T15:04:05Z, got 1772600767`},
		{"invoice", edit(`"issued_at":"2026-03-04T05:06:07Z"`, `"issued_at":"2026-03-04T05:06:07.0001Z"`), `issued_at: want a time no finer than a millisecond`},
		{"invoice", edit(`"extensions":{"finfusion":{`, `"extensions":{"finfusion":{"n":5,`), `extensions.finfusion.n: want a text, got a number`}, // personal data: no value
		{"customer", with(customerFields(), map[string]any{"email": json.Number("42")}), `email: want a text, got a number`},
		{"customer", with(customerFields(), map[string]any{"billing_address": "1 Main St"}), `billing_address: want an object, got "1 Main St"`},
		{"customer", with(customerFields(), map[string]any{"extensions": map[string]any{"Ada L": "secret"}}), `extensions{0}: want an object, got a string`},
		{"customer", with(customerFields(), map[string]any{"currency": "\xff"}), `currency: the text is not UTF-8`},
		{"customer", with(customerFields(), map[string]any{"entity_version": 7.0}), `entity_version: want an integer, got 7 as a float64 (decode JSON with UseNumber)`},
		{"contract", with(contractFields(), map[string]any{"start_date": "2026-02-30"}), `start_date: want a date like 2006-01-02, got "2026-02-30"`},
		{"contract", nil, `want an object, got null`},
		{"client", nil, `entity "client" has no schema: known are contract, customer, invoice`},
	} {
		_, err := s.Encode(c.entity, c.fields)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v\nwant %s", err, c.want)
		}
	}
	_, err := s.Encode("contract", map[string]any{"contract_id": 1, "nonsense": 2})
	ee, ok := errors.AsType[*EncodeError](err)
	if !ok || ee.Entity != "contract" || len(ee.Problems) < 10 {
		t.Errorf("got %v, want an *EncodeError with all problems", err)
	}
	many := map[string]any{}
	for i := range 100 {
		many[fmt.Sprint("f", i)] = i
	}
	_, err = s.Encode("contract", many)
	if ee, ok = errors.AsType[*EncodeError](err); !ok || len(ee.Problems) != problemsMax || ee.More < 80 {
		t.Errorf("got %v, want %d problems and the others counted", err, problemsMax)
	}
}

func TestEncodeForms(t *testing.T) {
	t.Parallel()
	typ := mustParse(t, `{"type":"record","name":"R","fields":[
		{"name":"i","type":"int"},{"name":"f","type":"float"},{"name":"d","type":"double"},{"name":"b","type":"bytes"},{"name":"x","type":{"type":"fixed","name":"F","size":2}},
		{"name":"bool","type":"boolean"},{"name":"n","type":"null"},{"name":"m","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2}},
		{"name":"us","type":{"type":"long","logicalType":"timestamp-micros"}},{"name":"ns","type":{"type":"long","logicalType":"timestamp-nanos"}},
		{"name":"day","type":{"type":"int","logicalType":"date"}},{"name":"u","type":["string","long","null"]}]}`)
	sch := &Schema{Subject: "s", Type: typ}
	good := map[string]any{"i": json.Number("-3"), "f": json.Number("1.5"), "d": json.Number("0.1"), "b": "AQI=", "x": []byte{1, 2}, "bool": true, "n": nil,
		"m": json.Number("-12.3"), "us": at.Add(time.Microsecond), "ns": at.Add(1), "day": "1969-12-31", "u": json.Number("5")}
	raw, err := sch.encode(nil, good)
	if err != nil {
		t.Fatal(err)
	}
	got, f := compile(sch, sch).decode(raw, 100)
	if f != nil {
		t.Fatal(f)
	}
	want := map[string]any{"i": int64(-3), "f": 1.5, "d": 0.1, "b": []byte{1, 2}, "x": []byte{1, 2}, "bool": true, "n": nil,
		"m": "-12.30", "us": at.Add(time.Microsecond), "ns": at.Add(1), "day": "1969-12-31", "u": int64(5)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	clear(raw) // invariant 3: goavro's bytes are those of the record
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the value changed with the record's bytes: %#v", got)
	}
	for _, c := range []struct {
		field string
		value any
		want  string
	}{
		{"i", json.Number("2147483648"), "integer of 32 bits"},
		{"f", json.Number("0.1"), "holds exactly"},
		{"f", json.Number("1e60"), "holds exactly"},
		{"d", int64(math.MaxInt64), "a number"},
		{"d", "1", "a number"},
		{"b", "not base64!", "base64"},
		{"x", []byte{1}, "2 bytes"},
		{"bool", json.Number("1"), "true or false"},
		{"n", "null", "want null"},
		{"m", "1.234", "decimal of at most 6 digits"},
		{"m", "12345.0", "decimal of at most 6 digits"},
		{"m", 1.5, "decimal of at most 6 digits"},
		{"us", at.Add(1), "microsecond"},
		{"ns", time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC), "1678"},
		{"us", time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), "9999"},
		{"day", at, "a date"},
		{"day", "0000-01-01", "a date"},
		{"u", true, "want one of union"},
	} {
		if _, err := sch.encode(nil, with(good, map[string]any{c.field: c.value})); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.field+": ") {
			t.Errorf("%s = %v: got %v, want an error with %q", c.field, c.value, err, c.want)
		}
	}
}

// goavro, which shares no code with our encoder, reads what it writes.
func TestEncodeAgainstGoavro(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	for _, e := range s.Entities() {
		codec, err := goavro.NewCodec(s.Reader(e).Text)
		if err != nil {
			t.Fatal(err)
		}
		framed := encoded(t, s, e, sample(e))
		if want := []byte{0, 0, 0, 0, byte(s.Reader(e).ID)}; !reflect.DeepEqual(framed[:5], want) {
			t.Errorf("%s: framing %x, want %x", e, framed[:5], want)
		}
		native, rest, err := codec.NativeFromBinary(framed[5:])
		if err != nil || len(rest) > 0 {
			t.Fatalf("%s: %v, %d bytes left", e, err, len(rest))
		}
		m := native.(map[string]any)
		if m["event_id"] != "evt-1" || !m["occurred_at"].(time.Time).Equal(at) || m["entity_version"] != int64(7) {
			t.Errorf("%s: goavro reads %v", e, m)
		}
	}
	if got, err := s.EncodeWithID("contract", 70000, contractFields()); err != nil || !reflect.DeepEqual(got[:5], []byte{0, 0, 1, 0x11, 0x70}) {
		t.Errorf("EncodeWithID(70000) starts with %x (%v)", got[:5], err)
	}
}

func TestKeyOf(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	if key, err := s.KeyOf("invoice", invoiceFields()); key != "inv-1" || err != nil {
		t.Errorf("KeyOf = %q, %v, want inv-1", key, err)
	}
	for _, v := range []any{nil, "", json.Number("4"), strings.Repeat("x", 256)} {
		if key, err := s.KeyOf("invoice", map[string]any{"invoice_id": v}); err == nil || !strings.Contains(err.Error(), "invoice_id") {
			t.Errorf("KeyOf with id %v = %q, %v, want an error that names the field", v, key, err)
		}
	}
	if _, err := s.KeyOf("client", nil); err == nil {
		t.Error("KeyOf an unknown entity is no error")
	}
}

func TestRedact(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	in := with(customerFields(), map[string]any{
		"extensions": map[string]any{"pushcash": map[string]any{"date_of_birth": "1985-12-10", "Ada Lovelace": "x"}},
		"surprise":   "Ada",
	})
	before := clone(in)
	got := s.Redact("customer", in)
	want := with(envelope("customer.updated"), map[string]any{
		"customer_id": "cus-1", "kind": "person", "legal_name": Masked, "first_name": Masked, "last_name": Masked, "email": Masked, "phone": Masked, "locale": "en-US",
		"billing_address": map[string]any{"line1": Masked, "line2": nil, "city": Masked, "region": Masked, "postal_code": Masked, "country": "US"},
		"currency":        "USD", "data_region": "us", "status": "active",
		"consents":   []any{map[string]any{"purpose": "payments", "reference": "doc-9", "granted_at": at.Add(-time.Hour), "revoked_at": nil}},
		"extensions": map[string]any{"pushcash": map[string]any{"date_of_birth": Masked, "{0}": Masked}},
		"unknown_1":  Masked,
	})
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if !reflect.DeepEqual(in, before) {
		t.Error("Redact changed its argument")
	}
	if got := s.Redact("client", in); got != nil {
		t.Errorf("an unknown entity leaves %v", got)
	}
	if got := s.Redact("customer", map[string]any{"consents": "Ada", "currency": map[string]any{"Ada": 1}}); got["consents"] != Masked || got["currency"] != Masked {
		t.Errorf("values that are not what the schema says: %v", got)
	}
}

// A field may be given by the name that an older version gave it, once.
func TestEncodeByOlderNames(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	older := decodeJSON(t, strings.Replace(invoiceJSON, `"unit_price_minor"`, `"unit_minor"`, 1))
	got, err := s.Encode("invoice", older)
	if err != nil {
		t.Fatal(err)
	}
	if want := encoded(t, s, "invoice", decodeJSON(t, invoiceJSON)); !bytes.Equal(got, want) {
		t.Errorf("by the older name: %x, want %x", got, want)
	}
	for text, want := range map[string]string{
		strings.Replace(invoiceJSON, `"unit_price_minor"`, `"unit_minor":1,"unit_price_minor"`, 1):              `line_items[0].unit_minor: the same field as unit_price_minor, which is there too`,
		strings.Replace(invoiceJSON, `"unit_price_minor":9007199254740993`, `"unit_minor":"1"`, 1):              `line_items[0].unit_minor: want an integer, got "1"`,
		strings.Replace(invoiceJSON, `"unit_price_minor"`, `"unit_price"`, 1):                                   `line_items[0].unit_price_minor: missing`,
		strings.Replace(invoiceJSON, `"unit_price_minor"`, `"unit_minor":1,"surprise":2,"unit_price_minor"`, 1): `line_items[0].surprise: unknown field`,
	} {
		if _, err := s.Encode("invoice", decodeJSON(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v\nwant %s", err, want)
		}
	}
}

func TestEncodeVersion(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	d := embeddedDecoder(t, DecoderOptions{})
	now := decodeJSON(t, invoiceJSON)
	before := decodeJSON(t, strings.Replace(invoiceJSON, `"unit_price_minor"`, `"unit_minor"`, 1))
	value, err := s.EncodeVersion("invoice", 1, before)
	if err != nil {
		t.Fatal(err)
	}
	one, err1 := d.Decode(t.Context(), record("invoice", "inv-1", value))
	two, err2 := d.Decode(t.Context(), record("invoice", "inv-1", encoded(t, s, "invoice", now)))
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if one.SchemaVersion != 1 || one.SchemaID != 3 || two.SchemaVersion != 2 || !reflect.DeepEqual(one.Fields, two.Fields) {
		t.Errorf("version 1 reads as %+v\nversion 2 as %+v", one, two)
	}
	for version, want := range map[int]string{3: "known are 1 to 2", -1: "no schema version -1"} {
		if _, err := s.EncodeVersion("invoice", version, now); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("version %d: got %v, want an error with %q", version, err, want)
		}
	}
	// An older version does not know the newer names: nothing is ignored.
	if _, err := s.EncodeVersion("invoice", 1, now); err == nil || !strings.Contains(err.Error(), "line_items[0].unit_price_minor: unknown field") {
		t.Errorf("a newer name in version 1: got %v", err)
	}
	if _, err := s.EncodeVersion("client", 1, now); err == nil || !strings.Contains(err.Error(), `entity "client"`) {
		t.Errorf("an unknown entity: got %v", err)
	}
}
