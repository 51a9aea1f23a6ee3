package connector

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/profile"
)

// breakerNews takes up how the breaker of an operation stands after a request changed it or probed (loop). The breaker
// is asked now: the news of two workers may come in another order than their requests ended. An outage is the vendor's,
// so it is told once, whatever operations it meets.
func (c *Connector) breakerNews(g *gateQueue, detail string) {
	s, _ := g.Breaker()
	c.cfg.Observer.Breaker(g.op.Name, s)
	if s != deliver.Closed {
		if g.outage == nil {
			g.outage = &trouble{since: c.now(), reason: detail}
		}
		g.outage.reason = detail
		c.guard()
		if c.outage == nil {
			c.outage = &trouble{since: c.now(), reason: detail}
			c.log.Warn("outage: sending pauses and probes; no record is penalised", "operation", g.op.Name, "last", detail)
			if c.cfg.Profile.Health != nil && !c.asking {
				c.asking = true
				go c.askHealth()
			}
		}
		return
	}
	if g.outage == nil {
		return
	}
	g.outage = nil
	g.why = ""
	c.vendorAnswers()
	c.openGate(g)
}

// vendorAnswers is told when something shows that the vendor is there (loop): probes go on where they waited for that,
// and an operation that nothing waits for is no outage any more. Its breaker stays open, so that its next record probes.
func (c *Connector) vendorAnswers() {
	c.guard()
	for _, g := range c.gates {
		if g.outage == nil {
			continue
		}
		if s, _ := g.Breaker(); g.waiting() == 0 && s == deliver.Open {
			g.outage = nil
			continue
		}
		g.Allow()
		c.openGate(g)
	}
	if c.outage != nil && !slices.ContainsFunc(c.operations, func(g *gateQueue) bool { return g.outage != nil }) {
		c.log.Info("outage over", "after", time.Since(c.outage.since).Round(time.Millisecond))
		c.outage = nil
	}
}

// guard says which open breakers wait for something else before they let a record probe (loop; design section 6,
// Outage): all of them where the profile has a health call. Else those of operations whose lost probe would be
// ambiguous wait for one that can be repeated, as long as one has something to probe with.
func (c *Connector) guard() {
	health := c.cfg.Profile.Health != nil
	safe := slices.ContainsFunc(c.operations, func(g *gateQueue) bool {
		s, _ := g.Breaker()
		return g.op.Class != profile.ClassNone && (s == deliver.HalfOpen || s == deliver.Open && g.waiting() > 0)
	})
	for _, g := range c.operations {
		g.Guard(health || safe && g.op.Class == profile.ClassNone)
	}
}

// askHealth makes the profile's health call until no breaker is open. Its success lets a record probe.
func (c *Connector) askHealth() {
	ch := c.cfg.Profile.Health
	wait := deliver.HealthFirst
	for {
		select {
		case <-time.After(wait):
		case <-c.ctx.Done():
			return
		}
		ex := c.cfg.Sender.Send(c.ctx, &profile.Request{Method: ch.Method, Path: ch.Path, Anonymous: !ch.Auth, Operation: &profile.Operation{Name: ch.Name, Timeout: ch.Timeout}})
		good := ex.Sent == checkpoint.Answered && ch.Judge(ex.Answer.Status) == profile.CheckGood
		if wait = min(2*wait, deliver.HealthMax); good {
			wait = deliver.HealthFirst
		}
		open := false
		if !c.ask(func() {
			if good {
				c.vendorAnswers()
			}
			open = c.outage != nil
			c.asking = open
		}) || !open {
			return
		}
	}
}

// outageReason is the vendor's outage for the status, "" if there is none (loop).
func (c *Connector) outageReason() string {
	if c.outage == nil {
		return ""
	}
	var names []string
	last := c.outage.reason
	for _, g := range c.operations {
		if g.outage != nil {
			names, last = append(names, g.op.Name), g.outage.reason
		}
	}
	what := "operation"
	if len(names) > 1 {
		what = "operations"
	}
	return fmt.Sprintf("vendor: %s %s fails (%s); probing", what, strings.Join(names, ", "), last)
}
