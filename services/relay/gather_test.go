package relay

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

// diary is a post that writes down what it is handed.
type diary struct{ lines []string }

func (d *diary) note(format string, args ...any) {
	d.lines = append(d.lines, fmt.Sprintf(format, args...))
}

func (d *diary) frame(conns []uint64, frame []byte, _ bool) { d.note("frame %s for %v", frame, conns) }

func (d *diary) users(users []id.UserID, frame []byte, _ uint64) {
	d.note("frame %s for %v", frame, users)
}

func (d *diary) open(conv id.ConversationID) { d.note("open %x", conv[15]) }

func (d *diary) end(conv id.ConversationID) { d.note("end %x", conv[15]) }

func (d *diary) join(conv id.ConversationID, users []id.UserID) {
	d.note("join %x %v", conv[15], users)
}

func (d *diary) leave(conv id.ConversationID, users []id.UserID) {
	d.note("leave %x %v", conv[15], users)
}

func (d *diary) hint(conns []uint64) { d.note("hint %v", conns) }

func (d *diary) tell(int, []byte) { d.note("tell") }

func (d *diary) clear() { d.note("clear") }

func split(frames []byte, ends []int) string {
	var parts []string
	from := 0
	for _, end := range ends {
		parts = append(parts, string(frames[from:end]))
		from = end
	}
	return strings.Join(parts, " ")
}

func (d *diary) room(conv id.ConversationID, frames []byte, ends []int, but []uint64) {
	d.note("room %x: %s but %v", conv[15], split(frames, ends), but)
}

func (d *diary) audience(conv id.ConversationID, last uint64, frames []byte, ends []int, but []uint64, flush bool) {
	d.note("audience %x up to %d: %s but %v, %v", conv[15], last, split(frames, ends), but, flush)
}

// What a letter holds for one room or audience goes in one pass, in its order, and stays on its side of whatever changes who is there.
func TestGathered(t *testing.T) {
	conv := func(n byte) (c id.ConversationID) { c[15] = n; return c }
	room := func(n byte, frame string, but uint64) []byte {
		return appendFrames(appendAbout(nil, parcelRoom, conv(n)), []byte(frame), []int{len(frame)}, []uint64{but})
	}
	audience := func(n byte, last uint64, frame string) []byte {
		return appendAudience(nil, conv(n), last, []byte(frame), []int{len(frame)}, []uint64{last}, last%2 == 0)
	}
	users := func(kind, n byte) []byte { return appendUsers(appendAbout(nil, kind, conv(n)), []id.UserID{"ann"}) }
	about := func(kind, n byte) []byte { return appendAbout(nil, kind, conv(n)) }
	direct := appendConn(appendString([]byte{parcelFrame, 0}, []byte("d")), 0)
	direct = append(direct[:len(direct)-8], 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9)
	for name, c := range map[string]struct {
		parcels [][]byte
		skip    uint64
		want    []string
	}{
		"nothing":    {},
		"one room":   {[][]byte{room(1, "a", 7), room(1, "b", 0), room(1, "c", 8)}, 0, []string{"room 1: a b c but [7 0 8]"}},
		"two":        {[][]byte{room(1, "a", 0), room(2, "b", 0), room(1, "c", 0)}, 0, []string{"room 1: a c but [0 0]", "room 2: b but [0]"}},
		"known":      {[][]byte{room(1, "a", 0), room(1, "b", 0)}, 1, []string{"room 1: b but [0]"}},
		"a group":    {[][]byte{audience(3, 5, "a"), audience(3, 6, "b"), audience(3, 7, "c")}, 0, []string{"audience 3 up to 7: a b c but [5 6 7], true"}},
		"of one id":  {[][]byte{audience(3, 5, "a"), room(3, "b", 0), audience(3, 7, "c")}, 0, []string{"audience 3 up to 7: a c but [5 7], false", "room 3: b but [0]"}},
		"direct":     {[][]byte{room(1, "a", 0), direct, room(1, "c", 0)}, 0, []string{"frame d for [9]", "room 1: a c but [0 0]"}},
		"who leaves": {[][]byte{audience(3, 5, "a"), users(parcelLeave, 3), audience(3, 7, "b")}, 0, []string{"audience 3 up to 5: a but [5], false", "leave 3 [ann]", "audience 3 up to 7: b but [7], false"}},
		"who joins":  {[][]byte{about(parcelOpen, 3), audience(3, 5, "a"), users(parcelJoin, 3), audience(3, 7, "b")}, 0, []string{"open 3", "audience 3 up to 5: a but [5], false", "join 3 [ann]", "audience 3 up to 7: b but [7], false"}},
		"its end":    {[][]byte{audience(3, 5, "a"), about(parcelEnd, 3), {parcelClear}}, 0, []string{"audience 3 up to 5: a but [5], false", "end 3", "clear"}},
		"hints":      {[][]byte{audience(3, 5, "a"), {parcelHint, 0, 0, 0, 0}}, 0, []string{"audience 3 up to 5: a but [5], false", "hint []"}},
	} {
		var d diary
		g := gathered{post: &d}
		if err := deal(bytes.Join(c.parcels, nil), c.skip, &g); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		g.pass()
		if !slices.Equal(d.lines, c.want) {
			t.Errorf("%s: %q, want %q", name, d.lines, c.want)
		}
	}
}

// Passes stay small beside the queue of a connection, and few wait.
func TestGatheredBounds(t *testing.T) {
	var d diary
	g := gathered{post: &d}
	var conv id.ConversationID
	for range togetherFrames + 1 {
		g.room(conv, []byte("x"), []int{1}, []uint64{0})
	}
	if len(d.lines) != 1 || strings.Count(d.lines[0], "x") != togetherFrames {
		t.Errorf("after one frame too many: %q", d.lines)
	}
	g.pass()
	d.lines = nil
	large := bytes.Repeat([]byte("y"), togetherBytes-1)
	for range 3 {
		g.room(conv, large, []int{len(large)}, []uint64{0})
	}
	if len(d.lines) != 2 {
		t.Errorf("three parcels that fill a pass each: %d passes", len(d.lines))
	}
	g.pass()
	d.lines = nil
	for n := range byte(togetherPasses + 1) {
		conv[15] = n
		g.room(conv, []byte("z"), []int{1}, []uint64{0})
	}
	if len(d.lines) != togetherPasses {
		t.Errorf("one room too many: %d passes", len(d.lines))
	}
}
