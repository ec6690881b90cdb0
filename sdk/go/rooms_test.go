package gochat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var lobby = RoomID("lobby")

// heard is what a room told, in a word each.
func heard(events []Event) (s []string) {
	for _, e := range events {
		switch e := e.(type) {
		case MessageReceived:
			if s = append(s, e.Message.Text); e.Message.Own {
				s[len(s)-1] += "!"
			}
		case MessagesLeftOut:
			s = append(s, fmt.Sprintf("-%d", e.Count))
		case RoomChanged:
			s = append(s, fmt.Sprintf("count %d", e.Count))
		case RoomLeft:
			var told *code.Error
			if errors.As(e.Err, &told) {
				s = append(s, "left "+told.Code.String())
			}
		}
	}
	return s
}

func (r *recorder) heard(t *testing.T, want ...string) {
	t.Helper()
	r.wait(t, fmt.Sprintf("%q", want), func(es []Event) bool { return len(heard(es)) >= len(want) })
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := heard(r.events); !slices.Equal(got, want) {
		t.Fatalf("heard %q, want %q", got, want)
	}
}

// live delivers messages of the room: bob's, each with its seq as its text.
func (p *peer) live(seqs ...uint64) {
	p.t.Helper()
	var messages []byte
	for _, s := range seqs {
		messages = append(messages, elementOf(s, bob, id.NewClientMsgID(id.Epoch+int64(s)), fmt.Sprint(s))...)
	}
	p.write(packet.AppendRoomDeliver(nil, lobby, 0, messages))
}

func (p *peer) news(n *wire.RoomNews) {
	p.t.Helper()
	data, err := n.Marshal(nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.body(frame.Signal, 0, 0, &wire.Signal{ConversationId: lobby[:], Kind: packet.SignalRoom, Data: data})
}

// enters answers the next ROOM_JOIN.
func (p *peer) enters(last uint64, count uint32) {
	p.t.Helper()
	var q wire.ConversationRequest
	p.answer(packet.MethodRoomJoin, &q, &wire.Room{ConversationId: lobby[:], Name: "lobby", LastSeq: last, Count: count})
	if id.ConversationID(q.ConversationId) != lobby {
		p.t.Fatalf("enters %x", q.ConversationId)
	}
}

// refuses answers the next request, which is one of the method, with an error.
func (p *peer) refuses(m packet.Method, e *code.Error) {
	p.t.Helper()
	p.refuse(p.asked(m, &wire.ConversationRequest{}).ReqID, e)
}

func (p *peer) stored(s sent, seq uint64) {
	p.t.Helper()
	p.write(packet.AppendSendAck(nil, s.req, packet.Ack{Seq: seq, MessageID: midOf(seq)}, false))
}

func say(t *testing.T, c *Client, text string) *Receipt {
	t.Helper()
	r, err := c.Send(timeout(t), Target{Conversation: lobby}, Text(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// inside returns a client that has entered the room, whose last message was the fifth.
func inside(t *testing.T, r *recorder, change func(*Config)) (*Client, *scripted, *peer) {
	t.Helper()
	noLeaks(t)
	s := newScripted(t)
	c := open(t, s.address(), r, change)
	p, _ := s.welcome(nil)
	wait := later(func() {
		if _, err := c.JoinRoom(timeout(t), lobby); err != nil {
			t.Error(err)
		}
	})
	p.enters(5, 1)
	wait()
	return c, s, p
}

// What is said comes as it comes, what doesn't is counted, and nothing is pulled.
func TestRoom(t *testing.T) {
	r := newRecorder()
	_, _, p := inside(t, r, nil)
	p.live(5, 6, 7)
	p.live(7, 11)
	r.heard(t, "6", "7", "-3", "11")
	p.news(&wire.RoomNews{LastSeq: 14, LeftOut: 3}) // nothing was said since
	p.news(&wire.RoomNews{LastSeq: 14, Count: 3, Joined: []string{"bob", "carol"}, JoinedCount: 2})
	r.heard(t, "6", "7", "-3", "11", "-3", "count 3")
	p.deliver(1)
	r.waitTexts(t, "6", "7", "11", "m1") // and no SYNC came, see expectEnd
	p.body(frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 1})
	p.expectEnd()
}

// What comes before the answer to ROOM_JOIN waits for it: it tells which of it was said before.
func TestEarlyInARoom(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	wait := later(func() {
		if got, err := c.JoinRoom(timeout(t), lobby); err != nil || got.ID != lobby || got.LastSeq != 5 || got.Count != 2 {
			t.Errorf("%+v, %v", got, err)
		}
	})
	req := p.asked(packet.MethodRoomJoin, &wire.ConversationRequest{})
	p.live(4, 5)
	p.live(6, 8)
	p.news(&wire.RoomNews{Count: 9, LastSeq: 8})
	p.say(req, packet.MethodRoomJoin, &wire.Room{ConversationId: lobby[:], LastSeq: 5, Count: 2})
	wait()
	r.heard(t, "6", "-1", "8")
}

// Own messages come with their acks, in whatever order, and aren't missed.
func TestOwnInARoom(t *testing.T) {
	r := newRecorder()
	c, _, p := inside(t, r, nil)
	for _, text := range []string{"a", "b", "c"} {
		say(t, c, text)
	}
	a, b, last := p.expectSend("a"), p.expectSend("b"), p.expectSend("c")
	p.stored(a, 6)
	p.live(7, 9) // the ack of 8 is late: it isn't told as left out
	p.stored(b, 8)
	p.stored(last, 12) // 10 and 11 are on their way
	p.live(10, 13)
	r.heard(t, "a!", "7", "9", "b!", "c!", "10", "-1", "13")
}

// A gap is told as soon as no own message explains it.
func TestGapInARoom(t *testing.T) {
	r := newRecorder()
	c, _, p := inside(t, r, nil)
	refused, ok := say(t, c, "no"), say(t, c, "yes")
	one, two := p.expectSend("no"), p.expectSend("yes")
	p.live(8) // 6 and 7 may be these
	p.refuse(one.req, code.New(code.Muted))
	if _, err := refused.Wait(timeout(t)); !errors.Is(err, code.New(code.Muted)) {
		t.Error(err)
	}
	p.stored(two, 7)
	if _, err := ok.Wait(timeout(t)); err != nil {
		t.Error(err)
	}
	r.heard(t, "8", "-1", "yes!")
}

// After a lost connection the client enters again, and counts what was said meanwhile; not an own message whose ack was lost.
func TestRoomAfterALostConnection(t *testing.T) {
	r := newRecorder()
	c, s, p := inside(t, r, nil)
	p.live(6)
	say(t, c, "own")
	p.expectSend("own")
	p.conn.Close()
	p, _ = s.welcome(nil)
	p.refuses(packet.MethodRoomJoin, code.New(code.Unavailable))
	own := p.expectSend("own")
	p.enters(10, 4) // after a moment: 7 to 10, of which 8 is its own
	p.live(11)
	r.heard(t, "6", "-3", "count 4", "11")
	p.stored(own, 8)
	r.heard(t, "6", "-3", "count 4", "11", "own!")
	// It is gone: that is told, and not tried again.
	p.conn.Close()
	p, _ = s.welcome(nil)
	p.refuses(packet.MethodRoomJoin, code.New(code.NoSuchConversation))
	r.heard(t, "6", "-3", "count 4", "11", "own!", "left no_such_conversation")
	p.conn.Close()
	p, _ = s.welcome(nil)
	later(func() { _, _ = c.Devices(timeout(t)) })
	p.answer(packet.MethodDevices, &wire.DevicesRequest{}, &wire.DevicesResponse{}) // the first that is asked
}

// The store was restored: the room goes on from where it is then.
func TestRoomOfAnotherEpoch(t *testing.T) {
	r := newRecorder()
	_, s, p := inside(t, r, nil)
	p.conn.Close()
	p, _ = s.welcome(&wire.Connack{StoreEpoch: 8})
	p.enters(2, 1)
	p.live(3)
	r.heard(t, "count 1", "3")
}

func TestLeavingARoom(t *testing.T) {
	r := newRecorder()
	c, _, p := inside(t, r, nil)
	wait := later(func() {
		if err := c.LeaveRoom(timeout(t), lobby); err != nil {
			t.Error(err)
		}
	})
	req := p.asked(packet.MethodRoomLeave, &wire.ConversationRequest{})
	p.live(6) // on its way
	p.say(req, packet.MethodRoomLeave, &wire.RoomLeaveResponse{})
	wait()
	wait = later(func() { _, _ = c.JoinRoom(timeout(t), lobby) })
	p.enters(8, 1)
	wait()
	p.live(9)
	p.news(&wire.RoomNews{Code: uint32(code.BannedHere)})
	p.live(10) // to nobody
	wait = later(func() {
		if _, err := c.JoinRoom(timeout(t), lobby); !errors.Is(err, code.New(code.BannedHere)) {
			t.Error(err)
		}
	})
	p.refuses(packet.MethodRoomJoin, code.New(code.BannedHere))
	wait()
	p.live(11)
	p.deliver(1)
	r.heard(t, "9", "left banned_here", "m1")
}

// Who gives up waiting for the answer is out, whatever it would have been.
func TestGivingUpARoom(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	ctx, cancel := context.WithCancel(timeout(t))
	wait := later(func() {
		if _, err := c.JoinRoom(ctx, lobby); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	req := p.asked(packet.MethodRoomJoin, &wire.ConversationRequest{})
	cancel()
	wait()
	p.say(req, packet.MethodRoomJoin, &wire.Room{ConversationId: lobby[:], LastSeq: 1})
	p.asked(packet.MethodRoomLeave, &wire.ConversationRequest{})
	p.live(2)
	p.deliver(1)
	r.heard(t, "m1")
}

// What a slow Handler has no time for is counted, all of it, also if nothing more is said.
func TestSlowInARoom(t *testing.T) {
	r := newRecorder()
	r.gate = make(chan struct{})
	_, _, p := inside(t, r, func(c *Config) { c.Queue = 4 })
	for seq := uint64(6); seq <= 25; seq++ {
		p.live(seq)
	}
	p.write(frame.Append(nil, frame.Ping, 0, 0, nil))
	p.expect(frame.Pong) // all of it has come
	close(r.gate)
	total := func(es []Event) (n int) {
		for _, e := range es {
			switch e := e.(type) {
			case MessageReceived:
				n++
			case MessagesLeftOut:
				n += int(e.Count)
			}
		}
		return n
	}
	r.wait(t, "all twenty", func(es []Event) bool { return total(es) >= 20 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(texts(r.events)); total(r.events) != 20 || n < 4 || n == 20 {
		t.Errorf("%q", heard(r.events))
	}
}

// Everything that is said is told once, or counted, whatever is lost on the way.
func TestRoomAddsUp(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRecorder()
	c, s, p := inside(t, r, nil)
	head := uint64(5)
	type unanswered struct {
		sent
		seq uint64
	}
	var acks []unanswered
	for range 300 {
		switch what := rng.IntN(20); {
		case what == 0:
			p.conn.Close()
			p, _ = s.welcome(nil)
			head += rng.Uint64N(3)
			// ROOM_JOIN and what waits come in whatever order; what was stored has its seq.
			lost := map[string]uint64{}
			for _, a := range acks {
				lost[string(a.ClientMsgID[:])] = a.seq
			}
			for n := len(acks) + 1; n > 0; n-- {
				f, err := p.next()
				if err != nil {
					t.Fatal(err)
				}
				switch f.Type {
				case frame.Request:
					p.say(f, packet.MethodRoomJoin, &wire.Room{ConversationId: lobby[:], LastSeq: head})
				case frame.Send:
					var m packet.Send
					if err := packet.DecodeSend(&m, slices.Clone(f.Body), &packet.DefaultLimits); err != nil {
						t.Fatal(err)
					}
					p.stored(sent{req: f.ReqID}, lost[string(m.ClientMsgID[:])])
				default:
					n++
				}
			}
			acks = nil
		case what < 4:
			say(t, c, "own")
			head++
			acks = append(acks, unanswered{p.expectSend("own"), head})
		case what < 8:
			for _, a := range acks {
				p.stored(a.sent, a.seq)
			}
			acks = nil
		case what < 11:
			head += rng.Uint64N(4) // left out
		case what < 12:
			p.news(&wire.RoomNews{LastSeq: head})
		default:
			head++
			p.live(head)
		}
	}
	for _, a := range acks {
		p.stored(a.sent, a.seq)
	}
	head++
	p.live(head)
	seqs := map[uint64]int{}
	total := func(es []Event) (n uint64, end bool) {
		clear(seqs)
		for _, e := range es {
			switch e := e.(type) {
			case MessageReceived:
				n++
				seqs[e.Message.Seq]++
				end = end || e.Message.Seq == head
			case MessagesLeftOut:
				n += e.Count
			}
		}
		return n, end
	}
	r.wait(t, "the last one", func(es []Event) bool { n, end := total(es); return end && n >= head-5 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if n, _ := total(r.events); n != head-5 {
		t.Errorf("%d told or counted, %d were said", n, head-5)
	}
	for seq, n := range seqs {
		if n != 1 {
			t.Errorf("%d was told %d times", seq, n)
		}
	}
}
