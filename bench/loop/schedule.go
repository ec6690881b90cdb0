package loop

import "time"

// A processor that sleeps wakes up late, on a virtual machine by a few tenths of a
// millisecond: at low rates the load generator stays awake for the last bit before
// something is due, which costs a few percent of a processor.
const (
	spinBefore = 200 * time.Microsecond
	spinBelow  = 500 // events a second
)

// Schedule says when things are due at a fixed rate, whatever becomes of them. A stall
// moves nothing: what should have been done meanwhile is due at its own time.
type Schedule struct {
	rate        float64 // events a second
	event       int64
	first, next int64
}

// NewSchedule begins at now, as Loop.Now tells it, with so many events a second.
func NewSchedule(now int64, rate float64) Schedule {
	return Schedule{rate: rate, first: now, next: now}
}

// Due returns the number, from 0, and the time of the next event if it is due, and goes on to the one after it.
func (s *Schedule) Due(now int64) (event, at int64, ok bool) {
	if s.next > now {
		return 0, 0, false
	}
	event, at = s.event, s.next
	s.event++
	s.next = s.first + int64(float64(s.event)/s.rate*1e9)
	return event, at, true
}

// Wait returns how long to sleep, at most, before asking Due again.
func (s *Schedule) Wait(now int64) time.Duration {
	wait := time.Duration(s.next - now)
	if s.rate <= spinBelow {
		wait -= spinBefore
	}
	return max(wait, 0)
}
