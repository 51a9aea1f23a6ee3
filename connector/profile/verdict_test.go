package profile

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestVerdicts is the table of statuses of vendor sheet pushcash, sections 4.2 and 7, and of the plain vendor
// (design section 17).
func TestVerdicts(t *testing.T) {
	const authError = `{"error":{"code":"unauthorized","message":"m","field":null},"request_id":"req_1"}`
	cases := []struct {
		vendor, operation string
		status            int
		body              string
		verdict           Verdict
		reason            string
		noEffect          bool
	}{
		{"pushcash", "create_user", 200, `{"id":"user_1"}`, Accept, "", false},
		{"pushcash", "create_user", 400, `{"error":{"code":"validation_error"}}`, Reject, "validation_error", true},
		{"pushcash", "create_user", 401, authError, Halt, "unauthorized", true},
		{"pushcash", "create_user", 401, ``, Halt, "unauthorized", true},
		{"pushcash", "create_user", 403, ``, Halt, "ip_not_allowed", true},
		{"pushcash", "create_user", 404, `<html>`, Reject, "not_found", true},
		{"pushcash", "create_user", 405, ``, Gone, "method_not_allowed", true},
		{"pushcash", "create_user", 408, ``, Retry, "vendor_timeout", false},
		{"pushcash", "create_user", 409, ``, Reject, "refused_by_vendor", true},
		{"pushcash", "create_user", 422, ``, Reject, "refused_by_vendor", true},
		{"pushcash", "create_user", 429, ``, Throttle, "rate_limited", true},
		{"pushcash", "create_user", 500, `not JSON`, Retry, "vendor_error", false},
		{"pushcash", "create_user", 502, ``, Retry, "vendor_error", false},
		{"pushcash", "create_user", 503, ``, Retry, "vendor_error", false},
		{"pushcash", "create_user", 504, ``, Retry, "vendor_error", false},
		{"pushcash", "create_user", 599, ``, Retry, "vendor_error", false},
		{"pushcash", "create_user", 302, ``, Retry, "unexpected_status", false},
		{"pushcash", "create_user", 410, ``, Gone, "operation_gone", true},
		{"pushcash", "create_intent", 200, `{"id":"intent_1","url":"u"}`, Accept, "", false},
		{"pushcash", "create_intent", 404, ``, Reject, "unknown_user", true},
		{"pushcash", "create_intent", 429, ``, Throttle, "rate_limited", true},
		{"pushcash", "cancel_intent", 200, `{}`, Accept, "", false},
		{"pushcash", "cancel_intent", 400, ``, Conclude, "conflict_already_paid", true},
		{"pushcash", "cancel_intent", 404, ``, Reject, "unknown_intent", true},
		{"pushcash", "cancel_intent", 500, ``, Retry, "vendor_error", false},
		{"pushcash", "cancel_intent", 401, ``, Halt, "unauthorized", true},

		{"plain", "create_payment", 201, `{"id":"p1"}`, Accept, "", false},
		{"plain", "create_payment", 204, ``, Accept, "", false},
		{"plain", "create_payment", 400, ``, Reject, "refused_by_vendor", true},
		{"plain", "create_payment", 401, ``, Halt, "unauthorized", true},
		{"plain", "create_payment", 404, ``, Reject, "refused_by_vendor", true},
		{"plain", "create_payment", 408, ``, Retry, "vendor_timeout", false},
		{"plain", "create_payment", 422, ``, Reject, "refused_by_vendor", true},
		{"plain", "create_payment", 429, ``, Throttle, "rate_limited", true},
		{"plain", "create_payment", 500, ``, Retry, "vendor_error", false},
		{"plain", "create_payment", 503, ``, Retry, "vendor_error", false},
		{"plain", "put_customer", 503, ``, Retry, "vendor_error", false},
	}
	for _, c := range cases {
		got := compiled(t, c.vendor, nil).Operations[c.operation].Judge(&Answer{Status: c.status, Body: []byte(c.body), Header: http.Header{}, At: at})
		if got.Verdict != c.verdict || got.Reason != c.reason || got.NoEffect != c.noEffect {
			t.Errorf("%s %s %d %q: %s %s no_effect=%v, want %s %s no_effect=%v", c.vendor, c.operation, c.status, c.body,
				got.Verdict, got.Reason, got.NoEffect, c.verdict, c.reason, c.noEffect)
		}
		switch got.Verdict {
		case Reject, Halt, Gone, Conclude:
			if got.Guidance == "" {
				t.Errorf("%s %s %d: no guidance for the person who reads %s", c.vendor, c.operation, c.status, got.Verdict)
			}
		}
	}
}

// TestVerdictConditions: the first line whose status and condition hold counts; a condition that the answer
// cannot satisfy, or that cannot be evaluated on it, does not hold.
func TestVerdictConditions(t *testing.T) {
	text := strings.Replace(sound, "  - {status: 409, when: body.code == 'dup', verdict: duplicate}\n", `  - {status: [400, 409], when: body.code == 'dup', verdict: duplicate}
  - {when: "has(body.id) && status == 401", verdict: reject, reason: declined}
  - {status: 4xx, when: "headers['x-maintenance'] == 'yes'", verdict: retry, no_effect: true}
`, 1)
	p, err := Parse("acme.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c, err := p.Compile(Options{Connector: "acme", Schemas: schemas(t)})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		status   int
		body     string
		header   string
		verdict  Verdict
		noEffect bool
	}{
		{409, `{"code":"dup"}`, "", Duplicate, false},
		{400, `{"code":"dup"}`, "", Duplicate, false},
		{409, `{"code":"other"}`, "", Reject, true},
		{409, `{"code":7}`, "", Reject, true},
		{409, `{}`, "", Reject, true},
		{409, `[]`, "", Reject, true},
		{409, `null`, "", Reject, true},
		{409, ``, "", Reject, true},
		{409, `{"code":"dup"} trailing`, "", Reject, true},
		{401, `{"id":"pay_1"}`, "", Reject, true},
		{401, `{"error":{}}`, "", Halt, true},
		{401, ``, "", Halt, true},
		{404, ``, "yes", Retry, true},
		{404, ``, "no", Reject, true},
		{500, ``, "yes", Retry, false},
	} {
		a := &Answer{Status: tc.status, Body: []byte(tc.body), Header: http.Header{}, At: at}
		if tc.header != "" {
			a.Header.Set("X-Maintenance", tc.header)
		}
		if got := c.Operations["create_person"].Judge(a); got.Verdict != tc.verdict || got.NoEffect != tc.noEffect {
			t.Errorf("%d %q maintenance %q: %s no_effect=%v, want %s no_effect=%v", tc.status, tc.body, tc.header, got.Verdict, got.NoEffect, tc.verdict, tc.noEffect)
		}
	}
}

func TestWaitAndUsage(t *testing.T) {
	c := compiled(t, "pushcash", nil)
	intent, cancel := c.Operations["create_intent"], c.Operations["cancel_intent"]
	unix := func(d time.Duration) string { return strconv.FormatInt(at.Add(d).Unix(), 10) }
	for _, tc := range []struct {
		name   string
		op     *Operation
		status int
		header map[string]string
		wait   time.Duration
		usage  Usage
	}{
		{"nothing", intent, 429, nil, 0, Usage{-1, -1, time.Time{}}},
		{"unix seconds", intent, 429, map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": unix(90 * time.Second)}, 90 * time.Second, Usage{100, 0, at.Add(90 * time.Second)}},
		{"unix milliseconds", intent, 429, map[string]string{"X-RateLimit-Reset": unix(time.Minute) + "000"}, time.Minute, Usage{-1, -1, at.Add(time.Minute)}},
		{"delta", intent, 429, map[string]string{"X-RateLimit-Reset": "30"}, 30 * time.Second, Usage{-1, -1, at.Add(30 * time.Second)}},
		{"fraction", intent, 429, map[string]string{"X-RateLimit-Reset": "0.25"}, 250 * time.Millisecond, Usage{-1, -1, at.Add(250 * time.Millisecond)}},
		{"RFC 3339", intent, 429, map[string]string{"X-RateLimit-Reset": "2026-06-01T14:02:00.000+02:00"}, 2 * time.Minute, Usage{-1, -1, at.Add(2 * time.Minute)}},
		{"HTTP date", intent, 429, map[string]string{"X-RateLimit-Reset": "Mon, 01 Jun 2026 12:00:07 GMT"}, 7 * time.Second, Usage{-1, -1, at.Add(7 * time.Second)}},
		{"Retry-After wins", intent, 429, map[string]string{"Retry-After": "5", "X-RateLimit-Reset": "30"}, 5 * time.Second, Usage{-1, -1, at.Add(30 * time.Second)}},
		{"Retry-After of an error", intent, 503, map[string]string{"Retry-After": "12"}, 12 * time.Second, Usage{-1, -1, time.Time{}}},
		{"reset of an error", intent, 503, map[string]string{"X-RateLimit-Reset": "30"}, 0, Usage{-1, -1, at.Add(30 * time.Second)}},
		{"past", intent, 429, map[string]string{"X-RateLimit-Reset": unix(-time.Hour)}, 0, Usage{-1, -1, at.Add(-time.Hour)}},
		{"too long", intent, 429, map[string]string{"Retry-After": "99999999"}, time.Hour + time.Minute, Usage{-1, -1, time.Time{}}},
		{"too long without a limit", cancel, 429, map[string]string{"Retry-After": "99999999"}, time.Hour, Usage{-1, -1, time.Time{}}},
		{"nonsense", intent, 429, map[string]string{"Retry-After": "soon", "X-RateLimit-Limit": "many", "X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "0x10"}, 0, Usage{-1, -1, time.Time{}}},
		{"success", intent, 200, map[string]string{"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "42", "X-RateLimit-Reset": unix(time.Hour)}, 0, Usage{100, 42, at.Add(time.Hour)}},
		{"standard names", cancel, 200, map[string]string{"RateLimit-Limit": "10, 10;w=60", "RateLimit-Remaining": "3", "RateLimit-Reset": "9"}, 0, Usage{10, 3, at.Add(9 * time.Second)}},
		{"draft 7", cancel, 200, map[string]string{"RateLimit": "limit=10, remaining=3, reset=9"}, 0, Usage{10, 3, at.Add(9 * time.Second)}},
		{"draft 8", cancel, 200, map[string]string{"RateLimit": `"day";r=3;t=9, "hour";r=1;t=2`}, 0, Usage{-1, 3, at.Add(9 * time.Second)}},
		{"the vendor's clock is an hour behind", intent, 429, map[string]string{"Date": "Mon, 01 Jun 2026 11:00:00 GMT", "X-RateLimit-Reset": unix(-time.Hour + time.Minute)}, time.Minute, Usage{-1, -1, at.Add(time.Minute)}},
	} {
		a := &Answer{Status: tc.status, Header: http.Header{}, At: at}
		for k, v := range tc.header {
			a.Header.Set(k, v)
		}
		if got := tc.op.Judge(a).Wait; got != tc.wait {
			t.Errorf("%s: wait %v, want %v", tc.name, got, tc.wait)
		}
		got := tc.op.Usage(a)
		if got.Limit != tc.usage.Limit || got.Remaining != tc.usage.Remaining || !got.Reset.Equal(tc.usage.Reset) {
			t.Errorf("%s: usage %+v, want %+v", tc.name, got, tc.usage)
		}
	}
}

func TestChecks(t *testing.T) {
	c := compiled(t, "pushcash", nil)
	if c.Credential.Method != "POST" || c.Credential.Path != "/keys/verify" || !c.Credential.Auth {
		t.Errorf("credential check %+v", c.Credential)
	}
	for status, want := range map[int]CheckResult{200: CheckGood, 204: CheckGood, 401: CheckBad, 403: CheckUnknown, 404: CheckUnknown, 429: CheckUnknown, 503: CheckUnknown, 0: CheckUnknown} {
		if got := c.Credential.Judge(status); got != want {
			t.Errorf("status %d: %s, want %s", status, got, want)
		}
	}
}

func TestAuthorize(t *testing.T) {
	const value = "push_sandbox_topsecret"
	give := func(v string, err error) func(string) (string, error) {
		return func(name string) (string, error) {
			if name != "api_key" {
				t.Errorf("asked for the secret %q", name)
			}
			return v, err
		}
	}
	broken := errors.New("file unreadable")
	header := strings.Replace(sound, "auth: {kind: bearer, secret: api_key}", "auth: {kind: header, header: x-api-key, prefix: Key, secret: api_key}", 1)
	p, err := Parse("acme.yaml", []byte(header))
	if err != nil {
		t.Fatal(err)
	}
	byHeader, err := p.Compile(Options{Connector: "acme", Schemas: schemas(t)})
	if err != nil {
		t.Fatal(err)
	}
	push, plain := compiled(t, "pushcash", nil), compiled(t, "plain", nil)
	for _, tc := range []struct {
		name   string
		c      *Compiled
		secret func(string) (string, error)
		header string
		want   string
		err    string
	}{
		{"bearer", push, give(value, nil), "Authorization", "Bearer " + value, ""},
		{"header", byHeader, give(value, nil), "X-Api-Key", "Key " + value, ""},
		{"missing", push, give("", ErrNoSecret), "Authorization", "", "api_key"},
		{"empty", push, give("", nil), "Authorization", "", "empty"},
		{"line break", push, give(value+"\n", nil), "Authorization", "", "control character"},
		{"optional given", plain, give(value, nil), "Authorization", "Bearer " + value, ""},
		{"optional missing", plain, give("", ErrNoSecret), "Authorization", "", ""},
		{"optional broken", plain, give("", broken), "Authorization", "", "file unreadable"},
	} {
		req, _ := http.NewRequest(http.MethodPost, "http://localhost/", nil)
		err := tc.c.Authorize(req, nil, at, tc.secret)
		if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s: error %v, want %q", tc.name, err, tc.err)
		}
		if err != nil && strings.Contains(err.Error(), "topsecret") {
			t.Errorf("%s: the error shows the secret: %v", tc.name, err)
		}
		if got := req.Header.Get(tc.header); got != tc.want {
			t.Errorf("%s: header %q, want %q", tc.name, got, tc.want)
		}
	}
	if len(push.Secrets) != 1 || len(plain.Secrets) != 0 || len(plain.OptionalSecrets) != 1 {
		t.Errorf("secrets: %q, %q, %q", push.Secrets, plain.Secrets, plain.OptionalSecrets)
	}
}

// FuzzHeaders: whatever a vendor writes into its headers, the wait is within its bounds, counts are -1 or not
// negative and bounded, and a reset is a time that can be written down.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"", "0", "30", "-1", "1.5", "1e300", "NaN", "Inf", "0x1p4", "1767225600", "1767225600000", "99999999999999999999", "2026-06-01T12:00:00Z", "9999-12-31T23:59:59Z",
		"Mon, 01 Jun 2026 12:00:00 GMT", "Monday, 01-Jun-26 12:00:00 GMT", "100, 100;w=60", "limit=1, remaining=2, reset=3", `"a";r=1;t=2`, "=", ";;", "t=99999999999999999999"} {
		f.Add(s, s, s, s)
		f.Add(s, "", "30", "Mon, 01 Jun 2026 11:00:00 GMT")
	}
	c := compiled(f, "pushcash", nil)
	f.Fuzz(func(t *testing.T, retryAfter, reset, combined, date string) {
		a := &Answer{At: at, Header: http.Header{"Retry-After": {retryAfter}, "X-Ratelimit-Reset": {reset}, "X-Ratelimit-Limit": {combined}, "Ratelimit": {combined}, "Date": {date}}}
		for _, op := range []string{"create_intent", "cancel_intent"} {
			for _, status := range []int{429, 503} {
				a.Status = status
				if w := c.Operations[op].Judge(a).Wait; w < 0 || w > time.Hour+time.Minute {
					t.Fatalf("wait %v", w)
				}
			}
			u := c.Operations[op].Usage(a)
			if u.Limit < -1 || u.Limit > countMax || u.Remaining < -1 || u.Remaining > countMax {
				t.Fatalf("usage %+v", u)
			}
		}
	})
}
