package sample

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/schema"
)

func generate(t testing.TB, o Options) []Item {
	t.Helper()
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Collect(g.All())
}

func lines(t testing.TB, o Options) []byte {
	t.Helper()
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := g.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestSameSeedSameBytes(t *testing.T) {
	one, two, other := lines(t, Demo(7, 5_000)), lines(t, Demo(7, 5_000)), lines(t, Demo(8, 5_000))
	if !bytes.Equal(one, two) {
		t.Error("two runs of seed 7 differ")
	}
	if bytes.Equal(one, other) {
		t.Error("seeds 7 and 8 give the same bytes")
	}
	// The bytes outlive the process: recorded runs name only their seed. A change of this sum changes what all
	// seeds mean and belongs into the changelog.
	sum := sha256.Sum256(one)
	if got, want := hex.EncodeToString(sum[:]), golden; got != want {
		t.Errorf("SHA-256 of seed 7 is %s, want %s", got, want)
	}
}

func TestReaderGivesTheSameBytes(t *testing.T) {
	want := lines(t, Demo(3, 500))
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "bytes": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		g, err := New(Demo(3, 500))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(wrap(g.Reader()))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, %v; want the %d of Write", name, len(got), err, len(want))
		}
	}
}

// TestEventsFitTheSchemas: each event encodes with its schema, comes back by JSON and breaks no rule but the one that
// it says.
func TestEventsFitTheSchemas(t *testing.T) {
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	rules, err := schema.EmbeddedRules(set)
	if err != nil {
		t.Fatal(err)
	}
	o := Demo(11, 4_000)
	o.BadShare, o.InvalidShare = 0.05, 0.05
	dec := schema.NewDecoder(set, nil, schema.DecoderOptions{})
	seen := map[string]int{}
	for _, it := range generate(t, o) {
		if it.Event == nil {
			seen["tombstone"]++
			if it.Key == "" || len(it.Headers) == 0 {
				t.Errorf("tombstone without key or headers: %+v", it)
			}
			continue
		}
		value, err := set.EncodeVersion(it.Entity, it.SchemaVersion, it.Event)
		if err != nil {
			t.Fatalf("%s %s: %v", it.Entity, it.Key, err)
		}
		ev, err := dec.Decode(t.Context(), &schema.Record{Topic: "canonical." + it.Entity, Key: []byte(it.Key), Value: value})
		if err != nil {
			t.Fatalf("%s %s: %v", it.Entity, it.Key, err)
		}
		got := ""
		if vs := rules.CheckAll(it.Entity, ev.Fields); len(vs) > 1 {
			t.Errorf("%s %s breaks %d rules", it.Entity, it.Key, len(vs))
		} else if len(vs) == 1 {
			got = vs[0].Rule
		}
		if got != it.Rule {
			t.Errorf("%s %s breaks rule %q, want %q", it.Entity, it.Key, got, it.Rule)
		}
		seen[it.Entity]++
		seen[fmt.Sprintf("%s in version %d", it.Entity, ev.SchemaVersion)]++
		seen["rule "+it.Rule]++
		line, err := AppendLine(nil, it)
		if err != nil {
			t.Fatal(err)
		}
		var back struct {
			Event   map[string]any
			Version int `json:"schema_version"`
		}
		d := json.NewDecoder(bytes.NewReader(line))
		d.UseNumber()
		if err := d.Decode(&back); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if back.Version != it.SchemaVersion {
			t.Fatalf("%s says version %d, want %d", line, back.Version, it.SchemaVersion)
		}
		again, err := set.EncodeVersion(it.Entity, back.Version, back.Event)
		if err != nil || !bytes.Equal(again, value) {
			t.Fatalf("%s %s by JSON: %v, or other bytes", it.Entity, it.Key, err)
		}
	}
	for _, e := range set.Entities() {
		for _, v := range set.Versions(e) {
			if k := fmt.Sprintf("%s in version %d", e, v.Version); seen[k] == 0 {
				t.Errorf("no %s among 4,000 events: %v", k, seen)
			}
		}
	}
	for _, k := range []string{"customer", "contract", "invoice", "tombstone", "rule invoice.total", "rule invoice.currency", "rule customer.email", "rule customer.currency"} {
		if seen[k] == 0 {
			t.Errorf("no %s among 4,000 events: %v", k, seen)
		}
	}
}

// Publishers that write older versions say the same: but for the fields that those lack, what is read is equal.
func TestOlderShareChangesNothingElse(t *testing.T) {
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	dec := schema.NewDecoder(set, nil, schema.DecoderOptions{})
	read := func(share float64) (fields []map[string]any, old int) {
		o := Demo(5, 2_000)
		o.OlderShare = share
		for _, it := range generate(t, o) {
			if it.Event == nil {
				fields = append(fields, map[string]any{"key": it.Key, "headers": it.Headers})
				continue
			}
			if it.SchemaVersion != 0 {
				old++
			} else if share == 1 {
				t.Fatalf("%s %s is not in an older version", it.Entity, it.Key)
			}
			value, err := set.EncodeVersion(it.Entity, it.SchemaVersion, it.Event)
			if err != nil {
				t.Fatal(err)
			}
			ev, err := dec.Decode(t.Context(), &schema.Record{Topic: "canonical." + it.Entity, Key: []byte(it.Key), Value: value})
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"locale", "included_units", "purchase_order"} {
				delete(ev.Fields, name)
			}
			fields = append(fields, ev.Fields)
		}
		return fields, old
	}
	want, none := read(0)
	if none != 0 {
		t.Errorf("%d events in an older version without a share", none)
	}
	for _, share := range []float64{0.3, 1} {
		got, old := read(share)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("with older share %v the events read otherwise", share)
		}
		if least := int(share * 1_500); old < least {
			t.Errorf("older share %v: %d of 2,000 events, want %d or more", share, old, least)
		}
	}
}

// Recorded runs from before there was a second version name only their seed: in version 1 its events are what they were.
func TestSeedsMeanWhatTheyMeant(t *testing.T) {
	o := Demo(7, 5_000)
	o.OlderShare = 0
	rng := rand.New(rand.NewPCG(1, 1))
	h := sha256.New()
	for _, it := range generate(t, o) {
		for it.Event != nil && older(it.Entity, it.Event, rng) != 1 { // another version leaves the event as it is
		}
		line, err := AppendLine(nil, it)
		if err != nil {
			t.Fatal(err)
		}
		h.Write(line)
	}
	if got, want := hex.EncodeToString(h.Sum(nil)), golden1; got != want {
		t.Errorf("SHA-256 of seed 7 in version 1 is %s, want %s", got, want)
	}
}

// A trace checks what holds from event to event.
func trace(t interface {
	Helper()
	Fatalf(string, ...any)
}, o Options, items []Item) (created map[string]int) {
	t.Helper()
	version := map[string]int64{}
	ids := map[string]bool{}
	created = map[string]int{}
	deleted := map[string]bool{}
	needed := map[string]int{}
	last := time.Time{}
	for i, it := range items {
		id := it.Entity + " " + it.Key
		if it.Event == nil {
			version[id]++
			deleted[id] = true
			continue
		}
		e := it.Event
		if e[it.Entity+"_id"] != it.Key {
			t.Fatalf("%d: key %s, id %v", i, it.Key, e[it.Entity+"_id"])
		}
		if version[id]++; e["entity_version"] != version[id] {
			t.Fatalf("%d: %s has version %v after %d", i, id, e["entity_version"], version[id]-1)
		}
		if ids[e["event_id"].(string)] {
			t.Fatalf("%d: event id %v again", i, e["event_id"])
		}
		ids[e["event_id"].(string)] = true
		at, err := time.Parse(time.RFC3339, e["occurred_at"].(string))
		if err != nil || at.Before(last) {
			t.Fatalf("%d: occurred_at %v after %v: %v", i, e["occurred_at"], last, err)
		}
		last = at
		deleted[id] = e["operation"] == "delete"
		switch it.Entity {
		case "customer":
			if _, ok := created[it.Key]; !ok {
				created[it.Key] = i
			}
			if m, ok := e["email"].(string); ok && it.Rule == "" && !strings.HasSuffix(strings.TrimRight(m, "comnetrg"), "@example.") {
				t.Fatalf("%d: mail address %s is not at an example domain", i, m)
			}
		case "invoice":
			cust := e["customer_id"].(string)
			if _, ok := created[cust]; !ok {
				if o.OutOfOrderShare == 0 {
					t.Fatalf("%d: invoice %s before its customer %s", i, it.Key, cust)
				}
				needed[cust] = i
			}
			if deleted["customer "+cust] {
				t.Fatalf("%d: invoice %s of a deleted customer", i, it.Key)
			}
			if a := e["total_minor"].(int64); a < 1 || a > 1_800_000 {
				t.Fatalf("%d: amount %d is out of the sandbox's bounds", i, a)
			}
		}
	}
	for c, i := range needed {
		if _, ok := created[c]; !ok {
			t.Fatalf("%d: customer %s of an invoice never came", i, c)
		}
	}
	return created
}

func TestHistoriesAreConsistent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		share := func(name string, most float64) float64 {
			return rapid.SampledFrom([]float64{0, most / 10, most}).Draw(t, name)
		}
		o := Options{Seed: rapid.Uint64().Draw(t, "seed"), Events: rapid.IntRange(1, 400).Draw(t, "events"), Customers: rapid.IntRange(0, 20).Draw(t, "customers"),
			Zipf: rapid.SampledFrom([]float64{0, 1.1, 2}).Draw(t, "zipf"), UpdateShare: share("update", 0.7), DeleteShare: share("delete", 0.3),
			OutOfOrderShare: share("order", 1), MagicShare: share("magic", 1), BadShare: share("bad", 0.5), InvalidShare: share("invalid", 0.5), OlderShare: share("older", 1)}
		g, err := New(o)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		items := slices.Collect(g.All())
		if len(items) != o.Events {
			t.Fatalf("%d events, want %d", len(items), o.Events)
		}
		trace(t, o, items)
		for _, it := range items {
			if it.Expect == "" || (o.InvalidShare == 0 && it.Rule != "") {
				t.Fatalf("expect %q, rule %q", it.Expect, it.Rule)
			}
		}
	})
}

func TestDemoHasEverything(t *testing.T) {
	items := generate(t, Demo(1, 2_000))
	created := trace(t, Demo(1, 2_000), items)
	seen := map[string]int{}
	amounts := map[string][]int64{}
	keys := map[string]int{}
	for i, it := range items {
		keys[it.Key]++
		seen[it.Entity]++
		if it.Event == nil {
			seen["tombstone"]++
			continue
		}
		if it.Event["operation"] == "delete" {
			seen["delete"]++
		}
		if it.Rule != "" {
			seen["invalid"]++
		}
		if strings.HasPrefix(it.Expect, "parked: ") {
			seen[it.Expect]++
		}
		if it.Entity == "invoice" {
			if created[it.Event["customer_id"].(string)] > i {
				seen["before its customer"]++
			}
			a := it.Event["total_minor"].(int64)
			if magicEffect(a) != "" {
				seen["magic"]++
			}
			amounts[it.Key] = append(amounts[it.Key], a)
			seen[it.Event["status"].(string)]++
		}
	}
	for _, a := range amounts {
		if len(a) >= 3 && a[0] == a[2] && a[0] != a[1] {
			seen["back to the first amount"]++
		}
	}
	for _, want := range []string{"customer", "contract", "invoice", "tombstone", "delete", "invalid", "before its customer", "magic", "draft", "open", "issued",
		"overdue", "paid", "void", "back to the first amount", "parked: not_a_person", "parked: unsupported_currency"} {
		if seen[want] == 0 {
			t.Errorf("no %q in the demo: %v", want, seen)
		}
	}
	if hot := slices.Max(slices.Collect(maps.Values(keys))); hot < 20 {
		t.Errorf("the hottest key has %d events: no skew", hot)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"events":   {Events: -1},
		"zipf":     {Zipf: 1},
		"update":   {UpdateShare: 1.5},
		"sum":      {UpdateShare: 0.6, DeleteShare: 0.6},
		"bad":      {BadShare: -0.1},
		"older":    {OlderShare: 1.1},
		"oddities": {BadShare: 0.6, InvalidShare: 0.6},
		"start":    {Start: time.Date(99999, 1, 1, 0, 0, 0, 0, time.UTC)},
		"people":   {Customers: -2},
	} {
		if g, err := New(o); err == nil || g != nil {
			t.Errorf("%s: New(%+v) = %v, %v; want an error", name, o, g, err)
		}
	}
}

func TestWriteReportsErrors(t *testing.T) {
	g, err := New(Options{Events: 2_000})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	r.Close()
	if err := g.Write(w); err == nil {
		t.Error("no error from a closed pipe")
	}
	if _, err := AppendLine(nil, Item{Entity: "x", Event: map[string]any{"f": 1.5}}); err == nil {
		t.Error("a float went through")
	}
}

// FuzzAppendString: whatever the text, JSON reads from it what it reads from encoding/json's form.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", `"\`, "\n\x00", "José", "\xff", "\u2028</script>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var got, std string
		if err := errors.Join(json.Unmarshal(appendString(nil, s), &got), json.Unmarshal(want, &std)); err != nil || got != std {
			t.Fatalf("%q became %q, want %q: %v", s, got, std, err)
		}
	})
}

func BenchmarkNext(b *testing.B) {
	o := Demo(1, eventsMax)
	o.Customers = 10_000
	g, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		g.Next()
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

func BenchmarkWrite(b *testing.B) {
	o := Demo(1, eventsMax)
	o.Customers = 10_000
	g, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	r := bufio.NewReaderSize(g.Reader(), 64<<10)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.ReadSlice('\n'); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// golden is the SHA-256 of the 5,000 lines of Demo with seed 7.
const golden = "ac13ab4f1309504a0ac974352e97be30b821e8e019ebdbd64055521de460296b"

// golden1 is that of the same events in version 1 of their schemas, which was the only one.
const golden1 = "4595dd596c45d50cb04ab1d3e185e718baef3d10a49e9cd57ec20d5416308d85"
