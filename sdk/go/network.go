package gochat

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
)

// steadyBeats is how many PINGs a connection has had answered when its network is taken for
// one that keeps silent connections alive for longer.
const steadyBeats = 8

// heartbeat is what the client asks the server to be allowed, unless Config says. Client.mu guards it.
//
// A network that forgets silent connections shows by connections that turn out to be dead: the client
// halves its wish. One that doesn't shows by PINGs that are answered: the next connection tries half as
// much again, but never again as much as failed. Fewer PINGs let a phone sleep.
type heartbeat struct {
	wish   time.Duration // 0: the server's choice
	failed time.Duration // the shortest that was too long; 0: none
}

// askHeartbeat returns the wish for CONNECT, in seconds.
func (c *Client) askHeartbeat() uint32 {
	if c.cfg.Heartbeat != 0 {
		return uint32(c.cfg.Heartbeat / time.Second)
	}
	return uint32(c.beat.wish / time.Second)
}

// learn draws the conclusion from how a connection ended.
func (b *heartbeat) learn(l *link) {
	switch {
	case l.silent:
		b.wish = max(l.heartbeat/2, l.beatMin, time.Second)
		b.failed = l.heartbeat
	case l.beats >= steadyBeats:
		if longer := min(l.heartbeat*3/2, l.beatMax); b.failed == 0 || longer < b.failed {
			b.wish = max(longer, b.wish)
		}
	}
}

// strayTime is for how long after an attempt that was given up a server may still act on its CONNECT.
const strayTime = 5 * time.Minute

// maxStrays is how many of them are remembered.
const maxStrays = 4

// strays is attempts to connect that were given up before the server had answered: it may have been frozen, or slow, and
// opens the session later for nobody, in the place of the one that the client has by then.
type strays struct {
	mu    sync.Mutex
	times []time.Time // when they were given up, the oldest first
}

// gaveUp notes how an attempt failed that had reached a server.
func (s *strays) gaveUp(err error) {
	var d *dismissal
	if err == nil || errors.As(err, &d) {
		return // it was answered
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.times = append(s.times, time.Now()); len(s.times) > maxStrays {
		s.times = s.times[1:]
	}
}

// explain returns err, with which a connection ended, as an error that isn't final if the client may have been replaced by
// an attempt of its own. Each attempt explains one replacement, one more is somebody else's.
func (s *strays) explain(err error) error {
	var d *dismissal
	if !errors.As(err, &d) || d.told.Code != code.Replaced {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.times) > 0 {
		given := s.times[0]
		if s.times = s.times[1:]; time.Since(given) <= strayTime {
			return fmt.Errorf("maybe by an attempt to connect that was given up: %v", err)
		}
	}
	return err
}
