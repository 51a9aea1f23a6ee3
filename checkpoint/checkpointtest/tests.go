package checkpointtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

func testIdentity(b *bundle) {
	id := b.ID()
	if id == "" {
		b.Fatal("the store has no id")
	}
	b.reopen()
	equal(b, "id after reopening", b.ID(), id)
}

func testAcquire(b *bundle) {
	p := part("t", 0)
	first := b.recover(p)
	equal(b, "first recovery", first, checkpoint.Recovery{
		Lease:  checkpoint.Lease{Partition: p, Epoch: first.Lease.Epoch},
		Cursor: checkpoint.Cursor{Partition: p, Epoch: first.Lease.Epoch, Mark: -1, Horizon: -1},
		Fresh:  true, Last: -1})
	if first.Lease.Epoch == 0 {
		b.Fatal("first epoch is 0")
	}
	second := b.acquire(p)
	if second.Epoch <= first.Lease.Epoch {
		b.Fatalf("second epoch %d, want above %d", second.Epoch, first.Lease.Epoch)
	}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: second, Row: row(7)}}, Marks: []checkpoint.Mark{{Lease: second, Mark: 5}}})
	b.must("raise", b.Raise(b.ctx, []checkpoint.Horizon{{Lease: second, Horizon: 20, Mapping: "m1", At: at(1)}}))
	b.reopen()
	third := b.recover(p)
	if third.Lease.Epoch <= second.Epoch {
		b.Fatalf("epoch after reopening %d, want above %d", third.Lease.Epoch, second.Epoch)
	}
	equal(b, "recovery after reopening", third, checkpoint.Recovery{Lease: third.Lease, Last: 7,
		Cursor: checkpoint.Cursor{Partition: p, Epoch: third.Lease.Epoch, Mark: 5, Horizon: 20, Mapping: "m1", At: at(1)}})
}

func testFresh(b *bundle) {
	p0, p1 := part("t", 0), part("t", 1)
	r0, r1 := b.recover(p0), b.recover(p1)
	if !r0.Fresh || !r1.Fresh {
		b.Fatalf("fresh: %v and %v, want both: neither has a mark", r0.Fresh, r1.Fresh)
	}
	b.settle(checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: r0.Lease, Mark: 0}}})
	b.reopen()
	if r := b.recover(p0); r.Fresh {
		b.Error("a partition with a mark is fresh")
	}
	if r := b.recover(p1); !r.Fresh {
		b.Error("a partition acquired at the topic's start, without a mark yet, is not fresh any more")
	}
	if r := b.recover(part("t", 2)); r.Fresh {
		b.Error("a partition added later is fresh")
	}
	if r := b.recover(part("other", 0)); !r.Fresh {
		b.Error("a partition of another topic is not fresh")
	}
	q := part("t", 0)
	q.Connector = "finfusion"
	if r := b.recover(q); !r.Fresh {
		b.Error("a partition of another connector is not fresh")
	}
}

func testOtherID(b *bundle) {
	old := part("t", 0)
	l := b.acquire(old)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(3)}}, Marks: []checkpoint.Mark{{Lease: l, Mark: 4}}})
	made := old
	made.ID = checkpoint.TopicID{15: 2}
	r := b.recover(made)
	equal(b, "other id", r.OtherID, old.ID)
	if r.Fresh || r.Cursor.Mark != -1 || r.Last != -1 {
		b.Errorf("recreated topic: fresh %v, mark %d, last %d; want false, -1, -1", r.Fresh, r.Cursor.Mark, r.Last)
	}
	if rows := b.rows(made, 0, 10); len(rows) != 0 {
		b.Errorf("the recreated topic has the old one's rows: %v", rows)
	}
	b.settle(one(r.Lease, row(3))) // the same offset, another record
	equal(b, "rows of the old topic", len(b.rows(old, 0, 10)), 1)
	equal(b, "other id of another partition", b.recover(part("t", 1)).OtherID, checkpoint.TopicID{})
}

func testRelease(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	b.must("release", b.Release(b.ctx, l))
	b.must("release twice", b.Release(b.ctx, l))
	next := b.acquire(p)
	if next.Epoch <= l.Epoch {
		b.Fatalf("epoch after release %d, want above %d", next.Epoch, l.Epoch)
	}
	b.must("release of a fenced lease", b.Release(b.ctx, l))
	if r := b.settle(one(next, row(1))); len(r.Fenced) > 0 {
		b.Error("a fenced release took the new owner's lease")
	}
}

func testRaise(b *bundle) {
	p, q := part("t", 0), part("t", 1)
	l, lq := b.acquire(p), b.acquire(q)
	raise := func(h int64, lower bool) {
		b.Helper()
		b.must("raise", b.Raise(b.ctx, []checkpoint.Horizon{{Lease: l, Horizon: h, Mapping: fmt.Sprint("m", h), At: at(int(h)), Lower: lower}}))
	}
	horizon := func(want int64) {
		b.Helper()
		equal(b, "horizon", b.cursor(p).Horizon, want)
	}
	raise(100, false)
	horizon(100)
	raise(50, false)
	horizon(100)
	equal(b, "mapping after a horizon that did not rise", b.cursor(p).Mapping, "m100")
	raise(200, true)
	horizon(200)
	b.settle(checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: l, Mark: 60}}})
	raise(70, true)
	horizon(70)
	raise(10, true)
	horizon(60) // never below the mark
	b.settle(checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: l, Mark: 80}}})
	horizon(80)
	b.must("raise two", b.Raise(b.ctx, []checkpoint.Horizon{{Lease: l, Horizon: 300}, {Lease: lq, Horizon: 7}}))
	b.reopen()
	horizon(300)
	equal(b, "horizon of the other partition", b.cursor(q).Horizon, int64(7))
}

func testRewind(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(90)}}, Marks: []checkpoint.Mark{{Lease: l, Mark: 100}}})
	b.must("rewind", b.Rewind(b.ctx, l, checkpoint.Cursor{Mark: 10, Horizon: 40, LostBelow: 500}, checkpoint.Audit{At: at(1), Actor: "ann", Action: "rewind", Reason: "backup"}))
	check := func() {
		b.Helper()
		c := b.cursor(p)
		equal(b, "rewound cursor", []int64{c.Mark, c.Horizon, c.LostBelow}, []int64{10, 40, 500})
		equal(b, "rows after a rewind", len(b.rows(p, 0, 100)), 1)
	}
	check()
	as, err := b.Audits(b.ctx, 1)
	b.must("audits", err)
	equal(b, "audit", as, []checkpoint.Audit{{At: at(1), Actor: "ann", Action: "rewind", Reason: "backup"}})
	b.reopen()
	check()
	b.must("rewind to a horizon below the mark", b.Rewind(b.ctx, l, checkpoint.Cursor{Mark: 30, Horizon: 5}, checkpoint.Audit{}))
	c := b.cursor(p)
	equal(b, "cursor", []int64{c.Mark, c.Horizon, c.LostBelow}, []int64{30, 30, 0})

	b.acquire(p)
	err = b.Rewind(b.ctx, l, checkpoint.Cursor{Mark: 1}, checkpoint.Audit{})
	if _, ok := errors.AsType[*checkpoint.FencedError](err); !ok {
		b.Errorf("rewind under an old epoch: error %v, want a FencedError", err)
	}
	equal(b, "mark after a fenced rewind", b.cursor(p).Mark, int64(30))
}

func testSkip(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(12)}}, Marks: []checkpoint.Mark{{Lease: l, Mark: 10}}})
	sk := checkpoint.Skip{Lease: l, From: 10, To: 50, Reason: "reset to the end", By: "ann", At: at(9)}
	b.must("skip", b.Skip(b.ctx, sk))
	b.must("skip again", b.Skip(b.ctx, sk))
	check := func() {
		b.Helper()
		skips, err := b.Skips(b.ctx, p)
		b.must("skips", err)
		equal(b, "skips", skips, []checkpoint.Skip{sk})
		c := b.cursor(p)
		equal(b, "mark and horizon", []int64{c.Mark, c.Horizon}, []int64{50, 50})
		rows := b.rows(p, 0, 100)
		if len(rows) != 2 || rows[0].Route != "*" || rows[0].Offset != 10 || rows[0].Outcome != checkpoint.Skipped || rows[1].Offset != 12 || rows[1].Outcome != checkpoint.Delivered {
			b.Fatalf("rows: %+v, want the skip at 10 and the delivered row at 12", rows)
		}
		if !strings.Contains(rows[0].Reason, "10") || !strings.Contains(rows[0].Reason, "49") || !strings.Contains(rows[0].Reason, "reset to the end") {
			b.Errorf("reason %q names neither range nor reason", rows[0].Reason)
		}
		rows = b.rows(p, 30, 31)
		if len(rows) != 1 || rows[0].Offset != 30 || rows[0].Route != "*" {
			b.Fatalf("rows of [30,31): %+v, want one of the skip at 30", rows)
		}
		equal(b, "rows behind the skip", len(b.rows(p, 50, 100)), 0)
	}
	check()
	b.reopen()
	check()
	as, err := b.Audits(b.ctx, 0)
	b.must("audits", err)
	if len(as) != 1 || as[0].Actor != "ann" || as[0].Reason != "reset to the end" {
		b.Errorf("audits: %+v, want one of ann with the reason", as)
	}
	r := b.recover(p)
	equal(b, "last", r.Last, int64(49))
	_, err = b.Settle(b.ctx, one(r.Lease, row(11)))
	b.mustBe("settle of a skipped record", err, checkpoint.ErrSettled)
	b.mustBe("begin of a skipped record", b.Begin(b.ctx, []checkpoint.Begin{{Lease: r.Lease, Offset: 11, Route: "create", Step: "s"}}), checkpoint.ErrSettled)
	equal(b, "rows of 11", len(b.rows(p, 11, 12)), 1)
	b.settle(one(r.Lease, row(50)))
	if err := b.Skip(b.ctx, checkpoint.Skip{Lease: r.Lease, From: 5, To: 5}); err == nil {
		b.Error("an empty skip is taken")
	}
	err = b.Skip(b.ctx, checkpoint.Skip{Lease: l, From: 60, To: 70})
	if _, ok := errors.AsType[*checkpoint.FencedError](err); !ok {
		b.Errorf("skip under an old epoch: error %v, want a FencedError", err)
	}
}

func testSkipClosesOpenRecords(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	parked := parkedRow(22, checkpoint.CauseRejected)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: parked, Park: entry(p, parked)}}})
	b.must("begin", b.Begin(b.ctx, []checkpoint.Begin{
		{Lease: l, Offset: 20, Route: "create", Step: "s", Key: "key-of-20", At: at(1)},
		{Lease: l, Offset: 22, Route: "create", Step: "s", Key: "key-of-22", At: at(1), Generation: 1},
		{Lease: l, Offset: 30, Route: "create", Step: "s", Key: "key-of-30", At: at(1)}}))
	_, err := b.Await(b.ctx, []checkpoint.Waiter{{Position: pos(p, 21), RefEntity: "customer", RefKey: "c", Since: at(1)}})
	b.must("await", err)
	b.must("skip", b.Skip(b.ctx, checkpoint.Skip{Lease: l, From: 20, To: 30, By: "ann"}))
	var open []int64
	for _, o := range b.recover(p).Open {
		open = append(open, o.Offset)
	}
	equal(b, "open records: the parked one is not skipped, since it has a row of its own", open, []int64{22, 30})
	as, err := b.Audits(b.ctx, 1)
	b.must("audits", err)
	if !strings.Contains(as[0].Detail, "key-of-20") || !strings.Contains(as[0].Detail, "21") || strings.Contains(as[0].Detail, "key-of-22") {
		b.Errorf("audit detail %q, want the begun 20 and the waiting 21 only", as[0].Detail)
	}
	l = b.acquire(p)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, State: &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: "c"}, IDs: map[string]string{"id": "1"}}, Row: row(40)}}})
	equal(b, "woken", len(b.woken(p.Connector)), 0)
	b.settle(one(l, row(22))) // parked before the skip: its release goes on
}

func testRowKeepsEveryField(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	r := filled[checkpoint.Row]()
	r.Partition, r.Outcome = p, checkpoint.Accepted
	r.Plan[0].IDs, r.Plan[1].IDs = map[string]string{"a": "1"}, nil
	r.Attempts[0].N, r.Attempts[1].N = 1, 2
	b.settle(one(l, r))
	equal(b, "row", b.rows(p, 0, 1000), []checkpoint.Row{r})
	small := checkpoint.Row{Partition: p, Offset: 1000, Outcome: checkpoint.Ignored, EventHash: 1<<64 - 1}
	b.settle(one(l, small))
	b.reopen()
	equal(b, "row after reopening", b.rows(p, 0, 1000), []checkpoint.Row{r})
	equal(b, "row of zero fields", b.rows(p, 1000, 1001), []checkpoint.Row{small})
	for i, o := range checkpoint.Outcomes {
		small := checkpoint.Row{Partition: p, Offset: 2000 + int64(i), Outcome: o}
		b.settle(one(l, small))
		equal(b, "row of outcome "+string(o), b.rows(p, small.Offset, small.Offset+1), []checkpoint.Row{small})
	}
}

func testRowsRange(b *bundle) {
	p, q := part("t", 0), part("t", 1)
	l, lq := b.acquire(p), b.acquire(q)
	for _, off := range []int64{9, 3, 5, 1 << 62, 0} {
		b.settle(one(l, row(off)))
	}
	b.settle(one(lq, row(4)))
	for _, c := range []struct {
		from, to int64
		want     []int64
	}{{0, 1 << 62, []int64{0, 3, 5, 9}}, {3, 9, []int64{3, 5}}, {4, 5, nil}, {5, 5, nil}, {9, 3, nil}, {10, 1<<63 - 1, []int64{1 << 62}}} {
		var got []int64
		for _, r := range b.rows(p, c.from, c.to) {
			got = append(got, r.Offset)
		}
		equal(b, fmt.Sprintf("offsets of [%d,%d)", c.from, c.to), got, c.want)
	}
	equal(b, "rows of a partition never seen", len(b.rows(part("t", 9), 0, 100)), 0)
}

func testRowsOfRoutes(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	one, two := row(1), row(1)
	one.Route, two.Route = "b", "a"
	two.Outcome = checkpoint.Ignored
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: one}, {Lease: l, Row: two}}})
	equal(b, "rows by offset and route", b.rows(p, 0, 10), []checkpoint.Row{stored(p, two), stored(p, one)})
	_, err := b.Settle(b.ctx, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: two}}})
	b.mustBe("second outcome of one route", err, checkpoint.ErrSettled)
}

func testSettleTwice(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	first := row(1)
	b.settle(one(l, first))
	for _, o := range checkpoint.Outcomes {
		again := row(1)
		again.Outcome = o
		_, err := b.Settle(b.ctx, one(l, again))
		b.mustBe("settle again as "+string(o), err, checkpoint.ErrSettled)
	}
	_, err := b.Settle(b.ctx, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(2)}, {Lease: l, Row: row(2)}}})
	b.mustBe("settle twice in one batch", err, checkpoint.ErrSettled)
	b.reopen()
	_, err = b.Settle(b.ctx, one(b.acquire(p), row(1)))
	b.mustBe("settle again after reopening", err, checkpoint.ErrSettled)
	equal(b, "rows", b.rows(p, 0, 10), []checkpoint.Row{stored(p, first)})
}

func testSettleRefusedKeepsNothing(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	b.settle(one(l, row(5)))
	b.must("begin", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 1, Route: "create", Step: "s", At: at(1)}}))
	_, err := b.Settle(b.ctx, checkpoint.Batch{
		Settlements: []checkpoint.Settlement{
			{Lease: l, Row: row(1), State: &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: "cus-1"}}},
			{Lease: l, Row: row(5)}},
		Marks: []checkpoint.Mark{{Lease: l, Mark: 6}}})
	b.mustBe("settle", err, checkpoint.ErrSettled)
	check := func() {
		b.Helper()
		equal(b, "rows", b.rows(p, 0, 10), []checkpoint.Row{stored(p, row(5))})
		equal(b, "mark", b.cursor(p).Mark, int64(-1))
		states, err := b.States(b.ctx, p.Connector, []checkpoint.EntityKey{{Entity: "customer", Key: "cus-1"}})
		b.must("states", err)
		equal(b, "states", len(states), 0)
		equal(b, "found", len(b.find("evt-1")), 0)
		counts, err := b.Counts(b.ctx, p.Connector)
		b.must("counts", err)
		equal(b, "counts", counts, map[string]map[checkpoint.Outcome]int64{"create": {checkpoint.Delivered: 1}})
	}
	check()
	b.reopen()
	check()
	equal(b, "open", len(b.recover(p).Open), 1)
}

func testSettleOverParked(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	r := parkedRow(1, checkpoint.CauseExhausted)
	r.Attempts = []checkpoint.Attempt{{N: 1, At: at(1), Status: 503, Verdict: "retry", Sent: checkpoint.Answered}, {N: 2, At: at(2), Verdict: "retry", Sent: checkpoint.AnswerLost}}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, Park: entry(p, r)}}})
	b.reopen()
	l = b.acquire(p)

	// Parked again after a release: still one row, still one open entry.
	again := r
	again.Reason = "again"
	again.Attempts = []checkpoint.Attempt{{N: 3, At: at(3), Status: 503, Verdict: "retry", Sent: checkpoint.Answered}}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: again, Park: entry(p, again)}}})
	again.Attempts = append(slices.Clone(r.Attempts), again.Attempts...)
	equal(b, "parked row", b.rows(p, 0, 10), []checkpoint.Row{stored(p, again)})
	equal(b, "open entries", len(b.parked(checkpoint.ParkedQuery{States: []checkpoint.ParkedState{checkpoint.ParkedOpen}})), 1)

	done := row(1)
	done.Attempts = []checkpoint.Attempt{again.Attempts[2], {N: 4, At: at(4), Status: 200, Verdict: "accept", Sent: checkpoint.Answered}}
	b.settle(one(l, done))
	done.Attempts = append(slices.Clone(again.Attempts), done.Attempts[1])
	equal(b, "delivered row with all attempts, each once", b.rows(p, 0, 10), []checkpoint.Row{stored(p, done)})
	ps := b.parked(checkpoint.ParkedQuery{})
	if len(ps) != 1 || ps[0].State != checkpoint.ParkedResolved {
		b.Errorf("parked entries: %+v, want one resolved", ps)
	}
	counts, err := b.Counts(b.ctx, p.Connector)
	b.must("counts", err)
	equal(b, "counts", counts, map[string]map[checkpoint.Outcome]int64{"create": {checkpoint.Delivered: 1}})
	_, err = b.Settle(b.ctx, one(l, done))
	b.mustBe("settle a third time", err, checkpoint.ErrSettled)
}

func testSettleUnknownPartition(b *bundle) {
	p := part("t", 0)
	l := checkpoint.Lease{Partition: p, Epoch: 1}
	_, err := b.Settle(b.ctx, one(l, row(1)))
	b.mustBe("settle of a partition never acquired", err, checkpoint.ErrNotFound)
	real := b.acquire(p)
	real.Epoch += 5
	if _, err := b.Settle(b.ctx, one(real, row(1))); err == nil {
		b.Error("an epoch that the store never issued is taken")
	}
	equal(b, "rows", len(b.rows(p, 0, 10)), 0)
}

func testSettleUnknownOutcome(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	r := row(1)
	r.Outcome = "lost"
	if _, err := b.Settle(b.ctx, one(l, r)); err == nil {
		b.Error("an outcome outside the closed set is taken")
	}
	r = row(1)
	r.Partition = part("t", 1)
	if _, err := b.Settle(b.ctx, one(l, r)); err == nil {
		b.Error("a row of another partition than its lease's is taken")
	}
	equal(b, "rows", len(b.rows(p, 0, 10)), 0)
}

func testMarks(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	move := func(m, want int64) {
		b.Helper()
		b.settle(checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: l, Mark: m}}})
		equal(b, "mark", b.cursor(p).Mark, want)
	}
	move(0, 0)
	move(10, 10)
	move(5, 10)
	move(-1, 10)
	move(11, 11)
	b.reopen()
	equal(b, "mark after reopening", b.recover(p).Cursor.Mark, int64(11))
	l.Epoch++
	move(3, 11)
	b.settle(checkpoint.Batch{Marks: []checkpoint.Mark{{Lease: l, Mark: 20}, {Lease: l, Mark: 15}}})
	equal(b, "mark", b.cursor(p).Mark, int64(20))
}

func testFencedPerPartition(b *bundle) {
	p, q := part("t", 0), part("t", 1)
	old, kept := b.acquire(p), b.acquire(q)
	now := b.acquire(p)
	state := &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: "of-the-old-owner"}}
	res := b.settle(checkpoint.Batch{
		Progress:    []checkpoint.Progress{{Lease: old, Offset: 1, Route: "create", Step: "s", State: state}},
		Settlements: []checkpoint.Settlement{{Lease: old, Row: row(1), State: state}, {Lease: kept, Row: row(2)}, {Lease: old, Row: row(3)}},
		Marks:       []checkpoint.Mark{{Lease: old, Mark: 9}, {Lease: kept, Mark: 3}}})
	equal(b, "fenced", res.Fenced, []checkpoint.Partition{p})
	check := func() {
		b.Helper()
		equal(b, "rows of the fenced partition", len(b.rows(p, 0, 10)), 0)
		equal(b, "rows of the other", b.rows(q, 0, 10), []checkpoint.Row{stored(q, row(2))})
		equal(b, "marks", []int64{b.cursor(p).Mark, b.cursor(q).Mark}, []int64{-1, 3})
		states, err := b.States(b.ctx, p.Connector, []checkpoint.EntityKey{state.EntityKey})
		b.must("states", err)
		equal(b, "states", len(states), 0)
	}
	check()
	b.reopen()
	check()
	equal(b, "fenced after reopening", b.settle(one(old, row(1))).Fenced, []checkpoint.Partition{p})
	if res := b.settle(one(now, row(1))); len(res.Fenced) > 0 {
		b.Error("the owner is fenced")
	}
}

func testFencedRaiseAndBegin(b *bundle) {
	p, q := part("t", 0), part("t", 1)
	old, kept := b.acquire(p), b.acquire(q)
	now := b.acquire(p)
	check := func(what string, err error) {
		b.Helper()
		f, ok := errors.AsType[*checkpoint.FencedError](err)
		if !ok {
			b.Fatalf("%s: error %v, want a FencedError", what, err)
		}
		equal(b, what, *f, checkpoint.FencedError{Partition: p, Epoch: old.Epoch, Owner: now.Epoch})
	}
	check("raise", b.Raise(b.ctx, []checkpoint.Horizon{{Lease: old, Horizon: 5}, {Lease: kept, Horizon: 6}}))
	equal(b, "horizons", []int64{b.cursor(p).Horizon, b.cursor(q).Horizon}, []int64{-1, 6})
	check("begin", b.Begin(b.ctx, []checkpoint.Begin{{Lease: old, Offset: 1, Route: "create", Step: "s"}, {Lease: kept, Offset: 2, Route: "create", Step: "s"}}))
	equal(b, "open", []int{len(b.recover(p).Open), len(b.recover(q).Open)}, []int{0, 1})
}

func testBegin(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	first := filled[checkpoint.Begin]()
	first.Lease, first.Offset, first.Route, first.Plan, first.At = l, 4, "create", nil, at(1)
	second := checkpoint.Begin{Lease: l, Offset: 4, Route: "create", Step: "zz", At: at(2)}
	third := checkpoint.Begin{Lease: l, Offset: 2, Route: "create", Step: "", Key: "k", At: at(3), Mapping: "m3"}
	b.must("begin", b.Begin(b.ctx, []checkpoint.Begin{second, first, third}))
	changed := first
	changed.Key, changed.Fingerprint, changed.Generation = "other", "other", 9
	b.must("begin again", b.Begin(b.ctx, []checkpoint.Begin{changed}))
	refused := checkpoint.Begin{Lease: l, Offset: 6, Route: "create", Step: "create", Key: "k6", At: at(3), Credential: "old"}
	anew := refused
	anew.At, anew.Credential = at(5), "new"
	b.must("begin with a credential that is refused", b.Begin(b.ctx, []checkpoint.Begin{refused}))
	b.must("begin with another one", b.Begin(b.ctx, []checkpoint.Begin{anew}))
	b.must("evidence", b.Evidence(b.ctx, []checkpoint.Evidence{{Position: checkpoint.Position{Partition: p, Offset: 4, Route: "create"}, Attempt: checkpoint.Attempt{N: 1, At: at(2), Verdict: "retry", Sent: checkpoint.AnswerLost}}}))
	b.reopen()
	want := []checkpoint.Open{
		{Offset: 2, Route: "create", Mapping: "m3", Begins: []checkpoint.Begin{third}},
		{Offset: 4, Route: "create", Mapping: first.Mapping, Begins: []checkpoint.Begin{first, second}, Attempts: []checkpoint.Attempt{{N: 1, At: at(2), Verdict: "retry", Sent: checkpoint.AnswerLost}}},
		{Offset: 6, Route: "create", Begins: []checkpoint.Begin{anew}},
	}
	r := b.recover(p)
	equal(b, "open", r.Open, want)
	if r.Open[1].Plan != nil {
		b.Error("a record without a stored plan has one")
	}
	b.settle(one(r.Lease, row(4)))
	equal(b, "open after the outcome", b.recover(p).Open, []checkpoint.Open{want[0], want[2]})
}

// testBeginOfBatch: a member keeps its place in the batch, the same begin again changes nothing, and one in another
// batch or alone takes the place of the first.
func testBeginOfBatch(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	member := func(id string, offset int64, index int) checkpoint.Begin {
		return checkpoint.Begin{Lease: l, Offset: offset, Route: "create", Step: "create", Key: id, At: at(1),
			Batch: &checkpoint.BatchSend{ID: id, Index: index, Size: 3}}
	}
	batch := []checkpoint.Begin{member("b1", 9, 0), member("b1", 4, 1), member("b1", 6, 2)}
	b.must("begin a batch", b.Begin(b.ctx, batch))
	again := slices.Clone(batch)
	again[0].At, again[0].Mapping = at(7), "other"
	b.must("begin it again", b.Begin(b.ctx, again))
	second := member("b2", 6, 0)
	second.Batch.Size = 1
	alone := checkpoint.Begin{Lease: l, Offset: 9, Route: "create", Step: "create", Key: "k", At: at(3)}
	b.must("begin members anew", b.Begin(b.ctx, []checkpoint.Begin{second, alone}))
	other := member("b3", 9, 0)
	b.must("begin a send of its own in a batch", b.Begin(b.ctx, []checkpoint.Begin{other}))
	b.reopen()
	equal(b, "open", b.recover(p).Open, []checkpoint.Open{
		{Offset: 4, Route: "create", Begins: []checkpoint.Begin{batch[1]}},
		{Offset: 6, Route: "create", Begins: []checkpoint.Begin{second}},
		{Offset: 9, Route: "create", Begins: []checkpoint.Begin{alone}},
	})
}

// What a batch's answer settles, and what it leaves to be tried again, is one transaction; a member that moved on
// meanwhile stays where it is.
func testRetractions(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	var members []checkpoint.Begin
	for i := range 4 {
		members = append(members, checkpoint.Begin{Lease: l, Offset: int64(i), Route: "create", Step: "create", Key: "b1", At: at(1),
			Batch: &checkpoint.BatchSend{ID: "b1", Index: i, Size: 4}})
	}
	b.must("begin a batch", b.Begin(b.ctx, members))
	moved := members[3]
	moved.Batch, moved.Key, moved.At = &checkpoint.BatchSend{ID: "b2", Size: 1}, "b2", at(2)
	b.must("begin one in another", b.Begin(b.ctx, []checkpoint.Begin{moved}))
	retract := func(l checkpoint.Lease, offset int64) checkpoint.Retraction {
		return checkpoint.Retraction{Lease: l, Offset: offset, Route: "create", Batch: "b1"}
	}
	batch := one(l, row(0))
	batch.Retractions = []checkpoint.Retraction{retract(l, 2), retract(l, 3), retract(l, 7)}
	b.settle(batch)
	b.settle(checkpoint.Batch{Retractions: batch.Retractions})
	want := []checkpoint.Open{
		{Offset: 1, Route: "create", Begins: []checkpoint.Begin{members[1]}},
		{Offset: 3, Route: "create", Begins: []checkpoint.Begin{moved}},
	}
	b.reopen()
	r := b.recover(p)
	equal(b, "open", r.Open, want)
	res, err := b.Settle(b.ctx, checkpoint.Batch{Retractions: []checkpoint.Retraction{retract(l, 1)}})
	b.must("retract under an old epoch", err)
	equal(b, "fenced", res.Fenced, []checkpoint.Partition{p})
	equal(b, "open after that", b.recover(p).Open, want)
}

func testBeginOfSettled(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	parked := parkedRow(2, checkpoint.CauseAmbiguous)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1)}, {Lease: l, Row: parked, Park: entry(p, parked)}}})
	err := b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 3, Route: "create", Step: "s"}, {Lease: l, Offset: 1, Route: "create", Step: "s"}})
	b.mustBe("begin of a delivered record", err, checkpoint.ErrSettled)
	equal(b, "open after the refusal", len(b.recover(p).Open), 0)
	l = b.acquire(p)
	b.must("begin of a parked record", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 2, Route: "create", Step: "s", Generation: 1, At: at(5)}}))
	b.must("begin on another route", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 1, Route: "other", Step: "s"}}))
	r := b.recover(p)
	if len(r.Open) != 2 || r.Open[0].Route != "other" || r.Open[1].Offset != 2 {
		b.Fatalf("open: %+v, want other route of 1 and the parked 2", r.Open)
	}
	b.settle(one(r.Lease, row(2)))
	equal(b, "open", len(b.recover(p).Open), 1)
}

func testPlanAndProgress(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	plan := []checkpoint.Step{{Step: "cancel", Operation: "cancel_intent", IdempotencyKey: "k1", Generation: 2, IDs: map[string]string{"intent_id": "i1"}}, {Step: "create", Operation: "create_intent", IdempotencyKey: "k2"}}
	b.must("plan", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 1, Route: "create", Plan: plan, Mapping: "m1", At: at(1)}}))
	other := []checkpoint.Step{{Step: "other"}}
	b.must("plan again", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 1, Route: "create", Plan: other, Mapping: "m2", At: at(2)}}))
	b.must("begin a step", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 1, Route: "create", Step: "cancel", Key: "k1", At: at(3)}}))
	equal(b, "open", b.recover(p).Open, []checkpoint.Open{{Offset: 1, Route: "create", Mapping: "m1", Plan: plan,
		Begins: []checkpoint.Begin{{Lease: l, Offset: 1, Route: "create", Step: "cancel", Key: "k1", At: at(3)}}}})

	l = b.acquire(p)
	state := &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "invoice", Key: "inv-1"}, Remembered: map[string]string{"cancelled": "yes"}}
	pr := checkpoint.Progress{Lease: l, Offset: 1, Route: "create", Step: "cancel", State: state}
	b.settle(checkpoint.Batch{Progress: []checkpoint.Progress{pr}})
	b.settle(checkpoint.Batch{Progress: []checkpoint.Progress{pr}})
	b.reopen()
	plan[0].Done = true
	r := b.recover(p)
	equal(b, "plan", r.Open[0].Plan, plan)
	states, err := b.States(b.ctx, p.Connector, []checkpoint.EntityKey{state.EntityKey})
	b.must("states", err)
	equal(b, "state", states[state.EntityKey], state)

	_, err = b.Settle(b.ctx, checkpoint.Batch{Progress: []checkpoint.Progress{{Lease: r.Lease, Offset: 1, Route: "create", Step: "no such step"}}})
	b.mustBe("progress of an unknown step", err, checkpoint.ErrNotFound)
	_, err = b.Settle(b.ctx, checkpoint.Batch{Progress: []checkpoint.Progress{{Lease: r.Lease, Offset: 2, Route: "create", Step: "cancel"}}})
	b.mustBe("progress of a record without a plan", err, checkpoint.ErrNotFound)
	b.settle(checkpoint.Batch{Progress: []checkpoint.Progress{{Lease: r.Lease, Offset: 1, Route: "create", Step: "create"}}, Settlements: []checkpoint.Settlement{{Lease: r.Lease, Row: row(1)}}})
	equal(b, "open after the outcome", len(b.recover(p).Open), 0)
}

func testEvidence(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	r := row(1)
	r.Attempts = []checkpoint.Attempt{{N: 2, At: at(3), Status: 200, Verdict: "accept", Sent: checkpoint.Answered}}
	late := filled[checkpoint.Attempt]()
	late.N, late.At = 1, at(2)
	ev := []checkpoint.Evidence{{Position: pos(p, 1), Attempt: late}}
	b.must("evidence before the outcome", b.Evidence(b.ctx, ev))
	b.settle(one(l, r))
	b.acquire(p) // any epoch
	later := checkpoint.Attempt{N: 2, At: at(9), Status: 200, Verdict: "late"}
	b.must("evidence after the outcome", b.Evidence(b.ctx, []checkpoint.Evidence{{Position: pos(p, 1), Attempt: later}}))
	b.must("evidence again", b.Evidence(b.ctx, ev))
	b.reopen()
	equal(b, "attempts", b.rows(p, 0, 10)[0].Attempts, []checkpoint.Attempt{late, r.Attempts[0], later})
	equal(b, "attempts by find", b.find("evt-1")[0].Attempts, []checkpoint.Attempt{late, r.Attempts[0], later})
	b.mustBe("evidence of a partition never acquired", b.Evidence(b.ctx, []checkpoint.Evidence{{Position: pos(part("no", 0), 1)}}), checkpoint.ErrNotFound)
}

func testStateKeepsEveryField(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	s := filled[checkpoint.State]()
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1), State: &s}}})
	bare := checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "e", Key: "bare"}}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(2), State: &bare}}})
	keys := []checkpoint.EntityKey{s.EntityKey, bare.EntityKey, {Entity: "e", Key: "none"}, {Entity: "no such entity", Key: "bare"}}
	want := map[checkpoint.EntityKey]*checkpoint.State{s.EntityKey: &s, bare.EntityKey: &bare}
	check := func() {
		b.Helper()
		got, err := b.States(b.ctx, p.Connector, keys)
		b.must("states", err)
		equal(b, "states", got, want)
	}
	check()
	b.reopen()
	check()
	s.IDs, s.Deleted = nil, true
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: b.acquire(p), Row: row(3), State: &s}}})
	check()
}

func testStatesOfConnectors(b *bundle) {
	p, q := part("t", 0), part("t", 0)
	q.Connector = "finfusion"
	k := checkpoint.EntityKey{Entity: "customer", Key: "c"}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: b.acquire(p), Row: row(1), State: &checkpoint.State{EntityKey: k, Tenant: "one"}}}})
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: b.acquire(q), Row: row(1), State: &checkpoint.State{EntityKey: k, Tenant: "two"}}}})
	for connector, tenant := range map[string]string{"pushcash": "one", "finfusion": "two"} {
		states, err := b.States(b.ctx, connector, []checkpoint.EntityKey{k})
		b.must("states", err)
		equal(b, "tenant of "+connector, states[k].Tenant, tenant)
	}
	states, err := b.States(b.ctx, "no such connector", []checkpoint.EntityKey{k})
	b.must("states", err)
	equal(b, "states of an unknown connector", len(states), 0)
}

func testSeen(b *bundle) {
	p, q := part("t", 0), part("t", 1)
	l := b.acquire(p)
	one, two := row(1), row(1)
	two.Route = "other"
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: one}, {Lease: l, Row: two}}})
	b.reopen()
	other := p
	other.Connector = "finfusion"
	b.acquire(other)
	for _, c := range []struct {
		what      string
		connector string
		id        string
		not       checkpoint.Position
		want      bool
	}{
		{"the record itself", p.Connector, "evt-1", pos(p, 1), false},
		{"another offset", p.Connector, "evt-1", pos(p, 2), true},
		{"another partition", p.Connector, "evt-1", pos(q, 1), true},
		{"another event", p.Connector, "evt-2", pos(p, 2), false},
		{"another connector", "finfusion", "evt-1", pos(other, 2), false},
		{"an id of another kind", p.Connector, "cus-1", pos(p, 2), false},
		{"no id", p.Connector, "", pos(p, 2), false},
	} {
		got, err := b.Seen(b.ctx, c.connector, c.id, c.not)
		b.must("seen", err)
		equal(b, "seen: "+c.what, got, c.want)
	}
}

func referent(key string) *checkpoint.State {
	return &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: key}, Tenant: "acme", IDs: map[string]string{"user_id": "u-" + key}}
}

func waiter(p checkpoint.Partition, off int64, key string) checkpoint.Waiter {
	return checkpoint.Waiter{Position: pos(p, off), Tenant: "acme", RefEntity: "customer", RefKey: key,
		EntityKey: checkpoint.EntityKey{Entity: "invoice", Key: fmt.Sprint("inv-", off)}, Since: at(int(off))}
}

func testAwait(b *bundle) {
	p, q := part("invoices", 0), part("customers", 0)
	b.acquire(p)
	l := b.acquire(q)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1), State: referent("there")}}})
	ids := referent("no-ids")
	ids.IDs = nil
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(2), State: ids}}})
	foreign := waiter(p, 5, "there")
	foreign.Tenant = "evil"
	got, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 3, "late"), waiter(p, 1, "there"), waiter(p, 4, "no-ids"), foreign, waiter(p, 2, "late")})
	b.must("await", err)
	equal(b, "present", got, []bool{false, true, false, false, false})
	awake := func(ws ...checkpoint.Waiter) []checkpoint.Waiter {
		for i := range ws {
			ws[i].Woken = true
		}
		return ws
	}
	equal(b, "woken", b.woken(p.Connector), awake(waiter(p, 1, "there")))
	b.reopen()

	// A state without ids wakes nobody; the one with ids wakes all that wait for it, in that transaction.
	early := referent("late")
	early.IDs = nil
	l = b.acquire(q)
	equal(b, "woken by a state without ids", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(3), State: early}}}).Woken, 0)
	res := b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(4), State: referent("late")}}})
	equal(b, "number woken", res.Woken, 2)
	equal(b, "woken, oldest first", b.woken(p.Connector), awake(waiter(p, 1, "there"), waiter(p, 2, "late"), waiter(p, 3, "late")))
	equal(b, "number woken again", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(5), State: referent("late")}}}).Woken, 0)
	two, err := b.Woken(b.ctx, p.Connector, 2)
	b.must("woken", err)
	equal(b, "woken, at most 2", len(two), 2)
	equal(b, "woken of another connector", len(b.woken("finfusion")), 0)

	b.settle(one(b.acquire(p), row(1)))
	equal(b, "woken after an outcome", b.woken(p.Connector), awake(waiter(p, 2, "late"), waiter(p, 3, "late")))
}

// testAwaitOfAnID: an entity that has other vendor ids is not what a waiter waits for; a deleted one is, since then it
// need not wait any longer.
func testAwaitOfAnID(b *bundle) {
	p, q := part("invoices", 0), part("customers", 0)
	b.acquire(p)
	l := b.acquire(q)
	needs := func(off int64, id string) checkpoint.Waiter {
		w := waiter(p, off, "c")
		w.RefID = id
		return w
	}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1), State: referent("c")}}})
	got, err := b.Await(b.ctx, []checkpoint.Waiter{needs(1, "user_id"), needs(2, "method_id"), needs(3, "method"), needs(4, "")})
	b.must("await", err)
	equal(b, "present", got, []bool{true, false, false, true})
	b.reopen()
	l = b.acquire(q)
	equal(b, "woken by the same ids", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(2), State: referent("c")}}}).Woken, 0)
	more := referent("c")
	more.IDs["method_id"] = "m-1"
	equal(b, "woken by the id", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(3), State: more}}}).Woken, 1)
	var ids []string
	for _, w := range b.woken(p.Connector) {
		ids = append(ids, w.RefID)
	}
	equal(b, "who is woken, oldest first", ids, []string{"user_id", "method_id", ""})
	gone := referent("c")
	gone.IDs, gone.Deleted = nil, true
	equal(b, "woken by the delete", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(4), State: gone}}}).Woken, 1)
}

func testAwaitWokenByTombstone(b *bundle) {
	p, q := part("invoices", 0), part("customers", 0)
	b.acquire(p)
	l := b.acquire(q)
	gone := func() *checkpoint.State {
		s := referent("gone")
		s.IDs, s.Deleted = nil, true
		return s
	}
	_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 1, "gone")})
	b.must("await", err)
	equal(b, "woken by the delete", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1), State: gone()}}}).Woken, 1)
	got, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 2, "gone")})
	b.must("await", err)
	equal(b, "present", got, []bool{true})
	equal(b, "woken", len(b.woken(p.Connector)), 2)
	// Progress wakes as well: a step's state may bring the vendor id.
	b.must("plan", b.Begin(b.ctx, []checkpoint.Begin{{Lease: l, Offset: 7, Route: "create", Plan: []checkpoint.Step{{Step: "s"}}}}))
	_, err = b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 3, "stepwise")})
	b.must("await", err)
	equal(b, "woken by progress", b.settle(checkpoint.Batch{Progress: []checkpoint.Progress{{Lease: l, Offset: 7, Route: "create", Step: "s", State: referent("stepwise")}}}).Woken, 1)
}

func testAwaitOfParked(b *bundle) {
	p, q := part("invoices", 0), part("customers", 0)
	l, lq := b.acquire(p), b.acquire(q)
	_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 1, "late"), waiter(p, 2, "late"), waiter(p, 3, "late")})
	b.must("await", err)
	missing, rejected := parkedRow(1, checkpoint.CauseMissingReference), parkedRow(2, checkpoint.CauseRejected)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: missing, Park: entry(p, missing)}, {Lease: l, Row: rejected, Park: entry(p, rejected)}}})
	b.reopen()
	res := b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: lq, Row: row(1), State: referent("late")}}})
	equal(b, "woken: the one parked for the reference and the one in its lane", res.Woken, 2)
	want := []checkpoint.Waiter{waiter(p, 1, "late"), waiter(p, 3, "late")}
	want[0].Parked = true
	want[0].Woken, want[1].Woken = true, true
	equal(b, "woken", b.woken(p.Connector), want)
	b.settle(one(l, row(1)))
	equal(b, "woken after the parked one is delivered", b.woken(p.Connector), want[1:])

	// One whose entry is closed waits for nothing any more.
	healed := parkedRow(5, checkpoint.CauseMissingReference)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: healed, Park: entry(p, healed)}}})
	_, err = b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 5, "later")})
	b.must("await", err)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(6),
		Close: []checkpoint.Closed{{Position: pos(p, 5), State: checkpoint.ParkedSuperseded, By: "evt-6"}}}}})
	equal(b, "woken by the referent of a closed entry", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: lq, Row: row(2), State: referent("later")}}}).Woken, 0)
}

func testAwaitOfSettled(b *bundle) {
	p := part("invoices", 0)
	l := b.acquire(p)
	b.settle(one(l, row(1)))
	_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 2, "x"), waiter(p, 1, "x")})
	b.mustBe("await of a settled record", err, checkpoint.ErrSettled)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(3), State: referent("x")}}})
	equal(b, "woken after the refusal", len(b.woken(p.Connector)), 0)
	_, err = b.Await(b.ctx, []checkpoint.Waiter{waiter(part("no", 0), 2, "x")})
	b.mustBe("await in a partition never acquired", err, checkpoint.ErrNotFound)
}

func testAwaitReplaces(b *bundle) {
	p, q := part("invoices", 0), part("customers", 0)
	b.acquire(p)
	l := b.acquire(q)
	for _, key := range []string{"first", "second"} {
		_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 1, key)})
		b.must("await", err)
	}
	equal(b, "woken by the replaced referent", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1), State: referent("first")}}}).Woken, 0)
	equal(b, "woken", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(2), State: referent("second")}}}).Woken, 1)
	// Waiting again, for one that is not there, puts it to sleep.
	_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 1, "third")})
	b.must("await", err)
	equal(b, "woken", len(b.woken(p.Connector)), 0)
	equal(b, "woken", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(3), State: referent("third")}}}).Woken, 1)
}

// What is accepted waits for the vendor's word until that comes, before or after the outcome, or is moot.
func testUnconfirmed(b *bundle) {
	p, q := part("t", 0), part("u", 0)
	l := b.acquire(p)
	other := b.acquire(q)
	accepted := func(l checkpoint.Lease, offset int64, key string, due time.Time) checkpoint.Settlement {
		r := row(offset)
		r.Outcome, r.Event.Key, r.VendorID = checkpoint.Accepted, key, fmt.Sprint("v", offset)
		return checkpoint.Settlement{Lease: l, Row: r, Due: due, Moot: true}
	}
	check := func(what string, waiting, overdue int, offsets ...int64) {
		b.Helper()
		got, err := b.Unconfirmed(b.ctx, p.Connector, at(50), 3)
		b.must("read "+what, err)
		var at []int64
		for _, u := range got.First {
			at = append(at, u.Position.Offset)
		}
		equal(b, what, fmt.Sprint(got.Waiting, got.Overdue, at), fmt.Sprint(waiting, overdue, offsets))
	}
	confirm := func(offset int64) {
		b.Helper()
		r := row(offset)
		b.must("confirm", b.Evidence(b.ctx, []checkpoint.Evidence{{Position: checkpoint.Position{Partition: p, Offset: offset, Route: r.Route},
			Attempt: checkpoint.Attempt{N: 1, At: at(7), Verdict: checkpoint.VerdictWebhook}, Confirms: true}}))
	}
	check("nothing", 0, 0)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{
		accepted(l, 1, "a", at(60)), accepted(l, 2, "b", at(40)), accepted(l, 3, "c", at(50)), accepted(l, 4, "d", at(90)), accepted(l, 5, "e", time.Time{}),
		accepted(other, 1, "a", at(70))}})
	check("waiting", 5, 2, 2, 3, 1)
	b.reopen()
	l = b.acquire(p)
	b.acquire(q)
	check("after a restart", 5, 2, 2, 3, 1)
	got, err := b.Unconfirmed(b.ctx, p.Connector, at(50), 1)
	b.must("read the first", err)
	r := row(2)
	equal(b, "first", got.First, []checkpoint.Unconfirmed{{Position: checkpoint.Position{Partition: p, Offset: 2, Route: r.Route},
		EntityKey: checkpoint.EntityKey{Entity: r.Event.Entity, Key: "b"}, EventID: r.Event.ID, VendorID: "v2", Since: r.At, Due: at(40)}})

	confirm(2)
	confirm(2)
	confirm(5) // nobody waits
	check("confirmed", 4, 1, 3, 1, 1)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{accepted(l, 6, "c", at(95))}})
	check("the older one is moot", 4, 0, 1, 1, 4)

	confirm(7) // faster than the outcome
	check("early", 4, 0, 1, 1, 4)
	b.reopen()
	l = b.acquire(p)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{accepted(l, 7, "g", at(20))}})
	check("early, then accepted", 4, 0, 1, 1, 4)
	b.settle(one(l, row(8)))
	check("a delivered one", 4, 0, 1, 1, 4)
}

// testAwaitRacesSettle: whichever comes first, the waiter ends up woken (no lost wake-up).
func testAwaitRacesSettle(b *bundle) {
	const records = 200
	p, q := part("invoices", 0), part("customers", 0)
	b.acquire(p)
	l := b.acquire(q)
	present := make([]bool, records)
	wokenBy := make([]int, records)
	var wg sync.WaitGroup
	for i := range records {
		start := make(chan struct{})
		key := fmt.Sprint("c", i)
		wg.Go(func() {
			<-start
			got, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, int64(i), key)})
			if err != nil {
				b.Errorf("await: %v", err)
				return
			}
			present[i] = got[0]
		})
		wg.Go(func() {
			<-start
			res, err := b.Settle(b.ctx, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(int64(i)), State: referent(key)}}})
			if err != nil {
				b.Errorf("settle: %v", err)
				return
			}
			wokenBy[i] = res.Woken
		})
		close(start)
	}
	wg.Wait()
	for i := range records {
		if present[i] == (wokenBy[i] == 1) {
			b.Errorf("record %d: present %v, woken by settle %d; want exactly one of them", i, present[i], wokenBy[i])
		}
	}
	equal(b, "woken", len(b.woken(p.Connector)), records)
}

func testForget(b *bundle) {
	p, q := part("invoices", 0), part("customers", 0)
	b.acquire(p)
	l := b.acquire(q)
	_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 1, "x"), waiter(p, 2, "x")})
	b.must("await", err)
	b.must("forget", b.Forget(b.ctx, []checkpoint.Position{pos(p, 1), pos(p, 9), pos(part("no", 0), 1)}))
	equal(b, "woken", b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(1), State: referent("x")}}}).Woken, 1)
	b.must("forget a woken one", b.Forget(b.ctx, []checkpoint.Position{pos(p, 2)}))
	equal(b, "woken", len(b.woken(p.Connector)), 0)
}

func testParkedKeepsEveryField(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	e := filled[checkpoint.Parked]()
	e.Position, e.State = pos(p, 1), checkpoint.ParkedOpen
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: parkedRow(1, e.Cause), Park: &e}}})
	equal(b, "entry", b.parked(checkpoint.ParkedQuery{}), []checkpoint.Parked{e})
	b.reopen()
	equal(b, "entry after reopening", b.parked(checkpoint.ParkedQuery{}), []checkpoint.Parked{e})
	l = b.acquire(p)
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(2),
		Close: []checkpoint.Closed{{Position: e.Position, State: checkpoint.ParkedSuperseded, By: "evt-2"}}}}})
	e.State, e.By, e.Since = checkpoint.ParkedSuperseded, "evt-2", at(2)
	equal(b, "closed entry", b.parked(checkpoint.ParkedQuery{}), []checkpoint.Parked{e})
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(3),
		Close: []checkpoint.Closed{{Position: e.Position, State: checkpoint.ParkedSkipped, By: "x"}}}}})
	equal(b, "an entry is closed once", b.parked(checkpoint.ParkedQuery{}), []checkpoint.Parked{e})
}

func testParkedQueries(b *bundle) {
	p := part("t", 0)
	q := part("t", 0)
	q.Connector = "finfusion"
	l, lq := b.acquire(p), b.acquire(q)
	put := func(l checkpoint.Lease, off int64, key string, cause checkpoint.Cause) {
		r := parkedRow(off, cause)
		r.Event.Key = key
		b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, Park: entry(l.Partition, r)}}})
	}
	put(l, 1, "b", checkpoint.CauseRejected)
	put(l, 2, "a", checkpoint.CauseHeld)
	put(l, 3, "b", checkpoint.CauseHeld)
	put(l, 4, "a", checkpoint.CauseRejected)
	put(lq, 5, "a", checkpoint.CauseRejected)
	b.must("release", b.ReleaseParked(b.ctx, []checkpoint.Position{pos(p, 4)}, 1, checkpoint.Audit{}))
	for _, c := range []struct {
		what string
		q    checkpoint.ParkedQuery
		want []int64
	}{
		{"all of a connector, by key and offset", checkpoint.ParkedQuery{Connector: p.Connector}, []int64{2, 4, 1, 3}},
		{"of a key", checkpoint.ParkedQuery{Connector: p.Connector, Key: "b"}, []int64{1, 3}},
		{"of a cause", checkpoint.ParkedQuery{Connector: p.Connector, Cause: checkpoint.CauseHeld}, []int64{2, 3}},
		{"of an event", checkpoint.ParkedQuery{EventID: "evt-3"}, []int64{3}},
		{"of an entity", checkpoint.ParkedQuery{Connector: "finfusion", Entity: "customer"}, []int64{5}},
		{"of an unknown entity", checkpoint.ParkedQuery{Entity: "nothing"}, nil},
		{"of a state", checkpoint.ParkedQuery{States: []checkpoint.ParkedState{checkpoint.ParkedReleased}}, []int64{4}},
		{"of two states", checkpoint.ParkedQuery{Connector: p.Connector, States: []checkpoint.ParkedState{checkpoint.ParkedReleased, checkpoint.ParkedOpen}}, []int64{2, 4, 1, 3}},
		{"at most 2", checkpoint.ParkedQuery{Connector: p.Connector, Limit: 2}, []int64{2, 4}},
	} {
		var got []int64
		for _, e := range b.parked(c.q) {
			got = append(got, e.Position.Offset)
		}
		equal(b, c.what, got, c.want)
	}
}

func testReleaseParked(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	for off := range int64(4) {
		r := parkedRow(off, checkpoint.CauseRejected)
		b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, Park: entry(p, r)}}})
	}
	b.must("release", b.ReleaseParked(b.ctx, []checkpoint.Position{pos(p, 2), pos(p, 1)}, 3, checkpoint.Audit{At: at(1), Actor: "ann", Action: "release", Reason: "fixed"}))
	b.must("release again", b.ReleaseParked(b.ctx, []checkpoint.Position{pos(p, 1)}, 4, checkpoint.Audit{At: at(2), Actor: "ann", Action: "release"}))
	b.mustBe("release of what is not parked", b.ReleaseParked(b.ctx, []checkpoint.Position{pos(p, 3), pos(p, 9)}, 1, checkpoint.Audit{}), checkpoint.ErrNotFound)
	b.reopen()
	r := b.recover(p)
	if len(r.Released) != 2 || r.Released[0].Position != pos(p, 1) || r.Released[1].Position != pos(p, 2) || r.Released[0].Generation != 3 || r.Released[0].State != checkpoint.ParkedReleased {
		b.Fatalf("released: %+v, want 1 and 2 of generation 3", r.Released)
	}
	b.settle(one(r.Lease, row(1)))
	b.must("release of a resolved entry", b.ReleaseParked(b.ctx, []checkpoint.Position{pos(p, 1)}, 5, checkpoint.Audit{At: at(3), Actor: "late", Action: "release"}))
	equal(b, "released", len(b.recover(p).Released), 1)
	equal(b, "open", len(b.parked(checkpoint.ParkedQuery{States: []checkpoint.ParkedState{checkpoint.ParkedOpen}})), 2)
	as, err := b.Audits(b.ctx, 0)
	b.must("audits", err)
	equal(b, "audits: refused releases are not there", as, []checkpoint.Audit{{At: at(3), Actor: "late", Action: "release"}, {At: at(2), Actor: "ann", Action: "release"}, {At: at(1), Actor: "ann", Action: "release", Reason: "fixed"}})
}

func testNonces(b *bundle) {
	has := func(connector, id string) bool {
		b.Helper()
		found, err := b.HasNonce(b.ctx, connector, id)
		b.must("look up", err)
		return found
	}
	if has("pushcash", "a") {
		b.Error("an id is there that was never saved")
	}
	// The store's clock is the real one.
	now := time.Now()
	b.must("save", b.SaveNonces(b.ctx, nil))
	b.must("save", b.SaveNonces(b.ctx, []checkpoint.Nonce{
		{Connector: "pushcash", ID: "a", Until: now.Add(time.Hour)},
		{Connector: "pushcash", ID: "past", Until: now.Add(-time.Hour)},
		{Connector: "pushcash", ID: "longer", Until: now.Add(-time.Minute)},
	}))
	b.must("save again", b.SaveNonces(b.ctx, []checkpoint.Nonce{
		{Connector: "pushcash", ID: "a", Until: now.Add(-time.Hour)}, // the later time counts
		{Connector: "pushcash", ID: "longer", Until: now.Add(time.Hour)},
	}))
	b.reopen()
	for id, want := range map[string]bool{"a": true, "past": false, "longer": true, "b": false, "": false} {
		if has("pushcash", id) != want {
			b.Errorf("%q is kept: %t, want %t", id, !want, want)
		}
	}
	if has("other", "a") {
		b.Error("an id of one connector is kept for another")
	}
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if err := b.SaveNonces(b.ctx, []checkpoint.Nonce{{Connector: "pushcash", ID: "same", Until: now.Add(time.Hour)}, {Connector: "pushcash", ID: fmt.Sprint(i), Until: now.Add(time.Hour)}}); err != nil {
				b.Errorf("save at once: %v", err)
			}
		})
	}
	wg.Wait()
	if !has("pushcash", "same") || !has("pushcash", "19") {
		b.Error("an id that was saved at once with others is not kept")
	}
}

func testMappings(b *bundle) {
	_, err := b.Mapping(b.ctx, "v1")
	b.mustBe("mapping not saved", err, checkpoint.ErrNotFound)
	content := []byte("profile: {}\n\x00\xff")
	b.must("save", b.SaveMapping(b.ctx, "v1", content))
	b.must("save again", b.SaveMapping(b.ctx, "v1", content))
	b.must("save an empty one", b.SaveMapping(b.ctx, "v2", nil))
	if err := b.SaveMapping(b.ctx, "v1", []byte("other")); err == nil {
		b.Error("another text for a known version is taken")
	}
	b.reopen()
	got, err := b.Mapping(b.ctx, "v1")
	b.must("mapping", err)
	equal(b, "mapping", got, content)
	got, err = b.Mapping(b.ctx, "v2")
	b.must("empty mapping", err)
	equal(b, "empty mapping", len(got), 0)
}

func testFindByEachID(b *bundle) {
	p := part("canonical.customer", 3)
	l := b.acquire(p)
	r := row(42)
	r.Plan = append(r.Plan, checkpoint.Step{Step: "second", IdempotencyKey: "key-second"})
	other := row(42)
	other.Route, other.VendorID, other.Plan, other.Outcome = "other", "", nil, checkpoint.Ignored
	st := &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: r.Event.Key}, IDs: map[string]string{"account_id": "acc-7"}}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, State: st}, {Lease: l, Row: other}}})
	for off := range int64(300) { // neighbours
		if off != 42 {
			b.settle(one(l, row(off)))
		}
	}
	check := func() {
		b.Helper()
		for _, id := range []string{"evt-42", "cus-42", "cor-evt-42", "ven-evt-42", "key-evt-42", "key-second", "acc-7", "canonical.customer/3/42"} {
			equal(b, "find "+id, b.find(id), []checkpoint.Row{stored(p, r), stored(p, other)})
		}
		for _, id := range []string{"", "evt-4200", "canonical.customer/3/4200", "canonical.customer/4/42", "other/3/42", "evt-", "%"} {
			equal(b, "find "+id, len(b.find(id)), 0)
		}
	}
	check()
	b.reopen()
	check()
	b.must("skip", b.Skip(b.ctx, checkpoint.Skip{Lease: b.acquire(p), From: 400, To: 500, By: "ann", Reason: "r"}))
	got := b.find("canonical.customer/3/450")
	if len(got) != 1 || got[0].Outcome != checkpoint.Skipped || got[0].Offset != 450 {
		b.Errorf("find of a skipped record: %+v, want one row skipped", got)
	}
}

func testFindOpen(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	event := checkpoint.Event{ID: "evt-open", Entity: "invoice", Key: "inv-1", CorrelationID: "cor-open", OccurredAt: at(1)}
	plan := []checkpoint.Step{{Step: "one", IdempotencyKey: "k-one"}, {Step: "two", IdempotencyKey: "k-two"}}
	att := checkpoint.Attempt{N: 1, At: at(3), Verdict: "retry", Sent: checkpoint.AnswerLost}
	b.must("begin", b.Begin(b.ctx, []checkpoint.Begin{
		{Lease: l, Offset: 1, Route: "create", Plan: plan, Mapping: "m", At: at(2), Event: event},
		{Lease: l, Offset: 1, Route: "create", Step: "one", Key: "k-one", At: at(2), Event: event},
		{Lease: l, Offset: 2, Route: "create", Step: "s", Operation: "op", Key: "k-s", Generation: 4, At: at(2)}}))
	b.must("evidence", b.Evidence(b.ctx, []checkpoint.Evidence{{Position: pos(p, 1), Attempt: att}}))
	_, err := b.Await(b.ctx, []checkpoint.Waiter{waiter(p, 3, "x")})
	b.must("await", err)
	b.reopen()
	planned := checkpoint.Row{Partition: p, Offset: 1, Route: "create", Event: event, Mapping: "m", Plan: plan, Attempts: []checkpoint.Attempt{att}, At: at(2)}
	for _, id := range []string{"evt-open", "inv-1", "cor-open", "k-one", "k-two", "t/0/1"} {
		equal(b, "find "+id, b.find(id), []checkpoint.Row{planned})
	}
	equal(b, "find of a begun record", b.find("k-s"), []checkpoint.Row{{Partition: p, Offset: 2, Route: "create", At: at(2), Generation: 4,
		Plan: []checkpoint.Step{{Step: "s", Operation: "op", IdempotencyKey: "k-s", Generation: 4}}}})
	equal(b, "find of a waiting record", b.find("inv-3"), []checkpoint.Row{{Partition: p, Offset: 3, Route: "create", Event: checkpoint.Event{Entity: "invoice", Key: "inv-3"}}})
	b.settle(one(b.acquire(p), row(1)))
	got := b.find("t/0/1")
	if len(got) != 1 || got[0].Outcome != checkpoint.Delivered || len(got[0].Attempts) != 2 {
		b.Errorf("find after the outcome: %+v, want one delivered row with both attempts", got)
	}
}

func testFindLimit(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	var all []checkpoint.Row
	for off := range int64(20) {
		r := row(off)
		r.Event.Key = "busy"
		all = append(all, stored(p, r))
		b.settle(one(l, r))
	}
	equal(b, "find, oldest first", b.find("busy"), all)
	got, err := b.Find(b.ctx, "busy", 3)
	b.must("find", err)
	equal(b, "find at most 3: the newest", got, all[17:])
}

func testFindReplaced(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	r := parkedRow(1, checkpoint.CauseExhausted)
	r.VendorID = "ven-old"
	r.Plan = []checkpoint.Step{{Step: "create", IdempotencyKey: "key-generation-0"}}
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, Park: entry(p, r)}}})
	r.Plan = []checkpoint.Step{{Step: "create", IdempotencyKey: "key-generation-1"}}
	r.VendorID = ""
	b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, Park: entry(p, r)}}})
	b.settle(one(l, row(1)))
	for _, id := range []string{"key-generation-0", "key-generation-1", "ven-old", "key-evt-1"} {
		got := b.find(id)
		if len(got) != 1 || got[0].Outcome != checkpoint.Delivered {
			b.Errorf("find %s: %+v, want the row that replaced the parked ones", id, got)
		}
	}
}

func testCounts(b *bundle) {
	p, q := part("t", 0), part("t", 0)
	q.Connector = "finfusion"
	l, lq := b.acquire(p), b.acquire(q)
	for off, o := range []checkpoint.Outcome{checkpoint.Delivered, checkpoint.Delivered, checkpoint.Ignored} {
		r := row(int64(off))
		r.Outcome = o
		b.settle(one(l, r))
	}
	r := row(1)
	r.Route = "other"
	b.settle(one(l, r))
	b.settle(one(lq, r))
	b.must("skip", b.Skip(b.ctx, checkpoint.Skip{Lease: l, From: 10, To: 20}))
	want := map[string]map[checkpoint.Outcome]int64{"create": {checkpoint.Delivered: 2, checkpoint.Ignored: 1}, "other": {checkpoint.Delivered: 1}, "*": {checkpoint.Skipped: 1}}
	check := func() {
		b.Helper()
		got, err := b.Counts(b.ctx, p.Connector)
		b.must("counts", err)
		equal(b, "counts", got, want)
		got, err = b.Counts(b.ctx, "nobody")
		b.must("counts", err)
		equal(b, "counts of an unknown connector", len(got), 0)
	}
	check()
	b.reopen()
	check()
}

func testStatuses(b *bundle) {
	one := checkpoint.Status{Connector: "a", Instance: "i1", At: at(1), JSON: []byte(`{"name":"a"}`)}
	two := checkpoint.Status{Connector: "a", Instance: "i2", At: at(2), JSON: []byte(`{}`)}
	for _, s := range []checkpoint.Status{{Connector: "a", Instance: "i1", JSON: []byte("old")}, two, one} {
		b.must("save status", b.SaveStatus(b.ctx, s))
	}
	b.reopen()
	got, err := b.Statuses(b.ctx)
	b.must("statuses", err)
	equal(b, "statuses", got, []checkpoint.Status{one, two})
}

func testAudits(b *bundle) {
	full := filled[checkpoint.Audit]()
	b.must("audit", b.Audit(b.ctx, full))
	b.must("audit", b.Audit(b.ctx, checkpoint.Audit{Actor: "second"}))
	b.reopen()
	got, err := b.Audits(b.ctx, 0)
	b.must("audits", err)
	if len(got) != 2 || got[0].Actor != "second" || got[0].At.IsZero() {
		b.Fatalf("audits: %+v, want the second first, with a time", got)
	}
	equal(b, "audit", got[1], full)
	got, err = b.Audits(b.ctx, 1)
	b.must("audits", err)
	equal(b, "audits, at most 1", len(got), 1)
}

// testConcurrentSettles: many callers, each with partitions of its own, in one store.
func testConcurrentSettles(b *bundle) {
	const callers, batches, rowsPer = 16, 10, 7
	leases := make([]checkpoint.Lease, callers)
	for i := range leases {
		leases[i] = b.acquire(part("t", int32(i)))
	}
	var wg sync.WaitGroup
	for i, l := range leases {
		wg.Go(func() {
			for n := range int64(batches) {
				var batch checkpoint.Batch
				for k := range int64(rowsPer) {
					r := row(n*rowsPer + k)
					r.Event.ID = fmt.Sprint("p", i, "-", r.Offset)
					batch.Settlements = append(batch.Settlements, checkpoint.Settlement{Lease: l, Row: r,
						State: &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: "customer", Key: fmt.Sprint(i, "-", r.Offset)}}})
				}
				batch.Marks = []checkpoint.Mark{{Lease: l, Mark: (n + 1) * rowsPer}}
				if err := b.Raise(b.ctx, []checkpoint.Horizon{{Lease: l, Horizon: (n + 2) * rowsPer}}); err != nil {
					b.Errorf("raise: %v", err)
				}
				if _, err := b.Settle(b.ctx, batch); err != nil {
					b.Errorf("settle: %v", err)
				}
				// Durable and visible when it returns.
				if rows, err := b.Rows(b.ctx, l.Partition, n*rowsPer, (n+1)*rowsPer); err != nil || len(rows) != rowsPer {
					b.Errorf("rows right after settle: %d, %v; want %d", len(rows), err, rowsPer)
				}
			}
		})
	}
	wg.Wait()
	b.reopen()
	for i, l := range leases {
		equal(b, "rows", len(b.rows(l.Partition, 0, 1000)), batches*rowsPer)
		c := b.cursor(l.Partition)
		equal(b, "mark and horizon", []int64{c.Mark, c.Horizon}, []int64{batches * rowsPer, (batches + 1) * rowsPer})
		equal(b, "found", len(b.find(fmt.Sprint("p", i, "-", 33))), 1)
	}
	counts, err := b.Counts(b.ctx, "pushcash")
	b.must("counts", err)
	equal(b, "counts", counts, map[string]map[checkpoint.Outcome]int64{"create": {checkpoint.Delivered: callers * batches * rowsPer}})
}

// testConcurrentRefusals: one caller's refusal does not fail the others that are committed with it.
func testConcurrentRefusals(b *bundle) {
	const callers, rounds = 8, 20
	bad := b.acquire(part("bad", 0))
	b.settle(one(bad, row(0)))
	leases := make([]checkpoint.Lease, callers)
	for i := range leases {
		leases[i] = b.acquire(part("t", int32(i)))
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range int64(rounds) {
				_, err := b.Settle(b.ctx, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: bad, Row: row(n + 1000)}, {Lease: bad, Row: row(0)}}, Marks: []checkpoint.Mark{{Lease: bad, Mark: 7}}})
				if !errors.Is(err, checkpoint.ErrSettled) {
					b.Errorf("second outcome: error %v, want ErrSettled", err)
				}
			}
		})
	}
	for _, l := range leases {
		wg.Go(func() {
			for n := range int64(rounds) {
				if res, err := b.Settle(b.ctx, checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: row(n)}}, Marks: []checkpoint.Mark{{Lease: l, Mark: n + 1}}}); err != nil || len(res.Fenced) > 0 {
					b.Errorf("settle beside a refused caller: %v, fenced %v", err, res.Fenced)
				}
			}
		})
	}
	wg.Wait()
	b.reopen()
	for _, l := range leases {
		equal(b, "rows", len(b.rows(l.Partition, 0, 1000)), rounds)
		equal(b, "mark", b.cursor(l.Partition).Mark, int64(rounds))
	}
	equal(b, "rows of the refused", len(b.rows(bad.Partition, 0, 5000)), 1)
	equal(b, "mark of the refused", b.cursor(bad.Partition).Mark, int64(-1))
	counts, err := b.Counts(b.ctx, "pushcash")
	b.must("counts", err)
	equal(b, "counts", counts, map[string]map[checkpoint.Outcome]int64{"create": {checkpoint.Delivered: callers*rounds + 1}})
}

func testEndedContext(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	ctx, cancel := context.WithCancel(b.ctx)
	cancel()
	// An ended context may refuse a call or come too late for it: then it was done and says so.
	done := 0
	for off := range int64(50) {
		if _, err := b.Settle(ctx, one(l, row(off))); err == nil {
			done++
		} else {
			b.mustBe("settle", err, context.Canceled)
		}
	}
	equal(b, "rows", len(b.rows(p, 0, 100)), done)
	_, err := b.Rows(ctx, p, 0, 1)
	b.mustBe("rows", err, context.Canceled)
}

// testOddTexts: ids come from outside and may hold anything.
func testOddTexts(b *bundle) {
	p := part("t", 0)
	l := b.acquire(p)
	odd := []string{"quote'\"\\", "nul\x00inside", "new\nline\ttab\x1f", "ümläut ☃ 𝄞", strings.Repeat("long ", 2000), "[]{}", "1e5", " ", "/", "a/1/2/3"}
	for i, s := range odd {
		r := row(int64(i))
		r.Event.ID, r.Event.Key, r.Reason, r.VendorID = s, s+"k", s, s+"v"
		r.Plan = []checkpoint.Step{{Step: s, Operation: s, IdempotencyKey: s + "i", IDs: map[string]string{s: s}}}
		r.Attempts = []checkpoint.Attempt{{N: 1, Detail: s, Guidance: s}}
		st := &checkpoint.State{EntityKey: checkpoint.EntityKey{Entity: s, Key: s}, Tenant: s, Remembered: map[string]string{s: s}}
		b.settle(checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r, State: st}}})
		b.reopen()
		l = b.acquire(p)
		equal(b, "row", b.rows(p, r.Offset, r.Offset+1), []checkpoint.Row{stored(p, r)})
		for _, id := range []string{s, s + "k", s + "v", s + "i"} {
			equal(b, fmt.Sprintf("find %q", id), b.find(id), []checkpoint.Row{stored(p, r)})
		}
		states, err := b.States(b.ctx, p.Connector, []checkpoint.EntityKey{st.EntityKey})
		b.must("states", err)
		equal(b, "state", states[st.EntityKey], st)
	}
}
