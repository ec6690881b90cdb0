package node

import (
	"context"
	"maps"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/node/logic"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/relay"
	"github.com/gochat-im/gochat/services/session"
)

// lateRooms breaks the circle of hub (has the connections that are in rooms) and methods (bring them in).
type lateRooms struct{ *hub.Rooms }

// enter returns all with those methods that bring a connection into a room or out of it: the edge's part of them. What
// is said from the moment on at which the owner answers reaches the connection, since it is in before it asks.
func (at *lateRooms) enter(all map[packet.Method]conn.Method) map[packet.Method]conn.Method {
	all = maps.Clone(all)
	join, leave := all[packet.MethodRoomJoin], all[packet.MethodRoomLeave]
	all[packet.MethodRoomJoin] = func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
		var r wire.ConversationRequest
		if err := packet.DecodeMethod(packet.MethodRoomJoin, inner, &r); err != nil {
			return nil, err
		}
		conv := id.ConversationID(r.ConversationId)
		if conv.Kind() != id.KindRoom {
			return join(ctx, o, inner) // is refused there
		}
		entered, cerr := at.Seat(conv, o.Conn)
		if cerr != nil {
			return nil, cerr
		}
		body, err := join(ctx, o, inner)
		if err != nil && entered {
			at.Unseat(conv, o.Conn)
		}
		return body, err
	}
	all[packet.MethodRoomLeave] = func(ctx context.Context, o *packet.Origin, inner []byte) (packet.Body, error) {
		var r wire.ConversationRequest
		if err := packet.DecodeMethod(packet.MethodRoomLeave, inner, &r); err != nil {
			return nil, err
		}
		at.Unseat(id.ConversationID(r.ConversationId), o.Conn)
		return leave(ctx, o, inner)
	}
	return all
}

// openRooms makes this edge's way of telling the owners of rooms who is in them.
func (n *Node) openRooms() (err error) {
	c := relay.RoomReportsConfig{Hub: n.edge.Hub, Edge: session.Edge{Worker: n.worker, Start: 1}, Logger: n.log}
	if n.peers != nil {
		c.Edge.Start, c.View, c.Call = n.peers.Self.Start, n.peers.Router, n.peers.tell
	} else {
		c.Keeper = n.logic.Rooms
	}
	n.roomReports, err = relay.NewRoomReports(c)
	return err
}

// halls is where messages of rooms go, and who takes people out of them.
func (n *Node) halls() interface {
	fanout.Rooms
	logic.Ejecter
} {
	if n.peers != nil {
		return n.peers.edges.Rooms()
	}
	return n.edge.Hub.Rooms()
}
