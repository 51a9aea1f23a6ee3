package core

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BodyBytesMax bounds a request body, in bytes; a larger one is answered with 413.
const BodyBytesMax = 1 << 20

// Options of a sandbox. The zero value is usable: it accepts any credential, keeps everything in memory and has no
// faults.
type Options struct {
	// LimitScale multiplies all vendor limits (design section 17). 0 means 1; a scaled limit is at least 1.
	LimitScale float64
	// Keys are the credentials accepted, each with its own life. Empty: any non-empty credential is accepted.
	Keys []Key
	// Seed makes object ids and fault decisions reproducible. 0 is a seed like any other.
	Seed uint64
	// Now is the clock of created_at, quota windows, key lives and log entries; nil means time.Now. Delays and holds
	// use real timers.
	Now func() time.Time
	// EffectsFile, if set, receives every log entry as a JSON line before its request is answered, so it survives a
	// kill of the process (not of the machine: there is no fsync). Existing entries are read at start and numbering
	// goes on after them.
	EffectsFile string
	// EffectsMax bounds the entries kept in memory, 0 = no bound. The oldest are dropped; asking for dropped ones is
	// an error, never a silent gap.
	EffectsMax int
	// Persist, if set, is a directory that keeps state and log over a kill and restart of the process. One process at
	// a time. Quota windows, faults and queued webhooks are not kept.
	Persist string
	// Log receives operational messages; nil discards them. No request bodies are logged.
	Log *slog.Logger
	// Switches are the vendor's own settings; see SwitchSpec lists of the vendor packages. Unknown names are errors.
	Switches map[string]string
	// Faults are switched on at start, each in the form that ParseFault reads.
	Faults []string
	// AllowRemote permits listening on other than loopback addresses.
	AllowRemote bool
}

// A Key is one credential that a sandbox accepts, from NotBefore (inclusive) to NotAfter (exclusive). Zero times mean
// no bound, so overlap and revocation can be tested.
type Key struct {
	Secret    string
	NotBefore time.Time
	NotAfter  time.Time
}

// Keys makes keys without bounds of their life.
func Keys(secrets ...string) []Key {
	ks := make([]Key, 0, len(secrets))
	for _, s := range secrets {
		ks = append(ks, Key{Secret: s})
	}
	return ks
}

// ParseKey reads SECRET[@NOTBEFORE[..NOTAFTER]] with RFC 3339 times, either of which may be empty.
func ParseKey(s string) (Key, error) {
	secret, life, ok := strings.Cut(s, "@")
	k := Key{Secret: secret}
	if secret == "" {
		return Key{}, errors.New("sandbox key: empty; want SECRET or SECRET@NOTBEFORE..NOTAFTER with RFC 3339 times")
	}
	if !ok {
		return k, nil
	}
	from, to, _ := strings.Cut(life, "..")
	for _, b := range []struct {
		text string
		into *time.Time
	}{{from, &k.NotBefore}, {to, &k.NotAfter}} {
		if b.text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, b.text)
		if err != nil {
			return Key{}, errors.New("sandbox key: its life must be NOTBEFORE..NOTAFTER in RFC 3339, either may be empty")
		}
		*b.into = t
	}
	if !k.NotAfter.IsZero() && !k.NotBefore.Before(k.NotAfter) {
		return Key{}, errors.New("sandbox key: NOTAFTER is not later than NOTBEFORE")
	}
	return k, nil
}

func (o Options) validate() error {
	var errs []error
	if o.LimitScale < 0 || o.LimitScale != o.LimitScale || o.LimitScale > 1e9 {
		errs = append(errs, fmt.Errorf("sandbox option LimitScale is %v: want a number above 0, at most 1e9 (0 means 1)", o.LimitScale))
	}
	if o.EffectsMax < 0 {
		errs = append(errs, fmt.Errorf("sandbox option EffectsMax is %d: want 0 (no bound) or more", o.EffectsMax))
	}
	for i, k := range o.Keys {
		if k.Secret == "" {
			errs = append(errs, fmt.Errorf("sandbox option Keys[%d]: empty secret", i))
		}
	}
	return errors.Join(errs...)
}

// Limit scales one vendor limit: limit x LimitScale, at least 1.
func (o Options) Limit(limit int) int {
	if o.LimitScale == 0 {
		return limit
	}
	return max(1, int(float64(limit)*o.LimitScale))
}

// A SwitchSpec describes one setting of a vendor sandbox.
type SwitchSpec struct {
	Name    string
	Default string
	Help    string
	// Values is the closed set of values; empty: Check decides.
	Values []string
	Check  func(string) error
}

// Switches are the settings of one vendor sandbox, complete and checked.
type Switches map[string]string

// NewSwitches checks given against specs and fills in the defaults. All problems are reported at once.
func NewSwitches(given map[string]string, specs []SwitchSpec) (Switches, error) {
	s := make(Switches, len(specs))
	var names []string
	for _, spec := range specs {
		s[spec.Name] = spec.Default
		names = append(names, spec.Name)
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.Index(names, name)
		if i < 0 {
			errs = append(errs, fmt.Errorf("sandbox switch %q is unknown; known: %s", name, strings.Join(names, ", ")))
			continue
		}
		v, spec := given[name], specs[i]
		if len(spec.Values) > 0 && !slices.Contains(spec.Values, v) {
			errs = append(errs, fmt.Errorf("sandbox switch %s is %q; want one of %s", name, v, strings.Join(spec.Values, ", ")))
			continue
		}
		if spec.Check != nil {
			if err := spec.Check(v); err != nil {
				errs = append(errs, fmt.Errorf("sandbox switch %s is %q: %w", name, v, err))
				continue
			}
		}
		s[name] = v
	}
	return s, errors.Join(errs...)
}

// OnOff is the closed set of values of a boolean switch.
func OnOff() []string { return []string{"on", "off"} }

// On says whether a boolean switch is on.
func (s Switches) On(name string) bool { return s[name] == "on" }

// Duration of a switch that CheckDuration has checked.
func (s Switches) Duration(name string) time.Duration {
	d, _ := time.ParseDuration(s[name]) // checked by NewSwitches
	return d
}

// Int of a switch that CheckInt has checked.
func (s Switches) Int(name string) int {
	n, _ := strconv.Atoi(s[name]) // checked by NewSwitches
	return n
}

// Float of a switch that CheckFloat has checked.
func (s Switches) Float(name string) float64 {
	f, _ := strconv.ParseFloat(s[name], 64) // checked by NewSwitches
	return f
}

// Prefixes of a switch that CheckPrefixes has checked.
func (s Switches) Prefixes(name string) []netip.Prefix {
	ps, _ := parsePrefixes(s[name]) // checked by NewSwitches
	return ps
}

// CheckDuration accepts durations of 0 and more.
func CheckDuration(v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		return errors.New("want a duration such as 250ms, 10s or 0s")
	}
	return nil
}

// CheckInt accepts whole numbers from lo to hi.
func CheckInt(lo, hi int) func(string) error {
	return func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < lo || n > hi {
			return fmt.Errorf("want a whole number from %d to %d", lo, hi)
		}
		return nil
	}
}

// CheckFloat accepts numbers above 0, at most hi.
func CheckFloat(hi float64) func(string) error {
	return func(v string) error {
		f, err := strconv.ParseFloat(v, 64)
		if err != nil || !(f > 0) || f > hi {
			return fmt.Errorf("want a number above 0, at most %v", hi)
		}
		return nil
	}
}

// CheckPrefixes accepts a comma-separated list of addresses and CIDR prefixes, or nothing.
func CheckPrefixes(v string) error {
	_, err := parsePrefixes(v)
	return err
}

func parsePrefixes(v string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for f := range strings.SplitSeq(v, ",") {
		f = strings.TrimSpace(f)
		if f == "" {
			continue
		}
		if a, err := netip.ParseAddr(f); err == nil {
			out = append(out, netip.PrefixFrom(a, a.BitLen()))
			continue
		}
		p, err := netip.ParsePrefix(f)
		if err != nil {
			return nil, errors.New("want addresses or CIDR prefixes separated by commas")
		}
		out = append(out, p.Masked())
	}
	return out, nil
}
