package schema

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"testing"
	"time"
)

// at is the time of all sample events.
var at = time.Date(2026, 3, 4, 5, 6, 7, 89_000_000, time.UTC)

func envelope(typ string) map[string]any {
	return map[string]any{
		"event_id": "evt-1", "event_type": typ, "occurred_at": at, "source_system": "crm", "correlation_id": "corr-1",
		"causation_id": nil, "tenant": "acme", "entity_version": int64(7), "operation": "upsert",
	}
}

func with(m map[string]any, more map[string]any) map[string]any {
	out := maps.Clone(m)
	maps.Copy(out, more)
	return out
}

func customerFields() map[string]any {
	return with(envelope("customer.updated"), map[string]any{
		"customer_id": "cus-1", "kind": "person", "legal_name": "Ada Lovelace", "first_name": "Ada", "last_name": "Lovelace",
		"email": "ada@example.com", "phone": "+15555550100", "locale": "en-US",
		"billing_address": map[string]any{"line1": "1 Main St", "line2": nil, "city": "Springfield", "region": "IL", "postal_code": "62701", "country": "US"},
		"currency":        "USD", "data_region": "us", "status": "active",
		"consents":   []any{map[string]any{"purpose": "payments", "reference": "doc-9", "granted_at": at.Add(-time.Hour), "revoked_at": nil}},
		"extensions": map[string]any{"pushcash": map[string]any{"date_of_birth": "1985-12-10", "identity_verified": "true"}, "finfusion": map[string]any{"payment_method_id": "pm_1"}},
	})
}

func contractFields() map[string]any {
	return with(envelope("contract.signed"), map[string]any{
		"contract_id": "con-1", "customer_id": "cus-1", "status": "active", "start_date": "2026-01-01", "end_date": nil,
		"amount_minor": int64(4900), "currency": "USD", "billing_period": "monthly", "included_units": int64(1000), "extensions": map[string]any{},
	})
}

func invoiceFields() map[string]any {
	return with(envelope("invoice.issued"), map[string]any{
		"invoice_id": "inv-1", "contract_id": "con-1", "customer_id": "cus-1", "status": "issued", "purchase_order": "PO-7", "currency": "USD",
		"total_minor": int64(11900), "tax_minor": int64(1900),
		"line_items": []any{
			map[string]any{"line_id": "l1", "description": "Seats", "quantity": int64(4), "unit_price_minor": int64(2000), "amount_minor": int64(8000)},
			map[string]any{"line_id": "l2", "description": "Support", "quantity": int64(1), "unit_price_minor": int64(2000), "amount_minor": int64(2000)},
		},
		"issued_at": at, "due_at": at.Add(30 * 24 * time.Hour), "paid_at": nil, "extensions": map[string]any{},
	})
}

func sample(entity string) map[string]any {
	switch entity {
	case "customer":
		return customerFields()
	case "contract":
		return contractFields()
	}
	return invoiceFields()
}

func embedded(t testing.TB) *Set {
	t.Helper()
	s, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func embeddedDecoder(t testing.TB, o DecoderOptions) *AvroDecoder {
	t.Helper()
	s := embedded(t)
	if o.Rules == nil {
		rules, err := EmbeddedRules(s)
		if err != nil {
			t.Fatal(err)
		}
		o.Rules = rules
	}
	return NewDecoder(s, nil, o)
}

// record is a Kafka record of an entity's topic.
func record(entity, key string, value []byte) *Record {
	return &Record{Topic: "canonical." + entity, Partition: 3, Offset: 42, Key: []byte(key), Value: value, Timestamp: at}
}

func encoded(t testing.TB, s *Set, entity string, fields map[string]any) []byte {
	t.Helper()
	b, err := s.Encode(entity, fields)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refused asserts that err is a refusal and returns it.
func refused(t testing.TB, err error) *RefusedError {
	t.Helper()
	re, ok := errors.AsType[*RefusedError](err)
	if !ok {
		t.Fatalf("got error %v, want a *RefusedError", err)
	}
	return re
}

func mustParse(t testing.TB, text string) *Type {
	t.Helper()
	typ, err := Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return typ
}

// fakeRegistry is a Lookup with the schemas that a test puts into it.
type fakeRegistry struct {
	byID map[ID]*Schema
	err  error
}

func (f *fakeRegistry) ByID(_ context.Context, _ Subject, id ID) (*Schema, error) {
	if f.err != nil {
		return nil, f.err
	}
	if s := f.byID[id]; s != nil {
		return s, nil
	}
	return nil, ErrUnknownSchema
}

func (f *fakeRegistry) ByGUID(ctx context.Context, s Subject, guid [16]byte) (*Schema, error) {
	return f.ByID(ctx, s, ID(binary.BigEndian.Uint32(guid[12:])))
}
