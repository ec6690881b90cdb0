package relay

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
)

// lane is the way to one start of one edge: parcels gather in it while the call before is under way, and
// come in their order, each once. What is lost on it is never a delivery that nobody hears of: connections
// get a HINT for theirs, audiences are filled again and get one, too. Orders stay until they were obeyed.
type lane struct {
	e  *Edges
	to *nodes.Node

	kick chan struct{} // of capacity 1: there is something to do
	stop context.CancelFunc

	mu     sync.Mutex
	buf    []byte // parcels that gather
	count  uint64 // how many
	spare  []byte
	closed bool
	busy   bool // a letter is on its way

	// The parcel at the end of buf, while more connections may be added to it.
	open   *byte // the frame's first byte, where its owner has it
	length int
	counts int // where in buf the number of connections is
	lazily bool

	stream uint64
	next   uint64 // number of the next parcel to be sent

	orders orderList
	heir   *lane // it has the orders: the edge is back

	dropped loss
	parted  bool                // somebody leaves an audience in what gathers
	fill    bool                // audiences are to be filled anew
	unfull  []id.ConversationID // of them, those that weren't yet

	heard map[id.ConversationID]uint64 // connections in each audience as the edge told last
	seats uint64

	sent, calls, failed, lost uint64
}

// orderList keeps what was not obeyed yet, oldest first.
type orderList struct {
	b    []byte
	ends []int
	gone uint64 // how many were taken off
}

const (
	maxOrders = 4096
	// maxDropped is how many connections are remembered one by one until all of the edge's are meant.
	maxDropped = 4096
)

// loss is whose deliveries were dropped.
type loss struct {
	conns map[uint64]struct{}
	all   bool
	any   bool
}

func (l *loss) add(conns ...uint64) {
	l.any = true
	if l.all {
		return
	}
	if len(l.conns)+len(conns) > maxDropped {
		l.everybody()
		return
	}
	if l.conns == nil {
		l.conns = make(map[uint64]struct{})
	}
	for _, c := range conns {
		l.conns[c] = struct{}{}
	}
}

func (l *loss) everybody() { l.all, l.any, l.conns = true, true, nil }

func newLane(e *Edges, to *nodes.Node, ctx context.Context) *lane {
	ctx, stop := context.WithCancel(ctx)
	l := &lane{e: e, to: to, kick: make(chan struct{}, 1), stop: stop, stream: e.streams.Add(1), next: 1, heard: make(map[id.ConversationID]uint64)}
	e.running.Go(func() { l.run(ctx) })
	return l
}

// go on: whoever sends looks again.
func (l *lane) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// room reports whether n bytes more fit; what doesn't is dropped, and remembered by the caller. mu is held.
func (l *lane) room(n int) bool { return !l.closed && len(l.buf)+n <= l.e.cfg.QueueBytes }

// deliver adds conn to those that get frame.
func (l *lane) deliver(conn uint64, frame []byte, lazily bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == &frame[0] && l.length == len(frame) && l.lazily == lazily && l.room(8) {
		n := binary.BigEndian.Uint32(l.buf[l.counts:])
		binary.BigEndian.PutUint32(l.buf[l.counts:], n+1)
		l.buf = appendConn(l.buf, conn)
		return
	}
	if !l.room(len(frame) + 24) {
		l.drop(conn)
		return
	}
	flags := byte(0)
	if lazily {
		flags = flagLazy
	}
	l.begin()
	l.buf = appendString(append(l.buf, parcelFrame, flags), frame)
	l.counts = len(l.buf)
	l.buf = appendConn(binary.BigEndian.AppendUint32(l.buf, 1), conn)
	l.open, l.length, l.lazily = &frame[0], len(frame), lazily
}

// begin counts a parcel that is appended next. mu is held.
func (l *lane) begin() {
	l.count++
	l.open = nil
}

func (l *lane) drop(conns ...uint64) {
	l.lost++
	l.dropped.add(conns...)
	if len(conns) == 0 {
		l.dropped.everybody()
	}
}

// users adds a frame for users.
func (l *lane) users(users []id.UserID, frame []byte, but uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.room(len(frame) + 32 + 66*len(users)) {
		l.drop() // whose connections these are is known there alone
		return
	}
	l.begin()
	l.buf = appendUsers(appendString(appendConn(append(l.buf, parcelUsers), but), frame), users)
}

// audience adds a parcel about an audience, of at most n bytes, and returns how many connections are in that.
func (l *lane) audience(conv id.ConversationID, n int, add func(dst []byte) []byte) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return 0
	case l.fill: // what follows a gap would be for the wrong ones
		l.lost++
		return l.heard[conv]
	case !l.room(n):
		l.lost++
		l.refill()
		return l.heard[conv]
	}
	l.begin()
	l.buf = add(l.buf)
	return l.heard[conv]
}

// farewell is audience for users who leave, or all of them. While something of the stream is lost
// they can't be told of it once they have left: then everybody is.
func (l *lane) farewell(conv id.ConversationID, n int, add func(dst []byte) []byte) {
	l.audience(conv, n, add)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed && (l.fill || slices.Contains(l.unfull, conv)) {
		l.dropped.everybody()
	} else {
		l.parted = true
	}
}

// live adds a parcel of at most n bytes that is dropped if it doesn't fit, and nobody is told; it returns how many
// connections of the room conv the edge told of last.
func (l *lane) live(conv id.ConversationID, n int, add func(dst []byte) []byte) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0
	}
	if l.room(n) {
		l.begin()
		l.buf = add(l.buf)
	} else {
		l.lost++
	}
	return l.heard[conv]
}

// must adds a parcel of the stream's new beginning, of which there is not much, room or not.
func (l *lane) must(add func(dst []byte) []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.begin()
		l.buf = add(l.buf)
	}
}

// refill has the lane begin its stream anew, because something of it is lost: the edge forgets the audiences, which are filled again.
// What gathered so far comes first in it, which matters to connections alone: who leaves an audience in that is told
// nothing of what was for it any more, so everybody is. mu is held.
func (l *lane) refill() {
	if l.parted {
		l.dropped.everybody()
	}
	l.fill = true
	l.wake()
}

// finish has what gathered since the last call sent.
func (l *lane) finish() {
	l.mu.Lock()
	l.open = nil // its owner has the frame again
	some := l.count > 0 || l.dropped.any
	l.mu.Unlock()
	if some {
		l.wake()
	}
}

// order adds what the edge must do. That of an edge that is gone waits for it to come back.
func (l *lane) order(add func(dst []byte) []byte) {
	l.mu.Lock()
	if heir := l.heir; heir != nil {
		l.mu.Unlock()
		heir.order(add)
		return
	}
	o := &l.orders
	if len(o.ends) == maxOrders {
		l.e.cfg.Logger.Error("an order for an edge was given up, too many wait", "edge", l.to.ID)
		o.obeyed(o.gone + 1)
	}
	o.b = add(o.b)
	o.ends = append(o.ends, len(o.b))
	l.mu.Unlock()
	l.wake()
}

// last is the number of the newest order. They count from 1, those that were taken off included.
func (o *orderList) last() uint64 { return o.gone + uint64(len(o.ends)) }

// obeyed takes those up to number last off. Some may have gone since last was asked for: given up, or to an heir.
func (o *orderList) obeyed(last uint64) {
	if last = min(last, o.last()); last <= o.gone {
		return
	}
	n := last - o.gone
	o.gone = last
	cut := o.ends[n-1]
	o.b = append([]byte(nil), o.b[cut:]...)
	o.ends = append([]int(nil), o.ends[n:]...)
	for i := range o.ends {
		o.ends[i] -= cut
	}
}

// tryFor is how long the same letter is tried: an edge answers again soon or not at all.
const (
	tryFor   = 10 * time.Second
	tryAgain = 100 * time.Millisecond
)

// run sends until ctx ends.
func (l *lane) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.kick:
		}
		for l.turn(ctx) {
		}
	}
}

// turn sends what has gathered and reports whether there was something.
func (l *lane) turn(ctx context.Context) bool {
	l.refillSome(ctx)
	l.mu.Lock()
	if l.dropped.any {
		l.begin()
		l.buf = append(l.buf, parcelHint)
		conns := make([]uint64, 0, len(l.dropped.conns))
		for c := range l.dropped.conns {
			conns = append(conns, c)
		}
		l.buf = appendConns(l.buf, conns)
		l.dropped = loss{}
	}
	if l.closed || l.count == 0 && len(l.orders.ends) == 0 {
		l.mu.Unlock()
		return false
	}
	o := letter{
		node: l.e.cfg.Self, start: l.e.cfg.Start, stream: l.stream, first: l.next, count: l.count,
		orders: l.orders.b[:len(l.orders.b):len(l.orders.b)], nOrder: uint64(len(l.orders.ends)), body: l.buf,
	}
	last := l.orders.last()
	l.buf, l.spare, l.count, l.open, l.busy, l.parted = l.spare[:0], nil, 0, nil, true, false
	l.mu.Unlock()

	l.send(ctx, &o, last)
	l.mu.Lock()
	l.busy = false
	if cap(o.body) <= l.e.cfg.QueueBytes/4 {
		l.spare = o.body[:0]
	}
	l.mu.Unlock()
	return true
}

// send tries to bring a letter until it is there, or given up. last is the number of the newest order in it.
func (l *lane) send(ctx context.Context, o *letter, last uint64) {
	end := time.Now().Add(tryFor)
	body := o.append(nil)
	for {
		call, cancel := context.WithTimeout(ctx, l.e.cfg.Timeout)
		reply, err := l.e.cfg.Call(call, l.to, body)
		cancel()
		var r receipt
		if err == nil {
			r, err = readReceipt(reply)
		}
		l.mu.Lock()
		l.calls++
		if err == nil {
			l.orders.obeyed(last)
			if !r.lost {
				l.next = o.first + o.count
				l.sent += uint64(len(o.body))
				l.seats = r.seats
				for _, h := range r.heard {
					if h.connections == 0 && h.conv.Kind() == id.KindRoom {
						delete(l.heard, h.conv)
						continue
					}
					l.heard[h.conv] = h.connections
				}
				l.mu.Unlock()
				return
			}
			l.mu.Unlock()
			break
		}
		l.failed++
		l.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		l.e.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "an edge can't be reached", slog.String("edge", l.to.ID), slog.Int("bytes", len(body)), slog.Any("err", err))
		if time.Now().After(end) {
			break
		}
		if !pause(ctx, tryAgain) {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost += o.count
	l.dropped.everybody() // those who left an audience since can't be told in it
	l.fill = true
}

// refillSome fills audiences that are to be filled, as many as fit into half of what may gather.
func (l *lane) refillSome(ctx context.Context) {
	l.mu.Lock()
	if l.fill && !l.closed {
		l.fill = false
		l.stream, l.next = l.e.streams.Add(1), 1
		// What waits to be sent opens audiences, maybe, of which nobody will be told who left.
		l.begin()
		l.buf = append(l.buf, parcelClear)
		clear(l.heard)
		l.seats = 0
		l.unfull = l.e.audiences.all()
	}
	l.mu.Unlock()
	for {
		l.mu.Lock()
		n := len(l.unfull)
		if n == 0 || l.closed || len(l.buf) > l.e.cfg.QueueBytes/2 {
			l.mu.Unlock()
			return
		}
		conv := l.unfull[n-1]
		l.mu.Unlock()
		if !l.e.audiences.fillOne(ctx, l, conv) {
			time.AfterFunc(refillAfter, l.wake)
			return
		}
		l.mu.Lock()
		l.unfull = l.unfull[:n-1] // this goroutine's alone
		l.mu.Unlock()
	}
}

// idle reports whether nothing waits, and nothing is on its way.
func (l *lane) idle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed || !l.busy && l.count == 0 && !l.dropped.any && len(l.orders.ends) == 0
}

// close ends the lane: its edge is gone.
func (l *lane) close() {
	l.stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed, l.buf, l.spare, l.count, l.open = true, nil, nil, 0, nil
}

// follow takes over the orders of the lane before, which was closed, of the same process: those that it has, and those that
// somebody adds who came upon it earlier. Nobody has l yet.
func (l *lane) follow(before *lane) {
	before.mu.Lock()
	l.mu.Lock()
	l.orders, before.orders, before.heir = before.orders, orderList{}, l
	l.dropped.everybody() // who knows what it got
	l.mu.Unlock()
	before.mu.Unlock()
	l.wake()
}
