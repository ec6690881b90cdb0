package hub

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Rooms are the connections of this edge that are in rooms: who is in one is known here, and nowhere stored. A connection
// is in it until it leaves or ends. What is delivered to a room is left out for connections that can't take it
// at once, without a HINT. It is safe for concurrent use.
type Rooms struct {
	a         Audiences
	delivered atomic.Uint64
}

// maxRoomsPerConn is how many rooms one connection may be in.
const maxRoomsPerConn = 32

// Rooms returns those of this hub.
func (h *Hub) Rooms() *Rooms { return &h.rooms }

// Seat brings a connection into the room conv; entered is false if it was there already. It is refused to one that has
// ended, or is in too many rooms.
func (r *Rooms) Seat(conv id.ConversationID, incarnation uint64) (entered bool, err *code.Error) {
	c := r.a.h.table.get(incarnation)
	if c == nil {
		return false, errNoRoom
	}
	s := r.a.h.users.of(c.Origin().User)
	s.mu.Lock()
	defer s.mu.Unlock()
	list := r.a.h.seatsOf(s.m[c.Origin().User], c)
	if list == nil {
		return false, errNoRoom
	}
	for {
		au := r.open(conv)
		if seated(list, au) {
			return false, nil
		}
		n := 0
		for at := *list; at != nil; at = at.next {
			if at.of.round != nil {
				n++
			}
		}
		if n >= maxRoomsPerConn {
			return false, code.Newf(code.TooMany, "a connection is in at most %d rooms", maxRoomsPerConn)
		}
		// One that is closed at this moment, because nobody was in it, is opened again.
		if at := (&seat{of: au, next: *list}); au.add(c, at) {
			*list = at
			r.a.seats.Add(1)
			return true, nil
		}
	}
}

var errNoRoom = code.Newf(code.BadRequest, "a room is entered by a connection")

// seatsOf is the list of c's seats, nil if c isn't one of the connections of u. The shard of the user is locked.
func (h *Hub) seatsOf(u *user, c *conn.Conn) **seat {
	if u == nil {
		return nil
	}
	for slot := u.first; slot != 0; slot = h.table.chunk(slot - 1).next[(slot-1)%chunkSlots] {
		k, i := h.table.chunk(slot-1), (slot-1)%chunkSlots
		if k.conns[i].Load() == c {
			return &k.seats[i]
		}
	}
	return nil
}

// open returns the audience of conv.
func (r *Rooms) open(conv id.ConversationID) *audience {
	a := &r.a
	if au := a.of(conv); au != nil {
		return au
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	au := a.byConv[conv]
	if au == nil {
		au = &audience{home: a, round: new(round)}
		au.round.changed.L = &au.mu
		a.byConv[conv] = au
	}
	return au
}

// Unseat takes a connection out of the room conv.
func (r *Rooms) Unseat(conv id.ConversationID, incarnation uint64) {
	au, c := r.a.of(conv), r.a.h.table.get(incarnation)
	if au == nil || c == nil {
		return
	}
	s := r.a.h.users.of(c.Origin().User)
	s.mu.Lock()
	defer s.mu.Unlock()
	list := r.a.h.seatsOf(s.m[c.Origin().User], c)
	if list == nil {
		return
	}
	for p := list; *p != nil; p = &(*p).next {
		if (*p).of == au {
			(*p).leave()
			*p = (*p).next
			return
		}
	}
}

// Eject takes all connections of a user out of the room conv.
func (r *Rooms) Eject(conv id.ConversationID, user id.UserID) { r.a.Leave(conv, []id.UserID{user}) }

// Deliver has every connection in the room conv handed whole frames, in the order of each caller's calls, and returns how many connections
// that are. The i-th frame ends at ends[i] and isn't for connection but[i]. It keeps nothing of its arguments. It does not wait
// for the connections, but while as much is on its way as the room, or all rooms, may hold.
func (r *Rooms) Deliver(conv id.ConversationID, frames []byte, ends []int, but []uint64) (connections int) {
	au := r.a.of(conv)
	if au == nil {
		return 0
	}
	n := au.deliver(frames, ends, but)
	r.delivered.Add(uint64(n) * uint64(len(ends)))
	return n
}

// Len is how many rooms somebody is in here, Seats how many connections are in rooms, each counted in every one, and
// Delivered how many frames were handed to them.
func (r *Rooms) Len() int          { return r.a.Len() }
func (r *Rooms) Seats() int        { return r.a.Seats() }
func (r *Rooms) Delivered() uint64 { return r.delivered.Load() }

// Each calls fn with each room and a number that is another one whenever somebody has come or gone. Rooms in which nobody
// has been since the call before are forgotten, after fn had them.
func (r *Rooms) Each(fn func(conv id.ConversationID, changes uint64)) {
	r.a.mu.RLock()
	all := maps.Clone(r.a.byConv)
	r.a.mu.RUnlock()
	for conv, au := range all {
		au.mu.Lock()
		changes, empty := au.changes, len(au.places) == len(au.holes)
		au.mu.Unlock()
		fn(conv, changes)
		if empty {
			r.forget(conv, au)
		}
	}
}

// forget closes au, unless somebody has come meanwhile.
func (r *Rooms) forget(conv id.ConversationID, au *audience) {
	r.a.mu.Lock()
	defer r.a.mu.Unlock()
	au.mu.Lock()
	defer au.mu.Unlock()
	if len(au.places) == len(au.holes) && r.a.byConv[conv] == au {
		au.closed.Store(true)
		delete(r.a.byConv, conv)
	}
}

// Members appends the connections that are in the room conv, and whose each of them is.
func (r *Rooms) Members(conv id.ConversationID, conns []uint64, users []id.UserID) ([]uint64, []id.UserID) {
	au := r.a.of(conv)
	if au == nil {
		return conns, users
	}
	au.mu.Lock()
	defer au.mu.Unlock()
	conns, users = slices.Grow(conns, len(au.places)), slices.Grow(users, len(au.places))
	for _, p := range au.places {
		if p.c != nil {
			conns, users = append(conns, p.c.Incarnation()), append(users, p.c.Origin().User)
		}
	}
	return conns, users
}
