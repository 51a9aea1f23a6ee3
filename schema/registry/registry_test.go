package registry

import (
	"context"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"
	"go.uber.org/goleak"

	"github.com/weirsync/weir/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bundle is a fake registry that counts requests, and a client of it.
type bundle struct {
	reg   *srfake.Registry
	c     *Client
	asked atomic.Int64
	mu    sync.Mutex
	now   time.Time
}

func (b *bundle) clock() time.Time        { b.mu.Lock(); defer b.mu.Unlock(); return b.now }
func (b *bundle) advance(d time.Duration) { b.mu.Lock(); defer b.mu.Unlock(); b.now = b.now.Add(d) }

func start(t *testing.T) *bundle {
	t.Helper()
	b := &bundle{reg: srfake.New(), now: time.Unix(1, 0)}
	t.Cleanup(b.reg.Close)
	b.reg.Intercept(func(http.ResponseWriter, *http.Request) bool { b.asked.Add(1); return false })
	tr := &http.Transport{}
	t.Cleanup(tr.CloseIdleConnections)
	var err error
	if b.c, err = New(Options{URLs: []string{b.reg.URL()}, Transport: tr, Now: b.clock}); err != nil {
		t.Fatal(err)
	}
	return b
}

const contractSubject = schema.Subject("canonical.contract-value")

func contractText(t *testing.T) string {
	t.Helper()
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	return set.Reader("contract").Text
}

func TestByIDIsAskedOnce(t *testing.T) {
	b := start(t)
	text := contractText(t)
	b.reg.SeedSchema("another-value", 1, 41, sr.Schema{Schema: text})
	b.reg.SeedSchema(string(contractSubject), 5, 40, sr.Schema{Schema: `"int"`})
	if err := b.reg.SetCompat(string(contractSubject), sr.CompatNone); err != nil {
		t.Fatal(err)
	}
	if id, version, err := b.reg.RegisterSchema(string(contractSubject), sr.Schema{Schema: text}); id != 41 || version != 6 || err != nil {
		t.Fatalf("the fake gives the same text id %d version %d (%v), want 41 and 6", id, version, err)
	}

	var wg sync.WaitGroup
	got := make([]*schema.Schema, 8)
	for i := range got {
		wg.Go(func() {
			s, err := b.c.ByID(t.Context(), contractSubject, 41)
			if err != nil {
				t.Error(err)
			}
			got[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	for _, s := range got {
		if s != got[0] {
			t.Error("lookups of one id give different schemas: decoders keep plans by pointer")
		}
	}
	if s := got[0]; s.Subject != contractSubject || s.Version != 6 || s.ID != 41 || s.Type.Name != "com.weirsync.canonical.Contract" {
		t.Errorf("got %s version %d id %d, want %s version 6 id 41", s.Subject, s.Version, s.ID, contractSubject)
	}
	asked := b.asked.Load()
	for range 10 {
		if _, err := b.c.ByID(t.Context(), contractSubject, 41); err != nil {
			t.Fatal(err)
		}
	}
	b.advance(1000 * time.Hour)
	if _, err := b.c.ByID(t.Context(), contractSubject, 41); err != nil || b.asked.Load() != asked {
		t.Errorf("a known id was asked for again: %d requests, then %d (%v)", asked, b.asked.Load(), err)
	}
}

func TestByGUID(t *testing.T) {
	b := start(t)
	b.reg.SeedSchema(string(contractSubject), 1, 7, sr.Schema{Schema: contractText(t)})
	ss, ok := b.reg.GetSchema(string(contractSubject), 1)
	if !ok {
		t.Fatal("the fake lost the schema")
	}
	raw, err := hex.DecodeString(strings.ReplaceAll(ss.GUID, "-", ""))
	if err != nil || len(raw) != 16 {
		t.Fatalf("GUID %q: %v", ss.GUID, err)
	}
	s, err := b.c.ByGUID(t.Context(), contractSubject, [16]byte(raw))
	if err != nil || s.ID != 7 || s.Subject != contractSubject {
		t.Errorf("ByGUID = %+v, %v, want id 7", s, err)
	}
	if _, err := b.c.ByGUID(t.Context(), contractSubject, [16]byte{1}); !errors.Is(err, schema.ErrUnknownSchema) {
		t.Errorf("an unknown GUID: %v, want ErrUnknownSchema", err)
	}
}

func TestUnknownIsRememberedForATime(t *testing.T) {
	b := start(t)
	ask := func() error {
		_, err := b.c.ByID(t.Context(), contractSubject, 9)
		return err
	}
	if err := ask(); !errors.Is(err, schema.ErrUnknownSchema) {
		t.Fatalf("got %v, want ErrUnknownSchema", err)
	}
	asked := b.asked.Load()
	b.advance(59 * time.Second)
	if err := ask(); !errors.Is(err, schema.ErrUnknownSchema) || b.asked.Load() != asked {
		t.Errorf("within the minute: %v after %d more requests, want ErrUnknownSchema after none", err, b.asked.Load()-asked)
	}
	b.reg.SeedSchema(string(contractSubject), 1, 9, sr.Schema{Schema: contractText(t)})
	b.advance(2 * time.Second)
	if err := ask(); err != nil {
		t.Errorf("after the minute, registered: %v", err)
	}
}

func TestDefiniteRefusals(t *testing.T) {
	b := start(t)
	b.reg.SeedSchema("p-value", 1, 1, sr.Schema{Schema: `syntax = "proto3";`, Type: sr.TypeProtobuf})
	b.reg.SeedSchema("q-value", 1, 2, sr.Schema{Schema: `{"type":"record","name":"R","fields":[{"name":"a","type":"Nope"}]}`})
	for id, want := range map[schema.ID]string{1: "PROTOBUF", 2: "Nope"} {
		if _, err := b.c.ByID(t.Context(), contractSubject, id); !errors.Is(err, schema.ErrUnknownSchema) || !strings.Contains(err.Error(), want) {
			t.Errorf("id %d: %v, want ErrUnknownSchema with %q", id, err, want)
		}
	}
}

func TestReferences(t *testing.T) {
	b := start(t)
	b.reg.SeedSchema("base", 1, 1, sr.Schema{Schema: `{"type":"fixed","name":"x.F","size":2}`})
	b.reg.SeedSchema("mid", 1, 2, sr.Schema{Schema: `{"type":"record","name":"x.M","fields":[{"name":"f","type":"F"}]}`,
		References: []sr.SchemaReference{{Name: "x.F", Subject: "base", Version: 1}}})
	b.reg.SeedSchema("top-value", 1, 3, sr.Schema{Schema: `{"type":"record","name":"x.T","fields":[{"name":"m","type":"M"},{"name":"f","type":"x.F"}]}`,
		References: []sr.SchemaReference{{Name: "x.M", Subject: "mid", Version: 1}, {Name: "x.F", Subject: "base", Version: 1}}})
	s, err := b.c.ByID(t.Context(), "top-value", 3)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"name":"x.T","type":"record","fields":[{"name":"m","type":{"name":"x.M","type":"record","fields":[{"name":"f","type":{"name":"x.F","type":"fixed","size":2}}]}},{"name":"f","type":"x.F"}]}`
	if got := string(s.Type.Canonical()); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A registry that is away, broken or closed to us is not the record's fault, and is asked again at once.
func TestEnvironment(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"server error":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"not permitted":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error_code":40301}`, 403) },
		"a proxy's 404":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "<html>not found zq-secret</html>", 404) },
		"not JSON":             func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("hello")) },
		"an answer too large":  func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, answerBytesMax+1)) },
		"the connection drops": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked.Add(1); answer(w, r) }))
			defer srv.Close()
			tr := &http.Transport{}
			defer tr.CloseIdleConnections()
			c, err := New(Options{URLs: []string{srv.URL}, Transport: tr})
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				_, err := c.ByID(t.Context(), contractSubject, 1)
				if err == nil || errors.Is(err, schema.ErrUnknownSchema) || strings.Contains(err.Error(), "zq-secret") {
					t.Errorf("got %v, want a plain error", err)
				}
			}
			if asked.Load() < 2 {
				t.Errorf("asked %d times, want again after each failure", asked.Load())
			}
		})
	}
}

func TestCallerGivesUp(t *testing.T) {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { <-release; w.WriteHeader(500) }))
	defer srv.Close()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c, err := New(Options{URLs: []string{srv.URL}, Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.ByID(ctx, contractSubject, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	close(release)
	if _, err := c.ByID(t.Context(), contractSubject, 1); err == nil { // joins or follows the first flight: it has ended after this
		t.Error("a status of 500 is no error")
	}
}

func TestAuthentication(t *testing.T) {
	reg := srfake.New(srfake.WithAuth("Bearer tok"))
	defer reg.Close()
	reg.SeedSchema(string(contractSubject), 1, 1, sr.Schema{Schema: contractText(t)})
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	c, err := New(Options{URLs: []string{reg.URL()}, BearerToken: "tok", Transport: tr})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.ByID(t.Context(), contractSubject, 1); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no URL":            {},
		"a user in the URL": {URLs: []string{"http://u:zq-secret@localhost:1"}},
		"no host":           {URLs: []string{"registry"}},
		"two credentials":   {URLs: []string{"http://localhost:1"}, User: "u", BearerToken: "zq-secret"},
	} {
		if _, err := New(o); err == nil || strings.Contains(err.Error(), "zq-secret") {
			t.Errorf("%s: got %v, want an error without the secret", name, err)
		}
	}
}

// The whole way: a record framed with a registry's id.
func TestDecoderWithRegistry(t *testing.T) {
	b := start(t)
	b.reg.SeedSchema(string(contractSubject), 4, 4001, sr.Schema{Schema: contractText(t)})
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	value, err := set.EncodeWithID("contract", 4001, map[string]any{
		"event_id": "e", "event_type": "t", "occurred_at": "2026-01-01T00:00:00Z", "source_system": "s", "tenant": "t", "entity_version": 1,
		"operation": "upsert", "contract_id": "c", "customer_id": "d", "status": "active", "start_date": "2026-01-01", "amount_minor": 5,
		"currency": "USD", "billing_period": "monthly",
	})
	if err != nil {
		t.Fatal(err)
	}
	d := schema.NewDecoder(set, b.c, schema.DecoderOptions{})
	r := &schema.Record{Topic: "canonical.contract", Key: []byte("c"), Value: value}
	ev, err := d.Decode(t.Context(), r)
	if err != nil || ev.SchemaID != 4001 || ev.SchemaVersion != 4 {
		t.Errorf("got %+v, %v, want schema version 4, id 4001", ev, err)
	}
	b.reg.Close()
	r.Value = append([]byte{0, 0, 0, 0, 9}, value[5:]...)
	_, err = d.Decode(t.Context(), r)
	if _, refused := errors.AsType[*schema.RefusedError](err); err == nil || refused {
		t.Errorf("registry down: got %v, want a plain error: the record waits", err)
	}
}

func TestRegister(t *testing.T) {
	b := start(t)
	text := contractText(t)
	first, err := b.c.Register(t.Context(), contractSubject, text)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.c.Register(t.Context(), contractSubject, text)
	if err != nil || again != first {
		t.Errorf("registered again: id %d, %v, want %d", again, err, first)
	}
	s, err := b.c.ByID(t.Context(), contractSubject, first)
	if err != nil || s.Subject != contractSubject {
		t.Errorf("id %d: %+v, %v", first, s, err)
	}
	b.reg.Close()
	if _, err := b.c.Register(t.Context(), contractSubject, text); err == nil || errors.Is(err, schema.ErrUnknownSchema) {
		t.Errorf("registry away: %v", err)
	}
}
