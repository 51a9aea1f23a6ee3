package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/schema"
)

// A parkedRow is one line of `weir parked ls --json`.
type parkedRow struct {
	Connector string     `json:"connector"`
	Route     string     `json:"route"`
	Origin    string     `json:"origin"`
	EventID   string     `json:"event_id"`
	Entity    string     `json:"entity"`
	Key       string     `json:"key"`
	Version   int64      `json:"version"`
	Cause     string     `json:"cause"`
	Reason    string     `json:"reason"`
	Guidance  string     `json:"guidance"`
	Attempts  int        `json:"attempts"`
	At        *time.Time `json:"at"`
	State     string     `json:"state"`
}

// A parkedDetail is what `weir parked show --json` prints for one entry.
type parkedDetail struct {
	parkedRow
	Since      *time.Time     `json:"since"`
	By         string         `json:"by"`
	Generation uint32         `json:"generation"`
	Copy       string         `json:"copy"`       // origin of the record's copy in the parked topic
	Supersedes []string       `json:"supersedes"` // event ids that it had superseded
	Holds      []parkedRow    `json:"holds"`      // later records of its key that wait behind it
	Outcome    *traceOutcome  `json:"outcome"`    // with its plan and attempts
	Payload    map[string]any `json:"payload,omitempty"`
}

func newParkedCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "parked",
		Short: "Look at records that wait for a person or for another record",
		Long: `Look at parked records: refused by the vendor, exhausted, ambiguous, or held behind one of those. Their bytes are in
weir.<connector>.parked; nothing is lost.`,
		Example: `  weir parked ls --cause rejected
  weir parked show canonical.invoice/3/1207`,
	}, newParkedList(a), newParkedShow(a))
}

func newParkedList(a *app) *cobra.Command {
	var q checkpoint.ParkedQuery
	var cause string
	all := false
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List parked records",
		Long:  "List open parked records by key and offset; with --all also those that are released, resolved, superseded or skipped.",
		Example: `  weir parked ls
  weir parked ls --connector pushcash --cause ambiguous --json
  weir parked ls --entity invoice --key INV-7 --all`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q.Cause = checkpoint.Cause(cause)
			if cause != "" && !slices.Contains(parkedCauses(), cause) {
				return usageError("--cause", fmt.Sprintf("%q is not a cause", cause), "use one of "+strings.Join(parkedCauses(), ", "))
			}
			if !all {
				q.States = []checkpoint.ParkedState{checkpoint.ParkedOpen}
			}
			limit := q.Limit
			if limit < 1 || limit > parkedCountMax {
				return usageError("--limit", fmt.Sprintf("%d is not within 1 to %d", limit, parkedCountMax), "")
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			if q.Connector != "" && cfg.Connectors[q.Connector] == nil {
				return usageError("--connector", fmt.Sprintf("%q is not in the config", q.Connector), "use one of "+strings.Join(cfg.Names(), ", "))
			}
			store, err := a.readStore(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer store.Close()
			ask := q
			ask.Limit++
			list, err := store.Parked(cmd.Context(), ask)
			if err != nil {
				return environment("list parked records", err, "")
			}
			if len(list) > limit {
				list = list[:limit]
				a.notef("only the first %d are shown; see --limit", limit)
			}
			rows := []parkedRow{}
			for _, p := range list {
				rows = append(rows, parkedRowOf(p))
			}
			if a.asJSON {
				return a.printJSON(rows)
			}
			return a.printParked(rows)
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&q.Connector, "connector", "", "of this connector alone")
	fs.StringVar(&q.Entity, "entity", "", "of this entity type alone")
	fs.StringVar(&q.Key, "key", "", "of this entity id alone")
	fs.StringVar(&cause, "cause", "", "with this cause alone: "+strings.Join(parkedCauses(), ", "))
	fs.BoolVar(&all, "all", false, "also those that are closed")
	fs.IntVar(&q.Limit, "limit", 1000, "how many at most")
	a.jsonFlag(cmd, "a JSON array of {connector, route, origin, event_id, entity, key, version, cause, reason, guidance, attempts, at, state}")
	return cmd
}

func parkedCauses() []string {
	return []string{
		string(checkpoint.CauseRejected), string(checkpoint.CauseExhausted), string(checkpoint.CauseAmbiguous), string(checkpoint.CauseHeld),
		string(checkpoint.CauseMissingReference), string(checkpoint.CauseReferenceDeleted), string(checkpoint.CauseVersionRegression),
		string(checkpoint.CauseKeyReuse), string(checkpoint.CauseTenantMismatch), string(checkpoint.CauseFraming), string(checkpoint.CauseSchema),
		string(checkpoint.CauseRule), string(checkpoint.CauseNoKey), string(checkpoint.CauseKeyMismatch), string(checkpoint.CauseTooLarge),
		string(checkpoint.CauseTombstone),
	}
}

func parkedRowOf(p checkpoint.Parked) parkedRow {
	return parkedRow{
		Connector: p.Position.Partition.Connector, Route: p.Position.Route, Origin: p.Position.Origin(), EventID: p.EventID,
		Entity: p.EntityKey.Entity, Key: p.EntityKey.Key, Version: p.Version, Cause: string(p.Cause), Reason: p.Reason, Guidance: p.Guidance,
		Attempts: p.Attempts, At: timeOrNil(p.At), State: string(p.State),
	}
}

func (a *app) printParked(rows []parkedRow) error {
	if len(rows) == 0 {
		_, err := fmt.Fprintln(a.Stdout, "nothing is parked")
		return err
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ORIGIN\tCONNECTOR\tROUTE\tENTITY\tKEY\tCAUSE\tREASON\tATTEMPTS\tPARKED\tSTATE")
	for _, r := range rows {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", r.Origin, r.Connector, r.Route, dash(r.Entity), dash(r.Key), r.Cause, dash(r.Reason), r.Attempts, ago(r.At, a.Now()), r.State)
	}
	return w.Flush()
}

func newParkedShow(a *app) *cobra.Command {
	payload := false
	cmd := &cobra.Command{
		Use:   "show ORIGIN|EVENT_ID",
		Short: "Show one parked record: why, what was tried, what waits behind it",
		Long: `Show why a record is parked, what a person can do, every attempt, which events it had superseded and which later
records of its key wait behind it. ORIGIN is topic/partition/offset. The payload is not shown, except with --payload:
then with the values of all personal fields masked.`,
		Example: `  weir parked show canonical.invoice/3/1207
  weir parked show evt-000123 --payload --json`,
		Args: exactly("ORIGIN or EVENT_ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			store, err := a.readStore(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer store.Close()
			list, err := a.parkedDetails(cmd.Context(), cfg, store, args[0], payload)
			if err != nil {
				return err
			}
			if a.asJSON {
				return a.printJSON(list)
			}
			return a.printParkedDetails(list)
		},
	}
	cmd.Flags().BoolVar(&payload, "payload", false, "also show the event, personal fields masked; reads Kafka")
	a.jsonFlag(cmd, "a JSON array with one object per route: as parked ls, and {since, by, generation, copy, supersedes, holds, outcome, payload}")
	return cmd
}

// parkedDetails finds the entries of an origin or event id: one per route and connector.
func (a *app) parkedDetails(ctx context.Context, cfg *config.Config, store checkpoint.Store, id string, payload bool) ([]parkedDetail, error) {
	fail := func(err error) error { return environment("show parked "+id, err, "") }
	entries, err := store.Parked(ctx, checkpoint.ParkedQuery{EventID: id})
	if err != nil {
		return nil, fail(err)
	}
	rows, err := store.Find(ctx, id, 1000)
	if err != nil {
		return nil, fail(err)
	}
	if _, _, _, ok := checkpoint.ParseOrigin(id); ok {
		seen := map[string]bool{}
		for _, r := range rows {
			if r.Event.ID == "" || seen[r.Event.ID] {
				continue
			}
			seen[r.Event.ID] = true
			more, err := store.Parked(ctx, checkpoint.ParkedQuery{EventID: r.Event.ID})
			if err != nil {
				return nil, fail(err)
			}
			for _, p := range more {
				if p.Position.Origin() == id {
					entries = append(entries, p)
				}
			}
		}
	}
	if len(entries) == 0 {
		return nil, &failure{exitYours, "show parked " + id, errors.New("no parked record has this origin or event id"), "weir parked ls lists them; weir trace " + id + " says what else became of it"}
	}
	out := []parkedDetail{}
	for _, p := range entries {
		d := parkedDetail{parkedRow: parkedRowOf(p), Since: timeOrNil(p.Since), By: p.By, Generation: p.Generation, Supersedes: append([]string{}, p.Supersedes...), Holds: []parkedRow{}}
		if p.CopyTopic != "" {
			d.Copy = fmt.Sprintf("%s/%d/%d", p.CopyTopic, p.CopyPartition, p.CopyOffset)
		}
		for _, r := range rows {
			if r.Partition == p.Position.Partition && r.Offset == p.Position.Offset && r.Route == p.Position.Route {
				o := traceRow(r)
				d.Outcome = &o
			}
		}
		behind, err := store.Parked(ctx, checkpoint.ParkedQuery{Connector: p.Position.Partition.Connector, Entity: p.EntityKey.Entity, Key: p.EntityKey.Key,
			Cause: checkpoint.CauseHeld, States: []checkpoint.ParkedState{checkpoint.ParkedOpen}})
		if err != nil {
			return nil, fail(err)
		}
		for _, h := range behind {
			if h.Position.Partition == p.Position.Partition && h.Position.Route == p.Position.Route && h.Position.Offset > p.Position.Offset {
				d.Holds = append(d.Holds, parkedRowOf(h))
			}
		}
		if payload {
			if d.Payload, err = a.parkedPayload(ctx, cfg, p); err != nil {
				return nil, err
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// parkedPayload reads the record from the parked topic, else from its origin, and masks personal fields.
func (a *app) parkedPayload(ctx context.Context, cfg *config.Config, p checkpoint.Parked) (map[string]any, error) {
	contract, err := a.loadContract(cfg)
	if err != nil {
		return nil, err
	}
	kc, err := a.kafkaConfig(cfg.Kafka)
	if err != nil {
		return nil, err
	}
	reader, err := kafka.NewReader(kc)
	if err != nil {
		return nil, environment("connect to Kafka", err, "")
	}
	defer reader.Close()
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	rec, err := &kafka.Record{}, kafka.ErrGone
	if p.CopyTopic != "" {
		rec, err = reader.ReadAt(ctx, p.CopyTopic, p.CopyPartition, p.CopyOffset)
	}
	if errors.Is(err, kafka.ErrGone) || errors.Is(err, kafka.ErrNoTopic) {
		rec, err = reader.ReadAt(ctx, p.Position.Partition.Topic, p.Position.Partition.Index, p.Position.Offset)
	}
	if errors.Is(err, kafka.ErrGone) || errors.Is(err, kafka.ErrNoTopic) {
		return nil, &failure{exitEnv, "read " + p.Position.Origin(), errors.New("the record is no longer in Kafka"), "its retention has passed; leave out --payload"}
	}
	if err != nil {
		return nil, environment("read "+p.Position.Origin(), err, "is Kafka reachable? see weir check")
	}
	rec.Topic = p.Position.Partition.Topic // the decoder knows entities by their topic
	decoder := contract.decoder
	if k := cfg.Connectors[p.Position.Partition.Connector]; k != nil {
		decoder = schema.NewDecoder(contract.set, nil, schema.DecoderOptions{Topics: entityTopics(k)})
	}
	e, err := decoder.Decode(ctx, &rec.Record)
	if err != nil {
		return nil, environment("decode "+p.Position.Origin(), err, "")
	}
	return contract.set.Redact(e.Entity, e.Fields), nil
}

// entityTopics maps the topics that a connector overrides to their entities.
func entityTopics(k *config.Connector) map[string]string {
	m := make(map[string]string, len(k.Topics))
	for entity, topic := range k.Topics {
		m[topic] = entity
	}
	return m
}

func (a *app) printParkedDetails(list []parkedDetail) error {
	var b strings.Builder
	for i, d := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s  event %s  %s %s", d.Origin, dash(d.EventID), dash(d.Entity), dash(d.Key))
		if d.Version > 0 {
			fmt.Fprintf(&b, " version %d", d.Version)
		}
		fmt.Fprintf(&b, "\n  parked     %s, cause %s: %s\n", stamp(d.At), d.Cause, dash(d.Reason))
		if d.Guidance != "" {
			fmt.Fprintf(&b, "  what to do %s\n", d.Guidance)
		}
		fmt.Fprintf(&b, "  state      %s since %s", d.State, stamp(d.Since))
		if d.By != "" {
			fmt.Fprintf(&b, ", by %s", d.By)
		}
		fmt.Fprintf(&b, ", generation %d\n", d.Generation)
		if d.Copy != "" {
			fmt.Fprintf(&b, "  copy       %s\n", d.Copy)
		}
		if len(d.Supersedes) > 0 {
			fmt.Fprintf(&b, "  had superseded %s\n", strings.Join(d.Supersedes, ", "))
		}
		if d.Outcome != nil {
			writeOutcome(&b, *d.Outcome)
		}
		fmt.Fprintf(&b, "  holds %d later records of its key\n", len(d.Holds))
		for _, h := range d.Holds {
			fmt.Fprintf(&b, "    %s  event %s\n", h.Origin, dash(h.EventID))
		}
		if d.Payload != nil {
			out, err := json.MarshalIndent(d.Payload, "  ", "  ")
			if err != nil {
				return fmt.Errorf("show payload of %s: %w", d.Origin, err)
			}
			fmt.Fprintf(&b, "  payload    %s\n", out)
		}
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}
