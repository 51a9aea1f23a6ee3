package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

// limitDefault is the limit of listings that are called with 0.
const limitDefault = 1000

// pool lends read connections. Each is dialled when first needed.
type pool struct {
	dsn   string
	slots chan *conn // size readersMax: nil stands for one not dialled yet
}

func newPool(dsn string) *pool {
	p := &pool{dsn: dsn, slots: make(chan *conn, readersMax)}
	for range readersMax {
		p.slots <- nil
	}
	return p
}

// close waits for the reads that are running.
func (p *pool) close() error {
	var errs []error
	for range readersMax {
		if c := <-p.slots; c != nil {
			errs = append(errs, c.Close())
		}
	}
	close(p.slots)
	return errors.Join(errs...)
}

// do lends a connection to f.
func (p *pool) do(ctx context.Context, f func(c *conn) error) error {
	select {
	case c, ok := <-p.slots:
		if !ok {
			return errClosed
		}
		defer func() { p.slots <- c }()
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if c == nil {
			d, err := dial(ctx, p.dsn)
			if err != nil {
				return err
			}
			c = d
		}
		return f(c)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// read lends a connection for one statement, or several that need no common snapshot.
func (s *Store) read(ctx context.Context, doing string, f func(c *conn) error) error {
	return s.explain(doing, s.reads.do(ctx, f))
}

// snapshot lends a connection on which all statements see the same commit.
func (s *Store) snapshot(ctx context.Context, doing string, f func(c *conn) error) error {
	return s.read(ctx, doing, func(c *conn) (err error) {
		if _, err := c.exec("BEGIN"); err != nil {
			return err
		}
		defer func() {
			_, e := c.exec("COMMIT")
			err = errors.Join(err, e)
		}()
		return f(c)
	})
}

// names keeps words and partitions, which never change once committed.
type names struct {
	mu      sync.RWMutex
	words   map[int64]string
	ids     map[string]int64
	parts   map[int64]checkpoint.Partition
	partIDs map[checkpoint.Partition]int64
}

func (n *names) refresh(c *conn) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.words == nil {
		n.words, n.ids = make(map[int64]string), make(map[string]int64)
		n.parts, n.partIDs = make(map[int64]checkpoint.Partition), make(map[checkpoint.Partition]int64)
	}
	// Numbers grow and words are never removed, so a count says which are new.
	if err := c.query("SELECT id, text FROM words WHERE id > ?", func(row []driver.Value) error {
		n.words[asInt(row[0])], n.ids[asText(row[1])] = asText(row[1]), asInt(row[0])
		return nil
	}, int64(len(n.words))); err != nil {
		return err
	}
	return c.query("SELECT p.id, w.text, p.topic, p.topic_id, p.idx FROM partitions p JOIN words w ON w.id = p.connector WHERE p.id > ?", func(row []driver.Value) error {
		p := checkpoint.Partition{Connector: asText(row[1]), Topic: asText(row[2]), Index: int32(asInt(row[4]))}
		copy(p.ID[:], bytesOf(row[3]))
		n.parts[asInt(row[0])], n.partIDs[p] = p, asInt(row[0])
		return nil
	}, int64(len(n.parts)))
}

// id is the number of a word, 0 if no row can have it.
func (n *names) id(c *conn, word string) (int64, error) {
	return lookUp(n, c, &n.ids, word)
}

// partID is the number of a partition, 0 if it was never acquired.
func (n *names) partID(c *conn, p checkpoint.Partition) (int64, error) {
	return lookUp(n, c, &n.partIDs, p)
}

func lookUp[K comparable, V any](n *names, c *conn, m *map[K]V, k K) (V, error) {
	n.mu.RLock()
	v, ok := (*m)[k]
	n.mu.RUnlock()
	if ok {
		return v, nil
	}
	if err := n.refresh(c); err != nil {
		return v, err
	}
	n.mu.RLock()
	defer n.mu.RUnlock()
	return (*m)[k], nil
}

// word is the text of a number that a row holds, "" for NULL.
func (n *names) word(c *conn, v driver.Value) (string, error) {
	if v == nil {
		return "", nil
	}
	id := asInt(v)
	w, err := lookUp(n, c, &n.words, id)
	if err == nil && w == "" && id != 0 {
		// The empty text may be a word too (an empty route or entity): it is known then.
		n.mu.RLock()
		_, ok := n.words[id]
		n.mu.RUnlock()
		if !ok {
			err = fmt.Errorf("%w: word %d is missing", checkpoint.ErrCorrupt, id)
		}
	}
	return w, err
}

func (n *names) part(c *conn, id int64) (checkpoint.Partition, error) {
	p, err := lookUp(n, c, &n.parts, id)
	if err == nil && p.Topic == "" && p.Connector == "" {
		err = fmt.Errorf("%w: partition %d is missing", checkpoint.ErrCorrupt, id)
	}
	return p, err
}

// rowOf makes a ledger row of its columns, without evidence, and answers its past ids.
func (s *Store) rowOf(c *conn, v []driver.Value) (r checkpoint.Row, past []string, err error) {
	if r.Partition, err = s.names.part(c, asInt(v[0])); err != nil {
		return r, nil, err
	}
	r.Offset = asInt(v[1])
	if r.Route, err = s.names.word(c, v[2]); err != nil {
		return r, nil, err
	}
	if r.Outcome, err = outcomeOf(asInt(v[3])); err != nil {
		return r, nil, err
	}
	if past, err = parseRow(bytesOf(v[4]), &r); err != nil {
		err = fmt.Errorf("%s/%d, route %s: %w", r.Partition, r.Offset, r.Route, err)
	}
	return r, past, err
}

// A recordKey names a record and route within the database.
type recordKey struct{ part, off, route int64 }

// evidence reads the attempts that came apart from outcomes, of records in [from, to).
func (s *Store) evidence(c *conn, part, from, to int64) (map[recordKey][]checkpoint.Attempt, error) {
	m := make(map[recordKey][]checkpoint.Attempt)
	err := c.query("SELECT off, route, attempt FROM attempts WHERE part = ? AND off >= ? AND off < ?", func(row []driver.Value) error {
		a, err := parseAttempt(bytesOf(row[2]))
		k := recordKey{part, asInt(row[0]), asInt(row[1])}
		m[k] = append(m[k], a)
		return err
	}, part, from, to)
	return m, err
}

const selectLedger = "SELECT part, off, route, outcome, substr(texts, start, size) FROM ledger JOIN chunks ON id = chunk WHERE part = ? AND off >= ? AND off < ? ORDER BY off, route"

// A keptRow is a row with what only the database knows of it.
type keptRow struct {
	checkpoint.Row
	key  recordKey
	past []string
}

// ledgerRows reads the rows of [from, to) with their evidence, ordered by offset.
func (s *Store) ledgerRows(c *conn, part, from, to int64) ([]keptRow, error) {
	evidence, err := s.evidence(c, part, from, to)
	if err != nil {
		return nil, err
	}
	var rows []keptRow
	err = c.query(selectLedger, func(v []driver.Value) error {
		r, past, err := s.rowOf(c, v)
		if err != nil {
			return err
		}
		st := keptRow{Row: r, key: recordKey{part, r.Offset, asInt(v[2])}, past: past}
		if more := evidence[st.key]; len(more) > 0 {
			st.Attempts = mergeAttempts(st.Attempts, more)
		}
		rows = append(rows, st)
		return nil
	}, part, from, to)
	return rows, err
}

func plain(rows []keptRow) []checkpoint.Row {
	if len(rows) == 0 {
		return nil
	}
	plain := make([]checkpoint.Row, len(rows))
	for i := range rows {
		plain[i] = rows[i].Row
	}
	return plain
}

func byOffset(a, b checkpoint.Row) int {
	return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
}

// Rows lists ledger rows by offset and route.
func (s *Store) Rows(ctx context.Context, p checkpoint.Partition, from, to int64) ([]checkpoint.Row, error) {
	var rows []checkpoint.Row
	err := s.snapshot(ctx, fmt.Sprintf("read rows %d to %d of partition %s of connector %s", from, to, p, p.Connector), func(c *conn) error {
		part, err := s.names.partID(c, p)
		if err != nil || part == 0 {
			return err
		}
		stored, err := s.ledgerRows(c, part, from, to)
		if err != nil {
			return err
		}
		rows = plain(stored)
		skips, err := s.skipRows(c, part, p, from, to)
		if err != nil {
			return err
		}
		rows = append(rows, skips...)
		slices.SortStableFunc(rows, byOffset)
		return nil
	})
	return rows, err
}

// skipRows stands one row for each skip that reaches into [from, to).
func (s *Store) skipRows(c *conn, part int64, p checkpoint.Partition, from, to int64) ([]checkpoint.Row, error) {
	var rows []checkpoint.Row
	err := c.query("SELECT from_off, to_off, epoch, reason, by, at FROM skips WHERE part = ? AND from_off < ? AND to_off > ? ORDER BY from_off, to_off", func(v []driver.Value) error {
		sk := skipOf(p, v)
		reason := fmt.Sprintf("offsets %d to %d were skipped", sk.From, sk.To-1)
		if sk.By != "" {
			reason += " by " + sk.By
		}
		if sk.Reason != "" {
			reason += ": " + sk.Reason
		}
		rows = append(rows, checkpoint.Row{Partition: p, Offset: max(sk.From, from), Route: skipRoute, Outcome: checkpoint.Skipped, Reason: reason, At: sk.At})
		return nil
	}, part, to, from)
	return rows, err
}

// Skips lists the jumps of a partition.
func (s *Store) Skips(ctx context.Context, p checkpoint.Partition) ([]checkpoint.Skip, error) {
	var skips []checkpoint.Skip
	err := s.read(ctx, fmt.Sprintf("read skips of partition %s of connector %s", p, p.Connector), func(c *conn) error {
		part, err := s.names.partID(c, p)
		if err != nil || part == 0 {
			return err
		}
		return c.query("SELECT from_off, to_off, epoch, reason, by, at FROM skips WHERE part = ? ORDER BY from_off, to_off", func(v []driver.Value) error {
			skips = append(skips, skipOf(p, v))
			return nil
		}, part)
	})
	return skips, err
}

// States returns the states of those of the keys that have one.
func (s *Store) States(ctx context.Context, connector string, keys []checkpoint.EntityKey) (map[checkpoint.EntityKey]*checkpoint.State, error) {
	states := make(map[checkpoint.EntityKey]*checkpoint.State, len(keys))
	err := s.snapshot(ctx, "read states of connector "+connector, func(c *conn) error {
		find, err := s.stateFinder(c)
		if err != nil {
			return err
		}
		for _, k := range keys {
			st, err := find(stateKey{connector, k.Entity, k.Key})
			if err != nil {
				return err
			}
			if st == nil {
				continue
			}
			if states[k], err = parseState([]byte(st.text), k.Entity, k.Key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return states, nil
}

// places lists the records that an id's hash leads to, the newest runs first; f returns false to stop.
func (s *Store) places(c *conn, hash uint64, f func(part, off int64) (more bool, err error)) error {
	var runs []run
	if err := c.query("SELECT day, run, buckets FROM lookup_runs ORDER BY day DESC, run DESC", func(row []driver.Value) error {
		runs = append(runs, run{day: asInt(row[0]), id: asInt(row[1]), buckets: asInt(row[2])})
		return nil
	}); err != nil {
		return err
	}
	row := make([]driver.Value, 1)
	for _, r := range runs {
		found, err := c.one("SELECT entries FROM "+lookupTable(r.day)+" WHERE bucket = ?", row, r.key(hash))
		if err != nil {
			return err
		}
		if !found {
			continue
		}
		var es []entry
		if err := findEntries(bytesOf(row[0]), hash, func(e entry) { es = append(es, e) }); err != nil {
			return fmt.Errorf("%w: %w", checkpoint.ErrCorrupt, err)
		}
		for _, e := range slices.Backward(es) {
			more, err := f(int64(e.part), e.off)
			if err != nil || !more {
				return err
			}
		}
	}
	return nil
}

// Seen reports whether an event id has a ledger row in the connector at another record.
func (s *Store) Seen(ctx context.Context, connector, eventID string, not checkpoint.Position) (bool, error) {
	if eventID == "" {
		return false, nil
	}
	seen := false
	err := s.snapshot(ctx, "look for an earlier record of event "+eventID, func(c *conn) error {
		notPart, err := s.names.partID(c, not.Partition)
		if err != nil {
			return err
		}
		return s.places(c, hashID(eventID), func(part, off int64) (bool, error) {
			if part == notPart && off == not.Offset {
				return true, nil
			}
			p, err := s.names.part(c, part)
			if err != nil || p.Connector != connector {
				return true, err
			}
			row := make([]driver.Value, 1)
			seen, err = c.one("SELECT 1 FROM ledger JOIN chunks ON id = chunk WHERE part = ? AND off = ? AND CAST(substr(texts, start, size) AS TEXT) ->> 'event_id' = ? LIMIT 1", row, part, off, eventID)
			return !seen, err
		})
	})
	return seen, err
}

// Woken lists woken waiters of a connector, oldest first.
func (s *Store) Woken(ctx context.Context, connector string, limit int) ([]checkpoint.Waiter, error) {
	if limit <= 0 {
		limit = limitDefault
	}
	var ws []checkpoint.Waiter
	err := s.read(ctx, "read woken waiters of connector "+connector, func(c *conn) error {
		id, err := s.names.id(c, connector)
		if err != nil || id == 0 {
			return err
		}
		return c.query("SELECT part, off, route, tenant, ref_entity, ref_key, entity, key, since, parked, woken, ref_id FROM waiters WHERE connector = ? AND woken = 1 ORDER BY since, part, off, route LIMIT ?", func(v []driver.Value) error {
			wt := checkpoint.Waiter{Tenant: asText(v[3]), RefKey: asText(v[5]), Since: asTime(v[8]), Parked: asInt(v[9]) == 1, Woken: asInt(v[10]) == 1, RefID: asText(v[11])}
			wt.Position.Offset, wt.EntityKey.Key = asInt(v[1]), asText(v[7])
			var err error
			if wt.Position.Partition, err = s.names.part(c, asInt(v[0])); err != nil {
				return err
			}
			for _, n := range [...]struct {
				v    driver.Value
				dest *string
			}{{v[2], &wt.Position.Route}, {v[4], &wt.RefEntity}, {v[6], &wt.EntityKey.Entity}} {
				if *n.dest, err = s.names.word(c, n.v); err != nil {
					return err
				}
			}
			ws = append(ws, wt)
			return nil
		}, id, int64(limit))
	})
	return ws, err
}

// Unconfirmed tells of accepted records that wait for the vendor's word.
func (s *Store) Unconfirmed(ctx context.Context, connector string, at time.Time, limit int) (checkpoint.Confirmations, error) {
	var out checkpoint.Confirmations
	err := s.snapshot(ctx, "read unconfirmed records of connector "+connector, func(c *conn) error {
		id, err := s.names.id(c, connector)
		if err != nil || id == 0 {
			return err
		}
		row := make([]driver.Value, 2)
		if _, err := c.one("SELECT count(*), count(CASE WHEN due <= ? THEN 1 END) FROM unconfirmed WHERE connector = ? AND due > 0", row, at.UnixMilli(), id); err != nil {
			return err
		}
		out = checkpoint.Confirmations{Waiting: int(asInt(row[0])), Overdue: int(asInt(row[1]))}
		return c.query("SELECT part, off, route, entity, key, event_id, vendor_id, since, due FROM unconfirmed WHERE connector = ? AND due > 0 ORDER BY due, part, off, route LIMIT ?", func(v []driver.Value) error {
			u := checkpoint.Unconfirmed{EventID: asText(v[5]), VendorID: asText(v[6]), Since: asTime(v[7]), Due: asTime(v[8])}
			u.Position.Offset, u.EntityKey.Key = asInt(v[1]), asText(v[4])
			var err error
			if u.Position.Partition, err = s.names.part(c, asInt(v[0])); err != nil {
				return err
			}
			if u.Position.Route, err = s.names.word(c, v[2]); err != nil {
				return err
			}
			if u.EntityKey.Entity, err = s.names.word(c, v[3]); err != nil {
				return err
			}
			out.First = append(out.First, u)
			return nil
		}, id, int64(limit))
	})
	return out, err
}

// Parked lists entries of the parked index.
func (s *Store) Parked(ctx context.Context, q checkpoint.ParkedQuery) ([]checkpoint.Parked, error) {
	var ps []checkpoint.Parked
	err := s.read(ctx, "read parked records", func(c *conn) error {
		var where []string
		var args []driver.Value
		and := func(cond string, v driver.Value) {
			where = append(where, cond)
			args = append(args, v)
		}
		for _, w := range [...]struct{ column, word string }{{"k.connector", q.Connector}, {"k.entity", q.Entity}} {
			if w.word == "" {
				continue
			}
			id, err := s.names.id(c, w.word)
			if err != nil {
				return err
			}
			and(w.column+" = ?", id)
		}
		if q.Key != "" {
			and("k.key = ?", q.Key)
		}
		if q.EventID != "" {
			and("k.event_id = ?", q.EventID)
		}
		if q.Cause != "" {
			and("k.cause = ?", string(q.Cause))
		}
		// At most as many placeholders as there are states, so that prepared texts are few.
		if states := slices.Compact(slices.Sorted(slices.Values(q.States))); len(states) > 0 {
			where = append(where, "k.state IN (?"+strings.Repeat(", ?", len(states)-1)+")")
			for _, st := range states {
				args = append(args, string(st))
			}
		}
		text := ""
		if len(where) > 0 {
			text = "WHERE " + strings.Join(where, " AND ") + " "
		}
		limit := q.Limit
		if limit <= 0 {
			limit = limitDefault
		}
		var err error
		ps, err = s.parked(c, text+"ORDER BY k.part, (SELECT text FROM words WHERE id = k.entity), k.key, k.off, k.route LIMIT ?", append(args, int64(limit))...)
		return err
	})
	return ps, err
}

// parked reads entries; where also orders them.
func (s *Store) parked(c *conn, where string, args ...driver.Value) ([]checkpoint.Parked, error) {
	var ps []checkpoint.Parked
	err := c.query("SELECT "+parkedColumns+" FROM parked k "+where, func(v []driver.Value) error {
		p := checkpoint.Parked{Tenant: asText(v[6]), EventID: asText(v[7]), Version: asInt(v[8]), Cause: checkpoint.Cause(asText(v[9])),
			Reason: asText(v[10]), Guidance: asText(v[11]), Attempts: int(asInt(v[12])), At: asTime(v[13]),
			State: checkpoint.ParkedState(asText(v[14])), Since: asTime(v[15]), By: asText(v[16]), Generation: uint32(asInt(v[17])),
			CopyTopic: asText(v[18]), CopyPartition: int32(asInt(v[19])), CopyOffset: asInt(v[20])}
		p.Position.Offset, p.EntityKey.Key = asInt(v[1]), asText(v[5])
		var err error
		if p.Position.Partition, err = s.names.part(c, asInt(v[0])); err != nil {
			return err
		}
		if p.Position.Route, err = s.names.word(c, v[2]); err != nil {
			return err
		}
		if p.EntityKey.Entity, err = s.names.word(c, v[4]); err != nil {
			return err
		}
		if b := bytesOf(v[21]); len(b) > 0 {
			if err := json.Unmarshal(b, &p.Supersedes); err != nil {
				return fmt.Errorf("%w: superseded ids of parked record %s: %w", checkpoint.ErrCorrupt, p.Position.Origin(), err)
			}
		}
		ps = append(ps, p)
		return nil
	}, args...)
	return ps, err
}

// Mapping returns the text behind a mapping version.
func (s *Store) Mapping(ctx context.Context, version string) ([]byte, error) {
	var content []byte
	found := false
	err := s.read(ctx, "read mapping "+version, func(c *conn) (err error) {
		row := make([]driver.Value, 1)
		found, err = c.one("SELECT text FROM mappings WHERE version = ?", row, version)
		content = bytesOf(row[0])
		return err
	})
	if err == nil && !found {
		err = fmt.Errorf("read mapping %s: %w", version, checkpoint.ErrNotFound)
	}
	return content, err
}

// Cursors lists the cursors of a connector, or of all.
func (s *Store) Cursors(ctx context.Context, connector string) ([]checkpoint.Cursor, error) {
	var cs []checkpoint.Cursor
	err := s.read(ctx, "read cursors", func(c *conn) error {
		return c.query("SELECT id, epoch, mark, horizon, lost_below, mapping, raised_at FROM partitions ORDER BY connector, topic, idx, id", func(v []driver.Value) error {
			p, err := s.names.part(c, asInt(v[0]))
			if err != nil || connector != "" && p.Connector != connector {
				return err
			}
			cs = append(cs, checkpoint.Cursor{Partition: p, Epoch: uint64(asInt(v[1])), Mark: asInt(v[2]), Horizon: asInt(v[3]),
				LostBelow: asInt(v[4]), Mapping: asText(v[5]), At: asTime(v[6])})
			return nil
		})
	})
	return cs, err
}

// Counts counts ledger rows per route and outcome.
func (s *Store) Counts(ctx context.Context, connector string) (map[string]map[checkpoint.Outcome]int64, error) {
	counts := make(map[string]map[checkpoint.Outcome]int64)
	err := s.read(ctx, "count outcomes of connector "+connector, func(c *conn) error {
		id, err := s.names.id(c, connector)
		if err != nil || id == 0 {
			return err
		}
		return c.query("SELECT route, outcome, n FROM counts WHERE connector = ? AND n <> 0", func(v []driver.Value) error {
			route, err := s.names.word(c, v[0])
			if err != nil {
				return err
			}
			o, err := outcomeOf(asInt(v[1]))
			if err != nil {
				return err
			}
			if counts[route] == nil {
				counts[route] = make(map[checkpoint.Outcome]int64)
			}
			counts[route][o] = asInt(v[2])
			return nil
		}, id)
	})
	return counts, err
}

// Statuses lists the last status of each instance.
func (s *Store) Statuses(ctx context.Context) ([]checkpoint.Status, error) {
	var sts []checkpoint.Status
	err := s.read(ctx, "read statuses", func(c *conn) error {
		return c.query("SELECT connector, instance, at, json FROM status ORDER BY connector, instance", func(v []driver.Value) error {
			sts = append(sts, checkpoint.Status{Connector: asText(v[0]), Instance: asText(v[1]), At: asTime(v[2]), JSON: bytesOf(v[3])})
			return nil
		})
	})
	return sts, err
}

// Audits lists the audit log, newest first.
func (s *Store) Audits(ctx context.Context, limit int) ([]checkpoint.Audit, error) {
	if limit <= 0 {
		limit = limitDefault
	}
	var as []checkpoint.Audit
	err := s.read(ctx, "read audit log", func(c *conn) error {
		return c.query("SELECT at, actor, action, connector, target, reason, detail FROM audit ORDER BY id DESC LIMIT ?", func(v []driver.Value) error {
			as = append(as, checkpoint.Audit{At: asTime(v[0]), Actor: asText(v[1]), Action: asText(v[2]), Connector: asText(v[3]),
				Target: asText(v[4]), Reason: asText(v[5]), Detail: asText(v[6])})
			return nil
		}, int64(limit))
	})
	return as, err
}
