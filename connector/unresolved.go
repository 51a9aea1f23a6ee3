package connector

import (
	"fmt"
	"slices"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/profile"
)

// Verdicts of attempts that were probes.
const (
	probeFound   profile.Verdict = "probe_found"   // the object is there, and reads as the lost answer
	probeAbsent  profile.Verdict = "probe_absent"  // it is not there
	probeUnclear profile.Verdict = "probe_unclear" // the answer does not tell
)

// probe notes that a read must tell whether the last send had its effect, which may still be carried out until then. If it
// is made again, it goes alone. Probes fail on their own account: a send that used up its attempts is not ambiguous for one
// probe that failed.
func (w *work) probe(until time.Time) {
	w.probing, w.probeUntil, w.single = true, until, true
	w.unread = failures{}
}

// unresolved takes up a send that may have had its effect and must not be repeated (promise 3): the profile's probe
// tells, or the record is parked.
func (c *Connector) unresolved(t *task, op *profile.Operation, why string, a *checkpoint.Attempt) (next, bool) {
	if op.Probe == nil {
		return c.park(t, ambiguous(why)), true
	}
	t.Work.probe(c.now().Add(op.LateApply))
	return next{kind: nextRetry, at: c.now(), why: "probe", evidence: a}, true
}

// probe asks the vendor for the object of the last send. If it is there, the record goes on as if its answer had come.
// If it is not, and the send can no longer be carried out, it is made again. What the probe cannot tell is parked.
func (c *Connector) probe(t *task, step *profile.Step) (next, bool) {
	w := t.Work
	p := step.Operation.Probe
	gate := c.gates[p.Operation.Name]
	if gate == nil {
		return c.park(t, ambiguous("it may have been sent with operation "+step.Operation.Name+", whose probe the profile no longer has")), true
	}
	if !c.takeSlot(w.part) {
		return next{kind: nextRetry, at: c.now(), why: "probe"}, true
	}
	pass, at, why := gate.Enter(c.now())
	if pass == nil {
		c.wire.give()
		return next{kind: nextGate, gate: gate, at: at, why: why}, true
	}
	w.sent = true // by whom ever: it counts as started
	ex := c.cfg.Sender.Send(c.ctx, p.Request(w.request))
	c.exchanges.note(ex.Took)
	c.wire.give()
	now := c.now()
	j, health := c.weigh(p.Operation, ex)
	if ex.Sent == checkpoint.Answered {
		gate.Observe(p.Operation.Usage(ex.Answer), now)
	}
	said := j // how the attempt reads
	var as profile.Judgement
	var res *profile.Result
	if j.Verdict == profile.Accept {
		said.Verdict = probeUnclear
		if found, known := p.Read(ex.Answer); known && found == nil {
			said.Verdict = probeAbsent
		} else if known {
			// The object is read as the answer that was lost: a failed payment is found too, and it is no success.
			var err error
			if as = step.Operation.Judge(found); as.Verdict != profile.Accept && as.Verdict != profile.AcceptPending {
				as.Verdict, res = profile.Reject, nil
			} else if res, err = step.Result(w.in, found); err != nil {
				said.Reason = err.Error()
			}
			if err == nil {
				said.Verdict = probeFound
				said.Reason = as.Reason
			}
		}
	}
	a := c.noteAttempt(t, step, ex, said, "")
	c.leave(t, &w.unread, gate, pass, ex, j, health, a.Detail)

	unclear := ambiguous(fmt.Sprintf("it may have had its effect, and the probe (%s) does not tell", answerWords(ex)))
	switch {
	case said.Verdict == probeFound:
		w.probing = false
		return c.act(t, step, gate, ex, as, res, a, health)
	case said.Verdict == probeAbsent && now.Before(w.probeUntil):
		return next{kind: nextLate, at: w.probeUntil, why: "late_apply", evidence: &a}, true
	case said.Verdict == probeAbsent && w.spent:
		return c.park(t, exhausted(len(w.attempts), "the probe found no effect")), true
	case said.Verdict == probeAbsent:
		w.probing, w.firstSent = false, time.Time{}
		if step.Operation.KeyScoped {
			w.begun, w.doubt = false, false // any credential will do
		}
		return next{}, false
	case j.Verdict == profile.Halt && !w.renewed && ex.Sent == checkpoint.Answered && c.cfg.Sender.Expired(ex):
		w.renewed = true
		return next{kind: nextRetry, at: now, why: "token", evidence: &a}, true
	case j.Verdict == profile.Halt && (w.passes == 0 || ex.Sent != checkpoint.Answered):
		return next{kind: nextHalt, reason: a.Detail, evidence: &a}, true
	case j.Verdict == profile.Throttle:
		return c.throttled(t, gate, j, &a), true
	case j.Verdict != profile.Retry || c.countFailure(&w.unread, gate, ex):
		return c.park(t, unclear), true
	}
	if at := gate.ProbeAt(); health == deliver.Failing && !at.IsZero() && j.Wait <= 0 {
		return next{kind: nextGate, gate: gate, at: at, why: "outage", evidence: &a}, true
	}
	return next{kind: nextRetry, at: now.Add(max(c.nextWait(t, p.Operation), j.Wait)), why: "retry", evidence: &a}, true
}

// readAgain takes the plan back to its last read, once: the object has changed since. It reports false if there is no
// such read, or if it was made again already.
func (c *Connector) readAgain(t *task) bool {
	w := t.Work
	read := -1
	for i, s := range w.steps[:w.step] {
		if s.Operation.Read {
			read = i
		}
	}
	if w.conflicted || read < 0 {
		return false
	}
	w.conflicted = true
	for i := read; i <= w.step; i++ {
		w.plan[i].Done = false
	}
	w.step = read
	w.atStep(w.ent.state.Load())
	return true
}

// skipStep leaves out a step that the profile says is not needed. A plan that sends nothing at all changes nothing.
func (c *Connector) skipStep(t *task, step *profile.Step) (next, bool) {
	w := t.Work
	v := verdict{outcome: checkpoint.Delivered}
	sent := len(w.attempts) > 0 || slices.ContainsFunc(w.plan[:w.step], func(s checkpoint.Step) bool { return s.Done }) && w.open != nil
	if !sent {
		v = verdict{outcome: checkpoint.Unchanged, reason: notNeeded}
	}
	s := c.stateOf(t)
	if rs := s.Routes.Get(t.Route.Name); sent && w.step == len(w.steps)-1 {
		rs.Fingerprint, rs.Refused, rs.Generation = "", false, w.gens[w.step]
		rs.Version = max(rs.Version, w.event.Version)
		s.Routes.Set(t.Route.Name, rs)
	}
	w.plan[w.step].IdempotencyKey = "" // it names no request
	return c.finishStep(t, step, s, v)
}

// notNeeded is the reason of a record all of whose steps the profile left out.
const notNeeded = "not_needed"

// remember takes what an answer or an ignored event leaves into an entity's state.
func remember(s *checkpoint.State, res *profile.Result) {
	if res == nil {
		return
	}
	s.IDs, s.Remembered = checkpoint.With(s.IDs, res.IDs), checkpoint.With(s.Remembered, res.Remembered)
}

// ignoredState is the entity's state after an event that means no request: what it ends is forgotten, with the
// fingerprint, and the next generation begins; what it leaves is remembered. nil if neither is the case.
func (c *Connector) ignoredState(t *task, plan *profile.Plan) *checkpoint.State {
	if plan.Leaves == nil && len(plan.Ends) == 0 {
		return nil
	}
	s := c.stateOf(t)
	s.IDs = checkpoint.Without(s.IDs, plan.Ends)
	if rs := s.Routes.Get(t.Route.Name); len(plan.Ends) > 0 && rs.Fingerprint != "" {
		rs.Fingerprint = ""
		rs.Generation++
		s.Routes.Set(t.Route.Name, rs)
	}
	remember(s, plan.Leaves)
	return s
}

// noteDeprecation tells once of each operation that the vendor says it will go, and counts the answers that say so.
func (c *Connector) noteDeprecation(op *profile.Operation, ans *profile.Answer) {
	said := profile.Deprecation(ans.Header)
	if said == "" {
		return
	}
	c.cfg.Observer.Deprecated(op.Name)
	if _, told := c.deprecated.LoadOrStore(op.Name, true); !told {
		c.log.Warn("the vendor says that an operation will go; the profile needs an update before that", "operation", op.Name, "says", said)
	}
}
