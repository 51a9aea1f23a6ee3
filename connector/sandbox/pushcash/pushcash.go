// Package pushcash is the sandbox of Push Cash's HTTP API, after vendor sheet pushcash. "Section n" in this package is
// a section of that sheet. What the sheet marks as a sandbox decision is an invention; README.md of the parent folder
// lists all of them, and those that were added here.
//
// One sandbox is one organisation: every accepted key sees the same users, intents and idempotency keys.
package pushcash

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// Name of the vendor.
const Name = "pushcash"

// Quotas per sliding hour (section 6).
const (
	CreatesPerHour = 100
	ReadsPerHour   = 1000
)

// AmountMax bounds an amount, in cents: the daily limit of the vendor's example user (section 4.2, sandbox decision).
const AmountMax = 1_800_000

// keyCharsMax bounds X-Idempotency-Key (section 5) and tag (section 4.1, sandbox decision), in characters.
const keyCharsMax = 255

// The magic amounts, in cents (section 13, sandbox decision).
const (
	amountInsufficientFunds = 40001
	amountFraudRisk         = 40002
	amountPending           = 20200
	amountCommitThen500     = 50001
	amount500               = 50002
	amountCommitThenClose   = 50401
	amountThrottleOnce      = 42901
)

// Switches lists the vendor's settings.
func Switches() []core.SwitchSpec {
	return []core.SwitchSpec{
		{Name: "profile", Default: "strict", Values: []string{"strict", "lean"}, Help: "lean makes date_of_birth, government_id and identity_verified optional (section 14, C3)"},
		{Name: "rate_scope", Default: "endpoint", Values: []string{"endpoint", "class"}, Help: "class shares one window among all creates and one among all reads (section 6)"},
		{Name: "limits", Default: "on", Values: core.OnOff(), Help: "off switches the quotas off"},
		{Name: "retry_after", Default: "off", Values: core.OnOff(), Help: "Retry-After beside the X-RateLimit headers of a 429 (section 6)"},
		{Name: "dedupe_identical_body", Default: "on", Values: core.OnOff(), Help: "an identical body without tag or key is a repeat (section 5)"},
		{Name: "key_ttl", Default: "0s", Check: core.CheckDuration, Help: "how long X-Idempotency-Key is remembered, 0s = for ever (section 5)"},
		{Name: "ip_allowlist", Default: "", Check: core.CheckPrefixes, Help: "addresses that may write, empty = all (section 2)"},
		{Name: "page_size", Default: "50", Check: core.CheckInt(1, 10_000), Help: "rows per page (section 9)"},
		{Name: "complete_after", Default: "0s", Check: core.CheckDuration, Help: "the user pays an intent by itself after this time, 0s = never: see action complete_intent (section 13)"},
		{Name: "organization", Default: "Sandbox Organization", Help: "name that POST /keys/verify answers with"},
		{Name: "webhook_time_scale", Default: "1", Check: core.CheckFloat(1), Help: "multiplies the waits between webhook attempts (section 11)"},
		{Name: "webhook_duplicates", Default: "off", Values: core.OnOff(), Help: "every webhook is sent twice"},
		{Name: "webhook_reorder", Default: "off", Values: core.OnOff(), Help: "every second webhook is held back by 1 s, scaled"},
		{Name: "webhook_tamper", Default: "off", Values: core.OnOff(), Help: "the body of every webhook's first attempt is altered after it was signed"},
		{Name: "webhook_settled", Default: "off", Values: core.OnOff(), Help: "intent.settled after a simulated settlement"},
	}
}

// New makes a sandbox of the vendor.
func New(o core.Options) (*core.Sandbox, error) {
	sw, err := core.NewSwitches(o.Switches, Switches())
	if err != nil {
		return nil, err
	}
	return core.New(Name, o, func(s *core.Sandbox) (core.Vendor, error) {
		v := &vendor{
			s: s, lean: sw["profile"] == "lean", perClass: sw["rate_scope"] == "class", limits: sw.On("limits"),
			retryAfter: sw.On("retry_after"), dedupeBody: sw.On("dedupe_identical_body"), keyTTL: sw.Duration("key_ttl"),
			allow: sw.Prefixes("ip_allowlist"), pageSize: sw.Int("page_size"), completeAfter: sw.Duration("complete_after"),
			organization: sw["organization"], creates: o.Limit(CreatesPerHour), reads: o.Limit(ReadsPerHour),
			hookScale: sw.Float("webhook_time_scale"), hookTwice: sw.On("webhook_duplicates"),
			hookReorder: sw.On("webhook_reorder"), hookSettled: sw.On("webhook_settled"), hookTamper: sw.On("webhook_tamper"),
		}
		// Set once and never changed: Parse and rendering read it without the lock.
		v.account = account{ID: "account_0000000000000000000000", Type: "settlement", Name: "Main settlement account", CreatedAt: "2026-01-01T00:00:00.000Z"}
		v.Reset()
		return v, nil
	})
}

// The operation names of the log.
const (
	opVerifyKey         = "verify_key"
	opCreateUser        = "create_user"
	opGetUser           = "get_user"
	opListUsers         = "list_users"
	opListCredentials   = "list_credentials"
	opCreateIntent      = "create_intent"
	opGetIntent         = "get_intent"
	opListIntents       = "list_intents"
	opApproveIntent     = "approve_intent"
	opCancelIntent      = "cancel_intent"
	opAuthorize         = "authorize"
	opCreateToken       = "create_token"
	opCreateRefund      = "create_refund"
	opGetRefund         = "get_refund"
	opListRefunds       = "list_refunds"
	opGetTransaction    = "get_transaction"
	opListTransactions  = "list_transactions"
	opGetTransfer       = "get_transfer"
	opListTransfers     = "list_transfers"
	opGetAccount        = "get_account"
	opListAccounts      = "list_accounts"
	opGetDispute        = "get_dispute"
	opListDisputes      = "list_disputes"
	opRegisterWebhook   = "register_webhook"
	opSimulateSettle    = "simulate_settlement"
	opSimulateDispute   = "simulate_dispute"
	opResolveDispute    = "simulate_dispute_resolution"
	opUnknown           = "unknown"         // no such path, or not with this method
	opCompleteIntent    = "complete_intent" // not a request: the user pays or abandons, by admin action or by the clock
	opSetUserStatus     = "set_user_status" // not a request: an admin action
	counterMismatch     = "idempotency_body_mismatch"
	counterDeprecated   = "deprecated_idempotency_header"
	counterRateLimited  = "rate_limited"
	actionComplete      = opCompleteIntent
	actionSetUserStatus = opSetUserStatus
)

type vendor struct {
	s *core.Sandbox

	lean, perClass, limits, retryAfter, dedupeBody  bool
	keyTTL, completeAfter                           time.Duration
	allow                                           []netip.Prefix
	pageSize, creates, reads                        int
	organization                                    string
	hookScale                                       float64
	hookTwice, hookReorder, hookSettled, hookTamper bool

	windows *core.Windows
	lastMS  int64 // newest created_at given, Unix milliseconds: lists stay sorted if the clock steps back

	users       table[*user]
	userByTag   map[string]*user
	userByBody  map[bodySum]*user
	credentials map[string]credentialOwner

	intents      table[*intent]
	intentByKey  map[string]*intent
	intentByBody map[bodySum]*intent
	due          []string // ids of intents waiting for complete_after, oldest first
	throttled    map[string]bool

	tokens     map[string]*token
	authByBody map[bodySum]*intent

	refunds        table[*refund]
	refundByIntent map[string]*refund
	transactions   table[*transaction]
	disputes       table[*dispute]
	account        account

	hookURL, hookSecret string
	hookCount           int64
}

var _ core.Vendor = (*vendor)(nil)

func (v *vendor) Operations() []string {
	return []string{
		opVerifyKey, opCreateUser, opGetUser, opListUsers, opListCredentials, opCreateIntent, opGetIntent, opListIntents,
		opApproveIntent, opCancelIntent, opAuthorize, opCreateToken, opCreateRefund, opGetRefund, opListRefunds,
		opGetTransaction, opListTransactions, opGetTransfer, opListTransfers, opGetAccount, opListAccounts, opGetDispute,
		opListDisputes, opRegisterWebhook, opSimulateSettle, opSimulateDispute, opResolveDispute, opUnknown,
	}
}

func (v *vendor) Counters() []string {
	return []string{counterMismatch, counterDeprecated, counterRateLimited}
}
func (v *vendor) DriftFields() []string { return []string{"type", "rail", "brand", "decline_category"} }
func (v *vendor) Actions() []string     { return Actions() }

// Actions are the names of what payers and the vendor's staff do.
func Actions() []string { return []string{actionComplete, actionSetUserStatus} }

func (v *vendor) Reset() {
	v.windows = core.NewWindows(time.Hour)
	v.lastMS = 0
	v.users, v.userByTag, v.userByBody = newTable[*user](), map[string]*user{}, map[bodySum]*user{}
	v.credentials = map[string]credentialOwner{}
	v.intents, v.intentByKey, v.intentByBody = newTable[*intent](), map[string]*intent{}, map[bodySum]*intent{}
	v.due, v.throttled = nil, map[string]bool{}
	v.tokens, v.authByBody = map[string]*token{}, map[bodySum]*intent{}
	v.refunds, v.refundByIntent = newTable[*refund](), map[string]*refund{}
	v.transactions, v.disputes = newTable[*transaction](), newTable[*dispute]()
	v.hookURL, v.hookSecret, v.hookCount = "", "", 0
}

// A route is one operation of the API.
type route struct {
	method, operation string
}

// match finds the path's operations and the id in it; no routes = no such path.
func match(path string) (routes []route, id string) {
	seg := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if !strings.HasPrefix(path, "/") || slices.Contains(seg, "") {
		return nil, ""
	}
	switch len(seg) {
	case 1:
		switch seg[0] {
		case "user":
			return []route{{http.MethodPost, opCreateUser}}, ""
		case "intent":
			return []route{{http.MethodPost, opCreateIntent}}, ""
		case "authorize":
			return []route{{http.MethodPost, opAuthorize}}, ""
		case "token":
			return []route{{http.MethodPost, opCreateToken}}, ""
		case "refund":
			return []route{{http.MethodPost, opCreateRefund}}, ""
		}
	case 2:
		if list, one := readers(seg[0]); list != "" {
			if seg[1] == "list" {
				return []route{{http.MethodGet, list}}, ""
			}
			return []route{{http.MethodGet, one}}, seg[1]
		}
		switch seg[0] + "/" + seg[1] {
		case "keys/verify":
			return []route{{http.MethodPost, opVerifyKey}}, ""
		case "webhook/register":
			return []route{{http.MethodPost, opRegisterWebhook}}, ""
		case "simulate/settlement":
			return []route{{http.MethodPost, opSimulateSettle}}, ""
		case "simulate/dispute":
			return []route{{http.MethodPost, opSimulateDispute}}, ""
		}
	case 3:
		switch {
		case seg[0] == "intent" && seg[2] == "approve":
			return []route{{http.MethodPost, opApproveIntent}}, seg[1]
		case seg[0] == "intent" && seg[2] == "cancel":
			return []route{{http.MethodPost, opCancelIntent}}, seg[1]
		case seg[0] == "simulate" && seg[1] == "dispute" && seg[2] == "resolve":
			return []route{{http.MethodPost, opResolveDispute}}, ""
		}
	case 4:
		if seg[0] == "user" && seg[2] == "credential" && seg[3] == "list" {
			return []route{{http.MethodGet, opListCredentials}}, seg[1]
		}
	}
	return nil, ""
}

// readers names the list and the get operation of a resource.
func readers(resource string) (list, one string) {
	switch resource {
	case "user":
		return opListUsers, opGetUser
	case "intent":
		return opListIntents, opGetIntent
	case "refund":
		return opListRefunds, opGetRefund
	case "transaction":
		return opListTransactions, opGetTransaction
	case "transfer":
		return opListTransfers, opGetTransfer
	case "account":
		return opListAccounts, opGetAccount
	case "dispute":
		return opListDisputes, opGetDispute
	}
	return "", ""
}

// parsed is what Parse leaves for Serve.
type parsed struct {
	refuse  int // 404 or 405, 0 = go on
	allow   string
	invalid *core.InvalidError
	sum     bodySum
	in      any // the operation's own input
}

// Parse routes the request and reads its body.
func (v *vendor) Parse(r *core.Request) {
	p := &parsed{}
	r.Parsed = p
	routes, id := match(r.Path)
	r.Object = id
	if len(routes) == 0 {
		r.Operation, p.refuse = opUnknown, http.StatusNotFound
		return
	}
	if i := slices.IndexFunc(routes, func(x route) bool { return x.method == r.Method }); i >= 0 {
		r.Operation = routes[i].operation
	} else {
		r.Operation, p.refuse, p.allow = opUnknown, http.StatusMethodNotAllowed, routes[0].method
		return
	}
	r.Key = r.Header.Get("X-Idempotency-Key")
	var err error
	switch r.Operation {
	case opCreateUser:
		err = v.parseUser(r, p)
	case opCreateIntent:
		err = v.parseIntent(r, p)
	case opAuthorize:
		err = v.parseAuthorize(r, p)
	case opCreateToken:
		err = v.parseToken(r, p)
	case opCreateRefund:
		err = v.parseRefund(r, p)
	case opApproveIntent, opCancelIntent:
		r.Dedup = "state\x00" + r.Object
	case opRegisterWebhook:
		err = v.parseRegister(r, p)
	case opSimulateSettle, opSimulateDispute, opResolveDispute:
		err = v.parseSimulate(r, p)
	}
	p.invalid = core.AsInvalid(err)
}

// quotaClass says which quota an operation counts against: "" for none (section 6).
func quotaClass(operation, method string) string {
	switch {
	case operation == opUnknown:
		return ""
	case operation == opCreateUser, operation == opCreateIntent:
		return "create"
	case method == http.MethodGet:
		return "read"
	}
	return ""
}

func (v *vendor) Serve(r *core.Request) core.Answer {
	p := r.Parsed.(*parsed)
	credential := r.Bearer()
	switch {
	case !v.s.Authenticate(credential, r.Now):
		return v.refuse(http.StatusUnauthorized, "missing or bad API key", "")
	case r.Method != http.MethodGet && len(v.allow) > 0 && !slices.ContainsFunc(v.allow, func(p netip.Prefix) bool { return p.Contains(r.Remote) }):
		return v.refuse(http.StatusForbidden, "this address may not write", "")
	case p.refuse == http.StatusNotFound:
		return v.refuse(p.refuse, "no such path", "")
	case p.refuse != 0:
		a := v.refuse(p.refuse, "this path does not know this method", "")
		a.Header = []core.HeaderField{{Name: "Allow", Value: p.allow}}
		return a
	}
	class := quotaClass(r.Operation, r.Method)
	if class == "" || !v.limits {
		return v.dispatch(r, p)
	}
	limit, endpoint := v.creates, r.Operation
	if class == "read" {
		limit = v.reads
	}
	if v.perClass {
		endpoint = class
	}
	u, ok := v.windows.Take(credential, endpoint, limit, r.Now)
	if !ok {
		v.s.Count(counterRateLimited, 1)
		a := v.refuse(http.StatusTooManyRequests, "over the limit of "+strconv.Itoa(limit)+" requests per hour", "")
		return v.withUsage(a, u, r.Now)
	}
	a := v.dispatch(r, p)
	if a.Status == http.StatusTooManyRequests { // a magic amount: 429s do not count (section 6, sandbox decision)
		v.windows.Untake(credential, endpoint)
		u.Remaining, u.Reset = 0, r.Now.Add(time.Second)
	}
	return v.withUsage(a, u, r.Now)
}

// withUsage adds the headers of section 6. The reset is rounded up to a whole second, so a slot is free by then.
func (v *vendor) withUsage(a core.Answer, u core.Usage, now time.Time) core.Answer {
	reset := u.Reset.Unix()
	if u.Reset.Nanosecond() > 0 {
		reset++
	}
	a.Header = append(a.Header,
		core.HeaderField{Name: "X-RateLimit-Limit", Value: strconv.Itoa(u.Limit)},
		core.HeaderField{Name: "X-RateLimit-Remaining", Value: strconv.Itoa(u.Remaining)},
		core.HeaderField{Name: "X-RateLimit-Reset", Value: strconv.FormatInt(reset, 10)})
	if v.retryAfter && a.Status == http.StatusTooManyRequests {
		a.Header = append(a.Header, core.HeaderField{Name: "Retry-After", Value: strconv.FormatInt(max(0, reset-now.Unix()), 10)})
	}
	return a
}

func (v *vendor) dispatch(r *core.Request, p *parsed) core.Answer {
	switch r.Operation {
	case opVerifyKey:
		return core.Answer{Status: http.StatusOK, Value: map[string]string{"organization": v.organization}, Effect: core.Read}
	case opCreateUser:
		return v.createUser(r, p)
	case opCreateIntent:
		return v.createIntent(r, p)
	case opAuthorize:
		return v.authorize(r, p)
	case opCreateToken:
		return v.createToken(r, p)
	case opCreateRefund:
		return v.createRefund(r, p)
	case opApproveIntent:
		return v.approveIntent(r)
	case opCancelIntent:
		return v.cancelIntent(r)
	case opRegisterWebhook:
		return v.registerWebhook(p)
	case opSimulateSettle:
		return v.simulateSettlement(r, p)
	case opSimulateDispute:
		return v.simulateDispute(r, p)
	case opResolveDispute:
		return v.resolveDispute(r, p)
	default:
		return v.read(r)
	}
}

// errorCode of a status (section 8, sandbox decision).
func errorCode(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "ip_not_allowed"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case http.StatusTooManyRequests:
		return "rate_limited"
	}
	if status >= 500 {
		return "internal_error"
	}
	return "validation_error"
}

func (v *vendor) ErrorBody(status int, message string, _ int) []byte {
	return v.errorBody(status, message, "")
}

func (v *vendor) errorBody(status int, message, field string) []byte {
	b := append(make([]byte, 0, 192), `{"error":{"code":"`...)
	b = append(b, errorCode(status)...)
	b = core.AppendString(append(b, `","message":`...), message)
	b = append(b, `,"field":`...)
	if field == "" {
		b = append(b, "null"...)
	} else {
		b = core.AppendString(b, field)
	}
	b = append(b, `},"request_id":"`...)
	b = append(b, v.s.RequestID()...)
	return append(b, `"}`...)
}

func (v *vendor) refuse(status int, message, field string) core.Answer {
	return core.Answer{Status: status, Body: v.errorBody(status, message, field), Effect: core.Rejected}
}

func (v *vendor) refuseInvalid(e *core.InvalidError) core.Answer {
	return v.refuse(http.StatusBadRequest, e.Message, e.Field)
}

const timeLayout = "2006-01-02T15:04:05.000Z"

// stamp gives created_at of a new object: milliseconds that never decrease.
func (v *vendor) stamp(now time.Time) (ms int64, text string) {
	v.lastMS = max(v.lastMS, now.UnixMilli())
	return v.lastMS, time.UnixMilli(v.lastMS).UTC().Format(timeLayout)
}

func (v *vendor) newID(prefix string) string { return v.s.NewID(prefix, 22) }

// magicThrottle answers 429 to the first request of a key with the amount 42901.
func (v *vendor) magicThrottle(amount int64, dedup string) (core.Answer, bool) {
	if amount != amountThrottleOnce || v.throttled[dedup] {
		return core.Answer{}, false
	}
	v.throttled[dedup] = true
	return v.refuse(http.StatusTooManyRequests, "magic amount", ""), true
}

// magicLoss spoils the answer to a request that has just been applied. A repeat gets the true answer.
func (v *vendor) magicLoss(a core.Answer, amount int64) core.Answer {
	switch amount {
	case amountCommitThen500:
		a.Status, a.Body, a.Value = http.StatusInternalServerError, v.errorBody(http.StatusInternalServerError, "magic amount", ""), nil
	case amountCommitThenClose:
		a.Hangup = true
	}
	return a
}

func (v *vendor) Restore(kind string, raw json.RawMessage) error {
	restore, ok := map[string]func(json.RawMessage) error{
		"user": v.restoreUser, "intent": v.restoreIntent, "token": v.restoreToken, "refund": v.restoreRefund,
		"transaction": v.restoreTransaction, "dispute": v.restoreDispute, "webhook": v.restoreWebhook,
	}[kind]
	if !ok {
		return &core.InvalidError{Message: "pushcash has no kind " + strconv.Quote(kind)}
	}
	return restore(raw)
}
