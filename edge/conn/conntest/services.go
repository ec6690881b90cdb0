// Package conntest holds what tests of the edge stand on: small services in memory,
// a transport in memory, and a scripted client.
package conntest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Deliverer is what the services push through: the hub, or one connection.
type Deliverer interface {
	Deliver(conn uint64, frame []byte)
	Flush()
}

// Services keeps conversations in memory: messages get the next number at once and
// are delivered to the other user of a direct conversation, whose devices are known
// from the registrations. It does what a connection needs of it, quickly, and no more.
type Services struct {
	Out Deliverer // set before the first connection

	// Hold keeps SENDs unanswered until Release, if set.
	Hold atomic.Bool
	// Refuse answers every SEND with it, if set.
	Refuse atomic.Pointer[code.Error]
	// Block makes Authenticate, Inbox, Sync and History wait for the context's end.
	Block atomic.Bool
	// Fail makes Inbox, Sync, History and State fail with an error that is no code.
	Fail atomic.Bool

	mu       sync.Mutex
	convs    map[id.ConversationID]*log
	sessions map[id.UserID]map[id.DeviceID]uint64
	held     []packet.Pending
	received map[string]uint64
	signals  []*wire.Signal
	batches  []int
}

type log struct {
	users [2]id.UserID
	msgs  [][]byte
}

// New returns empty services; set Out before use.
func New() *Services {
	return &Services{
		convs:    make(map[id.ConversationID]*log),
		sessions: make(map[id.UserID]map[id.DeviceID]uint64),
		received: make(map[string]uint64),
	}
}

// For returns the services as a connection wants them.
func (s *Services) For() conn.Services {
	return conn.Services{Authenticator: s, Conversations: s, Sessions: s, Signals: s, Resumes: s.Resumes}
}

// Resumes takes a resume token as Authenticate does.
func (s *Services) Resumes(token string, _ id.DeviceID) (id.UserID, bool) {
	name, ok := strings.CutPrefix(token, "resume:")
	return id.UserID(name), ok
}

// Authenticate takes "user:NAME" as a token and "resume:NAME" as a resume token.
func (s *Services) Authenticate(ctx context.Context, token, resume string, device id.DeviceID, _ uint8) (id.UserID, string, bool, *code.Error) {
	if s.Block.Load() {
		<-ctx.Done()
		return "", "", false, code.Wrap(code.Unavailable, ctx.Err())
	}
	if name, ok := strings.CutPrefix(token, "user:"); ok {
		return id.UserID(name), "resume:" + name, false, nil
	}
	if name, ok := strings.CutPrefix(resume, "resume:"); ok {
		return id.UserID(name), "resume:" + name, true, nil
	}
	if token == "panic" {
		panic("an authenticator that panics")
	}
	switch token {
	case "expired":
		return "", "", false, code.New(code.TokenExpired)
	case "revoked":
		return "", "", false, code.New(code.SessionRevoked)
	case "banned":
		return "", "", false, code.New(code.Banned)
	}
	return "", "", false, code.New(code.Unauthenticated)
}

// Register implements conn.Sessions.
func (s *Services) Register(user id.UserID, device id.DeviceID, _ uint8, c uint64) (replaced, ousted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.sessions[user]
	if m == nil {
		m = make(map[id.DeviceID]uint64)
		s.sessions[user] = m
	}
	replaced = m[device]
	m[device] = c
	if device == "only" { // a device beside which no other may be connected
		for d, other := range m {
			if d != device {
				ousted = other
				delete(m, d)
			}
		}
	}
	return replaced, ousted
}

// Unregister implements conn.Sessions.
func (s *Services) Unregister(user id.UserID, c uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, v := range s.sessions[user] {
		if v == c {
			delete(s.sessions[user], d)
		}
	}
	if len(s.sessions[user]) == 0 {
		delete(s.sessions, user)
	}
}

// Sessions is how many registrations there are.
func (s *Services) Sessions() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.sessions {
		n += len(m)
	}
	return n
}

// Connection returns the registered connection of a device, or 0.
func (s *Services) Connection(u id.UserID, d id.DeviceID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[u][d]
}

// Send implements conn.Conversations.
func (s *Services) Send(batch []packet.Pending) {
	s.mu.Lock()
	s.batches = append(s.batches, len(batch))
	if s.Hold.Load() {
		s.held = append(s.held, batch...)
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	s.store(batch)
	s.Out.Flush()
}

// Release answers what Hold kept.
func (s *Services) Release() {
	s.mu.Lock()
	held := s.held
	s.held = nil
	s.mu.Unlock()
	s.Hold.Store(false)
	for len(held) > 0 {
		n := 1
		for n < len(held) && held[n].From == held[0].From && held[n].Conversation == held[0].Conversation && held[n].ToUser == held[0].ToUser {
			n++
		}
		s.store(held[:n])
		held = held[n:]
	}
	s.Out.Flush()
}

// Batches returns the sizes of the batches that Send was given, and forgets them.
func (s *Services) Batches() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.batches
	s.batches = nil
	return b
}

func (s *Services) store(batch []packet.Pending) {
	var frame []byte
	var to []uint64
	s.mu.Lock()
	for i := range batch {
		p := &batch[i]
		if e := s.Refuse.Load(); e != nil {
			p.Reply.Refused(p, e)
			continue
		}
		conv := p.Conversation
		if conv.IsZero() {
			conv = id.Direct(p.From.User, p.ToUser)
		}
		l := s.convs[conv]
		if l == nil {
			if p.ToUser == "" {
				p.Reply.Refused(p, code.New(code.NoSuchConversation))
				continue
			}
			l = &log{users: [2]id.UserID{p.From.User, p.ToUser}}
			s.convs[conv] = l
		}
		seq := uint64(len(l.msgs) + 1)
		mid := id.MakeMessageID(id.Epoch+int64(seq), 1, 0)
		m := packet.AppendMessage(nil, seq, mid, p.From.User, p.Tail)
		l.msgs = append(l.msgs, m)
		frame = append(frame, m...)
		p.Reply.Acked(p, packet.Ack{Conversation: conv, Seq: seq, MessageID: mid})
		if i == len(batch)-1 {
			for _, u := range l.users {
				for _, c := range s.sessions[u] {
					if c != p.From.Conn {
						to = append(to, c)
					}
				}
			}
			frame = packet.AppendDeliver(nil, conv, l.users[:], frame)
		}
	}
	s.mu.Unlock()
	for _, c := range to {
		s.Out.Deliver(c, frame)
	}
}

// errBroken is what Fail makes calls fail with.
var errBroken = errors.New("the fake store is broken")

func (s *Services) blocked(ctx context.Context) error {
	if s.Fail.Load() {
		return errBroken
	}
	if s.Block.Load() {
		<-ctx.Done()
		return fmt.Errorf("a fake call: %w", ctx.Err())
	}
	return nil
}

// Sync implements conn.Conversations.
func (s *Services) Sync(ctx context.Context, _ *packet.Origin, conv id.ConversationID, from, to uint64, limit int, buf []byte) (packet.Page, error) {
	if err := s.blocked(ctx); err != nil {
		return packet.Page{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.convs[conv]
	if l == nil {
		return packet.Page{}, code.New(code.NoSuchConversation)
	}
	last := uint64(len(l.msgs))
	from = max(from, 1)
	if to == 0 || to > last {
		to = last
	}
	p := packet.Page{Conversation: conv, Users: l.users[:], FromSeq: from, ToSeq: from - 1, FirstSeq: 1, LastSeq: last, Messages: buf[:0]}
	for q := from; q <= to && int(q-from) < limit; q++ {
		p.Messages = append(p.Messages, l.msgs[q-1]...)
		p.ToSeq = q
	}
	return p, nil
}

// History implements conn.Conversations.
func (s *Services) History(ctx context.Context, o *packet.Origin, conv id.ConversationID, before uint64, limit int, buf []byte) (packet.Page, error) {
	s.mu.Lock()
	last := uint64(0)
	if l := s.convs[conv]; l != nil {
		last = uint64(len(l.msgs))
	}
	s.mu.Unlock()
	if before == 0 || before > last+1 {
		before = last + 1
	}
	from := uint64(1)
	if before > uint64(limit) {
		from = before - uint64(limit)
	}
	p, err := s.Sync(ctx, o, conv, from, before-1, limit, buf)
	p.More = from > 1
	return p, err
}

func (s *Services) state(conv id.ConversationID, l *log) *wire.ConversationState {
	return &wire.ConversationState{
		ConversationId: append([]byte(nil), conv[:]...), Users: []string{string(l.users[0]), string(l.users[1])},
		LastSeq: uint64(len(l.msgs)), FirstSeq: 1,
	}
}

// Inbox implements conn.Conversations: everything in one page.
func (s *Services) Inbox(ctx context.Context, o *packet.Origin, mark uint64, _ string, _ int) ([]*wire.ConversationState, string, uint64, error) {
	if err := s.blocked(ctx); err != nil {
		return nil, "", 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*wire.ConversationState
	for conv, l := range s.convs {
		if l.users[0] == o.User || l.users[1] == o.User {
			out = append(out, s.state(conv, l))
		}
	}
	return out, "", mark + 1, nil
}

// State implements conn.Conversations.
func (s *Services) State(ctx context.Context, _ *packet.Origin, conv id.ConversationID) (*wire.ConversationState, error) {
	if err := s.blocked(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.convs[conv]; l != nil {
		return s.state(conv, l), nil
	}
	return nil, nil
}

// OpenDirect implements conn.Conversations.
func (s *Services) OpenDirect(_ context.Context, o *packet.Origin, peer id.UserID) (*wire.ConversationState, error) {
	if peer == "nobody" {
		return nil, code.New(code.NoSuchUser)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	conv := id.Direct(o.User, peer)
	if s.convs[conv] == nil {
		s.convs[conv] = &log{users: [2]id.UserID{o.User, peer}}
	}
	return s.state(conv, s.convs[conv]), nil
}

// Read implements conn.Conversations.
func (s *Services) Read(_ context.Context, _ *packet.Origin, conv id.ConversationID, seq uint64) (uint64, uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.convs[conv]
	if l == nil {
		return 0, 0, code.New(code.NoSuchConversation)
	}
	seq = min(seq, uint64(len(l.msgs)))
	return seq, uint32(uint64(len(l.msgs)) - seq), nil
}

// Received implements conn.Conversations.
func (s *Services) Received(o *packet.Origin, conv id.ConversationID, seq uint64) {
	s.mu.Lock()
	s.received[string(o.User)+"/"+conv.String()] = seq
	s.mu.Unlock()
}

// ReceivedSeq returns what u acknowledged of conv.
func (s *Services) ReceivedSeq(u id.UserID, conv id.ConversationID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.received[string(u)+"/"+conv.String()]
}

// Signal implements conn.Signals.
func (s *Services) Signal(_ context.Context, _ *packet.Origin, m *wire.Signal) *code.Error {
	if m.ToUserId == "nobody" {
		return code.New(code.NoSuchUser)
	}
	s.mu.Lock()
	s.signals = append(s.signals, m)
	s.mu.Unlock()
	return nil
}

// Signals returns the signals so far.
func (s *Services) Signals() []*wire.Signal {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*wire.Signal(nil), s.signals...)
}

// MsgID returns a valid ClientMsgID made of n, in order of n.
func MsgID(n uint64) id.ClientMsgID {
	var c id.ClientMsgID
	binary.BigEndian.PutUint64(c[:], (1700000000000+n)<<16)
	c[6], c[8] = 0x70, 0x80
	binary.BigEndian.PutUint32(c[12:], uint32(n))
	return c
}
