package remote

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/link"
)

// StoreEpoch asks some node with the role logic for the epoch of the store, which edges tell clients.
func (l *Logic) StoreEpoch(ctx context.Context) (uint64, error) {
	c := link.NewCall(ctx, l.cfg.Pool.cfg.Self, &packet.Origin{})
	any := func() *nodes.Node { return l.cfg.Router.OfKey("about") }
	r, err := ask(ctx, l.cfg.Pool, any, c, &logic.AboutRequest{Call: c}, safely, l.cfg.Pool.logic.About)
	if err != nil {
		return 0, err
	}
	return r.StoreEpoch, nil
}
