package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The faults. Stages: those before the commit refuse or delay a request that has done nothing yet; those after it
// spoil an answer whose effect has been applied.
const (
	FaultThrottle     = "throttle"     // 429 without doing anything
	FaultAmbiguous    = "ambiguous"    // commits, then the answer is lost or is a 5xx
	FaultError        = "error"        // 5xx without doing anything
	FaultDropBefore   = "drop_before"  // the connection is closed, nothing was done
	FaultSlow         = "slow"         // a delay
	FaultOutage       = "outage"       // nothing gets through
	FaultHang         = "hang"         // held until released
	FaultDrift        = "drift"        // unknown fields and enum values; fields dropped or of another type
	FaultPartial      = "partial"      // single items of a batch fail
	FaultBadJSON      = "bad_json"     // the answer is cut in half
	FaultEmptyBody    = "empty_body"   // the answer has no body
	FaultHugeBody     = "huge_body"    // the answer is padded
	FaultTruncated    = "truncated"    // the answer ends after half of its body
	FaultWrongLength  = "wrong_length" // the answer declares half of its body's length
	FaultGarbage      = "garbage"      // bytes that are no HTTP instead of the answer
	FaultBlackHole    = "black_hole"   // taken and never answered, nothing is done
	FaultReject       = "reject"       // 400
	FaultUnauthorized = "unauthorized" // 401 as for a bad credential
)

// A Fault is one thing that goes wrong with chosen requests (design section 17: POST /faults). Which requests: those
// of Operation whose object, reference or idempotency key contains Match; of these not the first Skip; of these every
// Every-th, or the share Rate (default: all); at most Count of them; until ForMS has passed. The choice by Rate is a
// hash of (Seed, operation, key or else reference, object, path; attempt number), so a run can be repeated exactly.
type Fault struct {
	Name string `json:"name"`
	// On false switches off the faults of this name (of this Operation and Match, if given) and releases what they hold.
	On        *bool   `json:"on,omitempty"` // absent: true
	Operation string  `json:"operation,omitempty"`
	Match     string  `json:"match,omitempty"`
	Rate      float64 `json:"rate,omitempty"`  // 0..1; 0 means not given
	Every     int64   `json:"every,omitempty"` // 0 means not given; excludes Rate
	Count     int64   `json:"count,omitempty"` // fires at most so often, 0: no bound
	Skip      int64   `json:"skip,omitempty"`  // the first matching requests are spared
	Seed      uint64  `json:"seed,omitempty"`
	ForMS     int64   `json:"for_ms,omitempty"` // switches itself off by the sandbox's clock, 0: stays

	Status     int    `json:"status,omitempty"`      // error: 500..599, default 500; reject: 400..499, default 400; partial: 400..599, default 400
	RetryAfter int    `json:"retry_after,omitempty"` // throttle, error, outage: seconds in Retry-After
	ResetAfter int    `json:"reset_after,omitempty"` // throttle: seconds from now in X-RateLimit-Reset
	DelayMS    int64  `json:"delay_ms,omitempty"`    // slow: default 1000
	Phase      string `json:"phase,omitempty"`       // slow: before (default) or after the commit; hang: after (default) or before
	Mode       string `json:"mode,omitempty"`        // ambiguous: close (default), 500, 504; outage: close (default), 503
	Seconds    int    `json:"seconds,omitempty"`     // hang: released by itself, 0: only by on=false
	Bytes      int    `json:"bytes,omitempty"`       // huge_body: size of the padding, default 8 MiB
	Fields     string `json:"fields,omitempty"`      // drift: comma-separated enum fields to change, default the vendor's list
	Missing    string `json:"missing,omitempty"`     // drift: comma-separated fields to drop
	Retyped    string `json:"retyped,omitempty"`     // drift: comma-separated fields that change between text and another type
	Key        string `json:"key,omitempty"`         // unauthorized: the bearer key that is refused, default any
}

// Bounds of fault parameters.
const (
	faultDelayMax = 10 * time.Minute
	faultHangMax  = time.Hour
	faultBytesMax = 64 << 20
	faultsMax     = 256
	// attemptsMax bounds the attempt counters. Beyond it they are forgotten, and attempt numbers start at 1 again.
	attemptsMax = 1 << 20
)

var faultCommon = []string{"name", "on", "operation", "match", "rate", "every", "count", "skip", "seed", "for_ms"}

// faultParams are the parameters of each fault beside the common ones.
func faultParams() map[string][]string {
	return map[string][]string{
		FaultThrottle:     {"retry_after", "reset_after"},
		FaultAmbiguous:    {"mode"},
		FaultError:        {"status", "retry_after"},
		FaultDropBefore:   {},
		FaultSlow:         {"delay_ms", "phase"},
		FaultOutage:       {"mode", "retry_after"},
		FaultHang:         {"seconds", "phase"},
		FaultDrift:        {"fields", "missing", "retyped"},
		FaultPartial:      {"status"},
		FaultBadJSON:      {},
		FaultEmptyBody:    {},
		FaultHugeBody:     {"bytes"},
		FaultTruncated:    {},
		FaultWrongLength:  {},
		FaultGarbage:      {},
		FaultBlackHole:    {},
		FaultReject:       {"status"},
		FaultUnauthorized: {"key"},
	}
}

// FaultNames lists the known faults.
func FaultNames() []string { return slices.Sorted(maps.Keys(faultParams())) }

// ReadFault reads the JSON form of a fault strictly: an unknown name or parameter is an error that lists the known
// ones. operations is the closed set of operation names, nil = not checked.
func ReadFault(b []byte, operations []string) (Fault, error) {
	fields, err := ParseFields(b)
	if err != nil {
		return Fault{}, err
	}
	name, err := fields.Text("", "name", true)
	if err != nil {
		return Fault{}, fmt.Errorf("fault %w; known names: %s", err, strings.Join(FaultNames(), ", "))
	}
	own, ok := faultParams()[name]
	if !ok {
		return Fault{}, fmt.Errorf("fault %q is unknown; known: %s", name, strings.Join(FaultNames(), ", "))
	}
	known := slices.Concat(faultCommon, own)
	for _, p := range fields.Names() {
		if !slices.Contains(known, p) {
			return Fault{}, fmt.Errorf("fault %s has no parameter %q; known: %s", name, p, strings.Join(known, ", "))
		}
	}
	var f Fault
	if err := json.Unmarshal(b, &f); err != nil {
		if te, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return Fault{}, fmt.Errorf("fault %s: parameter %s must be a %s, not a %s", name, te.Field, te.Type, te.Value)
		}
		return Fault{}, fmt.Errorf("fault %s: %w", name, err)
	}
	return f, f.validate(fields, operations)
}

func (f *Fault) validate(given Fields, operations []string) error {
	var errs []error
	bad := func(format string, a ...any) { errs = append(errs, fmt.Errorf("fault "+f.Name+": "+format, a...)) }
	if given.Has("rate") && !(f.Rate >= 0 && f.Rate <= 1) {
		bad("rate is %v, want 0 to 1", f.Rate)
	}
	if given.Has("rate") && f.Rate == 0 {
		f.Rate = -1 // never
	}
	if f.Every != 0 && given.Has("rate") {
		bad("rate and every exclude each other")
	}
	for _, p := range []struct {
		name    string
		v, high int64
	}{
		{"every", f.Every, 1 << 40}, {"count", f.Count, 1 << 40}, {"skip", f.Skip, 1 << 40}, {"for_ms", f.ForMS, 1 << 40},
		{"retry_after", int64(f.RetryAfter), 1 << 31}, {"reset_after", int64(f.ResetAfter), 1 << 31},
		{"delay_ms", f.DelayMS, faultDelayMax.Milliseconds()}, {"seconds", int64(f.Seconds), int64(faultHangMax / time.Second)},
		{"bytes", int64(f.Bytes), faultBytesMax},
	} {
		if p.v < 0 || p.v > p.high {
			bad("%s is %d, want 0 to %d", p.name, p.v, p.high)
		}
	}
	if f.Operation != "" && operations != nil && !slices.Contains(operations, f.Operation) {
		bad("operation %q is unknown; known: %s", f.Operation, strings.Join(operations, ", "))
	}
	oneOf := func(name string, v *string, values ...string) {
		if *v == "" {
			*v = values[0]
		}
		if !slices.Contains(values, *v) {
			bad("%s is %q, want one of %s", name, *v, strings.Join(values, ", "))
		}
	}
	status := func(class int) {
		if f.Status == 0 {
			f.Status = class * 100
		}
		if f.Status/100 != class {
			bad("status is %d, want %d to %d", f.Status, class*100, class*100+99)
		}
	}
	switch f.Name {
	case FaultError:
		status(5)
	case FaultReject:
		status(4)
	case FaultPartial:
		if f.Status == 0 {
			f.Status = 400
		}
		if f.Status < 400 || f.Status > 599 {
			bad("status is %d, want 400 to 599", f.Status)
		}
	case FaultAmbiguous:
		oneOf("mode", &f.Mode, "close", "500", "504")
	case FaultOutage:
		oneOf("mode", &f.Mode, "close", "503")
	case FaultSlow:
		oneOf("phase", &f.Phase, "before", "after")
		if f.DelayMS == 0 {
			f.DelayMS = 1000
		}
	case FaultHang:
		oneOf("phase", &f.Phase, "after", "before")
	case FaultHugeBody:
		if f.Bytes == 0 {
			f.Bytes = 8 << 20
		}
	}
	return errors.Join(errs...)
}

// ParseFault reads the form of a command line: NAME or NAME=PARAM:VALUE,PARAM:VALUE, for example
// throttle=rate:0.1,operation:create_user.
func ParseFault(s string, operations []string) (Fault, error) {
	name, params, _ := strings.Cut(s, "=")
	b := AppendString([]byte(`{"name":`), name)
	seen := map[string]bool{}
	for p := range strings.SplitSeq(params, ",") {
		if p == "" {
			continue
		}
		k, v, ok := strings.Cut(p, ":")
		if !ok || seen[k] || k == "name" {
			return Fault{}, fmt.Errorf("fault %q: want NAME or NAME=PARAM:VALUE,PARAM:VALUE with each parameter once, for example throttle=rate:0.1,operation:create_user", s)
		}
		seen[k] = true
		b = AppendString(append(b, ','), k)
		b = append(b, ':')
		switch k {
		case "operation", "match", "phase", "mode", "fields", "missing", "retyped":
			b = AppendString(b, v)
		default:
			if !json.Valid([]byte(v)) {
				return Fault{}, fmt.Errorf("fault %q: the value of %s is not a number or true or false", s, k)
			}
			b = append(b, v...)
		}
	}
	return ReadFault(append(b, '}'), operations)
}

// FaultState is a fault and what it has done, as GET /faults shows it.
type FaultState struct {
	Fault
	Matched int64 `json:"matched"` // requests that its filters chose from
	Fired   int64 `json:"fired"`
	Holding int64 `json:"holding"` // requests that it holds now
}

// activeFault is guarded by faults.mu, except release, which is closed once.
type activeFault struct {
	Fault
	until                   time.Time
	matched, fired, holding int64
	release                 chan struct{}
}

// faults is the set of active faults. Safe for concurrent use.
type faults struct {
	seed uint64
	any  atomic.Bool // the hot path reads only this

	mu       sync.Mutex
	active   []*activeFault
	attempts map[uint64]uint32 // hash of operation and identity -> attempts seen while any fault is active
	changed  chan struct{}     // closed and replaced when a holding count changes
	totals   map[string]int64
}

func newFaults(seed uint64) *faults {
	return &faults{seed: seed, attempts: map[uint64]uint32{}, changed: make(chan struct{}), totals: map[string]int64{}}
}

func (fs *faults) set(f Fault, now time.Time) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	off := f.On != nil && !*f.On
	keep := fs.active[:0:0]
	for _, a := range fs.active {
		same := a.Name == f.Name && a.Operation == f.Operation && a.Match == f.Match
		covered := off && a.Name == f.Name && (f.Operation == "" || f.Operation == a.Operation) && (f.Match == "" || f.Match == a.Match)
		if same || covered {
			close(a.release)
			continue
		}
		keep = append(keep, a)
	}
	if !off {
		if len(keep) >= faultsMax {
			return fmt.Errorf("fault %s: %d faults are active already, which is the bound; switch some off", f.Name, faultsMax)
		}
		f.On = nil
		a := &activeFault{Fault: f, release: make(chan struct{})}
		if f.ForMS > 0 {
			a.until = now.Add(time.Duration(f.ForMS) * time.Millisecond)
		}
		keep = append(keep, a)
	}
	fs.active = keep
	fs.any.Store(len(keep) > 0)
	return nil
}

func (fs *faults) reset() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, a := range fs.active {
		close(a.release)
	}
	fs.active = nil
	fs.any.Store(false)
	clear(fs.attempts)
	clear(fs.totals)
}

func (fs *faults) list() []FaultState {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	out := make([]FaultState, 0, len(fs.active))
	for _, a := range fs.active {
		f := a.Fault
		on := true
		f.On = &on
		if f.Rate < 0 {
			f.Rate = 0
		}
		out = append(out, FaultState{Fault: f, Matched: a.matched, Fired: a.fired, Holding: a.holding})
	}
	return out
}

// fired returns how often each fault has fired since the last reset.
func (fs *faults) fired() map[string]int64 {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return maps.Clone(fs.totals)
}

// A plan is what goes wrong with one request. Its pointers are active faults.
type plan struct {
	slowBefore, slowAfter time.Duration
	holdBefore, holdAfter *activeFault
	refuse                *activeFault // before the commit; the others below are then nil
	ambiguous             *activeFault
	drift, body           *activeFault // body: one of spoiling
}

// refusing faults in order of precedence: the first that fires is the answer.
var refusing = []string{FaultBlackHole, FaultOutage, FaultUnauthorized, FaultThrottle, FaultReject, FaultError, FaultDropBefore}

// spoiling faults in order of precedence: the effect stays, and of the answer's body one thing is wrong.
var spoiling = []string{FaultBadJSON, FaultEmptyBody, FaultHugeBody, FaultTruncated, FaultWrongLength, FaultGarbage}

// decide chooses what goes wrong with r.
func (fs *faults) decide(r *Request) (p plan) {
	if !fs.any.Load() {
		return plan{}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	identity := r.Key
	for _, s := range []string{r.Reference, r.Object, r.Path} {
		if identity == "" {
			identity = s
		}
	}
	roll := fs.roll(hash64(r.Operation, identity))
	pick := func(name string) *activeFault { return fs.pick(name, r, roll) }
	if a := pick(FaultSlow); a != nil {
		if d := time.Duration(a.DelayMS) * time.Millisecond; a.Phase == "before" {
			p.slowBefore = d
		} else {
			p.slowAfter = d
		}
	}
	if a := pick(FaultHang); a != nil {
		if a.Phase == "before" {
			p.holdBefore = a
		} else {
			p.holdAfter = a
		}
	}
	for _, name := range refusing {
		if p.refuse = pick(name); p.refuse != nil {
			return p
		}
	}
	p.ambiguous = pick(FaultAmbiguous)
	p.drift = pick(FaultDrift)
	for _, name := range spoiling {
		if p.body == nil {
			p.body = pick(name)
		}
	}
	return p
}

// roll counts an attempt of an identity and returns the number that rates decide by. fs.mu must be held.
func (fs *faults) roll(id uint64) uint64 {
	if len(fs.attempts) >= attemptsMax {
		clear(fs.attempts)
	}
	fs.attempts[id]++
	return mix(fs.seed ^ id ^ mix(uint64(fs.attempts[id])))
}

// pick finds the first fault of a name that fires for r. fs.mu must be held.
func (fs *faults) pick(name string, r *Request, roll uint64) *activeFault {
	for _, a := range fs.active {
		if a.Name == name && fs.fires(a, r, roll) {
			return a
		}
	}
	return nil
}

func (fs *faults) fires(a *activeFault, r *Request, roll uint64) bool {
	if !a.until.IsZero() && !r.Now.Before(a.until) {
		return false
	}
	if a.Operation != "" && a.Operation != r.Operation || a.Match != "" && !r.matches(a.Match) || a.Key != "" && a.Key != r.Bearer() {
		return false
	}
	a.matched++
	switch {
	case a.matched <= a.Skip, a.Count > 0 && a.fired >= a.Count:
		return false
	case a.Every > 0 && (a.matched-a.Skip)%a.Every != 0:
		return false
	case a.Rate != 0 && !(float64(mix(roll^hash64(a.Name, "")^mix(a.Seed))>>11)/(1<<53) < a.Rate):
		return false
	}
	a.fired++
	fs.totals[a.Name]++
	return true
}

// FailItem says whether the fault partial hits an item of the batch r, and with which status. The fault's filters see
// the batch's operation and the item's reference and key. The lock must be held.
func (s *Sandbox) FailItem(r *Request, reference, key string) (status int, fails bool) {
	fs := s.faults
	if !fs.any.Load() {
		return 0, false
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	item := &Request{Operation: r.Operation, Path: r.Path, Reference: reference, Key: key, Now: r.Now}
	if a := fs.pick(FaultPartial, item, fs.roll(hash64(FaultPartial+r.Operation, reference+key))); a != nil {
		return a.Status, true
	}
	return 0, false
}

// unfire takes back a firing that met nothing to spoil, so that count is spent on real hits only.
func (fs *faults) unfire(a *activeFault) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	a.fired--
	fs.totals[a.Name]--
}

// hold returns when a releases, its own time is over, or closing is closed (false).
func (fs *faults) hold(a *activeFault, closing <-chan struct{}) bool {
	return fs.holdClient(a, closing, nil)
}

// holdClient is hold that also ends when the client has gone (false).
func (fs *faults) holdClient(a *activeFault, closing, gone <-chan struct{}) bool {
	fs.addHolding(a, 1)
	defer fs.addHolding(a, -1)
	var timeout <-chan time.Time
	if a.Seconds > 0 {
		t := time.NewTimer(time.Duration(a.Seconds) * time.Second)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-a.release:
	case <-timeout:
	case <-closing:
		return false
	case <-gone:
		return false
	}
	return true
}

func (fs *faults) addHolding(a *activeFault, n int64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	a.holding += n
	close(fs.changed)
	fs.changed = make(chan struct{})
}

// waitHolding returns when faults hold at least n requests.
func (fs *faults) waitHolding(ctx context.Context, n int64) error {
	for {
		fs.mu.Lock()
		var sum int64
		for _, a := range fs.active {
			sum += a.holding
		}
		changed := fs.changed
		fs.mu.Unlock()
		if sum >= n {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until faults hold %d requests (%d held): %w", n, sum, context.Cause(ctx))
		}
	}
}

// hash64 is FNV-1a over both strings with a separator: the same in every process, unlike package maphash.
func hash64(a, b string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(a) {
		h = (h ^ uint64(a[i])) * 1099511628211
	}
	h *= 1099511628211
	for i := range len(b) {
		h = (h ^ uint64(b[i])) * 1099511628211
	}
	return h
}

// A drift is what the fault drift changes: names of fields wherever they occur.
type drift struct{ enums, missing, retyped []string }

// drifted adds an unknown field to every object of a JSON document and an unknown value to each of the enum fields,
// drops the missing ones, and makes text of what is no text and a number of what is, for the retyped ones.
func drifted(body []byte, d drift) []byte {
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return body
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(e)
				switch text, isText := e.(string); {
				case slices.Contains(d.missing, k):
					delete(v, k)
				case slices.Contains(d.retyped, k) && isText:
					v[k] = len(text)
				case slices.Contains(d.retyped, k):
					v[k] = fmt.Sprint("drift ", e)
				case slices.Contains(d.enums, k) && isText:
					v[k] = "drift_" + k
				}
			}
			v["drift_field"] = map[string]any{"added": true, "note": "unknown to every client"}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(v)
	out, err := json.Marshal(v)
	if err != nil {
		return body
	}
	return out
}

func driftOf(f *activeFault, vendor []string) drift {
	split := func(list string) []string { return strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) }
	d := drift{enums: vendor, missing: split(f.Missing), retyped: split(f.Retyped)}
	if f.Fields != "" {
		d.enums = split(f.Fields)
	}
	return d
}
