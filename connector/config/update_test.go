package config

import (
	"slices"
	"testing"
)

// What is live takes over, the rest waits for a restart, and a second look finds the same.
func TestUpdate(t *testing.T) {
	parse := func(text string) *Config {
		t.Helper()
		c, err := Parse("f.yaml", []byte(text), noEnv)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := parse("kafka: {brokers: [b:1], sasl: {mechanism: PLAIN, user: u, password: \"${env:A}\"}}\n" +
		"connectors:\n  pc: {profile: p, secrets: {k: \"${env:K}\"}, vars: {v: a}, limits: {x: {n: 5}}}\n  gone: {profile: p}\n")
	to := parse("kafka: {brokers: [b:1, c:1], tls: {}, sasl: {mechanism: PLAIN, user: u, password: \"${env:B}\"}}\nops: {token: \"${env:T}\"}\n" +
		"delivery: {max_in_flight: 7, request_timeout: 3s}\nwindow: {bytes: 1MiB}\n" +
		"connectors:\n  pc: {profile: p, secrets: {k: \"${env:L}\", m: \"${env:M}\"}, vars: {v: b}, limits: {x: {n: 6}, y: {window: 2s}}, start: latest}\n  come: {profile: p}\n")
	now, changed, restart := old.Update(to)
	wantChanged := []string{"kafka.sasl.password", "ops.token", "connectors.pc.secrets.k", "connectors.pc.secrets.m", "connectors.pc.limits.x.n",
		"connectors.pc.limits.y", "connectors.pc.delivery.max_in_flight", "connectors.pc.window.bytes"}
	wantRestart := []string{"kafka.brokers", "kafka.tls", "connectors.come", "connectors.gone", "connectors.pc.start", "connectors.pc.vars.v",
		"connectors.pc.delivery.request_timeout"}
	if !slices.Equal(changed, wantChanged) {
		t.Errorf("changed\n got %q\nwant %q", changed, wantChanged)
	}
	if !slices.Equal(restart, wantRestart) {
		t.Errorf("restart\n got %q\nwant %q", restart, wantRestart)
	}
	pc := now.Connectors["pc"]
	if pc.Secrets["k"].Ref() != "${env:L}" || pc.Limits["x"].N != 6 || pc.Delivery.MaxInFlight != 7 || pc.Delivery.RequestTimeout != old.Connectors["pc"].Delivery.RequestTimeout ||
		pc.Vars["v"] != "a" || now.Connectors["gone"] == nil || now.Connectors["come"] != nil || now.Kafka.SASL.Password.Ref() != "${env:B}" || len(now.Kafka.Brokers) != 1 {
		t.Errorf("in force: %+v", pc)
	}
	if old.Connectors["pc"].Limits["x"].N != 5 || old.Kafka.SASL.Password.Ref() != "${env:A}" {
		t.Error("the old config was changed")
	}
	if _, changed, again := now.Update(to); len(changed) > 0 || !slices.Equal(again, wantRestart) {
		t.Errorf("a second look changes %q and finds %q", changed, again)
	}
}
