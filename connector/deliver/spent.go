package deliver

import (
	"sort"
	"sync"

	"github.com/weirsync/weir/connector/profile"
)

// Spent is what the answered requests of one operation cost, by the price in the profile. Any answer counts, a refusal
// too: the profile does not say which ones the vendor charges, so the vendor's bill may be lower.
type Spent struct {
	Operation string `json:"operation"`
	Currency  string `json:"currency"` // ISO 4217
	Requests  int64  `json:"requests"`
	// AmountMicros is in millionths of the currency's unit.
	AmountMicros int64 `json:"amount_micros"`
}

// AddSpent adds a to what is in sum of the same operation and currency, and returns sum in their order.
func AddSpent(sum []Spent, a Spent) []Spent {
	i := sort.Search(len(sum), func(i int) bool {
		s := sum[i]
		return s.Operation > a.Operation || s.Operation == a.Operation && s.Currency >= a.Currency
	})
	if i < len(sum) && sum[i].Operation == a.Operation && sum[i].Currency == a.Currency {
		sum[i].Requests += a.Requests
		sum[i].AmountMicros += a.AmountMicros
		return sum
	}
	sum = append(sum, a)
	copy(sum[i+1:], sum[i:])
	sum[i] = a
	return sum
}

// A purse counts what requests cost. Safe for concurrent use.
type purse struct {
	mu  sync.Mutex
	sum []Spent
}

// pay counts requests of an operation; none makes it known at zero. An operation without a price is not counted.
func (p *purse) pay(op *profile.Operation, requests int64) {
	if op == nil || op.Price == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sum = AddSpent(p.sum, Spent{Operation: op.Name, Currency: op.Price.Currency, Requests: requests, AmountMicros: requests * op.Price.Micros})
}

// Spent is what the requests of this Sender cost so far, by operation and currency; none where no operation has a price.
func (s *Sender) Spent() []Spent {
	s.purse.mu.Lock()
	defer s.purse.mu.Unlock()
	return append([]Spent(nil), s.purse.sum...)
}
