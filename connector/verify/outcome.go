package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"github.com/weirsync/weir/checkpoint"
)

// foreign marks an outcome whose event hash is that of another event (recreated topic, truncated log): it says
// nothing about the record at its offset (design section 8).
const foreign checkpoint.Outcome = "foreign"

// eventHash is the first 8 bytes of SHA-256 of the event id, big-endian: checkpoint.Row.EventHash.
func eventHash(id string) uint64 {
	sum := sha256.Sum256([]byte(id))
	return binary.BigEndian.Uint64(sum[:8])
}

// settled says what of a record has an outcome.
type settled struct {
	missing []string // routes that take it and have no outcome
	skipped int      // of those, how many a skip answers for
}

// settledOf decides which outcomes a record still needs. A record of which nothing could be read needs at least
// one, since the routes that would take it are not known.
func settledOf(o *Options, r *record) settled {
	var s settled
	if r.control {
		return s
	}
	has := func(route string) bool {
		w := r.on(route)
		return w != nil && w.outcome != foreign
	}
	if !r.decoded {
		if !slices.ContainsFunc(r.rows, func(w *row) bool { return w.outcome != foreign }) {
			s.missing = []string{routeAll}
		}
	} else {
		for _, rt := range o.Routes {
			if rt.Takes(r.entity, r.op) && !has(rt.Name) {
				s.missing = append(s.missing, rt.Name)
			}
		}
	}
	if len(s.missing) > 0 && r.part.skipped(r.offset) {
		s.skipped, s.missing = len(s.missing), nil
	}
	return s
}

// checkOutcomes checks promise 1 over one partition: one outcome per record and route, none without a record.
func checkOutcomes(rep *Report, o *Options, p *part) {
	mark := int64(-1)
	if p.cursor != nil {
		mark = p.cursor.Mark
	}
	for _, r := range p.records {
		if r.control {
			checkControl(rep, r)
			continue
		}
		if r.gone {
			checkGone(rep, o, r)
		} else {
			rep.Events++
			if p.Committed >= 0 && r.offset >= p.Committed {
				rep.Uncommitted++
			}
		}
		seen := map[string]bool{}
		for _, w := range r.rows {
			if w.outcome == foreign {
				rep.find(r, Finding{Promise: 1, Kind: "foreign_outcome", Detail: fmt.Sprintf("the outcome on route %s belongs to another event: its event hash differs", w.route)})
				continue
			}
			if seen[w.route] {
				rep.find(r, Finding{Promise: 1, Kind: "outcome_twice", Detail: "a second outcome on route " + w.route + ": " + string(w.outcome)})
			}
			seen[w.route] = true
			if !slices.Contains(checkpoint.Outcomes, w.outcome) {
				rep.find(r, Finding{Promise: 1, Kind: "unknown_outcome", Detail: fmt.Sprintf("outcome %q on route %s is not one of the closed set", w.outcome, w.route)})
			}
			if !r.gone {
				rep.count(w)
			}
			checkRoute(rep, o, r, w)
		}
		if r.gone {
			continue
		}
		s := settledOf(o, r)
		rep.Skipped += s.skipped
		if len(s.missing) == 0 {
			continue
		}
		detail := "no outcome on " + strings.Join(s.missing, ", ")
		switch {
		case r.offset < p.Committed:
			rep.lose(r, Finding{Promise: 1, Kind: "no_outcome", Detail: fmt.Sprintf("%s, although the group committed %d", detail, p.Committed)})
		case r.offset < mark:
			rep.lose(r, Finding{Promise: 1, Kind: "no_outcome", Detail: fmt.Sprintf("%s, although the low-water mark is %d", detail, mark)})
		case o.Complete:
			rep.lose(r, Finding{Promise: 1, Kind: "no_outcome", Detail: detail + ", although the connector claims to be done"})
		default:
			rep.Pending++
		}
	}
}

// checkRoute reports an outcome on a route that cannot have one for this record.
func checkRoute(rep *Report, o *Options, r *record, w *row) {
	if w.route == routeAll {
		return
	}
	rt, ok := o.route(w.route)
	switch {
	case !ok:
		rep.find(r, Finding{Promise: 1, Kind: "unknown_route", Detail: fmt.Sprintf("outcome %s on route %q, which the connector does not have", w.outcome, w.route)})
	case rt.Entity != r.entity:
		rep.find(r, Finding{Promise: 1, Kind: "unknown_route", Detail: fmt.Sprintf("outcome %s on route %q, which is for entity %s", w.outcome, w.route, rt.Entity)})
	case r.decoded && !rt.Takes(r.entity, r.op) && effectful(w):
		rep.find(r, Finding{Promise: 1, Kind: "unknown_route", Detail: fmt.Sprintf("outcome %s on route %q, which does not take operation %s", w.outcome, w.route, r.op)})
	}
}

// effectful reports whether the outcome claims that the vendor did all that was planned.
func effectful(w *row) bool {
	return w.outcome == checkpoint.Delivered || w.outcome == checkpoint.Accepted
}

// checkControl: a transaction marker settles at once and is never mapped (design section 3).
func checkControl(rep *Report, r *record) {
	for _, w := range r.rows {
		if w.outcome != checkpoint.Ignored && w.outcome != checkpoint.Skipped {
			rep.find(r, Finding{Promise: 1, Kind: "control_outcome", Detail: fmt.Sprintf("a transaction marker has outcome %s on route %s", w.outcome, w.route)})
		}
	}
}

// checkGone: an outcome whose record is not in the topic. Below the log start it has expired; inside a compacted
// log it may have been compacted away, but nothing can have been there at or above the end.
func checkGone(rep *Report, o *Options, r *record) {
	p := r.part
	if r.offset < p.Start || (p.Compacted && r.offset < p.End) || (r.offset >= p.End && !o.Complete) {
		return // !Complete: published and settled while the check was reading
	}
	rep.find(r, Finding{Promise: 1, Kind: "outcome_without_record",
		Detail: fmt.Sprintf("the ledger says %s, the topic (offsets %d to %d) has no committed record there", r.rows[0].outcome, p.Start, p.End)})
}

// checkMarks checks where one partition says that it stands: promise 1.
func checkMarks(rep *Report, o *Options, p *part) {
	first := int64(-1) // first record without all its outcomes
	for _, r := range p.records {
		if !r.gone && len(settledOf(o, r).missing) > 0 {
			first = r.offset
			break
		}
	}
	at := func(off int64, kind, format string, args ...any) {
		rep.add(Finding{Promise: 1, Kind: kind, Topic: p.Topic, Partition: p.Index, Offset: off, Detail: fmt.Sprintf(format, args...)})
	}
	if first >= 0 && p.Committed > first {
		at(first, "early_commit", "the group committed %d, but this record has no outcome: after a restart it is never read again", p.Committed)
	}
	if p.Committed > p.End {
		at(p.Committed, "commit_beyond_end", "the group committed %d, but the topic ends at %d", p.Committed, p.End)
	}
	c := p.cursor
	if c == nil {
		if p.Committed > p.Start {
			at(p.Committed, "commit_above_mark", "the group committed %d, but the store has no mark for the partition", p.Committed)
		}
		checkSeen(rep, o, p)
		return
	}
	if first >= 0 && c.Mark > first {
		at(first, "early_mark", "the low-water mark is %d, but this record has no outcome", c.Mark)
	}
	if p.Committed > c.Mark && p.Committed > p.Start {
		at(p.Committed, "commit_above_mark", "the group committed %d, above the low-water mark %d", p.Committed, c.Mark)
	}
	if c.Mark > p.End && o.Complete {
		at(c.Mark, "mark_beyond_end", "the low-water mark is %d, but the topic ends at %d", c.Mark, p.End)
	}
	if c.Horizon < c.Mark {
		at(c.Horizon, "horizon_below_mark", "the send horizon is %d, below the low-water mark %d", c.Horizon, c.Mark)
	}
	checkSeen(rep, o, p)
}

// checkSeen compares the cursors that were seen over time with each other and with the last one.
func checkSeen(rep *Report, o *Options, p *part) {
	var last *checkpoint.Cursor
	check := func(c *checkpoint.Cursor) {
		if last != nil {
			// A store that was found to have lost data is rewound, and says so.
			rewound := c.LostBelow > last.LostBelow
			if c.Mark < last.Mark && !rewound {
				rep.add(Finding{Promise: 1, Kind: "mark_moved_back", Topic: p.Topic, Partition: p.Index, Offset: c.Mark,
					Detail: fmt.Sprintf("the low-water mark was %d and then %d", last.Mark, c.Mark)})
			}
			if c.Epoch < last.Epoch {
				rep.add(Finding{Promise: 4, Kind: "epoch_moved_back", Topic: p.Topic, Partition: p.Index, Offset: c.Mark,
					Detail: fmt.Sprintf("the epoch was %d and then %d", last.Epoch, c.Epoch)})
			}
		}
		last = c
	}
	for i := range o.Marks {
		if o.Marks[i].Partition == p.Partition.Partition {
			check(&o.Marks[i])
		}
	}
	switch {
	case p.cursor != nil:
		check(p.cursor)
	case last != nil:
		rep.add(Finding{Promise: 1, Kind: "mark_moved_back", Topic: p.Topic, Partition: p.Index, Offset: last.Mark,
			Detail: fmt.Sprintf("the low-water mark was %d and is gone from the store", last.Mark)})
	}
}

// checkUnchanged: a record may be unchanged only if its state is at the vendor, so another record of its key was
// delivered on the route, or if its event id was seen before. Where the older part of the log has expired, what
// delivered it may have expired too.
func checkUnchanged(rep *Report, h *history) {
	type keyRoute struct {
		part       *part
		key, route string
	}
	delivered := map[keyRoute]bool{}
	for _, p := range h.parts {
		for _, r := range p.records {
			for _, w := range r.rows {
				if effectful(w) || w.outcome == checkpoint.Folded {
					delivered[keyRoute{p, r.key, w.route}] = true
				}
			}
		}
	}
	for _, p := range h.parts {
		for _, r := range p.records {
			if r.control {
				continue // reported as such
			}
			for _, w := range r.rows {
				if w.outcome != checkpoint.Unchanged || p.Start > 0 || len(p.skips) > 0 ||
					delivered[keyRoute{p, r.key, w.route}] || len(h.byEvent[r.eventID]) > 1 {
					continue
				}
				rep.lose(r, Finding{Promise: 1, Kind: "unchanged_without_delivery",
					Detail: fmt.Sprintf("unchanged on route %s, but no record of its key was ever delivered there", w.route)})
			}
		}
	}
}
