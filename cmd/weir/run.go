package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/checkpoint/sqlite"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// A connectorRun is all that one connector needs to run.
type connectorRun struct {
	Name     string // of group, topics, ledger and metrics (config.Connector.RunName)
	Key      string // in the config
	Instance string // names this process in status rows
	Config   *config.Connector
	Kafka    kafka.Config // without group and topics
	Profile  *profile.Compiled
	Schemas  *schema.Set
	Decoder  schema.Decoder
	Store    checkpoint.Store
	Topics   map[string]string // topic -> entity
	Log      *slog.Logger
	Registry prometheus.Registerer // series of this connector carry the label connector
	// Watch is given the connector when it is made, nil-able.
	Watch func(watched)

	// Contract is what is checked from time to time, nil for nothing.
	Contract *contractWatch

	// Facts: the vendor calls back, so the topic of its facts is made.
	Facts bool

	LimitScale float64
	live       *liveRun
	// What an operator accepted for this start (design section 3).
	StoreLost    bool
	AcceptGaps   []kafka.TP
	AcceptTopics []string
}

type runCmd struct {
	*app
	limitScale   float64
	only         []string
	storeLost    []string
	acceptGaps   []string
	acceptTopics []string
}

func newRunCommand(a *app) *cobra.Command {
	c := &runCmd{app: a}
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the connectors of the config",
		Long: `Run every connector of the config until SIGINT or SIGTERM: the first one drains (what is in flight ends, is settled
and committed, within delivery.drain_timeout), a second one ends at once with exit code 128 + signal. One connector
that stops does not stop the others.

A changed config file is taken up while weir runs, within two seconds or on SIGHUP: secrets, limits, window and the
bounds of sending; other keys are named in the log and wait for a restart. A file with a fault is refused as a whole.

HTTP on ops.listen: /metrics, /healthz (the process is alive), /readyz (store and Kafka answer), /api/v1/status. On
webhooks.listen, if it is set: POST /webhooks/<connector>, for the calls of vendors.

Some states wait for an operator's word, which holds for one start: --store-lost says that the store was lost and
what may have been sent is to be treated as suspect; --accept-gap that records that Kafka has deleted are gone;
--accept-topic that a topic created anew is to be read.`,
		Example: `  weir run
  weir run --config prod.yaml --connector pushcash --log-format text
  weir run --accept-gap canonical.invoice/3`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.Float64Var(&c.limitScale, "limit-scale", 1, "multiply all declared quotas; for tests against a sandbox with the same scale")
	fs.StringSliceVar(&c.only, "connector", nil, "run this connector alone; may be repeated")
	fs.StringSliceVar(&c.storeLost, "store-lost", nil, "NAME of a connector whose store was lost; may be repeated")
	fs.StringSliceVar(&c.acceptGaps, "accept-gap", nil, "TOPIC/PARTITION whose missing records are accepted; may be repeated")
	fs.StringSliceVar(&c.acceptTopics, "accept-topic", nil, "TOPIC that was created anew and is to be read; may be repeated")
	return cmd
}

// A runPlan is what run makes of config and flags before it touches Kafka or the store.
type runPlan struct {
	cfg      *config.Config
	sum      [sha256.Size]byte // of the config file, taken before it was read
	contract *contract
	runs     []*connectorRun
}

// plan compiles everything; all its errors are exit code 2.
func (c *runCmd) plan() (*runPlan, error) {
	sum, err := config.Sum(c.configFile())
	if err != nil {
		return nil, err
	}
	cfg, err := c.config()
	if err != nil {
		return nil, err
	}
	if c.limitScale <= 0 {
		return nil, usageError("--limit-scale", fmt.Sprintf("%v is not above 0", c.limitScale), "use a number such as 10 or 0.5")
	}
	names := cfg.Names()
	for flag, list := range map[string][]string{"--connector": c.only, "--store-lost": c.storeLost} {
		for _, n := range list {
			if !slices.Contains(names, n) {
				return nil, usageError(flag, fmt.Sprintf("connector %q is not in the config", n), "use one of "+strings.Join(names, ", "))
			}
		}
	}
	if len(c.only) > 0 {
		names = slices.DeleteFunc(names, func(n string) bool { return !slices.Contains(c.only, n) })
	}
	gaps, err := parsePartitions("--accept-gap", c.acceptGaps)
	if err != nil {
		return nil, err
	}
	p := &runPlan{cfg: cfg, sum: sum}
	if p.contract, err = c.loadContract(cfg); err != nil {
		return nil, err
	}
	var problems []error
	for _, name := range names {
		k := cfg.Connectors[name]
		compiled, err := p.contract.compile(name, k, c.limitScale)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		r := &connectorRun{
			Name: k.RunName(name), Key: name, Instance: c.Hostname, Config: k, Profile: compiled, Schemas: p.contract.set, Topics: map[string]string{},
			LimitScale: c.limitScale, live: newLiveRun(k), StoreLost: slices.Contains(c.storeLost, name), AcceptGaps: gaps, AcceptTopics: c.acceptTopics,
		}
		if !k.DryRun() {
			if r.Contract, err = newContractWatch(k, compiled); err != nil {
				problems = append(problems, yours("connectors."+name+".contract_check", err, ""))
			}
		}
		if cfg.Webhooks.Listen != "" && !k.DryRun() {
			r.Facts, _ = calledBack(k, compiled)
		}
		for _, route := range compiled.Routes {
			r.Topics[k.Topic(route.Entity)] = route.Entity
		}
		if r.Decoder, err = p.contract.decoderFor(cfg, r.Topics); err != nil {
			problems = append(problems, yours("connector "+name, err, ""))
		}
		p.runs = append(p.runs, r)
	}
	return p, errors.Join(problems...)
}

// parsePartitions reads TOPIC/PARTITION flags.
func parsePartitions(flag string, list []string) ([]kafka.TP, error) {
	var out []kafka.TP
	for _, s := range list {
		i := strings.LastIndexByte(s, '/')
		n, err := strconv.ParseInt(s[i+1:], 10, 32)
		if i <= 0 || err != nil || n < 0 {
			return nil, usageError(flag, fmt.Sprintf("%q is not a topic and partition", s), "use TOPIC/PARTITION, such as canonical.invoice/3")
		}
		out = append(out, kafka.TP{Topic: s[:i], Partition: int32(n)})
	}
	return out, nil
}

// gcPercent is how much garbage a run lets gather beside what it needs, unless GOGC says otherwise: what it needs is
// small, about 70 MiB under full load, and at Go's 100 it was collected three times a second, for a tenth of the CPU.
const gcPercent = 200

// procsForDisk is how many more threads run Go than there are CPUs for us: the store waits for the disk a tenth of the time,
// and the one that waits there keeps its place until the runtime notices, after up to 10 ms.
const procsForDisk = 1

func (c *runCmd) run(ctx context.Context) (err error) {
	if c.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if c.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + procsForDisk)
	}
	log, err := c.log()
	if err != nil {
		return err
	}
	p, err := c.plan()
	if err != nil {
		return err
	}
	if c.limitScale != 1 {
		log.Warn("declared quotas are scaled: this is for tests against a sandbox with the same scale, not for a real vendor", "limit_scale", c.limitScale)
	}
	store, err := c.openStore(ctx, p.cfg, sqlite.Runner)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildMetric(readBuild()))
	kc, err := c.kafkaConfig(p.cfg.Kafka)
	if err != nil {
		return err
	}
	admin, err := kafka.NewAdmin(kc) // Kafka may still be on its way up: /readyz says so
	if err != nil {
		return environment("connect to Kafka", err, "")
	}
	defer admin.Close()
	reload := newReloader(c.app, p, c.limitScale, log)
	registry.MustRegister(reload.reloads)
	if kc.SASL != nil {
		kc.SASL.Password = func() (string, error) { return reload.running.Load().Kafka.SASL.Password.Value() }
	}
	ops := &opsServer{app: c.app, cfg: p.cfg, token: func() config.Secret { return reload.running.Load().Ops.Token }, store: store, admin: admin, registry: registry, log: log}
	stopOps, err := ops.start(ctx)
	if err != nil {
		return &failure{exitEnv, "listen on ops.listen " + p.cfg.Ops.Listen, err, "is another weir running? choose another port"}
	}
	defer stopOps()
	stopWebhooks, err := c.startWebhooks(ctx, p, kc, store, registry, log)
	if err != nil {
		return err
	}
	defer stopWebhooks()
	if eff, eerr := p.cfg.EffectiveJSON(); eerr == nil {
		log.Info("config in force", "file", p.cfg.File(), "config", rawJSON(eff))
	}

	ctx, stop := c.interruptible(ctx, func(s os.Signal) {
		log.Info("draining; a second signal ends at once", "signal", s.String())
	})
	defer stop()
	for _, r := range p.runs {
		r.Watch = func(w watched) { ops.watch(r.Name, w) }
	}
	watching, stopWatching := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { reload.watch(watching, p.sum) })
	wg.Go(func() { watchClock(watching, c.Now, log) })
	defer func() { stopWatching(); wg.Wait() }()
	return c.supervise(ctx, p, kc, store, registry, log)
}

// A wall clock that moves by clockStep against the monotonic one is said in the log. It is looked at every clockLook.
const (
	clockStep = 5 * time.Second
	clockLook = time.Second
)

// watchClock says when the wall clock was set. Nothing has to be done then, since waits, quotas and leases go by the
// monotonic clock; but times in the log and the ledger do not fit each other any more, and somebody will wonder.
func watchClock(ctx context.Context, now func() time.Time, log *slog.Logger) {
	tick := time.NewTicker(clockLook)
	defer tick.Stop()
	for last := now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		at := now()
		if by := at.Round(0).Sub(last.Round(0)) - at.Sub(last); by.Abs() >= clockStep {
			log.Warn("the clock was set, or the machine slept: times before and after this line differ by more than what passed; waits and quotas do not go by it", "by", by.Round(time.Millisecond).String())
		}
		last = at
	}
}

// supervise runs all connectors until each has ended. One that fails is logged at once and is part of the error;
// the others go on (design section 3).
func (c *runCmd) supervise(ctx context.Context, p *runPlan, kc kafka.Config, store checkpoint.Store, registry prometheus.Registerer, log *slog.Logger) error {
	run := runConnector
	if c.RunConnector != nil {
		run = c.RunConnector
	}
	errs := make([]error, len(p.runs))
	var wg sync.WaitGroup
	for i, r := range p.runs {
		r.Kafka, r.Store, r.Log = kc, store, log
		r.Registry = prometheus.WrapRegistererWith(prometheus.Labels{"connector": r.Name}, registry)
		if r.Config.DryRun() {
			log.Warn("dry run: nothing is sent to the vendor", "connector", r.Name)
		}
		log.Info("connector starts", "connector", r.Name, "profile", r.Profile.Vendor, "base_url", r.Profile.BaseURL, "mapping", r.Profile.Version)
		wg.Go(func() {
			if errs[i] = run(ctx, *r); errs[i] != nil {
				log.Error("connector stopped; the others go on", "connector", r.Name, "error", errs[i].Error())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// buildMetric is weir_build_info.
func buildMetric(b buildInfo) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_build_info", Help: "Always 1; which build runs.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "goversion": b.Go},
	})
	g.Set(1)
	return g
}

// rawJSON is JSON that a JSON log embeds as it is.
type rawJSON []byte

func (r rawJSON) MarshalJSON() ([]byte, error) { return r, nil }
func (r rawJSON) String() string               { return string(r) }
