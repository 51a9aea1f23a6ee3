package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	sqlite3lib "modernc.org/sqlite/lib"

	"github.com/weirsync/weir/checkpoint"
)

// errClosed is the answer to writes after Close.
var errClosed = errors.New("the store is closed")

// A request is one caller's write. Its apply may run twice (the first time rolled back), so it starts from nothing
// each time.
type request struct {
	rows  int
	apply func(w *writer) error
	err   error
	done  chan struct{} // closed when err is final
}

// commitPages is about what a transaction of one row writes to the log: a leaf of each table that it touches. Each
// further row writes less than half a page, and a page for each state that it moves to its table.
const commitPages = 8

// A refusal is an error of one request that says nothing about the store: the others go on.
type refusal struct{ error }

func (r refusal) Unwrap() error { return r.error }

func refuse(format string, args ...any) error { return refusal{fmt.Errorf(format, args...)} }

// writer is the goroutine that writes, with what it keeps in memory.
type writer struct {
	s   *Store
	c   *conn
	log *checkpointer

	reqs   chan *request // size 0: a caller waits until the writer takes its request
	active atomic.Int64  // callers inside submit
	quit   chan struct{}
	once   sync.Once
	done   chan struct{}

	// Of the writer goroutine:
	broken  error // sticky, after an I/O error of a commit
	cache   cache
	states  stateLog
	args    []driver.Value
	rows    []*settlement
	texts   []byte
	entries []entry // lookups of the transaction at hand
	dirty   []*part // partitions changed in it
	counts  map[countKey]int64
	wrote   bool // the request at hand has written something
	pages   int  // at most so many went into the log since the checkpointer was nudged
}

type countKey struct {
	connector, route, outcome int64
}

// cache is what the writer knows of the database; it holds uncommitted changes of the transaction at hand and is read
// again after a rollback. Its size is bounded by the partitions and the words of routes, entities, schemas, mappings.
type cache struct {
	words   map[string]int64
	parts   map[checkpoint.Partition]*part
	lookups lookups
	// waiting counts waiters not yet woken, per connector: without any, states wake nobody.
	waiting map[int64]int64
}

type part struct {
	id, connector int64
	key           checkpoint.Partition
	epoch         uint64
	owner         string
	ownedAt       time.Time
	mark, horizon int64
	lostBelow     int64
	mapping       string
	raisedAt      time.Time
	last          int64
	fresh         bool
	skips         []checkpoint.Skip
	open          int64 // rows in begins and plans
	waiters       int64
	unconfirmed   int64 // rows in unconfirmed
	dirty         bool
}

func (p *part) skipped(off int64) bool {
	for i := range p.skips {
		if p.skips[i].From <= off && off < p.skips[i].To {
			return true
		}
	}
	return false
}

func (p *part) cursor() checkpoint.Cursor {
	return checkpoint.Cursor{Partition: p.key, Epoch: p.epoch, Mark: p.mark, Horizon: p.horizon, LostBelow: p.lostBelow,
		Mapping: p.mapping, At: p.raisedAt}
}

func newWriter(s *Store, c *conn) (*writer, error) {
	w := &writer{s: s, c: c, reqs: make(chan *request), quit: make(chan struct{}), done: make(chan struct{}),
		counts: make(map[countKey]int64), states: stateLog{bytesMax: s.opts.StateLogBytes}}
	return w, errors.Join(w.states.load(c), w.load())
}

func (w *writer) now() time.Time { return w.s.opts.Now().UTC() }

// submit hands a request to the writer and waits until it is durable or refused. A ctx that ends counts only until
// the writer has taken the request: after that the answer is near, and no caller is left in doubt.
func (s *Store) submit(ctx context.Context, doing string, rows int, apply func(w *writer) error) error {
	if s.w == nil {
		return fmt.Errorf("%s: %w: it may release parked records and write the audit log only", doing, checkpoint.ErrReader)
	}
	w := s.w
	w.active.Add(1)
	defer w.active.Add(-1)
	r := &request{rows: max(1, rows), apply: apply, done: make(chan struct{})}
	select {
	case <-w.quit:
		return fmt.Errorf("%s: %w", doing, errClosed)
	default:
	}
	select {
	case w.reqs <- r:
	case <-w.quit:
		return fmt.Errorf("%s: %w", doing, errClosed)
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", doing, context.Cause(ctx))
	}
	<-r.done
	if r.err == nil {
		return nil
	}
	if re, ok := errors.AsType[refusal](r.err); ok {
		return re.error
	}
	return s.explain(doing, r.err)
}

func (w *writer) close() error {
	w.once.Do(func() { close(w.quit) })
	<-w.done
	return errors.Join(w.log.close(), w.c.Close())
}

// run takes requests until close, and commits those that are there together.
func (w *writer) run() {
	defer close(w.done)
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	var batch []*request
	for {
		var r *request
		select {
		case <-w.quit:
			return
		case r = <-w.reqs:
		}
		// Several callers write at once if some are waiting now, or were in the last transaction and have just
		// been answered: for those it pays to linger.
		callers := max(int64(len(batch)), w.active.Load())
		batch = append(batch[:0], r)
		batch = w.gather(batch, callers, timer)
		w.commit(batch)
		for _, r := range batch {
			close(r.done)
		}
	}
}

// gather adds the requests that come until as many callers as are active are in, the linger is over or the
// transaction is full.
func (w *writer) gather(batch []*request, callers int64, timer *time.Timer) []*request {
	rows := batch[0].rows
	lingering := false
	defer timer.Stop()
	for rows < w.s.opts.BatchRowsMax {
		select {
		case r := <-w.reqs:
			batch = append(batch, r)
			rows += r.rows
			continue
		default:
		}
		if int64(len(batch)) >= callers || w.s.opts.Linger < 0 {
			return batch
		}
		if !lingering {
			timer.Reset(w.s.opts.Linger)
			lingering = true
		}
		select {
		case r := <-w.reqs:
			batch = append(batch, r)
			rows += r.rows
		case <-timer.C:
			return batch
		case <-w.quit:
			return batch
		}
	}
	return batch
}

// commit writes a batch in one transaction and sets the error of each request.
func (w *writer) commit(batch []*request) {
	if w.broken != nil {
		failAll(batch, w.broken)
		return
	}
	if w.log.rest.Swap(false) {
		if _, err := copyLog(w.c); err != nil {
			failAll(batch, err)
			return
		}
	}
	again, err := w.transaction(batch, false)
	if again {
		again, err = w.transaction(batch, true)
		if again && err == nil {
			err = errors.New("transaction was refused under savepoints") // unreachable: savepoints isolate
		}
	}
	if err != nil {
		failAll(batch, err)
	}
}

func failAll(batch []*request, err error) {
	for _, r := range batch {
		r.err = err
	}
}

// transaction does a batch once. It asks to be called again, isolated, when a request failed after writing.
// Isolated, each request has a savepoint, which costs a third more.
func (w *writer) transaction(batch []*request, isolated bool) (again bool, err error) {
	if _, err := w.c.exec("BEGIN IMMEDIATE"); err != nil {
		return false, err
	}
	finished := false
	defer func() {
		if finished {
			return
		}
		w.states.forget()
		_, _ = w.c.exec("ROLLBACK") // SQLite may have rolled back by itself: then this errs and changes nothing
		if e := w.load(); e != nil {
			w.broken = fmt.Errorf("%w: read it again after a rollback: %w", checkpoint.ErrBroken, e)
			err = errors.Join(err, w.broken)
		}
	}()
	done := 0
	for _, r := range batch {
		if isolated {
			if _, err := w.c.exec("SAVEPOINT request"); err != nil {
				return false, err
			}
		}
		w.wrote = false
		r.err = r.apply(w)
		if r.err == nil && isolated {
			r.err = w.flush()
		}
		if r.err == nil {
			done++
		}
		_, refused := errors.AsType[refusal](r.err)
		switch {
		case r.err != nil && !refused && environmental(r.err):
			return false, r.err
		case r.err != nil && isolated:
			if _, err := w.c.exec("ROLLBACK TO request"); err != nil {
				return false, err
			}
			if err := w.load(); err != nil {
				return false, err
			}
		case r.err != nil && (w.wrote || !refused):
			return true, nil
		}
		if isolated {
			if _, err := w.c.exec("RELEASE request"); err != nil {
				return false, err
			}
		}
	}
	if done == 0 {
		// Refusals only: nothing to commit, and what is kept in memory has not changed either.
		_, err := w.c.exec("ROLLBACK")
		finished = err == nil
		return false, err
	}
	if err := w.flush(); err != nil {
		return false, err
	}
	if err := w.foldStates(); err != nil {
		return false, err
	}
	if f := w.s.opts.Hooks.BeforeCommit; f != nil {
		f()
	}
	if _, err := w.c.exec("COMMIT"); err != nil {
		if code(err) == sqlite3lib.SQLITE_IOERR {
			// The kernel may have dropped the pages that it could not write: a second sync that succeeds proves nothing.
			w.broken = fmt.Errorf("%w, and writes no more until it is opened again: check the disk, then start weir again: %w", checkpoint.ErrBroken, err)
			return false, w.broken
		}
		return false, err
	}
	finished = true
	w.pages += w.states.folded
	for _, r := range batch {
		w.pages += r.rows/2 + commitPages
	}
	w.states.commit()
	if int64(w.pages) > w.log.pagesMax/2 {
		w.pages = 0
		w.log.nudge()
	}
	if f := w.s.opts.Hooks.AfterCommit; f != nil {
		f()
	}
	return false, nil
}

// environmental reports whether an error would meet every other request too.
func environmental(err error) bool {
	switch code(err) {
	case sqlite3lib.SQLITE_FULL, sqlite3lib.SQLITE_IOERR, sqlite3lib.SQLITE_CORRUPT, sqlite3lib.SQLITE_NOTADB,
		sqlite3lib.SQLITE_NOMEM, sqlite3lib.SQLITE_BUSY, sqlite3lib.SQLITE_READONLY:
		return true
	}
	return errors.Is(err, checkpoint.ErrCorrupt)
}

// exec runs a statement of the request at hand.
func (w *writer) exec(query string, args ...driver.Value) (int64, error) {
	n, err := w.c.exec(query, args...)
	if n > 0 || err != nil {
		w.wrote = true
	}
	return n, err
}

// touch marks a partition for the flush.
func (w *writer) touch(p *part) {
	w.wrote = true
	if !p.dirty {
		p.dirty = true
		w.dirty = append(w.dirty, p)
	}
}

// flush writes what a transaction gathers in memory: lookups, cursors, counts, states.
func (w *writer) flush() error {
	if err := w.flushLookups(); err != nil {
		return err
	}
	for _, p := range w.dirty {
		_, err := w.c.exec("UPDATE partitions SET epoch = ?, owner = ?, owned_at = ?, mark = ?, horizon = ?, lost_below = ?, mapping = ?, raised_at = ?, last = ? WHERE id = ?",
			int64(p.epoch), text(p.owner), millis(p.ownedAt), p.mark, p.horizon, p.lostBelow, text(p.mapping), millis(p.raisedAt), p.last, p.id)
		if err != nil {
			return err
		}
		p.dirty = false
	}
	w.dirty = w.dirty[:0]
	for k, n := range w.counts {
		if n != 0 {
			if _, err := w.c.exec("INSERT INTO counts (connector, route, outcome, n) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
				k.connector, k.route, k.outcome, n); err != nil {
				return err
			}
		}
	}
	clear(w.counts)
	return w.flushStates() // last: what fails before it leaves the unsaved ones unsaved
}

// load reads the cache from the database and forgets what an undone transaction had gathered.
func (w *writer) load() error {
	w.entries, w.dirty = w.entries[:0], w.dirty[:0]
	clear(w.counts)
	clear(w.states.unsaved)
	c := cache{words: make(map[string]int64), parts: make(map[checkpoint.Partition]*part), waiting: make(map[int64]int64)}
	texts := make(map[int64]string)
	err := w.c.query("SELECT id, text FROM words", func(row []driver.Value) error {
		c.words[asText(row[1])] = asInt(row[0])
		texts[asInt(row[0])] = asText(row[1])
		return nil
	})
	if err != nil {
		return err
	}
	byID := make(map[int64]*part)
	err = w.c.query("SELECT id, connector, topic, topic_id, idx, epoch, owner, owned_at, mark, horizon, lost_below, mapping, raised_at, last, fresh FROM partitions", func(row []driver.Value) error {
		p := &part{id: asInt(row[0]), connector: asInt(row[1]), epoch: uint64(asInt(row[5])), owner: asText(row[6]),
			ownedAt: asTime(row[7]), mark: asInt(row[8]), horizon: asInt(row[9]), lostBelow: asInt(row[10]),
			mapping: asText(row[11]), raisedAt: asTime(row[12]), last: asInt(row[13]), fresh: asInt(row[14]) != 0}
		p.key = checkpoint.Partition{Connector: texts[p.connector], Topic: asText(row[2]), Index: int32(asInt(row[4]))}
		copy(p.key.ID[:], bytesOf(row[3]))
		c.parts[p.key], byID[p.id] = p, p
		return nil
	})
	if err != nil {
		return err
	}
	if err := w.c.query("SELECT part, from_off, to_off, epoch, reason, by, at FROM skips ORDER BY part, from_off", func(row []driver.Value) error {
		if p := byID[asInt(row[0])]; p != nil {
			p.skips = append(p.skips, skipOf(p.key, row[1:]))
		}
		return nil
	}); err != nil {
		return err
	}
	for _, q := range []string{
		"SELECT part, count(*), 0, 0, 0 FROM begins GROUP BY part",
		"SELECT part, count(*), 0, 0, 0 FROM plans GROUP BY part",
		"SELECT part, 0, count(*), 0, 0 FROM waiters GROUP BY part",
		"SELECT part, 0, 0, count(*), 0 FROM waiters WHERE woken = 0 GROUP BY part",
		"SELECT part, 0, 0, 0, count(*) FROM unconfirmed GROUP BY part",
	} {
		if err := w.c.query(q, func(row []driver.Value) error {
			if p := byID[asInt(row[0])]; p != nil {
				p.open += asInt(row[1])
				p.waiters += asInt(row[2])
				c.waiting[p.connector] += asInt(row[3])
				p.unconfirmed += asInt(row[4])
			}
			return nil
		}); err != nil {
			return err
		}
	}
	kept := w.cache.lookups.scratch
	if c.lookups, err = w.loadLookups(); err != nil {
		return err
	}
	c.lookups.scratch = kept
	w.cache = c
	return nil
}

// word is the number of a text, which it gets when it is new.
func (w *writer) word(s string) (int64, error) {
	if id, ok := w.cache.words[s]; ok {
		return id, nil
	}
	row := make([]driver.Value, 1)
	w.wrote = true
	if _, err := w.c.one("INSERT INTO words (text) VALUES (?) RETURNING id", row, s); err != nil {
		return 0, err
	}
	w.cache.words[s] = asInt(row[0])
	return asInt(row[0]), nil
}

// known is the partition as the store knows it.
func (w *writer) known(p checkpoint.Partition) (*part, error) {
	if known := w.cache.parts[p]; known != nil {
		return known, nil
	}
	return nil, refuse("partition %s (topic id %s) of connector %s: %w: it was never acquired in this store", p, p.ID, p.Connector, checkpoint.ErrNotFound)
}

// owned is the partition of a lease: a nil part without an error if a higher epoch owns it.
func (w *writer) owned(l checkpoint.Lease) (*part, *checkpoint.FencedError, error) {
	p, err := w.known(l.Partition)
	if err != nil {
		return nil, nil, err
	}
	if l.Epoch < p.epoch {
		return nil, &checkpoint.FencedError{Partition: l.Partition, Epoch: l.Epoch, Owner: p.epoch}, nil
	}
	if l.Epoch > p.epoch {
		return nil, nil, refuse("partition %s of connector %s: epoch %d was never issued by this store, its epoch is %d; acquire the partition again", p.key, p.key.Connector, l.Epoch, p.epoch)
	}
	return p, nil, nil
}

func skipOf(p checkpoint.Partition, row []driver.Value) checkpoint.Skip {
	return checkpoint.Skip{Lease: checkpoint.Lease{Partition: p, Epoch: uint64(asInt(row[2]))}, From: asInt(row[0]), To: asInt(row[1]),
		Reason: asText(row[3]), By: asText(row[4]), At: asTime(row[5])}
}
