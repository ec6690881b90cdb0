// Package group is what users do with groups: make them, bring people in, leave them,
// and say who may do what there.
//
// Membership is part of a group's log: every change of it is a message, and a member sees
// the messages of the stretches in which they were in, both ends included. A change is
// planned against the group's head and committed under its fence, so what is decided
// here about permission and numbers holds at that point of the log.
//
// Every error that a method returns is a *code.Error.
package group

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Change is what one transaction does to a group: one message of the server's, and rows.
type Change struct {
	Sender  id.UserID
	Type    uint32
	Content string
	Rows    func(tx *kv.Tx, seq uint64) // must not block
	Done    func(version, seq uint64)   // called when it is committed, with the StateVersion it made, before anything else happens to the group; must not block
	Create  bool
	At      int64 // Unix ms that the message is of; 0: now
}

// Sequencer changes conversations.
type Sequencer interface {
	// Change runs plan against the durable head of conv, maybe several times, and commits
	// what it returns; nil: there is nothing to do. It blocks until that is durable, and
	// returns the message's seq.
	Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*Change, error)) (seq uint64, err error)
}

// Users knows accounts.
type Users interface {
	// Exists reports whether there is such a user who can be written to.
	Exists(ctx context.Context, user id.UserID) (bool, error)
}

// Contacts says who may bring whom into a group.
type Contacts interface {
	// MayAdd returns, for each of users in their order, why by may not bring them in; nil: they may.
	MayAdd(ctx context.Context, by id.UserID, users []id.UserID) ([]*code.Error, error)
}

// Config of a Service. Store, Keys and Users are needed, the rest takes its defaults when zero.
type Config struct {
	Store kv.Store
	Keys  msgstore.Keys
	Users Users

	Contacts Contacts // nil: anyone may bring in anyone

	Members       int // of one group; 0: 100,000
	Conversations int // that one user may be in; 0: 10,000
	Remembered    int // members kept in memory, all groups together; 0: 2,000,000

	// Shared: other processes change groups in Store too, so what memory holds is compared
	// with the head each time.
	Shared bool

	Logger *slog.Logger // nil: slog.Default()
	Now    func() int64 // Unix ms; nil: the clock
}

// Sizes of what is done at once.
const (
	stepUsers    = 400 // users that one change is about
	namedUsers   = 16  // users that a membership message names itself
	maxRefused   = 100 // refusals that an answer holds
	maxIntervals = 1000
	maxTurns     = 8

	DefaultPage = 100 // members a page
	MaxPage     = 500
)

// Roles of members.
const (
	roleMember = 1
	roleAdmin  = 2
	roleOwner  = 3
)

// Types of the messages that groups write.
const (
	typeMembership = packet.TypeSystem
	typeSettings   = packet.TypeSystem + 1
	typeNickname   = packet.TypeSystem + 2
)

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("group: bad configuration")

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Store == nil || c.Users == nil:
		return fmt.Errorf("%w: Store and Users are needed", ErrConfig)
	case c.Members < 0 || c.Conversations < 0 || c.Remembered < 0:
		return fmt.Errorf("%w: a limit is negative", ErrConfig)
	}
	return nil
}

// Service is safe for concurrent use. Bind must have been called before the first change.
type Service struct {
	cfg      Config
	log      *slog.Logger
	now      func() int64
	timeline *msgstore.Timeline
	members  *msgstore.Members
	inbox    *msgstore.Inbox
	groups   *msgstore.Groups
	seq      Sequencer
	rosters  *rosters
	at       int64 // see Dated; 0: now
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Members == 0 {
		cfg.Members = 100_000
	}
	if cfg.Conversations == 0 {
		cfg.Conversations = 10_000
	}
	if cfg.Remembered == 0 {
		cfg.Remembered = 2_000_000
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
		rosters:  new(rosters),
	}
	s.rosters.init(cfg.Remembered)
	return s, nil
}

// Bind sets who changes conversations. The sequencer asks Rules of this Service, so one
// of the two has to exist first.
func (s *Service) Bind(seq Sequencer) { s.seq = seq }

// Dated returns s with what it changes being of the Unix ms at: groups that come from elsewhere. Nobody is sent such a
// change, and a group in which something was written as it happened takes none (forbidden).
func (s *Service) Dated(at int64) *Service {
	d := *s
	d.seq, d.at = dated{s.seq, at}, at
	return &d
}

// dated is a Sequencer whose changes are of one time.
type dated struct {
	Sequencer
	at int64
}

func (d dated) Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*Change, error)) (seq uint64, err error) {
	return d.Sequencer.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		ch, err := plan(ctx, h)
		if ch != nil {
			ch.At = d.at
		}
		return ch, err
	})
}

// What is answered over and over. They are never changed.
var (
	errStranger = code.New(code.NoSuchConversation)
	errDevice   = code.Newf(code.BadRequest, "origin_device is not the sending device")
)
