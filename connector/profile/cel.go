package profile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"github.com/weirsync/weir/schema"
)

// Bounds of one expression. They are far above what a mapping needs. Evaluation has no cost limit: CEL always ends,
// events are bounded by the decoder, and tracking the cost makes an evaluation three times as slow.
const (
	exprBytesMax = 4 << 10
	exprDepthMax = 64
)

// errAbsent says that a field of the data is not there, or that what should hold it is null. It names no value.
type errAbsent struct{ field string }

func (e *errAbsent) Error() string { return "no value for " + e.field }

// errUnresolved says that a reference was used before it was resolved: a mistake of the caller, not of the event.
type errUnresolved struct{ name string }

func (e *errUnresolved) Error() string { return "reference " + e.name + " is not resolved" }

// Names of the struct types that expressions see beside the event's own.
const (
	typeEntity = "weir.Entity"
	typeIDs    = "weir.IDs"
	typeRemem  = "weir.Remembered"
	typeRefs   = "weir.References"
	typeVars   = "weir.Vars"
	typeAnswer = "weir.Answer"
)

// A provider gives CEL the types of one route's variables and reads their fields.
type provider struct {
	types.Provider
	structs map[string]*typ
	// get reads a field of a struct type whose values are not map[string]any.
	get map[string]func(target any, field string) (any, error)
}

func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if p.structs[name] != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Provider.FindStructType(name)
}

func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	if t := p.structs[name]; t != nil {
		return t.names(), true
	}
	return p.Provider.FindStructFieldNames(name)
}

func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	t := p.structs[name]
	if t == nil {
		return p.Provider.FindStructFieldType(name, field)
	}
	ft := t.field(field)
	if ft == nil {
		return nil, false
	}
	get := p.get[name]
	if get == nil {
		get = func(target any, field string) (any, error) { return recordField(target, field, ft.nullable) }
	}
	return &types.FieldType{
		Type: ft.cel(),
		IsSet: func(target any) bool {
			v, err := get(target, field)
			return err == nil && v != nil
		},
		GetFrom: func(target any) (any, error) { return get(target, field) },
	}, true
}

// NewValue: expressions read structs, they do not make them.
func (p *provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if p.structs[name] != nil {
		return types.NewErr("%s cannot be constructed", name)
	}
	return p.Provider.NewValue(name, fields)
}

// recordField reads a field of a decoded record. A nullable field that an older projection did not fill is null.
func recordField(target any, field string, nullable bool) (any, error) {
	m, _ := target.(map[string]any)
	v, ok := m[field]
	if !ok && (!nullable || m == nil) {
		return nil, &errAbsent{field}
	}
	return v, nil
}

// add registers the record types within t.
func (p *provider) add(t *typ) {
	if t == nil {
		return
	}
	if t.kind == kindRecord {
		if old := p.structs[t.name]; old != nil && len(old.fields) >= len(t.fields) {
			return // a type that contains itself
		}
		p.structs[t.name] = t
		for _, f := range t.fields {
			p.add(f.typ)
		}
	}
	p.add(t.elem)
}

// stringField reads a field of a map of strings, where what is absent is null.
func stringField(target any, field string) (any, error) {
	m, ok := target.(map[string]string)
	if !ok {
		return nil, &errAbsent{field}
	}
	if v, ok := m[field]; ok {
		return v, nil
	}
	return nil, nil
}

func nullableStrings(name string, fields []string) *typ {
	t := &typ{kind: kindRecord, name: name}
	for _, f := range fields {
		t.fields = append(t.fields, typField{f, &typ{kind: kindString, nullable: true}})
	}
	return t
}

// entityType is the variable entity: what is known of every event, a tombstone included.
var entityType = &typ{kind: kindRecord, name: typeEntity, fields: []typField{
	{"type", &typ{kind: kindString}},
	{"id", &typ{kind: kindString}},
	{"version", &typ{kind: kindInt}},
	{"revision", &typ{kind: kindString}},
	{"operation", &typ{kind: kindString, symbols: []string{"upsert", "delete"}}},
	{"tenant", &typ{kind: kindString}},
	{"event_id", &typ{kind: kindString}},
	{"tombstone", &typ{kind: kindBool}},
}}

func entityField(target any, field string) (any, error) {
	e, ok := target.(*schema.Event)
	if !ok {
		return nil, &errAbsent{field}
	}
	switch field {
	case "type":
		return e.Entity, nil
	case "id":
		return e.Key, nil
	case "version":
		return e.Version, nil
	case "revision":
		return revision(e), nil
	case "operation":
		return string(e.Operation), nil
	case "tenant":
		return e.Tenant, nil
	case "event_id":
		return e.ID, nil
	case "tombstone":
		return e.Tombstone, nil
	}
	return nil, &errAbsent{field}
}

// revision is the entity version, or the event id where there is no version (design section 6).
func revision(e *schema.Event) string {
	if e.Version == 0 {
		return e.ID
	}
	return strconv.FormatInt(e.Version, 10)
}

// A scope is what the expressions of one place may use.
type scope struct {
	env   *cel.Env
	prov  *provider
	roots map[string]*typ // variables, for hints and for checks of enum values
	names []string        // every name that can stand in an expression, for hints
}

// routeScopes are the scopes of a route: cases (before references are resolved) and steps.
type routeScopes struct {
	cases, steps *scope
}

func newRouteScopes(event *typ, t *route, routes []*route, vars []variable) (*routeScopes, error) {
	roots := map[string]*typ{
		"event":      event,
		"entity":     entityType,
		"ids":        nullableStrings(typeIDs, t.idNames()),
		"remembered": nullableStrings(typeRemem, t.rememberNames()),
		"vars":       varsType(vars),
	}
	get := map[string]func(any, string) (any, error){typeEntity: entityField, typeIDs: stringField, typeRemem: stringField}
	cases, err := newScope(roots, nil, get)
	if err != nil {
		return nil, err
	}
	refs := &typ{kind: kindRecord, name: typeRefs}
	get[typeRefs] = func(target any, field string) (any, error) {
		m, _ := target.(map[string]Ref)
		r, ok := m[field]
		if !ok {
			return nil, &errUnresolved{field}
		}
		return r, nil
	}
	for _, rf := range t.references {
		name := typeRefs + "." + rf.name
		var fields []string
		for _, o := range routes {
			if o.entity == rf.entity {
				fields = append(fields, o.idNames()...)
				fields = append(fields, o.rememberNames()...)
			}
		}
		refs.fields = append(refs.fields, typField{rf.name, nullableStrings(name, fields)})
		get[name] = func(target any, field string) (any, error) {
			r, ok := target.(Ref)
			if !ok {
				return nil, &errUnresolved{rf.name}
			}
			if v, ok := r.IDs[field]; ok {
				return v, nil
			}
			return stringField(r.Remembered, field)
		}
	}
	withRefs := cloneRoots(roots)
	withRefs["ref"] = refs
	steps, err := newScope(withRefs, nil, get)
	if err != nil {
		return nil, err
	}
	return &routeScopes{cases: cases, steps: steps}, nil
}

// answerScope is the scope of remember: that of steps and the answer.
func answerScope(steps *scope, answer *bodyField) (*scope, error) {
	roots := cloneRoots(steps.roots)
	body := &typ{}
	if answer != nil {
		body = answerType(typeAnswer, answer)
	}
	roots["body"] = body
	return newScope(roots, answerVars, steps.prov.get)
}

// verdictScope is the scope of verdicts: the answer alone.
func verdictScope() (*scope, error) {
	return newScope(map[string]*typ{"body": {}}, answerVars, nil)
}

var answerVars = map[string]*typ{
	"status":  {kind: kindInt},
	"headers": {kind: kindMap, elem: &typ{kind: kindString}},
}

func cloneRoots(m map[string]*typ) map[string]*typ {
	c := make(map[string]*typ, len(m)+1)
	for k, v := range m {
		c[k] = v
	}
	return c
}

// answerType turns the declared fields of an answer into a type. All of them may be missing: it is the vendor's
// word against ours.
func answerType(name string, f *bodyField) *typ {
	t := &typ{nullable: true}
	switch f.kind {
	case "string":
		t.kind = kindString
	case "integer":
		t.kind = kindInt
	case "number":
		t.kind = kindDouble
	case "boolean":
		t.kind = kindBool
	case "object":
		if f.fields == nil {
			return t
		}
		t.kind, t.name = kindRecord, name
		for _, c := range f.fields {
			t.fields = append(t.fields, typField{c.name, answerType(name+"."+c.name, c)})
		}
	}
	return t
}

func varsType(vars []variable) *typ {
	t := &typ{kind: kindRecord, name: typeVars}
	for _, v := range vars {
		vt := &typ{kind: kindString, nullable: v.optional, symbols: v.enum}
		switch v.kind {
		case "integer":
			vt.kind = kindInt
		case "boolean":
			vt.kind = kindBool
		}
		t.fields = append(t.fields, typField{v.name, vt})
	}
	return t
}

func newScope(roots, more map[string]*typ, get map[string]func(any, string) (any, error)) (*scope, error) {
	base, err := cel.NewEnv(append(library(),
		cel.OptionalTypes(), cel.DefaultUTCTimeZone(true), cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(exprBytesMax), cel.ParserRecursionLimit(exprDepthMax), cel.ExpressionNestingDepthLimit(exprDepthMax))...)
	if err != nil {
		return nil, fmt.Errorf("build the CEL environment: %w", err)
	}
	p := &provider{Provider: base.CELTypeProvider(), structs: map[string]*typ{}, get: get}
	s := &scope{prov: p, roots: cloneRoots(roots), names: slices.Clone(functionNames)}
	for k, v := range more {
		s.roots[k] = v
	}
	opts := []cel.EnvOption{cel.CustomTypeProvider(p)}
	for name, t := range s.roots {
		p.add(t)
		opts = append(opts, cel.Variable(name, t.cel()))
		s.names = append(s.names, name)
	}
	slices.Sort(s.names)
	if s.env, err = base.Extend(opts...); err != nil {
		return nil, fmt.Errorf("build the CEL environment: %w", err)
	}
	return s, nil
}

// A program is one compiled expression. It is safe for concurrent use.
type program struct {
	src source
	out *types.Type
	prg cel.Program
	// fast is set for event.a.b: its value is looked up without CEL.
	fast []string
	null bool // fast: the last field may be null
	// short tries to do without CEL.
	short evaluation
	// constant: the expression is a literal, value its value.
	constant bool
	value    any

	events []string // paths of the event that it reads, in the order of reading
	refs   []string // references that it reads
	vars   []string // vars that it reads
	known  []string // ids and remembered fields that it reads, with ids. or remembered. before
	answer bool     // it reads body, status or headers
}

// compile parses and checks an expression. It reports what is wrong with it and then returns nil.
func (r *reader) compile(s *scope, src source) *program {
	if len(src.text) > exprBytesMax {
		r.at(src.at, "", "the expression has more than %d bytes", exprBytesMax)
		return nil
	}
	ast, iss := s.env.Compile(src.text)
	if iss.Err() != nil {
		for _, e := range iss.Errors() {
			why, hint := explain(e.Message, s)
			at := src.at
			if src.inline && e.Location.Line() == 1 {
				at.column += max(0, e.Location.Column())
			}
			if !src.inline || e.Location.Line() > 1 {
				why = fmt.Sprintf("%s (line %d, column %d of the expression)", why, e.Location.Line(), e.Location.Column()+1)
			}
			r.at(at, hint, "%s", why)
		}
		return nil
	}
	p := &program{src: src, out: ast.OutputType()}
	if !r.inspect(s, p, ast.NativeRep()) {
		return nil
	}
	prg, err := s.env.Program(ast, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		r.at(src.at, "", "%v", err)
		return nil
	}
	p.prg = prg
	return p
}

// explain turns a message of CEL into a reason and a hint.
func explain(msg string, s *scope) (why, hint string) {
	msg = strings.TrimSuffix(msg, " (in container '')")
	quoted := ""
	if _, rest, ok := strings.Cut(msg, "'"); ok {
		quoted, _, _ = strings.Cut(rest, "'")
	}
	switch {
	case strings.HasPrefix(msg, "undefined field"):
		var known []string
		for _, t := range s.prov.structs {
			known = append(known, t.names()...)
		}
		slices.Sort(known)
		if n := nearest(quoted, slices.Compact(known)); n != "" {
			hint = "did you mean " + n + "?"
		}
	case strings.HasPrefix(msg, "undeclared reference"):
		msg = fmt.Sprintf("%s is neither a variable nor a function", quoted)
		hint = meant(quoted, s.names)
		if nearest(quoted, s.names) == "" {
			var vars []string
			for v := range s.roots {
				vars = append(vars, v)
			}
			slices.Sort(vars)
			hint = "variables here: " + strings.Join(vars, ", ")
		}
	case strings.HasPrefix(msg, "Syntax error"):
		hint = "see FORMAT.md for the expression language"
		msg, _, _ = strings.Cut(msg, " expecting ") // every token that the grammar has
		if strings.HasSuffix(msg, "'<EOF>'") {
			msg = "Syntax error: the expression ends too early"
		}
	}
	return msg, hint
}

// inspect walks a checked tree: which fields are read, whether the fast path serves, and whether an enum is
// compared with a value that it never has.
func (r *reader) inspect(s *scope, p *program, tree *celast.AST) bool {
	in := inspector{scope: s, p: p, tree: tree, bound: map[string]string{}}
	root := tree.Expr()
	in.walk(root)
	ok := true
	for _, b := range in.bad {
		loc := tree.SourceInfo().GetStartLocation(b.id)
		at := p.src.at
		if p.src.inline && loc.Line() == 1 {
			at.column += max(0, loc.Column())
		}
		r.at(at, b.hint, "%s", b.why)
		ok = false
	}
	if root.Kind() == celast.LiteralKind {
		p.constant = true
		p.value = native(root.AsLiteral())
	}
	if path, t, fast := in.plainPath(root); fast && len(path) > 0 {
		p.fast, p.null = path, t.nullable
	}
	p.short = in.shortcut(root)
	return ok
}

type badValue struct {
	id        int64
	why, hint string
}

type inspector struct {
	scope *scope
	p     *program
	tree  *celast.AST
	bound map[string]string // variables of comprehensions -> path of what they range over
	bad   []badValue
}

// path is the dotted path of a chain of selections from a variable, "" and false if e is none.
func (in *inspector) path(e celast.Expr) (string, bool) {
	switch e.Kind() {
	case celast.IdentKind:
		name := e.AsIdent()
		if b, ok := in.bound[name]; ok {
			return b, b != ""
		}
		return name, in.scope.roots[name] != nil
	case celast.SelectKind:
		if base, ok := in.path(e.AsSelect().Operand()); ok {
			return base + "." + e.AsSelect().FieldName(), true
		}
	case celast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			base, ok := in.path(c.Args()[0])
			if !ok || c.Args()[1].Kind() != celast.LiteralKind {
				return "", false
			}
			switch v := c.Args()[1].AsLiteral().(type) {
			case types.String:
				return base + "." + string(v), true
			case types.Int:
				return base + "[" + strconv.FormatInt(int64(v), 10) + "]", true
			}
		}
	}
	return "", false
}

// note records what a chain reads.
func (in *inspector) note(path string) {
	root, rest, _ := strings.Cut(path, ".")
	add := func(to *[]string, s string) {
		if s != "" && !slices.Contains(*to, s) {
			*to = append(*to, s)
		}
	}
	first, _, _ := strings.Cut(rest, ".")
	switch root {
	case "event":
		if rest == "" {
			rest = "*"
		}
		add(&in.p.events, rest)
	case "ref":
		add(&in.p.refs, first)
	case "vars":
		add(&in.p.vars, first)
	case "ids", "remembered":
		add(&in.p.known, root+"."+first)
	case "body", "status", "headers":
		in.p.answer = true
	}
}

func (in *inspector) walk(e celast.Expr) {
	if path, ok := in.path(e); ok {
		in.note(path)
		return
	}
	switch e.Kind() {
	case celast.SelectKind:
		in.walk(e.AsSelect().Operand())
	case celast.CallKind:
		c := e.AsCall()
		in.enum(c)
		if c.IsMemberFunction() {
			in.walk(c.Target())
		}
		for _, a := range c.Args() {
			in.walk(a)
		}
	case celast.ListKind:
		for _, x := range e.AsList().Elements() {
			in.walk(x)
		}
	case celast.MapKind:
		for _, x := range e.AsMap().Entries() {
			in.walk(x.AsMapEntry().Key())
			in.walk(x.AsMapEntry().Value())
		}
	case celast.StructKind:
		for _, x := range e.AsStruct().Fields() {
			in.walk(x.AsStructField().Value())
		}
	case celast.ComprehensionKind:
		c := e.AsComprehension()
		in.walk(c.IterRange())
		in.walk(c.AccuInit())
		over, ok := in.path(c.IterRange())
		if ok {
			over += "[]"
		}
		saved := in.bound
		in.bound = map[string]string{c.IterVar(): over, c.AccuVar(): ""}
		for k, v := range saved {
			if _, ok := in.bound[k]; !ok {
				in.bound[k] = v
			}
		}
		in.walk(c.LoopCondition())
		in.walk(c.LoopStep())
		in.walk(c.Result())
		in.bound = saved
	}
}

// symbols are the values that e can have, nil if it is not an enum.
func (in *inspector) symbols(e celast.Expr) []string {
	path, ok := in.path(e)
	if !ok {
		return nil
	}
	parts := strings.Split(path, ".")
	t := in.scope.roots[parts[0]]
	for _, part := range parts[1:] {
		name, rest, _ := strings.Cut(part, "[")
		if t == nil {
			return nil
		}
		if t.kind == kindMap {
			t = t.elem
		} else {
			t = t.field(name)
		}
		for range strings.Count(rest, "]") {
			if t == nil || t.kind != kindList {
				return nil
			}
			t = t.elem
		}
	}
	if t == nil {
		return nil
	}
	return t.symbols
}

// enum checks comparisons of an enum with texts: a symbol that does not exist makes a condition that never holds.
func (in *inspector) enum(c celast.CallExpr) {
	check := func(of, with celast.Expr) {
		symbols := in.symbols(of)
		if symbols == nil || with.Kind() != celast.LiteralKind {
			return
		}
		v, ok := with.AsLiteral().(types.String)
		if ok && !slices.Contains(symbols, string(v)) {
			path, _ := in.path(of)
			in.bad = append(in.bad, badValue{with.ID(), fmt.Sprintf("%s is never %q", path, clip(string(v))), meant(string(v), symbols)})
		}
	}
	switch c.FunctionName() {
	case operators.Equals, operators.NotEquals:
		check(c.Args()[0], c.Args()[1])
		check(c.Args()[1], c.Args()[0])
	case operators.In:
		if l := c.Args()[1]; l.Kind() == celast.ListKind {
			for _, x := range l.AsList().Elements() {
				check(c.Args()[0], x)
			}
		}
	}
}

// plainPath is the field names of event.a.b through records only.
func (in *inspector) plainPath(e celast.Expr) ([]string, *typ, bool) {
	switch e.Kind() {
	case celast.IdentKind:
		if e.AsIdent() == "event" {
			return nil, in.scope.roots["event"], true
		}
	case celast.SelectKind:
		s := e.AsSelect()
		if s.IsTestOnly() {
			return nil, nil, false
		}
		path, t, ok := in.plainPath(s.Operand())
		if !ok || t == nil || t.kind != kindRecord {
			return nil, nil, false
		}
		return append(path, s.FieldName()), t.field(s.FieldName()), true
	}
	return nil, nil, false
}

// An activation holds the values of an expression's variables.
type activation struct {
	in   *Input
	vars map[string]any
	ans  *parsedAnswer
}

var _ interpreter.Activation = (*activation)(nil)

// ResolveName implements CEL's Activation.
func (a *activation) ResolveName(name string) (any, bool) {
	switch name {
	case "event":
		return a.in.Event.Fields, true
	case "entity":
		return a.in.Event, true
	case "ids":
		return a.in.IDs, true
	case "remembered":
		return a.in.Remembered, true
	case "ref":
		return a.in.Refs, true
	case "vars":
		return a.vars, true
	case "body":
		return a.ans.json(), a.ans != nil
	case "status":
		if a.ans == nil {
			return nil, false
		}
		return int64(a.ans.answer.Status), true
	case "headers":
		return a.ans.headers(), a.ans != nil
	}
	return nil, false
}

// Parent implements CEL's Activation.
func (a *activation) Parent() interpreter.Activation { return nil }

// eval is the value of the expression: nil, string, int64, float64, bool, []byte, time.Time, map[string]any, []any,
// or a ref.Val that is a list or a map. An optional without a value is nil.
func (p *program) eval(a *activation) (any, error) {
	if p.constant {
		return p.value, nil
	}
	if p.fast != nil {
		return lookup(a.in.Event.Fields, p.fast, p.null)
	}
	if v, ok := p.short(a); ok {
		return v, nil
	}
	return p.interpret(a)
}

// interpret evaluates with CEL.
func (p *program) interpret(a *activation) (any, error) {
	v, _, err := p.prg.Eval(a)
	if err != nil {
		return nil, err
	}
	return native(v), nil
}

// holds is the value of a condition, in which nothing lies behind a null.
func (p *program) holds(a *activation) (bool, error) {
	v, ok := p.short(a)
	var err error
	if !ok {
		v, err = p.interpret(a)
	}
	if err != nil {
		return false, err
	}
	b, ok := v.(bool)
	if !ok {
		return false, errors.New("the condition is neither true nor false")
	}
	return b, nil
}

// lookup reads a plain path. What lies behind a null is null: event.billing_address.city has no value where there
// is no address, and the vendor's field decides whether that matters. A tombstone has no fields at all, which is an
// error: a mapping of state cannot mean it.
func lookup(m map[string]any, path []string, nullable bool) (any, error) {
	for i, name := range path {
		last := i == len(path)-1
		v, err := recordField(m, name, nullable || !last)
		if err != nil || last || v == nil {
			return v, err
		}
		if m, _ = v.(map[string]any); m == nil {
			return nil, &errAbsent{name}
		}
	}
	return m, nil
}

// native unwraps a CEL value.
func native(v ref.Val) any {
	switch v := v.(type) {
	case types.String:
		return string(v)
	case types.Int:
		return int64(v)
	case types.Uint:
		return uint64(v)
	case types.Bool:
		return bool(v)
	case types.Double:
		return float64(v)
	case types.Null:
		return nil
	case types.Timestamp:
		return v.Time
	case types.Bytes:
		return []byte(v)
	case *types.Optional:
		if !v.HasValue() {
			return nil
		}
		return native(v.GetValue())
	}
	switch x := v.Value().(type) {
	case map[string]any, []any:
		return x
	}
	return v
}

// blame is the path of the event to name when the expression cannot be evaluated: the first that it reads and
// that is absent or null, else the first that it reads.
func (p *program) blame(e *schema.Event) string {
	for _, path := range p.events {
		m, found := any(e.Fields), true
		for part := range strings.SplitSeq(path, ".") {
			if part, _, _ = strings.Cut(part, "["); part == "*" {
				break
			}
			fields, _ := m.(map[string]any)
			if m = fields[part]; m == nil {
				found = false
				break
			}
		}
		if !found {
			return path
		}
	}
	if len(p.events) > 0 {
		return p.events[0]
	}
	if len(p.known) > 0 {
		return p.known[0]
	}
	return ""
}
