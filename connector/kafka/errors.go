package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/weirsync/weir/checkpoint"
)

// Errors that callers branch on.
var (
	// ErrNotOwned: the partition is not assigned to this consumer (any more): nothing was committed or started.
	ErrNotOwned = errors.New("partition is not owned")
	// ErrNotRunning: the consumer has not been started or has ended.
	ErrNotRunning = errors.New("consumer is not running")
	// ErrGone: the record is not in the log any more (deleted, compacted, or of an aborted transaction).
	ErrGone = errors.New("record is gone")
	// ErrNotYet: the offset is at or after the last stable offset: no committed record is there yet.
	ErrNotYet = errors.New("record is not there yet")
	// ErrNoTopic: the topic or partition does not exist, or we may not see it.
	ErrNoTopic = errors.New("topic or partition does not exist")
	// ErrMetadataTooLarge: a commit's metadata is longer than MetadataMax.
	ErrMetadataTooLarge = errors.New("commit metadata is too large")
)

// An OutOfRangeError says that the next offset to read is not in the log: retention deleted it, or the log was cut.
type OutOfRangeError struct {
	Next     int64 // the offset that was to be read
	LogStart int64 // earliest offset, -1 if it could not be learned
	End      int64 // last stable offset, -1 if it could not be learned
}

func (e *OutOfRangeError) Error() string {
	if e.End >= 0 && e.Next > e.End {
		return fmt.Sprintf("offset %d is beyond the end of the log (%d to %d): the log was cut; check the topic, then accept the gap", e.Next, e.LogStart, e.End)
	}
	return fmt.Sprintf("offset %d is out of range (log is %d to %d): retention deleted records before they were read; accept the gap to go on", e.Next, e.LogStart, e.End)
}

// A TopicChangedError says that a topic was deleted, and created again if New is not zero: its offsets mean other
// records.
type TopicChangedError struct {
	Topic    string
	Old, New checkpoint.TopicID
}

func (e *TopicChangedError) Error() string {
	if e.New == (checkpoint.TopicID{}) {
		return fmt.Sprintf("topic %s (id %v) was deleted", e.Topic, e.Old)
	}
	return fmt.Sprintf("topic %s was deleted and created again (id was %v, is %v); accept the new topic to go on", e.Topic, e.Old, e.New)
}

// A CommitError names the partitions of a commit that were not committed; the others were.
type CommitError struct {
	Refused map[TP]error
}

func (e *CommitError) Error() string {
	tps := sortedKeys(e.Refused)
	s := fmt.Sprintf("commit %s/%d: %v", tps[0].Topic, tps[0].Partition, e.Refused[tps[0]])
	if len(tps) > 1 {
		s += fmt.Sprintf(" (and %d more partitions)", len(tps)-1)
	}
	return s
}

// Unwrap gives all errors, so errors.Is finds ErrNotOwned.
func (e *CommitError) Unwrap() []error {
	var errs []error
	for _, tp := range sortedKeys(e.Refused) {
		errs = append(errs, e.Refused[tp])
	}
	return errs
}

// Kind says whose an error is; it decides the exit code (design section 17).
type Kind int

// The kinds.
const (
	KindOther       Kind = iota // ours, or a cancelled context: exit code 1
	KindConfig                  // usage, config or data: exit code 2
	KindEnvironment             // Kafka not reachable or not permitted: exit code 3
)

// KindOf classifies an error of this package, the one place that does. A deadline that passed while Kafka was being
// asked is the environment; a cancelled context is nobody's fault and KindOther.
func KindOf(err error) Kind {
	if err == nil {
		return KindOther
	}
	if _, ok := errors.AsType[*ConfigError](err); ok {
		return KindConfig
	}
	if _, ok := errors.AsType[*os.PathError](err); ok { // a password or certificate file
		return KindConfig
	}
	if errors.Is(err, errEmptyPassword) || errors.Is(err, ErrMetadataTooLarge) {
		return KindConfig
	}
	if ke, ok := errors.AsType[*kerr.Error](err); ok {
		switch ke {
		case kerr.InvalidGroupID, kerr.InvalidSessionTimeout, kerr.InconsistentGroupProtocol, kerr.InvalidTopicException,
			kerr.InvalidPartitions, kerr.InvalidReplicationFactor, kerr.InvalidConfig, kerr.PolicyViolation,
			kerr.MessageTooLarge, kerr.RecordListTooLarge, kerr.OffsetMetadataTooLarge, kerr.InvalidRecord,
			kerr.UnsupportedSaslMechanism:
			return KindConfig
		case kerr.UnknownServerError:
			return KindEnvironment
		}
		return KindEnvironment
	}
	if errors.Is(err, ErrNoTopic) {
		return KindEnvironment
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, kgo.ErrClientClosed) {
		return KindOther
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, kgo.ErrRecordTimeout) || errors.Is(err, kgo.ErrRecordRetries) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) {
		return KindEnvironment
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return KindEnvironment
	}
	for _, is := range []func(error) bool{
		isType[*net.OpError], isType[*net.DNSError], isType[*tls.CertificateVerificationError], isType[x509.UnknownAuthorityError],
		isType[x509.HostnameError], isType[tls.RecordHeaderError], isType[tls.AlertError], isType[*kgo.ErrGroupSession], isType[*kgo.ErrFirstReadEOF],
	} {
		if is(err) {
			return KindEnvironment
		}
	}
	if kgo.IsRetryableBrokerErr(err) {
		return KindEnvironment
	}
	return KindOther
}

func isType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
