package conversation_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/bus/log"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/conversation"
	"github.com/gochat-im/gochat/services/fanout"
	"github.com/gochat-im/gochat/services/session"
	"github.com/gochat-im/gochat/services/timeline"
)

type busRows struct{ msgstore.Keys }

func (r busRows) Refs(dst []byte) []byte { return r.BusRefs(dst, 0) }
func (r busRows) AppendRef(dst []byte, ref *log.Ref) []byte {
	row := msgstore.BusRef(*ref)
	return row.Append(dst)
}
func (r busRows) ParseRef(v []byte) (log.Ref, error) {
	row, err := msgstore.ParseBusRef(v)
	return log.Ref(row), err
}
func (r busRows) Position(dst []byte, group string) []byte { return r.BusPosition(dst, group, 0) }
func (r busRows) AppendPosition(dst []byte, off uint64) []byte {
	return msgstore.AppendBusPosition(dst, off)
}
func (r busRows) ParsePosition(v []byte) (uint64, error) { return msgstore.ParseBusPosition(v) }

type guard struct{ *conversation.Service }

func (g guard) Rules(ctx context.Context, c id.ConversationID) (timeline.Rules, error) {
	return g.Service.Rules(ctx, c)
}

type everybody struct{}

func (everybody) Exists(context.Context, id.UserID) (bool, error) { return true, nil }

// edge is where frames arrive and outcomes are heard: for each connection the seqs of
// each conversation, delivered and acked.
type edge struct {
	t         *testing.T
	mu        sync.Mutex
	delivered map[uint64]map[id.ConversationID][]uint64
	acked     map[uint64]map[id.ConversationID][]uint64
	open      atomic.Int64
}

func note(m map[uint64]map[id.ConversationID][]uint64, conn uint64, c id.ConversationID, seq uint64) {
	if m[conn] == nil {
		m[conn] = map[id.ConversationID][]uint64{}
	}
	m[conn][c] = append(m[conn][c], seq)
}

func (e *edge) DeliverUsers([]id.UserID, []byte, uint64) { e.t.Error("everybody is known") }

func (e *edge) DeliverLazily(conn uint64, f []byte) { e.Deliver(conn, f) }

func (e *edge) Deliver(conn uint64, f []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p, n, err := frame.Parse(f, frame.DefaultMax)
	if err != nil || n != len(f) {
		e.t.Errorf("frame: %d of %d bytes, %v", n, len(f), err)
		return
	}
	conv, _, ms, err := packet.DecodeDeliver(p.Body)
	for err == nil && len(ms) > 0 {
		var v packet.MessageView
		if v, ms, err = packet.NextMessage(ms); err == nil {
			note(e.delivered, conn, conv, v.Seq)
		}
	}
	if err != nil {
		e.t.Error(err)
	}
}

func (e *edge) Flush() {}

func (e *edge) Acked(p *packet.Pending, a packet.Ack) {
	e.mu.Lock()
	note(e.acked, p.From.Conn, a.Conversation, a.Seq)
	e.mu.Unlock()
	e.open.Add(-1)
}

func (e *edge) Refused(_ *packet.Pending, err *code.Error) {
	e.t.Error(err)
	e.open.Add(-1)
}

// TestTogether runs the real services on the real store: what everybody sends reaches
// every other session of both users once and in order, and is counted right.
func TestTogether(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	store, err := pebblekv.Open(pebblekv.Config{Dir: filepath.Join(t.TempDir(), "kv")})
	if err != nil {
		t.Fatal(err)
	}
	keys := msgstore.Keys{}
	meta, err := msgstore.OpenMeta(t.Context(), store, keys, time.Now().UnixMilli())
	if err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	tl := msgstore.NewTimeline(store, keys)
	bus, err := log.New(log.Config{Store: store, Rows: busRows{keys}, Read: func(ctx context.Context, c id.ConversationID, from, to uint64) ([]byte, uint64, error) {
		ms, _, last, err := tl.Range(ctx, c, from, to, 0, 0)
		return ms, last, err
	}})
	if err != nil {
		t.Fatal(err)
	}
	svc, err := conversation.New(conversation.Config{Store: store, Keys: keys, Users: everybody{}, FlushEvery: 10 * time.Millisecond, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	seq, err := timeline.New(timeline.Config{Store: store, Keys: keys, Bus: bus, Guard: guard{svc}, Epoch: meta.Epoch, Seen: svc.Seen})
	if err != nil {
		t.Fatal(err)
	}
	svc.Bind(seq)
	dir, err := session.New(session.Config{})
	if err != nil {
		t.Fatal(err)
	}
	e := &edge{t: t, delivered: map[uint64]map[id.ConversationID][]uint64{}, acked: map[uint64]map[id.ConversationID][]uint64{}}
	fan, err := fanout.New(fanout.Config{Members: svc, Sessions: dir, Deliver: e, Timeline: tl, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg, senders sync.WaitGroup
	for _, run := range []func(context.Context) error{seq.Run, svc.Run, fan.Run, func(ctx context.Context) error { return bus.Subscribe(ctx, "fanout", fan.Handle) }} {
		wg.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	defer func() {
		stop()
		wg.Wait()
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()

	const users, devices, rounds = 6, 2, 60
	name := func(u int) id.UserID { return id.UserID(fmt.Sprint("user", u)) }
	for u := range users {
		for d := range devices {
			o := &packet.Origin{User: name(u), Device: id.DeviceID(fmt.Sprint("d", d)), Conn: uint64(u*devices + d + 1)}
			dir.Register(o.User, o.Device, 1, o.Conn)
			rng := rand.New(rand.NewPCG(seed, o.Conn))
			senders.Go(func() {
				for range rounds {
					peer := name(rng.IntN(users)) // oneself, now and then
					batch := make([]packet.Pending, 1+rng.IntN(6))
					for i := range batch {
						p := &batch[i]
						p.ClientMsgID = id.NewClientMsgID(time.Now().UnixMilli())
						p.Tail = append([]byte{4<<3 | 2, 16}, p.ClientMsgID[:]...)
						p.Tail = append(p.Tail, 5<<3, 1, 6<<3|2, 2, 'h', 'i')
						p.Content, p.Type, p.BodyHash = p.Tail[len(p.Tail)-2:], 1, xxhash.Sum64(p.Tail)
						p.From, p.ToUser, p.Reply = o, peer, e
					}
					e.open.Add(int64(len(batch)))
					svc.Send(batch)
					if rng.IntN(4) == 0 {
						time.Sleep(time.Millisecond) // so that batches differ
					}
				}
			})
		}
	}
	senders.Wait()
	for e.open.Load() > 0 {
		time.Sleep(time.Millisecond)
	}
	for a := range users {
		for b := a; b < users; b++ {
			conv := id.Direct(name(a), name(b))
			head, _, err := tl.Head(t.Context(), conv)
			if err != nil {
				t.Fatal(err)
			}
			for _, u := range slices.Compact([]int{a, b}) {
				own := 0
				for d := range devices {
					conn := uint64(u*devices + d + 1)
					e.await(conn, conv, head.LastSeq)
					own += len(e.acked[conn][conv])
				}
				if head.LastSeq == 0 {
					continue
				}
				st, err := svc.State(t.Context(), &packet.Origin{User: name(u)}, conv)
				if err != nil {
					t.Fatal(err)
				}
				if want := min(int(head.LastSeq)-own, conversation.UnreadCap); int(st.Unread) != want {
					t.Errorf("%s has %d unread of %d, want %d", name(u), st.Unread, head.LastSeq, want)
				}
			}
		}
	}
	if s := fan.Stats(); s.Repeats != 0 || s.Gaps != 0 || s.GivenUp != 0 {
		t.Errorf("%+v", s)
	}
	if err := msgstore.Check(t.Context(), store, keys, func(f msgstore.Finding) { t.Errorf("audit: %+v", f) }); err != nil {
		t.Fatal(err)
	}
}

// await waits until conn has every message of conv, by delivery or because it sent it,
// and checks that deliveries came once and in order.
func (e *edge) await(conn uint64, conv id.ConversationID, last uint64) {
	for {
		e.mu.Lock()
		got, own := slices.Clone(e.delivered[conn][conv]), slices.Clone(e.acked[conn][conv])
		e.mu.Unlock()
		for i := 1; i < len(got); i++ {
			if got[i] <= got[i-1] {
				e.t.Fatalf("connection %d: %d after %d", conn, got[i], got[i-1])
			}
		}
		all := append(got, own...)
		slices.Sort(all)
		if uint64(len(slices.Compact(all))) == last {
			return
		}
		time.Sleep(time.Millisecond)
	}
}
