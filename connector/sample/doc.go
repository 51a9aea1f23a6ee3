// Package sample makes realistic canonical events of customers, contracts and invoices, for demos, tests and
// benchmarks. It is deterministic: the same [Options] give the same events and the same bytes, on every machine.
//
// The model. A step picks a customer with Zipf skew, so that some keys are hot, and lets the next thing happen to
// it: it appears, changes, signs a contract, gets an invoice, an open invoice goes one step further on its way, or
// something is deleted. Every event carries the whole state of its entity and a version that is one higher than
// the one before. An invoice goes one of a few ways through its life, among them open, amount changed, back to the
// first amount, paid: a connector that takes a content hash for the intent would answer the third with the
// cancelled first.
//
// Events are written in the newest versions of the schemas, those of [Options.OlderShare] in an older one, and keep the rules beside them, but for the share that [Options.InvalidShare]
// asks for. All names are made up, all mail addresses are at example.com, .net and .org (RFC 2606), all phone
// numbers are 555-01xx, which are set aside for fiction.
//
// Event ids differ between seeds; entity ids do not: events of two seeds in one topic are versions of the same
// entities.
package sample
