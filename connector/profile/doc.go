// Package profile says what is true of one vendor: where its API is, what each operation does when it is repeated,
// how its answers read, what it allows per hour, and what the canonical events mean to it. All of that is one YAML
// file per vendor (FORMAT.md); this package reads the file, checks it, and compiles it into requests.
//
// # Model
//
// A [Profile] is a file that is sound in itself. [Profile.Compile] checks its expressions against the current event
// schemas and against the declared requests, and gives a [Compiled] mapping. For an event, [Route.Plan] chooses the
// first case that fits: ignore it, refuse it, or send steps. [Step.Build] makes a step's request, [Operation.Judge]
// reads its answer, [Step.Result] says what to remember of it. Nothing here sends, waits or stores: the caller
// does, and it decides about repeats by [Operation.Class].
//
// # What is trusted, and how it fails
//
// The file is written by people: whatever is wrong with it is found at load, all of it at once, each with file, line,
// column, reason and hint ([Errors]). An unknown key, an event field that no schema has, a text where the
// vendor takes an integer, a status that an enum never has, a case that is never reached: all are errors, none is a
// default. The event is not trusted to fit the vendor: what a mapping cannot read is a [Refusal] that names
// the field, never a crash and never a value that was made up (promise 8). The answer is not trusted at all: a
// condition that cannot be evaluated does not hold, and an accepted answer without the id that it should carry is an
// error. No error and no refusal holds a value of an event, of an answer or of a secret (promise 9).
//
// # Invariants
//
//  1. A mapping has no clock and no randomness: the same event, state and mapping version give the same bytes, in
//     this process and in the next (design section 6). [CompileText] rebuilds an old mapping version from its text.
//  2. A key depends on connector, route, step, intent and generation and on nothing else. Its bytes never change.
//  3. A fingerprint covers method, path and body, and not the generated key.
//  4. Only a verdict that says so proves that the vendor did nothing.
//
// # To come
//
// The format grows by batches and aggregate routes; each is a further key or a further value, so that a file of today
// stays sound.
package profile
