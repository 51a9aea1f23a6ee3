package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"

	"github.com/weirsync/weir/connector/profile"
)

// signaturesMax bounds the signatures of one call that are looked at. A vendor sends one per secret that it rotates.
const signaturesMax = 16

// Key is the HMAC key that a secret stands for in a profile's webhooks. No error shows the secret.
func Key(w *profile.Webhooks, secret string) ([]byte, error) {
	if !w.SecretBase64 {
		return []byte(secret), nil
	}
	s, _ := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		key, err = base64.RawStdEncoding.DecodeString(s)
	}
	if err != nil || len(key) == 0 {
		return nil, errors.New("the secret is not base64, as the profile says it is; copy it again from the vendor, with whsec_ or without")
	}
	return key, nil
}

// signed reports whether one of the call's signatures was made with one of the keys. stamp is the timestamp as it
// stands in its header. Every signature is compared with that of every key, each in constant time: how long it takes
// says how many there are, and nothing of their bytes.
func signed(w *profile.Webhooks, keys [][]byte, h http.Header, stamp string, body []byte) bool {
	var given [][]byte
	for _, s := range w.Signature.Find(h, signaturesMax) {
		decode := hex.DecodeString
		if w.SignatureBase64 {
			decode = base64.StdEncoding.Strict().DecodeString
		}
		if b, err := decode(s); err == nil && len(b) == sha256.Size {
			given = append(given, b)
		}
	}
	good := false
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		if !writeSigned(mac, w, h, stamp, body) {
			return false
		}
		want := mac.Sum(nil)
		for _, g := range given {
			good = hmac.Equal(g, want) || good
		}
	}
	return good
}

// writeSigned writes the signed string; false if a header of it is missing, or there more than once.
func writeSigned(mac interface{ Write([]byte) (int, error) }, w *profile.Webhooks, h http.Header, stamp string, body []byte) bool {
	for _, p := range w.Signed {
		part := []byte(p.Text)
		switch {
		case p.Body:
			part = body
		case p.Timestamp:
			if stamp == "" {
				return false
			}
			part = []byte(stamp)
		case p.Header != "":
			vs := h.Values(p.Header)
			if len(vs) != 1 || vs[0] == "" {
				return false
			}
			part = []byte(vs[0])
		}
		_, _ = mac.Write(part) // a hash never fails
	}
	return true
}
