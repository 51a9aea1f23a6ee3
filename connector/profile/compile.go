package profile

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/common/types"

	"github.com/weirsync/weir/schema"
)

// Options is what a connector adds to a profile.
type Options struct {
	// Connector is the connector's name, which is its uid in idempotency keys: another one gives other keys.
	Connector string
	// Environment names one of the profile's environments. It may be "" if the profile has one only, or if
	// BaseURL is set.
	Environment string
	// BaseURL is used in the place of the environment's, if it is not "".
	BaseURL string
	// Vars are config values for the variables that the profile declares. One that it does not is an error.
	Vars map[string]string
	// LimitScale multiplies all limits, for tests (design section 17). 0 means 1.
	LimitScale float64
	// Limits are the config's own numbers for limits that the profile declares, by name. One that it does not is an
	// error.
	Limits map[string]LimitChange
	// Schemas is what the mappings are checked against: the current version of each entity.
	Schemas *schema.Set
	// Secrets names the secrets that the connector configures. A profile that knows several ways to log in uses the
	// first for which all are there.
	Secrets []string
	// RequestTimeout is the connector's own bound of a request, which the sender keeps beside an operation's. It counts
	// where late_apply is left to its default. 0: none.
	RequestTimeout time.Duration
}

// Compiled is a profile that is ready to map events. It is read only and safe for concurrent use.
type Compiled struct {
	Vendor      string
	Connector   string
	Environment string
	BaseURL     string // without a slash at its end
	// Version is the mapping version (design section 6): the first 16 bytes of the SHA-256 of Text, in
	// hexadecimal. It changes with the profile's text, with the current schema of an entity that it maps and with
	// each config value that a mapping reads, and with nothing else.
	Version string
	// Text rebuilds this very mapping with [CompileText], also when profile, schemas and config have moved on. It
	// holds no secret and no event.
	Text       []byte
	Routes     []*Route
	Operations map[string]*Operation
	Limits     []*Limit
	// Credential is the request that tells whether the credential works, nil if the vendor has none.
	Credential *Check
	// Health is the request that tells whether the vendor is up, nil if it has none.
	Health *Check
	// Secrets are the names of the secrets without which no request can be authorized, OptionalSecrets those
	// that are used if they are configured.
	Secrets         []string
	OptionalSecrets []string
	// Webhooks is how the vendor calls back, nil if it does not. Its secrets are not among Secrets.
	Webhooks *Webhooks

	auth     auth
	prefixes []secretPrefixes
	byEntity map[string][]*Route
}

// RoutesFor lists the routes of an entity type, none if the profile does not mention it.
func (c *Compiled) RoutesFor(entity string) []*Route { return c.byEntity[entity] }

// An Operation is one request that the vendor offers.
type Operation struct {
	Name   string
	Method string
	Path   string // template, with {parameters}
	Class  Class
	// KeyRetention is how long the vendor recognises a key, 0 for ever. After it, class key counts as none.
	KeyRetention time.Duration
	// KeyScoped: the vendor recognises a key only under the credential that the first request carried. With another
	// one, class key counts as none.
	KeyScoped bool
	// LateApply is how long a request whose answer was lost may still be carried out. At least 0.
	LateApply time.Duration
	// Timeout bounds one request with its answer.
	Timeout time.Duration
	// FirstRetry is the mean of the first backoff.
	FirstRetry time.Duration
	// Deadline is how long an accepted-pending request may wait for its confirmation, 0 if that never happens.
	Deadline time.Duration
	// Ends are the vendor ids that the operation ends: once it is done they are forgotten together with the
	// fingerprint, and the next generation opens (design section 6).
	Ends []string
	// Limits are the quotas that a request counts against. They are shared with other operations.
	Limits []*Limit
	// Batch is the form that takes several records at once, nil if there is none.
	Batch *Batch
	// Read: it changes nothing at the vendor. Its class is overwrite.
	Read bool
	// Probe tells whether a request whose answer was lost had its effect, nil if nothing does.
	Probe *Probe
	// Price is what the vendor charges, nil if nothing is known.
	Price *Price

	headers []headerValue
	rules   []compiledRule
	decl    *operation
}

// A Price is what one request costs.
type Price struct {
	Micros   int64  // millionths of the currency's unit, at least 0
	Currency string // ISO 4217
}

type headerValue struct {
	name  string
	value []string // capacity 1, so that a caller's Add cannot write into it
}

// LimitKind is the kind of a quota.
type LimitKind string

// The kinds of quotas.
const (
	SlidingWindow LimitKind = "sliding_window" // at most N in any Window
	TokenBucket   LimitKind = "token_bucket"   // N per Window on average, Burst at once
	CalendarMonth LimitKind = "calendar_month" // at most N from the first to the last day of a month, in UTC
	Concurrency   LimitKind = "concurrency"    // at most N under way at once
)

// A Limit is a quota that the vendor declares.
type Limit struct {
	Name   string
	Kind   LimitKind
	N      int // requests per Window, already scaled, at least 1
	Window time.Duration
	Burst  int    // of a token bucket, already scaled, at least 1
	Scope  string // what shares it: account (all credentials of it) or credential
	// Names of the answer headers that tell about it, "" for the usual names.
	LimitHeader     string
	RemainingHeader string
	ResetHeader     string

	n, burst byVar[int] // as declared
}

// A LimitChange is a connector's own numbers for a declared limit, such as those of another tier. Zero fields keep
// what the profile says. Bounds: N and Burst up to 10^9, Window from 1 s to 744 h.
type LimitChange struct {
	N      int
	Window time.Duration
	Burst  int // of a token bucket
}

// A Check is a request that has no effect and tells about the credential or the vendor.
type Check struct {
	Name    string
	Method  string
	Path    string // relative to the base URL
	Timeout time.Duration
	Auth    bool // it carries the credential

	good, bad []statuses
}

// A CheckResult is what the answer to a check means.
type CheckResult string

// The results of checks.
const (
	CheckGood    CheckResult = "good"
	CheckBad     CheckResult = "bad"
	CheckUnknown CheckResult = "unknown" // says nothing: an outage, or a vendor without this check
)

// Judge says what an answer to the check means.
func (c *Check) Judge(status int) CheckResult {
	switch {
	case anyHas(c.good, status):
		return CheckGood
	case anyHas(c.bad, status):
		return CheckBad
	}
	return CheckUnknown
}

func anyHas(ss []statuses, status int) bool {
	return slices.ContainsFunc(ss, func(s statuses) bool { return s.has(status) })
}

// textFormat is the version of the form of [Compiled.Text]. A new build must read every old one.
const textFormat = 1

// mappingText is what a mapping depends on. Its JSON has sorted keys, so the same mapping has the same bytes.
type mappingText struct {
	Format  int                        `json:"format"`
	Vendor  string                     `json:"vendor"`
	Profile string                     `json:"profile"`
	Vars    map[string]string          `json:"vars,omitempty"`
	Schemas map[string]json.RawMessage `json:"schemas"`
}

// Compile checks the profile's expressions against the current schemas and against the declared requests, and
// makes it ready to map. Faults of the profile are [Errors] with their positions.
func (p *Profile) Compile(o Options) (*Compiled, error) {
	if o.Schemas == nil {
		return nil, fmt.Errorf("profile %s: compile: no schemas given", p.Name)
	}
	texts := map[string]json.RawMessage{}
	r := &reader{file: p.file}
	for _, t := range p.routes {
		text, ok := currentSchema(o.Schemas, t.entity)
		if !ok {
			r.at(t.entityAt, meant(t.entity, entityNames(o.Schemas)), "no schema of an entity %q", t.entity)
			continue
		}
		texts[t.entity] = text
	}
	if len(r.errs) > 0 {
		return nil, r.errs
	}
	return p.compile(o, texts)
}

// CompileText rebuilds the mapping behind [Compiled.Text]. Connector, Environment, BaseURL and LimitScale are taken
// from o; Vars and Schemas are those of the text.
func CompileText(text []byte, o Options) (*Compiled, error) {
	var m mappingText
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("mapping text: %w", err)
	}
	if m.Format != textFormat {
		return nil, fmt.Errorf("mapping text has format %d, this build reads %d; run the build that wrote it", m.Format, textFormat)
	}
	p, err := Parse(m.Vendor+".yaml", []byte(m.Profile))
	if err != nil {
		return nil, fmt.Errorf("mapping text: %w", err)
	}
	o.Vars = m.Vars
	c, err := p.compile(o, m.Schemas)
	if err != nil {
		return nil, fmt.Errorf("mapping text: %w", err)
	}
	return c, nil
}

func (p *Profile) compile(o Options, schemas map[string]json.RawMessage) (*Compiled, error) {
	c := &Compiled{Vendor: p.Name, Connector: o.Connector, Operations: map[string]*Operation{}, byEntity: map[string][]*Route{}, auth: p.chooseAuth(o.Secrets)}
	if o.Connector == "" {
		return nil, fmt.Errorf("profile %s: compile: the connector has no name", p.Name)
	}
	if err := p.chooseEnvironment(c, o); err != nil {
		return nil, err
	}
	vars, err := p.values(o.Vars)
	if err != nil {
		return nil, err
	}
	if err := p.scaledLimits(c, o, vars); err != nil {
		return nil, err
	}
	r := &reader{file: p.file}
	verdicts, err := verdictScope()
	if err != nil {
		return nil, err
	}
	common := r.rules(verdicts, p.verdicts)
	used := map[string]bool{}
	for _, l := range p.limits {
		used[l.n.name], used[l.burst.name] = true, true
	}
	for _, op := range p.operations {
		compiled := r.compileOperation(op, c.Limits, verdicts, common, vars)
		if op.lateApply < 0 { // design section 6: the request timeout
			compiled.LateApply = op.timeout
			if o.RequestTimeout > 0 {
				compiled.LateApply = min(op.timeout, o.RequestTimeout)
			}
		}
		c.Operations[op.name] = compiled
		used[op.classBy.name] = true
		if op.probe != nil {
			for _, only := range op.probe.only {
				used[only.name] = true
			}
		}
		if compiled.Probe != nil {
			c.Operations[compiled.Probe.Operation.Name] = compiled.Probe.Operation
		}
	}
	for _, t := range p.routes {
		typ, err := parseSchema(t.entity, schemas[t.entity])
		if err != nil {
			return nil, fmt.Errorf("profile %s: %w", p.Name, err)
		}
		scopes, err := newRouteScopes(typ, t, p.routes, p.vars)
		if err != nil {
			return nil, fmt.Errorf("profile %s: route %s: %w", p.Name, t.name, err)
		}
		rt, err := r.compileRoute(c, t, scopes, vars, used)
		if err != nil {
			return nil, fmt.Errorf("profile %s: route %s: %w", p.Name, t.name, err)
		}
		c.Routes = append(c.Routes, rt)
		c.byEntity[t.entity] = append(c.byEntity[t.entity], rt)
	}
	if c.Webhooks, err = r.compileWebhooks(p.webhooks); err != nil {
		return nil, err
	}
	for _, v := range p.vars {
		if !used[v.name] && len(r.errs) == 0 {
			r.at(v.at, "read it as vars."+v.name+", or remove it", "no expression reads this variable")
		}
	}
	if len(r.errs) > 0 {
		sortErrors(r.errs)
		return nil, r.errs
	}
	c.Credential, c.Health = p.credential, p.health
	p.listSecrets(c)
	m := mappingText{Format: textFormat, Vendor: p.Name, Profile: string(p.text), Vars: map[string]string{}, Schemas: schemas}
	for _, v := range p.vars {
		if s, ok := o.Vars[v.name]; ok {
			m.Vars[v.name] = s
		} else if v.def != nil {
			m.Vars[v.name] = *v.def
		}
	}
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m); err != nil {
		return nil, fmt.Errorf("profile %s: write the mapping text: %w", p.Name, err)
	}
	c.Text = text.Bytes()
	sum := sha256.Sum256(c.Text)
	c.Version = hex.EncodeToString(sum[:16])
	return c, nil
}

func (p *Profile) chooseEnvironment(c *Compiled, o Options) error {
	names := make([]string, len(p.environments))
	for i, e := range p.environments {
		names[i] = e.name
	}
	switch i := slices.Index(names, o.Environment); {
	case i >= 0:
		c.Environment, c.BaseURL, c.prefixes = names[i], p.environments[i].baseURL, p.environments[i].prefixes
	case o.Environment != "":
		return fmt.Errorf("profile %s: no environment is named %q; it has %s", p.Name, clip(o.Environment), strings.Join(names, ", "))
	case len(names) == 1:
		c.Environment, c.BaseURL, c.prefixes = names[0], p.environments[0].baseURL, p.environments[0].prefixes
	case o.BaseURL == "":
		return fmt.Errorf("profile %s: the connector names no environment; choose one of %s", p.Name, strings.Join(names, ", "))
	}
	if o.BaseURL != "" {
		if err := CheckBaseURL(o.BaseURL); err != nil {
			return fmt.Errorf("profile %s: base_url of connector %s: %w", p.Name, o.Connector, err)
		}
		c.BaseURL = o.BaseURL
	}
	c.BaseURL = strings.TrimRight(c.BaseURL, "/")
	return nil
}

// values are the variables as expressions read them.
func (p *Profile) values(given map[string]string) (map[string]any, error) {
	out := make(map[string]any, len(p.vars))
	var names []string
	var errs []error
	for i := range p.vars {
		v := &p.vars[i]
		names = append(names, v.name)
		s, ok := given[v.name]
		switch {
		case ok:
			if err := v.check(s); err != nil {
				errs = append(errs, fmt.Errorf("profile %s: vars: %w", p.Name, err))
				continue
			}
			out[v.name] = v.native(s)
		case v.def != nil:
			out[v.name] = v.native(*v.def)
		case v.optional:
			out[v.name] = nil
		default:
			errs = append(errs, fmt.Errorf("profile %s: vars: %s is missing; the profile needs it", p.Name, v.name))
		}
	}
	for _, name := range sortedKeys(given) {
		if !slices.Contains(names, name) {
			errs = append(errs, fmt.Errorf("profile %s: vars: the profile has no variable %q; %s", p.Name, clip(name), cmp.Or(meant(name, names), "it has none: remove it")))
		}
	}
	return out, errors.Join(errs...)
}

// scaledLimits are the declared limits with the connector's own numbers, scaled.
func (p *Profile) scaledLimits(c *Compiled, o Options, vars map[string]any) error {
	scale := o.LimitScale
	if scale == 0 {
		scale = 1
	}
	if !(scale > 0) || math.IsInf(scale, 0) {
		return fmt.Errorf("profile %s: limit scale %v is not a positive number", p.Name, scale)
	}
	scaled := func(n int) int { return int(max(1, min(limitMax, math.Floor(float64(n)*scale)))) }
	var names []string
	for _, l := range p.limits {
		s, own := *l, o.Limits[l.Name]
		s.N, s.Burst = l.n.of(vars), l.burst.of(vars)
		names = append(names, l.Name)
		switch {
		case own.N < 0 || own.N > limitMax || own.Burst < 0 || own.Burst > limitMax || own.Window != 0 && (own.Window < windowMin || own.Window > windowMax):
			return fmt.Errorf("profile %s: limits: %s: n and burst go up to %d, window from %v to %v", p.Name, l.Name, limitMax, windowMin, windowMax)
		case own.Burst > 0 && l.Kind != TokenBucket:
			return fmt.Errorf("profile %s: limits: %s has a burst, but the profile declares a %s, which has none; remove burst", p.Name, l.Name, l.Kind)
		case own.Window > 0 && l.Kind != SlidingWindow && l.Kind != TokenBucket:
			return fmt.Errorf("profile %s: limits: %s has a window, but the profile declares a %s, which has none of its own; remove window", p.Name, l.Name, l.Kind)
		case l.Kind == TokenBucket && own.Burst == 0 && own.N > 0 && s.Burst == s.N:
			s.Burst = own.N // a burst that nobody has set is n
		}
		s.N, s.Window, s.Burst = scaled(cmp.Or(own.N, s.N)), cmp.Or(own.Window, s.Window), cmp.Or(own.Burst, s.Burst)
		if l.Kind == TokenBucket {
			s.Burst = scaled(s.Burst)
		}
		c.Limits = append(c.Limits, &s)
	}
	for _, name := range sortedKeys(o.Limits) {
		if !slices.Contains(names, name) {
			return fmt.Errorf("profile %s: limits: the profile declares no limit %q; %s", p.Name, clip(name), cmp.Or(meant(name, names), "it declares none: remove it"))
		}
	}
	return nil
}

// limitsNamed are the limits of these names.
func limitsNamed(limits []*Limit, names []string) []*Limit {
	var out []*Limit
	for _, name := range names {
		for _, l := range limits {
			if l.Name == name {
				out = append(out, l)
			}
		}
	}
	return out
}

func (r *reader) compileOperation(declared *operation, limits []*Limit, s *scope, common []compiledRule, vars map[string]any) *Operation {
	resolved := *declared
	o := &resolved
	if o.class = o.classBy.of(vars); o.class != ClassKey {
		if o.refIn == "header" {
			o.refIn, o.refName = "", ""
		}
		o.keyIn, o.keyName, o.natural, o.retention, o.keyScoped = "", "", false, 0, false
	}
	op := &Operation{Name: o.name, Method: o.method, Path: o.path, Class: o.class, KeyRetention: o.retention, KeyScoped: o.keyScoped, LateApply: o.lateApply,
		Timeout: o.timeout, FirstRetry: o.firstRetry, Deadline: o.deadline, Ends: o.ends, Limits: limitsNamed(limits, o.limits), Read: o.read, Price: o.price, decl: o}
	op.headers = []headerValue{{"Accept", []string{"application/json"}}}
	if o.form {
		op.headers = append(op.headers, headerValue{"Content-Type", []string{"application/x-www-form-urlencoded"}})
	} else if o.body != nil {
		op.headers = append(op.headers, headerValue{"Content-Type", []string{"application/json"}})
	}
	for _, h := range o.headers {
		op.headers = slices.DeleteFunc(op.headers, func(v headerValue) bool { return v.name == h[0] })
		op.headers = append(op.headers, headerValue{h[0], []string{h[1]}})
	}
	op.rules = append(r.rules(s, o.verdicts), common...)
	r.compileBatch(o, op)
	op.Probe = r.compileProbe(o, limits, s, common, vars)
	return op
}

// wants checks the type of an expression against a declared one and says what is wrong.
func (r *reader) wants(p *program, kind, what string) {
	if p == nil {
		return
	}
	t := p.out
	if t.Kind() == types.OpaqueKind && t.TypeName() == "optional_type" && len(t.Parameters()) == 1 {
		t = t.Parameters()[0]
	}
	ok, hint := false, ""
	switch kind {
	case "string":
		ok = t.Kind() == types.StringKind
		switch t.Kind() {
		case types.IntKind, types.DoubleKind, types.BoolKind:
			hint = "string(...) makes a text of it"
		case types.TimestampKind:
			hint = "iso(...) or date(...) makes a text of it"
		}
	case "integer":
		ok = t.Kind() == types.IntKind
		if t.Kind() == types.StringKind {
			hint = "int(...) reads a text as an integer"
		}
	case "boolean":
		ok = t.Kind() == types.BoolKind
		if t.Kind() == types.StringKind {
			hint = "compare it: ... == 'true'"
		}
	case "number":
		ok = t.Kind() == types.IntKind || t.Kind() == types.DoubleKind
	case "object":
		ok = t.Kind() == types.StructKind || t.Kind() == types.MapKind || t.Kind() == types.DynKind
	case "array":
		ok = t.Kind() == types.ListKind || t.Kind() == types.DynKind
	case "text": // what is remembered is text: of a declared answer, or of one that is not declared
		ok = t.Kind() == types.StringKind || t.Kind() == types.IntKind || t.Kind() == types.BoolKind || t.Kind() == types.DynKind
		kind = "string"
	case "wait": // seconds, or what a Retry-After header may hold
		ok = t.Kind() == types.IntKind || t.Kind() == types.DoubleKind || t.Kind() == types.StringKind || t.Kind() == types.DynKind
		kind = "number"
	case "condition": // of a verdict, over an answer that is not declared
		ok = t.Kind() == types.BoolKind || t.Kind() == types.DynKind
		kind = "boolean"
	}
	if !ok {
		if t.Kind() == types.DynKind && hint == "" {
			hint = "its type is not known before it is read: convert it with string(...), int(...) or a comparison"
		}
		r.at(p.src.at, hint, "%s is %s, the expression gives %s", what, article(kind), typeName(t))
	}
}

func article(kind string) string {
	if strings.ContainsRune("aeiou", rune(kind[0])) {
		return "an " + kind
	}
	return "a " + kind
}

func typeName(t *types.Type) string {
	switch t.Kind() {
	case types.StringKind:
		return "a string"
	case types.IntKind, types.UintKind:
		return "an integer"
	case types.BoolKind:
		return "a boolean"
	case types.DoubleKind:
		return "a number"
	case types.TimestampKind:
		return "a timestamp"
	case types.NullTypeKind:
		return "null"
	case types.ListKind:
		return "a list"
	case types.MapKind, types.StructKind:
		return "an object"
	case types.DynKind:
		return "any type"
	}
	return t.String()
}

// compileRoute compiles a route. used collects the variables that it reads.
func (r *reader) compileRoute(c *Compiled, t *route, s *routeScopes, vars map[string]any, used map[string]bool) (*Route, error) {
	rt := &Route{Name: c.Vendor + "." + t.name, Entity: t.entity, Semantics: t.semantics, connector: c.Connector, vars: vars}
	expr := func(s *scope, src *source) *program {
		if src == nil {
			return nil
		}
		p := r.compile(s, *src)
		if p != nil {
			for _, v := range p.vars {
				used[v] = true
			}
		}
		return p
	}
	if t.residency != nil {
		rt.residency = expr(s.cases, t.residency)
		r.wants(rt.residency, "boolean", "residency")
	}
	if t.consent != "" {
		rt.consent = expr(s.cases, &source{at: t.consentAt, text: fmt.Sprintf(consentGiven, t.consent)})
	}
	needs := map[string]*need{}
	for _, ref := range t.references {
		n := &need{name: ref.name, entity: ref.entity, id: ref.id, key: expr(s.cases, &ref.key)}
		r.wants(n.key, "string", "the key of a reference")
		needs[ref.name] = n
	}
	steps := map[string]*Step{}
	for _, st := range t.steps {
		op := c.Operations[st.operation]
		cs := &Step{Name: st.name, Operation: op, Ends: op.Ends, route: rt, alone: len(st.ids) > 0}
		answers, err := answerScope(s.steps, op.decl.answer)
		if err != nil {
			return nil, err
		}
		r.compileStep(cs, st, s.steps, answers, expr)
		steps[st.name] = cs
	}
	for _, rc := range t.cases {
		k := &compiledCase{operation: schema.Operation(rc.operation), when: expr(s.cases, rc.when)}
		r.wants(k.when, "boolean", "a condition")
		switch {
		case rc.ignore != "":
			k.plan = &Plan{Ignore: rc.ignore, Ends: rc.ends}
			k.ids, k.fields = r.rememberedOf(rc.ids, s.cases, "a vendor id", expr), r.rememberedOf(rc.fields, s.cases, "a remembered field", expr)
		case rc.refuse != nil:
			k.plan = &Plan{Refuse: &Refusal{Reason: rc.refuse.reason, Path: rc.refuse.path, Guidance: rc.refuse.guidance}}
		default:
			k.plan = &Plan{}
			for _, name := range rc.steps {
				st := steps[name]
				k.plan.Steps = append(k.plan.Steps, st)
				for _, ref := range st.refs {
					if n := needs[ref]; !slices.Contains(k.needs, n) {
						k.needs = append(k.needs, n)
					}
				}
			}
		}
		rt.cases = append(rt.cases, k)
	}
	return rt, nil
}

func (r *reader) compileStep(cs *Step, st *step, s, answers *scope, expr func(*scope, *source) *program) {
	op := cs.Operation.decl
	reads := func(p *program) *program {
		if p != nil {
			for _, ref := range p.refs {
				if !slices.Contains(cs.refs, ref) {
					cs.refs = append(cs.refs, ref)
				}
			}
		}
		return p
	}
	if st.when != nil {
		cs.when = reads(expr(s, st.when))
		r.wants(cs.when, "boolean", "a condition")
	}
	for _, h := range st.headers {
		p := reads(expr(s, &h.value))
		r.wants(p, "string", "a header")
		if h.target == op.keyName && op.keyIn == "header" {
			r.at(h.at, "set intent in the step if it is another than the default", "the header carries the idempotency key")
		}
		cs.headers = append(cs.headers, remembered{h.target, p})
	}
	if st.intent != nil {
		cs.intent = reads(expr(s, st.intent))
		r.wants(cs.intent, "string", "an intent")
	}
	if st.reference != nil {
		if op.refIn != "body" || op.keyIn == "body" && op.refName == op.keyName {
			r.at(st.reference.at, "declare reference in operation "+op.name, "the operation has no reference of its own to set")
		}
		cs.reference = reads(expr(s, st.reference))
		r.wants(cs.reference, "string", "a reference")
	}

	segments, _ := parsePath(op.path) // checked by Parse
	var params []string
	for _, seg := range segments {
		if seg.param != "" {
			params = append(params, seg.param)
		}
	}
	for _, a := range st.params {
		if !slices.Contains(params, a.target) {
			r.at(a.at, meant(a.target, params), "the path %s has no parameter %q", op.path, clip(a.target))
			continue
		}
		p := reads(expr(s, &a.value))
		r.wants(p, "string", "a parameter of a path")
		for i := range segments {
			if segments[i].param == a.target {
				segments[i].value = p
			}
		}
	}
	for _, name := range params {
		if !slices.ContainsFunc(st.params, func(a assignment) bool { return a.target == name }) {
			r.at(st.at, "params: {"+name+": ...}", "the parameter {%s} of %s is not set", name, op.path)
		}
	}
	cs.path = segments

	values := map[string]*program{}
	for _, a := range st.mapping {
		if op.body == nil {
			r.at(a.at, "declare body in the operation", "operation %s has no body", op.name)
			return
		}
		f := op.body.find(a.target)
		switch {
		case f == nil:
			parent, leaf, known := "", a.target, op.body
			if i := strings.LastIndexByte(a.target, '.'); i >= 0 {
				parent, leaf = a.target[:i], a.target[i+1:]
				known = op.body.find(parent)
			}
			hint := ""
			if known == nil {
				first, _, _ := strings.Cut(a.target, ".")
				hint = meant(first, op.body.names())
			} else if hint = meant(leaf, known.names()); parent != "" && nearest(leaf, known.names()) != "" {
				hint = "did you mean " + parent + "." + nearest(leaf, known.names()) + "?"
			}
			r.at(a.at, hint, "operation %s has no field %q", op.name, clip(a.target))
			continue
		case op.keyIn == "body" && a.target == op.keyName:
			r.at(a.at, "set intent in the step if it is another than the default", "the field carries the idempotency key")
			continue
		case op.refIn == "body" && a.target == op.refName:
			r.at(a.at, "set reference in the step if it is another than the default", "the field carries the reference")
			continue
		case f.kind == "object" && f.fields != nil:
			r.at(a.at, "map "+a.target+"."+f.fields[0].name+" and so on", "the fields of %s are mapped one by one", a.target)
			continue
		}
		p := reads(expr(s, &a.value))
		r.wants(p, f.kind, "field "+a.target+" of "+op.name)
		if p != nil && p.constant {
			r.checkConstant(p, f, a.target)
		}
		values[a.target] = p
	}
	if op.body != nil {
		cs.body = r.encoders(op, op.body, "", values, st.at)
		cs.hasBody = true
	}

	read := func(s *scope, src *source) *program { return reads(expr(s, src)) }
	cs.ids = r.rememberedOf(st.ids, answers, "a vendor id", read)
	cs.found = r.rememberedOf(st.found, answers, "a vendor id", read)
	cs.fields = r.rememberedOf(st.fields, answers, "a remembered field", read)
	if st.vendorID != nil {
		cs.vendorID = reads(expr(answers, st.vendorID))
		r.wants(cs.vendorID, "text", "a vendor id")
	}
}

// rememberedOf compiles what is remembered.
func (r *reader) rememberedOf(in []assignment, s *scope, what string, expr func(*scope, *source) *program) []remembered {
	var out []remembered
	for _, a := range in {
		p := expr(s, &a.value)
		r.wants(p, "text", what)
		out = append(out, remembered{a.target, p})
	}
	return out
}

// checkConstant finds literals that the vendor would never take.
func (r *reader) checkConstant(p *program, f *bodyField, target string) {
	switch v := p.value.(type) {
	case nil:
		r.at(p.src.at, "leave it out of the map", "%s is always null, which means left out", target)
	case string:
		if f.enum != nil && !slices.Contains(f.enum, v) {
			r.at(p.src.at, meant(v, f.enum), "%s is never %q", target, clip(v))
		}
	case int64:
		if f.min != nil && v < *f.min || f.max != nil && v > *f.max {
			r.at(p.src.at, "", "%s is out of its range", target)
		}
	}
}

// encoders are the fields of an object that the step sets, in declared order.
func (r *reader) encoders(op *operation, f *bodyField, prefix string, values map[string]*program, at pos) []*encoder {
	var out []*encoder
	for _, c := range f.fields {
		path := join(prefix, c.name)
		e := &encoder{name: c.name, kind: c.kind, path: path, required: c.required, nullable: c.nullable, enum: c.enum, min: c.min, max: c.max}
		e.key = append(appendString(nil, c.name), ':')
		switch {
		case op.keyIn == "body" && path == op.keyName:
			e.set = setByKey
		case op.refIn == "body" && path == op.refName:
			e.set = setByRef
		case c.kind == "object" && c.fields != nil:
			e.fields = r.encoders(op, c, path, values, at)
			if e.fields == nil {
				if c.required {
					r.at(at, "", "the step sets nothing of %s, which operation %s requires", path, op.name)
				}
				continue
			}
			// Fields of an optional object are required once it is there; then mapping them decides.
		default:
			p, mapped := values[path]
			if !mapped {
				if c.required && !(prefix != "" && !someMapped(values, prefix)) {
					r.at(at, "map: {"+path+": ...}", "the step does not set %s, which operation %s requires", path, op.name)
				}
				continue
			}
			if e.value = p; p == nil {
				continue // its error is reported
			}
		}
		out = append(out, e)
	}
	return out
}

func someMapped(values map[string]*program, prefix string) bool {
	for path := range values {
		if strings.HasPrefix(path, prefix+".") {
			return true
		}
	}
	return false
}

// A segment is a part of a path: text as it stands, or a parameter.
type segment struct {
	text  string
	param string
	query bool
	value *program
}

// parsePath splits a path at its {parameters}.
func parsePath(path string) ([]segment, error) {
	var out []segment
	query := false
	for rest := path; rest != ""; {
		text, after, found := strings.Cut(rest, "{")
		if strings.Contains(text, "}") {
			return nil, fmt.Errorf("the path %s has a } without {", path)
		}
		query = query || strings.Contains(text, "?")
		if text != "" {
			out = append(out, segment{text: text})
		}
		if !found {
			break
		}
		name, tail, closed := strings.Cut(after, "}")
		if !closed || !isWord(name) {
			return nil, fmt.Errorf("the path %s has a parameter that is no {name}", path)
		}
		if slices.ContainsFunc(out, func(s segment) bool { return s.param == name }) {
			return nil, fmt.Errorf("the path %s has the parameter {%s} twice", path, name)
		}
		out = append(out, segment{param: name, query: query})
		rest = tail
	}
	return out, nil
}

// URL is the absolute address of a built request or a check.
func (c *Compiled) URL(path string) string { return c.BaseURL + path }

// escape writes a parameter's value so that it stays one segment of the path, or one value of the query.
func (s *segment) escape(v string) string {
	if s.query {
		return url.QueryEscape(v)
	}
	return url.PathEscape(v)
}
