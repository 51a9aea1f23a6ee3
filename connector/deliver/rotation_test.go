package deliver

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirsync/weir/connector/profile"
)

// Requests carry the new key, the previous one while the vendor refuses the new one, and the new one again after a while.
// What must carry a certain key carries that or is not sent.
func TestOverlap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secrets := map[string]string{"api_key": "dev_new"}
		previous := map[string]string{}
		c := credential(t, "{kind: bearer, secret: api_key}", secrets).Overlap(func(name string) (string, error) {
			if v, ok := previous[name]; ok {
				return v, nil
			}
			return "", profile.ErrNoSecret
		})
		send := func(want string) (carried, print string, err error) {
			r, _ := http.NewRequest(http.MethodPost, "http://acme.example/x", nil)
			_, print, err = c.authorize(context.Background(), r, nil, time.Now().Add(time.Minute), want)
			return r.Header.Get("Authorization"), print, err
		}
		carries := func(want, why string) string {
			t.Helper()
			got, print, err := send("")
			if err != nil || got != "Bearer "+want {
				t.Errorf("%s: carries %q, %v; want %s", why, got, err, want)
			}
			return print
		}
		n := carries("dev_new", "one key")
		if c.expire(0, n) {
			t.Error("one key, refused: another one is promised")
		}
		previous["api_key"] = "dev_old"
		o := carries("dev_old", "the vendor refuses the new key")
		if n == o || len(n) != 8 {
			t.Errorf("fingerprints %q and %q, want two of 8 digits", n, o)
		}
		time.Sleep(refusedFor)
		carries("dev_new", "after a while")
		if !c.expire(0, n) {
			t.Error("the new key is refused again, and the old one is not offered")
		}
		carries("dev_old", "refused again")
		c.expire(0, o)
		carries("dev_new", "both are refused")
		if got, _, err := send(o); err != nil || got != "Bearer dev_old" {
			t.Errorf("a request that must carry the old key carries %q, %v", got, err)
		}
		delete(previous, "api_key")
		if got, _, err := send(o); err != ErrOtherCredential || got != "" {
			t.Errorf("the old key is gone: carries %q, %v; want nothing", got, err)
		}
		uses := c.Uses()
		slots := map[string]string{}
		for _, u := range uses {
			slots[u.Fingerprint] = u.Slot
		}
		if len(uses) != 2 || slots[n] != CurrentKey || slots[o] != FormerKey {
			t.Errorf("uses %+v, want the new key current and the old one former", uses)
		}
		// A later process takes the last use up, and a use of its own is newer.
		later := credential(t, "{kind: bearer, secret: api_key}", secrets)
		later.Remember(uses)
		if got := later.Uses(); len(got) != 2 || got[0].Requests != 0 || !got[1].LastUsed.Equal(uses[1].LastUsed) {
			t.Errorf("remembered %+v of %+v", got, uses)
		}
		// An unreadable new key leaves the old one in use.
		delete(secrets, "api_key")
		previous["api_key"] = "dev_old"
		carries("dev_old", "the new key cannot be read")
	})
}

// A key that is replaced while a request is made: what the request carries is what it is said to carry, for else a lost one
// would be repeated under another key, which the vendor does not know it by.
func TestReplacedWhileSent(t *testing.T) {
	reads := 0
	c := credential(t, "{kind: bearer, secret: api_key}", nil)
	c.secret = func(string) (string, error) {
		reads++
		return fmt.Sprint("dev_", reads), nil // another one each time it is read
	}
	for range 3 {
		r, _ := http.NewRequest(http.MethodPost, "http://acme.example/x", nil)
		_, print, err := c.authorize(context.Background(), r, nil, time.Now().Add(time.Minute), "")
		if carried := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "); err != nil || c.printOf(carried) != print {
			t.Errorf("carries %s, whose fingerprint is %s, and is noted as %s; %v", carried, c.printOf(carried), print, err)
		}
	}
}

// A secret that changes all the time: the newest uses are remembered, and no more than a bound, over restarts too.
func TestUsesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		secrets := map[string]string{}
		c := credential(t, "{kind: bearer, secret: api_key}", secrets)
		for i := range 3 * usesMax {
			secrets["api_key"] = fmt.Sprint("dev_", i)
			r, _ := http.NewRequest(http.MethodPost, "http://acme.example/x", nil)
			_, print, err := c.authorize(context.Background(), r, nil, time.Now().Add(time.Minute), "")
			if err != nil {
				t.Fatal(err)
			}
			c.refuse(print, time.Now())
			time.Sleep(time.Hour)
		}
		uses := c.Uses()
		if len(uses) != usesMax || uses[0].Fingerprint != c.printOf(secrets["api_key"]) || len(c.refused) != 1 {
			t.Errorf("%d uses, newest %s, %d refused; want %d, %s, 1", len(uses), uses[0].Fingerprint, len(c.refused), usesMax, c.printOf(secrets["api_key"]))
		}
		later := credential(t, "{kind: bearer, secret: api_key}", map[string]string{})
		later.Remember(append(uses, Use{Fingerprint: "00000000", LastUsed: time.Now().Add(-10000 * time.Hour)}))
		if got := later.Uses(); len(got) != usesMax || got[usesMax-1].Fingerprint == "00000000" {
			t.Errorf("%d uses are taken up, the last %+v; want the newest %d", len(got), got[len(got)-1], usesMax)
		}
	})
}

// A token is of the client secret that it was got with, as long as it lives: a request that must carry what the sender names
// is sent, also right after the client secret was changed, and when the vendor takes only the previous one.
func TestCarriesTheTokenInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{}
		i.set(http.StatusOK, 600, 0)
		secrets := map[string]string{"client_id": "me", "client_secret": "dev_old"}
		c := credential(t, fmt.Sprintf(oauth, "https://login.example/token"), secrets)
		c.client = &http.Client{Transport: i}
		defer c.close()
		s := &Sender{cfg: SenderConfig{Credential: c}}
		sends := func(why string) string {
			t.Helper()
			want := s.Carries()
			r, _ := http.NewRequest(http.MethodPost, "http://acme.example/x", nil)
			if _, got, err := c.authorize(context.Background(), r, nil, time.Now().Add(time.Minute), want); err != nil || got != want {
				t.Errorf("%s: the sender names %q and carries %q, %v", why, want, got, err)
			}
			return want
		}
		old := sends("the first token")
		secrets["client_secret"] = "dev_new"
		if got := sends("the client secret was changed"); got != old {
			t.Errorf("the token of the old client secret lives, and the sender names %q, want %q", got, old)
		}
		time.Sleep(601 * time.Second)
		if got := sends("the token has ended"); got == old || got == "" {
			t.Errorf("after the end of the token the sender names %q, want the new client secret's", got)
		}
	})
}
