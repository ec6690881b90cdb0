package relation

import (
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/id"
)

// cache keeps profiles, and that there are none, for a while and up to a number of bytes.
// When it is full an arbitrary part makes room.
type cache struct {
	mu    sync.RWMutex
	limit int
	ttl   int64 // ms
	bytes int
	byID  map[id.UserID]cached

	hits, misses atomic.Uint64
}

type cached struct {
	profile *wire.Profile // nil: there is none
	until   int64         // Unix ms
}

// entryBytes is what an entry costs beside its profile.
const entryBytes = 160

func (c *cached) size(u id.UserID) int {
	n := entryBytes + len(u)
	if c.profile != nil {
		n += weight(c.profile)
	}
	return n
}

func (c *cache) init(limit int, ttl int64) {
	c.limit, c.ttl, c.byID = limit, ttl, make(map[id.UserID]cached)
}

// get returns what is known of u's profile; the profile is shared.
func (c *cache) get(u id.UserID, now int64) (p *wire.Profile, ok bool) {
	c.mu.RLock()
	e, ok := c.byID[u]
	c.mu.RUnlock()
	if !ok || now >= e.until {
		c.misses.Add(1)
		return nil, false
	}
	c.hits.Add(1)
	return e.profile, true
}

// CacheStats are counts of the cache of profiles: what it holds, and how look-ups ended since the start.
type CacheStats struct {
	Entries      int
	Hits, Misses uint64
}

// Cache returns counts of the profiles in memory.
func (s *Service) Cache() CacheStats {
	c := &s.profiles
	c.mu.RLock()
	defer c.mu.RUnlock()
	return CacheStats{len(c.byID), c.hits.Load(), c.misses.Load()}
}

// put keeps p, which was read or written at the Unix ms now, unless a later version is
// there, and returns what is kept: who read before another wrote must not undo that.
func (c *cache) put(u id.UserID, p *wire.Profile, now int64) *wire.Profile {
	c.mu.Lock()
	defer c.mu.Unlock()
	old, ok := c.byID[u]
	if ok {
		if old.profile.GetVersion() > p.GetVersion() {
			return old.profile
		}
		c.bytes -= old.size(u)
	} else {
		u = id.UserID(strings.Clone(string(u))) // it may alias a frame
	}
	e := cached{p, now + c.ttl}
	c.bytes += e.size(u)
	c.byID[u] = e
	if c.bytes > c.limit {
		c.evict(u)
	}
	return p
}

// evict makes room, sparing u. c is locked.
func (c *cache) evict(u id.UserID) {
	for other, e := range c.byID {
		if c.bytes <= c.limit/4*3 {
			return
		}
		if other != u {
			c.bytes -= e.size(other)
			delete(c.byID, other)
		}
	}
}
