package profile

import (
	"slices"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
)

// A shortcut computes an expression without the CEL interpreter, which costs some 0.6 us and 3 allocations for each
// evaluation of a condition (measured with BenchmarkPlanBuild). It never decides anything on its own: whatever it is
// not sure of, a value of an unexpected type, an absent field, a construct that it does not know, it gives back (ok
// false), and CEL evaluates the whole expression. TestShortcutsAgree compares the two.
type shortcut func(a *activation) (v any, ok bool)

// giveBack leaves the expression to CEL.
func giveBack(*activation) (any, bool) { return nil, false }

// textFunctions are the functions of library that take one text.
var textFunctions = map[string]func(string) any{
	"first_name": func(s string) any { return firstName(s) },
	"last_name":  func(s string) any { return lastName(s) },
	"us_state":   func(s string) any { return usState(s) },
	"is_email":   func(s string) any { return isEmail(s) },
	"is_country": func(s string) any { return isCountry(s) },
}

// shortcut is e's, giveBack if it has none.
func (in *inspector) shortcut(e celast.Expr) shortcut {
	switch e.Kind() {
	case celast.LiteralKind:
		switch v := native(e.AsLiteral()).(type) {
		case nil, string, int64, bool:
			return func(*activation) (any, bool) { return v, true }
		}
	case celast.SelectKind:
		return in.selection(e)
	case celast.CallKind:
		return in.call(e.AsCall())
	}
	return giveBack
}

func (in *inspector) selection(e celast.Expr) shortcut {
	if path, t, ok := in.plainPath(e); ok && len(path) > 0 && t != nil {
		switch t.kind {
		case kindString, kindInt, kindBool, kindRecord, kindMap:
			return strictPath(path, t.nullable)
		}
		return giveBack
	}
	s := e.AsSelect()
	if s.IsTestOnly() || s.Operand().Kind() != celast.IdentKind {
		return giveBack
	}
	field := s.FieldName()
	switch s.Operand().AsIdent() {
	case "ids":
		return func(a *activation) (any, bool) { return fromStrings(a.in.IDs, field), true }
	case "remembered":
		return func(a *activation) (any, bool) { return fromStrings(a.in.Remembered, field), true }
	case "vars":
		return func(a *activation) (any, bool) { v, ok := a.vars[field]; return v, ok }
	case "entity":
		return func(a *activation) (any, bool) { v, err := entityField(a.in.Event, field); return v, err == nil }
	}
	return giveBack
}

func fromStrings(m map[string]string, field string) any {
	if v, ok := m[field]; ok {
		return v
	}
	return nil
}

// strictPath reads event.a.b as CEL does: nothing lies behind a null.
func strictPath(path []string, nullable bool) shortcut {
	return func(a *activation) (any, bool) {
		m := a.in.Event.Fields
		for _, name := range path[:len(path)-1] {
			next, ok := m[name].(map[string]any)
			if !ok {
				return nil, false
			}
			m = next
		}
		v, ok := m[path[len(path)-1]]
		return v, ok && (v != nil || nullable)
	}
}

func (in *inspector) call(c celast.CallExpr) shortcut {
	args := c.Args()
	switch name := c.FunctionName(); {
	case name == operators.LogicalAnd && len(args) == 2:
		return in.logical(args, false)
	case name == operators.LogicalOr && len(args) == 2:
		return in.logical(args, true)
	case name == operators.LogicalNot && len(args) == 1:
		of := in.shortcut(args[0])
		return func(a *activation) (any, bool) {
			v, ok := of(a)
			b, isBool := v.(bool)
			return !b, ok && isBool
		}
	case name == operators.Equals || name == operators.NotEquals:
		return equality(in.shortcut(args[0]), in.shortcut(args[1]), name == operators.NotEquals)
	case name == operators.In && args[1].Kind() == celast.ListKind:
		return in.membership(args[0], args[1].AsList().Elements())
	case name == operators.Less || name == operators.LessEquals || name == operators.Greater || name == operators.GreaterEquals:
		return comparison(in.shortcut(args[0]), in.shortcut(args[1]), name)
	case name == operators.Conditional:
		cond, then, otherwise := in.shortcut(args[0]), in.shortcut(args[1]), in.shortcut(args[2])
		return func(a *activation) (any, bool) {
			v, ok := cond(a)
			b, isBool := v.(bool)
			switch {
			case !ok || !isBool:
				return nil, false
			case b:
				return then(a)
			}
			return otherwise(a)
		}
	case textFunctions[name] != nil && !c.IsMemberFunction() && len(args) == 1:
		f, of := textFunctions[name], in.shortcut(args[0])
		return func(a *activation) (any, bool) {
			v, ok := of(a)
			s, isText := v.(string)
			if !ok || !isText {
				return nil, false
			}
			return f(s), true
		}
	case name == operators.OptSelect:
		return in.optional(c)
	case name == "hasValue" && c.IsMemberFunction():
		if of := in.optionalOf(c.Target()); of != nil {
			return func(a *activation) (any, bool) { v, ok := of(a); return v != nil, ok }
		}
	case name == "orValue" && c.IsMemberFunction() && args[0].Kind() == celast.LiteralKind:
		if of := in.optionalOf(c.Target()); of != nil {
			or := in.shortcut(args[0])
			return func(a *activation) (any, bool) {
				v, ok := of(a)
				if ok && v == nil {
					return or(a)
				}
				return v, ok
			}
		}
	}
	return giveBack
}

// logical: the first operand that decides, decides. CEL also lets the second decide where the first fails, so a
// failure is given back.
func (in *inspector) logical(args []celast.Expr, decides bool) shortcut {
	left, right := in.shortcut(args[0]), in.shortcut(args[1])
	return func(a *activation) (any, bool) {
		v, ok := left(a)
		b, isBool := v.(bool)
		if !ok || !isBool {
			return nil, false
		}
		if b == decides {
			return decides, true
		}
		v, ok = right(a)
		_, isBool = v.(bool)
		return v, ok && isBool
	}
}

// scalar reports whether v is of a type whose equality Go and CEL see alike.
func scalar(v any) bool {
	switch v.(type) {
	case nil, string, int64, bool:
		return true
	}
	return false
}

func equality(l, r shortcut, not bool) shortcut {
	return func(a *activation) (any, bool) {
		x, ok1 := l(a)
		y, ok2 := r(a)
		if !ok1 || !ok2 {
			return nil, false
		}
		if !scalar(x) {
			// A record or a map is only ever compared with null here.
			if m, isMap := x.(map[string]any); !isMap || m == nil || y != nil {
				return nil, false
			}
			return not, true
		}
		if !scalar(y) {
			return nil, false
		}
		return (x == y) != not, true
	}
}

func (in *inspector) membership(of celast.Expr, elems []celast.Expr) shortcut {
	var values []any
	for _, e := range elems {
		if e.Kind() != celast.LiteralKind {
			return giveBack
		}
		v := native(e.AsLiteral())
		if !scalar(v) {
			return giveBack
		}
		values = append(values, v)
	}
	x := in.shortcut(of)
	return func(a *activation) (any, bool) {
		v, ok := x(a)
		if !ok || !scalar(v) {
			return nil, false
		}
		return slices.Contains(values, v), true
	}
}

func comparison(l, r shortcut, op string) shortcut {
	return func(a *activation) (any, bool) {
		x, ok1 := l(a)
		y, ok2 := r(a)
		i, isInt1 := x.(int64)
		j, isInt2 := y.(int64)
		if !ok1 || !ok2 || !isInt1 || !isInt2 {
			return nil, false
		}
		switch op {
		case operators.Less:
			return i < j, true
		case operators.LessEquals:
			return i <= j, true
		case operators.Greater:
			return i > j, true
		}
		return i >= j, true
	}
}

// optional is event.m.?a.?b where m is a map: nil where a or b is not there.
func (in *inspector) optional(c celast.CallExpr) shortcut {
	var names []string
	for {
		key, ok := native(c.Args()[1].AsLiteral()).(string)
		if !ok {
			return giveBack
		}
		names = append(names, key)
		base := c.Args()[0]
		if base.Kind() == celast.CallKind && base.AsCall().FunctionName() == operators.OptSelect {
			c = base.AsCall()
			continue
		}
		path, t, ok := in.plainPath(base)
		if !ok || t == nil || t.kind != kindMap || t.nullable {
			return giveBack
		}
		of := strictPath(path, false)
		slices.Reverse(names)
		return func(a *activation) (any, bool) {
			v, ok := of(a)
			for _, name := range names {
				m, isMap := v.(map[string]any)
				if !ok || !isMap {
					return nil, false
				}
				next, there := m[name]
				if !there {
					return nil, true
				}
				if next == nil {
					return nil, false
				}
				v = next
			}
			return v, ok
		}
	}
}

// optionalOf is optional for an expression that must be one.
func (in *inspector) optionalOf(e celast.Expr) shortcut {
	if e.Kind() == celast.CallKind && e.AsCall().FunctionName() == operators.OptSelect {
		return in.optional(e.AsCall())
	}
	return nil
}
