package integration_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/linkedin/goavro/v2"

	"github.com/weirsync/weir/integration_test/harness"
)

// factCodec reads facts as their consumers do: with the published schema.
func factCodec(t *testing.T) *goavro.Codec {
	t.Helper()
	text, err := os.ReadFile("../connector/webhook/fact.v1.avsc")
	if err != nil {
		t.Fatal(err)
	}
	codec, err := goavro.NewCodec(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

// facts reads all of weir.<connector>.facts, in order of partition and offset.
func (b *box) facts(codec *goavro.Codec) (out []map[string]any) {
	b.t.Helper()
	for _, r := range b.copies("weir." + b.name + ".facts") {
		v, rest, err := codec.NativeFromBinary(r.Value[5:])
		if err != nil || len(rest) > 0 {
			b.t.Fatalf("fact %s: %v, %d bytes left", originOf(r), err, len(rest))
		}
		f := v.(map[string]any)
		if string(r.Key) != f["vendor_object_id"] {
			b.t.Errorf("fact %s has the key %q", originOf(r), r.Key)
		}
		out = append(out, f)
	}
	return out
}

// factWord is a field's value without its union.
func factWord(v any) string {
	if m, ok := v.(map[string]any); ok {
		v = m["string"]
	}
	s, _ := v.(string)
	return s
}

// The vendor calls back: every call twice, half of them late, each first attempt altered on its way, and the secret is
// rotated in between. Each payment becomes a fact that names the event it was made from, and the trace shows it.
func TestWebhooksOfAVendor(t *testing.T) {
	t.Parallel()
	const n, oldSecret, newSecret = 6, "the-old-secret-of-more-than-32-characters", "the-new-secret-of-more-than-32-characters"
	var args []string
	for _, s := range []string{"complete_after=100ms", "webhook_duplicates=on", "webhook_reorder=on", "webhook_tamper=on", "webhook_time_scale=0.02"} {
		args = append(args, "--switch", s)
	}
	b := newBox(t, boxOptions{vendor: "pushcash", scale: true, sandbox: args})
	listen := harness.Addr(t)
	dir := filepath.Dir(b.config)
	for name, secret := range map[string]string{"hook": oldSecret, "hook_old": oldSecret} {
		b.write(filepath.Join(dir, name), secret)
	}
	cfg, err := os.ReadFile(b.config)
	if err != nil {
		t.Fatal(err)
	}
	b.write(b.config, fmt.Sprintf("webhooks: {listen: %q}\n", listen)+strings.Replace(string(cfg), "secrets: {",
		fmt.Sprintf("secrets: {webhook_secret: \"${file:%s/hook}\", webhook_secret_old: \"${file:%s/hook_old}\", ", dir, dir), 1))
	weir := b.start()
	weir.WaitLine(t, "webhooks listener")
	b.waitStatus("running", inState("running")) // the topic of the facts is there
	register := func(secret string) {
		t.Helper()
		body := fmt.Sprintf(`{"url":"http://%s/webhooks/%s","secret":%q}`, listen, b.name, secret)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.sandbox.URL+"/webhook/register", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+boxKey)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("register the webhook: %v, %v", resp, err)
		}
		resp.Body.Close()
	}
	codec := factCodec(t)
	ids := map[string]map[string]any{} // facts by id: what a consumer that drops doubles has
	await := func(want int) {
		t.Helper()
		b.until(fmt.Sprintf("%d facts", want), boxWait, func() (bool, string) {
			all := b.facts(codec)
			clear(ids)
			for _, f := range all {
				ids[factWord(f["fact_id"])] = f
			}
			return len(ids) >= want, fmt.Sprintf("%d facts, %d of them different", len(all), len(ids))
		})
	}
	origins := map[string]string{} // event id -> origin
	pay := func(from, to int) {
		t.Helper()
		for i := from; i < to; i++ {
			minor := int64(1000 + i)
			if i%3 == 2 {
				minor = 40001 // declined
			}
			for _, r := range b.publish(invoice(fmt.Sprintf("inv-%d", i), "cust-0", 1, minor)) {
				origins[fmt.Sprintf("evt-inv-%d-1", i)] = originOf(r)
			}
		}
	}
	b.publish(customer("cust-0", 1))
	register(oldSecret)
	pay(0, n)
	await(n)
	b.write(filepath.Join(dir, "hook"), newSecret) // the file is read again when it is a second old
	register(newSecret)
	pay(n, 2*n)
	await(2 * n)

	if len(ids) != 2*n {
		t.Errorf("%d different facts, want %d", len(ids), 2*n)
	}
	for id, f := range ids {
		m, _ := f["match"].(map[string]any)["com.weirsync.fact.Match"].(map[string]any)
		if m == nil {
			t.Errorf("fact %s has no match: %v", id, f)
			continue
		}
		event := factWord(m["event_id"])
		origin := fmt.Sprintf("%s/%d/%d", m["topic"], m["partition"], m["offset"])
		if origins[event] != origin || factWord(m["by"]) != "idempotency_key" || f["vendor"] != "pushcash" || f["own_echo"] != false {
			t.Errorf("fact of event %s (published at %s): %v", event, origins[event], f)
		}
		kind, status, amount := "payment_succeeded", "approved", f["amount_minor"].(map[string]any)["long"]
		if amount == int64(40001) {
			kind, status = "payment_failed", "declined"
		}
		if f["fact_type"] != kind || factWord(f["status"]) != status {
			t.Errorf("fact of amount %v: %s, %v", amount, f["fact_type"], f["status"])
		}
		// By the vendor's object, by the event and by the key it is the same story, with one confirmation.
		found := 0
		for _, a := range b.outcome(factWord(f["vendor_object_id"])).Attempts {
			if a.Verdict == "webhook" {
				found++
			}
		}
		if found != 1 {
			t.Errorf("trace %s shows %d confirmations, want 1", f["vendor_object_id"], found)
		}
	}
	if r := b.weir.MustRun(t, "trace", "inv-0", "--config", b.config); !strings.Contains(r.Stdout, "webhook confirmation: payment_succeeded, status approved") {
		t.Errorf("the trace does not show the confirmation:\n%s", r.Stdout)
	}
	ops := weir.WaitLine(t, `msg="ops listener" url=(\S+)`)[1]
	metrics := webhookPage(t, ops+"/metrics")
	for _, want := range []string{`outcome="accepted",vendor="pushcash"} ` + fmt.Sprint(2*n), `outcome="bad_signature"`, `outcome="duplicate"`} {
		if !strings.Contains(metrics, `weir_webhooks_total{connector="`+b.name+`",`+want) {
			t.Errorf("/metrics lacks weir_webhooks_total{...%s", want)
		}
	}
	if strings.Contains(metrics, `outcome="bad_signature",vendor="pushcash"} 0`) {
		t.Error("no call was refused, though the first attempt of each was altered")
	}
	if r := b.weir.Run(t, "check", "--config", b.config, "--json"); !strings.Contains(r.Stdout, "takes calls at /webhooks/"+b.name) {
		t.Errorf("weir check does not tell of the webhooks: %s", r.Stdout)
	}
	b.waitLag0()
	b.stop(weir)
	made := b.appliedTo(func(e harness.Effect) string { return e.Operation })
	if made["create_intent"] != 2*n || made["register_webhook"] != 2 {
		t.Errorf("the vendor applied %v, want %d create_intent", made, 2*n)
	}
	log, err := os.ReadFile(weir.Stderr.Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{oldSecret, newSecret, "example.com", "Lovelace"} {
		if bytes.Contains(log, []byte(secret)) {
			t.Errorf("the log holds %q", secret)
		}
	}
}

func webhookPage(t *testing.T, url string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("GET %s: %d, %v", url, resp.StatusCode, err)
	}
	return string(text)
}
