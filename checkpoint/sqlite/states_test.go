package sqlite

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/checkpoint"
)

// versionsOf reads the version of each entity, and fails the test when one has none.
func versionsOf(t *testing.T, s *Store, keys []checkpoint.EntityKey) map[string]int64 {
	t.Helper()
	states, err := s.States(t.Context(), "pushcash", keys)
	if err != nil {
		t.Fatal(err)
	}
	versions := make(map[string]int64, len(states))
	for k, st := range states {
		versions[k.Key] = st.Versions.Get("crm")
	}
	return versions
}

// stateBatch settles one record for each entity, all at the version.
func stateBatch(l checkpoint.Lease, off, version int64, keys []checkpoint.EntityKey) checkpoint.Batch {
	var b checkpoint.Batch
	for _, k := range keys {
		row := rowAt(l.Partition, off)
		row.Event.Entity, row.Event.Key = k.Entity, k.Key
		b.Settlements = append(b.Settlements, checkpoint.Settlement{Lease: l, Row: row,
			State: &checkpoint.State{EntityKey: k, Tenant: "acme", Versions: checkpoint.Table[int64]{{Name: "crm", Value: version}}, IDs: map[string]string{"id": fmt.Sprint("id-", off)}}})
		off++
	}
	return b
}

// TestStatesMove: the newest state is found wherever it is, in memory, in the log of another process or in the table,
// and the log does not grow for ever.
func TestStatesMove(t *testing.T) {
	const bytesMax = 4000
	path := filepath.Join(t.TempDir(), "weir.db")
	s := mustOpen(t, path, Options{StateLogBytes: bytesMax})
	lease := mustAcquire(t, s, customers(0))
	reader := mustOpen(t, path, Options{Role: Reader})
	var keys []checkpoint.EntityKey
	for i := range 60 {
		keys = append(keys, checkpoint.EntityKey{Entity: "customer", Key: fmt.Sprint("cus-", i)})
	}
	want := make(map[string]int64)
	off, moved := int64(0), false
	for n := range int64(300) {
		at := int(n*7) % len(keys)
		batch := keys[at:min(at+4, len(keys))]
		mustSettle(t, s, stateBatch(lease, off, n, batch))
		off += int64(len(batch))
		for _, k := range batch {
			want[k.Key] = n
		}
		if n%10 == 0 {
			if got := versionsOf(t, s, keys); !maps.Equal(got, want) {
				t.Fatalf("after batch %d: versions %v, want %v", n, got, want)
			}
			if got := versionsOf(t, reader, keys); !maps.Equal(got, want) {
				t.Fatalf("after batch %d: a reader has versions %v, want %v", n, got, want)
			}
		}
		if n == 150 {
			s.Close()
			s = mustOpen(t, path, Options{StateLogBytes: bytesMax})
			lease = mustAcquire(t, s, customers(0))
		}
		row := make([]driver.Value, 2)
		if err := s.read(t.Context(), "count", func(c *conn) error {
			_, err := c.one("SELECT (SELECT sum(length(states)) FROM state_log), (SELECT count(*) FROM states)", row)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if size := asInt(row[0]); size > 3*bytesMax {
			t.Fatalf("after batch %d: the log has %d bytes, want at most three times %d", n, size, bytesMax)
		}
		moved = moved || asInt(row[1]) == int64(len(keys))
	}
	if !moved {
		t.Error("the table never had all states")
	}
	if rows, err := s.Find(t.Context(), fmt.Sprint("id-", off-1), 0); err != nil || len(rows) == 0 {
		t.Errorf("find by an id of a state: %d rows, %v", len(rows), err)
	}
}

// TestStatesOfRefused: a request that is refused after it has saved states leaves none, and the others' stay.
func TestStatesOfRefused(t *testing.T) {
	for _, bytesMax := range []int64{1, 1 << 20} {
		s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{StateLogBytes: bytesMax})
		lease := mustAcquire(t, s, customers(0))
		keys := []checkpoint.EntityKey{{Entity: "customer", Key: "a"}, {Entity: "customer", Key: "b"}}
		mustSettle(t, s, stateBatch(lease, 0, 1, keys))
		bad := stateBatch(lease, 2, 2, keys)
		bad.Settlements[1].Row.Offset = 1 // settled
		if _, err := s.Settle(t.Context(), bad); !errors.Is(err, checkpoint.ErrSettled) {
			t.Fatalf("settle again: %v", err)
		}
		for range 3 {
			if got, want := versionsOf(t, s, keys), map[string]int64{"a": 1, "b": 1}; !maps.Equal(got, want) {
				t.Errorf("versions %v, want %v", got, want)
			}
			mustSettle(t, s, stateBatch(lease, lastOf(t, s)+1, 7, []checkpoint.EntityKey{{Entity: "customer", Key: "c"}}))
		}
		if got, want := versionsOf(t, s, keys), map[string]int64{"a": 1, "b": 1}; !maps.Equal(got, want) {
			t.Errorf("versions %v, want %v", got, want)
		}
	}
}

func lastOf(t *testing.T, s *Store) int64 {
	t.Helper()
	rows, err := s.Rows(t.Context(), customers(0), 0, 1<<62)
	if err != nil || len(rows) == 0 {
		t.Fatal(len(rows), err)
	}
	return rows[len(rows)-1].Offset
}

// TestStateLogGarbled: a log that cannot be read is a damaged store, not one without states.
func TestStateLogGarbled(t *testing.T) {
	for _, blob := range []string{"x'02'", "x'01'", "x'01ff'", "x'0105'", "x'0100000000'", "x'01ffffffffffffffffff01'"} {
		path := filepath.Join(t.TempDir(), "weir.db")
		mustOpen(t, path, Options{}).Close()
		runSQL(t, path, "INSERT INTO state_log (states) VALUES ("+blob+")")
		if s, err := Open(t.Context(), path, Options{}); !errors.Is(err, checkpoint.ErrCorrupt) {
			t.Errorf("open with row %s: %v, want ErrCorrupt", blob, err)
			if err == nil {
				s.Close()
			}
		}
	}
}

func FuzzParseStates(f *testing.F) {
	f.Add([]byte{1, 1, 'c', 1, 'e', 1, 'k', 0, 2, '{', '}'})
	f.Add([]byte{0, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		states := make(map[stateKey]*savedState)
		if !parseStates(states, b) {
			return
		}
		again := make(map[stateKey]*savedState)
		if !parseStates(again, appendStates(nil, states)) || !maps.EqualFunc(states, again, func(a, b *savedState) bool { return *a == *b }) {
			t.Errorf("%v is read again as %v", slices.Collect(maps.Values(states)), slices.Collect(maps.Values(again)))
		}
	})
}

// TestStatesOfFullDisk: a transaction that meets a full disk leaves none of its states behind, wherever it met it.
func TestStatesOfFullDisk(t *testing.T) {
	for pages := int64(200); pages < 216; pages++ {
		s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{StateLogBytes: 1, SizeMax: pages * pageBytes})
		lease := mustAcquire(t, s, customers(0))
		var full error
		var key checkpoint.EntityKey
		for off := int64(0); full == nil; off++ {
			key = checkpoint.EntityKey{Entity: "customer", Key: fmt.Sprint("cus-", off)}
			b := stateBatch(lease, off, 1, []checkpoint.EntityKey{key})
			if off%2 == 0 {
				b.Settlements[0].State.Remembered = map[string]string{"long": strings.Repeat("x", 10*pageBytes)}
			}
			_, full = s.Settle(t.Context(), b)
		}
		if !errors.Is(full, checkpoint.ErrFull) {
			t.Fatal(full)
		}
		mustSettle(t, s, checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: lease, Mark: 1}}})
		if got := versionsOf(t, s, []checkpoint.EntityKey{key}); len(got) != 0 {
			t.Errorf("%d pages: the refused state is there: %v", pages, got)
		}
	}
}

// FuzzParseRow holds: no text makes it panic, and what it reads is written so that it reads the same again.
func FuzzParseRow(f *testing.F) {
	f.Add([]byte(`{"event_id":"evt-1","version":3,"occurred_at":0,"at":1780000000123,"event_hash":-5,"plan":[{"step":"create"}],"attempts":[{"n":1,"at":5}],"past":["a"]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"plan":[],"generation":4294967296}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again checkpoint.Row
		past, err := parseRow(b, &r)
		if err != nil {
			if !errors.Is(err, checkpoint.ErrCorrupt) {
				t.Fatalf("error %v, want ErrCorrupt", err)
			}
			return
		}
		text := appendRow(nil, &r, past)
		pastAgain, err := parseRow(text, &again)
		if err != nil || !slices.Equal(past, pastAgain) || !reflect.DeepEqual(r, again) {
			t.Fatalf("%s: %v, past %q, want %q;\nread again %+v\nwant %+v", text, err, pastAgain, past, again, r)
		}
	})
}
