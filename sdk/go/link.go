package gochat

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Version is the protocol version that the client speaks.
const Version = 1

// maxUnwritten is how much may wait for the transport before signals are dropped, in bytes.
const maxUnwritten = 1 << 20

// dismissal is the reason that the server gave for ending a connection, or that we have for never
// making it again.
type dismissal struct {
	told      *code.Error
	elsewhere []string // other servers that it named, which is leaving itself, in the order in which they are tried
}

func (d *dismissal) Error() string { return d.told.Error() }
func (d *dismissal) Unwrap() error { return d.told }

// link is one connection. Its fields but conn, wake and gone are guarded by Client.mu.
type link struct {
	conn net.Conn
	wake chan struct{} // for the writer
	gone chan struct{} // closed when the reader has ended

	out       []byte
	requests  map[uint32]any // *outgoing, *pull, *call; nil: answered in vain
	lastReq   uint32
	inflight  int           // SENDs without an answer
	heartbeat time.Duration // silence allowed to us
	beatMin   time.Duration // what the server takes as a wish for it
	beatMax   time.Duration
	beats     int  // PINGs that were answered
	silent    bool // given up because nothing was heard
	limits    wire.Limits
	sends     pace // SENDs
	bytes     pace // their bytes
	lastWrite time.Time
	lastRead  time.Time
	closing   bool                            // write what is there, then close
	leaving   *departure                      // the server is, and so does the client
	pulls     int                             // SYNCs without an answer
	ranges    int                             // of one SYNC, at most
	acked     map[*conversation]struct{}      // named in a RECVACK
	doubts    map[id.ConversationID]time.Time // when to ask whether the user is still in them

	pages struct { // reading the inbox since the sync mark
		due  bool      // from the start, as soon as none is under way
		busy bool      // a page is asked for
		wait time.Time // not before
		mark uint64    // to be stored after the last page
	}
}

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// request registers who waits for an answer and returns the request's id: a small one,
// since those are short. The caller holds Client.mu.
func (l *link) request(waiter any) uint32 {
	for {
		if l.lastReq++; l.lastReq > frame.MaxCheapID {
			l.lastReq = 1
		}
		if _, taken := l.requests[l.lastReq]; !taken {
			l.requests[l.lastReq] = waiter
			return l.lastReq
		}
	}
}

// connect opens a session at address, or goes on with one that stands, and reads until the
// connection ends. left tells how the client left a server that was leaving.
func (c *Client) connect(address string, o *opened) (established bool, left *departure, err error) {
	if o == nil {
		if o, err = c.open(address); err != nil {
			return false, nil, err
		}
	}
	conn := o.conn
	l := &link{conn: conn, wake: make(chan struct{}, 1), gone: make(chan struct{}), requests: map[uint32]any{}, acked: map[*conversation]struct{}{}}
	c.established(l, o.ack, o.s, o.sent)
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		c.write(l)
	}()
	err = c.read(l, o.r)
	close(l.gone)
	_ = conn.Close()
	<-writer
	left = c.departed(l)
	c.lost(l)
	return true, left, err
}

// shake sends CONNECT and waits for its answer; sent is our time in the middle between.
func (c *Client) shake(conn net.Conn, r *reader, s Session, token string, beat uint32, background bool) (ack *wire.Connack, sent time.Time, err error) {
	hello := &wire.Connect{
		Version: Version, Token: token, DeviceId: string(c.cfg.Device), DeviceKind: c.cfg.Kind, ResumeToken: s.ResumeToken, SyncMark: s.SyncMark,
		StoreEpoch: s.StoreEpoch, Client: c.cfg.Client, HeartbeatSeconds: beat, Background: background,
	}
	b, err := packet.AppendBody(nil, frame.Connect, 0, 0, hello)
	if err != nil {
		return nil, sent, err
	}
	begun := time.Now()
	if _, err := conn.Write(b); err != nil {
		return nil, sent, err
	}
	var elsewhere []string
	for {
		f, err := r.next()
		if err != nil {
			return nil, sent, err
		}
		switch f.Type {
		case frame.Drain:
			if m, err := packet.DecodeDrain(f.Body); err == nil {
				elsewhere = shuffled(m.Alternatives)
			}
		case frame.Connack:
			ack, cerr := packet.DecodeConnack(f.Body)
			if cerr != nil {
				return nil, sent, cerr
			}
			if ack.Version != Version {
				return nil, sent, &dismissal{told: code.Newf(code.VersionUnsupported, "the server answered with version %d", ack.Version)}
			}
			if m := ack.GetLimits().GetMaxFrame(); m > 0 {
				r.max = int(min(m, frame.HardMax))
			}
			return ack, begun.Add(time.Since(begun) / 2), nil
		case frame.Error, frame.Kick:
			err := farewell(f)
			var d *dismissal
			if errors.As(err, &d) {
				d.elsewhere = elsewhere
			}
			return nil, sent, err
		}
	}
}

// farewell is the error that an ERROR without request id, or a KICK, tells.
func farewell(f frame.Frame) error {
	decode := func() (*code.Error, *code.Error) {
		if f.Type == frame.Kick {
			return packet.DecodeKick(f.Body)
		}
		told, _, err := packet.DecodeError(f.Body)
		return told, err
	}
	told, err := decode()
	if err != nil {
		return err
	}
	return &dismissal{told: told}
}

// reader cuts a stream into frames.
type reader struct {
	conn     net.Conn
	max      int
	buf      []byte
	from, to int // what is read and not yet taken
}

// next returns the next frame, which is good until the call after.
func (r *reader) next() (frame.Frame, error) {
	for {
		f, n, err := frame.Parse(r.buf[r.from:r.to], r.max)
		if err != nil {
			return f, err
		}
		if n > 0 {
			r.from += n
			return f, nil
		}
		if r.from > 0 {
			r.to = copy(r.buf, r.buf[r.from:r.to])
			r.from = 0
		}
		if r.to == len(r.buf) {
			r.buf = append(r.buf, make([]byte, max(4096, len(r.buf)))...)
		}
		m, err := r.conn.Read(r.buf[r.to:])
		r.to += m
		if err != nil && m == 0 {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return f, err
		}
	}
}

// established takes in the CONNACK and starts what waits.
func (c *Client) established(l *link, ack *wire.Connack, s Session, sent time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	l.heartbeat = time.Duration(max(ack.HeartbeatSeconds, 1)) * time.Second
	l.beatMin, l.beatMax = time.Duration(ack.HeartbeatMinSeconds)*time.Second, time.Duration(ack.HeartbeatMaxSeconds)*time.Second
	// The first PING is shifted more than later ones: many clients connect together after a restart.
	l.lastRead, l.lastWrite, l.ranges = now, now.Add(-jitter(l.heartbeat/3)), maxRanges
	if ack.Limits != nil {
		l.limits = *ack.Limits
	}
	if l.limits.MaxInflight == 0 {
		l.limits.MaxInflight = 64
	}
	l.sends, l.bytes = newPace(l.limits.SendsPerSecond, burstSends), newPace(l.limits.BytesPerSecond, burstBytes)
	c.offset = time.UnixMilli(int64(ack.ServerTime)).Sub(sent)
	c.me = id.UserID(ack.UserId)
	c.adoptLanes()
	c.push(Connected{User: c.me, Server: ack.Server, Resumed: ack.Resumed})

	s.User, s.ResumeToken = c.me, ack.ResumeToken
	if s.StoreEpoch != ack.StoreEpoch {
		if s.StoreEpoch != 0 {
			c.log.Warn("the server's store was restored, everything is synced anew", "epoch", ack.StoreEpoch)
			c.forget()
			c.push(Resynced{StoreEpoch: ack.StoreEpoch})
		}
		s.StoreEpoch, s.SyncMark = ack.StoreEpoch, 0
	}
	c.session = s
	c.saveSession()
	c.link = l
	c.people.visit++
	if c.stopped == nil {
		close(c.up)
	}
	c.inbox(l, ack.Conversations, ack.InboxCursor, ack.SyncMark)
	c.rejoin(l)
	l.wakeWriter()
}

// lost cleans up behind a connection.
func (c *Client) lost(l *link) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.link = nil
	c.beat.learn(l)
	if c.stopped == nil {
		c.up = make(chan struct{})
	}
	for _, s := range c.lanes {
		s.reset()
	}
	for _, v := range c.convs {
		v.pulling, v.wait = false, time.Time{}
	}
	for v := range l.acked { // the last RECVACK may be lost: said again next time
		if c.convs[v.id] == v {
			c.unacked[v.id] = v
		}
	}
	for _, w := range l.requests {
		if call, ok := w.(*call); ok {
			call.finish(errLost)
		}
	}
}

// saveSession stores the session, unless a cursor is owed: a mark ahead of it would have its messages missing after a restart.
func (c *Client) saveSession() {
	if err := c.repay(); err != nil {
		c.log.Error("the session isn't stored before its cursors", "error", err)
		return
	}
	if err := c.store.SetSession(c.session); err != nil {
		c.log.Error("storing the session", "error", err)
	}
}

// read acts on frames until the connection ends.
func (c *Client) read(l *link, r *reader) error {
	for {
		f, err := r.next()
		if err == nil {
			err = c.frame(l, &f)
		}
		if err != nil {
			c.mu.Lock()
			going := l.leaving != nil && l.closing
			c.mu.Unlock()
			if going && !endsTokens(err) {
				return errServerLeaving
			}
			return err
		}
	}
}

// frame acts on one frame; an error ends the connection.
func (c *Client) frame(l *link, f *frame.Frame) error {
	if f.Type.Known() && f.Type != frame.Connect && f.Type != frame.Send {
		if err := packet.Validate(f, &packet.DefaultLimits); err != nil {
			return fmt.Errorf("a %v that can't be read: %w", f.Type, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	l.lastRead = time.Now()
	defer l.wakeWriter()
	switch f.Type {
	case frame.SendAck:
		ack, err := packet.DecodeSendAck(f.Body)
		if err != nil {
			return err
		}
		if o, ok := c.answered(l, f).(*outgoing); ok {
			c.acked(l, o, ack)
		}
	case frame.Deliver:
		if f.Flags&frame.FlagNeverPull != 0 {
			return c.live(f.Body)
		}
		return c.delivered(f.Body)
	case frame.Synced:
		return c.synced(l, f)
	case frame.Response:
		return c.response(l, f)
	case frame.Error:
		if !f.HasReqID() {
			return farewell(*f)
		}
		told, _, err := packet.DecodeError(f.Body)
		if err != nil {
			return err
		}
		c.refused(l, f, told)
	case frame.Kick:
		return farewell(*f)
	case frame.Hint:
		m, err := packet.DecodeHint(f.Body)
		if err != nil {
			return err
		}
		c.hinted(l, m)
	case frame.Signal:
		m, err := packet.DecodeSignal(f.Body)
		if err != nil {
			return err
		}
		c.signalled(m)
	case frame.Pong:
		l.beats++
	case frame.Ping:
		l.out = frame.Append(l.out, frame.Pong, f.Flags&frame.FlagRequestID, f.ReqID, nil)
	case frame.Drain:
		m, err := packet.DecodeDrain(f.Body)
		if err != nil {
			return err
		}
		c.leave(l, m, time.Now())
	}
	return nil
}

// answered returns who waits for this frame, and lets go of the request unless more parts follow.
func (c *Client) answered(l *link, f *frame.Frame) any {
	w, ok := l.requests[f.ReqID]
	if !ok || !f.HasReqID() {
		return nil
	}
	if f.Flags&frame.FlagMore != 0 && (f.Type == frame.Synced || f.Type == frame.Response) {
		return w
	}
	delete(l.requests, f.ReqID)
	return w
}

// refused acts on an ERROR with a request id.
func (c *Client) refused(l *link, f *frame.Frame, e *code.Error) {
	switch w := c.answered(l, f).(type) {
	case *outgoing:
		c.sendRefused(l, w, f.ReqID, e)
	case *pull:
		c.pullRefused(l, w, e)
	case *call:
		w.finish(e)
	}
}

// write sends what is queued, and does what is due by the clock.
func (c *Client) write(l *link) {
	var spare []byte
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		closed := c.ctx.Err() != nil
		c.mu.Lock()
		now := time.Now()
		if closed {
			c.appendRecvAcks(l)
			l.closing = true
		}
		next, err := c.tick(l, now)
		out := l.out
		l.out = spare
		closing := l.closing
		c.mu.Unlock()
		if len(out) > 0 {
			timeout := 30 * time.Second
			if closing {
				timeout = time.Second
			}
			_ = l.conn.SetWriteDeadline(time.Now().Add(timeout))
			_, werr := l.conn.Write(out)
			err = errors.Join(err, werr)
		}
		if closing || err != nil {
			if err != nil {
				c.log.Info("giving the connection up", "error", err)
			}
			_ = l.conn.Close() // wakes the reader
			return
		}
		if spare = out[:0]; cap(spare) > 1<<16 {
			spare = nil
		}
		timer.Reset(time.Until(next))
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.gone:
			return
		case <-c.ctx.Done():
		}
	}
}

// tick does what is due, queues it for writing, and returns when it wants to be called
// again at the latest. The caller holds mu.
func (c *Client) tick(l *link, now time.Time) (next time.Time, err error) {
	if silent := now.Sub(l.lastRead); silent > l.heartbeat+c.cfg.DeadAfter {
		l.silent = true
		return now, fmt.Errorf("nothing heard for %v", silent.Round(time.Millisecond))
	}
	next = now.Add(l.heartbeat + c.cfg.DeadAfter - now.Sub(l.lastRead) + time.Millisecond)
	soonest := func(t time.Time) {
		if t.Before(next) {
			next = t
		}
	}
	going, due := c.leaveDue(l, now)
	soonest(due)
	if going { // what is under way is waited for, and nothing new begins
		return next, nil
	}
	soonest(c.pump(l, now))
	soonest(c.pullDue(l, now))
	soonest(c.pageDue(l, now))
	soonest(c.doubtsDue(l, now))
	soonest(c.peopleDue(l, now))
	c.roomsDue()
	if len(c.unacked) > 0 {
		if !now.Before(c.nextAck) {
			c.appendRecvAcks(l)
			c.nextAck = now.Add(c.cfg.AckInterval)
		} else {
			soonest(c.nextAck)
		}
	}
	// A PING after two thirds of the time allowed, give or take, tells both sides that the other lives.
	if beat := l.lastWrite.Add(l.heartbeat * 2 / 3); !now.Before(beat) && len(l.out) == 0 {
		l.out = frame.Append(l.out, frame.Ping, 0, 0, nil)
	}
	if len(l.out) > 0 {
		l.lastWrite = now.Add(-jitter(l.heartbeat / 6))
	}
	soonest(l.lastWrite.Add(l.heartbeat * 2 / 3))
	return next, nil
}

// retryAfter is how long to wait before what was refused with e is tried again: as e says, and at least as its code does.
func retryAfter(e *code.Error) time.Duration { return max(e.RetryAfter, e.Code.RetryAfter()) }

// jitter returns a random time from 0 to d.
func jitter(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(rand.Int64N(int64(d) + 1))
}
