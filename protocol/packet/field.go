package packet

import "encoding/binary"

// Protobuf wire types.
const (
	wtVarint  = 0
	wtFixed64 = 1
	wtBytes   = 2
	wtFixed32 = 5
)

// field is one field of a protobuf message as it stands on the wire.
type field struct {
	num  uint32
	wt   uint8
	val  uint64 // wtVarint, wtFixed64, wtFixed32
	data []byte // wtBytes; aliases the input
}

// next reads the field that b begins with; n is its length in b, 0 if it is malformed.
func next(b []byte) (f field, n int) {
	n = f.read(b, 0)
	return f, n
}

// read reads the field at b[i:] and returns where the next one begins, 0 if it is
// malformed (groups count as malformed: proto3 has none). It never reads past b and never allocates.
func (f *field) read(b []byte, i int) int {
	tag, n := uvarint(b[i:])
	if n == 0 || tag>>3 == 0 || tag > 1<<32-1 {
		return 0
	}
	i += n
	f.num, f.wt = uint32(tag>>3), uint8(tag&7)
	switch f.wt {
	case wtVarint:
		f.val, n = uvarint(b[i:])
		f.data = nil
		if n == 0 {
			return 0
		}
		return i + n
	case wtBytes:
		l, n := uvarint(b[i:])
		i += n
		if n == 0 || l > uint64(len(b)-i) {
			return 0
		}
		end := i + int(l)
		f.val, f.data = 0, b[i:end:end]
		return end
	case wtFixed64:
		if len(b)-i < 8 {
			return 0
		}
		f.val, f.data = binary.LittleEndian.Uint64(b[i:]), nil
		return i + 8
	case wtFixed32:
		if len(b)-i < 4 {
			return 0
		}
		f.val, f.data = uint64(binary.LittleEndian.Uint32(b[i:])), nil
		return i + 4
	}
	return 0
}

// uvarint reads a varint of at most 10 bytes; n is 0 if b ends within it or it passes 64 bits.
func uvarint(b []byte) (v uint64, n int) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), 1
	}
	return uvarintSlow(b)
}

func uvarintSlow(b []byte) (v uint64, n int) {
	for i, c := range b {
		if i == 9 && c > 1 {
			return 0, 0
		}
		v |= uint64(c&0x7F) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
		if i == 9 {
			return 0, 0
		}
	}
	return 0, 0
}

func uvarintLen(v uint64) int {
	n := 1
	for v >= 0x80 {
		v >>= 7
		n++
	}
	return n
}

// appendBytes appends a length-delimited field of a one-byte tag.
func appendBytes(dst []byte, num uint32, data string) []byte {
	dst = append(dst, byte(num<<3|wtBytes))
	dst = binary.AppendUvarint(dst, uint64(len(data)))
	return append(dst, data...)
}

// bytesLen is the length of what appendBytes writes for n bytes of data.
func bytesLen(n int) int { return 1 + uvarintLen(uint64(n)) + n }

// appendVarint appends a varint field of a one-byte tag; zero is left out.
func appendVarint(dst []byte, num uint32, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return binary.AppendUvarint(append(dst, byte(num<<3|wtVarint)), v)
}

// varintLen is the length of what appendVarint writes.
func varintLen(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + uvarintLen(v)
}
