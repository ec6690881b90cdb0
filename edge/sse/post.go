package sse

import (
	"bytes"
	"context"
	"encoding/json"
	"runtime/debug"
	"time"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// Body is the body of one POST.
type Body struct {
	Host, Origin string
	Seq          uint64 // the client numbers its bodies from 1 on
	Type         string // media type, in lower case
	Bytes        []byte // overwritten, and not kept
}

// mediaType is that of the stream's bodies.
func (t *Stream) mediaType() string {
	if t.json {
		return "application/json"
	}
	return "application/octet-stream"
}

const (
	maxWaiting = 4 // bodies of one stream at once: the one that is acted on, and those behind it

	// handshakeText is how large a body of JSON may be before the login.
	handshakeText = 2 * frame.HandshakeMax
	// headBytes is what a request counts beside its body.
	headBytes = 256
)

// post takes a body whose turn it is, acts on it and returns; or says why not. One that was taken
// before is taken again, without effect.
func (t *Stream) post(ctx context.Context, p *Body) (status int, err *code.Error) {
	if p.Type != t.mediaType() {
		return 415, code.Newf(code.BadRequest, "the body must be %s", t.mediaType())
	}
	defer t.waiting.Add(-1)
	if t.waiting.Add(1) > maxWaiting {
		e := code.Newf(code.RateLimited, "%d bodies of this stream are under way", maxWaiting)
		e.RetryAfter = time.Second
		return 0, e
	}
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, code.Wrap(code.Unavailable, ctx.Err())
	}
	defer func() { <-t.turn }()
	if !t.enter() {
		return 410, gone()
	}
	defer t.leave()
	t.c.Overhead(headBytes, true, false)
	switch {
	case p.Seq <= t.seq:
		t.c.Overhead(len(p.Bytes), false, false)
		return 0, nil
	case p.Seq != t.seq+1:
		t.c.Overhead(len(p.Bytes), false, false)
		return 409, code.Newf(code.BadRequest, "this is body %d, and the next one must be %d", p.Seq, t.seq+1)
	}
	t.seq = p.Seq
	t.input(p.Bytes)
	return 0, nil
}

// enter begins a call of Input, unless there must be none any more.
func (t *Stream) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.busy = t.open && !t.closed && !t.ended
	return t.busy
}

// leave ends it, and tells the Conn of an end that came meanwhile.
func (t *Stream) leave() {
	t.mu.Lock()
	t.busy = false
	ended := t.ended
	t.mu.Unlock()
	if ended {
		t.c.Closed()
	}
}

// input acts on a body. A panic ends this connection only.
func (t *Stream) input(b []byte) {
	defer func() {
		if v := recover(); v != nil {
			t.c.Panicked(v, debug.Stack())
		}
	}()
	if !t.json {
		t.c.Input(b)
		return
	}
	if !t.c.LoggedIn() && len(b) > handshakeText {
		t.c.Close(code.Newf(code.FrameTooLarge, "the body is larger than allowed before CONNACK"))
		return
	}
	if !utf8.Valid(b) {
		t.c.Close(code.Newf(code.InvalidUTF8, "the body isn't valid UTF-8"))
		return
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 || b[0] != '[' {
		if !t.c.InputJSON(b) {
			t.noPacket()
		}
		return
	}
	// One after the other: an array of nothing much costs no more than its text.
	d := json.NewDecoder(bytes.NewReader(b))
	_, _ = d.Token() // the bracket
	for d.More() {
		var text json.RawMessage
		if d.Decode(&text) != nil || !t.c.InputJSON(text) {
			t.noPacket()
			return
		}
	}
	if _, err := d.Token(); err != nil || len(bytes.TrimSpace(b[d.InputOffset():])) > 0 {
		t.noPacket()
	}
}

func (t *Stream) noPacket() {
	t.c.Close(code.Newf(code.BadFrame, "the body is neither a JSON object nor an array of such"))
}
