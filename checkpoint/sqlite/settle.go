package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	sqlite3lib "modernc.org/sqlite/lib"

	"github.com/weirsync/weir/checkpoint"
)

// A settlement is a checkpoint.Settlement made ready for the writer: what does not depend on the store is done by the
// caller's goroutine, so that the writer's does little more than bind and step.
type settlement struct {
	*checkpoint.Settlement
	text   []byte // the ledger row's; those of a request follow one another in one piece of memory
	code   int64
	hashes []uint64
	state  *preparedState

	// Of the writer. The request may run again, so each run sets them anew.
	part  *part // nil: fenced
	route int64
	again bool // the record has a row already
}

type preparedState struct {
	*checkpoint.State
	saved *savedState
}

func prepareState(s *checkpoint.State, buf []byte) (*preparedState, []byte) {
	if s == nil {
		return nil, buf
	}
	buf = appendState(buf[:0], s)
	return &preparedState{s, &savedState{s.Tenant, len(s.IDs) > 0 || s.Deleted, string(buf)}}, buf
}

// prepare fills in what the writer needs but cannot know better, except for the text. hashes is where its hashes may go.
func (p *settlement) prepare(buf []byte, hashes []uint64) ([]byte, error) {
	p.hashes = hashes
	r := &p.Row
	var err error
	if p.code, err = outcomeCode(r.Outcome); err != nil {
		return buf, fmt.Errorf("record %s/%d, route %s: %w", p.Lease.Partition, r.Offset, r.Route, err)
	}
	if r.Partition != (checkpoint.Partition{}) && r.Partition != p.Lease.Partition {
		return buf, fmt.Errorf("record %s/%d, route %s: its lease is for partition %s", r.Partition, r.Offset, r.Route, p.Lease.Partition)
	}
	p.lookup(r.Event.ID)
	p.lookup(r.Event.Key)
	p.lookup(r.Event.CorrelationID)
	p.lookup(r.VendorID)
	for i := range r.Plan {
		p.lookup(r.Plan[i].IdempotencyKey)
	}
	if p.State != nil {
		for _, id := range p.State.IDs {
			p.lookup(id)
		}
	}
	p.state, buf = prepareState(p.State, buf)
	return buf, nil
}

func (p *settlement) lookup(id string) {
	if id == "" {
		return
	}
	if h := hashID(id); !slices.Contains(p.hashes, h) {
		p.hashes = append(p.hashes, h)
	}
}

// A settleMemory is what one Settle makes ready for the writer, and is used again by the next: it is half a megabyte for
// some hundred settlements. submit returns only when the writer is done with it.
type settleMemory struct {
	made   []settlement
	hashes []uint64
	texts  []byte
	buf    []byte
}

var settleMemories = sync.Pool{New: func() any { return new(settleMemory) }}

// settlements are n empty ones, with room for what goes with them.
func (m *settleMemory) settlements(n int) []settlement {
	m.made = slices.Grow(m.made[:0], n)[:n]
	m.hashes = slices.Grow(m.hashes[:0], hashesUsual*n)
	m.texts = slices.Grow(m.texts[:0], rowBytes*n)
	return m.made
}

// free lets the next Settle have it; nothing of the batch is kept.
func (m *settleMemory) free() {
	clear(m.made)
	settleMemories.Put(m)
}

const (
	// rowBytes is the size of a common ledger row's text.
	rowBytes = 768
	// hashesUsual is how many ids of a row are looked up by, as a rule.
	hashesUsual = 6
)

// Settle is one transaction, which other callers' writes may share.
func (s *Store) Settle(ctx context.Context, b checkpoint.Batch) (checkpoint.Result, error) {
	m := settleMemories.Get().(*settleMemory)
	defer m.free()
	settlements := m.settlements(len(b.Settlements))
	for i := range settlements {
		st := &settlements[i]
		st.Settlement = &b.Settlements[i]
		var err error
		n := len(m.hashes)
		if m.buf, err = st.prepare(m.buf, m.hashes[n:n]); err != nil {
			return checkpoint.Result{}, fmt.Errorf("settle: %w", err)
		}
		if n += len(st.hashes); n <= cap(m.hashes) {
			m.hashes = m.hashes[:n] // else they are elsewhere
		}
		start := len(m.texts)
		m.texts = appendRow(m.texts, &b.Settlements[i].Row, nil)
		st.text = m.texts[start:] // of an earlier piece, if texts has moved since
	}
	states := make([]*preparedState, len(b.Progress))
	for i := range b.Progress {
		states[i], m.buf = prepareState(b.Progress[i].State, m.buf)
	}
	var res checkpoint.Result
	err := s.submit(ctx, "settle", len(b.Settlements)+len(b.Progress)+len(b.Retractions)+len(b.Marks), func(w *writer) error {
		res = checkpoint.Result{}
		return w.settle(&b, settlements, states, &res)
	})
	if err != nil {
		return checkpoint.Result{}, err
	}
	return res, nil
}

func (w *writer) settle(b *checkpoint.Batch, settlements []settlement, states []*preparedState, res *checkpoint.Result) error {
	// Leases repeat: most of a batch is of a few partitions, so the last one is kept.
	var lease checkpoint.Lease
	var last *part
	owned := func(l checkpoint.Lease) (*part, error) {
		if last != nil && l == lease {
			return last, nil
		}
		p, fenced, err := w.owned(l)
		if fenced != nil && !slices.Contains(res.Fenced, l.Partition) {
			res.Fenced = append(res.Fenced, l.Partition)
		}
		if p != nil {
			lease, last = l, p
		}
		return p, err
	}
	for i := range b.Progress {
		pr := &b.Progress[i]
		p, err := owned(pr.Lease)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		woken, err := w.progress(p, pr, states[i])
		if err != nil {
			return err
		}
		res.Woken += woken
	}
	for i := range settlements {
		st := &settlements[i]
		var err error
		if st.part, err = owned(st.Lease); err != nil {
			return err
		}
		if st.part == nil {
			continue
		}
		if st.route, err = w.word(st.Row.Route); err != nil {
			return err
		}
		if st.part.skipped(st.Row.Offset) {
			if err := w.unsettled(st.part, st.Row.Offset, st.route, st.Row.Route); err != nil {
				return err
			}
		}
	}
	if err := w.insertRows(settlements); err != nil {
		return err
	}
	for i := range settlements {
		if settlements[i].part == nil {
			continue
		}
		woken, err := w.settleOne(&settlements[i])
		if err != nil {
			return err
		}
		res.Woken += woken
	}
	for i := range b.Retractions {
		r := &b.Retractions[i]
		p, err := owned(r.Lease)
		if err != nil {
			return err
		}
		if p == nil {
			continue
		}
		if err := w.retract(p, r); err != nil {
			return err
		}
	}
	for i := range b.Marks {
		p, err := owned(b.Marks[i].Lease)
		if err != nil {
			return err
		}
		if p != nil && b.Marks[i].Mark > p.mark {
			p.mark = b.Marks[i].Mark
			p.horizon = max(p.horizon, p.mark)
			w.touch(p)
		}
	}
	return nil
}

// Rows of the ledger go in several at a time: a statement costs as much as some rows. Their texts go in more at a time,
// for they may be as long as they are.
const (
	ledgerRowsMax = 16
	chunkRowsMax  = 4 * ledgerRowsMax
)

const (
	ledgerColumns = "part, off, route, outcome, chunk, start, size"
	ledgerValues  = "(?, ?, ?, ?, ?, ?, ?)"
	ledgerWidth   = 7
	insertLedger  = " INTO ledger (" + ledgerColumns + ") VALUES " + ledgerValues

	insertChunk = "INSERT INTO chunks (texts) VALUES (?) RETURNING id"
)

// insertLedgerMany inserts ledgerRowsMax rows, up to the first that is there already. FAIL needs no copy of the pages
// that it changes, as ABORT would to take the first rows back.
var insertLedgerMany = "INSERT OR FAIL" + insertLedger + strings.Repeat(", "+ledgerValues, ledgerRowsMax-1)

// insertRows inserts the rows of those that have a part, and marks those that have one already.
func (w *writer) insertRows(settlements []settlement) error {
	w.rows = w.rows[:0]
	for i := range settlements {
		if st := &settlements[i]; st.part != nil {
			st.again = false
			w.rows = append(w.rows, st)
		}
	}
	for rows := range slices.Chunk(w.rows, chunkRowsMax) {
		w.texts = w.texts[:0]
		for _, st := range rows {
			w.texts = append(w.texts, st.text...)
		}
		chunk, err := w.chunk(w.texts)
		if err != nil {
			return err
		}
		start := int64(1)
		for some := range slices.Chunk(rows, ledgerRowsMax) {
			w.args = w.args[:0]
			for _, st := range some {
				size := int64(len(st.text))
				w.args = append(w.args, st.part.id, st.Row.Offset, st.route, st.code, chunk, start, size)
				start += size
			}
			if err := w.insertSome(some, w.args); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *writer) insertSome(rows []*settlement, args []driver.Value) error {
	if len(rows) == ledgerRowsMax {
		_, err := w.c.exec(insertLedgerMany, args...)
		if err == nil {
			return nil
		}
		if code(err) != sqlite3lib.SQLITE_CONSTRAINT {
			return err
		}
		var done [1]driver.Value // the rows before the first that was there already
		if _, err := w.c.one("SELECT changes()", done[:]); err != nil {
			return err
		}
		rows, args = rows[asInt(done[0]):], args[ledgerWidth*asInt(done[0]):]
	}
	for i, st := range rows {
		n, err := w.exec("INSERT OR IGNORE"+insertLedger, args[ledgerWidth*i:][:ledgerWidth]...)
		if err != nil {
			return err
		}
		st.again = n == 0
	}
	return nil
}

// chunk keeps texts of ledger rows.
func (w *writer) chunk(texts []byte) (id int64, err error) {
	w.wrote = true
	var row [1]driver.Value
	_, err = w.c.one(insertChunk, row[:], texts)
	return asInt(row[0]), err
}

// settleOne does what follows from a row.
func (w *writer) settleOne(st *settlement) (woken int, err error) {
	r, p, route := &st.Row, st.part, st.route
	if st.again {
		if err := w.replaceParked(st); err != nil {
			return 0, err
		}
	}
	w.counts[countKey{p.connector, route, st.code}]++
	for _, h := range st.hashes {
		w.entries = append(w.entries, entry{h, uint32(p.id), r.Offset})
	}
	if r.Offset > p.last {
		p.last = r.Offset
		w.touch(p)
	}
	if err := w.removeOpen(p, r.Offset, route); err != nil {
		return 0, err
	}
	if p.waiters > 0 {
		if r.Outcome == checkpoint.ParkedOut && r.Cause == checkpoint.CauseMissingReference {
			_, err = w.exec("UPDATE waiters SET parked = 1 WHERE part = ? AND off = ? AND route = ?", p.id, r.Offset, route)
		} else {
			err = w.removeWaiter(p, r.Offset, route)
		}
		if err != nil {
			return 0, err
		}
	}
	if p.unconfirmed > 0 || !st.Due.IsZero() {
		if err := w.expectConfirmation(p, st, route); err != nil {
			return 0, err
		}
	}
	for i := range st.Close {
		if err := w.closeParked(&st.Close[i], st); err != nil {
			return 0, err
		}
	}
	if st.Park != nil {
		if err := w.park(p, st, route); err != nil {
			return 0, err
		}
	} else if st.again && r.Outcome != checkpoint.ParkedOut {
		if _, err := w.exec("UPDATE parked SET state = ?, since = ?, by = ? WHERE part = ? AND off = ? AND route = ? AND state IN ('open', 'released')",
			string(checkpoint.ParkedResolved), w.time(r.At), text(r.Event.ID), p.id, r.Offset, route); err != nil {
			return 0, err
		}
	}
	if st.state != nil {
		return w.saveState(p, st.state)
	}
	return 0, nil
}

// time is t, or now if t is zero.
func (w *writer) time(t time.Time) driver.Value {
	if t.IsZero() {
		t = w.now()
	}
	return t.UnixMilli()
}

// replaceParked puts a settlement in the place of a parked one, keeping the earlier attempts.
func (w *writer) replaceParked(st *settlement) error {
	p := st.part
	r := st.Row // a copy: the request may run again
	old := make([]driver.Value, 2)
	if _, err := w.c.one("SELECT outcome, substr(texts, start, size) FROM ledger JOIN chunks ON id = chunk WHERE part = ? AND off = ? AND route = ?", old, p.id, r.Offset, st.route); err != nil {
		return err
	}
	if asInt(old[0]) != parkedCode {
		was, err := outcomeOf(asInt(old[0]))
		if err != nil {
			return err
		}
		return refuse("record %s/%d, route %s, outcome %s: %w as %s", p.key, r.Offset, r.Route, r.Outcome, checkpoint.ErrSettled, was)
	}
	var was checkpoint.Row
	past, err := parseRow(bytesOf(old[1]), &was)
	if err != nil {
		return err
	}
	r.Attempts = mergeAttempts(was.Attempts, r.Attempts)
	text := appendRow(nil, &r, pastIDs(&was, past))
	chunk, err := w.chunk(text)
	if err != nil {
		return err
	}
	w.counts[countKey{p.connector, st.route, parkedCode}]--
	_, err = w.exec("INSERT OR REPLACE"+insertLedger, p.id, r.Offset, st.route, st.code, chunk, int64(1), int64(len(text)))
	return err
}

// pastIDs adds the ids by which a row that is replaced could be found to those of its predecessors: they lead to its
// successor.
func pastIDs(was *checkpoint.Row, past []string) []string {
	add := func(id string) {
		if id != "" && !slices.Contains(past, id) {
			past = append(past, id)
		}
	}
	add(was.VendorID)
	for i := range was.Plan {
		add(was.Plan[i].IdempotencyKey)
	}
	return past
}

// mergeAttempts joins lists of attempts in order of number and time, without doubles.
func mergeAttempts(lists ...[]checkpoint.Attempt) []checkpoint.Attempt {
	var all []checkpoint.Attempt
	for _, list := range lists {
		for _, a := range list {
			if !a.At.IsZero() {
				a.At = time.UnixMilli(a.At.UnixMilli()).UTC()
			}
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b checkpoint.Attempt) int {
		if a.N != b.N {
			return a.N - b.N
		}
		return a.At.Compare(b.At)
	})
	return all
}

// removeOpen removes the begins and the plan of a record.
func (w *writer) removeOpen(p *part, off, route int64) error {
	if p.open == 0 {
		return nil
	}
	for _, q := range [...]string{
		"DELETE FROM begins WHERE part = ? AND off = ? AND route = ?",
		"DELETE FROM plans WHERE part = ? AND off = ? AND route = ?",
	} {
		n, err := w.exec(q, p.id, off, route)
		if err != nil {
			return err
		}
		p.open -= n
	}
	return nil
}

// retract removes the begin of a batch's member.
func (w *writer) retract(p *part, r *checkpoint.Retraction) error {
	route, err := w.word(r.Route)
	if err != nil {
		return err
	}
	n, err := w.exec("DELETE FROM begins WHERE part = ? AND off = ? AND route = ? AND batch ->> '$.id' = ?", p.id, r.Offset, route, r.Batch)
	p.open -= n
	return err
}

func (w *writer) removeWaiter(p *part, off, route int64) error {
	row := make([]driver.Value, 1)
	found, err := w.c.one("SELECT woken FROM waiters WHERE part = ? AND off = ? AND route = ?", row, p.id, off, route)
	if err != nil || !found {
		return err
	}
	if _, err := w.exec("DELETE FROM waiters WHERE part = ? AND off = ? AND route = ?", p.id, off, route); err != nil {
		return err
	}
	p.waiters--
	if asInt(row[0]) == 0 {
		w.cache.waiting[p.connector]--
	}
	return nil
}

// saveState keeps an entity's state for the flush and wakes those that wait for it.
func (w *writer) saveState(p *part, s *preparedState) (woken int, err error) {
	entity, err := w.word(s.Entity)
	if err != nil {
		return 0, err
	}
	w.wrote = true
	w.states.unsaved[stateKey{p.key.Connector, s.Entity, s.Key}] = s.saved
	if !s.saved.present || w.cache.waiting[p.connector] == 0 {
		return 0, nil
	}
	q, args := "UPDATE waiters SET woken = 1 WHERE connector = ? AND ref_entity = ? AND ref_key = ? AND tenant = ? AND woken = 0", []driver.Value{p.connector, entity, s.Key, s.Tenant}
	if !s.Deleted {
		// Names of vendor ids are words of the profile and hold no comma.
		q, args = q+" AND (ref_id IS NULL OR instr(?, ',' || ref_id || ',') > 0)", append(args, ","+strings.Join(slices.Collect(maps.Keys(s.IDs)), ",")+",")
	}
	n, err := w.exec(q, args...)
	w.cache.waiting[p.connector] -= n
	return int(n), err
}

// expectConfirmation notes that the vendor is to say how an accepted request ended, unless it has done so, and forgets what
// is moot.
func (w *writer) expectConfirmation(p *part, st *settlement, route int64) error {
	r := &st.Row
	entity, err := w.word(r.Event.Entity)
	if err != nil {
		return err
	}
	// A row that is there says that the confirmation came first, whatever the outcome is.
	early, err := w.exec("DELETE FROM unconfirmed WHERE part = ? AND off = ? AND route = ?", p.id, r.Offset, route)
	if err != nil {
		return err
	}
	p.unconfirmed -= early
	if st.Moot {
		n, err := w.exec("DELETE FROM unconfirmed WHERE part = ? AND entity = ? AND key = ? AND route = ? AND due > 0", p.id, entity, r.Event.Key, route)
		if err != nil {
			return err
		}
		p.unconfirmed -= n
	}
	if st.Due.IsZero() || early > 0 {
		return nil
	}
	_, err = w.exec("INSERT INTO unconfirmed (part, off, route, connector, entity, key, event_id, vendor_id, since, due) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		p.id, r.Offset, route, p.connector, entity, r.Event.Key, text(r.Event.ID), text(r.VendorID), w.time(r.At), max(st.Due.UnixMilli(), 1))
	p.unconfirmed++
	return err
}

// confirm notes that the vendor has said how a request ended.
func (w *writer) confirm(p *part, off, route int64) error {
	n, err := w.exec("DELETE FROM unconfirmed WHERE part = ? AND off = ? AND route = ? AND due > 0", p.id, off, route)
	if err != nil || n > 0 {
		p.unconfirmed -= n
		return err
	}
	row := make([]driver.Value, 1)
	if found, err := w.c.one("SELECT 1 FROM ledger WHERE part = ? AND off = ? AND route = ?", row, p.id, off, route); err != nil || found {
		return err // nobody waits for it
	}
	n, err = w.exec("INSERT OR IGNORE INTO unconfirmed (part, off, route, connector, entity, key, due) VALUES (?, ?, ?, ?, 0, '', 0)", p.id, off, route, p.connector)
	p.unconfirmed += n
	return err
}

// closeParked resolves an entry that is open or released; a closed one stays as it is.
func (w *writer) closeParked(c *checkpoint.Closed, st *settlement) error {
	p, err := w.known(c.Position.Partition)
	if err != nil {
		return err
	}
	route, err := w.word(c.Position.Route)
	if err != nil {
		return err
	}
	n, err := w.exec("UPDATE parked SET state = ?, since = ?, by = ? WHERE part = ? AND off = ? AND route = ? AND state IN ('open', 'released')",
		string(c.State), w.time(st.Row.At), text(c.By), p.id, c.Position.Offset, route)
	if err != nil || n == 0 {
		return err
	}
	return w.removeWaiter(p, c.Position.Offset, route)
}

func (w *writer) park(p *part, st *settlement, route int64) error {
	e := st.Park
	entity, err := w.word(e.EntityKey.Entity)
	if err != nil {
		return err
	}
	state := e.State
	if state == "" {
		state = checkpoint.ParkedOpen
	}
	since := e.Since
	if since.IsZero() {
		since = e.At
	}
	var supersedes driver.Value
	if len(e.Supersedes) > 0 {
		b, err := json.Marshal(e.Supersedes)
		if err != nil {
			return err
		}
		supersedes = string(b)
	}
	_, err = w.exec("INSERT OR REPLACE INTO parked ("+parkedColumns+") VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		p.id, st.Row.Offset, route, p.connector, entity, e.EntityKey.Key, text(e.Tenant), text(e.EventID), e.Version, text(string(e.Cause)),
		text(e.Reason), text(e.Guidance), int64(e.Attempts), millis(e.At), string(state), millis(since), text(e.By), int64(e.Generation),
		text(e.CopyTopic), int64(e.CopyPartition), e.CopyOffset, supersedes)
	return err
}

const parkedColumns = "part, off, route, connector, entity, key, tenant, event_id, version, cause, reason, guidance, attempts, at, state, since, by, generation, copy_topic, copy_partition, copy_offset, supersedes"

// progress marks a step of a stored plan as done.
func (w *writer) progress(p *part, pr *checkpoint.Progress, state *preparedState) (woken int, err error) {
	route, err := w.word(pr.Route)
	if err != nil {
		return 0, err
	}
	row := make([]driver.Value, 1)
	found, err := w.c.one("SELECT plan FROM plans WHERE part = ? AND off = ? AND route = ?", row, p.id, pr.Offset, route)
	if err != nil {
		return 0, err
	}
	if !found {
		if err := w.unsettled(p, pr.Offset, route, pr.Route); err != nil {
			return 0, err
		}
		return 0, refuse("step %s of record %s/%d, route %s: %w: no plan of it is stored", pr.Step, p.key, pr.Offset, pr.Route, checkpoint.ErrNotFound)
	}
	plan, err := parsePlan(bytesOf(row[0]))
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(plan, func(s checkpoint.Step) bool { return s.Step == pr.Step })
	if i < 0 {
		return 0, refuse("step %s of record %s/%d, route %s: %w in its stored plan", pr.Step, p.key, pr.Offset, pr.Route, checkpoint.ErrNotFound)
	}
	if !plan[i].Done {
		plan[i].Done = true
		if _, err := w.exec("UPDATE plans SET plan = ? WHERE part = ? AND off = ? AND route = ?", string(appendPlan(nil, plan)), p.id, pr.Offset, route); err != nil {
			return 0, err
		}
	}
	if state != nil {
		return w.saveState(p, state)
	}
	return 0, nil
}

// unsettled refuses a record whose outcome is final.
func (w *writer) unsettled(p *part, off, route int64, name string) error {
	if off > p.last {
		return nil
	}
	row := make([]driver.Value, 1)
	found, err := w.c.one("SELECT outcome FROM ledger WHERE part = ? AND off = ? AND route = ?", row, p.id, off, route)
	if err != nil {
		return err
	}
	if found && asInt(row[0]) == parkedCode {
		return nil
	}
	if found {
		was, err := outcomeOf(asInt(row[0]))
		if err != nil {
			return err
		}
		return refuse("record %s/%d, route %s: %w as %s", p.key, off, name, checkpoint.ErrSettled, was)
	}
	if p.skipped(off) {
		return refuse("record %s/%d, route %s: %w: an operator skipped it; only a replay does it again", p.key, off, name, checkpoint.ErrSettled)
	}
	return nil
}

// fences gathers the refused partitions of a call that is done for the others.
type fences []*checkpoint.FencedError

func (f *fences) add(e *checkpoint.FencedError) {
	for _, known := range *f {
		if known.Partition == e.Partition {
			return
		}
	}
	*f = append(*f, e)
}

func (f fences) err() error {
	errs := make([]error, len(f))
	for i, e := range f {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// Raise moves send horizons.
func (s *Store) Raise(ctx context.Context, hs []checkpoint.Horizon) error {
	var fenced fences
	err := s.submit(ctx, "raise send horizon", len(hs), func(w *writer) error {
		fenced = nil
		for i := range hs {
			h := &hs[i]
			p, f, err := w.owned(h.Lease)
			if err != nil {
				return err
			}
			if f != nil {
				fenced.add(f)
				continue
			}
			switch {
			case h.Horizon > p.horizon:
				p.horizon, p.mapping, p.raisedAt = max(h.Horizon, p.mark), h.Mapping, h.At
				w.touch(p)
			case h.Lower && h.Horizon < p.horizon:
				p.horizon = max(h.Horizon, p.mark)
				w.touch(p)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fenced.err()
}

// Begin makes begun sends and plans durable.
func (s *Store) Begin(ctx context.Context, bs []checkpoint.Begin) error {
	events := make([]driver.Value, len(bs))
	for i := range bs {
		var err error
		if events[i], err = eventText(bs[i].Event); err != nil {
			return fmt.Errorf("begin: record %s/%d, route %s: %w", bs[i].Lease.Partition, bs[i].Offset, bs[i].Route, err)
		}
	}
	var fenced fences
	err := s.submit(ctx, "begin", len(bs), func(w *writer) error {
		fenced = nil
		for i := range bs {
			p, f, err := w.owned(bs[i].Lease)
			if err != nil {
				return err
			}
			if f != nil {
				fenced.add(f)
				continue
			}
			if err := w.begin(p, &bs[i], events[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return fenced.err()
}

func (w *writer) begin(p *part, b *checkpoint.Begin, event driver.Value) error {
	route, err := w.word(b.Route)
	if err != nil {
		return err
	}
	if err := w.unsettled(p, b.Offset, route, b.Route); err != nil {
		return err
	}
	if b.Plan != nil {
		n, err := w.exec("INSERT OR IGNORE INTO plans (part, off, route, plan, mapping, at, event) VALUES (?, ?, ?, ?, ?, ?, ?)",
			p.id, b.Offset, route, string(appendPlan(nil, b.Plan)), text(b.Mapping), millis(b.At), event)
		if err != nil {
			return err
		}
		p.open += n
		if b.Step == "" {
			return nil
		}
	}
	batch, err := batchText(b.Batch)
	if err != nil {
		return err
	}
	n, err := w.exec("INSERT OR IGNORE INTO begins (part, off, route, step, operation, key, fingerprint, generation, mapping, at, epoch, event, batch, credential) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		p.id, b.Offset, route, b.Step, text(b.Operation), text(b.Key), text(b.Fingerprint), int64(b.Generation), text(b.Mapping), millis(b.At),
		int64(b.Lease.Epoch), event, batch, text(b.Credential))
	if n == 0 && err == nil {
		// There: our own earlier write, which stays as it is, or a batch that was answered without an effect, or a request
		// whose credential was refused.
		_, err = w.exec("UPDATE begins SET operation = ?, key = ?, fingerprint = ?, generation = ?, mapping = ?, at = ?, epoch = ?, batch = ?, credential = ? WHERE part = ? AND off = ? AND route = ? AND step = ? AND (batch IS NOT NULL AND batch IS NOT ? OR credential IS NOT ?)",
			text(b.Operation), text(b.Key), text(b.Fingerprint), int64(b.Generation), text(b.Mapping), millis(b.At), int64(b.Lease.Epoch), batch, text(b.Credential),
			p.id, b.Offset, route, b.Step, batch, text(b.Credential))
	}
	p.open += n
	return err
}

// batchText is how begins keep a batch; nil is NULL.
func batchText(b *checkpoint.BatchSend) (driver.Value, error) {
	if b == nil {
		return nil, nil
	}
	out, err := json.Marshal(b)
	return string(out), err
}

// Evidence keeps facts about attempts.
func (s *Store) Evidence(ctx context.Context, es []checkpoint.Evidence) error {
	texts := make([]string, len(es))
	for i := range es {
		texts[i] = string(appendAttempt(nil, &es[i].Attempt))
	}
	return s.submit(ctx, "keep evidence", len(es), func(w *writer) error {
		for i := range es {
			e := &es[i]
			p, err := w.known(e.Position.Partition)
			if err != nil {
				return err
			}
			route, err := w.word(e.Position.Route)
			if err != nil {
				return err
			}
			if _, err := w.exec("INSERT OR IGNORE INTO attempts (part, off, route, n, at, attempt) VALUES (?, ?, ?, ?, ?, ?)",
				p.id, e.Position.Offset, route, int64(e.Attempt.N), atOrZero(e.Attempt.At), texts[i]); err != nil {
				return err
			}
			if e.Confirms {
				if err := w.confirm(p, e.Position.Offset, route); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func atOrZero(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// Acquire takes the ownership of a partition.
func (s *Store) Acquire(ctx context.Context, p checkpoint.Partition, owner string) (checkpoint.Recovery, error) {
	var rec checkpoint.Recovery
	err := s.submit(ctx, fmt.Sprintf("acquire partition %s of connector %s", p, p.Connector), 1, func(w *writer) (err error) {
		rec, err = w.acquire(p, owner)
		return err
	})
	if err != nil {
		return checkpoint.Recovery{}, err
	}
	// Read after the commit: the new epoch keeps earlier owners from changing it.
	err = s.snapshot(ctx, fmt.Sprintf("recover partition %s of connector %s", p, p.Connector), func(c *conn) error {
		part, err := s.names.partID(c, p)
		if err != nil {
			return err
		}
		if rec.Open, err = s.openRecords(c, part); err != nil {
			return err
		}
		rec.Released, err = s.parked(c, "WHERE k.part = ? AND k.state = 'released' ORDER BY k.off, k.route", part)
		return err
	})
	if err != nil {
		return checkpoint.Recovery{}, err
	}
	return rec, nil
}

func (w *writer) acquire(key checkpoint.Partition, owner string) (checkpoint.Recovery, error) {
	connector, err := w.word(key.Connector)
	if err != nil {
		return checkpoint.Recovery{}, err
	}
	var rec checkpoint.Recovery
	p := w.cache.parts[key]
	if p == nil {
		p = &part{connector: connector, key: key, mark: -1, horizon: -1, last: -1, fresh: true}
		for k, other := range w.cache.parts {
			if k.Connector == key.Connector && k.Topic == key.Topic && other.mark >= 0 {
				p.fresh = false
			}
		}
		row := make([]driver.Value, 1)
		if _, err := w.c.one("INSERT INTO partitions (connector, topic, topic_id, idx, epoch, mark, horizon, lost_below, last, fresh) VALUES (?, ?, ?, ?, 0, -1, -1, 0, -1, ?) RETURNING id",
			row, connector, key.Topic, key.ID[:], int64(key.Index), flag(p.fresh)); err != nil {
			return rec, err
		}
		p.id = asInt(row[0])
		w.cache.parts[key] = p
	}
	p.epoch++
	p.owner, p.ownedAt = owner, w.now()
	w.touch(p)

	rec.Lease = checkpoint.Lease{Partition: key, Epoch: p.epoch}
	rec.Cursor = p.cursor()
	rec.Fresh = p.fresh && p.mark < 0
	rec.Last = p.last
	var newest int64
	for k, other := range w.cache.parts {
		if k.Connector == key.Connector && k.Topic == key.Topic && k.Index == key.Index && k.ID != key.ID && other.id > newest {
			newest, rec.OtherID = other.id, k.ID
		}
	}
	return rec, nil
}

// Release gives up the ownership of a partition.
func (s *Store) Release(ctx context.Context, l checkpoint.Lease) error {
	return s.submit(ctx, fmt.Sprintf("release partition %s of connector %s", l.Partition, l.Partition.Connector), 1, func(w *writer) error {
		p, _, err := w.owned(l)
		if err != nil || p == nil {
			return err
		}
		p.owner = ""
		w.touch(p)
		return nil
	})
}

// Rewind sets mark, horizon and LostBelow of a partition.
func (s *Store) Rewind(ctx context.Context, l checkpoint.Lease, c checkpoint.Cursor, a checkpoint.Audit) error {
	return s.submit(ctx, fmt.Sprintf("rewind partition %s of connector %s", l.Partition, l.Partition.Connector), 2, func(w *writer) error {
		p, fenced, err := w.owned(l)
		if err != nil {
			return err
		}
		if fenced != nil {
			return refusal{fenced}
		}
		p.mark, p.horizon, p.lostBelow = c.Mark, max(c.Mark, c.Horizon), c.LostBelow
		w.touch(p)
		return insertAudit(w.exec, a, w.now())
	})
}

// Skip records a jump.
func (s *Store) Skip(ctx context.Context, sk checkpoint.Skip) error {
	doing := fmt.Sprintf("skip offsets %d to %d of partition %s of connector %s", sk.From, sk.To, sk.Lease.Partition, sk.Lease.Partition.Connector)
	if sk.From < 0 || sk.To <= sk.From {
		return fmt.Errorf("%s: the range is empty", doing)
	}
	return s.submit(ctx, doing, 2, func(w *writer) error {
		p, fenced, err := w.owned(sk.Lease)
		if err != nil {
			return err
		}
		if fenced != nil {
			return refusal{fenced}
		}
		return w.skip(p, sk)
	})
}

func (w *writer) skip(p *part, sk checkpoint.Skip) error {
	at := sk.At
	if at.IsZero() {
		at = w.now()
	}
	sk.At = time.UnixMilli(at.UnixMilli()).UTC()
	n, err := w.exec("INSERT OR IGNORE INTO skips (part, from_off, to_off, epoch, reason, by, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
		p.id, sk.From, sk.To, int64(sk.Lease.Epoch), text(sk.Reason), text(sk.By), millis(sk.At))
	if err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	route, err := w.word(skipRoute)
	if err != nil {
		return err
	}
	code, err := outcomeCode(checkpoint.Skipped)
	if err != nil {
		return err
	}
	w.counts[countKey{p.connector, route, code}]++
	// p is shared with nobody: reads go to the database.
	p.skips = append(p.skips, sk)
	slices.SortFunc(p.skips, func(a, b checkpoint.Skip) int { return int(min(1, max(-1, a.From-b.From))) })
	p.mark = max(p.mark, sk.To)
	p.horizon = max(p.horizon, p.mark)
	p.last = max(p.last, sk.To-1)
	w.touch(p)

	open, err := w.removeSkipped(p, sk)
	if err != nil {
		return err
	}
	detail := ""
	if len(open) > 0 {
		detail = "without an outcome, begun or waiting: " + strings.Join(open, ", ")
	}
	return insertAudit(w.exec, checkpoint.Audit{At: sk.At, Actor: sk.By, Action: "skip", Connector: p.key.Connector,
		Target: fmt.Sprintf("%s/%d-%d", p.key, sk.From, sk.To-1), Reason: sk.Reason, Detail: detail}, w.now())
}

// removeSkipped removes what records of a skip had open, except those that have a row of their own (parked ones),
// and describes it for the audit log: a begun send may have had its effect.
func (w *writer) removeSkipped(p *part, sk checkpoint.Skip) ([]string, error) {
	const shownMax = 100
	type open struct{ off, route int64 }
	var all []open
	for _, table := range [...]string{"begins", "plans", "waiters"} {
		err := w.c.query("SELECT DISTINCT off, route FROM "+table+" t WHERE part = ? AND off >= ? AND off < ? AND NOT EXISTS (SELECT 1 FROM ledger l WHERE l.part = t.part AND l.off = t.off AND l.route = t.route)",
			func(row []driver.Value) error {
				all = append(all, open{asInt(row[0]), asInt(row[1])})
				return nil
			}, p.id, sk.From, sk.To)
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, func(a, b open) int {
		if a.off != b.off {
			return int(min(1, max(-1, a.off-b.off)))
		}
		return int(a.route - b.route)
	})
	all = slices.Compact(all)
	var shown []string
	for _, o := range all {
		if len(shown) < shownMax {
			var keys []string
			if err := w.c.query("SELECT key FROM begins WHERE part = ? AND off = ? AND route = ? AND key IS NOT NULL ORDER BY at", func(row []driver.Value) error {
				keys = append(keys, asText(row[0]))
				return nil
			}, p.id, o.off, o.route); err != nil {
				return nil, err
			}
			row := make([]driver.Value, 1)
			if _, err := w.c.one("SELECT text FROM words WHERE id = ?", row, o.route); err != nil {
				return nil, err
			}
			shown = append(shown, strings.TrimSpace(fmt.Sprintf("%d %s %s", o.off, asText(row[0]), strings.Join(keys, " "))))
		}
		if err := w.removeOpen(p, o.off, o.route); err != nil {
			return nil, err
		}
		if err := w.removeWaiter(p, o.off, o.route); err != nil {
			return nil, err
		}
	}
	if more := len(all) - len(shown); more > 0 {
		shown = append(shown, fmt.Sprintf("and %d more", more))
	}
	return shown, nil
}

// skipRoute is the route of rows that stand for a skip.
const skipRoute = "*"

// Await registers waiters.
func (s *Store) Await(ctx context.Context, ws []checkpoint.Waiter) ([]bool, error) {
	var present []bool
	err := s.submit(ctx, "await references", len(ws), func(w *writer) error {
		present = make([]bool, len(ws))
		for i := range ws {
			var err error
			if present[i], err = w.await(&ws[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return present, nil
}

func (w *writer) await(a *checkpoint.Waiter) (present bool, err error) {
	p, err := w.known(a.Position.Partition)
	if err != nil {
		return false, err
	}
	route, err := w.word(a.Position.Route)
	if err != nil {
		return false, err
	}
	refEntity, err := w.word(a.RefEntity)
	if err != nil {
		return false, err
	}
	entity, err := w.word(a.EntityKey.Entity)
	if err != nil {
		return false, err
	}
	if err := w.unsettled(p, a.Position.Offset, route, a.Position.Route); err != nil {
		return false, err
	}
	// The one writer makes this look and the registration one: no settle can come between.
	st := w.states.find(stateKey{p.key.Connector, a.RefEntity, a.RefKey})
	if st == nil {
		if st, err = tableState(w.c, p.connector, refEntity, a.RefKey); err != nil {
			return false, err
		}
	}
	present = st != nil && st.present && st.tenant == a.Tenant
	if present && a.RefID != "" {
		s, err := parseState([]byte(st.text), a.RefEntity, a.RefKey)
		if err != nil {
			return false, err
		}
		present = s.Deleted || s.IDs[a.RefID] != ""
	}
	if err := w.removeWaiter(p, a.Position.Offset, route); err != nil {
		return false, err
	}
	if _, err := w.exec("INSERT INTO waiters (part, off, route, connector, tenant, ref_entity, ref_key, entity, key, since, parked, woken, ref_id) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
		p.id, a.Position.Offset, route, p.connector, a.Tenant, refEntity, a.RefKey, entity, a.EntityKey.Key, millis(a.Since), flag(a.Parked), flag(present), text(a.RefID)); err != nil {
		return false, err
	}
	p.waiters++
	if !present {
		w.cache.waiting[p.connector]++
	}
	return present, nil
}

// Forget removes waiters.
func (s *Store) Forget(ctx context.Context, ps []checkpoint.Position) error {
	return s.submit(ctx, "forget waiters", len(ps), func(w *writer) error {
		for i := range ps {
			p := w.cache.parts[ps[i].Partition]
			route, ok := w.cache.words[ps[i].Route]
			if p == nil || !ok {
				continue // it cannot have a waiter
			}
			if err := w.removeWaiter(p, ps[i].Offset, route); err != nil {
				return err
			}
		}
		return nil
	})
}

// SaveMapping keeps the text behind a mapping version.
func (s *Store) SaveMapping(ctx context.Context, version string, content []byte) error {
	if version == "" {
		return errors.New("save mapping: the version is empty")
	}
	if content == nil {
		content = []byte{}
	}
	return s.submit(ctx, "save mapping "+version, 1, func(w *writer) error {
		n, err := w.exec("INSERT OR IGNORE INTO mappings (version, text) VALUES (?, ?)", version, content)
		if err != nil || n > 0 {
			return err
		}
		row := make([]driver.Value, 1)
		if _, err := w.c.one("SELECT text FROM mappings WHERE version = ?", row, version); err != nil {
			return err
		}
		if string(bytesOf(row[0])) != string(content) {
			return refuse("save mapping %s: the store holds another text of that version; a version is the hash of its text, so one of them is damaged", version)
		}
		return nil
	})
}

// SaveStatus keeps the last status of an instance.
func (s *Store) SaveStatus(ctx context.Context, st checkpoint.Status) error {
	return s.submit(ctx, "save status", 1, func(w *writer) error {
		_, err := w.exec("INSERT OR REPLACE INTO status (connector, instance, at, json) VALUES (?, ?, ?, ?)", st.Connector, st.Instance, millis(st.At), st.JSON)
		return err
	})
}

// noncesForgottenMax bounds what one SaveNonces removes: far more than it adds, so that what has piled up shrinks.
const noncesForgottenMax = 1000

// SaveNonces keeps ids of webhook events.
func (s *Store) SaveNonces(ctx context.Context, ns []checkpoint.Nonce) error {
	return s.submit(ctx, "save webhook events", len(ns), func(w *writer) error {
		for i := range ns {
			if _, err := w.exec("INSERT INTO nonces (connector, id, until) VALUES (?, ?, ?) ON CONFLICT (connector, id) DO UPDATE SET until = max(until, excluded.until)",
				ns[i].Connector, ns[i].ID, ns[i].Until.UnixMilli()); err != nil {
				return err
			}
		}
		if _, err := w.exec("DELETE FROM nonces WHERE seq IN (SELECT seq FROM nonces WHERE until < ? ORDER BY until LIMIT ?)", w.now().UnixMilli(), int64(noncesForgottenMax)); err != nil {
			return err
		}
		_, err := w.exec("DELETE FROM nonces WHERE seq <= (SELECT max(seq) FROM nonces) - ?", s.opts.NoncesMax)
		return err
	})
}

// HasNonce reports whether an id is kept.
func (s *Store) HasNonce(ctx context.Context, connector, id string) (found bool, err error) {
	err = s.read(ctx, "look up a webhook event", func(c *conn) (err error) {
		found, err = c.one("SELECT 1 FROM nonces WHERE connector = ? AND id = ? AND until >= ?", make([]driver.Value, 1), connector, id, s.opts.Now().UnixMilli())
		return err
	})
	return found, err
}

// ReleaseParked marks open entries as released.
func (s *Store) ReleaseParked(ctx context.Context, ps []checkpoint.Position, generation uint32, a checkpoint.Audit) error {
	const doing = "release parked records"
	release := func(exec func(string, ...driver.Value) (int64, error), one func(string, []driver.Value, ...driver.Value) (bool, error)) error {
		for i := range ps {
			p := &ps[i]
			row := make([]driver.Value, 4)
			found, err := one("SELECT k.part, k.off, k.route, k.state FROM parked k JOIN partitions p ON p.id = k.part WHERE p.connector = (SELECT id FROM words WHERE text = ?) AND p.topic = ? AND p.idx = ? AND p.topic_id = ? AND k.off = ? AND k.route = (SELECT id FROM words WHERE text = ?)",
				row, p.Partition.Connector, p.Partition.Topic, int64(p.Partition.Index), p.Partition.ID[:], p.Offset, p.Route)
			if err != nil {
				return err
			}
			if !found {
				return refuse("%s: %s, route %s: %w among the parked records of connector %s", doing, p.Origin(), p.Route, checkpoint.ErrNotFound, p.Partition.Connector)
			}
			if checkpoint.ParkedState(asText(row[3])) == checkpoint.ParkedOpen {
				if _, err := exec("UPDATE parked SET state = 'released', since = ?, by = ?, generation = ? WHERE part = ? AND off = ? AND route = ?",
					s.opts.Now().UnixMilli(), text(a.Actor), int64(generation), row[0], row[1], row[2]); err != nil {
					return err
				}
			}
		}
		return insertAudit(exec, a, s.opts.Now())
	}
	if s.opts.Role == Reader {
		return s.asCommand(doing, func(c *conn) error { return release(c.exec, c.one) })
	}
	return s.submit(ctx, doing, len(ps)+1, func(w *writer) error { return release(w.exec, w.c.one) })
}

// Audit appends to the audit log.
func (s *Store) Audit(ctx context.Context, a checkpoint.Audit) error {
	if s.opts.Role == Reader {
		return s.asCommand("write audit log", func(c *conn) error { return insertAudit(c.exec, a, s.opts.Now()) })
	}
	return s.submit(ctx, "write audit log", 1, func(w *writer) error { return insertAudit(w.exec, a, w.now()) })
}

func insertAudit(exec func(string, ...driver.Value) (int64, error), a checkpoint.Audit, now time.Time) error {
	at := a.At
	if at.IsZero() {
		at = now
	}
	_, err := exec("INSERT INTO audit (at, actor, action, connector, target, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?)",
		at.UnixMilli(), text(a.Actor), text(a.Action), text(a.Connector), text(a.Target), text(a.Reason), text(a.Detail))
	return err
}

// asCommand runs a reader's write in a transaction of its own, waiting for the runner's at most the busy timeout.
func (s *Store) asCommand(doing string, f func(c *conn) error) (err error) {
	s.commandMu.Lock()
	defer s.commandMu.Unlock()
	if s.command == nil {
		if s.command, err = dial(context.Background(), s.dsn("rw", false)); err != nil {
			s.command = nil
			return s.explain(doing, err)
		}
	}
	c := s.command
	if _, err := c.exec("BEGIN IMMEDIATE"); err != nil {
		return s.explain(doing, err)
	}
	if err := f(c); err != nil {
		_, rerr := c.exec("ROLLBACK")
		if re, ok := errors.AsType[refusal](err); ok {
			return errors.Join(re.error, s.explain(doing, rerr))
		}
		return s.explain(doing, err)
	}
	if _, err := c.exec("COMMIT"); err != nil {
		_, _ = c.exec("ROLLBACK")
		return s.explain(doing, err)
	}
	return nil
}
