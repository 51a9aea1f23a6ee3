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
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
)

func intentBody(user string, amount int) string {
	return fmt.Sprintf(`{"user_id":"%s","direction":"cash_in","amount":%d,"currency":"USD"}`, user, amount)
}

// without drops one member from a JSON object; member is a path of at most two names.
func without(t *testing.T, body, member string) string {
	t.Helper()
	return with(t, body, member, nil)
}

// with sets one member of a JSON object, nil drops it.
func with(t *testing.T, body, member string, value any) string {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(body), &m); err != nil {
		t.Fatal(err)
	}
	at, name := m, member
	if outer, inner, ok := strings.Cut(member, "."); ok {
		at, name = m[outer].(map[string]any), inner
	}
	if value == nil {
		delete(at, name)
	} else {
		at[name] = value
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPushcashUserValidation(t *testing.T) {
	strict := start(t, "pushcash", sandbox.Options{LimitScale: 100})
	lean := start(t, "pushcash", sandbox.Options{LimitScale: 100, Switches: map[string]string{"profile": "lean"}})
	good := userBody("t-1")
	for _, c := range []struct {
		name, field  string
		body         string
		strict, lean int
	}{
		{"complete", "", good, 200, 200},
		{"unknown field", "", with(t, good, "nickname", "x"), 200, 200},
		{"no name", "name", without(t, good, "name"), 400, 400},
		{"name is text", "name", with(t, good, "name", "Ada"), 400, 400},
		{"no first name", "name.first", without(t, good, "name.first"), 400, 400},
		{"empty last name", "name.last", with(t, good, "name.last", ""), 400, 400},
		{"no address", "address", without(t, good, "address"), 400, 400},
		{"no street", "address.address_line_1", without(t, good, "address.address_line_1"), 400, 400},
		{"no locality", "address.locality", without(t, good, "address.locality"), 400, 400},
		{"long state", "address.administrative_area", with(t, good, "address.administrative_area", "Texas"), 400, 400},
		{"postal code with four", "", with(t, good, "address.postal_code", "78701-1234"), 200, 200},
		{"short postal code", "address.postal_code", with(t, good, "address.postal_code", "7870"), 400, 400},
		{"postal code without hyphen", "address.postal_code", with(t, good, "address.postal_code", "7870112345"), 400, 400},
		{"not in the US", "address.country", with(t, good, "address.country", "CA"), 400, 400},
		{"no email", "email", without(t, good, "email"), 400, 400},
		{"bad email", "email", with(t, good, "email", "ada@home"), 400, 400},
		{"email is a number", "email", with(t, good, "email", 3), 400, 400},
		{"email under another name", "email", with(t, without(t, good, "email"), "Email", "a@b.cc"), 400, 400},
		{"no date of birth", "date_of_birth", without(t, good, "date_of_birth"), 400, 200},
		{"bad date of birth", "date_of_birth", with(t, good, "date_of_birth", "10.12.1990"), 400, 400},
		{"no government id", "government_id", without(t, good, "government_id"), 400, 200},
		{"bad type of id", "government_id.type", with(t, good, "government_id.type", "library_card"), 400, 400},
		{"last4 too long", "government_id.last4", with(t, good, "government_id.last4", "12345"), 400, 400},
		{"licence without state", "government_id.state", with(t, good, "government_id.type", "drivers_license"), 400, 400},
		{"not verified is not said", "identity_verified", without(t, good, "identity_verified"), 400, 200},
		{"verified is text", "identity_verified", with(t, good, "identity_verified", "yes"), 400, 400},
		{"tag too long", "tag", with(t, good, "tag", strings.Repeat("ü", 256)), 400, 400},
		{"tag of 255", "", with(t, good, "tag", strings.Repeat("ü", 255)), 200, 200},
		{"tag is a number", "tag", with(t, good, "tag", 1), 400, 400},
		{"empty tag", "tag", with(t, good, "tag", ""), 400, 400},
		{"no JSON", "", "x", 400, 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			for b, want := range map[*bundle]int{strict: c.strict, lean: c.lean} {
				body := strings.Replace(c.body, `"t-1"`, strconv.Quote(c.name), 1) // a tag of its own
				a := b.want(b.do("POST", "/user", body), want)
				if want == 400 {
					if got, _ := a.field(t, "error.field").(string); got != c.field || a.text(t, "error.code") != "validation_error" {
						t.Errorf("%s: error %s, want field %q", body, a.body, c.field)
					}
					if !strings.HasPrefix(a.text(t, "request_id"), "req_") {
						t.Errorf("no request id in %s", a.body)
					}
					b.wantLast("create_user rejected 400")
				} else if !strings.HasPrefix(a.text(t, "id"), "user_") || len(a.text(t, "id")) != 27 {
					t.Errorf("answer %s", a.body)
				}
			}
		})
	}
}

func TestPushcashStatusRows(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 10})
	user := b.want(b.do("POST", "/user", userBody("c-1")), 200).text(t, "id")
	other := b.want(b.do("POST", "/user", userBody("c-2")), 200).text(t, "id")
	b.want(b.admin("POST", "/actions/set_user_status", `{"user_id":"`+other+`","status":"suspended"}`), 200)
	open := b.want(b.do("POST", "/intent", intentBody(user, 100)), 200).text(t, "id")
	for _, c := range []struct {
		method, path, body string
		status             int
		code               string
	}{
		{"POST", "/keys/verify", "", 200, ""},
		{"GET", "/user/" + user, "", 200, ""},
		{"GET", "/user/user_none", "", 404, "not_found"},
		{"GET", "/user/" + user + "/credential/list", "", 200, ""},
		{"GET", "/user/user_none/credential/list", "", 404, "not_found"},
		{"GET", "/user/" + user + "/credentials", "", 404, "not_found"},
		{"PUT", "/user/" + user, "{}", 405, "method_not_allowed"},
		{"PATCH", "/user/" + user, "{}", 405, "method_not_allowed"},
		{"DELETE", "/user/" + user, "", 405, "method_not_allowed"},
		{"GET", "/user", "", 405, "method_not_allowed"},
		{"GET", "/intent/" + open, "", 200, ""},
		{"GET", "/intent/intent_none", "", 404, "not_found"},
		{"POST", "/intent", intentBody("user_none", 100), 404, "not_found"},
		{"POST", "/intent", intentBody(other, 100), 400, "validation_error"},
		{"POST", "/intent", intentBody(user, 0), 400, "validation_error"},
		{"POST", "/intent", intentBody(user, 1800001), 400, "validation_error"},
		{"POST", "/intent", intentBody(user, 1800000), 200, ""},
		{"POST", "/intent", strings.Replace(intentBody(user, 77), "77", "77.0", 1), 400, "validation_error"},
		{"POST", "/intent", strings.Replace(intentBody(user, 77), "77", `"77"`, 1), 400, "validation_error"},
		{"POST", "/intent", strings.Replace(intentBody(user, 78), "USD", "EUR", 1), 400, "validation_error"},
		{"POST", "/intent", strings.Replace(intentBody(user, 78), "cash_in", "sideways", 1), 400, "validation_error"},
		{"POST", "/intent", with(t, intentBody(user, 78), "approval_mode", "manual"), 400, "validation_error"},
		{"POST", "/intent", with(t, intentBody(user, 78), "approval_mode", "maybe"), 400, "validation_error"},
		{"POST", "/intent", with(t, intentBody(user, 78), "webhook_url", "http://example.com/x"), 400, "validation_error"},
		{"POST", "/intent", with(t, intentBody(user, 78), "redirect_url", "nowhere"), 400, "validation_error"},
		{"POST", "/intent", with(t, intentBody(user, 78), "account_id", "account_x"), 400, "validation_error"},
		{"POST", "/intent", without(t, intentBody(user, 78), "user_id"), 400, "validation_error"},
		{"POST", "/intent/intent_none/cancel", "", 404, "not_found"},
		{"PUT", "/intent/" + open + "/cancel", "", 405, "method_not_allowed"},
		{"POST", "/intent/intent_none/approve", "", 404, "not_found"},
		{"POST", "/intent/" + open + "/approve", "", 400, "validation_error"},
		{"POST", "/refund", `{"intent_id":"intent_none"}`, 404, "not_found"},
		{"POST", "/refund", `{"intent_id":"` + open + `"}`, 400, "validation_error"},
		{"POST", "/refund", `{}`, 400, "validation_error"},
		{"GET", "/refund/refund_none", "", 404, "not_found"},
		{"GET", "/transaction/list", "", 200, ""},
		{"GET", "/transaction/txn_none", "", 404, "not_found"},
		{"GET", "/transfer/list", "", 200, ""},
		{"GET", "/transfer/transfer_none", "", 404, "not_found"},
		{"GET", "/account/list", "", 200, ""},
		{"GET", "/account/account_none", "", 404, "not_found"},
		{"GET", "/dispute/list", "", 200, ""},
		{"GET", "/dispute/dispute_none", "", 404, "not_found"},
		{"POST", "/simulate/settlement", `{"intent_id":"` + open + `"}`, 400, "validation_error"},
		{"POST", "/simulate/dispute", `{"intent_id":"intent_none","code":"1"}`, 404, "not_found"},
		{"POST", "/simulate/dispute/resolve", `{"dispute_id":"dispute_none","result":"won"}`, 404, "not_found"},
		{"POST", "/simulate/dispute/resolve", `{"dispute_id":"d","result":"draw"}`, 400, "validation_error"},
		{"POST", "/token", `{"user_id":"` + user + `","pan":"4111111111111111","cvv":"1","exp_month":1,"exp_year":2030}`, 400, "validation_error"},
		{"POST", "/authorize", `{"token":"token_none","direction":"cash_in","amount":1,"currency":"USD"}`, 400, "validation_error"},
		{"POST", "/authorize", `{"credential_id":"cred_none","direction":"cash_in","amount":1,"currency":"USD"}`, 404, "not_found"},
		{"POST", "/authorize", `{"direction":"cash_in","amount":1,"currency":"USD"}`, 400, "validation_error"},
		{"POST", "/webhook/register", `{"url":"ftp://x"}`, 400, "validation_error"},
		{"POST", "/webhook/register", `{"url":"https://hooks.example.com/a"}`, 200, ""},
		{"GET", "/invoice/list", "", 404, "not_found"},
		{"POST", "/contract", "{}", 404, "not_found"},
		{"GET", "/", "", 404, "not_found"},
	} {
		a := b.do(c.method, c.path, c.body)
		if a.err != nil || a.status != c.status {
			t.Errorf("%s %s %s: status %d %v %s, want %d", c.method, c.path, c.body, a.status, a.err, a.body, c.status)
			continue
		}
		if c.code != "" && a.text(t, "error.code") != c.code {
			t.Errorf("%s %s: error %s, want code %s", c.method, c.path, a.body, c.code)
		}
		es := b.effects(0)
		if e := es[len(es)-1]; (e.Effect == "rejected") != (c.status >= 400) || e.Status != c.status {
			t.Errorf("%s %s is logged as %+v", c.method, c.path, e)
		}
	}
	a := b.want(b.do("GET", "/user/"+user, ""), 200)
	for _, path := range []string{"id", "status", "name.first", "address.postal_code", "email", "date_of_birth", "government_id.last4", "limits.currency", "created_at"} {
		if a.text(t, path) == "" {
			t.Errorf("user without %s: %s", path, a.body)
		}
	}
	if a.text(t, "tag") != "c-1" || a.field(t, "phone_number") != nil || a.text(t, "created_at") != "2026-03-01T12:00:00.000Z" {
		t.Errorf("user: %s", a.body)
	}
}

func TestPushcashKeysAndAllowlist(t *testing.T) {
	c := newClock()
	b := start(t, "pushcash", sandbox.Options{Now: c.now, Keys: []sandbox.Key{
		{Secret: "old", NotAfter: c.now().Add(time.Hour)}, {Secret: "new", NotBefore: c.now().Add(30 * time.Minute)}}})
	status := func(key string) int {
		b.key = key
		return b.do("POST", "/keys/verify", "").status
	}
	for _, at := range []struct {
		after    time.Duration
		old, new int
	}{{0, 200, 401}, {30 * time.Minute, 200, 200}, {30 * time.Minute, 401, 200}} {
		c.add(at.after)
		if o, n := status("old"), status("new"); o != at.old || n != at.new {
			t.Errorf("at %v: old key %d, new key %d, want %d and %d", c.now(), o, n, at.old, at.new)
		}
	}
	b.key = "wrong"
	a := b.want(b.do("GET", "/user/list", ""), 401)
	if strings.HasPrefix(a.body, `{"id"`) || a.text(t, "error.code") != "unauthorized" {
		t.Errorf("a bad key must not look like a decline: %s", a.body)
	}
	b.wantLast("list_users rejected 401")

	blocked := start(t, "pushcash", sandbox.Options{Switches: map[string]string{"ip_allowlist": "10.0.0.0/8"}})
	if a := blocked.want(blocked.do("POST", "/user", userBody("x")), 403); a.text(t, "error.code") != "ip_not_allowed" {
		t.Errorf("blocked write: %s", a.body)
	}
	blocked.want(blocked.do("GET", "/user/list", ""), 200)
	allowed := start(t, "pushcash", sandbox.Options{Switches: map[string]string{"ip_allowlist": "10.0.0.0/8,127.0.0.1"}})
	allowed.want(allowed.do("POST", "/user", userBody("x")), 200)
}

func TestPushcashIdempotency(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 10})
	post := func(path, body string, headers ...string) (id, log string) {
		t.Helper()
		return b.want(b.do("POST", path, body, headers...), 200).text(t, "id"), b.last()
	}
	same := func(what, a, b string, want bool) {
		t.Helper()
		if (a == b) != want {
			t.Errorf("%s: ids %s and %s, want the same: %v", what, a, b, want)
		}
	}
	u1, log := post("/user", userBody("c-1"))
	if log != "create_user applied 200" {
		t.Errorf("log %q", log)
	}
	u2, log := post("/user", userBody("c-1"))
	same("same tag", u1, u2, true)
	if log != "create_user replayed 200" {
		t.Errorf("log %q", log)
	}
	if e := b.effects(1)[0]; e.Object != u1 || e.Reference != "c-1" || e.IdempotencyKey != "c-1" {
		t.Errorf("log entry %+v", e)
	}
	u3, _ := post("/user", userBody("c-2"), "X-Idempotency-Key", "h")
	u4, _ := post("/user", userBody("c-3"), "X-Idempotency-Key", "h")
	same("the header is not read on /user", u3, u4, false)
	if got := b.counter("deprecated_idempotency_header"); got != 2 {
		t.Errorf("deprecated_idempotency_header = %d, want 2", got)
	}
	untagged := without(t, userBody("x"), "tag")
	u5, _ := post("/user", untagged)
	u6, _ := post("/user", untagged)
	same("identical body without a tag", u5, u6, true)
	u7, _ := post("/user", with(t, untagged, "email", "b@example.com"))
	same("another body without a tag", u5, u7, false)

	if got := b.counter("idempotency_body_mismatch"); got != 0 {
		t.Errorf("idempotency_body_mismatch = %d before any", got)
	}
	u8, _ := post("/user", with(t, userBody("c-1"), "email", "b@example.com"))
	same("same tag, another body", u1, u8, true)
	// Even a body that would be refused gets the original answer.
	u9, _ := post("/user", `{"tag":"c-1"}`)
	same("same tag, invalid body", u1, u9, true)
	i1, _ := post("/intent", intentBody(u1, 100), "X-Idempotency-Key", "k-1")
	i2, _ := post("/intent", intentBody(u1, 100), "X-Idempotency-Key", "k-1")
	same("same header", i1, i2, true)
	b.wantLast("create_intent replayed 200")
	i3, _ := post("/intent", intentBody(u1, 200), "X-Idempotency-Key", "k-1")
	same("same header, another body", i1, i3, true)
	if got := b.counter("idempotency_body_mismatch"); got != 3 {
		t.Errorf("idempotency_body_mismatch = %d, want 3", got)
	}
	i4, _ := post("/intent", intentBody(u1, 100), "X-Idempotency-Key", "k-2")
	same("another header, same body", i1, i4, false)
	i5, _ := post("/intent", intentBody(u1, 100))
	same("no header is not a header", i1, i5, false)
	i6, _ := post("/intent", intentBody(u1, 100))
	same("identical body without a header", i5, i6, true)
	b.want(b.do("POST", "/intent", intentBody(u1, 100), "X-Idempotency-Key", strings.Repeat("k", 256)), 400)

	a := b.want(b.do("GET", "/intent/"+i1, ""), 200)
	if a.text(t, "idempotency_key") != "k-1" || a.text(t, "status") != "created" || a.field(t, "amount") != 100.0 {
		t.Errorf("intent: %s", a.body)
	}
	if es := b.effects(0); es[len(es)-1].Reference != "k-1" || es[len(es)-1].Effect != "read" {
		t.Errorf("log entry %+v", es[len(es)-1])
	}

	// A failed first attempt is not remembered.
	b.want(b.do("POST", "/intent", intentBody("user_none", 100), "X-Idempotency-Key", "k-3"), 404)
	i7, log := post("/intent", intentBody(u1, 100), "X-Idempotency-Key", "k-3")
	if log != "create_intent applied 200" || i7 == i1 {
		t.Errorf("after a failed first attempt: %s %s", i7, log)
	}

	off := start(t, "pushcash", sandbox.Options{Switches: map[string]string{"dedupe_identical_body": "off"}})
	o1 := off.want(off.do("POST", "/user", untagged), 200).text(t, "id")
	o2 := off.want(off.do("POST", "/user", untagged), 200).text(t, "id")
	same("identical body, switched off", o1, o2, false)
}

func TestPushcashKeyTTL(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{Switches: map[string]string{"key_ttl": "1h"}})
	u := b.want(b.do("POST", "/user", userBody("c")), 200).text(t, "id")
	post := func() string {
		return b.want(b.do("POST", "/intent", intentBody(u, 5), "X-Idempotency-Key", "k"), 200).text(t, "id")
	}
	first := post()
	b.clock.add(59 * time.Minute)
	if got := post(); got != first {
		t.Errorf("within the TTL: %s, want %s", got, first)
	}
	b.clock.add(time.Minute)
	if got := post(); got == first {
		t.Error("after the TTL the key is still remembered")
	}
}

// TestPushcashConcurrentDuplicates: of many identical requests at once exactly one creates, all get its id.
func TestPushcashConcurrentDuplicates(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 100})
	const n = 24
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			var v struct{ ID string }
			if err := json.Unmarshal([]byte(b.do("POST", "/user", userBody("one")).body), &v); err != nil {
				t.Error(err)
			}
			ids[i] = v.ID
		})
	}
	wg.Wait()
	if slices.Sort(ids); ids[0] != ids[n-1] || ids[0] == "" {
		t.Errorf("ids %v", ids)
	}
	counts := map[string]int{}
	for _, e := range b.effects(0) {
		counts[string(e.Effect)]++
	}
	if counts["applied"] != 1 || counts["replayed"] != n-1 {
		t.Errorf("effects %v", counts)
	}
}

func TestPushcashLimits(t *testing.T) {
	reset := func(a answer) int64 {
		n, _ := strconv.ParseInt(a.header.Get("X-RateLimit-Reset"), 10, 64)
		return n
	}
	b := start(t, "pushcash", sandbox.Options{LimitScale: 0.03}) // 3 creates, 30 reads
	began := b.clock.now()
	for i := range 3 {
		a := b.want(b.do("POST", "/user", userBody(fmt.Sprint(i))), 200)
		if a.header.Get("X-RateLimit-Limit") != "3" || a.header.Get("X-RateLimit-Remaining") != fmt.Sprint(2-i) || reset(a) != began.Unix()+3600 {
			t.Errorf("headers of request %d: %v", i, a.header)
		}
		b.clock.add(10 * time.Minute)
	}
	a := b.want(b.do("POST", "/user", userBody("0")), 429) // a replay counts too, so it is refused
	if a.text(t, "error.code") != "rate_limited" || a.header.Get("Retry-After") != "" || a.header.Get("X-RateLimit-Remaining") != "0" || reset(a) != began.Unix()+3600 {
		t.Errorf("429: %v %s", a.header, a.body)
	}
	b.wantLast("create_user rejected 429")
	user := b.want(b.do("GET", "/user/list", ""), 200)
	if user.header.Get("X-RateLimit-Limit") != "30" {
		t.Errorf("read limit: %v", user.header)
	}
	// Its own window: an intent is not a user.
	b.want(b.do("POST", "/intent", `{}`), 400)
	// 429s do not count: the first slot is free one hour after the first request, not later.
	b.clock.add(time.Unix(reset(a), 0).Sub(b.clock.now()) - time.Millisecond)
	b.want(b.do("POST", "/user", userBody("z")), 429)
	b.clock.add(time.Millisecond)
	b.want(b.do("POST", "/user", userBody("z")), 200)
	b.want(b.do("POST", "/user", userBody("y")), 429)
	// Not limited, and without headers.
	for range 50 {
		if a := b.want(b.do("POST", "/keys/verify", ""), 200); a.header.Get("X-RateLimit-Limit") != "" {
			t.Fatalf("verify has rate-limit headers: %v", a.header)
		}
	}
	if got := b.counter("rate_limited"); got != 3 {
		t.Errorf("rate_limited = %d, want 3", got)
	}
	// Another key has a window of its own.
	b.key = "another"
	b.want(b.do("POST", "/user", userBody("x")), 200)

	// The 429 of a magic amount does not count either.
	magic := start(t, "pushcash", sandbox.Options{LimitScale: 0.01})
	payer := magic.want(magic.do("POST", "/user", userBody("0")), 200).text(t, "id")
	magic.want(magic.do("POST", "/intent", intentBody(payer, 42901)), 429)
	magic.want(magic.do("POST", "/intent", intentBody(payer, 42901)), 200)
	magic.want(magic.do("POST", "/intent", intentBody(payer, 42901)), 429)

	class := start(t, "pushcash", sandbox.Options{LimitScale: 0.03, Switches: map[string]string{"rate_scope": "class", "retry_after": "on"}})
	class.want(class.do("POST", "/user", userBody("0")), 200)
	class.want(class.do("POST", "/intent", `{}`), 400) // a 400 counts
	class.want(class.do("POST", "/user", userBody("0")), 200)
	if a := class.want(class.do("POST", "/intent", `{}`), 429); a.header.Get("Retry-After") != "3600" {
		t.Errorf("Retry-After: %v", a.header)
	}
	off := start(t, "pushcash", sandbox.Options{LimitScale: 0.001, Switches: map[string]string{"limits": "off"}})
	off.want(off.do("POST", "/user", userBody("0")), 200)
	if a := off.want(off.do("POST", "/user", userBody("1")), 200); a.header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("limits are off: %v", a.header)
	}
}

func TestPushcashMagicAmountsOfIntents(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 10, Switches: map[string]string{"complete_after": "1h"}})
	user := b.want(b.do("POST", "/user", userBody("c")), 200).text(t, "id")
	post := func(amount int) answer {
		return b.do("POST", "/intent", intentBody(user, amount), "X-Idempotency-Key", fmt.Sprint("k", amount))
	}
	for _, c := range []struct {
		amount              int
		first               int // status, 0 = the connection is closed
		log                 string
		repeat              int
		repeatLog           string
		status, declineness string // an hour later
	}{
		{1000, 200, "create_intent applied 200", 200, "create_intent replayed 200", "approved", ""},
		{40001, 200, "create_intent applied 200", 200, "create_intent replayed 200", "declined", "insufficient_funds"},
		{40002, 200, "create_intent applied 200", 200, "create_intent replayed 200", "declined", "fraud_risk"},
		{20200, 200, "create_intent applied 200", 200, "create_intent replayed 200", "pending", ""},
		{50001, 500, "create_intent applied 500", 200, "create_intent replayed 200", "approved", ""},
		{50002, 500, "create_intent rejected 500", 500, "create_intent rejected 500", "", ""},
		{50401, 0, "create_intent applied 0", 200, "create_intent replayed 200", "approved", ""},
		{42901, 429, "create_intent rejected 429", 200, "create_intent applied 200", "approved", ""},
	} {
		t.Run(fmt.Sprint(c.amount), func(t *testing.T) {
			a := post(c.amount)
			if a.status != c.first || (a.err == nil) != (c.first != 0) {
				t.Fatalf("first: %d %v, want %d", a.status, a.err, c.first)
			}
			b.wantLast(c.log)
			a = post(c.amount)
			if a.status != c.repeat {
				t.Fatalf("repeat: %d %v, want %d", a.status, a.err, c.repeat)
			}
			b.wantLast(c.repeatLog)
			if c.status == "" {
				return
			}
			id := a.text(t, "id")
			if got := b.do("GET", "/intent/"+id, "").text(t, "status"); got != "created" {
				t.Errorf("status at once: %s", got)
			}
			b.clock.add(time.Hour)
			got := b.want(b.do("GET", "/intent/"+id, ""), 200)
			category, _ := got.field(t, "decline_category").(string)
			if got.text(t, "status") != c.status || category != c.declineness {
				t.Errorf("an hour later: %s, want %s %s", got.body, c.status, c.declineness)
			}
			if c.status == "pending" {
				b.want(b.admin("POST", "/actions/complete_intent", `{"intent_id":"`+id+`"}`), 200)
				if got := b.do("GET", "/intent/"+id, "").text(t, "status"); got != "approved" {
					t.Errorf("completed: %s", got)
				}
			}
		})
	}
}

func TestPushcashAuthorize(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 10})
	user := b.want(b.do("POST", "/user", userBody("c")), 200).text(t, "id")
	token := func() string {
		return b.want(b.do("POST", "/token", `{"user_id":"`+user+`","pan":"5555555555554444","cvv":"123","exp_month":1,"exp_year":2030}`), 200).text(t, "token")
	}
	body := func(source string, amount int) string {
		return fmt.Sprintf(`{%s,"direction":"cash_in","amount":%d,"currency":"USD","tag":"inv-%d"}`, source, amount, amount)
	}
	for _, c := range []struct {
		amount, first int
		log           string
		repeat        int
		repeatLog     string
		status        string
	}{
		{1000, 200, "authorize applied 200", 200, "authorize replayed 200", "approved"},
		{40001, 401, "authorize applied 401", 401, "authorize replayed 401", "declined"},
		{40002, 401, "authorize applied 401", 401, "authorize replayed 401", "declined"},
		{20200, 202, "authorize applied 202", 202, "authorize replayed 202", "pending"},
		{50001, 500, "authorize applied 500", 200, "authorize replayed 200", "approved"},
		{50002, 500, "authorize rejected 500", 500, "authorize rejected 500", ""},
		{50401, 0, "authorize applied 0", 200, "authorize replayed 200", "approved"},
		{42901, 429, "authorize rejected 429", 200, "authorize applied 200", "approved"},
	} {
		t.Run(fmt.Sprint(c.amount), func(t *testing.T) {
			source := `"token":"` + token() + `"`
			first := b.do("POST", "/authorize", body(source, c.amount), "X-Idempotency-Key", "ignored")
			if first.status != c.first || (first.err == nil) != (c.first != 0) {
				t.Fatalf("first: %d %v %s, want %d", first.status, first.err, first.body, c.first)
			}
			b.wantLast(c.log)
			repeat := b.do("POST", "/authorize", body(source, c.amount))
			if repeat.status != c.repeat {
				t.Fatalf("repeat: %d %v, want %d", repeat.status, repeat.err, c.repeat)
			}
			b.wantLast(c.repeatLog)
			if c.status == "" {
				return
			}
			id := repeat.text(t, "id")
			if got := b.want(b.do("GET", "/intent/"+id, ""), 200).text(t, "status"); got != c.status {
				t.Errorf("intent is %s, want %s", got, c.status)
			}
			es := b.effects(0)
			if e := es[len(es)-1]; e.Reference != fmt.Sprintf("inv-%d", c.amount) {
				t.Errorf("log entry %+v", e)
			}
			switch repeat.status {
			case 401:
				if repeat.text(t, "status") != "declined" || repeat.text(t, "decline_category") == "" || strings.Contains(repeat.body, "error") {
					t.Errorf("decline: %s", repeat.body)
				}
			case 202:
				if !strings.HasPrefix(repeat.text(t, "url"), "https://") {
					t.Errorf("step-up: %s", repeat.body)
				}
			case 200:
				if repeat.text(t, "credential.last4") != "4444" {
					t.Errorf("approval: %s", repeat.body)
				}
			}
		})
	}
	a := b.want(b.do("GET", "/user/"+user+"/credential/list", ""), 200)
	creds := a.field(t, "data").([]any)
	if len(creds) != 1 {
		t.Fatalf("stored credentials: %s", a.body)
	}
	source := `"credential_id":"` + creds[0].(map[string]any)["id"].(string) + `"`
	one := b.want(b.do("POST", "/authorize", body(source, 300)), 200).text(t, "id")
	two := b.want(b.do("POST", "/authorize", body(source, 300)), 200).text(t, "id")
	three := b.want(b.do("POST", "/authorize", strings.Replace(body(source, 300), "inv-300", "inv-301", 1)), 200).text(t, "id")
	if one != two || one == three {
		t.Errorf("with a stored credential only an identical body is a repeat: %s %s %s", one, two, three)
	}
	if got := b.counter("deprecated_idempotency_header"); got != 8 {
		t.Errorf("deprecated_idempotency_header = %d, want 8", got)
	}
}

func TestPushcashIntentLife(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 10})
	user := b.want(b.do("POST", "/user", userBody("c")), 200).text(t, "id")
	n := 0
	create := func(direction, mode string) string {
		n++
		body := strings.Replace(intentBody(user, 500), "cash_in", direction, 1)
		if mode != "" {
			body = with(t, body, "approval_mode", mode)
		}
		return b.want(b.do("POST", "/intent", body, "X-Idempotency-Key", fmt.Sprint("k", n)), 200).text(t, "id")
	}
	complete := func(id, args string) answer {
		return b.admin("POST", "/actions/complete_intent", `{"intent_id":"`+id+`"`+args+`}`)
	}
	status := func(id string) string { return b.want(b.do("GET", "/intent/"+id, ""), 200).text(t, "status") }

	open := create("cash_in", "")
	b.clock.add(1000 * time.Hour)
	if got := status(open); got != "created" {
		t.Errorf("without complete_after an intent became %s", got)
	}
	b.want(b.do("POST", "/intent/"+open+"/cancel", ""), 200)
	b.wantLast("cancel_intent applied 200")
	if es := b.effects(0); es[len(es)-1].Object != open || es[len(es)-1].Reference != "k1" {
		t.Errorf("log entry %+v", es[len(es)-1])
	}
	if a := b.want(b.do("POST", "/intent/"+open+"/cancel", ""), 200); a.body != "{}" {
		t.Errorf("cancel: %s", a.body)
	}
	b.wantLast("cancel_intent replayed 200")
	if got := status(open); got != "canceled" {
		t.Errorf("status %s", got)
	}
	b.want(complete(open, ""), 400)

	paid := create("cash_in", "")
	b.want(complete(paid, ""), 200)
	b.wantLast("complete_intent applied 200")
	a := b.do("GET", "/intent/"+paid, "")
	if a.text(t, "status") != "approved" || a.text(t, "rail") != "card" || a.field(t, "guarantee_amount") != 500.0 {
		t.Errorf("approved: %s", a.body)
	}
	b.want(b.do("POST", "/intent/"+paid+"/cancel", ""), 400)
	b.wantLast("cancel_intent rejected 400")

	declined := create("cash_in", "")
	b.want(complete(declined, `,"result":"declined","decline_category":"limit_exceeded"`), 200)
	if a := b.do("GET", "/intent/"+declined, ""); a.text(t, "decline_category") != "limit_exceeded" {
		t.Errorf("declined: %s", a.body)
	}
	b.want(b.do("POST", "/intent/"+declined+"/cancel", ""), 400)
	b.want(complete(declined, ""), 400)
	for _, bad := range []string{`,"result":"maybe"`, `,"decline_category":"mood"`} {
		b.want(complete(create("cash_in", ""), bad), 400)
	}

	manual := create("cash_out", "manual")
	b.want(complete(manual, ""), 200)
	if got := status(manual); got != "pending" {
		t.Errorf("held for manual review: %s", got)
	}
	if a := b.want(b.do("POST", "/intent/"+manual+"/approve", ""), 200); a.body != "{}" {
		t.Errorf("approve: %s", a.body)
	}
	b.wantLast("approve_intent applied 200")
	b.want(b.do("POST", "/intent/"+manual+"/approve", ""), 200)
	b.wantLast("approve_intent replayed 200")
	if got := status(manual); got != "approved" {
		t.Errorf("after review: %s", got)
	}
	b.want(b.do("POST", "/intent/"+paid+"/approve", ""), 400)

	// Refunds: one per intent.
	refund := `{"intent_id":"` + paid + `","amount":200}`
	b.want(b.do("POST", "/refund", `{"intent_id":"`+paid+`","amount":501}`), 400)
	r1 := b.want(b.do("POST", "/refund", refund), 200)
	b.wantLast("create_refund applied 200")
	if r1.text(t, "status") != "approved" || r1.field(t, "amount") != 200.0 || r1.text(t, "intent_id") != paid {
		t.Errorf("refund: %s", r1.body)
	}
	r2 := b.want(b.do("POST", "/refund", `{"intent_id":"`+paid+`","amount":100}`), 200)
	b.wantLast("create_refund replayed 200")
	if r2.body != r1.body {
		t.Errorf("second refund: %s", r2.body)
	}
	if a := b.want(b.do("GET", "/refund/"+r1.text(t, "id"), ""), 200); a.body != r1.body {
		t.Errorf("refund reads as %s", a.body)
	}
	if a := b.do("GET", "/intent/"+paid, ""); a.text(t, "refund.id") != r1.text(t, "id") {
		t.Errorf("refunded intent: %s", a.body)
	}
	n++
	big := b.want(b.do("POST", "/intent", intentBody(user, 90000), "X-Idempotency-Key", "big"), 200).text(t, "id")
	b.want(complete(big, ""), 200)
	d := b.want(b.do("POST", "/refund", `{"intent_id":"`+big+`","amount":40001}`), 401)
	if d.text(t, "status") != "declined" || !strings.HasPrefix(d.text(t, "id"), "refund_") {
		t.Errorf("declined refund: %s", d.body)
	}
	b.want(b.do("POST", "/refund", `{"intent_id":"`+big+`","amount":40001}`), 401)
	b.wantLast("create_refund replayed 401")

	// Simulations.
	settle := b.want(b.do("POST", "/simulate/settlement", `{"intent_id":"`+paid+`"}`), 200)
	again := b.want(b.do("POST", "/simulate/settlement", `{"intent_id":"`+paid+`"}`), 200)
	if settle.body != again.body || settle.field(t, "amount") != 500.0 || settle.text(t, "direction") != "credit" {
		t.Errorf("settlement: %s and %s", settle.body, again.body)
	}
	dispute := b.want(b.do("POST", "/simulate/dispute", `{"intent_id":"`+paid+`","code":"4837"}`), 200)
	resolve := `{"dispute_id":"` + dispute.text(t, "id") + `","result":"lost"}`
	lost := b.want(b.do("POST", "/simulate/dispute/resolve", resolve), 200)
	if lost.field(t, "amount") != -500.0 || lost.text(t, "direction") != "debit" {
		t.Errorf("resolution: %s", lost.body)
	}
	b.want(b.do("POST", "/simulate/dispute/resolve", resolve), 200)
	b.wantLast("simulate_dispute_resolution replayed 200")
	b.want(b.do("POST", "/simulate/dispute/resolve", strings.Replace(resolve, "lost", "won", 1)), 400)
	if a := b.do("GET", "/intent/"+paid, ""); a.text(t, "dispute.status") != "lost" || len(a.field(t, "transactions").([]any)) != 2 {
		t.Errorf("disputed intent: %s", a.body)
	}
	if a := b.do("GET", "/transaction/list", ""); len(a.field(t, "data").([]any)) != 2 {
		t.Errorf("transactions: %s", a.body)
	}
	if a := b.do("GET", "/account/list", ""); a.field(t, "data").([]any)[0].(map[string]any)["balance"] != 0.0 {
		t.Errorf("accounts: %s", a.body)
	}
}

func TestPushcashPages(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{LimitScale: 10, Switches: map[string]string{"page_size": "2"}})
	began := b.clock.now()
	var ids []string
	for i := range 7 {
		ids = append(ids, b.want(b.do("POST", "/user", userBody(fmt.Sprint("c", i))), 200).text(t, "id"))
		b.clock.add(time.Minute)
	}
	b.want(b.admin("POST", "/actions/set_user_status", `{"user_id":"`+ids[2]+`","status":"enabled"}`), 200)
	walk := func(query string) (got []string, pages int) {
		t.Helper()
		next := ""
		for {
			path := "/user/list?" + query
			if next != "" {
				path += "&cursor=" + next
			}
			a := b.want(b.do("GET", path, ""), 200)
			pages++
			for _, x := range a.field(t, "data").([]any) {
				got = append(got, x.(map[string]any)["id"].(string))
			}
			cursor, ok := a.field(t, "next_cursor").(string)
			if !ok {
				return got, pages
			}
			next = cursor
		}
	}
	at := func(minute int) string { return began.Add(time.Duration(minute) * time.Minute).Format(time.RFC3339) }
	newest := slices.Clone(ids)
	slices.Reverse(newest)
	for _, c := range []struct {
		query string
		want  []string
		pages int
	}{
		{"", newest, 4},
		{"created_at.after=" + at(2), newest[:4], 2},
		{"created_at.before=" + at(2), newest[5:], 1},
		{"created_at.after=" + at(1) + "&created_at.before=" + at(4), newest[3:5], 1},
		{"status=enabled", ids[2:3], 1},
		{"status=enabled&status=created", newest, 4},
		{"status=disabled", nil, 1},
		{"created_at.after=" + at(99), nil, 1},
	} {
		if got, pages := walk(c.query); !slices.Equal(got, c.want) || pages != c.pages {
			t.Errorf("%q: %v in %d pages, want %v in %d", c.query, got, pages, c.want, c.pages)
		}
	}
	// A page is stable while users are added.
	a := b.do("GET", "/user/list", "")
	b.want(b.do("POST", "/user", userBody("late")), 200)
	if got := b.do("GET", "/user/list?cursor="+a.text(t, "next_cursor"), "").field(t, "data").([]any)[0].(map[string]any)["id"]; got != newest[2] {
		t.Errorf("second page starts with %v, want %s", got, newest[2])
	}
	for _, bad := range []string{"cursor=zz", "created_at.after=yesterday", "created_at.before=1", "status=happy"} {
		b.want(b.do("GET", "/user/list?"+bad, ""), 400)
	}
	b.want(b.do("GET", "/intent/list?cursor="+a.text(t, "next_cursor"), ""), 400) // another list's
}

func TestPushcashWebhooks(t *testing.T) {
	const secret = "0123456789abcdef0123456789abcdef"
	type event struct {
		body      []byte
		signature string
	}
	got := make(chan event, 10)
	fail := make(chan bool, 1)
	fail <- true
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-fail: // the first attempt is refused
			w.WriteHeader(500)
			return
		default:
		}
		body, _ := io.ReadAll(r.Body)
		got <- event{body, r.Header.Get("X-Webhook-Signature")}
	}))
	defer receiver.Close()
	b := start(t, "pushcash", sandbox.Options{Now: time.Now, Switches: map[string]string{"webhook_time_scale": "0.001"}})
	b.want(b.do("POST", "/webhook/register", `{"url":"`+receiver.URL+`","secret":"`+secret+`"}`), 200)
	b.wantLast("register_webhook applied 200")
	b.want(b.do("POST", "/webhook/register", `{"url":"`+receiver.URL+`","secret":"`+secret+`"}`), 200)
	b.wantLast("register_webhook replayed 200")
	user := b.want(b.do("POST", "/user", userBody("c")), 200).text(t, "id")
	id := b.want(b.do("POST", "/intent", intentBody(user, 40002), "X-Idempotency-Key", "k-1"), 200).text(t, "id")
	b.want(b.admin("POST", "/actions/complete_intent", `{"intent_id":"`+id+`"}`), 200)
	var e event
	select {
	case e = <-got:
	case <-time.After(30 * time.Second):
		t.Fatal("no webhook")
	}
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write(e.body)
	if want := hex.EncodeToString(mac.Sum(nil)); e.signature != want {
		t.Errorf("signature %s, want %s", e.signature, want)
	}
	a := answer{body: string(e.body)}
	if a.text(t, "type") != "intent.declined" || a.text(t, "data.id") != id || a.text(t, "data.idempotency_key") != "k-1" ||
		a.text(t, "data.decline_category") != "fraud_risk" || a.field(t, "data.tag") != nil {
		t.Errorf("event %s", e.body)
	}
	if at, err := time.Parse("2006-01-02T15:04:05.000000Z", a.text(t, "timestamp")); err != nil || time.Since(at) > time.Minute {
		t.Errorf("timestamp %v, %v", at, err)
	}
}
