package connector_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector"
	"github.com/weirsync/weir/connector/deliver"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/connector/sandbox"
	"github.com/weirsync/weir/connector/verify"
	"github.com/weirsync/weir/schema"
)

// A simWorld is everything around the connectors of one run: broker, store, vendor, faults and what is watched.
// All of it lives in one synctest bubble, so its hours cost milliseconds. What a seed decides, it decides by what a
// request is (its key, its attempt), not by when it comes, so that the same seed means the same trouble however
// goroutines are scheduled.
type simWorld struct {
	seed    uint64
	shape   simShape
	kit     *simKit
	began   time.Time
	broker  *simBroker
	store   *simStore
	sandbox *sandbox.Sandbox
	server  *http.Server
	conns   chan net.Conn
	closed  chan struct{}

	mu         sync.Mutex
	rng        *rand.Rand // of latencies: their order is the scheduler's
	violations []string
	attempts   map[string]int      // by request
	started    map[string]simStart // by operation and key: the newest request that was started
	flying     map[string]int      // by instance and key
	undecided  map[string]string   // class none, by reference: why it must not be sent again
	offsets    map[string][2]int64 // by reference: first and last offset at which it was published
	poisoned   map[string]bool     // references that never get an answer but 503
	zombiesTil time.Time           // until then requests of a lost assignment may still be under way
	requests   int
	faults     map[string]int
}

type simStart struct {
	ref string
	at  time.Time
}

// violate notes a broken invariant.
func (w *simWorld) violate(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) < 20 {
		w.violations = append(w.violations, fmt.Sprintf("[%v] ", w.since())+fmt.Sprintf(format, args...))
	}
}

func (w *simWorld) since() time.Duration { return time.Since(w.began).Round(time.Millisecond) }

// pause takes some time, up to limit.
func (w *simWorld) pause(limit time.Duration) {
	w.mu.Lock()
	d := time.Duration(w.rng.Int64N(int64(limit) + 1))
	w.mu.Unlock()
	time.Sleep(d)
}

func (w *simWorld) chance(p float64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return p > 0 && w.rng.Float64() < p
}

// faulty says whether trouble may still happen: at the end of a run it may not.
func (w *simWorld) faulty() bool { return time.Since(w.began) < w.shape.faultsEnd }

func (w *simWorld) storeFails() bool {
	return w.faulty() && (w.shape.storeAway.has(time.Since(w.began)) || w.chance(w.shape.storeFaults))
}

// A simWindow is a stretch of a run.
type simWindow struct{ from, to time.Duration }

func (x simWindow) has(d time.Duration) bool { return x.from <= d && d < x.to }

func simHash(parts ...any) uint64 {
	h := fnv.New64a()
	fmt.Fprintln(h, parts...)
	x := h.Sum64() // fnv alone is weak in its high bits for short inputs
	x ^= x >> 33
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	return x
}

func simShare(parts ...any) float64 { return float64(simHash(parts...)>>11) / (1 << 53) }

// ---- the broker and the group

// A simBroker is a broker with one consumer group, whose assignments the driver moves.
type simBroker struct {
	w         *simWorld
	mu        sync.Mutex
	logs      map[kafka.TP]*simLog
	committed map[kafka.TP]kafka.Committed
	owner     map[kafka.TP]*simSource
	sources   []kafka.TP // the partitions of the entity topics
}

type simLog struct {
	id      checkpoint.TopicID
	records []*kafka.Record
	next    int64
}

func (b *simBroker) topicID(topic string) (id checkpoint.TopicID) {
	h := simHash("topic", topic)
	for i := range id {
		id[i] = byte(h >> (8 * (i % 8)))
	}
	return id
}

func (b *simBroker) log(tp kafka.TP) *simLog {
	if b.logs[tp] == nil {
		b.logs[tp] = &simLog{id: b.topicID(tp.Topic)}
	}
	return b.logs[tp]
}

// put appends a record, after a hole or a transaction marker if the caller says so.
func (b *simBroker) put(r kafka.Record, hole int64, marker bool) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.log(kafka.TP{Topic: r.Topic, Partition: r.Partition})
	if marker {
		m := kafka.Record{Control: true}
		m.Topic, m.TopicID, m.Partition, m.Offset, m.Timestamp = r.Topic, l.id, r.Partition, l.next, time.Now()
		l.records = append(l.records, &m)
		l.next++
	}
	l.next += hole
	r.TopicID, r.Offset = l.id, l.next
	if r.Timestamp.IsZero() {
		r.Timestamp = time.Now()
	}
	l.records = append(l.records, &r)
	l.next++
	return r.Offset
}

func (b *simBroker) read(tp kafka.TP, from int64, n int) []*kafka.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.log(tp)
	i, _ := slices.BinarySearchFunc(l.records, from, func(r *kafka.Record, o int64) int { return int(r.Offset - o) })
	var out []*kafka.Record
	for ; i < len(l.records) && n > 0; i, n = i+1, n-1 {
		c := *l.records[i]
		out = append(out, &c)
	}
	return out
}

// lag is how many offsets the group is behind.
func (b *simBroker) lag() (lag int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, tp := range b.sources {
		lag += b.log(tp).next - b.committed[tp].Offset
	}
	return lag
}

func (b *simBroker) owned(s *simSource) (tps []kafka.TP) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, tp := range b.sources {
		if b.owner[tp] == s {
			tps = append(tps, tp)
		}
	}
	return tps
}

func (b *simBroker) disown(s *simSource, tps ...kafka.TP) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, tp := range tps {
		if b.owner[tp] == s {
			delete(b.owner, tp)
		}
	}
}

// Produce and ReadAt are the topics as an instance reaches them.
type simKafka struct{ in *simInstance }

func (k *simKafka) Produce(_ context.Context, outs []kafka.Out) ([]kafka.Placed, error) {
	k.in.w.pause(5 * time.Millisecond)
	var placed []kafka.Placed
	err := k.in.alive(func() error {
		for _, o := range outs {
			p := kafka.Placed{TP: kafka.TP{Topic: o.Topic, Partition: o.Partition}}
			if k.in.w.faulty() && k.in.w.chance(k.in.w.shape.kafkaFaults) {
				p.Err = errors.New("simulated: produce timed out")
				if k.in.w.chance(0.5) {
					placed = append(placed, p)
					continue
				} // else it was written, and only the answer is lost
			}
			r := kafka.Record{}
			r.Topic, r.Partition, r.Key, r.Value, r.Headers = o.Topic, o.Partition, o.Key, o.Value, o.Headers
			p.Offset = k.in.w.broker.put(r, 0, false)
			placed = append(placed, p)
		}
		return nil
	})
	return placed, err
}

func (k *simKafka) ReadAt(_ context.Context, topic string, partition int32, offset int64) (*kafka.Record, error) {
	k.in.w.pause(3 * time.Millisecond)
	var out *kafka.Record
	err := k.in.alive(func() error {
		if k.in.w.faulty() && k.in.w.chance(k.in.w.shape.kafkaFaults) {
			return errors.New("simulated: fetch timed out")
		}
		rs := k.in.w.broker.read(kafka.TP{Topic: topic, Partition: partition}, offset, 1)
		if len(rs) == 0 || rs[0].Offset != offset {
			return kafka.ErrGone
		}
		out = rs[0]
		return nil
	})
	return out, err
}

// A simSource is the consumer group as one instance sees it.
type simSource struct {
	in     *simInstance
	h      kafka.Handler
	cmds   chan func(ctx context.Context) error
	ended  chan struct{}
	mu     sync.Mutex
	paused map[kafka.TP]bool
	at     map[kafka.TP]int64 // of what is fetched
}

var _ connector.Source = (*simSource)(nil)

// pollEvery and pollMax bound what a poll brings.
const (
	pollEvery = 60 * time.Millisecond
	pollMax   = 25
)

func (s *simSource) Run(ctx context.Context) error {
	defer close(s.ended)
	b := s.in.w.broker
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.in.crashed:
			return errSimCrashed
		case <-ctx.Done():
			if tps := b.owned(s); len(tps) > 0 {
				s.revoke(ctx, tps)
			}
			return nil
		case f := <-s.cmds:
			if err := f(ctx); err != nil {
				return err
			}
		case <-tick.C:
			s.poll()
		}
	}
}

func (s *simSource) revoke(ctx context.Context, tps []kafka.TP) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 45*time.Second)
	defer cancel()
	s.h.Revoke(ctx, tps)
	s.in.w.broker.disown(s, tps...)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tp := range tps {
		delete(s.at, tp)
		delete(s.paused, tp)
	}
}

func (s *simSource) poll() {
	var bs []kafka.Batch
	for _, tp := range s.in.w.broker.owned(s) {
		s.mu.Lock()
		from, ok := s.at[tp]
		ok = ok && !s.paused[tp]
		s.mu.Unlock()
		if !ok {
			continue
		}
		if rs := s.in.w.broker.read(tp, from, pollMax); len(rs) > 0 {
			bs = append(bs, kafka.Batch{TP: tp, Records: rs})
			s.mu.Lock()
			s.at[tp] = rs[len(rs)-1].Offset + 1
			s.mu.Unlock()
		}
	}
	if len(bs) > 0 {
		s.h.Records(bs)
	}
}

func (s *simSource) Pause(tps ...kafka.TP)  { s.setPaused(true, tps) }
func (s *simSource) Resume(tps ...kafka.TP) { s.setPaused(false, tps) }

func (s *simSource) setPaused(v bool, tps []kafka.TP) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tp := range tps {
		s.paused[tp] = v
	}
}

func (s *simSource) Commit(_ context.Context, cs map[kafka.TP]kafka.Commit) error {
	w := s.in.w
	w.pause(5 * time.Millisecond)
	return s.in.alive(func() error {
		if w.faulty() && w.chance(w.shape.kafkaFaults) {
			return errors.New("simulated: commit timed out")
		}
		b := w.broker
		b.mu.Lock()
		defer b.mu.Unlock()
		for tp, c := range cs {
			if b.owner[tp] != s {
				return fmt.Errorf("simulated: %v/%d is not ours", tp.Topic, tp.Partition)
			}
			// Promise 1, at the moment that it matters.
			l := b.log(tp)
			id := checkpoint.Partition{Connector: "v", Topic: tp.Topic, ID: l.id, Index: tp.Partition}
			routes := w.routes(entityOfTopic(tp.Topic))
			for _, r := range l.records {
				if r.Offset < c.Offset && !r.Control && !w.store.outcomes(id, r.Offset, routes) {
					w.violate("promise 1: %s commits %s/%d at %d, but offset %d has no outcome on each of %v", s.in.name, tp.Topic, tp.Partition, c.Offset, r.Offset, routes)
					break
				}
			}
			if old := b.committed[tp]; old.OK && c.Offset < old.Offset {
				w.violate("%s moves the commit of %s/%d back from %d to %d", s.in.name, tp.Topic, tp.Partition, old.Offset, c.Offset)
			}
			b.committed[tp] = kafka.Committed{OK: true, Offset: c.Offset, LeaderEpoch: c.LeaderEpoch, Metadata: c.Metadata}
		}
		return nil
	})
}

// assign gives the source partitions; it runs on the source's goroutine.
func (s *simSource) assign(tps []kafka.TP) func(context.Context) error {
	return func(ctx context.Context) error {
		b := s.in.w.broker
		var as []kafka.Assignment
		b.mu.Lock()
		for _, tp := range tps {
			if b.owner[tp] != nil {
				continue
			}
			b.owner[tp] = s
			l := b.log(tp)
			as = append(as, kafka.Assignment{TP: tp, TopicID: l.id, Committed: b.committed[tp], End: l.next})
		}
		b.mu.Unlock()
		if len(as) == 0 {
			return nil
		}
		starts, err := s.h.Assign(ctx, as)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for tp, st := range starts {
			if st.Hold {
				s.in.w.violate("%s holds %s/%d", s.in.name, tp.Topic, tp.Partition)
				continue
			}
			s.at[tp] = st.Offset
			delete(s.paused, tp)
		}
		return nil
	}
}

// ---- one instance: a process that can crash

type simInstance struct {
	w       *simWorld
	name    string
	src     *simSource
	c       *connector.Connector
	cancel  context.CancelFunc
	crashed chan struct{}
	done    chan error
	plan    atomic.Pointer[simCrash] // nil: it is not to crash

	fence sync.RWMutex // held for reading while something of it becomes durable
	dead  bool

	connMu sync.Mutex
	conns  map[net.Conn]bool
}

var errSimCrashed = fmt.Errorf("simulated: the process has crashed: %w", checkpoint.ErrCorrupt)

// A simCrash is a crash that is planned: at a point, not before a time.
type simCrash struct {
	after time.Duration
	at    string
}

// alive does f if the process still runs. Nothing of a dead one reaches store, topics or group.
func (in *simInstance) alive(f func() error) error {
	in.fence.RLock()
	defer in.fence.RUnlock()
	if in.dead {
		return errSimCrashed
	}
	return f()
}

// point is a place in the engine or around it where a crash may be planned.
func (in *simInstance) point(name string) {
	if p := in.plan.Load(); p != nil && p.at == name && time.Since(in.w.began) >= p.after && in.w.faulty() {
		in.crash()
	}
}

// crash ends the process: what it has sent may still be carried out, nothing else.
func (in *simInstance) crash() {
	in.fence.Lock()
	if in.dead {
		in.fence.Unlock()
		return
	}
	in.dead = true
	in.fence.Unlock()
	close(in.crashed)
	in.w.logf("%s crashes (%s)", in.name, in.plan.Load().at)
	in.connMu.Lock()
	conns := in.conns
	in.conns = nil
	in.connMu.Unlock()
	for c := range conns {
		c.Close()
	}
}

func (in *simInstance) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	w := in.w
	w.pause(3 * time.Millisecond)
	if w.faulty() && (w.shape.refusing.has(time.Since(w.began)) || w.chance(w.shape.refuse)) {
		w.count("refused dial")
		return nil, errors.New("simulated: connection refused")
	}
	client, server := net.Pipe()
	in.connMu.Lock()
	if in.conns == nil {
		in.connMu.Unlock()
		return nil, errSimCrashed
	}
	in.conns[client] = true
	in.connMu.Unlock()
	select {
	case w.conns <- simConn{server, in}:
	case <-w.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return client, nil
}

type simConn struct {
	net.Conn
	in *simInstance
}

// simListener is the vendor's end of the network.
type simListener struct{ w *simWorld }

func (l simListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.w.conns:
		return c, nil
	case <-l.w.closed:
		return nil, net.ErrClosed
	}
}
func (l simListener) Close() error   { return nil }
func (l simListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9} }

func (w *simWorld) count(fault string) {
	w.mu.Lock()
	w.faults[fault]++
	w.mu.Unlock()
}

func (w *simWorld) logf(format string, args ...any) {
	fmt.Fprintf(w, "SIM "+format+"\n", args...)
}

// Write takes the engine's log.
func (w *simWorld) Write(p []byte) (int, error) {
	if *simVerbose {
		fmt.Fprintf(os.Stderr, "%v %s", w.since(), p)
	}
	return len(p), nil
}

// start runs a new process with a mapping.
func (w *simWorld) start(name string, mapping *profile.Compiled) (*simInstance, error) {
	in := &simInstance{w: w, name: name, crashed: make(chan struct{}), done: make(chan error, 1), conns: map[net.Conn]bool{}}
	in.src = &simSource{in: in, cmds: make(chan func(context.Context) error), ended: make(chan struct{}), paused: map[kafka.TP]bool{}, at: map[kafka.TP]int64{}}
	k := &simKafka{in}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.String("by", name)
		}
		return a
	}}))
	cfg := connector.Config{
		Name: "v", Instance: name, Profile: mapping, Recompile: w.kit.recompile(w.shape), Decoder: w.kit.decoder, Store: &simStoreView{w.store, in},
		Producer: k, Reader: k, Topics: w.kit.topics, Start: connector.StartOptions{Policy: kafka.StartEarliest},
		Sender: deliver.NewSender(deliver.SenderConfig{BaseURL: simURL, Connections: w.shape.inFlight, Timeout: simTimeout, Dial: in.dial,
			Credential: deliver.NewCredential(mapping, func(string) (string, error) { return "key", nil })}),
		MaxInFlight: w.shape.inFlight, WindowRecords: w.shape.window, ReferenceWait: w.shape.referenceWait, Drain: simDrain,
		Log: log, Fail: in.point,
	}
	var err error
	if in.c, err = connector.New(cfg, func(h kafka.Handler) (connector.Source, error) { in.src.h = h; return in.src, nil }); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	in.cancel = cancel
	go func() { in.done <- in.c.Run(ctx) }()
	return in, nil
}

// command runs f on the source's goroutine and waits for it, or for the source's end.
func (in *simInstance) command(f func(context.Context) error) {
	done := make(chan struct{})
	select {
	case in.src.cmds <- func(ctx context.Context) error { defer close(done); return f(ctx) }:
		<-done
	case <-in.src.ended:
	}
}

// ---- the vendor

const (
	simURL     = "http://127.0.0.1:9"
	simTimeout = 10 * time.Second // of a request where its operation has none
)

func (w *simWorld) routes(entity string) (names []string) {
	for _, r := range w.kit.mappings[w.shape.profile][0].RoutesFor(entity) {
		names = append(names, r.Name)
	}
	return names
}

func entityOfTopic(topic string) string { return strings.TrimPrefix(topic, "canonical.") }

type simInstanceKey struct{}

// serve is the vendor's front: it watches requests come, and lets the seed's trouble happen to them.
func (w *simWorld) serve(rw http.ResponseWriter, r *http.Request) {
	in, _ := r.Context().Value(simInstanceKey{}).(*simInstance)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	in.point("request")
	q := w.arrive(in, r, body)
	if *simVerbose {
		w.logf("%s request %s %s %s%s %s", in.name, r.Method, r.URL.Path, q.ref, r.Header.Get("X-Idempotency-Key"), body)
	}
	var once sync.Once
	leave := func() { once.Do(func() { w.leave(q) }) }
	defer leave()
	go func() { // a client that gives up has no request in flight any more
		<-r.Context().Done()
		leave()
	}()
	exec := func() *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		c := r.Clone(context.Background())
		c.Body = io.NopCloser(bytes.NewReader(body))
		w.sandbox.Handler().ServeHTTP(rec, c)
		return rec
	}
	answer := func(status int, header ...string) {
		for i := 0; i+1 < len(header); i += 2 {
			rw.Header().Set(header[i], header[i+1])
		}
		rw.WriteHeader(status)
		io.WriteString(rw, `{"error":{"message":"simulated"}}`)
	}
	now := time.Since(w.began)
	f := w.trouble(q, now)
	if f != "" {
		w.count(f)
		w.logf("%s fault %q for %s %s %s", in.name, f, r.Method, r.URL.Path, q.ref)
	}
	if f != "429" && f != "401" {
		w.decide(q, f)
	}
	switch f {
	case "poison", "503":
		answer(503)
		return
	case "cut before":
		panic(http.ErrAbortHandler)
	case "cut after":
		exec()
		panic(http.ErrAbortHandler)
	case "500 after":
		exec()
		answer(500)
		return
	case "late":
		// It is carried out although nobody waits for it any more, within late_apply of being lost.
		d := time.Duration(simShare(w.seed, "late", q.id) * float64(simLateMax))
		w.later(d, exec)
		panic(http.ErrAbortHandler)
	case "slow":
		d := time.Duration(simShare(w.seed, "slow", q.id) * float64(45*time.Second))
		t := time.NewTimer(d)
		began := time.Now()
		select {
		case <-t.C:
		case <-r.Context().Done():
			t.Stop()
			w.later(min(d-time.Since(began), simLateMax), exec)
			return
		}
	case "429":
		answer(429, "Retry-After", fmt.Sprint(1+simHash(w.seed, "wait", q.id)%3))
		return
	case "401":
		answer(401)
		return
	case "reject":
		answer(400)
		return
	}
	w.pause(w.shape.latency)
	rec := exec()
	for k, vs := range rec.Header() {
		rw.Header()[k] = vs
	}
	rw.WriteHeader(rec.Code)
	rw.Write(rec.Body.Bytes())
}

// simLateMax bounds how long a lost request may still be carried out: the profiles' late_apply (default: the
// operation's timeout of 30 s) must cover it.
const simLateMax = 25 * time.Second

func (w *simWorld) later(d time.Duration, exec func() *httptest.ResponseRecorder) {
	go func() {
		time.Sleep(d)
		exec()
	}()
}

// A simRequest is one request as it arrives.
type simRequest struct {
	id   string // what it is, with the number of its attempt
	path string
	op   string // things, payments, or a path of Push Cash
	ref  string // "<entity id>.<revision>", "" if it carries none
	key  string
	fly  string
}

func (w *simWorld) arrive(in *simInstance, r *http.Request, body []byte) *simRequest {
	q := &simRequest{path: r.URL.Path}
	q.op = strings.Split(strings.Trim(r.URL.Path, "/"), "/")[0]
	if i := bytes.Index(body, []byte(`"reference":"`)); i >= 0 && w.shape.profile != "pushcash" {
		rest := body[i+len(`"reference":"`):]
		q.ref = string(rest[:bytes.IndexByte(rest, '"')])
		q.key = q.ref[:strings.LastIndexByte(q.ref, '.')]
	}
	what := r.Method + r.URL.Path + string(body) + r.Header.Get("X-Idempotency-Key")
	w.mu.Lock()
	w.attempts[what]++
	w.requests++
	q.id = fmt.Sprint(simHash(what), "/", w.attempts[what])
	w.mu.Unlock()
	if q.ref == "" {
		return q
	}
	q.fly = in.name + " " + q.key
	w.mu.Lock()
	defer w.mu.Unlock()
	bad := func(format string, args ...any) {
		w.violations = append(w.violations, fmt.Sprintf("[%v] ", w.since())+fmt.Sprintf(format, args...))
	}
	if w.flying[q.fly]++; w.flying[q.fly] > 1 && time.Now().After(w.zombiesTil) {
		bad("promise 2: two requests of key %s are in flight at once (%s %s)", q.key, r.Method, r.URL.Path)
	}
	op := q.op + " " + q.key
	if last, ok := w.started[op]; ok && time.Now().After(w.zombiesTil) {
		mine, known := w.offsets[q.ref]
		newest, known2 := w.offsets[last.ref]
		if known && known2 && mine[1] < newest[0] {
			bad("promise 2: a request for %s starts after one for the newer %s (at %v)", q.ref, last.ref, last.at.Sub(w.began))
		}
	}
	w.started[op] = simStart{q.ref, time.Now()}
	if q.op == "payments" {
		if why := w.undecided[q.ref]; why != "" {
			bad("promise 3: class none is sent again for %s, although it was sent before (%s)", q.ref, why)
		}
	}
	return q
}

// decide notes that a send of class none reached the vendor and was not plainly refused.
func (w *simWorld) decide(q *simRequest, fault string) {
	if q.op != "payments" || q.ref == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.undecided[q.ref] = fmt.Sprintf("at %v, fault %q", w.since(), fault)
}

func (w *simWorld) leave(q *simRequest) {
	if q.fly == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flying[q.fly]--; w.flying[q.fly] == 0 {
		delete(w.flying, q.fly)
	}
}

// trouble is the fault that the seed has for a request, "" if it has none.
func (w *simWorld) trouble(q *simRequest, now time.Duration) string {
	if q.ref != "" && w.isPoison(q.ref) {
		return "poison"
	}
	if q.ref != "" && simShare(w.seed, "reject", q.ref) < w.shape.reject {
		return "reject"
	}
	if !w.faulty() {
		return ""
	}
	switch {
	case w.shape.down.has(now):
		return w.shape.downAs
	case w.shape.badKey.has(now):
		return "401"
	case w.shape.storm.has(now):
		return "429"
	}
	x := simShare(w.seed, "fault", q.id)
	for _, f := range w.shape.faults {
		if x < f.rate {
			return f.name
		}
		x -= f.rate
	}
	return ""
}

func (w *simWorld) isPoison(ref string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.poisoned[ref]
}

// ---- what the checker reads

type simVerifySource struct{ w *simWorld }

func (s simVerifySource) Partitions(context.Context) ([]verify.Partition, error) {
	b := s.w.broker
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []verify.Partition
	for _, tp := range b.sources {
		l := b.log(tp)
		p := verify.Partition{Partition: checkpoint.Partition{Connector: "v", Topic: tp.Topic, ID: l.id, Index: tp.Partition}, Entity: entityOfTopic(tp.Topic), End: l.next, Committed: -1}
		if c := b.committed[tp]; c.OK {
			p.Committed = c.Offset
		}
		out = append(out, p)
	}
	return out, nil
}

func (s simVerifySource) Records(ctx context.Context, p verify.Partition, f func(verify.Record) error) error {
	for _, r := range s.w.broker.read(kafka.TP{Topic: p.Topic, Partition: p.Index}, 0, 1<<30) {
		if r.Control {
			if err := f(verify.Record{Offset: r.Offset, Control: true}); err != nil {
				return err
			}
			continue
		}
		v, err := verify.Decode(ctx, s.w.kit.decoder, &r.Record)
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

func (s simVerifySource) Copies(_ context.Context, topic string, f func(verify.Copy) error) error {
	for i := range int32(simPartitions) {
		for _, r := range s.w.broker.read(kafka.TP{Topic: topic, Partition: i}, 0, 1<<30) {
			if err := f(verify.Copy{Partition: r.Partition, Offset: r.Offset, Key: r.Key, Value: r.Value, Headers: r.Headers}); err != nil {
				return err
			}
		}
	}
	return nil
}

var _ schema.Decoder = (*schema.AvroDecoder)(nil)
