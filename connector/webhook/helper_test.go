package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/linkedin/goavro/v2"
	"go.uber.org/goleak"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/integration_test/harness"
	"github.com/weirsync/weir/schema"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(withHarness{m}) }

// withHarness runs the tests with what a real Kafka needs.
type withHarness struct{ m *testing.M }

func (w withHarness) Run() int { return harness.Main(w.m) }

// now is the fixed clock of most tests: the time of the published test vector of Standard Webhooks.
var now = time.Unix(1614265330, 0).UTC()

const minimal = `profile: acme
environments: {production: {base_url: https://api.acme.example}}
operations:
  put: {method: PUT, path: "/c", class: overwrite, body: {name: string}}
routes:
  customer:
    entity: customer
    semantics: latest
    steps: {put: {operation: put, map: {name: event.legal_name}}}
    cases: [{operation: delete, ignore: gone}, {steps: [put]}]
`

// finfusion signs "<timestamp>.<body>" (vendor sheet finfusion, section 10).
const finfusion = minimal + `
webhooks:
  secrets: [webhook_secret, webhook_secret_old]
  signature: {header: x-finfusion-signature, encoding: hex}
  signed: "{timestamp}.{body}"
  timestamp: {header: x-finfusion-timestamp}
  tolerance: 300s
  answers: {ok: 200, refused: 400}
  type: body.type
  id: body.id
  object: body.data.object.id
  status: body.data.object.status
  occurred_at: {value: body.created}
  match: {vendor_id: body.data.object.id, reference: body.data.object.reference}
  events:
    - {type: payment.succeeded, fact: payment_succeeded, amount: body.data.object.amount, currency: body.data.object.currency}
    - {type: account.updated, fact: account_changed, echo: 5m}
`

// standard is the scheme of standardwebhooks.com.
const standard = minimal + `
webhooks:
  secrets: [webhook_secret, webhook_secret_old]
  secret_encoding: base64
  signature: {header: webhook-signature, prefix: "v1,", separator: space, encoding: base64}
  signed: "{webhook-id}.{timestamp}.{body}"
  timestamp: {header: webhook-timestamp}
  tolerance: 5m
  answers: {ok: 204, refused: 401}
  type: "has(body.type) ? body.type : 'test'"
  id: headers['webhook-id']
  object: body.test
  events:
    - {type: test, fact: tested}
`

const (
	pushcashSecret  = "a-pushcash-secret-of-32-characters"
	finfusionSecret = "whsec_finfusion_test_secret"
	// Published by Standard Webhooks: libraries/go/webhook_test.go.
	standardSecret    = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	standardID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	standardPayload   = `{"test": 2432232314}`
	standardSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func hooks(t testing.TB, text string) *profile.Webhooks {
	t.Helper()
	var p *profile.Profile
	var err error
	if !strings.Contains(text, "\n") {
		p, err = profile.Load(text)
	} else {
		p, err = profile.Parse("acme.yaml", []byte(text))
	}
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(profile.Options{Connector: "c", BaseURL: "http://127.0.0.1:1", Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	return c.Webhooks
}

// kafkaLog is a Kafka that keeps what is acknowledged, or is away.
type kafkaLog struct {
	mu   sync.Mutex
	err  error
	outs []kafka.Out
	hold chan struct{} // not nil: Produce waits for it
}

func (k *kafkaLog) Produce(ctx context.Context, outs []kafka.Out) ([]kafka.Placed, error) {
	k.mu.Lock()
	hold := k.hold
	k.mu.Unlock()
	if hold != nil {
		select {
		case <-hold:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err != nil {
		return nil, k.err
	}
	k.outs = append(k.outs, outs...)
	return nil, nil
}

func (k *kafkaLog) facts(t testing.TB) []map[string]any {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []map[string]any
	for _, o := range k.outs {
		out = append(out, decode(t, o.Value))
	}
	return out
}

// decode reads a fact as a consumer would, with its published schema.
func decode(t testing.TB, value []byte) map[string]any {
	t.Helper()
	if len(value) < 5 || !bytes.Equal(value[:5], []byte{0, 0, 0, 3, 132}) {
		t.Fatalf("the value is not framed with id 900: % x", value[:min(5, len(value))])
	}
	codec, err := goavro.NewCodec(factText)
	if err != nil {
		t.Fatal(err)
	}
	v, rest, err := codec.NativeFromBinary(value[5:])
	if err != nil || len(rest) > 0 {
		t.Fatalf("decode fact: %v, %d bytes left", err, len(rest))
	}
	return v.(map[string]any)
}

// A world is a server with a store, a Kafka and a log.
type world struct {
	testing.TB
	srv    *Server
	kafka  *kafkaLog
	secret map[string]string
	counts map[Outcome]int
	mu     sync.Mutex
	log    *bytes.Buffer
	clock  time.Time
}

// memory is a store that remembers nonces.
type memory struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (m *memory) HasNonce(_ context.Context, connector, id string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ids[connector+" "+id], nil
}

func (m *memory) SaveNonces(_ context.Context, ns []checkpoint.Nonce) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range ns {
		m.ids[n.Connector+" "+n.ID] = true
	}
	return nil
}

func (m *memory) Find(context.Context, string, int) ([]checkpoint.Row, error) { return nil, nil }
func (m *memory) Evidence(context.Context, []checkpoint.Evidence) error       { return nil }

// openStore is a real store, for what is matched.
func openStore(t testing.TB) *sqlite.Store {
	t.Helper()
	store, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "weir.db"), sqlite.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	return store
}

func newWorld(t testing.TB, text string, change func(*Config)) *world {
	t.Helper()
	w := &world{TB: t, kafka: &kafkaLog{}, counts: map[Outcome]int{}, log: &bytes.Buffer{}, clock: now, secret: map[string]string{}}
	cfg := Config{
		Sources: []*Source{{Connector: "c", Vendor: "acme", Hooks: hooks(t, text), Secret: w.secretOf, Count: w.count}},
		Store:   &memory{ids: map[string]bool{}}, Producer: w.kafka, MatchWait: -1, Now: func() time.Time { return w.clock },
		Log: slog.New(slog.NewTextHandler(lockedWriter{w}, nil)),
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.srv, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

type lockedWriter struct{ w *world }

func (l lockedWriter) Write(b []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.w.log.Write(b)
}

func (w *world) secretOf(name string) (string, error) {
	switch s := w.secret[name]; s {
	case "":
		return "", fmt.Errorf("secret %s: %w", name, profile.ErrNoSecret)
	case "unreadable":
		return "", errors.New("open /secret: permission denied")
	default:
		return s, nil
	}
}

func (w *world) count(o Outcome) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[o]++
}

// A delivery is one call of a vendor.
type delivery struct {
	method, path string
	header       http.Header
	body         string
	reader       io.Reader // instead of body
}

// do makes the call and returns status and outcome.
func (w *world) do(d delivery) (*http.Response, Outcome) {
	w.Helper()
	if d.method == "" {
		d.method = http.MethodPost
	}
	if d.path == "" {
		d.path = "/webhooks/c"
	}
	if d.reader == nil {
		d.reader = strings.NewReader(d.body)
	}
	w.mu.Lock()
	before := map[Outcome]int{}
	for o, n := range w.counts {
		before[o] = n
	}
	w.mu.Unlock()
	r := httptest.NewRequest(d.method, d.path, d.reader)
	for k, v := range d.header {
		r.Header[k] = v
	}
	rec := httptest.NewRecorder()
	w.srv.ServeHTTP(rec, r)
	w.mu.Lock()
	defer w.mu.Unlock()
	var out Outcome
	for o, n := range w.counts {
		if n > before[o] {
			out = o
		}
	}
	return rec.Result(), out
}

func mac(secret, text string) []byte {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte(text))
	return m.Sum(nil)
}

func header(pairs ...string) http.Header {
	h := http.Header{}
	for i := 0; i < len(pairs); i += 2 {
		h.Add(pairs[i], pairs[i+1])
	}
	return h
}

// pushcashCall is an event of Push Cash: the time is inside the signed body.
func pushcashCall(secret, kind, object, status string, at time.Time) delivery {
	body := fmt.Sprintf(`{"type":%q,"timestamp":%q,"data":{"id":%q,"tag":null,"idempotency_key":"key-of-%s","direction":"cash_in","amount":12500,"currency":"USD","status":%q,"rail":"rtp","email":"ada@example.com"}}`,
		kind, at.UTC().Format("2006-01-02T15:04:05.000000Z"), object, object, status)
	return delivery{body: body, header: header("X-Webhook-Signature", hex.EncodeToString(mac(secret, body)))}
}

func finfusionCall(secret, id, kind, object string, at time.Time) delivery {
	body := fmt.Sprintf(`{"id":%q,"type":%q,"created":%d,"data":{"object":{"id":%q,"status":"succeeded","amount":990,"currency":"EUR","reference":"ref-of-%s","email":"ada@example.com"}}}`,
		id, kind, at.Unix(), object, object)
	stamp := strconv.FormatInt(at.Unix(), 10)
	return delivery{body: body, header: header("x-finfusion-timestamp", stamp, "x-finfusion-signature", hex.EncodeToString(mac(secret, stamp+"."+body)))}
}

func standardCall(key, id, body string, at time.Time) delivery {
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		panic(err)
	}
	stamp := strconv.FormatInt(at.Unix(), 10)
	return delivery{body: body, header: header("webhook-id", id, "webhook-timestamp", stamp,
		"webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(mac(string(raw), id+"."+stamp+"."+body)))}
}
