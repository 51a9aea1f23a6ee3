package bench

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/schema"
)

// Options of a run. Command is required; zero values of the others are the defaults.
type Options struct {
	// Events that are measured in each run of an arm, 0: 50,000. A fifth as many come before them and are not.
	Events int
	Seed   uint64
	// InFlight is how many requests each arm may have under way, 0: 512.
	InFlight int
	// Scenarios, nil: Defaults.
	Scenarios []Scenario
	// Rate in events/s at which events are published while the arm runs, 0: all are there before it starts.
	Rate float64
	// Rounds is how often each arm runs, alternately, 0: 3.
	Rounds int
	// Brokers of a Kafka to use, nil: an embedded one in a process of its own. Topics of the run stay there.
	Brokers []string
	// Dir is a folder for stores and configs, which is left empty.
	Dir string
	// Command makes the process of a part: PartWeir runs weir with the config file that is its argument.
	Command func(part string, args ...string) *exec.Cmd
	// ProfileDir is a folder that gets a CPU profile of each run of an arm, SCENARIO-ROUND-ARM.pprof; "" takes none. It is of
	// the arm's whole run, with its start and the warm-up.
	ProfileDir string
	// Log takes what the parts write to stderr.
	Log io.Writer
	// Progress is called now and then while an arm runs.
	Progress func(what string, done, total int)
}

// A Scenario is a vendor.
type Scenario struct {
	Name    string
	Latency time.Duration
}

// Defaults are the scenarios that figures are quoted of (design section 17).
func Defaults() []Scenario {
	return []Scenario{{"0ms", 0}, {"50ms", 50 * time.Millisecond}}
}

// Bounds of a run: memory and time of a benchmark, not of Weir.
const (
	eventsMax   = 10_000_000
	inFlightMax = 10_000
	roundsMax   = 99
	latencyMax  = 10 * time.Second
)

const (
	warmShare  = 5 // a fifth of the events
	partitions = 6
	// stallMax is how long no request may come until the rest counts as lost.
	stallMax  = 30 * time.Second
	pollEvery = 5 * time.Millisecond
)

//go:embed bench.yaml
var profileText []byte

// ErrOption says that an option is out of bounds.
var ErrOption = errors.New("out of bounds")

func (o Options) withDefaults() (Options, error) {
	if o.Events == 0 {
		o.Events = 50_000
	}
	if o.InFlight == 0 {
		o.InFlight = 512
	}
	if o.Rounds == 0 {
		o.Rounds = 3
	}
	if o.Scenarios == nil {
		o.Scenarios = Defaults()
	}
	if o.Progress == nil {
		o.Progress = func(string, int, int) {}
	}
	var errs []error
	bound := func(name string, v, most int) {
		if v < 1 || v > most {
			errs = append(errs, fmt.Errorf("%s %d: %w: 1 to %d", name, v, ErrOption, most))
		}
	}
	bound("events", o.Events, eventsMax)
	bound("in flight", o.InFlight, inFlightMax)
	bound("rounds", o.Rounds, roundsMax)
	if o.Rate < 0 || o.Rate > 1e6 {
		errs = append(errs, fmt.Errorf("rate %v: %w: 0 to 1,000,000 events/s", o.Rate, ErrOption))
	}
	for _, s := range o.Scenarios {
		if s.Latency < 0 || s.Latency > latencyMax {
			errs = append(errs, fmt.Errorf("latency %v: %w: 0 to %v", s.Latency, ErrOption, latencyMax))
		}
	}
	return o, errors.Join(errs...)
}

// bench is one run of all scenarios.
type bench struct {
	o       Options
	brokers []string
	vendor  *part
	w       *workload
	warm    int
	values  *encoded
	prod    *kafka.Producer
	admin   *kafka.Admin
	runs    int
}

// encoded are the records of the workload.
type encoded struct {
	keys   []string
	values [][]byte
}

// Run runs all scenarios and measures the stages. Its errors are of the options (ErrOption), of the machine, or of a
// part that ended; what the vendor saw is in the report.
func Run(ctx context.Context, o Options) (_ *Report, err error) {
	o, err = o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("benchmark: %w", err)
	}
	b := &bench{o: o, brokers: o.Brokers, warm: (o.Events + warmShare - 1) / warmShare}
	b.w = newWorkload(o.Seed, o.Events+b.warm)
	if b.values, err = encode(b.w); err != nil {
		return nil, err
	}
	report := &Report{Machine: machine(), Seed: o.Seed}
	if len(b.brokers) == 0 {
		p, err := b.start("", PartBroker)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, p.stop()) }()
		b.brokers = []string{p.addr}
	}
	if b.vendor, err = b.start("", PartVendor); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.vendor.stop()) }()
	kc := kafka.Config{Brokers: b.brokers}
	if b.prod, err = kafka.NewProducer(kc); err != nil {
		return nil, err
	}
	defer b.prod.Close()
	if b.admin, err = kafka.NewAdmin(kc); err != nil {
		return nil, err
	}
	defer b.admin.Close()
	for _, s := range o.Scenarios {
		r, err := b.scenario(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("scenario %s: %w", s.Name, err)
		}
		report.Scenarios = append(report.Scenarios, *r)
	}
	report.Stages, err = b.stages(ctx)
	return report, err
}

func encode(w *workload) (*encoded, error) {
	set, err := schema.Embedded()
	if err != nil {
		return nil, err
	}
	e := &encoded{keys: make([]string, len(w.keyOf)), values: make([][]byte, len(w.keyOf))}
	for n := range w.keyOf {
		key, fields := w.event(n)
		e.keys[n] = key
		if e.values[n], err = set.Encode(entity, fields); err != nil {
			return nil, fmt.Errorf("make event %d: %w", n, err)
		}
	}
	return e, nil
}

// topic makes a topic of the run.
func (b *bench) topic(ctx context.Context) (string, error) {
	b.runs++
	name := fmt.Sprintf("weir-bench-%d-%d.%s", os.Getpid(), b.runs, entity)
	_, err := b.admin.CreateTopic(ctx, name, partitions)
	return name, err
}

// publishGroup is how many events are due, and published, at once: the clock's own grain is about that at the highest
// rates.
const publishGroup = 16

// publish writes the events, each when it is due.
func (b *bench) publish(ctx context.Context, topic string, start time.Time, every time.Duration) error {
	failed := make(chan error, 1)
	for n := range b.values.values {
		if every > 0 && n%publishGroup == 0 {
			if wait := time.Until(start.Add(time.Duration(n) * every)); wait > 0 {
				select {
				case <-time.After(wait):
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		b.prod.ProduceAsync(ctx, kafka.Out{Topic: topic, Partition: -1, Key: []byte(b.values.keys[n]), Value: b.values.values[n]}, func(p kafka.Placed) {
			if p.Err != nil {
				select {
				case failed <- p.Err:
				default:
				}
			}
		})
		if n%1000 == 0 {
			select {
			case err := <-failed:
				return err
			default:
			}
		}
	}
	if err := b.prod.Flush(ctx); err != nil {
		return err
	}
	select {
	case err := <-failed:
		return err
	default:
		return nil
	}
}

// A run is what one run of one arm gave.
type run struct {
	rate    float64
	cpu     float64 // us per event
	mallocs float64 // per event
	peak    int64
	report  answer
	lost    int
}

// scenario runs both arms alternately.
func (b *bench) scenario(ctx context.Context, s Scenario) (*Result, error) {
	topic := ""
	if b.o.Rate == 0 {
		var err error
		if topic, err = b.topic(ctx); err != nil {
			return nil, err
		}
		b.o.Progress("publish", 0, len(b.values.values))
		if err := b.publish(ctx, topic, time.Now(), 0); err != nil {
			return nil, err
		}
	}
	var bares, weirs []run
	for round := range b.o.Rounds {
		for _, arm := range []string{PartBare, PartWeir} {
			r, err := b.arm(ctx, s, topic, arm, round+1)
			if err != nil {
				return nil, err
			}
			if arm == PartBare {
				bares = append(bares, r)
			} else {
				weirs = append(weirs, r)
			}
		}
	}
	return b.result(s, bares, weirs), nil
}

// arm runs one arm once.
func (b *bench) arm(ctx context.Context, s Scenario, topic, arm string, round int) (r run, err error) {
	what := fmt.Sprintf("%s, round %d of %d, %s", s.Name, round, b.o.Rounds, arm)
	total := len(b.values.values)
	var every time.Duration
	if b.o.Rate > 0 {
		every = time.Duration(float64(time.Second) / b.o.Rate)
		if topic, err = b.topic(ctx); err != nil {
			return r, err
		}
	}
	dir, err := os.MkdirTemp(b.o.Dir, "run-")
	if err != nil {
		return r, fmt.Errorf("make a folder for the store: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	b.runs++
	name := fmt.Sprintf("bench-%d-%d", os.Getpid(), b.runs)
	url := "http://" + b.vendor.addr
	start := time.Now()
	if every > 0 {
		start = start.Add(time.Second) // the arm is ready by then, or the warm-up hides that it was not
	}
	if _, err := b.vendor.ask(request{Do: "arm", Events: total, Warm: b.warm, Keys: b.w.keys, Latency: s.Latency, Start: start.UnixNano(), Every: every}); err != nil {
		return r, err
	}
	profile := ""
	if b.o.ProfileDir != "" {
		profile = filepath.Join(b.o.ProfileDir, fmt.Sprintf("%s-%d-%s.pprof", s.Name, round, arm))
	}
	var p *part
	if arm == PartBare {
		args := []string{topic, name, url, strconv.Itoa(b.o.InFlight)}
		p, err = b.start(profile, PartBare, append(args, b.brokers...)...)
	} else {
		var file string
		if file, err = b.config(dir, name, topic, url); err == nil {
			p, err = b.start(profile, PartWeir, file)
		}
	}
	if err != nil {
		return r, err
	}
	stopped := false
	defer func() {
		if !stopped {
			err = errors.Join(err, p.stop())
		}
	}()
	published := make(chan error, 1)
	if every > 0 {
		pctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() { published <- b.publish(pctx, topic, start, every) }()
	} else {
		published <- nil
	}
	from, err := b.await(ctx, p, b.warm, what, start)
	if err != nil {
		return r, err
	}
	to, err := b.await(ctx, p, total, what, start)
	if err != nil {
		return r, err
	}
	if err := <-published; err != nil {
		return r, fmt.Errorf("publish: %w", err)
	}
	stopped = true
	if err := p.stop(); err != nil {
		return r, err
	}
	// Only now: what is sent twice may come late.
	if r.report, err = b.vendor.ask(request{Do: "report"}); err != nil {
		return r, err
	}
	n := float64(max(1, to.n-from.n))
	r.rate = n / to.at.Sub(from.at).Seconds()
	r.cpu = float64(to.usage.CPU-from.usage.CPU) / 1e3 / n
	r.mallocs = float64(to.usage.Mallocs-from.usage.Mallocs) / n
	r.peak = to.usage.PeakRSS
	r.lost = total - r.report.Distinct
	return r, nil
}

// A moment is how far an arm was, and what it had used by then.
type moment struct {
	n     int
	at    time.Time
	usage answer
}

// await waits until the vendor has seen n events, or none for a while.
func (b *bench) await(ctx context.Context, p *part, n int, what string, start time.Time) (moment, error) {
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	seen, since := -1, time.Now()
	for polls := 0; ; polls++ {
		c, err := b.vendor.ask(request{Do: "count"})
		if err != nil {
			return moment{}, err
		}
		if c.Distinct > seen {
			seen, since = c.Distinct, time.Now()
		}
		if c.Distinct >= n || time.Since(since) > stallMax && time.Since(start) > stallMax {
			u, err := p.ask(request{Do: "stats"})
			return moment{c.Distinct, time.Unix(0, c.At), u}, err
		}
		if polls%20 == 0 {
			b.o.Progress(what, c.Distinct, len(b.values.values))
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return moment{}, context.Cause(ctx)
		}
	}
}

// config writes the config of the Weir arm and its profile.
func (b *bench) config(dir, name, topic, url string) (string, error) {
	profile := filepath.Join(dir, "bench.yaml")
	if err := os.WriteFile(profile, profileText, 0o600); err != nil {
		return "", fmt.Errorf("write the benchmark's profile: %w", err)
	}
	text := "kafka: {brokers: ["
	for i, a := range b.brokers {
		if i > 0 {
			text += ", "
		}
		text += strconv.Quote(a)
	}
	text += fmt.Sprintf(`]}
checkpoint: {store: %q}
ops: {listen: "127.0.0.1:0"}
connectors:
  %s:
    profile: %q
    base_url: %q
    start: earliest
    secrets: {api_key: "${env:%s}"}
    topics: {%s: %q}
    delivery: {max_in_flight: %d}
`, "sqlite:"+filepath.Join(dir, "weir.db"), name, profile, url, keyVariable, entity, topic, b.o.InFlight)
	file := filepath.Join(dir, "weir.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write the benchmark's config: %w", err)
	}
	return file, nil
}

// median of values, which it sorts.
func median(v []float64) float64 {
	slices.Sort(v)
	n := len(v)
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}
