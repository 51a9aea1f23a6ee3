package connector

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/profile"
)

// Batches (design section 6, Batch). A worker whose request has a batch form hands its task back: the loop gathers
// the heads of lanes of one partition and step, a worker of the batch begins and sends them as one request, and each
// item then goes its own way, as if it had been answered alone.
//
// What makes a crash harmless: Begin makes every member durable before the first byte, and all that an answer says is
// durable in one transaction: the outcomes, and the retraction of those that are to be tried again, which go on only then.
// So a member that is still begun after a restart is in doubt, whatever became of the others. If all are, the batch is
// repeated as it was before any of them moves; else each is looked up or parked.

// batchKey names what is gathered together.
type batchKey struct {
	part *partition
	step *profile.Step
}

// A bundle is a batch on its way. While its request is under way it belongs to its worker, else to the loop.
type bundle struct {
	batchKey
	op    *profile.Operation
	gate  *gateQueue
	items []*task
	bytes int
	timer *time.Timer // while it gathers

	id      string // once begun: also the request's idempotency key
	begun   bool
	request *profile.Request

	credential string // see work
	doubt      bool

	renewed   bool // a token was renewed for it
	blamed    int  // answers that blamed the credential, which was not found bad
	tries     int
	firstSent time.Time
	backoff   *deliver.Backoff
	failing   failures
}

// batchable reports whether the task's next request may go out with others. A request that may have been made alone is
// repeated alone: the vendor knows it by its own key.
func batchable(t *task) bool {
	w := t.Work
	return w.steps[w.step].Operation.Batch != nil && len(w.steps) == 1 && !t.Released && !w.suspect && !w.single && !w.alone
}

// gather adds the head of a lane to what goes out together (loop).
func (c *Connector) gather(t *task) {
	w, l := t.Work, t.Lane()
	l.Where, l.Busy = laneBatch, true
	step := w.steps[w.step]
	k := batchKey{w.part, step}
	b := c.gathering[k]
	size := len(w.request.Body) + 1
	if b != nil && b.bytes+size > b.op.Batch.BytesMax {
		c.launch(b)
		b = nil
	}
	if b == nil {
		b = &bundle{batchKey: k, op: step.Operation, gate: c.gates[step.Operation.Name]}
		c.gathering[k] = b
		// The first waits for others, so a lone record is late by the linger, and a backlog fills the batch at once.
		b.timer = time.AfterFunc(b.op.Batch.Linger, func() { c.do(func() { c.launch(b) }) })
	}
	b.items = append(b.items, t)
	b.bytes += size
	if len(b.items) >= b.op.Batch.Max {
		c.launch(b)
	}
}

// launch ends the gathering of a bundle (loop).
func (c *Connector) launch(b *bundle) {
	if c.gathering[b.batchKey] != b {
		return // launched already
	}
	delete(c.gathering, b.batchKey)
	b.timer.Stop()
	c.bundles = append(c.bundles, b)
}

// dispatchBundles starts workers for bundles while there is room (loop).
func (c *Connector) dispatchBundles() {
	for len(c.bundles) > 0 && c.roomToSend() {
		b := c.bundles[0]
		c.bundles[0] = nil
		c.bundles = c.bundles[1:]
		if b.part.gone || b.part.revoking {
			continue // its members are begun or were never sent: the next owner knows
		}
		if c.halted != nil {
			if b.begun {
				b.blamed = 0
				c.bundleWaits(b, c.now().Add(haltAloneEvery))
			} else {
				c.disband(b, laneHalted)
			}
			continue
		}
		if len(b.items) == 1 && !b.begun {
			b.items[0].Work.alone = true
			c.disband(b, laneIdle)
			continue
		}
		if b.gate.at.After(c.now()) {
			c.bundleAtGate(b)
			continue
		}
		c.inFlight++
		b.part.inFlight++
		go c.sendBundle(b)
	}
}

// disband gives the lanes of a bundle back, each to go on by itself (loop).
func (c *Connector) disband(b *bundle, where uint8) {
	for _, t := range b.items {
		l := t.Lane()
		l.Busy, l.Where = false, where
		if where == laneHalted {
			c.haltedLanes = append(c.haltedLanes, l)
		} else {
			c.wake(l)
		}
	}
}

// bundleWaits lets a bundle go on at a time. Its lanes stay busy: nothing may go before it (loop).
func (c *Connector) bundleWaits(b *bundle, at time.Time) {
	time.AfterFunc(max(at.Sub(c.now()), time.Millisecond), func() {
		c.do(func() {
			if !b.part.gone {
				c.bundles = append(c.bundles, b)
			}
		})
	})
}

// bundleAtGate lets a bundle wait for a breaker or a quota (loop).
func (c *Connector) bundleAtGate(b *bundle) {
	b.gate.bundles = append(b.gate.bundles, b)
	b.gate.await(c)
}

// A bundleNext is what the worker of a bundle tells the loop: either each item's news, or what the bundle does next.
type bundleNext struct {
	items []next
	// at is when the bundle is sent again as it is.
	at    time.Time
	why   string
	halve bool   // refused as a whole, without an effect: the halves go on under new keys
	alone bool   // the first item goes alone, as the probe of an outage
	tried bool   // a request was made that settles nothing
	blame string // the answer blames the credential, and why
	err   error
}

// sendBundle makes one request for all items of a bundle, in a goroutine of its own.
func (c *Connector) sendBundle(b *bundle) {
	n := c.exchangeBundle(b)
	for i := range n.items {
		if in := &n.items[i]; in.kind == nextSettle {
			if err := c.closing(b.items[i], &in.verdict); err != nil {
				*in = next{kind: nextLost, err: err}
			}
		}
	}
	c.do(func() { c.finishBundle(b, n) })
}

func (c *Connector) exchangeBundle(b *bundle) bundleNext {
	for {
		pass, ex, n := c.requestBundle(b)
		switch {
		case pass == nil:
			return n
		case !errors.Is(ex.Err, deliver.ErrOtherCredential):
			return c.judgeBundle(b, pass, ex)
		}
		b.gate.Leave(pass, c.now(), deliver.Unused)
		if b.doubt {
			return c.allUnresolved(b, otherCredential)
		}
		b.begun, b.request = false, nil // anew, with the one that there is
	}
}

// requestBundle makes a bundle's request and waits for its answer. Without a pass there is no exchange to judge.
func (c *Connector) requestBundle(b *bundle) (pass *deliver.Pass, ex deliver.Exchange, n bundleNext) {
	op := b.op
	if !c.takeSlot(b.part) {
		return nil, ex, bundleNext{at: c.now()}
	}
	defer c.wire.give()
	pass, at, why := b.gate.Enter(c.now())
	if pass == nil {
		return nil, ex, bundleNext{at: at, why: why}
	}
	if pass.Probe && op.Class == profile.ClassNone && !b.begun {
		// A lost answer would make each item ambiguous: one record is enough to see whether the vendor is back.
		b.gate.Leave(pass, c.now(), deliver.Unused)
		return nil, ex, bundleNext{alone: true}
	}
	if b.request == nil {
		if err := c.beginBundle(b); err != nil {
			b.gate.Leave(pass, c.now(), deliver.Unused)
			return nil, ex, bundleNext{err: err}
		}
	}
	if b.firstSent.IsZero() {
		b.firstSent = c.now()
	} else if op.KeyRetention > 0 && c.now().Sub(b.firstSent) >= op.KeyRetention {
		b.gate.Leave(pass, c.now(), deliver.Unused)
		return nil, ex, c.allUnresolved(b, "its batch is older than the vendor keeps idempotency keys, so a repeat could be a second effect")
	}
	for _, t := range b.items {
		t.Work.sent = true
	}
	b.tries++
	c.cfg.Observer.Batched(op.Name, len(b.items))
	ex = c.cfg.Sender.SendAs(c.ctx, b.request, b.credential)
	c.exchanges.note(ex.Took)
	if !errors.Is(ex.Err, deliver.ErrOtherCredential) {
		c.cfg.Fail("answered")
	}
	return pass, ex, bundleNext{}
}

// beginBundle makes the members durable, their order and the batch's key with them. A bundle that was begun before a
// restart has its id already.
func (c *Connector) beginBundle(b *bundle) error {
	if b.id == "" {
		p := b.part
		b.id = profile.Key(c.cfg.Name, b.items[0].Route.Name, b.step.Name, fmt.Sprintf("batch/%s/%d/%d/%d", p.id.ID, p.id.Index, p.lease.Epoch, p.batches.Add(1)), 0)
	}
	requests := make([]*profile.Request, len(b.items))
	for i, t := range b.items {
		requests[i] = t.Work.request
	}
	b.request = b.op.Batch.Build(requests, b.id)
	if b.begun {
		return nil
	}
	if b.op.KeyScoped {
		b.credential = c.cfg.Sender.Carries()
	}
	begins := make([]checkpoint.Begin, len(b.items))
	for i, t := range b.items {
		w := t.Work
		begins[i] = checkpoint.Begin{Lease: b.part.lease, Offset: t.Offset, Route: t.Route.Name, Step: b.step.Name, Operation: b.op.Name,
			Key: b.request.IdempotencyKey, Fingerprint: w.request.Fingerprint, Generation: w.gens[w.step], Event: ledgerEvent(w), Mapping: w.mapping, At: c.now(),
			Credential: b.credential, Batch: &checkpoint.BatchSend{ID: b.id, Index: i, Size: len(b.items)}}
	}
	if err := c.persist("begin a batch", func() error { return c.cfg.Store.Begin(c.ctx, begins) }); err != nil {
		return err
	}
	b.begun = true
	return nil
}

// judgeBundle reads what came of a bundle's request.
func (c *Connector) judgeBundle(b *bundle, pass *deliver.Pass, ex deliver.Exchange) bundleNext {
	op, now := b.op, c.now()
	j, health := c.weigh(op, ex)
	if ex.Sent == checkpoint.Answered {
		b.gate.Observe(op.Usage(ex.Answer), now)
	}
	var answers []*profile.Answer
	accepted := j.Verdict == profile.Accept || j.Verdict == profile.AcceptPending || j.Verdict == profile.Duplicate
	if accepted {
		var err error
		if answers, err = op.Batch.Split(ex.Answer, len(b.items)); err != nil {
			// As good as lost: what became of the items is not known, so the whole batch is asked again.
			j, accepted = profile.Judgement{Verdict: profile.Retry, Reason: "answer_incomplete: " + err.Error()}, false
		}
	}
	b.doubt = b.doubt || mayHaveEffect(ex, j)
	if changed := b.gate.Leave(pass, now, health); changed || pass.Probe {
		detail := answerWords(ex)
		if ex.Err != nil {
			detail = bounded(ex.Err.Error())
		}
		c.do(func() { c.breakerNews(b.gate, detail) })
	}
	c.cfg.Observer.Attempted(b.items[0].Route.Name, op.Name, attemptOutcome(op, j, ex), statusOf(ex), ex.Took)
	if accepted {
		items := make([]next, len(b.items))
		for i, t := range b.items {
			items[i] = c.judgeItem(b, i, t, deliver.Exchange{Answer: answers[i], Sent: checkpoint.Answered, At: ex.At, Took: ex.Took})
		}
		return bundleNext{items: items}
	}
	for i, t := range b.items {
		c.noteAttempt(t, b.step, ex, j, b.place(i))
	}
	unsafe := op.Class == profile.ClassNone && !j.NoEffect
	switch j.Verdict {
	case profile.Reject, profile.Gone:
		if j.NoEffect && len(b.items) > 1 {
			return bundleNext{halve: true, tried: true}
		}
		return c.parkAll(b, verdict{cause: checkpoint.CauseRejected, reason: reasonOr(j.Reason, fmt.Sprintf("status_%d", statusOf(ex))), guidance: j.Guidance})
	case profile.Conclude:
		items := make([]next, len(b.items))
		for i, t := range b.items {
			items[i] = next{verdict: verdict{outcome: checkpoint.Ignored, reason: j.Reason, state: c.stepState(t, b.step, nil)}}
		}
		return bundleNext{items: items}
	case profile.Halt:
		if !b.renewed && ex.Sent == checkpoint.Answered && c.cfg.Sender.Expired(ex) {
			b.renewed = true
			if op.KeyScoped && c.cfg.Sender.Carries() != ex.Credential {
				if b.doubt {
					return c.allUnresolved(b, otherCredential)
				}
				b.begun, b.request = false, nil
			}
			return bundleNext{at: now, why: "token", tried: true}
		}
		if b.doubt && !op.Batch.Apart() {
			// An earlier try may have had its effects, of which this answer says nothing: the items stay together.
			if b.blamed++; b.blamed > blamedMax {
				return c.allUnresolved(b, "an earlier try of its batch may have had its effect, and now the vendor refuses the credential for it")
			}
			return bundleNext{at: now.Add(haltAloneEvery), why: "credential", tried: true, blame: reasonOr(j.Reason, "unauthorized")}
		}
		if slices.ContainsFunc(b.items, func(t *task) bool { return t.Work.passes > 0 }) && ex.Sent == checkpoint.Answered && len(b.items) > 1 && j.NoEffect {
			return bundleNext{halve: true, tried: true} // the credential was found good: it is one of the items
		}
		items := make([]next, len(b.items))
		for i, t := range b.items {
			items[i] = next{kind: nextHalt, reason: t.Work.attempts[len(t.Work.attempts)-1].Detail}
		}
		return bundleNext{items: items}
	case profile.Throttle:
		if unsafe {
			return c.allUnresolved(b, "the vendor throttled its batch without saying that it had no effect")
		}
		wait := j.Wait
		if wait <= 0 {
			wait = b.nextWait()
		}
		if j.Lowers != "" {
			b.gate.Lower(j.Lowers, now) // the others go on, with fewer under way
		} else {
			b.gate.Throttle(wait, now)
		}
		return bundleNext{at: now.Add(wait), why: "quota", tried: true}
	}
	if unsafe {
		return c.allUnresolved(b, fmt.Sprintf("sent in a batch, and the answer (%s) does not say whether it had an effect", answerWords(ex)))
	}
	if c.countFailure(&b.failing, b.gate, ex) {
		if b.doubt && !op.Batch.Apart() {
			for _, t := range b.items {
				t.Work.spent = true
			}
			return c.allUnresolved(b, fmt.Sprintf("no answer that settles its batch after %d attempts (last: %s), and released alone it would go under another key", b.tries, answerWords(ex)))
		}
		return c.parkAll(b, verdict{cause: checkpoint.CauseExhausted, reason: fmt.Sprintf("no answer that settles its batch after %d attempts (last: %s)", b.tries, answerWords(ex)),
			guidance: "Other requests of this operation go through, so the cause is in this batch. Look at its attempts, then release or skip its records."})
	}
	if ex.Sent == checkpoint.AnswerLost && op.Class == profile.ClassOverwrite {
		for _, t := range b.items {
			t.Work.lateUntil = now.Add(op.LateApply)
		}
	}
	if at := b.gate.ProbeAt(); health == deliver.Failing && !at.IsZero() && j.Wait <= 0 {
		return bundleNext{at: at, why: "outage", tried: true}
	}
	return bundleNext{at: now.Add(max(b.nextWait(), j.Wait)), why: "retry", tried: true}
}

// judgeItem reads the result of one item as the answer to a request of its own. What is to be tried again is begun
// anew, in another batch: the vendor would answer this one as before.
func (c *Connector) judgeItem(b *bundle, i int, t *task, ex deliver.Exchange) next {
	w := t.Work
	j := b.op.Judge(ex.Answer)
	if b.op.Batch.Definite && (j.Verdict == profile.Retry || j.Verdict == profile.Throttle) {
		j.NoEffect = true
	}
	if j.Verdict == profile.Retry && !j.NoEffect && !b.op.Batch.Apart() {
		// The vendor does not know the item by a key of its own, so another batch could be a second effect.
		c.noteAttempt(t, b.step, ex, j, b.place(i))
		n, _ := c.unresolved(t, b.op, fmt.Sprintf("its result in a batch (status %d) does not say whether it had an effect", ex.Answer.Status), nil)
		return n
	}
	var res *profile.Result
	if j.Verdict == profile.Accept || j.Verdict == profile.AcceptPending || j.Verdict == profile.Duplicate {
		var err error
		if res, err = b.step.Result(w.in, ex.Answer); err != nil {
			// The effect is there, and nobody could address it. Another batch would be a second effect.
			c.noteAttempt(t, b.step, ex, profile.Judgement{Verdict: profile.Retry, Reason: err.Error()}, b.place(i))
			n, _ := c.unresolved(t, b.op, "accepted in a batch, and the result lacks what must be remembered", nil)
			return n
		}
	}
	a := c.noteAttempt(t, b.step, ex, j, b.place(i))
	n, _ := c.act(t, b.step, b.gate, ex, j, res, a, deliver.Healthy)
	return n
}

// place says where an item was, for its attempts.
func (b *bundle) place(i int) string {
	return fmt.Sprintf("item %d of %d in batch %s", i+1, len(b.items), b.id)
}

func (b *bundle) nextWait() time.Duration {
	if b.backoff == nil {
		b.backoff = deliver.NewBackoff(b.op.FirstRetry)
	}
	return b.backoff.Next()
}

func (c *Connector) parkAll(b *bundle, v verdict) bundleNext {
	items := make([]next, len(b.items))
	for i, t := range b.items {
		items[i] = c.park(t, v)
	}
	return bundleNext{items: items}
}

// allUnresolved takes up a batch that may have had its effects and must not be repeated: each item for itself.
func (c *Connector) allUnresolved(b *bundle, why string) bundleNext {
	items := make([]next, len(b.items))
	for i, t := range b.items {
		items[i], _ = c.unresolved(t, b.op, why, nil)
	}
	return bundleNext{items: items, tried: b.tries > 0}
}

// blamedMax is how often a batch in doubt may be refused for a credential that is found good.
const blamedMax = 5

// finishBundle takes what the worker of a bundle has to say (loop). All of it goes into one batch of the store, so that a
// restart finds either none of it or all.
func (c *Connector) finishBundle(b *bundle, n bundleNext) {
	c.inFlight--
	b.part.inFlight--
	for _, t := range b.items {
		t.Started = t.Started || t.Work.sent
	}
	defer c.drainedYet(b.part)
	if b.part.gone {
		return
	}
	if n.tried {
		for _, t := range b.items {
			c.evidence = append(c.evidence, checkpoint.Evidence{Position: c.position(t), Attempt: t.Work.attempts[len(t.Work.attempts)-1]})
		}
	}
	switch {
	case n.err != nil:
		c.lost(b.part, n.err)
	case n.halve:
		c.retract(b, b.items, func() { c.halve(b) })
	case n.alone:
		b.items[0].Work.alone = true
		c.disband(b, laneIdle)
	case n.items == nil:
		if n.blame != "" {
			c.suspectCredential(n.blame)
		}
		if n.why == "quota" || n.why == "outage" {
			if b.gate.why == "" {
				b.gate.since = c.now()
			}
			b.gate.at, b.gate.why = n.at, n.why
			c.bundleAtGate(b)
		} else {
			c.bundleWaits(b, n.at)
		}
	default:
		var again []*task
		var nexts []next
		for i, t := range b.items {
			in := n.items[i]
			if over := in.kind != nextRetry && in.kind != nextGate && in.kind != nextHalt; over || t.Work.probing {
				c.finishItem(t, in)
				continue
			}
			if in.evidence != nil {
				c.evidence = append(c.evidence, checkpoint.Evidence{Position: c.position(t), Attempt: *in.evidence})
				in.evidence = nil
			}
			again, nexts = append(again, t), append(nexts, in)
		}
		if len(again) > 0 {
			c.retract(b, again, func() {
				for i, t := range again {
					c.finishItem(t, nexts[i])
				}
			})
		}
	}
}

// finishItem takes what is next for one item of a bundle (loop).
func (c *Connector) finishItem(t *task, n next) {
	// finish counts a worker down for each of its tasks.
	c.inFlight++
	t.Work.part.inFlight++
	c.finish(t, n)
}

// retract takes the begins of items back that had no effect and are to be tried again; then is what follows when that is
// durable (loop).
func (c *Connector) retract(b *bundle, items []*task, then func()) {
	for _, t := range items {
		w := t.Work
		w.suspect, w.doubt, w.credential, w.firstSent = false, false, "", time.Time{}
		c.batch.Retractions = append(c.batch.Retractions, checkpoint.Retraction{Lease: b.part.lease, Offset: t.Offset, Route: t.Route.Name, Batch: b.id})
	}
	c.batchRetracted = append(c.batchRetracted, retracted{b.part, then})
	b.part.unsettled++
}

// halve sends the two halves of a bundle that was refused as a whole, each as a batch of its own (loop).
func (c *Connector) halve(b *bundle) {
	mid := len(b.items) / 2
	for _, items := range [][]*task{b.items[:mid], b.items[mid:]} {
		half := &bundle{batchKey: b.batchKey, op: b.op, gate: b.gate, items: slices.Clone(items)}
		c.bundles = append(c.bundles, half)
	}
}

// A rejoining is a batch that was begun before the restart: its members come from intake one by one.
type rejoining struct {
	size, open int // members, and those that are still begun in it

	// The loop's own.
	items  []*task
	timer  *time.Timer
	broken string // why it cannot be repeated as it was, "" if it can
}

// rejoinings finds the batches among the begun sends of a partition.
func rejoinings(open map[position]*checkpoint.Open) map[string]*rejoining {
	var out map[string]*rejoining
	for _, o := range open {
		if len(o.Begins) == 0 {
			continue
		}
		m := o.Begins[len(o.Begins)-1].Batch
		if m == nil {
			continue
		}
		if out == nil {
			out = make(map[string]*rejoining)
		}
		r := out[m.ID]
		if r == nil {
			r = &rejoining{size: m.Size}
			out[m.ID] = r
		}
		r.open++
	}
	return out
}

// rejoin judges a task whose batch was begun before the restart: it may have had its effect.
func (c *Connector) rejoin(t *task, b checkpoint.Begin) (next, bool) {
	w := t.Work
	r := w.part.rejoin[b.Batch.ID]
	op := w.steps[w.step].Operation
	doubtful := func(why string) (next, bool) {
		if op.Probe == nil {
			return c.park(t, ambiguous(why)), true
		}
		w.probe(w.part.acquired.Add(op.LateApply))
		return next{}, false
	}
	if op.Class == profile.ClassNone {
		return doubtful("its batch was begun before a restart, and its answer is lost")
	}
	if c.gates[op.Name] == nil {
		return c.park(t, ambiguous("its batch was begun before a restart with operation "+op.Name+", which the profile no longer has")), true
	}
	if op.Class == profile.ClassKey && op.KeyRetention > 0 {
		if why := keyGone(op, b.At, c.now()); why != "" {
			return doubtful(why)
		}
		w.firstSent = c.firstSent(b.At)
	}
	req, err := w.steps[w.step].Build(w.in, w.gens[w.step])
	same := err == nil && req.Fingerprint == b.Fingerprint
	switch together := op.Batch != nil && r != nil && r.open == r.size && w.rejoinBroken == ""; {
	case !together && op.Batch != nil && op.Batch.Apart() && (same || op.Class == profile.ClassOverwrite):
		// Alone it goes under the key that it had in the batch.
		w.begun, w.single, w.credential, w.doubt = true, true, b.Credential, true
		return next{}, false
	case !together:
		return doubtful("its batch was begun before a restart, and it cannot be repeated as it was: " + reasonOr(w.rejoinBroken, "not all of its members are there"))
	}
	n := next{kind: nextRejoin}
	if !same {
		n.why = "a member cannot be rebuilt the same"
	}
	if err == nil {
		w.plan = []checkpoint.Step{{Step: w.steps[w.step].Name, Operation: op.Name, IdempotencyKey: req.IdempotencyKey, Generation: w.gens[w.step], IDs: w.in.IDs}}
	}
	w.request, w.batch, w.planned = req, b.Batch, true
	w.credential, w.doubt = b.Credential, true
	return n, true
}

// rejoined takes a member of a batch that is to be repeated as it was (loop). When all are there it is sent; if one
// cannot be rebuilt, or does not come, none may be sent again.
func (c *Connector) rejoined(t *task, broken string) {
	w, l := t.Work, t.Lane()
	l.Where, l.Busy = laneBatch, true
	r := w.part.rejoin[w.batch.ID]
	r.items = append(r.items, t)
	if broken != "" && r.broken == "" {
		r.broken = broken
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(c.cfg.ReferenceWait, func() {
			c.do(func() {
				if len(r.items) > 0 && !w.part.gone {
					r.broken = "a member cannot be read again"
					c.breakUp(r)
				}
			})
		})
	}
	switch {
	case r.broken != "":
		c.breakUp(r)
	case len(r.items) == r.size:
		r.timer.Stop()
		items := r.items
		r.items = nil
		slices.SortFunc(items, func(a, b *task) int { return cmp.Compare(a.Work.batch.Index, b.Work.batch.Index) })
		op := w.steps[w.step].Operation
		c.bundles = append(c.bundles, &bundle{batchKey: batchKey{w.part, w.steps[w.step]}, op: op, gate: c.gates[op.Name], items: items, id: w.batch.ID, begun: true,
			credential: w.credential, doubt: true, firstSent: w.firstSent})
	}
}

// breakUp lets the members that are there park themselves; those to come see it too (loop).
func (c *Connector) breakUp(r *rejoining) {
	items := r.items
	r.items = nil
	for _, t := range items {
		t.Work.rejoinBroken = r.broken
		t.Work.planned, t.Work.plan, t.Work.request = false, nil, nil
		l := t.Lane()
		l.Busy, l.Where = false, laneIdle
		c.wake(l)
	}
}
