package conversation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/conversation"
)

// history is what the log of one conversation says.
type history struct {
	places  map[string]uint64 // sender and text: seq
	senders []id.UserID       // by seq; empty: the server's, which doesn't count
	last    uint64
}

// replay reads the log, and checks that whoever wrote was in.
func (c *cluster) replay(ctx context.Context, conv id.ConversationID) *history {
	c.t.Helper()
	raw, _, last, err := msgstore.NewTimeline(c.shared, msgstore.Keys{}).Range(ctx, conv, 1, 1<<62, 0, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	h := &history{places: map[string]uint64{}, senders: []id.UserID{""}, last: last}
	in := map[id.UserID]bool{}
	var before packet.MessageView
	for len(raw) > 0 {
		v, rest, err := packet.NextMessage(raw)
		if err != nil || v.Seq != before.Seq+1 || v.ID <= before.ID {
			c.t.Fatalf("message %d (%d) of %s after %d (%d): %v", v.Seq, v.ID, conv, before.Seq, before.ID, err)
		}
		raw, before = rest, v
		sender := id.UserID(v.Sender)
		if v.Type == packet.TypeSystem {
			var m struct {
				Do    string
				Users []id.UserID
			}
			if err := json.Unmarshal(v.Content, &m); err != nil {
				c.t.Fatal(err)
			}
			for _, u := range m.Users {
				in[u] = m.Do == "create" || m.Do == "add" || m.Do == "join"
			}
			sender = ""
		} else {
			key := string(sender) + " " + string(v.Content)
			if h.places[key] != 0 {
				c.t.Errorf("%s: %q is stored at %d and %d", conv, key, h.places[key], v.Seq)
			}
			h.places[key] = v.Seq
			if conv.Kind() == id.KindGroup && !in[sender] {
				c.t.Errorf("%s: message %d is of %s, who wasn't in", conv, v.Seq, sender)
			}
		}
		h.senders = append(h.senders, sender)
	}
	return h
}

func (c *cluster) verify(ctx context.Context, convs []id.ConversationID, talkers []*talker) {
	c.t.Helper()
	stored, refused, ids := 0, 0, map[id.MessageID]bool{}
	for _, conv := range convs {
		h := c.replay(ctx, conv)
		for _, k := range talkers {
			if k.conv != conv {
				continue
			}
			for { // what came late
				select {
				case o := <-k.heard:
					k.take(o)
					continue
				default:
				}
				break
			}
			before := uint64(0)
			for n := range k.ids {
				at := h.places[fmt.Sprintf("%s %d", k.user, n)]
				ack, acked := k.acks[n]
				if acked != (at != 0) || ack.Seq != at {
					c.t.Errorf("%s %d of %s was acked %v as %d (refused: %v), and is stored at %d", k.user, n, conv, acked, ack.Seq, k.no[n], at)
				}
				if at == 0 {
					refused++
					continue
				}
				stored++
				if at <= before {
					c.t.Errorf("%s %d of %s is stored at %d, before the one sent earlier, at %d", k.user, n, conv, at, before)
				}
				before = at
				if ids[ack.MessageID] {
					c.t.Errorf("message id %d was given out twice", ack.MessageID)
				}
				ids[ack.MessageID] = true
				if !c.bus.has(conv, at) {
					c.t.Errorf("%s %d of %s was acked, and the bus never had it", k.user, n, conv)
				}
			}
			c.compare(ctx, h, k)
		}
	}
	err := msgstore.Check(ctx, c.shared, msgstore.Keys{}, func(f msgstore.Finding) {
		if f.Severity >= msgstore.Error {
			c.t.Errorf("audit: %s", f)
		}
	})
	if err != nil {
		c.t.Error(err)
	}
	c.t.Logf("%d stored, %d refused for good", stored, refused)
	if stored == 0 {
		c.t.Error("nothing was stored: the test shows nothing")
	}
}

// compare sees whether all nodes show k's user the same of the conversation, and what the log says.
func (c *cluster) compare(ctx context.Context, h *history, k *talker) {
	c.t.Helper()
	var first *wire.ConversationState
	for i, n := range c.nodes {
		st, err := n.convs.State(ctx, &packet.Origin{User: k.user, Device: "phone", Conn: 1}, k.conv)
		if err != nil {
			c.t.Errorf("node %d: %s in %s: %v", i, k.user, k.conv, err)
			return
		}
		if first == nil {
			first = st
		}
		a, _ := json.Marshal(first)
		if b, _ := json.Marshal(st); !slices.Equal(a, b) {
			c.t.Errorf("%s in %s: one node shows %s, another %s", k.user, k.conv, a, b)
		}
	}
	top := h.last
	if first.LeftSeq != 0 {
		top = first.LeftSeq
	}
	m, _, err := msgstore.NewMembers(c.shared, msgstore.Keys{}).Get(ctx, k.conv, k.user)
	if err != nil {
		c.t.Fatal(err)
	}
	want := uint32(0)
	for seq := max(first.ReadSeq+1, m.Intervals[len(m.Intervals)-1].Joined); seq <= top; seq++ {
		if s := h.senders[seq]; s != "" && s != k.user {
			want++
		}
	}
	if want = min(want, conversation.UnreadCap); first.Unread != want || first.LastSeq != top {
		c.t.Errorf("%s in %s: %d unread above %d, want %d; last %d of %d", k.user, k.conv, first.Unread, first.ReadSeq, want, first.LastSeq, top)
	}
	if low := max(k.read, min(k.seen, top)); first.ReadSeq < low || first.ReadSeq > max(k.asked, low) || first.RecvSeq < first.ReadSeq {
		c.t.Errorf("%s in %s has read up to %d and received up to %d, was told %d and asked for %d", k.user, k.conv, first.ReadSeq, first.RecvSeq, low, k.asked)
	}
}
