package conn

import (
	"sync/atomic"
	"time"
)

// rate is a limit: so much a second, so much at once.
type rate struct {
	each  int64 // nanoseconds that one costs
	burst int64 // nanoseconds that may be spent ahead
}

// perSecond allows n a second and burst seconds' worth at once.
func perSecond(n, burst int) rate {
	each := max(int64(time.Second)/int64(n), 1)
	return rate{each: each, burst: each * int64(n) * int64(burst)}
}

// bucket is a token bucket in one number: the time at which everything spent so far
// will have been earned (the "theoretical arrival time" of the generic cell rate
// algorithm). It needs no timer, and its zero value is a full bucket.
type bucket int64

// take spends n at the time now and reports 0, or leaves the bucket as it is and
// returns how long to wait until they are there.
func (b *bucket) take(now int64, n int, r rate) (wait time.Duration) {
	t := max(int64(*b), now) + int64(n)*r.each
	if over := t - now - r.burst; over > 0 {
		return time.Duration(over)
	}
	*b = bucket(t)
	return 0
}

// quarter is how long to wait, from now, until a quarter of the burst is there.
func (b bucket) quarter(now int64, r rate) time.Duration {
	return time.Duration(max(int64(b)-now-r.burst/4*3, 0))
}

// Bucket is a token bucket that several connections share.
type Bucket struct{ earned atomic.Int64 }

func (b *Bucket) take(now int64, n int, r rate) (wait time.Duration) {
	for {
		old := b.earned.Load()
		v := bucket(old)
		if wait := v.take(now, n, r); wait > 0 {
			return wait
		}
		if b.earned.CompareAndSwap(old, int64(v)) {
			return 0
		}
	}
}

func (b *Bucket) quarter(now int64, r rate) time.Duration {
	return bucket(b.earned.Load()).quarter(now, r)
}

// Rate is a limit for a Bucket outside of this package.
type Rate struct{ r rate }

// PerSecond allows n a second, and burst times as many at once.
func PerSecond(n, burst int) Rate { return Rate{perSecond(n, burst)} }

// Return gives one that was taken back.
func (b *Bucket) Return(r Rate) { b.earned.Add(-r.r.each) }

// Take spends one at now, in nanoseconds of any clock that runs evenly, and reports
// 0, or spends nothing and returns how long to wait.
func (b *Bucket) Take(now int64, r Rate) (wait time.Duration) { return b.take(now, 1, r.r) }
