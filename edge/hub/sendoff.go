package hub

import (
	"context"
	"errors"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
)

// How clients are sent elsewhere.
const (
	paceTick   = 100 * time.Millisecond
	scanTime   = time.Second      // between looks for those who have logged in meanwhile
	moveJitter = time.Second      // at most, of those who are told at the same time
	moveTime   = 12 * time.Second // who was told longer ago isn't on the way any more: moveJitter, and the time that a login has unless configured
	moveLeast  = 256              // on their way at the same time, and moveShare of all if that is more
	moveShare  = 8                // one of so many
	quietTime  = 15 * time.Second // more than a client gives the first place before it tries the next
)

// sendoff is who is still to be told to go, and who was told.
//
// How fast other edges take clients isn't known: it depends on machines, on networks, and on how many edges there are. So
// clients are told when to go by others having gone, as a sender's window opens with its acks, and no faster than a
// rate; but in any case so that the last is told when a third of the time is left.
type sendoff struct {
	h      *Hub
	to     Elsewhere
	jitter time.Duration // of those with nowhere else to go
	spread time.Duration // from the beginning until all were told
	rate   float64       // told a second, at most

	known map[uint64]struct{} // incarnations that were told, or are in todo
	todo  []uint64            // who has somewhere else to go, in the order in which they are told
	told  int                 // of those who were in todo
	away  []departing         // told within moveTime, not seen to be gone; oldest first
}

type departing struct {
	incarnation uint64
	at          time.Duration // since the beginning
}

// sendAway tells all clients to go, and waits until they are gone, at most for the time left, and until ctx ends.
func (h *Hub) sendAway(ctx context.Context, to Elsewhere, left, jitter time.Duration) error {
	n := h.Count()
	s := sendoff{h: h, to: to, jitter: jitter, spread: left * 2 / 3, rate: float64(max(n, 1)) / jitter.Seconds(), known: make(map[uint64]struct{}, n)}
	var scanned, moved time.Duration
	began, count, last := h.nanos(), n, n
	ticks := time.NewTicker(20 * time.Millisecond)
	defer ticks.Stop()
	for next := time.Duration(0); ; {
		now := time.Duration(h.nanos() - began)
		if now >= next {
			if next == 0 || now-scanned >= scanTime {
				scanned = now
				if err := s.scan(max(left-now, 0)); err != nil {
					return err
				}
			}
			if err := s.tell(now, left); err != nil {
				return err
			}
			next = now + paceTick
		}
		if count = h.Count(); count == 0 || now >= left {
			return nil
		}
		if count < last || len(s.todo) > 0 {
			moved = now
		}
		if last = count; now-moved >= quietTime && s.told > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return nil
			}
			return s.tell(left, left) // the process stood still: who wasn't told yet is, though late
		case <-ticks.C:
		}
	}
}

// scan finds who is to be told. Those who have nowhere else to go are told at once.
func (s *sendoff) scan(left time.Duration) error {
	alone, err := drainFrame(left, s.jitter, nil)
	if err != nil {
		return err
	}
	s.h.table.each(0, s.h.table.slots(), func(c *conn.Conn) {
		inc := c.Incarnation()
		if _, ok := s.known[inc]; ok || !c.Connected() {
			return
		}
		if len(s.places(c)) > 0 {
			s.todo = append(s.todo, inc)
		} else if !c.Drain(alone) {
			return
		}
		s.known[inc] = struct{}{}
	})
	return nil
}

// places are where c may go.
func (s *sendoff) places(c *conn.Conn) []string {
	if c.OverHTTP() {
		return s.to.Web
	}
	return s.to.Sockets
}

// tell tells as many as are due at the time now of the time left at first.
func (s *sendoff) tell(now, left time.Duration) error {
	room := s.room(now)
	if len(s.todo) == 0 || room <= 0 {
		return nil
	}
	rest := max(left-now, 0)
	jitter := min(moveJitter, s.jitter, rest*2/3)
	sockets, err := drainFrame(rest, jitter, s.to.Sockets)
	if err != nil {
		return err
	}
	web, err := drainFrame(rest, jitter, s.to.Web)
	if err != nil {
		return err
	}
	for ; room > 0 && len(s.todo) > 0; s.todo = s.todo[1:] {
		c := s.h.table.get(s.todo[0])
		s.told++
		if c == nil {
			continue
		}
		f := sockets
		if c.OverHTTP() {
			f = web
		}
		if c.Drain(f) {
			s.away = append(s.away, departing{c.Incarnation(), now})
			room--
		}
	}
	return nil
}

// room is how many more may be told now.
func (s *sendoff) room(now time.Duration) int {
	on := s.away[:0]
	for _, d := range s.away {
		if now-d.at < moveTime && s.h.table.get(d.incarnation) != nil {
			on = append(on, d)
		}
	}
	s.away = on
	all := s.told + len(s.todo)
	room := min(max(moveLeast, all/moveShare)-len(on), int(s.rate*(now+paceTick).Seconds())+1-s.told)
	if s.spread > 0 {
		return max(room, int(float64(all)*min(now.Seconds()/s.spread.Seconds(), 1)+0.999)-s.told)
	}
	return len(s.todo)
}
