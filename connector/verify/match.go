package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/weirsync/weir/checkpoint"
)

// An identity names one intended effect: a vendor operation with what the vendor can tell its repeats by.
type identity struct {
	by        by
	operation string
	id        string
}

// by is what an intended effect is recognised by.
type by byte

const (
	byKey       by = 'k' // idempotency key
	byReference by = 'r' // "<entity id>.<version>"
	byObject    by = 'o' // vendor object
)

func (i identity) String() string {
	what := map[by]string{byKey: "key", byReference: "reference", byObject: "object"}[i.by]
	return fmt.Sprintf("%s with %s %s", i.operation, what, i.id)
}

// identityOf is the identity under which an effect is filed: the strongest that the vendor saw. An effect on an
// object that a plan names (a cancel) is filed under that object: its reference is what the object was made with.
func identityOf(e *Effect, named map[identity]bool) identity {
	switch {
	case e.IdempotencyKey != "":
		return identity{byKey, e.Operation, e.IdempotencyKey}
	case named[identity{byObject, e.Operation, e.Object}]:
		return identity{byObject, e.Operation, e.Object}
	case e.Reference != "":
		return identity{byReference, e.Operation, e.Reference}
	}
	return identity{byObject, e.Operation, e.Object}
}

// namedObjects lists the vendor objects that steps without a key of their own address by a vendor id.
func namedObjects(o *Options, h *history) map[identity]bool {
	out := map[identity]bool{}
	for _, p := range h.parts {
		for _, r := range p.records {
			for _, w := range r.rows {
				for _, s := range w.plan {
					if s.IdempotencyKey != "" {
						continue
					}
					for _, id := range s.IDs {
						out[identity{byObject, cmp.Or(o.Alias[s.Operation], s.Operation), id}] = true
					}
				}
			}
		}
	}
	return out
}

// identities lists, strongest first, the identities that the effect of a step can be filed under. The first that
// has effects is the one. The idempotency key alone counts where the step has one and the vendor logs it; a
// natural key (Push Cash: the tag is the customer id) may be logged as the reference.
func identities(o *Options, w *row, s checkpoint.Step) []identity {
	var out []identity
	s.Operation = cmp.Or(o.Alias[s.Operation], s.Operation)
	if s.IdempotencyKey != "" {
		out = append(out, identity{byKey, s.Operation, s.IdempotencyKey}, identity{byReference, s.Operation, s.IdempotencyKey})
	}
	if s.IdempotencyKey == "" {
		for _, name := range slices.Sorted(maps.Keys(s.IDs)) {
			out = append(out, identity{byObject, s.Operation, s.IDs[name]})
		}
	}
	// An item of a batch carries no key of its own, and the reference of a create may be the entity's id alone.
	out = append(out, identity{byReference, s.Operation, w.record.ref()}, identity{byReference, s.Operation, w.record.key})
	if s.IdempotencyKey == "" {
		// An operation that writes an object by the entity's own id (PUT /things/{id}) or by the vendor's.
		if w.vendorID != "" {
			out = append(out, identity{byObject, s.Operation, w.vendorID})
		}
		out = append(out, identity{byObject, s.Operation, w.record.key})
	}
	return out
}

// choose is the first of the identities that the log has, else the first.
func choose(ids []identity, has func(identity) bool) identity {
	for _, i := range ids {
		if has(i) {
			return i
		}
	}
	return ids[0]
}

// A cause is a step of a record's plan that means an intended effect.
type cause struct {
	row  *row
	step int
}

func (c cause) record() *record { return c.row.record }

// inOrder sorts causes as Kafka has them.
func inOrder(a, b cause) int {
	ra, rb := a.record(), b.record()
	return cmp.Or(cmp.Compare(ra.part.Topic, rb.part.Topic), cmp.Compare(ra.part.Index, rb.part.Index),
		cmp.Compare(ra.offset, rb.offset), cmp.Compare(a.row.route, b.row.route), cmp.Compare(a.step, b.step))
}

// mayHave reports whether the outcome allows the step to have been applied.
func mayHave(c cause) bool {
	w := c.row
	finished := c.step < w.done
	next := c.step == w.done // the step that was under way when the record's plan ended
	switch w.outcome {
	case checkpoint.Delivered, checkpoint.Accepted:
		return true
	case checkpoint.ParkedOut:
		unanswered := w.cause == checkpoint.CauseAmbiguous || w.cause == checkpoint.CauseExhausted || w.lost > 0
		return finished || (next && unanswered)
	case checkpoint.Skipped, checkpoint.Ignored:
		// Skipped by an operator after it was parked; ignored because an answer concluded its plan.
		return finished || (next && w.lost > 0)
	}
	return false
}

// allowed is how often an intended effect of the class may be applied; 0 means without bound.
func allowed(class Class, causes []cause) int {
	if class == ClassOverwrite {
		return 0
	}
	n := 1
	for _, c := range causes {
		if class == ClassNone && c.row.generation > 0 && c.row.lost > 0 {
			// Released or replayed behind a lost answer: only with --accept-duplicate (design section 6).
			n = max(n, 1+min(int(c.row.generation), c.row.lost))
		}
	}
	return n
}

// An appliedEffect is an applied effect with the step that is taken to have caused it.
type appliedEffect struct {
	effect *Effect
	cause  cause
	lane   string
}

// checkEffects checks promise 3 and returns the applied effects with their causes, by seq.
func checkEffects(rep *Report, o *Options, h *history) []appliedEffect {
	named := namedObjects(o, h)
	logged := map[identity][]*Effect{} // applied ones, by seq
	replays := map[identity]int{}
	for i := range h.effects {
		e := &h.effects[i]
		switch o.Classes[e.Operation] {
		case ClassAggregate:
			rep.Effects.Aggregate++
			continue
		case ClassVendor:
			rep.Effects.Vendor++
			continue
		}
		switch e.Effect {
		case EffectApplied:
			rep.Effects.Applied++
			id := identityOf(e, named)
			logged[id] = append(logged[id], e)
		case EffectReplayed:
			rep.Effects.Replayed++
			replays[identityOf(e, named)]++
		case EffectRejected:
			rep.Effects.Rejected++
		case EffectRead:
			rep.Effects.Reads++
		}
	}
	meant := causesOf(o, h, logged, replays)
	var out []appliedEffect
	for _, id := range slices.SortedFunc(maps.Keys(meant), compareIdentity) {
		out = append(out, checkIntended(rep, o, h, id, meant[id], logged[id])...)
	}
	for _, id := range slices.SortedFunc(maps.Keys(logged), compareIdentity) {
		if meant[id] == nil {
			checkUnmeant(rep, o, h, id, logged[id])
		}
	}
	for _, id := range slices.SortedFunc(maps.Keys(replays), compareIdentity) {
		// A repeat of something that was applied is harmless; one of something unknown was not ours to repeat.
		if replays[id] > 0 && meant[id] == nil && logged[id] == nil && !pendingMayExplain(rep, o) {
			rep.add(Finding{Promise: 10, Kind: "replay_without_record", Detail: fmt.Sprintf("the vendor recognised a repeat of %s, which no record of the ledger means", id)})
		}
	}
	slices.SortFunc(out, func(a, b appliedEffect) int { return cmp.Compare(a.effect.Seq, b.effect.Seq) })
	return out
}

func compareIdentity(a, b identity) int {
	return cmp.Or(cmp.Compare(a.operation, b.operation), cmp.Compare(a.id, b.id), cmp.Compare(a.by, b.by))
}

// causesOf files every planned step under the intended effect that it means, in Kafka order.
// Replays that a step explains are cleared.
func causesOf(o *Options, h *history, logged map[identity][]*Effect, replays map[identity]int) map[identity][]cause {
	out := map[identity][]cause{}
	has := func(i identity) bool { return logged[i] != nil }
	named := map[string][]string{} // operations by reference
	for id := range logged {
		if id.by == byReference {
			named[id.id] = append(named[id.id], id.operation)
		}
	}
	for _, p := range h.parts {
		for _, r := range p.records {
			for _, w := range r.rows {
				plan := w.plan
				if len(plan) == 0 && mayBePlanless(w) {
					plan = stepsByReference(named[r.ref()])
				}
				for n, s := range plan {
					if c := o.class(s); c == ClassRead || c == ClassAggregate {
						continue
					}
					ids := identities(o, w, s)
					id := choose(ids, has)
					for _, i := range ids {
						if _, repeated := replays[i]; repeated {
							replays[i] = 0 // explained: a refusal is answered again too, and was never applied
						}
					}
					out[id] = append(out[id], cause{w, n})
				}
			}
		}
	}
	for _, cs := range out {
		slices.SortFunc(cs, inOrder)
	}
	return out
}

// mayBePlanless: the outcome can come with an effect, so if its plan was not kept the reference must serve.
func mayBePlanless(w *row) bool {
	return effectful(w) || (w.outcome == checkpoint.ParkedOut && (w.cause == checkpoint.CauseAmbiguous || w.cause == checkpoint.CauseExhausted))
}

// stepsByReference makes up a plan of what the vendor did in a record's name.
func stepsByReference(operations []string) []checkpoint.Step {
	var out []checkpoint.Step
	for _, op := range slices.Sorted(slices.Values(operations)) {
		out = append(out, checkpoint.Step{Step: op, Operation: op})
	}
	return out
}

// checkIntended checks one intended effect: who may have caused it, and how often it was applied.
func checkIntended(rep *Report, o *Options, h *history, id identity, causes []cause, effects []*Effect) []appliedEffect {
	first := causes[0]
	for _, c := range causes[1:] {
		if c.record().key != first.record().key || c.record().entity != first.record().entity {
			rep.find(c.record(), Finding{Promise: 3, Kind: "key_collision",
				Detail: fmt.Sprintf("it and %s (key %s) both mean %s: one of them has no effect of its own", first.record().origin(), first.record().key, id)})
			break
		}
	}
	if len(effects) == 0 {
		for _, c := range causes {
			if effectful(c.row) {
				rep.lose(c.record(), Finding{Promise: 3, Kind: "effect_missing",
					Detail: fmt.Sprintf("%s on route %s, but the vendor never applied %s", c.row.outcome, c.row.route, id)})
			}
		}
		return nil
	}
	by, ok := first, false
	for _, c := range causes {
		if mayHave(c) {
			by, ok = c, true
			break
		}
	}
	if !ok && (!o.Complete && h.pendingAfter(first.record()) || slices.ContainsFunc(causes, h.onItsWay)) {
		// A newer record of the key means the same effect (a create by entity id) and has no outcome yet; or one that was
		// parked is on its way again.
		rep.Effects.Unresolved++
		return nil
	}
	if !ok {
		rep.double(first.record(), len(effects), Finding{Promise: 3, Kind: "effect_of_" + string(first.row.outcome), Seq: effects[0].Seq,
			Detail: fmt.Sprintf("%s on route %s, step %d of the plan, but the vendor applied %s", outcomeText(first.row), first.row.route, first.step+1, id)})
	}
	class := o.class(by.row.step(by.step, id))
	if n := allowed(class, causes); n > 0 && len(effects) > n && ok {
		rep.double(by.record(), len(effects)-n, Finding{Promise: 3, Kind: "effect_doubled", Seq: effects[n].Seq,
			Detail: fmt.Sprintf("the vendor applied %s %d times (seq %s)", id, len(effects), seqs(effects))})
	} else if ok {
		rep.Effects.Repeated += len(effects) - 1
	}
	rt, _ := o.route(by.row.route)
	lane := cmp.Or(rt.lane(), by.record().entity)
	out := make([]appliedEffect, len(effects))
	for i, e := range effects {
		out[i] = appliedEffect{e, by, lane}
	}
	return out
}

// step is the n-th step of the plan, or what is known of it where the plan was not kept.
func (w *row) step(n int, id identity) checkpoint.Step {
	if n < len(w.plan) {
		return w.plan[n]
	}
	return checkpoint.Step{Operation: id.operation}
}

func outcomeText(w *row) string {
	if w.cause != "" {
		return string(w.outcome) + " (" + string(w.cause) + ")"
	}
	return string(w.outcome)
}

// seqs lists at most five sequence numbers.
func seqs(es []*Effect) string {
	s := ""
	for i, e := range es {
		if i == 5 {
			return s + ", ..."
		}
		if i > 0 {
			s += ", "
		}
		s += fmt.Sprint(e.Seq)
	}
	return s
}

// checkUnmeant reports applied effects that no plan means. If the vendor logged a reference, it says whose name
// they were made in.
func checkUnmeant(rep *Report, o *Options, h *history, id identity, effects []*Effect) {
	e := effects[0]
	at := func(kind, detail string) Finding {
		return Finding{Promise: 3, Kind: kind, Seq: e.Seq, Detail: detail}
	}
	rs := h.byRef[e.Reference]
	for _, r := range rs {
		if !o.Complete && !r.gone && len(settledOf(o, r).missing) > 0 {
			// Pending: sent, and its outcome is not durable yet.
			rep.Effects.Unresolved++
			if o.classOfLogged(e.Operation) != ClassOverwrite && len(effects) > 1 {
				rep.double(r, len(effects)-1, at("effect_doubled", fmt.Sprintf("still pending, and the vendor applied %s %d times (seq %s)", id, len(effects), seqs(effects))))
			}
			return
		}
		for _, w := range r.rows {
			if w.generation > 0 && w.lost > 0 {
				// An earlier generation of a record that was released behind a lost answer (--accept-duplicate).
				rep.Effects.Repeated += len(effects)
				return
			}
		}
	}
	for _, r := range rs {
		if len(r.rows) == 0 {
			continue // reported as without outcome
		}
		if !o.Complete && h.pendingAfter(r) {
			// A change of the object by a newer record of the key that is pending: some vendors log it under the
			// reference that the object was created with.
			rep.Effects.Unresolved++
			return
		}
		rep.double(r, len(effects), at("effect_of_"+string(r.rows[0].outcome),
			fmt.Sprintf("%s on route %s, but the vendor applied %s in its name", outcomeText(r.rows[0]), r.rows[0].route, id)))
		return
	}
	if pendingMayExplain(rep, o) || rep.Effects.Unresolved < releasedStepsMax*h.released() {
		rep.Effects.Unresolved++
		return
	}
	f := at("effect_without_record", fmt.Sprintf("the vendor applied %s (object %q, reference %q, %d times, first seq %d), which no record of the ledger means", id, e.Object, e.Reference, len(effects), e.Seq))
	rep.Duplicated += len(effects)
	rep.add(f)
}

// classOfLogged is the class of an operation by its name in the log: overwrite only if all that it may be are.
func (o *Options) classOfLogged(operation string) Class {
	class, known := o.Classes[operation]
	for _, planned := range slices.Sorted(maps.Keys(o.Alias)) {
		if o.Alias[planned] != operation {
			continue
		}
		if c := o.Classes[planned]; !known || c != ClassOverwrite {
			class, known = c, true
		}
	}
	return class
}

// releasedStepsMax is how many effects one released record may explain: cancel and create.
const releasedStepsMax = 2

// released counts the entries of the parked index whose records are on their way again. Their rows are those of when
// they were parked, so what they have done since is explained only by their next outcome.
func (h *history) released() int {
	n := 0
	for _, e := range h.parked {
		if e.State == checkpoint.ParkedReleased {
			n++
		}
	}
	return n
}

// onItsWay reports whether the cause's record was parked and is released.
func (h *history) onItsWay(c cause) bool {
	e := h.entry(c.record(), c.row)
	return c.row.outcome == checkpoint.ParkedOut && e != nil && e.State == checkpoint.ParkedReleased
}

// pendingMayExplain: of a pending record the ledger does not tell the key, so as many unexplained effects as there
// are pending records say nothing.
func pendingMayExplain(rep *Report, o *Options) bool {
	return !o.Complete && rep.Effects.Unresolved < rep.Pending
}
