package group

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Rules are what a sequencer checks each message of a group against. It is an alias, so
// that a sequencer can ask for the same thing under a name of its own.
type Rules = interface {
	Check(p *packet.Pending) *code.Error
}

// roster is who is in one group, in memory. It moves on with the changes that are made
// through this process; whatever else changes the group is found out by the head's
// StateVersion when the sequencer asks for the rules, and the roster is read anew.
type roster struct {
	mu      sync.RWMutex
	dead    bool   // something was missed: look it up again
	version uint64 // StateVersion that this is right for
	since   uint64 // of every change up to here nothing is known but its outcome
	at      map[id.UserID]int32
	list    []id.UserID // members who are in, in no order
	steps   []step      // changes above since, ascending
	moved   int         // users in steps
	shared  []id.UserID // copy of list that was given out; nil: none since the last change
	shown   []id.UserID // the members as of before the last step, as far as they were given out
}

// step is one change of membership.
type step struct {
	seq          uint64
	joined, left []id.UserID
}

// maxSteps bounds the users in steps. Who asks for what lies further back is answered from the store.
const maxSteps = 4096

// Check implements Rules. It is called after the roster was found right for the head, and
// a roster that moved on since belongs to a head with which the append will conflict.
func (r *roster) Check(p *packet.Pending) *code.Error {
	r.mu.RLock()
	_, in := r.at[p.From.User]
	r.mu.RUnlock()
	switch {
	case !in && p.From.User != id.System:
		return errStranger
	case len(p.OriginDevice) > 0 && string(p.OriginDevice) != string(p.From.Device):
		return errDevice
	}
	return nil
}

// apply moves the roster on to version by a change of the message seq. It returns false
// when a change before it was missed.
func (r *roster) apply(version uint64, st step) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead || r.version+1 != version {
		r.dead = true
		return false
	}
	r.version = version
	if len(st.joined)+len(st.left) == 0 {
		return true
	}
	r.shown, r.shared = r.shared, nil
	for _, u := range st.joined {
		if _, in := r.at[u]; !in {
			r.at[u] = int32(len(r.list))
			r.list = append(r.list, u)
		}
	}
	for _, u := range st.left {
		i, in := r.at[u]
		if !in {
			continue
		}
		last := len(r.list) - 1
		moved := r.list[last]
		r.list[i], r.at[moved] = moved, i
		r.list[last] = ""
		r.list = r.list[:last]
		delete(r.at, u)
	}
	r.steps = append(r.steps, st)
	if r.moved += len(st.joined) + len(st.left); r.moved > maxSteps {
		// Half of them at once: what one change costs doesn't depend on how many are kept.
		i := 0
		for ; r.moved > maxSteps/2 && i < len(r.steps)-1; i++ {
			r.moved -= len(r.steps[i].joined) + len(r.steps[i].left)
			r.since = r.steps[i].seq
		}
		r.steps = slices.Delete(r.steps, 0, i)
	}
	return true
}

// members returns who is in now. The slice is shared: read only.
func (r *roster) members() []id.UserID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.current()
}

func (r *roster) current() []id.UserID {
	if r.shared == nil {
		r.shared = slices.Clone(r.list)
	}
	return r.shared
}

// recipients returns whose membership holds the messages first..to, the same for all of
// them; to is at most last. ok is false when the roster doesn't reach back so far.
func (r *roster) recipients(first, last uint64) (users []id.UserID, to uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dead || first <= r.since { // read while it changed, or too far back
		return nil, 0, false
	}
	// Who joins with a message sees it, and so does who leaves with it.
	to = last
	n := len(r.steps)
	for n > 0 && (r.steps[n-1].seq > first || r.steps[n-1].seq == first && len(r.steps[n-1].left) > 0) {
		st := &r.steps[n-1]
		if len(st.joined) > 0 && st.seq > first {
			to = min(to, st.seq-1)
		}
		if len(st.left) > 0 {
			to = min(to, st.seq)
		}
		n--
	}
	switch {
	case n == len(r.steps):
		return r.current(), to, true
	case n == len(r.steps)-1 && r.shown != nil:
		return r.shown, to, true
	}
	// Undo what happened later, the last first.
	in := make(map[id.UserID]bool)
	for i := len(r.steps) - 1; i >= n; i-- {
		if r.steps[i].seq > first {
			for _, u := range r.steps[i].joined {
				in[u] = false
			}
		}
		for _, u := range r.steps[i].left {
			in[u] = true
		}
	}
	users = make([]id.UserID, 0, len(r.list)+len(in))
	for _, u := range r.list {
		if _, changed := in[u]; !changed {
			users = append(users, u)
		}
	}
	for u, is := range in {
		if is {
			users = append(users, u)
		}
	}
	return users, to, true
}

// rosters are those in memory, bounded by their members: the least used go.
type rosters struct {
	mu     sync.Mutex
	byConv map[id.ConversationID]*list.Element // of *held
	used   list.List                           // the latest first
	total  int
	limit  int

	hits, misses atomic.Uint64 // look-ups that found a roster that was right, and those for which it was read
}

// held is a place in memory for a roster. Its lock is held while the roster is read.
type held struct {
	conv   id.ConversationID
	weight int           // as of when it was last looked at; under rosters.mu
	latest atomic.Uint64 // StateVersion of the last change that was made here

	mu sync.Mutex
	r  *roster // nil: not read
}

// groupWeight is what a group counts beside its members.
const groupWeight = 8

func (c *rosters) init(limit int) {
	c.byConv = make(map[id.ConversationID]*list.Element)
	c.limit = limit
}

// get returns the place of conv.
func (c *rosters) get(conv id.ConversationID) *held {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byConv[conv]; e != nil {
		c.used.MoveToFront(e)
		return e.Value.(*held)
	}
	h := &held{conv: conv, weight: groupWeight}
	c.byConv[conv] = c.used.PushFront(h)
	c.total += groupWeight
	return h
}

// weigh notes how large conv is now and makes room.
func (c *rosters) weigh(h *held, members int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byConv[h.conv]; e == nil || e.Value != any(h) {
		return
	}
	c.total += groupWeight + members - h.weight
	h.weight = groupWeight + members
	for c.total > c.limit && c.used.Len() > 1 {
		e := c.used.Back()
		old := e.Value.(*held)
		if old == h {
			break
		}
		c.used.Remove(e)
		delete(c.byConv, old.conv)
		c.total -= old.weight
	}
}

// Size is how many members conv has, as it was last looked at here; 0: that isn't in memory. It reads nothing.
func (s *Service) Size(conv id.ConversationID) int {
	c := s.rosters
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byConv[conv]; e != nil {
		return e.Value.(*held).weight - groupWeight
	}
	return 0
}

// CacheStats are counts of the rosters in memory. Look-ups are counted since the start.
type CacheStats struct {
	Entries      int // groups
	Hits, Misses uint64
}

// Cache returns counts of the rosters in memory.
func (s *Service) Cache() CacheStats {
	c := s.rosters
	c.mu.Lock()
	defer c.mu.Unlock()
	return CacheStats{c.used.Len(), c.hits.Load(), c.misses.Load()}
}

// peek returns the place of conv if there is one.
func (c *rosters) peek(conv id.ConversationID) *held {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byConv[conv]; e != nil {
		return e.Value.(*held)
	}
	return nil
}

// roster returns the roster of conv as it is right for at least the StateVersion version,
// nil if there is no such group.
func (s *Service) roster(ctx context.Context, conv id.ConversationID, version uint64) (*roster, error) {
	if s.cfg.Shared && version == 0 {
		head, _, err := s.timeline.Head(ctx, conv)
		if err != nil {
			return nil, err
		}
		version = head.StateVersion
	}
	h := s.rosters.get(conv)
	h.mu.Lock()
	defer h.mu.Unlock()
	version = max(version, h.latest.Load())
	if r := h.r; r != nil {
		r.mu.RLock()
		good := !r.dead && r.version >= version
		r.mu.RUnlock()
		if good {
			s.rosters.hits.Add(1)
			return r, nil
		}
	}
	s.rosters.misses.Add(1)
	for turn := 0; ; turn++ {
		r, err := s.readRoster(ctx, conv)
		if err != nil || r == nil {
			h.r = nil
			return nil, err
		}
		// Members that changed while they were read show in the head.
		head, _, err := s.timeline.Head(ctx, conv)
		if err != nil {
			return nil, err
		}
		if head.StateVersion != r.version && turn < maxTurns {
			continue
		}
		r.dead = head.StateVersion != r.version
		h.r = r
		s.rosters.weigh(h, len(r.list))
		return r, nil
	}
}

// readRoster reads the head and then the members of conv.
func (s *Service) readRoster(ctx context.Context, conv id.ConversationID) (*roster, error) {
	head, _, err := s.timeline.Head(ctx, conv)
	if err != nil || !head.Exists() {
		return nil, err
	}
	r := &roster{version: head.StateVersion, at: make(map[id.UserID]int32)}
	const page = 4096
	for after := id.UserID(""); ; {
		rows, err := s.members.Scan(ctx, conv, after, page)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			m := &rows[i]
			if m.Active() {
				r.at[m.User] = int32(len(r.list))
				r.list = append(r.list, m.User)
				r.since = max(r.since, m.Intervals[len(m.Intervals)-1].Joined-1)
			} else if n := len(m.Intervals); n > 0 {
				r.since = max(r.since, m.Intervals[n-1].Left)
			}
		}
		if len(rows) < page {
			return r, nil
		}
		after = rows[page-1].User
	}
}

// Rules returns what messages to conv must keep to, as of now. It may read from the store.
func (s *Service) Rules(ctx context.Context, conv id.ConversationID) (Rules, error) {
	head, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	if !head.Exists() {
		return nil, errStranger
	}
	r, err := s.roster(ctx, conv, head.StateVersion)
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	if r == nil {
		return nil, errStranger
	}
	return r, nil
}

// Members returns the current members of conv, each once, none if there is no such
// group. The slice is shared: read only.
func (s *Service) Members(ctx context.Context, conv id.ConversationID) ([]id.UserID, error) {
	r, err := s.roster(ctx, conv, 0)
	if err != nil {
		return nil, msgstore.Outcome(err)
	}
	if r == nil {
		return nil, nil
	}
	return r.members(), nil
}

// Recipients returns whose membership holds the stored messages first..to of conv, the
// same for all of them; first <= to <= last. The slice is shared: read only.
func (s *Service) Recipients(ctx context.Context, conv id.ConversationID, first, last uint64) (users []id.UserID, to uint64, err error) {
	r, err := s.roster(ctx, conv, 0)
	if err != nil {
		return nil, 0, msgstore.Outcome(err)
	}
	if r == nil {
		return nil, last, nil
	}
	if users, to, ok := r.recipients(first, last); ok {
		return users, to, nil
	}
	// Further back than memory reaches: an old gap is being filled.
	to = last
	const page = 4096
	for after := id.UserID(""); ; {
		rows, err := s.members.Scan(ctx, conv, after, page)
		if err != nil {
			return nil, 0, msgstore.Outcome(err)
		}
		for i := range rows {
			in := false
			for _, iv := range rows[i].Intervals {
				if iv.Joined > first {
					to = min(to, iv.Joined-1)
					break
				}
				if in = iv.Left == 0 || iv.Left >= first; in {
					if iv.Left != 0 {
						to = min(to, iv.Left)
					}
					break
				}
			}
			if in {
				users = append(users, rows[i].User)
			}
		}
		if len(rows) < page {
			return users, to, nil
		}
		after = rows[page-1].User
	}
}

// committed moves the roster in memory on.
func (s *Service) committed(conv id.ConversationID, version uint64, st step) {
	h := s.rosters.peek(conv)
	if h == nil {
		return
	}
	h.latest.Store(version)
	if !h.mu.TryLock() { // being read; whoever asks next finds out that it may lack this
		return
	}
	r := h.r
	h.mu.Unlock()
	if r != nil && r.apply(version, st) {
		s.rosters.weigh(h, len(r.list))
	}
}
