package link

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/node"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// message returns a SEND that came with everything that may come with one.
func message(t testing.TB, o *packet.Origin, n int, conv id.ConversationID, to id.UserID) packet.Pending {
	t.Helper()
	mid := id.NewClientMsgID(1_800_000_000_000 + int64(n))
	m := &wire.Send{ToUserId: string(to), SeenSeq: uint64(n * 1000), ClientMsgId: mid[:], MsgType: 1, Content: strings.Repeat("x", 1+n%200), Mentions: []string{"carol"}, Ext: []byte{1, 2}}
	if !conv.IsZero() {
		m.ConversationId = conv[:]
	}
	body, err := m.Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := packet.Pending{From: o, ReqID: uint32(n), Resend: n%2 == 0, Interactive: n%3 == 0, At: 1 + int64(n)*int64(time.Millisecond)}
	if n%4 == 0 {
		tr := trace.New()
		p.Trace = &tr
	}
	if err := packet.DecodeSend(&p.Send, body, &packet.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	return p
}

var (
	anna = &packet.Origin{User: "anna", Device: "phone", Conn: 1<<63 + 5}
	key  = &packet.Origin{User: id.UserID(strings.Repeat("ü", 32)), Conn: 9} // a server key acts as a user, on no device
)

func request(t testing.TB, now int64) ([]byte, [][]packet.Pending) {
	var lanes [][]packet.Pending
	group := id.NewGroup()
	for i, o := range []*packet.Origin{anna, key, anna} {
		var lane []packet.Pending
		for n := range 5 * (i + 1) {
			if i == 1 {
				lane = append(lane, message(t, o, n, id.ConversationID{}, "bob"))
			} else {
				lane = append(lane, message(t, o, n, group, ""))
			}
		}
		lanes = append(lanes, lane)
	}
	b := AppendSends(nil, 3, 30)
	for i, lane := range lanes {
		b = AppendLane(b, lane[0].From, len(lane), i == 1)
		for j := range lane {
			b = AppendSend(b, &lane[j], now)
		}
	}
	return b, lanes
}

func TestSendsCross(t *testing.T) {
	now := int64(time.Second)
	b, lanes := request(t, now)
	got, err := ParseSends(b, 5*now)
	if err != nil || len(got) != len(lanes) {
		t.Fatalf("%d lanes, %v", len(got), err)
	}
	for i, lane := range lanes {
		if got[i].Insist != (i == 1) || got[i].Invalid != nil || len(got[i].Messages) != len(lane) {
			t.Errorf("lane %d came as %+v", i, got[i])
		}
		for j := range lane {
			p, q := &lane[j], &got[i].Messages[j]
			same := *q.From == *p.From && q.ReqID == p.ReqID && q.Resend == p.Resend && q.Interactive == p.Interactive &&
				q.Conversation == p.Conversation && q.ToUser == p.ToUser && q.SeenSeq == p.SeenSeq && q.ClientMsgID == p.ClientMsgID &&
				bytes.Equal(q.Tail, p.Tail) && q.BodyHash == p.BodyHash && fmt.Sprint(q.Mentions) == fmt.Sprint(p.Mentions) &&
				(p.Trace == nil) == (q.Trace == nil) && (p.Trace == nil || *p.Trace == *q.Trace)
			if age := now - p.At; !same || (5*now-q.At)/int64(time.Microsecond) != age/int64(time.Microsecond) {
				t.Errorf("%d of lane %d came as %+v, was %+v", j, i, q, p)
			}
		}
	}
	if want := id.Direct(key.User, "bob"); got[1].Conversation() != want {
		t.Errorf("a lane to a user is of %v, want %v", got[1].Conversation(), want)
	}
}

// Whatever comes is read to its end or refused.
func TestHostileSends(t *testing.T) {
	b, _ := request(t, 1)
	for n := range b {
		if _, err := ParseSends(b[:n:n], 1); err == nil {
			t.Errorf("cut after %d bytes, it was taken", n)
		}
	}
	if _, err := ParseSends(append(bytes.Clone(b), 0), 1); err == nil {
		t.Error("one byte more was taken")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	for range 5000 {
		c := bytes.Clone(b)
		for range 1 + rnd.IntN(4) {
			c[rnd.IntN(len(c))] = byte(rnd.Uint32())
		}
		lanes, err := ParseSends(c, 1)
		for i := range lanes {
			if err == nil && len(lanes[i].Messages) == 0 {
				t.Fatalf("a lane without messages: %x", c)
			}
		}
		readAll(c)
	}
	for _, c := range [][]byte{{0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 1}, {1, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, nil} {
		if _, err := ParseSends(c, 1); err == nil {
			t.Errorf("%x was taken", c)
		}
	}
}

func FuzzSends(f *testing.F) {
	b, _ := request(f, 1)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = ParseSends(b, 1)
		readAll(b)
	})
}

func readAll(b []byte) {
	r := ReadOutcomes(b)
	for {
		_, wrong, _, ok := r.Next()
		if !ok {
			return
		}
		if !wrong {
			if _, ok := r.Outcome(); !ok {
				return
			}
		}
	}
}

func TestOutcomesCross(t *testing.T) {
	e := code.Newf(code.Overloaded, "too much of it")
	e.RetryAfter = 1500 * time.Millisecond
	outs := []Outcome{
		{Ack: packet.Ack{Seq: 1, MessageID: 1 << 62}}, {Ack: packet.Ack{Seq: 1 << 40, MessageID: 7, Duplicate: true}},
		{Err: e}, {Err: code.New(code.WrongOwner), Unlaned: true}, {Err: code.Newf(code.Internal, "%s", strings.Repeat("x", 2*maxText))},
	}
	b := AppendOutcomes(nil, 300, outs)
	b = AppendWrong(b, 2, Node{ID: "logic-2", Addr: "10.0.0.1:7"})
	r := ReadOutcomes(b)
	if lane, wrong, _, ok := r.Next(); lane != 300 || wrong || !ok {
		t.Fatal("the first lane can't be read")
	}
	for i, want := range outs {
		got, ok := r.Outcome()
		switch {
		case !ok || got.Ack != want.Ack || got.Unlaned != want.Unlaned || (got.Err == nil) != (want.Err == nil):
			t.Errorf("%d came as %+v", i, got)
		case want.Err != nil && (got.Err.Code != want.Err.Code || got.Err.RetryAfter != want.Err.RetryAfter || got.Err.Reason != want.Err.Reason[:min(len(want.Err.Reason), maxText)]):
			t.Errorf("%d came as %+v", i, got.Err)
		}
	}
	if lane, wrong, right, ok := r.Next(); lane != 2 || !wrong || right != (Node{ID: "logic-2", Addr: "10.0.0.1:7"}) || !ok {
		t.Errorf("came as %d, %v, %v", lane, wrong, right)
	}
	if _, _, _, ok := r.Next(); ok {
		t.Error("there is more")
	}
}

// What a message costs in memory on its way: nothing but its bytes, and its part of what a call needs.
func TestAllocations(t *testing.T) {
	lane := make([]packet.Pending, 32)
	for i := range lane {
		lane[i] = message(t, anna, 1, id.NewGroup(), "")
		lane[i].Conversation, lane[i].Mentions = lane[0].Conversation, nil
		mid := id.NewClientMsgID(1_800_000_000_000)
		body, _ := (&wire.Send{ConversationId: lane[0].Conversation[:], ClientMsgId: mid[:], MsgType: 1, Content: "x"}).Marshal(nil)
		if err := packet.DecodeSend(&lane[i].Send, body, &packet.DefaultLimits); err != nil {
			t.Fatal(err)
		}
	}
	buf := make([]byte, 0, 16<<10)
	encode := func() {
		buf = AppendLane(AppendSends(buf[:0], 1, len(lane)), anna, len(lane), false)
		for i := range lane {
			buf = AppendSend(buf, &lane[i], 1)
		}
	}
	if n := testing.AllocsPerRun(100, encode); n != 0 {
		t.Errorf("encoding allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := ParseSends(buf, 1); err != nil {
			t.Fatal(err)
		}
	}); n > 5 {
		t.Errorf("reading 32 messages allocates %v times", n)
	}
	outs := make([]Outcome, 32)
	b := AppendOutcomes(nil, 0, outs)
	if n := testing.AllocsPerRun(100, func() {
		b = AppendOutcomes(b[:0], 0, outs)
		r := ReadOutcomes(b)
		r.Next()
		for range outs {
			if _, ok := r.Outcome(); !ok {
				t.Fatal("can't be read")
			}
		}
	}); n != 0 {
		t.Errorf("outcomes allocate %v times", n)
	}
}

func TestFailures(t *testing.T) {
	slow := code.Newf(code.Unavailable, "%s", strings.Repeat("y", 5000))
	slow.RetryAfter = 1500*time.Microsecond + 1
	for name, c := range map[string]struct {
		err  error
		want *node.Failure
	}{
		"none":       {nil, nil},
		"registered": {fmt.Errorf("doing: %w", code.Newf(code.Forbidden, "no")), &node.Failure{Code: uint32(code.Forbidden), Text: "no"}},
		"bounded":    {slow, &node.Failure{Code: uint32(code.Unavailable), Text: strings.Repeat("y", maxText), RetryAfterMs: 2}},
		"hidden":     {errors.New("the row of bob is broken"), &node.Failure{Code: uint32(code.Internal), Text: code.Internal.Text(), RetryAfterMs: 1000}},
		"late":       {fmt.Errorf("reading: %w", context.DeadlineExceeded), &node.Failure{Code: uint32(code.Unavailable), Text: code.Unavailable.Text(), RetryAfterMs: 500}},
		"wrong node": {fmt.Errorf("x: %w", &WrongNode{Node{"n", "a:1"}, 7}), &node.Failure{Code: uint32(code.WrongOwner), Text: code.WrongOwner.Text(), RetryAfterMs: 100, Node: "n", Addr: "a:1", Revision: 7}},
	} {
		got := FailureOf(c.err)
		if (got == nil) != (c.want == nil) || got != nil && *got != *c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
		var wrong *WrongNode
		back := ErrorOf(got)
		if isWrong := errors.As(back, &wrong); isWrong != (name == "wrong node") || isWrong && *wrong != (WrongNode{Node{"n", "a:1"}, 7}) {
			t.Errorf("%s came back as %v", name, back)
		}
	}
}

func TestCalls(t *testing.T) {
	tr := trace.New()
	ctx := trace.With(context.Background(), trace.Call{Trace: tr, Request: "r", ReqID: 3, Conn: 4, User: "u", Device: "d"})
	c := NewCall(ctx, "edge-1", anna)
	if c.From != "edge-1" || Origin(c) != *anna || c.Request != "r" || c.ReqId != 3 {
		t.Errorf("%+v", c)
	}
	if c = NewCall(ctx, "edge-1", nil); c.User != "u" || c.Device != "d" || c.Conn != 4 {
		t.Errorf("%+v", c)
	}
	if _, has := func() (time.Time, bool) {
		ctx, cancel := Within(context.Background(), c)
		defer cancel()
		if call := trace.From(ctx); call.Trace != tr || call.User != "u" || call.Request != "r" {
			t.Errorf("%+v", call)
		}
		return ctx.Deadline()
	}(); has {
		t.Error("a deadline that nobody set")
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if left, ms := Left(short, time.Second); left > 50*time.Millisecond || ms == 0 || ms > 50 {
		t.Errorf("%v, %d ms left", left, ms)
	}
	if left, ms := Left(ctx, time.Second); left != time.Second || ms != 1000 {
		t.Errorf("%v, %d ms left", left, ms)
	}
}

// Every method has its place, and what is about a conversation goes to its owner.
func TestMethodSlots(t *testing.T) {
	conv := id.NewGroup()
	for m := packet.Method(1); m.Known(); m++ {
		got := MethodSlot(m, "anna", append([]byte{0x0A, 16}, conv[:]...))
		var want id.Slot
		switch m {
		case packet.MethodConversations, packet.MethodGroupCreate, packet.MethodDevices, packet.MethodSignOut, packet.MethodProfiles,
			packet.MethodProfileSet, packet.MethodBlock, packet.MethodBlocks, packet.MethodBackground:
			want = id.UserID("anna").Slot()
		case packet.MethodOpenDirect:
			want = id.Direct("anna", id.UserID(conv[:])).Slot()
		case packet.MethodRoomCreate:
			want = id.Named(id.KindRoom, string(conv[:])).Slot()
		default:
			want = conv.Slot()
		}
		if got != want {
			t.Errorf("%v goes to slot %d, want %d", m, got, want)
		}
		for _, inner := range [][]byte{nil, {0x0A}, {0x0A, 200}, {0x0A, 3, 1}, {0x12, 1, 1}} {
			MethodSlot(m, "anna", inner)
		}
	}
}

func TestKeys(t *testing.T) {
	for _, k := range []Keys{nil, {}, {make([]byte, MinKey-1)}, {make([]byte, MinKey), nil}} {
		if _, _, err := k.TLS(); err == nil {
			t.Errorf("%d keys were taken", len(k))
		}
	}
}
