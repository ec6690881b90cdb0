package conn

import (
	"sync/atomic"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

// Stats are counts since the start of the process.
type Stats struct {
	Opened, Ended, LoggedIn uint64 // connections
	FramesIn, SendsIn       uint64
	In                      map[string]uint64 // frames by type; "unknown": of none that there is
	FramesOut               uint64            // all of the following, answers and hints
	AcksOut, PushedOut      uint64            // SENDACKs; DELIVERs and SIGNALs
	Out                     map[string]uint64 // frames by type: SENDACKs, DELIVERs and SIGNALs when they were written, others when they were queued
	BytesOut, Writes        uint64
	ShortWrites             uint64 // the peer's window was full
	Lagging, Dropped, Hints uint64 // connections that began to lag; deliveries they missed; HINTs sent for them
	LeftOut                 uint64 // frames of rooms that connections missed because they lagged; no HINT tells of these
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
	signalsOut              atomic.Uint64
	pushedOut, bytesOut     atomic.Uint64
	writes, short           atomic.Uint64
	lagging, dropped, hints atomic.Uint64
	leftOut                 atomic.Uint64
	panics                  atomic.Uint64

	inBy, outBy typeCounters // but for what the counts above tell

	refusals, closes codeCounters
}

// Types where a parameter has the name of their package.
const (
	signalType = frame.Signal
	drainType  = frame.Drain
)

// typeCounters count by type of frame; 0: those of no known type.
type typeCounters [frame.Error + 1]atomic.Uint64

func (n *typeCounters) add(t frame.Type) {
	if int(t) >= len(n) {
		t = 0
	}
	n[t].Add(1)
}

func (n *typeCounters) all() map[string]uint64 {
	m := make(map[string]uint64)
	for t := range n {
		if v := n[t].Load(); v > 0 {
			m[frame.Type(t).String()] = v
		}
	}
	return m
}

// typeOf is the type of the whole frame that b begins with.
func typeOf(b []byte) frame.Type {
	i := 0
	for b[i] >= 0x80 {
		i++
	}
	return frame.Type(b[i+1])
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
	if w.signals > 0 {
		s.signalsOut.Add(uint64(w.signals))
	}
}

// Stats returns the counts so far.
func (e *Edge) Stats() Stats {
	s := &e.stats
	in, out := s.inBy.all(), s.outBy.all()
	signals, pushed := s.signalsOut.Load(), s.pushedOut.Load() // in this order: a signal counts as pushed before
	for _, n := range []struct {
		m map[string]uint64
		t frame.Type
		v uint64
	}{
		{in, frame.Send, s.sendsIn.Load()}, {out, frame.SendAck, s.acksOut.Load()},
		{out, frame.Signal, signals}, {out, frame.Deliver, pushed - signals},
	} {
		if n.v > 0 {
			n.m[n.t.String()] += n.v
		}
	}
	return Stats{
		In: in, Out: out,
		Opened: s.opened.Load(), Ended: s.gone.Load(), LoggedIn: s.loggedIn.Load(),
		FramesIn: s.framesIn.Load(), SendsIn: s.sendsIn.Load(),
		FramesOut: s.framesOut.Load(), AcksOut: s.acksOut.Load(), PushedOut: s.pushedOut.Load(),
		BytesOut: s.bytesOut.Load(), Writes: s.writes.Load(), ShortWrites: s.short.Load(),
		Lagging: s.lagging.Load(), Dropped: s.dropped.Load(), Hints: s.hints.Load(), LeftOut: s.leftOut.Load(),
		Panics: s.panics.Load(), PartialBytes: e.partial.Load(), HeldBytes: e.held.Load(),
		Refused: s.refusals.all(), Closed: s.closes.all(),
	}
}
