package deliver

import (
	"context"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/weirsync/weir/connector/profile"
)

// What is answered is counted by its price, exactly; what is not answered, and what has no price, is not.
func TestSpent(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/lost":
			panic(http.ErrAbortHandler)
		case "/refused":
			w.WriteHeader(422)
		}
	}))
	defer srv.Close()
	op := func(name string, p *profile.Price) *profile.Operation {
		return &profile.Operation{Name: name, Price: p}
	}
	pay := op("pay", &profile.Price{Micros: 52_500, Currency: "EUR"})
	look, free, idle := op("look", &profile.Price{Micros: 1, Currency: "USD"}), op("free", nil), op("idle", &profile.Price{Micros: 1, Currency: "USD"})
	s := NewSender(SenderConfig{BaseURL: srv.URL, Operations: map[string]*profile.Operation{"pay": pay, "look": look, "free": free, "idle": idle}})
	defer s.Close()
	// A mapping of an earlier profile may have had another currency.
	before := op("pay", &profile.Price{Micros: 60_000, Currency: "CHF"})
	for _, r := range []profile.Request{{Path: "/", Operation: pay}, {Path: "/refused", Operation: pay}, {Path: "/lost", Operation: pay},
		{Path: "/", Operation: look}, {Path: "/", Operation: free}, {Path: "/"}, {Path: "/", Operation: before}} {
		r.Method = http.MethodPost
		s.Send(context.Background(), &r)
	}
	want := []Spent{{"idle", "USD", 0, 0}, {"look", "USD", 1, 1}, {"pay", "CHF", 1, 60_000}, {"pay", "EUR", 2, 105_000}}
	if got := s.Spent(); !reflect.DeepEqual(got, want) {
		t.Errorf("Spent = %v, want %v", got, want)
	}
}
