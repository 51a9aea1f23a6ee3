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
