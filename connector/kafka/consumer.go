package kafka

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/schema"
)

// Log keys.
const (
	keyGroup      = "group"
	keyTopic      = "topic"
	keyPartition  = "partition"
	keyPartitions = "partitions"
	keyError      = "error"
)

// A part is one assignment of one partition. It is made on assign and never reused: a partition that comes back
// gets a new part with a new seq.
type part struct {
	TP
	seq uint64
	id  checkpoint.TopicID
	// told: the handler's Assign has returned for it, so Revoke or Lost must follow.
	told bool
	// held: not delivered until Start. paused: by the handler. suspended: after a fetch error, until the next check.
	// The fetch is on only if none of them is set.
	held, paused, suspended bool
	troubled                bool // Handler.Trouble was called, or is queued, for the hold
	placed                  bool // adjust has told the client where it stands
	revoking                bool
	next                    int64 // the offset after the last polled record, -1 while nothing is known
}

func (p *part) fetched() bool { return !p.held && !p.paused && !p.suspended && !p.revoking }

// A flight is a commit under way.
type flight struct {
	tps    []TP
	cancel context.CancelFunc
	done   chan struct{}
}

type startCmd struct {
	seq    uint64
	offset int64
}

// A Consumer is one member of a consumer group. New makes it, Run runs it, once. All methods are safe for concurrent
// use, also from inside the handler's methods.
//
// Two locks. calls is held during every call of the handler, so its methods run one at a time. mu guards the state
// and is never held during a call of the handler or a request. calls is always taken before mu.
type Consumer struct {
	cfg Config
	h   Handler
	log *slog.Logger

	calls chan struct{} // size 1: a lock that can be tried and waited for

	mu       sync.Mutex
	cl       *kgo.Client // nil before Run and after
	started  bool
	leaving  bool
	stop     context.CancelCauseFunc
	parts    map[TP]*part
	seq      uint64
	flights  map[*flight]struct{}
	starts   map[TP]startCmd
	readd    map[string]bool // topics to subscribe again under their new id; true: the client was told to forget the old one
	wakePoll context.CancelFunc
	fetched  map[TP]Committed // of the offset fetch that adjust follows

	check checker
}

// New makes a consumer of cfg.Group. It does not connect: Run does. Errors are *ConfigError.
func New(cfg Config, h Handler, log *slog.Logger) (*Consumer, error) {
	if err := cfg.ValidateConsumer(); err != nil {
		return nil, err
	}
	if h == nil {
		return nil, errors.New("kafka consumer: handler is nil")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Consumer{
		cfg:     cfg.WithDefaults(),
		h:       h,
		log:     log.With(keyGroup, cfg.Group),
		calls:   make(chan struct{}, 1),
		parts:   make(map[TP]*part),
		flights: make(map[*flight]struct{}),
		starts:  make(map[TP]startCmd),
		readd:   make(map[string]bool),
	}
	c.cfg.Topics = slices.Clone(c.cfg.Topics)
	c.check.init()
	return c, nil
}

// Run joins the group and consumes until ctx ends. Then it gives up its partitions (Handler.Revoke, with time to
// drain and commit), leaves the group and returns nil. It returns an error only if the handler's Assign returned one
// or the client cannot be made. When it returns, no goroutine of the consumer is left and no handler method runs.
func (c *Consumer) Run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c.mu.Lock()
	if c.started {
		c.mu.Unlock()
		return fmt.Errorf("run consumer of group %s: it has run already", c.cfg.Group)
	}
	c.started, c.stop = true, stop
	c.mu.Unlock()

	opts := append(c.cfg.clientOpts(),
		kgo.ConsumerGroup(c.cfg.Group),
		kgo.ConsumeTopics(c.cfg.Topics...),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(c.cfg.SessionTimeout),
		kgo.RebalanceTimeout(c.cfg.RebalanceTimeout),
		kgo.HeartbeatInterval(min(3*time.Second, c.cfg.SessionTimeout/3)),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.KeepControlRecords(),
		kgo.DisableAutoCommit(),
		kgo.ConsumeResetOffset(kgo.NoResetOffset()),
		kgo.BlockRebalanceOnPoll(),
		kgo.FetchMaxBytes(c.cfg.FetchBytesMax),
		kgo.FetchMaxPartitionBytes(c.cfg.FetchPartitionBytesMax),
		kgo.FetchMaxWait(c.cfg.FetchWait),
		// New partitions and topics are seen within a check or two, not after Kafka's five minutes.
		kgo.MetadataMaxAge(max(c.cfg.CheckInterval, time.Second)),
		kgo.OnOffsetsFetched(c.onFetched),
		kgo.AdjustFetchOffsetsFn(c.adjust),
		kgo.OnPartitionsAssigned(c.onAssigned),
		kgo.OnPartitionsRevoked(c.onRevoked),
		kgo.OnPartitionsLost(c.onLost),
		kgo.WithHooks(&brokerHooks{kick: c.check.kick}),
	)
	c.mu.Lock() // the first callback may come before NewClient has returned: it waits for c.cl
	cl, err := kgo.NewClient(opts...)
	c.cl = cl
	c.mu.Unlock()
	if err != nil {
		return fmt.Errorf("run consumer of group %s: %w", c.cfg.Group, err)
	}

	var wg sync.WaitGroup
	checking, stopChecking := context.WithCancel(context.WithoutCancel(ctx))
	wg.Go(func() { c.checkLoop(checking, cl) })

	c.poll(ctx, cl)

	// The check ends first: from here only the callbacks of the leave call the handler.
	stopChecking()
	wg.Wait()
	c.leave(cl)
	return c.fatal(ctx)
}

// fatal is the handler's error, if one stopped the run.
func (c *Consumer) fatal(ctx context.Context) error {
	if e, ok := errors.AsType[*assignError](context.Cause(ctx)); ok {
		return fmt.Errorf("run consumer of group %s: %w", c.cfg.Group, e)
	}
	return nil
}

// leave gives up all partitions and leaves the group. The client calls onRevoked for them; it sends no heartbeat
// meanwhile, so the session timeout bounds it too.
func (c *Consumer) leave(cl *kgo.Client) {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), c.revokeTimeout()+c.cfg.RequestTimeout)
	defer cancel()
	if err := cl.LeaveGroupContext(ctx); err != nil {
		c.log.Warn("leave the group: its partitions wait for the session timeout", keyError, err)
	}
	cl.CloseAllowingRebalance()
	// Close polls once more at its end and counts that as a poll that blocks rebalances, if it got something. The
	// leave that Close began in the background may come later still and would wait for ever (franz-go 1.22).
	cl.AllowRebalance()
	// Whatever is left was never given up in order, as when the handler overran its time.
	c.lose(c.Owned())
	c.mu.Lock()
	c.cl = nil
	c.mu.Unlock()
}

// revokeTimeout is what Handler.Revoke gets: four fifths, so that the answer still reaches the coordinator in time.
func (c *Consumer) revokeTimeout() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.cfg.RebalanceTimeout
	if c.leaving {
		d = min(d, c.cfg.SessionTimeout)
	}
	return d / 5 * 4
}

// call runs f as the only call of the handler.
func (c *Consumer) call(f func()) {
	c.calls <- struct{}{}
	defer func() { <-c.calls }()
	f()
}

// poll is the poll loop. It never waits for the handler while it blocks a rebalance.
func (c *Consumer) poll(ctx context.Context, cl *kgo.Client) {
	for ctx.Err() == nil {
		pctx, cancel := c.pollContext(ctx)
		fetches := cl.PollRecords(pctx, c.cfg.PollRecordsMax)
		cancel()
		if fetches.IsClientClosed() {
			cl.AllowRebalance()
			return
		}
		// From here to AllowRebalance no revoke or lost callback runs, so the parts are those that the records
		// were fetched for.
		batches, seqs := c.collect(fetches)
		select {
		case c.calls <- struct{}{}:
			c.deliver(batches, seqs)
			<-c.calls
			c.runStarts(cl)
			cl.AllowRebalance()
		default:
			// The handler is busy, perhaps in Assign, which may wait for a lease. Were we to wait for it here, a
			// rebalance would wait for us, and Assign's ctx, which the rebalance ends, would never end: so let go
			// first. At most this one poll waits. A partition that is revoked meanwhile has another seq or none,
			// and its records are dropped.
			c.runStarts(cl)
			cl.AllowRebalance()
			c.call(func() { c.deliver(batches, seqs) })
		}
		c.runReadds(cl)
	}
}

// pollContext ends when somebody has work for the poll loop.
func (c *Consumer) pollContext(ctx context.Context) (context.Context, context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.starts) > 0 || len(c.readd) > 0 {
		// What the client was not ready for: look again soon.
		return context.WithTimeout(ctx, 10*time.Millisecond)
	}
	pctx, cancel := context.WithCancel(ctx)
	c.wakePoll = cancel
	return pctx, cancel
}

func (c *Consumer) wakeLocked() {
	if c.wakePoll != nil {
		c.wakePoll()
	}
}

// collect turns a poll into batches and hands its errors to the check.
func (c *Consumer) collect(fetches kgo.Fetches) ([]Batch, []uint64) {
	var batches []Batch
	var seqs []uint64
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range fetches {
		for j := range fetches[i].Topics {
			t := &fetches[i].Topics[j]
			for k := range t.Partitions {
				fp := &t.Partitions[k]
				tp := TP{t.Topic, fp.Partition}
				p := c.parts[tp]
				if len(fp.Records) > 0 && p != nil && c.acceptLocked(p, t.TopicID, fp.Records) {
					b, size := toBatch(tp, p.id, fp.Records)
					batches, seqs = append(batches, b), append(seqs, p.seq)
					c.cfg.Metrics.Fetched(tp.Topic, tp.Partition, len(b.Records), size)
				}
				if fp.Err != nil {
					c.fetchErrorLocked(tp, p, fp.Err)
				}
			}
		}
	}
	return batches, seqs
}

// acceptLocked says whether polled records may be delivered, and moves the partition's position if so.
func (c *Consumer) acceptLocked(p *part, id checkpoint.TopicID, rs []*kgo.Record) bool {
	var none checkpoint.TopicID
	switch {
	case p.held || p.revoking:
		return false // Start sets the position anew
	case id != none && p.id != none && id != p.id:
		c.suspendLocked(p)
		c.check.kick()
		return false
	case p.next >= 0 && rs[0].Offset < p.next:
		// The client went back, as it does when it finds the log cut. Weir decides where to read, not the client.
		c.troubleLocked(p, &OutOfRangeError{Next: p.next, LogStart: -1, End: -1})
		return false
	}
	p.next = rs[len(rs)-1].Offset + 1
	return true
}

// deliver hands batches over, but for those whose assignment is over or that were held meanwhile. calls is held.
func (c *Consumer) deliver(batches []Batch, seqs []uint64) {
	if len(batches) == 0 {
		return
	}
	c.mu.Lock()
	keep := batches[:0]
	for i, b := range batches {
		if p := c.parts[b.TP]; p != nil && p.seq == seqs[i] && !p.held && !p.revoking {
			keep = append(keep, b)
		}
	}
	c.mu.Unlock()
	if len(keep) > 0 {
		c.h.Records(keep)
	}
}

// toBatch converts one partition's records; size is the bytes of keys and values. One slab holds all records, since
// they live and die about together.
func toBatch(tp TP, id checkpoint.TopicID, rs []*kgo.Record) (b Batch, size int) {
	slab := make([]Record, len(rs))
	b = Batch{TP: tp, Records: make([]*Record, len(rs))}
	for i, r := range rs {
		slab[i] = toRecord(r, id)
		b.Records[i] = &slab[i]
		size += len(r.Key) + len(r.Value)
	}
	return b, size
}

func toRecord(r *kgo.Record, id checkpoint.TopicID) Record {
	out := Record{LeaderEpoch: r.LeaderEpoch, Control: r.Attrs.IsControl()}
	out.Topic, out.TopicID, out.Partition, out.Offset, out.Timestamp = r.Topic, id, r.Partition, r.Offset, r.Timestamp
	if out.Control {
		return out
	}
	out.Key, out.Value = r.Key, r.Value
	if len(r.Headers) > 0 {
		out.Headers = make([]schema.Header, len(r.Headers))
		for i, h := range r.Headers {
			out.Headers[i] = schema.Header{Key: h.Key, Value: h.Value}
		}
	}
	return out
}

// syncLocked makes the client fetch the partition, or not. The client's calls only take its own leaf locks.
func (c *Consumer) syncLocked(p *part) {
	if c.cl == nil {
		return
	}
	if p.fetched() {
		c.cl.ResumeFetchPartitions(byTopic(p.TP))
	} else {
		c.cl.PauseFetchPartitions(byTopic(p.TP))
	}
}

func (c *Consumer) suspendLocked(p *part) {
	p.suspended = true
	c.syncLocked(p)
}

// troubleLocked holds a partition and queues the report for the check, which completes it and calls the handler:
// the poll loop never does.
func (c *Consumer) troubleLocked(p *part, err error) {
	if p.troubled {
		return
	}
	p.held, p.troubled = true, true
	c.syncLocked(p)
	c.check.trouble(p.TP, p.seq, err)
}

// fetchErrorLocked handles one error of a poll. What the client retries by itself never gets here.
func (c *Consumer) fetchErrorLocked(tp TP, p *part, err error) {
	if gs, ok := errors.AsType[*kgo.ErrGroupSession](err); ok {
		c.groupError(gs.Err)
		return
	}
	if p == nil {
		return // the poll's own context, or a partition that is gone
	}
	_, loss := errors.AsType[*kgo.ErrDataLoss](err)
	switch {
	case errors.Is(err, kerr.OffsetOutOfRange) || loss:
		c.troubleLocked(p, &OutOfRangeError{Next: p.next, LogStart: -1, End: -1})
	case isType[*kgo.ErrDecompressTooLarge](err):
		c.troubleLocked(p, fmt.Errorf("read %v: %w (raise the limit of decompressed batch bytes, %d)", tp, err, c.cfg.DecompressedBatchBytesMax))
	case errors.Is(err, kerr.UnknownTopicID) || errors.Is(err, kerr.UnknownTopicOrPartition):
		c.suspendLocked(p)
		c.check.kick()
	default:
		// Not permitted, or something that only time or an operator heals: once per check, not once per round trip.
		c.suspendLocked(p)
		c.check.fetchError(tp, fmt.Errorf("read %v: %w", tp, err))
	}
}

// groupError takes what kept us from the group. Being thrown out and joining again is the group's daily life and no
// condition of the environment.
func (c *Consumer) groupError(err error) {
	for _, member := range []error{kerr.UnknownMemberID, kerr.IllegalGeneration, kerr.RebalanceInProgress, kerr.MemberIDRequired, errStopped, context.Canceled} {
		if errors.Is(err, member) {
			return
		}
	}
	c.check.groupError(fmt.Errorf("group %s: %w", c.cfg.Group, err))
}

// errStopped ends the client's group session after the handler's Assign has failed. It hides the cause from the
// client, which takes a context.Canceled for a wish to leave.
var errStopped = errors.New("consumer stopped")

// An assignError is the handler's own.
type assignError struct{ err error }

func (e *assignError) Error() string { return "assign: " + e.err.Error() }
func (e *assignError) Unwrap() error { return e.err }

// onFetched keeps the group's committed offsets with their metadata; adjust follows on the same goroutine.
func (c *Consumer) onFetched(_ context.Context, _ *kgo.Client, resp *kmsg.OffsetFetchResponse) error {
	got := make(map[TP]Committed)
	for _, g := range resp.Groups {
		for _, t := range g.Topics {
			for _, p := range t.Partitions {
				if p.ErrorCode != 0 || p.Offset < 0 {
					continue
				}
				cm := Committed{OK: true, Offset: p.Offset, LeaderEpoch: p.LeaderEpoch}
				if p.Metadata != nil {
					cm.Metadata = *p.Metadata
				}
				got[TP{t.Topic, p.Partition}] = cm
			}
		}
	}
	c.mu.Lock()
	c.fetched = got
	c.mu.Unlock()
	return nil
}

// adjust is the assignment: it learns what Kafka knows, asks the handler and says where to fetch. The client calls
// it once for each partition that it adds, and again if a rebalance ended ctx before it returned. Revoke and lost
// callbacks wait until it has returned.
func (c *Consumer) adjust(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	c.check.groupError(nil)
	c.mu.Lock()
	committed, cl := c.fetched, c.cl
	c.fetched = nil
	c.mu.Unlock()
	var tps []TP
	for t, ps := range offsets {
		for p, o := range ps {
			tp := TP{t, p}
			if o.EpochOffset().Offset >= 0 && !committed[tp].OK {
				// Never take a committed offset for none: that would apply the start policy.
				return nil, fmt.Errorf("fetch committed offsets: the answer names no topic for %v", tp)
			}
			tps = append(tps, tp)
		}
	}
	slices.SortFunc(tps, compareTP)
	as, absent, err := c.learn(ctx, cl, tps, committed)
	if err != nil {
		return nil, err
	}

	var starts map[TP]Start
	c.call(func() {
		// A topic that was subscribed again may come without a revoke.
		c.loseCalling(tps)
		c.mu.Lock()
		for _, a := range as {
			c.addLocked(a.TP, a.TopicID)
		}
		for _, tp := range absent {
			c.addLocked(tp, checkpoint.TopicID{})
		}
		c.mu.Unlock()
		if len(as) > 0 {
			starts, err = c.h.Assign(ctx, as)
		}
		c.mu.Lock()
		for _, a := range as {
			if p := c.parts[a.TP]; p != nil {
				p.told = err == nil
			}
		}
		c.mu.Unlock()
	})
	if err != nil {
		c.drop(tps, 0)
		if ctx.Err() != nil {
			return nil, ctx.Err() // a rebalance came between: the client asks again
		}
		c.stop(&assignError{err})
		return nil, errStopped
	}
	c.cfg.Metrics.Rebalanced(len(as), 0, 0)

	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range tps {
		p := c.parts[tp]
		if p == nil {
			continue
		}
		at := kgo.NewOffset().At(0) // held: a place to stand, Start sets the offset
		if s, ok := starts[tp]; ok && !s.Hold && s.Offset >= 0 {
			p.held, p.next = false, s.Offset
			at = kgo.NewOffset().At(s.Offset)
			if cm := committed[tp]; cm.OK && cm.Offset == s.Offset && cm.LeaderEpoch >= 0 {
				at = at.WithEpoch(cm.LeaderEpoch) // lets the client find a log that was cut
			}
		}
		p.placed = true
		c.syncLocked(p)
		offsets[tp.Topic][tp.Partition] = at
	}
	return offsets, nil
}

// addLocked makes a new part: held, so not a byte is fetched before the handler has decided.
func (c *Consumer) addLocked(tp TP, id checkpoint.TopicID) {
	c.seq++
	p := &part{TP: tp, seq: c.seq, id: id, held: true, next: -1}
	c.parts[tp] = p
	c.syncLocked(p)
}

// learn asks Kafka about new partitions until it answers or ctx ends: an error would make the client give up all
// partitions, the running ones too. absent are those whose topic does not exist; the check watches for them.
func (c *Consumer) learn(ctx context.Context, cl *kgo.Client, tps []TP, committed map[TP]Committed) (as []Assignment, absent []TP, err error) {
	topics := topicsOf(tps)
	for try := 0; ; try++ {
		as, absent, err = c.learnOnce(ctx, cl, topics, tps, committed, try >= 5)
		if err == nil {
			c.check.assignError(nil)
			return as, absent, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if try > 0 { // once is a leader that moved
			c.check.assignError(fmt.Errorf("learn the range of %d new partitions: %w", len(tps), err))
		}
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(min(100*time.Millisecond<<min(try, 4), time.Second)):
		}
	}
}

func (c *Consumer) learnOnce(ctx context.Context, cl *kgo.Client, topics []string, tps []TP, committed map[TP]Committed, patient bool) (as []Assignment, absent []TP, err error) {
	meta, err := topicsMeta(ctx, cl, topics)
	if err != nil {
		return nil, nil, err
	}
	starts, ends, err := ranges(ctx, cl, tps)
	if err != nil {
		return nil, nil, err
	}
	for _, tp := range tps {
		m := meta[tp.Topic]
		for _, err := range []error{m.err, starts[tp].err, ends[tp].err} {
			if err == nil {
				continue
			}
			if patient && (errors.Is(err, kerr.UnknownTopicOrPartition) || errors.Is(err, kerr.UnknownTopicID)) {
				absent = append(absent, tp)
				break
			}
			return nil, nil, fmt.Errorf("%v: %w", tp, err)
		}
		if len(absent) > 0 && absent[len(absent)-1] == tp {
			continue
		}
		as = append(as, Assignment{TP: tp, TopicID: m.id, Committed: committed[tp], LogStart: starts[tp].offset, End: ends[tp].offset})
	}
	return as, absent, nil
}

func topicsOf(tps []TP) []string {
	var ts []string
	for _, tp := range tps {
		ts = append(ts, tp.Topic)
	}
	slices.Sort(ts)
	return slices.Compact(ts)
}

// onAssigned runs on every successful join, also one that brings nothing: the group answers.
func (c *Consumer) onAssigned(context.Context, *kgo.Client, map[string][]int32) {
	c.check.groupError(nil)
}

// onRevoked gives partitions up in order: the handler drains and commits, then they are gone. The client also calls
// it with nothing at the end of each session.
func (c *Consumer) onRevoked(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	tps := c.ownedOf(flatten(m))
	if len(tps) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.revokeTimeout())
	defer cancel()
	c.call(func() {
		var told []TP
		c.mu.Lock()
		for _, tp := range tps {
			if p := c.parts[tp]; p != nil {
				p.revoking = true
				delete(c.starts, tp)
				c.syncLocked(p)
				if p.told {
					told = append(told, tp)
				}
			}
		}
		c.mu.Unlock()
		if len(told) > 0 {
			c.h.Revoke(ctx, told)
		}
	})
	// A commit that Revoke started and did not wait for gets a moment; then it is ended. Afterwards none is under way.
	c.drop(tps, time.Second)
	c.cfg.Metrics.Rebalanced(0, len(tps), 0)
}

// onLost: the partitions are somebody else's already.
func (c *Consumer) onLost(_ context.Context, _ *kgo.Client, m map[string][]int32) {
	c.lose(c.ownedOf(flatten(m)))
}

// lose drops partitions and tells the handler.
func (c *Consumer) lose(tps []TP) {
	if len(tps) == 0 {
		return
	}
	// Before waiting for the handler: its commits are refused from now on.
	told := c.drop(tps, 0)
	c.cfg.Metrics.Rebalanced(0, 0, len(tps))
	if len(told) > 0 {
		c.call(func() { c.h.Lost(told) })
	}
}

// loseCalling is lose while calls is held.
func (c *Consumer) loseCalling(tps []TP) {
	if told := c.drop(tps, 0); len(told) > 0 {
		c.h.Lost(told)
	}
}

func (c *Consumer) ownedOf(tps []TP) []TP {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(tps, func(tp TP) bool { return c.parts[tp] == nil })
}

// drop ends assignments. From the moment that it holds the lock, commits of them are refused; when it returns, none
// is under way: those that are get grace, then they are cancelled and waited for. It returns the partitions that the
// handler knows of.
func (c *Consumer) drop(tps []TP, grace time.Duration) (told []TP) {
	c.mu.Lock()
	for _, tp := range tps {
		p := c.parts[tp]
		if p == nil {
			continue
		}
		if p.told {
			told = append(told, tp)
		}
		delete(c.parts, tp)
		delete(c.starts, tp)
		if c.cl != nil {
			c.cl.ResumeFetchPartitions(byTopic(tp)) // a pause outlives the assignment in the client
		}
	}
	var wait []*flight
	for f := range c.flights {
		if slices.ContainsFunc(f.tps, func(tp TP) bool { return slices.Contains(tps, tp) }) {
			wait = append(wait, f)
		}
	}
	c.mu.Unlock()
	c.check.forget(tps)

	timer := time.NewTimer(grace)
	defer timer.Stop()
	for _, f := range wait {
		select {
		case <-f.done:
		case <-timer.C:
			timer.Reset(0) // for the others
			f.cancel()
			<-f.done
		}
	}
	return told
}

// Commit commits offsets with their metadata and waits for the broker's answer, at most Config.RequestTimeout. It
// may be called from inside Handler.Assign and Handler.Revoke, never from Lost.
//
// Promises 1 and 4: a partition is committed only while it is assigned to this consumer. The check, the entry into
// the set of commits under way and the end of an assignment are made under one lock, and the end of an assignment
// waits for the commits under way: so when Handler.Revoke's partitions go to their next owner, or Handler.Lost is
// called, no commit of ours can still arrive. A commit that had left before a loss carries the old generation, which
// the broker refuses.
//
// The error is a *CommitError that names the partitions that were not committed; errors.Is finds ErrNotOwned,
// ErrMetadataTooLarge and Kafka's errors in it. The other partitions are committed.
func (c *Consumer) Commit(ctx context.Context, cs map[TP]Commit) error {
	if len(cs) == 0 {
		return nil
	}
	refused := make(map[TP]error)
	send := make(map[TP]uint64)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	f := &flight{cancel: cancel, done: make(chan struct{})}

	c.mu.Lock()
	cl := c.cl
	for tp, cm := range cs {
		p := c.parts[tp]
		switch {
		case cl == nil:
			refused[tp] = ErrNotRunning
		case p == nil:
			refused[tp] = ErrNotOwned
		case len(cm.Metadata) > MetadataMax:
			refused[tp] = fmt.Errorf("%w: %d bytes, at most %d", ErrMetadataTooLarge, len(cm.Metadata), MetadataMax)
		case cm.Offset < 0:
			refused[tp] = fmt.Errorf("offset %d is negative", cm.Offset)
		default:
			send[tp] = p.seq
			f.tps = append(f.tps, tp)
		}
	}
	if len(send) > 0 {
		c.flights[f] = struct{}{}
	}
	c.mu.Unlock()

	if len(send) > 0 {
		begun := time.Now()
		err := c.send(ctx, cl, cs, send, refused)
		c.cfg.Metrics.Committed(len(send), time.Since(begun), err)
		c.mu.Lock()
		delete(c.flights, f)
		c.mu.Unlock()
		close(f.done)
	}
	if len(refused) > 0 {
		return &CommitError{Refused: refused}
	}
	return nil
}

// send commits the partitions in send, and adds to refused what the broker, or a revoke meanwhile, refused.
func (c *Consumer) send(ctx context.Context, cl *kgo.Client, cs map[TP]Commit, send map[TP]uint64, refused map[TP]error) error {
	offsets := make(map[string]map[int32]kgo.EpochOffset)
	for tp := range send {
		if offsets[tp.Topic] == nil {
			offsets[tp.Topic] = make(map[int32]kgo.EpochOffset)
		}
		offsets[tp.Topic][tp.Partition] = kgo.EpochOffset{Epoch: cs[tp].LeaderEpoch, Offset: cs[tp].Offset}
	}
	gone := make(map[TP]bool)
	// The client waits for a running join before it commits. That can be long, so look again at the last moment.
	ctx = kgo.PreCommitFnContext(ctx, func(req *kmsg.OffsetCommitRequest) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for i := range req.Topics {
			t := &req.Topics[i]
			t.Partitions = slices.DeleteFunc(t.Partitions, func(p kmsg.OffsetCommitRequestTopicPartition) bool {
				tp := TP{t.Topic, p.Partition}
				own := c.parts[tp]
				gone[tp] = own == nil || own.seq != send[tp]
				return gone[tp]
			})
			for j := range t.Partitions {
				md := cs[TP{t.Topic, t.Partitions[j].Partition}].Metadata
				t.Partitions[j].Metadata = &md
			}
		}
		req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.OffsetCommitRequestTopic) bool { return len(t.Partitions) == 0 })
		return nil
	})
	answered := make(map[TP]error)
	var failed error
	cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, req *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		if err != nil {
			failed = err
			return
		}
		names := make(map[checkpoint.TopicID]string)
		for _, t := range req.Topics {
			names[t.TopicID] = t.Topic
		}
		for _, t := range resp.Topics {
			name := t.Topic
			if name == "" { // from version 10 on the answer holds ids
				name = names[t.TopicID]
			}
			for _, p := range t.Partitions {
				answered[TP{name, p.Partition}] = kerr.ErrorForCode(p.ErrorCode)
			}
		}
	})
	for tp := range send {
		err, ok := answered[tp]
		switch {
		case gone[tp]:
			err = ErrNotOwned
		case failed != nil:
			err = failed
		case !ok:
			err = errors.New("the broker's answer leaves the partition out")
		}
		if err != nil {
			refused[tp] = err
		}
	}
	return failed
}

// Pause stops the fetch of partitions. What was polled before still comes. Partitions that are not owned are left
// out; a new assignment starts without a pause.
func (c *Consumer) Pause(tps ...TP) { c.setPaused(true, tps) }

// Resume ends a Pause. A held partition stays held.
func (c *Consumer) Resume(tps ...TP) { c.setPaused(false, tps) }

func (c *Consumer) setPaused(paused bool, tps []TP) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, tp := range tps {
		if p := c.parts[tp]; p != nil && p.paused != paused {
			p.paused = paused
			c.syncLocked(p)
		}
	}
}

// Start begins the fetch of a held partition at an offset, soon after it returns. A pause stays in force. It is an
// error to start one that is not owned (ErrNotOwned) or not held.
func (c *Consumer) Start(tp TP, offset int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.parts[tp]
	switch {
	case p == nil || p.revoking:
		return fmt.Errorf("start %v: %w", tp, ErrNotOwned)
	case offset < 0:
		return fmt.Errorf("start %v: offset %d is negative", tp, offset)
	case !p.held:
		return fmt.Errorf("start %v: it is not held", tp)
	}
	c.starts[tp] = startCmd{p.seq, offset}
	c.wakeLocked()
	return nil
}

// runStarts carries out Start. The poll loop calls it while it blocks rebalances, as the client wants it for
// SetOffsets: no revoke can come between the check and the call.
func (c *Consumer) runStarts(cl *kgo.Client) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.starts) == 0 {
		return
	}
	// The client takes an offset only for partitions that it has finished to assign, and says nothing of others.
	assigned := cl.CommittedOffsets()
	for tp, cmd := range c.starts {
		p := c.parts[tp]
		if p == nil || p.seq != cmd.seq {
			delete(c.starts, tp)
			continue
		}
		if _, ok := assigned[tp.Topic][tp.Partition]; !ok || !p.placed {
			continue // the poll loop comes back
		}
		// Lock order: the client's locks are taken under mu here; it calls none of our callbacks under them.
		cl.SetOffsets(map[string]map[int32]kgo.EpochOffset{tp.Topic: {tp.Partition: {Epoch: -1, Offset: cmd.offset}}})
		delete(c.starts, tp)
		p.held, p.troubled, p.suspended, p.next = false, false, false, cmd.offset
		c.syncLocked(p)
	}
}

// runReadds subscribes again to topics that were created anew: the client keeps the id that it first saw. First it
// forgets the topic, which makes the group take its partitions away; only when it has forgotten its offsets too is
// the topic added. Added at once, the old offsets could pass for those of the new assignment in runStarts.
func (c *Consumer) runReadds(cl *kgo.Client) {
	c.mu.Lock()
	var purge, add []string
	for t, purged := range c.readd {
		if purged {
			add = append(add, t)
		} else {
			purge = append(purge, t)
			c.readd[t] = true
		}
	}
	c.mu.Unlock()
	if len(purge) > 0 {
		slices.Sort(purge)
		c.log.Info("forget deleted topics", keyTopic, purge)
		cl.PurgeTopicsFromConsuming(purge...)
	}
	if len(add) == 0 {
		return
	}
	known := cl.CommittedOffsets()
	add = slices.DeleteFunc(add, func(t string) bool { return len(known[t]) > 0 })
	if len(add) == 0 {
		return
	}
	slices.Sort(add)
	c.log.Info("subscribe again to recreated topics", keyTopic, add)
	cl.AddConsumeTopics(add...)
	c.mu.Lock()
	for _, t := range add {
		delete(c.readd, t)
	}
	c.mu.Unlock()
}

// Owned lists the assigned partitions, in order.
func (c *Consumer) Owned() []TP {
	c.mu.Lock()
	defer c.mu.Unlock()
	return sortedKeys(c.parts)
}

// Ends asks Kafka for log start and last stable offset of the owned partitions. Partitions that cannot say are left
// out, and the error names them.
func (c *Consumer) Ends(ctx context.Context) (map[TP]End, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	return readEnds(ctx, cl, c.Owned())
}

// OffsetsAt finds the first offset at or after a time in each partition, the last stable offset where there is none.
func (c *Consumer) OffsetsAt(ctx context.Context, at time.Time, tps ...TP) (map[TP]int64, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	defer cancel()
	return offsetsAt(ctx, cl, tps, at)
}

func (c *Consumer) client() (*kgo.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cl == nil {
		return nil, ErrNotRunning
	}
	return c.cl, nil
}
