package connector

import (
	"context"
	"time"

	"github.com/weirsync/weir/connector/profile"
)

// watchConfirmations tells, once a second, of accepted requests of which the vendor has not said in time how they ended, until
// ctx ends. Their outcome stays: whether a payment went through is for the vendor to say, and for a person to ask.
func (c *Connector) watchConfirmations(ctx context.Context) {
	if !confirmsLater(c.cfg.Profile) {
		return
	}
	var since time.Time // when the first became overdue; zero: none is
	every(ctx, func() {
		now := c.now()
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		u, err := c.cfg.Store.Unconfirmed(ctx, c.cfg.Name, now, 1)
		if err != nil {
			c.ifDamaged("look for unconfirmed records", err)
			return // told by whoever waits for the store; the next look is soon
		}
		c.cfg.Observer.Unconfirmed(u.Waiting, u.Overdue)
		switch {
		case u.Overdue > 0 && since.IsZero():
			since = now
			c.log.Warn("the vendor has not said how accepted requests ended, and should have; ask it, or look whether its webhooks arrive",
				"overdue", u.Overdue, "waiting", u.Waiting, "first", u.First[0].EventID, "due", u.First[0].Due)
		case u.Overdue == 0 && !since.IsZero():
			c.log.Info("no accepted request is overdue for the vendor's word any more", "after", now.Sub(since).Round(time.Second), "waiting", u.Waiting)
			since = time.Time{}
		}
	})
}

// confirmsLater reports whether the vendor accepts requests whose end it tells later.
func confirmsLater(p *profile.Compiled) bool {
	for _, op := range p.Operations {
		if op.Deadline > 0 {
			return true
		}
	}
	return false
}
