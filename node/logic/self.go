package logic

import (
	"context"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/self"
	"github.com/gochat-im/gochat/services/timeline"
)

// selfTimelines lets self timelines be written by the sequencer.
type selfTimelines struct{ seq *timeline.Sequencer }

func (s selfTimelines) Append(ctx context.Context, conv id.ConversationID, sender id.UserID, msgType uint32, content string, first func(tx *kv.Tx)) error {
	_, err := s.seq.Change(ctx, conv, func(_ context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch := &timeline.Change{Sender: sender, Type: msgType, Content: content}
		if !h.Exists() {
			ch.Create, ch.Rows = true, func(tx *kv.Tx, _ uint64) { first(tx) }
		}
		return ch, nil
	})
	return err
}

// record keeps what happened to a user's devices in the user's self timeline. What can't be
// kept is lost: DEVICES tells how things are.
func (l *Logic) record(ctx context.Context, e account.Event) {
	if l.self == nil { // before New has finished
		return
	}
	err := l.self.Record(ctx, e.User, self.Event{Event: e.What, Device: e.Device, Kind: self.KindName(e.Kind), By: e.By})
	if err != nil {
		l.log.Warn("an account event was not kept", "user", e.User, "event", e.What, "err", err)
	}
}
