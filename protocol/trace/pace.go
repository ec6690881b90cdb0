package trace

import "sync"

// linesPerSecond is how many lines of one kind are logged a second: what makes one request
// slow often makes thousands.
const linesPerSecond = 10

// Pace bounds the lines of one kind. The zero Pace is ready.
type Pace struct {
	mu     sync.Mutex
	second int64
	lines  int
	left   uint64
}

// Allow reports whether one more line may be logged at now, of Now, and how many were left
// out since the last one.
func (p *Pace) Allow(now int64) (left uint64, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := now / 1e9; s != p.second {
		p.second, p.lines = s, 0
	}
	if p.lines == linesPerSecond {
		p.left++
		return 0, false
	}
	p.lines++
	left, p.left = p.left, 0
	return left, true
}
