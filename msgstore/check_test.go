package msgstore_test

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// audit runs Check and compares what it finds with the lines wanted, in any order. A
// wanted line stands for a finding that contains it.
func (w *world) audit(want ...string) {
	w.Helper()
	var got []string
	w.must(Check(ctx, w.Store, w.keys, func(f Finding) { got = append(got, f.String()) }))
	for _, line := range want {
		i := slices.IndexFunc(got, func(s string) bool { return strings.Contains(s, line) })
		if i < 0 {
			w.Errorf("not found: %s", line)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	for _, line := range got {
		if strings.HasPrefix(line, "info") || strings.HasPrefix(line, "warning: conversation") && len(want) > 0 {
			continue
		}
		w.Errorf("found: %s", line)
	}
}

// healthy is a store in which every kind of row stands.
func healthy(t *testing.T) *world {
	w := newWorld(t)
	for _, c := range []id.ConversationID{conv, group} {
		w.create(c)
		w.append(c, "one")
		w.append(c, "two", "three", strings.Repeat("x", MaxSegmentBytes))
		w.append(c, "five")
	}
	w.commit(func(tx *kv.Tx) {
		members, inbox := NewMembers(w.Store, w.keys), NewInbox(w.Store, w.keys)
		for _, u := range []id.UserID{"alice", "bob"} {
			members.Put(tx, conv, u, &Member{Intervals: []Interval{{Joined: 1}}})
			inbox.Put(tx, u, conv, &UserSide{AsOfSeq: 2})
		}
		members.Put(tx, group, "alice", &Member{Intervals: []Interval{{Joined: 1, Left: 3}}})
		inbox.Put(tx, "alice", group, &UserSide{AsOfSeq: 3, Tombstone: true})
		putCursor(tx, w.keys, conv, "alice", &Cursor{ReadSeq: 3, ReadCountable: 3, RecvSeq: 5})
		NewMentions(w.Store, w.keys).Put(tx, conv, "", 5)
		NewMentions(w.Store, w.keys).Put(tx, conv, "bob", 5)
		tx.Set(w.keys.BusPosition(nil, "fanout", 0), AppendBusPosition(nil, 3))
		tx.Set(w.keys.Account(nil, "alice"), []byte{1})
		tx.Set(w.keys.Device(nil, "alice", "phone"), []byte{1})
	})
	if _, err := OpenClock(ctx, ClockConfig{Store: w.Store, Keys: w.keys}); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestCheckHealthy(t *testing.T) {
	w := healthy(t)
	w.audit()
	w.commit(func(tx *kv.Tx) {
		tx.Set(w.keys.OutboxMark(nil, group), (&OutboxMark{Since: testNow + 5, FromSeq: 5}).Append(nil))
		tx.Set(w.keys.OutboxMark(nil, conv), (&OutboxMark{Since: testNow, FromSeq: 5}).Append(nil))
	})
	w.audit("info: conversation " + conv.String() + ": 2 outbox marks, the oldest, of this conversation, since 2025-06-15T15:06:40Z")
	other := Keys{Keyspace: 99}
	var found []string
	w.must(Check(ctx, w.Store, other, func(f Finding) { found = append(found, f.Text) }))
	if len(found) != 1 || found[0] != "the store has no meta row" {
		t.Errorf("an empty keyspace: %v", found)
	}
}

func TestCheckFinds(t *testing.T) {
	head := func(change func(h *Head)) func(w *world, tx *kv.Tx) {
		return func(w *world, tx *kv.Tx) {
			h, _, err := w.Head(ctx, conv)
			w.must(err)
			change(&h)
			tx.SetFunc(w.keys.Head(nil, conv), h.Append)
		}
	}
	// segment puts another segment into the place of the one that ends with last.
	segment := func(last uint64, change func(s *Segment)) func(w *world, tx *kv.Tx) {
		return func(w *world, tx *kv.Tx) {
			key := w.keys.Segment(nil, conv, last)
			raw, err := w.Get(ctx, key)
			w.must(err)
			s, err := ParseSegment(raw)
			w.must(err)
			s.Countable, s.Messages = bytes.Clone(s.Countable), bytes.Clone(s.Messages)
			change(&s)
			tx.Delete(key)
			tx.SetFunc(w.keys.Segment(nil, conv, s.LastSeq()), s.Append)
		}
	}
	message := func(last uint64, seq uint64, mid id.MessageID, sender id.UserID, change, target uint64, tail []byte) func(w *world, tx *kv.Tx) {
		return segment(last, func(s *Segment) {
			s.Messages = packet.AppendChanged(nil, seq, mid, sender, change, target, tail)
		})
	}
	set := func(key func(k Keys) []byte, value []byte) func(w *world, tx *kv.Tx) {
		return func(w *world, tx *kv.Tx) { tx.Set(key(w.keys), value) }
	}
	cursor := func(c Cursor) func(w *world, tx *kv.Tx) {
		return set(func(k Keys) []byte { return k.Cursor(nil, conv, "alice") }, c.Append(nil))
	}
	member := func(m Member) func(w *world, tx *kv.Tx) {
		return set(func(k Keys) []byte { return k.Member(nil, conv, "alice") }, m.Append(nil))
	}
	side := func(u UserSide) func(w *world, tx *kv.Tx) {
		return set(func(k Keys) []byte { return k.UserSide(nil, "alice", conv) }, u.Append(nil))
	}
	in := "error: conversation " + conv.String() + ": "
	alice := in + `user "alice": `
	lastMID := id.MakeMessageID(testNow+4, 0, 5)
	var five id.ClientMsgID // that of message 5, the fifth that newWorld makes
	var ids [2]id.ClientMsgID
	{
		w := &world{ms: testNow}
		for i := range 5 {
			five = w.cid(testNow + int64(i))
			if i < 2 {
				ids[i] = five
			}
		}
	}
	tail := makeTail(five, 1, []byte("five"))
	for _, c := range []struct {
		name   string
		damage func(w *world, tx *kv.Tx)
		want   []string
	}{
		{"a segment gone", func(w *world, tx *kv.Tx) { tx.Delete(w.keys.Segment(nil, conv, 3)) }, []string{
			in + "messages 2 to 3 are missing", in + "an id of second 1750000000 is said to be of message 2", in + "an id of second 1750000000 is said to be of message 3",
		}},
		{"the first segment gone", func(w *world, tx *kv.Tx) { tx.Delete(w.keys.Segment(nil, conv, 1)) }, []string{
			in + "the first segment begins with message 2, the head says 1", in + "an id of second 1750000000 is said to be of message 1",
		}},
		{"the last segment gone", func(w *world, tx *kv.Tx) { tx.Delete(w.keys.Segment(nil, conv, 5)) }, []string{
			in + "the last message stored is 4, the head says 5", in + "an id of second 1750000000 is said to be of message 5",
		}},
		{"all segments gone", func(w *world, tx *kv.Tx) {
			for _, last := range []uint64{1, 3, 4, 5} {
				tx.Delete(w.keys.Segment(nil, conv, last))
			}
		}, []string{in + "messages 1 to 5 are missing", "message 1,", "message 2,", "message 3,", "message 4,", "message 5,"}},
		{"stored twice", func(w *world, tx *kv.Tx) {
			s := Segment{FirstSeq: 1, Count: 2, Countable: []byte{0}, Messages: []byte{0x42, 0, 0x42, 0}}
			tx.SetFunc(w.keys.Segment(nil, conv, 2), s.Append)
		}, []string{in + "messages 1 to 1 are stored twice", in + "messages 2 to 2 are stored twice", in + "message 1 calls itself 0", in + "message 2 calls itself 0",
			in + "message 1 is ", in + "message 2 has the id"}},
		{"a segment under another key", func(w *world, tx *kv.Tx) {
			raw, err := w.Get(ctx, w.keys.Segment(nil, conv, 5))
			w.must(err)
			tx.Set(w.keys.Segment(nil, conv, 6), raw)
		}, []string{in + "segment of 5 to 5 lies under 6"}},
		{"base", segment(5, func(s *Segment) { s.BaseCountable = 2 }), []string{in + "countable number 2 before message 5, want 4", in + "3 messages count, the head says 5"}},
		{"bit missing", segment(5, func(s *Segment) { s.Countable[0] = 0 }), []string{in + "message 5 counts and isn't marked"}},
		{"first base", head(func(h *Head) { h.Countable = 4 }), []string{in + "5 messages count, the head says 4"}},
		{"head's time", head(func(h *Head) { h.LastTime = testNow }), []string{in + "the last message is of 1750000000004, the head says 1750000000000"}},
		{"head's latest id", head(func(h *Head) { h.IDMax = testNow }), []string{in + "an id of 1750000000004, later than the head's latest of 1750000000000"}},
		{"head's first", head(func(h *Head) { h.FirstSeq = 2 }), []string{in + "the first segment begins with message 1, the head says 2"}},
		{"head of a later version", set(func(k Keys) []byte { return k.Head(nil, conv) }, []byte{2}), []string{
			in + "head row: msgstore: written by a later version", alice + "cursor out of bounds", "user \"\"", "user \"bob\"", "interval 1", "interval 1", "mentioned in message 5", "mentioned in message 5",
		}[:2]},
		{"no head", func(w *world, tx *kv.Tx) { tx.Delete(w.keys.Head(nil, group)) }, []string{"it has rows but no head"}},
		{"another's seq", message(5, 6, lastMID, "alice", 0, 0, tail), []string{in + "message 5 calls itself 6"}},
		{"older", message(5, 5, id.MakeMessageID(testNow, 0, 5), "alice", 0, 0, tail), []string{in + "message 5 is 3 ms older than the one before"}},
		{"same id", message(5, 5, id.MakeMessageID(testNow+3, 0, 4), "alice", 0, 0, tail), []string{in + "message 5 has the id of the one before"}},
		{"marked, doesn't count", message(5, 5, lastMID, "alice", 0, 0, makeTail(five, 64, nil)), []string{in + "message 5 is marked as counting and doesn't", in + "4 messages count"}},
		{"changed by an earlier one", message(5, 5, lastMID, "alice", 3, 0, tail), []string{in + "message 5 was changed by message 3"}},
		{"changes a later one", message(5, 5, lastMID, "alice", 0, 7, tail), []string{in + "message 5 changes message 7"}},
		{"no UTF-8", message(5, 5, lastMID, "alice", 0, 0, makeTail(five, 1, []byte{0xFF})), []string{in + "message 5 is not valid UTF-8"}},
		{"another sender", message(5, 5, lastMID, "bob", 0, 0, tail), []string{in + "message 5 has no entry among the ids", in + "an id of second 1750000000 is said to be of message 5"}},
		{"an id twice", message(5, 5, lastMID, "alice", 0, 0, makeTail(ids[0], 1, nil)), []string{
			in + "messages 1 and 5 have one sender and client message id", in + "message 5 has no entry", "said to be of message 5",
		}},
		{"no message", segment(5, func(s *Segment) { s.Messages = []byte{0x42, 2, 0x0F, 0} }), []string{in + "message 5: malformed message", in + "4 messages count", "said to be of message 5"}},
		{"more than its messages", segment(5, func(s *Segment) { s.Messages = append(s.Messages, 0x42, 0) }), []string{in + "segment of messages 5 to 5 holds 2 bytes too many"}},
		{"too large a segment", segment(3, func(s *Segment) {
			v, rest, err := packet.NextMessage(s.Messages)
			_ = err
			s.Messages = append(packet.AppendMessage(nil, v.Seq, v.ID, "alice", makeTail(ids[1], 1, make([]byte, MaxSegmentBytes))), rest...)
		}), []string{in + "segment of messages 2 to 3 holds 12"}},
		{"ids gone", func(w *world, tx *kv.Tx) { tx.Delete(w.keys.IDs(nil, conv, testNow/1000, 1)) }, []string{in + "message 1 has no entry among the ids of second 1750000000"}},
		{"ids under another second", func(w *world, tx *kv.Tx) {
			raw, err := w.Get(ctx, w.keys.IDs(nil, conv, testNow/1000, 1))
			w.must(err)
			tx.Delete(w.keys.IDs(nil, conv, testNow/1000, 1))
			tx.Set(w.keys.IDs(nil, conv, 7, 1), raw)
		}, []string{in + "message 1 has no entry among the ids of second 1750000000", in + "an id of second 7 is said to be of message 1"}},
		{"ids under another seq", func(w *world, tx *kv.Tx) {
			raw, err := w.Get(ctx, w.keys.IDs(nil, conv, testNow/1000, 1))
			w.must(err)
			tx.Set(w.keys.IDs(nil, conv, testNow/1000, 2), raw)
		}, []string{in + "ids of second 1750000000 that end with message 1 lie under 2", "warning: conversation " + conv.String() + ": message 1 has two entries"}},
		{"ids that can't be read", set(func(k Keys) []byte { return k.IDs(nil, conv, testNow/1000, 1) }, []byte{9}), []string{
			in + "second 1750000000: row of ids: msgstore: written by a later version", in + "message 1 has no entry",
		}},
		{"cursor: read above received", cursor(Cursor{ReadSeq: 4, RecvSeq: 3}), []string{alice + "cursor out of bounds: read 4 (countable 0), received 3, where the last is 5 (countable 5)"}},
		{"cursor: above the last", cursor(Cursor{ReadSeq: 4, RecvSeq: 6}), []string{alice + "cursor out of bounds"}},
		{"cursor: countable above read", cursor(Cursor{ReadSeq: 2, ReadCountable: 3, RecvSeq: 3}), []string{alice + "cursor out of bounds"}},
		{"cursor that can't be read", set(func(k Keys) []byte { return k.Cursor(nil, conv, "alice") }, []byte{1}), []string{alice + "cursor row"}},
		{"member: ends before it begins", member(Member{Intervals: []Interval{{3, 2}, {4, 0}}}), []string{alice + "interval 3 to 2 after 0"}},
		{"member: open in the middle", member(Member{Intervals: []Interval{{3, 0}, {4, 0}}}), []string{alice + "interval 3 to 0 after 0"}},
		{"member: overlapping", member(Member{Intervals: []Interval{{1, 3}, {3, 0}}}), []string{alice + "interval 3 to 0 after 3"}},
		{"member: in the future", member(Member{Intervals: []Interval{{7, 0}}}), []string{alice + "interval 7 to 0 after 0, where the last message is 5"}},
		{"member that can't be read", set(func(k Keys) []byte { return k.Member(nil, conv, "alice") }, []byte{1}), []string{alice + "member row"}},
		{"member without the user's side", func(w *world, tx *kv.Tx) { tx.Delete(w.keys.UserSide(nil, "alice", conv)) }, []string{alice + "is a member, but the user's list does not have the conversation"}},
		{"member with a tombstone", side(UserSide{Tombstone: true, AsOfSeq: 3}), []string{alice + "is a member, but has a tombstone"}},
		{"user's side of nothing", set(func(k Keys) []byte { return k.UserSide(nil, "alice", id.Self("x")) }, (&UserSide{}).Append(nil)), []string{`user "alice": the user's list has a conversation that does not exist`}},
		{"user's side of a stranger", set(func(k Keys) []byte { return k.UserSide(nil, "eve", conv) }, (&UserSide{}).Append(nil)), []string{`user "eve": the user's list has the conversation, but the user is no member`}},
		{"user's side ahead", side(UserSide{AsOfSeq: 6}), []string{alice + "the user's row is as of seq 6, hidden up to 0, where the last is 5"}},
		{"user's side hidden ahead", side(UserSide{HiddenSeq: 6}), []string{alice + "the user's row is as of seq 0, hidden up to 6"}},
		{"user's side that can't be read", set(func(k Keys) []byte { return k.UserSide(nil, "alice", conv) }, []byte{2}), []string{alice + "row of a user's side"}},
		{"mention ahead", set(func(k Keys) []byte { return k.Mention(nil, conv, "bob", 6) }, []byte{1}), []string{in + `user "bob": mentioned in message 6, where the last is 5`}},
		{"mention that can't be read", set(func(k Keys) []byte { return k.Mention(nil, conv, "bob", 5) }, []byte{3}), []string{in + `user "bob": mention row`}},
		{"bus ahead", func(w *world, tx *kv.Tx) {
			tx.SetStamped(w.keys.BusRefs(nil, 0), (&BusRef{Conversation: conv, Epoch: testNow, FirstSeq: 6, Count: 2}).Append(nil))
		}, []string{in + "messages up to 7 were put on the bus, the last is 5"}},
		{"bus ahead by a gap", func(w *world, tx *kv.Tx) {
			tx.SetStamped(w.keys.BusRefs(nil, 0), (&BusRef{Conversation: conv, Epoch: testNow, FirstSeq: 7, Count: 1}).Append(nil))
		}, []string{in + "messages 6 to 6 were never put on the bus", in + "messages up to 7 were put on the bus, the last is 5"}},
		{"bus again", func(w *world, tx *kv.Tx) {
			tx.SetStamped(w.keys.BusRefs(nil, 0), (&BusRef{Conversation: conv, Epoch: testNow, FirstSeq: 5, Count: 1}).Append(nil))
		}, []string{"info: conversation " + conv.String() + ": messages from 5 on were put on the bus twice"}},
		{"bus behind", func(w *world, tx *kv.Tx) {
			tx.SetStamped(w.keys.BusRefs(nil, 0), (&BusRef{Conversation: conv, Epoch: testNow + 1, FirstSeq: 4, Count: 1}).Append(nil))
		}, []string{"warning: conversation " + conv.String() + ": messages 5 to 5 are not on the bus"}},
		{"bus reference that can't be read", func(w *world, tx *kv.Tx) { tx.SetStamped(w.keys.BusRefs(nil, 0), []byte{2}) }, []string{"error: partition 0, stamp ", "error"}[:1]},
		{"bus position that can't be read", set(func(k Keys) []byte { return k.BusPosition(nil, "fanout", 0) }, []byte{2}), []string{`error: group "fanout", partition 0: bus position row`}},
		{"outbox mark ahead", set(func(k Keys) []byte { return k.OutboxMark(nil, conv) }, (&OutboxMark{FromSeq: 6}).Append(nil)), []string{in + "an outbox mark from seq 6 on, where the last is 5", "info: conversation "}},
		{"outbox mark that can't be read", set(func(k Keys) []byte { return k.OutboxMark(nil, conv) }, []byte{2}), []string{in + "outbox mark row"}},
		{"clock that can't be read", set(func(k Keys) []byte { return k.StoreRow(nil, "clock") }, []byte{2}), []string{"error: clock row"}},
		{"meta of other slots", set(func(k Keys) []byte { return k.StoreRow(nil, "meta") }, (&Meta{Epoch: 1, SlotCount: 7, Hash: "x", FeatureLevel: 1}).Append(nil)), []string{"error: 7 slots by \"x\""}},
		{"meta that can't be read", set(func(k Keys) []byte { return k.StoreRow(nil, "meta") }, []byte{1}), []string{"error: store's meta row"}},
		{"unknown row of the store", set(func(k Keys) []byte { return k.StoreRow(nil, "more") }, []byte{1}), []string{`warning: unknown row "more" of the store`}},
		{"unknown row of a conversation", set(func(k Keys) []byte { return append(k.Conversation(nil, conv), 0x77) }, []byte{1}), []string{"warning: conversation " + conv.String() + ": unknown key"}},
		{"conversation's key alone", set(func(k Keys) []byte { return k.Conversation(nil, conv) }, []byte{1}), []string{"warning: conversation " + conv.String() + ": unknown key"}},
		{"unknown row of a user", set(func(k Keys) []byte { return append(k.User(nil, "alice"), 0x77) }, []byte{1}), []string{`warning: user "alice": unknown key`}},
		{"profile and block", func(w *world, tx *kv.Tx) {
			tx.Set(w.keys.Profile(nil, "alice"), (&Profile{Version: 1, Name: "Alice"}).Append(nil))
			tx.Set(w.keys.Block(nil, "alice", "bob"), AppendBlock(nil, 1))
		}, nil},
		{"profile that can't be read", set(func(k Keys) []byte { return k.Profile(nil, "alice") }, []byte{1}), []string{`error: user "alice": profile row`}},
		{"block that can't be read", set(func(k Keys) []byte { return k.Block(nil, "alice", "bob") }, []byte{2}), []string{`error: user "alice": block of "bob": block row`}},
		{"user's key alone", set(func(k Keys) []byte { return k.User(nil, "alice") }, []byte{1}), []string{"warning: unknown key"}},
		{"unknown area", set(func(k Keys) []byte { return append(k.All(nil), 0, 5, 0x33, 1) }, []byte{1}), []string{"warning: unknown keys from"}},
		{"unknown key of the store", set(func(k Keys) []byte { return append(k.All(nil), 0xFF, 0xFF, 0x33) }, []byte{1}), []string{"warning: unknown key"}},
		{"position's key cut", set(func(k Keys) []byte { return append(k.BusPositions(nil), 'x') }, []byte{1}), []string{"warning: unknown key"}},
		{"outbox key cut", set(func(k Keys) []byte { return k.OutboxMark(nil, conv)[:10] }, []byte{1}), []string{"warning: unknown key"}},
		{"conversation's key cut", set(func(k Keys) []byte { return k.Conversation(nil, conv)[:10] }, []byte{1}), []string{"warning: unknown key"}},
		{"key without an area", set(func(k Keys) []byte { return k.All(nil) }, []byte{1}), []string{"warning: unknown key"}},
		{"another layout", set(func(k Keys) []byte { return []byte{0, 1, 9, 1, 2, 3} }, []byte{1}), []string{"error: keys of layout 9, want 1"}},
		{"slot out of range", set(func(k Keys) []byte { return append(k.All(nil), 0x20, 0, 0x10) }, []byte{1}), []string{"error: keys in slot 8192 of 4096"}},
		{"conversation in another's slot", set(func(k Keys) []byte {
			key := k.Head(nil, group)
			key[4]++
			return key
		}, (&Head{FirstSeq: 1}).Append(nil)), []string{"error: conversation " + group.String() + ": its rows lie in slot"}},
		{"outbox mark in another's slot", set(func(k Keys) []byte {
			key := k.OutboxMark(nil, group)
			key[4]++
			return key
		}, (&OutboxMark{FromSeq: 5}).Append(nil)), []string{"error: conversation " + group.String() + ": its outbox mark lies in slot", "info: conversation "}},
		{"user in another's slot", set(func(k Keys) []byte {
			key := k.Account(nil, "bob")
			key[4]++
			return key
		}, []byte{1}), []string{`error: user "bob": rows in slot`}},
		{"unknown kind", set(func(k Keys) []byte { return k.Head(nil, id.ConversationID{9}) }, (&Head{FirstSeq: 1}).Append(nil)), []string{"unknown kind 9"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := healthy(t)
			w.commit(func(tx *kv.Tx) { c.damage(w, tx) })
			var got []string
			w.must(Check(ctx, w.Store, w.keys, func(f Finding) { got = append(got, f.String()) }))
			var parts []string
			w.must(CheckInParts(ctx, w.Store, w.keys, 2, func(f Finding) { parts = append(parts, f.String()) }))
			slices.Sort(got)
			slices.Sort(parts)
			if !slices.Equal(got, parts) {
				t.Errorf("in parts found\n%s\nwant\n%s", strings.Join(parts, "\n"), strings.Join(got, "\n"))
			}
			for _, line := range c.want {
				if i := slices.IndexFunc(got, func(s string) bool { return strings.Contains(s, line) }); i < 0 {
					t.Errorf("not found: %s\nbut:\n%s", line, strings.Join(got, "\n"))
				}
			}
			if len(got) > len(c.want) && c.name != "head of a later version" && c.name != "no head" {
				t.Errorf("found %d things, want %d:\n%s", len(got), len(c.want), strings.Join(got, "\n"))
			}
		})
	}
}

func TestCheckEnds(t *testing.T) {
	w := healthy(t)
	w.must(w.Store.Close())
	if err := Check(ctx, w.Store, w.keys, func(Finding) {}); !errors.Is(err, kv.ErrClosed) {
		t.Error(err)
	}
}
