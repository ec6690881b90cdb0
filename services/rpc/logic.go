package rpc

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gochat-im/gochat/edge/api"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/kitex_gen/node"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
)

// Router tells who is responsible for what, as this node sees it: a *router.Router does.
type Router interface {
	Owner(slot id.Slot) *nodes.Node // of a slot of conversations or users; nil: nobody is
	IsSelf(n *nodes.Node) bool
	Revision() int64 // of this node's view
}

// Logic are the ports of a node with the role logic, behind which its own services are.
type Logic struct {
	Router        Router             // required
	Authenticator conn.Authenticator // required
	Conversations conn.Conversations // required
	Signals       conn.Signals       // required
	Methods       map[packet.Method]conn.Method
	Rounds        func() (rest, pace time.Duration) // how long it is until messages may be stored again, and between one time and the next; nil: always at once
	StoreEpoch    uint64                            // of the store that all of it lies in

	// Of the HTTP API. Without them edges are told that there is no such thing.
	Accounts api.Accounts
	Identify api.Identify
	Routes   []api.Route // whose Serve is called for what edges took in and checked
}

func (l *Logic) validate() error {
	if l.Router == nil || l.Authenticator == nil || l.Conversations == nil || l.Signals == nil {
		return errors.New("rpc: a port of logic is missing")
	}
	return nil
}

// owns returns a *link.WrongNode if another node is responsible for slot and the caller doesn't insist.
func (l *Logic) owns(insist bool, slot id.Slot) *link.WrongNode {
	owner := l.Router.Owner(slot)
	if owner == nil || insist || l.Router.IsSelf(owner) {
		return nil
	}
	return &link.WrongNode{Node: link.Node{ID: owner.ID, Addr: owner.RPC}, Revision: l.Router.Revision()}
}

// mine is owns as an error.
func (l *Logic) mine(c *node.Call, slot id.Slot) error {
	if wrong := l.owns(c.GetInsist(), slot); wrong != nil {
		return wrong
	}
	return nil
}

// logicHandler serves the service Logic. Requests are this handler's, and what of them is passed
// on is memory of its own.
type logicHandler struct {
	*Logic
	s       *Server
	tickets tickets
}

// fails returns err as it is answered, after what is nobody's fault but the server's was logged.
func (h *logicHandler) fails(ctx context.Context, doing string, err error) *node.Failure {
	var wrong *link.WrongNode
	var e *code.Error
	if err != nil && !errors.As(err, &wrong) && (!errors.As(err, &e) || e.Cause != nil) && ctx.Err() == nil {
		h.s.cfg.Logger.WarnContext(ctx, "a call of another node failed", "doing", doing, "err", err)
	}
	return link.FailureOf(err)
}

// about checks what a call is about and returns it.
func (h *logicHandler) about(c *node.Call, conversation []byte) (id.ConversationID, error) {
	conv, err := id.ConversationFromBytes(conversation)
	if err != nil {
		return conv, code.Wrap(code.BadRequest, err)
	}
	return conv, h.mine(c, conv.Slot())
}

// Sync implements the service.
func (h *logicHandler) Sync(ctx context.Context, r *logic.PageRequest) (*logic.PageReply, error) {
	return h.page(ctx, r, "syncing a range", func(ctx context.Context, o *packet.Origin, conv id.ConversationID) (packet.Page, error) {
		return h.Conversations.Sync(ctx, o, conv, r.FromSeq, r.ToSeq, int(r.Limit), nil)
	})
}

// History implements the service.
func (h *logicHandler) History(ctx context.Context, r *logic.PageRequest) (*logic.PageReply, error) {
	return h.page(ctx, r, "reading history", func(ctx context.Context, o *packet.Origin, conv id.ConversationID) (packet.Page, error) {
		return h.Conversations.History(ctx, o, conv, r.FromSeq, int(r.Limit), nil)
	})
}

func (h *logicHandler) page(ctx context.Context, r *logic.PageRequest, doing string, read func(context.Context, *packet.Origin, id.ConversationID) (packet.Page, error)) (*logic.PageReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	conv, err := h.about(r.Call, r.ConversationId)
	if err != nil {
		return &logic.PageReply{Failure: h.fails(ctx, doing, err)}, nil
	}
	o := link.Origin(r.Call)
	p, err := read(ctx, &o, conv)
	if err != nil {
		return &logic.PageReply{Failure: h.fails(ctx, doing, err)}, nil
	}
	users := make([]string, 0, 2)
	for _, u := range p.Users {
		users = append(users, string(u))
	}
	return &logic.PageReply{
		ConversationId: p.Conversation[:], Users: users, FromSeq: p.FromSeq, ToSeq: p.ToSeq,
		FirstSeq: p.FirstSeq, LastSeq: p.LastSeq, Messages: p.Messages, More: p.More,
	}, nil
}

// Inbox implements the service.
func (h *logicHandler) Inbox(ctx context.Context, r *logic.InboxRequest) (*logic.InboxReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	o := link.Origin(r.Call)
	err := h.mine(r.Call, o.User.Slot())
	var reply logic.InboxReply
	if err == nil {
		reply.States, reply.Next, reply.Mark, err = h.Conversations.Inbox(ctx, &o, r.Mark, r.Cursor, int(r.Limit))
	}
	if err != nil {
		return &logic.InboxReply{Failure: h.fails(ctx, "reading an inbox", err)}, nil
	}
	return &reply, nil
}

// State implements the service.
func (h *logicHandler) State(ctx context.Context, r *logic.StateRequest) (*logic.StateReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	conv, err := h.about(r.Call, r.ConversationId)
	o := link.Origin(r.Call)
	var reply logic.StateReply
	if err == nil {
		reply.State, err = h.Conversations.State(ctx, &o, conv)
	}
	reply.Failure = h.fails(ctx, "reading a conversation", err)
	return &reply, nil
}

// OpenDirect implements the service.
func (h *logicHandler) OpenDirect(ctx context.Context, r *logic.OpenDirectRequest) (*logic.StateReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	o, peer := link.Origin(r.Call), id.UserID(r.Peer)
	err := h.mine(r.Call, id.Direct(o.User, peer).Slot())
	var reply logic.StateReply
	if err == nil {
		reply.State, err = h.Conversations.OpenDirect(ctx, &o, peer)
	}
	reply.Failure = h.fails(ctx, "opening a direct conversation", err)
	return &reply, nil
}

// Read implements the service.
func (h *logicHandler) Read(ctx context.Context, r *logic.ReadRequest) (*logic.ReadReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	conv, err := h.about(r.Call, r.ConversationId)
	o := link.Origin(r.Call)
	var reply logic.ReadReply
	if err == nil {
		reply.Read, reply.Unread, err = h.Conversations.Read(ctx, &o, conv, r.Seq)
	}
	reply.Failure = h.fails(ctx, "moving a read cursor", err)
	return &reply, nil
}

// Received implements the service. Marks of conversations that another node owns by now are lost: clients
// announce them again when they resume. Names are kept for a while, what they were read from isn't.
func (h *logicHandler) Received(ctx context.Context, r *logic.ReceivedRequest) (*logic.Done, error) {
	for _, m := range r.Marks {
		if conv, err := id.ConversationFromBytes(m.ConversationId); err == nil {
			h.Conversations.Received(&packet.Origin{User: id.UserID(strings.Clone(m.User)), Device: id.DeviceID(strings.Clone(m.Device)), Conn: m.Conn}, conv, m.Seq)
		}
	}
	return &logic.Done{}, nil
}

// Method implements the service.
func (h *logicHandler) Method(ctx context.Context, r *logic.MethodRequest) (*logic.MethodReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	method := packet.Method(r.Method)
	o := link.Origin(r.Call)
	reply, err := h.answer(ctx, r.Call, &o, method, r.Inner)
	if err != nil {
		return &logic.MethodReply{Failure: h.fails(ctx, "answering "+method.String(), err)}, nil
	}
	return reply, nil
}

func (h *logicHandler) answer(ctx context.Context, c *node.Call, o *packet.Origin, method packet.Method, inner []byte) (*logic.MethodReply, error) {
	serve := h.Methods[method]
	if serve == nil {
		return nil, code.New(code.UnknownMethod)
	}
	if err := h.mine(c, link.MethodSlot(method, o.User, inner)); err != nil {
		return nil, err
	}
	body, err := serve(ctx, o, inner)
	if err != nil {
		return nil, err
	}
	b, err := body.Marshal(nil)
	if err != nil {
		return nil, err
	}
	return &logic.MethodReply{Body: b}, nil
}

// Signal implements the service.
func (h *logicHandler) Signal(ctx context.Context, r *logic.SignalRequest) (*logic.Done, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	if r.Signal == nil {
		return &logic.Done{Failure: link.Refused(code.New(code.BadRequest))}, nil
	}
	conv, err := h.about(r.Call, r.Signal.ConversationId)
	if err == nil && !conv.Valid() {
		err = code.New(code.BadRequest)
	}
	if err != nil {
		return &logic.Done{Failure: h.fails(ctx, "passing a signal on", err)}, nil
	}
	o := link.Origin(r.Call)
	return &logic.Done{Failure: link.Refused(h.Signals.Signal(ctx, &o, r.Signal))}, nil
}

// Authenticate implements the service. Nothing of the request is ever logged.
func (h *logicHandler) Authenticate(ctx context.Context, r *logic.AuthenticateRequest) (*logic.AuthenticateReply, error) {
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	user, resume, resumed, err := h.Authenticator.Authenticate(ctx, r.Token, r.Resume, id.DeviceID(r.Device), uint8(r.Kind))
	if err != nil {
		return &logic.AuthenticateReply{Failure: link.Refused(err)}, nil
	}
	return &logic.AuthenticateReply{User: string(user), Resume: resume, Resumed: resumed}, nil
}
