package hub

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Elsewhere is where clients may go when this edge leaves: host:port of other edges, by how they are connected.
type Elsewhere struct {
	Sockets []string // those of the binary protocol's port
	Web     []string // WebSockets and streams of events
}

// drainRate is how many clients a second connect again after a drain at most, if nothing else is configured; slowRate
// is how many of them a second the other edges may be able to take, at worst.
const (
	drainRate = 2000
	slowRate  = 250
)

// How long clients have to leave, if nothing else is configured. They are waited for no longer than they take.
const (
	leaveAtOnce = 3 * time.Second // without anywhere else to go
	leaveLeast  = 10 * time.Second
	leaveMost   = time.Minute
)

// drainJitter is the time over which n clients spread when they connect again.
func (h *Hub) drainJitter(n int) time.Duration {
	if h.cfg.DrainJitter > 0 {
		return h.cfg.DrainJitter
	}
	return max(time.Second, time.Duration(n)*time.Second/drainRate)
}

// LeaveTime is how long those who are connected now may need to go elsewhere, where that is slow: all are told at slowRate, and
// the last have a third of it left. Where it isn't slow, Leave ends when they are gone.
func (h *Hub) LeaveTime(to Elsewhere) time.Duration {
	if len(h.cfg.Alternatives)+len(to.Sockets)+len(to.Web) == 0 {
		return leaveAtOnce
	}
	n := h.Count()
	return min(max(leaveLeast, h.drainJitter(n)*3/2, time.Duration(n)*time.Second/slowRate*3/2), leaveMost)
}

// comeBack is the error for a client that is sent away by a drain: each is told another time.
func (h *Hub) comeBack() *code.Error {
	err := code.New(code.Draining)
	if j := h.jitter.Load(); j > 0 {
		err.RetryAfter = time.Duration(rand.Int64N(j) + 1)
	}
	return err
}

// Shutdown is Leave for good, to where the configuration says.
func (h *Hub) Shutdown(ctx context.Context) error { return h.Leave(ctx, Elsewhere{}) }

// Leave admits nobody any more and asks all clients to go before the deadline of ctx (or within 10 s): those who have
// somewhere else to go in such a number at a time as the others take, and all in time; the rest at once. It waits for
// them until the deadline, or until nobody has gone for quietTime although all were asked, and closes those that are
// left then, with a time of their own to come back at. If ctx is cancelled before its deadline those that are left
// stay. Stay takes it back; one of both at a time.
func (h *Hub) Leave(ctx context.Context, to Elsewhere) error {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(10 * time.Second)
	}
	linger := h.edge.Config().Linger
	left := max(time.Until(deadline)-linger, 0)
	jitter := h.drainJitter(h.Count())
	h.jitter.Store(int64(jitter))
	to = Elsewhere{append(slices.Clip(h.cfg.Alternatives), to.Sockets...), append(slices.Clip(h.cfg.Alternatives), to.Web...)}
	h.elsewhere.Store(&to)
	h.draining.Store(true)
	if err := h.sendAway(ctx, to, left, jitter); err != nil {
		return err
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return fmt.Errorf("sending clients away: %w", ctx.Err())
	}
	if n := h.Count(); n > 0 {
		h.log.Info("closing connections that have not left", "connections", n)
	}
	h.table.each(0, h.table.slots(), func(c *conn.Conn) { c.Close(h.comeBack()) })
	h.await(ctx, linger/2)
	h.table.each(0, h.table.slots(), (*conn.Conn).Abort)
	if n := h.Count(); n > 0 {
		h.await(ctx, linger/2)
	}
	if n := h.Count(); n > 0 {
		return fmt.Errorf("closing connections: %d are left", n)
	}
	return nil
}

// Stay admits clients again after a Leave that has ended.
func (h *Hub) Stay() {
	h.draining.Store(false)
	h.elsewhere.Store(nil)
	h.jitter.Store(0)
}

// Farewell is what a client is written that was not admitted: why, and before that where else it may go, if this edge
// is leaving and there is somewhere. web: it came by HTTP.
func (h *Hub) Farewell(refused *code.Error, web bool) []byte {
	var out []byte
	if to := h.elsewhere.Load(); to != nil && refused.Code == code.Draining {
		places := to.Sockets
		if web {
			places = to.Web
		}
		if len(places) > 0 {
			out, _ = drainFrame(0, 0, places) // without it the client still learns the reason
		}
	}
	return packet.AppendError(out, 0, false, refused, id.ConversationID{})
}

// drainFrame returns the DRAIN for clients who have the time left.
func drainFrame(left, jitter time.Duration, to []string) ([]byte, error) {
	body, err := (&wire.Drain{DeadlineMs: uint32(left.Milliseconds()), JitterMs: uint32(jitter.Milliseconds()), Alternatives: to}).Marshal(nil)
	if err != nil {
		return nil, fmt.Errorf("encoding DRAIN: %w", err)
	}
	return frame.Append(nil, frame.Drain, 0, 0, body), nil
}

// await waits until no connection is left, at most d, and ctx's end.
func (h *Hub) await(ctx context.Context, d time.Duration) {
	end := time.Now().Add(d)
	for h.Count() > 0 && time.Now().Before(end) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}
