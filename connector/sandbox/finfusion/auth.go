package finfusion

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/weirsync/weir/connector/sandbox/core"
)

// permissions of keys and scopes of tokens: those of the vendor's examples (section 2).
func permissions() []string { return []string{"payments", "accounts", "kyc", "reporting"} }

func splitList(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func checkPermissions(v string) error {
	for _, p := range splitList(v) {
		if !slices.Contains(permissions(), p) {
			return errors.New("want some of " + strings.Join(permissions(), ", ") + ", separated by commas")
		}
	}
	return nil
}

func checkClients(v string) error {
	_, err := parseClients(v)
	return err
}

// parseClients reads ID:SECRET[@NOTBEFORE[..NOTAFTER]], so a secret can be rotated with an overlap.
func parseClients(v string) ([]core.Key, error) {
	var out []core.Key
	for _, text := range splitList(v) {
		k, err := core.ParseKey(text)
		if id, secret, ok := strings.Cut(k.Secret, ":"); err != nil || !ok || id == "" || secret == "" {
			return nil, errors.New("want ID:SECRET, or ID:SECRET@NOTBEFORE..NOTAFTER with RFC 3339 times")
		}
		out = append(out, k)
	}
	return out, nil
}

// A caller is who a request's credential says it is from. Whether that is true, credentialCode decides.
type caller struct {
	name   string // of quota and concurrency: the credential, or the OAuth client
	secret string // "" for none
	token  *token // of an OAuth token that this sandbox has signed
	forged bool   // an OAuth token that it has not
}

// scope names the caller in idempotency keys, which are persisted: not the secret itself.
func (c caller) scope() string { return hashOf(c.name) }

func hashOf(s string) string {
	h := sha256.Sum256([]byte(s))
	return hex.EncodeToString(h[:16])
}

// A token is what an access token says; nothing of it is stored.
type token struct {
	Client string `json:"c"`
	Scope  string `json:"s"`
	Until  int64  `json:"u"` // Unix microseconds
	Serial int64  `json:"n"`
}

// tokenState is the persisted part: tokens up to Expired count as expired whatever they say.
type tokenState struct {
	Serial  int64 `json:"serial"`
	Expired int64 `json:"expired"`
}

const tokenPrefix = "ffat_"

func tokenKey(seed uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte("finfusion sandbox token "), seed)
}

func (v *vendor) sign(payload string) string {
	mac := hmac.New(sha256.New, v.tokenKey)
	mac.Write([]byte(payload))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

func (v *vendor) caller(credential string) caller {
	c := caller{name: credential, secret: credential}
	rest, isToken := strings.CutPrefix(credential, tokenPrefix)
	if !isToken {
		return c
	}
	c.forged = true
	payload, mac, ok := strings.Cut(rest, ".")
	if !ok || !hmac.Equal([]byte(mac), []byte(v.sign(payload))) {
		return c
	}
	raw, err := base64.RawURLEncoding.DecodeString(payload)
	t := &token{}
	if err != nil || json.Unmarshal(raw, t) != nil {
		return c
	}
	return caller{name: "oauth " + t.Client, secret: credential, token: t}
}

// keyState is what is known of a key beyond the configuration: it was created or rotated here, or has an end.
type keyState struct {
	ID          string   `json:"id"`
	Hash        string   `json:"hash"`
	Name        string   `json:"name"`
	Type        string   `json:"type"`
	Permissions []string `json:"permissions"`
	Until       int64    `json:"until"`   // Unix microseconds, 0 = no end
	Created     bool     `json:"created"` // accepted for itself; else only an end to a configured key
	CreatedAt   string   `json:"created_at"`
}

func (v *vendor) restoreKey(raw json.RawMessage) error {
	k := &keyState{}
	if err := json.Unmarshal(raw, k); err != nil {
		return err
	}
	v.keys[k.Hash] = k
	return nil
}

func (v *vendor) restoreTokens(raw json.RawMessage) error { return json.Unmarshal(raw, &v.tokens) }

// knownPrefix of a key (section 2).
func knownPrefix(key string) string {
	for _, p := range []string{"dev_", "rest_", "sk_", "prod_"} {
		if strings.HasPrefix(key, p) {
			return p
		}
	}
	return ""
}

func wellFormed(key string) bool {
	prefix := knownPrefix(key)
	rest := key[len(prefix):]
	return prefix != "" && len(rest) == 32 && strings.IndexFunc(rest, func(r rune) bool {
		return !(r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z')
	}) < 0
}

// credentialCode is the vendor's code for a credential that is not accepted, "" for one that is.
func (v *vendor) credentialCode(c caller, now time.Time) string {
	switch {
	case c.secret == "" || c.forged || knownPrefix(c.secret) == "prod_":
		return "AUTH001"
	case c.token != nil:
		if now.UnixMicro() >= c.token.Until || c.token.Serial <= v.tokens.Expired {
			return "AUTH002"
		}
		return ""
	}
	if k := v.keys[hashOf(c.secret)]; k != nil {
		if k.Until != 0 && now.UnixMicro() >= k.Until {
			return "AUTH001"
		}
		if k.Created {
			return ""
		}
	}
	if !v.s.Authenticate(c.secret, now) || v.strictKeys && len(v.s.Options().Keys) == 0 && !wellFormed(c.secret) {
		return "AUTH001"
	}
	return ""
}

// granted lists what a credential may do.
func (v *vendor) granted(c caller) []string {
	if c.token != nil {
		return splitList(c.token.Scope)
	}
	if k := v.keys[hashOf(c.secret)]; k != nil && k.Created {
		return k.Permissions
	}
	if knownPrefix(c.secret) == "rest_" {
		return v.restricted
	}
	return permissions()
}

func (v *vendor) may(c caller, permission string) bool {
	return slices.Contains(v.granted(c), permission)
}

func (v *vendor) clientAccepted(id, secret string, now time.Time) bool {
	if id == "" || secret == "" {
		return false
	}
	return v.anyClient || slices.ContainsFunc(v.clients, func(k core.Key) bool {
		return k.Secret == id+":"+secret && !now.Before(k.NotBefore) && (k.NotAfter.IsZero() || now.Before(k.NotAfter))
	})
}

// tokenRequest is the form of POST /oauth/token.
type tokenRequest struct {
	form    url.Values
	invalid string // why it is not a form
}

func parseTokenRequest(r *core.Request) tokenRequest {
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "application/x-www-form-urlencoded") {
		return tokenRequest{invalid: "the body must be application/x-www-form-urlencoded"}
	}
	form, err := url.ParseQuery(string(r.Body))
	if err != nil {
		return tokenRequest{invalid: "the body is not a form"}
	}
	return tokenRequest{form: form}
}

func (v *vendor) issueToken(r *core.Request, p *parsed) core.Answer {
	in := p.in.(tokenRequest)
	if in.invalid != "" {
		return v.refuseInvalid(&core.InvalidError{Message: in.invalid})
	}
	if g := in.form.Get("grant_type"); g != "client_credentials" {
		return v.refuseParameter("grant_type", "must be client_credentials")
	}
	id := in.form.Get("client_id")
	if !v.clientAccepted(id, in.form.Get("client_secret"), r.Now) {
		return v.refuse("AUTH001", "the client is unknown, or its secret is wrong or revoked", nil)
	}
	scope := strings.Join(strings.Fields(in.form.Get("scope")), " ")
	if scope == "" {
		scope = strings.Join(permissions(), " ")
	}
	if checkPermissions(scope) != nil {
		return v.refuseParameter("scope", "must be some of "+strings.Join(permissions(), " "))
	}
	v.tokens.Serial++
	t := token{Client: id, Scope: scope, Until: r.Now.Add(v.tokenTTL).UnixMicro(), Serial: v.tokens.Serial}
	payload := base64.RawURLEncoding.EncodeToString(marshal(t))
	return core.Answer{Status: http.StatusOK, Effect: core.Read, Rows: []core.Row{{Kind: "tokens", Value: v.tokens}}, Body: marshal(struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		ExpiresIn   int64  `json:"expires_in"`
		Scope       string `json:"scope"`
	}{tokenPrefix + payload + "." + v.sign(payload), "Bearer", int64(v.tokenTTL / time.Second), scope})}
}

// keyRequest is the body of POST /v1/api-keys (section 2).
type keyRequest struct {
	name, kind  string
	permissions []string
	expiration  time.Time
}

func parseKeyRequest(r *core.Request) (in keyRequest, err error) {
	f, err := core.ParseFields(r.Body)
	if err != nil {
		return in, err
	}
	if in.name, err = f.Text("", "name", true); err != nil {
		return in, err
	}
	if in.kind, err = f.Text("", "type", true); err != nil {
		return in, err
	}
	if in.kind != "development" && in.kind != "restricted" {
		return in, &core.InvalidError{Field: "type", Message: "must be development or restricted on the sandbox"}
	}
	if in.permissions, err = f.Texts("", "permissions", true); err != nil {
		return in, err
	}
	if err := checkPermissions(strings.Join(in.permissions, ",")); err != nil || len(in.permissions) == 0 {
		return in, &core.InvalidError{Field: "permissions", Message: "must be some of " + strings.Join(permissions(), ", ")}
	}
	day, err := f.Text("", "expiration", false)
	if err != nil || day == "" {
		return in, err
	}
	if in.expiration, err = time.Parse(time.DateOnly, day); err != nil {
		return in, &core.InvalidError{Field: "expiration", Message: "must be a date such as 2030-01-31"}
	}
	return in, nil
}

func (v *vendor) createKey(r *core.Request, p *parsed) core.Answer {
	// A new key must not reach further than the one that makes it.
	if v.adminToken != "" && p.who.secret != v.adminToken || v.adminToken == "" && len(v.granted(p.who)) < len(permissions()) {
		return v.refuse("AUTH003", "the credential may not create API keys", nil)
	}
	if p.invalid != nil {
		return v.refuseInvalid(p.invalid)
	}
	in := p.in.(keyRequest)
	secret, k := v.newKey(r.Now, in.name, in.kind, in.permissions)
	if !in.expiration.IsZero() {
		k.Until = in.expiration.AddDate(0, 0, 1).UnixMicro() // the day itself still counts
	}
	out := k.view()
	out["key"] = secret
	return core.Answer{Status: http.StatusOK, Body: marshal(out), Effect: core.Applied, Object: k.ID, Reference: k.Name,
		Rows: []core.Row{{Kind: "key", Value: k}}}
}

func (v *vendor) newKey(now time.Time, name, kind string, permissions []string) (secret string, k *keyState) {
	prefix := "dev_"
	if kind == "restricted" {
		prefix = "rest_"
	}
	secret = v.s.NewID(prefix, 16) + v.s.NewID("", 16)
	k = &keyState{ID: v.newID("key_"), Hash: hashOf(secret), Name: name, Type: kind, Permissions: permissions, Created: true, CreatedAt: now.UTC().Format(timeLayout)}
	v.keys[k.Hash] = k
	return secret, k
}

func (k *keyState) view() map[string]any {
	out := map[string]any{"id": k.ID, "name": k.Name, "type": k.Type, "permissions": k.Permissions, "created_at": k.CreatedAt, "expires_at": nil}
	if k.Until != 0 {
		out["expires_at"] = time.UnixMicro(k.Until).UTC().Format(timeLayout)
	}
	return out
}

func (v *vendor) verifyKey(p *parsed) core.Answer {
	kind := "development"
	if k := v.keys[hashOf(p.who.secret)]; k != nil && k.Created {
		kind = k.Type
	} else if knownPrefix(p.who.secret) == "rest_" {
		kind = "restricted"
	} else if p.who.token != nil {
		kind = "oauth"
	}
	return core.Answer{Status: http.StatusOK, Effect: core.Read, Body: marshal(struct {
		Valid       bool     `json:"valid"`
		Type        string   `json:"type"`
		Permissions []string `json:"permissions"`
	}{true, kind, v.granted(p.who)})}
}

// endKey gives a key an end: from then on it is AUTH001.
func (v *vendor) endKey(secret string, at time.Time) *keyState {
	k := v.keys[hashOf(secret)]
	if k == nil {
		k = &keyState{ID: v.newID("key_"), Hash: hashOf(secret), CreatedAt: v.s.Now().UTC().Format(timeLayout), Permissions: []string{}}
		v.keys[k.Hash] = k
	}
	k.Until = at.UnixMicro()
	return k
}

// actKey reads the key that an action is about.
func (v *vendor) actKey(args core.Fields, name string) (caller, error) {
	secret, err := args.Text("", name, true)
	if err != nil {
		return caller{}, err
	}
	c := v.caller(secret)
	if c.token != nil || v.credentialCode(c, v.s.Now()) != "" {
		return c, &core.InvalidError{Field: name, Message: "is not a key that is accepted now"}
	}
	return c, nil
}

// actRevokeKey ends a key at once.
func (v *vendor) actRevokeKey(args core.Fields) (any, error) {
	c, err := v.actKey(args, "key")
	if err != nil {
		return nil, err
	}
	now := v.s.Now()
	k := v.endKey(c.secret, now)
	v.s.Record(now, actionRevokeKey, k.ID, k.Name, core.Applied, core.Row{Kind: "key", Value: k})
	return k.view(), nil
}

// actRotateKey makes a new key with the rights of the current one, which stays valid for the grace period (section 2:
// the vendor's SDK call, whose HTTP form is not documented).
func (v *vendor) actRotateKey(args core.Fields) (any, error) {
	c, err := v.actKey(args, "current_key")
	if err != nil {
		return nil, err
	}
	grace := 48 * time.Hour
	if text, err := args.Text("", "grace_period", false); err != nil {
		return nil, err
	} else if text != "" {
		if grace, err = time.ParseDuration(text); err != nil || grace < 0 {
			return nil, &core.InvalidError{Field: "grace_period", Message: "must be a duration such as 48h"}
		}
	}
	now, kind := v.s.Now(), "development"
	if knownPrefix(c.secret) == "rest_" {
		kind = "restricted"
	}
	secret, k := v.newKey(now, "rotated", kind, v.granted(c))
	old := v.endKey(c.secret, now.Add(grace))
	v.s.Record(now, actionRotateKey, k.ID, k.Name, core.Applied, core.Row{Kind: "key", Value: k}, core.Row{Kind: "key", Value: old})
	out := k.view()
	out["key"], out["previous_valid_until"] = secret, old.view()["expires_at"]
	return out, nil
}

// actExpireTokens makes every OAuth token that was given out so far AUTH002.
func (v *vendor) actExpireTokens() (any, error) {
	v.tokens.Expired = v.tokens.Serial
	v.s.Record(v.s.Now(), actionExpireTokens, "", fmt.Sprint(v.tokens.Expired), core.Applied, core.Row{Kind: "tokens", Value: v.tokens})
	return map[string]int64{"expired": v.tokens.Expired}, nil
}
