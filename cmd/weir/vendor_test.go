package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// weir vendor diff compares what two profiles make of the events in Kafka, and shows no personal value.
func TestVendorDiff(t *testing.T) {
	w := newWorld(t)
	lines := strings.Join([]string{customer(1, 1, 1), customer(2, 2, 1), customer(3, 3, 1)}, "\n")
	if r := invoke(t, w.dir, func(e *Env) { e.Stdin = strings.NewReader(lines) }, "publish", "-", "--create-topics"); r.code != exitDone {
		t.Fatalf("publish: code %d, %s", r.code, r.stderr)
	}
	text, err := os.ReadFile(filepath.FromSlash("../../connector/profile/plain.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer("name: event.legal_name", "name: upper(event.legal_name)", "currency: event.currency", "currency: lower(event.currency)").Replace(string(text))
	if changed == string(text) {
		t.Fatal("the profile has other mappings now: change this test with it")
	}
	file := filepath.Join(w.dir, "changed.yaml")
	write(t, file, changed)

	var d vendorDiff
	r := invoke(t, w.dir, nil, "vendor", "diff", "plain", file, "--last", "100", "--limit", "2", "--json")
	if err := json.Unmarshal([]byte(r.stdout), &d); err != nil || r.code != exitDone {
		t.Fatalf("diff: code %d, %v, %s%s", r.code, err, r.stdout, r.stderr)
	}
	if d.Events != 3 || d.Changed != 3 || len(d.Changes) != 2 || d.Fields["put: body.name"] != 3 || d.Fields["put: body.currency"] != 3 {
		t.Errorf("diff: %+v; want 3 events, all changed at body.name and body.currency, 2 listed", d)
	}
	if strings.Contains(r.stdout, "Jane") || !strings.Contains(r.stdout, `"usd"`) {
		t.Errorf("diff shows a name, or hides a currency:\n%s", r.stdout)
	}
	if r = invoke(t, w.dir, nil, "vendor", "diff", "plain", file, "--personal"); !strings.Contains(r.stdout, "JANE DOE") || !strings.Contains(r.stdout, "3 with others") {
		t.Errorf("diff --personal: %s%s", r.stdout, r.stderr)
	}
	if r = invoke(t, w.dir, nil, "vendor", "diff", "plain", "plain"); !strings.HasPrefix(r.stdout, "3 events compared, 3 with the same requests, 0 with others") {
		t.Errorf("diff of a profile with itself: %s%s", r.stdout, r.stderr)
	}
	for _, args := range [][]string{{"--last", "0"}, {"--limit", "-1"}, {"--connector", "other"}} {
		if r := invoke(t, w.dir, nil, append([]string{"vendor", "diff", "plain", "plain"}, args...)...); r.code != exitYours {
			t.Errorf("diff %v: code %d, want 2", args, r.code)
		}
	}
}
