package deliver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/weirsync/weir/connector/profile"
)

// Bounds of getting a token.
const (
	tokenTimeout = 10 * time.Second
	// tokenRetry is how long a failure to get a token is remembered: all lanes ask at once, the vendor is asked once.
	tokenRetry = time.Second
	// tokenLife is taken where the vendor does not say how long a token lives: a refusal ends it earlier.
	tokenLife = time.Hour
)

// A Credential puts on each request what proves who sends it: a key, a signature, a token that it renews before its
// end, a client certificate. Secrets are read anew for each use, so a rotated one counts at once. Where a secret has a
// previous value too, requests carry the new one, and the previous one once the vendor has refused the new one. Safe for
// concurrent use.
type Credential struct {
	profile  *profile.Compiled
	secret   func(name string) (string, error)
	previous func(name string) (string, error) // nil: no secret has a previous value
	lastKeys atomic.Pointer[keyValues]

	mu       sync.Mutex
	prints   map[string]string    // value -> fingerprint, of the few values that were read
	uses     map[string]*Use      // by fingerprint
	refused  map[string]time.Time // by fingerprint: when the vendor refused it last
	client   *http.Client         // for tokens; set by the Sender that it belongs to
	current  *token
	made     uint64        // tokens so far
	renewing chan struct{} // closed when the renewal under way ends, nil if there is none
	err      error         // of the last renewal, nil if it succeeded
	failedAt time.Time
	closed   bool
	ctx      context.Context // of renewals; ends with close
	cancel   context.CancelFunc
	work     sync.WaitGroup

	pair     *tls.Certificate // and the secrets that it was made of
	pairText [2]string
}

// A token is never changed.
type token struct {
	value   string
	n       uint64 // from 1
	expires time.Time
	print   string // of the client secret that it was got with
}

// NewCredential makes the credential of a connector. secret answers a configured secret by its name; see
// [profile.Compiled.Authorize].
func NewCredential(p *profile.Compiled, secret func(name string) (string, error)) *Credential {
	c := &Credential{profile: p, secret: secret, prints: map[string]string{}, uses: map[string]*Use{}, refused: map[string]time.Time{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Overlap gives the credential previous values of its secrets; previous answers [profile.ErrNoSecret] for a secret that
// has none. It must be called before the first use.
func (c *Credential) Overlap(previous func(name string) (string, error)) *Credential {
	c.previous = previous
	return c
}

// A CredentialError says that a request had no credential to carry: a secret could not be read, or the vendor gives
// no token for it. The request was not sent.
type CredentialError struct{ Err error }

func (e *CredentialError) Error() string { return "credential: " + e.Err.Error() }
func (e *CredentialError) Unwrap() error { return e.Err }

// authorize puts the credential on a request and returns the number of the token that it carries, 0 if none, and the
// fingerprint of the credential. want is the fingerprint of the one that it must be, "" for any; [ErrOtherCredential] says
// that there is none of it. A *[CredentialError] is about the credential; any other error says that the vendor's token
// endpoint does not answer, which is an outage. It waits for a token until the deadline.
func (c *Credential) authorize(ctx context.Context, req *http.Request, body []byte, deadline time.Time, want string) (uint64, string, error) {
	now := time.Now()
	k := c.choose(want, now)
	if want != "" && k.print != want && c.profile.OAuth() == nil {
		return 0, "", ErrOtherCredential
	}
	if err := c.profile.Authorize(req, body, now, k.secret); err != nil {
		return 0, "", &CredentialError{err}
	}
	if _, err := c.certificate(); err != nil {
		return 0, "", err
	}
	o := c.profile.OAuth()
	if o == nil {
		c.used(k.print, k.slot, now)
		return 0, k.print, nil
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	t, err := c.token(ctx, o)
	if err != nil {
		return 0, "", err
	}
	if want != "" && t.print != want {
		return 0, "", ErrOtherCredential
	}
	req.Header.Set("Authorization", "Bearer "+t.value)
	c.used(t.print, c.slotOf(t.print), now)
	return t.n, t.print, nil
}

// token is one that is good now. It starts a renewal when the end is near, one at a time, and waits for it only when
// there is no token to go on with.
func (c *Credential) token(ctx context.Context, o *profile.OAuth) (*token, error) {
	for {
		c.mu.Lock()
		t, now := c.current, time.Now()
		good := t != nil && now.Before(t.expires)
		if good && now.Before(t.expires.Add(-o.Early)) {
			c.mu.Unlock()
			return t, nil
		}
		if c.renewing == nil {
			switch {
			case c.err != nil && now.Sub(c.failedAt) < tokenRetry:
				err := c.err
				c.mu.Unlock()
				if good {
					return t, nil
				}
				return nil, err
			case c.closed:
				c.mu.Unlock()
				return nil, errors.New("get a token: stopped")
			}
			c.renewing = make(chan struct{})
			client := c.client
			c.work.Go(func() { c.renew(o, client) })
		}
		done := c.renewing
		c.mu.Unlock()
		if good {
			return t, nil
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, fmt.Errorf("get a token: %w", ctx.Err())
		}
	}
}

// renew asks for a new token and ends the renewal.
func (c *Credential) renew(o *profile.OAuth, client *http.Client) {
	got, print, err := c.fetchAny(o, client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err = err; err != nil {
		c.failedAt = time.Now()
	} else {
		c.made++
		c.current = &token{got.AccessToken, c.made, got.Expiry, print}
	}
	close(c.renewing)
	c.renewing = nil
}

// fetchAny gets a token with the current client secret, and with the previous one if that is refused.
func (c *Credential) fetchAny(o *profile.OAuth, client *http.Client) (t *oauth2.Token, print string, err error) {
	for _, k := range c.keys(o.ClientSecret) {
		var e error
		if t, e = c.fetch(o, client, k.secret); e == nil {
			return t, k.print, nil
		}
		if err == nil {
			err = e // that of the current one
		}
		if _, refused := errors.AsType[*CredentialError](e); !refused {
			return nil, "", e
		}
	}
	return nil, "", err
}

// fetch makes one token request. Its errors hold nothing of the answer, which may repeat the secret.
func (c *Credential) fetch(o *profile.OAuth, client *http.Client, from func(string) (string, error)) (*oauth2.Token, error) {
	id, err := c.secretOf(o.ClientID, from)
	if err != nil {
		return nil, err
	}
	secret, err := c.secretOf(o.ClientSecret, from)
	if err != nil {
		return nil, err
	}
	cfg := clientcredentials.Config{ClientID: id, ClientSecret: secret, TokenURL: o.TokenURL, Scopes: o.Scopes, AuthStyle: oauth2.AuthStyleInParams}
	if o.InHeader {
		cfg.AuthStyle = oauth2.AuthStyleInHeader
	}
	ctx, cancel := context.WithTimeout(context.WithValue(c.ctx, oauth2.HTTPClient, client), tokenTimeout)
	defer cancel()
	t, err := cfg.Token(ctx)
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok && refused.Response != nil {
		status := refused.Response.StatusCode
		err = fmt.Errorf("get a token: %s answers %d", o.TokenURL, status)
		if status >= 400 && status < 500 && status != http.StatusTooManyRequests && status != http.StatusRequestTimeout {
			return nil, &CredentialError{fmt.Errorf("%w; check the secrets %s and %s", err, o.ClientID, o.ClientSecret)}
		}
		return nil, err
	}
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			return nil, fmt.Errorf("get a token of %s: %w", o.TokenURL, e.Err)
		}
		return nil, fmt.Errorf("get a token: the answer of %s holds none", o.TokenURL)
	}
	if t.Expiry.IsZero() {
		t.Expiry = time.Now().Add(tokenLife)
	}
	return t, nil
}

func (c *Credential) secretOf(name string, from func(string) (string, error)) (string, error) {
	v, err := from(name)
	if err == nil && v == "" {
		err = errors.New("is empty")
	}
	if err == nil {
		err = c.profile.CheckSecret(name, v)
	}
	if err != nil {
		return "", &CredentialError{fmt.Errorf("secret %s: %w", name, err)}
	}
	return v, nil
}

// expire drops a token that the vendor no longer takes, or notes that it refuses a key. It reports whether the next
// request carries another one.
func (c *Credential) expire(n uint64, print string) bool {
	if n == 0 {
		return print != "" && c.refuse(print, time.Now())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current != nil && c.current.n == n {
		c.current = nil
	}
	return true
}

// certificate is the client certificate, nil if there is none. It is parsed again when a secret has changed.
func (c *Credential) certificate() (*tls.Certificate, error) {
	names := c.profile.CertificateSecrets()
	if names == nil {
		return nil, nil
	}
	var text [2]string
	for i, name := range names {
		v, err := c.secretOf(name, c.secret)
		if err != nil {
			return nil, err
		}
		text[i] = v
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair != nil && c.pairText == text {
		return c.pair, nil
	}
	pair, err := tls.X509KeyPair([]byte(text[0]), []byte(text[1]))
	if err != nil {
		return nil, &CredentialError{fmt.Errorf("the secrets %s and %s are no certificate and key in PEM form that belong together", names[0], names[1])}
	}
	c.pair, c.pairText = &pair, text
	return c.pair, nil
}

// close ends renewals and waits for them.
func (c *Credential) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.work.Wait()
}
