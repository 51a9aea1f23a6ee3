package sample

import "math/rand/v2"

// older rewrites an event of the newest version as an older one of its schema would have it, and returns which. What
// the older version lacks is left out; it has a place for all else, since the generator uses no symbol that is newer.
func older(entity string, event map[string]any, rng *rand.Rand) int {
	rename := func(m map[string]any, from, to string) {
		m[to] = m[from]
		delete(m, from)
	}
	switch entity {
	case "customer":
		delete(event, "locale")
		rename(event, "data_region", "region")
	case "contract":
		if rng.IntN(2) == 0 {
			return 2 // has the fields of version 3, one with fewer bits
		}
		delete(event, "included_units")
		rename(event, "billing_period", "billing_interval")
	case "invoice":
		delete(event, "purchase_order")
		lines, _ := event["line_items"].([]any)
		for _, line := range lines {
			rename(line.(map[string]any), "unit_price_minor", "unit_minor")
		}
	}
	return 1
}
