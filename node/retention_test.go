package node

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/node/storage"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// TestMessagesOlderThanTheyAreKept: whoever comes later is told where what is left begins, and
// those who are there go on.
func TestMessagesOlderThanTheyAreKept(t *testing.T) {
	data := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := start(t, data)
	signUp(t, n, "alice", "bob")
	alice := device(t, n, data, "alice", func(gochat.Message) {})
	if err := alice.Connected(ctx); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		say(ctx, t, alice, "bob", fmt.Sprint("old ", i))
	}
	now := time.Now().UnixMilli()
	sweeper := msgstore.NewSweeper(msgstore.SweeperConfig{
		Store: n.storage.Store, Logger: slog.New(slog.DiscardHandler), Now: func() int64 { return now },
	})
	for removed := 0; removed == 0 && ctx.Err() == nil; {
		now += 3 * time.Hour.Milliseconds()
		k, _, err := sweeper.SweepOld(ctx, msgstore.Retention{Direct: time.Hour}, 100)
		if err != nil {
			t.Fatal(err)
		}
		removed += k
	}
	// The owner has the conversation in memory as it was.
	if seq := say(ctx, t, alice, "bob", "new"); seq != 6 {
		t.Errorf("seq %d after old messages went", seq)
	}
	got := make(chan gochat.Message, 16)
	bob := device(t, n, data, "bob", func(m gochat.Message) { got <- m })
	if err := bob.Connected(ctx); err != nil {
		t.Fatal(err)
	}
	convs, err := bob.Inbox(ctx)
	if err != nil || len(convs) != 1 || convs[0].LastSeq != 6 {
		t.Fatalf("bob's inbox: %+v, %v", convs, err)
	}
	for {
		select {
		case m := <-got:
			if m.Seq == 6 {
				_, _ = alice.Close(), bob.Close()
				if err := n.stop(); err != nil {
					t.Error(err)
				}
				sum, err := storage.Check(context.Background(), n.cfg, slog.New(slog.DiscardHandler), func(_, text string) { t.Log(text) })
				if err != nil || sum.Errors > 0 {
					t.Errorf("audit: %+v, %v", sum, err)
				}
				return
			}
		case <-ctx.Done():
			t.Fatal("bob never got the new message")
		}
	}
}
