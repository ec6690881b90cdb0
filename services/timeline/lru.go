package timeline

// lru orders the conversations in memory by use. It is the sequencer goroutine's.
type lru struct {
	newest, oldest *conversation
	n              int
}

// touch makes c the newest.
func (l *lru) touch(c *conversation) {
	if l.newest == c {
		return
	}
	if c.newer != nil { // linked, and not the newest
		l.unlink(c)
	}
	c.older = l.newest
	if l.newest != nil {
		l.newest.newer = c
	} else {
		l.oldest = c
	}
	l.newest = c
	l.n++
}

func (l *lru) unlink(c *conversation) {
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		l.newest = c.older
	}
	if c.older != nil {
		c.older.newer = c.newer
	} else {
		l.oldest = c.newer
	}
	c.newer, c.older = nil, nil
	l.n--
}

// evictSome brings the number of conversations in memory back to its bound.
func (s *Sequencer) evictSome(now int64) {
	if over := s.recent.n - s.cfg.MaxConversations; over > 0 {
		s.forget(now, over, false)
	}
}

// evict drops conversations that were not used for long.
func (s *Sequencer) evict(now int64) {
	s.evictSome(now)
	s.forget(now, s.recent.n, true)
	if now-s.round.now > keepRound.Milliseconds() { // its transactions have grown with the largest round that there was
		s.round = round{now: now}
	}
}

// CacheStats are counts of something kept in memory. Look-ups are counted since the start.
type CacheStats struct {
	Entries      int
	Hits, Misses uint64
}

// Caches returns counts of the conversations in memory, and of their ids: a hit is a message
// that was found to be new or a repeat, a miss a second of ids that had to be read for one.
func (s *Sequencer) Caches() (conversations, ids CacheStats) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		conversations.Entries += len(sh.convs)
		conversations.Hits += sh.hits
		conversations.Misses += sh.misses
		sh.mu.Unlock()
	}
	return conversations, CacheStats{int(s.ids.kept.Load()), uint64(s.ids.hits.Load()), uint64(s.ids.misses.Load())}
}

// countIDs brings the number of ids in memory up to date with those of c, which the caller holds.
func (s *Sequencer) countIDs(c *conversation) {
	if n := len(c.ids.recent.entries) + len(c.ids.old.entries) + c.ids.loadedIDs(); n != c.counted {
		s.ids.kept.Add(int64(n - c.counted))
		c.counted = n
	}
}

// forget drops up to n conversations that nobody works on, the least used first; idle:
// only those not used for IdleAfter.
func (s *Sequencer) forget(now int64, n int, idle bool) {
	evicted := 0
	tries := n + 64 // those in use are passed over, not for ever
	for c := s.recent.oldest; c != nil && n > 0 && tries > 0; tries-- {
		next := c.newer
		if idle && now-c.lastUse.Load() < s.cfg.IdleAfter.Milliseconds() {
			break
		}
		if s.evictOne(c, now, s.recent.n > 2*s.cfg.MaxConversations) {
			evicted++
			n--
		}
		c = next
	}
	if f := s.cfg.Events.Evicted; f != nil && evicted > 0 {
		f(evicted)
	}
}

// evictOne drops c if nobody works on it; with lanes that are shut it goes only by force.
func (s *Sequencer) evictOne(c *conversation, now int64, force bool) bool {
	sh := s.shard(c.id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held || c.dead || !force && !c.lanesIdle(now) {
		return false
	}
	c.dead = true
	delete(sh.convs, c.id)
	if c.newer != nil || s.recent.newest == c { // else it is about to be used for the first time
		s.recent.unlink(c)
	}
	s.ids.kept.Add(int64(-c.counted))
	return true
}
