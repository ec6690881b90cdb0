package msgstore_test

import (
	"strings"
	"testing"
	"time"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

func TestOldMessagesGo(t *testing.T) {
	w := newWorld(t)
	convs := []id.ConversationID{conv, group, id.Self("alice")}
	const messages = 300 // a segment each, more than one transaction removes
	for _, c := range convs {
		w.create(c)
		w.ms = testNow
		for range messages {
			w.append(c, "x")
			w.ms += 1000 - 1
		}
	}
	now := int64(testNow) + 200*1000 + time.Hour.Milliseconds()
	s := NewSweeper(SweeperConfig{Store: w.Store, Keys: w.keys, Logger: quiet, Now: func() int64 { return now }})
	sweep := func(r Retention) (n int) {
		t.Helper()
		for {
			k, done, err := s.SweepOld(ctx, r, 1)
			w.must(err)
			if n += k; done {
				return n
			}
		}
	}
	if n := sweep(Retention{}); n != 0 {
		t.Errorf("%d messages removed though they are kept for ever", n)
	}
	w.hand(conv, group)
	if n := sweep(Retention{Direct: time.Hour}); n != 200 {
		t.Errorf("%d messages removed, want 200", n)
	}
	for c, first := range map[id.ConversationID]uint64{conv: 201, group: 1, id.Self("alice"): 1} {
		if h := w.first(c); h.FirstSeq != first || h.LastSeq != messages {
			t.Errorf("%s holds %d to %d, want from %d on", c, h.FirstSeq, h.LastSeq, first)
		}
	}
	if n := sweep(Retention{Direct: time.Hour}); n != 0 {
		t.Errorf("%d messages removed by the next pass", n)
	}
	// All of them: the head and its seqs stay, the preview goes.
	now += 24 * time.Hour.Milliseconds()
	if n := sweep(Retention{Direct: time.Hour, Group: time.Hour}); n != 400 {
		t.Errorf("%d messages removed, want 400", n)
	}
	if h := w.first(group); h.FirstSeq != messages+1 || h.LastSeq != messages || h.PreviewSeq != 0 || len(h.PreviewText) != 0 {
		t.Errorf("an emptied conversation has the head %+v", h)
	}
	w.append(group, "and on")
	if h := w.first(group); h.LastSeq != messages+1 {
		t.Errorf("the next message is %d", h.LastSeq)
	}
	// What the bus hasn't taken stays, however old.
	if n := sweep(Retention{Self: time.Hour}); n != 0 {
		t.Errorf("%d messages removed before they were handed on", n)
	}
	w.audit()
}

func (w *world) first(c id.ConversationID) Head {
	w.Helper()
	h, _, err := w.Head(ctx, c)
	w.must(err)
	return h
}

// hand notes that the bus has taken all messages.
func (w *world) hand(cs ...id.ConversationID) {
	w.Helper()
	for _, c := range cs {
		h, raw, err := w.Head(ctx, c)
		w.must(err)
		h.HandedSeq = h.LastSeq
		w.commit(func(tx *kv.Tx) { w.Append(tx, c, raw, &h, nil, nil) })
	}
}

func TestRetentionIsByKind(t *testing.T) {
	r := Retention{Direct: 1, Group: 2, Self: 3, Room: 4}
	var got strings.Builder
	for k := range id.Kind(6) {
		got.WriteByte('0' + byte(r.Of(k)))
	}
	if got.String() != "012340" {
		t.Errorf("by kind: %s", got.String())
	}
}
