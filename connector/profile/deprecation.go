package profile

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Deprecation is what an answer's headers say of the end of its operation, "" for nothing: Deprecation (RFC 9745, and
// the "true" of its drafts), Sunset (RFC 8594) and Warning 299 (RFC 7234). Free text of the vendor is left out: it could
// hold anything.
func Deprecation(h http.Header) string {
	var said []string
	if v := first(h, "Deprecation"); v != "" {
		said = append(said, "deprecated"+day(" since ", v))
	}
	if v := first(h, "Sunset"); v != "" {
		said = append(said, "gone"+day(" from ", v))
	}
	for _, v := range h.Values("Warning") {
		if strings.HasPrefix(v, "299 ") {
			said = append(said, "warning 299")
			break
		}
	}
	return strings.Join(said, ", ")
}

// day reads a date of a header: @Unix seconds, or an HTTP date.
func day(before, v string) string {
	if n, err := strconv.ParseInt(strings.TrimPrefix(v, "@"), 10, 64); err == nil && strings.HasPrefix(v, "@") && n >= 0 && n <= unixMax {
		return before + time.Unix(n, 0).UTC().Format(time.DateOnly)
	}
	if t, err := http.ParseTime(v); err == nil {
		return before + t.UTC().Format(time.DateOnly)
	}
	return ""
}
