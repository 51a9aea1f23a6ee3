package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/connector/deliver"
)

// Credentials are the series of when requests carried which value of a secret. uses is asked at each scrape.
func Credentials(uses func() []deliver.Use) prometheus.Collector {
	labels := []string{"slot", "fingerprint"}
	return &credentials{uses: uses,
		requests: prometheus.NewDesc("weir_credential_requests_total", "Requests that carried a value of the secret: current, previous, or former if it is in the config no more.", labels, nil),
		last:     prometheus.NewDesc("weir_credential_last_used_timestamp_seconds", "When a request last carried a value of the secret.", labels, nil),
	}
}

type credentials struct {
	uses           func() []deliver.Use
	requests, last *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (c *credentials) Describe(ch chan<- *prometheus.Desc) { ch <- c.requests; ch <- c.last }

// Collect implements [prometheus.Collector].
func (c *credentials) Collect(ch chan<- prometheus.Metric) {
	for _, u := range c.uses() {
		ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(u.Requests), u.Slot, u.Fingerprint)
		ch <- prometheus.MustNewConstMetric(c.last, prometheus.GaugeValue, float64(u.LastUsed.UnixMilli())/1000, u.Slot, u.Fingerprint)
	}
}
