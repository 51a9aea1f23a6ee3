package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// A Sandbox is one vendor sandbox. New makes it; it serves through Handler and Admin at once, or through Start. Safe
// for concurrent use. Close ends its goroutines and files.
type Sandbox struct {
	name   string
	opts   Options
	now    func() time.Time
	log    *slog.Logger
	faults *faults
	hooks  *hooks
	reqID  atomic.Uint64
	idSeed uint64

	mu       sync.Mutex // the vendor's state, effects, counters, inflight
	vendor   Vendor
	effects  *effectsLog
	counters map[string]int64
	statuses [1000]int64
	byEffect [4]int64
	byOp     map[string]int64
	inflight map[string]chan struct{} // by Dedup: closed when the delayed request has been served
	underWay map[string]int           // by Client, where the vendor is an Arriver
	requests int64                    // log entries, but one for a whole batch
	idNext   uint64
	file     *journal // effects file
	state    *journal // persisted state
	fileErr  error

	closing        chan struct{}
	closeOnce      sync.Once
	closeErr       error // guarded by lifecycle
	closeFilesOnce sync.Once
	wg             sync.WaitGroup
	lifecycle      sync.Mutex // guards servers
	servers        []*http.Server
}

// New makes a sandbox named name over the vendor that build returns. build may use the sandbox's clock and ids, and
// keep it for later.
func New(name string, o Options, build func(*Sandbox) (Vendor, error)) (*Sandbox, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &Sandbox{
		name: name, opts: o, now: o.Now, log: o.Log,
		faults: newFaults(o.Seed), inflight: map[string]chan struct{}{}, underWay: map[string]int{}, closing: make(chan struct{}),
		effects: newEffectsLog(name, o.EffectsMax), idSeed: mix(o.Seed ^ hash64("ids", name)),
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	v, err := build(s)
	if err != nil {
		return nil, err
	}
	s.vendor = v
	s.zeroCounters()
	for _, text := range o.Faults {
		f, err := ParseFault(text, v.Operations())
		if err != nil {
			return nil, err
		}
		if err := s.faults.set(f, s.now()); err != nil {
			return nil, err
		}
	}
	if err := s.openFiles(); err != nil {
		return nil, err
	}
	s.hooks = newHooks(s)
	s.wg.Go(s.hooks.run)
	if every := v.TickEvery(); every > 0 {
		s.wg.Go(func() { s.tick(every) })
	}
	return s, nil
}

func (s *Sandbox) tick(every time.Duration) {
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			s.mu.Lock()
			s.vendor.Tick(s.now())
			at := s.flushPoint()
			s.mu.Unlock()
			s.flush(at)
		case <-s.closing:
			return
		}
	}
}

// journalLine is one line of the persisted state: what was logged and what it changed, in one write.
type journalLine struct {
	Effect json.RawMessage   `json:"effect"`
	Items  []json.RawMessage `json:"items,omitempty"` // further entries of a batch
	Rows   []journalRow      `json:"rows,omitempty"`
}

type journalRow struct {
	Kind string          `json:"kind"`
	Row  json.RawMessage `json:"row"`
}

func (s *Sandbox) openFiles() error {
	take := func(b []byte) error {
		e, seq, err := parseEntry(b)
		if err != nil {
			return err
		}
		if s.effects.n == 0 {
			s.effects.first = seq
		}
		if want := s.effects.last() + 1; seq != want {
			return fmt.Errorf("seq is %d, want %d: the file is not the log of one sandbox", seq, want)
		}
		s.effects.append(e)
		return nil
	}
	if s.opts.Persist != "" {
		if err := os.MkdirAll(s.opts.Persist, 0o700); err != nil {
			return fmt.Errorf("make sandbox directory: %w", err)
		}
		var lines uint64
		j, err := openJournal(filepath.Join(s.opts.Persist, s.name+".state.ndjson"), func(b []byte) error {
			var l journalLine
			if err := json.Unmarshal(b, &l); err != nil {
				return err
			}
			for _, e := range append([]json.RawMessage{l.Effect}, l.Items...) {
				if err := take(e); err != nil {
					return err
				}
			}
			for _, r := range l.Rows {
				if err := s.vendor.Restore(r.Kind, r.Row); err != nil {
					return fmt.Errorf("restore %s: %w", r.Kind, err)
				}
			}
			lines++
			return nil
		})
		if err != nil {
			return err
		}
		s.state = j
		if lines > 0 { // new ids must differ from those of the run before
			s.idSeed = mix(s.idSeed ^ mix(lines))
		}
	}
	if s.opts.EffectsFile == "" {
		return nil
	}
	var last int64
	j, err := openJournal(s.opts.EffectsFile, func(b []byte) error {
		if s.state == nil {
			defer func() { last = s.effects.last() }()
			return take(b)
		}
		_, seq, err := parseEntry(b)
		last = seq
		return err
	})
	if err != nil {
		return errors.Join(err, s.closeFiles())
	}
	s.file = j
	if s.state == nil {
		return nil
	}
	// The journal is written first; a kill may have left the effects file behind it.
	if last > s.effects.last() {
		return errors.Join(fmt.Errorf("sandbox effects file %s ends at seq %d but the persisted state at %d: they are not of one sandbox; remove one of them",
			s.opts.EffectsFile, last, s.effects.last()), s.closeFiles())
	}
	for {
		es, seq, err := s.effects.since(last, chunkEntries)
		if err != nil || len(es) == 0 {
			return err
		}
		for i := range es {
			j.append(func(b []byte) []byte { return appendEntry(b, s.name, &es[i], seq+int64(i)) })
		}
		last = seq + int64(len(es)) - 1
		if err := j.flush(j.appended); err != nil {
			return err
		}
	}
}

func (s *Sandbox) closeFiles() error {
	var errs []error
	for _, j := range []*journal{s.state, s.file} {
		if j != nil {
			errs = append(errs, j.close())
		}
	}
	return errors.Join(errs...)
}

// Name of the vendor.
func (s *Sandbox) Name() string { return s.name }

// Options the sandbox was made with.
func (s *Sandbox) Options() Options { return s.opts }

// NewID makes a vendor id: prefix and length base62 digits (at least 11). The lock must be held.
func (s *Sandbox) NewID(prefix string, length int) string {
	s.idNext++
	return string(appendID(append(make([]byte, 0, len(prefix)+length), prefix...), s.idSeed, s.idNext, length))
}

// RequestID makes an id that is unique in this process, for error bodies. Needs no lock.
func (s *Sandbox) RequestID() string {
	return string(appendID([]byte("req_"), ^s.idSeed, s.reqID.Add(1), 22))
}

// Count adds n to a counter of the admin interface. The lock must be held.
func (s *Sandbox) Count(name string, n int64) { s.counters[name] += n }

// Notify queues a webhook. It never blocks and may be called with the lock held.
func (s *Sandbox) Notify(h Hook) { s.hooks.add(h) }

// Authenticate says whether a bearer credential is valid at now. Needs no lock.
func (s *Sandbox) Authenticate(credential string, now time.Time) bool {
	if credential == "" {
		return false
	}
	if len(s.opts.Keys) == 0 {
		return true
	}
	for _, k := range s.opts.Keys {
		if k.Secret == credential && !now.Before(k.NotBefore) && (k.NotAfter.IsZero() || now.Before(k.NotAfter)) {
			return true
		}
	}
	return false
}

// Record logs a change that no request made (the clock, an admin action). The lock must be held.
func (s *Sandbox) Record(now time.Time, operation, object, reference string, effect Effect, rows ...Row) {
	s.record(entry{at: now.UnixMicro(), operation: operation, object: object, reference: reference, status: 200, effect: effect}, rows)
}

func (s *Sandbox) record(e entry, rows []Row) {
	s.count(e.operation, e.status)
	s.recordAll([]entry{e}, rows)
}

// count counts one request.
func (s *Sandbox) count(operation string, status int16) {
	s.requests++
	s.statuses[status]++
	s.byOp[operation]++
}

// recordAll logs entries, at least one, and the rows of them all: in the journal that is one line, so a kill leaves all
// of it or nothing.
func (s *Sandbox) recordAll(es []entry, rows []Row) {
	var seq int64 // of the first
	for i, e := range es {
		n := s.effects.append(e)
		if i == 0 {
			seq = n
		}
		s.byEffect[effectIndex(e.effect)]++
		if s.file != nil {
			s.file.append(func(b []byte) []byte { return appendEntry(b, s.name, &e, n) })
		}
	}
	if s.state != nil {
		s.state.append(func(b []byte) []byte {
			b = append(b, `{"effect":`...)
			for i := range es {
				if i == 1 {
					b = append(b, `,"items":[`...)
				} else if i > 1 {
					b = append(b, ',')
				}
				b = appendEntry(b, s.name, &es[i], seq+int64(i))
			}
			if len(es) > 1 {
				b = append(b, ']')
			}
			if len(rows) > 0 {
				rendered, err := json.Marshal(rows)
				if err != nil { // vendors' rows are plain structs
					panic(fmt.Sprintf("sandbox %s: row of %s cannot be rendered: %v", s.name, es[0].operation, err))
				}
				b = append(b, `,"rows":`...)
				b = append(b, rendered...)
			}
			return append(b, '}')
		})
	}
}

func effectIndex(e Effect) int {
	switch e {
	case Applied:
		return 0
	case Replayed:
		return 1
	case Rejected:
		return 2
	default:
		return 3
	}
}

// flushAt is a pair of line numbers to flush to.
type flushAt struct{ state, file int64 }

// flushPoint must be called with the lock held.
func (s *Sandbox) flushPoint() flushAt {
	var at flushAt
	if s.state != nil {
		at.state = s.state.appended
	}
	if s.file != nil {
		at.file = s.file.appended
	}
	return at
}

func (s *Sandbox) flush(at flushAt) {
	if s.state == nil && s.file == nil {
		return
	}
	var errs []error
	if s.state != nil {
		errs = append(errs, s.state.flush(at.state))
	}
	if s.file != nil {
		errs = append(errs, s.file.flush(at.file))
	}
	if err := errors.Join(errs...); err != nil {
		s.mu.Lock()
		first := s.fileErr == nil && !errors.Is(err, os.ErrClosed)
		s.fileErr = err
		s.mu.Unlock()
		if first {
			s.log.Error("the sandbox's files are not complete any more; /healthz fails from now on", "error", err)
		}
	}
}

// Handler is the vendor's API.
func (s *Sandbox) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Sandbox) serve(w http.ResponseWriter, hr *http.Request) {
	r := &Request{Method: hr.Method, Path: hr.URL.Path, Header: hr.Header, Now: s.now()}
	if hr.URL.RawQuery != "" {
		r.Query, _ = url.ParseQuery(hr.URL.RawQuery) // what can be read of it
	}
	if ap, err := netip.ParseAddrPort(hr.RemoteAddr); err == nil {
		r.Remote = ap.Addr().Unmap()
	}
	tooLarge, err := readBody(r, hr)
	if err != nil {
		panic(http.ErrAbortHandler) // the client broke off: nothing was received, nothing is logged
	}
	s.vendor.Parse(r)
	if tooLarge {
		s.refuse(w, r, Answer{Status: http.StatusRequestEntityTooLarge,
			Body: s.vendor.ErrorBody(http.StatusRequestEntityTooLarge, "the body is larger than "+strconv.Itoa(BodyBytesMax)+" bytes", 0)})
		return
	}
	p := s.faults.decide(r)
	p.slowBefore += r.Delay
	leave, refused := s.arrive(r)
	if refused != nil {
		s.refuse(w, r, *refused)
		return
	}
	defer leave()
	a, ok := s.run(w, r, p)
	if !ok {
		hangUp(w, false)
		return
	}
	if p.refuse != nil {
		s.refuseFault(w, r, p.refuse, hr.Context().Done())
		return
	}
	s.send(w, r, a, p)
}

// arrive asks an Arriver whether r may be under way beside the others that are, and counts it until leave.
func (s *Sandbox) arrive(r *Request) (leave func(), refused *Answer) {
	v, ok := s.vendor.(Arriver)
	if !ok {
		return func() {}, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.Now = s.now()
	_, repeat := s.inflight[r.Dedup]
	if a := v.Arrive(r, s.underWay[r.Client]+1, repeat); a != nil {
		return nil, a
	}
	s.underWay[r.Client]++
	if r.Dedup != "" && !repeat {
		s.enter(r)
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.underWay[r.Client]--; s.underWay[r.Client] == 0 {
			delete(s.underWay, r.Client)
		}
		if r.release != nil {
			r.release()
		}
	}, nil
}

// enter marks r's Dedup as under way until r.release. The lock must be held.
func (s *Sandbox) enter(r *Request) {
	done := make(chan struct{})
	s.inflight[r.Dedup] = done
	var once sync.Once
	r.release = func() {
		once.Do(func() {
			delete(s.inflight, r.Dedup)
			close(done)
		})
	}
}

// readBody reads the body into r, or says that it is too large.
func readBody(r *Request, hr *http.Request) (tooLarge bool, err error) {
	if hr.Body == nil || hr.ContentLength == 0 || hr.Body == http.NoBody {
		return false, nil
	}
	if hr.ContentLength > BodyBytesMax {
		return true, nil
	}
	if n := hr.ContentLength; n > 0 {
		r.Body = make([]byte, n)
		_, err = io.ReadFull(hr.Body, r.Body)
		return false, err
	}
	r.Body, err = io.ReadAll(io.LimitReader(hr.Body, BodyBytesMax+1))
	if len(r.Body) > BodyBytesMax {
		r.Body = nil
		return true, nil
	}
	return false, err
}

// run brings r to its commit and past the delays after it. ok is false when the sandbox closes meanwhile; nothing has
// been applied then, unless the answer was already being held. For a request that a fault refuses it only waits.
func (s *Sandbox) run(w http.ResponseWriter, r *Request, p plan) (a Answer, ok bool) {
	waits := p.slowBefore > 0 || p.holdBefore != nil
	if waits {
		// A repeat that arrives while this one is under way waits for it (vendor sheet pushcash, section 5).
		release, ok := s.claim(r)
		if !ok {
			return Answer{}, false
		}
		defer release()
		// The client may go away meanwhile: the request has been received and is executed all the same, as design
		// section 6 (late requests) expects of a real vendor.
		if !s.sleep(p.slowBefore) || p.holdBefore != nil && !s.faults.hold(p.holdBefore, s.closing) {
			return Answer{}, false
		}
		extendWrite(w)
	}
	if p.refuse != nil {
		return Answer{}, true
	}
	a, at, ok := s.commit(r, &p)
	if !ok {
		return Answer{}, false
	}
	s.flush(at)
	if p.slowAfter > 0 || p.holdAfter != nil {
		if !s.sleep(p.slowAfter) || p.holdAfter != nil && !s.faults.hold(p.holdAfter, s.closing) {
			return Answer{}, false
		}
		extendWrite(w)
	}
	return a, true
}

// claim marks r as under way; repeats wait in commit. It waits itself for an earlier claim of the same Dedup.
func (s *Sandbox) claim(r *Request) (release func(), ok bool) {
	if r.Dedup == "" || r.release != nil {
		return func() {}, true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waitInflight(r.Dedup) {
		return nil, false
	}
	s.enter(r)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		r.release()
	}, true
}

// waitInflight returns with the lock held when no request with this dedup is under way, or false when closing.
func (s *Sandbox) waitInflight(dedup string) bool {
	for {
		c, busy := s.inflight[dedup]
		if !busy {
			return true
		}
		s.mu.Unlock()
		select {
		case <-c:
			s.mu.Lock()
		case <-s.closing:
			s.mu.Lock()
			return false
		}
	}
}

// commit serves r under the lock and logs it: what is applied first has the smaller seq.
func (s *Sandbox) commit(r *Request, p *plan) (Answer, flushAt, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.release == nil && len(s.inflight) > 0 && r.Dedup != "" && !s.waitInflight(r.Dedup) {
		return Answer{}, flushAt{}, false
	}
	r.Now = s.now()
	s.vendor.Tick(r.Now)
	a := s.vendor.Serve(r)
	if p.ambiguous != nil {
		if a.Status/100 == 2 && (a.Effect == Applied || a.Effect == Replayed) {
			switch p.ambiguous.Mode {
			case "close":
				a.Hangup = true
			default:
				a.Status, _ = strconv.Atoi(p.ambiguous.Mode) // 500 or 504
				a.Body = s.vendor.ErrorBody(a.Status, "internal error", 0)
				a.Header = nil
			}
		} else {
			s.faults.unfire(p.ambiguous)
		}
	}
	s.logAnswer(r, a)
	if r.release != nil {
		r.release()
	}
	return a, s.flushPoint(), true
}

func (s *Sandbox) logAnswer(r *Request, a Answer) {
	e := entry{at: r.Now.UnixMicro(), operation: r.Operation, object: r.Object, reference: r.Reference, key: r.Key,
		status: int16(a.Status), effect: a.Effect}
	if a.Object != "" {
		e.object = a.Object
	}
	if a.Reference != "" {
		e.reference = a.Reference
	}
	if a.Key != "" {
		e.key = a.Key
	}
	if a.Hangup {
		e.status = 0
	}
	if len(a.Items) == 0 {
		s.record(e, a.Rows)
		return
	}
	s.count(e.operation, e.status)
	es := make([]entry, len(a.Items))
	for i, x := range a.Items {
		es[i] = entry{at: e.at, operation: x.Operation, object: x.Object, reference: x.Reference, key: x.Key,
			status: int16(x.Status), effect: x.Effect}
		if a.Hangup || a.Status/100 != 2 { // the items' own statuses have reached nobody
			es[i].status = e.status
		}
	}
	s.recordAll(es, a.Rows)
}

// refuse logs and sends an answer to a request that did nothing.
func (s *Sandbox) refuse(w http.ResponseWriter, r *Request, a Answer) {
	a.Effect = Rejected
	s.mu.Lock()
	r.Now = s.now()
	s.logAnswer(r, a)
	at := s.flushPoint()
	s.mu.Unlock()
	s.flush(at)
	s.send(w, r, a, plan{})
}

// unanswered logs a request that did nothing and gets no answer.
func (s *Sandbox) unanswered(r *Request) {
	s.mu.Lock()
	s.logAnswer(r, Answer{Hangup: true, Effect: Rejected})
	at := s.flushPoint()
	s.mu.Unlock()
	s.flush(at)
}

func (s *Sandbox) refuseFault(w http.ResponseWriter, r *Request, f *activeFault, gone <-chan struct{}) {
	a := Answer{}
	switch f.Name {
	case FaultBlackHole:
		s.unanswered(r)
		s.faults.holdClient(f, s.closing, gone)
		hangUp(w, false)
		return
	case FaultOutage:
		if f.Mode == "close" {
			s.unanswered(r)
			hangUp(w, true)
			return
		}
		a.Status = http.StatusServiceUnavailable
	case FaultDropBefore:
		a.Hangup = true
	case FaultUnauthorized:
		a.Status = http.StatusUnauthorized
	case FaultThrottle:
		a.Status = http.StatusTooManyRequests
		if f.ResetAfter > 0 {
			a.Header = append(a.Header, HeaderField{"X-RateLimit-Remaining", "0"},
				HeaderField{"X-RateLimit-Reset", strconv.FormatInt(r.Now.Unix()+int64(f.ResetAfter), 10)})
		}
	default: // error, reject
		a.Status = f.Status
	}
	if f.RetryAfter > 0 {
		a.Header = append(a.Header, HeaderField{"Retry-After", strconv.Itoa(f.RetryAfter)})
	}
	if !a.Hangup {
		a.Body = s.vendor.ErrorBody(a.Status, "fault "+f.Name, f.RetryAfter)
	}
	s.refuse(w, r, a)
}

var jsonType = []string{"application/json"} // shared by all answers, never changed

func (s *Sandbox) send(w http.ResponseWriter, r *Request, a Answer, p plan) {
	if a.Hangup {
		hangUp(w, false)
		return
	}
	body := a.Body
	if body == nil && a.Value != nil {
		b, err := json.Marshal(a.Value)
		if err != nil { // vendors' values are plain structs
			panic(fmt.Sprintf("sandbox %s: answer cannot be rendered: %v", s.name, err))
		}
		body = b
	}
	if p.drift != nil {
		body = drifted(body, driftOf(p.drift, s.vendor.DriftFields()))
	}
	h := w.Header()
	if v, ok := s.vendor.(Stamper); ok {
		v.Stamp(r, h)
	}
	for _, f := range a.Header {
		h[f.Name] = []string{f.Value}
	}
	if p.body != nil {
		switch p.body.Name {
		case FaultBadJSON:
			body = append(body[:len(body)/2:len(body)/2], "<html"...)
		case FaultEmptyBody:
			body = nil
		case FaultHugeBody:
			h["Content-Type"] = jsonType
			w.WriteHeader(a.Status)
			writeHuge(w, body, p.body.Bytes)
			return
		case FaultTruncated:
			sendRaw(w, answerHead(a.Status, len(body)), body[:len(body)/2])
			return
		case FaultWrongLength:
			sendRaw(w, answerHead(a.Status, len(body)/2), body)
			return
		case FaultGarbage:
			sendRaw(w, "\x00\x16 this is no answer\r\n", body)
			return
		}
	}
	h["Content-Type"] = jsonType
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(a.Status)
	_, _ = w.Write(body) // a client that is gone is not the sandbox's problem
}

// writeHuge writes body as a JSON object that starts with n bytes of padding.
func writeHuge(w io.Writer, body []byte, n int) {
	if _, err := io.WriteString(w, `{"padding":"`); err != nil {
		return
	}
	block := make([]byte, 64<<10)
	for i := range block {
		block[i] = 'x'
	}
	for n > 0 {
		m := min(n, len(block))
		if _, err := w.Write(block[:m]); err != nil {
			return
		}
		n -= m
	}
	rest := []byte(`"}`)
	if len(body) > 2 && body[0] == '{' {
		rest = append([]byte(`",`), body[1:]...)
	}
	_, _ = w.Write(rest)
}

func answerHead(status, length int) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", status, http.StatusText(status), length)
}

// sendRaw writes to the connection what net/http would refuse to, and closes it.
func sendRaw(w http.ResponseWriter, head string, body []byte) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2, or no connection at all
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	_, _ = conn.Write(append([]byte(head), body...)) // a client that is gone is not the sandbox's problem
}

// hangUp closes the connection without an answer, with a reset if the client shall not even see an orderly end.
func hangUp(w http.ResponseWriter, reset bool) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil { // HTTP/2, or no connection at all
		panic(http.ErrAbortHandler)
	}
	if tcp, ok := conn.(*net.TCPConn); ok && reset {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// extendWrite gives an answer that was held on purpose its full write time again.
func extendWrite(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(writeTimeout)) // unsupported by recorders
}

func (s *Sandbox) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.closing:
		return false
	}
}

// Effects returns the log after seq since, for tests in process.
func (s *Sandbox) Effects(since int64) ([]Entry, error) {
	var out []Entry
	for {
		s.mu.Lock()
		es, seq, err := s.effects.since(since, chunkEntries)
		s.mu.Unlock()
		if err != nil || len(es) == 0 {
			return out, err
		}
		for i, e := range es {
			out = append(out, s.effects.public(e, seq+int64(i)))
		}
		since = seq + int64(len(es)) - 1
	}
}

// Counters returns all counters: requests, requests.<operation>, status.<code> (a batch is one request),
// effects.<effect> (a batch has one per item), faults.<name> and the vendor's own.
func (s *Sandbox) Counters() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := maps.Clone(s.counters)
	for i, e := range []Effect{Applied, Replayed, Rejected, Read} {
		out["effects."+string(e)] = s.byEffect[i]
	}
	out["requests"] = s.requests
	for op, n := range s.byOp {
		out["requests."+op] = n
	}
	for code, n := range s.statuses {
		if n > 0 {
			out["status."+strconv.Itoa(code)] = n
		}
	}
	for _, name := range FaultNames() {
		out["faults."+name] = 0
	}
	for name, n := range s.faults.fired() {
		out["faults."+name] = n
	}
	for name, n := range s.hooks.counts() {
		out["webhooks."+name] = n
	}
	return out
}

func (s *Sandbox) zeroCounters() {
	s.counters = map[string]int64{}
	for _, name := range s.vendor.Counters() {
		s.counters[name] = 0
	}
	s.requests = 0
	s.statuses = [1000]int64{}
	s.byEffect = [4]int64{}
	s.byOp = map[string]int64{}
}

// SetFault switches a fault on or off, as POST /faults does.
func (s *Sandbox) SetFault(f Fault) error {
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("fault %s: %w", f.Name, err)
	}
	f, err = ReadFault(b, s.vendor.Operations())
	if err != nil {
		return err
	}
	return s.faults.set(f, s.now())
}

// FaultStates lists the active faults.
func (s *Sandbox) FaultStates() []FaultState { return s.faults.list() }

// WaitHolding returns when faults named hang hold at least n requests, so that a test can act in a known state.
func (s *Sandbox) WaitHolding(ctx context.Context, n int) error {
	return s.faults.waitHolding(ctx, int64(n))
}

// Act does one of the vendor's admin actions, as POST /actions/<name> does.
func (s *Sandbox) Act(name string, args Fields) (any, error) {
	s.mu.Lock()
	s.vendor.Tick(s.now())
	v, err := s.vendor.Act(name, args)
	at := s.flushPoint()
	s.mu.Unlock()
	s.flush(at)
	return v, err
}

// Object returns one object's state.
func (s *Sandbox) Object(id string) (Object, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vendor.Tick(s.now())
	return s.vendor.Object(id)
}

// Reset makes the sandbox as new: state, log, counters, faults, queued webhooks and files. Held requests go on.
func (s *Sandbox) Reset() error {
	s.faults.reset()
	s.hooks.reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vendor.Reset()
	s.effects = newEffectsLog(s.name, s.opts.EffectsMax)
	s.zeroCounters()
	var errs []error
	for _, j := range []*journal{s.state, s.file} {
		if j != nil {
			errs = append(errs, j.reset())
		}
	}
	return errors.Join(errs...)
}

// Healthy says whether the files are complete.
func (s *Sandbox) Healthy() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fileErr
}

// Now is the sandbox's clock.
func (s *Sandbox) Now() time.Time { return s.now() }
