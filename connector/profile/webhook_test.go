package profile

import (
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// soundWebhooks is a section without a fault; the cases of TestWebhookErrors break one line of it each.
const soundWebhooks = `
webhooks:
  secrets: [hook, hook_old]
  secret_encoding: base64
  signature: {header: webhook-signature, prefix: "v1,", separator: space, encoding: base64}
  signed: "{webhook-id}.{timestamp}.{body}"
  timestamp: {header: webhook-timestamp}
  tolerance: 5m
  answers: {ok: 204, refused: 400}
  type: body.type
  id: headers['webhook-id']
  object: body.data.id
  events:
    - {type: paid, fact: payment_succeeded}
`

func hooksOf(t *testing.T, section string) (*Webhooks, error) {
	t.Helper()
	p, err := Parse("acme.yaml", []byte(strings.TrimSuffix(sound, "\n")+section))
	if err != nil {
		return nil, err
	}
	c, err := p.Compile(Options{Connector: "acme", Schemas: schemas(t)})
	if err != nil {
		return nil, err
	}
	return c.Webhooks, nil
}

func TestWebhooksAreRead(t *testing.T) {
	w, err := hooksOf(t, soundWebhooks)
	if err != nil {
		t.Fatal(err)
	}
	want := []SignedPart{{Header: "Webhook-Id"}, {Text: "."}, {Timestamp: true}, {Text: "."}, {Body: true}}
	if !reflect.DeepEqual(w.Signed, want) {
		t.Errorf("signed parts %+v, want %+v", w.Signed, want)
	}
	if got, want := w.Signature, (HeaderPart{"Webhook-Signature", "v1,", " "}); got != want || !w.SignatureBase64 || !w.SecretBase64 {
		t.Errorf("signature %+v, base64 %t, secret base64 %t", got, w.SignatureBase64, w.SecretBase64)
	}
	if w.Tolerance != 5*time.Minute || w.OK != 204 || w.Refused != 400 || !reflect.DeepEqual(w.Secrets, []string{"hook", "hook_old"}) {
		t.Errorf("%+v", w)
	}
	if c := compiled(t, "plain", nil); c.Webhooks != nil {
		t.Error("a profile without webhooks has some")
	}
}

func TestWebhookErrors(t *testing.T) {
	for _, c := range []struct{ old, new, path, why string }{
		{"secrets: [hook, hook_old]", "secrets: []", "webhooks.secrets", "1 to 4"},
		{"secrets: [hook, hook_old]", "description: x", "webhooks.description", "unknown key"},
		{"encoding: base64}", "encoding: base32}", "webhooks.signature.encoding", "none of the values"},
		{"separator: space", "separator: pipe", "webhooks.signature.separator", "none of the values"},
		{`"{webhook-id}.{timestamp}.{body}"`, `"{webhook-id"`, "webhooks.signed", "not a template"},
		{`"{webhook-id}.{timestamp}.{body}"`, `"{timestamp}"`, "webhooks", "must hold {body}"},
		{"timestamp: {header: webhook-timestamp}", "timestamp: {value: body.at}", "webhooks", "names no header"},
		{"timestamp: {header: webhook-timestamp}", "timestamp: {header: a, value: body.at}", "webhooks.timestamp", "either a header or a value"},
		{"  tolerance: 5m\n", "", "webhooks", "belong together"},
		{"tolerance: 5m", "tolerance: 2h", "webhooks.tolerance", "from 1s to 1h"},
		{"ok: 204", "ok: 302", "webhooks.answers.ok", "from 200 to 299"},
		{"type: body.type", "type: 1 +", "webhooks.type", "Syntax error"},
		{"type: body.type", "type: event.email", "webhooks.type", "neither a variable"},
		{"  object: body.data.id\n", "", "webhooks", "needs the key object"},
		{"fact: payment_succeeded", "fact: Payment", "webhooks.events[0].fact", "not a name"},
		{"{type: paid, fact: payment_succeeded}", "{fact: payment_succeeded}", "webhooks.events[0]", "the key type is missing"},
		{"fact: payment_succeeded}", "fact: payment_succeeded, when: '1'}", "webhooks.events[0].when", "when is a boolean"},
		{"fact: payment_succeeded}", "fact: payment_succeeded, echo: 48h}", "webhooks.events[0].echo", "from 1s to 24h"},
		{"fact: payment_succeeded}", "fact: payment_succeeded, fields: {Rail: body.rail}}", "webhooks.events[0].fields.Rail", "not a name"},
	} {
		if !strings.Contains(soundWebhooks, c.old) {
			t.Fatalf("the section has no %q", c.old)
		}
		_, err := hooksOf(t, strings.Replace(soundWebhooks, c.old, c.new, 1))
		var es Errors
		if !errors.As(err, &es) {
			t.Errorf("%q for %q: %v, want Errors", c.new, c.old, err)
			continue
		}
		found := false
		for _, e := range es {
			found = found || e.Path == c.path && strings.Contains(e.Why, c.why) && e.Line > 0
		}
		if !found {
			t.Errorf("%q for %q: %v, want %s: ...%s", c.new, c.old, err, c.path, c.why)
		}
	}
}

func TestWebhookOfPushcash(t *testing.T) {
	w := compiled(t, "pushcash", map[string]string{"profile": "lean"}).Webhooks
	amount := int64(12500)
	at := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	body := func(kind, status string) string {
		return fmt.Sprintf(`{"type":%q,"timestamp":"2026-06-01T12:00:00.000000Z","data":{"id":"intent_1","tag":null,"idempotency_key":"k1","direction":"cash_in",`+
			`"amount":12500,"currency":"USD","status":%q,"rail":"rtp","type":"card_only_debit","email":"ada@example.com"}}`, kind, status)
	}
	for _, c := range []struct {
		name, body string
		want       *Notice
	}{
		{"approved", body("intent.approved", "approved"), &Notice{Type: "intent.approved", ID: "15:intent.approved8:intent_18:approved", Fact: "payment_succeeded", Object: "intent_1",
			Status: "approved", Amount: &amount, Currency: "USD", At: at, IdempotencyKey: "k1", VendorID: "intent_1", Fields: map[string]string{"direction": "cash_in", "rail": "rtp"}}},
		{"held for review", body("intent.approved", "pending"), &Notice{Type: "intent.approved", ID: "15:intent.approved8:intent_17:pending", Fact: "payment_in_review", Pending: true, Object: "intent_1",
			Status: "pending", Amount: &amount, Currency: "USD", At: at, IdempotencyKey: "k1", VendorID: "intent_1"}},
		{"unknown type", body("intent.exploded", "approved"), &Notice{Type: "intent.exploded"}},
	} {
		got, err := w.Read(http.Header{}, []byte(c.body))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
	if got, _, err := w.Time(nil, []byte(body("x", "y"))); err != nil || !got.Equal(at) {
		t.Errorf("time %v, %v, want %v", got, err, at)
	}
	for _, c := range []struct{ name, body, what string }{
		{"no JSON", `{"type":`, "body"},
		{"two documents", body("a", "b") + body("a", "b"), "body"},
		{"no object", `[1]`, "body"},
		{"no type", `{"data":{}}`, "type"},
		{"type is a list", `{"type":["intent.approved"]}`, "type"},
		{"no id", `{"type":"intent.declined","data":{}}`, "id"},
		{"amount is no integer", strings.Replace(body("intent.approved", "approved"), "12500", "12500.5", 1), "amount"},
		{"a text too long", strings.Replace(body("intent.approved", "approved"), "rtp", strings.Repeat("r", 2000), 1), "rail"},
		{"time is no time", strings.Replace(body("intent.approved", "approved"), "2026-06", "yesterday", 1), "occurred_at"},
	} {
		_, err := w.Read(http.Header{}, []byte(c.body))
		var u *UnreadableError
		if !errors.As(err, &u) || u.What != c.what {
			t.Errorf("%s: %v, want what is unreadable: %s", c.name, err, c.what)
		}
		if err != nil && strings.Contains(err.Error(), "ada@") {
			t.Errorf("%s: the error shows a value: %v", c.name, err)
		}
	}
}

func TestWebhookTimes(t *testing.T) {
	for _, c := range []struct {
		s, form string
		unix    int64 // -1: none
	}{
		{"1614265330", timeUnix, 1614265330}, {"1614265330123", timeUnixMS, 1614265330}, {"2021-02-25T15:02:10Z", timeRFC3339, 1614265330},
		{"", timeUnix, -1}, {"+1614265330", timeUnix, -1}, {"-5", timeUnix, -1}, {"1e9", timeUnix, -1}, {"0x10", timeUnix, -1}, {" 1614265330", timeUnix, -1},
		{"9223372036854775807", timeUnix, -1}, {"9223372036854775808", timeUnix, -1}, {"2021-02-25", timeRFC3339, -1}, {"0001-01-01T00:00:00Z", timeRFC3339, -1},
	} {
		at, ok := parseMoment(c.s, c.form)
		if ok != (c.unix >= 0) || ok && at.Unix() != c.unix {
			t.Errorf("parseMoment(%q, %s) = %v, %t", c.s, c.form, at, ok)
		}
	}
}

func TestHeaderParts(t *testing.T) {
	for _, c := range []struct {
		part   HeaderPart
		values []string
		want   []string
	}{
		{HeaderPart{Name: "S"}, []string{"abc"}, []string{"abc"}},
		{HeaderPart{Name: "S"}, nil, nil},
		{HeaderPart{Name: "S"}, []string{""}, nil},
		{HeaderPart{"S", "v1,", " "}, []string{"v1,a v1a,x v2,y v1,b"}, []string{"a", "b"}},
		{HeaderPart{"S", "v1=", ","}, []string{"t=12,v1=a, v1=b"}, []string{"a", "b"}},
		{HeaderPart{"S", "t=", ","}, []string{"t=12,v1=a"}, []string{"12"}},
		{HeaderPart{"S", "v1,", " "}, []string{strings.Repeat("v1,z ", 50)}, []string{"z", "z", "z"}},
	} {
		h := http.Header{}
		for _, v := range c.values {
			h.Add("S", v)
		}
		if got := c.part.Find(h, 3); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v of %q: %q, want %q", c.part, c.values, got, c.want)
		}
	}
}

// Whatever a caller sends, reading it ends, and never with a fact that lacks its id or object.
func FuzzWebhookRead(f *testing.F) {
	c := compiled(f, "pushcash", map[string]string{"profile": "lean"})
	f.Add([]byte(`{"type":"intent.approved","timestamp":"2026-06-01T12:00:00Z","data":{"id":"intent_1","amount":1,"status":"approved"}}`))
	f.Add([]byte(`{"type":"intent.declined","data":{"id":7}}`))
	f.Add([]byte(`{"type":{"type":[]},"data":null}`))
	f.Add([]byte(strings.Repeat("[", 300)))
	f.Fuzz(func(t *testing.T, body []byte) {
		n, err := c.Webhooks.Read(http.Header{}, body)
		if err == nil && n.Fact != "" && (n.ID == "" || n.Object == "" || n.At.IsZero()) {
			t.Errorf("%+v", n)
		}
		if err != nil {
			var u *UnreadableError
			if !errors.As(err, &u) {
				t.Errorf("%T: %v", err, err)
			}
		}
		again, err2 := c.Webhooks.Read(http.Header{}, body)
		if !reflect.DeepEqual(n, again) || (err == nil) != (err2 == nil) {
			t.Errorf("twice read: %+v and %+v", n, again)
		}
		if at, _, err := c.Webhooks.Time(nil, body); err == nil && at.IsZero() {
			t.Error("a time that is none")
		}
	})
}
