package ws

import (
	"bytes"
	"sync"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// reader is what is known of a client's frames between two reads.
type reader struct {
	head    head   // of the frame whose payload is coming
	at      int64  // how much of it has come
	message byte   // opcode of the message whose last frame hasn't come; 0: none
	inside  bool   // a payload is coming
	over    bool   // nothing more is read: the stream is lost, or the client has closed
	failed  bool   // nothing but the client's close frame is read
	size    int64  // of the message so far
	held    []byte // the beginning of a header
	control []byte // of a control frame
	text    []byte // of a text message
}

// readers are for while something is read: an idle WebSocket keeps none.
var readers = sync.Pool{New: func() any { return new(reader) }}

// reading returns what is known of the client's frames.
func (t *Socket) reading() *reader {
	if t.in == nil {
		t.in = readers.Get().(*reader)
	}
	return t.in
}

// pause lets go of the reader if there is nothing to know between two reads.
func (t *Socket) pause() {
	r := t.in
	if r.inside || r.over || r.failed || r.message != 0 || r.held != nil || r.control != nil || r.text != nil {
		return
	}
	t.in = nil
	*r = reader{}
	readers.Put(r)
}

// Input takes what the link has read: it consumes and overwrites b. A WebSocket's end that
// the client asked for, or forced, follows from it.
func (t *Socket) Input(b []byte) {
	r := t.reading()
	for len(b) > 0 && !r.over {
		if !r.inside {
			b = t.header(b)
			continue
		}
		k := int(min(r.head.size-r.at, int64(len(b))))
		part := b[:k]
		b = b[k:]
		unmask(part, r.head.mask, r.at)
		r.at += int64(k)
		t.payload(part, r.at == r.head.size)
	}
	if r.over && len(b) > 0 {
		t.c.Overhead(len(b), false, false) // until it ends
	}
	t.pause()
}

// header takes bytes of a frame's header and returns the rest of b.
func (t *Socket) header(b []byte) []byte {
	r := t.in
	from, before := b, len(r.held)
	if before > 0 {
		r.held = append(r.held, b[:min(len(b), maxHead-before)]...)
		from = r.held
	}
	h, n, f := parseHead(from)
	if f != nil {
		t.fail(f)
		return nil
	}
	if n == 0 {
		if before == 0 {
			r.held = append(make([]byte, 0, maxHead), b...)
		}
		return nil
	}
	r.held = nil
	if f := t.begin(h); f != nil {
		t.fail(f)
		return nil
	}
	control, bytes := h.op >= opClose, n
	if control {
		bytes += int(h.size)
	}
	t.c.Overhead(bytes, control || h.op == opContinue || h.size == 0, h.op == opPing || h.op == opPong)
	if h.size == 0 {
		t.payload(nil, true)
	}
	return b[n-before:]
}

// begin takes a header, or says why it can't be.
func (t *Socket) begin(h head) *failure {
	r := t.in
	switch h.op {
	case opClose, opPing, opPong:
	case opContinue:
		if r.message == 0 {
			return errNoBeginning
		}
		r.size += h.size
	default:
		switch {
		case r.message != 0:
			return errNoEnd
		case t.json && h.op == opBinary:
			return errBinary
		case !t.json && h.op == opText:
			return errText
		}
		r.message, r.size = h.op, h.size
	}
	if h.op < opClose {
		limit := int64(t.s.cfg.MaxMessage)
		if t.json {
			limit = int64(t.s.maxText)
			if !t.c.LoggedIn() {
				limit = handshakeText
			}
		}
		if r.size > limit || r.size < 0 {
			return errTooBig
		}
	}
	r.head, r.at, r.inside = h, 0, true
	return nil
}

// payload takes what has come of a frame; last: that was all of it.
func (t *Socket) payload(p []byte, last bool) {
	r := t.in
	if last {
		r.inside = false
	}
	if r.head.op >= opClose {
		if len(p) > 0 && !(last && r.control == nil) {
			r.control = append(r.control, p...)
			p = r.control
		}
		if last {
			if r.control != nil {
				p = r.control
			}
			r.control = nil
			t.controlled(r.head.op, p)
		}
		return
	}
	end := last && r.head.fin
	if end {
		r.message = 0
	}
	if r.failed {
		t.c.Overhead(len(p), false, false)
		return
	}
	if !t.json {
		if len(p) > 0 {
			t.c.Input(p)
		}
		if end && t.c.Unfinished() {
			t.fail(errCut)
		}
		return
	}
	if !end || len(r.text) > 0 {
		if p = t.keep(p); r.failed {
			return
		}
	}
	if end {
		t.packet(p)
		t.drop()
	}
}

// keep adds p to the text message that is coming and returns all of it, or ends the connection.
func (t *Socket) keep(p []byte) []byte {
	r := t.in
	before := cap(r.text)
	if need := len(r.text) + len(p); need > before {
		// Room for what has come and little more: a size that was only announced costs nothing.
		grown := make([]byte, len(r.text), max(need, min(2*before, int(r.size))))
		if !t.c.Reserve(cap(grown) - before) {
			r.failed = true
			return nil
		}
		copy(grown, r.text)
		r.text = grown
	}
	r.text = append(r.text, p...)
	return r.text
}

// drop gives the text message's memory back.
func (t *Socket) drop() {
	if t.in != nil && cap(t.in.text) > 0 {
		t.c.Reserve(-cap(t.in.text))
		t.in.text = nil
	}
}

// controlled acts on a control frame.
func (t *Socket) controlled(op byte, p []byte) {
	switch op {
	case opPing:
		t.pong(p)
	case opClose:
		status, f := checkClose(p)
		if f != nil {
			t.fail(f)
			return
		}
		t.in.over = true
		t.leave(status)
	}
}

// packet acts on the JSON text of one packet.
func (t *Socket) packet(text []byte) {
	if !utf8.Valid(text) {
		t.fail(errUTF8)
		return
	}
	if !t.c.InputJSON(text) {
		t.fail(errNoPacket)
	}
}

// fail ends the connection for what the client has sent.
func (t *Socket) fail(f *failure) {
	t.in.failed, t.in.over = true, f.lost
	t.drop()
	t.s.malformed.Add(1)
	t.mu.Lock()
	t.status, t.lost = uint16(f.status), f.lost
	t.mu.Unlock()
	t.c.Close(f.err)
}

// appendJSON appends the text messages of one frame.
func appendJSON(dst []byte, f frame.Frame) ([]byte, error) {
	text, err := packet.ToJSON(f)
	if err != nil {
		return dst, err
	}
	for len(text) > 0 {
		line, rest, _ := bytes.Cut(text, []byte{'\n'})
		dst = append(appendHead(dst, opText, len(line)), line...)
		text = rest
	}
	return dst, nil
}
