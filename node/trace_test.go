package node

import (
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
)

// lines is a log whose lines a test looks for.
type lines struct{ conntest.Log }

// with returns the lines that contain each of the texts.
func (l *lines) with(texts ...string) (found []string) {
next:
	for line := range strings.Lines(l.String()) {
		for _, t := range texts {
			if !strings.Contains(line, t) {
				continue next
			}
		}
		found = append(found, line)
	}
	return found
}

// traced returns a frame with a trace id.
func traced(b []byte, t trace.ID) []byte { return frame.AddTrace(b, 0, t) }

// What a frame with a trace id asks for is found under that id, and under its request id,
// user and connection, in the lines of the edge and of the service, and in the answer; what
// has none is logged when it is slow alone, or fails.
func TestTrace(t *testing.T) {
	for name, slow := range map[string]time.Duration{"slow": 1, "quick": time.Hour} {
		t.Run(name, func(t *testing.T) {
			var log lines
			w := newTown(t, func(cfg *Config, in *Program) {
				in.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
				cfg.Log.Slow = slow
			}, "ann", "ben")
			keys, err := account.LoadKeys(w.data)
			if err != nil {
				t.Fatal(err)
			}
			token, err := account.MintToken(keys, account.DefaultIssuer, "ann", "", time.Now(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			c, err := net.Dial("tcp", w.node.TCPAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			conv := id.Direct("ann", "ben")
			missing := id.Direct("ben", "cay")
			ids := make([]trace.ID, 6)
			for i := range ids {
				ids[i] = trace.New()
			}
			now := id.ClientMsgID{}
			ms := time.Now().UnixMilli()
			for i := range 6 {
				now[i] = byte(ms >> (40 - 8*i))
			}
			now[6], now[8] = 0x70, 0x80
			send := &wire.Send{ToUserId: "ben", ClientMsgId: now[:], MsgType: 1, Content: "a secret text"}
			var all []byte
			all = append(all, traced(conntest.Frame(frame.Connect, frame.FlagRequestID, 1, &wire.Connect{Version: 1, Token: token, DeviceId: "phone"}), ids[0])...)
			all = append(all, traced(conntest.Frame(frame.Send, frame.FlagRequestID, 2, send), ids[1])...)
			all = append(all, traced(conntest.Frame(frame.Sync, frame.FlagRequestID, 3, &wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: conv[:]}, {ConversationId: conv[:]}}}), ids[2])...)
			all = append(all, traced(conntest.Request(4, packet.MethodHistory, &wire.HistoryRequest{ConversationId: missing[:]}), ids[3])...)
			all = append(all, traced(conntest.Request(5, packet.MethodConversation, &wire.ConversationRequest{ConversationId: conv[:]}), ids[4])...)
			all = append(all, traced(frame.Append(nil, frame.Ping, frame.FlagRequestID, 6, nil), ids[5])...)
			all = append(all, frame.Append(nil, frame.Ping, frame.FlagRequestID, 7, nil)...)
			client := &conntest.Client{W: c}
			if err := client.Write(all); err != nil {
				t.Fatal(err)
			}
			answers := map[uint32]int{}
			for answers[2] == 0 || answers[7] == 0 {
				f, err := client.Next(20 * time.Second)
				if err != nil {
					t.Fatalf("after answers to %v: %v", answers, err)
				}
				if !f.HasReqID() {
					continue
				}
				answers[f.ReqID]++
				var want trace.ID
				if f.ReqID < 7 {
					want = ids[f.ReqID-1]
				}
				if f.Trace != want {
					t.Errorf("the answer %s has the trace %x, want %v", conntest.Describe(&f), f.Trace, want)
				}
			}
			if answers[3] != 2 {
				t.Errorf("%d answers to a SYNC of two ranges", answers[3])
			}
			level, sends, calls := "level=DEBUG", "a send was decided", "a call was answered"
			if slow == 1 {
				level, sends, calls = "level=WARN", "a send was slow", "a call was slow"
			}
			for _, want := range [][]string{
				{level, sends, "trace=" + ids[1].String(), "req=2", "user=ann", "device=phone", "conn=", "conversation=" + conv.String(), "seq=1", "queued=", "stored_in="},
				{"level=DEBUG", "a send was answered", "trace=" + ids[1].String(), "req=2", "user=ann", "conn=", "seq=1", "took="},
				{level, calls, "trace=" + ids[2].String(), "req=3", "user=ann", "call=sync"},
				{level, calls, "trace=" + ids[3].String(), "req=4", "call=history", "refused=no_such_conversation"},
				{level, calls, "trace=" + ids[4].String(), "req=5", "call=conversation"},
			} {
				if got := log.with(want...); len(got) != 1 {
					t.Errorf("%d lines with %q", len(got), want)
				}
			}
			ben, t9 := w.device("ben", "desk"), trace.New()
			ctx := gochat.WithTrace(w.ctx, t9)
			if _, _, err := ben.History(ctx, conv, 0, 1); err != nil {
				t.Fatal(err)
			}
			r, err := ben.Send(ctx, gochat.ToUser("ann"), gochat.Text("another"))
			if err == nil {
				_, err = r.Wait(w.ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
			if a, b := log.with(calls, "trace="+t9.String(), "call=history"), log.with(sends, "trace="+t9.String(), "seq=2"); len(a) != 1 || len(b) != 1 {
				t.Errorf("by the SDK: %q, %q", a, b)
			}
			if leaked := append(log.with("a secret text"), log.with(token)...); len(leaked) > 0 {
				t.Errorf("logged: %q", leaked)
			}
		})
	}
}
