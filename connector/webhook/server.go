package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sync/singleflight"

	"github.com/weirsync/weir/checkpoint"
	"github.com/weirsync/weir/connector/kafka"
	"github.com/weirsync/weir/connector/profile"
	"github.com/weirsync/weir/schema"
)

// PathPrefix is where calls of a connector go: PathPrefix + its name.
const PathPrefix = "/webhooks/"

// An Outcome is what became of one call. Closed set: a metric label.
type Outcome string

// The outcomes of calls.
const (
	Accepted     Outcome = "accepted"      // its fact is in Kafka
	Duplicate    Outcome = "duplicate"     // its fact was there already
	Ignored      Outcome = "ignored"       // the profile knows no fact for it
	BadSignature Outcome = "bad_signature" // missing, or made with another secret or of another body
	TooOld       Outcome = "too_old"       // signed, and older than the tolerance
	TooNew       Outcome = "too_new"       // signed, and further ahead than the tolerance
	Malformed    Outcome = "malformed"     // signed, and without what the profile needs
	TooLarge     Outcome = "too_large"
	BadRequest   Outcome = "bad_request" // not a POST, or its body did not come
	Busy         Outcome = "busy"        // more calls at once than are handled
	NoSecret     Outcome = "no_secret"   // no secret can be read, or the one that it may be signed with
	Unavailable  Outcome = "unavailable" // Kafka or the store did not take it in time
)

// Outcomes lists the closed set.
var Outcomes = []Outcome{Accepted, Duplicate, Ignored, BadSignature, TooOld, TooNew, Malformed, TooLarge, BadRequest, Busy, NoSecret, Unavailable}

// A Source is one connector that is called back.
type Source struct {
	Connector string
	Vendor    string
	Hooks     *profile.Webhooks
	// Secret answers the connector's secrets by name, profile.ErrNoSecret for one that is not configured.
	Secret func(name string) (string, error)
	// Count is told what became of each call. It may be nil, must be fast and safe for concurrent use.
	Count func(Outcome)

	noWaitUntil atomic.Int64 // Unix nanoseconds
	told        tellings
}

// Store is what the server needs of a checkpoint.Store.
type Store interface {
	HasNonce(ctx context.Context, connector, id string) (bool, error)
	SaveNonces(ctx context.Context, ns []checkpoint.Nonce) error
	Find(ctx context.Context, id string, limit int) ([]checkpoint.Row, error)
	Evidence(ctx context.Context, es []checkpoint.Evidence) error
}

// Producer writes to Kafka and answers when all replicas in sync have what it wrote: a kafka.Producer.
type Producer interface {
	Produce(ctx context.Context, outs []kafka.Out) ([]kafka.Placed, error)
}

// Config of a Server. The zero value of a field means its default; Sources, Store and Producer must be set.
type Config struct {
	Sources  []*Source
	Store    Store
	Producer Producer
	// SchemaID answers the id under which the fact's schema is registered; nil: FactSchemaID.
	SchemaID func(ctx context.Context, topic string) (schema.ID, error)
	// MaxInFlight bounds the calls that are handled at once. Default 64.
	MaxInFlight int
	// BodyBytesMax bounds a call's body. Default 256 KiB.
	BodyBytesMax int64
	// Wait bounds how long a call waits for Kafka and the store. Default WaitDefault.
	Wait time.Duration
	// MatchWait bounds how long the cause of an event is looked for. Default 300 ms; negative: no repeated look.
	MatchWait time.Duration
	Log       *slog.Logger
	// Now is the clock that times of calls are held to, nil: time.Now.
	Now func() time.Time
}

// WaitDefault is within the time after which vendors give a call up: 10 s of both vendor sheets.
const WaitDefault = 5 * time.Second

// NonceRetention is how long an event's id is remembered: vendors repeat a call for hours, and a recorded call can be
// replayed as long as its time is within the tolerance.
func NonceRetention(tolerance time.Duration) time.Duration { return 2*tolerance + 24*time.Hour }

// Bounds of the listener, against slow and many callers. A vendor's call is one small request.
const (
	headerTimeout  = 5 * time.Second
	readTimeout    = 10 * time.Second
	idleTimeout    = 60 * time.Second
	headerBytesMax = 32 << 10
	drainTimeout   = 10 * time.Second
	// connectionsPerCall: so many connections for each call that is handled at once, as most are idle. More wait.
	connectionsPerCall = 8

	retryBusy        = 1 * time.Second
	retryUnavailable = 5 * time.Second
	retryNoSecret    = 30 * time.Second
)

// A Server takes vendors' calls. It is an http.Handler; Serve runs it on a listener. Safe for concurrent use.
type Server struct {
	cfg     Config
	sources map[string]*Source
	fact    *schema.Schema
	slots   chan struct{} // one per call that is handled
	calls   singleflight.Group
}

// New makes a server.
func New(cfg Config) (*Server, error) {
	if cfg.MaxInFlight <= 0 {
		cfg.MaxInFlight = 64
	}
	if cfg.BodyBytesMax <= 0 {
		cfg.BodyBytesMax = 256 << 10
	}
	if cfg.Wait <= 0 {
		cfg.Wait = WaitDefault
	}
	if cfg.MatchWait == 0 {
		cfg.MatchWait = 300 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	fact, err := FactSchema()
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, sources: make(map[string]*Source, len(cfg.Sources)), fact: fact, slots: make(chan struct{}, cfg.MaxInFlight)}
	for _, src := range cfg.Sources {
		s.sources[src.Connector] = src
	}
	return s, nil
}

func (s *Server) now() time.Time {
	if s.cfg.Now != nil {
		return s.cfg.Now()
	}
	return time.Now()
}

// Serve serves l until ctx ends, then lets the calls at hand end, for at most 10 s. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: readTimeout + 3*s.cfg.Wait, IdleTimeout: idleTimeout,
		MaxHeaderBytes: headerBytesMax, ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	done := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			_ = srv.Close() // what is left has had its time
		}
	})
	err := srv.Serve(netutil.LimitListener(l, s.cfg.MaxInFlight*connectionsPerCall))
	if !stop() {
		<-done
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("serve webhooks on %s: %w", l.Addr(), err)
}

// ServeHTTP answers one call.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, PathPrefix)
	src := s.sources[name]
	if !ok || src == nil {
		answer(w, http.StatusNotFound, 0)
		return
	}
	out, status, err := s.call(w, r, src)
	if src.Count != nil {
		src.Count(out)
	}
	if err != nil {
		if n, tell := src.told.now(out, s.now()); tell {
			s.cfg.Log.Warn("webhook not taken", "connector", src.Connector, "outcome", string(out), "status", status, "calls", n, "err", err.Error(), "hint", hints[out])
		}
	}
	var retry time.Duration
	switch out {
	case Busy:
		retry = retryBusy
	case Unavailable:
		retry = retryUnavailable
	case NoSecret:
		retry = retryNoSecret
	case BadRequest:
		if status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", http.MethodPost)
		}
	}
	answer(w, status, retry)
}

// hints say what an operator can do.
var hints = map[Outcome]string{
	BadSignature: "if the calls are the vendor's: does the connector's secret match the vendor's, and does a proxy change bodies or headers?",
	TooOld:       "check this machine's clock; somebody may be replaying old calls",
	TooNew:       "check this machine's clock",
	Malformed:    "the vendor's format has changed, or the profile's webhooks do not fit it",
	TooLarge:     "raise webhooks.body_max if the vendor's calls are so large",
	Busy:         "raise webhooks.max_in_flight, or ask why Kafka or the store is slow",
	NoSecret:     "set the variable or write the file that the connector's secret refers to; see weir check",
	Unavailable:  "see /readyz; the vendor will call again",
}

func answer(w http.ResponseWriter, status int, retry time.Duration) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(retry.Seconds()))))
	}
	if status == http.StatusNoContent {
		w.WriteHeader(status)
		return
	}
	h.Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, http.StatusText(status)+"\n") // the caller may be gone
}

// call takes one call. The error says why it was not taken.
func (s *Server) call(w http.ResponseWriter, r *http.Request, src *Source) (Outcome, int, error) {
	if r.Method != http.MethodPost {
		return BadRequest, http.StatusMethodNotAllowed, fmt.Errorf("the call is a %.10q, not a POST", r.Method)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return Busy, http.StatusServiceUnavailable, fmt.Errorf("%d calls are being handled", s.cfg.MaxInFlight)
	}
	if r.ContentLength > s.cfg.BodyBytesMax {
		return TooLarge, http.StatusRequestEntityTooLarge, fmt.Errorf("the body has more than %d bytes", s.cfg.BodyBytesMax)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.cfg.BodyBytesMax))
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		return TooLarge, http.StatusRequestEntityTooLarge, fmt.Errorf("the body has more than %d bytes", s.cfg.BodyBytesMax)
	} else if err != nil {
		return BadRequest, http.StatusBadRequest, errors.New("the body did not come whole")
	}
	if out, status, err := s.verify(src, r.Header, body); err != nil {
		return out, status, err
	}
	n, err := src.Hooks.Read(r.Header, body)
	if err != nil {
		return Malformed, http.StatusBadRequest, err
	}
	if n.Fact == "" {
		return Ignored, src.Hooks.OK, nil
	}
	f := &fact{id: newFactID(src.Connector, n.ID), source: src, notice: n, received: s.now()}
	if f.occurred = n.At; f.occurred.IsZero() {
		if f.occurred, _, err = src.Hooks.Time(r.Header, body); err != nil || f.occurred.IsZero() {
			f.occurred = f.received
		}
	}
	// Not the caller's context: a vendor that hangs up must not leave it open whether the fact was written.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), s.cfg.Wait)
	defer cancel()
	mine := false
	v, err, _ := s.calls.Do(f.id, func() (any, error) { mine = true; return s.take(ctx, f) })
	if err != nil {
		return Unavailable, http.StatusServiceUnavailable, err
	}
	if out := v.(Outcome); mine {
		return out, src.Hooks.OK, nil
	}
	return Duplicate, src.Hooks.OK, nil // another call made the fact for both
}

// verify checks who made a call and when. The time is looked at only when the signature is good, since it is what the
// vendor signed.
func (s *Server) verify(src *Source, h http.Header, body []byte) (Outcome, int, error) {
	var keys [][]byte
	var broken error
	for _, name := range src.Hooks.Secrets {
		secret, err := src.Secret(name)
		if errors.Is(err, profile.ErrNoSecret) {
			continue
		}
		var key []byte
		if err == nil {
			if key, err = Key(src.Hooks, secret); err == nil {
				keys = append(keys, key)
				continue
			}
		}
		broken = fmt.Errorf("secret %s: %w", name, err)
	}
	stamp := ""
	if src.Hooks.Timestamp.Name != "" {
		if found := src.Hooks.Timestamp.Find(h, 1); len(found) == 1 {
			stamp = found[0]
		}
	}
	if !signed(src.Hooks, keys, h, stamp, body) {
		if broken != nil || len(keys) == 0 {
			if broken == nil {
				broken = errors.New("no secret is configured")
			}
			return NoSecret, http.StatusServiceUnavailable, broken // it may have been signed with this one
		}
		return BadSignature, src.Hooks.Refused, errors.New("no signature of the call is good")
	}
	if src.Hooks.Tolerance == 0 {
		return "", 0, nil
	}
	at, _, err := src.Hooks.Time(h, body)
	if err != nil {
		return Malformed, src.Hooks.Refused, err
	}
	switch age := s.now().Sub(at); {
	case age > src.Hooks.Tolerance:
		return TooOld, src.Hooks.Refused, fmt.Errorf("the call is %v old, more than %v", age.Round(time.Second), src.Hooks.Tolerance)
	case age < -src.Hooks.Tolerance:
		return TooNew, src.Hooks.Refused, fmt.Errorf("the call is %v ahead, more than %v", -age.Round(time.Second), src.Hooks.Tolerance)
	}
	return "", 0, nil
}

// take makes a fact durable: in Kafka, then in the ledger, then its id. A process that ends in between is called again
// by the vendor, and does again what is left with the same ids.
func (s *Server) take(ctx context.Context, f *fact) (Outcome, error) {
	src := f.source
	known, err := s.cfg.Store.HasNonce(ctx, src.Connector, f.id)
	if err != nil {
		return "", err
	}
	if known {
		return Duplicate, nil
	}
	if f.match, err = s.find(ctx, src, f.notice); err != nil {
		return "", err
	}
	f.echo = f.match.isEcho(f.notice, f.occurred)
	id := FactSchemaID
	if s.cfg.SchemaID != nil {
		if id, err = s.cfg.SchemaID(ctx, kafka.FactsTopic(src.Connector)); err != nil {
			return "", fmt.Errorf("id of the fact's schema: %w", err)
		}
	}
	out, err := f.record(s.fact, id)
	if err != nil {
		return "", err
	}
	if _, err := s.cfg.Producer.Produce(ctx, []kafka.Out{out}); err != nil {
		return "", err
	}
	// A store that fails now has the vendor call again, which doubles the fact, under the same id.
	if es := f.evidence(); len(es) > 0 {
		if err := s.cfg.Store.Evidence(ctx, es); err != nil {
			return "", err
		}
	}
	nonce := checkpoint.Nonce{Connector: src.Connector, ID: f.id, Until: f.received.Add(NonceRetention(src.Hooks.Tolerance))}
	return Accepted, s.cfg.Store.SaveNonces(ctx, []checkpoint.Nonce{nonce})
}

// tellEvery bounds the log: one line per outcome and source in this time, whatever strangers send.
const tellEvery = time.Minute

// tellings count the calls of each outcome since it was last logged.
type tellings struct {
	mu sync.Mutex
	of map[Outcome]*telling
}

type telling struct {
	at time.Time
	n  int64
}

// now counts one call and says whether to log it, with the calls since the last line.
func (t *tellings) now(o Outcome, at time.Time) (calls int64, tell bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.of == nil {
		t.of = make(map[Outcome]*telling)
	}
	k := t.of[o]
	if k == nil {
		k = &telling{}
		t.of[o] = k
	}
	k.n++
	if !k.at.IsZero() && at.Sub(k.at) < tellEvery {
		return 0, false
	}
	calls, k.n, k.at = k.n, 0, at
	return calls, true
}
