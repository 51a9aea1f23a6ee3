package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weirsync/weir/schema"
)

// What is wrong with a new file is its author's to correct, so the exit code is 2; what is good is 0.
func TestSchemaCheckExitCode(t *testing.T) {
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	newest := set.Reader("customer")
	next := strings.NewReplacer(`"weir.schema_version": 2,`, `"weir.schema_version": 3,`, `"weir.schema_id": 4,`, `"weir.schema_id": 1000,`).Replace(newest.Text)
	for _, c := range []struct {
		old, repl string
		code      int
		want      string
	}{
		{`"name": "locale",`, `"name": "language", "aliases": ["locale"],`, exitYours, `rule "customer.locale"`}, // a rule that is built in uses it
		{`"name": "status", "type"`, `"name": "state", "type"`, exitDone, "reads all that versions 1 to 2 wrote"},
		{`"name": "legal_name", "type": "string"`, `"name": "legal_name", "type": "long"`, exitYours, "customer.v1.avsc wrote (BACKWARD_TRANSITIVE): legal_name: string was written, long is read"},
		{`"weir.schema_id": 1000`, `"weir.schema_id": 1`, exitYours, "weir.schema_id 1 belongs to customer.v1.avsc already"},
	} {
		if strings.Count(next, c.old) != 1 {
			t.Fatalf("the schema's text has %s not once", c.old)
		}
		file := filepath.Join(t.TempDir(), "customer.v3.avsc")
		if err := os.WriteFile(file, []byte(strings.Replace(next, c.old, c.repl, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if r := invoke(t, "", nil, "schema", "check", file); r.code != c.code || !strings.Contains(r.stdout+r.stderr, c.want) {
			t.Errorf("%s as %s: exit code %d, want %d with %q:\n%s%s", c.old, c.repl, r.code, c.code, c.want, r.stdout, r.stderr)
		}
	}
}
