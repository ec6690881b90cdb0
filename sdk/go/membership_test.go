package gochat

import (
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// A client is taken out among many who aren't all named, and brought back: it asks how the group stands then, though
// later messages came in the same frame.
func TestTakenOutWithoutBeingNamed(t *testing.T) {
	defer noLeaks(t)
	s, r := newScripted(t), newRecorder()
	group := id.ConversationID{0: byte(id.KindGroup), 15: 7}
	c := open(t, s.address(), r, nil)
	defer c.Close()
	p, _ := s.welcome(nil)
	messages := func(seq uint64, contents ...string) {
		t.Helper()
		d := &wire.Deliver{ConversationId: group[:], Users: []string{"", ""}}
		for i, text := range contents {
			at, kind := seq+uint64(i), uint32(TypeMembership)
			if text[0] != '{' {
				kind = packet.TypeText
			}
			m := midOf(at)
			cm := id.ClientMsgID{15: byte(at), 6: 0x70, 8: 0x80}
			d.Messages = append(d.Messages, &wire.Message{Seq: at, MessageId: uint64(m), SenderId: "bob", ClientMsgId: cm[:], MsgType: kind, Content: text})
		}
		p.body(frame.Deliver, 0, 0, d)
	}
	asked := func(want *wire.ConversationState) {
		t.Helper()
		var req wire.ConversationRequest
		f := p.asked(packet.MethodConversation, &req)
		if id.ConversationID(req.ConversationId) != group {
			t.Fatalf("asked for %x", req.ConversationId)
		}
		want.ConversationId = group[:]
		p.say(f, packet.MethodConversation, want)
		r.wait(t, "a state", func(events []Event) bool {
			for _, e := range events {
				if e, ok := e.(ConversationChanged); ok && e.Conversation.LastSeq == want.LastSeq {
					return true
				}
			}
			return false
		})
	}
	messages(1, `{"do":"add","users":["alice"],"count":1}`)
	asked(&wire.ConversationState{LastSeq: 1, Role: 1})
	messages(2, `{"do":"remove","users":["carol"],"count":2}`)
	asked(&wire.ConversationState{LastSeq: 2, LeftSeq: 2})
	messages(3, `{"do":"add","users":["carol"],"count":2}`, "welcome back")
	asked(&wire.ConversationState{LastSeq: 4, Role: 1})
	messages(5, `{"do":"remove","users":["alice"],"count":1}`)
	messages(6, `{"do":"add","users":["alice"],"count":1}`, "and again")
	asked(&wire.ConversationState{LastSeq: 7, Role: 1})
	messages(8, `{"do":"role","users":["alice"],"count":1,"role":"admin"}`)
	asked(&wire.ConversationState{LastSeq: 8, Role: 2})
}

// A conversation that was hidden when the device came isn't told to it. Once something is heard of it, its state is asked
// for, and its messages are, whichever way it was.
func TestHeardOfBeforeItsState(t *testing.T) {
	state := &wire.ConversationState{ConversationId: ab[:], Users: []string{"alice", "bob"}, LastSeq: 2, ReadSeq: 1, Muted: true, Hidden: true, SettingsVersion: 3}
	cursors := func(p *peer) {
		data, _ := (&wire.Cursors{ReadSeq: 1, RecvSeq: 1}).Marshal(nil)
		p.body(frame.Signal, 0, 0, &wire.Signal{ConversationId: ab[:], Kind: packet.SignalCursors, Data: data, SenderId: "bob"})
	}
	asked := func(p *peer) frame.Frame {
		t.Helper()
		var req wire.ConversationRequest
		f := p.asked(packet.MethodConversation, &req)
		if id.ConversationID(req.ConversationId) != ab {
			t.Fatalf("asked for %x", req.ConversationId)
		}
		return f
	}
	for _, way := range []struct {
		name string
		hear func(c *Client, p *peer)
	}{
		{"cursors, twice", func(_ *Client, p *peer) {
			cursors(p)
			cursors(p)
			p.say(asked(p), packet.MethodConversation, state)
		}},
		{"cursors, again after a refusal", func(_ *Client, p *peer) {
			cursors(p)
			p.refuse(asked(p).ReqID, code.New(code.Overloaded))
			cursors(p)
			p.say(asked(p), packet.MethodConversation, state)
		}},
		{"cursors, refused for a moment", func(_ *Client, p *peer) {
			cursors(p)
			p.refuse(asked(p).ReqID, code.New(code.Overloaded))
			p.say(asked(p), packet.MethodConversation, state)
		}},
		{"a head", func(_ *Client, p *peer) {
			p.body(frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: ab[:], Seq: 2}}})
			p.say(asked(p), packet.MethodConversation, state)
		}},
		{"what is set here", func(c *Client, p *peer) {
			go func() { _, _ = c.Mute(t.Context(), ab, true) }()
			p.answer(packet.MethodSettings, new(wire.SettingsRequest), state)
		}},
		{"what is read here", func(c *Client, p *peer) {
			go func() { _, _, _ = c.MarkRead(t.Context(), ab, 1) }()
			p.answer(packet.MethodRead, new(wire.ReadRequest), &wire.ReadResponse{ReadSeq: 1})
			p.say(asked(p), packet.MethodConversation, state)
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			s, r := newScripted(t), newRecorder()
			c := open(t, s.address(), r, nil)
			p, _ := s.welcome(nil)
			way.hear(c, p)
			p.synced(p.expectSync(1, 0), 1, 2, 2, 1, 2)
			r.waitTexts(t, "m1", "m2")
			if e := waitEvent[ConversationChanged](t, r); !e.Conversation.Muted || e.Conversation.ReadSeq != 1 {
				t.Errorf("%+v", e)
			}
		})
	}
}
