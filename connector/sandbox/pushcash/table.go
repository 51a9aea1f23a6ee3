package pushcash

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// bodySum identifies a request body.
type bodySum [16]byte

func sumOf(body []byte) bodySum {
	h := sha256.Sum256(body)
	return bodySum(h[:16])
}

// A resource is one object of the vendor.
type resource interface {
	id() string
	created() int64    // Unix milliseconds
	reference() string // the caller's name of it
	status() string
	view() any // a copy that may be rendered without the lock
}

// A table holds resources by id and in order of creation.
type table[T resource] struct {
	byID map[string]T
	rows []T
}

func newTable[T resource]() table[T] { return table[T]{byID: map[string]T{}} }

// put adds x, or replaces the one with its id (when state is restored).
func (t *table[T]) put(x T) {
	if old, ok := t.byID[x.id()]; ok {
		i, _ := slices.BinarySearchFunc(t.rows, old, func(a, b T) int { return int(a.created() - b.created()) })
		for t.rows[i].id() != x.id() {
			i++
		}
		t.rows[i] = x
	} else {
		t.rows = append(t.rows, x)
	}
	t.byID[x.id()] = x
}

type page struct {
	Data       []any   `json:"data"`
	NextCursor *string `json:"next_cursor"`
}

// bound reads one of the created_at filters (section 9): ISO 8601, exclusive, in milliseconds.
func bound(r *core.Request, name string) (ms int64, given bool, err error) {
	text := r.Query.Get(name)
	if text == "" {
		return 0, false, nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UnixMilli(), true, nil
		}
	}
	return 0, false, &core.InvalidError{Field: name, Message: "must be an ISO 8601 time"}
}

// list pages through a table, newest first (section 9).
func list[T resource](v *vendor, r *core.Request, kind string, t *table[T], statuses []string, keep func(T) bool) core.Answer {
	after, hasAfter, err := bound(r, "created_at.after")
	if err != nil {
		return v.refuseInvalid(core.AsInvalid(err))
	}
	before, hasBefore, err := bound(r, "created_at.before")
	if err != nil {
		return v.refuseInvalid(core.AsInvalid(err))
	}
	var want []string
	if statuses != nil {
		for _, s := range r.Query["status"] {
			if !slices.Contains(statuses, s) {
				return v.refuse(http.StatusBadRequest, "must be one of "+strings.Join(statuses, ", "), "status")
			}
			want = append(want, s)
		}
	}
	left := len(t.rows)
	if c := r.Query.Get("cursor"); c != "" {
		if left, err = core.ParseCursor(kind, c, left); err != nil {
			return v.refuse(http.StatusBadRequest, err.Error(), "cursor")
		}
	}
	if hasBefore {
		left = min(left, sort.Search(len(t.rows), func(i int) bool { return t.rows[i].created() >= before }))
	}
	out := page{Data: make([]any, 0, min(left, v.pageSize))}
	for ; left > 0; left-- {
		x := t.rows[left-1]
		if hasAfter && x.created() <= after {
			break
		}
		if want != nil && !slices.Contains(want, x.status()) || keep != nil && !keep(x) {
			continue
		}
		if len(out.Data) == v.pageSize {
			c := core.AppendCursor(kind, left)
			out.NextCursor = &c
			break
		}
		out.Data = append(out.Data, x.view())
	}
	return core.Answer{Status: http.StatusOK, Value: out, Effect: core.Read}
}

func get[T resource](v *vendor, r *core.Request, t *table[T]) core.Answer {
	x, ok := t.byID[r.Object]
	if !ok {
		return v.refuse(http.StatusNotFound, "no object has this id", "id")
	}
	return core.Answer{Status: http.StatusOK, Value: x.view(), Effect: core.Read, Reference: x.reference()}
}

func (v *vendor) read(r *core.Request) core.Answer {
	switch r.Operation {
	case opGetUser:
		return get(v, r, &v.users)
	case opListUsers:
		return list(v, r, "users", &v.users, userStatuses(), nil)
	case opListCredentials:
		u, ok := v.users.byID[r.Object]
		if !ok {
			return v.refuse(http.StatusNotFound, "no user has this id", "id")
		}
		return core.Answer{Status: http.StatusOK, Value: map[string]any{"data": slices.Clip(u.PaymentCredentials)}, Effect: core.Read, Reference: u.reference()}
	case opGetIntent:
		return get(v, r, &v.intents)
	case opListIntents:
		var keep func(*intent) bool
		if types := r.Query["type"]; len(types) > 0 {
			keep = func(i *intent) bool { return i.Type != nil && slices.Contains(types, *i.Type) }
		}
		return list(v, r, "intents", &v.intents, intentStatuses(), keep)
	case opGetRefund:
		return get(v, r, &v.refunds)
	case opListRefunds:
		return list(v, r, "refunds", &v.refunds, []string{"approved", "declined"}, nil)
	case opGetTransaction:
		return get(v, r, &v.transactions)
	case opListTransactions:
		var keep func(*transaction) bool
		if accounts := r.Query["account_id"]; len(accounts) > 0 {
			keep = func(x *transaction) bool { return slices.Contains(accounts, x.AccountID) }
		}
		return list(v, r, "transactions", &v.transactions, nil, keep)
	case opGetDispute:
		return get(v, r, &v.disputes)
	case opListDisputes:
		return list(v, r, "disputes", &v.disputes, nil, nil)
	case opListAccounts:
		return core.Answer{Status: http.StatusOK, Value: page{Data: []any{v.accountView()}}, Effect: core.Read}
	case opGetAccount:
		if r.Object != v.account.ID {
			return v.refuse(http.StatusNotFound, "no account has this id", "id")
		}
		return core.Answer{Status: http.StatusOK, Value: v.accountView(), Effect: core.Read}
	case opListTransfers:
		return core.Answer{Status: http.StatusOK, Value: page{Data: []any{}}, Effect: core.Read}
	default: // opGetTransfer: this sandbox makes no transfers
		return v.refuse(http.StatusNotFound, "no transfer has this id", "id")
	}
}

func (v *vendor) Object(id string) (core.Object, bool) {
	for _, find := range []func(string) (core.Object, bool){
		finder("user", &v.users), finder("intent", &v.intents), finder("refund", &v.refunds),
		finder("transaction", &v.transactions), finder("dispute", &v.disputes),
	} {
		if o, ok := find(id); ok {
			return o, true
		}
	}
	return core.Object{}, false
}

func finder[T resource](kind string, t *table[T]) func(string) (core.Object, bool) {
	return func(id string) (core.Object, bool) {
		x, ok := t.byID[id]
		if !ok {
			return core.Object{}, false
		}
		return object(kind, x), true
	}
}

func object[T resource](kind string, x T) core.Object {
	return core.Object{ID: x.id(), Kind: kind, Reference: x.reference(), Value: x.view()}
}

// kindStride separates the positions of the kinds, whose tables grow between two pages.
const kindStride = 1 << 40

func (v *vendor) Objects(kind string, position, limit int) ([]core.Object, int) {
	var out []core.Object
	pages := []func(from int) bool{
		pager(&out, limit, "user", kind, &v.users), pager(&out, limit, "intent", kind, &v.intents),
		pager(&out, limit, "refund", kind, &v.refunds), pager(&out, limit, "transaction", kind, &v.transactions),
		pager(&out, limit, "dispute", kind, &v.disputes),
	}
	for k := position / kindStride; k < len(pages); k++ {
		from, had := position%kindStride, len(out)
		if !pages[k](from) {
			return out, k*kindStride + from + len(out) - had
		}
		position = (k + 1) * kindStride
	}
	return out, -1
}

// pager appends objects of one kind and says whether it came to the end.
func pager[T resource](out *[]core.Object, limit int, kind, want string, t *table[T]) func(int) bool {
	return func(from int) bool {
		if want != "" && want != kind {
			return true
		}
		for _, x := range t.rows[min(from, len(t.rows)):] {
			if len(*out) >= limit {
				return false
			}
			*out = append(*out, object(kind, x))
		}
		return true
	}
}
