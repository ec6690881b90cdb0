package api

import (
	"net/netip"
	"sync"
	"time"
)

// limiter is a token bucket for each key, in a table of bounded size. Keys that
// find no room in it share one bucket of ten allowances.
type limiter[K comparable] struct {
	mu       sync.Mutex
	perSec   float64 // 0: unlimited
	burst    float64
	limit    int
	table    map[K]*bucket
	overflow bucket
	swept    time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
}

// newLimiter allows perMinute, and as many at once; negative: as many as come.
func newLimiter[K comparable](perMinute, keys int) *limiter[K] {
	l := &limiter[K]{limit: keys, table: make(map[K]*bucket)}
	l.set(perMinute)
	return l
}

// set changes the allowance; what a key has saved above it is lost at its next call.
func (l *limiter[K]) set(perMinute int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.perSec, l.burst = 0, 0
	if perMinute > 0 {
		l.perSec, l.burst = float64(perMinute)/60, float64(perMinute)
	}
}

// neighbours is what counts as one address.
func neighbours(a netip.Addr) netip.Addr {
	if a.Is6() { // whoever has one address of a /64 has them all
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// wait returns how long it takes until a has a token, and takes none.
func (l *limiter[K]) wait(a K, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.table[a]
	if l.perSec == 0 || b == nil {
		return 0
	}
	tokens := b.tokens + max(now.Sub(b.at).Seconds(), 0)*l.perSec
	if tokens >= 1 {
		return 0
	}
	return time.Duration((1 - tokens) / l.perSec * float64(time.Second))
}

// take takes one token of a, or returns how long it takes until there is one.
func (l *limiter[K]) take(a K, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.perSec == 0 {
		return 0
	}
	b := l.table[a]
	if b == nil && len(l.table) >= l.limit {
		l.sweep(now)
	}
	if b == nil && len(l.table) < l.limit {
		b = &bucket{tokens: l.burst, at: now}
		l.table[a] = b
	}
	if b == nil {
		return l.overflow.take(10*l.perSec, 10*l.burst, now)
	}
	return b.take(l.perSec, l.burst, now)
}

func (b *bucket) take(perSec, burst float64, now time.Time) time.Duration {
	if b.at.IsZero() {
		b.tokens = burst
	} else if d := now.Sub(b.at); d > 0 {
		b.tokens = min(burst, b.tokens+d.Seconds()*perSec)
	}
	b.at = now
	if b.tokens >= 1 {
		b.tokens--
		return 0
	}
	return time.Duration((1 - b.tokens) / perSec * float64(time.Second))
}

// sweep drops the buckets that are full again: they say nothing. At most once a second, since it looks at all.
func (l *limiter[K]) sweep(now time.Time) {
	if now.Sub(l.swept) < time.Second {
		return
	}
	l.swept = now
	for a, b := range l.table {
		if b.tokens+now.Sub(b.at).Seconds()*l.perSec >= l.burst {
			delete(l.table, a)
		}
	}
}

func within(nets []netip.Prefix, a netip.Addr) bool {
	for _, n := range nets {
		if n.Contains(a) {
			return true
		}
	}
	return false
}
