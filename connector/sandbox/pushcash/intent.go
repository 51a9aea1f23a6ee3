package pushcash

import (
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

func intentStatuses() []string {
	return []string{"created", "approved", "declined", "pending", "canceled"}
}

// declineCategories of section 11 (sandbox decision).
func declineCategories() []string {
	return []string{"insufficient_funds", "fraud_risk", "limit_exceeded", "invalid_credential", "issuer_declined", "other"}
}

// intent is what GET /intent/{id} shows (section 4.2). What its pointers point at never changes: it is replaced.
type intent struct {
	ID                string             `json:"id"`
	IdempotencyKey    *string            `json:"idempotency_key"`
	CreatedAt         string             `json:"created_at"`
	Direction         string             `json:"direction"`
	UserID            string             `json:"user_id"`
	Amount            int64              `json:"amount"`
	Currency          string             `json:"currency"`
	GuaranteeAmount   *int64             `json:"guarantee_amount,omitempty"` // cash_in only
	Status            string             `json:"status"`
	DeclineCategory   *string            `json:"decline_category"`
	Transactions      []transaction      `json:"transactions"`
	Dispute           *dispute           `json:"dispute"`
	Refund            *refund            `json:"refund"`
	Credential        *shortCredential   `json:"credential"`
	PaymentCredential *paymentCredential `json:"payment_credential"`
	Rail              *string            `json:"rail"`
	Account           *account           `json:"account"`
	Type              *string            `json:"type"`

	internal internal
}

// internal is what an intent keeps beside what it shows.
type internal struct {
	ms     int64
	sum    bodySum
	byBody bool

	Tag        string `json:"tag,omitempty"` // of POST /authorize
	Token      string `json:"token,omitempty"`
	Last4      string `json:"last4,omitempty"`
	Manual     bool   `json:"manual,omitempty"`     // approval_mode manual
	Held       bool   `json:"held,omitempty"`       // pending for manual review
	WasHeld    bool   `json:"was_held,omitempty"`   // approved after manual review
	Authorized bool   `json:"authorized,omitempty"` // made by POST /authorize
	Answer     []byte `json:"answer,omitempty"`     // the original answer of POST /authorize, for repeats
	AnswerCode int    `json:"answer_code,omitempty"`
	HookURL    string `json:"hook_url,omitempty"`
	HookSecret string `json:"hook_secret,omitempty"`
}

type shortCredential struct {
	DisplayName string `json:"display_name"`
	Last4       string `json:"last4"`
}

type paymentCredential struct {
	BankName *string `json:"bank_name"`
	Account  *string `json:"account"`
	Card     card    `json:"card"`
}

type card struct {
	Mask       string `json:"primary_account_number_mask"`
	Expiration string `json:"expiration"`
	Brand      string `json:"brand"`
}

type account struct {
	ID        string `json:"id"`
	Type      string `json:"type"`
	Name      string `json:"name"`
	CreatedAt string `json:"created_at"`
}

func (i *intent) id() string     { return i.ID }
func (i *intent) created() int64 { return i.internal.ms }
func (i *intent) status() string { return i.Status }
func (i *intent) reference() string {
	if i.IdempotencyKey != nil {
		return *i.IdempotencyKey
	}
	return i.internal.Tag
}
func (i *intent) view() any {
	c := *i
	c.Transactions = slices.Clip(i.Transactions)
	return &c
}

type intentRow struct {
	*intent
	Internal internal `json:"_internal"`
	Sum      string   `json:"_sum"`
	ByBody   bool     `json:"_by_body"`
}

func (i *intent) row() core.Row {
	return core.Row{Kind: "intent", Value: intentRow{i, i.internal, hex.EncodeToString(i.internal.sum[:]), i.internal.byBody}}
}

func (v *vendor) restoreIntent(raw json.RawMessage) error {
	row := intentRow{intent: &intent{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	i := row.intent
	i.internal = row.Internal
	if err := restoreStamp(v, i.CreatedAt, &i.internal.ms, row.Sum, &i.internal.sum); err != nil {
		return err
	}
	i.internal.byBody = row.ByBody
	if _, known := v.intents.byID[i.ID]; !known && !i.internal.Authorized && v.completeAfter > 0 {
		v.due = append(v.due, i.ID)
	}
	v.addIntent(i)
	return nil
}

func (v *vendor) addIntent(i *intent) {
	v.intents.put(i)
	switch {
	case i.internal.Authorized && i.internal.Token != "":
		if t, ok := v.tokens[i.internal.Token]; ok {
			t.intent = i
		}
	case i.internal.Authorized && i.internal.byBody:
		v.authByBody[i.internal.sum] = i
	case i.internal.Authorized:
	case i.IdempotencyKey != nil:
		v.intentByKey[*i.IdempotencyKey] = i
	case i.internal.byBody:
		v.intentByBody[i.internal.sum] = i
	}
}

// payment is what POST /intent and POST /authorize have in common.
type payment struct {
	direction, currency string
	amount              int64
	userID              string
	manual              bool
	hookURL, hookSecret string
	credentialID, token string
	tag                 *string
}

func (v *vendor) parseIntent(r *core.Request, p *parsed) error {
	p.sum = sumOf(r.Body)
	switch {
	case r.Key != "":
		r.Reference = r.Key
		r.Dedup = "intent\x00" + r.Key
		if utf8.RuneCountInString(r.Key) > keyCharsMax {
			p.in = keyTooLong{}
			return &core.InvalidError{Field: "X-Idempotency-Key", Message: "is longer than 255 characters"}
		}
	case v.dedupeBody:
		r.Dedup = "intent body\x00" + string(p.sum[:])
	}
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	in := &payment{}
	p.in = in
	if in.userID, err = f.Text("", "user_id", true); err != nil {
		return err
	}
	return v.readPayment(f, in)
}

type keyTooLong struct{}

func (v *vendor) readPayment(f core.Fields, in *payment) (err error) {
	if in.direction, err = f.Text("", "direction", true); err != nil {
		return err
	}
	if in.direction != "cash_in" && in.direction != "cash_out" {
		return &core.InvalidError{Field: "direction", Message: "must be cash_in or cash_out"}
	}
	if in.amount, err = amount(f, true, AmountMax); err != nil {
		return err
	}
	if in.currency, err = f.Text("", "currency", true); err != nil {
		return err
	}
	if in.currency != "USD" {
		return &core.InvalidError{Field: "currency", Message: "must be USD"}
	}
	if redirect, err := f.Text("", "redirect_url", false); err != nil {
		return err
	} else if redirect != "" && !httpURL(redirect) {
		return &core.InvalidError{Field: "redirect_url", Message: "must be an http or https URL"}
	}
	if in.hookURL, err = f.Text("", "webhook_url", false); err != nil {
		return err
	}
	if in.hookURL != "" && !core.HookURL(in.hookURL) {
		return &core.InvalidError{Field: "webhook_url", Message: "must be an https URL (http only to a loopback address)"}
	}
	mode, err := f.Text("", "approval_mode", false)
	if err != nil {
		return err
	}
	switch {
	case mode != "" && mode != "automatic" && mode != "manual":
		return &core.InvalidError{Field: "approval_mode", Message: "must be automatic or manual"}
	case mode == "manual" && in.direction != "cash_out":
		return &core.InvalidError{Field: "approval_mode", Message: "manual works only for cash_out"}
	}
	in.manual = mode == "manual"
	accountID, err := f.Text("", "account_id", false)
	if err != nil {
		return err
	}
	if accountID != "" && accountID != v.account.ID { // constant, so it may be read without the lock
		return &core.InvalidError{Field: "account_id", Message: "is not a settlement account; see /account/list"}
	}
	return nil
}

// amount of 1 to high cents; 0 where it is absent and not required.
func amount(f core.Fields, required bool, high int64) (int64, error) {
	n, err := f.Integer("", "amount", required)
	if err != nil || !f.Has("amount") {
		return 0, err
	}
	if n < 1 || n > high {
		return 0, &core.InvalidError{Field: "amount", Message: "must be an integer from 1 to " + strconv.FormatInt(high, 10)}
	}
	return n, nil
}

func httpURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != ""
}

func urlBody(id string) []byte {
	b := append(make([]byte, 0, 2*len(id)+64), `{"id":"`...)
	b = append(append(b, id...), `","url":"`...)
	b = append(append(b, paymentPage...), id...)
	return append(b, `"}`...)
}

// paymentPage is where a hosted payment page would be: a name that resolves nowhere (sandbox decision).
const paymentPage = "https://sandbox.pushcash.example/pay/"

// payer finds the user that a payment names.
func (v *vendor) payer(id string) (*user, *core.Answer) {
	u, ok := v.users.byID[id]
	if !ok {
		a := v.refuse(http.StatusNotFound, "no user has this id", "user_id")
		return nil, &a
	}
	if u.Status == "suspended" || u.Status == "disabled" {
		a := v.refuse(http.StatusBadRequest, "the user is "+u.Status, "user_id")
		return nil, &a
	}
	return u, nil
}

// expired says whether a remembered header key has outlived key_ttl.
func (v *vendor) expired(i *intent, now time.Time) bool {
	return v.keyTTL > 0 && now.UnixMilli()-i.internal.ms >= v.keyTTL.Milliseconds()
}

func (v *vendor) createIntent(r *core.Request, p *parsed) core.Answer {
	if _, bad := p.in.(keyTooLong); bad {
		return v.refuseInvalid(p.invalid)
	}
	var old *intent
	if r.Key != "" {
		if old = v.intentByKey[r.Key]; old != nil && v.expired(old, r.Now) {
			old = nil
		}
	} else if v.dedupeBody {
		old = v.intentByBody[p.sum]
	}
	if old != nil {
		if old.internal.sum != p.sum {
			v.s.Count(counterMismatch, 1)
		}
		return core.Answer{Status: http.StatusOK, Body: urlBody(old.ID), Effect: core.Replayed, Object: old.ID}
	}
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(*payment)
	if _, refused := v.payer(in.userID); refused != nil {
		return *refused
	}
	if a, hit := v.magicThrottle(in.amount, throttleName(r, p)); hit {
		return a
	}
	if in.amount == amount500 {
		return v.refuse(http.StatusInternalServerError, "magic amount", "")
	}
	i := v.newIntent(r.Now, in, p.sum)
	if r.Key != "" {
		i.IdempotencyKey = &r.Key
	} else {
		i.internal.byBody = v.dedupeBody
	}
	v.addIntent(i)
	if v.completeAfter > 0 {
		v.due = append(v.due, i.ID)
	}
	a := core.Answer{Status: http.StatusOK, Body: urlBody(i.ID), Effect: core.Applied, Object: i.ID, Rows: []core.Row{i.row()}}
	return v.magicLoss(a, in.amount)
}

// throttleName says what "once per key" means for the amount 42901.
func throttleName(r *core.Request, p *parsed) string {
	if r.Dedup != "" {
		return r.Dedup
	}
	return r.Operation + "\x00" + string(p.sum[:])
}

func (v *vendor) newIntent(now time.Time, in *payment, sum bodySum) *intent {
	i := &intent{ID: v.newID("intent_sandbox_"), Direction: in.direction, UserID: in.userID, Amount: in.amount,
		Currency: in.currency, Status: "created", Transactions: []transaction{}, Account: &v.account}
	if in.direction == "cash_in" {
		guarantee := int64(0)
		i.GuaranteeAmount = &guarantee
	}
	i.internal = internal{sum: sum, Manual: in.manual, HookURL: in.hookURL, HookSecret: in.hookSecret}
	i.internal.ms, i.CreatedAt = v.stamp(now)
	return i
}

// Tick completes the intents whose complete_after has passed.
func (v *vendor) Tick(now time.Time) {
	if v.completeAfter == 0 {
		return
	}
	for len(v.due) > 0 {
		i := v.intents.byID[v.due[0]]
		if now.UnixMilli()-i.internal.ms < v.completeAfter.Milliseconds() {
			return
		}
		v.due = v.due[1:]
		if i.Status == "created" {
			result, category := outcome(i.Amount)
			v.complete(i, now, result, category)
		}
	}
}

func (v *vendor) TickEvery() time.Duration {
	if v.completeAfter == 0 {
		return 0
	}
	return min(max(v.completeAfter/4, 10*time.Millisecond), time.Second)
}

// outcome of a payment by its amount (section 13).
func outcome(amount int64) (status, category string) {
	switch amount {
	case amountInsufficientFunds:
		return "declined", "insufficient_funds"
	case amountFraudRisk:
		return "declined", "fraud_risk"
	case amountPending:
		return "pending", ""
	}
	return "approved", ""
}

// settleStatus moves an intent to the status that its payment ended in and queues the webhook.
func (v *vendor) settleStatus(i *intent, status, category string) {
	if status == "approved" && i.internal.Manual && !i.internal.Held {
		status = "pending"
		i.internal.Held = true
	} else if i.internal.Held {
		i.internal.Held, i.internal.WasHeld = false, status == "approved"
	}
	i.Status = status
	i.DeclineCategory = nil
	if status == "declined" {
		i.DeclineCategory = &category
	}
	if status == "approved" || i.internal.Held {
		last4 := i.internal.Last4
		if last4 == "" {
			last4 = testCard[len(testCard)-4:]
		}
		rail, kind := "card", "card_only_debit"
		i.Rail, i.Type = &rail, &kind
		i.Credential = &shortCredential{"Sandbox card", last4}
		i.PaymentCredential = &paymentCredential{Card: card{"************" + last4, "12/30", "mastercard"}}
		if i.GuaranteeAmount != nil {
			guarantee := i.Amount
			i.GuaranteeAmount = &guarantee
		}
	}
	switch {
	case status == "declined":
		v.notifyIntent(i, "intent.declined")
	case status == "approved", i.internal.Held:
		v.notifyIntent(i, "intent.approved")
	}
}

// complete is the user's part: paying or abandoning. It is logged, as it changes the vendor's state.
func (v *vendor) complete(i *intent, now time.Time, status, category string) {
	v.settleStatus(i, status, category)
	v.s.Record(now, opCompleteIntent, i.ID, i.reference(), core.Applied, i.row())
}

func (v *vendor) approveIntent(r *core.Request) core.Answer {
	i, ok := v.intents.byID[r.Object]
	switch {
	case !ok:
		return v.refuse(http.StatusNotFound, "no intent has this id", "id")
	case i.Status == "approved" && i.internal.WasHeld:
		return core.Answer{Status: http.StatusOK, Body: []byte("{}"), Effect: core.Replayed, Reference: i.reference()}
	case !i.internal.Held || i.Status != "pending":
		a := v.refuse(http.StatusBadRequest, "the intent is not held for manual review: it is "+i.Status, "id")
		a.Reference = i.reference()
		return a
	}
	v.settleStatus(i, "approved", "")
	return core.Answer{Status: http.StatusOK, Body: []byte("{}"), Effect: core.Applied, Reference: i.reference(), Rows: []core.Row{i.row()}}
}

func (v *vendor) cancelIntent(r *core.Request) core.Answer {
	i, ok := v.intents.byID[r.Object]
	if !ok {
		return v.refuse(http.StatusNotFound, "no intent has this id", "id")
	}
	a := core.Answer{Status: http.StatusOK, Body: []byte("{}"), Effect: core.Applied, Reference: i.reference()}
	switch i.Status {
	case "canceled":
		a.Effect = core.Replayed
		return a
	case "approved", "declined":
		a = v.refuse(http.StatusBadRequest, "the intent is "+i.Status+" already", "id")
		a.Reference = i.reference()
		return a
	}
	i.Status = "canceled"
	i.internal.Held = false
	a.Rows = []core.Row{i.row()}
	return a
}

// Act does what the vendor's own people or the payer would do.
func (v *vendor) Act(name string, args core.Fields) (any, error) {
	switch name {
	case actionComplete:
		return v.actComplete(args)
	case actionSetUserStatus:
		return v.actUserStatus(args)
	}
	return nil, &core.InvalidError{Message: "action " + strconv.Quote(name) + " is unknown; known: " + actionComplete + ", " + actionSetUserStatus}
}

func (v *vendor) actComplete(args core.Fields) (any, error) {
	id, err := args.Text("", "intent_id", true)
	if err != nil {
		return nil, err
	}
	i, ok := v.intents.byID[id]
	if !ok {
		return nil, &core.InvalidError{Field: "intent_id", Message: "no intent has this id"}
	}
	status, category := outcome(i.Amount)
	if status == "pending" { // 20200 waits for exactly this
		status = "approved"
	}
	if given, err := args.Text("", "result", false); err != nil {
		return nil, err
	} else if given != "" {
		if given != "approved" && given != "declined" && given != "pending" {
			return nil, &core.InvalidError{Field: "result", Message: "must be approved, declined or pending"}
		}
		status = given
	}
	if given, err := args.Text("", "decline_category", false); err != nil {
		return nil, err
	} else if given != "" {
		if !slices.Contains(declineCategories(), given) {
			return nil, &core.InvalidError{Field: "decline_category", Message: "is not one of the categories of the vendor sheet"}
		}
		category = given
	}
	if status == "declined" && category == "" {
		category = "other"
	}
	if i.Status != "created" && (i.Status != "pending" || i.internal.Held) {
		return nil, &core.InvalidError{Field: "intent_id", Message: "the intent is " + i.Status + ", not open"}
	}
	v.complete(i, v.clock(), status, category)
	return i.view(), nil
}

func (v *vendor) actUserStatus(args core.Fields) (any, error) {
	var id, status string
	if err := readTexts(args, "", textField{"user_id", &id}, textField{"status", &status}); err != nil {
		return nil, err
	}
	u, ok := v.users.byID[id]
	if !ok {
		return nil, &core.InvalidError{Field: "user_id", Message: "no user has this id"}
	}
	if !slices.Contains(userStatuses(), status) {
		return nil, &core.InvalidError{Field: "status", Message: "must be created, enabled, suspended or disabled"}
	}
	u.Status = status
	v.s.Record(v.clock(), opSetUserStatus, u.ID, u.reference(), core.Applied, u.row())
	return u.view(), nil
}
