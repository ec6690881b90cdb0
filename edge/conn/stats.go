package conn

import (
	"sync/atomic"

	"github.com/gochat-im/gochat/protocol/code"
)

// Stats are counts since the start of the process.
type Stats struct {
	Opened, Ended, LoggedIn uint64 // connections
	FramesIn, SendsIn       uint64
	FramesOut               uint64 // all of the following, answers and hints
	AcksOut, PushedOut      uint64 // SENDACKs; DELIVERs and SIGNALs
	BytesOut, Writes        uint64
	ShortWrites             uint64 // the peer's window was full
	Lagging, Dropped, Hints uint64 // connections that began to lag; deliveries they missed; HINTs sent for them
	Panics                  uint64
	PartialBytes            int64 // of unfinished frames, now
	HeldBytes               int64 // that wait for clients that read slowly, now
	Refused, Closed         map[code.Code]uint64
}

// counters are added to once a read or a write rather than once a message.
type counters struct {
	opened, gone, loggedIn  atomic.Uint64
	framesIn, sendsIn       atomic.Uint64
	framesOut, acksOut      atomic.Uint64
	pushedOut, bytesOut     atomic.Uint64
	writes, short           atomic.Uint64
	lagging, dropped, hints atomic.Uint64
	panics                  atomic.Uint64

	refusals, closes codeCounters
}

// codeCounters count by code: thousands 1 to 3, numbers up to 31 in each, 3999 at the end.
type codeCounters [3][33]atomic.Uint64

func (n *codeCounters) of(c code.Code) *atomic.Uint64 {
	k, i := int(c)/1000-1, int(c)%1000
	if k < 0 || k > 2 {
		k, i = 2, 32
	}
	return &n[k][min(i, 32)]
}

func (n *codeCounters) all() map[code.Code]uint64 {
	m := make(map[code.Code]uint64)
	for _, c := range code.All {
		if v := n.of(c).Load(); v > 0 {
			m[c] = v
		}
	}
	return m
}

func (s *counters) refused(c code.Code) { s.refusals.of(c).Add(1) }
func (s *counters) closed(c code.Code)  { s.closes.of(c).Add(1) }

// in counts what one read brought.
func (s *counters) in(frames, sends int) {
	if frames > 0 {
		s.framesIn.Add(uint64(frames))
	}
	if sends > 0 {
		s.sendsIn.Add(uint64(sends))
	}
}

// wrote counts a write of n bytes that finished w, or was short if w is nil.
func (s *counters) wrote(w *buffer, n int) {
	s.writes.Add(1)
	s.bytesOut.Add(uint64(n))
	if w == nil {
		s.short.Add(1)
		return
	}
	s.framesOut.Add(uint64(w.frames))
	if w.acks > 0 {
		s.acksOut.Add(uint64(w.acks))
	}
	if w.pushed > 0 {
		s.pushedOut.Add(uint64(w.pushed))
	}
}

// Stats returns the counts so far.
func (e *Edge) Stats() Stats {
	s := &e.stats
	return Stats{
		Opened: s.opened.Load(), Ended: s.gone.Load(), LoggedIn: s.loggedIn.Load(),
		FramesIn: s.framesIn.Load(), SendsIn: s.sendsIn.Load(),
		FramesOut: s.framesOut.Load(), AcksOut: s.acksOut.Load(), PushedOut: s.pushedOut.Load(),
		BytesOut: s.bytesOut.Load(), Writes: s.writes.Load(), ShortWrites: s.short.Load(),
		Lagging: s.lagging.Load(), Dropped: s.dropped.Load(), Hints: s.hints.Load(),
		Panics: s.panics.Load(), PartialBytes: e.partial.Load(), HeldBytes: e.held.Load(),
		Refused: s.refusals.all(), Closed: s.closes.all(),
	}
}
