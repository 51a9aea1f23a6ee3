package main

import (
	"os"
	"strings"
	"testing"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/profile"
)

// check says which connectors are called back, what is missing, and whether a secret has the form that the profile
// wants; no secret is shown.
func TestCheckWebhooks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"good": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "bad": "whsec_%%%no-base64", "short": "c2hvcnQ="} {
		write(t, dir+"/"+name, text)
	}
	standard, err := os.ReadFile("../../connector/profile/plain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir+"/own.yaml", string(standard)+`
webhooks:
  secrets: [hook, hook_old]
  secret_encoding: base64
  signature: {header: webhook-signature, prefix: "v1,", separator: space, encoding: base64}
  signed: "{webhook-id}.{timestamp}.{body}"
  timestamp: {header: webhook-timestamp}
  tolerance: 5m
  type: body.type
  id: headers['webhook-id']
  object: body.id
  events: [{type: paid, fact: paid}]
`)
	for _, c := range []struct {
		name, listen, profile, secrets string
		want                           []string // level, check: part of what
	}{
		{"called back", "127.0.0.1:8081", "./own.yaml", "hook: '${file:good}'", []string{"ok connector c webhooks: secret hook has the form", "ok webhooks: 127.0.0.1:8081 takes calls at /webhooks/c"}},
		{"bad secret", "127.0.0.1:8081", "./own.yaml", "hook: '${file:good}', hook_old: '${file:bad}'", []string{"ok connector c webhooks: secret hook has", "fail connector c webhooks: secret hook_old: the secret is not base64", "ok webhooks: "}},
		{"short secret", "127.0.0.1:8081", "./own.yaml", "hook: '${file:short}'", []string{"warn connector c webhooks: secret hook has 5 bytes", "ok webhooks: "}},
		{"no secret", "127.0.0.1:8081", "./own.yaml", "api_key: '${file:good}'", []string{"warn connector c webhooks: no webhooks: it has no secret hook or hook_old", "warn webhooks: webhooks.listen is set, and no connector"}},
		{"profile without", "127.0.0.1:8081", "plain", "api_key: '${file:good}'", []string{"warn webhooks: webhooks.listen is set, and no connector"}},
		{"nobody listens", "", "./own.yaml", "hook: '${file:good}'", []string{"warn connector c webhooks: it has a secret for webhooks, and nothing listens"}},
		{"no webhooks at all", "", "plain", "api_key: '${file:good}'", nil},
	} {
		listen := ""
		if c.listen != "" {
			listen = "webhooks: {listen: '" + c.listen + "'}\n"
		}
		text := "kafka: {brokers: ['localhost:9092']}\n" + listen + "connectors:\n  c: {profile: " + c.profile + ", base_url: 'http://127.0.0.1:1', secrets: {" + c.secrets + "}}\n"
		cfg, err := config.Parse(dir+"/weir.yaml", []byte(text), os.Getenv)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		k := &checker{app: &app{}}
		contract, err := k.loadContract(nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := contract.compile("c", cfg.Connectors["c"], 0)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		k.webhooks(cfg, map[string]*profile.Compiled{"c": p})
		var got []string
		for _, f := range k.findings {
			got = append(got, f.Level+" "+f.Check+": "+f.What)
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
			continue
		}
		for i := range got {
			if !strings.HasPrefix(got[i], c.want[i]) || strings.Contains(got[i], "MfKQ") || strings.Contains(got[i], "%%%") {
				t.Errorf("%s: %q, want %q...", c.name, got[i], c.want[i])
			}
		}
	}
}
