package verify

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/packet"
)

func TestFrontFollowsTheLast(t *testing.T) {
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 0))
	const n, reach = 7, 64
	marks := make([]uint64, n)
	for i := range marks {
		marks[i] = 1000
	}
	f := NewFront(n, 1000, reach)
	for step := range 20_000 {
		i := rnd.IntN(n)
		to := marks[i] + uint64(rnd.IntN(20))
		low := slices.Min(marks)
		rose, ok := f.Move(marks[i], to)
		if within := to-low < reach; ok != within {
			t.Fatalf("seed %d, step %d: from %d to %d with the last at %d: %v", seed, step, marks[i], to, low, ok)
		}
		if !ok {
			continue
		}
		marks[i] = to
		if now := slices.Min(marks); f.Low() != now || rose != (now > low) {
			t.Fatalf("seed %d, step %d: the last is at %d, rose %v; want %d from %d", seed, step, f.Low(), rose, now, low)
		}
	}
	if _, ok := f.Move(f.Low()+3, f.Low()); ok {
		t.Error("somebody went back")
	}
}

func TestAddRange(t *testing.T) {
	var r Received
	for _, c := range []struct{ from, to, fresh, mark uint64 }{
		{1, 5, 5, 5}, {1, 5, 0, 5}, {4, 8, 3, 8}, {11, 12, 2, 8}, {12, 13, 1, 8}, {9, 10, 2, 13}, {14, 14, 1, 14},
	} {
		if fresh := r.AddRange(c.from, c.to); fresh != c.fresh || r.Mark != c.mark {
			t.Errorf("%d to %d: %d new, up to %d; want %d, %d", c.from, c.to, fresh, r.Mark, c.fresh, c.mark)
		}
	}
}

// TestGroup plays scripts: s SENDER:N lets a sender send up to number N; a, m and t give acks, what members were shown,
// and what the timeline holds, each as SENDER:NUMBER:SEQ (x marks a changed body); e SEQ tells the end of the timeline.
// What was there before is seq 2.
func TestGroup(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         GroupResult
		sound        bool
	}{
		{"clean", "s 0:2, s 1:1, a 0:1:3, a 1:1:4, a 0:2:5, m 0:1:3, m 0:1:3, m 1:1:4, m 0:2:5, t 0:1:3, t 1:1:4, t 0:2:5, e 5",
			GroupResult{Sent: 3, Acked: 3, Stored: 3}, true},
		{"a lost one at the end", "s 0:2, a 0:1:3, a 0:2:4, t 0:1:3, e 3", GroupResult{Sent: 2, Acked: 2, Stored: 1, Lost: 1}, false},
		{"a hole", "s 0:3, a 0:1:3, a 0:2:4, a 0:3:5, t 0:1:3, t 0:3:5, e 5", GroupResult{Sent: 3, Acked: 3, Stored: 2, Lost: 2}, false},
		{"moved", "s 0:1, a 0:1:4, s 1:1, a 1:1:3, t 0:1:3, t 1:1:4, e 4", GroupResult{Sent: 2, Acked: 2, Stored: 2, Lost: 2}, false},
		{"two with one seq", "s 0:1, s 1:1, a 0:1:3, a 1:1:3, t 0:1:3, e 3", GroupResult{Sent: 2, Acked: 2, Stored: 1, Lost: 2, Corrupt: 1}, false},
		{"two shown with one seq", "s 0:1, s 1:1, m 0:1:3, m 1:1:3, t 1:1:3, e 3", GroupResult{Sent: 2, Stored: 1, Corrupt: 1, Unacked: 2}, false},
		{"shown is not what is stored", "s 0:1, s 1:1, m 0:1:3, t 1:1:3, e 3", GroupResult{Sent: 2, Stored: 1, Corrupt: 1, Unacked: 2}, false},
		{"stored twice", "s 0:1, a 0:1:3, t 0:1:3, t 0:1:4, e 4", GroupResult{Sent: 1, Acked: 1, Stored: 2, Doubled: 1}, false},
		{"reordered", "s 0:2, a 0:2:3, a 0:1:4, t 0:2:3, t 0:1:4, e 4", GroupResult{Sent: 2, Acked: 2, Stored: 2, Doubled: 1}, false},
		{"told twice", "s 0:1, a 0:1:3, t 0:1:3, t 0:1:3, e 3", GroupResult{Sent: 1, Acked: 1, Stored: 1, Doubled: 1}, false},
		{"a changed body", "s 0:1, a 0:1:3, m 0:1:3x, t 0:1:3x, e 3", GroupResult{Sent: 1, Acked: 1, Stored: 1, Lost: 1, Corrupt: 2}, false},
		{"nobody sent it", "s 0:1, a 0:1:3, t 0:1:3, t 0:2:4, e 4", GroupResult{Sent: 1, Acked: 1, Stored: 2, Corrupt: 1}, false},
		{"no member sent it", "s 0:1, a 0:1:3, t 0:1:3, t 2:1:4, e 4", GroupResult{Sent: 1, Acked: 1, Stored: 2, Corrupt: 1}, false},
		{"an ack from before", "s 0:1, a 0:1:2, e 2", GroupResult{Sent: 1, Acked: 1, Lost: 1, Corrupt: 1}, false},
		{"unread", "s 0:1, a 0:1:3, t 0:1:3, e 4", GroupResult{Sent: 1, Acked: 1, Stored: 1, Unread: true}, false},
		{"stored and not acked is fine", "s 0:1, m 0:1:3, t 0:1:3, e 3", GroupResult{Sent: 1, Stored: 1, Unacked: 1}, true},
	} {
		names := []string{"ann", "bob", "eve"}
		g := NewGroup(77, 20, names[:2])
		g.Begin(2)
		var head uint64
		for step := range strings.SplitSeq(c.script, ", ") {
			var sender int
			var number, seq uint64
			op, arg, _ := strings.Cut(step, " ")
			arg, changed := strings.CutSuffix(arg, "x")
			if _, err := fmt.Sscanf(arg, "%d:%d:%d", &sender, &number, &seq); err != nil && op != "s" && op != "e" {
				t.Fatal(err)
			}
			v := packet.MessageView{Seq: seq, Sender: []byte(names[sender%3]), Content: make([]byte, 20)}
			PutID((*[16]byte)(&v.ClientMsgID), 1, 77, sender, number)
			FillBody(v.Content, sender, number)
			if changed {
				v.Content[5] ^= 1
			}
			switch op {
			case "s":
				for g.Sent(sender) < number {
					g.Send(sender)
				}
			case "a":
				g.Acked(sender, number, seq, false)
			case "m":
				g.Shown(&v)
			case "t":
				g.Stored(&v)
			case "e":
				head = uint64(sender)
			}
		}
		got := g.Result(head, 0, 0, Copies{}, Copies{})
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
		if got.Sound() != c.sound {
			t.Errorf("%s: sound %v", c.name, got.Sound())
		}
	}
}

func TestGroupVerdicts(t *testing.T) {
	clean := GroupResult{Sent: 10, Acked: 10, Stored: 10, Members: Copies{Due: 10_000, Delivered: 10_000}}
	if !clean.Clean() {
		t.Error("a clean run isn't")
	}
	for name, spoil := range map[string]func(*GroupResult){
		"missing":        func(r *GroupResult) { r.Members.Missing = 1 },
		"missing, slow":  func(r *GroupResult) { r.Slow.Missing = 1 },
		"unacked":        func(r *GroupResult) { r.Unacked = 1 },
		"refused":        func(r *GroupResult) { r.Refused = 1 },
		"pulled instead": func(r *GroupResult) { r.Members.Delivered, r.Members.Pulled = 9980, 20 },
		"repeated":       func(r *GroupResult) { r.Members.Repeats = 20 },
		"lost":           func(r *GroupResult) { r.Lost = 1 },
	} {
		r := clean
		spoil(&r)
		if r.Clean() {
			t.Errorf("%s: clean", name)
		}
	}
	if none := (Copies{}); none.Share() != 100 {
		t.Error("of no copy none is missing")
	}
}
