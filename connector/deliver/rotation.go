package deliver

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"sort"
	"time"

	"github.com/weirsync/weir/connector/profile"
)

// refusedFor is how long a key that the vendor refused is left alone while there is another one. Then it is tried again: a
// new key may not be in force at the vendor yet when we have it.
const refusedFor = time.Minute

// ErrOtherCredential says that a request must carry a credential that there is no longer. It was not sent.
var ErrOtherCredential = errors.New("the credential that the request must carry is gone")

// The slots of a secret.
const (
	CurrentKey  = "current"
	PreviousKey = "previous"
	// FormerKey: a key that was used and is in the config no more.
	FormerKey = "former"
)

// A Use says of one value of a secret when requests carried it. It does not hold the value.
type Use struct {
	Slot string `json:"slot"` // where it stands in the config now: current, previous or former
	// Fingerprint tells values apart: the first 8 hex digits of a SHA-256.
	Fingerprint string    `json:"fingerprint"`
	FirstUsed   time.Time `json:"first_used"`
	LastUsed    time.Time `json:"last_used"`
	Requests    int64     `json:"requests"` // of this process
	// Refused is when the vendor refused it last, zero if it did not since it was last taken.
	Refused time.Time `json:"refused,omitzero"`
}

// A key is one value of the secrets, with all that a request needs. secret answers the value that print is of: a file that
// is written in between must not put one key on a request that is noted, and begun, as another's.
type key struct {
	slot   string
	print  string // "" if there is no value
	secret func(name string) (string, error)
}

// keys are the values that a request may carry, the new one first. They are made anew only when a value has changed.
func (c *Credential) keys(name string) []key {
	if name == "" {
		return []key{{CurrentKey, "", c.secret}}
	}
	now, err := c.secret(name)
	var old string
	if c.previous != nil {
		var perr error
		if old, perr = c.previous(name); perr != nil || old == now {
			old = ""
		}
	}
	if l := c.lastKeys.Load(); l != nil && err == nil && l.now == now && l.old == old {
		return l.keys
	}
	var ks []key
	if err == nil || old == "" { // else the new one cannot be read
		ks = append(ks, key{CurrentKey, c.printOf(now), func(n string) (string, error) {
			if n == name {
				return now, err
			}
			return c.secret(n)
		}})
	}
	if old != "" {
		ks = append(ks, key{PreviousKey, c.printOf(old), func(n string) (string, error) {
			if n == name {
				return old, nil
			}
			if v, err := c.previous(n); !errors.Is(err, profile.ErrNoSecret) {
				return v, err
			}
			return c.secret(n)
		}})
	}
	if err == nil {
		c.lastKeys.Store(&keyValues{now, old, ks})
	}
	return ks
}

// keyValues are keys, never changed, and the values that they were made of.
type keyValues struct {
	now, old string
	keys     []key
}

// choose is what the next request carries: the one that is wanted if it is there, else the first that the vendor does not
// refuse, else the new one.
func (c *Credential) choose(want string, now time.Time) key {
	name := c.profile.KeySecret()
	if o := c.profile.OAuth(); o != nil {
		name = o.ClientSecret
	}
	ks := c.keys(name)
	for _, k := range ks {
		if want != "" && k.print == want {
			return k
		}
	}
	if len(ks) > 1 {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, k := range ks {
			if at, ok := c.refused[k.print]; !ok || now.Sub(at) >= refusedFor {
				return k
			}
		}
	}
	return ks[0]
}

// carries is the fingerprint of what the next request carries: of the token in use that of the secret it was got with,
// which may be in the config no more.
func (c *Credential) carries(now time.Time) string {
	if c.profile.OAuth() != nil {
		c.mu.Lock()
		t := c.current
		c.mu.Unlock()
		if t != nil && now.Before(t.expires) {
			return t.print
		}
	}
	return c.choose("", now).print
}

// refuse notes that the vendor refuses a key, and reports whether the next request carries another one.
func (c *Credential) refuse(print string, now time.Time) bool {
	c.mu.Lock()
	for p, at := range c.refused {
		if now.Sub(at) >= refusedFor {
			delete(c.refused, p) // it says nothing any more
		}
	}
	c.refused[print] = now
	if u := c.uses[print]; u != nil {
		u.Refused = now.UTC()
	}
	c.mu.Unlock()
	return c.choose("", now).print != print
}

// used notes that a request carries a key.
func (c *Credential) used(print, slot string, now time.Time) {
	if print == "" {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.uses[print]
	if u == nil {
		u = &Use{Fingerprint: print, FirstUsed: now.UTC(), LastUsed: now.UTC()}
		c.uses[print] = u
		c.forget()
	}
	u.Slot, u.LastUsed = slot, now.UTC()
	u.Requests++
}

func (c *Credential) slotOf(print string) string {
	if o := c.profile.OAuth(); o != nil {
		for _, k := range c.keys(o.ClientSecret) {
			if k.print == print {
				return k.slot
			}
		}
	}
	return FormerKey
}

// Remember takes up what an earlier process knew of its uses.
func (c *Credential) Remember(uses []Use) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range uses {
		have := c.uses[u.Fingerprint]
		if u.Fingerprint == "" || have != nil && !have.LastUsed.Before(u.LastUsed) {
			continue
		}
		u.Requests = 0
		if have != nil {
			u.Requests = have.Requests
		}
		c.uses[u.Fingerprint] = &u
	}
	c.forget()
}

// usesMax bounds the values of a secret whose use is remembered: an agent may write a new one every hour.
const usesMax = 32

// forget drops the uses that are longest ago beyond usesMax. The caller holds the lock.
func (c *Credential) forget() {
	for len(c.uses) > usesMax {
		oldest := ""
		for p, u := range c.uses {
			if o := c.uses[oldest]; o == nil || u.LastUsed.Before(o.LastUsed) {
				oldest = p
			}
		}
		delete(c.uses, oldest)
	}
}

// Uses are those of all values that requests carried, with where each stands now, newest use first.
func (c *Credential) Uses() []Use {
	name := c.profile.KeySecret()
	if o := c.profile.OAuth(); o != nil {
		name = o.ClientSecret
	}
	ks := c.keys(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Use, 0, len(c.uses))
	for _, u := range c.uses {
		v := *u
		v.Slot = FormerKey
		for _, k := range ks {
			if k.print == v.Fingerprint {
				v.Slot = k.slot
			}
		}
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].LastUsed.After(out[j].LastUsed) })
	return out
}

// printsMax bounds the fingerprints that are kept: values come from files, which anybody may rewrite for ever.
const printsMax = 64

// printOf is the fingerprint of a value, "" of none. It tells which key was used without telling the key: 32 bits of a
// hash over a label and the vendor's name, too few to prove a guess.
func (c *Credential) printOf(value string) string {
	if value == "" {
		return ""
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.prints[value]; ok {
		return p
	}
	if len(c.prints) >= printsMax {
		clear(c.prints)
	}
	h := sha256.New()
	h.Write([]byte("weir credential\x00" + c.profile.Vendor + "\x00"))
	h.Write([]byte(value))
	p := hex.EncodeToString(h.Sum(nil)[:4])
	c.prints[value] = p
	return p
}
