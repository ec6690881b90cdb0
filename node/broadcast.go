package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/gochat-im/gochat/edge/backend"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// caster tells everybody who is connected something, now and then.
type caster struct {
	mu   sync.Mutex
	last time.Time
}

// Bounds of a broadcast, in bytes.
const (
	maxCastTitle = 256
	maxCastExt   = packet.MaxProfileExt
)

// broadcast tells every connection at every edge, as a signal, and gives b its id and time. by stands in the log.
func (n *Node) broadcast(ctx context.Context, by string, b *wire.Broadcast) *code.Error {
	switch {
	case b.Text == "" || len(b.Text) > backend.MaxBroadcast || len(b.Title) > maxCastTitle || len(b.Ext) > maxCastExt:
		return code.Newf(code.BadRequest, "a broadcast has a text of 1 to %d bytes, a title of at most %d, and ext of at most %d", backend.MaxBroadcast, maxCastTitle, maxCastExt)
	case !utf8.ValidString(b.Text) || !utf8.ValidString(b.Title):
		return code.New(code.InvalidUTF8)
	}
	now := time.Now()
	n.cast.mu.Lock()
	if wait := n.cast.last.Add(n.cfg.Broadcast.Every).Sub(now); wait > 0 {
		n.cast.mu.Unlock()
		err := code.Newf(code.RateLimited, "the last broadcast was a moment ago")
		err.RetryAfter = wait
		return err
	}
	n.cast.last = now
	n.cast.mu.Unlock()
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails
	b.Id, b.Time = hex.EncodeToString(raw[:]), uint64(n.storage.Clock.Now())
	data, err := b.Marshal(nil)
	if err != nil {
		return code.Wrap(code.Internal, err)
	}
	body, err := (&wire.Signal{ToUserId: string(id.System), SenderId: string(id.System), Kind: packet.SignalNotice, Data: data}).Marshal(nil)
	if err != nil {
		return code.Wrap(code.Internal, err)
	}
	f := frame.Append(nil, frame.Signal, 0, 0, body)
	all := true
	if n.peers != nil {
		all = n.peers.edges.Tell(f, n.cfg.Broadcast.PerSecond)
	} else {
		all = n.edge.Hub.Tell(f, n.cfg.Broadcast.PerSecond)
	}
	n.log.InfoContext(ctx, "audit: everybody who is connected is told something", "by", by, "id", b.Id, "bytes", len(b.Title)+len(b.Text)+len(b.Ext), "all_edges", all)
	if !all {
		return code.Newf(code.Overloaded, "not every edge could take it; some are being told")
	}
	return nil
}

// BroadcastRequest asks for a broadcast.
type BroadcastRequest struct {
	Title string `json:"title,omitempty"`
	Text  string `json:"text"`
}

// BroadcastAnswer says what a broadcast's id is.
type BroadcastAnswer struct {
	ID string `json:"id"`
}

func (n *Node) broadcastRequest(ctx context.Context, in BroadcastRequest) (BroadcastAnswer, error) {
	b := &wire.Broadcast{Title: in.Title, Text: in.Text}
	if err := n.broadcast(ctx, "operator", b); err != nil {
		return BroadcastAnswer{}, err
	}
	return BroadcastAnswer{b.Id}, nil
}
