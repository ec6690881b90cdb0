package timeline

import (
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestAppendAndResend(t *testing.T) {
	store := newMemory(t)
	conv := id.Direct("alice", "bob")
	create(t, store, conv, nowMs())
	s, _ := start(t, config(store))
	a := newSender("alice", 1)
	var batch []packet.Pending
	now := nowMs()
	for i := range 40 {
		batch = append(batch, a.text(id.NewClientMsgID(now), fmt.Sprint("hello ", i)))
	}
	first, again := batch[0], resend(batch[7])
	s.Append(conv, batch)
	for i, got := range a.hear(t, 40) {
		if want := fmt.Sprintf("%d:seq=%d", i+1, i+1); got.String() != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	s.Append(conv, []packet.Pending{again})
	a.expect(t, "8:dup=8")
	other := a.text(first.ClientMsgID, "something else")
	s.Append(conv, []packet.Pending{other})
	a.expect(t, "41:id_conflict")
	if n := len(messages(t, store, conv)); n != 40 {
		t.Fatalf("%d messages stored", n)
	}
}
