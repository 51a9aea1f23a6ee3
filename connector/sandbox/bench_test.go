package sandbox_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/weirsync/weir/connector/sandbox"
)

func userBody(tag string) string {
	return `{"tag":"` + tag + `","name":{"first":"Ada","last":"Lovelace"},"address":{"address_line_1":"1 Main St","locality":"Austin",` +
		`"administrative_area":"TX","postal_code":"78701","country":"US"},"email":"ada@example.com","date_of_birth":"1990-12-10",` +
		`"government_id":{"type":"ssn","last4":"1234"},"identity_verified":true}`
}

// nullWriter is a ResponseWriter that keeps nothing, so that the benchmark measures the sandbox and not a recorder.
type nullWriter struct {
	h      http.Header
	status int
}

func (w *nullWriter) Header() http.Header         { return w.h }
func (w *nullWriter) WriteHeader(s int)           { w.status = s }
func (w *nullWriter) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkHandler measures one request without the cost of net/http. The target is above 20,000 requests/s on one
// core with net/http, so a handler may take some 10 us.
func BenchmarkHandler(b *testing.B) {
	for _, c := range []struct{ name, vendor, method, path, body string }{
		{"pushcash/create_user", "pushcash", "POST", "/user", ""},
		{"plain/put_thing", "plain", "PUT", "/things/%d", `{"reference":"r-%d","name":"thing","amount":12}`},
		{"plain/create_payment", "plain", "POST", "/payments", `{"reference":"r-%d","amount":12}`},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := sandbox.New(c.vendor, sandbox.Options{LimitScale: 1e6})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			h := s.Handler()
			var n atomic.Int64
			b.ReportAllocs()
			for b.Loop() {
				i := n.Add(1)
				path, body := c.path, c.body
				if strings.Contains(path, "%d") {
					path = fmt.Sprintf(path, i)
				}
				if body == "" {
					body = userBody(fmt.Sprint(i))
				} else {
					body = fmt.Sprintf(body, i)
				}
				r := httptest.NewRequest(c.method, path, strings.NewReader(body))
				r.Header.Set("Authorization", "Bearer k")
				w := &nullWriter{h: http.Header{}}
				h.ServeHTTP(w, r)
				if w.status/100 != 2 {
					b.Fatalf("%s %s: status %d", c.method, path, w.status)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
