package loopkv

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// A connection carries one request at a time: a frame (length u32, body) each way, and more of them where
// a request is a conversation. Both ends are of one build, so there are no versions.
const (
	opStamps byte = iota + 1
	opGet
	opMultiGet
	opScan // answered by frames of pairs, after each of which the client says whether it wants the next
	opCommit
	opView // requests opGet and opScan are the view's until opEnd, which isn't answered
	opEnd
)

// What the frames of a scan consist of: pairs, and at the end of each whether there is more.
const (
	scanEnd byte = iota // with the error of the scan
	scanPair
	scanMore
)

const (
	maxFrame  = 64 << 20
	scanBytes = 64 << 10 // of pairs a frame, more or less
	maxBatch  = 16 << 20 // of transactions a request, more or less
)

var errFrame = errors.New("loopkv: malformed frame")

type frames struct {
	net.Conn
	r    *bufio.Reader
	in   []byte
	pos  int
	out  []byte // begins with room for the length
	fail error  // of reading fields
}

func newFrames(c net.Conn) *frames {
	return &frames{Conn: c, r: bufio.NewReaderSize(c, 32<<10), out: make([]byte, 4, 4<<10)}
}

// send writes what was gathered as a frame.
func (f *frames) send() error {
	binary.BigEndian.PutUint32(f.out, uint32(len(f.out)-4))
	_, err := f.Write(f.out)
	f.out = f.out[:4]
	return err
}

// receive reads a frame. What the one before held is no longer valid.
func (f *frames) receive() error {
	var n [4]byte
	if _, err := io.ReadFull(f.r, n[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > maxFrame {
		return fmt.Errorf("%w: %d bytes", errFrame, size)
	}
	if uint32(cap(f.in)) < size {
		f.in = make([]byte, size)
	}
	f.in, f.pos, f.fail = f.in[:size], 0, nil
	_, err := io.ReadFull(f.r, f.in)
	return err
}

func (f *frames) putByte(b byte)   { f.out = append(f.out, b) }
func (f *frames) putUint(v uint64) { f.out = binary.AppendUvarint(f.out, v) }
func (f *frames) putBytes(b []byte) {
	f.putUint(uint64(len(b)))
	f.out = append(f.out, b...)
}

// putValue tells nil from empty.
func (f *frames) putValue(b []byte) {
	f.putBool(b != nil)
	if b != nil {
		f.putBytes(b)
	}
}

func (f *frames) putBool(b bool) {
	if b {
		f.putByte(1)
	} else {
		f.putByte(0)
	}
}

func (f *frames) bool() bool { return f.byte() != 0 }

func (f *frames) byte() byte {
	if f.pos >= len(f.in) {
		f.fail = errFrame
		return 0
	}
	f.pos++
	return f.in[f.pos-1]
}

func (f *frames) uint() uint64 {
	v, n := binary.Uvarint(f.in[f.pos:])
	if n <= 0 {
		f.fail = errFrame
		return 0
	}
	f.pos += n
	return v
}

// bytes returns a field, which is valid until the next frame.
func (f *frames) bytes() []byte {
	n := f.uint()
	if n > uint64(len(f.in)-f.pos) {
		f.fail = errFrame
		return nil
	}
	f.pos += int(n)
	return f.in[f.pos-int(n) : f.pos : f.pos]
}

func (f *frames) value() []byte {
	if !f.bool() {
		return nil
	}
	return f.bytes()
}

// ended returns an error if what was read isn't the whole frame.
func (f *frames) ended() error {
	if f.fail == nil && f.pos != len(f.in) {
		f.fail = errFrame
	}
	return f.fail
}

// Errors cross as a number and a text.
var errorNumbers = []error{kv.ErrConflict, kv.ErrUndetermined, kv.ErrFull, kv.ErrTooLarge, kv.ErrInvalid, kv.ErrUnavailable, kv.ErrClosed}

func (f *frames) putError(err error) {
	if err == nil {
		f.putByte(0)
		return
	}
	number := byte(len(errorNumbers) + 1) // some other
	for i, e := range errorNumbers {
		if errors.Is(err, e) {
			number = byte(i + 1)
			break
		}
	}
	f.putByte(number)
	f.putBytes([]byte(err.Error()))
}

func (f *frames) error() error {
	number := f.byte()
	if number == 0 {
		return nil
	}
	text := string(f.bytes())
	if int(number) > len(errorNumbers) {
		return errors.New(text)
	}
	return served{text, errorNumbers[number-1]}
}

// served is an error of the store behind the server.
type served struct {
	text string
	is   error
}

func (e served) Error() string { return e.text }
func (e served) Unwrap() error { return e.is }

func (f *frames) putSpan(s kv.Span) {
	f.putValue(s.Start)
	f.putValue(s.End)
	f.putBool(s.Reverse)
	f.putUint(uint64(s.Limit))
}

func (f *frames) span() kv.Span {
	return kv.Span{Start: f.value(), End: f.value(), Reverse: f.bool(), Limit: int(f.uint())}
}

func (f *frames) putTx(tx *kv.Tx) {
	f.putBool(tx.Frees)
	f.putUint(uint64(len(tx.Ops())))
	for i := range tx.Ops() {
		op := &tx.Ops()[i]
		f.putByte(byte(op.Kind))
		f.putBool(op.Absent)
		f.putBytes(op.Key)
		f.putBytes(op.Value)
	}
}

func (f *frames) tx(tx *kv.Tx) {
	tx.Frees = f.bool()
	for n := f.uint(); n > 0 && f.fail == nil; n-- {
		kind, absent, key, value := kv.OpKind(f.byte()), f.bool(), f.bytes(), f.bytes()
		switch {
		case f.fail != nil:
		case kind == kv.OpRequire && absent:
			tx.Require(key, nil)
		case kind == kv.OpRequire:
			tx.Require(key, value)
		case kind == kv.OpSet:
			tx.Set(key, value)
		case kind == kv.OpDelete:
			tx.Delete(key)
		case kind == kv.OpStamped:
			tx.SetStamped(key, value)
		default:
			f.fail = errFrame
		}
	}
}
