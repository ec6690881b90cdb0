package tcp_test

import (
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func idOf(u string) id.UserID { return id.UserID(u) }

// deliverTo returns a DELIVER of one message with a text.
func deliverTo(user, text string) []byte {
	mid := conntest.MsgID(1)
	tail, err := (&wire.Message{ClientMsgId: mid[:], MsgType: 1, Content: text}).Marshal(nil)
	if err != nil {
		panic(err)
	}
	conv := conntest.Direct(user, "server")
	return packet.AppendDeliver(nil, conv, nil, packet.AppendMessage(nil, 1, 1, id.UserID(user), tail))
}
