// Package core is what every vendor sandbox stands on: the request loop, the log of effects, faults, rate-limit
// windows, webhooks, the admin interface, listeners and files. A vendor is one package over it that implements
// Vendor (pushcash, plain); it names operations, validates, and changes its own state.
//
// # Model
//
// One request goes through these stages:
//
//	route, read body, Parse     no lock: the vendor names operation, idempotency key, reference and object
//	faults                      decide by hash of (seed, operation, key, attempt) what goes wrong
//	refusal | delay | hold      before the commit
//	Serve                       one mutex: authentication, quota, validation, idempotency, change of state, log entry
//	flush                       effects file and journal, group-committed, before the answer leaves
//	hold | delay | answer       after the commit; the answer may be lost or spoilt by a fault
//
// The number of a log entry is given under the lock that also guards the vendor's state, so the order of the log is
// the order in which effects were applied. There is no I/O under that lock.
//
// # Trust
//
// Nothing that a client sends may stop a sandbox: bodies are bounded (1 MiB), every parser is fuzzed. Listeners are
// loopback only unless Options.AllowRemote says otherwise: the admin interface has no authentication.
package core
