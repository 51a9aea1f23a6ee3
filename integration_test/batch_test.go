package integration_test

import (
	"strings"
	"testing"

	"github.com/weirsync/weir/integration_test/harness"
)

// devKey is a key of the form that FinFusion gives out (vendor sheet finfusion, section 2).
const devKey = "dev_00000000000000000000000000000000"

// hundred is a batch's worth of customers: 88 good ones, 7 that are refused for good, 5 that fail at first.
func hundred() []event {
	es := append(customers("good", 88, 1), customers("bad", 7, 1)...)
	return append(es, customers("again", 5, 1)...)
}

// made counts how often each customer was created at the vendor: once is the most.
func (b *box) made(want int) {
	b.t.Helper()
	n := b.appliedTo(func(e harness.Effect) string {
		if e.Operation == "create_customer" {
			return e.Reference
		}
		return ""
	})
	for ref, times := range n {
		if times != 1 {
			b.t.Errorf("customer %s was created %d times", ref, times)
		}
	}
	if len(n) != want {
		b.t.Errorf("%d customers were created, want %d", len(n), want)
	}
}

// Of a batch of 100, the accepted are settled once, what failed goes on at the head of its key, what is refused is
// parked, and nothing that was accepted is sent again: with an answer, with the answer lost, and with the process killed
// before it has the answer.
func TestBatchOfCustomers(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]func(*box) string{
		"answered": func(*box) string { return "" },
		"answer lost": func(b *box) string {
			b.sandbox.SetFault(b.t, "ambiguous", true, map[string]any{"operation": "create_customer_batch", "count": 1, "mode": "close"})
			return ""
		},
		"killed before the answer": func(*box) string { return "sent=1" },
		"killed with the answer":   func(*box) string { return "answered=1" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{vendor: "finfusion", partitions: 1, scale: true})
			b.weir = harness.NewWeir(t, harness.Build{Tags: []string{"failpoint"}})
			b.write(b.secret, devKey)
			b.sandbox.SetFault(t, "partial", true, map[string]any{"match": "bad-", "status": 400})
			b.sandbox.SetFault(t, "partial", true, map[string]any{"match": "again-", "status": 503, "count": 5})
			kill := trouble(b)
			b.publish(hundred()...)
			if kill != "" {
				w := *b.weir
				w.Env = append(append([]string(nil), w.Env...), "WEIR_FAILPOINT="+kill)
				p := w.Start(t, "run", "--config", b.config, "--limit-scale", "100000", "--log-format", "text")
				if r := p.Wait(t, boxWait); !strings.Contains(r.Stderr, "failpoint") {
					t.Fatalf("weir was not killed: exit code %d\n%s", r.Code, tail(r.Stderr))
				}
			}
			weir := b.start()
			b.waitLag0()
			b.stop(weir)
			b.made(93)
			rep := b.clean()
			if rep.Delivered != 93 || rep.Parked != 7 {
				t.Errorf("%d delivered and %d parked, want 93 and 7", rep.Delivered, rep.Parked)
			}
			for _, p := range b.parked() {
				if p.Cause != "rejected" || !strings.HasPrefix(p.Key, "bad-") {
					t.Errorf("parked: %+v; want only the refused ones", p)
				}
			}
			for _, o := range []string{b.outcome("evt-again-1-1").Outcome, b.outcome("evt-good-1-1").Outcome} {
				if o != "delivered" {
					t.Errorf("outcome %s, want delivered", o)
				}
			}
		})
	}
}

// Without idempotency at the vendor and without a way to look, a batch whose answer is lost is never repeated: each of
// its records is parked and says what to do.
func TestBatchWithoutIdempotency(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{vendor: "finfusion", partitions: 1, scale: true, sandbox: []string{"--switch", "idempotency=off", "--switch", "extensions=off"},
		more: "    vars: {idempotency: \"off\", extensions: \"off\"}\n"})
	b.write(b.secret, devKey)
	b.sandbox.SetFault(t, "ambiguous", true, map[string]any{"operation": "create_customer_batch", "count": 1, "mode": "close"})
	b.publish(customers("c", 50, 1)...)
	weir := b.start()
	b.waitLag0()
	b.stop(weir)
	b.made(50)
	rep := b.clean()
	if rep.Delivered+rep.Parked != 50 || rep.Parked < 2 {
		t.Errorf("%d delivered and %d parked, want 50 in all, and those of the lost batch parked", rep.Delivered, rep.Parked)
	}
	for _, p := range b.parked() {
		if p.Cause != "ambiguous" {
			t.Errorf("parked: %+v; want the items of the lost batch only", p)
		}
	}
	if r := b.weir.MustRun(t, "parked", "ls", "--config", b.config, "--json"); strings.Count(r.Stdout, "Look at the vendor whether the effect is there") != rep.Parked {
		t.Errorf("not every parked record says what to do:\n%s", r.Stdout)
	}
}
