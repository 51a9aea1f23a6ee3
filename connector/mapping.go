package connector

import (
	"errors"
	"fmt"
	"sync"

	"github.com/weirsync/weir/connector/profile"
)

// mappings rebuilds earlier mappings from the texts that the store kept. Safe for concurrent use.
type mappings struct {
	cfg Config
	mu  sync.Mutex
	old map[string]*profile.Compiled
}

func (m *mappings) init(cfg Config) {
	m.cfg = cfg
	m.old = make(map[string]*profile.Compiled)
}

// route is the route as an earlier mapping version had it. read reads the version's text from the store.
func (m *mappings) route(version, name string, read func(version string) ([]byte, error)) (*profile.Route, error) {
	p := m.known(version)
	if p == nil {
		// Without the lock: the store may be away, and other versions' sends need not wait for it.
		text, err := read(version)
		if err != nil {
			return nil, fmt.Errorf("its text: %w", err)
		}
		if m.cfg.Recompile == nil {
			return nil, errors.New("this build cannot rebuild it")
		}
		if p, err = m.cfg.Recompile(text); err != nil {
			return nil, err
		}
		m.mu.Lock()
		m.old[version] = p
		m.mu.Unlock()
	}
	for _, r := range p.Routes {
		if r.Name == name {
			return r, nil
		}
	}
	return nil, fmt.Errorf("it had no route %s", name)
}

func (m *mappings) known(version string) *profile.Compiled {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.old[version]
}
