package conn_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Several goroutines queue, several flush, and the transport is full now and then: the
// frames of each source keep their order and none is cut or lost.
func TestOrder(t *testing.T) {
	const sources, each = 4, 2000
	b := newBench(t, conn.Config{QueueBytes: 1 << 26, QueueFrames: 1 << 20})
	p := b.login("alice", "d")
	p.Room(0)
	var wg sync.WaitGroup
	for s := range sources {
		wg.Go(func() {
			var f []byte
			for i := range each {
				m := packet.AppendMessage(nil, uint64(i+1), 1, id.UserID(fmt.Sprint("s", s)), nil)
				f = packet.AppendDeliver(f[:0], id.ConversationID{1}, nil, m)
				p.C.Deliver(f)
				if i%(s+2) == 0 {
					b.host.Flush()
				}
				if i%50 == s {
					p.Room(10 + i%1000)
				}
			}
			b.host.Flush()
		})
	}
	wg.Wait()
	p.Room(-1)
	p.C.Flush()
	lines, err := p.Take()
	if err != nil {
		t.Fatal(err)
	}
	if len(lines) != sources*each {
		t.Fatalf("%d frames, want %d", len(lines), sources*each)
	}
	var last [sources]int
	for i, l := range lines {
		var seq, source int
		if _, err := fmt.Sscanf(l, "DELIVER [%d s%d: ]", &seq, &source); err != nil || seq != last[source]+1 {
			t.Fatalf("frame %d after message %d of its source: %q, %v", i, last[source], l, err)
		}
		last[source] = seq
	}
}
