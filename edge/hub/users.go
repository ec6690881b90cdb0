package hub

import (
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/id"
)

// DeliverUsers is Deliver for every connection that users have at this edge, but one.
func (h *Hub) DeliverUsers(users []id.UserID, frame []byte, but uint64) {
	var few [8]*conn.Conn
	for _, name := range users {
		for _, c := range h.connections(few[:0], name) {
			if c.Incarnation() != but {
				c.Deliver(frame)
			}
		}
	}
}

// connections appends those of a user, logged in and not gone.
func (h *Hub) connections(dst []*conn.Conn, name id.UserID) []*conn.Conn {
	mp, unlock := h.users.lock(name)
	defer unlock()
	if u := (*mp)[name]; u != nil {
		for slot := u.first; slot != 0; slot = h.table.chunk(slot - 1).next[(slot-1)%chunkSlots] {
			if c := h.table.chunk(slot - 1).conns[(slot-1)%chunkSlots].Load(); c != nil {
				dst = append(dst, c)
			}
		}
	}
	return dst
}

// Incarnations appends those of all connections that are logged in.
func (h *Hub) Incarnations(dst []uint64) []uint64 {
	for i := range h.users.shard {
		s := &h.users.shard[i]
		s.mu.Lock()
		for _, u := range s.m {
			for slot := u.first; slot != 0; slot = h.table.chunk(slot - 1).next[(slot-1)%chunkSlots] {
				if c := h.table.chunk(slot - 1).conns[(slot-1)%chunkSlots].Load(); c != nil {
					dst = append(dst, c.Incarnation())
				}
			}
		}
		s.mu.Unlock()
	}
	return dst
}
