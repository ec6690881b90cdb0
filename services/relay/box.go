package relay

import (
	"fmt"
	"sync"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Box is an edge's end of what Edges of other nodes bring.
type Box struct {
	hub   *hub.Hub
	hints *Hints

	own     string         // this node, if it leads audiences itself
	ownLed  *hub.Audiences // those
	mu      sync.Mutex
	senders map[string]*sender // by node id
}

// sender is one node that brings something.
type sender struct {
	box *Box

	mu     sync.Mutex // one letter at a time
	start  uint64
	stream uint64
	next   uint64 // number of the parcel that comes next
	seats  *hub.Audiences
	heard  []heard // in the letter under way
	closed bool
}

// NewBox returns the Box of h. hints is where HINTs go that are to be spread.
func NewBox(h *hub.Hub, hints *Hints) *Box {
	return &Box{hub: h, hints: hints, senders: make(map[string]*sender)}
}

// Near says that this node, self, may lead audiences as well: led. It is for before the first connection.
func (b *Box) Near(self string, led *hub.Audiences) { b.own, b.ownLed = self, led }

// SetView forgets nodes that are gone, and closes their audiences.
func (b *Box) SetView(v View) {
	alive := make(map[string]bool)
	for _, n := range v.Logics() {
		alive[n.ID] = true
	}
	for _, n := range v.Fanouts() {
		alive[n.ID] = true
	}
	var gone []*sender
	b.mu.Lock()
	for node, s := range b.senders {
		if !alive[node] {
			gone = append(gone, s)
			delete(b.senders, node)
		}
	}
	b.mu.Unlock()
	for _, s := range gone {
		s.mu.Lock()
		s.closed = true
		s.seats.Clear()
		s.mu.Unlock()
	}
}

// Leads returns the nodes that lead audiences here, appended to dst: whoever connects now may belong to some of theirs.
func (b *Box) Leads(dst []string) []string {
	if b.ownLed != nil && b.ownLed.Len() > 0 {
		dst = append(dst, b.own)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for node, s := range b.senders {
		if s.seats.Len() > 0 {
			dst = append(dst, node)
		}
	}
	return dst
}

func (b *Box) sender(node string) *sender {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.senders[node]
	if s == nil {
		s = &sender{box: b, seats: b.hub.NewAudiences()}
		b.senders[node] = s
	}
	return s
}

// Take takes what a node brings and returns the receipt. body is not kept. An error is about
// what can't be read.
func (b *Box) Take(body []byte) ([]byte, error) {
	l, err := readLetter(body)
	if err != nil {
		return nil, fmt.Errorf("reading what a node brings: %w", err)
	}
	err = obey(l.orders, b.hub.Close, func(v Revocation) {
		b.hub.CloseUserUntil(v.User, v.Device, v.Until, code.Newf(code.SessionRevoked, "%s", v.Why))
	}, b.hub.Rooms().Eject)
	if err != nil {
		return nil, fmt.Errorf("reading what %s orders: %w", l.node, err)
	}
	s := b.sender(l.node)
	s.mu.Lock()
	defer s.mu.Unlock()
	var r receipt
	if !s.follows(&l) {
		r.lost = true
		return r.append(nil), nil
	}
	s.heard = s.heard[:0]
	if end := l.first + l.count; end > s.next {
		g := gathered{post: s}
		err = deal(l.body, s.next-l.first, &g)
		g.pass()
		s.next = end
		b.hub.Flush()
	}
	if err != nil {
		return nil, fmt.Errorf("reading what %s brings: %w", l.node, err)
	}
	r.heard, r.seats = s.heard, uint64(s.seats.Seats())
	return r.append(nil), nil
}

// follows reports whether a letter goes on where the one before ended, or begins before that, or begins a new stream. mu is held.
func (s *sender) follows(l *letter) bool {
	switch {
	case s.closed:
		return false
	case l.start == s.start && l.stream < s.stream:
		return false // on its way for long
	case l.start == s.start && l.stream == s.stream:
		return l.first <= s.next
	case l.first != 1:
		return false
	}
	s.seats.Clear()
	s.start, s.stream, s.next = l.start, l.stream, 1
	return true
}

func (s *sender) clear() { s.seats.Clear() }

func (s *sender) frame(conns []uint64, frame []byte, lazily bool) {
	for _, conn := range conns {
		if lazily {
			s.box.hub.DeliverLazily(conn, frame)
		} else {
			s.box.hub.Deliver(conn, frame)
		}
	}
}

func (s *sender) users(users []id.UserID, frame []byte, but uint64) {
	s.box.hub.DeliverUsers(users, frame, but)
}
func (s *sender) open(conv id.ConversationID)                     { s.seats.Open(conv) }
func (s *sender) end(conv id.ConversationID)                      { s.seats.Close(conv) }
func (s *sender) join(conv id.ConversationID, users []id.UserID)  { s.seats.Join(conv, users) }
func (s *sender) leave(conv id.ConversationID, users []id.UserID) { s.seats.Leave(conv, users) }
func (s *sender) hint(conns []uint64)                             { s.box.hints.Spread(conns) }
func (s *sender) audience(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) {
	n := s.seats.Deliver(conv, last, frames, ends, but, flush)
	s.heard = append(s.heard, heard{conv, uint64(n)})
}

func (s *sender) room(conv id.ConversationID, frames []byte, ends []int, but []uint64) {
	n := s.box.hub.Rooms().Deliver(conv, frames, ends, but)
	s.heard = append(s.heard, heard{conv, uint64(n)})
}

func (s *sender) tell(perSecond int, frame []byte) { s.box.hub.Tell(frame, perSecond) }

// Stats returns how many nodes bring something, and the connections in the audiences that they lead.
func (b *Box) Stats() (senders, seats int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.senders {
		seats += s.seats.Seats()
	}
	return len(b.senders), seats
}
