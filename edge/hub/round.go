package hub

import (
	"bytes"
	"runtime"
	"slices"
	"sync"

	"github.com/gochat-im/gochat/edge/conn"
)

// round goes round the places of a room, as long as there is something that not everybody has been handed. Each
// connection is handed all that has come since it was met last, in one write unless that is much. So what comes waits for one way round at the longest, where passes,
// each with what came before it began, have it wait for the rest of one and the whole of the next; and whoever delivers goes on at once.
//
// Its goroutines are started by the Deliver that finds too few of them, and end when everybody has everything. All is guarded by
// the audience's mu.
type round struct {
	news    []news // not handed to everybody yet; the first is number first
	first   uint64
	at      int       // the place whose turn it is: nobody has been met longer ago
	way     uint64    // places passed, ever
	met     []turn    // connections that are being handed something, one for each goroutine
	waiting int       // those who wait for changed
	changed sync.Cond // news were handed to everybody, or a turn has ended
}

// news are frames as they were given to Deliver.
type news struct {
	frames []byte
	ends   []int
	but    []uint64
	came   uint64 // the way at that time: when all places have been passed since, everybody has them
}

func (n *news) bytes() int64 { return int64(cap(n.frames)) }

// turn is a stretch of places in the hands of a goroutine: nobody else may meet them before it is done.
type turn struct{ from, to int }

// maxNews is how many calls of Deliver may be under way in a room. The next one waits, so that what follows it gathers where it
// comes from.
const maxNews = 16

// maxNewsBytes is how many bytes of news of all rooms are kept, beside those of callers who wait: whoever brings more goes on when everybody
// in the room has it.
const maxNewsBytes = 32 << 20

// A connection is written to after so much: it may have room for no more until then, and isn't to miss what it would read.
const (
	pieceBytes  = 64 << 10
	pieceFrames = 256
)

// Passes and rounds over many places are made by several goroutines: nearly all of it is time in the kernel.
const (
	manyPlaces = 1024
	maxRunners = 4
)

// deliver has everybody who is in the room now handed frames, and returns how many places there are.
func (au *audience) deliver(frames []byte, ends []int, but []uint64) (places int) {
	n := news{frames: bytes.Clone(frames), ends: slices.Clone(ends), but: slices.Clone(but)}
	au.mu.Lock()
	defer au.mu.Unlock()
	r := au.round
	for len(r.news) >= maxNews {
		r.wait()
	}
	if len(r.met) == 0 {
		au.compact()
	}
	if places = len(au.places) - len(au.holes); places == 0 {
		return 0
	}
	au.home.h.flushes.Add(1)
	n.came = r.way
	r.news = append(r.news, n)
	own := au.last()
	full := au.home.h.newsBytes.Add(n.bytes()) > maxNewsBytes
	runners := 1
	if len(au.places) >= manyPlaces {
		runners = min(runtime.GOMAXPROCS(0), maxRunners)
	}
	for len(r.met) < runners {
		r.met = append(r.met, turn{})
		go au.goRound()
	}
	for full && r.first < own {
		r.wait()
	}
	return places
}

// last is the number of what comes next.
func (au *audience) last() uint64 {
	if au.round == nil {
		return 0
	}
	return au.round.first + uint64(len(au.round.news))
}

func (r *round) wait() {
	r.waiting++
	r.changed.Wait()
	r.waiting--
}

func (r *round) tell() {
	if r.waiting > 0 {
		r.changed.Broadcast()
	}
}

// goRound hands out news until everybody has all of them.
func (au *audience) goRound() {
	var ps [group]place
	var some []news
	var mine turn
	for {
		au.mu.Lock()
		au.round.done(mine)
		var n int
		if n, some, mine = au.next(&ps, some[:0]); n == 0 {
			au.mu.Unlock()
			return
		}
		au.mu.Unlock()
		for rest := some; len(rest) > 0; {
			k := piece(rest)
			hand(ps[:n], rest[:k])
			rest = rest[k:]
		}
		clear(ps[:n])
		clear(some)
		// Writing takes hundreds of microseconds; whoever reads and acks meanwhile goes first.
		runtime.Gosched()
	}
}

// piece is how many of some are handed out before connections are written to: at least one.
func piece(some []news) (n int) {
	bytes, frames := 0, 0
	for n < len(some) {
		bytes, frames = bytes+len(some[n].frames), frames+len(some[n].ends)
		if n > 0 && (bytes > pieceBytes || frames > pieceFrames) {
			break
		}
		n++
	}
	return n
}

// hand has the connections of places, a group at most, take some, and writes to them. Who has left meanwhile takes nothing: it may be
// in the room again, at a place that is somebody else's to meet or in the room as it was opened anew, and have newer ones.
func hand(ps []place, some []news) {
	var touched [group]*conn.Conn
	write := touched[:0]
	for _, p := range ps {
		flush := false
		for i := range some {
			if p.c.PushLive(some[i].frames, some[i].ends, some[i].but, &p.s.left) {
				flush = true
			}
		}
		if flush {
			write = append(write, p.c)
		}
	}
	for _, c := range write {
		c.Flush()
	}
}

// done ends a turn. mu is held.
func (r *round) done(t turn) {
	if t.from == t.to {
		return
	}
	i := slices.Index(r.met, t)
	r.met[i] = turn{}
	r.tell()
}

// next takes the places that were met longest ago, as far as they lack the same, and what they lack. It may
// wait for a turn to end; n is 0 when nobody lacks anything, and the caller is no runner any more. mu is held.
func (au *audience) next(dst *[group]place, some []news) (n int, _ []news, t turn) {
	r := au.round
	for {
		last := au.last()
		var lacks uint64
		t = turn{}
		for range au.places {
			if r.at >= len(au.places) {
				if n > 0 {
					break
				}
				r.at = 0
			}
			if r.taken(r.at) {
				break
			}
			p := &au.places[r.at]
			if p.c != nil && p.upTo < last {
				if n == group || n > 0 && p.upTo != lacks {
					break
				}
				if n == 0 {
					lacks, t.from = p.upTo, r.at
				}
				p.upTo = last
				dst[n] = *p
				n++
				t.to = r.at + 1
			}
			r.at++
			r.way++
		}
		if n > 0 {
			some = append(some, r.news[max(lacks, r.first)-r.first:]...)
			au.forget(len(au.places))
			r.met[slices.Index(r.met, turn{})] = t
			return n, some, t
		}
		if len(au.places) > 0 && r.at < len(au.places) && r.taken(r.at) {
			r.wait()
			continue
		}
		au.forget(0) // nobody lacks anything
		i := slices.Index(r.met, turn{})
		r.met = slices.Delete(r.met, i, i+1)
		r.tell()
		return 0, some, turn{}
	}
}

// taken reports whether the place is in somebody's hands.
func (r *round) taken(place int) bool {
	for _, t := range r.met {
		if t.from <= place && place < t.to {
			return true
		}
	}
	return false
}

// forget drops the news that came so many places ago. mu is held.
func (au *audience) forget(places int) {
	r, n, bytes := au.round, 0, int64(0)
	for n < len(r.news) && r.way-r.news[n].came >= uint64(places) {
		bytes += r.news[n].bytes()
		n++
	}
	if n == 0 {
		return
	}
	au.home.h.newsBytes.Add(-bytes)
	clear(r.news[:n])
	r.first += uint64(n)
	if r.news = r.news[n:]; len(r.news) == 0 {
		r.news = nil
	}
	r.tell()
}
