package connector_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sample"
)

// acmeProfile is a vendor without idempotency that lists what it has, and that finds and changes objects with ETags.
const acmeProfile = `profile: acme
version: "1"
environments:
  sandbox: {base_url: http://acme.example}
auth: {kind: oauth2, token_url: /token, client_id: id, client_secret: secret}
limits:
  at_once: {kind: concurrency, n: 3}
verdicts:
  - {status: 429, verdict: throttle, lowers: at_once, wait: body.wait}
operations:
  pay:
    method: POST
    path: /payments
    class: none
    late_apply: 300ms
    reference: {in: body, name: ref}
    limits: [at_once]
    probe: {path: "/payments?ref={reference}", found: size(body.data) > 0, object: "body.data[0]", limits: [at_once]}
    body: {ref: {type: string, required: true}, amount: {type: integer, required: true}}
    answer: {id: string}
    verdicts:
      - {status: 2xx, when: body.state == 'failed', verdict: reject, reason: payment_failed}
  find: {method: GET, path: "/people/{id}", verdicts: [{status: 404, verdict: accept}]}
  create: {method: POST, path: "/people/{id}", class: overwrite, body: {name: string}}
  change:
    method: PUT
    path: /people/{id}
    class: overwrite
    body: {name: string}
    verdicts: [{status: 412, verdict: conflict, reason: changed_at_vendor, then: conclude}]
routes:
  customer:
    entity: customer
    semantics: latest
    requires_consent: payments
    steps:
      find:
        operation: find
        params: {id: entity.id}
        remember:
          found: {person_id: body.id}
          fields: {etag: headers.etag}
      create:
        operation: create
        when: ids.person_id == null
        params: {id: entity.id}
        map: {name: event.legal_name}
        remember: {ids: {person_id: body.id}}
      change:
        operation: change
        when: ids.person_id != null
        params: {id: ids.person_id}
        headers: {If-Match: remembered.etag}
        map: {name: event.legal_name}
        remember: {vendor_id: ids.person_id}
    cases:
      - operation: delete
        ignore: no_counterpart
      - steps: [find, change, create]
  contract: {entity: contract, semantics: latest, cases: [{ignore: no_counterpart}]}
  invoice:
    entity: invoice
    semantics: latest
    steps:
      pay:
        operation: pay
        map: {amount: event.total_minor}
        remember: {ids: {payment_id: body.id}}
    cases:
      - operation: delete
        ignore: no_counterpart
      - steps: [pay]
`

// acme is the vendor. What it does wrong depends on the amount of a payment and on the name of a person.
type acme struct {
	mu       sync.Mutex
	payments map[string]int    // by reference: how often
	posted   map[string]int    // attempts, by reference
	people   map[string]string // names by id
	etags    map[string]int
	methods  []string       // what was asked of /people, in order
	probes   map[string]int // by reference
	tokens   int
	good     string // the token that is taken
	uses     int
	under    int
	most     int
	busy     int
}

// What the vendor does with a payment of these amounts.
const (
	amountCommitted = 1001 // carries it out and answers 500
	amountFailed    = 1002 // does not, and answers 500, once
	amountDeclined  = 1003 // carries it out as a failed payment, and answers 500
	amountUnknown   = 1004 // carries it out, answers 500, and its probe is broken
	amountNever     = 1005 // answers 500, always, and does nothing
)

func (v *acme) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	v.mu.Lock()
	v.under++
	v.most = max(v.most, v.under)
	v.mu.Unlock()
	time.Sleep(time.Millisecond) // so that requests overlap
	v.mu.Lock()
	defer v.mu.Unlock()
	defer func() { v.under-- }()
	if r.URL.Path == "/token" {
		v.tokens++
		v.good = fmt.Sprintf("token-%d", v.tokens)
		v.uses = 0
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, v.good)
		return
	}
	// A token ends long before it said.
	if v.uses++; r.Header.Get("Authorization") != "Bearer "+v.good || v.uses > 40 {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if v.busy > 0 && r.Method == http.MethodPost {
		v.busy--
		w.WriteHeader(http.StatusTooManyRequests)
		fmt.Fprint(w, `{"wait":0.05}`)
		return
	}
	if id, ok := strings.CutPrefix(r.URL.Path, "/people/"); ok {
		v.person(w, r, id, body)
		return
	}
	if r.Method == http.MethodGet {
		ref := r.URL.Query().Get("ref")
		v.probes[ref]++
		switch {
		case strings.HasPrefix(ref, "shaky-1.") && v.probes[ref]%2 == 1:
			w.WriteHeader(http.StatusInternalServerError)
		case strings.HasPrefix(ref, "unknown"):
			w.WriteHeader(http.StatusNotFound)
		case v.payments[ref] > 0 && strings.HasPrefix(ref, "declined"):
			fmt.Fprintf(w, `{"data":[{"id":"pay-%s","state":"failed"}]}`, ref)
		case v.payments[ref] > 0:
			fmt.Fprintf(w, `{"data":[{"id":"pay-%s"}]}`, ref)
		default:
			fmt.Fprint(w, `{"data":[]}`)
		}
		return
	}
	var in struct {
		Ref    string
		Amount int
	}
	_ = json.Unmarshal(body, &in)
	v.posted[in.Ref]++
	if in.Amount != amountNever && !(in.Amount == amountFailed && v.posted[in.Ref] == 1) {
		v.payments[in.Ref]++
	}
	if in.Amount >= amountCommitted && in.Amount <= amountNever && v.posted[in.Ref] == 1 || in.Amount == amountNever {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	fmt.Fprintf(w, `{"id":"pay-%s"}`, in.Ref)
}

func (v *acme) person(w http.ResponseWriter, r *http.Request, id string, body []byte) {
	v.methods = append(v.methods, r.Method+" "+id)
	var in struct{ Name string }
	_ = json.Unmarshal(body, &in)
	switch _, known := v.people[id]; {
	case r.Method == http.MethodGet && !known:
		w.WriteHeader(http.StatusNotFound)
		return
	case r.Method == http.MethodGet:
		if id == "raced-always" || id == "raced-once" && v.etags[id] == 0 {
			defer func() { v.etags[id]++ }() // somebody else changes it after the read
		}
	case r.Method == http.MethodPut && r.Header.Get("If-Match") != strconv.Itoa(v.etags[id]):
		w.WriteHeader(http.StatusPreconditionFailed)
		return
	default:
		v.people[id] = in.Name
	}
	w.Header().Set("ETag", strconv.Itoa(v.etags[id]))
	w.Header().Set("Deprecation", "true")
	fmt.Fprintf(w, `{"id":%q}`, id)
}

func acmeWorld(t *testing.T) (*world, *acme) {
	w := newWorld(t, "plain", nil)
	v := &acme{payments: map[string]int{}, posted: map[string]int{}, probes: map[string]int{}, people: map[string]string{}, etags: map[string]int{}}
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.secret = func() string { return "s" }
	p, err := profile.Parse("acme.yaml", []byte(acmeProfile))
	if err != nil {
		t.Fatal(err)
	}
	if w.profile, err = p.Compile(profile.Options{Connector: "v", BaseURL: w.url, Schemas: w.set, Secrets: []string{"id", "secret"}}); err != nil {
		t.Fatal(err)
	}
	return w, v
}

func acmeInvoice(id string, amount int64) sample.Item {
	return sample.Item{Entity: "invoice", Key: id, Event: map[string]any{"event_id": "e-" + id, "event_type": "invoice.issued", "occurred_at": "2026-01-01T00:00:00.000Z",
		"source_system": "erp", "tenant": "t", "entity_version": int64(1), "operation": "upsert", "invoice_id": id, "customer_id": "c", "status": "open",
		"currency": "USD", "total_minor": amount, "tax_minor": int64(0), "line_items": []any{}}}
}

func acmeCustomer(id string, version int64, consent string) sample.Item {
	return sample.Item{Entity: "customer", Key: id, Event: map[string]any{"event_id": fmt.Sprintf("e-%s-%d", id, version), "event_type": "customer.updated", "occurred_at": "2026-01-02T00:00:00.000Z",
		"source_system": "erp", "tenant": "t", "entity_version": version, "operation": "upsert", "customer_id": id, "kind": "person", "legal_name": fmt.Sprintf("v%d", version), "currency": "USD",
		"consents": []any{map[string]any{"purpose": consent, "granted_at": "2026-01-01T00:00:00.000Z"}}}}
}

// row is the ledger's last word on an event.
func (w *world) row(id string) checkpoint.Row {
	w.t.Helper()
	rows, err := w.store.Find(w.t.Context(), id, 0)
	if err != nil || len(rows) != 1 {
		w.t.Fatalf("rows of %s: %d, %v", id, len(rows), err)
	}
	return rows[0]
}

// TestProbes: an ambiguous send of class none is looked up. Found, it is as its lost answer would have been; absent, it
// is made again, as long as others show that the vendor works; unclear, it is parked. Nothing is done twice.
func TestProbes(t *testing.T) {
	w, v := acmeWorld(t)
	var all []sample.Item
	for i := range 3 {
		for _, x := range []struct {
			name   string
			amount int64
		}{{"good", 5}, {"committed", amountCommitted}, {"failed", amountFailed}, {"declined", amountDeclined}, {"unknown", amountUnknown}} {
			all = append(all, acmeInvoice(fmt.Sprintf("%s-%d", x.name, i), x.amount))
		}
	}
	w.publish(all...)
	_, stop := w.start()
	w.settleAll(time.Minute)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, it := range all {
		kind, _, _ := strings.Cut(it.Key, "-")
		row := w.row("e-" + it.Key)
		var verdicts []string
		for _, a := range row.Attempts {
			if a.Verdict != "halt" { // of a token that ended
				verdicts = append(verdicts, a.Verdict)
			}
		}
		got := fmt.Sprintf("%s %s %s, %d paid", row.Outcome, row.Cause, row.Reason, v.payments[it.Key+".1"])
		last := verdicts[len(verdicts)-1]
		want := map[string][2]string{
			"good":      {"delivered  , 1 paid", "accept"},
			"committed": {"delivered  , 1 paid", "probe_found"},
			"failed":    {"delivered  , 1 paid", "accept"},
			"declined":  {"parked rejected payment_failed, 1 paid", "probe_found"},
			"unknown":   {"parked ambiguous it may have had its effect, and the probe (status 404) does not tell, 1 paid", "reject"},
		}[kind]
		if got != want[0] || last != want[1] {
			t.Errorf("%s: %s, attempts %v; want %s and at last %s", it.Key, got, verdicts, want[0], want[1])
		}
		if kind == "committed" && row.VendorID != "pay-"+it.Key+".1" {
			t.Errorf("%s: vendor id %q, want the one that the probe found", it.Key, row.VendorID)
		}
		if kind == "failed" && !strings.Contains(strings.Join(verdicts, " "), "probe_absent") {
			t.Errorf("%s: attempts %v without a probe", it.Key, verdicts)
		}
	}
}

// TestProbedForEver: a send that never has its effect is parked when its attempts are used up, and not for ambiguity; not
// even if each other of its probes fails too.
func TestProbedForEver(t *testing.T) {
	w, v := acmeWorld(t)
	w.tweak = func(c *connector.Config) { c.AttemptsMax = 2 }
	_, stop := w.start()
	defer func() { _ = stop() }()
	for _, key := range []string{"never-1", "shaky-1"} {
		w.publish(acmeInvoice(key, amountNever))
		for n := 0; ; n++ {
			if rows, err := w.store.Find(t.Context(), "e-"+key, 0); err == nil && len(rows) == 1 && rows[0].Outcome != "" {
				break
			}
			if n > 600 {
				t.Fatalf("%s is still not parked", key)
			}
			// Only another one's success tells it from an outage, of the sends and of the probes.
			w.publish(acmeInvoice(fmt.Sprintf("%s-ok-%d", key, n), 5), acmeInvoice(fmt.Sprintf("%s-found-%d", key, n), amountCommitted))
			time.Sleep(50 * time.Millisecond)
		}
		if row := w.row("e-" + key); row.Cause != checkpoint.CauseExhausted || v.payments[key+".1"] != 0 {
			t.Errorf("%s: %s %s %s, %d paid; want exhausted", key, row.Outcome, row.Cause, row.Reason, v.payments[key+".1"])
		}
	}
}

// TestFindChangeOrCreate: what a read finds decides, an object that changed meanwhile is read again once, and without
// consent nothing is asked at all.
func TestFindChangeOrCreate(t *testing.T) {
	w, v := acmeWorld(t)
	v.people = map[string]string{"known": "old", "raced-once": "old", "raced-always": "old"}
	all := []sample.Item{acmeCustomer("new", 1, "payments"), acmeCustomer("known", 1, "payments"), acmeCustomer("raced-once", 1, "payments"),
		acmeCustomer("raced-always", 1, "payments"), acmeCustomer("private", 1, "marketing")}
	w.publish(all...)
	_, stop := w.start()
	w.settleAll(time.Minute)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]struct{ outcome, asked, name string }{
		"new":          {"delivered ", "GET POST", "v1"},
		"known":        {"delivered ", "GET PUT", "v1"},
		"raced-once":   {"delivered ", "GET PUT GET PUT", "v1"},
		"raced-always": {"ignored changed_at_vendor", "GET PUT GET PUT", "old"},
		"private":      {"ignored no_consent", "", ""},
	} {
		row := w.row("e-" + id + "-1")
		var asked []string
		for _, m := range v.methods {
			if method, of, _ := strings.Cut(m, " "); of == id {
				asked = append(asked, method)
			}
		}
		if got := fmt.Sprintf("%s %s", row.Outcome, row.Reason); got != want.outcome || strings.Join(asked, " ") != want.asked || v.people[id] != want.name {
			t.Errorf("%s: %q after %q, name %q; want %q after %q, name %q", id, got, strings.Join(asked, " "), v.people[id], want.outcome, want.asked, want.name)
		}
	}
}

// TestAtOnceAndTokens: never more requests under way than the vendor takes, all of them delivered, through refusals for
// too many at once and through tokens that end early; and no token endpoint is asked more often than needed.
func TestAtOnceAndTokens(t *testing.T) {
	w, v := acmeWorld(t)
	v.busy = 5
	var all []sample.Item
	for i := range 200 {
		all = append(all, acmeInvoice(fmt.Sprintf("i-%d", i), 5))
	}
	w.publish(all...)
	_, stop := w.start()
	w.settleAll(time.Minute)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, it := range all {
		if n := v.payments[it.Key+".1"]; n != 1 {
			t.Errorf("%s was paid %d times", it.Key, n)
		}
	}
	if v.most > 4 { // one of them may ask for a token
		t.Errorf("%d requests at once, the limit is 3", v.most)
	}
	if v.tokens < 4 || v.tokens > 12 {
		t.Errorf("%d tokens for some 205 requests at 40 each", v.tokens)
	}
}

// TestPushCashRefund: a paid invoice that becomes refunded is refunded at the vendor, once for its intent.
func TestPushCashRefund(t *testing.T) {
	w := newWorld(t, "pushcash", map[string]string{"complete_after": "1ms"})
	who := acmeCustomer("c", 1, "payments")
	for k, v := range map[string]any{"legal_name": "Ada Lovelace", "email": "ada@example.com",
		"billing_address": map[string]any{"line1": "1 Main St", "city": "Springfield", "region": "IL", "postal_code": "62701", "country": "US"},
		"extensions":      map[string]any{"pushcash": map[string]any{"date_of_birth": "1985-12-10", "government_id_type": "passport", "government_id_last4": "1234", "identity_verified": "true"}}} {
		who.Event[k] = v
	}
	_, stop := w.start()
	version := func(n int64, status string) sample.Item {
		it := acmeInvoice("i", 500)
		it.Event["entity_version"], it.Event["event_id"], it.Event["status"] = n, fmt.Sprintf("e-i-%d", n), status
		return it
	}
	applied := func(operation string) (n int) {
		entries, err := w.sandbox.Effects(0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Operation == operation && e.Effect == "applied" {
				n++
			}
		}
		return n
	}
	w.publish(who, version(1, "open"))
	w.settleAll(time.Minute)
	for began := time.Now(); applied("complete_intent") == 0; time.Sleep(10 * time.Millisecond) { // the user pays
		if time.Since(began) > 10*time.Second {
			t.Fatal("the intent was not paid")
		}
	}
	for _, x := range []struct {
		n       int64
		outcome string
	}{{2, "delivered "}, {3, "ignored already_refunded"}} {
		w.publish(version(x.n, "refunded"))
		w.settleAll(time.Minute)
		if row := w.row(fmt.Sprintf("e-i-%d", x.n)); fmt.Sprintf("%s %s", row.Outcome, row.Reason) != x.outcome || applied("create_refund") != 1 {
			t.Errorf("version %d: %s %s %s, %d refunds; want %q and one refund", x.n, row.Outcome, row.Cause, row.Reason, applied("create_refund"), x.outcome)
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.clean(true)
}
