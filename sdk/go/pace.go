package gochat

import "time"

// pace spaces what is sent so that it keeps to a rate that the server announced: some at
// once, the rest evenly. The zero value is no limit.
type pace struct {
	each  time.Duration // what one costs; 0: nothing
	burst time.Duration // how much may be spent ahead
	spent time.Time     // when all that was sent will have been earned
}

// Seconds' worth that the client sends at once: half of what servers allow, so that what a slow
// network holds back and then hands over in one piece is no breach.
const (
	burstSends = time.Second
	burstBytes = 2 * time.Second
)

func newPace(perSecond uint32, burst time.Duration) pace {
	if perSecond == 0 { // the server doesn't tell
		return pace{}
	}
	return pace{each: time.Second / time.Duration(perSecond), burst: burst}
}

// next is when something may be sent again.
func (p *pace) next() time.Time { return p.spent.Add(-p.burst) }

// spend counts n as sent.
func (p *pace) spend(now time.Time, n int) {
	if p.each == 0 {
		return
	}
	if p.spent.Before(now) {
		p.spent = now
	}
	p.spent = p.spent.Add(time.Duration(n) * p.each)
}

// hold lets nothing be sent until then, and no burst after.
func (p *pace) hold(until time.Time) {
	if t := until.Add(p.burst); t.After(p.spent) {
		p.spent = t
	}
}
