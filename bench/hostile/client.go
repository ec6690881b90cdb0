package hostile

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// client is one hostile client; it has at most one connection at a time, but see spare.
type client struct {
	*attack
	*tally
	index, n int // of the kind, of the client within it
	turn     int // how often it has begun
	source   netip.Addr

	nc    *net.TCPConn
	buf   []byte // how much is read at once; nil: 64 KiB
	in    []byte
	ended bool // the server has closed, or said that it will
	over  bool // the end is counted
	acks  map[id.ClientMsgID]uint64
	heads map[id.ConversationID]uint64
	ids   []id.ClientMsgID // of SENDs, by request id

	spare []*net.TCPConn
}

// user names the client's own user.
func (c *client) user() string { return fmt.Sprintf("%s%d-%d", c.Users, c.index, c.n) }

// dial connects. small gives the connection the smallest buffer for what it receives.
func (c *client) dial(ctx context.Context, small bool) bool { return c.dialTo(ctx, c.Addr, small) }

func (c *client) dialTo(ctx context.Context, to netip.AddrPort, small bool) bool {
	c.close()
	d := net.Dialer{
		Timeout: patience, KeepAlive: -1,
		Control: func(_, _ string, rc syscall.RawConn) error {
			return rc.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
				if small {
					_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10)
				}
			})
		},
	}
	d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(c.source, 0))
	nc, err := d.DialContext(ctx, "tcp4", to.String())
	if err != nil {
		if ctx.Err() == nil && time.Until(c.until) > 0 { // the dialer may be the first to see the end
			c.fault(fmt.Errorf("connect: %w", err))
			wait(ctx, time.Second)
		}
		return false
	}
	c.nc = nc.(*net.TCPConn)
	_ = c.nc.SetLinger(0) // closing resets: nothing stays in TIME_WAIT
	c.in, c.ended, c.over = c.in[:0], false, false
	c.acks, c.heads, c.ids = nil, nil, c.ids[:0]
	c.count(1, 0, 0)
	return true
}

func (c *client) close() {
	if c.nc != nil {
		_ = c.nc.Close()
		c.nc = nil
	}
	for _, nc := range c.spare {
		_ = nc.Close()
	}
	c.spare = nil
}

// write sends what holds so many frames, or parts of them. When the server has closed
// meanwhile, what it said before is still to be read.
func (c *client) write(b []byte, frames int) bool {
	_ = c.nc.SetWriteDeadline(time.Now().Add(patience))
	n, err := c.nc.Write(b)
	if n > 0 {
		c.count(0, frames, 0)
	}
	return err == nil
}

// next returns what the server says next, by its label, and counts it. "": nothing came by then, or the
// connection has ended.
func (c *client) next(by time.Time) string {
	for {
		f, n, err := frame.Parse(c.in, frame.HardMax)
		if err != nil {
			c.answer(garbled)
			c.finish()
			return garbled
		}
		if n > 0 {
			label := c.look(&f)
			c.in = append(c.in[:0], c.in[n:]...)
			return label
		}
		if c.over {
			return ""
		}
		if !c.fill(by) {
			return ""
		}
	}
}

// fill reads once; false: nothing came.
func (c *client) fill(by time.Time) bool {
	if c.buf == nil {
		c.buf = make([]byte, 64<<10)
	}
	_ = c.nc.SetReadDeadline(by)
	n, err := c.nc.Read(c.buf)
	c.in = append(c.in, c.buf[:n]...)
	switch {
	case n > 0:
		return true
	case errors.Is(err, os.ErrDeadlineExceeded):
		return false
	}
	if !c.ended {
		c.answer(cut)
	}
	c.finish()
	return false
}

// finish notes that the server has closed the connection.
func (c *client) finish() {
	if !c.over {
		c.ended, c.over = true, true
		c.count(0, 0, 1)
	}
}

// look counts a frame of the server's.
func (c *client) look(f *frame.Frame) string {
	label := strings.ToLower(f.Type.String())
	switch f.Type {
	case frame.Error:
		told, _, err := packet.DecodeError(f.Body)
		switch {
		case err != nil:
			label = garbled
		case f.HasReqID():
			label = told.Code.String()
		default:
			label = goodbye + told.Code.String()
			c.ended = true
		}
	case frame.Kick:
		if told, err := packet.DecodeKick(f.Body); err == nil {
			label = "kick " + told.Code.String()
		}
		c.ended = true
	case frame.SendAck:
		if a, err := packet.DecodeSendAck(f.Body); err != nil {
			label = garbled
		} else if c.acks != nil && int(f.ReqID) < len(c.ids) {
			mid := c.ids[f.ReqID]
			if seq, ok := c.acks[mid]; ok && seq != a.Seq {
				label = moved
			}
			c.acks[mid] = a.Seq
		}
	case frame.Deliver:
		label = c.delivered(f.Body, label)
	}
	c.answer(label)
	return label
}

// delivered checks that deliveries ascend, where that is followed.
func (c *client) delivered(body []byte, label string) string {
	if c.heads == nil {
		return label
	}
	conv, _, messages, err := packet.DecodeDeliver(body)
	for err == nil && len(messages) > 0 {
		var v packet.MessageView
		if v, messages, err = packet.NextMessage(messages); err != nil {
			break
		}
		if v.Seq <= c.heads[conv] {
			label = moved
		}
		c.heads[conv] = v.Seq
	}
	if err != nil {
		return garbled
	}
	return label
}

// await reads until the given answer comes. Otherwise the connection has ended, or the
// answer is missed.
func (c *client) await(ctx context.Context, label string) bool {
	for by := time.Now().Add(patience); !c.over; {
		got := c.next(by)
		if got == label {
			return true
		}
		if got == "" && !c.over {
			c.missed(ctx, silence)
			return false
		}
	}
	return false
}

// missed counts what is due and didn't come, and gives the connection up.
func (c *client) missed(_ context.Context, what string) {
	c.answer(what)
	c.over = true
}

// awaitEnd reads until the server closes: within the time given, or it is missed. When
// the attack is over first, the client just leaves.
func (c *client) awaitEnd(ctx context.Context, within time.Duration) {
	by := time.Now().Add(within)
	for !c.over {
		if !c.ended && ctx.Err() != nil && time.Until(c.until) < -grace {
			return
		}
		slice := time.Now().Add(500 * time.Millisecond)
		if c.next(slice) == "" && !c.over && time.Now().After(by) {
			what := silence
			if c.ended {
				what = lingers
			}
			c.missed(ctx, what)
		}
	}
}

// grace is how long after the attack answers are still read.
const grace = 3 * time.Second

// read takes what comes within d.
func (c *client) read(d time.Duration) {
	for by := time.Now().Add(d); c.next(by) != ""; {
	}
}

// connectFrame is a CONNECT as it should be but for what change does to it.
func (c *client) connectFrame(token, device string, change func(*wire.Connect)) []byte {
	m := wire.Connect{Version: 1, Token: token, DeviceId: device, DeviceKind: wire.DeviceKind_DEVICE_KIND_BOT, Client: "hostile", InboxLimit: 1}
	if change != nil {
		change(&m)
	}
	b, err := packet.AppendBody(nil, frame.Connect, frame.FlagRequestID, 1, &m)
	if err != nil {
		c.fault(err)
	}
	return b
}

// login connects as the client's own user and waits for CONNACK.
func (c *client) login(ctx context.Context, small bool) bool {
	return c.loginAs(ctx, c.user(), "d", small)
}

func (c *client) loginAs(ctx context.Context, user, device string, small bool) bool {
	token, err := c.tokens.of(user)
	if err != nil {
		c.fault(err)
		return false
	}
	if !c.dial(ctx, small) {
		return false
	}
	c.write(c.connectFrame(token, device, nil), 1)
	return c.await(ctx, "connack")
}

// sendFrame is a SEND to a user with a new client message id.
func (c *client) sendFrame(dst []byte, req uint32, flags frame.Flags, to string, mid id.ClientMsgID, content string) []byte {
	b, err := packet.AppendBody(dst, frame.Send, frame.FlagRequestID|flags, req, &wire.Send{ToUserId: to, ClientMsgId: mid[:], MsgType: 1, Content: content})
	if err != nil {
		c.fault(err)
		return dst
	}
	return b
}

func newID() id.ClientMsgID { return id.NewClientMsgID(time.Now().UnixMilli()) }
