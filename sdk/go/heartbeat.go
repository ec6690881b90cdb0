package gochat

import "time"

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

// ask returns the wish for CONNECT, in seconds.
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
