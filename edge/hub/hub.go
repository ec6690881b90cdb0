// Package hub keeps the connections of one edge: it finds them by incarnation,
// admits and counts them, delivers to them, flushes those that have something to
// write, and closes those that have overstayed.
package hub

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/code"
)

// Config says how many connections there may be. Zero values mean the default given
// with each field.
type Config struct {
	Conn   conn.Config
	Worker uint32 // of this edge, below 1024, no other live edge's

	Connections         int // in all; 100,000, at most 1,048,576
	PerUser             int // of one user; 20
	PerAddress          int // from one address (IPv6: one /64); 10,000
	ConnectsPerAddress  int // new ones a second from one address, bursts of ten times as many; 200
	Strangers           int // in all, not logged in; 4,000
	StrangersPerAddress int // from one address, not logged in; a quarter of Strangers

	// Told to clients when this edge leaves.
	DrainJitter  time.Duration // clients spread over it when they connect again; 0: so that drainRate come back a second, 1 s at least
	Alternatives []string      // host:port of other edges, beside those that Leave is given; none: this one comes back

	Logger *slog.Logger // nothing is logged by default
}

// connectBurst is how many seconds' worth of connects may come at once.
const connectBurst = 10

func (c *Config) defaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.Connections, 100_000)
	def(&c.PerUser, 20)
	def(&c.PerAddress, 10_000)
	def(&c.ConnectsPerAddress, 200)
	def(&c.Strangers, 4_000)
	def(&c.StrangersPerAddress, max(c.Strangers/4, 1))
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Conn.Logger == nil {
		c.Conn.Logger = c.Logger
	}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	c.defaults()
	errs := []error{c.Conn.Validate(), c.limits().Validate()}
	if c.DrainJitter < 0 {
		errs = append(errs, fmt.Errorf("hub: drain jitter %v: want 0 or more", c.DrainJitter))
	}
	if c.Worker >= 1<<workerBits {
		errs = append(errs, fmt.Errorf("hub: worker %d: at most %d", c.Worker, 1<<workerBits-1))
	}
	return errors.Join(errs...)
}

// Hub keeps connections. Make it with New; Run sweeps, Shutdown ends.
type Hub struct {
	cfg    Config
	edge   *conn.Edge
	log    *slog.Logger
	nanos  func() int64           // since the start
	limits atomic.Pointer[limits] // replaced by SetLimits

	table     table
	addrs     addresses
	users     users
	audiences Audiences
	rooms     Rooms
	notices   notices
	count     atomic.Int64
	strangers atomic.Int64
	draining  atomic.Bool
	jitter    atomic.Int64              // of the drain, in nanoseconds
	elsewhere atomic.Pointer[Elsewhere] // of the drain
	refused   atomic.Uint64             // at the door
	turned    atomic.Int64              // see TurnAway
	returned  atomic.Uint64             // see Returns
	returns   returns
	flushes   atomic.Uint64
	newsBytes atomic.Int64 // of rooms, see maxNewsBytes

	dirty list
}

// New returns a hub whose connections call svc.
func New(cfg Config, svc conn.Services) (*Hub, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.defaults()
	h := &Hub{cfg: cfg, log: cfg.Logger}
	start := time.Now()
	h.nanos = func() int64 { return int64(time.Since(start)) }
	h.limits.Store(newLimits(cfg.limits()))
	h.table.worker = uint64(cfg.Worker)
	h.audiences.init(h)
	h.rooms.a.init(h)
	h.addrs.seed, h.users.seed = maphash.MakeSeed(), maphash.MakeSeed()
	var err error
	if h.edge, err = conn.NewEdge(cfg.Conn, svc, h); err != nil {
		return nil, err
	}
	return h, nil
}

// Edge is what all connections share.
func (h *Hub) Edge() *conn.Edge { return h.edge }

// Open admits a new connection over t from addr, or says why not. An invalid addr
// (a proxy will tell the real one) isn't counted until Introduce.
func (h *Hub) Open(t conn.Transport, addr netip.Addr) (*conn.Conn, *code.Error) {
	if h.draining.Load() {
		return nil, h.refuse(h.comeBack())
	}
	if h.count.Add(1) > int64(h.limits.Load().Connections) {
		h.count.Add(-1)
		return nil, h.refuse(code.New(code.TooManyConnections))
	}
	if h.strangers.Add(1) > int64(h.limits.Load().Strangers) {
		h.count.Add(-1)
		h.strangers.Add(-1)
		return nil, h.refuse(code.Newf(code.TooManyConnections, "too many connections wait for their login"))
	}
	if err := h.enter(addr); err != nil {
		h.count.Add(-1)
		h.strangers.Add(-1)
		return nil, h.refuse(err)
	}
	inc, err := h.table.reserve(uint64(time.Now().Unix()))
	if err != nil {
		h.count.Add(-1)
		h.strangers.Add(-1)
		h.leave(addr, true)
		return nil, h.refuse(code.Wrap(code.TooManyConnections, err))
	}
	c := conn.New(h.edge, t, inc)
	h.table.put(c)
	return c, nil
}

func (h *Hub) refuse(err *code.Error) *code.Error {
	h.refused.Add(1)
	return err
}

// Introduce counts c to the address that its proxy told, from which its transport's
// RemoteAddr answers from now on, or says why the connection must be closed. The
// address is not to be counted again when c is gone if it was refused.
func (h *Hub) Introduce(addr netip.Addr) *code.Error {
	if err := h.enter(addr); err != nil {
		return h.refuse(err)
	}
	return nil
}

// Gone implements conn.Host.
func (h *Hub) Gone(c *conn.Conn) {
	loggedIn := c.LoggedIn()
	stranger := !loggedIn && !c.Known()
	if loggedIn {
		h.logout(c)
	}
	if stranger {
		h.strangers.Add(-1)
	}
	h.leave(c.RemoteAddr().Addr(), stranger)
	h.table.release(c.Incarnation())
	h.count.Add(-1)
}

// Deliver queues a whole frame, which is copied, for a connection; nothing happens if
// it is gone. Flush writes it.
func (h *Hub) Deliver(incarnation uint64, frame []byte) {
	if c := h.table.get(incarnation); c != nil {
		c.Deliver(frame)
	}
}

// DeliverLazily is Deliver of what can wait for the next thing that is written, or a second.
func (h *Hub) DeliverLazily(incarnation uint64, frame []byte) {
	if c := h.table.get(incarnation); c != nil {
		c.DeliverLazily(frame)
	}
}

// Close closes a connection, if it is still there, and tells the client why.
func (h *Hub) Close(incarnation uint64, reason *code.Error) {
	if c := h.table.get(incarnation); c != nil {
		c.Close(reason)
	}
}

// Find returns the connection of an incarnation, nil if it is gone.
func (h *Hub) Find(incarnation uint64) *conn.Conn { return h.table.get(incarnation) }

// Count returns how many connections there are, those not logged in included.
func (h *Hub) Count() int { return int(h.count.Load()) }

// list holds the connections that have something to write.
type list struct {
	mu    sync.Mutex
	conns []*conn.Conn
	spare []*conn.Conn
}

// Touch implements conn.Host.
func (h *Hub) Touch(c *conn.Conn) {
	h.dirty.mu.Lock()
	h.dirty.conns = append(h.dirty.conns, c)
	h.dirty.mu.Unlock()
}

// Flush writes what was queued for all connections. It may be called by several
// goroutines at once: each takes its part of the connections.
func (h *Hub) Flush() {
	l := &h.dirty
	l.mu.Lock()
	cs := l.conns
	l.conns, l.spare = l.spare[:0], nil
	l.mu.Unlock()
	if len(cs) == 0 {
		l.mu.Lock()
		l.giveBack(cs)
		l.mu.Unlock()
		return
	}
	h.flushes.Add(1)
	for i, c := range cs {
		c.Flush()
		cs[i] = nil
	}
	l.mu.Lock()
	l.giveBack(cs)
	l.mu.Unlock()
}

func (l *list) giveBack(cs []*conn.Conn) {
	if cap(cs) > cap(l.spare) && cap(cs) <= 64<<10 {
		l.spare = cs[:0]
	}
}

// sweepTicks is how many ticks of tick one round over all connections takes.
const (
	sweepTick  = 100 * time.Millisecond
	sweepTicks = 10
)

// Run closes connections that have overstayed, until ctx ends: a slice of them a
// tick, all of them within a second.
func (h *Hub) Run(ctx context.Context) error {
	t := time.NewTicker(sweepTick)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		n, k := h.table.slots(), i%sweepTicks
		h.table.each(n*k/sweepTicks, n*(k+1)/sweepTicks, (*conn.Conn).Sweep)
		h.forgetAddresses(i)
		h.tell()
	}
}

// Stats are the hub's counts beside those of its connections.
type Stats struct {
	conn.Stats
	Connections, Strangers int64  // now
	RefusedAtDoor          uint64 // connections not admitted
	Returned               uint64 // connections of clients that came back with a resume token, and passed the limits of strangers
	Flushes                uint64 // rounds of Flush that had something to write
}

// Stats returns the counts so far.
func (h *Hub) Stats() Stats {
	return Stats{
		Stats: h.edge.Stats(), Connections: h.count.Load(), Strangers: h.strangers.Load(),
		RefusedAtDoor: h.refused.Load(), Returned: h.returned.Load(), Flushes: h.flushes.Load(),
	}
}
