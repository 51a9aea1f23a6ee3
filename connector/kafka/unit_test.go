package kafka

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"pgregory.net/rapid"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

func TestMetadataGolden(t *testing.T) {
	t.Parallel()
	// This text outlives every process: a change of it is a new version.
	if got, want := EncodeMetadata("0190c0de-store", 42), "weir1:42:0190c0de-store"; got != want {
		t.Errorf("EncodeMetadata: %q, want %q", got, want)
	}
	for in, want := range map[string]string{
		"":                               ErrForeign.Error(),
		"consumer-1-uuid":                ErrForeign.Error(),
		"weir2:1:s":                      ErrForeign.Error(),
		"weir1:":                         "commit metadata without a store id",
		"weir1:1:":                       "commit metadata without a store id",
		"weir1:-1:s":                     "commit metadata without a mark",
		"weir1:007:s":                    "commit metadata without a mark",
		"weir1:99999999999999999999:s":   "commit metadata without a mark",
		"weir1:1:" + long(MetadataMax-7): "commit metadata of 4097 bytes, more than 4096",
	} {
		if id, mark, err := ParseMetadata(in); err == nil || err.Error() != want {
			t.Errorf("ParseMetadata(%.20q): %q, %d, %v, want %s", in, id, mark, err, want)
		}
	}
	if got := EncodeMetadata(long(5000), 1); len(got) != MetadataMax {
		t.Errorf("metadata of a long store id: %d bytes, want %d", len(got), MetadataMax)
	}
}

func long(n int) string { return strings.Repeat("s", n) }

// Properties: never panics; what it accepts is what EncodeMetadata writes; what does not begin as ours is ErrForeign,
// and only that; nothing longer than MetadataMax is accepted.
func FuzzParseMetadata(f *testing.F) {
	for _, s := range []string{"", "weir1:", "weir1:0:s", "weir1:42:a:b", "weir1:-1:s", "x", "weir1:9223372036854775807:é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, mark, err := ParseMetadata(s)
		if foreign := !strings.HasPrefix(s, "weir1:"); foreign != errors.Is(err, ErrForeign) {
			t.Errorf("ParseMetadata(%q): %v, foreign %v", s, err, foreign)
		}
		if err != nil {
			return
		}
		if back := EncodeMetadata(id, mark); back != s || len(s) > MetadataMax {
			t.Errorf("ParseMetadata(%q) = %q, %d, which is written as %q", s, id, mark, back)
		}
	})
}

func TestParkedHeaders(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.FixedZone("x", 3600))
	r := Refusal{
		Outcome: checkpoint.DeadLettered, Cause: checkpoint.CauseRule, Reason: "totals differ", Rule: "invoice.total", Path: "lines[2].amount",
		Origin: "canonical.invoice/3/17", EventID: "e1", Attempts: 2, At: at,
	}
	original := headers("ce_id", "e1", "traceparent", "00-x", "ce_id", "again", "weir_other", "kept")
	first := ParkedHeaders(original, r)
	want := []schema.Header{}
	want = append(want, original...)
	want = append(want, headers(
		"weir_outcome", "dead_lettered", "weir_cause", "rule", "weir_reason", "totals differ", "weir_rule", "invoice.total", "weir_path", "lines[2].amount",
		"weir_origin", "canonical.invoice/3/17", "weir_event_id", "e1", "weir_attempts", "2", "weir_at", "2026-01-02T02:04:05Z")...)
	if fmt.Sprintf("%s", first) != fmt.Sprintf("%s", want) {
		t.Errorf("ParkedHeaders:\n got %s\nwant %s", first, want)
	}
	back, ok := ParkedRefusal(first)
	r.At = at.UTC().Truncate(time.Second)
	if !ok || back != r {
		t.Errorf("ParkedRefusal: %+v, %v, want %+v", back, ok, r)
	}
	// A second pass overwrites, and a rule that no longer holds goes away.
	second := ParkedHeaders(first, Refusal{Outcome: checkpoint.ParkedOut, Cause: checkpoint.CauseRejected, Reason: "no", Origin: r.Origin, At: at})
	if back, ok := ParkedRefusal(second); !ok || back.Rule != "" || back.Path != "" || back.Reason != "no" {
		t.Errorf("second pass: %+v", back)
	}
	if len(second) != len(original)+7 {
		t.Errorf("second pass has %d headers, want %d: %s", len(second), len(original)+7, second)
	}
	if _, ok := ParkedRefusal(original); ok {
		t.Error("a record without our headers reads as a parked one")
	}
}

// Whatever the texts, the headers stay within the room that the topic leaves for them, are valid UTF-8, and the
// original headers are untouched.
func TestParkedHeadersAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.OneOf(rapid.String(), rapid.StringN(0, 900, 5000), rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))
		original := headers("a", text.Draw(t, "original"))
		r := Refusal{Outcome: "parked", Cause: "rejected", Reason: text.Draw(t, "reason"), Rule: text.Draw(t, "rule"), Path: text.Draw(t, "path"), Origin: "t/0/0", EventID: text.Draw(t, "id")}
		hs := ParkedHeaders(original, r)
		if string(hs[0].Value) != string(original[0].Value) {
			t.Fatalf("original header changed: %q", hs[0].Value)
		}
		size := 0
		for _, h := range hs[1:] {
			if !utf8.Valid(h.Value) || len(h.Value) > headerTextMax {
				t.Fatalf("header %s: %d bytes, valid %v", h.Key, len(h.Value), utf8.Valid(h.Value))
			}
			size += len(h.Key) + len(h.Value) + 10
		}
		if size > HeaderBytesMax {
			t.Fatalf("headers of %d bytes, more than %d", size, HeaderBytesMax)
		}
	})
}

func TestConfigReportsAllProblems(t *testing.T) {
	t.Parallel()
	good := Config{Brokers: []string{"a:9092"}, Group: "weir.x", Topics: []string{"canonical.customer"}}
	if err := good.ValidateConsumer(); err != nil {
		t.Fatalf("a good config: %v", err)
	}
	if err := (Config{Brokers: good.Brokers}).Validate(); err != nil {
		t.Errorf("a client needs no group: %v", err)
	}
	bad := Config{
		Brokers: []string{"localhost"}, SASL: &SASL{Mechanism: "GSSAPI"}, Topics: []string{"a b", "t", "t"},
		FetchBytesMax: 10, FetchPartitionBytesMax: 20, SessionTimeout: -1, FetchWait: time.Millisecond, ProduceTimeout: time.Millisecond, BatchBytesMax: 1,
	}
	err := bad.ValidateConsumer()
	ce, ok := errors.AsType[*ConfigError](err)
	if !ok {
		t.Fatalf("ValidateConsumer: %v, want a *ConfigError", err)
	}
	for _, want := range []string{
		`brokers[0] "localhost"`, `sasl.mechanism "GSSAPI"`, "sasl.user", "sasl.password", "group is empty", `topics[0]`, `topics[2] "t" is named twice`,
		"fetch partition bytes (20) is more than fetch bytes (10)", "session timeout", "fetch wait", "produce timeout", "batch bytes",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q: %v", want, err)
		}
	}
	if len(ce.Problems) != 12 {
		t.Errorf("%d problems, want 12: %q", len(ce.Problems), ce.Problems)
	}
	if _, err := New(bad, newRecorder(t, "c"), nil); KindOf(err) != KindConfig {
		t.Errorf("New with a bad config: %v", err)
	}
}

// Promise 9: no way of printing a config shows the password.
func TestConfigDoesNotPrintThePassword(t *testing.T) {
	t.Parallel()
	s := &SASL{Mechanism: Plain, User: "u", Password: func() (string, error) { return "hunter2", nil }}
	c := Config{Brokers: []string{"a:1"}, SASL: s}
	for _, f := range []string{"%v", "%+v", "%#v", "%s"} {
		if out := fmt.Sprintf(f, c) + fmt.Sprintf(f, *s); strings.Contains(out, "hunter2") {
			t.Errorf("%s prints the password", f)
		}
	}
}

func TestKindOf(t *testing.T) {
	t.Parallel()
	_, noFile := os.Open("/does/not/exist")
	for _, c := range []struct {
		err  error
		want Kind
	}{
		{nil, KindOther},
		{errors.New("a bug"), KindOther},
		{context.Canceled, KindOther},
		{kgo.ErrClientClosed, KindOther},
		{context.DeadlineExceeded, KindEnvironment},
		{&net.OpError{Op: "dial", Err: errors.New("connection refused")}, KindEnvironment},
		{&net.DNSError{Name: "kafka", IsNotFound: true}, KindEnvironment},
		{&kgo.ErrGroupSession{Err: errors.New("x")}, KindEnvironment},
		{kgo.ErrRecordTimeout, KindEnvironment},
		{kerr.SaslAuthenticationFailed, KindEnvironment},
		{kerr.TopicAuthorizationFailed, KindEnvironment},
		{kerr.NotEnoughReplicas, KindEnvironment},
		{kerr.UnknownServerError, KindEnvironment},
		{ErrNoTopic, KindEnvironment},
		{kerr.MessageTooLarge, KindConfig},
		{kerr.InvalidReplicationFactor, KindConfig},
		{kerr.InconsistentGroupProtocol, KindConfig},
		{&ConfigError{Problems: []string{"x"}}, KindConfig},
		{noFile, KindConfig},
		{errEmptyPassword, KindConfig},
	} {
		for _, err := range []error{c.err, wrap(c.err)} {
			if got := KindOf(err); got != c.want {
				t.Errorf("KindOf(%v) = %d, want %d", err, got, c.want)
			}
		}
	}
}

func wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("while testing: %w", err)
}

func TestErrorTextsNameTheWayOut(t *testing.T) {
	t.Parallel()
	id := checkpoint.TopicID{1}
	for err, want := range map[error]string{
		&OutOfRangeError{Next: 5, LogStart: 12, End: 25}:                                  "retention deleted records",
		&OutOfRangeError{Next: 50, LogStart: 0, End: 10}:                                  "the log was cut",
		&TopicChangedError{Topic: "t", Old: id}:                                           "topic t (id 01000000000000000000000000000000) was deleted",
		&TopicChangedError{Topic: "t", New: id}:                                           "accept the new topic",
		&CommitError{Refused: map[TP]error{{"b", 1}: ErrNotOwned, {"a", 2}: ErrNotOwned}}: "commit a/2: partition is not owned (and 1 more partitions)",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%T: %q does not say %q", err, err, want)
		}
	}
}
