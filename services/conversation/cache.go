package conversation

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"github.com/gochat-im/gochat/protocol/id"
)

const cacheShards = 32

// cache keeps a bounded number of values by key and forgets by the clock algorithm:
// what was used since the hand last came by stays. A look-up holds a shard's lock for
// the time of a map look-up and allocates nothing.
type cache[K comparable, V any] struct {
	shards [cacheShards]cacheShard[K, V]
}

type cacheShard[K comparable, V any] struct {
	mu    sync.Mutex
	byKey map[K]uint32
	slots []cacheSlot[K, V]
	limit int
	hand  int

	hits, misses uint64
	_            [64]byte
}

type cacheSlot[K comparable, V any] struct {
	key  K
	val  V
	used bool
}

func (c *cache[K, V]) init(limit int) {
	for i := range c.shards {
		c.shards[i].limit = max(limit/cacheShards, 2)
	}
}

// get returns the value of k; hash is k's.
func (c *cache[K, V]) get(hash uint64, k K) (v V, ok bool) {
	s := &c.shards[hash%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.byKey[k]
	if !ok {
		s.misses++
		return v, false
	}
	s.hits++
	s.slots[i].used = true
	return s.slots[i].val, true
}

// put keeps v under k. What the key points to is pinned while the entry lives.
func (c *cache[K, V]) put(hash uint64, k K, v V) {
	s := &c.shards[hash%cacheShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if i, ok := s.byKey[k]; ok {
		s.slots[i].val, s.slots[i].used = v, true
		return
	}
	if s.byKey == nil {
		s.byKey = make(map[K]uint32)
	}
	i := len(s.slots)
	if i < s.limit {
		s.slots = append(s.slots, cacheSlot[K, V]{})
	} else {
		for s.slots[s.hand].used {
			s.slots[s.hand].used = false
			s.hand = (s.hand + 1) % len(s.slots)
		}
		i = s.hand
		s.hand = (s.hand + 1) % len(s.slots)
		delete(s.byKey, s.slots[i].key)
	}
	s.slots[i] = cacheSlot[K, V]{key: k, val: v} // used is for what is asked for again
	s.byKey[k] = uint32(i)
}

// CacheStats are counts of one cache: what it holds, and how look-ups ended since the start.
type CacheStats struct {
	Entries      int
	Hits, Misses uint64
}

func (c *cache[K, V]) stats() (n CacheStats) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		n.Entries += len(s.byKey)
		n.Hits += s.hits
		n.Misses += s.misses
		s.mu.Unlock()
	}
	return n
}

// Caches returns counts of the caches, by what they hold: direct conversations of two
// users, who is in a direct conversation, and counts of unread messages.
func (s *Service) Caches() (directs, rosters, unread CacheStats) {
	return s.pairs.stats(), s.rosters.stats(), s.tallies.stats()
}

var seed = maphash.MakeSeed()

// pair is the two users of a direct conversation, sorted.
type pair struct{ a, b id.UserID }

func pairOf(a, b id.UserID) pair {
	if b < a {
		a, b = b, a
	}
	return pair{a, b}
}

func (p pair) hash() uint64 {
	return maphash.String(seed, string(p.a))*0x9E3779B97F4A7C15 ^ maphash.String(seed, string(p.b))
}

// convHash needs no hashing: ids are hashes or random.
func convHash(c id.ConversationID) uint64 { return binary.LittleEndian.Uint64(c[8:]) }

// cursorKey names one user's cursor in one conversation.
type cursorKey struct {
	conv id.ConversationID
	user id.UserID
}

func (k cursorKey) hash() uint64 {
	return convHash(k.conv) ^ maphash.String(seed, string(k.user))
}
