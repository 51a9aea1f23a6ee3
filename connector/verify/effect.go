package verify

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
)

// What became of a request at the vendor (design section 17).
const (
	EffectApplied  = "applied"  // something changed
	EffectReplayed = "replayed" // recognised as a repeat: nothing changed
	EffectRejected = "rejected" // refused: nothing changed
	EffectRead     = "read"
)

// An Effect is one line of a sandbox's effects log (design section 17).
type Effect struct {
	Seq            int64     `json:"seq"` // order in which the vendor did it, from 1
	At             time.Time `json:"at"`
	Vendor         string    `json:"vendor"`
	Operation      string    `json:"operation"`
	Object         string    `json:"object"`          // id of the vendor object
	Reference      string    `json:"reference"`       // entity id + revision, where the operation carries one
	IdempotencyKey string    `json:"idempotency_key"` // "" where the operation has none
	Status         int       `json:"status"`          // HTTP status of the answer, 0 if none was given
	Effect         string    `json:"effect"`          // applied, replayed, rejected or read
}

// Bounds of the effects log.
const (
	// effectLineMax bounds one line, in bytes: ids of at most 255 characters each (vendor sheet pushcash, section
	// 4.1) and a few words fit many times over.
	effectLineMax = 64 << 10
	// effectsMax bounds the number of effects that are held in memory: ten times the largest test.
	effectsMax = 20_000_000
)

// ReadEffects reads an effects log, one JSON object per line, and calls f with each. Empty lines are ignored and so
// are fields that it does not know. Numbers (seq) must rise from line to line, since a log with a gap in its
// order proves nothing. Errors name the line.
func ReadEffects(r io.Reader, f func(Effect) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 4096), effectLineMax)
	line, last := 0, int64(0)
	for sc.Scan() {
		line++
		text := bytes.TrimSpace(sc.Bytes())
		if len(text) == 0 {
			continue
		}
		e, err := parseEffect(text)
		if err != nil {
			return fmt.Errorf("effects log, line %d: %w", line, err)
		}
		if e.Seq <= last {
			return fmt.Errorf("effects log, line %d: seq %d does not follow %d: lines are missing, doubled or of two logs", line, e.Seq, last)
		}
		last = e.Seq
		if err := f(e); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		if errors.Is(err, bufio.ErrTooLong) {
			return fmt.Errorf("effects log, line %d: longer than %d bytes", line+1, effectLineMax)
		}
		return fmt.Errorf("effects log, after line %d: %w", line, err)
	}
	return nil
}

func parseEffect(text []byte) (Effect, error) {
	var e Effect
	if err := json.Unmarshal(text, &e); err != nil {
		return Effect{}, err
	}
	switch {
	case e.Seq <= 0:
		return Effect{}, fmt.Errorf("seq %d: want 1 or more", e.Seq)
	case e.Operation == "":
		return Effect{}, errors.New("operation is missing")
	}
	switch e.Effect {
	case EffectApplied, EffectReplayed, EffectRejected, EffectRead:
		return e, nil
	}
	return Effect{}, fmt.Errorf("effect %q: want applied, replayed, rejected or read", e.Effect)
}

// CollectEffects reads a whole effects log into memory.
func CollectEffects(r io.Reader) ([]Effect, error) {
	var out []Effect
	err := ReadEffects(r, func(e Effect) error {
		if len(out) == effectsMax {
			return fmt.Errorf("effects log: more than %d lines, the limit of this check", effectsMax)
		}
		out = append(out, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// LoadEffects reads the effects log of a running sandbox if from is its admin URL (http or https; /effects is
// added unless it is there), else of the file of that name. A nil client is http.DefaultClient; the context
// bounds the whole transfer.
func LoadEffects(ctx context.Context, client *http.Client, from string) ([]Effect, error) {
	if !strings.HasPrefix(from, "http://") && !strings.HasPrefix(from, "https://") {
		f, err := os.Open(from)
		if err != nil {
			return nil, fmt.Errorf("open the vendor's effects log: %w", err)
		}
		defer f.Close()
		out, err := CollectEffects(f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from, err)
		}
		return out, nil
	}
	url := strings.TrimSuffix(from, "/")
	if !strings.HasSuffix(url, "/effects") {
		url += "/effects"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("ask the sandbox for its effects log: %w", err)
	}
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the sandbox for its effects log (is it running?): %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask the sandbox for its effects log: GET %s answered %s; the admin URL is in the line that weir sandbox prints", url, resp.Status)
	}
	out, err := CollectEffects(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	return out, nil
}
