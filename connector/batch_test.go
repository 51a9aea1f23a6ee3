package connector_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
)

// batchProfile is a vendor that takes people one by one or up to 100 at once.
const batchProfile = `
profile: acme
version: "1"
description: people, alone and in batches
environments: {sandbox: {base_url: http://127.0.0.1:1}}
auth: {kind: none}
operations:
  create_person:
    method: POST
    path: /people
    class: %s
    reference: {in: body, name: ref}
    retry: {first: 10ms}
    body:
      ref: {type: string, required: true}
      id: {type: string, required: true}
    answer: {id: string}
    batch:
      path: /people/batch
      max: 100
      linger: 300ms
      items: items
      fields: {continue_on_error: true}
      results: {list: results, index: index, status: status, body: data, definite: true}
routes:
  customer:
    entity: customer
    semantics: latest
    steps:
      create:
        operation: create_person
        map: {id: event.customer_id}
        remember: {ids: {person_id: body.id}}
    cases:
      - when: ids.person_id != null
        ignore: unsupported_update
      - steps: [create]
`

// A batchVendor counts what it did. A batch that it has answered under a key gets the same answer again.
type batchVendor struct {
	mu      sync.Mutex
	applied map[string]int // people by their id
	batches []batchCall
	singles []string
	stored  map[string][]byte
	// item says what becomes of an item, 200 by default; whole what becomes of a batch, 0 by default.
	item  func(id string, nth int) int
	whole func(nth, size int) int // -1: it is done, and the connection is closed without an answer
	asked map[string]int
}

type batchCall struct{ key, body string }

func (v *batchVendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	type person struct{ ID string }
	judge := func(p person) int {
		v.asked[p.ID]++
		status := 200
		if v.item != nil {
			status = v.item(p.ID, v.asked[p.ID])
		}
		if status == 200 {
			v.applied[p.ID]++
		}
		return status
	}
	key := r.Header.Get("Idempotency-Key")
	if r.URL.Path == "/people" {
		var p person
		if err := json.Unmarshal(body, &p); err != nil {
			panic(err)
		}
		v.singles = append(v.singles, p.ID)
		w.WriteHeader(judge(p))
		fmt.Fprintf(w, `{"id":"v-%s"}`, p.ID)
		return
	}
	v.batches = append(v.batches, batchCall{key, string(body)})
	var in struct {
		Items    []person
		GoesOn   bool `json:"continue_on_error"`
		Foreign  any  `json:"foreign"`
		Surprise any
	}
	if err := json.Unmarshal(body, &in); err != nil || !in.GoesOn {
		panic(fmt.Sprint("batch body: ", err, string(body)))
	}
	status := 0
	if v.whole != nil {
		status = v.whole(len(v.batches), len(in.Items))
	}
	if status > 0 {
		w.WriteHeader(status)
		return
	}
	answer, ok := v.stored[key]
	if !ok || key == "" {
		type result struct {
			Index  int            `json:"index"`
			Status int            `json:"status"`
			Data   map[string]any `json:"data,omitempty"`
		}
		var out struct {
			Results []result `json:"results"`
		}
		for i, p := range in.Items {
			res := result{Index: i, Status: judge(p)}
			if res.Status == 200 {
				res.Data = map[string]any{"id": "v-" + p.ID}
			}
			out.Results = append(out.Results, res)
		}
		slices.Reverse(out.Results) // the index counts, not the order
		answer, _ = json.Marshal(out)
		v.stored[key] = answer
	}
	if status < 0 {
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(answer)
}

// counts says how often each person was made: want people must be there once, and nobody twice.
func (v *batchVendor) counts(t *testing.T, want int) {
	t.Helper()
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, n := range v.applied {
		if n != 1 {
			t.Errorf("%s was made %d times", id, n)
		}
	}
	if len(v.applied) != want {
		t.Errorf("%d people were made, want %d", len(v.applied), want)
	}
}

func newBatchWorld(t *testing.T, class string, people int) (*world, *batchVendor) {
	t.Helper()
	v := &batchVendor{applied: map[string]int{}, stored: map[string][]byte{}, asked: map[string]int{}}
	w := newWorld(t, "plain", nil)
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.topics = map[string]string{"canonical.customer": "customer"}
	w.kc.Topics = []string{"canonical.customer"}
	p, err := profile.Parse("acme.yaml", fmt.Appendf(nil, batchProfile, class))
	if err != nil {
		t.Fatal(err)
	}
	if w.profile, err = p.Compile(profile.Options{Connector: "v", Environment: "sandbox", BaseURL: w.url, Schemas: w.set}); err != nil {
		t.Fatal(err)
	}
	var outs []kafka.Out
	for i := range people {
		id := fmt.Sprintf("p%03d", i)
		event := fmt.Appendf(nil, `{"event_id":"e-%s","event_type":"customer.created","occurred_at":"2026-06-01T09:00:00Z","source_system":"crm","tenant":"acme","entity_version":1,"operation":"upsert","customer_id":%q,"kind":"person","legal_name":"Ada Byte","currency":"USD"}`, id, id)
		outs = append(outs, kafka.Out{Topic: "canonical.customer", Key: []byte(id), Value: w.encode("customer", event)})
	}
	w.produce(outs...)
	return w, v
}

// keyed is class key, named in a header: what FinFusion has.
const keyed = "key\n    key: {in: header, name: Idempotency-Key}\n    key_retention: 24h"

func (w *world) outcomes() map[checkpoint.Outcome]int {
	w.t.Helper()
	m := map[checkpoint.Outcome]int{}
	infos, err := (&source{w}).Partitions(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range infos {
		rows, err := w.store.Rows(w.t.Context(), p.Partition, 0, 1<<40)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range rows {
			m[r.Outcome]++
		}
	}
	return m
}

// 100 people, of which 7 are refused and 5 fail at first: the accepted are settled once, the refused are parked, and the
// failed go on at the head of their keys, without anybody who was accepted.
func TestBatchOfManyResults(t *testing.T) {
	w, v := newBatchWorld(t, keyed, 100)
	v.item = func(id string, nth int) int {
		n, _ := strconv.Atoi(id[1:])
		switch {
		case n%14 == 3:
			return 400
		case n%20 == 10 && nth == 1:
			return 503
		}
		return 200
	}
	_, stop := w.start()
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range 100 {
		if i%14 == 3 {
			refused++
		}
	}
	v.counts(t, 100-refused)
	got := w.outcomes()
	want := map[checkpoint.Outcome]int{checkpoint.Delivered: 100 - refused, checkpoint.ParkedOut: refused}
	if !maps.Equal(got, want) {
		t.Errorf("outcomes %v, want %v", got, want)
	}
	if refused != 7 || len(v.batches) != 2 || v.batches[0].key == v.batches[1].key {
		t.Errorf("%d refused, %d batches: want 7, and 2 batches with keys of their own", refused, len(v.batches))
	}
	if n := len(v.singles); n != 0 {
		t.Errorf("%d people were sent alone", n)
	}
}

// The answer to a batch is lost: it is repeated as it was, and nothing is done twice.
func TestBatchWithItsAnswerLost(t *testing.T) {
	w, v := newBatchWorld(t, keyed, 40)
	v.whole = func(nth, _ int) int {
		if nth <= 2 {
			return -1
		}
		return 0
	}
	_, stop := w.start()
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	v.counts(t, 40)
	if len(v.batches) != 3 || v.batches[0] != v.batches[1] || v.batches[1] != v.batches[2] {
		t.Errorf("%d batches: want the first one three times, byte for byte", len(v.batches))
	}
}

// A batch was answered, and the process ends before anything of that is durable. Its successor repeats the batch as it
// was before any member moves on.
func TestBatchAcrossARestart(t *testing.T) {
	for _, class := range []string{keyed, "none"} {
		t.Run(class[:4], func(t *testing.T) {
			w, v := newBatchWorld(t, class, 40)
			hang := make(chan struct{})
			t.Cleanup(func() { close(hang) })
			reached := make(chan struct{}, 100)
			w.tweak = func(c *connector.Config) {
				c.Drain = 200 * time.Millisecond
				c.Fail = func(point string) {
					if point == "answered" {
						reached <- struct{}{}
						<-hang // as good as dead: this worker never says what the answer was
					}
				}
			}
			_, stop := w.start()
			<-reached
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			if got := w.outcomes(); len(got) != 0 {
				t.Fatalf("outcomes before the restart: %v", got)
			}
			w.tweak = nil
			w.open()
			_, stop = w.start()
			w.settleAll(30 * time.Second)
			if err := stop(); err != nil {
				t.Fatal(err)
			}
			v.counts(t, 40)
			want := map[checkpoint.Outcome]int{checkpoint.Delivered: 40}
			batches := 2
			if class == "none" {
				want, batches = map[checkpoint.Outcome]int{checkpoint.ParkedOut: 40}, 1
			}
			if got := w.outcomes(); !maps.Equal(got, want) {
				t.Errorf("outcomes %v, want %v", got, want)
			}
			if len(v.batches) != batches || v.batches[0] != v.batches[batches-1] {
				t.Errorf("%d batches: want %d, byte for byte the same", len(v.batches), batches)
			}
		})
	}
}

// A batch of class none was begun, and its members are parked one by one after the restart, which a second one cuts short.
// That some have an outcome does not show that there was an answer: none is sent again.
func TestBatchPartlyParkedAcrossARestart(t *testing.T) {
	w, v := newBatchWorld(t, "none", 40)
	hang := make(chan struct{})
	t.Cleanup(func() { close(hang) })
	answered := make(chan struct{}, 100)
	var parked atomic.Int32
	w.tweak = func(c *connector.Config) {
		c.Drain = 200 * time.Millisecond
		c.Fail = func(point string) {
			if point == "answered" {
				answered <- struct{}{}
				<-hang // as good as dead
			}
			if point == "parked" && parked.Add(1) > 3 {
				<-hang
			}
		}
	}
	_, stop := w.start()
	<-answered
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.open()
	_, stop = w.start()
	for deadline := time.Now().Add(20 * time.Second); w.outcomes()[checkpoint.ParkedOut] == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody is parked")
		}
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if got := w.outcomes()[checkpoint.ParkedOut]; got >= 40 {
		t.Fatalf("%d of 40 are parked before the second restart: the test shows nothing", got)
	}
	w.tweak = nil
	w.open()
	_, stop = w.start()
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	v.counts(t, 40)
	if got := w.outcomes(); !maps.Equal(got, map[checkpoint.Outcome]int{checkpoint.ParkedOut: 40}) {
		t.Errorf("outcomes %v, want 40 parked", got)
	}
}

// A batch that is refused as a whole, which proves that nothing was done, is halved until who is to blame is found.
func TestBatchRefusedAsAWhole(t *testing.T) {
	w, v := newBatchWorld(t, keyed, 16)
	v.whole = func(_, size int) int {
		if size > 4 {
			return 413
		}
		return 0
	}
	_, stop := w.start()
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	v.counts(t, 16)
	if len(v.batches) != 7 {
		t.Errorf("%d batches: want 1 of 16, 2 of 8 and 4 of 4", len(v.batches))
	}
	keys := map[string]bool{}
	for _, b := range v.batches {
		keys[b.key] = true
	}
	if len(keys) != len(v.batches) {
		t.Errorf("%d keys for %d batches: a half under a key that was refused would be refused unread", len(keys), len(v.batches))
	}
}
