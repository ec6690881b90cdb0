package conn

import (
	"context"
	"log/slog"
	"math"
	"strings"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Version is the protocol version that this server speaks, and the oldest one.
const Version = 1

// features are the bits that this server understands: none yet.
const features = 0

// connect acts on a CONNECT. It blocks in the authenticator and in reading the inbox.
func (c *Conn) connect(f *frame.Frame) {
	if err := c.login(f); err != nil {
		c.Close(err)
	}
}

// readConnect decodes and checks the body of a CONNECT. Nothing of it aliases body.
func readConnect(body []byte) (*wire.Connect, *code.Error) {
	m, err := packet.DecodeConnect(body)
	if err != nil {
		return nil, err
	}
	switch {
	case m.Version < Version:
		return nil, code.Newf(code.VersionUnsupported, "this server speaks version %d", Version)
	case !id.DeviceID(m.DeviceId).Valid():
		return nil, code.Newf(code.BadRequest, "device_id: want 1 to 64 bytes without control characters")
	case m.DeviceKind < 0 || m.DeviceKind > wire.DeviceKind_DEVICE_KIND_BOT:
		m.DeviceKind = wire.DeviceKind_DEVICE_KIND_UNKNOWN // of a later version
	}
	return m, nil
}

func (c *Conn) login(f *frame.Frame) *code.Error {
	e := c.edge
	m, err := readConnect(f.Body)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.callContext(f), min(e.cfg.CallTimeout, e.cfg.Handshake))
	defer cancel()
	if t, ok := c.t.(Introduced); ok {
		if token := t.Token(); m.Token == "" {
			m.Token = token
		}
	}
	device, kind := id.DeviceID(strings.Clone(m.DeviceId)), uint8(m.DeviceKind) // cloned: the rest of the body is let go

	if e.svc.Resumes != nil && m.ResumeToken != "" {
		if who, ok := e.svc.Resumes(m.ResumeToken, device); ok {
			c.known = e.host.Returns(c, who)
		}
	}
	var user id.UserID
	var resume string
	var resumed bool
	cerr := withSlot(ctx, e.auths, func() (err *code.Error) {
		user, resume, resumed, err = e.svc.Authenticator.Authenticate(ctx, m.Token, m.ResumeToken, device, kind)
		return err
	})
	if cerr != nil {
		return cerr
	}
	if left := e.flooders.left(user, e.now()); left > 0 {
		cerr = code.New(code.Flooding)
		cerr.RetryAfter = left
		return cerr
	}
	user = id.UserID(strings.Clone(string(user))) // the rest of the token it was cut from is let go
	c.mu.Lock()                                   // the sweep may be looking
	c.origin.User, c.origin.Device = user, device
	c.background = m.Background
	c.mu.Unlock()
	bucket, cerr := e.host.Login(c)
	if cerr != nil {
		return cerr
	}
	c.user = bucket

	if c.state.Load() != stateHandshake { // closed meanwhile: nobody makes way for it
		return nil
	}

	// First the directory, then the inbox: what is stored in between comes as a delivery.
	// Deliveries wait behind the CONNACK.
	//
	// Whoever makes way is closed now, not behind the CONNACK, although the inbox may yet fail. The directory has
	// forgotten it: left open it would look connected and be delivered nothing, for as long as an inbox takes, where one
	// that is closed knows. It can't be put back either: it may be another edge's, and a newer login may have come
	// between. And Host.Login lets a device in beyond the user's limit because its other connection goes here: waiting
	// for inboxes, as many would be open as come while a store is slow. This client is told to try again, and does.
	replaced, ousted := e.svc.Sessions.Register(user, device, kind, c.origin.Conn)
	if replaced != 0 && replaced != c.origin.Conn {
		e.host.Close(replaced, code.New(code.Replaced))
	}
	if ousted != 0 {
		e.host.Close(ousted, code.Newf(code.Replaced, "another device of yours took this one's place"))
	}
	c.mu.Lock()
	closed := c.state.Load() != stateHandshake
	c.registered = !closed
	c.mu.Unlock()
	if closed {
		e.svc.Sessions.Unregister(user, c.origin.Conn)
		return nil
	}
	allowed := e.allowed.Load()
	ack := wire.Connack{
		Version: Version, Features: m.Features & features, UserId: string(user), ServerTime: uint64(time.Now().UnixMilli()),
		StoreEpoch: e.cfg.StoreEpoch, HeartbeatSeconds: e.heartbeat(m.HeartbeatSeconds),
		HeartbeatMinSeconds: seconds(e.cfg.HeartbeatMin), HeartbeatMaxSeconds: seconds(e.cfg.HeartbeatMax),
		Limits: &wire.Limits{
			MaxFrame: uint32(e.cfg.MaxFrame), MaxContent: uint32(e.cfg.Packet.MaxContent), MaxExt: uint32(e.cfg.Packet.MaxExt),
			MaxMentions: uint32(e.cfg.Packet.MaxMentions), MaxInflight: uint32(allowed.MaxInflight),
			SendsPerSecond: uint32(allowed.SendsPerSecond), MaxPage: uint32(e.cfg.MaxPage),
			BytesPerSecond: uint32(min(int64(allowed.BytesPerSecond), math.MaxUint32)),
		},
		ResumeToken: resume, ResumeSeconds: seconds(e.cfg.Resume), Resumed: resumed, Server: e.cfg.Server,
	}
	mark := m.SyncMark
	if m.StoreEpoch != e.cfg.StoreEpoch { // the device's copies, and its mark, are of another store
		mark = 0
	}
	limit := e.cfg.InboxPage
	if m.InboxLimit > 0 {
		limit = min(limit, int(m.InboxLimit))
	}
	cerr = withSlot(ctx, e.calls, func() *code.Error {
		states, next, newMark, err := e.svc.Conversations.Inbox(ctx, &c.origin, mark, "", limit)
		ack.Conversations, ack.InboxCursor, ack.SyncMark = states, next, newMark
		if err != nil {
			return c.failed(ctx, "reading the inbox", err)
		}
		return nil
	})
	if cerr != nil {
		return cerr
	}
	body, merr := ack.Marshal(nil)
	if merr != nil {
		return c.failed(ctx, "encoding a CONNACK", merr)
	}
	c.connected(f, body, uint16(ack.HeartbeatSeconds))
	e.log.LogAttrs(ctx, slog.LevelDebug, "connected", slog.String("user", string(user)), slog.String("device", string(device)),
		slog.Any("addr", c.t.RemoteAddr()), slog.Bool("resumed", resumed), slog.String("client", m.Client))
	return nil
}

// connected queues the CONNACK before whatever was delivered since the registration,
// and lets everything flow.
func (c *Conn) connected(f *frame.Frame, body []byte, beat uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Load() != stateHandshake {
		return
	}
	early := c.out
	c.out = nil
	o := c.buffer()
	o.b = frame.Append(o.b, frame.Connack, f.Flags&frame.FlagRequestID, f.ReqID, body)
	if f.Flags&frame.FlagTrace != 0 {
		o.b = frame.AddTrace(o.b, 0, f.Trace)
	}
	o.frames++
	c.edge.stats.outBy.add(frame.Connack)
	if early != nil {
		o.b = append(o.b, early.b...)
		o.frames += early.frames
		o.pushed += early.pushed
		o.signals += early.signals
		c.edge.bufs.put(early)
	}
	c.beat = beat
	c.replied = true
	c.state.Store(stateConnected)
	c.edge.stats.loggedIn.Add(1)
}

// heartbeat is the silence allowed to a client that would like so many seconds.
func (e *Edge) heartbeat(wish uint32) uint32 {
	if wish == 0 {
		return seconds(e.cfg.Heartbeat)
	}
	return min(max(wish, seconds(e.cfg.HeartbeatMin)), seconds(e.cfg.HeartbeatMax))
}

func seconds(d time.Duration) uint32 { return uint32((d + time.Second - 1) / time.Second) }
