package profile

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Bounds of a profile's webhooks.
const (
	webhookSecretsMax   = 4 // a rotation needs two
	toleranceMin        = time.Second
	toleranceMax        = time.Hour
	echoMax             = 24 * time.Hour
	webhookPartsMax     = 16 // of a signed string
	webhookEventsMax    = 200
	webhookFieldsMax    = 32
	webhookTextBytesMax = 1024 // of one value that a fact takes over
)

// Webhooks is how a vendor calls back: how a call proves that it is the vendor's, how its event is named, and which
// facts its events are. Read only and safe for concurrent use.
type Webhooks struct {
	// Secrets are the names of the connector's secrets that calls may be signed with. Any one of them is enough;
	// several are for rotation.
	Secrets []string
	// SecretBase64: a secret is base64, after a prefix whsec_ if it has one. Otherwise its bytes are the key.
	SecretBase64 bool
	// Signature is the header with one or several HMAC-SHA256 signatures.
	Signature HeaderPart
	// SignatureBase64: a signature is base64, not hexadecimal.
	SignatureBase64 bool
	// Signed are the parts of the signed string, in their order.
	Signed []SignedPart
	// Timestamp is the header with the time of the call; it has no name where the time is in the body or nowhere.
	Timestamp HeaderPart
	// Tolerance is how far the time of a call may be from ours, either way. 0: calls have no time.
	Tolerance time.Duration
	// OK is the status of a call that was taken, Refused that of one whose signature or time is wrong.
	OK, Refused int

	time   instant // in header or body
	kind   *program
	id     []*program
	events []*webhookEvent
}

// A HeaderPart is where a text stands in a header: the whole value or, with a Separator, those of its parts that begin
// with Prefix, without it.
type HeaderPart struct {
	Name      string
	Prefix    string
	Separator string
}

// Find lists the texts in h, at most max of them. A part without the prefix is none.
func (p HeaderPart) Find(h http.Header, max int) []string {
	var out []string
	for _, v := range h.Values(p.Name) {
		parts := []string{v}
		if p.Separator != "" {
			parts = strings.SplitN(v, p.Separator, max+1)
		}
		for _, part := range parts {
			if s, ok := strings.CutPrefix(strings.TrimSpace(part), p.Prefix); ok && s != "" && len(out) < max {
				out = append(out, s)
			}
		}
	}
	return out
}

// A SignedPart is one part of a signed string: a text, the value of a header, the timestamp as it stands in its
// header, or the body. Exactly one is set.
type SignedPart struct {
	Text      string
	Header    string
	Timestamp bool
	Body      bool
}

// A Notice is what one call of a vendor says, as the profile reads it.
type Notice struct {
	Type string // the vendor's word
	// ID names the vendor's event: all calls for one event have the same.
	ID string
	// Fact is the fact that the event is, "" if the profile knows none for it: such a call is taken and ignored.
	Fact string
	// Object is the vendor's id of the object that the event is about.
	Object   string
	Status   string // "" if the event tells none
	Amount   *int64 // in minor units, nil if the event tells none
	Currency string
	At       time.Time // when it happened, zero if the event does not tell
	// How the outbound record that caused it can be found; "" where the event does not tell.
	IdempotencyKey string
	VendorID       string
	Reference      string
	// Pending: it reports that the request is still under way, and so confirms nothing.
	Pending bool
	// Echo: within this time after our own last request for the object, the event reports what we did ourselves. 0: never.
	Echo time.Duration
	// Fields are further declared fields.
	Fields map[string]string
}

// An UnreadableError says what a call lacks that the profile needs. It holds no value of the call.
type UnreadableError struct {
	What string // which key of the profile's webhooks could not be read
	Why  string
}

func (e *UnreadableError) Error() string { return e.What + " " + e.Why }

// Forms of times.
const (
	timeUnix    = "unix"    // seconds
	timeUnixMS  = "unix_ms" // milliseconds
	timeRFC3339 = "rfc3339"
)

// An instant is where a time stands and how it is written.
type instant struct {
	header HeaderPart // no name: value
	value  *source
	prg    *program
	form   string
}

// webhookFact is what the webhooks and each of their events may say of a fact; what an event does not say, the
// webhooks say for it.
type webhookFact struct {
	values   map[string]source // by key, those of match with match. before
	occurred *instant
	fields   []assignment
	echo     time.Duration
}

type webhookDecl struct {
	kind    string
	when    *source
	fact    string
	pending bool
	webhookFact
}

type webhooks struct {
	Webhooks
	kind   *source
	id     []source
	common webhookFact
	events []webhookDecl
}

type webhookEvent struct {
	kind     string
	when     *program
	fact     string
	pending  bool
	values   map[string]*program
	occurred *instant
	fields   []namedProgram
	echo     time.Duration
}

type namedProgram struct {
	name  string
	value *program
}

// webhooks reads the key webhooks of a profile.
func (r *reader) webhooks(n node) *webhooks {
	w := &webhooks{Webhooks: Webhooks{OK: http.StatusOK, Refused: http.StatusUnauthorized}}
	var signed bool
	known := r.factKeys(&w.common)
	for key, read := range map[string]func(node){
		"secrets": func(n node) {
			if w.Secrets = r.words(n); len(w.Secrets) == 0 || len(w.Secrets) > webhookSecretsMax {
				r.errorf(n, "for example [webhook_secret, webhook_secret_old]: the second one is for rotation", "expected 1 to %d names of secrets", webhookSecretsMax)
			}
		},
		"secret_encoding": func(n node) { w.SecretBase64 = r.oneOf(n, "text", "base64") == "base64" },
		"signature": func(n node) {
			known := r.headerPart(&w.Signature)
			known["encoding"] = func(n node) { w.SignatureBase64 = r.oneOf(n, "hex", "base64") == "base64" }
			r.fields(n, known)
			r.need(n, w.Signature.Name != "", "header", "the header that carries the signature")
		},
		"signed": func(n node) { w.Signed, signed = r.signedParts(n), true },
		"timestamp": func(n node) {
			w.time.form = timeUnix
			known := r.headerPart(&w.time.header)
			known["value"] = func(n node) { s := r.expr(n); w.time.value = &s }
			known["format"] = func(n node) { w.time.form = r.oneOf(n, timeUnix, timeUnixMS, timeRFC3339) }
			r.fields(n, known)
			if (w.time.header.Name == "") == (w.time.value == nil) {
				r.errorf(n, "header: X-Timestamp, or value: body.timestamp", "a timestamp has either a header or a value")
			}
			w.Timestamp = w.time.header
		},
		"tolerance": func(n node) { w.Tolerance = r.duration(n, toleranceMin, toleranceMax) },
		"answers": func(n node) {
			r.fields(n, map[string]func(node){
				"ok":      func(n node) { w.OK = int(r.integer(n, 200, 299)) },
				"refused": func(n node) { w.Refused = int(r.integer(n, 400, 499)) },
			})
		},
		"type": func(n node) { s := r.expr(n); w.kind = &s },
		"id": func(n node) {
			if kindName(n.Node) == "a list" {
				r.list(n, func(n node) { w.id = append(w.id, r.expr(n)) })
				return
			}
			w.id = []source{r.expr(n)}
		},
		"events": func(n node) { r.list(n, func(n node) { w.events = append(w.events, r.webhookDecl(n)) }) },
	} {
		known[key] = read
	}
	r.fields(n, known)
	if len(r.errs) > 0 {
		return w
	}
	r.need(n, len(w.Secrets) > 0, "secrets", "names of the connector's secrets that calls are signed with")
	r.need(n, w.Signature.Name != "", "signature", "signature: {header: X-Signature, encoding: hex}")
	r.need(n, signed, "signed", "what is signed: '{body}', or '{timestamp}.{body}'")
	r.need(n, w.kind != nil, "type", "where the event's type stands, for example body.type")
	r.need(n, len(w.id) > 0, "id", "what names the event: body.id, or a list such as [body.type, body.data.id, body.data.status]")
	r.need(n, len(w.events) > 0, "events", "which facts the events are")
	hasTime := w.time.header.Name != "" || w.time.value != nil
	if hasTime != (w.Tolerance > 0) {
		r.errorf(n, "timestamp: {header: X-Timestamp}, tolerance: 5m; leave both out if the vendor sends no time", "timestamp and tolerance belong together")
	}
	if len(w.events) > webhookEventsMax {
		r.errorf(n, "", "more than %d events", webhookEventsMax)
	}
	body := false
	for _, p := range w.Signed {
		body = body || p.Body
		if p.Timestamp && w.Timestamp.Name == "" {
			r.errorf(n, "a time that stands in the body is signed with it", "{timestamp} is signed, but timestamp names no header")
		}
	}
	if !body && signed {
		r.errorf(n, "for example '{timestamp}.{body}'", "what is signed must hold {body}")
	}
	for i := range w.events {
		e := &w.events[i]
		if _, ok := e.value(&w.common, "object"); !ok && e.fact != "" {
			r.errorf(n, "object: body.data.id", "event %s needs the key object: the vendor's id of what it is about", clip(e.kind))
		}
	}
	return w
}

// value is the event's own expression for a key, or the common one.
func (f *webhookFact) value(common *webhookFact, key string) (source, bool) {
	if s, ok := f.values[key]; ok {
		return s, true
	}
	s, ok := common.values[key]
	return s, ok
}

func (r *reader) headerPart(p *HeaderPart) map[string]func(node) {
	return map[string]func(node){
		"header":    func(n node) { p.Name = r.headerName(n) },
		"prefix":    func(n node) { p.Prefix = r.text(n) },
		"separator": func(n node) { p.Separator = r.separator(n) },
	}
}

// separator may be a blank, which text would refuse.
func (r *reader) separator(n node) string {
	switch s := r.oneOf(n, "space", "comma", "semicolon"); s {
	case "space":
		return " "
	case "comma":
		return ","
	case "semicolon":
		return ";"
	}
	return ""
}

// signedParts reads a template: {body}, {timestamp}, {<header>} and the text between them.
func (r *reader) signedParts(n node) []SignedPart {
	var out []SignedPart
	rest := r.text(n)
	for rest != "" && len(out) < webhookPartsMax {
		before, after, open := strings.Cut(rest, "{")
		if before != "" {
			out = append(out, SignedPart{Text: before})
		}
		if !open {
			return out
		}
		name, next, closed := strings.Cut(after, "}")
		switch {
		case !closed || !isToken(name):
			r.errorf(n, "for example '{webhook-id}.{webhook-timestamp}.{body}'", "not a template of {body}, {timestamp} and {header names}")
			return nil
		case name == "body":
			out = append(out, SignedPart{Body: true})
		case name == "timestamp":
			out = append(out, SignedPart{Timestamp: true})
		default:
			out = append(out, SignedPart{Header: http.CanonicalHeaderKey(name)})
		}
		rest = next
	}
	if rest != "" {
		r.errorf(n, "", "more than %d parts", webhookPartsMax)
	}
	return out
}

// factKeys are the keys that the webhooks and each event share.
func (r *reader) factKeys(f *webhookFact) map[string]func(node) {
	f.values = map[string]source{}
	value := func(key string) func(node) { return func(n node) { f.values[key] = r.expr(n) } }
	return map[string]func(node){
		"object":   value("object"),
		"status":   value("status"),
		"amount":   value("amount"),
		"currency": value("currency"),
		"match": func(n node) {
			r.fields(n, map[string]func(node){
				"idempotency_key": value("match.idempotency_key"),
				"vendor_id":       value("match.vendor_id"),
				"reference":       value("match.reference"),
			})
		},
		"occurred_at": func(n node) {
			f.occurred = &instant{form: timeUnix}
			r.fields(n, map[string]func(node){
				"value":  func(n node) { s := r.expr(n); f.occurred.value = &s },
				"format": func(n node) { f.occurred.form = r.oneOf(n, timeUnix, timeUnixMS, timeRFC3339) },
			})
			r.need(n, f.occurred.value != nil, "value", "for example body.created")
		},
		"fields": func(n node) {
			if f.fields = r.assignments(n); len(f.fields) > webhookFieldsMax {
				r.errorf(n, "a fact takes what its readers need", "more than %d fields", webhookFieldsMax)
			}
			for _, a := range f.fields {
				if !isWord(a.target) {
					r.at(a.at, "names are lower-case words joined by _", "%q is not a name", clip(a.target))
				}
			}
		},
		"echo": func(n node) { f.echo = r.duration(n, time.Second, echoMax) },
	}
}

func (r *reader) webhookDecl(n node) webhookDecl {
	var e webhookDecl
	known := r.factKeys(&e.webhookFact)
	known["type"] = func(n node) { e.kind = r.text(n) }
	known["when"] = func(n node) { s := r.expr(n); e.when = &s }
	known["fact"] = func(n node) { e.fact = r.word(n) }
	known["pending"] = func(n node) { e.pending = r.boolean(n) }
	known["description"] = func(n node) { r.text(n) }
	r.fields(n, known)
	r.need(n, e.kind != "", "type", "the vendor's word for the event")
	r.need(n, e.fact != "", "fact", "the fact that it is, for example payment_succeeded")
	return e
}

// compileWebhooks checks the expressions. They see body (any JSON) and headers.
func (r *reader) compileWebhooks(w *webhooks) (*Webhooks, error) {
	if w == nil {
		return nil, nil
	}
	scope, err := newScope(map[string]*typ{"body": {}}, map[string]*typ{"headers": answerVars["headers"]}, nil)
	if err != nil {
		return nil, err
	}
	compile := func(s *source) *program {
		if s == nil {
			return nil
		}
		return r.compile(scope, *s)
	}
	text := func(s *source, what string) *program {
		p := compile(s)
		r.wants(p, "text", what)
		return p
	}
	out := w.Webhooks
	if out.time.value != nil {
		out.time.prg = text(out.time.value, "timestamp")
	}
	out.kind = text(w.kind, "type")
	for i := range w.id {
		out.id = append(out.id, text(&w.id[i], "id"))
	}
	for i := range w.events {
		d := &w.events[i]
		e := &webhookEvent{kind: d.kind, fact: d.fact, pending: d.pending, when: compile(d.when), values: map[string]*program{}, echo: d.echo}
		if e.when != nil {
			r.wants(e.when, "condition", "when")
		}
		for _, key := range []string{"object", "status", "amount", "currency", "match.idempotency_key", "match.vendor_id", "match.reference"} {
			if s, ok := d.value(&w.common, key); ok {
				e.values[key] = text(&s, key)
			}
		}
		if e.echo == 0 {
			e.echo = w.common.echo
		}
		if m := d.occurred; m != nil || w.common.occurred != nil {
			if m == nil {
				m = w.common.occurred
			}
			e.occurred = &instant{form: m.form, prg: text(m.value, "occurred_at")}
		}
		fields := d.fields
		if fields == nil {
			fields = w.common.fields
		}
		for i := range fields {
			e.fields = append(e.fields, namedProgram{fields[i].target, text(&fields[i].value, fields[i].target)})
		}
		out.events = append(out.events, e)
	}
	return &out, nil
}

// Time is when a call was made, by its own word, and the time as it stands in its header. Zero without an error: the
// profile knows no time of calls. The error is an *[UnreadableError].
func (w *Webhooks) Time(h http.Header, body []byte) (at time.Time, raw string, err error) {
	switch {
	case w.time.header.Name != "":
		found := w.time.header.Find(h, 2)
		if len(found) != 1 {
			return time.Time{}, "", &UnreadableError{"timestamp", fmt.Sprintf("is there %d times in header %s, want once", len(found), w.time.header.Name)}
		}
		at, ok := parseMoment(found[0], w.time.form)
		if !ok {
			return time.Time{}, found[0], &UnreadableError{"timestamp", "is not written as " + w.time.form}
		}
		return at, found[0], nil
	case w.time.prg != nil:
		a := getActivation(nil, nil, &parsedAnswer{answer: &Answer{Header: h, Body: body}})
		defer putActivation(a)
		at, err := w.time.read(a, "timestamp")
		return at, "", err
	}
	return time.Time{}, "", nil
}

func (m *instant) read(a *activation, what string) (time.Time, error) {
	s, err := textOf(m.prg, a, what)
	if err != nil {
		return time.Time{}, err
	}
	at, ok := parseMoment(s, m.form)
	if !ok {
		return time.Time{}, &UnreadableError{what, "is not written as " + m.form}
	}
	return at, nil
}

// parseMoment reads a time between 1970 and 2262, in which nanoseconds fit.
func parseMoment(s, form string) (time.Time, bool) {
	if form == timeRFC3339 {
		t, err := time.Parse(time.RFC3339, s)
		return t.UTC(), err == nil && t.Year() >= 1970 && t.Year() < 2262
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || s[0] == '+' {
		return time.Time{}, false
	}
	t := time.UnixMilli(n).UTC()
	if form == timeUnix {
		t = time.Unix(n, 0).UTC()
	}
	return t, t.Year() >= 1970 && t.Year() < 2262
}

// textOf evaluates an expression that must give a text of 1 to 1,024 bytes, or an integer or boolean, whose text counts.
func textOf(p *program, a *activation, what string) (string, error) {
	s, err := optionalText(p, a, what)
	if err == nil && s == "" {
		err = &UnreadableError{what, "is not there"}
	}
	return s, err
}

// optionalText is "" for what is not there or null.
func optionalText(p *program, a *activation, what string) (string, error) {
	if p == nil {
		return "", nil
	}
	v, err := p.eval(a)
	if err != nil || v == nil {
		return "", nil // absent
	}
	s, ok := asText(v)
	switch {
	case !ok:
		return "", &UnreadableError{what, "is no text"}
	case len(s) > webhookTextBytesMax:
		return "", &UnreadableError{what, fmt.Sprintf("is longer than %d bytes", webhookTextBytesMax)}
	}
	return strings.ToValidUTF8(s, "\uFFFD"), nil
}

// Read reads the event of a call whose signature is good. The error is an *[UnreadableError].
func (w *Webhooks) Read(h http.Header, body []byte) (*Notice, error) {
	ans := &parsedAnswer{answer: &Answer{Header: h, Body: body}}
	a := getActivation(nil, nil, ans)
	defer putActivation(a)
	if _, ok := ans.json().(map[string]any); !ok {
		return nil, &UnreadableError{"body", "is not a JSON object"}
	}
	n := &Notice{}
	var err error
	if n.Type, err = textOf(w.kind, a, "type"); err != nil {
		return nil, err
	}
	e := w.event(n.Type, a)
	if e == nil {
		return n, nil
	}
	n.Fact, n.Pending, n.Echo = e.fact, e.pending, e.echo
	id := make([]string, len(w.id))
	for i, p := range w.id {
		if id[i], err = textOf(p, a, "id"); err != nil {
			return nil, err
		}
	}
	if n.ID = id[0]; len(id) > 1 {
		n.ID = joined(id)
	}
	if n.Object, err = textOf(e.values["object"], a, "object"); err != nil {
		return nil, err
	}
	if e.occurred != nil {
		if n.At, err = e.occurred.read(a, "occurred_at"); err != nil {
			return nil, err
		}
	}
	if p := e.values["amount"]; p != nil {
		switch v, err := p.eval(a); v := v.(type) {
		case int64:
			if err == nil {
				n.Amount = &v
			}
		case nil:
		default:
			return nil, &UnreadableError{"amount", "is no integer"}
		}
	}
	errs := make([]error, 0, 4)
	optional := func(key string) string {
		s, err := optionalText(e.values[key], a, key)
		errs = append(errs, err)
		return s
	}
	n.Status, n.Currency = optional("status"), optional("currency")
	n.IdempotencyKey, n.VendorID, n.Reference = optional("match.idempotency_key"), optional("match.vendor_id"), optional("match.reference")
	for _, f := range e.fields {
		s, err := optionalText(f.value, a, f.name)
		errs = append(errs, err)
		if s != "" {
			if n.Fields == nil {
				n.Fields = make(map[string]string, len(e.fields))
			}
			n.Fields[f.name] = s
		}
	}
	return n, errors.Join(errs...)
}

// event is the first declared event of the type whose condition holds; one that cannot be evaluated does not.
func (w *Webhooks) event(kind string, a *activation) *webhookEvent {
	for _, e := range w.events {
		if e.kind != kind {
			continue
		}
		if e.when != nil {
			if holds, err := e.when.holds(a); err != nil || !holds {
				continue
			}
		}
		return e
	}
	return nil
}

// joined makes one text of several that no other texts make.
func joined(parts []string) string {
	var b strings.Builder
	for _, p := range parts {
		fmt.Fprintf(&b, "%d:%s", len(p), p)
	}
	return b.String()
}
