package profile

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/schema"
)

// programs are all expressions of a mapping that see an event.
func programs(c *Compiled) []*program {
	var out []*program
	var walk func(es []*encoder)
	walk = func(es []*encoder) {
		for _, e := range es {
			if e.value != nil {
				out = append(out, e.value)
			}
			walk(e.fields)
		}
	}
	for _, r := range c.Routes {
		for _, k := range r.cases {
			if k.when != nil {
				out = append(out, k.when)
			}
			for _, s := range k.plan.Steps {
				walk(s.body)
			}
		}
	}
	return out
}

// TestShortcutsAgree: what a shortcut answers, CEL answers too, on sound and on broken events. The test also holds
// the other direction: on sound events most expressions need no CEL, or the shortcuts are not worth their code.
func TestShortcutsAgree(t *testing.T) {
	type pair struct {
		c  *Compiled
		ps []*program
	}
	var all []pair
	for _, vendor := range Embedded() {
		c := compiled(t, vendor, nil)
		all = append(all, pair{c, programs(c)})
	}
	text := rapid.SampledFrom([]any{nil, "", "x", "US", "USD", "open", "draft", "person", "strict", "true", "drivers_license", "a@b.example", "Ada King", int64(0), int64(-1), int64(7), true, 1.5, []any{}, fields{}, fields{"country": "US"},
		fields{"pushcash": fields{"identity_verified": "true", "government_id_type": "ssn"}}, fields{"pushcash": nil}, fields{"pushcash": fields{"date_of_birth": nil}}})
	answered, asked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		var e *schema.Event
		switch rapid.IntRange(0, 3).Draw(t, "entity") {
		case 0:
			e = customer(nil)
		case 1:
			e = contract(nil)
		case 2:
			e = invoice(nil)
		default:
			e = tombstone("customer", "c")
		}
		for _, name := range rapid.SliceOfN(rapid.SampledFrom([]string{"status", "kind", "email", "first_name", "last_name", "legal_name", "billing_address", "extensions", "currency", "total_minor"}), 0, 3).Draw(t, "broken") {
			if e.Fields == nil {
				break
			}
			if rapid.Bool().Draw(t, "drop") {
				delete(e.Fields, name)
			} else {
				e.Fields[name] = text.Draw(t, name)
			}
		}
		in := &Input{Event: e, Refs: known}
		if rapid.Bool().Draw(t, "sent") {
			in.IDs = map[string]string{"intent_id": "i", "user_id": "u"}
		}
		for _, p := range all {
			a := getActivation(in, p.c.Routes[0].vars, nil)
			for _, prg := range p.ps {
				asked++
				got, ok := prg.short(a)
				if !ok {
					continue
				}
				answered++
				want, err := prg.interpret(a)
				if err != nil || !reflect.DeepEqual(got, want) {
					t.Fatalf("%s: %s: shortcut %v, CEL %v, %v", prg.src.at.path, prg.src.text, got, want, err)
				}
			}
			putActivation(a)
		}
	})
	if answered*5 < asked*2 { // of all expressions, those of other entities than the event's included
		t.Errorf("shortcuts answered %d of %d", answered, asked)
	}
}

// TestShortcutOperators compares expressions that no embedded profile has.
func TestShortcutOperators(t *testing.T) {
	p, err := Load("pushcash")
	if err != nil {
		t.Fatal(err)
	}
	rt := p.routes[2]
	s := schemas(t).Reader("invoice")
	typ, err := parseSchema("invoice", []byte(s.Text))
	if err != nil {
		t.Fatal(err)
	}
	sc, err := newRouteScopes(typ, rt, p.routes, p.vars)
	if err != nil {
		t.Fatal(err)
	}
	events := []*schema.Event{invoice(nil), invoice(fields{"contract_id": "k", "total_minor": int64(-3)}), invoice(fields{"total_minor": 12500.0}), tombstone("invoice", "i-1")}
	for _, text := range []string{
		"event.total_minor < 0", "event.total_minor <= 12500", "event.total_minor > 12500", "event.total_minor >= -3", "event.total_minor == 12500",
		"event.contract_id == null", "null != event.contract_id", "event.contract_id == 'k' || event.total_minor > 5", "event.contract_id != 'k' && event.total_minor > 5",
		"!(event.status == 'open')", "event.status in ['open', 'paid']", "event.total_minor in [1, -3]", "true", "false || true", "entity.version == 7", "entity.revision == '7'",
		"entity.tombstone", "event.tax_minor / 0 == 1 || true", "true || event.tax_minor / 0 == 1", "event.tax_minor / 0 == 1 && false", "vars.webhook_url == null", "ids.intent_id != null ? true : event.total_minor > 5",
		"event.extensions.?a.?b.orValue('x') == 'x'", "event.extensions.?a.hasValue()", "event.line_items.exists(l, l.quantity > 0)", "remembered.payment_url == null", "event.due_at == null", "event.issued_at == null",
	} {
		r := &reader{file: "t"}
		prg := r.compile(sc.cases, source{text: text})
		if prg == nil {
			t.Errorf("%s: %v", text, r.errs)
			continue
		}
		for i, e := range events {
			a := getActivation(&Input{Event: e}, map[string]any{"webhook_url": nil}, nil)
			got, ok := prg.short(a)
			want, err := prg.interpret(a)
			if ok && (err != nil || !reflect.DeepEqual(got, want)) {
				t.Errorf("event %d: %s: shortcut %v, CEL %v, %v", i, text, got, want, err)
			}
			putActivation(a)
		}
	}
}

func TestLibrary(t *testing.T) {
	p, err := Load("pushcash")
	if err != nil {
		t.Fatal(err)
	}
	s := schemas(t).Reader("invoice")
	typ, err := parseSchema("invoice", []byte(s.Text))
	if err != nil {
		t.Fatal(err)
	}
	sc, err := newRouteScopes(typ, p.routes[2], p.routes, p.vars)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]any{
		"lower('AÉ')": "aé", "upper('aé')": "AÉ", "trim(' a ')": "a",
		"first_name(' Ada  Maria Lovelace ')": "Ada Maria", "last_name(' Ada  Maria Lovelace ')": "Lovelace",
		"first_name('Cher')": "", "last_name('Cher')": "Cher", "first_name('')": "", "last_name(' ')": "",
		"us_state('CA')": "CA", "us_state('ca')": "CA", "us_state('US-NY')": "NY", "us_state('New York')": "NY", "us_state('XX')": "", "us_state('')": "", "us_state('Bavaria')": "", "us_state('CA-US')": "",
		"is_email('a@b.example')": true, "is_email('a@b')": false, "is_email('A <a@b.example>')": false, "is_email('')": false, "is_email('a b@c.example')": false,
		"is_country('US')": true, "is_country('us')": false, "is_country('XX')": false, "is_currency('USD')": true, "is_currency('usd')": false, "is_currency('XXX')": false,
		"date(event.issued_at)": "2026-06-01", "iso(event.issued_at)": "2026-06-01T12:00:00.000Z", "unix(event.issued_at)": at.Unix(),
		"string(event.total_minor)": "12500", "'a,b'.split(',').join('-')": "a-b",
	} {
		r := &reader{file: "t"}
		prg := r.compile(sc.cases, source{text: text})
		if prg == nil {
			t.Errorf("%s: %v", text, r.errs)
			continue
		}
		a := getActivation(&Input{Event: invoice(nil)}, nil, nil)
		if got, err := prg.eval(a); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s = %v, %v, want %v", text, got, err, want)
		}
		putActivation(a)
	}
	for _, clock := range []string{"now()", "timestamp.now()", "random()", "uuid()"} {
		r := &reader{file: "t"}
		if prg := r.compile(sc.cases, source{text: clock}); prg != nil {
			t.Errorf("%s compiles: a mapping has neither clock nor randomness", clock)
		}
	}
}
