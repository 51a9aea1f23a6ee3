package integration_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/integration_test/harness"
)

// The tests of this file are the rows of design section 3's table, seen from outside.

func customers(prefix string, n int, version int64) []event {
	es := make([]event, n)
	for i := range es {
		es[i] = customer(fmt.Sprintf("%s-%d", prefix, i), version)
	}
	return es
}

func invoices(prefix string, n int) []event {
	es := make([]event, n)
	for i := range es {
		es[i] = invoice(fmt.Sprintf("%s-%d", prefix, i), "c", 1, 5)
	}
	return es
}

// reset moves the committed offsets of the group, which must have no member: with Kafka's own tool where there is a
// real broker.
func (b *box) reset(to harness.Reset) {
	b.t.Helper()
	topics := []string{b.topics["customer"], b.topics["contract"], b.topics["invoice"]}
	if b.cluster.Real {
		b.cluster.Tools(b.t).ResetOffsets(b.t, "weir."+b.name, to, topics...)
		return
	}
	list := b.admin.ListStartOffsets
	if to[0] == harness.ToLatest[0] {
		list = b.admin.ListEndOffsets
	}
	offs, err := list(b.t.Context(), topics...)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.admin.CommitAllOffsets(b.t.Context(), "weir."+b.name, offs.Offsets()); err != nil {
		b.t.Fatal(err)
	}
}

// deleteOffsets removes the group's offsets.
func (b *box) deleteOffsets() {
	b.t.Helper()
	set := kadm.TopicsSet{}
	for _, topic := range b.topics {
		if b.cluster.Real {
			b.cluster.Tools(b.t).DeleteOffsets(b.t, "weir."+b.name, topic)
			continue
		}
		set.Add(topic, 0, 1, 2)
	}
	if b.cluster.Real {
		return
	}
	rs, err := b.admin.DeleteOffsets(b.t.Context(), "weir."+b.name, set)
	if err == nil {
		err = rs.Error()
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// recreate deletes the topic of an entity and makes it again.
func (b *box) recreate(entity string) {
	b.t.Helper()
	topic := b.topics[entity]
	rs, err := b.admin.DeleteTopics(b.t.Context(), topic)
	if err == nil {
		err = rs.Error()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.until("topic "+topic+" is created again", boxWait, func() (bool, string) {
		rs, err := b.admin.CreateTopics(b.t.Context(), 3, -1, nil, topic)
		if err == nil {
			err = rs.Error()
		}
		return err == nil, fmt.Sprint(err)
	})
	b.connect() // producers that know the old one would write to its id
}

// things counts the states that were written per thing whose name begins so.
func (b *box) things(prefix string) (n int) {
	b.t.Helper()
	for _, e := range b.sandbox.Applied(b.t) {
		if e.Operation == "put_thing" && strings.HasPrefix(e.Object, prefix) {
			n++
		}
	}
	return n
}

// A topic that was deleted and created again is another one, with the offsets of the old. It is held until an operator
// accepts it, and then read from its start: the old topic's outcomes and marks are none of its records'.
func TestTopicCreatedAgain(t *testing.T) {
	t.Parallel()
	for _, while := range []string{"stopped", "running"} {
		t.Run(while, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{})
			weir := b.start()
			b.publish(customers("old", 12, 1)...)
			b.publish(invoices("inv", 6)...)
			b.waitLag0()
			topic := b.topics["customer"]
			if while == "stopped" {
				b.stop(weir)
			}
			b.recreate("customer")
			// The new topic's records lie at offsets at which the old one's were delivered.
			b.publish(customers("new", 15, 1)...)
			if while == "stopped" {
				weir = b.start()
			}
			s := b.waitStatus("held", inState("held"))
			b.waitStatus("every partition of the new topic is held", func(got boxStatus) bool {
				s = got
				for n := range int32(3) {
					if p := got.partition(topic, n); p.State != "held" {
						return false
					}
				}
				return true
			})
			for n := range int32(3) {
				if p := s.partition(topic, n); !strings.Contains(p.Reason, "accept") || !strings.Contains(p.Reason, "topic") {
					t.Errorf("partition %d: reason %q, want it to say what to do", n, p.Reason)
				}
				if p := s.partition(b.topics["invoice"], n); p.State != "running" {
					t.Errorf("partition %d of another topic: %+v, want it running", n, p)
				}
			}
			// The other topics go on.
			b.publish(invoices("inv-meanwhile", 3)...)
			b.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool {
				n := 0
				for _, e := range es {
					if e.Operation == "create_payment" && e.Effect == harness.EffectApplied {
						n++
					}
				}
				return n == 9
			})
			if n := b.things("new"); n != 0 {
				t.Errorf("%d records of the new topic were delivered before it was accepted", n)
			}
			b.stop(weir)
			weir = b.start("--accept-topic", topic)
			b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return b.things("new") >= 15 })
			b.waitLag0()
			b.stop(weir)
			if n := b.things("new"); n != 15 {
				t.Errorf("%d states of the new topic's customers were written, want 15", n)
			}
			if n := b.things("old"); n != 12 {
				t.Errorf("%d states of the old topic's customers were written, want 12", n)
			}
			h := b.history()
			h.Sandbox = nil // its log also has the old topic's effects, whose records nobody can read
			rep := verifyClean(t, h)
			if rep.Delivered != 15+9 {
				t.Errorf("%d delivered, want 24", rep.Delivered)
			}
			// Accepted once is accepted: the next start needs no flag.
			weir = b.start()
			b.publish(customers("after", 3, 1)...)
			b.waitLag0()
			b.stop(weir)
			if n := b.things("after"); n != 3 {
				t.Errorf("%d delivered after a plain restart, want 3", n)
			}
		})
	}
}

// Without committed offsets the store's mark is where reading goes on; with offsets at the start everything is read
// again and nothing done twice; with offsets at the end what lies before is skipped, in the ledger and the audit.
func TestOffsetsDeletedAndReset(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	weir := b.start()
	b.publish(append(customers("a", 15, 1), invoices("a-inv", 15)...)...)
	b.waitLag0()
	b.stop(weir)

	b.deleteOffsets()
	b.publish(append(customers("b", 5, 1), invoices("b-inv", 5)...)...)
	weir = b.start()
	b.waitLag0()
	b.stop(weir)
	if n := len(b.sandbox.Applied(t)); n != 40 {
		t.Errorf("%d effects after the offsets were deleted, want 40", n)
	}
	if n := len(b.sandbox.Effects(t)); n != 40 {
		t.Errorf("%d requests after the offsets were deleted, want 40: what has an outcome is not sent again", n)
	}

	b.reset(harness.ToEarliest)
	if lags, err := b.lags(); err != nil || lags[b.topics["customer"]+"/0"] == 0 {
		t.Fatalf("after the reset: lags %v, %v", lags, err)
	}
	weir = b.start()
	b.waitLag0()
	b.stop(weir)
	if n := len(b.sandbox.Effects(t)); n != 40 {
		t.Errorf("%d requests after a reset to the start, want 40", n)
	}
	b.lag0ByTool()
	b.clean()

	jumped := b.publish(append(customers("c", 9, 1), invoices("c-inv", 9)...)...)
	b.reset(harness.ToLatest)
	weir = b.start()
	b.waitStatus("running", inState("running"))
	b.publish(customers("d", 3, 1)...)
	b.waitLag0()
	b.stop(weir)
	if n := len(b.sandbox.Effects(t)); n != 43 {
		t.Errorf("%d requests after a reset to the end, want 43", n)
	}
	for _, r := range jumped {
		o := b.outcome(originOf(r))
		if o.Outcome != "skipped" || o.Reason == "" {
			t.Fatalf("trace %s: %+v, want skipped with a reason", originOf(r), o)
		}
	}
	rep := b.clean()
	if rep.Skipped != len(jumped) {
		t.Errorf("%d records are skipped, want %d", rep.Skipped, len(jumped))
	}
	store, err := sqlite.Open(t.Context(), b.store, sqlite.Options{Role: sqlite.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	audits, err := store.Audits(t.Context(), 1000)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, a := range audits {
		if strings.Contains(a.Action, "skip") {
			found++
		}
	}
	if found == 0 {
		t.Errorf("the jump is not in the audit: %+v", audits)
	}
}

// A store that is gone while the group has commits of ours: what was delivered is not known any more. Every partition
// is held until an operator says so; then what may have been sent is suspect: states are written again, payments are
// for a person to decide.
func TestStoreLost(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{partitions: 1})
	weir := b.start()
	b.publish(append(customers("a", 10, 1), invoices("a-inv", 10)...)...)
	b.waitLag0()
	b.stop(weir)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(b.store + suffix); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
	b.publish(customers("b", 3, 1)...)
	b.publish(invoices("b-inv", 3)...)
	weir = b.start()
	s := b.waitStatus("held", inState("held"))
	if !strings.Contains(s.Reason, "store_lost") || !strings.Contains(s.Reason, "--store-lost") {
		t.Errorf("reason %q, want it to say what happened and what to do", s.Reason)
	}
	if n := len(b.sandbox.Effects(t)); n != 20 {
		t.Errorf("%d requests while it is held, want the 20 from before", n)
	}
	b.stop(weir)
	weir = b.start("--store-lost", b.name)
	b.waitLag0()
	after := b.publish(append(customers("c", 3, 1), invoices("c-inv", 3)...)...)
	b.waitLag0()
	b.stop(weir)
	if n := b.things("a"); n != 10 {
		t.Errorf("%d states from before the loss, want 10", n)
	}
	if n := b.things("b"); n != 3 {
		t.Errorf("%d states of suspects, want 3", n)
	}
	for i := range 3 {
		if o := b.outcome(fmt.Sprintf("evt-b-inv-%d-1", i)); o.Outcome != "parked" || o.Cause != "ambiguous" {
			t.Errorf("a payment that may have been sent: %+v, want parked, ambiguous", o)
		}
	}
	for _, r := range after {
		if o := b.outcome(originOf(r)); o.Outcome != "delivered" {
			t.Errorf("published after the loss: %+v, want delivered", o)
		}
	}
}

// Records that retention deleted before they were read: the partition says so and waits, the others go on.
func TestRetentionPastTheMark(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{partitions: 2})
	put := func(partition int32, prefix string, n int) []*kgo.Record {
		var rs []*kgo.Record
		for _, e := range customers(prefix, n, 1) {
			r := b.record(e)
			r.Partition = partition
			rs = append(rs, r)
		}
		b.produce(b.raw, rs...)
		return rs
	}
	weir := b.start()
	put(0, "a", 4)
	b.waitLag0()
	b.stop(weir)

	lost := put(0, "lost", 6)
	topic := b.topics["customer"]
	rs, err := b.admin.DeleteRecords(t.Context(), kadm.Offsets{topic: {0: {Topic: topic, Partition: 0, At: 10}}})
	if err == nil {
		err = rs.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
	put(0, "kept", 3)
	weir = b.start()
	s := b.waitStatus("held", inState("held"))
	if p := s.partition(topic, 0); p.State != "held" || !strings.Contains(p.Reason, "below_log_start") || !strings.Contains(p.Reason, "accept") {
		t.Errorf("the partition with the gap: %+v", p)
	}
	put(1, "other", 3)
	b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return b.things("other") == 3 })
	if n := b.things("kept"); n != 0 {
		t.Errorf("%d records behind the gap were delivered before it was accepted", n)
	}
	b.stop(weir)
	weir = b.start("--accept-gap", topic+"/0")
	b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return b.things("kept") == 3 })
	b.waitLag0()
	b.stop(weir)
	for _, r := range lost {
		if o := b.outcome(originOf(r)); o.Outcome != "skipped" || !strings.Contains(o.Reason, "retention") {
			t.Errorf("trace of a record that is gone: %+v, want skipped, with the reason", o)
		}
	}
	if rep := b.clean(); rep.Delivered != 6 {
		// The first four are below the log's start now: only their outcomes are left.
		t.Errorf("%d delivered of those that the topic still has, want 6", rep.Delivered)
	}
}

// A version that is older than what was delivered before the lane was empty, and an event that is published twice.
func TestStaleAndDoubleAfterTheLaneIsEmpty(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	weir := b.start()
	b.publish(customer("c", 2), invoice("i", "c", 2, 5), customer("gone", 1))
	b.waitLag0()
	remove := customer("gone", 2)
	remove.fields["operation"] = "delete"
	b.publish(remove)
	b.waitLag0()
	old := b.publish(customer("c", 1), invoice("i", "c", 1, 5), customer("gone", 1))
	b.waitLag0()
	double := b.publish(customer("c", 2), invoice("i", "c", 2, 5))
	b.waitLag0()
	// The same after a restart, when memory is empty.
	b.stop(weir)
	weir = b.start()
	again := b.publish(customer("c", 1), customer("c", 2), invoice("i", "c", 2, 5))
	b.waitLag0()
	b.stop(weir)
	for _, c := range []struct {
		r                      *kgo.Record
		outcome, cause, reason string
	}{
		{old[0], "superseded", "", "older_version"},
		{old[1], "parked", "version_regression", ""},
		{old[2], "unchanged", "", "duplicate_event"},
		{double[0], "unchanged", "", "duplicate_event"},
		{double[1], "parked", "held", ""}, // behind the regression, until somebody decides on that
		{again[0], "unchanged", "", "duplicate_event"},
		{again[1], "unchanged", "", "duplicate_event"},
		{again[2], "parked", "held", ""},
	} {
		if o := b.outcome(originOf(c.r)); o.Outcome != c.outcome || o.Cause != c.cause || !strings.Contains(o.Reason, c.reason) {
			t.Errorf("trace %s: %s, cause %q, reason %q, want %s, %q, %q", originOf(c.r), o.Outcome, o.Cause, o.Reason, c.outcome, c.cause, c.reason)
		}
	}
	if n := len(b.sandbox.Effects(t)); n != 4 {
		t.Errorf("%d requests, want 4: %+v", n, b.sandbox.Effects(t))
	}
	b.clean()
}
