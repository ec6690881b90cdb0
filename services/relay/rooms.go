package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/session"
)

// RoomKeeper is the owner of rooms, who hears of each edge who is in them. room.Service is one.
type RoomKeeper interface {
	// Report says that from state before on (0: from nobody) users came to the room conv with these connections, and
	// those in left went, at the edge of that worker number and start; with before equal to state nothing changed. It
	// holds for a lease. again: the state before isn't known, so all of it is wanted; out are connections whose users may not be in.
	Report(worker uint32, start uint64, conv id.ConversationID, state, before uint64, conns []uint64, users []id.UserID, left []uint64) (again bool, out []uint64)
}

// roomMoves is an entryRoom.
type roomMoves struct {
	conv          id.ConversationID
	state, before uint64
	conns         []uint64
	users         []id.UserID
	left          []uint64
}

func (m *roomMoves) append(dst []byte) []byte {
	dst = appendAbout(dst, entryRoom, m.conv)
	dst = binary.AppendUvarint(binary.AppendUvarint(dst, m.state), m.before)
	dst = binary.AppendUvarint(dst, uint64(len(m.conns)))
	for i, c := range m.conns {
		dst = appendString(appendConn(dst, c), m.users[i])
	}
	return appendConns(dst, m.left)
}

func (r *reader) roomMoves() (m roomMoves) {
	m.conv, m.state, m.before = r.conversation(), r.number(), r.number()
	for range r.count(9) {
		m.conns, m.users = append(m.conns, r.conn()), append(m.users, id.UserID(r.string()))
	}
	m.left = r.conns(nil)
	return m
}

// answer has k hear of m and appends what it says. Without a keeper nothing is wanted.
func (m *roomMoves) answer(dst []byte, k RoomKeeper, from session.Edge) []byte {
	var again bool
	var out []uint64
	if k != nil {
		again, out = k.Report(from.Worker, from.Start, m.conv, m.state, m.before, m.conns, m.users, m.left)
	}
	flag := byte(0)
	if again {
		flag = 1
	}
	return appendConns(append(dst, flag), out)
}

// RoomReportsConfig is what RoomReports need; zero fields take their defaults.
type RoomReportsConfig struct {
	Edge session.Edge // this one
	Hub  *hub.Hub

	// The owners: View says who they are, and Call tells one, whose Desk takes the body. Without a View Keeper is the only one.
	View   View
	Call   Caller
	Keeper RoomKeeper

	Every   time.Duration // how often who came and went is told; 0: 1 s
	Renew   time.Duration // how often what didn't change is; 0: 5 s
	Timeout time.Duration // of one call; 0: 3 s
	Logger  *slog.Logger  // nil: none
}

// RoomReports tell the owners of rooms who of this edge is in them. What an owner knows lapses with it, or with
// this edge: who owns the room next is told everything. Run does it.
type RoomReports struct {
	cfg   RoomReportsConfig
	told  map[id.ConversationID]*roomTold // of the goroutine of Turn
	heard map[string]heardOf              // by node id
}

// heardOf is which of a node's revocations are known: it is not for these calls to obey them.
type heardOf struct{ desk, revoked uint64 }

// roomTold is what the owner of a room was told.
type roomTold struct {
	owner   string
	state   uint64 // 0: nothing
	changes uint64
	members map[uint64]id.UserID
	at      time.Time
}

// roomEntry is one entry on its way.
type roomEntry struct {
	moves   roomMoves
	changes uint64
	members map[uint64]id.UserID
}

// NewRoomReports returns the reports of one edge.
func NewRoomReports(cfg RoomReportsConfig) (*RoomReports, error) {
	switch {
	case cfg.Hub == nil:
		return nil, errors.New("relay: reports of rooms need a hub")
	case (cfg.View == nil) != (cfg.Call == nil), (cfg.View == nil) == (cfg.Keeper == nil):
		return nil, errors.New("relay: reports of rooms need a View and a way to call, or a Keeper")
	case cfg.Every < 0 || cfg.Renew < 0 || cfg.Timeout < 0:
		return nil, errors.New("relay: a time of reports of rooms is below zero")
	}
	for p, v := range map[*time.Duration]time.Duration{&cfg.Every: time.Second, &cfg.Renew: 5 * time.Second, &cfg.Timeout: 3 * time.Second} {
		if *p == 0 {
			*p = v
		}
	}
	cfg.Logger = logger(cfg.Logger)
	return &RoomReports{cfg: cfg, told: make(map[id.ConversationID]*roomTold), heard: make(map[string]heardOf)}, nil
}

// Run reports until ctx ends.
func (s *RoomReports) Run(ctx context.Context) error {
	t := time.NewTicker(s.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			s.Turn(ctx)
		}
	}
}

// maxRoomReport is how many bytes of entries go in one call, one entry more or less.
const maxRoomReport = 1 << 20

// Turn tells each owner what there is to tell. One turn at a time.
func (s *RoomReports) Turn(ctx context.Context) {
	now := time.Now()
	due := make(map[string][]*roomEntry)
	owners := make(map[string]*nodes.Node)
	seen := make(map[id.ConversationID]bool)
	add := func(conv id.ConversationID, changes uint64) {
		seen[conv] = true
		owner, key := s.owner(conv)
		if s.cfg.View != nil && owner == nil {
			return
		}
		if e := s.entry(conv, key, changes, now); e != nil {
			due[key], owners[key] = append(due[key], e), owner
		}
	}
	s.cfg.Hub.Rooms().Each(add)
	for conv := range s.told { // of which this edge knows nothing any more
		if !seen[conv] {
			add(conv, 0)
		}
	}
	var calls sync.WaitGroup
	var mu sync.Mutex // of what the answers change
	for key, entries := range due {
		calls.Go(func() {
			for len(entries) > 0 {
				n, size := 0, 0
				for n < len(entries) && size < maxRoomReport {
					size += 64 + 40*len(entries[n].moves.conns) + 8*len(entries[n].moves.left)
					n++
				}
				s.tell(ctx, owners[key], key, entries[:n], &mu)
				entries = entries[n:]
			}
		})
	}
	calls.Wait()
}

// owner returns who is told of conv, and a name of that start of it.
func (s *RoomReports) owner(conv id.ConversationID) (*nodes.Node, string) {
	if s.cfg.View == nil {
		return nil, "here"
	}
	n := s.cfg.View.Owner(conv.Slot())
	if n == nil {
		return nil, ""
	}
	return n, fmt.Sprintf("%s/%d", n.ID, n.Start)
}

// entry is what there is to tell of a room, nil: nothing now.
func (s *RoomReports) entry(conv id.ConversationID, owner string, changes uint64, now time.Time) *roomEntry {
	t := s.told[conv]
	if t == nil {
		t = &roomTold{}
		s.told[conv] = t
	}
	if t.owner != owner {
		t.owner, t.state = owner, 0
	}
	if t.state != 0 && t.changes == changes {
		if now.Sub(t.at) < s.cfg.Renew {
			return nil
		}
		return &roomEntry{moves: roomMoves{conv: conv, state: t.state, before: t.state}, changes: changes, members: t.members}
	}
	conns, users := s.cfg.Hub.Rooms().Members(conv, nil, nil)
	e := &roomEntry{moves: roomMoves{conv: conv, state: t.state + 1, before: t.state}, changes: changes, members: make(map[uint64]id.UserID, len(conns))}
	for i, c := range conns {
		e.members[c] = users[i]
		if _, was := t.members[c]; t.state == 0 || !was {
			e.moves.conns, e.moves.users = append(e.moves.conns, c), append(e.moves.users, users[i])
		}
	}
	if t.state != 0 {
		for c := range t.members {
			if _, is := e.members[c]; !is {
				e.moves.left = append(e.moves.left, c)
			}
		}
	}
	return e
}

// tell makes one call.
func (s *RoomReports) tell(ctx context.Context, to *nodes.Node, key string, entries []*roomEntry, mu *sync.Mutex) {
	l := ledger{edge: s.cfg.Edge}
	if to == nil {
		for _, e := range entries {
			m := &e.moves
			again, out := s.cfg.Keeper.Report(s.cfg.Edge.Worker, s.cfg.Edge.Start, m.conv, m.state, m.before, m.conns, m.users, m.left)
			mu.Lock()
			s.settle(e, key, again, out)
			mu.Unlock()
		}
		return
	}
	mu.Lock()
	known := s.heard[to.ID]
	mu.Unlock()
	l.desk, l.revoked = known.desk, known.revoked
	for _, e := range entries {
		l.entries = e.moves.append(l.entries)
	}
	call, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	answer, err := s.cfg.Call(call, to, l.append(nil))
	var st statement
	if err == nil {
		st, err = readStatement(answer)
	}
	mu.Lock()
	defer mu.Unlock()
	r := reader{b: st.answers}
	for _, e := range entries {
		if err == nil {
			again, out := r.byte() != 0, r.conns(nil)
			if err = r.err; err == nil {
				s.settle(e, key, again, out)
				continue
			}
		}
		if t := s.told[e.moves.conv]; t != nil {
			t.state = 0 // who knows what came
		}
	}
	if err == nil {
		s.heard[to.ID] = heardOf{st.desk, st.revoked}
	} else if ctx.Err() == nil {
		s.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "an owner of rooms can't be told who is in them", slog.String("node", to.ID), slog.Any("err", err))
	}
}

// settle notes what the owner has been told.
func (s *RoomReports) settle(e *roomEntry, owner string, again bool, out []uint64) {
	conv := e.moves.conv
	for _, c := range out {
		s.cfg.Hub.Rooms().Unseat(conv, c)
	}
	t := s.told[conv]
	switch {
	case t == nil || t.owner != owner:
	case again:
		t.state = 0
	case len(e.members) == 0:
		delete(s.told, conv)
	default:
		t.state, t.changes, t.members, t.at = e.moves.state, e.changes, e.members, time.Now()
	}
}
