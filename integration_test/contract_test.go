package integration_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// The command names each field in which a vendor's answers differ from the recorded ones, and says nothing of a vendor
// that answers as ever; and the checks of a running weir reach the log and the metrics.
func TestContractChecks(t *testing.T) {
	t.Parallel()
	ops := harness.Addr(t)
	b := newBox(t, boxOptions{ops: ops, more: "    contract_check: {every: 1m}\n"})
	check := func(code int) (drift map[string]string, breaking int) {
		t.Helper()
		r := b.weir.Run(t, "vendor", "check", "plain", "--config", b.config, "--connector", b.name, "--json")
		var rep struct {
			Drift []struct {
				Pair, Kind, Path string
			}
			Breaking int
		}
		if err := json.Unmarshal([]byte(r.Stdout), &rep); err != nil || r.Code != code {
			t.Fatalf("weir vendor check: exit code %d, want %d, %v\n%s%s", r.Code, code, err, r.Stdout, r.Stderr)
		}
		drift = map[string]string{}
		for _, f := range rep.Drift {
			drift[f.Pair+" "+f.Path] = f.Kind
		}
		return drift, rep.Breaking
	}
	drift := func() string {
		for l := range strings.SplitSeq(webhookPage(t, "http://"+ops+"/metrics"), "\n") {
			if strings.HasPrefix(l, "weir_contract_drift{") && strings.Contains(l, `kind="missing_field"`) {
				return l[strings.LastIndexByte(l, ' ')+1:]
			}
		}
		return "absent"
	}

	if got, n := check(0); len(got) != 0 || n != 0 {
		t.Errorf("a vendor that answers as recorded: %v, %d breaking, want silence", got, n)
	}
	b.sandbox.SetFault(t, "drift", true, map[string]any{"missing": "version", "retyped": "reference"})
	got, n := check(1)
	for _, want := range []struct{ field, kind string }{
		{"put_customer version", "missing_field"},
		{"get_payment reference", "retyped_field"},
		{"get_payment drift_field", "new_field"},
	} {
		if got[want.field] != want.kind {
			t.Errorf("drift of %s: %q, want %s; all: %v", want.field, got[want.field], want.kind, got)
		}
	}
	if n == 0 {
		t.Error("a missing and a retyped field break nothing")
	}

	// While weir runs: the first check comes after a minute.
	p := b.start()
	p.WaitStatus(t, "http://"+ops+"/readyz", http.StatusOK)
	const within = 3 * time.Minute
	b.until("weir_contract_drift of missing fields", within, func() (bool, string) {
		v := drift()
		return v != "absent" && v != "0", v
	})
	p.WaitLine(t, "the vendor's answers have changed")
	// It has nothing to send, so an eighth of the usual max_in_flight is enough.
	if want := `weir_requests_in_flight_limit{connector="` + b.name + `",vendor="plain"} 32`; !strings.Contains(webhookPage(t, "http://"+ops+"/metrics"), want) {
		t.Errorf("/metrics lacks %s", want)
	}
	b.sandbox.SetFault(t, "drift", false, nil)
	b.until("weir_contract_drift without drift", within, func() (bool, string) {
		v := drift()
		return v == "0", v
	})
	p.WaitLine(t, "the vendor's answers are again as recorded")
	told := 0
	for _, l := range linesWith(p.Stderr.String(), "the vendor's answers have changed") {
		if strings.Contains(l, "pair=put_customer kind=missing_field") {
			told++
		}
	}
	if told != 1 {
		t.Errorf("%d lines tell of the missing field, want one", told)
	}
	b.stop(p)
}
