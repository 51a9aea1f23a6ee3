package harness

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// claimMax bounds the wait for names that another test holds.
const claimMax = 5 * time.Minute

// claims are the names on a shared broker that tests hold. Safe for concurrent use.
type claims struct {
	mu      sync.Mutex
	held    map[string]string // name -> test
	changed chan struct{}     // closed and replaced at each release
}

func (c *claims) init() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = make(map[string]string)
	c.changed = make(chan struct{})
}

// claim takes all names for the test, or waits until it can take all at once, so that two calls cannot wait for
// each other. It returns those that the test did not hold before, after check has accepted them.
func (c *claims) claim(ctx context.Context, test string, names []string, check func(context.Context, []string) error) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, claimMax)
	defer cancel()
	for {
		news, by, changed := c.try(test, names)
		if by == "" {
			if len(news) == 0 {
				return nil, nil
			}
			if err := check(ctx, news); err != nil {
				c.release(news)
				return nil, err
			}
			return news, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("%q are held by test %s: %w", names, by, context.Cause(ctx))
		}
	}
}

// try takes the names and returns the new ones, or says which test holds one of them.
func (c *claims) try(test string, names []string) (news []string, by string, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	set := make(map[string]bool)
	for _, n := range names {
		switch holder := c.held[n]; holder {
		case "":
			set[n] = true
		case test:
		default:
			return nil, holder, c.changed
		}
	}
	for n := range set {
		c.held[n] = test
	}
	return slices.Sorted(maps.Keys(set)), "", nil
}

func (c *claims) release(names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		delete(c.held, n)
	}
	close(c.changed)
	c.changed = make(chan struct{})
}
