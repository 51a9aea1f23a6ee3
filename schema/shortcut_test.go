package schema

import (
	"testing"
	"time"

	"cel.dev/cel-go/cel"
	"pgregory.net/rapid"
)

// TestRuleShortcutsAgree: what a shortcut answers, CEL answers too, on any value in any field. It also holds the other
// direction: on sound events most conditions need no CEL, or the shortcuts are not worth their code.
func TestRuleShortcutsAgree(t *testing.T) {
	set := embedded(t)
	rules, err := EmbeddedRules(set)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	value := rapid.SampledFrom([]any{nil, "", "x", "\xff", "ü", "USD", "usd", "upsert", "delete", "paid", "overdue", "issued", "2026-01-01", "2026-01-02", "a@b.example",
		int64(0), int64(1), int64(-1), true, 1.5, now, now.Add(time.Second), []any{}, []any{map[string]any{"amount_minor": int64(1)}}, map[string]any{}, map[string]any{"country": "US"}})
	rapid.Check(t, func(t *rapid.T) {
		entity := rapid.SampledFrom(set.Entities()).Draw(t, "entity")
		act := &activation{fields: map[string]any{}}
		for _, f := range set.Reader(entity).Type.Fields {
			if rapid.IntRange(0, 9).Draw(t, "there") > 0 {
				act.fields[f.Name] = value.Draw(t, f.Name)
			}
		}
		act.item = value.Draw(t, "item")
		if rapid.Bool().Draw(t, "record") {
			item := map[string]any{}
			for _, name := range []string{"purpose", "revoked_at", "granted_at", "line_id", "amount_minor", "quantity", "unit_price_minor"} {
				item[name] = value.Draw(t, "item."+name)
			}
			act.item = item
		}
		for _, r := range rules.byEntity[entity] {
			for _, c := range []*condition{r.when, r.expr} {
				if c == nil {
					continue
				}
				got, ok := c.short(act)
				if !ok {
					continue
				}
				want, _, err := c.prog.Eval(cel.Activation(act))
				if err != nil || want.Value() != got {
					t.Fatalf("rule %s: shortcut %v; CEL %v, %v; fields %v, item %v", r.ID, got, want, err, act.fields, act.item)
				}
			}
		}
	})
	asked, answered := 0, 0
	for _, entity := range set.Entities() {
		act := &activation{fields: sample(entity)}
		for _, r := range rules.byEntity[entity] {
			if r.Each != "" {
				continue
			}
			asked++
			if _, ok := r.expr.short(act); ok {
				answered++
			}
		}
	}
	if answered*10 < asked*8 {
		t.Errorf("shortcuts answer %d of %d conditions", answered, asked)
	}
}
