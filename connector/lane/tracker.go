package lane

import (
	"fmt"
	"sort"
)

// A Tracker knows which records of one partition have no outcome yet. Offsets are compared, not counted:
// compaction and aborted transactions leave holes.
type Tracker struct {
	entries []entry // sorted by offset; entries[:head] are free
	head    int
	next    int64 // the offset after the highest one added
	records int
	bytes   int64
}

type entry struct {
	offset int64
	left   int32 // routes without a durable outcome
	bytes  int32
}

// NewTracker tracks a partition that is read from the offset start on.
func NewTracker(start int64) *Tracker { return &Tracker{next: start} }

// Add takes a record with a number of outcomes to wait for, which may be 0 (a transaction marker, or a record
// that was settled before). Offsets must rise.
func (t *Tracker) Add(offset int64, outcomes int, bytes int) {
	if offset < t.next {
		panic(fmt.Sprintf("lane: offset %d added after %d", offset, t.next-1))
	}
	t.next = offset + 1
	if outcomes == 0 && t.head == len(t.entries) {
		return
	}
	t.entries = append(t.entries, entry{offset: offset, left: int32(outcomes), bytes: int32(bytes)})
	if outcomes > 0 {
		t.records++
		t.bytes += int64(bytes)
	}
}

// Settle notes one outcome of a record. It reports whether the low-water mark moved.
func (t *Tracker) Settle(offset int64) bool {
	live := t.entries[t.head:]
	i := sort.Search(len(live), func(i int) bool { return live[i].offset >= offset })
	if i == len(live) || live[i].offset != offset || live[i].left == 0 {
		panic(fmt.Sprintf("lane: offset %d settled that is not pending", offset))
	}
	live[i].left--
	if live[i].left > 0 {
		return false
	}
	t.records--
	t.bytes -= int64(live[i].bytes)
	if i > 0 {
		return false
	}
	for t.head < len(t.entries) && t.entries[t.head].left == 0 {
		t.head++
	}
	if t.head == len(t.entries) {
		t.entries, t.head = t.entries[:0], 0
	} else if t.head > 1024 && t.head > len(t.entries)/2 {
		t.entries = append(t.entries[:0], t.entries[t.head:]...)
		t.head = 0
	}
	return true
}

// Low is the low-water mark: every record below it that was added has all its outcomes (promise 1).
func (t *Tracker) Low() int64 {
	if t.head < len(t.entries) {
		return t.entries[t.head].offset
	}
	return t.next
}

// Next is the offset after the highest one added.
func (t *Tracker) Next() int64 { return t.next }

// Pending is the number of records without all their outcomes, and their bytes.
func (t *Tracker) Pending() (records int, bytes int64) { return t.records, t.bytes }
