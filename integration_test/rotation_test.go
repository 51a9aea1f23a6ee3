package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// A credentialUse is what weir status says of one value of a secret.
type credentialUse struct {
	Slot, Fingerprint string
	LastUsed          time.Time `json:"last_used"`
	Requests          int64
}

func (b *box) credentials() map[string]credentialUse {
	b.t.Helper()
	all, code, err := b.statuses()
	if err != nil || len(all) != 1 {
		b.t.Fatalf("weir status: exit code %d, %d connectors, %v", code, len(all), err)
	}
	out := map[string]credentialUse{}
	for _, u := range all[0].Credentials {
		out[u.Slot] = u
	}
	return out
}

// A key is changed while events keep coming: first the config has the new key, which the vendor does not take yet, and the
// old one beside it; then the vendor takes both, then only the new one; then the old one goes from the config. Nothing
// fails, nothing is parked for it, and the last use of the old key can be seen, also after a restart.
func TestKeyRotationUnderLoad(t *testing.T) {
	for _, vendor := range []string{"pushcash", "finfusion"} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			keys := map[string][2]string{
				"pushcash":  {boxKey, boxKey[:len(boxKey)-1] + "x"},
				"finfusion": {"dev_00000000000000000000000000000000", "dev_00000000000000000000000000000001"},
			}[vendor]
			// Answers are lost all the time: a repeat under the other key would be a second effect at FinFusion.
			r := newTrial(t, boxOptions{vendor: vendor, sandbox: []string{"--fault", "ambiguous=rate:0.05,mode:close"}, delivery: "{request_timeout: 2s}"})
			r.write(r.secret, keys[0])
			r.run()
			var old credentialUse
			r.until("weir status shows the use of the key", boxWait, func() (bool, string) {
				old = r.credentials()["current"]
				return old.Fingerprint != "" && old.Requests > 0, fmt.Sprint(old)
			})
			refuse := func(key string, on bool) {
				r.sandbox.SetFault(t, "unauthorized", on, map[string]any{"key": key})
			}
			more := func(what string) {
				t.Helper()
				n := len(r.sandbox.Applied(t))
				r.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(r.sandbox.Applied(t)) > n+200 })
				if s, err := r.status(); err != nil || s.State != "running" {
					t.Errorf("%s: state %s (%s), %v; want running", what, s.State, s.Reason, err)
				}
			}
			config := r.configText()
			previous := filepath.Join(filepath.Dir(r.secret), "previous")
			r.write(previous, keys[0])
			r.write(r.config, strings.Replace(config, "    secrets:", fmt.Sprintf("    rotation: {api_key: {previous: \"${file:%s}\", max_age: 2160h}}\n    secrets:", previous), 1))
			r.weir.WaitLine(t, "config taken up")
			more("with the same key in both places")

			refuse(keys[1], true)
			r.write(r.secret, keys[1])
			r.until("requests go on with the previous key", boxWait, func() (bool, string) {
				u := r.credentials()
				return u["previous"].Fingerprint == old.Fingerprint && u["current"].Requests > 0 && u["current"].Fingerprint != old.Fingerprint, fmt.Sprint(u)
			})
			more("the vendor does not take the new key yet")

			// The vendor takes both, answers get lost, and then it revokes the old key under which the lost ones were sent.
			r.sandbox.SetFault(t, "unauthorized", false, nil)
			n := len(r.sandbox.Applied(t))
			r.sandbox.SetFault(t, "ambiguous", true, map[string]any{"rate": 1, "mode": "close"})
			r.sandbox.WaitEffects(t, boxWait, func([]harness.Effect) bool { return len(r.sandbox.Applied(t)) > n+20 })
			refuse(keys[0], true)
			r.sandbox.SetFault(t, "ambiguous", true, map[string]any{"rate": 0.05, "mode": "close"})
			r.waitStatus("running with the new key", inState("running"))
			more("the vendor takes the new key alone")
			r.until("the old key is used no more", 2*time.Minute, func() (bool, string) {
				u := r.credentials()["previous"]
				return time.Since(u.LastUsed) > 3*time.Second, fmt.Sprint(u)
			})
			last := r.credentials()["previous"]

			r.write(r.config, config)
			if err := os.Remove(previous); err != nil {
				t.Fatal(err)
			}
			r.until("the old key is former", boxWait, func() (bool, string) {
				u := r.credentials()
				return u["former"].Fingerprint == old.Fingerprint, fmt.Sprint(u)
			})
			more("with the new key alone")
			r.stop(r.weir)
			r.weir = r.start()
			more("after a restart")
			if u := r.credentials()["former"]; u.Fingerprint != old.Fingerprint || !u.LastUsed.Equal(last.LastUsed) {
				t.Errorf("after a restart the old key's last use is %+v, want %v", u, last.LastUsed)
			}
			if text := r.weir.Stderr.String() + r.weir.Stdout.String(); strings.Contains(text, keys[0]) || strings.Contains(text, keys[1]) {
				t.Error("a key is in the log")
			}
			r.finish(nil)
			for _, p := range r.parked() {
				if p.Cause != "rejected" && p.Cause != "held" && !(vendor == "finfusion" && p.Cause == "ambiguous") {
					t.Errorf("%s is parked as %s: %s", p.Key, p.Cause, p.Reason)
				}
				if p.Cause == "rejected" && strings.Contains(p.Reason, "unauthorized") {
					t.Errorf("%s is parked for the credential: %s", p.Key, p.Reason)
				}
			}
		})
	}
}
