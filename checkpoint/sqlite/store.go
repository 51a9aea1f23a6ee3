// Package sqlite keeps a checkpoint store in one SQLite file: the embedded default, for one running process.
//
// The model. One goroutine, the writer, owns the one connection that a runner writes through. Calls that write
// hand it a request and wait; it merges the requests that are there into one transaction, commits (synchronous=FULL:
// the log is synced before commit returns) and only then answers each. Reads go through connections of their own
// and see committed data only.
//
// A request that is refused (fenced, settled already) must not harm the others in its transaction: the checks
// come before the writes where they can; where a refusal comes after a write, the transaction is rolled back and
// its requests are done again, each under a savepoint.
//
// The writer keeps the partitions, the interned words, the newest states and lookup runs in memory. That is safe because
// nobody else writes them: a second runner is refused by the lock file, and readers (the command line) write the
// audit log and the state of parked entries only, which are not kept. After a rollback the memory is read again.
//
// What a crash leaves: whole transactions. A process that ends between commit and answer leaves a transaction that
// its callers do not know of; that is why Begin, Raise and Settle may meet their own earlier write.
//
// How it fails: a full disk refuses writes with checkpoint.ErrFull until there is room. An I/O error while a
// transaction is being made durable leaves unknown what is on the disk, so the store refuses all further writes with
// checkpoint.ErrBroken until it is opened again. A damaged file is checkpoint.ErrCorrupt.
package sqlite

import (
	"context"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	sqlite3 "modernc.org/sqlite"
	sqlite3lib "modernc.org/sqlite/lib"

	"github.com/weirsync/weir/checkpoint"
)

// A Role says what a process does with the store.
type Role int

// The two roles.
const (
	// Runner owns the store: it takes the lock <path>.lock, makes and migrates the file, and writes all.
	Runner Role = iota
	// Reader reads, in short transactions, and writes commands: ReleaseParked and Audit. Every other write is
	// checkpoint.ErrReader. It needs a file that is there and has this build's schema version.
	Reader
)

// Hooks are called by the writer goroutine, for tests of crashes: nothing goes on until they return.
type Hooks struct {
	// BeforeCommit is called when all of a transaction is written, before it is committed.
	BeforeCommit func()
	// AfterCommit is called when a transaction is durable, before its callers are told.
	AfterCommit func()
}

// Options of a store. The zero value is a runner with the defaults.
type Options struct {
	Role Role
	// Linger bounds how long a transaction waits for further callers, 0: 1 ms, negative: none. It waits only while
	// more than one caller is writing: one alone is committed at once.
	Linger time.Duration
	// BatchRowsMax bounds the rows of a transaction, 0: 4,096. A larger request is a transaction of its own.
	BatchRowsMax int
	// BusyTimeout is how long a write waits for another process's write, 0: 5 s.
	BusyTimeout time.Duration
	// LookupRetention is how long ids lead to records, rounded up to whole UTC days, 0: for ever. Rows stay.
	LookupRetention time.Duration
	// SizeMax bounds the database file in bytes, 0: not bounded. A write beyond it is checkpoint.ErrFull.
	SizeMax int64
	// LogBytes is the length in bytes from which the write-ahead log starts again, 0: 32 MiB. A long read holds it
	// up: the log grows meanwhile, and is cut to twice this when it starts again.
	LogBytes int64
	// StateLogBytes is how much of the newest states waits to be moved to their table, 0: 16 MiB. Memory holds twice
	// as much, and a start reads it, in some 0.2 s.
	StateLogBytes int64
	// NoncesMax bounds the webhook events that are remembered, 0: 1,000,000, some 100 MB. The oldest are forgotten.
	NoncesMax int64
	Hooks     Hooks
	// Now is the clock, nil: time.Now.
	Now func() time.Time
}

const (
	lingerDefault       = time.Millisecond
	batchRowsMaxDefault = 4096
	busyTimeoutDefault  = 5 * time.Second

	noncesMaxDefault = 1_000_000

	// applicationID is "WEIR" in the file's header: it tells a store from other SQLite databases.
	applicationID = 0x57454952

	// pageBytes is the page size of a new store; an older one keeps its own. Of 500 settlements in a transaction, each takes
	// 29 us of CPU with SQLite's default of 4,096, 20 us with this, 30 us with 32,768 (BenchmarkSettle): texts of outcomes
	// are written in pieces of some 50 KiB, and each page has its price.
	pageBytes = 16384

	// logBytesDefault: each page that is written again while it is in the log is copied once, so a longer log saves
	// writes; a crash leaves it to be read at the next start, 0.1 s.
	logBytesDefault = 32 << 20

	// stateLogBytesDefault is some 40,000 states: a page of the table takes several at once, and what changes often is written
	// there once: of 20,000 entities that change at random, 0.38 states an event go to the table, with half of this size 0.58.
	stateLogBytesDefault = 16 << 20

	// Page caches in KiB: the writer's holds the inner pages of states and ledger of some ten million rows.
	writerCacheKiB = 65536
	readerCacheKiB = 8192

	// readersMax bounds the read connections: reads wait for a free one.
	readersMax = 4
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrationFiles lists the migrations; the schema version is their number.
func migrationFiles() []string {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	return names
}

// Store is a checkpoint.Store in one SQLite file. Safe for concurrent use.
type Store struct {
	path  string
	opts  Options
	id    string
	lock  *os.File // nil for a reader
	reads *pool
	w     *writer // nil for a reader

	commandMu sync.Mutex
	command   *conn // a reader's connection for commands, opened when first needed

	pageBytes int64 // of the file, set at open; for a runner

	names  names
	closed sync.Once
}

var _ checkpoint.Store = (*Store)(nil)

// Open opens the store in the file at path. A runner makes it when it is not there (its folder must be) and
// migrates it. Errors wrap checkpoint.ErrLocked (another runner), checkpoint.ErrNotFound (a reader, and no
// file), checkpoint.ErrVersion and checkpoint.ErrCorrupt. The caller closes the store.
func Open(ctx context.Context, path string, o Options) (*Store, error) {
	if path == "" {
		return nil, errors.New("open store: the path is empty; set checkpoint.store to sqlite:<path>")
	}
	if o.Linger == 0 {
		o.Linger = lingerDefault
	}
	if o.BatchRowsMax <= 0 {
		o.BatchRowsMax = batchRowsMaxDefault
	}
	if o.BusyTimeout <= 0 {
		o.BusyTimeout = busyTimeoutDefault
	}
	if o.LogBytes <= 0 {
		o.LogBytes = logBytesDefault
	}
	if o.StateLogBytes <= 0 {
		o.StateLogBytes = stateLogBytesDefault
	}
	if o.NoncesMax <= 0 {
		o.NoncesMax = noncesMaxDefault
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{path: path, opts: o}
	if err := s.open(ctx); err != nil {
		return nil, errors.Join(s.explain("open", err), s.release())
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) (err error) {
	mode := "rwc"
	if s.opts.Role == Reader {
		mode = "rw"
		if _, err := os.Stat(s.path); err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%w: there is no file at that path; check checkpoint.store in the config, and start weir run once to make the store", checkpoint.ErrNotFound)
			}
			return err
		}
	} else if s.lock, err = lockFile(s.path); err != nil {
		return err
	}
	c, err := dial(ctx, s.dsn(mode, false))
	if err != nil {
		return err
	}
	defer func() {
		if c != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := s.identify(c); err != nil {
		return err
	}
	row := make([]driver.Value, 1)
	found, err := c.one("SELECT value FROM meta WHERE name = 'store_id'", row)
	if err != nil {
		return err
	}
	if s.id = asText(row[0]); !found || s.id == "" {
		return fmt.Errorf("%w: it has no id", checkpoint.ErrCorrupt)
	}
	s.reads = newPool(s.dsn("rw", true))
	if err := s.reads.do(ctx, s.names.refresh); err != nil {
		return err
	}
	if s.opts.Role == Reader {
		return nil
	}
	w, err := newWriter(s, c)
	if err != nil {
		return err
	}
	k, err := dial(ctx, s.dsn("rw", false))
	if err != nil {
		return err
	}
	w.log = newCheckpointer(k, s.opts.LogBytes/s.pageBytes)
	s.w, c = w, nil
	go w.run()
	return nil
}

// dsn names the file as a URI, in which ?, # and % of the path are escaped.
func (s *Store) dsn(mode string, reads bool) string {
	q := url.Values{"mode": {mode}}
	pragmas := []string{
		"busy_timeout(" + strconv.FormatInt(s.opts.BusyTimeout.Milliseconds(), 10) + ")",
		"synchronous(FULL)", "cell_size_check(ON)", "temp_store(MEMORY)", "trusted_schema(OFF)",
	}
	if reads {
		pragmas = append(pragmas, "query_only(ON)", "cache_size(-"+strconv.Itoa(readerCacheKiB)+")")
	} else {
		pragmas = append(pragmas, "cache_size(-"+strconv.Itoa(writerCacheKiB)+")",
			"wal_autocheckpoint(0)", "journal_size_limit("+strconv.FormatInt(2*s.opts.LogBytes, 10)+")")
	}
	q["_pragma"] = pragmas
	return "file:" + (&url.URL{Path: s.path}).EscapedPath() + "?" + q.Encode()
}

// identify says whether the file is a store of this build's schema version, and makes or migrates it for a runner.
func (s *Store) identify(c *conn) error {
	files := migrationFiles()
	var app, version, tables [1]driver.Value
	for _, q := range []struct {
		text string
		dest []driver.Value
	}{
		{"PRAGMA application_id", app[:]},
		{"PRAGMA user_version", version[:]},
		{"SELECT count(*) FROM sqlite_schema", tables[:]},
	} {
		if _, err := c.one(q.text, q.dest); err != nil {
			return err
		}
	}
	have := asInt(version[0])
	switch {
	case asInt(app[0]) == applicationID:
	case asInt(app[0]) == 0 && have == 0 && asInt(tables[0]) == 0 && s.opts.Role == Runner:
		// New, or a crash came before the first migration.
	default:
		return errors.New("the file is an SQLite database but no Weir store; give checkpoint.store another path")
	}
	if have > int64(len(files)) {
		return fmt.Errorf("%w: %d, and this build knows versions up to %d; run the newer build that wrote it, or restore the backup made before the upgrade", checkpoint.ErrVersion, have, len(files))
	}
	if s.opts.Role == Reader {
		if have == int64(len(files)) {
			return nil
		}
		return fmt.Errorf("%w: %d, and this build needs %d; start weir run of this build, which migrates it, and repeat the command", checkpoint.ErrVersion, have, len(files))
	}
	if have == 0 {
		if err := c.run("PRAGMA page_size = " + strconv.Itoa(pageBytes) + "; PRAGMA journal_mode = WAL"); err != nil {
			return err
		}
		var mode [1]driver.Value
		if _, err := c.one("PRAGMA journal_mode", mode[:]); err != nil {
			return err
		}
		if asText(mode[0]) != "wal" {
			return fmt.Errorf("its folder's file system supports no write-ahead log (journal mode is %q); put the store on a local disk", asText(mode[0]))
		}
	}
	if err := s.limit(c); err != nil {
		return err
	}
	for n := have; n < int64(len(files)); n++ {
		if err := s.migrate(c, files[n], n+1); err != nil {
			return fmt.Errorf("migrate to schema version %d: %w", n+1, err)
		}
	}
	return nil
}

// limit learns the page size, and keeps the file within Options.SizeMax.
func (s *Store) limit(c *conn) error {
	var size [1]driver.Value
	if _, err := c.one("PRAGMA page_size", size[:]); err != nil {
		return err
	}
	s.pageBytes = max(asInt(size[0]), 512) // the least that SQLite takes
	if s.opts.SizeMax <= 0 {
		return nil
	}
	return c.run("PRAGMA max_page_count = " + strconv.FormatInt(max(1, s.opts.SizeMax/s.pageBytes), 10))
}

// migrate is one transaction: a crash leaves the version before or after.
func (s *Store) migrate(c *conn, file string, version int64) (err error) {
	b, err := migrations.ReadFile(file)
	if err != nil {
		return err
	}
	if err := c.run("BEGIN IMMEDIATE"); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = c.run("ROLLBACK") // the error at hand says more, and closing the connection rolls back too
		}
	}()
	if err := c.run(string(b)); err != nil {
		return err
	}
	if version == 1 {
		if _, err := c.exec("INSERT INTO meta (name, value) VALUES ('store_id', ?)", uuid.NewString()); err != nil {
			return err
		}
	}
	if err := c.run("PRAGMA application_id = " + strconv.Itoa(applicationID) + "; PRAGMA user_version = " + strconv.FormatInt(version, 10)); err != nil {
		return err
	}
	return c.run("COMMIT")
}

// ID names the store for ever.
func (s *Store) ID() string { return s.id }

// Path is the path of the store's file.
func (s *Store) Path() string { return s.path }

// Close waits for the transaction that is being written, refuses those that wait, and gives up the lock. A second
// Close does nothing.
func (s *Store) Close() error {
	var err error
	s.closed.Do(func() { err = s.release() })
	if err != nil {
		return s.explain("close", err)
	}
	return nil
}

func (s *Store) release() error {
	var errs []error
	if s.reads != nil {
		errs = append(errs, s.reads.close())
	}
	if s.w != nil {
		errs = append(errs, s.w.close()) // last connection: copies the log into the database
	}
	s.commandMu.Lock()
	if s.command != nil {
		errs = append(errs, s.command.Close())
		s.command = nil
	}
	s.commandMu.Unlock()
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// code is SQLite's primary result code of an error, 0 if it is none of its.
func code(err error) int {
	if e, ok := errors.AsType[*sqlite3.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// explain says what was being done to which store, and what an operator can do about it. It is the one place where
// SQLite's codes become this package's errors.
func (s *Store) explain(doing string, err error) error {
	if err == nil {
		return nil
	}
	damaged := errors.Is(err, checkpoint.ErrCorrupt)
	switch code(err) {
	case sqlite3lib.SQLITE_CORRUPT, sqlite3lib.SQLITE_NOTADB:
		damaged = true
	case sqlite3lib.SQLITE_FULL:
		return fmt.Errorf("%s store %s: %w: free space on its disk or raise its size limit; deliveries wait and go on by themselves: %w", doing, s.path, checkpoint.ErrFull, err)
	case sqlite3lib.SQLITE_BUSY:
		return fmt.Errorf("%s store %s: another process has been writing to it for more than %v; end that process or repeat the command: %w", doing, s.path, s.opts.BusyTimeout, err)
	case sqlite3lib.SQLITE_CANTOPEN, sqlite3lib.SQLITE_PERM, sqlite3lib.SQLITE_READONLY:
		return fmt.Errorf("%s store %s: check that its folder exists and that this user may write the file, its -wal and its -shm there: %w", doing, s.path, err)
	}
	if damaged {
		if !errors.Is(err, checkpoint.ErrCorrupt) {
			err = fmt.Errorf("%w: %w", checkpoint.ErrCorrupt, err)
		}
		return fmt.Errorf("%s store %s: %w\nTo restore: stop weir; move %[2]s, %[2]s-wal and %[2]s-shm aside and keep them; copy the last backup to %[2]s; start weir run: it rewinds to the backup's marks by itself. Without a backup start it with --store-lost NAME. docs/restore.md has the commands", doing, s.path, err)
	}
	return fmt.Errorf("%s store %s: %w", doing, s.path, err)
}
