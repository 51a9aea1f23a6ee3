package integration_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sr"
	"github.com/twmb/franz-go/pkg/sr/srfake"

	"github.com/weirsync/weir/schema"
)

// configText is the config as it is.
func (b *box) configText() string {
	b.t.Helper()
	text, err := os.ReadFile(b.config)
	if err != nil {
		b.t.Fatal(err)
	}
	return string(text)
}

// Events of all versions of the schemas in one topic, as publishers write them that are upgraded one after the other:
// weir publish takes each as its line says, and the vendor gets one shape.
func TestMixedSchemaVersions(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{canonical: true})
	weir := b.start()
	var lines strings.Builder
	versions := map[string]int{} // by key
	for _, entity := range []string{"customer", "contract", "invoice"} {
		for _, s := range b.set.Versions(entity) {
			key := fmt.Sprintf("%s-%d", entity, s.Version)
			versions[key] = s.Version
			e := customer(key, 1)
			switch entity {
			case "contract":
				e = newEvent(entity, key, 1, map[string]any{"customer_id": "customer-1", "status": "active", "start_date": "2026-01-01", "end_date": "2026-12-31",
					"amount_minor": 4900, "currency": "USD"})
				period := "billing_period"
				if s.Version == 1 {
					period = "billing_interval"
				} else {
					e.fields["included_units"] = 1000
				}
				e.fields[period] = "yearly"
			case "invoice":
				price := "unit_price_minor"
				if s.Version == 1 {
					price = "unit_minor"
				}
				e = invoice(key, "customer-1", 1, 600)
				e.fields["line_items"] = []any{map[string]any{"line_id": "1", "quantity": 3, price: 200, "amount_minor": 600}}
			}
			line, err := json.Marshal(map[string]any{"entity": entity, "schema_version": s.Version, "event": e.fields})
			if err != nil {
				t.Fatal(err)
			}
			lines.Write(append(line, '\n'))
		}
	}
	file := filepath.Join(t.TempDir(), "events.jsonl")
	b.write(file, lines.String())
	b.weir.MustRun(t, "publish", "--config", b.config, file)
	b.waitLag0()
	b.stop(weir)
	for key, version := range versions {
		s := b.trace(key)
		if len(s.Events) != 1 || !strings.HasSuffix(s.Events[0].Schema, fmt.Sprintf("-value/%d", version)) || s.Events[0].Outcomes[0].Outcome != "delivered" {
			t.Errorf("trace %s: %+v, want one event of version %d, delivered", key, s.Events, version)
		}
	}
	for _, entity := range []string{"customer", "contract"} { // payments have no state of their own
		var first string
		for _, v := range b.set.Versions(entity) {
			key := fmt.Sprintf("%s-%d", entity, v.Version)
			var thing json.RawMessage
			if !b.sandbox.Object(t, key, &thing) {
				t.Fatalf("%s is not at the vendor", key)
			}
			state := strings.ReplaceAll(string(thing), key, "KEY")
			state = regexp.MustCompile(`"at":"[^"]*"`).ReplaceAllString(state, "")
			if first == "" {
				first = state
			}
			if state != first || !strings.Contains(state, "KEY") {
				t.Errorf("%s at the vendor: %s\nversion 1: %s", key, state, first)
			}
		}
	}
	if rep := b.clean(); rep.Delivered != len(versions) {
		t.Errorf("%d delivered, want %d", rep.Delivered, len(versions))
	}
}

// A schema that is newer than the build: what was written before it is delivered, then its partition waits and says
// why, the others go on, and nothing is dead-lettered. Once the build has the schema, all is delivered, in order.
func TestSchemaAhead(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{partitions: 2})
	topic := b.topics["customer"]
	registry := srfake.New()
	t.Cleanup(registry.Close)
	b.write(b.config, b.configText()+fmt.Sprintf("schema: {registry: %q}\n", registry.URL()))

	// Version 3 calls the consents by another type, which version 2 cannot know.
	newest := b.set.Reader("customer")
	next := newest.Version + 1
	text := newest.Text
	for _, r := range [][2]string{
		{fmt.Sprintf(`"weir.schema_version": %d,`, newest.Version), fmt.Sprintf(`"weir.schema_version": %d,`, next)},
		{fmt.Sprintf(`"weir.schema_id": %d,`, newest.ID), `"weir.schema_id": 1000,`},
		{`"name": "Consent",`, `"name": "Permission", "aliases": ["Consent"],`},
	} {
		if strings.Count(text, r[0]) != 1 {
			t.Fatalf("the schema's text has %s not once", r[0])
		}
		text = strings.Replace(text, r[0], r[1], 1)
	}
	dir := t.TempDir()
	name := fmt.Sprintf("customer.v%d.avsc", next)
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	later, err := schema.NewSet(schema.EmbeddedFiles(), os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	ids := map[int]int{} // the registry's, by version
	for _, s := range later.Versions("customer") {
		id, version, err := registry.RegisterSchema(topic+"-value", sr.Schema{Schema: s.Text})
		if err != nil || version != s.Version {
			t.Fatalf("register %s: version %d, %v", s.File, version, err)
		}
		ids[s.Version] = id
	}
	put := func(partition int32, key string, version int64, schemaVersion int) *kgo.Record {
		t.Helper()
		e := customer(key, version)
		value, err := later.EncodeVersion(e.entity, schemaVersion, e.fields)
		if err != nil {
			t.Fatal(err)
		}
		value[3], value[4] = byte(ids[schemaVersion]>>8), byte(ids[schemaVersion])
		return &kgo.Record{Topic: topic, Partition: partition, Key: []byte(key), Value: value}
	}

	// One batch, so that they come to the connector together.
	held := []*kgo.Record{put(0, "a", 1, 1), put(0, "b", 1, newest.Version), put(0, "a", 2, next), put(0, "b", 2, newest.Version)}
	b.produce(b.raw, held...)
	b.produce(b.raw, put(1, "c", 1, 1))
	weir := b.start()
	applied := func() []string {
		var list []string
		for _, e := range b.sandbox.Applied(t) {
			list = append(list, e.Reference)
		}
		return slices.Sorted(slices.Values(list))
	}
	b.waitStatus("the partition with the newer schema waits, after what was before it", func(s boxStatus) bool {
		p := s.partition(topic, 0)
		return p.State == "held" && p.Mark != nil && *p.Mark == 2
	})
	s := b.waitStatus("the other one goes on", func(s boxStatus) bool {
		p := s.partition(topic, 1)
		return p.State == "running" && p.Mark != nil && *p.Mark == 1
	})
	reason := s.partition(topic, 0).Reason
	for _, part := range []string{"schema_ahead", topic + "-value", fmt.Sprintf("version %d", next), "consents", "upgrade"} {
		if !strings.Contains(reason, part) {
			t.Errorf("reason %q, want it to say %q", reason, part)
		}
	}
	b.produce(b.raw, put(1, "c", 2, newest.Version))
	b.waitStatus("what comes meanwhile is delivered", func(s boxStatus) bool {
		p := s.partition(topic, 1)
		return p.Mark != nil && *p.Mark == 2
	})
	if got, want := applied(), []string{"a.1", "b.1", "c.1", "c.2"}; !slices.Equal(got, want) {
		t.Errorf("at the vendor while it waits: %v, want %v", got, want)
	}
	// A restart of the same build changes nothing.
	b.stop(weir)
	weir = b.start()
	b.waitStatus("it waits again", func(s boxStatus) bool {
		p := s.partition(topic, 0)
		return p.State == "held" && strings.Contains(p.Reason, "schema_ahead")
	})
	if lags, err := b.lags(); err != nil || lags[topic+"/0"] != 2 {
		t.Errorf("lag %v, %v, want 2 of partition 0", lags, err)
	}
	b.stop(weir)

	// The build learns the schema.
	text = strings.Replace(b.configText(), "schema: {", fmt.Sprintf("schema: {dir: %q, ", dir), 1)
	b.write(b.config, text)
	weir = b.start()
	b.waitLag0()
	b.stop(weir)
	if got, want := applied(), []string{"a.1", "a.2", "b.1", "b.2", "c.1", "c.2"}; !slices.Equal(got, want) {
		t.Errorf("at the vendor: %v, want %v, each once", got, want)
	}
	if ev := b.trace(originOf(held[2])).Events; len(ev) != 1 || !strings.HasSuffix(ev[0].Schema, fmt.Sprintf("/%d", next)) {
		t.Errorf("trace of the event that waited: %+v, want schema version %d", ev, next)
	}
	h := b.history()
	h.Config = text[strings.Index(text, "schema: {"):]
	rep := verifyClean(t, h)
	if rep.Delivered != 6 || rep.DeadLettered != 0 || rep.Parked != 0 {
		t.Errorf("delivered %d, dead-lettered %d, parked %d, want 6, 0, 0", rep.Delivered, rep.DeadLettered, rep.Parked)
	}
}
