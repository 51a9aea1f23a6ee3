package connector_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
)

var batchSeeds = flag.Int("batch.seeds", 0, "how many seeds TestBatchesAcrossManyRestarts runs of each class; 0: 3, or 100 with WEIR_TEST_SOAK")

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
      key: {type: string}
    answer: {id: string}
    batch:
      path: /people/batch
      max: 100
      linger: %s
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
	stored  map[string]storedAnswer
	keeps   time.Duration // how long it knows a batch by its key; 0: for ever
	// item says what becomes of an item, 200 by default; whole what becomes of a batch, 0 by default.
	item  func(id string, nth int) int
	whole func(nth, size int) int // -1: it is done, and the connection is closed without an answer
	// refuses: a credential is looked at before a key.
	refuses bool
	alone   func(nth int) bool // whether the answer to a single is lost
	asked   map[string]int
	refs    map[string]string    // their ids by the reference that each came with
	keys    map[string]time.Time // that items came with, and when
}

type storedAnswer struct {
	body []byte
	at   time.Time
}

type batchCall struct{ key, body string }

func (v *batchVendor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	type person struct{ ID, Ref, Key string }
	judge := func(p person) int {
		if at, ok := v.keys[p.Key]; ok && p.Key != "" && (v.keeps == 0 || time.Since(at) < v.keeps) {
			return 200 // as before
		}
		v.asked[p.ID]++
		status := 200
		if v.item != nil {
			status = v.item(p.ID, v.asked[p.ID])
		}
		if status == 200 {
			v.applied[p.ID]++
			v.refs[p.Ref], v.keys[p.Key] = p.ID, time.Now()
		}
		return status
	}
	key := r.Header.Get("Idempotency-Key")
	if r.Method == http.MethodGet { // the probe
		fmt.Fprint(w, `{"data":[`)
		if id, ok := v.refs[r.URL.Query().Get("ref")]; ok {
			fmt.Fprintf(w, `{"id":"v-%s"}`, id)
		}
		fmt.Fprint(w, `]}`)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/touch/") {
		fmt.Fprint(w, `{}`)
		return
	}
	if r.URL.Path == "/people" {
		var p person
		if err := json.Unmarshal(body, &p); err != nil {
			panic(err)
		}
		v.singles = append(v.singles, p.ID)
		if key != "" {
			p.Key = key
		}
		status := judge(p)
		if v.alone != nil && v.alone(len(v.singles)) {
			panic(http.ErrAbortHandler)
		}
		w.WriteHeader(status)
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
	stored, ok := v.stored[key]
	ok = ok && key != "" && (v.keeps == 0 || time.Since(stored.at) < v.keeps)
	answer := stored.body
	if status >= 500 || status == 401 && v.refuses || status >= 400 && !ok {
		w.WriteHeader(status)
		return
	}
	if !ok {
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
		v.stored[key] = storedAnswer{answer, time.Now()}
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

func newBatchWorld(t *testing.T, class, linger string, people int) (*world, *batchVendor) {
	t.Helper()
	w, v := newPeopleWorld(t, fmt.Sprintf(batchProfile, class, linger))
	w.people(0, people)
	return w, v
}

// newPeopleWorld is a world whose vendor keeps people.
func newPeopleWorld(t *testing.T, text string) (*world, *batchVendor) {
	t.Helper()
	v := &batchVendor{applied: map[string]int{}, stored: map[string]storedAnswer{}, asked: map[string]int{}, refs: map[string]string{}, keys: map[string]time.Time{}}
	w := newWorld(t, "plain", nil)
	srv := httptest.NewServer(v)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.topics = map[string]string{"canonical.customer": "customer"}
	w.kc.Topics = []string{"canonical.customer"}
	p, err := profile.Parse("acme.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if w.profile, err = p.Compile(profile.Options{Connector: "v", Environment: "sandbox", BaseURL: w.url, Schemas: w.set}); err != nil {
		t.Fatal(err)
	}
	return w, v
}

// people publishes some.
func (w *world) people(from, to int) {
	w.t.Helper()
	var outs []kafka.Out
	for i := from; i < to; i++ {
		id := fmt.Sprintf("p%03d", i)
		event := fmt.Appendf(nil, `{"event_id":"e-%s","event_type":"customer.created","occurred_at":"2026-06-01T09:00:00Z","source_system":"crm","tenant":"acme","entity_version":1,"operation":"upsert","customer_id":%q,"kind":"person","legal_name":"Ada Byte","currency":"USD"}`, id, id)
		outs = append(outs, kafka.Out{Topic: "canonical.customer", Key: []byte(id), Value: w.encode("customer", event)})
	}
	w.produce(outs...)
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

// ambiguous counts the parked records, which must be ambiguous, all of them.
func (w *world) ambiguous() int {
	w.t.Helper()
	entries, err := w.store.Parked(w.t.Context(), checkpoint.ParkedQuery{Connector: "v"})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if e.Cause != checkpoint.CauseAmbiguous {
			w.t.Errorf("offset %d is parked as %s: %s", e.Position.Offset, e.Cause, e.Reason)
		}
	}
	return len(entries)
}

// 100 people, of which 7 are refused and 5 fail at first: the accepted are settled once, the refused are parked, and the
// failed go on at the head of their keys, without anybody who was accepted.
func TestBatchOfManyResults(t *testing.T) {
	w, v := newBatchWorld(t, keyed, "300ms", 100)
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
	w, v := newBatchWorld(t, keyed, "300ms", 40)
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
			w, v := newBatchWorld(t, class, "300ms", 40)
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

// A batch was begun and must not be repeated: its members are parked one by one after the restart, which a second one cuts
// short. That some have an outcome does not show that there was an answer: none is sent again.
func TestBatchPartlyParkedAcrossARestart(t *testing.T) {
	t.Run("none", func(t *testing.T) { testBatchPartlyParked(t, "none", 0) })
	t.Run("key", func(t *testing.T) {
		testBatchPartlyParked(t, strings.Replace(keyed, "24h", "1s", 1), 1100*time.Millisecond)
	})
}

// after is how long the process stays away.
func testBatchPartlyParked(t *testing.T, class string, after time.Duration) {
	w, v := newBatchWorld(t, class, "300ms", 40)
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
	time.Sleep(after)
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

// A heldStore settles nothing until it is let go.
type heldStore struct {
	checkpoint.Store
	asked chan struct{} // gets each Settle
	free  chan struct{}
}

func (s heldStore) Settle(ctx context.Context, b checkpoint.Batch) (checkpoint.Result, error) {
	s.asked <- struct{}{}
	<-s.free
	return s.Store.Settle(ctx, b)
}

// Some items of an answered batch are to be tried again. They are not begun anew before the outcomes of the others are
// durable: a restart in between would find a batch that lacks members, and nothing that shows that it was answered.
func TestBatchGoesOnWhenDurable(t *testing.T) {
	w, v := newBatchWorld(t, keyed, "100ms", 20)
	v.item = func(id string, nth int) int {
		if nth == 1 && id < "p005" {
			return 503
		}
		return 200
	}
	s := heldStore{asked: make(chan struct{}, 1000), free: make(chan struct{})}
	w.tweak = func(c *connector.Config) {
		s.Store = c.Store
		c.Store = s
	}
	_, stop := w.start()
	<-s.asked
	time.Sleep(500 * time.Millisecond) // a retry waits for some 10 ms
	v.mu.Lock()
	batches := len(v.batches)
	v.mu.Unlock()
	if batches != 1 {
		t.Errorf("%d batches before the first one's outcomes are durable, want 1", batches)
	}
	close(s.free)
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	v.counts(t, 20)
	if len(v.batches) != 2 || len(v.singles) != 0 {
		t.Errorf("%d batches and %d alone, want 2 and 0", len(v.batches), len(v.singles))
	}
}

// The answer to a batch is lost, and then the vendor refuses the credential for a while: that says nothing of the first try,
// so the batch is repeated as it was.
func TestBatchInDoubtAndCredentialRefused(t *testing.T) {
	w, v := newBatchWorld(t, keyed, "100ms", 20)
	v.refuses = true
	v.whole = func(nth, _ int) int {
		switch nth {
		case 1:
			return -1
		case 2, 3:
			return 401
		}
		return 0
	}
	_, stop := w.start()
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	v.counts(t, 20)
	if got := w.outcomes(); got[checkpoint.Delivered] != 20 {
		t.Errorf("outcomes %v, want 20 delivered", got)
	}
	if len(v.batches) != 4 || v.batches[0] != v.batches[3] {
		t.Errorf("%d batches, want 4, byte for byte the same", len(v.batches))
	}
}

// A batch uses up its attempts without an answer that says whether it had an effect. Released alone its items would go under
// keys of their own, so they are ambiguous.
func TestBatchInDoubtIsExhausted(t *testing.T) {
	w, v := newBatchWorld(t, keyed, "100ms", 20)
	v.whole = func(int, int) int { return 408 }
	w.tweak = func(c *connector.Config) { c.AttemptsMax = 3 }
	_, stop := w.start()
	w.settleAll(30 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if n := w.ambiguous(); n != 20 || len(v.batches) != 3 || len(v.singles) != 0 {
		t.Errorf("%d parked after %d batches and %d alone, want 20, 3 and 0", n, len(v.batches), len(v.singles))
	}
}

// A batch that is refused as a whole, which proves that nothing was done, is halved until who is to blame is found.
func TestBatchRefusedAsAWhole(t *testing.T) {
	w, v := newBatchWorld(t, keyed, "300ms", 16)
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

// keyedItems is class key with a key in each item, by which the vendor recognises it in any batch.
const keyedItems = "key\n    key: {in: body, name: key}\n    key_retention: 24h"

// A mortalStore keeps a number of writes and then none: the process is as good as dead. Whether the last one is durable,
// its caller never learns.
type mortalStore struct {
	checkpoint.Store
	left atomic.Int64
	last bool   // the last one is durable
	slow func() // before a Settle
	died chan struct{}
}

// write makes a write, unless the store is dead.
func (s *mortalStore) write(ctx context.Context, f func() error) error {
	switch n := s.left.Add(-1); {
	case n > 0:
		return f()
	case n == 0:
		if s.last {
			_ = f()
		}
		close(s.died)
	}
	<-ctx.Done()
	return ctx.Err()
}

func (s *mortalStore) Begin(ctx context.Context, bs []checkpoint.Begin) error {
	return s.write(ctx, func() error { return s.Store.Begin(ctx, bs) })
}

func (s *mortalStore) Settle(ctx context.Context, b checkpoint.Batch) (res checkpoint.Result, err error) {
	s.slow()
	err = s.write(ctx, func() (err error) { res, err = s.Store.Settle(ctx, b); return err })
	return res, err
}

func (s *mortalStore) Evidence(ctx context.Context, es []checkpoint.Evidence) error {
	return s.write(ctx, func() error { return s.Store.Evidence(ctx, es) })
}

// locked lets a vendor and a test draw from one source.
type locked struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (l *locked) IntN(n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.IntN(n)
}

// The process ends again and again, each time after another write, with a vendor that loses answers, refuses batches and
// fails items: nobody is made twice, and everybody has an outcome, whatever the class.
func TestBatchesAcrossManyRestarts(t *testing.T) {
	const people = 24
	probed := "\n    probe: {path: \"/people?ref={reference}\", found: \"size(body.data) > 0\", object: \"body.data[0]\"}\n    late_apply: 50ms"
	seeds := *batchSeeds
	if seeds == 0 {
		seeds = 3
		if os.Getenv("WEIR_TEST_SOAK") != "" {
			seeds = 100
		}
	}
	const retention = time.Second
	briefly := fmt.Sprint("key\n    key: {in: header, name: Idempotency-Key}\n    key_retention: ", retention)
	for _, class := range []struct{ name, text string }{
		{"none", "none"}, {"none probed", "none" + probed}, {"key", keyed}, {"key probed", keyed + probed},
		{"key for a moment", briefly}, {"key for a moment probed", briefly + probed}, {"keyed items", keyedItems},
	} {
		t.Run(class.name, func(t *testing.T) {
			t.Parallel() // it mostly waits
			for seed := range seeds {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					r := &locked{r: rand.New(rand.NewPCG(uint64(seed), 7))}
					w, v := newBatchWorld(t, class.text, "10ms", people)
					v.item = func(_ string, nth int) int {
						switch p := r.IntN(20); {
						case p < 3 && nth < 3:
							return 503
						case p == 4:
							return 400
						}
						return 200
					}
					v.whole = func(nth, size int) int {
						switch p := r.IntN(20); {
						case p < 6:
							return -1
						case p < 8 && size > 3:
							return 413
						case p < 9:
							return 503
						}
						return 0
					}
					if strings.Contains(class.name, "moment") {
						v.keeps = retention + 100*time.Millisecond // a request takes its time to arrive
					}
					v.alone = func(int) bool { return r.IntN(8) == 0 }
					for range 6 {
						s := &mortalStore{last: r.IntN(2) == 0, died: make(chan struct{})}
						s.left.Store(int64(1 + r.IntN(14)))
						w.tweak = func(c *connector.Config) {
							c.Drain = time.Millisecond
							s.Store, c.Store = c.Store, s
							// Members of a batch go on at different times, and the store is slower than the vendor.
							c.Fail = func(string) { time.Sleep(time.Duration(r.IntN(20)) * time.Millisecond) }
							s.slow = func() { time.Sleep(time.Duration(r.IntN(40)) * time.Millisecond) }
						}
						w.open()
						_, stop := w.start()
						select {
						case <-s.died:
						case <-time.After(250 * time.Millisecond): // all is done, or waits
							s.left.Store(0)
						}
						_ = stop()
						if v.keeps > 0 {
							time.Sleep(time.Duration(r.IntN(600)) * time.Millisecond)
						}
					}
					w.tweak = nil
					w.open()
					_, stop := w.start()
					w.settleAll(60 * time.Second)
					if err := stop(); err != nil {
						t.Fatal(err)
					}
					all := 0
					got := w.outcomes()
					for o, n := range got {
						if all += n; o != checkpoint.Delivered && o != checkpoint.ParkedOut {
							t.Errorf("%d are %s", n, o)
						}
					}
					v.mu.Lock()
					defer v.mu.Unlock()
					for id, n := range v.applied {
						if n != 1 {
							t.Errorf("%s was made %d times", id, n)
						}
					}
					if all != people || len(v.applied) < got[checkpoint.Delivered] {
						t.Errorf("outcomes %v of %d, and %d were made", got, people, len(v.applied))
					}
				})
			}
		})
	}
}
