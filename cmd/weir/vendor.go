package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

func newVendorCommand(a *app) *cobra.Command {
	return group(&cobra.Command{
		Use:   "vendor",
		Short: "Look at vendor profiles, test and compare them",
		Long: `Work on vendor profiles before they meet a vendor: see what is built in, run a profile's own tests, see the requests
that an event would cause, and which requests a change of a profile changes. Only check sends anything.`,
		Example: `  weir vendor ls
  weir vendor test ./my-vendor.yaml
  weir vendor preview pushcash --event event.json
  weir vendor diff pushcash ./pushcash.yaml --last 10000
  weir vendor check pushcash --connector pushcash
  weir vendor init --openapi acme-openapi.yaml -o acme.yaml`,
	}, newVendorList(a), newVendorShow(a), newVendorTest(a), newVendorPreview(a), newVendorDiff(a), newVendorCheck(a), newVendorSchema(a), newVendorInit(a))
}

func newVendorSchema(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of profile files",
		Long: `Print the JSON Schema (draft 2020-12) of profile files, for editors. It knows every key; expressions, and what
belongs together, are checked by weir vendor test and weir check.`,
		Example: `  weir vendor schema > profile.schema.json
  # in a profile, for editors: # yaml-language-server: $schema=profile.schema.json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintf(a.Stdout, "%s", profile.JSONSchema())
			return err
		},
	}
}

// A vendorRow is one line of `weir vendor ls --json`.
type vendorRow struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Description string   `json:"description"`
	Operations  []string `json:"operations"`
	Routes      []string `json:"routes"`
	Tests       int      `json:"tests"`
}

func newVendorList(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the built-in profiles",
		Long:  "List the profiles that are built in. A file of your own is used by its path: profile: ./my-vendor.yaml.",
		Example: `  weir vendor ls
  weir vendor ls --json`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			contract, err := a.loadContract(nil)
			if err != nil {
				return err
			}
			rows := []vendorRow{}
			for _, name := range profile.Embedded() {
				p, c, err := a.compileProfile(contract, name, nil)
				if err != nil {
					return err
				}
				row := vendorRow{Name: p.Name, Version: p.Revision, Description: p.Description, Operations: slices.Sorted(maps.Keys(c.Operations)), Tests: len(p.Tests())}
				for _, r := range c.Routes {
					row.Routes = append(row.Routes, r.Name)
				}
				rows = append(rows, row)
			}
			if a.asJSON {
				return a.printJSON(rows)
			}
			w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tVERSION\tOPERATIONS\tROUTES\tTESTS\tDESCRIPTION")
			for _, r := range rows {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\n", r.Name, r.Version, len(r.Operations), len(r.Routes), r.Tests, r.Description)
			}
			return w.Flush()
		},
	}
	a.jsonFlag(cmd, "a JSON array of {name, version, description, operations, routes, tests}")
	return cmd
}

func newVendorShow(a *app) *cobra.Command {
	var columns bool
	var vars map[string]string
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "Print a built-in profile, to start your own from",
		Long: `Print the file of a built-in profile as it is. With --columns, print instead which fields of events each field of a
request comes from, read off the mapping itself; a field that decides whether a step is taken counts too.`,
		Example: `  weir vendor show plain > my-vendor.yaml
  weir vendor test my-vendor.yaml
  weir vendor show pushcash --columns`,
		Args: exactly("NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			if columns {
				return a.printColumns(args[0], vars)
			}
			if a.asJSON {
				return usageError("--json", "a profile is YAML", "use --json with --columns")
			}
			p, err := profile.Load(args[0])
			if err != nil {
				return yours("profile "+args[0], err, "weir vendor ls lists what is built in")
			}
			_, err = a.Stdout.Write(p.Text())
			return err
		},
	}
	cmd.Flags().BoolVar(&columns, "columns", false, "print the lineage of the columns instead of the file")
	cmd.Flags().StringToStringVar(&vars, "var", nil, "variable of the profile, name=value; may be repeated")
	a.jsonFlag(cmd, "with --columns: array of {route, step, operation, field, inputs: [{entity, field, type, subtype}], expression}")
	return cmd
}

// A columnRow is one field of a request in `weir vendor show --columns --json`.
type columnRow struct {
	Route      string        `json:"route"`
	Step       string        `json:"step"`
	Operation  string        `json:"operation"`
	Field      string        `json:"field"`
	Inputs     []columnInput `json:"inputs"`
	Expression string        `json:"expression"`
}

// A columnInput is a field of an event that a row comes from, in OpenLineage's words: DIRECT IDENTITY is a copy, DIRECT
// TRANSFORMATION an expression, INDIRECT JOIN the key by which another entity is found, INDIRECT CONDITIONAL what decides.
type columnInput struct {
	Entity  string `json:"entity"`
	Field   string `json:"field"`
	Type    string `json:"type"`
	Subtype string `json:"subtype"`
}

func columnRows(c *profile.Compiled) []columnRow {
	rows := []columnRow{}
	for _, rt := range c.Routes {
		references := rt.References()
		for _, col := range append(rt.Columns(), rt.Conditions()...) {
			row := columnRow{col.Route, col.Step, col.Operation, col.Field, []columnInput{}, col.Expression}
			for _, s := range col.Sources {
				ref, isRef := strings.CutPrefix(s, "ref.")
				switch {
				case isRef:
					for _, f := range references[ref] {
						row.Inputs = append(row.Inputs, columnInput{rt.Entity, f, "INDIRECT", "JOIN"})
					}
				case col.Field == "":
					row.Inputs = append(row.Inputs, columnInput{rt.Entity, s, "INDIRECT", "CONDITIONAL"})
				case col.Copy:
					row.Inputs = append(row.Inputs, columnInput{rt.Entity, s, "DIRECT", "IDENTITY"})
				default:
					row.Inputs = append(row.Inputs, columnInput{rt.Entity, s, "DIRECT", "TRANSFORMATION"})
				}
			}
			rows = append(rows, row)
		}
	}
	return rows
}

// printColumns prints the lineage of a profile's columns.
func (a *app) printColumns(name string, vars map[string]string) error {
	contract, err := a.loadContract(nil)
	if err != nil {
		return err
	}
	_, c, err := a.compileProfile(contract, name, vars)
	if err != nil {
		return err
	}
	rows := columnRows(c)
	if a.asJSON {
		return a.printJSON(rows)
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "STEP\tOPERATION\tFIELD\tFROM\tHOW")
	for _, r := range rows {
		field := r.Field
		if field == "" {
			field = "(whether)"
		}
		if len(r.Inputs) == 0 {
			fmt.Fprintf(w, "%s.%s\t%s\t%s\t%s\t%s\n", r.Route, r.Step, r.Operation, field, "-", dash(r.Expression))
		}
		for _, in := range r.Inputs {
			how := strings.ToLower(in.Subtype)
			if in.Subtype == "TRANSFORMATION" {
				how += ": " + r.Expression
			}
			fmt.Fprintf(w, "%s.%s\t%s\t%s\t%s.%s\t%s\n", r.Route, r.Step, r.Operation, field, in.Entity, in.Field, how)
		}
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// compileProfile loads and compiles a profile as a connector of its own name would.
func (a *app) compileProfile(contract *contract, nameOrPath string, vars map[string]string) (*profile.Profile, *profile.Compiled, error) {
	p, err := profile.Load(nameOrPath)
	if err != nil {
		return nil, nil, yours("profile "+nameOrPath, err, "weir vendor ls lists what is built in")
	}
	c, err := p.Compile(profileOptions(contract, p, vars))
	if err != nil {
		return nil, nil, yours("profile "+nameOrPath, err, "")
	}
	return p, c, nil
}

func profileOptions(contract *contract, p *profile.Profile, vars map[string]string) profile.Options {
	return profile.Options{Connector: p.Name, BaseURL: "https://vendor.invalid", Vars: vars, Schemas: contract.set}
}

// A vendorTestRow is one line of `weir vendor test --json`.
type vendorTestRow struct {
	Profile  string   `json:"profile"`
	Test     string   `json:"test"`
	Passed   bool     `json:"passed"`
	Problems []string `json:"problems"`
}

func newVendorTest(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "test PROFILE...",
		Short: "Run a profile's own tests",
		Long: `Check a profile as a connector would, and run the tests that stand in it: an event, what is known of its entity, and
the requests that must come of it. Exit code 2 if one fails. A profile without tests is only checked.`,
		Example: `  weir vendor test pushcash plain
  weir vendor test ./my-vendor.yaml --json`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError("command line", "weir vendor test takes at least one profile", "see weir vendor test --help")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.optionalConfig()
			if err != nil {
				return err
			}
			contract, err := a.loadContract(cfg)
			if err != nil {
				return err
			}
			rows, failed := []vendorTestRow{}, 0
			for _, name := range args {
				p, err := profile.Load(name)
				if err != nil {
					return yours("profile "+name, err, "weir vendor ls lists what is built in")
				}
				results, err := p.RunTests(cmd.Context(), profileOptions(contract, p, nil))
				if err != nil {
					return yours("profile "+name, err, "")
				}
				if len(results) == 0 {
					a.notef("%s: no tests stand in it; its expressions are sound", name)
				}
				for _, r := range results {
					row := vendorTestRow{name, r.Name, len(r.Problems) == 0, []string{}}
					for _, e := range r.Problems {
						row.Problems = append(row.Problems, e.Error())
					}
					if !row.Passed {
						failed++
					}
					rows = append(rows, row)
				}
			}
			if a.asJSON {
				if err := a.printJSON(rows); err != nil {
					return err
				}
			} else {
				for _, r := range rows {
					word := "ok  "
					if !r.Passed {
						word = "FAIL"
					}
					fmt.Fprintf(a.Stdout, "%s  %s: %s\n", word, r.Profile, r.Test)
					for _, p := range r.Problems {
						fmt.Fprintf(a.Stdout, "      %s\n", p)
					}
				}
				fmt.Fprintf(a.Stdout, "%d tests, %d failed\n", len(rows), failed)
			}
			if failed > 0 {
				return silent{exitYours}
			}
			return nil
		},
	}
	a.jsonFlag(cmd, "a JSON array of {profile, test, passed, problems}")
	return cmd
}

// A previewRow is what an event causes on one route, for `weir vendor preview --json`.
type previewRow struct {
	Route    string           `json:"route"`
	Ignore   string           `json:"ignore"`
	Refuse   *previewRefusal  `json:"refuse"`
	Requests []previewRequest `json:"requests"`
	StandIns []string         `json:"stand_ins"`
}

type previewRefusal struct {
	Reason   string `json:"reason"`
	Path     string `json:"path"`
	Guidance string `json:"guidance"`
}

type previewRequest struct {
	Step           string            `json:"step"`
	Operation      string            `json:"operation"`
	Class          string            `json:"class"`
	Method         string            `json:"method"`
	Path           string            `json:"path"`
	Headers        map[string]string `json:"headers"`
	Body           json.RawMessage   `json:"body"`
	IdempotencyKey string            `json:"idempotency_key"`
	Reference      string            `json:"reference"`
	Fingerprint    string            `json:"fingerprint"`
}

type previewCmd struct {
	*app
	event      string
	entity     string
	vars       map[string]string
	ids        map[string]string
	remembered map[string]string
	refs       map[string]string
	generation uint32
	personal   bool
}

func newVendorPreview(a *app) *cobra.Command {
	c := &previewCmd{app: a}
	cmd := &cobra.Command{
		Use:   "preview PROFILE",
		Short: "Show the requests that an event would cause",
		Long: `Plan an event with a profile and build its requests, without sending anything. The event is a JSON object as weir
publish takes it: a bare event, or {"entity":…,"event":…}. What the connector would know of the entity is given with
--id and --remembered, of entities it refers to with --ref; a reference that is not given gets a stand-in.

Fields of a request that personal data reaches are masked, unless --personal is given. Keys depend on the connector's
name: here it is the profile's.`,
		Example: `  weir vendor preview pushcash --event event.json
  weir vendor preview pushcash --event invoice.json --ref customer.user_id=user_1 --id intent_id=intent_9
  weir vendor preview ./my-vendor.yaml --event - --entity customer --personal --json`,
		Args: exactly("PROFILE"),
		RunE: func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0]) },
	}
	fs := cmd.Flags()
	fs.StringVar(&c.event, "event", "", "file with the event, - for standard input (required)")
	fs.StringVar(&c.entity, "entity", "", "entity type of a bare event; default: the part of event_type before the dot")
	fs.StringToStringVar(&c.vars, "var", nil, "variable of the profile, name=value")
	fs.StringToStringVar(&c.ids, "id", nil, "vendor id that is known of the entity, name=value")
	fs.StringToStringVar(&c.remembered, "remembered", nil, "field that was remembered of the entity, name=value")
	fs.StringToStringVar(&c.refs, "ref", nil, "vendor id of an entity that it refers to, reference.name=value")
	fs.Uint32Var(&c.generation, "generation", 0, "generation of the entity")
	fs.BoolVar(&c.personal, "personal", false, "show personal data too")
	a.jsonFlag(cmd, "a JSON array with one object per route: {route, ignore, refuse, requests, stand_ins}")
	return cmd
}

func (c *previewCmd) run(ctx context.Context, name string) error {
	if c.event == "" {
		return usageError("--event", "missing", "give a file with one event, or - for standard input")
	}
	cfg, err := c.optionalConfig()
	if err != nil {
		return err
	}
	contract, err := c.loadContract(cfg)
	if err != nil {
		return err
	}
	_, compiled, err := c.compileProfile(contract, name, c.vars)
	if err != nil {
		return err
	}
	in, err := c.input(ctx, contract)
	if err != nil {
		return err
	}
	routes := compiled.RoutesFor(in.Event.Entity)
	if len(routes) == 0 {
		return yours("preview of "+name, fmt.Errorf("the profile has no route for entity %s", in.Event.Entity), "")
	}
	rows := []previewRow{}
	for _, r := range routes {
		row, err := previewOf(contract, r, in, c.generation, c.personal)
		if err != nil {
			return yours("preview of "+name, err, "")
		}
		rows = append(rows, row)
	}
	if c.asJSON {
		return c.printJSON(rows)
	}
	return c.print(rows)
}

// eventBytesMax bounds the file of one event, as a line of weir publish.
const eventBytesMax = 4 << 20

func (c *previewCmd) input(ctx context.Context, contract *contract) (*profile.Input, error) {
	src, what := io.Reader(c.Stdin), "standard input"
	if c.event != "-" {
		f, _, err := c.Open(c.event)
		if err != nil {
			return nil, yours("--event", err, "")
		}
		defer f.Close()
		src, what = f, c.event
	}
	text, err := io.ReadAll(io.LimitReader(src, eventBytesMax+1))
	if err != nil {
		return nil, yours("read "+what, err, "")
	}
	if len(text) > eventBytesMax {
		return nil, yours("read "+what, fmt.Errorf("more than %d bytes", eventBytesMax), "give one event")
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return nil, yours("read "+what, fmt.Errorf("no JSON object: %w", err), "give one event as weir publish takes it")
	}
	entity, fields := c.entity, doc
	if inner, ok := doc["event"].(map[string]any); ok {
		fields = inner
		if e, ok := doc["entity"].(string); ok && entity == "" {
			entity = e
		}
	}
	if entity == "" {
		kind, _ := fields["event_type"].(string)
		entity, _, _ = strings.Cut(kind, ".")
	}
	if !slices.Contains(contract.set.Entities(), entity) {
		return nil, usageError("--entity", fmt.Sprintf("%q is not an entity", entity), "use one of "+strings.Join(contract.set.Entities(), ", "))
	}
	ev, err := profile.MakeEvent(ctx, contract.set, entity, fields)
	if err != nil {
		return nil, yours("event in "+what, err, "weir publish --dry-run checks a whole file")
	}
	in := &profile.Input{Event: ev, IDs: c.ids, Remembered: c.remembered, Refs: map[string]profile.Ref{}}
	for _, k := range slices.Sorted(maps.Keys(c.refs)) {
		ref, id, ok := strings.Cut(k, ".")
		if !ok || ref == "" || id == "" {
			return nil, usageError("--ref", fmt.Sprintf("%q is not reference.name=value", k), "for example customer.user_id=user_1")
		}
		if in.Refs[ref].IDs == nil {
			in.Refs[ref] = profile.Ref{IDs: map[string]string{}}
		}
		in.Refs[ref].IDs[id] = c.refs[k]
	}
	return in, nil
}

// previewOf plans an event on one route, its personal fields masked unless they are asked for.
func previewOf(contract *contract, r *profile.Route, in *profile.Input, generation uint32, personal bool) (previewRow, error) {
	row := previewRow{Route: r.Name, Requests: []previewRequest{}, StandIns: []string{}}
	pre, err := r.Preview(in, generation)
	if err != nil {
		return row, err
	}
	row.Ignore = pre.Ignore
	if pre.Refuse != nil {
		row.Refuse = &previewRefusal{pre.Refuse.Reason, pre.Refuse.Path, pre.Refuse.Guidance}
	}
	row.StandIns = append(row.StandIns, pre.StandIns...)
	masked := r.PersonalFields(func(path string) bool { return contract.set.Personal(r.Entity, path) })
	for _, q := range pre.Requests {
		p := previewRequest{Step: q.Step, Operation: q.Operation.Name, Class: string(q.Operation.Class), Method: q.Method, Path: q.Path,
			Headers: map[string]string{}, IdempotencyKey: q.IdempotencyKey, Reference: q.Reference, Fingerprint: q.Fingerprint}
		for k, v := range q.Header {
			p.Headers[k] = strings.Join(v, ", ")
		}
		body := q.Body
		if !personal {
			body = profile.Mask(body, masked[q.Step], schema.Masked)
		}
		switch {
		case len(body) == 0:
		case json.Valid(body):
			p.Body = body
		default: // a form
			p.Body, _ = json.Marshal(string(body))
		}
		row.Requests = append(row.Requests, p)
	}
	return row, nil
}

func (c *previewCmd) print(rows []previewRow) error {
	var b strings.Builder
	for _, r := range rows {
		fmt.Fprintf(&b, "route %s\n", r.Route)
		switch {
		case r.Ignore != "":
			fmt.Fprintf(&b, "  ignored: %s; no request\n", r.Ignore)
		case r.Refuse != nil:
			fmt.Fprintf(&b, "  refused: %s at %s; parked, no request\n", r.Refuse.Reason, dash(r.Refuse.Path))
			if r.Refuse.Guidance != "" {
				fmt.Fprintf(&b, "  what to do: %s\n", r.Refuse.Guidance)
			}
		}
		if len(r.StandIns) > 0 {
			fmt.Fprintf(&b, "  stand-ins for references: %s (give them with --ref)\n", strings.Join(r.StandIns, ", "))
		}
		for i, q := range r.Requests {
			fmt.Fprintf(&b, "\n  %d. step %s, operation %s, class %s\n", i+1, q.Step, q.Operation, q.Class)
			fmt.Fprintf(&b, "     %s %s\n", q.Method, q.Path)
			for _, k := range slices.Sorted(maps.Keys(q.Headers)) {
				fmt.Fprintf(&b, "     %s: %s\n", k, q.Headers[k])
			}
			if q.IdempotencyKey != "" || q.Reference != "" {
				fmt.Fprintf(&b, "     (idempotency key %s, reference %s)\n", cmp.Or(q.IdempotencyKey, "-"), cmp.Or(q.Reference, "-"))
			}
			if len(q.Body) > 0 {
				var out bytes.Buffer
				if err := json.Indent(&out, q.Body, "     ", "  "); err != nil {
					return fmt.Errorf("show the body of step %s: %w", q.Step, err)
				}
				fmt.Fprintf(&b, "\n     %s\n", out.String())
			}
		}
	}
	_, err := io.WriteString(c.Stdout, b.String())
	return err
}
