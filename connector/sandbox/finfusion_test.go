package sandbox_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
)

func customerBody(id string) string {
	return `{"email":"ada@example.com","name":"Ada Ltd","metadata":{"external_id":"` + id + `"}}`
}

func paymentBody(value int, invoice string) string {
	return fmt.Sprintf(`{"amount":{"value":%d,"currency":"USD"},"payment_method":{"id":"pm_test_ok"},"metadata":{"invoice_id":"%s"}}`, value, invoice)
}

func cardBody() string {
	return `{"amount":{"value":1000,"currency":"USD"},"payment_method":{"type":"card","card":{"number":"4242 4242 4242 4242","exp_month":12,"exp_year":2030,"cvc":"123"}}}`
}

func batchBody(goOn bool, items ...string) string {
	return fmt.Sprintf(`{"items":[%s],"continue_on_error":%t}`, strings.Join(items, ","), goOn)
}

// switches makes options from NAME, VALUE pairs.
func switches(pairs ...string) sandbox.Options {
	o := sandbox.Options{Switches: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		o.Switches[pairs[i]] = pairs[i+1]
	}
	return o
}

// id of an answer with status 200.
func (b *bundle) id(a answer) string {
	b.t.Helper()
	return b.want(a, 200).text(b.t, "id")
}

func (b *bundle) refused(a answer, status int, class, code string) answer {
	b.t.Helper()
	b.want(a, status)
	if a.text(b.t, "error.type") != class || a.text(b.t, "error.code") != code || a.text(b.t, "error.message") == "" {
		b.t.Errorf("error %s, want %s with code %s", a.body, class, code)
	}
	return a
}

// TestFinfusionErrorRows: every row of section 8 and of our own codes, with the class, in both forms of statuses.
func TestFinfusionErrorRows(t *testing.T) {
	plain := start(t, "finfusion", switches("restricted_permissions", "accounts"))
	conventional := start(t, "finfusion", switches("restricted_permissions", "accounts", "conventional_statuses", "on"))
	for _, c := range []struct {
		name, key, method, path, body string
		status, conventional          int
		class, code                   string
	}{
		{"no such format of key", "prod_" + strings.Repeat("a", 32), "GET", "/v2/customers", "", 401, 401, "AuthenticationError", "AUTH001"},
		{"forged token", "ffat_e30.AAAA", "GET", "/v2/customers", "", 401, 401, "AuthenticationError", "AUTH001"},
		{"scope missing", "rest_x", "POST", "/v2/payments", paymentBody(1, "i"), 401, 403, "AuthenticationError", "AUTH003"},
		{"scope missing for keys", "rest_x", "POST", "/v1/api-keys", "{}", 401, 403, "AuthenticationError", "AUTH003"},
		{"invalid body", "k", "POST", "/v2/customers", "{}", 400, 400, "ValidationError", "VAL001"},
		{"bad parameter", "k", "GET", "/v2/customers?limit=0", "", 400, 400, "ValidationError", "VAL002"},
		{"unknown payment", "k", "GET", "/v2/payments/pay_none", "", 400, 404, "ValidationError", "VAL003"},
		{"unknown customer", "k", "GET", "/v2/customers/cust_none", "", 400, 404, "ValidationError", "VAL003"},
		{"unknown customer changed", "k", "PATCH", "/v2/customers/cust_none", "{}", 400, 404, "ValidationError", "VAL003"},
		{"unknown customer deleted", "k", "DELETE", "/v2/customers/cust_none", "", 400, 404, "ValidationError", "VAL003"},
		{"unknown method", "k", "POST", "/v2/payments", strings.Replace(paymentBody(1, "i"), "pm_test_ok", "pm_none", 1), 400, 404, "ValidationError", "VAL003"},
		{"refunds", "k", "POST", "/v2/refunds", "{}", 400, 404, "ValidationError", "VAL003"},
		{"invoices", "k", "GET", "/v2/invoices", "", 400, 404, "ValidationError", "VAL003"},
		{"wrong method", "k", "PUT", "/v2/customers", "{}", 400, 404, "ValidationError", "VAL003"},
		{"batch is no customer", "k", "GET", "/v2/customers/batch", "", 400, 404, "ValidationError", "VAL003"},
		{"other version 1", "k", "POST", "/v1/customers", customerBody("c"), 400, 404, "ValidationError", "VAL003"},
		{"root", "k", "GET", "/", "", 400, 404, "ValidationError", "VAL003"},
		{"payment failed", "k", "POST", "/v2/payments", paymentBody(40200, "i"), 402, 402, "PaymentError", "PAY001"},
		{"declined method", "k", "POST", "/v2/payments", strings.Replace(paymentBody(9, "i"), "pm_test_ok", "pm_test_declined", 1), 402, 402, "PaymentError", "PAY001"},
		{"internal error", "k", "POST", "/v2/payments", paymentBody(50001, "i"), 500, 500, "APIError", "API001"},
		{"failing address", "k", "POST", "/v2/customers", with(t, customerBody("c"), "email", "a@fail.test"), 500, 500, "APIError", "API001"},
		{"unavailable", "k", "POST", "/v2/payments", paymentBody(50300, "i"), 503, 503, "APIError", "API002"},
		{"too many", "k", "POST", "/v2/payments", paymentBody(42900, "i"), 429, 429, "RateLimitError", "RATE001"},
		{"body too large", "k", "POST", "/v2/customers", strings.Repeat(" ", 1<<20) + "{}", 413, 413, "ValidationError", "VAL001"},
	} {
		for b, status := range map[*bundle]int{plain: c.status, conventional: c.conventional} {
			b.key = c.key
			a := b.do(c.method, c.path, c.body)
			if a.status != status || a.text(t, "error.type") != c.class || a.text(t, "error.code") != c.code || a.header.Get("X-Request-Id") == "" {
				t.Errorf("%s: answer %d %v %s, want %d %s %s with X-Request-Id", c.name, a.status, a.header, a.body, status, c.class, c.code)
			}
			if _, ok := a.field(t, "error.details").(map[string]any); !ok {
				t.Errorf("%s: details are no object: %s", c.name, a.body)
			}
			es := b.effects(0)
			if e := es[len(es)-1]; e.Status != status || (e.Effect == "applied") != (c.status == 402) {
				t.Errorf("%s is logged as %+v", c.name, e)
			}
		}
	}
}

func TestFinfusionCustomerValidation(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{LimitScale: 10})
	good := customerBody("c-1")
	many := map[string]any{}
	for i := range 51 {
		many[fmt.Sprint("k", i)] = "v"
	}
	for _, c := range []struct {
		name, field, body string
	}{
		{"complete", "", good},
		{"no metadata", "", without(t, good, "metadata")},
		{"unknown field", "", with(t, good, "nickname", "x")},
		{"values that are no strings", "", with(t, good, "metadata", map[string]any{"n": 1, "o": map[string]any{"a": true}, "null": nil})},
		{"name of 255", "", with(t, good, "name", strings.Repeat("ü", 255))},
		{"string of 500", "", with(t, good, "metadata", map[string]any{strings.Repeat("k", 40): strings.Repeat("v", 500)})},
		{"no email", "email", without(t, good, "email")},
		{"bad email", "email", with(t, good, "email", "ada")},
		{"no name", "name", without(t, good, "name")},
		{"empty name", "name", with(t, good, "name", "")},
		{"long name", "name", with(t, good, "name", strings.Repeat("ü", 256))},
		{"name under another name", "name", with(t, without(t, good, "name"), "Name", "x")},
		{"metadata is text", "metadata", with(t, good, "metadata", "x")},
		{"long key", "metadata", with(t, good, "metadata", map[string]any{strings.Repeat("k", 41): "v"})},
		{"empty key", "metadata", with(t, good, "metadata", map[string]any{"": "v"})},
		{"long value", "metadata.v", with(t, good, "metadata", map[string]any{"v": strings.Repeat("v", 501)})},
		{"many keys", "metadata", with(t, good, "metadata", many)},
		{"array", "", "[]"},
	} {
		single := b.do("POST", "/v2/customers", c.body)
		batch := b.want(b.do("POST", "/v2/customers/batch", batchBody(true, c.body)), 200)
		item := batch.field(t, "results").([]any)[0].(map[string]any)
		if c.field == "" && c.body != "[]" {
			if b.want(single, 200); !regexp.MustCompile(`^cust_[0-9A-Za-z]{16}$`).MatchString(single.text(t, "id")) || item["status"] != 200.0 {
				t.Errorf("%s: %s, as an item %s", c.name, single.body, batch.body)
			}
			continue
		}
		b.refused(single, 400, "ValidationError", "VAL001")
		issue := func(v any) map[string]any {
			return v.(map[string]any)["details"].(map[string]any)["fields"].([]any)[0].(map[string]any)
		}
		if got := issue(single.field(t, "error")); got["field"] != c.field || got["issue"] == "" {
			t.Errorf("%s: %s, want field %s", c.name, single.body, c.field)
		}
		if got := issue(item["error"]); item["status"] != 400.0 || got["field"] != strings.TrimSuffix("items[0]."+c.field, ".") {
			t.Errorf("%s as an item: %s, want field %s", c.name, batch.body, c.field)
		}
	}
}

func TestFinfusionCustomerLife(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{})
	a := b.want(b.do("POST", "/v2/customers", customerBody("c-1"), "Idempotency-Key", "k-1"), 200)
	id := a.text(t, "id")
	b.wantLast("create_customer applied 200")
	if e := b.effects(0)[0]; e.Object != id || e.Reference != "c-1" || e.IdempotencyKey != "k-1" || e.Vendor != "finfusion" {
		t.Errorf("log entry %+v", e)
	}
	if a.text(t, "created_at") != "2026-03-01T12:00:00Z" || a.text(t, "metadata.external_id") != "c-1" || a.field(t, "updated_at") != nil {
		t.Errorf("created: %s", a.body)
	}
	if got := b.want(b.do("GET", "/v2/customers/"+id, ""), 200); got.body != a.body {
		t.Errorf("reads as %s, want %s", got.body, a.body)
	}
	b.wantLast("get_customer read 200")
	b.clock.add(time.Minute)
	a = b.want(b.do("PATCH", "/v2/customers/"+id, `{"name":"Ada Inc","metadata":{"phone":"1","external_id":null}}`), 200)
	b.wantLast("update_customer applied 200")
	if a.text(t, "name") != "Ada Inc" || a.text(t, "email") != "ada@example.com" || a.text(t, "metadata.phone") != "1" ||
		a.field(t, "metadata.external_id") != nil || a.text(t, "updated_at") != "2026-03-01T12:01:00Z" {
		t.Errorf("changed: %s", a.body)
	}
	b.clock.add(time.Minute)
	if again := b.want(b.do("PATCH", "/v2/customers/"+id, `{"name":"Ada Inc","metadata":{"phone":"1","external_id":null}}`), 200); again.body != a.body {
		t.Errorf("the same change again: %s, want %s", again.body, a.body)
	}
	b.wantLast("update_customer replayed 200")
	b.refused(b.do("PATCH", "/v2/customers/"+id, `{"email":"nobody"}`), 400, "ValidationError", "VAL001")
	b.refused(b.do("PATCH", "/v2/customers/"+id, `{"email":"a@fail.test"}`), 500, "APIError", "API001")
	if o := b.want(b.admin("GET", "/objects/"+id, ""), 200); o.text(t, "kind") != "customer" || o.text(t, "object.name") != "Ada Inc" {
		t.Errorf("object: %s", o.body)
	}
	if a := b.want(b.do("DELETE", "/v2/customers/"+id, ""), 200); a.body != `{"id":"`+id+`","deleted":true}` {
		t.Errorf("deleted: %s", a.body)
	}
	b.wantLast("delete_customer applied 200")
	b.refused(b.do("DELETE", "/v2/customers/"+id, ""), 400, "ValidationError", "VAL003")
	b.wantLast("delete_customer rejected 400")
	b.want(b.admin("GET", "/objects/"+id, ""), 404)
}

func TestFinfusionWithoutExtensions(t *testing.T) {
	b := start(t, "finfusion", switches("extensions", "off"))
	id := b.id(b.do("POST", "/v2/customers", customerBody("c")))
	pay := b.id(b.do("POST", "/v2/payments", paymentBody(5, "i")))
	for _, c := range []string{"GET /v2/customers/" + id, "PATCH /v2/customers/" + id, "DELETE /v2/customers/" + id, "GET /v2/customers", "GET /v2/payments", "GET /v2/api-keys/verify"} {
		method, path, _ := strings.Cut(c, " ")
		b.refused(b.do(method, path, "{}"), 400, "ValidationError", "VAL003")
	}
	b.want(b.do("GET", "/v2/payments/"+pay, ""), 200)
	b.want(b.do("POST", "/v2/customers/batch", batchBody(false, customerBody("c"))), 200)
}

func TestFinfusionBatch(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{LimitScale: 10})
	bad := `{"name":"x","metadata":{"external_id":"bad"}}`
	failing := strings.Replace(customerBody("failing"), "ada@example.com", "a@fail.test", 1)
	keyed := `{"email":"a@b.cc","name":"x","metadata":{"external_id":"c-3","idempotency_key":"ik-3"}}`
	statuses := func(a answer) (out []int) {
		t.Helper()
		for i, r := range a.field(t, "results").([]any) {
			m := r.(map[string]any)
			if m["index"] != float64(i) || (m["data"] == nil) == (m["error"] == nil) {
				t.Errorf("result %d is %v", i, m)
			}
			out = append(out, int(m["status"].(float64)))
		}
		return out
	}
	lines := func(since int64) (out []string) {
		t.Helper()
		for _, e := range b.effects(since) {
			out = append(out, fmt.Sprint(e.Operation, " ", e.Reference, " ", e.IdempotencyKey, " ", e.Object != "", " ", e.Status, " ", e.Effect))
		}
		return out
	}
	body := batchBody(true, customerBody("c-1"), bad, failing, keyed)
	a := b.want(b.do("POST", "/v2/customers/batch", body, "Idempotency-Key", "b-1"), 200)
	if got := statuses(a); !slices.Equal(got, []int{200, 400, 500, 200}) || a.field(t, "succeeded") != 2.0 || a.field(t, "failed") != 2.0 {
		t.Errorf("batch: %s", a.body)
	}
	want := []string{"create_customer c-1  true 200 applied", "create_customer bad  false 400 rejected", "create_customer failing  false 500 rejected", "create_customer c-3 ik-3 true 200 applied"}
	if got := lines(0); !slices.Equal(got, want) {
		t.Errorf("log %q, want %q", got, want)
	}
	if b.counter("requests") != 1 {
		t.Errorf("a batch counts as %d requests, want 1", b.counter("requests"))
	}
	again := b.want(b.do("POST", "/v2/customers/batch", body, "Idempotency-Key", "b-1"), 200)
	if again.body != a.body || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("repeat: %v %s", again.header, again.body)
	}
	for i := range want {
		want[i] = want[i][:strings.LastIndex(want[i], " ")] + " replayed"
	}
	if got := lines(4); !slices.Equal(got, want) {
		t.Errorf("log of the repeat %q, want %q", got, want)
	}
	b.refused(b.do("POST", "/v2/customers/batch", batchBody(true, customerBody("c-9")), "Idempotency-Key", "b-1"), 409, "ValidationError", "VAL004")
	b.wantLast("create_customer_batch rejected 409")

	a = b.want(b.do("POST", "/v2/customers/batch", batchBody(false, customerBody("d-1"), bad, customerBody("d-2"))), 200)
	if got := statuses(a); !slices.Equal(got, []int{200, 400, 424}) || a.field(t, "failed") != 2.0 {
		t.Errorf("stopped batch: %s", a.body)
	}
	full := slices.Repeat([]string{customerBody("x")}, 100)
	if got := statuses(b.want(b.do("POST", "/v2/customers/batch", batchBody(true, full...)), 200)); len(got) != 100 {
		t.Errorf("%d results of 100 items", len(got))
	}
	for _, c := range []string{batchBody(true, append(full, "{}")...), batchBody(true), "{}", `{"items":{}}`, `{"items":[{}],"continue_on_error":1}`} {
		b.refused(b.do("POST", "/v2/customers/batch", c), 400, "ValidationError", "VAL001")
		b.wantLast("create_customer_batch rejected 400")
	}
}

// TestFinfusionPartialBatches: the fault partial fails single items, chosen by item.
func TestFinfusionPartialBatches(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{LimitScale: 10})
	b.fault(`{"name":"partial","match":"c-2"}`)
	b.fault(`{"name":"partial","match":"c-3","status":503,"count":1}`)
	send := func(key string) string {
		t.Helper()
		a := b.want(b.do("POST", "/v2/customers/batch", batchBody(true, customerBody("c-1"), customerBody("c-2"), customerBody("c-3")), "Idempotency-Key", key), 200)
		out := ""
		for _, r := range a.field(t, "results").([]any) {
			m := r.(map[string]any)
			out += fmt.Sprint(m["status"], " ")
			if e, ok := m["error"].(map[string]any); ok {
				out += fmt.Sprint(e["code"], " ")
			}
		}
		return out
	}
	if got := send("b-1"); got != "200 400 VAL001 503 API002 " {
		t.Errorf("first batch: %s", got)
	}
	if got := send("b-1"); got != "200 400 VAL001 503 API002 " {
		t.Errorf("repeat: %s, want the stored results", got)
	}
	if got := send("b-2"); got != "200 400 VAL001 200 " {
		t.Errorf("another batch: %s", got)
	}
	b.fault(`{"name":"partial","on":false}`)
	b.fault(`{"name":"partial","rate":0.3,"seed":7}`)
	items := make([]string, 100)
	for i := range items {
		items[i] = customerBody(fmt.Sprint("r-", i))
	}
	a := b.want(b.do("POST", "/v2/customers/batch", batchBody(true, items...)), 200)
	if failed := a.field(t, "failed").(float64); failed < 15 || failed > 45 {
		t.Errorf("%v of 100 items failed at a rate of 0.3", failed)
	}
	// A lost answer is logged with each item.
	b.fault(`{"name":"partial","on":false}`)
	b.fault(`{"name":"ambiguous","match":"z-2","count":1}`)
	before := len(b.effects(0))
	if a := b.do("POST", "/v2/customers/batch", batchBody(true, customerBody("z-1"), customerBody("z-2"))); a.err == nil {
		t.Fatalf("answer %d %s, want none", a.status, a.body)
	}
	for _, e := range b.effects(int64(before)) {
		if e.Status != 0 || e.Effect != "applied" || e.Object == "" {
			t.Errorf("item of a lost batch: %+v", e)
		}
	}
}

func TestFinfusionPaymentValidation(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{LimitScale: 10})
	deep := func(body, from, to string) string {
		t.Helper()
		if !strings.Contains(body, from) {
			t.Fatalf("no %s in %s", from, body)
		}
		return strings.Replace(body, from, to, 1)
	}
	for _, c := range []struct{ field, body string }{
		{"", cardBody()},
		{"", paymentBody(7, "i")},
		{"amount", without(t, cardBody(), "amount")},
		{"amount", deep(cardBody(), `{"value":1000,"currency":"USD"}`, "1000")},
		{"amount.value", paymentBody(0, "i")},
		{"amount.value", paymentBody(-5, "i")},
		{"amount.value", deep(cardBody(), "1000", "10.0")},
		{"amount.value", deep(cardBody(), "1000", `"10"`)},
		{"amount.currency", deep(cardBody(), "USD", "usd")},
		{"amount.currency", deep(cardBody(), "USD", "DOLLAR")},
		{"payment_method", without(t, cardBody(), "payment_method")},
		{"payment_method.type", deep(cardBody(), `"type":"card",`, "")},
		{"payment_method.type", deep(cardBody(), `"type":"card"`, `"type":"bank"`)},
		{"payment_method.card", deep(paymentBody(7, "i"), `"id":"pm_test_ok"`, `"type":"card"`)},
		{"payment_method.card.number", deep(cardBody(), "4242 4242 4242 4242", "4242 4242 4242 4241")},
		{"payment_method.card.number", deep(cardBody(), "4242 4242 4242 4242", "42")},
		{"payment_method.card.exp_month", deep(cardBody(), `"exp_month":12`, `"exp_month":13`)},
		{"payment_method.card.exp_year", deep(cardBody(), "2030", "2025")},
		{"payment_method.card.cvc", deep(cardBody(), `"cvc":"123"`, `"cvc":"12a"`)},
		{"payment_method.card.cvc", deep(cardBody(), `"cvc":"123"`, `"cvc":123`)},
		{"metadata", with(t, cardBody(), "metadata", 7)},
		{"", with(t, cardBody(), "metadata", map[string]any{"order_id": "o-1"})},
	} {
		a := b.do("POST", "/v2/payments", c.body)
		if c.field == "" {
			if b.want(a, 200); a.text(t, "status") != "succeeded" {
				t.Errorf("%s: %s", c.body, a.body)
			}
			continue
		}
		b.refused(a, 400, "ValidationError", "VAL001")
		if !strings.Contains(a.body, `"field":"`+c.field+`"`) {
			t.Errorf("%s: %s, want field %s", c.body, a.body, c.field)
		}
	}
	es := b.effects(0)
	if e := es[len(es)-1]; e.Reference != "o-1" || e.Operation != "create_payment" || e.Effect != "applied" {
		t.Errorf("log entry %+v", e)
	}
	a := b.want(b.do("POST", "/v2/payments", cardBody()), 200)
	if strings.Contains(a.body, "4242 ") || a.text(t, "payment_method.card.brand") != "visa" || a.text(t, "payment_method.card.last4") != "4242" ||
		a.field(t, "payment_method.card.exp_year") != 2030.0 || a.field(t, "amount.value") != 1000.0 || a.text(t, "created_at") != "2026-03-01T12:00:00Z" {
		t.Errorf("payment: %s", a.body)
	}
	// The method is stored: no card number is needed again.
	reuse := deep(paymentBody(8, "i"), "pm_test_ok", a.text(t, "payment_method.id"))
	if got := b.want(b.do("POST", "/v2/payments", reuse), 200); got.text(t, "payment_method.id") != a.text(t, "payment_method.id") {
		t.Errorf("payment with a stored method: %s", got.body)
	}
	if got := b.want(b.do("GET", "/v2/payments/"+a.text(t, "id"), ""), 200); got.body != a.body {
		t.Errorf("reads as %s, want %s", got.body, a.body)
	}
}

// TestFinfusionMagicAmounts: the rows of section 12, and what a repeat of the key gets.
func TestFinfusionMagicAmounts(t *testing.T) {
	for _, c := range []struct {
		amount  int
		answers []int // of the first request and its repeats
		effects string
		objects int
	}{
		{1234, []int{200, 200}, "applied replayed", 1},
		{40200, []int{402, 402}, "applied replayed", 1},
		{20200, []int{200, 200}, "applied replayed", 1},
		{50000, []int{500, 200}, "applied replayed", 1},
		{50001, []int{500, 500}, "rejected rejected", 0},
		{50300, []int{503, 503, 200, 200}, "rejected rejected applied replayed", 1},
		{50400, []int{0, 200}, "applied replayed", 1},
		{42900, []int{429, 200, 200}, "rejected applied replayed", 1},
	} {
		b := start(t, "finfusion", sandbox.Options{})
		for i, want := range c.answers {
			a := b.do("POST", "/v2/payments", paymentBody(c.amount, "i-1"), "Idempotency-Key", "k-1")
			if a.status != want {
				t.Errorf("%d, request %d: %d %v %s, want %d", c.amount, i+1, a.status, a.err, a.body, want)
			}
			if replayed := a.header.Get("Idempotent-Replayed"); (replayed == "true") != strings.HasPrefix(strings.Fields(c.effects)[i], "replayed") {
				t.Errorf("%d, request %d: Idempotent-Replayed is %q", c.amount, i+1, replayed)
			}
		}
		var effects []string
		for _, e := range b.effects(0) {
			effects = append(effects, string(e.Effect))
			if e.Reference != "i-1" || e.IdempotencyKey != "k-1" {
				t.Errorf("log entry %+v", e)
			}
		}
		if got := strings.Join(effects, " "); got != c.effects {
			t.Errorf("%d: effects %s, want %s", c.amount, got, c.effects)
		}
		if got := strings.Count(b.admin("GET", "/objects?kind=payment", "").body, "\n"); got != c.objects {
			t.Errorf("%d: %d payments, want %d", c.amount, got, c.objects)
		}
	}
}

func TestFinfusionPaymentLife(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{})
	status := func(id string) string { return b.want(b.do("GET", "/v2/payments/"+id, ""), 200).text(t, "status") }
	act := func(name, id string, want int) {
		b.want(b.admin("POST", "/actions/"+name, `{"payment_id":"`+id+`"}`), want)
	}
	pending := b.id(b.do("POST", "/v2/payments", paymentBody(20200, "i-1")))
	early := b.id(b.do("POST", "/v2/payments", paymentBody(20200, "i-2")))
	if got := status(pending); got != "pending" {
		t.Errorf("20200 is %s", got)
	}
	b.want(b.admin("POST", "/actions/settle_payment", `{"payment_id":"`+early+`","status":"failed"}`), 200)
	b.wantLast("settle_payment applied 200")
	b.clock.add(1999 * time.Millisecond)
	if got := status(pending); got != "pending" {
		t.Errorf("20200 before 2 s is %s", got)
	}
	b.clock.add(time.Millisecond)
	if got := status(pending); got != "succeeded" {
		t.Errorf("20200 after 2 s is %s", got)
	}
	if got := status(early); got != "failed" {
		t.Errorf("a payment that failed became %s", got)
	}
	act("settle_payment", pending, 400)
	act("refund_payment", pending, 200)
	if got := status(pending); got != "refunded" {
		t.Errorf("refunded: %s", got)
	}
	act("refund_payment", pending, 400)
	other := b.id(b.do("POST", "/v2/payments", paymentBody(5, "i-3")))
	act("dispute_payment", other, 200)
	b.wantLast("dispute_payment applied 200")
	if got := status(other); got != "disputed" {
		t.Errorf("disputed: %s", got)
	}
	act("dispute_payment", "pay_none", 400)
	b.want(b.admin("POST", "/actions/settle_payment", `{"payment_id":"`+other+`","status":"won"}`), 400)
}

func TestFinfusionIdempotency(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{})
	first := b.want(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	again := b.want(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	if first.body != again.body || first.header.Get("Idempotent-Replayed") != "" || again.header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("%v %s, repeated %v %s", first.header, first.body, again.header, again.body)
	}
	b.refused(b.do("POST", "/v2/payments", paymentBody(11, "i"), "Idempotency-Key", "k"), 409, "ValidationError", "VAL004")
	b.wantLast("create_payment rejected 409")
	if got := b.counter("idempotency_body_mismatch"); got != 1 {
		t.Errorf("idempotency_body_mismatch = %d, want 1", got)
	}
	// The scope is credential and path.
	b.want(b.do("POST", "/v2/customers", customerBody("c"), "Idempotency-Key", "k"), 200)
	b.wantLast("create_customer applied 200")
	b.key = "dev_other"
	if other := b.id(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k")); other == first.text(t, "id") {
		t.Error("another credential's key was recognised")
	}
	b.key = "push_sandbox_test"
	if one, two := b.id(b.do("POST", "/v2/payments", paymentBody(10, "i"))), b.id(b.do("POST", "/v2/payments", paymentBody(10, "i"))); one == two {
		t.Error("without a key an identical body was taken for a repeat")
	}
	b.want(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", strings.Repeat("ü", 255)), 200)
	b.refused(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", strings.Repeat("k", 256)), 400, "ValidationError", "VAL002")
	// A refusal is stored.
	b.refused(b.do("POST", "/v2/customers", "{}", "Idempotency-Key", "bad"), 400, "ValidationError", "VAL001")
	b.refused(b.do("POST", "/v2/customers", "{}", "Idempotency-Key", "bad"), 400, "ValidationError", "VAL001")
	b.wantLast("create_customer replayed 400")
	b.refused(b.do("POST", "/v2/customers", customerBody("c"), "Idempotency-Key", "bad"), 409, "ValidationError", "VAL004")
	// 24 hours.
	b.clock.add(24*time.Hour - time.Second)
	b.want(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	b.wantLast("create_payment replayed 200")
	b.clock.add(time.Second)
	if late := b.id(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k")); late == first.text(t, "id") {
		t.Error("the key is remembered after 24 hours")
	}
	b.wantLast("create_payment applied 200")
	b.want(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	b.wantLast("create_payment replayed 200")

	off := start(t, "finfusion", switches("idempotency", "off"))
	one := off.want(off.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	two := off.want(off.do("POST", "/v2/payments", paymentBody(11, "i"), "Idempotency-Key", "k"), 200)
	if one.text(t, "id") == two.text(t, "id") || off.effects(1)[0].IdempotencyKey != "k" {
		t.Errorf("with idempotency=off: %s, %s, log %+v", one.body, two.body, off.effects(0))
	}
	off.want(off.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", strings.Repeat("k", 256)), 200)
	for_ever := start(t, "finfusion", switches("key_ttl", "0s"))
	for_ever.want(for_ever.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	for_ever.clock.add(10_000 * time.Hour)
	for_ever.want(for_ever.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "k"), 200)
	for_ever.wantLast("create_payment replayed 200")
}

// TestFinfusionInFlight: a repeat of an unfinished request is a conflict, and only 20 requests of a key may be unfinished.
func TestFinfusionInFlight(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{})
	b.fault(`{"name":"hang","phase":"before","operation":"create_payment"}`)
	var wg sync.WaitGroup
	answers := make(chan answer, 20)
	for i := range 20 {
		wg.Go(func() {
			answers <- b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", fmt.Sprint("k-", i))
		})
	}
	if err := b.s.WaitHolding(t.Context(), 20); err != nil {
		t.Fatal(err)
	}
	a := b.refused(b.do("GET", "/v2/customers", ""), 429, "RateLimitError", "RATE002")
	if a.header.Get("Retry-After") != "1" || a.field(t, "error.details.retry_after") != 1.0 || b.counter("concurrency_limited") != 1 {
		t.Errorf("too many at once: %v %s", a.header, a.body)
	}
	b.key = "dev_other"
	b.want(b.do("GET", "/v2/customers", ""), 200)
	b.key = "push_sandbox_test"
	b.fault(`{"name":"hang","on":false}`)
	wg.Wait()
	for range 20 {
		b.want(<-answers, 200)
	}
	b.want(b.do("GET", "/v2/customers", ""), 200)

	b.fault(`{"name":"hang","phase":"before","count":1}`)
	wg.Go(func() { answers <- b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "one") })
	if err := b.s.WaitHolding(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	b.refused(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "one"), 409, "ValidationError", "VAL005")
	b.wantLast("create_payment rejected 409")
	b.want(b.do("POST", "/v2/customers", customerBody("c"), "Idempotency-Key", "one"), 200) // another path
	b.fault(`{"name":"hang","on":false}`)
	wg.Wait()
	b.want(<-answers, 200)
	b.want(b.do("POST", "/v2/payments", paymentBody(10, "i"), "Idempotency-Key", "one"), 200)
	b.wantLast("create_payment replayed 200")
	if got := b.counter("idempotency_in_flight"); got != 1 {
		t.Errorf("idempotency_in_flight = %d, want 1", got)
	}
}

func TestFinfusionSlowCustomer(t *testing.T) {
	b := start(t, "finfusion", switches("slow_by", "150ms"))
	for _, c := range []struct{ path, body string }{
		{"/v2/customers", strings.Replace(customerBody("c"), "example.com", "slow.test", 1)},
		{"/v2/customers/batch", batchBody(true, customerBody("c"), strings.Replace(customerBody("c"), "example.com", "slow.test", 1))},
	} {
		began := time.Now()
		b.want(b.do("POST", c.path, c.body), 200)
		if d := time.Since(began); d < 150*time.Millisecond {
			t.Errorf("%s took %v, want 150 ms or more", c.path, d)
		}
	}
}

func TestFinfusionQuota(t *testing.T) {
	for _, c := range []struct {
		name  string
		o     sandbox.Options
		burst int
		every time.Duration // one token
	}{
		{"standard", sandbox.Options{}, 150, 600 * time.Millisecond},
		{"enterprise", switches("tier", "enterprise"), 1500, 60 * time.Millisecond},
		{"scaled", sandbox.Options{LimitScale: 2}, 300, 300 * time.Millisecond},
	} {
		b := start(t, "finfusion", c.o)
		b.do("GET", "/v2/nothing", "") // counts too
		for range c.burst - 1 {
			b.want(b.do("GET", "/v2/customers", ""), 200)
		}
		a := b.refused(b.do("GET", "/v2/customers", ""), 429, "RateLimitError", "RATE001")
		if a.header.Get("Retry-After") != "1" || a.field(t, "error.details.retry_after") != 1.0 || b.counter("rate_limited") != 1 {
			t.Errorf("%s: %v %s", c.name, a.header, a.body)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "X-Ratelimit") {
				t.Errorf("%s: header %s, which this vendor does not send", c.name, name)
			}
		}
		b.key = "dev_another"
		b.want(b.do("GET", "/v2/customers", ""), 200)
		b.key = "push_sandbox_test"
		b.clock.add(c.every - time.Microsecond)
		b.want(b.do("GET", "/v2/customers", ""), 429)
		b.clock.add(time.Microsecond)
		b.want(b.do("GET", "/v2/customers", ""), 200)
		b.want(b.do("GET", "/v2/customers", ""), 429)
		b.clock.add(5 * c.every)
		for i := range 6 {
			if got, want := b.do("GET", "/v2/customers", "").status, map[bool]int{true: 200, false: 429}[i < 5]; got != want {
				t.Errorf("%s: request %d after 5 tokens' time: %d, want %d", c.name, i+1, got, want)
			}
		}
	}
	off := start(t, "finfusion", switches("limits", "off"))
	for range 200 {
		off.want(off.do("GET", "/v2/customers", ""), 200)
	}
	// A 429 of the magic amount costs nothing.
	b := start(t, "finfusion", sandbox.Options{})
	for i := range 200 {
		a := b.do("POST", "/v2/payments", paymentBody(42900, "i"), "Idempotency-Key", fmt.Sprint(i))
		if a.status != 429 || !strings.Contains(a.body, "magic") {
			t.Fatalf("request %d: %d %s", i, a.status, a.body)
		}
	}
}

func TestFinfusionKeys(t *testing.T) {
	c := newClock()
	b := start(t, "finfusion", sandbox.Options{Now: c.now, Keys: []sandbox.Key{{Secret: "dev_a"}, {Secret: "rest_b"}, {Secret: "sk_c"}, {Secret: "prod_d"},
		{Secret: "dev_old", NotAfter: c.now().Add(time.Hour)}}})
	verify := func(key string) answer {
		b.key = key
		return b.do("GET", "/v2/api-keys/verify", "")
	}
	for key, want := range map[string]string{"dev_a": "development payments,accounts,kyc,reporting", "rest_b": "restricted payments", "sk_c": "development payments,accounts,kyc,reporting", "dev_old": "development payments,accounts,kyc,reporting"} {
		a := b.want(verify(key), 200)
		var got []string
		for _, p := range a.field(t, "permissions").([]any) {
			got = append(got, p.(string))
		}
		if s := a.text(t, "type") + " " + strings.Join(got, ","); s != want || a.field(t, "valid") != true {
			t.Errorf("verify %s: %s, want %s", key, a.body, want)
		}
	}
	b.wantLast("verify_key read 200")
	for _, key := range []string{"prod_d", "dev_unknown", "x"} {
		b.refused(verify(key), 401, "AuthenticationError", "AUTH001")
	}
	c.add(time.Hour)
	b.refused(verify("dev_old"), 401, "AuthenticationError", "AUTH001")
	b.refused(b.send(b.l.URL, "GET", "/v2/customers", "", "Authorization", "Basic eDp5"), 401, "AuthenticationError", "AUTH001")

	// Creating.
	b.key = "dev_a"
	body := `{"name":"import","type":"restricted","permissions":["accounts"],"expiration":"2026-03-02"}`
	a := b.want(b.do("POST", "/v1/api-keys", body), 200)
	made := a.text(t, "key")
	if !regexp.MustCompile(`^rest_[0-9A-Za-z]{32}$`).MatchString(made) || a.text(t, "expires_at") != "2026-03-03T00:00:00Z" || strings.Contains(b.admin("GET", "/objects/"+a.text(t, "id"), "").body, made) {
		t.Errorf("created key: %s", a.body)
	}
	b.key = made
	b.want(b.do("GET", "/v2/customers", ""), 200)
	b.refused(b.do("GET", "/v2/payments", ""), 401, "AuthenticationError", "AUTH003")
	b.refused(b.do("POST", "/v1/api-keys", body), 401, "AuthenticationError", "AUTH003")
	c.add(48 * time.Hour)
	b.refused(b.do("GET", "/v2/customers", ""), 401, "AuthenticationError", "AUTH001")
	b.key = "dev_a"
	for _, bad := range []string{`{}`, `{"name":"n","type":"production","permissions":["kyc"]}`, `{"name":"n","type":"development","permissions":[]}`,
		`{"name":"n","type":"development","permissions":["all"]}`, `{"name":"n","type":"development","permissions":[1]}`, `{"name":"n","type":"development","permissions":["kyc"],"expiration":"soon"}`} {
		b.refused(b.do("POST", "/v1/api-keys", bad), 400, "ValidationError", "VAL001")
	}

	// Rotation with overlap, then revocation.
	r := b.want(b.admin("POST", "/actions/rotate_key", `{"current_key":"dev_a","grace_period":"1h"}`), 200)
	next := r.text(t, "key")
	for _, at := range []struct {
		after    time.Duration
		old, new int
	}{{0, 200, 200}, {time.Hour - time.Second, 200, 200}, {time.Second, 401, 200}} {
		c.add(at.after)
		if o, n := verify("dev_a").status, verify(next).status; o != at.old || n != at.new {
			t.Errorf("%v later: old key %d, new key %d, want %d and %d", at.after, o, n, at.old, at.new)
		}
	}
	b.want(b.admin("POST", "/actions/revoke_key", `{"key":"`+next+`"}`), 200)
	b.refused(verify(next), 401, "AuthenticationError", "AUTH001")
	b.want(b.admin("POST", "/actions/revoke_key", `{"key":"`+next+`"}`), 400)
	b.want(b.admin("POST", "/actions/rotate_key", `{"current_key":"sk_c","grace_period":"soon"}`), 400)

	strict := start(t, "finfusion", switches("key_format", "strict", "admin_token", "sk_"+strings.Repeat("a", 32)))
	for key, want := range map[string]int{"dev_" + strings.Repeat("a", 32): 200, "rest_" + strings.Repeat("Z", 32): 200, "sk_" + strings.Repeat("0", 32): 200, "dev_" + strings.Repeat("a", 31): 401, "dev_" + strings.Repeat("-", 32): 401, strings.Repeat("a", 36): 401} {
		strict.key = key
		if got := strict.do("GET", "/v2/api-keys/verify", "").status; got != want {
			t.Errorf("strict format, %s: %d, want %d", key, got, want)
		}
	}
	strict.key = "dev_" + strings.Repeat("a", 32)
	strict.refused(strict.do("POST", "/v1/api-keys", body), 401, "AuthenticationError", "AUTH003")
	strict.key = "sk_" + strings.Repeat("a", 32)
	strict.want(strict.do("POST", "/v1/api-keys", body), 200)
}

func TestFinfusionOAuth(t *testing.T) {
	c := newClock()
	o := sandbox.Options{Now: c.now, Switches: map[string]string{"oauth_clients": "app:s1@.." + c.now().Add(time.Hour).Format(time.RFC3339) + ",app:s2"}}
	b := start(t, "finfusion", o)
	token := func(id, secret, scope string) answer {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}, "scope": {scope}}
		return b.do("POST", "/oauth/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded; charset=utf-8", "Authorization", "")
	}
	a := b.want(token("app", "s1", "payments accounts"), 200)
	if a.text(t, "token_type") != "Bearer" || a.field(t, "expires_in") != 3600.0 || a.text(t, "scope") != "payments accounts" {
		t.Errorf("token: %s", a.body)
	}
	b.wantLast("issue_token read 200")
	access := a.text(t, "access_token")
	b.key = access
	pay := b.id(b.do("POST", "/v2/payments", paymentBody(5, "i"), "Idempotency-Key", "k"))
	b.want(b.do("GET", "/v2/customers", ""), 200)
	if got := b.want(b.do("GET", "/v2/api-keys/verify", ""), 200).text(t, "type"); got != "oauth" {
		t.Errorf("type of a token is %s", got)
	}
	c.add(time.Hour - time.Second)
	b.want(b.do("GET", "/v2/customers", ""), 200)
	c.add(time.Second)
	b.refused(b.do("GET", "/v2/customers", ""), 401, "AuthenticationError", "AUTH002")
	b.refused(token("app", "s1", "payments"), 401, "AuthenticationError", "AUTH001") // that secret has ended
	// A new token of the client is the same caller: its keys are remembered.
	b.key = b.want(token("app", "s2", "payments"), 200).text(t, "access_token")
	if got := b.id(b.do("POST", "/v2/payments", paymentBody(5, "i"), "Idempotency-Key", "k")); got != pay {
		t.Errorf("with another token of the client the key made %s, want %s", got, pay)
	}
	b.refused(b.do("GET", "/v2/customers", ""), 401, "AuthenticationError", "AUTH003")
	b.want(b.admin("POST", "/actions/expire_tokens", ""), 200)
	b.refused(b.do("GET", "/v2/customers", ""), 401, "AuthenticationError", "AUTH002")
	b.key = b.want(token("app", "s2", ""), 200).text(t, "access_token")
	b.want(b.do("GET", "/v2/customers", ""), 200)
	b.key = access[:len(access)-1] + "!"
	b.refused(b.do("GET", "/v2/customers", ""), 401, "AuthenticationError", "AUTH001")

	b.refused(token("app", "wrong", ""), 401, "AuthenticationError", "AUTH001")
	b.refused(token("nobody", "s2", ""), 401, "AuthenticationError", "AUTH001")
	b.refused(token("app", "s2", "everything"), 400, "ValidationError", "VAL002")
	b.refused(b.do("POST", "/oauth/token", "grant_type=password", "Content-Type", "application/x-www-form-urlencoded"), 400, "ValidationError", "VAL002")
	b.refused(b.do("POST", "/oauth/token", "{}", "Content-Type", "application/json"), 400, "ValidationError", "VAL001")
	b.refused(b.do("POST", "/oauth/token", "%zz", "Content-Type", "application/x-www-form-urlencoded"), 400, "ValidationError", "VAL001")

	b = start(t, "finfusion", sandbox.Options{})
	b.want(token("any", "thing", ""), 200)
	b = start(t, "finfusion", sandbox.Options{Keys: []sandbox.Key{{Secret: "dev_a"}}})
	b.refused(token("any", "thing", ""), 401, "AuthenticationError", "AUTH001")
}

func TestFinfusionVersion1(t *testing.T) {
	b := start(t, "finfusion", switches("v1_sunset", "2026-03-02"))
	headers := func(a answer) {
		t.Helper()
		if a.header.Get("Deprecation") != "true" || a.header.Get("Sunset") != "Mon, 02 Mar 2026 00:00:00 GMT" || a.header.Get("Link") != `</v2/payments>; rel="successor-version"` {
			t.Errorf("headers %v", a.header)
		}
	}
	a := b.want(b.do("POST", "/v1/payments", `{"amount":1000,"currency":"USD"}`), 200)
	headers(a)
	if a.field(t, "amount") != 1000.0 || a.text(t, "currency") != "USD" || a.text(t, "status") != "succeeded" {
		t.Errorf("version 1: %s", a.body)
	}
	b.wantLast("create_payment_v1 applied 200")
	if got := b.want(b.do("GET", "/v2/payments/"+a.text(t, "id"), ""), 200); got.field(t, "amount.value") != 1000.0 || got.header.Get("Deprecation") != "" {
		t.Errorf("as version 2: %v %s", got.header, got.body)
	}
	one := b.id(b.do("POST", "/v1/payments", `{"amount":7,"currency":"USD"}`, "Idempotency-Key", "k"))
	if two := b.id(b.do("POST", "/v1/payments", `{"amount":7,"currency":"USD"}`, "Idempotency-Key", "k")); one == two {
		t.Error("version 1 recognised an Idempotency-Key")
	}
	headers(b.refused(b.do("POST", "/v1/payments", `{"amount":{"value":1,"currency":"USD"}}`), 400, "ValidationError", "VAL001"))
	b.fault(`{"name":"error","count":1}`)
	headers(b.do("POST", "/v1/payments", `{"amount":1000,"currency":"USD"}`))
	b.refused(b.do("POST", "/v1/payments", `{"amount":40200,"currency":"USD"}`), 402, "PaymentError", "PAY001")
	b.clock.add(12 * time.Hour)
	headers(b.refused(b.do("POST", "/v1/payments", `{"amount":1000,"currency":"USD"}`), 410, "ValidationError", "VAL003"))
	b.wantLast("create_payment_v1 rejected 410")
	b.want(b.do("POST", "/v2/payments", paymentBody(5, "i")), 200)
	if got := b.counter("deprecated_v1"); got != 6 {
		t.Errorf("deprecated_v1 = %d, want 6", got)
	}
}

func TestFinfusionLists(t *testing.T) {
	b := start(t, "finfusion", sandbox.Options{LimitScale: 10})
	began := b.clock.now()
	var ids []string
	for i := range 7 {
		ids = append(ids, b.id(b.do("POST", "/v2/customers", customerBody(fmt.Sprint("c-", i/2)))))
		b.clock.add(time.Minute)
	}
	walk := func(path, query string) (got []string, pages int) {
		t.Helper()
		after := ""
		for {
			a := b.want(b.do("GET", path+"?"+query+after, ""), 200)
			pages++
			for _, x := range a.field(t, "data").([]any) {
				got = append(got, x.(map[string]any)["id"].(string))
			}
			if a.field(t, "has_more") != true {
				return got, pages
			}
			after = "&starting_after=" + got[len(got)-1]
		}
	}
	at := func(d time.Duration) string { return url.QueryEscape(began.Add(d).Format(time.RFC3339Nano)) }
	for _, c := range []struct {
		query string
		want  []string
		pages int
	}{
		{"", ids, 1},
		{"limit=3", ids, 3},
		{"limit=7", ids, 1},
		{"updated_since=" + at(2*time.Minute), ids[2:], 1},
		{"limit=2&updated_since=" + at(time.Minute+time.Millisecond), ids[2:], 3},
		{"updated_since=" + at(time.Hour), nil, 1},
		{"metadata[external_id]=c-1", ids[2:4], 1},
		{"limit=1&metadata[external_id]=c-1", ids[2:4], 2},
		{"metadata[external_id]=c", nil, 1},
		{"metadata[other]=c-1", nil, 1},
	} {
		if got, pages := walk("/v2/customers", c.query); !slices.Equal(got, c.want) || pages != c.pages {
			t.Errorf("%q: %v in %d pages, want %v in %d", c.query, got, pages, c.want, c.pages)
		}
	}
	b.wantLast("list_customers read 200")
	// A change moves a customer to the end; a deletion takes it away.
	b.want(b.do("PATCH", "/v2/customers/"+ids[1], `{"name":"new"}`), 200)
	b.want(b.do("DELETE", "/v2/customers/"+ids[4], ""), 200)
	want := []string{ids[0], ids[2], ids[3], ids[5], ids[6], ids[1]}
	if got, _ := walk("/v2/customers", "limit=2"); !slices.Equal(got, want) {
		t.Errorf("after a change and a deletion: %v, want %v", got, want)
	}
	for _, bad := range []string{"limit=101", "limit=x", "starting_after=cust_none", "starting_after=" + ids[4], "updated_since=yesterday", "updated_since=2026-03-01"} {
		b.refused(b.do("GET", "/v2/customers?"+bad, ""), 400, "ValidationError", "VAL002")
	}
	// Within one second the id decides.
	var same []string
	for i := range 60 {
		same = append(same, b.id(b.do("POST", "/v2/payments", paymentBody(i+1, fmt.Sprint("i-", i)))))
	}
	slices.Sort(same)
	if got, pages := walk("/v2/payments", ""); !slices.Equal(got, same) || pages != 3 {
		t.Errorf("payments: %v in %d pages, want %v in 3 pages of 25", got, pages, same)
	}
	if got, _ := walk("/v2/payments", "metadata[invoice_id]=i-7"); len(got) != 1 {
		t.Errorf("payments of one invoice: %v", got)
	}
	if got := strings.Count(b.admin("GET", "/objects", "").body, "\n"); got != 66 {
		t.Errorf("%d objects, want 66", got)
	}
	if got := strings.Count(b.admin("GET", "/objects?kind=customer", "").body, "\n"); got != 6 {
		t.Errorf("%d customers, want 6", got)
	}
}

// delivery is one webhook as it arrived.
type delivery struct {
	body             string
	signature, stamp string
}

func (d delivery) signedBy(secret string) bool {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(d.stamp + "." + d.body))
	return hex.EncodeToString(mac.Sum(nil)) == d.signature
}

// receiver takes webhooks; refuse is asked about each.
func receiver(t *testing.T, refuse func(n int) bool) (string, chan delivery) {
	got := make(chan delivery, 100)
	var mu sync.Mutex
	n := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read webhook: %v", err)
		}
		mu.Lock()
		n++
		bad := refuse != nil && refuse(n)
		mu.Unlock()
		if bad {
			w.WriteHeader(400)
		}
		got <- delivery{string(body), r.Header.Get("X-Finfusion-Signature"), r.Header.Get("X-Finfusion-Timestamp")}
	}))
	t.Cleanup(s.Close)
	return s.URL, got
}

func next(t *testing.T, from chan delivery) delivery {
	t.Helper()
	select {
	case d := <-from:
		return d
	case <-time.After(30 * time.Second):
		t.Fatal("no webhook within 30 s")
		panic("unreachable")
	}
}

func TestFinfusionWebhooks(t *testing.T) {
	at, got := receiver(t, func(n int) bool { return n == 1 })
	o := switches("webhook_time_scale", "0.001")
	o.Now = time.Now
	b := start(t, "finfusion", o)
	a := b.want(b.do("POST", "/v2/webhooks", `{"url":"`+at+`","events":["payment.succeeded","payment.failed","payment.refunded"]}`), 200)
	secret := a.text(t, "secret")
	if !regexp.MustCompile(`^whsec_[0-9A-Za-z]{16}$`).MatchString(secret) || !strings.HasPrefix(a.text(t, "id"), "we_") || a.text(t, "url") != at {
		t.Errorf("endpoint: %s", a.body)
	}
	b.wantLast("create_webhook_endpoint applied 200")
	if again := b.want(b.do("POST", "/v2/webhooks", `{"url":"`+at+`","events":["*"]}`), 200); again.field(t, "secret") != nil || again.text(t, "id") != a.text(t, "id") {
		t.Errorf("the endpoint again: %s", again.body)
	}
	b.wantLast("create_webhook_endpoint replayed 200")
	if o := b.want(b.admin("GET", "/objects/"+a.text(t, "id"), ""), 200); strings.Contains(o.body, secret) {
		t.Errorf("the secret is shown again: %s", o.body)
	}
	for _, bad := range []string{`{}`, `{"url":"http://example.com","events":["*"]}`, `{"url":"` + at + `/x","events":[]}`, `{"url":"` + at + `/x","events":["payment.lost"]}`, `{"url":"` + at + `/x","events":"*"}`} {
		b.refused(b.do("POST", "/v2/webhooks", bad), 400, "ValidationError", "VAL001")
	}

	pay := b.id(b.do("POST", "/v2/payments", paymentBody(5, "i-1")))
	first, second := next(t, got), next(t, got) // the first was refused
	if first.body != second.body || !first.signedBy(secret) || !second.signedBy(secret) {
		t.Errorf("attempts differ or are not signed: %+v, %+v", first, second)
	}
	e := answer{body: second.body}
	if !regexp.MustCompile(`^evt_[0-9A-Za-z]{16}$`).MatchString(e.text(t, "id")) || e.text(t, "type") != "payment.succeeded" || e.field(t, "livemode") != false ||
		e.text(t, "api_version") != "v2" || e.text(t, "data.object.id") != pay || e.text(t, "data.object.metadata.invoice_id") != "i-1" {
		t.Errorf("event %s", second.body)
	}
	for _, stamp := range []any{e.field(t, "created"), second.stamp} {
		n, err := strconv.ParseFloat(fmt.Sprint(stamp), 64)
		if err != nil || time.Since(time.Unix(int64(n), 0)).Abs() > time.Minute {
			t.Errorf("time %v of %+v is not now in Unix seconds", stamp, second)
		}
	}
	b.want(b.do("POST", "/v2/payments", paymentBody(40200, "i-2")), 402)
	if e := (answer{body: next(t, got).body}); e.text(t, "type") != "payment.failed" || e.text(t, "data.object.status") != "failed" {
		t.Errorf("event %s", e.body)
	}
	b.want(b.admin("POST", "/actions/refund_payment", `{"payment_id":"`+pay+`"}`), 200)
	if e := (answer{body: next(t, got).body}); e.text(t, "type") != "payment.refunded" || e.text(t, "data.object.status") != "refunded" {
		t.Errorf("event %s", e.body)
	}
	// An event that the endpoint did not ask for is not sent; after it comes one that it did.
	b.want(b.admin("POST", "/actions/emit_event", `{"type":"card.created","object":{"id":"card_1"}}`), 200)
	rotated := b.want(b.admin("POST", "/actions/rotate_webhook_secret", `{"id":"`+a.text(t, "id")+`"}`), 200).text(t, "secret")
	id := b.want(b.admin("POST", "/actions/emit_event", `{"type":"payment.succeeded","object":{"id":"pay_1"}}`), 200).text(t, "id")
	if d := next(t, got); rotated == secret || !d.signedBy(rotated) || (answer{body: d.body}).text(t, "id") != id {
		t.Errorf("after the rotation: %+v", d)
	}
	b.want(b.admin("POST", "/actions/rotate_webhook_secret", `{"id":"we_none"}`), 400)
	b.want(b.admin("POST", "/actions/emit_event", `{}`), 400)
}

// TestFinfusionWebhookSwitches: what each switch does to the first attempt, and that the event arrives soundly after a
// refusal.
func TestFinfusionWebhookSwitches(t *testing.T) {
	const secret = "whsec_fixed"
	stale := func(d delivery) bool {
		n, err := strconv.ParseInt(d.stamp, 10, 64)
		return err != nil || time.Since(time.Unix(n, 0)).Abs() > 300*time.Second
	}
	for name, spoilt := range map[string]func(delivery) bool{
		"webhook_tamper":     func(d delivery) bool { return !d.signedBy(secret) && json.Valid([]byte(d.body)) && !stale(d) },
		"webhook_old_secret": func(d delivery) bool { return !d.signedBy(secret) && !stale(d) },
		"webhook_stale":      func(d delivery) bool { return d.signedBy(secret) && stale(d) },
	} {
		at, got := receiver(t, func(n int) bool { return n == 1 })
		o := switches("webhook_time_scale", "0.001", "webhook_url", at, "webhook_secret", secret, name, "on")
		o.Now = time.Now
		b := start(t, "finfusion", o)
		b.want(b.do("POST", "/v2/payments", paymentBody(5, "i-1")), 200)
		first, second := next(t, got), next(t, got)
		if !spoilt(first) || !second.signedBy(secret) || stale(second) || strings.Contains(second.body, "tampered") {
			t.Errorf("%s: first %+v, second %+v", name, first, second)
		}
	}

	at, got := receiver(t, nil)
	o := switches("webhook_time_scale", "0.001", "webhook_url", at, "webhook_duplicates", "on", "drift", "on")
	o.Now = time.Now
	b := start(t, "finfusion", o)
	b.want(b.do("POST", "/v2/payments", paymentBody(5, "i-1")), 200)
	first, second := next(t, got), next(t, got)
	if first.body != second.body {
		t.Errorf("a duplicate differs: %s and %s", first.body, second.body)
	}
	if (answer{body: first.body}).field(t, "drift_field") == nil {
		t.Errorf("drift adds nothing to a webhook: %s", first.body)
	}

	at, got = receiver(t, nil)
	o = switches("webhook_time_scale", "0.5", "webhook_url", at, "webhook_reorder", "on")
	o.Now = time.Now
	b = start(t, "finfusion", o)
	for _, invoice := range []string{"i-1", "i-2"} {
		b.want(b.do("POST", "/v2/payments", paymentBody(5, invoice)), 200)
	}
	if d := next(t, got); !strings.Contains(d.body, "i-2") {
		t.Errorf("first event with reordering: %s, want that of i-2", d.body)
	}
	if d := next(t, got); !strings.Contains(d.body, "i-1") {
		t.Errorf("second event with reordering: %s, want that of i-1", d.body)
	}
}

func TestFinfusionDrift(t *testing.T) {
	b := start(t, "finfusion", switches("drift", "on"))
	a := b.want(b.do("POST", "/v2/payments", paymentBody(5, "i-1")), 200)
	if a.field(t, "drift_field.added") != true || a.field(t, "amount.drift_field.added") != true || a.text(t, "payment_method.type") != "card" {
		t.Errorf("switch drift: %s", a.body)
	}
	b.fault(`{"name":"drift","on":false}`)
	b.fault(`{"name":"drift","fields":"status,brand","missing":"created_at","retyped":"value,currency,metadata"}`)
	a = b.want(b.do("POST", "/v2/payments", paymentBody(5, "i-1")), 200)
	if a.text(t, "status") != "drift_status" || a.text(t, "payment_method.card.brand") != "drift_brand" || a.field(t, "created_at") != nil ||
		a.text(t, "amount.value") != "drift 5" || a.field(t, "amount.currency") != 3.0 || !strings.HasPrefix(a.text(t, "metadata"), "drift ") {
		t.Errorf("fault drift: %s", a.body)
	}
}

// TestFinfusionFaultBodies: what the core's faults answer is in the vendor's form.
func TestFinfusionFaultBodies(t *testing.T) {
	for _, c := range []struct {
		fault       string
		status      int
		class, code string
		retryAfter  any
	}{
		{`{"name":"throttle","retry_after":7}`, 429, "RateLimitError", "RATE001", 7.0},
		{`{"name":"throttle"}`, 429, "RateLimitError", "RATE001", nil},
		{`{"name":"outage","mode":"503","retry_after":3}`, 503, "APIError", "API002", 3.0},
		{`{"name":"error"}`, 500, "APIError", "API001", nil},
		{`{"name":"error","status":502}`, 502, "APIError", "API001", nil},
		{`{"name":"error","status":504}`, 504, "APIError", "API001", nil},
		{`{"name":"ambiguous","mode":"500"}`, 500, "APIError", "API001", nil},
		{`{"name":"reject","status":408}`, 408, "APIError", "API001", nil},
		{`{"name":"reject","status":402}`, 402, "PaymentError", "PAY001", nil},
		{`{"name":"reject","status":403}`, 403, "AuthenticationError", "AUTH003", nil},
		{`{"name":"reject","status":404}`, 404, "ValidationError", "VAL003", nil},
		{`{"name":"reject","status":409}`, 409, "ValidationError", "VAL004", nil},
		{`{"name":"reject"}`, 400, "ValidationError", "VAL001", nil},
		{`{"name":"unauthorized"}`, 401, "AuthenticationError", "AUTH001", nil},
	} {
		b := start(t, "finfusion", sandbox.Options{})
		b.fault(c.fault)
		a := b.refused(b.do("POST", "/v2/payments", paymentBody(5, "i-1"), "Idempotency-Key", "k"), c.status, c.class, c.code)
		if got := a.field(t, "error.details.retry_after"); got != c.retryAfter || a.header.Get("X-Request-Id") == "" {
			t.Errorf("%s: %v %s, want retry_after %v", c.fault, a.header, a.body, c.retryAfter)
		}
		name := strings.Split(c.fault, `"`)[3]
		b.fault(`{"name":"` + name + `","on":false}`)
		b.want(b.do("POST", "/v2/payments", paymentBody(5, "i-1"), "Idempotency-Key", "k"), 200)
		if got, want := strings.Count(b.admin("GET", "/objects", "").body, "\n"), 1; got != want {
			t.Errorf("%s and its repeat made %d payments, want %d", c.fault, got, want)
		}
	}
}

// TestFinfusionSurvivesKill starts a second sandbox on the files of one that was not closed.
func TestFinfusionSurvivesKill(t *testing.T) {
	o := sandbox.Options{Persist: t.TempDir()}
	b := start(t, "finfusion", o)
	customer := b.id(b.do("POST", "/v2/customers", customerBody("c-1"), "Idempotency-Key", "c"))
	b.clock.add(time.Second)
	b.want(b.do("PATCH", "/v2/customers/"+customer, `{"name":"new"}`), 200)
	gone := b.id(b.do("POST", "/v2/customers", customerBody("c-2")))
	b.want(b.do("DELETE", "/v2/customers/"+gone, ""), 200)
	batch := batchBody(true, customerBody("b-1"), "{}", customerBody("b-2"))
	batchAnswer := b.want(b.do("POST", "/v2/customers/batch", batch, "Idempotency-Key", "b"), 200)
	paid := b.want(b.do("POST", "/v2/payments", cardBody(), "Idempotency-Key", "p"), 200)
	b.want(b.do("POST", "/v2/payments", paymentBody(40200, "i-0"), "Idempotency-Key", "f"), 402)
	pending := b.id(b.do("POST", "/v2/payments", paymentBody(20200, "i-1")))
	hook := b.want(b.do("POST", "/v2/webhooks", `{"url":"http://127.0.0.1:1/","events":["account.created"]}`), 200)
	made := b.want(b.do("POST", "/v1/api-keys", `{"name":"n","type":"restricted","permissions":["accounts"]}`), 200)
	b.want(b.admin("POST", "/actions/revoke_key", `{"key":"dev_revoked"}`), 200)
	form := "grant_type=client_credentials&client_id=a&client_secret=b"
	tokenOf := func(b *bundle) string {
		return b.want(b.do("POST", "/oauth/token", form, "Content-Type", "application/x-www-form-urlencoded"), 200).text(t, "access_token")
	}
	expired := tokenOf(b)
	b.want(b.admin("POST", "/actions/expire_tokens", ""), 200)
	live := tokenOf(b)
	ids := []string{customer, paid.text(t, "id"), pending, hook.text(t, "id"), made.text(t, "id")}
	before := map[string]string{}
	for _, id := range ids {
		before[id] = b.want(b.admin("GET", "/objects/"+id, ""), 200).body
	}
	listed := b.want(b.do("GET", "/v2/customers", ""), 200).body
	log := b.effects(0)
	if data, err := os.ReadFile(o.Persist + "/finfusion.state.ndjson"); err != nil || strings.Contains(string(data), "4242 4242") || strings.Contains(string(data), made.text(t, "key")) {
		t.Errorf("the state keeps a card number or a key, or cannot be read: %v", err)
	}

	// A kill may tear the last line of the state.
	f, err := os.OpenFile(o.Persist+"/finfusion.state.ndjson", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"effect":{"seq":99`); err != nil {
		t.Fatal(err)
	}
	f.Close()

	b2 := start(t, "finfusion", o)
	b2.clock.add(time.Second)
	if got := b2.effects(0); fmt.Sprint(got) != fmt.Sprint(log) {
		t.Errorf("log after the restart:\n%v\nwant\n%v", got, log)
	}
	for id, want := range before {
		if got := b2.want(b2.admin("GET", "/objects/"+id, ""), 200).body; got != want {
			t.Errorf("object after the restart:\n%swant\n%s", got, want)
		}
	}
	if got := b2.want(b2.do("GET", "/v2/customers", ""), 200).body; got != listed {
		t.Errorf("list after the restart %s, want %s", got, listed)
	}
	for _, c := range []struct {
		path, body, key string
		status          int
		want            string
	}{
		{"/v2/customers", customerBody("c-1"), "c", 200, customer}, {"/v2/payments", cardBody(), "p", 200, paid.text(t, "id")},
		{"/v2/payments", paymentBody(40200, "i-0"), "f", 402, "PAY001"}, {"/v2/customers/batch", batch, "b", 200, batchAnswer.body},
	} {
		if got := b2.want(b2.do("POST", c.path, c.body, "Idempotency-Key", c.key), c.status); !strings.Contains(got.body, c.want) || got.header.Get("Idempotent-Replayed") != "true" {
			t.Errorf("repeat of %s after the restart: %s, want %s", c.path, got.body, c.want)
		}
	}
	stored := strings.Replace(paymentBody(3, "i-2"), "pm_test_ok", paid.text(t, "payment_method.id"), 1)
	if id := b2.id(b2.do("POST", "/v2/payments", stored)); before[id] != "" {
		t.Errorf("id %s was given out twice", id)
	}
	for key, want := range map[string]int{made.text(t, "key"): 200, "dev_revoked": 401, expired: 401, live: 200} {
		b2.key = key
		if got := b2.do("GET", "/v2/customers", "").status; got != want {
			t.Errorf("credential %s after the restart: %d, want %d", key, got, want)
		}
	}
	b2.key = "k"
	b2.clock.add(2 * time.Second)
	if got := b2.want(b2.do("GET", "/v2/payments/"+pending, ""), 200).text(t, "status"); got != "succeeded" {
		t.Errorf("a pending payment is %s after the restart", got)
	}
}
