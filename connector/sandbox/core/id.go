package core

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// mix is the finaliser of splitmix64: a bijection, so distinct inputs give distinct outputs.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// appendID appends length base62 digits that are unique per n for one seed (length >= 11: 64 bits).
func appendID(b []byte, seed, n uint64, length int) []byte {
	lo, hi := mix(seed^mix(n)), mix(^seed+n)
	for i := range length {
		if i == 11 {
			lo = hi
		}
		b = append(b, base62[lo%62])
		lo /= 62
	}
	return b
}

// AppendCursor makes an opaque page cursor: the number of rows of a list that are still to come.
func AppendCursor(kind string, rows int) string {
	return base64.RawURLEncoding.EncodeToString([]byte("v1." + kind + "." + strconv.Itoa(rows)))
}

// ErrCursor says that a page cursor cannot be read or belongs to another list.
var ErrCursor = errors.New("the cursor is not one that this list gave out")

// ParseCursor reads a cursor of the list kind that holds total rows now. Only the text that AppendCursor makes is a
// cursor: base64 alone would read others as the same one, since its decoder passes over line ends.
func ParseCursor(kind, cursor string, total int) (rows int, err error) {
	b, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return 0, ErrCursor
	}
	digits, ok := strings.CutPrefix(string(b), "v1."+kind+".")
	if !ok {
		return 0, ErrCursor
	}
	rows, err = strconv.Atoi(digits)
	if err != nil || rows < 0 || rows > total || AppendCursor(kind, rows) != cursor {
		return 0, ErrCursor
	}
	return rows, nil
}
