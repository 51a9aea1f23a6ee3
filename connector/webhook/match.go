package webhook

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
)

// A match is the outbound record that caused an event.
type match struct {
	row checkpoint.Row
	by  string // idempotency_key, vendor_id or reference
	key string // idempotency key of the request, "" if it has none or which one it was is not known
	// last is when we last sent something for the object, zero if it is not known.
	last time.Time
}

// matchRowsMax bounds the ledger rows that one look-up reads: the newest of an object that has more.
const matchRowsMax = 100

// matchPauses are the shares of MatchWait after which a look-up is repeated.
var matchPauses = [...]float64{0.1, 0.3, 0.6}

// find looks for the cause of an event, again for a while if there is none: the event may have come before the answer
// of the request that caused it. After a wait that was in vain the next ones are left out for some time, so that a
// stream of events that we did not cause is not slowed down.
func (s *Server) find(ctx context.Context, src *Source, n *profile.Notice) (*match, error) {
	if n.IdempotencyKey == "" && n.VendorID == "" && n.Reference == "" {
		return nil, nil
	}
	m, err := s.lookup(ctx, src, n)
	if m != nil || err != nil || s.cfg.MatchWait <= 0 || s.now().UnixNano() < src.noWaitUntil.Load() {
		return m, err
	}
	for _, share := range matchPauses {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(share * float64(s.cfg.MatchWait))):
		}
		if m, err = s.lookup(ctx, src, n); m != nil || err != nil {
			return m, err
		}
	}
	src.noWaitUntil.Store(s.now().Add(10 * s.cfg.MatchWait).UnixNano())
	return nil, nil
}

func (s *Server) lookup(ctx context.Context, src *Source, n *profile.Notice) (*match, error) {
	for _, l := range []struct {
		by, id string
		pick   func(rows []checkpoint.Row, id string) *match
	}{
		{"idempotency_key", n.IdempotencyKey, byKey},
		{"vendor_id", n.VendorID, byVendorID},
		{"reference", n.Reference, byReference},
	} {
		if l.id == "" {
			continue
		}
		ids := []string{l.id}
		if i := strings.LastIndexByte(l.id, '.'); l.by == "reference" && i > 0 {
			ids = append(ids, l.id[:i]) // <entity id>.<version>
		}
		for _, id := range ids {
			rows, err := s.cfg.Store.Find(ctx, id, matchRowsMax)
			if err != nil {
				return nil, fmt.Errorf("look up the cause of an event: %w", err)
			}
			rows = slices.DeleteFunc(rows, func(r checkpoint.Row) bool { return r.Partition.Connector != src.Connector })
			if m := l.pick(rows, l.id); m != nil {
				m.by, m.last = l.by, lastSent(rows)
				return m, nil
			}
		}
	}
	return nil, nil
}

// byKey picks the newest record that planned a request with the key.
func byKey(rows []checkpoint.Row, key string) *match {
	for _, r := range slices.Backward(rows) {
		if slices.ContainsFunc(r.Plan, func(s checkpoint.Step) bool { return s.IdempotencyKey == key }) {
			return &match{row: r, key: key}
		}
	}
	return nil
}

// byVendorID picks the newest record that was sent for the object, else the newest that names it.
func byVendorID(rows []checkpoint.Row, id string) *match {
	best := -1
	for i, r := range slices.Backward(rows) {
		switch {
		case r.VendorID != id && r.Outcome != "":
			continue
		case sent(&r):
			return &match{row: r, key: onlyKey(&r)}
		case best < 0:
			best = i
		}
	}
	if best < 0 {
		// The id is not the main one of any record, but one of an entity's: the newest that was sent for it.
		for _, r := range slices.Backward(rows) {
			if sent(&r) {
				return &match{row: r, key: onlyKey(&r)}
			}
		}
		return nil
	}
	return &match{row: rows[best], key: onlyKey(&rows[best])}
}

// byReference picks the record that a reference names: our <entity id>.<version>, an entity id or a natural key.
func byReference(rows []checkpoint.Row, ref string) *match {
	entity, version := ref, int64(0)
	if i := strings.LastIndexByte(ref, '.'); i > 0 {
		if v, err := strconv.ParseInt(ref[i+1:], 10, 64); err == nil && v > 0 {
			entity, version = ref[:i], v
		}
	}
	for _, r := range slices.Backward(rows) {
		if r.Event.Key == entity && version > 0 && r.Event.Version == version {
			return &match{row: r, key: onlyKey(&r)}
		}
	}
	for _, r := range slices.Backward(rows) {
		if r.Event.Key == ref && sent(&r) {
			return &match{row: r, key: onlyKey(&r)}
		}
	}
	return byKey(rows, ref)
}

func sent(r *checkpoint.Row) bool {
	return r.Outcome == checkpoint.Delivered || r.Outcome == checkpoint.Accepted
}

func onlyKey(r *checkpoint.Row) string {
	if len(r.Plan) == 1 {
		return r.Plan[0].IdempotencyKey
	}
	return ""
}

// lastSent is the time of the newest request in rows.
func lastSent(rows []checkpoint.Row) (at time.Time) {
	for i := range rows {
		for _, a := range rows[i].Attempts {
			if a.Verdict != checkpoint.VerdictWebhook && a.At.After(at) {
				at = a.At
			}
		}
	}
	return at
}

// isEcho reports whether an event reports what we did ourselves: it happened within n.Echo of our last request for its
// object, by two clocks, so either way.
func (m *match) isEcho(n *profile.Notice, occurred time.Time) bool {
	return m != nil && n.Echo > 0 && !m.last.IsZero() && occurred.Sub(m.last).Abs() <= n.Echo
}
