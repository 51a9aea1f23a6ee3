package lane

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// The low-water mark equals what a slow model says, for any offsets with holes and any order of outcomes.
func TestTrackerLowWaterMark(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.Int64Range(0, 1000).Draw(t, "start")
		tr := NewTracker(start)
		left := map[int64]int{}
		next, records, bytes := start, 0, int64(0)
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				off := next + int64(rapid.IntRange(0, 3).Draw(t, "hole"))
				n := rapid.IntRange(0, 3).Draw(t, "outcomes")
				tr.Add(off, n, 10)
				next = off + 1
				if n > 0 {
					left[off] = n
					records++
					bytes += 10
				}
			},
			"settle": func(t *rapid.T) {
				if len(left) == 0 {
					t.Skip("nothing pending")
				}
				var offs []int64
				for o := range left {
					offs = append(offs, o)
				}
				slices.Sort(offs)
				o := rapid.SampledFrom(offs).Draw(t, "offset")
				before := tr.Low()
				moved := tr.Settle(o)
				if left[o]--; left[o] == 0 {
					delete(left, o)
					records--
					bytes -= 10
				}
				if moved != (tr.Low() > before) {
					t.Fatalf("Settle(%d) says moved=%v, the mark went from %d to %d", o, moved, before, tr.Low())
				}
			},
			"": func(t *rapid.T) {
				want := next
				for o := range left {
					want = min(want, o)
				}
				if tr.Low() != want || tr.Next() != next {
					t.Fatalf("Low() = %d, want %d; Next() = %d, want %d", tr.Low(), want, tr.Next(), next)
				}
				if r, b := tr.Pending(); r != records || b != bytes {
					t.Fatalf("Pending() = %d, %d; want %d, %d", r, b, records, bytes)
				}
			},
		})
	})
}

func TestTrackerPanicsOnWhatWasNeverPending(t *testing.T) {
	for name, f := range map[string]func(*Tracker){
		"unknown": func(tr *Tracker) { tr.Settle(7) },
		"twice":   func(tr *Tracker) { tr.Add(1, 1, 0); tr.Add(2, 1, 0); tr.Settle(2); tr.Settle(2) },
		"back":    func(tr *Tracker) { tr.Add(5, 1, 0); tr.Add(5, 1, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic: a broken invariant went unseen")
				}
			}()
			f(NewTracker(0))
		})
	}
}

var (
	latest = &profile.Route{Name: "v.thing", Semantics: profile.Latest}
	every  = &profile.Route{Name: "v.payment", Semantics: profile.Every}
	key    = checkpoint.EntityKey{Entity: "customer", Key: "c1"}
)

func ev(version int64, op schema.Operation) *schema.Event {
	return &schema.Event{ID: fmt.Sprintf("e%d", version), Source: "crm", Entity: "customer", Key: "c1", Version: version, Operation: op}
}

type step struct {
	version int64
	delete  bool
	every   bool
	busy    bool // the head is being worked on when it arrives
	started bool // it may have been sent before
	misfit  bool // its request does not build
}

// Each case admits its steps in order to one lane and lists what is left in the queue and what was superseded.
func TestSupersede(t *testing.T) {
	known := &checkpoint.State{EntityKey: key, IDs: map[string]string{"id": "x"}, Versions: checkpoint.Table[int64]{{Name: versionKey("v.thing", "crm"), Value: 10}}}
	for name, tc := range map[string]struct {
		known      *checkpoint.State
		replayed   bool
		steps      []step
		left       []int64
		superseded []int64
		stale      []int64
	}{
		"newest wins":                     {steps: []step{{version: 1}, {version: 2}, {version: 3}}, left: []int64{3}, superseded: []int64{1, 2}},
		"in flight stays":                 {steps: []step{{version: 1}, {version: 2, busy: true}, {version: 3, busy: true}}, left: []int64{1, 3}, superseded: []int64{2}},
		"suspect stays":                   {steps: []step{{version: 1, started: true}, {version: 2}, {version: 3}}, left: []int64{1, 3}, superseded: []int64{2}},
		"one that does not build":         {steps: []step{{version: 1}, {version: 2, misfit: true}}, left: []int64{1, 2}},
		"every is never skipped":          {steps: []step{{version: 1, every: true}, {version: 2, every: true}}, left: []int64{1, 2}},
		"every in a shared lane":          {steps: []step{{version: 1, every: true}, {version: 2}, {version: 3}}, left: []int64{1, 3}, superseded: []int64{2}},
		"delete with an object stays":     {known: known, steps: []step{{version: 11, delete: true}, {version: 12}}, left: []int64{11, 12}},
		"delete while in flight stays":    {steps: []step{{version: 1}, {version: 2, delete: true, busy: true}, {version: 3, busy: true}}, left: []int64{1, 2, 3}},
		"delete without an object":        {steps: []step{{version: 1}, {version: 2, delete: true}, {version: 3}}, left: []int64{3}, superseded: []int64{1, 2}},
		"highest version, not offset":     {steps: []step{{version: 5}, {version: 4}}, left: []int64{5, 4}, stale: []int64{4}},
		"same version":                    {steps: []step{{version: 5}, {version: 5}}, left: []int64{5, 5}, stale: []int64{5}},
		"older than settled":              {known: known, steps: []step{{version: 9}}, left: []int64{9}, stale: []int64{9}},
		"read again before it was judged": {known: known, replayed: true, steps: []step{{version: 9}}, left: []int64{9}},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet[string](0)
			var superseded, stale, left []int64
			for i, st := range tc.steps {
				op := schema.Upsert
				if st.delete {
					op = schema.Delete
				}
				task := &Task[string]{Offset: int64(i), Route: latest, Event: ev(st.version, op), Started: st.started}
				if st.every {
					task.Route = every
				}
				if l := s.Lane(key); l != nil {
					l.Busy = st.busy
				}
				_, out := s.Admit(task, key, tc.known, tc.replayed, func() bool { return !st.misfit })
				for _, o := range out {
					superseded = append(superseded, o.Event.Version)
				}
				if task.Stale {
					stale = append(stale, st.version)
				}
			}
			s.Lane(key).Tasks(func(t *Task[string]) { left = append(left, t.Event.Version) })
			if !slices.Equal(left, tc.left) || !slices.Equal(superseded, tc.superseded) || !slices.Equal(stale, tc.stale) {
				t.Errorf("left %v, superseded %v, stale %v; want %v, %v, %v", left, superseded, stale, tc.left, tc.superseded, tc.stale)
			}
		})
	}
}

func TestReleasedGoesBeforeWhatWaits(t *testing.T) {
	s := NewSet[string](0)
	admit := func(v int64, released bool) *Task[string] {
		task := &Task[string]{Offset: v, Route: every, Event: ev(v, schema.Upsert), Released: released}
		s.Admit(task, key, nil, released, nil)
		return task
	}
	head := admit(5, false)
	s.Lane(key).Busy = true
	admit(6, false)
	admit(1, true)
	admit(2, true)
	var got []int64
	s.Lane(key).Tasks(func(t *Task[string]) { got = append(got, t.Offset) })
	if want := []int64{5, 1, 2, 6}; !slices.Equal(got, want) {
		t.Errorf("queue %v, want %v: the head in work first, then released ones in order, then the rest", got, want)
	}
	if l := s.Remove(head); l == nil || l.Head().Offset != 1 {
		t.Error("the first released record is not next")
	}
}

func TestLaneIsForgottenWhenEmpty(t *testing.T) {
	s := NewSet[string](0)
	task := &Task[string]{Route: latest, Event: ev(1, schema.Upsert)}
	s.Admit(task, key, nil, false, nil)
	if s.Remove(task) != nil || s.Len() != 0 || s.Lane(key) != nil {
		t.Error("an empty lane is kept: memory would grow with the keys seen (promise 6)")
	}
}

func BenchmarkLane(b *testing.B) {
	b.ReportAllocs()
	s := NewSet[int](0)
	keys := make([]checkpoint.EntityKey, 1000)
	for i := range keys {
		keys[i] = checkpoint.EntityKey{Entity: "customer", Key: fmt.Sprint("c", i)}
	}
	events := make([]*schema.Event, 1<<16)
	for i := range events {
		events[i] = ev(int64(i+1), schema.Upsert)
	}
	var off int64
	for b.Loop() {
		task := &Task[int]{Offset: off, Route: every, Event: events[off&(1<<16-1)]}
		s.Add(off, 1, 400)
		s.Admit(task, keys[off%1000], nil, false, nil)
		s.Settle(off)
		s.Remove(task)
		off++
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// NoteVersion finds what versionKey names, and nothing whose name only begins or ends like it. It never goes back.
func TestNoteVersion(t *testing.T) {
	s := &checkpoint.State{}
	want := map[string]int64{}
	for i, pair := range [][2]string{{"v.thing", "crm"}, {"v.thing", "crm2"}, {"v.thing2", "crm"}, {"v", "thing|crm"}, {"v.thing", ""}, {"v.thing", "m"}, {"", "v.thing|crm"}, {"v.thing2", "cr"}, {"v.thing", "|cr"}} {
		n := int64(10 + i)
		NoteVersion(s, pair[0], pair[1], n)
		NoteVersion(s, pair[0], pair[1], n-5)
		key := versionKey(pair[0], pair[1])
		want[key] = max(want[key], n)
	}
	NoteVersion(s, "v.new", "crm", -1)
	want[versionKey("v.new", "crm")] = 0
	if len(s.Versions) != len(want) {
		t.Errorf("versions %v, want %v", s.Versions, want)
	}
	for key, n := range want {
		if got, ok := s.Versions.Find(key); !ok || got != n {
			t.Errorf("version of %q is %d, %v; want %d", key, got, ok, n)
		}
	}
}
