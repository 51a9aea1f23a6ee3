package profile

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// The kinds of auth.
const (
	authBearer = "bearer"
	authHeader = "header"
	authOAuth2 = "oauth2"
	authHMAC   = "hmac"
	authMTLS   = "mtls"
	authNone   = "none"
)

var authKinds = []string{authBearer, authHeader, authOAuth2, authHMAC, authMTLS, authNone}

// auth says how a request proves who sends it.
type auth struct {
	kind     string
	header   string // kinds header and hmac
	prefix   string
	secret   string // kinds bearer, header and hmac
	optional bool
	oauth    OAuth
	signing  signing
	// The client certificate, names of secrets in PEM form; any kind may have one, kind mtls has nothing else.
	cert, key string
}

// OAuth says how to get a token by OAuth2 client credentials (RFC 6749, section 4.4).
type OAuth struct {
	TokenURL     string // absolute
	ClientID     string // name of a secret
	ClientSecret string // name of a secret
	Scopes       []string
	// InHeader: client id and secret go into the Authorization header, not into the form.
	InHeader bool
	// Early is how long before its end a token is renewed.
	Early time.Duration
}

// signing says how a request is signed.
type signing struct {
	hash      string
	encoding  string // hex, base64
	parts     []string
	timestamp string // header, "" if none is sent
	form      string // of the timestamp: unix, unix_ms, rfc3339
	idHeader  string // header that names the key, "" if none is sent
	idSecret  string
}

var signingHashes = map[string]func() hash.Hash{"sha256": sha256.New, "sha384": sha512.New384, "sha512": sha512.New}

// signingWords are what the template of a signed text may hold in braces.
var signingWords = []string{"method", "path", "host", "timestamp", "body", "body_sha256"}

// earlyDefault is how long before its end a token is renewed unless the profile says otherwise: longer than a request
// and a clock's error together.
const earlyDefault = time.Minute

// secretPrefixes says how the values of a secret begin in one environment.
type secretPrefixes struct {
	secret   string
	prefixes []string
}

func (r *reader) secretPrefixes(n node) []secretPrefixes {
	var out []secretPrefixes
	for _, e := range r.entries(n) {
		p := secretPrefixes{secret: r.name(e)}
		r.list(e.value, func(n node) { p.prefixes = append(p.prefixes, r.text(n)) })
		out = append(out, p)
	}
	return out
}

// auths reads one way to log in, or a list of them.
func (r *reader) auths(n node) []auth {
	if kindName(n.Node) != "a list" {
		return []auth{r.auth(n)}
	}
	var out []auth
	r.list(n, func(n node) { out = append(out, r.auth(n)) })
	if len(out) == 0 {
		r.errorf(n, "write auth: {kind: none}", "the list is empty")
	}
	return out
}

func (r *reader) auth(n node) auth {
	a := auth{oauth: OAuth{Early: earlyDefault}, signing: signing{hash: "sha256", encoding: "hex", form: "unix"}}
	seen := map[string]node{}
	note := func(key string, read func(node)) func(node) {
		return func(n node) { seen[key] = n; read(n) }
	}
	r.fields(n, map[string]func(node){
		"kind":          func(n node) { a.kind = r.oneOf(n, authKinds...) },
		"client_cert":   func(n node) { a.cert = r.word(n) },
		"client_key":    func(n node) { a.key = r.word(n) },
		"secret":        note("secret", func(n node) { a.secret = r.word(n) }),
		"optional":      note("optional", func(n node) { a.optional = r.boolean(n) }),
		"header":        note("header", func(n node) { a.header = r.headerName(n) }),
		"prefix":        note("prefix", func(n node) { a.prefix = r.text(n) }),
		"token_url":     note("token_url", func(n node) { a.oauth.TokenURL = r.tokenURL(n) }),
		"client_id":     note("client_id", func(n node) { a.oauth.ClientID = r.word(n) }),
		"client_secret": note("client_secret", func(n node) { a.oauth.ClientSecret = r.word(n) }),
		"scopes": note("scopes", func(n node) {
			r.list(n, func(n node) {
				s := r.text(n)
				if strings.ContainsAny(s, " \"\\") {
					r.errorf(n, "each scope is an item of its own", "%q is no scope", clip(s))
				}
				a.oauth.Scopes = append(a.oauth.Scopes, s)
			})
		}),
		"credentials_in": note("credentials_in", func(n node) { a.oauth.InHeader = r.oneOf(n, "body", "header") == "header" }),
		"early":          note("early", func(n node) { a.oauth.Early = r.duration(n, 0, time.Hour) }),
		"algorithm":      note("algorithm", func(n node) { a.signing.hash = r.oneOf(n, "sha256", "sha384", "sha512") }),
		"encoding":       note("encoding", func(n node) { a.signing.encoding = r.oneOf(n, "hex", "base64") }),
		"sign":           note("sign", func(n node) { a.signing.parts = r.signTemplate(n) }),
		"timestamp": note("timestamp", func(n node) {
			r.fields(n, map[string]func(node){
				"header": func(n node) { a.signing.timestamp = r.headerName(n) },
				"form":   func(n node) { a.signing.form = r.oneOf(n, "unix", "unix_ms", "rfc3339") },
			})
			r.need(n, a.signing.timestamp != "", "header", "the header that carries the time")
		}),
		"key_id": note("key_id", func(n node) {
			r.fields(n, map[string]func(node){
				"header": func(n node) { a.signing.idHeader = r.headerName(n) },
				"secret": func(n node) { a.signing.idSecret = r.word(n) },
			})
			r.need(n, a.signing.idHeader != "", "header", "the header that names the key")
			r.need(n, a.signing.idSecret != "", "secret", "the name of the secret that holds the key's id")
		}),
	})
	r.need(n, a.kind != "", "kind", "kind: "+strings.Join(authKinds, ", "))
	if !slices.Contains(authKinds, a.kind) {
		return a
	}
	needs := map[string][]string{
		authBearer: {"secret"},
		authHeader: {"secret", "header"},
		authOAuth2: {"token_url", "client_id", "client_secret"},
		authHMAC:   {"secret", "header", "sign"},
	}[a.kind]
	may := map[string][]string{
		authBearer: {"optional"},
		authHeader: {"optional", "prefix"},
		authOAuth2: {"scopes", "credentials_in", "early"},
		authHMAC:   {"prefix", "algorithm", "encoding", "timestamp", "key_id"},
	}[a.kind]
	for _, key := range needs {
		r.need(n, seen[key].Node != nil, key, map[string]string{
			"secret": "the name of the secret in the connector's secrets, for example api_key",
			"sign":   `the text that is signed, for example "{method}\n{path}\n{timestamp}\n{body}"`}[key])
	}
	for _, key := range sortedKeys(seen) {
		if !slices.Contains(needs, key) && !slices.Contains(may, key) {
			r.errorf(seen[key], "", "kind %s has no %s", a.kind, key)
		}
	}
	if (a.cert == "") != (a.key == "") || a.kind == authMTLS && a.cert == "" {
		r.errorf(n, "client_cert and client_key are names of secrets that hold PEM texts", "client_cert and client_key belong together")
	}
	if a.kind == authNone && a.cert != "" {
		r.errorf(n, "use kind: mtls", "kind none has no client certificate")
	}
	if slices.Contains(a.signing.parts, "{timestamp}") && a.signing.timestamp == "" {
		r.errorf(seen["sign"], "timestamp: {header: X-Timestamp}", "the signed text holds a timestamp that no header tells the vendor")
	}
	return a
}

// tokenURL reads an absolute URL, or a path of the base URL.
func (r *reader) tokenURL(n node) string {
	if v, ok := n.Node.(*ast.StringNode); ok && strings.HasPrefix(v.Value, "/") {
		return r.urlPath(n)
	}
	s := r.text(n)
	if err := CheckBaseURL(s); err != nil && s != "" {
		r.errorf(n, "for example /oauth/token, or https://login.example.com/token", "the token's address is neither a path nor a URL: %v", err)
	}
	return s
}

// signTemplate splits "{method}\n{path}" into its texts and words; words keep their braces.
func (r *reader) signTemplate(n node) []string {
	var out []string
	for rest := r.text(n); rest != ""; {
		text, after, found := strings.Cut(rest, "{")
		if text != "" {
			out = append(out, text)
		}
		if !found {
			break
		}
		word, tail, closed := strings.Cut(after, "}")
		if !closed || !slices.Contains(signingWords, word) {
			r.errorf(n, meant(word, signingWords), "{%s} is none of what can be signed", clip(word))
			return nil
		}
		out = append(out, "{"+word+"}")
		rest = tail
	}
	return out
}

// secrets are the names that the way to log in needs.
func (a *auth) secrets() []string {
	var out []string
	for _, s := range []string{a.secret, a.oauth.ClientID, a.oauth.ClientSecret, a.signing.idSecret, a.cert, a.key} {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

// chooseAuth is the first way to log in whose secrets are all configured, else the first.
func (p *Profile) chooseAuth(configured []string) auth {
	for _, a := range p.auths {
		if !slices.ContainsFunc(a.secrets(), func(s string) bool { return !slices.Contains(configured, s) }) {
			return a
		}
	}
	return p.auths[0]
}

// listSecrets notes which secrets the chosen way to log in needs, and which it can do without.
func (p *Profile) listSecrets(c *Compiled) {
	for _, s := range c.auth.secrets() {
		if c.auth.optional && s == c.auth.secret {
			c.OptionalSecrets = append(c.OptionalSecrets, s)
		} else {
			c.Secrets = append(c.Secrets, s)
		}
	}
}

// OAuth says how the connector gets its tokens, nil if it uses none.
func (c *Compiled) OAuth() *OAuth {
	if c.auth.kind != authOAuth2 {
		return nil
	}
	o := c.auth.oauth
	if strings.HasPrefix(o.TokenURL, "/") {
		o.TokenURL = c.URL(o.TokenURL)
	}
	return &o
}

// KeySecret is the name of the secret that a request carries or is signed with, "" where there is none or a token takes
// its place.
func (c *Compiled) KeySecret() string { return c.auth.secret }

// CertificateSecrets names the secrets that hold the client certificate and its key, nil if the connector shows none.
func (c *Compiled) CertificateSecrets() []string {
	if c.auth.cert == "" {
		return nil
	}
	return []string{c.auth.cert, c.auth.key}
}

// secret reads a secret that must be there, and have the form that the environment's have.
func (c *Compiled) secret(name string, secret func(string) (string, error)) (string, error) {
	v, err := secret(name)
	switch {
	case err != nil:
		return "", fmt.Errorf("authorize a request to %s: secret %s: %w", c.Vendor, name, err)
	case v == "":
		return "", fmt.Errorf("authorize a request to %s: secret %s is empty", c.Vendor, name)
	}
	return v, c.CheckSecret(name, v)
}

// CheckSecret refuses a secret that belongs to another environment, by the prefixes that the profile gives: a
// production key never goes to a sandbox. The error does not show the secret.
func (c *Compiled) CheckSecret(name, value string) error {
	for _, p := range c.prefixes {
		if p.secret == name && !slices.ContainsFunc(p.prefixes, func(s string) bool { return strings.HasPrefix(value, s) }) {
			return fmt.Errorf("secret %s is not of environment %s: keys of it begin with %s", name, c.Environment, strings.Join(p.prefixes, ", "))
		}
	}
	return nil
}

// Authorize adds the credential to a request: all but the token of kind oauth2, which is [Compiled.OAuth]'s, and the
// client certificate. body is the request's, as it is sent; now is the time of a signature. secret answers the value
// of a configured secret by its name, or an error that is [ErrNoSecret]. No error of Authorize shows a secret
// (promise 9).
func (c *Compiled) Authorize(req *http.Request, body []byte, now time.Time, secret func(name string) (string, error)) error {
	if c.auth.secret == "" {
		return nil
	}
	if c.auth.optional {
		if v, err := secret(c.auth.secret); errors.Is(err, ErrNoSecret) || err == nil && v == "" {
			return nil
		}
	}
	v, err := c.secret(c.auth.secret, secret)
	if err != nil {
		return err
	}
	if c.auth.kind == authHMAC {
		return c.sign(req, body, now, v, secret)
	}
	if err := c.headerSafe(c.auth.secret, v); err != nil {
		return err
	}
	switch c.auth.kind {
	case authBearer:
		req.Header.Set("Authorization", "Bearer "+v)
	case authHeader:
		if c.auth.prefix != "" {
			v = c.auth.prefix + " " + v
		}
		req.Header.Set(c.auth.header, v)
	}
	return nil
}

// headerSafe refuses a secret that would break the header it goes into.
func (c *Compiled) headerSafe(name, v string) error {
	for i := range len(v) {
		if v[i] < 0x20 || v[i] == 0x7f {
			return fmt.Errorf("authorize a request to %s: secret %s holds a control character, a line break at its end perhaps", c.Vendor, name)
		}
	}
	return nil
}

// sign adds the signature, with the time and the key's id where the vendor wants them.
func (c *Compiled) sign(req *http.Request, body []byte, now time.Time, key string, secret func(string) (string, error)) error {
	s := &c.auth.signing
	stamp := strconv.FormatInt(now.Unix(), 10)
	switch s.form {
	case "unix_ms":
		stamp = strconv.FormatInt(now.UnixMilli(), 10)
	case "rfc3339":
		stamp = now.UTC().Format(time.RFC3339)
	}
	mac := hmac.New(signingHashes[s.hash], []byte(key))
	for _, part := range s.parts {
		switch part {
		case "{method}":
			part = req.Method
		case "{path}":
			part = req.URL.RequestURI()
		case "{host}":
			part = req.URL.Host
		case "{timestamp}":
			part = stamp
		case "{body_sha256}":
			sum := sha256.Sum256(body)
			part = hex.EncodeToString(sum[:])
		case "{body}":
			mac.Write(body)
			continue
		}
		mac.Write([]byte(part))
	}
	sum := hex.EncodeToString(mac.Sum(nil))
	if s.encoding == "base64" {
		sum = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	req.Header.Set(c.auth.header, c.auth.prefix+sum)
	if s.timestamp != "" {
		req.Header.Set(s.timestamp, stamp)
	}
	if s.idHeader != "" {
		id, err := c.secret(s.idSecret, secret)
		if err == nil {
			err = c.headerSafe(s.idSecret, id)
		}
		if err != nil {
			return err
		}
		req.Header.Set(s.idHeader, id)
	}
	return nil
}
