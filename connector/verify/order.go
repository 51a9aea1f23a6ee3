package verify

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/weirsync/weir/checkpoint"
)

// checkOrder checks promise 2 over the applied effects, which come by seq: in one lane of one key an effect must
// not follow that of a newer record, unless its own generation is higher (a deliberate repeat).
func checkOrder(rep *Report, applied []appliedEffect) {
	type queue struct {
		part      *part
		key, lane string
	}
	newest := map[queue]map[uint32]appliedEffect{} // per generation the one with the highest offset
	steps := map[*row][]appliedEffect{}
	for _, a := range applied {
		r := a.cause.record()
		q := queue{r.part, r.key, a.lane}
		if newest[q] == nil {
			newest[q] = map[uint32]appliedEffect{}
		}
		gen := a.generation()
		for _, g := range slices.Sorted(maps.Keys(newest[q])) {
			n := newest[q][g]
			if g >= gen && n.cause.record().offset > r.offset {
				rep.reorder(r, Finding{Promise: 2, Kind: "reordered", Seq: a.effect.Seq,
					Detail: fmt.Sprintf("%s %s was applied (seq %d) after the newer %s of event %s (seq %d)",
						a.effect.Operation, a.effect.Object, a.effect.Seq, n.cause.record().origin(), n.cause.record().eventID, n.effect.Seq)})
				break
			}
		}
		if n, ok := newest[q][gen]; !ok || n.cause.record().offset < r.offset {
			newest[q][gen] = a
		}
		steps[a.cause.row] = append(steps[a.cause.row], a)
	}
	for _, a := range applied {
		as := steps[a.cause.row]
		if len(as) > 1 && as[0].effect == a.effect {
			checkSteps(rep, as)
		}
	}
}

func (a appliedEffect) generation() uint32 {
	w := a.cause.row
	if a.cause.step < len(w.plan) {
		return max(w.plan[a.cause.step].Generation, w.generation)
	}
	return w.generation
}

// checkSteps checks that one record's steps were first applied in the order of its plan (cancel, then create).
func checkSteps(rep *Report, as []appliedEffect) {
	seen := map[int]bool{}
	highest := -1
	for _, a := range as {
		n := a.cause.step
		if seen[n] {
			continue
		}
		seen[n] = true
		if n < highest {
			rep.reorder(a.cause.record(), Finding{Promise: 2, Kind: "steps_reordered", Seq: a.effect.Seq,
				Detail: fmt.Sprintf("step %d of its plan (%s) was applied after step %d", n+1, a.effect.Operation, highest+1)})
		}
		highest = max(highest, n)
	}
}

// checkSuperseded checks promise 2 over superseded records: each leads, maybe over others, to a newer state of
// its key that is not itself superseded.
func checkSuperseded(rep *Report, o *Options, h *history) {
	good := map[*row]bool{} // rows whose chain is known to end well, so that a long one is walked once
	for _, p := range h.parts {
		for _, r := range slices.Backward(p.records) {
			for _, w := range r.rows {
				if w.outcome != checkpoint.Superseded {
					continue
				}
				if rt, ok := o.route(w.route); ok && rt.Every {
					rep.find(r, Finding{Promise: 2, Kind: "superseded_on_every", Detail: "route " + w.route + " delivers every event, so none may be superseded"})
				}
				if problem := follow(o, h, w, good); problem != "" {
					rep.lose(r, Finding{Promise: 2, Kind: "superseded_by_nothing", Detail: "on route " + w.route + ": " + problem})
				}
			}
		}
	}
}

// follow walks from a superseded record to what replaced it and says what is wrong with the chain, "" if nothing.
func follow(o *Options, h *history, w *row, good map[*row]bool) (problem string) {
	seen := map[*record]bool{}
	var chain []*row
	defer func() {
		for _, c := range chain {
			good[c] = problem == ""
		}
	}()
	for !good[w] {
		r := w.record
		seen[r] = true
		chain = append(chain, w)
		if w.supersededBy == "" {
			return fmt.Sprintf("%s names no successor", r.origin())
		}
		next := successor(h, r, w.supersededBy)
		switch {
		case next == nil && r.part.Start > 0 && len(h.byEvent[w.supersededBy]) == 0:
			return "" // the successor may have expired before it (a stale record is superseded by an older one)
		case next == nil && (r.part.Compacted || !o.Complete) && len(h.byEvent[w.supersededBy]) == 0:
			return "" // compacted away, or published while the check was reading
		case next == nil:
			return fmt.Sprintf("%s names %s, which is no newer record of its key", r.origin(), w.supersededBy)
		case seen[next]:
			return fmt.Sprintf("%s and %s supersede each other", r.origin(), next.origin())
		}
		nw := next.on(w.route)
		if nw == nil || nw.outcome == foreign {
			if o.Complete && !next.part.skipped(next.offset) {
				return fmt.Sprintf("its successor %s has no outcome", next.origin())
			}
			return ""
		}
		switch nw.outcome {
		case checkpoint.Superseded:
			w = nw
		case checkpoint.DeadLettered:
			return fmt.Sprintf("its successor %s was dead-lettered: it should not have superseded anything", next.origin())
		default:
			return ""
		}
	}
	return ""
}

// successor is the record of the event that may supersede r: of the same entity, and newer by version (same
// source) or by offset. Conflation keeps the highest version, not the highest offset (design section 5).
func successor(h *history, r *record, eventID string) *record {
	var found []*record
	for _, n := range h.byEvent[eventID] {
		if n == r || n.key != r.key || n.entity != r.entity {
			continue
		}
		later := n.part == r.part && n.offset > r.offset || n.part != r.part
		notOlder := n.source == r.source && n.version >= r.version && n.version > 0
		if later || notOlder {
			found = append(found, n)
		}
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MaxFunc(found, func(a, b *record) int { return cmp.Compare(a.offset, b.offset) })
}
