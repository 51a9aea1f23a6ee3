package deliver

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// Nearly all answers are plain; what says more of the connection or the body than a length is net/http's.
func TestReadHead(t *testing.T) {
	for name, tc := range map[string]struct {
		answer, method string
		status, size   int // status 0: net/http's
	}{
		"plain":             {"HTTP/1.1 201 Created\r\nDate: Thu, 26 Nov 2026 10:00:00 GMT\r\ncontent-length: 2\r\nX-Ratelimit_Left:  7\t\r\n\r\nok", "POST", 201, 2},
		"no reason":         {"HTTP/1.1 429\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n", "POST", 429, 0},
		"empty value":       {"HTTP/1.1 200 OK\r\nX-A:\r\nContent-Length: 0\r\n\r\n", "GET", 200, 0},
		"largest":           {"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n", "GET", 200, AnswerBytesMax},
		"too large":         {"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n", "GET", 0, 0},
		"a head alone":      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", 0, 0},
		"cut":               {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "GET", 0, 0},
		"nothing":           {"", "GET", 0, 0},
		"no length":         {"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\nok", "GET", 0, 0},
		"two lengths":       {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "GET", 0, 0},
		"a list of lengths": {"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", "GET", 0, 0},
		"negative":          {"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", "GET", 0, 0},
		"chunked":           {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", "GET", 0, 0},
		"close":             {"HTTP/1.1 200 OK\r\nconnection: close\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"interim":           {"HTTP/1.1 103 Early Hints\r\nContent-Length: 0\r\n\r\n", "GET", 0, 0},
		"no body by status": {"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"old version":       {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"continued line":    {"HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"space in a name":   {"HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"bare line feed":    {"HTTP/1.1 200 OK\nX-A: b\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"control byte":      {"HTTP/1.1 200 OK\r\nX-A: b\x01\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
		"status of letters": {"HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok", "GET", 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(tc.answer))
			ans, size, ok := readHead(r, tc.method)
			if ok != (tc.status != 0) || ok && (ans.status != tc.status || size != tc.size) {
				t.Fatalf("readHead = %+v, %d, %v; want status %d, %d bytes", ans, size, ok, tc.status, tc.size)
			}
			rest, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			want := tc.answer
			if ok {
				_, want, _ = strings.Cut(want, "\r\n\r\n")
			}
			if string(rest) != want {
				t.Errorf("left to read %q, want %q", rest, want)
			}
		})
	}
}

// FuzzReadHead: a head that is read here says the same to net/http, and ends at the same byte.
func FuzzReadHead(f *testing.F) {
	f.Add([]byte("HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nDate: x\r\nContent-Length: 2\r\n\r\nok"), "POST")
	f.Add([]byte("HTTP/1.1 503\r\nretry-after:\t 9 \r\nX_y: a:b\r\nContent-length: 007\r\n\r\n"), "GET")
	f.Add([]byte("HTTP/1.1 200 OK\r\nExpect: x\r\nUpgrade: y\r\nKeep-Alive: timeout=5\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n"), "DELETE")
	f.Fuzz(func(t *testing.T, answer []byte, method string) {
		r := bufio.NewReader(bytes.NewReader(answer))
		ans, size, ok := readHead(r, method)
		if !ok {
			if rest, _ := io.ReadAll(r); !bytes.Equal(rest, answer) {
				t.Fatalf("not plain, and %d bytes of %d are left", len(rest), len(answer))
			}
			return
		}
		theirs := bufio.NewReader(bytes.NewReader(answer))
		resp, err := http.ReadResponse(theirs, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%q is refused by net/http: %v", answer, err)
		}
		if resp.StatusCode != ans.status || resp.ContentLength != int64(size) || resp.Close || resp.ProtoMajor != 1 || resp.ProtoMinor != 1 {
			t.Errorf("%q: status %d, %d bytes; net/http says %d, %d, close %v", answer, ans.status, size, resp.StatusCode, resp.ContentLength, resp.Close)
		}
		if !reflect.DeepEqual(resp.Header, ans.header) {
			t.Errorf("%q: header %v, net/http says %v", answer, ans.header, resp.Header)
		}
		ours, _ := io.ReadAll(r)
		if rest, _ := io.ReadAll(theirs); !bytes.Equal(ours, rest) {
			t.Errorf("%q: %d bytes follow, after net/http %d", answer, len(ours), len(rest))
		}
	})
}
