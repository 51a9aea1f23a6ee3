package kafka

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// MetadataMax is the largest commit metadata in bytes: Kafka's offset.metadata.max.bytes. A larger one is refused
// by a broker (and not by the fake one of our tests).
const MetadataMax = 4096

// metadataPrefix marks metadata as ours and names its version.
const metadataPrefix = "weir1:"

// ErrForeign says that a commit's metadata was not written by Weir.
var ErrForeign = errors.New("not metadata of weir")

// EncodeMetadata is the metadata of a commit: which store knows the outcomes below the mark. It is
// "weir1:<mark>:<store id>". A store id that would make it longer than MetadataMax is cut: such an id then matches no
// store, which is the safe reading (the store is taken for another one).
func EncodeMetadata(storeID string, mark int64) string {
	s := metadataPrefix + strconv.FormatInt(mark, 10) + ":" + storeID
	if len(s) > MetadataMax {
		s = s[:MetadataMax]
	}
	return s
}

// ParseMetadata reads a commit's metadata. ErrForeign if it does not begin as ours does; any other error means that
// it does, and is broken: nobody but Weir writes the prefix, so it still counts as ours (see Decide).
func ParseMetadata(s string) (storeID string, mark int64, err error) {
	rest, ours := strings.CutPrefix(s, metadataPrefix)
	if !ours {
		return "", 0, ErrForeign
	}
	if len(s) > MetadataMax {
		return "", 0, fmt.Errorf("commit metadata of %d bytes, more than %d", len(s), MetadataMax)
	}
	num, storeID, found := strings.Cut(rest, ":")
	if !found || storeID == "" {
		return "", 0, errors.New("commit metadata without a store id")
	}
	mark, err = strconv.ParseInt(num, 10, 64)
	if err != nil || mark < 0 || strconv.FormatInt(mark, 10) != num {
		return "", 0, errors.New("commit metadata without a mark")
	}
	return storeID, mark, nil
}
