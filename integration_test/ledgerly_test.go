package integration_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// A ledgerly is a vendor that no Go of the product knows: testdata/ledgerly.yaml says all of it.
type ledgerly struct {
	mu      sync.Mutex
	next    int
	made    map[string][]string       // ids by "kind ref", in order
	answers map[string]ledgerlyAnswer // by request key
	bulks   []int                     // items of each
	calls   map[string]int            // by path, without the query
	busy    int                       // items that are refused as busy at first
	lost    int                       // bills whose answer is lost, done or not in turns
}

type ledgerlyAnswer struct {
	status int
	body   any
}

func failure(status int, code, field string) ledgerlyAnswer {
	return ledgerlyAnswer{status, map[string]any{"failure": map[string]any{"items": []any{map[string]any{"code": code, "field": field}}}}}
}

func (l *ledgerly) create(kind, ref string) string {
	l.next++
	id := fmt.Sprintf("%s-%d", kind, l.next)
	l.made[kind+" "+ref] = append(l.made[kind+" "+ref], id)
	return id
}

func (l *ledgerly) has(kind, id string) bool {
	for k, ids := range l.made {
		for _, i := range ids {
			if strings.HasPrefix(k, kind+" ") && i == id {
				return true
			}
		}
	}
	return false
}

func (l *ledgerly) party(ref, title string) ledgerlyAnswer {
	switch {
	case strings.HasPrefix(title, "Refused"):
		return failure(422, "bad_title", "title")
	case l.busy > 0:
		l.busy--
		return failure(503, "busy", "")
	}
	return ledgerlyAnswer{200, map[string]any{"party": map[string]string{"id": l.create("party", ref)}}}
}

func (l *ledgerly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.Header.Get("X-Api-Token") != boxKey {
		w.WriteHeader(401)
		return
	}
	l.calls[r.Method+" "+r.URL.Path]++
	key := r.Header.Get("Ledgerly-Request")
	a, ok := l.answers[key]
	if key == "" || !ok {
		a = l.answer(r)
		if key != "" && a.status < 500 {
			l.answers[key] = a
		}
	}
	w.WriteHeader(a.status)
	_ = json.NewEncoder(w).Encode(a.body)
}

func (l *ledgerly) answer(r *http.Request) ledgerlyAnswer {
	var in struct {
		Ref, Title, Party, Every, Agreement string
		Cents                               int64
		Parties                             []struct{ Ref, Title string }
	}
	if r.Method == http.MethodPost {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return failure(400, "no_json", "")
		}
	}
	switch r.Method + " " + r.URL.Path {
	case "GET /v1/token":
		return ledgerlyAnswer{200, map[string]any{}}
	case "POST /v1/parties":
		return l.party(in.Ref, in.Title)
	case "POST /v1/parties/bulk":
		l.bulks = append(l.bulks, len(in.Parties))
		outcomes := []any{}
		for _, p := range in.Parties {
			a := l.party(p.Ref, p.Title)
			o := map[string]any{"code": a.status}
			if a.status == 200 {
				o["result"] = a.body
			} else {
				o["failure"] = a.body.(map[string]any)["failure"]
			}
			outcomes = append(outcomes, o)
		}
		return ledgerlyAnswer{200, map[string]any{"outcomes": outcomes}}
	case "POST /v1/agreements":
		if !l.has("party", in.Party) {
			return failure(422, "unknown_parent", "party")
		}
		return ledgerlyAnswer{201, map[string]any{"id": l.create("agreement", in.Ref)}}
	case "POST /v1/bills":
		if !l.has("agreement", in.Agreement) {
			return failure(422, "unknown_parent", "agreement")
		}
		if l.lost > 0 {
			if l.lost--; l.lost%2 == 0 {
				l.create("bill", in.Ref)
			}
			return ledgerlyAnswer{500, nil} // done or not: nobody knows
		}
		return ledgerlyAnswer{201, map[string]any{"id": l.create("bill", in.Ref)}}
	case "GET /v1/bills":
		rows := []any{}
		for _, id := range l.made["bill "+r.URL.Query().Get("ref")] {
			rows = append(rows, map[string]any{"id": id})
		}
		return ledgerlyAnswer{200, map[string]any{"page": map[string]any{"offset": 0, "total": len(rows), "rows": rows}}}
	}
	return failure(404, "no_such_path", "")
}

// One more vendor is one more file: keys in a header, batches, nested errors, bills without idempotency that are looked up
// in an offset-paged list, and contracts that the invoices refer to, published in the wrong order.
func TestVendorFromAFile(t *testing.T) {
	t.Parallel()
	const n = 60
	l := &ledgerly{made: map[string][]string{}, answers: map[string]ledgerlyAnswer{}, calls: map[string]int{}, busy: 3, lost: 6}
	srv := httptest.NewServer(l)
	defer srv.Close()
	profile, err := filepath.Abs(filepath.Join("testdata", "ledgerly.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, boxOptions{vendor: "ledgerly", profile: profile, baseURL: srv.URL, partitions: 1})
	var es []event
	for i := range n {
		c, k, v := fmt.Sprintf("c-%d", i), fmt.Sprintf("k-%d", i), fmt.Sprintf("i-%d", i)
		e := invoice(v, c, 1, 900)
		e.fields["contract_id"] = k
		es = append(es, e, newEvent("contract", k, 1, map[string]any{"customer_id": c, "status": "active", "start_date": "2026-01-01", "amount_minor": int64(900), "currency": "USD", "billing_period": "monthly"}))
		es = append(es, customer(c, 1))
	}
	refused := customer("refused", 1)
	refused.fields["legal_name"] = "Refused Ltd"
	es = append(es, refused, invoice("without", "c-1", 1, 5))
	weir := b.start()
	b.publish(es...)
	b.waitLag0()
	b.stop(weir)

	l.mu.Lock()
	defer l.mu.Unlock()
	kinds := map[string]int{}
	for what, ids := range l.made {
		kind, _, _ := strings.Cut(what, " ")
		kinds[kind]++
		if len(ids) != 1 {
			t.Errorf("%s was made %d times", what, len(ids))
		}
	}
	if kinds["party"] != n || kinds["agreement"] != n || kinds["bill"] != n {
		t.Errorf("made: %v, want %d of each", kinds, n)
	}
	if len(l.bulks) == 0 || l.calls["GET /v1/bills"] == 0 || l.busy != 0 || l.lost != 0 {
		t.Errorf("batches %v, calls %v: the run shows too little", l.bulks, l.calls)
	}
	reasons := map[string]string{}
	for _, p := range b.parked() {
		reasons[p.Key] = p.Cause + " " + p.Reason
	}
	if len(reasons) != 2 || reasons["refused"] != "rejected refused_by_ledgerly" || reasons["without"] != "rejected no_contract" {
		t.Errorf("parked: %v", reasons)
	}
}
