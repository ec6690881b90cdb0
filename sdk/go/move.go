package gochat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
)

var errServerLeaving = errors.New("the server is leaving")

// opened is a session that stands on a connection that nobody reads yet.
type opened struct {
	conn net.Conn
	r    *reader
	ack  *wire.Connack
	sent time.Time // our time when the server told its own
	s    Session   // that it was opened with
}

// open dials and opens a session.
func (c *Client) open(address string) (*opened, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.DialTimeout)
	defer cancel()
	c.mu.Lock()
	s, me, beat, background := c.session, c.me, c.askHeartbeat(), c.background
	c.mu.Unlock()
	token, err := c.cfg.Token(ctx)
	if err != nil {
		if s.ResumeToken == "" {
			return nil, fmt.Errorf("getting a token: %w", err)
		}
		c.log.Info("no token, trying the resume token", "error", err)
	}
	conn, err := c.cfg.Dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	unhook := context.AfterFunc(ctx, func() { _ = conn.Close() })
	o := &opened{conn: conn, r: &reader{conn: conn, max: frame.DefaultMax}, s: s}
	o.ack, o.sent, err = c.shake(conn, o.r, s, token, beat, background)
	if !unhook() && err == nil {
		err = ctx.Err()
	}
	c.strays.gaveUp(err)
	if err == nil && me != "" && string(me) != o.ack.UserId {
		err = &dismissal{told: code.Newf(code.BadRequest, "the store belongs to another user")}
	}
	if err != nil {
		_ = conn.Close()
		var d *dismissal
		if token == "" && errors.As(err, &d) && d.told.Code == code.Unauthenticated {
			// Not final: the token that could not be had is still to be tried.
			c.mu.Lock()
			c.session.ResumeToken = ""
			c.saveSession()
			c.mu.Unlock()
			err = errors.New("the resume token is no good any more")
		}
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	return o, nil
}

// departure is how a client leaves a server that is leaving itself. Client.mu guards it.
type departure struct {
	alternatives []string  // other servers, in the order in which they are tried; none: this one comes back
	told         []string  // alternatives at first
	at           time.Time // with alternatives: when to go; without: when to go at the latest
	after        time.Duration
	ready        *opened       // the session elsewhere
	moving       chan struct{} // closed when the attempt to get one is over; nil: not begun
}

// leave acts on a DRAIN. Where there are other servers the client goes to one of them, at a
// random moment, before it leaves this one. Where there are none, this one goes down and comes
// back: the client takes in the answers that are under way, goes, and comes back at a random moment.
func (c *Client) leave(l *link, m *wire.Drain, now time.Time) {
	if l.leaving != nil {
		return
	}
	ms := func(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
	d := &departure{alternatives: shuffled(m.Alternatives), after: jitter(ms(m.JitterMs))}
	d.told = d.alternatives
	if len(d.alternatives) > 0 {
		d.at = now.Add(jitter(min(ms(m.JitterMs), ms(m.DeadlineMs))))
	} else {
		d.at = now.Add(ms(m.DeadlineMs) * 3 / 4)
	}
	l.leaving = d
	c.log.Info("the server is leaving", "alternatives", d.alternatives)
}

// shuffled shuffles list, and returns it.
func shuffled(list []string) []string {
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// leaveDue does what is due of leaving. going tells that nothing new is asked of this server.
// The caller holds mu.
func (c *Client) leaveDue(l *link, now time.Time) (going bool, next time.Time) {
	d := l.leaving
	next = now.Add(time.Hour)
	switch {
	case d == nil:
		return false, next
	case len(d.alternatives) > 0 && d.moving == nil:
		if now.Before(d.at) {
			return false, d.at
		}
		d.moving = make(chan struct{})
		go c.move(l, d)
		return false, next
	case len(d.alternatives) > 0: // on its way; this server serves until then
		return false, next
	}
	if len(l.requests) == 0 || !now.Before(d.at) {
		c.appendRecvAcks(l)
		l.closing = true
		return true, now
	}
	return true, d.at
}

// move opens a session with one of the other servers, and then leaves this one. If none of them takes
// it, the client stays while it may and comes back here.
func (c *Client) move(l *link, d *departure) {
	defer close(d.moving)
	for _, address := range d.alternatives {
		o, err := c.open(address)
		if err != nil {
			c.log.Info("moving to another server", "address", address, "error", err)
			continue
		}
		c.mu.Lock()
		d.ready = o
		c.appendRecvAcks(l)
		l.closing = true
		c.mu.Unlock()
		l.wakeWriter()
		return
	}
	c.mu.Lock()
	d.alternatives, d.at = nil, time.Now()
	c.mu.Unlock()
	l.wakeWriter()
}

// departed returns, when the connection has ended, how the client was leaving; nil: it wasn't.
func (c *Client) departed(l *link) *departure {
	c.mu.Lock()
	d := l.leaving
	var moving chan struct{}
	if d != nil {
		moving = d.moving
	}
	c.mu.Unlock()
	if moving != nil { // the other server may have had this connection closed
		<-moving
	}
	return d
}
