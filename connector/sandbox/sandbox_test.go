package sandbox_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirsync/weir/connector/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a fake clock, safe for concurrent use.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// bundle is a started sandbox and a client of it.
type bundle struct {
	t      testing.TB
	s      *sandbox.Sandbox
	l      sandbox.Listener
	client *http.Client
	clock  *clock
	key    string
}

func start(t testing.TB, vendor string, o sandbox.Options) *bundle {
	t.Helper()
	b := &bundle{t: t, clock: newClock(), key: "push_sandbox_test", client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	if o.Now == nil {
		o.Now = b.clock.now
	}
	s, err := sandbox.New(vendor, o)
	if err != nil {
		t.Fatalf("New(%s): %v", vendor, err)
	}
	b.s = s
	if b.l, err = s.Start(context.Background(), "", ""); err != nil {
		t.Fatalf("Start: %v", err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		b.client.CloseIdleConnections()
	})
	return b
}

// answer of one request; err is set when there was none.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

func (a answer) field(t testing.TB, path string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("answer %d %q is not JSON: %v", a.status, a.body, err)
	}
	for name := range strings.SplitSeq(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			t.Fatalf("answer %q has no %s", a.body, path)
		}
		v = m[name]
	}
	return v
}

func (a answer) text(t testing.TB, path string) string {
	t.Helper()
	s, ok := a.field(t, path).(string)
	if !ok {
		t.Fatalf("answer %q: %s is not a string", a.body, path)
	}
	return s
}

func (b *bundle) do(method, path, body string, headers ...string) answer {
	return b.send(b.l.URL, method, path, body, headers...)
}

func (b *bundle) admin(method, path, body string) answer {
	return b.send(b.l.AdminURL, method, path, body)
}

func (b *bundle) send(base, method, path, body string, headers ...string) answer {
	req, err := http.NewRequest(method, base+path, strings.NewReader(body))
	if err != nil {
		return answer{err: err}
	}
	// With GetBody, net/http sends a POST again by itself when the connection is lost and the request carries an
	// X-Idempotency-Key: the tests must see every loss.
	req.GetBody = nil
	req.Header.Set("Authorization", "Bearer "+b.key)
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := b.client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(data), err}
}

// want fails the test unless the answer has the status.
func (b *bundle) want(a answer, status int) answer {
	b.t.Helper()
	if a.err != nil || a.status != status {
		b.t.Fatalf("status %d, error %v, body %s; want status %d", a.status, a.err, a.body, status)
	}
	return a
}

func (b *bundle) fault(params string) {
	b.t.Helper()
	b.want(b.admin("POST", "/faults", params), 200)
}

// effects reads the log over the admin interface.
func (b *bundle) effects(since int64) []sandbox.Entry {
	b.t.Helper()
	a := b.want(b.admin("GET", fmt.Sprintf("/effects?since=%d", since), ""), 200)
	var out []sandbox.Entry
	dec := json.NewDecoder(strings.NewReader(a.body))
	dec.DisallowUnknownFields()
	for dec.More() {
		var e sandbox.Entry
		if err := dec.Decode(&e); err != nil {
			b.t.Fatalf("effects: %v", err)
		}
		out = append(out, e)
	}
	return out
}

// last is the newest log entry in short: operation effect status.
func (b *bundle) last() string {
	b.t.Helper()
	es := b.effects(0)
	if len(es) == 0 {
		return ""
	}
	e := es[len(es)-1]
	return fmt.Sprintf("%s %s %d", e.Operation, e.Effect, e.Status)
}

func (b *bundle) wantLast(want string) {
	b.t.Helper()
	if got := b.last(); got != want {
		b.t.Errorf("last log entry is %q, want %q", got, want)
	}
}

func (b *bundle) counter(name string) int64 {
	b.t.Helper()
	v, ok := b.want(b.admin("GET", "/counters", ""), 200).field(b.t, name).(float64) // a name without dots
	if !ok {
		b.t.Fatalf("there is no counter %s", name)
	}
	return int64(v)
}

func TestVendorsAndErrors(t *testing.T) {
	for _, v := range sandbox.Vendors() {
		b := start(t, v, sandbox.Options{LimitScale: 3})
		if b.l.Vendor != v || !strings.HasPrefix(b.l.URL, "http://127.0.0.1:") || b.l.AdminURL == b.l.URL || b.l.LimitScale != 3 {
			t.Errorf("listener of %s: %+v", v, b.l)
		}
		line, err := json.Marshal(b.l)
		if err != nil || !bytes.Contains(line, []byte(`"admin_url":"http://`)) {
			t.Errorf("listener as JSON: %s, %v", line, err)
		}
		if sandbox.Switches(v) == nil {
			t.Errorf("Switches(%s) = nil", v)
		}
	}
	for _, c := range []struct {
		vendor string
		o      sandbox.Options
		want   string
	}{
		{"nope", sandbox.Options{}, "known: finfusion, plain, pushcash"},
		{"plain", sandbox.Options{LimitScale: -1}, "LimitScale"},
		{"plain", sandbox.Options{Switches: map[string]string{"x": "y"}}, `"x" is unknown`},
		{"pushcash", sandbox.Options{Switches: map[string]string{"profile": "loose"}}, "want one of strict, lean"},
		{"pushcash", sandbox.Options{Faults: []string{"nope"}}, "unknown"},
		{"finfusion", sandbox.Options{Switches: map[string]string{"v1_sunset": "soon"}}, "2030-01-01"},
		{"finfusion", sandbox.Options{Switches: map[string]string{"oauth_clients": "id"}}, "ID:SECRET"},
		{"finfusion", sandbox.Options{Switches: map[string]string{"restricted_permissions": "all"}}, "payments, accounts"},
		{"finfusion", sandbox.Options{Switches: map[string]string{"webhook_url": "http://example.com"}}, "https URL"},
	} {
		if s, err := sandbox.New(c.vendor, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%s, %+v) = %v, %v, want an error with %q", c.vendor, c.o, s, err, c.want)
		}
	}
}

func TestListensOnLoopbackOnly(t *testing.T) {
	s, err := sandbox.New("plain", sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Start(context.Background(), "0.0.0.0:0", ""); err == nil || !strings.Contains(err.Error(), "loopback") {
		t.Errorf("Start on all addresses = %v, want a refusal", err)
	}
	if _, err := s.Start(context.Background(), "127.0.0.1:0", ":0"); err == nil {
		t.Error("Start with an admin listener on all addresses is accepted")
	}
}

func TestContextEndsListeners(t *testing.T) {
	s, err := sandbox.New("plain", sandbox.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := s.Start(ctx, "", ""); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := s.Close(); err != nil {
		t.Errorf("Close after the context ended: %v", err)
	}
	if _, err := s.Start(context.Background(), "", ""); err == nil {
		t.Error("Start after Close is accepted")
	}
}

func TestAdmin(t *testing.T) {
	b := start(t, "plain", sandbox.Options{})
	if got := b.effects(0); got != nil {
		t.Errorf("a new sandbox has effects: %v", got)
	}
	for i := range 5 {
		b.want(b.do("PUT", fmt.Sprintf("/things/t%d", i), `{"n":1}`), 201)
	}
	if got := b.effects(3); len(got) != 2 || got[0].Seq != 4 {
		t.Errorf("effects since 3: %+v", got)
	}
	if got := b.want(b.admin("GET", "/effects?since=1&limit=2", ""), 200).body; strings.Count(got, "\n") != 2 || !strings.HasPrefix(got, `{"seq":2,"at":"2026-03-01T12:00:00.000000Z","vendor":"plain","operation":"put_thing","object":"t1","reference":"","idempotency_key":"","status":201,"effect":"applied"}`) {
		t.Errorf("effects are %s", got)
	}
	if got := b.want(b.admin("GET", "/objects", ""), 200).body; strings.Count(got, "\n") != 5 {
		t.Errorf("objects: %s", got)
	}
	b.want(b.admin("GET", "/objects/none", ""), 404)
	b.want(b.admin("GET", "/effects?since=x", ""), 400)
	b.want(b.admin("POST", "/actions/none", "{}"), 400)
	b.want(b.admin("GET", "/healthz", ""), 200)
	for _, bad := range []string{`{"name":"nope"}`, `{"name":"slow","x":1}`, `x`} {
		if a := b.want(b.admin("POST", "/faults", bad), 400); !strings.Contains(a.body, "error") {
			t.Errorf("POST /faults %s: %s", bad, a.body)
		}
	}
	b.fault(`{"name":"slow","delay_ms":1}`)
	if a := b.admin("GET", "/faults", ""); !strings.Contains(a.body, `"name":"slow","on":true`) {
		t.Errorf("faults: %s", a.body)
	}
	if got := b.counter("requests"); got != 5 {
		t.Errorf("requests counted: %d, want 5", got)
	}
	b.want(b.admin("POST", "/reset", ""), 200)
	if got := b.effects(0); got != nil || b.counter("requests") != 0 || len(b.s.FaultStates()) != 0 {
		t.Errorf("after a reset: effects %v, faults %v", got, b.s.FaultStates())
	}
	b.want(b.do("GET", "/things/t1", ""), 404)
}

// TestLogOrderIsApplicationOrder: many writers of one thing; the log must tell the very order of the states kept, and
// its sequence has no holes.
func TestLogOrderIsApplicationOrder(t *testing.T) {
	b := start(t, "plain", sandbox.Options{EffectsFile: t.TempDir() + "/effects.ndjson"})
	const writers, writes = 8, 50
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range writes {
				a := b.do("PUT", "/things/one", fmt.Sprintf(`{"reference":"%d-%d"}`, w, i))
				if a.err != nil || a.status/100 != 2 {
					t.Errorf("PUT: %d %v", a.status, a.err)
				}
			}
		})
	}
	wg.Wait()
	var object struct {
		Versions []struct {
			Version int64
			State   struct{ Reference string }
		}
	}
	if err := json.Unmarshal([]byte(b.want(b.admin("GET", "/objects/one", ""), 200).body), &object); err != nil {
		t.Fatal(err)
	}
	es := b.effects(0)
	if len(es) != writers*writes || len(object.Versions) != len(es) {
		t.Fatalf("%d log entries, %d versions, want %d", len(es), len(object.Versions), writers*writes)
	}
	for i, e := range es {
		if e.Seq != int64(i+1) || e.Reference != object.Versions[i].State.Reference || object.Versions[i].Version != e.Seq {
			t.Fatalf("log entry %d is %+v, state applied then %+v", i, e, object.Versions[i])
		}
	}
	if fromFile := readEntries(t, b.s.Options().EffectsFile); fmt.Sprint(fromFile) != fmt.Sprint(es) {
		t.Error("the effects file differs from the log")
	}
}
