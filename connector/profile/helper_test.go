package profile

import (
	"maps"
	"testing"
	"time"

	"github.com/weirsync/weir/schema"
)

var at = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func schemas(tb testing.TB) *schema.Set {
	tb.Helper()
	set, err := schema.Embedded()
	if err != nil {
		tb.Fatal(err)
	}
	return set
}

func compiled(tb testing.TB, name string, vars map[string]string) *Compiled {
	tb.Helper()
	p, err := Load(name)
	if err != nil {
		tb.Fatal(err)
	}
	c, err := p.Compile(Options{Connector: name, Environment: "sandbox", Vars: vars, Schemas: schemas(tb)})
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

type fields = map[string]any

func event(entity, key string, version int64, f fields, change fields) *schema.Event {
	maps.Copy(f, fields{
		"event_id": "e-" + key, "event_type": entity + ".updated", "occurred_at": at, "source_system": "erp",
		"correlation_id": nil, "causation_id": nil, "tenant": "t1", "entity_version": version, "operation": "upsert",
	})
	maps.Copy(f, change)
	return &schema.Event{ID: "e-" + key, Type: entity + ".updated", Source: "erp", Tenant: "t1", Entity: entity, Key: key, Version: version,
		Operation: schema.Operation(f["operation"].(string)), OccurredAt: at, Fields: f}
}

func customer(change fields) *schema.Event {
	return event("customer", "c-1", 3, fields{
		"customer_id": "c-1", "kind": "person", "legal_name": "Ada Maria Lovelace", "first_name": nil, "last_name": nil,
		"email": "ada@example.com", "phone": nil, "locale": nil,
		"billing_address": fields{"line1": "1 Main St", "line2": nil, "city": "Oakland", "region": "US-CA", "postal_code": "94601", "country": "US"},
		"currency":        "USD", "data_region": nil, "status": "active", "consents": []any{},
		"extensions": fields{"pushcash": fields{"date_of_birth": "1990-12-10", "government_id_type": "drivers_license",
			"government_id_last4": "1234", "government_id_state": "CA", "identity_verified": "true"}},
	}, change)
}

func contract(change fields) *schema.Event {
	return event("contract", "k-1", 2, fields{
		"contract_id": "k-1", "customer_id": "c-1", "status": "active", "start_date": "2026-01-01", "end_date": nil,
		"amount_minor": int64(9900), "currency": "USD", "billing_period": "monthly", "included_units": int64(0), "extensions": fields{},
	}, change)
}

func invoice(change fields) *schema.Event {
	return event("invoice", "i-1", 7, fields{
		"invoice_id": "i-1", "contract_id": nil, "customer_id": "c-1", "status": "open", "purchase_order": nil, "currency": "USD",
		"total_minor": int64(12500), "tax_minor": int64(0), "line_items": []any{}, "issued_at": at, "due_at": nil, "paid_at": nil,
		"extensions": fields{},
	}, change)
}

// withCard is a customer whose payment method FinFusion holds.
func withCard(change fields) *schema.Event {
	e := customer(fields{"extensions": fields{"finfusion": fields{"payment_method_id": "pm_test_ok"}}})
	maps.Copy(e.Fields, change)
	e.Operation = schema.Operation(e.Fields["operation"].(string))
	return e
}

// tombstone is the null value of an entity: nothing is known of it but its key.
func tombstone(entity, key string) *schema.Event {
	return &schema.Event{ID: "topicid/0/17", Entity: entity, Key: key, Operation: schema.Delete, Tombstone: true}
}

var known = map[string]Ref{
	"customer":   {IDs: map[string]string{"user_id": "user_1", "customer_id": "cust_1"}},
	"credential": {IDs: map[string]string{"user_id": "user_1", "credential_id": "cred_1"}},
	"method":     {IDs: map[string]string{"customer_id": "cust_1", "payment_method_id": "pm_test_ok"}},
}

func routeOf(tb testing.TB, c *Compiled, entity string) *Route {
	tb.Helper()
	rs := c.RoutesFor(entity)
	if len(rs) != 1 {
		tb.Fatalf("routes for %s: %d, want 1", entity, len(rs))
	}
	return rs[0]
}
