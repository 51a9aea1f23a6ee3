package checkpoint

import (
	"strings"
	"testing"
)

func TestParseOrigin(t *testing.T) {
	for _, c := range []struct {
		in        string
		topic     string
		partition int32
		offset    int64
		ok        bool
	}{
		{"canonical.customer/3/42", "canonical.customer", 3, 42, true},
		{"a/0/9223372036854775807", "a", 0, 1<<63 - 1, true},
		{"a/2147483647/0", "a", 1<<31 - 1, 0, true},
		{"a/2147483648/0", "", 0, 0, false},
		{"a/0/9223372036854775808", "", 0, 0, false},
		{"a/0/99999999999999999999", "", 0, 0, false},
		{"a/b/0/1", "", 0, 0, false},
		{"a/-1/1", "", 0, 0, false},
		{"a/01/1", "", 0, 0, false},
		{"a/1/", "", 0, 0, false},
		{"/1/1", "", 0, 0, false},
		{"../1/1", "", 0, 0, false},
		{"1/1", "", 0, 0, false},
		{"", "", 0, 0, false},
		{strings.Repeat("t", 250) + "/1/1", "", 0, 0, false},
	} {
		topic, partition, offset, ok := ParseOrigin(c.in)
		if topic != c.topic || partition != c.partition || offset != c.offset || ok != c.ok {
			t.Errorf("ParseOrigin(%q) = %q, %d, %d, %v; want %q, %d, %d, %v", c.in, topic, partition, offset, ok, c.topic, c.partition, c.offset, c.ok)
		}
	}
}

// FuzzParseOrigin holds: what is read is written back to the same text, what is not read says nothing, and
// each origin that Weir writes is read.
func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{"canonical.customer/3/42", "a/0/0", "a//1", "a/00/1", "x/2147483648/1", "x/1/9223372036854775808", "///", "ü/1/1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		topic, partition, offset, ok := ParseOrigin(s)
		if !ok {
			if topic != "" || partition != 0 || offset != 0 {
				t.Fatalf("ParseOrigin(%q) is not ok and says %q, %d, %d", s, topic, partition, offset)
			}
			return
		}
		if partition < 0 || offset < 0 {
			t.Fatalf("ParseOrigin(%q) = %q, %d, %d: negative", s, topic, partition, offset)
		}
		if got := (Position{Partition: Partition{Topic: topic, Index: partition}, Offset: offset}).Origin(); got != s {
			t.Fatalf("ParseOrigin(%q) is written back as %q", s, got)
		}
	})
}
