package hub

import (
	"slices"
	"sync"
	"time"
)

// notices are what waits to be told to all connections, the oldest first.
type notices struct {
	mu    sync.Mutex
	queue []notice
}

type notice struct {
	frame []byte
	step  int
	conns []uint64 // that aren't told yet
}

// maxNotices bounds what waits: whoever tells everybody is limited long before.
const maxNotices = 16

// Tell hands a whole frame, which is copied, to every connection that is logged in now: perSecond of them a second,
// so that nothing else waits for it. It doesn't block; Run does it. It reports false when too many wait.
func (h *Hub) Tell(frame []byte, perSecond int) bool {
	n := notice{slices.Clone(frame), max(perSecond/int(time.Second/sweepTick), 1), h.Incarnations(nil)}
	h.notices.mu.Lock()
	defer h.notices.mu.Unlock()
	if len(h.notices.queue) == maxNotices {
		return false
	}
	h.notices.queue = append(h.notices.queue, n)
	return true
}

// tell tells the next connections.
func (h *Hub) tell() {
	q := &h.notices
	q.mu.Lock()
	if len(q.queue) == 0 {
		q.mu.Unlock()
		return
	}
	n := &q.queue[0]
	now := n.conns[:min(n.step, len(n.conns))]
	f := n.frame
	if n.conns = n.conns[len(now):]; len(n.conns) == 0 {
		q.queue = slices.Delete(q.queue, 0, 1)
	}
	q.mu.Unlock()
	for _, c := range now {
		h.Deliver(c, f)
	}
	h.Flush()
}
