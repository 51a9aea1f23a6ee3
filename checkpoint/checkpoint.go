package checkpoint

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// TopicID is Kafka's id of a topic: another one under the same name is another topic.
type TopicID [16]byte

// String is the id in hexadecimal, 32 characters.
func (id TopicID) String() string { return hex.EncodeToString(id[:]) }

// MarshalText is String.
func (id TopicID) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, id[:]), nil }

// UnmarshalText reads what MarshalText writes.
func (id *TopicID) UnmarshalText(b []byte) error {
	if len(b) != 2*len(id) {
		return fmt.Errorf("topic id %q: want %d hexadecimal digits", b, 2*len(id))
	}
	if _, err := hex.Decode(id[:], b); err != nil {
		return fmt.Errorf("topic id %q: %w", b, err)
	}
	return nil
}

// A Partition is one partition as one connector reads it.
type Partition struct {
	Connector string
	Topic     string
	ID        TopicID
	Index     int32
}

// String is topic/index, as in origins.
func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Index) }

// A Lease is the ownership of one partition. Epochs are issued by the store and only grow.
type Lease struct {
	Partition Partition
	Epoch     uint64
}

// A Cursor is where a partition stands.
type Cursor struct {
	Partition Partition
	Epoch     uint64
	// Mark is the low-water mark: every record below it has a durable outcome for each of its routes.
	// -1 means that nothing is known yet.
	Mark int64
	// Horizon is the send horizon: no record at or above it has been dispatched. Never below Mark.
	Horizon int64
	// LostBelow is set when the store was found to have lost data: below it neither a missing outcome nor a
	// missing Begin proves that nothing was sent. 0 means that nothing was lost.
	LostBelow int64
	// Mapping is the mapping version that was in force when the horizon was last raised.
	Mapping string
	// At is when the horizon was last raised.
	At time.Time
}

// An Outcome is a record's final fate on one route (design section 6).
type Outcome string

// The closed set of outcomes.
const (
	Delivered    Outcome = "delivered"
	Accepted     Outcome = "accepted" // the vendor will confirm later
	Unchanged    Outcome = "unchanged"
	Superseded   Outcome = "superseded"
	Folded       Outcome = "folded" // into an aggregate
	Ignored      Outcome = "ignored"
	ParkedOut    Outcome = "parked"
	DeadLettered Outcome = "dead_lettered"
	Skipped      Outcome = "skipped" // jumped over by an operator
)

// Outcomes lists the closed set in the order in which reports show it.
var Outcomes = []Outcome{Delivered, Accepted, Unchanged, Superseded, Folded, Ignored, ParkedOut, DeadLettered, Skipped}

// A Cause says why a record was parked or dead-lettered. Closed set: header weir_cause and a metric label.
type Cause string

// Causes of parked records.
const (
	CauseRejected          Cause = "rejected"           // the vendor or the mapping refused it for good: a definite refusal
	CauseExhausted         Cause = "exhausted"          // attempts or time used up without a definite answer
	CauseAmbiguous         Cause = "ambiguous"          // sent, the answer is lost, and a repeat could double the effect
	CauseHeld              Cause = "held"               // an older record of the key is unresolved
	CauseMissingReference  Cause = "missing_reference"  // the entity it refers to has no vendor id yet
	CauseReferenceDeleted  Cause = "reference_deleted"  // the entity it refers to is deleted
	CauseVersionRegression Cause = "version_regression" // older than what is known of its entity, on an every route
	CauseKeyReuse          Cause = "key_reuse"          // its idempotency key belongs to another request
	CauseTenantMismatch    Cause = "tenant_mismatch"    // its entity belongs to another tenant
)

// Causes of dead-lettered records.
const (
	CauseFraming     Cause = "framing"      // no known Avro framing, or bytes that do not decode
	CauseSchema      Cause = "schema"       // a schema id or fingerprint that the registry does not know
	CauseRule        Cause = "rule"         // a business rule refused it
	CauseNoKey       Cause = "no_key"       // the Kafka record has no key
	CauseKeyMismatch Cause = "key_mismatch" // the Kafka key is not the entity id
	CauseTooLarge    Cause = "too_large"    // larger than the connector takes
	CauseTombstone   Cause = "tombstone"    // a tombstone of an entity that was never seen, so without a tenant
)

// Definite reports whether c is a refusal that proves no effect at the vendor and so leaves nothing unresolved.
func (c Cause) Definite() bool {
	switch c {
	case CauseExhausted, CauseAmbiguous, CauseHeld, CauseMissingReference:
		return false
	}
	return true
}

// Sent says how far a request got.
type Sent string

// The three answers to "may the vendor have seen it?".
const (
	NotSent    Sent = "not_sent"
	AnswerLost Sent = "answer_lost"
	Answered   Sent = "answered"
)

// An Attempt is one request for a record, the first is number 1 over all steps of the plan.
type Attempt struct {
	N        int           `json:"n"`
	At       time.Time     `json:"at"`
	Step     string        `json:"step,omitempty"`
	Status   int           `json:"status"` // HTTP status, 0 without an answer
	Verdict  string        `json:"verdict"`
	Sent     Sent          `json:"sent"`
	Wait     time.Duration `json:"-"` // waited before this attempt, since the one before
	Took     time.Duration `json:"-"`
	Detail   string        `json:"detail,omitempty"`   // masked, at most 256 bytes
	Guidance string        `json:"guidance,omitempty"` // what a person should do, from the profile
}

// VerdictWebhook is the verdict of an Evidence that a vendor's webhook brought: no request of ours, but its confirmation.
const VerdictWebhook = "webhook"

// A Step is one request of a plan.
type Step struct {
	Step      string `json:"step"`
	Operation string `json:"operation"`
	// IdempotencyKey is what the vendor recognises a repeat by, "" where the operation has none.
	IdempotencyKey string `json:"idempotency_key"`
	Generation     uint32 `json:"generation,omitempty"`
	// IDs are the vendor ids that the step was planned with; a plan is never planned again.
	IDs  map[string]string `json:"ids,omitempty"`
	Done bool              `json:"done,omitempty"`
}

// Event is what the ledger keeps of an event beside its outcome: enough for a trace, no payload.
type Event struct {
	ID            string
	Type          string
	Source        string
	CorrelationID string
	Tenant        string
	Entity        string
	Key           string
	Version       int64
	Operation     string // upsert or delete
	OccurredAt    time.Time
	Schema        string // subject/version, "" if it did not decode
}

// A Row is the ledger's entry for one record and route.
type Row struct {
	Partition   Partition
	Offset      int64
	Route       string
	LeaderEpoch int32
	// EventHash is the first 8 bytes of SHA-256 of the event id, big-endian. A row whose hash differs from that
	// of the record at its offset is another record's, not a delivered one (recreated topic, truncated log).
	EventHash    uint64
	Event        Event
	Outcome      Outcome
	Cause        Cause
	Reason       string
	Rule         string // id of the rule that refused it
	Path         string // path of the field that was refused
	SupersededBy string // event id
	VendorID     string // the main id that the vendor gave or that was addressed
	Generation   uint32
	Mapping      string // mapping version
	Plan         []Step
	Attempts     []Attempt
	At           time.Time
}

// An EntityKey names one entity of a connector.
type EntityKey struct {
	Entity string
	Key    string
}

// State is what a connector knows of one entity. Only the owner of the entity's partition writes it.
// A new field must be added to the stores' encoders too (sqlite: appendState); the conformance suite sees one missed.
type State struct {
	EntityKey
	Tenant string
	// Versions holds the newest settled version per route and source system (lane.NoteVersion).
	Versions Table[int64] `json:",omitempty"`
	// LastTopic, LastPartition and LastOffset are where the newest record is that wrote this state.
	LastTopic     TopicID
	LastPartition int32 `json:",omitempty"`
	LastOffset    int64 `json:",omitempty"`
	// Deleted: the newest settled event was a delete. Records that refer to it are parked.
	Deleted bool `json:",omitempty"`
	// IDs are vendor ids by their profile name, e.g. user_id. An entity with a vendor id resolves references. Copies of a
	// State share it and Remembered, so neither is changed once the State has it.
	IDs map[string]string `json:",omitempty"`
	// Remembered are further fields of answers or events that the profile keeps.
	Remembered map[string]string `json:",omitempty"`
	// Routes holds the state per route.
	Routes Table[RouteState] `json:",omitempty"`
}

// RouteState is what one route of a connector knows of one entity.
type RouteState struct {
	// Version of the last delivered state, 0 if none.
	Version int64 `json:",omitempty"`
	// Fingerprint is the SHA-256 of the last delivered request, in hexadecimal, "" if none.
	Fingerprint string `json:",omitempty"`
	// Generation counts deliberate repeats of an intent.
	Generation uint32 `json:",omitempty"`
	// Refused: the last request of this generation was definitely refused, so a newer state opens the next one.
	Refused bool `json:",omitempty"`
	// Open is the number of open parked records of the key on this route.
	Open int `json:",omitempty"`
	// Held: one of them holds the key, so later records are parked behind it.
	Held bool `json:",omitempty"`
	// LateUntil: a request whose answer was lost may still be applied until then (late_apply).
	LateUntil time.Time `json:",omitzero"`
}

// Clone is a copy to change. IDs and Remembered are those of s, which nobody changes: most records leave them as they are,
// see With and Without.
func (s *State) Clone() *State {
	c := *s
	c.Versions = slices.Clone(s.Versions)
	c.Routes = slices.Clone(s.Routes)
	return &c
}

// With is m with other values for the names in more, without those whose value is "". It is m itself if that changes
// nothing, and never changes m.
func With(m, more map[string]string) map[string]string {
	shared := true
	for name, v := range more {
		if m[name] == v {
			continue
		}
		if shared {
			m, shared = grown(m, len(more)), false
		}
		if v == "" {
			delete(m, name)
		} else {
			m[name] = v
		}
	}
	return m
}

// Without is m without some names. It is m itself if it has none of them, and never changes m.
func Without(m map[string]string, names []string) map[string]string {
	shared := true
	for _, name := range names {
		if _, ok := m[name]; !ok {
			continue
		}
		if shared {
			m, shared = maps.Clone(m), false
		}
		delete(m, name)
	}
	return m
}

// grown is a copy of m with room for n more.
func grown(m map[string]string, n int) map[string]string {
	c := make(map[string]string, len(m)+n)
	maps.Copy(c, m)
	return c
}

// A Position is one record on one route.
type Position struct {
	Partition Partition
	Offset    int64
	Route     string
}

// A Begin says, durably and before the first byte, that a send starts: without an outcome it is ambiguous
// after a crash. One with a Plan (more than one step) makes the plan durable too; its Step is then "" if no
// send needs a record of its own.
type Begin struct {
	Lease       Lease
	Offset      int64
	Route       string
	Step        string
	Operation   string
	Key         string // idempotency key, "" for class none
	Fingerprint string
	Generation  uint32
	Mapping     string
	At          time.Time
	Plan        []Step
	// Event is what Find shows of the record while it has no outcome. It may be empty.
	Event Event
	// Batch is the request that the record shares with others, nil if it has one of its own. All its members are
	// begun in one call. A member of a batch that is begun again on the same step, in another batch or alone, is begun
	// anew: the earlier request is known to have had no effect of the member's.
	Batch *BatchSend
	// Credential is the fingerprint of the credential that the request carries, where the vendor looks its key up under
	// that; else "". Begun again with another one, on the same step, the earlier request had no effect.
	Credential string
}

// A BatchSend is a record's place in a request that carries several (design section 6, Batch).
type BatchSend struct {
	ID    string `json:"id"`    // unique for ever; also the request's idempotency key where it has one
	Index int    `json:"index"` // of the record among Size
	Size  int    `json:"size"`
}

// Progress is a finished step of a plan with the entity state that it leaves, one transaction.
type Progress struct {
	Lease  Lease
	Offset int64
	Route  string
	Step   string
	State  *State
}

// A Settlement is an outcome with everything that becomes true in the same transaction.
type Settlement struct {
	Lease Lease
	Row   Row
	// State is the entity's state after the outcome, nil if it did not change.
	State *State
	// Park is the entry of the parked index if the outcome is parked.
	Park *Parked
	// Close lists parked entries that this outcome resolves: healed by a newer state, or released and done.
	Close []Closed
	// Due is until when the vendor should say how an accepted request ended, zero if nobody waits for that.
	Due time.Time
	// Moot: nobody waits any more for how earlier accepted requests of the entity on the route ended.
	Moot bool
}

// An Unconfirmed is an accepted record of which the vendor has not said yet how it ended.
type Unconfirmed struct {
	Position  Position
	EntityKey EntityKey
	EventID   string
	VendorID  string
	Since     time.Time // of the outcome
	Due       time.Time
}

// Confirmations is how many accepted records of a connector wait for the vendor's word.
type Confirmations struct {
	Waiting int // Overdue among them
	Overdue int
	// First are those that are due first, at least one of those that wait.
	First []Unconfirmed
}

// Closed is a parked entry that is resolved.
type Closed struct {
	Position Position
	State    ParkedState
	By       string // event id of the record that healed it, or who released it
}

// A Retraction takes the Begin of a batch's member back: the batch was answered, without an effect of the member's. So
// what is begun in a batch is in doubt, whatever became of the others.
type Retraction struct {
	Lease  Lease
	Offset int64
	Route  string
	Batch  string // its id; a Begin in another batch, or alone, stays
}

// A Mark moves a partition's low-water mark.
type Mark struct {
	Lease Lease
	Mark  int64
}

// A Horizon moves a partition's send horizon, up before dispatch, down at a clean stop.
type Horizon struct {
	Lease   Lease
	Horizon int64
	Mapping string
	At      time.Time
	// Lower allows the horizon to move down (to at least the mark): only after a drain that left nothing in flight.
	Lower bool
}

// A Batch is settled in one transaction.
type Batch struct {
	Progress    []Progress
	Settlements []Settlement
	Retractions []Retraction
	Marks       []Mark
}

// A Result says what a Settle did not do and whom it woke.
type Result struct {
	// Fenced lists partitions whose part of the batch was refused because a higher epoch owns them.
	Fenced []Partition
	// Woken is the number of waiters that the batch's states released.
	Woken int
}

// Evidence is a fact about an attempt that is not an outcome: a late answer, or a failed attempt of a record
// that is still unresolved. Taken from any epoch.
type Evidence struct {
	Position Position
	Attempt  Attempt
	// Confirms: the vendor says how an accepted request ended. It may come before the outcome.
	Confirms bool
}

// A Waiter is a record that waits for the vendor id of another entity.
type Waiter struct {
	Position  Position
	Tenant    string
	RefEntity string
	RefKey    string
	RefID     string    // name of the vendor id that is needed, "" if any will do
	EntityKey EntityKey // of the waiting record
	Since     time.Time
	Parked    bool // it waits in the parked topic, not in a lane
	Woken     bool
}

// ParkedState is where an entry of the parked index stands.
type ParkedState string

// States of parked entries.
const (
	ParkedOpen       ParkedState = "open"
	ParkedReleased   ParkedState = "released"   // to be sent again by the owner of its partition
	ParkedResolved   ParkedState = "resolved"   // released and settled
	ParkedSuperseded ParkedState = "superseded" // healed by a newer state
	ParkedSkipped    ParkedState = "skipped"    // closed by an operator
)

// A Parked is one entry of the parked index. Its bytes are in the parked topic and, while retained, at its origin.
type Parked struct {
	Position   Position
	EntityKey  EntityKey
	Tenant     string
	EventID    string
	Version    int64
	Cause      Cause
	Reason     string
	Guidance   string
	Attempts   int
	At         time.Time
	State      ParkedState
	Since      time.Time // when State was entered
	By         string    // what closed it
	Generation uint32
	// Topic and offset of its copy in weir.<connector>.parked (or .dead).
	CopyTopic     string
	CopyPartition int32
	CopyOffset    int64
	// Supersedes lists event ids that this record had superseded before it was refused.
	Supersedes []string
}

// A Skip is a range of offsets that an operator jumped over: each record in [From, To) that has no ledger row
// of its own counts as skipped, for ever.
type Skip struct {
	Lease  Lease
	From   int64
	To     int64
	Reason string
	By     string
	At     time.Time
}

// An Open is a begun or planned record without an outcome.
type Open struct {
	Offset   int64
	Route    string
	Mapping  string
	Plan     []Step  // nil if none was stored
	Begins   []Begin // steps whose send was begun, oldest first
	Attempts []Attempt
}

// Recovery is what a new owner needs to know of a partition.
type Recovery struct {
	Lease  Lease
	Cursor Cursor
	// Fresh: the store has never kept a mark of any partition of this topic for the connector, so the connector's
	// start applies. A partition that was acquired while that was so stays fresh until it has a mark of its own:
	// acquire all assigned partitions before the first mark of one of them is stored.
	Fresh bool
	// OtherID: the store knows the partition under another topic id (the topic was deleted and created again).
	OtherID TopicID
	// Last is the highest offset that has a ledger row or a skip, -1 if none: only up to it can a record be a
	// repeat.
	Last int64
	// Open lists begun or planned records without an outcome, in offset order.
	Open []Open
	// Released lists the partition's released entries of the parked index, in offset order.
	Released []Parked
}

// A Status is what one instance says of one connector, for `weir status`.
type Status struct {
	Connector string
	Instance  string
	At        time.Time
	JSON      []byte // the object of design section 17
}

// An Audit is one line of the audit log.
type Audit struct {
	At        time.Time
	Actor     string
	Action    string
	Connector string
	Target    string
	Reason    string
	Detail    string
}

// A Nonce is the id of a webhook event that was taken: its fact is in Kafka.
type Nonce struct {
	Connector string
	ID        string
	Until     time.Time // it may be forgotten after that
}

// A ParkedQuery selects entries of the parked index; zero fields select all.
type ParkedQuery struct {
	Connector string
	Entity    string
	Key       string
	EventID   string
	Cause     Cause
	States    []ParkedState
	Limit     int // 0: 1,000
}

// Store is the checkpoint store. It is safe for concurrent use. Methods that write return when the write is
// durable; concurrent writes are committed together, waiting at most a bounded linger. A write under an epoch
// older than the partition's is refused for that partition alone: Begin and Raise answer a [*FencedError],
// Settle lists it in its result. All times are UTC with millisecond precision.
type Store interface {
	// ID names the store for ever; it is made once, when the store is created.
	ID() string

	// Acquire takes the ownership of a partition: a higher epoch than any before. The cursor of a partition that
	// was never seen has mark and horizon -1.
	Acquire(ctx context.Context, p Partition, owner string) (Recovery, error)
	// Release gives it up. A lease that is fenced already is no error.
	Release(ctx context.Context, l Lease) error

	// Raise moves send horizons; durable before it returns. A horizon that is not above the stored one changes
	// nothing unless Lower is set. Of several partitions the fenced ones alone are refused: the others are durable
	// when it returns, and the error joins one *FencedError for each refused one.
	Raise(ctx context.Context, hs []Horizon) error
	// Rewind sets mark, horizon and LostBelow of a partition without regard for their order, audited with the
	// reason. For stores that lost data and for gaps and topics that an operator accepted. A horizon below the
	// mark is stored as the mark. Outcomes stay.
	Rewind(ctx context.Context, l Lease, c Cursor, a Audit) error
	// Skip records a jump and moves the mark to its end, audited. Begins, plans and waiters of records that it
	// gives an outcome are removed, and the audit line names them. Repeating the same range is harmless.
	Skip(ctx context.Context, s Skip) error

	// Begin makes begun sends and plans durable. Repeating one is harmless (the first stays). A record whose
	// outcome is final is refused with ErrSettled, and nothing of the call is kept: its effect would be a second
	// one. Of several partitions the fenced ones alone are refused, as in Raise.
	Begin(ctx context.Context, bs []Begin) error
	// Settle makes outcomes, states, parked entries and marks durable in one transaction. A second outcome for
	// the same record and route replaces a parked one only; for any other it is an error of the caller and is
	// refused with ErrSettled, and nothing of the batch is kept. It deletes the record's Begins, plan and waiter,
	// but for the waiter of a record parked as missing_reference, which then waits as parked. An outcome that
	// replaces a parked one keeps the earlier attempts, and resolves the record's open or released entry of the
	// parked index unless it parks it again or Close says otherwise. Closing an entry removes the waiter of its
	// record. A mark never moves back; a horizon below a mark moves up to it. Progress of a step that is done is
	// harmless; of a record without a plan it is ErrNotFound. A Retraction of what is not begun so is harmless. The memory of b is the caller's again when Settle returns.
	// Waiters of entities whose new state has vendor ids or is deleted are woken in the same transaction.
	Settle(ctx context.Context, b Batch) (Result, error)
	// Evidence keeps facts about attempts; from any epoch. Repeating one is harmless. It shows in the attempts of
	// the record's row, before and after the outcome, in order of number and time.
	Evidence(ctx context.Context, es []Evidence) error

	// Unconfirmed tells of the accepted records that wait for the vendor's word, as of a time; it lists at most
	// limit, at least 1. Numbers and list are of one moment.
	Unconfirmed(ctx context.Context, connector string, at time.Time, limit int) (Confirmations, error)

	// Rows lists ledger rows with from <= offset < to, by offset and route; rows of skips are synthesised as one
	// row with the range in it per Skip (Offset = first of the range within [from,to), Route "*").
	Rows(ctx context.Context, p Partition, from, to int64) ([]Row, error)
	// Skips lists the jumps of a partition.
	Skips(ctx context.Context, p Partition) ([]Skip, error)
	// States returns the states of those of the keys that have one.
	States(ctx context.Context, connector string, keys []EntityKey) (map[EntityKey]*State, error)
	// Seen reports whether an event id has a ledger row in the connector at another record than the given one
	// (the route does not matter).
	Seen(ctx context.Context, connector, eventID string, not Position) (bool, error)

	// Await registers waiters. For each it says whether the referent has the vendor id meanwhile (or is deleted),
	// in which case the waiter is registered as woken. The lookup and the registration are one transaction. A
	// record and route has one waiter: a later one replaces it. One whose outcome is final is refused with
	// ErrSettled, and nothing of the call is kept.
	Await(ctx context.Context, ws []Waiter) ([]bool, error)
	// Woken lists woken waiters of a connector, oldest first, at most limit (0: 1,000).
	Woken(ctx context.Context, connector string, limit int) ([]Waiter, error)
	// Forget removes waiters.
	Forget(ctx context.Context, ps []Position) error

	// Parked lists entries of the parked index, in order of key and offset within a partition.
	Parked(ctx context.Context, q ParkedQuery) ([]Parked, error)
	// ReleaseParked marks open entries as released with a generation, durably, audited. An entry that is released
	// or closed meanwhile stays as it is; of a record that was never parked there is none: that is ErrNotFound, and
	// nothing of the call is kept.
	ReleaseParked(ctx context.Context, ps []Position, generation uint32, a Audit) error

	// SaveNonces keeps ids of webhook events. Those whose time has passed are forgotten with it, a bounded number at
	// a time, and the oldest ones beyond a bound of the store's. Of an id that is kept already the later Until counts.
	SaveNonces(ctx context.Context, ns []Nonce) error
	// HasNonce reports whether an id is kept for the connector and its time has not passed.
	HasNonce(ctx context.Context, connector, id string) (bool, error)

	// SaveMapping keeps the text behind a mapping version; Mapping returns it or ErrNotFound. Another text for a
	// version that is known is refused.
	SaveMapping(ctx context.Context, version string, text []byte) error
	Mapping(ctx context.Context, version string) ([]byte, error)

	// Find lists the ledger rows that an id leads to: event id, entity id, vendor id, idempotency key,
	// correlation id or topic/partition/offset; the newest, at most limit (0: 1,000), oldest first. All routes of a
	// record are listed if one of them matches. Records without an outcome show as rows with outcome "", with what
	// is known of them (Begin, plan, waiter, evidence).
	Find(ctx context.Context, id string, limit int) ([]Row, error)
	// Cursors lists the cursors of a connector, all connectors if it is "".
	Cursors(ctx context.Context, connector string) ([]Cursor, error)
	// Counts counts ledger rows per route and outcome of a connector; a Skip counts once, as route "*".
	Counts(ctx context.Context, connector string) (map[string]map[Outcome]int64, error)
	// SaveStatus keeps the last status of an instance; Statuses lists them.
	SaveStatus(ctx context.Context, s Status) error
	Statuses(ctx context.Context) ([]Status, error)
	// Audit appends to the audit log; Audits lists it, newest first.
	Audit(ctx context.Context, a Audit) error
	Audits(ctx context.Context, limit int) ([]Audit, error)

	Close() error
}

// Errors that callers branch on.
var (
	ErrNotFound = errors.New("not found")
	// ErrSettled: the record has an outcome on that route already, and it is not parked.
	ErrSettled = errors.New("already settled")
	// ErrLocked: another running process owns the store.
	ErrLocked = errors.New("store is in use by another running process")
	// ErrCorrupt: the store's file is damaged or is no store. Nothing that it says can be trusted.
	ErrCorrupt = errors.New("store is damaged")
	// ErrBroken: an I/O error leaves unknown what is on the disk, so the store takes no more writes until it is opened
	// again, which finds out.
	ErrBroken = errors.New("store could not make a write durable")
	// ErrFull: no room for the write. Nothing of it was kept; it may be repeated when there is room.
	ErrFull = errors.New("no room left for the store")
	// ErrVersion: the store was written by a build with another schema version.
	ErrVersion = errors.New("store has another schema version")
	// ErrReader: the store was opened for reading and commands only.
	ErrReader = errors.New("store is opened as a reader")
)

// A FencedError says that a partition is owned by a higher epoch.
type FencedError struct {
	Partition Partition
	Epoch     uint64 // of the caller
	Owner     uint64 // epoch of the owner
}

func (e *FencedError) Error() string {
	return fmt.Sprintf("partition %s of connector %s: epoch %d is fenced by %d", e.Partition, e.Partition.Connector, e.Epoch, e.Owner)
}
