package harness

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const described = `
Consumer group 'g' has no active members.

GROUP           TOPIC           PARTITION  CURRENT-OFFSET  LOG-END-OFFSET  LAG             CONSUMER-ID     HOST            CLIENT-ID
weir.a          t               1          -               12              -               -               -               -
weir.a          t               0          7               10              3               kgo-1           /127.0.0.1      kgo
`

func TestParseGroup(t *testing.T) {
	got, err := parseGroup(described)
	want := []GroupRow{
		{Group: "weir.a", Topic: "t", Partition: 1, Current: -1, End: 12, Lag: -1},
		{Group: "weir.a", Topic: "t", Partition: 0, Current: 7, End: 10, Lag: 3, Consumer: "kgo-1", Client: "kgo"},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parseGroup: %+v, %v\nwant %+v", got, err, want)
	}
	for _, bad := range []string{
		"GROUP TOPIC PARTITION\ng t 0\n",
		"GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG\ng t 0 x 1 1\n",
		"GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG\ng t 4294967296 1 1 1\n",
		"GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG\ng t 0\n",
	} {
		if got, err := parseGroup(bad); err == nil {
			t.Errorf("parseGroup(%q): %+v, want an error", bad, got)
		}
	}
}

func TestParseOffsets(t *testing.T) {
	got, err := parseOffsets("t:0:5\nt:1:0\n\n")
	if want := map[int32]int64{0: 5, 1: 0}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("parseOffsets: %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"t:0", "t:x:1", "t:0:x", "t:4294967296:1"} {
		if got, err := parseOffsets(bad); err == nil {
			t.Errorf("parseOffsets(%q): %v, want an error", bad, got)
		}
	}
}

func TestToolsThatPrintAnErrorHaveFailed(t *testing.T) {
	for out, want := range map[string]bool{
		"\nError: Executing consumer group command failed due to x\n":                  true,
		"Error while executing topic command : Topic 'a' already exists.\n":            true,
		"TOPIC PARTITION STATUS\na               -          Error: TimeoutException\n": true,
		described:               false,
		"Created topic Error\n": false,
	} {
		if got := failed(out); got != want {
			t.Errorf("failed(%q) = %t, want %t", out, got, want)
		}
	}
}

// FuzzParseGroup: any text gives rows or an error, never both and never a panic; there are no rows without a header
// line, and not more rows than lines after it.
func FuzzParseGroup(f *testing.F) {
	f.Add(described)
	f.Add("GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG\ng t 0 1 2 1\n")
	f.Add("GROUP GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG\na b t 0 1 2 1\n")
	f.Fuzz(func(t *testing.T, s string) {
		rows, err := parseGroup(s)
		if err != nil && rows != nil {
			t.Errorf("rows beside an error: %+v, %v", rows, err)
		}
		if i := strings.Index(s, "GROUP"); len(rows) > 0 && (i < 0 || len(rows) > strings.Count(s[i:], "\n")) {
			t.Errorf("%d rows from %q", len(rows), s)
		}
	})
}

// FuzzParseOffsets: any text gives offsets or an error, and offsets written back are read the same.
func FuzzParseOffsets(f *testing.F) {
	f.Add("t:0:5\nt:1:0\n")
	f.Fuzz(func(t *testing.T, s string) {
		offs, err := parseOffsets(s)
		if err != nil {
			return
		}
		var out strings.Builder
		for p, off := range offs {
			fmt.Fprintf(&out, "t:%d:%d\n", p, off)
		}
		again, err := parseOffsets(out.String())
		if err != nil || !reflect.DeepEqual(again, offs) {
			t.Errorf("read back %v, %v, want %v", again, err, offs)
		}
	})
}
