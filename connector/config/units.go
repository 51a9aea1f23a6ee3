package config

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// Size is a number of bytes, written with a unit: B, KB, MB, GB (powers of 1,000), KiB, MiB, GiB (of 1,024).
type Size int64

var sizeUnits = [...]struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}}

// ParseSize reads a whole number with a unit, such as 64MiB; it is never negative. false if it is not a size.
func ParseSize(s string) (Size, bool) {
	for _, u := range sizeUnits {
		num, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		num = strings.TrimSpace(num)
		n, err := strconv.ParseInt(num, 10, 64)
		if err != nil || n < 0 || num[0] == '+' || n > math.MaxInt64/u.bytes {
			return 0, false
		}
		return Size(n * u.bytes), true
	}
	return 0, false
}

// String is the size in the largest unit that divides it.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.bytes == 0 {
			return strconv.FormatInt(int64(s)/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// MarshalYAML is the form that the file has.
func (s Size) MarshalYAML() (any, error) { return s.String(), nil }

// Duration is a time span, written with units as Go does: 500ms, 30s, 1h30m.
type Duration time.Duration

// ParseDuration reads a span with units; false if it is none.
func ParseDuration(s string) (Duration, bool) {
	d, err := time.ParseDuration(s)
	if err != nil || s == "0" { // Go allows 0 without a unit
		return 0, false
	}
	return Duration(d), true
}

// D is the span as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String is the span without zero parts: 15m, not 15m0s.
func (d Duration) String() string {
	s := time.Duration(d).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalYAML is the form that the file has.
func (d Duration) MarshalYAML() (any, error) { return d.String(), nil }
