package harness

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// An Effect is one line of a sandbox's effects log: a request and what it did (design section 17).
type Effect struct {
	Seq            int64     `json:"seq"`
	At             time.Time `json:"at"`
	Vendor         string    `json:"vendor"`
	Operation      string    `json:"operation"`
	Object         string    `json:"object"`
	Reference      string    `json:"reference"`
	IdempotencyKey string    `json:"idempotency_key"`
	Status         int       `json:"status"`
	Effect         string    `json:"effect"` // one of the constants below
}

// What a request did at the vendor.
const (
	EffectApplied  = "applied"
	EffectReplayed = "replayed"
	EffectRejected = "rejected"
	EffectRead     = "read"
)

// A Sandbox is a running vendor sandbox.
type Sandbox struct {
	// Vendor, URL and AdminURL are what the sandbox printed. URLs are without a slash at the end.
	Vendor   string `json:"vendor"`
	URL      string `json:"url"`
	AdminURL string `json:"admin_url"`
	// Process is its process, for a test that kills or freezes the vendor.
	Process *Process `json:"-"`
}

// StartSandbox starts "weir sandbox <vendor>" with further arguments and waits until it has printed where it
// listens. It stops with the test.
func StartSandbox(t testing.TB, w *Weir, vendor string, args ...string) *Sandbox {
	t.Helper()
	p := w.Start(t, append([]string{"sandbox", vendor}, args...)...)
	ctx, cancel := context.WithTimeout(t.Context(), waitMax)
	defer cancel()
	s := new(Sandbox)
	_, err := p.Stdout.WaitLine(ctx, func(line string) bool {
		got, ok := parseSandbox(line)
		if ok && got.Vendor == vendor {
			*s = got
			return true
		}
		return false
	})
	if err != nil {
		t.Fatalf("sandbox %s: wait for its JSON line: %v", vendor, err)
	}
	s.Process = p
	return s
}

func parseSandbox(line string) (Sandbox, bool) {
	var s Sandbox
	if err := json.Unmarshal([]byte(line), &s); err != nil {
		return Sandbox{}, false
	}
	s.URL = strings.TrimRight(s.URL, "/")
	s.AdminURL = strings.TrimRight(s.AdminURL, "/")
	if s.Vendor == "" || s.URL == "" || s.AdminURL == "" {
		return Sandbox{}, false
	}
	return s, true
}

// Effects reads the whole effects log, oldest first. Its numbers must grow.
func (s *Sandbox) Effects(t testing.TB) []Effect {
	t.Helper()
	body := s.admin(t, http.MethodGet, "/effects", nil)
	es, err := parseEffects(body)
	if err != nil {
		t.Fatalf("effects of sandbox %s: %v", s.Vendor, err)
	}
	return es
}

func parseEffects(body []byte) ([]Effect, error) {
	var es []Effect
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var e Effect
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		switch e.Effect {
		case EffectApplied, EffectReplayed, EffectRejected, EffectRead:
		default:
			return nil, fmt.Errorf("line %d: effect %q is none of applied, replayed, rejected, read", n, e.Effect)
		}
		if len(es) > 0 && e.Seq <= es[len(es)-1].Seq {
			return nil, fmt.Errorf("line %d: seq %d does not follow %d", n, e.Seq, es[len(es)-1].Seq)
		}
		es = append(es, e)
	}
	return es, lines.Err()
}

// Applied are the effects that changed something at the vendor, oldest first.
func (s *Sandbox) Applied(t testing.TB) []Effect {
	t.Helper()
	var applied []Effect
	for _, e := range s.Effects(t) {
		if e.Effect == EffectApplied {
			applied = append(applied, e)
		}
	}
	return applied
}

// WaitEffects polls the log until enough accepts it and returns it; the test fails when that takes longer than
// within.
func (s *Sandbox) WaitEffects(t testing.TB, within time.Duration, enough func([]Effect) bool) []Effect {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		es := s.Effects(t)
		if enough(es) {
			return es
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("sandbox %s: still waiting for its effects after %v; there are %d, the last %+v", s.Vendor, within, len(es), es[max(0, len(es)-3):])
		}
	}
}

// Object is one object as the vendor has it, decoded into v; false if there is none.
func (s *Sandbox) Object(t testing.TB, id string, v any) bool {
	t.Helper()
	status, body, err := s.do(t.Context(), http.MethodGet, "/objects/"+url.PathEscape(id), nil)
	if err == nil && status == http.StatusNotFound {
		return false
	}
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		t.Fatalf("object %s of sandbox %s: %v", id, s.Vendor, err)
	}
	return true
}

// SetFault switches a fault on or off; more are its further settings, nil for none.
func (s *Sandbox) SetFault(t testing.TB, name string, on bool, more map[string]any) {
	t.Helper()
	fault := map[string]any{"name": name, "on": on}
	for k, v := range more {
		fault[k] = v
	}
	body, err := json.Marshal(fault)
	if err != nil {
		t.Fatalf("fault %s of sandbox %s: %v", name, s.Vendor, err)
	}
	s.admin(t, http.MethodPost, "/faults", body)
}

func (s *Sandbox) admin(t testing.TB, method, path string, body []byte) []byte {
	t.Helper()
	status, answer, err := s.do(t.Context(), method, path, body)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("status %d: %s", status, answer)
	}
	if err != nil {
		t.Fatalf("sandbox %s: %s %s: %v", s.Vendor, method, path, err)
	}
	return answer
}

// effectsMax bounds an answer of the admin listener: about 2 million effects.
const effectsMax = 512 << 20

func (s *Sandbox) do(ctx context.Context, method, path string, body []byte) (int, []byte, error) {
	ctx, cancel := context.WithTimeout(ctx, waitMax)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.AdminURL+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	answer, err := io.ReadAll(io.LimitReader(resp.Body, effectsMax))
	return resp.StatusCode, answer, errors.Join(err, resp.Body.Close())
}
