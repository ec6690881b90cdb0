package fanout

import (
	"slices"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// seen remembers, for a bounded number of conversations, which seqs came by. It
// forgets by the clock algorithm: a conversation that was used since the hand last
// passed it stays. What is forgotten may be delivered twice, which clients bear.
type seen struct {
	limit  int
	byConv map[id.ConversationID]uint32 // place in marks
	marks  []*[markChunk]mark
	used   int
	hand   int
	gapped map[id.ConversationID]struct{} // whose marks may have something above
}

// Marks lie in chunks, so that growing moves none of them.
const markChunk = 256

// soonAbove is how many runs above a gap make it due at once. maxAbove bounds how many are
// remembered: with more, the lowest gap is given up. Who is sent something later sees it and
// pulls; who has left by then learns of it with the next sync.
const (
	soonAbove = 8
	maxAbove  = 64
)

// mark is what was seen of one conversation: [lo, hi], and the runs above it. Below lo
// nothing is known: it was before this process saw the conversation first.
type mark struct {
	conv    id.ConversationID
	epoch   uint64
	lo, hi  uint64 // 0, 0: nothing yet
	members []id.UserID
	above   []run
	at      int64 // Unix seconds of its last event, where events go to several Handlers
	used    bool
}

// elsewhere is after how many seconds without an event what others have brought meanwhile is no gap.
const elsewhere = 10

// meet notes when ev came, and begins anew if everything since the last event may have gone elsewhere.
func (m *mark) meet(ev *bus.Event, now int64) {
	if m.hi > 0 && ev.Epoch == m.epoch && ev.FirstSeq > m.top()+1 && now-m.at > elsewhere {
		m.lo, m.hi, m.above = 0, 0, nil
	}
	m.at = now
}

// run is [from, to] with a gap below it that was first seen at since.
type run struct {
	from, to uint64
	since    time.Time
}

func (s *seen) init(limit int) {
	s.limit = limit
	s.byConv = make(map[id.ConversationID]uint32)
	s.gapped = make(map[id.ConversationID]struct{})
}

func (s *seen) at(i uint32) *mark { return &s.marks[i/markChunk][i%markChunk] }

// peek returns the mark of conv, nil if there is none.
func (s *seen) peek(conv id.ConversationID) *mark {
	if i, ok := s.byConv[conv]; ok {
		return s.at(i)
	}
	return nil
}

// get returns the mark of conv, an empty one if it was not there.
func (s *seen) get(conv id.ConversationID) *mark {
	if i, ok := s.byConv[conv]; ok {
		m := s.at(i)
		m.used = true
		return m
	}
	var i uint32
	if s.used < s.limit {
		i = uint32(s.used)
		if s.used%markChunk == 0 {
			s.marks = append(s.marks, new([markChunk]mark))
		}
		s.used++
	} else {
		for s.at(uint32(s.hand)).used {
			s.at(uint32(s.hand)).used = false
			s.hand = (s.hand + 1) % s.used
		}
		i = uint32(s.hand)
		s.hand = (s.hand + 1) % s.used
		old := s.at(i).conv
		delete(s.byConv, old)
		delete(s.gapped, old)
	}
	m := s.at(i)
	*m = mark{conv: conv} // used is for those that come again
	s.byConv[conv] = i
	return m
}

// verdict on an append.
type verdict uint8

const (
	repeated verdict = iota // all of it was seen
	fresh                   // none of it was, and it is recorded
	mixed                   // ask has for each seq, then record
)

// admit decides the two cases that nearly every append is.
func (m *mark) admit(epoch, first, last uint64) verdict {
	switch {
	case epoch < m.epoch:
		return repeated // of a timeline that was replaced by a restore
	case m.hi == 0 || epoch > m.epoch:
		m.epoch, m.lo, m.hi, m.above = epoch, first, last, nil
		return fresh
	case first == m.hi+1 && len(m.above) == 0:
		m.hi = last
		return fresh
	case first >= m.lo && last <= m.hi:
		return repeated
	}
	return mixed
}

// knows reports whether all of an append was seen.
func (m *mark) knows(epoch, first, last uint64) bool {
	return epoch < m.epoch || epoch == m.epoch && m.hi > 0 && first >= m.lo && last <= m.hi
}

// has reports whether seq was seen.
func (m *mark) has(epoch, seq uint64) bool {
	if epoch != m.epoch {
		return false
	}
	if seq >= m.lo && seq <= m.hi {
		return true
	}
	for i := range m.above {
		if seq >= m.above[i].from && seq <= m.above[i].to {
			return true
		}
	}
	return false
}

// record notes [first, last] as seen and reports whether that opened a gap, and whether the lowest was given up.
func (m *mark) record(epoch, first, last uint64, now time.Time) (gap, given bool) {
	if epoch != m.epoch {
		return false, false
	}
	if first < m.lo {
		if last+1 < m.lo {
			return false, false // older than anything known, and not next to it
		}
		m.lo = first
	}
	if first <= m.hi+1 {
		m.hi = max(m.hi, last)
	} else {
		i := 0
		for i < len(m.above) && m.above[i].from <= first {
			i++
		}
		gap = i == len(m.above) && first > m.top()+1
		m.above = slices.Insert(m.above, i, run{first, last, now})
	}
	m.settle()
	if len(m.above) > maxAbove {
		m.hi = m.above[0].to
		m.above = slices.Delete(m.above, 0, 1)
		m.settle()
		given = true
	}
	return gap, given
}

// top returns the highest seq seen.
func (m *mark) top() uint64 {
	if n := len(m.above); n > 0 {
		return m.above[n-1].to
	}
	return m.hi
}

// settle joins runs that touch.
func (m *mark) settle() {
	out := m.above[:0]
	for _, r := range m.above {
		switch {
		case r.from <= m.hi+1:
			m.hi = max(m.hi, r.to)
		case len(out) > 0 && r.from <= out[len(out)-1].to+1:
			out[len(out)-1].to = max(out[len(out)-1].to, r.to)
		default:
			out = append(out, r)
		}
	}
	if len(out) == 0 {
		out = nil
	}
	m.above = out
}
