package connector

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/lane"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// work is what a connector knows of one task. While its lane is busy it belongs to the task's worker, else to
// the loop.
type work struct {
	part    *partition
	ent     *entity
	rec     *kafka.Record
	event   *schema.Event // nil if nothing of it could be read
	refused *schema.RefusedError
	key     checkpoint.EntityKey
	hash    uint64
	first   bool // the first route of its record: it writes the copy for the dead topic
	suspect bool // may have been sent before a restart
	open    *checkpoint.Open
	entry   *checkpoint.Parked // of the parked index, if released

	supersedes []string
	mapping    string // the version that its plan was made with

	// The plan, once made; it is never made again.
	planned bool
	steps   []*profile.Step
	gens    []uint32
	in      *profile.Input
	step    int // the next one
	plan    []checkpoint.Step
	request *profile.Request // of the next step, once built: a repeat sends the same bytes
	begun   bool             // the next step's Begin is durable
	// Where the vendor looks keys up under a credential: the fingerprint of that which the next step's request carries, and
	// whether one that carried it may have had its effect. Then no other credential may take its place.
	credential string
	doubt      bool

	batch        *checkpoint.BatchSend // the batch that it rejoins
	rejoinBroken string                // why that cannot be repeated
	alone        bool                  // its request has no others to go with
	single       bool                  // it was sent in a request of its own

	gate       *gateQueue // the operation that it waited for last
	attempts   []checkpoint.Attempt
	backoff    *deliver.Backoff
	waited     time.Time // when the last attempt ended
	sent       bool
	firstSent  time.Time // of the next step
	failing    failures  // of its requests
	lateUntil  time.Time
	lateWait   time.Time // when a wait for late_apply ends, by the monotonic clock
	checked    bool      // the next step's own condition holds
	sure       bool      // it is known whether the next step may have been sent by a process whose writes are lost
	probing    bool      // a read must tell whether the last send of the next step had its effect
	probeUntil time.Time // until then that send may still be carried out
	unread     failures  // of the probes since that send
	spent      bool      // attempts or time are used up: if the last send had no effect, it is not made again
	conflicted bool      // the plan went back to its read once
	blamed     bool      // a request of it blamed the credential
	blamedAt   uint64    // Connector.successes then
	renewed    bool      // a token was renewed since its last answer that did not blame the credential
	passes     int       // how often the credential was found good after this record's halt verdict
	vendorID   string
	refSince   time.Time // when it began to wait for a reference
	refPresent bool      // the store said that the referent is there, and it was not enough
	refTimer   *time.Timer
	waking     bool // its waiter is about to be forgotten, and then it looks again
	forgotten  bool // its waiter was forgotten while it did not wait
}

// A verdict is an outcome on its way to the store.
type verdict struct {
	outcome      checkpoint.Outcome
	cause        checkpoint.Cause
	reason       string
	rule, path   string
	guidance     string
	supersededBy string
	state        *checkpoint.State
	park         *checkpoint.Parked
	closed       []checkpoint.Closed
	conflated    bool      // superseded inside its lane: it was never the head
	due          time.Time // until when the vendor should confirm it
}

type nextKind uint8

const (
	nextSettle nextKind = iota
	nextRetry           // after wait
	nextLate            // not before at: an earlier request may still be applied
	nextGate            // breaker or quota
	nextReference
	nextHalt
	nextBatch  // with others
	nextRejoin // with the others of a batch that was begun before the restart; why says what is in the way
	nextLost   // the partition is no longer ours
)

// next is what a worker tells the loop.
type next struct {
	kind     nextKind
	verdict  verdict
	at       time.Time
	gate     *gateQueue
	why      string
	reason   string
	err      error
	evidence *checkpoint.Attempt
	present  bool // the referent has appeared meanwhile
}

// worker works on tasks until the loop ends. There are as many as were ever busy at once, at most MaxInFlight: one that
// is started for a task alone would grow its stack anew each time.
func (c *Connector) worker(t *task) {
	c.work(t)
	for t := range c.tasks {
		c.work(t)
	}
}

// work runs one task as far as it goes without waiting.
func (c *Connector) work(t *task) {
	n := c.advance(t)
	// A refused record says nothing of its entity's state, save that it may hold the key.
	if n.kind == nextSettle && t.Work.refused == nil {
		if err := c.closing(t, &n.verdict); err != nil {
			n = next{kind: nextLost, err: err}
		}
	}
	c.do(func() { c.finish(t, n) })
}

// advance decides what the head of a lane is to do and does it: everything older of its key is durable.
func (c *Connector) advance(t *task) next {
	w := t.Work
	state := w.ent.state.Load()
	rs := routeState(state, t.Route.Name)
	if w.event != nil && w.event.Tombstone && w.event.Tenant == "" && state != nil {
		w.event.Tenant = state.Tenant // the lane has one task in flight, so nobody else reads the event now
	}
	switch {
	case w.refused != nil:
		return c.deadLetter(t, state)
	case w.event.Tombstone && w.event.Tenant == "" && (state == nil || state.Tenant == ""):
		// Nobody knows whose entity it was, and nothing of it can be at the vendor (design section 4).
		w.refused = &schema.RefusedError{Cause: string(checkpoint.CauseTombstone), Event: w.event,
			Reason: "a tombstone of an entity that was never seen, so without a tenant: publish its event first, or give the header ce_tenant"}
		return c.deadLetter(t, state)
	case rs.Held && !t.Released && len(w.attempts) == 0 && !w.planned:
		return c.park(t, verdict{cause: checkpoint.CauseHeld, reason: "an older record of this key is parked and unresolved"})
	case t.Released && t.Route.Semantics == profile.Latest && w.event.Version > 0 && rs.Version >= w.event.Version && len(w.attempts) == 0:
		return c.stale(t) // delivered meanwhile
	case t.Stale && !t.Started:
		return c.stale(t)
	case state != nil && state.Tenant != "" && w.event.Tenant != "" && state.Tenant != w.event.Tenant:
		return c.park(t, verdict{cause: checkpoint.CauseTenantMismatch, reason: "the entity belongs to another tenant", path: "tenant"})
	}
	if !w.planned {
		if n, done := c.plan(t, state, rs); done {
			return n
		}
	}
	for {
		n, done := c.send(t)
		if done {
			return n
		}
	}
}

// duplicateEvent is the reason of a record whose event was seen before: it changes nothing of its entity.
const duplicateEvent = "duplicate_event"

// stale settles a record that is not newer than what is known of its entity (design section 5, Stale and double).
func (c *Connector) stale(t *task) next {
	w := t.Work
	seen := t.StaleBy == w.event.ID
	if !seen {
		err := c.persist("look for event "+w.event.ID, func() (err error) {
			seen, err = c.cfg.Store.Seen(c.ctx, c.cfg.Name, w.event.ID, c.position(t))
			return err
		})
		if err != nil {
			return next{kind: nextLost, err: err}
		}
	}
	switch {
	case seen:
		return next{verdict: verdict{outcome: checkpoint.Unchanged, reason: duplicateEvent}}
	case t.Route.Semantics == profile.Latest:
		by := t.StaleBy
		if by == "" {
			if by = c.newerEvent(t); c.ctx.Err() != nil {
				return next{kind: nextLost, err: c.ctx.Err()}
			}
		}
		return next{verdict: verdict{outcome: checkpoint.Superseded, reason: "older_version", supersededBy: by}}
	}
	return c.park(t, verdict{cause: checkpoint.CauseVersionRegression,
		reason: fmt.Sprintf("version %d of source %s is not newer than what is known", w.event.Version, w.event.Source), path: "entity_version"})
}

// newerRowsMax bounds the rows of an entity that are read to name the event that a stale one is older than.
const newerRowsMax = 1000

// newerEvent is the id of the settled event that a stale one is not newer than, "" if the ledger no longer has it.
func (c *Connector) newerEvent(t *task) (id string) {
	w := t.Work
	var rows []checkpoint.Row
	if err := c.persist("look for what is newer than event "+w.event.ID, func() (err error) {
		rows, err = c.cfg.Store.Find(c.ctx, w.key.Key, newerRowsMax)
		return err
	}); err != nil {
		return ""
	}
	newest := w.event.Version
	for _, r := range rows {
		e := &r.Event
		if r.Partition.Connector == c.cfg.Name && r.Route == t.Route.Name && e.Entity == w.key.Entity && e.Key == w.key.Key && e.Source == w.event.Source &&
			e.Version >= newest && e.ID != w.event.ID && r.Outcome != "" && r.Outcome != checkpoint.Superseded && r.Outcome != checkpoint.DeadLettered {
			newest, id = e.Version, e.ID
		}
	}
	return id
}

// plan makes the task's plan, or takes up the one that was made before a restart. done means that the task needs
// no request now.
func (c *Connector) plan(t *task, state *checkpoint.State, rs checkpoint.RouteState) (n next, done bool) {
	w := t.Work
	route := t.Route
	w.mapping = c.cfg.Profile.Version
	sentWith := w.part.mapping
	if w.open != nil && w.open.Mapping != "" {
		sentWith = w.open.Mapping
	}
	if w.suspect && sentWith != "" && sentWith != w.mapping {
		// A send that may have happened is repeated as it was made (design section 6, Generation).
		old, err := c.mappings.route(sentWith, route.Name, c.mappingText)
		if errors.Is(err, errStopped) {
			return next{kind: nextLost, err: err}, true
		}
		if err != nil {
			return c.park(t, verdict{cause: checkpoint.CauseAmbiguous,
				reason:   "may have been sent before the restart with mapping " + sentWith + ", which cannot be rebuilt: " + err.Error(),
				guidance: "Look at the vendor whether the effect is there, then release or skip this record."}), true
		}
		route, w.mapping = old, sentWith
	}
	in := input(w.event, state)
	plan, err := route.Plan(in)
	if err != nil {
		return c.park(t, refusal(err)), true
	}
	switch {
	case w.open != nil && len(w.open.Plan) > 0:
		if err := c.resume(t, route, in); err != nil {
			return c.park(t, verdict{cause: checkpoint.CauseAmbiguous, reason: "its plan was begun before the restart and cannot be taken up: " + err.Error()}), true
		}
	case plan.Ignore != "":
		return next{verdict: verdict{outcome: checkpoint.Ignored, reason: plan.Ignore, state: c.ignoredState(t, plan)}}, true
	case plan.Refuse != nil:
		return c.park(t, refusal(plan.Refuse)), true
	default:
		w.steps = plan.Steps
	}
	gen := rs.Generation
	if rs.Refused {
		gen++ // a newer state after a definite refusal is a new intent
	}
	if w.entry != nil {
		gen = max(gen, w.entry.Generation)
	}
	w.gens = w.gens[:0]
	for i, s := range w.steps {
		if i < len(w.plan) {
			gen = w.plan[i].Generation
		}
		w.gens = append(w.gens, gen)
		if len(s.Ends) > 0 {
			gen++
		}
	}
	if len(plan.Needs) > 0 {
		if n, done := c.resolve(t, in, plan.Needs); done {
			w.steps, w.step, w.gens = nil, 0, nil
			return n, true
		}
	}
	w.in = in
	last := len(w.steps) - 1
	// What earlier steps of the plan will leave has stand-ins: so it is seen now whether every request fits.
	lastIn := profile.StandIn(w.steps[w.step:], last-w.step, in)
	req, err := w.steps[last].Build(lastIn, w.gens[last])
	if err != nil {
		return c.park(t, refusal(err)), true
	}
	if t.Route.Semantics == profile.Latest && lastIn == in && rs.Fingerprint != "" && req.Fingerprint == rs.Fingerprint && len(w.steps[last].Ends) == 0 && len(w.plan) == 0 {
		return next{verdict: verdict{outcome: checkpoint.Unchanged, reason: "same_request"}}, true
	}
	// Only now, when it is to be sent, do the rules of what was sent before matter.
	if w.open != nil && len(w.open.Begins) > 0 {
		if n, done := c.begunBefore(t); done {
			return n, true
		}
	}
	class := w.steps[w.step].Operation.Class
	if class != profile.ClassKey && c.late(w, rs.LateUntil) {
		// A lost request may still be applied: the key's next different one waits (promise 2). A suspect too: it is
		// not the lost request, for that one has its outcome.
		return next{kind: nextLate, at: w.lateWait, why: "late_apply"}, true
	}
	if w.suspect && class == profile.ClassOverwrite {
		w.lateUntil = w.part.acquired.Add(w.steps[w.step].Operation.LateApply)
	}
	if len(w.plan) == 0 {
		for i, s := range w.steps {
			r := req
			if i != last {
				if r, err = s.Build(profile.StandIn(w.steps, i, in), w.gens[i]); err != nil {
					return c.park(t, refusal(err)), true
				}
			}
			w.plan = append(w.plan, checkpoint.Step{Step: s.Name, Operation: s.Operation.Name, IdempotencyKey: r.IdempotencyKey, Generation: w.gens[i]})
			if i == 0 {
				w.request = r
				w.plan[0].IDs = in.IDs
			}
		}
		if last > 0 {
			// A plan of several steps is durable before its first send.
			err := c.persist("keep the plan", func() error {
				return c.cfg.Store.Begin(c.ctx, []checkpoint.Begin{{Lease: w.part.lease, Offset: t.Offset, Route: t.Route.Name,
					Event: ledgerEvent(w), Mapping: w.mapping, At: c.now(), Plan: slices.Clone(w.plan)}})
			})
			if err != nil {
				return next{kind: nextLost, err: err}, true
			}
		}
	}
	w.planned = true
	return next{}, false
}

// late reports whether a lost request of the key may still be applied. until is a time of the wall clock: one that was
// set back meanwhile must not hold the key longer than any operation's late_apply, counted from when it was first asked.
func (c *Connector) late(w *work, until time.Time) bool {
	now := c.now()
	if w.lateWait.IsZero() {
		w.lateWait = now.Add(min(until.Sub(now), c.lateApplyMax))
	}
	return now.Before(w.lateWait)
}

// mappingText reads the text of an earlier mapping. A store that is away is waited for: only one that does not have
// the text makes a send ambiguous (promise 7).
func (c *Connector) mappingText(version string) (text []byte, err error) {
	missing := false
	err = c.persist("read mapping "+version, func() (err error) {
		text, err = c.cfg.Store.Mapping(c.ctx, version)
		if missing = errors.Is(err, checkpoint.ErrNotFound); missing {
			return nil
		}
		return err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errStopped, err)
	case missing:
		return nil, checkpoint.ErrNotFound
	}
	return text, nil
}

// resume takes up a plan that was durable before a restart: finished steps stay finished.
func (c *Connector) resume(t *task, route *profile.Route, in *profile.Input) error {
	w := t.Work
	w.plan = slices.Clone(w.open.Plan)
	w.steps, w.step = nil, 0
	names := make([]string, len(w.plan))
	for i, s := range w.plan {
		names[i] = s.Step
		if s.Done && w.step == i {
			w.step = i + 1
		}
	}
	if w.steps = route.Resume(names); w.steps == nil {
		return fmt.Errorf("the profile has no plan %v on route %s", names, route.Name)
	}
	if w.step == len(w.steps) {
		return errors.New("all its steps are finished")
	}
	if w.step == 0 && w.plan[0].IDs != nil {
		in.IDs = w.plan[0].IDs
	}
	return nil
}

// begunBefore judges a send that was begun before a restart and has no outcome: class none is ambiguous; class
// key is repeated if it can be rebuilt the same and its key still lives.
func (c *Connector) begunBefore(t *task) (next, bool) {
	w := t.Work
	b := w.open.Begins[len(w.open.Begins)-1]
	step := w.steps[w.step]
	if b.Step != step.Name {
		return next{}, false // an earlier step's, finished
	}
	if b.Batch != nil {
		return c.rejoin(t, b)
	}
	req, err := step.Build(w.in, w.gens[w.step])
	op := step.Operation
	switch {
	case op.Class == profile.ClassNone && op.Probe == nil:
		return c.park(t, ambiguous("its send was begun before a restart, and its answer is lost")), true
	case err != nil || req.Fingerprint != b.Fingerprint || req.IdempotencyKey != b.Key:
		return c.park(t, ambiguous("its send was begun before a restart, and it cannot be rebuilt the same")), true
	case op.Class == profile.ClassNone:
		// Begun once, it may have been sent again, up to the end of the process that had the partition before.
		w.probe(w.part.acquired.Add(op.LateApply))
	case op.Class == profile.ClassKey && op.KeyRetention > 0:
		if why := keyGone(op, b.At, c.now()); why != "" && op.Probe == nil {
			return c.park(t, ambiguous(why)), true
		} else if why != "" {
			w.probe(w.part.acquired.Add(op.LateApply))
		}
		w.firstSent = c.firstSent(b.At)
	}
	w.begun = true
	w.credential, w.doubt = b.Credential, true
	return next{}, false
}

// otherCredential says why a send is not repeated under another credential.
const otherCredential = "it may have had its effect, and the vendor would not recognise its idempotency key under another credential than the one that it was sent with, which is gone or refused"

// keyGone says why the vendor may no longer know the idempotency key of a send that was begun at a time of the wall
// clock, "" if it does.
func keyGone(op *profile.Operation, begun, now time.Time) string {
	switch age := now.Sub(begun); {
	case age >= op.KeyRetention:
		return "its send was begun longer ago than the vendor keeps idempotency keys"
	case age < 0:
		return "its send was begun before the clock was set back, so nobody knows whether the vendor still has its idempotency key"
	}
	return ""
}

// firstSent is when a send was first made that was begun at a time of the wall clock, by the monotonic clock of now.
func (c *Connector) firstSent(begun time.Time) time.Time {
	now := c.now()
	return now.Add(-max(now.Sub(begun), 0))
}

func exhausted(attempts int, last string) verdict {
	return verdict{cause: checkpoint.CauseExhausted, reason: fmt.Sprintf("no answer that settles it after %d attempts (last: %s)", attempts, last),
		guidance: "Other records of this operation go through, so the cause is in this one. Look at its attempts, then release or skip it."}
}

func ambiguous(reason string) verdict {
	return verdict{cause: checkpoint.CauseAmbiguous, reason: reason,
		guidance: "Look at the vendor whether the effect is there (search for the record's reference). If it is, skip this record; if it is not, release it."}
}

func refusal(err error) verdict {
	if r, ok := errors.AsType[*profile.Refusal](err); ok {
		return verdict{cause: checkpoint.CauseRejected, reason: r.Reason, path: r.Path, guidance: r.Guidance}
	}
	return verdict{cause: checkpoint.CauseRejected, reason: "mapping_error: " + err.Error(), guidance: "The profile's mapping failed on this event: correct it, then release this record."}
}

// send makes the next step's request. done means that the worker has nothing more to do now.
func (c *Connector) send(t *task) (n next, done bool) {
	w := t.Work
	step := w.steps[w.step]
	op := step.Operation
	if !w.checked && !w.begun {
		skip, err := step.Skip(w.in)
		if err != nil {
			return c.park(t, refusal(err)), true
		}
		if skip {
			return c.skipStep(t, step)
		}
		w.checked = true
	}
	if w.request == nil {
		req, err := step.Build(w.in, w.gens[w.step])
		if err != nil {
			return c.park(t, refusal(err)), true
		}
		w.request = req
		w.plan[w.step].IdempotencyKey = req.IdempotencyKey
	}
	if c.cfg.DryRun {
		return c.rehearse(t, step)
	}
	if !w.sure {
		w.sure = true
		if c.lostSend(t, op) {
			if op.Probe == nil {
				return c.park(t, ambiguous("the store lost data, so this record may have been sent before")), true
			}
			w.probe(w.part.acquired.Add(op.LateApply))
		}
	}
	if w.probing {
		return c.probe(t, step)
	}
	gate := c.gates[op.Name]
	if gate == nil {
		return c.park(t, ambiguous("it may have been sent with operation "+op.Name+", which the profile no longer has")), true
	}
	if batchable(t) {
		return next{kind: nextBatch}, true
	}
	pass, ex, n, done := c.request(t, step, gate)
	if pass == nil {
		return n, done
	}
	return c.judge(t, step, gate, pass, ex)
}

// lostSend reports whether the next step may have been sent by a process whose writes the store has lost, so that a repeat
// could be a second effect. It is asked of each step: what was lost may be the Begin of any.
func (c *Connector) lostSend(t *task, op *profile.Operation) bool {
	w := t.Work
	if t.Offset >= w.part.lostBelow || w.begun || w.entry != nil && w.entry.Cause == checkpoint.CauseAmbiguous {
		return false
	}
	switch {
	case op.Class == profile.ClassNone:
		return true
	case op.Batch != nil && !op.Batch.Apart():
		return true
	case op.Class == profile.ClassKey && op.KeyRetention > 0:
		// No send is older than its record; a time of the future says nothing.
		age := c.now().Sub(w.rec.Timestamp)
		return age < 0 || age >= op.KeyRetention
	}
	return false
}

// takeSlot waits until one more request of the partition may be on the wire. It refuses where none is to start any
// more; whoever is refused goes back to the loop, which knows why.
func (c *Connector) takeSlot(p *partition) bool {
	taken, waited := c.wire.take(p.ctx)
	if taken && waited && c.stopped.Load() {
		c.wire.give()
		return false
	}
	return taken
}

// request makes the next step's request and waits for its answer. Without a pass there is no exchange to judge: n and
// done are what send answers.
func (c *Connector) request(t *task, step *profile.Step, gate *gateQueue) (pass *deliver.Pass, ex deliver.Exchange, n next, done bool) {
	w, op := t.Work, step.Operation
	if !c.takeSlot(w.part) {
		return nil, ex, next{kind: nextRetry, at: c.now()}, true
	}
	defer c.wire.give()
	pass, at, why := gate.Enter(c.now())
	if pass == nil {
		return nil, ex, next{kind: nextGate, gate: gate, at: at, why: why}, true
	}
	// After a change of mapping the send horizon still speaks for the old one, so each send says which made it.
	mixed := w.part.mapping != "" && w.part.mapping != c.cfg.Profile.Version
	if op.KeyScoped && !w.begun {
		w.credential = c.cfg.Sender.Carries()
	}
	if (op.Class == profile.ClassNone || op.KeyRetention > 0 || op.KeyScoped || op.Batch != nil || t.Released || mixed) && !w.begun {
		err := c.persist("begin a send", func() error {
			return c.cfg.Store.Begin(c.ctx, []checkpoint.Begin{{Lease: w.part.lease, Offset: t.Offset, Route: t.Route.Name, Step: step.Name,
				Operation: op.Name, Key: w.request.IdempotencyKey, Fingerprint: w.request.Fingerprint, Generation: w.gens[w.step],
				Event: ledgerEvent(w), Mapping: w.mapping, At: c.now(), Credential: w.credential}})
		})
		if err != nil {
			gate.Leave(pass, c.now(), deliver.Unused)
			return nil, ex, next{kind: nextLost, err: err}, true
		}
		w.begun = true
	}
	if w.firstSent.IsZero() {
		w.firstSent = c.now()
	} else if op.KeyRetention > 0 && c.now().Sub(w.firstSent) >= op.KeyRetention {
		gate.Leave(pass, c.now(), deliver.Unused)
		n, done = c.unresolved(t, op, "its send is older than the vendor keeps idempotency keys, so a repeat could be a second effect", nil)
		return nil, ex, n, done
	}
	w.sent, w.single = true, true
	ex = c.cfg.Sender.SendAs(c.ctx, w.request, w.credential)
	c.exchanges.note(ex.Took)
	if errors.Is(ex.Err, deliver.ErrOtherCredential) {
		gate.Leave(pass, c.now(), deliver.Unused)
		if w.doubt {
			n, done = c.unresolved(t, op, otherCredential, nil)
			return nil, ex, n, done
		}
		w.begun = false // anew, with the one that there is
		return nil, ex, next{}, false
	}
	c.cfg.Fail("answered")
	return pass, ex, next{}, false
}

// dryRun is the reason of a record that would have been sent, and the verdict of its attempts.
const dryRun = "dry_run"

// rehearse stands for the request and its acceptance. What the vendor would give has stand-ins, so that what follows, of the
// entity and of those that refer to it, goes its way too.
func (c *Connector) rehearse(t *task, step *profile.Step) (next, bool) {
	w := t.Work
	now := c.now()
	w.attempts = append(w.attempts, checkpoint.Attempt{N: len(w.attempts) + 1, At: now.UTC(), Step: step.Name, Sent: checkpoint.NotSent, Verdict: dryRun,
		Detail: w.request.Method + " of operation " + step.Operation.Name})
	return c.finishStep(t, step, c.stepState(t, step, step.Rehearsed(w.in)), verdict{outcome: checkpoint.Skipped, reason: dryRun})
}

// judge reads what came of an exchange.
func (c *Connector) judge(t *task, step *profile.Step, gate *gateQueue, pass *deliver.Pass, ex deliver.Exchange) (next, bool) {
	w := t.Work
	op := step.Operation
	now := c.now()
	j, health := c.weigh(op, ex)
	if ex.Sent == checkpoint.Answered {
		gate.Observe(op.Usage(ex.Answer), now)
	}
	if ex.Sent == checkpoint.AnswerLost && op.Class == profile.ClassOverwrite {
		w.lateUntil = now.Add(op.LateApply)
	}
	var res *profile.Result
	if j.Verdict == profile.Accept || j.Verdict == profile.AcceptPending || j.Verdict == profile.Duplicate {
		var err error
		if res, err = step.Result(w.in, ex.Answer); err != nil {
			// Accepted, but without what must be remembered: a repeat under the same key gets the same answer
			// whole; without a key it is as good as lost.
			j = profile.Judgement{Verdict: profile.Retry, Reason: "answer_incomplete: " + err.Error()}
		}
	}
	w.doubt = w.doubt || mayHaveEffect(ex, j)
	a := c.noteAttempt(t, step, ex, j, "")
	c.leave(t, &w.failing, gate, pass, ex, j, health, a.Detail)
	return c.act(t, step, gate, ex, j, res, a, health)
}

// mayHaveEffect reports whether a request that is to be made again may have had its effect already.
func mayHaveEffect(ex deliver.Exchange, j profile.Judgement) bool {
	return ex.Sent == checkpoint.AnswerLost || ex.Sent == checkpoint.Answered && j.Verdict == profile.Retry && !j.NoEffect
}

// weigh says how an exchange reads, and what it says of the vendor's health.
func (c *Connector) weigh(op *profile.Operation, ex deliver.Exchange) (j profile.Judgement, health deliver.Result) {
	j, health = profile.Judgement{Verdict: profile.Retry}, deliver.Failing
	switch {
	case ex.Sent == checkpoint.Answered:
		j = op.Judge(ex.Answer)
		c.noteDeprecation(op, ex.Answer)
		health = deliver.Healthy
		if j.Verdict == profile.Retry && ex.Answer.Status >= 500 {
			health = deliver.Failing
		} else if j.Verdict == profile.Throttle {
			health = deliver.Throttled
		}
	case ex.Sent == checkpoint.NotSent:
		j.NoEffect = true
		j.Reason = "not_sent"
		if _, ok := errors.AsType[*deliver.CredentialError](ex.Err); ok {
			j.Verdict, health = profile.Halt, deliver.Unused
		}
	default:
		j.Reason = "answer_lost"
	}
	return j, health
}

// noteAttempt adds an exchange to the record's attempts. place says where in a batch it was, "" if it was alone.
func (c *Connector) noteAttempt(t *task, step *profile.Step, ex deliver.Exchange, j profile.Judgement, place string) checkpoint.Attempt {
	w := t.Work
	a := checkpoint.Attempt{N: len(w.attempts) + 1, At: ex.At.UTC(), Step: step.Name, Sent: ex.Sent, Took: ex.Took, Status: statusOf(ex),
		Verdict: string(j.Verdict), Guidance: j.Guidance, Detail: place}
	if !w.waited.IsZero() {
		a.Wait = ex.At.Sub(w.waited)
	}
	w.waited = ex.At.Add(ex.Took)
	more := j.Reason
	if ex.Err != nil {
		more = ex.Err.Error()
	}
	if more != "" {
		if place != "" {
			a.Detail += ": "
		}
		a.Detail += more
	}
	a.Detail = bounded(a.Detail)
	w.attempts = append(w.attempts, a)
	return a
}

func statusOf(ex deliver.Exchange) int {
	if ex.Sent != checkpoint.Answered {
		return 0
	}
	return ex.Answer.Status
}

// act does what an answer asks for. a is the attempt that got it, health what it says of the vendor.
func (c *Connector) act(t *task, step *profile.Step, gate *gateQueue, ex deliver.Exchange, j profile.Judgement, res *profile.Result, a checkpoint.Attempt, health deliver.Result) (next, bool) {
	w := t.Work
	op := step.Operation
	now := c.now()
	if j.Verdict != profile.Halt {
		w.renewed = false
	}
	if j.Verdict == profile.Conflict {
		if c.readAgain(t) {
			return next{kind: nextRetry, at: now, why: "conflict", evidence: kept(a)}, true
		}
		j.Verdict = j.Then
	}
	unsafe := op.Class == profile.ClassNone && !j.NoEffect
	switch j.Verdict {
	case profile.Accept, profile.AcceptPending, profile.Duplicate:
		return c.accepted(t, step, j, res)
	case profile.Reject:
		return c.park(t, verdict{cause: checkpoint.CauseRejected, reason: reasonOr(j.Reason, fmt.Sprintf("status_%d", a.Status)), guidance: j.Guidance}), true
	case profile.Conclude:
		return next{verdict: verdict{outcome: checkpoint.Ignored, reason: j.Reason, state: c.stepState(t, step, nil)}}, true
	case profile.Halt:
		if !w.renewed && ex.Sent == checkpoint.Answered && c.cfg.Sender.Expired(ex) {
			// Tokens end, revoked or by another clock than ours, and keys are changed: once with a fresh one, before anybody
			// is alarmed.
			w.renewed = true
			if op.KeyScoped && c.cfg.Sender.Carries() != ex.Credential {
				if w.doubt {
					return c.unresolved(t, op, otherCredential, kept(a))
				}
				w.begun = false
			}
			return next{kind: nextRetry, at: now, why: "token", evidence: kept(a)}, true
		}
		if w.passes > 0 && ex.Sent == checkpoint.Answered {
			// The credential was found good after the same answer: it is the record's own.
			if w.doubt && op.Class == profile.ClassKey {
				return c.unresolved(t, op, "an earlier try may have had its effect, and now the vendor refuses the credential for it", kept(a))
			}
			return c.park(t, verdict{cause: checkpoint.CauseRejected, reason: reasonOr(j.Reason, "unauthorized"), guidance: j.Guidance}), true
		}
		return next{kind: nextHalt, reason: a.Detail, evidence: kept(a)}, true
	case profile.Throttle:
		if unsafe {
			return c.unresolved(t, op, "the vendor throttled it without saying that it had no effect", kept(a))
		}
		return c.throttled(t, gate, j, kept(a)), true
	case profile.Gone:
		return next{kind: nextRetry, at: now.Add(deliver.BackoffMax), why: "gone", evidence: kept(a)}, true
	}
	if unsafe {
		w.spent = c.countFailure(&w.failing, gate, ex)
		return c.unresolved(t, op, fmt.Sprintf("sent, and the answer (%s) does not say whether it had an effect", answerWords(ex)), kept(a))
	}
	if c.countFailure(&w.failing, gate, ex) {
		return c.park(t, exhausted(len(w.attempts), answerWords(ex))), true
	}
	if at := gate.ProbeAt(); health == deliver.Failing && !at.IsZero() && j.Wait <= 0 {
		// It waits with the others, behind them: an outage does not lengthen its own waits, and keys take turns to probe.
		return next{kind: nextGate, gate: gate, at: at, why: "outage", evidence: kept(a)}, true
	}
	wait := max(c.nextWait(t, op), j.Wait)
	return next{kind: nextRetry, at: now.Add(wait), why: "retry", evidence: kept(a)}, true
}

// kept is an attempt in memory of its own: most need none.
func kept(a checkpoint.Attempt) *checkpoint.Attempt { return &a }

// leave gives a pass back and tells of the exchange. f are the failures before it.
func (c *Connector) leave(t *task, f *failures, gate *gateQueue, pass *deliver.Pass, ex deliver.Exchange, j profile.Judgement, health deliver.Result, detail string) {
	if health == deliver.Failing && ex.Sent != checkpoint.NotSent && f.alone() && !pass.Probe {
		// A record that failed while others succeeded says nothing of the vendor: it must not open the breaker.
		health = deliver.Alone
	}
	if changed := gate.Leave(pass, c.now(), health); changed || pass.Probe {
		if detail == "" {
			detail = answerWords(ex)
		}
		c.do(func() { c.breakerNews(gate, detail) })
	}
	c.cfg.Observer.Attempted(t.Route.Name, gate.op.Name, attemptOutcome(gate.op, j, ex), statusOf(ex), ex.Took)
}

// throttled makes a record wait as the vendor asked, and with it all that share its quota.
func (c *Connector) throttled(t *task, gate *gateQueue, j profile.Judgement, a *checkpoint.Attempt) next {
	now, wait := c.now(), j.Wait
	if wait <= 0 {
		wait = c.nextWait(t, gate.op)
	}
	if j.Lowers != "" {
		// Too many at once, not too many: the others go on, with fewer under way.
		gate.Lower(j.Lowers, now)
		return next{kind: nextRetry, at: now.Add(wait), why: "quota", evidence: a}
	}
	gate.Throttle(wait, now)
	return next{kind: nextGate, gate: gate, at: now.Add(wait), why: "quota", evidence: a}
}

func (c *Connector) nextWait(t *task, op *profile.Operation) time.Duration {
	if t.Work.backoff == nil {
		t.Work.backoff = deliver.NewBackoff(op.FirstRetry)
	}
	return t.Work.backoff.Next()
}

// failures are those of what is made again and again: of a record's requests, of its probes, of a batch.
type failures struct {
	counted int
	first   time.Time // of those that counted
	any     bool
	seen    uint64 // successes of the operation at the last one
}

// alone reports whether so many counted that the record itself is taken to be the cause.
func (f *failures) alone() bool { return f.counted >= aloneMin }

// countFailure notes a failure and reports whether attempts or time are used up. A failure counts neither as an attempt
// nor in time unless another record has succeeded on the operation since the one before, and never while the breaker
// is open (promise 7). Once aloneMin of them counted, each does. An answer that is no server error counts at once.
func (c *Connector) countFailure(f *failures, gate *gateQueue, ex deliver.Exchange) bool {
	s := gate.Successes()
	state, _ := gate.Breaker()
	if ex.Sent == checkpoint.NotSent {
		return false // no record can be the cause of that
	}
	others := f.any && s > f.seen || f.alone()
	f.any, f.seen = true, s
	if !(others && state == deliver.Closed) && (ex.Answer == nil || ex.Answer.Status >= 500) {
		return false
	}
	if f.counted++; f.counted == 1 {
		f.first = c.now()
	}
	bear := c.patience.Load()
	return f.counted >= bear.attempts || c.now().Sub(f.first) > bear.elapsed
}

// aloneMin is how often a record must have failed while others succeeded until it is taken to be the cause. Fewer
// would blame a record that fails twice around the start of an outage.
const aloneMin = 2

// accepted finishes a step: the plan goes on with the next one, or the record is delivered.
func (c *Connector) accepted(t *task, step *profile.Step, j profile.Judgement, res *profile.Result) (next, bool) {
	w := t.Work
	state := c.stepState(t, step, res)
	if res != nil && res.VendorID != "" {
		w.vendorID = res.VendorID
	}
	v := verdict{outcome: checkpoint.Delivered}
	if j.Verdict == profile.AcceptPending {
		v.outcome = checkpoint.Accepted
		if c.cfg.CalledBack {
			v.due = c.now().Add(step.Operation.Deadline)
		}
	}
	return c.finishStep(t, step, state, v)
}

// finishStep goes on with the plan's next step, or settles the record with v.
func (c *Connector) finishStep(t *task, step *profile.Step, state *checkpoint.State, v verdict) (next, bool) {
	w := t.Work
	w.plan[w.step].Done = true
	w.step++
	if w.step == len(w.steps) {
		v.state = state
		return next{verdict: v}, true
	}
	// A finished step is durable, with the state that it leaves, before the next one starts.
	err := c.persist("keep a finished step", func() error {
		r, err := c.cfg.Store.Settle(c.ctx, checkpoint.Batch{Progress: []checkpoint.Progress{{Lease: w.part.lease, Offset: t.Offset, Route: t.Route.Name, Step: step.Name, State: state}}})
		if err == nil && len(r.Fenced) > 0 {
			return &checkpoint.FencedError{Partition: w.part.id, Epoch: w.part.lease.Epoch}
		}
		return err
	})
	if err != nil {
		return next{kind: nextLost, err: err}, true
	}
	w.ent.state.Store(state)
	w.atStep(state)
	return next{}, false
}

// atStep makes the task ready for the step that it stands at, which sees what those before it have left.
func (w *work) atStep(state *checkpoint.State) {
	refs := w.in.Refs
	w.in = input(w.event, state)
	w.in.Refs = refs
	w.request, w.checked, w.sure, w.begun, w.backoff, w.firstSent = nil, false, false, false, nil, time.Time{}
	w.credential, w.doubt = "", false
}

// stepState is the entity's state after a step: what it gave is remembered, what it ends is forgotten, with the
// fingerprint, and the next generation begins.
func (c *Connector) stepState(t *task, step *profile.Step, res *profile.Result) *checkpoint.State {
	w := t.Work
	s := c.stateOf(t)
	rs := s.Routes.Get(t.Route.Name)
	gen := w.gens[w.step]
	if len(step.Ends) > 0 {
		s.IDs = checkpoint.Without(s.IDs, step.Ends)
		rs.Fingerprint, rs.Generation = "", gen+1
	} else if !step.Operation.Read {
		rs.Fingerprint, rs.Generation = w.request.Fingerprint, gen
		if w.event.Version > 0 {
			rs.Version = w.event.Version
		}
	}
	rs.Refused = false
	remember(s, res)
	s.Routes.Set(t.Route.Name, rs)
	return s
}

// stateOf is a copy of the entity's durable state to change.
func (c *Connector) stateOf(t *task) *checkpoint.State {
	var s *checkpoint.State
	if old := t.Work.ent.state.Load(); old != nil {
		s = old.Clone()
	} else {
		s = &checkpoint.State{EntityKey: t.Work.key}
	}
	if s.Tenant == "" && t.Work.event != nil {
		s.Tenant = t.Work.event.Tenant
	}
	return s
}

func routeState(s *checkpoint.State, route string) checkpoint.RouteState {
	if s == nil {
		return checkpoint.RouteState{}
	}
	return s.Routes.Get(route)
}

func (c *Connector) position(t *task) checkpoint.Position {
	return checkpoint.Position{Partition: t.Work.part.id, Offset: t.Offset, Route: t.Route.Name}
}

// closing brings a state to what the outcome says: versions seen, deletion, healed or released parked entries.
func (c *Connector) closing(t *task, v *verdict) error {
	w := t.Work
	if v.state == nil {
		v.state = c.stateOf(t)
	}
	s := v.state
	ev := w.event
	if ev != nil && w.refused == nil {
		lane.NoteVersion(s, t.Route.Name, ev.Source, ev.Version)
	}
	if !t.Released {
		s.LastTopic, s.LastPartition, s.LastOffset = w.part.id.ID, w.part.id.Index, t.Offset
	}
	rs := s.Routes.Get(t.Route.Name)
	if w.lateUntil.After(rs.LateUntil) {
		rs.LateUntil = w.lateUntil
	}
	double := v.outcome == checkpoint.Unchanged && v.reason == duplicateEvent
	done := v.outcome != checkpoint.ParkedOut && v.outcome != checkpoint.DeadLettered && v.outcome != checkpoint.Superseded && !double
	if ev != nil && done {
		if ev.Operation == schema.Delete {
			if !s.Deleted && rs.Fingerprint != "" {
				rs.Generation++
			}
			rs.Fingerprint = ""
			if all := c.routes[w.key.Entity]; all[len(all)-1].Name == t.Route.Name {
				s.Deleted, s.IDs, s.Remembered = true, nil, nil
			}
		} else {
			s.Deleted = false
		}
	}
	delivered := v.outcome == checkpoint.Delivered || v.outcome == checkpoint.Accepted || v.outcome == checkpoint.Unchanged && !double
	switch {
	case t.Released && v.outcome != checkpoint.ParkedOut:
		v.closed = append(v.closed, checkpoint.Closed{Position: c.position(t), State: checkpoint.ParkedResolved, By: "release"})
		rs.Open = max(rs.Open-1, 0)
		rs.Held = rs.Held && rs.Open > 0
	case delivered && rs.Open > 0 && !rs.Held && t.Route.Semantics == profile.Latest:
		// A newer state heals a key whose older state was definitely refused.
		var open []checkpoint.Parked
		err := c.persist("read the parked records of a key", func() (err error) {
			open, err = c.cfg.Store.Parked(c.ctx, checkpoint.ParkedQuery{Connector: c.cfg.Name, Entity: w.key.Entity, Key: w.key.Key, States: []checkpoint.ParkedState{checkpoint.ParkedOpen}})
			return err
		})
		if err != nil {
			return err
		}
		for _, p := range open {
			if p.Position.Route == t.Route.Name {
				v.closed = append(v.closed, checkpoint.Closed{Position: p.Position, State: checkpoint.ParkedSuperseded, By: ev.ID})
			}
		}
		rs.Open = 0
	}
	s.Routes.Set(t.Route.Name, rs)
	return nil
}

// park writes the record to the parked topic; only then may its outcome be settled (design section 7).
func (c *Connector) park(t *task, v verdict) next {
	w := t.Work
	v.outcome = checkpoint.ParkedOut
	placed, err := c.copyOut(t, c.parkedTopic(), v)
	if err != nil {
		return next{kind: nextLost, err: err}
	}
	c.cfg.Fail("parked")
	s := c.stateOf(t)
	rs := s.Routes.Get(t.Route.Name)
	if w.entry == nil {
		rs.Open++
	}
	if t.Route.Semantics == profile.Every || !v.cause.Definite() {
		rs.Held = true
	} else if w.sent && w.step < len(w.gens) {
		// The vendor refused this generation's request; a newer state is a new intent.
		rs.Refused, rs.Generation = true, w.gens[w.step]
	}
	s.Routes.Set(t.Route.Name, rs)
	v.state = s
	gen := rs.Generation
	v.park = &checkpoint.Parked{Position: c.position(t), EntityKey: w.key, Tenant: s.Tenant, EventID: w.event.ID, Version: w.event.Version,
		Cause: v.cause, Reason: v.reason, Guidance: v.guidance, Attempts: len(w.attempts), At: c.now(), State: checkpoint.ParkedOpen, Since: c.now(),
		Generation: gen, CopyTopic: placed.Topic, CopyPartition: placed.Partition, CopyOffset: placed.Offset, Supersedes: w.supersedes}
	return next{verdict: v}
}

// deadLetter writes a record that is no valid event to the dead topic. On every routes it also holds its key.
func (c *Connector) deadLetter(t *task, state *checkpoint.State) next {
	w := t.Work
	r := w.refused
	v := verdict{outcome: checkpoint.DeadLettered, cause: checkpoint.Cause(r.Cause), reason: r.Reason, rule: r.Rule, path: r.Path}
	placed := kafka.Placed{}
	if w.first {
		var err error
		if placed, err = c.copyOut(t, c.deadTopic(), v); err != nil {
			return next{kind: nextLost, err: err}
		}
		c.cfg.Fail("parked")
	}
	if t.Route.Semantics == profile.Every && len(w.rec.Key) > 0 {
		s := c.stateOf(t)
		rs := s.Routes.Get(t.Route.Name)
		rs.Held = true
		rs.Open++
		s.Routes.Set(t.Route.Name, rs)
		v.state = s
		p := &checkpoint.Parked{Position: c.position(t), EntityKey: w.key, Tenant: s.Tenant, Cause: v.cause, Reason: v.reason, At: c.now(),
			State: checkpoint.ParkedOpen, Since: c.now(), CopyTopic: placed.Topic, CopyPartition: placed.Partition, CopyOffset: placed.Offset}
		if w.event != nil {
			p.EventID, p.Version = w.event.ID, w.event.Version
		}
		v.park = p
	}
	return next{verdict: v}
}

// copyOut writes a record, as it was, to a topic of ours, and repeats that until Kafka has taken it.
func (c *Connector) copyOut(t *task, topic string, v verdict) (kafka.Placed, error) {
	w := t.Work
	id := ""
	if w.event != nil {
		id = w.event.ID
	}
	out := kafka.Out{Topic: topic, Partition: w.rec.Partition, Key: w.rec.Key, Value: w.rec.Value, Headers: kafka.ParkedHeaders(w.rec.Headers, kafka.Refusal{
		Outcome: v.outcome, Cause: v.cause, Reason: v.reason, Rule: v.rule, Path: v.path,
		Origin: c.position(t).Origin(), EventID: id, Attempts: len(w.attempts), At: c.now(),
	})}
	b := deliver.NewBackoff(100 * time.Millisecond)
	waits := false
	defer func() {
		if !waits {
			return
		}
		if over := c.copyBad.leave(); over != nil && c.ctx.Err() == nil {
			c.log.Info("refused records are copied again", "after", time.Since(over.since).Round(time.Millisecond))
		}
	}()
	for {
		placed, err := c.cfg.Producer.Produce(c.ctx, []kafka.Out{out})
		if err == nil && len(placed) == 1 {
			err = placed[0].Err
		}
		if err == nil {
			return placed[0], nil
		}
		if !waits && c.kafkaBad.Load() == nil && c.ctx.Err() == nil { // else it is told already, or the end of the drain
			waits = true
			if c.copyBad.enter(fmt.Sprintf("topic %s takes no records: %v", topic, err), c.now()) {
				c.log.Error("refused records cannot be copied; they wait, and their keys with them", "topic", topic, "origin", c.position(t).Origin(), "err", err)
			}
		}
		select {
		case <-time.After(min(b.Next(), retryMax)):
		case <-c.ctx.Done():
			return kafka.Placed{}, fmt.Errorf("copy to %s: %w", topic, err)
		}
	}
}

func (c *Connector) parkedTopic() string { return "weir." + c.cfg.Name + ".parked" }
func (c *Connector) deadTopic() string   { return "weir." + c.cfg.Name + ".dead" }

// bounded cuts a text that comes from outside to what an attempt keeps.
func bounded(s string) string {
	if len(s) > 256 {
		return s[:253] + "..."
	}
	return s
}

func reasonOr(s, or string) string {
	if s == "" {
		return or
	}
	return s
}

func answerWords(ex deliver.Exchange) string {
	switch ex.Sent {
	case checkpoint.NotSent:
		return "not sent"
	case checkpoint.AnswerLost:
		return "answer lost"
	}
	return fmt.Sprintf("status %d", ex.Answer.Status)
}

// attemptOutcome is the metric's closed set.
func attemptOutcome(op *profile.Operation, j profile.Judgement, ex deliver.Exchange) string {
	switch j.Verdict {
	case profile.Accept, profile.AcceptPending, profile.Duplicate, profile.Conclude:
		return "success"
	case profile.Reject, profile.Gone:
		return "permanent"
	case profile.Throttle:
		return "throttled"
	case profile.Halt:
		return "auth"
	}
	if ex.Sent == checkpoint.AnswerLost || op.Class == profile.ClassNone && !j.NoEffect {
		return "unknown"
	}
	return "retryable"
}
