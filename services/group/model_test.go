package group_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/group"
	"github.com/gochat-im/gochat/services/timeline"
)

var keys = msgstore.Keys{Keyspace: 1}

// accounts is everybody but who is gone.
type accounts struct {
	mu   sync.Mutex
	gone map[id.UserID]bool
	fail error
}

func (a *accounts) Exists(_ context.Context, u id.UserID) (bool, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return !a.gone[u], a.fail
}

// place is a message.
type place struct {
	conv id.ConversationID
	seq  uint64
}

// process is one owner: a sequencer and the groups that go with it.
type process struct {
	*group.Service
	seq *timeline.Sequencer

	mu     sync.Mutex
	told   map[place][]id.UserID // who is to be told
	failed []string
}

func (p *process) Enlist(tx *kv.Tx, ev *bus.Event) bool {
	ref := msgstore.BusRef{Conversation: ev.Conversation, Epoch: ev.Epoch, FirstSeq: ev.FirstSeq, Count: uint32(ev.LastSeq - ev.FirstSeq + 1)}
	tx.SetStamped(keys.BusRefs(nil, 0), ref.Append(nil))
	return true
}

// Publish notes who is told of each message, as fan-out asks.
func (p *process) Publish(ctx context.Context, evs []bus.Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range evs {
		for from := ev.FirstSeq; from <= ev.LastSeq; {
			users, to, err := p.Recipients(ctx, ev.Conversation, from, ev.LastSeq)
			if err != nil || to < from || to > ev.LastSeq {
				p.failed = append(p.failed, fmt.Sprintf("recipients of %d..%d: to %d, %v", from, ev.LastSeq, to, err))
				break
			}
			for seq := from; seq <= to; seq++ {
				p.told[place{ev.Conversation, seq}] = slices.Sorted(slices.Values(users))
			}
			from = to + 1
		}
		p.checkMoves(ctx, &ev)
	}
	return nil
}

// checkMoves compares who came and went with who is told of each message. mu is held.
func (p *process) checkMoves(ctx context.Context, ev *bus.Event) {
	joined, left := map[uint64][]id.UserID{}, map[uint64][]id.UserID{}
	_, ok, err := p.Moves(ctx, ev.Conversation, ev.FirstSeq, ev.LastSeq, func(seq uint64, in, out []id.UserID) { joined[seq], left[seq] = in, out })
	if err != nil {
		p.failed = append(p.failed, fmt.Sprintf("moves of %d..%d: %v", ev.FirstSeq, ev.LastSeq, err))
	}
	if !ok {
		return
	}
	for seq := ev.FirstSeq; seq <= ev.LastSeq; seq++ {
		told := p.told[place{ev.Conversation, seq}]
		if seq > ev.FirstSeq { // those before, without those who left with the one before, and with those who came
			want := slices.DeleteFunc(slices.Clone(p.told[place{ev.Conversation, seq - 1}]), func(u id.UserID) bool { return slices.Contains(left[seq-1], u) })
			for _, u := range joined[seq] {
				if !slices.Contains(want, u) {
					want = append(want, u)
				}
			}
			if slices.Sort(want); !slices.Equal(want, told) {
				p.failed = append(p.failed, fmt.Sprintf("%d is for %v, by who came and went for %v", seq, told, want))
			}
		}
		for _, u := range slices.Concat(told, left[seq]) {
			if in, err := p.Stays(ctx, ev.Conversation, u, seq); err != nil || in == slices.Contains(left[seq], u) {
				p.failed = append(p.failed, fmt.Sprintf("%s stays after %d: %v, %v; left with it %v", u, seq, in, err, left[seq]))
			}
		}
	}
}

func (p *process) Rules(ctx context.Context, c id.ConversationID) (timeline.Rules, error) {
	return p.Service.Rules(ctx, c)
}

func (p *process) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*group.Change, error)) (uint64, error) {
	return p.seq.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*timeline.Change, error) {
		ch, err := plan(ctx, h)
		if ch == nil {
			return nil, err
		}
		return &timeline.Change{Sender: ch.Sender, Type: ch.Type, Content: ch.Content, Rows: ch.Rows, Done: ch.Done, Create: ch.Create, At: ch.At}, err
	})
}

func newStore(t testing.TB) kv.Store {
	s := memory.New(memory.Config{Seed: 1})
	t.Cleanup(func() { s.Close() })
	return s
}

func newProcess(t testing.TB, store kv.Store, worker uint32, change ...func(*group.Config)) *process {
	t.Helper()
	cfg := group.Config{Store: store, Keys: keys, Users: &accounts{}, Shared: true, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	p := &process{told: make(map[place][]id.UserID)}
	var err error
	if p.Service, err = group.New(cfg); err != nil {
		t.Fatal(err)
	}
	if p.seq, err = timeline.New(timeline.Config{Store: store, Keys: keys, Bus: p, Guard: p, Epoch: 1, Worker: worker}); err != nil {
		t.Fatal(err)
	}
	p.Bind(p)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = p.seq.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return p
}

func as(u id.UserID) *packet.Origin { return &packet.Origin{User: u, Device: "phone", Conn: 1} }

type reply chan error

func (r reply) Acked(*packet.Pending, packet.Ack)        { r <- nil }
func (r reply) Refused(_ *packet.Pending, e *code.Error) { r <- e }

// say sends one message and returns why it was refused.
func (p *process) say(conv id.ConversationID, u id.UserID) error {
	cmid := id.NewClientMsgID(time.Now().UnixMilli())
	tail := append([]byte{4<<3 | 2, 16}, cmid[:]...)
	tail = append(tail, 5<<3, packet.TypeText, 6<<3|2, 1, 'm')
	r := make(reply, 1)
	p.seq.Append(conv, []packet.Pending{{
		Send: packet.Send{ClientMsgID: cmid, Type: packet.TypeText, Content: tail[len(tail)-1:], Tail: tail, BodyHash: xxhash.Sum64(tail)},
		From: as(u), Reply: r,
	}})
	return <-r
}

func codeOf(err error) code.Code {
	var e *code.Error
	if errors.As(err, &e) {
		return e.Code
	}
	return 0
}

// state is what the log says of a group.
type state struct {
	roles     map[id.UserID]uint8
	intervals map[id.UserID][]msgstore.Interval
}

func replayed() *state {
	return &state{make(map[id.UserID]uint8), make(map[id.UserID][]msgstore.Interval)}
}

// step applies the message v and returns who sees it.
func (s *state) step(t *testing.T, store kv.Store, conv id.ConversationID, v *packet.MessageView) []id.UserID {
	t.Helper()
	var m struct {
		Do    string
		Users []id.UserID
		Count int
		Role  string
	}
	if v.Type == 64 {
		if err := json.Unmarshal(v.Content, &m); err != nil {
			t.Fatalf("message %d: %v", v.Seq, err)
		}
		if list, err := msgstore.NewGroups(store, keys).List(t.Context(), conv, v.Seq); err != nil {
			t.Fatal(err)
		} else if list != nil {
			m.Users = list
		}
		if len(m.Users) != m.Count {
			t.Errorf("message %d is about %d users, its list has %d", v.Seq, m.Count, len(m.Users))
		}
	}
	by := id.UserID(v.Sender)
	if s.roles[by] == 0 && m.Do != "create" && m.Do != "join" {
		t.Errorf("message %d (%s) is of %s, who is not in", v.Seq, v.Content, by)
	}
	var left []id.UserID
	for _, u := range m.Users {
		switch m.Do {
		case "create", "add", "join":
			if s.roles[u] != 0 {
				t.Errorf("message %d brings %s in, who is", v.Seq, u)
			}
			s.roles[u] = 1
			if m.Do == "create" {
				s.roles[u] = 3
			}
			s.intervals[u] = append(s.intervals[u], msgstore.Interval{Joined: v.Seq})
		case "leave", "remove":
			if m.Do == "remove" && s.roles[u] >= s.roles[by] || s.roles[u] == 0 {
				t.Errorf("message %d: %s with role %d takes out %s with role %d", v.Seq, by, s.roles[by], u, s.roles[u])
			}
			left = append(left, u)
		case "role":
			if s.roles[by] != 3 {
				t.Errorf("message %d: %s with role %d gives one", v.Seq, by, s.roles[by])
			}
			s.roles[u] = map[string]uint8{"member": 1, "admin": 2, "owner": 3}[m.Role]
			if s.roles[u] == 3 {
				s.roles[by] = 2
			}
		}
	}
	var see []id.UserID
	for u, role := range s.roles {
		if role != 0 {
			see = append(see, u)
		}
	}
	for _, u := range left {
		delete(s.roles, u)
		ivs := s.intervals[u]
		ivs[len(ivs)-1].Left = v.Seq
	}
	slices.Sort(see)
	return see
}

// agree compares everything that is stored of the group with what its log says, and who
// was told of each message with who was in then.
func agree(t *testing.T, store kv.Store, conv id.ConversationID, ps ...*process) {
	t.Helper()
	raw, _, _, err := msgstore.NewTimeline(store, keys).Range(t.Context(), conv, 1, 1<<62, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	s := replayed()
	for len(raw) > 0 {
		v, rest, err := packet.NextMessage(raw)
		if err != nil {
			t.Fatal(err)
		}
		raw = rest
		see := s.step(t, store, conv, &v)
		heard := 0
		for _, p := range ps {
			p.mu.Lock()
			if told, ok := p.told[place{conv, v.Seq}]; ok {
				heard++
				if !slices.Equal(told, see) {
					t.Errorf("message %d (%s) was told to %v, in were %v", v.Seq, v.Content, told, see)
				}
			}
			p.mu.Unlock()
		}
		if heard == 0 {
			t.Errorf("nobody was told of message %d", v.Seq)
		}
		// From the store alone, as for a gap that is filled much later, and from memory.
		for _, p := range append(ps, newProcess(t, store, 9)) {
			if users, _, err := p.Recipients(t.Context(), conv, v.Seq, v.Seq); err != nil || !slices.Equal(slices.Sorted(slices.Values(users)), see) {
				t.Errorf("recipients of message %d, later: %v, %v; in were %v", v.Seq, users, err, see)
			}
		}
	}
	rows, err := msgstore.NewMembers(store, keys).Scan(t.Context(), conv, "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range rows {
		if !slices.Equal(m.Intervals, s.intervals[m.User]) || m.Active() && m.Role != s.roles[m.User] {
			t.Errorf("%s: stored %+v, the log says %v, role %d", m.User, m.Member, s.intervals[m.User], s.roles[m.User])
		}
		delete(s.intervals, m.User)
	}
	if len(s.intervals) > 0 {
		t.Errorf("no rows of %v", s.intervals)
	}
	for _, p := range ps {
		p.mu.Lock()
		for _, f := range p.failed {
			t.Error(f)
		}
		p.mu.Unlock()
		if now, err := p.Members(t.Context(), conv); err != nil || len(now) != len(s.roles) {
			t.Errorf("members now: %v, %v; want %v", now, err, s.roles)
		}
	}
	err = msgstore.Check(t.Context(), store, keys, func(f msgstore.Finding) {
		if f.Conversation == conv && f.Severity >= msgstore.Error {
			t.Errorf("audit: %s", f)
		}
	})
	if err != nil {
		t.Error(err)
	}
}

// Two owners on one store, and users who come, go, are taken out, brought in, given roles
// and write, all at once.
func TestModelOfTwoOwners(t *testing.T) {
	for range 4 {
		seed := uint64(time.Now().UnixNano())
		store := newStore(t)
		ps := []*process{newProcess(t, store, 1), newProcess(t, store, 2)}
		ctx := t.Context()
		made, err := ps[0].Create(ctx, as("u0"), &wire.GroupCreateRequest{Name: "g", Join: 1, UserIds: []string{"u1", "u2"}})
		if err != nil {
			t.Fatal(err)
		}
		conv := id.ConversationID(made.ConversationId)
		var wg sync.WaitGroup
		const users = 6
		for i := range users {
			me := id.UserID(fmt.Sprint("u", i))
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			wg.Go(func() {
				for range 60 {
					p := ps[rng.IntN(2)]
					other := id.UserID(fmt.Sprint("u", rng.IntN(users)))
					var err error
					switch rng.IntN(12) {
					case 0:
						_, err = p.Leave(ctx, as(me), conv)
					case 1, 2:
						_, err = p.Join(ctx, as(me), conv)
					case 3:
						_, err = p.Remove(ctx, as(me), conv, []string{string(other)})
					case 4:
						_, err = p.Add(ctx, as(me), conv, []string{string(other), string(me)})
					case 5:
						_, err = p.Role(ctx, as(me), conv, other, uint32(1+rng.IntN(3)))
					case 6:
						_, err = p.Nickname(ctx, as(me), conv, fmt.Sprint(rng.IntN(3)))
					default:
						err = p.say(conv, me)
					}
					switch codeOf(err) {
					case 0, code.Forbidden, code.NoSuchConversation, code.NoSuchUser, code.Unavailable, code.Undetermined, code.Overloaded:
						if err != nil && codeOf(err) == 0 {
							t.Errorf("seed %d: %v", seed, err)
						}
					default:
						t.Errorf("seed %d: %v", seed, err)
					}
				}
			})
		}
		wg.Wait()
		agree(t, store, conv, ps...)
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}
