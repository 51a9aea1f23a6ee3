package sandbox_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/schema"
)

// operations are those of a built-in profile, with all that its variables can switch on.
func operations(t *testing.T, name string, vars map[string]string) map[string]*profile.Operation {
	t.Helper()
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(profile.Options{Connector: name, Environment: "sandbox", Vars: vars, Schemas: set, Secrets: []string{"api_key"}})
	if err != nil {
		t.Fatal(err)
	}
	return c.Operations
}

// A row is one of a vendor's sheet: what the sandbox answers, and what the profile makes of it.
type row struct {
	operation, path, body string
	status                int
	verdict               profile.Verdict
}

func judged(t *testing.T, ops map[string]*profile.Operation, b *bundle, r row, key string) {
	t.Helper()
	op := ops[r.operation]
	a := b.do(op.Method, r.path, r.body, "X-Idempotency-Key", key, "Idempotency-Key", key)
	if a.err != nil || a.status != r.status {
		t.Errorf("%s %s: answer %d, %v %s, want %d", r.operation, r.path, a.status, a.err, a.body, r.status)
		return
	}
	if j := op.Judge(&profile.Answer{Status: a.status, Header: a.header, Body: []byte(a.body), At: time.Now()}); j.Verdict != r.verdict {
		t.Errorf("%s: %d %s reads as %s (%s), want %s", r.operation, a.status, a.body, j.Verdict, j.Reason, r.verdict)
	}
}

// Each operation of the Push Cash profile with each status row of its sheet (section 7), as the sandbox answers it.
func TestPushcashRowsAreJudged(t *testing.T) {
	ops := operations(t, "pushcash", map[string]string{"collect": "authorize"})
	b := start(t, "pushcash", sandbox.Options{LimitScale: 1000})
	user := b.payer("c-1")
	intent := b.want(b.do("POST", "/intent", intentBody(user, 1000), "X-Idempotency-Key", "k"), 200).text(t, "id")
	open := b.want(b.do("POST", "/intent", intentBody(user, 1100), "X-Idempotency-Key", "o"), 200).text(t, "id")
	b.want(b.admin("POST", "/actions/complete_intent", `{"intent_id":"`+intent+`"}`), 200)
	authorize := func(amount int) string { // a token is good once
		card := b.want(b.do("POST", "/token", `{"user_id":"`+user+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 200).text(t, "token")
		return fmt.Sprintf(`{"token":%q,"direction":"cash_in","amount":%d,"currency":"USD"}`, card, amount)
	}
	good := map[string]row{
		"create_user":   {"create_user", "/user", userBody("c-2"), 200, profile.Accept},
		"create_intent": {"create_intent", "/intent", intentBody(user, 1200), 200, profile.Accept},
		"cancel_intent": {"cancel_intent", "/intent/" + open + "/cancel", "", 200, profile.Accept},
		"authorize":     {"authorize", "/authorize", authorize(100), 200, profile.Accept},
		"create_refund": {"create_refund", "/refund", `{"intent_id":"` + intent + `"}`, 200, profile.Accept},
	}
	if got, want := slices.Sorted(maps.Keys(good)), slices.Sorted(maps.Keys(ops)); !slices.Equal(got, want) {
		t.Fatalf("the profile has the operations %v, the table %v", want, got)
	}
	for i, name := range slices.Sorted(maps.Keys(good)) {
		for status, verdict := range map[int]profile.Verdict{400: profile.Reject, 401: profile.Halt, 403: profile.Halt, 404: profile.Reject, 405: profile.Gone, 500: profile.Retry, 503: profile.Retry} {
			fault := "reject"
			switch {
			case status >= 500:
				fault = "error"
			case name == "cancel_intent" && status == 400:
				verdict = profile.Conclude
			}
			b.want(b.admin("POST", "/faults", fmt.Sprintf(`{"name":%q,"status":%d}`, fault, status)), 200)
			r := good[name]
			r.status, r.verdict = status, verdict
			judged(t, ops, b, r, fmt.Sprint("f", i, status))
			b.want(b.admin("POST", "/faults", `{"name":"`+fault+`","on":false}`), 200)
		}
		b.want(b.admin("POST", "/faults", `{"name":"throttle"}`), 200)
		r := good[name]
		r.status, r.verdict = 429, profile.Throttle
		judged(t, ops, b, r, fmt.Sprint("t", i))
		b.want(b.admin("POST", "/faults", `{"name":"throttle","on":false}`), 200)
	}
	for i, r := range []row{
		{"create_user", "/user", "{}", 400, profile.Reject},
		{"create_intent", "/intent", intentBody("user_none", 100), 404, profile.Reject},
		{"create_intent", "/intent", intentBody(user, 0), 400, profile.Reject},
		{"create_intent", "/intent", intentBody(user, 50002), 500, profile.Retry},
		{"create_intent", "/intent", intentBody(user, 42901), 429, profile.Throttle},
		{"cancel_intent", "/intent/intent_none/cancel", "", 404, profile.Reject},
		{"cancel_intent", "/intent/" + intent + "/cancel", "", 400, profile.Conclude},
		{"authorize", "/authorize", authorize(20200), 202, profile.AcceptPending},
		{"authorize", "/authorize", authorize(40001), 401, profile.Reject}, // declined, not a bad key
		{"authorize", "/authorize", `{"credential_id":"cred_none","direction":"cash_in","amount":1,"currency":"USD"}`, 404, profile.Reject},
		{"create_refund", "/refund", `{"intent_id":"intent_none"}`, 404, profile.Reject},
		{"create_refund", "/refund", `{}`, 400, profile.Reject},
	} {
		judged(t, ops, b, r, fmt.Sprint("s", i))
	}
	for i, name := range slices.Sorted(maps.Keys(good)) {
		judged(t, ops, b, good[name], fmt.Sprint("g", i))
	}
}

// Each operation of the FinFusion profile, with the codes of its sheet (section 7) as the sandbox answers them.
func TestFinfusionRowsAreJudged(t *testing.T) {
	ops := operations(t, "finfusion", map[string]string{"idempotency": "on", "extensions": "on"})
	b := start(t, "finfusion", switches("restricted_permissions", "accounts"))
	b.key = "dev_" + strings.Repeat("a", 32)
	cust := b.want(b.do("POST", "/v2/customers", customerBody("c-0")), 200).text(t, "id")
	if got, want := slices.Sorted(maps.Keys(ops)), []string{"create_customer", "create_customer_probe", "create_payment", "create_payment_probe", "delete_customer", "update_customer"}; !slices.Equal(got, want) {
		t.Fatalf("the profile has the operations %v, the table %v", got, want)
	}
	for i, r := range []row{
		{"create_customer", "/v2/customers", customerBody("c-1"), 200, profile.Accept},
		{"create_customer_probe", "/v2/customers?metadata[external_id]=c-1&limit=1", "", 200, profile.Accept},
		{"create_payment_probe", "/v2/payments?metadata[external_id]=i-1&limit=1", "", 200, profile.Accept},
		{"create_payment_probe", "/v2/payments?limit=0", "", 400, profile.Reject},
		{"create_customer", "/v2/customers", "{}", 400, profile.Reject},
		{"create_customer", "/v2/customers", with(t, customerBody("c"), "email", "a@fail.test"), 500, profile.Retry},
		{"update_customer", "/v2/customers/" + cust, `{"name":"Other"}`, 200, profile.Accept},
		{"update_customer", "/v2/customers/cust_none", "{}", 400, profile.Reject},
		{"create_payment", "/v2/payments", paymentBody(1000, "i-1"), 200, profile.Accept},
		{"create_payment", "/v2/payments", paymentBody(20200, "i-2"), 200, profile.AcceptPending},
		{"create_payment", "/v2/payments", paymentBody(40200, "i-3"), 402, profile.Reject},
		{"create_payment", "/v2/payments", paymentBody(50001, "i-4"), 500, profile.Retry},
		{"create_payment", "/v2/payments", paymentBody(50300, "i-5"), 503, profile.Retry},
		{"create_payment", "/v2/payments", paymentBody(42900, "i-6"), 429, profile.Throttle},
		{"create_payment", "/v2/payments", "{}", 400, profile.Reject},
		{"delete_customer", "/v2/customers/" + cust, "", 200, profile.Accept},
		{"delete_customer", "/v2/customers/" + cust, "", 400, profile.Duplicate},
	} {
		judged(t, ops, b, r, fmt.Sprint("k", i))
	}
	good := map[string]row{
		"create_customer": {operation: "create_customer", path: "/v2/customers", body: customerBody("c-9")},
		"update_customer": {operation: "update_customer", path: "/v2/customers/" + cust, body: "{}"},
		"delete_customer": {operation: "delete_customer", path: "/v2/customers/" + cust},
		"create_payment":  {operation: "create_payment", path: "/v2/payments", body: paymentBody(1001, "i-9")},
	}
	for i, name := range slices.Sorted(maps.Keys(good)) {
		for _, f := range []struct {
			fault   string
			status  int
			verdict profile.Verdict
		}{
			{`"unauthorized"`, 401, profile.Halt}, {`"throttle"`, 429, profile.Throttle}, {`"error","status":500`, 500, profile.Retry}, {`"error","status":503`, 503, profile.Retry}, {`"reject"`, 400, profile.Reject},
		} {
			b.want(b.admin("POST", "/faults", `{"name":`+f.fault+`}`), 200)
			r := good[name]
			r.status, r.verdict = f.status, f.verdict
			judged(t, ops, b, r, fmt.Sprint("f", i, f.status))
			fault, _, _ := strings.Cut(f.fault, ",")
			b.want(b.admin("POST", "/faults", `{"name":`+fault+`,"on":false}`), 200)
		}
	}
	// A key without the permission, another body under a key, a key of another kind.
	b.key = "rest_x"
	judged(t, ops, b, row{"create_payment", "/v2/payments", paymentBody(1, "i"), 401, profile.Gone}, "r")
	b.key = "prod_" + strings.Repeat("a", 32)
	judged(t, ops, b, row{"create_customer", "/v2/customers", customerBody("c"), 401, profile.Halt}, "p")
	b.key = "dev_" + strings.Repeat("a", 32)
	judged(t, ops, b, row{"create_payment", "/v2/payments", paymentBody(7, "i-7"), 200, profile.Accept}, "same")
	judged(t, ops, b, row{"create_payment", "/v2/payments", paymentBody(8, "i-7"), 409, profile.Retry}, "same")
}
