package schema

import (
	"context"
	"fmt"
	"time"
)

// Subject is the registry's name of a line of schema versions: <topic>-value (TopicName strategy).
type Subject string

// ID is the registry's global number of one schema text.
type ID int

// An Operation says what an event does to its entity.
type Operation string

// The two operations.
const (
	Upsert Operation = "upsert"
	Delete Operation = "delete"
)

// A Header is one Kafka record header.
type Header struct {
	Key   string
	Value []byte
}

// A Record is what Decode reads: one Kafka record. Decode does not keep or change its slices.
type Record struct {
	Topic     string
	TopicID   [16]byte
	Partition int32
	Offset    int64
	Key       []byte
	Value     []byte // nil: a tombstone
	Headers   []Header
	Timestamp time.Time
}

// An Event is one decoded and checked event in the current version of its schema.
type Event struct {
	ID            string
	Type          string
	Source        string // owning system, issues Version
	CorrelationID string
	CausationID   string
	Tenant        string // "" for a tombstone: the tenant is that of the known entity
	Entity        string // customer, contract, invoice, ...
	Key           string // entity id = Kafka key
	Version       int64  // monotonic per entity and source; 0 for a tombstone, which is newer than all before it
	Operation     Operation
	OccurredAt    time.Time
	Tombstone     bool

	Subject       Subject // of the writer's schema; "" for a tombstone
	SchemaVersion int     // number of the writer's schema within the subject
	SchemaID      ID

	// Fields is the whole event in the current version, envelope included, nil for a tombstone. Values are
	// string, bool, int64 (int and long), float64, []byte, time.Time (timestamps), string "2006-01-02" (dates), []any, map[string]any (records and maps),
	// nil (null); enums are strings. Money is int64 minor units, never a float. Unions are unwrapped.
	Fields map[string]any
	// References lists the entities that this one refers to, from the schema's properties.
	References []Reference
}

// A Reference says that a field of an event holds the id of another entity.
type Reference struct {
	Field  string
	Entity string
	Key    string
}

// A RefusedError says that a record is not a valid event: it is dead-lettered. Its text holds no personal data.
type RefusedError struct {
	Cause  string // framing, schema, rule, no_key, key_mismatch, too_large: the names of checkpoint's causes
	Rule   string // id of the rule that refused it, if one did
	Path   string // path of the field, if one is to blame
	Reason string
	// Event is what could be read of the event, so that the refusal can hold its key; nil if nothing could.
	Event *Event
}

func (e *RefusedError) Error() string {
	s := e.Cause
	if e.Rule != "" {
		s += " " + e.Rule
	}
	if e.Path != "" {
		s += " at " + e.Path
	}
	return s + ": " + e.Reason
}

// An AheadError says that the event was written with a newer schema than this build reads. The event is good:
// the partition is held until a newer build runs. It is never dead-lettered.
type AheadError struct {
	Subject Subject
	Version int
	ID      ID
	Reason  string
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("schema_ahead: %s version %d (id %d) is newer than this build reads: %s; upgrade weir, then it goes on by itself", e.Subject, e.Version, e.ID, e.Reason)
}

// A Decoder turns a record into an event. Errors: *RefusedError, *AheadError, else the environment (registry not
// reachable): the record waits. Safe for concurrent use.
type Decoder interface {
	Decode(ctx context.Context, r *Record) (*Event, error)
}
