package profile

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/weirsync/weir/schema"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// describe is a plan with its requests, as the golden files show it.
func describe(t *testing.T, r *Route, in *Input) string {
	t.Helper()
	p, err := r.Plan(in)
	if err != nil {
		t.Fatalf("Plan: %v", err)
	}
	var b strings.Builder
	switch {
	case p.Ignore != "":
		fmt.Fprintf(&b, "ignore %s", p.Ignore)
		if len(p.Ends) > 0 {
			fmt.Fprintf(&b, " ends %s", strings.Join(p.Ends, ","))
		}
		if p.Leaves != nil {
			fmt.Fprintf(&b, " leaves %v %v", p.Leaves.IDs, p.Leaves.Remembered)
		}
		b.WriteByte('\n')
	case p.Refuse != nil:
		fmt.Fprintf(&b, "refuse %s: %s\n", p.Refuse, p.Refuse.Guidance)
	}
	for _, n := range p.Needs {
		fmt.Fprintf(&b, "needs %s: %s of %s %s\n", n.Name, n.ID, n.Entity, n.Key)
	}
	for i, s := range p.Steps {
		in := StandIn(p.Steps, i, in)
		if skip, err := s.Skip(in); err != nil {
			t.Fatalf("Skip %s: %v", s.Name, err)
		} else if skip {
			fmt.Fprintf(&b, "step %s is not needed yet\n", s.Name)
		}
		req, err := s.Build(in, p.Generation(i, 0))
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			fmt.Fprintf(&b, "step %s refuses %s: %s\n", s.Name, refusal, refusal.Guidance)
			continue
		}
		if err != nil {
			t.Fatalf("Build %s: %v", s.Name, err)
		}
		fmt.Fprintf(&b, "step %s: %s %s\n", s.Name, req.Method, req.Path)
		for _, name := range slices.Sorted(maps.Keys(req.Header)) {
			fmt.Fprintf(&b, "  %s: %s\n", name, req.Header.Get(name))
		}
		if req.Body != nil {
			if !s.Operation.decl.form && !json.Valid(req.Body) {
				t.Errorf("step %s: the body is not JSON: %s", s.Name, req.Body)
			}
			fmt.Fprintf(&b, "  %s\n", req.Body)
		}
		fmt.Fprintf(&b, "  key %q reference %q fingerprint %s\n", req.IdempotencyKey, req.Reference, req.Fingerprint)
		if len(s.Ends) > 0 {
			fmt.Fprintf(&b, "  ends %s\n", strings.Join(s.Ends, ","))
		}
		if p := s.Operation.Probe; p != nil {
			probe := p.Request(req)
			fmt.Fprintf(&b, "  probe %s: %s %s\n", probe.Operation.Name, probe.Method, probe.Path)
		}
	}
	return b.String()
}

func TestGoldenRequests(t *testing.T) {
	sent := map[string]string{"intent_id": "intent_1"}
	user := map[string]string{"user_id": "user_1"}
	lean := map[string]string{"profile": "lean", "webhook_url": "https://weir.example/hook", "account_id": "account_1"}
	off := map[string]string{"idempotency": "off"}
	bare := map[string]string{"idempotency": "off", "extensions": "off"}
	cust := map[string]string{"customer_id": "cust_1", "payment_method_id": "pm_old"}
	payment, paid := map[string]string{"payment_id": "pay_1"}, map[string]string{"amount": "12500 USD"}
	noIdentity := customer(fields{"extensions": fields{}})
	cases := []struct {
		name    string
		profile string
		vars    map[string]string
		in      Input
	}{
		{"customer", "pushcash", nil, Input{Event: customer(nil)}},
		{"customer with names and phone", "pushcash", nil, Input{Event: customer(fields{"kind": "organisation", "legal_name": "Acme", "first_name": "Ada", "last_name": "King", "phone": "+15550100"})}},
		{"customer lean without identity", "pushcash", lean, Input{Event: noIdentity}},
		{"customer strict without identity", "pushcash", nil, Input{Event: noIdentity}},
		{"customer with licence but no state", "pushcash", lean, Input{Event: customer(fields{"extensions": fields{"pushcash": fields{"government_id_type": "state_id", "government_id_last4": "1234"}}})}},
		{"customer identity not verified", "pushcash", nil, Input{Event: customer(fields{"extensions": fields{"pushcash": fields{"date_of_birth": "1990-12-10", "government_id_type": "ssn", "government_id_last4": "1234", "identity_verified": "false"}}})}},
		{"customer of an unknown id type", "pushcash", lean, Input{Event: customer(fields{"extensions": fields{"pushcash": fields{"government_id_type": "library_card", "government_id_last4": "1234"}}})}},
		{"customer lean with half an id", "pushcash", lean, Input{Event: customer(fields{"extensions": fields{"pushcash": fields{"government_id_last4": "1234"}}})}},
		{"customer known", "pushcash", nil, Input{Event: customer(nil), IDs: user}},
		{"customer deleted", "pushcash", nil, Input{Event: customer(fields{"operation": "delete"}), IDs: user}},
		{"customer tombstone", "pushcash", nil, Input{Event: tombstone("customer", "c-1"), IDs: user}},
		{"organisation", "pushcash", nil, Input{Event: customer(fields{"kind": "organisation", "legal_name": "Acme Trading"})}},
		{"single word name", "pushcash", nil, Input{Event: customer(fields{"legal_name": " Cher "})}},
		{"no email", "pushcash", nil, Input{Event: customer(fields{"email": nil})}},
		{"bad email", "pushcash", nil, Input{Event: customer(fields{"email": "ada at example"})}},
		{"no address", "pushcash", nil, Input{Event: customer(fields{"billing_address": nil})}},
		{"abroad", "pushcash", nil, Input{Event: customer(fields{"billing_address": fields{"line1": "1 Rue", "line2": nil, "city": "Paris", "region": nil, "postal_code": "75001", "country": "FR"}})}},
		{"no state", "pushcash", nil, Input{Event: customer(fields{"billing_address": fields{"line1": "1 Main", "line2": nil, "city": "Oakland", "region": nil, "postal_code": "94601", "country": "US"}})}},
		{"bad postal code", "pushcash", nil, Input{Event: customer(fields{"billing_address": fields{"line1": "1 Main", "line2": nil, "city": "Oakland", "region": "California", "postal_code": "9460", "country": "US"}})}},
		{"empty street", "pushcash", nil, Input{Event: customer(fields{"billing_address": fields{"line1": "", "line2": nil, "city": "Oakland", "region": "California", "postal_code": "94601-1234", "country": "US"}})}},
		{"contract", "pushcash", nil, Input{Event: contract(nil)}},
		{"contract tombstone", "pushcash", nil, Input{Event: tombstone("contract", "k-1")}},
		{"invoice open", "pushcash", nil, Input{Event: invoice(nil), Refs: known}},
		{"invoice issued with vars", "pushcash", lean, Input{Event: invoice(fields{"status": "issued"}), Refs: known}},
		{"invoice overdue changed", "pushcash", nil, Input{Event: invoice(fields{"status": "overdue"}), IDs: sent, Refs: known}},
		{"invoice void sent", "pushcash", nil, Input{Event: invoice(fields{"status": "void"}), IDs: sent}},
		{"invoice void", "pushcash", nil, Input{Event: invoice(fields{"status": "void"})}},
		{"invoice uncollectible sent", "pushcash", nil, Input{Event: invoice(fields{"status": "uncollectible"}), IDs: sent}},
		{"invoice uncollectible", "pushcash", nil, Input{Event: invoice(fields{"status": "uncollectible"})}},
		{"invoice paid sent", "pushcash", nil, Input{Event: invoice(fields{"status": "paid"}), IDs: sent}},
		{"invoice paid", "pushcash", nil, Input{Event: invoice(fields{"status": "paid"})}},
		{"invoice refunded", "pushcash", nil, Input{Event: invoice(fields{"status": "refunded"}), IDs: sent}},
		{"invoice refunded twice", "pushcash", nil, Input{Event: invoice(fields{"status": "refunded"}), IDs: map[string]string{"intent_id": "intent_1", "refund_id": "refund_1"}}},
		{"invoice refunded and never sent", "pushcash", nil, Input{Event: invoice(fields{"status": "refunded"})}},
		{"customer known, with a credential", "pushcash", nil, Input{Event: customer(fields{"extensions": fields{"pushcash": fields{"credential_id": "cred_1"}}}), IDs: user}},
		{"invoice charged", "pushcash", map[string]string{"collect": "authorize"}, Input{Event: invoice(nil), Refs: known}},
		{"invoice charged, then changed", "pushcash", map[string]string{"collect": "authorize"}, Input{Event: invoice(nil), IDs: sent, Refs: known}},
		{"invoice draft", "pushcash", nil, Input{Event: invoice(fields{"status": "draft"})}},
		{"invoice zero", "pushcash", nil, Input{Event: invoice(fields{"total_minor": int64(0)})}},
		{"invoice became zero", "pushcash", nil, Input{Event: invoice(fields{"total_minor": int64(0)}), IDs: sent}},
		{"credit note", "pushcash", nil, Input{Event: invoice(fields{"total_minor": int64(-5)})}},
		{"invoice in euro", "pushcash", nil, Input{Event: invoice(fields{"currency": "EUR"})}},
		{"invoice deleted sent", "pushcash", nil, Input{Event: invoice(fields{"operation": "delete"}), IDs: sent}},
		{"invoice tombstone sent", "pushcash", nil, Input{Event: tombstone("invoice", "i-1"), IDs: sent}},
		{"invoice tombstone", "pushcash", nil, Input{Event: tombstone("invoice", "i-1")}},
		{"intent id with odd characters", "pushcash", nil, Input{Event: tombstone("invoice", "i-1"), IDs: map[string]string{"intent_id": "a/b?c#d e"}}},

		// Vendor sheet finfusion, section 14, row by row.
		{"customer new", "finfusion", nil, Input{Event: withCard(fields{"phone": "+15550100", "data_region": "us"})}},
		{"customer new without a method or an address", "finfusion", nil, Input{Event: customer(fields{"billing_address": nil})}},
		{"customer new without idempotency", "finfusion", off, Input{Event: withCard(nil)}},
		{"customer new as documented", "finfusion", bare, Input{Event: withCard(nil)}},
		{"customer without email", "finfusion", nil, Input{Event: withCard(fields{"email": nil})}},
		{"customer changed", "finfusion", nil, Input{Event: withCard(fields{"billing_address": nil}), IDs: cust}},
		{"customer changed without extensions", "finfusion", bare, Input{Event: withCard(nil), IDs: cust}},
		{"customer without its method any more", "finfusion", bare, Input{Event: customer(nil), IDs: cust}},
		{"customer deleted", "finfusion", nil, Input{Event: withCard(fields{"operation": "delete"}), IDs: cust}},
		{"customer tombstone", "finfusion", nil, Input{Event: tombstone("customer", "c-1"), IDs: cust}},
		{"customer deleted without extensions", "finfusion", bare, Input{Event: withCard(fields{"operation": "delete"}), IDs: cust}},
		{"customer deleted and unknown", "finfusion", nil, Input{Event: tombstone("customer", "c-1")}},
		{"contract", "finfusion", nil, Input{Event: contract(nil)}},
		{"contract deleted", "finfusion", nil, Input{Event: contract(fields{"operation": "delete"})}},
		{"invoice open", "finfusion", nil, Input{Event: invoice(nil), Refs: known}},
		{"invoice issued of a contract with lines and dates", "finfusion", nil, Input{Event: invoice(fields{"status": "issued", "contract_id": "k-1", "due_at": at.Add(24 * time.Hour), "line_items": []any{fields{}, fields{}}}), Refs: known}},
		{"invoice without idempotency", "finfusion", off, Input{Event: invoice(nil), Refs: known}},
		{"invoice as documented", "finfusion", bare, Input{Event: invoice(nil), Refs: known}},
		{"invoice zero", "finfusion", nil, Input{Event: invoice(fields{"total_minor": int64(0)})}},
		{"credit note", "finfusion", nil, Input{Event: invoice(fields{"total_minor": int64(-5)})}},
		{"invoice sent, the same amount", "finfusion", nil, Input{Event: invoice(fields{"status": "overdue"}), IDs: payment, Remembered: paid}},
		{"invoice sent, another amount", "finfusion", nil, Input{Event: invoice(fields{"total_minor": int64(1)}), IDs: payment, Remembered: paid}},
		{"invoice paid sent", "finfusion", nil, Input{Event: invoice(fields{"status": "paid"}), IDs: payment, Remembered: paid}},
		{"invoice paid elsewhere", "finfusion", nil, Input{Event: invoice(fields{"status": "paid"})}},
		{"invoice void", "finfusion", nil, Input{Event: invoice(fields{"status": "void"}), IDs: payment}},
		{"invoice given up", "finfusion", nil, Input{Event: invoice(fields{"status": "uncollectible"})}},
		{"invoice draft", "finfusion", nil, Input{Event: invoice(fields{"status": "draft"})}},
		{"invoice deleted", "finfusion", nil, Input{Event: tombstone("invoice", "i-1"), IDs: payment}},

		{"customer", "plain", nil, Input{Event: customer(nil)}},
		{"customer without address", "plain", nil, Input{Event: customer(fields{"billing_address": nil, "email": nil, "legal_name": "Zoë \"Z\" \\\n\x01<&>\u2028 Ltd"})}},
		{"customer deleted", "plain", nil, Input{Event: customer(fields{"operation": "delete"})}},
		{"customer tombstone", "plain", nil, Input{Event: tombstone("customer", "c-1")}},
		{"contract", "plain", nil, Input{Event: contract(nil)}},
		{"contract tombstone", "plain", nil, Input{Event: tombstone("contract", "k-1")}},
		{"invoice open", "plain", nil, Input{Event: invoice(nil)}},
		{"invoice paid", "plain", nil, Input{Event: invoice(fields{"status": "paid"})}},
		{"invoice draft", "plain", nil, Input{Event: invoice(fields{"status": "draft"})}},
		{"invoice void", "plain", nil, Input{Event: invoice(fields{"status": "void"})}},
		{"invoice uncollectible", "plain", nil, Input{Event: invoice(fields{"status": "uncollectible"})}},
		{"invoice tombstone", "plain", nil, Input{Event: tombstone("invoice", "i-1")}},
		{"key of dots", "plain", nil, Input{Event: tombstone("customer", "..")}},
		{"key with a slash", "plain", nil, Input{Event: tombstone("customer", "a/b c")}},
	}
	for _, vendor := range Embedded() {
		var got strings.Builder
		for _, c := range cases {
			if c.profile == vendor {
				fmt.Fprintf(&got, "# %s\n%s\n", c.name, describe(t, routeOf(t, compiled(t, vendor, c.vars), c.in.Event.Entity), &c.in))
			}
		}
		file := filepath.Join("testdata", vendor+".golden")
		if *update {
			if err := os.WriteFile(file, []byte(got.String()), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		g, w := strings.Split(got.String(), "\n"), strings.Split(string(want), "\n")
		for i := range max(len(g), len(w)) {
			var a, b string
			if i < len(g) {
				a = g[i]
			}
			if i < len(w) {
				b = w[i]
			}
			if a != b {
				t.Fatalf("%s:%d:\n got %s\nwant %s\n(run with -update if it is meant)", file, i+1, a, b)
			}
		}
	}
}

func TestNullsAreLeftOut(t *testing.T) {
	r := routeOf(t, compiled(t, "plain", nil), "customer")
	in := &Input{Event: customer(fields{"email": nil, "phone": nil, "billing_address": nil})}
	p, _ := r.Plan(in)
	req, err := p.Steps[0].Build(in, 0)
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(req.Body, &body); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"email", "phone", "address"} {
		if v, ok := body[name]; ok {
			t.Errorf("%s is in the body as %v, want it left out", name, v)
		}
	}
}

// TestGeneration: a generation changes the generated key and nothing else; a natural key has none.
func TestGeneration(t *testing.T) {
	c := compiled(t, "pushcash", nil)
	build := func(entity string, in *Input, step, gen int) *Request {
		t.Helper()
		p, err := routeOf(t, c, entity).Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		req, err := p.Steps[step].Build(in, uint32(gen))
		if err != nil {
			t.Fatal(err)
		}
		return req
	}
	in := &Input{Event: invoice(nil), Refs: known}
	first, second := build("invoice", in, 0, 0), build("invoice", in, 0, 1)
	if first.IdempotencyKey == second.IdempotencyKey {
		t.Error("two generations of an intent have the same key")
	}
	if first.Fingerprint != second.Fingerprint {
		t.Error("the fingerprint depends on the generation")
	}
	later := &Input{Event: invoice(fields{"total_minor": int64(1)}), Refs: known}
	later.Event.Version++
	if got := build("invoice", later, 0, 0); got.IdempotencyKey != first.IdempotencyKey || got.Fingerprint == first.Fingerprint {
		t.Error("the key of a remembered create must depend on the entity id alone, the fingerprint on the content")
	}
	if got, want := first.IdempotencyKey, Key("pushcash", "pushcash.invoice", "create", "i-1", 0); got != want {
		t.Errorf("key %s, want %s", got, want)
	}
	if a, b := build("customer", &Input{Event: customer(nil)}, 0, 0), build("customer", &Input{Event: customer(nil)}, 0, 5); a.IdempotencyKey != "c-1" || b.IdempotencyKey != "c-1" {
		t.Errorf("natural keys %q and %q, want c-1 raw in every generation", a.IdempotencyKey, b.IdempotencyKey)
	}

	in.IDs = map[string]string{"intent_id": "intent_1"}
	p, _ := routeOf(t, c, "invoice").Plan(in)
	if a, b := p.Generation(0, 4), p.Generation(1, 4); a != 4 || b != 5 {
		t.Errorf("generations of cancel and create: %d and %d, want 4 and 5", a, b)
	}
}

// TestKeyBytes pins the form of keys: a request sent before an upgrade is repeated after it.
func TestKeyBytes(t *testing.T) {
	if got, want := Key("pushcash", "pushcash.invoice", "create", "i-1", 0), goldenKey; got != want {
		t.Errorf("Key = %q, want %q", got, want)
	}
	if Key("a", "bc", "", "", 0) == Key("ab", "c", "", "", 0) {
		t.Error("keys of different lists are equal")
	}
}

func TestResult(t *testing.T) {
	c := compiled(t, "pushcash", nil)
	create := &Input{Event: invoice(nil), Refs: known}
	cancel := &Input{Event: invoice(fields{"status": "void"}), IDs: map[string]string{"intent_id": "intent_9"}}
	cases := []struct {
		name string
		in   *Input
		body string
		want *Result
		err  string
	}{
		{"all", create, `{"id":"intent_1","url":"https://pay/1","new":[1]}`, &Result{IDs: map[string]string{"intent_id": "intent_1"}, Remembered: map[string]string{"payment_url": "https://pay/1"}, VendorID: "intent_1"}, ""},
		{"no url", create, `{"id":"intent_1","url":null}`, &Result{IDs: map[string]string{"intent_id": "intent_1"}, VendorID: "intent_1"}, ""},
		{"number as id", create, `{"id":12}`, &Result{IDs: map[string]string{"intent_id": "12"}, VendorID: "12"}, ""},
		{"no id", create, `{"url":"https://secret/1"}`, nil, "body.id"},
		{"empty id", create, `{"id":""}`, nil, "body.id"},
		{"null id", create, `{"id":null}`, nil, "body.id"},
		{"object as id", create, `{"id":{}}`, nil, "body.id"},
		{"not JSON", create, `<html>secret</html>`, nil, "body.id"},
		{"array", create, `[1]`, nil, "body.id"},
		{"two values", create, `{"id":"a"}{"id":"b"}`, nil, "body.id"},
		{"nothing", create, ``, nil, "body.id"},
		{"cancel", cancel, ``, &Result{VendorID: "intent_9"}, ""},
	}
	for _, tc := range cases {
		p, err := routeOf(t, c, "invoice").Plan(tc.in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Steps[len(p.Steps)-1].Result(tc.in, &Answer{Status: 200, Body: []byte(tc.body), At: at})
		switch {
		case tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)):
			t.Errorf("%s: error %v, want one that names %s", tc.name, err, tc.err)
		case tc.err != "" && strings.Contains(err.Error(), "secret"):
			t.Errorf("%s: the error shows the answer: %v", tc.name, err)
		case tc.err == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.err == "" && !reflect.DeepEqual(got, tc.want):
			t.Errorf("%s: %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// TestCallersMistakes: what the event is not to blame for is an error, never a refusal of the event.
func TestCallersMistakes(t *testing.T) {
	c := compiled(t, "pushcash", nil)
	r := routeOf(t, c, "invoice")
	in := &Input{Event: invoice(nil)} // its reference is not resolved
	p, err := r.Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Steps[0].Build(in, 0)
	if _, refused := errors.AsType[*Refusal](err); err == nil || refused || !strings.Contains(err.Error(), "customer is not resolved") {
		t.Errorf("Build without a reference: %v, want an error that names it", err)
	}
	if _, err := r.Plan(&Input{Event: customer(nil)}); err == nil {
		t.Error("Plan took an event of another entity")
	}
	if _, err := r.Plan(&Input{}); err == nil {
		t.Error("Plan took no event")
	}
	bad := invoice(nil)
	bad.Operation = "merge"
	bad.Fields["operation"] = "merge"
	if p, err := r.Plan(&Input{Event: bad}); err == nil && p.Refuse == nil && len(p.Steps) == 0 {
		t.Error("Plan of an unknown operation says nothing")
	}
}

// TestBrokenEvents: a field that is missing or of another type than the schema says never crashes a mapping, and
// never gives a request that is not JSON.
func TestBrokenEvents(t *testing.T) {
	for _, vendor := range Embedded() {
		c := compiled(t, vendor, nil)
		for _, make := range []func(fields) *schema.Event{customer, contract, invoice} {
			for name := range make(nil).Fields {
				for _, v := range []any{nil, "", "x", int64(-1), 1.5, true, []any{nil}, fields{}, fields{"line1": int64(1)}, []byte("b"), at} {
					e := make(nil)
					e.Fields[name] = v
					check(t, c, e)
					delete(e.Fields, name)
					check(t, c, e)
				}
			}
		}
	}
}

func check(t *testing.T, c *Compiled, e *schema.Event) {
	t.Helper()
	in := &Input{Event: e, Refs: known}
	p, err := routeOf(t, c, e.Entity).Plan(in)
	if err != nil {
		t.Errorf("%s: Plan: %v", c.Vendor, err)
		return
	}
	for _, s := range p.Steps {
		req, err := s.Build(in, 0)
		if r, ok := errors.AsType[*Refusal](err); ok {
			if r.Reason == "" || r.Path == "" || r.Guidance == "" {
				t.Errorf("%s %s: refusal without reason, path or guidance: %+v", c.Vendor, s.Name, r)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %s: %v", c.Vendor, s.Name, err)
			continue
		}
		if req.Body != nil && !json.Valid(req.Body) {
			t.Errorf("%s %s: not JSON: %s", c.Vendor, s.Name, req.Body)
		}
	}
}

// TestBuildIsDeterministic: the same event gives the same bytes, from the same mapping, from one compiled afresh
// and from one rebuilt from its text.
func TestBuildIsDeterministic(t *testing.T) {
	for _, vendor := range Embedded() {
		vars := map[string]string{"profile": "lean"}
		if vendor != "pushcash" {
			vars = nil
		}
		a, b := compiled(t, vendor, vars), compiled(t, vendor, vars)
		rebuilt, err := CompileText(a.Text, Options{Connector: vendor, Environment: "sandbox"})
		if err != nil {
			t.Fatal(err)
		}
		rapid.Check(t, func(t *rapid.T) {
			word := rapid.StringN(1, 20, 60)
			var e *schema.Event
			switch rapid.IntRange(0, 2).Draw(t, "entity") {
			case 0:
				e = customer(fields{"legal_name": word.Draw(t, "a") + " " + word.Draw(t, "b"), "phone": word.Draw(t, "phone"),
					"extensions": fields{"pushcash": rapid.MapOf(word, rapid.Map(word, func(s string) any { return s })).Draw(t, "ext")}})
			case 1:
				e = contract(fields{"amount_minor": rapid.Int64().Draw(t, "amount")})
			default:
				e = invoice(fields{"total_minor": rapid.Int64().Draw(t, "total"), "status": rapid.SampledFrom([]string{"open", "draft", "void", "paid"}).Draw(t, "status")})
			}
			e.Version = rapid.Int64Range(1, 1<<40).Draw(t, "version")
			gen := rapid.Uint32().Draw(t, "generation")
			var first []*Request
			for i, c := range []*Compiled{a, a, b, rebuilt} {
				in := &Input{Event: e, Refs: known}
				p, err := c.RoutesFor(e.Entity)[0].Plan(in)
				if err != nil {
					t.Fatal(err)
				}
				var reqs []*Request
				for j, s := range p.Steps {
					req, err := s.Build(in, p.Generation(j, gen))
					if err != nil {
						t.Fatal(err)
					}
					req.Operation = nil
					if !json.Valid(req.Body) {
						t.Fatalf("not JSON: %s", req.Body)
					}
					reqs = append(reqs, req)
				}
				if i == 0 {
					first = reqs
				} else if !reflect.DeepEqual(reqs, first) {
					t.Fatalf("build %d differs:\n%+v\n%+v", i, reqs, first)
				}
			}
		})
	}
}

// TestStringsReadBack: what the encoder writes, encoding/json reads back as the same text.
func TestStringsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes"))
		out := appendString(nil, s)
		var got string
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%q: %v", out, err)
		}
		if want := strings.ToValidUTF8(s, ""); strings.ReplaceAll(got, "\ufffd", "") != strings.ReplaceAll(want, "\ufffd", "") {
			t.Fatalf("%q reads back as %q", s, got)
		}
	})
}

func TestColumns(t *testing.T) {
	got := map[string][]string{}
	for _, col := range routeOf(t, compiled(t, "pushcash", nil), "customer").Columns() {
		got[col.Operation+"."+col.Field] = col.Sources
	}
	for field, want := range map[string][]string{
		"create_user.email":         {"email"},
		"create_user.name.last":     {"last_name", "legal_name"},
		"create_user.date_of_birth": {"extensions.pushcash.date_of_birth"},
	} {
		if !slices.Equal(got[field], want) {
			t.Errorf("sources of %s: %q, want %q", field, got[field], want)
		}
	}
	inv := routeOf(t, compiled(t, "pushcash", nil), "invoice").Columns()
	if !slices.ContainsFunc(inv, func(c Column) bool { return c.Field == "user_id" && slices.Equal(c.Sources, []string{"ref.customer"}) }) {
		t.Errorf("create_intent.user_id does not come from the customer: %+v", inv)
	}
}

// cpu is the time that this process has spent on processors.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkPlanBuild(b *testing.B) {
	for _, bc := range []struct {
		name, vendor string
		in           *Input
	}{
		{"pushcash/customer", "pushcash", &Input{Event: customer(nil)}},
		{"pushcash/invoice", "pushcash", &Input{Event: invoice(nil), Refs: known}},
		{"plain/customer", "plain", &Input{Event: customer(nil)}},
		{"plain/invoice", "plain", &Input{Event: invoice(nil)}},
	} {
		b.Run(bc.name, func(b *testing.B) {
			r := routeOf(b, compiled(b, bc.vendor, nil), bc.in.Event.Entity)
			b.ReportAllocs()
			start := cpu(b)
			for b.Loop() {
				p, err := r.Plan(bc.in)
				if err != nil || len(p.Steps) == 0 {
					b.Fatal(p, err)
				}
				for _, s := range p.Steps {
					if _, err := s.Build(bc.in, 0); err != nil {
						b.Fatal(err)
					}
				}
			}
			// What a shared machine leaves of the wall clock says little.
			b.ReportMetric(float64(cpu(b)-start)/float64(b.N), "cpu-ns/op")
		})
	}
}

const goldenKey = "hhsvbzq2bj6d3uaasmue6caw7io7jys4romn74nvg2uk3edypzwq"

// TestGeneratedKeyInBody: a generated key that travels in the body is not part of the fingerprint, wherever it
// stands; declared intent and reference are used.
func TestGeneratedKeyInBody(t *testing.T) {
	for _, order := range []string{"      token: string\n      email: {type: string, required: true}\n      ref: string\n", "      email: {type: string, required: true}\n      ref: string\n      token: string\n"} {
		text := strings.NewReplacer("in: header, name: Idempotency-Key}", "in: body, name: token}\n    reference: {in: body, name: ref}",
			"      email: {type: string, required: true}\n", order,
			"operation: create_person\n", "operation: create_person\n        intent: \"entity.id + '/' + event.kind\"\n        reference: \"'weir-' + entity.id\"\n").Replace(sound)
		p, err := Parse("acme.yaml", []byte(text))
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.Compile(Options{Connector: "acme", Schemas: schemas(t)})
		if err != nil {
			t.Fatal(err)
		}
		in := &Input{Event: customer(nil)}
		plan, err := routeOf(t, c, "customer").Plan(in)
		if err != nil {
			t.Fatal(err)
		}
		a, err := plan.Steps[0].Build(in, 0)
		if err != nil {
			t.Fatal(err)
		}
		b, err := plan.Steps[0].Build(in, 1)
		if err != nil {
			t.Fatal(err)
		}
		if a.Fingerprint != b.Fingerprint {
			t.Errorf("the generated key is part of the fingerprint:\n%s\n%s", a.Body, b.Body)
		}
		if string(a.Body) == string(b.Body) || !strings.Contains(string(b.Body), `"token":"`+b.IdempotencyKey+`"`) || !json.Valid(b.Body) {
			t.Errorf("the key %s is not in the body %s", b.IdempotencyKey, b.Body)
		}
		if want := Key("acme", "acme.customer", "create", "c-1/person", 0); a.IdempotencyKey != want {
			t.Errorf("key %s, want %s", a.IdempotencyKey, want)
		}
		if a.Reference != "weir-c-1" || !strings.Contains(string(a.Body), `"ref":"weir-c-1"`) {
			t.Errorf("reference %q in %s", a.Reference, a.Body)
		}
	}
}
