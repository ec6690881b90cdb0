package relay

import (
	"context"
	"encoding/binary"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/session"
)

// account is what an edge tells one logic node: entries that gather while a call is under way, then
// slots that the node lacks. What couldn't be told is announced with its slot, later.
type account struct {
	s    *Sessions
	to   atomic.Pointer[nodes.Node]
	kick chan struct{}
	stop context.CancelFunc

	mu      sync.Mutex
	entries []*entry
	renewal bool
	heard   time.Time // of the node, last; in the beginning when it was heard of
	ended   bool

	// Of run's goroutine.
	missing []id.Slot
	desk    uint64
	revoked uint64
}

// entry is one thing to be told.
type entry struct {
	kind    byte
	slot    id.Slot
	session session.Session
	done    chan [2]uint64 // of a registration: what it replaced and ousted; of capacity 1

	slots []id.Slot // of a renewal
	conns []uint64  // of an announcement
}

const (
	maxEntries   = 1 << 16   // that wait for one node
	announceSize = 256 << 10 // bytes from which on announcements wait for the next call
)

func newAccount(s *Sessions, n *nodes.Node) *account {
	ctx, stop := context.WithCancel(s.ctx)
	a := &account{s: s, kick: make(chan struct{}, 1), heard: s.cfg.Now(), renewal: true}
	a.stop = func() {
		stop()
		a.abandon()
	}
	a.to.Store(n)
	s.running.Go(func() { a.run(ctx) })
	return a
}

func (a *account) node() *nodes.Node { return a.to.Load() }

func (a *account) wake() {
	select {
	case a.kick <- struct{}{}:
	default:
	}
}

// add has e told; false: too much waits.
func (a *account) add(e *entry) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended || len(a.entries) == maxEntries {
		return false
	}
	a.entries = append(a.entries, e)
	a.wake()
	return true
}

// renew has the lease renewed now.
func (a *account) renew() {
	a.mu.Lock()
	a.renewal = true
	a.mu.Unlock()
	a.wake()
}

func (a *account) heardBefore(t time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.heard.Before(t)
}

// abandon hands what waits over to whoever is the owner now. The caller holds s.mu.
func (a *account) abandon() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ended = true
	for _, e := range a.entries {
		a.s.again[e.slot] = struct{}{}
		if e.done != nil {
			e.done <- [2]uint64{}
		}
	}
	a.entries = nil
}

func (a *account) run(ctx context.Context) {
	t := time.NewTicker(a.s.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.kick:
		case <-t.C:
			a.mu.Lock()
			a.renewal = true
			a.mu.Unlock()
		}
		for a.turn(ctx) {
		}
	}
}

// turn makes one call, if there is something to tell.
func (a *account) turn(ctx context.Context) bool {
	a.mu.Lock()
	told := a.entries
	a.entries = nil
	renewal := a.renewal
	a.renewal = false
	a.mu.Unlock()
	l := ledger{edge: a.s.cfg.Edge, desk: a.desk, revoked: a.revoked}
	for _, e := range told {
		l.entries = append(l.entries, e.kind)
		if e.kind == entryRegister {
			l.entries = appendSession(l.entries, &e.session)
		} else {
			l.entries = appendConn(appendString(l.entries, e.session.User), e.session.Conn)
		}
	}
	n := a.node()
	if renewal {
		e := &entry{kind: entryRenew, slots: a.s.due(n)}
		l.entries = appendSlots(append(l.entries, entryRenew), e.slots)
		told = append(told, e)
		a.missing = nil // the answer says
	}
	for len(a.missing) > 0 && len(l.entries) < announceSize {
		var e *entry
		e, l.entries = a.announce(a.missing[0], l.entries)
		told = append(told, e)
		a.missing = a.missing[1:]
	}
	if len(told) == 0 {
		return false
	}
	call, cancel := context.WithTimeout(ctx, a.s.cfg.Timeout)
	defer cancel()
	answer, err := a.s.cfg.Call(call, n, l.append(nil))
	var st statement
	if err == nil {
		st, err = readStatement(answer)
	}
	if err == nil {
		err = a.settle(n, &st, told)
	}
	if err == nil {
		return true
	}
	if ctx.Err() == nil {
		a.s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a node of the directory can't be reached", slog.String("node", n.ID), slog.Any("err", err))
	}
	a.failed(told)
	time.AfterFunc(retryAfter, a.renew)
	return false
}

// retryAfter is when a node that couldn't be reached, or thought that a slot was another's, is told again.
const retryAfter = 250 * time.Millisecond

// announce adds all that this edge has of a slot. Whoever registers or leaves meanwhile is told of behind it.
func (a *account) announce(slot id.Slot, dst []byte) (*entry, []byte) {
	e := &entry{kind: entryAnnounce, slot: slot}
	stripe := &a.s.stripes[slot%64]
	stripe.Lock()
	all := a.s.book.InSlot(slot, nil)
	stripe.Unlock()
	dst = binary.BigEndian.AppendUint16(append(dst, entryAnnounce), uint16(slot))
	dst = binary.AppendUvarint(dst, uint64(len(all)))
	for i := range all {
		dst = appendSession(dst, &all[i])
		e.conns = append(e.conns, all[i].Conn)
	}
	return e, dst
}

// failed has everything that was told, or not, announced again.
func (a *account) failed(told []*entry) {
	for _, e := range told {
		if e.kind == entryRenew {
			for _, slot := range e.slots {
				a.s.later(slot)
			}
		} else {
			a.s.later(e.slot)
		}
		if e.done != nil {
			e.done <- [2]uint64{}
		}
	}
}

// settle acts on the answers.
func (a *account) settle(n *nodes.Node, st *statement, told []*entry) error {
	s := a.s
	a.mu.Lock()
	a.heard = s.cfg.Now()
	a.mu.Unlock()
	err := obey(st.orders, s.cfg.Hub.Close, func(v Revocation) {
		s.cfg.Hub.CloseUserUntil(v.User, v.Device, v.Until, code.Newf(code.SessionRevoked, "%s", v.Why))
	}, func(id.ConversationID, id.UserID) {})
	if err != nil {
		return err
	}
	if st.missed && a.desk != 0 {
		s.closeOwned(n)
	}
	a.desk, a.revoked = st.desk, st.revoked
	r := reader{b: st.answers}
	for i, e := range told {
		status := r.byte()
		var got [2]uint64
		switch e.kind {
		case entryRegister:
			got = [2]uint64{r.conn(), r.conn()}
		case entryRenew:
			a.missing = r.slots(nil)
			a.mine(n, e)
		}
		if r.err != nil {
			a.failed(told[i:])
			return nil
		}
		if status != statusEntered {
			a.failed(told[i : i+1])
			time.AfterFunc(retryAfter, a.renew)
			continue
		}
		switch e.kind {
		case entryRegister:
			// Whoever waits for it closes them, too; but maybe nobody does any more.
			if got[0] != 0 {
				s.cfg.Hub.Close(got[0], code.New(code.Replaced))
			}
			if got[1] != 0 {
				s.cfg.Hub.Close(got[1], errOusted)
			}
			e.done <- got
		case entryAnnounce:
			s.mu.Lock()
			s.announced++
			s.mu.Unlock()
			if len(e.conns) > 0 {
				s.cfg.Hints.Spread(e.conns)
			}
		}
	}
	return nil
}

// mine leaves those of the missing slots that are n's by this edge's view, too: of others n isn't told
// who comes and goes. What was to be announced again and n doesn't want is kept for whoever does.
func (a *account) mine(n *nodes.Node, renewal *entry) {
	wanted := make(map[id.Slot]bool, len(a.missing))
	a.missing = slices.DeleteFunc(a.missing, func(slot id.Slot) bool {
		o := a.s.cfg.View.Owner(slot)
		wanted[slot] = o != nil && o.ID == n.ID
		return !wanted[slot]
	})
	for _, slot := range renewal.slots {
		if !wanted[slot] {
			a.s.later(slot)
			time.AfterFunc(retryAfter, a.renew)
		}
	}
}
