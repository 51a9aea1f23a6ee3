package lane

import (
	"slices"
	"strings"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// A Task is one record on one route. W is what the connector needs to work on it.
type Task[W any] struct {
	Offset int64
	Route  *profile.Route
	Event  *schema.Event
	Work   W

	// Started: a request for it was made, or may have been. It is never superseded.
	Started bool
	// Released: it comes from the parked topic. It goes before what waits in its lane, and it is not tracked.
	Released bool
	// Stale: when it was admitted, the lane knew a version of the same source that is not older; StaleBy is the
	// event id that has it, "" if only the version is known.
	Stale   bool
	StaleBy string

	lane *Lane[W]
}

// Lane returns the task's lane.
func (t *Task[W]) Lane() *Lane[W] { return t.lane }

// A Lane is the queue of one key.
type Lane[W any] struct {
	Key checkpoint.EntityKey
	// Busy: its head is being worked on; set and cleared by the owner.
	Busy bool
	// Settling counts tasks that were superseded and whose outcome is not durable yet: until it is 0 the head must
	// not start. Else a crash could leave a newer event sent and an older one without an outcome, which would then
	// be taken for suspect and sent after it (promise 2).
	Settling int
	// Turn counts the waits of the lane, so that a timer of an earlier one can tell that it is too late.
	Turn uint64
	// Where is for the owner's own bookkeeping.
	Where uint8

	set    *Set[W]
	queue  []*Task[W]
	newest []version // the newest one queued of each route and source; few have more than one
}

type version struct {
	route, source string
	n             int64
	by            string // event id
}

// newestOf is the newest version queued of a route and source, nil if there is none.
func (l *Lane[W]) newestOf(route, source string) *version {
	for i := range l.newest {
		if v := &l.newest[i]; v.route == route && v.source == source {
			return v
		}
	}
	return nil
}

// Head is the only task that may be worked on, nil if the lane is empty.
func (l *Lane[W]) Head() *Task[W] {
	if len(l.queue) == 0 {
		return nil
	}
	return l.queue[0]
}

// Len is the number of tasks in the lane.
func (l *Lane[W]) Len() int { return len(l.queue) }

// Tasks calls f for each task, oldest first.
func (l *Lane[W]) Tasks(f func(*Task[W])) {
	for _, t := range l.queue {
		f(t)
	}
}

// A Set is the lanes and the tracker of one assignment of one partition.
type Set[W any] struct {
	*Tracker
	lanes map[checkpoint.EntityKey]*Lane[W]
}

// NewSet makes the lanes of a partition that is read from the offset start on.
func NewSet[W any](start int64) *Set[W] {
	return &Set[W]{Tracker: NewTracker(start), lanes: make(map[checkpoint.EntityKey]*Lane[W])}
}

// Lane returns the lane of a key, nil if nothing is queued for it.
func (s *Set[W]) Lane(key checkpoint.EntityKey) *Lane[W] { return s.lanes[key] }

// Len is the number of lanes that have tasks.
func (s *Set[W]) Len() int { return len(s.lanes) }

// Lanes calls f for each lane.
func (s *Set[W]) Lanes(f func(*Lane[W])) {
	for _, l := range s.lanes {
		f(l)
	}
}

// versionKey is the key of checkpoint.State.Versions: versions are compared per route and source, since the
// routes of an entity settle at different times.
func versionKey(route, source string) string { return route + "|" + source }

// settledVersion finds a route and source in a state's versions; it makes no key to look for.
func settledVersion(s *checkpoint.State, route, source string) *checkpoint.TableEntry[int64] {
	for i := range s.Versions {
		e := &s.Versions[i]
		if r, ok := strings.CutPrefix(e.Name, route); ok && len(r) == 1+len(source) && r[0] == '|' && r[1:] == source {
			return e
		}
	}
	return nil
}

// NoteVersion raises a state's newest version of a route and source.
func NoteVersion(s *checkpoint.State, route, source string, n int64) {
	if e := settledVersion(s, route, source); e != nil {
		e.Value = max(e.Value, n)
		return
	}
	s.Versions.Set(versionKey(route, source), max(n, 0))
}

// Admit puts a task at the end of its key's lane (a released one before those that were not started) and
// returns the tasks that it supersedes, which have left the lane. known is the durable state of the entity, nil
// if it has none. fits reports whether the event's own request could be built now: only then may it supersede
// (design section 5); it is called only if there is something to supersede.
func (s *Set[W]) Admit(t *Task[W], key checkpoint.EntityKey, known *checkpoint.State, replayed bool, fits func() bool) (l *Lane[W], superseded []*Task[W]) {
	l = s.lanes[key]
	if l == nil {
		l = &Lane[W]{Key: key, set: s}
		s.lanes[key] = l
	}
	t.lane = l
	if t.Released {
		i := 0
		for i < len(l.queue) && (l.Busy && i == 0 || l.queue[i].Started || l.queue[i].Released) {
			i++
		}
		l.queue = slices.Insert(l.queue, i, t)
		return l, nil
	}
	l.judge(t, known, replayed)
	if t.Event != nil && t.Route != nil && t.Route.Semantics == profile.Latest && !t.Stale && !t.Started {
		superseded = l.supersede(t, known, fits)
	}
	l.queue = append(l.queue, t)
	return l, superseded
}

// judge marks t as stale if a version of the same source that is not older is queued or settled. A tombstone
// takes the newest version seen and is never stale. A record that was read before a crash (replayed: its offset
// lies below the newest settled one of its entity) was judged then: what is settled since lies above it.
func (l *Lane[W]) judge(t *Task[W], known *checkpoint.State, replayed bool) {
	if t.Event == nil || t.Route == nil {
		return
	}
	if t.Event.Tombstone || t.Event.Version == 0 {
		return
	}
	queued := l.newestOf(t.Route.Name, t.Event.Source)
	if queued != nil && t.Event.Version <= queued.n {
		t.Stale, t.StaleBy = true, queued.by
		return
	}
	if !t.Started && Older(t.Route, t.Event, known, replayed) {
		t.Stale = true
		return
	}
	if queued == nil {
		l.newest = append(l.newest, version{route: t.Route.Name, source: t.Event.Source})
		queued = &l.newest[len(l.newest)-1]
	}
	queued.n, queued.by = t.Event.Version, t.Event.ID
}

// Older reports whether a version of the same source that is not older than the event's is settled, so that the event
// changes nothing. It was so too when the record was read before a restart (unless replayed), so it was never sent.
func Older(r *profile.Route, ev *schema.Event, known *checkpoint.State, replayed bool) bool {
	if known == nil || replayed || ev == nil || ev.Tombstone || ev.Version == 0 {
		return false
	}
	settled := settledVersion(known, r.Name, ev.Source)
	return settled != nil && ev.Version <= settled.Value
}

// supersede takes the older tasks of t's route out of the queue that were never started. A delete stays unless
// no object can exist at the vendor: none is known and nothing of the key was started.
func (l *Lane[W]) supersede(t *Task[W], known *checkpoint.State, fits func() bool) []*Task[W] {
	object := false
	if known != nil {
		object = len(known.IDs) > 0
		for _, rs := range known.Routes {
			object = object || rs.Value.Fingerprint != "" // written under the entity's own id
		}
	}
	for i, q := range l.queue {
		// A busy head belongs to its worker: it counts as started, and its fields are not read.
		object = object || i == 0 && l.Busy || q.Started
	}
	asked := false
	var out []*Task[W]
	keep := l.queue[:0:0]
	for i, q := range l.queue {
		old := !(i == 0 && l.Busy) && q.Route == t.Route && !q.Started && !q.Released && q.Event != nil && !q.Stale &&
			!(q.Event.Operation == schema.Delete && object)
		if old && !asked {
			asked = true
			if !fits() {
				return nil
			}
		}
		if old {
			out = append(out, q)
		} else {
			keep = append(keep, q)
		}
	}
	if out != nil {
		l.queue = keep
	}
	return out
}

// Remove takes a task out of its lane: its outcome is durable. It returns the lane if another task is at its
// head now, nil if the lane is empty (it is then forgotten).
func (s *Set[W]) Remove(t *Task[W]) *Lane[W] {
	l := t.lane
	for i, q := range l.queue {
		if q == t {
			l.queue = slices.Delete(l.queue, i, i+1)
			break
		}
	}
	if len(l.queue) == 0 {
		delete(s.lanes, l.Key)
		return nil
	}
	return l
}
