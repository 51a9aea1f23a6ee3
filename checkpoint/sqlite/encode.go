package sqlite

import (
	"database/sql/driver"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/checkpoint"
)

// Driver values: an empty text and a zero time are stored as NULL, which costs neither a byte nor a copy.

func text(s string) driver.Value {
	if s == "" {
		return nil
	}
	return s
}

func millis(t time.Time) driver.Value {
	if t.IsZero() {
		return nil
	}
	return t.UnixMilli()
}

func flag(b bool) driver.Value {
	if b {
		return int64(1)
	}
	return int64(0)
}

func asInt(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}

func asText(v driver.Value) string {
	switch s := v.(type) {
	case string:
		return s
	case []byte:
		return string(s)
	}
	return ""
}

func asTime(v driver.Value) time.Time {
	if n, ok := v.(int64); ok {
		return time.UnixMilli(n).UTC()
	}
	return time.Time{}
}

// bytesOf is the content of a TEXT or BLOB.
func bytesOf(v driver.Value) []byte {
	switch s := v.(type) {
	case string:
		return []byte(s)
	case []byte:
		return s
	}
	return nil
}

// outcomeCodes are stored: append only. The view outcomes lists them too.
func outcomeCode(o checkpoint.Outcome) (int64, error) {
	for i, known := range outcomes() {
		if o == known {
			return int64(i + 1), nil
		}
	}
	return 0, fmt.Errorf("unknown outcome %q", o)
}

func outcomes() [9]checkpoint.Outcome {
	return [...]checkpoint.Outcome{
		checkpoint.Delivered, checkpoint.Accepted, checkpoint.Unchanged, checkpoint.Superseded, checkpoint.Folded,
		checkpoint.Ignored, checkpoint.ParkedOut, checkpoint.DeadLettered, checkpoint.Skipped,
	}
}

const parkedCode = 7 // of checkpoint.ParkedOut; the tests hold it

func outcomeOf(code int64) (checkpoint.Outcome, error) {
	o := outcomes()
	if code < 1 || int(code) > len(o) {
		return "", fmt.Errorf("%w: outcome code %d is unknown", checkpoint.ErrCorrupt, code)
	}
	return o[code-1], nil
}

// The JSON below is written by hand because it is on the path of every settlement: encoding/json costs five times
// as much. It is read with encoding/json. A test fills every field by reflection, so a new field cannot be missed.

type storedAttempt struct {
	N        int             `json:"n"`
	At       *int64          `json:"at"` // Unix ms
	Step     string          `json:"step"`
	Status   int             `json:"status"`
	Verdict  string          `json:"verdict"`
	Sent     checkpoint.Sent `json:"sent"`
	Wait     time.Duration   `json:"wait_ns"`
	Took     time.Duration   `json:"took_ns"`
	Detail   string          `json:"detail"`
	Guidance string          `json:"guidance"`
}

func appendAttempt(b []byte, a *checkpoint.Attempt) []byte {
	b = append(b, `{"n":`...)
	b = strconv.AppendInt(b, int64(a.N), 10)
	b = appendTime(b, `,"at":`, a.At)
	b = appendField(b, `,"step":`, a.Step)
	b = appendNumber(b, `,"status":`, int64(a.Status))
	b = appendField(b, `,"verdict":`, a.Verdict)
	b = appendField(b, `,"sent":`, string(a.Sent))
	b = appendNumber(b, `,"wait_ns":`, int64(a.Wait))
	b = appendNumber(b, `,"took_ns":`, int64(a.Took))
	b = appendField(b, `,"detail":`, a.Detail)
	b = appendField(b, `,"guidance":`, a.Guidance)
	return append(b, '}')
}

func appendAttempts(b []byte, as []checkpoint.Attempt) []byte {
	for i := range as {
		b = append(b, separator(i, '['))
		b = appendAttempt(b, &as[i])
	}
	return append(b, ']')
}

func (a *storedAttempt) attempt() checkpoint.Attempt {
	return checkpoint.Attempt{N: a.N, At: timeAt(a.At), Step: a.Step, Status: a.Status, Verdict: a.Verdict, Sent: a.Sent, Wait: a.Wait,
		Took: a.Took, Detail: a.Detail, Guidance: a.Guidance}
}

func attemptsOf(stored []storedAttempt) []checkpoint.Attempt {
	if len(stored) == 0 {
		return nil
	}
	as := make([]checkpoint.Attempt, len(stored))
	for i := range stored {
		as[i] = stored[i].attempt()
	}
	return as
}

func parseAttempt(b []byte) (checkpoint.Attempt, error) {
	var stored storedAttempt
	if err := json.Unmarshal(b, &stored); err != nil {
		return checkpoint.Attempt{}, fmt.Errorf("%w: stored attempt: %w", checkpoint.ErrCorrupt, err)
	}
	return stored.attempt(), nil
}

func appendPlan(b []byte, steps []checkpoint.Step) []byte {
	for i := range steps {
		s := &steps[i]
		b = append(b, separator(i, '['))
		b = append(b, `{"step":`...)
		b = appendString(b, s.Step)
		b = appendField(b, `,"operation":`, s.Operation)
		b = appendField(b, `,"idempotency_key":`, s.IdempotencyKey)
		b = appendNumber(b, `,"generation":`, int64(s.Generation))
		if s.IDs != nil {
			b = append(b, `,"ids":`...)
			b = appendMap(b, s.IDs, appendString)
		}
		if s.Done {
			b = append(b, `,"done":true`...)
		}
		b = append(b, '}')
	}
	if len(steps) == 0 {
		b = append(b, '[')
	}
	return append(b, ']')
}

func parsePlan(b []byte) ([]checkpoint.Step, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var steps []checkpoint.Step
	if err := json.Unmarshal(b, &steps); err != nil {
		return nil, fmt.Errorf("%w: stored plan: %w", checkpoint.ErrCorrupt, err)
	}
	return steps, nil
}

// A storedRow is the text of a ledger row. Its key and its outcome are columns.
type storedRow struct {
	Cause        checkpoint.Cause  `json:"cause"`
	At           *int64            `json:"at"` // Unix ms
	LeaderEpoch  int32             `json:"leader_epoch"`
	EventHash    int64             `json:"event_hash"`
	EventID      string            `json:"event_id"`
	Type         string            `json:"type"`
	Source       string            `json:"source"`
	Correlation  string            `json:"correlation"`
	Tenant       string            `json:"tenant"`
	Entity       string            `json:"entity"`
	Key          string            `json:"key"`
	Version      int64             `json:"version"`
	Operation    string            `json:"operation"`
	OccurredAt   *int64            `json:"occurred_at"` // Unix ms
	Schema       string            `json:"schema"`
	Reason       string            `json:"reason"`
	Rule         string            `json:"rule"`
	Path         string            `json:"path"`
	SupersededBy string            `json:"superseded_by"`
	VendorID     string            `json:"vendor_id"`
	Generation   uint32            `json:"generation"`
	Mapping      string            `json:"mapping"`
	Plan         []checkpoint.Step `json:"plan"`
	Attempts     []storedAttempt   `json:"attempts"`
	// Past are ids of the parked rows that this one replaced.
	Past []string `json:"past"`
}

// appendRow writes a ledger row's text.
func appendRow(b []byte, r *checkpoint.Row, past []string) []byte {
	e := &r.Event
	start := len(b)
	b = appendField(b, `,"event_id":`, e.ID)
	b = appendField(b, `,"type":`, e.Type)
	b = appendField(b, `,"source":`, e.Source)
	b = appendField(b, `,"correlation":`, e.CorrelationID)
	b = appendField(b, `,"tenant":`, e.Tenant)
	b = appendField(b, `,"entity":`, e.Entity)
	b = appendField(b, `,"key":`, e.Key)
	b = appendNumber(b, `,"version":`, e.Version)
	b = appendField(b, `,"operation":`, e.Operation)
	b = appendTime(b, `,"occurred_at":`, e.OccurredAt)
	b = appendField(b, `,"schema":`, e.Schema)
	b = appendField(b, `,"cause":`, string(r.Cause))
	b = appendField(b, `,"reason":`, r.Reason)
	b = appendField(b, `,"rule":`, r.Rule)
	b = appendField(b, `,"path":`, r.Path)
	b = appendField(b, `,"superseded_by":`, r.SupersededBy)
	b = appendField(b, `,"vendor_id":`, r.VendorID)
	b = appendNumber(b, `,"generation":`, int64(r.Generation))
	b = appendField(b, `,"mapping":`, r.Mapping)
	b = appendTime(b, `,"at":`, r.At)
	b = appendNumber(b, `,"leader_epoch":`, int64(r.LeaderEpoch))
	b = appendNumber(b, `,"event_hash":`, int64(r.EventHash))
	if r.Plan != nil {
		b = appendPlan(append(b, `,"plan":`...), r.Plan)
	}
	if len(r.Attempts) > 0 {
		b = appendAttempts(append(b, `,"attempts":`...), r.Attempts)
	}
	for i, id := range past {
		if i == 0 {
			b = append(b, `,"past":`...)
		}
		b = appendString(append(b, separator(i, '[')), id)
	}
	if len(past) > 0 {
		b = append(b, ']')
	}
	if len(b) == start {
		return append(b, '{', '}')
	}
	b[start] = '{'
	return append(b, '}')
}

// parseRow fills r but for its key and its outcome from a ledger row's text, and answers the row's past ids.
func parseRow(b []byte, r *checkpoint.Row) (past []string, err error) {
	var s storedRow
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%w: stored ledger row: %w", checkpoint.ErrCorrupt, err)
	}
	r.Event = checkpoint.Event{ID: s.EventID, Type: s.Type, Source: s.Source, CorrelationID: s.Correlation, Tenant: s.Tenant,
		Entity: s.Entity, Key: s.Key, Version: s.Version, Operation: s.Operation, OccurredAt: timeAt(s.OccurredAt), Schema: s.Schema}
	r.Cause, r.Reason, r.Rule, r.Path, r.SupersededBy = s.Cause, s.Reason, s.Rule, s.Path, s.SupersededBy
	r.VendorID, r.Generation, r.Mapping, r.Plan = s.VendorID, s.Generation, s.Mapping, s.Plan
	r.At, r.LeaderEpoch, r.EventHash = timeAt(s.At), s.LeaderEpoch, uint64(s.EventHash)
	r.Attempts = attemptsOf(s.Attempts)
	return s.Past, nil
}

// timeAt is the time of Unix ms, the zero time for none.
func timeAt(ms *int64) time.Time {
	if ms == nil {
		return time.Time{}
	}
	return time.UnixMilli(*ms).UTC()
}

// appendState writes what encoding/json reads back into a State; entity and key are columns.
func appendState(b []byte, s *checkpoint.State) []byte {
	b = append(b, `{"Tenant":`...)
	b = appendString(b, s.Tenant)
	if len(s.Versions) > 0 {
		b = append(b, `,"Versions":`...)
		b = appendTable(b, s.Versions, func(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) })
	}
	if s.LastTopic != (checkpoint.TopicID{}) {
		b = append(b, `,"LastTopic":"`...)
		b = hex.AppendEncode(b, s.LastTopic[:])
		b = append(b, '"')
	}
	b = appendNumber(b, `,"LastPartition":`, int64(s.LastPartition))
	b = appendNumber(b, `,"LastOffset":`, s.LastOffset)
	if s.Deleted {
		b = append(b, `,"Deleted":true`...)
	}
	if len(s.IDs) > 0 {
		b = append(b, `,"IDs":`...)
		b = appendMap(b, s.IDs, appendString)
	}
	if len(s.Remembered) > 0 {
		b = append(b, `,"Remembered":`...)
		b = appendMap(b, s.Remembered, appendString)
	}
	if len(s.Routes) > 0 {
		b = append(b, `,"Routes":`...)
		b = appendTable(b, s.Routes, appendRouteState)
	}
	return append(b, '}')
}

func appendRouteState(b []byte, r checkpoint.RouteState) []byte {
	b = append(b, `{"Version":`...)
	b = strconv.AppendInt(b, r.Version, 10)
	b = appendField(b, `,"Fingerprint":`, r.Fingerprint)
	b = appendNumber(b, `,"Generation":`, int64(r.Generation))
	if r.Refused {
		b = append(b, `,"Refused":true`...)
	}
	b = appendNumber(b, `,"Open":`, int64(r.Open))
	if r.Held {
		b = append(b, `,"Held":true`...)
	}
	if !r.LateUntil.IsZero() {
		b = append(b, `,"LateUntil":"`...)
		b = r.LateUntil.UTC().Truncate(time.Millisecond).AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	return append(b, '}')
}

func parseState(b []byte, entity, key string) (*checkpoint.State, error) {
	s := &checkpoint.State{}
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("%w: state of %s %s: %w", checkpoint.ErrCorrupt, entity, key, err)
	}
	s.Entity, s.Key = entity, key
	return s, nil
}

// eventText is an event as JSON, NULL if it is empty. Only begun sends carry one, so encoding/json does.
func eventText(e checkpoint.Event) (driver.Value, error) {
	if e == (checkpoint.Event{}) {
		return nil, nil
	}
	e.OccurredAt = e.OccurredAt.UTC().Truncate(time.Millisecond)
	b, err := json.Marshal(e)
	return string(b), err
}

func parseEvent(b []byte) (e checkpoint.Event, err error) {
	if len(b) == 0 {
		return e, nil
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("%w: stored event: %w", checkpoint.ErrCorrupt, err)
	}
	return e, nil
}

func separator(i int, first byte) byte {
	if i == 0 {
		return first
	}
	return ','
}

func appendField(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, name...), s)
}

func appendNumber(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return strconv.AppendInt(append(b, name...), n, 10)
}

func appendTime(b []byte, name string, t time.Time) []byte {
	if t.IsZero() {
		return b
	}
	return strconv.AppendInt(append(b, name...), t.UnixMilli(), 10)
}

func appendMap[V any](b []byte, m map[string]V, value func([]byte, V) []byte) []byte {
	b = append(b, '{')
	i := 0
	for k, v := range m {
		if i > 0 {
			b = append(b, ',')
		}
		i++
		b = appendString(b, k)
		b = append(b, ':')
		b = value(b, v)
	}
	return append(b, '}')
}

func appendTable[V any](b []byte, t checkpoint.Table[V], value func([]byte, V) []byte) []byte {
	b = append(b, '{')
	for i := range t {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, t[i].Name)
		b = append(b, ':')
		b = value(b, t[i].Value)
	}
	return append(b, '}')
}

// appendString writes a JSON string. Bytes that are not UTF-8 become U+FFFD, as in encoding/json.
func appendString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c < 0x20 || c == '"' || c == '\\':
			b = append(b, s[start:i]...)
			if c == '"' || c == '\\' {
				b = append(b, '\\', c)
			} else {
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			i++
			start = i
		case c < utf8.RuneSelf:
			i++
		default:
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				b = append(b, s[start:i]...)
				b = append(b, "\uFFFD"...)
				start = i + 1
			}
			i += n
		}
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}
