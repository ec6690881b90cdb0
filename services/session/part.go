package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
)

// DefaultLease is how long an edge's sessions stay in a Part after the last call of the edge.
const DefaultLease = 15 * time.Second

// Edge is one start of one edge process. Its worker number is in the incarnations of its
// connections; Start is different at each start.
type Edge struct {
	Worker uint32
	Start  uint64
}

// Session is one device of a user with its connection.
type Session struct {
	User   id.UserID
	Device id.DeviceID
	Kind   uint8
	Conn   uint64
}

var (
	// ErrForeign says that a session was not entered: its user's slot is another node's, as far as
	// this one knows. Whoever announces the slot to its owner brings it, too.
	ErrForeign = errors.New("session: the slot is another node's")

	// ErrStale refuses another start of an edge than the one that is in the view, and speaks.
	ErrStale = errors.New("session: another start of the edge is alive")

	errOthers = errors.New("session: the connection is another edge's")
)

// PartConfig is what a Part needs; zero fields take their defaults.
type PartConfig struct {
	Config
	Lease time.Duration    // 0: DefaultLease
	Now   func() time.Time // nil: time.Now; it must not go back
}

// Validate reports a field out of bounds.
func (c PartConfig) Validate() error {
	if c.Lease < 0 {
		return fmt.Errorf("%w: Lease is %v, want 0 or more", ErrConfig, c.Lease)
	}
	return c.Config.Validate()
}

// Part is what one node of a cluster holds of the directory: the sessions of the users in its slots.
//
// Edges bring them: each session when it begins and ends, and all they have of a slot when it
// becomes this node's (Renew tells them which slots it lacks). An edge that says nothing for a
// lease is taken for gone, with all of its sessions. Of a slot that is new to this node it
// doesn't say that somebody is not connected before all edges have announced what they have, or a lease has passed.
//
// It is safe for concurrent use. New sessions and look-ups hold one shard's lock; what changes
// whole slots or edges comes one after the other.
type Part struct {
	dir   *Directory
	lease time.Duration
	now   func() time.Time

	slots  [id.SlotCount]atomic.Uint32 // slotState
	leases [1 << id.ConnWorkerBits]atomic.Pointer[lease]

	mu     sync.Mutex // one change of slots or edges at a time; taken before shards' locks
	edges  []Edge     // that are alive
	fresh  map[id.Slot]time.Time
	lapsed uint64
}

type slotState = uint32

const (
	foreign slotState = iota
	fresh             // ours, but not everybody who is connected is known
	known
)

// lease is one edge's.
type lease struct {
	edge      Edge
	until     atomic.Int64  // Unix nanoseconds
	announced bitmap        // slots of which all that the edge has is here; guarded by Part.mu
	has       atomic.Uint64 // bit slot%64 is set when the edge may have sessions in such a slot
}

type bitmap [id.SlotCount / 64]uint64

func (b *bitmap) has(s id.Slot) bool { return b[s/64]>>(s%64)&1 != 0 }
func (b *bitmap) set(s id.Slot)      { b[s/64] |= 1 << (s % 64) }
func (b *bitmap) clear(s id.Slot)    { b[s/64] &^= 1 << (s % 64) }

// NewPart returns a Part that has no slots.
func NewPart(cfg PartConfig) (*Part, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dir, err := New(cfg.Config)
	if err != nil {
		return nil, err
	}
	p := &Part{dir: dir, lease: cmp.Or(cfg.Lease, DefaultLease), now: cfg.Now, fresh: make(map[id.Slot]time.Time)}
	if p.now == nil {
		p.now = time.Now
	}
	return p, nil
}

// SetView says which edges are alive and which slots are this node's. Sessions in slots that
// no longer are, and of other starts of these edges, are dropped. edges is kept.
func (p *Part) SetView(edges []Edge, owns func(id.Slot) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.edges = edges
	for _, e := range edges {
		if l := p.of(e.Worker); l != nil && l.edge != e {
			p.drop(l)
		}
	}
	var lost bitmap
	some := false
	until := p.now().Add(p.lease)
	for s := range id.Slot(id.SlotCount) {
		switch state := p.slots[s].Load(); {
		case owns(s) == (state != foreign):
		case state != foreign:
			p.slots[s].Store(foreign) // from here on nothing is entered into it
			delete(p.fresh, s)
			lost.set(s)
			some = true
		default:
			for i := range p.leases {
				if l := p.leases[i].Load(); l != nil {
					l.announced.clear(s)
				}
			}
			p.fresh[s] = until
			p.slots[s].Store(fresh)
		}
	}
	if some {
		p.remove(func(u id.UserID, _ uint64) bool { return lost.has(u.Slot()) })
	}
	p.settle()
}

// remove drops the sessions that gone names. mu is held.
func (p *Part) remove(gone func(user id.UserID, conn uint64) bool) {
	for i := range p.dir.shards {
		p.dir.shards[i].remove(gone)
	}
}

func (p *Part) of(worker uint32) *lease {
	if int(worker) >= len(p.leases) {
		return nil
	}
	return p.leases[worker].Load()
}

// drop ends a lease and drops its sessions. mu is held.
func (p *Part) drop(l *lease) {
	p.leases[l.edge.Worker].Store(nil) // from here on nothing is entered for it
	p.remove(func(_ id.UserID, conn uint64) bool { return id.ConnWorker(conn) == l.edge.Worker })
}

// hold renews the lease of e, and makes one if there is none.
func (p *Part) hold(e Edge) (*lease, error) {
	if l := p.of(e.Worker); l != nil && l.edge == e && p.renew(l) {
		return l, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holdLocked(e)
}

// renew makes l last from now on; false: it has lapsed.
func (p *Part) renew(l *lease) bool {
	now := p.now()
	if l.until.Load() < now.UnixNano() {
		return false
	}
	l.until.Store(now.Add(p.lease).UnixNano())
	return true
}

func (p *Part) holdLocked(e Edge) (*lease, error) {
	if int(e.Worker) >= len(p.leases) {
		return nil, fmt.Errorf("%w: worker %d", errOthers, e.Worker)
	}
	switch l := p.of(e.Worker); {
	case l == nil:
	case l.edge == e && p.renew(l):
		return l, nil
	case l.edge != e && l.until.Load() >= p.now().UnixNano() && slices.Contains(p.edges, l.edge):
		return nil, ErrStale
	default:
		if l.edge == e {
			p.lapsed++
		}
		p.drop(l)
	}
	l := &lease{edge: e}
	l.until.Store(p.now().Add(p.lease).UnixNano())
	p.leases[e.Worker].Store(l)
	return l, nil
}

// Renew renews the lease of e and appends to dst the slots of this node of which e is to announce
// all that it has, because it hasn't since its lease began or the slot became this node's; it
// counts those in again as such, too.
func (p *Part) Renew(e Edge, again, dst []id.Slot) (missing []id.Slot, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, err := p.holdLocked(e)
	if err != nil {
		return dst, err
	}
	for _, s := range again {
		if s < id.SlotCount {
			l.announced.clear(s)
		}
	}
	for s := range id.Slot(id.SlotCount) {
		if p.slots[s].Load() != foreign && !l.announced.has(s) {
			dst = append(dst, s)
		}
	}
	return dst, nil
}

// Register enters a session that has just begun: Directory.Register.
func (p *Part) Register(e Edge, user id.UserID, device id.DeviceID, kind uint8, conn uint64) (replaced, ousted uint64, err error) {
	if id.ConnWorker(conn) != e.Worker {
		return 0, 0, errOthers
	}
	l, err := p.hold(e)
	if err != nil {
		return 0, 0, err
	}
	slot := user.Slot()
	s := &p.dir.shards[slot%shardCount]
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.slots[slot].Load() == foreign:
		return 0, 0, ErrForeign
	case p.of(e.Worker) != l: // it ended just now, and so does what was entered for it
		return 0, 0, ErrForeign
	}
	l.mark(slot)
	replaced, ousted = s.register(user, device, kind, conn, p.dir.limit)
	if replaced == conn { // it was announced already
		replaced = 0
	}
	return replaced, ousted, nil
}

func (l *lease) mark(s id.Slot) {
	if bit := uint64(1) << (s % 64); l.has.Load()&bit == 0 {
		l.has.Or(bit)
	}
}

// Unregister removes a connection of e.
func (p *Part) Unregister(e Edge, user id.UserID, conn uint64) error {
	if _, err := p.hold(e); err != nil {
		return err
	}
	if p.slots[user.Slot()].Load() == foreign {
		return ErrForeign
	}
	p.dir.Unregister(user, conn)
	return nil
}

// Announce enters sessions as all that e has in slot. Those that gave way to newer ones, or had
// to, are appended to closed: their connections are to be closed.
func (p *Part) Announce(e Edge, slot id.Slot, sessions []Session, closed []uint64) ([]uint64, error) {
	for i := range sessions {
		if x := &sessions[i]; x.User.Slot() != slot || id.ConnWorker(x.Conn) != e.Worker {
			return closed, errOthers
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if slot >= id.SlotCount || p.slots[slot].Load() == foreign {
		return closed, ErrForeign
	}
	l, err := p.holdLocked(e)
	if err != nil {
		return closed, err
	}
	s := &p.dir.shards[slot%shardCount]
	if l.has.Load()>>(slot%64)&1 != 0 {
		stay := make(map[uint64]struct{}, len(sessions))
		for i := range sessions {
			stay[sessions[i].Conn] = struct{}{}
		}
		s.remove(func(u id.UserID, conn uint64) bool {
			_, stays := stay[conn]
			return !stays && id.ConnWorker(conn) == e.Worker && u.Slot() == slot
		})
	}
	s.mu.Lock()
	for i := range sessions {
		closed = s.announce(&sessions[i], p.dir.limit, closed)
	}
	s.mu.Unlock()
	if len(sessions) > 0 {
		l.mark(slot)
	}
	l.announced.set(slot)
	p.settleSlot(slot)
	return closed, nil
}

// settle makes slots known that are so by now. mu is held.
func (p *Part) settle() {
	for s := range p.fresh {
		p.settleSlot(s)
	}
}

func (p *Part) settleSlot(s id.Slot) {
	until, is := p.fresh[s]
	if !is {
		return
	}
	if p.now().Before(until) {
		for _, e := range p.edges {
			if l := p.of(e.Worker); l == nil || l.edge != e || !l.announced.has(s) {
				return
			}
		}
	}
	delete(p.fresh, s)
	p.slots[s].Store(known)
}

// Sweep ends the leases that have lapsed and the time in which new slots are unknown.
func (p *Part) Sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now().UnixNano()
	for i := range p.leases {
		if l := p.leases[i].Load(); l != nil && l.until.Load() < now {
			p.lapsed++
			p.drop(l)
		}
	}
	p.settle()
}

// Run sweeps once a second until ctx ends.
func (p *Part) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			p.Sweep()
		}
	}
}

// Gather is Directory.Gather; a connection of 0 says that the user may have others than those that are known.
func (p *Part) Gather(_ context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int) {
	for _, u := range users {
		slot := u.Slot()
		// The state is read first: once a slot is known whoever is connected has been entered.
		state := p.slots[slot].Load()
		conns = p.dir.shards[slot%shardCount].gather(u, conns)
		if state != known || p.slots[slot].Load() != known {
			conns = append(conns, 0)
		}
		ends = append(ends, len(conns))
	}
	return conns, ends
}

// Each and Find are the Directory's, of those sessions that are known.
func (p *Part) Each(user id.UserID, fn func(conn uint64, device id.DeviceID)) { p.dir.Each(user, fn) }
func (p *Part) Find(user id.UserID, device id.DeviceID) (conn uint64, kind uint8) {
	return p.dir.Find(user, device)
}

// Devices appends a user's sessions, the latest registered first. sure is false if there may be others.
func (p *Part) Devices(user id.UserID, dst []Session) (all []Session, sure bool) {
	slot := user.Slot()
	before := p.slots[slot].Load()
	s := &p.dir.shards[slot%shardCount]
	s.mu.Lock()
	for i := s.users[user]; i != 0; i = s.at(i).next {
		e := s.at(i)
		dst = append(dst, Session{user, e.device, e.kind, e.conn})
	}
	s.mu.Unlock()
	return dst, before == known && p.slots[slot].Load() == known
}

// Len returns the number of sessions.
func (p *Part) Len() int { return p.dir.Len() }

// PartStats says how a Part stands.
type PartStats struct {
	Sessions int    // now
	Edges    int    // with a lease
	Unknown  int    // slots of which not everybody who is connected is known
	Lapsed   uint64 // leases that ended because their edge said nothing
}

// Stats counts.
func (p *Part) Stats() PartStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := PartStats{Sessions: p.dir.Len(), Unknown: len(p.fresh), Lapsed: p.lapsed}
	for i := range p.leases {
		if p.leases[i].Load() != nil {
			st.Edges++
		}
	}
	return st
}

// remove drops the sessions that gone names.
func (s *shard) remove(gone func(user id.UserID, conn uint64) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		return
	}
	type session struct {
		user id.UserID
		conn uint64
	}
	var drop []session
	for u, i := range s.users {
		for ; i != 0; i = s.at(i).next {
			if conn := s.at(i).conn; gone(u, conn) {
				drop = append(drop, session{u, conn})
			}
		}
	}
	for _, d := range drop {
		s.unregister(d.user, d.conn)
	}
}

// announce enters a session that may have begun before others that are there: of one device, and
// of too many, the one opened last stays. mu is held.
func (s *shard) announce(x *Session, most limit, closed []uint64) []uint64 {
	all := make([]entry, 0, MaxDevices)
	for i := s.users[x.User]; i != 0; i = s.at(i).next {
		e := *s.at(i)
		switch {
		case e.conn == x.Conn:
			return closed
		case e.device == x.Device && e.conn > x.Conn:
			return append(closed, x.Conn)
		}
		all = append(all, e)
	}
	at := 0
	for at < len(all) && all[at].conn > x.Conn {
		at++
	}
	all = slices.Insert(all, at, entry{device: x.Device, conn: x.Conn, kind: x.Kind})
	kept, same := 0, 0
	for i, e := range all {
		out := kept == most.all || e.kind == x.Kind && same == most.kind || i > at && e.device == x.Device
		switch {
		case !out:
			kept++
			if e.kind == x.Kind {
				same++
			}
		case e.conn == x.Conn:
			return append(closed, x.Conn)
		default:
			closed = append(closed, e.conn)
			s.unregister(x.User, e.conn)
		}
	}
	if s.users == nil {
		s.users = make(map[id.UserID]uint32)
	}
	n := s.alloc()
	*s.at(n) = entry{device: x.Device, conn: x.Conn, kind: x.Kind}
	s.count++
	// Behind those opened later.
	p := uint32(0)
	for i := s.users[x.User]; i != 0 && s.at(i).conn > x.Conn; i = s.at(i).next {
		p = i
	}
	if p == 0 {
		s.at(n).next = s.users[x.User]
		s.users[x.User] = n
	} else {
		s.at(n).next, s.at(p).next = s.at(p).next, n
	}
	return closed
}
