package sandbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
)

// TestFaults: each fault, what the client sees, what the log says and whether the effect was applied.
func TestFaults(t *testing.T) {
	for _, c := range []struct {
		name, fault string
		status      int // 0 = no answer
		log         string
		check       func(t *testing.T, a answer)
	}{
		{"throttle", `{"name":"throttle"}`, 429, "create_payment rejected 429", func(t *testing.T, a answer) {
			if a.header.Get("Retry-After") != "" {
				t.Errorf("headers %v", a.header)
			}
		}},
		{"throttle with times", `{"name":"throttle","retry_after":7,"reset_after":9}`, 429, "create_payment rejected 429", func(t *testing.T, a answer) {
			if a.header.Get("Retry-After") != "7" || a.header.Get("X-RateLimit-Reset") != fmt.Sprint(newClock().now().Unix()+9) {
				t.Errorf("headers %v", a.header)
			}
		}},
		{"ambiguous", `{"name":"ambiguous"}`, 0, "create_payment applied 0", nil},
		{"ambiguous 500", `{"name":"ambiguous","mode":"500"}`, 500, "create_payment applied 500", nil},
		{"ambiguous 504", `{"name":"ambiguous","mode":"504"}`, 504, "create_payment applied 504", nil},
		{"error", `{"name":"error"}`, 500, "create_payment rejected 500", nil},
		{"error 503", `{"name":"error","status":503,"retry_after":2}`, 503, "create_payment rejected 503", nil},
		{"drop_before", `{"name":"drop_before"}`, 0, "create_payment rejected 0", nil},
		{"slow", `{"name":"slow","delay_ms":5}`, 201, "create_payment applied 201", nil},
		{"slow after", `{"name":"slow","delay_ms":5,"phase":"after"}`, 201, "create_payment applied 201", nil},
		{"outage", `{"name":"outage"}`, 0, "create_payment rejected 0", nil},
		{"outage 503", `{"name":"outage","mode":"503"}`, 503, "create_payment rejected 503", nil},
		{"reject", `{"name":"reject"}`, 400, "create_payment rejected 400", nil},
		{"reject 422", `{"name":"reject","status":422}`, 422, "create_payment rejected 422", nil},
		{"unauthorized", `{"name":"unauthorized"}`, 401, "create_payment rejected 401", nil},
		{"bad_json", `{"name":"bad_json"}`, 201, "create_payment applied 201", func(t *testing.T, a answer) {
			if json.Valid([]byte(a.body)) {
				t.Errorf("valid JSON: %s", a.body)
			}
		}},
		{"empty_body", `{"name":"empty_body"}`, 201, "create_payment applied 201", func(t *testing.T, a answer) {
			if a.body != "" {
				t.Errorf("body %s", a.body)
			}
		}},
		{"huge_body", `{"name":"huge_body","bytes":3000000}`, 201, "create_payment applied 201", func(t *testing.T, a answer) {
			if len(a.body) < 3_000_000 || !json.Valid([]byte(a.body)) || !strings.HasPrefix(a.text(t, "id"), "pay_") {
				t.Errorf("body of %d bytes", len(a.body))
			}
		}},
		{"truncated", `{"name":"truncated"}`, 201, "create_payment applied 201", func(t *testing.T, a answer) {
			if !errors.Is(a.err, io.ErrUnexpectedEOF) {
				t.Errorf("error %v, want one of a body that broke off", a.err)
			}
		}},
		{"wrong_length", `{"name":"wrong_length"}`, 201, "create_payment applied 201", func(t *testing.T, a answer) {
			if json.Valid([]byte(a.body)) || a.body == "" {
				t.Errorf("body %s, want half of one", a.body)
			}
		}},
		{"garbage", `{"name":"garbage"}`, 0, "create_payment applied 201", func(t *testing.T, a answer) {
			if !strings.Contains(a.err.Error(), "malformed HTTP") {
				t.Errorf("error %v, want one of an answer that is no HTTP", a.err)
			}
		}},
		{"drift", `{"name":"drift","fields":"reference"}`, 201, "create_payment applied 201", func(t *testing.T, a answer) {
			if a.field(t, "drift_field.added") != true || a.text(t, "reference") != "drift_reference" {
				t.Errorf("body %s", a.body)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, "plain", sandbox.Options{})
			b.fault(strings.TrimSuffix(c.fault, "}") + `,"count":1,"operation":"create_payment"}`)
			b.want(b.do("PUT", "/things/a", `{}`), 201) // another operation
			a := b.do("POST", "/payments", `{"reference":"r"}`)
			answered := a.err == nil || errors.Is(a.err, io.ErrUnexpectedEOF) // the head has come
			if answered != (c.status != 0) || a.status != c.status {
				t.Fatalf("answer %d %v, want %d", a.status, a.err, c.status)
			}
			b.wantLast(c.log)
			if c.check != nil {
				c.check(t, a)
			}
			if f := b.s.FaultStates(); len(f) != 1 || f[0].Fired != 1 {
				t.Errorf("faults %+v", f)
			}
			b.want(b.do("POST", "/payments", `{"reference":"r"}`), 201) // count is spent
			b.wantLast("create_payment applied 201")
			if got := b.s.Counters()["faults."+strings.Fields(c.name)[0]]; got != 1 {
				t.Errorf("counter of the fault is %d, want 1", got)
			}
		})
	}
}

// TestAmbiguousSparesRefusals: a refused request has nothing to be ambiguous about and does not spend the count.
func TestAmbiguousSparesRefusals(t *testing.T) {
	b := start(t, "plain", sandbox.Options{})
	b.fault(`{"name":"ambiguous","count":1}`)
	b.want(b.do("POST", "/payments", `x`), 400)
	if a := b.do("POST", "/payments", `{}`); a.err == nil {
		t.Errorf("answer %d, want none", a.status)
	}
}

func TestFaultForATime(t *testing.T) {
	b := start(t, "plain", sandbox.Options{Faults: []string{"outage=mode:503,for_ms:60000"}})
	b.want(b.do("GET", "/things", ""), 503)
	b.clock.add(time.Minute)
	b.want(b.do("GET", "/things", ""), 200)
}

func TestFaultOffByName(t *testing.T) {
	b := start(t, "plain", sandbox.Options{})
	b.fault(`{"name":"error","operation":"list_things"}`)
	b.fault(`{"name":"error","operation":"get_thing"}`)
	b.fault(`{"name":"error","operation":"get_thing","status":502}`) // replaces the one before
	if got := len(b.s.FaultStates()); got != 2 {
		t.Errorf("%d faults, want 2", got)
	}
	b.want(b.do("GET", "/things/a", ""), 502)
	b.fault(`{"name":"error","on":false,"operation":"get_thing"}`)
	b.want(b.do("GET", "/things/a", ""), 404)
	b.want(b.do("GET", "/things", ""), 500)
	b.fault(`{"name":"error","on":false}`)
	b.want(b.do("GET", "/things", ""), 200)
}

// TestHangHoldsAnAppliedAnswer: the known state for killing a client: applied, logged, not answered.
func TestHangHoldsAnAppliedAnswer(t *testing.T) {
	b := start(t, "plain", sandbox.Options{})
	b.fault(`{"name":"hang","match":"r-2"}`)
	done := make(chan answer, 1)
	go func() { done <- b.do("POST", "/payments", `{"reference":"r-2"}`) }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.s.WaitHolding(ctx, 1); err != nil {
		t.Fatal(err)
	}
	b.wantLast("create_payment applied 201")
	if a := b.admin("GET", "/faults", ""); !strings.Contains(a.body, `"holding":1`) {
		t.Errorf("faults %s", a.body)
	}
	b.want(b.do("POST", "/payments", `{"reference":"r-1"}`), 201) // others go on
	b.fault(`{"name":"hang","on":false}`)
	b.want(<-done, 201)
}

// TestBlackHole: a request that is never answered has done nothing, also later, and its connection ends with its client.
func TestBlackHole(t *testing.T) {
	b := start(t, "plain", sandbox.Options{})
	b.fault(`{"name":"black_hole","operation":"create_payment"}`)
	ctx, leave := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(ctx, "POST", b.l.URL+"/payments", strings.NewReader(`{"reference":"r"}`))
		resp, err := b.client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	limit, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := b.s.WaitHolding(limit, 1); err != nil {
		t.Fatal(err)
	}
	b.want(b.do("PUT", "/things/a", `{}`), 201) // others go on
	leave()
	if err := <-done; err == nil {
		t.Error("it was answered")
	}
	for b.s.FaultStates()[0].Holding > 0 {
		select {
		case <-limit.Done():
			t.Fatal("held although its client has gone")
		case <-time.After(time.Millisecond):
		}
	}
	b.fault(`{"name":"black_hole","on":false}`)
	b.want(b.do("POST", "/payments", `{"reference":"r-2"}`), 201)
	for _, e := range b.effects(0) {
		if e.Reference == "r" && (e.Effect != "rejected" || e.Status != 0) {
			t.Errorf("the request that got no answer: %+v", e)
		}
	}
}

// TestDelayedRequestIsExecutedOnce: a repeat that arrives while the first is under way waits and gets its answer; the
// first is executed although its client has gone.
func TestDelayedRequestIsExecutedOnce(t *testing.T) {
	b := start(t, "pushcash", sandbox.Options{})
	b.fault(`{"name":"hang","phase":"before","count":1}`)
	gone, leave := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() {
		req, _ := http.NewRequestWithContext(gone, "POST", b.l.URL+"/user", strings.NewReader(userBody("c")))
		req.Header.Set("Authorization", "Bearer k")
		resp, err := b.client.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		first <- err
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.s.WaitHolding(ctx, 1); err != nil {
		t.Fatal(err)
	}
	leave()
	if err := <-first; err == nil {
		t.Error("the first client got an answer")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if a := b.do("POST", "/user", userBody("c")); a.status != 200 {
				t.Errorf("repeat: %d %v", a.status, a.err)
			}
		})
	}
	// Another key does not wait.
	b.want(b.do("POST", "/user", userBody("other")), 200)
	if es := b.effects(0); len(es) != 1 {
		t.Errorf("log while the first is held: %+v", es)
	}
	b.fault(`{"name":"hang","on":false}`)
	wg.Wait()
	var applied, replayed int
	for _, e := range b.effects(0) {
		if e.Reference == "c" && e.Effect == "applied" {
			applied++
		} else if e.Reference == "c" && e.Effect == "replayed" {
			replayed++
		}
	}
	if applied != 1 || replayed != 4 {
		t.Errorf("applied %d, replayed %d, want 1 and 4", applied, replayed)
	}
}

func TestCloseReleasesHeldRequests(t *testing.T) {
	s, err := sandbox.New("plain", sandbox.Options{Faults: []string{"hang"}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := s.Start(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	done := make(chan error, 1)
	go func() {
		resp, err := client.Get(l.URL + "/things")
		if err == nil {
			resp.Body.Close()
		}
		done <- err
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.WaitHolding(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := <-done; err == nil {
		t.Error("the held request was answered")
	}
}

// FuzzRequest: whatever is sent, a vendor answers with a status of its own and JSON, never with a panic, and the log
// grows by one entry whose effect fits the status.
func FuzzRequest(f *testing.F) {
	f.Add("POST", "/user", "", userBody("c"), "k")
	f.Add("POST", "/intent", "", `{"user_id":"u","direction":"cash_in","amount":1,"currency":"USD"}`, "")
	f.Add("POST", "/authorize", "", `{"token":"t","direction":"cash_out","amount":1,"currency":"USD","approval_mode":"manual"}`, "k")
	f.Add("POST", "/refund", "", `{"intent_id":"i","amount":5}`, "")
	f.Add("POST", "/simulate/dispute/resolve", "", `{"dispute_id":"d","result":"won"}`, "")
	f.Add("GET", "/user/list", "cursor=djEudXNlcnMuMQ&created_at.after=2026-01-01&status=created", "", "")
	f.Add("GET", "/intent/x/y/z", "%zz", "", "")
	f.Add("PUT", "/things/a", "", `{"reference":{}}`, "")
	f.Add("POST", "/payments", "", `{"reference":"\ud800"}`, "")
	f.Add("POST", "/v2/customers", "", customerBody("c"), "k")
	f.Add("POST", "/v2/customers/batch", "", `{"items":[`+customerBody("c")+`,{},7,[]],"continue_on_error":true}`, "k")
	f.Add("PATCH", "/v2/customers/x", "", `{"metadata":{"a":null,"b":[1,{"c":"\ud800"}]}}`, "")
	f.Add("POST", "/v2/payments", "", paymentBody(7, "i"), "k")
	f.Add("POST", "/v1/payments", "", `{"amount":1000,"currency":"USD"}`, "")
	f.Add("GET", "/v2/payments", "limit=3&updated_since=2026-01-01T00:00:00Z&metadata[external_id]=x&starting_after=y", "", "")
	f.Add("POST", "/v2/webhooks", "", `{"url":"http://127.0.0.1:1/","events":["*"]}`, "")
	f.Add("POST", "/oauth/token", "", `grant_type=client_credentials&client_id=a&client_secret=b`, "")
	f.Add("POST", "/v1/api-keys", "", `{"name":"n","type":"restricted","permissions":["payments"],"expiration":"2030-01-01"}`, "")
	var all []*sandbox.Sandbox
	for _, v := range sandbox.Vendors() {
		o := sandbox.Options{LimitScale: 1e9, EffectsMax: 10, Switches: map[string]string{"page_size": "1"}}
		if v == "finfusion" {
			o.Switches = map[string]string{"slow_by": "0s", "drift": "on"}
		}
		s, err := sandbox.New(v, o)
		if err != nil {
			f.Fatal(err)
		}
		all = append(all, s)
	}
	f.Cleanup(func() {
		for _, s := range all {
			s.Close()
		}
	})
	f.Fuzz(func(t *testing.T, method, path, query, body, key string) {
		for _, s := range all {
			r := httptest.NewRequest("GET", "/", strings.NewReader(body))
			r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
			r.Header["Authorization"], r.Header["X-Idempotency-Key"] = []string{"Bearer k"}, []string{key}
			r.Header["Idempotency-Key"] = []string{key}
			if path == "/oauth/token" {
				r.Header["Content-Type"] = []string{"application/x-www-form-urlencoded"}
			}
			w := httptest.NewRecorder()
			before := s.Counters()["requests"]
			func() {
				defer func() {
					if p := recover(); p != nil && p != http.ErrAbortHandler {
						panic(p)
					}
				}()
				s.Handler().ServeHTTP(w, r)
				if !json.Valid(w.Body.Bytes()) {
					t.Errorf("%s: %s %q %q: answer %d %q is not JSON", s.Name(), method, path, body, w.Code, w.Body)
				}
			}()
			c := s.Counters()
			if c["requests"] != before+1 {
				t.Errorf("%s: %s %q: %d log entries for one request", s.Name(), method, path, c["requests"]-before)
			}
			if w.Code == 0 || w.Code > 599 {
				t.Errorf("status %d", w.Code)
			}
		}
	})
}
