package load

import (
	"slices"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// roomFaults is what a fake server does with rooms: how a message reaches somebody who is in one.
type roomFaults struct {
	to     func(user id.UserID, seq uint64) fate // nil: delivered
	out    func(user id.UserID, seq uint64) code.Code
	change func(seq uint64, message []byte) []byte

	owed map[id.UserID]uint64 // messages that are left out, and of which somebody will be told
}

// fate is what becomes of a copy.
type fate int

const (
	delivered fate = iota
	leftOut        // and the next DELIVER says so
	told           // left out, and a signal says so at once
	dropped        // without a word
	twice
	hinted
	hintedAll // to look at everything
	overtold  // delivered as if one before it had been left out
)

// enter answers ROOM_CREATE and ROOM_JOIN. mu is held.
func (f *fake) enter(c *fakeConn, user id.UserID, request uint32, method packet.Method, inner []byte) {
	var conv id.ConversationID
	if method == packet.MethodRoomCreate {
		req := new(wire.RoomCreateRequest)
		if packet.DecodeMethod(method, inner, req) != nil {
			return
		}
		conv = id.Named(id.KindRoom, req.Name)
		if f.convs[conv] == nil {
			f.convs[conv] = &fakeConv{}
		}
	} else {
		req := new(wire.ConversationRequest)
		if packet.DecodeMethod(method, inner, req) != nil {
			return
		}
		conv = id.ConversationID(req.ConversationId)
		f.convs[conv].users = append(f.convs[conv].users, user)
	}
	out, _ := packet.AppendResponse(nil, request, false, method, &wire.Room{ConversationId: conv[:], Name: "x", LastSeq: uint64(len(f.convs[conv].messages))})
	c.send(out)
}

// toRoom brings a message to those in a room. mu is held.
func (f *fake) toRoom(sender id.UserID, conv id.ConversationID, seq uint64, message []byte) {
	if f.room.owed == nil {
		f.room.owed = map[id.UserID]uint64{}
	}
	if f.room.change != nil {
		message = f.room.change(seq, slices.Clone(message))
	}
	for _, u := range f.convs[conv].users {
		c, owed := f.users[u], f.room.owed[u]
		if u == sender {
			continue
		}
		if f.room.out != nil {
			if why := f.room.out(u, seq); why != 0 {
				c.send(roomNews(conv, &wire.RoomNews{Code: uint32(why)}))
				continue
			}
		}
		become := delivered
		if f.room.to != nil {
			become = f.room.to(u, seq)
		}
		switch become {
		case leftOut:
			f.room.owed[u]++
			continue
		case told:
			c.send(roomNews(conv, &wire.RoomNews{LastSeq: seq, LeftOut: owed + 1}))
			f.room.owed[u] = 0
			continue
		case dropped:
			continue
		case hinted:
			out, _ := packet.AppendBody(nil, frame.Hint, 0, 0, &wire.Hint{Heads: []*wire.ConversationSeq{{ConversationId: conv[:], Seq: seq}}})
			c.send(out)
		case hintedAll:
			out, _ := packet.AppendBody(nil, frame.Hint, 0, 0, &wire.Hint{All: true})
			c.send(out)
		case overtold:
			owed++
		case twice:
			c.send(packet.AppendRoomDeliver(nil, conv, owed, message))
		}
		c.send(packet.AppendRoomDeliver(nil, conv, owed, message))
		f.room.owed[u] = 0
	}
}

func roomNews(conv id.ConversationID, news *wire.RoomNews) []byte {
	data, _ := news.Marshal(nil)
	out, _ := packet.AppendBody(nil, frame.Signal, 0, 0, &wire.Signal{ConversationId: conv[:], Kind: packet.SignalRoom, Data: data})
	return out
}
