package schema

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"
)

// A schema id and a file are for ever. A version that is released gets its line here, and no line ever changes.
func TestReleasedSchemasNeverChange(t *testing.T) {
	t.Parallel()
	released := []struct {
		file, subject, fingerprint string
		version                    int
		id                         ID
	}{
		{"customer.v1.avsc", "canonical.customer-value", "d39f4c5380203283", 1, 1},
		{"contract.v1.avsc", "canonical.contract-value", "55e0845200e3e470", 1, 2},
		{"invoice.v1.avsc", "canonical.invoice-value", "9e51673de71f0e72", 1, 3},
		{"customer.v2.avsc", "canonical.customer-value", "7384204c2d70754f", 2, 4},
		{"contract.v2.avsc", "canonical.contract-value", "c7ede2dad6f2ecaa", 2, 5},
		{"invoice.v2.avsc", "canonical.invoice-value", "a8b3ab5ad054d0d6", 2, 6},
		{"contract.v3.avsc", "canonical.contract-value", "7a32af9e48ebdd2f", 3, 7},
	}
	s := embedded(t)
	n := 0
	for _, e := range s.Entities() {
		n += len(s.Versions(e))
	}
	if n != len(released) {
		t.Errorf("%d schemas are built in, %d are listed here: add the new one", n, len(released))
	}
	for _, r := range released {
		sch := s.byID[r.id]
		if sch == nil {
			t.Errorf("schema id %d (%s) is gone", r.id, r.file)
			continue
		}
		if sch.File != r.file || string(sch.Subject) != r.subject || sch.Version != r.version || sch.Fingerprint() != r.fingerprint {
			t.Errorf("schema id %d is {%s %s v%d %s}, released as %+v", r.id, sch.File, sch.Subject, sch.Version, sch.Fingerprint(), r)
		}
		if sch.ID >= IDFirstForeign {
			t.Errorf("schema id %d is in the range of foreign entities", sch.ID)
		}
	}
	if got, want := s.Entities(), []string{"contract", "customer", "invoice"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Entities = %v, want %v", got, want)
	}
	if got, want := s.Subjects(), []Subject{"canonical.contract-value", "canonical.customer-value", "canonical.invoice-value"}; !reflect.DeepEqual(got, want) {
		t.Errorf("Subjects = %v, want %v", got, want)
	}
}

// The compatibility gate of the built-in schemas: every version reads what every older one wrote (NewSet checks it
// too; this one names the level), and nothing becomes a float.
func TestBackwardTransitive(t *testing.T) {
	t.Parallel()
	s := embedded(t)
	for _, e := range s.Entities() {
		vs := s.Versions(e)
		for i, v := range vs {
			for _, old := range vs[:i+1] {
				for _, p := range Compatible(old.Type, v.Type) {
					t.Errorf("%s does not read %s: %s", v.File, old.File, p)
				}
			}
			noFloats(t, v.File, v.Type, map[*Type]bool{})
		}
	}
}

func noFloats(t *testing.T, at string, typ *Type, seen map[*Type]bool) {
	if typ == nil || seen[typ] {
		return
	}
	seen[typ] = true
	if typ.Kind == Float || typ.Kind == Double {
		t.Errorf("%s is a %s: money and quantities are integers or decimals", at, typ.Kind)
	}
	for _, f := range typ.Fields {
		noFloats(t, at+"."+f.Name, f.Type, seen)
	}
	for _, b := range typ.Branches {
		noFloats(t, at, b, seen)
	}
	noFloats(t, at+"[]", typ.Items, seen)
	noFloats(t, at+"{}", typ.Values, seen)
}

// assetSchema is an entity of a directory; edit changes its text.
func assetSchema(edit ...string) string {
	const text = `{"type":"record","name":"Asset","weir.entity":"asset","weir.schema_version":1,"weir.schema_id":1000,
	"weir.id":"asset_id","weir.version":"entity_version","weir.tenant":"tenant","weir.references":[{"field":"owner","entity":"customer"}],"fields":[
	{"name":"event_id","type":"string"},{"name":"event_type","type":"string"},
	{"name":"occurred_at","type":{"type":"long","logicalType":"timestamp-millis"}},{"name":"source_system","type":"string"},
	{"name":"correlation_id","type":["null","string"],"default":null},{"name":"causation_id","type":["null","string"],"default":null},
	{"name":"tenant","type":"string"},{"name":"entity_version","type":"long"},
	{"name":"operation","type":{"type":"enum","name":"Operation","symbols":["upsert","delete"],"default":"upsert"}},
	{"name":"asset_id","type":"string"},{"name":"owner","type":["null","string"],"default":null}]}`
	return strings.NewReplacer(edit...).Replace(text)
}

func TestEntitiesOfADirectory(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v2 := assetSchema(`"weir.schema_version":1`, `"weir.schema_version":2`, `"weir.schema_id":1000`, `"weir.schema_id":1001`,
		`{"name":"owner"`, `{"name":"colour","type":"string","default":"grey"},{"name":"owner"`)
	for name, text := range map[string]string{"asset.v1.avsc": assetSchema(), "asset.v2.avsc": v2, "notes.txt": "not a schema"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, err := NewSet(EmbeddedFiles(), os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := EmbeddedRules(s)
	if err != nil {
		t.Fatal(err)
	}
	d := NewDecoder(s, nil, DecoderOptions{Rules: rules, Topics: map[string]string{"eu.assets": "asset"}})

	// Written with version 1 by a process that has only that.
	old, err := NewSet(EmbeddedFiles(), fstest.MapFS{"asset.v1.avsc": {Data: []byte(assetSchema())}})
	if err != nil {
		t.Fatal(err)
	}
	value, err := old.Encode("asset", with(envelope("asset.bought"), map[string]any{"asset_id": "a1", "owner": "cus-1"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, topic := range []string{"canonical.asset", "eu.assets"} {
		r := record("asset", "a1", value)
		r.Topic = topic
		ev, err := d.Decode(t.Context(), r)
		if err != nil {
			t.Fatalf("topic %s: %v", topic, err)
		}
		if ev.Entity != "asset" || ev.SchemaVersion != 1 || ev.SchemaID != 1000 || ev.Fields["colour"] != "grey" {
			t.Errorf("topic %s: event %+v", topic, ev)
		}
		if want := []Reference{{"owner", "customer", "cus-1"}}; !reflect.DeepEqual(ev.References, want) {
			t.Errorf("topic %s: references %v, want %v", topic, ev.References, want)
		}
	}
}

func TestNewSetRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, file, text, want string
	}{
		{"id reused", "asset.v1.avsc", assetSchema(`"weir.schema_id":1000`, `"weir.schema_id":1`), "belongs to customer.v1.avsc already"},
		{"id missing", "asset.v1.avsc", assetSchema(`"weir.schema_id":1000,`, ``), "weir.schema_id is"},
		{"file name", "asset.avsc", assetSchema(), "want a name like"},
		{"another entity", "thing.v1.avsc", assetSchema(), `weir.entity is "asset"`},
		{"version of the text", "asset.v2.avsc", assetSchema(), "weir.schema_version is 1"},
		{"hole", "asset.v2.avsc", assetSchema(`"weir.schema_version":1`, `"weir.schema_version":2`), "version 1 of asset is missing"},
		{"no id field", "asset.v1.avsc", assetSchema(`"weir.id":"asset_id"`, `"weir.id":"nope"`), `field "nope", which is not there`},
		{"id field nullable", "asset.v1.avsc", assetSchema(`"weir.id":"asset_id"`, `"weir.id":"owner"`), "field owner is union"},
		{"no envelope", "asset.v1.avsc", assetSchema(`{"name":"event_type","type":"string"},`, ``), `"event_type", which is not there`},
		{"time without unit", "asset.v1.avsc", assetSchema(`{"type":"long","logicalType":"timestamp-millis"}`, `"long"`), "occurred_at"},
		{"operation", "asset.v1.avsc", assetSchema(`"upsert","delete"]`, `"upsert","delete","merge"]`), "operation, an enum"},
		{"enum without default", "asset.v1.avsc", assetSchema(`,"default":"upsert"`, ``), "has no default"},
		{"bad default", "asset.v1.avsc", assetSchema(`"type":["null","string"],"default":null}]`, `"type":["null","string"],"default":4}]`), "owner: default"},
		{"unknown reference", "asset.v1.avsc", assetSchema(`"entity":"customer"`, `"entity":"client"`), `entity "client", which has no schema`},
		{"not a record", "asset.v1.avsc", `"int"`, "want a record"},
		{"not JSON", "asset.v1.avsc", `{`, "not JSON"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewSet(EmbeddedFiles(), fstest.MapFS{c.file: {Data: []byte(c.text)}})
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.file) {
				t.Errorf("got %v, want an error with %q and the file's name", err, c.want)
			}
		})
	}
	v2 := assetSchema(`"weir.schema_version":1`, `"weir.schema_version":2`, `"weir.schema_id":1000`, `"weir.schema_id":1001`, `{"name":"owner"`, `{"name":"must","type":"int"},{"name":"owner"`)
	_, err := NewSet(EmbeddedFiles(), fstest.MapFS{"asset.v1.avsc": {Data: []byte(assetSchema())}, "asset.v2.avsc": {Data: []byte(v2)}})
	if err == nil || !strings.Contains(err.Error(), "BACKWARD_TRANSITIVE") || !strings.Contains(err.Error(), "must:") {
		t.Errorf("an incompatible version 2: got %v, want an error with BACKWARD_TRANSITIVE and the field", err)
	}
	if _, err := NewSet(fstest.MapFS{}); err == nil {
		t.Error("a set without files is accepted")
	}
}
