package sandbox_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
)

// names lists the members of an object in an answer, sorted.
func (a answer) names(t testing.TB, path string) string {
	t.Helper()
	v := a.field(t, path)
	m, ok := v.(map[string]any)
	if !ok {
		t.Fatalf("answer %q: %s is no object", a.body, path)
	}
	return strings.Join(slices.Sorted(maps.Keys(m)), " ")
}

// row is the n-th element of an answer's list data, as an answer of its own.
func (a answer) row(t testing.TB, n int) map[string]any {
	t.Helper()
	rows, ok := a.field(t, "data").([]any)
	if !ok || len(rows) <= n {
		t.Fatalf("answer %q has no row %d", a.body, n)
	}
	return rows[n].(map[string]any)
}

func keysOf(m map[string]any) string { return strings.Join(slices.Sorted(maps.Keys(m)), " ") }

// payer makes a user and says its id.
func (b *bundle) payer(tag string) string {
	b.t.Helper()
	return b.id(b.do("POST", "/user", userBody(tag)))
}

// intent makes an intent and says its id.
func (b *bundle) intent(user string, amount int, key string) string {
	b.t.Helper()
	return b.id(b.do("POST", "/intent", intentBody(user, amount), "X-Idempotency-Key", key))
}

func (b *bundle) complete(intent string) {
	b.t.Helper()
	b.want(b.admin("POST", "/actions/complete_intent", `{"intent_id":"`+intent+`"}`), 200)
}

// TestPushcashShapes: the members of each resource of sections 4.1 to 4.5, no more and no less.
func TestPushcashShapes(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{})
	user := b.payer("c-1")
	open, paid := b.intent(user, 500, "k-1"), b.intent(user, 700, "k-2")
	out := b.id(b.do("POST", "/intent", strings.Replace(intentBody(user, 50), "cash_in", "cash_out", 1), "X-Idempotency-Key", "k-3"))
	b.complete(paid)
	b.complete(out)
	refund := b.want(b.do("POST", "/refund", `{"intent_id":"`+paid+`"}`), 200)
	settled := b.want(b.do("POST", "/simulate/settlement", `{"intent_id":"`+out+`"}`), 200)
	dispute := b.want(b.do("POST", "/simulate/dispute", `{"intent_id":"`+paid+`","code":"4837"}`), 200)
	token := b.want(b.do("POST", "/token", `{"user_id":"`+user+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 200)
	b.want(b.do("POST", "/authorize", `{"token":"`+token.text(t, "token")+`","direction":"cash_in","amount":9,"currency":"USD"}`), 200)
	account := b.want(b.do("GET", "/account/list", ""), 200).row(t, 0)

	const intentNames = "account amount created_at credential currency decline_category direction dispute guarantee_amount id idempotency_key payment_credential rail refund status transactions type user_id"
	wrapped := func(path string) answer {
		a := b.want(b.do("GET", path, ""), 200)
		a.body = `{"x":` + a.body + `}`
		return a
	}
	for _, c := range []struct{ path, member, want string }{
		{"/user/" + user, "x", "address created_at date_of_birth email government_id id limits name payment_credentials phone_number status tag"},
		{"/user/" + user, "x.name", "first last"},
		{"/user/" + user, "x.address", "address_line_1 administrative_area country locality postal_code"},
		{"/user/" + user, "x.limits", "currency daily_limit"},
		{"/intent/" + open, "x", intentNames},
		{"/intent/" + paid, "x", intentNames},
		{"/intent/" + out, "x", strings.Replace(intentNames, "guarantee_amount ", "", 1)}, // cash_in only
		{"/intent/" + paid, "x.credential", "display_name last4"},
		{"/intent/" + paid, "x.payment_credential", "account bank_name card"},
		{"/intent/" + paid, "x.payment_credential.card", "brand expiration primary_account_number_mask"},
		{"/intent/" + paid, "x.account", "created_at id name type"},
		{"/intent/" + paid, "x.refund", "amount created_at currency id intent_id status"},
		{"/refund/" + refund.text(t, "id"), "x", "amount created_at currency id intent_id status"},
		{"/transaction/" + settled.text(t, "id"), "x", "account_id amount batch created_at currency date direction id source_id status type"},
		{"/dispute/" + dispute.text(t, "id"), "x", "amount code created_at currency id intent_id status"},
		{"/account/" + account["id"].(string), "x", "balance created_at id name type"},
		{"/user/list", "x", "data next_cursor"},
		{"/intent/list", "x", "data next_cursor"},
		{"/refund/list", "x", "data next_cursor"},
		{"/transaction/list", "x", "data next_cursor"},
		{"/transfer/list", "x", "data next_cursor"},
		{"/dispute/list", "x", "data next_cursor"},
		{"/user/" + user + "/credential/list", "x", "data"},
	} {
		if got := wrapped(c.path).names(t, c.member); got != c.want {
			t.Errorf("GET %s, %s: %s, want %s", c.path, c.member, got, c.want)
		}
	}
	if got := keysOf(b.do("GET", "/user/"+user+"/credential/list", "").row(t, 0)); got != "account_last4 authenticated bank_name card_last4 created_at id type" {
		t.Errorf("credential: %s", got)
	}
	if got := b.want(b.do("GET", "/intent/"+open, ""), 200); got.field(t, "guarantee_amount") != 0.0 || got.field(t, "credential") != nil ||
		got.field(t, "rail") != nil || got.field(t, "refund") != nil || len(got.field(t, "transactions").([]any)) != 0 {
		t.Errorf("open intent: %s", got.body)
	}
	if refund.field(t, "amount") != 700.0 || refund.text(t, "currency") != "USD" {
		t.Errorf("a refund without an amount is of all: %s", refund.body)
	}
	if settled.field(t, "amount") != -50.0 || settled.text(t, "direction") != "debit" || settled.text(t, "source_id") != out || settled.text(t, "date") != "2026-03-01" {
		t.Errorf("settlement of a cash_out: %s", settled.body)
	}
	for _, c := range []struct {
		query string
		rows  int
	}{
		{"/intent/list?status=created", 1}, {"/intent/list?status=approved", 3}, {"/intent/list?status=created&status=approved", 4},
		{"/intent/list?type=card_only_debit", 3}, {"/intent/list?type=secure_debit", 0}, {"/intent/list?created_at.after=2026-03-01T12:00:00Z", 0},
		{"/intent/list?created_at.before=2026-03-02", 4}, {"/refund/list?status=approved", 1}, {"/refund/list?status=declined", 0},
		{"/transaction/list?account_id=" + account["id"].(string), 1}, {"/transaction/list?account_id=other", 0}, {"/dispute/list", 1},
	} {
		if got := len(b.want(b.do("GET", c.query, ""), 200).field(t, "data").([]any)); got != c.rows {
			t.Errorf("GET %s: %d rows, want %d", c.query, got, c.rows)
		}
	}
	for _, bad := range []string{"/intent/list?status=open", "/refund/list?status=created", "/transaction/list?cursor=x"} {
		b.want(b.do("GET", bad, ""), 400)
	}
}

// TestPushcashAuthorizeRows: what section 4.3 says beyond the magic amounts.
func TestPushcashAuthorizeRows(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{})
	user, other := b.payer("c-1"), b.payer("c-2")
	token := func(user string) string {
		return b.want(b.do("POST", "/token", `{"user_id":"`+user+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 200).text(t, "token")
	}
	body := func(more string) string {
		return `{"token":"` + token(user) + `","direction":"cash_out","amount":100,"currency":"USD"` + more + `}`
	}
	held := b.want(b.do("POST", "/authorize", body(`,"approval_mode":"manual","user_id":"`+user+`"`)), 200)
	if held.text(t, "status") != "pending" || held.text(t, "created_at") == "" || held.text(t, "credential.last4") != "4444" || held.text(t, "direction") != "cash_out" {
		t.Errorf("manual approval: %s", held.body)
	}
	b.want(b.do("POST", "/intent/"+held.text(t, "id")+"/approve", ""), 200)
	if got := b.do("GET", "/intent/"+held.text(t, "id"), "").text(t, "status"); got != "approved" {
		t.Errorf("after the approval: %s", got)
	}
	for _, c := range []struct{ field, more string }{
		{"token", `,"credential_id":"cred_x"`}, {"user_id", `,"user_id":"` + other + `"`}, {"tag", `,"tag":"` + strings.Repeat("t", 256) + `"`},
		{"webhook_url", `,"webhook_url":"http://example.com/"`}, {"webhook_secret", `,"webhook_secret":"` + strings.Repeat("s", 31) + `"`},
		{"webhook_secret", `,"webhook_secret":"` + strings.Repeat("s", 4097) + `"`}, {"account_id", `,"account_id":"account_x"`}, {"redirect_url", `,"redirect_url":"x"`},
	} {
		if a := b.want(b.do("POST", "/authorize", body(c.more)), 400); a.text(t, "error.field") != c.field {
			t.Errorf("%s: %s", c.more[:20], a.body)
		}
	}
	b.want(b.do("POST", "/authorize", body(`,"webhook_secret":"`+strings.Repeat("s", 32)+`","redirect_url":"https://example.com/"`)), 200)
	b.want(b.admin("POST", "/actions/set_user_status", `{"user_id":"`+other+`","status":"disabled"}`), 200)
	b.want(b.do("POST", "/intent", intentBody(other, 5)), 400)
	b.want(b.do("POST", "/token", `{"user_id":"`+other+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 400)
	for _, member := range []string{"user_id", "pan", "cvv", "exp_month", "exp_year"} {
		full := `{"user_id":"` + user + `","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`
		if a := b.want(b.do("POST", "/token", without(t, full, member)), 400); a.text(t, "error.field") != member {
			t.Errorf("token without %s: %s", member, a.body)
		}
	}
	pending := b.want(b.do("POST", "/authorize", strings.Replace(body(""), "100", "20200", 1)), 202).text(t, "id")
	b.want(b.do("POST", "/intent/"+pending+"/cancel", ""), 200)
	if got := b.do("GET", "/intent/"+pending, "").text(t, "status"); got != "canceled" {
		t.Errorf("a pending intent that was cancelled is %s", got)
	}
}

// TestPushcashOrganisation: keys of one organisation share idempotency (section 5), and the answers of sections 7 and 8
// have their exact form.
func TestPushcashOrganisation(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{Switches: map[string]string{"organization": "Acme"}})
	user := b.payer("c-1")
	first := b.intent(user, 500, "k-1")
	b.key = "another"
	if got := b.payer("c-1"); got != user {
		t.Errorf("with another key the tag made %s, want %s", got, user)
	}
	if got := b.intent(user, 500, "k-1"); got != first {
		t.Errorf("with another key X-Idempotency-Key made %s, want %s", got, first)
	}
	if got := b.want(b.do("POST", "/keys/verify", ""), 200).body; got != `{"organization":"Acme"}` {
		t.Errorf("verify: %s", got)
	}
	a := b.want(b.do("DELETE", "/user/"+user, ""), 405)
	if a.header.Get("Allow") != "GET" || a.field(t, "error.field") != nil || a.names(t, "error") != "code field message" || !regexp.MustCompile(`^req_[0-9A-Za-z]{22}$`).MatchString(a.text(t, "request_id")) {
		t.Errorf("405: %v %s", a.header, a.body)
	}
	if a := b.want(b.do("POST", "/user", strings.Repeat(" ", 1<<20)+"{}"), 413); a.text(t, "error.code") != "validation_error" {
		t.Errorf("413: %s", a.body)
	}
	// Retried idempotently over failures before the commit (section 5): nothing was remembered.
	b.fault(`{"name":"error","count":1}`)
	b.want(b.do("POST", "/intent", intentBody(user, 5), "X-Idempotency-Key", "k-2"), 500)
	b.want(b.do("POST", "/intent", intentBody(user, 5), "X-Idempotency-Key", "k-2"), 200)
	b.wantLast("create_intent applied 200")
}

// TestPushcashQuotas: the figures of section 6 unscaled, reads too, and what has no limit.
func TestPushcashQuotas(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{})
	user := b.payer("c-1")
	for i := range 99 {
		b.want(b.do("POST", "/user", userBody(fmt.Sprint("u", i))), 200)
	}
	if a := b.want(b.do("POST", "/user", userBody("late")), 429); a.header.Get("X-RateLimit-Limit") != "100" {
		t.Errorf("headers %v", a.header)
	}
	intent := b.intent(user, 500, "k-1")
	for range 1000 {
		b.want(b.do("GET", "/intent/"+intent, ""), 200)
	}
	if a := b.want(b.do("GET", "/intent/"+intent, ""), 429); a.header.Get("X-RateLimit-Limit") != "1000" || a.header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("headers %v", a.header)
	}
	b.wantLast("get_intent rejected 429")
	b.want(b.do("GET", "/intent/list", ""), 200) // a window of its own
	b.complete(intent)
	for _, c := range []struct{ path, body string }{
		{"/intent/" + intent + "/cancel", ""}, {"/intent/" + intent + "/approve", ""}, {"/refund", `{"intent_id":"` + intent + `"}`}, {"/authorize", "{}"}, {"/keys/verify", ""},
	} {
		for range 101 {
			if a := b.do("POST", c.path, c.body); a.status == 429 || a.header.Get("X-RateLimit-Limit") != "" {
				t.Fatalf("POST %s: %d %v, want no limit", c.path, a.status, a.header)
			}
		}
	}
	// 50 rows a page.
	if a := b.want(b.do("GET", "/user/list", ""), 200); len(a.field(t, "data").([]any)) != 50 || a.field(t, "next_cursor") == nil {
		t.Errorf("a page has %d rows", len(a.field(t, "data").([]any)))
	}
}

// TestPushcashWebhookRows: section 11 beyond one declined intent.
func TestPushcashWebhookRows(t *testing.T) {
	type hook struct{ to, body, signature string }
	got := make(chan hook, 100)
	refuse := map[string]bool{"/refuse": true}
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read webhook: %v", err)
		}
		if refuse[r.URL.Path] {
			w.WriteHeader(503)
		}
		got <- hook{r.URL.Path, string(body), r.Header.Get("X-Webhook-Signature")}
	}))
	defer receiver.Close()
	next := func() hook {
		t.Helper()
		select {
		case h := <-got:
			return h
		case <-time.After(30 * time.Second):
			t.Fatal("no webhook within 30 s")
			panic("unreachable")
		}
	}
	sign := func(secret, body string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(body))
		return hex.EncodeToString(mac.Sum(nil))
	}
	o := sandbox.Options{Now: time.Now, Switches: map[string]string{"webhook_time_scale": "0.000001", "webhook_settled": "on"}}
	b := start(t, "pushcash", o)
	user := b.payer("c-1")
	own := func(path string) string {
		return b.id(b.do("POST", "/intent", with(t, intentBody(user, 90_000), "webhook_url", receiver.URL+path), "X-Idempotency-Key", path))
	}
	// Without a registration there is no secret, so no signature.
	b.complete(own("/own"))
	h := next()
	e := answer{body: h.body}
	if h.to != "/own" || h.signature != "" || e.text(t, "type") != "intent.approved" || e.text(t, "data.rail") != "card" || e.text(t, "data.status") != "approved" ||
		e.text(t, "data.limits_utilization.daily_cash_in") != "0.0500" || e.text(t, "data.limits_utilization.monthly_cash_out") != "0.0000" || e.field(t, "data.decline_category") != nil {
		t.Errorf("approved: %+v", h)
	}
	const secret = "0123456789abcdef0123456789abcdef"
	b.want(b.do("POST", "/webhook/register", `{"url":"`+receiver.URL+`/old"}`), 200)
	b.want(b.do("POST", "/webhook/register", `{"url":"`+receiver.URL+`/global","secret":"`+secret+`"}`), 200)
	b.want(b.do("POST", "/webhook/register", `{"url":"`+receiver.URL+`/x","secret":"short"}`), 400)
	mine := own("/mine")
	b.complete(mine)
	if h := next(); h.to != "/mine" || h.signature != sign(secret, h.body) {
		t.Errorf("an intent's own URL wins and the registered secret signs: %+v", h)
	}
	global := b.intent(user, 5, "k-global")
	b.complete(global)
	if h := next(); h.to != "/global" || h.signature != sign(secret, h.body) {
		t.Errorf("the last registration counts: %+v", h)
	}
	b.want(b.do("POST", "/simulate/settlement", `{"intent_id":"`+global+`"}`), 200)
	if e := (answer{body: next().body}); e.text(t, "type") != "intent.settled" || e.text(t, "data.transaction.type") != "intent" {
		t.Errorf("settled: %s", e.body)
	}
	// POST /authorize has a secret of its own, and a tag.
	token := b.want(b.do("POST", "/token", `{"user_id":"`+user+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 200).text(t, "token")
	other := strings.Repeat("z", 32)
	b.want(b.do("POST", "/authorize", `{"token":"`+token+`","direction":"cash_out","approval_mode":"manual","amount":9,"currency":"USD","tag":"t-1","webhook_url":"`+receiver.URL+`/auth","webhook_secret":"`+other+`"}`), 200)
	h = next()
	if e := (answer{body: h.body}); h.to != "/auth" || h.signature != sign(other, h.body) || e.text(t, "data.tag") != "t-1" || e.text(t, "type") != "intent.approved" || e.text(t, "data.status") != "pending" || e.field(t, "data.idempotency_key") != nil {
		t.Errorf("authorize, held for review: %+v", h)
	}
	// Six attempts, then it is dropped; each is stamped anew.
	b.complete(own("/refuse"))
	stamps := map[string]bool{}
	for range 6 {
		if h := next(); h.to != "/refuse" {
			t.Errorf("webhook to %s", h.to)
		} else {
			stamps[(answer{body: h.body}).text(t, "timestamp")] = true
		}
	}
	if len(stamps) < 2 {
		t.Errorf("six attempts have %d timestamps", len(stamps))
	}
	deadline := time.Now().Add(30 * time.Second)
	for b.s.Counters()["webhooks.dropped"] == 0 {
		if time.Now().After(deadline) {
			t.Fatalf("not dropped after six attempts: %v", b.s.Counters())
		}
		time.Sleep(time.Millisecond)
	}

	o.Switches = map[string]string{"webhook_time_scale": "0.5", "webhook_duplicates": "on", "webhook_reorder": "on"}
	b = start(t, "pushcash", o)
	user = b.payer("c-1")
	b.want(b.do("POST", "/webhook/register", `{"url":"`+receiver.URL+`/both"}`), 200)
	first, second := b.intent(user, 5, "k-1"), b.intent(user, 6, "k-2")
	b.complete(first)
	b.complete(second)
	var order []string
	for range 4 {
		order = append(order, (answer{body: next().body}).text(t, "data.id"))
	}
	if want := []string{second, second, first, first}; !slices.Equal(order, want) {
		t.Errorf("duplicates and reordering: %v, want %v", order, want)
	}
}

// TestPushcashDrift: section 12, no deprecation headers, and unknown fields and values by the fault.
func TestPushcashDrift(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{})
	user := b.payer("c-1")
	intent := b.intent(user, 5, "k-1")
	b.complete(intent)
	a := b.want(b.do("GET", "/intent/"+intent, ""), 200)
	for _, name := range []string{"Deprecation", "Sunset", "Warning", "Link"} {
		if a.header.Get(name) != "" {
			t.Errorf("header %s: %v", name, a.header)
		}
	}
	b.fault(`{"name":"drift","missing":"user_id","retyped":"amount"}`)
	a = b.want(b.do("GET", "/intent/"+intent, ""), 200)
	if a.text(t, "rail") != "drift_rail" || a.text(t, "type") != "drift_type" || a.text(t, "payment_credential.card.brand") != "drift_brand" ||
		a.text(t, "status") != "approved" || a.field(t, "user_id") != nil || a.text(t, "amount") != "drift 5" || a.field(t, "drift_field.added") != true {
		t.Errorf("drift: %s", a.body)
	}
}
