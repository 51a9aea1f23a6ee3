package finfusion

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// A resource is one object of the vendor.
type resource interface {
	id() string
	changed() int64 // Unix seconds of updated_at, else of created_at
	kind() string
	reference() string
	meta() metadata
	view() any // a copy that may be rendered without the lock
}

// An index holds resources by id and in the order of the lists: by change, then id (section 9).
type index[T resource] struct {
	byID map[string]T
	rows []T
}

func newIndex[T resource]() index[T] { return index[T]{byID: map[string]T{}} }

func (x *index[T]) find(sec int64, id string) (int, bool) {
	return slices.BinarySearchFunc(x.rows, id, func(row T, id string) int {
		return cmp.Or(cmp.Compare(row.changed(), sec), cmp.Compare(row.id(), id))
	})
}

// put adds an object or its new state. A newer state stands later, so this moves little of the list.
func (x *index[T]) put(o T) {
	x.drop(o.id())
	i, _ := x.find(o.changed(), o.id())
	x.rows = slices.Insert(x.rows, i, o)
	x.byID[o.id()] = o
}

func (x *index[T]) drop(id string) {
	if old, ok := x.byID[id]; ok {
		i, _ := x.find(old.changed(), id)
		x.rows = slices.Delete(x.rows, i, i+1)
		delete(x.byID, id)
	}
}

func get[T resource](v *vendor, r *core.Request, x *index[T]) core.Answer {
	o, ok := x.byID[r.Object]
	if !ok {
		return v.refuse("VAL003", "no object has this id", nil)
	}
	return core.Answer{Status: http.StatusOK, Value: o.view(), Effect: core.Read, Reference: o.reference()}
}

// list pages through an index (section 9).
func list[T resource](v *vendor, r *core.Request, x *index[T]) core.Answer {
	limit := pageDefault
	if text := r.Query.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > pageMax {
			return v.refuseParameter("limit", "must be 1 to "+strconv.Itoa(pageMax))
		}
		limit = n
	}
	from := 0
	if text := r.Query.Get("updated_since"); text != "" {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return v.refuseParameter("updated_since", "must be an ISO 8601 time with its zone")
		}
		sec := t.Unix()
		if t.Nanosecond() > 0 { // resources have whole seconds
			sec++
		}
		from, _ = x.find(sec, "")
	}
	if after := r.Query.Get("starting_after"); after != "" {
		o, ok := x.byID[after]
		if !ok {
			return v.refuseParameter("starting_after", "no object has this id")
		}
		i, _ := x.find(o.changed(), after)
		from = max(from, i+1)
	}
	wanted := metadata{}
	for name, values := range r.Query {
		if inner, ok := strings.CutPrefix(name, "metadata["); ok && strings.HasSuffix(inner, "]") {
			wanted[strings.TrimSuffix(inner, "]")] = core.AppendString(nil, values[0])
		}
	}
	out := struct {
		Data    []any `json:"data"`
		HasMore bool  `json:"has_more"`
	}{Data: []any{}}
	for _, o := range x.rows[from:] {
		if !o.meta().has(wanted) {
			continue
		}
		if len(out.Data) == limit {
			out.HasMore = true
			break
		}
		out.Data = append(out.Data, o.view())
	}
	return core.Answer{Status: http.StatusOK, Value: out, Effect: core.Read, Reference: r.Query.Get("metadata[external_id]")}
}

// has says whether m has all of the wanted strings.
func (m metadata) has(wanted metadata) bool {
	for name := range wanted {
		if m[name] == nil || m.text(name) != wanted.text(name) {
			return false
		}
	}
	return true
}

func object[T resource](o T) core.Object {
	return core.Object{ID: o.id(), Kind: o.kind(), Reference: o.reference(), Value: o.view()}
}

func (v *vendor) Object(id string) (core.Object, bool) {
	if c, ok := v.customers.byID[id]; ok {
		return object(c), true
	}
	if p, ok := v.payments.byID[id]; ok {
		return object(p), true
	}
	if e := v.endpoint(id); e != nil {
		return core.Object{ID: e.ID, Kind: "webhook_endpoint", Reference: e.URL, Value: e.view()}, true
	}
	for _, k := range v.keys {
		if k.ID == id {
			return core.Object{ID: k.ID, Kind: "api_key", Reference: k.Name, Value: k.view()}, true
		}
	}
	return core.Object{}, false
}

// Objects lists customers, then payments. Their positions are their places in the lists, so an object that changes
// between two pages may come twice and one behind it not at all: the admin interface reads still states.
func (v *vendor) Objects(kind string, position, limit int) ([]core.Object, int) {
	out := make([]core.Object, 0, limit)
	n := len(v.customers.rows)
	for ; position < n+len(v.payments.rows); position++ {
		if len(out) == limit {
			return out, position
		}
		var o core.Object
		if position < n {
			o = object(v.customers.rows[position])
		} else {
			o = object(v.payments.rows[position-n])
		}
		if kind == "" || kind == o.Kind {
			out = append(out, o)
		}
	}
	return out, -1
}
