package load

import (
	"slices"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// groupFaults is what a fake server does wrong with groups, and what it may choose.
type groupFaults struct {
	refuse  func(n int) code.Code                       // requests, by their count
	leftOut []*wire.GroupRefusal                        // in the answers
	copies  func(user id.UserID, seq uint64) int        // how often a member gets a message; nil: once
	tell    func(user id.UserID, seq uint64) bool       // a HINT besides
	cut     func(user id.UserID, seq uint64) frame.Type // how a member's connection is ended; 0: it isn't
	own     bool                                        // senders get copies of what they sent
	change  func(seq uint64, message []byte) []byte     // what members are shown instead

	requests int
}

// direct returns the users that frames about a conversation name.
func direct(conv id.ConversationID, users []id.UserID) []id.UserID {
	if conv.Kind() == id.KindGroup {
		return nil
	}
	return users
}

// request makes groups and brings people in. Each change is a message of the timeline.
func (f *fake) request(c *fakeConn, user id.UserID, fr *frame.Frame) {
	if f.answers != nil {
		f.answers(c, fr)
		return
	}
	method, inner, err := packet.DecodeRequest(fr.Body)
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.group.requests++
	if f.group.refuse != nil {
		if k := f.group.refuse(f.group.requests); k != 0 {
			e := code.New(k)
			e.RetryAfter = time.Millisecond
			c.send(packet.AppendError(nil, fr.ReqID, true, e, id.ConversationID{}))
			return
		}
	}
	var conv id.ConversationID
	var users []string
	switch method {
	case packet.MethodRoomCreate, packet.MethodRoomJoin:
		f.enter(c, user, fr.ReqID, method, inner)
		return
	case packet.MethodGroupCreate:
		req := new(wire.GroupCreateRequest)
		if packet.DecodeMethod(method, inner, req) != nil {
			return
		}
		conv, users = id.Named(id.KindGroup, req.Key), req.UserIds
		if f.convs[conv] == nil {
			f.convs[conv] = &fakeConv{users: []id.UserID{user}}
		}
	case packet.MethodGroupAdd:
		req := new(wire.GroupUsersRequest)
		if packet.DecodeMethod(method, inner, req) != nil {
			return
		}
		conv, users = id.ConversationID(req.ConversationId), req.UserIds
	default:
		return
	}
	cv := f.convs[conv]
	for _, u := range users {
		if !slices.Contains(cv.users, id.UserID(u)) {
			cv.users = append(cv.users, id.UserID(u))
		}
	}
	seq := uint64(len(cv.messages) + 1)
	message := packet.AppendMessage(nil, seq, id.MessageID(seq), user, []byte{5 << 3, 64}) // of type 64
	cv.messages = append(cv.messages, message)
	out, _ := packet.AppendResponse(nil, fr.ReqID, false, method,
		&wire.GroupChangeResponse{ConversationId: conv[:], Seq: seq, Changed: uint32(len(users)), Refused: f.group.leftOut})
	for _, u := range cv.users {
		f.users[u].send(packet.AppendDeliver(nil, conv, nil, message))
	}
	c.send(out)
}

// toGroup delivers a message of a group. mu is held.
func (f *fake) toGroup(sender id.UserID, conv id.ConversationID, seq uint64, message []byte) {
	shown := message
	if f.group.change != nil {
		shown = f.group.change(seq, append([]byte(nil), message...))
	}
	for _, u := range f.convs[conv].users {
		c := f.users[u]
		if f.group.cut != nil {
			if typ := f.group.cut(u, seq); typ != 0 {
				if typ == frame.Error {
					c.send(packet.AppendError(nil, 0, false, code.New(code.TooSlow), id.ConversationID{}))
				}
				c.Close()
				continue
			}
		}
		times := 1
		if u == sender && !f.group.own {
			times = 0
		} else if f.group.copies != nil {
			times = f.group.copies(u, seq)
		}
		for range times {
			c.send(packet.AppendDeliver(nil, conv, nil, shown))
		}
		if f.group.tell != nil && f.group.tell(u, seq) {
			out, _ := packet.AppendBody(nil, frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: seq}}})
			c.send(out)
		}
	}
}
