package pushcash

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// registration is the body of POST /webhook/register; a new one replaces the old.
type registration struct {
	URL    string `json:"url"`
	Secret string `json:"secret,omitempty"`
}

func (v *vendor) restoreWebhook(raw json.RawMessage) error {
	var g registration
	if err := json.Unmarshal(raw, &g); err != nil {
		return err
	}
	v.hookURL, v.hookSecret = g.URL, g.Secret
	return nil
}

func (v *vendor) parseRegister(r *core.Request, p *parsed) error {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	var g registration
	if g.URL, err = f.Text("", "url", true); err != nil {
		return err
	}
	if !core.HookURL(g.URL) {
		return &core.InvalidError{Field: "url", Message: "must be an https URL (http only to a loopback address)"}
	}
	if g.Secret, err = f.Text("", "secret", false); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(g.Secret); g.Secret != "" && (n < 32 || n > 4096) {
		return &core.InvalidError{Field: "secret", Message: "must be 32 to 4096 characters"}
	}
	p.in = g
	return nil
}

func (v *vendor) registerWebhook(p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	g := p.in.(registration)
	a := core.Answer{Status: http.StatusOK, Value: map[string]string{"url": g.URL}, Effect: core.Applied}
	if g.URL == v.hookURL && g.Secret == v.hookSecret {
		a.Effect = core.Replayed
		return a
	}
	v.hookURL, v.hookSecret = g.URL, g.Secret
	a.Rows = []core.Row{{Kind: "webhook", Value: g}}
	return a
}

// hookData is the data of an event (section 11).
type hookData struct {
	ID                string       `json:"id"`
	Tag               *string      `json:"tag"`
	IdempotencyKey    *string      `json:"idempotency_key"`
	Direction         string       `json:"direction"`
	Amount            int64        `json:"amount"`
	Status            string       `json:"status"`
	DeclineCategory   *string      `json:"decline_category,omitempty"`
	Rail              *string      `json:"rail,omitempty"`
	Currency          string       `json:"currency"`
	Type              string       `json:"type"`
	LimitsUtilization *utilization `json:"limits_utilization,omitempty"`
	Transaction       *transaction `json:"transaction,omitempty"`
}

type utilization struct {
	DailyCashIn    string `json:"daily_cash_in"`
	DailyCashOut   string `json:"daily_cash_out"`
	MonthlyCashIn  string `json:"monthly_cash_in"`
	MonthlyCashOut string `json:"monthly_cash_out"`
}

// retryWaits before attempts 2 to 6 (section 11, sandbox decision).
func retryWaits() []time.Duration {
	return []time.Duration{10 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour}
}

// notifyIntent queues an event: to the intent's own URL, else to the registered one.
func (v *vendor) notifyIntent(i *intent, eventType string) {
	target, secret := i.internal.HookURL, i.internal.HookSecret
	if target == "" {
		target = v.hookURL
	}
	if target == "" {
		return
	}
	// POST /intent has no field for a secret of its own (section 11, sandbox decision).
	if !i.internal.Authorized || i.internal.HookURL == "" {
		secret = v.hookSecret
	}
	d := hookData{ID: i.ID, IdempotencyKey: i.IdempotencyKey, Direction: i.Direction, Amount: i.Amount, Status: i.Status,
		Currency: i.Currency, Type: "card_only_debit"}
	if i.internal.Tag != "" {
		d.Tag = &i.internal.Tag
	}
	if i.Type != nil {
		d.Type = *i.Type
	}
	switch eventType {
	case "intent.declined":
		d.DeclineCategory = i.DeclineCategory
	case "intent.settled":
		last := i.Transactions[len(i.Transactions)-1]
		d.Transaction, d.Rail = &last, i.Rail
	default:
		d.Rail = i.Rail
		used, none := fmt.Sprintf("%.4f", float64(i.Amount)/AmountMax), "0.0000"
		d.LimitsUtilization = &utilization{used, none, used, none}
		if i.Direction == "cash_out" {
			d.LimitsUtilization = &utilization{none, used, none, used}
		}
	}
	var sent atomic.Bool
	h := core.Hook{URL: target, Build: func(now time.Time) ([]byte, http.Header) {
		body, header := signed(eventType, d, secret, now)
		if v.hookTamper && !sent.Swap(true) {
			body = bytes.Replace(body, []byte(`"amount":`), []byte(`"amount":9`), 1)
		}
		return body, header
	}}
	for _, w := range retryWaits() {
		h.Retries = append(h.Retries, time.Duration(float64(w)*v.hookScale))
	}
	v.hookCount++
	if v.hookReorder && v.hookCount%2 == 1 {
		h.After = time.Duration(float64(time.Second) * v.hookScale)
	}
	v.s.Notify(h)
	if v.hookTwice {
		v.s.Notify(h)
	}
}

// signed builds one attempt: the timestamp is of this attempt and lies inside the signed body.
func signed(eventType string, data hookData, secret string, now time.Time) ([]byte, http.Header) {
	body, err := json.Marshal(struct {
		Type      string   `json:"type"`
		Data      hookData `json:"data"`
		Timestamp string   `json:"timestamp"`
	}{eventType, data, now.UTC().Format("2006-01-02T15:04:05.000000Z")})
	if err != nil { // hookData is a plain struct
		panic("pushcash sandbox: webhook cannot be rendered: " + err.Error())
	}
	h := http.Header{"Content-Type": {"application/json"}}
	if secret != "" {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(body)
		h.Set("X-Webhook-Signature", hex.EncodeToString(mac.Sum(nil)))
	}
	return body, h
}
