package conn_test

import (
	"testing"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// unlaned refuses the next SEND without holding back what follows.
type unlaned struct {
	*conntest.Services
	next *code.Error
	last packet.Pending
}

func (u *unlaned) Send(batch []packet.Pending) {
	u.last = batch[len(batch)-1]
	if err := u.next; err != nil {
		u.next = nil
		for i := range batch {
			batch[i].Unlaned = true
			batch[i].Reply.Refused(&batch[i], err)
		}
		return
	}
	u.Services.Send(batch)
}

// What a service that keeps no lanes refuses for now holds back what follows in its lane, and
// nothing else, until it is sent again; what it refuses for good doesn't.
func TestUnlaned(t *testing.T) {
	b := newBench(t, conn.Config{})
	u := &unlaned{Services: b.svc}
	svc := b.svc.For()
	svc.Conversations = u
	e, err := conn.NewEdge(conn.Config{}, svc, b.host)
	if err != nil {
		t.Fatal(err)
	}
	b.edge = e
	p := b.login("alice", "d")
	step := func(in []byte, want ...string) {
		t.Helper()
		p.C.Input(in)
		b.host.Flush()
		b.expect(p, want...)
	}
	step(conntest.Send(1, 0, "bob", 1, "one"), "SENDACK #1 seq 1")
	u.next = code.New(code.Overloaded)
	step(conntest.Send(2, 0, "bob", 2, "two"), "ERROR #2 overloaded lane")
	three := u.last
	three.ClientMsgID = conntest.MsgID(3)
	if !p.C.Shut(&three) {
		t.Error("what had passed before isn't held back")
	}
	step(conntest.Send(3, 0, "bob", 3, "three"), "ERROR #3 lane_blocked lane")
	step(conntest.Send(4, 0, "cay", 4, "another lane"), "SENDACK #4 seq 1")
	step(conntest.Send(5, frame.FlagResend, "bob", 2, "two"), "SENDACK #5 seq 2")
	if p.C.Shut(&three) {
		t.Error("the lane is shut still")
	}
	step(conntest.Send(6, frame.FlagResend, "bob", 3, "three"), "SENDACK #6 seq 3")
	u.next = code.New(code.NoSuchUser)
	step(conntest.Send(7, 0, "bob", 7, "seven"), "ERROR #7 no_such_user")
	step(conntest.Send(8, 0, "bob", 8, "eight"), "SENDACK #8 seq 4")
}
