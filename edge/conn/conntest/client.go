package conntest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Wire is a connection as a client has it: a net.Conn, or the other side of a Pipe.
type Wire interface {
	io.ReadWriter
	SetReadDeadline(t time.Time) error
}

// Client is a scripted client.
type Client struct {
	W   Wire
	buf []byte
	tmp [32 << 10]byte
}

// Write sends bytes as they are.
func (c *Client) Write(b []byte) error {
	_, err := c.W.Write(b)
	return err
}

// Connect returns a CONNECT frame.
func Connect(user, device string) []byte {
	return ConnectFrame(&wire.Connect{Version: 1, Token: "user:" + user, DeviceId: device, DeviceKind: wire.DeviceKind_DEVICE_KIND_PHONE})
}

// ConnectFrame returns a CONNECT frame around m.
func ConnectFrame(m *wire.Connect) []byte { return Frame(frame.Connect, 0, 0, m) }

// Frame returns a frame around a message.
func Frame(t frame.Type, flags frame.Flags, reqID uint32, m packet.Body) []byte {
	b, err := packet.AppendBody(nil, t, flags, reqID, m)
	if err != nil {
		panic(err) // plain data always marshals
	}
	return b
}

// Send returns a SEND of text number n to a user.
func Send(reqID uint32, flags frame.Flags, to string, n uint64, text string) []byte {
	mid := MsgID(n)
	return Frame(frame.Send, flags|frame.FlagRequestID, reqID, &wire.Send{ToUserId: to, ClientMsgId: mid[:], MsgType: 1, Content: text})
}

// Request returns a REQUEST frame.
func Request(reqID uint32, m packet.Method, body packet.Body) []byte {
	b, err := packet.AppendRequest(nil, reqID, m, body)
	if err != nil {
		panic(err)
	}
	return b
}

// Next reads the next frame; io.EOF at the end of the connection. The body is the client's until the next call.
func (c *Client) Next(wait time.Duration) (frame.Frame, error) {
	_ = c.W.SetReadDeadline(time.Now().Add(wait))
	for {
		f, n, err := frame.Parse(c.buf, frame.HardMax)
		if err != nil {
			return f, err
		}
		if n > 0 {
			f.Body = append([]byte(nil), f.Body...)
			c.buf = c.buf[n:]
			return f, nil
		}
		k, err := c.W.Read(c.tmp[:])
		c.buf = append(c.buf, c.tmp[:k]...)
		if err != nil && k == 0 {
			return frame.Frame{}, err
		}
	}
}

// Login connects and returns the CONNACK.
func (c *Client) Login(user, device string) (*wire.Connack, error) {
	if err := c.Write(Connect(user, device)); err != nil {
		return nil, err
	}
	f, err := c.Next(time.Minute)
	if err != nil {
		return nil, err
	}
	if f.Type != frame.Connack {
		return nil, fmt.Errorf("want a CONNACK, got %s", Describe(&f))
	}
	m, cerr := packet.DecodeConnack(f.Body)
	if cerr != nil {
		return nil, cerr
	}
	return m, nil
}

// Describe writes a frame as a line of a transcript.
func Describe(f *frame.Frame) string {
	var b strings.Builder
	b.WriteString(strings.ToUpper(f.Type.String()))
	if f.HasReqID() {
		fmt.Fprintf(&b, " #%d", f.ReqID)
	}
	switch f.Type {
	case frame.Error:
		e, conv, err := packet.DecodeError(f.Body)
		if err != nil {
			return b.String() + " " + err.Error()
		}
		fmt.Fprintf(&b, " %s", e.Code)
		if !conv.IsZero() {
			b.WriteString(" lane")
		}
	case frame.Kick:
		e, err := packet.DecodeKick(f.Body)
		if err != nil {
			return b.String() + " " + err.Error()
		}
		fmt.Fprintf(&b, " %s", e.Code)
	case frame.SendAck:
		a, err := packet.DecodeSendAck(f.Body)
		if err != nil {
			return b.String() + " " + err.Error()
		}
		fmt.Fprintf(&b, " seq %d", a.Seq)
	case frame.Deliver, frame.Synced:
		var p packet.Page
		if f.Type == frame.Deliver {
			_, _, msgs, err := packet.DecodeDeliver(f.Body)
			if err != nil {
				return b.String() + " " + err.Error()
			}
			p.Messages = msgs
		} else {
			page, refused, err := packet.DecodeSynced(f.Body)
			if err != nil {
				return b.String() + " " + err.Error()
			}
			p = page
			fmt.Fprintf(&b, " %d..%d of %d..%d", p.FromSeq, p.ToSeq, p.FirstSeq, p.LastSeq)
			if refused != nil {
				fmt.Fprintf(&b, " %s", refused.Code)
			}
			if f.Flags&frame.FlagMore != 0 {
				b.WriteString(" more")
			}
		}
		describeMessages(&b, p.Messages)
	case frame.Response:
		m, inner, err := packet.DecodeResponse(f.Body)
		if err != nil {
			return b.String() + " " + err.Error()
		}
		fmt.Fprintf(&b, " %d bytes", len(inner))
		_ = m
	case frame.Hint:
		h, err := packet.DecodeHint(f.Body)
		if err != nil {
			return b.String() + " " + err.Error()
		}
		if h.All {
			b.WriteString(" all")
		}
		for _, x := range h.Heads {
			fmt.Fprintf(&b, " head %d", x.Seq)
		}
	}
	return b.String()
}

func describeMessages(b *strings.Builder, msgs []byte) {
	for len(msgs) > 0 {
		v, rest, err := packet.NextMessage(msgs)
		if err != nil {
			b.WriteString(" " + err.Error())
			return
		}
		fmt.Fprintf(b, " [%d %s: %.20s]", v.Seq, v.Sender, v.Content)
		msgs = rest
	}
}

// ErrCode returns the code that a frame tells, 0 if it tells none.
func ErrCode(f *frame.Frame) code.Code {
	switch f.Type {
	case frame.Error:
		if e, _, err := packet.DecodeError(f.Body); err == nil {
			return e.Code
		}
	case frame.Kick:
		if e, err := packet.DecodeKick(f.Body); err == nil {
			return e.Code
		}
	}
	return 0
}

// Drain reads until the end of the connection and returns the frames before it.
func (c *Client) Drain(wait time.Duration) ([]frame.Frame, error) {
	var fs []frame.Frame
	for {
		f, err := c.Next(wait)
		if errors.Is(err, io.EOF) {
			return fs, nil
		}
		if err != nil {
			return fs, err
		}
		fs = append(fs, f)
	}
}

// Direct is the conversation of two users.
func Direct(a, b string) id.ConversationID { return id.Direct(id.UserID(a), id.UserID(b)) }
