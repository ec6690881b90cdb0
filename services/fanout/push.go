package fanout

import (
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
)

// Reaches reports whether user has a connection other than but.
func (h *Handler) Reaches(user id.UserID, but uint64) (some bool) {
	h.cfg.Sessions.Each(user, func(conn uint64, _ id.DeviceID) { some = some || conn != but })
	return some
}

// Push hands s, a signal of the server's own of which it keeps nothing, to every
// connection of user other than but. It doesn't block; what is lost heals by sync.
func (h *Handler) Push(user id.UserID, but uint64, s *wire.Signal) { h.push(user, but, s, false) }

// PushLazily is Push of what can wait a second where more is to be written anyway.
func (h *Handler) PushLazily(user id.UserID, but uint64, s *wire.Signal) { h.push(user, but, s, true) }

func (h *Handler) push(user id.UserID, but uint64, s *wire.Signal, lazily bool) {
	w := h.signals.Get().(*signaler)
	defer h.signals.Put(w)
	var err error
	if w.body, err = s.Marshal(w.body[:0]); err != nil {
		h.log.Error("fan-out: encoding a signal", "kind", s.Kind, "err", err)
		return
	}
	w.slab = frame.Append(w.slab[:0], frame.Signal, 0, 0, w.body)
	w.frame, w.skip, w.lazily, w.n = w.slab, but, lazily, 0
	h.cfg.Sessions.Each(user, w.each)
	w.frame, w.lazily = nil, false
	if w.n > 0 {
		h.cfg.Deliver.Flush()
		h.signalled.Add(1)
	}
}
