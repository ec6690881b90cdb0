package msgstore_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	. "github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
)

var update = flag.Bool("update", false, "write the golden files anew")

var (
	conv  = id.Direct("alice", "bob")
	group = id.Named(id.KindGroup, "lunch")
)

// golden compares lines of name and bytes with a file of testdata.
func golden(t *testing.T, file string, names []string, bs map[string][]byte) {
	t.Helper()
	var out strings.Builder
	for _, name := range names {
		fmt.Fprintf(&out, "%s: %s\n", name, hex.EncodeToString(bs[name]))
	}
	path := filepath.Join("testdata", file)
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() == string(want) {
		return
	}
	have := strings.Split(out.String(), "\n")
	for i, line := range strings.Split(string(want), "\n") {
		if i >= len(have) || have[i] != line {
			t.Errorf("%s line %d:\nhave %s\nwant %s", file, i+1, append(have, "nothing")[min(i, len(have))], line)
		}
	}
	t.Error("the stored format is frozen: a change needs a new row version or a new number")
}

func TestGoldenKeys(t *testing.T) {
	k := Keys{Keyspace: 0x0102}
	names, bs := []string{}, map[string][]byte{}
	add := func(name string, key []byte) {
		names = append(names, name)
		bs[name] = key
		if len(key) > MaxKeyLen && !strings.HasPrefix(name, "device") {
			t.Errorf("%s takes %d bytes, MaxKeyLen is %d", name, len(key), MaxKeyLen)
		}
	}
	add("all", k.All(nil))
	add("store row meta", k.StoreRow(nil, "meta"))
	add("bus references of partition 3", k.BusRefs(nil, 3))
	add("bus positions", k.BusPositions(nil))
	add("bus position of fanout in partition 3", k.BusPosition(nil, "fanout", 3))
	add("outbox mark", k.OutboxMark(nil, conv))
	add("conversation", k.Conversation(nil, conv))
	add("mentions of bob", k.Mentions(nil, conv, "bob"))
	add("mention of bob in 258", k.Mention(nil, conv, "bob", 258))
	add("mention of everyone in 1", k.Mention(nil, conv, "", 1))
	add("cursor of bob", k.Cursor(nil, conv, "bob"))
	add("member bob", k.Member(nil, conv, "bob"))
	add("member 好", k.Member(nil, conv, "好"))
	add("segments", k.Segments(nil, conv))
	add("segment up to 258", k.Segment(nil, conv, 258))
	add("head", k.Head(nil, conv))
	add("head of a group", k.Head(nil, group))
	add("id rows", k.IDRows(nil, conv))
	add("ids of second 1700000000", k.IDSecond(nil, conv, 1700000000))
	add("ids of second 1700000000 up to 258", k.IDs(nil, conv, 1700000000, 258))
	add("user alice", k.User(nil, "alice"))
	add("user sides of alice", k.UserSides(nil, "alice"))
	add("user side of alice", k.UserSide(nil, "alice", conv))
	add("closed account of alice", k.Closed(nil, "alice"))
	add("profile of alice", k.Profile(nil, "alice"))
	add("blocks of alice", k.Blocks(nil, "alice"))
	add("block of bob by alice", k.Block(nil, "alice", "bob"))
	add("nickname of bob", k.Nickname(nil, group, "bob"))
	add("list of membership message 258", k.MemberList(nil, group, 258))
	add("group", k.Group(nil, group))
	add("room", k.Room(nil, group))
	add("number of members", k.MemberCount(nil, group))
	add("names that begin with al", k.Named(nil, "al"))
	add("name 爱丽丝 of alice", k.Name(nil, "爱丽丝", "alice"))
	add("name, the longest", k.Name(nil, strings.Repeat("x", 100), id.UserID(strings.Repeat("x", id.MaxUserID))))
	add("repeat of alice", k.Repeat(nil, "alice", 19676, [16]byte{1, 2, 3}))
	golden(t, "keys.golden", names, bs)
	longest := k.Mention(nil, conv, id.UserID(strings.Repeat("x", id.MaxUserID)), 1)
	if len(longest) != MaxKeyLen {
		t.Errorf("longest key takes %d bytes, MaxKeyLen is %d", len(longest), MaxKeyLen)
	}
}

// Keys sort as what they hold does, and no user's rows lie among another's.
func TestKeyOrder(t *testing.T) {
	k := Keys{}
	ascending := func(name string, keys ...[]byte) {
		t.Helper()
		if !slices.IsSortedFunc(keys, bytes.Compare) {
			t.Errorf("%s: not in order", name)
		}
	}
	ascending("segments", k.Segment(nil, conv, 1), k.Segment(nil, conv, 255), k.Segment(nil, conv, 256), k.Segment(nil, conv, math.MaxUint64))
	ascending("an append's keys", k.Segment(nil, conv, 9), k.Head(nil, conv), k.IDs(nil, conv, 1700000001, 9),
		k.IDs(nil, conv, 1700000000, 8), k.IDs(nil, conv, 1700000000, 9), k.IDs(nil, conv, 0, 1))
	ascending("users", k.Mention(nil, conv, "", 7), k.Mention(nil, conv, "alice", 9), k.Mention(nil, conv, "alice0", 1))
	if bytes.HasPrefix(k.User(nil, "alice0"), k.User(nil, "alice")) {
		t.Error("the rows of alice hold those of alice0")
	}
}

var longText = strings.Repeat("好", 100)

// sampleRows is one of each row, with a function that parses it and appends it again.
var sampleRows = []struct {
	name  string
	row   []byte
	again func(b []byte) ([]byte, error)
}{
	{"head, empty", (&Head{FirstSeq: 1, LastTime: 1700000000000}).Append(nil), againHead},
	{"head", (&Head{
		LastSeq: 300, FirstSeq: 12, Countable: 270, StateVersion: 5, LastTime: 1700000000123, HandedSeq: 299,
		IDMax: 1700000000100, IDFloor: 1690000000000, PreviewSeq: 300, PreviewType: 1, PreviewSender: "alice", PreviewText: []byte("hello"),
	}).Append(nil), againHead},
	{"head, the longest", (&Head{
		LastSeq: math.MaxUint64 - 1, FirstSeq: math.MaxUint64, Countable: math.MaxUint64 - 1, StateVersion: math.MaxUint64, LastTime: math.MaxInt64,
		HandedSeq: math.MaxUint64 - 1, IDMax: math.MaxInt64, IDFloor: math.MaxInt64, PreviewSeq: math.MaxUint64 - 1, PreviewType: math.MaxUint32,
		PreviewSender: id.UserID(strings.Repeat("x", id.MaxUserID)), PreviewText: []byte(longText),
	}).Append(nil), againHead},
	{"segment of 1", (&Segment{FirstSeq: 1, Count: 1, Countable: []byte{1}, Messages: []byte{0x42, 2, 8, 1}}).Append(nil), againSegment},
	{"segment of 9", (&Segment{FirstSeq: 300, Count: 9, BaseCountable: 260, Countable: []byte{0xFE, 1}, Messages: bytes.Repeat([]byte{0x42, 2, 8, 1}, 9)}).Append(nil), againSegment},
	{"ids of 1", AppendIDs(nil, []IDEntry{{Hash: 0x0102030405060708, Seq: 300, Body: 0x1112131415161718}}), againIDs},
	{"ids of 3", AppendIDs(nil, []IDEntry{{1, 300, 2}, {3, 301, 4}, {5, 1000, 6}}), againIDs},
	{"bus reference", (&BusRef{Conversation: conv, Epoch: 1700000000000, FirstSeq: 300, Count: 9}).Append(nil), func(b []byte) ([]byte, error) {
		r, err := ParseBusRef(b)
		return r.Append(nil), err
	}},
	{"bus position", AppendBusPosition(nil, 70000), func(b []byte) ([]byte, error) {
		p, err := ParseBusPosition(b)
		return AppendBusPosition(nil, p), err
	}},
	{"outbox mark", (&OutboxMark{Since: 1700000000000, FromSeq: 9}).Append(nil), func(b []byte) ([]byte, error) {
		m, err := ParseOutboxMark(b)
		return m.Append(nil), err
	}},
	{"cursor", (&Cursor{ReadSeq: 200, ReadCountable: 150, RecvSeq: 300, Changed: 1700000000000}).Append(nil), func(b []byte) ([]byte, error) {
		c, err := ParseCursor(b)
		return c.Append(nil), err
	}},
	{"member", (&Member{Role: 2, MutedUntil: 1700000000000, Intervals: []Interval{{1, 20}, {300, 0}}}).Append(nil), againMember},
	{"member, never", (&Member{}).Append(nil), againMember},
	{"user side", (&UserSide{Pinned: true, Muted: true, HiddenSeq: 7, AsOfSeq: 300, Changed: 1700000000000}).Append(nil), againSide},
	{"user side, tombstone", (&UserSide{AsOfSeq: 300, Changed: 1700000000000, Tombstone: true}).Append(nil), againSide},
	{"meta", (&Meta{Epoch: 1700000000000, SlotCount: 4096, Hash: "xxh64", FeatureLevel: 1, Created: 1700000000000}).Append(nil), func(b []byte) ([]byte, error) {
		m, err := ParseMeta(b)
		return m.Append(nil), err
	}},
	{"profile", (&Profile{Version: 300, Changed: 1700000000000, Name: "Alice 好", Avatar: "https://example.org/a.png", Ext: []byte{0, 0xFF}}).Append(nil), againProfile},
	{"repeat", AppendRepeat(nil, id.ClientMsgID{1, 2, 3}), func(b []byte) ([]byte, error) {
		m, err := ParseRepeat(b)
		return AppendRepeat(nil, m), err
	}},
	{"profile, emptied", (&Profile{Version: 2, Changed: 1700000000000}).Append(nil), againProfile},
	{"block", AppendBlock(nil, 1700000000000), func(b []byte) ([]byte, error) {
		since, err := ParseBlock(b)
		return AppendBlock(nil, since), err
	}},
	{"group", (&Group{Join: 1, Created: 1700000000000, CreatedBy: "alice", Key: "team/1", Name: "Team 好", Avatar: "https://example.org/t.png", Ext: []byte{0, 0xFF}}).Append(nil), againGroup},
	{"group, bare", (&Group{Created: 1700000000000, CreatedBy: "alice"}).Append(nil), againGroup},
	{"number of members", AppendMemberCount(nil, 300), func(b []byte) ([]byte, error) {
		n, err := ParseMemberCount(b)
		return AppendMemberCount(nil, n), err
	}},
	{"list of members", AppendMemberList(nil, []id.UserID{"alice", "bob", "好"}), func(b []byte) ([]byte, error) {
		users, err := ParseMemberList(b)
		return AppendMemberList(nil, users), err
	}},
	{"nickname", AppendNickname(nil, "Bobby"), func(b []byte) ([]byte, error) {
		name, err := ParseNickname(b)
		return AppendNickname(nil, name), err
	}},
	{"room", (&Room{Created: 1700000000000, Slow: 5, CreatedBy: "alice", Name: "lobby", Title: "The lobby 好", Moderators: []id.UserID{"alice", "bob"},
		Curbs: []Curb{{User: "carol", Until: 1700000060000}, {User: "dave", Banned: true}}}).Append(nil), againRoom},
	{"room, bare", (&Room{Created: 1700000000000, CreatedBy: "alice", Name: "x"}).Append(nil), againRoom},
	{"mention", []byte{1}, func(b []byte) ([]byte, error) { return []byte{1}, ParseMention(b) }},
}

func againHead(b []byte) ([]byte, error) {
	h, err := ParseHead(b)
	return h.Append(nil), err
}

func againSegment(b []byte) ([]byte, error) {
	s, err := ParseSegment(b)
	return s.Append(nil), err
}

func againIDs(b []byte) ([]byte, error) {
	var es []IDEntry
	err := ParseIDs(b, func(e IDEntry) { es = append(es, e) })
	return AppendIDs(nil, es), err
}

func againMember(b []byte) ([]byte, error) {
	m, err := ParseMember(b)
	return m.Append(nil), err
}

func againSide(b []byte) ([]byte, error) {
	u, err := ParseUserSide(b)
	return u.Append(nil), err
}

func againGroup(b []byte) ([]byte, error) {
	g, err := ParseGroup(b)
	return g.Append(nil), err
}

func againRoom(b []byte) ([]byte, error) {
	m, err := ParseRoom(b)
	return m.Append(nil), err
}

func againProfile(b []byte) ([]byte, error) {
	p, err := ParseProfile(b)
	return p.Append(nil), err
}

func TestGoldenRows(t *testing.T) {
	var names []string
	bs := map[string][]byte{}
	for _, s := range sampleRows {
		names = append(names, s.name)
		bs[s.name] = s.row
	}
	golden(t, "rows.golden", names, bs)
}

// Every row reads back as it was; a cut one is corrupt, as is one with a byte too many;
// a later version is told from both.
func TestRowsAgain(t *testing.T) {
	for _, s := range sampleRows {
		t.Run(s.name, func(t *testing.T) {
			got, err := s.again(s.row)
			if err != nil || !bytes.Equal(got, s.row) {
				t.Errorf("again: %x, %v\nwant %x", got, err, s.row)
			}
			for n := range s.row {
				cut := s.row[:n:n]
				if got, err := s.again(cut); err == nil {
					// Rows that end with a list may end earlier, but then they are whole.
					if !strings.HasPrefix(s.name, "ids") && !strings.HasPrefix(s.name, "segment") || !bytes.Equal(got, cut) {
						t.Errorf("cut to %d bytes: no error", n)
					}
				} else if !errors.Is(err, ErrCorrupt) {
					t.Errorf("cut to %d bytes: %v", n, err)
				}
			}
			if !strings.HasPrefix(s.name, "segment") {
				if _, err := s.again(append(slices.Clone(s.row), 1)); !errors.Is(err, ErrCorrupt) {
					t.Errorf("one byte more: %v", err)
				}
			}
			later := slices.Clone(s.row)
			later[0]++
			if _, err := s.again(later); !errors.Is(err, ErrVersion) {
				t.Errorf("later version: %v", err)
			}
			later[0] = 0
			if _, err := s.again(later); !errors.Is(err, ErrCorrupt) {
				t.Errorf("version 0: %v", err)
			}
		})
	}
}

func TestRowsRefused(t *testing.T) {
	head := func(change func(*Head)) []byte {
		h := Head{LastSeq: 9, FirstSeq: 2, Countable: 8, LastTime: 5, HandedSeq: 9, PreviewSeq: 9}
		change(&h)
		return h.Append(nil)
	}
	seg := func(change func(*Segment)) []byte {
		s := Segment{FirstSeq: 5, Count: 3, BaseCountable: 4, Countable: []byte{7}, Messages: []byte{0x42, 0, 0x42, 0, 0x42, 0}}
		change(&s)
		return s.Append(nil)
	}
	if _, err := againHead(head(func(*Head) {})); err != nil {
		t.Fatal(err)
	}
	if _, err := againSegment(seg(func(*Segment) {})); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		row   []byte
		again func([]byte) ([]byte, error)
	}{
		"head, first of 0":            {head(func(h *Head) { h.FirstSeq = 0 }), againHead},
		"head, first above last":      {head(func(h *Head) { h.FirstSeq = 11 }), againHead},
		"head, handed above last":     {head(func(h *Head) { h.HandedSeq = 10 }), againHead},
		"head, countable above last":  {head(func(h *Head) { h.Countable = 10 }), againHead},
		"head, preview above last":    {head(func(h *Head) { h.PreviewSeq = 10 }), againHead},
		"head, time below 0":          {head(func(h *Head) { h.LastTime = -1 }), againHead},
		"head, long varint":           {append([]byte{1, 0x89, 0}, head(func(*Head) {})[2:]...), againHead},
		"segment, first of 0":         {seg(func(s *Segment) { s.FirstSeq = 0 }), againSegment},
		"segment, none":               {seg(func(s *Segment) { s.Count, s.Countable = 0, nil }), againSegment},
		"segment, too many":           {seg(func(s *Segment) { s.Count, s.Countable, s.Messages = 257, make([]byte, 33), make([]byte, 600) }), againSegment},
		"segment, bit of nobody":      {seg(func(s *Segment) { s.Countable = []byte{0x0F} }), againSegment},
		"segment, base above first":   {seg(func(s *Segment) { s.BaseCountable = 5 }), againSegment},
		"segment, past the end":       {seg(func(s *Segment) { s.FirstSeq = math.MaxUint64 - 2 }), againSegment},
		"segment, too few bytes":      {seg(func(s *Segment) { s.Messages = s.Messages[:5] }), againSegment},
		"ids, not ascending":          {AppendIDs(nil, []IDEntry{{1, 5, 1}, {1, 5, 1}}), againIDs},
		"ids, descending":             {AppendIDs(nil, []IDEntry{{1, 5, 1}, {1, 4, 1}}), againIDs},
		"ids, none":                   {AppendIDs(nil, nil), againIDs},
		"member, more than there":     {[]byte{1, 0, 0, 200, 1, 1, 1}, againMember},
		"member, more than can be":    {append([]byte{1, 0, 0, 0xFF, 0xFF, 0xFF, 0x7F}, make([]byte, 99)...), againMember},
		"user side, unknown flags":    {[]byte{1, 8, 0, 0, 0}, againSide},
		"bus reference, count of 0":   {(&BusRef{FirstSeq: 1}).Append(nil), sampleRows[7].again},
		"bus reference, first of 0":   {(&BusRef{Count: 1}).Append(nil), sampleRows[7].again},
		"bus reference, past the end": {(&BusRef{Count: 2, FirstSeq: math.MaxUint64 - 1}).Append(nil), sampleRows[7].again},
	} {
		if _, err := c.again(c.row); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHeadBounds(t *testing.T) {
	for n := range 300 {
		text := []byte(strings.Repeat("x", n%4) + longText)[:n]
		h := Head{LastSeq: 9, FirstSeq: 1, PreviewSeq: 9, PreviewSender: id.UserID(strings.Repeat("é", 32)), PreviewText: text}
		row := h.Append(nil)
		if len(row) > MaxHeadBytes {
			t.Fatalf("%d bytes of text: row of %d", n, len(row))
		}
		back, err := ParseHead(row)
		if err != nil {
			t.Fatal(err)
		}
		if len(back.PreviewText) > MaxPreviewBytes || !bytes.HasPrefix(text, back.PreviewText) ||
			len(text) > MaxPreviewBytes && (!utf8.Valid(back.PreviewText) || len(back.PreviewText) <= MaxPreviewBytes-utf8.UTFMax) {
			t.Errorf("%d bytes of text: preview %q", n, back.PreviewText)
		}
	}
	if row := sampleRows[2].row; len(row) > MaxHeadBytes {
		t.Errorf("the longest head takes %d bytes", len(row))
	}
	if cut := (&Head{FirstSeq: 1, PreviewText: bytes.Repeat([]byte{0x80}, 200)}).Append(nil); len(cut) > MaxHeadBytes {
		t.Error("bytes that are no text are not cut")
	}
}

func TestMemberIntervals(t *testing.T) {
	m := Member{Intervals: []Interval{{Joined: 5, Left: 8}, {Joined: 12}}}
	for seq, want := range map[uint64]bool{4: false, 5: true, 8: true, 9: false, 11: false, 12: true, 1 << 40: true} {
		if m.Sees(seq) != want {
			t.Errorf("sees %d: %v", seq, !want)
		}
	}
	if !m.Active() || (&Member{}).Active() || (&Member{Intervals: []Interval{{1, 2}}}).Active() {
		t.Error("active")
	}
}

func TestIDHash(t *testing.T) {
	a, b := id.NewClientMsgID(1700000000000), id.NewClientMsgID(1700000000000)
	same := a
	if IDHash("alice", a) != IDHash("alice", same) || IDHash("alice", a) == IDHash("alice", b) || IDHash("alice", a) == IDHash("alic", a) {
		t.Error("hash does not tell senders and ids apart")
	}
}

func FuzzRows(f *testing.F) {
	for _, s := range sampleRows {
		f.Add(s.row)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range sampleRows {
			got, err := s.again(b)
			switch {
			case err == nil && !bytes.Equal(got, b):
				t.Errorf("%s: %x came back as %x", s.name, b, got)
			case err != nil && !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrVersion):
				t.Errorf("%s: untyped error %v", s.name, err)
			}
		}
	})
}

func TestSlotBounds(t *testing.T) {
	k := Keys{Keyspace: 7}
	for _, c := range []struct{ n, want int }{{0, 1}, {1, 1}, {3, 3}, {id.SlotCount, id.SlotCount}, {id.SlotCount + 1, id.SlotCount}} {
		bounds := k.SlotBounds(c.n)
		if len(bounds) != c.want+1 || !slices.IsSortedFunc(bounds, bytes.Compare) {
			t.Errorf("%d regions: %d bounds, sorted %v", c.n, len(bounds), slices.IsSortedFunc(bounds, bytes.Compare))
		}
		first, last := bounds[0], bounds[len(bounds)-1]
		if all := k.All(nil); !bytes.HasPrefix(first, all) || bytes.Compare(k.StoreRow(nil, "zzz"), last) >= 0 || bytes.HasPrefix(last, all) {
			t.Errorf("%d regions lie from %x to %x", c.n, first, last)
		}
	}
}
