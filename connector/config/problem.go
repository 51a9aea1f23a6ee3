package config

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
)

// A Problem is one thing wrong with a config. Its text never repeats a secret.
type Problem struct {
	File         string // "" if the config did not come from a file
	Line, Column int    // from 1; 0 if the file has no such place
	Path         string // YAML path, such as connectors.pushcash.start; "" for the file as a whole
	What         string // what is wrong
	Hint         string // what to do; may be ""
}

// String is file:line:column: path: what (hint).
func (p Problem) String() string {
	var b strings.Builder
	if p.File != "" {
		b.WriteString(p.File)
		if p.Line > 0 {
			fmt.Fprintf(&b, ":%d:%d", p.Line, p.Column)
		}
		b.WriteString(": ")
	}
	if p.Path != "" {
		b.WriteString(p.Path + ": ")
	}
	b.WriteString(p.What)
	if p.Hint != "" {
		b.WriteString(" (" + p.Hint + ")")
	}
	return b.String()
}

// An Error is everything wrong with a config: Problems, or Err if the file cannot be read.
type Error struct {
	File     string
	Problems []Problem
	Err      error
}

// Error lists the problems, one a line.
func (e *Error) Error() string {
	name := "config"
	if e.File != "" {
		name += " " + e.File
	}
	switch {
	case e.Err != nil:
		why := e.Err
		if pe, ok := errors.AsType[*fs.PathError](why); ok {
			why = pe.Err // the path is said already
		}
		switch {
		case errors.Is(why, syscall.EISDIR):
			return name + ": is a folder; give the file in it"
		case errors.Is(why, errTooLarge):
			return name + ": " + why.Error() + "; is it the config?"
		}
		return name + ": " + why.Error()
	case len(e.Problems) == 1:
		return "config " + e.Problems[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d problems", name, len(e.Problems))
	for _, p := range e.Problems {
		b.WriteString("\n  " + p.String())
	}
	return b.String()
}

// Unwrap is the reason why the file cannot be read, if that is what is wrong.
func (e *Error) Unwrap() error { return e.Err }

// quote shows a value that is no secret, bounded.
func quote(s string) string {
	const shownMax = 60
	if len(s) > shownMax {
		s = strings.ToValidUTF8(s[:shownMax], "") + "…"
	}
	return strconv.Quote(s)
}

// join builds a YAML path; a key with a dot in it is quoted.
func join(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		if p == "" {
			continue
		}
		if strings.ContainsAny(p, " []\"'") {
			p = strconv.Quote(p)
		}
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		b.WriteString(p)
	}
	return b.String()
}

func element(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Nearest is the one of the words that is most like s, "" if none is near: at most a third of its letters and
// at most 3 differ.
func Nearest(s string, words []string) string {
	best, bestD := "", min(3, max(1, len(s)/3))+1
	for _, w := range words {
		if d := distance(s, w); d < bestD {
			best, bestD = w, d
		}
	}
	return best
}

// distance is the number of single-byte edits, swaps of neighbours included, from a to b; a is cut at 64 bytes.
func distance(a, b string) int {
	a = a[:min(len(a), 64)]
	prev2 := make([]int, len(b)+1)
	prev := make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur := make([]int, len(b)+1)
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev = prev, cur
	}
	return prev[len(b)]
}
