// Package failpoint stops the process, as a power cut would, when it reaches a named state. Only builds with the
// tag failpoint do so (crash tests); in all others Hit does nothing and costs nothing.
//
// WEIR_FAILPOINT=answered=37 kills the process with SIGKILL at the 37th hit of the state answered. The states:
//
//	sent        a request is on the wire whole, its answer not yet read
//	answered    an answer was read, nothing of it settled
//	settling    inside a store transaction, before its commit
//	settled     a batch of outcomes is durable, nobody knows yet
//	parked      a record is in the parked or dead topic, its outcome not settled
//	committing  marks are about to be committed to Kafka
//	committed   they are
package failpoint
