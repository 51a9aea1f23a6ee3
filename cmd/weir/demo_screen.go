package main

import (
	"fmt"
	"strings"
	"time"
)

// A demoScreen shows a demo: on a terminal a block of lines that is drawn again and again, with news above it; on
// anything else the news and a line every few seconds. Not safe for concurrent use.
type demoScreen struct {
	a       *app
	start   time.Time
	drawn   time.Time
	block   int // lines of the block on the terminal
	colours bool
	view    *demoView // last drawn, nil before
}

const (
	demoDrawEvery = 400 * time.Millisecond
	demoLineEvery = 5 * time.Second
	// demoWidth keeps each line within a terminal of 80 columns: one that wraps would spoil the block.
	demoWidth = 79
)

// Colours of news. They mean nothing that the words do not say.
const (
	colourBad  = "31"
	colourGood = "32"
	colourNone = ""
)

func (a *app) demoScreen() *demoScreen {
	return &demoScreen{a: a, start: a.Now(), colours: a.IsTerminal && a.Getenv("NO_COLOR") == ""}
}

// news prints what has just happened, in at most two lines.
func (s *demoScreen) news(colour, format string, args ...any) {
	at := s.a.Now().Sub(s.start).Seconds()
	var b strings.Builder
	s.wipe(&b)
	for i, line := range strings.Split(fmt.Sprintf(format, args...), "\n") {
		head := fmt.Sprintf("%6.1fs  ", at)
		if i > 0 {
			head = strings.Repeat(" ", len(head))
		}
		if s.colours && colour != colourNone {
			line = "\x1b[" + colour + "m" + line + "\x1b[0m"
		}
		b.WriteString(head + line + "\n")
	}
	if s.view != nil && s.a.IsTerminal {
		s.addBlock(&b, *s.view)
	}
	s.write(b.String())
}

// wipe takes the block off the screen.
func (s *demoScreen) wipe(b *strings.Builder) {
	if s.block > 0 {
		fmt.Fprintf(b, "\r\x1b[%dA\x1b[J", s.block)
		s.block = 0
	}
}

// end takes the block away; news still come.
func (s *demoScreen) end() {
	s.view = nil
	var b strings.Builder
	s.wipe(&b)
	s.write(b.String())
}

func (s *demoScreen) write(text string) {
	s.a.stderrMu.Lock()
	defer s.a.stderrMu.Unlock()
	fmt.Fprint(s.a.Stderr, text)
}

// A demoView is what there is to show.
type demoView struct {
	span       time.Duration // of publishing
	events     int
	published  int64
	rate       float64 // published a second, over the last seconds
	connectors []demoConnector
	process    string // what the connector process does
}

// A demoConnector is one connector at a glance.
type demoConnector struct {
	name    string
	state   string // of design section 17; "down" while there is no process
	applied int64  // effects at the vendor
	parked  int64
	behind  int64 // records that are published and have no outcome yet
}

// draw shows the view, if it is time; the screen keeps it, to show it again below news.
func (s *demoScreen) draw(v *demoView) {
	now := s.a.Now()
	every := demoLineEvery
	if s.a.IsTerminal {
		every = demoDrawEvery
	}
	if now.Sub(s.drawn) < every {
		return
	}
	s.drawn = now
	if !s.a.IsTerminal {
		s.write(v.line(now.Sub(s.start)))
		return
	}
	var b strings.Builder
	s.wipe(&b)
	s.addBlock(&b, *v)
	s.view = v
	s.write(b.String())
}

func (s *demoScreen) addBlock(b *strings.Builder, v demoView) {
	lines := v.lines(s.a.Now().Sub(s.start))
	for _, l := range lines {
		b.WriteString(fit(l) + "\n")
	}
	s.block = len(lines)
}

// fit cuts a line to the width.
func fit(s string) string {
	if r := []rune(s); len(r) > demoWidth {
		return string(r[:demoWidth-3]) + "..."
	}
	return s
}

// lines is the block of a terminal.
func (v demoView) lines(at time.Duration) []string {
	share := min(float64(v.published)/float64(max(v.events, 1)), 1)
	full := int(share * barCells)
	doing := fmt.Sprintf("publishing, %s/s", thousands(int64(v.rate+0.5)))
	if v.published >= int64(v.events) {
		doing = "delivering the rest"
	}
	lines := []string{
		"",
		fmt.Sprintf("  [%s%s] %s of %s events, %.0f s: %s", strings.Repeat("#", full), strings.Repeat(".", barCells-full), thousands(v.published), thousands(int64(v.events)), at.Seconds(), doing),
		"",
		"  vendor      connector     waiting    effects     parked",
	}
	for _, c := range v.connectors {
		lines = append(lines, fmt.Sprintf("  %-10s  %-10s %10s %10s %10s", c.name, c.state, thousands(c.behind), thousands(c.applied), thousands(c.parked)))
	}
	return append(lines, "  "+v.process)
}

// line is what a log shows.
func (v demoView) line(at time.Duration) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%6.1fs  %s of %s events published", at.Seconds(), thousands(v.published), thousands(int64(v.events)))
	for _, c := range v.connectors {
		fmt.Fprintf(&b, "; %s %s, %s waiting, %s effects, %s parked", c.name, c.state, thousands(c.behind), thousands(c.applied), thousands(c.parked))
	}
	return b.String() + "\n"
}
