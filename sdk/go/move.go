package gochat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
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
			if c.link == nil { // who has a session isn't parted from it by another server
				c.session.ResumeToken = ""
				c.saveSession()
			}
			c.mu.Unlock()
			err = errors.New("the resume token is no good any more")
		}
		return nil, fmt.Errorf("opening a session: %w", err)
	}
	return o, nil
}

// maxNamed is how many servers a client tries that only other servers than the one that leaves have named.
const maxNamed = 16

// departure is how a client leaves a server that is leaving itself. Client.mu guards it.
type departure struct {
	others []string      // other servers, in the order in which they are tried; none: this one comes back. Replaced, never changed.
	named  int           // of others, by those that were tried
	at     time.Time     // with others: when to begin to go; without: when to go at the latest
	until  time.Time     // this server closes the connection then
	after  time.Duration // how long to wait then before coming back
	ready  *opened       // the session elsewhere
	moving chan struct{} // closed when nobody tries any more to get one; nil: not begun
	again  chan struct{} // has one when the server has named others
}

// leave acts on a DRAIN. Where there are other servers the client goes to one of them, at a
// random moment, before it leaves this one. Where there are none, this one goes down and comes
// back: the client takes in the answers that are under way, goes, and comes back at a random moment.
// A later DRAIN of the same server corrects the time, and the others if it names any.
func (c *Client) leave(l *link, m *wire.Drain, now time.Time) {
	ms := func(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
	d := l.leaving
	if d == nil {
		d = &departure{after: jitter(ms(m.JitterMs)), again: make(chan struct{}, 1)}
		l.leaving = d
	}
	d.until = now.Add(ms(m.DeadlineMs))
	switch {
	case len(m.Alternatives) > 0:
		d.others, d.named = shuffled(m.Alternatives), 0
		if d.moving == nil {
			d.at = now.Add(jitter(min(ms(m.JitterMs), ms(m.DeadlineMs))))
			break
		}
		select {
		case d.again <- struct{}{}:
		default:
		}
	case len(d.others) == 0:
		d.at = now.Add(ms(m.DeadlineMs) * 3 / 4)
	}
	c.log.Info("the server is leaving", "alternatives", d.others)
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
	case len(d.others) > 0 && d.moving == nil:
		if now.Before(d.at) {
			return false, d.at
		}
		d.moving = make(chan struct{})
		go c.move(l, d)
		return false, next
	case len(d.others) > 0: // on its way; this server serves until then
		return false, next
	}
	if len(l.requests) == 0 || !now.Before(d.at) {
		c.appendRecvAcks(l)
		l.closing = true
		return true, now
	}
	return true, d.at
}

// move opens a session with one of the other servers, and then leaves this one. While none of them takes it, the client
// stays, and tries again: the connection that it has is good until the server closes it. An attempt that is under way then
// is waited for: it may be what had the connection closed.
func (c *Client) move(l *link, d *departure) {
	defer close(d.moving)
	wait := make(map[string]time.Time) // not to be tried before; zero: never again
	for failures := 0; ; failures++ {
		c.mu.Lock()
		others := d.others
		c.mu.Unlock()
		for _, address := range others {
			if l.over() {
				return
			}
			if t, tried := wait[address]; tried && (t.IsZero() || time.Now().Before(t)) {
				continue
			}
			o, err := c.open(address)
			if err == nil {
				c.mu.Lock()
				d.ready = o
				c.appendRecvAcks(l)
				l.closing = true
				c.mu.Unlock()
				l.wakeWriter()
				return
			}
			c.log.Info("moving to another server", "address", address, "error", err)
			var refused *dismissal
			if !errors.As(err, &refused) {
				continue
			}
			wait[address] = time.Time{}
			if !final(err) {
				wait[address] = time.Now().Add(retryAfter(refused.told))
			}
			c.mu.Lock()
			d.hear(refused.elsewhere)
			c.mu.Unlock()
		}
		c.mu.Lock()
		left, more := time.Until(d.until), len(d.others) > len(others)
		c.mu.Unlock()
		if more {
			continue
		}
		bound := c.bound(failures)
		if left > 0 { // there is another round in any case
			bound = min(bound, max(left/2, c.cfg.MinBackoff))
		}
		t := time.NewTimer(jitter(bound))
		select {
		case <-t.C:
		case <-d.again:
			failures = -1
		case <-l.gone:
		}
		t.Stop()
	}
}

// hear takes in what a server that leaves too has named.
func (d *departure) hear(elsewhere []string) {
	for _, address := range elsewhere {
		if d.named < maxNamed && !slices.Contains(d.others, address) {
			d.others = append(slices.Clip(d.others), address)
			d.named++
		}
	}
}

// over reports whether the connection has ended.
func (l *link) over() bool {
	select {
	case <-l.gone:
		return true
	default:
		return false
	}
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
