package profile

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/schema"
)

// richer uses what the embedded profiles do not.
const richer = `profile: acme
environments:
  sandbox: {base_url: https://api.acme.example}
vars:
  mode: {enum: [fast, slow], default: fast}
  safe: {enum: [yes, no], default: yes}
limits:
  calls: {kind: token_bucket, n: {var: mode, values: {fast: 100, slow: 10}}, window: 1m, burst: {var: mode, values: {fast: 150, slow: 15}}}
  month: {kind: calendar_month, n: 1000}
  at_once: {kind: concurrency, n: 4}
verdicts:
  - {status: 429, when: body.code == 'busy', verdict: throttle, lowers: at_once, wait: body.retry}
  - {status: 429, verdict: throttle, wait: body.retry}
operations:
  find_person: {method: GET, path: "/people?ref={ref}", limits: [calls], answer: {id: string}}
  create_person:
    method: POST
    path: /people
    class: {var: safe, values: {yes: key, no: none}}
    key: {in: header, name: Idempotency-Key}
    reference: {in: body, name: meta.ref}
    encoding: form
    limits: [calls, month, at_once]
    price: {amount: "0.0525", currency: EUR}
    probe: {path: "/people?ref={reference}", found: size(body.data) > 0, object: "body.data[0]", only: {safe: no}}
    body:
      name: {type: string, required: true}
      meta: {type: object, required: true, fields: {ref: {type: string, required: true}, size: integer}}
    answer: {id: string}
  change_person:
    method: PUT
    path: /people/{id}
    class: overwrite
    body: {name: {type: string, required: true}}
    verdicts:
      - {status: 412, verdict: conflict, reason: changed_at_vendor, then: conclude}
routes:
  customer:
    entity: customer
    semantics: latest
    residency: event.data_region == null || event.data_region == 'us'
    requires_consent: payments
    steps:
      find:
        operation: find_person
        params: {ref: entity.id}
        remember:
          found: {person_id: body.id}
          fields: {etag: headers.etag}
      create:
        operation: create_person
        when: ids.person_id == null
        map: {name: event.legal_name, meta.size: event.entity_version}
        remember:
          ids: {person_id: body.id}
      change:
        operation: change_person
        params: {id: ids.person_id}
        headers: {If-Match: remembered.etag}
        map: {name: event.legal_name}
    cases:
      - operation: delete
        ignore: no_counterpart
        ends: [person_id]
      - operation: upsert
        when: event.status == 'closed'
        ignore: closed
        remember: {fields: {note: event.phone}}
      - when: ids.person_id != null
        steps: [find, change]
      - steps: [find, create]
`

func acme(t *testing.T, vars map[string]string) *Compiled {
	t.Helper()
	p, err := Parse("acme.yaml", []byte(richer))
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(Options{Connector: "acme", Vars: vars, Schemas: schemas(t)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func consented(change fields) *schema.Event {
	e := customer(fields{"consents": []any{fields{"purpose": "payments", "reference": nil, "granted_at": at, "revoked_at": nil}}})
	for k, v := range change {
		e.Fields[k] = v
	}
	return e
}

func plan(t *testing.T, c *Compiled, in *Input) *Plan {
	t.Helper()
	p, err := routeOf(t, c, in.Event.Entity).Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestResidencyAndConsent: they come before the mapping, and a delete may always go.
func TestResidencyAndConsent(t *testing.T) {
	c := acme(t, nil)
	consent := func(granted time.Time, revoked any, purpose string) fields {
		return fields{"consents": []any{fields{"purpose": purpose, "reference": nil, "granted_at": granted, "revoked_at": revoked}}}
	}
	for _, tc := range []struct {
		name   string
		change fields
		ignore string
	}{
		{"allowed", nil, ""},
		{"of the region", fields{"data_region": "us"}, ""},
		{"of another region", fields{"data_region": "eu"}, "residency"},
		{"of another region, and without consent", fields{"data_region": "eu", "consents": []any{}}, "residency"},
		{"no consent", fields{"consents": []any{}}, "no_consent"},
		{"for another purpose", consent(at, nil, "marketing"), "no_consent"},
		{"granted later", consent(at.Add(time.Hour), nil, "payments"), "no_consent"},
		{"revoked", consent(at.Add(-time.Hour), at.Add(-time.Minute), "payments"), "no_consent"},
		{"revoked at that very moment", consent(at.Add(-time.Hour), at, "payments"), "no_consent"},
		{"revoked later", consent(at.Add(-time.Hour), at.Add(time.Hour), "payments"), ""},
	} {
		p := plan(t, c, &Input{Event: consented(tc.change)})
		if p.Ignore != tc.ignore || (tc.ignore == "") != (len(p.Steps) == 2) {
			t.Errorf("%s: ignored for %q with %d steps, want %q", tc.name, p.Ignore, len(p.Steps), tc.ignore)
		}
	}
	gone := consented(fields{"data_region": "eu", "consents": []any{}, "operation": "delete"})
	gone.Operation = schema.Delete
	if p := plan(t, c, &Input{Event: gone}); p.Ignore != "no_counterpart" {
		t.Errorf("a delete is ignored for %q", p.Ignore)
	}
}

// TestFindOrCreate: what a read finds decides about the create, and feeds the change.
func TestFindOrCreate(t *testing.T) {
	c := acme(t, nil)
	in := &Input{Event: consented(nil)}
	p := plan(t, c, in)
	find, create := p.Steps[0], p.Steps[1]
	if op := find.Operation; !op.Read || op.Class != ClassOverwrite || op.LateApply != 0 {
		t.Errorf("a GET is %+v, want a read of class overwrite", op)
	}
	found, err := find.Result(in, &Answer{Status: 200, Header: http.Header{"Etag": {`"v1"`}}, Body: []byte(`{"id":"p-1"}`), At: at})
	if err != nil || found.IDs["person_id"] != "p-1" || found.Remembered["etag"] != `"v1"` {
		t.Fatalf("Result = %+v, %v", found, err)
	}
	absent, err := find.Result(in, &Answer{Status: 200, Body: []byte(`{}`), At: at})
	if id, said := absent.IDs["person_id"]; err != nil || id != "" || !said {
		t.Errorf("nothing found: %+v, %v; want the id forgotten", absent, err)
	}
	for id, want := range map[string]bool{"": false, "p-1": true} {
		after := &Input{Event: in.Event}
		if id != "" {
			after.IDs = map[string]string{"person_id": id}
		}
		if skip, err := create.Skip(after); err != nil || skip != want {
			t.Errorf("with id %q the create is skipped: %v, %v; want %v", id, skip, err, want)
		}
	}
	known := &Input{Event: in.Event, IDs: found.IDs, Remembered: found.Remembered}
	change := plan(t, c, known).Steps[1]
	req, err := change.Build(known, 0)
	if err != nil || req.Path != "/people/p-1" || req.Header.Get("If-Match") != `"v1"` {
		t.Errorf("Build = %+v, %v", req, err)
	}
	known.Remembered = nil
	if req, err = change.Build(known, 0); err != nil || req.Header["If-Match"] != nil {
		t.Errorf("without an etag: %+v, %v", req, err)
	}
	// Before the read is done its results have stand-ins; the input itself does not change.
	if s := StandIn(p.Steps, 1, in); s == in || s.IDs["person_id"] == "" || in.IDs != nil {
		t.Errorf("StandIn = %+v of %+v", s, in)
	}
	if s := StandIn(p.Steps, 0, in); s != in {
		t.Error("the first step has stand-ins")
	}
}

// TestByVariable: class, limits and probe follow the connector's variables.
func TestByVariable(t *testing.T) {
	fast, slow := acme(t, nil), acme(t, map[string]string{"mode": "slow", "safe": "no"})
	if a, b := fast.Limits[0], slow.Limits[0]; a.N != 100 || a.Burst != 150 || b.N != 10 || b.Burst != 15 {
		t.Errorf("limits %+v and %+v", a, b)
	}
	a, b := fast.Operations["create_person"], slow.Operations["create_person"]
	if a.Class != ClassKey || b.Class != ClassNone || a.Probe != nil || b.Probe == nil || slow.Operations["create_person_probe"] != b.Probe.Operation {
		t.Errorf("operations %+v and %+v", a, b)
	}
	if *a.Price != (Price{52500, "EUR"}) {
		t.Errorf("price %+v, want 5.25 cents", *a.Price)
	}
	if fast.Version == slow.Version {
		t.Error("another class has the same mapping version")
	}
}

// TestFormBody: a form in declared order, under the same fingerprint rules.
func TestFormBody(t *testing.T) {
	in := &Input{Event: consented(fields{"legal_name": "Ada & Söhne"})}
	req, err := plan(t, acme(t, nil), in).Steps[1].Build(in, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(req.Body), "name=Ada+%26+S%C3%B6hne&meta%5Bref%5D=c-1.3&meta%5Bsize%5D=3"; got != want || req.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		t.Errorf("body %s of type %s, want %s", got, req.Header.Get("Content-Type"), want)
	}
	for json, want := range map[string]string{`{"a":[1,{"b":true}],"c":null,"d":"x y"}`: "a%5B%5D=1&a%5B%5D%5Bb%5D=true&d=x+y", `{}`: ""} {
		if got, err := formOf([]byte(json)); err != nil || string(got) != want {
			t.Errorf("formOf(%s) = %s, %v; want %s", json, got, err, want)
		}
	}
}

// TestProbe: the answer tells whether the object is there, and stands for the lost one.
func TestProbe(t *testing.T) {
	c := acme(t, map[string]string{"safe": "no"})
	in := &Input{Event: consented(nil)}
	in.Event.Key = "c/1 &"
	step := plan(t, c, in).Steps[1]
	req, err := step.Build(in, 0)
	if err != nil {
		t.Fatal(err)
	}
	p := step.Operation.Probe
	if r := p.Request(req); r.Method != http.MethodGet || r.Path != "/people?ref=c%2F1+%26.3" || r.Body != nil {
		t.Errorf("the probe is %s %s", r.Method, r.Path)
	}
	for body, want := range map[string]string{
		`{"data":[{"id":"p-1","n":1.5,"x":null},{"id":"p-2"}]}`: "p-1",
		`{"data":[]}`:     "absent",
		`{"data":[null]}`: "unclear",
		`{}`:              "unclear",
		`<html>`:          "unclear",
	} {
		got := "absent"
		switch found, known := p.Read(&Answer{Status: 200, Body: []byte(body), At: at}); {
		case !known:
			got = "unclear"
		case found != nil:
			res, err := step.Result(in, found)
			if err != nil {
				t.Fatal(err)
			}
			got = res.VendorID
		}
		if got != want {
			t.Errorf("%s reads as %s, want %s", body, got, want)
		}
	}
}

// TestWaitsOfBodies: seconds or a text as in Retry-After; the longer of body and header counts, within bounds.
func TestWaitsOfBodies(t *testing.T) {
	op := acme(t, nil).Operations["create_person"]
	for _, tc := range []struct {
		body, header string
		want         time.Duration
		lowers       string
	}{
		{`{"retry":7}`, "", 7 * time.Second, ""},
		{`{"retry":1.5}`, "", 1500 * time.Millisecond, ""},
		{`{"retry":"30"}`, "", 30 * time.Second, ""},
		{`{"retry":7}`, "20", 20 * time.Second, ""},
		{`{"retry":-1}`, "", 0, ""},
		{`{"retry":[1]}`, "3", 3 * time.Second, ""},
		{`{}`, "3", 3 * time.Second, ""},
		{`no json`, "", 0, ""},
		{`{"retry":1e15}`, "", 0, ""},
		{`{"code":"busy","retry":1}`, "", time.Second, "at_once"},
	} {
		ans := &Answer{Status: 429, Header: http.Header{}, Body: []byte(tc.body), At: at}
		if tc.header != "" {
			ans.Header.Set("Retry-After", tc.header)
		}
		if j := op.Judge(ans); j.Verdict != Throttle || j.Wait != tc.want || j.Lowers != tc.lowers {
			t.Errorf("%s, Retry-After %q: %+v, want a throttle of %v that lowers %q", tc.body, tc.header, j, tc.want, tc.lowers)
		}
	}
	if j := acme(t, nil).Operations["change_person"].Judge(&Answer{Status: 412, At: at}); j.Verdict != Conflict || j.Then != Conclude || !j.NoEffect {
		t.Errorf("412 reads as %+v", j)
	}
}

// TestFinFusionCodes: the code decides, whatever the status; without one the status does.
func TestFinFusionCodes(t *testing.T) {
	c := compiled(t, "finfusion", nil)
	for _, tc := range []struct {
		op, code, body string
		status         int
		verdict        Verdict
		reason         string
	}{
		{"create_payment", "AUTH001", "", 401, Halt, "key_refused"},
		{"create_payment", "AUTH002", "", 401, Halt, "token_expired"},
		{"create_payment", "AUTH003", "", 401, Gone, "missing_scope"},
		{"create_payment", "AUTH003", "", 403, Gone, "missing_scope"},
		{"create_payment", "VAL001", "", 400, Reject, "validation_error"},
		{"create_payment", "VAL002", "", 400, Reject, "invalid_parameter"},
		{"create_payment", "VAL003", "", 400, Gone, "operation_gone"},
		{"update_customer", "VAL003", "", 404, Reject, "unknown_customer"},
		{"delete_customer", "VAL003", "", 400, Duplicate, "already_deleted"},
		{"create_customer", "VAL004", "", 409, Retry, "key_conflict"},
		{"create_customer", "VAL005", "", 409, Retry, "still_in_progress"},
		{"create_customer", "RATE001", "", 429, Throttle, "rate_limited"},
		{"create_customer", "RATE002", "", 429, Throttle, "too_many_at_once"},
		{"create_payment", "API001", "", 500, Retry, "vendor_error"},
		{"create_payment", "API002", "", 503, Retry, "vendor_error"},
		{"create_payment", "PAY001", "", 402, Reject, "payment_failed"},
		{"create_payment", "", "", 402, Reject, "payment_failed"},
		{"create_payment", "", "", 408, Retry, "vendor_error"},
		{"create_payment", "", "", 504, Retry, "vendor_error"},
		{"create_payment", "", "", 401, Halt, "key_refused"},
		{"create_payment", "", "", 429, Throttle, "rate_limited"},
		{"create_payment", "", "", 418, Reject, "refused_by_vendor"},
		{"create_payment", "", `{"status":"succeeded"}`, 200, Accept, ""},
		{"create_payment", "", `{"status":"pending"}`, 200, AcceptPending, ""},
		{"create_payment", "", `{"status":"failed"}`, 200, Reject, "payment_failed"},
		{"create_payment", "", `{"status":"refunded","new":1}`, 200, Accept, ""},
	} {
		body := tc.body
		if tc.code != "" {
			body = fmt.Sprintf(`{"error":{"type":"x","code":%q,"message":"m","details":{"retry_after":2}}}`, tc.code)
		}
		j := c.Operations[tc.op].Judge(&Answer{Status: tc.status, Body: []byte(body), Header: http.Header{}, At: at})
		if j.Verdict != tc.verdict || j.Reason != tc.reason {
			t.Errorf("%s %s %d %s: %s %s, want %s %s", tc.op, tc.code, tc.status, tc.body, j.Verdict, j.Reason, tc.verdict, tc.reason)
		}
		if tc.verdict == Throttle && tc.code != "" && j.Wait != 2*time.Second {
			t.Errorf("%s: wait %v, want the body's 2 s", tc.code, j.Wait)
		}
	}
	if l := compiled(t, "finfusion", map[string]string{"tier": "enterprise"}).Limits[0]; l.N != 1000 || l.Burst != 1500 {
		t.Errorf("enterprise has %d with a burst of %d", l.N, l.Burst)
	}
}

// TestFinFusionKeys: a production key never goes to the sandbox, and a token is used where there is no key.
func TestFinFusionKeys(t *testing.T) {
	p, err := Load("finfusion")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		env, key string
		ok       bool
	}{
		{"sandbox", "dev_1", true}, {"sandbox", "rest_1", true}, {"sandbox", "sk_1", true}, {"sandbox", "prod_1", false},
		{"production", "prod_1", true}, {"production", "rest_1", true}, {"production", "dev_1", false}, {"production", "sk_1", false},
	} {
		c, err := p.Compile(Options{Connector: "f", Environment: tc.env, Schemas: schemas(t), Secrets: []string{"api_key"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckSecret("api_key", tc.key); (err == nil) != tc.ok || err != nil && strings.Contains(err.Error(), tc.key) {
			t.Errorf("%s key in %s: %v", tc.key, tc.env, err)
		}
		req, _ := http.NewRequest("POST", "http://x/", nil)
		if err := c.Authorize(req, nil, at, func(string) (string, error) { return tc.key, nil }); (err == nil) != tc.ok || !tc.ok && len(req.Header) > 0 {
			t.Errorf("%s key in %s: %v, headers %v", tc.key, tc.env, err, req.Header)
		}
	}
	c, err := p.Compile(Options{Connector: "f", Environment: "sandbox", BaseURL: "http://127.0.0.1:1", Schemas: schemas(t), Secrets: []string{"client_id", "client_secret"}})
	if err != nil {
		t.Fatal(err)
	}
	if o := c.OAuth(); o == nil || o.TokenURL != "http://127.0.0.1:1/oauth/token" || len(c.Secrets) != 2 {
		t.Errorf("with a client: %+v, secrets %q", o, c.Secrets)
	}
}

// TestPushCashDeclines: a 401 with the id of what was declined is final, one without blames the key.
func TestPushCashDeclines(t *testing.T) {
	c := compiled(t, "pushcash", map[string]string{"collect": "authorize"})
	for _, tc := range []struct {
		op, body string
		status   int
		verdict  Verdict
		reason   string
	}{
		{"authorize", `{"id":"intent_1","status":"declined","decline_category":"fraud_risk"}`, 401, Reject, "payment_declined"},
		{"authorize", `{"error":{"code":"unauthorized"}}`, 401, Halt, "unauthorized"},
		{"authorize", ``, 401, Halt, "unauthorized"},
		{"authorize", `{"id":null}`, 401, Halt, "unauthorized"},
		{"authorize", `{"id":"intent_1","url":"https://x"}`, 202, AcceptPending, ""},
		{"authorize", `{"id":"intent_1"}`, 200, Accept, ""},
		{"create_refund", `{"id":"refund_1"}`, 401, Reject, "refund_declined"},
		{"create_refund", `{}`, 401, Halt, "unauthorized"},
		{"create_refund", `{"id":"refund_1","status":"declined"}`, 200, Reject, "refund_declined"},
		{"create_refund", `{"id":"refund_1","status":"approved"}`, 200, Accept, ""},
		{"create_refund", `{}`, 400, Reject, "refund_refused"},
	} {
		if j := c.Operations[tc.op].Judge(&Answer{Status: tc.status, Body: []byte(tc.body), Header: http.Header{}, At: at}); j.Verdict != tc.verdict || j.Reason != tc.reason {
			t.Errorf("%s %d %s: %s %s, want %s %s", tc.op, tc.status, tc.body, j.Verdict, j.Reason, tc.verdict, tc.reason)
		}
	}
	if op := c.Operations["authorize"]; op.Class != ClassNone || op.Deadline == 0 {
		t.Errorf("authorize is %+v, want class none with a deadline of its confirmation", op)
	}
}

// TestDeprecation reads the headers in which vendors announce an end.
func TestDeprecation(t *testing.T) {
	for _, tc := range []struct {
		h    http.Header
		want string
	}{
		{http.Header{}, ""},
		{http.Header{"Deprecation": {"true"}, "Sunset": {"Wed, 31 Dec 2026 23:59:59 GMT"}, "Link": {"</v2>"}}, "deprecated, gone from 2026-12-31"},
		{http.Header{"Deprecation": {"@1767225600"}}, "deprecated since 2026-01-01"},
		{http.Header{"Warning": {`299 - "ask ada@example.com"`}}, "warning 299"},
		{http.Header{"Warning": {`110 - "stale"`}}, ""},
		{http.Header{"Sunset": {"soon, ada"}}, "gone"},
	} {
		if got := Deprecation(tc.h); got != tc.want {
			t.Errorf("Deprecation(%v) = %q, want %q", tc.h, got, tc.want)
		}
	}
}

// TestFormatErrors: what is wrong with the richer keys has a place and a hint.
func TestFormatErrors(t *testing.T) {
	for _, tc := range []struct{ old, new, path, why string }{
		{"values: {fast: 100, slow: 10}", "values: {fast: 100}", "limits.calls.n", "nothing is said for mode slow"},
		{"values: {yes: key, no: none}", "values: {yes: key, no: none, maybe: none}", "operations.create_person.class", `safe is never "maybe"`},
		{"class: {var: safe", "class: {var: save", "operations.create_person.class", `no variable "save"`},
		{"{kind: concurrency, n: 4}", "{kind: concurrency, n: 4, window: 1m}", "limits.at_once", "a concurrency has no window"},
		{"{kind: calendar_month, n: 1000}", "{kind: calendar_month, n: 1000, burst: 2}", "limits.month", "a calendar_month has no burst"},
		{"lowers: at_once", "lowers: calls", "verdicts[0].lowers", "no limit of kind concurrency"},
		{"wait: body.retry}\noperations", "wait: size(headers) > 1}\noperations", "verdicts[1].wait", "a wait, in seconds, is a number"},
		{"then: conclude", "then: gone", "operations.change_person.verdicts[0].then", "none of the values"},
		{", then: conclude", "", "operations.change_person.verdicts[0]", "has the key then"},
		{`amount: "0.0525"`, `amount: "0.05255555"`, "operations.create_person.price.amount", "at most 6 decimals"},
		{`amount: "0.0525"`, `amount: 0.05`, "operations.create_person.price.amount", "expected a text"},
		{"currency: EUR", "currency: Euro", "operations.create_person.price.currency", "no ISO 4217 code"},
		{"/people?ref={reference}", "/people", "operations.create_person.probe.path", "{reference} or {entity_id} is missing"},
		{"/people?ref={reference}", "/people?ref={id}", "operations.create_person.probe.path", `no parameter "id"`},
		{"found: size(body.data) > 0, ", "", "operations.create_person.probe", "the key found is missing"},
		{"only: {safe: no}", "only: {safe: never}", "operations.create_person.probe", `safe is never "never"`},
		{"{method: GET,", "{method: GET, class: key,", "operations.find_person.class", "a GET changes nothing"},
		{"    encoding: form\n", "    encoding: xml\n", "operations.create_person.encoding", "none of the values"},
		{"residency: event.data_region == null", "residency: event.data_regoin == null", "routes.customer.residency", "undefined field 'data_regoin'"},
		{"requires_consent: payments", "requires_consent: pay'ments", "routes.customer.requires_consent", "is no purpose"},
		{"    entity: customer\n", "    entity: invoice\n", "routes.customer.requires_consent", "undefined field 'consents'"},
		{"when: ids.person_id == null", "when: ids.person_id", "routes.customer.steps.create.when", "a condition is a boolean"},
		{"If-Match: remembered.etag", "If-Match: event.entity_version", "routes.customer.steps.change.headers.If-Match", "a header is a string"},
		{"If-Match: remembered.etag", "If Match: remembered.etag", "routes.customer.steps.change.headers.If Match", "is not a header name"},
		{"      - operation: upsert\n        when: event.status == 'closed'", "      - when: event.status == 'closed'", "routes.customer.cases[1]", "a delete leaves nothing to remember"},
		{"found: {person_id: body.id}", "found: {Person: body.id}", "routes.customer.steps.find.remember.found.Person", "is not a name"},
		{"name: {type: string, required: true}\n      meta", "name: {type: string, required: true, nullable: true}\n      meta", "operations.create_person.body.name", "is never null"},
	} {
		if strings.Count(richer, tc.old) < 1 {
			t.Errorf("%q is not in the profile", tc.old)
			continue
		}
		err := load(t, strings.Replace(richer, tc.old, tc.new, 1))
		es, _ := err.(Errors)
		found := false
		for _, e := range es {
			found = found || e.Path == tc.path && e.Line > 0 && e.Column > 0 && strings.Contains(e.Why, tc.why)
		}
		if !found {
			t.Errorf("%q -> %q: got\n%v\nwant %s: ...%s...", tc.old, tc.new, err, tc.path, tc.why)
		}
	}
}
