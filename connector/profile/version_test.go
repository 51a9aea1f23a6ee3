package profile

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/schema"
)

// oldest gives fields the names that version 1 of their schema has, and takes away what it lacks.
func oldest(entity string, f fields) fields {
	out := maps.Clone(f)
	for _, name := range map[string][]string{"customer": {"locale"}, "contract": {"included_units"}, "invoice": {"purchase_order"}}[entity] {
		delete(out, name)
	}
	rename := func(m fields, to, from string) {
		if v, ok := m[from]; ok {
			m[to] = v
			delete(m, from)
		}
	}
	rename(out, "region", "data_region")
	rename(out, "billing_interval", "billing_period")
	if items, ok := out["line_items"].([]any); ok {
		list := make([]any, len(items))
		for i, x := range items {
			item := maps.Clone(x.(fields))
			rename(item, "unit_minor", "unit_price_minor")
			list[i] = item
		}
		out["line_items"] = list
	}
	return out
}

// Events of all versions in one topic are delivered as one shape: with the same meaning they give the same requests,
// byte by byte, with the same keys and fingerprints.
func TestVersionsGiveTheSameRequests(t *testing.T) {
	set := schemas(t)
	rules, err := schema.EmbeddedRules(set)
	if err != nil {
		t.Fatal(err)
	}
	dec := schema.NewDecoder(set, nil, schema.DecoderOptions{Rules: rules})
	events := []*schema.Event{
		customer(fields{"locale": "en-US", "data_region": "us", "phone": "+15550100",
			"consents": []any{fields{"purpose": "payments", "reference": "doc-9", "granted_at": at, "revoked_at": nil}}}),
		contract(fields{"billing_period": "yearly", "included_units": int64(1000), "end_date": "2026-12-31"}),
		invoice(fields{"purchase_order": "PO-7", "status": "issued",
			"line_items": []any{fields{"line_id": "1", "description": "Seats", "quantity": int64(5), "unit_price_minor": int64(2500), "amount_minor": int64(12500)}}}),
	}
	var golden strings.Builder
	for _, name := range []string{"pushcash", "plain"} {
		c := compiled(t, name, nil)
		for _, e := range events {
			requests := map[int]string{}
			for _, v := range set.Versions(e.Entity) {
				f := e.Fields
				if v.Version == 1 {
					f = oldest(e.Entity, f)
				}
				value, err := set.EncodeVersion(e.Entity, v.Version, f)
				if err != nil {
					t.Fatalf("%s in version %d: %v", e.Entity, v.Version, err)
				}
				ev, err := dec.Decode(t.Context(), &schema.Record{Topic: "canonical." + e.Entity, Key: []byte(e.Key), Value: value})
				if err != nil {
					t.Fatalf("%s in version %d: %v", e.Entity, v.Version, err)
				}
				if ev.SchemaVersion != v.Version {
					t.Errorf("%s in version %d was read as written in version %d", e.Entity, v.Version, ev.SchemaVersion)
				}
				requests[v.Version] = describe(t, routeOf(t, c, e.Entity), &Input{Event: ev, Refs: known})
			}
			if len(requests) < 2 {
				t.Errorf("%s has %d versions: the test shows nothing", e.Entity, len(requests))
			}
			for _, n := range slices.Sorted(maps.Keys(requests)) {
				if requests[n] != requests[1] {
					t.Errorf("%s, %s in version %d:\n%swant what version 1 gives:\n%s", name, e.Entity, n, requests[n], requests[1])
				}
			}
			fmt.Fprintf(&golden, "# %s %s\n%s\n", name, e.Entity, requests[1])
		}
	}
	file := filepath.Join("testdata", "versions.golden")
	if *update {
		if err := os.WriteFile(file, []byte(golden.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if golden.String() != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s\n(run with -update if it is meant)", file, golden.String(), want)
	}
}
