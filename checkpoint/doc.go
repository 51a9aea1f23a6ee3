// Package checkpoint keeps what became of every record: the ledger of outcomes, the low-water marks and
// send horizons of partitions, entity state, begun sends, plans, waiters and the parked index.
//
// The model. A connector reads partitions. Each record gets one outcome per route, kept in the ledger under
// (connector, topic id, partition, offset, route). The low-water mark of a partition is the offset below which
// every record has a durable outcome for each of its routes; a Kafka offset is committed only up to it (promise 1).
// The send horizon is an offset that was durable before any record at or above it was dispatched: after a crash
// an outcome-less record below the horizon may have been sent (it is suspect), one at or above it was not.
//
// A send that must never be repeated blindly has a [Begin] that is durable before its first byte; a begun send
// without an outcome is ambiguous. A plan of several steps is durable before its first step and is never
// planned again; finished steps are durable before the next one starts.
//
// Every write names the [Lease] it is made under. Only a higher epoch refuses a write, per partition, never a
// whole batch.
//
// What is trusted: the store's own transactions. Durable means that a power cut after the call has returned
// loses nothing of it. The store holds no payloads, only remembered vendor ids and fields, and masked, bounded
// excerpts of vendor answers.
package checkpoint
