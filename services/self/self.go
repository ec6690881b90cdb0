// Package self keeps each user's own timeline: what happened to the account, for all
// devices of the user to read, those that were away too. It is a conversation of kind
// self with one member, to which only the server writes; it comes into being with the
// first event.
package self

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Sequencer gives messages their order and stores them.
type Sequencer interface {
	// Append stores a message of the server's, from sender, at the end of conv, which it makes if
	// there is none: first adds its rows to that transaction. It blocks until the message is durable.
	Append(ctx context.Context, conv id.ConversationID, sender id.UserID, msgType uint32, content string, first func(tx *kv.Tx)) error
}

// Config of a Service. All is needed.
type Config struct {
	Store     kv.Store
	Keys      msgstore.Keys
	Sequencer Sequencer
	Now       func() int64 // Unix ms
}

// Validate reports what is missing.
func (c *Config) Validate() error {
	if c.Store == nil || c.Sequencer == nil || c.Now == nil {
		return errors.New("self: Store, Sequencer and Now are needed")
	}
	return nil
}

// Service writes self timelines. It keeps nothing in memory and is safe for concurrent use.
type Service struct {
	cfg     Config
	inbox   *msgstore.Inbox
	members *msgstore.Members
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Service{cfg: cfg, inbox: msgstore.NewInbox(cfg.Store, cfg.Keys), members: msgstore.NewMembers(cfg.Store, cfg.Keys)}, nil
}

// Event is the content of a message of packet.TypeAccountEvent.
type Event struct {
	Event  string      `json:"event"`            // signed_in, signed_out, password_changed, revoked
	Device id.DeviceID `json:"device,omitempty"` // whose session it is, or who changed the password; left out: every device's
	Kind   string      `json:"kind,omitempty"`   // of the device: phone, …
	By     id.DeviceID `json:"by,omitempty"`     // the device that did it, if it was another one of the user's
}

// kinds are the names of device kinds in JSON.
var kinds = [...]string{0: "", 1: "phone", 2: "tablet", 3: "desktop", 4: "web", 5: "bot"}

// KindName is the name of a device kind, empty if it has none.
func KindName(kind uint8) string {
	if int(kind) < len(kinds) {
		return kinds[kind]
	}
	return ""
}

// Record appends e to the timeline of user. It blocks until that is durable or ctx ends; it may
// be there after an error, too.
func (s *Service) Record(ctx context.Context, user id.UserID, e Event) error {
	content, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode an event of %s: %w", user, err)
	}
	conv := id.Self(user)
	if err := s.list(ctx, user, conv); err != nil {
		return fmt.Errorf("record %s of %s: %w", e.Event, user, err)
	}
	err = s.cfg.Sequencer.Append(ctx, conv, user, packet.TypeAccountEvent, string(content), func(tx *kv.Tx) {
		s.members.Put(tx, conv, user, &msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}})
	})
	if err != nil {
		return fmt.Errorf("record %s of %s: %w", e.Event, user, err)
	}
	return nil
}

// list puts the timeline on the user's list. It lies in another slot than the timeline, so it is
// written before: without the head nobody heeds it.
func (s *Service) list(ctx context.Context, user id.UserID, conv id.ConversationID) error {
	_, row, err := s.inbox.Get(ctx, user, conv)
	if err != nil || row != nil {
		return err
	}
	var tx kv.Tx
	s.inbox.Replace(&tx, user, conv, nil, &msgstore.UserSide{Changed: s.cfg.Now()})
	s.cfg.Store.Commit(ctx, &tx)
	if tx.Err == nil || errors.Is(tx.Err, kv.ErrConflict) { // a conflict: somebody else has just written it
		return nil
	}
	return fmt.Errorf("write the user's side: %w", tx.Err)
}
