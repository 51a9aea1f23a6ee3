package profile

import (
	"errors"
	"fmt"
	"strings"
)

// An Error is one thing that is wrong with a profile file, for the person who writes it. Its text holds nothing
// but what stands in the file.
type Error struct {
	File   string
	Line   int // 1-based, 0 if the whole file is meant
	Column int // 1-based, in characters
	Path   string
	Why    string
	Hint   string // what to do, "" if there is nothing to add
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Why)
	if e.Hint != "" {
		b.WriteString("; " + e.Hint)
	}
	return b.String()
}

// Errors is all that was found wrong with a profile in one pass, in file order, at most [ErrorsMax].
type Errors []*Error

// ErrorsMax bounds how many errors one pass reports: more than a screen of them helps nobody.
const ErrorsMax = 20

func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes each error visible to [errors.As].
func (es Errors) Unwrap() []error {
	out := make([]error, len(es))
	for i, e := range es {
		out[i] = e
	}
	return out
}

// ErrNoSecret is what the secret function given to [Compiled.Authorize] answers for a name that is not configured.
// For an optional secret the request then goes out without it.
var ErrNoSecret = errors.New("no such secret")

// nearest returns the known word that word was probably meant to be, "" if none is close. Close is an edit
// distance of at most a third of the word, so that "emial" finds email and "x" finds nothing.
func nearest(word string, known []string) string {
	best, bestAt := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if d := distance(word, k, bestAt); d < bestAt {
			best, bestAt = k, d
		}
	}
	return best
}

// distance is the Levenshtein distance of a and b with transpositions of neighbours counted as one, or limit if
// it is at least that.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit {
		return limit
	}
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], before[j-2]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return min(prev[len(b)], limit)
}

// meant is the hint for an unknown word: the nearest known one, else the list of them all.
func meant(word string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	if n := nearest(word, known); n != "" {
		return fmt.Sprintf("did you mean %s?", n)
	}
	return "known here: " + strings.Join(known, ", ")
}
