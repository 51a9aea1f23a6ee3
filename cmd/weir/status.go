package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
)

// The objects of design section 17. A number that cannot be told is null, never 0.
type (
	statusReport struct {
		Connectors []connectorStatus `json:"connectors"`
	}
	connectorStatus struct {
		Name       string            `json:"name"`
		State      string            `json:"state"`
		Reason     string            `json:"reason"`
		Since      *time.Time        `json:"since"`
		Lag        *int64            `json:"lag"`
		Pending    *int64            `json:"pending"`
		InFlight   *int64            `json:"in_flight"`
		Parked     *int64            `json:"parked"`
		ETASeconds *float64          `json:"eta_seconds"`
		Partitions []partitionStatus `json:"partitions"`
		// Credentials says when requests carried which value of the secret, also of processes that have ended.
		Credentials []deliver.Use `json:"credentials,omitempty"`
		// Spent is what requests have cost, by the prices of the profile, since the processes that run now started.
		Spent []deliver.Spent `json:"spent,omitempty"`
		// Unconfirmed are the accepted records that wait for the vendor's word; left out if there are none.
		Unconfirmed *unconfirmed `json:"unconfirmed,omitempty"`
	}
	unconfirmed struct {
		Waiting int                 `json:"waiting"` // overdue among them
		Overdue int                 `json:"overdue"`
		First   []unconfirmedRecord `json:"first"` // those that are due first
	}
	unconfirmedRecord struct {
		EventID  string    `json:"event_id"`
		VendorID string    `json:"vendor_id,omitempty"`
		Entity   string    `json:"entity"`
		Key      string    `json:"key"`
		Since    time.Time `json:"since"`
		Due      time.Time `json:"due"`
	}
	partitionStatus struct {
		Topic     string `json:"topic"`
		Partition int32  `json:"partition"`
		Mark      *int64 `json:"mark"`
		End       *int64 `json:"end"`
		State     string `json:"state"`
		Reason    string `json:"reason,omitempty"`
	}
)

// States of a connector, the worst last: of several instances the worst is shown.
var stateOrder = []string{"stopped", "running", "paused", "held", "outage", "halted"}

const stateStopped = "stopped"

// liveFor is how long an instance's last status counts: running ones write one a second.
const liveFor = 10 * time.Second

func newStatusCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how every connector stands",
		Long: `Show state, lag, pending and parked records of every connector, from the store and from Kafka. A running weir is asked,
at ops.listen, only where the store has no young report of it, as while the store takes no writes. States: running,
paused, halted (the credential is refused), outage (the vendor, Kafka or the store does not answer), held (a bulk-change
guard, a gap or a lost store waits for an operator), stopped (no instance reported in the last 10 s).

Lag is end offset less committed offset. A number that cannot be told is null in JSON and ? in the table. Below the
table: what waits, and requests that the vendor accepted and has not said in time how they ended (unconfirmed in JSON).`,
		Example: `  weir status
  weir status --json | jq '.connectors[] | {name, state, lag}'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.config()
			if err != nil {
				return err
			}
			store, err := a.readStore(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			defer store.Close()
			rep, problem := a.statusOf(cmd.Context(), cfg, store)
			if a.asJSON {
				err = a.printJSON(rep)
			} else {
				err = a.printStatus(rep)
			}
			return errors.Join(err, problem)
		},
	}
	a.jsonFlag(cmd, "one JSON object {connectors: [{name, state, reason, since, lag, pending, in_flight, parked, eta_seconds, partitions}]}")
	return cmd
}

// statusOf connects to Kafka and reads the status of all connectors of the config.
func (a *app) statusOf(ctx context.Context, cfg *config.Config, store checkpoint.Store) (statusReport, error) {
	pctx, cancel := context.WithTimeout(ctx, statusTimeout) // it is asked for in outages
	admin, err := a.connect(pctx, cfg.Kafka)
	cancel()
	if err == nil {
		defer admin.Close()
	}
	running := sync.OnceValue(func() map[string][]connectorStatus { return a.askRunning(ctx, cfg, store.ID()) })
	rep, problem := a.statusFrom(ctx, cfg, store, admin, func(name string, reports []connectorStatus) []connectorStatus {
		if len(reports) == 0 {
			return running()[name]
		}
		return reports
	})
	return rep, errors.Join(err, problem)
}

// storeHeader tells with which store the weir works that answers.
const storeHeader = "Weir-Store"

// askTimeout bounds the question to a running weir: it is on this machine or near.
const askTimeout = statusTimeout + time.Second

// askRunning asks the weir that listens on ops.listen how its connectors stand: while its store takes no writes, no
// report of it gets there. Nil if there is none, or it works with another store.
func (a *app) askRunning(ctx context.Context, cfg *config.Config, storeID string) map[string][]connectorStatus {
	host, port, err := net.SplitHostPort(cfg.Ops.Listen)
	if err != nil || port == "0" {
		return nil
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+"/api/v1/status", nil)
	if err != nil {
		return nil
	}
	if !cfg.Ops.Token.IsZero() {
		token, err := cfg.Ops.Token.Value()
		if err != nil {
			return nil
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // no proxy: the token is for this host alone
	resp, err := client.Do(req)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var rep statusReport
	if resp.StatusCode != http.StatusOK || resp.Header.Get(storeHeader) != storeID || json.NewDecoder(io.LimitReader(resp.Body, statusBytesMax)).Decode(&rep) != nil {
		return nil
	}
	running := make(map[string][]connectorStatus)
	for _, c := range rep.Connectors {
		if c.State != stateStopped {
			running[c.Name] = []connectorStatus{c}
		}
	}
	return running
}

// statusBytesMax bounds the answer of a running weir: some 100,000 partitions.
const statusBytesMax = 16 << 20

// liveStatus is a connector's own status in the form of the report.
func liveStatus(s connector.Status) connectorStatus {
	pending, inFlight := int64(s.Pending), int64(s.InFlight)
	c := connectorStatus{Name: s.Name, State: s.State, Reason: s.Reason, Since: &s.Since, Lag: &s.Lag, Pending: &pending, InFlight: &inFlight, ETASeconds: s.ETASeconds, Credentials: s.Credentials, Spent: s.Spent}
	for _, p := range s.Partitions {
		c.Partitions = append(c.Partitions, partitionStatus{Topic: p.Topic, Partition: p.Partition, Mark: &p.Mark, End: &p.End, State: p.State, Reason: p.Reason})
	}
	return c
}

// statusFrom reads the status of all connectors of the config; admin may be nil. live says how a connector
// stands that runs, given the young reports that the store has of it. The report is as complete as it can be; the
// error says what could not be read.
func (a *app) statusFrom(ctx context.Context, cfg *config.Config, store checkpoint.Store, admin *kafka.Admin, live func(name string, reports []connectorStatus) []connectorStatus) (statusReport, error) {
	var problems []error
	reports, last, err := a.liveStatuses(ctx, store)
	if err != nil {
		problems = append(problems, environment("read status from the store", err, ""))
	}
	rep := statusReport{Connectors: []connectorStatus{}}
	for _, name := range cfg.Names() {
		run := cfg.Connectors[name].RunName(name)
		s, err := a.connectorStatus(ctx, cfg, name, store, admin, live(run, reports[run]), last[run])
		if err != nil {
			problems = append(problems, environment("status of connector "+name, err, ""))
		}
		rep.Connectors = append(rep.Connectors, s)
	}
	return rep, errors.Join(problems...)
}

// liveStatuses are the last reports of instances by connector: those young enough to count, and when the last of
// all was.
func (a *app) liveStatuses(ctx context.Context, store checkpoint.Store) (map[string][]connectorStatus, map[string]time.Time, error) {
	all, err := store.Statuses(ctx)
	if err != nil {
		return nil, nil, err
	}
	live := map[string][]connectorStatus{}
	last := map[string]time.Time{}
	for _, s := range all {
		if s.At.After(last[s.Connector]) {
			last[s.Connector] = s.At
		}
		var c connectorStatus
		if a.Now().Sub(s.At).Abs() > liveFor { // one of the future was written before the clock was set back
			continue
		}
		if err := json.Unmarshal(s.JSON, &c); err != nil {
			return live, last, fmt.Errorf("status of instance %s: %w", s.Instance, err)
		}
		if c.State != stateStopped { // a clean stop says so
			live[s.Connector] = append(live[s.Connector], c)
		}
	}
	return live, last, nil
}

// connectorStatus joins what instances report, what the store keeps and what Kafka says.
func (a *app) connectorStatus(ctx context.Context, cfg *config.Config, name string, store checkpoint.Store, admin *kafka.Admin, live []connectorStatus, last time.Time) (connectorStatus, error) {
	var problems []error
	run := cfg.Connectors[name].RunName(name)
	s := connectorStatus{Name: run, State: stateStopped, Partitions: []partitionStatus{}}
	parts := map[kafka.TP]*partitionStatus{}
	for _, l := range live {
		if slices.Index(stateOrder, l.State) > slices.Index(stateOrder, s.State) || s.State == stateStopped {
			s.State, s.Reason, s.Since = l.State, l.Reason, l.Since
		}
		s.Pending = plus(s.Pending, l.Pending)
		s.InFlight = plus(s.InFlight, l.InFlight)
		for _, p := range l.Spent {
			s.Spent = deliver.AddSpent(s.Spent, p)
		}
		if l.ETASeconds != nil && (s.ETASeconds == nil || *l.ETASeconds > *s.ETASeconds) {
			s.ETASeconds = l.ETASeconds
		}
		s.Lag = plus(s.Lag, l.Lag) // Kafka's own answer replaces it below
		for _, p := range l.Partitions {
			p.Mark, p.End = known(p.Mark), known(p.End)
			parts[kafka.TP{Topic: p.Topic, Partition: p.Partition}] = &p
		}
	}
	if len(live) == 0 {
		zero := int64(0)
		s.Pending, s.InFlight = &zero, &zero // nothing runs
		s.Reason = "no instance has ever reported"
		if !last.IsZero() {
			s.Since = &last
			s.Reason = "no instance reports since " + last.UTC().Format(time.RFC3339)
		}
	}
	open, err := store.Parked(ctx, checkpoint.ParkedQuery{Connector: run, States: []checkpoint.ParkedState{checkpoint.ParkedOpen}, Limit: parkedCountMax})
	if err != nil {
		problems = append(problems, err)
	} else {
		n := int64(len(open))
		s.Parked = &n
	}
	if u, err := store.Unconfirmed(ctx, run, a.Now(), unconfirmedShown); err != nil {
		problems = append(problems, err)
	} else if u.Waiting > 0 {
		s.Unconfirmed = &unconfirmed{Waiting: u.Waiting, Overdue: u.Overdue}
		for _, r := range u.First {
			s.Unconfirmed.First = append(s.Unconfirmed.First, unconfirmedRecord{EventID: r.EventID, VendorID: r.VendorID, Entity: r.EntityKey.Entity, Key: r.EntityKey.Key,
				Since: r.Since.UTC(), Due: r.Due.UTC()})
		}
	}
	if all, err := store.Statuses(ctx); err == nil { // if not, that is reported already
		s.Credentials = usesOf(all, run)
	}
	cursors, err := store.Cursors(ctx, run)
	if err != nil {
		problems = append(problems, err)
	}
	topics := a.topicsOf(cfg, name)
	for _, c := range cursors {
		tp := kafka.TP{Topic: c.Partition.Topic, Partition: c.Partition.Index}
		topics[tp.Topic] = true
		p := partOf(parts, tp)
		if c.Mark >= 0 && (p.Mark == nil || *p.Mark < c.Mark) {
			p.Mark = &c.Mark
		}
	}
	if admin != nil {
		lags, err := readLag(ctx, admin, run, slices.Sorted(maps.Keys(topics)))
		if err == nil {
			s.offsets(cfg.Connectors[name].Start, lags, parts)
		} else {
			problems = append(problems, err)
		}
	}
	for _, p := range parts {
		if len(live) == 0 || p.State == "" {
			p.State = stateStopped // nobody owns it now
		}
		s.Partitions = append(s.Partitions, *p)
	}
	slices.SortFunc(s.Partitions, func(a, b partitionStatus) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return s, errors.Join(problems...)
}

// unconfirmedShown is how many unconfirmed records a status names.
const unconfirmedShown = 20

// parkedCountMax bounds the count of open parked records in a status: beyond a million the number no longer
// matters.
const parkedCountMax = 1_000_000

// offsets sets lag and ends from Kafka. Where the group has committed nothing, the connector goes on from the
// store's mark, else from its start (design section 3).
func (s *connectorStatus) offsets(start config.Start, lags lagReport, parts map[kafka.TP]*partitionStatus) {
	var lag int64
	for tp, l := range lags {
		p := partOf(parts, tp)
		p.End = &l.End
		switch {
		case l.Committed.OK:
			lag += l.Lag()
		case p.Mark != nil:
			lag += max(l.End-max(*p.Mark, l.LogStart), 0)
		case !start.Latest:
			lag += l.Lag()
		}
	}
	s.Lag = &lag
}

// topicsOf are the topics that a connector reads by its profile; none if the profile does not compile, which
// `weir check` reports.
func (a *app) topicsOf(cfg *config.Config, name string) map[string]bool {
	topics := map[string]bool{}
	c := cfg.Connectors[name]
	for _, t := range c.Topics {
		topics[t] = true
	}
	contract, err := a.loadContract(cfg)
	if err != nil {
		return topics
	}
	p, err := contract.compile(name, c, 0)
	if err != nil {
		return topics
	}
	for _, r := range p.Routes {
		topics[c.Topic(r.Entity)] = true
	}
	return topics
}

func partOf(parts map[kafka.TP]*partitionStatus, tp kafka.TP) *partitionStatus {
	if parts[tp] == nil {
		parts[tp] = &partitionStatus{Topic: tp.Topic, Partition: tp.Partition}
	}
	return parts[tp]
}

// known is nil for the -1 of an offset that is not known.
func known(n *int64) *int64 {
	if n == nil || *n < 0 {
		return nil
	}
	return n
}

func plus(a, b *int64) *int64 {
	if a == nil {
		return b
	}
	if b == nil {
		return a
	}
	n := *a + *b
	return &n
}

func (a *app) printStatus(rep statusReport) error {
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CONNECTOR\tSTATE\tSINCE\tLAG\tPENDING\tIN FLIGHT\tPARKED\tETA\tREASON")
	for _, c := range rep.Connectors {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c.Name, c.State, ago(c.Since, a.Now()), number(c.Lag), number(c.Pending),
			number(c.InFlight), number(c.Parked), eta(c.ETASeconds), dash(c.Reason))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	for _, c := range rep.Connectors {
		for _, p := range c.Partitions {
			if p.State != "running" && p.State != stateStopped {
				fmt.Fprintf(a.Stdout, "%s: %s/%d is %s at %s of %s: %s\n", c.Name, p.Topic, p.Partition, p.State, number(p.Mark), number(p.End), dash(p.Reason))
			}
		}
		if u := c.Unconfirmed; u != nil && u.Overdue > 0 {
			first := u.First[0]
			fmt.Fprintf(a.Stdout, "%s: the vendor has not said how %d of %d accepted requests ended, and should have; the first since %s: weir trace %s\n",
				c.Name, u.Overdue, u.Waiting, first.Due.Format(time.RFC3339), first.EventID)
		} else if u != nil {
			fmt.Fprintf(a.Stdout, "%s: %d accepted requests wait for the vendor's word, the first until %s\n", c.Name, u.Waiting, u.First[0].Due.Format(time.RFC3339))
		}
		printUses(a.Stdout, c.Name, c.Credentials, a.Now())
	}
	return nil
}

func number(n *int64) string {
	if n == nil {
		return "?"
	}
	return thousands(*n)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func eta(s *float64) string {
	if s == nil {
		return "-"
	}
	return span(time.Duration(*s * float64(time.Second)))
}

func ago(t *time.Time, now time.Time) string {
	if t == nil || t.IsZero() {
		return "-"
	}
	return span(now.Sub(*t)) + " ago"
}

// span is a duration for people: two units at most.
func span(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + "ms"
	case d < time.Minute:
		return d.Truncate(100 * time.Millisecond).String()
	case d < 48*time.Hour:
		return config.Duration(d.Truncate(time.Second)).String()
	}
	return fmt.Sprintf("%dd%dh", int(d.Hours())/24, int(d.Hours())%24)
}
