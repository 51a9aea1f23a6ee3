package connector

import (
	"context"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/profile"
)

// confirmEvery is how often it is looked whether the vendor's word on accepted requests is overdue: deadlines are hours.
const confirmEvery = 5 * time.Second

// watchConfirmations tells of accepted requests of which the vendor has not said in time how they ended, until ctx ends.
// Their outcome stays: whether a payment went through is for the vendor to say, and for a person to ask.
func (c *Connector) watchConfirmations(ctx context.Context) {
	if !confirmsLater(c.cfg.Profile) {
		return
	}
	var since time.Time // when the first became overdue; zero: none is
	look := func() {
		now := c.now()
		qctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		u, err := c.cfg.Store.Unconfirmed(qctx, c.cfg.Name, now, 1)
		if err != nil {
			c.ifDamaged("look for unconfirmed records", err)
			return // told by whoever waits for the store; the next look is soon
		}
		c.cfg.Observer.Unconfirmed(u.Waiting, u.Overdue)
		switch {
		case u.Overdue > 0 && since.IsZero():
			since = now
			c.log.Warn("the vendor has not said how accepted requests ended, and should have; ask it, or look whether its webhooks arrive",
				"overdue", u.Overdue, "waiting", u.Waiting, "first", unconfirmedName(u.First), "due", u.First[0].Due)
		case u.Overdue == 0 && !since.IsZero():
			c.log.Info("no accepted request is overdue for the vendor's word any more", "after", now.Sub(since).Round(time.Second), "waiting", u.Waiting)
			since = time.Time{}
		}
	}
	look()
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			look()
		}
	}
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

func unconfirmedName(first []checkpoint.Unconfirmed) string {
	if len(first) == 0 {
		return ""
	}
	return first[0].EventID
}
