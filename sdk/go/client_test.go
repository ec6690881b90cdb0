package gochat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestSendAndAck(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, hello := s.welcome(nil)
	if hello.Token != "token" || hello.DeviceId != "phone" || hello.Version != 1 || hello.SyncMark != 0 {
		t.Errorf("CONNECT %+v", hello)
	}
	a := mustSend(t, c, "one")
	m := p.expectSend("one")
	if m.resend || m.ToUser != bob || m.ClientMsgID != a.ID {
		t.Errorf("SEND %+v", m)
	}
	if d := time.Since(time.UnixMilli(a.ID.UnixMilli())); d > time.Minute || d < -time.Minute {
		t.Errorf("an id %v away from server time", d)
	}
	p.ack(m, 1)
	mustAck(t, a, 1)
	if e := waitEvent[MessageSent](t, r); e.ID != a.ID || e.Ack.Seq != 1 {
		t.Errorf("%+v", e)
	}
	e := waitEvent[MessageReceived](t, r)
	if !e.Message.Own || e.Message.Text != "one" || e.Message.Seq != 1 || e.Message.Peer != bob || e.Message.ID != midOf(1) {
		t.Errorf("%+v", e)
	}
	// The same message by DELIVER is a repeat.
	p.write(packet.AppendDeliver(nil, ab, pair, append(elementOf(1, alice, a.ID, "one"), element(2)...)))
	r.waitTexts(t, "one", "m2")
	for p.acks[ab] < 2 {
		f, err := p.next()
		if err != nil || f.Type != frame.RecvAck {
			t.Fatal(f.Type, err)
		}
		p.noteAck(f.Body)
	}
	if n := len(c.Outbox()); n != 0 {
		t.Errorf("%d messages in the outbox", n)
	}
}

// What was sent without an answer goes again, in order, with the resend flag and the same
// ids, before anything new; what never left goes without.
func TestKilledInMidSend(t *testing.T) {
	noLeaks(t)
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(&wire.Connack{Limits: &wire.Limits{MaxInflight: 2}, ResumeToken: "again", SyncMark: 99})
	var rs []*Receipt
	for _, text := range []string{"one", "two", "three"} {
		rs = append(rs, mustSend(t, c, text))
	}
	one := p.expectSend("one")
	p.expectSend("two")
	p.conn.Close()
	p, hello := s.welcome(nil)
	if hello.ResumeToken != "again" || hello.SyncMark != 99 || hello.StoreEpoch != 7 {
		t.Errorf("CONNECT %+v", hello)
	}
	for i, text := range []string{"one", "two", "three"} {
		m := p.expectSend(text)
		if m.resend != (i < 2) || m.ClientMsgID != rs[i].ID {
			t.Errorf("%s: resend %v, id %v, want %v", text, m.resend, m.ClientMsgID, rs[i].ID)
		}
		if i == 0 && (m.ClientMsgID != one.ClientMsgID || !bytes.Equal(m.Tail, one.Tail)) {
			t.Error("the message changed")
		}
		p.ack(m, uint64(i+1))
	}
	for i := range rs {
		mustAck(t, rs[i], uint64(i+1))
	}
	r.waitTexts(t, "one", "two", "three")
}

// A client that ends with messages unanswered sends them when it starts again on its file.
func TestRestartWithFileOutbox(t *testing.T) {
	noLeaks(t)
	path := filepath.Join(t.TempDir(), "deep", "store")
	openStore := func(cfg *Config) {
		st, err := OpenFileStore(path)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Store = st
	}
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, openStore)
	offline := mustSend(t, c, "one") // before the first CONNACK: the client doesn't know who it is
	p, _ := s.welcome(nil)
	m := p.expectSend("one")
	p.ack(m, 1)
	mustAck(t, offline, 1)
	p.deliver(2, 3)
	r.waitTexts(t, "one", "m2", "m3")
	four, five := mustSend(t, c, "four"), mustSend(t, c, "five")
	p.expectSend("four")
	p.expectSend("five")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	p.expectEnd()
	if p.acks[ab] != 3 {
		t.Errorf("RECVACK of %d", p.acks[ab])
	}
	if _, err := four.Wait(timeout(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait on a closed client: %v", err)
	}
	if _, err := c.Send(timeout(t), ToUser(bob), Text("six")); !errors.Is(err, ErrClosed) {
		t.Errorf("Send on a closed client: %v", err)
	}

	r2 := newRecorder()
	c2 := open(t, s.address(), r2, openStore)
	if ids := c2.Outbox(); !slices.Equal(ids, []id.ClientMsgID{four.ID, five.ID}) {
		t.Errorf("outbox %v", ids)
	}
	six := mustSend(t, c2, "six")
	p, hello := s.welcome(nil)
	if hello.StoreEpoch != 7 {
		t.Errorf("CONNECT %+v", hello)
	}
	for i, text := range []string{"four", "five", "six"} {
		m := p.expectSend(text)
		if m.resend != (i < 2) || i < 2 && m.ClientMsgID != []id.ClientMsgID{four.ID, five.ID}[i] {
			t.Errorf("%s: resend %v, id %v", text, m.resend, m.ClientMsgID)
		}
		p.ack(m, uint64(4+i))
	}
	mustAck(t, six, 6)
	r2.waitTexts(t, "four", "five", "six")
}

// After a retryable refusal the lane goes again from there, in order, resend flags on.
func TestRefusedLane(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	rs := []*Receipt{mustSend(t, c, "one"), mustSend(t, c, "two"), mustSend(t, c, "three")}
	one, two, three := p.expectSend("one"), p.expectSend("two"), p.expectSend("three")
	p.ack(one, 1)
	p.refuse(two.req, &code.Error{Code: code.Unavailable, RetryAfter: time.Millisecond})
	p.refuse(three.req, code.New(code.LaneBlocked))
	for i, text := range []string{"two", "three"} {
		m := p.expectSend(text)
		if !m.resend || m.ClientMsgID != rs[i+1].ID {
			t.Errorf("%s: resend %v, id %v", text, m.resend, m.ClientMsgID)
		}
		p.ack(m, uint64(i+2))
	}
	for i := range rs {
		mustAck(t, rs[i], uint64(i+1))
	}
	r.waitTexts(t, "one", "two", "three")
}

func TestRefusedForGood(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	a, b := mustSend(t, c, "one"), mustSend(t, c, "two")
	one, two := p.expectSend("one"), p.expectSend("two")
	p.refuse(one.req, code.New(code.Forbidden))
	p.ack(two, 1)
	if _, err := a.Wait(timeout(t)); !errors.Is(err, code.New(code.Forbidden)) {
		t.Errorf("%v", err)
	}
	mustAck(t, b, 1)
	if e := waitEvent[SendFailed](t, r); e.ID != a.ID || !errors.Is(e.Err, code.New(code.Forbidden)) {
		t.Errorf("%+v", e)
	}
	if _, err := c.Send(timeout(t), ToUser(bob), Text("\xff")); !errors.Is(err, code.New(code.InvalidUTF8)) {
		t.Errorf("%v", err)
	}
	if _, err := c.Send(timeout(t), Target{}, Text("nowhere")); !errors.Is(err, code.New(code.BadRequest)) {
		t.Errorf("%v", err)
	}
}

func TestIDInFuture(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	a := mustSend(t, c, "one")
	m := p.expectSend("one")
	p.refuse(m.req, code.New(code.IDInFuture))
	again := p.expectSend("one")
	if again.resend || again.ClientMsgID == m.ClientMsgID {
		t.Errorf("resend %v, id %v after %v", again.resend, again.ClientMsgID, m.ClientMsgID)
	}
	p.ack(again, 1)
	mustAck(t, a, 1)
	if e := waitEvent[MessageSent](t, r); e.ID != a.ID {
		t.Errorf("%+v is not about %v", e, a.ID)
	}

	b := mustSend(t, c, "two") // it gives up some time
	for range maxStamps + 1 {
		p.refuse(p.expectSend("two").req, code.New(code.IDInFuture))
	}
	if _, err := b.Wait(timeout(t)); !errors.Is(err, code.New(code.IDInFuture)) {
		t.Errorf("%v", err)
	}
}

// An id that the server doesn't know any more is looked for before it is made anew.
func TestIDUnknown(t *testing.T) {
	for name, found := range map[string]bool{"stored": true, "not stored": false} {
		t.Run(name, func(t *testing.T) {
			s, r := newScripted(t), newRecorder()
			c := open(t, s.address(), r, nil)
			p, _ := s.welcome(&wire.Connack{Conversations: []*wire.ConversationState{{ConversationId: ab[:], Users: []string{"alice", "bob"}, LastSeq: 2}}})
			p.synced(p.expectSync(1, 0), 1, 2, 2, 1, 2)
			r.waitTexts(t, "m1", "m2")
			a := mustSend(t, c, "one")
			m := p.expectSend("one")
			p.refuse(m.req, code.New(code.IDUnknown))
			req := p.expectSync(3, 0)
			b := mustSend(t, c, "two") // waits behind it
			p.synced(req, 3, 3, 4, 3)
			req = p.expectSync(4, 0)
			seq := uint64(5)
			if found {
				page := packet.Page{Conversation: ab, Users: pair, FromSeq: 4, ToSeq: 4, LastSeq: 4, Messages: elementOf(4, alice, a.ID, "one")}
				p.write(packet.AppendSynced(nil, req, false, &page, nil))
				mustAck(t, a, 4)
			} else {
				p.synced(req, 4, 4, 4, 4)
				again := p.expectSend("one")
				if again.resend || again.ClientMsgID == m.ClientMsgID {
					t.Errorf("resend %v, id %v after %v", again.resend, again.ClientMsgID, m.ClientMsgID)
				}
				p.ack(again, seq)
				mustAck(t, a, seq)
				seq++
			}
			p.ack(p.expectSend("two"), seq)
			mustAck(t, b, seq)
		})
	}
}

// Repeats, holes and reordering reach the application as one gapless order.
func TestDeliveries(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	p.deliver(1)
	p.deliver(1, 2)
	p.deliver(4) // 3 is late, but comes
	p.deliver(3)
	r.waitTexts(t, "m1", "m2", "m3", "m4")
	p.deliver(8, 9) // 5 to 7 are lost; 6 will never come
	p.synced(p.expectSync(5, 7), 5, 7, 9, 5, 7)
	r.waitTexts(t, "m1", "m2", "m3", "m4", "m5", "m7", "m8", "m9")
	p.deliver(7, 8, 9, 10)
	r.waitTexts(t, "m1", "m2", "m3", "m4", "m5", "m7", "m8", "m9", "m10")
	for p.acks[ab] < 10 {
		f, err := p.next()
		if err != nil || f.Type != frame.RecvAck {
			t.Fatal(f.Type, err)
		}
		p.noteAck(f.Body)
	}
}

// A message of its own that it sees is stored, whether the SENDACK came or not.
func TestOwnMessageSeen(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(nil)
	a := mustSend(t, c, "one")
	m := p.expectSend("one")
	p.write(packet.AppendDeliver(nil, ab, pair, elementOf(1, alice, m.ClientMsgID, "one")))
	mustAck(t, a, 1)
	p.ack(m, 1)
	p.deliver(2)
	r.waitTexts(t, "one", "m2")
}

// What moved while the device was away is pulled page by page; the sync mark is stored
// when the last page of the inbox was read.
func TestCatchUp(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	store := NewMemoryStore()
	other := id.Named(id.KindGroup, "g")
	open(t, s.address(), r, func(c *Config) { c.Store = store })
	p, _ := s.welcome(&wire.Connack{SyncMark: 50, ResumeToken: "r", InboxCursor: "more",
		Conversations: []*wire.ConversationState{{ConversationId: ab[:], Users: []string{"alice", "bob"}, LastSeq: 5, FirstSeq: 2, Unread: 4}}})
	reqs := map[frame.Type]frame.Frame{}
	for range 2 { // a SYNC and the next page, in whichever order
		f, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		f.Body = slices.Clone(f.Body)
		reqs[f.Type] = f
	}
	m, err := packet.DecodeSync(reqs[frame.Sync].Body)
	if err != nil || m.Ranges[0].FromSeq != 2 { // 1 is gone
		t.Fatalf("%+v %v", m, err)
	}
	if st, _ := store.Load(); st.Session.SyncMark != 0 || st.Cursors[ab] != (Cursor{1, 5}) {
		t.Errorf("stored too early: %+v", st)
	}
	method, inner, err := packet.DecodeRequest(reqs[frame.Request].Body)
	var ask wire.ConversationsRequest
	if err != nil || method != packet.MethodConversations || packet.DecodeMethod(method, inner, &ask) != nil || ask.Cursor != "more" || ask.SyncMark != 0 {
		t.Fatalf("%v %+v %v", method, ask, err)
	}
	b, _ := packet.AppendResponse(nil, reqs[frame.Request].ReqID, false, method, &wire.ConversationsResponse{SyncMark: 60,
		Conversations: []*wire.ConversationState{{ConversationId: other[:], LastSeq: 3, JoinedSeq: 4, Name: "Group"}}})
	p.write(b)
	p.synced(reqs[frame.Sync].ReqID, 2, 3, 5, 2, 3)
	p.synced(p.expectSync(4, 0), 4, 5, 5, 4, 5)
	r.waitTexts(t, "m2", "m3", "m4", "m5")
	r.wait(t, "the group", func(es []Event) bool {
		return slices.ContainsFunc(es, func(e Event) bool { c, ok := e.(ConversationChanged); return ok && c.Conversation.Name == "Group" })
	})
	r.wait(t, "the mark", func([]Event) bool { st, _ := store.Load(); return st.Session.SyncMark == 50 })
	st, _ := store.Load()
	if st.Session != (Session{User: alice, StoreEpoch: 7, SyncMark: 50, ResumeToken: "r"}) || st.Cursors[other].Head != 3 {
		t.Errorf("stored %+v", st)
	}
}

func TestBacklog(t *testing.T) {
	for backlog, from := range map[int]uint64{2: 4, 100: 1, -1: 0} {
		s, r := newScripted(t), newRecorder()
		open(t, s.address(), r, func(c *Config) { c.Backlog = backlog })
		p, _ := s.welcome(&wire.Connack{Conversations: []*wire.ConversationState{{ConversationId: ab[:], LastSeq: 5}}})
		if from > 0 {
			p.synced(p.expectSync(from, 0), from, 5, 5, []uint64{1, 2, 3, 4, 5}[from-1:]...)
		}
		p.deliver(6)
		r.wait(t, "m6", func(es []Event) bool { return slices.Contains(texts(es), "m6") })
		r.mu.Lock()
		if want := map[uint64]int{4: 3, 1: 6, 0: 1}[from]; len(texts(r.events)) != want {
			t.Errorf("backlog %d: %v", backlog, texts(r.events))
		}
		r.mu.Unlock()
	}
}

func TestHints(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, nil)
	p, _ := s.welcome(&wire.Connack{SyncMark: 5})
	p.deliver(1)
	r.waitTexts(t, "m1")
	p.body(frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: ab[:], Seq: 3}}})
	p.synced(p.expectSync(2, 0), 2, 3, 3, 2, 3)
	r.waitTexts(t, "m1", "m2", "m3")
	// A hint that is wrong ends with the answer.
	p.body(frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: ab[:], Seq: 9}}})
	p.synced(p.expectSync(4, 0), 4, 3, 3)
	p.body(frame.Hint, 0, 0, &wire.Hint{All: true})
	f := p.expect(frame.Request)
	_, inner, _ := packet.DecodeRequest(f.Body)
	var ask wire.ConversationsRequest
	if err := packet.DecodeMethod(packet.MethodConversations, inner, &ask); err != nil || ask.SyncMark != 5 || ask.Cursor != "" {
		t.Fatalf("%+v %v", ask, err)
	}
	p.refuse(f.ReqID, &code.Error{Code: code.Unavailable, RetryAfter: time.Millisecond})
	f = p.expect(frame.Request) // once more
	b, _ := packet.AppendResponse(nil, f.ReqID, false, packet.MethodConversations, &wire.ConversationsResponse{SyncMark: 9,
		Conversations: []*wire.ConversationState{{ConversationId: ab[:], LastSeq: 4}}})
	p.write(b)
	p.synced(p.expectSync(4, 0), 4, 4, 4, 4)
	r.waitTexts(t, "m1", "m2", "m3", "m4")
}

// A store of another epoch: everything comes again, and the outbox stays.
func TestStoreEpoch(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	c := open(t, s.address(), r, nil)
	p, _ := s.welcome(&wire.Connack{SyncMark: 5})
	p.deliver(1, 2)
	r.waitTexts(t, "m1", "m2")
	a := mustSend(t, c, "mine")
	p.expectSend("mine")
	p.conn.Close()
	p, hello := s.welcome(&wire.Connack{StoreEpoch: 8, SyncMark: 6, Conversations: []*wire.ConversationState{{ConversationId: ab[:], LastSeq: 1}}})
	if hello.StoreEpoch != 7 || hello.SyncMark != 5 {
		t.Errorf("CONNECT %+v", hello)
	}
	if m := p.expectSend("mine"); !m.resend || m.ClientMsgID != a.ID {
		t.Errorf("%+v", m)
	} else {
		p.synced(p.expectSync(1, 0), 1, 1, 1, 1)
		p.ack(m, 2)
	}
	mustAck(t, a, 2)
	r.waitTexts(t, "m1", "m2", "m1", "mine")
	if e := waitEvent[Resynced](t, r); e.StoreEpoch != 8 {
		t.Errorf("%+v", e)
	}
}

// A slow application holds nobody up but itself: what doesn't fit is pulled later.
func TestSlowHandler(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	r.gate = make(chan struct{})
	open(t, s.address(), r, func(c *Config) { c.Queue = 4 })
	p, _ := s.welcome(nil)
	var want []string
	for seq := range uint64(20) {
		p.deliver(seq + 1)
	}
	p.write(frame.Append(nil, frame.Ping, 0, 0, nil))
	p.expect(frame.Pong) // it reads on
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 20 {
			r.gate <- struct{}{}
		}
	}()
	from := uint64(5)
	for from <= 20 {
		f := p.expect(frame.Sync)
		m, err := packet.DecodeSync(f.Body)
		if err != nil || m.Ranges[0].FromSeq < from {
			t.Fatalf("%+v %v", m, err)
		}
		from = m.Ranges[0].FromSeq
		to := min(from+1, 20)
		var seqs []uint64
		for q := from; q <= to; q++ {
			seqs = append(seqs, q)
		}
		p.synced(f.ReqID, from, to, 20, seqs...)
		from = to + 1
	}
	for seq := range 20 {
		want = append(want, fmt.Sprintf("m%d", seq+1))
	}
	r.waitTexts(t, want...)
	<-done
}

func TestHeartbeat(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	open(t, s.address(), r, func(c *Config) { c.DeadAfter = 100 * time.Millisecond })
	p, _ := s.welcome(&wire.Connack{HeartbeatSeconds: 1})
	if f, err := p.next(); err != nil || f.Type != frame.Ping {
		t.Fatalf("%v %v", f.Type, err)
	}
	for { // no answer: the client gives up and comes again
		if _, err := p.next(); err != nil {
			break
		}
	}
	s.welcome(nil)
	waitEvent[Disconnected](t, r)
}

func TestDismissals(t *testing.T) {
	for name, e := range map[string]*code.Error{"replaced": code.New(code.Replaced), "revoked": code.New(code.SessionRevoked)} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			s, r := newScripted(t), newRecorder()
			c := open(t, s.address(), r, nil)
			p, _ := s.welcome(&wire.Connack{ResumeToken: "resume"})
			a := mustSend(t, c, "one")
			p.expectSend("one")
			if e.Code == code.SessionRevoked {
				p.body(frame.Kick, 0, 0, &wire.Kick{Code: uint32(e.Code), Reason: "out"})
			} else {
				p.write(packet.AppendError(nil, 0, false, e, id.ConversationID{}))
			}
			if got := waitEvent[Stopped](t, r); !errors.Is(got.Err, e) {
				t.Errorf("%v", got.Err)
			}
			if _, err := a.Wait(timeout(t)); !errors.Is(err, ErrStopped) || !errors.Is(err, e) {
				t.Errorf("%v", err)
			}
			if err := c.Connected(timeout(t)); !errors.Is(err, ErrStopped) {
				t.Errorf("%v", err)
			}
			if _, err := c.Inbox(timeout(t)); !errors.Is(err, ErrStopped) {
				t.Errorf("%v", err)
			}
			if err := c.Signal(ToUser(bob), 1, nil); !errors.Is(err, ErrStopped) {
				t.Errorf("%v", err)
			}
			if len(c.Outbox()) != 1 {
				t.Error("the outbox was emptied")
			}
			st, err := c.store.Load()
			if kept := st.Session.ResumeToken == "resume"; err != nil || kept != (e.Code == code.Replaced) {
				t.Errorf("the resume token is now %q (%v)", st.Session.ResumeToken, err)
			}
		})
	}
}

// Refused handshakes: a token that has expired is asked for again, a resume token that is
// no good is dropped if no token could be had, another user's store is left alone.
func TestHandshakes(t *testing.T) {
	s, r := newScripted(t), newRecorder()
	tokens := make(chan string, 10)
	c := open(t, s.address(), r, func(cfg *Config) {
		cfg.Token = func(context.Context) (string, error) {
			if tok := <-tokens; tok != "" {
				return tok, nil
			}
			return "", errors.New("nothing to be had")
		}
	})
	tokens <- "old"
	p := s.accept()
	p.expect(frame.Connect)
	p.write(packet.AppendError(nil, 0, false, code.New(code.TokenExpired), id.ConversationID{}))
	tokens <- "new"
	p, hello := s.welcome(&wire.Connack{ResumeToken: "resume"})
	if hello.Token != "new" {
		t.Errorf("CONNECT %+v", hello)
	}
	p.conn.Close()
	tokens <- ""
	p = s.accept()
	hello, err := packet.DecodeConnect(p.expect(frame.Connect).Body)
	if err != nil || hello.Token != "" || hello.ResumeToken != "resume" {
		t.Errorf("CONNECT %+v", hello)
	}
	p.write(packet.AppendError(nil, 0, false, code.New(code.Unauthenticated), id.ConversationID{}))
	tokens <- "" // without either there is no use in connecting
	tokens <- "third"
	p, hello = s.welcome(nil)
	if hello.Token != "third" || hello.ResumeToken != "" {
		t.Errorf("CONNECT %+v", hello)
	}
	p.write([]byte{0xFF, 0xFF, 0xFF, 0xFF, 0xFF}) // garbage ends the connection, not the client
	p.expectEnd()
	tokens <- "t"
	p, _ = s.welcome(nil)
	if c.User() != alice {
		t.Errorf("user %q", c.User())
	}
	p.conn.Close()
	tokens <- "t"
	p = s.accept()
	p.expect(frame.Connect)
	p.body(frame.Connack, 0, 0, &wire.Connack{Version: 1, UserId: "mallory", StoreEpoch: 7})
	waitEvent[Stopped](t, r)
}

func TestConfig(t *testing.T) {
	good := Config{Address: "a:1", Device: "d", Token: func(context.Context) (string, error) { return "", nil }, Handler: func(Event) {}}
	for name, change := range map[string]func(*Config){
		"address": func(c *Config) { c.Address = "" }, "token": func(c *Config) { c.Token = nil }, "handler": func(c *Config) { c.Handler = nil },
		"device": func(c *Config) { c.Device = "\n" }, "interval": func(c *Config) { c.GapWait = -1 },
	} {
		bad := good
		change(&bad)
		if _, err := Open(bad); err == nil {
			t.Errorf("a config without %s is taken", name)
		}
	}
}
