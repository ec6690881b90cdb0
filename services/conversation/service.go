// Package conversation is what users do with conversations: send to them, read
// them, and see which they have. It decides who may do what; the sequencer behind it
// decides the order of messages.
//
// Direct conversations come into being with the first message, or when one of the two
// opens them. A direct conversation of somebody with themselves is allowed and holds
// their notes; the `self` timeline is the server's and not written to from here.
//
// Every error that a method returns is a *code.Error.
package conversation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Sequencer gives messages their order and stores them.
type Sequencer interface {
	// Append takes over batch, whose messages are for conv and belong to it in this order.
	// It doesn't block; the outcome of each goes to its Reply.
	Append(conv id.ConversationID, batch []packet.Pending)
}

// Users knows accounts.
type Users interface {
	// Exists reports whether there is such a user who can be written to.
	Exists(ctx context.Context, user id.UserID) (bool, error)
}

// Config of a Service. Store, Keys and Users are needed, the rest takes its defaults when zero.
type Config struct {
	Store  kv.Store
	Keys   msgstore.Keys
	Users  Users
	Groups Groups // nil: groups are read from the store each time, which is for tests

	Rooms   Rooms   // nil: there are none
	Writers Writers // nil: everybody may write to everybody

	Conversations int // conversations whose members are remembered; 0: 65,536
	Creators      int // goroutines that bring conversations into being, at most; 0: 16
	Waiting       int // messages that may wait for their conversation in all; 0: 16,384

	PageBytes int // bytes of messages a page; 0: 96 KiB. One message may be larger

	FlushEvery time.Duration // how often cursors are written; 0: 1 s
	Cursors    int           // cursors that may wait to be written; 0: 131,072
	PushEvery  time.Duration // how long moves of cursors are gathered before devices are told of them; 0: 100 ms

	// AfterBatch is called after messages were refused by a goroutine of the Service's own:
	// the time to flush the answers. May be nil.
	AfterBatch func()

	Logger *slog.Logger // nil: slog.Default()
	Now    func() int64 // Unix ms; nil: the clock
}

// Limits of pages.
const (
	DefaultPage  = 100 // messages a page unless asked for fewer or more
	MaxPage      = 200
	DefaultInbox = 50 // conversations a page of the inbox
	MaxInbox     = 200
	UnreadCap    = 100 // unread messages are counted up to here
)

// markMargin is what a sync mark lies back: more than clocks differ plus the age at
// which a commit may still succeed, in ms.
const markMargin = 60_000

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("conversation: bad configuration")

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Store == nil || c.Users == nil:
		return fmt.Errorf("%w: Store and Users are needed", ErrConfig)
	case c.Conversations < 0 || c.Creators < 0 || c.Waiting < 0 || c.PageBytes < 0 || c.FlushEvery < 0 || c.PushEvery < 0 || c.Cursors < 0:
		return fmt.Errorf("%w: a limit is negative", ErrConfig)
	}
	return nil
}

// Service is safe for concurrent use. Bind must have been called before the first Send.
type Service struct {
	cfg      Config
	log      *slog.Logger
	now      func() int64
	timeline *msgstore.Timeline
	members  *msgstore.Members
	inbox    *msgstore.Inbox
	groups   *msgstore.Groups
	seq      Sequencer
	devices  Devices // nil: nobody is told of anything

	audiences Audiences // nil: there are none

	pairs   cache[pair, id.ConversationID] // direct conversations that exist
	rosters cache[id.ConversationID, *roster]
	tallies cache[cursorKey, tally]
	making  creations
	cursors cursors
	pushes  pushes
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Conversations == 0 {
		cfg.Conversations = 1 << 16
	}
	if cfg.Creators == 0 {
		cfg.Creators = 16
	}
	if cfg.Waiting == 0 {
		cfg.Waiting = 16 << 10
	}
	if cfg.PageBytes == 0 {
		cfg.PageBytes = 96 << 10
	}
	if cfg.FlushEvery == 0 {
		cfg.FlushEvery = time.Second
	}
	if cfg.PushEvery == 0 {
		cfg.PushEvery = 100 * time.Millisecond
	}
	if cfg.Cursors == 0 {
		cfg.Cursors = 128 << 10
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	s := &Service{
		cfg: cfg, log: cfg.Logger, now: cfg.Now,
		timeline: msgstore.NewTimeline(cfg.Store, cfg.Keys),
		members:  msgstore.NewMembers(cfg.Store, cfg.Keys),
		inbox:    msgstore.NewInbox(cfg.Store, cfg.Keys),
		groups:   msgstore.NewGroups(cfg.Store, cfg.Keys),
	}
	s.pairs.init(cfg.Conversations)
	s.rosters.init(cfg.Conversations)
	s.tallies.init(cfg.Conversations)
	s.making.init()
	s.cursors.init(cfg.Cursors)
	s.pushes.init(cfg.Cursors)
	return s, nil
}

// Bind sets where messages go. The sequencer asks Rules of this Service, so one of the
// two has to exist first.
func (s *Service) Bind(seq Sequencer) { s.seq = seq }

// backOff says which of many failures in a row are told: the 1st, 2nd, 4th, 8th, ...
type backOff struct{ failures, next int }

// note counts an attempt. failures is how many failed in a row, this one included, or, after
// the first that didn't fail, how many before it.
func (b *backOff) note(failed bool) (failures int, tell bool) {
	if !failed {
		failures, tell = b.failures, b.failures > 0
		*b = backOff{}
		return failures, tell
	}
	b.failures++
	if b.failures < b.next {
		return b.failures, false
	}
	b.next = 2 * b.failures
	return b.failures, true
}

// shutdownTime bounds the last writing of cursors.
const shutdownTime = 5 * time.Second

// Run writes cursors, and tells devices of them, until ctx ends, then refuses what comes, waits for conversations
// that are being made, and writes the last cursors.
func (s *Service) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.pushLoop(ctx) })
	t := time.NewTicker(s.cfg.FlushEvery)
	defer t.Stop()
	var failing backOff
	for {
		select {
		case <-ctx.Done():
			s.making.close()
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
			defer cancel()
			return s.Flush(last)
		case <-t.C:
		case <-s.cursors.full:
		}
		err := s.Flush(ctx)
		if ctx.Err() != nil {
			continue
		}
		switch failures, tell := failing.note(err != nil); {
		case tell && err != nil:
			s.log.Warn("cursors could not be written, trying again", "failures", failures, "err", err)
		case tell:
			s.log.Info("cursors are written again", "failures", failures)
		}
	}
}
