package relay

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Near is the edge in this process.
type Near interface {
	Deliver(conn uint64, frame []byte)
	DeliverLazily(conn uint64, frame []byte)
	DeliverUsers(users []id.UserID, frame []byte, but uint64)
	Flush()
	Close(conn uint64, why *code.Error)
	CloseUserUntil(user id.UserID, device id.DeviceID, until time.Time, why *code.Error) int
}

// Seating are an edge's audiences, as fan-out has them (fanout.Audiences).
type Seating interface {
	Open(conv id.ConversationID)
	Join(conv id.ConversationID, users []id.UserID)
	Leave(conv id.ConversationID, users []id.UserID)
	Deliver(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) (connections int)
	Close(conv id.ConversationID)
	Seats() int
}

// Halls are an edge's rooms.
type Halls interface {
	Deliver(conv id.ConversationID, frames []byte, ends []int, but []uint64) (connections int)
	Eject(conv id.ConversationID, user id.UserID)
}

// EdgesConfig is what Edges need; zero fields take their defaults.
type EdgesConfig struct {
	Self  string // this node's id
	Start uint64 // of this process, different at each
	Call  Caller // of an edge, whose Box takes the body

	// The edge in this process, and its worker number; nil: there is none.
	Near      Near
	Seating   Seating
	Halls     Halls
	Teller    func(frame []byte, perSecond int) bool
	NearConns uint32

	QueueBytes int           // that wait for one edge, while as many are on their way; 0: 8 MiB, at most 12 MiB
	Timeout    time.Duration // of one call; 0: 3 s
	Logger     *slog.Logger  // nil: none
}

// Validate reports what is missing or out of bounds.
func (c *EdgesConfig) Validate() error {
	switch {
	case c.Self == "" || c.Call == nil:
		return errors.New("relay: Self and Call are needed")
	case (c.Near == nil) != (c.Seating == nil), (c.Halls == nil) != (c.Teller == nil), c.Halls != nil && c.Near == nil:
		return errors.New("relay: Near, Seating, Halls and Teller are one edge's")
	case c.QueueBytes < 0 || c.QueueBytes > 12<<20 || c.Timeout < 0:
		return fmt.Errorf("relay: %d bytes for an edge, %v for a call: out of bounds", c.QueueBytes, c.Timeout)
	}
	return nil
}

// Edges brings things to the edges, wherever they are: it is fan-out's Deliverer, Audiences its
// Audiences. Nothing of it waits for an edge.
type Edges struct {
	cfg     EdgesConfig
	streams atomic.Uint64
	ctx     context.Context
	stop    context.CancelFunc
	running sync.WaitGroup

	byWorker [1 << id.ConnWorkerBits]atomic.Pointer[lane]
	lanes    atomic.Pointer[[]*lane]

	mu sync.Mutex // one change of the lanes at a time

	audiences Audiences
}

// NewEdges returns Edges that know of none. Close ends them.
func NewEdges(cfg EdgesConfig) (*Edges, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.QueueBytes, cfg.Timeout, cfg.Logger = cmp.Or(cfg.QueueBytes, 8<<20), cmp.Or(cfg.Timeout, 3*time.Second), logger(cfg.Logger)
	e := &Edges{cfg: cfg}
	e.ctx, e.stop = context.WithCancel(context.Background())
	e.lanes.Store(new([]*lane))
	e.audiences.init(e)
	return e, nil
}

// SetView says which edges there are. One that was started anew, or was away, is another one.
func (e *Edges) SetView(v View) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ctx.Err() != nil {
		return
	}
	var lanes, fresh []*lane
	for _, n := range v.Edges() {
		if v.IsSelf(n) || int(n.Worker) >= len(e.byWorker) {
			continue
		}
		l := e.byWorker[n.Worker].Load()
		if l == nil || !l.to.Same(n) || !slices.Contains(*e.lanes.Load(), l) {
			before := l
			if before != nil {
				before.close() // it takes no higher stream than the one that follows it
			}
			l = newLane(e, n, e.ctx)
			if before != nil && before.to.ID == n.ID && before.to.Start == n.Start {
				l.follow(before)
			}
			e.byWorker[n.Worker].Store(l)
			fresh = append(fresh, l)
		}
		lanes = append(lanes, l)
	}
	// One that went keeps its place: should it come back it gets the orders, and HINTs for what it wasn't sent.
	for _, l := range *e.lanes.Load() {
		if !slices.Contains(lanes, l) {
			l.close()
		}
	}
	e.lanes.Store(&lanes)
	// From here on they hear of what happens, and then of what there is.
	for _, l := range fresh {
		l.mu.Lock()
		l.refill()
		l.mu.Unlock()
	}
}

// Settle returns when everything that was given out before has come to the edges, or was given up; at the latest when ctx
// ends. A node that leaves calls it when nothing is added any more.
func (e *Edges) Settle(ctx context.Context) {
	t := time.NewTicker(settleLook)
	defer t.Stop()
	for _, l := range *e.lanes.Load() {
		for !l.idle() {
			select {
			case <-t.C:
			case <-ctx.Done():
				return
			}
		}
	}
}

// settleLook is how often Settle looks.
const settleLook = 5 * time.Millisecond

// Close ends all lanes; what waits in them is dropped.
func (e *Edges) Close() {
	e.mu.Lock()
	e.stop()
	e.mu.Unlock()
	e.running.Wait()
}

func (e *Edges) near(conn uint64) bool {
	return e.cfg.Near != nil && id.ConnWorker(conn) == e.cfg.NearConns
}

// Deliver implements fanout.Deliverer.
func (e *Edges) Deliver(conn uint64, frame []byte) {
	if e.near(conn) {
		e.cfg.Near.Deliver(conn, frame)
	} else if l := e.byWorker[id.ConnWorker(conn)].Load(); l != nil && len(frame) > 0 {
		l.deliver(conn, frame, false)
	}
}

// DeliverLazily implements fanout.Deliverer.
func (e *Edges) DeliverLazily(conn uint64, frame []byte) {
	if e.near(conn) {
		e.cfg.Near.DeliverLazily(conn, frame)
	} else if l := e.byWorker[id.ConnWorker(conn)].Load(); l != nil && len(frame) > 0 {
		l.deliver(conn, frame, true)
	}
}

// DeliverUsers implements fanout.Deliverer.
func (e *Edges) DeliverUsers(users []id.UserID, frame []byte, but uint64) {
	if e.cfg.Near != nil {
		e.cfg.Near.DeliverUsers(users, frame, but)
	}
	for _, l := range *e.lanes.Load() {
		l.users(users, frame, but)
	}
}

// Flush implements fanout.Deliverer.
func (e *Edges) Flush() {
	if e.cfg.Near != nil {
		e.cfg.Near.Flush()
	}
	for _, l := range *e.lanes.Load() {
		l.finish()
	}
}

// CloseConn closes a connection wherever it is, and tells its client why.
func (e *Edges) CloseConn(conn uint64, why *code.Error) {
	if e.near(conn) {
		e.cfg.Near.Close(conn, why)
	} else if l := e.byWorker[id.ConnWorker(conn)].Load(); l != nil {
		l.order(func(dst []byte) []byte { return appendClose(dst, conn, why) })
	}
}

// Revoke closes connections at all edges, also at those that come back.
func (e *Edges) Revoke(v Revocation) {
	e.revokeNear(v)
	for i := range e.byWorker {
		if l := e.byWorker[i].Load(); l != nil {
			l.order(v.append)
		}
	}
}

// revokeNow closes connections at the edges that there are. Those that come back are told by the caller, so nothing gathers for
// one that never does.
func (e *Edges) revokeNow(v Revocation) {
	e.revokeNear(v)
	for _, l := range *e.lanes.Load() {
		l.order(v.append)
	}
}

func (e *Edges) revokeNear(v Revocation) {
	if e.cfg.Near != nil {
		e.cfg.Near.CloseUserUntil(v.User, v.Device, v.Until, code.Newf(code.SessionRevoked, "%s", v.Why))
	}
}

// Rooms are the rooms at all edges: fan-out's Rooms.
type Rooms struct{ e *Edges }

// Rooms returns those at these edges.
func (e *Edges) Rooms() Rooms { return Rooms{e} }

// Deliver brings frames to everybody in the room conv: one copy to each edge, which knows who is in it. Nothing of it is kept
// for an edge that can't take it now. It counts the connections that edges told of last.
func (r Rooms) Deliver(conv id.ConversationID, frames []byte, ends []int, but []uint64) (connections int) {
	if r.e.cfg.Halls != nil {
		connections = r.e.cfg.Halls.Deliver(conv, frames, ends, but)
	}
	for _, l := range *r.e.lanes.Load() {
		connections += int(l.live(conv, aboutParcel+len(frames)+12*len(ends), func(dst []byte) []byte {
			return appendFrames(appendAbout(dst, parcelRoom, conv), frames, ends, but)
		}))
		l.wake()
	}
	return connections
}

// Eject takes a user out of the room conv at all edges.
func (r Rooms) Eject(conv id.ConversationID, user id.UserID) {
	if r.e.cfg.Halls != nil {
		r.e.cfg.Halls.Eject(conv, user)
	}
	for _, l := range *r.e.lanes.Load() {
		l.order(func(dst []byte) []byte { return appendString(appendAbout(dst, orderEject, conv), user) })
	}
}

// Tell hands a frame to every connection at all edges, perSecond of them a second at each. It reports false where an edge
// can't take it now.
func (e *Edges) Tell(f []byte, perSecond int) (all bool) {
	all = e.cfg.Teller == nil || e.cfg.Teller(f, perSecond)
	for _, l := range *e.lanes.Load() {
		l.mu.Lock()
		if fits := !l.closed && l.room(len(f)+16); fits {
			l.begin()
			l.buf = appendString(binary.AppendUvarint(append(l.buf, parcelTell), uint64(perSecond)), f)
		} else {
			all = false
			l.lost++
		}
		l.mu.Unlock()
		l.wake()
	}
	return all
}

// EdgeStats are counts of what was brought to one edge.
type EdgeStats struct {
	Edge    string
	Waiting int    // bytes
	Orders  int    // waiting
	Sent    uint64 // bytes
	Calls   uint64
	Failed  uint64 // of them: no answer came
	Lost    uint64 // deliveries dropped or given up
	Seats   uint64 // connections in audiences that this node leads
}

// Stats returns the counts of the edges that there are.
func (e *Edges) Stats() (all []EdgeStats) {
	for _, l := range *e.lanes.Load() {
		l.mu.Lock()
		all = append(all, EdgeStats{l.to.ID, len(l.buf), len(l.orders.ends), l.sent, l.calls, l.failed, l.lost, l.seats})
		l.mu.Unlock()
	}
	return all
}
