package msgstore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Several sweepers divide a store by its slots: each does its own, all of them everything.
func TestSweepersDivide(t *testing.T) {
	w := newWorld(t)
	var convs []id.ConversationID
	for i := range 60 {
		c := id.Self(id.UserID(fmt.Sprint("user", i)))
		convs = append(convs, c)
		w.create(c)
		w.append(c, "old")
		w.append(c, "old too")
		w.hand(c)
	}
	shares := []func(id.Slot) bool{
		func(s id.Slot) bool { return s%3 == 0 },
		func(s id.Slot) bool { return s >= 2048 && s%3 != 0 },
		func(s id.Slot) bool { return s < 2048 && s%3 != 0 },
		func(id.Slot) bool { return false },
	}
	later := w.ms + time.Hour.Milliseconds()
	r := Retention{Self: time.Minute}
	for i, mine := range shares {
		s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, Mine: mine, Logger: quiet, Now: func() int64 { return later }})
		all := func(what string, step func() (done bool, err error)) {
			t.Helper()
			for calls := 0; ; calls++ {
				done, err := step()
				w.must(err)
				if done {
					return
				}
				if calls > 5000 {
					t.Fatalf("%s doesn't end", what)
				}
			}
		}
		var messages int
		all("ids", func() (bool, error) {
			_, done, err := s.SweepIDs(ctx, later, 7)
			return done, err
		})
		all("old messages", func() (bool, error) {
			n, done, err := s.SweepOld(ctx, r, 7)
			messages += n
			return done, err
		})
		all("small segments", func() (bool, error) {
			_, done, err := s.SweepSmall(ctx, 0, later, 7)
			return done, err
		})
		all("sides", func() (bool, error) {
			_, done, err := s.SweepSides(ctx, later, 500)
			return done, err
		})
		want := 0
		for _, c := range convs {
			done := slices.ContainsFunc(shares[:i+1], func(mine func(id.Slot) bool) bool { return mine(c.Slot()) })
			if mine(c.Slot()) {
				want += 2
			}
			h, _, err := w.Head(ctx, c)
			w.must(err)
			if (w.idRows(c) == 0) != done || (h.FirstSeq == 3) != done {
				t.Errorf("sweeper %d: slot %d has %d rows of ids, first message %d", i, c.Slot(), w.idRows(c), h.FirstSeq)
			}
		}
		if messages != want {
			t.Errorf("sweeper %d removed %d messages, want %d", i, messages, want)
		}
	}
	w.audit()
}

// What a sweeper left half done when it died is found by the one that has its slots next.
func TestSweeperGainsSlots(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	for range 3 {
		w.append(conv, "x")
	}
	have := id.Slot(0)
	for have == conv.Slot() {
		have++
	}
	s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, Logger: quiet, Now: func() int64 { return w.ms }, Mine: func(s id.Slot) bool { return s == have }})
	pass := func() {
		t.Helper()
		for done := false; !done; {
			var err error
			_, done, err = s.SweepOld(ctx, Retention{}, 100)
			w.must(err)
		}
	}
	pass()
	h, raw, err := w.Head(ctx, conv)
	w.must(err)
	w.commit(func(tx *kv.Tx) {
		_, err := w.Trim(ctx, tx, conv, raw, &h, 3, 10)
		w.must(err)
		NewMentions(w.Store, w.keys).Put(tx, conv, "bob", 1)
	})
	mentions := func() (n int) {
		prefix := w.keys.Mentions(nil, conv, "bob")
		w.must(w.Scan(ctx, kv.Span{Start: prefix, End: append(slices.Clone(prefix), 0xff)}, func(_, _ []byte) (bool, error) { n++; return true, nil }))
		return n
	}
	pass()
	if mentions() != 1 {
		t.Fatal("somebody else's slot was swept")
	}
	have = conv.Slot()
	pass()
	if mentions() != 0 {
		t.Error("a mention of a message that is gone is left")
	}
}

// Marks that nobody looks after are handed on, by whoever has their slot.
func TestSweepMarks(t *testing.T) {
	w := newWorld(t)
	var convs []id.ConversationID
	mark := func(c id.ConversationID, since int64) {
		m := OutboxMark{Since: since, FromSeq: 1}
		w.commit(func(tx *kv.Tx) { tx.SetFunc(w.keys.OutboxMark(nil, c), m.Append) })
	}
	for i := range 600 {
		c := id.Self(id.UserID(fmt.Sprint("user", i)))
		convs = append(convs, c)
		since := int64(1000 + i%2*1000)
		mark(c, since)
	}
	var got []id.ConversationID
	var fail error
	s := NewSweeper(SweeperConfig{
		Store: w.Store, Keys: w.keys, Logger: quiet, Mine: func(s id.Slot) bool { return s >= 100 },
		HandOn: func(_ context.Context, convs []id.ConversationID) error {
			if fail != nil {
				return fail
			}
			got = append(got, convs...)
			return nil
		},
	})
	fail = errors.New("no bus")
	if _, _, err := s.SweepMarks(ctx, 1500, 5000); !errors.Is(err, fail) {
		t.Errorf("%v", err)
	}
	fail = nil
	total, calls := 0, 0
	for done := false; !done; calls++ {
		n, d, err := s.SweepMarks(ctx, 1500, 1000)
		w.must(err)
		total, done = total+n, d
	}
	want := 0
	for i, c := range convs {
		if i%2 == 0 && c.Slot() >= 100 {
			want++
			if n := len(slices.DeleteFunc(slices.Clone(got), func(x id.ConversationID) bool { return x != c })); n != 1 {
				t.Errorf("%s was handed on %d times", c, n)
			}
		}
	}
	if total != want || len(got) != want || calls != 4 {
		t.Errorf("%d of %d handed on in %d calls", total, want, calls)
	}
}

// A shorter retention has a pass begin at once.
func TestRetentionChanges(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	w.append(conv, "x")
	w.hand(conv)
	later := w.ms + (2 * time.Hour).Milliseconds()
	s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, Logger: quiet, Now: func() int64 { return later }})
	run, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(run) }()
	s.SetRetention(Retention{Direct: time.Hour, Group: time.Hour, Self: time.Hour, Room: time.Hour})
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		h, _, err := w.Head(ctx, conv)
		w.must(err)
		if h.FirstSeq > h.LastSeq {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("after 2 minutes there are messages %d to %d", h.FirstSeq, h.LastSeq)
		}
	}
	stop()
	w.must(<-ended)
}
