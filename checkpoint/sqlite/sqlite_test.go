package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/checkpointtest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv(crashPathEnv); path != "" {
		crashChild(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func TestConformance(t *testing.T) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Open {
		path := filepath.Join(t.TempDir(), "weir.db")
		return func() (checkpoint.Store, error) { return Open(t.Context(), path, Options{}) }
	})
}

// TestConformanceFolding has each transaction move states to their table.
func TestConformanceFolding(t *testing.T) {
	checkpointtest.Run(t, func(t *testing.T) checkpointtest.Open {
		path := filepath.Join(t.TempDir(), "weir.db")
		return func() (checkpoint.Store, error) { return Open(t.Context(), path, Options{StateLogBytes: 1}) }
	})
}

// mustOpen opens a store that is closed with the test.
func mustOpen(t *testing.T, path string, o Options) *Store {
	t.Helper()
	s, err := Open(t.Context(), path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func customers(index int32) checkpoint.Partition {
	return checkpoint.Partition{Connector: "pushcash", Topic: "canonical.customer", Index: index}
}

func mustAcquire(t *testing.T, s *Store, p checkpoint.Partition) checkpoint.Lease {
	t.Helper()
	r, err := s.Acquire(t.Context(), p, "test")
	if err != nil {
		t.Fatal(err)
	}
	return r.Lease
}

// rowAt is a delivered row whose ids hold partition and offset.
func rowAt(p checkpoint.Partition, off int64) checkpoint.Row {
	id := fmt.Sprintf("evt-%d-%d", p.Index, off)
	return checkpoint.Row{Offset: off, Route: "create", Outcome: checkpoint.Delivered, At: time.Unix(1_780_000_000+off, 0).UTC(),
		Event: checkpoint.Event{ID: id, Entity: "customer", Key: "key-" + id}, VendorID: "ven-" + id}
}

func batchOf(l checkpoint.Lease, from, n int64) checkpoint.Batch {
	b := checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: l, Mark: from + n}}}
	for off := from; off < from+n; off++ {
		r := rowAt(l.Partition, off)
		b.Settlements = append(b.Settlements, checkpoint.Settlement{Lease: l, Row: r,
			State: &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: r.Event.Key}, IDs: map[string]string{"id": r.VendorID}}})
	}
	return b
}

func mustSettle(t *testing.T, s *Store, b checkpoint.Batch) {
	t.Helper()
	if _, err := s.Settle(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

func found(t *testing.T, s *Store, id string) int {
	t.Helper()
	rows, err := s.Find(t.Context(), id, 0)
	if err != nil {
		t.Fatal(err)
	}
	return len(rows)
}

func TestSecondRunnerRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	s, err := Open(t.Context(), path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Open(t.Context(), path, Options{})
	if !errors.Is(err, checkpoint.ErrLocked) {
		t.Fatalf("second runner: %v, %v; want ErrLocked", second, err)
	}
	if text := err.Error(); !strings.Contains(text, "process "+strconv.Itoa(os.Getpid())+" ") || !strings.Contains(text, path) {
		t.Errorf("error %q names neither the pid %d nor the store", text, os.Getpid())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, path, Options{}) // the lock went with the first
}

func TestReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir #1?%41.db") // odd names must reach the file system as they are
	if _, err := Open(t.Context(), path, Options{Role: Reader}); !errors.Is(err, checkpoint.ErrNotFound) {
		t.Fatalf("reader without a file: error %v, want ErrNotFound", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("a reader made the file: %v", err)
	}
	s := mustOpen(t, path, Options{})
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	l := mustAcquire(t, s, customers(0))
	parked := rowAt(l.Partition, 1)
	parked.Outcome, parked.Cause = checkpoint.ParkedOut, checkpoint.CauseRejected
	position := checkpoint.Position{Partition: l.Partition, Offset: 1, Route: "create"}
	mustSettle(t, s, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: parked, Park: &checkpoint.Parked{Cause: parked.Cause}}}})

	r := mustOpen(t, path, Options{Role: Reader})
	if r.ID() != s.ID() {
		t.Errorf("reader's id %q, runner's %q", r.ID(), s.ID())
	}
	if n := found(t, r, "evt-0-1"); n != 1 {
		t.Errorf("reader finds %d rows, want 1", n)
	}
	// Each side sees the other's commits.
	if err := r.ReleaseParked(t.Context(), []checkpoint.Position{position}, 2, checkpoint.Audit{Actor: "ann", Action: "release"}); err != nil {
		t.Fatal(err)
	}
	ps, err := s.Parked(t.Context(), checkpoint.ParkedQuery{States: []checkpoint.ParkedState{checkpoint.ParkedReleased}})
	if err != nil || len(ps) != 1 || ps[0].Generation != 2 {
		t.Fatalf("the runner sees released %+v, %v; want one of generation 2", ps, err)
	}
	if err := r.ReleaseParked(t.Context(), []checkpoint.Position{{Partition: l.Partition, Offset: 9, Route: "create"}}, 2, checkpoint.Audit{}); !errors.Is(err, checkpoint.ErrNotFound) {
		t.Errorf("release of what is not parked: error %v, want ErrNotFound", err)
	}
	if err := r.Audit(t.Context(), checkpoint.Audit{Actor: "bob"}); err != nil {
		t.Fatal(err)
	}
	mustSettle(t, s, batchOf(l, 2, 3))
	rows, err := r.Rows(t.Context(), l.Partition, 0, 10)
	if err != nil || len(rows) != 4 {
		t.Errorf("the reader sees %d rows, %v; want 4", len(rows), err)
	}
	as, err := s.Audits(t.Context(), 0)
	if err != nil || len(as) != 2 || as[0].Actor != "bob" {
		t.Errorf("audits %+v, %v; want those of ann and bob", as, err)
	}

	for what, err := range map[string]error{
		"settle":  second(r.Settle(t.Context(), batchOf(l, 20, 1))),
		"acquire": second(r.Acquire(t.Context(), customers(1), "reader")),
		"begin":   r.Begin(t.Context(), []checkpoint.Begin{{Lease: l}}),
		"mapping": r.SaveMapping(t.Context(), "v", nil),
	} {
		if !errors.Is(err, checkpoint.ErrReader) {
			t.Errorf("%s by a reader: error %v, want ErrReader", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func TestClosed(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{})
	l := mustAcquire(t, s, customers(0))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := s.Settle(t.Context(), batchOf(l, 0, 1)); !errors.Is(err, errClosed) {
		t.Errorf("settle after close: %v", err)
	}
	if _, err := s.Rows(t.Context(), l.Partition, 0, 1); !errors.Is(err, errClosed) {
		t.Errorf("rows after close: %v", err)
	}
}

// runSQL changes a store's file behind its back.
func runSQL(t *testing.T, path, text string) {
	t.Helper()
	c, err := dial(t.Context(), "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.run(text); err != nil {
		t.Fatal(err)
	}
}

func TestOtherFiles(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want error  // nil: an error that is no sentinel
		text string // the text holds it
	}{
		{"text", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte(strings.Repeat("this is no database\n", 1000)), 0o644); err != nil {
				t.Fatal(err)
			}
		}, checkpoint.ErrCorrupt, "restore"},
		{"another SQLite database", func(t *testing.T, path string) { runSQL(t, path, "CREATE TABLE contacts (name TEXT)") }, nil, "no Weir store"},
		{"newer schema version", func(t *testing.T, path string) {
			mustOpen(t, path, Options{}).Close()
			runSQL(t, path, "PRAGMA user_version = 99")
		}, checkpoint.ErrVersion, "99"},
		{"no id", func(t *testing.T, path string) {
			mustOpen(t, path, Options{}).Close()
			runSQL(t, path, "DELETE FROM meta")
		}, checkpoint.ErrCorrupt, "id"},
	} {
		for name, role := range map[string]Role{"runner": Runner, "reader": Reader} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				path := filepath.Join(t.TempDir(), "weir.db")
				c.make(t, path)
				before, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				s, err := Open(t.Context(), path, Options{Role: role})
				if err == nil {
					s.Close()
					t.Fatal("it opens")
				}
				if c.want != nil && !errors.Is(err, c.want) || c.want == nil && errors.Is(err, checkpoint.ErrCorrupt) {
					t.Errorf("error %v, want %v", err, c.want)
				}
				if !strings.Contains(err.Error(), c.text) || !strings.Contains(err.Error(), path) {
					t.Errorf("error %q holds neither %q nor the path", err, c.text)
				}
				after, err := os.ReadFile(path)
				if err != nil || string(after) != string(before) {
					t.Errorf("opening changed the file (%v)", err)
				}
			})
		}
	}
}

// TestHalfMadeFile: a crash between making the file and the first migration leaves an empty database.
func TestHalfMadeFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	runSQL(t, path, "PRAGMA journal_mode = WAL")
	s := mustOpen(t, path, Options{})
	mustSettle(t, s, batchOf(mustAcquire(t, s, customers(0)), 0, 1))
	empty := filepath.Join(t.TempDir(), "empty.db")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	mustOpen(t, empty, Options{})
}

func TestDamagedPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	s := mustOpen(t, path, Options{})
	l := mustAcquire(t, s, customers(0))
	mustSettle(t, s, batchOf(l, 0, 2000))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The first page, which names the tables, stays; the leaves behind the schema's are overwritten.
	for i := len(b) / 4; i < len(b); i++ {
		b[i] = 0xA5
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	s, err = Open(t.Context(), path, Options{})
	if err == nil {
		defer s.Close()
		_, err = s.Rows(t.Context(), l.Partition, 0, 5000)
	}
	if !errors.Is(err, checkpoint.ErrCorrupt) || !strings.Contains(err.Error(), "To restore") {
		t.Fatalf("error %v, want ErrCorrupt with the steps", err)
	}
}

// TestPagesOfAnOlderStore: a store keeps the page size that it was made with, and its bounds count in those pages.
func TestPagesOfAnOlderStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	c, err := dial(t.Context(), "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.run("PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; CREATE TABLE t (i); DROP TABLE t"), c.Close()); err != nil {
		t.Fatal(err)
	}
	s := mustOpen(t, path, Options{SizeMax: 2 << 20, LogBytes: 1 << 20})
	if s.pageBytes != 4096 || s.w.log.pagesMax != 256 {
		t.Errorf("pages of %d bytes, log of %d pages; want 4096 and 256", s.pageBytes, s.w.log.pagesMax)
	}
	l := mustAcquire(t, s, customers(0))
	next := int64(0)
	for ; err == nil && next < 100_000; next += 50 {
		_, err = s.Settle(t.Context(), batchOf(l, next, 50))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if fi, serr := os.Stat(path); !errors.Is(err, checkpoint.ErrFull) || serr != nil || fi.Size() > 2<<20 || fi.Size() < 1<<20 {
		t.Errorf("full at %d bytes, %v, %v; want ErrFull at 2 MiB", fi.Size(), err, serr)
	}
}

func TestFull(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	s := mustOpen(t, path, Options{SizeMax: 600 << 10})
	l := mustAcquire(t, s, customers(0))
	next := int64(0)
	var err error
	for next < 100_000 {
		if _, err = s.Settle(t.Context(), batchOf(l, next, 50)); err != nil {
			break
		}
		next += 50
	}
	if !errors.Is(err, checkpoint.ErrFull) {
		t.Fatalf("settle into a full store: error %v, want ErrFull", err)
	}
	if next == 0 {
		t.Fatal("nothing fitted")
	}
	check := func(s *Store, want int64) {
		t.Helper()
		rows, err := s.Rows(t.Context(), l.Partition, 0, 1<<62)
		if err != nil || int64(len(rows)) != want {
			t.Fatalf("%d rows, %v; want the %d that were acknowledged", len(rows), err, want)
		}
		cs, err := s.Cursors(t.Context(), "")
		if err != nil || cs[0].Mark != want {
			t.Fatalf("mark %d, %v; want %d", cs[0].Mark, err, want)
		}
	}
	check(s, next) // what is there can be read
	if _, err := s.Settle(t.Context(), batchOf(l, next, 50)); !errors.Is(err, checkpoint.ErrFull) {
		t.Errorf("settle again: error %v, want ErrFull", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, path, Options{})
	mustSettle(t, s, batchOf(mustAcquire(t, s, l.Partition), next, 50)) // room again: the refused batch goes in
	check(s, next+50)
}

// TestGroupCommit: callers that come while a transaction is being committed share the next one.
func TestGroupCommit(t *testing.T) {
	const callers = 20
	var commits atomic.Int64
	entered, leave := make(chan struct{}), make(chan struct{})
	hold := atomic.Bool{}
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{Linger: 100 * time.Millisecond, Hooks: Hooks{BeforeCommit: func() {
		commits.Add(1)
		if hold.Swap(false) {
			close(entered)
			<-leave
		}
	}}})
	var leases []checkpoint.Lease
	for i := range callers + 1 {
		leases = append(leases, mustAcquire(t, s, customers(int32(i))))
	}
	hold.Store(true)
	commits.Store(0)
	var wg sync.WaitGroup
	wg.Go(func() { mustSettleAsync(t, s, batchOf(leases[callers], 0, 1)) })
	<-entered
	for _, l := range leases[:callers] {
		wg.Go(func() { mustSettleAsync(t, s, batchOf(l, 0, 1)) })
	}
	for s.w.active.Load() < callers+1 {
		time.Sleep(time.Millisecond) // the count has no signal
	}
	close(leave)
	wg.Wait()
	if n := commits.Load(); n != 2 {
		t.Errorf("%d commits for a first caller and %d that came meanwhile, want 2", n, callers)
	}
}

// TestAloneNeverLingers: with an hour to linger, a caller that is alone would not return.
func TestAloneNeverLingers(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{Linger: time.Hour})
	l := mustAcquire(t, s, customers(0))
	for off := range int64(3) {
		mustSettle(t, s, batchOf(l, off, 1))
	}
}

func mustSettleAsync(t *testing.T, s *Store, b checkpoint.Batch) {
	if _, err := s.Settle(t.Context(), b); err != nil {
		t.Error(err)
	}
}

func TestBatchRowsMax(t *testing.T) {
	var commits atomic.Int64
	var rows []int
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{BatchRowsMax: 10, Linger: time.Millisecond, Hooks: Hooks{AfterCommit: func() { commits.Add(1) }}})
	l := mustAcquire(t, s, customers(0))
	commits.Store(0)
	mustSettle(t, s, batchOf(l, 0, 100)) // larger than the bound: one transaction all the same
	if commits.Load() != 1 {
		t.Errorf("%d commits of one batch", commits.Load())
	}
	batch := []*request{{rows: 1}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	w := &writer{s: &Store{opts: Options{BatchRowsMax: 10, Linger: -1}}, reqs: make(chan *request, 50)}
	for range 50 {
		w.reqs <- &request{rows: 3}
	}
	for _, r := range w.gather(batch, 50, timer) {
		rows = append(rows, r.rows)
	}
	if !slices.Equal(rows, []int{1, 3, 3, 3}) {
		t.Errorf("gathered rows %v, want 1+3+3+3: the bound of 10 is reached", rows)
	}
}

// TestLogIsCopied: the checkpointer copies a long log and asks the writer for the rest, and the writer copies it.
// Whether the log could start again without the writer depends on who comes first, so each half is held alone.
func TestLogIsCopied(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	size := func() int64 {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	s := mustOpen(t, path, Options{LogBytes: 1 << 40})
	l := mustAcquire(t, s, customers(0))
	before := size()
	mustSettle(t, s, batchOf(l, 0, 1000))
	if size() != before {
		t.Fatal("the log was copied below its bound")
	}
	s.w.log.rest.Store(true)
	mustSettle(t, s, batchOf(l, 1000, 1))
	if size() == before || s.w.log.rest.Load() {
		t.Error("the writer was asked to copy the rest of the log and did not")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	s = mustOpen(t, path, Options{LogBytes: 1})
	k := s.w.log
	mustSettle(t, s, batchOf(mustAcquire(t, s, customers(0)), 2000, 1000))
	if err := s.Close(); err != nil { // waits for the copy that the settle asked for
		t.Fatal(err)
	}
	if !k.rest.Load() {
		t.Error("the log was longer than its bound, and the writer was not asked for the rest")
	}
}

// TestLogStaysShort: under a writer that keeps writing the log does not grow without end.
func TestLogStaysShort(t *testing.T) {
	const bound = 1 << 20
	path := filepath.Join(t.TempDir(), "weir.db")
	s := mustOpen(t, path, Options{LogBytes: bound})
	l := mustAcquire(t, s, customers(0))
	for off := int64(0); off < 20_000; off += 100 {
		mustSettle(t, s, batchOf(l, off, 100))
	}
	db, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	wal, err := os.Stat(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	// 40 MiB were written. The log goes on while it is copied, for as long as the disk takes, so it may be longer than its bound.
	if db.Size() < 4*bound || wal.Size() > 20*bound {
		t.Errorf("log of %d bytes, database of %d; want a database of at least %d and a log of at most %d", wal.Size(), db.Size(), 4*bound, 20*bound)
	}
}

// TestBrokenDisk: after a commit that may not be durable nothing more is written.
func TestBrokenDisk(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{})
	l := mustAcquire(t, s, customers(0))
	broken := errors.New("sync failed")
	err := s.submit(t.Context(), "break", 1, func(w *writer) error {
		w.broken = broken
		return refuse("refused")
	})
	if err == nil {
		t.Fatal("the refusal is lost")
	}
	if _, err := s.Settle(t.Context(), batchOf(l, 0, 1)); !errors.Is(err, broken) {
		t.Errorf("settle: error %v, want that of the disk", err)
	}
	if rows, err := s.Rows(t.Context(), l.Partition, 0, 10); err != nil || len(rows) != 0 {
		t.Errorf("rows: %d, %v", len(rows), err)
	}
}

// TestCounterAfterRollback: what the writer keeps in memory follows a rollback.
func TestMemoryAfterRollback(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{})
	l := mustAcquire(t, s, customers(0))
	if err := s.Begin(t.Context(), []checkpoint.Begin{{Lease: l, Offset: 3, Route: "create", Step: "s"}}); err != nil {
		t.Fatal(err)
	}
	mustSettle(t, s, batchOf(l, 0, 1))
	b := batchOf(l, 3, 1)
	b.Settlements = append(b.Settlements, checkpoint.Settlement{Lease: l, Row: rowAt(l.Partition, 0)})
	if _, err := s.Settle(t.Context(), b); !errors.Is(err, checkpoint.ErrSettled) {
		t.Fatalf("error %v, want ErrSettled", err)
	}
	if err := s.submit(t.Context(), "look", 1, func(w *writer) error {
		p := w.cache.parts[l.Partition]
		if p.open != 1 || p.mark != 1 || p.last != 0 || len(w.entries) != 0 || len(w.counts) != 0 {
			return refuse("open %d, mark %d, last %d, %d entries, %d counts; want 1, 1, 0, 0, 0", p.open, p.mark, p.last, len(w.entries), len(w.counts))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

func TestLookupRunsMerge(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{Linger: -1})
	l := mustAcquire(t, s, customers(0))
	next := int64(0)
	for _, n := range []int64{1, 3, 70, 1, 1, 2000, 1} { // runs of many sizes, with one of several buckets
		mustSettle(t, s, batchOf(l, next, n))
		next += n
	}
	for range 200 {
		mustSettle(t, s, batchOf(l, next, 1))
		next++
	}
	var runs, entries, stored int64
	if err := s.snapshot(t.Context(), "count runs", func(c *conn) error {
		var v [2]driver.Value
		if _, err := c.one("SELECT count(*), sum(entries) FROM lookup_runs", v[:]); err != nil {
			return err
		}
		runs, entries = asInt(v[0]), asInt(v[1])
		day := dayOf(time.Now())
		_, err := c.one("SELECT sum(length(entries)) FROM "+lookupTable(day), v[:1])
		stored = asInt(v[0]) / entryBytes
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := next * 3; entries != want || stored != want { // event id, key, vendor id
		t.Errorf("%d entries in the runs, %d stored; want %d", entries, stored, want)
	}
	if runs > 2*mergeRuns {
		t.Errorf("%d runs after 207 transactions: they are not merged", runs)
	}
	for off := int64(0); off < next; off += 17 {
		for _, id := range []string{"evt-0-%d", "key-evt-0-%d", "ven-evt-0-%d"} {
			if id := fmt.Sprintf(id, off); found(t, s, id) != 1 {
				t.Errorf("%s is not found", id)
			}
		}
	}
}

func TestLookupRetention(t *testing.T) {
	path := filepath.Join(t.TempDir(), "weir.db")
	var now atomic.Int64
	now.Store(time.Date(2026, 1, 30, 23, 0, 0, 0, time.UTC).Unix())
	o := Options{LookupRetention: 48 * time.Hour, Now: func() time.Time { return time.Unix(now.Load(), 0) }}
	s := mustOpen(t, path, o)
	l := mustAcquire(t, s, customers(0))
	for day := range int64(5) {
		mustSettle(t, s, batchOf(l, day, 1))
		if day == 2 { // the next day starts in a store that was opened again
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, path, o)
		}
		now.Add(86400)
	}
	var tables []string
	if err := s.read(t.Context(), "list tables", func(c *conn) error {
		return c.query("SELECT name FROM sqlite_schema WHERE name GLOB 'lookup_2*' ORDER BY name", func(v []driver.Value) error {
			tables = append(tables, asText(v[0]))
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"lookup_20260201", "lookup_20260202", "lookup_20260203"}; !slices.Equal(tables, want) {
		t.Errorf("tables %v, want %v", tables, want)
	}
	for day, want := range []int{0, 0, 1, 1, 1} {
		if n := found(t, s, fmt.Sprintf("evt-0-%d", day)); n != want {
			t.Errorf("event of day %d: %d rows, want %d", day, n, want)
		}
		if n := found(t, s, fmt.Sprintf("canonical.customer/0/%d", day)); n != 1 {
			t.Errorf("origin of day %d: %d rows, want 1", day, n)
		}
	}
	// A clock that steps back does not make older tables.
	now.Add(-10 * 86400)
	mustSettle(t, s, batchOf(l, 10, 1))
	if found(t, s, "evt-0-10") != 1 {
		t.Error("an event settled under a clock that stepped back is not found")
	}
}

// TestLookupCollision: an id whose hash leads to another record finds nothing.
func TestLookupCollision(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{})
	l := mustAcquire(t, s, customers(0))
	mustSettle(t, s, batchOf(l, 5, 1))
	if err := s.submit(t.Context(), "collide", 1, func(w *writer) error {
		p := w.cache.parts[l.Partition]
		w.entries = append(w.entries, entry{hashID("ghost"), uint32(p.id), 5}, entry{hashID("ghost"), uint32(p.id), 6}, entry{hashID("ven-evt-0-5"), uint32(p.id), 6})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if n := found(t, s, "ghost"); n != 0 {
		t.Errorf("a colliding hash finds %d rows", n)
	}
	if n := found(t, s, "ven-evt-0-5"); n != 1 {
		t.Errorf("an id beside a colliding one finds %d rows, want 1", n)
	}
	if seen, err := s.Seen(t.Context(), "pushcash", "ghost", checkpoint.Position{}); err != nil || seen {
		t.Errorf("seen by a colliding hash: %v, %v", seen, err)
	}
}

func TestOutcomeCodes(t *testing.T) {
	// Stored numbers: they may never change.
	want := map[checkpoint.Outcome]int64{"delivered": 1, "accepted": 2, "unchanged": 3, "superseded": 4, "folded": 5, "ignored": 6, "parked": parkedCode, "dead_lettered": 8, "skipped": 9}
	if len(checkpoint.Outcomes) != len(want) {
		t.Fatalf("%d outcomes, %d codes", len(checkpoint.Outcomes), len(want))
	}
	for _, o := range checkpoint.Outcomes {
		code, err := outcomeCode(o)
		if err != nil || code != want[o] {
			t.Errorf("code of %s: %d, %v; want %d", o, code, err, want[o])
		}
		if back, err := outcomeOf(code); err != nil || back != o {
			t.Errorf("outcome of %d: %s, %v; want %s", code, back, err, o)
		}
	}
	if _, err := outcomeOf(10); !errors.Is(err, checkpoint.ErrCorrupt) {
		t.Errorf("outcome of an unknown code: error %v, want ErrCorrupt", err)
	}
}

// TestHashIsStable: hashes are stored.
func TestHashIsStable(t *testing.T) {
	for id, want := range map[string]uint64{"": 0xefd01f60ba992926, "evt-1": 0xfb2be2d1a757c1b1} {
		if got := hashID(id); got != want {
			t.Errorf("hashID(%q) = %#x, want %#x", id, got, want)
		}
	}
}

// TestView: the view for SQL users names what the columns hold as numbers.
func TestView(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{})
	l := mustAcquire(t, s, customers(3))
	for i, o := range checkpoint.Outcomes {
		r := rowAt(l.Partition, int64(i))
		r.Outcome, r.Cause = o, checkpoint.CauseHeld
		mustSettle(t, s, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r}}})
	}
	i := 0
	if err := s.read(t.Context(), "read view", func(c *conn) error {
		return c.query("SELECT connector, topic, partition, offset, route, outcome, cause, event_id, entity, at FROM outcomes ORDER BY offset", func(v []driver.Value) error {
			got := fmt.Sprint(v)
			want := fmt.Sprint([]driver.Value{"pushcash", "canonical.customer", int64(3), int64(i), "create", string(checkpoint.Outcomes[i]), "held", fmt.Sprintf("evt-3-%d", i), "customer",
				time.Unix(1_780_000_000+int64(i), 0).UTC().Format("2006-01-02T15:04:05.000Z")})
			if got != want {
				t.Errorf("row %d:\n got %s\nwant %s", i, got, want)
			}
			i++
			return nil
		})
	}); err != nil {
		t.Fatal(err)
	}
	if i != len(checkpoint.Outcomes) {
		t.Errorf("%d rows in the view, want %d", i, len(checkpoint.Outcomes))
	}
}

// FuzzAppendString holds: what is written reads back as encoding/json's own.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "quote\"back\\slash", "\x00\x1f\x7f", "ümläut ☃ 𝄞", "\xff\xc3(", "\u2028</script>", "a\xe2\x98"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var got, want string
		if err := json.Unmarshal(appendString(nil, s), &got); err != nil {
			t.Fatalf("appendString(%q) = %s: %v", s, appendString(nil, s), err)
		}
		b, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &want); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Fatalf("appendString(%q) reads back as %q, encoding/json's as %q", s, got, want)
		}
	})
}

// FuzzFindEntries holds: no bytes make it panic, only whole entries are taken, and in a sorted bucket each entry is
// found by its hash.
func FuzzFindEntries(f *testing.F) {
	f.Add([]byte{}, uint64(0))
	f.Add(appendEntries(nil, []entry{{1, 2, 3}, {1, 2, 4}, {9, 1, 1}}), uint64(1))
	f.Add([]byte("short"), uint64(7))
	f.Fuzz(func(t *testing.T, b []byte, hash uint64) {
		err := findEntries(b, hash, func(e entry) {
			if e.hash != hash {
				t.Fatalf("found an entry of hash %d for %d", e.hash, hash)
			}
		})
		es, perr := parseEntries(nil, b)
		if (err == nil) != (perr == nil) || (err == nil) != (len(b)%entryBytes == 0) {
			t.Fatalf("%d bytes: find %v, parse %v", len(b), err, perr)
		}
		if err != nil {
			return
		}
		slices.SortFunc(es, compareEntries)
		es = slices.Compact(es)
		sorted := appendEntries(nil, es)
		for _, e := range es {
			n := 0
			if err := findEntries(sorted, e.hash, func(got entry) {
				if got == e {
					n++
				}
			}); err != nil || n != 1 {
				t.Fatalf("entry %v is found %d times, %v", e, n, err)
			}
		}
	})
}

// FuzzMergeEntries holds: merging gives the sorted set of all, and the buckets of a run ascend with the hash and stay in range.
func FuzzMergeEntries(f *testing.F) {
	f.Add([]byte("0123456789012345678901234567890123456789"), uint8(2))
	var m merger // its memory is used again
	f.Fuzz(func(t *testing.T, b []byte, parts uint8) {
		es, err := parseEntries(nil, b[:len(b)/entryBytes*entryBytes])
		if err != nil {
			t.Fatal(err)
		}
		lists := make([][]entry, int(parts%9)+1)
		for i, e := range es {
			lists[i%len(lists)] = append(lists[i%len(lists)], e)
		}
		m.start(int64(len(es)))
		for i := range lists {
			slices.SortFunc(lists[i], compareEntries)
			start := len(m.from)
			m.from = append(m.from, slices.Compact(lists[i])...)
			m.listed(start)
		}
		got := slices.Clone(m.merge())
		m.end()
		slices.SortFunc(es, compareEntries)
		es = slices.Compact(es)
		if !slices.Equal(got, es) {
			t.Fatalf("merged %v, want %v", got, es)
		}
		r := run{id: 3, buckets: int64(parts) + 1}
		last := r.id << bucketBits
		for _, e := range es {
			k := r.key(e.hash)
			if k < last || k >= r.id<<bucketBits+r.buckets {
				t.Fatalf("hash %#x is in bucket %d after %d of %d", e.hash, k, last, r.buckets)
			}
			last = k
		}
	})
}

func TestContextBeforeTheWriterTakesIt(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	hold := atomic.Bool{}
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{Hooks: Hooks{AfterCommit: func() {
		if hold.Swap(false) {
			close(entered)
			<-leave
		}
	}}})
	l := mustAcquire(t, s, customers(0))
	hold.Store(true)
	var wg sync.WaitGroup
	wg.Go(func() { mustSettleAsync(t, s, batchOf(l, 0, 1)) })
	<-entered
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Settle(ctx, batchOf(l, 1, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("settle with an ended context while the writer is busy: %v", err)
	}
	close(leave)
	wg.Wait()
	if rows, err := s.Rows(t.Context(), l.Partition, 0, 10); err != nil || len(rows) != 1 {
		t.Errorf("rows: %d, %v; want 1", len(rows), err)
	}
}

// TestRowsInBulk: of many rows that are inserted at once, those that replace a parked one do, and one that is settled
// already takes none of the others with it that are not of its request.
func TestRowsInBulk(t *testing.T) {
	s := mustOpen(t, filepath.Join(t.TempDir(), "weir.db"), Options{})
	l := mustAcquire(t, s, customers(0))
	const rows = 3*chunkRowsMax + 5
	parked := []int64{0, 1, 15, 16, 63, 64, 100, 191, rows - 1}
	for _, off := range parked {
		r := rowAt(l.Partition, off)
		r.Outcome, r.Cause, r.VendorID = checkpoint.ParkedOut, checkpoint.CauseHeld, fmt.Sprint("old-", off)
		mustSettle(t, s, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r}}})
	}
	all := batchOf(l, 0, rows)
	mustSettle(t, s, all)
	got, err := s.Rows(t.Context(), l.Partition, 0, rows+1)
	if err != nil || len(got) != rows {
		t.Fatalf("%d rows, %v; want %d", len(got), err, rows)
	}
	for i, r := range got {
		if want := all.Settlements[i].Row; r.Outcome != want.Outcome || r.Event.ID != want.Event.ID || r.Offset != int64(i) {
			t.Fatalf("row %d: %+v, want %+v", i, r, want)
		}
	}
	counts, err := s.Counts(t.Context(), l.Partition.Connector)
	if err != nil || counts["create"][checkpoint.Delivered] != rows || counts["create"][checkpoint.ParkedOut] != 0 {
		t.Errorf("counts %v, %v", counts, err)
	}
	for _, off := range parked {
		if n := found(t, s, fmt.Sprint("old-", off)); n != 1 {
			t.Errorf("the id of the parked row %d leads to %d rows, want its successor", off, n)
		}
	}
	if _, err := s.Settle(t.Context(), batchOf(l, rows-70, 80)); !errors.Is(err, checkpoint.ErrSettled) {
		t.Errorf("settle again: %v, want ErrSettled", err)
	}
	if got, err := s.Rows(t.Context(), l.Partition, 0, rows+100); err != nil || len(got) != rows {
		t.Errorf("%d rows, %v; the refused batch left some", len(got), err)
	}
}
