package fanout

import (
	"context"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// Reaches reports whether user has a connection other than but. Where that would have to be asked of
// other nodes it says yes: whatever is pushed is looked up then.
func (h *Handler) Reaches(user id.UserID, but uint64) (some bool) {
	if h.cfg.Pushes > 0 {
		return true
	}
	w := h.signals.Get().(*signaler)
	defer h.signals.Put(w)
	w.users = append(w.users[:0], user)
	w.conns, w.ends = h.cfg.Sessions.Gather(context.Background(), w.users, w.conns[:0], w.ends[:0])
	for _, conn := range w.conns {
		some = some || conn != but
	}
	return some
}

// Push hands s, a signal of the server's own of which it keeps nothing, to every
// connection of user other than but. It doesn't block; what is lost heals by sync.
func (h *Handler) Push(user id.UserID, but uint64, s *wire.Signal) { h.push(user, but, s, false) }

// PushLazily is Push of what can wait a second where more is to be written anyway.
func (h *Handler) PushLazily(user id.UserID, but uint64, s *wire.Signal) { h.push(user, but, s, true) }

func (h *Handler) push(user id.UserID, but uint64, s *wire.Signal, lazily bool) {
	w := h.signals.Get().(*signaler)
	var err error
	if w.body, err = s.Marshal(w.body[:0]); err != nil {
		h.log.Error("fan-out: encoding a signal", "kind", s.Kind, "err", err)
		return
	}
	w.slab = frame.Append(w.slab[:0], frame.Signal, 0, 0, w.body)
	w.skip, w.lazily = but, lazily
	w.users = append(w.users[:0], user)
	if h.cfg.Pushes > 0 {
		select {
		case h.pushes <- w:
		default:
			h.pushesLost.Add(1)
		}
		return
	}
	if w.send(context.Background(), h) {
		h.cfg.Deliver.Flush()
		h.signalled.Add(1)
	}
	h.signals.Put(w)
}

// maxPushes is how many pushes are looked up together.
const maxPushes = 256

// runPushes brings the pushes that wait: all that have gathered while the users of those before were looked up.
func (h *Handler) runPushes(ctx context.Context) {
	var p plan
	batch := make([]*signaler, 0, maxPushes)
	for {
		select {
		case <-ctx.Done():
			return
		case w := <-h.pushes:
			batch = append(batch, w)
		}
		for more := true; more && len(batch) < maxPushes; {
			select {
			case w := <-h.pushes:
				batch = append(batch, w)
			default:
				more = false
			}
		}
		for _, w := range batch {
			p.users = append(p.users, w.users...)
		}
		p.conns, p.ends = h.cfg.Sessions.Gather(ctx, p.users, p.conns[:0], p.ends[:0])
		for i, w := range batch {
			if deliver(h.cfg.Deliver, &p, &parcel{first: int32(i), last: int32(i + 1), skip: w.skip}, w.slab, w.lazily) > 0 {
				h.signalled.Add(1)
			}
		}
		h.cfg.Deliver.Flush()
		for i, w := range batch {
			w.users = w.users[:0]
			h.signals.Put(w)
			batch[i] = nil
		}
		batch = batch[:0]
		clear(p.users)
		p.users = p.users[:0]
	}
}
