// Package plain is the sandbox of a vendor that does not exist: full-state PUT /things/{id} and POST /payments with no
// idempotency at all (design section 17). Push Cash alone can show neither a reorder nor a doubled effect: its create
// is idempotent and it has no update. All of it is our invention.
//
// A PUT of the bytes that are the state already is logged as replayed, any other as applied, so the log shows in which
// order states were written. Every POST /payments that is answered is another payment; an Idempotency-Key header is
// logged and not obeyed.
package plain

import (
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// Name of the vendor.
const Name = "plain"

// IDBytesMax bounds the id of a thing, in bytes.
const IDBytesMax = 255

// Switches lists the vendor's settings.
func Switches() []core.SwitchSpec {
	return []core.SwitchSpec{
		{Name: "auth", Default: "auto", Values: []string{"auto", "on", "off"}, Help: "bearer key required: auto = only where keys are configured"},
		{Name: "probe", Default: "off", Values: core.OnOff(), Help: "GET /payments?reference= finds payments"},
		{Name: "rate_limit", Default: "0", Check: core.CheckInt(0, 1<<30), Help: "requests per window and key, 0 = none"},
		{Name: "rate_window", Default: "1s", Check: core.CheckDuration, Help: "length of the sliding window"},
		{Name: "retry_after", Default: "off", Values: core.OnOff(), Help: "Retry-After beside the X-RateLimit headers of a 429"},
		{Name: "page_size", Default: "50", Check: core.CheckInt(1, 10_000), Help: "rows per page"},
		{Name: "versions_max", Default: "0", Check: core.CheckInt(0, 1<<30), Help: "states kept per thing, 0 = all"},
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
			s: s, probe: sw.On("probe"), retryAfter: sw.On("retry_after"), pageSize: sw.Int("page_size"),
			versionsMax: sw.Int("versions_max"), window: max(sw.Duration("rate_window"), time.Millisecond),
			auth: sw["auth"] == "on" || sw["auth"] == "auto" && len(o.Keys) > 0,
		}
		if n := sw.Int("rate_limit"); n > 0 {
			v.limit = o.Limit(n)
		}
		v.Reset()
		return v, nil
	})
}

// The operation names of the log.
const (
	opPutThing      = "put_thing"
	opGetThing      = "get_thing"
	opListThings    = "list_things"
	opCreatePayment = "create_payment"
	opGetPayment    = "get_payment"
	opFindPayments  = "find_payments"
	opUnknown       = "unknown"
)

type vendor struct {
	s                       *core.Sandbox
	auth, probe, retryAfter bool
	limit                   int
	window                  time.Duration
	pageSize, versionsMax   int

	windows     *core.Windows
	things      map[string]*thing
	thingList   []*thing // in order of creation
	payments    map[string]*payment
	paymentList []*payment
	byReference map[string][]*payment
}

type thing struct {
	id        string
	reference string
	version   int64
	versions  []version // newest last; its last one is the state
}

type version struct {
	Version int64             `json:"version"`
	At      string            `json:"at"`
	State   json.RawMessage   `json:"state"`
	sum     [sha256.Size]byte // of the bytes as sent, by which a repeat is recognised
}

type payment struct {
	ID        string          `json:"id"`
	CreatedAt string          `json:"created_at"`
	Reference string          `json:"reference"`
	Payment   json.RawMessage `json:"payment"`
}

// row is the persisted form of a thing's new state.
type row struct {
	ID        string  `json:"id"`
	Reference string  `json:"reference"`
	Version   version `json:"version"`
	Sum       []byte  `json:"sum"`
}

// parsed is what Parse leaves for Serve.
type parsed struct {
	refuse  int // 404 or 405, 0 = go on
	allow   string
	invalid *core.InvalidError
	sum     [sha256.Size]byte
}

const timeLayout = "2006-01-02T15:04:05.000Z"

func (v *vendor) Operations() []string {
	return []string{opPutThing, opGetThing, opListThings, opCreatePayment, opGetPayment, opFindPayments, opUnknown}
}
func (v *vendor) Counters() []string       { return nil }
func (v *vendor) DriftFields() []string    { return []string{"status", "type"} }
func (v *vendor) Actions() []string        { return []string{} }
func (v *vendor) Tick(time.Time)           {}
func (v *vendor) TickEvery() time.Duration { return 0 }

func (v *vendor) Act(name string, _ core.Fields) (any, error) {
	return nil, &core.InvalidError{Message: "plain has no actions, so none named " + strconv.Quote(name)}
}

func (v *vendor) Reset() {
	v.windows = core.NewWindows(v.window)
	v.things = map[string]*thing{}
	v.thingList = nil
	v.payments = map[string]*payment{}
	v.paymentList = nil
	v.byReference = map[string][]*payment{}
}

func (v *vendor) Parse(r *core.Request) {
	p := &parsed{}
	r.Parsed = p
	r.Key = r.Header.Get("Idempotency-Key")
	if r.Key == "" {
		r.Key = r.Header.Get("X-Idempotency-Key")
	}
	// method chooses among the methods that the path knows; allow and operation alternate.
	method := func(pairs ...string) {
		var allow []string
		for i := 0; i < len(pairs); i += 2 {
			if r.Method == pairs[i] {
				r.Operation = pairs[i+1]
				return
			}
			allow = append(allow, pairs[i])
		}
		r.Operation, p.refuse, p.allow = opUnknown, http.StatusMethodNotAllowed, strings.Join(allow, ", ")
	}
	if id, ok := strings.CutPrefix(r.Path, "/things/"); ok && id != "" && !strings.Contains(id, "/") {
		r.Object = id
		method(http.MethodGet, opGetThing, http.MethodPut, opPutThing)
	} else if id, ok := strings.CutPrefix(r.Path, "/payments/"); ok && id != "" && !strings.Contains(id, "/") {
		r.Object = id
		method(http.MethodGet, opGetPayment)
	} else {
		switch {
		case r.Path == "/things":
			method(http.MethodGet, opListThings)
		case r.Path == "/payments" && v.probe:
			method(http.MethodGet, opFindPayments, http.MethodPost, opCreatePayment)
		case r.Path == "/payments":
			method(http.MethodPost, opCreatePayment)
		default:
			r.Operation, p.refuse = opUnknown, http.StatusNotFound
		}
	}
	switch r.Operation {
	case opPutThing, opCreatePayment:
		f, err := core.ParseFields(r.Body)
		if err == nil && f.Has("reference") {
			r.Reference, _ = f.Text("", "reference", false) // another type is no reference
		}
		if err == nil && r.Operation == opPutThing && len(r.Object) > IDBytesMax {
			err = &core.InvalidError{Field: "id", Message: "is longer than " + strconv.Itoa(IDBytesMax) + " bytes"}
		}
		if err == nil && r.Operation == opPutThing && !utf8.ValidString(r.Object) {
			err = &core.InvalidError{Field: "id", Message: "is not UTF-8"}
		}
		p.invalid = core.AsInvalid(err)
		p.sum = sha256.Sum256(r.Body)
	case opFindPayments:
		r.Reference = r.Query.Get("reference")
		if r.Reference == "" {
			p.invalid = &core.InvalidError{Field: "reference", Message: "is required"}
		}
	}
}

func (v *vendor) ErrorBody(status int, message string, _ int) []byte {
	b := core.AppendString([]byte(`{"error":{"status":`+strconv.Itoa(status)+`,"message":`), message)
	return append(b, "}}"...)
}

func (v *vendor) refuse(status int, message string) core.Answer {
	return core.Answer{Status: status, Body: v.ErrorBody(status, message, 0), Effect: core.Rejected}
}

func (v *vendor) Serve(r *core.Request) core.Answer {
	p := r.Parsed.(*parsed)
	credential := r.Bearer()
	if v.auth && !v.s.Authenticate(credential, r.Now) {
		return v.refuse(http.StatusUnauthorized, "missing or bad bearer key")
	}
	var header []core.HeaderField
	if v.limit > 0 {
		u, ok := v.windows.Take(credential, "", v.limit, r.Now)
		reset := (u.Reset.UnixNano() + int64(time.Second) - 1) / int64(time.Second) // rounded up: the slot is free then
		header = []core.HeaderField{
			{Name: "X-RateLimit-Limit", Value: strconv.Itoa(u.Limit)},
			{Name: "X-RateLimit-Remaining", Value: strconv.Itoa(u.Remaining)},
			{Name: "X-RateLimit-Reset", Value: strconv.FormatInt(reset, 10)},
		}
		if !ok {
			a := v.refuse(http.StatusTooManyRequests, "over the limit")
			if a.Header = header; v.retryAfter {
				a.Header = append(a.Header, core.HeaderField{Name: "Retry-After", Value: strconv.FormatInt(max(0, reset-r.Now.Unix()), 10)})
			}
			return a
		}
	}
	a := v.serve(r, p)
	a.Header = append(a.Header, header...)
	return a
}

func (v *vendor) serve(r *core.Request, p *parsed) core.Answer {
	switch {
	case p.refuse == http.StatusMethodNotAllowed:
		a := v.refuse(p.refuse, "this path does not know this method")
		a.Header = []core.HeaderField{{Name: "Allow", Value: p.allow}}
		return a
	case p.refuse != 0:
		return v.refuse(p.refuse, "no such path")
	case p.invalid != nil:
		return v.refuse(http.StatusBadRequest, p.invalid.Error())
	}
	switch r.Operation {
	case opPutThing:
		return v.put(r)
	case opCreatePayment:
		return v.pay(r)
	case opGetThing:
		t, ok := v.things[r.Object]
		if !ok {
			return v.refuse(http.StatusNotFound, "no such thing")
		}
		return core.Answer{Status: http.StatusOK, Body: t.state(), Effect: core.Read, Reference: t.reference}
	case opGetPayment:
		y, ok := v.payments[r.Object]
		if !ok {
			return v.refuse(http.StatusNotFound, "no such payment")
		}
		return core.Answer{Status: http.StatusOK, Value: y, Effect: core.Read, Reference: y.Reference}
	case opFindPayments:
		return core.Answer{Status: http.StatusOK, Value: page{Data: anys(v.byReference[r.Reference])}, Effect: core.Read}
	default: // opListThings
		return v.list(r)
	}
}

func anys(ps []*payment) []any {
	out := make([]any, len(ps))
	for i, p := range ps {
		out[i] = p // payments never change
	}
	return out
}

func (t *thing) state() json.RawMessage { return t.versions[len(t.versions)-1].State }

// put writes the full state of a thing.
func (v *vendor) put(r *core.Request) core.Answer {
	t, ok := v.things[r.Object]
	status, sum := http.StatusOK, r.Parsed.(*parsed).sum
	if !ok {
		status = http.StatusCreated
		t = v.add(r.Object)
	} else if t.versions[len(t.versions)-1].sum == sum {
		return core.Answer{Status: status, Body: putBody(t), Effect: core.Replayed}
	}
	t.reference = r.Reference
	t.apply(version{Version: t.version + 1, At: r.Now.UTC().Format(timeLayout), State: r.Body, sum: sum}, v.versionsMax)
	return core.Answer{Status: status, Body: putBody(t), Effect: core.Applied,
		Rows: []core.Row{{Kind: "thing", Value: row{t.id, t.reference, t.versions[len(t.versions)-1], sum[:]}}}}
}

func (v *vendor) add(id string) *thing {
	t := &thing{id: id}
	v.things[id] = t
	v.thingList = append(v.thingList, t)
	return t
}

func (t *thing) apply(s version, keep int) {
	t.version = s.Version
	if keep > 0 && len(t.versions) >= keep {
		t.versions = append(t.versions[:0:0], t.versions[len(t.versions)-keep+1:]...)
	}
	t.versions = append(t.versions, s)
}

func putBody(t *thing) []byte {
	b := core.AppendString([]byte(`{"id":`), t.id)
	b = append(b, `,"version":`...)
	return append(strconv.AppendInt(b, t.version, 10), '}')
}

// pay makes another payment, whatever was sent before.
func (v *vendor) pay(r *core.Request) core.Answer {
	y := &payment{ID: v.s.NewID("pay_", 16), CreatedAt: r.Now.UTC().Format(timeLayout), Reference: r.Reference, Payment: r.Body}
	v.addPayment(y)
	b := core.AppendString([]byte(`{"id":`), y.ID)
	b = core.AppendString(append(b, `,"reference":`...), y.Reference)
	b = core.AppendString(append(b, `,"created_at":`...), y.CreatedAt)
	return core.Answer{Status: http.StatusCreated, Body: append(b, '}'), Effect: core.Applied, Object: y.ID,
		Rows: []core.Row{{Kind: "payment", Value: y}}}
}

func (v *vendor) addPayment(y *payment) {
	v.payments[y.ID] = y
	v.paymentList = append(v.paymentList, y)
	if y.Reference != "" && v.probe {
		v.byReference[y.Reference] = append(v.byReference[y.Reference], y)
	}
}

type page struct {
	Data       []any   `json:"data"`
	NextCursor *string `json:"next_cursor"`
}

type listed struct {
	ID        string          `json:"id"`
	Reference string          `json:"reference"`
	Version   int64           `json:"version"`
	State     json.RawMessage `json:"state"`
}

// list pages through the things, newest first, as the Push Cash sandbox does.
func (v *vendor) list(r *core.Request) core.Answer {
	left := len(v.thingList)
	if c := r.Query.Get("cursor"); c != "" {
		n, err := core.ParseCursor("things", c, left)
		if err != nil {
			return v.refuse(http.StatusBadRequest, err.Error())
		}
		left = n
	}
	out := page{Data: []any{}}
	for left > 0 && len(out.Data) < v.pageSize {
		left--
		t := v.thingList[left]
		out.Data = append(out.Data, listed{t.id, t.reference, t.version, t.state()})
	}
	if left > 0 {
		c := core.AppendCursor("things", left)
		out.NextCursor = &c
	}
	return core.Answer{Status: http.StatusOK, Value: out, Effect: core.Read}
}

func (v *vendor) Object(id string) (core.Object, bool) {
	if t, ok := v.things[id]; ok {
		return t.object(), true
	}
	if y, ok := v.payments[id]; ok {
		return core.Object{ID: y.ID, Kind: "payment", Reference: y.Reference, Value: y}, true
	}
	return core.Object{}, false
}

func (t *thing) object() core.Object {
	return core.Object{ID: t.id, Kind: "thing", Reference: t.reference, Value: t.state(),
		Versions: append([]version(nil), t.versions...)}
}

// paymentsFrom is where positions of payments begin: both lists may grow between two pages.
const paymentsFrom = 1 << 40

func (v *vendor) Objects(kind string, position, limit int) ([]core.Object, int) {
	var out []core.Object
	for ; position < len(v.thingList) && len(out) < limit; position++ {
		if kind == "" || kind == "thing" {
			out = append(out, v.thingList[position].object())
		}
	}
	if position < paymentsFrom {
		if len(out) == limit {
			return out, position
		}
		position = paymentsFrom
	}
	for ; position-paymentsFrom < len(v.paymentList) && len(out) < limit; position++ {
		if y := v.paymentList[position-paymentsFrom]; kind == "" || kind == "payment" {
			out = append(out, core.Object{ID: y.ID, Kind: "payment", Reference: y.Reference, Value: y})
		}
	}
	if position-paymentsFrom >= len(v.paymentList) {
		return out, -1
	}
	return out, position
}

func (v *vendor) Restore(kind string, raw json.RawMessage) error {
	switch kind {
	case "thing":
		var s row
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		t, ok := v.things[s.ID]
		if !ok {
			t = v.add(s.ID)
		}
		t.reference = s.Reference
		copy(s.Version.sum[:], s.Sum)
		t.apply(s.Version, v.versionsMax)
		return nil
	case "payment":
		y := &payment{}
		if err := json.Unmarshal(raw, y); err != nil {
			return err
		}
		v.addPayment(y)
		return nil
	}
	return &core.InvalidError{Message: "plain has no kind " + strconv.Quote(kind)}
}
