package checkpoint

import (
	"strconv"
	"strings"
)

// Origin is topic/partition/offset, the form of header weir_origin.
func (p Position) Origin() string {
	return p.Partition.String() + "/" + strconv.FormatInt(p.Offset, 10)
}

// ParseOrigin reads topic/partition/offset. A topic name holds 1 to 249 letters, digits, dots, underscores and
// hyphens, as Kafka has it, so an id that happens to hold slashes is rarely taken for an origin. It never allocates.
func ParseOrigin(s string) (topic string, partition int32, offset int64, ok bool) {
	rest, off, found := cutLast(s)
	if !found {
		return "", 0, 0, false
	}
	topic, part, found := cutLast(rest)
	if !found || len(topic) == 0 || len(topic) > 249 || topic == "." || topic == ".." {
		return "", 0, 0, false
	}
	for i := range len(topic) {
		c := topic[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '-') {
			return "", 0, 0, false
		}
	}
	p, ok := parseDecimal(part, 1<<31-1)
	if !ok {
		return "", 0, 0, false
	}
	o, ok := parseDecimal(off, 1<<63-1)
	if !ok {
		return "", 0, 0, false
	}
	return topic, int32(p), int64(o), true
}

func cutLast(s string) (before, after string, found bool) {
	i := strings.LastIndexByte(s, '/')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// parseDecimal reads a number as Weir writes it: digits only, no sign, no leading zero.
func parseDecimal(s string, most uint64) (uint64, bool) {
	if len(s) == 0 || len(s) > 19 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	var n uint64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + uint64(s[i]-'0')
	}
	return n, n <= most
}
