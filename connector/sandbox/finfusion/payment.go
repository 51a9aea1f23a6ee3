package finfusion

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// payment is what the vendor shows of one (section 4.1).
type payment struct {
	ID            string   `json:"id"`
	Status        string   `json:"status"` // pending, succeeded, failed, refunded, disputed (sandbox decision)
	Amount        money    `json:"amount"`
	PaymentMethod method   `json:"payment_method"`
	CreatedAt     string   `json:"created_at"`
	UpdatedAt     string   `json:"updated_at,omitempty"` // from the first change on
	Metadata      metadata `json:"metadata"`

	sec int64 // of UpdatedAt, else of CreatedAt
	ms  int64 // when it was made, Unix milliseconds
}

type money struct {
	Value    int64  `json:"value"`
	Currency string `json:"currency"`
}

// method is a stored payment method. The number of a card is never kept.
type method struct {
	ID   string `json:"id"`
	Type string `json:"type"`
	Card card   `json:"card"`
}

type card struct {
	Brand    string `json:"brand"`
	Last4    string `json:"last4"`
	ExpMonth int64  `json:"exp_month"`
	ExpYear  int64  `json:"exp_year"`
}

const (
	methodOK       = "pm_test_ok"
	methodDeclined = "pm_test_declined"
)

func testMethods() map[string]method {
	m := map[string]method{}
	for _, id := range []string{methodOK, methodDeclined} {
		m[id] = method{id, "card", card{"visa", "4242", 12, 2099}}
	}
	return m
}

func (p *payment) id() string        { return p.ID }
func (p *payment) changed() int64    { return p.sec }
func (p *payment) kind() string      { return "payment" }
func (p *payment) reference() string { return p.Metadata.reference() }
func (p *payment) meta() metadata    { return p.Metadata }
func (p *payment) view() any         { x := *p; return &x }

// paymentRow is the persisted form.
type paymentRow struct {
	*payment
	MS int64 `json:"_ms"`
}

func (p *payment) row() core.Row {
	return core.Row{Kind: "payment", Value: paymentRow{p, p.ms}}
}

func (v *vendor) restorePayment(raw json.RawMessage) (err error) {
	row := paymentRow{payment: &payment{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	p := row.payment
	p.ms = row.MS
	stamp := p.UpdatedAt
	if stamp == "" {
		stamp = p.CreatedAt
	}
	if p.sec, err = v.restoreStamp(stamp); err != nil {
		return err
	}
	v.addPayment(p)
	return nil
}

func (v *vendor) addPayment(p *payment) {
	if _, known := v.payments.byID[p.ID]; !known && p.Status == "pending" {
		v.due = append(v.due, p.ID)
	}
	v.payments.put(p)
	v.methods[p.PaymentMethod.ID] = p.PaymentMethod
}

// paymentInput is the body of a payment, of version 1 too.
type paymentInput struct {
	amount   money
	methodID string // a stored one; "" makes a new one of card
	card     card
	metadata metadata
}

func (v *vendor) parsePayment(r *core.Request, p *parsed) error {
	in := &paymentInput{}
	p.in = in
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	if err := in.readRest(r, f); err != nil {
		return err
	}
	o, err := f.Object("", "amount", true)
	if err != nil {
		return err
	}
	if in.amount, err = readMoney(o, "amount.", "value"); err != nil {
		return err
	}
	return in.readMethod(r, f, true)
}

// parsePaymentV1 reads the flat form (section 4.5). The vendor's example has no method: then it is pm_test_ok.
func (v *vendor) parsePaymentV1(r *core.Request, p *parsed) error {
	in := &paymentInput{methodID: methodOK}
	p.in = in
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	if err := in.readRest(r, f); err != nil {
		return err
	}
	if in.amount, err = readMoney(f, "", "amount"); err != nil {
		return err
	}
	return in.readMethod(r, f, false)
}

func (in *paymentInput) readRest(r *core.Request, f core.Fields) (err error) {
	if in.metadata, _, err = readMetadata(f, ""); in.metadata == nil {
		in.metadata = metadata{}
	}
	r.Reference = in.metadata.reference()
	return err
}

func readMoney(f core.Fields, path, name string) (m money, err error) {
	if m.Value, err = f.Integer(path, name, true); err != nil {
		return m, err
	}
	if m.Value <= 0 {
		return m, &core.InvalidError{Field: path + name, Message: "must be positive"}
	}
	if m.Currency, err = f.Text(path, "currency", true); err != nil {
		return m, err
	}
	if len(m.Currency) != 3 || strings.IndexFunc(m.Currency, func(r rune) bool { return r < 'A' || r > 'Z' }) >= 0 {
		return m, &core.InvalidError{Field: path + "currency", Message: "must be three capital letters (ISO 4217)"}
	}
	return m, nil
}

func (in *paymentInput) readMethod(r *core.Request, f core.Fields, required bool) error {
	const path = "payment_method."
	o, err := f.Object("", "payment_method", required)
	if err != nil || o == nil {
		return err
	}
	if in.methodID, err = o.Text(path, "id", false); err != nil || in.methodID != "" {
		return err
	}
	kind, err := o.Text(path, "type", true)
	if err != nil {
		return err
	}
	if kind != "card" {
		return &core.InvalidError{Field: path + "type", Message: "must be card"}
	}
	if o, err = o.Object(path, "card", true); err != nil {
		return err
	}
	return in.readCard(r, o, path+"card.")
}

func (in *paymentInput) readCard(r *core.Request, o core.Fields, path string) error {
	number, err := o.Text(path, "number", true)
	if err != nil {
		return err
	}
	number = strings.ReplaceAll(number, " ", "")
	if !cardNumber(number) {
		return &core.InvalidError{Field: path + "number", Message: "is not a card number"}
	}
	if in.card.ExpMonth, err = o.Integer(path, "exp_month", true); err != nil {
		return err
	}
	if in.card.ExpYear, err = o.Integer(path, "exp_year", true); err != nil {
		return err
	}
	cvc, err := o.Text(path, "cvc", true)
	if err != nil {
		return err
	}
	now := r.Now.UTC()
	switch {
	case in.card.ExpMonth < 1 || in.card.ExpMonth > 12:
		return &core.InvalidError{Field: path + "exp_month", Message: "must be 1 to 12"}
	case in.card.ExpYear > 9999 || in.card.ExpYear*12+in.card.ExpMonth < int64(now.Year())*12+int64(now.Month()):
		return &core.InvalidError{Field: path + "exp_year", Message: "the card is expired, or the year is not one"}
	case len(cvc) < 3 || len(cvc) > 4 || strings.IndexFunc(cvc, notDigit) >= 0:
		return &core.InvalidError{Field: path + "cvc", Message: "must be 3 or 4 digits"}
	}
	in.card.Brand, in.card.Last4 = brandOf(number), number[len(number)-4:]
	return nil
}

func notDigit(r rune) bool { return r < '0' || r > '9' }

// cardNumber accepts 12 to 19 digits whose check digit is right.
func cardNumber(s string) bool {
	if len(s) < 12 || len(s) > 19 || strings.IndexFunc(s, notDigit) >= 0 {
		return false
	}
	sum := 0
	for i := range len(s) {
		d := int(s[len(s)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

func brandOf(number string) string {
	switch number[0] {
	case '4':
		return "visa"
	case '2', '5':
		return "mastercard"
	case '3':
		return "amex"
	}
	return "other"
}

// createPayment makes a payment and says its true result; magicLoss may take the answer away.
func (v *vendor) createPayment(r *core.Request, p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(*paymentInput)
	m, ok := v.methods[in.methodID]
	if !ok && in.methodID != "" {
		return v.refuse("VAL003", "no payment method has this id", invalidDetails(&core.InvalidError{Field: "payment_method.id", Message: "is unknown"}))
	}
	if a, refused := v.magicRefusal(r, p, in.amount.Value); refused {
		return a
	}
	if in.methodID == "" {
		m = method{v.newID("pm_"), "card", in.card}
	}
	x := &payment{ID: v.newID("pay_"), Status: "succeeded", Amount: in.amount, PaymentMethod: m, Metadata: in.metadata, ms: r.Now.UnixMilli()}
	x.sec, x.CreatedAt = v.stamp(r.Now)
	if in.amount.Value == amountDeclined || m.ID == methodDeclined {
		x.Status = "failed"
	} else if in.amount.Value == amountPending {
		x.Status = "pending"
	}
	v.addPayment(x)
	if x.Status != "pending" {
		v.emit(r.Now, "payment."+x.Status, x.view())
	}
	a := core.Answer{Status: http.StatusOK, Effect: core.Applied, Object: x.ID, Rows: []core.Row{x.row()}}
	if x.Status == "failed" { // it is there and can be read: the request had an effect
		a.Status = http.StatusPaymentRequired
		a.Body = v.errorBody("PAY001", "the payment failed", map[string]string{"payment_id": x.ID})
		return a
	}
	a.Body = marshal(x)
	return a
}

// magicRefusal answers the amounts that commit nothing (section 12).
func (v *vendor) magicRefusal(r *core.Request, p *parsed, amount int64) (core.Answer, bool) {
	name := p.who.name + "\x00" + r.Path + "\x00" + r.Key
	if r.Key == "" {
		name += string(p.sum[:])
	}
	switch {
	case amount == amount500:
		return v.refuse("API001", "magic amount", nil), true
	case amount == amount503Twice && v.magic[name] < 2:
		v.magic[name]++
		return v.refuse("API002", "magic amount", nil), true
	case amount == amountThrottleOnce && v.magic[name] < 1:
		v.magic[name]++
		return v.throttled("RATE001", "magic amount", 1), true
	}
	return core.Answer{}, false
}

// magicLoss spoils the answer to a payment that has just been made. A repeat of its key gets the true answer.
func (v *vendor) magicLoss(_ *core.Request, p *parsed, a core.Answer) core.Answer {
	in, ok := p.in.(*paymentInput)
	if !ok || a.Effect != core.Applied {
		return a
	}
	switch in.amount.Value {
	case amountCommitThen500:
		a.Status, a.Body, a.Header = http.StatusInternalServerError, v.errorBody("API001", "magic amount", nil), nil
	case amountCommitThenClose:
		a.Hangup = true
	}
	return a
}

// createPaymentV1 is the deprecated route (section 11). It knows no Idempotency-Key.
func (v *vendor) createPaymentV1(r *core.Request, p *parsed) core.Answer {
	v.s.Count(counterDeprecated, 1)
	if !r.Now.Before(v.sunset) {
		a := v.refuse("VAL003", "version 1 has ended; use /v2/payments", nil)
		a.Status = http.StatusGone
		return a
	}
	a := v.createPayment(r, p)
	if a.Status == http.StatusOK {
		x := v.payments.byID[a.Object]
		a.Body = marshal(struct {
			ID        string   `json:"id"`
			Status    string   `json:"status"`
			Amount    int64    `json:"amount"`
			Currency  string   `json:"currency"`
			CreatedAt string   `json:"created_at"`
			Metadata  metadata `json:"metadata"`
		}{x.ID, x.Status, x.Amount.Value, x.Amount.Currency, x.CreatedAt, x.Metadata})
	}
	return v.magicLoss(r, p, a)
}

// Tick lets the pending payments succeed whose time has come, and forgets old keys.
func (v *vendor) Tick(now time.Time) {
	v.forget(now)
	for len(v.due) > 0 {
		p := v.payments.byID[v.due[0]]
		if p.Status == "pending" {
			if now.UnixMilli()-p.ms < v.pendingAfter.Milliseconds() {
				return
			}
			v.become(now, p, "succeeded", actionSettle)
		}
		v.due = v.due[1:]
	}
}

func (v *vendor) TickEvery() time.Duration {
	return min(max(v.pendingAfter/4, 10*time.Millisecond), time.Second)
}

// become changes a payment's status, logs that and emits the event.
func (v *vendor) become(now time.Time, old *payment, status, operation string) *payment {
	p := *old
	p.Status = status
	p.sec, p.UpdatedAt = v.stamp(now)
	v.payments.put(&p)
	v.s.Record(now, operation, p.ID, p.reference(), core.Applied, p.row())
	v.emit(now, "payment."+status, p.view())
	return &p
}

// The actions of the admin interface; they are operations of the log too.
const (
	actionSettle       = "settle_payment"
	actionRefund       = "refund_payment"
	actionDispute      = "dispute_payment"
	actionEmit         = "emit_event"
	actionRevokeKey    = "revoke_key"
	actionRotateKey    = "rotate_key"
	actionExpireTokens = "expire_tokens"
	actionRotateSecret = "rotate_webhook_secret"
)

func (v *vendor) Actions() []string {
	return []string{actionSettle, actionRefund, actionDispute, actionEmit, actionRevokeKey, actionRotateKey, actionExpireTokens, actionRotateSecret}
}

// Act does what payers, banks and the vendor's dashboard do.
func (v *vendor) Act(name string, args core.Fields) (any, error) {
	switch name {
	case actionSettle:
		status, err := args.Text("", "status", false)
		if err != nil {
			return nil, err
		}
		if status == "" {
			status = "succeeded"
		}
		if status != "succeeded" && status != "failed" {
			return nil, &core.InvalidError{Field: "status", Message: "must be succeeded or failed"}
		}
		return v.actPayment(name, args, "pending", status)
	case actionRefund:
		return v.actPayment(name, args, "succeeded", "refunded")
	case actionDispute:
		return v.actPayment(name, args, "succeeded", "disputed")
	case actionEmit:
		return v.actEmit(args)
	case actionRevokeKey:
		return v.actRevokeKey(args)
	case actionRotateKey:
		return v.actRotateKey(args)
	case actionExpireTokens:
		return v.actExpireTokens()
	case actionRotateSecret:
		return v.actRotateSecret(args)
	}
	return nil, &core.InvalidError{Message: "action " + strconv.Quote(name) + " is unknown; known: " + strings.Join(v.Actions(), ", ")}
}

func (v *vendor) actPayment(name string, args core.Fields, from, to string) (any, error) {
	id, err := args.Text("", "payment_id", true)
	if err != nil {
		return nil, err
	}
	p, ok := v.payments.byID[id]
	if !ok {
		return nil, &core.InvalidError{Field: "payment_id", Message: "no payment has this id"}
	}
	if p.Status != from {
		return nil, &core.InvalidError{Field: "payment_id", Message: "the payment is " + p.Status + ", not " + from}
	}
	return v.become(v.s.Now(), p, to, name).view(), nil
}
