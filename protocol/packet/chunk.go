package packet

import (
	"encoding/binary"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
)

// MaxChunk is how many bytes of text a Chunk carries at most, within the limit of a signal's data.
const MaxChunk = 4000

// Chunk is the data of a signal of kind SignalChunk: a piece of a message that is still
// being written.
type Chunk struct {
	Draft  uint64 // the sender's number of the draft
	Offset uint64 // in bytes, of Text within the draft
	Text   string
}

// AppendChunk appends c's bytes to dst.
func AppendChunk(dst []byte, c Chunk) []byte {
	dst = binary.AppendUvarint(dst, c.Draft)
	dst = binary.AppendUvarint(dst, c.Offset)
	return append(dst, c.Text...)
}

// DecodeChunk reads the data of a signal of kind SignalChunk.
func DecodeChunk(data []byte) (Chunk, error) {
	var c Chunk
	for _, v := range []*uint64{&c.Draft, &c.Offset} {
		n := 0
		if *v, n = binary.Uvarint(data); n <= 0 {
			return Chunk{}, code.Newf(code.BadRequest, "a chunk without draft and offset")
		}
		data = data[n:]
	}
	if !utf8.Valid(data) {
		return Chunk{}, code.New(code.InvalidUTF8)
	}
	c.Text = string(data)
	return c, nil
}
