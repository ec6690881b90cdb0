package msgstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var ctx = context.Background()

const testNow = 1_750_000_000_000

// world is a store with helpers that end the test on errors.
type world struct {
	testing.TB
	kv.Store
	keys Keys
	*Timeline
	ms    int64 // of the next message
	count byte
}

func newWorld(t testing.TB) *world {
	w := &world{TB: t, Store: memory.New(memory.Config{Pause: func() {}}), keys: Keys{Keyspace: 1}, ms: testNow}
	w.Timeline = NewTimeline(w.Store, w.keys)
	_, err := OpenMeta(ctx, w.Store, w.keys, testNow)
	w.must(err)
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) commit(fill func(tx *kv.Tx)) {
	w.Helper()
	var tx kv.Tx
	fill(&tx)
	w.Commit(ctx, &tx)
	w.must(tx.Err)
}

func (w *world) create(c id.ConversationID) {
	w.Helper()
	w.commit(func(tx *kv.Tx) { w.Create(tx, c, testNow) })
}

// cid returns an id made at ms, another one each time.
func (w *world) cid(ms int64) id.ClientMsgID {
	w.count++
	c := id.ClientMsgID{byte(ms >> 40), byte(ms >> 32), byte(ms >> 24), byte(ms >> 16), byte(ms >> 8), byte(ms), 0x70, w.count, 0x80}
	return c
}

// append stores one append of messages with these contents, sent by alice.
func (w *world) append(c id.ConversationID, contents ...string) {
	w.Helper()
	w.commit(func(tx *kv.Tx) { w.appendTx(tx, c, contents...) })
}

func (w *world) appendTx(tx *kv.Tx, c id.ConversationID, contents ...string) {
	w.Helper()
	h, raw, err := w.Head(ctx, c)
	w.must(err)
	var segs SegmentBuilder
	var ids IDBuilder
	segs.Reset(h.LastSeq+1, h.Countable)
	var buf []byte
	first := h.LastSeq + 1
	for _, content := range contents {
		cid := w.cid(w.ms)
		seq := h.LastSeq + 1
		n := len(buf)
		buf = packet.AppendMessage(buf, seq, id.MakeMessageID(w.ms, 0, uint32(w.count)), "alice", makeTail(cid, 1, []byte(content)))
		segs.Add(len(buf)-n, true)
		ids.Add(w.ms, IDEntry{Hash: IDHash("alice", cid), Seq: seq, Body: 1})
		h.LastSeq, h.LastTime, h.IDMax = seq, w.ms, max(h.IDMax, w.ms)
		w.ms++
	}
	h.Countable = segs.Countable()
	w.Append(tx, c, raw, &h, segs.Segments(buf), ids.Rows())
	ref := BusRef{Conversation: c, Epoch: testNow, FirstSeq: first, Count: uint32(len(contents))}
	tx.SetStamped(w.keys.BusRefs(nil, 0), ref.Append(nil))
}

// contents are those of messages, joined by spaces.
func (w *world) contents(messages []byte) string {
	w.Helper()
	var out []string
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		w.must(err)
		out = append(out, fmt.Sprintf("%d:%.8s", v.Seq, v.Content))
		messages = rest
	}
	return strings.Join(out, " ")
}

func TestCreateOnce(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	var tx kv.Tx
	w.Create(&tx, conv, testNow)
	w.Commit(ctx, &tx)
	if !errors.Is(tx.Err, kv.ErrConflict) {
		t.Errorf("created twice: %v", tx.Err)
	}
	h, raw, err := w.Head(ctx, conv)
	if err != nil || !h.Exists() || raw == nil || h.LastSeq != 0 || h.FirstSeq != 1 || h.LastTime != testNow {
		t.Errorf("head %+v, %v", h, err)
	}
	h, raw, err = w.Head(ctx, group)
	if err != nil || h.Exists() || raw != nil {
		t.Errorf("head of what does not exist: %+v, %v", h, err)
	}
	for _, c := range []id.ConversationID{conv, group} {
		if ms, first, last, err := w.Range(ctx, c, 0, math.MaxUint64, 0, 0); err != nil || ms != nil || first != 1 || last != 0 {
			t.Errorf("range of nothing: %x %d %d %v", ms, first, last, err)
		}
		if ms, first, last, err := w.Before(ctx, c, 0, 0, 0); err != nil || ms != nil || first != 1 || last != 0 {
			t.Errorf("page of nothing: %x %d %d %v", ms, first, last, err)
		}
	}
}

// An append over a head that is not the stored one conflicts and leaves nothing behind.
func TestAppendFence(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	var late kv.Tx
	w.appendTx(&late, conv, "late")
	w.append(conv, "first")
	w.Commit(ctx, &late)
	if !errors.Is(late.Err, kv.ErrConflict) {
		t.Fatalf("stale append: %v", late.Err)
	}
	ms, _, _, err := w.Range(ctx, conv, 1, 9, 0, 0)
	if err != nil || w.contents(ms) != "1:first" {
		t.Errorf("%s, %v", w.contents(ms), err)
	}
}

func TestSegmentBuilder(t *testing.T) {
	var b SegmentBuilder
	for _, c := range []struct {
		name  string
		sizes []int
		want  string // count and bytes of each
	}{
		{"nothing", nil, ""},
		{"one", []int{10}, "1/10"},
		{"exactly full", []int{MaxSegmentBytes - 10, 10}, fmt.Sprintf("2/%d", MaxSegmentBytes)},
		{"one byte too many", []int{MaxSegmentBytes - 10, 11}, fmt.Sprintf("1/%d 1/11", MaxSegmentBytes-10)},
		{"large one alone", []int{5, 60000, 5, 6}, "1/5 1/60000 2/11"},
		{"too many messages", repeat(5, 600), "256/1280 256/1280 88/440"},
	} {
		b.Reset(100, 50)
		total := 0
		for i, n := range c.sizes {
			b.Add(n, i%3 != 0)
			total += n
		}
		var got []string
		next, base := uint64(100), uint64(50)
		i := 0
		for _, s := range b.Segments(make([]byte, total)) {
			got = append(got, fmt.Sprintf("%d/%d", s.Count, len(s.Messages)))
			if s.FirstSeq != next || s.BaseCountable != base {
				t.Errorf("%s: segment of %d, base %d, want %d, %d", c.name, s.FirstSeq, s.BaseCountable, next, base)
			}
			for seq := s.FirstSeq; seq <= s.LastSeq(); seq++ {
				if s.Counts(seq) != (i%3 != 0) {
					t.Errorf("%s: message %d counts: %v", c.name, seq, s.Counts(seq))
				}
				if i%3 != 0 {
					base++
				}
				i++
			}
			next = s.LastSeq() + 1
			row := s.Append(nil)
			if back, err := ParseSegment(row); err != nil || !bytes.Equal(back.Append(nil), row) {
				t.Errorf("%s: row: %v", c.name, err)
			}
		}
		if strings.Join(got, " ") != c.want || b.Countable() != base || next != 100+uint64(len(c.sizes)) {
			t.Errorf("%s: %s, want %s", c.name, strings.Join(got, " "), c.want)
		}
	}
	defer func() {
		if recover() == nil {
			t.Error("messages that were not added were taken")
		}
	}()
	b.Segments([]byte{1})
}

func repeat(v, n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = v
	}
	return s
}

func TestIDBuilder(t *testing.T) {
	var b IDBuilder
	for range 2 {
		b.Reset()
		for i, ms := range []int64{5999, 5000, 9000, 5001, 4999} {
			b.Add(ms, IDEntry{Seq: uint64(i + 1)})
		}
		var got []string
		for _, r := range b.Rows() {
			s := fmt.Sprint(r.Second, ":")
			for _, e := range r.Entries {
				s += fmt.Sprint(e.Seq)
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != "4:5 5:124 9:3" {
			t.Error(s)
		}
	}
}

// Where segments are missing, reads that come there end with ErrCorrupt; reads elsewhere do not mind.
func TestHoles(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	for i := range 5 {
		w.append(conv, fmt.Sprint("a", i), fmt.Sprint("b", i)) // 1-2, 3-4, ... 9-10
	}
	type read struct{ from, to uint64 }
	type back struct {
		before uint64
		limit  int
	}
	for _, c := range []struct {
		missing       uint64 // the segment that ends here
		fine, bad     []read
		fineUp, badUp []back
	}{
		{missing: 2, fine: []read{{3, 10}, {5, 6}}, bad: []read{{1, 10}, {2, 2}, {1, 1}}, fineUp: []back{{11, 8}, {5, 1}}, badUp: []back{{11, 9}, {3, 1}, {0, 0}, {2, 1}}},
		{missing: 6, fine: []read{{7, 10}, {1, 4}}, bad: []read{{1, 5}, {5, 5}, {6, 10}, {1, 10}}, fineUp: []back{{11, 4}, {5, 4}, {0, 2}}, badUp: []back{{11, 5}, {7, 1}, {6, 1}, {8, 2}}},
		{missing: 10, fine: []read{{1, 8}, {7, 8}}, bad: []read{{1, 9}, {9, 9}, {10, 20}, {1, 99}}, fineUp: []back{{9, 8}}, badUp: []back{{11, 1}, {10, 3}, {0, 1}, {50, 0}}},
	} {
		key := w.keys.Segment(nil, conv, c.missing)
		value, err := w.Get(ctx, key)
		w.must(err)
		w.commit(func(tx *kv.Tx) { tx.Delete(key) })
		for _, r := range c.fine {
			if ms, first, last, err := w.Range(ctx, conv, r.from, r.to, 0, 0); err != nil || first != r.from || last != r.to || len(ms) == 0 {
				t.Errorf("without the segment of %d: %d to %d: %d to %d, %v", c.missing, r.from, r.to, first, last, err)
			}
		}
		for _, r := range c.bad {
			if ms, first, last, err := w.Range(ctx, conv, r.from, r.to, 0, 0); !errors.Is(err, ErrCorrupt) || ms != nil || last != first-1 {
				t.Errorf("without the segment of %d: %d to %d: %s, %v", c.missing, r.from, r.to, w.contents(ms), err)
			}
		}
		for _, r := range c.fineUp {
			if ms, _, _, err := w.Before(ctx, conv, r.before, r.limit, 0); err != nil || len(ms) == 0 {
				t.Errorf("without the segment of %d: %d before %d: %v", c.missing, r.limit, r.before, err)
			}
		}
		for _, r := range c.badUp {
			if ms, _, _, err := w.Before(ctx, conv, r.before, r.limit, 0); !errors.Is(err, ErrCorrupt) || ms != nil {
				t.Errorf("without the segment of %d: %d before %d: %s, %v", c.missing, r.limit, r.before, w.contents(ms), err)
			}
		}
		w.commit(func(tx *kv.Tx) { tx.Set(key, value) })
	}
}

// Rows that do not parse, or lie under another key, are typed errors in every read.
func TestDamagedRows(t *testing.T) {
	for name, damage := range map[string]func(w *world, tx *kv.Tx){
		"segment of a later version": func(w *world, tx *kv.Tx) { tx.Set(w.keys.Segment(nil, conv, 2), []byte{9}) },
		"segment cut":                func(w *world, tx *kv.Tx) { tx.Set(w.keys.Segment(nil, conv, 2), []byte{1, 1, 2}) },
		"segment of others": func(w *world, tx *kv.Tx) {
			v, _ := w.Get(ctx, w.keys.Segment(nil, conv, 4))
			tx.Set(w.keys.Segment(nil, conv, 2), v)
		},
		"segment's messages": func(w *world, tx *kv.Tx) {
			s := Segment{FirstSeq: 1, Count: 2, Countable: []byte{3}, Messages: []byte("not what a message is")}
			tx.SetFunc(w.keys.Segment(nil, conv, 2), s.Append)
		},
		"segment's last message": func(w *world, tx *kv.Tx) {
			s := Segment{FirstSeq: 1, Count: 2, Countable: []byte{3}, Messages: []byte{0x42, 0, 0x42, 9, 1}}
			tx.SetFunc(w.keys.Segment(nil, conv, 2), s.Append)
		},
		"segment with more": func(w *world, tx *kv.Tx) {
			s := Segment{FirstSeq: 1, Count: 2, Countable: []byte{3}, Messages: []byte{0x42, 0, 0x42, 0, 0x42, 0}}
			tx.SetFunc(w.keys.Segment(nil, conv, 2), s.Append)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create(conv)
			w.append(conv, "a", "b")
			w.append(conv, "c", "d")
			w.commit(func(tx *kv.Tx) { damage(w, tx) })
			typed := func(what string, err error) {
				if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
					t.Errorf("%s: %v", what, err)
				}
			}
			_, _, _, err := w.Range(ctx, conv, 2, 4, 0, 0)
			typed("range", err)
			_, _, _, err = w.Before(ctx, conv, 5, 3, 0)
			typed("before", err)
			_, _, _, err = w.Before(ctx, conv, 2, 3, 0)
			typed("before", err)
			var tx kv.Tx
			typed("rewrite", w.Rewrite(ctx, &tx, conv, 1, []byte{0x42, 0}, false))
			if name != "segment with more" && name != "segment's last message" {
				_, err = w.Unread(ctx, conv, 0, 4, "bob", 0)
				typed("unread", err)
			}
		})
	}
	w := newWorld(t)
	w.create(conv)
	w.append(conv, "a")
	w.commit(func(tx *kv.Tx) {
		tx.Set(w.keys.Head(nil, conv), []byte{9})
		tx.Set(w.keys.IDs(nil, conv, testNow/1000, 9), []byte{1})
		tx.Set(w.keys.Cursor(nil, conv, "alice"), []byte{9})
		tx.Set(w.keys.Member(nil, conv, "alice"), []byte{1})
		tx.Set(w.keys.UserSide(nil, "alice", conv), []byte{9})
		tx.Set(append(w.keys.UserSide(nil, "bob", conv), 0), (&UserSide{}).Append(nil))
		tx.Set(w.keys.Mention(nil, conv, "alice", 1), []byte{9})
	})
	for what, read := range map[string]func() error{
		"head":    func() error { _, _, err := w.Head(ctx, conv); return err },
		"heads":   func() error { _, err := w.Heads(ctx, []id.ConversationID{group, conv}); return err },
		"range":   func() error { _, _, _, err := w.Range(ctx, conv, 1, 9, 0, 0); return err },
		"ids":     func() error { _, err := w.IDs(ctx, conv, testNow/1000); return err },
		"cursor":  func() error { _, err := cursorOf(w.Store, w.keys, conv, "alice"); return err },
		"member":  func() error { _, _, err := NewMembers(w.Store, w.keys).Get(ctx, conv, "alice"); return err },
		"members": func() error { _, err := NewMembers(w.Store, w.keys).Scan(ctx, conv, "", 0); return err },
		"side":    func() error { _, _, err := NewInbox(w.Store, w.keys).Get(ctx, "alice", conv); return err },
		"sides": func() error {
			_, err := NewInbox(w.Store, w.keys).Scan(ctx, "alice", id.ConversationID{}, 0)
			return err
		},
		"side's key": func() error { _, err := NewInbox(w.Store, w.keys).Scan(ctx, "bob", id.ConversationID{}, 0); return err },
		"leave": func() error {
			_, err := NewInbox(w.Store, w.keys).Leave(new(kv.Tx), "alice", conv, []byte{9}, 1, 1)
			return err
		},
		"mentions": func() error { _, err := NewMentions(w.Store, w.keys).Scan(ctx, conv, "alice", 0, 9, 0); return err },
	} {
		if err := read(); !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.must(w.Store.Close())
	for _, err := range []error{
		func() error { _, _, err := w.Head(ctx, conv); return err }(),
		func() error { _, _, _, err := w.Range(ctx, conv, 1, 2, 0, 0); return err }(),
		func() error { _, _, _, err := w.Before(ctx, conv, 0, 0, 0); return err }(),
		func() error { _, err := w.Unread(ctx, conv, 0, 2, "a", 0); return err }(),
		func() error { _, err := w.CountableAt(ctx, conv, 1); return err }(),
		func() error { _, err := w.Heads(ctx, []id.ConversationID{conv}); return err }(),
		func() error { return Check(ctx, w.Store, w.keys, func(Finding) {}) }(),
	} {
		if !errors.Is(err, kv.ErrClosed) {
			t.Errorf("closed store: %v", err)
		}
	}
}

// A message changed to a larger one splits its segment; all others keep their bytes.
func TestRewriteSplits(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	big := strings.Repeat("x", 3000)
	w.append(conv, big, big, big, big)
	before, _, _, err := w.Range(ctx, conv, 1, 9, 0, 0)
	w.must(err)
	change := func(seq uint64, size int, counts bool) {
		t.Helper()
		element := packet.AppendChanged(nil, seq, id.MakeMessageID(testNow+int64(seq)-1, 0, uint32(seq)), "alice", 9, 0,
			makeTail(w.cid(testNow), 1, bytes.Repeat([]byte("y"), size)))
		w.commit(func(tx *kv.Tx) { w.must(w.Rewrite(ctx, tx, conv, seq, element, counts)) })
	}
	segments := func() (s []string) {
		prefix := w.keys.Segments(nil, conv)
		w.must(w.Scan(ctx, kv.Span{Start: prefix, End: append(bytes.Clone(prefix), 0xFF)}, func(_, v []byte) (bool, error) {
			seg, err := ParseSegment(v)
			w.must(err)
			s = append(s, fmt.Sprintf("%d-%d base %d bits %b", seg.FirstSeq, seg.LastSeq(), seg.BaseCountable, seg.Countable[0]))
			return true, nil
		}))
		return s
	}
	change(2, 10, false) // recalled
	if got := fmt.Sprint(segments()); got != "[1-4 base 0 bits 1101]" {
		t.Error(got)
	}
	change(3, 9300, true)
	if got := fmt.Sprint(segments()); got != "[1-2 base 0 bits 1 3-3 base 2 bits 1 4-4 base 3 bits 1]" {
		t.Error(got)
	}
	change(4, 40000, true)
	after, _, last, err := w.Range(ctx, conv, 1, 9, 0, 0)
	w.must(err)
	if got := w.contents(after); last != 4 || got != "1:xxxxxxxx 2:yyyyyyyy 3:yyyyyyyy 4:yyyyyyyy" {
		t.Error(got)
	}
	if n := len(before) / 4; !bytes.Equal(before[:n], after[:n]) {
		t.Error("an untouched message has other bytes")
	}
	var tx kv.Tx
	for _, seq := range []uint64{5, 99} {
		if err := w.Rewrite(ctx, &tx, conv, seq, []byte{0x42, 0}, true); !errors.Is(err, ErrCorrupt) {
			t.Errorf("rewrite of message %d: %v", seq, err)
		}
	}
	if err := w.Rewrite(ctx, &tx, conv, 1, []byte{0x42, 0, 0}, true); !errors.Is(err, ErrCorrupt) {
		t.Errorf("rewrite by two elements: %v", err)
	}
}

func TestTrimAll(t *testing.T) {
	w := newWorld(t)
	w.create(conv)
	for range 10 {
		w.append(conv, "a", "b")
	}
	trim := func(keep uint64, n int) bool {
		t.Helper()
		h, raw, err := w.Head(ctx, conv)
		w.must(err)
		var tx kv.Tx
		more, err := w.Trim(ctx, &tx, conv, raw, &h, keep, n)
		w.must(err)
		if len(tx.Ops()) == 0 {
			return more
		}
		if !tx.Frees {
			t.Error("retention does not count as freeing")
		}
		w.Commit(ctx, &tx)
		w.must(tx.Err)
		return more
	}
	first := func() uint64 {
		h, _, err := w.Head(ctx, conv)
		w.must(err)
		return h.FirstSeq
	}
	if more := trim(8, 2); !more || first() != 5 {
		t.Errorf("two segments: first %d, more %v", first(), more)
	}
	if more := trim(8, 2); more || first() != 7 {
		t.Errorf("up to 8: first %d, more %v", first(), more)
	}
	if more := trim(8, 2); more || first() != 7 {
		t.Errorf("again: first %d, more %v", first(), more)
	}
	ms, from, last, err := w.Range(ctx, conv, 1, 8, 0, 0)
	if err != nil || from != 1 || last != 8 || w.contents(ms) != "7:a 8:b" {
		t.Errorf("%s, %d to %d, %v", w.contents(ms), from, last, err)
	}
	if ms, from, last, err = w.Range(ctx, conv, 1, 3, 0, 0); err != nil || from != 1 || last != 3 || ms != nil {
		t.Errorf("trimmed: %s, %d to %d, %v", w.contents(ms), from, last, err)
	}
	trim(math.MaxUint64, 100)
	if first() != 21 {
		t.Errorf("all: first %d", first())
	}
	if ms, from, last, err = w.Range(ctx, conv, 1, 30, 0, 0); err != nil || from != 1 || last != 20 || ms != nil {
		t.Errorf("all trimmed: %s, %d to %d, %v", w.contents(ms), from, last, err)
	}
	if ms, _, _, err = w.Before(ctx, conv, 30, 5, 0); err != nil || ms != nil {
		t.Errorf("all trimmed: %s, %v", w.contents(ms), err)
	}
	w.append(conv, "on")
	if ms, _, last, err = w.Range(ctx, conv, 1, 30, 0, 0); err != nil || last != 21 || w.contents(ms) != "21:on" {
		t.Errorf("on: %s, %v", w.contents(ms), err)
	}
	w.commit(func(tx *kv.Tx) { tx.Delete(w.keys.Segment(nil, conv, 21)) })
	w.append(conv, "a hole")
	h, raw, err := w.Head(ctx, conv)
	w.must(err)
	if _, err := w.Trim(ctx, new(kv.Tx), conv, raw, &h, 99, 9); !errors.Is(err, ErrCorrupt) {
		t.Errorf("trim over a hole: %v", err)
	}
}
