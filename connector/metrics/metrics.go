// Package metrics turns what connectors report into Prometheus series. Names and labels are a contract
// (lineage_and_operations, C2); labels are bounded: no key, offset, URL or error text.
package metrics

import (
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/deliver"
)

// A Vendor is what the series say of the other side.
type Vendor struct {
	Name    string
	Address string            // host of the base URL, with its port if it has one
	Methods map[string]string // HTTP method by operation
}

// An Observer feeds the series of one connector. Safe for concurrent use.
type Observer struct {
	vendor string
	at     Vendor
	routes map[string]string // by topic: the route that its lag is shown under

	consumed   *prometheus.CounterVec
	decode     *prometheus.CounterVec
	lag        *prometheus.GaugeVec
	status     *prometheus.GaugeVec
	oldest     *prometheus.GaugeVec
	delivered  *prometheus.GaugeVec
	rebalances prometheus.Counter
	attempts   *prometheus.CounterVec
	deliveries *prometheus.CounterVec
	end2end    *prometheus.HistogramVec
	requests   *prometheus.HistogramVec
	circuit    *prometheus.GaugeVec
	deprecated *prometheus.CounterVec
	drift      *prometheus.GaugeVec
	store      *prometheus.HistogramVec
	storeErrs  *prometheus.CounterVec
	superseded *prometheus.CounterVec
	batch      *prometheus.HistogramVec
	references *prometheus.CounterVec
	entries    *prometheus.GaugeVec
	throttled  *prometheus.CounterVec
	inFlight   *prometheus.GaugeVec
	slots      *prometheus.GaugeVec
	retention  *prometheus.GaugeVec
	unsaid     *prometheus.GaugeVec

	outcomes  memo[outcomeKey, outcomeSeries]
	exchanges memo[attemptKey, attemptSeries]

	mu        sync.Mutex
	watched   map[string]*partitionWatch
	breakers  map[string]deliver.State // by operation
	used      *prometheus.GaugeVec
	remaining *prometheus.GaugeVec
}

var _ connector.Observer = (*Observer)(nil)

// New registers the series of one connector. routes maps each topic to the routes that read it; their series
// exist from the start, at zero. Two connectors need registerers that tell them apart.
func New(r prometheus.Registerer, vendor Vendor, routes map[string][]string) *Observer {
	o := &Observer{vendor: vendor.Name, at: vendor, routes: make(map[string]string), watched: make(map[string]*partitionWatch), breakers: make(map[string]deliver.State)}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, labels)
		r.MustRegister(v)
		return v
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		r.MustRegister(v)
		return v
	}
	o.consumed = counter("weir_records_consumed_total", "Records read from a topic.", "route", "topic")
	o.decode = counter("weir_decode_errors_total", "Records that are no valid event.", "topic", "reason")
	o.lag = gauge("weir_consumer_lag_records", "Records between the low-water mark and the end of a partition.", "route", "topic", "partition")
	o.status = gauge("weir_partition_status", "1 for the status that a partition has.", "route", "topic", "partition", "status")
	o.oldest = gauge("weir_oldest_pending_timestamp_seconds", "Time of the oldest record without an outcome, 0 if there is none.", "route", "topic", "partition")
	o.delivered = gauge("weir_last_delivered_timestamp_seconds", "When a record of a route was last delivered.", "route")
	o.attempts = counter("weir_delivery_attempts_total", "Requests by what came of them.", "vendor", "route", "operation", "outcome")
	o.deliveries = counter("weir_deliveries_total", "Records by outcome, once per record and route.", "route", "outcome")
	o.superseded = counter("weir_superseded_total", "Records whose newer state was sent instead.", "route")
	o.end2end = histogram("weir_end_to_end_seconds", "From the event's time to the vendor's acknowledgement.", []float64{1, 2, 5, 10, 30, 60, 120, 300, 900, 3600, 21600, 86400}, "route")
	o.requests = histogram("http_client_request_duration_seconds", "Requests to the vendor.", []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}, "server_address", "http_request_method", "http_response_status_code", "error_type")
	o.circuit = gauge("weir_vendor_circuit_state", "1 for the state that the vendor's breakers have, the worst of its operations'.", "vendor", "state")
	o.deprecated = counter("weir_vendor_deprecations_total", "Answers that say of an operation that it will go.", "vendor", "operation")
	o.drift = gauge("weir_contract_drift", "Differences that the last contract check found, by kind.", "vendor", "kind")
	o.used = gauge("weir_quota_used_ratio", "Part of a declared limit that is used, 0 to 1.", "vendor", "limit")
	o.remaining = gauge("weir_vendor_rate_limit_remaining", "Requests that may start now, by our own count and what the vendor says; of the tightest limit.", "vendor")
	o.throttled = counter("weir_vendor_throttle_wait_seconds_total", "Seconds in which requests waited for a quota.", "vendor")
	o.inFlight = gauge("weir_requests_in_flight", "Requests on the wire.", "vendor")
	o.slots = gauge("weir_requests_in_flight_limit", "Requests that may be on the wire now: max_in_flight at most, fewer as long as that is enough or while they would wait for a CPU.", "vendor")
	o.batch = histogram("weir_batch_items", "Items of one batch request.", []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}, "vendor", "operation")
	o.references = counter("weir_reference_cache_requests_total", "Look-ups of referred entities, by whether memory had them.", "result")
	o.entries = gauge("weir_ledger_entries", "Records without a final outcome, and those that wait for a person, by state.", "route", "state")
	o.unsaid = gauge("weir_unconfirmed_records", "Accepted records of which the vendor has not said yet how they ended: still in time, or overdue.", "vendor", "state")
	o.retention = gauge("weir_topic_retention_seconds", "retention.ms of a topic that is read; +Inf if it keeps records for ever.", "topic")
	o.store = histogram("weir_ledger_operation_duration_seconds", "Store operations.", []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5}, "operation")
	o.storeErrs = counter("weir_ledger_errors_total", "Store operations that failed.", "operation")
	o.rebalances = prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_consumer_rebalances_total", Help: "Partitions given or taken."})
	r.MustRegister(o.rebalances)

	o.storeErrs.WithLabelValues("settle")
	o.throttled.WithLabelValues(o.vendor)
	for _, result := range []string{"hit", "miss"} {
		o.references.WithLabelValues(result)
	}
	for topic, names := range routes {
		for _, reason := range []string{"magic", "schema_unknown", "avro", "contract"} {
			o.decode.WithLabelValues(topic, reason)
		}
		for _, route := range names {
			o.routes[topic] = route
			o.consumed.WithLabelValues(route, topic)
			o.superseded.WithLabelValues(route)
			o.delivered.WithLabelValues(route)
			for _, state := range connector.EntryStates {
				o.entries.WithLabelValues(route, state)
			}
			for _, out := range checkpoint.Outcomes {
				o.deliveries.WithLabelValues(route, string(out))
			}
		}
	}
	return o
}

// Consumed counts records read.
func (o *Observer) Consumed(topic string, n int) {
	o.consumed.WithLabelValues(o.routes[topic], topic).Add(float64(n))
}

// Refused counts records that are no valid event.
func (o *Observer) Refused(topic string, cause checkpoint.Cause) {
	reason := "contract"
	switch cause {
	case checkpoint.CauseFraming:
		reason = "magic"
	case checkpoint.CauseSchema:
		reason = "schema_unknown"
	case checkpoint.CauseTooLarge:
		reason = "avro"
	}
	o.decode.WithLabelValues(topic, reason).Inc()
}

// A memo keeps what was made for a key: finding a series by its labels takes ten times as long. Safe for concurrent use.
type memo[K comparable, V any] struct {
	mu   sync.RWMutex
	made map[K]V
}

func (m *memo[K, V]) get(k K, make func() V) V {
	m.mu.RLock()
	v, ok := m.made[k]
	m.mu.RUnlock()
	if ok {
		return v
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if v, ok = m.made[k]; !ok {
		if m.made == nil {
			m.made = map[K]V{}
		}
		v = make()
		m.made[k] = v
	}
	return v
}

type outcomeKey struct {
	route string
	out   checkpoint.Outcome
}

// outcomeSeries are those of an outcome; what it does not feed is nil.
type outcomeSeries struct {
	deliveries, superseded prometheus.Counter
	delivered              prometheus.Gauge
	end2end                prometheus.Observer
}

// Settled counts an outcome.
func (o *Observer) Settled(route string, out checkpoint.Outcome, occurred time.Time) {
	s := o.outcomes.get(outcomeKey{route, out}, func() outcomeSeries {
		s := outcomeSeries{deliveries: o.deliveries.WithLabelValues(route, string(out))}
		switch out {
		case checkpoint.Superseded:
			s.superseded = o.superseded.WithLabelValues(route)
		case checkpoint.Delivered, checkpoint.Accepted:
			s.delivered, s.end2end = o.delivered.WithLabelValues(route), o.end2end.WithLabelValues(route)
		}
		return s
	})
	s.deliveries.Inc()
	if s.superseded != nil {
		s.superseded.Inc()
	}
	if s.delivered != nil {
		s.delivered.SetToCurrentTime()
		if !occurred.IsZero() {
			s.end2end.Observe(max(time.Since(occurred).Seconds(), 0))
		}
	}
}

type attemptKey struct {
	route, operation, outcome string
	status                    int
}

type attemptSeries struct {
	attempts prometheus.Counter
	requests prometheus.Observer
}

// Attempted counts a request.
func (o *Observer) Attempted(route, operation, outcome string, status int, took time.Duration) {
	s := o.exchanges.get(attemptKey{route, operation, outcome, status}, func() attemptSeries {
		code, kind := strconv.Itoa(status), ""
		switch {
		case status == 0:
			code, kind = "", "no_answer"
		case status >= 400:
			kind = code // as OpenTelemetry has it for answers that are errors
		}
		return attemptSeries{o.attempts.WithLabelValues(o.vendor, route, operation, outcome), o.requests.WithLabelValues(o.at.Address, o.at.Methods[operation], code, kind)}
	})
	s.attempts.Inc()
	s.requests.Observe(took.Seconds())
}

// Deprecated counts an answer that says of its operation that it will go.
func (o *Observer) Deprecated(operation string) {
	o.deprecated.WithLabelValues(o.vendor, operation).Inc()
}

// Drifted shows how many differences of a kind the last contract check found.
func (o *Observer) Drifted(kind string, n int) {
	o.drift.WithLabelValues(o.vendor, kind).Set(float64(n))
}

// Breaker shows the vendor's breakers.
func (o *Observer) Breaker(operation string, s deliver.State) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.breakers[operation] = s
	worst := deliver.Closed
	for _, s := range o.breakers {
		if s == deliver.Open || s == deliver.HalfOpen && worst == deliver.Closed {
			worst = s
		}
	}
	for _, state := range []deliver.State{deliver.Closed, deliver.Open, deliver.HalfOpen} {
		o.circuit.WithLabelValues(o.vendor, string(state)).Set(number(state == worst))
	}
}

// number is 1 for true.
func number(on bool) float64 {
	if on {
		return 1
	}
	return 0
}

// InFlight shows the requests on the wire and their limit.
func (o *Observer) InFlight(n, limit int) {
	o.inFlight.WithLabelValues(o.vendor).Set(float64(n))
	o.slots.WithLabelValues(o.vendor).Set(float64(limit))
}

// Batched counts the items of a batch.
func (o *Observer) Batched(operation string, items int) {
	o.batch.WithLabelValues(o.vendor, operation).Observe(float64(items))
}

// Referenced counts a look-up of a referred entity.
func (o *Observer) Referenced(hit bool) {
	result := "miss"
	if hit {
		result = "hit"
	}
	o.references.WithLabelValues(result).Inc()
}

// Entries shows how many records of a route are in a state.
func (o *Observer) Entries(route, state string, n int) {
	o.entries.WithLabelValues(route, state).Set(float64(n))
}

// Unconfirmed shows how many accepted records wait for the vendor's word.
func (o *Observer) Unconfirmed(waiting, overdue int) {
	o.unsaid.WithLabelValues(o.vendor, "waiting").Set(float64(waiting - overdue))
	o.unsaid.WithLabelValues(o.vendor, "overdue").Set(float64(overdue))
}

// Throttled adds time in which requests waited for a quota.
func (o *Observer) Throttled(d time.Duration) { o.throttled.WithLabelValues(o.vendor).Add(d.Seconds()) }

// Retention shows for how long a topic keeps records; negative: for ever.
func (o *Observer) Retention(topic string, d time.Duration) {
	s := d.Seconds()
	if d < 0 {
		s = math.Inf(1)
	}
	o.retention.WithLabelValues(topic).Set(s)
}

// Stored measures a store operation.
func (o *Observer) Stored(operation string, took time.Duration, err error) {
	o.store.WithLabelValues(operation).Observe(took.Seconds())
	if err != nil {
		o.storeErrs.WithLabelValues(operation).Inc()
	}
}

// Rebalanced counts a rebalance.
func (o *Observer) Rebalanced() { o.rebalances.Inc() }

// Quota shows a limit.
func (o *Observer) Quota(limit string, used float64) {
	o.used.WithLabelValues(o.vendor, limit).Set(used)
}

// Remaining shows how many requests may start now.
func (o *Observer) Remaining(n int) { o.remaining.WithLabelValues(o.vendor).Set(float64(n)) }

// Measured shows a partition.
func (o *Observer) Measured(m connector.Measure) {
	route, p := o.routes[m.Topic], strconv.Itoa(int(m.Partition))
	if m.Lag >= 0 {
		o.lag.WithLabelValues(route, m.Topic, p).Set(float64(m.Lag))
	}
	t := 0.0
	if !m.OldestPending.IsZero() {
		t = float64(m.OldestPending.UnixMilli()) / 1000
	}
	o.oldest.WithLabelValues(route, m.Topic, p).Set(t)
	o.mu.Lock()
	defer o.mu.Unlock()
	w := o.watched[m.Topic+"/"+p]
	if w == nil {
		w = &partitionWatch{}
		o.watched[m.Topic+"/"+p] = w
	}
	is := w.judge(m, time.Now())
	for _, status := range partitionStatuses {
		o.status.WithLabelValues(route, m.Topic, p, status).Set(number(status == is))
	}
}
