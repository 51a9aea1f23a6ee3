package verify

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/weirsync/weir/checkpoint"
)

// A Finding is one place where topics, ledger and vendor disagree.
type Finding struct {
	Promise int    `json:"promise"` // number of the broken promise, design section 2
	Kind    string `json:"kind"`    // stable snake_case word
	// Topic, Partition and Offset name the record; Topic is "" where only the vendor knows of the effect.
	Topic     string `json:"topic,omitempty"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	EventID   string `json:"event_id,omitempty"`
	Key       string `json:"key,omitempty"`
	Seq       int64  `json:"seq,omitempty"` // line of the effects log, 0 if none is concerned
	Detail    string `json:"detail"`
}

// Effects counts the lines of the vendor's log.
type Effects struct {
	Applied  int `json:"applied"`
	Replayed int `json:"replayed"` // recognised repeats: harmless
	Rejected int `json:"rejected"`
	Reads    int `json:"reads"`
	// Repeated effects were applied again and harmless: the same state over itself, or accepted by an operator.
	Repeated int `json:"repeated"`
	// Aggregate effects stand for many records and are not matched.
	Aggregate int `json:"aggregate"`
	// Vendor counts what the vendor did of its own accord.
	Vendor int `json:"vendor"`
	// Unresolved effects may be those of pending records.
	Unresolved int `json:"unresolved"`
}

// A Report is the verdict. Its first fields have the names of the demo's summary (design section 17); outcomes are
// counted per record and route.
type Report struct {
	Events       int `json:"events"` // records in the topics, without transaction markers
	Delivered    int `json:"delivered"`
	Accepted     int `json:"accepted"`
	Unchanged    int `json:"unchanged"`
	Superseded   int `json:"superseded"`
	Folded       int `json:"folded"`
	Ignored      int `json:"ignored"`
	Parked       int `json:"parked"`
	DeadLettered int `json:"dead_lettered"`
	Skipped      int `json:"skipped"`
	// Pending records have no outcome yet and need none yet.
	Pending int `json:"pending"`
	// Uncommitted records lie at or above the committed offset: a restart reads them again.
	Uncommitted int `json:"uncommitted"`
	// Lost counts what was to happen or to be kept and is not: records without an outcome, delivered ones without
	// their effect, parked and dead-lettered ones without their bytes, superseded and unchanged ones that nothing
	// stands for.
	Lost int `json:"lost"`
	// Duplicated counts applied effects beyond the intended ones.
	Duplicated int `json:"duplicated"`
	// Reordered counts applied effects that followed those of a newer record, or a later step.
	Reordered int     `json:"reordered"`
	Effects   Effects `json:"effects"`
	// Reasons says why records were parked, dead-lettered or ignored, the most frequent first.
	Reasons []Reason `json:"reasons"`
	// Kinds counts all findings by kind; Findings keeps the first of them, Omitted counts the rest.
	Kinds    map[string]int `json:"kinds"`
	Findings []Finding      `json:"findings"`
	Omitted  int            `json:"omitted"`

	max     int
	reasons map[Reason]int // counts, with Count 0 in the key
}

// A Reason counts the outcomes of one kind that have one cause and reason.
type Reason struct {
	Outcome checkpoint.Outcome `json:"outcome"`
	Cause   checkpoint.Cause   `json:"cause,omitempty"`
	Reason  string             `json:"reason,omitempty"` // the rule's id, where a rule refused it
	Count   int                `json:"count"`
}

// reasonsMax bounds the reasons that are told apart; the others of a cause are counted under reason "other".
const reasonsMax = 200

// A Summary is the last line of `weir demo --json` (design section 17). Seconds and Seed are the caller's.
type Summary struct {
	Events       int     `json:"events"`
	Delivered    int     `json:"delivered"`
	Accepted     int     `json:"accepted"`
	Unchanged    int     `json:"unchanged"`
	Superseded   int     `json:"superseded"`
	Folded       int     `json:"folded"`
	Ignored      int     `json:"ignored"`
	Parked       int     `json:"parked"`
	DeadLettered int     `json:"dead_lettered"`
	Lost         int     `json:"lost"`
	Duplicated   int     `json:"duplicated"`
	Reordered    int     `json:"reordered"`
	Seconds      float64 `json:"seconds"`
	Seed         uint64  `json:"seed"`
}

// Summary is the report as the demo prints it.
func (r *Report) Summary(seconds float64, seed uint64) Summary {
	return Summary{Events: r.Events, Delivered: r.Delivered, Accepted: r.Accepted, Unchanged: r.Unchanged, Superseded: r.Superseded,
		Folded: r.Folded, Ignored: r.Ignored, Parked: r.Parked, DeadLettered: r.DeadLettered, Lost: r.Lost, Duplicated: r.Duplicated,
		Reordered: r.Reordered, Seconds: seconds, Seed: seed}
}

// Clean reports whether there is no finding at all.
func (r *Report) Clean() bool {
	return len(r.Findings) == 0 && r.Omitted == 0 && r.Lost == 0 && r.Duplicated == 0 && r.Reordered == 0
}

func newReport(o *Options) *Report {
	return &Report{Kinds: map[string]int{}, Findings: []Finding{}, Reasons: []Reason{}, max: o.FindingsMax, reasons: map[Reason]int{}}
}

// sortReasons makes Reasons of what was counted.
func (r *Report) sortReasons() {
	for k, n := range r.reasons {
		k.Count = n
		r.Reasons = append(r.Reasons, k)
	}
	slices.SortFunc(r.Reasons, func(a, b Reason) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Outcome, b.Outcome), cmp.Compare(a.Cause, b.Cause), cmp.Compare(a.Reason, b.Reason))
	})
}

func (r *Report) add(f Finding) {
	r.Kinds[f.Kind]++
	if len(r.Findings) >= r.max {
		r.Omitted++
		return
	}
	r.Findings = append(r.Findings, f)
}

// find adds a finding about a record.
func (r *Report) find(k *record, f Finding) {
	f.Topic, f.Partition, f.Offset, f.EventID, f.Key = k.part.Topic, k.part.Index, k.offset, k.eventID, k.key
	r.add(f)
}

func (r *Report) lose(k *record, f Finding)          { r.Lost++; r.find(k, f) }
func (r *Report) double(k *record, n int, f Finding) { r.Duplicated += n; r.find(k, f) }
func (r *Report) reorder(k *record, f Finding)       { r.Reordered++; r.find(k, f) }

func (r *Report) count(w *row) {
	switch w.outcome {
	case checkpoint.Delivered:
		r.Delivered++
	case checkpoint.Accepted:
		r.Accepted++
	case checkpoint.Unchanged:
		r.Unchanged++
	case checkpoint.Superseded:
		r.Superseded++
	case checkpoint.Folded:
		r.Folded++
	case checkpoint.Ignored:
		r.Ignored++
	case checkpoint.ParkedOut:
		r.Parked++
	case checkpoint.DeadLettered:
		r.DeadLettered++
	case checkpoint.Skipped:
		r.Skipped++
	}
	switch w.outcome {
	case checkpoint.ParkedOut, checkpoint.DeadLettered, checkpoint.Ignored:
		k := Reason{Outcome: w.outcome, Cause: w.cause, Reason: cmp.Or(w.rule, w.reason)}
		if _, known := r.reasons[k]; !known && len(r.reasons) >= reasonsMax {
			k.Reason = "other"
		}
		r.reasons[k]++
	}
}

// textFindingsMax bounds the findings that WriteText shows: a screenful; the JSON has all that were kept.
const textFindingsMax = 25

// WriteText prints the report for people: what was counted, what is wrong, and what to run next.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, n int) { fmt.Fprintf(tw, "%s\t%d\t\n", name, n) }
	line("events", r.Events)
	for _, c := range []struct {
		name string
		n    int
	}{{"delivered", r.Delivered}, {"accepted", r.Accepted}, {"unchanged", r.Unchanged}, {"superseded", r.Superseded}, {"folded", r.Folded},
		{"ignored", r.Ignored}, {"parked", r.Parked}, {"dead_lettered", r.DeadLettered}, {"skipped", r.Skipped}, {"pending", r.Pending},
		{"uncommitted", r.Uncommitted}, {"effects applied", r.Effects.Applied}, {"replayed", r.Effects.Replayed}, {"repeated", r.Effects.Repeated},
		{"rejected", r.Effects.Rejected}, {"unresolved", r.Effects.Unresolved}} {
		if c.n > 0 {
			line(c.name, c.n)
		}
	}
	line("lost", r.Lost)
	line("duplicated", r.Duplicated)
	line("reordered", r.Reordered)
	if err := tw.Flush(); err != nil {
		return err
	}
	if r.Clean() {
		_, err := fmt.Fprintln(w, "\nClean: topics, ledger and the vendor's effects agree; nothing lost, doubled or out of order.")
		return err
	}
	return r.WriteFindings(w)
}

// WriteFindings prints what is wrong and what to run next, as WriteText does.
func (r *Report) WriteFindings(w io.Writer) error {
	kinds := slices.SortedFunc(maps.Keys(r.Kinds), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Kinds[b], r.Kinds[a]), cmp.Compare(a, b))
	})
	var b strings.Builder
	b.WriteString("\nNot clean:")
	for i, k := range kinds {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " %d %s", r.Kinds[k], k)
	}
	b.WriteString("\n\n")
	tw := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "PROMISE\tKIND\tRECORD\tKEY\tEVENT\tDETAIL")
	shown := r.Findings[:min(len(r.Findings), textFindingsMax)]
	for _, f := range shown {
		at := "-"
		if f.Topic != "" {
			at = fmt.Sprintf("%s/%d/%d", f.Topic, f.Partition, f.Offset)
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%s\t%s\n", f.Promise, printable(f.Kind), printable(at), printable(cmp.Or(f.Key, "-")), printable(cmp.Or(f.EventID, "-")), printable(f.Detail))
	}
	tw.Flush() // into b: cannot go wrong
	if more := len(r.Findings) + r.Omitted - len(shown); more > 0 {
		fmt.Fprintf(&b, "... and %d more (--json has the first %d)\n", more, len(r.Findings))
	}
	if next := r.next(); len(next) > 0 {
		b.WriteString("\nNext:\n")
		for _, id := range next {
			fmt.Fprintf(&b, "  weir trace %s\n", id)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// next names the records to look at first, at most five, one per kind of finding before a second of any.
func (r *Report) next() []string {
	var out []string
	seen := map[string]bool{}
	take := func(again bool) {
		kinds := map[string]bool{}
		for _, f := range r.Findings {
			id := f.EventID
			if id == "" && f.Topic != "" {
				id = fmt.Sprintf("%s/%d/%d", f.Topic, f.Partition, f.Offset)
			}
			if id == "" || seen[id] || (kinds[f.Kind] && !again) || len(out) == 5 {
				continue
			}
			seen[id], kinds[f.Kind] = true, true
			out = append(out, argument(id))
		}
	}
	take(false)
	take(true)
	return out
}

// printable quotes what would disturb a terminal or the table: ids come from outside.
func printable(s string) string {
	const cells = 200
	if r := []rune(s); len(r) > cells {
		s = string(r[:cells]) + "..."
	}
	for _, c := range s {
		if !strconv.IsPrint(c) {
			return strconv.Quote(s)
		}
	}
	return s
}

// argument is s as one word for a shell.
func argument(s string) string {
	plain := func(c rune) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-/:", c)
	}
	if s != "" && !strings.HasPrefix(s, "-") && strings.IndexFunc(s, func(c rune) bool { return !plain(c) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(printable(s), "'", `'\''`) + "'"
}
