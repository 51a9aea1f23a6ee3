package kafka

import (
	"errors"
	"fmt"

	"github.com/weirsync/weir/checkpoint"
)

// StartPolicy is where a connector begins on a topic that it has never read.
type StartPolicy string

// The start policies. Anything else counts as earliest, which loses nothing.
const (
	StartEarliest StartPolicy = "earliest"
	StartLatest   StartPolicy = "latest"
	StartTime     StartPolicy = "time"
)

// StartInput is all that decides where one partition starts: what Kafka says, what the store says, what the
// operator says.
type StartInput struct {
	// Kafka's side: the Assignment.
	Committed Committed
	LogStart  int64 // earliest offset
	End       int64 // last stable offset

	// The store's side: the Recovery of the partition under its present topic id.
	StoreID   string
	Mark      int64 // the cursor's low-water mark, -1 if there is none
	LostBelow int64 // the cursor's, 0 if nothing was lost
	Fresh     bool  // the store has never seen a partition of this topic for the connector
	// OtherID is not zero if the store knows the partition under another topic id.
	OtherID checkpoint.TopicID

	// The operator's side.
	Policy StartPolicy
	// TimeOffset is, for StartTime, the first offset at or after that time (Consumer.OffsetsAt).
	TimeOffset  int64
	StoreLost   bool // --store-lost: go on although the store lost what it knew
	AcceptGap   bool // go on although records are gone, or the log was cut
	AcceptTopic bool // read the topic that was created anew
}

// StartCase names the row of design section 3's table that applied. Closed set.
type StartCase string

// The rows.
const (
	CasePolicy   StartCase = "policy"    // nothing known: the start policy
	CaseAdded    StartCase = "added"     // a partition added later: earliest
	CaseMark     StartCase = "mark"      // the store's mark
	CaseGroup    StartCase = "group"     // the group's offset, the store knows nothing and never did
	CaseReplay   StartCase = "replay"    // the group is behind the mark: replay, the ledger suppresses what is done
	CaseRewind   StartCase = "rewind"    // the store lost data: back to its mark
	CaseReset    StartCase = "reset"     // an operator moved the group's offset ahead: follow
	CaseLost     StartCase = "lost"      // the store was lost, and an operator said so
	CaseNewTopic StartCase = "new_topic" // the topic was created anew, and an operator accepted it
)

// HoldReason says why a partition is not started. Closed set: it is the state that `weir status` shows.
type HoldReason string

// The reasons. HoldTopic needs accept-topic, HoldStoreLost store-lost, the others accept-gap.
const (
	HoldNone      HoldReason = ""
	HoldTopic     HoldReason = "topic_changed"
	HoldStoreLost HoldReason = "store_lost"
	HoldGap       HoldReason = "below_log_start"
	HoldPastEnd   HoldReason = "past_end"
)

// A SkipRange is offsets [From, To) that are jumped over on an operator's word. They get one range outcome,
// skipped (checkpoint.Store.Skip).
type SkipRange struct {
	From, To int64
	Reason   string
}

// A Decision is where a partition starts and what must be durable before its first fetch, in this order: Rewind,
// Skip, Commit.
type Decision struct {
	Case StartCase
	Hold HoldReason // not HoldNone: do not start, write nothing, show the state and Text
	// Offset is the first one to fetch. Never above Mark: what lies between has outcomes or is jumped over.
	Offset int64
	// Mark is the store's mark to start with.
	Mark int64
	// LostBelow: below it a missing outcome proves nothing (design section 5, suspects).
	LostBelow int64
	// Rewind: Mark or LostBelow differ from the store's in a way that only checkpoint.Store.Rewind can write. The
	// send horizon must not be left below Mark.
	Rewind bool
	// Skip, if not nil, is to be recorded; its To is Mark.
	Skip *SkipRange
	// Commit: commit Mark to the group now. Else the next start would take the group's offset, which is ahead of the
	// mark, for another loss.
	Commit bool
	// Alert: data was lost or may be; page someone.
	Alert bool
	// Text is for the operator: what was found and what to do. No personal data.
	Text string
}

// Decide applies the table of design section 3. It is pure.
//
// Promise 1, as the property that its tests check: it never starts above a record that has neither an outcome
// (offset below the mark) nor a Skip nor an operator's word (start policy, a group offset written by somebody else,
// one of the three flags).
//
// Where the table is silent: metadata with our prefix counts as ours even if it names another store or is broken,
// since taking it for an operator's reset would jump over records. A mark or group offset beyond the end of the log
// holds the partition like one below its start (HoldPastEnd): the log was cut, and new records would fall below the
// mark. A start below the log's is no gap if the mark is not below it: everything missing has its outcome.
func Decide(in StartInput) Decision {
	d := Decision{Mark: in.Mark, LostBelow: in.LostBelow}
	known := in.Mark >= 0
	group := in.Committed.OK && in.Committed.Offset >= 0
	storeID, _, err := ParseMetadata(in.Committed.Metadata)
	ours := group && !errors.Is(err, ErrForeign)
	offset := in.Committed.Offset

	// A mark under the present id means that the new topic was accepted before.
	if in.OtherID != (checkpoint.TopicID{}) && !known {
		if !in.AcceptTopic {
			return d.hold(HoldTopic, true, "the topic was deleted and created again, the store knows it as %v: accept the new topic to read it from its earliest offset", in.OtherID)
		}
		return d.begin(CaseNewTopic, in.LogStart, "the new topic was accepted: from its earliest offset %d", in.LogStart)
	}

	switch {
	case !known && !group && !in.Fresh:
		return d.begin(CaseAdded, in.LogStart, "a partition added later: from its earliest offset %d", in.LogStart)
	case !known && !group:
		from := in.LogStart
		switch in.Policy {
		case StartLatest:
			from = max(in.End, in.LogStart)
		case StartTime:
			from = max(min(in.TimeOffset, in.End), in.LogStart)
		}
		return d.begin(CasePolicy, from, "nothing is known of the partition: start %s, offset %d", in.Policy, from)
	case !known && !ours:
		d.Case, d.Offset, d.Mark, d.Rewind = CaseGroup, offset, offset, true
		d.text("the store knows nothing of the partition: from the group's offset %d", offset)
	case !known:
		if !in.StoreLost {
			return d.hold(HoldStoreLost, true, "the group committed offset %d with store %s, and this store (%s) knows nothing of the partition: bring the store back, or say --store-lost; then everything below %d may have been sent", offset, name(storeID), in.StoreID, in.End)
		}
		d.Case, d.Offset, d.Mark, d.Rewind, d.Alert = CaseLost, offset, offset, true, true
		d.LostBelow = max(in.LostBelow, in.End)
		d.text("the store was lost: from the group's offset %d, everything below %d may have been sent", offset, in.End)
	case !group:
		d.Case, d.Offset = CaseMark, in.Mark
		d.text("the group has no offset: from the store's mark %d", in.Mark)
	case offset == in.Mark:
		d.Case, d.Offset = CaseMark, in.Mark
		d.text("from the mark %d", in.Mark)
	case offset < in.Mark:
		d.Case, d.Offset = CaseReplay, offset
		d.text("the group's offset %d is behind the mark %d: replay, the ledger suppresses what is done", offset, in.Mark)
	case ours:
		d.Case, d.Offset, d.Rewind, d.Commit, d.Alert = CaseRewind, in.Mark, true, true, true
		d.LostBelow = max(in.LostBelow, in.End)
		d.text("the group's offset %d, committed with store %s, is ahead of the mark %d of store %s: the store lost data; back to the mark, everything below %d may have been sent", offset, name(storeID), in.Mark, in.StoreID, in.End)
	default:
		d.Case, d.Offset, d.Mark = CaseReset, offset, offset
		d.Skip = &SkipRange{From: in.Mark, To: offset, Reason: "the group's offset was moved ahead"}
		d.text("the group's offset was moved ahead from the mark %d to %d: %d offsets are skipped", in.Mark, offset, offset-in.Mark)
	}
	return d.fit(in)
}

// fit brings a decision that came from the mark or the group's offset into the log's range.
func (d Decision) fit(in StartInput) Decision {
	switch {
	case d.Mark > in.End:
		if !in.AcceptGap {
			return d.hold(HoldPastEnd, true, "offset %d is beyond the end of the log (%d to %d): the log was cut or the topic restored; accept the gap to go on from its end", d.Mark, in.LogStart, in.End)
		}
		d.Mark, d.Offset = in.End, min(d.Offset, in.End)
		d.LostBelow = min(d.LostBelow, in.End) // what will be written there was never sent
		d.Rewind, d.Commit, d.Alert = true, true, true
		if d.Skip != nil {
			if d.Skip.To = in.End; d.Skip.From >= in.End {
				d.Skip = nil
			}
		}
		d.text("the log was cut, the gap accepted: from its end %d", in.End)
	case d.Mark < in.LogStart:
		if !in.AcceptGap {
			return d.hold(HoldGap, true, "offset %d is below the start of the log (%d to %d): retention deleted %d offsets before they were read; accept the gap to go on", d.Mark, in.LogStart, in.End, in.LogStart-d.Mark)
		}
		if d.Skip == nil {
			d.Skip = &SkipRange{From: d.Mark, Reason: "deleted by retention before it was read, gap accepted"}
		}
		d.Skip.To = in.LogStart
		d.Mark, d.Offset, d.Alert = in.LogStart, in.LogStart, true
		d.text("the gap up to %d was accepted: from there", in.LogStart)
	}
	d.Offset = max(d.Offset, in.LogStart)
	return d
}

// begin starts a partition without history at from.
func (d Decision) begin(c StartCase, from int64, format string, args ...any) Decision {
	d.Case, d.Offset, d.Mark, d.Rewind = c, from, from, true
	d.text(format, args...)
	return d
}

// hold drops everything that the decision would have written.
func (d Decision) hold(r HoldReason, alert bool, format string, args ...any) Decision {
	h := Decision{Case: d.Case, Hold: r, Alert: alert, Offset: d.Offset, Mark: d.Mark, LostBelow: d.LostBelow}
	h.text(format, args...)
	return h
}

func (d *Decision) text(format string, args ...any) { d.Text = fmt.Sprintf(format, args...) }

func name(storeID string) string {
	if storeID == "" {
		return "(unreadable)"
	}
	return storeID
}
