package relation

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// news are changes of profiles that wait to be told, one entry a user: who changes theirs
// again meanwhile is told of once, with the last. After a user's turn the next one waits.
type news struct {
	mu      sync.Mutex
	limit   int
	byUser  map[id.UserID]*item
	ready   []*item // in the order in which they came
	cooling []*item // were told lately; by the end of their wait
	wake    chan struct{}
}

type item struct {
	user    id.UserID
	profile *wire.Profile // nil: nothing new
	conn    uint64        // that made the change
	until   time.Time     // cooling
}

func (n *news) init(limit int) {
	n.limit, n.byUser, n.wake = limit, make(map[id.UserID]*item), make(chan struct{}, 1)
}

// add notes a change; false: too many wait. It doesn't block.
func (n *news) add(o *packet.Origin, p *wire.Profile) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	it := n.byUser[o.User]
	if it == nil {
		if len(n.byUser) >= n.limit {
			return false
		}
		it = &item{user: id.UserID(strings.Clone(string(o.User)))}
		n.byUser[it.user] = it
		n.ready = append(n.ready, it)
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
	it.profile, it.conn = p, o.Conn
	return true
}

// next returns the change to tell now, or how long to wait for one; 0: until woken. What is
// returned cools until the time given.
func (n *news) next(now, until time.Time) (told item, ok bool, wait time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(n.cooling) > 0 && !now.Before(n.cooling[0].until) {
		it := n.cooling[0]
		n.cooling[0] = nil
		n.cooling = n.cooling[1:]
		if it.profile == nil {
			delete(n.byUser, it.user)
		} else {
			n.ready = append(n.ready, it)
		}
	}
	if len(n.ready) == 0 {
		n.ready = nil
		if len(n.cooling) > 0 {
			wait = n.cooling[0].until.Sub(now)
		}
		return item{}, false, wait
	}
	it := n.ready[0]
	n.ready[0] = nil
	n.ready = n.ready[1:]
	told = *it
	it.profile, it.until = nil, until
	n.cooling = append(n.cooling, it)
	return told, true, 0
}

// Run tells of changes of profiles until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	for {
		now := time.Now()
		it, ok, wait := s.news.next(now, now.Add(s.cfg.TellEvery))
		if ok {
			if err := s.tell(ctx, &it); err != nil && ctx.Err() == nil {
				s.log.Warn("a change of profile could not be told to everybody", "user", it.user, "err", err)
			}
			continue
		}
		var timer <-chan time.Time
		if wait > 0 {
			timer = time.After(wait)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.news.wake:
		case <-timer:
		}
	}
}

// tell signals a profile to the user's other devices, to those with whom the user has a direct conversation, and to the
// members of groups that aren't large, as far as they are connected now. Others ask when they come back, or show the group.
func (s *Service) tell(ctx context.Context, it *item) error {
	data, err := it.profile.Marshal(nil)
	if err != nil {
		return err
	}
	told := map[id.UserID]bool{}
	push := func(u id.UserID) {
		if !told[u] {
			told[u] = true
			s.devices.Push(u, it.conn, &wire.Signal{ToUserId: string(u), Kind: packet.SignalProfile, Data: data, SenderId: string(it.user)})
		}
	}
	push(it.user)
	if err := s.tellIn(ctx, it.user, id.KindDirect, 2, push); err != nil {
		return err
	}
	return s.tellIn(ctx, it.user, id.KindGroup, maxTold, push)
}

// maxTold is how many members a group may have had so that they are told of each other's profiles.
const maxTold = 200

// tellIn pushes to the members of user's conversations of kind that have at most most of them, until TellPeers were looked at.
func (s *Service) tellIn(ctx context.Context, user id.UserID, kind id.Kind, most int, push func(id.UserID)) error {
	after := id.ConversationID{byte(kind)}
	for left := s.cfg.TellPeers; left > 0 && ctx.Err() == nil; {
		page := min(groupsAtOnce, left)
		rows, err := s.inbox.Scan(ctx, user, after, page)
		if err != nil {
			return err
		}
		for i := range rows {
			after = rows[i].Conversation
			if after.Kind() != kind || left <= 0 {
				return nil
			}
			members, err := s.members.Scan(ctx, after, "", most+1)
			if err != nil {
				return fmt.Errorf("look for who is in %s: %w", after, err)
			}
			left -= max(len(members)-1, 1)
			if len(members) > most || kind == id.KindGroup && !slices.ContainsFunc(members, func(m msgstore.MemberOf) bool { return m.User == user && m.Active() }) {
				continue
			}
			for j := range members {
				if kind == id.KindDirect || members[j].Active() {
					push(members[j].User)
				}
			}
		}
		if len(rows) < page {
			return nil
		}
	}
	return nil
}
