// Package loopbus is a bus of tests: events in one process's memory, published and taken by several
// processes of this machine over loopback. It lies apart from the store, as a broker does, and what it held is gone
// with its process. There is neither authentication nor encryption.
package loopbus

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// queues is how many queues there are: a conversation's events are in one, and taken by one process of a group at a time.
const queues = 16

const (
	batchEvents = 256
	batchBytes  = 1 << 20               // of messages a batch, more or less
	againAfter  = 50 * time.Millisecond // an event that a handler failed on comes again
)

// request is what a client begins a connection with, or goes on with.
type request struct {
	Publish   []bus.Event `json:",omitempty"`
	Subscribe string      `json:",omitempty"` // a group, once; then Took for each batch
	Took      bool        `json:",omitempty"`
	Watch     string      `json:",omitempty"` // a group: who takes its events is asked for, and whether Passed has come through
	Passed    *bus.Event  `json:",omitempty"`
}

// reply answers Publish and Watch, and brings batches.
type reply struct {
	Events []bus.Event `json:",omitempty"`
	Taken  uint64      `json:",omitempty"` // bit i: somebody of the group takes from queue i
	Passed bool        `json:",omitempty"`
}

// Server is the bus. It keeps an event until every group that there is has taken it.
type Server struct {
	ln net.Listener
	wg sync.WaitGroup

	mu     sync.Mutex
	wake   *sync.Cond
	logs   [queues]queue
	groups map[string]*group
	conns  map[net.Conn]struct{}
	closed bool
}

// queue is the events that are kept, the first being number base.
type queue struct {
	base   int
	events []bus.Event
}

// group is where a group is, and who takes its events.
type group struct {
	at      [queues]int
	takers  []*taker // the oldest first
	holding [queues]*taker
}

type taker struct{ conn net.Conn }

// Serve serves an empty bus on addr, a loopback address and port (0: any), until Close.
func Serve(addr string) (*Server, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil || !at.Addr().IsLoopback() {
		return nil, fmt.Errorf("loopbus: %q is no loopback address with a port", addr)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("loopbus: %w", err)
	}
	s := &Server{ln: ln, groups: make(map[string]*group), conns: make(map[net.Conn]struct{})}
	s.wake = sync.NewCond(&s.mu)
	s.wg.Go(s.accept)
	return s, nil
}

// Addr is where the server listens.
func (s *Server) Addr() string { return s.ln.Addr().String() }

// Disconnect closes all connections; what was under way may or may not have been taken.
func (s *Server) Disconnect() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		_ = c.Close()
	}
}

// Close ends the server.
func (s *Server) Close() error {
	s.mu.Lock()
	s.closed = true
	s.wake.Broadcast()
	s.mu.Unlock()
	err := s.ln.Close()
	s.Disconnect()
	s.wg.Wait()
	return err
}

func (s *Server) accept() {
	for {
		c, err := s.ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		if s.closed {
			_ = c.Close()
		} else {
			s.conns[c] = struct{}{}
			s.wg.Go(func() { s.serve(c) })
		}
		s.mu.Unlock()
	}
}

func (s *Server) serve(c net.Conn) {
	defer func() {
		_ = c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	for {
		var r request
		if in.Decode(&r) != nil {
			return
		}
		if r.Subscribe != "" {
			s.feed(c, r.Subscribe, in, out)
			return
		}
		s.take(r.Publish)
		if out.Encode(s.look(r.Watch, r.Passed)) != nil {
			return
		}
	}
}

func queueOf(conv id.ConversationID) int {
	return int(binary.BigEndian.Uint32(conv[len(conv)-4:]) % queues)
}

func (s *Server) take(evs []bus.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range evs {
		q := &s.logs[queueOf(evs[i].Conversation)]
		q.events = append(q.events, evs[i])
	}
	s.trim()
	s.wake.Broadcast()
}

// look says who takes a group's events, and whether ev, which was published, has come through.
func (s *Server) look(name string, ev *bus.Event) (r reply) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.groups[name]
	if g == nil {
		return r
	}
	for i, holder := range g.holding {
		if holder != nil {
			r.Taken |= 1 << i
		}
	}
	if ev == nil {
		return r
	}
	i := queueOf(ev.Conversation)
	left := s.logs[i].events[g.at[i]-s.logs[i].base:]
	r.Passed = !slices.ContainsFunc(left, func(o bus.Event) bool {
		return o.Conversation == ev.Conversation && o.Epoch == ev.Epoch && o.FirstSeq <= ev.LastSeq
	})
	return r
}

// trim drops what every group has taken. mu is held.
func (s *Server) trim() {
	for i := range s.logs {
		q := &s.logs[i]
		end := q.base + len(q.events)
		for _, g := range s.groups {
			end = min(end, g.at[i])
		}
		if n := end - q.base; n > 0 {
			clear(q.events[:n])
			q.base, q.events = end, q.events[n:]
		}
	}
}

// feed brings a group's events to one of its takers until the connection ends.
func (s *Server) feed(c net.Conn, name string, in *json.Decoder, out *json.Encoder) {
	t := &taker{c}
	s.mu.Lock()
	g := s.groups[name]
	if g == nil { // it begins with what comes from now on
		g = new(group)
		for i := range s.logs {
			g.at[i] = s.logs[i].base + len(s.logs[i].events)
		}
		s.groups[name] = g
	}
	g.takers = append(g.takers, t)
	g.divide()
	s.wake.Broadcast()
	s.mu.Unlock()
	if out.Encode(reply{}) != nil { // the taker knows that it is one
		s.leave(g, t)
		return
	}
	answers := make(chan bool)
	gone := make(chan struct{})
	s.wg.Go(func() { // sees the end of the connection while there is nothing to bring
		defer close(answers)
		for {
			var r request
			if in.Decode(&r) != nil {
				s.leave(g, t)
				return
			}
			select {
			case answers <- r.Took:
			case <-gone:
				return
			}
		}
	})
	defer close(gone)
	defer func() { _ = c.Close() }()
	for {
		i, evs := s.next(g, t)
		if i < 0 || out.Encode(reply{Events: evs}) != nil {
			return
		}
		took, more := <-answers
		if !more {
			return
		}
		if !took {
			time.Sleep(againAfter) // a test's broker retries so
			continue
		}
		s.mu.Lock()
		if g.holding[i] == t {
			g.at[i] += len(evs)
			s.trim()
		}
		s.mu.Unlock()
	}
}

// divide gives each of a group's takers its part of the queues. mu is held.
func (g *group) divide() {
	for i := range g.holding {
		g.holding[i] = nil
		if n := len(g.takers); n > 0 {
			g.holding[i] = g.takers[i%n]
		}
	}
}

func (s *Server) leave(g *group, t *taker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range g.takers {
		if g.takers[i] == t {
			g.takers = append(g.takers[:i], g.takers[i+1:]...)
			g.divide()
			break
		}
	}
	s.wake.Broadcast()
}

// next waits for events of one of t's queues; -1: t is none of the group's takers any more.
func (s *Server) next(g *group, t *taker) (int, []bus.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.closed || !g.has(t) {
			return -1, nil
		}
		for i, holder := range g.holding {
			q := &s.logs[i]
			if rest := q.events[g.at[i]-q.base:]; holder == t && len(rest) > 0 {
				n, size := 0, 0
				for n < min(len(rest), batchEvents) && size < batchBytes {
					size += len(rest[n].Messages)
					n++
				}
				return i, append([]bus.Event(nil), rest[:n]...)
			}
		}
		s.wake.Wait()
	}
}

func (g *group) has(t *taker) bool {
	for _, o := range g.takers {
		if o == t {
			return true
		}
	}
	return false
}
