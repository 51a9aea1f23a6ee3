package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
)

// The objects of design section 17, with more detail where the ledger has it.
type (
	traceReport struct {
		Query  string       `json:"query"`
		Events []traceEvent `json:"events"`
	}
	traceEvent struct {
		EventID    string         `json:"event_id"`
		Entity     string         `json:"entity"`
		Key        string         `json:"key"`
		Origin     string         `json:"origin"`
		Schema     string         `json:"schema"`
		OccurredAt *time.Time     `json:"occurred_at"`
		Outcomes   []traceOutcome `json:"outcomes"`

		version   int64
		operation string
	}
	traceOutcome struct {
		Connector    string         `json:"connector"`
		Route        string         `json:"route"`
		Outcome      string         `json:"outcome"`
		Cause        string         `json:"cause"`
		Reason       string         `json:"reason"`
		At           *time.Time     `json:"at"`
		SupersededBy string         `json:"superseded_by"`
		VendorID     string         `json:"vendor_id"`
		Plan         []traceStep    `json:"plan"`
		Attempts     []traceAttempt `json:"attempts"`
	}
	traceStep struct {
		Step           string `json:"step"`
		Operation      string `json:"operation"`
		IdempotencyKey string `json:"idempotency_key"`
	}
	traceAttempt struct {
		N        int        `json:"n"`
		At       *time.Time `json:"at"`
		Step     string     `json:"step"`
		Status   int        `json:"status"`
		Verdict  string     `json:"verdict"`
		Sent     string     `json:"sent"`
		WaitMS   int64      `json:"wait_ms"`
		TookMS   int64      `json:"took_ms"`
		Guidance string     `json:"guidance"`
		Detail   string     `json:"detail"`
	}
)

// tracePending is the outcome of a record that has none yet.
const tracePending = "pending"

func newTraceCommand(a *app) *cobra.Command {
	limit := 0
	cmd := &cobra.Command{
		Use:   "trace ID",
		Short: "Tell the story of an event, an entity or a vendor object",
		Long: `Show what became of the events that an id leads to, oldest first: each route's outcome, the planned requests with
their idempotency keys, and every attempt with its wait, answer and verdict. ID is an event id, entity id, vendor
object id, idempotency key, correlation id, or topic/partition/offset. No payload is shown. An id that leads
nowhere is exit code 2.`,
		Example: `  weir trace CUST-1
  weir trace canonical.invoice/3/1207
  weir trace user_28bPLfmDVZuWD7jvdhBNAS --json`,
		Args: exactly("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 || limit > traceLimitMax {
				return usageError("--limit", fmt.Sprintf("%d is not within 1 to %d", limit, traceLimitMax), "")
			}
			cfg, err := a.config()
			if err != nil {
				return err
			}
			store, err := a.readStore(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer store.Close()
			rep, more, err := traceOf(cmd.Context(), store, args[0], limit)
			if err != nil {
				return err
			}
			if more {
				a.notef("only the first %d ledger rows are shown; see --limit", limit)
			}
			if a.asJSON {
				return a.printJSON(rep)
			}
			return a.printTrace(rep)
		},
	}
	cmd.Flags().IntVar(&limit, "limit", 1000, "ledger rows to read at most")
	a.jsonFlag(cmd, "one JSON object {query, events: [{event_id, entity, key, origin, schema, occurred_at, outcomes}]}")
	return cmd
}

const traceLimitMax = 100_000

// traceOf reads the story behind an id. more says that there are more rows than limit.
func traceOf(ctx context.Context, store checkpoint.Store, id string, limit int) (rep traceReport, more bool, err error) {
	rows, err := store.Find(ctx, id, limit+1)
	if err != nil {
		return traceReport{}, false, environment("trace "+id, err, "")
	}
	if len(rows) == 0 {
		return traceReport{}, false, &failure{exitYours, "trace " + id, errors.New("no record leads from this id: it is not known as event, entity, vendor object, idempotency key, correlation id or origin"),
			"check the id and --config; a record that has not been read yet is not known either (weir status shows the lag)"}
	}
	if len(rows) > limit {
		rows, more = rows[:limit], true
	}
	return traceReport{Query: id, Events: traceEvents(rows)}, more, nil
}

// traceEvents groups ledger rows by record: one event can have several routes and connectors.
func traceEvents(rows []checkpoint.Row) []traceEvent {
	type recordKey struct {
		topic     checkpoint.TopicID
		name      string
		partition int32
		offset    int64
	}
	index := map[recordKey]int{}
	var events []traceEvent
	for _, r := range rows {
		k := recordKey{r.Partition.ID, r.Partition.Topic, r.Partition.Index, r.Offset}
		i, ok := index[k]
		if !ok {
			i = len(events)
			index[k] = i
			events = append(events, traceEvent{
				EventID: r.Event.ID, Entity: r.Event.Entity, Key: r.Event.Key, Schema: r.Event.Schema,
				Origin:     checkpoint.Position{Partition: r.Partition, Offset: r.Offset}.Origin(),
				OccurredAt: timeOrNil(r.Event.OccurredAt), Outcomes: []traceOutcome{},
				version: r.Event.Version, operation: r.Event.Operation,
			})
		}
		events[i].Outcomes = append(events[i].Outcomes, traceRow(r))
	}
	for i := range events {
		slices.SortFunc(events[i].Outcomes, func(a, b traceOutcome) int {
			return cmp.Or(cmp.Compare(a.Connector, b.Connector), cmp.Compare(a.Route, b.Route))
		})
	}
	return events
}

func traceRow(r checkpoint.Row) traceOutcome {
	o := traceOutcome{
		Connector: r.Partition.Connector, Route: r.Route, Outcome: string(r.Outcome), Cause: string(r.Cause), Reason: r.Reason, At: timeOrNil(r.At),
		SupersededBy: r.SupersededBy, VendorID: r.VendorID, Plan: []traceStep{}, Attempts: []traceAttempt{},
	}
	if o.Outcome == "" {
		o.Outcome = tracePending
	}
	if r.Rule != "" {
		o.Reason = strings.TrimSpace("rule " + r.Rule + ": " + o.Reason)
	}
	if r.Path != "" {
		o.Reason = strings.TrimSpace(o.Reason + " at " + r.Path)
	}
	for _, s := range r.Plan {
		o.Plan = append(o.Plan, traceStep{s.Step, s.Operation, s.IdempotencyKey})
	}
	for _, t := range r.Attempts {
		o.Attempts = append(o.Attempts, traceAttempt{
			N: t.N, At: timeOrNil(t.At), Step: t.Step, Status: t.Status, Verdict: t.Verdict, Sent: string(t.Sent),
			WaitMS: t.Wait.Milliseconds(), TookMS: t.Took.Milliseconds(), Guidance: t.Guidance, Detail: t.Detail,
		})
	}
	return o
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// printTrace writes the story as a time line.
func (a *app) printTrace(rep traceReport) error {
	var b strings.Builder
	for i, e := range rep.Events {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "event %s  %s %s", dash(e.EventID), dash(e.Entity), dash(e.Key))
		if e.version > 0 {
			fmt.Fprintf(&b, " version %d", e.version)
		}
		if e.operation != "" && e.operation != "upsert" {
			fmt.Fprintf(&b, " (%s)", e.operation)
		}
		fmt.Fprintf(&b, "\n  %s  at the source\n  at %s, schema %s\n", stamp(e.OccurredAt), e.Origin, dash(e.Schema))
		for _, o := range e.Outcomes {
			writeOutcome(&b, o)
		}
	}
	_, err := fmt.Fprint(a.Stdout, b.String())
	return err
}

func writeOutcome(b *strings.Builder, o traceOutcome) {
	fmt.Fprintf(b, "  connector %s, route %s\n", o.Connector, o.Route)
	for _, s := range o.Plan {
		fmt.Fprintf(b, "    plan       %s: %s", s.Step, s.Operation)
		if s.IdempotencyKey != "" {
			fmt.Fprintf(b, ", idempotency key %s", s.IdempotencyKey)
		}
		b.WriteByte('\n')
	}
	for _, t := range o.Attempts {
		if t.Verdict == checkpoint.VerdictWebhook {
			fmt.Fprintf(b, "    %s  webhook confirmation: %s\n", stamp(t.At), t.Detail)
			continue
		}
		waited := ""
		if t.WaitMS > 0 {
			waited = "after " + span(time.Duration(t.WaitMS)*time.Millisecond) + ", "
		}
		answer := fmt.Sprintf("HTTP %d", t.Status)
		switch {
		case t.Status != 0:
		case t.Sent == string(checkpoint.NotSent):
			answer = "not sent"
		default:
			answer = "no answer"
		}
		step := ""
		if t.Step != "" {
			step = t.Step + ": "
		}
		fmt.Fprintf(b, "    %s  attempt %d  %s%s%s, read as %s", stamp(t.At), t.N, step, waited, answer, t.Verdict)
		if t.TookMS > 0 {
			fmt.Fprintf(b, " (took %s)", span(time.Duration(t.TookMS)*time.Millisecond))
		}
		b.WriteByte('\n')
		if t.Detail != "" {
			fmt.Fprintf(b, "      the vendor says: %s\n", t.Detail)
		}
		if t.Guidance != "" {
			fmt.Fprintf(b, "      what to do: %s\n", t.Guidance)
		}
	}
	fmt.Fprintf(b, "    %s  %s", stamp(o.At), o.Outcome)
	if o.Cause != "" {
		fmt.Fprintf(b, " (%s)", o.Cause)
	}
	if o.Reason != "" {
		fmt.Fprintf(b, ": %s", o.Reason)
	}
	if o.SupersededBy != "" {
		fmt.Fprintf(b, ", by event %s", o.SupersededBy)
	}
	if o.VendorID != "" {
		fmt.Fprintf(b, ", vendor object %s", o.VendorID)
	}
	b.WriteByte('\n')
}

// stamp is a time in a fixed width, so that time lines line up.
func stamp(t *time.Time) string {
	const layout = "2006-01-02T15:04:05.000Z"
	if t == nil {
		return strings.Repeat("-", len(layout))
	}
	return t.UTC().Format(layout)
}
