package fanout

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestPassage(t *testing.T) {
	p := NewPassage(4)
	fail := errors.New("not now")
	h := p.Handler(func(_ context.Context, evs []bus.Event) error {
		if evs[0].Epoch == 0 {
			return fail
		}
		return nil
	})
	conv := func(i int) id.ConversationID { return id.Self(id.UserID(fmt.Sprint("u", i))) }
	bring := func(i int, epoch, seq uint64) error {
		return h(t.Context(), []bus.Event{{Conversation: conv(i), Epoch: epoch, FirstSeq: 1, LastSeq: seq}})
	}
	expect := func(i int, epoch, seq uint64, want bool) {
		t.Helper()
		if got := p.Passed(conv(i), epoch, seq); got != want {
			t.Errorf("message %d of epoch %d of conversation %d has passed: %v", seq, epoch, i, got)
		}
	}
	if err := bring(0, 0, 5); !errors.Is(err, fail) {
		t.Errorf("%v", err)
	}
	expect(0, 0, 5, false) // it will come again
	for i := range 4 {
		if err := bring(i, 2, 5); err != nil {
			t.Fatal(err)
		}
	}
	if err := bring(0, 2, 3); err != nil { // out of order, or again
		t.Fatal(err)
	}
	expect(0, 2, 4, true)
	expect(0, 2, 5, true)
	expect(0, 2, 6, false)
	expect(0, 3, 1, false)
	expect(0, 1, 9, true)
	expect(9, 2, 1, false)
	for i := 4; i < 8; i++ {
		if err := bring(i, 2, 1); err != nil {
			t.Fatal(err)
		}
	}
	expect(0, 2, 5, true) // four others since
	expect(7, 2, 1, true)
	if err := bring(8, 2, 1); err != nil {
		t.Fatal(err)
	}
	expect(0, 2, 5, false)
}
