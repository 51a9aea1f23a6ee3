package schema

import (
	"math"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

func TestEmbeddedRules(t *testing.T) {
	t.Parallel()
	rules, err := EmbeddedRules(embedded(t))
	if err != nil {
		t.Fatal(err)
	}
	line := func(quantity, unit, amount int64) map[string]any {
		return map[string]any{"line_id": "l", "description": "", "quantity": quantity, "unit_price_minor": unit, "amount_minor": amount}
	}
	long := strings.Repeat("ü", 256)
	address := func(country string) map[string]any {
		return map[string]any{"line1": "1", "line2": nil, "city": "x", "region": nil, "postal_code": nil, "country": country}
	}
	consent := func(purpose string, revoked any) []any {
		return []any{map[string]any{"purpose": "payments", "reference": nil, "granted_at": at, "revoked_at": nil},
			map[string]any{"purpose": purpose, "reference": nil, "granted_at": at, "revoked_at": revoked}}
	}
	type change = map[string]any
	covered := map[string]bool{}
	for _, c := range []struct {
		entity string
		change change
		rule   string // "": the event keeps all rules
		path   string
	}{
		{"customer", nil, "", ""},
		{"contract", nil, "", ""},
		{"invoice", nil, "", ""},
		{"customer", change{"event_id": ""}, "envelope.event_id", "event_id"},
		{"invoice", change{"event_id": long}, "envelope.event_id", "event_id"},
		{"invoice", change{"event_id": long[2:]}, "", ""}, // 255 characters, more bytes
		{"contract", change{"event_type": ""}, "envelope.event_type", "event_type"},
		{"contract", change{"source_system": ""}, "envelope.source_system", "source_system"},
		{"contract", change{"tenant": ""}, "envelope.tenant", "tenant"},
		{"contract", change{"entity_version": int64(0)}, "envelope.entity_version", "entity_version"},
		{"contract", change{"entity_version": int64(math.MinInt64)}, "envelope.entity_version", "entity_version"},
		{"contract", change{"correlation_id": ""}, "envelope.correlation_id", "correlation_id"},
		{"contract", change{"correlation_id": nil}, "", ""},
		{"contract", change{"causation_id": long}, "envelope.causation_id", "causation_id"},

		{"customer", change{"customer_id": ""}, "customer.customer_id", "customer_id"},
		{"customer", change{"legal_name": " \t"}, "customer.legal_name", "legal_name"},
		{"customer", change{"legal_name": "", "operation": "delete"}, "", ""},
		{"customer", change{"email": "ada"}, "customer.email", "email"},
		{"customer", change{"email": "ada@localhost"}, "customer.email", "email"},
		{"customer", change{"email": "a b@example.com"}, "customer.email", "email"},
		{"customer", change{"email": "a@@example.com"}, "customer.email", "email"},
		{"customer", change{"email": "ada@example..com"}, "customer.email", "email"},
		{"customer", change{"email": strings.Repeat("a", 250) + "@b.cd"}, "customer.email", "email"},
		{"customer", change{"email": nil}, "", ""},
		{"customer", change{"email": "ada+tag@mail.example.co.uk"}, "", ""},
		{"customer", change{"currency": "usd"}, "customer.currency", "currency"},
		{"customer", change{"currency": "XXX"}, "customer.currency", "currency"},
		{"customer", change{"data_region": "eu west"}, "customer.region", "data_region"},
		{"customer", change{"data_region": "eu-west-1"}, "", ""},
		{"customer", change{"data_region": nil}, "", ""},
		{"customer", change{"locale": "en_US"}, "customer.locale", "locale"},
		{"customer", change{"locale": "en-" + strings.Repeat("abcdefgh-", 4) + "x"}, "customer.locale", "locale"},
		{"customer", change{"locale": "zh-Hant-TW"}, "", ""},
		{"customer", change{"locale": nil}, "", ""},
		{"customer", change{"billing_address": address("USA")}, "customer.country", "billing_address.country"},
		{"customer", change{"billing_address": address("de")}, "customer.country", "billing_address.country"},
		{"customer", change{"billing_address": nil}, "", ""},
		{"customer", change{"consents": consent("", nil)}, "customer.consent_purpose", "consents[1].purpose"},
		{"customer", change{"consents": consent("x", at.Add(-time.Millisecond))}, "customer.consent_dates", "consents[1].revoked_at"},
		{"customer", change{"consents": consent("x", at)}, "", ""},

		{"contract", change{"contract_id": long}, "contract.contract_id", "contract_id"},
		{"contract", change{"customer_id": ""}, "contract.customer_id", "customer_id"},
		{"contract", change{"currency": "ABC"}, "contract.currency", "currency"},
		{"contract", change{"end_date": "2025-12-31"}, "contract.dates", "end_date"},
		{"contract", change{"end_date": "2026-01-01"}, "", ""},

		{"contract", change{"included_units": int64(-1)}, "contract.included_units", "included_units"},
		{"contract", change{"included_units": int64(1) << 40}, "", ""},

		{"invoice", change{"invoice_id": ""}, "invoice.invoice_id", "invoice_id"},
		{"invoice", change{"customer_id": ""}, "invoice.customer_id", "customer_id"},
		{"invoice", change{"contract_id": ""}, "invoice.contract_id", "contract_id"},
		{"invoice", change{"contract_id": nil}, "", ""},
		{"invoice", change{"purchase_order": ""}, "invoice.purchase_order", "purchase_order"},
		{"invoice", change{"purchase_order": nil}, "", ""},
		{"invoice", change{"currency": ""}, "invoice.currency", "currency"},
		{"invoice", change{"line_items": []any{line(1, 5, 5), line(2, 5, 11)}}, "invoice.line_amount", "line_items[1].amount_minor"},
		{"invoice", change{"line_items": []any{line(math.MaxInt64, 2, 1)}}, "invoice.line_amount", "line_items[0].amount_minor"},
		{"invoice", change{"line_items": []any{map[string]any{"line_id": "", "description": "", "quantity": int64(0), "unit_price_minor": int64(0), "amount_minor": int64(0)}}}, "invoice.line_id", "line_items[0].line_id"},
		{"invoice", change{"total_minor": int64(11901)}, "invoice.total", "total_minor"},
		{"invoice", change{"line_items": []any{line(1, math.MaxInt64, math.MaxInt64), line(1, 1, 1)}}, "invoice.total", "total_minor"},
		{"invoice", change{"line_items": []any{line(1, math.MaxInt64, math.MaxInt64), line(1, 1, 1)}, "tax_minor": int64(0), "total_minor": int64(math.MinInt64)}, "invoice.total", "total_minor"},
		{"invoice", change{"line_items": []any{line(1, math.MaxInt64, math.MaxInt64)}, "tax_minor": int64(1)}, "invoice.total", "total_minor"},
		{"invoice", change{"line_items": []any{}, "total_minor": int64(5)}, "", ""},
		{"invoice", change{"line_items": []any{line(-1, 500, -500)}, "tax_minor": int64(-100), "total_minor": int64(-600)}, "", ""}, // credit note
		{"invoice", change{"issued_at": nil}, "invoice.issued_at", "issued_at"},
		{"invoice", change{"status": "draft", "issued_at": nil}, "", ""},
		{"invoice", change{"status": "overdue", "due_at": nil}, "invoice.due_at", "due_at"},
		{"invoice", change{"status": "paid"}, "invoice.paid_at", "paid_at"},
		{"invoice", change{"status": "paid", "paid_at": at}, "", ""},
		{"invoice", change{"due_at": at.Add(-time.Millisecond)}, "invoice.dates", "due_at"},
		{"invoice", change{"due_at": at}, "", ""},
	} {
		v := rules.Check(c.entity, with(sample(c.entity), c.change))
		if v == nil {
			v = &Violation{}
		}
		covered[v.Rule] = true
		if v.Rule != c.rule || v.Path != c.path {
			t.Errorf("%s with %v: violates %q at %q, want %q at %q", c.entity, c.change, v.Rule, v.Path, c.rule, c.path)
		}
		if v.Rule != "" && v.Message == "" {
			t.Errorf("rule %s has no message", v.Rule)
		}
	}
	for _, r := range rules.List() {
		if !covered[r.ID] {
			t.Errorf("no case breaks rule %s", r.ID)
		}
	}
	both := rules.CheckAll("invoice", with(invoiceFields(), change{"currency": "x", "total_minor": int64(1)}))
	if len(both) != 2 || both[0].Rule != "invoice.currency" || both[1].Rule != "invoice.total" {
		t.Errorf("CheckAll = %v, want invoice.currency and invoice.total", both)
	}
}

func TestRulesAreConcurrent(t *testing.T) {
	t.Parallel()
	rules, err := EmbeddedRules(embedded(t))
	if err != nil {
		t.Fatal(err)
	}
	good, bad := invoiceFields(), with(invoiceFields(), map[string]any{"tax_minor": int64(0)})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				if v := rules.Check("invoice", good); v != nil {
					t.Errorf("a good invoice violates %s", v.Rule)
				}
				if v := rules.Check("invoice", bad); v == nil || v.Rule != "invoice.total" {
					t.Errorf("a bad invoice: %v, want invoice.total", v)
				}
			}
		})
	}
	wg.Wait()
}

func TestRulesOfADirectory(t *testing.T) {
	t.Parallel()
	set := embedded(t)
	rules, err := NewRules(set, EmbeddedRuleFiles(), fstest.MapFS{"ours.yaml": {Data: []byte(`rules:
  - id: ours.cap
    entity: invoice
    path: total_minor
    expr: total_minor < 11900
    message: too much
`)}})
	if err != nil {
		t.Fatal(err)
	}
	if v := rules.Check("invoice", invoiceFields()); v == nil || v.Rule != "ours.cap" {
		t.Errorf("got %v, want ours.cap", v)
	}
	for _, c := range []struct{ yaml, want string }{
		{"rules:\n  - {id: a, entity: invoice, path: total_minor, expr: total_minr > 0, message: m}", "undeclared reference to 'total_minr'"},
		{"rules:\n  - {id: a, entity: customer, path: email, expr: billing_address.contry == 'US', message: m}", "undefined field 'contry'"},
		{"rules:\n  - {id: a, entity: customer, path: email, expr: size(legal_name), message: m}", "want bool"},
		{"rules:\n  - {id: a, entity: customer, path: email, expr: total_minor > 1, message: m}", "undeclared"},
		{"rules:\n  - {id: a, entity: client, path: email, expr: 'true', message: m}", `entity "client" has no schema`},
		{"rules:\n  - {id: a, entity: customer, path: mail, expr: 'true', message: m}", `no field "mail"`},
		{"rules:\n  - {id: a, entity: invoice, each: currency, path: currency, expr: 'true', message: m}", `"currency" is no list`},
		{"rules:\n  - {id: a, entity: invoice, each: line_items, path: 'line_items[].quantity', expr: item.amount > 1, message: m}", "undefined field 'amount'"},
		{"rules:\n  - {id: a, entity: invoice, path: currency, when: currency, expr: 'true', message: m}", "when: is string"},
		{"rules:\n  - {id: a, entity: invoice, path: currency, expr: 'true'}", "are required"},
		{"rules:\n  - {id: invoice.total, entity: invoice, path: currency, expr: 'true', message: m}", "is taken by a rule of invoice.yaml"},
		{"rules:\n  - {id: a, entity: invoice, path: currency, expr: 'true', message: m, sverity: 3}", "sverity"},
		{"rules: 3", "rule file bad.yaml"},
	} {
		_, err := NewRules(set, EmbeddedRuleFiles(), fstest.MapFS{"bad.yaml": {Data: []byte(c.yaml)}})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bad.yaml") {
			t.Errorf("%s:\ngot %v, want an error with %q and the file's name", c.yaml, err, c.want)
		}
	}
}
