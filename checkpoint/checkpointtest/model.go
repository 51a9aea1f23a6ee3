package checkpointtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/checkpoint"
)

// A recordKey names a record and route of one partition in the model.
type recordKey struct {
	part  int
	off   int64
	route string
}

// model is what a store must do, without durability, transactions or speed: maps.
type model struct {
	parts  []checkpoint.Partition
	epoch  []uint64
	cur    []checkpoint.Cursor
	last   []int64
	skips  [][]checkpoint.Skip
	rows   map[recordKey]checkpoint.Row
	begins map[recordKey][]checkpoint.Begin
	states map[string]bool // key -> has ids or is deleted
	wait   map[recordKey]*modelWaiter
	parked map[recordKey]*modelParked
}

type modelWaiter struct {
	ref    string
	parked bool
	woken  bool
}

type modelParked struct {
	state      checkpoint.ParkedState
	generation uint32
}

func (m *model) clone() *model {
	c := *m
	c.epoch, c.cur, c.last = slices.Clone(m.epoch), slices.Clone(m.cur), slices.Clone(m.last)
	c.skips = slices.Clone(m.skips)
	c.rows, c.begins, c.states = maps.Clone(m.rows), maps.Clone(m.begins), maps.Clone(m.states)
	c.wait, c.parked = maps.Clone(m.wait), maps.Clone(m.parked)
	for k, v := range c.wait {
		w := *v
		c.wait[k] = &w
	}
	for k, v := range c.parked {
		p := *v
		c.parked[k] = &p
	}
	return &c
}

// final reports whether a record has an outcome that nothing replaces.
func (m *model) final(k recordKey) bool {
	if r, ok := m.rows[k]; ok {
		return r.Outcome != checkpoint.ParkedOut
	}
	return slices.ContainsFunc(m.skips[k.part], func(s checkpoint.Skip) bool { return s.From <= k.off && k.off < s.To })
}

func (m *model) wake(ref string) (woken int) {
	for _, w := range m.wait {
		if w.ref == ref && !w.woken {
			w.woken = true
			woken++
		}
	}
	return woken
}

// settle answers what Settle must; on a refusal it changes nothing.
func (m *model) settle(b checkpoint.Batch, index map[checkpoint.Partition]int) (*model, checkpoint.Result, error) {
	c := m.clone()
	var res checkpoint.Result
	fenced := func(l checkpoint.Lease) bool {
		if l.Epoch == c.epoch[index[l.Partition]] {
			return false
		}
		if !slices.Contains(res.Fenced, l.Partition) {
			res.Fenced = append(res.Fenced, l.Partition)
		}
		return true
	}
	for _, s := range b.Settlements {
		if fenced(s.Lease) {
			continue
		}
		p := index[s.Lease.Partition]
		k := recordKey{p, s.Row.Offset, s.Row.Route}
		if c.final(k) {
			return m, checkpoint.Result{}, checkpoint.ErrSettled
		}
		r := s.Row
		r.Partition = s.Lease.Partition
		old, replaced := c.rows[k]
		if replaced {
			r.Attempts = append(slices.Clone(old.Attempts), r.Attempts...)
		}
		c.rows[k] = r
		c.last[p] = max(c.last[p], r.Offset)
		delete(c.begins, k)
		if w := c.wait[k]; w != nil {
			if r.Cause == checkpoint.CauseMissingReference {
				w.parked = true
			} else {
				delete(c.wait, k)
			}
		}
		if s.Park != nil {
			c.parked[k] = &modelParked{state: checkpoint.ParkedOpen}
		} else if e := c.parked[k]; replaced && e != nil && (e.state == checkpoint.ParkedOpen || e.state == checkpoint.ParkedReleased) {
			e.state = checkpoint.ParkedResolved
		}
		if s.State != nil {
			present := len(s.State.IDs) > 0 || s.State.Deleted
			c.states[s.State.Key] = present
			if present {
				res.Woken += c.wake(s.State.Key)
			}
		}
	}
	for _, r := range b.Retractions {
		if fenced(r.Lease) {
			continue
		}
		k := recordKey{index[r.Lease.Partition], r.Offset, r.Route}
		left := slices.DeleteFunc(slices.Clone(c.begins[k]), func(o checkpoint.Begin) bool { return o.Batch != nil && o.Batch.ID == r.Batch })
		if c.begins[k] = left; len(left) == 0 {
			delete(c.begins, k)
		}
	}
	for _, mk := range b.Marks {
		if !fenced(mk.Lease) {
			cur := &c.cur[index[mk.Lease.Partition]]
			cur.Mark = max(cur.Mark, mk.Mark)
			cur.Horizon = max(cur.Horizon, cur.Mark)
		}
	}
	return c, res, nil
}

// testModel runs random operations against the store and the model, with reopenings, and compares all that a
// caller can see.
func testModel(b *bundle) {
	checks := 0
	rapid.Check(b.T, func(t *rapid.T) {
		checks++
		// Each run has topics of its own in the one store: opening a store is slow.
		m := &model{rows: make(map[recordKey]checkpoint.Row), begins: make(map[recordKey][]checkpoint.Begin),
			states: make(map[string]bool), wait: make(map[recordKey]*modelWaiter), parked: make(map[recordKey]*modelParked)}
		connector := fmt.Sprint("c", checks)
		index := make(map[checkpoint.Partition]int)
		for i := range 2 {
			p := checkpoint.Partition{Connector: connector, Topic: "topic", Index: int32(i)}
			m.parts = append(m.parts, p)
			index[p] = i
			m.epoch = append(m.epoch, 0)
			m.last = append(m.last, -1)
			m.cur = append(m.cur, checkpoint.Cursor{Partition: p, Mark: -1, Horizon: -1})
			m.skips = append(m.skips, nil)
		}
		ctx := context.WithoutCancel(b.ctx)
		fail := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		acquire := func(t *rapid.T, i int) {
			r, err := b.Acquire(ctx, m.parts[i], "x")
			fail("acquire", err)
			if r.Lease.Epoch <= m.epoch[i] {
				t.Fatalf("epoch %d after %d", r.Lease.Epoch, m.epoch[i])
			}
			m.epoch[i] = r.Lease.Epoch
			m.cur[i].Epoch = r.Lease.Epoch
			equal(t, "recovered cursor", r.Cursor, m.cur[i])
			equal(t, "last", r.Last, m.last[i])
			equal(t, "open", r.Open, m.open(i))
			var released []int64
			for _, e := range r.Released {
				released = append(released, e.Position.Offset)
			}
			equal(t, "released", released, m.released(i))
		}
		acquire(t, 0)
		acquire(t, 1)
		partIndex := rapid.IntRange(0, 1)
		offset := rapid.Int64Range(0, 9)
		route := rapid.SampledFrom([]string{"a", "b"})
		ref := rapid.SampledFrom([]string{"r0", "r1", "r2"})
		inBatch := rapid.SampledFrom([]string{"", "b1", "b2"})
		lease := func(t *rapid.T) checkpoint.Lease {
			i := partIndex.Draw(t, "partition")
			l := checkpoint.Lease{Partition: m.parts[i], Epoch: m.epoch[i]}
			if l.Epoch > 1 && rapid.IntRange(0, 4).Draw(t, "stale") == 0 {
				l.Epoch--
			}
			return l
		}
		isFenced := func(t *rapid.T, what string, err error, l checkpoint.Lease) bool {
			if l.Epoch == m.epoch[index[l.Partition]] {
				return false
			}
			if f, ok := errors.AsType[*checkpoint.FencedError](err); !ok || f.Partition != l.Partition {
				t.Fatalf("%s under an old epoch: error %v, want a FencedError of %s", what, err, l.Partition)
			}
			return true
		}
		n := 0
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) { acquire(t, partIndex.Draw(t, "partition")) },
			"reopen": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "seldom") == 0 {
					b.reopen()
				}
			},
			"settle": func(t *rapid.T) {
				var batch checkpoint.Batch
				for range rapid.IntRange(1, 3).Draw(t, "settlements") {
					n++
					l := lease(t)
					r := checkpoint.Row{Offset: offset.Draw(t, "offset"), Route: route.Draw(t, "route"), At: at(n),
						Event:    checkpoint.Event{ID: fmt.Sprintf("%s-e%d", connector, n)},
						Attempts: []checkpoint.Attempt{{N: n, At: at(n), Verdict: "accept"}},
						Outcome:  rapid.SampledFrom([]checkpoint.Outcome{checkpoint.Delivered, checkpoint.Ignored, checkpoint.ParkedOut, checkpoint.ParkedOut}).Draw(t, "outcome")}
					st := checkpoint.Settlement{Lease: l}
					if r.Outcome == checkpoint.ParkedOut {
						r.Cause = rapid.SampledFrom([]checkpoint.Cause{checkpoint.CauseRejected, checkpoint.CauseMissingReference}).Draw(t, "cause")
						st.Park = entry(l.Partition, r)
					}
					if rapid.Bool().Draw(t, "state") {
						st.State = &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: ref.Draw(t, "key")}}
						switch rapid.IntRange(0, 2).Draw(t, "presence") {
						case 0:
							st.State.IDs = map[string]string{"id": "1"}
						case 1:
							st.State.Deleted = true
						}
					}
					st.Row = r
					batch.Settlements = append(batch.Settlements, st)
				}
				if rapid.Bool().Draw(t, "retraction") {
					batch.Retractions = append(batch.Retractions, checkpoint.Retraction{Lease: lease(t), Offset: offset.Draw(t, "offset"), Route: route.Draw(t, "route"), Batch: inBatch.Draw(t, "batch")})
				}
				if rapid.Bool().Draw(t, "mark") {
					batch.Marks = append(batch.Marks, checkpoint.Mark{Lease: lease(t), Mark: rapid.Int64Range(-1, 12).Draw(t, "mark")})
				}
				next, want, wantErr := m.settle(batch, index)
				got, err := b.Settle(ctx, batch)
				if !errors.Is(err, wantErr) {
					t.Fatalf("settle: error %v, want %v", err, wantErr)
				}
				if err == nil {
					equal(t, "result", got, want)
				}
				m = next
			},
			"begin": func(t *rapid.T) {
				n++
				l := lease(t)
				bg := checkpoint.Begin{Lease: l, Offset: offset.Draw(t, "offset"), Route: route.Draw(t, "route"), Step: rapid.SampledFrom([]string{"s", "t"}).Draw(t, "step"), Key: fmt.Sprint("k", n), At: at(n)}
				if id := inBatch.Draw(t, "batch"); id != "" {
					bg.Batch = &checkpoint.BatchSend{ID: id, Size: 2}
				}
				k := recordKey{index[l.Partition], bg.Offset, bg.Route}
				err := b.Begin(ctx, []checkpoint.Begin{bg})
				if isFenced(t, "begin", err, l) {
					return
				}
				if m.final(k) {
					if !errors.Is(err, checkpoint.ErrSettled) {
						t.Fatalf("begin of a settled record: error %v, want ErrSettled", err)
					}
					return
				}
				fail("begin", err)
				i := slices.IndexFunc(m.begins[k], func(o checkpoint.Begin) bool { return o.Step == bg.Step })
				if i >= 0 && (m.begins[k][i].Batch == nil || bg.Batch != nil && *bg.Batch == *m.begins[k][i].Batch) {
					return // the first stays
				}
				begins := slices.Clone(m.begins[k])
				if i >= 0 {
					begins = slices.Delete(begins, i, i+1)
				}
				m.begins[k] = append(begins, bg)
			},
			"raise": func(t *rapid.T) {
				l := lease(t)
				h := checkpoint.Horizon{Lease: l, Horizon: rapid.Int64Range(0, 20).Draw(t, "horizon"), Lower: rapid.Bool().Draw(t, "lower")}
				if err := b.Raise(ctx, []checkpoint.Horizon{h}); isFenced(t, "raise", err, l) {
					return
				} else {
					fail("raise", err)
				}
				c := &m.cur[index[l.Partition]]
				if h.Horizon > c.Horizon || h.Lower {
					c.Horizon = max(h.Horizon, c.Mark)
				}
			},
			"rewind": func(t *rapid.T) {
				l := lease(t)
				c := checkpoint.Cursor{Mark: rapid.Int64Range(-1, 12).Draw(t, "mark"), Horizon: rapid.Int64Range(-1, 12).Draw(t, "horizon"), LostBelow: rapid.Int64Range(0, 9).Draw(t, "lost")}
				if err := b.Rewind(ctx, l, c, checkpoint.Audit{}); isFenced(t, "rewind", err, l) {
					return
				} else {
					fail("rewind", err)
				}
				cur := &m.cur[index[l.Partition]]
				cur.Mark, cur.Horizon, cur.LostBelow = c.Mark, max(c.Mark, c.Horizon), c.LostBelow
			},
			"skip": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "seldom") > 0 {
					return
				}
				l := lease(t)
				sk := checkpoint.Skip{Lease: l, From: rapid.Int64Range(0, 8).Draw(t, "from"), At: at(1)}
				sk.To = sk.From + rapid.Int64Range(1, 2).Draw(t, "length")
				i := index[l.Partition]
				if err := b.Skip(ctx, sk); isFenced(t, "skip", err, l) {
					return
				} else {
					fail("skip", err)
				}
				if slices.ContainsFunc(m.skips[i], func(o checkpoint.Skip) bool { return o.From == sk.From && o.To == sk.To }) {
					return
				}
				m.skips[i] = append(slices.Clone(m.skips[i]), sk)
				m.cur[i].Mark = max(m.cur[i].Mark, sk.To)
				m.cur[i].Horizon = max(m.cur[i].Horizon, m.cur[i].Mark)
				m.last[i] = max(m.last[i], sk.To-1)
				in := func(k recordKey) bool {
					_, own := m.rows[k]
					return k.part == i && sk.From <= k.off && k.off < sk.To && !own
				}
				maps.DeleteFunc(m.begins, func(k recordKey, _ []checkpoint.Begin) bool { return in(k) })
				maps.DeleteFunc(m.wait, func(k recordKey, _ *modelWaiter) bool { return in(k) })
			},
			"await": func(t *rapid.T) {
				i := partIndex.Draw(t, "partition")
				k := recordKey{i, offset.Draw(t, "offset"), route.Draw(t, "route")}
				w := checkpoint.Waiter{Position: checkpoint.Position{Partition: m.parts[i], Offset: k.off, Route: k.route}, RefEntity: "customer", RefKey: ref.Draw(t, "ref"), Since: at(1)}
				got, err := b.Await(ctx, []checkpoint.Waiter{w})
				if m.final(k) {
					if !errors.Is(err, checkpoint.ErrSettled) {
						t.Fatalf("await of a settled record: error %v, want ErrSettled", err)
					}
					return
				}
				fail("await", err)
				equal(t, "present", got, []bool{m.states[w.RefKey]})
				m.wait[k] = &modelWaiter{ref: w.RefKey, woken: m.states[w.RefKey]}
			},
			"forget": func(t *rapid.T) {
				i := partIndex.Draw(t, "partition")
				k := recordKey{i, offset.Draw(t, "offset"), route.Draw(t, "route")}
				fail("forget", b.Forget(ctx, []checkpoint.Position{{Partition: m.parts[i], Offset: k.off, Route: k.route}}))
				delete(m.wait, k)
			},
			"release": func(t *rapid.T) {
				i := partIndex.Draw(t, "partition")
				k := recordKey{i, offset.Draw(t, "offset"), route.Draw(t, "route")}
				n++
				err := b.ReleaseParked(ctx, []checkpoint.Position{{Partition: m.parts[i], Offset: k.off, Route: k.route}}, uint32(n), checkpoint.Audit{})
				e := m.parked[k]
				if e == nil {
					if !errors.Is(err, checkpoint.ErrNotFound) {
						t.Fatalf("release of a record that is not parked: error %v, want ErrNotFound", err)
					}
					return
				}
				fail("release", err)
				if e.state == checkpoint.ParkedOpen {
					e.state, e.generation = checkpoint.ParkedReleased, uint32(n)
				}
			},
			"": func(t *rapid.T) { m.compare(t, b, ctx, connector) },
		})
	})
	if checks == 0 {
		b.Fatal("the model was never compared")
	}
}

func (m *model) open(i int) []checkpoint.Open {
	var open []checkpoint.Open
	for k, bs := range m.begins {
		if k.part == i {
			open = append(open, checkpoint.Open{Offset: k.off, Route: k.route, Begins: bs})
		}
	}
	slices.SortFunc(open, func(a, b checkpoint.Open) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
	})
	return open
}

func (m *model) released(i int) []int64 {
	var offs []int64
	for k, e := range m.parked {
		if k.part == i && e.state == checkpoint.ParkedReleased {
			offs = append(offs, k.off)
		}
	}
	slices.Sort(offs)
	return offs
}

// compare holds the store against the model.
func (m *model) compare(t *rapid.T, b *bundle, ctx context.Context, connector string) {
	cs, err := b.Cursors(ctx, connector)
	if err != nil {
		t.Fatalf("cursors: %v", err)
	}
	equal(t, "cursors", cs, m.cur)
	counts := make(map[string]map[checkpoint.Outcome]int64)
	count := func(route string, o checkpoint.Outcome) {
		if counts[route] == nil {
			counts[route] = make(map[checkpoint.Outcome]int64)
		}
		counts[route][o]++
	}
	for i, p := range m.parts {
		var want []checkpoint.Row
		for k, r := range m.rows {
			if k.part == i {
				want = append(want, r)
				count(k.route, r.Outcome)
			}
		}
		slices.SortFunc(want, func(a, b checkpoint.Row) int {
			return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Route, b.Route))
		})
		rows, err := b.Rows(ctx, p, 0, 100)
		if err != nil {
			t.Fatalf("rows: %v", err)
		}
		skipped := 0
		rows = slices.DeleteFunc(rows, func(r checkpoint.Row) bool {
			if r.Route == "*" {
				skipped++
			}
			return r.Route == "*"
		})
		equal(t, "rows", rows, want)
		equal(t, "rows of skips", skipped, len(m.skips[i]))
		for range m.skips[i] {
			count("*", checkpoint.Skipped)
		}
	}
	got, err := b.Counts(ctx, connector)
	if err != nil {
		t.Fatalf("counts: %v", err)
	}
	equal(t, "counts", got, counts)

	entries, err := b.Parked(ctx, checkpoint.ParkedQuery{Connector: connector})
	if err != nil {
		t.Fatalf("parked: %v", err)
	}
	parked := make(map[recordKey]modelParked)
	for _, e := range entries {
		parked[recordKey{int(e.Position.Partition.Index), e.Position.Offset, e.Position.Route}] = modelParked{e.State, e.Generation}
	}
	wantParked := make(map[recordKey]modelParked)
	for k, e := range m.parked {
		wantParked[k] = *e
	}
	equal(t, "parked index", fmt.Sprint(parked), fmt.Sprint(wantParked))

	ws, err := b.Woken(ctx, connector, 0)
	if err != nil {
		t.Fatalf("woken: %v", err)
	}
	woken, wantWoken := make(map[recordKey]modelWaiter), make(map[recordKey]modelWaiter)
	for _, w := range ws {
		woken[recordKey{int(w.Position.Partition.Index), w.Position.Offset, w.Position.Route}] = modelWaiter{w.RefKey, w.Parked, w.Woken}
	}
	for k, w := range m.wait {
		if w.woken {
			wantWoken[k] = *w
		}
	}
	equal(t, "woken waiters", fmt.Sprint(woken), fmt.Sprint(wantWoken))

	for _, r := range m.rows {
		found, err := b.Find(ctx, r.Event.ID, 0)
		if err != nil {
			t.Fatalf("find: %v", err)
		}
		if !slices.ContainsFunc(found, func(f checkpoint.Row) bool { return f.Event.ID == r.Event.ID && f.Offset == r.Offset }) {
			t.Fatalf("find %s: %+v, want its row", r.Event.ID, found)
		}
		break // one a round: the lookups have tests of their own
	}
}
