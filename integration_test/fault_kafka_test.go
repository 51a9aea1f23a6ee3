package integration_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// Kafka goes away: first it is killed and comes back on its data, then it freezes with its connections open.
func TestFaultKafka(t *testing.T) {
	t.Parallel()
	broker := harness.StartOwn(t)
	r := newTrial(t, boxOptions{cluster: broker.Cluster})
	r.run()
	away := fault{state: "outage", reason: "kafka: ", ready: http.StatusServiceUnavailable, exit: 3, late: 20 * time.Second}
	killed, frozen := away, away
	killed.name, killed.start, killed.end = "Kafka killed", func() { broker.Kill(t) }, func() { broker.Start(t) }
	frozen.name, frozen.start, frozen.end = "Kafka frozen", func() { broker.Pause(t) }, func() { broker.Resume(t) }
	r.endure(killed)
	r.endure(frozen)
	r.finish(map[string]int{"Kafka does not answer": 2, "Kafka answers again": 2})
}
