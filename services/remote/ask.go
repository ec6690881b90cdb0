package remote

import (
	"context"
	"errors"

	"github.com/cloudwego/kitex/client/callopt"

	"github.com/gochat-im/gochat/kitex_gen/node"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
)

// maxHops is how often a call is sent on to another node. With one ring in two views it takes one.
const maxHops = 3

// repeat says when a call may be made again whose first attempt brought no answer.
type repeat uint8

const (
	unsentOnly repeat = iota // if it was never sent
	safely                   // anyway: it changes nothing, or the same
)

// ask makes a call of the node that owner names, follows the answer of a node that another one is responsible, and
// tries once more where that is safe and worth it. It returns the errors of invoke but no *link.WrongNode.
func ask[Q any, R replied](ctx context.Context, p *Pool, owner func() *nodes.Node, c *node.Call, req Q, again repeat, do func(context.Context, Q, ...callopt.Option) (R, error)) (R, error) {
	var none R
	to := owner()
	if to == nil {
		return none, nobody()
	}
	addr, retried := to.RPC, false
	for hop := 0; ; {
		reply, err := invoke(ctx, p, addr, c, req, do)
		var wrong *link.WrongNode
		switch {
		case err == nil:
			return reply, nil
		case errors.As(err, &wrong):
			if hop++; hop > maxHops {
				return none, wrong.Refusal()
			}
			// Two views may send a call to and fro: whoever is asked the second time serves it.
			if c.Insist = hop > 1 || wrong.Node.ID == p.cfg.Self; wrong.Node.ID != p.cfg.Self {
				addr = wrong.Node.Addr
			}
			continue
		}
		e := new(code.Error)
		if !errors.As(err, &e) || retried || ctx.Err() != nil || e.Code != code.Undetermined && !Unsent(err) || e.Code == code.Undetermined && again != safely {
			return none, settled(err, again)
		}
		next := owner()
		// A node that can't be reached won't be the next moment; its place may have been taken.
		if next == nil || Unsent(err) && next.RPC == addr || !p.retry.take() {
			return none, settled(err, again)
		}
		addr, retried, c.Insist = next.RPC, true, false
	}
}

// settled is err as it is answered in the end: of what changes nothing there is no outcome to be unsure of.
func settled(err error, again repeat) error {
	var e *code.Error
	if errors.As(err, &e) && e.Code == code.Undetermined && again == safely {
		return code.Wrap(code.Unavailable, e.Cause)
	}
	return err
}

// nobody is the answer while no node with the role logic is known.
func nobody() *code.Error { return code.Wrap(code.Unavailable, errNobody) }

var errNobody = errors.New("no node with the role logic is known")
