package profile

import (
	"slices"

	celast "cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"

	"github.com/weirsync/weir/schema/shortcut"
)

// An expression's shortcut computes it without the CEL interpreter, or gives it back. TestShortcutsAgree compares the
// two.
type evaluation = shortcut.Func[*activation]

// giveBack leaves the expression to CEL.
var giveBack evaluation = shortcut.GiveBack[*activation]

// textFunctions are the functions of library that take one text.
var textFunctions = map[string]func(string) any{
	"first_name": func(s string) any { return firstName(s) },
	"last_name":  func(s string) any { return lastName(s) },
	"us_state":   func(s string) any { return usState(s) },
	"is_email":   func(s string) any { return isEmail(s) },
	"is_country": func(s string) any { return isCountry(s) },
}

// shortcut is e's, giveBack if it has none.
func (in *inspector) shortcut(e celast.Expr) evaluation {
	return shortcut.Compiler[*activation]{Leaf: in.leaf}.Compile(e)
}

func (in *inspector) leaf(e celast.Expr) evaluation {
	switch e.Kind() {
	case celast.SelectKind:
		return in.selection(e)
	case celast.CallKind:
		return in.call(e.AsCall())
	}
	return giveBack
}

func (in *inspector) selection(e celast.Expr) evaluation {
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
func strictPath(path []string, nullable bool) evaluation {
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

func (in *inspector) call(c celast.CallExpr) evaluation {
	args := c.Args()
	switch name := c.FunctionName(); {
	case textFunctions[name] != nil && !c.IsMemberFunction() && len(args) == 1:
		return shortcut.OnText(in.shortcut(args[0]), textFunctions[name])
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

// optional is event.m.?a.?b where m is a map: nil where a or b is not there.
func (in *inspector) optional(c celast.CallExpr) evaluation {
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
func (in *inspector) optionalOf(e celast.Expr) evaluation {
	if e.Kind() == celast.CallKind && e.AsCall().FunctionName() == operators.OptSelect {
		return in.optional(e.AsCall())
	}
	return nil
}
