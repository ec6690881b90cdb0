package room

import (
	"slices"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// live is who is in one room, as far as edges have told.
type live struct {
	edges map[uint32]*set // by worker number
	users map[id.UserID]int

	// Since the last news; somebody who came and went is in neither.
	joined, left map[id.UserID]struct{}
	dirty        bool
	banned       map[id.UserID]struct{} // are put out when an edge tells of them; nil: nobody
}

// set is what one start of an edge told, good until its lease ends.
type set struct {
	start uint64 // 0: by what its connections asked for alone
	state uint64 // 0: not all is known
	conns map[uint64]id.UserID
	until time.Time
}

// namedUsers is how many of those who came or went news name.
const namedUsers = 16

func (s *Service) lives(conv id.ConversationID) *live {
	l := s.live[conv]
	if l == nil {
		l = &live{edges: make(map[uint32]*set), users: make(map[id.UserID]int), joined: make(map[id.UserID]struct{}), left: make(map[id.UserID]struct{})}
		s.live[conv] = l
	}
	return l
}

func (l *live) edge(worker uint32, until time.Time) *set {
	e := l.edges[worker]
	if e == nil {
		e = &set{conns: make(map[uint64]id.UserID)}
		l.edges[worker] = e
	}
	e.until = until
	return e
}

// add notes a connection; with name its user is told of as somebody who came.
func (l *live) add(e *set, conn uint64, user id.UserID, name bool) {
	if _, is := e.conns[conn]; is {
		return
	}
	e.conns[conn] = user
	if l.users[user]++; l.users[user] > 1 {
		return
	}
	l.dirty = true
	if _, back := l.left[user]; back {
		delete(l.left, user)
	} else if name {
		l.joined[user] = struct{}{}
	}
}

// remove undoes add.
func (l *live) remove(e *set, conn uint64, name bool) {
	user, is := e.conns[conn]
	if !is {
		return
	}
	delete(e.conns, conn)
	if l.users[user]--; l.users[user] > 0 {
		return
	}
	delete(l.users, user)
	l.dirty = true
	if _, came := l.joined[user]; came {
		delete(l.joined, user)
	} else if name {
		l.left[user] = struct{}{}
	}
}

func (l *live) drop(worker uint32) {
	if e := l.edges[worker]; e != nil {
		for c := range e.conns {
			l.remove(e, c, false)
		}
		delete(l.edges, worker)
	}
}

// enter notes that user's connection conn is in conv; false: the room is full.
func (s *Service) enter(conv id.ConversationID, conn uint64, user id.UserID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lives(conv)
	if l.users[user] == 0 && len(l.users) >= s.cfg.Members {
		return false
	}
	delete(l.banned, user)
	l.add(l.edge(id.ConnWorker(conn), time.Now().Add(s.cfg.Lease)), conn, user, true)
	return true
}

// leave undoes enter.
func (s *Service) leave(conv id.ConversationID, conn uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.live[conv]; l != nil {
		if e := l.edges[id.ConnWorker(conn)]; e != nil {
			l.remove(e, conn, true)
		}
	}
}

// put forgets user's connections to conv; those that edges tell of later are to be put out.
func (s *Service) put(conv id.ConversationID, user id.UserID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lives(conv)
	for _, e := range l.edges {
		for c, u := range e.conns {
			if u == user {
				l.remove(e, c, true)
			}
		}
	}
	if l.banned == nil {
		l.banned = make(map[id.UserID]struct{})
	}
	l.banned[user] = struct{}{}
}

// Report implements relay.RoomKeeper.
func (s *Service) Report(worker uint32, start uint64, conv id.ConversationID, state, before uint64, conns []uint64, users []id.UserID, left []uint64) (again bool, out []uint64) {
	if conv.Kind() != id.KindRoom || s.cfg.Off {
		return false, conns
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.lives(conv)
	if e := l.edges[worker]; e != nil && e.start != 0 && e.start != start {
		l.drop(worker) // that process is gone
	}
	e := l.edge(worker, time.Now().Add(s.cfg.Lease))
	switch {
	case before == 0:
		// All of it. Who has asked to come in since then is told of next.
		is := make(map[uint64]struct{}, len(conns))
		for _, c := range conns {
			is[c] = struct{}{}
		}
		for c := range e.conns {
			if _, in := is[c]; !in {
				l.remove(e, c, false)
			}
		}
	case e.start != start || e.state != before:
		return true, nil
	}
	for _, c := range left {
		l.remove(e, c, true)
	}
	for i, c := range conns {
		if _, banned := l.banned[users[i]]; banned {
			out = append(out, c)
			continue
		}
		l.add(e, c, users[i], before != 0)
	}
	e.start, e.state = start, state
	return false, out
}

// Count is how many users are in conv.
func (s *Service) Count(conv id.ConversationID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.live[conv]; l != nil {
		return len(l.users)
	}
	return 0
}

// page returns the first users in conv after cursor, in the order of their bytes, and how many there are in all.
func (s *Service) page(conv id.ConversationID, cursor id.UserID, limit int) (users []id.UserID, more bool, count int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.live[conv]
	if l == nil {
		return nil, false, 0
	}
	users = make([]id.UserID, 0, limit+1)
	for u := range l.users {
		if u <= cursor {
			continue
		}
		at, _ := slices.BinarySearch(users, u)
		if at > limit {
			continue
		}
		if len(users) > limit {
			users = users[:limit]
		}
		users = slices.Insert(users, at, u)
	}
	if len(users) > limit {
		users, more = users[:limit], true
	}
	return users, more, len(l.users)
}

// Turn tells each room's news and forgets what edges no longer vouch for.
func (s *Service) Turn() {
	type told struct {
		conv id.ConversationID
		news wire.RoomNews
	}
	var all []told
	now := time.Now()
	s.mu.Lock()
	for conv, l := range s.live {
		for worker, e := range l.edges {
			if e.until.Before(now) {
				l.drop(worker)
			}
		}
		if l.dirty {
			n := wire.RoomNews{Count: uint32(len(l.users)), JoinedCount: uint32(len(l.joined)), LeftCount: uint32(len(l.left))}
			n.Joined, n.Left = some(l.joined), some(l.left)
			all = append(all, told{conv, n})
			l.dirty = false
			clear(l.joined)
			clear(l.left)
		}
		if len(l.edges) == 0 {
			delete(s.live, conv)
		}
	}
	s.mu.Unlock()
	s.spoken.sweep(s.now())
	if s.tell == nil {
		return
	}
	for i := range all {
		if all[i].news.Count > 0 {
			s.tell.RoomNews(all[i].conv, &all[i].news)
		}
	}
}

// some returns a few users, in the order of their bytes.
func some(all map[id.UserID]struct{}) (names []string) {
	for u := range all {
		if len(names) == namedUsers {
			break
		}
		names = append(names, string(u))
	}
	slices.Sort(names)
	return names
}

// eject puts user out of conv and says why.
func (s *Service) eject(conv id.ConversationID, user id.UserID, why code.Code) {
	s.put(conv, user)
	if s.tell == nil {
		return
	}
	s.tell.Eject(conv, user)
	data, err := (&wire.RoomNews{Code: uint32(why)}).Marshal(nil)
	if err != nil { // plain data always marshals
		return
	}
	s.tell.Push(user, 0, &wire.Signal{ConversationId: conv[:], Kind: packet.SignalRoom, Data: data})
}

// Stats is how many rooms somebody is in, and how many users are in rooms, each counted in every one.
func (s *Service) Stats() (rooms, users int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.live {
		users += len(l.users)
	}
	return len(s.live), users
}
