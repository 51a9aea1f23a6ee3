// Package schema is the contract of Weir's events: the versioned Avro schemas of the canonical entities, the
// decoder that turns a Kafka record into an Event, the rules an event must keep, and the encoder for those who
// publish (design section 4).
//
// # Model
//
// A Set holds every version of every entity's schema: the embedded files of avsc/ and, without a rebuild, those
// of further directories. The newest version of an entity is its reader schema; all older ones stay readable for
// ever. A record's writer schema is found by id, GUID or fingerprint through a Lookup: the Set itself, or a
// registry (package registry).
//
// # How a value is read
//
//	framing -> writer schema -> soundness -> goavro -> projection -> envelope and key -> rules
//
// Soundness is a walk over the bytes with the writer schema, without allocation, before goavro sees them: goavro
// trusts block counts, cuts integers that are too wide and recurses without a bound, and what it would do with
// unsound bytes is therefore never asked. goavro gets a normalised text of the writer schema: no defaults, no
// logical types, types renamed (design section 15 lists what it trips over), so that it only splits bytes into
// plain values. The projection, compiled once per pair of writer and reader, then brings these to the reader
// schema by the Avro specification's rules of schema resolution and applies logical types exactly.
//
// # What is trusted, and how it fails
//
// A record is not trusted: whatever its bytes are, Decode answers with an Event, a *RefusedError (this record is
// bad: it is dead-lettered), an *AheadError (the record is good, this build is too old: its partition is held) or
// another error (the environment, as a registry that does not answer: the record waits). It does not panic, and
// what it allocates is bounded by DecoderOptions. The schemas of a Set and the rule files are trusted after they
// were checked at load: a mistake there is an error of NewSet or NewRules.
//
// No error of this package about a record holds a value of that record, a map key included: promise 9. Errors of
// Encode show values of fields that are not personal data, since they go to those who wrote them.
//
// # Invariants
//
//  1. What Decode accepts, Encode accepts, and Decode reads it back as an equal event.
//  2. No number is rounded, cut or reinterpreted on the way: it is exact or refused (promise 8).
//  3. A Decode keeps nothing of the record's slices.
//  4. A schema id names one text for ever.
package schema
