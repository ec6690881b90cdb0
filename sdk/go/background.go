package gochat

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/packet"
)

// SetBackground tells the server whether somebody is looking at the app. While nobody is, it
// sends no signals and gathers messages for about a second. It returns when the server knows, or
// ctx ends; the client tells it again whenever it connects. What was held back and matters
// is caught up with by itself when somebody looks again.
func (c *Client) SetBackground(ctx context.Context, background bool) error {
	c.mu.Lock()
	c.background = background
	c.mu.Unlock()
	req := &wire.BackgroundRequest{Background: background}
	return c.do(ctx, packet.MethodBackground, req, func(inner []byte) error {
		return answerInto(packet.MethodBackground, inner, new(wire.BackgroundResponse))
	})
}
