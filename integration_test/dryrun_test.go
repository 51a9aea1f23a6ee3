package integration_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/integration_test/harness"
)

// A dry run does all but the send: the vendor sees nothing, each record has an outcome, refused ones are parked in a topic
// of the dry run's own, invoices find the customers that it would have made, and a live run afterwards begins as if there
// had been none.
func TestDryRun(t *testing.T) {
	for _, vendor := range []string{"pushcash", "finfusion", "plain"} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			b := newBox(t, boxOptions{vendor: vendor, scale: true})
			if vendor == "finfusion" {
				b.write(b.secret, "dev_00000000000000000000000000000000")
			}
			live := b.configText()
			dry := b.name + ".dry_run"
			b.cluster.Claim(t, "weir."+dry, "weir."+dry+".parked", "weir."+dry+".dead")
			b.write(b.config, strings.Replace(live, "    profile:", "    mode: dry_run\n    profile:", 1))
			const n = 40
			var es []event
			for i := range n {
				who := fmt.Sprintf("c-%d", i)
				es = append(es, invoice("i-"+who, who, 1, 500), customer(who, 1), customer(who, 2))
			}
			company := customer("company", 1)
			company.fields["kind"] = "organisation"
			delete(company.fields, "email")
			b.publish(append(es, company)...)

			done := func(connector string) (outcomes map[checkpoint.Outcome]int) {
				t.Helper()
				group := "weir." + connector
				b.until("lag 0 of "+group, boxWait, func() (bool, string) {
					lags, err := b.admin.Lag(t.Context(), group)
					if err != nil {
						return false, err.Error()
					}
					l := lags[group]
					return l.Lag.Total() == 0 && len(l.Lag) == 3 && l.Error() == nil, fmt.Sprint(l.Lag.Total())
				})
				outcomes = map[checkpoint.Outcome]int{}
				for _, e := range append(es, company) {
					for _, ev := range b.trace(e.key).Events {
						for _, o := range ev.Outcomes {
							outcomes[checkpoint.Outcome(o.Outcome)]++
						}
					}
				}
				return outcomes
			}
			p := b.start()
			p.WaitLine(t, "dry run: nothing is sent")
			got := done(dry)
			if got[checkpoint.Skipped] == 0 || got[checkpoint.Delivered] != 0 || got[checkpoint.Accepted] != 0 {
				t.Errorf("outcomes %v, want skipped ones and none delivered", got)
			}
			story := b.trace("i-c-7").Events
			if len(story) != 1 || len(story[0].Outcomes) != 1 || story[0].Outcomes[0].Reason != "dry_run" || len(story[0].Outcomes[0].Attempts) == 0 {
				t.Errorf("the trace of an invoice does not say what would have been sent: %+v", story)
			}
			s := b.waitStatus("running", inState("running"))
			if s.Name != dry {
				t.Errorf("weir status shows connector %q, want %q", s.Name, dry)
			}
			b.stop(p)
			if es := b.sandbox.Effects(t); len(es) != 0 {
				t.Errorf("the vendor saw %d requests in a dry run, such as %+v", len(es), es[0])
			}
			if r := b.weir.Run(t, "check", "--config", b.config, "--json"); !strings.Contains(r.Stdout, "this is a dry run") {
				t.Errorf("weir check does not say that it is a dry run: %s", r.Stdout)
			}
			// Again: nothing is left to do.
			p = b.start()
			p.WaitLine(t, "partition assigned")
			done(dry)
			b.stop(p)

			b.write(b.config, live)
			p = b.start()
			b.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(b.sandbox.Applied(t)) >= 2*n })
			b.waitLag0()
			b.stop(p)
			b.clean()
		})
	}
}
