package profile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// sound is a small profile without a fault; the cases of TestLoadErrors break one line of it each.
const sound = `profile: acme
environments:
  production: {base_url: https://api.acme.example}
auth: {kind: bearer, secret: api_key}
limits:
  writes: {kind: sliding_window, n: 10, window: 1m}
vars:
  mode: {enum: [fast, slow], default: fast}
verdicts:
  - {status: 409, when: body.code == 'dup', verdict: duplicate}
operations:
  create_person:
    method: POST
    path: /person
    class: key
    key: {in: header, name: Idempotency-Key}
    timeout: 10s
    limits: [writes]
    body:
      email: {type: string, required: true}
      size: integer
      mode: string
      name:
        type: object
        fields:
          first: string
    answer:
      id: string
  drop_person:
    method: DELETE
    path: /person/{id}
    class: overwrite
    ends: [person_id]
routes:
  customer:
    entity: customer
    semantics: latest
    steps:
      create:
        operation: create_person
        map:
          email: event.email
          size: event.entity_version
          mode: vars.mode
          name.first: event.first_name
        remember:
          ids: {person_id: body.id}
      drop:
        operation: drop_person
        params: {id: ids.person_id}
    cases:
      - operation: delete
        when: ids.person_id != null
        steps: [drop]
      - operation: delete
        ignore: nothing_sent
      - when: event.status == 'active'
        steps: [create]
      - ignore: inactive
  invoice:
    entity: invoice
    semantics: every
    references:
      buyer: {entity: customer, key: event.customer_id, id: person_id}
    cases:
      - ignore: no_counterpart
`

// load parses and compiles.
func load(t testing.TB, text string) error {
	t.Helper()
	p, err := Parse("acme.yaml", []byte(text))
	if err != nil {
		return err
	}
	_, err = p.Compile(Options{Connector: "acme", Schemas: schemas(t)})
	return err
}

func TestSoundProfileLoads(t *testing.T) {
	if err := load(t, sound); err != nil {
		t.Fatal(err)
	}
}

// TestLoadErrors: in each case a piece of the sound profile is replaced. The § in the new text is where the error
// must point.
func TestLoadErrors(t *testing.T) {
	cases := []struct{ old, new, path, why, hint string }{
		// Structure of the file.
		{"semantics: latest", "§semantic: latest", "routes.customer.semantic", `unknown key "semantic"`, "did you mean semantics?"},
		{"profile: acme", "§profil: acme", "profil", `unknown key "profil"`, "did you mean profile?"},
		{"profile: acme", "profile: §Acme Inc", "profile", "is not a name", "lower-case"},
		{"profile: acme", "profile: §[acme]", "profile", "expected a text, found a list", "quotes"},
		{"n: 10", "n: §ten", "limits.writes.n", "expected an integer, found a text", ""},
		{"n: 10", "n: §0", "limits.writes.n", "expected an integer from 1 to", ""},
		{"n: 10, ", "", "limits.writes", "the key n is missing", "window"},
		{"window: 1m", "window: §60", "limits.writes.window", "expected a duration, found an integer", "unit"},
		{"window: 1m", "window: §1 minute", "limits.writes.window", "is not a duration", "500ms"},
		{"window: 1m", "window: §1ms", "limits.writes.window", "expected a duration from 1s", ""},
		{"window: 1m}", "window: 1m, burst: 3}", "limits.writes", "a sliding_window has no burst", ""},
		{"kind: sliding_window", "kind: §sliding", "limits.writes.kind", "none of the values", "known here"},
		{"timeout: 10s", "timeout: §1h", "operations.create_person.timeout", "from 100ms to 5m0s", ""},
		{"method: POST", "method: §post", "operations.create_person.method", "none of the values", "POST"},
		{"path: /person\n", "path: §person\n", "operations.create_person.path", "is not a path", "host"},
		{"path: /person/{id}", "path: §/person/{id", "operations.drop_person.path", "parameter that is no {name}", ""},
		{"class: key", "class: §kye", "operations.create_person.class", "none of the values", "did you mean key?"},
		{"    key: {in: header, name: Idempotency-Key}\n", "", "operations.create_person", "class key needs the key", "Idempotency-Key"},
		{"in: header, name: Idempotency-Key", "in: body, name: token", "operations.create_person", "is no text field of the body", "declare it"},
		{"class: overwrite", "class: overwrite\n    key_retention: 1h", "operations.drop_person", "only class key has", ""},
		{"limits: [writes]", "limits: §[write]", "operations.create_person.limits", `no limit is named "write"`, "did you mean writes?"},
		{"ends: [person_id]", "ends: [persn_id]", "operations.drop_person", `ends "persn_id", which no step remembers`, "did you mean person_id?"},
		{"email: {type: string, required: true}", "email: {type: §text, required: true}", "operations.create_person.body.email.type", "none of the values", "string"},
		{"size: integer", "size: {type: integer, max: §lots}", "operations.create_person.body.size.max", "expected an integer", ""},
		{"size: integer", "size: §{type: integer, min: 5, max: 4}", "", "min is above max", ""},
		{"required: true", "required: §yes", "operations.create_person.body.email.required", "expected a boolean, found a text", "true or false"},
		{"verdict: duplicate", "verdict: §dupe", "verdicts[0].verdict", "none of the values", "known here"},
		{"verdict: duplicate", "verdict: reject", "verdicts[0]", "verdict reject needs a reason", "reason"},
		{"verdict: duplicate", "verdict: duplicate, no_effect: true", "verdicts[0]", "an accepted request has an effect", ""},
		{"status: 409", "status: §409x", "verdicts[0].status", "is not a status", "5xx"},
		{"status: 409", "status: §99", "verdicts[0].status", "from 100 to 599", ""},
		{"base_url: https://api.acme.example", "base_url: §api.acme.example", "environments.production.base_url", "absolute", "https"},
		{"base_url: https://api.acme.example", "base_url: §https://u:p@api.acme.example", "environments.production.base_url", "no credentials", ""},
		{", secret: api_key", "", "auth", "the key secret is missing", "api_key"},
		{"kind: bearer", "kind: §oauth3", "auth.kind", "none of the values", "did you mean oauth2?"},
		{"secret: api_key}", "secret: api_key, header: §X-Key}", "auth.header", "kind bearer has no header", ""},
		{"{kind: bearer, secret: api_key}", "{kind: oauth2, token_url: §login.example, client_id: id, client_secret: key}", "auth.token_url", "neither a path nor a URL", "/oauth/token"},
		{"{kind: bearer, secret: api_key}", "{kind: oauth2, token_url: /t, client_id: id}", "auth", "the key client_secret is missing", ""},
		{"{kind: bearer, secret: api_key}", `{kind: hmac, secret: k, header: X-Sig, sign: §"{metod}{body}"}`, "auth.sign", "{metod} is none of what can be signed", "did you mean method?"},
		{"{kind: bearer, secret: api_key}", `{kind: hmac, secret: k, header: X-Sig, sign: §"{timestamp}{body}"}`, "auth.sign", "a timestamp that no header tells", "X-Timestamp"},
		{"{kind: bearer, secret: api_key}", "{kind: mtls, client_cert: c}", "auth", "client_cert and client_key belong together", "PEM"},
		{"base_url: https://api.acme.example}", "base_url: https://api.acme.example, secret_prefixes: {api_key: §prod_}}", "environments.production.secret_prefixes.api_key", "expected a list", ""},
		{"      size: integer", "      size: integer\n      §size: string", "", "already defined", ""},
		{"profile: acme", "profile: §&x acme", "profile", "anchor", ""},

		// One part against another.
		{"operation: create_person", "operation: §create_persn", "routes.customer.steps.create.operation", `no operation is named "create_persn"`, "did you mean create_person?"},
		{"steps: [drop]", "steps: §[dorp]", "routes.customer.cases[0].steps", `no step "dorp"`, "did you mean drop?"},
		{"steps: [drop]", "ignore: §Not Sent", "routes.customer.cases[0].ignore", "is not a name", ""},
		{"        ignore: nothing_sent", "        ignore: nothing_sent\n        steps: [drop]", "routes.customer.cases[1]", "exactly one of", ""},
		{"      - ignore: inactive\n", "", "routes.customer", "may fit no case", "end the cases"},
		{"      - ignore: inactive\n", "      - ignore: inactive\n      - §ignore: never\n", "routes.customer.cases[4]", "never reached", "move it up"},
		{"id: person_id}", "id: persn_id}", "routes.invoice.references.buyer", `no route remembers the id "persn_id"`, "remember it"},
		{"steps: [create]", "ignore: later", "routes.customer.steps.create", "no case uses this step", ""},
		{"entity: invoice", "entity: §invoise", "routes.invoice.entity", `no schema of an entity "invoise"`, "did you mean invoice?"},
		{"  invoice:\n    entity: invoice", "  §invoice:\n    entity: customer", "routes.invoice", "has the route customer already", "one route"},

		// Expressions.
		{"email: event.email", "email: event§.emial", "routes.customer.steps.create.map.email", "undefined field 'emial'", "did you mean email?"},
		{"email: event.email", "email: \"lower(event§.emial)\"", "routes.customer.steps.create.map.email", "undefined field 'emial'", "did you mean email?"},
		{"email: event.email", "email: §evnt.email", "routes.customer.steps.create.map.email", "evnt is neither a variable nor a function", "did you mean event?"},
		{"email: event.email", "email: lowercase§(event.email)", "routes.customer.steps.create.map.email", "lowercase is neither a variable nor a function", ""},
		{"email: event.email", "email: ref.buyer.person_id", "routes.customer.steps.create.map.email", "undefined field 'buyer'", ""},
		{"email: event.email", "email: §event.entity_version", "routes.customer.steps.create.map.email", "field email of create_person is a string, the expression gives an integer", "string(...)"},
		{"email: event.email", "email: §event.occurred_at", "routes.customer.steps.create.map.email", "gives a timestamp", "iso(...)"},
		{"email: event.email", "email: §event.billing_address", "routes.customer.steps.create.map.email", "gives an object", ""},
		{"email: event.email", "email: §null", "routes.customer.steps.create.map.email", "found nothing", ""},
		{"email: event.email", "email: event.email +§", "routes.customer.steps.create.map.email", "Syntax error", "FORMAT.md"},
		{"email: event.email", "email: |\n            event.emial", "routes.customer.steps.create.map.email", "undefined field 'emial' (line 1, column 6 of the expression)", "email"},
		{"size: event.entity_version", "size: §event.email", "routes.customer.steps.create.map.size", "field size of create_person is an integer, the expression gives a string", "int(...)"},
		{"size: event.entity_version", "§siz: event.entity_version", "routes.customer.steps.create.map.siz", `operation create_person has no field "siz"`, "did you mean size?"},
		{"name.first: event.first_name", "§name.frist: event.first_name", "routes.customer.steps.create.map.name.frist", "has no field", "did you mean name.first?"},
		{"name.first: event.first_name", "§name: event.extensions", "routes.customer.steps.create.map.name", "mapped one by one", "name.first"},
		{"          email: event.email\n", "", "routes.customer.steps.create", "does not set email", "map: {email"},
		{"mode: vars.mode", "mode: vars§.mod", "routes.customer.steps.create.map.mode", "undefined field 'mod'", "did you mean mode?"},
		{"          mode: vars.mode\n", "", "vars.mode", "no expression reads this variable", "vars.mode"},
		{"params: {id: ids.person_id}", "params: {§person: ids.person_id}", "routes.customer.steps.drop.params.person", "has no parameter", "known here: id"},
		{"params: {id: ids.person_id}", "params: {id: ids§.persn_id}", "routes.customer.steps.drop.params.id", "undefined field 'persn_id'", "did you mean person_id?"},
		{"        params: {id: ids.person_id}\n", "", "routes.customer.steps.drop", "parameter {id} of /person/{id} is not set", "params"},
		{"when: event.status == 'active'", "when: event.status == §'actve'", "routes.customer.cases[2].when", `event.status is never "actve"`, "did you mean active?"},
		{"when: event.status == 'active'", "when: event.status in ['active', §'gone']", "routes.customer.cases[2].when", `event.status is never "gone"`, "known here"},
		{"when: event.status == 'active'", "when: §event.status", "routes.customer.cases[2].when", "a condition is a boolean, the expression gives a string", "compare"},
		{"when: event.status == 'active'", "when: §ref.buyer.person_id != null", "routes.customer.cases[2].when", "ref is neither", "variables here"},
		{"when: event.status == 'active'", "when: event.entity_version §== 'active'", "routes.customer.cases[2].when", "no matching overload", ""},
		{"when: body.code == 'dup'", "when: §event.status == 'x'", "verdicts[0].when", "event is neither", "variables here: body, headers, status"},
		{"key: event.customer_id", "key: event§.custmer_id", "routes.invoice.references.buyer.key", "undefined field", "did you mean customer_id?"},
		{"person_id: body.id", "person_id: body§.ident", "routes.customer.steps.create.remember.ids.person_id", "undefined field 'ident'", ""},
	}
	if len(cases) < 25 {
		t.Fatalf("%d cases, want at least 25", len(cases))
	}
	for _, c := range cases {
		if strings.Count(sound, c.old) < 1 {
			t.Errorf("%q is not in the sound profile", c.old)
			continue
		}
		text := strings.Replace(sound, c.old, c.new, 1)
		line, column := 0, 0
		if i := strings.Index(text, "§"); i >= 0 {
			before := text[:i]
			line = 1 + strings.Count(before, "\n")
			column = 1 + utf8.RuneCountInString(before[strings.LastIndexByte(before, '\n')+1:])
			text = strings.Replace(text, "§", "", 1)
		}
		err := load(t, text)
		es, ok := errors.AsType[Errors](err)
		if !ok {
			t.Errorf("%q -> %q: error %v, want Errors", c.old, c.new, err)
			continue
		}
		found := false
		for _, e := range es {
			if e.Line < 1 || e.Column < 1 {
				t.Errorf("%q: an error without a position: %v", c.new, e)
			}
			found = found || e.File == "acme.yaml" && (c.path == "" || e.Path == c.path) && strings.Contains(e.Why, c.why) && strings.Contains(e.Hint, c.hint) &&
				(line == 0 || e.Line == line && e.Column == column)
		}
		if !found {
			t.Errorf("%q -> %q: got\n%v\nwant acme.yaml:%d:%d: %s: ...%s...; ...%s...", c.old, c.new, err, line, column, c.path, c.why, c.hint)
		}
	}
}

// TestAllErrorsAtOnce: one pass reports everything that it can find, in file order.
func TestAllErrorsAtOnce(t *testing.T) {
	text := strings.NewReplacer("method: POST", "method: post", "n: 10", "n: x", "semantics: every", "semantics: some").Replace(sound)
	es, ok := errors.AsType[Errors](load(t, text))
	if !ok || len(es) != 3 {
		t.Fatalf("got %v, want 3 errors", es)
	}
	for i := 1; i < len(es); i++ {
		if es[i-1].Line > es[i].Line {
			t.Errorf("errors are not in file order:\n%v", es)
		}
	}
	var many strings.Builder
	many.WriteString("profile: x\n")
	for i := range 100 {
		fmt.Fprintf(&many, "bad_%d: 1\n", i)
	}
	if _, err := Parse("x.yaml", []byte(many.String())); len(err.(Errors)) != ErrorsMax {
		t.Errorf("%d errors, want %d at most", len(err.(Errors)), ErrorsMax)
	}
}

func TestFilesThatAreNoProfile(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "comment": "# nothing\n", "list": "- a\n", "text": "hello", "two": "profile: a\n---\nprofile: b\n",
		"bad indent": "a:\n  b: 1\n c: 2\n", "tab": "a:\n\tb: 1\n", "open quote": `a: "x`, "deep": strings.Repeat("[", 1000), "deep block": strings.Repeat("- ", 1000) + "x",
		"large": "a: " + strings.Repeat("x", FileBytesMax), "binary": "\x00\xff\xfe", "alias bomb": "a: &a [x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
		"merge": "a: &a {x: 1}\nb: {<<: *a}\n",
	} {
		p, err := Parse(name, []byte(text))
		if _, ok := errors.AsType[Errors](err); !ok || p != nil {
			t.Errorf("%s: profile %v, error %v, want Errors", name, p, err)
		}
	}
}

func TestLoad(t *testing.T) {
	for _, name := range Embedded() {
		if p, err := Load(name); err != nil || p.Name != name {
			t.Errorf("Load(%q) = %v, %v", name, p, err)
		}
	}
	if _, err := Load("pushcsh"); err == nil || !strings.Contains(err.Error(), "did you mean pushcash?") {
		t.Errorf("Load of an unknown name: %v", err)
	}
	file := filepath.Join(t.TempDir(), "acme.yaml")
	if _, err := Load(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Load of no file: %v", err)
	}
	if err := os.WriteFile(file, []byte(sound), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := Load(file); err != nil || p.Name != "acme" {
		t.Errorf("Load of a file: %v, %v", p, err)
	}
	if err := os.WriteFile(file, []byte("nonsense: 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), file+":1:1: nonsense") {
		t.Errorf("the error does not show the file: %v", err)
	}
}

func TestOptions(t *testing.T) {
	p, err := Load("pushcash")
	if err != nil {
		t.Fatal(err)
	}
	set := schemas(t)
	for _, c := range []struct {
		name string
		o    Options
		err  string
	}{
		{"no environment", Options{Connector: "a", Schemas: set}, "choose one of sandbox, production"},
		{"unknown environment", Options{Connector: "a", Environment: "prod", Schemas: set}, `no environment is named "prod"`},
		{"unknown var", Options{Connector: "a", Environment: "sandbox", Vars: map[string]string{"webhok_url": "x"}, Schemas: set}, "did you mean webhook_url?"},
		{"bad var", Options{Connector: "a", Environment: "sandbox", Vars: map[string]string{"profile": "loose"}, Schemas: set}, "one of strict, lean"},
		{"bad base URL", Options{Connector: "a", BaseURL: "localhost:80", Schemas: set}, "absolute"},
		{"no connector", Options{Environment: "sandbox", Schemas: set}, "no name"},
		{"no schemas", Options{Connector: "a", Environment: "sandbox"}, "no schemas"},
		{"limit that it has not", Options{Connector: "a", Environment: "sandbox", Limits: map[string]LimitChange{"crates": {N: 1}}, Schemas: set}, "no limit \"crates\"; did you mean creates?"},
		{"burst of a window", Options{Connector: "a", Environment: "sandbox", Limits: map[string]LimitChange{"creates": {Burst: 1}}, Schemas: set}, "remove burst"},
		{"limit out of bounds", Options{Connector: "a", Environment: "sandbox", Limits: map[string]LimitChange{"creates": {Window: time.Millisecond}}, Schemas: set}, "window from 1s"},
		{"negative scale", Options{Connector: "a", Environment: "sandbox", LimitScale: -1, Schemas: set}, "positive"},
	} {
		if _, err := p.Compile(c.o); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v, want an error with %q", c.name, err, c.err)
		}
	}
	c, err := p.Compile(Options{Connector: "a", BaseURL: "http://127.0.0.1:9101/", LimitScale: 2.5, Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.URL("/user"); got != "http://127.0.0.1:9101/user" {
		t.Errorf("URL = %s", got)
	}
	if c.Limits[0].N != 250 || c.Operations["create_user"].Limits[0] != c.Limits[0] || c.Operations["create_intent"].Limits[0] != c.Limits[0] {
		t.Errorf("limits %+v: want 250, shared by users and intents", c.Limits[0])
	}
	own, err := p.Compile(Options{Connector: "a", Environment: "sandbox", LimitScale: 2, Schemas: set, Limits: map[string]LimitChange{c.Limits[0].Name: {N: 7, Window: time.Minute}}})
	if err != nil || own.Limits[0].N != 14 || own.Limits[0].Window != time.Minute || own.Version != c.Version {
		t.Errorf("own numbers for a limit: %v, %+v; want 14 a minute and the same mapping", err, own.Limits[0])
	}
	if tiny, err := p.Compile(Options{Connector: "a", Environment: "sandbox", LimitScale: 1e-9, Schemas: set}); err != nil || tiny.Limits[0].N != 1 {
		t.Errorf("a tiny scale: %v, want 1 request at least", err)
	}
}

// TestVersion: the mapping version moves with what reaches requests and with nothing else, and the text behind it
// rebuilds the mapping.
func TestVersion(t *testing.T) {
	p, err := Load("pushcash")
	if err != nil {
		t.Fatal(err)
	}
	set := schemas(t)
	compile := func(o Options) *Compiled {
		t.Helper()
		o.Schemas = set
		c, err := p.Compile(o)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	a := compile(Options{Connector: "a", Environment: "sandbox"})
	for name, o := range map[string]Options{
		"connector":   {Connector: "b", Environment: "sandbox"},
		"environment": {Connector: "a", Environment: "production"},
		"base URL":    {Connector: "a", BaseURL: "http://localhost:1"},
		"limit scale": {Connector: "a", Environment: "sandbox", LimitScale: 3},
		"a default":   {Connector: "a", Environment: "sandbox", Vars: map[string]string{"profile": "strict"}},
	} {
		if got := compile(o).Version; got != a.Version {
			t.Errorf("%s changes the version", name)
		}
	}
	if got := compile(Options{Connector: "a", Environment: "sandbox", Vars: map[string]string{"profile": "lean"}}); got.Version == a.Version {
		t.Error("a var that reaches requests does not change the version")
	} else if again, err := CompileText(got.Text, Options{Connector: "a", Environment: "sandbox"}); err != nil || again.Version != got.Version || string(again.Text) != string(got.Text) {
		t.Errorf("CompileText gives another mapping: %v", err)
	}
	q, err := Parse("pushcash.yaml", append([]byte("# changed\n"), p.text...))
	if err != nil {
		t.Fatal(err)
	}
	if c, err := q.Compile(Options{Connector: "a", Environment: "sandbox", Schemas: set}); err != nil || c.Version == a.Version {
		t.Errorf("another text has the same version (%v)", err)
	}
	for _, text := range []string{"", "{}", `{"format":2}`, `{"format":1,"vendor":"x","profile":"","schemas":{}}`, string(a.Text[:len(a.Text)/2]), strings.Replace(string(a.Text), `"customer":{`, `"custom":{`, 1)} {
		if _, err := CompileText([]byte(text), Options{Connector: "a", Environment: "sandbox"}); err == nil {
			t.Errorf("CompileText took %.40q", text)
		}
	}
}

// FuzzParse: whatever the bytes, Parse and Compile do not panic, and an error of the file has a position or
// speaks of the whole file.
func FuzzParse(f *testing.F) {
	f.Add([]byte(sound))
	f.Add([]byte(richer))
	for _, name := range Embedded() {
		text, err := embedded.ReadFile(name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	for _, s := range []string{"", "a", "- - -", "? a\n: b", "a: !!int x", "{a: [}", "profile: x\nroutes: {a: {cases: [{when: '1'}]}}", "profile: |\n  x\n", "&a *a", "<<: {a: 1}", "profile: \"\\u0000\""} {
		f.Add([]byte(s))
	}
	set := schemas(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse("f.yaml", text)
		if err == nil {
			_, err = p.Compile(Options{Connector: "f", BaseURL: "http://localhost", Schemas: set})
		}
		es, ok := errors.AsType[Errors](err)
		if !ok {
			return
		}
		if len(es) == 0 || len(es) > ErrorsMax {
			t.Fatalf("%d errors", len(es))
		}
		for _, e := range es {
			if e.File != "f.yaml" || e.Why == "" || e.Line < 0 || e.Line > 0 && e.Column < 1 {
				t.Fatalf("error without file, reason or position: %#v", e)
			}
		}
	})
}

// What late_apply is where the profile does not say: the time that the sender waits for the answer.
func TestLateApplyDefault(t *testing.T) {
	p, err := Load("pushcash")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ config, want time.Duration }{{0, timeoutDefault}, {3 * time.Second, 3 * time.Second}, {time.Hour, timeoutDefault}} {
		k, err := p.Compile(Options{Connector: "c", BaseURL: "http://127.0.0.1:1", Environment: "sandbox", Schemas: schemas(t), RequestTimeout: c.config})
		if err != nil {
			t.Fatal(err)
		}
		if got := k.Operations["cancel_intent"].LateApply; got != c.want {
			t.Errorf("late_apply with a request timeout of %v: %v, want %v", c.config, got, c.want)
		}
	}
}
