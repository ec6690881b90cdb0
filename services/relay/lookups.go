package relay

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/router/nodes"
	"github.com/gochat-im/gochat/services/session"
)

// LookUpsConfig is what LookUps need; zero fields take their defaults.
type LookUpsConfig struct {
	View View
	Call Caller        // of a logic node, whose Desk answers LookUp
	Near *session.Part // of this node; nil: it isn't a logic node

	Patience time.Duration    // for all nodes together; 0: 250 ms
	Suspect  time.Duration    // a node that didn't answer isn't asked for so long, and then twice as long, up to 5 s; 0: 500 ms
	Logger   *slog.Logger     // nil: none
	Now      func() time.Time // nil: time.Now
}

// LookUps ask the directory's nodes who is connected where: fan-out's Sessions. Each node is asked once for all its users, all
// of them at the same time. Users whose node doesn't answer may be anywhere.
type LookUps struct {
	cfg LookUpsConfig

	mu       sync.Mutex
	suspects map[string]suspect // by node id
	calls    uint64
	unknown  uint64
}

type suspect struct {
	until time.Time
	after time.Duration
}

// NewLookUps returns LookUps.
func NewLookUps(cfg LookUpsConfig) (*LookUps, error) {
	if cfg.View == nil || cfg.Call == nil {
		return nil, errors.New("relay: View and Call are needed")
	}
	if cfg.Patience < 0 || cfg.Suspect < 0 {
		return nil, errors.New("relay: a time is below zero")
	}
	cfg.Patience, cfg.Suspect, cfg.Logger = cmp.Or(cfg.Patience, 250*time.Millisecond), cmp.Or(cfg.Suspect, 500*time.Millisecond), logger(cfg.Logger)
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &LookUps{cfg: cfg, suspects: make(map[string]suspect)}, nil
}

// question is what one node is asked.
type question struct {
	to    *nodes.Node
	users []id.UserID
	conns []uint64
	ends  []int
}

// Gather implements fanout.Sessions.
func (k *LookUps) Gather(ctx context.Context, users []id.UserID, conns []uint64, ends []int) ([]uint64, []int) {
	var questions []*question
	which := make([]*question, len(users)) // who is asked for each; nil: nobody, for all may be true
	for i, u := range users {
		n := k.cfg.View.Owner(u.Slot())
		if n == nil {
			continue
		}
		var q *question
		for _, o := range questions {
			if o.to.ID == n.ID {
				q = o
			}
		}
		if q == nil {
			q = &question{to: n}
			questions = append(questions, q)
		}
		which[i] = q
		q.users = append(q.users, u)
	}
	k.ask(ctx, questions)
	unknown := uint64(0)
	for i := range users {
		q := which[i]
		if q == nil || q.ends == nil {
			conns, ends = append(conns, 0), append(ends, len(conns)+1)
			unknown++
			continue
		}
		// Each question's answers are in the order of its users.
		n := q.ends[0]
		conns = append(conns, q.conns[:n]...)
		if n > 0 && q.conns[n-1] == 0 {
			unknown++
		}
		q.conns, q.ends = q.conns[n:], q.ends[1:]
		ends = append(ends, len(conns))
	}
	k.mu.Lock()
	k.unknown += unknown
	k.mu.Unlock()
	return conns, ends
}

// ask fills in the answers of those who answer, as the number of connections for each user.
func (k *LookUps) ask(ctx context.Context, questions []*question) {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Patience)
	defer cancel()
	var wg sync.WaitGroup
	for _, q := range questions {
		if k.cfg.Near != nil && k.cfg.View.IsSelf(q.to) {
			q.conns, q.ends = k.cfg.Near.Gather(ctx, q.users, nil, make([]int, 0, len(q.users)))
			for i := len(q.ends) - 1; i > 0; i-- {
				q.ends[i] -= q.ends[i-1]
			}
			continue
		}
		if !k.trusted(q.to) {
			continue
		}
		do := func() {
			answer, err := k.call(ctx, q.to, appendUsers([]byte{0}, q.users))
			if err != nil {
				return
			}
			r := reader{b: answer}
			ns := make([]int, 0, len(q.users))
			for range q.users {
				n := r.count(8)
				for range n {
					q.conns = append(q.conns, r.conn())
				}
				ns = append(ns, n)
			}
			if r.err == nil {
				q.ends = ns
			}
		}
		if len(questions) == 1 {
			do()
		} else {
			wg.Go(do)
		}
	}
	wg.Wait()
}

// trusted reports whether a node is worth asking.
func (k *LookUps) trusted(n *nodes.Node) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, is := k.suspects[n.ID]
	return !is || !k.cfg.Now().Before(s.until)
}

// maxSuspect is how long a node isn't asked at most.
const maxSuspect = 5 * time.Second

func (k *LookUps) call(ctx context.Context, n *nodes.Node, body []byte) ([]byte, error) {
	answer, err := k.cfg.Call(ctx, n, body)
	k.mu.Lock()
	k.calls++
	s, was := k.suspects[n.ID]
	switch {
	case err == nil:
		delete(k.suspects, n.ID)
	case was:
		s.after = min(2*s.after, maxSuspect)
	default:
		s.after = k.cfg.Suspect
	}
	if err != nil {
		s.until = k.cfg.Now().Add(s.after)
		k.suspects[n.ID] = s
	}
	k.mu.Unlock()
	if err != nil {
		k.cfg.Logger.LogAttrs(ctx, slog.LevelWarn, "a node of the directory doesn't answer", slog.String("node", n.ID), slog.Any("err", err))
	}
	return answer, err
}

// Devices appends the sessions of a user, wherever they are told to. sure is false if there may be others, or
// nobody could be asked.
func (k *LookUps) Devices(ctx context.Context, user id.UserID, dst []session.Session) (all []session.Session, sure bool) {
	n := k.cfg.View.Owner(user.Slot())
	if n == nil {
		return dst, false
	}
	if k.cfg.Near != nil && k.cfg.View.IsSelf(n) {
		return k.cfg.Near.Devices(user, dst)
	}
	if !k.trusted(n) {
		return dst, false
	}
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Patience)
	defer cancel()
	answer, err := k.call(ctx, n, appendUsers([]byte{1}, []id.UserID{user}))
	if err != nil {
		return dst, false
	}
	r := reader{b: answer}
	sure = true
	for range r.count(11) {
		s := r.session()
		switch {
		case r.err != nil:
		case s.Conn == 0:
			sure = false
		default:
			s.User = user
			dst = append(dst, s)
		}
	}
	return dst, sure && r.err == nil
}

// Each and Find are Devices as services ask for them: of those that are known.
func (k *LookUps) Each(user id.UserID, fn func(conn uint64, device id.DeviceID)) {
	all, _ := k.Devices(context.Background(), user, nil)
	for i := range all {
		fn(all[i].Conn, all[i].Device)
	}
}

// Find returns the connection of user's device and the device's kind, 0 if it has none.
func (k *LookUps) Find(user id.UserID, device id.DeviceID) (conn uint64, kind uint8) {
	all, _ := k.Devices(context.Background(), user, nil)
	for i := range all {
		if all[i].Device == device {
			return all[i].Conn, all[i].Kind
		}
	}
	return 0, 0
}

// LookUpsStats are counts.
type LookUpsStats struct {
	Calls    uint64 // of other nodes
	Unknown  uint64 // users who had to be looked for everywhere
	Suspects int    // nodes that didn't answer last
}

// Stats returns the counts.
func (k *LookUps) Stats() LookUpsStats {
	k.mu.Lock()
	defer k.mu.Unlock()
	return LookUpsStats{k.calls, k.unknown, len(k.suspects)}
}
