// Package draft makes the draft of a vendor profile from an OpenAPI 3 document: what the document says is taken over, what it
// cannot say, above all what a repeat does and what events mean to the vendor, is marked for a person.
//
// A draft loads, and sends nothing: each of its routes ignores its events until somebody maps them. References of the document
// to other files or URLs are not followed.
package draft

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/goccy/go-yaml"

	"github.com/weirsync/weir/connector/profile"
)

// BytesMax is the largest document that is read.
const BytesMax = 4 << 20

const (
	// depthMax bounds the nesting of declared fields; what is deeper is an object that takes anything.
	depthMax = 5
	// operationsMax bounds the operations of a draft.
	operationsMax = 300
)

// errUnsound is what a document gives that is misread: the fuzz test looks for it.
var errUnsound = errors.New("the document gives a profile that does not load")

// Options say what a draft is called and what it holds.
type Options struct {
	// Name of the profile; "" takes the title of the document.
	Name string
	// Source is the document's name, for the head of the draft.
	Source string
	// Operations are ids, or METHOD /path, of those that are wanted; none: all.
	Operations []string
	// Known are the fields of each entity's events, for suggestions.
	Known map[string][]string
}

// A SyntaxError says that a document is no YAML or JSON; the line and column are in its text.
type SyntaxError struct{ Err error }

func (e *SyntaxError) Error() string { return yaml.FormatError(e.Err, false, false) }
func (e *SyntaxError) Unwrap() error { return e.Err }

// Draft is the text of a profile, which loads.
func Draft(doc []byte, o Options) ([]byte, error) {
	if len(doc) > BytesMax {
		return nil, fmt.Errorf("the document has %d bytes, more than %d", len(doc), BytesMax)
	}
	var head struct {
		OpenAPI string `yaml:"openapi"`
		Swagger string `yaml:"swagger"`
	}
	if err := yaml.Unmarshal(doc, &head); err != nil {
		return nil, &SyntaxError{err}
	}
	switch {
	case head.Swagger != "":
		return nil, fmt.Errorf("the document is Swagger %s; convert it to OpenAPI 3", head.Swagger)
	case !strings.HasPrefix(head.OpenAPI, "3."):
		return nil, errors.New("the document has no openapi: 3.x at its top")
	}
	t, err := load(doc)
	if err != nil {
		return nil, err
	}
	d := &drafter{doc: t, o: o, names: map[string]bool{}}
	return d.draft()
}

// load reads a document. The library may panic on what it does not expect: that is an error like any other.
func load(doc []byte) (t *openapi3.T, err error) {
	defer func() {
		if p := recover(); p != nil {
			t, err = nil, fmt.Errorf("the document cannot be read: %v", p)
		}
	}()
	loader := openapi3.NewLoader()
	loader.IsExternalRefsAllowed = false
	return loader.LoadFromData(doc)
}

type drafter struct {
	doc   *openapi3.T
	o     Options
	b     strings.Builder
	names map[string]bool // of operations
}

func (d *drafter) line(indent int, format string, args ...any) {
	d.b.WriteString(strings.Repeat("  ", indent))
	fmt.Fprintf(&d.b, format, args...)
	d.b.WriteByte('\n')
}

func (d *drafter) draft() ([]byte, error) {
	ops := d.operations()
	if len(ops) == 0 {
		return nil, errors.New("no operation of the document was chosen, or its path cannot be written in a profile; --operation takes an operationId, or METHOD /path")
	}
	if len(ops) > operationsMax {
		return nil, fmt.Errorf("%d operations, more than %d: choose those that you need with --operation", len(ops), operationsMax)
	}
	title, version := "", ""
	if d.doc.Info != nil {
		title, version = d.doc.Info.Title, d.doc.Info.Version
	}
	name := d.o.Name
	if name == "" {
		name = cmp.Or(word(title), "vendor")
	}
	d.line(0, "# A draft, made from %s. Lines with CHECK need a person: an OpenAPI document does not say what a repeat does,", cmp.Or(comment(d.o.Source), "an OpenAPI document"))
	d.line(0, "# nor what customers, contracts and invoices are to the vendor. Nothing is sent until routes have steps.")
	d.line(0, "# How to go on: docs/write-a-profile.md; every key: docs/profile-reference.md.")
	d.line(0, "profile: %s", name)
	d.line(0, "version: %s", quote(cmp.Or(version, "1")))
	if title != "" {
		d.line(0, "description: %s", quote(title))
	}
	d.b.WriteByte('\n')
	d.environments()
	d.authentication()
	d.verdicts(ops)
	d.line(0, "operations:")
	var drafted []drafted
	for _, op := range ops {
		drafted = append(drafted, d.operation(op))
	}
	d.routes(drafted)
	if d.b.Len() > profile.FileBytesMax {
		return nil, fmt.Errorf("the profile would have more than %d bytes: choose the operations that you need with --operation", profile.FileBytesMax)
	}
	text := []byte(d.b.String())
	if _, err := profile.Parse("the draft", text); err != nil {
		return nil, fmt.Errorf("%w; choose other operations with --operation: %w", errUnsound, err)
	}
	return text, nil
}

// An op is one operation of the document.
type op struct {
	method, path string
	item         *openapi3.PathItem
	*openapi3.Operation
}

func (d *drafter) operations() (out []op) {
	if d.doc.Paths == nil {
		return nil
	}
	paths := d.doc.Paths.Map()
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		item := paths[path]
		if item == nil || !strings.HasPrefix(path, "/") {
			continue
		}
		all := item.Operations()
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			o := all[method]
			if o == nil || len(d.o.Operations) > 0 && !slices.Contains(d.o.Operations, o.OperationID) && !slices.Contains(d.o.Operations, method+" "+path) {
				continue
			}
			if !usable(path) {
				d.line(0, "# CHECK: %s %s is left out: its path cannot be written in a profile", method, comment(path))
				continue
			}
			out = append(out, op{method, path, item, o})
		}
	}
	return out
}

// usable reports whether a profile takes the path, whose parameters all have names.
func usable(path string) bool {
	return profile.IsPath(path) && !strings.ContainsAny(pathParam.ReplaceAllString(path, "x"), "{}#")
}

// usableToken reports whether a profile takes the address of tokens: a path, or a URL.
func usableToken(at string) bool {
	if strings.HasPrefix(at, "/") {
		return usable(at) && !strings.Contains(at, "{")
	}
	return profile.CheckBaseURL(at) == nil
}

var sandboxWords = regexp.MustCompile(`(?i)sandbox|test|staging|dev\b|demo`)

func (d *drafter) environments() {
	urls := map[string]string{}
	for _, s := range d.doc.Servers {
		if s == nil {
			continue
		}
		at := s.URL
		for name, v := range s.Variables {
			if v != nil {
				at = strings.ReplaceAll(at, "{"+name+"}", v.Default)
			}
		}
		u, err := url.Parse(at)
		if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http" {
			continue
		}
		name := "production"
		if sandboxWords.MatchString(at + " " + s.Description) {
			name = "sandbox"
		}
		if urls[name] == "" {
			urls[name] = u.Scheme + "://" + u.Host + strings.TrimRight(u.Path, "/")
		}
	}
	d.line(0, "environments:")
	if len(urls) == 0 {
		d.line(1, "sandbox: {base_url: https://sandbox.example.invalid} # CHECK: the document names no server")
	}
	for _, name := range slices.Sorted(maps.Keys(urls)) {
		d.line(1, "%s: {base_url: %s}", name, quote(urls[name]))
	}
	d.b.WriteByte('\n')
}

func (d *drafter) authentication() {
	var lines []string
	if d.doc.Components != nil {
		for _, name := range slices.Sorted(maps.Keys(d.doc.Components.SecuritySchemes)) {
			ref := d.doc.Components.SecuritySchemes[name]
			if ref == nil || ref.Value == nil {
				continue
			}
			switch s := ref.Value; {
			case s.Type == "http" && strings.EqualFold(s.Scheme, "bearer"):
				lines = append(lines, "{kind: bearer, secret: api_key}")
			case s.Type == "apiKey" && s.In == "header" && headerName.MatchString(s.Name):
				lines = append(lines, fmt.Sprintf("{kind: header, header: %s, secret: api_key}", quote(s.Name)))
			case s.Type == "oauth2" && s.Flows != nil && s.Flows.ClientCredentials != nil:
				if f := s.Flows.ClientCredentials; usableToken(f.TokenURL) {
					lines = append(lines, fmt.Sprintf("{kind: oauth2, token_url: %s, client_id: client_id, client_secret: client_secret}", quote(f.TokenURL)))
				}
			}
		}
	}
	lines = slices.Compact(lines)
	switch len(lines) {
	case 0:
		d.line(0, "auth: {kind: none} # CHECK: the document names no way to log in that is known here")
	case 1:
		d.line(0, "auth: %s", lines[0])
	default:
		d.line(0, "auth: # the first counts whose secrets are all configured")
		for _, l := range lines {
			d.line(1, "- %s", l)
		}
	}
	d.line(0, "# CHECK: credential_check: {method: GET, path: /...} # a request without effect that tells whether the key works")
	d.line(0, "# CHECK: limits: {calls: {kind: sliding_window, n: 60, window: 1m}} # and limits: [calls] in operations")
	d.b.WriteByte('\n')
}

// verdicts take over the documented errors, the more special ones first.
func (d *drafter) verdicts(ops []op) {
	said := map[int]string{}
	for _, o := range ops {
		if o.Responses == nil {
			continue
		}
		for code, r := range o.Responses.Map() {
			status, err := strconv.Atoi(code)
			if err != nil || status < 400 || status > 499 || r == nil || r.Value == nil || status == http.StatusTooManyRequests {
				continue
			}
			if said[status] == "" && r.Value.Description != nil {
				said[status] = comment(*r.Value.Description)
			}
			if _, ok := said[status]; !ok {
				said[status] = ""
			}
		}
	}
	if len(said) == 0 {
		return
	}
	d.line(0, "verdicts: # CHECK: what each answer means; 2xx, 429 and 5xx read as HTTP says")
	for _, status := range slices.Sorted(maps.Keys(said)) {
		verdict := "reject"
		switch status {
		case http.StatusUnauthorized, http.StatusForbidden:
			verdict = "halt"
		case http.StatusRequestTimeout, http.StatusTooEarly:
			verdict = "retry"
		case http.StatusGone, http.StatusMethodNotAllowed:
			verdict = "gone"
		}
		about := ""
		if said[status] != "" {
			about = " # " + said[status]
		}
		d.line(1, "- {status: %d, verdict: %s, reason: status_%d}%s", status, verdict, status, about)
	}
	d.b.WriteByte('\n')
}

// A drafted operation, for suggestions.
type drafted struct {
	name, method, path string
	params             []string // of the path
	id                 string   // field of the answer that names the object, "" if none does
	fields             []string // of the body, dotted
	required           map[string]bool
}

var (
	headerName      = regexp.MustCompile(`^[A-Za-z0-9-]{1,100}$`)
	idempotencyName = regexp.MustCompile(`(?i)idempotency`)
	pathParam       = regexp.MustCompile(`\{([^{}]*)\}`)
)

func (d *drafter) operation(o op) drafted {
	name := cmp.Or(word(o.OperationID), word(strings.ToLower(o.method)+" "+pathParam.ReplaceAllString(o.path, "by $1")), "operation")
	name = unused(name, func(s string) bool { return d.names[s] })
	d.names[name] = true
	out := drafted{name: name, method: o.method, path: o.path, required: map[string]bool{}}
	if s := cmp.Or(comment(o.Summary), comment(o.Description)); s != "" {
		d.line(1, "# %s", s)
	}
	if o.Deprecated {
		d.line(1, "# CHECK: the document says that this operation is deprecated")
	}
	d.line(1, "%s:", name)
	d.line(2, "method: %s", o.method)
	path := pathParam.ReplaceAllStringFunc(o.path, func(m string) string {
		param := unused(cmp.Or(word(m[1:len(m)-1]), "id"), func(s string) bool { return slices.Contains(out.params, s) })
		out.params = append(out.params, param)
		return "{" + param + "}"
	})
	d.line(2, "path: %s", quote(path))
	read := o.method == http.MethodGet
	key := d.idempotency(o)
	switch {
	case read:
	case key != "":
		d.line(2, "class: key # the document has the header %s", key)
		d.line(2, "key: {in: header, name: %s}", quote(key))
		d.line(2, "# CHECK: key_retention: 24h # for how long the vendor knows a key")
	case o.method == http.MethodPut || o.method == http.MethodPatch || o.method == http.MethodDelete:
		d.line(2, "class: overwrite # CHECK: does the same request, sent again, change nothing more? if not: none")
	default:
		d.line(2, "class: none # CHECK: does the vendor recognise a repeat, by a key or an id of ours? then: key")
	}
	if !read {
		d.body(o, &out)
	}
	out.id = d.answer(o)
	return out
}

// unused is name, or name with the first number from 2 on that makes it one that is not taken.
func unused(name string, taken func(string) bool) string {
	out := name
	for n := 2; taken(out); n++ {
		out = name + "_" + strconv.Itoa(n)
	}
	return out
}

func (d *drafter) idempotency(o op) string {
	for _, ps := range []openapi3.Parameters{o.Parameters, o.item.Parameters} {
		for _, p := range ps {
			if p != nil && p.Value != nil && p.Value.In == "header" && idempotencyName.MatchString(p.Value.Name) && headerName.MatchString(p.Value.Name) {
				return p.Value.Name
			}
		}
	}
	return ""
}

func (d *drafter) body(o op, out *drafted) {
	if o.RequestBody == nil || o.RequestBody.Value == nil {
		return
	}
	content := o.RequestBody.Value.Content
	media, form := jsonOf(content), false
	if media == nil {
		if media = content["application/x-www-form-urlencoded"]; media == nil {
			if len(content) > 0 {
				d.line(2, "# CHECK: the body is %s, which is not known here", comment(strings.Join(slices.Sorted(maps.Keys(content)), ", ")))
			}
			return
		}
		form = true
	}
	if !declarable(properties(media.Schema)) {
		d.line(2, "# CHECK: the body has no field that can be declared")
		return
	}
	if form {
		d.line(2, "encoding: form")
	}
	d.line(2, "body:")
	d.fields(3, "", media.Schema, nil, true, out)
}

// fields writes declared fields. above are the schemas that ref stands in: one that holds itself ends there.
func (d *drafter) fields(indent int, prefix string, ref *openapi3.SchemaRef, above []*openapi3.Schema, required bool, out *drafted) {
	above = append(slices.Clip(above), ref.Value)
	props := properties(ref)
	for _, name := range slices.Sorted(maps.Keys(props)) {
		if d.b.Len() > profile.FileBytesMax {
			return // too large already
		}
		if !fieldName.MatchString(name) {
			d.line(indent, "# CHECK: a field named %s", comment(strconv.Quote(name)))
			continue
		}
		p := props[name]
		if p == nil || p.Value == nil || p.Value.ReadOnly {
			continue
		}
		kind := kindOf(p.Value)
		need := required && isRequired(ref, name)
		parts := []string{"type: " + kind}
		if need {
			parts = append(parts, "required: true")
		}
		inner := properties(p)
		if kind == "object" && declarable(inner) && len(above) < depthMax && !slices.Contains(above, p.Value) {
			d.line(indent, "%s:", quote(name))
			for _, part := range parts {
				d.line(indent+1, "%s", part)
			}
			d.line(indent+1, "fields:")
			d.fields(indent+2, prefix+name+".", p, above, need, out)
			continue
		}
		if words := enumOf(p.Value); kind == "string" && len(words) > 0 {
			parts = append(parts, "enum: ["+strings.Join(words, ", ")+"]")
		}
		if p.Value.MaxLength != nil && kind == "string" && *p.Value.MaxLength > 0 && *p.Value.MaxLength < 1<<31 {
			parts = append(parts, fmt.Sprintf("max: %d", *p.Value.MaxLength))
		}
		d.line(indent, "%s: {%s}", quote(name), strings.Join(parts, ", "))
		out.fields = append(out.fields, prefix+name)
		out.required[prefix+name] = need
	}
}

// declarable reports whether one of the fields can be declared in a body.
func declarable(props openapi3.Schemas) bool {
	for name, p := range props {
		if fieldName.MatchString(name) && p != nil && p.Value != nil && !p.Value.ReadOnly {
			return true
		}
	}
	return false
}

// answer declares the field of the answer that names the object, and gives it: id before another that ends so.
func (d *drafter) answer(o op) string {
	if o.Responses == nil {
		return ""
	}
	all := o.Responses.Map()
	for _, code := range slices.Sorted(maps.Keys(all)) {
		r := all[code]
		if !strings.HasPrefix(code, "2") || r == nil || r.Value == nil {
			continue
		}
		media := jsonOf(r.Value.Content)
		if media == nil {
			continue
		}
		props := properties(media.Schema)
		for _, name := range append([]string{"id"}, slices.Sorted(maps.Keys(props))...) {
			if p := props[name]; p != nil && p.Value != nil && fieldName.MatchString(name) && (name == "id" || strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "Id")) {
				if kind := kindOf(p.Value); kind == "string" || kind == "integer" {
					d.line(2, "answer: {%s: %s}", quote(name), kind)
					return name
				}
			}
		}
		return ""
	}
	return ""
}

// canonical are words of vendors for fields of events, beside those that have the same name.
var canonical = map[string]string{
	"name": "legal_name", "full_name": "legal_name", "company_name": "legal_name", "first": "first_name", "given_name": "first_name", "last": "last_name",
	"family_name": "last_name", "surname": "last_name", "email_address": "email", "phone_number": "phone", "mobile": "phone", "amount": "total_minor",
	"amount_cents": "total_minor", "total": "total_minor", "currency_code": "currency", "due_at": "due_date", "street": "billing_address.line1",
	"city": "billing_address.city", "zip": "billing_address.postal_code", "postal_code": "billing_address.postal_code", "country": "billing_address.country",
	"line1": "billing_address.line1", "line2": "billing_address.line2",
}

var entityWords = []struct {
	entity string
	words  *regexp.Regexp
}{
	{"invoice", regexp.MustCompile(`(?i)invoice|payment|charge|intent|bill\b`)},
	{"contract", regexp.MustCompile(`(?i)contract|subscription|agreement`)},
	{"customer", regexp.MustCompile(`(?i)customer|user|account|client|contact|person|payer`)},
}

// routes: each entity is ignored; what might be mapped stands beside it as comments.
func (d *drafter) routes(ops []drafted) {
	d.b.WriteByte('\n')
	d.line(0, "# CHECK: what events mean to the vendor. Until a route has steps, its events are ignored with this reason.")
	d.line(0, "routes:")
	for _, entity := range []string{"customer", "contract", "invoice"} {
		d.line(1, "%s:", entity)
		d.line(2, "entity: %s", entity)
		d.line(2, "semantics: latest")
		first := true
		for _, o := range ops {
			if o.method == http.MethodGet || entityOf(o) != entity {
				continue
			}
			if first {
				d.line(2, "# steps:")
				first = false
			}
			d.line(2, "#   %s:", o.name)
			d.line(2, "#     operation: %s", o.name)
			if len(o.params) > 0 {
				d.line(2, "#     params: {%s: ids.%s_id}", strings.Join(o.params, fmt.Sprintf(": ids.%s_id, ", entity)), entity)
			}
			mapped := false
			for _, f := range o.fields {
				value, sure := d.suggest(entity, f)
				note := ""
				if !sure && o.required[f] {
					note = " # CHECK: required"
				}
				if value != "" || o.required[f] {
					if !mapped {
						d.line(2, "#     map:")
						mapped = true
					}
					d.line(2, "#       %s: %s%s", f, cmp.Or(value, "..."), note)
				}
			}
			if o.method == http.MethodPost && o.id != "" {
				d.line(2, "#     remember: {ids: {%s_id: body.%s}}", entity, o.id)
			}
		}
		d.line(2, "cases:")
		d.line(3, "- {ignore: not_mapped_yet}")
	}
}

func entityOf(o drafted) string {
	for _, e := range entityWords {
		if e.words.MatchString(o.name) || e.words.MatchString(o.path) {
			return e.entity
		}
	}
	return ""
}

// suggest is the event's field that a body's field plainly is, "" if none.
func (d *drafter) suggest(entity, field string) (string, bool) {
	last := snake(field[strings.LastIndexByte(field, '.')+1:])
	for _, name := range []string{last, canonical[last]} {
		top, _, _ := strings.Cut(name, ".")
		if name != "" && slices.Contains(d.o.Known[entity], top) {
			return "event." + name, true
		}
	}
	return "", false
}

func jsonOf(c openapi3.Content) *openapi3.MediaType {
	for _, name := range slices.Sorted(maps.Keys(c)) {
		kind, _, _ := strings.Cut(name, ";")
		if kind = strings.TrimSpace(kind); kind == "application/json" || strings.HasSuffix(kind, "+json") {
			return c[name]
		}
	}
	return nil
}

// properties are those of a schema and of what it is composed of by allOf.
func properties(ref *openapi3.SchemaRef) openapi3.Schemas {
	out := openapi3.Schemas{}
	collect(ref, out, map[*openapi3.Schema]bool{})
	return out
}

func collect(ref *openapi3.SchemaRef, out openapi3.Schemas, seen map[*openapi3.Schema]bool) {
	if ref == nil || ref.Value == nil || seen[ref.Value] {
		return
	}
	seen[ref.Value] = true
	for _, s := range ref.Value.AllOf {
		collect(s, out, seen)
	}
	maps.Copy(out, ref.Value.Properties)
}

func isRequired(ref *openapi3.SchemaRef, name string) bool {
	if ref == nil || ref.Value == nil {
		return false
	}
	return slices.Contains(ref.Value.Required, name) || slices.ContainsFunc(ref.Value.AllOf, func(s *openapi3.SchemaRef) bool {
		return s != nil && s.Value != nil && slices.Contains(s.Value.Required, name)
	})
}

func kindOf(s *openapi3.Schema) string {
	if s.Type != nil {
		for _, k := range []string{"string", "integer", "number", "boolean", "array", "object"} {
			if s.Type.Includes(k) {
				return k
			}
		}
	}
	if len(s.Enum) > 0 {
		return "string"
	}
	return "object"
}

var enumWord = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]{0,63}$`)

func enumOf(s *openapi3.Schema) (words []string) {
	for _, v := range s.Enum {
		w, ok := v.(string)
		if !ok || !enumWord.MatchString(w) {
			return nil
		}
		words = append(words, quote(w))
	}
	return slices.Compact(words)
}

var fieldName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{0,63}$`)

// word makes a name of a profile: lower-case words joined by _.
func word(s string) string {
	s = snake(s)
	if s != "" && (s[0] < 'a' || s[0] > 'z') {
		s = "x_" + strings.TrimLeft(s, "_")
	}
	return strings.TrimRight(s[:min(len(s), 60)], "_")
}

func snake(s string) string {
	var b strings.Builder
	last := rune('_')
	for _, r := range s {
		switch {
		case r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r):
			r = '_'
		case unicode.IsUpper(r) && (unicode.IsLower(last) || unicode.IsDigit(last)):
			b.WriteByte('_')
		}
		if r != '_' || last != '_' {
			b.WriteRune(unicode.ToLower(r))
		}
		last = r
	}
	return strings.Trim(b.String(), "_")
}

// quote is a YAML string in double quotes.
func quote(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return ' '
		}
		return r
	}, s)
	if plainWord.MatchString(s) && !slices.Contains([]string{"true", "false", "null", "yes", "no", "on", "off", "y", "n"}, strings.ToLower(s)) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s[:min(len(s), 500)]) + `"`
}

var plainWord = regexp.MustCompile(`^[A-Za-z_/][A-Za-z0-9_/.-]*$`)

// comment is text for one line behind #.
func comment(s string) string {
	s = strings.Join(strings.Fields(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar || r == '\u2028' || r == '\u2029' || r == '\u0085' {
			return ' '
		}
		return r
	}, s)), " ")
	if r := []rune(s); len(r) > 120 {
		s = string(r[:117]) + "..."
	}
	return s
}
