package kafka

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weirsync/weir/checkpoint"
)

func TestAssignmentSaysWhatKafkaKnowsAndStartIsObeyed(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 3)
	for p := range int32(3) {
		b.produce(topic, p, 0, 10)
	}
	b.deleteRecords(topic, 2, 2)
	cfg := b.config(topic)
	meta := EncodeMetadata("store-1", 4)
	b.commit(cfg.Group, topic, 0, 4, meta)

	p0, p1, p2 := TP{topic, 0}, TP{topic, 1}, TP{topic, 2}
	r := newRecorder(t, "c")
	r.onAssign = func(_ context.Context, as []Assignment) (map[TP]Start, error) {
		return map[TP]Start{p0: {Offset: as[0].Committed.Offset}, p1: {Hold: true}, p2: {Offset: 5}}, nil
	}
	stop := r.run(cfg)
	r.waitOffset(p0, 9)
	r.waitOffset(p2, 9)

	r.mu.Lock()
	as := slices.Clone(r.assigned)
	r.mu.Unlock()
	if len(as) != 3 {
		t.Fatalf("assigned %d partitions, want 3: %v", len(as), as)
	}
	if got := as[0].Committed; !got.OK || got.Offset != 4 || got.Metadata != meta {
		t.Errorf("committed of %v: %+v, want offset 4 with metadata %q", p0, got, meta)
	}
	if as[1].Committed.OK {
		t.Errorf("committed of %v: %+v, want none", p1, as[1].Committed)
	}
	if as[2].LogStart != 2 || as[2].End != 10 {
		t.Errorf("range of %v: %d to %d, want 2 to 10", p2, as[2].LogStart, as[2].End)
	}
	if as[0].TopicID == (checkpoint.TopicID{}) || as[0].TopicID != as[2].TopicID {
		t.Errorf("topic ids %v and %v, want one that is not zero", as[0].TopicID, as[2].TopicID)
	}
	wantOffsets(t, "started at the commit", r.offsets(p0), seq(4, 10))
	wantOffsets(t, "started at 5", r.offsets(p2), seq(5, 10))
	if got := r.offsets(p1); got != nil {
		t.Errorf("held partition delivered %v", got)
	}

	// A held partition starts later, where it is told.
	if err := r.c.Start(p1, 7); err != nil {
		t.Fatal(err)
	}
	r.waitOffset(p1, 9)
	wantOffsets(t, "held, then started at 7", r.offsets(p1), seq(7, 10))
	if err := r.c.Start(p1, 0); err == nil {
		t.Error("Start of a running partition: no error")
	}
	if err := r.c.Start(TP{topic, 9}, 0); !errors.Is(err, ErrNotOwned) {
		t.Errorf("Start of a partition that is not owned: %v, want ErrNotOwned", err)
	}

	ends, err := r.c.Ends(b.ctx())
	if err != nil || ends[p2].LogStart != 2 || ends[p2].End != 10 {
		t.Errorf("Ends: %+v, %v, want 2 to 10 for %v", ends[p2], err, p2)
	}
	if got, want := r.c.Owned(), []TP{p0, p1, p2}; !slices.Equal(got, want) {
		t.Errorf("Owned: %v, want %v", got, want)
	}
	stop()
	if got := r.c.Owned(); len(got) != 0 {
		t.Errorf("Owned after Run: %v", got)
	}
	if _, err := r.c.Ends(b.ctx()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("Ends after Run: %v, want ErrNotRunning", err)
	}
	if err := r.c.Run(context.Background()); err == nil {
		t.Error("second Run: no error")
	}
}

// Start from inside Assign comes before the client has finished to assign: it must not be lost.
func TestStartInsideAssign(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	b.produce(topic, 0, 0, 10)
	tp := TP{topic, 0}
	r := newRecorder(t, "c")
	r.onAssign = func(context.Context, []Assignment) (map[TP]Start, error) {
		if err := r.c.Start(tp, 6); err != nil {
			t.Error(err)
		}
		// The poll loop looks every 10 ms: it must leave the start alone until the client is ready for it.
		for until := time.Now().Add(100 * time.Millisecond); time.Now().Before(until); {
			r.c.mu.Lock()
			waiting := len(r.c.starts)
			r.c.mu.Unlock()
			if waiting != 1 {
				t.Error("the start was carried out before the assignment was done")
				break
			}
			time.Sleep(time.Millisecond)
		}
		return map[TP]Start{tp: {Hold: true}}, nil
	}
	r.run(b.config(topic))
	r.waitOffset(tp, 9)
	wantOffsets(t, "started inside Assign", r.offsets(tp), seq(6, 10))
}

func TestRecordsCarryEverything(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	p, err := NewProducer(b.config())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	at := time.UnixMilli(1_700_000_000_123)
	outs := []Out{
		{Topic: topic, Key: []byte("k"), Value: []byte("v"), Timestamp: at, Headers: headers("a", "1", "a", "2")},
		{Topic: topic, Key: []byte("k")},
		{Topic: topic, Key: []byte("k"), Value: []byte{}},
	}
	if _, err := p.Produce(b.ctx(), outs); err != nil {
		t.Fatal(err)
	}
	r := newRecorder(t, "c")
	r.run(b.config(topic))
	tp := TP{topic, 0}
	r.waitOffset(tp, 2)
	r.mu.Lock()
	defer r.mu.Unlock()
	rs := r.records[tp]
	if x := rs[0]; string(x.Key) != "k" || string(x.Value) != "v" || !x.Timestamp.Equal(at) || fmt.Sprint(x.Headers) != fmt.Sprint(outs[0].Headers) ||
		x.Topic != topic || x.TopicID != r.assigned[0].TopicID || x.LeaderEpoch < 0 || x.Control {
		t.Errorf("record: %+v", x)
	}
	if rs[1].Value != nil {
		t.Errorf("tombstone has value %q, want nil", rs[1].Value)
	}
	if rs[2].Value == nil {
		t.Error("an empty value came as a tombstone")
	}
}

func TestPauseAndResume(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	p0, p1 := TP{topic, 0}, TP{topic, 1}
	b.produce(topic, 0, 0, 5)
	r := newRecorder(t, "c")
	r.run(b.config(topic))
	r.waitOffset(p0, 4)
	r.c.Pause(p0, TP{"other", 1})
	b.produce(topic, 0, 5, 5)
	for i := range 5 { // several polls pass by
		b.produce(topic, 1, i, 1)
		r.waitOffset(p1, int64(i))
	}
	wantOffsets(t, "paused", r.offsets(p0), seq(0, 5))
	r.c.Resume(p0)
	r.waitOffset(p0, 9)
	wantOffsets(t, "resumed", r.offsets(p0), seq(0, 10))
}

// Promise 1 and design section 3: markers settle too, so that lag reaches 0.
func TestTransactionsLagReachesZero(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	tp := TP{topic, 0}
	b.produceTxn(topic, 0, 2, true)  // 0, 1, marker 2
	b.produceTxn(topic, 0, 3, false) // 3 to 5 aborted, marker 6
	b.produce(topic, 0, 0, 1)        // 7
	b.produceTxn(topic, 0, 1, false) // 8 aborted, marker 9: the last one is a marker
	cfg := b.config(topic)
	r := newRecorder(t, "c")
	stop := r.run(cfg)
	r.waitOffset(tp, 9)
	wantOffsets(t, "read committed", r.offsets(tp), []int64{0, 1, 2, 6, 7, 9})
	r.mu.Lock()
	for _, rec := range r.records[tp] {
		marker := rec.Offset == 2 || rec.Offset == 6 || rec.Offset == 9
		if rec.Control != marker {
			t.Errorf("offset %d: Control %v, want %v", rec.Offset, rec.Control, marker)
		}
		if rec.Control && (rec.Key != nil || rec.Value != nil) {
			t.Errorf("offset %d: a marker with content", rec.Offset)
		}
	}
	last := r.records[tp][len(r.records[tp])-1]
	r.mu.Unlock()
	meta := EncodeMetadata("s", last.Offset+1)
	if err := r.c.Commit(b.ctx(), map[TP]Commit{tp: {Offset: last.Offset + 1, LeaderEpoch: last.LeaderEpoch, Metadata: meta}}); err != nil {
		t.Fatal(err)
	}
	stop()
	a, err := NewAdmin(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	lag, err := a.GroupLag(b.ctx(), cfg.Group, topic)
	if err != nil {
		t.Fatal(err)
	}
	if l := lag[tp]; l.Lag() != 0 || l.End != 10 || l.Committed.Offset != 10 || l.Committed.Metadata != meta || l.Committed.LeaderEpoch != last.LeaderEpoch {
		t.Errorf("lag %+v = %d, want committed 10 = end 10 with metadata %q and epoch %d", l, l.Lag(), meta, last.LeaderEpoch)
	}
}

// An open transaction keeps the end back.
func TestEndIsTheLastStableOffset(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	b.produce(topic, 0, 0, 3)
	cl := b.openTxn(topic)
	defer cl()
	a, err := NewAdmin(b.config())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ends, err := a.Ends(b.ctx(), TP{topic, 0})
	if err != nil || ends[TP{topic, 0}].End != 3 {
		t.Errorf("Ends with an open transaction from 3 on: %+v, %v, want end 3", ends, err)
	}
}

// Promises 1 and 4 under a cooperative rebalance: nothing is handled by both after a revoke, nothing is left out.
func TestCooperativeRebalance(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	const parts = 6
	topic := b.topic("canonical", parts)
	cfg := b.config(topic)
	make1 := func(name string) *recorder {
		r := newRecorder(t, name)
		r.onRevoke = func(ctx context.Context, tps []TP) {
			// Everything that came is settled at once: commit it, inside the callback.
			cs := map[TP]Commit{}
			r.mu.Lock()
			for _, tp := range tps {
				if rs := r.records[tp]; len(rs) > 0 {
					l := rs[len(rs)-1]
					cs[tp] = Commit{Offset: l.Offset + 1, LeaderEpoch: l.LeaderEpoch, Metadata: EncodeMetadata("s", l.Offset+1)}
				}
			}
			r.mu.Unlock()
			if err := r.c.Commit(ctx, cs); err != nil {
				t.Errorf("%s: commit inside Revoke: %v", name, err)
			}
		}
		return r
	}
	for p := range int32(parts) {
		b.produce(topic, p, 0, 20)
	}
	r1, r2 := make1("c1"), make1("c2")
	stop1 := r1.run(cfg)
	for p := range int32(parts) {
		r1.waitOffset(TP{topic, p}, 19)
	}

	// Traffic goes on throughout.
	var produced [parts]atomic.Int64
	trafficCtx, stopTraffic := context.WithCancel(context.Background())
	var traffic sync.WaitGroup
	traffic.Go(func() {
		pace := time.NewTicker(5 * time.Millisecond)
		defer pace.Stop()
		for n := 20; trafficCtx.Err() == nil; n++ {
			<-pace.C
			for p := range int32(parts) {
				b.produce(topic, p, n, 1)
				produced[p].Store(int64(n + 1))
			}
		}
	})
	stop2 := r2.run(cfg)
	r2.wait("half of the partitions", func() bool { return len(r2.owned) == parts/2 })
	r1.wait("the other half", func() bool { return len(r1.revoked) == parts/2 })
	r1.mu.Lock()
	gone := slices.Clone(r1.revoked)
	r1.mu.Unlock()
	for _, tp := range gone {
		r2.waitOffset(tp, 21)
	}
	stopTraffic()
	traffic.Wait()

	// A commit for a partition that was revoked is refused, and does not reach the broker.
	before := b.committed(cfg.Group, topic, gone[0].Partition)
	err := r1.c.Commit(b.ctx(), map[TP]Commit{gone[0]: {Offset: 1, LeaderEpoch: -1}})
	if !errors.Is(err, ErrNotOwned) {
		t.Errorf("commit of the revoked %v: %v, want ErrNotOwned", gone[0], err)
	}
	if after := b.committed(cfg.Group, topic, gone[0].Partition); after.At < before.At {
		t.Errorf("commit of the revoked %v moved the group from %d to %d", gone[0], before.At, after.At)
	}
	stop1()
	r2.wait("all partitions", func() bool { return len(r2.owned) == parts })
	for p := range int32(parts) {
		last := produced[p].Load() - 1
		if !slices.Contains(r1.offsets(TP{topic, p}), last) {
			r2.waitOffset(TP{topic, p}, last)
		}
	}
	stop2()

	for p := range int32(parts) {
		tp := TP{topic, p}
		all := append(r1.offsets(tp), r2.offsets(tp)...)
		wantOffsets(t, fmt.Sprintf("%v over both consumers", tp), all, seq(0, produced[p].Load()))
	}
	if len(r1.lost)+len(r2.lost) > 0 {
		t.Errorf("lost %v and %v, want nothing lost in an orderly rebalance", r1.lost, r2.lost)
	}
	desc, err := b.adm.DescribeGroups(b.ctx(), cfg.Group)
	if err != nil || len(desc[cfg.Group].Members) != 0 {
		t.Errorf("members after both have stopped: %v, %v, want none", desc[cfg.Group].Members, err)
	}
}

// kick throws a member out of the group, so that it learns of its loss from its next heartbeat.
func (b *broker) kick(c *Consumer) {
	b.t.Helper()
	cl, err := c.client()
	if err != nil {
		b.t.Fatal(err)
	}
	member, _ := cl.GroupMetadata()
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.MemberID = c.cfg.Group, member
	m := kmsg.NewLeaveGroupRequestMember()
	m.MemberID = member
	req.Members = append(req.Members, m)
	resp, err := req.RequestWith(b.ctx(), b.cl)
	if err != nil || resp.ErrorCode != 0 {
		b.t.Fatalf("throw out %s: %v, code %d", member, err, resp.ErrorCode)
	}
}

func TestCommitIsRefusedOnceLost(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	tp := TP{topic, 0}
	b.produce(topic, 0, 0, 5)
	cfg := b.config(topic)
	cfg.SessionTimeout = 6 * time.Second // heartbeats every 2 s
	r := newRecorder(t, "c")
	var inLost error
	r.onLost = func([]TP) {
		inLost = r.c.Commit(context.Background(), map[TP]Commit{tp: {Offset: 5, LeaderEpoch: -1}})
	}
	r.run(cfg)
	r.waitOffset(tp, 4)
	b.kick(r.c)
	r.wait("the loss", func() bool { return len(r.lost) == 1 })
	if !errors.Is(inLost, ErrNotOwned) {
		t.Errorf("commit inside Lost: %v, want ErrNotOwned", inLost)
	}
	if o := b.committed(cfg.Group, topic, 0); o.At >= 0 && o.At == 5 {
		t.Errorf("the commit of a lost partition reached the broker: %+v", o)
	}
	// It comes back, as a new assignment, and reads again from where nothing was committed.
	r.wait("the partition again", func() bool { return len(r.assigned) == 2 && len(r.records[tp]) == 10 })
	if err := r.c.Commit(b.ctx(), map[TP]Commit{tp: {Offset: 5, LeaderEpoch: -1}}); err != nil {
		t.Errorf("commit after it came back: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.revoked) != 0 {
		t.Errorf("revoked %v, want only lost", r.revoked)
	}
	if len(r.changed) != 0 {
		t.Errorf("Changed(%v): being thrown out is no condition of the environment", r.changed)
	}
}

// The end of an assignment waits for a commit under way, so none arrives after Lost was called.
func TestLossEndsACommitUnderWay(t *testing.T) {
	t.Parallel()
	b := testBroker(t, kfake.SleepOutOfOrder())
	b.onlyFake("an answer that is held back")
	topic := b.topic("canonical", 1)
	tp := TP{topic, 0}
	b.produce(topic, 0, 0, 5)
	r := newRecorder(t, "c")
	committed := make(chan error, 1)
	var early bool
	r.onLost = func([]TP) {
		select {
		case err := <-committed:
			committed <- err
		default:
			early = true
		}
	}
	cfg := b.config(topic)
	cfg.RequestTimeout = patience
	r.run(cfg)
	r.waitOffset(tp, 4)
	reached, release := make(chan struct{}), make(chan struct{})
	b.fake.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		close(reached)
		b.fake.SleepControl(func() { <-release })
		return nil, errors.New("the connection ends"), true
	})
	go func() {
		committed <- r.c.Commit(context.Background(), map[TP]Commit{tp: {Offset: 5, LeaderEpoch: -1}})
	}()
	<-reached
	go r.c.onLost(context.Background(), nil, map[string][]int32{topic: {0}}) // as the client calls it
	r.wait("the loss", func() bool { return len(r.lost) == 1 })
	close(release)
	if early {
		t.Error("Lost was called while a commit of the partition was under way")
	}
	if err := <-committed; err == nil {
		t.Error("the commit under way: no error, want that it was ended")
	}
}

func TestCommitRefusals(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	p0, p1 := TP{topic, 0}, TP{topic, 1}
	cfg := b.config(topic)
	r := newRecorder(t, "c")
	r.run(cfg)
	r.wait("both partitions", func() bool { return len(r.owned) == 2 })
	other := TP{topic, 7}
	err := r.c.Commit(b.ctx(), map[TP]Commit{
		p0:    {Offset: 0, LeaderEpoch: -1, Metadata: strings.Repeat("x", MetadataMax)},
		p1:    {Offset: 0, LeaderEpoch: -1, Metadata: strings.Repeat("x", MetadataMax+1)},
		other: {Offset: 1},
	})
	ce, ok := errors.AsType[*CommitError](err)
	if !ok || len(ce.Refused) != 2 || !errors.Is(ce.Refused[p1], ErrMetadataTooLarge) || !errors.Is(ce.Refused[other], ErrNotOwned) {
		t.Errorf("commit: %v, want %v too large and %v not owned", err, p1, other)
	}
	if got := b.committed(cfg.Group, topic, 0); got.At != 0 || len(got.Metadata) != MetadataMax {
		t.Errorf("the good partition of the commit: offset %d with %d bytes of metadata, want 0 with %d", got.At, len(got.Metadata), MetadataMax)
	}
}

// A recreated topic: trouble, lost, then assigned anew under the new id.
func TestTopicRecreated(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic, other := b.topic("canonical", 2), b.topic("other", 1)
	tp, tp2 := TP{topic, 0}, TP{other, 0}
	b.produce(topic, 0, 0, 8)
	b.produce(other, 0, 0, 1)
	cfg := b.config(topic, other)
	r := newRecorder(t, "c")
	r.run(cfg)
	r.waitOffset(tp, 7)
	r.waitOffset(tp2, 0)
	r.mu.Lock()
	old := r.assigned[0].TopicID
	r.mu.Unlock()

	b.recreate(topic, 2)
	b.cl.PurgeTopicsFromProducing(topic)
	b.produce(topic, 0, 100, 3)
	r.wait("the new topic's records", func() bool { return len(r.records[tp]) == 11 })
	r.mu.Lock()
	var changed *TopicChangedError
	for _, err := range r.troubles[tp] { // deleted may have been seen first
		if e, ok := errors.AsType[*TopicChangedError](err); ok && e.New != (checkpoint.TopicID{}) {
			changed = e
		}
	}
	var again Assignment
	for _, a := range r.assigned {
		if a.TP == tp {
			again = a
		}
	}
	if changed == nil || changed.Old != old || changed.New != again.TopicID || changed.New == old {
		t.Errorf("troubles %v, want one from id %v to %v", r.troubles[tp], old, again.TopicID)
	}
	wantOffsets(t, "old topic, then new", offsetsOf(r.records[tp]), append(seq(0, 8), 0, 1, 2))
	if !slices.Contains(r.lost, tp) {
		t.Errorf("lost %v, want %v among them", r.lost, tp)
	}
	if len(r.troubles[tp2]) != 0 || slices.Contains(r.lost, tp2) {
		t.Errorf("the other topic: troubles %v, lost %v", r.troubles[tp2], r.lost)
	}
	r.mu.Unlock()

	b.produce(other, 0, 1, 1)
	r.waitOffset(tp2, 1)
	if err := r.c.Commit(b.ctx(), map[TP]Commit{tp: {Offset: 3, LeaderEpoch: -1, Metadata: "m"}}); err != nil {
		t.Errorf("commit on the new topic: %v", err)
	}
}

// Retention passes the mark while the fetch is paused, as under a long vendor outage.
func TestRetentionPastThePosition(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	p0, p1 := TP{topic, 0}, TP{topic, 1}
	b.produce(topic, 0, 0, 5)
	r := newRecorder(t, "c")
	r.run(b.config(topic))
	r.waitOffset(p0, 4)
	r.c.Pause(p0)
	b.produce(topic, 0, 5, 20)
	b.deleteRecords(topic, 0, 12)
	r.wait("trouble", func() bool { return len(r.troubles[p0]) > 0 })
	r.mu.Lock()
	oor, ok := errors.AsType[*OutOfRangeError](r.troubles[p0][0])
	r.mu.Unlock()
	if !ok || *oor != (OutOfRangeError{Next: 5, LogStart: 12, End: 25}) {
		t.Errorf("trouble %v, want next 5, log 12 to 25", oor)
	}
	r.c.Resume(p0) // still held
	b.produce(topic, 1, 0, 1)
	r.waitOffset(p1, 0)
	wantOffsets(t, "held", r.offsets(p0), seq(0, 5))
	if err := r.c.Start(p0, 12); err != nil {
		t.Fatal(err)
	}
	r.waitOffset(p0, 24)
	wantOffsets(t, "after the gap was accepted", r.offsets(p0), append(seq(0, 5), seq(12, 25)...))
	if n := len(r.troubles[p0]); n != 1 {
		t.Errorf("%d troubles, want 1", n)
	}
}

// The fetch itself meets an offset that is out of range.
func TestStartOutOfRange(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	below, beyond := TP{topic, 0}, TP{topic, 1}
	b.produce(topic, 0, 0, 10)
	b.produce(topic, 1, 0, 10)
	b.deleteRecords(topic, 0, 6)
	cfg := b.config(topic)
	cfg.CheckInterval = patience // only the fetch's error can find it
	r := newRecorder(t, "c")
	r.onAssign = func(context.Context, []Assignment) (map[TP]Start, error) {
		return map[TP]Start{below: {Offset: 2}, beyond: {Offset: 50}}, nil
	}
	r.run(cfg)
	for tp, want := range map[TP]OutOfRangeError{below: {2, 6, 10}, beyond: {50, 0, 10}} {
		r.wait("trouble of "+tp.String(), func() bool { return len(r.troubles[tp]) > 0 })
		oor, ok := errors.AsType[*OutOfRangeError](r.troubles[tp][0])
		if !ok || *oor != want {
			t.Errorf("trouble of %v: %v, want %v", tp, r.troubles[tp][0], &want)
		}
	}
	if err := r.c.Start(below, 6); err != nil {
		t.Fatal(err)
	}
	r.waitOffset(below, 9)
	wantOffsets(t, "started in range", r.offsets(below), seq(6, 10))
}

func TestBrokerAwayBreaksNothingAndIsToldOnce(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	tp := TP{topic, 0}
	b.produce(topic, 0, 0, 5)
	var l line
	cfg := b.config(topic)
	cfg.Dial, cfg.RequestTimeout = l.dial, time.Second
	r := newRecorder(t, "c")
	r.run(cfg)
	r.waitOffset(tp, 4)
	for round := range 2 {
		l.cut(true)
		b.produce(topic, 0, 5*(round+1), 5)
		r.wait("the outage", func() bool { return len(r.changed) == 2*round+1 })
		l.cut(false)
		r.waitOffset(tp, int64(5*(round+2)-1))
		r.wait("the end of the outage", func() bool { return len(r.changed) == 2*round+2 })
	}
	got := r.offsets(tp)
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.lost) > 0 {
		// A heartbeat met the outage, and the group was joined anew: nothing was committed, so it is read again.
		got = slices.Compact(slices.Sorted(slices.Values(got)))
	}
	wantOffsets(t, "through two outages", got, seq(0, 15))
	for i, err := range r.changed {
		if (err == nil) != (i%2 == 1) {
			t.Errorf("Changed call %d: %v, want an error and nil in turn", i, err)
		}
		if err != nil && KindOf(err) != KindEnvironment {
			t.Errorf("Changed(%v): kind %d, want the environment", err, KindOf(err))
		}
	}
	if len(r.troubles) != 0 {
		t.Errorf("an outage made trouble: %v", r.troubles)
	}
}

func TestBrokerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := testBroker(t, kfake.DataDir(dir))
	first.onlyFake("a restart of the broker")
	topic := first.topic("canonical", 1)
	tp := TP{topic, 0}
	first.produce(topic, 0, 0, 5)
	cfg := first.config(topic)
	r := newRecorder(t, "c")
	stop := r.run(cfg)
	r.waitOffset(tp, 4)
	if err := r.c.Commit(first.ctx(), map[TP]Commit{tp: {Offset: 5, LeaderEpoch: -1, Metadata: EncodeMetadata("s", 5)}}); err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscanf(first.addrs[0][strings.LastIndexByte(first.addrs[0], ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	first.fake.Close()
	r.wait("the outage", func() bool { return len(r.changed) == 1 && r.changed[0] != nil })
	second := testBroker(t, kfake.DataDir(dir), kfake.Ports(port))
	second.produce(topic, 0, 5, 5)
	r.waitOffset(tp, 9)
	r.wait("the end of the outage", func() bool { return len(r.changed) == 2 && r.changed[1] == nil })
	stop()
	got := r.offsets(tp)
	if !slices.Equal(slices.Compact(slices.Sorted(slices.Values(got))), seq(0, 10)) {
		t.Errorf("offsets %v, want each of 0 to 9", got)
	}
	for i, a := range r.assigned[1:] {
		if a.Committed.Offset != 5 || a.Committed.Metadata != EncodeMetadata("s", 5) {
			t.Errorf("assignment %d after the restart: committed %+v, want 5", i+1, a.Committed)
		}
	}
}

// Not permitted is the environment too; when it is permitted again, reading goes on.
func TestFetchNotPermittedIsToldOnceAndHeals(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	b.onlyFake("a refused fetch")
	topic := b.topic("canonical", 1)
	tp := TP{topic, 0}
	b.produce(topic, 0, 0, 3)
	fault := b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: topic, Err: kerr.TopicAuthorizationFailed, Count: -1})
	cfg := b.config(topic)
	r := newRecorder(t, "c")
	r.run(cfg)
	r.wait("the condition", func() bool { return len(r.changed) == 1 })
	if err := fault.Wait(b.ctx(), 3); err != nil {
		t.Fatal(err)
	}
	fault.Remove()
	r.waitOffset(tp, 2)
	r.wait("its end", func() bool { return len(r.changed) == 2 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if !errors.Is(r.changed[0], kerr.TopicAuthorizationFailed) || KindOf(r.changed[0]) != KindEnvironment || r.changed[1] != nil {
		t.Errorf("Changed: %v, want the refusal, then nil", r.changed)
	}
}

func TestGroupNotPermittedIsTold(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	b.onlyFake("a refused join")
	topic := b.topic("canonical", 1)
	fault := b.fake.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.JoinGroup}, Err: kerr.GroupAuthorizationFailed, Count: -1, TopLevel: true})
	r := newRecorder(t, "c")
	r.run(b.config(topic))
	r.wait("the condition", func() bool { return len(r.changed) == 1 })
	fault.Remove()
	r.wait("the partition", func() bool { return len(r.owned) == 1 })
	r.wait("the end of the condition", func() bool { return len(r.changed) == 2 })
	if !errors.Is(r.changed[0], kerr.GroupAuthorizationFailed) || r.changed[1] != nil {
		t.Errorf("Changed: %v, want the refusal, then nil", r.changed)
	}
}

func TestAssignErrorStopsTheConsumer(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	r := newRecorder(t, "c")
	broken := errors.New("the store is broken")
	r.onAssign = func(context.Context, []Assignment) (map[TP]Start, error) { return nil, broken }
	c, err := New(b.config(topic), r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Run(b.ctx()); !errors.Is(err, broken) {
		t.Errorf("Run: %v, want the handler's error", err)
	}
	if len(r.revoked)+len(r.lost) != 0 {
		t.Errorf("revoked %v, lost %v: an Assign that failed owns nothing", r.revoked, r.lost)
	}
}

// An Assign that waits does not keep a rebalance from happening: its ctx ends, and it is asked again.
func TestSlowAssignGivesWayToARebalance(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	b.produce(topic, 0, 0, 5)
	b.produce(topic, 1, 0, 5)
	cfg := b.config(topic)
	r1, r2 := newRecorder(t, "c1"), newRecorder(t, "c2")
	entered := make(chan struct{})
	var slow sync.Once
	r1.onAssign = func(ctx context.Context, as []Assignment) (map[TP]Start, error) {
		var err error
		slow.Do(func() {
			close(entered)
			<-ctx.Done()
			err = ctx.Err()
		})
		starts := map[TP]Start{}
		for _, a := range as {
			starts[a.TP] = Start{Offset: 0}
		}
		if err != nil {
			r1.mu.Lock()
			clear(r1.owned) // an Assign that failed owns nothing
			r1.mu.Unlock()
		}
		return starts, err
	}
	r1.run(cfg)
	<-entered
	r2.run(cfg)
	r1.wait("one partition", func() bool { return len(r1.owned) == 1 })
	r2.wait("one partition", func() bool { return len(r2.owned) == 1 })
	for _, r := range []*recorder{r1, r2} {
		r.wait("its records", func() bool {
			for tp := range r.owned {
				return len(r.records[tp]) == 5
			}
			return false
		})
	}
}

// The same while records of a running partition wait to be delivered: the poll loop lets go of the rebalance, and
// delivers them when Assign is done.
func TestSlowAssignWithTrafficGivesWayToARebalance(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	cfg := b.config(topic)
	r1, r2 := newRecorder(t, "c1"), newRecorder(t, "c2")
	entered := make(chan struct{})
	var n atomic.Int32
	r1.onAssign = func(ctx context.Context, as []Assignment) (map[TP]Start, error) {
		starts := map[TP]Start{}
		for _, a := range as {
			starts[a.TP] = Start{Offset: a.LogStart}
		}
		if n.Add(1) != 2 {
			return starts, nil
		}
		close(entered)
		<-ctx.Done() // as one that waits for another instance's lease
		r1.mu.Lock()
		for _, a := range as {
			delete(r1.owned, a.TP)
		}
		r1.mu.Unlock()
		return nil, ctx.Err()
	}
	r1.run(cfg)
	r1.wait("the first partition", func() bool { return len(r1.owned) == 1 })
	if rs, err := b.adm.UpdatePartitions(b.ctx(), 2, topic); err != nil || rs.Error() != nil {
		t.Fatal(err, rs.Error())
	}
	<-entered
	b.produce(topic, 0, 0, 5)
	polled := func() bool {
		r1.c.mu.Lock()
		defer r1.c.mu.Unlock()
		p := r1.c.parts[TP{topic, 0}]
		return p != nil && p.next == 5
	}
	for until := time.Now().Add(patience); !polled(); {
		if time.Now().After(until) {
			t.Fatal("the records are not polled while Assign runs")
		}
		time.Sleep(time.Millisecond)
	}
	r2.run(cfg)
	r2.wait("a partition", func() bool { return len(r2.owned) == 1 })
	r1.wait("one partition", func() bool { return len(r1.owned) == 1 })
	for _, r := range []*recorder{r1, r2} {
		if r.mu.Lock(); r.owned[TP{topic, 0}] {
			r.mu.Unlock()
			r.waitOffset(TP{topic, 0}, 4)
			continue
		}
		r.mu.Unlock()
	}
}

// Stop: revoke with everything, a commit inside it, and no member left behind.
func TestStopLeavesInOrder(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	b.produce(topic, 0, 0, 5)
	cfg := b.config(topic)
	r := newRecorder(t, "c")
	r.onRevoke = func(ctx context.Context, tps []TP) {
		if len(tps) != 2 {
			t.Errorf("Revoke of %v, want both at once", tps)
		}
		if _, ok := ctx.Deadline(); !ok || ctx.Err() != nil {
			t.Errorf("Revoke's ctx: ended %v, want one with a deadline that has not ended", ctx.Err())
		}
		if err := r.c.Commit(ctx, map[TP]Commit{{topic, 0}: {Offset: 5, LeaderEpoch: -1, Metadata: "m"}}); err != nil {
			t.Errorf("commit inside Revoke: %v", err)
		}
	}
	stop := r.run(cfg)
	r.waitOffset(TP{topic, 0}, 4)
	stop()
	if o := b.committed(cfg.Group, topic, 0); o.At != 5 || o.Metadata != "m" {
		t.Errorf("committed %+v, want 5", o)
	}
	desc, err := b.adm.DescribeGroups(b.ctx(), cfg.Group)
	if err != nil || len(desc[cfg.Group].Members) != 0 {
		t.Errorf("members left behind: %v, %v", desc[cfg.Group].Members, err)
	}
	if len(r.lost) != 0 {
		t.Errorf("lost %v, want an orderly stop", r.lost)
	}
}

// A storm of starts and stops leaves no goroutine (goleak in TestMain) and no deadlock.
func TestStartStopStorm(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 2)
	b.produce(topic, 0, 0, 5)
	cfg := b.config(topic)
	for i := range 8 {
		r := newRecorder(t, fmt.Sprint("c", i))
		stop := r.run(cfg)
		if i%2 == 0 {
			r.wait("partitions", func() bool { return len(r.owned) > 0 })
		}
		stop()
	}
}

// Partitions that are added later are assigned without a restart.
func TestPartitionsAddedLater(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	r := newRecorder(t, "c")
	r.run(b.config(topic))
	r.wait("the first partition", func() bool { return len(r.owned) == 1 })
	if rs, err := b.adm.UpdatePartitions(b.ctx(), 2, topic); err != nil || rs.Error() != nil {
		t.Fatal(err, rs.Error())
	}
	r.wait("the second partition", func() bool { return len(r.owned) == 2 })
	for cl := b.ctx(); ; { // the producer's own view of the topic
		var m kadm.Metadata
		m, err := b.adm.Metadata(cl, topic)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Topics[topic].Partitions) == 2 {
			break
		}
	}
	b.cl.PurgeTopicsFromProducing(topic)
	b.produce(topic, 1, 0, 3)
	r.waitOffset(TP{topic, 1}, 2)
	if len(r.lost)+len(r.revoked) != 0 {
		t.Errorf("lost %v, revoked %v: the running partition was disturbed", r.lost, r.revoked)
	}
}

func TestOffsetsAt(t *testing.T) {
	t.Parallel()
	b := testBroker(t)
	topic := b.topic("canonical", 1)
	tp := TP{topic, 0}
	p, err := NewProducer(b.config())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	t0 := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	for i := range 5 {
		if _, err := p.Produce(b.ctx(), []Out{{Topic: topic, Value: []byte("v"), Timestamp: t0.Add(time.Duration(i) * time.Minute)}}); err != nil {
			t.Fatal(err)
		}
	}
	a, err := NewAdmin(b.config())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for at, want := range map[time.Time]int64{
		t0: 0, t0.Add(time.Minute): 1, t0.Add(61 * time.Second): 2, t0.Add(time.Hour): 5, time.Unix(-5, 0): 0,
	} {
		got, err := a.OffsetsAt(b.ctx(), at, tp)
		if err != nil || got[tp] != want {
			t.Errorf("OffsetsAt %v: %v, %v, want %d", at.Sub(t0), got, err, want)
		}
	}
}
