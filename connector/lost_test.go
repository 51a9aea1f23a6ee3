package connector_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
)

// lostProfile makes people one by one, in two steps: the second one has a class of its own.
const lostProfile = `
profile: acme
version: "1"
description: people, one by one
environments: {sandbox: {base_url: http://127.0.0.1:1}}
auth: {kind: none}
operations:
  touch_person:
    method: PUT
    path: /touch/{id}
    class: overwrite
    body: {id: {type: string, required: true}}
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
routes:
  customer:
    entity: customer
    semantics: latest
    steps:
%s      create:
        operation: create_person
        map: {id: event.customer_id}
        remember: {ids: {person_id: body.id}}
    cases:
      - when: ids.person_id != null
        ignore: unsupported_update
      - steps: [%s]
`

const touchStep = `      touch:
        operation: touch_person
        params: {id: event.customer_id}
        map: {id: event.customer_id}
        remember: {vendor_id: entity.id}
`

// A store is replaced by its backup: what was sent since is sent again only where that is harmless. A key that the vendor has
// forgotten is none, and a later step of a plan may have been sent as well as its first.
func TestStoreOfABackup(t *testing.T) {
	const people, more = 3, 8
	short := "key\n    key: {in: header, name: Idempotency-Key}\n    key_retention: 1s"
	long := strings.Replace(short, "1s", "24h", 1)
	probed := "\n    late_apply: 50ms\n    probe: {path: \"/people?ref={reference}\", found: \"size(body.data) > 0\", object: \"body.data[0]\"}"
	for _, c := range []struct {
		name, class, steps string
		parked             int
	}{
		{"key that lives", long, "create", 0},
		{"key that is forgotten", short, "create", more},
		{"key that is forgotten, probed", short + probed, "create", 0},
		{"none", "none", "create", more},
		{"none, probed", "none" + probed, "create", 0},
		{"second step none", "none", "touch, create", more},
		{"second step none, probed", "none" + probed, "touch, create", 0},
		{"second step with a key that is forgotten", short, "touch, create", more},
		{"second step with a key that lives", long, "touch, create", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			text := fmt.Sprintf(lostProfile, c.class, touchStep, c.steps)
			if !strings.Contains(c.steps, "touch") {
				text = fmt.Sprintf(lostProfile, c.class, "", c.steps)
			}
			w, v := newPeopleWorld(t, text)
			v.keeps = 24 * time.Hour
			if strings.HasPrefix(c.class, short) {
				v.keeps = time.Second
			}
			run := func(want int) {
				t.Helper()
				w.open()
				_, stop := w.start()
				for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					n := 0
					for _, of := range w.outcomes() {
						n += of
					}
					if n >= want {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("%d outcomes, want %d", n, want)
					}
				}
				w.settleAll(30 * time.Second)
				if err := stop(); err != nil {
					t.Fatal(err)
				}
				w.store.Close()
			}
			w.people(0, people)
			run(people)
			path := filepath.Join(w.dir, "weir.db")
			backup, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			w.people(people, people+more)
			run(people + more)
			for _, suffix := range []string{"-wal", "-shm"} {
				if err := os.Remove(path + suffix); err != nil && !os.IsNotExist(err) {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(path, backup, 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(1100 * time.Millisecond)
			run(people + more)
			w.open()
			v.counts(t, people+more)
			want := map[checkpoint.Outcome]int{checkpoint.Delivered: people + more - c.parked}
			if c.parked > 0 {
				want[checkpoint.ParkedOut] = c.parked
			}
			if got := w.outcomes(); !maps.Equal(got, want) {
				t.Errorf("outcomes %v, want %v", got, want)
			}
			if n := w.ambiguous(); n != c.parked {
				t.Errorf("%d are parked, want %d", n, c.parked)
			}
		})
	}
}

// The age of a key is counted from its first send, whatever restarts there were since: a send whose answers are lost is not
// made again once the vendor may have forgotten its key.
func TestKeyAgesOverARestart(t *testing.T) {
	t.Parallel() // it waits
	w, v := newPeopleWorld(t, fmt.Sprintf(lostProfile, "key\n    key: {in: header, name: Idempotency-Key}\n    key_retention: 3s", "", "create"))
	v.keeps = 3100 * time.Millisecond // a request takes its time to arrive
	v.alone = func(int) bool { return true }
	w.people(0, 1)
	w.tweak = func(c *connector.Config) { c.Drain = time.Millisecond }
	w.open()
	_, stop := w.start()
	time.Sleep(2 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.tweak = nil
	w.open()
	_, stop = w.start()
	w.settleAll(20 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	v.counts(t, 1)
	if got := w.outcomes(); got[checkpoint.ParkedOut] != 1 {
		t.Errorf("outcomes %v, want it parked", got)
	}
}
