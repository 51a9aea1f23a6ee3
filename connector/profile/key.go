package profile

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"strconv"
)

var keyEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Key is an idempotency key: the lower-case unpadded base32 of the SHA-256 over connector uid, route, step, intent
// and generation (design section 6). Each is a UTF-8 string with its length before it, 8 bytes big-endian, so that no
// two lists of strings run together; the generation is written in decimal. 52 characters. These bytes must never
// change: a request that was sent before an upgrade is repeated after it.
func Key(uid, route, step, intent string, generation uint32) string {
	b := make([]byte, 0, 256)
	var gen [10]byte
	for _, s := range [...]string{uid, route, step, intent, string(strconv.AppendUint(gen[:0], uint64(generation), 10))} {
		b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
		b = append(b, s...)
	}
	sum := sha256.Sum256(b)
	var text [(8*sha256.Size + 4) / 5]byte
	keyEncoding.Encode(text[:], sum[:])
	return string(text[:])
}
