package main

import (
	"fmt"
	"strings"
	"time"
)

// A progress draws one line on a terminal, at most five times a second, and wipes it at the end. On anything
// else it does nothing. Not safe for concurrent use.
type progress struct {
	a     *app
	what  string
	start time.Time
	drawn time.Time
	any   bool
}

func (a *app) progress(what string) *progress {
	now := a.Now()
	return &progress{a: a, what: what, start: now, drawn: now}
}

const (
	drawEvery = 200 * time.Millisecond
	barCells  = 24
)

// update draws done of total (in any unit, total 0 = unknown) and the number of records so far.
func (p *progress) update(done, total, records int64) {
	now := p.a.Now()
	if !p.a.IsTerminal || now.Sub(p.drawn) < drawEvery {
		return
	}
	p.drawn, p.any = now, true
	bar := ""
	if total > 0 {
		share := min(float64(done)/float64(total), 1)
		full := int(share * barCells)
		bar = fmt.Sprintf("[%s%s] %3.0f %%  ", strings.Repeat("#", full), strings.Repeat(".", barCells-full), share*100)
	}
	rate := float64(records) / max(now.Sub(p.start).Seconds(), 0.001)
	p.a.stderrMu.Lock()
	defer p.a.stderrMu.Unlock()
	fmt.Fprintf(p.a.Stderr, "\r\x1b[K%s  %s%s records  %s/s", p.what, bar, thousands(records), thousands(int64(rate)))
}

// end wipes the line.
func (p *progress) end() {
	if p.any {
		p.a.stderrMu.Lock()
		defer p.a.stderrMu.Unlock()
		fmt.Fprint(p.a.Stderr, "\r\x1b[K")
	}
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	s := fmt.Sprint(n)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		return "-" + s
	}
	return s
}
