package gochat

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// answer waits for a request of the method and answers it.
func (p *peer) answer(m packet.Method, req, ans packet.Body) {
	p.t.Helper()
	f := p.expect(frame.Request)
	got, inner, err := packet.DecodeRequest(f.Body)
	if err != nil || got != m {
		p.t.Fatalf("%v, %v; want %v", got, err, m)
	}
	if err := packet.DecodeMethod(m, inner, req); err != nil {
		p.t.Fatal(err)
	}
	b, merr := packet.AppendResponse(nil, f.ReqID, false, m, ans)
	if merr != nil {
		p.t.Fatal(merr)
	}
	p.write(b)
}

// later runs fn and returns a function that waits for its end.
func later(fn func()) (wait func()) {
	done := make(chan struct{})
	go func() { defer close(done); fn() }()
	return func() { <-done }
}

func TestMethods(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	state := &wire.ConversationState{ConversationId: ab[:], Users: []string{"alice", "bob"}, LastSeq: 9, Unread: 3, LastTime: 1706284800000, Preview: &wire.Preview{Seq: 9, SenderId: "bob", Text: "hi"}}

	wait := later(func() { // asked for before there is a connection
		got, err := c.OpenDirect(timeout(t), bob)
		if err != nil || got.ID != ab || got.Peer != bob || got.Unread != 3 || got.Preview != "hi" || got.LastTime.UnixMilli() != 1706284800000 {
			t.Errorf("OpenDirect: %+v %v", got, err)
		}
	})
	p, _ := s.welcome(nil)
	var open wire.OpenDirectRequest
	p.answer(packet.MethodOpenDirect, &open, &wire.OpenDirectResponse{Conversation: state})
	if wait(); open.UserId != "bob" {
		t.Errorf("%+v", &open)
	}

	wait = later(func() {
		got, err := c.Inbox(timeout(t))
		if err != nil || len(got) != 2 || got[0].ID != ab {
			t.Errorf("Inbox: %+v %v", got, err)
		}
	})
	var page wire.ConversationsRequest
	p.answer(packet.MethodConversations, &page, &wire.ConversationsResponse{Conversations: []*wire.ConversationState{state}, Cursor: "x"})
	p.answer(packet.MethodConversations, &page, &wire.ConversationsResponse{Conversations: []*wire.ConversationState{state}})
	if wait(); page.Cursor != "x" {
		t.Errorf("%+v", &page)
	}

	wait = later(func() {
		got, more, err := c.History(timeout(t), ab, 9, 2)
		if err != nil || !more || len(got) != 2 || got[0].Seq != 7 || got[1].Text != "m8" || got[1].Own || got[1].Sender != bob {
			t.Errorf("History: %+v %v %v", got, more, err)
		}
	})
	f := p.expect(frame.Request)
	p.conn.Close() // lost on the way: asked again on the next connection
	p, _ = s.welcome(nil)
	f = p.expect(frame.Request)
	_, inner, _ := packet.DecodeRequest(f.Body)
	var history wire.HistoryRequest
	if err := packet.DecodeMethod(packet.MethodHistory, inner, &history); err != nil || history.BeforeSeq != 9 || history.Limit != 2 {
		t.Errorf("%+v %v", &history, err)
	}
	p.write(packet.AppendHistory(nil, f.ReqID, &packet.Page{Conversation: ab, FirstSeq: 1, LastSeq: 9, More: true, Messages: append(element(7), element(8)...)}))
	wait()

	wait = later(func() {
		if read, unread, err := c.MarkRead(timeout(t), ab, 9); err != nil || read != 9 || unread != 1 {
			t.Errorf("MarkRead: %d %d %v", read, unread, err)
		}
	})
	p.answer(packet.MethodRead, new(wire.ReadRequest), &wire.ReadResponse{ReadSeq: 9, Unread: 1})
	wait()
	// How many are unread holds up to a message that the answer doesn't name: it is asked how it stands.
	p.answer(packet.MethodConversation, new(wire.ConversationRequest), &wire.ConversationState{ConversationId: ab[:]})
	wait = later(func() {
		if read, unread, err := c.MarkRead(timeout(t), ab, 10); err != nil || read != 10 || unread != 0 {
			t.Errorf("MarkRead: %d %d %v", read, unread, err)
		}
	})
	p.answer(packet.MethodRead, new(wire.ReadRequest), &wire.ReadResponse{ReadSeq: 10})
	wait()
	if e := waitEvent[CursorsMoved](t, r); !e.Own || e.User != alice || e.Conversation != ab || e.ReadSeq != 10 || e.LastSeq != 10 || e.Unread != 0 {
		t.Errorf("%+v", e)
	}

	wait = later(func() {
		if _, err := c.Conversation(timeout(t), ab); !errors.Is(err, code.New(code.NoSuchConversation)) {
			t.Errorf("Conversation: %v", err)
		}
	})
	f = p.expect(frame.Request)
	p.write(packet.AppendError(nil, f.ReqID, true, code.New(code.NoSuchConversation), ab))
	wait()

	wait = later(func() {
		if got, err := c.Conversation(timeout(t), ab); err != nil || got.LastSeq != 9 {
			t.Errorf("Conversation: %+v %v", got, err)
		}
	})
	p.answer(packet.MethodConversation, new(wire.ConversationRequest), state)
	wait()

	ctx, cancel := context.WithCancel(context.Background())
	wait = later(func() {
		if _, err := c.Conversation(ctx, ab); !errors.Is(err, context.Canceled) {
			t.Errorf("Conversation: %v", err)
		}
	})
	f = p.expect(frame.Request)
	cancel()
	wait()
	b, _ := packet.AppendResponse(nil, f.ReqID, false, packet.MethodConversation, state) // nobody waits any more
	p.write(b)

	if err := c.Signal(ToUser(bob), 1, []byte("x")); err != nil {
		t.Error(err)
	}
	if err := c.Signal(Target{}, 1, nil); err == nil {
		t.Error("a signal to nobody is taken")
	}
	m, err := packet.DecodeSignal(p.expect(frame.Signal).Body)
	if err != nil || m.ToUserId != "bob" || m.Kind != 1 {
		t.Errorf("%+v %v", m, err)
	}
	p.body(frame.Signal, 0, 0, &wire.Signal{ConversationId: ab[:], Kind: 2, SenderId: "bob", SenderDevice: "d", Data: []byte("y")})
	if e := waitEvent[SignalReceived](t, r); e.Conversation != ab || e.Sender != bob || e.Device != "d" || e.Kind != 2 || string(e.Data) != "y" {
		t.Errorf("%+v", e)
	}
	if d := time.Until(c.ServerTime()); d > time.Minute || d < -time.Minute {
		t.Errorf("server time is %v away", d)
	}
}

// Every field of a message comes out as it went in.
func TestContent(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	want := Content{Type: 1000, Text: "Grüße", Data: []byte{0, 255}, Mentions: []string{"bob"}, MentionAll: true, ReplyToSeq: 1, ThreadSeq: 2,
		ExpiresAt: time.UnixMilli(1706284800000), NoCount: true, NoPush: true, OriginDevice: "phone", Ext: []byte("e"), Encryption: &wire.Encryption{Scheme: 1, Epoch: 2, Header: []byte("h")}}
	if _, err := c.SendInteractive(timeout(t), ToConversation(ab), want, 44); err != nil {
		t.Fatal(err)
	}
	f := p.expect(frame.Send)
	if f.Flags&frame.FlagInteractive == 0 {
		t.Error("not interactive")
	}
	var m packet.Send
	if err := packet.DecodeSend(&m, f.Body, &packet.DefaultLimits); err != nil || m.SeenSeq != 44 || m.Conversation != ab {
		t.Fatalf("%+v %v", m, err)
	}
	p.write(packet.AppendSendAck(nil, f.ReqID, packet.Ack{Seq: 1, MessageID: midOf(1)}, false))
	got := waitEvent[MessageReceived](t, r).Message
	if got.Text != want.Text || got.Type != 1000 || string(got.Data) != string(want.Data) || len(got.Mentions) != 1 || !got.MentionAll || got.ReplyToSeq != 1 || got.ThreadSeq != 2 ||
		!got.ExpiresAt.Equal(want.ExpiresAt) || !got.NoCount || !got.NoPush || got.OriginDevice != "phone" || string(got.Ext) != "e" || got.Encryption == nil || got.Encryption.Epoch != 2 {
		t.Errorf("%+v", got)
	}
}
