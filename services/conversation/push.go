package conversation

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Devices delivers signals to the devices that are connected now. What doesn't reach
// one heals by its next sync. Neither method blocks; both are safe for concurrent use.
type Devices interface {
	// Reaches reports whether user has a connection other than but.
	Reaches(user id.UserID, but uint64) bool

	// Push hands s, of which it keeps nothing, to the connections of user other than but.
	Push(user id.UserID, but uint64, s *wire.Signal)

	// PushLazily is Push of what can wait a second where more is to be written anyway.
	PushLazily(user id.UserID, but uint64, s *wire.Signal)
}

// BindDevices sets who is told of cursors and settings that moved. Without it nobody is.
// It must be called before anything else is.
func (s *Service) BindDevices(d Devices) { s.devices = d }

// pushes are the cursors that moved and that nobody was told of yet, the latest move of
// each: a reader who scrolls moves a cursor many times a second.
type pushes struct {
	mu      sync.Mutex
	waiting map[cursorKey]pushed
	limit   int
	wake    chan struct{}
}

type pushed struct {
	read, recv uint64
	moved      bool // ReadSeq did
}

func (p *pushes) init(limit int) {
	p.limit = limit
	p.wake = make(chan struct{}, 1)
}

// moved notes that a cursor has moved, durably. Beyond the limit it is forgotten.
func (s *Service) moved(m *move) {
	if s.devices == nil || !m.readMoved && m.key.conv.Kind() != id.KindDirect {
		return
	}
	p := &s.pushes
	p.mu.Lock()
	defer p.mu.Unlock()
	k := m.key
	old, ok := p.waiting[k]
	switch {
	case !ok && len(p.waiting) >= p.limit:
		return
	case p.waiting == nil:
		p.waiting = make(map[cursorKey]pushed)
	}
	if !ok {
		k.user = id.UserID(strings.Clone(string(k.user)))
	}
	next := pushed{read: max(old.read, m.cur.ReadSeq), recv: max(old.recv, m.cur.RecvSeq), moved: old.moved || m.readMoved}
	p.waiting[k] = next
	if len(p.waiting) == 1 && !ok {
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
}

// pushLoop tells of moves until ctx ends. Nothing is lost then: those who are told are
// about to lose their connections, and heal by sync.
func (s *Service) pushLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.pushes.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.cfg.PushEvery):
		}
		s.pushMoves(ctx)
	}
}

// pushMoves tells of all moves that wait.
func (s *Service) pushMoves(ctx context.Context) {
	p := &s.pushes
	p.mu.Lock()
	batch := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for k, m := range batch {
		r, who, err := s.mine(ctx, k.user, k.conv)
		if err != nil {
			continue
		}
		if peer := r.peer(k.user); peer != "" && s.devices.Reaches(peer, 0) {
			push := s.devices.Push
			if !m.moved { // received alone: as many as there are messages
				push = s.devices.PushLazily
			}
			s.pushCursors(push, peer, k, &wire.Cursors{ReadSeq: m.read, RecvSeq: m.recv})
		}
		if !m.moved || !s.devices.Reaches(k.user, 0) {
			continue
		}
		if c, err := s.counted(ctx, k, m, who); err == nil {
			s.pushCursors(s.devices.Push, k.user, k, c)
		} else if ctx.Err() == nil {
			s.log.Warn("unread could not be counted for a push", "conversation", k.conv.String(), "err", err)
		}
	}
}

func (s *Service) pushCursors(push func(user id.UserID, but uint64, s *wire.Signal), to id.UserID, k cursorKey, c *wire.Cursors) {
	data, err := c.Marshal(nil)
	if err != nil {
		s.log.Error("encoding cursors", "err", err)
		return
	}
	push(to, 0, &wire.Signal{ConversationId: k.conv[:], Kind: packet.SignalCursors, Data: data, SenderId: string(k.user)})
}

// pushState tells user's connections but one how conv stands for them now.
func (s *Service) pushState(user id.UserID, but uint64, st *wire.ConversationState) {
	if s.devices == nil || !s.devices.Reaches(user, but) {
		return
	}
	data, err := st.Marshal(nil)
	if err != nil {
		s.log.Error("encoding a conversation", "err", err)
		return
	}
	s.devices.Push(user, but, &wire.Signal{ConversationId: st.ConversationId, Kind: packet.SignalState, Data: data, SenderId: string(user)})
}
