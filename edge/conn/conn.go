package conn

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// The life of a connection. It only goes forward.
const (
	stateHandshake uint32 = iota // until CONNACK is queued: nothing but the reason of a refusal is written
	stateConnected
	stateClosing // the reason is queued or written, input is thrown away
	stateClosed  // the transport has ended
)

// Conn is one connection. The transport calls Input, Writable and Closed; services and
// the hub call the rest. Everything may be called from any goroutine, but Input from
// one at a time.
type Conn struct {
	edge *Edge
	t    Transport

	// origin is complete before state leaves stateHandshake, and never changes after:
	// Pendings point to it.
	origin packet.Origin
	user   *Bucket // sends of all connections of the user

	state atomic.Uint32 // written with mu held
	heard atomic.Uint32 // seconds since the edge's start when the last whole frame came

	// Input's own.
	frames, bytes, sent bucket
	partial             []byte // beginning of a frame whose rest hasn't come
	ignored             int    // bytes that came after the end
	replied             bool   // an answer was queued that Input is to flush
	known               bool   // the hub has taken it for one of a client that comes back

	mu       sync.Mutex
	out      *buffer // waits to be written; nil: nothing
	writing  *buffer // being written
	lag      *lag    // not nil: deliveries are dropped until all is written
	lanes    map[id.ConversationID]lane
	strikes  bucket
	inflight int32
	held     int32  // bytes of it in edge.held: what waits while blocked
	since    uint32 // second in which the transport last took something before it was full, or closing began
	beat     uint16 // seconds of silence allowed; 0 before CONNACK
	reason   uint16 // code that Close was called with

	writes uint8 // since the last Sweep; not counted beyond busyWrites+1

	busy       bool // there were busyWrites between the last two calls of Sweep
	touched    bool // on the hub's list
	flushing   bool // a goroutine is in drain
	blocked    bool // the transport is full; Writable will come
	retry      bool // Writable came while a goroutine was in drain
	registered bool // in the directory
	wrclosed   bool // CloseWrite was called
	background bool // nobody is looking: no signals, and what is pushed is written by the sweep
	missed     bool // a signal was held back that the client has to make up for
}

// New returns the connection over t, of an incarnation that no other connection ever has.
func New(e *Edge, t Transport, incarnation uint64) *Conn {
	c := &Conn{edge: e, t: t}
	c.origin.Conn = incarnation
	c.heard.Store(e.second())
	e.stats.opened.Add(1)
	return c
}

func (e *Edge) second() uint32 { return uint32(e.now() / 1e9) }

// Incarnation is the number that no other connection ever has.
func (c *Conn) Incarnation() uint64 { return c.origin.Conn }

// Origin is who is behind the connection: complete once Connected, and shared.
func (c *Conn) Origin() *packet.Origin { return &c.origin }

// RemoteAddr is the address of the client.
func (c *Conn) RemoteAddr() netip.AddrPort { return c.t.RemoteAddr() }

// Connected reports whether CONNACK was queued and the connection isn't being closed.
func (c *Conn) Connected() bool { return c.state.Load() == stateConnected }

// Close ends the connection with a reason, which the client is told if it still
// reads. It reports whether this call did: later ones do nothing.
func (c *Conn) Close(reason *code.Error) bool {
	c.mu.Lock()
	before := c.state.Load()
	if before >= stateClosing {
		c.mu.Unlock()
		return false
	}
	c.state.Store(stateClosing)
	c.reason = uint16(reason.Code)
	c.since = c.edge.second()
	if before == stateHandshake && c.out != nil { // deliveries before a CONNACK that never comes
		c.edge.bufs.put(c.out)
		c.out = nil
	}
	c.lag, c.lanes = nil, nil
	o := c.buffer()
	told := len(o.b)
	switch reason.Code {
	case code.SessionRevoked, code.Banned: // the client forgets its tokens
		k := wire.Kick{Code: uint32(reason.Code), Reason: reason.Reason}
		if body, err := k.Marshal(nil); err == nil {
			o.b = frame.Append(o.b, frame.Kick, 0, 0, body)
		}
	default:
		o.b = packet.AppendError(o.b, 0, false, reason, id.ConversationID{})
	}
	o.frames++
	c.edge.stats.outBy.add(typeOf(o.b[told:]))
	registered := c.registered
	c.registered = false
	stuck, user, device := c.blocked, c.origin.User, c.origin.Device
	c.mu.Unlock()

	if registered {
		c.edge.svc.Sessions.Unregister(user, c.origin.Conn)
		if reason.Code == code.Flooding {
			c.edge.flooders.add(user, c.edge.now())
		}
	}
	c.edge.stats.closed(reason.Code)
	c.edge.log.LogAttrs(context.Background(), slog.LevelDebug, "closing a connection", slog.String("user", string(user)),
		slog.String("device", string(device)), slog.Any("addr", c.t.RemoteAddr()), slog.Any("reason", reason))
	if stuck && reason.Code == code.TooSlow { // it won't read the reason either
		c.t.Close()
		return true
	}
	c.Flush()
	return true
}

// Closed is called by the transport, once, when it has ended for whatever reason, takes
// no more writes, and no Input is running or will be.
func (c *Conn) Closed() {
	c.mu.Lock()
	if c.state.Load() == stateClosed {
		c.mu.Unlock()
		return
	}
	c.state.Store(stateClosed)
	registered := c.registered
	c.registered = false
	c.edge.bufs.put(c.out)
	c.out, c.lag, c.lanes = nil, nil, nil
	c.unhold()
	if !c.flushing { // else drain gives it back
		c.edge.bufs.put(c.writing)
		c.writing = nil
	}
	c.mu.Unlock()

	c.keep(nil)
	if registered {
		c.edge.svc.Sessions.Unregister(c.origin.User, c.origin.Conn)
	}
	c.edge.stats.gone.Add(1)
	c.edge.host.Gone(c)
}

// Sweep closes the connection if it has overstayed: no login, silence, no reading, no
// end after the last frame. The hub calls it now and then.
func (c *Conn) Sweep() {
	e := c.edge
	now := e.second()
	c.mu.Lock()
	state, since, blocked, beat := c.state.Load(), c.since, c.blocked, c.beat
	waiting := c.out != nil && !c.touched
	c.busy, c.writes = c.writes >= busyWrites, 0
	c.mu.Unlock()
	if waiting {
		c.Flush()
	}
	// Signed: what is looked at may be a second ahead of now.
	silent, stuck := int32(now-c.heard.Load()), int32(now-since)
	switch {
	case state == stateHandshake && silent > int32(e.cfg.Handshake.Seconds()):
		c.Close(code.New(code.HandshakeTimeout))
	case state == stateConnected && blocked && stuck > int32(e.cfg.Stalled.Seconds()):
		c.Close(code.New(code.TooSlow))
	case state == stateConnected && silent > int32(beat)+int32(beat)/2:
		c.Close(code.New(code.IdleTimeout))
	case state == stateClosing && stuck > int32(e.cfg.Linger.Seconds()):
		c.t.Close()
	}
}

// Drain tells the client to connect elsewhere, with a DRAIN frame. It reports false, and does nothing, if no session stands.
func (c *Conn) Drain(frame []byte) bool {
	c.mu.Lock()
	if c.state.Load() != stateConnected {
		c.mu.Unlock()
		return false
	}
	o := c.buffer()
	o.b = append(o.b, frame...)
	o.frames++
	c.edge.stats.outBy.add(drainType)
	c.mu.Unlock()
	c.Flush()
	return true
}

// OverHTTP reports whether the client came by HTTP: a WebSocket, a stream of events.
func (c *Conn) OverHTTP() bool {
	_, ok := c.t.(Web)
	return ok
}

// Known reports whether the hub has taken the connection for one of a client that comes back, before it logged in.
func (c *Conn) Known() bool { return c.known }

// LoggedIn reports whether the hub has counted the connection to its user.
func (c *Conn) LoggedIn() bool { return c.user != nil }

// Abort ends the transport without another word.
func (c *Conn) Abort() { c.t.Close() }

// Overhead notes bytes that the client sent beside its frames, and count like them: n
// bytes, and whether they are a frame of the transport's own. alive: they are a sign of life.
// Only the goroutine of Input calls it.
func (c *Conn) Overhead(n int, frame, alive bool) {
	if c.state.Load() >= stateClosing {
		if c.ignored += n; c.ignored > maxIgnored {
			c.t.Close()
		}
		return
	}
	e := c.edge
	now, allowed := e.now(), e.allowed.Load()
	over := c.bytes.take(now, n, allowed.bytes) > 0
	if frame && c.frames.take(now, 1, allowed.frames) > 0 {
		over = true
	}
	if alive && c.Connected() {
		c.heard.Store(uint32(now / 1e9))
	}
	if over {
		c.strikeOut(now)
	}
}

// Refuse answers something that the transport couldn't make a whole frame of; without a request
// id it is only counted. Only the goroutine of Input of a connection that was Connected calls it.
func (c *Conn) Refuse(f *frame.Frame, err *code.Error) {
	c.unwelcome(f, err)
	c.Flush()
}

// InputJSON acts on the JSON form of one frame as Input does on frames, and counts its bytes like theirs. It
// reports false if text is no JSON object: then the transport closes the connection. Only the
// goroutine of Input calls it.
func (c *Conn) InputJSON(text []byte) bool {
	f, err := packet.FromJSON(text)
	if err == nil {
		if over := len(text) - len(f); over > 0 {
			c.Overhead(over, false, false)
		}
		c.Input(f)
		return true
	}
	c.Overhead(len(text), true, false)
	env, ok := packet.Envelope(text)
	if !ok {
		return false
	}
	refused, ok := err.(*code.Error)
	if !ok {
		refused = code.Wrap(code.BadRequest, err)
	}
	needsID := env.Type == frame.Send || env.Type == frame.Sync || env.Type == frame.Request
	switch {
	case env.Type == frame.Connect:
		c.Close(refused)
	case !c.Connected():
		c.Close(code.New(code.NotConnected))
	case needsID && !env.HasReqID():
		c.Close(code.Newf(code.BadFrame, "a %v without request id", env.Type))
	default:
		c.Refuse(&env, refused)
	}
	return true
}

// Unfinished reports whether the input so far ends within a frame. Only the goroutine of Input calls it.
func (c *Conn) Unfinished() bool { return len(c.partial) > 0 }

// Reserve counts n bytes more (or less) that the transport holds of what the client has begun
// to send, and reports false, having closed the connection, if all connections together hold too much.
func (c *Conn) Reserve(n int) bool {
	if c.edge.partial.Add(int64(n)) > c.edge.cfg.MaxPartial && n > 0 {
		c.edge.partial.Add(-int64(n))
		c.Close(code.Newf(code.Flooding, "too many unfinished frames"))
		return false
	}
	return true
}

// Panicked is called by the transport when a call of Input panicked: the connection
// is closed, the others live on.
func (c *Conn) Panicked(v any, stack []byte) {
	c.edge.stats.panics.Add(1)
	c.edge.log.LogAttrs(context.Background(), slog.LevelError, "a connection panicked", slog.String("user", string(c.origin.User)),
		slog.Any("panic", v), slog.String("stack", string(stack)))
	c.Close(code.New(code.Internal))
}
