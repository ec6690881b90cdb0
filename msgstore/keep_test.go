package msgstore_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestGoldenKeep(t *testing.T) {
	k := Keys{Keyspace: 0x0102}
	names, bs := []string{"key", "for ever", "thirty days", "messages", "both"}, map[string][]byte{"key": k.Keep(nil, conv)}
	for name, keep := range map[string]Keep{
		"for ever":    {Set: 1706284800000},
		"thirty days": {Age: 30 * 24 * time.Hour, Set: 1706284800000},
		"messages":    {Messages: 1000, Set: 1706284800000},
		"both":        {Age: time.Hour, Messages: 1, Set: 1},
	} {
		bs[name] = keep.Append(nil)
		if again, err := ParseKeep(bs[name]); err != nil || again != keep {
			t.Errorf("%s: %+v is read as %+v, %v", name, keep, again, err)
		}
		for n := range bs[name] {
			if _, err := ParseKeep(bs[name][:n]); !errors.Is(err, ErrCorrupt) {
				t.Errorf("%s: the first %d bytes: %v", name, n, err)
			}
		}
	}
	if _, err := ParseKeep([]byte{2, 0, 0, 0}); !errors.Is(err, ErrVersion) {
		t.Errorf("a later version: %v", err)
	}
	if _, err := ParseKeep([]byte{1, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0, 0}); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a time of ages: %v", err)
	}
	golden(t, "keep.golden", names, bs)
}

// keeping is a world with a sweeper, and conversations of 300 messages, a second and a segment each.
type keeping struct {
	*world
	s     *Sweeper
	now   int64
	convs []id.ConversationID
}

func newKeeping(t *testing.T, n int) *keeping {
	k := &keeping{world: newWorld(t)}
	for i := range n {
		c := id.Named(id.KindGroup, fmt.Sprint("g", i))
		k.convs = append(k.convs, c)
		k.create(c)
		k.ms = testNow
		for range 300 {
			k.append(c, "x")
			k.ms += 1000 - 1
		}
	}
	k.hand(k.convs...)
	k.now = int64(testNow) + 300*1000
	k.restart()
	return k
}

func (k *keeping) restart() {
	k.s = NewSweeper(SweeperConfig{Store: k.Store, Keys: k.keys, Logger: quiet, Now: func() int64 { return k.now }})
}

func (k *keeping) sweep(r Retention) (n int) {
	k.Helper()
	for {
		m, done, err := k.s.SweepOld(ctx, r, 2)
		k.must(err)
		if n += m; done {
			return n
		}
	}
}

// A conversation's own retention counts in the place of what holds for its kind, by age, by
// number, by both or for ever, until it is taken back.
func TestKeep(t *testing.T) {
	w := newKeeping(t, 5)
	for i, k := range []*Keep{nil, {}, {Age: 100 * time.Second}, {Messages: 40}, {Age: 200 * time.Second, Messages: 260}} {
		w.must(w.SetKeep(ctx, w.convs[i], k))
	}
	firsts := func(want ...uint64) {
		t.Helper()
		for i, c := range w.convs {
			if h := w.first(c); h.FirstSeq != want[i] || h.LastSeq != 300 {
				t.Errorf("conversation %d holds %d to %d, want from %d on", i, h.FirstSeq, h.LastSeq, want[i])
			}
		}
	}
	w.sweep(Retention{})
	firsts(1, 1, 201, 261, 101)
	w.sweep(Retention{Group: 50 * time.Second})
	firsts(251, 1, 201, 261, 101)
	// The smaller of the two counts.
	w.must(w.SetKeep(ctx, w.convs[4], &Keep{Age: 200 * time.Second, Messages: 60}))
	w.must(w.SetKeep(ctx, w.convs[2], nil))
	w.must(w.SetKeep(ctx, w.convs[2], nil))
	w.sweep(Retention{Group: 50 * time.Second})
	firsts(251, 1, 251, 261, 241)
	if k, raw, err := w.Keep(ctx, w.convs[4]); err != nil || raw == nil || k.Messages != 60 {
		t.Errorf("reads back %+v, %v", k, err)
	}
	w.audit()
}

// What tells of messages that are gone goes with them, and what a crash left of that with
// the first pass after it; the audit names it until then.
func TestWhatTellsOfGoneMessagesGoes(t *testing.T) {
	w := newKeeping(t, 2)
	mentions := NewMentions(w.Store, w.keys)
	c, other := w.convs[0], w.convs[1]
	users := []id.UserID{""}
	for i := range 20 {
		users = append(users, id.UserID(fmt.Sprintf("u%d", i)), id.UserID(fmt.Sprintf("u%d-", i)))
	}
	w.commit(func(tx *kv.Tx) {
		for _, conv := range w.convs {
			for seq := uint64(1); seq <= 300; seq += 7 {
				for _, u := range users {
					mentions.Put(tx, conv, u, seq)
				}
				tx.Set(w.keys.MemberList(nil, conv, seq), AppendMemberList(nil, []id.UserID{"a"}))
			}
		}
	})
	rows := func(c id.ConversationID, first uint64) {
		t.Helper()
		want := int((300-1)/7 + 1 - (first-1+6)/7)
		for _, u := range users {
			seqs, err := mentions.Scan(ctx, c, u, 1, 300, 1000)
			w.must(err)
			if len(seqs) != want {
				t.Errorf("%d mentions of %q are left, want %d", len(seqs), u, want)
				return
			}
		}
		n := 0
		lists := w.keys.MemberList(nil, c, 0)
		w.must(w.Store.Scan(ctx, kv.Span{Start: lists, End: w.keys.MemberList(nil, c, 301)}, func(_, _ []byte) (bool, error) { n++; return true, nil }))
		if n != want {
			t.Errorf("%d lists are left, want %d", n, want)
		}
	}
	w.must(w.SetKeep(ctx, c, &Keep{Messages: 100}))
	w.sweep(Retention{})
	rows(c, 201)
	rows(other, 1)
	w.audit()
	// A crash behind the last message that went.
	w.commit(func(tx *kv.Tx) {
		h, raw, err := w.Head(ctx, other)
		w.must(err)
		_, err = w.Trim(ctx, tx, other, raw, &h, 101, 1000)
		w.must(err)
	})
	found := map[Severity]int{}
	w.must(Check(ctx, w.Store, w.keys, func(f Finding) {
		if strings.Contains(f.String(), "which is gone") {
			found[f.Severity]++
		}
	}))
	if want := 15 * (len(users) + 1); found[Warning] != want || found[Error] != 0 {
		t.Errorf("the audit finds %v rows, want %d", found, want)
	}
	w.sweep(Retention{}) // of a process that goes on: nothing went in this pass
	rows(other, 1)
	w.restart()
	w.sweep(Retention{})
	rows(other, 101)
	w.audit()
}
