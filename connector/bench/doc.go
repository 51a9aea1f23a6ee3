// Package bench measures Weir beside the loop that it replaces, on the machine that it runs on.
//
// Each figure comes from a run with five processes: this one, the controller; a broker (embedded unless one is given);
// a vendor that answers after a set time and counts; and in turn the two arms, the bare loop and Weir. The bare loop is
// a franz-go consumer and net/http with as many requests in flight, without order, schemas or ledger: the floor. Weir
// is the program as it ships with everything on: Avro, rules, order per key, mapping, durable ledger. All parts are the
// same binary, started again; they answer the controller on stdin and stdout, one JSON line each, and end when their
// stdin does.
//
// Both arms read the same records, alternately, several times; the ratio is taken within each round, so that what else
// the machine does meets both. The first records of each run are not measured: joining the group, opening connections,
// an empty store. CPU, allocations and memory are those of the process of the arm alone.
//
// The vendor judges the run: which records it never saw, saw twice, or saw before an older one of the same key was
// answered.
package bench
