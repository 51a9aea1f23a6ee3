package webhook

import (
	"context"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
)

// ledger is a real store with records of one connector.
type ledger struct {
	checkpoint.Store
	t     *testing.T
	lease checkpoint.Lease
	n     int64
}

func newLedger(t *testing.T, connector string) *ledger {
	l := &ledger{Store: openStore(t), t: t}
	l.acquire(connector)
	return l
}

func (l *ledger) acquire(connector string) {
	l.t.Helper()
	rec, err := l.Acquire(l.t.Context(), checkpoint.Partition{Connector: connector, Topic: "canonical.invoice", ID: checkpoint.TopicID{1}}, "test")
	if err != nil {
		l.t.Fatal(err)
	}
	l.lease = rec.Lease
}

// settle gives the next offset an outcome.
func (l *ledger) settle(key string, version int64, out checkpoint.Outcome, vendorID string, steps ...string) checkpoint.Row {
	l.t.Helper()
	r := checkpoint.Row{Partition: l.lease.Partition, Offset: l.n, Route: "acme.invoice", Outcome: out, VendorID: vendorID, At: now.Add(time.Duration(l.n) * time.Second),
		Event: checkpoint.Event{ID: "evt-" + key, Entity: "invoice", Key: key, Version: version}}
	if out == checkpoint.ParkedOut {
		r.Cause = checkpoint.CauseAmbiguous
	}
	for _, k := range steps {
		r.Plan = append(r.Plan, checkpoint.Step{Step: "create", Operation: "create", IdempotencyKey: k})
	}
	r.Attempts = []checkpoint.Attempt{{N: 1, At: r.At, Status: 201, Verdict: "accept_pending", Sent: checkpoint.Answered}}
	l.n++
	st := checkpoint.Settlement{Lease: l.lease, Row: r}
	if out == checkpoint.Accepted {
		st.Due = r.At.Add(time.Hour)
	}
	if _, err := l.Settle(l.t.Context(), checkpoint.Batch{Settlements: []checkpoint.Settlement{st}}); err != nil {
		l.t.Fatal(err)
	}
	return r
}

func TestMatch(t *testing.T) {
	l := newLedger(t, "other")
	l.settle("inv-0", 1, checkpoint.Delivered, "pay_1", "k1") // another connector's, of the same ids
	l.acquire("c")
	l.settle("inv-1", 2, checkpoint.Delivered, "pay_1", "k1")                // offset 1
	l.settle("inv-1", 3, checkpoint.Accepted, "pay_2", "k2")                 // 2
	l.settle("inv-1", 4, checkpoint.Superseded, "")                          // 3
	l.settle("inv-1", 5, checkpoint.Unchanged, "pay_2")                      // 4
	l.settle("inv-2", 1, checkpoint.ParkedOut, "", "k3")                     // 5: the answer was lost
	l.settle("cust.7", 1, checkpoint.Delivered, "cus_1", "cust.7", "k-more") // 6: a natural key, an id with a dot
	l.acquire("other")
	l.settle("inv-1", 2, checkpoint.Delivered, "pay_1", "k1") // newer than all of ours
	w := newWorld(t, finfusion, func(c *Config) { c.Store = l })
	src := w.srv.sources["c"]
	for _, c := range []struct {
		name            string
		key, vendor, re string
		offset          int64 // -1: none
		by, request     string
	}{
		{"by key", "k2", "", "", 2, "idempotency_key", "k2"},
		{"by the key of a parked record", "k3", "", "", 5, "idempotency_key", "k3"},
		{"the key comes first", "k1", "pay_2", "", 1, "idempotency_key", "k1"},
		{"the newest that was sent for the object", "", "pay_2", "", 2, "vendor_id", "k2"},
		{"an unknown key and a known object", "k9", "pay_1", "", 1, "vendor_id", "k1"},
		{"by reference with a version", "", "", "inv-1.2", 1, "reference", "k1"},
		{"by reference without one", "", "", "inv-1", 2, "reference", "k2"},
		{"by a natural key with a dot", "", "", "cust.7", 6, "reference", ""},
		{"a version that was never", "", "", "inv-1.9", -1, "", ""},
		{"nothing to match by", "", "", "", -1, "", ""},
		{"nobody's", "k9", "pay_9", "x", -1, "", ""},
	} {
		n := &profile.Notice{IdempotencyKey: c.key, VendorID: c.vendor, Reference: c.re}
		m, err := w.srv.find(t.Context(), src, n)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case m == nil && c.offset >= 0, m != nil && c.offset < 0:
			t.Errorf("%s: match %+v, want offset %d", c.name, m, c.offset)
		case m != nil && (m.row.Offset != c.offset || m.by != c.by || m.key != c.request || m.row.Partition.Connector != "c"):
			t.Errorf("%s: offset %d by %s, key %q, want %d by %s, key %q", c.name, m.row.Offset, m.by, m.key, c.offset, c.by, c.request)
		}
	}
}

// The fact names the record that caused it, the ledger shows the confirmation once, and a change that is our own is
// marked.
func TestConfirmation(t *testing.T) {
	l := newLedger(t, "c")
	l.settle("inv-1", 3, checkpoint.Accepted, "pay_1", "k1")
	l.settle("acc", 1, checkpoint.Delivered, "acc_1", "k2")
	w := newWorld(t, finfusion, func(c *Config) { c.Store = l })
	w.secret["webhook_secret"] = finfusionSecret
	for _, d := range []delivery{
		finfusionCall(finfusionSecret, "evt_1", "payment.succeeded", "pay_1", now.Add(time.Minute)),
		finfusionCall(finfusionSecret, "evt_2", "account.updated", "acc_1", now.Add(2*time.Minute)),
		finfusionCall(finfusionSecret, "evt_3", "account.updated", "acc_1", now.Add(-5*time.Minute+2*time.Second)),
		finfusionCall(finfusionSecret, "evt_4", "account.updated", "acc_9", now.Add(2*time.Minute)),
	} {
		if resp, out := w.do(d); out != Accepted {
			t.Fatalf("%d %s", resp.StatusCode, out)
		}
	}
	w.clock = now.Add(time.Hour)
	if _, out := w.do(finfusionCall(finfusionSecret, "evt_5", "account.updated", "acc_1", now.Add(time.Hour))); out != Accepted {
		t.Fatal(out)
	}
	if u, err := l.Unconfirmed(t.Context(), "c", w.clock, 1); err != nil || u.Waiting != 0 {
		t.Errorf("unconfirmed %+v, %v: want none", u, err)
	}
	fs := w.kafka.facts(t)
	m, _ := fs[0]["match"].(map[string]any)["com.weirsync.fact.Match"].(map[string]any)
	if m["topic"] != "canonical.invoice" || m["offset"] != int64(0) || m["event_id"] != "evt-inv-1" || m["entity_id"] != "inv-1" || m["by"] != "vendor_id" ||
		m["idempotency_key"].(map[string]any)["string"] != "k1" {
		t.Errorf("match %v", m)
	}
	// evt_3 is a little older than our request by the vendor's clock, evt_4 nobody's, evt_5 an hour later.
	for i, echo := range []bool{false, true, true, false, false} {
		if fs[i]["own_echo"] != echo {
			t.Errorf("fact %d: own_echo %v, want %v", i, fs[i]["own_echo"], echo)
		}
	}
	confirmations := func() (n int) {
		rows, err := l.Find(t.Context(), "pay_1", 0)
		if err != nil || len(rows) != 1 || rows[0].Outcome != checkpoint.Accepted {
			t.Fatalf("%+v, %v", rows, err)
		}
		for _, a := range rows[0].Attempts {
			if a.Verdict == checkpoint.VerdictWebhook {
				n++
				if want := "payment_succeeded, status succeeded, fact " + newFactID("c", "evt_1"); a.Detail != want || a.N != 1 {
					t.Errorf("attempt %+v, want N 1 and detail %q", a, want)
				}
			}
		}
		return n
	}
	if n := confirmations(); n != 1 {
		t.Errorf("%d confirmations, want 1", n)
	}
	// As after a crash between Kafka and the nonce: the vendor calls again, and the store does not know the event.
	w.srv.cfg.Store = forgetful{l}
	w.clock = now.Add(time.Minute)
	if _, out := w.do(finfusionCall(finfusionSecret, "evt_1", "payment.succeeded", "pay_1", now.Add(90*time.Second))); out != Accepted {
		t.Fatal(out)
	}
	fs = w.kafka.facts(t)
	if first, again := fs[0]["fact_id"], fs[len(fs)-1]["fact_id"]; first != again {
		t.Errorf("the double has the id %v, the first %v", again, first)
	}
	if n := confirmations(); n != 1 {
		t.Errorf("%d confirmations after a double, want 1", n)
	}
}

// A webhook that is faster than the answer of its request is matched when the record is settled a little later.
func TestMatchOfAnEarlyWebhook(t *testing.T) {
	l := newLedger(t, "c")
	looked := make(chan struct{}, 8)
	w := newWorld(t, finfusion, func(c *Config) {
		c.Store = watched{l, looked}
		c.MatchWait = 2 * time.Second
	})
	w.secret["webhook_secret"] = finfusionSecret
	done := make(chan Outcome)
	go func() {
		_, out := w.do(finfusionCall(finfusionSecret, "evt_1", "account.updated", "acc_1", now))
		done <- out
	}()
	<-looked
	l.settle("acc", 1, checkpoint.Delivered, "acc_1", "k1")
	if out := <-done; out != Accepted {
		t.Fatal(out)
	}
	if f := w.kafka.facts(t)[0]; f["match"] == nil {
		t.Errorf("not matched: %v", f)
	}
}

// Events that we did not cause are not held up: after a wait in vain there is none for a while.
func TestForeignEventsDoNotWait(t *testing.T) {
	l := newLedger(t, "c")
	looked := make(chan struct{}, 100)
	w := newWorld(t, finfusion, func(c *Config) {
		c.Store = watched{l, looked}
		c.MatchWait = 20 * time.Millisecond
	})
	src := w.srv.sources["c"]
	for range 5 {
		if m, err := w.srv.find(t.Context(), src, &profile.Notice{VendorID: "pay_9"}); m != nil || err != nil {
			t.Fatal(m, err)
		}
	}
	if n := len(looked); n != 8 { // 4 for the first, 1 for each of the others
		t.Errorf("%d look-ups, want 8", n)
	}
}

type forgetful struct{ *ledger }

func (forgetful) HasNonce(ctx context.Context, connector, id string) (bool, error) { return false, nil }

type watched struct {
	*ledger
	looked chan struct{}
}

func (w watched) Find(ctx context.Context, id string, limit int) ([]checkpoint.Row, error) {
	rows, err := w.ledger.Find(ctx, id, limit)
	w.looked <- struct{}{}
	return rows, err
}

// An event that says that the payment is still under way confirms nothing; the one that says how it ended does.
func TestPendingConfirmsNothing(t *testing.T) {
	l := newLedger(t, "c")
	l.settle("inv-1", 1, checkpoint.Accepted, "intent_1", "k1")
	w := newWorld(t, "pushcash", func(c *Config) { c.Store = l })
	w.secret["webhook_secret"] = pushcashSecret
	for i, c := range []struct {
		status  string
		waiting int
	}{{"pending", 1}, {"approved", 0}} {
		if resp, out := w.do(pushcashCall(pushcashSecret, "intent.approved", "intent_1", c.status, now.Add(time.Duration(i)*time.Minute))); out != Accepted {
			t.Fatalf("%d %s", resp.StatusCode, out)
		}
		u, err := l.Unconfirmed(t.Context(), "c", w.clock, 1)
		if err != nil || u.Waiting != c.waiting {
			t.Errorf("after status %s: unconfirmed %+v, %v: want %d", c.status, u, err, c.waiting)
		}
	}
}
