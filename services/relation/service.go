// Package relation is what users are to each other outside their conversations: what they
// show of themselves (profiles), whom they don't want to hear from (blocks), and who may
// begin to write to whom at all.
//
// A block takes effect by two steps in this order: its row is written, then the direct
// conversation's state is touched, so that its owner reads the rows again before the next
// message. When the blocker is answered, nothing of the other side's can be stored any more.
package relation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Users knows accounts.
type Users interface {
	// Exists reports whether there is such a user who can be written to.
	Exists(ctx context.Context, user id.UserID) (bool, error)
}

// Fence makes a change of what lies elsewhere hold for a conversation.
type Fence interface {
	// Touch returns when everything that is appended to conv from then on is judged by what
	// was stored before the call. Without such a conversation it does nothing. It may be repeated.
	Touch(ctx context.Context, conv id.ConversationID) error
}

// Devices delivers signals to the devices that are connected now.
type Devices interface {
	// Push hands s, of which it keeps nothing, to the connections of user other than but. It
	// doesn't block, and s may be lost.
	Push(user id.UserID, but uint64, s *wire.Signal)
}

// Policy says who may begin a direct conversation with whom. With oneself everybody may.
type Policy uint8

// The policies. Conversations that stand are left alone by SharedGroup: it is asked when
// one begins.
const (
	Anyone      Policy = iota
	SharedGroup        // who are in a group together
	Nobody             // nobody; in direct conversations that stand nobody may write either
)

// ParsePolicy reads a policy's name: anyone, shared_group or nobody.
func ParsePolicy(s string) (Policy, error) {
	for i, name := range [...]string{"anyone", "shared_group", "nobody"} {
		if s == name {
			return Policy(i), nil
		}
	}
	return 0, fmt.Errorf("%w: %q: want anyone, shared_group or nobody", ErrConfig, s)
}

// Config of a Service. Store, Keys and Users are needed, the rest takes its defaults when zero.
type Config struct {
	Store kv.Store
	Keys  msgstore.Keys
	Users Users

	// Gone reports, for each of users, whether the account was deleted, as of its call or later; nil: none was.
	Gone func(ctx context.Context, users ...id.UserID) ([]bool, error)

	Write     Policy
	Search    Policy // who is found by their name: anyone, who shares a group with the asker, or nobody
	MaxBlocks int    // whom one user may have blocked; 0: 10,000. Requests at the same time may pass it by their number

	CacheBytes int           // profiles kept in memory; 0: 8 MiB
	CacheFor   time.Duration // how long; another process may change them. 0: 1 minute

	TellEvery time.Duration // a user's changes of profile are told at most so often; 0: 2 s
	TellUsers int           // users whose changes may wait to be told; what goes beyond isn't. 0: 4,096
	TellPeers int           // direct conversations of a user that are told; 0: 1,000

	Logger *slog.Logger // nil: slog.Default()
	Now    func() int64 // Unix ms; nil: the clock
}

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("relation: bad configuration")

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Store == nil || c.Users == nil:
		return fmt.Errorf("%w: Store and Users are needed", ErrConfig)
	case c.Write > Nobody || c.Search > Nobody:
		return fmt.Errorf("%w: policies %d and %d", ErrConfig, c.Write, c.Search)
	case c.MaxBlocks < 0 || c.CacheBytes < 0 || c.CacheFor < 0 || c.TellEvery < 0 || c.TellUsers < 0 || c.TellPeers < 0:
		return fmt.Errorf("%w: a limit is negative", ErrConfig)
	}
	return nil
}

// Service is safe for concurrent use. Bind must have been called before requests come.
type Service struct {
	cfg     Config
	log     *slog.Logger
	now     func() int64
	rows    *msgstore.Relations
	inbox   *msgstore.Inbox
	members *msgstore.Members
	groups  *msgstore.Groups
	fence   Fence
	devices Devices

	profiles cache
	news     news
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	num(&cfg.MaxBlocks, 10_000)
	num(&cfg.CacheBytes, 8<<20)
	num(&cfg.TellUsers, 4096)
	num(&cfg.TellPeers, 1000)
	if cfg.CacheFor == 0 {
		cfg.CacheFor = time.Minute
	}
	if cfg.TellEvery == 0 {
		cfg.TellEvery = 2 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	s := &Service{
		cfg: cfg, log: cfg.Logger, now: cfg.Now,
		rows:    msgstore.NewRelations(cfg.Store, cfg.Keys),
		inbox:   msgstore.NewInbox(cfg.Store, cfg.Keys),
		members: msgstore.NewMembers(cfg.Store, cfg.Keys),
		groups:  msgstore.NewGroups(cfg.Store, cfg.Keys),
	}
	s.profiles.init(cfg.CacheBytes, cfg.CacheFor.Milliseconds())
	s.news.init(cfg.TellUsers)
	return s, nil
}

// Bind sets what changes are told to. Both ask this Service, so it has to exist first.
func (s *Service) Bind(fence Fence, devices Devices) { s.fence, s.devices = fence, devices }
