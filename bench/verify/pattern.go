// Package verify keeps the books of a load run, in memory that doesn't grow with the
// number of messages, and compares them at the end with what the server stored.
package verify

import (
	"encoding/binary"

	"github.com/gochat-im/gochat/protocol/id"
)

// Each message is numbered, from 1, by its pair; its body and its client id follow
// from the numbers, so that whoever receives it can tell whether it is the one that
// was sent, byte for byte, without having kept it.

// next is the generator of the body's bytes: splitmix64's step.
func next(x uint64) (state, out uint64) {
	x += 0x9E3779B97F4A7C15
	z := (x ^ x>>30) * 0xBF58476D1CE4E5B9
	return x, z ^ z>>27
}

func seed(pair int, number uint64) uint64 { return uint64(pair)<<40 ^ number }

// letters turns eight bytes into eight of 'a' to 'p'.
func letters(z uint64) uint64 { return z&0x0F0F0F0F0F0F0F0F + 0x6161616161616161 }

// FillBody writes the body of a pair's message over dst.
func FillBody(dst []byte, pair int, number uint64) {
	x, z := seed(pair, number), uint64(0)
	for ; len(dst) >= 8; dst = dst[8:] {
		x, z = next(x)
		binary.LittleEndian.PutUint64(dst, letters(z))
	}
	_, z = next(x)
	for i := range dst {
		dst[i] = byte(letters(z) >> (8 * i))
	}
}

// SameBody reports whether b is what FillBody writes.
func SameBody(b []byte, pair int, number uint64) bool {
	x, z := seed(pair, number), uint64(0)
	for ; len(b) >= 8; b = b[8:] {
		x, z = next(x)
		if binary.LittleEndian.Uint64(b) != letters(z) {
			return false
		}
	}
	_, z = next(x)
	for i := range b {
		if b[i] != byte(letters(z)>>(8*i)) {
			return false
		}
	}
	return true
}

// Limits of what a client id can carry.
const (
	MaxPairs  = 1 << 22
	maxNumber = 1<<40 - 1
	maxSalt   = 1<<12 - 1
)

// PutID writes the client id of a pair's message over dst: a UUIDv7 of the
// millisecond whose random part says which run (salt, 12 bits), pair and number it is.
func PutID(dst *[16]byte, ms int64, salt uint16, pair int, number uint64) {
	binary.BigEndian.PutUint64(dst[:], uint64(ms)<<16|0x7000|uint64(salt&maxSalt))
	binary.BigEndian.PutUint64(dst[8:], 1<<63|uint64(pair&(MaxPairs-1))<<40|number&maxNumber)
}

// ReadID tells which message of the run the client id is of; ok is false if it is of another run or pair.
func ReadID(c id.ClientMsgID, salt uint16, pair int) (number uint64, ok bool) {
	hi, lo := binary.BigEndian.Uint64(c[:8]), binary.BigEndian.Uint64(c[8:])
	number = lo & maxNumber
	ok = hi&0xFFFF == 0x7000|uint64(salt&maxSalt) && lo>>40 == 1<<23|uint64(pair&(MaxPairs-1))
	return number, ok && number > 0
}
