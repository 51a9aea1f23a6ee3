package finfusion

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// bodySum identifies a request body.
type bodySum [16]byte

func sumOf(body []byte) bodySum {
	h := sha256.Sum256(body)
	return bodySum(h[:16])
}

// remembered is the result of a request with an Idempotency-Key (section 5).
type remembered struct {
	Name      string          `json:"name"` // credential, path and key
	Sum       bodySum         `json:"sum"`
	At        int64           `json:"at"` // Unix microseconds
	Status    int             `json:"status"`
	Body      json.RawMessage `json:"body"`
	Object    string          `json:"object,omitempty"`
	Reference string          `json:"reference,omitempty"`
	Items     []core.Item     `json:"items,omitempty"`
}

func (v *vendor) restoreRemembered(raw json.RawMessage) error {
	m := &remembered{}
	if err := json.Unmarshal(raw, m); err != nil {
		return err
	}
	v.remember(m)
	return nil
}

func (v *vendor) remember(m *remembered) {
	v.remembered[m.Name] = m
	v.oldest = append(v.oldest, m.Name)
}

// forget drops what is older than key_ttl. A name that was remembered anew stands in the list twice.
func (v *vendor) forget(now time.Time) {
	if v.keyTTL == 0 {
		return
	}
	limit := now.Add(-v.keyTTL).UnixMicro()
	for len(v.oldest) > 0 {
		if m := v.remembered[v.oldest[0]]; m != nil {
			if m.At > limit {
				return
			}
			delete(v.remembered, m.Name)
		}
		v.oldest = v.oldest[1:]
	}
}

// once executes a request, unless its key has been seen in the last 24 hours: then the stored answer is given again, or
// a conflict if the body differs. 429 and 5xx are not stored (section 5).
func (v *vendor) once(r *core.Request, p *parsed, do func(*core.Request, *parsed) core.Answer) core.Answer {
	if !v.idempotency || r.Key == "" {
		return do(r, p)
	}
	if utf8.RuneCountInString(r.Key) > keyCharsMax {
		return v.refuseParameter("Idempotency-Key", "is longer than 255 characters")
	}
	if m := v.remembered[r.Dedup]; m != nil {
		if m.Sum != p.sum {
			v.s.Count(counterMismatch, 1)
			a := v.refuse("VAL004", "this Idempotency-Key was used with another body", nil)
			a.Object, a.Reference = m.Object, m.Reference
			return a
		}
		a := core.Answer{Status: m.Status, Body: m.Body, Effect: core.Replayed, Object: m.Object, Reference: m.Reference,
			Header: []core.HeaderField{{Name: "Idempotent-Replayed", Value: "true"}}}
		for _, x := range m.Items {
			x.Effect = core.Replayed
			a.Items = append(a.Items, x)
		}
		return a
	}
	a := do(r, p)
	if a.Status == http.StatusRequestTimeout || a.Status == http.StatusTooManyRequests || a.Status >= 500 {
		return a
	}
	m := &remembered{Name: r.Dedup, Sum: p.sum, At: r.Now.UnixMicro(), Status: a.Status, Body: a.Body, Object: a.Object,
		Reference: a.Reference, Items: a.Items}
	v.remember(m)
	a.Rows = append(a.Rows, core.Row{Kind: "remembered", Value: m})
	return a
}
