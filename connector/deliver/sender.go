package deliver

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/http/httpproxy"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
)

// AnswerBytesMax bounds what is read of a vendor's answer. A larger one is cut: its status counts, its body does
// not (promise 6).
const AnswerBytesMax = 1 << 20

// An Exchange is one request and what came of it.
type Exchange struct {
	// Answer is the vendor's answer; nil unless Sent is Answered.
	Answer *profile.Answer
	// Sent says how far the request got.
	Sent checkpoint.Sent
	// Err is why there is no answer.
	Err  error
	At   time.Time
	Took time.Duration

	// Credential is the fingerprint of the credential that it carried, "" if none.
	Credential string

	token uint64 // the number of the token that it carried, 0 if none
}

// SenderConfig configures a Sender.
type SenderConfig struct {
	BaseURL string
	// Connections is the number of idle connections kept, sized to the requests in flight: with fewer, most
	// requests open a new one (design section 15).
	Connections int
	// Timeout of one exchange, from the first byte of the connection to the last of the answer. Default 10 s. An
	// operation's own timeout wins.
	Timeout time.Duration
	// Credential goes with each request, nil-able. It becomes the Sender's, which closes it.
	Credential *Credential
	UserAgent  string
	// Operations of the profile: those with a price are counted from zero on (Spent).
	Operations map[string]*profile.Operation
	// Proxy is the URL of the proxy that all requests go through; "none" goes straight. "" takes the one that the
	// environment names (HTTPS_PROXY, HTTP_PROXY, NO_PROXY), which never counts for a loopback address.
	Proxy string
	// Roots are the certificate authorities that the vendor's certificate must come from, nil for the system's.
	Roots *x509.CertPool
	// Sending is called when the whole request is on the wire, nil-able: crash tests stop the process there.
	Sending func()
	// Dial replaces the dialer in tests.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// A Sender sends requests. Safe for concurrent use.
type Sender struct {
	cfg       SenderConfig
	wire      wire
	base      string
	userAgent []string
	purse     purse
}

// NewSender makes a Sender; Close frees its connections.
func NewSender(cfg SenderConfig) *Sender {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Connections == 0 {
		cfg.Connections = 64
	}
	if cfg.Dial == nil {
		cfg.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext
	}
	s := &Sender{cfg: cfg, base: strings.TrimRight(cfg.BaseURL, "/"), userAgent: []string{cfg.UserAgent}}
	for _, op := range cfg.Operations {
		s.purse.pay(op, 0)
	}
	t := newTransport(cfg)
	if cfg.Credential != nil {
		cfg.Credential.client = t.client
	}
	s.wire = t
	if d := newDirect(s.base, proxyOf(cfg.Proxy)); d != nil {
		d.dial, d.idleMax, d.sending, d.other = cfg.Dial, cfg.Connections, cfg.Sending, t
		s.wire = d
	}
	return s
}

// proxyOf chooses the proxy of a request.
func proxyOf(proxy string) func(*http.Request) (*url.URL, error) {
	switch proxy {
	case "none":
		return nil
	case "":
		// Asked now, not at the first request of the process as http.ProxyFromEnvironment does. Loopback addresses
		// go straight: golang.org/x/net/http/httpproxy, Config.ProxyFunc.
		f := httpproxy.FromEnvironment().ProxyFunc()
		return func(r *http.Request) (*url.URL, error) { return f(r.URL) }
	}
	return func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }
}

// newDirect is a direct wire if the base URL can be reached with plain HTTP and without a proxy, else nil.
func newDirect(base string, proxy func(*http.Request) (*url.URL, error)) *direct {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || strings.Contains(u.Host, "%") {
		return nil
	}
	if proxy != nil {
		if p, err := proxy(&http.Request{URL: u}); p != nil || err != nil {
			return nil
		}
	}
	host, err := httpguts.PunycodeHostPort(u.Host)
	if err != nil || !httpguts.ValidHostHeader(host) {
		return nil
	}
	port := u.Port()
	if port == "" {
		port = "80"
	}
	return &direct{addr: net.JoinHostPort(u.Hostname(), port), host: host, urlHost: u.Host}
}

// Close ends what the Sender does on its own, and closes idle connections.
func (s *Sender) Close() {
	if s.cfg.Credential != nil {
		s.cfg.Credential.close()
	}
	s.wire.close()
}

// Expired is told that the vendor says of an exchange that its credential has expired. It reports whether the next
// request carries another one: only then is a repeat worth it.
func (s *Sender) Expired(ex Exchange) bool {
	return s.cfg.Credential != nil && s.cfg.Credential.expire(ex.token, ex.Credential)
}

// Carries is the fingerprint of the credential that the next request would carry, "" if none is known.
func (s *Sender) Carries() string {
	if s.cfg.Credential == nil {
		return ""
	}
	return s.cfg.Credential.carries(time.Now())
}

// Remember takes up what an earlier process knew of its uses.
func (s *Sender) Remember(uses []Use) {
	if s.cfg.Credential != nil {
		s.cfg.Credential.Remember(uses)
	}
}

// Uses says when requests carried which credential; none if there is no credential.
func (s *Sender) Uses() []Use {
	if s.cfg.Credential == nil {
		return nil
	}
	return s.cfg.Credential.Uses()
}

// Send makes one exchange. It ends when ctx ends, at the latest after the timeout.
//
// NotSent is claimed only if no connection was ever obtained for the request. As soon as one was, bytes may have
// left us, so a failure is AnswerLost even if we believe that we wrote nothing.
func (s *Sender) Send(ctx context.Context, r *profile.Request) Exchange { return s.SendAs(ctx, r, "") }

// SendAs is Send with the credential of a fingerprint, "" for any. If that is gone, nothing is sent: NotSent, with
// [ErrOtherCredential].
func (s *Sender) SendAs(ctx context.Context, r *profile.Request, credential string) Exchange {
	timeout := s.cfg.Timeout
	if r.Operation != nil && r.Operation.Timeout > 0 {
		timeout = min(timeout, r.Operation.Timeout)
	}
	ex := Exchange{At: time.Now(), Sent: checkpoint.NotSent}
	req, err := s.wire.request(r.Method, s.base, r.Path)
	if err != nil {
		ex.Err = fmt.Errorf("build request %s %s: %w", r.Method, r.Path, err)
		return ex
	}
	defer s.wire.release(req)
	maps.Copy(req.Header, r.Header)
	if s.cfg.UserAgent != "" {
		req.Header["User-Agent"] = s.userAgent
	}
	deadline := ex.At.Add(timeout)
	if s.cfg.Credential != nil && !r.Anonymous {
		if ex.token, ex.Credential, err = s.cfg.Credential.authorize(ctx, req, r.Body, deadline, credential); err != nil {
			ex.Err = err
			return ex
		}
	}
	ans, connected, err := s.wire.exchange(ctx, req, r.Body, deadline)
	now := time.Now()
	ex.Took = now.Sub(ex.At)
	switch {
	case err != nil && ans != nil:
		// The status arrived, but not what the vendor said with it, such as the id that we need.
		ex.Sent = checkpoint.AnswerLost
		ex.Err = fmt.Errorf("%s %s: answer %d broke off after %d bytes: %w", r.Method, r.Path, ans.status, len(ans.body), plain(err))
		return ex
	case err != nil:
		if connected {
			ex.Sent = checkpoint.AnswerLost
		}
		ex.Err = fmt.Errorf("%s %s: %w", r.Method, r.Path, plain(err))
		return ex
	}
	ex.Sent = checkpoint.Answered
	s.purse.pay(r.Operation, 1)
	ex.Answer = &profile.Answer{Status: ans.status, Header: ans.header, Body: ans.body, At: now}
	if len(ans.body) > AnswerBytesMax {
		ex.Answer.Body = nil
	}
	return ex
}

// A transport is net/http's: for HTTPS, HTTP/2 and proxies.
type transport struct {
	client  *http.Client
	sending func()
}

func newTransport(cfg SenderConfig) *transport {
	secure := &tls.Config{RootCAs: cfg.Roots}
	if cfg.Credential != nil {
		secure.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c, err := cfg.Credential.certificate(); c != nil || err != nil {
				return c, err
			}
			return &tls.Certificate{}, nil // none
		}
	}
	return &transport{sending: cfg.Sending, client: &http.Client{
		Transport: &http.Transport{
			Proxy:                  proxyOf(cfg.Proxy),
			DialContext:            cfg.Dial,
			TLSClientConfig:        secure,
			ForceAttemptHTTP2:      true,
			MaxIdleConns:           cfg.Connections,
			MaxIdleConnsPerHost:    cfg.Connections,
			TLSHandshakeTimeout:    5 * time.Second,
			IdleConnTimeout:        connIdleMax,
			MaxResponseHeaderBytes: headerBytesMax,
			DisableCompression:     true,
		},
		// A redirect is an answer like any other: following one could send a body to another host.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

func (t *transport) close() { t.client.CloseIdleConnections() }

func (t *transport) request(method, base, path string) (*http.Request, error) {
	return http.NewRequest(method, base+path, nil)
}

// release keeps nothing: a connection of net/http may still write a request whose answer has come.
func (t *transport) release(*http.Request) {}

func (t *transport) exchange(ctx context.Context, req *http.Request, body []byte, deadline time.Time) (*wireAnswer, bool, error) {
	if len(body) > 0 {
		// Without GetBody net/http cannot send the request a second time on its own: each attempt is ours to count.
		// (It does so for requests that carry X-Idempotency-Key.)
		req.Body = io.NopCloser(bytes.NewReader(body))
		req.ContentLength = int64(len(body))
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var connected atomic.Bool
	req = req.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
		WroteRequest: func(httptrace.WroteRequestInfo) {
			if t.sending != nil {
				t.sending()
			}
		},
	}))
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, connected.Load(), err
	}
	defer resp.Body.Close()
	ans := &wireAnswer{status: resp.StatusCode, header: resp.Header}
	ans.body, err = readBody(resp)
	return ans, true, err
}

// plain strips the URL that net/http wraps around its errors: a path can hold an id of a person.
func plain(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}
