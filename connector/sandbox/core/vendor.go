package core

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// A Vendor is one vendor's API. The sandbox calls Parse concurrently and without its lock; every other method with its
// lock held, so a vendor has no locks of its own and does no I/O.
type Vendor interface {
	// Operations is the closed set of operation names, for the filters of faults.
	Operations() []string
	// Counters names the vendor's own counters, so that they are shown at zero.
	Counters() []string
	// DriftFields names the enum fields that the fault drift changes.
	DriftFields() []string

	// Parse routes the request and checks what needs no state: it sets Operation, Key, Reference, Object and Dedup, and
	// keeps the rest in Parsed.
	Parse(r *Request)
	// Serve authenticates, counts quota, validates, recognises repeats and applies.
	Serve(r *Request) Answer
	// ErrorBody is the vendor's error object for a refusal that the sandbox itself makes (a fault, a body too large).
	// retryAfter is what the Retry-After header says, in seconds, 0 if there is none.
	ErrorBody(status int, message string, retryAfter int) []byte

	// Object and Objects read the state for the admin interface. Objects returns up to limit objects of the kind ("" =
	// all) after the position, and the next position, -1 at the end. Their Value must be safe to marshal without lock.
	Object(id string) (Object, bool)
	Objects(kind string, position, limit int) ([]Object, int)

	// Actions are what the admin interface may do to the vendor's state beyond its API.
	Actions() []string
	// Act does one. A *InvalidError is the caller's fault.
	Act(name string, args Fields) (any, error)
	// Tick does what is due by the clock, before every request and every TickEvery (0: never).
	Tick(now time.Time)
	TickEvery() time.Duration

	// Restore takes a row that Record or an Answer has written, in the order written. Reset forgets everything.
	Restore(kind string, row json.RawMessage) error
	Reset()
}

// An Arriver is a Vendor that judges requests by what else is under way, before any delay: it limits concurrency, or
// refuses a repeat of an unfinished request instead of letting it wait.
type Arriver interface {
	// Arrive is called under the lock when a request has been read. underWay counts the unfinished requests of the same
	// Client, this one included; repeat says that one with the same Dedup is unfinished. An answer refuses r.
	Arrive(r *Request, underWay int, repeat bool) *Answer
}

// A Stamper is a Vendor that puts headers on every answer, on those to faults too. Stamp is called without the lock.
type Stamper interface {
	Stamp(r *Request, h http.Header)
}

// An Object is one thing at the vendor as the admin interface shows it.
type Object struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"`
	Reference string `json:"reference"`
	Value     any    `json:"object"`
	Versions  any    `json:"versions,omitempty"` // every applied state in order, where the vendor keeps them
}

// A Request is one API request.
type Request struct {
	Method string
	Path   string
	Query  url.Values // nil if there is none
	Header http.Header
	Body   []byte
	Remote netip.Addr
	Now    time.Time

	// Set by Parse.
	Operation string
	Key       string // idempotency key as the vendor recognises it, for the log
	Reference string
	Object    string
	// Dedup names what makes a repeat of this request the same; "" = nothing does. While one is delayed, another with
	// the same Dedup waits for it, or is refused by the vendor's Arrive.
	Dedup  string
	Client string        // whose request it is, for Arrive
	Delay  time.Duration // the vendor itself takes so long, before the commit
	Refs   []string      // references of the items of a batch, for the filters of faults
	Parsed any

	release func() // ends the claim on Dedup; the lock must be held
}

// Bearer returns the bearer credential, "" if there is none.
func (r *Request) Bearer() string {
	const scheme = "bearer "
	h := r.Header.Get("Authorization")
	if len(h) > len(scheme) && strings.EqualFold(h[:len(scheme)], scheme) {
		return strings.TrimSpace(h[len(scheme):])
	}
	return ""
}

func (r *Request) matches(sub string) bool {
	return strings.Contains(r.Object, sub) || strings.Contains(r.Reference, sub) || strings.Contains(r.Key, sub) ||
		slices.ContainsFunc(r.Refs, func(ref string) bool { return strings.Contains(ref, sub) })
}

// An Answer is what a vendor answers and what that did.
type Answer struct {
	Status int
	// Body is the rendered body; nil: Value is rendered as JSON, without the lock.
	Body   []byte
	Value  any
	Header []HeaderField
	Effect Effect
	// Object, Reference and Key go into the log instead of the request's, if not empty.
	Object, Reference, Key string
	// Rows are kept when the sandbox persists its state.
	Rows []Row
	// Hangup closes the connection instead of answering; it is logged as status 0.
	Hangup bool
	// Items are logged instead of the request, one line each, if there are any: the answer is that of a batch.
	Items []Item
}

// An Item is what one item of a batch did. Its fields are as in Entry.
type Item struct {
	Operation string `json:"operation"`
	Object    string `json:"object,omitempty"`
	Reference string `json:"reference,omitempty"`
	Key       string `json:"key,omitempty"`
	Status    int    `json:"status"`
	Effect    Effect `json:"effect"`
}

// A HeaderField is written with its name as it is.
type HeaderField struct{ Name, Value string }

// A Row is one object's state after a change. The latest row of an object wins.
type Row struct {
	Kind  string `json:"kind"`
	Value any    `json:"row"`
}
