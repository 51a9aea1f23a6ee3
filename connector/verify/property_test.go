package verify

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/checkpoint"
)

// draw tells a random history of a connector that keeps all promises: customers on a latest route with an
// overwriting PUT and on one with a natural key, invoices on an every route without any idempotency. Keys go on
// independently, so effects of different keys mix.
func draw(t *rapid.T) *world {
	w := newWorld("put_thing", "create_user", "pay")
	w.opts.Routes[1].Lane = "users"
	keys := []string{"a", "b", "c", "d"}
	version := map[string]int64{}
	created := map[string]bool{}
	held := map[string]bool{}
	queues := map[string][]func(){} // effects still to be applied, by lane and key, in order
	later := func(lane string, f func()) { queues[lane] = append(queues[lane], f) }
	drain := func() { // applies some of what is queued
		for len(queues) > 0 {
			var lanes []string
			for l := range queues {
				lanes = append(lanes, l)
			}
			slices.Sort(lanes)
			l := rapid.SampledFrom(lanes).Draw(t, "lane")
			queues[l][0]()
			if queues[l] = queues[l][1:]; len(queues[l]) == 0 {
				delete(queues, l)
			}
			if rapid.Bool().Draw(t, "enough") {
				return
			}
		}
	}
	for range rapid.IntRange(1, 30).Draw(t, "records") {
		key := rapid.SampledFrom(keys).Draw(t, "key")
		switch rapid.SampledFrom([]string{"customer", "invoice", "garbage", "marker"}).Draw(t, "what") {
		case "customer":
			// A run of states of which the last is delivered and the others are conflated.
			n := rapid.IntRange(1, 3).Draw(t, "run")
			for i := range n {
				version[key]++
				v := version[key]
				off := w.publish(customers, key, v)
				if i < n-1 {
					w.settle(customers, off, "put_thing", checkpoint.Superseded, succ(fmt.Sprintf("%s-%d", key, v+1)))
				} else {
					w.settle(customers, off, "put_thing", checkpoint.Delivered, plan(step("put_thing")))
					later("things "+key, func() { w.apply("put_thing", key, fmt.Sprintf("%s.%d", key, v), "") })
				}
				w.settle(customers, off, "create_user", checkpoint.Delivered, plan(keyed("create_user", key)))
				first := !created[key]
				created[key] = true
				later("users "+key, func() {
					if first {
						w.apply("create_user", "user_"+key, "", key)
					} else {
						w.replay("create_user", "user_"+key, "", key)
					}
				})
			}
		case "invoice":
			key = "i" + key
			version[key]++
			v := version[key]
			off := w.publish(invoices, key, v)
			if held[key] {
				w.park(invoices, off, "pay", checkpoint.CauseHeld, plan(step("pay")))
				break
			}
			switch rapid.IntRange(0, 5).Draw(t, "fate") {
			case 0: // ambiguous, and applied: its key is held from now on
				held[key] = true
				w.park(invoices, off, "pay", checkpoint.CauseAmbiguous, plan(step("pay")))
				later("pays "+key, func() { w.apply("pay", "p", fmt.Sprintf("%s.%d", key, v), "") })
			case 1:
				held[key] = true
				w.park(invoices, off, "pay", checkpoint.CauseRejected, plan(step("pay")))
				later("pays "+key, func() { w.effect(EffectRejected, "pay", "", fmt.Sprintf("%s.%d", key, v), "") })
			default:
				w.settle(invoices, off, "pay", checkpoint.Delivered, plan(step("pay")))
				later("pays "+key, func() { w.apply("pay", "p", fmt.Sprintf("%s.%d", key, v), "") })
			}
		case "garbage":
			w.park(invoices, w.garbage(invoices, key), "pay", checkpoint.CauseFraming)
		case "marker":
			w.marker(customers)
		}
		drain()
	}
	for len(queues) > 0 {
		drain()
	}
	return w
}

func TestACorrectHistoryIsClean(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		if rep := draw(rt).run(t); !rep.Clean() {
			rt.Fatalf("findings of a correct history: %+v", rep.Findings)
		}
	})
}

// A spoiler breaks one promise in a history, or says that this history has nothing to break.
type spoiler struct {
	name  string
	spoil func(t *rapid.T, w *world) bool
	wrong func(r *Report) bool
}

func lost(r *Report) bool       { return r.Lost > 0 }
func duplicated(r *Report) bool { return r.Duplicated > 0 }
func reordered(r *Report) bool  { return r.Reordered > 0 }

// pick draws the index of an element that f takes.
func pick[T any](t *rapid.T, s []T, f func(i int) bool) (int, bool) {
	var is []int
	for i := range s {
		if f(i) {
			is = append(is, i)
		}
	}
	if len(is) == 0 {
		return 0, false
	}
	return rapid.SampledFrom(is).Draw(t, "at"), true
}

func spoilers() []spoiler {
	isApplied := func(w *world) func(int) bool { return func(i int) bool { return w.effects[i].Effect == EffectApplied } }
	return []spoiler{
		{"an outcome is dropped", func(t *rapid.T, w *world) bool {
			p := rapid.SampledFrom(w.parts).Draw(t, "part")
			i, ok := pick(t, p.rows, func(i int) bool { return p.rows[i].Outcome != checkpoint.DeadLettered })
			if ok {
				p.rows = slices.Delete(p.rows, i, i+1)
			}
			return ok
		}, lost},
		{"an effect is dropped", func(t *rapid.T, w *world) bool {
			// Of an ambiguous record it is no error.
			ambiguous := map[string]bool{}
			for _, r := range w.part(invoices).rows {
				if r.Cause == checkpoint.CauseAmbiguous {
					ambiguous[fmt.Sprintf("%s.%d", r.Event.Key, r.Event.Version)] = true
				}
			}
			i, ok := pick(t, w.effects, func(i int) bool { return isApplied(w)(i) && !ambiguous[w.effects[i].Reference] })
			if ok {
				w.effects = slices.Delete(w.effects, i, i+1)
			}
			return ok
		}, lost},
		{"an effect is doubled", func(t *rapid.T, w *world) bool {
			i, ok := pick(t, w.effects, func(i int) bool { return isApplied(w)(i) && w.effects[i].Operation != "put_thing" })
			if ok {
				w.effects = slices.Insert(w.effects, rapid.IntRange(0, len(w.effects)).Draw(t, "to"), w.effects[i])
			}
			return ok
		}, duplicated},
		{"two effects of one key are swapped", func(t *rapid.T, w *world) bool {
			type pair struct{ i, j int }
			var ps []pair
			for i, a := range w.effects {
				for j, b := range w.effects[:i] {
					same := a.Operation == b.Operation && a.Effect == EffectApplied && b.Effect == EffectApplied
					if same && a.Reference != "" && a.Reference[:2] == b.Reference[:2] && a.Reference != b.Reference {
						ps = append(ps, pair{i, j})
					}
				}
			}
			if len(ps) == 0 {
				return false
			}
			p := rapid.SampledFrom(ps).Draw(t, "pair")
			w.effects[p.i], w.effects[p.j] = w.effects[p.j], w.effects[p.i]
			return true
		}, reordered},
		{"a superseded state is sent", func(t *rapid.T, w *world) bool {
			rows := w.part(customers).rows
			i, ok := pick(t, rows, func(i int) bool { return rows[i].Outcome == checkpoint.Superseded })
			if ok {
				w.apply("put_thing", rows[i].Event.Key, fmt.Sprintf("%s.%d", rows[i].Event.Key, rows[i].Event.Version), "")
			}
			return ok
		}, duplicated},
		{"a copy is dropped", func(t *rapid.T, w *world) bool {
			topic := rapid.SampledFrom([]string{"weir.c.parked", "weir.c.dead"}).Draw(t, "topic")
			i, ok := pick(t, w.copies[topic], func(int) bool { return true })
			if ok {
				w.copies[topic] = slices.Delete(w.copies[topic], i, i+1)
			}
			return ok
		}, lost},
		{"a record was never there", func(t *rapid.T, w *world) bool {
			p := rapid.SampledFrom(w.parts).Draw(t, "part")
			i, ok := pick(t, p.records, func(i int) bool { return !p.records[i].Control })
			if ok {
				p.records = slices.Delete(p.records, i, i+1)
			}
			return ok
		}, func(r *Report) bool { return r.Kinds["outcome_without_record"] > 0 }},
		{"a state is called unchanged", func(t *rapid.T, w *world) bool {
			rows := w.part(invoices).rows
			i, ok := pick(t, rows, func(i int) bool { return rows[i].Outcome == checkpoint.Delivered })
			if ok {
				rows[i].Outcome, rows[i].Plan = checkpoint.Unchanged, nil
			}
			return ok
		}, duplicated},
	}
}

func TestEverySingleMistakeIsFound(t *testing.T) {
	for _, s := range spoilers() {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			spoilt := 0
			rapid.Check(t, func(rt *rapid.T) {
				w := draw(rt)
				if !s.spoil(rt, w) {
					return
				}
				spoilt++
				if rep := w.run(t); rep.Clean() || !s.wrong(rep) {
					rt.Fatalf("not found: lost %d, duplicated %d, reordered %d, findings %+v", rep.Lost, rep.Duplicated, rep.Reordered, rep.Findings)
				}
			})
			least := 10
			if testing.Short() {
				least = 3 // rapid draws a fifth of the histories then
			}
			if spoilt < least {
				t.Errorf("only %d histories could be spoilt: the test proves little", spoilt)
			}
		})
	}
}
