package remote

import (
	"context"
	"fmt"

	"github.com/cloudwego/kitex/client/callopt"

	"github.com/gochat-im/gochat/kitex_gen/edge"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
)

// Deliver brings body to the connections of an edge: the Caller of relay.Edges.
func (p *Pool) Deliver(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
	return p.relay(ctx, to, body, p.edge.Deliver)
}

// Tell tells a logic node who comes and goes: the Caller of relay.Sessions.
func (p *Pool) Tell(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
	return p.relay(ctx, to, body, p.edge.Tell)
}

// LookUp asks a logic node who is where: the Caller of relay.LookUps.
func (p *Pool) LookUp(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
	return p.relay(ctx, to, body, p.edge.LookUp)
}

// Saw tells a node that publishes to the bus what came through: the Caller of relay.Reports.
func (p *Pool) Saw(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error) {
	return p.relay(ctx, to, body, p.edge.Saw)
}

// Seat asks a node that leads audiences to bring a user's connections into them.
func (p *Pool) Seat(ctx context.Context, to *nodes.Node, user id.UserID) error {
	c := link.NewCall(ctx, p.cfg.Self, nil)
	c.User = string(user)
	if _, err := invoke(ctx, p, to.RPC, c, &edge.Sheet{Call: c}, p.edge.Seat); err != nil {
		return fmt.Errorf("asking %s for a user's seats: %w", to.ID, err)
	}
	return nil
}

func (p *Pool) relay(ctx context.Context, to *nodes.Node, body []byte, do func(context.Context, *edge.Sheet, ...callopt.Option) (*edge.Answer, error)) ([]byte, error) {
	c := link.NewCall(ctx, p.cfg.Self, nil)
	answer, err := invoke(ctx, p, to.RPC, c, &edge.Sheet{Call: c, Body: body}, do)
	if err != nil {
		return nil, err
	}
	return answer.Body, nil
}
