package sandbox_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
)

func TestPlainThings(t *testing.T) {
	b := start(t, "plain", sandbox.Options{})
	b.want(b.do("GET", "/things/a", ""), 404)
	b.wantLast("get_thing rejected 404")
	b.want(b.do("PUT", "/things/a", `{"reference":"a.1","n":1}`, "Idempotency-Key", "k1"), 201)
	if e := b.effects(1)[0]; e.Object != "a" || e.Reference != "a.1" || e.IdempotencyKey != "k1" || e.Effect != "applied" {
		t.Errorf("log entry: %+v", e)
	}
	b.want(b.do("PUT", "/things/a", `{"reference":"a.1","n":1}`), 200)
	b.wantLast("put_thing replayed 200")
	b.want(b.do("PUT", "/things/a", `{"reference":"a.2","n":2}`), 200)
	b.wantLast("put_thing applied 200")
	b.want(b.do("PUT", "/things/a", `{"reference":"a.1","n":1}`), 200)
	b.wantLast("put_thing applied 200") // an older state written again is a change: the reorder that tests look for
	if got := b.want(b.do("GET", "/things/a", ""), 200).body; got != `{"reference":"a.1","n":1}` {
		t.Errorf("state: %s", got)
	}
	b.wantLast("get_thing read 200")
	if got := b.admin("GET", "/objects/a", "").body; strings.Count(got, `"version":`) != 3 {
		t.Errorf("object: %s", got)
	}
	for _, c := range []struct {
		method, path, body string
		status             int
	}{
		{"PUT", "/things/a", `[]`, 400}, {"PUT", "/things/a", `{`, 400}, {"PUT", "/things/a", ``, 400},
		{"PUT", "/things/" + strings.Repeat("x", 256), `{}`, 400}, {"PUT", "/things/%ff", `{}`, 400},
		{"DELETE", "/things/a", ``, 405}, {"POST", "/things", `{}`, 405}, {"GET", "/nope", ``, 404}, {"PUT", "/things/", `{}`, 404},
		{"PUT", "/things/a/b", `{}`, 404}, {"PUT", "/things/big", `{"x":"` + strings.Repeat("x", 1<<20) + `"}`, 413},
	} {
		if a := b.do(c.method, c.path, c.body); a.status != c.status {
			t.Errorf("%s %.40s: %d %v %s, want %d", c.method, c.path, a.status, a.err, a.body, c.status)
		}
		if es := b.effects(0); es[len(es)-1].Effect != "rejected" {
			t.Errorf("%s %.40s is logged as %+v", c.method, c.path, es[len(es)-1])
		}
	}
}

func TestPlainPaymentsHaveNoIdempotency(t *testing.T) {
	b := start(t, "plain", sandbox.Options{Switches: map[string]string{"probe": "on"}})
	const body = `{"reference":"inv-1","amount":5}`
	first := b.want(b.do("POST", "/payments", body, "Idempotency-Key", "k"), 201)
	second := b.want(b.do("POST", "/payments", body, "Idempotency-Key", "k"), 201)
	if first.text(t, "id") == second.text(t, "id") || !strings.HasPrefix(first.text(t, "id"), "pay_") {
		t.Errorf("ids %s and %s", first.body, second.body)
	}
	b.wantLast("create_payment applied 201")
	if e := b.effects(1)[0]; e.Object != second.text(t, "id") || e.Reference != "inv-1" || e.IdempotencyKey != "k" {
		t.Errorf("log entry: %+v", e)
	}
	if a := b.want(b.do("GET", "/payments?reference=inv-1", ""), 200); len(a.field(t, "data").([]any)) != 2 {
		t.Errorf("probe found %s", a.body)
	}
	if a := b.want(b.do("GET", "/payments?reference=inv-2", ""), 200); len(a.field(t, "data").([]any)) != 0 {
		t.Errorf("probe of an unknown reference found %s", a.body)
	}
	b.want(b.do("GET", "/payments", ""), 400)
	b.want(b.do("GET", "/payments/"+first.text(t, "id"), ""), 200)
	b.want(b.do("GET", "/payments/pay_none", ""), 404)
	off := start(t, "plain", sandbox.Options{})
	off.want(off.do("GET", "/payments?reference=inv-1", ""), 405)
}

func TestPlainKeyLimitAndPages(t *testing.T) {
	b := start(t, "plain", sandbox.Options{LimitScale: 2, Keys: []sandbox.Key{{Secret: "k"}},
		Switches: map[string]string{"rate_limit": "2", "rate_window": "10s", "page_size": "2", "retry_after": "on"}})
	b.want(b.do("GET", "/things/a", ""), 401)
	b.key = "k"
	for _, id := range []string{"a", "b", "c"} {
		b.want(b.do("PUT", "/things/"+id, `{}`), 201)
	}
	page := b.want(b.do("GET", "/things", ""), 200)
	if a := b.want(b.do("GET", "/things", ""), 429); a.header.Get("Retry-After") != "10" || a.header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("headers of a 429: %v", a.header)
	}
	b.clock.add(10 * time.Second)
	rest := b.want(b.do("GET", "/things?cursor="+page.text(t, "next_cursor"), ""), 200)
	if len(page.field(t, "data").([]any)) != 2 || len(rest.field(t, "data").([]any)) != 1 || rest.field(t, "next_cursor") != nil {
		t.Errorf("pages %s and %s", page.body, rest.body)
	}
	b.want(b.do("GET", "/things?cursor=zz", ""), 400)
}
