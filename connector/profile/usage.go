package profile

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Bounds of what a vendor may ask for (design section 6: clamped to sane bounds). A wait beyond the window of the
// quota cannot be meant, and one beyond an hour without a quota would stop a connector on one wrong header.
const (
	waitMax   = time.Hour
	waitSlack = time.Minute // clocks differ
	// skewMin is the difference between the vendor's Date and our clock from which absolute times are read by
	// the vendor's clock. Below it the difference may be rounding and travel.
	skewMin = 5 * time.Second
	// countMax bounds what a header may say of a quota.
	countMax = limitMax
)

func clampWait(d, longest time.Duration) time.Duration {
	return max(0, min(d, longest))
}

// Usage reads the answer's rate-limit headers: those that the operation's limits name, else X-RateLimit-*,
// RateLimit-* and RateLimit (drafts 7 and later of draft-ietf-httpapi-ratelimit-headers).
func (o *Operation) Usage(ans *Answer) Usage {
	u := Usage{Limit: -1, Remaining: -1}
	names := [3]string{}
	for _, l := range o.Limits {
		if l.LimitHeader != "" || l.RemainingHeader != "" || l.ResetHeader != "" {
			names = [3]string{l.LimitHeader, l.RemainingHeader, l.ResetHeader}
			break
		}
	}
	read := func(limit, remaining, reset string) {
		if u.Limit < 0 {
			u.Limit = count(first(ans.Header, limit))
		}
		if u.Remaining < 0 {
			u.Remaining = count(first(ans.Header, remaining))
		}
		if u.Reset.IsZero() {
			if at, ok := moment(first(ans.Header, reset), ans); ok {
				u.Reset = at
			}
		}
	}
	read(names[0], names[1], names[2])
	read("X-Ratelimit-Limit", "X-Ratelimit-Remaining", "X-Ratelimit-Reset")
	read("Ratelimit-Limit", "Ratelimit-Remaining", "Ratelimit-Reset")
	if v := first(ans.Header, "Ratelimit"); v != "" {
		combined(v, ans, &u)
	}
	return u
}

// first is Header.Get of a name that is in canonical form, as those of a profile are: most answers have none of those that each is asked for.
func first(h http.Header, name string) string {
	if vs := h[name]; len(vs) > 0 {
		return vs[0]
	}
	return ""
}

// combined reads RateLimit: limit=100, remaining=5, reset=30 (draft 7) or "name";r=5;t=30 (draft 8 and later). Of
// several policies the first counts.
func combined(v string, ans *Answer, u *Usage) {
	if strings.HasPrefix(strings.TrimSpace(v), `"`) {
		v, _, _ = strings.Cut(v, ",")
	}
	for part := range strings.FieldsFuncSeq(v, func(r rune) bool { return r == ',' || r == ';' }) {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if !ok {
			continue
		}
		switch n := count(value); strings.ToLower(name) {
		case "limit", "q":
			if u.Limit < 0 {
				u.Limit = n
			}
		case "remaining", "r":
			if u.Remaining < 0 {
				u.Remaining = n
			}
		case "reset", "t":
			if u.Reset.IsZero() && n >= 0 {
				u.Reset = ans.At.Add(time.Duration(n) * time.Second)
			}
		}
	}
}

// count reads a number of requests, -1 if there is none. "100, 100;w=3600" and "100;w=60" count as 100.
func count(s string) int {
	if s == "" {
		return -1 // most answers name none: ParseInt would make an error of each
	}
	if i := strings.IndexAny(s, ",;"); i >= 0 {
		s = s[:i]
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 {
		return -1
	}
	return int(min(n, countMax))
}

// Numbers from which a reset is no longer a delta: 10^9 s are 31 years; Unix seconds passed 10^9 in 2001, and
// Unix milliseconds 10^12.
const (
	unixSecondsFrom = 1e9
	unixMillisFrom  = 1e11
	unixMicrosFrom  = 1e14
	unixMax         = 253402300799 // 9999-12-31T23:59:59Z, the last that RFC 3339 can write
)

// moment reads when something is over: seconds from now, Unix seconds or milliseconds, RFC 3339, or an HTTP date
// (vendor sheet pushcash, section 6; RFC 9110, section 10.2.3). Absolute times are the vendor's; if its Date shows
// that its clock differs from ours, they are moved to ours.
func moment(s string, ans *Answer) (time.Time, bool) {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 64 {
		return time.Time{}, false
	}
	if n, err := strconv.ParseFloat(s, 64); err == nil {
		if math.IsNaN(n) || math.IsInf(n, 0) || n < 0 || strings.ContainsAny(s, "xXpP_") {
			return time.Time{}, false
		}
		switch {
		case n < unixSecondsFrom:
			return ans.At.Add(time.Duration(n * float64(time.Second))), true
		case n >= unixMicrosFrom:
			return time.Time{}, false
		case n >= unixMillisFrom:
			n /= 1000
		}
		if n > unixMax {
			return time.Time{}, false
		}
		whole, frac := math.Modf(n)
		return ourClock(time.Unix(int64(whole), int64(frac*1e9)).UTC(), ans), true
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return ourClock(t.UTC(), ans), true
	}
	if t, err := http.ParseTime(s); err == nil {
		return ourClock(t.UTC(), ans), true
	}
	return time.Time{}, false
}

// ourClock moves a time of the vendor's clock to ours.
func ourClock(t time.Time, ans *Answer) time.Time {
	date, err := http.ParseTime(ans.Header.Get("Date"))
	if err != nil {
		return t
	}
	if skew := ans.At.Sub(date); skew > skewMin || skew < -skewMin {
		return t.Add(skew)
	}
	return t
}
