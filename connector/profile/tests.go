package profile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirsync/weir/schema"
)

// A Test is a case of the profile file's own tests: an event, what is known of its entity, and what must come of it.
type Test struct {
	Name string

	at           pos
	entity       string
	event        map[string]any
	ids, fields  map[string]string
	refs         map[string]Ref
	vars         map[string]string
	ignore       string
	refuse       string
	requests     []expectedRequest
	expectations int
}

type expectedRequest struct {
	at           pos
	step         string
	method, path string
	headers      map[string]string
	body         any
	hasBody      bool
}

// A CaseResult is what came of a test; Problems is empty if it passed. Problems name the place in the file.
type CaseResult struct {
	Name     string
	Problems Errors
}

// keyWord stands in a test for the request's idempotency key, which depends on the connector's name.
const keyWord = "{key}"

// tests reads the section tests.
func (r *reader) tests(n node) []*Test {
	var out []*Test
	r.list(n, func(n node) {
		t := &Test{at: n.pos()}
		r.fields(n, map[string]func(node){
			"name":       func(n node) { t.Name = r.text(n) },
			"entity":     func(n node) { t.entity = r.word(n) },
			"event":      func(n node) { t.event, _ = r.value(n).(map[string]any) },
			"ids":        func(n node) { t.ids = r.texts(n) },
			"remembered": func(n node) { t.fields = r.texts(n) },
			"vars":       func(n node) { t.vars = r.texts(n) },
			"refs": func(n node) {
				t.refs = map[string]Ref{}
				for _, e := range r.entries(n) {
					t.refs[e.key] = Ref{IDs: r.texts(e.value)}
				}
			},
			"ignore": func(n node) { t.ignore = r.text(n); t.expectations++ },
			"refuse": func(n node) { t.refuse = r.text(n); t.expectations++ },
			"requests": func(n node) {
				t.expectations++
				r.list(n, func(n node) { t.requests = append(t.requests, r.expected(n)) })
			},
		})
		r.need(n, t.Name != "", "name", "what the test shows, for the person who sees it fail")
		r.need(n, t.entity != "", "entity", "")
		r.need(n, t.event != nil, "event", "the event's fields; those of the envelope have defaults")
		if t.expectations != 1 {
			r.errorf(n, "requests, ignore or refuse", "a test expects exactly one of them")
		}
		if slices.ContainsFunc(out, func(o *Test) bool { return o.Name == t.Name }) {
			r.errorf(n, "", "a second test has the name %q", clip(t.Name))
		}
		out = append(out, t)
	})
	return out
}

func (r *reader) expected(n node) expectedRequest {
	x := expectedRequest{at: n.pos()}
	r.fields(n, map[string]func(node){
		"step":   func(n node) { x.step = r.word(n) },
		"method": func(n node) { x.method = r.method(n) },
		"path":   func(n node) { x.path = r.text(n) },
		"headers": func(n node) {
			x.headers = map[string]string{}
			for k, v := range r.texts(n) {
				x.headers[textproto.CanonicalMIMEHeaderKey(k)] = v
			}
		},
		"body": func(n node) { x.body, x.hasBody = r.value(n), true },
	})
	return x
}

// texts reads a mapping of texts.
func (r *reader) texts(n node) map[string]string {
	out := map[string]string{}
	for _, e := range r.entries(n) {
		if v, ok := asText(r.value(e.value)); ok {
			out[e.key] = v
		} else {
			r.errorf(e.value, "", "expected a text")
		}
	}
	return out
}

// value reads any YAML value as JSON has it, with integers as int64.
func (r *reader) value(n node) any {
	switch kindName(n.Node) {
	case "nothing":
		return nil
	case "a mapping":
		m := map[string]any{}
		for _, e := range r.entries(n) {
			m[e.key] = r.value(e.value)
		}
		return m
	case "a list":
		l := []any{}
		r.list(n, func(n node) { l = append(l, r.value(n)) })
		return l
	case "an integer":
		v, err := strconv.ParseInt(strings.ReplaceAll(n.GetToken().Value, "_", ""), 0, 64)
		if err != nil {
			r.errorf(n, "put it in quotes if it is meant as text", "not a 64-bit integer")
		}
		return v
	case "a boolean":
		return r.boolean(n)
	case "a text":
		if s, ok := n.Node.(*ast.StringNode); ok {
			return s.Value // may be empty, unlike names
		}
		return r.text(n)
	}
	r.errorf(n, "a text, an integer, true, false, a list or a mapping", "%s cannot stand here", kindName(n.Node))
	return nil
}

// Tests lists the profile's own tests by name, in file order.
func (p *Profile) Tests() []string {
	var names []string
	for _, t := range p.tests {
		names = append(names, t.Name)
	}
	return names
}

// RunTests runs the profile's own tests. o is as for [Profile.Compile]; a test's variables are added to it. The error
// is that of compiling the profile.
func (p *Profile) RunTests(ctx context.Context, o Options) ([]CaseResult, error) {
	if _, err := p.Compile(o); err != nil {
		return nil, err
	}
	var out []CaseResult
	for _, t := range p.tests {
		res := CaseResult{Name: t.Name}
		fail := func(at pos, hint, format string, a ...any) {
			res.Problems = append(res.Problems, &Error{File: p.file, Line: at.line, Column: at.column, Path: at.path, Why: fmt.Sprintf(format, a...), Hint: hint})
		}
		own := o
		own.Vars = maps.Clone(o.Vars)
		if own.Vars == nil {
			own.Vars = map[string]string{}
		}
		maps.Copy(own.Vars, t.vars)
		if c, err := p.Compile(own); err != nil {
			fail(t.at, "", "its variables do not fit: %v", err)
		} else if in, err := t.input(ctx, o.Schemas); err != nil {
			fail(t.at, "", "its event is refused: %v", err)
		} else {
			t.check(c, in, fail)
		}
		out = append(out, res)
	}
	return out, nil
}

// input makes the event, with defaults for the envelope, and what is known of its entity.
func (t *Test) input(ctx context.Context, set *schema.Set) (*Input, error) {
	ev, err := MakeEvent(ctx, set, t.entity, t.event)
	if err != nil {
		return nil, err
	}
	return &Input{Event: ev, IDs: t.ids, Remembered: t.fields, Refs: t.refs}, nil
}

// MakeEvent makes an event of fields in JSON form. Fields of the envelope that are missing get defaults; what the schema
// refuses is a *schema.EncodeError or *schema.RefusedError. Business rules are not asked.
func MakeEvent(ctx context.Context, set *schema.Set, entity string, fields map[string]any) (*schema.Event, error) {
	full := map[string]any{"event_id": "test", "event_type": entity + ".test", "occurred_at": "2026-01-01T00:00:00Z", "source_system": "test",
		"tenant": "test", "entity_version": int64(1), "operation": "upsert"}
	maps.Copy(full, fields)
	value, err := set.Encode(entity, full)
	if err != nil {
		return nil, err
	}
	key, err := set.KeyOf(entity, full)
	if err != nil {
		return nil, err
	}
	topic := "canonical." + entity
	return schema.NewDecoder(set, nil, schema.DecoderOptions{Topics: map[string]string{topic: entity}}).
		Decode(ctx, &schema.Record{Topic: topic, Key: []byte(key), Value: value})
}

func (t *Test) check(c *Compiled, in *Input, fail func(at pos, hint, format string, a ...any)) {
	routes := c.RoutesFor(t.entity)
	if len(routes) == 0 {
		fail(t.at, "", "no route is for entity %s", t.entity)
		return
	}
	var got []*Request
	for _, r := range routes {
		pre, err := r.Preview(in, 0)
		switch {
		case err != nil:
			fail(t.at, "", "the mapping fails: %v", err)
			return
		case pre.Refuse != nil:
			if t.refuse != pre.Refuse.Reason {
				fail(t.at, "", "refused as %s, want %s", pre.Refuse.Error(), t.wants())
			}
			return
		case pre.Ignore != "":
			if t.ignore != pre.Ignore {
				fail(t.at, "", "ignored as %s, want %s", pre.Ignore, t.wants())
			}
			return
		}
		if len(pre.StandIns) > 0 {
			fail(t.at, "give it under refs", "the reference %s is not given", strings.Join(pre.StandIns, ", "))
			return
		}
		got = append(got, pre.Requests...)
	}
	if t.ignore != "" || t.refuse != "" || len(got) != len(t.requests) {
		var steps []string
		for _, q := range got {
			steps = append(steps, q.Step)
		}
		fail(t.at, "", "%d requests (%s), want %s", len(got), strings.Join(steps, ", "), t.wants())
		return
	}
	for i, q := range got {
		t.requests[i].check(q, fail)
	}
}

func (t *Test) wants() string {
	switch {
	case t.ignore != "":
		return "ignore " + t.ignore
	case t.refuse != "":
		return "refuse " + t.refuse
	}
	return fmt.Sprintf("%d requests", len(t.requests))
}

func (x *expectedRequest) check(q *Request, fail func(at pos, hint, format string, a ...any)) {
	text := func(what, got, want string) {
		if strings.ReplaceAll(want, keyWord, q.IdempotencyKey) != got {
			fail(x.at, "", "%s is %q, want %q", what, got, want)
		}
	}
	if x.step != "" {
		text("step", q.Step, x.step)
	}
	if x.method != "" {
		text("method", q.Method, x.method)
	}
	if x.path != "" {
		text("path", q.Path, x.path)
	}
	for _, k := range slices.Sorted(maps.Keys(x.headers)) {
		text("header "+k, q.Header.Get(k), x.headers[k])
	}
	if !x.hasBody {
		return
	}
	want, err := json.Marshal(x.body)
	if err != nil {
		fail(x.at, "", "the body cannot be compared: %v", err)
		return
	}
	for _, d := range DiffJSON(bytes.ReplaceAll(want, []byte(keyWord), []byte(q.IdempotencyKey)), q.Body) {
		fail(x.at, "", "body %s", d)
	}
}
