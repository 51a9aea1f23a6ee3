package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/metrics"
	"github.com/weirsync/weir/connector/webhook"
)

// TestMetricsPage keeps docs/metrics.md in step with the series that the code registers: go test ./cmd/weir
// -run MetricsPage -update.
func TestMetricsPage(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(buildMetric(readBuild()), newReloader(nil, &runPlan{}, 1, nil).reloads)
	of := prometheus.WrapRegistererWith(prometheus.Labels{"connector": "pc"}, registry)
	called := metrics.Webhooks(of, "v")
	of.MustRegister(metrics.Credentials(func() []deliver.Use {
		return []deliver.Use{{Slot: deliver.CurrentKey, Fingerprint: "00c0ffee", Requests: 1, LastUsed: time.Now()}}
	}))
	of.MustRegister(metrics.Spending(func() []deliver.Spent {
		return []deliver.Spent{{Operation: "create", Currency: "EUR", Requests: 3, AmountMicros: 157_500}}
	}))
	life := newSecretWatch(connectorRun{live: newLiveRun(&config.Connector{}), Log: slog.New(slog.DiscardHandler)})
	life.ends.WithLabelValues("api_key").Set(1)
	of.MustRegister(life.ends)
	o := metrics.New(of, metrics.Vendor{Name: "v", Address: "api.v.example", Methods: map[string]string{"create": "POST"}}, map[string][]string{"canonical.customer": {"v.customer"}})
	zero, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"weir_records_consumed_total", "weir_decode_errors_total", "weir_deliveries_total", "weir_superseded_total",
		"weir_last_delivered_timestamp_seconds", "weir_ledger_errors_total", "weir_consumer_rebalances_total", "weir_config_reloads_total",
		"weir_ledger_entries", "weir_reference_cache_requests_total", "weir_vendor_throttle_wait_seconds_total", "weir_webhooks_total"} {
		if !strings.Contains(fmt.Sprint(names(zero)), name) {
			t.Errorf("%s does not exist before its first event", name)
		}
	}
	o.Consumed("canonical.customer", 3)
	o.Refused("canonical.customer", checkpoint.CauseFraming)
	o.Settled("v.customer", checkpoint.Delivered, time.Now())
	o.Attempted("v.customer", "create", "success", 200, time.Millisecond)
	o.Deprecated("create")
	o.Drifted("missing_field", 1)
	o.Breaker("create", deliver.Closed)
	o.Quota("creates", 0.5)
	o.Remaining(50)
	o.InFlight(12, 64)
	o.Unconfirmed(3, 1)
	o.Stored("settle", time.Millisecond, errors.New("full"))
	o.Rebalanced()
	o.Batched("create", 40)
	o.Referenced(true)
	o.Entries("v.customer", "pending", 3)
	o.Throttled(time.Second)
	o.Retention("canonical.customer", -1)
	called(webhook.Accepted)
	o.Measured(connector.Measure{Topic: "canonical.customer", Lag: 1, State: connector.StateRunning})
	all, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Metrics\n\nMade from the code by `go test ./cmd/weir -run MetricsPage -update`; do not edit. Scrape `/metrics` of `ops.listen`; the\n" +
		"series of the Go runtime and of the process are there too. Labels are bounded: no key, offset, URL or error text.\n\n" +
		"| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, f := range all {
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	const file = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	page, err := os.ReadFile(file)
	if err != nil || string(page) != b.String() {
		t.Errorf("%s is not what the code registers (%v); run go test ./cmd/weir -run MetricsPage -update", file, err)
	}
}

func names(fs []*dto.MetricFamily) (out []string) {
	for _, f := range fs {
		out = append(out, f.GetName())
	}
	return out
}
