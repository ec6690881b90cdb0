package rpc

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/logic"
)

// About implements the service.
func (h *logicHandler) About(context.Context, *logic.AboutRequest) (*logic.AboutReply, error) {
	return &logic.AboutReply{StoreEpoch: h.StoreEpoch}, nil
}
