package timeline

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

var members = func(s kv.Store) *msgstore.Members { return msgstore.NewMembers(s, keys) }

// says is a plan of one message without rows.
func says(text string) Plan {
	return func(context.Context, msgstore.Head) (*Change, error) {
		return &Change{Sender: "root", Type: packet.TypeSystem, Content: text}, nil
	}
}

func mustChange(t *testing.T, s *Sequencer, conv id.ConversationID, plan Plan) uint64 {
	t.Helper()
	seq, err := s.Change(t.Context(), conv, plan)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestChangeAppendsAndWritesRows(t *testing.T) {
	store := newMemory(t)
	s, _ := start(t, config(store))
	conv := id.NewGroup()
	// It comes into being with its first message.
	joins := func(user id.UserID, create bool) Plan {
		return func(_ context.Context, h msgstore.Head) (*Change, error) {
			if h.Exists() == create {
				return nil, fmt.Errorf("head %+v", h)
			}
			return &Change{Sender: "root", Type: packet.TypeSystem, Content: "+" + string(user), Create: create, Rows: func(tx *kv.Tx, seq uint64) {
				members(store).Put(tx, conv, user, &msgstore.Member{Intervals: []msgstore.Interval{{Joined: seq}}})
			}}, nil
		}
	}
	if seq := mustChange(t, s, conv, joins("alice", true)); seq != 1 {
		t.Fatalf("seq %d", seq)
	}
	a := newSender("alice", 1)
	s.Append(conv, []packet.Pending{a.text(id.NewClientMsgID(nowMs()), "hi")})
	a.expect(t, "1:seq=2")
	if seq := mustChange(t, s, conv, joins("bob", false)); seq != 3 {
		t.Fatalf("seq %d", seq)
	}
	if m, ok, err := members(store).Get(t.Context(), conv, "bob"); err != nil || !ok || !m.Active() || m.Intervals[0].Joined != 3 {
		t.Fatal(m, ok, err)
	}
	all := messages(t, store, conv)
	if len(all) != 3 || all[0].Type != packet.TypeSystem || string(all[2].Content) != "+bob" || string(all[2].Sender) != "root" {
		t.Fatalf("%+v", all)
	}
	h, err := s.Head(t.Context(), conv)
	if err != nil || h.StateVersion != 2 || h.LastSeq != 3 || h.Countable != 1 || h.PreviewSeq != 2 || string(h.PreviewText) != "hi" {
		t.Fatalf("%+v %v", h, err)
	}
	// Without a message, and with nothing to do.
	if seq := mustChange(t, s, conv, func(context.Context, msgstore.Head) (*Change, error) { return &Change{}, nil }); seq != 0 {
		t.Fatalf("seq %d", seq)
	}
	if seq := mustChange(t, s, conv, func(context.Context, msgstore.Head) (*Change, error) { return nil, nil }); seq != 0 {
		t.Fatalf("seq %d", seq)
	}
	if h, err = s.Head(t.Context(), conv); err != nil || h.StateVersion != 3 || h.LastSeq != 3 || h.PreviewSeq != 2 {
		t.Fatalf("%+v %v", h, err)
	}
}

func TestChangeRefusals(t *testing.T) {
	store := newMemory(t)
	s, stop := start(t, config(store))
	conv := id.NewGroup()
	create(t, store, conv, nowMs())
	mine := errors.New("mine")
	for _, tt := range []struct {
		name string
		conv id.ConversationID
		plan Plan
		want error
	}{
		{"absent", id.NewGroup(), says("x"), code.New(code.NoSuchConversation)},
		{"own error", conv, func(context.Context, msgstore.Head) (*Change, error) { return nil, mine }, mine},
		{"refused", conv, func(context.Context, msgstore.Head) (*Change, error) { return nil, code.New(code.Forbidden) }, code.New(code.Forbidden)},
		{"exists", conv, func(context.Context, msgstore.Head) (*Change, error) { return &Change{Create: true}, nil }, kv.ErrInvalid},
		{"a user's type", conv, func(context.Context, msgstore.Head) (*Change, error) { return &Change{Type: packet.TypeText}, nil }, kv.ErrInvalid},
	} {
		_, err := s.Change(t.Context(), tt.conv, tt.plan)
		var want, got *code.Error
		if errors.As(tt.want, &want) {
			if !errors.As(err, &got) || got.Code != want.Code {
				t.Errorf("%s: %v", tt.name, err)
			}
		} else if !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	if h, err := s.Head(t.Context(), conv); err != nil || h.StateVersion != 0 {
		t.Errorf("%+v %v", h, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Change(ended, conv, says("late")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	stop()
	var e *code.Error
	if _, err := s.Change(t.Context(), conv, says("too late")); !errors.As(err, &e) || e.Code != code.Unavailable {
		t.Error(err)
	}
}

// A change whose commit ran into somebody else, or whose outcome is unknown, is planned
// again on the head that is then.
func TestChangeRunsAgain(t *testing.T) {
	for _, failure := range []error{kv.ErrConflict, kv.ErrUndetermined, kv.ErrUnavailable} {
		for _, stored := range []bool{false, true} {
			store := &hookStore{Store: newMemory(t)}
			s, _ := start(t, config(store))
			conv := id.NewGroup()
			create(t, store, conv, nowMs())
			if stored && failure != kv.ErrUndetermined {
				continue
			}
			var kept []*kv.Tx
			store.failNext(1, failure, &kept)
			plans := 0
			seq, err := s.Change(t.Context(), conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
				if plans++; plans == 2 && stored { // it was stored after all
					store.Store.Commit(ctx, kept...)
				}
				if h.LastSeq > 0 {
					return nil, nil
				}
				return says("once")(ctx, h)
			})
			if err != nil || plans < 2 {
				t.Fatalf("%v, stored %v: seq %d, %v, %d plans", failure, stored, seq, err, plans)
			}
			store.Store.Commit(t.Context(), kept...) // what still arrives is fenced
			if all := messages(t, store, conv); len(all) != 1 {
				t.Fatalf("%v, stored %v: %d messages", failure, stored, len(all))
			}
		}
	}
}

// What a change says no to after an undetermined commit stays so.
func TestChangeRefusalFencesWhatIsInDoubt(t *testing.T) {
	store := &hookStore{Store: newMemory(t)}
	s, _ := start(t, config(store))
	conv := id.NewGroup()
	create(t, store, conv, nowMs())
	var kept []*kv.Tx
	store.failNext(1, kv.ErrUndetermined, &kept)
	plans := 0
	_, err := s.Change(t.Context(), conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		if plans++; plans > 1 {
			return nil, code.New(code.Forbidden)
		}
		return says("never")(ctx, h)
	})
	var e *code.Error
	if !errors.As(err, &e) || e.Code != code.Forbidden {
		t.Fatal(err)
	}
	store.Store.Commit(t.Context(), kept...)
	if all := messages(t, store, conv); len(all) != 0 {
		t.Fatalf("%d messages after the refusal", len(all))
	}
}

func TestChangeStorageFull(t *testing.T) {
	store := &hookStore{Store: newMemory(t)}
	s, _ := start(t, config(store))
	conv := id.NewGroup()
	create(t, store, conv, nowMs())
	store.failNext(1, kv.ErrFull, nil)
	var e *code.Error
	if _, err := s.Change(t.Context(), conv, says("x")); !errors.As(err, &e) || e.Code != code.StorageFull {
		t.Fatal(err)
	}
	if seq := mustChange(t, s, conv, says("x")); seq != 1 {
		t.Fatal(seq)
	}
}

// memberGuard refuses everybody who is no member, as of the head's state.
type memberGuard struct{ store kv.Store }

func (g memberGuard) Rules(ctx context.Context, conv id.ConversationID) (Rules, error) {
	rows, err := members(g.store).Scan(ctx, conv, "", 0)
	if err != nil {
		return nil, err
	}
	in := make(map[id.UserID]bool)
	for i := range rows {
		in[rows[i].User] = rows[i].Active()
	}
	return rulesFunc(func(p *packet.Pending) *code.Error {
		if !in[p.From.User] {
			return code.New(code.NoSuchConversation)
		}
		return nil
	}), nil
}

// Two owners on one store: users join and leave while everybody sends. Nobody's message
// stands outside of their membership, and each change is there exactly once.
func TestChangesAmongSendsOfTwoOwners(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	store := newMemory(t)
	conv := id.NewGroup()
	create(t, store, conv, nowMs())
	var owners [2]*Sequencer
	for i := range owners {
		cfg := config(store)
		cfg.Guard, cfg.Worker = memberGuard{store}, uint32(i+1)
		owners[i], _ = start(t, cfg)
	}
	users := []string{"u0", "u1", "u2", "u3"}
	var wg sync.WaitGroup
	changes := make([]int, len(users))
	for i, u := range users {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() { // joins and leaves
			for range 25 {
				owner := owners[rng.IntN(2)]
				seq, err := owner.Change(t.Context(), conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
					m, _, err := members(store).Get(ctx, conv, id.UserID(u))
					if err != nil {
						return nil, err
					}
					join := !m.Active()
					return &Change{Sender: id.UserID(u), Type: packet.TypeSystem, Content: fmt.Sprint(join), Rows: func(tx *kv.Tx, seq uint64) {
						if join {
							m.Intervals = append(m.Intervals, msgstore.Interval{Joined: seq})
						} else {
							m.Intervals[len(m.Intervals)-1].Left = seq
						}
						members(store).Put(tx, conv, id.UserID(u), &m)
					}}, nil
				})
				var e *code.Error
				switch {
				case err == nil && seq > 0:
					changes[i]++
				case errors.As(err, &e) && e.Retryable():
				default:
					t.Errorf("change of %s: %d, %v", u, seq, err)
				}
			}
		})
		wg.Go(func() { // sends all the while
			o := newSender(u, uint64(i+1))
			rng := rand.New(rand.NewPCG(seed, uint64(len(users)+i)))
			for range 150 {
				owners[rng.IntN(2)].Append(conv, []packet.Pending{o.text(id.NewClientMsgID(nowMs()), "m")})
				o.hear(t, 1)
			}
		})
	}
	wg.Wait()
	counted, in := make(map[string]int), make(map[string]bool)
	for _, v := range messages(t, store, conv) {
		u := string(v.Sender)
		switch {
		case v.Type == packet.TypeSystem:
			join := string(v.Content) == "true"
			if in[u] == join {
				t.Errorf("message %d: %s joins: %v, twice", v.Seq, u, join)
			}
			in[u] = join
			counted[u]++
		case !in[u]:
			t.Errorf("message %d of %s, who is no member then", v.Seq, u)
		}
	}
	for i, u := range users {
		if counted[u] < changes[i] {
			t.Errorf("%s: %d changes done, %d stored", u, changes[i], counted[u])
		}
	}
}
