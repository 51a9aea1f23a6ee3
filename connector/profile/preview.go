package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// A Preview is what one event would cause on one route. Exactly one of Ignore, Refuse and Requests is set.
type Preview struct {
	Route    string
	Ignore   string
	Refuse   *Refusal
	Requests []*Request
	// StandIns names the vendor ids of references that were not given: {customer.user_id} stands in their place.
	StandIns []string
}

// Preview plans an event and builds its requests without sending anything. References that in does not hold get
// stand-ins. generation is that of the entity. A step that ends an object counts as done for those behind it.
func (r *Route) Preview(in *Input, generation uint32) (*Preview, error) {
	p := &Preview{Route: r.Name}
	plan, err := r.Plan(in)
	if err != nil {
		return nil, err
	}
	if p.Ignore, p.Refuse = plan.Ignore, plan.Refuse; p.Ignore != "" || p.Refuse != nil {
		return p, nil
	}
	own := *in
	own.Refs = maps.Clone(in.Refs)
	for _, n := range plan.Needs {
		ref := own.Refs[n.Name]
		if ref.IDs[n.ID] == "" {
			if own.Refs == nil {
				own.Refs = map[string]Ref{}
			}
			ref.IDs = maps.Clone(ref.IDs)
			if ref.IDs == nil {
				ref.IDs = map[string]string{}
			}
			name := n.Name + "." + n.ID
			ref.IDs[n.ID] = "{" + name + "}"
			own.Refs[n.Name] = ref
			p.StandIns = append(p.StandIns, name)
		}
	}
	for i, s := range plan.Steps {
		req, err := s.Build(&own, plan.Generation(i, generation))
		if refused, ok := errors.AsType[*Refusal](err); ok {
			return &Preview{Route: r.Name, Refuse: refused}, nil
		}
		if err != nil {
			return nil, err
		}
		p.Requests = append(p.Requests, req)
	}
	return p, nil
}

// DiffJSON lists where two JSON documents differ, as lines "path: got X, want Y", in the order of paths. Documents that
// are no JSON differ as a whole.
func DiffJSON(want, got []byte) []string {
	var out []string
	for _, d := range Changes(want, got) {
		switch {
		case d.Old == nil:
			out = append(out, fmt.Sprintf("%s: got %s, want nothing", d.Path, d.New))
		case d.New == nil:
			out = append(out, fmt.Sprintf("%s: got nothing, want %s", d.Path, d.Old))
		default:
			out = append(out, fmt.Sprintf("%s: got %s, want %s", d.Path, d.New, d.Old))
		}
	}
	return out
}

// A Change is one place where two documents differ. Old or New is nil where the place is not there.
type Change struct {
	Path     string // dotted, list elements by index; "" for the whole
	Old, New json.RawMessage
}

// Changes lists where two JSON documents differ, by path. An empty document is one without any place.
func Changes(a, b []byte) []Change {
	var out []Change
	var walk func(path string, a, b any, hasA, hasB bool)
	walk = func(path string, a, b any, hasA, hasB bool) {
		ma, okA := a.(map[string]any)
		mb, okB := b.(map[string]any)
		if okA && okB {
			keys := map[string]bool{}
			for k := range ma {
				keys[k] = true
			}
			for k := range mb {
				keys[k] = true
			}
			for _, k := range slices.Sorted(maps.Keys(keys)) {
				va, inA := ma[k]
				vb, inB := mb[k]
				walk(join(path, k), va, vb, inA, inB)
			}
			return
		}
		la, okA := a.([]any)
		lb, okB := b.([]any)
		if okA && okB && len(la) == len(lb) {
			for i := range la {
				walk(path+"["+strconv.Itoa(i)+"]", la[i], lb[i], true, true)
			}
			return
		}
		c := Change{Path: path}
		if hasA {
			c.Old, _ = json.Marshal(a)
		}
		if hasB {
			c.New, _ = json.Marshal(b)
		}
		if hasA != hasB || !bytes.Equal(c.Old, c.New) {
			out = append(out, c)
		}
	}
	va, okA := document(a)
	vb, okB := document(b)
	walk("", va, vb, okA, okB)
	return out
}

func document(b []byte) (any, bool) {
	if len(b) == 0 {
		return nil, false
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return string(b), true
	}
	return v, true
}

// PersonalFields lists, per step, the fields of the request that personal data of the event reaches: those are masked
// where a request is shown. personal says of a dotted path of the event, or of "*" for the whole, whether it is personal.
func (r *Route) PersonalFields(personal func(path string) bool) map[string][]string {
	out := map[string][]string{}
	for _, c := range r.Columns() {
		if slices.ContainsFunc(c.Sources, func(s string) bool { return !strings.HasPrefix(s, "ref.") && personal(s) }) {
			out[c.Step] = append(out[c.Step], c.Field)
		}
	}
	return out
}

// Mask replaces the values at dotted paths of a JSON document, and all below them, by mask. null stays null. A document
// that is no JSON is replaced as a whole.
func Mask(doc []byte, paths []string, mask string) []byte {
	if len(doc) == 0 || len(paths) == 0 {
		return doc
	}
	v, ok := document(doc)
	if _, text := v.(string); !ok || text {
		b, _ := json.Marshal(mask)
		return b
	}
	for _, p := range paths {
		maskAt(v, strings.Split(p, "."), mask)
	}
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(mask)
	}
	return b
}

func maskAt(v any, path []string, mask string) {
	switch v := v.(type) {
	case map[string]any:
		child, ok := v[path[0]]
		switch {
		case !ok || child == nil:
		case len(path) == 1:
			v[path[0]] = mask
		default:
			maskAt(child, path[1:], mask)
		}
	case []any:
		for _, x := range v {
			maskAt(x, path, mask)
		}
	}
}
