// Package conn is one client connection as the server sees it: the frames that come
// in, what is done about them, and what waits to go out.
//
// A Conn stands on a Transport (TCP today) that feeds it bytes and takes bytes from it,
// and calls the services behind it through the interfaces of this file. It has no
// goroutine, timer or buffer of its own while it is idle.
package conn

import (
	"context"
	"net/netip"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Transport carries the bytes of one connection. All methods may be called from any
// goroutine and none of them blocks.
type Transport interface {
	// Write hands over as much of p as the peer's window takes right now and keeps no
	// reference to it. n < len(p) with a nil error: the connection is full, and
	// Conn.Writable will be called once, later, maybe before Write has returned.
	// After the end of the connection it returns an error and touches nothing.
	Write(p []byte) (n int, err error)

	// CloseWrite tells the peer that nothing more will come, and where it can the reason that
	// Close was called with; what was written still arrives.
	CloseWrite(reason code.Code)

	// Close ends the connection at once. Conn.Closed follows, maybe before Close has returned.
	Close()

	// RemoteAddr is the peer's address, behind a proxy the one that the proxy told.
	RemoteAddr() netip.AddrPort
}

// Upper is what stands on a connection that brings bytes: a Conn, or what translates for one.
type Upper interface {
	Incarnation() uint64
	Input(b []byte)
	Closed()
	Panicked(v any, stack []byte)
}

// Web is a Transport on top of HTTP: its clients find other servers where those have HTTP.
type Web interface{ OverHTTP() }

// Introduced is a Transport whose opening brought an access token. It counts where CONNECT brings none.
type Introduced interface {
	// Token returns the token once, and the empty string from then on. It is for the goroutine of Input.
	Token() string
}

// Authenticator checks who a CONNECT comes from. It may block, and is called by at
// most Config.Auths goroutines at once. It accepts a token, or without one a resume
// token given out for the same device, and returns a new resume token.
type Authenticator interface {
	Authenticate(ctx context.Context, token, resume string, device id.DeviceID, kind uint8) (user id.UserID, resumeToken string, resumed bool, err *code.Error)
}

// Conversations is what clients do with conversations. Errors that aren't *code.Error
// are answered as internal and logged.
type Conversations interface {
	// Send takes over batch: SENDs of one connection to one target, in the order in which
	// they came. It doesn't block; the outcome of each goes to its Reply.
	Send(batch []packet.Pending)

	// Sync and History return pages, which are the caller's. Their messages lie in buf, from its beginning on,
	// if it has room for them, else in new memory.
	Sync(ctx context.Context, o *packet.Origin, conv id.ConversationID, from, to uint64, limit int, buf []byte) (packet.Page, error)
	History(ctx context.Context, o *packet.Origin, conv id.ConversationID, before uint64, limit int, buf []byte) (packet.Page, error)

	Inbox(ctx context.Context, o *packet.Origin, mark uint64, cursor string, limit int) (states []*wire.ConversationState, next string, newMark uint64, err error)
	State(ctx context.Context, o *packet.Origin, conv id.ConversationID) (*wire.ConversationState, error)
	OpenDirect(ctx context.Context, o *packet.Origin, peer id.UserID) (*wire.ConversationState, error)
	Read(ctx context.Context, o *packet.Origin, conv id.ConversationID, seq uint64) (read uint64, unread uint32, err error)

	// Received notes that the connection's user has everything up to seq. It doesn't block.
	Received(o *packet.Origin, conv id.ConversationID, seq uint64)
}

// Sessions is the directory of who is connected where. Its methods don't block.
type Sessions interface {
	// Register makes conn the connection of (user, device). replaced is the one that was, ousted
	// that of another device of the user, which has to give way; 0: none.
	Register(user id.UserID, device id.DeviceID, kind uint8, conn uint64) (replaced, ousted uint64)

	// Unregister removes conn, and nothing if another connection has taken its place.
	Unregister(user id.UserID, conn uint64)
}

// Signals passes ephemeral signals on; they may be dropped. It may block until ctx ends.
type Signals interface {
	Signal(ctx context.Context, o *packet.Origin, s *wire.Signal) *code.Error
}

// Method answers a REQUEST of one method; inner is the request's body, unchecked
// (packet.DecodeMethod), and valid only until Method returns. It may block until ctx
// ends. Errors that aren't *code.Error are answered as internal and logged.
type Method func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error)

// Resumes tells whose session a resume token is of, by what stands in it alone: that it was made by this
// installation for the device and hasn't expired, not that the session stands. It is cheap, and doesn't block.
type Resumes func(token string, device id.DeviceID) (user id.UserID, ok bool)

// Services is everything behind a connection. All must be set but Methods and Resumes.
type Services struct {
	Authenticator Authenticator
	Conversations Conversations
	Sessions      Sessions
	Signals       Signals

	// Resumes tells who comes back before that costs anything; nil: nobody is taken for one who does.
	Resumes Resumes

	// Methods are those that need nothing of the connection but who asks. Without an entry
	// a method is unknown.
	Methods map[packet.Method]Method
}

// Host keeps the connections of this process: the hub. It must not call back into
// the Conn from Touch.
type Host interface {
	// Touch notes that c has something to write, to be flushed soon. It doesn't block.
	Touch(c *Conn)

	// Returns is told that c, not logged in, showed a good resume token of a session of user. It reports whether c
	// counts as known from now on.
	Returns(c *Conn, user id.UserID) bool

	// Login counts c to its user (c.Origin) and returns the limit of sends that all
	// connections of the user share, or refuses the connection.
	Login(c *Conn) (*Bucket, *code.Error)

	// Gone forgets c, once, when its transport has ended.
	Gone(c *Conn)

	// Close closes another connection by its incarnation.
	Close(incarnation uint64, reason *code.Error)
}
