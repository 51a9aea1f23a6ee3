package verify

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

// A digest is SHA-256 over a record's key, value and own headers, each with its length; null and empty differ.
type digest [sha256.Size]byte

func digestOf(key, value []byte, headers []schema.Header) digest {
	h := sha256.New()
	field := func(b []byte) {
		var n [8]byte
		size := uint64(len(b)) + 1
		if b == nil {
			size = 0
		}
		binary.BigEndian.PutUint64(n[:], size)
		h.Write(n[:])
		h.Write(b)
	}
	field(key)
	field(value)
	for _, k := range headers {
		if strings.HasPrefix(k.Key, headerPrefix) {
			continue
		}
		field([]byte(k.Key))
		field(append([]byte{}, k.Value...)) // a header's empty and null value are the same to Kafka's clients
	}
	return digest(h.Sum(nil))
}

// Headers that Weir adds to copies (design section 17).
const (
	headerPrefix  = "weir_"
	headerOrigin  = "weir_origin"
	headerOutcome = "weir_outcome"
	headerCause   = "weir_cause"
)

// A copied is one record of the parked or dead topic, reduced.
type copied struct {
	topic     string
	partition int32
	offset    int64
	outcome   string
	cause     string
	digest    digest
}

func (h *history) addCopy(topic string, c Copy) {
	if h.copies == nil {
		h.copies = map[string][]copied{}
	}
	header := func(name string) string {
		for _, k := range c.Headers {
			if k.Key == name {
				return string(k.Value)
			}
		}
		return ""
	}
	origin := header(headerOrigin)
	h.copies[origin] = append(h.copies[origin], copied{topic: topic, partition: c.Partition, offset: c.Offset,
		outcome: header(headerOutcome), cause: header(headerCause), digest: digestOf(c.Key, c.Value, c.Headers)})
}

// checkCopies checks promises 1 and 8 over one partition: what was parked or dead-lettered is kept, whole.
func checkCopies(rep *Report, h *history, p *part) {
	for _, r := range p.records {
		if r.control {
			continue
		}
		for _, w := range r.rows {
			switch w.outcome {
			case checkpoint.ParkedOut:
				entry := h.entry(r, w)
				if entry == nil {
					rep.find(r, Finding{Promise: 1, Kind: "parked_without_entry", Detail: "parked on route " + w.route + ", but not in the parked index: nobody can release it"})
				} else if entry.State != checkpoint.ParkedOpen && entry.State != checkpoint.ParkedReleased {
					continue // closed: its copy may be trimmed (design section 7)
				}
				h.checkCopy(rep, r, w)
			case checkpoint.DeadLettered:
				h.checkCopy(rep, r, w)
			}
		}
	}
}

func (h *history) entry(r *record, w *row) *checkpoint.Parked {
	return h.parked[position{r.part.Topic, r.part.Index, r.offset, w.route}]
}

// checkCopy looks for one copy of the record that is as it should be; further ones are harmless.
func (h *history) checkCopy(rep *Report, r *record, w *row) {
	all := h.copies[r.origin()]
	right := slices.DeleteFunc(slices.Clone(all), func(c copied) bool { return c.outcome != string(w.outcome) })
	switch {
	case len(right) == 0:
		detail := fmt.Sprintf("%s on route %s, but no copy of it exists", w.outcome, w.route)
		if len(all) > 0 {
			detail = fmt.Sprintf("%s on route %s, but its copy at %s/%d/%d says %q", w.outcome, w.route, all[0].topic, all[0].partition, all[0].offset, all[0].outcome)
		}
		rep.lose(r, Finding{Promise: 1, Kind: string(w.outcome) + "_without_copy", Detail: detail})
		return
	case !r.gone && !slices.ContainsFunc(right, func(c copied) bool { return c.digest == r.digest }):
		rep.lose(r, Finding{Promise: 1, Kind: "copy_differs", Detail: fmt.Sprintf("the copy at %s/%d/%d differs from the record in key, value or headers", right[0].topic, right[0].partition, right[0].offset)})
	}
	for _, c := range right {
		if !knownCause(c.outcome, checkpoint.Cause(c.cause)) {
			rep.find(r, Finding{Promise: 8, Kind: "unknown_cause", Detail: fmt.Sprintf("the copy at %s/%d/%d has cause %q, which is not one of the closed set", c.topic, c.partition, c.offset, c.cause)})
		}
	}
}

func knownCause(outcome string, c checkpoint.Cause) bool {
	switch c {
	case checkpoint.CauseRejected, checkpoint.CauseExhausted, checkpoint.CauseAmbiguous, checkpoint.CauseHeld,
		checkpoint.CauseMissingReference, checkpoint.CauseReferenceDeleted, checkpoint.CauseVersionRegression,
		checkpoint.CauseKeyReuse, checkpoint.CauseTenantMismatch:
		return outcome == string(checkpoint.ParkedOut)
	case checkpoint.CauseFraming, checkpoint.CauseSchema, checkpoint.CauseRule, checkpoint.CauseNoKey,
		checkpoint.CauseKeyMismatch, checkpoint.CauseTooLarge, checkpoint.CauseTombstone:
		return outcome == string(checkpoint.DeadLettered)
	}
	return false
}

// checkEntries goes the other way: an open entry belongs to a parked (or, holding its key, dead-lettered) record,
// and a copy to a record.
func checkEntries(rep *Report, o *Options, h *history) {
	parts := map[string]*part{}
	at := map[string]map[int64]*record{}
	for _, p := range h.parts {
		name := p.Partition.String()
		parts[name] = p
		at[name] = map[int64]*record{}
		for _, r := range p.records {
			if len(r.rows) > 0 || !r.gone {
				at[name][r.offset] = r
			}
		}
	}
	for pos, e := range h.parked {
		if e.State != checkpoint.ParkedOpen {
			continue
		}
		p := parts[fmt.Sprintf("%s/%d", pos.topic, pos.index)]
		if p == nil || p.Partition.ID != e.Position.Partition.ID {
			continue // of a topic that was deleted, or that the connector no longer reads
		}
		var w *row
		if r := at[p.Partition.String()][pos.offset]; r != nil {
			w = r.on(pos.route)
		}
		if w == nil && !o.Complete {
			continue // parked while the check was reading
		}
		if w == nil || (w.outcome != checkpoint.ParkedOut && w.outcome != checkpoint.DeadLettered) {
			rep.add(Finding{Promise: 1, Kind: "entry_without_outcome", Topic: pos.topic, Partition: pos.index, Offset: pos.offset, EventID: e.EventID, Key: e.EntityKey.Key,
				Detail: "an open entry of the parked index on route " + pos.route + " whose record is not parked: it holds its key for nothing"})
		}
	}
	for origin, cs := range h.copies {
		name, off, ok := parseOrigin(origin)
		if !ok {
			rep.add(Finding{Promise: 10, Kind: "copy_without_origin", Topic: cs[0].topic, Partition: cs[0].partition, Offset: cs[0].offset,
				Detail: fmt.Sprintf("header %s is %q, not topic/partition/offset", headerOrigin, origin)})
			continue
		}
		p := parts[name]
		if p == nil || off < p.Start || p.Compacted || at[name][off] != nil || (off >= p.End && !o.Complete) {
			continue
		}
		rep.add(Finding{Promise: 10, Kind: "copy_without_record", Topic: cs[0].topic, Partition: cs[0].partition, Offset: cs[0].offset,
			Detail: fmt.Sprintf("copy of %s, where the topic has no committed record", origin)})
	}
}

// parseOrigin splits topic/partition/offset into topic/partition and offset. A topic name has no slash.
func parseOrigin(s string) (name string, offset int64, ok bool) {
	at := strings.LastIndexByte(s, '/')
	if at <= 0 || strings.Count(s, "/") != 2 {
		return "", 0, false
	}
	offset, err := strconv.ParseInt(s[at+1:], 10, 64)
	return s[:at], offset, err == nil && offset >= 0
}
