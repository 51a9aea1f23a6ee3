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
	At       int64           `json:"at"` // Unix ms, 0: none
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
	if !a.At.IsZero() {
		b = append(b, `,"at":`...)
		b = strconv.AppendInt(b, a.At.UnixMilli(), 10)
	}
	b = appendField(b, `,"step":`, a.Step)
	if a.Status != 0 {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(a.Status), 10)
	}
	b = appendField(b, `,"verdict":`, a.Verdict)
	b = appendField(b, `,"sent":`, string(a.Sent))
	if a.Wait != 0 {
		b = append(b, `,"wait_ns":`...)
		b = strconv.AppendInt(b, int64(a.Wait), 10)
	}
	if a.Took != 0 {
		b = append(b, `,"took_ns":`...)
		b = strconv.AppendInt(b, int64(a.Took), 10)
	}
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
	c := checkpoint.Attempt{N: a.N, Step: a.Step, Status: a.Status, Verdict: a.Verdict, Sent: a.Sent, Wait: a.Wait,
		Took: a.Took, Detail: a.Detail, Guidance: a.Guidance}
	if a.At != 0 {
		c.At = time.UnixMilli(a.At).UTC()
	}
	return c
}

func parseAttempts(b []byte) ([]checkpoint.Attempt, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var stored []storedAttempt
	if err := json.Unmarshal(b, &stored); err != nil {
		return nil, fmt.Errorf("%w: stored attempts: %w", checkpoint.ErrCorrupt, err)
	}
	as := make([]checkpoint.Attempt, len(stored))
	for i := range stored {
		as[i] = stored[i].attempt()
	}
	return as, nil
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
		if s.Generation != 0 {
			b = append(b, `,"generation":`...)
			b = strconv.AppendUint(b, uint64(s.Generation), 10)
		}
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

// appendState writes what encoding/json reads back into a State; entity and key are columns.
func appendState(b []byte, s *checkpoint.State) []byte {
	b = append(b, `{"Tenant":`...)
	b = appendString(b, s.Tenant)
	if len(s.Versions) > 0 {
		b = append(b, `,"Versions":`...)
		b = appendMap(b, s.Versions, func(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) })
	}
	if s.LastTopic != (checkpoint.TopicID{}) {
		b = append(b, `,"LastTopic":"`...)
		b = hex.AppendEncode(b, s.LastTopic[:])
		b = append(b, '"')
	}
	if s.LastPartition != 0 {
		b = append(b, `,"LastPartition":`...)
		b = strconv.AppendInt(b, int64(s.LastPartition), 10)
	}
	if s.LastPartition != 0 {
		b = append(b, `,"LastPartition":`...)
		b = strconv.AppendInt(b, int64(s.LastPartition), 10)
	}
	if s.LastOffset != 0 {
		b = append(b, `,"LastOffset":`...)
		b = strconv.AppendInt(b, s.LastOffset, 10)
	}
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
		b = appendMap(b, s.Routes, appendRouteState)
	}
	return append(b, '}')
}

func appendRouteState(b []byte, r checkpoint.RouteState) []byte {
	b = append(b, `{"Version":`...)
	b = strconv.AppendInt(b, r.Version, 10)
	b = appendField(b, `,"Fingerprint":`, r.Fingerprint)
	if r.Generation != 0 {
		b = append(b, `,"Generation":`...)
		b = strconv.AppendUint(b, uint64(r.Generation), 10)
	}
	if r.Refused {
		b = append(b, `,"Refused":true`...)
	}
	if r.Open != 0 {
		b = append(b, `,"Open":`...)
		b = strconv.AppendInt(b, int64(r.Open), 10)
	}
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
