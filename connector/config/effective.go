package config

import (
	_ "embed"
	"fmt"
	"slices"

	"github.com/goccy/go-yaml"
)

// schemaFile is kept in step with the field tags by TestSchemaFile.
//
//go:embed config.schema.json
var schemaFile []byte

// JSONSchema is the JSON Schema (draft 2020-12) of the config file.
func JSONSchema() []byte { return slices.Clone(schemaFile) }

// Effective is the config as YAML with every default in it and secrets as their references. A file with this
// text means the same.
func (c *Config) Effective() ([]byte, error) {
	out, err := yaml.MarshalWithOptions(c.WithDefaults(), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("print config: %w", err)
	}
	return out, nil
}

// EffectiveJSON is [Config.Effective] as one JSON object.
func (c *Config) EffectiveJSON() ([]byte, error) {
	y, err := c.Effective()
	if err != nil {
		return nil, err
	}
	out, err := yaml.YAMLToJSON(y)
	if err != nil {
		return nil, fmt.Errorf("print config as JSON: %w", err)
	}
	return out, nil
}
