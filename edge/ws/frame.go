package ws

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
)

// The opcodes of RFC 6455.
const (
	opContinue byte = 0
	opText     byte = 1
	opBinary   byte = 2
	opClose    byte = 8
	opPing     byte = 9
	opPong     byte = 10
)

// The close codes of RFC 6455 that are sent here.
const (
	closeNormal      = 1000
	closeProtocol    = 1002
	closeUnsupported = 1003
	closeNoStatus    = 1005 // never sent
	closeUTF8        = 1007
	closeTooBig      = 1009
)

const (
	maxHead    = 14  // of a client's frame: 2, 8 of length, 4 of mask
	maxControl = 125 // bytes in a ping, pong or close
)

// failure is why a WebSocket can't go on.
type failure struct {
	status int // close code; 0: the registered one of err
	err    *code.Error
	lost   bool // where the next frame begins isn't known
}

func broken(why string) *failure {
	return &failure{closeProtocol, code.Newf(code.BadFrame, "WebSocket: %s", why), true}
}

// Failures of what a client sends, made once: a hostile stream costs no memory.
var (
	errReserved    = broken("a reserved bit is set, and no extension was negotiated")
	errOpcode      = broken("an opcode that isn't assigned")
	errUnmasked    = broken("a client's frame must be masked")
	errLength      = broken("a length that isn't in its shortest form")
	errFragmented  = broken("a control frame in fragments")
	errLongControl = broken("a control frame of more than 125 bytes")
	errNoBeginning = broken("a continuation of nothing")
	errNoEnd       = broken("a message within another")
	errClose       = broken("a malformed close frame")
	errTooBig      = &failure{closeTooBig, code.Newf(code.FrameTooLarge, "the message is larger than allowed"), true}
	errUTF8        = &failure{closeUTF8, code.Newf(code.InvalidUTF8, "the text isn't valid UTF-8"), false}
	errCloseUTF8   = &failure{closeUTF8, code.Newf(code.InvalidUTF8, "the reason of a close frame isn't valid UTF-8"), true}
	errText        = &failure{closeUnsupported, code.Newf(code.BadFrame, "%s takes binary messages", Binary), true}
	errBinary      = &failure{closeUnsupported, code.Newf(code.BadFrame, "%s takes text messages", JSON), true}
	errCut         = &failure{0, code.Newf(code.BadFrame, "a message ends within a frame"), false}
	errNoPacket    = &failure{0, code.Newf(code.BadFrame, "the text is not a JSON object"), false}
)

// head is the header of a client's frame.
type head struct {
	fin  bool
	op   byte
	mask [4]byte
	size int64 // of the payload
}

// parseHead reads the header that b begins with and returns its length, 0 while b holds only
// the beginning of one. What is wrong with it is told as soon as it can be seen.
func parseHead(b []byte) (h head, n int, f *failure) {
	if len(b) < 1 {
		return h, 0, nil
	}
	h.fin, h.op = b[0]&0x80 != 0, b[0]&0x0F
	switch {
	case b[0]&0x70 != 0:
		return h, 0, errReserved
	case h.op > opBinary && h.op < opClose || h.op > opPong:
		return h, 0, errOpcode
	case h.op >= opClose && !h.fin:
		return h, 0, errFragmented
	}
	if len(b) < 2 {
		return h, 0, nil
	}
	if b[1]&0x80 == 0 {
		return h, 0, errUnmasked
	}
	size, n := uint64(b[1]&0x7F), 2
	if h.op >= opClose && size > maxControl {
		return h, 0, errLongControl
	}
	switch size {
	case 126:
		if len(b) < 4 {
			return h, 0, nil
		}
		if size, n = uint64(binary.BigEndian.Uint16(b[2:])), 4; size < 126 {
			return h, 0, errLength
		}
	case 127:
		if len(b) < 10 {
			return h, 0, nil
		}
		if size, n = binary.BigEndian.Uint64(b[2:]), 10; size <= math.MaxUint16 || size > math.MaxInt64 {
			return h, 0, errLength
		}
	}
	h.size = int64(size)
	if len(b) < n+4 {
		return h, 0, nil
	}
	h.mask = [4]byte(b[n:])
	return h, n + 4, nil
}

// unmask applies the mask to b, which is at offset at of the payload.
func unmask(b []byte, mask [4]byte, at int64) {
	var m [8]byte
	for i := range m {
		m[i] = mask[(int(at)+i)&3]
	}
	w := binary.LittleEndian.Uint64(m[:])
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^w)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= m[i]
	}
}

// appendHead appends the header of a server's frame that is a whole message.
func appendHead(dst []byte, op byte, size int) []byte {
	dst = append(dst, 0x80|op)
	switch {
	case size < 126:
		return append(dst, byte(size))
	case size <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(size))
}

// appendControl appends a whole control frame.
func appendControl(dst []byte, op byte, payload []byte) []byte {
	return append(appendHead(dst, op, len(payload)), payload...)
}

// closePayload is what stands in a close frame; reason is cut to what fits.
func closePayload(status int, reason string) []byte {
	for len(reason) > maxControl-2 || !utf8.ValidString(reason) {
		reason = reason[:min(len(reason)-1, maxControl-2)]
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(status)), reason...)
}

// checkClose looks at a client's close frame and returns its code, 1005 if there is none.
func checkClose(payload []byte) (status int, f *failure) {
	if len(payload) == 0 {
		return closeNoStatus, nil
	}
	if len(payload) == 1 {
		return 0, errClose
	}
	status = int(binary.BigEndian.Uint16(payload))
	switch {
	case status < 1000 || status >= 5000, status >= 1004 && status <= 1006, status >= 1015 && status < 3000:
		return 0, errClose
	case !utf8.Valid(payload[2:]):
		return 0, errCloseUTF8
	}
	return status, nil
}
