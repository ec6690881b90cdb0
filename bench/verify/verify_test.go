package verify

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func TestBodies(t *testing.T) {
	for _, n := range []int{1, 7, 8, 9, 100, 1000} {
		b := make([]byte, n)
		FillBody(b, 17, 4711)
		for _, c := range b {
			if c < 'a' || c > 'p' {
				t.Fatalf("a body of %d bytes has %q", n, c)
			}
		}
		if !SameBody(b, 17, 4711) {
			t.Errorf("a body of %d bytes isn't its own", n)
		}
		if n >= 8 && (SameBody(b, 17, 4712) || SameBody(b, 18, 4711)) {
			t.Errorf("a body of %d bytes is another's, too", n)
		}
		for i := range b {
			b[i] ^= 1
			if SameBody(b, 17, 4711) {
				t.Errorf("a body of %d bytes changed at %d goes unseen", n, i)
			}
			b[i] ^= 1
		}
	}
	b := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() { FillBody(b, 1, 2); SameBody(b, 1, 2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestClientIDs(t *testing.T) {
	ms := time.Date(2026, 5, 1, 2, 3, 4, 0, time.UTC).UnixMilli()
	var c [16]byte
	PutID(&c, ms, 0xABC, 499, 1<<33+5)
	cid := id.ClientMsgID(c)
	if !cid.Valid() || cid.UnixMilli() != ms {
		t.Errorf("%s is no UUIDv7 of %d", cid, ms)
	}
	if n, ok := ReadID(cid, 0xABC, 499); !ok || n != 1<<33+5 {
		t.Errorf("read %d, %v", n, ok)
	}
	for _, other := range []struct {
		salt uint16
		pair int
	}{{0xABD, 499}, {0xABC, 498}} {
		if _, ok := ReadID(cid, other.salt, other.pair); ok {
			t.Errorf("taken for one of run %x, pair %d", other.salt, other.pair)
		}
	}
}

func TestReceivedAgainstModel(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 300 {
		var r Received
		model := map[uint64]bool{}
		n := uint64(1 + rng.IntN(40))
		for range 100 {
			seq := 1 + rng.Uint64N(n)
			if got, want := r.Add(seq), !model[seq]; got != want {
				t.Fatalf("seed %d: Add(%d) is %v; model %v", seed, seq, got, model)
			}
			model[seq] = true
			var mark uint64
			for model[mark+1] {
				mark++
			}
			if r.Mark != mark {
				t.Fatalf("seed %d: mark %d, want %d; model %v", seed, r.Mark, mark, model)
			}
			from, to := r.Missing()
			if len(model) == int(mark) {
				if from != 0 {
					t.Fatalf("seed %d: missing %d to %d; model %v", seed, from, to, model)
				}
				continue
			}
			want := mark + 1
			for !model[want+1] {
				want++
			}
			if from != mark+1 || to != want {
				t.Fatalf("seed %d: missing %d to %d, want %d to %d", seed, from, to, mark+1, want)
			}
		}
	}
}

func TestRuns(t *testing.T) {
	var r Runs
	want := map[uint64]uint64{}
	add := func(number, seq uint64) {
		r.Add(number, seq)
		want[number] = seq
	}
	for n := uint64(1); n <= 1000; n++ {
		add(n, n)
	}
	add(1002, 1001)
	add(1001, 1002)
	for n := uint64(1003); n <= 1100; n++ {
		add(n, n+5)
	}
	if len(r.runs) != 4 {
		t.Errorf("%d runs, want 4: memory grows with the messages", len(r.runs))
	}
	if r.Count() != uint64(len(want)) {
		t.Errorf("count %d, want %d", r.Count(), len(want))
	}
	for n := uint64(0); n <= 1110; n++ {
		if got := r.Seq(n); got != want[n] {
			t.Errorf("seq of %d: %d, want %d", n, got, want[n])
		}
	}
}

// TestLedger plays scripts: s N sends N messages; a N:SEQ acks; d, p and t give the
// numbers that a DELIVER, a pull and the timeline hold, each as number:seq, n for n:n
// (x marks a changed body); e SEQ tells the end of the timeline.
func TestLedger(t *testing.T) {
	for _, c := range []struct {
		name, script string
		want         Result
		clean, sound bool
	}{
		{"clean", "s 3, a 1, a 2, a 3, d 1, d 2, d 3, t 1, t 2, t 3, e 3",
			Result{Sent: 3, Acked: 3, Stored: 3, Delivered: 3}, true, true},
		{"an acked message is gone from the end", "s 2, a 1, a 2, d 1, d 2, t 1, e 1",
			Result{Sent: 2, Acked: 2, Stored: 1, Delivered: 2, Lost: 1}, false, false},
		{"a hole in the timeline", "s 3, a 1, a 2, a 3, d 1, d 2, d 3, t 1, t 3, e 3",
			Result{Sent: 3, Acked: 3, Stored: 3, Delivered: 3, Lost: 2}, false, false},
		{"an acked message was moved", "s 2, a 1, a 2:3, d 1, t 1, t 2:2, e 2",
			Result{Sent: 2, Acked: 2, Stored: 2, Delivered: 1, Lost: 1, Missing: 1}, false, false},
		{"stored twice", "s 2, a 1, a 2, d 1, d 2, d 2:3, t 1, t 2, t 2:3, e 3",
			Result{Sent: 2, Acked: 2, Stored: 3, Delivered: 3, Doubled: 1}, false, false},
		{"reordered", "s 2, a 1:2, a 2:1, d 2:1, d 1:2, t 2:1, t 1:2, e 2",
			Result{Sent: 2, Acked: 2, Stored: 2, Delivered: 2, Doubled: 1}, false, false},
		{"a body was changed", "s 1, a 1, d 1, t 1x, e 1",
			Result{Sent: 1, Acked: 1, Stored: 1, Delivered: 1, Lost: 1, Corrupt: 1}, false, false},
		{"the recipient saw another message there", "s 2, a 2:1, d 1, t 2:1, e 1",
			Result{Sent: 2, Acked: 1, Stored: 1, Delivered: 1}, true, true},
		{"the recipient saw the message elsewhere", "s 1, a 1, d 1:2, t 1, e 1",
			Result{Sent: 1, Acked: 1, Stored: 1, Gaps: 1, Corrupt: 1}, false, false},
		{"a message nobody sent", "s 1, a 1, d 1, t 1, t 9:2, e 2",
			Result{Sent: 1, Acked: 1, Stored: 2, Delivered: 1, Corrupt: 1, Missing: 1}, false, false},
		{"unacked and stored is fine", "s 2, a 1, d 1, d 2, t 1, t 2, e 2",
			Result{Sent: 2, Acked: 1, Stored: 2, Delivered: 2}, true, true},
		{"delivered twice", "s 2, a 1, a 2, d 1, d 2, d 1, t 1, t 2, e 2",
			Result{Sent: 2, Acked: 2, Stored: 2, Delivered: 1, Repeats: 1}, false, true},
		{"never delivered", "s 2, a 1, a 2, d 1, t 1, t 2, e 2",
			Result{Sent: 2, Acked: 2, Stored: 2, Delivered: 1, Missing: 1}, false, true},
		{"a gap that was pulled", "s 4, a 1, a 2, a 3, a 4, d 1, d 3, d 4, p 2, p 3, t 1, t 2, t 3, t 4, e 4",
			Result{Sent: 4, Acked: 4, Stored: 4, Delivered: 2, Gaps: 1, Pulled: 1}, false, true},
		{"the timeline breaks off", "s 2, a 1, a 2, d 1, d 2, t 1, e 2",
			Result{Sent: 2, Acked: 2, Stored: 1, Delivered: 2, Lost: 1, Unread: 1}, false, false},
		{"told twice by the timeline", "s 1, a 1, d 1, t 1, t 1, e 1",
			Result{Sent: 1, Acked: 1, Stored: 1, Delivered: 1, Doubled: 1}, false, false},
		{"a duplicate ack", "s 1, A 1, d 1, t 1, e 1",
			Result{Sent: 1, Acked: 1, Stored: 1, Delivered: 1, Duplicates: 1}, true, true},
	} {
		l := Ledger{Pair: 3, Salt: 77, Sender: "ann", Body: 20}
		var head uint64
		for step := range strings.SplitSeq(c.script, ", ") {
			var number, seq uint64
			op, arg, _ := strings.Cut(step, " ")
			arg, changed := strings.CutSuffix(arg, "x")
			if n, _ := fmt.Sscanf(arg, "%d:%d", &number, &seq); n == 1 {
				seq = number
			}
			v := packet.MessageView{Seq: seq, Sender: []byte("ann"), Content: make([]byte, 20)}
			PutID((*[16]byte)(&v.ClientMsgID), 1, 77, 3, number)
			FillBody(v.Content, 3, number)
			if changed {
				v.Content[5] ^= 1
			}
			switch op {
			case "s":
				l.Sent = number
			case "a", "A":
				l.Acked(number, seq, op == "A")
			case "d":
				l.Delivered(&v)
			case "p":
				l.Pulled(&v)
			case "t":
				l.Stored(&v)
			case "e":
				head = seq
			}
		}
		var got Result
		got.Add(&l, head)
		c.want.Pairs = 1
		if got != c.want {
			t.Errorf("%s:\n got %+v\nwant %+v", c.name, got, c.want)
		}
		if got.Sound() != c.sound || got.Clean() != c.clean {
			t.Errorf("%s: sound %v, clean %v", c.name, got.Sound(), got.Clean())
		}
	}
}

func TestSenderAndLengthAreChecked(t *testing.T) {
	l := Ledger{Sender: "ann", Body: 20, Sent: 1}
	v := packet.MessageView{Seq: 1, Sender: []byte("bob"), Content: make([]byte, 20)}
	PutID((*[16]byte)(&v.ClientMsgID), 1, 0, 0, 1)
	FillBody(v.Content, 0, 1)
	if l.check(&v) != 0 {
		t.Error("another sender goes unseen")
	}
	v.Sender = []byte("ann")
	if l.check(&v) != 1 {
		t.Error("the right message isn't taken")
	}
	v.Content = v.Content[:16]
	if l.check(&v) != 0 {
		t.Error("a shortened body goes unseen")
	}
	var none Result
	if none.DeliveredShare() != 100 {
		t.Error("of no message none is missing")
	}
}
