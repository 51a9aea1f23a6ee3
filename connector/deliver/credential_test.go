package deliver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// credential is that of a profile whose auth is the given YAML. Secrets that are not in the map are missing.
func credential(t *testing.T, auth string, secrets map[string]string) *Credential {
	t.Helper()
	p, err := profile.Parse("acme.yaml", []byte(`profile: acme
environments: {sandbox: {base_url: "http://acme.example", secret_prefixes: {client_secret: [dev_]}}}
auth: `+auth+`
routes: {contract: {entity: contract, semantics: latest, cases: [{ignore: no_counterpart}]}}
`))
	if err != nil {
		t.Fatal(err)
	}
	set, err := schema.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(profile.Options{Connector: "acme", Schemas: set})
	if err != nil {
		t.Fatal(err)
	}
	return NewCredential(c, func(name string) (string, error) {
		v, ok := secrets[name]
		if !ok {
			return "", profile.ErrNoSecret
		}
		return v, nil
	})
}

const oauth = "{kind: oauth2, token_url: %q, client_id: client_id, client_secret: client_secret, scopes: [payments, accounts], early: 1m}"

// An issuer is a token endpoint.
type issuer struct {
	mu      sync.Mutex
	status  int
	life    int // seconds, 0: not said
	issued  int
	asked   int
	delay   time.Duration
	request string
}

func (i *issuer) RoundTrip(r *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(r.Body)
	i.mu.Lock()
	i.asked++
	i.request = r.Header.Get("Content-Type") + " " + string(body)
	status, life, delay := i.status, i.life, i.delay
	i.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	text := `{"error":"invalid_client","secret":"dev_topsecret"}`
	if status == http.StatusOK {
		i.mu.Lock()
		i.issued++
		text = fmt.Sprintf(`{"access_token":"token-%d","token_type":"Bearer","expires_in":%d}`, i.issued, life)
		i.mu.Unlock()
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func (i *issuer) set(status, life int, delay time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.status, i.life, i.delay = status, life, delay
}

func (i *issuer) counts() (asked int, request string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked, i.request
}

// bearer authorizes a request and returns what it carries.
func bearer(c *Credential) (string, uint64, error) {
	r, _ := http.NewRequest(http.MethodPost, "http://acme.example/x", nil)
	n, _, err := c.authorize(context.Background(), r, nil, time.Now().Add(time.Minute), "")
	return r.Header.Get("Authorization"), n, err
}

// TestTokens: one renewal at a time, before the end and without anybody waiting; an endpoint that is down is an outage
// and never a bad credential; a refused client is one.
func TestTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.set(http.StatusOK, 600, time.Second)
		c := credential(t, fmt.Sprintf(oauth, "https://login.example/token"), map[string]string{"client_id": "me", "client_secret": "dev_topsecret"})
		c.client = &http.Client{Transport: i}
		defer c.close()

		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got, _, err := bearer(c); got != "Bearer token-1" || err != nil {
					t.Errorf("carries %q, %v; want the first token", got, err)
				}
			})
		}
		wg.Wait()
		if n, form := i.counts(); n != 1 || form != "application/x-www-form-urlencoded client_id=me&client_secret=dev_topsecret&grant_type=client_credentials&scope=payments+accounts" {
			t.Fatalf("the vendor was asked %d times, the last with %q", n, form)
		}

		time.Sleep(545 * time.Second) // within the minute before its end
		start := time.Now()
		if got, _, err := bearer(c); got != "Bearer token-1" || err != nil || time.Since(start) != 0 {
			t.Errorf("carries %q, %v after %v; want the old token at once while it is renewed", got, err, time.Since(start))
		}
		time.Sleep(2 * time.Second)
		if got, _, _ := bearer(c); got != "Bearer token-2" {
			t.Errorf("carries %q, want the renewed token", got)
		}

		// The endpoint goes down within the last minute: the old token serves to its end, then it is an outage.
		i.set(http.StatusServiceUnavailable, 0, 0)
		time.Sleep(580 * time.Second)
		if got, _, err := bearer(c); got != "Bearer token-2" || err != nil {
			t.Errorf("carries %q, %v; want the token that is still good", got, err)
		}
		time.Sleep(20 * time.Second)
		_, _, err := bearer(c)
		if _, bad := errors.AsType[*CredentialError](err); err == nil || bad || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("with the endpoint down: %v, want an error that blames no credential and shows no answer", err)
		}
		asked, _ := i.counts()
		for range 100 {
			_, _, _ = bearer(c)
		}
		if again, _ := i.counts(); again != asked {
			t.Errorf("the endpoint was asked %d more times within a second of its failure", again-asked)
		}

		i.set(http.StatusOK, 0, 0)
		time.Sleep(tokenRetry)
		got, n, err := bearer(c)
		if got != "Bearer token-3" || err != nil {
			t.Errorf("carries %q, %v after the outage", got, err)
		}
		if !c.expire(n, "") {
			t.Error("an expired token is not renewed")
		}
		if got, _, _ := bearer(c); got != "Bearer token-4" {
			t.Errorf("carries %q after the vendor refused the third, want a fresh one", got)
		}
		if c.expire(n, ""); true {
			if got, _, _ := bearer(c); got != "Bearer token-4" {
				t.Errorf("carries %q: a late refusal of the third token dropped the fourth", got)
			}
		}

		i.set(http.StatusUnauthorized, 0, 0)
		c.expire(4, "")
		_, _, err = bearer(c)
		if _, bad := errors.AsType[*CredentialError](err); !bad || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("a refused client: %v, want a credential error that shows no secret", err)
		}
	})
}

// TestTokenSecrets: a secret that is missing or of another environment never reaches the vendor.
func TestTokenSecrets(t *testing.T) {
	for _, secrets := range []map[string]string{{"client_id": "me"}, {"client_id": "me", "client_secret": "prod_topsecret"}} {
		i := &issuer{status: http.StatusOK}
		c := credential(t, fmt.Sprintf(oauth, "/oauth/token"), secrets)
		c.client = &http.Client{Transport: i}
		_, _, err := bearer(c)
		if _, bad := errors.AsType[*CredentialError](err); !bad || strings.Contains(err.Error(), "topsecret") {
			t.Errorf("secrets %v: %v", secrets, err)
		}
		if n, _ := i.counts(); n != 0 {
			t.Errorf("secrets %v: the vendor was asked %d times", secrets, n)
		}
		c.close()
	}
}

// TestTokenEndpointDownIsNotSent: the request itself never left, so any record may wait for it.
func TestTokenEndpointDownIsNotSent(t *testing.T) {
	var hits atomic.Int32
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		hits.Add(1)
	}))
	defer vendor.Close()
	s := NewSender(SenderConfig{BaseURL: vendor.URL, Credential: credential(t, fmt.Sprintf(oauth, vendor.URL+"/token"), map[string]string{"client_id": "me", "client_secret": "dev_x"})})
	defer s.Close()
	ex := s.Send(context.Background(), &profile.Request{Method: "POST", Path: "/pay", Body: []byte("{}")})
	_, bad := errors.AsType[*CredentialError](ex.Err)
	if ex.Sent != checkpoint.NotSent || bad || hits.Load() != 0 {
		t.Errorf("Send = %v, %v, %d requests; want not sent, and no word against the credential", ex.Sent, ex.Err, hits.Load())
	}
}

// TestSigning: the vendor can check the signature over what it received.
func TestSigning(t *testing.T) {
	seen := make(chan *http.Request, 1)
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mac := hmac.New(sha256.New, []byte("topsecret"))
		fmt.Fprintf(mac, "%s\n%s\n%s\n%s", r.Method, r.URL.RequestURI(), r.Header.Get("X-Time"), body)
		if got, want := r.Header.Get("X-Signature"), "v1="+hex.EncodeToString(mac.Sum(nil)); got != want {
			t.Errorf("signature %q, want %q", got, want)
		}
		seen <- r
	}))
	defer vendor.Close()
	s := NewSender(SenderConfig{BaseURL: vendor.URL, Credential: credential(t,
		`{kind: hmac, secret: k, header: X-Signature, prefix: "v1=", sign: "{method}\n{path}\n{timestamp}\n{body}", timestamp: {header: X-Time}, key_id: {header: X-Key, secret: id}}`,
		map[string]string{"k": "topsecret", "id": "key-1"})})
	defer s.Close()
	if ex := s.Send(context.Background(), &profile.Request{Method: "POST", Path: "/pay/a%2Fb?x=1", Body: []byte(`{"a":1}`)}); ex.Sent != checkpoint.Answered {
		t.Fatalf("Send = %v, %v", ex.Sent, ex.Err)
	}
	if r := <-seen; r.Header.Get("X-Key") != "key-1" {
		t.Errorf("key id %q", r.Header.Get("X-Key"))
	}
}

// pair makes a certificate with its key, both as PEM.
func pair(t *testing.T, name string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	priv, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv}))
}

// TestClientCertificate: the vendor sees the certificate of the secrets, the new one after a rotation; a broken one is
// a credential error and reaches nobody.
func TestClientCertificate(t *testing.T) {
	var shown atomic.Value
	vendor := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		shown.Store(r.TLS.PeerCertificates[0].Subject.CommonName)
		w.Header().Set("Connection", "close")
	}))
	vendor.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	vendor.StartTLS()
	defer vendor.Close()
	roots := x509.NewCertPool()
	roots.AddCert(vendor.Certificate())
	secrets := map[string]string{}
	secrets["cert"], secrets["key"] = pair(t, "first")
	s := NewSender(SenderConfig{BaseURL: vendor.URL, Roots: roots, Credential: credential(t, "{kind: mtls, client_cert: cert, client_key: key}", secrets)})
	defer s.Close()
	send := func() Exchange {
		return s.Send(context.Background(), &profile.Request{Method: "GET", Path: "/"})
	}
	if ex := send(); ex.Sent != checkpoint.Answered || shown.Load() != "first" {
		t.Fatalf("Send = %v, %v; the vendor saw %v", ex.Sent, ex.Err, shown.Load())
	}
	secrets["cert"], secrets["key"] = pair(t, "second")
	if ex := send(); ex.Sent != checkpoint.Answered || shown.Load() != "second" {
		t.Errorf("after a rotation: %v, %v; the vendor saw %v", ex.Sent, ex.Err, shown.Load())
	}
	secrets["key"] = "no key"
	ex := send()
	if _, bad := errors.AsType[*CredentialError](ex.Err); !bad || ex.Sent != checkpoint.NotSent {
		t.Errorf("with a broken key: %v, %v; want a credential error, not sent", ex.Sent, ex.Err)
	}
}

// TestProxy: the configured proxy takes all requests; that of the environment never those to this machine.
func TestProxy(t *testing.T) {
	var proxied atomic.Int32
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { proxied.Add(1); w.WriteHeader(203) }))
	defer proxy.Close()
	vendor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(201) }))
	defer vendor.Close()
	for _, v := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(v, proxy.URL)
	}
	for _, tc := range []struct {
		name, proxy, base string
		status            int
	}{
		{"loopback and the environment's", "", vendor.URL, 201},
		{"another host and the environment's", "", "http://vendor.invalid", 203},
		{"loopback and its own", proxy.URL, vendor.URL, 203},
		{"loopback and none", "none", vendor.URL, 201},
	} {
		s := NewSender(SenderConfig{BaseURL: tc.base, Proxy: tc.proxy})
		ex := s.Send(context.Background(), &profile.Request{Method: "GET", Path: "/"})
		s.Close()
		if ex.Answer == nil || ex.Answer.Status != tc.status {
			t.Errorf("%s: %v, %v, want status %d", tc.name, ex.Answer, ex.Err, tc.status)
		}
	}
	s := NewSender(SenderConfig{BaseURL: "http://vendor.invalid", Proxy: "none"})
	defer s.Close()
	if ex := s.Send(context.Background(), &profile.Request{Method: "GET", Path: "/"}); ex.Sent != checkpoint.NotSent {
		t.Errorf("proxy none went somewhere: %v", ex.Sent)
	}
}
