package integration_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/integration_test/harness"
)

// createIntent is the operation of Push Cash that needs the vendor's id of another entity.
func createIntent(e harness.Effect) bool {
	return e.Operation == "create_intent" && e.Effect == harness.EffectApplied
}

func intents(es []harness.Effect) (n int) {
	for _, e := range es {
		if createIntent(e) {
			n++
		}
	}
	return n
}

// An invoice that was published before its customer is delivered after it, and meanwhile delays nobody.
func TestInvoiceBeforeItsCustomer(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{vendor: "pushcash", scale: true})
	weir := b.start()
	early := b.publish(invoice("inv-early", "late", 1, 500))[0]
	var others []event
	for i := range 10 {
		c := fmt.Sprintf("cust-%d", i)
		others = append(others, customer(c, 1), invoice("inv-"+c, c, 1, 100+int64(i)))
	}
	b.publish(others...)
	b.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return intents(es) == 10 })
	if o := b.outcome(originOf(early)); o.Outcome != "pending" {
		t.Errorf("the early invoice: %+v, want it pending", o)
	}
	b.waitStatus("running while it waits", inState("running"))
	b.publish(customer("late", 1))
	b.waitLag0()
	b.stop(weir)
	o := b.outcome("evt-inv-early-1")
	if o.Outcome != "delivered" || o.VendorID == "" {
		t.Errorf("the early invoice: %+v, want it delivered", o)
	}
	user := b.outcome("evt-late-1").VendorID
	var made, paid int64
	for _, e := range b.sandbox.Applied(t) {
		switch e.Object {
		case user:
			made = e.Seq
		case o.VendorID:
			paid = e.Seq
		}
	}
	if made == 0 || paid <= made {
		t.Errorf("effects: its customer is number %d, it is %d: want it after its customer", made, paid)
	}
	if n := len(b.storedParked()); n != 0 {
		t.Errorf("%d records were parked, want none", n)
	}
	b.clean()
}

// A thousand invoices of one customer who is not there: the invoices of others are delivered meanwhile, and when the
// customer comes all thousand are delivered, each once. With the default window they wait in their lanes. With a small
// one they may hold a quarter of it: the others are parked and release themselves (design section 5, Blocked work).
func TestManyInvoicesBeforeTheirCustomer(t *testing.T) {
	t.Parallel()
	const others, each = 20, 3
	for _, c := range []struct {
		name    string
		waiting int
		window  int
	}{
		{"default window", 1000, 0},
		{"small window", 1000, 100},
		{"more than are released at once", 1400, 100},
	} {
		waiting := c.waiting
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{vendor: "pushcash", scale: true, window: c.window})
			weir := b.start()
			var es []event
			for i := range waiting {
				es = append(es, invoice(fmt.Sprintf("inv-wait-%d", i), "missing", 1, 1+int64(i)))
			}
			for i := range others {
				for n := range each {
					es = append(es, invoice(fmt.Sprintf("inv-%d-%d", i, n), fmt.Sprintf("cust-%d", i), 1, 5))
				}
				es = append(es, customer(fmt.Sprintf("cust-%d", i), 1))
			}
			b.publish(es...)
			began := time.Now()
			b.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return intents(es) == others*each })
			t.Logf("the %d invoices of others: %v", others*each, time.Since(began).Round(time.Millisecond))

			parkedMin := 0
			if c.window > 0 {
				parkedMin = waiting - 3*c.window/4
				b.until("waiters are parked", boxWait, func() (bool, string) {
					n := len(b.storedParked())
					return n >= parkedMin, fmt.Sprintf("%d parked, want %d", n, parkedMin)
				})
			}
			for _, p := range b.storedParked() {
				// One of another customer may have been parked too, when waiters held all that they may of the window: it was
				// released when its customer came, and is delivered by now.
				waits := strings.HasPrefix(p.EntityKey.Key, "inv-wait-")
				if p.Cause != checkpoint.CauseMissingReference || waits != (p.State == checkpoint.ParkedOpen) {
					t.Fatalf("parked before the customer came: %+v", p)
				}
			}
			if waiting > 1000 {
				// The vendor is slower than the release: what is released is on its way for a while.
				b.sandbox.SetFault(t, "slow", true, map[string]any{"delay_ms": 400, "operation": "create_intent"})
			}
			b.publish(customer("missing", 1))
			began = time.Now()
			b.sandbox.WaitEffects(t, boxWait, func(es []harness.Effect) bool { return intents(es) >= waiting+others*each })
			t.Logf("the %d that waited: %v", waiting, time.Since(began).Round(time.Millisecond))
			b.waitLag0()
			b.until("every parked entry is resolved", boxWait, func() (bool, string) {
				for _, p := range b.storedParked() {
					if p.State != checkpoint.ParkedResolved {
						return false, fmt.Sprintf("%+v", p)
					}
				}
				return true, ""
			})
			b.stop(weir)
			keys := b.appliedTo(func(e harness.Effect) string {
				if createIntent(e) {
					return e.IdempotencyKey
				}
				return ""
			})
			if len(keys) != waiting+others*each {
				t.Errorf("%d intents were created, want %d", len(keys), waiting+others*each)
			}
			for k, n := range keys {
				if n != 1 {
					t.Errorf("intent %s was created %d times", k, n)
				}
			}
			rep := b.clean()
			if rep.Delivered != waiting+others*(each+1)+1 || rep.Parked != 0 {
				t.Errorf("%d delivered and %d parked, want %d and 0", rep.Delivered, rep.Parked, waiting+others*(each+1)+1)
			}
			if got := b.parked(); len(got) != 0 {
				t.Errorf("weir parked ls lists %d open records", len(got))
			}
			if s := len(b.storedParked()); c.window == 0 && s != 0 || s < parkedMin {
				t.Errorf("%d records were parked at some time, want none with the default window, else %d or more", s, parkedMin)
			}
		})
	}
}

// storedParked is the parked index, closed entries too, read beside a running weir.
func (b *box) storedParked() []checkpoint.Parked {
	b.t.Helper()
	s, err := sqlite.Open(b.t.Context(), b.store, sqlite.Options{Role: sqlite.Reader})
	if err != nil {
		b.t.Fatal(err)
	}
	defer s.Close()
	ps, err := s.Parked(b.t.Context(), checkpoint.ParkedQuery{Connector: b.name, Limit: 100_000})
	if err != nil {
		b.t.Fatal(err)
	}
	return ps
}
