package bench

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/weirsync/weir/schema"
)

// entity is what the events are of: contracts, whose rules and references are those of canonical.contract.
const entity = "contract"

// A workload is what is published: for each event, by number, its entity. The versions of an entity follow the numbers.
type workload struct {
	keys    int
	keyOf   []int32
	version []int32
}

// keysPer is how many events an entity has on average: enough that order matters, few enough that its keys do not
// wait for one another all the time.
const keysPer = 5

// newWorkload spreads events over a fifth as many entities, at random.
func newWorkload(seed uint64, events int) *workload {
	w := &workload{keys: max(1, events/keysPer), keyOf: make([]int32, events), version: make([]int32, events)}
	rng := rand.New(rand.NewPCG(seed, 0x77656972_62656e63)) // the second word separates this use of the seed
	last := make([]int32, w.keys)
	for i := range w.keyOf {
		k := rng.IntN(w.keys)
		last[k]++
		w.keyOf[i], w.version[i] = int32(k), last[k]
	}
	return w
}

func keyName(k int32) string { return fmt.Sprintf("con_%08d", k) }

// event is the event with the number n, whose amount is the number.
func (w *workload) event(n int) (key string, fields map[string]any) {
	key = keyName(w.keyOf[n])
	kind := "contract.changed"
	if w.version[n] == 1 {
		kind = "contract.signed"
	}
	return key, map[string]any{
		"event_id": fmt.Sprintf("5e7a1c00-0000-4000-8000-%012d", n), "event_type": kind,
		"occurred_at":   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second).Format(time.RFC3339),
		"source_system": "crm", "correlation_id": fmt.Sprintf("req-%016x", n), "causation_id": nil, "tenant": "acme",
		"entity_version": int64(w.version[n]), "operation": string(schema.Upsert),
		"contract_id": key, "customer_id": fmt.Sprintf("cust_%08d", w.keyOf[n]/2), "status": "active",
		"start_date": "2026-01-01", "end_date": "2027-12-31", "amount_minor": int64(n), "currency": "USD",
		"billing_period": "monthly", "included_units": int64(100), "extensions": map[string]any{},
	}
}
