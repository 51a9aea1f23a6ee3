// Package checkpointtest holds the tests that every checkpoint.Store must pass: each sentence of the interface's
// comments, under concurrency and across a reopening, and a comparison with a simple model on random operations.
package checkpointtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
)

// Open opens one store. The first call makes it, empty; a call after the store was closed opens it again with
// what it held.
type Open func() (checkpoint.Store, error)

// Run runs the suite. Each call of fresh stands for a new store that shares nothing with others; its files or
// schemas are removed with t's cleanup.
func Run(t *testing.T, fresh func(t *testing.T) Open) {
	for _, c := range []struct {
		name string
		test func(*bundle)
	}{
		{"Identity", testIdentity},
		{"Acquire", testAcquire},
		{"Fresh", testFresh},
		{"OtherID", testOtherID},
		{"Release", testRelease},
		{"Raise", testRaise},
		{"Rewind", testRewind},
		{"Skip", testSkip},
		{"SkipClosesOpenRecords", testSkipClosesOpenRecords},
		{"RowKeepsEveryField", testRowKeepsEveryField},
		{"RowsRange", testRowsRange},
		{"RowsOfRoutes", testRowsOfRoutes},
		{"SettleTwice", testSettleTwice},
		{"SettleRefusedKeepsNothing", testSettleRefusedKeepsNothing},
		{"SettleOverParked", testSettleOverParked},
		{"SettleUnknownPartition", testSettleUnknownPartition},
		{"SettleUnknownOutcome", testSettleUnknownOutcome},
		{"Marks", testMarks},
		{"FencedPerPartition", testFencedPerPartition},
		{"FencedRaiseAndBegin", testFencedRaiseAndBegin},
		{"Begin", testBegin},
		{"BeginOfBatch", testBeginOfBatch},
		{"Retractions", testRetractions},
		{"BeginOfSettled", testBeginOfSettled},
		{"PlanAndProgress", testPlanAndProgress},
		{"Evidence", testEvidence},
		{"StateKeepsEveryField", testStateKeepsEveryField},
		{"StatesOfConnectors", testStatesOfConnectors},
		{"Seen", testSeen},
		{"Await", testAwait},
		{"AwaitOfAnID", testAwaitOfAnID},
		{"AwaitWokenByTombstone", testAwaitWokenByTombstone},
		{"AwaitOfParked", testAwaitOfParked},
		{"AwaitOfSettled", testAwaitOfSettled},
		{"AwaitReplaces", testAwaitReplaces},
		{"AwaitRacesSettle", testAwaitRacesSettle},
		{"Forget", testForget},
		{"Unconfirmed", testUnconfirmed},
		{"ParkedKeepsEveryField", testParkedKeepsEveryField},
		{"ParkedQueries", testParkedQueries},
		{"ReleaseParked", testReleaseParked},
		{"Nonces", testNonces},
		{"Mappings", testMappings},
		{"FindByEachID", testFindByEachID},
		{"FindOpen", testFindOpen},
		{"FindLimit", testFindLimit},
		{"FindReplaced", testFindReplaced},
		{"Counts", testCounts},
		{"Statuses", testStatuses},
		{"Audits", testAudits},
		{"ConcurrentSettles", testConcurrentSettles},
		{"ConcurrentRefusals", testConcurrentRefusals},
		{"EndedContext", testEndedContext},
		{"OddTexts", testOddTexts},
		{"Model", testModel},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := &bundle{T: t, open: fresh(t), ctx: t.Context()}
			b.reopen()
			t.Cleanup(func() {
				if err := b.Store.Close(); err != nil {
					t.Errorf("close at the end: %v", err)
				}
			})
			c.test(b)
		})
	}
}

// A bundle is one test with its store.
type bundle struct {
	*testing.T
	checkpoint.Store
	open Open
	ctx  context.Context
}

// Skip is the store's, not the test's.
func (b *bundle) Skip(ctx context.Context, s checkpoint.Skip) error { return b.Store.Skip(ctx, s) }

// reopen closes the store, if it is open, and opens it again.
func (b *bundle) reopen() {
	b.Helper()
	if b.Store != nil {
		if err := b.Store.Close(); err != nil {
			b.Fatalf("close: %v", err)
		}
	}
	s, err := b.open()
	if err != nil {
		b.Fatalf("open: %v", err)
	}
	b.Store = s
}

// base is the time from which the tests count: no sub-millisecond part, as stores keep none.
func base() time.Time { return time.Date(2026, 5, 6, 7, 8, 9, 123_000_000, time.UTC) }

func at(n int) time.Time { return base().Add(time.Duration(n) * time.Second) }

func part(topic string, index int32) checkpoint.Partition {
	return checkpoint.Partition{Connector: "pushcash", Topic: topic, ID: checkpoint.TopicID{15: 1}, Index: index}
}

func (b *bundle) acquire(p checkpoint.Partition) checkpoint.Lease {
	b.Helper()
	return b.recover(p).Lease
}

func (b *bundle) recover(p checkpoint.Partition) checkpoint.Recovery {
	b.Helper()
	r, err := b.Acquire(b.ctx, p, "instance-1")
	if err != nil {
		b.Fatalf("acquire %s: %v", p, err)
	}
	return r
}

func (b *bundle) settle(batch checkpoint.Batch) checkpoint.Result {
	b.Helper()
	r, err := b.Settle(b.ctx, batch)
	if err != nil {
		b.Fatalf("settle: %v", err)
	}
	return r
}

func (b *bundle) must(what string, err error) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

func (b *bundle) mustBe(what string, err, want error) {
	b.Helper()
	if !errors.Is(err, want) {
		b.Fatalf("%s: error %v, want one that is %v", what, err, want)
	}
}

func (b *bundle) rows(p checkpoint.Partition, from, to int64) []checkpoint.Row {
	b.Helper()
	rows, err := b.Rows(b.ctx, p, from, to)
	b.must("rows", err)
	return rows
}

func (b *bundle) cursor(p checkpoint.Partition) checkpoint.Cursor {
	b.Helper()
	cs, err := b.Cursors(b.ctx, p.Connector)
	b.must("cursors", err)
	for _, c := range cs {
		if c.Partition == p {
			return c
		}
	}
	b.Fatalf("no cursor of %s among %v", p, cs)
	return checkpoint.Cursor{}
}

func (b *bundle) find(id string) []checkpoint.Row {
	b.Helper()
	rows, err := b.Find(b.ctx, id, 0)
	b.must("find "+id, err)
	return rows
}

func (b *bundle) parked(q checkpoint.ParkedQuery) []checkpoint.Parked {
	b.Helper()
	ps, err := b.Parked(b.ctx, q)
	b.must("parked", err)
	return ps
}

func (b *bundle) woken(connector string) []checkpoint.Waiter {
	b.Helper()
	ws, err := b.Woken(b.ctx, connector, 0)
	b.must("woken", err)
	return ws
}

// A failer ends a test: one of testing or of rapid.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// equal compares deeply; nil and empty slices and maps are the same to callers of a store.
func equal(t failer, what string, got, want any) {
	t.Helper()
	if !same(reflect.ValueOf(got), reflect.ValueOf(want)) {
		t.Fatalf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func same(a, b reflect.Value) bool {
	if a.IsValid() != b.IsValid() {
		return false
	}
	if !a.IsValid() {
		return true
	}
	if a.Type() != b.Type() {
		return false
	}
	if x, ok := a.Interface().(time.Time); ok {
		return x.Equal(b.Interface().(time.Time))
	}
	switch a.Kind() {
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for _, k := range a.MapKeys() {
			if !same(a.MapIndex(k), b.MapIndex(k)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return same(a.Elem(), b.Elem())
	}
	return a.Interface() == b.Interface()
}

// fill sets every field of v to a value that is not zero, so that a field which a store forgets is seen, also one
// that is added later.
func fill(v reflect.Value, n *int) {
	*n++
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(at(*n)))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n)
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			k, e := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			fill(k, n)
			fill(e, n)
			v.SetMapIndex(k, e)
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("text \"%d\" ü", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint8, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n % 256))
	default:
		panic("checkpointtest: fill has no value for a field of type " + v.Type().String())
	}
}

func filled[T any]() T {
	var v T
	n := 0
	fill(reflect.ValueOf(&v).Elem(), &n)
	return v
}

// row is a small delivered row with ids that no other offset has.
func row(off int64) checkpoint.Row {
	id := fmt.Sprintf("evt-%d", off)
	return checkpoint.Row{Offset: off, Route: "create", Outcome: checkpoint.Delivered, At: at(int(off)), EventHash: uint64(off) + 1,
		Event:    checkpoint.Event{ID: id, Entity: "customer", Key: fmt.Sprintf("cus-%d", off), Version: off, Source: "crm", CorrelationID: "cor-" + id},
		VendorID: "ven-" + id,
		Plan:     []checkpoint.Step{{Step: "create", Operation: "create_user", IdempotencyKey: "key-" + id}},
		Attempts: []checkpoint.Attempt{{N: 1, At: at(int(off)), Status: 200, Verdict: "accept", Sent: checkpoint.Answered}}}
}

func parkedRow(off int64, cause checkpoint.Cause) checkpoint.Row {
	r := row(off)
	r.Outcome, r.Cause, r.VendorID = checkpoint.ParkedOut, cause, ""
	return r
}

func entry(p checkpoint.Partition, r checkpoint.Row) *checkpoint.Parked {
	return &checkpoint.Parked{Position: checkpoint.Position{Partition: p, Offset: r.Offset, Route: r.Route},
		EntityKey: checkpoint.EntityKey{Entity: r.Event.Entity, Key: r.Event.Key}, EventID: r.Event.ID, Cause: r.Cause,
		At: r.At, State: checkpoint.ParkedOpen, Since: r.At}
}

// stored is the row as a store answers it.
func stored(p checkpoint.Partition, r checkpoint.Row) checkpoint.Row {
	r.Partition = p
	return r
}

func one(l checkpoint.Lease, r checkpoint.Row) checkpoint.Batch {
	return checkpoint.Batch{Settlements: []checkpoint.Settlement{{Lease: l, Row: r}}}
}

func pos(p checkpoint.Partition, off int64) checkpoint.Position {
	return checkpoint.Position{Partition: p, Offset: off, Route: "create"}
}
