// Package relay is what lies between the nodes that know and the edges that have the connections:
// deliveries on their way to edges (Edges, and Box at the other end), sessions on their way to the
// directory (Sessions, and Desk at the other end), and look-ups in it (LookUps). All of it gathers while a
// call is under way, is bounded, and where something was lost says so: with a HINT, after
// which the client compares what it has with what there is.
//
// It knows nothing of how calls are made: its ends hand each other bytes.
package relay

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
)

// Caller makes one call of another node: body goes there, and the answer comes back. It ends when ctx does.
// An error may mean that the other node acted on it and its answer was lost.
type Caller func(ctx context.Context, to *nodes.Node, body []byte) ([]byte, error)

// View is who there is. *router.Router is one. Its methods don't block; the slices are shared: read only.
type View interface {
	Owner(slot id.Slot) *nodes.Node // nil: there is nobody
	Edges() []*nodes.Node
	Fanouts() []*nodes.Node
	Logics() []*nodes.Node
	ByWorker(worker uint32) *nodes.Node // nil: there is none
	IsSelf(n *nodes.Node) bool
}

var (
	errShort   = errors.New("relay: cut off")
	errUnknown = errors.New("relay: unknown kind")
)

// appendHint appends a HINT: of conv up to seq, or, without a conversation, of everything.
func appendHint(dst []byte, conv id.ConversationID, seq uint64) []byte {
	m := wire.Hint{All: conv.IsZero()}
	if !m.All {
		m.Heads = []*wire.ConversationSeq{{ConversationId: conv[:], Seq: seq}}
	}
	body, err := m.Marshal(nil)
	if err != nil { // plain data always marshals
		return dst
	}
	return frame.Append(dst, frame.Hint, 0, 0, body)
}

// logger returns l, or for nil one that logs nothing.
func logger(l *slog.Logger) *slog.Logger {
	if l == nil {
		return slog.New(slog.DiscardHandler)
	}
	return l
}

// pause waits for d, or until ctx ends; false: it has ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
