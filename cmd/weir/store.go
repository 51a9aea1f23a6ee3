package main

import (
	"context"
	"errors"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/failpoint"
)

// openStore opens the checkpoint store: to run connectors (exclusive), or to read it and write commands beside a
// running weir.
func (a *app) openStore(ctx context.Context, cfg *config.Config, role sqlite.Role) (checkpoint.Store, error) {
	s, err := sqlite.Open(ctx, cfg.Checkpoint.SQLite(), sqlite.Options{Role: role, Now: a.Now, Hooks: storeHooks(role)})
	if err == nil {
		return s, nil
	}
	what, hint := "checkpoint.store "+cfg.Checkpoint.Store, ""
	switch {
	case errors.Is(err, checkpoint.ErrNotFound):
		hint = "weir run creates it; or is --config the right one?"
	case errors.Is(err, checkpoint.ErrLocked):
		hint = "one running weir owns an SQLite store: stop it, or give this one a store of its own"
	case errors.Is(err, checkpoint.ErrVersion):
		hint = "use the build that wrote it, or a newer one"
	case errors.Is(err, checkpoint.ErrCorrupt):
		hint = "is it the right file? if so, restore a backup; weir then sees that it is older than Kafka's commits and says what to do"
	default:
		hint = "its folder must exist, and this user must be able to read and write it"
	}
	return nil, &failure{exitEnv, what, err, hint}
}

// storeHooks lets crash tests stop the runner inside a transaction.
func storeHooks(role sqlite.Role) sqlite.Hooks {
	if !failpoint.Enabled || role != sqlite.Runner {
		return sqlite.Hooks{}
	}
	return sqlite.Hooks{BeforeCommit: func() { failpoint.Hit("settling") }}
}

// readStore opens the store beside a running weir.
func (a *app) readStore(ctx context.Context, cfg *config.Config) (checkpoint.Store, error) {
	return a.openStore(ctx, cfg, sqlite.Reader)
}
