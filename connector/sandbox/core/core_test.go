package core

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestWindowAgainstModel compares a window with the definition: a request is allowed when fewer than limit allowed
// requests lie in the span before it.
func TestWindowAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 6).Draw(t, "limit")
		span := 10 * time.Second
		w := NewWindow(limit, span)
		now := time.Unix(1000, 0)
		var allowed []time.Time
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			now = now.Add(time.Duration(rapid.IntRange(0, 6000).Draw(t, "gap")) * time.Millisecond)
			var within []time.Time
			for _, a := range allowed {
				if now.Sub(a) < span {
					within = append(within, a)
				}
			}
			u, ok := w.Take(now)
			if want := len(within) < limit; ok != want {
				t.Fatalf("Take at %v with %d in the span: allowed %v, want %v", now, len(within), ok, want)
			}
			if ok {
				allowed, within = append(allowed, now), append(within, now)
			}
			if u.Remaining != limit-len(within) || !u.Reset.Equal(within[0].Add(span)) {
				t.Fatalf("Take at %v: remaining %d reset %v, want %d and %v", now, u.Remaining, u.Reset, limit-len(within), within[0].Add(span))
			}
		}
	})
}

// TestWindowLarge: above the number of granules the window is bounded in memory and never lets too many through.
func TestWindowLarge(t *testing.T) {
	const limit = 200_000
	w := NewWindow(limit, time.Hour)
	now := time.Unix(0, 0)
	allowed := 0
	for range 3 * limit {
		now = now.Add(time.Millisecond)
		if _, ok := w.Take(now); ok {
			allowed++
		}
	}
	if allowed != limit {
		t.Errorf("%d requests within 10 minutes were allowed, want %d", allowed, limit)
	}
	if len(w.ring) > 2*windowGranules {
		t.Errorf("the window holds %d entries, want at most %d", len(w.ring), 2*windowGranules)
	}
	// One granule after the hour slots are free again, and no earlier than the hour.
	if _, ok := w.Take(time.Unix(3600, 0)); ok {
		t.Error("allowed before an hour has passed since the first request")
	}
	if _, ok := w.Take(time.Unix(3600, 0).Add(time.Hour/windowGranules + time.Millisecond)); !ok {
		t.Error("refused one granule after the hour")
	}
}

func TestWindowUntakeGivesTheSlotBack(t *testing.T) {
	w := NewWindow(1, time.Hour)
	w.Take(time.Unix(0, 0))
	w.Untake()
	if _, ok := w.Take(time.Unix(1, 0)); !ok {
		t.Error("refused although the only request was given back")
	}
	if _, ok := w.Take(time.Unix(2, 0)); ok {
		t.Error("allowed a second request")
	}
}

func TestIDsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for n := range uint64(100_000) {
		id := string(appendID(nil, 7, n, 16))
		if len(id) != 16 || seen[id] {
			t.Fatalf("id %d is %q: seen %v", n, id, seen[id])
		}
		seen[id] = true
	}
}

func TestEffectsLogDropsLoudly(t *testing.T) {
	l := newEffectsLog("v", 10)
	for range 3 * chunkEntries {
		l.append(entry{effect: Applied})
	}
	if l.n > 10+chunkEntries {
		t.Errorf("%d entries kept, want at most %d", l.n, 10+chunkEntries)
	}
	_, _, err := l.since(0, 1)
	dropped, ok := errors.AsType[*DroppedError](err)
	if !ok {
		t.Fatalf("since(0) = %v, want a DroppedError", err)
	}
	es, seq, err := l.since(dropped.First-1, chunkEntries)
	if err != nil || seq != dropped.First || len(es) == 0 {
		t.Errorf("since(%d) = %d entries from %d, %v", dropped.First-1, len(es), seq, err)
	}
	if l.last() != 3*chunkEntries {
		t.Errorf("last seq is %d, want %d", l.last(), 3*chunkEntries)
	}
}

func TestJournalCutsTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	if err := os.WriteFile(path, []byte("one\ntwo\nthr"), 0o600); err != nil {
		t.Fatal(err)
	}
	var lines []string
	j, err := openJournal(path, func(b []byte) error { lines = append(lines, string(b)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	n := j.append(func(b []byte) []byte { return append(b, "three"...) })
	if err := j.flush(n); err != nil {
		t.Fatal(err)
	}
	got, _ := os.ReadFile(path)
	if string(got) != "one\ntwo\nthree\n" || strings.Join(lines, " ") != "one two" {
		t.Errorf("file %q, lines read %q", got, lines)
	}
	if err := j.close(); err != nil {
		t.Fatal(err)
	}
	if err := j.flush(n + 1); !errors.Is(err, os.ErrClosed) {
		t.Errorf("flush after close = %v, want os.ErrClosed", err)
	}
}

func TestFaultValidation(t *testing.T) {
	for _, c := range []struct{ name, json, want string }{
		{"unknown name", `{"name":"nope"}`, "known: ambiguous"},
		{"no name", `{}`, "known names: ambiguous"},
		{"unknown parameter", `{"name":"slow","status":500}`, `no parameter "status"; known: name`},
		{"case of a parameter", `{"name":"slow","Rate":1}`, `no parameter "Rate"`},
		{"rate too high", `{"name":"slow","rate":1.5}`, "rate is 1.5"},
		{"rate and every", `{"name":"slow","rate":0.5,"every":2}`, "exclude each other"},
		{"negative count", `{"name":"slow","count":-1}`, "count is -1"},
		{"wrong type", `{"name":"slow","delay_ms":"1"}`, "delay_ms must be a int64"},
		{"unknown operation", `{"name":"slow","operation":"fly"}`, `"fly" is unknown; known: walk`},
		{"status of reject", `{"name":"reject","status":500}`, "want 400 to 499"},
		{"status of error", `{"name":"error","status":404}`, "want 500 to 599"},
		{"mode", `{"name":"ambiguous","mode":"gone"}`, "want one of close, 500, 504"},
		{"phase", `{"name":"hang","phase":"never"}`, "want one of after, before"},
		{"hang too long", `{"name":"hang","seconds":3601}`, "seconds is 3601"},
		{"not an object", `[]`, "not a JSON object"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ReadFault([]byte(c.json), []string{"walk"}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("ReadFault(%s) = %v, want an error with %q", c.json, err, c.want)
			}
		})
	}
}

func TestParseFault(t *testing.T) {
	f, err := ParseFault("throttle=rate:0.25,operation:walk,match:a-1,retry_after:3", []string{"walk"})
	want := Fault{Name: "throttle", Rate: 0.25, Operation: "walk", Match: "a-1", RetryAfter: 3}
	if err != nil || !reflect.DeepEqual(f, want) {
		t.Errorf("ParseFault = %+v, %v, want %+v", f, err, want)
	}
	for _, bad := range []string{"throttle=rate", "throttle=rate:x", "throttle=rate:1,rate:1", "throttle=name:slow", "", "nope"} {
		if f, err := ParseFault(bad, nil); err == nil {
			t.Errorf("ParseFault(%q) = %+v, want an error", bad, f)
		}
	}
}

// TestFaultChoiceIsReproducible: the same seed chooses the same attempts in any order of arrival; another seed others.
func TestFaultChoiceIsReproducible(t *testing.T) {
	choose := func(seed uint64, backwards bool) map[string]bool {
		fs := newFaults(seed)
		if err := fs.set(Fault{Name: FaultDropBefore, Rate: 0.3}, time.Time{}); err != nil {
			t.Fatal(err)
		}
		hit := map[string]bool{}
		for i := range 2000 {
			if backwards {
				i = 1999 - i
			}
			key := fmt.Sprint("k", i)
			hit[key] = fs.decide(&Request{Operation: "op", Key: key}).refuse != nil
		}
		return hit
	}
	a, b, other := choose(1, false), choose(1, true), choose(2, false)
	if !reflect.DeepEqual(a, b) {
		t.Error("the order of arrival changed which requests are hit")
	}
	if reflect.DeepEqual(a, other) {
		t.Error("another seed hit the same requests")
	}
	n := 0
	for _, h := range a {
		if h {
			n++
		}
	}
	if n < 500 || n > 700 { // 600 expected, standard deviation 20
		t.Errorf("%d of 2000 hit at rate 0.3", n)
	}
}

func TestFaultSelection(t *testing.T) {
	hits := func(f Fault, n int) (out []int) {
		fs := newFaults(0)
		if err := fs.set(f, time.Time{}); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if fs.decide(&Request{Operation: "op", Key: fmt.Sprint(i), Reference: fmt.Sprint("r", i%3)}).refuse != nil {
				out = append(out, i)
			}
		}
		return out
	}
	for _, c := range []struct {
		name string
		f    Fault
		want []int
	}{
		{"all", Fault{}, []int{0, 1, 2, 3, 4, 5}},
		{"count", Fault{Count: 2}, []int{0, 1}},
		{"skip", Fault{Skip: 4}, []int{4, 5}},
		{"every", Fault{Every: 3}, []int{2, 5}},
		{"skip, every, count", Fault{Skip: 1, Every: 2, Count: 1}, []int{2}},
		{"match on the reference", Fault{Match: "r1"}, []int{1, 4}},
		{"another operation", Fault{Operation: "other"}, nil},
		{"never", Fault{Rate: -1}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.f.Name = FaultReject
			if got := hits(c.f, 6); !reflect.DeepEqual(got, c.want) {
				t.Errorf("hit %v, want %v", got, c.want)
			}
		})
	}
}

func TestPartialFaultChoosesItems(t *testing.T) {
	s := &Sandbox{faults: newFaults(0)}
	f, err := ParseFault("partial=match:r1,status:503", []string{"walk"})
	if err != nil {
		t.Fatal(err)
	}
	batch := &Request{Operation: "walk", Refs: []string{"r0", "r1"}}
	if _, fails := s.FailItem(batch, "r1", ""); fails {
		t.Error("an item fails without a fault")
	}
	if err := s.faults.set(f, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if p := s.faults.decide(batch); p.refuse != nil || p.body != nil {
		t.Errorf("partial hits the whole batch: %+v", p)
	}
	for reference, want := range map[string]int{"r0": 0, "r1": 503} {
		if status, fails := s.FailItem(batch, reference, ""); status != want || fails != (want != 0) {
			t.Errorf("FailItem(%s) = %d, %v, want %d", reference, status, fails, want)
		}
	}
	for _, bad := range []string{`{"name":"partial","status":200}`, `{"name":"partial","status":600}`, `{"name":"partial","mode":"close"}`} {
		if _, err := ReadFault([]byte(bad), nil); err == nil {
			t.Errorf("ReadFault(%s) is accepted", bad)
		}
	}
	if f, err := ReadFault([]byte(`{"name":"partial"}`), nil); err != nil || f.Status != 400 {
		t.Errorf("default of partial: %+v, %v", f, err)
	}
}

// TestBatchMatch: the filters of a fault see the items of a batch.
func TestBatchMatch(t *testing.T) {
	fs := newFaults(0)
	if err := fs.set(Fault{Name: FaultReject, Match: "r7"}, time.Time{}); err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{"r7": true, "r8": false} {
		if got := fs.decide(&Request{Operation: "op", Refs: []string{"r1", ref}}).refuse != nil; got != want {
			t.Errorf("a batch with %s is hit: %v, want %v", ref, got, want)
		}
	}
}

func TestOptionsAndKeys(t *testing.T) {
	for _, o := range []Options{{LimitScale: -1}, {EffectsMax: -1}, {Keys: []Key{{}}}} {
		if err := o.validate(); err == nil {
			t.Errorf("validate(%+v) = nil, want an error", o)
		}
	}
	if got := (Options{LimitScale: 0.001}).Limit(100); got != 1 {
		t.Errorf("Limit(100) scaled by 0.001 = %d, want 1", got)
	}
	if got := (Options{LimitScale: 2.5}).Limit(100); got != 250 {
		t.Errorf("Limit(100) scaled by 2.5 = %d, want 250", got)
	}
	k, err := ParseKey("s@2026-01-01T00:00:00Z..2026-02-01T00:00:00Z")
	if err != nil || k.Secret != "s" || k.NotBefore.Month() != time.January || k.NotAfter.Month() != time.February {
		t.Errorf("ParseKey = %+v, %v", k, err)
	}
	for _, bad := range []string{"", "s@x", "s@2026-02-01T00:00:00Z..2026-01-01T00:00:00Z"} {
		if _, err := ParseKey(bad); err == nil || strings.Contains(err.Error(), "s@") {
			t.Errorf("ParseKey(%q) = %v, want an error that does not show the key", bad, err)
		}
	}
}

func TestSwitches(t *testing.T) {
	specs := []SwitchSpec{{Name: "a", Default: "off", Values: OnOff()}, {Name: "d", Default: "1s", Check: CheckDuration},
		{Name: "n", Default: "3", Check: CheckInt(1, 5)}, {Name: "f", Default: "1", Check: CheckFloat(1)}, {Name: "p", Check: CheckPrefixes}}
	s, err := NewSwitches(map[string]string{"a": "on", "d": "2m", "p": "127.0.0.1, 10.1.2.3/8"}, specs)
	if err != nil || !s.On("a") || s.Duration("d") != 2*time.Minute || s.Int("n") != 3 || s.Float("f") != 1 || len(s.Prefixes("p")) != 2 {
		t.Errorf("NewSwitches = %v, %v", s, err)
	}
	_, err = NewSwitches(map[string]string{"x": "1", "a": "yes", "d": "-1s", "n": "6", "f": "0", "p": "zz"}, specs)
	for _, want := range []string{`"x" is unknown; known: a, d, n, f, p`, "switch a", "switch d", "switch n", "switch f", "switch p"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("NewSwitches reports %v, want also %q", err, want)
		}
	}
}

// FuzzFields: a body is accepted exactly when it is a JSON object in UTF-8, and each field's text is what encoding/json
// reads for it.
func FuzzFields(f *testing.F) {
	for _, s := range []string{`{}`, `{"a":[1, "]" ,{"b":[]}, [ ] ]}`, `{"a":1,"b":{"c":[1,{"d":"}"}]},"a":"x\"y"}`, ` { "a" : null } `, `[]`, `{"a"`, `{"\u0061":"\ud83d\ude00"}`, "{\"a\":\"\xff\"}"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := ParseFields(body)
		var want map[string]json.RawMessage
		wantErr := json.Unmarshal(body, &want)
		valid := wantErr == nil && want != nil && bytes.ToValidUTF8(body, nil) != nil && bytes.Equal(bytes.ToValidUTF8(body, nil), body)
		if (err == nil) != valid {
			t.Fatalf("ParseFields(%q) = %v, want accepted %v", body, err, valid)
		}
		if err != nil {
			if _, ok := errors.AsType[*InvalidError](err); !ok {
				t.Fatalf("ParseFields(%q) = %T, want *InvalidError", body, err)
			}
			return
		}
		for name, raw := range want {
			null := bytes.Equal(raw, []byte("null"))
			if got.Has(name) == null {
				t.Fatalf("%q: Has(%q) = %v", body, name, !null)
			}
			var s string
			if json.Unmarshal(raw, &s) == nil && !null {
				if text, err := got.Text("", name, false); err != nil || text != s {
					t.Fatalf("%q: Text(%q) = %q, %v, want %q", body, name, text, err, s)
				}
			}
			var elements []json.RawMessage
			if json.Unmarshal(raw, &elements) == nil && !null {
				parts, err := got.Array("", name, true)
				if err != nil || len(parts) != len(elements) {
					t.Fatalf("%q: Array(%q) = %q, %v, want %q", body, name, parts, err, elements)
				}
				for i := range parts {
					if !bytes.Equal(parts[i], elements[i]) {
						t.Fatalf("%q: Array(%q)[%d] = %q, want %q", body, name, i, parts[i], elements[i])
					}
				}
			}
			if !null && !bytes.Equal(got.Raw(name), raw) {
				t.Fatalf("%q: raw(%q) = %q, want %q", body, name, got.Raw(name), raw)
			}
			if o, err := got.Object("", name, false); err == nil && o != nil {
				var inner map[string]json.RawMessage
				if json.Unmarshal(raw, &inner) != nil {
					t.Fatalf("%q: Object(%q) accepted %q", body, name, raw)
				}
			}
		}
		if got.Has("not in it \x00") {
			t.Fatal("a field that is absent is there")
		}
	})
}

// FuzzCursor: a cursor is read as the number it was made of, for its own list only; any other text is refused or is
// such a cursor itself.
func FuzzCursor(f *testing.F) {
	f.Add(AppendCursor("users", 17), 20)
	f.Add("djEudXNlcnMuMDAx", 20)
	f.Add("djEudXNlcnMuM\r\r\rTc", 74)
	f.Add("%%%", 0)
	f.Fuzz(func(t *testing.T, cursor string, total int) {
		n, err := ParseCursor("users", cursor, total)
		if err != nil {
			return
		}
		if n < 0 || n > total || AppendCursor("users", n) != cursor {
			t.Errorf("ParseCursor(%q, %d) = %d, made as %q", cursor, total, n, AppendCursor("users", n))
		}
		if _, err := ParseCursor("intents", cursor, total); err == nil {
			t.Errorf("cursor %q is accepted by another list", cursor)
		}
	})
}

// FuzzEntry: a log line that is written is valid JSON, one line, and reads back as it was but for bytes that are not
// UTF-8; a line that is read never panics.
func FuzzEntry(f *testing.F) {
	f.Add("create_user", "user_1", "tag\n\"", "k\x00\xff", []byte(`{"seq":1}`))
	f.Fuzz(func(t *testing.T, operation, object, reference, key string, line []byte) {
		_, _, _ = parseEntry(line)
		e := entry{at: 1_700_000_000_123_456, operation: operation, object: object, reference: reference, key: key, status: 200, effect: Applied}
		b := appendEntry(nil, "v", &e, 9)
		if !json.Valid(b) || bytes.IndexByte(b, '\n') >= 0 {
			t.Fatalf("not one line of JSON: %q", b)
		}
		got, seq, err := parseEntry(b)
		want := e
		for _, s := range []*string{&want.operation, &want.object, &want.reference, &want.key} {
			*s = strings.Map(func(r rune) rune { return r }, *s) // each bad byte becomes U+FFFD
		}
		if err != nil || seq != 9 || got != want {
			t.Errorf("read back %+v, %d, %v, want %+v", got, seq, err, want)
		}
	})
}

// FuzzFault: what is accepted is within bounds and survives a round through its JSON form; nothing panics.
func FuzzFault(f *testing.F) {
	f.Add(`{"name":"throttle","rate":0.5,"retry_after":3}`)
	f.Add(`{"name":"hang","seconds":3}`)
	f.Add(`throttle=rate:0.1,count:3`)
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = ParseFault(s, nil)
		a, err := ReadFault([]byte(s), nil)
		if err != nil {
			return
		}
		if a.Rate > 1 || a.Count < 0 || a.DelayMS > faultDelayMax.Milliseconds() || a.Bytes > faultBytesMax {
			t.Errorf("ReadFault(%q) accepted %+v", s, a)
		}
		if a.Rate < 0 {
			return // "never" has no number of its own
		}
		b, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		again, err := ReadFault(b, nil)
		if err != nil || !reflect.DeepEqual(a, again) {
			t.Errorf("ReadFault(%s) = %+v, %v, want %+v", b, again, err, a)
		}
	})
}

// TestBucketAgainstModel compares a bucket with exact fractions: tokens = min(capacity, tokens + elapsed x rate).
func TestBucketAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		capacity, rate := rapid.IntRange(1, 5).Draw(t, "capacity"), rapid.IntRange(1, 90).Draw(t, "rate")
		b := NewBucket(capacity, rate)
		now, tokens := time.Unix(1000, 0), big.NewRat(int64(capacity), 1)
		b.Take(now) // its clock starts here
		b.Untake()
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			step := time.Duration(rapid.Int64Range(-int64(time.Second), int64(2*time.Minute)).Draw(t, "step"))
			if rapid.Bool().Draw(t, "burst") {
				step = 0
			}
			if step > 0 {
				tokens.Add(tokens, big.NewRat(int64(step)*int64(rate), int64(time.Minute)))
				if full := big.NewRat(int64(capacity), 1); tokens.Cmp(full) > 0 {
					tokens = full
				}
				now = now.Add(step)
			}
			one := big.NewRat(1, 1)
			want := tokens.Cmp(one) >= 0
			wait, ok := b.Take(now.Add(min(step, 0))) // a clock that steps back stands still
			if ok != want {
				t.Fatalf("Take with %v tokens: %v", tokens, ok)
			}
			if ok {
				tokens.Sub(tokens, one)
				continue
			}
			after := new(big.Rat).Add(tokens, big.NewRat(int64(wait)*int64(rate), int64(time.Minute)))
			before := new(big.Rat).Add(tokens, big.NewRat(int64(wait-1)*int64(rate), int64(time.Minute)))
			if after.Cmp(one) < 0 || before.Cmp(one) >= 0 {
				t.Fatalf("Take with %v tokens says to wait %v: there are then %v", tokens, wait, after)
			}
		}
	})
}

func TestBucketBounds(t *testing.T) {
	b := NewBucket(1<<62, 1<<62)
	now := time.Unix(0, 0)
	for range 1000 {
		if _, ok := b.Take(now); !ok {
			t.Fatal("a huge bucket is empty")
		}
	}
	if _, ok := b.Take(now.Add(100 * 365 * 24 * time.Hour)); !ok || b.units > b.capacity*bucketUnit || b.units <= 0 {
		t.Errorf("after a century: %v, %d units", ok, b.units)
	}
	one := NewBucket(1, 1)
	one.Take(now)
	one.Untake()
	one.Untake()
	if _, ok := one.Take(now); !ok {
		t.Error("refused although the only request was given back")
	}
	if _, ok := one.Take(now); ok {
		t.Error("giving back twice made a second token")
	}
	bs := NewBuckets(1, 1)
	for i := range windowsMax {
		bs.Of(fmt.Sprint(i))
	}
	if a, b := bs.Of("late"), bs.Of("later"); a != b || len(bs.by) != windowsMax+1 {
		t.Errorf("newcomers beyond the bound have buckets of their own: %d", len(bs.by))
	}
}

func TestFieldsArray(t *testing.T) {
	f, err := ParseFields([]byte(`{"a":[ 1 , {"x":[2]},"s]" ,[ ]],"e":[ ],"n":null,"o":{},"t":["x","\u00e9"],"u":["x",""]}`))
	if err != nil {
		t.Fatal(err)
	}
	raws, err := f.Array("", "a", true)
	if got := string(bytes.Join(raws, []byte("|"))); err != nil || got != `1|{"x":[2]}|"s]"|[ ]` {
		t.Errorf("Array = %s, %v", got, err)
	}
	if o, ok := ElementFields(raws[1]); !ok || string(o.Raw("x")) != "[2]" {
		t.Errorf("ElementFields = %v, %v", o, ok)
	}
	if _, ok := ElementFields(raws[0]); ok {
		t.Error("a number is read as an object")
	}
	if raws, err := f.Array("", "e", true); err != nil || len(raws) != 0 {
		t.Errorf("empty array = %q, %v", raws, err)
	}
	for name, required := range map[string]bool{"n": true, "missing": true, "o": false} {
		if _, err := f.Array("p.", name, required); AsInvalid(err) == nil || AsInvalid(err).Field != "p."+name {
			t.Errorf("Array(%s) = %v, want an error of its field", name, err)
		}
	}
	if got, err := f.Texts("", "t", true); err != nil || strings.Join(got, "|") != "x|é" {
		t.Errorf("Texts = %q, %v", got, err)
	}
	for name, field := range map[string]string{"a": "a[0]", "u": "u[1]"} {
		if _, err := f.Texts("", name, true); AsInvalid(err) == nil || AsInvalid(err).Field != field {
			t.Errorf("Texts(%s) = %v, want an error of %s", name, err, field)
		}
	}
}
