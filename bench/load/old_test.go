package load

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// archive answers HISTORY as a store does that package fill has filled; wrong may change a page.
func archive(t *testing.T, h History, wrong func(*packet.Page, *[]byte)) func(*fakeConn, *frame.Frame) {
	convs := map[id.ConversationID]int{}
	for k := range h.Conversations {
		convs[conversation(h.User(k%h.Clients), h.Peer(k))] = k
	}
	return func(c *fakeConn, f *frame.Frame) {
		_, inner, err := packet.DecodeRequest(f.Body)
		var r wire.HistoryRequest
		if err == nil {
			err = packet.DecodeMethod(packet.MethodHistory, inner, &r)
		}
		if err != nil {
			t.Error(err)
			return
		}
		conv := id.ConversationID(r.ConversationId)
		k := convs[conv]
		p := packet.Page{Conversation: conv, FirstSeq: 1, LastSeq: uint64(h.Messages), More: r.BeforeSeq > uint64(r.Limit)+1}
		for n := r.BeforeSeq - uint64(r.Limit); n < r.BeforeSeq; n++ {
			sender := id.UserID(h.User(k % h.Clients))
			if n%2 == 0 {
				sender = id.UserID(h.Peer(k))
			}
			var cid [16]byte
			verify.PutID(&cid, 1_750_000_000_000, h.Salt, k, n)
			text := make([]byte, h.Body)
			verify.FillBody(text, k, n)
			tail, _ := (&wire.Send{ClientMsgId: cid[:], MsgType: 1, Content: string(text)}).Marshal(nil)
			p.Messages = packet.AppendMessage(p.Messages, n, id.MessageID(n), sender, tail)
		}
		var out []byte
		wrong(&p, &out)
		if out == nil {
			out = packet.AppendHistory(nil, f.ReqID, &p)
		}
		c.send(out)
	}
}

func TestHistoryFindsWrongPages(t *testing.T) {
	for _, c := range []struct {
		name  string
		wrong func(p *packet.Page, out *[]byte)
		says  string // "": all is well
	}{
		{"as stored", func(*packet.Page, *[]byte) {}, ""},
		{"a changed body", func(p *packet.Page, _ *[]byte) { p.Messages[len(p.Messages)-1]++ }, "not as it was sent"},
		{"another conversation", func(p *packet.Page, _ *[]byte) { p.Conversation[5]++ }, "it is of"},
		{"another end", func(p *packet.Page, _ *[]byte) { p.LastSeq++ }, "which holds"},
		{"a message short", func(p *packet.Page, _ *[]byte) {
			_, rest, _ := packet.NextMessage(p.Messages)
			p.Messages = rest
		}, "belongs"},
		{"no messages", func(p *packet.Page, _ *[]byte) { p.Messages = nil }, "it ends at"},
		{"older ones denied", func(p *packet.Page, _ *[]byte) { p.More = !p.More }, "more is"},
	} {
		h := History{Clients: 3, Conversations: 7, Messages: 9, Page: 4, Body: 20, Salt: 7, Window: 2, Measure: 50 * time.Millisecond}
		_, target := startFake(t, func(f *fake) {
			h.Target.Users = "u"
			f.answers = archive(t, h, c.wrong)
		})
		h.Target = target
		r, err := h.Run(t.Context())
		switch {
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case (c.says == "") != (r.Wrong == 0) || !strings.Contains(r.WrongSaid, c.says) || r.Verified == 0 || r.Unanswered != 0 || c.says != "" && r.Wrong != r.Verified:
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestHistoryThatCannotGoOn(t *testing.T) {
	h := History{Clients: 1, Conversations: 1, Messages: 5, Page: 5, Body: 20, Rate: 200, Measure: 100 * time.Millisecond}
	_, target := startFake(t, func(f *fake) {
		f.answers = func(c *fakeConn, fr *frame.Frame) {
			c.send(packet.AppendError(nil, fr.ReqID, true, code.New(code.Overloaded), id.ConversationID{}))
		}
	})
	h.Target = target
	if r, err := h.Run(t.Context()); err != nil || r.Refused == 0 || r.Verified != 0 || !strings.Contains(r.WrongSaid, "overloaded") || r.Late.Count == 0 {
		t.Errorf("refused: %+v, %v", r, err)
	}
	for says, answer := range map[string]func(c *fakeConn, fr *frame.Frame){
		"didn't ask": func(c *fakeConn, fr *frame.Frame) { c.send(packet.AppendHistory(nil, fr.ReqID+1, &packet.Page{})) },
		"ended":      func(c *fakeConn, _ *frame.Frame) { c.Close() },
		"kick":       func(c *fakeConn, _ *frame.Frame) { c.send(frame.Append(nil, frame.Kick, 0, 0, nil)) },
	} {
		_, h.Target = startFake(t, func(f *fake) { f.answers = answer })
		var failed *Failure
		if _, err := h.Run(t.Context()); !errors.As(err, &failed) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if _, err := (History{Clients: 2, Conversations: 1, Messages: 5, Page: 5, Window: 1}).Run(t.Context()); err == nil {
		t.Error("more clients than conversations")
	}
}

// withInbox lets the fake tell in CONNACK what there is.
func withInbox(f *fake) {
	f.connack = func(a *wire.Connack) {
		f.mu.Lock()
		defer f.mu.Unlock()
		a.StoreEpoch, a.ResumeToken, a.Resumed = 1, a.UserId, true
		for c, cv := range f.convs {
			for _, u := range cv.users {
				if string(u) == a.UserId {
					a.Conversations = append(a.Conversations, &wire.ConversationState{ConversationId: append([]byte(nil), c[:]...), LastSeq: uint64(len(cv.messages))})
				}
			}
		}
	}
}

func TestChurn(t *testing.T) {
	churn := func(wrong func(*fake)) (*ChurnResult, error) {
		_, target := startFake(t, func(f *fake) {
			withInbox(f)
			f.deliver = func(uint64) int { return 0 } // the others aren't there
			if wrong != nil {
				wrong(f)
			}
		})
		return Churn{Target: target, Users: 6, Window: 2, Messages: 2, Body: 30, Measure: 150 * time.Millisecond}.Run(t.Context())
	}
	r, err := churn(nil)
	if err != nil || r.Lost+r.Wrong+r.Refused+r.Ended != 0 || r.Visits == 0 || r.Fetched < r.Sent || r.Sync.Count == 0 || r.Connack.Count == 0 || r.Visit.Count == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = churn(func(f *fake) { f.stored = func(seq uint64, _ []byte) bool { return seq != 3 } }); err != nil || r.Wrong == 0 {
		t.Errorf("a message that vanished: %+v, %v", r, err)
	}
	if r, err = churn(func(f *fake) { f.end = func(seq uint64) frame.Type { return typeAt(seq, frame.Pong) } }); err != nil || r.Ended == 0 {
		t.Errorf("connections that end: %+v, %v", r, err)
	}
	if r, err = churn(func(f *fake) { f.refuseLogin = code.TooManyConnections }); err != nil || r.Refused == 0 || !strings.Contains(r.Said, "too_many") {
		t.Errorf("refused: %+v, %v", r, err)
	}
	if _, err := (Churn{Users: 3, Window: 1, Body: 1}).Run(t.Context()); err == nil {
		t.Error("somebody writes to nobody")
	}
}

func TestRestart(t *testing.T) {
	load := func(wrong func(*fake), again func(*fake) error) (*RestartResult, error) {
		f, target := startFake(t, func(f *fake) {
			withInbox(f)
			if wrong != nil {
				wrong(f)
			}
		})
		return Restart{Target: target, Clients: 6, Rate: 60, Body: 30, Before: 300 * time.Millisecond, After: 100 * time.Millisecond,
			Again: func(context.Context) (down, up time.Duration, err error) { return time.Second, time.Second, again(f) },
		}.Run(t.Context())
	}
	drain := func(f *fake) error {
		out, err := packet.AppendBody(nil, frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 1000, JitterMs: 200})
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.users {
			c.send(out)
		}
		return err
	}
	r, err := load(nil, drain)
	if err != nil || r.Back != 6 || r.Lost != 6 || r.Drained != 6 || !r.Verify.Sound() || r.Verify.Missing+r.Verify.Unacked != 0 || r.Verify.Stored == 0 || r.MaxPerSecond() != 6 || r.Unresumed != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	// A lane that is refused goes again, in its order.
	var refused atomic.Int32
	r, err = load(func(f *fake) {
		f.lanes = true
		f.refuse = func(seq uint64) code.Code {
			if n := refused.Add(1); seq == 2 && n%2 == 0 {
				return code.Overloaded
			}
			return 0
		}
	}, drain)
	if err != nil || !r.Verify.Sound() || r.Verify.Unacked != 0 || r.Refusals["overloaded"] > 0 && r.Resent == 0 {
		t.Errorf("refused: %+v, %v", r, err)
	}
	if r, err = load(func(f *fake) { f.stored = func(seq uint64, _ []byte) bool { return seq != 1 } }, drain); err != nil || r.Verify.Sound() {
		t.Errorf("a message that vanished: %+v, %v", r, err)
	}
	if _, err = load(nil, func(*fake) error { return errors.New("no such server") }); err == nil || !strings.Contains(err.Error(), "no such server") {
		t.Errorf("a server that doesn't start: %v", err)
	}
	if _, err = load(nil, func(f *fake) error {
		f.mu.Lock()
		f.refuseLogin = code.SessionRevoked
		f.mu.Unlock()
		return drain(f)
	}); err == nil || !strings.Contains(err.Error(), "session_revoked") {
		t.Errorf("signed out: %v", err)
	}
	if _, err := (Restart{Clients: 3, Rate: 1, Body: 1}).Run(t.Context()); err == nil {
		t.Error("half a pair")
	}
}

// nobody is an address at which connections are refused, one after which they are closed at once.
func nobody(t *testing.T) (refusing, closing string) {
	var addr [2]string
	for i := range addr {
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr[i] = ln.Addr().String()
		if i == 0 {
			ln.Close()
			continue
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			for c, err := ln.Accept(); err == nil; c, err = ln.Accept() {
				c.Close()
			}
		}()
	}
	return addr[0], addr[1]
}

func TestClientsMoveBeforeTheyLeave(t *testing.T) {
	refusing, closing := nobody(t)
	for _, c := range []struct {
		name      string
		wrong     func(*fake)
		others    []string // that DRAIN names beside, or with stay in the place of, the one that takes them
		stay      bool
		deadline  uint32
		moved     int
		missed    bool
		replaced  int
		refusedAs string
	}{
		{name: "to another server", deadline: 60_000, moved: 6},
		{name: "the old one closes first", wrong: func(f *fake) { f.replaces = true }, deadline: 60_000, moved: 6, replaced: 6},
		{name: "to the one that answers", others: []string{refusing, closing}, deadline: 60_000, moved: 6},
		{name: "nobody answers", others: []string{refusing, closing}, stay: true, deadline: 300, missed: true},
		{name: "refused at first", wrong: func(f *fake) {
			var n atomic.Int32
			f.door = func() code.Code {
				if n.Add(1) <= 6 {
					return code.Overloaded
				}
				return 0
			}
		}, deadline: 60_000, moved: 6, missed: true, refusedAs: "overloaded"},
	} {
		f, target := startFake(t, func(f *fake) {
			withInbox(f)
			if c.wrong != nil {
				c.wrong(f)
			}
		})
		drain := wire.Drain{DeadlineMs: c.deadline, JitterMs: 100, Alternatives: c.others}
		if !c.stay {
			drain.Alternatives = append(slices.Clip(c.others), f.another(t))
		}
		out, err := packet.AppendBody(nil, frame.Drain, 0, 0, &drain)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Restart{Target: target, Clients: 6, Rate: 300, Body: 30, Before: 100 * time.Millisecond, After: 100 * time.Millisecond,
			Again: func(ctx context.Context) (down, up time.Duration, err error) {
				began := time.Now()
				var old []*fakeConn
				f.mu.Lock()
				for _, c := range f.users {
					old = append(old, c)
				}
				f.mu.Unlock()
				for _, c := range old {
					c.send(out)
					c.send(out) // once more does no harm
				}
				for _, c := range old {
					<-c.ended
				}
				return time.Since(began), 0, nil
			},
		}.Run(t.Context())
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if r.Drained != 6 || r.Lost != 6 || r.Back != 6 || r.Moved != c.moved || r.InTime != c.moved || r.Replaced != c.replaced || r.Closed != 0 || r.Unresumed != 0 ||
			c.missed && r.Missed < 6 || c.refusedAs != "" && r.Refusals[c.refusedAs] != 6 {
			t.Errorf("%s: %+v", c.name, r)
		}
		if v := &r.Verify; !v.Sound() || v.Missing+v.Unacked != 0 || v.Stored == 0 {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

// The server is gone before anybody has moved, since the other one took them and then had no answer for them.
func TestMovesThatFailHalfway(t *testing.T) {
	var n atomic.Int32
	f, target := startFake(t, func(f *fake) {
		withInbox(f)
		f.replaces = true
		f.door = func() code.Code {
			if n.Add(1) <= 6 {
				return code.Internal
			}
			return 0
		}
	})
	out, err := packet.AppendBody(nil, frame.Drain, 0, 0, &wire.Drain{DeadlineMs: 60_000, JitterMs: 100, Alternatives: []string{f.another(t)}})
	if err != nil {
		t.Fatal(err)
	}
	r, err := Restart{Target: target, Clients: 6, Rate: 300, Body: 30, Before: 100 * time.Millisecond, After: 100 * time.Millisecond,
		Again: func(context.Context) (down, up time.Duration, err error) {
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, c := range f.users {
				c.send(out)
			}
			return 0, 0, nil
		},
	}.Run(t.Context())
	if err != nil || r.Back != 6 || r.Moved != 0 || r.Closed != 6 || r.Missed != 6 || r.Refusals["internal"] != 6 || !r.Verify.Sound() || r.Verify.Missing+r.Verify.Unacked != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}
