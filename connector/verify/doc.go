// Package verify is the independent checker: it compares what was asked for (the topics), what the connector
// says became of it (the ledger) and what the vendor says it did (its effects log), and reports each place
// where they disagree, by the number of the promise that is broken (design section 2).
//
// It knows nothing of the engine. It imports the words of checkpoint and schema and nothing of lanes, delivery
// or profiles, so that a mistake there cannot hide itself here: what a profile says is handed in as [Options].
//
// What is trusted. The topics are the truth of what was published and in which order. The effects log is the
// truth of what the vendor did and in which order. The ledger is a claim, which is checked against both. The
// checker reads; it never writes.
//
// What is checked:
//
//   - Promise 1, no loss. Every record below the committed offset, below the low-water mark, and (if
//     [Options.Complete]) up to the end has exactly one outcome per route that takes it. An outcome belongs to
//     a record that exists and to that record (event hash). A parked record is in the parked index and its
//     bytes, headers and origin in the parked topic; a dead-lettered one in the dead topic. An unchanged record
//     has another that was delivered, or an event id that was seen before. Commit and mark are not above the
//     first record without outcomes, the commit is not above the mark, marks never move back, a horizon is
//     never below its mark.
//   - Promise 2, order. Per entity and lane the effects are applied in Kafka order of the records that caused
//     them, within one generation; steps of a plan are applied in the order of the plan; a superseded record
//     leads to a newer record of its key that is not itself superseded.
//   - Promise 3, one effect. Each step of a delivered or accepted record is applied once, and nothing else is
//     applied at all.
//
// Intended effects. Two records can mean the same effect: a create whose key is the entity id alone is planned
// again by the second version of the entity. So the unit that is counted is the intended effect, not the
// record: the vendor operation with its idempotency key, else with the reference "<entity id>.<version>",
// else with the vendor object that the step addressed. An intended effect must be applied exactly once however
// many records mean it; it is attributed to the oldest of them (in Kafka order) that may have sent it, and it
// satisfies all of them; the others show up in the vendor's log as replayed, which is harmless and counted.
// An idempotency key that belongs to two entities is a finding, for then one of them lost its effect.
//
// How often an effect may be applied depends on what its repeat does ([Class]): key and none exactly once;
// overwrite again, as long as nothing newer came between (if something did, that is a reorder). A class none
// effect may be applied once more for each generation that an operator opened behind an answer that was lost
// (release with --accept-duplicate).
//
// Who may have effects. Delivered and accepted records have all steps of their plan. Parked records, records
// that an operator skipped and records whose plan was concluded (ignored) have the steps that were finished,
// and one more where a send was left without a definite answer. All others have none.
//
// Limits. Memory grows with the number of records in the topics (about 1 KiB each with its outcome); payloads
// are hashed and dropped. Findings are kept up to [Options.FindingsMax] and counted beyond.
package verify
