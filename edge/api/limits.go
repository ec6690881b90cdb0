package api

import (
	"net/netip"
	"sync"
	"time"
)

// limiter is a token bucket for each address, in a table of bounded size. Addresses that
// find no room in it share one bucket of ten allowances.
type limiter struct {
	mu       sync.Mutex
	perSec   float64 // 0: unlimited
	burst    float64
	limit    int
	table    map[netip.Addr]*bucket
	overflow bucket
	swept    time.Time
}

type bucket struct {
	tokens float64
	at     time.Time
}

func newLimiter(perMinute, addresses int) *limiter {
	l := &limiter{limit: addresses, table: make(map[netip.Addr]*bucket)}
	l.set(perMinute)
	return l
}

// set changes the allowance; what an address has saved above it is lost at its next call.
func (l *limiter) set(perMinute int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.perSec, l.burst = 0, 0
	if perMinute > 0 {
		l.perSec, l.burst = float64(perMinute)/60, float64(perMinute)
	}
}

// take takes one token of the address, or returns how long it takes until there is one.
func (l *limiter) take(a netip.Addr, now time.Time) (wait time.Duration) {
	if a.Is6() { // whoever has one address of a /64 has them all
		if p, err := a.WithZone("").Prefix(64); err == nil {
			a = p.Addr()
		}
	}
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
func (l *limiter) sweep(now time.Time) {
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
