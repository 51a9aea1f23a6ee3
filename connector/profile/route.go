package profile

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/weirsync/weir/schema"
)

// A Route says what the events of one entity type mean to the vendor. It is read only and safe for concurrent use.
type Route struct {
	Name      string // "pushcash.invoice": vendor and route
	Entity    string
	Semantics Semantics

	connector string
	vars      map[string]any
	residency *program // nil: anywhere
	consent   *program // nil: none is asked for
	cases     []*compiledCase
}

// consentGiven is the condition of requires_consent, for one purpose: granted, and not revoked, when the event happened.
// There is no other clock in a mapping.
const consentGiven = "event.consents.exists(c, c.purpose == '%s' && c.granted_at <= event.occurred_at && (c.revoked_at == null || c.revoked_at > event.occurred_at))"

// Reasons of outcome ignored that come from the route itself.
const (
	reasonResidency = "residency"
	reasonNoConsent = "no_consent"
)

type compiledCase struct {
	operation schema.Operation // "" for both
	when      *program         // nil: always
	plan      *Plan            // without Needs and Leaves
	needs     []*need
	ids       []remembered // of an ignored event
	fields    []remembered
}

type need struct {
	name, entity, id string
	key              *program
}

// A Step is one request of a plan. It is read only and safe for concurrent use.
type Step struct {
	Name      string
	Operation *Operation
	// Ends are the vendor ids that are forgotten when the step is done, with the fingerprint; the generation
	// after it is the next one.
	Ends []string

	route     *Route
	when      *program // nil: always
	headers   []remembered
	intent    *program // nil: the default
	alone     bool     // the default intent is the entity id without a version
	reference *program // nil: the default
	path      []segment
	body      []*encoder
	hasBody   bool
	ids       []remembered
	found     []remembered
	fields    []remembered
	vendorID  *program
	refs      []string
}

// remembered is a vendor id or a field that an answer leaves.
type remembered struct {
	name  string
	value *program
}

// Plan says what an event means to the vendor: it takes the first case whose operation and condition hold. It
// needs no resolved references. An event that the mapping cannot read gives a plan with a refusal; an error is
// ours or the profile's, never the event's. Plans may be shared: they are read only.
func (r *Route) Plan(in *Input) (*Plan, error) {
	if in == nil || in.Event == nil {
		return nil, fmt.Errorf("plan of route %s: no event given", r.Name)
	}
	if in.Event.Entity != r.Entity {
		return nil, fmt.Errorf("plan of route %s: the event is of a %s, the route of a %s", r.Name, in.Event.Entity, r.Entity)
	}
	a := getActivation(in, r.vars, nil)
	defer putActivation(a)
	// What must not reach the vendor at all comes before the mapping. A delete may always go: it takes data away.
	if in.Event.Operation == schema.Upsert {
		for _, g := range [...]struct {
			allowed *program
			reason  string
		}{{r.residency, reasonResidency}, {r.consent, reasonNoConsent}} {
			if g.allowed == nil {
				continue
			}
			ok, err := g.allowed.holds(a)
			if err != nil {
				return refusalPlan(g.allowed.refuse(a, "the condition "+g.reason, err))
			}
			if !ok {
				return &Plan{Ignore: g.reason}, nil
			}
		}
	}
	for _, c := range r.cases {
		if c.operation != "" && c.operation != in.Event.Operation {
			continue
		}
		if c.when != nil {
			holds, err := c.when.holds(a)
			if err != nil {
				return refusalPlan(c.when.refuse(a, "the case at "+c.when.src.at.path, err))
			}
			if !holds {
				continue
			}
		}
		if c.ids != nil || c.fields != nil {
			p := *c.plan
			p.Leaves = &Result{}
			if err := leave(&p.Leaves.IDs, c.ids, a); err != nil {
				return refusalPlan(err)
			}
			if err := leave(&p.Leaves.Remembered, c.fields, a); err != nil {
				return refusalPlan(err)
			}
			return &p, nil
		}
		if len(c.needs) == 0 {
			return c.plan, nil
		}
		p := *c.plan
		p.Needs = make([]Need, 0, len(c.needs))
		for _, n := range c.needs {
			v, err := n.key.eval(a)
			if err != nil {
				return refusalPlan(n.key.refuse(a, "the reference "+n.name, err))
			}
			key, _ := v.(string)
			if key == "" {
				return refusalPlan(n.key.refuse(a, "the reference "+n.name, &errAbsent{n.name}))
			}
			p.Needs = append(p.Needs, Need{Name: n.name, Entity: n.entity, Key: key, ID: n.id})
		}
		return &p, nil
	}
	// Parse demands a last case without a condition, so this is an operation that is neither upsert nor delete.
	return nil, fmt.Errorf("plan of route %s: no case for operation %q", r.Name, in.Event.Operation)
}

// leave evaluates what an event leaves to remember; what has no value is to be forgotten.
func leave(to *map[string]string, what []remembered, a *activation) error {
	for _, m := range what {
		v, err := m.value.eval(a)
		if err != nil {
			return m.value.refuse(a, "what is remembered as "+m.name, err)
		}
		t, _ := asText(v)
		if *to == nil {
			*to = make(map[string]string, len(what))
		}
		(*to)[m.name] = t
	}
	return nil
}

func refusalPlan(err error) (*Plan, error) {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return &Plan{Refuse: r}, nil
	}
	return nil, err
}

// Generation is the generation of the plan's step i when the entity's is current: a step that ends a vendor id
// opens the next one for those after it (design section 6).
func (p *Plan) Generation(i int, current uint32) uint32 {
	for _, s := range p.Steps[:i] {
		if len(s.Ends) > 0 {
			current++
		}
	}
	return current
}

// Skip reports whether the step is not needed, by its own condition on the event and on what the steps before it have
// left. The errors are those of [Step.Build].
func (s *Step) Skip(in *Input) (bool, error) {
	if s.when == nil {
		return false, nil
	}
	a := getActivation(in, s.route.vars, nil)
	defer putActivation(a)
	ok, err := s.when.holds(a)
	if err != nil {
		return false, s.wrap(s.when.refuse(a, "the condition of step "+s.Name, err))
	}
	return !ok, nil
}

// standIn is an id that means nothing, for requests that are built and not sent.
const standIn = "unresolved"

// StandIn is the input of step i before the steps in front of it are done: what they will leave has stand-ins, so that
// the request can be built to see whether it fits. It is in itself if nothing is open.
func StandIn(steps []*Step, i int, in *Input) *Input {
	out := in
	open := func(to *map[string]string, from []remembered) {
		for _, m := range from {
			if (*to)[m.name] != "" {
				continue
			}
			c := make(map[string]string, len(*to)+1)
			maps.Copy(c, *to)
			c[m.name] = standIn
			*to = c
		}
	}
	for _, s := range steps[:i] {
		if len(s.ids)+len(s.found)+len(s.fields) == 0 {
			continue
		}
		if out == in {
			c := *in
			out = &c
		}
		open(&out.IDs, s.ids)
		open(&out.IDs, s.found)
		open(&out.Remembered, s.fields)
	}
	return out
}

// notTheEvent is err, or what is behind it, where the event cannot be to blame: a reference that was not
// resolved, or an evaluation that was cut off.
func notTheEvent(err error) error {
	if u, ok := errors.AsType[*errUnresolved](err); ok {
		return u
	}
	return nil
}

var activations = sync.Pool{New: func() any { return new(activation) }}

func getActivation(in *Input, vars map[string]any, ans *parsedAnswer) *activation {
	a := activations.Get().(*activation)
	a.in, a.vars, a.ans = in, vars, ans
	return a
}

func putActivation(a *activation) {
	*a = activation{}
	activations.Put(a)
}

// bodies are scratch buffers; a finished body is copied out at its exact size.
var bodies = sync.Pool{New: func() any { return &buffer{b: make([]byte, 0, 2048)} }}

// bodyScratchMax is the largest buffer that is kept for reuse.
const bodyScratchMax = 64 << 10

// Build makes the step's request. The same input and generation give the same bytes, always. The error is a
// *[Refusal] if the event does not fit the vendor, else it is ours or the profile's: a reference in step's
// expressions that in does not hold, for example.
func (s *Step) Build(in *Input, generation uint32) (*Request, error) {
	op := s.Operation
	a := getActivation(in, s.route.vars, nil)
	defer putActivation(a)
	req := &Request{Operation: op, Step: s.Name, Method: op.Method, Entity: a.in.Event.Key}

	buf := bodies.Get().(*buffer)
	defer func() {
		if cap(buf.b) <= bodyScratchMax {
			bodies.Put(buf)
		}
	}()
	*buf = buffer{b: buf.b[:0]}

	if op.Class == ClassKey {
		intent, err := s.intentOf(a)
		if err != nil {
			return nil, s.wrap(err)
		}
		if op.decl.natural {
			req.IdempotencyKey = intent
		} else {
			req.IdempotencyKey = Key(s.route.connector, s.route.Name, s.Name, intent, generation)
		}
		buf.key, buf.naturalID = req.IdempotencyKey, op.decl.natural
	}
	if op.decl.refIn != "" {
		if op.decl.refName == op.decl.keyName && op.decl.refIn == op.decl.keyIn {
			req.Reference = req.IdempotencyKey
		} else {
			ref, err := s.referenceOf(a)
			if err != nil {
				return nil, s.wrap(err)
			}
			req.Reference = ref
		}
		buf.reference = req.Reference
	}
	err := s.writePath(req, a)
	if err != nil {
		return nil, s.wrap(err)
	}

	// The fingerprint covers method, path and body, without a generated key: another generation of the same
	// content is the same content.
	buf.b = append(buf.b, req.Method...)
	buf.b = append(buf.b, '\n')
	buf.b = append(buf.b, req.Path...)
	buf.b = append(buf.b, '\n')
	head := len(buf.b)
	if s.hasBody {
		buf.b = append(buf.b, '{')
		if _, err := writeFields(s.body, buf, a); err != nil {
			return nil, s.wrap(err)
		}
		buf.b = append(buf.b, '}')
		req.Body = slices.Clone(buf.b[head:])
	}
	if op.decl.form {
		if req.Body, err = formOf(req.Body); err != nil {
			return nil, s.wrap(err)
		}
	}
	hashed := buf.b
	if buf.skipTo > buf.skipFrom {
		hashed = append(hashed[:buf.skipFrom], hashed[buf.skipTo:]...)
	}
	sum := sha256.Sum256(hashed)
	var text [2 * sha256.Size]byte
	hex.Encode(text[:], sum[:])
	req.Fingerprint = string(text[:])

	req.Header = make(http.Header, len(op.headers)+1)
	for _, h := range op.headers {
		req.Header[h.name] = h.value
	}
	if op.decl.keyIn == "header" {
		req.Header[op.decl.keyName] = []string{req.IdempotencyKey}
	}
	for _, h := range s.headers {
		v, err := h.value.eval(a)
		if err != nil {
			return nil, s.wrap(h.value.refuse(a, "the header "+h.name, err))
		}
		if t, _ := v.(string); t != "" && !strings.ContainsFunc(t, unicode.IsControl) {
			req.Header[h.name] = []string{t}
		}
	}
	return req, nil
}

// wrap adds where an error of ours arose; a refusal stays as it is.
func (s *Step) wrap(err error) error {
	if r, ok := errors.AsType[*Refusal](err); ok {
		return r
	}
	return fmt.Errorf("build step %s of route %s: %w", s.Name, s.route.Name, err)
}

// intentOf is the declared intent, else entity id and revision, or the entity id alone where the step's vendor
// id is remembered (design section 6).
func (s *Step) intentOf(a *activation) (string, error) {
	if s.intent == nil {
		if s.alone {
			return a.in.Event.Key, nil
		}
		return a.in.Event.Key + "." + revision(a.in.Event), nil
	}
	return s.textOf(s.intent, a, "the intent of step "+s.Name)
}

func (s *Step) referenceOf(a *activation) (string, error) {
	if s.reference == nil {
		return a.in.Event.Key + "." + revision(a.in.Event), nil
	}
	return s.textOf(s.reference, a, "the reference of step "+s.Name)
}

// textOf is the value of an expression that must give a text with something in it.
func (s *Step) textOf(p *program, a *activation, what string) (string, error) {
	v, err := p.eval(a)
	if err != nil {
		return "", p.refuse(a, what, err)
	}
	t, _ := v.(string)
	if t == "" {
		return "", p.refuse(a, what, &errAbsent{what})
	}
	return t, nil
}

func (s *Step) writePath(req *Request, a *activation) error {
	if len(s.path) == 1 && s.path[0].param == "" {
		req.Path = s.path[0].text
		return nil
	}
	for i := range s.path {
		seg := &s.path[i]
		if seg.param == "" {
			req.Path += seg.text
			continue
		}
		v, err := s.textOf(seg.value, a, "the parameter "+seg.param+" of the path")
		if err != nil {
			return err
		}
		if !seg.query && (v == "." || v == "..") {
			// Servers resolve dot segments, escaped or not: the request would reach another resource.
			return &Refusal{Reason: "invalid_id", Path: seg.value.blame(a.in.Event), Guidance: "an id of dots alone cannot stand in a path"}
		}
		req.Path += seg.escape(v)
	}
	return nil
}

// Rehearsed is what the step would leave if its request were accepted, without an answer: what can be told from the event
// alone as it is, the other ids with stand-ins. A read finds nothing.
func (s *Step) Rehearsed(in *Input) *Result {
	res := &Result{IDs: map[string]string{}, Remembered: map[string]string{}}
	a := getActivation(in, s.route.vars, &parsedAnswer{answer: &Answer{Status: http.StatusOK, Body: []byte("{}")}})
	defer putActivation(a)
	for _, m := range s.ids {
		res.IDs[m.name] = standIn
		if v, err := m.value.eval(a); err == nil {
			if id, ok := asText(v); ok && id != "" {
				res.IDs[m.name] = id
			}
		}
	}
	for _, m := range s.found {
		res.IDs[m.name] = ""
		if v, err := m.value.eval(a); err == nil {
			res.IDs[m.name], _ = asText(v)
		}
	}
	for _, m := range s.fields {
		if v, err := m.value.eval(a); err == nil {
			if t, ok := asText(v); ok {
				res.Remembered[m.name] = t
			}
		}
	}
	return res
}

// Result reads what an accepted answer leaves to remember. A declared vendor id that the answer lacks is an
// error: without it the entity could never be addressed again. Remembered fields may be missing. No error holds
// a value of the answer.
func (s *Step) Result(in *Input, ans *Answer) (*Result, error) {
	res := &Result{}
	if len(s.ids) == 0 && len(s.found) == 0 && len(s.fields) == 0 && s.vendorID == nil {
		return res, nil
	}
	a := getActivation(in, s.route.vars, &parsedAnswer{answer: ans})
	defer putActivation(a)
	for _, m := range s.ids {
		v, err := m.value.eval(a)
		if our := notTheEvent(err); our != nil {
			return nil, fmt.Errorf("read the answer of step %s of route %s: %w", s.Name, s.route.Name, our)
		}
		id, ok := asText(v)
		if err != nil || !ok || id == "" {
			return nil, fmt.Errorf("read the answer of step %s of route %s: status %d says accepted, but %s, which should hold %s, is not there; "+
				"find the object at the vendor, and run weir vendor check to see whether the API has changed", s.Name, s.route.Name, ans.Status, m.value.src.text, m.name)
		}
		if res.IDs == nil {
			res.IDs = make(map[string]string, len(s.ids))
		}
		res.IDs[m.name] = id
		if len(s.ids) == 1 {
			res.VendorID = id
		}
	}
	for _, m := range s.found {
		v, err := m.value.eval(a)
		if our := notTheEvent(err); our != nil {
			return nil, fmt.Errorf("read the answer of step %s of route %s: %w", s.Name, s.route.Name, our)
		}
		if res.IDs == nil {
			res.IDs = make(map[string]string, len(s.found))
		}
		id, _ := asText(v)
		if err != nil {
			id = ""
		}
		res.IDs[m.name] = id
	}
	for _, m := range s.fields {
		v, err := m.value.eval(a)
		if t, ok := asText(v); err == nil && ok {
			if res.Remembered == nil {
				res.Remembered = make(map[string]string, len(s.fields))
			}
			res.Remembered[m.name] = t
		}
	}
	if s.vendorID != nil {
		if v, err := s.vendorID.eval(a); err == nil {
			if t, ok := asText(v); ok {
				res.VendorID = t
			}
		}
	}
	return res, nil
}

// asText is the text of a scalar; false for null and for what is no scalar.
func asText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case int64:
		return strconv.FormatInt(v, 10), true
	case bool:
		return strconv.FormatBool(v), true
	}
	return "", false
}

// A Column says which event fields feed one field of a request: the mapping itself, read as lineage.
type Column struct {
	Route     string
	Step      string
	Operation string
	Field     string   // dotted path in the body, {name} for a parameter of the path; "" for what decides whether a step is taken
	Sources   []string // dotted paths of the event, "*" for the whole of it; references as ref.<name>
	// Copy: the value is the source's as it is; else Expression makes it.
	Copy       bool
	Expression string
}

// Conditions lists, for each step, what decides whether it is taken: residency and consent of the route, the conditions of
// the cases up to its own, and its own condition.
func (r *Route) Conditions() []Column {
	var out []Column
	var before []*program
	for _, p := range []*program{r.residency, r.consent} {
		if p != nil {
			before = append(before, p)
		}
	}
	var seen []*Step
	for _, c := range r.cases {
		if c.when != nil {
			before = append(before, c.when)
		}
		for _, s := range c.plan.Steps {
			if slices.Contains(seen, s) {
				continue
			}
			seen = append(seen, s)
			col := Column{Route: r.Name, Step: s.Name, Operation: s.Operation.Name}
			var texts []string
			for _, p := range append(slices.Clone(before), s.when) {
				if p == nil {
					continue
				}
				texts = append(texts, p.src.text)
				for _, f := range p.events {
					if !slices.Contains(col.Sources, f) {
						col.Sources = append(col.Sources, f)
					}
				}
			}
			col.Expression = strings.Join(texts, "; ")
			out = append(out, col)
		}
	}
	return out
}

// References are the event's fields by which each reference of the route finds its entity, by the reference's name.
func (r *Route) References() map[string][]string {
	out := map[string][]string{}
	for _, c := range r.cases {
		for _, n := range c.needs {
			out[n.name] = slices.Clone(n.key.events)
		}
	}
	return out
}

// Columns lists the column-level lineage of the route, in the order of steps and fields.
func (r *Route) Columns() []Column {
	var out []Column
	var seen []*Step
	for _, c := range r.cases {
		for _, s := range c.plan.Steps {
			if slices.Contains(seen, s) {
				continue
			}
			seen = append(seen, s)
			add := func(field string, p *program) {
				if p == nil {
					return
				}
				src := slices.Clone(p.events)
				for _, ref := range p.refs {
					src = append(src, "ref."+ref)
				}
				out = append(out, Column{Route: r.Name, Step: s.Name, Operation: s.Operation.Name, Field: field, Sources: src, Copy: p.fast != nil, Expression: p.src.text})
			}
			for _, seg := range s.path {
				if seg.param != "" {
					add("{"+seg.param+"}", seg.value)
				}
			}
			var walk func(es []*encoder)
			walk = func(es []*encoder) {
				for _, e := range es {
					add(e.path, e.value)
					walk(e.fields)
				}
			}
			walk(s.body)
		}
	}
	return out
}
