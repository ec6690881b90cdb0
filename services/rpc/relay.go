package rpc

import (
	"context"
	"fmt"

	"github.com/gochat-im/gochat/kitex_gen/edge"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/link"
)

// Relay are the ports behind which lie this node's ends of what goes between the directory, fan-out and the edges. Those
// that this node has no role for are nil. Bodies are good until the port returns.
type Relay struct {
	Deliver func(body []byte) ([]byte, error)                  // of an edge: relay.Box.Take
	Tell    func(body []byte) ([]byte, error)                  // of a logic node: relay.Desk.Take
	LookUp  func(body []byte) ([]byte, error)                  // of a logic node: relay.Desk.LookUp
	Seat    func(ctx context.Context, users []id.UserID) error // of one that leads audiences: fanout.Handler.Seat
	Saw     func(body []byte) ([]byte, error)                  // of one that publishes: the marks of relay.Reports
}

type relayHandler struct {
	*Relay
	s *Server
}

// take has port answer. What a node of this cluster sends and this one can't read is for the log: they are of different releases.
func (h *relayHandler) take(ctx context.Context, what string, r *edge.Sheet, port func([]byte) ([]byte, error)) (*edge.Answer, error) {
	if port == nil {
		return nil, refusal(code.New(code.UnknownMethod))
	}
	body, err := port(r.Body)
	if err != nil {
		h.s.cfg.Logger.WarnContext(ctx, "a call of another node can't be read", "what", what, "from", r.Call.GetFrom(), "err", err)
		return &edge.Answer{Failure: link.Refused(code.New(code.BadRequest))}, nil
	}
	return &edge.Answer{Body: body}, nil
}

// Deliver implements edge.Edge.
func (h *relayHandler) Deliver(ctx context.Context, r *edge.Sheet) (*edge.Answer, error) {
	return h.take(ctx, "deliver", r, h.Relay.Deliver)
}

// Tell implements edge.Edge.
func (h *relayHandler) Tell(ctx context.Context, r *edge.Sheet) (*edge.Answer, error) {
	return h.take(ctx, "tell", r, h.Relay.Tell)
}

// LookUp implements edge.Edge.
func (h *relayHandler) LookUp(ctx context.Context, r *edge.Sheet) (*edge.Answer, error) {
	return h.take(ctx, "look up", r, h.Relay.LookUp)
}

// Saw implements edge.Edge.
func (h *relayHandler) Saw(ctx context.Context, r *edge.Sheet) (*edge.Answer, error) {
	return h.take(ctx, "saw", r, h.Relay.Saw)
}

// Seat implements edge.Edge.
func (h *relayHandler) Seat(ctx context.Context, r *edge.Sheet) (*edge.Answer, error) {
	if h.Relay.Seat == nil {
		return nil, refusal(code.New(code.UnknownMethod))
	}
	user := id.UserID(r.Call.GetUser())
	if !user.Valid() {
		return &edge.Answer{Failure: link.Refused(code.New(code.BadRequest))}, nil
	}
	ctx, cancel := link.Within(ctx, r.Call)
	defer cancel()
	err := h.Relay.Seat(ctx, []id.UserID{user})
	if err != nil {
		err = fmt.Errorf("seating a user: %w", err)
		h.s.cfg.Logger.WarnContext(ctx, "a call of another node failed", "err", err)
	}
	return &edge.Answer{Failure: link.FailureOf(err)}, nil
}
