package drift_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"

	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/drift"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vendor is a sandbox, and the contract of its built-in profile.
type vendor struct {
	t     *testing.T
	admin string
	check *drift.Checker
}

func start(t *testing.T, name string) *vendor {
	t.Helper()
	s, err := sandbox.New(name, sandbox.Options{LimitScale: 10})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Start(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); http.DefaultClient.CloseIdleConnections() })
	return &vendor{t, l.AdminURL, checker(t, name, l.URL)}
}

func checker(t *testing.T, name, at string) *drift.Checker {
	t.Helper()
	p, err := profile.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.NewSet(schema.EmbeddedFiles())
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(profile.Options{Connector: name, Environment: "sandbox", BaseURL: at, Schemas: set, Secrets: []string{"api_key"}})
	if err != nil {
		t.Fatal(err)
	}
	dir, _ := p.Contract()
	pairs, err := drift.Load(dir)
	if err != nil || len(pairs) < len(profile.Embedded()) {
		t.Fatalf("%s: %d pairs, %v", name, len(pairs), err)
	}
	sender := deliver.NewSender(deliver.SenderConfig{BaseURL: at, Connections: 1, Credential: deliver.NewCredential(c, func(string) (string, error) { return "dev_key", nil })})
	t.Cleanup(sender.Close)
	return &drift.Checker{Pairs: pairs, Operations: c.Operations, Sender: sender, Writes: drift.AllWrites}
}

func (v *vendor) fault(body string) {
	v.t.Helper()
	resp, err := http.Post(v.admin+"/faults", "application/json", strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 200 {
		v.t.Fatalf("fault %s: %d %s", body, resp.StatusCode, text)
	}
}

func (v *vendor) run() *drift.Report {
	v.t.Helper()
	r, err := v.check.Check(context.Background())
	if err != nil {
		v.t.Fatal(err)
	}
	return r
}

// The contracts are what our sandboxes answer, byte for byte, and a plain sandbox shows no drift.
func TestSandboxesKeepTheirContracts(t *testing.T) {
	for _, name := range profile.Embedded() {
		t.Run(name, func(t *testing.T) {
			v := start(t, name)
			for range 2 { // the second on what the first has left
				if r := v.run(); len(r.Drift) > 0 || r.Made() != len(v.check.Pairs) {
					t.Errorf("%d of %d pairs made, drift %+v; want all and none", r.Made(), len(v.check.Pairs), r.Drift)
				}
			}
			if _, err := v.check.Record(context.Background()); err != nil {
				t.Fatal(err)
			}
			for _, p := range v.check.Pairs {
				got, err := p.Encode()
				if err != nil {
					t.Fatal(err)
				}
				file := filepath.Join("..", "profile", "testdata", "contract", name, p.Name+".json")
				if want, err := os.ReadFile(file); err != nil || string(got) != string(want) {
					t.Errorf("%s is not what the sandbox answers (%v); run weir vendor check %s --record against it and read the change", file, err, name)
				}
			}
		})
	}
}

// Every operation of a built-in profile has a pair.
func TestEveryOperationHasAPair(t *testing.T) {
	for _, name := range profile.Embedded() {
		c := checker(t, name, "http://127.0.0.1:1")
		for op, o := range c.Operations {
			if !slices.ContainsFunc(c.Pairs, func(p *drift.Pair) bool { return p.Operation == op || o.Read && o.Method == p.Request.Method }) {
				t.Errorf("%s: no pair of operation %s", name, op)
			}
		}
	}
}

// Drift of each kind is named, with the pair and the field.
func TestDriftIsNamed(t *testing.T) {
	for _, c := range []struct {
		vendor, fault string
		want          []string // pair kind path want -> got; each of them is found
		only          []drift.Kind
	}{
		{"pushcash", `{"name":"drift","fields":"-","missing":"url"}`, []string{"create_intent missing_field url string -> "}, []drift.Kind{drift.Missing, drift.NewField}},
		{"pushcash", `{"name":"drift","fields":"-","retyped":"amount,created_at"}`, []string{"get_intent retyped_field amount integer -> string", "get_user retyped_field created_at string -> integer"}, []drift.Kind{drift.Retyped, drift.NewField}},
		{"pushcash", `{"name":"drift","fields":"status"}`, []string{"get_intent new_value status created -> drift_status", "get_user new_value status created -> drift_status"}, []drift.Kind{drift.NewValue, drift.NewField}},
		{"pushcash", `{"name":"drift","fields":"-"}`, []string{"get_user new_field name.drift_field  -> object", "create_refund new_field error.drift_field  -> object"}, []drift.Kind{drift.NewField}},
		{"pushcash", `{"name":"drift","fields":"message"}`, []string{"authorize changed_text error.message no credential has this id -> drift_message"}, []drift.Kind{drift.TextChanged, drift.NewField}},
		{"pushcash", `{"name":"reject","operation":"cancel_intent","status":409}`, []string{"cancel_intent other_status  200 -> 409", "get_canceled_intent new_value status canceled -> created"}, []drift.Kind{drift.OtherStatus, drift.NewValue}},
		{"pushcash", `{"name":"bad_json","operation":"create_intent"}`, []string{"create_intent retyped_field  object -> no JSON"}, []drift.Kind{drift.Retyped}},
		{"pushcash", `{"name":"empty_body","operation":"get_intent"}`, []string{"get_intent retyped_field  object -> no body"}, []drift.Kind{drift.Retyped}},
		{"finfusion", `{"name":"drift","fields":"-","missing":"has_more,brand"}`, []string{"find_customers missing_field has_more boolean -> ", "create_payment missing_field payment_method.card.brand string -> ", "find_payments missing_field data[].payment_method.card.brand string -> "}, []drift.Kind{drift.Missing, drift.NewField}},
		{"finfusion", `{"name":"drift","fields":"-","retyped":"value,index,metadata"}`, []string{"create_payment retyped_field amount.value integer -> string", "create_customer_batch retyped_field results[].index integer -> string", "create_customer retyped_field metadata object -> string"}, []drift.Kind{drift.Retyped, drift.NewField}},
		{"finfusion", `{"name":"drift","fields":"brand,code"}`, []string{"find_payments new_value data[].payment_method.card.brand visa -> drift_brand", "delete_customer_again new_value error.code VAL003 -> drift_code"}, []drift.Kind{drift.NewValue, drift.NewField}},
		{"finfusion", `{"name":"drift","fields":"-"}`, []string{"create_payment new_field amount.drift_field  -> object"}, []drift.Kind{drift.NewField}},
		{"finfusion", `{"name":"drift","fields":"message"}`, []string{"create_payment_declined changed_text error.message the payment failed -> drift_message"}, []drift.Kind{drift.TextChanged, drift.NewField}},
		{"plain", `{"name":"drift","fields":"-","missing":"version","retyped":"reference"}`, []string{"put_customer missing_field version integer -> ", "get_thing retyped_field reference string -> integer", "list_things missing_field data[].version integer -> "}, []drift.Kind{drift.Missing, drift.Retyped, drift.NewField}},
	} {
		t.Run(c.vendor+c.fault, func(t *testing.T) {
			v := start(t, c.vendor)
			v.fault(c.fault)
			r := v.run()
			var got []string
			breaking := 0
			for _, f := range r.Drift {
				got = append(got, fmt.Sprintf("%s %s %s %s -> %s", f.Pair, f.Kind, f.Path, f.Want, f.Got))
				if !slices.Contains(c.only, f.Kind) {
					t.Errorf("%+v is of no kind that this fault makes", f)
				}
				if soft := f.Kind == drift.NewField || f.Kind == drift.TextChanged || f.Kind == drift.Deprecated; f.Breaking == soft {
					t.Errorf("%+v: breaking is wrong", f)
				} else if !soft {
					breaking++
				}
			}
			for _, w := range c.want {
				if !slices.Contains(got, w) {
					t.Errorf("%q is not found; found are\n%s", w, strings.Join(got, "\n"))
				}
			}
			if r.Breaking() != breaking {
				t.Errorf("Breaking() = %d, want %d", r.Breaking(), breaking)
			}
		})
	}
}

// respond is a vendor with one answer after the other; the last one stays.
func respond(t *testing.T, answers ...func(http.ResponseWriter)) (*httptest.Server, *[]string) {
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		seen = append(seen, r.Method+" "+r.URL.RequestURI()+" "+string(body))
		answers[min(len(seen), len(answers))-1](w)
	}))
	t.Cleanup(s.Close)
	return s, &seen
}

func say(status int, body string, headers ...string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func own(t *testing.T, at string, writes drift.Writes, files map[string]string) *drift.Checker {
	t.Helper()
	dir := fstest.MapFS{}
	for name, text := range files {
		dir[name+".json"] = &fstest.MapFile{Data: []byte(text)}
	}
	pairs, err := drift.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	sender := deliver.NewSender(deliver.SenderConfig{BaseURL: at, Connections: 1})
	t.Cleanup(sender.Close)
	return &drift.Checker{Pairs: pairs, Sender: sender, Writes: writes}
}

const (
	readPair  = `{"order":1,"request":{"method":"GET","path":"/a"},"status":200,"answer":{"type":"object","fields":{"n":"number","s":{"type":"string","nullable":true},"l":{"type":"array","items":{"type":"object","fields":{"id":"string","note":{"type":"string","optional":true}}}}}}}`
	writePair = `{"order":2,"writes":true,"request":{"method":"POST","path":"/b/{read.id}?name={reference}","body":{"tag":"{reference}","n":7,"list":["{read.id}"]}},"status":201}`
	moneyPair = `{"order":3,"writes":true,"sandbox_only":true,"request":{"method":"POST","path":"/pay","body":{}},"status":201}`
)

func TestHeadersAndShapes(t *testing.T) {
	s, _ := respond(t, say(200, `{"n":7,"s":null,"l":[{"id":"a"},{"id":"b","note":"c"},{"id":3},{"id":4}]}`, "Deprecation", "@1767225600", "Sunset", "Fri, 01 Jan 2027 00:00:00 GMT"))
	r, err := own(t, s.URL, drift.NoWrites, map[string]string{"read": readPair}).Check(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := []drift.Finding{
		{Pair: "read", Kind: drift.Deprecated, Got: "deprecated since 2026-01-01, gone from 2027-01-01"},
		{Pair: "read", Kind: drift.Retyped, Path: "l[].id", Want: "string", Got: "integer", Breaking: true},
	}
	if !slices.Equal(r.Drift, want) {
		t.Errorf("drift %+v, want %+v", r.Drift, want)
	}
}

// What may be written depends on the environment, and a request is never made without what it needs.
func TestWhatRuns(t *testing.T) {
	files := map[string]string{"read": strings.Replace(readPair, `"n":"number","s":{"type":"string","nullable":true},"l":{"type":"array","items":{"type":"object","fields":{"id":"string","note":{"type":"string","optional":true}}}}`, `"id":"string"`, 1), "write": writePair, "pay": moneyPair}
	for _, c := range []struct {
		writes drift.Writes
		answer string
		want   []string // what the vendor sees
	}{
		{drift.NoWrites, `{"id":"x/1"}`, []string{"GET /a "}},
		{drift.SafeWrites, `{"id":"x/1"}`, []string{"GET /a ", `POST /b/x%2F1?name=REF {"list":["x/1"],"n":7,"tag":"REF"}`}},
		{drift.AllWrites, `{"id":"x/1"}`, []string{"GET /a ", `POST /b/x%2F1?name=REF {"list":["x/1"],"n":7,"tag":"REF"}`, "POST /pay {}"}},
		{drift.AllWrites, `{"id":{}}`, []string{"GET /a ", "POST /pay {}"}}, // nothing gives {read.id}
	} {
		s, seen := respond(t, say(200, c.answer), say(201, ""))
		r, err := own(t, s.URL, c.writes, files).Check(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range *seen {
			got = append(got, strings.ReplaceAll(line, r.Reference, "REF"))
		}
		if !slices.Equal(got, c.want) || r.Made() != len(c.want) || len(r.Pairs) != 3 {
			t.Errorf("writes %d, answer %s: the vendor sees %q, want %q; %+v", c.writes, c.answer, got, c.want, r.Pairs)
		}
	}
}

// A vendor that does not answer, or refuses the credential, has not drifted. A busy one is asked again; a write whose
// answer tells nothing is not repeated.
func TestUnanswered(t *testing.T) {
	files := map[string]string{"read": readPair}
	write := map[string]string{"write": strings.NewReplacer("{read.id}", "x").Replace(writePair)}
	good := say(200, `{"n":1,"s":"","l":[]}`)
	for _, c := range []struct {
		name    string
		files   map[string]string
		answers []func(http.ResponseWriter)
		seen    int
		status  int // of the error, -1: no error
		refused bool
	}{
		{"throttled once", files, []func(http.ResponseWriter){say(429, "", "Retry-After", "0"), good}, 2, -1, false},
		{"throttled for long", files, []func(http.ResponseWriter){say(429, "", "Retry-After", "3600")}, 1, 429, false},
		{"refused", files, []func(http.ResponseWriter){say(401, "")}, 1, 401, true},
		{"forbidden", files, []func(http.ResponseWriter){say(403, "")}, 1, 403, true},
		{"an error of a write", write, []func(http.ResponseWriter){say(500, ""), say(201, "")}, 1, 500, false},
		{"an error of a read", files, []func(http.ResponseWriter){say(503, ""), good}, 2, -1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, seen := respond(t, c.answers...)
			_, err := own(t, s.URL, drift.AllWrites, c.files).Check(context.Background())
			e, is := errors.AsType[*drift.UnansweredError](err)
			switch {
			case c.status < 0 && err != nil:
				t.Errorf("error %v, want none", err)
			case c.status >= 0 && (!is || e.Status != c.status || e.Refused() != c.refused || !strings.Contains(err.Error(), "weir-check-")):
				t.Errorf("error %v, want one of status %d that names the objects", err, c.status)
			}
			if len(*seen) != c.seen {
				t.Errorf("%d requests, want %d", len(*seen), c.seen)
			}
		})
	}
	s, _ := respond(t, good)
	s.Close()
	_, err := own(t, s.URL, drift.AllWrites, write).Check(context.Background())
	if e, is := errors.AsType[*drift.UnansweredError](err); !is || e.Status != 0 || e.Refused() {
		t.Errorf("a closed port: error %v, want an unanswered one without status", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{`: "EOF", `{"order":1,"nonsense":1,"request":{"method":"GET","path":"/"}}`: "nonsense",
		`{"request":{"method":"BREW","path":"/"}}`:                                                         "request.method",
		`{"request":{"method":"GET","path":"//evil.example/"}}`:                                            "request.path",
		`{"request":{"method":"GET","path":"/","body":{}}}`:                                                "no body",
		`{"request":{"method":"DELETE","path":"/"}}`:                                                       "writes: true",
		`{"sandbox_only":true,"request":{"method":"POST","path":"/"}}`:                                     "sandbox_only",
		`{"request":{"method":"GET","path":"/"},"answer":"string"}`:                                        "recorded together",
		`{"request":{"method":"GET","path":"/"},"status":200,"answer":"decimal"}`:                          "is no type",
		`{"request":{"method":"GET","path":"/"},"status":200,"answer":{"type":"string","items":"string"}}`: "belongs to another type",
		`{"request":{"method":"GET","path":"/","headers":{"authorization":"Bearer x"}}}`:                   "credential",
		`{"request":{"method":"GET","path":"/{later.id}"}}`:                                                "no pair later runs before",
		`{"request":{"method":"GET","path":"/"},"status":200,"answer":` + strings.Repeat(`{"type":"array","items":`, 70) + `"string"` + strings.Repeat("}", 70) + `}`: "nested deeper",
	} {
		_, err := drift.Load(fstest.MapFS{"pair.json": {Data: []byte(text)}})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "pair.json: ") {
			t.Errorf("%.80s: error %v, want one of pair.json with %q", text, err, want)
		}
	}
	if _, err := drift.Load(fstest.MapFS{"Bad-Name.json": {Data: []byte(readPair)}}); err == nil {
		t.Error("a file whose name is no name is accepted")
	}
	_, err := own(t, "http://127.0.0.1:1", drift.AllWrites, map[string]string{"read": `{"request":{"method":"GET","path":"/"}}`}).Check(context.Background())
	if err == nil || !strings.Contains(err.Error(), "record it") {
		t.Errorf("a pair without an answer: error %v, want one that says to record it", err)
	}
}

// FuzzContract: a pair that is read has a file that reads as the same pair, and no answer makes a check panic. What was
// recorded of an answer is no drift.
func FuzzContract(f *testing.F) {
	f.Add(readPair, `{"n":1,"s":"one of two","l":[{"id":"x"},{"id":null,"m":1.5}]}`)
	f.Add(writePair, `[1,null,"a b c",{"x":{}}]`)
	f.Fuzz(func(t *testing.T, pair, answer string) {
		drift.CheckOne(t, pair, []byte(answer))
	})
}
