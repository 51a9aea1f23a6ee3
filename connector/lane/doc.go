// Package lane keeps the order of records: one queue per key with at most one operation in flight, and per
// partition a tracker of pending offsets that yields the low-water mark.
//
// The model. A [Set] belongs to one assignment of one partition: it is made when the partition is assigned and
// dropped when it is taken away, so the lanes of an earlier ownership can never act again (promise 4). A record
// becomes one [Task] per route. The tasks of one key stand in one queue in offset order. Only the head of a
// lane may be worked on, and it leaves its lane only when its outcome is durable, so no request for an older
// event starts after one for a newer one (promise 2).
//
// On routes of semantics latest an older task that was never started is superseded by a newer one that could be
// sent. A task that was started, or may have been before a restart (suspect), is never superseded.
//
// The package does no I/O, starts no goroutine and reads no clock. A Set is not safe for concurrent use: the
// connector's loop owns it.
package lane
