package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// reloadEvery is how often the config file is looked at. A change is taken up when two looks in a row find the same
// new content, so that a file that is being written is not read half.
const reloadEvery = time.Second

// A liveRun is what of a connectorRun changes while it runs (design section 13). Safe for concurrent use.
type liveRun struct {
	mu     sync.Mutex
	config *config.Connector
	bounds connector.Bounds
	engine *connector.Connector // nil until it runs
}

func newLiveRun(k *config.Connector) *liveRun { return &liveRun{config: k, bounds: boundsOf(k)} }

// secret answers a secret of the config in force by its name.
func (l *liveRun) secret(name string) (string, error) {
	l.mu.Lock()
	k := l.config
	l.mu.Unlock()
	return secretOf(k)(name)
}

// previous answers the previous value of a secret of the config in force, [profile.ErrNoSecret] if it has none.
func (l *liveRun) previous(name string) (string, error) {
	l.mu.Lock()
	k := l.config
	l.mu.Unlock()
	s := k.Rotation[name].Previous
	if s.IsZero() {
		return "", profile.ErrNoSecret
	}
	return s.Value()
}

// rotation is what the config in force knows of the life of secrets.
func (l *liveRun) rotation() (rotation map[string]config.Rotation, secrets map[string]config.Secret) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.config.Rotation, l.config.Secrets
}

// attach hands the running connector over; what has changed since the start reaches it now.
func (l *liveRun) attach(c *connector.Connector) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.engine = c
	c.Change(l.bounds)
}

// change puts another config in force.
func (l *liveRun) change(k *config.Connector, limits []*profile.Limit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.config, l.bounds = k, boundsOf(k)
	l.bounds.Limits = limits
	if l.engine != nil {
		l.engine.Change(l.bounds)
	}
}

func boundsOf(k *config.Connector) connector.Bounds {
	return connector.Bounds{MaxInFlight: k.Delivery.MaxInFlight, AttemptsMax: k.Delivery.AttemptsMax, ElapsedMax: k.Delivery.ElapsedMax.D(),
		WindowRecords: k.Window.Records, WindowBytes: int64(k.Window.Bytes)}
}

// A reloader takes a changed config file up while weir runs: on SIGHUP, and when it sees that the file has changed.
// A file with a fault is refused as a whole.
type reloader struct {
	*app
	log     *slog.Logger
	plan    *runPlan
	scale   float64
	running atomic.Pointer[config.Config] // in force
	reloads *prometheus.CounterVec
}

func newReloader(a *app, p *runPlan, limitScale float64, log *slog.Logger) *reloader {
	r := &reloader{app: a, log: log, plan: p, scale: limitScale, reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "weir_config_reloads_total", Help: "Changed config files that were taken up (applied) or had a fault (refused).",
	}, []string{"outcome"})}
	r.reloads.WithLabelValues("applied")
	r.reloads.WithLabelValues("refused")
	r.running.Store(p.cfg)
	return r
}

// watch runs until ctx ends. seen is the content that runs now.
func (r *reloader) watch(ctx context.Context, seen [sha256.Size]byte) {
	hup, stop := r.Reload()
	defer stop()
	tick := time.NewTicker(reloadEvery)
	defer tick.Stop()
	before, gone := seen, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
			r.log.Info("SIGHUP: the config file is read again", "file", r.plan.cfg.File())
			if sum, err := config.Sum(r.plan.cfg.File()); err == nil {
				seen, before = sum, sum
			}
			r.reload()
		case <-tick.C:
			sum, err := config.Sum(r.plan.cfg.File())
			switch {
			case err != nil:
				if !gone {
					r.log.Warn("the config file cannot be read; the config in force stays", "error", err.Error())
				}
			case sum != seen && sum == before:
				seen = sum
				r.log.Info("the config file has changed", "file", r.plan.cfg.File())
				r.reload()
			}
			gone = err != nil
			if err == nil {
				before = sum
			}
		}
	}
}

// reload puts in force what can be, and names the rest.
func (r *reloader) reload() {
	now, limits, changed, restart, err := r.next()
	if err != nil {
		r.reloads.WithLabelValues("refused").Inc()
		for _, why := range reasons(err) {
			r.log.Error("config not taken up; the config in force stays", "error", why)
		}
		r.log.Error("mend the config file and save it, or send SIGHUP; weir config print --config FILE shows its faults too")
		return
	}
	r.running.Store(now)
	for _, run := range r.plan.runs {
		run.live.change(now.Connectors[run.Key], limits[run.Key])
	}
	r.reloads.WithLabelValues("applied").Inc()
	for _, key := range restart {
		r.log.Warn("this key needs a restart; what is in force stays", "key", key)
	}
	r.log.Info("config taken up", "changed", changed, "needs_restart", restart)
}

// next reads the file and works out the config to run with. It changes nothing.
func (r *reloader) next() (now *config.Config, limits map[string][]*profile.Limit, changed, restart []string, err error) {
	to, err := r.config()
	if err != nil {
		return nil, nil, nil, nil, err
	}
	var faults []error
	if _, err := r.kafkaConfig(to.Kafka); err != nil {
		faults = append(faults, err)
	}
	cur := r.running.Load()
	now, changed, restart = cur.Update(to)
	if err := now.Validate(); err != nil {
		// Such as a token that goes while the listener that needs it stays.
		faults = append(faults, fmt.Errorf("with what is in force until a restart: %w; restart weir", err))
	}
	versions := map[string]string{}
	for _, name := range to.Names() {
		k := to.Connectors[name]
		compiled, err := r.plan.contract.compile(name, k, r.scale)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		versions[name] = compiled.Version
		for _, secret := range compiled.Secrets {
			if old := cur.Connectors[name]; old == nil || old.Secrets[secret].Ref() != k.Secrets[secret].Ref() {
				if _, err := secretOf(k)(secret); err != nil {
					faults = append(faults, fmt.Errorf("connector %s: %w", name, err))
				}
			}
		}
	}
	for _, name := range to.Names() {
		for secret, r := range to.Connectors[name].Rotation {
			if old := cur.Connectors[name]; r.Previous.IsZero() || old != nil && old.Rotation[secret].Previous.Ref() == r.Previous.Ref() {
				continue
			}
			if _, err := r.Previous.Value(); err != nil {
				faults = append(faults, fmt.Errorf("connector %s: rotation.%s.previous: %w", name, secret, err))
			}
		}
	}
	limits = map[string][]*profile.Limit{}
	for _, run := range r.plan.runs {
		if len(faults) > 0 {
			break // it is refused anyway
		}
		k := now.Connectors[run.Key]
		// The mapping in force with the new numbers: its own file may have moved on, which takes a restart.
		compiled, err := profile.CompileText(run.Profile.Text, compileOptions(run.Key, k, r.scale, r.plan.contract.set))
		if err != nil {
			faults = append(faults, yours("connector "+run.Name, err, ""))
			continue
		}
		limits[run.Key] = compiled.Limits
		at := "connectors." + run.Key
		if v := versions[run.Key]; v != "" && v != run.Profile.Version && !slices.ContainsFunc(restart, func(key string) bool {
			return key == at+".profile" || strings.HasPrefix(key, at+".vars")
		}) {
			restart = append(restart, at+".profile (its file has changed)")
		}
	}
	return now, limits, changed, restart, errors.Join(faults...)
}

// reasons are the lines of an error, one fault each.
func reasons(err error) []string {
	if ce, ok := errors.AsType[*config.Error](err); ok && len(ce.Problems) > 0 {
		var out []string
		for _, p := range ce.Problems {
			out = append(out, p.String())
		}
		return out
	}
	return strings.Split(err.Error(), "\n")
}

// compileOptions are what a connector of the config adds to its profile.
func compileOptions(name string, k *config.Connector, limitScale float64, schemas *schema.Set) profile.Options {
	limits := make(map[string]profile.LimitChange, len(k.Limits))
	for n, l := range k.Limits {
		limits[n] = profile.LimitChange{N: l.N, Window: l.Window.D(), Burst: l.Burst}
	}
	return profile.Options{Connector: name, Environment: k.Environment, BaseURL: k.BaseURL, Vars: k.Vars, LimitScale: limitScale,
		Limits: limits, Schemas: schemas, Secrets: slices.Collect(maps.Keys(k.Secrets)), RequestTimeout: k.Delivery.RequestTimeout.D()}
}
