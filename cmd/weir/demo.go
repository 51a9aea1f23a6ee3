package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/config"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/verify"
)

const (
	demoSpan = 30 * time.Second
	// demoRate is a pace that one slow core keeps up with, broker, vendors and checker included.
	demoRate    = 400
	demoSpanMin = time.Second
	// demoLimitScale lifts Push Cash's 100 creates an hour out of the way: a demo is about crashes, not about waiting.
	demoLimitScale = 1_000_000
	// demoStall ends the wait for the last records when none has got its outcome for so long.
	demoStall = 60 * time.Second
	// demoThrottled is how many requests one burst of 429s refuses.
	demoThrottled = 20
	// demoLook is the time between two looks at broker, store and vendors: they cost a few milliseconds each.
	demoLook = 500 * time.Millisecond
	// demoStop bounds the connector process's orderly end.
	demoStop = 40 * time.Second
)

type demoCmd struct {
	*app
	span       time.Duration
	events     int
	seed       uint64
	keep       string
	reopenDir  string
	kills      bool
	vendors    []string
	limitScale float64
}

func newDemoCommand(a *app) *cobra.Command {
	c := &demoCmd{app: a}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "See it deliver through crashes and outages, and be checked",
		Long: `Start a broker and some vendors in this process, publish made-up events, and run weir beside them as a process of
its own. The vendors fail on purpose: errors, lost answers, slow answers, 429s, outages. The weir process is killed with
SIGKILL and started again (--kill=false: not). When all is delivered, the independent checker compares the topics,
weir's ledger and the vendors' own logs, and says whether anything was lost, doubled or out of order.

Nothing needs to be installed. Everything is in one folder, which is kept and named at the end: weir status, trace and
parked work on it, and --reopen brings its broker and vendors back.

The verdict goes to stdout (with --json to stderr, and one JSON line to stdout), progress to stderr. Exit code 1: the
verdict is not clean, or records were left when nothing had moved for a minute. The first Ctrl-C stops in order,
a second one at once.`,
		Example: `  weir demo
  weir demo --for 2m --events 100000
  weir demo --vendors all
  weir demo --for 10s --keep ./demo --json | jq .lost
  weir demo --reopen ./demo`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.reopenDir != "" {
				return c.reopen(cmd.Context())
			}
			if err := c.plan(cmd.Flags().Changed("for")); err != nil {
				return err
			}
			return c.run(cmd.Context())
		},
	}
	fs := cmd.Flags()
	fs.DurationVar(&c.span, "for", demoSpan, "how long to publish; afterwards the rest is delivered")
	fs.IntVar(&c.events, "events", 0, fmt.Sprintf("events to publish, 0: %d for each second of --for; alone it also sets --for", demoRate))
	fs.Uint64Var(&c.seed, "seed", 1, "seed of events, faults and the moments of the kills")
	fs.StringVar(&c.keep, "keep", "", "folder for everything, new or empty; without it one among temporary files")
	fs.StringVar(&c.reopenDir, "reopen", "", "serve the broker and the vendors of an earlier demo's folder again, until Ctrl-C")
	fs.BoolVar(&c.kills, "kill", true, "kill the weir process with SIGKILL now and then")
	fs.StringSliceVar(&c.vendors, "vendors", demoVendorsDefault, "vendors, separated by commas, of "+strings.Join(demoVendorsAll, ", ")+"; all: each of them")
	fs.Float64Var(&c.limitScale, "limit-scale", demoLimitScale, "multiply all vendor quotas, in the sandboxes and in weir")
	a.jsonFlag(cmd, "one JSON line at the end {events, delivered, accepted, unchanged, superseded, folded, ignored, parked, dead_lettered, lost, duplicated, reordered, seconds, seed}")
	return cmd
}

// plan checks the flags and makes one of --for and --events of the other.
func (c *demoCmd) plan(spanGiven bool) error {
	switch {
	case c.span < demoSpanMin || c.span > 24*time.Hour:
		return usageError("--for", c.span.String()+" is not within 1s to 24h", "")
	case c.events < 0 || c.events > 10_000_000:
		return usageError("--events", fmt.Sprintf("%d is not within 0 to 10000000", c.events), "0 means as many as fit into --for")
	case !(c.limitScale > 0) || c.limitScale > 1e9:
		return usageError("--limit-scale", fmt.Sprintf("%v is not above 0 and at most 1e9", c.limitScale), "")
	}
	if slices.Equal(c.vendors, []string{"all"}) {
		c.vendors = demoVendorsAll
	}
	seen := map[string]bool{}
	for _, v := range c.vendors {
		if !slices.Contains(demoVendorsAll, v) || seen[v] {
			return usageError("--vendors", fmt.Sprintf("%q is no vendor of the demo, or is named twice", v), "use all, or some of "+strings.Join(demoVendorsAll, ","))
		}
		seen[v] = true
	}
	if len(c.vendors) == 0 {
		return usageError("--vendors", "none is named", "use all, or some of "+strings.Join(demoVendorsAll, ","))
	}
	if c.events == 0 {
		c.events = int(c.span.Seconds() * demoRate)
	} else if !spanGiven {
		c.span = max(5*time.Second, time.Duration(float64(c.events)/demoRate*float64(time.Second)))
	}
	return nil
}

// folder makes the demo's folder.
func (c *demoCmd) folder() (string, error) {
	if c.keep == "" {
		dir, err := c.TempDir("weir-demo-")
		if err != nil {
			return "", yours("make a folder for the demo", err, "name one with --keep")
		}
		return dir, nil
	}
	dir, err := filepath.Abs(c.keep)
	if err == nil {
		err = c.MakeDir(dir)
	}
	var in []fs.DirEntry
	if err == nil {
		in, err = fs.ReadDir(c.Dir(dir), ".")
	}
	if err == nil && len(in) > 0 {
		return "", usageError("--keep "+c.keep, "the folder is not empty", "give a new one; weir demo --reopen "+shellWord(c.keep)+" goes on with one of an earlier demo")
	}
	if err != nil {
		return "", yours("--keep "+c.keep, err, "give a folder that can be written")
	}
	return dir, nil
}

// A demo is one run of the command. Only its own goroutine touches it, but for the publisher's count and running.
type demo struct {
	*demoCmd
	dir       string
	cfg       *config.Config
	world     *demoWorld
	admin     *kafka.Admin
	histories []*history // for the checker, one per connector
	screen    *demoScreen
	log       io.WriteCloser   // the connector process's output
	store     checkpoint.Store // for the screen, nil until it is made
	started   time.Time        // of the child
	child     *child
	running   atomic.Pointer[child] // child, for a second signal
	killed    int
	outages   int
	topics    []string
	publisher demoPublisher
	view      demoView
	moved     time.Time // when a record last got its outcome
	left      int64     // records without one
	midway    []demoFinding
}

// A demoFinding is what the checker found when a process had just been killed.
type demoFinding struct {
	kill      int
	connector string
	report    *verify.Report
}

func (c *demoCmd) run(ctx context.Context) (err error) {
	dir, err := c.folder()
	if err != nil {
		return err
	}
	d := &demo{demoCmd: c, dir: dir, screen: c.demoScreen()}
	exit := c.Exit
	c.Exit = func(code int) { // of a second signal
		if child := d.running.Load(); child != nil {
			child.kill()
		}
		exit(code)
	}
	ctx, stop := c.interruptible(ctx, func(s os.Signal) { c.notef("weir: stopping (%s); once more ends at once", s) })
	defer stop()
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		return err
	}
	ended, err := d.deliver(ctx)
	d.screen.end()
	if err != nil {
		return err
	}
	if err := d.child.stop(demoStop); err != nil {
		return fmt.Errorf("stop the connector process: %w; see %s", err, filepath.Join(dir, demoLogFile))
	}
	return d.verdict(ctx, ended)
}

// How a demo's delivery ended.
type demoEnd string

const (
	demoDone    demoEnd = "done"    // everything has its outcome
	demoStalled demoEnd = "stalled" // nothing has moved for demoStall
	demoStopped demoEnd = "stopped" // by a signal
)

// open starts everything.
func (d *demo) open(ctx context.Context) (err error) {
	d.notef(demoIntro, d.span, strings.Join(d.vendors, " and "))
	d.notef("warning: vendor quotas are multiplied by %s (--limit-scale)", plainNumber(d.limitScale))
	if d.world, err = openDemoWorld(ctx, d.dir, d.vendors, demoPlace{LimitScale: d.limitScale, Seed: d.seed}); err != nil {
		return err
	}
	if err := d.writeDemoFiles(d.world, d.world.place(d.limitScale, d.seed)); err != nil {
		return err
	}
	file := filepath.Join(d.dir, demoConfigFile)
	if d.cfg, err = config.Load(file, d.Getenv); err != nil {
		return fmt.Errorf("the demo's own config: %w", err)
	}
	if d.admin, err = d.connect(ctx, d.cfg.Kafka); err != nil {
		return err
	}
	for _, name := range d.vendors {
		h, err := d.newHistory(d.cfg, name)
		if err != nil {
			return err
		}
		if err := h.open(ctx); err != nil {
			return err
		}
		d.histories = append(d.histories, h)
		for topic := range h.topics {
			if !slices.Contains(d.topics, topic) {
				d.topics = append(d.topics, topic)
			}
		}
		d.view.connectors = append(d.view.connectors, demoConnector{name: name, state: "starting"})
	}
	contract, err := d.loadContract(d.cfg)
	if err != nil {
		return err
	}
	d.publisher = demoPublisher{contract: contract, brokers: d.cfg.Kafka.Brokers, events: d.events, span: d.span, seed: d.seed}
	d.view.span, d.view.events = d.span, d.events
	for _, v := range d.world.vendors {
		for _, f := range demoFaults(d.seed) {
			if err := v.box.SetFault(f); err != nil {
				return err
			}
		}
	}
	if d.log, err = d.Create(filepath.Join(d.dir, demoLogFile)); err != nil {
		return yours("write the demo's folder", err, "")
	}
	d.screen.news(colourNone, "broker and vendors (%s) are up. On purpose %s", strings.Join(d.vendors, ", "), demoFaultsText)
	return d.start()
}

func (d *demo) close() error {
	var errs []error
	if d.child != nil && !d.child.ended() {
		errs = append(errs, d.child.stop(demoStop))
	}
	for _, h := range d.histories {
		h.close()
	}
	if d.admin != nil {
		d.admin.Close()
	}
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	if d.log != nil {
		errs = append(errs, d.log.Close())
	}
	if d.world != nil {
		errs = append(errs, d.world.close())
	}
	return errors.Join(errs...)
}

const demoIntro = `For %v, made-up customers, contracts and invoices go through Kafka to %s.
The vendors fail on purpose, and weir itself is killed now and then. At
the end an independent checker says what was lost, done twice or out of order.
`

// demoFaults go wrong all the time.
func demoFaults(seed uint64) []sandbox.Fault {
	return []sandbox.Fault{
		{Name: "error", Rate: 0.02, Seed: seed},
		{Name: "ambiguous", Rate: 0.01, Seed: seed + 1},
		{Name: "slow", Rate: 0.03, DelayMS: 200, Seed: seed + 2},
	}
}

const demoFaultsText = "2 % of all\nrequests get a 5xx, 1 % lose their answer, 3 % are slow"

// start starts the connector process.
func (d *demo) start() error {
	child, err := d.startChild(d.log, "run", "--config", filepath.Join(d.dir, demoConfigFile), "--limit-scale", plainNumber(d.limitScale), "--log-format", "text")
	if err != nil {
		return err
	}
	d.child, d.started = child, d.Now()
	d.running.Store(child)
	return nil
}

// A demoAct is something that happens while events are published.
type demoAct struct {
	at time.Duration
	do func(context.Context) error
}

// script says what happens when: for each half minute an outage of each vendor, a burst of 429s and three kills, fewer
// in a shorter one.
func (d *demo) script() []demoAct {
	rng := rand.New(rand.NewPCG(d.seed, 0x64656d6f)) // the second word only separates this use of the seed
	rounds := max(1, int(d.span/(30*time.Second)))
	each := d.span / time.Duration(rounds)
	kills := max(1, min(3, int(each/(7*time.Second))))
	var acts []demoAct
	for r := range rounds {
		at := func(share float64) time.Duration { return time.Duration((float64(r) + share) * float64(each)) }
		if d.kills {
			for k := range kills {
				// Within its part of the time, at a random moment.
				acts = append(acts, demoAct{at(0.12 + 0.7*(float64(k)+rng.Float64()*0.7)/float64(kills)), d.crash})
			}
		}
		down := min(3*time.Second, each/10)
		for i, v := range d.world.vendors {
			acts = append(acts, demoAct{at(0.30 + 0.5*float64(i)/float64(len(d.world.vendors))), func(context.Context) error { return d.outage(v, down) }})
		}
		acts = append(acts, demoAct{at(0.70), func(context.Context) error { return d.throttle(d.world.vendors[0]) }})
	}
	slices.SortStableFunc(acts, func(a, b demoAct) int { return cmp.Compare(a.at, b.at) })
	return acts
}

func (d *demo) outage(v *demoVendor, down time.Duration) error {
	d.outages++
	d.screen.news(colourBad, "OUTAGE  %s is away for %.1f s: connections are closed", v.name, down.Seconds())
	return v.box.SetFault(sandbox.Fault{Name: "outage", ForMS: down.Milliseconds()})
}

func (d *demo) throttle(v *demoVendor) error {
	d.screen.news(colourBad, "429     %s refuses the next %d requests: too many", v.name, demoThrottled)
	return v.box.SetFault(sandbox.Fault{Name: "throttle", Count: demoThrottled, RetryAfter: 1})
}

// crash kills the connector process, lets the checker look at what it left behind, and starts it again.
func (d *demo) crash(ctx context.Context) error {
	pid := d.child.pid()
	d.child.kill()
	d.killed++
	d.view.process = "weir is down; killed " + times(d.killed) + " so far"
	for i := range d.view.connectors {
		d.view.connectors[i].state = "down"
	}
	d.screen.news(colourBad, "KILL    the weir process (%d) gets SIGKILL", pid)
	outcomes, clean := 0, true
	for i, h := range d.histories {
		rep, err := d.check(ctx, h, d.world.vendors[i], false)
		if errors.Is(err, checkpoint.ErrNotFound) {
			continue // killed before it had made its store
		}
		if err != nil {
			return err
		}
		outcomes += outcomesOf(rep)
		if !rep.Clean() {
			clean = false
			d.midway = append(d.midway, demoFinding{d.killed, h.connector, rep})
		}
	}
	if clean {
		d.screen.news(colourGood, "CHECK   sound: of %s outcomes none is lost, doubled or out of order", thousands(int64(outcomes)))
	} else {
		d.screen.news(colourBad, "CHECK   what it left behind is NOT sound: see the verdict")
	}
	if ctx.Err() != nil {
		return nil
	}
	if err := d.start(); err != nil {
		return err
	}
	d.screen.news(colourNone, "START   weir runs again (%d) and takes over within %v", d.child.pid(), demoSession)
	return nil
}

func outcomesOf(r *verify.Report) int {
	return r.Delivered + r.Accepted + r.Unchanged + r.Superseded + r.Folded + r.Ignored + r.Parked + r.DeadLettered + r.Skipped
}

// check lets the checker look at one connector.
func (d *demo) check(ctx context.Context, h *history, v *demoVendor, complete bool) (*verify.Report, error) {
	ctx = context.WithoutCancel(ctx) // a first signal does not end it: it takes a second or two
	store, err := d.readStore(ctx, d.cfg)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	h.options.Complete = complete
	h.read, h.total = 0, 0
	rep, err := verify.Run(ctx, h, store, func(ctx context.Context) ([]verify.Effect, error) { return loadEffects(ctx, v.effects) }, h.options)
	if err != nil {
		return nil, environment("check connector "+h.connector, err, "")
	}
	return rep, nil
}

// deliver publishes, makes trouble, and waits until all is delivered.
func (d *demo) deliver(ctx context.Context) (demoEnd, error) {
	publishing, cancel := context.WithCancel(ctx)
	published := make(chan error, 1)
	go func() { published <- d.publisher.run(publishing) }()
	all := false
	defer func() {
		cancel()
		if !all {
			<-published
		}
	}()
	acts := d.script()
	start := d.Now()
	d.moved = start
	tick := time.NewTicker(demoLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return demoStopped, nil
		case err := <-published:
			all = true
			if err != nil {
				return "", err
			}
			published = nil
			d.screen.news(colourNone, "all %s events are published, the rest is delivered", thousands(d.publisher.count.Load()))
		case <-d.child.done:
			return "", fmt.Errorf("the connector process ended by itself: %w; see %s", cmp.Or(d.child.err, errors.New("exit code 0")), filepath.Join(d.dir, demoLogFile))
		case <-tick.C:
		}
		for len(acts) > 0 && d.Now().Sub(start) >= acts[0].at && !all {
			if err := acts[0].do(ctx); err != nil {
				return "", err
			}
			acts = acts[1:]
		}
		if err := d.look(ctx); err != nil {
			return "", err
		}
		d.screen.draw(&d.view)
		if all && d.left == 0 {
			return demoDone, nil
		}
		if all && d.Now().Sub(d.moved) > demoStall {
			return demoStalled, nil
		}
	}
}

// look fills the view.
func (d *demo) look(ctx context.Context) error {
	if ctx.Err() != nil {
		return nil
	}
	now, published := d.Now(), d.publisher.count.Load()
	d.view.rate = float64(published) / max(min(now.Sub(d.screen.start), d.span).Seconds(), 0.1)
	d.view.published = published
	d.view.process = fmt.Sprintf("weir is process %d; killed %s so far", d.child.pid(), times(d.killed))
	live := d.live(ctx)
	var left int64
	for i := range d.view.connectors {
		c := &d.view.connectors[i]
		lags, err := d.admin.GroupLag(ctx, config.Group(c.name), d.topics...)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return environment("ask the demo's broker", err, "")
		}
		c.behind = 0
		for _, l := range lags {
			c.behind += l.Lag()
		}
		// Released records lie below the commit and are on their way again.
		released, err := d.released(ctx, c.name)
		if err != nil {
			return err
		}
		c.behind += released
		left += c.behind
		c.applied = d.world.vendors[i].box.Counters()["effects."+verify.EffectApplied]
		c.state = "starting"
		for _, s := range live[c.name] {
			c.state = s.State
			if s.Parked != nil {
				c.parked = *s.Parked
			}
		}
	}
	if left < d.left || left == 0 {
		d.moved = now
	}
	d.left = left
	return nil
}

// live is what the connector process says of itself, nothing if it has not said anything since it was started.
func (d *demo) live(ctx context.Context) map[string][]connectorStatus {
	if d.store == nil {
		store, err := d.readStore(ctx, d.cfg)
		if err != nil {
			return nil // not made yet; what else is wrong with it, the process says in its log
		}
		d.store = store
	}
	live, _, err := d.liveStatuses(ctx, d.store)
	if err != nil {
		return nil
	}
	for name, ss := range live {
		live[name] = slices.DeleteFunc(ss, func(s connectorStatus) bool {
			return s.Since != nil && s.Since.Before(d.started) && s.State == "running"
		})
	}
	return live
}

// released counts a connector's records that were parked and are on their way again.
func (d *demo) released(ctx context.Context, connector string) (int64, error) {
	if d.store == nil {
		return 0, nil
	}
	ps, err := d.store.Parked(ctx, checkpoint.ParkedQuery{Connector: connector, States: []checkpoint.ParkedState{checkpoint.ParkedReleased}, Limit: parkedCountMax})
	if err != nil && ctx.Err() == nil {
		return 0, environment("count the released records of connector "+connector, err, "")
	}
	return int64(len(ps)), nil
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// printSummary prints the line of --json.
func (d *demo) printSummary(s verify.Summary) error {
	line, err := json.Marshal(s)
	if err == nil {
		_, err = fmt.Fprintf(d.Stdout, "%s\n", line)
	}
	if err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}
