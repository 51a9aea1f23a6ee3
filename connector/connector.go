package connector

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/lane"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// A Source is the consumer group as a connector uses it; [kafka.Consumer] is the one.
type Source interface {
	// Run polls until ctx ends, then leaves the group.
	Run(ctx context.Context) error
	// Pause and Resume stop and start the fetch of partitions, not the poll.
	Pause(tps ...kafka.TP)
	Resume(tps ...kafka.TP)
	// Commit commits offsets; never of a partition that was revoked or lost.
	Commit(ctx context.Context, cs map[kafka.TP]kafka.Commit) error
}

// A Producer writes to the parked and dead topics, acks=all.
type Producer interface {
	Produce(ctx context.Context, outs []kafka.Out) ([]kafka.Placed, error)
}

// A Reader reads single records again, by their origin.
type Reader interface {
	ReadAt(ctx context.Context, topic string, partition int32, offset int64) (*kafka.Record, error)
}

// StartOptions says where partitions start of which nothing is known, and what an operator has accepted.
type StartOptions struct {
	Policy kafka.StartPolicy
	// OffsetAt looks up the offset of the start time, for StartTime.
	OffsetAt    func(ctx context.Context, tp kafka.TP) (int64, error)
	StoreLost   bool
	AcceptGap   map[kafka.TP]bool
	AcceptTopic map[string]bool
}

// Config configures a Connector. Fields without a default are required.
type Config struct {
	Name    string
	Profile *profile.Compiled
	// Recompile rebuilds an earlier mapping from the text that the store kept, for sends that it made.
	Recompile func(text []byte) (*profile.Compiled, error)
	Decoder   schema.Decoder
	Store     checkpoint.Store
	Producer  Producer
	Reader    Reader
	Sender    *deliver.Sender
	// Topics maps each topic that is read to its entity.
	Topics map[string]string
	Start  StartOptions

	// DryRun does all but the send (design section 6): a record that would have been sent is skipped, with reason dry_run.
	DryRun bool

	// MaxInFlight bounds requests on the wire. Default 256.
	MaxInFlight int
	// SchedLatency answers how long what was ready to run waited for a CPU since it was asked last, see [SchedLatency]: as long as that
	// is not short, fewer requests may be on the wire. nil: always MaxInFlight.
	SchedLatency func() time.Duration
	// WindowRecords and WindowBytes bound a partition's look-ahead. Defaults 5,000 and 32 MiB.
	WindowRecords int
	WindowBytes   int64
	// AttemptsMax bounds a record's failures that count (promise 7). Default 10.
	AttemptsMax int
	// ElapsedMax bounds the time since the first of them. Default 15 min.
	ElapsedMax time.Duration
	// ReferenceWait bounds how long a record waits in its lane for a reference before it is parked. Default 60 s.
	ReferenceWait time.Duration
	// Drain bounds how long a revoked partition's requests may take to end. Default 20 s, shorter than the
	// rebalance timeout.
	Drain time.Duration
	// CommitEvery is the interval of commits to Kafka. Default 500 ms.
	CommitEvery time.Duration
	// CalledBack: the vendor's webhooks are taken, so what it accepts for later is expected to be confirmed.
	CalledBack bool
	// Entities is how many entities' states are kept in memory. Default 100,000.
	Entities int
	Instance string // names this process in status rows
	// SecretsPrint changes when a secret does, so that a halt ends at once; nil: only the slow timer.
	SecretsPrint func() string
	// Ends returns the last stable offsets of the partitions that are read, for lag.
	Ends func(ctx context.Context) (map[kafka.TP]int64, error)

	Log      *slog.Logger
	Observer Observer
	// Fail is called at the named states, for crash tests; nil in production.
	Fail func(point string)
}

func (c Config) withDefaults() Config {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MaxInFlight, 256)
	def(&c.WindowRecords, 5000)
	if c.WindowBytes == 0 {
		c.WindowBytes = 32 << 20
	}
	def(&c.AttemptsMax, 10)
	dur(&c.ElapsedMax, 15*time.Minute)
	dur(&c.ReferenceWait, 60*time.Second)
	dur(&c.Drain, 20*time.Second)
	dur(&c.CommitEvery, 500*time.Millisecond)
	// The cache must outlast a record's way from intake to lane: four times any window is far beyond it.
	c.Entities = max(c.Entities, 100_000, 4*c.WindowRecords)
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Observer == nil {
		c.Observer = NopObserver{}
	}
	if c.Fail == nil {
		c.Fail = func(string) {}
	}
	return c
}

// A Connector runs one vendor connection. Make it with New, run it once with Run.
type Connector struct {
	cfg    Config
	log    *slog.Logger
	source Source
	box    *mailbox
	ended  chan struct{} // closed when the loop has ended
	ctx    context.Context
	cancel context.CancelCauseFunc

	// Set once in New, safe for all.
	gates map[string]*gateQueue // by operation; the queue part belongs to the loop
	// operations are the gates in the order of their names.
	operations []*gateQueue
	quotas     map[string]*deliver.Quota // by the limit's name
	patience   atomic.Pointer[patience]
	concurrent []*gateQueue // those with a limit of requests at once
	deprecated sync.Map     // operations whose deprecation was told
	entities   *lru.Cache[checkpoint.EntityKey, *entity]
	routes     map[string][]*profile.Route // by entity
	storeBad   blockage
	copyBad    blockage // the parked and dead topics do not take records
	kafkaBad   atomic.Pointer[trouble]
	status     atomic.Pointer[Status]
	mappings   mappings
	// tasks hands a task to a worker that has nothing to do. Size 0: if none waits, a new one is started.
	tasks          chan *task
	readyLanes     atomic.Int64
	waitingIntakes atomic.Int32
	// lateApplyMax is the longest late_apply of the profile's operations.
	lateApplyMax time.Duration

	wire      *slots
	exchanges exchanges
	stopped   atomic.Bool // halted, for workers

	// The loop's own.
	quit           bool
	failed         error
	parts          map[kafka.TP]*partition
	ready          []*keyLane
	readyHead      int
	inFlight       int
	inFlightLimit  inFlightLimit // of requests under way, at most MaxInFlight
	horizonLanes   int           // of all partitions
	gathering      map[batchKey]*bundle
	bundles        []*bundle // ready to be sent
	batch          checkpoint.Batch
	batchTasks     []settled
	batchRetracted []retracted
	evidence       []checkpoint.Evidence
	flushing       bool
	spare          spareBatch
	flushedAt      time.Time // when the last flush began
	flushLater     bool      // a timer will ask for the next one
	committing     bool
	outage         *trouble // the vendor's, over all operations
	asking         bool     // the health call is being made
	halted         *trouble
	halting        bool // a credential check is under way
	haltedLanes    []*keyLane
	haltProbe      *keyLane                      // the lane that may send although halted, to see whether the credential works
	successes      uint64                        // requests that the vendor took with our credential
	haltKeys       map[checkpoint.EntityKey]bool // whose requests blamed the credential since the last success
	waiting        map[checkpoint.Position]*task // for references
	wakingRefs     bool
	takingReleased bool
	takeAgain      bool
	forgetting     map[checkpoint.Position]bool // released entries that are not taken before their waiter is forgotten
	releasing      map[checkpoint.Position]bool // released entries that are on their way or in a lane
	releasedOver   []checkpoint.Position        // of these, what is settled or dropped since the last query for released entries began
	releasedMore   bool                         // that query did not list all there are
	ends           map[kafka.TP]int64
	rate           float64 // marks moved per second, smoothed
	lastTotal      int64
	parkedOpen     int
	parkedBy       map[entryKey]int
	idleMarks      map[*partition]int64
	started        time.Time
	lastSettled    time.Time
}

// An entity is the durable state of one entity as the loop last saw it, and the partition that owns it.
type entity struct {
	state atomic.Pointer[checkpoint.State] // nil: none
	part  *partition
	kept  bool // memory has it (loop)
}

// A partition is one assignment of one partition.
type partition struct {
	id    checkpoint.Partition
	lease checkpoint.Lease
	set   *lane.Set[*work]

	suspectBelow int64
	lostBelow    int64
	mapping      string // of the sends before the last restart
	acquired     time.Time
	suspects     map[checkpoint.EntityKey]bool // keys whose oldest outcome-less record was seen
	open         map[position]*checkpoint.Open
	rejoin       map[string]*rejoining // batches that were begun before the restart, by id
	batches      atomic.Uint64         // begun in this assignment
	last         int64                 // highest offset with a ledger row when the partition was acquired
	skips        []checkpoint.Skip

	intake        chan struct{} // size 1: a hint that queued has batches
	room          chan struct{} // size 1: a hint that readyLanes has changed
	queued        batches
	queuedRecords atomic.Int64
	queuedBytes   atomic.Int64
	lostLease     atomic.Bool
	ctx           context.Context // ends with the assignment
	stop          context.CancelFunc
	intakeDone    chan struct{}

	// The loop's own.
	horizon      int64
	raising      bool
	horizonLanes []*keyLane
	mark         int64 // durable
	markEpoch    int32
	committed    int64
	paused       bool
	hold         string // why it is not fetched, "" if it is
	waits        string // why its intake waits; it goes on by itself
	holdSince    time.Time
	revoking     bool
	gone         bool
	inFlight     int
	unsettled    int // settlements on their way to the store
	waiters      int
	drained      chan struct{}
}

type position struct {
	offset int64
	route  string
}

// New makes a connector; source makes the consumer group around its handler.
func New(cfg Config, source func(kafka.Handler) (Source, error)) (*Connector, error) {
	cfg = cfg.withDefaults()
	c := &Connector{
		cfg:           cfg,
		log:           cfg.Log.With("connector", cfg.Name),
		box:           newMailbox(),
		inFlightLimit: firstLimit(&cfg),
		tasks:         make(chan *task),
		ended:         make(chan struct{}),
		gates:         make(map[string]*gateQueue),
		routes:        make(map[string][]*profile.Route),
		parts:         make(map[kafka.TP]*partition),
		waiting:       make(map[checkpoint.Position]*task),
		releasing:     make(map[checkpoint.Position]bool),
		haltKeys:      make(map[checkpoint.EntityKey]bool),
		gathering:     make(map[batchKey]*bundle),
		started:       time.Now(),
	}
	c.wire = newSlots(c.inFlightLimit.slots)
	var err error
	if c.entities, err = lru.NewWithEvict(cfg.Entities, func(_ checkpoint.EntityKey, e *entity) { e.kept = false }); err != nil {
		return nil, fmt.Errorf("connector %s: %w", cfg.Name, err)
	}
	c.patience.Store(&patience{cfg.AttemptsMax, cfg.ElapsedMax})
	c.makeQuotas()
	for _, e := range cfg.Topics {
		c.routes[e] = cfg.Profile.RoutesFor(e)
		if len(c.routes[e]) == 0 {
			return nil, fmt.Errorf("connector %s: profile %s has no route for entity %s, but its topic is read", cfg.Name, cfg.Profile.Vendor, e)
		}
	}
	c.mappings.init(cfg)
	c.source, err = source(c)
	return c, err
}

func (c *Connector) now() time.Time { return time.Now().UTC() }

// Run runs the connector until ctx ends, then drains: what is in flight ends, is settled and committed, within
// the drain limit. It returns nil after a drain, else what ended it. Cancel the context of the process itself
// to end without a drain.
func (c *Connector) Run(ctx context.Context) error {
	// Requests and store writes of the drain outlive ctx; they end when Run ends.
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	defer c.cancel(errors.New("connector stopped"))
	if err := c.persist("keep mapping "+c.cfg.Profile.Version, func() error {
		return c.cfg.Store.SaveMapping(ctx, c.cfg.Profile.Version, c.cfg.Profile.Text)
	}); err != nil {
		c.cfg.Sender.Close()
		if ctx.Err() != nil {
			return nil // stopped before anything began
		}
		return fmt.Errorf("connector %s: %w", c.cfg.Name, err)
	}
	go c.loop()
	runCtx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var tickers sync.WaitGroup
	tickers.Go(func() { c.tick(runCtx) })
	tickers.Go(func() { every(runCtx, func() { c.publishStatus(false) }) })
	tickers.Go(func() { every(runCtx, func() { c.readEnds(runCtx) }) })
	tickers.Go(func() { c.watchConfirmations(runCtx) })
	go func() {
		select {
		case <-c.ctx.Done():
			stop(context.Cause(c.ctx))
		case <-runCtx.Done():
		}
	}()
	err := c.source.Run(runCtx) // revokes, and so drains, before it returns
	stop(nil)
	tickers.Wait()
	c.ask(func() { c.quit = true })
	<-c.ended
	c.publishStatus(true)
	c.cfg.Sender.Close()
	if cause := context.Cause(c.ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return fmt.Errorf("connector %s: %w", c.cfg.Name, cause)
	}
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("connector %s: %w", c.cfg.Name, err)
	}
	return nil
}

// measureEvery is how often status and metrics are taken.
const measureEvery = time.Second

// tick does what is done every so often, until ctx ends.
func (c *Connector) tick(ctx context.Context) {
	commit := time.NewTicker(c.cfg.CommitEvery)
	defer commit.Stop()
	slow := time.NewTicker(measureEvery)
	defer slow.Stop()
	var adapt <-chan time.Time
	if c.cfg.SchedLatency != nil {
		often := time.NewTicker(adaptEvery)
		defer often.Stop()
		adapt = often.C
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-commit.C:
			c.do(func() { c.commit(); c.wakeReferences() })
		case <-adapt:
			latency := c.cfg.SchedLatency()
			c.do(func() { c.adapt(latency) })
		case <-slow.C:
			c.do(c.takeReleased) // an operator releases by a row in the store
			c.do(c.measure)
		}
	}
}

// every calls f once a second until ctx ends. What asks the store or Kafka has a goroutine of its own: one that answers
// late holds up nothing else.
func every(ctx context.Context, f func()) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// errStopped ends a wait because its connector or assignment ended.
var errStopped = errors.New("stopped")

// fail ends the connector: an invariant of ours broke, or the store is beyond repair.
func (c *Connector) fail(err error) {
	if c.failed != nil {
		return
	}
	c.failed = err
	c.log.Error("connector stops", "err", err)
	c.cancel(err)
}

// persist repeats a store operation until it succeeds or the connector ends: a store that is away is no reason to
// lose anything. What a repeat cannot mend is returned: fenced, refused, and damaged, which also ends the connector,
// whoever met it.
func (c *Connector) persist(what string, f func() error) error {
	b := deliver.NewBackoff(100 * time.Millisecond)
	waits := false
	defer func() {
		if !waits {
			return
		}
		if t := c.storeBad.leave(); t != nil && (c.ctx == nil || c.ctx.Err() == nil) {
			c.log.Info("store answers again", "after", time.Since(t.since).Round(time.Millisecond))
		}
	}()
	for {
		err := f()
		if err == nil {
			return nil
		}
		c.ifDamaged(what, err)
		var fenced *checkpoint.FencedError
		if errors.As(err, &fenced) || errors.Is(err, checkpoint.ErrSettled) || errors.Is(err, checkpoint.ErrNotFound) || errors.Is(err, context.Canceled) || damaged(err) || errors.Is(err, errStopped) {
			return fmt.Errorf("%s: %w", what, err)
		}
		if !waits {
			waits = true
			if c.storeBad.enter(err.Error(), c.now()) {
				c.log.Error("store does not answer as it should; nothing is lost, delivery waits", "doing", what, "err", err)
			}
		}
		select {
		case <-time.After(min(b.Next(), retryMax)):
		case <-c.done():
			return fmt.Errorf("%s: %w", what, err)
		}
	}
}

// ifDamaged ends the connector if the store is damaged, or does not know what is on its disk: nothing that it says can be
// trusted then, so nothing may be sent, settled or committed on its word. What a start finds there, it can.
func (c *Connector) ifDamaged(what string, err error) {
	if damaged(err) {
		c.do(func() {
			if c.failed == nil {
				c.storeBad.enter(err.Error(), c.now()) // for good
				c.fail(fmt.Errorf("%s: %w", what, err))
			}
		})
	}
}

func damaged(err error) bool {
	return errors.Is(err, checkpoint.ErrCorrupt) || errors.Is(err, checkpoint.ErrBroken)
}

func (c *Connector) done() <-chan struct{} {
	if c.ctx == nil {
		return nil
	}
	return c.ctx.Done()
}
