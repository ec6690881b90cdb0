package msgstore

import (
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestSweepSides(t *testing.T) {
	store := memory.New(memory.Config{})
	defer store.Close()
	k := Keys{Keyspace: 3}
	inbox, members := NewInbox(store, k), NewMembers(store, k)
	group, dm := id.NewGroup(), id.Direct("gone", "in")
	tx := new(kv.Tx)
	NewTimeline(store, k).Create(tx, group, 1)
	for u, ivs := range map[id.UserID][]Interval{"in": {{Joined: 1}}, "gone": {{Joined: 1, Left: 7}}, "late": {{Joined: 1, Left: 9}}} {
		members.Put(tx, group, u, &Member{Intervals: ivs})
	}
	for u, side := range map[id.UserID]UserSide{
		"in": {Changed: 10}, "gone": {Changed: 10, Pinned: true, AsOfSeq: 3}, "never": {Changed: 10},
		"late": {Changed: 500}, // is being brought in again, maybe
		"past": {Changed: 10, Tombstone: true},
	} {
		inbox.Put(tx, u, group, &side)
	}
	inbox.Put(tx, "gone", dm, &UserSide{Changed: 10})
	store.Commit(t.Context(), tx)
	if tx.Err != nil {
		t.Fatal(tx.Err)
	}
	s := NewSweeper(SweeperConfig{Store: store, Keys: k, Now: func() int64 { return 1000 }})
	changed, calls := 0, 0
	for done := false; !done; calls++ {
		var n int
		var err error
		if n, done, err = s.SweepSides(t.Context(), 500, 1000); err != nil {
			t.Fatal(err)
		}
		changed += n
	}
	if changed != 2 || calls != 5 {
		t.Errorf("%d rows changed in %d calls", changed, calls)
	}
	for u, want := range map[id.UserID]*UserSide{
		"in": {Changed: 10}, "gone": {Changed: 1000, Pinned: true, AsOfSeq: 7, Tombstone: true}, "never": nil,
		"late": {Changed: 500}, "past": {Changed: 10, Tombstone: true},
	} {
		row, raw, err := inbox.Get(t.Context(), u, group)
		if err != nil || (raw == nil) != (want == nil) || want != nil && row != *want {
			t.Errorf("%s: %+v, %v; want %+v", u, row, err, want)
		}
	}
	if _, raw, err := inbox.Get(t.Context(), "gone", dm); err != nil || raw == nil {
		t.Errorf("a direct conversation was touched: %v", err)
	}
}
