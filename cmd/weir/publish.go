package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/sample"
)

// A publishSummary is what `weir publish --json` prints.
type publishSummary struct {
	Read      int64   `json:"read"`
	Published int64   `json:"published"`
	Refused   int64   `json:"refused"`
	Seconds   float64 `json:"seconds"`
}

// A reject is one line of the file of --rejects.
type reject struct {
	Line   int64           `json:"line"`
	Path   string          `json:"path"`
	Reason string          `json:"reason"`
	Input  json.RawMessage `json:"input"` // the line, as a JSON string if it is no JSON
}

type publishCmd struct {
	*app
	entity      string
	brokers     []string
	rejects     string
	createTopic bool
	partitions  int
	dryRun      bool
	sample      sample.Options

	contract *contract
	admin    *kafka.Admin    // nil: dry run
	producer *kafka.Producer // nil: dry run
	out      io.WriteCloser  // rejects, nil if none
	created  map[string]bool

	mu        sync.Mutex
	published int64
	failed    error // the first record that Kafka did not take
}

func newPublishCommand(a *app) *cobra.Command {
	c := &publishCmd{app: a, created: map[string]bool{}}
	cmd := &cobra.Command{
		Use:   "publish FILE|-",
		Short: "Check events against the schemas and publish them to Kafka",
		Long: `Read events as JSON lines, check them against schema and rules, and publish them as Avro with Confluent framing to
canonical.<entity>, keyed by the entity's id. Order is kept per key. A line is one of

  {"entity":"customer","event":{…},"headers":{"ce_id":"…"}}
  {"entity":"customer","schema_version":1,"event":{…}}   written in an older version of the schema; default the newest
  {"entity":"customer","key":"CUST-1","event":null}      a tombstone: the entity is gone
  {"event_type":"customer.updated",…}                    the bare event; or any event with --entity

A bad line is refused with its number, path and reason, also to the file of --rejects, and the others go on; then the
exit code is 2. headers (ce_*, traceparent, …) are passed on as they are.`,
		Example: `  weir publish events.jsonl --rejects bad.jsonl
  weir publish --entity customer --brokers localhost:9092 --create-topics -
  weir publish --sample 1000 --seed 1 --customers 100 --create-topics --partitions 6
  weir publish --dry-run events.jsonl`,
		Args: func(cmd *cobra.Command, args []string) error {
			if c.sample.Events != 0 && len(args) > 0 {
				return usageError("publish", "--sample takes no file", "give either a file or --sample N")
			}
			if c.sample.Events == 0 && len(args) != 1 {
				return usageError("publish", "wants one file, or - for standard input", "see weir publish --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := a.interruptible(cmd.Context(), nil)
			defer stop()
			return c.run(ctx, args)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&c.entity, "entity", "", "entity type of all lines")
	fs.StringSliceVar(&c.brokers, "brokers", nil, "Kafka brokers, host:port; overrides the config, which is then not needed")
	fs.StringVar(&c.rejects, "rejects", "", "write refused lines to this file, as JSON lines {line, path, reason, input}")
	fs.BoolVar(&c.createTopic, "create-topics", false, "create topics that do not exist")
	fs.IntVar(&c.partitions, "partitions", 6, "partitions of created topics")
	fs.BoolVar(&c.dryRun, "dry-run", false, "check everything, publish nothing; needs no Kafka")
	sampleFlags(fs, &c.sample)
	a.jsonFlag(cmd, "one JSON object {read, published, refused, seconds}")
	return cmd
}

func (c *publishCmd) run(ctx context.Context, args []string) (err error) {
	if c.partitions < 1 || c.partitions > 10_000 {
		return usageError("--partitions", fmt.Sprintf("%d is not within 1 to 10000", c.partitions), "")
	}
	in, size, name, err := c.input(args)
	if err != nil {
		return err
	}
	defer in.Close()
	if err := c.open(ctx); err != nil {
		return err
	}
	if c.producer != nil {
		defer c.admin.Close()
		defer c.producer.Close()
	}
	if c.rejects != "" {
		if c.out, err = c.Create(c.rejects); err != nil {
			return yours("open rejects file", err, "give a path that can be written")
		}
		defer func() {
			if cerr := c.out.Close(); cerr != nil && err == nil {
				err = fmt.Errorf("write rejects to %s: %w", c.rejects, cerr)
			}
		}()
	}
	started := c.Now()
	var sum publishSummary
	err = c.lines(ctx, in, name, size, &sum)
	if c.producer != nil {
		// What was handed over is waited for, also after an interrupt: the buffer holds seconds of it.
		flushCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		if ferr := c.producer.Flush(flushCtx); ferr != nil && err == nil {
			err = environment("publish", ferr, "is Kafka reachable? see weir check")
		}
	}
	c.mu.Lock()
	if c.failed != nil && (err == nil || errors.Is(err, errStopProduce)) {
		err = environment("publish", c.failed, "what was published before stays; the events can be published again, weir drops doubles")
	}
	sum.Published = c.published
	c.mu.Unlock()
	sum.Seconds = round3(c.Now().Sub(started).Seconds())
	if perr := c.summary(sum); perr != nil && err == nil {
		err = perr
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err == nil && sum.Refused > 0 {
		return silent{exitYours}
	}
	return err
}

// flushTimeout bounds the wait for what Kafka has not acknowledged at the end.
const flushTimeout = 60 * time.Second

var errStopProduce = errors.New("a record could not be published")

func round3(s float64) float64 { return float64(int64(s*1000+0.5)) / 1000 }

func (c *publishCmd) input(args []string) (io.ReadCloser, int64, string, error) {
	if c.sample.Events != 0 {
		r, err := newSampleReader(c.sample)
		if err != nil {
			return nil, 0, "", yours("publish --sample", err, "")
		}
		return io.NopCloser(r), 0, "sample", nil
	}
	if args[0] == "-" {
		return io.NopCloser(c.Stdin), 0, "standard input", nil
	}
	f, size, err := c.Open(args[0])
	if err != nil {
		hint := ""
		if errors.Is(err, fs.ErrNotExist) {
			hint = "give the path of a file of JSON lines, or - for standard input"
		}
		return nil, 0, "", yours("publish", err, hint)
	}
	return f, size, args[0], nil
}

// open opens schemas and Kafka.
func (c *publishCmd) open(ctx context.Context) error {
	var cfg *config.Config
	var err error
	if len(c.brokers) > 0 {
		cfg, err = c.optionalConfig()
	} else if c.dryRun {
		cfg, err = c.optionalConfig()
	} else if cfg, err = c.config(); err != nil && errors.Is(err, fs.ErrNotExist) {
		return yours("publish", err, "give --brokers host:port, or a config with --config")
	}
	if err != nil {
		return err
	}
	if c.contract, err = c.loadContract(cfg); err != nil {
		return err
	}
	if c.dryRun {
		return nil
	}
	k := config.Kafka{}
	if cfg != nil {
		k = cfg.Kafka
	}
	if len(c.brokers) > 0 {
		k.Brokers = c.brokers
	}
	if c.admin, err = c.connect(ctx, k); err != nil {
		return err
	}
	kc, err := c.kafkaConfig(k)
	if err == nil {
		c.producer, err = kafka.NewProducer(kc)
	}
	if err != nil {
		c.admin.Close()
		return environment("connect to Kafka", err, "")
	}
	return nil
}

// lines publishes all lines of in.
func (c *publishCmd) lines(ctx context.Context, in io.Reader, name string, size int64, sum *publishSummary) error {
	bar := c.progress("publish")
	defer bar.end()
	r := bufio.NewReaderSize(in, 64<<10)
	var buf []byte
	var read int64
	for n := int64(1); ; n++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		data, tooLong, bytesRead, err := readLine(r, buf[:0])
		buf = data
		read += bytesRead
		if err != nil && err != io.EOF {
			return fmt.Errorf("read %s at line %d: %w", name, n, err)
		}
		if n == 1 {
			data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
		}
		data = bytes.TrimSpace(data)
		if len(data) > 0 || tooLong {
			sum.Read++
			var lerr error
			if tooLong {
				lerr = &lineError{reason: fmt.Sprintf("longer than %d MiB", lineBytesMax>>20)}
			} else {
				lerr = c.line(ctx, data)
			}
			if refusal := asRefusal(lerr); refusal != nil {
				sum.Refused++
				if err := c.refuse(n, refusal, data, tooLong, bar); err != nil {
					return err
				}
			} else if lerr != nil {
				return lerr
			}
		}
		bar.update(read, size, sum.Read)
		if err == io.EOF {
			return nil
		}
	}
}

// readLine reads up to the next newline, which is not part of the result. Of a line beyond lineBytesMax only the
// length is kept.
func readLine(r *bufio.Reader, buf []byte) (data []byte, tooLong bool, n int64, err error) {
	for {
		part, err := r.ReadSlice('\n')
		n += int64(len(part))
		if tooLong = tooLong || len(buf)+len(part) > lineBytesMax; tooLong {
			buf = buf[:0]
		} else {
			buf = append(buf, part...)
		}
		if err != bufio.ErrBufferFull {
			return buf, tooLong, n, err
		}
	}
}

// line checks and publishes one line. A *lineError or *schema.RefusedError is the line's fault.
func (c *publishCmd) line(ctx context.Context, data []byte) error {
	l, err := parseLine(data, c.entity, c.contract.set.Entities())
	if err != nil {
		return err
	}
	m := kafka.Out{Topic: canonicalTopic(l.entity), Partition: -1, Key: []byte(l.key), Headers: l.headers}
	if l.event != nil {
		key, value, err := c.contract.encode(ctx, l.entity, l.version, l.event)
		if err != nil {
			return err
		}
		if l.key != "" && l.key != key {
			return &lineError{"key", "differs from the entity's id in the event"}
		}
		m.Key, m.Value = []byte(key), value
	}
	if c.dryRun {
		c.mu.Lock()
		c.published++
		c.mu.Unlock()
		return nil
	}
	if err := c.ensureTopic(ctx, m.Topic); err != nil {
		return err
	}
	c.mu.Lock()
	failed := c.failed
	c.mu.Unlock()
	if failed != nil {
		return errStopProduce
	}
	c.producer.ProduceAsync(ctx, m, func(p kafka.Placed) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.Err == nil {
			c.published++
		} else if c.failed == nil {
			c.failed = p.Err
		}
	})
	return nil
}

// ensureTopic sees to it that the topic exists before its first record; without --create-topics a missing one is
// an error with that hint, since brokers may create topics with one partition by themselves.
func (c *publishCmd) ensureTopic(ctx context.Context, topic string) error {
	if c.created[topic] {
		return nil
	}
	if c.createTopic {
		if _, err := c.admin.CreateTopic(ctx, topic, int32(c.partitions)); err != nil {
			return environment("create topic "+topic, err, "")
		}
	} else {
		infos, err := c.admin.Topics(ctx, topic)
		if err != nil {
			return environment("look at topic "+topic, err, "")
		}
		if !infos[topic].Exists {
			return &failure{exitEnv, "publish", fmt.Errorf("topic %s does not exist", topic), "create it with your tools, or add --create-topics --partitions N"}
		}
	}
	c.created[topic] = true
	return nil
}

func (c *publishCmd) refuse(n int64, e *lineError, data []byte, tooLong bool, bar *progress) error {
	bar.end()
	c.notef("line %d: %s", n, e)
	if c.out == nil {
		return nil
	}
	rej := reject{Line: n, Path: e.path, Reason: e.reason}
	if json.Valid(data) && !tooLong {
		rej.Input = data
	} else {
		s, err := json.Marshal(string(data))
		if err != nil {
			return err
		}
		rej.Input = s
	}
	out, err := json.Marshal(rej)
	if err != nil {
		return err
	}
	if _, err := c.out.Write(append(out, '\n')); err != nil {
		return fmt.Errorf("write rejects to %s: %w", c.rejects, err)
	}
	return nil
}

func (c *publishCmd) summary(s publishSummary) error {
	if c.asJSON {
		return c.printJSON(s)
	}
	verb := "published"
	if c.dryRun {
		verb = "would be published"
	}
	_, err := fmt.Fprintf(c.Stdout, "%s read, %s %s, %s refused in %.1f s\n", thousands(s.Read), thousands(s.Published), verb, thousands(s.Refused), s.Seconds)
	return err
}
