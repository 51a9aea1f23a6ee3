// Package finfusion is the sandbox of FinFusion's HTTP API, after vendor sheet finfusion. "Section n" in this package is
// a section of that sheet. What the sheet marks as a sandbox decision is an invention; README.md of the parent folder
// lists all of them, and those that were added here.
//
// One sandbox is one account: every accepted credential sees the same customers and payments. Quotas and idempotency
// keys belong to one credential each (sections 5 and 6), an OAuth client counting as one.
package finfusion

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// Name of the vendor.
const Name = "finfusion"

// Quotas (section 6): requests a minute and burst, per API key.
const (
	PerMinute           = 100
	Burst               = 150
	EnterprisePerMinute = 1000
	EnterpriseBurst     = 1500
	// InFlightMax bounds the unfinished requests of one key (sandbox decision).
	InFlightMax = 20
)

// Bounds of requests (sandbox decisions of sections 4, 5, 8 and 9).
const (
	BatchMax          = 100
	keyCharsMax       = 255
	nameCharsMax      = 255
	metadataKeysMax   = 50
	metadataNameMax   = 40
	metadataStringMax = 500
	pageDefault       = 25
	pageMax           = 100
)

// The magic amounts (section 12, sandbox decision).
const (
	amountPending         = 20200
	amountDeclined        = 40200
	amountThrottleOnce    = 42900
	amountCommitThen500   = 50000
	amount500             = 50001
	amount503Twice        = 50300
	amountCommitThenClose = 50400
)

// Switches lists the vendor's settings.
func Switches() []core.SwitchSpec {
	return []core.SwitchSpec{
		{Name: "idempotency", Default: "on", Values: core.OnOff(), Help: "off is what the vendor documents: Idempotency-Key is ignored, every POST creates (section 5)"},
		{Name: "key_ttl", Default: "24h", Check: core.CheckDuration, Help: "how long an Idempotency-Key is remembered, 0s = for ever (section 5)"},
		{Name: "extensions", Default: "on", Values: core.OnOff(), Help: "off answers VAL003 to what the vendor does not document: read, change, delete and list customers, list payments, verify keys (section 4.2)"},
		{Name: "conventional_statuses", Default: "off", Values: core.OnOff(), Help: "on answers 403 to AUTH003 and 404 to VAL003 (section 8)"},
		{Name: "tier", Default: "standard", Values: []string{"standard", "enterprise"}, Help: "100 a minute with bursts of 150, or 1,000 with 1,500 (section 6)"},
		{Name: "limits", Default: "on", Values: core.OnOff(), Help: "off switches quota and concurrency limit off"},
		{Name: "key_format", Default: "any", Values: []string{"any", "strict"}, Help: "strict accepts only dev_, rest_ or sk_ and 32 letters or digits, where no keys are configured (section 2)"},
		{Name: "restricted_permissions", Default: "payments", Check: checkPermissions, Help: "what configured keys that start with rest_ may do, separated by commas"},
		{Name: "admin_token", Default: "", Help: "the credential that may create API keys, empty = every one that is not restricted"},
		{Name: "oauth_clients", Default: "", Check: checkClients, Help: "accepted ID:SECRET[@NOTBEFORE[..NOTAFTER]], separated by commas; empty accepts any client, or none where keys are configured"},
		{Name: "token_ttl", Default: "1h", Check: core.CheckDuration, Help: "life of an OAuth token (section 2)"},
		{Name: "v1_sunset", Default: "2030-01-01", Check: checkDate, Help: "from this date on POST /v1/payments answers 410 (section 11)"},
		{Name: "drift", Default: "off", Values: core.OnOff(), Help: "unknown fields in all answers and webhooks (section 11); fault drift does more"},
		{Name: "pending_after", Default: "2s", Check: core.CheckDuration, Help: "when a payment of 20200 succeeds (section 12)"},
		{Name: "slow_by", Default: "3s", Check: core.CheckDuration, Help: "delay of customers at @slow.test (section 12)"},
		{Name: "webhook_url", Default: "", Check: checkHookURL, Help: "an endpoint for all events that is there from the start, as if made in the dashboard"},
		{Name: "webhook_secret", Default: "", Help: "secret of that endpoint, empty = a new one"},
		{Name: "webhook_time_scale", Default: "1", Check: core.CheckFloat(1), Help: "multiplies the waits between webhook attempts (section 10)"},
		{Name: "webhook_duplicates", Default: "off", Values: core.OnOff(), Help: "every webhook is sent twice"},
		{Name: "webhook_reorder", Default: "off", Values: core.OnOff(), Help: "every second webhook is held back by 1 s, scaled"},
		{Name: "webhook_tamper", Default: "off", Values: core.OnOff(), Help: "the body of each first attempt is changed after signing"},
		{Name: "webhook_old_secret", Default: "off", Values: core.OnOff(), Help: "each first attempt is signed with the endpoint's previous secret, or one it never had"},
		{Name: "webhook_stale", Default: "off", Values: core.OnOff(), Help: "each first attempt is stamped and signed an hour ago"},
	}
}

func checkDate(v string) error {
	if _, err := time.Parse(time.DateOnly, v); err != nil {
		return errors.New("want a date such as 2030-01-01")
	}
	return nil
}

func checkHookURL(v string) error {
	if v != "" && !core.HookURL(v) {
		return errors.New("want an https URL (http only to a loopback address)")
	}
	return nil
}

// New makes a sandbox of the vendor.
func New(o core.Options) (*core.Sandbox, error) {
	sw, err := core.NewSwitches(o.Switches, Switches())
	if err != nil {
		return nil, err
	}
	if sw.On("drift") {
		o.Faults = append(o.Faults[:len(o.Faults):len(o.Faults)], "drift=fields:-") // unknown fields alone
	}
	return core.New(Name, o, func(s *core.Sandbox) (core.Vendor, error) {
		sunset, _ := time.Parse(time.DateOnly, sw["v1_sunset"]) // checked by NewSwitches
		clients, _ := parseClients(sw["oauth_clients"])         // as above
		v := &vendor{
			s: s, idempotency: sw.On("idempotency"), keyTTL: sw.Duration("key_ttl"), extensions: sw.On("extensions"),
			conventional: sw.On("conventional_statuses"), limits: sw.On("limits"),
			perMinute: o.Limit(PerMinute), burst: o.Limit(Burst), inFlight: o.Limit(InFlightMax),
			strictKeys: sw["key_format"] == "strict", restricted: splitList(sw["restricted_permissions"]),
			adminToken: sw["admin_token"], clients: clients, anyClient: len(clients) == 0 && len(o.Keys) == 0,
			tokenTTL: sw.Duration("token_ttl"), tokenKey: tokenKey(o.Seed), sunset: sunset, drift: sw.On("drift"),
			pendingAfter: sw.Duration("pending_after"), slowBy: sw.Duration("slow_by"),
			hookURL: sw["webhook_url"], hookSecret: sw["webhook_secret"], hookScale: sw.Float("webhook_time_scale"),
			hookTwice: sw.On("webhook_duplicates"), hookReorder: sw.On("webhook_reorder"), hookTamper: sw.On("webhook_tamper"),
			hookOldSecret: sw.On("webhook_old_secret"), hookStale: sw.On("webhook_stale"),
		}
		if sw["tier"] == "enterprise" {
			v.perMinute, v.burst = o.Limit(EnterprisePerMinute), o.Limit(EnterpriseBurst)
		}
		v.Reset()
		return v, nil
	})
}

// The operation names of the log.
const (
	opIssueToken      = "issue_token"
	opCreateKey       = "create_api_key"
	opVerifyKey       = "verify_key"
	opCreatePayment   = "create_payment"
	opCreatePaymentV1 = "create_payment_v1"
	opGetPayment      = "get_payment"
	opListPayments    = "list_payments"
	opCreateCustomer  = "create_customer"
	opCreateCustomers = "create_customer_batch" // its items are logged as create_customer
	opGetCustomer     = "get_customer"
	opUpdateCustomer  = "update_customer"
	opDeleteCustomer  = "delete_customer"
	opListCustomers   = "list_customers"
	opCreateWebhook   = "create_webhook_endpoint"
	opUnknown         = "unknown" // no such path, or not with this method

	counterMismatch    = "idempotency_body_mismatch"
	counterInFlight    = "idempotency_in_flight"
	counterRateLimited = "rate_limited"
	counterConcurrency = "concurrency_limited"
	counterDeprecated  = "deprecated_v1"
)

type vendor struct {
	s *core.Sandbox

	idempotency, extensions, conventional, limits, drift bool
	strictKeys, anyClient                                bool
	keyTTL, tokenTTL, pendingAfter, slowBy               time.Duration
	perMinute, burst, inFlight                           int
	restricted                                           []string
	adminToken                                           string
	clients                                              []core.Key // Secret is ID:SECRET
	tokenKey                                             []byte
	sunset                                               time.Time
	hookURL, hookSecret                                  string
	hookScale                                            float64
	hookTwice, hookReorder                               bool
	hookTamper, hookOldSecret, hookStale                 bool

	buckets *core.Buckets
	lastSec int64 // newest created_at or updated_at given, Unix seconds: lists stay sorted if the clock steps back

	customers index[*customer]
	payments  index[*payment]
	methods   map[string]method
	due       []string // ids of pending payments, oldest first
	magic     map[string]int

	remembered map[string]*remembered
	oldest     []string // names in remembered, oldest first

	keys        map[string]*keyState // by hash of the key
	tokens      tokenState
	endpoints   []*endpoint
	hooksQueued int64
}

var (
	_ core.Vendor  = (*vendor)(nil)
	_ core.Arriver = (*vendor)(nil)
	_ core.Stamper = (*vendor)(nil)
)

func (v *vendor) Operations() []string {
	return []string{
		opIssueToken, opCreateKey, opVerifyKey, opCreatePayment, opCreatePaymentV1, opGetPayment, opListPayments,
		opCreateCustomer, opCreateCustomers, opGetCustomer, opUpdateCustomer, opDeleteCustomer, opListCustomers,
		opCreateWebhook, opUnknown,
	}
}

func (v *vendor) Counters() []string {
	return []string{counterMismatch, counterInFlight, counterRateLimited, counterConcurrency, counterDeprecated}
}
func (v *vendor) DriftFields() []string { return []string{"type", "brand"} }

func (v *vendor) Reset() {
	v.buckets = core.NewBuckets(v.burst, v.perMinute)
	v.lastSec = math.MinInt64
	v.customers, v.payments = newIndex[*customer](), newIndex[*payment]()
	v.methods = testMethods()
	v.due, v.magic = nil, map[string]int{}
	v.remembered, v.oldest = map[string]*remembered{}, nil
	v.keys, v.tokens = map[string]*keyState{}, tokenState{}
	v.endpoints, v.hooksQueued = nil, 0
	if v.hookURL != "" {
		secret := v.hookSecret
		if secret == "" {
			secret = v.newID("whsec_")
		}
		v.endpoints = append(v.endpoints, &endpoint{ID: v.newID("we_"), URL: v.hookURL, Events: []string{"*"}, Secret: secret, CreatedAt: v.s.Now().UTC().Format(timeLayout)})
	}
}

// route finds the operation of a request and the id in its path, and whether it is an extension (section 4.2).
func route(method, path string) (operation, id string, extension bool) {
	switch method + " " + path {
	case "POST /oauth/token":
		return opIssueToken, "", false
	case "POST /v1/api-keys":
		return opCreateKey, "", false
	case "POST /v1/payments":
		return opCreatePaymentV1, "", false
	case "GET /v2/api-keys/verify":
		return opVerifyKey, "", true
	case "POST /v2/payments":
		return opCreatePayment, "", false
	case "GET /v2/payments":
		return opListPayments, "", true
	case "POST /v2/customers":
		return opCreateCustomer, "", false
	case "GET /v2/customers":
		return opListCustomers, "", true
	case "POST /v2/customers/batch":
		return opCreateCustomers, "", false
	case "POST /v2/webhooks":
		return opCreateWebhook, "", false
	}
	if id, ok := strings.CutPrefix(path, "/v2/payments/"); ok && method == http.MethodGet && onePart(id) {
		return opGetPayment, id, false
	}
	if id, ok := strings.CutPrefix(path, "/v2/customers/"); ok && onePart(id) && id != "batch" {
		switch method {
		case http.MethodGet:
			return opGetCustomer, id, true
		case http.MethodPatch:
			return opUpdateCustomer, id, true
		case http.MethodDelete:
			return opDeleteCustomer, id, true
		}
	}
	return opUnknown, "", false
}

func onePart(s string) bool { return s != "" && !strings.Contains(s, "/") }

// parsed is what Parse leaves for Serve.
type parsed struct {
	who     caller
	invalid *core.InvalidError
	sum     bodySum
	in      any // the operation's own input
}

// Parse routes the request and reads its body.
func (v *vendor) Parse(r *core.Request) {
	p := &parsed{who: v.caller(r.Bearer())}
	r.Parsed, r.Client = p, p.who.name
	var extension bool
	if r.Operation, r.Object, extension = route(r.Method, r.Path); extension && !v.extensions {
		r.Operation, r.Object = opUnknown, ""
	}
	r.Key = r.Header.Get("Idempotency-Key")
	p.sum = sumOf(r.Body)
	switch r.Operation {
	case opCreatePayment, opCreateCustomer, opCreateCustomers:
		if v.idempotency && r.Key != "" && utf8.RuneCountInString(r.Key) <= keyCharsMax {
			r.Dedup = p.who.scope() + "\x00" + r.Path + "\x00" + r.Key
		}
	}
	var err error
	switch r.Operation {
	case opIssueToken:
		p.in = parseTokenRequest(r)
	case opCreateKey:
		p.in, err = parseKeyRequest(r)
	case opCreatePayment:
		err = v.parsePayment(r, p)
	case opCreatePaymentV1:
		err = v.parsePaymentV1(r, p)
	case opCreateCustomer:
		err = v.parseCustomer(r, p)
	case opCreateCustomers:
		err = v.parseBatch(r, p)
	case opUpdateCustomer:
		err = v.parseUpdate(r, p)
	case opCreateWebhook:
		p.in, err = parseEndpoint(r)
	}
	p.invalid = core.AsInvalid(err)
}

// Arrive refuses what is too much at once (section 6) and repeats of what is not finished (section 5).
func (v *vendor) Arrive(r *core.Request, underWay int, repeat bool) *core.Answer {
	p := r.Parsed.(*parsed)
	if r.Operation == opIssueToken || v.credentialCode(p.who, r.Now) != "" {
		return nil // Serve refuses it, or it has no limit
	}
	if v.limits && underWay > v.inFlight {
		v.s.Count(counterConcurrency, 1)
		a := v.throttled("RATE002", "more than "+strconv.Itoa(v.inFlight)+" requests at once", 1)
		return &a
	}
	if !repeat {
		return nil
	}
	if a, ok := v.take(p.who, r.Now); !ok {
		return &a
	}
	v.s.Count(counterInFlight, 1)
	a := v.refuse("VAL005", "a request with this Idempotency-Key is not finished yet", nil)
	return &a
}

// take counts a request against the quota of its credential (section 6).
func (v *vendor) take(who caller, now time.Time) (core.Answer, bool) {
	if !v.limits {
		return core.Answer{}, true
	}
	wait, ok := v.buckets.Of(who.name).Take(now)
	if ok {
		return core.Answer{}, true
	}
	v.s.Count(counterRateLimited, 1)
	return v.throttled("RATE001", "more than "+strconv.Itoa(v.perMinute)+" requests a minute", int64((wait+time.Second-1)/time.Second)), false
}

func (v *vendor) Serve(r *core.Request) core.Answer {
	p := r.Parsed.(*parsed)
	if r.Operation == opIssueToken {
		return v.issueToken(r, p)
	}
	if code := v.credentialCode(p.who, r.Now); code != "" {
		if code == "AUTH002" {
			return v.refuse(code, "the access token is expired", nil)
		}
		return v.refuse(code, "the API key or access token is invalid or revoked", nil)
	}
	if a, ok := v.take(p.who, r.Now); !ok {
		return a
	}
	a := v.dispatch(r, p)
	if a.Status == http.StatusTooManyRequests && v.limits { // a magic amount: 429s do not count
		v.buckets.Of(p.who.name).Untake()
	}
	return a
}

// permission that an operation needs, "" for none (section 2, sandbox decision).
func permission(operation string) string {
	switch operation {
	case opCreatePayment, opCreatePaymentV1, opGetPayment, opListPayments, opCreateWebhook:
		return "payments"
	case opCreateCustomer, opCreateCustomers, opGetCustomer, opUpdateCustomer, opDeleteCustomer, opListCustomers:
		return "accounts"
	}
	return ""
}

func (v *vendor) dispatch(r *core.Request, p *parsed) core.Answer {
	if r.Operation == opUnknown {
		return v.refuse("VAL003", "no such resource", nil)
	}
	if need := permission(r.Operation); need != "" && !v.may(p.who, need) {
		return v.refuse("AUTH003", "the credential lacks the permission "+need, nil)
	}
	switch r.Operation {
	case opCreateKey:
		return v.createKey(r, p)
	case opVerifyKey:
		return v.verifyKey(p)
	case opCreatePayment:
		return v.magicLoss(r, p, v.once(r, p, v.createPayment))
	case opCreatePaymentV1:
		return v.createPaymentV1(r, p)
	case opGetPayment:
		return get(v, r, &v.payments)
	case opListPayments:
		return list(v, r, &v.payments)
	case opCreateCustomer:
		return v.once(r, p, v.createCustomer)
	case opCreateCustomers:
		return v.once(r, p, v.createCustomers)
	case opGetCustomer:
		return get(v, r, &v.customers)
	case opUpdateCustomer:
		return v.updateCustomer(r, p)
	case opDeleteCustomer:
		return v.deleteCustomer(r)
	case opListCustomers:
		return list(v, r, &v.customers)
	default: // opCreateWebhook
		return v.createEndpoint(r, p)
	}
}

// Stamp puts the headers on every answer (sections 8 and 11, sandbox decisions).
func (v *vendor) Stamp(r *core.Request, h http.Header) {
	h.Set("X-Request-Id", v.s.RequestID())
	if r.Operation == opCreatePaymentV1 {
		h.Set("Deprecation", "true")
		h.Set("Sunset", v.sunset.Format(http.TimeFormat))
		h.Set("Link", `</v2/payments>; rel="successor-version"`)
	}
}

// classOf gives class and status of a code (section 8). VAL004 to VAL006 and PAY001 are inventions.
func (v *vendor) classOf(code string) (class string, status int) {
	switch code {
	case "AUTH001", "AUTH002":
		return "AuthenticationError", http.StatusUnauthorized
	case "AUTH003":
		if v.conventional {
			return "AuthenticationError", http.StatusForbidden
		}
		return "AuthenticationError", http.StatusUnauthorized
	case "VAL003":
		if v.conventional {
			return "ValidationError", http.StatusNotFound
		}
		return "ValidationError", http.StatusBadRequest
	case "VAL004", "VAL005":
		return "ValidationError", http.StatusConflict
	case "VAL006":
		return "ValidationError", http.StatusFailedDependency
	case "RATE001", "RATE002":
		return "RateLimitError", http.StatusTooManyRequests
	case "API001":
		return "APIError", http.StatusInternalServerError
	case "API002":
		return "APIError", http.StatusServiceUnavailable
	case "PAY001":
		return "PaymentError", http.StatusPaymentRequired
	}
	return "ValidationError", http.StatusBadRequest // VAL001, VAL002
}

// codeOf gives the code to a status that a fault chooses.
func codeOf(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "AUTH001"
	case http.StatusPaymentRequired:
		return "PAY001"
	case http.StatusForbidden:
		return "AUTH003"
	case http.StatusNotFound, http.StatusGone:
		return "VAL003"
	case http.StatusRequestTimeout:
		return "API001" // retryable by the vendor's list (section 7), so not one of its VAL codes
	case http.StatusConflict:
		return "VAL004"
	case http.StatusTooManyRequests:
		return "RATE001"
	case http.StatusServiceUnavailable:
		return "API002"
	}
	if status >= 500 {
		return "API001"
	}
	return "VAL001"
}

// errorJSON is the vendor's error object (section 8, sandbox decision).
type errorJSON struct {
	Type    string `json:"type"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Details any    `json:"details"`
}

type fieldIssue struct {
	Field string `json:"field"`
	Issue string `json:"issue"`
}

type fieldDetails struct {
	Fields []fieldIssue `json:"fields"`
}

type retryDetails struct {
	RetryAfter int64 `json:"retry_after"`
}

func (v *vendor) errorOf(code, message string, details any) errorJSON {
	class, _ := v.classOf(code)
	if details == nil {
		details = struct{}{}
	}
	return errorJSON{class, code, message, details}
}

func marshal(x any) []byte {
	b, err := json.Marshal(x)
	if err != nil { // only plain structs and JSON that was read before
		panic("finfusion sandbox: answer cannot be rendered: " + err.Error())
	}
	return b
}

func (v *vendor) errorBody(code, message string, details any) []byte {
	return marshal(map[string]errorJSON{"error": v.errorOf(code, message, details)})
}

func (v *vendor) ErrorBody(status int, message string, retryAfter int) []byte {
	if retryAfter > 0 {
		return v.errorBody(codeOf(status), message, retryDetails{int64(retryAfter)})
	}
	return v.errorBody(codeOf(status), message, nil)
}

func (v *vendor) refuse(code, message string, details any) core.Answer {
	_, status := v.classOf(code)
	return core.Answer{Status: status, Body: v.errorBody(code, message, details), Effect: core.Rejected}
}

// throttled says the wait in the header and in the details (section 6).
func (v *vendor) throttled(code, message string, seconds int64) core.Answer {
	seconds = max(seconds, 1)
	a := v.refuse(code, message, retryDetails{seconds})
	a.Header = []core.HeaderField{{Name: "Retry-After", Value: strconv.FormatInt(seconds, 10)}}
	return a
}

func invalidDetails(e *core.InvalidError) any {
	return fieldDetails{[]fieldIssue{{e.Field, e.Message}}}
}

func (v *vendor) refuseInvalid(e *core.InvalidError) core.Answer {
	return v.refuse("VAL001", "the request is invalid", invalidDetails(e))
}

func (v *vendor) refuseParameter(name, issue string) core.Answer {
	return v.refuse("VAL002", "a parameter is invalid", fieldDetails{[]fieldIssue{{name, issue}}})
}

// timeLayout of resources (section 3).
const timeLayout = "2006-01-02T15:04:05Z"

// stamp gives created_at or updated_at: seconds that never decrease.
func (v *vendor) stamp(now time.Time) (sec int64, text string) {
	v.lastSec = max(v.lastSec, now.Unix())
	return v.lastSec, time.Unix(v.lastSec, 0).UTC().Format(timeLayout)
}

// restoreStamp reads back when an object was changed last.
func (v *vendor) restoreStamp(text string) (int64, error) {
	t, err := time.Parse(timeLayout, text)
	if err != nil {
		return 0, err
	}
	v.lastSec = max(v.lastSec, t.Unix())
	return t.Unix(), nil
}

func (v *vendor) newID(prefix string) string { return v.s.NewID(prefix, 16) }

func (v *vendor) Restore(kind string, raw json.RawMessage) error {
	restore, ok := map[string]func(json.RawMessage) error{
		"customer": v.restoreCustomer, "payment": v.restorePayment, "endpoint": v.restoreEndpoint,
		"remembered": v.restoreRemembered, "key": v.restoreKey, "tokens": v.restoreTokens,
	}[kind]
	if !ok {
		return &core.InvalidError{Message: "finfusion has no kind " + strconv.Quote(kind)}
	}
	return restore(raw)
}

// metadata of an object: its values are JSON texts. A map is never changed once an object has it.
type metadata map[string]json.RawMessage

// readMetadata reads and checks the member metadata; removed lists the names that are null.
func readMetadata(f core.Fields, path string) (m metadata, removed []string, err error) {
	o, err := f.Object(path, "metadata", false)
	if err != nil || o == nil {
		return nil, nil, err
	}
	m = make(metadata, len(o))
	for _, name := range o.Names() {
		raw := o.Raw(name)
		if raw == nil {
			removed = append(removed, name)
			continue
		}
		if n := utf8.RuneCountInString(name); n == 0 || n > metadataNameMax {
			return nil, nil, &core.InvalidError{Field: path + "metadata", Message: "a key must be 1 to 40 characters"}
		}
		if text, err := o.Text("", name, false); err == nil && utf8.RuneCountInString(text) > metadataStringMax {
			return nil, nil, &core.InvalidError{Field: path + "metadata." + name, Message: "is longer than 500 characters"}
		}
		m[name] = bytes.Clone(raw)
	}
	return m, removed, checkMetadataSize(m, path)
}

func checkMetadataSize(m metadata, path string) error {
	if len(m) > metadataKeysMax {
		return &core.InvalidError{Field: path + "metadata", Message: "has more than 50 keys"}
	}
	return nil
}

// text returns a string value, "" for any other.
func (m metadata) text(name string) string {
	var s string
	if json.Unmarshal(m[name], &s) != nil {
		return ""
	}
	return s
}

// reference of an object for the log: the first of these members that is a string.
func (m metadata) reference() string {
	for _, name := range []string{"reference", "external_id", "invoice_id", "order_id"} {
		if s := m.text(name); s != "" {
			return s
		}
	}
	return ""
}
