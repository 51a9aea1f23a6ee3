// Package connector runs one vendor connection: it reads canonical events from Kafka, plans what each means to
// the vendor, sends it in per-key order, and settles what became of it.
//
// The promises (design section 2), cited by number where they are enforced:
//
//  1. No loss. A Kafka offset is committed only below the low-water mark: every record under it has a durable
//     outcome for each of its routes.
//  2. Order per key. Within one generation no request for an older event starts after one for a newer event,
//     save repeats that the vendor's key or object makes harmless.
//  3. One effect. An intended effect happens at most once where its operation is idempotent; where it is not, an
//     ambiguous send is never repeated on its own: it is parked with cause ambiguous.
//  4. One owner. Only the owner of a partition starts requests for it.
//  5. Quota. A declared limit is never exceeded over any window.
//  6. Bounded. Every queue, buffer, retry, wait and body has a limit.
//  7. Outage is not poison. A failing vendor pauses sending and is probed; a failing record never stops another key.
//  8. Nothing silent. Invalid data is refused with path, rule and reason; nothing refused is lost.
//  9. No leaks. No secret and no personal data in a log, metric, error text or header.
//  10. Traceable. From any id you reach the whole story.
//
// The model. A [Connector] is an actor: one goroutine, the loop, owns all lanes, trackers and decisions, so they
// need no locks. Everything that takes time happens elsewhere and comes back to the loop as a message:
//
//	intake (one per partition)  reads ledger and states, decodes, hands records to the loop in offset order
//	worker (one per request)    plans, builds, begins, sends and judges one task; parks one record
//	flusher (at most one)       settles everything that the loop decided since the last flush, in one transaction
//	committer (at most one)     commits durable low-water marks to Kafka
//
// A record passes: intake -> lane -> worker -> settled by the loop -> durable -> out of its lane, mark moves.
// A lane's next task starts only when the one before it is durable.
//
// How it fails. Store, Kafka, registry or vendor away: everything waits, nothing is lost, and [Connector.Status]
// says since when and why. A broken invariant of ours or a corrupt store ends Run with an error.
package connector
