package connector

import (
	"fmt"
	"sort"
	"strings"
)

// Picture says for a test that waited in vain where everything stands: what each lane waits for, and the rest of the
// loop's state.
func (c *Connector) Picture() string {
	var b strings.Builder
	where := [...]string{"idle", "ready", "busy", "gated", "timer", "reference", "horizon", "halted", "batch"}
	ok := c.ask(func() {
		fmt.Fprintf(&b, "in flight %d (wire %d), settlements %d, flushing %t, ready %d, waiting %d, halted %v\n", c.inFlight, c.wire.inUse(), len(c.batch.Settlements), c.flushing, len(c.ready)-c.readyHead, len(c.waiting), c.halted)
		for _, p := range c.parts {
			n, bytes := p.set.Pending()
			if n == 0 && p.queuedRecords.Load() == 0 && p.hold+p.waits == "" {
				continue
			}
			fmt.Fprintf(&b, "%s: mark %d, low %d, next %d, horizon %d, pending %d (%d bytes), queued %d, in flight %d, paused %t, gone %t, revoking %t, raising %t, hold %q, waits %q\n",
				p.id, p.mark, p.set.Low(), p.set.Next(), p.horizon, n, bytes, p.queuedRecords.Load(), p.inFlight, p.paused, p.gone, p.revoking, p.raising, p.hold, p.waits)
			p.set.Lanes(func(l *keyLane) {
				if l.Len() == 0 {
					return
				}
				h := l.Head()
				fmt.Fprintf(&b, "  %s, busy %t, %d tasks, settling %d, head: offset %d, %d attempts, waits at gate %t\n", where[l.Where], l.Busy, l.Len(), l.Settling, h.Offset, len(h.Work.attempts), h.Work.gate != nil)
			})
		}
		var gates []string
		for _, g := range c.operations {
			state, _ := g.Breaker()
			gates = append(gates, fmt.Sprintf("%s: %d waiting, why %q, at %v, timer %t, breaker %v, room %d", g.op.Name, g.waiting(), g.why, g.at, g.timer != nil, state, g.Room(c.now())))
		}
		sort.Strings(gates)
		b.WriteString(strings.Join(gates, "\n"))
	})
	if !ok {
		return "the loop has ended"
	}
	return b.String()
}
