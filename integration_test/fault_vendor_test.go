package integration_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirsync/weir/integration_test/harness"
)

// A vendor that is away in three ways. Its health is not ours: /readyz stays 200. Full rate is back within seconds.
func TestFaultVendor(t *testing.T) {
	t.Parallel()
	log := filepath.Join(t.TempDir(), "effects.jsonl")
	r := newTrial(t, boxOptions{sandbox: []string{"--effects-file", log}, delivery: "{request_timeout: 1s}"})
	r.run()
	away := fault{state: "outage", reason: "vendor: ", ready: http.StatusOK, late: 10 * time.Second}
	host := strings.TrimPrefix(r.sandbox.URL, "http://")

	refused := away
	refused.name = "vendor refuses connections"
	refused.start = func() { r.sandbox.Process.Kill(t) }
	refused.end = func() {
		r.sandbox = harness.StartSandbox(t, r.box.weir, r.vendor, "--effects-file", log, "--listen", host, "--limit-scale", "100000")
	}
	r.endure(refused)

	for name, switched := range map[string]string{"vendor answers 503": "outage", "vendor takes requests and never answers": "black_hole"} {
		f := away
		f.name = name
		f.start = func() {
			more := map[string]any{}
			if switched == "outage" {
				more["mode"] = "503"
			}
			r.sandbox.SetFault(t, switched, true, more)
		}
		f.end = func() { r.sandbox.SetFault(t, switched, false, nil) }
		r.endure(f)
	}
	r.finish(map[string]int{`msg="outage: `: 3, `msg="outage over"`: 3})
}

// Answers that are slow, cut, oversized or no answers at all, a tenth each, while events keep coming: what they say is
// never taken for more than it is, and no byte of them reaches the log.
func TestFaultAnswers(t *testing.T) {
	t.Parallel()
	for _, vendor := range []string{"plain", "pushcash"} {
		t.Run(vendor, func(t *testing.T) {
			t.Parallel()
			r := newTrial(t, boxOptions{vendor: vendor, delivery: "{request_timeout: 2s}"})
			r.run()
			for i, f := range []string{"slow", "huge_body", "truncated", "wrong_length", "garbage", "bad_json", "empty_body"} {
				more := map[string]any{"rate": 0.1, "seed": i}
				if f == "slow" {
					more["delay_ms"] = 300
				}
				r.sandbox.SetFault(t, f, true, more)
			}
			r.endure(fault{name: "spoilt answers", start: func() {}, ready: http.StatusOK, end: func() {
				for _, f := range []string{"slow", "huge_body", "truncated", "wrong_length", "garbage", "bad_json", "empty_body"} {
					r.sandbox.SetFault(t, f, false, nil)
				}
			}})
			r.finish(map[string]int{"Unsolicited": 0, `msg="outage: `: 0})
		})
	}
}

// A tlsVendor stands before a sandbox and speaks TLS, as well or as badly as it is told.
type tlsVendor struct {
	l    net.Listener
	next http.Handler
	ca   string // file

	mu    sync.Mutex
	cert  *tls.Certificate // nil: the handshake is cut
	conns map[net.Conn]bool
}

// newCert makes a certificate for 127.0.0.1, signed by its issuer or by itself.
func newCert(t *testing.T, issuer *tls.Certificate, until time.Time) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "vendor"}, NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: issuer == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	parent, signer := c, any(key)
	if issuer != nil {
		parent, signer = issuer.Leaf, issuer.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func newTLSVendor(t *testing.T) (v *tlsVendor, authority *tls.Certificate) {
	t.Helper()
	authority = newCert(t, nil, time.Now().Add(time.Hour))
	v = &tlsVendor{ca: filepath.Join(t.TempDir(), "ca.pem"), conns: map[net.Conn]bool{}}
	if err := os.WriteFile(v.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority.Certificate[0]}), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if v.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { v.next.ServeHTTP(w, r) }),
		TLSConfig: &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return v.certificate() }},
		ConnState: func(c net.Conn, s http.ConnState) {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.conns[c] = true; s == http.StateClosed || s == http.StateHijacked {
				delete(v.conns, c)
			}
		},
	}
	srv.ErrorLog = quiet()
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.ServeTLS(v.l, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })
	return v, authority
}

func (v *tlsVendor) certificate() (*tls.Certificate, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.cert == nil {
		return nil, io.ErrUnexpectedEOF // the server ends the handshake here
	}
	return v.cert, nil
}

// use makes it speak with another certificate, on new connections.
func (v *tlsVendor) use(c *tls.Certificate) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.cert = c
	for conn := range v.conns {
		conn.Close()
	}
}

// A vendor whose TLS breaks: nothing was sent, so nothing is in doubt, and the reason says what is wrong with it.
func TestFaultTLS(t *testing.T) {
	t.Parallel()
	v, authority := newTLSVendor(t)
	good := newCert(t, authority, time.Now().Add(time.Hour))
	v.use(good)
	r := newTrial(t, boxOptions{behind: "https://" + v.l.Addr().String(), more: fmt.Sprintf("    tls: {ca: %q}\n", v.ca)})
	u, err := url.Parse(r.sandbox.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(u)
	proxy.ErrorLog = quiet()
	v.next = proxy
	r.run()
	for _, f := range []struct {
		name, reason string
		cert         *tls.Certificate
	}{
		{"certificate expired", "expired", newCert(t, authority, time.Now().Add(-time.Hour))},
		{"certificate of an unknown authority", "unknown authority", newCert(t, nil, time.Now().Add(time.Hour))},
		{"handshake cut", "vendor: ", nil},
	} {
		r.endure(fault{name: f.name, start: func() { v.use(f.cert) }, end: func() { v.use(good) }, state: "outage", reason: f.reason, ready: http.StatusOK, late: 10 * time.Second})
	}
	r.finish(map[string]int{`msg="outage: `: 3, `msg="outage over"`: 3})
}

// A vendor whose name does not resolve any more. The program sees a hosts file of the test's.
func TestFaultDNS(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("unshare", "-m", "true").CombinedOutput(); err != nil {
		t.Skipf("needs a mount namespace of its own (root, or CAP_SYS_ADMIN): %v: %s", err, out)
	}
	const name = "vendor.example"
	dir := t.TempDir()
	hosts, resolv := filepath.Join(dir, "hosts"), filepath.Join(dir, "resolv.conf")
	listen := harness.Addr(t)
	_, port, err := net.SplitHostPort(listen)
	if err != nil {
		t.Fatal(err)
	}
	known := func(on bool) {
		t.Helper()
		text := "127.0.0.1 localhost\n"
		if on {
			text += "127.0.0.1 " + name + "\n"
		}
		if err := os.WriteFile(hosts, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	known(true)
	// A name server that is not there.
	if err := os.WriteFile(resolv, []byte("nameserver 127.0.0.253\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := newTrial(t, boxOptions{behind: "http://" + net.JoinHostPort(name, port), sandbox: []string{"--listen", listen}})
	wrapper := filepath.Join(dir, "weir")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s /etc/hosts && mount --bind %s /etc/resolv.conf && exec %s \"$@\"' weir \"$@\"\n", hosts, resolv, r.box.weir.Path)
	if err := os.WriteFile(wrapper, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	r.box.weir.Path = wrapper
	r.box.weir.Env = append(r.box.weir.Env, "NO_PROXY=*")
	r.run()
	r.endure(fault{name: "name does not resolve", state: "outage", reason: "vendor: ", ready: http.StatusOK, late: 15 * time.Second,
		start: func() {
			known(false)
			// What is connected needs no name: the vendor hangs up on all of it, until the hosts file is read again (5 s).
			r.sandbox.SetFault(t, "outage", true, nil)
			r.waitStatus("outage of the name", func(s boxStatus) bool { return strings.Contains(s.Reason, "lookup") })
			r.sandbox.SetFault(t, "outage", false, nil)
		},
		end: func() { known(true) }})
	r.finish(map[string]int{`msg="outage: `: 1, `msg="outage over"`: 1})
}
