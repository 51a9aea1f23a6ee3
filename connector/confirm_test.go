package connector_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/profile"
)

// pendingProfile is a vendor that decides later.
const pendingProfile = `
profile: acme
version: "1"
description: people, who are looked at first
environments: {sandbox: {base_url: http://127.0.0.1:1}}
auth: {kind: none}
operations:
  put_person:
    method: PUT
    path: /people/{id}
    class: overwrite
    deadline: 1s
    body:
      name: {type: string, required: true}
    verdicts:
      - {status: 202, verdict: accept_pending}
routes:
  customer:
    entity: customer
    semantics: latest
    steps:
      put:
        operation: put_person
        params: {id: entity.id}
        map: {name: "event.legal_name + string(entity.version)"}
        remember: {vendor_id: entity.id}
    cases:
      - {operation: delete, ignore: no_counterpart}
      - steps: [put]
`

// A confirmWatch keeps what was told last.
type confirmWatch struct {
	connector.NopObserver
	mu   sync.Mutex
	last [2]int
}

func (w *confirmWatch) Unconfirmed(waiting, overdue int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = [2]int{waiting, overdue}
}

// Who is accepted and not confirmed by the deadline is told of, over a restart, until a newer state of theirs is taken or the
// vendor says how it ended.
func TestOverdueConfirmations(t *testing.T) {
	w := newWorld(t, "plain", nil)
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(http.StatusAccepted) }))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.topics = map[string]string{"canonical.customer": "customer"}
	w.kc.Topics = []string{"canonical.customer"}
	p, err := profile.Parse("acme.yaml", []byte(pendingProfile))
	if err != nil {
		t.Fatal(err)
	}
	if w.profile, err = p.Compile(profile.Options{Connector: "v", Environment: "sandbox", BaseURL: w.url, Schemas: w.set}); err != nil {
		t.Fatal(err)
	}
	watch := &confirmWatch{}
	w.tweak = func(c *connector.Config) { c.Observer, c.CalledBack = watch, true }
	told := func(want [2]int) {
		t.Helper()
		var got [2]int
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			watch.mu.Lock()
			got = watch.last
			watch.mu.Unlock()
			if got == want {
				return
			}
		}
		t.Errorf("waiting and overdue %v, want %v", got, want)
	}
	w.produce(w.customer("a", 1, ""), w.customer("b", 1, ""), w.customer("c", 1, ""))
	_, stop := w.start()
	w.settleAll(20 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond)
	w.open()
	_, stop = w.start()
	told([2]int{3, 3})
	u, err := w.store.Unconfirmed(t.Context(), "v", time.Now(), 10)
	if err != nil || len(u.First) != 3 {
		t.Fatalf("%+v, %v", u, err)
	}
	for _, r := range u.First {
		if r.EntityKey.Key == "a" {
			if err := w.store.Evidence(t.Context(), []checkpoint.Evidence{{Position: r.Position, Attempt: checkpoint.Attempt{N: 1, At: time.Now(), Verdict: checkpoint.VerdictWebhook}, Confirms: true}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	told([2]int{2, 2})
	w.produce(w.customer("b", 2, ""))
	w.settleAll(20 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if u, err = w.store.Unconfirmed(t.Context(), "v", time.Now(), 10); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, r := range u.First {
		left = append(left, r.EventID)
	}
	if slices.Sort(left); !slices.Equal(left, []string{"c-b-2", "c-c-1"}) {
		t.Errorf("%v wait, want the newer state of b, and c", left)
	}
}
