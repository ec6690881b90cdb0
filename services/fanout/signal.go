package fanout

import (
	"context"
	"errors"
	"slices"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A signaler is what one Signal works with; they are reused.
type signaler struct {
	plan
	msg    wire.Signal
	body   []byte
	slab   []byte
	skip   uint64
	lazily bool
}

// send looks everybody in users up and hands them the signal, but for the connection skip. It
// reports whether there was somebody.
func (w *signaler) send(ctx context.Context, h *Handler) (some bool) {
	w.conns, w.ends = h.cfg.Sessions.Gather(ctx, w.users, w.conns[:0], w.ends[:0])
	some = deliver(h.cfg.Deliver, &w.plan, &parcel{last: int32(len(w.users)), skip: w.skip}, w.slab, w.lazily) > 0
	clear(w.users)
	w.users = w.users[:0]
	return some
}

// Signal passes s on, never stored, to every session of its conversation's members but
// the connection that it came from. sender_id and sender_device are the server's to set,
// whatever s says. How often somebody may signal is the edge's to limit.
func (h *Handler) Signal(ctx context.Context, from *packet.Origin, s *wire.Signal) *code.Error {
	conv, cerr := h.signalTarget(from, s)
	if cerr != nil {
		return cerr
	}
	if s.Kind == 0 {
		return code.Newf(code.BadRequest, "kind is missing")
	}
	if packet.ServerSignal(s.Kind) {
		return code.Newf(code.BadRequest, "signals of kind %d are the server's", s.Kind)
	}
	if len(s.Data) > h.cfg.MaxSignal {
		return code.Newf(code.ContentTooLarge, "a signal carries at most %d bytes", h.cfg.MaxSignal)
	}
	if h.cfg.Groups != nil && conv.Kind() == id.KindGroup {
		switch in, size, err := h.cfg.Groups.Has(ctx, conv, from.User); {
		case err != nil:
			return refusal(err)
		case !in:
			return code.New(code.NoSuchConversation)
		case size > h.largeGroup():
			return nil // dropped, as signals may be
		}
	}
	members, err := h.cfg.Members.Members(ctx, conv)
	if err != nil {
		return code.Wrap(code.Unavailable, err)
	}
	if !slices.Contains(members, from.User) {
		return code.New(code.NoSuchConversation)
	}
	if len(members) > h.largeGroup() {
		return nil // somebody who types would cost as much as a message does
	}
	w := h.signals.Get().(*signaler)
	defer h.signals.Put(w)
	w.msg = wire.Signal{ConversationId: conv[:], Kind: s.Kind, Data: s.Data, SenderId: string(from.User), SenderDevice: string(from.Device)}
	w.body, err = w.msg.Marshal(w.body[:0])
	w.msg = wire.Signal{}
	if err != nil {
		return code.Wrap(code.Internal, err)
	}
	w.slab = frame.Append(w.slab[:0], frame.Signal, 0, 0, w.body)
	w.skip, w.lazily = from.Conn, false
	w.users = append(w.users[:0], members...)
	if w.send(ctx, h) {
		h.cfg.Deliver.Flush()
	}
	h.signalled.Add(1)
	return nil
}

// refusal is err as a client sees it.
func refusal(err error) *code.Error {
	var ce *code.Error
	if errors.As(err, &ce) {
		return ce
	}
	return code.Wrap(code.Unavailable, err)
}

// signalTarget returns the conversation that s names, by its id or by the other user.
func (h *Handler) signalTarget(from *packet.Origin, s *wire.Signal) (id.ConversationID, *code.Error) {
	switch {
	case (len(s.ConversationId) > 0) == (s.ToUserId != ""):
		return id.ConversationID{}, code.Newf(code.BadRequest, "a signal names either a conversation or a user")
	case s.ToUserId != "":
		to := id.UserID(s.ToUserId)
		if !to.Valid() {
			return id.ConversationID{}, code.Newf(code.BadRequest, "to_user_id is no user id")
		}
		return id.Direct(from.User, to), nil
	}
	conv, err := id.ConversationFromBytes(s.ConversationId)
	if err != nil || !conv.Valid() {
		return conv, code.Newf(code.BadRequest, "conversation_id is malformed")
	}
	return conv, nil
}
