package load

import (
	"bytes"
	"encoding/binary"
)

// delivery is what one DELIVER of the group says. All members get the same bytes, so each
// frame is read and checked once, and then compared.
type delivery struct {
	body        []byte
	first, last uint64 // seqs; without a hole
	at          int64  // when the first one was sent
}

// frames holds the deliveries seen lately.
type frames [256]delivery

// slot is where a DELIVER's body may be found: by the bytes in which its first seq lies.
func (f *frames) slot(body []byte) *delivery {
	const seqAt = 20 // behind the conversation's 18 bytes, the first message's tag and a byte of its length
	if len(body) < seqAt+8 {
		return &f[0]
	}
	return &f[binary.LittleEndian.Uint64(body[seqAt:])*0x9E3779B97F4A7C15>>56]
}

// is reports whether d was read from the same bytes.
func (d *delivery) is(body []byte) bool { return d.last != 0 && bytes.Equal(d.body, body) }
