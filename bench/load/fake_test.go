package load

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// fake is a server that keeps everything in memory and can be told to misbehave.
type fake struct {
	addr netip.AddrPort

	// What to do wrong. All are set before the first connection; seq is the message's.
	refuseLogin code.Code
	connack     func(*wire.Connack)
	refuse      func(seq uint64) code.Code                // SENDs; 0: take it
	moveAck     func(seq uint64) uint64                   // the seq that the ack tells
	deliver     func(seq uint64) int                      // how often
	stored      func(seq uint64, tail []byte) (keep bool) // may change tail
	hint        func(seq uint64) bool                     // instead of delivering
	refuseSync  func(n int) code.Code                     // by the count of SYNCs
	end         func(seq uint64) frame.Type               // how the connection ends instead of an ack; 0: it doesn't
	mute        func(seq uint64) bool                     // no answer
	parts       bool                                      // SYNCED in several parts
	lanes       bool                                      // what follows a refused SEND is refused, too, until one comes again
	replaces    bool                                      // whoever connects again has lost the connection before by then
	door        func() code.Code                          // how logins at another address end; 0: well
	answers     func(*fakeConn, *frame.Frame)             // REQUESTs, in the place of the fake
	group       groupFaults
	room        roomFaults

	mu    sync.Mutex
	users map[id.UserID]*fakeConn
	convs map[id.ConversationID]*fakeConv
	pings int
	syncs int
	acks  map[id.ConversationID]uint64 // RECVACK
}

type fakeConn struct {
	net.Conn
	mu        sync.Mutex
	elsewhere bool // at another address
	ended     chan struct{}
}

type fakeConv struct {
	blocked  uint32 // with lanes: the request that was refused
	users    []id.UserID
	messages [][]byte // as they stand in the timeline; nil: left out
}

const fakePage = 30

func startFake(t *testing.T, wrong func(*fake)) (*fake, Target) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{addr: ln.Addr().(*net.TCPAddr).AddrPort(), users: map[id.UserID]*fakeConn{},
		convs: map[id.ConversationID]*fakeConv{}, acks: map[id.ConversationID]uint64{}}
	if wrong != nil {
		wrong(f)
	}
	f.accept(t, ln, false)
	return f, Target{Addr: f.addr, Users: "u", Token: func(user string) (string, error) { return user, nil }}
}

func (f *fake) accept(t *testing.T, ln net.Listener, elsewhere bool) {
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go f.serve(&fakeConn{Conn: nc, elsewhere: elsewhere, ended: make(chan struct{})})
		}
	}()
}

// another is another address under which the fake is reached.
func (f *fake) another(t *testing.T) string {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.accept(t, ln, true)
	return ln.Addr().String()
}

func (c *fakeConn) send(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = c.Write(b)
}

func (f *fake) serve(c *fakeConn) {
	defer close(c.ended)
	defer c.Close()
	var user id.UserID
	buf, in := make([]byte, 64<<10), []byte(nil)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return
		}
		in = append(in, buf[:n]...)
		for {
			fr, n, err := frame.Parse(in, frame.DefaultMax)
			if err != nil {
				return
			}
			if n == 0 {
				break
			}
			switch fr.Type {
			case frame.Connect:
				if user = f.login(c, &fr); user == "" {
					return
				}
			case frame.Send:
				if !f.store(c, user, &fr) {
					// Closed with bytes unread, the connection would be reset, and a client that writes hears that first.
					_ = c.Conn.(*net.TCPConn).CloseWrite()
					_, _ = io.Copy(io.Discard, c.Conn)
					return
				}
			case frame.Sync:
				f.sync(c, &fr)
			case frame.Request:
				f.request(c, user, &fr)
			case frame.RecvAck:
				f.mu.Lock()
				_ = packet.DecodeRecvAck(fr.Body, func(conv id.ConversationID, seq uint64) { f.acks[conv] = seq })
				f.mu.Unlock()
			case frame.Ping:
				f.mu.Lock()
				f.pings++
				f.mu.Unlock()
				c.send(frame.Append(nil, frame.Pong, 0, 0, nil))
			}
			in = in[n:]
		}
	}
}

func (f *fake) login(c *fakeConn, fr *frame.Frame) id.UserID {
	m, err := packet.DecodeConnect(fr.Body)
	f.mu.Lock()
	refuse := f.refuseLogin
	f.mu.Unlock()
	if err != nil || refuse != 0 {
		c.send(packet.AppendError(nil, 0, false, code.New(refuse), id.ConversationID{}))
		return ""
	}
	if m.Token == "" {
		m.Token = m.ResumeToken // both are the user's name here
	}
	beat := max(m.HeartbeatSeconds, 1)
	ack := &wire.Connack{Version: 1, UserId: m.Token, ServerTime: uint64(time.Now().UnixMilli()), HeartbeatSeconds: beat, HeartbeatMinSeconds: 1,
		Limits: &wire.Limits{MaxFrame: frame.DefaultMax, MaxContent: 12 << 10, MaxInflight: 64, SendsPerSecond: 100}}
	f.mu.Lock()
	old := f.users[id.UserID(m.Token)]
	f.users[id.UserID(m.Token)] = c
	f.mu.Unlock()
	if f.connack != nil {
		f.connack(ack)
	}
	if old != nil && f.replaces {
		old.send(packet.AppendError(nil, 0, false, code.New(code.Replaced), id.ConversationID{}))
		_ = old.Conn.(*net.TCPConn).CloseWrite()
		<-old.ended
	}
	if c.elsewhere && f.door != nil {
		if k := f.door(); k != 0 {
			c.send(packet.AppendError(nil, 0, false, code.New(k), id.ConversationID{}))
			return ""
		}
	}
	out, _ := packet.AppendBody(nil, frame.Connack, frame.FlagRequestID, fr.ReqID, ack)
	c.send(out)
	return id.UserID(m.Token)
}

// store handles a SEND; false: the connection ends.
func (f *fake) store(c *fakeConn, user id.UserID, fr *frame.Frame) bool {
	var s packet.Send
	lim := packet.DefaultLimits
	if err := packet.DecodeSend(&s, fr.Body, &lim); err != nil {
		c.send(packet.AppendError(nil, fr.ReqID, true, err, id.ConversationID{}))
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	named := s.Conversation.IsZero()
	if named {
		s.Conversation = id.Direct(user, s.ToUser)
		if f.convs[s.Conversation] == nil {
			f.convs[s.Conversation] = &fakeConv{users: []id.UserID{user, s.ToUser}}
		}
	}
	cv := f.convs[s.Conversation]
	seq := uint64(len(cv.messages) + 1)
	if f.end != nil {
		if typ := f.end(seq); typ != 0 {
			if typ == frame.Error {
				c.send(packet.AppendError(nil, 0, false, code.New(code.Draining), id.ConversationID{}))
			} else {
				c.send(frame.Append(nil, typ, 0, 0, nil))
			}
			return false
		}
	}
	if f.mute != nil && f.mute(seq) {
		return true
	}
	if cv.blocked != 0 && (fr.Flags&frame.FlagResend == 0 || fr.ReqID > cv.blocked) {
		c.send(packet.AppendError(nil, fr.ReqID, true, code.New(code.LaneBlocked), s.Conversation))
		return true
	}
	cv.blocked = 0
	if f.refuse != nil {
		if k := f.refuse(seq); k != 0 {
			if f.lanes {
				cv.blocked = fr.ReqID
			}
			c.send(packet.AppendError(nil, fr.ReqID, true, code.New(k), s.Conversation))
			return true
		}
	}
	for _, m := range cv.messages { // what was sent again may overtake what was sent on a connection that is gone
		if v, _, err := packet.NextMessage(m); err == nil && v.ClientMsgID == s.ClientMsgID {
			c.send(packet.AppendSendAck(nil, fr.ReqID, packet.Ack{Conversation: s.Conversation, Seq: v.Seq, MessageID: v.ID, Duplicate: true}, named))
			return true
		}
	}
	message := packet.AppendMessage(nil, seq, id.MessageID(seq), user, s.Tail)
	kept := append([]byte(nil), message...)
	if f.stored != nil && !f.stored(seq, kept[len(kept)-len(s.Tail):]) {
		kept = nil
	}
	cv.messages = append(cv.messages, kept)
	told := seq
	if f.moveAck != nil {
		told = f.moveAck(seq)
	}
	c.send(packet.AppendSendAck(nil, fr.ReqID, packet.Ack{Conversation: s.Conversation, Seq: told, MessageID: id.MessageID(seq)}, named))
	if s.Conversation.Kind() == id.KindRoom {
		f.toRoom(user, s.Conversation, seq, message)
		return true
	}
	if s.Conversation.Kind() == id.KindGroup {
		f.toGroup(user, s.Conversation, seq, message)
		return true
	}
	peer := f.users[cv.users[1]]
	times := 1
	if f.deliver != nil {
		times = f.deliver(seq)
	}
	if f.hint != nil && f.hint(seq) {
		times = 0
		out, _ := packet.AppendBody(nil, frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: s.Conversation[:], Seq: seq}}})
		peer.send(out)
	}
	for range times {
		peer.send(packet.AppendDeliver(nil, s.Conversation, cv.users, message))
	}
	return true
}

func (f *fake) sync(c *fakeConn, fr *frame.Frame) {
	m, err := packet.DecodeSync(fr.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.syncs++
	if f.refuseSync != nil {
		if k := f.refuseSync(f.syncs); k != 0 {
			c.send(packet.AppendError(nil, fr.ReqID, true, code.New(k), id.ConversationID{}))
			return
		}
	}
	r := m.Ranges[0]
	conv := id.ConversationID(r.ConversationId)
	cv := f.convs[conv]
	head := uint64(len(cv.messages))
	parts := 1
	if f.parts {
		parts = 2
	}
	for from := r.FromSeq; parts > 0; parts-- {
		to := min(head, from+fakePage-1)
		p := packet.Page{Conversation: conv, Users: direct(conv, cv.users), FromSeq: from, ToSeq: to, FirstSeq: 1, LastSeq: head}
		for s := from; s <= to; s++ {
			p.Messages = append(p.Messages, cv.messages[s-1]...)
		}
		c.send(packet.AppendSynced(nil, fr.ReqID, parts > 1, &p, nil))
		from = to + 1
	}
}
