package core

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"
)

// An Effect says what a request did to the vendor's state.
type Effect string

// The closed set of effects (design section 17).
const (
	Applied  Effect = "applied"  // state changed
	Replayed Effect = "replayed" // recognised as a repeat: the earlier answer, no change
	Rejected Effect = "rejected" // refused or lost before it could change anything
	Read     Effect = "read"     // a read
)

func (e Effect) valid() bool { return e == Applied || e == Replayed || e == Rejected || e == Read }

// An Entry is one line of the effects log.
type Entry struct {
	Seq            int64  `json:"seq"` // from 1, in the order of application, without holes
	At             string `json:"at"`  // RFC 3339 with microseconds, UTC
	Vendor         string `json:"vendor"`
	Operation      string `json:"operation"`
	Object         string `json:"object"`          // vendor object id, "" if there is none
	Reference      string `json:"reference"`       // the caller's own name of the object
	IdempotencyKey string `json:"idempotency_key"` // as the caller sent it
	Status         int    `json:"status"`          // as answered; 0: the connection was closed without an answer
	Effect         Effect `json:"effect"`
}

const entryTime = "2006-01-02T15:04:05.000000Z"

// A DroppedError says that log entries were asked for that EffectsMax has dropped.
type DroppedError struct{ First int64 }

func (e *DroppedError) Error() string {
	return fmt.Sprintf("effects before seq %d were dropped: ask for since=%d or more, or raise the bound of the effects log (EffectsMax)", e.First, e.First-1)
}

// entry is the compact form that is kept.
type entry struct {
	at                                int64 // Unix microseconds
	operation, object, reference, key string
	status                            int16
	effect                            Effect
}

const chunkEntries = 4096

// effectsLog keeps entries in chunks so that growth copies nothing and readers need the lock only for the slice
// headers. Guarded by the sandbox's lock.
type effectsLog struct {
	vendor string
	max    int
	first  int64 // seq of the first entry kept
	n      int   // entries kept
	chunks [][]entry
}

func newEffectsLog(vendor string, maxEntries int) *effectsLog {
	return &effectsLog{vendor: vendor, max: maxEntries, first: 1}
}

func (l *effectsLog) last() int64 { return l.first + int64(l.n) - 1 }

func (l *effectsLog) append(e entry) int64 {
	if k := len(l.chunks); k == 0 || len(l.chunks[k-1]) == chunkEntries {
		l.chunks = append(l.chunks, make([]entry, 0, chunkEntries))
	}
	k := len(l.chunks) - 1
	l.chunks[k] = append(l.chunks[k], e)
	l.n++
	// Whole chunks are dropped: the bound may be exceeded by less than one chunk.
	if l.max > 0 && l.n-chunkEntries >= l.max {
		l.chunks[0] = nil
		l.chunks = l.chunks[1:]
		l.first += chunkEntries
		l.n -= chunkEntries
	}
	return l.last()
}

// since returns up to limit entries after seq, read only and valid without the lock, and the seq of the first of them.
func (l *effectsLog) since(seq int64, limit int) ([]entry, int64, error) {
	if seq+1 < l.first {
		return nil, 0, &DroppedError{First: l.first}
	}
	if seq >= l.last() || limit <= 0 {
		return nil, seq + 1, nil
	}
	i := int(seq + 1 - l.first)
	c := l.chunks[i/chunkEntries][i%chunkEntries:]
	if len(c) > limit {
		c = c[:limit]
	}
	return c[:len(c):len(c)], seq + 1, nil
}

func (l *effectsLog) public(e entry, seq int64) Entry {
	return Entry{
		Seq: seq, At: time.UnixMicro(e.at).UTC().Format(entryTime), Vendor: l.vendor, Operation: e.operation,
		Object: e.object, Reference: e.reference, IdempotencyKey: e.key, Status: int(e.status), Effect: e.effect,
	}
}

// appendEntry appends e as a JSON object in the order of the contract, without a newline.
func appendEntry(b []byte, vendor string, e *entry, seq int64) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendInt(b, seq, 10)
	b = append(b, `,"at":"`...)
	b = time.UnixMicro(e.at).UTC().AppendFormat(b, entryTime)
	b = append(b, `","vendor":`...)
	b = AppendString(b, vendor)
	b = append(b, `,"operation":`...)
	b = AppendString(b, e.operation)
	b = append(b, `,"object":`...)
	b = AppendString(b, e.object)
	b = append(b, `,"reference":`...)
	b = AppendString(b, e.reference)
	b = append(b, `,"idempotency_key":`...)
	b = AppendString(b, e.key)
	b = append(b, `,"status":`...)
	b = strconv.AppendInt(b, int64(e.status), 10)
	b = append(b, `,"effect":"`...)
	b = append(b, e.effect...)
	return append(b, `"}`...)
}

// parseEntry reads what appendEntry wrote.
func parseEntry(line []byte) (entry, int64, error) {
	var p Entry
	if err := json.Unmarshal(line, &p); err != nil {
		return entry{}, 0, err
	}
	at, err := time.Parse(time.RFC3339Nano, p.At)
	if err != nil {
		return entry{}, 0, err
	}
	if p.Seq < 1 || !p.Effect.valid() || p.Status < 0 || p.Status > 999 {
		return entry{}, 0, errors.New("not a line of an effects log")
	}
	return entry{at: at.UnixMicro(), operation: p.Operation, object: p.Object, reference: p.Reference,
		key: p.IdempotencyKey, status: int16(p.Status), effect: p.Effect}, p.Seq, nil
}
