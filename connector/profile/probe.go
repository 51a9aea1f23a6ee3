package profile

import (
	"fmt"
	"net/http"
	"strings"
)

// A probe is a read that proves whether a request whose answer was lost had its effect.
type probe struct {
	at     pos
	path   string
	found  source
	object *source
	limits []string
	only   []onlyVar
}

// onlyVar restricts something to one value of a variable.
type onlyVar struct{ name, value string }

// A Probe asks the vendor for the object of a request by its reference.
type Probe struct {
	Operation *Operation

	path          []segment
	found, object *program
}

// probeName is the name of an operation's probe, for its breaker and its metrics.
func probeName(operation string) string { return operation + "_probe" }

func (r *reader) probe(n node) *probe {
	p := &probe{at: n.pos()}
	var hasFound bool
	r.fields(n, map[string]func(node){
		"path": func(n node) {
			p.path = r.urlPath(n)
			segments, err := parsePath(p.path)
			if err != nil {
				r.errorf(n, "", "%v", err)
				return
			}
			named := 0
			for _, s := range segments {
				if s.param == "reference" || s.param == "entity_id" {
					named++
				} else if s.param != "" {
					r.errorf(n, "{reference} is what the request named its object by, {entity_id} the entity's own id", "the path of a probe has no parameter %q", s.param)
				}
			}
			if named == 0 && p.path != "" {
				r.errorf(n, "for example /payments?external_id={reference}", "the path does not say which object is meant: {reference} or {entity_id} is missing")
			}
		},
		"found":  func(n node) { p.found, hasFound = r.expr(n), true },
		"object": func(n node) { s := r.expr(n); p.object = &s },
		"limits": func(n node) { p.limits = r.words(n) },
		"only": func(n node) {
			for _, e := range r.entries(n) {
				p.only = append(p.only, onlyVar{r.name(e), r.expr(e.value).text})
			}
		},
	})
	r.need(n, p.path != "", "path", "for example /payments?external_id={reference}")
	r.need(n, hasFound, "found", "for example size(body.data) > 0")
	return p
}

// compileProbe makes the probe of an operation, nil if the connector's variables switch it off.
func (r *reader) compileProbe(o *operation, limits []*Limit, s *scope, common []compiledRule, vars map[string]any) *Probe {
	p := o.probe
	if p == nil {
		return nil
	}
	for _, only := range p.only {
		if fmt.Sprint(vars[only.name]) != only.value {
			return nil
		}
	}
	c := &Probe{found: r.compile(s, p.found)}
	r.wants(c.found, "condition", "a condition")
	if p.object != nil {
		c.object = r.compile(s, *p.object)
		r.wants(c.object, "object", "the object")
	}
	c.path, _ = parsePath(p.path) // checked by probe
	c.Operation = &Operation{Name: probeName(o.name), Method: http.MethodGet, Path: p.path, Class: ClassOverwrite, Read: true, Timeout: o.timeout,
		FirstRetry: o.firstRetry, Limits: limitsNamed(limits, p.limits), headers: []headerValue{{"Accept", []string{"application/json"}}}, rules: common, decl: o}
	return c
}

// Request is the probe of a request.
func (p *Probe) Request(r *Request) *Request {
	var path strings.Builder
	for i := range p.path {
		s := &p.path[i]
		switch s.param {
		case "":
			path.WriteString(s.text)
		case "entity_id":
			path.WriteString(s.escape(r.Entity))
		default:
			path.WriteString(s.escape(r.Reference))
		}
	}
	h := make(http.Header, len(p.Operation.headers))
	for _, v := range p.Operation.headers {
		h[v.name] = v.value
	}
	return &Request{Operation: p.Operation, Step: r.Step, Method: p.Operation.Method, Path: path.String(), Header: h, Entity: r.Entity, Reference: r.Reference}
}

// Read reads an accepted answer of the probe. known is false if it does not tell. If the object is there, found is the
// answer that the request would have had: its body is the object's.
func (p *Probe) Read(ans *Answer) (found *Answer, known bool) {
	a := getActivation(nil, nil, &parsedAnswer{answer: ans})
	defer putActivation(a)
	holds, err := p.found.holds(a)
	if err != nil {
		return nil, false
	}
	if !holds {
		return nil, true
	}
	f := *ans
	if p.object != nil {
		v, err := p.object.eval(a)
		if err != nil || v == nil {
			return nil, false
		}
		if f.Body, err = appendValue(nil, v); err != nil {
			return nil, false
		}
	}
	return &f, true
}
