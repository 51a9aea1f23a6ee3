package deliver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/http/httpguts"
)

// A wire makes exchanges of one kind of connection. Safe for concurrent use.
type wire interface {
	// request makes a request of a path below a base URL, without headers and body.
	request(method, base, path string) (*http.Request, error)
	// release takes back a request that nobody looks at any more.
	release(req *http.Request)
	// exchange sends req once, with a body, and reads the answer, of whose body at most AnswerBytesMax+1 bytes count. It ends at the
	// deadline or with ctx. connected reports whether a connection was obtained, whatever became of it. An error with
	// an answer says that its body broke off.
	exchange(ctx context.Context, req *http.Request, body []byte, deadline time.Time) (ans *wireAnswer, connected bool, err error)
	close()
}

type wireAnswer struct {
	status int
	header http.Header
	body   []byte
}

const (
	// connIdleMax is shorter than the 60 s after which common servers close an idle connection: a request that meets
	// a closing connection would be an ambiguous one.
	connIdleMax = 20 * time.Second
	// connFresh is for how long a connection counts as open without a look. A server that closes one says so in its
	// answer or does it after a while.
	connFresh      = time.Millisecond
	headerBytesMax = 64 << 10
	dialTimeout    = 5 * time.Second
	// interimMax bounds 1xx answers before the final one, as in net/http.
	interimMax = 5
)

// A direct wire speaks HTTP/1.1 without TLS: one exchange at a time on a connection, written and read by the calling
// goroutine. net/http runs two more goroutines for each connection, whose wake-ups and channels cost as much again as
// the exchange (docs/performance.md). Answers are parsed by net/http, but for plain ones. What is not HTTP/1.1 in plain text,
// or goes through a proxy, is left to it altogether.
type direct struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	addr    string
	host    string // of requests
	urlHost string // of their URLs, where it may be written otherwise
	idleMax int
	sending func()     // when a request is on the wire, nil-able
	other   *transport // for tokens: their server is another one

	mu     sync.Mutex
	idle   []*directConn // by the time of their last exchange, newest last
	closed bool
	pruner *time.Timer // runs while there is an idle connection
}

type directConn struct {
	net.Conn
	raw  syscall.RawConn       // nil if it is no socket
	look func(fd uintptr) bool // of stillOpen, whose answer is open
	open bool
	r    *bufio.Reader
	w    *bufio.Writer
	left int64 // bytes that may still be read of the head of an answer, <0: no limit
	used time.Time
	ctx  context.Context // closes the connection when it ends
	stop func() bool
}

var errHeadTooLarge = fmt.Errorf("the head of the answer is larger than %d bytes", headerBytesMax)

func (c *directConn) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errHeadTooLarge
	}
	if c.left > 0 && int64(len(p)) > c.left {
		p = p[:c.left]
	}
	n, err := c.Conn.Read(p)
	if c.left > 0 {
		c.left -= int64(n)
	}
	return n, err
}

// follow closes the connection when ctx ends. Requests of a connector have one ctx, so this is once a connection.
func (c *directConn) follow(ctx context.Context) {
	if c.ctx == ctx {
		return
	}
	if c.stop != nil {
		c.stop()
	}
	c.ctx, c.stop = ctx, context.AfterFunc(ctx, func() { c.Conn.Close() })
}

func (c *directConn) drop() {
	if c.stop != nil {
		c.stop()
	}
	c.Conn.Close()
}

// get takes the connection that was used last, or opens one.
func (d *direct) get(ctx context.Context, deadline time.Time) (*directConn, error) {
	for {
		d.mu.Lock()
		n := len(d.idle)
		if n == 0 {
			d.mu.Unlock()
			break
		}
		c := d.idle[n-1]
		d.idle[n-1] = nil
		d.idle = d.idle[:n-1]
		d.mu.Unlock()
		since := time.Since(c.used)
		if since < connFresh || since < connIdleMax && c.stillOpen() {
			return c, nil
		}
		c.drop()
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	conn, err := d.dial(ctx, "tcp", d.addr)
	if err != nil {
		return nil, err
	}
	c := &directConn{Conn: conn, w: bufio.NewWriterSize(conn, 4<<10)}
	c.r = bufio.NewReaderSize(c, 4<<10)
	if s, ok := conn.(syscall.Conn); ok {
		if c.raw, err = s.SyscallConn(); err != nil {
			c.drop()
			return nil, err
		}
	}
	return c, nil
}

// put keeps a connection for the next request.
func (d *direct) put(c *directConn) {
	c.used = time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed || len(d.idle) >= d.idleMax {
		c.drop()
		return
	}
	d.idle = append(d.idle, c)
	if d.pruner == nil {
		d.pruner = time.AfterFunc(connIdleMax, d.prune)
	}
}

// prune closes what has been idle for too long.
func (d *direct) prune() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pruner = nil
	n := 0
	for n < len(d.idle) && time.Since(d.idle[n].used) >= connIdleMax {
		d.idle[n].drop()
		n++
	}
	d.idle = append(d.idle[:0], d.idle[n:]...)
	clear(d.idle[len(d.idle):cap(d.idle)])
	if len(d.idle) > 0 && !d.closed {
		d.pruner = time.AfterFunc(max(connIdleMax-time.Since(d.idle[0].used), time.Millisecond), d.prune)
	}
}

func (d *direct) close() {
	d.other.close()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	for _, c := range d.idle {
		c.drop()
	}
	d.idle = nil
	if d.pruner != nil {
		d.pruner.Stop()
	}
}

// requests are the memory of requests that were released.
var requests = sync.Pool{New: func() any {
	return &http.Request{URL: new(url.URL), Header: make(http.Header, headersUsual)}
}}

// headersUsual is how many headers most requests have at most.
const headersUsual = 8

func (d *direct) request(method, base, path string) (*http.Request, error) {
	u, err := d.parseURL(base + path)
	if err != nil {
		return nil, err
	}
	if !httpguts.ValidHeaderFieldName(method) { // a token like those: RFC 9110, 9.1
		return nil, fmt.Errorf("method %q is none", method)
	}
	req := requests.Get().(*http.Request)
	*req.URL = u
	*req = http.Request{Method: method, URL: req.URL, Host: d.host, Header: req.Header}
	return req, nil
}

func (d *direct) release(req *http.Request) {
	clear(req.Header)
	requests.Put(req)
}

// parseURL is url.Parse of an http URL of the wire's host, and takes a tenth of its time for those that most requests have:
// without escapes.
func (d *direct) parseURL(s string) (url.URL, error) {
	whole := func() (url.URL, error) {
		u, err := url.Parse(s)
		if err != nil {
			return url.URL{}, err
		}
		return *u, nil
	}
	const scheme = "http://"
	if !strings.HasPrefix(s, scheme) || !strings.HasPrefix(s[len(scheme):], d.urlHost) {
		return whole()
	}
	path := s[len(scheme)+len(d.urlHost):]
	if path == "" || path[0] != '/' {
		return whole()
	}
	query := ""
	for i := range len(path) {
		c := path[i]
		if isPlain(c) || c == '/' || c == ':' || c == '@' {
			continue
		}
		if c != '?' || i+1 == len(path) {
			return whole()
		}
		path, query = path[:i], path[i+1:]
		break
	}
	for i := range len(query) {
		if c := query[i]; !isPlain(c) && c != '=' && c != '&' && c != ':' && c != ',' {
			return whole()
		}
	}
	return url.URL{Scheme: "http", Host: d.urlHost, Path: path, RawQuery: query}, nil
}

// isPlain reports whether a byte means itself in a URL, everywhere: RFC 3986, 2.3.
func isPlain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// appendHead appends the head of a request as net/http writes it, in a fifth of the time: RFC 9112, 2 to 6. Names and
// values of its headers are valid.
func appendHead(b []byte, req *http.Request, size int) []byte {
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = append(b, req.URL.RequestURI()...)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, req.Host...)
	b = append(b, "\r\n"...)
	if size > 0 || req.Method == http.MethodPost || req.Method == http.MethodPut || req.Method == http.MethodPatch {
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, int64(size), 10)
		b = append(b, "\r\n"...)
	}
	for name, values := range req.Header {
		switch name {
		case "Host", "Content-Length", "Transfer-Encoding", "Trailer": // these are not the profile's to say, as in net/http
			continue
		}
		for _, v := range values {
			b = append(b, name...)
			b = append(b, ": "...)
			b = append(b, textproto.TrimString(v)...)
			b = append(b, "\r\n"...)
		}
	}
	return append(b, "\r\n"...)
}

func (d *direct) exchange(ctx context.Context, req *http.Request, body []byte, deadline time.Time) (ans *wireAnswer, connected bool, err error) {
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	for name, values := range req.Header { // as net/http does
		for _, v := range values {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(v) {
				return nil, false, fmt.Errorf("header %q holds what no header may", name)
			}
		}
	}
	c, err := d.get(ctx, deadline)
	if err != nil {
		return nil, false, waited(ctx, err)
	}
	ans, reuse, err := c.exchange(ctx, req, body, deadline, d.sending)
	if reuse {
		d.put(c)
	} else {
		c.drop()
	}
	return ans, true, waited(ctx, err)
}

// waited says which wait has ended an exchange, if one has.
func waited(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return context.DeadlineExceeded
	}
	return err
}

func (c *directConn) exchange(ctx context.Context, req *http.Request, body []byte, deadline time.Time, sending func()) (ans *wireAnswer, reuse bool, err error) {
	c.follow(ctx)
	if err := c.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	_, broke := c.w.Write(appendHead(c.w.AvailableBuffer(), req, len(body)))
	if broke == nil {
		_, broke = c.w.Write(body)
	}
	if broke == nil {
		broke = c.w.Flush()
	}
	if broke == nil && sending != nil {
		sending()
	}
	// A server may refuse a large request before it has read it, and close: its answer counts.
	c.left = headerBytesMax
	if ans, size, ok := readHead(c.r, req.Method); ok {
		c.left = -1
		ans.body, err = readSized(c.r, size)
		return ans, err == nil && broke == nil && c.r.Buffered() == 0, err
	}
	var resp *http.Response
	for interim := 0; ; interim++ {
		if resp, err = http.ReadResponse(c.r, req); err != nil {
			if broke != nil {
				return nil, false, broke
			}
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("the server closed the connection before its answer was whole: %w", io.ErrUnexpectedEOF)
			}
			return nil, false, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			break
		}
		if interim == interimMax {
			return nil, false, fmt.Errorf("more than %d interim answers", interimMax)
		}
		c.left = headerBytesMax
	}
	c.left = -1
	ans = &wireAnswer{status: resp.StatusCode, header: resp.Header}
	ans.body, err = readBody(resp)
	reuse = err == nil && broke == nil && !resp.Close && resp.StatusCode >= 200 && len(ans.body) <= AnswerBytesMax && c.r.Buffered() == 0
	return ans, reuse, err
}

// readBody reads a body as far as it counts.
func readBody(resp *http.Response) ([]byte, error) {
	if n := resp.ContentLength; n >= 0 && n <= AnswerBytesMax {
		return readSized(resp.Body, int(n))
	}
	return io.ReadAll(io.LimitReader(resp.Body, AnswerBytesMax+1))
}

// readSized reads n bytes. With an error it answers those that came.
func readSized(r io.Reader, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b := make([]byte, n)
	got, err := io.ReadFull(r, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return b[:got], err
}
