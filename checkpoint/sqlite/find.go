package sqlite

import (
	"cmp"
	"context"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/weirsync/weir/checkpoint"
)

// An openRecord is a record without an outcome, as begins, plans, waiters and attempts tell of it.
type openRecord struct {
	checkpoint.Open
	key    recordKey
	event  checkpoint.Event
	begun  bool // it has a begin or a plan
	entity checkpoint.EntityKey
}

// openWhere reads the begun, planned, waiting or attempted records of a partition in [from, to), part 0: of all
// partitions. Those with a final outcome are left out.
func (s *Store) openWhere(c *conn, part, from, to int64) ([]*openRecord, error) {
	m := make(map[recordKey]*openRecord)
	get := func(v []driver.Value) (*openRecord, error) {
		k := recordKey{asInt(v[0]), asInt(v[1]), asInt(v[2])}
		if o := m[k]; o != nil {
			return o, nil
		}
		route, err := s.names.word(c, v[2])
		o := &openRecord{key: k}
		o.Offset, o.Route = k.off, route
		m[k] = o
		return o, err
	}
	// Two texts each, so that the one for a partition uses the primary key.
	where := " t WHERE t.part = ? AND t.off >= ? AND t.off < ?"
	args := []driver.Value{part, from, to}
	if part == 0 {
		where, args = " t WHERE 1", nil
	}
	where += " AND NOT EXISTS (SELECT 1 FROM ledger l WHERE l.part = t.part AND l.off = t.off AND l.route = t.route AND l.outcome <> " + strconv.Itoa(parkedCode) + ")" +
		" AND (NOT EXISTS (SELECT 1 FROM skips s WHERE s.part = t.part AND s.from_off <= t.off AND s.to_off > t.off)" +
		" OR EXISTS (SELECT 1 FROM ledger l WHERE l.part = t.part AND l.off = t.off AND l.route = t.route))"
	event := func(o *openRecord, v driver.Value) (err error) {
		if o.event == (checkpoint.Event{}) {
			o.event, err = parseEvent(bytesOf(v))
		}
		return err
	}
	if err := c.query("SELECT part, off, route, plan, mapping, event FROM plans"+where, func(v []driver.Value) error {
		o, err := get(v)
		if err != nil {
			return err
		}
		o.begun, o.Mapping = true, asText(v[4])
		if o.Plan, err = parsePlan(bytesOf(v[3])); err != nil {
			return err
		}
		return event(o, v[5])
	}, args...); err != nil {
		return nil, err
	}
	if err := c.query("SELECT part, off, route, step, operation, key, fingerprint, generation, mapping, at, epoch, event, batch, credential FROM begins"+where+" ORDER BY t.at", func(v []driver.Value) error {
		o, err := get(v)
		if err != nil {
			return err
		}
		o.begun = true
		b := checkpoint.Begin{Offset: o.Offset, Route: o.Route, Step: asText(v[3]), Operation: asText(v[4]), Key: asText(v[5]),
			Fingerprint: asText(v[6]), Generation: uint32(asInt(v[7])), Mapping: asText(v[8]), At: asTime(v[9]), Credential: asText(v[13])}
		b.Lease.Epoch = uint64(asInt(v[10]))
		if b.Lease.Partition, err = s.names.part(c, o.key.part); err != nil {
			return err
		}
		if b.Event, err = parseEvent(bytesOf(v[11])); err != nil {
			return err
		}
		if text := bytesOf(v[12]); len(text) > 0 {
			b.Batch = &checkpoint.BatchSend{}
			if err := json.Unmarshal(text, b.Batch); err != nil {
				return fmt.Errorf("%w: batch of a begun send: %w", checkpoint.ErrCorrupt, err)
			}
		}
		if o.Mapping == "" {
			o.Mapping = b.Mapping
		}
		o.Begins = append(o.Begins, b)
		return event(o, v[11])
	}, args...); err != nil {
		return nil, err
	}
	if err := c.query("SELECT part, off, route, entity, key FROM waiters"+where, func(v []driver.Value) error {
		o, err := get(v)
		if err != nil {
			return err
		}
		o.entity.Key = asText(v[4])
		o.entity.Entity, err = s.names.word(c, v[3])
		return err
	}, args...); err != nil {
		return nil, err
	}
	if part != 0 { // attempts of all partitions are many, and carry no id
		if err := c.query("SELECT part, off, route, attempt FROM attempts"+where, func(v []driver.Value) error {
			o, err := get(v)
			if err != nil {
				return err
			}
			a, err := parseAttempt(bytesOf(v[3]))
			o.Attempts = append(o.Attempts, a)
			return err
		}, args...); err != nil {
			return nil, err
		}
	}
	all := make([]*openRecord, 0, len(m))
	for _, o := range m {
		all = append(all, o)
	}
	slices.SortFunc(all, func(a, b *openRecord) int {
		return cmp.Or(cmp.Compare(a.key.part, b.key.part), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
	})
	return all, nil
}

// openRecords lists the begun or planned records of a partition.
func (s *Store) openRecords(c *conn, part int64) ([]checkpoint.Open, error) {
	all, err := s.openWhere(c, part, 0, 1<<63-1)
	if err != nil {
		return nil, err
	}
	var open []checkpoint.Open
	for _, o := range all {
		if o.begun {
			open = append(open, o.Open)
		}
	}
	return open, nil
}

// row shows an open record as a ledger row without an outcome. Where only begins are stored they are its plan.
func (o *openRecord) row(p checkpoint.Partition) checkpoint.Row {
	r := checkpoint.Row{Partition: p, Offset: o.Offset, Route: o.Route, Event: o.event, Mapping: o.Mapping, Plan: o.Plan, Attempts: o.Attempts}
	if r.Event.Key == "" {
		r.Event.Entity, r.Event.Key = o.entity.Entity, o.entity.Key
	}
	for i := range o.Begins {
		b := &o.Begins[i]
		if r.At.IsZero() {
			r.At, r.Generation = b.At, b.Generation
		}
		if o.Plan == nil {
			r.Plan = append(r.Plan, checkpoint.Step{Step: b.Step, Operation: b.Operation, IdempotencyKey: b.Key, Generation: b.Generation})
		}
	}
	if r.At.IsZero() && len(r.Attempts) > 0 {
		r.At = r.Attempts[0].At
	}
	return r
}

// carries reports whether a row is one that an id names.
func (r *keptRow) carries(id string) bool {
	return r.Event.ID == id || r.Event.Key == id || r.Event.CorrelationID == id || r.VendorID == id ||
		slices.Contains(r.past, id) || planHas(r.Plan, id)
}

func planHas(plan []checkpoint.Step, id string) bool {
	return slices.ContainsFunc(plan, func(s checkpoint.Step) bool { return s.IdempotencyKey == id })
}

func (o *openRecord) carries(id string) bool {
	e := &o.event
	return e.ID == id || e.Key == id || e.CorrelationID == id || o.entity.Key == id || planHas(o.Plan, id) ||
		slices.ContainsFunc(o.Begins, func(b checkpoint.Begin) bool { return b.Key == id })
}

// findPlacesMax bounds the records that one Find reads: an entity may have any number.
const findPlacesMax = 100_000

// Find lists what an id leads to.
func (s *Store) Find(ctx context.Context, id string, limit int) ([]checkpoint.Row, error) {
	if id == "" {
		return nil, nil
	}
	if limit <= 0 {
		limit = limitDefault
	}
	var found []checkpoint.Row
	err := s.snapshot(ctx, "find "+id, func(c *conn) error {
		find, err := s.stateFinder(c)
		if err != nil {
			return err
		}
		type place struct{ part, off int64 }
		records := make(map[place][]checkpoint.Row) // all routes of each record that matched
		read := 0
		err = s.places(c, hashID(id), func(part, off int64) (bool, error) {
			if err := context.Cause(ctx); err != nil {
				return false, err
			}
			at := place{part, off}
			if _, ok := records[at]; ok {
				return true, nil
			}
			read++
			rows, matched, err := s.record(c, find, part, off, id)
			if err == nil && matched {
				records[at] = rows
			}
			return read < findPlacesMax, err
		})
		if err != nil {
			return err
		}
		open, err := s.openWhere(c, 0, 0, 0)
		if err != nil {
			return err
		}
		for _, o := range open {
			at := place{o.key.part, o.Offset}
			if _, ok := records[at]; ok || !o.carries(id) {
				continue
			}
			if records[at], _, err = s.record(c, find, at.part, at.off, ""); err != nil {
				return err
			}
		}
		if topic, index, off, ok := checkpoint.ParseOrigin(id); ok {
			if err := c.query("SELECT id FROM partitions WHERE topic = ? AND idx = ?", func(v []driver.Value) error {
				at := place{asInt(v[0]), off}
				if _, ok := records[at]; ok {
					return nil
				}
				rows, _, err := s.record(c, find, at.part, off, "")
				if err != nil {
					return err
				}
				if len(rows) == 0 {
					p, err := s.names.part(c, at.part)
					if err != nil {
						return err
					}
					if rows, err = s.skipRows(c, at.part, p, off, off+1); err != nil {
						return err
					}
				}
				records[at] = rows
				return nil
			}, topic, int64(index)); err != nil {
				return err
			}
		}
		for _, rows := range records {
			found = append(found, rows...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(found, func(a, b checkpoint.Row) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Partition.Connector, b.Partition.Connector), cmp.Compare(a.Partition.Topic, b.Partition.Topic),
			cmp.Compare(a.Partition.Index, b.Partition.Index), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
	})
	return found[max(0, len(found)-limit):], nil
}

// record reads all routes of one record, those without an outcome too, and whether one of them carries the id.
func (s *Store) record(c *conn, find findState, part, off int64, id string) (rows []checkpoint.Row, matched bool, err error) {
	p, err := s.names.part(c, part)
	if err != nil {
		return nil, false, err
	}
	stored, err := s.ledgerRows(c, part, off, off+1)
	if err != nil {
		return nil, false, err
	}
	for i := range stored {
		if stored[i].carries(id) {
			matched = true
		} else if !matched && id != "" {
			if matched, err = stateHas(find, &stored[i].Row, id); err != nil {
				return nil, false, err
			}
		}
	}
	rows = plain(stored)
	open, err := s.openWhere(c, part, off, off+1)
	if err != nil {
		return nil, false, err
	}
	for _, o := range open {
		if slices.ContainsFunc(stored, func(r keptRow) bool { return r.key == o.key }) {
			continue // parked and begun again: its row says more
		}
		r := o.row(p)
		if r.Event == (checkpoint.Event{}) && len(stored) > 0 {
			r.Event = stored[0].Event // another route of the same record knows it
		}
		matched = matched || o.carries(id)
		rows = append(rows, r)
	}
	return rows, matched, nil
}

// stateHas reports whether the vendor knows the row's entity by the id: a record is found by all ids of its entity,
// not only by its main one.
func stateHas(find findState, r *checkpoint.Row, id string) (bool, error) {
	if r.Event.Key == "" {
		return false, nil
	}
	saved, err := find(stateKey{r.Partition.Connector, r.Event.Entity, r.Event.Key})
	if err != nil || saved == nil {
		return false, err
	}
	st, err := parseState([]byte(saved.text), r.Event.Entity, r.Event.Key)
	if err != nil {
		return false, fmt.Errorf("find %s: %w", id, err)
	}
	for _, v := range st.IDs {
		if v == id {
			return true, nil
		}
	}
	return false, nil
}
