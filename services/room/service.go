// Package room is what users do with rooms: make them, enter and leave them, write in them, and keep order there.
//
// A room has a name, from which its id follows, and a timeline like any conversation. Who is in it is nowhere
// stored: a connection enters and is in until it leaves or ends. The edges know their own (hub.Rooms) and report
// them to the room's owner, this Service, under a lease; so a new owner learns in seconds who is in, and messages don't wait
// for that, since they go to every edge. What is stored is a row: title, slow mode, moderators, and who may not write or enter.
//
// Every error that a method returns is a *code.Error.
package room

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Change is what one transaction does to a room.
type Change struct {
	Create bool
	Rows   func(tx *kv.Tx, seq uint64) // must not block
}

// Sequencer changes conversations.
type Sequencer interface {
	// Change runs plan against the durable head of conv, maybe several times, and commits what it returns; nil: there is
	// nothing to do. It blocks until that is durable.
	Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*Change, error)) error
}

// Teller reaches connections, wherever they are. It keeps nothing of what it is given, and waits only
// while as much is on its way to connections as a room, or all rooms, may hold.
type Teller interface {
	// RoomNews tells everybody who is in the room conv.
	RoomNews(conv id.ConversationID, news *wire.RoomNews)

	// Eject takes the connections of user out of the room conv.
	Eject(conv id.ConversationID, user id.UserID)

	// Push hands a signal to every connection of user other than but.
	Push(user id.UserID, but uint64, s *wire.Signal)
}

// Users knows accounts.
type Users interface {
	// Exists reports whether there is such a user who can be written to.
	Exists(ctx context.Context, user id.UserID) (bool, error)
}

// Who may create rooms.
const (
	ByAdmins = "admins" // the operator and server keys of scope system
	ByAnyone = "anyone"
)

// Config of a Service. Store, Keys and Users are needed, the rest takes its defaults when zero.
type Config struct {
	Store kv.Store
	Keys  msgstore.Keys
	Users Users

	Off     bool          // there are no rooms
	Create  string        // who may create one; "": ByAdmins
	Members int           // users in one room; 0: 100,000
	Keep    msgstore.Keep // of new rooms; zero: as configured for rooms
	Lease   time.Duration // what an edge told holds for; 0: 15 s
	Every   time.Duration // between two pieces of news of one room; 0: 1 s

	Now func() int64 // Unix ms; nil: the clock
}

// ErrConfig is wrapped by the errors of Validate.
var ErrConfig = errors.New("room: bad configuration")

// Validate reports what is missing or out of bounds.
func (c *Config) Validate() error {
	switch {
	case c.Store == nil || c.Users == nil:
		return fmt.Errorf("%w: Store and Users are needed", ErrConfig)
	case c.Create != "" && c.Create != ByAdmins && c.Create != ByAnyone:
		return fmt.Errorf("%w: rooms are created by %q: want %s or %s", ErrConfig, c.Create, ByAdmins, ByAnyone)
	case c.Members < 0 || c.Lease < 0 || c.Every < 0 || c.Keep.Age < 0:
		return fmt.Errorf("%w: a limit is negative", ErrConfig)
	}
	return nil
}

// Bounds of what is stored of one room.
const (
	maxModerators = 64
	maxCurbs      = 1000
	maxSlow       = 24 * 60 * 60 // seconds
)

// Service is safe for concurrent use. Bind must have been called before anything else.
type Service struct {
	cfg   Config
	now   func() int64
	rooms *msgstore.Rooms
	seq   Sequencer
	tell  Teller

	mu   sync.Mutex
	live map[id.ConversationID]*live

	spoken spoken
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Create == "" {
		cfg.Create = ByAdmins
	}
	if cfg.Members == 0 {
		cfg.Members = 100_000
	}
	if cfg.Lease == 0 {
		cfg.Lease = 15 * time.Second
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	s := &Service{cfg: cfg, now: cfg.Now, rooms: msgstore.NewRooms(cfg.Store, cfg.Keys), live: make(map[id.ConversationID]*live)}
	s.spoken.by = make(map[speaker]utterance)
	return s, nil
}

// Bind sets what changes rooms.
func (s *Service) Bind(seq Sequencer) { s.seq = seq }

// BindTeller sets what reaches connections; without one nobody is told anything.
func (s *Service) BindTeller(t Teller) { s.tell = t }

// Run tells news, and forgets what edges no longer vouch for, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	t := time.NewTicker(s.cfg.Every)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
			s.Turn()
		}
	}
}

var (
	errOff     = code.Newf(code.Forbidden, "there are no rooms in this installation")
	errNone    = code.New(code.NoSuchConversation)
	errBanned  = code.New(code.BannedHere)
	errNotHere = code.Newf(code.BadRequest, "a room is entered by a connection")
	errNotMod  = code.Newf(code.Forbidden, "only moderators of the room do that")
)

// get returns the room conv and its head, or refuses.
func (s *Service) get(ctx context.Context, conv id.ConversationID) (msgstore.Room, msgstore.Head, error) {
	if s.cfg.Off {
		return msgstore.Room{}, msgstore.Head{}, errOff
	}
	if conv.Kind() != id.KindRoom {
		return msgstore.Room{}, msgstore.Head{}, errNone
	}
	row, h, ok, err := s.rooms.Get(ctx, conv)
	switch {
	case err != nil:
		return row, h, msgstore.Refusal(err)
	case !ok:
		return row, h, errNone
	}
	return row, h, nil
}

// MayRead refuses whoever may not read what is said in the room conv.
func (s *Service) MayRead(ctx context.Context, conv id.ConversationID, user id.UserID) error {
	row, _, err := s.get(ctx, conv)
	if err != nil {
		return err
	}
	if c := curbOf(&row, user, s.now()); c != nil && c.Banned && !moderates(&row, user) {
		return errBanned
	}
	return nil
}

// moderates reports whether user keeps order in a room.
func moderates(row *msgstore.Room, user id.UserID) bool {
	if user == id.System {
		return true
	}
	for _, m := range row.Moderators {
		if m == user {
			return true
		}
	}
	return false
}

// curbOf returns what holds for user at now, nil: nothing.
func curbOf(row *msgstore.Room, user id.UserID, now int64) *msgstore.Curb {
	for i := range row.Curbs {
		if c := &row.Curbs[i]; c.User == user && (c.Until == 0 || c.Until > now) {
			return c
		}
	}
	return nil
}
