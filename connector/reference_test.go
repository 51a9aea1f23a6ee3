package connector_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/kafka"
)

// customer is an event of a customer with a stored payment method of FinFusion, or none.
func (w *world) customer(id string, version int, method string) kafka.Out {
	ext := "{}"
	if method != "" {
		ext = fmt.Sprintf(`{"finfusion":{"payment_method_id":%q}}`, method)
	}
	return kafka.Out{Topic: "canonical.customer", Key: []byte(id), Value: w.encode("customer", fmt.Appendf(nil, `{"event_id":"c-%s-%d","event_type":"customer.updated","occurred_at":"2026-06-01T09:00:00Z",`+
		`"source_system":"crm","tenant":"acme","entity_version":%d,"operation":"upsert","customer_id":%q,"kind":"person","legal_name":"Ada Byte","email":"ada@example.com","currency":"USD","extensions":%s}`, id, version, version, id, ext))}
}

// invoice is an open invoice of a customer.
func (w *world) invoice(id, of string) kafka.Out {
	return kafka.Out{Topic: "canonical.invoice", Key: []byte(id), Value: w.encode("invoice", fmt.Appendf(nil, `{"event_id":"i-%s","event_type":"invoice.issued","occurred_at":"2026-06-01T09:00:00Z",`+
		`"source_system":"erp","tenant":"acme","entity_version":1,"operation":"upsert","invoice_id":%q,"customer_id":%q,"status":"open","currency":"USD","total_minor":500}`, id, id, of))}
}

// A customer who is at the vendor, and lacks what invoices need of it, is a missing reference: its invoices are parked in
// their time and do not keep others from being delivered; when it has it, they are released by themselves.
func TestReferenceThatLacksAnID(t *testing.T) {
	w := newWorld(t, "finfusion", nil)
	w.secret = func() string { return "dev_00000000000000000000000000000000" }
	w.tweak = func(c *connector.Config) {
		c.ReferenceWait = 300 * time.Millisecond
		c.MaxInFlight = 4
	}
	outs := []kafka.Out{w.customer("without", 1, ""), w.customer("with", 1, "pm_test_ok")}
	for i := range 20 { // more than may be in flight
		outs = append(outs, w.invoice(fmt.Sprintf("stuck-%d", i), "without"))
	}
	outs = append(outs, w.invoice("good", "with"))
	w.produce(outs...)
	_, stop := w.start()
	w.settleAll(20 * time.Second)
	open, err := w.store.Parked(t.Context(), checkpoint.ParkedQuery{Connector: "v", States: []checkpoint.ParkedState{checkpoint.ParkedOpen}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range open {
		if p.Cause != checkpoint.CauseMissingReference {
			t.Errorf("parked for cause %s, want missing_reference: %+v", p.Cause, p)
		}
	}
	if len(open) != 20 {
		t.Errorf("%d records are parked, want the 20 invoices of the customer without a method", len(open))
	}
	w.produce(w.customer("without", 2, "pm_test_ok"))
	for deadline := time.Now().Add(20 * time.Second); len(open) > 0; time.Sleep(20 * time.Millisecond) {
		if open, err = w.store.Parked(t.Context(), checkpoint.ParkedQuery{Connector: "v", States: []checkpoint.ParkedState{checkpoint.ParkedOpen, checkpoint.ParkedReleased}}); err != nil {
			t.Fatal(err)
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d records are still parked, although the customer has a method", len(open))
		}
	}
	w.settleAll(20 * time.Second)
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.clean(true)
}

// A lateStore answers late: what it did is there for all to see before the caller knows of it.
type lateStore struct {
	checkpoint.Store
	settle, forget time.Duration
}

func (s lateStore) Settle(ctx context.Context, b checkpoint.Batch) (checkpoint.Result, error) {
	res, err := s.Store.Settle(ctx, b)
	time.Sleep(s.settle)
	return res, err
}

func (s lateStore) Forget(ctx context.Context, ps []checkpoint.Position) error {
	time.Sleep(s.forget)
	return s.Store.Forget(ctx, ps)
}

// TestWokenBeforeTheStateIsKnown: a record is woken while the state that it waits for is durable and not yet known in
// memory. It looks in vain and waits again, and that its first waiter is forgotten must not take away the second.
func TestWokenBeforeTheStateIsKnown(t *testing.T) {
	w := newWorld(t, "finfusion", nil)
	w.secret = func() string { return "dev_00000000000000000000000000000000" }
	w.tweak = func(c *connector.Config) {
		c.Store = lateStore{c.Store, 400 * time.Millisecond, 100 * time.Millisecond}
	}
	_, stop := w.start()
	w.produce(w.invoice("early", "c"))
	time.Sleep(200 * time.Millisecond) // it waits
	w.produce(w.customer("c", 1, "pm_test_ok"))
	w.settleAll(15 * time.Second) // ReferenceWait is a minute
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	w.clean(true)
}
