package schema

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/goccy/go-yaml"

	"github.com/weirsync/weir/schema/shortcut"
)

// A Rule is one business rule as its file says it (design section 4). Expressions are CEL over the top-level
// fields of the entity's newest schema, type-checked when they are loaded: a field that does not exist is an error
// there. Beside CEL's own functions there are isCurrency(string) -> bool (a current ISO 4217 code) and
// sum(list, 'field') -> int (of an integer field of records; an overflow breaks the rule).
type Rule struct {
	ID     string `yaml:"id"`
	Entity string `yaml:"entity"` // "*": every entity
	// Each names a field that is a list: the rule is checked for each of its entries, called item in the
	// expressions, and the path's [] becomes the entry's index.
	Each    string `yaml:"each"`
	Path    string `yaml:"path"`    // of the field to blame
	When    string `yaml:"when"`    // only where this holds; empty: always
	Expr    string `yaml:"expr"`    // must hold
	Message string `yaml:"message"` // fixed text: it can hold no personal data
}

// A Violation is a rule that an event breaks. It holds nothing of the event.
type Violation struct {
	Rule    string
	Path    string
	Message string
}

// Rules are compiled rules of all entities. Immutable, so safe for concurrent use.
type Rules struct {
	byEntity map[string][]*compiledRule
	list     []Rule
}

type compiledRule struct {
	Rule
	when, expr *condition // when: nil for always
}

// A condition is a compiled expression.
type condition struct {
	prog  cel.Program
	short shortcut.Func[*activation]
}

// EmbeddedRules are the rule files that are built in, compiled for set.
func EmbeddedRules(set *Set) (*Rules, error) { return NewRules(set, EmbeddedRuleFiles()) }

// EmbeddedRuleFiles are the built-in rule files, for Rules that also read a directory:
// NewRules(set, schema.EmbeddedRuleFiles(), os.DirFS(dir)).
func EmbeddedRuleFiles() fs.FS {
	sub, err := fs.Sub(rulesFS, "rules")
	if err != nil {
		panic(err) // the name is a constant
	}
	return sub
}

// NewRules compiles all files *.yaml at the top of the file systems, in the order of their names. The error lists
// all that is wrong, with file and rule.
func NewRules(set *Set, files ...fs.FS) (*Rules, error) {
	rs := &Rules{byEntity: map[string][]*compiledRule{}}
	envs := map[string]*ruleEnv{}
	for _, e := range set.Entities() {
		env, err := newRuleEnv(set.Reader(e).Type)
		if err != nil {
			return nil, fmt.Errorf("rules of %s: %w", e, err)
		}
		envs[e] = env
	}
	var errs []error
	seen := map[string]string{}
	for _, f := range files {
		names, err := fs.Glob(f, "*.yaml")
		if err != nil {
			return nil, fmt.Errorf("read rule files: %w", err)
		}
		for _, name := range names {
			rules, err := readRules(f, name)
			if err != nil {
				errs = append(errs, fmt.Errorf("rule file %s: %w", name, err))
				continue
			}
			for i, r := range rules {
				at := fmt.Sprintf("rule file %s, rule %q (number %d)", name, r.ID, i+1)
				if r.ID == "" || r.Entity == "" || r.Path == "" || r.Expr == "" || r.Message == "" {
					errs = append(errs, fmt.Errorf("%s: id, entity, path, expr and message are required", at))
					continue
				}
				if other, twice := seen[r.ID]; twice {
					errs = append(errs, fmt.Errorf("%s: the id is taken by a rule of %s", at, other))
					continue
				}
				seen[r.ID] = name
				entities := []string{r.Entity}
				if r.Entity == "*" {
					entities = set.Entities()
				}
				for _, e := range entities {
					env := envs[e]
					if env == nil {
						errs = append(errs, fmt.Errorf("%s: entity %q has no schema: known are %s", at, e, strings.Join(set.Entities(), ", ")))
						continue
					}
					c, err := env.compile(r)
					if err != nil {
						errs = append(errs, fmt.Errorf("%s, for %s: %w", at, e, err))
						continue
					}
					rs.byEntity[e] = append(rs.byEntity[e], c)
				}
				rs.list = append(rs.list, r)
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return rs, nil
}

func readRules(f fs.FS, name string) ([]Rule, error) {
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var doc struct {
		Rules []Rule `yaml:"rules"`
	}
	if err := yaml.NewDecoder(file, yaml.Strict()).Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return doc.Rules, nil
}

// List returns the rules in the order in which they are checked.
func (rs *Rules) List() []Rule { return slices.Clone(rs.list) }

// Check returns the first rule that the fields break, nil if they keep all. fields are an Event's: in the form of
// the entity's newest schema. An expression that cannot be evaluated (an integer overflow, null where a value is
// needed) is a broken rule.
func (rs *Rules) Check(entity string, fields map[string]any) *Violation {
	act := &activation{fields: fields}
	for _, r := range rs.byEntity[entity] {
		if v := r.check(act); v != nil {
			return v
		}
	}
	return nil
}

// CheckAll returns every rule that the fields break, of a rule with each the first entry only.
func (rs *Rules) CheckAll(entity string, fields map[string]any) []*Violation {
	var out []*Violation
	act := &activation{fields: fields}
	for _, r := range rs.byEntity[entity] {
		if v := r.check(act); v != nil {
			out = append(out, v)
		}
	}
	return out
}

func (r *compiledRule) check(act *activation) *Violation {
	if r.Each == "" {
		return r.one(act, -1)
	}
	list, _ := act.fields[r.Each].([]any)
	for i, item := range list {
		act.item = item
		if v := r.one(act, i); v != nil {
			return v
		}
	}
	return nil
}

func (r *compiledRule) one(act *activation, i int) *Violation {
	ok, err := true, error(nil)
	if r.when != nil {
		if ok, err = truth(r.when, act); err == nil && !ok {
			return nil
		}
	}
	if err == nil {
		if ok, err = truth(r.expr, act); err == nil && ok {
			return nil
		}
	}
	v := &Violation{Rule: r.ID, Path: r.Path, Message: r.Message}
	if i >= 0 {
		v.Path = strings.Replace(v.Path, "[]", index(i), 1)
	}
	if err != nil { // CEL's own text may hold a value
		v.Message += " (the rule cannot be evaluated on this event: a number is too large or a value is missing)"
	}
	return v
}

func truth(c *condition, act *activation) (bool, error) {
	if v, ok := c.short(act); ok {
		if b, isBool := v.(bool); isBool {
			return b, nil
		}
	}
	out, _, err := c.prog.Eval(act)
	if err != nil {
		return false, err
	}
	b, ok := out.Value().(bool)
	if !ok {
		return false, errors.New("not a boolean")
	}
	return b, nil
}

// activation gives CEL the fields without copying them.
type activation struct {
	fields map[string]any
	item   any
}

func (a *activation) ResolveName(name string) (any, bool) {
	if v, ok := a.fields[name]; ok {
		return v, true
	}
	if name == itemName {
		return a.item, true
	}
	return nil, false
}

func (a *activation) Parent() cel.Activation { return nil }

const itemName = "item"

// ruleEnv compiles rules of one entity.
type ruleEnv struct {
	env  *cel.Env
	t    *Type
	prov *provider
}

func newRuleEnv(t *Type) (*ruleEnv, error) {
	base, err := types.NewRegistry()
	if err != nil {
		return nil, err
	}
	p := &provider{Registry: base, records: map[string]*Type{}}
	p.learn(t)
	opts := []cel.EnvOption{
		cel.CustomTypeAdapter(base),
		cel.CustomTypeProvider(p),
		cel.Function("isCurrency", cel.Overload("is_currency_string", []*cel.Type{cel.StringType}, cel.BoolType,
			cel.UnaryBinding(func(v ref.Val) ref.Val {
				s, ok := v.Value().(string)
				return types.Bool(ok && isCurrency(s))
			}))),
		cel.Function("sum", cel.Overload("sum_list_string", []*cel.Type{cel.ListType(cel.TypeParamType("T")), cel.StringType}, cel.IntType,
			cel.BinaryBinding(sum))),
	}
	for _, f := range t.Fields {
		opts = append(opts, cel.Variable(f.Name, p.celType(f.Type)))
	}
	env, err := cel.NewEnv(opts...)
	if err != nil {
		return nil, err
	}
	return &ruleEnv{env: env, t: t, prov: p}, nil
}

func (e *ruleEnv) compile(r Rule) (*compiledRule, error) {
	env := e.env
	if r.Each != "" {
		f := e.t.Field(r.Each)
		if f == nil || f.Type.Kind != Array {
			return nil, fmt.Errorf("each: %q is no list of this entity", r.Each)
		}
		if e.t.Field(itemName) != nil {
			return nil, fmt.Errorf("each: the entity has a field %q of its own", itemName)
		}
		var err error
		if env, err = env.Extend(cel.Variable(itemName, e.prov.celType(f.Type.Items))); err != nil {
			return nil, err
		}
	}
	c := &compiledRule{Rule: r}
	var err error
	if r.When != "" {
		if c.when, err = boolProgram(env, r.When); err != nil {
			return nil, fmt.Errorf("when: %w", err)
		}
	}
	if c.expr, err = boolProgram(env, r.Expr); err != nil {
		return nil, fmt.Errorf("expr: %w", err)
	}
	if at := strings.SplitN(strings.ReplaceAll(r.Path, "[]", ""), ".", 2)[0]; e.t.Field(at) == nil {
		return nil, fmt.Errorf("path: the entity has no field %q", at)
	}
	return c, nil
}

func boolProgram(env *cel.Env, text string) (*condition, error) {
	ast, iss := env.Compile(text)
	if err := iss.Err(); err != nil {
		return nil, err
	}
	if ast.OutputType() != cel.BoolType {
		return nil, fmt.Errorf("is %s, want bool", ast.OutputType())
	}
	prog, err := env.Program(ast, cel.EvalOptions(cel.OptOptimize))
	if err != nil {
		return nil, err
	}
	return &condition{prog, ruleShortcut(ast.NativeRep().Expr())}, nil
}

// ruleShortcut computes what rules are made of without the interpreter (package shortcut).
func ruleShortcut(e celast.Expr) shortcut.Func[*activation] {
	c := shortcut.Compiler[*activation]{Leaf: ruleLeaf}
	return c.Compile(e)
}

func ruleLeaf(e celast.Expr) shortcut.Func[*activation] {
	switch e.Kind() {
	case celast.IdentKind:
		name := e.AsIdent()
		return func(a *activation) (any, bool) { return a.ResolveName(name) }
	case celast.SelectKind:
		s := e.AsSelect()
		if s.IsTestOnly() {
			break
		}
		of, field := ruleShortcut(s.Operand()), s.FieldName()
		return func(a *activation) (any, bool) {
			v, ok := of(a)
			m, isRecord := v.(map[string]any)
			if !ok || !isRecord {
				return nil, false
			}
			v, ok = m[field]
			return v, ok
		}
	case celast.CallKind:
		c := e.AsCall()
		switch name, args := c.FunctionName(), c.Args(); {
		case name == "size" && !c.IsMemberFunction():
			of := ruleShortcut(args[0])
			return func(a *activation) (any, bool) {
				v, ok := of(a)
				switch v := v.(type) {
				case string:
					return int64(utf8.RuneCountInString(v)), ok
				case []any:
					return int64(len(v)), ok
				}
				return nil, false
			}
		case name == "isCurrency":
			return shortcut.OnText(ruleShortcut(args[0]), isCurrency)
		case name == "matches" && c.IsMemberFunction() && args[0].Kind() == celast.LiteralKind:
			pattern, _ := args[0].AsLiteral().Value().(string)
			if re, err := regexp.Compile(pattern); err == nil { // CEL's own are Go's too
				return shortcut.OnText(ruleShortcut(c.Target()), re.MatchString)
			}
		}
	}
	return shortcut.GiveBack[*activation]
}

// provider tells CEL the fields of records, so that expressions are type-checked against the schema.
type provider struct {
	*types.Registry
	records map[string]*Type
}

func (p *provider) learn(t *Type) {
	switch t.Kind {
	case RecordKind:
		if p.records[t.Name] != nil {
			return
		}
		p.records[t.Name] = t
		for _, f := range t.Fields {
			p.learn(f.Type)
		}
	case Array:
		p.learn(t.Items)
	case Map:
		p.learn(t.Values)
	case Union:
		for _, b := range t.Branches {
			p.learn(b)
		}
	}
}

func (p *provider) celType(t *Type) *cel.Type {
	if inner, ok := t.Nullable(); ok {
		ct := p.celType(inner)
		switch ct.Kind() {
		case types.BoolKind, types.BytesKind, types.DoubleKind, types.IntKind, types.StringKind:
			return types.NewNullableType(ct)
		case types.StructKind, types.TimestampKind:
			return ct // CEL lets these be null
		}
		return cel.DynType
	}
	switch t.Kind {
	case Null:
		return cel.NullType
	case Boolean:
		return cel.BoolType
	case Int, Long:
		switch t.LogicalType {
		case Date:
			return cel.StringType
		case TimestampMillis, TimestampMicros, TimestampNanos:
			return cel.TimestampType
		}
		return cel.IntType
	case Float, Double:
		return cel.DoubleType
	case Bytes, Fixed:
		if t.LogicalType == Decimal {
			return cel.StringType
		}
		return cel.BytesType
	case String, Enum:
		return cel.StringType
	case Array:
		return cel.ListType(p.celType(t.Items))
	case Map:
		return cel.MapType(cel.StringType, p.celType(t.Values))
	case RecordKind:
		return cel.ObjectType(t.Name)
	}
	return cel.DynType
}

func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if p.records[name] != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	t := p.records[name]
	if t == nil {
		return p.Registry.FindStructFieldNames(name)
	}
	names := make([]string, len(t.Fields))
	for i, f := range t.Fields {
		names[i] = f.Name
	}
	return names, true
}

func (p *provider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	t := p.records[name]
	if t == nil {
		return p.Registry.FindStructFieldType(name, field)
	}
	f := t.Field(field)
	if f == nil {
		return nil, false
	}
	return &types.FieldType{
		Type: p.celType(f.Type),
		IsSet: func(target any) bool {
			m, ok := target.(map[string]any)
			return ok && m[field] != nil
		},
		GetFrom: func(target any) (any, error) {
			m, ok := target.(map[string]any)
			if !ok {
				return nil, errors.New("no such record")
			}
			return m[field], nil
		},
	}, true
}

// sum adds an integer field of a list's records up.
func sum(list, name ref.Val) ref.Val {
	field, ok := name.Value().(string)
	if !ok {
		return types.NewErr("sum: the field's name is not a string")
	}
	var total int64
	add := func(x any) bool {
		m, _ := x.(map[string]any)
		n, ok := m[field].(int64)
		if !ok || n > 0 && total > math.MaxInt64-n || n < 0 && total < math.MinInt64-n {
			return false
		}
		total += n
		return true
	}
	if native, ok := list.Value().([]any); ok {
		for _, x := range native {
			if !add(x) {
				return types.NewErr("sum: not an integer, or too large")
			}
		}
		return types.Int(total)
	}
	l, ok := list.(traits.Lister)
	if !ok {
		return types.NewErr("sum: not a list")
	}
	for it := l.Iterator(); it.HasNext() == types.True; {
		if !add(it.Next().Value()) {
			return types.NewErr("sum: not an integer, or too large")
		}
	}
	return types.Int(total)
}

// isCurrency reports whether s is a current code of ISO 4217 (list one, 2025: national currencies and the fund
// codes that prices are quoted in; neither metals nor the code for tests), or one that was withdrawn so recently that
// unpaid invoices still carry it (ANG, BGN, CUC).
func isCurrency(s string) bool {
	switch s {
	case "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD", "BIF", "BMD",
		"BND", "BOB", "BOV", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHE", "CHF", "CHW", "CLF", "CLP",
		"CNY", "COP", "COU", "CRC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD",
		"FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF", "IDR", "ILS", "INR",
		"IQD", "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT", "LAK",
		"LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK",
		"MXN", "MXV", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR",
		"PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS",
		"SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS", "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH",
		"UGX", "USD", "USN", "UYI", "UYU", "UYW", "UZS", "VED", "VES", "VND", "VUV", "WST", "XAF", "XCD", "XCG", "XOF",
		"XPF", "YER", "ZAR", "ZMW", "ZWG", "ANG", "CUC":
		return true
	}
	return false
}
