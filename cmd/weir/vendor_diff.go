package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// A vendorDiff is what `weir vendor diff --json` prints.
type vendorDiff struct {
	Old     string         `json:"old"`
	New     string         `json:"new"`
	Events  int            `json:"events"`  // compared: read, decoded, of an entity that both or one has a route for
	Refused int            `json:"refused"` // no valid events
	Same    int            `json:"same"`
	Changed int            `json:"changed"`
	Fields  map[string]int `json:"fields"`  // how many events change a place, by "step: place"
	Changes []eventChange  `json:"changes"` // the first of them, see --limit
}

// An eventChange is one event whose requests differ.
type eventChange struct {
	EventID string        `json:"event_id"`
	Entity  string        `json:"entity"`
	Key     string        `json:"key"`
	Origin  string        `json:"origin"`
	Changes []placeChange `json:"changes"`
}

// A placeChange is one place of a request that differs. Old and New are null where the place is not there, and masked
// where personal data reaches it.
type placeChange struct {
	Step  string          `json:"step"` // "" for the plan as a whole
	Place string          `json:"place"`
	Old   json.RawMessage `json:"old"`
	New   json.RawMessage `json:"new"`
}

type diffCmd struct {
	*app
	connector string
	last      int
	limit     int
	vars      map[string]string
	personal  bool
}

func newVendorDiff(a *app) *cobra.Command {
	c := &diffCmd{app: a}
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "List which requests of past events a change of a profile changes",
		Long: `Plan the last events of the topics with two profiles, each a built-in name or a file, and list the requests that
differ: another path, another value, a step more or less, a refusal. Nothing is sent and nothing is written.

What is known of the entities (vendor ids, remembered fields) comes from the connector's store if there is one. Values
that personal data reaches are masked, unless --personal is given. Exit code 0 also if requests differ.`,
		Example: `  weir vendor diff pushcash ./pushcash.yaml --last 10000
  weir vendor diff old.yaml new.yaml --connector pushcash --last 500 --json | jq '.fields'`,
		Args: exactly("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := a.interruptible(cmd.Context(), nil)
			defer stop()
			return c.run(ctx, args[0], args[1])
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&c.connector, "connector", "", "connector whose topics, variables and store count; may be left out if the config has only one")
	fs.IntVar(&c.last, "last", 1000, "how many events, the newest over all partitions")
	fs.IntVar(&c.limit, "limit", 20, "how many changed events are listed; all are counted")
	fs.StringToStringVar(&c.vars, "var", nil, "variable of both profiles, name=value; default: those of the connector")
	fs.BoolVar(&c.personal, "personal", false, "show personal data too")
	a.jsonFlag(cmd, "{old, new, events, refused, same, changed, fields, changes}")
	return cmd
}

// diffEventsMax bounds --last: a record takes about 1 KiB while it is compared.
const diffEventsMax = 1_000_000

func (c *diffCmd) run(ctx context.Context, oldName, newName string) error {
	if c.last < 1 || c.last > diffEventsMax {
		return usageError("--last", fmt.Sprintf("%d is not within 1 to %d", c.last, diffEventsMax), "")
	}
	if c.limit < 0 {
		return usageError("--limit", "must not be negative", "")
	}
	cfg, err := c.config()
	if err != nil {
		return err
	}
	name, k, err := oneConnector(cfg, c.connector)
	if err != nil {
		return err
	}
	contract, err := c.loadContract(cfg)
	if err != nil {
		return err
	}
	if c.vars == nil {
		c.vars = k.Vars
	}
	_, before, err := c.compileProfile(contract, oldName, c.vars)
	if err != nil {
		return err
	}
	_, after, err := c.compileProfile(contract, newName, c.vars)
	if err != nil {
		return err
	}
	topics := map[string]string{}
	for _, e := range contract.set.Entities() {
		if len(before.RoutesFor(e))+len(after.RoutesFor(e)) > 0 {
			topics[k.Topic(e)] = e
		}
	}
	decoder, err := contract.decoderFor(cfg, topics)
	if err != nil {
		return err
	}
	records, err := c.newest(ctx, cfg, slices.Sorted(maps.Keys(topics)))
	if err != nil {
		return err
	}
	store, err := c.readStore(ctx, cfg)
	if err != nil && !errors.Is(err, checkpoint.ErrNotFound) {
		return err
	}
	if err == nil {
		defer store.Close()
	} else {
		store = nil
		c.notef("there is no store yet: every entity counts as new")
	}
	d := vendorDiff{Old: oldName, New: newName, Fields: map[string]int{}, Changes: []eventChange{}}
	for len(records) > 0 {
		n := min(len(records), 500)
		if err := c.compare(ctx, &d, contract, decoder, store, name, before, after, records[:n]); err != nil {
			return err
		}
		records = records[n:]
	}
	if c.asJSON {
		return c.printJSON(d)
	}
	return c.print(d)
}

// oneConnector is the connector that was named, or the only one there is.
func oneConnector(cfg *config.Config, name string) (string, *config.Connector, error) {
	names := cfg.Names()
	if name == "" && len(names) == 1 {
		name = names[0]
	}
	if name == "" {
		return "", nil, usageError("--connector", "the config has several", "use one of "+strings.Join(names, ", "))
	}
	k := cfg.Connectors[name]
	if k == nil {
		return "", nil, usageError("--connector", fmt.Sprintf("%q is not in the config", name), "use one of "+strings.Join(names, ", "))
	}
	return name, k, nil
}

// newest reads the newest events of the topics, the same number from each partition as far as it has them.
func (c *diffCmd) newest(ctx context.Context, cfg *config.Config, topics []string) ([]*kafka.Record, error) {
	admin, err := c.connect(ctx, cfg.Kafka)
	if err != nil {
		return nil, err
	}
	defer admin.Close()
	infos, err := admin.Topics(ctx, topics...)
	if err != nil {
		return nil, environment("read topics", err, "")
	}
	var tps []kafka.TP
	for _, t := range topics {
		for i := range infos[t].Partitions {
			if infos[t].Exists {
				tps = append(tps, kafka.TP{Topic: t, Partition: int32(i)})
			}
		}
	}
	if len(tps) == 0 {
		return nil, &failure{exitEnv, "read " + strings.Join(topics, ", "), errors.New("no such topic"), "publish events first, or see connectors.<name>.topics"}
	}
	ends, err := admin.Ends(ctx, tps...)
	if err != nil {
		return nil, environment("read topics", err, "")
	}
	kc, err := c.kafkaConfig(cfg.Kafka)
	if err != nil {
		return nil, err
	}
	reader, err := kafka.NewReader(kc)
	if err != nil {
		return nil, environment("connect to Kafka", err, "")
	}
	defer reader.Close()
	share := (c.last + len(tps) - 1) / len(tps)
	var out []*kafka.Record
	for i, tp := range tps {
		if c.IsTerminal && !c.asJSON {
			c.notef("reading %s/%d, partition %d of %d", tp.Topic, tp.Partition, i+1, len(tps))
		}
		e := ends[tp]
		var offsets []int64
		for o := max(e.LogStart, e.End-int64(share)); o < e.End; o++ {
			offsets = append(offsets, o)
		}
		reads, err := reader.ReadMany(ctx, tp, offsets)
		if err != nil {
			return nil, environment(fmt.Sprintf("read %s/%d", tp.Topic, tp.Partition), err, "")
		}
		for _, r := range reads {
			if r.Err == nil && !r.Record.Control {
				out = append(out, r.Record)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b *kafka.Record) int { return b.Timestamp.Compare(a.Timestamp) })
	return out[:min(len(out), c.last)], nil
}

func (c *diffCmd) compare(ctx context.Context, d *vendorDiff, contract *contract, decoder schema.Decoder, store checkpoint.Store, connector string,
	before, after *profile.Compiled, records []*kafka.Record) error {
	type known struct {
		rec   *kafka.Record
		event *schema.Event
	}
	var events []known
	var keys []checkpoint.EntityKey
	for _, r := range records {
		ev, err := decoder.Decode(ctx, &r.Record)
		if _, refused := errors.AsType[*schema.RefusedError](err); refused {
			d.Refused++
			continue
		}
		if err != nil {
			return environment(fmt.Sprintf("decode %s/%d/%d", r.Topic, r.Partition, r.Offset), err, "")
		}
		events = append(events, known{r, ev})
		keys = append(keys, checkpoint.EntityKey{Entity: ev.Entity, Key: ev.Key})
	}
	states := map[checkpoint.EntityKey]*checkpoint.State{}
	if store != nil && len(keys) > 0 {
		var err error
		if states, err = store.States(ctx, connector, keys); err != nil {
			return environment("read entity states", err, "")
		}
	}
	for i, e := range events {
		in := &profile.Input{Event: e.event}
		if s := states[keys[i]]; s != nil {
			in.IDs, in.Remembered = s.IDs, s.Remembered
		}
		a, maskA, err := c.requests(contract, before, in)
		if err != nil {
			return yours("plan event "+e.event.ID+" with "+d.Old, err, "")
		}
		b, maskB, err := c.requests(contract, after, in)
		if err != nil {
			return yours("plan event "+e.event.ID+" with "+d.New, err, "")
		}
		d.Events++
		changes := diffRequests(a, b, append(maskA, maskB...))
		if len(changes) == 0 {
			d.Same++
			continue
		}
		d.Changed++
		for _, ch := range changes {
			d.Fields[cmp.Or(ch.Step, "plan")+": "+ch.Place]++
		}
		if len(d.Changes) < c.limit {
			d.Changes = append(d.Changes, eventChange{e.event.ID, e.event.Entity, e.event.Key, fmt.Sprintf("%s/%d/%d", e.rec.Topic, e.rec.Partition, e.rec.Offset), changes})
		}
	}
	return nil
}

// requests is what a profile makes of an event, as one document per step, and which places are personal.
func (c *diffCmd) requests(contract *contract, p *profile.Compiled, in *profile.Input) (docs map[string][]byte, personal []string, err error) {
	docs = map[string][]byte{}
	for _, r := range p.RoutesFor(in.Event.Entity) {
		row, err := previewOf(contract, r, in, 0, true)
		if err != nil {
			return nil, nil, err
		}
		switch {
		case row.Ignore != "":
			docs[""], _ = json.Marshal(map[string]string{"ignored": row.Ignore})
		case row.Refuse != nil:
			docs[""], _ = json.Marshal(map[string]string{"refused": row.Refuse.Reason})
		}
		for _, q := range row.Requests {
			if docs[q.Step], err = json.Marshal(map[string]any{"operation": q.Operation, "method": q.Method, "path": q.Path, "headers": q.Headers, "body": q.Body}); err != nil {
				return nil, nil, err
			}
		}
		if !c.personal {
			for step, fields := range r.PersonalFields(func(path string) bool { return contract.set.Personal(r.Entity, path) }) {
				for _, f := range fields {
					personal = append(personal, step+"\x00body."+f)
				}
			}
		}
	}
	return docs, personal, nil
}

func diffRequests(a, b map[string][]byte, personal []string) []placeChange {
	var out []placeChange
	steps := maps.Clone(a)
	maps.Copy(steps, b)
	for _, step := range slices.Sorted(maps.Keys(steps)) {
		for _, ch := range profile.Changes(a[step], b[step]) {
			p := placeChange{Step: step, Place: cmp.Or(ch.Path, "request"), Old: ch.Old, New: ch.New}
			hidden := slices.ContainsFunc(personal, func(s string) bool {
				of, path, _ := strings.Cut(s, "\x00")
				// The place itself, something below it or something that holds it.
				return of == step && (ch.Path == path || strings.HasPrefix(ch.Path, path+".") || strings.HasPrefix(ch.Path, path+"[") || strings.HasPrefix(path, ch.Path+".") || ch.Path == "")
			})
			if hidden {
				mask, _ := json.Marshal(schema.Masked)
				if p.Old != nil {
					p.Old = mask
				}
				if p.New != nil {
					p.New = mask
				}
			}
			out = append(out, p)
		}
	}
	return out
}

func (c *diffCmd) print(d vendorDiff) error {
	fmt.Fprintf(c.Stdout, "%d events compared, %d with the same requests, %d with others", d.Events, d.Same, d.Changed)
	if d.Refused > 0 {
		fmt.Fprintf(c.Stdout, "; %d more are no valid events", d.Refused)
	}
	fmt.Fprintln(c.Stdout)
	if d.Changed == 0 {
		return nil
	}
	w := tabwriter.NewWriter(c.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "\nEVENTS\tPLACE")
	places := slices.SortedFunc(maps.Keys(d.Fields), func(a, b string) int { return cmp.Or(cmp.Compare(d.Fields[b], d.Fields[a]), cmp.Compare(a, b)) })
	for _, p := range places {
		fmt.Fprintf(w, "%d\t%s\n", d.Fields[p], p)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	show := func(v json.RawMessage) string {
		if v == nil {
			return "nothing"
		}
		return string(v)
	}
	for _, e := range d.Changes {
		fmt.Fprintf(c.Stdout, "\n%s %s, event %s at %s\n", e.Entity, e.Key, e.EventID, e.Origin)
		for _, ch := range e.Changes {
			fmt.Fprintf(c.Stdout, "  %s: %s: %s -> %s\n", cmp.Or(ch.Step, "plan"), ch.Place, show(ch.Old), show(ch.New))
		}
	}
	if more := d.Changed - len(d.Changes); more > 0 {
		fmt.Fprintf(c.Stdout, "\nand %d more events, see --limit\n", more)
	}
	return nil
}
