package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// A finding is one thing that `weir check` looked at.
type finding struct {
	Level string `json:"level"` // ok, warn or fail
	Check string `json:"check"` // what was looked at, such as kafka or connector pushcash credential
	What  string `json:"what"`
	Hint  string `json:"hint"`
	code  int    // exit code of a fail
}

// Levels of findings.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

func newCheckCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Look whether everything is in place to run",
		Long: `Look at config, schemas, profiles and mappings, secrets, Kafka and its topics, the credential of each vendor (with the
request that its profile names for that; nothing is changed there), and the store. Every finding is ok, warn or fail,
with what to do.

Exit code 2 if something of yours fails (config, schema, mapping, secret), else 3 if something of the environment
does (Kafka, vendor, store), else 0; warnings do not count.`,
		Example: `  weir check
  weir check --config prod.yaml --json | jq '.[] | select(.level != "ok")'`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			k := &checker{app: a}
			k.all(cmd.Context())
			return k.report()
		},
	}
	a.jsonFlag(cmd, "a JSON array of {level, check, what, hint}")
	return cmd
}

// A checker collects findings.
type checker struct {
	*app
	findings []finding
}

func (k *checker) ok(check, format string, args ...any) {
	k.findings = append(k.findings, finding{Level: levelOK, Check: check, What: fmt.Sprintf(format, args...)})
}

func (k *checker) warn(check, hint, format string, args ...any) {
	k.findings = append(k.findings, finding{Level: levelWarn, Check: check, What: fmt.Sprintf(format, args...), Hint: hint})
}

func (k *checker) fail(code int, check, hint, format string, args ...any) {
	k.findings = append(k.findings, finding{levelFail, check, fmt.Sprintf(format, args...), hint, code})
}

// failErr is a fail from an error, whose hint wins.
func (k *checker) failErr(code int, check, hint string, err error) {
	text := err.Error()
	if f, ok := errors.AsType[*failure](err); ok {
		text = f.err.Error()
		code = f.code
		if f.hint != "" {
			hint = f.hint
		}
	}
	k.fail(code, check, hint, "%s", text)
}

func (k *checker) report() error {
	code := exitDone
	for _, f := range k.findings {
		// What is yours comes first: until it is mended, the environment was asked with the wrong settings.
		if f.code == exitYours || code == exitDone {
			code = f.code
		}
		if code == exitYours {
			break
		}
	}
	if k.asJSON {
		if err := k.printJSON(k.findings); err != nil {
			return err
		}
	} else {
		for _, f := range k.findings {
			fmt.Fprintf(k.Stdout, "%-4s  %s: %s\n", f.Level, f.Check, strings.ReplaceAll(f.What, "\n", "\n        "))
			if f.Hint != "" {
				fmt.Fprintf(k.Stdout, "        hint: %s\n", f.Hint)
			}
		}
	}
	if code != exitDone {
		return silent{code}
	}
	return nil
}

// all looks at everything; what cannot be looked at because of an earlier fail is left out.
func (k *checker) all(ctx context.Context) {
	cfg, err := k.config()
	if err != nil {
		if ce, ok := errors.AsType[*config.Error](err); ok && len(ce.Problems) > 0 {
			for _, p := range ce.Problems {
				hint := p.Hint
				p.Hint = ""
				k.fail(exitYours, "config", hint, "%s", p)
			}
			return
		}
		k.fail(exitYours, "config", "give its path with --config or WEIR_CONFIG", "%s", err)
		return
	}
	k.ok("config", "%s is good, %d connectors", cfg.File(), len(cfg.Connectors))
	if cfg.Kafka.SASL != nil && cfg.Kafka.SASL.Mechanism == "PLAIN" && cfg.Kafka.TLS == nil {
		k.warn("config", "set kafka.tls, or use SCRAM-SHA-512", "the Kafka password goes over the network unencrypted (PLAIN without TLS)")
	}
	k.secrets(cfg)
	contract, err := k.loadContract(cfg)
	if err != nil {
		k.failErr(exitYours, "schemas", "", err)
	} else {
		k.ok("schemas", "%d schemas of %s", len(contract.rows()), strings.Join(contract.set.Entities(), ", "))
		if !cfg.Schema.Embedded() {
			k.registry(ctx, cfg, contract)
		}
	}
	compiled := map[string]*profile.Compiled{}
	if contract != nil {
		for _, name := range cfg.Names() {
			if p := k.profile(contract, name, cfg.Connectors[name]); p != nil {
				compiled[name] = p
			}
		}
	}
	k.webhooks(cfg, compiled)
	k.kafka(ctx, cfg, compiled)
	for _, name := range cfg.Names() {
		if p := compiled[name]; p != nil {
			k.credential(ctx, name, cfg.Connectors[name], p)
		}
	}
	k.store(ctx, cfg)
}

// secrets resolves every reference once.
func (k *checker) secrets(cfg *config.Config) {
	one := func(path string, s config.Secret) {
		if s.IsZero() {
			return
		}
		if _, err := s.Value(); err != nil {
			k.fail(exitYours, "secret "+path, "set the variable, or write the file so that this user can read it", "%s", err)
			return
		}
		k.ok("secret "+path, "%s is there", s)
	}
	if s := cfg.Kafka.SASL; s != nil {
		one("kafka.sasl.password", s.Password)
	}
	one("ops.token", cfg.Ops.Token)
	for _, name := range cfg.Names() {
		for _, secret := range slices.Sorted(maps.Keys(cfg.Connectors[name].Secrets)) {
			one("connectors."+name+".secrets."+secret, cfg.Connectors[name].Secrets[secret])
			k.life("connectors."+name+".rotation."+secret, cfg.Connectors[name].Rotation[secret], cfg.Connectors[name].Secrets[secret], one)
		}
	}
}

// life looks at the previous value of a secret, and at when it ends.
func (k *checker) life(path string, r config.Rotation, s config.Secret, one func(string, config.Secret)) {
	one(path+".previous", r.Previous)
	end, why, err := secretEnd(r, s)
	if err != nil || end.IsZero() {
		if err != nil {
			k.fail(exitYours, "secret "+path, "give issued: YYYY-MM-DD", "%s", err)
		}
		return
	}
	left := end.Sub(k.Now())
	day := end.Format(time.DateOnly)
	switch days := int(left.Hours() / 24); {
	case left <= 0:
		k.fail(exitYours, "secret "+path, "put a new value in its place", "it has ended on %s (%s)", day, why)
	case days < secretDays[0]:
		k.warn("secret "+path, "have a new value made", "it ends on %s, in %d days (%s)", day, days, why)
	default:
		k.ok("secret "+path, "it ends on %s (%s)", day, why)
	}
}

// registryProbe is an id that registries, which count from 1, do not reach.
const registryProbe = 1<<31 - 1

// registry asks the schema registry for an id that no registry gives: any answer but silence will do.
func (k *checker) registry(ctx context.Context, cfg *config.Config, c *contract) {
	lookup, err := c.lookup(cfg)
	if err != nil {
		k.failErr(exitYours, "registry", "", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	// An answer that the id is not known is an answer.
	if _, err := lookup.ByID(ctx, schema.Subject("weir-check"), registryProbe); err != nil && !errors.Is(err, schema.ErrUnknownSchema) {
		k.fail(exitEnv, "registry", "is schema.registry right, and does it answer?", "%s", err)
		return
	}
	k.ok("registry", "%s answers", cfg.Schema.Registry)
}

func (k *checker) profile(c *contract, name string, conn *config.Connector) *profile.Compiled {
	check := "connector " + name + " profile"
	p, err := c.compile(name, conn, 0)
	if err != nil {
		k.failErr(exitYours, check, "", err)
		return nil
	}
	for _, s := range p.Secrets {
		if _, ok := conn.Secrets[s]; !ok {
			k.fail(exitYours, check, fmt.Sprintf("add connectors.%s.secrets.%s: ${env:NAME} or ${file:/path}", name, s), "the profile needs the secret %s", s)
		}
	}
	for _, s := range slices.Sorted(maps.Keys(conn.Secrets)) {
		// What cannot be read is reported with the secrets.
		for i, value := range []config.Secret{conn.Secrets[s], conn.Rotation[s].Previous} {
			if value.IsZero() {
				continue
			}
			if v, err := value.Value(); err == nil {
				if err := p.CheckSecret(s, v); err != nil {
					k.fail(exitYours, check, "put a key of environment "+p.Environment+" there, or correct connectors."+name+".environment", "%s%s", []string{"", "the previous value: "}[i], err)
				}
			}
		}
		known := slices.Concat(p.Secrets, p.OptionalSecrets)
		if p.Webhooks != nil {
			known = append(known, p.Webhooks.Secrets...)
		}
		if !slices.Contains(known, s) {
			k.warn(check, "remove it, or correct its name; the profile knows "+strings.Join(known, ", "), "the profile uses no secret %s", s)
		}
	}
	k.ok(check, "%s with %d routes, mapping %s, base URL %s", conn.Profile, len(p.Routes), p.Version, p.BaseURL)
	return p
}

// checkTimeout bounds each question to the environment.
const checkTimeout = 10 * time.Second

func (k *checker) kafka(ctx context.Context, cfg *config.Config, compiled map[string]*profile.Compiled) {
	admin, err := k.connect(ctx, cfg.Kafka)
	if err != nil {
		k.failErr(exitEnv, "kafka", "", err)
		return
	}
	defer admin.Close()
	k.ok("kafka", "%s answers", strings.Join(cfg.Kafka.Brokers, ", "))
	for _, name := range cfg.Names() {
		if p := compiled[name]; p != nil {
			k.topics(ctx, admin, name, cfg.Connectors[name], p)
		}
	}
}

// topics looks at what a connector reads and writes.
func (k *checker) topics(ctx context.Context, admin *kafka.Admin, name string, conn *config.Connector, p *profile.Compiled) {
	check := "connector " + name + " topics"
	every := map[string]string{} // topic -> a route with semantics every
	var names []string
	for _, r := range p.Routes {
		t := conn.Topic(r.Entity)
		if !slices.Contains(names, t) {
			names = append(names, t)
		}
		if r.Semantics == profile.Every {
			every[t] = r.Name
		}
	}
	run := conn.RunName(name)
	found, err := admin.CheckTopics(ctx, run, names)
	if err != nil {
		k.failErr(exitEnv, check, "may this user describe topics and their configs?", environment(check, err, ""))
		return
	}
	bad := map[string]bool{}
	for _, f := range found {
		hint := ""
		what, _ := strings.CutPrefix(f.Text, "topic ")
		switch {
		case f.Code == kafka.FindTopicMissing:
			k.ok(check, "%s is created by the first weir run", f.Topic)
		case f.Code == kafka.FindSourceCompacted && every[f.Topic] != "":
			k.fail(exitYours, check, "set cleanup.policy=delete, or semantics: latest in the profile",
				"%s is compacted, so events of route %s, each of which is an effect, can vanish before they are read", f.Topic, every[f.Topic])
		case f.Code == kafka.FindSourceCompacted: // suits routes with semantics latest
			continue
		case f.Refuse:
			if f.Code == kafka.FindSourceMissing {
				hint = "weir publish --create-topics makes it with the first event"
			}
			k.fail(exitEnv, check, hint, "%s", what)
		default:
			k.warn(check, "weir run mends it if it may", "%s", what)
		}
		bad[f.Topic] = true
	}
	for _, t := range append(names, kafka.ParkedTopic(run), kafka.DeadTopic(run)) {
		if !bad[t] {
			k.ok(check, "%s is good", t)
		}
	}
}

// credential sends the profile's harmless request with the credential.
func (k *checker) credential(ctx context.Context, name string, conn *config.Connector, p *profile.Compiled) {
	check := "connector " + name + " credential"
	if conn.DryRun() {
		k.warn(check, "set mode: live when it is to be sent", "not checked: this is a dry run, nothing is sent to the vendor")
		return
	}
	if p.Credential == nil {
		k.warn(check, "", "not checked: the vendor offers no request that tells")
		return
	}
	for _, s := range p.Secrets {
		if secret, ok := conn.Secrets[s]; !ok {
			return // reported with the profile
		} else if _, err := secret.Value(); err != nil {
			return // reported with the secrets
		}
	}
	roots, err := conn.Roots()
	if err != nil {
		k.fail(exitYours, check, "connectors."+name+".tls.ca names a file with certificates in PEM form", "%s", err)
		return
	}
	sender := deliver.NewSender(deliver.SenderConfig{BaseURL: p.BaseURL, Connections: 1, Timeout: p.Credential.Timeout,
		Credential: deliver.NewCredential(p, secretOf(conn)), Proxy: conn.Proxy, Roots: roots})
	defer sender.Close()
	result, status, err := askVendor(ctx, p.Credential, sender)
	_, refused := errors.AsType[*deliver.CredentialError](err)
	switch {
	case refused:
		k.fail(exitYours, check, "is it of this environment ("+conn.Environment+"), and not revoked?", "%s", err)
	case err != nil:
		hint := "is base_url right, and can this machine reach it?"
		if _, unknown := errors.AsType[*tls.CertificateVerificationError](err); unknown {
			hint = "set connectors." + name + ".tls.ca to the authority of that certificate, or use the name that is in it"
		}
		k.fail(exitEnv, check, hint, "%s", err)
	case result == profile.CheckGood:
		k.ok(check, "%s accepts it", p.BaseURL)
	case result == profile.CheckBad:
		k.fail(exitEnv, check, "is it of this environment ("+conn.Environment+"), and not revoked?", "%s refuses it (HTTP %d)", p.BaseURL, status)
	default:
		k.warn(check, "ask again later", "%s answers HTTP %d, which tells nothing about the credential", p.BaseURL, status)
	}
}

// askVendor sends a check of a profile once. Its errors show no secret.
func askVendor(ctx context.Context, c *profile.Check, sender *deliver.Sender) (profile.CheckResult, int, error) {
	ex := sender.Send(ctx, &profile.Request{Method: c.Method, Path: c.Path})
	if ex.Sent != checkpoint.Answered {
		return "", 0, ex.Err
	}
	return c.Judge(ex.Answer.Status), ex.Answer.Status, nil
}

// store opens the store as a reader, so that a running weir is no hindrance.
func (k *checker) store(ctx context.Context, cfg *config.Config) {
	s, err := k.readStore(ctx, cfg)
	if errors.Is(err, checkpoint.ErrNotFound) {
		k.ok("store", "%s does not exist yet; weir run creates it", cfg.Checkpoint.Store)
		return
	}
	if err == nil {
		defer s.Close()
		_, err = s.Statuses(ctx)
	}
	if err != nil {
		k.failErr(exitEnv, "store", "", err)
		return
	}
	k.ok("store", "%s can be read, id %s", cfg.Checkpoint.Store, s.ID())
}
