package remote

import (
	"context"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/logic"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/link"
)

// receipts tell other nodes how far users have received. They may be lost: a client
// announces them again when it resumes. So nobody waits for them, and of each connection and
// conversation only the highest is told, once in a while.
type receipts struct {
	l *Logic

	mu    sync.Mutex
	nodes map[string]map[laneKey]uint64 // by address; a node that is there has a goroutine
}

const (
	receiptsEvery = 100 * time.Millisecond // about as often as cursors are told to other devices
	maxReceipts   = 8 << 10                // waiting for one node; what comes beyond is dropped
)

// Received implements conn.Conversations.
func (l *Logic) Received(o *packet.Origin, conv id.ConversationID, seq uint64) {
	if l.cfg.Pool == nil {
		l.cfg.Local.Conversations.Received(o, conv, seq)
		return
	}
	owner := l.cfg.Router.Owner(conv.Slot())
	switch {
	case l.cfg.Local != nil && l.cfg.Router.IsSelf(owner):
		l.cfg.Local.Conversations.Received(o, conv, seq)
	case owner != nil:
		l.receipts.note(owner.RPC, o, conv, seq)
	}
}

func (r *receipts) note(addr string, o *packet.Origin, conv id.ConversationID, seq uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, running := r.nodes[addr]
	if m == nil {
		m = make(map[laneKey]uint64)
		if r.nodes == nil {
			r.nodes = make(map[string]map[laneKey]uint64)
		}
		r.nodes[addr] = m
	}
	if !running {
		go r.tell(addr)
	}
	key := laneKey{o, conv}
	if old, ok := m[key]; seq > old && (ok || len(m) < maxReceipts) {
		m[key] = seq
	}
}

// tell is the goroutine of one node: it ends when nothing has come for a while.
func (r *receipts) tell(addr string) {
	p := r.l.cfg.Pool
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-pause.C:
		case <-p.done:
		}
		r.mu.Lock()
		m := r.nodes[addr]
		if len(m) == 0 {
			delete(r.nodes, addr)
			r.mu.Unlock()
			return
		}
		r.nodes[addr] = make(map[laneKey]uint64)
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), sendTime)
		req := &logic.ReceivedRequest{Call: link.NewCall(ctx, p.cfg.Self, nil), Marks: make([]*logic.Mark, 0, len(m))}
		for key, seq := range m {
			req.Marks = append(req.Marks, &logic.Mark{
				ConversationId: key.conv[:], Seq: seq,
				User: string(key.from.User), Device: string(key.from.Device), Conn: key.from.Conn,
			})
		}
		if _, err := invoke(ctx, p, addr, req.Call, req, p.logic.Received); err != nil {
			r.l.cfg.Logger.Debug("receipts were lost", "addr", addr, "marks", len(m), "err", err)
		}
		cancel()
		pause.Reset(receiptsEvery)
	}
}
