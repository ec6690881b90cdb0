package conn

import (
	"errors"
	"fmt"
)

// Allowance is what clients may do that can change while they are connected. The fields are Config's. What is told in
// CONNACK may be more than is allowed later: it is refused retryably then.
type Allowance struct {
	SendsPerSecond, UserSendsPerSecond, BytesPerSecond int
	FramesPerSecond                                    int // 0: 4 x SendsPerSecond + 100
	MaxInflight                                        int
}

// Validate reports everything that is wrong with a.
func (a Allowance) Validate() error {
	var errs []error
	for name, v := range map[string]int{
		"sends per second": a.SendsPerSecond, "user sends per second": a.UserSendsPerSecond,
		"bytes per second": a.BytesPerSecond, "max inflight": a.MaxInflight,
	} {
		if v <= 0 {
			errs = append(errs, fmt.Errorf("connections: %s %d: want more than 0", name, v))
		}
	}
	return errors.Join(errs...)
}

// allowance is an Allowance as it is compared with.
type allowance struct {
	Allowance
	send, user, bytes, frames rate
}

// Allow makes a, which is valid, hold for all connections from the next frame on.
func (e *Edge) Allow(a Allowance) {
	if a.FramesPerSecond == 0 {
		a.FramesPerSecond = 4*a.SendsPerSecond + 100
	}
	l := &allowance{
		Allowance: a,
		send:      perSecond(a.SendsPerSecond, 2), user: perSecond(a.UserSendsPerSecond, 2),
		bytes: perSecond(a.BytesPerSecond, 4), frames: perSecond(a.FramesPerSecond, 4),
	}
	// One message of the largest size always fits.
	l.bytes.burst = max(l.bytes.burst, l.bytes.each*int64(2*e.cfg.MaxFrame))
	e.allowed.Store(l)
}
