package gochat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// ErrClosed is returned by calls on a client that was closed.
var ErrClosed = errors.New("gochat: the client is closed")

// ErrStopped is wrapped, with the reason, by calls on a client that gave up (see Stopped).
var ErrStopped = errors.New("gochat: the client has stopped")

// Client is one device's client. Its methods may be called from any goroutine.
//
// Three goroutines work for it: run connects and reads, while a connection stands
// a second one writes, and a third calls the Handler. mu guards all that they share.
type Client struct {
	cfg    Config
	log    *slog.Logger
	store  Store
	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	wg     sync.WaitGroup

	sendMu sync.Mutex // held while a message is made and stored: the outbox keeps that order

	mu      sync.Mutex
	me      id.UserID // "" before the first CONNACK ever
	session Session
	offset  time.Duration // server's clock less ours
	link    *link         // nil: not connected
	up      chan struct{} // closed while connected or stopped
	stopped error

	beat       heartbeat
	background bool // nobody is looking at the app
	drafts     map[draftKey]*draft
	lastDraft  uint64
	people     people
	halls      map[id.ConversationID]*hall // rooms that the client is in

	convs    map[id.ConversationID]*conversation
	behind   map[id.ConversationID]*conversation // those that miss something
	unacked  map[id.ConversationID]*conversation // those with a RECVACK due
	owed     map[id.ConversationID]*conversation // those whose cursor the store has refused
	lanes    map[lane]*laneState
	order    []*laneState // in the order in which they got messages to send
	receipts map[id.ClientMsgID]*outgoing
	lastID   id.ClientMsgID
	nextAck  time.Time // of RECVACKs

	resetOwed bool // the store has refused to forget the cursors

	strays  strays // has a lock of its own
	events  []item
	waiting int // messages among events, those being handled included
	evWake  chan struct{}
	ending  bool // no event comes any more
}

// Open returns a client that connects, and goes on connecting, until Close. It owns
// cfg.Store from here on, also if it fails.
func Open(cfg Config) (*Client, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, errors.Join(err, cfg.Store.Close())
	}
	st, err := cfg.Store.Load()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("loading the client's store: %w", err), cfg.Store.Close())
	}
	c := &Client{
		cfg: cfg, log: cfg.Logger, store: cfg.Store, me: st.Session.User, session: st.Session, background: cfg.Background, up: make(chan struct{}),
		convs: map[id.ConversationID]*conversation{}, behind: map[id.ConversationID]*conversation{}, unacked: map[id.ConversationID]*conversation{},
		owed:  map[id.ConversationID]*conversation{},
		lanes: map[lane]*laneState{}, receipts: map[id.ClientMsgID]*outgoing{}, evWake: make(chan struct{}, 1),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for conv, cur := range st.Cursors {
		v := c.conversation(conv)
		v.known, v.applied, v.done, v.acked, v.head = true, cur.Applied, cur.Applied, cur.Applied, cur.Head
		c.look(v)
	}
	for _, o := range st.Outbox {
		if bytes.Compare(o.ID[:], c.lastID[:]) > 0 {
			c.lastID = o.ID
		}
		c.queue(&outgoing{Outgoing: o, tried: true, done: make(chan struct{})})
	}
	c.wg.Add(2)
	go c.run()
	go c.dispatch()
	return c, nil
}

// Close ends the connection, waits until the Handler has had all events and the goroutines
// have ended, and closes the Store. What waits in the outbox stays there. Not for use within the Handler.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.stopped == nil {
		c.stop(ErrClosed)
	}
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.mu.Lock()
	if c.resetOwed || len(c.owed) > 0 {
		c.saveSession() // the last chance
	}
	c.mu.Unlock()
	return c.store.Close()
}

// stop makes every call and receipt fail with err from here on. The caller holds mu.
func (c *Client) stop(err error) {
	if c.stopped != nil {
		return
	}
	c.stopped = err
	select {
	case <-c.up:
	default:
		close(c.up)
	}
	for _, o := range c.receipts {
		o.finish(Ack{}, err)
	}
}

// User returns who the client is, "" before it connected for the first time.
func (c *Client) User() id.UserID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.me
}

// Connected waits until the client is connected, and returns why it can't be any more if so.
func (c *Client) Connected(ctx context.Context) error {
	for {
		c.mu.Lock()
		up, l, stopped := c.up, c.link, c.stopped
		c.mu.Unlock()
		if stopped != nil {
			return stopped
		}
		if l != nil {
			return nil
		}
		select {
		case <-up:
		case <-ctx.Done():
			return fmt.Errorf("waiting for a connection: %w", ctx.Err())
		}
	}
}

// ServerTime returns the server's clock as the last CONNACK told it.
func (c *Client) ServerTime() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.serverNow()
}

func (c *Client) serverNow() time.Time { return time.Now().Add(c.offset) }

// next returns where to connect. While Address fails, which may be the server that has left, those that it named are tried in turn with it.
func (c *Client) next(failures int, others []string) string {
	if failures%2 == 0 || len(others) == 0 {
		return c.cfg.Address
	}
	return others[failures/2%len(others)]
}

// run connects again and again.
func (c *Client) run() {
	defer c.wg.Done()
	defer func() {
		c.mu.Lock()
		c.ending = true
		c.mu.Unlock()
		c.wakeDispatch()
	}()
	failures := 0
	var ready *opened   // a session that stands elsewhere
	var others []string // servers that the last one named that left
	defer func() {
		if ready != nil { // closed before it was gone on with
			_ = ready.conn.Close()
		}
	}()
	for c.ctx.Err() == nil {
		established, left, err := c.connect(c.next(failures, others), ready)
		if ready = nil; left != nil {
			ready, others = left.ready, left.others
		}
		if c.ctx.Err() != nil {
			return
		}
		if established {
			failures = 0
		}
		if ready != nil && !endsTokens(err) {
			continue
		}
		err = c.strays.explain(err)
		if left != nil && !final(err) {
			wait := left.after
			var d *dismissal
			if errors.As(err, &d) && d.told.RetryAfter > 0 { // who stayed to the end is told when to come back
				wait = d.told.RetryAfter
			}
			c.log.Info("the server is leaving", "retry", wait)
			c.emit(Disconnected{Err: err, Retry: wait})
			c.pause(wait)
			continue
		}
		if final(err) {
			c.log.Warn("client stopped", "error", err)
			c.mu.Lock()
			if endsTokens(err) && c.session.ResumeToken != "" {
				c.session.ResumeToken = ""
				c.saveSession()
			}
			c.stop(fmt.Errorf("%w: %w", ErrStopped, err))
			c.mu.Unlock()
			c.emit(Stopped{Err: err})
			return
		}
		wait := c.backoff(failures, err)
		failures++
		var d *dismissal
		if errors.As(err, &d) && len(d.elsewhere) > 0 {
			if others = d.elsewhere; failures%2 == 0 {
				failures++ // to one of them
			}
		}
		c.log.Info("disconnected", "error", err, "retry", wait)
		c.emit(Disconnected{Err: err, Retry: wait})
		c.pause(wait)
	}
}

// pause waits, unless the client is closed.
func (c *Client) pause(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.ctx.Done():
	}
}

// final reports whether connecting again is of no use.
func final(err error) bool {
	var d *dismissal
	return errors.As(err, &d) && d.told.Code.Class() == code.Terminal
}

// endsTokens reports whether the device was signed out, and not merely replaced by another
// connection of its own.
func endsTokens(err error) bool {
	var d *dismissal
	return errors.As(err, &d) && (d.told.Code == code.SessionRevoked || d.told.Code == code.Banned)
}

// bound is how long to wait at most after so many failures.
func (c *Client) bound(failures int) time.Duration {
	bound := c.cfg.MinBackoff << min(failures, 16)
	if bound <= 0 || bound > c.cfg.MaxBackoff {
		bound = c.cfg.MaxBackoff
	}
	return bound
}

// backoff is a random time below a bound that doubles, and not before the server wants it.
func (c *Client) backoff(failures int, err error) time.Duration {
	wait := jitter(c.bound(failures))
	var d *dismissal
	if errors.As(err, &d) && len(d.elsewhere) == 0 {
		wait = max(wait, retryAfter(d.told))
	}
	return wait
}

// emit queues an event that isn't a message.
func (c *Client) emit(e Event) {
	c.mu.Lock()
	c.push(e)
	c.mu.Unlock()
}

// item is an event on its way to the Handler. With v it moves the conversation's done to
// seq when the Handler has had it; without ev it does no more than that.
type item struct {
	ev   Event
	v    *conversation
	seq  uint64
	live bool // a message of a room
}

// push queues an event that isn't a message. The caller holds mu. Signals are kept out of a
// queue that is full; the others are few.
func (c *Client) push(e Event) {
	c.events = append(c.events, item{ev: e})
	c.wakeDispatch()
}

// pushMessage queues a message of v. The caller holds mu and has asked full.
func (c *Client) pushMessage(v *conversation, m Message) {
	c.waiting++
	if len(c.drafts) > 0 {
		c.draftsDone(v.id, m.Sender)
	}
	var e Event = MessageReceived{m}
	if a, ok := accountEvent(m); ok {
		e = a
	}
	c.events = append(c.events, item{ev: e, v: v, seq: m.Seq})
	c.wakeDispatch()
}

// pushSkip queues that nothing of v will come up to seq. The caller holds mu.
func (c *Client) pushSkip(v *conversation, seq uint64) {
	c.events = append(c.events, item{v: v, seq: seq})
	c.wakeDispatch()
}

func (c *Client) wakeDispatch() {
	select {
	case c.evWake <- struct{}{}:
	default:
	}
}

// full reports whether messages must wait at the server. The caller holds mu.
func (c *Client) full() bool { return c.waiting >= c.cfg.Queue }

// dispatch calls the Handler, and moves cursors behind what it has had.
func (c *Client) dispatch() {
	defer c.wg.Done()
	for {
		c.mu.Lock()
		batch, ending := c.events, c.ending
		c.events = nil
		c.mu.Unlock()
		if len(batch) == 0 {
			if ending {
				return
			}
			<-c.evWake
			continue
		}
		done := map[*conversation]uint64{}
		lived := false
		for _, it := range batch {
			if it.ev != nil {
				c.cfg.Handler(it.ev)
			}
			if it.v != nil {
				done[it.v] = it.seq
			}
			lived = lived || it.live
			if it.live || it.ev != nil && it.v != nil {
				c.mu.Lock()
				c.waiting--
				c.mu.Unlock()
			}
			if len(done) >= 64 {
				c.handled(done)
			}
		}
		c.handled(done)
		if lived { // there is room for more of it
			c.mu.Lock()
			c.roomsDue()
			c.mu.Unlock()
		}
	}
}

// handled stores that the application has had the messages up to these seqs, and empties done.
func (c *Client) handled(done map[*conversation]uint64) {
	if len(done) == 0 {
		return
	}
	c.mu.Lock()
	for v, seq := range done {
		if c.convs[v.id] == v { // else of another epoch
			v.done = max(v.done, seq)
			c.settle(v)
		}
	}
	l := c.link
	c.mu.Unlock()
	clear(done)
	if l != nil {
		l.wakeWriter() // there is room for more
	}
}
