package tikv

import "time"

// Hold keeps the store from committing until release is called: what is given to it gathers.
func (s *Store) Hold() (release func()) {
	for range cap(s.lanes.slots) {
		s.lanes.slots <- struct{}{}
	}
	return func() {
		for range cap(s.lanes.slots) {
			<-s.lanes.slots
		}
	}
}

// Queued is how many transactions wait to be begun.
func (s *Store) Queued() int {
	s.lanes.mu.Lock()
	defer s.lanes.mu.Unlock()
	n := 0
	for _, l := range s.lanes.lanes {
		n += len(l.queue)
	}
	return n
}

// State is what the breaker is in: closed, half-open or open.
func (s *Store) State() string { return s.breaker.steps.Load().State().String() }

// Silent has the store not have been answered for a day.
func (s *Store) Silent() { s.breaker.heard.Store(-int64(24 * time.Hour)) }
