package conn

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// backgroundBytes is how much may wait for a client in the background until it is written
// without waiting for the next sweep, which comes within a second.
const backgroundBytes = 16 << 10

// withhold keeps a signal from a client in the background, and remembers whether it has to look
// again when it is back. It reports false for what isn't a signal. mu is held.
func (c *Conn) withhold(b []byte) bool {
	f, n, err := frame.Parse(b, frame.HardMax)
	if err != nil || n == 0 || f.Type != frame.Signal {
		return false
	}
	if c.missed {
		return true
	}
	m, derr := packet.DecodeSignal(f.Body)
	c.missed = derr != nil || packet.StoredSignal(m.Kind) // these tell of something stored
	return true
}

// answerBackground acts on BACKGROUND.
func (c *Conn) answerBackground(ctx context.Context, f *frame.Frame, inner []byte) *code.Error {
	var r wire.BackgroundRequest
	if err := packet.DecodeMethod(packet.MethodBackground, inner, &r); err != nil {
		return err
	}
	c.mu.Lock()
	look := !r.Background && c.background && c.missed && c.state.Load() == stateConnected
	c.background = r.Background
	if look {
		c.missed = false
		if c.lag != nil { // told when the queue is empty
			c.lag.all = true
		} else {
			c.lag = &lag{all: true}
			c.hint()
		}
	}
	c.mu.Unlock()
	return c.respond(ctx, f, packet.MethodBackground, new(wire.BackgroundResponse))
}
