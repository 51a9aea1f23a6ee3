package profile

import (
	"math"
	"strconv"
	"strings"
)

// priceDigits are the decimals of a price: vendors charge fractions of a cent.
const priceDigits = 6

func (r *reader) price(n node) *Price {
	p := &Price{}
	r.fields(n, map[string]func(node){
		"amount": func(n node) { p.Micros = r.amount(n) },
		"currency": func(n node) {
			if p.Currency = r.text(n); p.Currency != "" && !isCurrency(p.Currency) {
				r.errorf(n, "for example USD", "%q is no ISO 4217 code", clip(p.Currency))
			}
		},
	})
	r.need(n, p.Micros > 0, "amount", `what one request costs, in quotes: "0.05"`)
	r.need(n, p.Currency != "", "currency", "for example USD")
	return p
}

// amount reads a decimal exactly. It is a text: a YAML number would be a float.
func (r *reader) amount(n node) int64 {
	s := r.text(n)
	whole, frac, _ := strings.Cut(s, ".")
	v, err := strconv.ParseUint(whole+frac+strings.Repeat("0", max(0, priceDigits-len(frac))), 10, 63)
	if err != nil || whole == "" || len(frac) > priceDigits || v > math.MaxInt64 || strings.HasSuffix(s, ".") {
		if s != "" {
			r.errorf(n, `for example "0.05"`, "%q is no amount with at most %d decimals", clip(s), priceDigits)
		}
		return 1 // reported
	}
	return int64(v)
}
