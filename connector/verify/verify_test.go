package verify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

// A story is a history and what the checker must say of it; no kinds means clean.
type story struct {
	name  string
	tell  func() *world
	kinds []string // exactly these kinds of finding
	// lost, duplicated, reordered of the report.
	lost, duplicated, reordered int
}

func check3(t *testing.T, stories []story) {
	t.Helper()
	for _, s := range stories {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			rep := s.tell().run(t)
			slices.Sort(s.kinds)
			if got := slices.Sorted(maps.Keys(rep.Kinds)); !slices.Equal(got, s.kinds) {
				t.Errorf("kinds of findings: %v, want %v\n%+v", got, s.kinds, rep.Findings)
			}
			if rep.Lost != s.lost || rep.Duplicated != s.duplicated || rep.Reordered != s.reordered {
				t.Errorf("lost %d, duplicated %d, reordered %d; want %d, %d, %d\n%+v", rep.Lost, rep.Duplicated, rep.Reordered, s.lost, s.duplicated, s.reordered, rep.Findings)
			}
			if rep.Clean() != (len(s.kinds) == 0) {
				t.Errorf("Clean() = %t with findings %v", rep.Clean(), s.kinds)
			}
			for _, f := range rep.Findings {
				if f.Promise < 1 || f.Promise > 10 || f.Detail == "" {
					t.Errorf("finding without promise or detail: %+v", f)
				}
			}
		})
	}
}

func TestOutcomes(t *testing.T) {
	three := func() *world {
		w := newWorld("put_thing")
		w.put("a", 1)
		w.put("b", 1)
		w.put("a", 2)
		return w
	}
	check3(t, []story{
		{name: "empty topics", tell: func() *world { return newWorld("put_thing") }},
		{name: "all delivered", tell: three},
		{name: "a record without a route needs nothing", tell: func() *world {
			w := three()
			w.publish(invoices, "i", 1)
			return w
		}},
		{name: "transaction markers need nothing", tell: func() *world {
			w := three()
			w.marker(customers)
			w.put("c", 1)
			return w
		}},
		{name: "holes in the offsets", tell: func() *world {
			w := three()
			w.part(customers).End += 5
			w.put("c", 1)
			return w
		}},
		{name: "pending above the mark", tell: func() *world {
			w := three()
			p := w.part(customers)
			w.opts.Complete = false
			w.publish(customers, "c", 1)
			p.Committed, p.cursor.Mark, p.cursor.Horizon = 3, 3, 100
			return w
		}},
		{name: "jumped over by an operator", tell: func() *world {
			w := three()
			off := w.publish(customers, "c", 1)
			w.part(customers).skips = []checkpoint.Skip{{From: off, To: off + 1}}
			return w
		}},
		{name: "rows below the log start and of compacted records", tell: func() *world {
			w := three()
			p := w.part(customers)
			p.records = p.records[1:2]
			p.Start, p.Compacted = 1, true
			return w
		}},
		{name: "a route for upserts needs nothing of a delete and may ignore it", tell: func() *world {
			w := newWorld("create_user")
			for range 2 {
				off := w.publish(customers, "a", 1+w.part(customers).End)
				w.record(customers, off).Event.Operation = schema.Delete
			}
			w.settle(customers, 1, "create_user", checkpoint.Ignored)
			return w
		}},
		{name: "one dropped record, committed", lost: 1, kinds: []string{"no_outcome", "early_commit", "early_mark"}, tell: func() *world {
			w := three()
			w.publish(customers, "c", 1)
			return w
		}},
		{name: "one dropped record, done but not committed", lost: 1, kinds: []string{"no_outcome"}, tell: func() *world {
			w := three()
			off := w.publish(customers, "c", 1)
			p := w.part(customers)
			p.Committed, p.cursor.Mark = off, off
			return w
		}},
		{name: "early commit", lost: 1, kinds: []string{"no_outcome", "early_commit", "commit_above_mark"}, tell: func() *world {
			w := three()
			p := w.part(customers)
			w.opts.Complete = false
			p.cursor.Mark = w.publish(customers, "c", 1)
			w.publish(customers, "d", 1)
			p.Committed, p.cursor.Mark = 4, 3
			return w
		}},
		{name: "early mark", lost: 1, kinds: []string{"no_outcome", "early_mark"}, tell: func() *world {
			w := three()
			w.opts.Complete = false
			w.publish(customers, "c", 1)
			w.part(customers).Committed = 3
			return w
		}},
		{name: "one of two routes forgotten", lost: 1, kinds: []string{"no_outcome"}, tell: func() *world {
			w := newWorld("put_thing", "create_user")
			off := w.put("a", 1)
			p := w.part(customers)
			p.Committed, p.cursor.Mark = off, off
			return w
		}},
		{name: "two outcomes on one route", kinds: []string{"outcome_twice"}, tell: func() *world {
			w := three()
			w.settle(customers, 1, "put_thing", checkpoint.Ignored)
			return w
		}},
		{name: "outcome of a record that is not there", kinds: []string{"outcome_without_record"}, tell: func() *world {
			w := three()
			w.settle(customers, 17, "put_thing", checkpoint.Ignored)
			return w
		}},
		{name: "outcome of an aborted record", kinds: []string{"outcome_without_record"}, tell: func() *world {
			w := three()
			p := w.part(customers)
			p.records = slices.Delete(p.records, 1, 2)
			return w
		}},
		{name: "outcome of a transaction marker", kinds: []string{"control_outcome"}, tell: func() *world {
			w := three()
			w.settle(customers, w.marker(customers), "put_thing", checkpoint.Unchanged)
			return w
		}},
		{name: "outcome of another event", lost: 1, kinds: []string{"foreign_outcome", "no_outcome", "early_commit", "early_mark"}, tell: func() *world {
			w := three()
			w.settle(customers, w.publish(customers, "c", 1), "put_thing", checkpoint.Ignored).EventHash++
			return w
		}},
		{name: "outcome on an unknown route", kinds: []string{"unknown_route"}, tell: func() *world {
			w := three()
			w.settle(customers, 0, "nowhere", checkpoint.Ignored)
			return w
		}},
		{name: "outcome on the route of another entity", kinds: []string{"unknown_route"}, tell: func() *world {
			w := newWorld("put_thing", "pay")
			w.put("a", 1)
			w.settle(customers, 0, "pay", checkpoint.Ignored)
			return w
		}},
		{name: "delivered on a route that does not take it", kinds: []string{"unknown_route"}, tell: func() *world {
			w := newWorld("create_user")
			off := w.publish(customers, "a", 1)
			w.record(customers, off).Event.Operation = schema.Delete
			w.settle(customers, off, "create_user", checkpoint.Delivered)
			return w
		}},
		{name: "an outcome that does not exist", kinds: []string{"unknown_outcome"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", "vanished")
			return w
		}},
		{name: "commit and mark beyond the end", kinds: []string{"commit_beyond_end", "mark_beyond_end"}, tell: func() *world {
			w := three()
			p := w.part(customers)
			p.Committed, p.cursor.Mark, p.cursor.Horizon = 9, 9, 9
			return w
		}},
		{name: "horizon below the mark", kinds: []string{"horizon_below_mark"}, tell: func() *world {
			w := three()
			w.part(customers).cursor.Horizon = 2
			return w
		}},
		{name: "commit without a store", kinds: []string{"commit_above_mark"}, tell: func() *world {
			w := three()
			w.part(customers).cursor = nil
			return w
		}},
	})
}

func TestMarksNeverMoveBack(t *testing.T) {
	seen := func(marks ...int64) func() *world {
		return func() *world {
			w := newWorld("put_thing")
			w.put("a", 1)
			w.put("a", 2)
			w.put("a", 3)
			for i, m := range marks {
				w.opts.Marks = append(w.opts.Marks, checkpoint.Cursor{Partition: w.part(customers).Partition.Partition, Epoch: 1, Mark: m, LostBelow: int64(i / 10)})
			}
			return w
		}
	}
	check3(t, []story{
		{name: "none seen", tell: seen()},
		{name: "rising", tell: seen(0, 1, 1, 3)},
		{name: "rewound after a loss that the store admits", tell: func() *world {
			w := seen(2, 3, 1)()
			w.opts.Marks[2].LostBelow, w.part(customers).cursor.LostBelow = 3, 3
			return w
		}},
		{name: "moved back", kinds: []string{"mark_moved_back"}, tell: seen(1, 3, 2)},
		{name: "moved back at the end", kinds: []string{"mark_moved_back"}, tell: seen(1, 4)},
		{name: "gone", kinds: []string{"mark_moved_back", "commit_above_mark"}, tell: func() *world {
			w := seen(1)()
			w.part(customers).cursor = nil
			return w
		}},
		{name: "epoch moved back", kinds: []string{"epoch_moved_back"}, tell: func() *world {
			w := seen(1)()
			w.opts.Marks[0].Epoch = 5
			return w
		}},
	})
}

func TestCopies(t *testing.T) {
	parked := func() *world {
		w := newWorld("put_thing")
		w.put("a", 1)
		w.park(customers, w.publish(customers, "b", 1), "put_thing", checkpoint.CauseRejected)
		w.park(customers, w.garbage(customers, "c"), "put_thing", checkpoint.CauseFraming)
		return w
	}
	check3(t, []story{
		{name: "parked and dead-lettered", tell: parked},
		{name: "parked twice is harmless", tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"] = append(w.copies["weir.c.parked"], w.copies["weir.c.parked"][0])
			return w
		}},
		{name: "closed entries may lose their copy", tell: func() *world {
			w := parked()
			w.parked[0].State = checkpoint.ParkedSuperseded
			w.copies["weir.c.parked"] = nil
			return w
		}},
		{name: "released and delivered", tell: func() *world {
			w := parked()
			w.parked[0].State = checkpoint.ParkedResolved
			row := &w.part(customers).rows[1]
			row.Outcome, row.Generation, row.Plan = checkpoint.Delivered, 1, []checkpoint.Step{step("put_thing")}
			w.apply("put_thing", "b", "b.1", "")
			return w
		}},
		{name: "undecodable, one outcome for all routes", tell: func() *world {
			w := newWorld("put_thing", "create_user")
			w.park(customers, w.garbage(customers, "c"), "*", checkpoint.CauseFraming)
			return w
		}},
		{name: "parked without copy", lost: 1, kinds: []string{"parked_without_copy"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"] = nil
			return w
		}},
		{name: "dead without copy", lost: 1, kinds: []string{"dead_lettered_without_copy"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.dead"] = nil
			return w
		}},
		{name: "copy with another value", lost: 1, kinds: []string{"copy_differs"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"][0].Value = []byte("other")
			return w
		}},
		{name: "copy with a null value", lost: 1, kinds: []string{"copy_differs"}, tell: func() *world {
			w := parked()
			w.record(customers, 1).Value = []byte{}
			w.copies["weir.c.parked"][0].Value = nil
			return w
		}},
		{name: "copy without the original's headers", lost: 1, kinds: []string{"copy_differs"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.dead"][0].Headers = w.copies["weir.c.dead"][0].Headers[1:]
			return w
		}},
		{name: "copy with another origin", lost: 1, kinds: []string{"parked_without_copy", "copy_without_record"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"][0].Headers[3].Value = []byte(customers + "/0/99")
			return w
		}},
		{name: "copy without origin", lost: 1, kinds: []string{"parked_without_copy", "copy_without_origin"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"][0].Headers = w.copies["weir.c.parked"][0].Headers[:3]
			return w
		}},
		{name: "copy with another outcome", lost: 1, kinds: []string{"parked_without_copy"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"][0].Headers[1].Value = []byte("dead_lettered")
			return w
		}},
		{name: "copy with an unknown cause", kinds: []string{"unknown_cause"}, tell: func() *world {
			w := parked()
			w.copies["weir.c.parked"][0].Headers[2].Value = []byte("framing")
			return w
		}},
		{name: "parked without entry", kinds: []string{"parked_without_entry"}, tell: func() *world {
			w := parked()
			w.parked = nil
			return w
		}},
		{name: "open entry of a record that is not parked", kinds: []string{"entry_without_outcome"}, tell: func() *world {
			w := parked()
			w.parked[0].Position.Offset = 0
			row := &w.part(customers).rows[1]
			row.Outcome = checkpoint.Ignored
			return w
		}},
	})
}

func TestUnchanged(t *testing.T) {
	check3(t, []story{
		{name: "the same state again", tell: func() *world {
			w := newWorld("put_thing")
			w.put("a", 1)
			w.settle(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.Unchanged)
			return w
		}},
		{name: "a doubled event", tell: func() *world {
			w := newWorld("pay")
			w.pay("i", 1)
			w.settle(invoices, w.publish(invoices, "i", 1), "pay", checkpoint.Unchanged)
			return w
		}},
		{name: "delivered before the log start", tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Unchanged)
			w.part(customers).records[0].Offset, w.part(customers).rows[0].Offset = 7, 7
			w.part(customers).Start, w.part(customers).End = 7, 8
			w.part(customers).finish()
			return w
		}},
		{name: "nothing was delivered", lost: 1, kinds: []string{"unchanged_without_delivery"}, tell: func() *world {
			w := newWorld("put_thing")
			w.put("b", 1)
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Unchanged)
			return w
		}},
		{name: "delivered on another route only", lost: 1, kinds: []string{"unchanged_without_delivery"}, tell: func() *world {
			w := newWorld("put_thing", "create_user")
			w.settle(customers, w.put("a", 1), "create_user", checkpoint.Unchanged)
			return w
		}},
		{name: "unchanged twice and never delivered", lost: 2, kinds: []string{"unchanged_without_delivery"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Unchanged)
			w.settle(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.Unchanged)
			return w
		}},
	})
}

// users is two versions of a customer that mean the same user: the tag is the customer id.
func users() *world {
	w := newWorld("create_user")
	w.settle(customers, w.publish(customers, "a", 1), "create_user", checkpoint.Delivered, plan(keyed("create_user", "a")))
	w.settle(customers, w.publish(customers, "a", 2), "create_user", checkpoint.Delivered, plan(keyed("create_user", "a")))
	w.apply("create_user", "user_1", "", "a")
	w.replay("create_user", "user_1", "", "a")
	return w
}

// bills is an invoice that is created, changed (cancel, create) and voided (cancel).
func bills() *world {
	w := newWorld("bill")
	w.settle(invoices, w.publish(invoices, "i", 1), "bill", checkpoint.Accepted, plan(keyed("create", "k1")))
	w.apply("create", "intent_1", "", "k1")
	w.settle(invoices, w.publish(invoices, "i", 2), "bill", checkpoint.Delivered, plan(cancel("intent_1"), keyed("create", "k2")))
	w.apply("cancel", "intent_1", "", "")
	w.apply("create", "intent_2", "", "k2")
	w.settle(invoices, w.publish(invoices, "i", 3), "bill", checkpoint.Delivered, plan(cancel("intent_2")))
	w.apply("cancel", "intent_2", "", "")
	return w
}

func TestEffects(t *testing.T) {
	pays := func() *world {
		w := newWorld("pay")
		w.pay("i", 1)
		w.pay("j", 1)
		w.pay("i", 2)
		return w
	}
	parkPay := func(c checkpoint.Cause, edit ...func(*checkpoint.Row)) *world {
		w := pays()
		w.park(invoices, w.publish(invoices, "k", 1), "pay", c, append(edit, func(r *checkpoint.Row) {
			if r.Plan == nil {
				r.Plan = []checkpoint.Step{step("pay")}
			}
		})...)
		return w
	}
	check3(t, []story{
		{name: "class none, each once", tell: pays},
		{name: "one intended effect of two records", tell: users},
		{name: "plans of several steps", tell: bills},
		{name: "a key that is logged as reference", tell: func() *world {
			w := users()
			w.effects[0].Reference, w.effects[0].IdempotencyKey = "a", ""
			w.effects[1].Reference, w.effects[1].IdempotencyKey = "a", ""
			return w
		}},
		{name: "the same state written twice", tell: func() *world {
			w := newWorld("put_thing")
			w.put("a", 1)
			w.apply("put_thing", "a", "a.1", "")
			w.put("a", 2)
			return w
		}},
		{name: "find, then create", tell: func() *world {
			w := newWorld("create_user")
			w.settle(customers, w.publish(customers, "a", 1), "create_user", checkpoint.Delivered, plan(step("find"), keyed("create_user", "a")))
			w.effect(EffectRead, "find", "", "", "")
			w.apply("create_user", "user_1", "", "a")
			return w
		}},
		{name: "other names in the log", tell: func() *world {
			w := pays()
			w.opts.Alias = map[string]string{"pay": "POST /payments", "other": "POST /payments"}
			for i := range w.effects {
				w.effects[i].Operation = "POST /payments"
			}
			return w
		}},
		{name: "log of two vendors", tell: func() *world {
			w := pays()
			w.opts.Vendor = "v"
			w.effects = append(w.effects, Effect{Vendor: "other", Operation: "pay", Reference: "x.1", Effect: EffectApplied})
			return w
		}},
		{name: "aggregates are nobody's", tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Folded)
			w.apply("push", "account_1", "", "")
			return w
		}},
		{name: "a user pays of his own accord", tell: func() *world {
			w := bills()
			w.opts.Classes["complete"] = ClassVendor
			w.apply("complete", "intent_2", "", "")
			return w
		}},
		{name: "parked rejected, refused by the vendor", tell: func() *world {
			w := parkPay(checkpoint.CauseRejected)
			w.effect(EffectRejected, "pay", "", "k.1", "")
			return w
		}},
		{name: "parked ambiguous, applied", tell: func() *world {
			w := parkPay(checkpoint.CauseAmbiguous)
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "parked ambiguous, not applied", tell: func() *world { return parkPay(checkpoint.CauseAmbiguous) }},
		{name: "parked ambiguous without a stored plan, applied", tell: func() *world {
			w := parkPay(checkpoint.CauseAmbiguous)
			w.part(invoices).rows[3].Plan = nil
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "parked after the first step", tell: func() *world {
			w := bills()
			w.park(invoices, w.publish(invoices, "i", 4), "bill", checkpoint.CauseRejected, plan(done(cancel("intent_9")), keyed("create", "k4")))
			w.apply("cancel", "intent_9", "", "")
			return w
		}},
		{name: "concluded after the first step", tell: func() *world {
			w := bills()
			w.settle(invoices, w.publish(invoices, "i", 4), "bill", checkpoint.Ignored, plan(done(cancel("intent_9")), keyed("create", "k4")))
			w.apply("cancel", "intent_9", "", "")
			w.effect(EffectRejected, "create", "", "", "k4")
			return w
		}},
		{name: "released with --accept-duplicate", tell: func() *world {
			w := pays()
			w.settle(invoices, w.publish(invoices, "k", 1), "pay", checkpoint.Delivered, plan(step("pay")), func(r *checkpoint.Row) {
				r.Generation, r.Attempts = 1, []checkpoint.Attempt{lostAnswer("pay")}
			})
			w.apply("pay", "p1", "k.1", "")
			w.apply("pay", "p2", "k.1", "")
			return w
		}},
		{name: "sent, and its outcome is pending", tell: func() *world {
			w := pays()
			w.opts.Complete = false
			off := w.publish(invoices, "k", 1)
			w.part(invoices).Committed, w.part(invoices).cursor.Mark = off, off
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "sent under a key, and its outcome is pending", tell: func() *world {
			w := users()
			w.opts.Complete = false
			off := w.publish(customers, "b", 1)
			w.part(customers).Committed, w.part(customers).cursor.Mark = off, off
			w.apply("create_user", "user_2", "", "b")
			w.replay("create_user", "user_2", "", "b")
			return w
		}},

		{name: "delivered without effect", lost: 1, kinds: []string{"effect_missing"}, tell: func() *world {
			w := pays()
			w.effects = w.effects[1:]
			return w
		}},
		{name: "refused, but called delivered", lost: 1, kinds: []string{"effect_missing"}, tell: func() *world {
			w := pays()
			w.effects[2].Effect = EffectRejected
			return w
		}},
		{name: "accepted without effect", lost: 1, kinds: []string{"effect_missing"}, tell: func() *world {
			w := bills()
			w.effects = w.effects[1:]
			return w
		}},
		{name: "the second step was forgotten", lost: 1, kinds: []string{"effect_missing"}, tell: func() *world {
			w := bills()
			w.effects = slices.Delete(w.effects, 2, 3)
			return w
		}},
		{name: "a shared create that never happened", lost: 2, kinds: []string{"effect_missing"}, tell: func() *world {
			w := users()
			w.effects = w.effects[1:]
			return w
		}},
		{name: "payment doubled", duplicated: 1, kinds: []string{"effect_doubled"}, tell: func() *world {
			w := pays()
			w.apply("pay", "p", "j.1", "")
			return w
		}},
		{name: "forgotten dedup of a doubled event", duplicated: 1, kinds: []string{"effect_doubled"}, tell: func() *world {
			w := pays()
			w.pay("j", 1)
			return w
		}},
		{name: "vendor created two users for one tag", duplicated: 1, kinds: []string{"effect_doubled"}, tell: func() *world {
			w := users()
			w.effects[1].Effect = EffectApplied
			return w
		}},
		{name: "effect of a superseded record, planned", duplicated: 1, kinds: []string{"effect_of_superseded"}, tell: func() *world {
			w := newWorld("create_user")
			w.settle(customers, w.publish(customers, "a", 1), "create_user", checkpoint.Superseded, succ("a-2"), plan(keyed("create_user", "k1")))
			w.settle(customers, w.publish(customers, "a", 2), "create_user", checkpoint.Delivered, plan(keyed("create_user", "k2")))
			w.apply("create_user", "u1", "", "k1")
			w.apply("create_user", "u2", "", "k2")
			return w
		}},
		{name: "effect that a superseded record and a pending one mean", tell: func() *world {
			w := newWorld("create_user")
			w.opts.Complete = false
			w.settle(customers, w.publish(customers, "a", 1), "create_user", checkpoint.Superseded, succ("a-2"), plan(keyed("create_user", "a")))
			w.publish(customers, "a", 2) // sent, and its outcome is not durable yet
			p := w.part(customers)
			p.Committed, p.cursor.Mark = 1, 1
			w.effects = append(w.effects, Effect{Seq: 1, Vendor: "v", Operation: "create_user", Object: "o", Reference: "a", IdempotencyKey: "a", Effect: EffectApplied})
			return w
		}},
		{name: "effect of a superseded record, by reference", duplicated: 1, kinds: []string{"effect_of_superseded"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("a-2"))
			w.apply("put_thing", "a", "a.1", "")
			w.put("a", 2)
			return w
		}},
		{name: "effect of an unchanged record", duplicated: 1, kinds: []string{"effect_of_unchanged"}, tell: func() *world {
			w := newWorld("put_thing")
			w.put("a", 1)
			w.settle(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.Unchanged)
			w.apply("put_thing", "a", "a.2", "")
			return w
		}},
		{name: "effect of an ignored record", duplicated: 1, kinds: []string{"effect_of_ignored"}, tell: func() *world {
			w := pays()
			w.settle(invoices, w.publish(invoices, "k", 1), "pay", checkpoint.Ignored)
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "concluded, and the refused step was applied", duplicated: 1, kinds: []string{"effect_of_ignored"}, tell: func() *world {
			w := bills()
			w.settle(invoices, w.publish(invoices, "i", 4), "bill", checkpoint.Ignored, plan(done(cancel("intent_9")), keyed("create", "k4")))
			w.apply("cancel", "intent_9", "", "")
			w.apply("create", "intent_4", "", "k4")
			return w
		}},
		{name: "effect of a skipped record", duplicated: 1, kinds: []string{"effect_of_skipped"}, tell: func() *world {
			w := pays()
			w.settle(invoices, w.publish(invoices, "k", 1), "pay", checkpoint.Skipped)
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "effect of a record that was definitely refused", duplicated: 1, kinds: []string{"effect_of_parked"}, tell: func() *world {
			w := parkPay(checkpoint.CauseRejected)
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "effect of a held record", duplicated: 1, kinds: []string{"effect_of_parked"}, tell: func() *world {
			w := parkPay(checkpoint.CauseHeld)
			w.apply("pay", "p", "k.1", "")
			return w
		}},
		{name: "ambiguous and applied twice", duplicated: 1, kinds: []string{"effect_doubled"}, tell: func() *world {
			w := parkPay(checkpoint.CauseAmbiguous)
			w.apply("pay", "p1", "k.1", "")
			w.apply("pay", "p2", "k.1", "")
			return w
		}},
		{name: "effect of a step after the one that was refused", duplicated: 1, kinds: []string{"effect_of_parked"}, tell: func() *world {
			w := bills()
			w.park(invoices, w.publish(invoices, "i", 4), "bill", checkpoint.CauseAmbiguous, plan(cancel("intent_9"), keyed("create", "k4")))
			w.apply("create", "intent_4", "", "k4")
			return w
		}},
		{name: "an effect that nobody meant", duplicated: 1, kinds: []string{"effect_without_record"}, tell: func() *world {
			w := pays()
			w.apply("pay", "p", "", "")
			return w
		}},
		{name: "a repeat that nobody meant", kinds: []string{"replay_without_record"}, tell: func() *world {
			w := users()
			w.replay("create_user", "user_9", "", "z")
			return w
		}},
		{name: "pending and applied twice", duplicated: 1, kinds: []string{"effect_doubled"}, tell: func() *world {
			w := pays()
			w.opts.Complete = false
			off := w.publish(invoices, "k", 1)
			w.part(invoices).Committed, w.part(invoices).cursor.Mark = off, off
			w.apply("pay", "p1", "k.1", "")
			w.apply("pay", "p2", "k.1", "")
			return w
		}},
		{name: "effects of a record that was parked and is on its way again", tell: func() *world {
			w := newWorld("bill")
			w.park(invoices, w.publish(invoices, "i", 1), "bill", checkpoint.CauseMissingReference, plan(keyed("create", "k1")))
			w.parked[0].State = checkpoint.ParkedReleased
			w.apply("create", "o1", "i.1", "k1")
			w.apply("cancel", "o2", "k0", "") // a step that its plan did not have when it was parked
			return w
		}},
		{name: "effect of a record that stays parked", duplicated: 1, kinds: []string{"effect_of_parked"}, tell: func() *world {
			w := newWorld("bill")
			w.park(invoices, w.publish(invoices, "i", 1), "bill", checkpoint.CauseMissingReference, plan(keyed("create", "k1")))
			w.apply("create", "o1", "i.1", "k1")
			return w
		}},
		{name: "more effects than pending records", duplicated: 1, kinds: []string{"effect_without_record"}, tell: func() *world {
			w := users()
			w.opts.Complete = false
			off := w.publish(customers, "b", 1)
			w.part(customers).Committed, w.part(customers).cursor.Mark = off, off
			w.apply("create_user", "user_2", "", "b")
			w.apply("create_user", "user_3", "", "c")
			return w
		}},
		{name: "two customers under one key", kinds: []string{"key_collision"}, tell: func() *world {
			w := users()
			w.settle(customers, w.publish(customers, "b", 1), "create_user", checkpoint.Delivered, plan(keyed("create_user", "a")))
			return w
		}},
		{name: "released without a lost answer and applied twice", duplicated: 1, kinds: []string{"effect_doubled"}, tell: func() *world {
			w := pays()
			w.part(invoices).rows[1].Generation = 1
			w.apply("pay", "p", "j.1", "")
			return w
		}},
	})
}

func TestOrder(t *testing.T) {
	puts := func() *world {
		w := newWorld("put_thing")
		w.put("a", 1)
		w.put("b", 1)
		w.put("a", 2)
		w.put("a", 3)
		return w
	}
	// swap exchanges the places of two effects in the log.
	swap := func(w *world, i, j int) *world {
		w.effects[i], w.effects[j] = w.effects[j], w.effects[i]
		return w
	}
	check3(t, []story{
		{name: "in order", tell: puts},
		{name: "no order between keys", tell: func() *world { return swap(puts(), 0, 1) }},
		{name: "a repeat before anything newer", tell: func() *world {
			w := newWorld("put_thing")
			w.put("a", 1)
			w.apply("put_thing", "a", "a.1", "")
			w.put("a", 2)
			return w
		}},
		{name: "a late replay of an older key", tell: func() *world {
			w := bills()
			w.replay("create", "intent_1", "", "k1")
			return w
		}},
		{name: "an older record released in a new generation", tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Delivered, plan(step("put_thing")), func(r *checkpoint.Row) { r.Generation = 1 })
			w.put("a", 2)
			w.apply("put_thing", "a", "a.1", "")
			return w
		}},
		{name: "routes with lanes of their own", tell: func() *world {
			w := newWorld("put_thing", "create_user")
			w.opts.Routes[1].Lane = "users"
			w.settle(customers, w.put("a", 1), "create_user", checkpoint.Delivered, plan(keyed("create_user", "k1")))
			w.settle(customers, w.put("a", 2), "create_user", checkpoint.Ignored)
			w.apply("create_user", "u", "", "k1")
			return w
		}},
		{name: "superseded, directly and over others", tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("a-2"))
			w.settle(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.Superseded, succ("a-3"))
			w.settle(customers, w.publish(customers, "b", 1), "put_thing", checkpoint.Superseded, succ("b-2"))
			w.put("a", 3)
			w.park(customers, w.publish(customers, "b", 2), "put_thing", checkpoint.CauseRejected)
			return w
		}},
		{name: "a stale record is superseded by an older offset", tell: func() *world {
			w := newWorld("put_thing")
			w.put("a", 5)
			w.settle(customers, w.publish(customers, "a", 4), "put_thing", checkpoint.Superseded, succ("a-5"))
			return w
		}},
		{name: "the successor is pending", tell: func() *world {
			w := newWorld("put_thing")
			w.opts.Complete = false
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("a-2"))
			off := w.publish(customers, "a", 2)
			w.part(customers).Committed, w.part(customers).cursor.Mark = off, off
			return w
		}},

		{name: "two states swapped", reordered: 1, kinds: []string{"reordered"}, tell: func() *world { return swap(puts(), 2, 3) }},
		{name: "an old state last of three", reordered: 1, kinds: []string{"reordered"}, tell: func() *world {
			w := puts()
			w.effects = append(w.effects[1:], w.effects[0])
			return w
		}},
		{name: "a late repeat overwrites a newer state", reordered: 1, kinds: []string{"reordered"}, tell: func() *world {
			w := puts()
			w.apply("put_thing", "a", "a.2", "")
			return w
		}},
		{name: "payments of one key swapped", reordered: 1, kinds: []string{"reordered"}, tell: func() *world {
			w := newWorld("pay")
			w.pay("i", 1)
			w.pay("i", 2)
			return swap(w, 0, 1)
		}},
		{name: "routes of one lane out of order", reordered: 1, kinds: []string{"reordered"}, tell: func() *world {
			w := newWorld("put_thing", "create_user")
			w.settle(customers, w.put("a", 1), "create_user", checkpoint.Delivered, plan(keyed("create_user", "k1")))
			w.settle(customers, w.put("a", 2), "create_user", checkpoint.Ignored)
			w.apply("create_user", "u", "", "k1")
			return w
		}},
		{name: "create before cancel", reordered: 1, kinds: []string{"steps_reordered"}, tell: func() *world { return swap(bills(), 1, 2) }},
		{name: "superseded without a successor", lost: 1, kinds: []string{"superseded_by_nothing"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded)
			return w
		}},
		{name: "superseded by another key", lost: 1, kinds: []string{"superseded_by_nothing"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("b-2"))
			w.put("b", 2)
			return w
		}},
		{name: "superseded by an older state", lost: 1, kinds: []string{"superseded_by_nothing"}, tell: func() *world {
			w := newWorld("put_thing")
			w.put("a", 1)
			w.settle(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.Superseded, succ("a-1"))
			return w
		}},
		{name: "superseded by each other", lost: 2, kinds: []string{"superseded_by_nothing"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.Superseded, succ("a-1"))
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("a-2"))
			return w
		}},
		{name: "superseded by a dead-lettered record", lost: 1, kinds: []string{"superseded_by_nothing"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("a-2"))
			w.park(customers, w.publish(customers, "a", 2), "put_thing", checkpoint.CauseRule)
			return w
		}},
		{name: "superseded, and the successor was dropped", lost: 2, kinds: []string{"superseded_by_nothing", "no_outcome", "early_commit", "early_mark"}, tell: func() *world {
			w := newWorld("put_thing")
			w.settle(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.Superseded, succ("a-2"))
			w.publish(customers, "a", 2)
			return w
		}},
		{name: "superseded where every event counts", kinds: []string{"superseded_on_every"}, tell: func() *world {
			w := newWorld("pay")
			w.settle(invoices, w.publish(invoices, "i", 1), "pay", checkpoint.Superseded, succ("i-2"))
			w.pay("i", 2)
			return w
		}},
	})
}

func TestCounts(t *testing.T) {
	w := newWorld("put_thing", "create_user")
	off := w.put("a", 1)
	w.settle(customers, off, "create_user", checkpoint.Ignored)
	off = w.publish(customers, "b", 1)
	w.part(customers).skips = []checkpoint.Skip{{From: off, To: off + 1}}
	w.marker(customers)
	w.opts.Complete = false
	w.publish(customers, "c", 1)
	p := w.part(customers)
	p.Committed, p.cursor.Mark = 2, 2
	rep := w.run(t)
	got := [...]int{rep.Events, rep.Delivered, rep.Ignored, rep.Skipped, rep.Pending, rep.Uncommitted, rep.Effects.Applied}
	if want := [...]int{3, 1, 1, 2, 1, 1, 1}; got != want {
		t.Errorf("events, delivered, ignored, skipped, pending, uncommitted, applied = %v, want %v", got, want)
	}
	s := rep.Summary(1.5, 42)
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"events":3,"delivered":1,"accepted":0,"unchanged":0,"superseded":0,"folded":0,"ignored":1,"parked":0,"dead_lettered":0,"lost":0,"duplicated":0,"reordered":0,"seconds":1.5,"seed":42}`
	if string(b) != want {
		t.Errorf("summary\n%s, want\n%s", b, want)
	}
}

func TestFindingsAreBounded(t *testing.T) {
	w := newWorld("put_thing")
	for i := range 50 {
		w.publish(customers, fmt.Sprint("k", i), 1)
	}
	w.opts.FindingsMax = 10
	rep := w.run(t)
	if len(rep.Findings) != 10 || rep.Lost != 50 || rep.Kinds["no_outcome"] != 50 || rep.Omitted != 50+2-10 || rep.Clean() {
		t.Errorf("findings %d, omitted %d, lost %d, kinds %v: want 10 kept, all counted", len(rep.Findings), rep.Omitted, rep.Lost, rep.Kinds)
	}
}

func TestText(t *testing.T) {
	w := newWorld("put_thing")
	w.put("a", 1)
	var b strings.Builder
	if err := w.run(t).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); !strings.Contains(got, "Clean:") || !strings.Contains(got, "delivered  1") {
		t.Errorf("clean report:\n%s", got)
	}

	w.publishAs(customers, "evil\x1b[2J", 1, "it's\n")
	w.publish(customers, "b", 1)
	b.Reset()
	if err := w.run(t).WriteText(&b); err != nil {
		t.Fatal(err)
	}
	got := b.String()
	for _, want := range []string{"Not clean:", "no_outcome", "canonical.customer/0/2", "weir trace b-1", `"evil\x1b[2J"`} {
		if !strings.Contains(got, want) {
			t.Errorf("report has no %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("report has a raw escape: %q", got)
	}
}

func TestRunRefusesBadInput(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"no connector": func(w *world) { w.opts.Connector = "" },
		"no routes":    func(w *world) { w.opts.Routes = nil },
		"two routes":   func(w *world) { w.opts.Routes = []Route{{Name: "x", Entity: "e"}, {Name: "x", Entity: "e"}} },
		"nameless":     func(w *world) { w.opts.Routes = []Route{{Entity: "e"}} },
		"class":        func(w *world) { w.opts.Classes["pay"] = "odd" },
	} {
		w := newWorld("put_thing")
		spoil(w)
		if _, err := Run(t.Context(), w, w, nil, w.opts); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	w := newWorld("put_thing")
	w.put("a", 1)
	w.put("b", 1)
	slices.Reverse(w.part(customers).records)
	if _, err := Run(t.Context(), w, w, nil, w.opts); err == nil || !strings.Contains(err.Error(), "offset order") {
		t.Errorf("records out of order: %v", err)
	}
	w = newWorld("put_thing")
	w.park(customers, w.publish(customers, "a", 1), "put_thing", checkpoint.CauseRejected)
	w.opts.ParkedMax = 1
	if _, err := Run(t.Context(), w, w, nil, w.opts); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("parked index cut off: %v", err)
	}
}

// TestALiveConnector: what happens while the check reads is no finding, unless the connector claims to be done.
func TestALiveConnector(t *testing.T) {
	live := func() *world {
		w := newWorld("put_thing", "pay")
		w.put("a", 1)
		off := w.publish(customers, "a", 2)
		w.settle(customers, off, "put_thing", checkpoint.Superseded, succ("a-4")) // a-4 came after the topic was read
		w.put("b", 1)
		w.park(invoices, w.publish(invoices, "i", 1), "pay", checkpoint.CauseAmbiguous, plan(step("pay")))
		w.park(invoices, w.publish(invoices, "j", 1), "pay", checkpoint.CauseAmbiguous, plan(step("pay")))
		p := w.part(customers) // b-1 and j-1 came after the topics were read
		p.records, p.End, p.Committed = p.records[:2], 2, 2
		p = w.part(invoices)
		p.records, p.rows, p.End, p.Committed = p.records[:1], p.rows[:1], 1, 1
		return w
	}
	w := live()
	w.opts.Complete = false
	if rep := w.run(t); !rep.Clean() {
		t.Errorf("live: %+v", rep.Findings)
	}
	rep := live().run(t)
	for _, k := range []string{"outcome_without_record", "mark_beyond_end", "superseded_by_nothing", "entry_without_outcome", "copy_without_record"} {
		if rep.Kinds[k] == 0 {
			t.Errorf("done: no finding %s in %v", k, rep.Kinds)
		}
	}
}

func TestWithoutAnEffectsLog(t *testing.T) {
	w := newWorld("put_thing")
	w.put("a", 1)
	if rep, err := Run(t.Context(), w, w, nil, w.opts); err != nil || !rep.Clean() {
		t.Errorf("no log: %+v, %v", rep, err)
	}
	w.effects = nil
	if rep := w.run(t); rep.Lost != 1 {
		t.Errorf("empty log: lost %d, want 1", rep.Lost)
	}
	down := errors.New("sandbox down")
	if _, err := Run(t.Context(), w, w, func(context.Context) ([]Effect, error) { return nil, down }, w.opts); !errors.Is(err, down) {
		t.Errorf("log that cannot be read: %v", err)
	}
}

func TestAnIncompleteEffectsLogIsFound(t *testing.T) {
	w := newWorld("put_thing")
	w.put("a", 1)
	w.put("b", 1)
	w.put("c", 1)
	w.run(t) // numbers them
	for name, effects := range map[string][]Effect{
		"start dropped": w.effects[1:],
		"gap":           {w.effects[0], w.effects[2]},
	} {
		rep, err := Run(t.Context(), w, w, func(context.Context) ([]Effect, error) { return effects, nil }, w.opts)
		if err != nil || rep.Kinds["effects_log_gap"] != 1 {
			t.Errorf("%s: %v, %v; want a finding effects_log_gap", name, rep, err)
		}
	}
}

type decoder func() (*schema.Event, error)

func (d decoder) Decode(context.Context, *schema.Record) (*schema.Event, error) { return d() }

func TestDecode(t *testing.T) {
	r := &schema.Record{Topic: customers, Offset: 7, Key: []byte("a"), Value: []byte("v")}
	e := &schema.Event{ID: "e"}
	got, err := Decode(t.Context(), decoder(func() (*schema.Event, error) { return e, nil }), r)
	if err != nil || got.Event != e || got.Refused || got.Offset != 7 {
		t.Errorf("good record: %+v, %v", got, err)
	}
	got, err = Decode(t.Context(), decoder(func() (*schema.Event, error) { return nil, &schema.RefusedError{Cause: "rule", Event: e} }), r)
	if err != nil || got.Event != e || !got.Refused {
		t.Errorf("refused record: %+v, %v", got, err)
	}
	down := errors.New("registry down")
	if _, err = Decode(t.Context(), decoder(func() (*schema.Event, error) { return nil, down }), r); !errors.Is(err, down) {
		t.Errorf("registry down: %v, want that error", err)
	}
}
