package connector_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sample"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/schema"
)

var (
	simSeeds   = flag.Int("sim.seeds", 0, "number of seeds that TestSim runs (default 30; 500 with WEIR_TEST_SOAK=1)")
	simFirst   = flag.Uint64("sim.first", 1, "first seed of TestSim")
	simVerbose = flag.Bool("sim.log", false, "print the log of each run of TestSim to standard error, as it comes")
)

// TestSim runs the engine against seeded trouble in fake time: each seed is one life of a connector, with crashes,
// stops, rebalances, and a vendor, a store and a broker that fail in every way that leaves a doubt. When the trouble
// ends everything must settle, and the independent checker must find nothing.
//
// A failing seed is run again with
//
//	go test ./connector -run 'TestSim$' -sim.first=SEED -sim.seeds=1 -sim.log
//
// Goroutines are scheduled as ever, so a run repeats its trouble, not each interleaving: a rare failure may need
// -count.
func TestSim(t *testing.T) {
	n := *simSeeds
	if n == 0 {
		n = 30
		if os.Getenv("WEIR_TEST_SOAK") != "" {
			n = 500
		}
	}
	kit := newSimKit(t)
	total := map[string]int{}
	for seed := *simFirst; seed < *simFirst+uint64(n); seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			// A panic, such as synctest's about goroutines that are left, would not name the seed.
			defer func() {
				if p := recover(); p != nil {
					panic(fmt.Sprintf("seed %d: %v", seed, p))
				}
			}()
			synctest.Test(t, func(t *testing.T) { simulate(t, kit, seed, total) })
		})
	}
	for _, f := range []string{"refused dial", "cut before", "cut after", "late", "slow", "429", "500 after", "poison", "crash", "stop", "move", "lost"} {
		if n >= 30 && total[f] == 0 {
			t.Errorf("no %q happened in %d seeds: the simulation does not show what it says", f, n)
		}
	}
	t.Logf("what happened: %v", total)
}

// A simKit is what all runs share: it is read only, and costly to make.
type simKit struct {
	set      *schema.Set
	decoder  schema.Decoder
	topics   map[string]string
	mappings map[string][]*profile.Compiled // by profile: the mapping, and another version of it
}

const simPartitions = 2

func newSimKit(t *testing.T) *simKit {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	k := &simKit{topics: map[string]string{}, mappings: map[string][]*profile.Compiled{}}
	var err error
	k.set, err = schema.Embedded()
	must(err)
	rules, err := schema.EmbeddedRules(k.set)
	must(err)
	k.decoder = schema.NewDecoder(k.set, nil, schema.DecoderOptions{Rules: rules})
	for _, e := range []string{"customer", "contract", "invoice"} {
		k.topics["canonical."+e] = e
	}
	plain, err := os.ReadFile("profile/plain.yaml")
	must(err)
	for name, texts := range map[string][2]string{
		"plain": {string(plain), strings.Replace(string(plain), "name: event.legal_name", "name: upper(event.legal_name)", 1)},
		"sim":   {simProfile, strings.Replace(simProfile, `note: "'first'"`, `note: "'second'"`, 1)},
	} {
		if texts[0] == texts[1] {
			t.Fatalf("profile %s: both mappings are the same", name)
		}
		for _, text := range texts {
			p, err := profile.Parse(name+".yaml", []byte(text))
			must(err)
			c, err := p.Compile(k.options())
			must(err)
			k.mappings[name] = append(k.mappings[name], c)
		}
	}
	p, err := profile.Load("pushcash")
	must(err)
	for _, url := range []string{"https://first.example/back", "https://second.example/back"} {
		o := k.options()
		o.Vars = map[string]string{"redirect_url": url}
		c, err := p.Compile(o)
		must(err)
		k.mappings["pushcash"] = append(k.mappings["pushcash"], c)
	}
	return k
}

func (k *simKit) options() profile.Options {
	return profile.Options{Connector: "v", Environment: "sandbox", BaseURL: simURL, LimitScale: 100_000, Schemas: k.set}
}

func (k *simKit) recompile(simShape) func([]byte) (*profile.Compiled, error) {
	return func(text []byte) (*profile.Compiled, error) { return profile.CompileText(text, k.options()) }
}

// A simShape is what a seed makes of a run.
type simShape struct {
	profile       string
	events        int
	publishFor    time.Duration
	faultsEnd     time.Duration
	instances     int
	inFlight      int
	window        int
	referenceWait time.Duration
	latency       time.Duration // of the vendor

	faults      []simFault // of single requests
	refuse      float64    // of dials
	reject      float64    // of references: for ever
	poison      float64    // of references: 503 for ever
	storeFaults float64
	// storeLatency opens the gap between what happened and what is durable, in which crashes hurt.
	storeLatency time.Duration
	kafkaFaults  float64
	storeAway    simWindow
	refusing     simWindow // nobody listens
	down         simWindow // each request meets downAs
	downAs       string
	badKey       simWindow
	storm        simWindow // of 429

	odd     float64 // of records: read twice, older versions, bytes that are no event
	never   float64 // of customers: they never come
	actions []simAction
	sample  sample.Options
}

type simFault struct {
	name string
	rate float64
}

type simAction struct {
	at   time.Duration
	what string // crash, stop, move, lost
	n    uint64
}

// newSimShape draws the shape of a run.
func newSimShape(seed uint64) simShape {
	r := rand.New(rand.NewPCG(seed, 0x73696d))
	span := func(lo, hi time.Duration) time.Duration { return lo + time.Duration(r.Int64N(int64(hi-lo))) }
	some := func(p, most float64) float64 {
		if r.Float64() >= p {
			return 0
		}
		return r.Float64() * most
	}
	s := simShape{
		profile: []string{"sim", "plain", "pushcash"}[seed%3], events: 80 + r.IntN(220), publishFor: span(10*time.Second, 2*time.Minute),
		instances: 1 + r.IntN(2), inFlight: []int{2, 8, 64}[r.IntN(3)], window: []int{20, 60, 1000}[r.IntN(3)],
		referenceWait: []time.Duration{2 * time.Second, 20 * time.Second, time.Minute}[r.IntN(3)], latency: span(time.Millisecond, 400*time.Millisecond),
		refuse: some(0.5, 0.2), reject: some(0.3, 0.02), poison: some(0.4, 0.02), storeFaults: some(0.4, 0.05), kafkaFaults: some(0.5, 0.1),
		odd: some(0.5, 0.06), never: some(0.4, 0.2),
	}
	s.storeLatency = []time.Duration{4, 60, 600}[r.IntN(3)] * time.Millisecond
	for _, f := range []string{"cut before", "cut after", "late", "slow", "429", "500 after", "503"} {
		s.faults = append(s.faults, simFault{f, some(0.4, 0.08)})
	}
	s.faultsEnd = s.publishFor + span(20*time.Second, 3*time.Minute)
	window := func(p float64, lo, hi time.Duration) simWindow {
		if r.Float64() >= p {
			return simWindow{}
		}
		from := span(time.Second, s.publishFor)
		return simWindow{from, from + span(lo, hi)}
	}
	s.storeAway = window(0.2, time.Second, 20*time.Second)
	s.refusing = window(0.2, 5*time.Second, time.Minute)
	s.down, s.downAs = window(0.3, 5*time.Second, time.Minute), []string{"cut before", "503", "500 after"}[r.IntN(3)]
	s.storm = window(0.2, time.Second, 20*time.Second)
	if s.profile == "pushcash" { // the others have no credential check: a lone key's 401 is the record's own
		s.badKey = window(0.3, 2*time.Second, 40*time.Second)
	}
	for range r.IntN(8) {
		s.actions = append(s.actions, simAction{span(2*time.Second, s.faultsEnd), []string{"crash", "crash", "stop", "move", "lost"}[r.IntN(5)], r.Uint64()})
	}
	slices.SortFunc(s.actions, func(a, b simAction) int { return int(a.at - b.at) })
	s.sample = sample.Options{Seed: seed, Events: s.events, Customers: 4 + r.IntN(30), UpdateShare: 0.6, DeleteShare: some(0.6, 0.1), OutOfOrderShare: some(0.6, 0.4),
		InvalidShare: some(0.4, 0.03), BadShare: some(0.4, 0.05)}
	if r.IntN(2) == 0 {
		s.sample.Zipf = 1.1 + r.Float64()
	}
	return s
}

// crashPoints are the states at which a planned crash happens; "now" is wherever everything stands.
var simCrashPoints = []string{"now", "request", "answered", "parked", "settled", "committing", "committed", "store_before", "store_after"}

// simulate is one run.
func simulate(t *testing.T, kit *simKit, seed uint64, total map[string]int) {
	w := &simWorld{
		seed: seed, shape: newSimShape(seed), kit: kit, began: time.Now(), store: newSimStore(), conns: make(chan net.Conn), closed: make(chan struct{}),
		rng: rand.New(rand.NewPCG(seed, 1)), attempts: map[string]int{}, started: map[string]simStart{}, flying: map[string]int{}, undecided: map[string]string{},
		offsets: map[string][2]int64{}, poisoned: map[string]bool{}, faults: map[string]int{},
	}
	w.broker = &simBroker{w: w, logs: map[kafka.TP]*simLog{}, committed: map[kafka.TP]kafka.Committed{}, owner: map[kafka.TP]*simSource{}}
	for _, topic := range slices.Sorted(maps.Keys(kit.topics)) {
		for i := range int32(simPartitions) {
			w.broker.sources = append(w.broker.sources, kafka.TP{Topic: topic, Partition: i})
		}
	}
	vendor := w.shape.profile
	if vendor == "sim" {
		vendor = "plain"
	}
	var err error
	if w.sandbox, err = sandbox.New(vendor, sandbox.Options{LimitScale: 100_000, Seed: seed}); err != nil {
		t.Fatal(err)
	}
	w.server = &http.Server{Handler: http.HandlerFunc(w.serve), ConnContext: func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, simInstanceKey{}, c.(simConn).in)
	}}
	served := make(chan error, 1)
	go func() { served <- w.server.Serve(simListener{w}) }()

	d := &simDriver{w: w, t: t, rng: rand.New(rand.NewPCG(seed, 2)), slots: make([]simSlot, w.shape.instances)}
	d.prepare()
	d.run()

	close(w.closed)
	w.server.Close()
	<-served
	if err := w.sandbox.Close(); err != nil {
		t.Error(err)
	}
	time.Sleep(10 * time.Minute) // of fake time: late requests, timers and idle connections end
	if left := simGoroutines(); len(left) > 0 {
		w.violate("%d goroutines are left after the stop:\n%s", len(left), strings.Join(left, "\n\n"))
	}
	if !t.Failed() && len(w.violations) == 0 {
		d.check()
	}
	for k, n := range w.faults {
		total[k] += n
	}
	total["requests"] += w.requests
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range w.violations {
		t.Error(v)
	}
	if t.Failed() {
		t.Errorf("seed %d fails; again with: go test ./connector -run 'TestSim$' -sim.first=%d -sim.seeds=1 -sim.log\n%+v", seed, seed, w.shape)
	}
}

// simGoroutines lists the bubble's goroutines but for the caller's.
func simGoroutines() (left []string) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	all := strings.Split(string(buf), "\n\n")
	bubble := func(g string) string {
		head, _, _ := strings.Cut(g, "\n")
		_, b, ok := strings.Cut(head, "synctest bubble ")
		if !ok {
			return ""
		}
		return strings.TrimRight(b, "]:")
	}
	for _, g := range all[1:] {
		if bubble(g) == bubble(all[0]) && !strings.Contains(g, "testing/synctest.Test") {
			left = append(left, g)
		}
	}
	return left
}

// A simDriver is the hand that publishes, crashes, stops and moves.
type simDriver struct {
	w     *simWorld
	t     *testing.T
	rng   *rand.Rand
	slots []simSlot
	items []simItem // by time
	names int
	mapAt int
}

type simSlot struct {
	in        *simInstance
	restartAt time.Duration
}

type simItem struct {
	at     time.Duration
	r      kafka.Record
	ref    string
	hole   int64
	marker bool
	poison bool
}

// prepare makes everything that will be published.
func (d *simDriver) prepare() {
	s := d.w.shape
	g, err := sample.New(s.sample)
	if err != nil {
		d.t.Fatal(err)
	}
	never := func(key string) bool { return simShare(d.w.seed, "never", key) < s.never }
	n := 0
	for it := range g.All() {
		at := time.Duration(float64(s.publishFor) * float64(n) / float64(s.events))
		n++
		if it.Entity == "customer" && never(it.Key) {
			continue
		}
		d.add(at, it, true)
		if simShare(d.w.seed, "odd", n) < s.odd {
			d.addOdd(at+time.Duration(d.rng.Int64N(int64(20*time.Second))), it)
		}
	}
	// Good events after the trouble tell a poisoned key from an outage (promise 7).
	tail, err := sample.New(sample.Options{Seed: d.w.seed + 1<<32, Events: 150, Customers: 20, UpdateShare: 0.7, DeleteShare: 0.05})
	if err != nil {
		d.t.Fatal(err)
	}
	n = 0
	for it := range tail.All() {
		b, err := json.Marshal(it)
		if err != nil {
			d.t.Fatal(err)
		}
		for _, p := range []string{"cust_", "inv_", "con_", "evt_"} {
			b = bytes.ReplaceAll(b, []byte(`"`+p), []byte(`"t`+p))
		}
		var renamed sample.Item
		if err := json.Unmarshal(b, &renamed); err != nil {
			d.t.Fatal(err)
		}
		d.add(s.faultsEnd+time.Duration(n)*5*time.Second, renamed, false)
		n++
	}
	slices.SortStableFunc(d.items, func(a, b simItem) int { return int(a.at - b.at) })
}

func (d *simDriver) add(at time.Duration, it sample.Item, mayPoison bool) *simItem {
	i := simItem{at: at}
	i.r.Topic = "canonical." + it.Entity
	i.r.Partition = int32(simHash("partition", it.Key) % simPartitions)
	i.r.Key = []byte(it.Key)
	if it.Event != nil {
		i.r.Value = d.encode(it.Entity, it.Event)
		i.ref = fmt.Sprintf("%s.%v", it.Key, it.Event["entity_version"])
		i.poison = mayPoison && simShare(d.w.seed, "poison", i.ref) < d.w.shape.poison
	}
	for _, h := range it.Headers {
		i.r.Headers = append(i.r.Headers, schema.Header{Key: h.Key, Value: []byte(h.Value)})
	}
	if d.rng.IntN(8) == 0 {
		i.hole = d.rng.Int64N(4)
	}
	i.marker = d.rng.IntN(12) == 0
	d.items = append(d.items, i)
	return &d.items[len(d.items)-1]
}

func (d *simDriver) encode(entity string, event map[string]any) []byte {
	b, err := json.Marshal(event)
	if err != nil {
		d.t.Fatal(err)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var fields map[string]any
	if err := dec.Decode(&fields); err != nil {
		d.t.Fatal(err)
	}
	if b, err = d.w.kit.set.Encode(entity, fields); err != nil {
		d.t.Fatal(err)
	}
	return b
}

// addOdd publishes an event in a way that no producer should.
func (d *simDriver) addOdd(at time.Duration, it sample.Item) {
	switch simHash(d.w.seed, "kind", it.Key, at) % 5 {
	case 0: // bytes that are no event
		i := d.add(at, it, false)
		i.r.Value, i.ref = []byte{0, 0, 0, 0, 1, 2}, ""
	case 1: // another key than the entity's
		if it.Event != nil {
			i := d.add(at, it, false)
			i.r.Key, i.ref = []byte("another"), ""
		}
	case 2: // an old version under a new event id
		if it.Event != nil {
			it.Event = maps.Clone(it.Event)
			it.Event["event_id"] = fmt.Sprint(it.Event["event_id"], "_again")
			d.add(at, it, false)
		}
	default: // the same event again
		d.add(at, it, false)
	}
}

func (d *simDriver) publish(now time.Duration) {
	for len(d.items) > 0 && d.items[0].at <= now {
		i := d.items[0]
		d.items = d.items[1:]
		if i.ref != "" {
			d.w.mu.Lock()
			if i.poison {
				d.w.poisoned[i.ref] = true
			}
			d.w.mu.Unlock()
		}
		off := d.w.broker.put(i.r, i.hole, i.marker)
		if i.ref != "" {
			d.w.mu.Lock()
			o, ok := d.w.offsets[i.ref]
			if !ok {
				o[0] = off
			}
			o[1] = off
			d.w.offsets[i.ref] = o
			d.w.mu.Unlock()
		}
	}
}

// settleLimit bounds, in fake time, how long a run may take after its last event. The longest waits of the engine
// are a poisoned record's ten attempts of up to 30 s.
const settleLimit = 40 * time.Minute

// simDrain is the engine's default drain limit.
const simDrain = 20 * time.Second

func (d *simDriver) run() {
	w := d.w
	var last time.Duration
	for {
		now := time.Since(w.began)
		d.publish(now)
		for len(w.shape.actions) > 0 && w.shape.actions[0].at <= now {
			a := w.shape.actions[0]
			w.shape.actions = w.shape.actions[1:]
			d.act(a)
		}
		d.tend(now)
		if len(d.items) == 0 && !w.faulty() {
			if last == 0 {
				last = now
			}
			if w.broker.lag() == 0 && d.quiet() {
				break
			}
			if now-last > settleLimit {
				w.violate("lag is %d, %v after the last event: %s", w.broker.lag(), settleLimit, d.stuck())
				break
			}
		}
		time.Sleep(30 * time.Millisecond)
	}
	for i := range d.slots {
		d.stop(i)
	}
}

// quiet reports that no released record and no woken waiter is on its way.
func (d *simDriver) quiet() bool {
	s := d.w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.parked {
		if e.State == checkpoint.ParkedReleased {
			return false
		}
	}
	for _, x := range s.waiters {
		if x.Woken {
			return false
		}
	}
	return true
}

// stuck says what has not settled.
func (d *simDriver) stuck() string {
	var out []string
	b := d.w.broker
	for _, tp := range b.sources {
		b.mu.Lock()
		l, c, o := b.log(tp), b.committed[tp], b.owner[tp]
		b.mu.Unlock()
		if c.Offset < l.next {
			line := fmt.Sprintf("%s/%d: committed %d of %d", tp.Topic, tp.Partition, c.Offset, l.next)
			if o != nil {
				line += " by " + o.in.name
			}
			for _, r := range b.read(tp, c.Offset, 3) {
				line += fmt.Sprintf("; %d %s control %v", r.Offset, r.Key, r.Control)
				if !r.Control {
					line += "\n  " + strings.Join(d.w.store.dump(string(r.Key)), "\n  ")
				}
			}
			out = append(out, line)
		}
	}
	for _, s := range d.slots {
		if s.in != nil {
			st, _ := json.Marshal(s.in.c.Status())
			out = append(out, string(st))
		}
	}
	d.w.store.mu.Lock()
	for _, x := range d.w.store.waiters {
		if x.Woken {
			out = append(out, fmt.Sprintf("woken waiter %+v", *x))
		}
	}
	for _, e := range d.w.store.parked {
		if e.State == checkpoint.ParkedReleased {
			out = append(out, fmt.Sprintf("released %+v", *e))
		}
	}
	d.w.store.mu.Unlock()
	return strings.Join(out, "\n")
}

// tend restarts what has crashed and gives away what nobody owns.
func (d *simDriver) tend(now time.Duration) {
	w := d.w
	var up []*simInstance
	for i := range d.slots {
		s := &d.slots[i]
		if s.in != nil {
			select {
			case <-s.in.crashed:
				w.count("crash")
				s.in.cancel()
				<-s.in.done // its goroutines end; nothing of it reaches anything
				w.broker.disown(s.in.src, w.broker.sources...)
				s.in, s.restartAt = nil, now+time.Duration(d.rng.Int64N(int64(8*time.Second)))
			case err := <-s.in.done:
				s.in.done <- err
				select {
				case <-s.in.crashed:
					continue // the next round takes it so
				default:
				}
				w.violate("%s ended by itself: %v", s.in.name, err)
				s.in, s.restartAt = nil, now+time.Hour
				continue
			default:
				if n, bound := s.in.c.Status().Pending, simPartitions*3*(w.shape.window+2*pollMax); n > bound {
					w.violate("promise 6: %s has %d records pending, with a window of %d per partition", s.in.name, n, w.shape.window)
				}
			}
		}
		if s.in == nil && now >= s.restartAt {
			d.names++
			if d.names > 1 && d.rng.IntN(3) == 0 {
				d.mapAt++ // another build, or another config
			}
			in, err := w.start(fmt.Sprintf("p%d", d.names), w.kit.mappings[w.shape.profile][d.mapAt%2])
			if err != nil {
				d.t.Fatal(err)
			}
			w.logf("%s starts with mapping %d", in.name, d.mapAt%2)
			s.in = in
		}
		if s.in != nil {
			up = append(up, s.in)
		}
	}
	if len(up) == 0 {
		return
	}
	give := map[*simInstance][]kafka.TP{}
	w.broker.mu.Lock()
	for _, tp := range w.broker.sources {
		if w.broker.owner[tp] == nil {
			in := up[d.rng.IntN(len(up))]
			give[in] = append(give[in], tp)
		}
	}
	w.broker.mu.Unlock()
	for _, in := range up {
		if tps := give[in]; len(tps) > 0 {
			w.logf("%s gets %v", in.name, tps)
			in.command(in.src.assign(tps))
		}
	}
}

func (d *simDriver) act(a simAction) {
	w := d.w
	i := int(a.n % uint64(len(d.slots)))
	in := d.slots[i].in
	if in == nil {
		return
	}
	tps := w.broker.owned(in.src)
	some := tps[:len(tps)-int(a.n>>8)%(len(tps)+1)]
	switch a.what {
	case "crash":
		at := simCrashPoints[(a.n>>16)%uint64(len(simCrashPoints))]
		in.plan.Store(&simCrash{after: a.at, at: at})
		if at == "now" {
			in.crash()
		}
	case "stop":
		w.count("stop")
		d.stop(i)
		d.slots[i].restartAt = time.Since(w.began) + time.Duration(a.n%uint64(5*time.Second))
	case "move": // given up in order; tend gives it to anyone, who may be the same
		if len(some) > 0 {
			w.count("move")
			w.logf("%s gives up %v", in.name, some)
			began := time.Now()
			in.command(func(ctx context.Context) error { in.src.revoke(ctx, some); return nil })
			if time.Since(began) >= simDrain { // what is still under way ends as suspect
				w.mu.Lock()
				w.zombiesTil = time.Now().Add(31 * time.Second)
				w.mu.Unlock()
			}
		}
	case "lost": // what was in flight may still be under way when the next owner starts
		if len(some) > 0 {
			w.count("lost")
			w.logf("%s loses %v", in.name, some)
			w.mu.Lock()
			w.zombiesTil = time.Now().Add(simLateMax + 31*time.Second)
			w.mu.Unlock()
			in.command(func(context.Context) error {
				w.broker.disown(in.src, some...)
				in.src.mu.Lock()
				for _, tp := range some {
					delete(in.src.at, tp)
				}
				in.src.mu.Unlock()
				in.src.h.Lost(some)
				return nil
			})
		}
	}
}

// stop ends a process in order.
func (d *simDriver) stop(i int) {
	in := d.slots[i].in
	if in == nil {
		return
	}
	d.slots[i].in = nil
	d.w.logf("%s stops", in.name)
	in.cancel()
	select {
	case err := <-in.done:
		select {
		case <-in.crashed: // a planned crash met the stop
			d.w.count("crash")
		default:
			if err != nil {
				d.w.violate("%s did not stop cleanly: %v", in.name, err)
			}
		}
	case <-time.After(2 * time.Minute):
		d.w.violate("%s has not stopped after two minutes", in.name)
	}
	d.w.broker.disown(in.src, d.w.broker.sources...)
}

// check asks the independent checker, and looks at what was parked.
func (d *simDriver) check() {
	w := d.w
	entries, err := w.sandbox.Effects(0)
	if err != nil {
		d.t.Fatal(err)
	}
	var effects []verify.Effect
	for _, e := range entries {
		b, err := json.Marshal(e)
		if err != nil {
			d.t.Fatal(err)
		}
		var v verify.Effect
		if err := json.Unmarshal(b, &v); err != nil {
			d.t.Fatal(err)
		}
		effects = append(effects, v)
	}
	o := verify.Options{Connector: "v", Complete: true, Classes: map[string]verify.Class{}, Marks: w.store.cursorsSeen(), Alias: map[string]string{
		"put_customer": "put_thing", "put_contract": "put_thing", "void_charge": "put_thing", "pay_note": "create_payment", "create_charge": "create_payment"}}
	p := w.kit.mappings[w.shape.profile][0]
	for _, r := range p.Routes {
		o.Routes = append(o.Routes, verify.Route{Name: r.Name, Entity: r.Entity, Every: r.Semantics == profile.Every, Lane: r.Name})
	}
	for name, op := range p.Operations {
		o.Classes[name] = verify.Class(op.Class)
	}
	rep, err := verify.Run(context.Background(), simVerifySource{w}, w.store, func(context.Context) ([]verify.Effect, error) { return effects, nil }, o)
	if err != nil {
		d.t.Fatal(err)
	}
	n := 0
	for _, f := range rep.Findings {
		if n++; n > 8 {
			break
		}
		b, _ := json.Marshal(f)
		w.violate("the checker finds: %s\n  %s", b, strings.Join(w.store.dump(f.Key), "\n  "))
	}
	if n == 0 && rep.Lost+rep.Duplicated+rep.Reordered > 0 {
		w.violate("the checker counts lost %d, duplicated %d, reordered %d", rep.Lost, rep.Duplicated, rep.Reordered)
	}
	none := map[string]bool{"plain.invoice": true, "sim.contract": true, "sim.invoice": true} // routes with an operation of class none
	for _, e := range w.store.entries() {
		if e.State != checkpoint.ParkedOpen {
			continue
		}
		ref := fmt.Sprintf("%s.%d", e.EntityKey.Key, e.Version)
		if e.Version == 0 {
			ref = e.EntityKey.Key + "." + e.EventID // a tombstone
		}
		where := fmt.Sprintf("%s/%d on %s (%s): %s: %s", e.Position.Partition, e.Position.Offset, e.Position.Route, ref, e.Cause, e.Reason)
		switch e.Cause {
		case checkpoint.CauseExhausted:
			if !w.isPoison(ref) {
				w.violate("promise 7: parked for the vendor's outage: %s\n  %s", where, strings.Join(w.store.dump(e.EntityKey.Key), "\n  "))
			}
		case checkpoint.CauseAmbiguous:
			// A suspect whose customer is deleted cannot be sent the same again.
			if !none[e.Position.Route] && !strings.Contains(e.Reason, "is deleted since") {
				w.violate("promise 7: parked as ambiguous, though its repeat does no harm: %s\n  %s", where, strings.Join(w.store.dump(e.EntityKey.Key), "\n  "))
			}
		case checkpoint.CauseRejected:
			if w.shape.profile != "pushcash" && simShare(w.seed, "reject", ref) >= w.shape.reject || e.Reason == "unauthorized" {
				w.violate("parked as rejected, though the vendor never refused it: %s", where)
			}
		case checkpoint.CauseMissingReference:
			if d.referentIsThere(e) {
				w.violate("parked, though what it waits for is there: %s\n  %s", where, strings.Join(w.store.dump(e.EntityKey.Key), "\n  "))
			}
		case checkpoint.CauseHeld:
			if !slices.ContainsFunc(w.store.entries(), func(o checkpoint.Parked) bool {
				return o.EntityKey == e.EntityKey && o.Position.Route == e.Position.Route && o.State == checkpoint.ParkedOpen && o.Cause != checkpoint.CauseHeld
			}) {
				w.violate("held behind nothing: %s\n  %s", where, strings.Join(w.store.dump(e.EntityKey.Key), "\n  "))
			}
		}
	}
}

// referentIsThere reports whether the customer of a parked record has what a reference needs.
func (d *simDriver) referentIsThere(e checkpoint.Parked) bool {
	rs := d.w.broker.read(kafka.TP{Topic: e.Position.Partition.Topic, Partition: e.Position.Partition.Index}, e.Position.Offset, 1)
	ev, err := d.w.kit.decoder.Decode(context.Background(), &rs[0].Record)
	if err != nil {
		return false
	}
	id, _ := ev.Fields["customer_id"].(string)
	st := d.w.store.state(checkpoint.EntityKey{Entity: "customer", Key: id})
	return present(st, ev.Tenant, "user_id")
}

// simProfile has what the embedded ones lack: a plan of two steps of which the second has class none, references of an
// every route of class none, and vendor ids that a delete takes away.
const simProfile = `
profile: sim
version: "1"
environments:
  sandbox: {base_url: http://127.0.0.1:9}
auth: {kind: bearer, secret: api_key, optional: true}
verdicts:
  - {status: 429, verdict: throttle, reason: rate_limited}
  - {status: [401, 403], verdict: halt, reason: unauthorized}
  - {status: 4xx, verdict: reject, reason: refused_by_vendor}
  - {status: 5xx, verdict: retry, reason: vendor_error}
operations:
  put_customer:
    method: PUT
    path: /things/{id}
    class: overwrite
    reference: {in: body, name: reference}
    body:
      reference: {type: string, required: true}
      deleted: {type: boolean, required: true}
      note: string
      name: string
      email: string
      status: string
  pay_note:
    method: POST
    path: /payments
    class: none
    reference: {in: body, name: reference}
    body:
      reference: {type: string, required: true}
      customer: {type: string, required: true}
      amount: integer
    answer:
      id: string
  void_charge:
    method: PUT
    path: /things/{id}
    class: overwrite
    reference: {in: body, name: reference}
    ends: [charge_id]
    body:
      reference: {type: string, required: true}
      void: {type: boolean, required: true}
  create_charge:
    method: POST
    path: /payments
    class: none
    reference: {in: body, name: reference}
    body:
      reference: {type: string, required: true}
      customer: {type: string, required: true}
      amount: {type: integer, required: true}
    answer:
      id: string
routes:
  customer:
    entity: customer
    semantics: latest
    steps:
      put:
        operation: put_customer
        params: {id: entity.id}
        map:
          deleted: false
          note: "'first'"
          name: event.legal_name
          email: event.email
          status: event.status
        remember:
          ids: {thing: "'thing-' + entity.id"}
      remove:
        operation: put_customer
        params: {id: entity.id}
        map:
          deleted: true
        remember:
          vendor_id: entity.id
    cases:
      - operation: delete
        steps: [remove]
      - steps: [put]
  contract:
    entity: contract
    semantics: every
    references:
      customer: {entity: customer, key: event.customer_id, id: thing}
    steps:
      pay:
        operation: pay_note
        map:
          customer: ref.customer.thing
          amount: event.amount_minor
        remember:
          vendor_id: body.id
    cases:
      - operation: delete
        ignore: no_counterpart
      - steps: [pay]
  invoice:
    entity: invoice
    semantics: latest
    references:
      customer: {entity: customer, key: event.customer_id, id: thing}
    steps:
      void:
        operation: void_charge
        params: {id: "'void-' + ids.charge_id"}
        map:
          void: true
        remember:
          vendor_id: ids.charge_id
      charge:
        operation: create_charge
        map:
          customer: ref.customer.thing
          amount: event.total_minor
        remember:
          ids: {charge_id: body.id}
    cases:
      - operation: delete
        when: ids.charge_id != null
        steps: [void]
      - operation: delete
        ignore: nothing_sent
      - when: event.status in ['void', 'paid'] && ids.charge_id != null
        steps: [void]
      - when: event.status in ['void', 'paid', 'draft']
        ignore: nothing_sent
      - when: ids.charge_id != null
        steps: [void, charge]
      - steps: [charge]
`
