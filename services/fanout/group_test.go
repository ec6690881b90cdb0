package fanout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// stays are members of a group with the first and the last seq that each may see.
type stays struct {
	of   map[id.UserID][2]uint64
	fail error
}

func (s *stays) Recipients(_ context.Context, _ id.ConversationID, first, last uint64) (users []id.UserID, to uint64, err error) {
	to = last
	for u, iv := range s.of {
		switch {
		case iv[0] > first:
			to = min(to, iv[0]-1)
		case iv[1] >= first:
			users = append(users, u)
			to = min(to, iv[1])
		}
	}
	return users, to, s.fail
}

func (s *stays) Moves(_ context.Context, _ id.ConversationID, first, last uint64, fn func(seq uint64, joined, left []id.UserID)) (int, bool, error) {
	for seq := first; seq <= last; seq++ {
		var joined, left []id.UserID
		for u, iv := range s.of {
			if iv[0] == seq {
				joined = append(joined, u)
			}
			if iv[1] == seq {
				left = append(left, u)
			}
		}
		if joined != nil || left != nil {
			fn(seq, joined, left)
		}
	}
	return len(s.of), true, s.fail
}

func (s *stays) Size(id.ConversationID) int { return 0 }

func (s *stays) Stays(_ context.Context, _ id.ConversationID, user id.UserID, seq uint64) (bool, error) {
	iv, ok := s.of[user]
	return ok && iv[0] <= seq && iv[1] > seq, s.fail
}

func (s *stays) Has(_ context.Context, _ id.ConversationID, user id.UserID) (bool, int, error) {
	_, in := s.of[user]
	return in, len(s.of), s.fail
}

// Each member is sent the messages of their stay, whatever one event holds, and once.
func TestGroupsGoToThoseWhoWereIn(t *testing.T) {
	w := newWorld()
	group := id.NewGroup()
	w.sessions = map[id.UserID][]uint64{"alice": {1, 2}, "bob": {3}, "carol": {4}}
	in := &stays{of: map[id.UserID][2]uint64{"alice": {1, 100}, "bob": {4, 7}, "carol": {7, 9}}}
	h := w.handler(t, func(c *Config) { c.Groups = in })
	want := func(what string, conn uint64, seqs ...uint64) {
		t.Helper()
		if got := w.take(t, conn); !slices.Equal(got, seqs) {
			t.Errorf("%s: %d was sent %v, want %v", what, conn, got, seqs)
		}
	}
	if err := h.Handle(t.Context(), []bus.Event{event(group, 1, 8, 2)}); err != nil {
		t.Fatal(err)
	}
	want("across stays", 1, 1, 2, 3, 4, 5, 6, 7, 8)
	want("where it came from", 2)
	want("across stays", 3, 4, 5, 6, 7)
	want("across stays", 4, 7, 8)
	if err := h.Handle(t.Context(), []bus.Event{event(group, 6, 10, 0)}); err != nil { // a part of it again
		t.Fatal(err)
	}
	want("again in part", 1, 9, 10)
	want("again in part", 3)
	want("again in part", 4, 9)

	// Who can't be found now is tried again, and nobody is sent anything twice.
	in.fail = errors.New("the store is away")
	if err := h.Handle(t.Context(), []bus.Event{event(group, 11, 12, 0)}); err != nil {
		t.Fatal(err)
	}
	want("nobody found", 1)
	in.fail = nil
	w.stored[group] = stored{1, 12}
	w.take(t, 2)
	h.Heal(t.Context())
	want("found after all", 1, 11, 12)
	want("found after all", 2, 11, 12)
	h.Heal(t.Context())
	want("once", 1)
}

// In a large group nobody is told who is typing.
func TestSignalsOfLargeGroupsAreDropped(t *testing.T) {
	w := newWorld()
	group := id.NewGroup()
	w.sessions["u1"] = []uint64{7}
	h := w.handler(t)
	for n := 499; n <= 501; n++ {
		w.members[group] = nil
		for i := range n {
			w.members[group] = append(w.members[group], id.UserID(fmt.Sprint("u", i)))
		}
		if err := h.Signal(t.Context(), &packet.Origin{User: "u0", Conn: 1}, &wire.Signal{ConversationId: group[:], Kind: 1}); err != nil {
			t.Fatal(err)
		}
		if got := len(w.got[7]) > 0; got != (n <= 500) {
			t.Errorf("%d members: passed on: %v", n, got)
		}
		delete(w.got, 7)
	}
}
