package profile

import (
	_ "embed"
	"slices"
)

// schemaFile is kept in step with what the reader takes by TestSchemaHasEveryKey.
//
//go:embed profile.schema.json
var schemaFile []byte

// JSONSchema is the JSON Schema (draft 2020-12) of a profile file. It knows every key and what stands there, for editors and
// for pages; expressions, and what belongs together, only the reader checks.
func JSONSchema() []byte { return slices.Clone(schemaFile) }
