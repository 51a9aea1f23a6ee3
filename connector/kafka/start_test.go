package kafka

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/checkpoint"
)

var otherTopic = checkpoint.TopicID{1}

// Every row of the table of design section 3, with the combinations that change it. The log is 100 to 1000 unless
// the row says otherwise.
func TestDecideTable(t *testing.T) {
	t.Parallel()
	ours := func(off int64) Committed {
		return Committed{OK: true, Offset: off, Metadata: EncodeMetadata("store", off)}
	}
	otherStore := func(off int64) Committed {
		return Committed{OK: true, Offset: off, Metadata: EncodeMetadata("another", off)}
	}
	foreign := func(off int64) Committed { return Committed{OK: true, Offset: off, Metadata: "burrow"} }
	empty := func(off int64) Committed { return Committed{OK: true, Offset: off} }
	none := Committed{}
	type in = StartInput
	for _, c := range []struct {
		name string
		in   in
		want Decision
	}{
		// none, none: the start policy, once per topic
		{"fresh earliest", in{Committed: none, Mark: -1, Fresh: true, Policy: StartEarliest}, Decision{Case: CasePolicy, Offset: 100, Mark: 100, Rewind: true}},
		{"fresh latest", in{Mark: -1, Fresh: true, Policy: StartLatest}, Decision{Case: CasePolicy, Offset: 1000, Mark: 1000, Rewind: true}},
		{"fresh time", in{Mark: -1, Fresh: true, Policy: StartTime, TimeOffset: 400}, Decision{Case: CasePolicy, Offset: 400, Mark: 400, Rewind: true}},
		{"fresh time before the log", in{Mark: -1, Fresh: true, Policy: StartTime, TimeOffset: 4}, Decision{Case: CasePolicy, Offset: 100, Mark: 100, Rewind: true}},
		{"fresh time after the log", in{Mark: -1, Fresh: true, Policy: StartTime, TimeOffset: 4000}, Decision{Case: CasePolicy, Offset: 1000, Mark: 1000, Rewind: true}},
		{"fresh without policy", in{Mark: -1, Fresh: true}, Decision{Case: CasePolicy, Offset: 100, Mark: 100, Rewind: true}},
		{"added later, latest", in{Mark: -1, Policy: StartLatest}, Decision{Case: CaseAdded, Offset: 100, Mark: 100, Rewind: true}},
		// none or expired, mark there
		{"expired", in{Mark: 500, Policy: StartLatest}, Decision{Case: CaseMark, Offset: 500, Mark: 500}},
		{"expired, suspects kept", in{Mark: 500, LostBelow: 700}, Decision{Case: CaseMark, Offset: 500, Mark: 500, LostBelow: 700}},
		// foreign or empty, no mark
		{"foreign, no mark", in{Committed: foreign(300), Mark: -1, Fresh: true, Policy: StartLatest}, Decision{Case: CaseGroup, Offset: 300, Mark: 300, Rewind: true}},
		{"empty, no mark, not fresh", in{Committed: empty(300), Mark: -1}, Decision{Case: CaseGroup, Offset: 300, Mark: 300, Rewind: true}},
		// ours, no mark: the store was lost
		{"store lost", in{Committed: ours(300), Mark: -1, Fresh: true}, Decision{Hold: HoldStoreLost, Mark: -1, Alert: true}},
		{"store lost, other store", in{Committed: otherStore(300), Mark: -1, Fresh: true}, Decision{Hold: HoldStoreLost, Mark: -1, Alert: true}},
		{"store lost, broken metadata", in{Committed: Committed{OK: true, Offset: 300, Metadata: "weir1:x"}, Mark: -1}, Decision{Hold: HoldStoreLost, Mark: -1, Alert: true}},
		{"store lost, wrong flags", in{Committed: ours(300), Mark: -1, AcceptGap: true, AcceptTopic: true}, Decision{Hold: HoldStoreLost, Mark: -1, Alert: true}},
		{"store lost, accepted", in{Committed: ours(300), Mark: -1, StoreLost: true}, Decision{Case: CaseLost, Offset: 300, Mark: 300, LostBelow: 1000, Rewind: true, Alert: true}},
		{"store lost, accepted, and a gap", in{Committed: ours(30), Mark: -1, StoreLost: true}, Decision{Case: CaseLost, Hold: HoldGap, Offset: 30, Mark: 30, LostBelow: 1000, Alert: true}},
		{"store lost, both accepted", in{Committed: ours(30), Mark: -1, StoreLost: true, AcceptGap: true}, Decision{Case: CaseLost, Offset: 100, Mark: 100, LostBelow: 1000, Rewind: true, Alert: true, Skip: &SkipRange{From: 30, To: 100}}},
		// at and behind the mark
		{"at the mark", in{Committed: ours(500), Mark: 500}, Decision{Case: CaseMark, Offset: 500, Mark: 500}},
		{"foreign at the mark", in{Committed: foreign(500), Mark: 500}, Decision{Case: CaseMark, Offset: 500, Mark: 500}},
		{"behind", in{Committed: ours(450), Mark: 500}, Decision{Case: CaseReplay, Offset: 450, Mark: 500}},
		{"behind, foreign", in{Committed: foreign(450), Mark: 500}, Decision{Case: CaseReplay, Offset: 450, Mark: 500}},
		{"behind, below the log, mark in it", in{Committed: foreign(50), Mark: 500}, Decision{Case: CaseReplay, Offset: 100, Mark: 500}},
		{"behind, mark at the log start", in{Committed: ours(50), Mark: 100}, Decision{Case: CaseReplay, Offset: 100, Mark: 100}},
		// ahead, ours: the store lost data
		{"ahead, ours", in{Committed: ours(600), Mark: 500}, Decision{Case: CaseRewind, Offset: 500, Mark: 500, LostBelow: 1000, Rewind: true, Commit: true, Alert: true}},
		{"ahead, other store", in{Committed: otherStore(600), Mark: 500}, Decision{Case: CaseRewind, Offset: 500, Mark: 500, LostBelow: 1000, Rewind: true, Commit: true, Alert: true}},
		{"ahead, broken metadata", in{Committed: Committed{OK: true, Offset: 600, Metadata: "weir1:"}, Mark: 500}, Decision{Case: CaseRewind, Offset: 500, Mark: 500, LostBelow: 1000, Rewind: true, Commit: true, Alert: true}},
		{"ahead, ours, lost before", in{Committed: ours(600), Mark: 500, LostBelow: 2000}, Decision{Case: CaseRewind, Offset: 500, Mark: 500, LostBelow: 2000, Rewind: true, Commit: true, Alert: true}},
		{"ahead, ours, mark below the log", in{Committed: ours(600), Mark: 50}, Decision{Case: CaseRewind, Hold: HoldGap, Offset: 50, Mark: 50, LostBelow: 1000, Alert: true}},
		{"ahead, ours, mark below the log, accepted", in{Committed: ours(600), Mark: 50, AcceptGap: true}, Decision{Case: CaseRewind, Offset: 100, Mark: 100, LostBelow: 1000, Rewind: true, Commit: true, Alert: true, Skip: &SkipRange{From: 50, To: 100}}},
		// ahead, foreign or empty: an operator's reset
		{"ahead, foreign", in{Committed: foreign(600), Mark: 500}, Decision{Case: CaseReset, Offset: 600, Mark: 600, Skip: &SkipRange{From: 500, To: 600}}},
		{"ahead, empty", in{Committed: empty(1000), Mark: 500}, Decision{Case: CaseReset, Offset: 1000, Mark: 1000, Skip: &SkipRange{From: 500, To: 1000}}},
		{"ahead, empty, below the log", in{Committed: empty(60), Mark: 50}, Decision{Case: CaseReset, Hold: HoldGap, Offset: 60, Mark: 60, Alert: true}},
		{"ahead, empty, below the log, accepted", in{Committed: empty(60), Mark: 50, AcceptGap: true}, Decision{Case: CaseReset, Offset: 100, Mark: 100, Alert: true, Skip: &SkipRange{From: 50, To: 100}}},
		// below the log start
		{"gap", in{Committed: ours(50), Mark: 50}, Decision{Case: CaseMark, Hold: HoldGap, Offset: 50, Mark: 50, Alert: true}},
		{"gap, expired group", in{Mark: 99}, Decision{Case: CaseMark, Hold: HoldGap, Offset: 99, Mark: 99, Alert: true}},
		{"gap, wrong flags", in{Mark: 99, AcceptTopic: true, StoreLost: true}, Decision{Case: CaseMark, Hold: HoldGap, Offset: 99, Mark: 99, Alert: true}},
		{"gap, accepted", in{Committed: ours(50), Mark: 50, AcceptGap: true}, Decision{Case: CaseMark, Offset: 100, Mark: 100, Alert: true, Skip: &SkipRange{From: 50, To: 100}}},
		{"gap, behind, accepted", in{Committed: ours(40), Mark: 50, AcceptGap: true}, Decision{Case: CaseReplay, Offset: 100, Mark: 100, Alert: true, Skip: &SkipRange{From: 50, To: 100}}},
		{"gap, no mark", in{Committed: foreign(50), Mark: -1}, Decision{Case: CaseGroup, Hold: HoldGap, Offset: 50, Mark: 50, Alert: true}},
		{"gap, no mark, accepted", in{Committed: foreign(50), Mark: -1, AcceptGap: true}, Decision{Case: CaseGroup, Offset: 100, Mark: 100, Rewind: true, Alert: true, Skip: &SkipRange{From: 50, To: 100}}},
		// beyond the end
		{"past end", in{Committed: ours(1200), Mark: 1200}, Decision{Case: CaseMark, Hold: HoldPastEnd, Offset: 1200, Mark: 1200, Alert: true}},
		{"past end, accepted", in{Committed: ours(1200), Mark: 1200, LostBelow: 1100, AcceptGap: true}, Decision{Case: CaseMark, Offset: 1000, Mark: 1000, LostBelow: 1000, Rewind: true, Commit: true, Alert: true}},
		{"past end, group behind, accepted", in{Committed: ours(900), Mark: 1200, AcceptGap: true}, Decision{Case: CaseReplay, Offset: 900, Mark: 1000, Rewind: true, Commit: true, Alert: true}},
		{"reset past end", in{Committed: empty(1200), Mark: 500}, Decision{Case: CaseReset, Hold: HoldPastEnd, Offset: 1200, Mark: 1200, Alert: true}},
		{"reset past end, accepted", in{Committed: empty(1200), Mark: 500, AcceptGap: true}, Decision{Case: CaseReset, Offset: 1000, Mark: 1000, Rewind: true, Commit: true, Alert: true, Skip: &SkipRange{From: 500, To: 1000}}},
		{"reset past end, mark past end, accepted", in{Committed: empty(1200), Mark: 1100, AcceptGap: true}, Decision{Case: CaseReset, Offset: 1000, Mark: 1000, Rewind: true, Commit: true, Alert: true}},
		// another topic under the name
		{"new topic", in{Mark: -1, Fresh: true, OtherID: otherTopic, Policy: StartLatest}, Decision{Hold: HoldTopic, Mark: -1, Alert: true}},
		{"new topic, group's old offset", in{Committed: ours(700), Mark: -1, OtherID: otherTopic, StoreLost: true, AcceptGap: true}, Decision{Hold: HoldTopic, Mark: -1, Alert: true}},
		{"new topic, accepted", in{Committed: ours(700), Mark: -1, OtherID: otherTopic, AcceptTopic: true, Policy: StartLatest}, Decision{Case: CaseNewTopic, Offset: 100, Mark: 100, Rewind: true}},
		{"new topic, accepted before", in{Committed: ours(700), Mark: 700, OtherID: otherTopic}, Decision{Case: CaseMark, Offset: 700, Mark: 700}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.in.StoreID, c.in.LogStart, c.in.End = "store", 100, 1000
			got := Decide(c.in)
			if got.Text == "" || got.Skip != nil && got.Skip.Reason == "" {
				t.Errorf("a decision without a text: %+v", got)
			}
			got.Text = ""
			g, w := fmt.Sprintf("%+v", flat(got)), fmt.Sprintf("%+v", flat(c.want))
			if g != w {
				t.Errorf("Decide(%+v):\n got %s\nwant %s", c.in, g, w)
			}
		})
	}
}

// flat makes a decision comparable: the skip's range by value.
func flat(d Decision) any {
	var skip string
	if d.Skip != nil {
		skip = fmt.Sprintf("%d-%d", d.Skip.From, d.Skip.To)
	}
	d.Skip = nil
	return struct {
		Decision
		Range string
	}{d, skip}
}

func TestDecideTextNamesWhatToDo(t *testing.T) {
	t.Parallel()
	d := Decide(StartInput{StoreID: "new", Committed: Committed{OK: true, Offset: 5, Metadata: EncodeMetadata("old", 5)}, Mark: -1, End: 9})
	for _, want := range []string{"old", "new", "--store-lost", "9"} {
		if !strings.Contains(d.Text, want) {
			t.Errorf("text %q does not name %q", d.Text, want)
		}
	}
}

func genInput(t *rapid.T) StartInput {
	off := rapid.Int64Range(0, 40)
	in := StartInput{
		StoreID: "store", LogStart: off.Draw(t, "logStart"), Mark: rapid.Int64Range(-1, 50).Draw(t, "mark"),
		LostBelow: off.Draw(t, "lostBelow"), Fresh: rapid.Bool().Draw(t, "fresh"),
		Policy:     rapid.SampledFrom([]StartPolicy{StartEarliest, StartLatest, StartTime, ""}).Draw(t, "policy"),
		TimeOffset: off.Draw(t, "time"),
		StoreLost:  rapid.Bool().Draw(t, "storeLost"), AcceptGap: rapid.Bool().Draw(t, "acceptGap"), AcceptTopic: rapid.Bool().Draw(t, "acceptTopic"),
	}
	in.End = in.LogStart + off.Draw(t, "length")
	if rapid.Bool().Draw(t, "other id") {
		in.OtherID = otherTopic
	}
	if rapid.Bool().Draw(t, "group") {
		o := rapid.Int64Range(0, 60).Draw(t, "committed")
		in.Committed = Committed{OK: true, Offset: o, Metadata: rapid.SampledFrom([]string{"", "x", EncodeMetadata("store", o), EncodeMetadata("other", o), "weir1:bad"}).Draw(t, "metadata")}
	}
	return in
}

// Promise 1: a partition never starts above a record that has neither an outcome nor a Skip nor an operator's word.
func TestDecideNeverLosesARecord(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		d := Decide(in)
		if d.Hold != HoldNone {
			if d.Skip != nil || d.Rewind || d.Commit {
				t.Fatalf("a held partition would write: %+v", d)
			}
			return
		}
		if d.Offset > d.Mark {
			t.Fatalf("starts at %d, above its mark %d", d.Offset, d.Mark)
		}
		if d.Offset < in.LogStart || d.Mark > max(in.End, in.LogStart) {
			t.Fatalf("offset %d, mark %d, log %d to %d", d.Offset, d.Mark, in.LogStart, in.End)
		}
		group := in.Committed.OK
		ours := group && strings.HasPrefix(in.Committed.Metadata, "weir1:")
		fresh := in.Mark < 0 && !group && in.Fresh
		newTopic := in.OtherID != (checkpoint.TopicID{}) && in.Mark < 0
		excused := func(o int64) bool {
			switch {
			case o < in.Mark: // has an outcome
				return true
			case d.Skip != nil && d.Skip.From <= o && o < d.Skip.To:
				return true
			case newTopic:
				return in.AcceptTopic && o < in.LogStart
			case fresh: // the policy is the operator's word
				return o < in.LogStart || in.Policy == StartLatest || in.Policy == StartTime && o < in.TimeOffset
			case in.Mark < 0 && !group: // added later: everything that is there
				return o < in.LogStart
			case in.Mark < 0 && !ours: // somebody else read it so far
				return o < in.Committed.Offset
			case in.Mark < 0:
				return in.StoreLost && o < in.Committed.Offset
			}
			return false
		}
		for o := int64(0); o < d.Mark; o++ { // what lies below the mark is never delivered as new
			if !excused(o) {
				t.Fatalf("offset %d is lost: %+v for %+v", o, d, in)
			}
		}
		if d.Skip != nil {
			if d.Skip.From >= d.Skip.To || d.Skip.To != d.Mark {
				t.Fatalf("skip %+v with mark %d", *d.Skip, d.Mark)
			}
			if gap := d.Skip.To == in.LogStart && in.AcceptGap; !gap && (!group || ours) {
				t.Fatalf("skip %+v, and neither an operator's reset nor an accepted gap: %+v", *d.Skip, in)
			}
			// No record with an outcome is overwritten by a skip.
			if in.Mark >= 0 && d.Skip.From < in.Mark {
				t.Fatalf("skip from %d, below the mark %d", d.Skip.From, in.Mark)
			}
		}
		// A loss of the store makes everything that may have been sent a suspect.
		lost := ours && (in.Mark < 0 || in.Committed.Offset > in.Mark) && d.Case != CaseNewTopic
		if lost && d.LostBelow < in.End {
			t.Fatalf("the store lost data, and only %d of %d is suspect", d.LostBelow, in.End)
		}
		if !lost && d.LostBelow > in.LostBelow {
			t.Fatalf("nothing was lost, and LostBelow went from %d to %d", in.LostBelow, d.LostBelow)
		}
		// What is written is enough: the store then stands at d.Mark.
		if d.Mark != in.Mark && !d.Rewind && (d.Skip == nil || d.Skip.To != d.Mark) {
			t.Fatalf("the mark goes from %d to %d without a write", in.Mark, d.Mark)
		}
	})
}

// Deciding again after the decision was carried out changes nothing more: no second loss, no second jump.
func TestDecideTwiceSettles(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := genInput(t)
		d := Decide(in)
		if d.Hold != HoldNone {
			return
		}
		again := in
		again.Mark, again.LostBelow, again.Fresh = d.Mark, d.LostBelow, false
		again.StoreLost, again.AcceptGap, again.AcceptTopic = false, false, false // flags are for once
		if d.Commit {
			again.Committed = Committed{OK: true, Offset: d.Mark, Metadata: EncodeMetadata(in.StoreID, d.Mark)}
		}
		d2 := Decide(again)
		if newTopic := d.Case == CaseNewTopic; newTopic && in.Committed.OK {
			return // the broker drops a deleted topic's offsets, this model does not
		}
		if d2.Hold != HoldNone || d2.Mark != d.Mark || d2.Skip != nil || d2.LostBelow != d.LostBelow || d2.Alert {
			t.Fatalf("second decision differs:\n in %+v\n 1st %+v\n 2nd %+v", in, d, d2)
		}
	})
}
