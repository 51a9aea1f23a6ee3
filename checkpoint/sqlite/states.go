package sqlite

import (
	"cmp"
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/weirsync/weir/checkpoint"
)

// States are written twice, which is cheaper than once: their keys are random, so each one in the table states writes
// a page of its own to the log and later into the database. A transaction appends its states as one row of state_log
// instead, and memory holds what the log holds. When the log has grown to Options.StateLogBytes, its states are frozen and
// move to the table in the order of their keys, some with each transaction, only the last of each entity: a
// page then takes several of them, and an entity that changes often is written once.
//
// A state is found in memory or else in the table. A reader of another process has no such memory and reads the log.

type stateKey struct {
	connector, entity, key string
}

func compareStateKeys(a, b stateKey) int {
	return cmp.Or(cmp.Compare(a.connector, b.connector), cmp.Compare(a.entity, b.entity), cmp.Compare(a.key, b.key))
}

// savedState is what the table has of a state. It is never changed.
type savedState struct {
	tenant  string
	present bool
	text    string
}

// recentStates are the committed states that the table may not have yet, for all goroutines.
type recentStates struct {
	mu sync.RWMutex
	// active grows with each commit, frozen never changes. They are replaced, not emptied.
	active, frozen map[stateKey]*savedState
}

// find looks in the states as they are now.
func (r *recentStates) find(k stateKey) *savedState { return r.view()(k) }

// view answers where to look for states beside a snapshot of the table that begins later: each state that is
// committed now stays in it, also when it moves to the table and others are frozen while the snapshot is read.
func (r *recentStates) view() func(k stateKey) *savedState {
	r.mu.RLock()
	defer r.mu.RUnlock()
	active, frozen := r.active, r.frozen
	return func(k stateKey) *savedState {
		r.mu.RLock()
		defer r.mu.RUnlock()
		if s := active[k]; s != nil {
			return s
		}
		return frozen[k]
	}
}

// stateLog is the writer's side. Of the transaction at hand are unsaved, saved, written and folded.
type stateLog struct {
	recent   recentStates
	next     int64                    // of the next row
	bytes    int64                    // of the rows of the active states
	bytesMax int64                    // from which they are frozen
	unsaved  map[stateKey]*savedState // not yet in the log
	saved    map[stateKey]*savedState // in the log
	written  int64                    // bytes of saved
	fold     []stateKey               // frozen and not yet in the table, in order
	folded   int                      // of fold, now in the table
	upTo     int64                    // the last row of the frozen states
	buf      []byte
}

func (l *stateLog) find(k stateKey) *savedState {
	if s := l.unsaved[k]; s != nil {
		return s
	}
	if s := l.saved[k]; s != nil {
		return s
	}
	return l.recent.find(k)
}

// commit makes the transaction's states visible, and freezes the active ones when they are many.
func (l *stateLog) commit() {
	r := &l.recent
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.Copy(r.active, l.saved)
	l.bytes += l.written
	l.fold = l.fold[l.folded:]
	if l.bytes >= l.bytesMax && len(l.fold) == 0 {
		r.frozen, r.active = r.active, make(map[stateKey]*savedState)
		l.fold = slices.SortedFunc(maps.Keys(r.frozen), compareStateKeys)
		l.bytes, l.upTo = 0, l.next-1
	}
	l.forget()
}

// forget drops what is of the transaction at hand.
func (l *stateLog) forget() {
	clear(l.unsaved)
	clear(l.saved)
	l.written, l.folded = 0, 0
}

// load reads the log into memory.
func (l *stateLog) load(c *conn) (err error) {
	l.unsaved, l.saved = make(map[stateKey]*savedState), make(map[stateKey]*savedState)
	l.recent.active, l.bytes, l.next, err = readStateLog(c)
	return err
}

// readStateLog answers the newest state of each entity in the log, the log's size and its next row's number.
func readStateLog(c *conn) (states map[stateKey]*savedState, size, next int64, err error) {
	states, next = make(map[stateKey]*savedState), 1
	err = c.query("SELECT seq, states FROM state_log ORDER BY seq", func(row []driver.Value) error {
		b := bytesOf(row[1])
		size += int64(len(b))
		next = asInt(row[0]) + 1
		if !parseStates(states, b) {
			return fmt.Errorf("%w: row %d of state_log is cut or garbled", checkpoint.ErrCorrupt, asInt(row[0]))
		}
		return nil
	})
	return states, size, next, err
}

func appendStates(b []byte, states map[stateKey]*savedState) []byte {
	for k, s := range states {
		present := byte(0)
		if s.present {
			present = 1
		}
		b = append(b, present)
		for _, text := range [...]string{k.connector, k.entity, k.key, s.tenant, s.text} {
			b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
		}
	}
	return b
}

// parseStates adds what appendStates wrote, and reports whether it is whole.
func parseStates(states map[stateKey]*savedState, b []byte) bool {
	for len(b) > 0 {
		present := b[0]
		b = b[1:]
		var texts [5]string
		for i := range texts {
			size, n := binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return false
			}
			b = b[n:]
			texts[i], b = string(b[:size]), b[size:]
		}
		if present > 1 {
			return false
		}
		states[stateKey{texts[0], texts[1], texts[2]}] = &savedState{tenant: texts[3], present: present == 1, text: texts[4]}
	}
	return true
}

// flushStates writes the unsaved states to the log.
func (w *writer) flushStates() error {
	l := &w.states
	if len(l.unsaved) == 0 {
		return nil
	}
	l.buf = appendStates(l.buf[:0], l.unsaved)
	l.next++ // a number whose row is rolled back is not used again
	if _, err := w.c.exec("INSERT INTO state_log (seq, states) VALUES (?, ?)", l.next-1, l.buf); err != nil {
		return err
	}
	if len(l.saved) == 0 {
		l.saved, l.unsaved = l.unsaved, l.saved
	} else {
		maps.Copy(l.saved, l.unsaved)
		clear(l.unsaved)
	}
	l.written += int64(len(l.buf))
	return nil
}

// States go to their table several at a time: a statement costs as much as one of them.
const (
	statesMax    = 16
	replaceState = "INSERT OR REPLACE INTO states (connector, entity, key, tenant, present, state) VALUES (?, ?, ?, ?, ?, ?)"
)

var replaceStates = replaceState + strings.Repeat(", (?, ?, ?, ?, ?, ?)", statesMax-1)

// foldStates moves frozen states to the table: two for each one saved, so that they are there before as many are
// frozen again. Then their rows of the log go.
func (w *writer) foldStates() error {
	l := &w.states
	n := min(len(l.fold), 2*len(l.saved))
	if n == 0 {
		return nil
	}
	for some := range slices.Chunk(l.fold[:n], statesMax) {
		args := w.args[:0]
		for _, k := range some {
			connector, err := w.word(k.connector)
			if err != nil {
				return err
			}
			entity, err := w.word(k.entity)
			if err != nil {
				return err
			}
			s := l.recent.frozen[k] // only this goroutine changes it
			args = append(args, connector, entity, k.key, text(s.tenant), flag(s.present), s.text)
		}
		w.args = args
		if len(some) == statesMax {
			if _, err := w.c.exec(replaceStates, args...); err != nil {
				return err
			}
			continue
		}
		for one := range slices.Chunk(args, len(args)/len(some)) {
			if _, err := w.c.exec(replaceState, one...); err != nil {
				return err
			}
		}
	}
	if n == len(l.fold) {
		if _, err := w.c.exec("DELETE FROM state_log WHERE seq <= ?", l.upTo); err != nil {
			return err
		}
	}
	l.folded = n
	return nil
}

// findState answers the state of an entity, nil if it has none. One goroutine uses it.
type findState func(k stateKey) (*savedState, error)

// stateFinder answers where states are looked for on a connection: first in what is newer than the table. It comes
// before the first read of a snapshot, see view.
func (s *Store) stateFinder(c *conn) (findState, error) {
	var newer func(k stateKey) *savedState
	if s.w != nil {
		newer = s.w.states.recent.view()
	} else {
		states, _, _, err := readStateLog(c)
		if err != nil {
			return nil, err
		}
		newer = func(k stateKey) *savedState { return states[k] }
	}
	return func(k stateKey) (*savedState, error) {
		if st := newer(k); st != nil {
			return st, nil
		}
		connector, err := s.names.id(c, k.connector)
		if err != nil || connector == 0 {
			return nil, err
		}
		entity, err := s.names.id(c, k.entity)
		if err != nil || entity == 0 {
			return nil, err
		}
		return tableState(c, connector, entity, k.key)
	}, nil
}

// tableState is what the table has of an entity, nil if nothing.
func tableState(c *conn, connector, entity int64, key string) (*savedState, error) {
	var row [3]driver.Value
	found, err := c.one("SELECT tenant, present, state FROM states WHERE connector = ? AND entity = ? AND key = ?", row[:], connector, entity, key)
	if err != nil || !found {
		return nil, err
	}
	return &savedState{tenant: asText(row[0]), present: asInt(row[1]) == 1, text: asText(row[2])}, nil
}
