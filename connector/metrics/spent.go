package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/connector/deliver"
)

// Spending are the series of what requests cost. spent is asked at each scrape.
func Spending(spent func() []deliver.Spent) prometheus.Collector {
	return &spending{spent: spent, desc: prometheus.NewDesc("weir_vendor_spent_total",
		"What answered requests cost by the price in the profile, in units of the currency; whatever the answer.", []string{"operation", "currency"}, nil)}
}

type spending struct {
	spent func() []deliver.Spent
	desc  *prometheus.Desc
}

// Describe implements [prometheus.Collector].
func (s *spending) Describe(ch chan<- *prometheus.Desc) { ch <- s.desc }

// Collect implements [prometheus.Collector].
func (s *spending) Collect(ch chan<- prometheus.Metric) {
	for _, p := range s.spent() {
		ch <- prometheus.MustNewConstMetric(s.desc, prometheus.CounterValue, float64(p.AmountMicros)/1e6, p.Operation, p.Currency)
	}
}
