package deliver

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/weirsync/weir/checkpoint"
)

// rawServer answers each request of each connection with the bytes that answer gives for it, and closes the connection
// where it gives none. n counts requests over all connections, from 0.
func rawServer(t *testing.T, answer func(n int) string) (url string, conns *atomic.Int32) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = new(atomic.Int32)
	var n atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					if _, err := c.Read(buf); err != nil { // a small request comes in one piece
						return
					}
					a := answer(int(n.Add(1)) - 1)
					if a == "" {
						return
					}
					_, _ = io.WriteString(c, a)
				}
			}()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return "http://" + ln.Addr().String(), conns
}

const plainAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// Each answer is read to its end, and its connection is used again if, and only if, nothing speaks against it.
func TestDirectReadsAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		first  string
		status int
		body   string
		conns  int32 // after a second request
	}{
		"length":             {plainAnswer, 200, "ok", 1},
		"empty":              {"HTTP/1.1 204 No Content\r\n\r\n", 204, "", 1},
		"chunked":            {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", 200, "abc", 1},
		"interim":            {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + plainAnswer, 200, "ok", 1},
		"close":              {"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2},
		"more than it says":  {plainAnswer + "HTTP/1.1 200 OK\r\n", 200, "ok", 2},
		"old version":        {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", 2},
		"switching protocol": {"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", 101, "", 2},
	} {
		t.Run(name, func(t *testing.T) {
			url, conns := rawServer(t, func(n int) string {
				if n == 0 {
					return tc.first
				}
				return plainAnswer
			})
			s, r := request(url)
			defer s.Close()
			if _, ok := s.wire.(*direct); !ok {
				t.Fatalf("plain HTTP goes over a %T", s.wire)
			}
			ex := s.Send(t.Context(), r)
			if ex.Sent != checkpoint.Answered || ex.Answer.Status != tc.status || string(ex.Answer.Body) != tc.body {
				t.Fatalf("Send = %v %+v, %v; want %d %q", ex.Sent, ex.Answer, ex.Err, tc.status, tc.body)
			}
			if ex = s.Send(t.Context(), r); ex.Sent != checkpoint.Answered || string(ex.Answer.Body) != "ok" {
				t.Fatalf("the second Send = %v, %v", ex.Sent, ex.Err)
			}
			if got := conns.Load(); got != tc.conns {
				t.Errorf("%d connections, want %d", got, tc.conns)
			}
		})
	}
}

// A connection that the server has closed while it was idle is not sent on: the request would be ambiguous.
func TestDirectLeavesClosedConnections(t *testing.T) {
	closed := make(chan struct{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for n := 0; ; n++ {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4<<10)
			_, _ = c.Read(buf)
			_, _ = io.WriteString(c, plainAnswer)
			c.Close()
			if n == 0 {
				close(closed)
			}
		}
	}()
	s, r := request("http://" + ln.Addr().String())
	defer s.Close()
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.Answered {
		t.Fatal(ex.Err)
	}
	<-closed
	d := s.wire.(*direct)
	d.mu.Lock()
	d.idle[0].used = d.idle[0].used.Add(-connFresh) // as if it had been idle for so long
	d.mu.Unlock()
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.Answered {
		t.Errorf("Send after the server closed the connection = %v, %v", ex.Sent, ex.Err)
	}
}

func TestDirectBoundsTheHead(t *testing.T) {
	url, _ := rawServer(t, func(int) string {
		return "HTTP/1.1 200 OK\r\nX: " + string(bytes.Repeat([]byte{'x'}, headerBytesMax)) + "\r\nContent-Length: 2\r\n\r\nok"
	})
	s, r := request(url)
	defer s.Close()
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.AnswerLost || !errors.Is(ex.Err, errHeadTooLarge) {
		t.Errorf("Send = %v, %v; want answer_lost, %v", ex.Sent, ex.Err, errHeadTooLarge)
	}
}

// The end of the context ends an exchange under way, on a new connection and on one that was used before.
func TestDirectEndsWithItsContext(t *testing.T) {
	for _, used := range []bool{false, true} {
		t.Run(fmt.Sprintf("used=%v", used), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			url, _ := rawServer(t, func(n int) string {
				if used && n == 0 {
					return plainAnswer
				}
				cancel()
				return "HTTP/1.1 103 Early Hints\r\n\r\n"
			})
			s, r := request(url)
			s.cfg.Timeout = time.Minute
			defer s.Close()
			if used {
				if ex := s.Send(ctx, r); ex.Sent != checkpoint.Answered {
					t.Fatal(ex.Err)
				}
			}
			if ex := s.Send(ctx, r); ex.Sent != checkpoint.AnswerLost || !errors.Is(ex.Err, context.Canceled) {
				t.Errorf("Send = %v, %v; want answer_lost by the context", ex.Sent, ex.Err)
			}
			if ex := s.Send(ctx, r); ex.Sent != checkpoint.NotSent {
				t.Errorf("Send after the end = %v, %v", ex.Sent, ex.Err)
			}
		})
	}
}

// A server may refuse a large request before it has read it.
func TestDirectReadsAnEarlyRefusal(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.ReadFull(c, make([]byte, 1024))
		_, _ = io.WriteString(c, "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}()
	s, r := request("http://" + ln.Addr().String())
	defer s.Close()
	r.Body = make([]byte, 8<<20)
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.Answered || ex.Answer.Status != 413 {
		t.Errorf("Send = %v, %v; want 413", ex.Sent, ex.Err)
	}
}

func TestDirectRefusesBrokenHeaders(t *testing.T) {
	url, conns := rawServer(t, func(int) string { return plainAnswer })
	s, r := request(url)
	defer s.Close()
	r.Header = http.Header{"X-Idempotency-Key": {"a\r\nX-Other: b"}}
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.NotSent || conns.Load() != 0 {
		t.Errorf("Send = %v, %v, %d connections; want not_sent and none", ex.Sent, ex.Err, conns.Load())
	}
}

func TestIdleConnectionsAreClosed(t *testing.T) {
	url, _ := rawServer(t, func(int) string { return plainAnswer })
	s, r := request(url)
	defer s.Close()
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.Answered {
		t.Fatal(ex.Err)
	}
	d := s.wire.(*direct)
	d.mu.Lock()
	c := d.idle[0]
	c.used = c.used.Add(-connIdleMax)
	d.mu.Unlock()
	d.prune()
	if _, err := c.Conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) || len(d.idle) != 0 || d.pruner != nil {
		t.Errorf("write to a pruned connection: %v; %d idle, pruner runs: %v", err, len(d.idle), d.pruner != nil)
	}
}

// Which base URLs are spoken to directly.
func TestDirectBases(t *testing.T) {
	for base, want := range map[string][2]string{
		"http://vendor.example":        {"vendor.example:80", "vendor.example"},
		"http://127.0.0.1:8080/api/v1": {"127.0.0.1:8080", "127.0.0.1:8080"},
		"http://[::1]:8080":            {"[::1]:8080", "[::1]:8080"},
		"http://b\u00fccher.example":   {"b\u00fccher.example:80", "xn--bcher-kva.example"},
		"http://[fe80::1%25eth0]:8080": {},
		"http://me:it@vendor.example":  {}, // net/http makes a header of it
		"https://vendor.example":       {},
		"vendor":                       {},
	} {
		var got [2]string
		if d := newDirect(base, proxyOf("")); d != nil {
			got = [2]string{d.addr, d.host}
		}
		if got != want {
			t.Errorf("newDirect(%q) = %q, want %q", base, got, want)
		}
	}
	if d := newDirect("http://vendor.example", proxyOf("http://proxy.example:3128")); d != nil {
		t.Errorf("newDirect behind a proxy = %+v, want none", d)
	}
}

// FuzzDirectRequest: what the direct wire writes is, to a server, what net/http would have written.
func FuzzDirectRequest(f *testing.F) {
	f.Add("POST", "/v1/intent/in_1/cancel", "X-Idempotency-Key", "abc", "{}")
	f.Add("GET", "/payments?ref=a.1&state=open", "Accept", "application/json", "")
	f.Add("PUT", "/things/a%2Fb%20c", "If-Match", `"1"`, "x")
	f.Add("DELETE", "/a b/\u00e4?q=%zz#f", "X-A", " v ", "")
	f.Add("PATCH", "//x:y@z?", "host", "other", "")
	f.Add("GET", "", "Content-Length", "7", "")
	f.Fuzz(func(t *testing.T, method, path, name, value, body string) {
		const base = "http://vendor.example:8080"
		d := newDirect(base, nil)
		ours, err := d.request(method, base, path)
		theirs, theirErr := http.NewRequest(method, base+path, strings.NewReader(body))
		if (err == nil) != (theirErr == nil) && method != "" { // "" is net/http's GET
			t.Fatalf("request(%q, %q) = %v, net/http says %v", method, path, err, theirErr)
		}
		if err != nil || theirErr != nil || theirs.URL.Host != d.host || !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			return
		}
		if ours.URL.String() != theirs.URL.String() {
			t.Fatalf("URL %v, net/http says %v", ours.URL, theirs.URL)
		}
		ours.Header[name], theirs.Header[name] = []string{value}, []string{value}
		ours.Header["User-Agent"], theirs.Header["User-Agent"] = []string{"weir"}, []string{"weir"}
		var want bytes.Buffer
		if err := theirs.Write(&want); err != nil {
			return
		}
		got := append(appendHead(nil, ours, len(body)), body...)
		if g, w := served(t, got), served(t, want.Bytes()); g != w {
			t.Errorf("a server reads\n%s\nof net/http it reads\n%s", g, w)
		}
	})
}

// served is what a server reads of a request.
func served(t *testing.T, b []byte) string {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
	if err != nil {
		return "not readable: " + err.Error()
	}
	body, err := io.ReadAll(r.Body)
	return fmt.Sprintf("%s %s %s %d %q %v\n%q %v", r.Method, r.RequestURI, r.Host, r.ContentLength, r.TransferEncoding, r.Header, body, err)
}

// HTTPS goes over net/http: the same answers, HTTP/2 included.
func TestTransportSends(t *testing.T) {
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Proto", r.Proto)
		_, _ = io.Copy(w, r.Body)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	_, r := request("")
	sent := 0
	s := NewSender(SenderConfig{BaseURL: srv.URL, Timeout: 2 * time.Second, Sending: func() { sent++ }, Roots: srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs})
	defer s.Close()
	ex := s.Send(t.Context(), r)
	if ex.Sent != checkpoint.Answered || string(ex.Answer.Body) != `{"a":1}` || ex.Answer.Header.Get("X-Proto") != "HTTP/2.0" || sent != 1 {
		t.Errorf("Send = %v %+v, %v, sending called %d times", ex.Sent, ex.Answer, ex.Err, sent)
	}
	srv.Close()
	s.Close()
	if ex := s.Send(t.Context(), r); ex.Sent != checkpoint.NotSent {
		t.Errorf("Send to a server that is gone = %v, %v", ex.Sent, ex.Err)
	}
}

// BenchmarkSend is one exchange over loopback, the server in the same process, on either wire.
func BenchmarkSend(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"id":"x"}`)
	}))
	defer srv.Close()
	for _, wire := range []string{"direct", "transport"} {
		b.Run(wire, func(b *testing.B) {
			s, r := request(srv.URL)
			if wire == "transport" {
				s.wire = newTransport(s.cfg)
			}
			defer s.Close()
			b.ReportAllocs()
			for b.Loop() {
				if ex := s.Send(b.Context(), r); ex.Sent != checkpoint.Answered {
					b.Fatal(ex.Err)
				}
			}
		})
	}
}
