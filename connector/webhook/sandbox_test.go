package webhook

import (
	"context"
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/sandbox/core"
)

// The sandbox of FinFusion calls the built-in profile's webhooks: whatever it spoils of its first attempts, each event
// becomes one fact, and what is spoilt is told apart.
func TestFinfusionSandbox(t *testing.T) {
	const n, secret, old = 5, "whsec_0123456789abcdef", "whsec_0000000000000000" // old: what the sandbox signs with when there was none before
	for _, c := range []struct {
		spoil   string
		old     string // also configured
		refused Outcome
		repeats bool
	}{
		{"webhook_tamper", "", BadSignature, false},
		{"webhook_old_secret", "", BadSignature, false},
		{"webhook_old_secret", old, "", false},
		{"webhook_stale", "", TooOld, false},
		{"webhook_duplicates", "", "", true},
		{"webhook_reorder", "", "", false},
	} {
		t.Run(c.spoil+"/"+string(c.refused), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "finfusion", func(cfg *Config) { cfg.Now = nil })
			w.secret["webhook_secret"], w.secret["webhook_secret_old"] = secret, c.old
			receiver := httptest.NewServer(w.srv)
			defer receiver.Close()
			s, err := sandbox.New("finfusion", sandbox.Options{Switches: map[string]string{
				"webhook_url": receiver.URL + "/webhooks/c", "webhook_secret": secret, "webhook_time_scale": "0.01", c.spoil: "on"}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Start(context.Background(), "", ""); err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			emit := func(kind string, i int) {
				t.Helper()
				args, err := core.ParseFields(fmt.Appendf(nil, `{"type":%q,"object":{"id":"pay_%d","status":"succeeded","amount":{"value":990,"currency":"EUR"},"metadata":{"external_id":"inv-%d.1"}}}`, kind, i, i))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Act("emit_event", args); err != nil {
					t.Fatal(err)
				}
			}
			for i := range n {
				emit("payment.succeeded", i)
			}
			emit("card.blocked", 99)
			want := n
			if c.repeats {
				want = 2 * n
			}
			taken := func() (done bool, counts map[Outcome]int) {
				w.mu.Lock()
				defer w.mu.Unlock()
				counts = map[Outcome]int{}
				for o, k := range w.counts {
					counts[o] = k
				}
				return counts[Accepted]+counts[Duplicate] >= want && counts[Ignored] >= want/n, counts
			}
			deadline := time.Now().Add(time.Minute)
			for {
				done, counts := taken()
				if done {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("after a minute: %v", counts)
				}
				time.Sleep(5 * time.Millisecond) // the sandbox has no signal
			}
			_, counts := taken()
			if counts[Accepted] != n || c.repeats != (counts[Duplicate] > 0) {
				t.Errorf("outcomes %v, want %d accepted", counts, n)
			}
			if refused := counts[BadSignature] + counts[TooOld]; c.refused == "" && refused > 0 || c.refused != "" && counts[c.refused] == 0 {
				t.Errorf("outcomes %v, want some %s", counts, c.refused)
			}
			seen := map[any]bool{}
			for _, f := range w.kafka.facts(t) {
				seen[f["fact_id"]] = true
				if f["fact_type"] != "payment_succeeded" || f["amount_minor"].(map[string]any)["long"] != int64(990) {
					t.Errorf("fact %v", f)
				}
			}
			if len(seen) != n {
				t.Errorf("%d different facts, want %d", len(seen), n)
			}
		})
	}
}
