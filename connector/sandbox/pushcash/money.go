package pushcash

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// testCard is the only card that POST /token accepts (section 13).
const testCard = "5555555555554444"

func (v *vendor) clock() time.Time { return v.s.Now() }

// token is a single-use card token (section 4.3).
type token struct {
	ID     string `json:"id"`
	UserID string `json:"user_id"`
	Last4  string `json:"last4"`
	intent *intent
}

func (v *vendor) restoreToken(raw json.RawMessage) error {
	t := &token{}
	if err := json.Unmarshal(raw, t); err != nil {
		return err
	}
	v.tokens[t.ID] = t
	return nil
}

func (v *vendor) parseToken(r *core.Request, p *parsed) error {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	var userID, pan, cvv string
	if err := readTexts(f, "", textField{"user_id", &userID}, textField{"pan", &pan}, textField{"cvv", &cvv}); err != nil {
		return err
	}
	for _, name := range []string{"exp_month", "exp_year"} {
		if !f.Has(name) {
			return &core.InvalidError{Field: name, Message: "is required"}
		}
	}
	if pan != testCard {
		return &core.InvalidError{Field: "pan", Message: "the sandbox accepts only the test card"}
	}
	p.in = userID
	return nil
}

func (v *vendor) createToken(r *core.Request, p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	u, refused := v.payer(p.in.(string))
	if refused != nil {
		return *refused
	}
	t := &token{ID: v.newID("token_"), UserID: u.ID, Last4: testCard[len(testCard)-4:]}
	v.tokens[t.ID] = t
	return core.Answer{Status: http.StatusOK, Value: map[string]string{"token": t.ID}, Effect: core.Applied, Object: t.ID,
		Reference: u.reference(), Rows: []core.Row{{Kind: "token", Value: t}}}
}

// parseAuthorize reads the body of POST /authorize. A token alone decides about a repeat; with a stored credential
// only an identical body does (section 5).
func (v *vendor) parseAuthorize(r *core.Request, p *parsed) error {
	p.sum = sumOf(r.Body)
	in := &payment{}
	deprecated := r.Key != ""
	r.Key = "" // deprecated and not read any more (section 5)
	p.in = authInput{in, deprecated}
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	if in.token, err = f.Text("", "token", false); err != nil {
		return err
	}
	if in.credentialID, err = f.Text("", "credential_id", false); err != nil {
		return err
	}
	switch {
	case in.token != "":
		r.Key, r.Dedup = in.token, "authorize\x00"+in.token
	case v.dedupeBody:
		r.Dedup = "authorize body\x00" + string(p.sum[:])
	}
	if in.tag, err = tag(f); err != nil {
		return err
	}
	if in.tag != nil {
		r.Reference = *in.tag
	}
	if (in.token == "") == (in.credentialID == "") {
		return &core.InvalidError{Field: "token", Message: "exactly one of token and credential_id is required"}
	}
	if in.userID, err = f.Text("", "user_id", false); err != nil {
		return err
	}
	if in.hookSecret, err = f.Text("", "webhook_secret", false); err != nil {
		return err
	}
	if n := utf8.RuneCountInString(in.hookSecret); in.hookSecret != "" && (n < 32 || n > 4096) {
		return &core.InvalidError{Field: "webhook_secret", Message: "must be 32 to 4096 characters"}
	}
	return v.readPayment(f, in)
}

type authInput struct {
	payment    *payment
	deprecated bool
}

func (v *vendor) authorize(r *core.Request, p *parsed) core.Answer {
	auth := p.in.(authInput)
	in := auth.payment
	if auth.deprecated {
		v.s.Count(counterDeprecated, 1)
	}
	t := v.tokens[in.token]
	var old *intent
	if in.token != "" {
		if t != nil {
			old = t.intent
		}
	} else if v.dedupeBody {
		old = v.authByBody[p.sum]
	}
	if old != nil {
		if old.internal.sum != p.sum {
			v.s.Count(counterMismatch, 1)
		}
		return core.Answer{Status: old.internal.AnswerCode, Body: old.internal.Answer, Effect: core.Replayed, Object: old.ID}
	}
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	var userID, last4 string
	if in.token != "" {
		if t == nil {
			return v.refuse(http.StatusBadRequest, "the token is unknown", "token")
		}
		userID, last4 = t.UserID, t.Last4
	} else {
		owner, ok := v.credentials[in.credentialID]
		if !ok {
			return v.refuse(http.StatusNotFound, "no credential has this id", "credential_id")
		}
		userID, last4 = owner.user.ID, owner.last4
	}
	if in.userID != "" && in.userID != userID {
		return v.refuse(http.StatusBadRequest, "is not the user of the token or credential", "user_id")
	}
	u, refused := v.payer(userID)
	if refused != nil {
		return *refused
	}
	if a, hit := v.magicThrottle(in.amount, throttleName(r, p)); hit {
		return a
	}
	if in.amount == amount500 {
		return v.refuse(http.StatusInternalServerError, "magic amount", "")
	}
	in.userID = userID
	i := v.newIntent(r.Now, in, p.sum)
	n := &i.internal
	n.Authorized, n.Token, n.Last4, n.byBody = true, in.token, last4, in.token == "" && v.dedupeBody
	if in.tag != nil {
		n.Tag = *in.tag
	}
	status, category := outcome(in.amount)
	v.settleStatus(i, status, category)
	rows := []core.Row{}
	if i.Status == "approved" && in.token != "" {
		v.addCredential(u, r.Now, last4)
		rows = append(rows, u.row())
	}
	n.AnswerCode, n.Answer = i.authorizeAnswer()
	v.addIntent(i)
	a := core.Answer{Status: n.AnswerCode, Body: n.Answer, Effect: core.Applied, Object: i.ID, Rows: append(rows, i.row())}
	return v.magicLoss(a, in.amount)
}

// authorizeAnswer renders the answer of section 4.3.
func (i *intent) authorizeAnswer() (int, []byte) {
	b := append([]byte(`{"id":"`), i.ID...)
	b = append(b, `",`...)
	money := func(b []byte) []byte {
		b = append(b, `"amount":`...)
		b = strconv.AppendInt(b, i.Amount, 10)
		b = append(append(b, `,"direction":"`...), i.Direction...)
		return append(append(append(b, `","currency":"`...), i.Currency...), '"')
	}
	switch {
	case i.Status == "declined":
		b = append(append(b, `"status":"declined","decline_category":"`...), *i.DeclineCategory...)
		return http.StatusUnauthorized, append(money(append(b, `",`...)), '}')
	case i.Status == "pending" && !i.internal.Held:
		b = append(append(append(b, `"url":"`...), paymentPage...), i.ID...)
		return http.StatusAccepted, append(b, `"}`...)
	}
	b = append(money(b), `,"credential":{"display_name":"`...)
	b = append(append(b, i.Credential.DisplayName...), `","last4":"`...)
	b = append(append(b, i.Credential.Last4...), `"}`...)
	if i.internal.Held {
		b = append(append(append(b, `,"status":"pending","created_at":"`...), i.CreatedAt...), '"')
	}
	return http.StatusOK, append(b, '}')
}

// refund of section 4.4. It never changes.
type refund struct {
	ID        string `json:"id"`
	IntentID  string `json:"intent_id"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	Status    string `json:"status"`
	CreatedAt string `json:"created_at"`

	ms  int64
	sum bodySum
	ref string
}

func (x *refund) id() string        { return x.ID }
func (x *refund) created() int64    { return x.ms }
func (x *refund) reference() string { return x.ref }
func (x *refund) status() string    { return x.Status }
func (x *refund) view() any         { return x }

type refundRow struct {
	*refund
	Sum string `json:"_sum"`
	Ref string `json:"_ref"`
}

func (v *vendor) restoreRefund(raw json.RawMessage) error {
	row := refundRow{refund: &refund{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	x := row.refund
	if err := restoreStamp(v, x.CreatedAt, &x.ms, row.Sum, &x.sum); err != nil {
		return err
	}
	x.ref = row.Ref
	v.refunds.put(x)
	v.refundByIntent[x.IntentID] = x
	return nil
}

type refundInput struct {
	intentID string
	amount   int64 // 0: all
}

func (v *vendor) parseRefund(r *core.Request, p *parsed) error {
	p.sum = sumOf(r.Body)
	in := &refundInput{}
	p.in = in
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	if in.intentID, err = f.Text("", "intent_id", true); err != nil {
		return err
	}
	r.Dedup = "refund\x00" + in.intentID
	if r.Key == "" {
		r.Key = in.intentID
	}
	in.amount, err = amount(f, false, AmountMax)
	return err
}

func (v *vendor) createRefund(r *core.Request, p *parsed) core.Answer {
	in := p.in.(*refundInput)
	if old, ok := v.refundByIntent[in.intentID]; ok && in.intentID != "" {
		if old.sum != p.sum {
			v.s.Count(counterMismatch, 1)
		}
		return core.Answer{Status: old.answerCode(), Value: old, Effect: core.Replayed, Object: old.ID, Reference: old.ref}
	}
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	i, ok := v.intents.byID[in.intentID]
	if !ok {
		return v.refuse(http.StatusNotFound, "no intent has this id", "intent_id")
	}
	bad := func(message, field string) core.Answer {
		a := v.refuse(http.StatusBadRequest, message, field)
		a.Reference = i.reference()
		return a
	}
	if i.Status != "approved" {
		return bad("the intent is "+i.Status+", not approved", "intent_id")
	}
	n := in.amount
	if n == 0 {
		n = i.Amount
	}
	if n > i.Amount {
		return bad("is above the amount of the intent", "amount")
	}
	if a, hit := v.magicThrottle(n, r.Dedup); hit {
		return a
	}
	if n == amount500 {
		return v.refuse(http.StatusInternalServerError, "magic amount", "")
	}
	x := &refund{ID: v.newID("refund_"), IntentID: i.ID, Amount: n, Currency: i.Currency, Status: "approved", sum: p.sum, ref: i.reference()}
	if status, _ := outcome(n); status == "declined" {
		x.Status = status
	}
	x.ms, x.CreatedAt = v.stamp(r.Now)
	v.refunds.put(x)
	v.refundByIntent[i.ID] = x
	i.Refund = x
	a := core.Answer{Status: x.answerCode(), Value: x, Effect: core.Applied, Object: x.ID, Reference: x.ref,
		Rows: []core.Row{{Kind: "refund", Value: refundRow{x, hex.EncodeToString(x.sum[:]), x.ref}}, i.row()}}
	return v.magicLoss(a, n)
}

func (x *refund) answerCode() int {
	if x.Status == "declined" {
		return http.StatusUnauthorized
	}
	return http.StatusOK
}

// transaction of section 4.5. It never changes.
type transaction struct {
	ID        string  `json:"id"`
	Amount    int64   `json:"amount"` // signed
	Direction string  `json:"direction"`
	Currency  string  `json:"currency"`
	CreatedAt string  `json:"created_at"`
	Date      string  `json:"date"`
	Batch     *string `json:"batch"`
	AccountID string  `json:"account_id"`
	Type      string  `json:"type"`
	SourceID  *string `json:"source_id"`
	Status    string  `json:"status"`

	ms int64
}

func (x *transaction) id() string        { return x.ID }
func (x *transaction) created() int64    { return x.ms }
func (x *transaction) reference() string { return "" }
func (x *transaction) status() string    { return x.Status }
func (x *transaction) view() any         { return x }

func (v *vendor) restoreTransaction(raw json.RawMessage) error {
	x := &transaction{}
	if err := json.Unmarshal(raw, x); err != nil {
		return err
	}
	var none bodySum
	if err := restoreStamp(v, x.CreatedAt, &x.ms, "", &none); err != nil {
		return err
	}
	v.transactions.put(x)
	return nil
}

func (v *vendor) newTransaction(i *intent, now time.Time, signed int64) *transaction {
	x := &transaction{ID: v.newID("txn_"), Amount: signed, Direction: "credit", Currency: i.Currency, Date: now.UTC().Format(time.DateOnly),
		AccountID: v.account.ID, Type: "intent", SourceID: &i.ID, Status: "settled"}
	if signed < 0 {
		x.Direction = "debit"
	}
	x.ms, x.CreatedAt = v.stamp(now)
	v.transactions.put(x)
	i.Transactions = append(i.Transactions, *x)
	return x
}

// accountView is the one settlement account with its balance: the sum of its transactions.
func (v *vendor) accountView() any {
	var balance int64
	for _, x := range v.transactions.rows {
		balance += x.Amount
	}
	return struct {
		account
		Balance int64 `json:"balance"`
	}{v.account, balance}
}

// dispute of section 4.5. It is replaced when it changes.
type dispute struct {
	ID        string `json:"id"`
	Amount    int64  `json:"amount"`
	Currency  string `json:"currency"`
	CreatedAt string `json:"created_at"`
	IntentID  string `json:"intent_id"`
	Code      string `json:"code"`
	Status    string `json:"status"` // created, won, lost

	ms       int64
	resolved *transaction
}

func (x *dispute) id() string        { return x.ID }
func (x *dispute) created() int64    { return x.ms }
func (x *dispute) reference() string { return "" }
func (x *dispute) status() string    { return x.Status }
func (x *dispute) view() any         { return x }

type disputeRow struct {
	*dispute
	Resolved string `json:"_resolved,omitempty"`
}

func (x *dispute) row() core.Row {
	row := disputeRow{dispute: x}
	if x.resolved != nil {
		row.Resolved = x.resolved.ID
	}
	return core.Row{Kind: "dispute", Value: row}
}

func (v *vendor) restoreDispute(raw json.RawMessage) error {
	row := disputeRow{dispute: &dispute{}}
	if err := json.Unmarshal(raw, &row); err != nil {
		return err
	}
	x := row.dispute
	var none bodySum
	if err := restoreStamp(v, x.CreatedAt, &x.ms, "", &none); err != nil {
		return err
	}
	if row.Resolved != "" {
		if x.resolved = v.transactions.byID[row.Resolved]; x.resolved == nil {
			return errors.New("its transaction is missing")
		}
	}
	v.disputes.put(x)
	return nil
}

// simulateInput is the body of the simulation endpoints.
type simulateInput struct{ intentID, disputeID, code, result string }

func (v *vendor) parseSimulate(r *core.Request, p *parsed) error {
	in := &simulateInput{}
	p.in = in
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return err
	}
	switch r.Operation {
	case opSimulateSettle:
		err = readTexts(f, "", textField{"intent_id", &in.intentID})
	case opSimulateDispute:
		err = readTexts(f, "", textField{"intent_id", &in.intentID}, textField{"code", &in.code})
	default:
		if err = readTexts(f, "", textField{"dispute_id", &in.disputeID}, textField{"result", &in.result}); err == nil && in.result != "won" && in.result != "lost" {
			err = &core.InvalidError{Field: "result", Message: "must be won or lost"}
		}
	}
	r.Dedup = "simulate\x00" + r.Operation + in.intentID + in.disputeID
	return err
}

// simulated finds the approved intent of a simulation.
func (v *vendor) simulated(p *parsed) (*intent, *core.Answer) {
	if p.invalid != nil {
		a := v.refuseInvalid(p.invalid)
		return nil, &a
	}
	i, ok := v.intents.byID[p.in.(*simulateInput).intentID]
	if !ok {
		a := v.refuse(http.StatusNotFound, "no intent has this id", "intent_id")
		return nil, &a
	}
	if i.Status != "approved" {
		a := v.refuse(http.StatusBadRequest, "the intent is "+i.Status+", not approved", "intent_id")
		return nil, &a
	}
	return i, nil
}

// simulateSettlement makes the transaction of an approved intent, once (sandbox decision).
func (v *vendor) simulateSettlement(r *core.Request, p *parsed) core.Answer {
	i, refused := v.simulated(p)
	if refused != nil {
		return *refused
	}
	if len(i.Transactions) > 0 {
		first := i.Transactions[0]
		return core.Answer{Status: http.StatusOK, Value: &first, Effect: core.Replayed, Object: first.ID, Reference: i.reference()}
	}
	signed := i.Amount
	if i.Direction == "cash_out" {
		signed = -signed
	}
	x := v.newTransaction(i, r.Now, signed)
	if v.hookSettled {
		v.notifyIntent(i, "intent.settled")
	}
	return core.Answer{Status: http.StatusOK, Value: x, Effect: core.Applied, Object: x.ID, Reference: i.reference(),
		Rows: []core.Row{{Kind: "transaction", Value: x}, i.row()}}
}

// simulateDispute opens the dispute of an approved intent, once (sandbox decision).
func (v *vendor) simulateDispute(r *core.Request, p *parsed) core.Answer {
	i, refused := v.simulated(p)
	if refused != nil {
		return *refused
	}
	if i.Dispute != nil {
		return core.Answer{Status: http.StatusOK, Value: i.Dispute, Effect: core.Replayed, Object: i.Dispute.ID, Reference: i.reference()}
	}
	x := &dispute{ID: v.newID("dispute_"), Amount: i.Amount, Currency: i.Currency, IntentID: i.ID, Code: p.in.(*simulateInput).code, Status: "created"}
	x.ms, x.CreatedAt = v.stamp(r.Now)
	v.disputes.put(x)
	i.Dispute = x
	return core.Answer{Status: http.StatusOK, Value: x, Effect: core.Applied, Object: x.ID, Reference: i.reference(),
		Rows: []core.Row{x.row(), i.row()}}
}

// resolveDispute ends a dispute with a transaction: 0 cents when won, the amount taken back when lost (sandbox
// decision).
func (v *vendor) resolveDispute(r *core.Request, p *parsed) core.Answer {
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(*simulateInput)
	old, ok := v.disputes.byID[in.disputeID]
	if !ok {
		return v.refuse(http.StatusNotFound, "no dispute has this id", "dispute_id")
	}
	if old.resolved != nil {
		if old.Status != in.result {
			return v.refuse(http.StatusBadRequest, "the dispute was "+old.Status+" already", "result")
		}
		return core.Answer{Status: http.StatusOK, Value: old.resolved, Effect: core.Replayed, Object: old.resolved.ID}
	}
	i := v.intents.byID[old.IntentID]
	var signed int64
	if in.result == "lost" {
		signed = -old.Amount
	}
	x := *old
	x.Status = in.result
	x.resolved = v.newTransaction(i, r.Now, signed)
	v.disputes.put(&x)
	i.Dispute = &x
	return core.Answer{Status: http.StatusOK, Value: x.resolved, Effect: core.Applied, Object: x.resolved.ID, Reference: i.reference(),
		Rows: []core.Row{{Kind: "transaction", Value: x.resolved}, x.row(), i.row()}}
}
