package kafka

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

// Headers of parked and dead-lettered records (design section 17).
const (
	HeaderOutcome  = "weir_outcome"
	HeaderCause    = "weir_cause"
	HeaderReason   = "weir_reason"
	HeaderRule     = "weir_rule"
	HeaderPath     = "weir_path"
	HeaderOrigin   = "weir_origin"
	HeaderEventID  = "weir_event_id"
	HeaderAttempts = "weir_attempts"
	HeaderAt       = "weir_at"
)

// headerTextMax bounds one header's text in bytes. Nine headers of it are far below the 65,536 bytes that a parked
// topic's max.message.bytes leaves for them (design section 7).
const headerTextMax = 1024

// A Refusal is why a record is parked or dead-lettered. Reason, Rule and Path hold no personal data (promise 9):
// the caller takes care of it.
type Refusal struct {
	Outcome  checkpoint.Outcome // ParkedOut or DeadLettered
	Cause    checkpoint.Cause
	Reason   string
	Rule     string // of the rule that refused it, "" if none did
	Path     string
	Origin   string // topic/partition/offset of the original record, checkpoint.Position.Origin
	EventID  string // "" if it could not be read
	Attempts int
	At       time.Time
}

// ParkedHeaders are the headers of the copy of a record: all original headers in their order, without any of ours
// that it had (a second pass overwrites, it does not append), then ours. Empty rule and path are left out. Texts are
// cut at 1,024 bytes. The slice is new; header values are shared with the original.
func ParkedHeaders(original []schema.Header, r Refusal) []schema.Header {
	hs := make([]schema.Header, 0, len(original)+9)
	for _, h := range original {
		if !ownHeader(h.Key) {
			hs = append(hs, h)
		}
	}
	add := func(key, value string) { hs = append(hs, schema.Header{Key: key, Value: []byte(cut(value))}) }
	add(HeaderOutcome, string(r.Outcome))
	add(HeaderCause, string(r.Cause))
	add(HeaderReason, r.Reason)
	if r.Rule != "" {
		add(HeaderRule, r.Rule)
	}
	if r.Path != "" {
		add(HeaderPath, r.Path)
	}
	add(HeaderOrigin, r.Origin)
	add(HeaderEventID, r.EventID)
	add(HeaderAttempts, strconv.Itoa(r.Attempts))
	add(HeaderAt, r.At.UTC().Format(time.RFC3339))
	return hs
}

func ownHeader(key string) bool {
	switch key {
	case HeaderOutcome, HeaderCause, HeaderReason, HeaderRule, HeaderPath, HeaderOrigin, HeaderEventID, HeaderAttempts, HeaderAt:
		return true
	}
	return false
}

// cut makes s valid UTF-8 of at most headerTextMax bytes, never inside a character.
func cut(s string) string {
	s = strings.ToValidUTF8(s, "�")
	if len(s) <= headerTextMax {
		return s
	}
	n := headerTextMax
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// ParkedRefusal reads what ParkedHeaders wrote; of a header that occurs twice the last one counts. ok is false if
// there is no outcome or no origin, so it is no parked record.
func ParkedRefusal(hs []schema.Header) (r Refusal, ok bool) {
	for _, h := range hs {
		v := string(h.Value)
		switch h.Key {
		case HeaderOutcome:
			r.Outcome = checkpoint.Outcome(v)
		case HeaderCause:
			r.Cause = checkpoint.Cause(v)
		case HeaderReason:
			r.Reason = v
		case HeaderRule:
			r.Rule = v
		case HeaderPath:
			r.Path = v
		case HeaderOrigin:
			r.Origin = v
		case HeaderEventID:
			r.EventID = v
		case HeaderAttempts:
			r.Attempts, _ = strconv.Atoi(v)
		case HeaderAt:
			r.At, _ = time.Parse(time.RFC3339, v)
		}
	}
	return r, r.Outcome != "" && r.Origin != ""
}
