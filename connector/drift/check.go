package drift

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/profile"
)

// A Kind of drift. The set is closed: it is a metric label.
type Kind string

// The kinds.
const (
	Missing     Kind = "missing_field"
	NewField    Kind = "new_field"
	Retyped     Kind = "retyped_field"
	NewValue    Kind = "new_value" // of a string that is one of a few words
	TextChanged Kind = "changed_text"
	OtherStatus Kind = "other_status"
	Deprecated  Kind = "deprecated" // headers say that the operation will go
)

// Kinds lists them, those that break first.
var Kinds = []Kind{Missing, Retyped, NewValue, OtherStatus, NewField, TextChanged, Deprecated}

// Breaks reports whether drift of the kind can break the profile. The others are worth reading.
func (k Kind) Breaks() bool { return slices.Contains(Kinds[:4], k) }

// A Finding is one difference between an answer and what was recorded.
type Finding struct {
	Pair     string `json:"pair"`
	Kind     Kind   `json:"kind"`
	Path     string `json:"path"` // of the field, dotted, [] for the items of a list; "" for the answer as a whole
	Want     string `json:"want"` // as recorded: a type, words, a sentence, a status
	Got      string `json:"got"`
	Breaking bool   `json:"breaking"`
}

// A Result is what became of one pair.
type Result struct {
	Pair    string `json:"pair"`
	Method  string `json:"method"`
	Path    string `json:"path"`    // its template
	Status  int    `json:"status"`  // 0: not made
	Skipped string `json:"skipped"` // why it was not made, "" if it was
}

// A Report is what one check found. The lists are never nil.
type Report struct {
	Reference string    `json:"reference"` // begins the names of the objects that the check made
	Pairs     []Result  `json:"pairs"`
	Drift     []Finding `json:"drift"`
}

// Made counts the pairs whose request was answered.
func (r *Report) Made() int {
	n := 0
	for _, p := range r.Pairs {
		if p.Status != 0 {
			n++
		}
	}
	return n
}

// Breaking counts the findings that break.
func (r *Report) Breaking() int {
	n := 0
	for _, f := range r.Drift {
		if f.Breaking {
			n++
		}
	}
	return n
}

// Writes says how much a check may do at the vendor.
type Writes int

// The three amounts.
const (
	NoWrites   Writes = iota // reads alone
	SafeWrites               // all but pairs that are for a sandbox only
	AllWrites
)

// A Checker runs a contract against a vendor.
type Checker struct {
	Pairs      []*Pair
	Operations map[string]*profile.Operation // of the compiled profile
	Sender     *deliver.Sender
	Writes     Writes
}

// An UnansweredError says that the vendor did not answer a pair in a way that tells anything: not at all, with 5xx or
// 429 again and again, or with a refused credential. The check ended there.
type UnansweredError struct {
	Pair      string
	Reference string
	Status    int // 0: no answer
	Err       error
}

func (e *UnansweredError) Error() string {
	return fmt.Sprintf("%s (objects that the check has made are named %s)", e.Why(), e.Reference)
}

// Why is the error without what is new in each check.
func (e *UnansweredError) Why() string {
	if e.Err != nil {
		return e.Pair + ": " + e.Err.Error()
	}
	return e.Pair + ": the answer is " + strconv.Itoa(e.Status)
}

func (e *UnansweredError) Unwrap() error { return e.Err }

// Refused reports whether the vendor does not take the credential.
func (e *UnansweredError) Refused() bool {
	_, is := errors.AsType[*deliver.CredentialError](e.Err)
	return is || e.Status == http.StatusUnauthorized || e.Status == http.StatusForbidden
}

// Bounds of one pair's attempts.
const (
	attemptsMax = 3
	waitFirst   = 500 * time.Millisecond
	waitMax     = 30 * time.Second
)

// Check makes the requests in order and compares. A pair whose request needs a value that no answer gave, or that may
// not run, is skipped. The error is an *[UnansweredError], ctx's, or about a pair that was never recorded.
func (c *Checker) Check(ctx context.Context) (*Report, error) {
	for _, p := range c.Pairs {
		if p.Status == 0 {
			return nil, fmt.Errorf("%s.json holds no answer yet; record it", p.Name)
		}
	}
	return c.run(ctx, func(p *Pair, ans *profile.Answer, _ sent, report func(Kind, string, string, string)) error {
		if ans.Status != p.Status {
			report(OtherStatus, "", strconv.Itoa(p.Status), strconv.Itoa(ans.Status))
			if p.Status/100 != ans.Status/100 {
				return nil // it says something else altogether
			}
		}
		v, there, err := decode(ans.Body)
		switch {
		case p.Answer == nil && !there:
		case p.Answer == nil:
			report(NewField, "", "", "a body")
		case err != nil || !there:
			report(Retyped, "", p.Answer.Type, cmp.Or(map[bool]string{true: "no JSON"}[there], "no body"))
		default:
			p.Answer.compare("", v, p.Free, report)
		}
		return nil
	})
}

// Record makes the requests in order and puts what was answered into the pairs: status, and shape of the body. It needs a
// vendor that is known to answer as it should, and AllWrites.
func (c *Checker) Record(ctx context.Context) (*Report, error) {
	return c.run(ctx, func(p *Pair, ans *profile.Answer, echo sent, _ func(Kind, string, string, string)) error {
		v, there, err := decode(ans.Body)
		if err != nil {
			return fmt.Errorf("%s: the answer is %w", p.Name, err)
		}
		if p.Status, p.Answer = ans.Status, nil; there {
			p.Answer = shapeOf(v, echo, p.Free)
		}
		return nil
	})
}

// Encode is the file of a pair: the same pair has the same bytes.
func (p *Pair) Encode() ([]byte, error) {
	q := *p
	if q.Operation == q.Name {
		q.Operation = ""
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(&q)
	return b.Bytes(), err
}

func (c *Checker) run(ctx context.Context, judge func(*Pair, *profile.Answer, sent, func(Kind, string, string, string)) error) (*Report, error) {
	r := &Report{Reference: "weir-check-" + strings.ToLower(rand.Text()[:12]), Pairs: []Result{}, Drift: []Finding{}}
	answers := map[string]any{}
	var echo sent
	for _, p := range c.Pairs {
		res := Result{Pair: p.Name, Method: p.Request.Method, Path: p.Request.Path}
		q, skip, err := c.build(p, r.Reference, answers)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.Name, err)
		}
		if p.Writes && (c.Writes == NoWrites || p.SandboxOnly && c.Writes != AllWrites) {
			skip = "it writes"
		}
		if skip != "" {
			res.Skipped = skip
			r.Pairs = append(r.Pairs, res)
			continue
		}
		p.Request.texts(func(s string) { echo = append(echo, fill(s, r.Reference, answers, plain)) })
		ans, err := c.send(ctx, p, q)
		if err != nil {
			if e, ok := errors.AsType[*UnansweredError](err); ok {
				e.Reference = r.Reference
			}
			return nil, err
		}
		res.Status = ans.Status
		r.Pairs = append(r.Pairs, res)
		if v, _, err := decode(ans.Body); err == nil {
			answers[p.Name] = v
		}
		report := func(kind Kind, path, want, got string) {
			r.Drift = append(r.Drift, Finding{p.Name, kind, path, want, got, kind.Breaks()})
		}
		if s := profile.Deprecation(ans.Header); s != "" {
			report(Deprecated, "", "", s)
		}
		if err := judge(p, ans, echo, report); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func plain(s string) string { return s }

// lookup follows {pair.field.field}. Only texts and numbers can stand in a request.
func lookup(ref string, answers map[string]any) (string, bool) {
	from, path, _ := strings.Cut(ref, ".")
	v := answers[from]
	for part := range strings.SplitSeq(path, ".") {
		switch in := v.(type) {
		case map[string]any:
			v = in[part]
		case []any:
			v = nil
			if i, err := strconv.Atoi(part); err == nil && i >= 0 && i < len(in) {
				v = in[i]
			}
		default:
			v = nil
		}
	}
	switch v := v.(type) {
	case string:
		return v, v != ""
	case json.Number:
		return v.String(), true
	}
	return "", false
}

func fill(s, reference string, answers map[string]any, escape func(string) string) string {
	return placeholder.ReplaceAllStringFunc(s, func(m string) string {
		if m == "{reference}" {
			return reference
		}
		v, _ := lookup(m[1:len(m)-1], answers)
		return escape(v)
	})
}

// build makes the request of a pair; skip says why it cannot be made.
func (c *Checker) build(p *Pair, reference string, answers map[string]any) (q *profile.Request, skip string, err error) {
	for _, ref := range p.Request.references() {
		if _, ok := lookup(ref, answers); !ok {
			return nil, "no answer gave {" + ref + "}", nil
		}
	}
	header := http.Header{}
	for k, v := range p.Request.Headers {
		header.Set(k, fill(v, reference, answers, plain))
	}
	var body []byte
	if p.Request.Body != nil {
		if body, err = json.Marshal(filled(p.Request.Body, reference, answers)); err != nil {
			return nil, "", err
		}
	}
	q, err = c.Operations[p.Operation].Literal(p.Request.Method, fill(p.Request.Path, reference, answers, url.PathEscape), header, body)
	return q, "", err
}

func filled(v any, reference string, answers map[string]any) any {
	switch v := v.(type) {
	case string:
		return fill(v, reference, answers, plain)
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			out[i] = filled(e, reference, answers)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = filled(e, reference, answers)
		}
		return out
	}
	return v
}

// send makes one request, some times if the vendor is busy. A write whose answer was lost is not repeated.
func (c *Checker) send(ctx context.Context, p *Pair, q *profile.Request) (*profile.Answer, error) {
	backoff := deliver.NewBackoff(waitFirst)
	for attempt := 1; ; attempt++ {
		ex := c.Sender.Send(ctx, q)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		e := &UnansweredError{Pair: p.Name, Err: ex.Err}
		wait, again := backoff.Next(), ex.Sent == checkpoint.NotSent || !p.Writes
		if ex.Sent == checkpoint.Answered {
			status := ex.Answer.Status
			e.Status = status
			switch {
			case status == p.Status:
				return ex.Answer, nil
			case status == http.StatusUnauthorized, status == http.StatusForbidden:
				if c.Sender.Expired(ex) && attempt < attemptsMax {
					continue
				}
				return nil, e
			case status == http.StatusTooManyRequests:
				again = true
				if n, err := strconv.Atoi(ex.Answer.Header.Get("Retry-After")); err == nil && n >= 0 {
					wait = time.Duration(n) * time.Second
				}
			case status != http.StatusRequestTimeout && status < 500:
				return ex.Answer, nil
			}
		}
		if !again || attempt == attemptsMax || wait > waitMax || e.Refused() {
			return nil, e
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
