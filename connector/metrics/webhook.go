package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/connector/webhook"
)

// Webhooks registers the series of the calls of one connector's vendor, at zero, and answers what counts one.
func Webhooks(r prometheus.Registerer, vendor string) func(webhook.Outcome) {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "weir_webhooks_total", Help: "Calls of a vendor by what came of them."}, []string{"vendor", "outcome"})
	r.MustRegister(v)
	count := make(map[webhook.Outcome]prometheus.Counter, len(webhook.Outcomes))
	for _, o := range webhook.Outcomes {
		count[o] = v.WithLabelValues(vendor, string(o))
	}
	return func(o webhook.Outcome) { count[o].Inc() }
}
