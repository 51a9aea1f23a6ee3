package integration_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/integration_test/harness"
)

// publishByCommand writes events through weir publish.
func (b *box) publishByCommand(es ...event) {
	b.t.Helper()
	var lines strings.Builder
	for _, e := range es {
		line, err := json.Marshal(map[string]any{"entity": e.entity, "event": e.fields})
		if err != nil {
			b.t.Fatal(err)
		}
		lines.Write(line)
		lines.WriteByte('\n')
	}
	file := filepath.Join(b.t.TempDir(), "events.jsonl")
	b.write(file, lines.String())
	r := b.weir.MustRun(b.t, "publish", file, "--config", b.config, "--json")
	var sum struct{ Read, Published, Refused int }
	if err := json.Unmarshal([]byte(r.Stdout), &sum); err != nil || sum.Published != len(es) || sum.Refused != 0 {
		b.t.Fatalf("weir publish: %v, %+v of %d events", err, sum, len(es))
	}
}

// sameStory traces all ids, which must give the same JSON but for the query, and returns the story.
func (b *box) sameStory(t *testing.T, ids ...string) story {
	t.Helper()
	query := regexp.MustCompile(`(?m)^\s*"query": .*$`)
	first, from := "", ""
	for _, id := range ids {
		if id == "" {
			t.Fatalf("an id is empty: %q", ids)
		}
		r := b.weir.MustRun(t, "trace", id, "--config", b.config, "--json")
		want, err := json.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		if got := query.FindString(r.Stdout); !strings.Contains(got, string(want)) {
			t.Errorf("trace %s: query is %s", id, got)
		}
		text := query.ReplaceAllString(r.Stdout, "")
		if first == "" {
			first, from = text, id
		} else if text != first {
			t.Errorf("trace %s says\n%s\ntrace %s says\n%s", from, first, id, text)
		}
	}
	return b.trace(from)
}

// only is the one outcome of a story's one event.
func only(t *testing.T, s story) (storyEvent, storyOutcome) {
	t.Helper()
	if len(s.Events) != 1 || len(s.Events[0].Outcomes) != 1 {
		t.Fatalf("want one event with one outcome, got %+v", s)
	}
	return s.Events[0], s.Events[0].Outcomes[0]
}

// tells requires that the story for people has all of the words.
func (b *box) tells(t *testing.T, id string, words ...string) {
	t.Helper()
	out := b.weir.MustRun(t, "trace", id, "--config", b.config).Stdout
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("trace %s does not say %q:\n%s", id, w, out)
		}
	}
}

func verdicts(o storyOutcome) (vs []string) {
	for _, a := range o.Attempts {
		vs = append(vs, a.Verdict)
	}
	return vs
}

// weir trace tells the whole story of an event, the same whichever of its ids one has (promise 10).
func TestTrace(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{vendor: "pushcash", scale: true, canonical: true})
	b.sandbox.SetFault(t, "error", true, map[string]any{"count": 2, "match": "retried", "operation": "create_user"})
	b.sandbox.SetFault(t, "reject", true, map[string]any{"match": "refused", "operation": "create_user"})
	weir := b.start()
	b.publishByCommand(customer("plain-one", 1), invoice("inv-one", "plain-one", 1, 4200), customer("retried-one", 1), customer("refused-one", 1))
	b.waitLag0()
	b.stop(weir)
	b.clean()

	t.Run("delivered", func(t *testing.T) {
		o := b.outcome("evt-inv-one-1")
		if len(o.Plan) != 1 {
			t.Fatalf("plan: %+v, want one step", o)
		}
		origin := b.trace("evt-inv-one-1").Events[0].Origin
		e, o := only(t, b.sameStory(t, "evt-inv-one-1", "inv-one", "corr-inv-one", o.VendorID, o.Plan[0].IdempotencyKey, origin))
		if o.Outcome != "delivered" || !slices.Equal(verdicts(o), []string{"accept"}) || o.Attempts[0].Sent != "answered" || o.Attempts[0].Status/100 != 2 {
			t.Errorf("%+v", o)
		}
		if e.EventID != "evt-inv-one-1" || e.Entity != "invoice" || e.Key != "inv-one" || e.Schema != fmt.Sprintf("canonical.invoice-value/%d", b.set.Reader("invoice").Version) {
			t.Errorf("%+v", e)
		}
		sent := slices.ContainsFunc(b.sandbox.Applied(t), func(f harness.Effect) bool {
			return f.Object == o.VendorID && f.IdempotencyKey == o.Plan[0].IdempotencyKey && f.Operation == o.Plan[0].Operation
		})
		if !sent {
			t.Errorf("the vendor has no effect of %+v", o)
		}
		b.tells(t, "inv-one", "evt-inv-one-1", "invoice inv-one", origin, "attempt 1", "HTTP 2", o.VendorID, o.Plan[0].IdempotencyKey, "delivered")
	})
	t.Run("retried", func(t *testing.T) {
		first := b.trace("evt-retried-one-1")
		// The customer's id is the key and the reference, as Push Cash wants it.
		_, o := only(t, b.sameStory(t, "evt-retried-one-1", "retried-one", "corr-retried-one", first.Events[0].Outcomes[0].VendorID, first.Events[0].Origin))
		if o.Outcome != "delivered" || !slices.Equal(verdicts(o), []string{"retry", "retry", "accept"}) {
			t.Fatalf("%+v", o)
		}
		for i, a := range o.Attempts {
			if a.N != i+1 || a.Sent != "answered" || (a.Status == 500) != (i < 2) || i > 0 && a.WaitMS <= 0 {
				t.Errorf("attempt %d: %+v", i+1, a)
			}
		}
		if o.Plan[0].IdempotencyKey != "retried-one" {
			t.Errorf("idempotency key %q, want the customer's id", o.Plan[0].IdempotencyKey)
		}
		b.tells(t, "evt-retried-one-1", "attempt 1", "attempt 2", "attempt 3", "HTTP 500", "after ", "delivered")
	})
	t.Run("parked", func(t *testing.T) {
		first := b.trace("evt-refused-one-1")
		_, o := only(t, b.sameStory(t, "evt-refused-one-1", "refused-one", "corr-refused-one", first.Events[0].Origin))
		if o.Outcome != "parked" || o.Cause != "rejected" || o.Reason == "" || !slices.Equal(verdicts(o), []string{"reject"}) || o.VendorID != "" {
			t.Errorf("%+v", o)
		}
		b.tells(t, "refused-one", "attempt 1", "HTTP 400", "what to do", "parked (rejected)")
		if ps := b.parked(); len(ps) != 1 || ps[0].Origin != first.Events[0].Origin || ps[0].Cause != "rejected" {
			t.Errorf("weir parked ls: %+v", ps)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		if r := b.weir.Run(t, "trace", "evt-of-nobody", "--config", b.config, "--json"); r.Code != 2 {
			t.Errorf("exit code %d, want 2\n%s", r.Code, r.Stderr)
		}
	})
}

// Versions of a customer that arrive while its first is on the wire: the last one replaces those between.
func TestTraceOfSuperseded(t *testing.T) {
	t.Parallel()
	b := newBox(t, boxOptions{})
	b.sandbox.SetFault(t, "hang", true, map[string]any{"count": 1, "match": "held-one", "phase": "before"})
	weir := b.start()
	b.publish(customer("held-one", 1))
	b.waitStatus("the first is on the wire", func(s boxStatus) bool { return s.InFlight != nil && *s.InFlight == 1 })
	rs := b.publish(customer("held-one", 2), customer("held-one", 3), customer("held-one", 4))
	invalid := customer("held-one", 5) // breaks a rule, so it must not replace the last good one
	invalid.fields["currency"] = "ZZZ"
	b.publish(invalid)
	for _, r := range rs[:2] {
		b.until("trace of "+originOf(r)+" while the first hangs", boxWait, func() (bool, string) {
			r := b.weir.Run(t, "trace", originOf(r), "--config", b.config, "--json")
			return strings.Contains(r.Stdout, `"superseded"`), r.Stdout + r.Stderr
		})
	}
	if n := len(b.sandbox.Effects(t)); n != 0 {
		t.Fatalf("%d requests are done while the first hangs, want none", n)
	}
	b.sandbox.SetFault(t, "hang", false, nil)
	b.waitLag0()
	b.stop(weir)
	for i, r := range rs[:2] {
		_, o := only(t, b.sameStory(t, "evt-held-one-"+string(rune('2'+i)), originOf(r)))
		if o.Outcome != "superseded" || !slices.Contains([]string{"evt-held-one-3", "evt-held-one-4"}[i:], o.SupersededBy) || len(o.Attempts) != 0 {
			t.Errorf("version %d: %+v", i+2, o)
		}
	}
	b.tells(t, originOf(rs[0]), "superseded", "by event evt-held-one-")
	s := b.sameStory(t, "held-one", "corr-held-one")
	var got []string
	for _, e := range s.Events {
		for _, o := range e.Outcomes {
			got = append(got, e.EventID+" "+o.Outcome)
		}
	}
	slices.Sort(got)
	if want := []string{"evt-held-one-1 delivered", "evt-held-one-2 superseded", "evt-held-one-3 superseded", "evt-held-one-4 delivered",
		"evt-held-one-5 dead_lettered"}; !slices.Equal(got, want) {
		t.Errorf("the entity's story: %q, want %q", got, want)
	}
	if n := b.things("held-one"); n != 2 {
		t.Errorf("%d states were written, want the first and the last", n)
	}
	b.clean()
}
