package node

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// An operator shortens one group's retention: its old messages go at once, a device that was
// away is told where what is left begins, and other conversations keep theirs.
func TestRetentionOfOneConversation(t *testing.T) {
	w := newTown(t, nil, "ann", "ben")
	ann := w.device("ann", "phone")
	var convs []id.ConversationID
	for range 2 {
		g, err := ann.CreateGroup(w.ctx, gochat.NewGroup{Name: "x", Users: []id.UserID{"ben"}})
		if err != nil {
			t.Fatal(err)
		}
		convs = append(convs, g.Conversation)
		for range 9 {
			r, err := ann.Send(w.ctx, gochat.ToConversation(g.Conversation), gochat.Content{Text: "hello", Mentions: []string{"ben"}})
			if err == nil {
				_, err = r.Wait(w.ctx)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	conv := convs[0]
	ask := func(in KeepRequest) KeepAnswer {
		t.Helper()
		in.Conversation = conv.String()
		ans, err := w.node.keepRequest(w.ctx, in)
		if err != nil {
			t.Fatal(err)
		}
		return ans
	}
	last := ask(KeepRequest{}).LastSeq
	if ans := ask(KeepRequest{}); ans.Own || ans.Age != 0 || ans.Messages != 0 || ans.FirstSeq != 1 || last < 10 || ans.Kind != "group" {
		t.Errorf("to begin with: %+v", ans)
	}
	if ans := ask(KeepRequest{Set: true, Messages: 3}); !ans.Own || ans.Messages != 3 || ans.Since == nil {
		t.Errorf("after it was set: %+v", ans)
	}
	for ask(KeepRequest{}).FirstSeq != last-2 {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-w.ctx.Done():
			t.Fatalf("the sweep was not begun: %+v", ask(KeepRequest{}))
		}
	}
	ben := w.device("ben", "desk")
	list, err := ben.Inbox(w.ctx)
	if err != nil || len(list) != 2 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, c := range list {
		page, _, err := ben.History(w.ctx, c.ID, 0, 100)
		if want := map[bool]int{true: 3, false: int(last) - 1}[c.ID == conv]; err != nil || len(page) != want {
			t.Errorf("%s holds %d messages, want %d: %v", c.ID, len(page), want, err)
		}
	}
	if ans := ask(KeepRequest{Set: true}); !ans.Own || ans.Age != 0 || ans.Messages != 0 {
		t.Errorf("for ever: %+v", ans)
	}
	if ans := ask(KeepRequest{Set: true, Default: true}); ans.Own {
		t.Errorf("taken back: %+v", ans)
	}
	for name, in := range map[string]KeepRequest{
		"no id": {Conversation: "x"}, "none there": {Conversation: id.Direct("x", "y").String()}, "a minute": {Conversation: conv.String(), Set: true, Age: time.Minute},
	} {
		if _, err := w.node.keepRequest(w.ctx, in); err == nil {
			t.Errorf("%s is taken", name)
		} else if e, ok := err.(*code.Error); !ok || e.Code == code.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
	_ = ask(KeepRequest{Set: true, Age: 30 * 24 * time.Hour})
	_, _ = ann.Close(), ben.Close()
	if err := w.node.stop(); err != nil {
		t.Error(err)
	}
	sum, err := storage.Check(context.Background(), w.node.cfg, slog.New(slog.DiscardHandler), func(_, text string) { t.Log(text) })
	if err != nil || sum.Errors > 0 || sum.Warnings > 0 {
		t.Errorf("audit: %+v, %v", sum, err)
	}
	// It holds after a restart.
	w.start(nil)
	k, raw, err := msgstore.NewTimeline(w.node.storage.Store, msgstore.Keys{}).Keep(context.Background(), conv)
	if err != nil || raw == nil || k.Age != 30*24*time.Hour {
		t.Errorf("after a restart: %+v, %v", k, err)
	}
}
