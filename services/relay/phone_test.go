package relay_test

import (
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// phone is a client: a transport that reads what it is sent.
type phone struct {
	user id.UserID
	edge *edgeNode
	c    *conn.Conn

	mu     sync.Mutex
	buf    []byte
	got    map[id.ConversationID][]uint64
	hints  map[id.ConversationID]uint64 // up to which it was told
	all    int                          // HINTs of everything
	told   code.Code                    // why it was closed
	synced map[id.ConversationID]uint64 // what it has read itself, up to
	head   func(id.ConversationID) uint64
	ended  bool

	connected bool
}

func (p *phone) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return 0, net.ErrClosed
	}
	p.buf = append(p.buf, b...)
	for {
		f, n, err := frame.Parse(p.buf, frame.HardMax)
		if err != nil || n == 0 {
			return len(b), err
		}
		p.take(&f)
		p.buf = p.buf[n:]
	}
}

func (p *phone) take(f *frame.Frame) {
	switch f.Type {
	case frame.Deliver:
		c, _, ms, err := packet.DecodeDeliver(f.Body)
		for err == nil && len(ms) > 0 {
			var v packet.MessageView
			v, ms, err = packet.NextMessage(ms)
			p.got[c] = append(p.got[c], v.Seq)
		}
	case frame.Connack:
		p.connected = true
	case frame.Hint:
		h, err := packet.DecodeHint(f.Body)
		if err != nil {
			return
		}
		if h.All {
			p.all++
			for c := range p.synced {
				p.synced[c] = max(p.synced[c], p.head(c))
			}
		}
		for _, x := range h.Heads {
			c := id.ConversationID(x.ConversationId)
			p.hints[c] = max(p.hints[c], x.Seq)
			p.synced[c] = max(p.synced[c], p.head(c))
		}
	case frame.Error:
		p.told = conntest.ErrCode(f)
	case frame.Kick:
		p.told = conntest.ErrCode(f)
	}
}

func (p *phone) CloseWrite(code.Code) { go p.Close() }

func (p *phone) Close() {
	p.mu.Lock()
	was := p.ended
	p.ended = true
	p.mu.Unlock()
	if !was {
		p.c.Closed()
	}
}

func (p *phone) RemoteAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:4711") }

func (p *phone) seqs(c id.ConversationID) []uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got[c])
}

func (p *phone) hinted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all
}

func (p *phone) why() (code.Code, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.told, p.ended
}

// connect brings a client to an edge.
func (w *world) connect(e *edgeNode, user id.UserID, device string) *phone {
	w.t.Helper()
	p := &phone{user: user, edge: e, got: map[id.ConversationID][]uint64{}, hints: map[id.ConversationID]uint64{}, synced: map[id.ConversationID]uint64{}, head: func(c id.ConversationID) uint64 { return w.head(c) }}
	c, refused := e.hub.Open(p, p.RemoteAddr().Addr())
	if refused != nil {
		w.t.Fatal(refused)
	}
	p.c = c
	c.Input(conntest.Connect(string(user), device))
	eventually(w.t, "a client is connected", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.connected || p.ended
	})
	return p
}
