package profile

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

//go:embed pushcash.yaml plain.yaml finfusion.yaml
var embedded embed.FS

//go:embed testdata/contract
var contracts embed.FS

// Embedded lists the names of the built-in profiles.
func Embedded() []string { return []string{"finfusion", "plain", "pushcash"} }

// Bounds of numbers in a profile. They catch a forgotten unit, not a real vendor.
const (
	timeoutMin   = 100 * time.Millisecond
	timeoutMax   = 5 * time.Minute
	retryMin     = time.Millisecond
	retryMax     = time.Hour
	windowMin    = time.Second
	windowMax    = 31 * 24 * time.Hour
	retentionMin = time.Second
	retentionMax = 10 * 365 * 24 * time.Hour
	deadlineMax  = 31 * 24 * time.Hour
	limitMax     = 1_000_000_000

	timeoutDefault    = 30 * time.Second
	firstRetryDefault = 100 * time.Millisecond // design section 6: 50-100 ms unless the profile says otherwise
	checkTimeout      = 10 * time.Second
	reasonMax         = 256
)

// A Profile is one vendor's file, read and checked for itself. It becomes usable with [Profile.Compile], which
// checks it against the schemas. It is not changed after Parse and safe for concurrent use.
type Profile struct {
	Name        string // of the vendor: first part of route names
	Revision    string // the file's own version text, for people
	Description string

	file         string
	builtIn      bool
	contract     string // folder of the file's contract, as the file names it
	text         []byte
	environments []environment
	auths        []auth // alternatives: the first whose secrets are configured counts
	credential   *Check
	health       *Check
	limits       []*Limit
	vars         []variable
	operations   []*operation
	routes       []*route
	verdicts     []rule
	webhooks     *webhooks
	tests        []*Test
}

type environment struct {
	name     string
	baseURL  string
	prefixes []secretPrefixes
}

// A variable is a config value that mappings read as vars.<name>.
type variable struct {
	name     string
	at       pos
	kind     string // string, integer, boolean
	enum     []string
	def      *string
	optional bool
}

type operation struct {
	name         string
	at           pos
	method, path string
	pathAt       pos
	class        Class // resolved by compile
	classBy      byVar[Class]
	read         bool // GET or HEAD: it changes nothing
	form         bool // the body is a form, not JSON
	price        *Price
	probe        *probe
	keyIn        string // header, body
	keyName      string
	natural      bool
	retention    time.Duration
	keyScoped    bool          // the vendor looks a key up under the credential that it came with
	lateApply    time.Duration // negative: not said
	timeout      time.Duration
	firstRetry   time.Duration
	deadline     time.Duration
	limits       []string
	limitsAt     pos
	ends         []string
	refIn        string // header, body
	refName      string
	headers      [][2]string
	body         *bodyField // nil: no body
	answer       *bodyField // nil: not declared
	batch        *batchDecl // nil: one record a request
	verdicts     []rule
}

// A bodyField is one declared field of a request or an answer.
type bodyField struct {
	name     string
	at       pos
	kind     string // string, integer, number, boolean, object, array
	required bool
	nullable bool // null is written, not left out
	enum     []string
	min, max *int64 // of an integer's value or a string's length in characters
	fields   []*bodyField
}

func (f *bodyField) field(name string) *bodyField {
	for _, c := range f.fields {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (f *bodyField) names() []string {
	out := make([]string, len(f.fields))
	for i, c := range f.fields {
		out[i] = c.name
	}
	return out
}

// find follows a dotted path; nil if there is no such field.
func (f *bodyField) find(path string) *bodyField {
	for part := range strings.SplitSeq(path, ".") {
		if f = f.field(part); f == nil {
			return nil
		}
	}
	return f
}

// statuses is an inclusive range of HTTP statuses.
type statuses struct{ lo, hi int }

func (s statuses) has(status int) bool { return s.lo <= status && status <= s.hi }

// A rule is one line of a verdict table.
type rule struct {
	at       pos
	status   []statuses // empty: any
	when     *source
	verdict  Verdict
	then     Verdict // of verdict conflict: what it is when reading again does not help
	reason   string
	guidance string
	noEffect bool
	wait     *source
	lowers   string
	lowersAt pos
}

type reference struct {
	name   string
	at     pos
	entity string
	key    source
	id     string
}

type refusal struct {
	reason   string
	path     string
	guidance string
}

type routeCase struct {
	at        pos
	operation string // upsert, delete, "" for both
	when      *source
	ignore    string
	ends      []string
	endsAt    pos
	ids       []assignment // of an ignored event: what it leaves to remember
	fields    []assignment
	refuse    *refusal
	steps     []string
	stepsAt   pos
}

type assignment struct {
	target string // dotted path in the body, or parameter of the path
	at     pos    // of the key
	value  source
}

type step struct {
	name      string
	at        pos
	operation string
	opAt      pos
	intent    *source
	reference *source
	params    []assignment
	when      *source
	headers   []assignment
	mapping   []assignment
	ids       []assignment
	found     []assignment // vendor ids that may be absent
	fields    []assignment
	vendorID  *source
}

type route struct {
	name       string
	at         pos
	entity     string
	entityAt   pos
	semantics  Semantics
	residency  *source
	consent    string // purpose, "" if none is asked for
	consentAt  pos
	references []reference
	steps      []*step
	cases      []*routeCase
}

// Load reads an embedded profile by its name, or a user's file by its path. A word without a dot or a slash is
// a name: a file beside the program never shadows an embedded profile by accident.
func Load(nameOrPath string) (*Profile, error) {
	if isWord(nameOrPath) {
		text, err := embedded.ReadFile(nameOrPath + ".yaml")
		if err != nil {
			hint := meant(nameOrPath, Embedded())
			return nil, fmt.Errorf("profile %q: no built-in profile has that name; %s; a file of your own is given by its path, for example ./%s.yaml", nameOrPath, hint, nameOrPath)
		}
		p, err := Parse(nameOrPath+".yaml", text)
		if err == nil {
			p.builtIn = true
		}
		return p, err
	}
	f, err := os.Open(nameOrPath)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("profile: %w; built in are %s", err, strings.Join(Embedded(), ", "))
		}
		return nil, fmt.Errorf("profile: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	} else if st.Size() > FileBytesMax {
		return nil, Errors{{File: nameOrPath, Why: fmt.Sprintf("the file has %d bytes, more than %d", st.Size(), FileBytesMax), Hint: "split it: a profile holds one vendor"}}
	}
	text, err := os.ReadFile(nameOrPath)
	if err != nil {
		return nil, fmt.Errorf("profile: %w", err)
	}
	return Parse(filepath.Clean(nameOrPath), text)
}

// Parse reads a profile. file is the name that errors show. A file with faults gives [Errors], all of them that
// one pass can find; expressions are checked later, by [Profile.Compile].
func Parse(file string, text []byte) (*Profile, error) {
	root, err := parseYAML(file, text)
	if err != nil {
		return nil, err
	}
	r := &reader{file: file}
	p := &Profile{file: file, text: slices.Clone(text)}
	r.profile(root, p)
	if len(r.errs) == 0 {
		r.crossCheck(root, p)
	}
	if len(r.errs) > 0 {
		sortErrors(r.errs)
		return nil, r.errs
	}
	return p, nil
}

func sortErrors(es Errors) {
	slices.SortStableFunc(es, func(a, b *Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
}

// need reports a key that is missing from a mapping.
func (r *reader) need(n node, have bool, key, hint string) {
	if !have {
		r.errorf(n, hint, "the key %s is missing", key)
	}
}

func (r *reader) profile(n node, p *Profile) {
	var hasEnv bool
	r.fields(n, map[string]func(node){
		"profile":     func(n node) { p.Name = r.word(n) },
		"version":     func(n node) { p.Revision = r.text(n) },
		"description": func(n node) { p.Description = r.text(n) },
		"environments": func(n node) {
			hasEnv = true
			for _, e := range r.entries(n) {
				p.environments = append(p.environments, r.environment(e))
			}
		},
		"auth":             func(n node) { p.auths = r.auths(n) },
		"credential_check": func(n node) { p.credential = r.check(n, "credential_check", true) },
		"health":           func(n node) { p.health = r.check(n, "health", false) },
		"limits": func(n node) {
			for _, e := range r.entries(n) {
				p.limits = append(p.limits, r.limit(e))
			}
		},
		"vars": func(n node) {
			for _, e := range r.entries(n) {
				p.vars = append(p.vars, r.variable(e))
			}
		},
		"operations": func(n node) {
			for _, e := range r.entries(n) {
				p.operations = append(p.operations, r.operation(e))
			}
		},
		"routes": func(n node) {
			for _, e := range r.entries(n) {
				p.routes = append(p.routes, r.route(e))
			}
		},
		"verdicts": func(n node) { p.verdicts = r.verdicts(n) },
		"webhooks": func(n node) { p.webhooks = r.webhooks(n) },
		"contract": func(n node) { p.contract = r.text(n) },
		"tests":    func(n node) { p.tests = r.tests(n) },
	})
	if p.auths == nil {
		p.auths = []auth{{kind: authNone}}
	}
	if len(r.errs) > 0 {
		return
	}
	r.need(n, p.Name != "", "profile", "a profile begins with profile: <name>")
	r.need(n, hasEnv && len(p.environments) > 0, "environments", "environments: {production: {base_url: https://...}}")
	r.need(n, len(p.routes) > 0, "routes", "a profile without a route delivers nothing")
}

func (r *reader) name(e entry) string {
	if !isWord(e.key) {
		r.at(e.at, "names are lower-case words joined by _, at most 64 characters", "%q is not a name", clip(e.key))
	}
	return e.key
}

func (r *reader) environment(e entry) environment {
	env := environment{name: r.name(e)}
	r.fields(e.value, map[string]func(node){
		"base_url": func(n node) {
			env.baseURL = r.text(n)
			if err := CheckBaseURL(env.baseURL); err != nil && env.baseURL != "" {
				r.errorf(n, "for example https://api.example.com", "%v", err)
			}
		},
		"secret_prefixes": func(n node) { env.prefixes = r.secretPrefixes(n) },
	})
	r.need(e.value, env.baseURL != "", "base_url", "")
	return env
}

// CheckBaseURL says why s is no base URL: one is absolute, http or https, without query, fragment or credentials.
func CheckBaseURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "https" && u.Scheme != "http", u.Host == "":
		return errors.New("a base URL is absolute and begins with https:// or http://")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return errors.New("a base URL has neither query nor fragment")
	case u.User != nil:
		return errors.New("a base URL holds no credentials; they are secrets of the connector")
	}
	return nil
}

func (r *reader) headerName(n node) string {
	s := r.text(n)
	if s != "" && !isToken(s) {
		r.errorf(n, "for example X-Idempotency-Key", "%q is not a header name", clip(s))
		return s
	}
	return textproto.CanonicalMIMEHeaderKey(s)
}

// isToken reports whether s is a token of RFC 9110, section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

func (r *reader) method(n node) string {
	return r.oneOf(n, http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodHead)
}

// IsPath reports whether s is a path of an operation: parameters in braces, the host left to the environments.
func IsPath(s string) bool {
	u, err := url.Parse(strings.NewReplacer("{", "", "}", "").Replace(s))
	return err == nil && strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "//") && u.Fragment == "" && !strings.ContainsAny(s, " \\\"<>^`|")
}

func (r *reader) urlPath(n node) string {
	s := r.text(n)
	if s == "" {
		return s
	}
	if !IsPath(s) {
		r.errorf(n, "for example /intent/{intent_id}/cancel; the host is in environments", "%q is not a path", clip(s))
	}
	return s
}

func (r *reader) check(n node, name string, withAuth bool) *Check {
	c := &Check{Name: name, Timeout: checkTimeout, Auth: withAuth}
	r.fields(n, map[string]func(node){
		"method":  func(n node) { c.Method = r.method(n) },
		"path":    func(n node) { c.Path = r.urlPath(n) },
		"good":    func(n node) { c.good = r.statuses(n) },
		"bad":     func(n node) { c.bad = r.statuses(n) },
		"timeout": func(n node) { c.Timeout = r.duration(n, timeoutMin, timeoutMax) },
		"auth":    func(n node) { c.Auth = r.boolean(n) },
	})
	r.need(n, c.Method != "", "method", "")
	r.need(n, c.Path != "", "path", "")
	if strings.ContainsAny(c.Path, "{}") {
		r.errorf(n, "", "the path of a check has no parameters")
	}
	if c.good == nil {
		c.good = []statuses{{200, 299}}
	}
	if c.bad == nil && name == "credential_check" {
		c.bad = []statuses{{401, 401}, {403, 403}}
	}
	return c
}

func (r *reader) limit(e entry) *Limit {
	l := &Limit{Name: r.name(e), Scope: "account"}
	var hasN bool
	count := func(n node) int { return int(r.integer(n, 1, limitMax)) }
	r.fields(e.value, map[string]func(node){
		"kind": func(n node) {
			l.Kind = LimitKind(r.oneOf(n, string(SlidingWindow), string(TokenBucket), string(CalendarMonth), string(Concurrency)))
		},
		"n":      func(n node) { l.n, hasN = readByVar(r, n, count), true },
		"window": func(n node) { l.Window = r.duration(n, windowMin, windowMax) },
		"burst":  func(n node) { l.burst = readByVar(r, n, count) },
		"scope":  func(n node) { l.Scope = r.oneOf(n, "account", "credential") },
		"headers": func(n node) {
			r.fields(n, map[string]func(node){
				"limit":     func(n node) { l.LimitHeader = r.headerName(n) },
				"remaining": func(n node) { l.RemainingHeader = r.headerName(n) },
				"reset":     func(n node) { l.ResetHeader = r.headerName(n) },
			})
		},
	})
	r.need(e.value, l.Kind != "", "kind", "sliding_window, token_bucket, calendar_month or concurrency")
	r.need(e.value, hasN, "n", "how many requests fit into the window")
	windowed := l.Kind == SlidingWindow || l.Kind == TokenBucket
	if windowed || l.Kind == "" {
		r.need(e.value, l.Window != 0, "window", "for example 1h")
	} else if l.Window != 0 {
		r.errorf(e.value, "", "a %s has no window", l.Kind)
	}
	switch {
	case l.Kind == TokenBucket && l.burst.zero():
		l.burst = l.n
	case l.Kind != TokenBucket && !l.burst.zero():
		r.errorf(e.value, "only a token_bucket has a burst", "a %s has no burst", l.Kind)
	}
	if l.Kind == CalendarMonth {
		l.Window = windowMax
	}
	return l
}

func (r *reader) variable(e entry) variable {
	v := variable{name: r.name(e), at: e.at, kind: "string"}
	var def node
	r.fields(e.value, map[string]func(node){
		"type":        func(n node) { v.kind = r.oneOf(n, "string", "integer", "boolean") },
		"enum":        func(n node) { r.list(n, func(n node) { v.enum = append(v.enum, r.text(n)) }) },
		"optional":    func(n node) { v.optional = r.boolean(n) },
		"description": func(n node) { r.text(n) },
		"default":     func(n node) { def = n },
	})
	if def.Node != nil {
		s := r.expr(def).text
		v.def = &s
		if err := v.check(s); err != nil {
			r.errorf(def, "", "%v", err)
		}
		if v.optional {
			r.errorf(e.value, "a default makes it optional already", "default and optional exclude each other")
		}
	}
	return v
}

// check reports whether a value fits the variable.
func (v *variable) check(s string) error {
	switch {
	case v.kind == "integer":
		if _, err := strconv.ParseInt(s, 10, 64); err != nil {
			return fmt.Errorf("%s is an integer, %q is none", v.name, clip(s))
		}
	case v.kind == "boolean" && s != "true" && s != "false":
		return fmt.Errorf("%s is true or false, not %q", v.name, clip(s))
	}
	if len(v.enum) > 0 && !slices.Contains(v.enum, s) {
		return fmt.Errorf("%s is one of %s, not %q", v.name, strings.Join(v.enum, ", "), clip(s))
	}
	return nil
}

func (v *variable) native(s string) any {
	switch v.kind {
	case "integer":
		i, _ := strconv.ParseInt(s, 10, 64) // checked by check
		return i
	case "boolean":
		return s == "true"
	}
	return s
}

func (r *reader) operation(e entry) *operation {
	o := &operation{name: r.name(e), at: e.at, timeout: timeoutDefault, firstRetry: firstRetryDefault, lateApply: -1}
	var hasKey bool
	var classAt, encodingAt node
	r.fields(e.value, map[string]func(node){
		"description": func(n node) { r.text(n) },
		"method":      func(n node) { o.method = r.method(n) },
		"path":        func(n node) { o.path, o.pathAt = r.urlPath(n), n.pos() },
		"class": func(n node) {
			o.classBy = readByVar(r, n, func(n node) Class {
				return Class(r.oneOf(n, string(ClassKey), string(ClassOverwrite), string(ClassNone)))
			})
			classAt = n
		},
		"encoding": func(n node) { o.form = r.oneOf(n, "json", "form") == "form"; encodingAt = n },
		"price":    func(n node) { o.price = r.price(n) },
		"probe":    func(n node) { o.probe = r.probe(n) },
		"key": func(n node) {
			hasKey = true
			r.fields(n, map[string]func(node){
				"in":      func(n node) { o.keyIn = r.oneOf(n, "header", "body") },
				"name":    func(n node) { o.keyName = r.text(n) },
				"natural": func(n node) { o.natural = r.boolean(n) },
				"scope":   func(n node) { o.keyScoped = r.oneOf(n, "vendor", "credential") == "credential" },
			})
			r.need(n, o.keyIn != "", "in", "in: header or body")
			r.need(n, o.keyName != "", "name", "the header, or the field of the body")
			if o.keyIn == "header" {
				o.keyName = textproto.CanonicalMIMEHeaderKey(o.keyName)
				if o.keyName != "" && !isToken(o.keyName) {
					r.errorf(n, "for example X-Idempotency-Key", "%q is not a header name", clip(o.keyName))
				}
			}
		},
		"key_retention": func(n node) { o.retention = r.duration(n, retentionMin, retentionMax) },
		"late_apply":    func(n node) { o.lateApply = r.duration(n, 0, retentionMax) },
		"timeout":       func(n node) { o.timeout = r.duration(n, timeoutMin, timeoutMax) },
		"retry": func(n node) {
			r.fields(n, map[string]func(node){
				"first": func(n node) { o.firstRetry = r.duration(n, retryMin, retryMax) },
			})
		},
		"deadline": func(n node) { o.deadline = r.duration(n, time.Second, deadlineMax) },
		"limits":   func(n node) { o.limits, o.limitsAt = r.words(n), n.pos() },
		"ends":     func(n node) { o.ends = r.words(n) },
		"reference": func(n node) {
			r.fields(n, map[string]func(node){
				"in":   func(n node) { o.refIn = r.oneOf(n, "header", "body") },
				"name": func(n node) { o.refName = r.text(n) },
			})
			r.need(n, o.refIn != "", "in", "in: header or body")
			r.need(n, o.refName != "", "name", "the header, or the field of the body")
			if o.refIn == "header" {
				o.refName = textproto.CanonicalMIMEHeaderKey(o.refName)
			}
		},
		"headers": func(n node) {
			for _, h := range r.entries(n) {
				v := r.text(h.value)
				if !isToken(h.key) || strings.ContainsAny(v, "\r\n") {
					r.at(h.at, "", "%q is not a header", clip(h.key))
				}
				o.headers = append(o.headers, [2]string{textproto.CanonicalMIMEHeaderKey(h.key), v})
			}
		},
		"body":     func(n node) { o.body = r.object(n) },
		"answer":   func(n node) { o.answer = r.object(n) },
		"batch":    func(n node) { o.batch = r.batch(n) },
		"verdicts": func(n node) { o.verdicts = r.verdicts(n) },
	})
	r.need(e.value, o.method != "", "method", "")
	r.need(e.value, o.path != "", "path", "")
	if o.read = o.method == http.MethodGet || o.method == http.MethodHead; o.read {
		if classAt.Node != nil && (o.classBy.name != "" || o.classBy.value != ClassOverwrite) {
			r.errorf(classAt, "leave the class out", "a %s changes nothing", o.method)
		}
		o.classBy = byVar[Class]{value: ClassOverwrite}
		o.lateApply = 0
	}
	r.need(e.value, !o.classBy.zero(), "class", "key, overwrite or none: what a repeat does at the vendor")
	switch mayKey := o.classBy.may(ClassKey); {
	case mayKey && !hasKey:
		r.errorf(e.value, "key: {in: header, name: Idempotency-Key}", "class key needs the key %q: where the vendor reads it", "key")
	case !mayKey && !o.classBy.zero() && (hasKey || o.retention != 0):
		r.errorf(e.value, "", "only class key has key and key_retention")
	case o.classBy.name != "" && o.keyIn == "body":
		r.errorf(e.value, "only a header can be left out", "a class that depends on a variable has its key in a header")
	case o.natural && o.keyIn != "body" && o.keyIn != "header":
		r.errorf(e.value, "", "a natural key needs its place")
	}
	if o.read && o.body != nil {
		r.errorf(e.value, "", "%s carries no body", o.method)
	}
	if o.form && o.body == nil {
		r.errorf(encodingAt, "", "there is no body to encode")
	}
	if o.probe != nil && (!o.classBy.may(ClassNone) && o.retention == 0 || o.refIn == "") {
		r.errorf(e.value, "class none, and reference: {in: body, name: ...}", "a probe is for class none or a key that expires, and it finds the object by its reference")
	}
	if i := slices.IndexFunc(o.verdicts, func(u rule) bool { return u.verdict == AcceptPending }); i >= 0 && o.deadline == 0 {
		r.at(o.verdicts[i].at, "deadline: 24h in the operation", "nothing says how long the confirmation may take")
	}
	bodyHas := func(name string) bool {
		if o.body == nil {
			return false
		}
		f := o.body.find(name)
		return f != nil && f.kind == "string"
	}
	if o.keyIn == "body" && o.keyName != "" && !bodyHas(o.keyName) {
		r.errorf(e.value, "declare it: body: {"+clip(o.keyName)+": string}", "the key's field %q is no text field of the body", clip(o.keyName))
	}
	if o.refIn == "body" && o.refName != "" && !bodyHas(o.refName) {
		r.errorf(e.value, "declare it: body: {"+clip(o.refName)+": string}", "the reference's field %q is no text field of the body", clip(o.refName))
	}
	if o.refIn == "header" && (o.keyIn != "header" || o.keyName != o.refName) {
		r.errorf(e.value, "name the header that carries the idempotency key, or a field of the body", "a reference in a header is the idempotency key's header")
	}
	return o
}

// object reads a mapping of field declarations.
func (r *reader) object(n node) *bodyField {
	o := &bodyField{kind: "object", at: n.pos()}
	for _, e := range r.entries(n) {
		o.fields = append(o.fields, r.bodyField(e))
	}
	return o
}

var fieldKinds = []string{"string", "integer", "number", "boolean", "object", "array"}

// bodyField reads `name: type` or `name: {type: ..., ...}`.
func (r *reader) bodyField(e entry) *bodyField {
	f := &bodyField{name: e.key, at: e.at}
	if e.key == "" || strings.ContainsAny(e.key, ".\"\\") || len(e.key) > 128 {
		r.at(e.at, "nested fields are declared with type: object and fields", "%q is not a field name", clip(e.key))
	}
	if kindName(e.value.Node) == "a text" {
		f.kind = r.oneOf(e.value, fieldKinds...)
		return f
	}
	r.fields(e.value, map[string]func(node){
		"type":        func(n node) { f.kind = r.oneOf(n, fieldKinds...) },
		"required":    func(n node) { f.required = r.boolean(n) },
		"nullable":    func(n node) { f.nullable = r.boolean(n) },
		"enum":        func(n node) { r.list(n, func(n node) { f.enum = append(f.enum, r.text(n)) }) },
		"min":         func(n node) { v := r.integer(n, math.MinInt64, math.MaxInt64); f.min = &v },
		"max":         func(n node) { v := r.integer(n, math.MinInt64, math.MaxInt64); f.max = &v },
		"description": func(n node) { r.text(n) },
		"fields":      func(n node) { f.fields = r.object(n).fields },
	})
	r.need(e.value, f.kind != "", "type", "one of "+strings.Join(fieldKinds, ", "))
	if f.kind == "" {
		return f
	}
	if f.nullable && (f.required || f.fields != nil) {
		r.errorf(e.value, "", "a field that is required, or has fields of its own, is never null")
	}
	if f.fields != nil && f.kind != "object" {
		r.errorf(e.value, "", "only an object has fields")
	}
	if f.enum != nil && f.kind != "string" {
		r.errorf(e.value, "", "only a string has an enum")
	}
	if (f.min != nil || f.max != nil) && f.kind != "string" && f.kind != "integer" {
		r.errorf(e.value, "", "min and max are for strings (characters) and integers")
	}
	if f.min != nil && f.max != nil && *f.min > *f.max {
		r.errorf(e.value, "", "min is above max")
	}
	return f
}

// statuses reads 200, "4xx" or a list of both.
func (r *reader) statuses(n node) []statuses {
	var out []statuses
	one := func(n node) {
		hint := "a status is 200, or a class such as 5xx"
		switch kindName(n.Node) {
		case "an integer":
			v := int(r.integer(n, 100, 599))
			out = append(out, statuses{v, v})
		case "a text":
			s := r.text(n)
			if len(s) == 3 && s[0] >= '1' && s[0] <= '5' && s[1:] == "xx" {
				lo := int(s[0]-'0') * 100
				out = append(out, statuses{lo, lo + 99})
				return
			}
			r.errorf(n, hint, "%q is not a status", clip(s))
		default:
			r.errorf(n, hint, "expected a status, found %s", kindName(n.Node))
		}
	}
	if kindName(n.Node) == "a list" {
		r.list(n, one)
		if len(out) == 0 {
			r.errorf(n, "leave the key out to mean any status", "the list is empty")
		}
		return out
	}
	one(n)
	return out
}

var verdictWords = []string{
	string(Accept), string(AcceptPending), string(Duplicate), string(Reject), string(Conclude), string(Retry),
	string(Throttle), string(Halt), string(Gone), string(Conflict),
}

func (r *reader) verdicts(n node) []rule {
	var out []rule
	r.list(n, func(n node) {
		u := rule{at: n.pos()}
		var noEffect *bool
		r.fields(n, map[string]func(node){
			"status":    func(n node) { u.status = r.statuses(n) },
			"when":      func(n node) { s := r.expr(n); u.when = &s },
			"verdict":   func(n node) { u.verdict = Verdict(r.oneOf(n, verdictWords...)) },
			"reason":    func(n node) { u.reason = r.word(n) },
			"guidance":  func(n node) { u.guidance = r.guidance(n) },
			"no_effect": func(n node) { b := r.boolean(n); noEffect = &b },
			"wait":      func(n node) { s := r.expr(n); u.wait = &s },
			"lowers":    func(n node) { u.lowers, u.lowersAt = r.word(n), n.pos() },
			"then":      func(n node) { u.then = Verdict(r.oneOf(n, string(Reject), string(Conclude), string(Retry))) },
		})
		r.need(n, u.verdict != "", "verdict", "one of "+strings.Join(verdictWords, ", "))
		if u.status == nil && u.when == nil {
			r.errorf(n, "give it a status or a when", "this verdict takes every answer")
		}
		u.noEffect = provesNothingDone(u.verdict)
		if noEffect != nil {
			u.noEffect = *noEffect
		}
		switch u.verdict {
		case Accept, AcceptPending, Duplicate:
			if u.noEffect {
				r.errorf(n, "", "an accepted request has an effect")
			}
		case Reject, Conclude, Halt, Gone, Conflict:
			if u.reason == "" {
				r.errorf(n, "for example reason: validation_error", "verdict %s needs a reason", u.verdict)
			}
			if !u.noEffect && u.verdict == Reject {
				r.errorf(n, "use verdict retry: an answer that may have had an effect is ambiguous", "a reject is definite, so no_effect: false contradicts it")
			}
		}
		if u.wait != nil && u.verdict != Throttle && u.verdict != Retry {
			r.errorf(n, "", "only throttle and retry wait")
		}
		if u.lowers != "" && u.verdict != Throttle {
			r.errorf(n, "", "only throttle lowers a limit")
		}
		if (u.verdict == Conflict) != (u.then != "") {
			r.errorf(n, "then: reject, conclude or retry: what it is when reading again does not help", "verdict conflict has the key then, and only that one")
		}
		out = append(out, u)
	})
	return out
}

// provesNothingDone is the default of no_effect: refusals prove it, a retryable failure does not (design section 6).
func provesNothingDone(v Verdict) bool {
	switch v {
	case Reject, Throttle, Halt, Gone, Conflict:
		return true
	}
	return false
}

func (r *reader) guidance(n node) string {
	s := r.text(n)
	if len(s) > reasonMax {
		r.errorf(n, "say it shorter", "guidance has at most %d bytes", reasonMax)
	}
	return s
}

func (r *reader) route(e entry) *route {
	t := &route{name: r.name(e), at: e.at}
	r.fields(e.value, map[string]func(node){
		"description": func(n node) { r.text(n) },
		"entity":      func(n node) { t.entity, t.entityAt = r.word(n), n.pos() },
		"semantics":   func(n node) { t.semantics = Semantics(r.oneOf(n, string(Latest), string(Every))) },
		"residency":   func(n node) { s := r.expr(n); t.residency = &s },
		"requires_consent": func(n node) {
			t.consent, t.consentAt = r.text(n), n.pos()
			if strings.ContainsAny(t.consent, `'"\`) {
				r.errorf(n, "for example payments", "%q is no purpose", clip(t.consent))
			}
		},
		"references": func(n node) {
			for _, e := range r.entries(n) {
				ref := reference{name: r.name(e), at: e.at}
				var hasKey bool
				r.fields(e.value, map[string]func(node){
					"entity": func(n node) { ref.entity = r.word(n) },
					"key":    func(n node) { ref.key, hasKey = r.expr(n), true },
					"id":     func(n node) { ref.id = r.word(n) },
				})
				r.need(e.value, ref.entity != "", "entity", "")
				r.need(e.value, hasKey, "key", "for example event.customer_id")
				r.need(e.value, ref.id != "", "id", "the vendor id that steps use, for example user_id")
				t.references = append(t.references, ref)
			}
		},
		"steps": func(n node) {
			for _, e := range r.entries(n) {
				t.steps = append(t.steps, r.step(e))
			}
		},
		"cases": func(n node) { r.list(n, func(n node) { t.cases = append(t.cases, r.routeCase(n)) }) },
	})
	r.need(e.value, t.entity != "", "entity", "the entity type, for example invoice")
	r.need(e.value, t.semantics != "", "semantics", "latest (full state) or every (each event is an effect)")
	r.need(e.value, len(t.cases) > 0, "cases", "")
	return t
}

func (r *reader) assignments(n node) []assignment {
	var out []assignment
	for _, e := range r.entries(n) {
		out = append(out, assignment{target: e.key, at: e.at, value: r.expr(e.value)})
	}
	return out
}

func (r *reader) step(e entry) *step {
	s := &step{name: r.name(e), at: e.at}
	r.fields(e.value, map[string]func(node){
		"operation": func(n node) { s.operation, s.opAt = r.word(n), n.pos() },
		"intent":    func(n node) { x := r.expr(n); s.intent = &x },
		"reference": func(n node) { x := r.expr(n); s.reference = &x },
		"when":      func(n node) { x := r.expr(n); s.when = &x },
		"params":    func(n node) { s.params = r.assignments(n) },
		"headers": func(n node) {
			s.headers = r.assignments(n)
			for i := range s.headers {
				h := &s.headers[i]
				if !isToken(h.target) {
					r.at(h.at, "for example If-Match", "%q is not a header name", clip(h.target))
				}
				h.target = textproto.CanonicalMIMEHeaderKey(h.target)
			}
		},
		"map": func(n node) { s.mapping = r.assignments(n) },
		"remember": func(n node) {
			r.fields(n, map[string]func(node){
				"ids":       func(n node) { s.ids = r.assignments(n) },
				"found":     func(n node) { s.found = r.assignments(n) },
				"fields":    func(n node) { s.fields = r.assignments(n) },
				"vendor_id": func(n node) { x := r.expr(n); s.vendorID = &x },
			})
		},
	})
	r.need(e.value, s.operation != "", "operation", "")
	r.namesOf(s.ids, s.found, s.fields)
	return s
}

// namesOf checks the names of what is remembered.
func (r *reader) namesOf(lists ...[]assignment) {
	for _, a := range slices.Concat(lists...) {
		if !isWord(a.target) {
			r.at(a.at, "names are lower-case words joined by _", "%q is not a name", clip(a.target))
		}
	}
}

func (r *reader) routeCase(n node) *routeCase {
	c := &routeCase{at: n.pos()}
	does := 0
	r.fields(n, map[string]func(node){
		"description": func(n node) { r.text(n) },
		"operation":   func(n node) { c.operation = r.oneOf(n, "upsert", "delete") },
		"when":        func(n node) { s := r.expr(n); c.when = &s },
		"ignore":      func(n node) { c.ignore = r.word(n); does++ },
		"ends":        func(n node) { c.ends, c.endsAt = r.words(n), n.pos() },
		"remember": func(n node) {
			r.fields(n, map[string]func(node){
				"ids":    func(n node) { c.ids = r.assignments(n) },
				"fields": func(n node) { c.fields = r.assignments(n) },
			})
			r.namesOf(c.ids, c.fields)
		},
		"refuse": func(n node) {
			does++
			c.refuse = &refusal{}
			r.fields(n, map[string]func(node){
				"reason":   func(n node) { c.refuse.reason = r.word(n) },
				"path":     func(n node) { c.refuse.path = r.text(n) },
				"guidance": func(n node) { c.refuse.guidance = r.guidance(n) },
			})
			r.need(n, c.refuse.reason != "", "reason", "a stable word, for example not_a_person")
		},
		"steps": func(n node) {
			does++
			c.steps, c.stepsAt = r.words(n), n.pos()
			if len(c.steps) == 0 {
				r.errorf(n, "use ignore with a reason", "a case that does nothing says so")
			}
		},
	})
	if does != 1 {
		r.errorf(n, "", "a case has exactly one of ignore, refuse and steps")
	}
	if c.ends != nil && c.ignore == "" {
		r.errorf(n, "an operation that ends an id says so itself", "only an ignored case has ends")
	}
	if c.ids != nil || c.fields != nil {
		if c.ignore == "" {
			r.errorf(n, "a step remembers for itself", "only an ignored case has remember")
		} else if c.operation != "upsert" {
			r.errorf(n, "operation: upsert", "a delete leaves nothing to remember")
		}
	}
	return c
}

// crossCheck checks what one part of the file says about another.
func (r *reader) crossCheck(n node, p *Profile) {
	var opNames, limitNames []string
	for _, l := range p.limits {
		limitNames = append(limitNames, l.Name)
	}
	ids := map[string]bool{} // vendor ids that are remembered somewhere
	for _, t := range p.routes {
		for _, id := range t.idNames() {
			ids[id] = true
		}
	}
	r.checkByVars(p, limitNames)
	idNames := sortedKeys(ids)
	used := map[string]bool{}
	for _, o := range p.operations {
		opNames = append(opNames, o.name)
		for _, l := range o.limits {
			if !slices.Contains(limitNames, l) {
				r.at(o.limitsAt, meant(l, limitNames), "no limit is named %q", l)
			}
		}
		for _, id := range o.ends {
			if !ids[id] {
				r.at(o.at, meant(id, idNames), "ends %q, which no step remembers", id)
			}
		}
		if _, err := parsePath(o.path); err != nil {
			r.at(o.pathAt, "", "%v", err)
		}
	}
	byEntity := map[string]string{}
	for _, t := range p.routes {
		if other := byEntity[t.entity]; other != "" {
			// Two routes of one entity would share remembered ids; a later format may allow it.
			r.at(t.at, "put their cases into one route", "entity %s has the route %s already", t.entity, other)
		}
		byEntity[t.entity] = t.name
		var stepNames []string
		for _, s := range t.steps {
			stepNames = append(stepNames, s.name)
			if !slices.Contains(opNames, s.operation) {
				r.at(s.opAt, meant(s.operation, opNames), "no operation is named %q", s.operation)
			}
		}
		for _, ref := range t.references {
			if !slices.ContainsFunc(p.routes, func(o *route) bool { return o.entity == ref.entity && o.remembersID(ref.id) }) {
				r.at(ref.at, "remember it in a step of the route of "+ref.entity, "no route remembers the id %q of a %s", ref.id, ref.entity)
			}
		}
		covered := map[string]bool{}
		for _, c := range t.cases {
			for _, s := range c.steps {
				if !slices.Contains(stepNames, s) {
					r.at(c.stepsAt, meant(s, stepNames), "the route has no step %q", s)
				}
				used[t.name+"."+s] = true
			}
			for i, s := range c.steps {
				if slices.Contains(c.steps[:i], s) {
					r.at(c.stepsAt, "", "the step %q stands here twice", s)
				}
			}
			for _, id := range c.ends {
				if !t.remembersID(id) {
					r.at(c.endsAt, meant(id, t.idNames()), "ends %q, which no step of the route remembers", id)
				}
			}
			ops := []string{"upsert", "delete"}
			if c.operation != "" {
				ops = []string{c.operation}
			}
			reachable := false
			for _, op := range ops {
				reachable = reachable || !covered[op]
			}
			if !reachable {
				r.at(c.at, "move it up, or remove it", "this case is never reached: an earlier one takes all such events")
			}
			if c.when == nil {
				for _, op := range ops {
					covered[op] = true
				}
			}
		}
		for _, op := range []string{"upsert", "delete"} {
			if !covered[op] {
				r.at(t.at, "end the cases with one that has no when, for example - ignore: no_counterpart", "an event of operation %s may fit no case", op)
			}
		}
		for _, s := range t.steps {
			if !used[t.name+"."+s.name] {
				r.at(s.at, "name it in a case, or remove it", "no case uses this step")
			}
		}
	}
}

func (t *route) remembersID(id string) bool { return slices.Contains(t.idNames(), id) }

func (t *route) idNames() []string {
	return t.remembered(func(s *step) []assignment { return slices.Concat(s.ids, s.found) }, func(c *routeCase) []assignment { return c.ids })
}

func (t *route) rememberNames() []string {
	return t.remembered(func(s *step) []assignment { return s.fields }, func(c *routeCase) []assignment { return c.fields })
}

func (t *route) remembered(ofStep func(*step) []assignment, ofCase func(*routeCase) []assignment) []string {
	seen := map[string]bool{}
	for _, s := range t.steps {
		for _, a := range ofStep(s) {
			seen[a.target] = true
		}
	}
	for _, c := range t.cases {
		for _, a := range ofCase(c) {
			seen[a.target] = true
		}
	}
	return sortedKeys(seen)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Text is the profile's file as it was read.
func (p *Profile) Text() []byte { return slices.Clone(p.text) }
