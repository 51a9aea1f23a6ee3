// Package webhook takes vendors' calls into Kafka: each verified event becomes a fact on weir.<connector>.facts.
//
// # Model
//
// A [Server] serves POST /webhooks/<connector> for its [Source]s. A call is checked in this order: size, signature over
// the raw body (HMAC-SHA256, constant time, with every secret that is configured), time of the call, and only then its
// content. What the vendor signs, where event, object and status stand and which fact an event is, the profile says
// ([profile.Webhooks]). The fact is matched to the outbound record that caused it, written to Kafka and acknowledged by
// all replicas in sync; after that the evidence goes to the ledger, the event's id to the store, and the answer to the
// vendor.
//
// # Crash and repeats
//
// The id of a fact is a hash of the connector and the vendor's event, so whatever is repeated has the same id: a
// process that ends between Kafka's acknowledgement and the answer makes the vendor call again, and the second fact
// can be dropped by its id. Once the event's id is in the store, a repeat is answered without a second fact. Calls for
// one event that come at once share one attempt.
//
// # How it fails
//
// Kafka or the store away: 503 with Retry-After after a bounded wait, and the vendor calls again: nothing is lost
// that the vendor repeats. A fact whose acknowledgement did not come in time may still be written; its repeat has the
// same id. More calls than [Config.MaxInFlight]: 503 at once. A caller is never trusted: nothing of a call is logged,
// and of its body only declared fields leave this package, after the signature has proved good (promise 9).
//
// A webhook may come before the answer of the request that caused it. Where no record matches, the look-up is repeated
// for at most [Config.MatchWait]; a fact that stays unmatched carries the vendor's ids to join on.
package webhook
