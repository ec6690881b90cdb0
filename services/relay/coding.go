package relay

import (
	"encoding/binary"

	"github.com/gochat-im/gochat/protocol/id"
)

// All numbers are varints but connections, which are 8 bytes, big-endian; strings and frames have their length before them.

func appendConn(dst []byte, conn uint64) []byte { return binary.BigEndian.AppendUint64(dst, conn) }

func appendString[S ~string | ~[]byte](dst []byte, s S) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendUsers(dst []byte, users []id.UserID) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(users)))
	for _, u := range users {
		dst = appendString(dst, u)
	}
	return dst
}

// reader takes things off bytes that came from another node. After the first that can't be
// read err is set, and everything is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	if r.err == nil {
		r.err = errShort
	}
	r.b = nil
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	c := r.b[0]
	r.b = r.b[1:]
	return c
}

func (r *reader) number() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

// count is a number of things that take at least size bytes each.
func (r *reader) count(size int) int {
	n := r.number()
	if n > uint64(len(r.b)/size) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) conn() uint64 {
	if len(r.b) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.b)
	r.b = r.b[8:]
	return v
}

// bytes returns a part of what is read.
func (r *reader) bytes() []byte {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	b := r.b[:n:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) conversation() (c id.ConversationID) {
	if len(r.b) < len(c) {
		r.fail()
		return c
	}
	copy(c[:], r.b)
	r.b = r.b[len(c):]
	return c
}

func (r *reader) users() []id.UserID {
	n := r.count(1)
	users := make([]id.UserID, 0, n)
	for range n {
		users = append(users, id.UserID(r.string()))
	}
	return users
}
