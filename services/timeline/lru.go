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
		sh := s.shard(c.id)
		sh.mu.Lock()
		c.mu.Lock()
		if !c.held && (c.lanesIdle(now) || s.recent.n > 2*s.cfg.MaxConversations) {
			c.dead = true
			delete(sh.convs, c.id)
			s.recent.unlink(c)
			evicted++
			n--
		}
		c.mu.Unlock()
		sh.mu.Unlock()
		c = next
	}
	if f := s.cfg.Events.Evicted; f != nil && evicted > 0 {
		f(evicted)
	}
}
