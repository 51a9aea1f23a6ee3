package profile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// compiledRule is one line of a verdict table.
type compiledRule struct {
	status    []statuses
	when      *program
	wait      *program
	judgement Judgement
}

// rules compiles verdicts.
func (r *reader) rules(s *scope, in []rule) []compiledRule {
	out := make([]compiledRule, 0, len(in))
	for _, u := range in {
		c := compiledRule{status: u.status, judgement: Judgement{Verdict: u.verdict, Reason: u.reason, Guidance: u.guidance, NoEffect: u.noEffect, Then: u.then, Lowers: u.lowers}}
		if u.wait != nil {
			c.wait = r.compile(s, *u.wait)
			r.wants(c.wait, "wait", "a wait, in seconds,")
		}
		if u.when != nil {
			c.when = r.compile(s, *u.when)
			r.wants(c.when, "condition", "a condition")
		}
		out = append(out, c)
	}
	return out
}

// Judge reads an answer: the first line that fits of the operation's verdicts, then of the profile's, then of the
// built-in table below. A condition that cannot be evaluated, on a body that is not JSON for example, does not hold.
func (o *Operation) Judge(ans *Answer) Judgement {
	j := o.judge(ans)
	switch j.Verdict {
	case Throttle, Retry:
		j.Wait = max(j.Wait, o.wait(ans, j.Verdict))
	}
	return j
}

func (o *Operation) judge(ans *Answer) Judgement {
	var a *activation
	for i := range o.rules {
		u := &o.rules[i]
		if len(u.status) > 0 && !anyHas(u.status, ans.Status) {
			continue
		}
		if u.when != nil {
			if a == nil {
				a = getActivation(nil, nil, &parsedAnswer{answer: ans})
				defer putActivation(a)
			}
			if holds, err := u.when.holds(a); err != nil || !holds {
				continue
			}
		}
		j := u.judgement
		if u.wait != nil {
			if a == nil {
				a = getActivation(nil, nil, &parsedAnswer{answer: ans})
				defer putActivation(a)
			}
			j.Wait = o.bodyWait(u.wait, a, ans)
		}
		return j
	}
	return defaultJudgement(ans.Status)
}

// bodyWait is the wait that a body asks for: a number of seconds, or a text as in Retry-After.
func (o *Operation) bodyWait(p *program, a *activation, ans *Answer) time.Duration {
	v, err := p.eval(a)
	if err != nil {
		return 0
	}
	text, ok := v.(string)
	if !ok {
		text = fmt.Sprint(v)
	}
	until, ok := moment(text, ans)
	if !ok {
		return 0
	}
	return clampWait(until.Sub(ans.At), o.waitMax())
}

// defaultJudgement is what HTTP itself says (RFC 9110, RFC 6585): the end of every verdict table. Only answers that
// a server gives before it acts prove that nothing was done.
func defaultJudgement(status int) Judgement {
	switch {
	case status >= 200 && status < 300:
		return Judgement{Verdict: Accept}
	case status == http.StatusUnauthorized:
		return Judgement{Verdict: Halt, Reason: "unauthorized", NoEffect: true, Guidance: "the vendor refuses the credential; check the connector's secret"}
	case status == http.StatusForbidden:
		return Judgement{Verdict: Halt, Reason: "forbidden", NoEffect: true, Guidance: "the credential lacks a permission, or this address is not allowed"}
	case status == http.StatusTooManyRequests:
		return Judgement{Verdict: Throttle, Reason: "rate_limited", NoEffect: true}
	case status == http.StatusMethodNotAllowed, status == http.StatusGone, status == http.StatusNotImplemented:
		return Judgement{Verdict: Gone, Reason: "operation_gone", NoEffect: true, Guidance: "the vendor no longer offers this operation; the profile needs an update"}
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly:
		return Judgement{Verdict: Retry, Reason: "vendor_timeout"}
	case status >= 400 && status < 500:
		return Judgement{Verdict: Reject, Reason: "refused_by_vendor", NoEffect: true, Guidance: "the vendor refuses this request; see its answer in the attempt"}
	case status >= 500:
		return Judgement{Verdict: Retry, Reason: "vendor_error"}
	default:
		// A redirect: a wrong base URL or a maintenance page. Whether it acted is not known.
		return Judgement{Verdict: Retry, Reason: "unexpected_status", Guidance: "the vendor answers with a redirect; check base_url"}
	}
}

// parsedAnswer gives expressions the answer; its body is read at the first use.
type parsedAnswer struct {
	answer *Answer
	parsed bool
	body   any
	header map[string]string
}

// json is the body, nil if it is not JSON.
func (p *parsedAnswer) json() any {
	if p == nil {
		return nil
	}
	if !p.parsed {
		p.parsed = true
		d := json.NewDecoder(bytes.NewReader(p.answer.Body))
		d.UseNumber()
		var v any
		if d.Decode(&v) == nil && !d.More() {
			p.body = plainNumbers(v)
		}
	}
	return p.body
}

// plainNumbers turns numbers into int64 where they are integers, else into float64.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case json.Number:
		if i, err := v.Int64(); err == nil {
			return i
		}
		f, _ := v.Float64() // out of range gives an infinity, which no condition takes for a sound value
		return f
	case []any:
		for i := range v {
			v[i] = plainNumbers(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plainNumbers(v[k])
		}
	}
	return v
}

// headers are the first values by lower-case name.
func (p *parsedAnswer) headers() map[string]string {
	if p == nil {
		return nil
	}
	if p.header == nil {
		p.header = make(map[string]string, len(p.answer.Header))
		for k, v := range p.answer.Header {
			if len(v) > 0 {
				p.header[strings.ToLower(k)] = v[0]
			}
		}
	}
	return p.header
}

// waitMax is the longest wait that a vendor may ask for.
func (o *Operation) waitMax() time.Duration {
	longest := waitMax
	for _, l := range o.Limits {
		longest = max(longest, l.Window+waitSlack)
	}
	return longest
}

// wait is what the vendor asks for: Retry-After, else, for a throttled request, the reset of its quota.
func (o *Operation) wait(ans *Answer, v Verdict) time.Duration {
	longest := o.waitMax()
	if at, ok := moment(ans.Header.Get("Retry-After"), ans); ok {
		return clampWait(at.Sub(ans.At), longest)
	}
	if v == Throttle {
		if u := o.Usage(ans); !u.Reset.IsZero() {
			return clampWait(u.Reset.Sub(ans.At), longest)
		}
	}
	return 0
}
