package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
	"github.com/weirsync/weir/schema/registry"
)

// A contract is the set of schemas and rules that this invocation works with. Safe for concurrent use.
type contract struct {
	set     *schema.Set
	rules   *schema.Rules
	decoder *schema.AvroDecoder // of canonical.<entity> topics, with the ids of the set
}

// A schemaRow is one line of `weir schema ls --json` (design section 17).
type schemaRow struct {
	Subject     string `json:"subject"`
	Version     int    `json:"version"`
	ID          int    `json:"id"`
	Fingerprint string `json:"fingerprint"`
	File        string `json:"file"`
}

// loadContract reads the embedded schemas and rules, those of the config's folder and those of further ones; cfg may be
// nil.
func (a *app) loadContract(cfg *config.Config, more ...fs.FS) (*contract, error) {
	files, rules := []fs.FS{schema.EmbeddedFiles()}, []fs.FS{schema.EmbeddedRuleFiles()}
	if cfg != nil && cfg.Schema.Dir != "" {
		dir := a.Dir(cfg.Schema.Dir)
		if _, err := fs.ReadDir(dir, "."); err != nil {
			if pe, ok := errors.AsType[*fs.PathError](err); ok {
				err = pe.Err // its path is relative to the folder
			}
			return nil, yours("schema.dir "+cfg.Schema.Dir, err, "give a folder with .avsc files, or remove schema.dir")
		}
		files = append(files, dir)
		rules = append(rules, dir)
	}
	files, rules = append(files, more...), append(rules, more...)
	set, err := schema.NewSet(files...)
	if err != nil {
		return nil, yours("load schemas", err, "")
	}
	rs, err := schema.NewRules(set, rules...)
	if err != nil {
		return nil, yours("load rules", err, "")
	}
	return &contract{set, rs, schema.NewDecoder(set, nil, schema.DecoderOptions{Rules: rs})}, nil
}

// rows lists all schemas by subject and version.
func (c *contract) rows() []schemaRow {
	rows := []schemaRow{}
	for _, e := range c.set.Entities() {
		for _, s := range c.set.Versions(e) {
			rows = append(rows, schemaRow{string(s.Subject), s.Version, int(s.ID), s.Fingerprint(), s.File})
		}
	}
	slices.SortFunc(rows, func(a, b schemaRow) int {
		return cmp.Or(cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Version, b.Version))
	})
	return rows
}

// encode turns an event in JSON form into a framed Avro value and its key, and reads it back as a connector would:
// what is published is what will be accepted. version is that of the schema to write, 0 for the newest. The errors
// *lineError, *schema.EncodeError and *schema.RefusedError are the event's fault.
func (c *contract) encode(ctx context.Context, entity string, version int, event []byte) (key string, value []byte, err error) {
	dec := json.NewDecoder(bytes.NewReader(event))
	dec.UseNumber() // a float would lose digits of a large integer
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		return "", nil, &lineError{reason: "not a JSON object"}
	}
	if newest := c.set.Reader(entity).Version; version > newest {
		return "", nil, &lineError{"schema_version", fmt.Sprintf("%s has the versions 1 to %d here; a newer build may know more", entity, newest)}
	}
	if value, err = c.set.EncodeVersion(entity, version, fields); err != nil {
		return "", nil, err
	}
	if key, err = c.set.KeyOf(entity, fields); err != nil {
		return "", nil, err
	}
	_, err = c.decoder.Decode(ctx, &schema.Record{Topic: canonicalTopic(entity), Key: []byte(key), Value: value})
	return key, value, err
}

func canonicalTopic(entity string) string { return "canonical." + entity }

// compile compiles a connector's profile against the schemas. Its errors name file, line and column.
func (c *contract) compile(name string, k *config.Connector, limitScale float64) (*profile.Compiled, error) {
	p, err := profile.Load(k.Profile)
	if err != nil {
		return nil, yours("connector "+name, err, "")
	}
	compiled, err := p.Compile(compileOptions(name, k, limitScale, c.set))
	if err != nil {
		return nil, yours("connector "+name, err, "")
	}
	return compiled, nil
}

// decoderFor makes the decoder of a connector that reads topics (topic -> entity), with the registry of the config.
func (c *contract) decoderFor(cfg *config.Config, topics map[string]string) (schema.Decoder, error) {
	lookup, err := c.lookup(cfg)
	if err != nil {
		return nil, err
	}
	return schema.NewDecoder(c.set, lookup, schema.DecoderOptions{Topics: topics, Rules: c.rules}), nil
}

// lookup is where writer schemas are found: in the set, or in a registry.
func (c *contract) lookup(cfg *config.Config) (schema.Lookup, error) {
	if cfg == nil || cfg.Schema.Embedded() {
		return c.set, nil
	}
	return registry.New(registry.Options{URLs: []string{cfg.Schema.Registry}})
}

// secretOf answers a connector's secrets by name, as profiles ask for them.
func secretOf(k *config.Connector) func(string) (string, error) {
	return func(name string) (string, error) {
		s, ok := k.Secrets[name]
		if !ok {
			return "", fmt.Errorf("secret %s is not in the config: %w", name, profile.ErrNoSecret)
		}
		return s.Value()
	}
}

// asRefusal is what is wrong with a line; nil if err is nil or not the line's fault.
func asRefusal(err error) *lineError {
	if l, ok := errors.AsType[*lineError](err); ok {
		return l
	}
	if r, ok := errors.AsType[*schema.RefusedError](err); ok {
		reason := r.Reason
		if r.Rule != "" {
			reason = "rule " + r.Rule + ": " + reason
		}
		return &lineError{r.Path, reason}
	}
	if e, ok := errors.AsType[*schema.EncodeError](err); ok && len(e.Problems) > 0 {
		l := &lineError{e.Problems[0].Path, e.Problems[0].Reason}
		for _, p := range e.Problems[1:] {
			l.reason += "; " + p.String()
		}
		if e.More > 0 {
			l.reason += fmt.Sprintf("; and %d more", e.More)
		}
		return l
	}
	return nil
}
