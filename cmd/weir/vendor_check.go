package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/drift"
	"github.com/weirsync/weir/connector/profile"
)

// A vendorCheck is what `weir vendor check --json` prints.
type vendorCheck struct {
	Profile     string `json:"profile"`
	Environment string `json:"environment"`
	BaseURL     string `json:"base_url"`
	*drift.Report
	Breaking int `json:"breaking"`
}

type vendorCheckCmd struct {
	*app
	baseURL     string
	connector   string
	environment string
	vars        map[string]string
	secrets     map[string]string
	allowWrites bool
	record      string
}

func newVendorCheck(a *app) *cobra.Command {
	c := &vendorCheckCmd{app: a}
	cmd := &cobra.Command{
		Use:   "check PROFILE",
		Short: "Find out whether a vendor still answers as the profile believes",
		Long: `Make the requests of the profile's contract and compare the answers with the recorded ones: missing, new and retyped
fields, new values, changed texts, other statuses, headers that announce an end. The contract is a folder of pairs, built
in for built-in profiles, <file>.contract beside a file of your own. The check makes its own objects, named
weir-check-…, and removes them where the vendor allows it.

In production only reads are made, unless --allow-writes is given; pairs for sandboxes only, such as payments, never
run there. Requests count against the vendor's quota.

Exit code 0 without drift, or with drift that breaks nothing (new fields, changed texts, deprecations); 1 with drift
that can break the profile; 3 if the vendor does not answer or refuses the credential.`,
		Example: `  weir vendor check pushcash --connector pushcash
  weir vendor check plain --base-url http://127.0.0.1:9104 --secret 'api_key=${env:KEY}'
  weir vendor check ./my-vendor.yaml --record my-vendor.contract`,
		Args: exactly("PROFILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := a.interruptible(cmd.Context(), nil)
			defer stop()
			return c.run(ctx, args[0])
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&c.baseURL, "base-url", "", "base URL of the vendor; default: that of the environment")
	fs.StringVar(&c.connector, "connector", "", "connector of the config whose environment, base URL, secrets and variables count")
	fs.StringVar(&c.environment, "environment", "sandbox", "environment of the profile, without --connector")
	fs.StringToStringVar(&c.secrets, "secret", nil, "secret that the profile names, without --connector: name=${env:NAME} or name=${file:/path}")
	fs.StringToStringVar(&c.vars, "var", nil, "variable of the profile, name=value; default: those of the connector")
	fs.BoolVar(&c.allowWrites, "allow-writes", false, "in production, make requests that write too")
	fs.StringVar(&c.record, "record", "", "write the contract with what is answered now into this folder, instead of comparing; its pairs are used if it has some")
	a.jsonFlag(cmd, "{profile, environment, base_url, reference, pairs, drift, breaking}")
	return cmd
}

func (c *vendorCheckCmd) run(ctx context.Context, name string) error {
	conn := &config.Connector{Environment: c.environment, Secrets: map[string]config.Secret{}}
	var cfg *config.Config
	if c.connector != "" {
		if len(c.secrets) > 0 {
			return usageError("--secret", "the connector has its own", "leave out --secret or --connector")
		}
		var err error
		if cfg, err = c.config(); err != nil {
			return err
		}
		if _, conn, err = oneConnector(cfg, c.connector); err != nil {
			return err
		}
	}
	for k, ref := range c.secrets {
		s, ok := config.NewSecret(ref, ".", c.Getenv)
		if !ok {
			return usageError("--secret "+k, "not a reference", "write "+k+"='${env:NAME}' or "+k+"='${file:/path}'; a secret itself never stands on a command line")
		}
		conn.Secrets[k] = s
	}
	if c.vars == nil {
		c.vars = conn.Vars
	}
	contract, err := c.loadContract(cfg)
	if err != nil {
		return err
	}
	p, err := profile.Load(name)
	if err != nil {
		return yours("profile "+name, err, "weir vendor ls lists what is built in")
	}
	o := profile.Options{Connector: cmp.Or(c.connector, p.Name), Environment: conn.Environment, BaseURL: cmp.Or(c.baseURL, conn.BaseURL), Vars: c.vars, Schemas: contract.set}
	for k := range conn.Secrets {
		o.Secrets = append(o.Secrets, k)
	}
	compiled, err := p.Compile(o)
	if err != nil {
		return yours("profile "+name, err, "")
	}
	writes := drift.AllWrites
	if p.Production(compiled) {
		if writes = drift.NoWrites; c.allowWrites {
			writes = drift.SafeWrites
		}
		if c.record != "" {
			return usageError("--record", "this is production", "record against the vendor's sandbox")
		}
	}
	pairs, err := c.pairs(p)
	if err != nil {
		return err
	}
	roots, err := conn.Roots()
	if err != nil {
		return yours("connector "+c.connector, err, "connectors."+c.connector+".tls.ca names a file with certificates in PEM form")
	}
	sender := deliver.NewSender(deliver.SenderConfig{BaseURL: compiled.BaseURL, Connections: 1, Timeout: vendorCheckTimeout, UserAgent: "weir/" + readBuild().Version,
		Credential: deliver.NewCredential(compiled, secretOf(conn)), Proxy: conn.Proxy, Roots: roots})
	defer sender.Close()
	k := &drift.Checker{Pairs: pairs, Operations: compiled.Operations, Sender: sender, Writes: writes}
	if c.record != "" {
		return c.write(ctx, k, compiled.BaseURL)
	}
	r, err := k.Check(ctx)
	if err != nil {
		return unanswered("check "+name+" against "+compiled.BaseURL, err)
	}
	if r.Made() == 0 {
		return yours("check "+name, errors.New("no pair may run: all of them write, or need what others make"),
			"this is production: use --allow-writes, or check the vendor's sandbox")
	}
	if c.asJSON {
		err = c.printJSON(vendorCheck{p.Name, compiled.Environment, compiled.BaseURL, r, r.Breaking()})
	} else {
		err = c.print(p.Name, compiled.BaseURL, r)
	}
	if err == nil && r.Breaking() > 0 {
		err = silent{exitOurs}
	}
	return err
}

// vendorCheckTimeout bounds one request; an operation's own timeout counts if it is shorter.
const vendorCheckTimeout = 30 * time.Second

// unanswered says whose fault it is that a check did not come to its end.
func unanswered(what string, err error) error {
	e, ok := errors.AsType[*drift.UnansweredError](err)
	switch {
	case !ok:
		return yours(what, err, "weir vendor check --record writes answers")
	case e.Refused():
		return &failure{exitEnv, what, err, "the credential is refused: is it of this environment, and may it do this?"}
	}
	return &failure{exitEnv, what, err, "is the base URL right, and does the vendor answer? ask again later"}
}

// pairs are those of the folder to record into, else those of the profile.
func (c *vendorCheckCmd) pairs(p *profile.Profile) ([]*drift.Pair, error) {
	dir, name := p.Contract()
	if c.record != "" {
		pairs, err := drift.Load(c.Dir(c.record))
		if err != nil {
			return nil, yours("contract in "+c.record, err, "")
		}
		if len(pairs) > 0 {
			return pairs, nil
		}
	}
	return loadPairs(dir, name)
}

func loadPairs(dir fs.FS, name string) ([]*drift.Pair, error) {
	pairs, err := drift.Load(dir)
	if err == nil && len(pairs) == 0 {
		err = errors.New("no pairs")
	}
	if err != nil {
		return nil, yours("contract in "+name, err,
			`write one file for each operation, such as create_user.json: {"order": 10, "writes": true, "request": {"method": "POST", "path": "/user", "body": {"tag": "{reference}"}}}, then weir vendor check --record`)
	}
	return pairs, nil
}

// write records the pairs and writes their files.
func (c *vendorCheckCmd) write(ctx context.Context, k *drift.Checker, at string) error {
	if _, err := k.Record(ctx); err != nil {
		return unanswered("record a contract against "+at, err)
	}
	if err := c.MakeDir(c.record); err != nil {
		return yours("--record "+c.record, err, "")
	}
	for _, p := range k.Pairs {
		if p.Status == 0 {
			return yours("record pair "+p.Name, errors.New("it could not be made: an earlier answer did not give what its request needs"), "look at its placeholders")
		}
		if err := c.writePair(p); err != nil {
			return yours("write pair "+p.Name, err, "")
		}
	}
	c.notef("%d pairs written to %s; read them before you keep them", len(k.Pairs), c.record)
	return nil
}

func (c *vendorCheckCmd) writePair(p *drift.Pair) error {
	text, err := p.Encode()
	if err != nil {
		return err
	}
	f, err := c.Create(filepath.Join(c.record, p.Name+".json"))
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

func (c *vendorCheckCmd) print(name, at string, r *drift.Report) error {
	var b strings.Builder
	var skipped []string
	for _, p := range r.Pairs {
		if p.Skipped != "" {
			skipped = append(skipped, p.Pair+" ("+p.Skipped+")")
		}
	}
	fmt.Fprintf(&b, "%s at %s: %d pairs, objects named %s\n", name, at, r.Made(), r.Reference)
	if len(skipped) > 0 {
		fmt.Fprintf(&b, "not made: %s\n", strings.Join(skipped, ", "))
	}
	list := slices.Clone(r.Drift)
	slices.SortStableFunc(list, func(a, b drift.Finding) int {
		return slices.Index(drift.Kinds, a.Kind) - slices.Index(drift.Kinds, b.Kind)
	})
	for _, f := range list {
		word := "warn  "
		if f.Breaking {
			word = "BREAKS"
		}
		fmt.Fprintf(&b, "%s  %s  %s\n", word, f.Pair, sentenceOf(f))
	}
	if len(list) == 0 {
		fmt.Fprintln(&b, "no drift")
	} else {
		fmt.Fprintf(&b, "%d differences, %d of them can break the profile\n", len(list), r.Breaking())
	}
	_, err := c.Stdout.Write([]byte(b.String()))
	return err
}

// sentenceOf says what a finding means.
func sentenceOf(f drift.Finding) string {
	at := f.Path
	if at == "" {
		at = "the answer"
	}
	switch f.Kind {
	case drift.Missing:
		return fmt.Sprintf("%s is missing (was %s)", at, f.Want)
	case drift.NewField:
		return fmt.Sprintf("%s is new (%s)", at, f.Got)
	case drift.Retyped:
		return fmt.Sprintf("%s is %s now, was %s", at, f.Got, f.Want)
	case drift.NewValue:
		return fmt.Sprintf("%s has a new value: %s; known: %s", at, f.Got, f.Want)
	case drift.TextChanged:
		return fmt.Sprintf("%s reads %q now, was %q", at, f.Got, f.Want)
	case drift.OtherStatus:
		return fmt.Sprintf("status %s, was %s", f.Got, f.Want)
	}
	return f.Got
}
