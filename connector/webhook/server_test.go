package webhook

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

// The published vector of Standard Webhooks, and HMACs of the other two schemes that openssl made: what we take is not
// only what we sign ourselves.
func TestSignaturesOfOthers(t *testing.T) {
	for _, c := range []struct {
		name, profile, secret, stamp, body string
		header                             http.Header
	}{
		{"standard webhooks", standard, standardSecret, "1614265330", standardPayload,
			header("webhook-id", standardID, "webhook-timestamp", "1614265330", "webhook-signature", standardSignature)},
		{"standard webhooks, whsec_", standard, "whsec_" + standardSecret, "1614265330", standardPayload,
			header("webhook-id", standardID, "webhook-timestamp", "1614265330", "webhook-signature", standardSignature)},
		{"standard webhooks, several", standard, standardSecret, "1614265330", standardPayload,
			header("webhook-id", standardID, "webhook-timestamp", "1614265330", "webhook-signature",
				"v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,xyz "+standardSignature)},
		{"finfusion", finfusion, finfusionSecret, "1614265330", `{"id":"evt_1"}`,
			header("x-finfusion-signature", "35adc5c766f69f46017a59066f6f5b05de48ac2d2cce64104b4402eb38614d51")},
		{"pushcash", "pushcash", pushcashSecret, "", `{"type":"intent.approved"}`,
			header("X-Webhook-Signature", "3bdf057dc78445cc5fc2a0bdb352eef91b708af086998eb61d1dc2d630607a92")},
	} {
		w := hooks(t, c.profile)
		key, err := Key(w, c.secret)
		if err != nil {
			t.Fatal(err)
		}
		if !signed(w, [][]byte{key}, c.header, c.stamp, []byte(c.body)) {
			t.Errorf("%s: a good signature is refused", c.name)
		}
		if signed(w, [][]byte{key}, c.header, c.stamp, []byte(c.body+" ")) {
			t.Errorf("%s: the signature of another body is good", c.name)
		}
		if signed(w, [][]byte{append([]byte{1}, key...)}, c.header, c.stamp, []byte(c.body)) {
			t.Errorf("%s: the signature of another secret is good", c.name)
		}
		if signed(w, nil, c.header, c.stamp, []byte(c.body)) {
			t.Errorf("%s: a signature is good without a secret", c.name)
		}
	}
	w := hooks(t, finfusion)
	if h := header("x-finfusion-signature", "35adc5c766f69f46017a59066f6f5b05de48ac2d2cce64104b4402eb38614d50"); signed(w, [][]byte{[]byte(finfusionSecret)}, h, "1614265330", []byte(`{"id":"evt_1"}`)) {
		t.Error("a signature whose last bit is wrong is good")
	}
	w = hooks(t, standard)
	for _, secret := range []string{"whsec_", "whsec_!!!", "no-base64-at-all"} {
		if key, err := Key(w, secret); err == nil || len(key) > 0 {
			t.Errorf("secret %q gives the key %x", secret, key)
		} else if secret != "whsec_" && strings.Contains(err.Error(), secret) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
}

// Each call is answered as docs/webhooks.md says, for each of the three schemes.
func TestAnswers(t *testing.T) {
	const other = "another-secret-of-more-than-32-characters"
	otherStandard := "bm90LXRoZS1zZWNyZXQtb2YtdGhlLXZlbmRvcg=="
	type call func(secret string, at time.Time) delivery
	for _, scheme := range []struct {
		name, profile, secret, wrong string
		call                         call
		ok, refused                  int
		sig                          string
	}{
		{"pushcash", "pushcash", pushcashSecret, other, func(s string, at time.Time) delivery {
			return pushcashCall(s, "intent.approved", "intent_1", "approved", at)
		}, 200, 401, "X-Webhook-Signature"},
		{"finfusion", finfusion, finfusionSecret, other, func(s string, at time.Time) delivery {
			return finfusionCall(s, "evt_1", "payment.succeeded", "pay_1", at)
		}, 200, 400, "X-Finfusion-Signature"},
		{"standard", standard, standardSecret, otherStandard, func(s string, at time.Time) delivery {
			return standardCall(s, standardID, standardPayload, at)
		}, 204, 401, "Webhook-Signature"},
	} {
		edit := func(d delivery, f func(d *delivery)) delivery {
			d.header = d.header.Clone()
			f(&d)
			return d
		}
		good := scheme.call(scheme.secret, now)
		for _, c := range []struct {
			name   string
			d      delivery
			secret map[string]string // nil: the right one
			status int
			out    Outcome
		}{
			{"valid", good, nil, scheme.ok, Accepted},
			{"tampered body", edit(good, func(d *delivery) { d.body = strings.Replace(d.body, "1", "2", 1) }), nil, scheme.refused, BadSignature},
			{"one blank more", edit(good, func(d *delivery) { d.body += "\n" }), nil, scheme.refused, BadSignature},
			{"other secret", scheme.call(scheme.wrong, now), nil, scheme.refused, BadSignature},
			{"no signature", edit(good, func(d *delivery) { d.header.Del(scheme.sig) }), nil, scheme.refused, BadSignature},
			{"empty signature", edit(good, func(d *delivery) { d.header.Set(scheme.sig, "") }), nil, scheme.refused, BadSignature},
			{"wrong encoding", edit(good, func(d *delivery) { d.header.Set(scheme.sig, "v1,%%%") }), nil, scheme.refused, BadSignature},
			{"signature cut short", edit(good, func(d *delivery) { d.header.Set(scheme.sig, d.header.Get(scheme.sig)[:20]) }), nil, scheme.refused, BadSignature},
			{"no headers", edit(good, func(d *delivery) { d.header = nil }), nil, scheme.refused, BadSignature},
			{"at the edge of the past", scheme.call(scheme.secret, now.Add(-5*time.Minute)), nil, scheme.ok, Accepted},
			{"too old", scheme.call(scheme.secret, now.Add(-5*time.Minute-time.Second)), nil, scheme.refused, TooOld},
			{"at the edge of the future", scheme.call(scheme.secret, now.Add(5*time.Minute)), nil, scheme.ok, Accepted},
			{"too new", scheme.call(scheme.secret, now.Add(5*time.Minute+time.Second)), nil, scheme.refused, TooNew},
			{"old secret while it rotates", scheme.call(scheme.wrong, now), map[string]string{"webhook_secret": scheme.secret, "webhook_secret_old": scheme.wrong}, scheme.ok, Accepted},
			{"new secret while it rotates", good, map[string]string{"webhook_secret": scheme.secret, "webhook_secret_old": scheme.wrong}, scheme.ok, Accepted},
			{"old secret after it", scheme.call(scheme.wrong, now), map[string]string{"webhook_secret": scheme.secret}, scheme.refused, BadSignature},
			{"the other secret is unreadable", good, map[string]string{"webhook_secret": scheme.secret, "webhook_secret_old": "unreadable"}, scheme.ok, Accepted},
			{"its secret may be unreadable", scheme.call(scheme.wrong, now), map[string]string{"webhook_secret": scheme.secret, "webhook_secret_old": "unreadable"}, 503, NoSecret},
			{"no secret", good, map[string]string{}, 503, NoSecret},
			{"too large by its length", edit(good, func(d *delivery) { d.body = strings.Repeat("x", 4097) }), nil, 413, TooLarge},
			{"too large without a length", edit(good, func(d *delivery) { d.reader = io.MultiReader(strings.NewReader(strings.Repeat("x", 4097))) }), nil, 413, TooLarge},
			{"body does not come", edit(good, func(d *delivery) { d.reader = io.MultiReader(strings.NewReader(d.body[:10]), broken{}) }), nil, 400, BadRequest},
			{"not a POST", edit(good, func(d *delivery) { d.method = http.MethodGet }), nil, 405, BadRequest},
			{"no such connector", edit(good, func(d *delivery) { d.path = "/webhooks/other" }), nil, 404, ""},
			{"no such path", edit(good, func(d *delivery) { d.path = "/" }), nil, 404, ""},
		} {
			w := newWorld(t, scheme.profile, func(cfg *Config) { cfg.BodyBytesMax = 4096 })
			w.secret = c.secret
			if w.secret == nil {
				w.secret = map[string]string{"webhook_secret": scheme.secret}
			}
			resp, out := w.do(c.d)
			if resp.StatusCode != c.status || out != c.out {
				t.Errorf("%s, %s: %d %s, want %d %s", scheme.name, c.name, resp.StatusCode, out, c.status, c.out)
			}
			if (resp.StatusCode == 503) != (resp.Header.Get("Retry-After") != "") {
				t.Errorf("%s, %s: %d with Retry-After %q", scheme.name, c.name, resp.StatusCode, resp.Header.Get("Retry-After"))
			}
			if n, want := len(w.kafka.outs), map[bool]int{true: 1}[c.out == Accepted]; n != want {
				t.Errorf("%s, %s: %d facts, want %d", scheme.name, c.name, n, want)
			}
			if log := w.log.String(); strings.Contains(log, "ada@") || strings.Contains(log, scheme.secret) || strings.Contains(log, "intent_1") {
				t.Errorf("%s, %s: the log shows what a call holds: %s", scheme.name, c.name, log)
			}
		}
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("connection reset") }

// What is signed, and not what the profile needs, or nothing that it knows.
func TestContents(t *testing.T) {
	w := newWorld(t, "pushcash", nil)
	w.secret["webhook_secret"] = pushcashSecret
	sign := func(body string) delivery {
		return delivery{body: body, header: header("X-Webhook-Signature", hex.EncodeToString(mac(pushcashSecret, body)))}
	}
	const at = `"timestamp":"2021-02-25T15:02:10Z"`
	for _, c := range []struct {
		name, body string
		status     int
		out        Outcome
	}{
		{"no JSON", `{` + at, 401, Malformed}, // the time is in the body: it cannot be read either
		{"no time", `{"type":"intent.approved"}`, 401, Malformed},
		{"time of another form", `{"type":"intent.approved","timestamp":1614265330}`, 401, Malformed},
		{"no type", `{` + at + `}`, 400, Malformed},
		{"no object", `{"type":"intent.approved",` + at + `,"data":{"status":"approved"}}`, 400, Malformed},
		{"unknown type", `{"type":"intent.exploded",` + at + `}`, 200, Ignored},
		{"unknown fields", `{"type":"intent.declined",` + at + `,"data":{"id":"i","x":[1,{"y":null}]},"more":1}`, 200, Accepted},
	} {
		resp, out := w.do(sign(c.body))
		if resp.StatusCode != c.status || out != c.out {
			t.Errorf("%s: %d %s, want %d %s", c.name, resp.StatusCode, out, c.status, c.out)
		}
	}
	if !strings.Contains(w.log.String(), "hint=") {
		t.Errorf("the log does not say what to do: %s", w.log)
	}
}

func TestFact(t *testing.T) {
	w := newWorld(t, "pushcash", nil)
	w.secret["webhook_secret"] = pushcashSecret
	if resp, out := w.do(pushcashCall(pushcashSecret, "intent.approved", "intent_1", "approved", now.Add(-time.Second))); out != Accepted {
		t.Fatalf("%d %s", resp.StatusCode, out)
	}
	o := w.kafka.outs[0]
	if o.Topic != "weir.c.facts" || string(o.Key) != "intent_1" || o.Partition != -1 {
		t.Errorf("written to %s, partition %d, key %q", o.Topic, o.Partition, o.Key)
	}
	id := newFactID("c", "15:intent.approved8:intent_18:approved")
	some := func(kind string, v any) map[string]any { return map[string]any{kind: v} }
	got := decode(t, o.Value)
	want := map[string]any{
		"fact_id": id, "fact_type": "payment_succeeded", "vendor": "acme", "connector": "c", "channel": "webhook", "vendor_event_type": "intent.approved",
		"occurred_at": now.Add(-time.Second), "received_at": now, "vendor_object_id": "intent_1", "status": some("string", "approved"),
		"amount_minor": some("long", int64(12500)), "currency": some("string", "USD"), "idempotency_key": some("string", "key-of-intent_1"),
		"reference": nil, "match": nil, "own_echo": false, "fields": map[string]any{"direction": "cash_in", "rail": "rtp"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("fact\n got %v\nwant %v", got, want)
	}
	if bytes.Contains(o.Value, []byte("ada@")) {
		t.Error("the fact holds a field that the profile does not declare")
	}
	headers := map[string]string{}
	for _, h := range o.Headers {
		headers[h.Key] = string(h.Value)
	}
	if headers["ce_id"] != id || headers["ce_type"] != "com.weirsync.fact.payment_succeeded" || headers["ce_source"] != "/weir/c" {
		t.Errorf("headers %v", headers)
	}
	// The id is for ever: consumers have kept it.
	if want := "4ncv3povtrbolu5eusgxzzhm4r52awcafd4uyeex7mxznnxcafvq"; id != want {
		t.Errorf("fact id %s, want %s", id, want)
	}
}

// A repeat is answered as the first was, and makes no second fact; a vendor stamps and signs each attempt anew.
func TestRepeats(t *testing.T) {
	w := newWorld(t, "pushcash", nil)
	w.secret["webhook_secret"] = pushcashSecret
	call := func(status string, at time.Time) delivery {
		return pushcashCall(pushcashSecret, "intent.approved", "intent_1", status, at)
	}
	first := call("approved", now)
	for i, c := range []struct {
		d   delivery
		out Outcome
	}{
		{first, Accepted}, {first, Duplicate}, {call("approved", now.Add(time.Minute)), Duplicate},
		{call("pending", now), Accepted}, {call("pending", now), Duplicate}, // another status is another event
	} {
		if resp, out := w.do(c.d); out != c.out || resp.StatusCode != 200 {
			t.Errorf("call %d: %d %s, want 200 %s", i, resp.StatusCode, out, c.out)
		}
	}
	if n := len(w.kafka.outs); n != 2 {
		t.Errorf("%d facts, want 2", n)
	}
}

// Calls for one event that come at once share one attempt.
func TestRepeatsAtOnce(t *testing.T) {
	w := newWorld(t, finfusion, nil)
	w.secret["webhook_secret"] = finfusionSecret
	w.kafka.hold = make(chan struct{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if resp, _ := w.do(finfusionCall(finfusionSecret, "evt_1", "payment.succeeded", "pay_1", now)); resp.StatusCode != 200 {
				t.Errorf("status %d", resp.StatusCode)
			}
		})
	}
	for len(w.srv.slots) < 20 { // all are inside
		time.Sleep(time.Millisecond)
	}
	close(w.kafka.hold)
	wg.Wait()
	if n := len(w.kafka.outs); n != 1 || w.counts[Accepted] != 1 || w.counts[Duplicate] != 19 {
		t.Errorf("%d facts, outcomes %v, want 1 fact, 1 accepted and 19 duplicate", n, w.counts)
	}
}

// 2xx only after Kafka has it; until then the vendor is told when to call again.
func TestKafkaAway(t *testing.T) {
	w := newWorld(t, "pushcash", func(c *Config) { c.Wait = 50 * time.Millisecond })
	w.secret["webhook_secret"] = pushcashSecret
	d := pushcashCall(pushcashSecret, "intent.approved", "intent_1", "approved", now)
	away := func(how string) {
		t.Helper()
		resp, out := w.do(d)
		if out != Unavailable || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "5" {
			t.Errorf("%s: %d %s, Retry-After %q", how, resp.StatusCode, out, resp.Header.Get("Retry-After"))
		}
	}
	w.kafka.err = errors.New("write to weir.c.facts: broker away")
	away("an error")
	w.kafka.err, w.kafka.hold = nil, make(chan struct{})
	away("no answer")
	w.kafka.hold = nil
	if resp, out := w.do(d); out != Accepted {
		t.Errorf("back again: %d %s", resp.StatusCode, out)
	}
	w.srv.cfg.Store = closedStore{w.srv.cfg.Store}
	d = pushcashCall(pushcashSecret, "intent.approved", "intent_2", "approved", now)
	away("the store is closed")
}

// More calls than slots are told to come back at once.
func TestBusy(t *testing.T) {
	w := newWorld(t, finfusion, func(c *Config) { c.MaxInFlight = 2 })
	w.secret["webhook_secret"] = finfusionSecret
	w.kafka.hold = make(chan struct{})
	var wg sync.WaitGroup
	for _, id := range []string{"evt_1", "evt_2"} {
		wg.Go(func() { w.do(finfusionCall(finfusionSecret, id, "payment.succeeded", "pay_1", now)) })
	}
	for len(w.srv.slots) < 2 {
		time.Sleep(time.Millisecond)
	}
	resp, out := w.do(finfusionCall(finfusionSecret, "evt_3", "payment.succeeded", "pay_1", now))
	if out != Busy || resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("%d %s, Retry-After %q", resp.StatusCode, out, resp.Header.Get("Retry-After"))
	}
	close(w.kafka.hold)
	wg.Wait()
}

// A flood of bad calls is one line in the log per minute and outcome, with their number.
func TestLogIsBounded(t *testing.T) {
	w := newWorld(t, finfusion, nil)
	w.secret["webhook_secret"] = finfusionSecret
	bad := finfusionCall("guessed", "evt_1", "payment.succeeded", "pay_1", now)
	for range 100 {
		w.do(bad)
	}
	w.clock = now.Add(61 * time.Second)
	w.do(bad)
	if n := strings.Count(w.log.String(), "\n"); n != 2 || !strings.Contains(w.log.String(), "calls=100") {
		t.Errorf("%d lines, want 2, the second with calls=100: %s", n, w.log)
	}
}

// The real listener: it drains when told to stop, and a slow caller does not hold it.
func TestServeDrains(t *testing.T) {
	w := newWorld(t, finfusion, nil)
	w.secret["webhook_secret"] = finfusionSecret
	w.kafka.hold = make(chan struct{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- w.srv.Serve(ctx, l) }()
	answered := make(chan int, 1)
	d := finfusionCall(finfusionSecret, "evt_1", "payment.succeeded", "pay_1", now)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	go func() {
		req, _ := http.NewRequest(http.MethodPost, "http://"+l.Addr().String()+"/webhooks/c", strings.NewReader(d.body))
		req.Header = d.header
		resp, err := client.Do(req)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	for len(w.srv.slots) < 1 {
		time.Sleep(time.Millisecond)
	}
	stop()
	close(w.kafka.hold)
	if status := <-answered; status != 200 {
		t.Errorf("the call at hand is answered %d while draining", status)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// An event is remembered for the time of its vendor's repeats, no longer.
func TestNonceRetention(t *testing.T) {
	w := newWorld(t, finfusion, nil)
	w.secret["webhook_secret"] = finfusionSecret
	saved := &nonceSpy{Store: w.srv.cfg.Store, kafka: w.kafka}
	w.srv.cfg.Store = saved
	w.do(finfusionCall(finfusionSecret, "evt_1", "payment.succeeded", "pay_1", now))
	want := []checkpoint.Nonce{{Connector: "c", ID: newFactID("c", "evt_1"), Until: now.Add(24*time.Hour + 10*time.Minute)}}
	if !reflect.DeepEqual(saved.nonces, want) {
		t.Errorf("saved %+v, want %+v", saved.nonces, want)
	}
	if saved.facts != 1 {
		t.Error("the event's id was stored before its fact was in Kafka")
	}
}

type closedStore struct{ Store }

func (closedStore) HasNonce(context.Context, string, string) (bool, error) {
	return false, errors.New("the store is closed")
}

type nonceSpy struct {
	Store
	kafka  *kafkaLog
	nonces []checkpoint.Nonce
	facts  int // in Kafka when the nonces came
}

func (s *nonceSpy) SaveNonces(ctx context.Context, ns []checkpoint.Nonce) error {
	s.nonces = append(s.nonces, ns...)
	s.facts = len(s.kafka.outs)
	return s.Store.SaveNonces(ctx, ns)
}

// No bytes that we did not sign are ever good, whatever they are.
func FuzzSigned(f *testing.F) {
	schemes := map[string]string{"pushcash": pushcashSecret, finfusion: finfusionSecret, standard: standardSecret}
	f.Add("", "", "", []byte{})
	f.Add(standardSignature, "1614265330", standardID, []byte(standardPayload+"x"))
	f.Add("v1, v1,AAAA v1,\x00", "-1", "..", []byte("{}"))
	f.Add(strings.Repeat("0", 64), "1e9", "", []byte(strings.Repeat("{", 100)))
	for text, secret := range schemes {
		w := hooks(f, text)
		key, err := Key(w, secret)
		if err != nil {
			f.Fatal(err)
		}
		schemes[text] = string(key)
	}
	all := map[string]*world{}
	for text := range schemes {
		all[text] = newWorld(f, text, nil)
		all[text].secret["webhook_secret"] = map[string]string{"pushcash": pushcashSecret, finfusion: finfusionSecret, standard: standardSecret}[text]
	}
	f.Fuzz(func(t *testing.T, signature, stamp, id string, body []byte) {
		if signature == standardSignature && stamp == "1614265330" && id == standardID && string(body) == standardPayload {
			t.Skip("this one is good")
		}
		h := http.Header{"Webhook-Signature": {signature}, "X-Finfusion-Signature": {signature}, "X-Webhook-Signature": {signature},
			"Webhook-Timestamp": {stamp}, "X-Finfusion-Timestamp": {stamp}, "Webhook-Id": {id}}
		for text, w := range all {
			out, status, err := w.srv.verify(w.srv.sources["c"], h, body)
			if err == nil || out != BadSignature || status < 400 {
				t.Errorf("%.20q: %s %d %v", text, out, status, err)
			}
		}
	})
}
