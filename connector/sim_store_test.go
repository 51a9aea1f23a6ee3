package connector_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

// A simStore is the model of a checkpoint.Store: what is documented there, in memory, each method one atomic step.
// It survives the crashes of the simulation; faults, latency and the end of an instance come from simStoreView.
type simStore struct {
	mu       sync.Mutex
	parts    map[checkpoint.Partition]*simPart
	states   map[checkpoint.EntityKey]*checkpoint.State
	waiters  map[checkpoint.Position]*checkpoint.Waiter
	parked   map[checkpoint.Position]*checkpoint.Parked
	mappings map[string]string
	evidence map[checkpoint.Position][]checkpoint.Attempt
	history  []checkpoint.Cursor // each mark and epoch as it was set, for the checker
}

type simPart struct {
	cursor checkpoint.Cursor
	fresh  bool
	last   int64
	rows   map[simPos]checkpoint.Row
	open   map[simPos]*checkpoint.Open
}

type simPos struct {
	offset int64
	route  string
}

func newSimStore() *simStore {
	return &simStore{
		parts: map[checkpoint.Partition]*simPart{}, states: map[checkpoint.EntityKey]*checkpoint.State{},
		waiters: map[checkpoint.Position]*checkpoint.Waiter{}, parked: map[checkpoint.Position]*checkpoint.Parked{},
		mappings: map[string]string{}, evidence: map[checkpoint.Position][]checkpoint.Attempt{},
	}
}

var _ checkpoint.Store = (*simStore)(nil)

func (s *simStore) ID() string { return "sim" }

func (s *simStore) Close() error { return nil }

func (s *simStore) part(p checkpoint.Partition) *simPart {
	if s.parts[p] == nil {
		sp := &simPart{cursor: checkpoint.Cursor{Partition: p, Mark: -1, Horizon: -1}, fresh: true, last: -1,
			rows: map[simPos]checkpoint.Row{}, open: map[simPos]*checkpoint.Open{}}
		for k, o := range s.parts {
			if k.Topic == p.Topic && o.cursor.Mark >= 0 {
				sp.fresh = false
			}
		}
		s.parts[p] = sp
	}
	return s.parts[p]
}

// owned is the partition if the lease still holds, nil if a higher epoch owns it.
func (s *simStore) owned(l checkpoint.Lease) *simPart {
	if p := s.part(l.Partition); p.cursor.Epoch == l.Epoch {
		return p
	}
	return nil
}

func (s *simStore) fenced(l checkpoint.Lease) error {
	return &checkpoint.FencedError{Partition: l.Partition, Epoch: l.Epoch, Owner: s.part(l.Partition).cursor.Epoch}
}

func (s *simStore) note(p *simPart) { s.history = append(s.history, p.cursor) }

func (s *simStore) Acquire(_ context.Context, p checkpoint.Partition, _ string) (checkpoint.Recovery, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp := s.part(p)
	sp.cursor.Epoch++
	s.note(sp)
	rec := checkpoint.Recovery{Lease: checkpoint.Lease{Partition: p, Epoch: sp.cursor.Epoch}, Cursor: sp.cursor,
		Fresh: sp.fresh && sp.cursor.Mark < 0, Last: sp.last}
	for k, o := range sp.open {
		if _, settled := sp.rows[k]; settled {
			if sp.rows[k].Outcome != checkpoint.ParkedOut {
				continue
			}
		}
		c := *o
		c.Plan, c.Begins = slices.Clone(o.Plan), slices.Clone(o.Begins)
		rec.Open = append(rec.Open, c)
	}
	slices.SortFunc(rec.Open, func(a, b checkpoint.Open) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
	})
	for _, e := range s.entries() {
		if e.Position.Partition == p && e.State == checkpoint.ParkedReleased {
			rec.Released = append(rec.Released, e)
		}
	}
	return rec, nil
}

func (s *simStore) Release(context.Context, checkpoint.Lease) error { return nil }

func (s *simStore) Raise(_ context.Context, hs []checkpoint.Horizon) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, h := range hs {
		p := s.owned(h.Lease)
		if p == nil {
			errs = append(errs, s.fenced(h.Lease))
			continue
		}
		if h.Horizon > p.cursor.Horizon || h.Lower {
			p.cursor.Horizon, p.cursor.Mapping, p.cursor.At = max(h.Horizon, p.cursor.Mark), h.Mapping, h.At
		}
	}
	return errors.Join(errs...)
}

func (s *simStore) Rewind(_ context.Context, l checkpoint.Lease, c checkpoint.Cursor, _ checkpoint.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.owned(l)
	if p == nil {
		return s.fenced(l)
	}
	p.cursor.Mark, p.cursor.Horizon, p.cursor.LostBelow, p.cursor.Mapping, p.cursor.At = c.Mark, max(c.Horizon, c.Mark), c.LostBelow, c.Mapping, c.At
	s.note(p)
	return nil
}

func (s *simStore) Skip(_ context.Context, k checkpoint.Skip) error {
	return fmt.Errorf("the simulation never moves a group offset, but %s is skipped from %d to %d", k.Lease.Partition, k.From, k.To)
}

func (s *simStore) Begin(_ context.Context, bs []checkpoint.Begin) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range bs {
		if r, ok := s.part(b.Lease.Partition).rows[simPos{b.Offset, b.Route}]; ok && r.Outcome != checkpoint.ParkedOut {
			return fmt.Errorf("begin %s/%d: %w", b.Lease.Partition, b.Offset, checkpoint.ErrSettled)
		}
	}
	var errs []error
	for _, b := range bs {
		p := s.owned(b.Lease)
		if p == nil {
			errs = append(errs, s.fenced(b.Lease))
			continue
		}
		k := simPos{b.Offset, b.Route}
		o := p.open[k]
		if o == nil {
			o = &checkpoint.Open{Offset: b.Offset, Route: b.Route, Mapping: b.Mapping}
			p.open[k] = o
		}
		if len(b.Plan) > 0 && o.Plan == nil {
			o.Plan = slices.Clone(b.Plan)
		}
		if i := slices.IndexFunc(o.Begins, func(x checkpoint.Begin) bool { return x.Step == b.Step }); b.Step != "" && i < 0 {
			o.Begins = append(o.Begins, b)
		} else if b.Step != "" && o.Begins[i].Credential != b.Credential {
			o.Begins[i] = b
		}
	}
	return errors.Join(errs...)
}

func (s *simStore) Settle(_ context.Context, b checkpoint.Batch) (checkpoint.Result, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var res checkpoint.Result
	if len(b.Retractions) > 0 {
		return res, errors.New("the simulation sends no batches")
	}
	owned := func(l checkpoint.Lease) *simPart {
		p := s.owned(l)
		if p == nil && !slices.Contains(res.Fenced, l.Partition) {
			res.Fenced = append(res.Fenced, l.Partition)
		}
		return p
	}
	type at struct {
		p checkpoint.Partition
		k simPos
	}
	seen := map[at]bool{}
	for _, t := range b.Settlements { // all or nothing: first what could refuse it
		p := owned(t.Lease)
		if p == nil {
			continue
		}
		k := simPos{t.Row.Offset, t.Row.Route}
		if old, ok := p.rows[k]; ok && old.Outcome != checkpoint.ParkedOut || seen[at{t.Lease.Partition, k}] {
			return checkpoint.Result{}, fmt.Errorf("settle %s/%d on %s as %s: %w (as %s)", t.Lease.Partition, t.Row.Offset, t.Row.Route, t.Row.Outcome, checkpoint.ErrSettled, old.Outcome)
		}
		seen[at{t.Lease.Partition, k}] = true
	}
	for _, pr := range b.Progress {
		if p := owned(pr.Lease); p != nil {
			if o := p.open[simPos{pr.Offset, pr.Route}]; o == nil || o.Plan == nil {
				return checkpoint.Result{}, fmt.Errorf("progress of %s/%d on %s: %w", pr.Lease.Partition, pr.Offset, pr.Route, checkpoint.ErrNotFound)
			}
		}
	}
	for _, pr := range b.Progress {
		if p := owned(pr.Lease); p != nil {
			o := p.open[simPos{pr.Offset, pr.Route}]
			for i := range o.Plan {
				o.Plan[i].Done = o.Plan[i].Done || o.Plan[i].Step == pr.Step
			}
			res.Woken += s.put(pr.State)
		}
	}
	for _, t := range b.Settlements {
		if p := owned(t.Lease); p != nil {
			s.settle(p, t)
			res.Woken += s.put(t.State)
		}
	}
	for _, m := range b.Marks {
		if p := owned(m.Lease); p != nil && m.Mark > p.cursor.Mark {
			p.cursor.Mark, p.cursor.Horizon = m.Mark, max(p.cursor.Horizon, m.Mark)
			s.note(p)
		}
	}
	return res, nil
}

func (s *simStore) settle(p *simPart, t checkpoint.Settlement) {
	k := simPos{t.Row.Offset, t.Row.Route}
	pos := checkpoint.Position{Partition: t.Lease.Partition, Offset: k.offset, Route: k.route}
	row := t.Row
	row.Plan, row.Attempts = slices.Clone(row.Plan), slices.Clone(row.Attempts)
	if old, ok := p.rows[k]; ok {
		row.Attempts = append(old.Attempts, row.Attempts...)
		if e := s.parked[pos]; e != nil && t.Park == nil && (e.State == checkpoint.ParkedOpen || e.State == checkpoint.ParkedReleased) {
			e.State = checkpoint.ParkedResolved
		}
	}
	p.rows[k] = row
	p.last = max(p.last, k.offset)
	delete(p.open, k)
	if w := s.waiters[pos]; w != nil && row.Outcome == checkpoint.ParkedOut && row.Cause == checkpoint.CauseMissingReference {
		w.Parked = true
	} else {
		delete(s.waiters, pos)
	}
	if t.Park != nil {
		e := *t.Park
		s.parked[pos] = &e
	}
	for _, c := range t.Close {
		if e := s.parked[c.Position]; e != nil {
			e.State, e.By = c.State, c.By
			delete(s.waiters, c.Position)
		}
	}
}

// put keeps a state and wakes who waits for it.
func (s *simStore) put(st *checkpoint.State) (woken int) {
	if st == nil {
		return 0
	}
	s.states[st.EntityKey] = st.Clone()
	for _, w := range s.waiters {
		if !w.Woken && w.RefEntity == st.Entity && w.RefKey == st.Key && present(st, w.Tenant, w.RefID) {
			w.Woken = true
			woken++
		}
	}
	return woken
}

func present(st *checkpoint.State, tenant, id string) bool {
	return st != nil && st.Tenant == tenant && (st.Deleted || id == "" && len(st.IDs) > 0 || id != "" && st.IDs[id] != "")
}

func (s *simStore) Evidence(_ context.Context, es []checkpoint.Evidence) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range es {
		s.evidence[e.Position] = merged(s.evidence[e.Position], []checkpoint.Attempt{e.Attempt})
	}
	return nil
}

// merged is the attempts of both, each once, in order of number and time.
func merged(a, b []checkpoint.Attempt) []checkpoint.Attempt {
	out := slices.Clone(a)
	for _, x := range b {
		if !slices.ContainsFunc(out, func(y checkpoint.Attempt) bool { return x.N == y.N && x.At.Equal(y.At) }) {
			out = append(out, x)
		}
	}
	slices.SortStableFunc(out, func(x, y checkpoint.Attempt) int { return cmp.Or(cmp.Compare(x.N, y.N), x.At.Compare(y.At)) })
	return out
}

func (s *simStore) Rows(_ context.Context, id checkpoint.Partition, from, to int64) ([]checkpoint.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []checkpoint.Row
	for k, r := range s.part(id).rows {
		if from <= k.offset && k.offset < to {
			r.Attempts = merged(r.Attempts, s.evidence[checkpoint.Position{Partition: id, Offset: k.offset, Route: k.route}])
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b checkpoint.Row) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
	})
	return out, nil
}

func (s *simStore) Skips(context.Context, checkpoint.Partition) ([]checkpoint.Skip, error) {
	return nil, nil
}

func (s *simStore) States(_ context.Context, _ string, keys []checkpoint.EntityKey) (map[checkpoint.EntityKey]*checkpoint.State, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[checkpoint.EntityKey]*checkpoint.State{}
	for _, k := range keys {
		if st := s.states[k]; st != nil {
			out[k] = st.Clone()
		}
	}
	return out, nil
}

func (s *simStore) Seen(_ context.Context, _, eventID string, not checkpoint.Position) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, p := range s.parts {
		for k, r := range p.rows {
			if r.Event.ID == eventID && (id != not.Partition || k.offset != not.Offset) {
				return true, nil
			}
		}
	}
	return false, nil
}

func (s *simStore) Await(_ context.Context, ws []checkpoint.Waiter) ([]bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range ws {
		if r, ok := s.part(w.Position.Partition).rows[simPos{w.Position.Offset, w.Position.Route}]; ok && r.Outcome != checkpoint.ParkedOut {
			return nil, fmt.Errorf("await %s/%d: %w", w.Position.Partition, w.Position.Offset, checkpoint.ErrSettled)
		}
	}
	out := make([]bool, len(ws))
	for i, w := range ws {
		out[i] = present(s.states[checkpoint.EntityKey{Entity: w.RefEntity, Key: w.RefKey}], w.Tenant, w.RefID)
		w.Woken = out[i]
		s.waiters[w.Position] = &w
	}
	return out, nil
}

func (s *simStore) Woken(_ context.Context, _ string, limit int) ([]checkpoint.Waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []checkpoint.Waiter
	for _, w := range s.waiters {
		if w.Woken {
			out = append(out, *w)
		}
	}
	slices.SortFunc(out, func(a, b checkpoint.Waiter) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Position.Partition.String(), b.Position.Partition.String()),
			cmp.Compare(a.Position.Offset, b.Position.Offset), cmp.Compare(a.Position.Route, b.Position.Route))
	})
	return out[:min(len(out), cmp.Or(limit, 1000))], nil
}

func (s *simStore) Forget(_ context.Context, ps []checkpoint.Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		delete(s.waiters, p)
	}
	return nil
}

// entries lists the parked index in order.
func (s *simStore) entries() []checkpoint.Parked {
	out := make([]checkpoint.Parked, 0, len(s.parked))
	for _, e := range s.parked {
		out = append(out, *e)
	}
	slices.SortFunc(out, func(a, b checkpoint.Parked) int {
		return cmp.Or(cmp.Compare(a.Position.Partition.String(), b.Position.Partition.String()), cmp.Compare(a.EntityKey.Key, b.EntityKey.Key),
			cmp.Compare(a.Position.Offset, b.Position.Offset), cmp.Compare(a.Position.Route, b.Position.Route))
	})
	return out
}

func (s *simStore) Parked(_ context.Context, q checkpoint.ParkedQuery) ([]checkpoint.Parked, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []checkpoint.Parked
	for _, e := range s.entries() {
		if (q.Entity == "" || q.Entity == e.EntityKey.Entity) && (q.Key == "" || q.Key == e.EntityKey.Key) && (q.EventID == "" || q.EventID == e.EventID) &&
			(q.Cause == "" || q.Cause == e.Cause) && (len(q.States) == 0 || slices.Contains(q.States, e.State)) {
			out = append(out, e)
		}
	}
	return out[:min(len(out), cmp.Or(q.Limit, 1000))], nil
}

func (s *simStore) ReleaseParked(_ context.Context, ps []checkpoint.Position, generation uint32, _ checkpoint.Audit) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range ps {
		if s.parked[p] == nil {
			return fmt.Errorf("release %s/%d on %s: %w", p.Partition, p.Offset, p.Route, checkpoint.ErrNotFound)
		}
	}
	for _, p := range ps {
		if e := s.parked[p]; e.State == checkpoint.ParkedOpen {
			e.State, e.Generation, e.Since = checkpoint.ParkedReleased, generation, time.Now().UTC()
		}
	}
	return nil
}

func (s *simStore) SaveMapping(_ context.Context, version string, text []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.mappings[version]; ok && old != string(text) {
		return fmt.Errorf("mapping %s has another text", version)
	}
	s.mappings[version] = string(text)
	return nil
}

func (s *simStore) Mapping(_ context.Context, version string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t, ok := s.mappings[version]; ok {
		return []byte(t), nil
	}
	return nil, checkpoint.ErrNotFound
}

func (s *simStore) Cursors(context.Context, string) ([]checkpoint.Cursor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []checkpoint.Cursor
	for _, p := range s.parts {
		out = append(out, p.cursor)
	}
	slices.SortFunc(out, func(a, b checkpoint.Cursor) int { return cmp.Compare(a.Partition.String(), b.Partition.String()) })
	return out, nil
}

// outcomes lists the routes of a partition's record that have an outcome.
func (s *simStore) outcomes(id checkpoint.Partition, offset int64, routes []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.part(id)
	return !slices.ContainsFunc(routes, func(r string) bool { _, ok := p.rows[simPos{offset, r}]; return !ok })
}

// state is what the store knows of an entity.
func (s *simStore) state(k checkpoint.EntityKey) *checkpoint.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.states[k]; st != nil {
		return st.Clone()
	}
	return nil
}

func (s *simStore) cursorsSeen() []checkpoint.Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.history)
}

// Find looks for entity and event ids alone.
func (s *simStore) Find(_ context.Context, id string, _ int) ([]checkpoint.Row, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []checkpoint.Row
	for _, p := range s.parts {
		for _, r := range p.rows {
			if r.Event.Key == id || r.Event.ID == id {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b checkpoint.Row) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Partition.String(), b.Partition.String()), cmp.Compare(a.Offset, b.Offset))
	})
	return out, nil
}

// The simulation has no webhooks.
func (s *simStore) SaveNonces(context.Context, []checkpoint.Nonce) error   { return nil }
func (s *simStore) HasNonce(context.Context, string, string) (bool, error) { return false, nil }

func (s *simStore) Unconfirmed(context.Context, string, time.Time, int) (checkpoint.Confirmations, error) {
	return checkpoint.Confirmations{}, nil
}

// What operators read is of no use to the simulation.
func (s *simStore) Counts(context.Context, string) (map[string]map[checkpoint.Outcome]int64, error) {
	return nil, nil
}
func (s *simStore) SaveStatus(context.Context, checkpoint.Status) error     { return nil }
func (s *simStore) Statuses(context.Context) ([]checkpoint.Status, error)   { return nil, nil }
func (s *simStore) Audit(context.Context, checkpoint.Audit) error           { return nil }
func (s *simStore) Audits(context.Context, int) ([]checkpoint.Audit, error) { return nil, nil }

// dump says what is known of a key, for a failure's report.
func (s *simStore) dump(key string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, id := range slices.SortedFunc(maps.Keys(s.parts), func(a, b checkpoint.Partition) int { return cmp.Compare(a.String(), b.String()) }) {
		p := s.parts[id]
		for _, k := range slices.SortedFunc(maps.Keys(p.rows), func(a, b simPos) int { return cmp.Or(cmp.Compare(a.offset, b.offset), cmp.Compare(a.route, b.route)) }) {
			if r := p.rows[k]; r.Event.Key == key {
				out = append(out, fmt.Sprintf("%s/%d %s v%d %s: %s %s %s %s gen %d plan %+v attempts %+v", id, k.offset, k.route, r.Event.Version, r.Event.ID, r.Outcome, r.Cause, r.Reason, r.SupersededBy, r.Generation, r.Plan, r.Attempts))
			}
		}
	}
	for _, st := range s.states {
		if st.Key == key {
			out = append(out, fmt.Sprintf("state %+v", *st))
		}
	}
	for _, e := range s.parked {
		if e.EntityKey.Key == key {
			out = append(out, fmt.Sprintf("parked %s/%d %s: %s %s %s", e.Position.Partition, e.Position.Offset, e.Position.Route, e.State, e.Cause, e.Reason))
		}
	}
	return out
}

// A simStoreView is the store as one instance reaches it: with latency, with failures that keep nothing, and no
// longer once the instance is dead.
type simStoreView struct {
	checkpoint.Store // never called but through via
	in               *simInstance
}

// simStoreError is a failure of the store that passes.
var errSimStore = errors.New("simulated: the store does not answer")

func via[T any](v *simStoreView, write bool, f func() (T, error)) (out T, err error) {
	v.in.w.pause(v.in.w.shape.storeLatency)
	if write {
		v.in.point("store_before")
	}
	err = v.in.alive(func() error {
		if v.in.w.storeFails() {
			return errSimStore
		}
		out, err = f()
		return err
	})
	if write {
		v.in.point("store_after")
	}
	v.in.w.pause(v.in.w.shape.storeLatency / 2)
	return out, err
}

func (v *simStoreView) one(f func() error) error {
	_, err := via(v, true, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

func (v *simStoreView) ID() string { return v.Store.ID() }
func (v *simStoreView) Acquire(ctx context.Context, p checkpoint.Partition, owner string) (checkpoint.Recovery, error) {
	return via(v, true, func() (checkpoint.Recovery, error) { return v.Store.Acquire(ctx, p, owner) })
}
func (v *simStoreView) Release(ctx context.Context, l checkpoint.Lease) error {
	return v.one(func() error { return v.Store.Release(ctx, l) })
}
func (v *simStoreView) Raise(ctx context.Context, hs []checkpoint.Horizon) error {
	return v.one(func() error { return v.Store.Raise(ctx, hs) })
}
func (v *simStoreView) Rewind(ctx context.Context, l checkpoint.Lease, c checkpoint.Cursor, a checkpoint.Audit) error {
	return v.one(func() error { return v.Store.Rewind(ctx, l, c, a) })
}
func (v *simStoreView) Skip(ctx context.Context, s checkpoint.Skip) error {
	return v.one(func() error { return v.Store.Skip(ctx, s) })
}
func (v *simStoreView) Begin(ctx context.Context, bs []checkpoint.Begin) error {
	return v.one(func() error { return v.Store.Begin(ctx, bs) })
}
func (v *simStoreView) Settle(ctx context.Context, b checkpoint.Batch) (checkpoint.Result, error) {
	return via(v, true, func() (checkpoint.Result, error) { return v.Store.Settle(ctx, b) })
}
func (v *simStoreView) Evidence(ctx context.Context, es []checkpoint.Evidence) error {
	return v.one(func() error { return v.Store.Evidence(ctx, es) })
}
func (v *simStoreView) Rows(ctx context.Context, p checkpoint.Partition, from, to int64) ([]checkpoint.Row, error) {
	return via(v, false, func() ([]checkpoint.Row, error) { return v.Store.Rows(ctx, p, from, to) })
}
func (v *simStoreView) Skips(ctx context.Context, p checkpoint.Partition) ([]checkpoint.Skip, error) {
	return v.Store.Skips(ctx, p) // a failure here ends the connector: it is not repeated
}
func (v *simStoreView) States(ctx context.Context, c string, keys []checkpoint.EntityKey) (map[checkpoint.EntityKey]*checkpoint.State, error) {
	return via(v, false, func() (map[checkpoint.EntityKey]*checkpoint.State, error) { return v.Store.States(ctx, c, keys) })
}
func (v *simStoreView) Seen(ctx context.Context, c, id string, not checkpoint.Position) (bool, error) {
	return via(v, false, func() (bool, error) { return v.Store.Seen(ctx, c, id, not) })
}
func (v *simStoreView) Await(ctx context.Context, ws []checkpoint.Waiter) ([]bool, error) {
	return via(v, true, func() ([]bool, error) { return v.Store.Await(ctx, ws) })
}
func (v *simStoreView) Woken(ctx context.Context, c string, limit int) ([]checkpoint.Waiter, error) {
	return via(v, false, func() ([]checkpoint.Waiter, error) { return v.Store.Woken(ctx, c, limit) })
}
func (v *simStoreView) Forget(ctx context.Context, ps []checkpoint.Position) error {
	return v.one(func() error { return v.Store.Forget(ctx, ps) })
}
func (v *simStoreView) Parked(ctx context.Context, q checkpoint.ParkedQuery) ([]checkpoint.Parked, error) {
	return via(v, false, func() ([]checkpoint.Parked, error) { return v.Store.Parked(ctx, q) })
}
func (v *simStoreView) ReleaseParked(ctx context.Context, ps []checkpoint.Position, g uint32, a checkpoint.Audit) error {
	return v.one(func() error { return v.Store.ReleaseParked(ctx, ps, g, a) })
}
func (v *simStoreView) Find(ctx context.Context, id string, limit int) ([]checkpoint.Row, error) {
	return via(v, false, func() ([]checkpoint.Row, error) { return v.Store.Find(ctx, id, limit) })
}
func (v *simStoreView) SaveMapping(ctx context.Context, version string, text []byte) error {
	return v.one(func() error { return v.Store.SaveMapping(ctx, version, text) })
}
func (v *simStoreView) Mapping(ctx context.Context, version string) ([]byte, error) {
	return via(v, false, func() ([]byte, error) { return v.Store.Mapping(ctx, version) })
}
func (v *simStoreView) SaveStatus(ctx context.Context, s checkpoint.Status) error {
	return v.one(func() error { return v.Store.SaveStatus(ctx, s) })
}
