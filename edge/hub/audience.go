package hub

import (
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/id"
)

// Audiences are the connections of this edge that belong to members of large groups: one
// dense slice a group, so that what goes to all of them costs a pass over it and nothing for members
// who aren't here. Who is in one, and when, is its caller's to say: calls about one conversation
// that change who is in it come one after the other, and Deliver has one caller at a time; connections that
// end leave by themselves. Different conversations are independent.
type Audiences struct {
	h     *Hub
	seats atomic.Int64
	stamp atomic.Uint64 // of the last change of a room

	mu     sync.RWMutex
	byConv map[id.ConversationID]*audience
}

func (a *Audiences) init(h *Hub) {
	a.h = h
	a.byConv = make(map[id.ConversationID]*audience)
}

// Audiences returns those of this hub that this process leads.
func (h *Hub) Audiences() *Audiences { return &h.audiences }

// NewAudiences returns another set of this hub's audiences, which knows nothing of the others: for each of
// those who lead some, and for one conversation maybe two at a time.
func (h *Hub) NewAudiences() *Audiences {
	a := new(Audiences)
	a.init(h)
	return a
}

// Clear closes all of them.
func (a *Audiences) Clear() {
	a.mu.RLock()
	convs := slices.Collect(maps.Keys(a.byConv))
	a.mu.RUnlock()
	for _, conv := range convs {
		a.Close(conv)
	}
}

// audience is the connections for one conversation. A place never moves while a Deliver
// runs, so that nobody is passed over or met twice: who goes leaves a hole, which the next one to come takes.
type audience struct {
	home   *Audiences
	mu     sync.Mutex
	places []place
	holes  []uint32
	closed atomic.Bool // written with mu held

	changes uint64 // of a room, the stamp of the last one; guarded by mu
	round   *round // of a room
}

type place struct {
	c    *conn.Conn // nil: a hole
	s    *seat
	upTo uint64 // of a room's news, those before this number were handed to it
}

// seat is a connection's part of an audience. Those of one connection are linked from
// its slot of the table, guarded like the user's list of connections.
type seat struct {
	of   *audience
	at   uint32      // guarded by of.mu
	left atomic.Bool // whoever has the connection in hand for this seat hands it nothing more; written with of.mu held
	next *seat
}

// Open makes an empty audience for conv, unless there is one.
func (a *Audiences) Open(conv id.ConversationID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.byConv[conv] == nil {
		a.byConv[conv] = &audience{home: a}
	}
}

// Close ends the audience of conv. Seats in it are dropped when their connections next
// join or leave something.
func (a *Audiences) Close(conv id.ConversationID) {
	a.mu.Lock()
	au := a.byConv[conv]
	delete(a.byConv, conv)
	a.mu.Unlock()
	if au == nil {
		return
	}
	au.mu.Lock()
	au.closed.Store(true)
	a.seats.Add(int64(len(au.holes) - len(au.places)))
	au.places, au.holes = nil, nil
	if au.round != nil {
		au.forget(0)
	}
	au.mu.Unlock()
}

func (a *Audiences) of(conv id.ConversationID) *audience {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.byConv[conv]
}

// Len is how many audiences are open.
func (a *Audiences) Len() int {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return len(a.byConv)
}

// Seats is how many connections are in audiences, each counted as often as it is in one.
func (a *Audiences) Seats() int { return int(a.seats.Load()) }

// Join brings the connections that users have now into the audience of conv, if it is
// open; those that are in it stay. A connection counts from Login on: who logs in later
// is to be brought in by whoever asks which audiences the user belongs to after that.
func (a *Audiences) Join(conv id.ConversationID, users []id.UserID) {
	au := a.of(conv)
	if au == nil {
		return
	}
	t := &a.h.table
	for _, name := range users {
		s := a.h.users.of(name)
		s.mu.Lock()
		if u := s.m[name]; u != nil {
			for slot := u.first; slot != 0; slot = t.chunk(slot - 1).next[(slot-1)%chunkSlots] {
				k, i := t.chunk(slot-1), (slot-1)%chunkSlots
				if c := k.conns[i].Load(); c != nil && !seated(&k.seats[i], au) {
					if s := (&seat{of: au, next: k.seats[i]}); au.add(c, s) {
						k.seats[i] = s
						a.seats.Add(1)
					}
				}
			}
		}
		s.mu.Unlock()
	}
}

// seated reports whether au is in the list, and drops what ended from it.
func seated(list **seat, au *audience) (in bool) {
	for p := list; *p != nil; {
		switch {
		case (*p).of.closed.Load():
			*p = (*p).next
			continue
		case (*p).of == au:
			in = true
		}
		p = &(*p).next
	}
	return in
}

// Leave takes the connections of users out of the audience of conv.
func (a *Audiences) Leave(conv id.ConversationID, users []id.UserID) {
	au := a.of(conv)
	if au == nil {
		return
	}
	t := &a.h.table
	for _, name := range users {
		s := a.h.users.of(name)
		s.mu.Lock()
		if u := s.m[name]; u != nil {
			for slot := u.first; slot != 0; slot = t.chunk(slot - 1).next[(slot-1)%chunkSlots] {
				for p := &t.chunk(slot - 1).seats[(slot-1)%chunkSlots]; *p != nil; p = &(*p).next {
					if (*p).of == au {
						(*p).leave()
						*p = (*p).next
						break
					}
				}
			}
		}
		s.mu.Unlock()
	}
}

// gone takes a connection out of all its audiences. Its slot's list was taken off before.
func gone(list *seat) {
	for s := list; s != nil; s = s.next {
		s.leave()
	}
}

func (s *seat) leave() {
	if s.of.remove(s) {
		s.of.home.seats.Add(-1)
	}
}

// add gives c a place; false: the audience has ended.
func (au *audience) add(c *conn.Conn, s *seat) bool {
	au.mu.Lock()
	defer au.mu.Unlock()
	if au.closed.Load() {
		return false
	}
	au.change()
	if n := len(au.holes); n > 0 {
		s.at = au.holes[n-1]
		au.holes = au.holes[:n-1]
		au.places[s.at] = place{c, s, au.last()}
		return true
	}
	s.at = uint32(len(au.places))
	au.places = append(au.places, place{c, s, au.last()})
	return true
}

// change notes that somebody comes or goes. mu is held.
func (au *audience) change() {
	if au.round != nil {
		au.changes = au.home.stamp.Add(1)
	}
}

// remove makes a hole of s's place; false: it has none any more.
func (au *audience) remove(s *seat) bool {
	au.mu.Lock()
	defer au.mu.Unlock()
	if au.closed.Load() {
		return false
	}
	au.change()
	s.left.Store(true)
	au.places[s.at] = place{}
	au.holes = append(au.holes, s.at)
	return true
}

// manyHoles is from where on an audience that is more than half holes is moved together.
const manyHoles = 64

// begin readies the audience for a pass and returns how many places it has.
func (au *audience) begin() int {
	au.mu.Lock()
	defer au.mu.Unlock()
	au.compact()
	return len(au.places)
}

// compact moves the places together if there are many holes. mu is held, and nobody goes over them.
func (au *audience) compact() {
	if n := len(au.holes); n >= manyHoles && n > len(au.places)/2 {
		places := make([]place, 0, len(au.places)-n)
		for _, p := range au.places {
			if p.c != nil {
				p.s.at = uint32(len(places))
				places = append(places, p)
			}
		}
		au.places, au.holes = places, nil
	}
}

// group is how many connections are written to before the next ones are looked at: few
// enough for their buffers to stay in the cache and in the pool.
const group = 32

// pass is one Deliver under way. Its goroutines share what is to be done and take it piece by piece.
type pass struct {
	h     *Hub
	au    *audience
	conv  id.ConversationID
	last  uint64
	frame []byte
	ends  []int
	but   []uint64
	flush bool

	single  uint64 // the only connection that doesn't get everything; 0: none
	several bool   // there are more of them

	at, end int // places not taken yet; guarded by au.mu
	reached atomic.Int64
	helpers sync.WaitGroup
}

var passes = sync.Pool{New: func() any { return new(pass) }}

// take copies the next connections into dst and returns how many; 0: there are no more.
func (p *pass) take(dst *[group]*conn.Conn) (n int) {
	p.au.mu.Lock()
	defer p.au.mu.Unlock()
	end := min(p.end, len(p.au.places)) // it may have been closed
	for ; p.at < end && n < group; p.at++ {
		if c := p.au.places[p.at].c; c != nil {
			dst[n] = c
			n++
		}
	}
	return n
}

// run takes connections until there are none left.
func (p *pass) run() {
	var cs [group]*conn.Conn
	for n := p.take(&cs); n > 0; n = p.take(&cs) {
		p.reached.Add(int64(n))
		write := cs[:0]
		for _, c := range cs[:n] {
			own, touch := c.Incarnation(), false
			if own == p.single || p.several && slices.Contains(p.but, own) {
				touch = p.pushOthers(c)
			} else {
				touch = c.Push(p.frame, len(p.ends), p.conv, p.last)
			}
			switch {
			case touch && p.flush:
				write = append(write, c)
			case touch:
				p.h.Touch(c)
			}
		}
		for _, c := range write {
			c.Flush()
		}
		// Writing takes hundreds of microseconds; whoever reads and acks meanwhile goes first.
		runtime.Gosched()
	}
}

// Deliver hands frames to every connection in the audience of conv and returns how many
// connections that were, whether they could take it or not. frames are whole frames that tell of messages up to
// last; the i-th ends at ends[i] and isn't for connection but[i]. Nothing is kept of the
// arguments. With flush each connection is written to at once, a few at a time, which costs the least memory
// and time; without, the next Flush writes, which is for when more is about to be delivered to many of the same ones.
func (a *Audiences) Deliver(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) (connections int) {
	au := a.of(conv)
	if au == nil {
		return 0
	}
	p := passes.Get().(*pass)
	p.h, p.au, p.conv, p.last, p.frame, p.ends, p.but, p.flush = a.h, au, conv, last, frames, ends, but, flush
	p.at, p.end, p.single, p.several = 0, au.begin(), 0, false
	p.reached.Store(0)
	for _, b := range but {
		switch {
		case b == 0 || b == p.single:
		case p.single == 0:
			p.single = b
		default:
			p.several = true
		}
	}
	if flush {
		a.h.flushes.Add(1)
		if p.end >= manyPlaces {
			for range min(runtime.GOMAXPROCS(0), maxRunners) - 1 {
				p.helpers.Go(p.run)
			}
		}
	}
	p.run()
	p.helpers.Wait()
	connections = int(p.reached.Load())
	p.au, p.frame, p.ends, p.but = nil, nil, nil, nil
	passes.Put(p)
	return connections
}

// pushOthers hands c the frames that aren't its own.
func (p *pass) pushOthers(c *conn.Conn) (touch bool) {
	from := 0
	for i, end := range p.ends {
		if p.but[i] != c.Incarnation() && c.Push(p.frame[from:end:end], 1, p.conv, p.last) {
			touch = true
		}
		from = end
	}
	return touch
}
