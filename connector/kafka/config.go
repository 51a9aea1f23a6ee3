package kafka

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// SASL mechanisms.
const (
	Plain       = "PLAIN"
	ScramSHA256 = "SCRAM-SHA-256"
	ScramSHA512 = "SCRAM-SHA-512"
)

// SASL says who we are to the brokers.
type SASL struct {
	Mechanism string // Plain, ScramSHA256 or ScramSHA512
	User      string
	// Password is asked for every new connection, so a rotated secret is taken without a restart. A function, so
	// that printing a Config cannot show it (promise 9).
	Password func() (string, error)
}

// Metrics is told of what happens, for counters. All methods must be fast and safe for concurrent use.
type Metrics interface {
	// Fetched: one poll's records of a partition, control records included; bytes are keys and values.
	Fetched(topic string, partition int32, records, bytes int)
	// Committed: one commit of n partitions.
	Committed(n int, took time.Duration, err error)
	// Produced: one record of the given size in bytes (key and value); err nil = acknowledged by all replicas in sync.
	Produced(topic string, bytes int, err error)
	// Rebalanced: partitions that came, were revoked, were lost.
	Rebalanced(assigned, revoked, lost int)
}

// Defaults and bounds of Config. The two timeouts are the Java client's defaults since Kafka 3.0.
const (
	DefaultClientID         = "weir"
	DefaultSessionTimeout   = 10 * time.Second
	DefaultRebalanceTimeout = 60 * time.Second
	// DefaultFetchBytesMax bounds one broker's answer. The client holds one answer per broker, so three brokers
	// cost 48 MiB at most; design section 15's loop needs about 10 MB/s, so 16 MiB is more than a second of work.
	DefaultFetchBytesMax = 16 << 20
	// DefaultFetchPartitionBytesMax is Kafka's max.partition.fetch.bytes.
	DefaultFetchPartitionBytesMax = 1 << 20
	DefaultFetchWait              = 500 * time.Millisecond // Kafka's fetch.max.wait.ms
	DefaultPollRecordsMax         = 10_000
	DefaultCheckInterval          = 5 * time.Second
	DefaultRequestTimeout         = 15 * time.Second
	// DefaultDecompressedBatchBytesMax bounds one batch after decompression: a small batch must not fill memory.
	DefaultDecompressedBatchBytesMax = 128 << 20
	DefaultProduceBufferRecordsMax   = 10_000
	DefaultProduceBufferBytesMax     = 64 << 20
	DefaultProduceTimeout            = 30 * time.Second
	// DefaultBatchBytesMax is a little under Kafka's default max.message.bytes of 1,048,588.
	DefaultBatchBytesMax = 1_000_000
)

// A Config says how to reach Kafka and how to read and write. The zero value of a field means its default; Brokers
// must be set, and Group and Topics too for a Consumer.
type Config struct {
	Brokers  []string    // bootstrap servers, host:port
	TLS      *tls.Config // nil: no TLS
	SASL     *SASL       // nil: none
	ClientID string      // default DefaultClientID

	Group  string   // consumer group, weir.<connector>
	Topics []string // topics to consume

	// SessionTimeout: a member that was not heard of for so long loses its partitions.
	SessionTimeout time.Duration
	// RebalanceTimeout bounds how long a revoked partition may take to be given up; Handler.Revoke gets four
	// fifths of it.
	RebalanceTimeout time.Duration
	// FetchBytesMax bounds one broker's fetch answer, FetchPartitionBytesMax one partition's part of it. A single
	// larger batch still comes through.
	FetchBytesMax          int32
	FetchPartitionBytesMax int32
	// FetchWait is how long a broker waits for something new before it answers an empty fetch; 10 ms at least.
	FetchWait time.Duration
	// PollRecordsMax bounds the records of one Handler.Records call.
	PollRecordsMax int
	// DecompressedBatchBytesMax bounds one record batch after decompression; a larger one is trouble.
	DecompressedBatchBytesMax int
	// CheckInterval is the time between two checks of topic ids and log ranges.
	CheckInterval time.Duration
	// RequestTimeout bounds one administrative request with its retries.
	RequestTimeout time.Duration

	// ProduceBufferRecordsMax and ProduceBufferBytesMax bound what waits to be written: Produce blocks beyond.
	ProduceBufferRecordsMax int
	ProduceBufferBytesMax   int
	// ProduceTimeout bounds how long a record may wait for its acknowledgement, retries included.
	ProduceTimeout time.Duration
	// BatchBytesMax is the largest batch, before compression, that is written to a topic that is not in
	// TopicBatchBytesMax. A larger record is refused. Keep it at or below the topic's max.message.bytes.
	BatchBytesMax      int32
	TopicBatchBytesMax map[string]int32

	// Dial replaces the TCP dial, for tests and tunnels. It cannot be set together with TLS.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Metrics may be nil.
	Metrics Metrics
}

// WithDefaults fills the zero fields.
func (c Config) WithDefaults() Config {
	def(&c.ClientID, DefaultClientID)
	def(&c.SessionTimeout, DefaultSessionTimeout)
	def(&c.RebalanceTimeout, DefaultRebalanceTimeout)
	def(&c.FetchBytesMax, DefaultFetchBytesMax)
	def(&c.FetchPartitionBytesMax, DefaultFetchPartitionBytesMax)
	def(&c.FetchWait, DefaultFetchWait)
	def(&c.PollRecordsMax, DefaultPollRecordsMax)
	def(&c.DecompressedBatchBytesMax, DefaultDecompressedBatchBytesMax)
	def(&c.CheckInterval, DefaultCheckInterval)
	def(&c.RequestTimeout, DefaultRequestTimeout)
	def(&c.ProduceBufferRecordsMax, DefaultProduceBufferRecordsMax)
	def(&c.ProduceBufferBytesMax, DefaultProduceBufferBytesMax)
	def(&c.ProduceTimeout, DefaultProduceTimeout)
	def(&c.BatchBytesMax, DefaultBatchBytesMax)
	if c.Metrics == nil {
		c.Metrics = noMetrics{}
	}
	return c
}

func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

type noMetrics struct{}

func (noMetrics) Fetched(string, int32, int, int)     {}
func (noMetrics) Committed(int, time.Duration, error) {}
func (noMetrics) Produced(string, int, error)         {}
func (noMetrics) Rebalanced(int, int, int)            {}

// A ConfigError lists every problem of a Config.
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string {
	if len(e.Problems) == 1 {
		return "kafka config: " + e.Problems[0]
	}
	return fmt.Sprintf("kafka config: %d problems: %s", len(e.Problems), strings.Join(e.Problems, "; "))
}

// Validate checks what every client needs and reports all problems as one *ConfigError.
func (c Config) Validate() error { return c.validate(false) }

// ValidateConsumer checks that and what a Consumer needs.
func (c Config) ValidateConsumer() error { return c.validate(true) }

func (c Config) validate(consumer bool) error {
	c = c.WithDefaults()
	var ps []string
	add := func(format string, args ...any) { ps = append(ps, fmt.Sprintf(format, args...)) }
	if len(c.Brokers) == 0 {
		add("brokers is empty (name at least one, host:port)")
	}
	for i, b := range c.Brokers {
		if h, p, err := net.SplitHostPort(b); err != nil || h == "" || p == "" {
			add("brokers[%d] %q is not host:port", i, b)
		}
	}
	if s := c.SASL; s != nil {
		if !slices.Contains([]string{Plain, ScramSHA256, ScramSHA512}, s.Mechanism) {
			add("sasl.mechanism %q is not known (use %s, %s or %s)", s.Mechanism, Plain, ScramSHA256, ScramSHA512)
		}
		if s.User == "" {
			add("sasl.user is empty")
		}
		if s.Password == nil {
			add("sasl.password is missing")
		}
	}
	if c.TLS != nil && c.Dial != nil {
		add("tls and a dialer of your own exclude each other (let the dialer speak TLS)")
	}
	positive := func(name string, v int64) {
		if v < 0 {
			add("%s is %d, less than 0", name, v)
		}
	}
	positive("session timeout", int64(c.SessionTimeout))
	positive("rebalance timeout", int64(c.RebalanceTimeout))
	positive("fetch bytes", int64(c.FetchBytesMax))
	positive("fetch partition bytes", int64(c.FetchPartitionBytesMax))
	positive("poll records", int64(c.PollRecordsMax))
	positive("decompressed batch bytes", int64(c.DecompressedBatchBytesMax))
	positive("check interval", int64(c.CheckInterval))
	positive("request timeout", int64(c.RequestTimeout))
	positive("produce buffer records", int64(c.ProduceBufferRecordsMax))
	positive("produce buffer bytes", int64(c.ProduceBufferBytesMax))
	if c.DecompressedBatchBytesMax > math.MaxInt32 {
		add("decompressed batch bytes is %d, more than %d", c.DecompressedBatchBytesMax, math.MaxInt32)
	}
	if c.FetchWait < 10*time.Millisecond {
		add("fetch wait is %v, less than 10ms", c.FetchWait)
	}
	// An attempt must be able to fail once and be repeated.
	if c.ProduceTimeout < time.Second {
		add("produce timeout is %v, less than 1s", c.ProduceTimeout)
	}
	batch := func(name string, n int32) {
		if n < 512 || n > 1<<30 {
			add("%s is %d, not within 512 and %d", name, n, 1<<30)
		}
	}
	batch("batch bytes", c.BatchBytesMax)
	for t, n := range c.TopicBatchBytesMax {
		batch("batch bytes of "+t, n)
	}
	if c.FetchPartitionBytesMax > c.FetchBytesMax {
		add("fetch partition bytes (%d) is more than fetch bytes (%d)", c.FetchPartitionBytesMax, c.FetchBytesMax)
	}
	if consumer {
		if c.Group == "" {
			add("group is empty (it is weir.<connector>)")
		}
		if len(c.Topics) == 0 {
			add("topics is empty (name at least one to consume)")
		}
		if c.SessionTimeout > 0 && c.SessionTimeout < 3*time.Millisecond {
			add("session timeout is %v, less than 3ms", c.SessionTimeout)
		}
		seen := map[string]bool{}
		for i, t := range c.Topics {
			if err := checkTopicName(t); err != nil {
				add("topics[%d]: %v", i, err)
			}
			if seen[t] {
				add("topics[%d] %q is named twice", i, t)
			}
			seen[t] = true
		}
	}
	if len(ps) > 0 {
		return &ConfigError{Problems: ps}
	}
	return nil
}

// checkTopicName applies Kafka's rule: 1 to 249 of letters, digits, dots, underscores, hyphens.
func checkTopicName(t string) error {
	if t == "" || len(t) > 249 || t == "." || t == ".." {
		return fmt.Errorf("%q is not a topic name (1 to 249 characters, not . or ..)", t)
	}
	for _, c := range []byte(t) {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return fmt.Errorf("%q is not a topic name (letters, digits, dot, underscore and hyphen only)", t)
		}
	}
	return nil
}

// clientOpts are the options of every client. c has its defaults.
func (c Config) clientOpts() []kgo.Opt {
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(c.ClientID),
		kgo.SoftwareNameAndVersion("weir", "1"),
		kgo.DisableClientMetrics(),
		kgo.RetryTimeoutFn(func(key int16) time.Duration {
			switch kmsg.Key(key) {
			case kmsg.JoinGroup, kmsg.SyncGroup, kmsg.Heartbeat: // the client's own rule for these
				return c.SessionTimeout
			}
			return c.RequestTimeout
		}),
		kgo.MaxDecompressBatchBytes(c.DecompressedBatchBytesMax),
		// A broker that is back must be noticed within seconds, so the backoff stays short; Kafka's own clients
		// use 100 ms to 1 s.
		kgo.RetryBackoffFn(func(n int) time.Duration { return min(100*time.Millisecond<<min(n, 4), time.Second) }),
		kgo.MetadataMinAge(250 * time.Millisecond),
	}
	if c.Dial != nil {
		opts = append(opts, kgo.Dialer(c.Dial))
	} else {
		opts = append(opts, kgo.DialTimeout(checkTimeout)) // a request waits for the end of a dial, whatever its own time
	}
	if c.TLS != nil {
		opts = append(opts, kgo.DialTLSConfig(c.TLS.Clone()))
	}
	if c.SASL != nil {
		opts = append(opts, kgo.SASL(c.SASL.mechanism()))
	}
	return opts
}

func (s *SASL) mechanism() sasl.Mechanism {
	switch s.Mechanism {
	case ScramSHA256:
		return scram.Sha256(s.scram)
	case ScramSHA512:
		return scram.Sha512(s.scram)
	}
	return plain.Plain(func(context.Context) (plain.Auth, error) {
		pass, err := s.password()
		return plain.Auth{User: s.User, Pass: pass}, err
	})
}

func (s *SASL) scram(context.Context) (scram.Auth, error) {
	pass, err := s.password()
	return scram.Auth{User: s.User, Pass: pass}, err
}

func (s *SASL) password() (string, error) {
	pass, err := s.Password()
	if err != nil {
		return "", fmt.Errorf("read the SASL password of %s: %w", s.User, err)
	}
	if pass == "" {
		return "", fmt.Errorf("read the SASL password of %s: %w", s.User, errEmptyPassword)
	}
	return pass, nil
}

var errEmptyPassword = errors.New("it is empty")
