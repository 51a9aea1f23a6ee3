package integration_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Promise 9: whatever becomes of events, no secret and no personal datum of them is in a log (debug included), a metric,
// an error, a trace, a status, or a header of the parked and dead topics.
func TestNoLeaks(t *testing.T) {
	t.Parallel()
	for _, vendor := range []string{"pushcash", "plain"} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{vendor: vendor, scale: true, delivery: "{attempts_max: 3, reference_wait: 1s}",
				sandbox: []string{"--fault", "ambiguous=rate:0.1", "--fault", "error=rate:0.1", "--fault", "bad_json=rate:0.05", "--fault", "throttle=count:2,retry_after:1"}})
			// Words that stand nowhere but in the events' personal fields and in the secret.
			personal := []string{"Quixotina", "Zephyrbane", "quix@personal.example", "+1-555-0199", "77 Whispering Gallows", "Nethermoor", "1971-02-29", "QX77", boxKey}
			mark := func(e event) event {
				for name, v := range map[string]any{"legal_name": "Quixotina Zephyrbane", "first_name": "Quixotina", "last_name": "Zephyrbane", "email": "quix@personal.example", "phone": "+1-555-0199",
					"billing_address": map[string]any{"line1": "77 Whispering Gallows", "city": "Nethermoor", "region": "IL", "postal_code": "62701", "country": "US"},
					"extensions":      map[string]any{"pushcash": map[string]any{"date_of_birth": "1971-02-29", "government_id_type": "passport", "government_id_last4": "QX77", "identity_verified": "true"}}} {
					e.fields[name] = v
				}
				return e
			}
			var es []event
			for i := range 30 {
				es = append(es, mark(customer(fmt.Sprintf("c-%d", i), 1)))
				inv := invoice(fmt.Sprintf("i-%d", i), fmt.Sprintf("c-%d", i), 1, 900)
				inv.fields["total_minor"], inv.fields["line_items"] = int64(900), []any{map[string]any{"line_id": "1", "description": "for Quixotina Zephyrbane", "quantity": int64(1), "unit_price_minor": int64(900), "amount_minor": int64(900)}}
				es = append(es, inv)
			}
			abroad, noMail, wrongRule := mark(customer("abroad", 1)), mark(customer("no-mail", 1)), mark(customer("wrong", 1))
			abroad.fields["billing_address"].(map[string]any)["country"] = "DE"
			noMail.fields["email"] = nil
			wrongRule.fields["currency"] = "Quixotina" // breaks a rule of the schema with a personal value
			es = append(es, abroad, noMail, wrongRule)
			weir := b.weir.Start(t, "run", "--config", b.config, "--limit-scale", "100000", "--log-level", "debug")
			url := weir.WaitLine(t, `"msg":"ops listener","url":"([^"]+)"`)[1]
			b.publish(es...)
			spoilt := b.record(mark(customer("spoilt", 1)))
			spoilt.Value = spoilt.Value[:len(spoilt.Value)-5]
			b.produce(b.client, spoilt)
			b.waitLag0()

			seen := map[string]string{}
			for _, path := range []string{"/metrics", "/readyz", "/api/v1/status"} {
				resp, err := http.Get(url + path)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(resp.Body)
				resp.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				seen[path] = string(body)
			}
			for _, args := range [][]string{{"status"}, {"status", "--json"}, {"parked", "ls", "--all", "--json"}, {"parked", "ls"}, {"trace", "c-1", "--json"}, {"trace", "c-2"}, {"trace", "i-1"},
				{"trace", "abroad"}, {"trace", "wrong"}, {"trace", "spoilt"}, {"config", "print"}, {"check"}} {
				r := b.weir.Run(t, append(args, "--config", b.config)...)
				seen["weir "+strings.Join(args, " ")] = r.Stdout + r.Stderr
			}
			shown := 0
			for _, p := range b.parked() {
				r := b.weir.Run(t, "parked", "show", p.Origin, "--payload", "--config", b.config)
				seen["weir parked show "+p.Origin] = r.Stdout + r.Stderr
				shown++
			}
			copies := append(b.copies("weir."+b.name+".dead"), b.copies("weir."+b.name+".parked")...)
			for _, r := range copies {
				for _, h := range r.Headers {
					seen["header "+h.Key+" of "+string(r.Key)] = string(h.Value)
				}
			}
			r := weir.Stop(t, boxDrain)
			seen["the log"] = r.Stdout + r.Stderr
			if len(copies) < 2 || vendor == "pushcash" && shown == 0 || len(seen["the log"]) == 0 {
				t.Errorf("%d copies, %d parked records shown, log of %d bytes: the run shows too little", len(copies), shown, len(seen["the log"]))
			}
			for what, text := range seen {
				for _, word := range personal {
					if i := strings.Index(text, word); i >= 0 {
						t.Errorf("%s holds %q: …%s…", what, word, text[max(0, i-80):min(len(text), i+80)])
					}
				}
			}
		})
	}
}
