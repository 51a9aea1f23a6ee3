package bench

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// A vendor takes requests over HTTP/1.1 and answers each after the same time. It reads and writes the bytes itself, on
// one goroutine for each connection, and parses no more than it needs, to cost little beside what is measured. It
// believes nothing: which entity, version and event a request is of, it reads from the request.
type vendor struct {
	mu sync.Mutex
	request
	wrong      string // the first request that is none of the run's
	received   int
	distinct   int
	duplicated int
	reordered  int
	at         []int64 // Unix ns of the first receipt, by number of the event
	last       []int64 // by key, the version received last
	busy       []bool  // by key, a request is not yet answered
}

// Vendor is the part that requests are sent to.
func Vendor(ctx context.Context, in io.Reader, out io.Writer) error {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen for the benchmark's vendor: %w", err)
	}
	v := &vendor{}
	var conns sync.WaitGroup
	open := make(map[net.Conn]struct{})
	var mu sync.Mutex
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = struct{}{}
			mu.Unlock()
			conns.Go(func() {
				v.serve(c)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	err = serve(ctx, in, out, answer{Addr: ln.Addr().String()}, v.handle)
	ln.Close()
	mu.Lock()
	for c := range open {
		c.Close()
	}
	mu.Unlock()
	conns.Wait()
	return err
}

func (v *vendor) handle(r request) answer {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch r.Do {
	case "arm":
		v.request, v.wrong = r, ""
		v.received, v.distinct, v.duplicated, v.reordered = 0, 0, 0, 0
		v.at, v.last, v.busy = make([]int64, r.Events), make([]int64, r.Keys), make([]bool, r.Keys)
		return answer{}
	case "count":
		return answer{At: time.Now().UnixNano(), Received: v.received, Distinct: v.distinct}
	case "report":
		if v.wrong != "" {
			return answer{Error: "was sent " + v.wrong}
		}
		a := answer{Received: v.received, Distinct: v.distinct, Duplicated: v.duplicated, Reordered: v.reordered}
		var took []int64
		for n, at := range v.at {
			if n >= v.Warm && at > 0 {
				took = append(took, max(0, at-v.Start-int64(n-n%publishGroup)*int64(v.Every)))
			}
		}
		slices.Sort(took)
		a.P50, a.P99, a.P999 = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999)
		return a
	}
	return answer{Error: fmt.Sprintf("no such request %q", r.Do)}
}

// quantile is that of sorted nanoseconds, in milliseconds.
func quantile(sorted []int64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]) / 1e6
}

const vendorAnswer = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"id\":\"x\"}\n"

// requestBytesMax bounds one request with its head.
const requestBytesMax = 64 << 10

var errTooLarge = errors.New("larger than a request of the benchmark")

// serve answers the requests of one connection.
func (v *vendor) serve(c net.Conn) {
	buf := make([]byte, 0, 8<<10)
	fill := func() error {
		if len(buf) == cap(buf) {
			if len(buf) >= requestBytesMax {
				return errTooLarge
			}
			buf = slices.Grow(buf, len(buf))
		}
		n, err := c.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			return nil
		}
		return err
	}
	for {
		head := bytes.Index(buf, []byte("\r\n\r\n"))
		for head < 0 {
			if fill() != nil {
				return
			}
			head = bytes.Index(buf, []byte("\r\n\r\n"))
		}
		end := head + 4 + contentLength(buf[:head+2])
		for len(buf) < end {
			if fill() != nil {
				return
			}
		}
		_, rest, _ := bytes.Cut(buf[:head], []byte(" "))
		path, _, _ := bytes.Cut(rest, []byte(" "))
		key, latency := v.receive(path, buf[head+4:end])
		if latency > 0 {
			time.Sleep(latency)
		}
		v.answered(key)
		if _, err := io.WriteString(c, vendorAnswer); err != nil {
			return
		}
		buf = buf[:copy(buf, buf[end:])]
	}
}

// contentLength is that of a request's head, 0 if it has none.
func contentLength(head []byte) int {
	const name = "content-length:"
	for len(head) > 0 {
		var line []byte
		line, head, _ = bytes.Cut(head, []byte("\r\n"))
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			n, _ := strconv.Atoi(string(bytes.TrimSpace(line[len(name):])))
			return max(0, min(n, requestBytesMax))
		}
	}
	return 0
}

const (
	thingsPath = "/things/con_"
	barePath   = "/bare"
	versionKey = `"version":`
	numberKey  = `"number":`
)

// receive counts one request. key is -1 where order does not matter.
func (v *vendor) receive(path, body []byte) (key int, latency time.Duration) {
	now := time.Now().UnixNano()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.received++
	if string(path) == barePath {
		v.distinct++ // it says nothing of what it sends
		return -1, v.Latency
	}
	id, ok := bytes.CutPrefix(path, []byte(thingsPath))
	k, ok1 := digits(id)
	version, ok2 := field(body, versionKey)
	n, ok3 := field(body, numberKey)
	if !ok || !ok1 || !ok2 || !ok3 || int(k) >= len(v.last) || int(n) >= len(v.at) {
		if v.wrong == "" {
			v.wrong = fmt.Sprintf("a request of %d bytes for %.40q", len(body), path)
		}
		return -1, v.Latency
	}
	switch {
	case v.at[n] != 0:
		v.duplicated++
	case version <= v.last[k] || v.busy[k]:
		v.reordered++
		fallthrough
	default:
		v.at[n] = now
		v.distinct++
	}
	v.last[k] = max(v.last[k], version)
	v.busy[k] = true
	return int(k), v.Latency
}

// answered lets the next request of the key come. It is called before the answer is written: one that comes because
// of it is not early.
func (v *vendor) answered(key int) {
	if key < 0 {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if key < len(v.busy) {
		v.busy[key] = false
	}
}

// field is the integer behind a name in JSON that our mapping wrote.
func field(body []byte, name string) (int64, bool) {
	i := bytes.Index(body, []byte(name))
	if i < 0 {
		return 0, false
	}
	body = body[i+len(name):]
	n := 0
	for n < len(body) && body[n] >= '0' && body[n] <= '9' {
		n++
	}
	return digits(body[:n])
}

// digits reads a number of at most 18 digits and nothing else.
func digits(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}
