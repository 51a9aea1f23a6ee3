package webhook

import (
	_ "embed"
	"fmt"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

//go:embed fact.v1.avsc
var factText string

// Subject is the name of the fact's schema among Weir's own; its id without a registry is FactSchemaID.
const (
	Subject      schema.Subject = "weir.fact-value"
	FactSchemaID schema.ID      = 900
)

// FactSchema is the schema of the values on weir.<connector>.facts.
func FactSchema() (*schema.Schema, error) {
	return schema.NewSchema(Subject, 1, FactSchemaID, factText)
}

// A fact is one event of a vendor with what is known of its cause.
type fact struct {
	id       string
	source   *Source
	notice   *profile.Notice
	occurred time.Time
	received time.Time
	match    *match
	echo     bool
}

// newFactID is the same for every report of the same event.
func newFactID(connector, eventID string) string {
	return profile.Key(connector, "webhook", "", eventID, 0)
}

// record is the fact as Kafka takes it. Its key is the vendor's object, so that facts of one object keep their order
// and doubles meet in one partition, matched or not.
func (f *fact) record(s *schema.Schema, id schema.ID) (kafka.Out, error) {
	n := f.notice
	fields := map[string]any{
		"fact_id": f.id, "fact_type": n.Fact, "vendor": f.source.Vendor, "connector": f.source.Connector, "channel": "webhook",
		"vendor_event_type": n.Type, "occurred_at": f.occurred.Truncate(time.Millisecond), "received_at": f.received.Truncate(time.Millisecond),
		"vendor_object_id": n.Object, "status": orNull(n.Status), "amount_minor": nil, "currency": orNull(n.Currency),
		"idempotency_key": orNull(n.IdempotencyKey), "reference": orNull(n.Reference), "match": nil, "own_echo": f.echo,
	}
	if n.Amount != nil {
		fields["amount_minor"] = *n.Amount
	}
	further := make(map[string]any, len(n.Fields))
	for k, v := range n.Fields {
		further[k] = v
	}
	fields["fields"] = further
	if m := f.match; m != nil {
		r := &m.row
		fields["match"] = map[string]any{
			"topic": r.Partition.Topic, "partition": r.Partition.Index, "offset": r.Offset, "route": r.Route,
			"event_id": r.Event.ID, "entity": r.Event.Entity, "entity_id": r.Event.Key, "entity_version": r.Event.Version,
			"by": m.by, "idempotency_key": orNull(m.key),
		}
	}
	value, err := s.Encode(id, fields)
	if err != nil {
		return kafka.Out{}, fmt.Errorf("write fact %s of connector %s: %w", n.Fact, f.source.Connector, err)
	}
	header := func(k, v string) schema.Header { return schema.Header{Key: k, Value: []byte(v)} }
	return kafka.Out{
		Topic: kafka.FactsTopic(f.source.Connector), Partition: -1, Key: []byte(n.Object), Value: value,
		Headers: []schema.Header{
			header("ce_specversion", "1.0"), header("ce_id", f.id), header("ce_type", "com.weirsync.fact."+n.Fact),
			header("ce_source", "/weir/"+f.source.Connector), header("ce_time", f.occurred.UTC().Format(time.RFC3339Nano)),
			header("content-type", "application/avro"),
		},
	}, nil
}

// evidence is the fact in the ledger: an attempt of the record that caused it, beside its newest one. nil if there is
// no such record or the ledger has the fact already.
func (f *fact) evidence() []checkpoint.Evidence {
	if f.match == nil {
		return nil
	}
	r := &f.match.row
	detail := f.notice.Fact
	if s := f.notice.Status; s != "" && len(s) <= detailStatusMax {
		detail += ", status " + s
	}
	detail += ", fact " + f.id
	a := checkpoint.Attempt{N: 1, At: f.received, Verdict: checkpoint.VerdictWebhook, Sent: checkpoint.Answered, Detail: detail}
	for i := range r.Attempts {
		a.N = max(a.N, r.Attempts[i].N)
		if r.Attempts[i].Verdict == a.Verdict && r.Attempts[i].Detail == a.Detail {
			return nil
		}
	}
	return []checkpoint.Evidence{{Position: checkpoint.Position{Partition: r.Partition, Offset: r.Offset, Route: r.Route}, Attempt: a, Confirms: !f.notice.Pending}}
}

// detailStatusMax: a detail has at most 256 bytes, 60 of which are the fact's id and 64 its name.
const detailStatusMax = 64

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}
