package finfusion

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// eventTypes of section 10.
func eventTypes() []string {
	return []string{
		"payment.succeeded", "payment.failed", "payment.refunded", "payment.disputed",
		"account.created", "account.updated", "transfer.succeeded", "transfer.failed",
		"card.created", "card.activated", "card.blocked", "card.transaction",
	}
}

// endpoint is a webhook endpoint (section 4.3). It is never changed in place: a delivery reads it without the lock.
type endpoint struct {
	ID        string   `json:"id"`
	URL       string   `json:"url"`
	Events    []string `json:"events"`
	Secret    string   `json:"secret,omitempty"`
	CreatedAt string   `json:"created_at"`
	Previous  string   `json:"-"` // secret before the last rotation
}

// view is what is shown later: without the secret.
func (e *endpoint) view() *endpoint { x := *e; x.Secret = ""; return &x }

type endpointRow struct {
	*endpoint
	Previous string `json:"_previous,omitempty"`
}

func (v *vendor) restoreEndpoint(raw json.RawMessage) error {
	row := endpointRow{endpoint: &endpoint{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	row.endpoint.Previous = row.Previous
	v.putEndpoint(row.endpoint)
	return nil
}

// putEndpoint adds an endpoint or replaces the one with its URL.
func (v *vendor) putEndpoint(e *endpoint) {
	if i := slices.IndexFunc(v.endpoints, func(x *endpoint) bool { return x.URL == e.URL }); i >= 0 {
		v.endpoints[i] = e
		return
	}
	v.endpoints = append(v.endpoints, e)
}

func (v *vendor) endpoint(id string) *endpoint {
	if i := slices.IndexFunc(v.endpoints, func(x *endpoint) bool { return x.ID == id }); i >= 0 {
		return v.endpoints[i]
	}
	return nil
}

func parseEndpoint(r *core.Request) (e endpoint, err error) {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return e, err
	}
	if e.URL, err = f.Text("", "url", true); err != nil {
		return e, err
	}
	if !core.HookURL(e.URL) {
		return e, &core.InvalidError{Field: "url", Message: "must be an https URL (http only to a loopback address)"}
	}
	if e.Events, err = f.Texts("", "events", true); err != nil {
		return e, err
	}
	for _, t := range e.Events {
		if t != "*" && !slices.Contains(eventTypes(), t) {
			return e, &core.InvalidError{Field: "events", Message: "must be some of " + strings.Join(eventTypes(), ", ") + ", or *"}
		}
	}
	if len(e.Events) == 0 {
		return e, &core.InvalidError{Field: "events", Message: "must not be empty"}
	}
	return e, nil
}

// createEndpoint makes an endpoint; its URL is unique, and an existing one is answered without its secret (section 5).
func (v *vendor) createEndpoint(r *core.Request, p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(endpoint)
	if i := slices.IndexFunc(v.endpoints, func(x *endpoint) bool { return x.URL == in.URL }); i >= 0 {
		old := v.endpoints[i]
		return core.Answer{Status: http.StatusOK, Body: marshal(old.view()), Effect: core.Replayed, Object: old.ID, Reference: old.URL}
	}
	e := &in
	e.ID, e.Secret = v.newID("we_"), v.newID("whsec_")
	e.CreatedAt = r.Now.UTC().Format(timeLayout)
	v.putEndpoint(e)
	return core.Answer{Status: http.StatusOK, Body: marshal(e), Effect: core.Applied, Object: e.ID, Reference: e.URL,
		Rows: []core.Row{{Kind: "endpoint", Value: endpointRow{e, ""}}}}
}

func (v *vendor) actRotateSecret(args core.Fields) (any, error) {
	id, err := args.Text("", "id", true)
	if err != nil {
		return nil, err
	}
	old := v.endpoint(id)
	if old == nil {
		return nil, &core.InvalidError{Field: "id", Message: "no webhook endpoint has this id"}
	}
	e := *old
	e.Previous, e.Secret = old.Secret, v.newID("whsec_")
	v.putEndpoint(&e)
	v.s.Record(v.s.Now(), actionRotateSecret, e.ID, e.URL, core.Applied, core.Row{Kind: "endpoint", Value: endpointRow{&e, e.Previous}})
	return &e, nil
}

// actEmit sends an event of any type with any object, as the vendor's simulated responses do.
func (v *vendor) actEmit(args core.Fields) (any, error) {
	eventType, err := args.Text("", "type", true)
	if err != nil {
		return nil, err
	}
	object := json.RawMessage(args.Raw("object"))
	if object == nil {
		object = json.RawMessage(`{}`)
	}
	return map[string]string{"id": v.emit(v.s.Now(), eventType, slices.Clone(object))}, nil
}

// event is the envelope (section 10).
type event struct {
	ID         string    `json:"id"`
	Type       string    `json:"type"`
	Created    int64     `json:"created"`
	Livemode   bool      `json:"livemode"`
	APIVersion string    `json:"api_version"`
	Data       eventData `json:"data"`
	Drift      any       `json:"drift_field,omitempty"`
}

type eventData struct {
	Object any `json:"object"`
}

// retryWaits before attempts 2 to 7 (section 10, sandbox decision).
func retryWaits() []time.Duration {
	return []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Minute, time.Hour}
}

// emit queues an event to every endpoint that wants its type, and returns its id.
func (v *vendor) emit(now time.Time, eventType string, object any) string {
	e := event{ID: v.newID("evt_"), Type: eventType, Created: now.Unix(), APIVersion: "v2", Data: eventData{object}}
	if v.drift {
		e.Drift = map[string]bool{"added": true}
	}
	body := marshal(e)
	scaled := func(d time.Duration) time.Duration { return time.Duration(float64(d) * v.hookScale) }
	for _, to := range v.endpoints {
		if !slices.Contains(to.Events, eventType) && !slices.Contains(to.Events, "*") {
			continue
		}
		var waits []time.Duration
		for _, w := range retryWaits() {
			waits = append(waits, scaled(w))
		}
		v.hooksQueued++
		copies, after := 1, time.Duration(0)
		if v.hookReorder && v.hooksQueued%2 == 1 {
			after = scaled(time.Second)
		}
		if v.hookTwice {
			copies = 2
		}
		for range copies {
			v.s.Notify(core.Hook{URL: to.URL, Build: v.attempts(*to, body), Retries: waits, After: after})
		}
	}
	return e.ID
}

// attempts builds the deliveries of one event. The switches spoil the first one alone, so that a receiver which refuses
// it gets the event in the end. Every attempt is stamped and signed anew; the body, and with it the event id, stays.
func (v *vendor) attempts(to endpoint, body []byte) func(time.Time) ([]byte, http.Header) {
	first := true // the sandbox makes one attempt after the other
	return func(now time.Time) ([]byte, http.Header) {
		sent, secret := body, to.Secret
		if first {
			if v.hookStale {
				now = now.Add(-time.Hour)
			}
			if v.hookOldSecret {
				if secret = to.Previous; secret == "" {
					secret = "whsec_" + strings.Repeat("0", 16)
				}
			}
		}
		stamp := strconv.FormatInt(now.Unix(), 10)
		signature := signatureOf(secret, stamp, body)
		if first && v.hookTamper {
			sent = append(body[:len(body)-1:len(body)-1], `,"tampered":true}`...)
		}
		first = false
		return sent, http.Header{"Content-Type": {"application/json"}, "X-Finfusion-Signature": {signature}, "X-Finfusion-Timestamp": {stamp}}
	}
}

// signatureOf is the lower-case hex HMAC-SHA256 over "<timestamp>.<raw body>" (section 10, sandbox decision).
func signatureOf(secret, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return hex.EncodeToString(mac.Sum(nil))
}
