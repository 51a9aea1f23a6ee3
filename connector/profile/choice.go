package profile

import (
	"fmt"
	"slices"
	"strings"
)

// A byVar is a value that may depend on a variable of the profile: class: {var: idempotency, values: {on: key, off: none}}.
type byVar[T comparable] struct {
	value  T
	name   string // of the variable, "" if the value depends on none
	at     pos
	values map[string]T
}

// readByVar reads a value, or one for each value of a variable.
func readByVar[T comparable](r *reader, n node, read func(node) T) byVar[T] {
	if kindName(n.Node) != "a mapping" {
		return byVar[T]{value: read(n)}
	}
	b := byVar[T]{at: n.pos(), values: map[string]T{}}
	r.fields(n, map[string]func(node){
		"var": func(n node) { b.name = r.word(n) },
		"values": func(n node) {
			for _, e := range r.entries(n) {
				b.values[e.key] = read(e.value)
			}
		},
	})
	r.need(n, b.name != "", "var", "the name of the variable that decides")
	r.need(n, len(b.values) > 0, "values", "one for each value of the variable")
	return b
}

func (b *byVar[T]) zero() bool {
	var none T
	return b.name == "" && b.value == none
}

// may reports whether the value can be v.
func (b *byVar[T]) may(v T) bool {
	if b.name == "" {
		return b.value == v
	}
	for _, x := range b.values {
		if x == v {
			return true
		}
	}
	return false
}

// of is the value for the variables that a connector has.
func (b *byVar[T]) of(vars map[string]any) T {
	if b.name == "" {
		return b.value
	}
	return b.values[fmt.Sprint(vars[b.name])]
}

// checkChoice: the variable is one of the profile's with a list of values, and each of them has its own.
func (r *reader) checkChoice(p *Profile, name string, at pos, given []string, whole bool) {
	if name == "" {
		return
	}
	var names []string
	for i := range p.vars {
		v := &p.vars[i]
		names = append(names, v.name)
		if v.name != name {
			continue
		}
		values := v.enum
		if v.kind == "boolean" {
			values = []string{"true", "false"}
		}
		if len(values) == 0 || v.optional {
			r.at(at, "give it an enum, and a default or no optional", "the variable %s has no list of values", name)
			return
		}
		for _, g := range given {
			if !slices.Contains(values, g) {
				r.at(at, meant(g, values), "%s is never %q", name, clip(g))
			}
		}
		for _, want := range values {
			if whole && !slices.Contains(given, want) {
				r.at(at, "name every value: "+strings.Join(values, ", "), "nothing is said for %s %s", name, want)
			}
		}
		return
	}
	r.at(at, meant(name, names), "the profile has no variable %q", name)
}

// checkByVars checks all choices by variable, and the limits that verdicts lower.
func (r *reader) checkByVars(p *Profile, limits []string) {
	for _, l := range p.limits {
		r.checkChoice(p, l.n.name, l.n.at, sortedKeys(l.n.values), true)
		r.checkChoice(p, l.burst.name, l.burst.at, sortedKeys(l.burst.values), true)
	}
	lowered := func(rules []rule) {
		for _, u := range rules {
			if u.lowers != "" && !slices.ContainsFunc(p.limits, func(l *Limit) bool { return l.Name == u.lowers && l.Kind == Concurrency }) {
				r.at(u.lowersAt, meant(u.lowers, limits), "no limit of kind concurrency is named %q", u.lowers)
			}
		}
	}
	lowered(p.verdicts)
	for _, o := range p.operations {
		lowered(o.verdicts)
		r.checkChoice(p, o.classBy.name, o.classBy.at, sortedKeys(o.classBy.values), true)
		if o.probe == nil {
			continue
		}
		for _, only := range o.probe.only {
			r.checkChoice(p, only.name, o.probe.at, []string{only.value}, false)
		}
		for _, l := range o.probe.limits {
			if !slices.Contains(limits, l) {
				r.at(o.probe.at, meant(l, limits), "no limit is named %q", l)
			}
		}
		if slices.ContainsFunc(p.operations, func(other *operation) bool { return other.name == probeName(o.name) }) {
			r.at(o.probe.at, "rename the operation", "the probe's own name %s is taken", probeName(o.name))
		}
	}
}
