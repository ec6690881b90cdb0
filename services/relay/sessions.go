package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/session"
)

// Closer closes connections of this edge: the hub.
type Closer interface {
	Close(conn uint64, why *code.Error)
	CloseUserUntil(user id.UserID, device id.DeviceID, until time.Time, why *code.Error) int
}

// SessionsConfig is what Sessions need; zero fields take their defaults.
type SessionsConfig struct {
	Edge  session.Edge // this edge
	View  View
	Call  Caller // of a logic node, whose Desk takes the body; of this one, too, if it is one
	Hub   Closer
	Hints *Hints

	// Seat asks a node that leads audiences at this edge to bring a user's connections into those that are the
	// user's; nil: none does. Leads says which nodes do.
	Seat  func(ctx context.Context, node string, user id.UserID) error
	Leads func(dst []string) []string

	Patience time.Duration // for the answer to a new session, which lives without, too; 0: 2 s
	Every    time.Duration // a node hears of this edge at least this often; 0: 5 s
	Timeout  time.Duration // of one call; 0: 4 s

	// Bound is how long sessions live whose node can't be reached: so long it may be that somebody
	// whose rights were revoked stays connected. 0: 60 s.
	Bound time.Duration

	Logger *slog.Logger     // nil: none
	Now    func() time.Time // nil: time.Now
}

// Validate reports what is missing or out of bounds.
func (c *SessionsConfig) Validate() error {
	switch {
	case c.View == nil || c.Call == nil || c.Hub == nil || c.Hints == nil:
		return errors.New("relay: View, Call, Hub and Hints are needed")
	case (c.Seat == nil) != (c.Leads == nil):
		return errors.New("relay: Seat and Leads belong together")
	case c.Edge.Worker == 0 || c.Edge.Worker >= 1<<id.ConnWorkerBits:
		return fmt.Errorf("relay: worker number %d of an edge", c.Edge.Worker)
	case c.Patience < 0 || c.Every < 0 || c.Timeout < 0 || c.Bound < 0:
		return errors.New("relay: a time is below zero")
	}
	return nil
}

// Sessions is an edge's part in the directory: it tells the owner of each user who connects and who
// leaves, renews its lease, and announces what it has where an owner lacks it. It is the Sessions of edge/conn.
type Sessions struct {
	cfg  SessionsConfig
	book *session.Directory // what this edge has

	// A stripe is held while the book changes and an owner's lane is told: so they agree on the order.
	stripes [64]sync.Mutex

	mu        sync.Mutex
	lanes     map[string]*account // by node id
	again     map[id.Slot]struct{}
	owners    [id.SlotCount]string // by the view before
	alone     time.Time            // since when there has been no logic node; zero: there is one
	ctx       context.Context
	stop      context.CancelFunc
	running   sync.WaitGroup
	announced uint64
	cut       uint64
}

// NewSessions returns Sessions that know of nobody. Run keeps them, SetView tells of nodes, Close ends it.
func NewSessions(cfg SessionsConfig) (*Sessions, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.Patience, cfg.Every, cfg.Timeout = cmp.Or(cfg.Patience, 2*time.Second), cmp.Or(cfg.Every, 5*time.Second), cmp.Or(cfg.Timeout, 4*time.Second)
	cfg.Bound, cfg.Logger = cmp.Or(cfg.Bound, time.Minute), logger(cfg.Logger)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	book, err := session.New(session.Config{DevicesPerUser: session.MaxDevices})
	if err != nil {
		return nil, err
	}
	s := &Sessions{cfg: cfg, book: book, lanes: make(map[string]*account), again: make(map[id.Slot]struct{}), alone: cfg.Now()}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s, nil
}

// SetView follows a change of the nodes.
func (s *Sessions) SetView() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return
	}
	logics := s.cfg.View.Logics()
	// Entries for a slot go to its owner by this view, and by the one before went to another one, who
	// may have been no owner by then: the new one is told of everything.
	for slot := range id.Slot(id.SlotCount) {
		owner := ""
		if n := s.cfg.View.Owner(slot); n != nil {
			owner = n.ID
		}
		if s.owners[slot] != owner {
			s.owners[slot] = owner
			s.again[slot] = struct{}{}
		}
	}
	alive := make(map[string]bool, len(logics))
	for _, n := range logics {
		alive[n.ID] = true
		a := s.lanes[n.ID]
		if a != nil && a.node().Start != n.Start {
			a.stop()
			a = nil
		}
		if a == nil {
			a = newAccount(s, n)
			s.lanes[n.ID] = a
		}
		a.to.Store(n)
		a.renew() // it may have become the owner of something
	}
	for node, a := range s.lanes {
		if !alive[node] {
			a.stop()
			delete(s.lanes, node)
		}
	}
	switch {
	case len(logics) > 0:
		s.alone = time.Time{}
	case s.alone.IsZero():
		s.alone = s.cfg.Now()
	}
}

// Close ends all calls. Leases lapse.
func (s *Sessions) Close() {
	s.mu.Lock()
	s.stop()
	s.mu.Unlock()
	s.running.Wait()
}

// owner returns the lane to whom a slot's users are told to; nil: nobody is known.
func (s *Sessions) owner(slot id.Slot) *account {
	n := s.cfg.View.Owner(slot)
	if n == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lanes[n.ID]
}

// later has a slot announced again, to whoever owns it then.
func (s *Sessions) later(slot id.Slot) {
	s.mu.Lock()
	s.again[slot] = struct{}{}
	s.mu.Unlock()
}

// Register implements conn.Sessions. It waits for the user's owner, but not for long: a session that couldn't be
// told of is announced as soon as that is possible, and has a HINT then.
func (s *Sessions) Register(user id.UserID, device id.DeviceID, kind uint8, conn uint64) (replaced, ousted uint64) {
	slot := user.Slot()
	done := make(chan [2]uint64, 1)
	stripe := &s.stripes[slot%64]
	stripe.Lock()
	replaced, ousted = s.book.Register(user, device, kind, conn)
	a := s.owner(slot)
	told := a != nil && a.add(&entry{kind: entryRegister, slot: slot, session: session.Session{User: user, Device: device, Kind: kind, Conn: conn}, done: done})
	stripe.Unlock()
	if !told {
		s.later(slot)
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.cfg.Patience)
	defer cancel()
	s.seat(ctx, user, conn)
	if !told {
		return replaced, ousted
	}
	select {
	case got := <-done:
		if got[0] != 0 {
			replaced = got[0]
		}
		if got[1] != 0 {
			ousted = got[1]
		}
	case <-ctx.Done():
		s.later(slot)
		a.renew()
	}
	return replaced, ousted
}

// seat asks those that lead audiences here for the user's seats, all at once.
func (s *Sessions) seat(ctx context.Context, user id.UserID, conn uint64) {
	if s.cfg.Seat == nil {
		return
	}
	leads := s.cfg.Leads(nil)
	var wg sync.WaitGroup
	for _, node := range leads {
		wg.Go(func() {
			if err := s.cfg.Seat(ctx, node, user); err != nil {
				s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a user's seats in large groups couldn't be asked for", slog.String("node", node), slog.Any("err", err))
				s.cfg.Hints.Spread([]uint64{conn})
			}
		})
	}
	wg.Wait()
}

// Unregister implements conn.Sessions. It doesn't wait.
func (s *Sessions) Unregister(user id.UserID, conn uint64) {
	slot := user.Slot()
	stripe := &s.stripes[slot%64]
	stripe.Lock()
	defer stripe.Unlock()
	s.book.Unregister(user, conn)
	if a := s.owner(slot); a == nil || !a.add(&entry{kind: entryUnregister, slot: slot, session: session.Session{User: user, Conn: conn}}) {
		s.later(slot)
	}
}

// due takes the slots to be announced again that n owns.
func (s *Sessions) due(n *nodes.Node) (slots []id.Slot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for slot := range s.again {
		if o := s.cfg.View.Owner(slot); o != nil && o.ID == n.ID {
			slots = append(slots, slot)
			delete(s.again, slot)
		}
	}
	slices.Sort(slots)
	return slots
}

// Run closes the sessions of owners that couldn't be reached for the bound, until ctx ends.
func (s *Sessions) Run(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			s.Check()
		}
	}
}

// errCutOff is told to clients whose connections are closed for it.
var errCutOff = code.Newf(code.Unavailable, "this server is cut off from the others")

// Check closes the sessions whose owner couldn't be reached for the bound.
func (s *Sessions) Check() {
	limit := s.cfg.Now().Add(-s.cfg.Bound)
	silent := make(map[string]bool)
	s.mu.Lock()
	alone := !s.alone.IsZero() && s.alone.Before(limit)
	for node, a := range s.lanes {
		if a.heardBefore(limit) {
			silent[node] = true
		}
	}
	s.mu.Unlock()
	if !alone && len(silent) == 0 {
		return
	}
	for slot := range id.Slot(id.SlotCount) {
		n := s.cfg.View.Owner(slot)
		if n == nil && alone || n != nil && silent[n.ID] {
			s.closeSlot(slot)
		}
	}
}

func (s *Sessions) closeSlot(slot id.Slot) {
	for _, x := range s.book.InSlot(slot, nil) {
		s.cfg.Hub.Close(x.Conn, errCutOff)
		s.mu.Lock()
		s.cut++
		s.mu.Unlock()
	}
}

// closeOwned closes all sessions that n owns: it revoked more than it still knows while it couldn't be reached.
func (s *Sessions) closeOwned(n *nodes.Node) {
	for slot := range id.Slot(id.SlotCount) {
		if o := s.cfg.View.Owner(slot); o != nil && o.ID == n.ID {
			s.closeSlot(slot)
		}
	}
}

// SessionsStats are counts.
type SessionsStats struct {
	Sessions  int    // now, at this edge
	Later     int    // slots that wait to be announced again
	Announced uint64 // slots
	Cut       uint64 // sessions closed because their owner couldn't be reached
}

// Stats returns the counts.
func (s *Sessions) Stats() SessionsStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return SessionsStats{s.book.Len(), len(s.again), s.announced, s.cut}
}
