package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/schema"
)

type verifyCmd struct {
	*app
	connector string
	effects   string
	complete  bool
	aliases   []string
}

func newVerifyCommand(a *app) *cobra.Command {
	c := &verifyCmd{app: a}
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Check topics, ledger and the vendor's effects against each other",
		Long: `Compare what was published (the topics), what weir says became of it (the store), and what the vendor says it did
(its effects log), and report each place where they disagree, with the number of the promise that is broken. It
reads; it changes nothing, and may run beside a running weir.

The effects log is JSON lines {seq, at, vendor, operation, object, reference, idempotency_key, status, effect}: a
file, or the admin URL of a sandbox. Without --effects nothing is said about effects: neither doubled nor missing
ones, and little about order. Routes and what an operation's repeat does come from the connector's profile.

--complete says that the connector claims to be done, so that every record must have its outcomes; without it
records above the committed offset may be pending.

Exit code 1 if anything is found. It holds about 1 KiB in memory for each record of the topics.`,
		Example: `  weir verify --connector pushcash --effects http://127.0.0.1:9102 --complete
  weir verify --connector pushcash --effects effects.jsonl --json | jq '.kinds'
  weir verify --connector mine --effects mine.jsonl --alias put_customer=put_thing`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := a.interruptible(cmd.Context(), nil)
			defer stop()
			return c.run(ctx)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&c.connector, "connector", "", "connector to check; may be left out if the config has only one")
	fs.StringVar(&c.effects, "effects", "", "the vendor's effects log: a file, or the admin URL of a sandbox")
	fs.BoolVar(&c.complete, "complete", false, "every record up to the end must have its outcomes")
	fs.StringArrayVar(&c.aliases, "alias", nil, "PLANNED=LOGGED: an operation of the profile that the log calls otherwise; may be repeated")
	a.jsonFlag(cmd, "one JSON object {events, outcomes…, lost, duplicated, reordered, effects, reasons, kinds, findings, omitted}")
	return cmd
}

func (c *verifyCmd) run(ctx context.Context) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	name, err := c.pick(cfg)
	if err != nil {
		return err
	}
	aliases, err := keyValues("--alias", c.aliases)
	if err != nil {
		return err
	}
	h, err := c.newHistory(cfg, name)
	if err != nil {
		return err
	}
	maps.Copy(h.options.Alias, aliases)
	h.options.Complete = c.complete
	if h.store, err = c.readStore(ctx, cfg); err != nil {
		return err
	}
	defer h.store.Close()
	if err := h.open(ctx); err != nil {
		return err
	}
	defer h.close()
	bar := c.progress("verify")
	h.progress = bar.update
	var log verify.EffectsLog
	if c.effects != "" {
		log = func(ctx context.Context) ([]verify.Effect, error) { return loadEffects(ctx, c.effects) }
	}
	rep, err := verify.Run(ctx, h, h.store, log, h.options)
	bar.end()
	if err != nil {
		return environment("verify connector "+name, err, "")
	}
	if log == nil {
		c.notef("no effects log was given: nothing is said about what the vendor did (--effects FILE or URL)")
	}
	if c.asJSON {
		err = c.printJSON(rep)
	} else if err = rep.WriteText(c.Stdout); err != nil {
		err = fmt.Errorf("write output: %w", err)
	}
	if err == nil && !rep.Clean() {
		err = silent{exitOurs}
	}
	return err
}

// pick is the connector to check.
func (c *verifyCmd) pick(cfg *config.Config) (string, error) {
	names := cfg.Names()
	if c.connector == "" && len(names) == 1 {
		return names[0], nil
	}
	if c.connector == "" {
		return "", usageError("--connector", fmt.Sprintf("the config has %d connectors", len(names)), "use one of "+strings.Join(names, ", "))
	}
	if !slices.Contains(names, c.connector) {
		return "", usageError("--connector", fmt.Sprintf("connector %q is not in the config", c.connector), "use one of "+strings.Join(names, ", "))
	}
	return c.connector, nil
}

// loadEffects reads an effects log; its errors know whose they are.
func loadEffects(ctx context.Context, from string) ([]verify.Effect, error) {
	es, err := verify.LoadEffects(ctx, nil, from)
	switch {
	case err == nil:
		return es, nil
	case strings.HasPrefix(from, "http://"), strings.HasPrefix(from, "https://"):
		return nil, environment("--effects", err, "")
	case errors.Is(err, fs.ErrNotExist):
		return nil, yours("--effects", err, "give the file that the sandbox wrote (--effects-file), or its admin URL")
	}
	return nil, yours("--effects", err, "")
}

// A history is one connector's past as the checker reads it: records and copies from Kafka, the ledger from the store.
// It decodes with the schemas of the config and reads with a client of its own; of the engine it uses nothing.
type history struct {
	app       *app
	cfg       *config.Config
	connector string
	topics    map[string]string // topic -> entity
	decoder   schema.Decoder
	options   verify.Options
	store     checkpoint.Store
	admin     *kafka.Admin
	reader    *kafka.Reader
	// progress is told of records read and to be read; nil: nobody asks.
	progress    func(done, total, records int64)
	read, total int64
}

// newHistory prepares the check of a connector: what its profile says of routes and operations, as the checker wants it.
func (a *app) newHistory(cfg *config.Config, name string) (*history, error) {
	c, err := a.loadContract(cfg)
	if err != nil {
		return nil, err
	}
	k := cfg.Connectors[name]
	compiled, err := c.compile(name, k, 1)
	if err != nil {
		return nil, err
	}
	h := &history{app: a, cfg: cfg, connector: name, topics: map[string]string{}}
	h.options = verify.Options{Connector: name, Classes: map[string]verify.Class{}, Alias: map[string]string{}}
	for _, r := range compiled.Routes {
		h.topics[k.Topic(r.Entity)] = r.Entity
		h.options.Routes = append(h.options.Routes, verify.Route{Name: r.Name, Entity: r.Entity, Every: r.Semantics == profile.Every})
	}
	for op, o := range compiled.Operations {
		h.options.Classes[op] = verify.Class(o.Class)
	}
	alias, own := sandbox.Logged(compiled.Vendor)
	maps.Copy(h.options.Alias, alias)
	for _, op := range own {
		h.options.Classes[op] = verify.ClassVendor
	}
	if h.decoder, err = c.decoderFor(cfg, h.topics); err != nil {
		return nil, yours("connector "+name, err, "")
	}
	return h, nil
}

// open connects to Kafka.
func (h *history) open(ctx context.Context) (err error) {
	if h.admin, err = h.app.connect(ctx, h.cfg.Kafka); err != nil {
		return err
	}
	kc, err := h.app.kafkaConfig(h.cfg.Kafka)
	if err == nil {
		h.reader, err = kafka.NewReader(kc)
	}
	if err != nil {
		h.admin.Close()
		return environment("connect to Kafka", err, "")
	}
	return nil
}

func (h *history) close() {
	h.reader.Close()
	h.admin.Close()
}

var _ verify.Source = (*history)(nil)

// Partitions implements verify.Source.
func (h *history) Partitions(ctx context.Context) ([]verify.Partition, error) {
	names := slices.Sorted(maps.Keys(h.topics))
	infos, err := h.admin.Topics(ctx, names...)
	if err != nil {
		return nil, err
	}
	lags, err := h.admin.GroupLag(ctx, config.Group(h.connector), names...)
	if err != nil {
		return nil, err
	}
	var out []verify.Partition
	for _, name := range names {
		for i := range infos[name].Partitions {
			l := lags[kafka.TP{Topic: name, Partition: i}]
			p := verify.Partition{
				Partition: checkpoint.Partition{Connector: h.connector, Topic: name, ID: infos[name].ID, Index: i},
				Entity:    h.topics[name], Start: l.LogStart, End: l.End, Committed: -1, Compacted: infos[name].Compacted(),
			}
			if l.Committed.OK {
				p.Committed = l.Committed.Offset
			}
			h.total += p.End - p.Start
			out = append(out, p)
		}
	}
	return out, nil
}

// Records implements verify.Source.
func (h *history) Records(ctx context.Context, p verify.Partition, f func(verify.Record) error) error {
	return h.reader.Scan(ctx, kafka.TP{Topic: p.Topic, Partition: p.Index}, p.Start, p.End, func(r *kafka.Record) error {
		h.count()
		if r.Control {
			return f(verify.Record{Offset: r.Offset, Control: true})
		}
		v, err := verify.Decode(ctx, h.decoder, &r.Record)
		if err != nil {
			return err
		}
		return f(v)
	})
}

// Copies implements verify.Source.
func (h *history) Copies(ctx context.Context, topic string, f func(verify.Copy) error) error {
	infos, err := h.admin.Topics(ctx, topic)
	if err != nil {
		return err
	}
	var tps []kafka.TP
	for i := range infos[topic].Partitions { // none if it does not exist
		tps = append(tps, kafka.TP{Topic: topic, Partition: i})
	}
	if len(tps) == 0 {
		return nil
	}
	ends, err := h.admin.Ends(ctx, tps...)
	if err != nil {
		return err
	}
	for _, tp := range tps {
		h.total += ends[tp].End - ends[tp].LogStart
		err := h.reader.Scan(ctx, tp, ends[tp].LogStart, ends[tp].End, func(r *kafka.Record) error {
			h.count()
			if r.Control {
				return nil
			}
			return f(verify.Copy{Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: r.Headers})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *history) count() {
	h.read++
	if h.progress != nil {
		h.progress(h.read, h.total, h.read)
	}
}
