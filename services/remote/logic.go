package remote

import (
	"context"
	"errors"
	"log/slog"
	"strconv"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
)

// Local are the ports of this process's own services: what it is responsible for goes there.
type Local struct {
	Authenticator conn.Authenticator
	Conversations conn.Conversations
	Signals       conn.Signals
	Methods       map[packet.Method]conn.Method

	Accounts api.Accounts
	Identify api.Identify
}

// LogicConfig is what a Logic is made of. Zero means the default that stands with each field.
type LogicConfig struct {
	Router Router // required
	Pool   *Pool  // required unless this node is the only one
	Local  *Local // nil: this node hasn't the role logic
	Send   SendConfig

	// Flush is called after outcomes of SENDs that went to other nodes were given out. May be nil.
	Flush func()

	Logger *slog.Logger // default: discards
}

// Validate reports what is missing.
func (c *LogicConfig) Validate() error {
	var errs []error
	if c.Router == nil {
		errs = append(errs, errors.New("remote: no router"))
	}
	if c.Pool == nil && c.Local == nil {
		errs = append(errs, errors.New("remote: neither services of this node's own nor a way to others"))
	}
	if l := c.Local; l != nil && (l.Authenticator == nil || l.Conversations == nil || l.Signals == nil) {
		errs = append(errs, errors.New("remote: a port of this node is missing"))
	}
	return errors.Join(errs...)
}

// Logic is what the nodes with the role logic do, wherever it is done: it implements conn.Authenticator,
// conn.Conversations and conn.Signals.
//
// Errors are *code.Error where another node was asked: the owner's own, or unavailable if there is none that
// can be reached, or undetermined if it is not known what became of a change.
type Logic struct {
	cfg      LogicConfig
	sends    *sender // nil: this node is the only one
	receipts receipts
}

// NewLogic returns a Logic.
func NewLogic(cfg LogicConfig) (*Logic, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Send.setDefaults()
	l := &Logic{cfg: cfg}
	l.receipts.l = l
	if cfg.Pool != nil {
		l.sends = newSender(l, &l.cfg.Send)
	}
	return l, nil
}

// here reports whether what belongs to slot is done in this process.
func (l *Logic) here(slot id.Slot) bool {
	return l.cfg.Local != nil && (l.cfg.Pool == nil || l.cfg.Router.IsSelf(l.cfg.Router.Owner(slot)))
}

// of returns what names the owner of slot.
func (l *Logic) of(slot id.Slot) func() *nodes.Node {
	return func() *nodes.Node { return l.cfg.Router.Owner(slot) }
}

// Sync implements conn.Conversations.
func (l *Logic) Sync(ctx context.Context, o *packet.Origin, conv id.ConversationID, from, to uint64, limit int, buf []byte) (packet.Page, error) {
	if l.here(conv.Slot()) {
		return l.cfg.Local.Conversations.Sync(ctx, o, conv, from, to, limit, buf)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	req := &logic.PageRequest{Call: c, ConversationId: conv[:], FromSeq: from, ToSeq: to, Limit: uint32(limit)}
	return page(ask(ctx, l.cfg.Pool, l.of(conv.Slot()), c, req, safely, l.cfg.Pool.logic.Sync))
}

// History implements conn.Conversations.
func (l *Logic) History(ctx context.Context, o *packet.Origin, conv id.ConversationID, before uint64, limit int, buf []byte) (packet.Page, error) {
	if l.here(conv.Slot()) {
		return l.cfg.Local.Conversations.History(ctx, o, conv, before, limit, buf)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	req := &logic.PageRequest{Call: c, ConversationId: conv[:], FromSeq: before, Limit: uint32(limit)}
	return page(ask(ctx, l.cfg.Pool, l.of(conv.Slot()), c, req, safely, l.cfg.Pool.logic.History))
}

// page returns a page that came from another node. Its messages lie in new memory: the reply was read into it.
func page(r *logic.PageReply, err error) (packet.Page, error) {
	if err != nil {
		return packet.Page{}, err
	}
	conv, err := id.ConversationFromBytes(r.ConversationId)
	if err != nil {
		return packet.Page{}, code.Wrap(code.Internal, err)
	}
	p := packet.Page{
		Conversation: conv, FromSeq: r.FromSeq, ToSeq: r.ToSeq, FirstSeq: r.FirstSeq, LastSeq: r.LastSeq,
		Messages: r.Messages, More: r.More,
	}
	for _, u := range r.Users {
		p.Users = append(p.Users, id.UserID(u))
	}
	return p, nil
}

// Inbox implements conn.Conversations.
func (l *Logic) Inbox(ctx context.Context, o *packet.Origin, mark uint64, cursor string, limit int) ([]*wire.ConversationState, string, uint64, error) {
	slot := o.User.Slot()
	if l.here(slot) {
		return l.cfg.Local.Conversations.Inbox(ctx, o, mark, cursor, limit)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	req := &logic.InboxRequest{Call: c, Mark: mark, Cursor: cursor, Limit: uint32(limit)}
	r, err := ask(ctx, l.cfg.Pool, l.of(slot), c, req, safely, l.cfg.Pool.logic.Inbox)
	if err != nil {
		return nil, "", 0, err
	}
	return r.States, r.Next, r.Mark, nil
}

// State implements conn.Conversations.
func (l *Logic) State(ctx context.Context, o *packet.Origin, conv id.ConversationID) (*wire.ConversationState, error) {
	if l.here(conv.Slot()) {
		return l.cfg.Local.Conversations.State(ctx, o, conv)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	r, err := ask(ctx, l.cfg.Pool, l.of(conv.Slot()), c, &logic.StateRequest{Call: c, ConversationId: conv[:]}, safely, l.cfg.Pool.logic.State)
	if err != nil {
		return nil, err
	}
	return r.State, nil
}

// OpenDirect implements conn.Conversations.
func (l *Logic) OpenDirect(ctx context.Context, o *packet.Origin, peer id.UserID) (*wire.ConversationState, error) {
	slot := id.Direct(o.User, peer).Slot()
	if l.here(slot) {
		return l.cfg.Local.Conversations.OpenDirect(ctx, o, peer)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	r, err := ask(ctx, l.cfg.Pool, l.of(slot), c, &logic.OpenDirectRequest{Call: c, Peer: string(peer)}, safely, l.cfg.Pool.logic.OpenDirect)
	if err != nil {
		return nil, err
	}
	return r.State, nil
}

// Read implements conn.Conversations. A cursor never moves back, so it may be moved twice.
func (l *Logic) Read(ctx context.Context, o *packet.Origin, conv id.ConversationID, seq uint64) (uint64, uint32, error) {
	if l.here(conv.Slot()) {
		return l.cfg.Local.Conversations.Read(ctx, o, conv, seq)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	r, err := ask(ctx, l.cfg.Pool, l.of(conv.Slot()), c, &logic.ReadRequest{Call: c, ConversationId: conv[:], Seq: seq}, safely, l.cfg.Pool.logic.Read)
	if err != nil {
		return 0, 0, err
	}
	return r.Read, r.Unread, nil
}

// Signal implements conn.Signals. What can't be passed on is dropped, as signals may be.
func (l *Logic) Signal(ctx context.Context, o *packet.Origin, s *wire.Signal) *code.Error {
	conv, err := id.ConversationFromBytes(s.ConversationId)
	if err != nil {
		return code.Newf(code.BadRequest, "a signal names no conversation")
	}
	if l.here(conv.Slot()) {
		return l.cfg.Local.Signals.Signal(ctx, o, s)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	_, err = ask(ctx, l.cfg.Pool, l.of(conv.Slot()), c, &logic.SignalRequest{Call: c, Signal: s}, unsentOnly, l.cfg.Pool.logic.Signal)
	return asError(err)
}

// Authenticate implements conn.Authenticator. Any node can tell; the device chooses it, so that one device's go to one node.
func (l *Logic) Authenticate(ctx context.Context, token, resume string, device id.DeviceID, kind uint8) (id.UserID, string, bool, *code.Error) {
	if l.cfg.Local != nil {
		return l.cfg.Local.Authenticator.Authenticate(ctx, token, resume, device, kind)
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, nil)
	req := &logic.AuthenticateRequest{Call: c, Token: token, Resume: resume, Device: string(device), Kind: uint32(kind)}
	r, err := ask(ctx, l.cfg.Pool, l.any(string(device)), c, req, safely, l.cfg.Pool.logic.Authenticate)
	if err != nil {
		return "", "", false, asError(err)
	}
	return id.UserID(r.User), r.Resume, r.Resumed, nil
}

// any returns what names a node for key: the same one while it can be reached, then another, for in a list of nodes
// (and for as long as a lease in etcd) those that are gone stay.
func (l *Logic) any(key string) func() *nodes.Node {
	return func() *nodes.Node {
		first := l.cfg.Router.OfKey(key)
		for n, i := first, 0; n != nil && i < anyTries; i++ {
			if l.cfg.Pool == nil || !l.cfg.Pool.shut(n.RPC) {
				return n
			}
			n = l.cfg.Router.OfKey(key + "/" + strconv.Itoa(i))
		}
		return first
	}
}

// anyTries is how many nodes are drawn, some of them twice, to find one that can be reached.
const anyTries = 16

// Methods returns the methods that keep nothing in mind of the connection but who asks: each of names, wherever it is answered.
func (l *Logic) Methods(names ...packet.Method) map[packet.Method]conn.Method {
	out := make(map[packet.Method]conn.Method, len(names))
	for _, m := range names {
		out[m] = func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
			return l.method(ctx, o, m, inner)
		}
	}
	return out
}

func (l *Logic) method(ctx context.Context, o *packet.Origin, m packet.Method, inner []byte) (packet.Body, error) {
	slot := link.MethodSlot(m, o.User, inner)
	if l.here(slot) {
		serve := l.cfg.Local.Methods[m]
		if serve == nil {
			return nil, code.New(code.UnknownMethod)
		}
		return serve(ctx, o, inner)
	}
	again := unsentOnly
	if link.Reads(m) {
		again = safely
	}
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, o)
	r, err := ask(ctx, l.cfg.Pool, l.of(slot), c, &logic.MethodRequest{Call: c, Method: uint32(m), Inner: inner}, again, l.cfg.Pool.logic.Method)
	if err != nil {
		return nil, err
	}
	return encoded(r.Body), nil
}

// encoded is an answer that came encoded.
type encoded []byte

// Marshal implements packet.Body.
func (e encoded) Marshal(dst []byte) ([]byte, error) { return append(dst, e...), nil }

// Unmarshal implements packet.Body, for nobody: an answer is read by the client.
func (e encoded) Unmarshal([]byte) error { return errors.ErrUnsupported }

// asError returns err, of a call, as what it is.
func asError(err error) *code.Error {
	if err == nil {
		return nil
	}
	var e *code.Error
	if errors.As(err, &e) {
		return e
	}
	return code.Wrap(code.Internal, err)
}
