package gochat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// careless is a server that keeps what the protocol promises and nothing more: it loses,
// repeats and reorders deliveries, refuses lanes, swallows acks and drops connections.
type careless struct {
	t    *testing.T
	ln   net.Listener
	wg   sync.WaitGroup
	stop chan struct{}

	mu    sync.Mutex
	rng   *rand.Rand
	calm  bool // from here on everything works
	log   map[id.ConversationID][][]byte
	ids   map[string]uint64
	conns map[*session]bool
}

type session struct {
	user    id.UserID
	conn    net.Conn
	blocked map[id.ConversationID]id.ClientMsgID // by the message that was refused
	held    []byte                               // a delivery that comes late
}

func newCareless(t *testing.T, seed uint64) *careless {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &careless{t: t, ln: ln, stop: make(chan struct{}), rng: rand.New(rand.NewPCG(seed, 1)),
		log: map[id.ConversationID][][]byte{}, ids: map[string]uint64{}, conns: map[*session]bool{}}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.wg.Add(1)
			go func() { defer s.wg.Done(); defer conn.Close(); s.serve(conn) }()
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		s.mu.Lock()
		for c := range s.conns {
			c.conn.Close()
		}
		s.mu.Unlock()
		s.wg.Wait()
	})
	return s
}

// chance is true once in n times, never when calm. The caller holds mu.
func (s *careless) chance(n int) bool { return !s.calm && s.rng.IntN(n) == 0 }

func (s *careless) serve(conn net.Conn) {
	c := &session{conn: conn, blocked: map[id.ConversationID]id.ClientMsgID{}}
	r := reader{conn: conn, max: frame.DefaultMax}
	f, err := r.next()
	if err != nil || f.Type != frame.Connect {
		return
	}
	hello, cerr := packet.DecodeConnect(f.Body)
	if cerr != nil {
		s.t.Error(cerr)
		return
	}
	c.user = id.UserID(hello.DeviceId) // the device says who it is here
	s.mu.Lock()
	ack := connack(&wire.Connack{ResumeToken: "r", SyncMark: 1, Limits: &wire.Limits{MaxInflight: 5}})
	ack.UserId = string(c.user)
	for conv, log := range s.log {
		ack.Conversations = append(ack.Conversations, &wire.ConversationState{ConversationId: slices.Clone(conv[:]), Users: []string{"alice", "bob"}, LastSeq: uint64(len(log))})
	}
	s.conns[c] = true
	b, _ := packet.AppendBody(nil, frame.Connack, 0, 0, ack)
	_, _ = conn.Write(b)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for {
		f, err := r.next()
		if err != nil {
			return
		}
		s.mu.Lock()
		ok := s.frame(c, f)
		s.mu.Unlock()
		if !ok {
			return
		}
	}
}

func (s *careless) frame(c *session, f frame.Frame) bool {
	switch f.Type {
	case frame.Send:
		return s.send(c, f)
	case frame.Sync:
		m, err := packet.DecodeSync(f.Body)
		if err != nil {
			s.t.Error(err)
			return false
		}
		if s.chance(10) {
			_, _ = c.conn.Write(packet.AppendError(nil, f.ReqID, true, &code.Error{Code: code.Overloaded, RetryAfter: time.Millisecond}, ab))
			return true
		}
		for i, r := range m.Ranges {
			conv := id.ConversationID(r.ConversationId)
			log := s.log[conv]
			p := packet.Page{Conversation: conv, Users: pair, FromSeq: r.FromSeq, ToSeq: uint64(len(log)), FirstSeq: 1, LastSeq: uint64(len(log))}
			if r.ToSeq != 0 {
				p.ToSeq = min(p.ToSeq, r.ToSeq)
			}
			if s.chance(2) {
				p.ToSeq = min(p.ToSeq, p.FromSeq+2)
			}
			for seq := p.FromSeq; seq <= p.ToSeq; seq++ {
				p.Messages = append(p.Messages, log[seq-1]...)
			}
			if p.ToSeq < p.FromSeq {
				p.ToSeq = p.FromSeq - 1
			}
			_, _ = c.conn.Write(packet.AppendSynced(nil, f.ReqID, i < len(m.Ranges)-1, &p, nil))
		}
	case frame.Ping:
		_, _ = c.conn.Write(frame.Append(nil, frame.Pong, 0, 0, nil))
	}
	return !s.chance(60)
}

func (s *careless) send(c *session, f frame.Frame) bool {
	var m packet.Send
	if err := packet.DecodeSend(&m, slices.Clone(f.Body), &packet.DefaultLimits); err != nil {
		s.t.Error(err)
		return false
	}
	conv := m.Conversation
	if m.ToUser != "" {
		conv = id.Direct(c.user, m.ToUser)
	}
	resend := f.Flags&frame.FlagResend != 0
	if by, ok := c.blocked[conv]; ok && (!resend || bytes.Compare(m.ClientMsgID[:], by[:]) > 0) {
		_, _ = c.conn.Write(packet.AppendError(nil, f.ReqID, true, code.New(code.LaneBlocked), conv))
		return true
	}
	delete(c.blocked, conv)
	if s.chance(12) {
		c.blocked[conv] = m.ClientMsgID
		_, _ = c.conn.Write(packet.AppendError(nil, f.ReqID, true, &code.Error{Code: code.Unavailable, RetryAfter: time.Millisecond}, conv))
		return true
	}
	key := fmt.Sprint(conv, c.user, m.ClientMsgID)
	seq, dup := s.ids[key]
	if !dup {
		seq = uint64(len(s.log[conv]) + 1)
		s.ids[key] = seq
		s.log[conv] = append(s.log[conv], packet.AppendMessage(nil, seq, midOf(seq), c.user, m.Tail))
	}
	if s.chance(15) {
		return false // stored, but nobody hears of it
	}
	_, _ = c.conn.Write(packet.AppendSendAck(nil, f.ReqID, packet.Ack{Conversation: conv, Seq: seq, MessageID: midOf(seq), Duplicate: dup}, true))
	if dup {
		return true
	}
	d := packet.AppendDeliver(nil, conv, pair, s.log[conv][seq-1])
	for o := range s.conns {
		if o == c || conv.Kind() != id.KindDirect && o.user != c.user && o.user != bob && o.user != alice {
			continue
		}
		switch {
		case s.chance(6): // lost
		case s.chance(6):
			o.held = append(o.held, d...)
		case s.chance(6):
			_, _ = o.conn.Write(append(append([]byte(nil), d...), d...))
		default:
			_, _ = o.conn.Write(d)
		}
		if len(o.held) > 0 && !s.chance(3) {
			_, _ = o.conn.Write(o.held)
			o.held = nil
		}
	}
	return true
}

// app is a user with a client that is restarted now and then, on the same file.
type app struct {
	mu      sync.Mutex
	got     map[id.ConversationID][]Message
	acked   map[id.ClientMsgID]int
	sentIDs []id.ClientMsgID
}

func (a *app) handle(e Event) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch e := e.(type) {
	case MessageReceived:
		a.got[e.Message.Conversation] = append(a.got[e.Message.Conversation], e.Message)
	case MessageSent:
		a.acked[e.ID]++
	}
}

// TestSoak runs two users against a careless server, restarting them in between. In the
// end every message that Send took is in the timeline once, in its order, and each user
// got the whole timeline once and in order.
func TestSoak(t *testing.T) {
	noLeaks(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	s := newCareless(t, seed)
	dir := t.TempDir()
	group := id.Named(id.KindGroup, "g")
	apps := map[id.UserID]*app{}
	clients := map[id.UserID]*Client{}
	start := func(u id.UserID) {
		st, err := OpenFileStore(filepath.Join(dir, string(u)))
		if err != nil {
			t.Fatal(err)
		}
		c, err := Open(Config{
			Address: s.ln.Addr().String(), Device: id.DeviceID(u), Store: st, Handler: apps[u].handle, Queue: 8,
			Token:      func(context.Context) (string, error) { return "t", nil },
			MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond, AckInterval: time.Millisecond, GapWait: time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		clients[u] = c
	}
	users := []id.UserID{alice, bob}
	for _, u := range users {
		apps[u] = &app{got: map[id.ConversationID][]Message{}, acked: map[id.ClientMsgID]int{}}
		start(u)
	}
	const rounds, burst = 12, 15
	for range rounds {
		for range burst {
			u := users[rng.IntN(2)]
			to := ToUser(users[0])
			if u == alice {
				to = ToUser(bob)
			}
			if rng.IntN(3) == 0 {
				to = ToConversation(group)
			}
			r, err := clients[u].Send(context.Background(), to, Text(fmt.Sprintf("%s %d", u, len(apps[u].sentIDs))))
			if err != nil {
				t.Fatal(err)
			}
			apps[u].sentIDs = append(apps[u].sentIDs, r.ID)
		}
		u := users[rng.IntN(2)]
		if err := clients[u].Close(); err != nil {
			t.Fatal(err)
		}
		start(u)
	}
	s.mu.Lock()
	s.calm = true
	s.mu.Unlock()

	total := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for _, log := range s.log {
			n += len(log)
		}
		return n
	}
	complete := func() error {
		if n := total(); n != rounds*burst {
			return fmt.Errorf("%d messages stored of %d", n, rounds*burst)
		}
		for _, u := range users {
			a := apps[u]
			a.mu.Lock()
			n, acked := 0, len(a.acked)
			for _, ms := range a.got {
				n += len(ms)
			}
			a.mu.Unlock()
			if n < rounds*burst || acked < len(a.sentIDs) || len(clients[u].Outbox()) > 0 {
				return fmt.Errorf("%s has %d messages of %d, %d acks of %d, %d in the outbox", u, n, rounds*burst, acked, len(a.sentIDs), len(clients[u].Outbox()))
			}
		}
		return nil
	}
	for deadline := time.Now().Add(3 * patience); ; time.Sleep(5 * time.Millisecond) {
		err := complete()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("seed %d: %v", seed, err)
		}
		// A delivery that is lost without anything after it shows on the next connection.
		s.mu.Lock()
		for c := range s.conns {
			if rng.IntN(20) == 0 {
				c.conn.Close()
			}
		}
		s.mu.Unlock()
	}
	for _, u := range users {
		if err := clients[u].Close(); err != nil {
			t.Error(err)
		}
	}
	for _, u := range users {
		own := map[id.ClientMsgID]int{}
		for conv, ms := range apps[u].got {
			last := -1
			for i, m := range ms {
				if m.Seq != uint64(i+1) {
					t.Fatalf("seed %d: %s, conversation %v: message %d has seq %d", seed, u, conv, i, m.Seq)
				}
				if m.Own {
					own[m.ClientMsgID]++
					at := slices.Index(apps[u].sentIDs, m.ClientMsgID)
					if at <= last {
						t.Fatalf("seed %d: %s, conversation %v: own message %d after %d", seed, u, conv, at, last)
					}
					last = at
				}
			}
		}
		for _, sent := range apps[u].sentIDs {
			if own[sent] != 1 {
				t.Errorf("seed %d: %s has message %v %d times", seed, u, sent, own[sent])
			}
		}
	}
	if _, err := clients[alice].Inbox(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}
