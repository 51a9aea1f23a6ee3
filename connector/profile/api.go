package profile

import (
	"net/http"
	"time"

	"github.com/weirsync/weir/schema"
)

// Semantics of a route: what its events mean to the vendor.
type Semantics string

// The two semantics (design section 5).
const (
	Latest Semantics = "latest" // full state: only the newest matters
	Every  Semantics = "every"  // each event is an effect of its own
)

// Class says what an operation's repeat does at the vendor (design section 6).
type Class string

// The three classes.
const (
	ClassKey       Class = "key"       // the vendor recognises our key
	ClassOverwrite Class = "overwrite" // writes the same state again
	ClassNone      Class = "none"      // a second effect
)

// A Verdict is how one answer reads.
type Verdict string

// The closed set of verdicts.
const (
	Accept        Verdict = "accept"
	AcceptPending Verdict = "accept_pending" // final by webhook or probe
	Duplicate     Verdict = "duplicate"      // the vendor had it already: as good as accept
	Reject        Verdict = "reject"         // a definite refusal of this record
	Conclude      Verdict = "conclude"       // ends the plan: outcome ignored, with a reason
	Retry         Verdict = "retry"
	Throttle      Verdict = "throttle"
	Halt          Verdict = "halt" // the credential, not the record
	Gone          Verdict = "gone" // the operation no longer exists: configuration, not the record
	// Conflict: the object has changed since it was read. The plan goes back to its read, once.
	Conflict Verdict = "conflict"
)

// Input is what a route's expressions see. The maps are read only.
type Input struct {
	Event      *schema.Event
	IDs        map[string]string // vendor ids of the entity itself
	Remembered map[string]string
	Refs       map[string]Ref // resolved references, by the name that the route gives them
}

// A Ref is the state of an entity that another one refers to.
type Ref struct {
	IDs        map[string]string
	Remembered map[string]string
}

// A Need is a reference that must be resolved before a plan's steps can be built.
type Need struct {
	Name   string // the route's name for it
	Entity string
	Key    string
	ID     string // the vendor id that the steps use, e.g. user_id
}

// A Refusal is the profile's own definite "no" to an event: it does not fit the vendor.
type Refusal struct {
	Reason   string // stable snake_case word, e.g. not_a_person
	Path     string // of the field to blame, if any
	Guidance string // plain words for the person who will read it
}

func (r *Refusal) Error() string {
	if r.Path == "" {
		return r.Reason
	}
	return r.Reason + " at " + r.Path
}

// A Plan is what one event means to the vendor. Exactly one of Ignore, Refuse and Steps is set.
type Plan struct {
	Ignore string // reason of outcome ignored
	Refuse *Refusal
	Steps  []*Step
	Needs  []Need
	// Ends are vendor ids that an ignored event ends, as Step.Ends: they are forgotten with the fingerprint and
	// the next generation opens.
	Ends []string
	// Leaves is what an ignored event leaves to remember, nil for nothing.
	Leaves *Result
}

// A Request is one built vendor request, without credentials.
type Request struct {
	Operation *Operation
	Step      string
	Method    string
	Path      string // with query, relative to the base URL
	Header    http.Header
	Body      []byte
	// Anonymous: it carries no credential.
	Anonymous bool
	// IdempotencyKey is what the vendor recognises a repeat by; "" for classes overwrite and none.
	IdempotencyKey string
	// Fingerprint is the SHA-256, in hexadecimal, of the canonical request without its idempotency header.
	Fingerprint string
	// Entity is the id of the entity that it is about.
	Entity string
	// Reference is the value of the field that names entity and revision at the vendor, "" if there is none.
	Reference string
}

// An Answer is a vendor's answer, its body bounded.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
	At     time.Time // when it arrived
}

// A Judgement is an answer as the profile reads it.
type Judgement struct {
	Verdict  Verdict
	Reason   string // snake_case
	Guidance string
	// NoEffect: this answer proves that the vendor did nothing, so even class none may be sent again.
	NoEffect bool
	// Wait is what the vendor asked for (Retry-After, rate-limit reset, the body), 0 if it asked for nothing; clamped.
	Wait time.Duration
	// Then is what verdict conflict is when reading again does not help.
	Then Verdict
	// Lowers names the concurrency limit that a throttle says is too high, "" if it says nothing of the kind.
	Lowers string
}

// A Result is what an accepted answer, or an ignored event, leaves to remember. An empty text means that what was
// known under the name is to be forgotten.
type Result struct {
	IDs        map[string]string
	Remembered map[string]string
	VendorID   string // the main one
}

// A Usage is what an answer's rate-limit headers say, -1 where they say nothing.
type Usage struct {
	Limit     int
	Remaining int
	Reset     time.Time // zero: not said
}
