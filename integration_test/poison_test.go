package integration_test

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// A badCase is one record that is not an ordinary event, and what must become of it.
type badCase struct {
	name    string
	entity  string // default customer
	record  func(b *box, r *kgo.Record)
	before  bool   // an ordinary event of the same key comes first
	outcome string // default dead_lettered
	cause   string
	rule    string
	path    string
	reason  string // part of it
}

// decodedMax is the largest value that is read (schema.DecoderOptions).
const decodedMax = 1 << 20

func badCases() []badCase {
	big := func(size int) func(*box, *kgo.Record) {
		return func(b *box, r *kgo.Record) {
			e := customer(string(r.Key), 1)
			e.fields["extensions"] = map[string]any{"other": map[string]any{"note": ""}}
			for _, n := range []int{size, size} { // the second time with the length of its own length known
				note := e.fields["extensions"].(map[string]any)["other"].(map[string]any)
				have := len(b.encode(e)) - len(note["note"].(string))
				note["note"] = strings.Repeat("x", n-have)
			}
			r.Value = b.encode(e)
			if len(r.Value) != size {
				b.t.Fatalf("a value of %d bytes, want %d", len(r.Value), size)
			}
		}
	}
	return []badCase{
		{name: "unknown magic byte", cause: "framing", reason: "0x07", record: func(_ *box, r *kgo.Record) { r.Value[0] = 7 }},
		{name: "truncated datum", cause: "framing", path: "billing_address.country", record: func(b *box, r *kgo.Record) {
			e := customer(string(r.Key), 1)
			delete(e.fields, "extensions") // what follows the address is then short
			r.Value = b.encode(e)
			r.Value = r.Value[:len(r.Value)-9]
		}},
		{name: "trailing bytes", cause: "framing", record: func(_ *box, r *kgo.Record) { r.Value = append(r.Value, 1, 2, 3) }},
		{name: "garbage after the framing", cause: "framing", path: "event_id", record: func(_ *box, r *kgo.Record) {
			r.Value = append(r.Value[:5:5], bytes.Repeat([]byte{0xfe, 0x81}, 300)...)
		}},
		{name: "text", cause: "framing", record: func(_ *box, r *kgo.Record) { r.Value = []byte(`{"customer_id":"1"}`) }},
		{name: "framing alone", cause: "framing", record: func(_ *box, r *kgo.Record) { r.Value = r.Value[:3] }},
		{name: "empty value", cause: "framing", record: func(_ *box, r *kgo.Record) { r.Value = []byte{} }},
		{name: "unknown schema id", cause: "schema", reason: "9999", record: func(_ *box, r *kgo.Record) { copy(r.Value[1:5], []byte{0, 0, 0x27, 0x0f}) }},
		{name: "schema of another entity", cause: "schema", record: func(b *box, r *kgo.Record) {
			r.Value = b.encode(invoice(string(r.Key), "c", 1, 5))
		}},
		{name: "rule violation", cause: "rule", rule: "customer.currency", path: "currency", record: func(b *box, r *kgo.Record) {
			e := customer(string(r.Key), 1)
			e.fields["currency"] = "ZZZ"
			r.Value = b.encode(e)
		}},
		{name: "rule violation on an every route", entity: "invoice", cause: "rule", rule: "invoice.issued_at", path: "issued_at", record: func(b *box, r *kgo.Record) {
			e := invoice(string(r.Key), "c", 1, 5)
			e.fields["issued_at"] = nil
			r.Value = b.encode(e)
		}},
		{name: "garbage on an every route", entity: "invoice", cause: "framing", record: func(_ *box, r *kgo.Record) { r.Value = []byte("garbage") }},
		{name: "no key", cause: "no_key", record: func(_ *box, r *kgo.Record) { r.Key = nil }},
		{name: "no key on an every route", entity: "invoice", cause: "no_key", record: func(_ *box, r *kgo.Record) { r.Key = nil }},
		{name: "key is not the id", cause: "key_mismatch", path: "customer_id", record: func(_ *box, r *kgo.Record) { r.Key = []byte("somebody-else") }},
		{name: "tombstone of a known entity", before: true, outcome: "delivered", record: func(_ *box, r *kgo.Record) { r.Value = nil }},
		{name: "tombstone of an unknown entity", cause: "tombstone", record: func(_ *box, r *kgo.Record) { r.Value = nil }},
		{name: "tombstone with a broken header", before: true, cause: "rule", rule: "tombstone.ce_time", path: "headers.ce_time", record: func(_ *box, r *kgo.Record) {
			r.Value = nil
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: "ce_time", Value: []byte("yesterday")})
		}},
		{name: "a value of 1 MiB", outcome: "delivered", record: big(decodedMax)},
		{name: "a value above the limit", cause: "too_large", record: big(decodedMax + 1)},
		{name: "a value of 3 MiB", cause: "too_large", record: big(3 << 20)},
	}
}

// Each record that is no valid event ends in a documented outcome with a reason, in the ledger and in the dead topic
// (design sections 7 and 17), and stops nobody else (promises 7 and 8).
func TestBadRecords(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{partitions: 1})
	weir := b.start()
	cases := badCases()
	records := make([]*kgo.Record, len(cases))
	good := 0
	for i := range cases {
		c := &cases[i]
		if c.outcome == "" {
			c.outcome = "dead_lettered"
		}
		key := fmt.Sprintf("bad-%d", i)
		e := customer(key, 1)
		if c.entity == "invoice" {
			e = invoice(key, "c", 1, 7)
		}
		if c.before {
			b.publish(e)
			b.waitLag0() // else a newer state could supersede it
			good++
		}
		r := b.record(e)
		r.Headers = []kgo.RecordHeader{{Key: "x-origin", Value: []byte("billing")}, {Key: "weir_cause", Value: []byte("forged")}}
		c.record(b, r)
		b.produce(b.raw, r)
		records[i] = r
		// An ordinary one of another key behind each.
		b.publish(customer(fmt.Sprintf("good-%d", i), 1))
		good++
	}
	// Behind a refused record of an every route its key is held; another key is not.
	held := b.publish(invoice("bad-10", "c", 2, 9))[0]
	b.publish(invoice("good-inv", "c", 1, 9))
	good++
	b.waitLag0()

	dead := map[string]*kgo.Record{}
	for _, r := range b.copies("weir." + b.name + ".dead") {
		if origin := header(r, "weir_origin"); dead[origin] == nil {
			dead[origin] = r
		} else {
			t.Errorf("two copies of %s in the dead topic", origin)
		}
	}
	for i := range cases {
		c, r := &cases[i], records[i]
		t.Run(c.name, func(t *testing.T) {
			o := b.outcome(originOf(r))
			if o.Outcome != c.outcome || o.Cause != c.cause {
				t.Errorf("trace %s: outcome %s, cause %q (%s), want %s, %q", originOf(r), o.Outcome, o.Cause, o.Reason, c.outcome, c.cause)
			}
			d := dead[originOf(r)]
			if c.outcome != "dead_lettered" {
				if d != nil {
					t.Error("its bytes are in the dead topic")
				}
				return
			}
			if o.Reason == "" || !strings.Contains(o.Reason, c.rule) || !strings.Contains(o.Reason, c.path) || !strings.Contains(o.Reason, c.reason) {
				t.Errorf("the ledger's reason is %q; it should name rule %q, path %q and %q", o.Reason, c.rule, c.path, c.reason)
			}
			if d == nil {
				t.Fatal("its bytes are not in the dead topic")
			}
			if !bytes.Equal(d.Key, r.Key) || !bytes.Equal(d.Value, r.Value) || (d.Value == nil) != (r.Value == nil) || (d.Key == nil) != (r.Key == nil) {
				t.Errorf("the copy has key %q and %d bytes, the record %q and %d", d.Key, len(d.Value), r.Key, len(r.Value))
			}
			for h, want := range map[string]string{"x-origin": "billing", "weir_outcome": "dead_lettered", "weir_cause": c.cause, "weir_rule": c.rule,
				"weir_path": c.path, "weir_attempts": "0"} {
				if got := header(d, h); got != want {
					t.Errorf("header %s: %q, want %q", h, got, want)
				}
			}
			if reason := header(d, "weir_reason"); reason == "" || !strings.Contains(o.Reason, reason) {
				t.Errorf("header weir_reason is %q, the ledger says %q", reason, o.Reason)
			}
			if n := count(d, "weir_cause"); n != 1 {
				t.Errorf("%d headers weir_cause, want ours alone", n)
			}
			if _, err := time.Parse(time.RFC3339, header(d, "weir_at")); err != nil {
				t.Errorf("header weir_at: %v", err)
			}
			if count(d, "weir_event_id") != 1 {
				t.Error("no header weir_event_id")
			}
		})
	}
	if o := b.outcome(originOf(held)); o.Outcome != "parked" || o.Cause != "held" {
		t.Errorf("the record behind a refused one of its key: %s, cause %q, want parked, held", o.Outcome, o.Cause)
	}
	b.stop(weir)
	rep := b.clean()
	if want := good + 2; rep.Delivered != want { // and the tombstone, and the large one
		t.Errorf("%d delivered, want %d", rep.Delivered, want)
	}
	if want := len(cases) - 2; rep.DeadLettered != want || len(dead) != want {
		t.Errorf("%d dead-lettered, %d in the topic, want %s", rep.DeadLettered, len(dead), strconv.Itoa(want))
	}
	b.lag0ByTool()
}

// header is the last value of a header, "" if it is not there.
func header(r *kgo.Record, key string) (v string) {
	for _, h := range r.Headers {
		if h.Key == key {
			v = string(h.Value)
		}
	}
	return v
}

func count(r *kgo.Record, key string) (n int) {
	for _, h := range r.Headers {
		if h.Key == key {
			n++
		}
	}
	return n
}
