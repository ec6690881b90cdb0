package loop

import "time"

// Round goes round a number of connections once an interval, evenly, so that what
// each of them does now and then doesn't fall into one moment.
type Round struct {
	n, next   int
	due, step int64
}

// NewRound begins at now, as Loop.Now tells it, with n connections, at least 1.
func NewRound(now int64, n int, interval time.Duration) Round {
	step := max(int64(interval)/int64(n), 1)
	return Round{n: n, due: now + step, step: step}
}

// Turn calls do for each connection whose turn has come.
func (r *Round) Turn(now int64, do func(i int)) {
	for r.due <= now {
		do(r.next)
		r.next = (r.next + 1) % r.n
		r.due += r.step
	}
}

// Due returns when the next turn is.
func (r *Round) Due() int64 { return r.due }
