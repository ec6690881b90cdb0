package gochat

import (
	"testing"

	"github.com/gochat-im/gochat/kitex_gen/wire"
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
