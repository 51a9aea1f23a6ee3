package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/drift"
	"github.com/weirsync/weir/connector/profile"
)

// contractFirst is when the first check is made at the latest: not at once, since a process that ends again and again
// would fill the vendor with the objects of its checks.
const contractFirst = 5 * time.Minute

// A contractWatch checks a connector's contract from time to time.
type contractWatch struct {
	checker drift.Checker
	every   time.Duration
	sender  *deliver.Sender
	drifted func(kind string, n int)
	log     *slog.Logger

	known   map[driftKey]bool // what the last check found
	trouble string            // why the last check did not come to its end
}

// A driftKey is what makes two findings the same.
type driftKey struct {
	pair, path string
	kind       drift.Kind
}

// newContractWatch reads the contract of a connector that has contract_check, nil for one that has not.
func newContractWatch(k *config.Connector, compiled *profile.Compiled) (*contractWatch, error) {
	if k.Contract == nil {
		return nil, nil
	}
	p, err := profile.Load(k.Profile)
	if err != nil {
		return nil, err
	}
	pairs, err := loadPairs(p.Contract())
	if err != nil {
		return nil, err
	}
	w := &contractWatch{every: k.Contract.Every.D(), checker: drift.Checker{Pairs: pairs, Operations: compiled.Operations, Writes: drift.AllWrites}}
	if p.Production(compiled) {
		w.checker.Writes = drift.NoWrites
	}
	return w, nil
}

// watch checks until ctx ends.
func (w *contractWatch) watch(ctx context.Context) {
	w.checker.Sender = w.sender
	t := time.NewTimer(min(contractFirst, w.every))
	defer t.Stop()
	for {
		select {
		case <-t.C:
			w.check(ctx)
			t.Reset(w.every)
		case <-ctx.Done():
			return
		}
	}
}

// check checks once and tells what has changed since the last time: one line for each difference.
func (w *contractWatch) check(ctx context.Context) {
	r, err := w.checker.Check(ctx)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		why := err.Error()
		if e, ok := errors.AsType[*drift.UnansweredError](err); ok {
			why = e.Why()
		}
		if why != w.trouble {
			w.log.Warn("the contract could not be checked; what was found before stands", "err", err)
		}
		w.trouble = why
		return
	}
	w.trouble = ""
	counts, found := map[drift.Kind]int{}, map[driftKey]bool{}
	for _, f := range r.Drift {
		counts[f.Kind]++
		id := driftKey{f.Pair, f.Path, f.Kind}
		found[id] = true
		if !w.known[id] {
			w.log.Warn("the vendor's answers have changed", "pair", f.Pair, "kind", string(f.Kind), "what", sentenceOf(f), "breaking", f.Breaking)
		}
	}
	for id := range w.known {
		if !found[id] {
			w.log.Info("the vendor's answers are again as recorded", "pair", id.pair, "kind", string(id.kind), "path", id.path)
		}
	}
	w.known = found
	for _, kind := range drift.Kinds {
		w.drifted(string(kind), counts[kind])
	}
}
