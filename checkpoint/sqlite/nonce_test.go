package sqlite

import (
	"database/sql/driver"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

// nonces lists what is in the table, whatever its time.
func nonces(t *testing.T, s *Store) (n int64) {
	t.Helper()
	if err := s.read(t.Context(), "count", func(c *conn) error {
		return c.query("SELECT count(*) FROM nonces", func(v []driver.Value) error { n = asInt(v[0]); return nil })
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// Webhook events are forgotten when their time has passed, and the oldest beyond the bound.
func TestNoncesAreBounded(t *testing.T) {
	var now atomic.Int64
	now.Store(1_000_000)
	clock := func() time.Time { return time.Unix(now.Load(), 0) }
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{Now: clock, NoncesMax: 10})
	save := func(id string, ttl time.Duration) {
		t.Helper()
		if err := s.SaveNonces(t.Context(), []checkpoint.Nonce{{Connector: "c", ID: id, Until: clock().Add(ttl)}}); err != nil {
			t.Fatal(err)
		}
	}
	has := func(id string, want bool) {
		t.Helper()
		if got, err := s.HasNonce(t.Context(), "c", id); err != nil || got != want {
			t.Errorf("HasNonce(%s) = %t, %v, want %t", id, got, err, want)
		}
	}
	save("short", time.Minute)
	save("long", time.Hour)
	now.Add(61)
	has("short", false)
	has("long", true)
	save("next", time.Hour)
	if n := nonces(t, s); n != 2 {
		t.Errorf("%d rows after one has expired, want 2", n)
	}
	for i := range 20 {
		save(fmt.Sprint(i), time.Hour)
	}
	if n := nonces(t, s); n != 10 {
		t.Errorf("%d rows, want the 10 newest", n)
	}
	has("long", false)
	has("9", false)
	has("10", true)
	has("19", true)
}

// A store of the build before is migrated with all that it holds.
func TestMigrationOfNonces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	s := mustOpen(t, path, Options{})
	id := s.ID()
	if err := s.SaveMapping(t.Context(), "v", []byte("text")); err != nil {
		t.Fatal(err)
	}
	s.Close()
	runSQL(t, path, "DROP TABLE nonces; ALTER TABLE begins DROP COLUMN batch; ALTER TABLE begins DROP COLUMN credential; ALTER TABLE waiters DROP COLUMN ref_id; PRAGMA user_version = 1")
	s = mustOpen(t, path, Options{})
	if s.ID() != id {
		t.Error("the store has another id")
	}
	if text, err := s.Mapping(t.Context(), "v"); err != nil || string(text) != "text" {
		t.Errorf("mapping %q, %v", text, err)
	}
	if err := s.SaveNonces(t.Context(), []checkpoint.Nonce{{Connector: "c", ID: "a", Until: time.Now().Add(time.Hour)}}); err != nil {
		t.Fatal(err)
	}
}
