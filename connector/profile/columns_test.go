package profile

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/weirsync/weir/schema"
)

// requestsOf is all that an event causes: the steps and their requests, or why there are none.
func requestsOf(t *testing.T, r *Route, ev *schema.Event) string {
	t.Helper()
	in := &Input{Event: ev, Refs: known}
	plan, err := r.Plan(in)
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case plan.Refuse != nil:
		return "refused: " + plan.Refuse.Reason
	case plan.Ignore != "":
		return "ignored: " + plan.Ignore
	}
	var b strings.Builder
	for i, s := range plan.Steps {
		req, err := s.Build(StandIn(plan.Steps, i, in), 0)
		if err != nil {
			return "refused: " + err.Error()
		}
		fmt.Fprintf(&b, "%s %s %s\n", req.Method, req.Path, req.Body)
	}
	return b.String()
}

// changed calls with a copy of the fields for each text, number or null in them, which has another value in the copy.
func changed(f fields, path string, with func(path string, f fields)) {
	for k, v := range f {
		at := k
		if path != "" {
			at = path + "." + k
		}
		put := func(v any) {
			c := maps.Clone(f)
			c[k] = v
			with(at, c)
		}
		switch v := v.(type) {
		case nil:
			put("US")
		case string:
			put(v + "x")
			put("GB")
		case int64:
			put(v + 1)
		case fields:
			changed(v, at, func(p string, inner fields) { c := maps.Clone(f); c[k] = inner; with(p, c) })
		}
	}
}

// A field that the lineage does not name never changes what is sent; and the lineage names some.
func TestColumnsAreAllThatCounts(t *testing.T) {
	for _, name := range []string{"pushcash", "finfusion", "plain"} {
		c := compiled(t, name, nil)
		for _, ev := range []*schema.Event{customer(nil), withCard(nil), contract(nil), invoice(nil)} {
			for _, r := range c.RoutesFor(ev.Entity) {
				var named []string
				for _, col := range append(r.Columns(), r.Conditions()...) {
					named = append(named, col.Sources...)
				}
				for _, by := range r.References() {
					named = append(named, by...)
				}
				before, moved := requestsOf(t, r, ev), 0
				changed(ev.Fields, "", func(path string, f fields) {
					e := *ev
					e.Fields = f
					if requestsOf(t, r, &e) == before {
						return
					}
					moved++
					if !slices.ContainsFunc(named, func(s string) bool {
						return s == "*" || s == path || strings.HasPrefix(path, s+".") || strings.HasPrefix(s, path+".")
					}) {
						t.Errorf("%s: %s of event %s changes the request, and the lineage does not name it", r.Name, path, ev.Entity)
					}
				})
				if strings.HasPrefix(before, "P") && moved == 0 { // POST, PUT, PATCH
					t.Errorf("%s: no field of the event changes the request", r.Name)
				}
			}
		}
	}
}
