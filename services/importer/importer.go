// Package importer brings the messages of another system into conversations, with the times
// that they had there.
//
// History comes first: a conversation takes it while everything in it came from elsewhere, and no
// more once somebody has written there. A request is stored as a whole or not at all, in one
// transaction that the conversation's head fences. What is stored already is told by sender and
// client message id, and left out, so a request may be repeated and an import that was cut off
// begun again from any point.
package importer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Message is one message of before.
type Message struct {
	At     int64 // Unix ms
	Sender id.UserID
	Send   packet.Send // what the sender sent; its target doesn't count
}

// Change is what one transaction does to a conversation.
type Change struct {
	Create   bool
	Rows     func(tx *kv.Tx, seq uint64) // may be nil; must not block
	Messages []Message
}

// Sequencer changes conversations.
type Sequencer interface {
	// Change runs plan against the durable head of conv, maybe several times, and commits what it
	// returns; nil: there is nothing to do. It returns the seq of the last message, and forbidden if
	// the last one stored didn't come from elsewhere.
	Change(ctx context.Context, conv id.ConversationID, plan func(ctx context.Context, h msgstore.Head) (*Change, error)) (seq uint64, err error)
}

// Users knows accounts.
type Users interface {
	Exists(ctx context.Context, user id.UserID) (bool, error)
}

// Config of a Service; all but Keys and Now are required.
type Config struct {
	Store     kv.Store
	Keys      msgstore.Keys
	Users     Users
	Sequencer Sequencer
	Now       func() int64 // Unix ms; nil: the clock
}

// Validate reports what is missing.
func (c *Config) Validate() error {
	if c.Store == nil || c.Users == nil || c.Sequencer == nil {
		return errors.New("importer: a store, users and a sequencer are needed")
	}
	return nil
}

// Service is safe for concurrent use.
type Service struct {
	cfg      Config
	timeline *msgstore.Timeline
	inbox    *msgstore.Inbox
	members  *msgstore.Members
}

// New returns a Service.
func New(cfg Config) (*Service, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = func() int64 { return time.Now().UnixMilli() }
	}
	return &Service{
		cfg: cfg, timeline: msgstore.NewTimeline(cfg.Store, cfg.Keys),
		inbox: msgstore.NewInbox(cfg.Store, cfg.Keys), members: msgstore.NewMembers(cfg.Store, cfg.Keys),
	}, nil
}

// Bounds.
const (
	MaxMessages = 2000    // of one request
	late        = 1000    // ms by which a message may be older than the last one there, whose time was raised to keep an order
	maxAhead    = 60_000  // ms that a client message id may be ahead of the clock
	pageSeqs    = 512     // messages that are read at once to find repeats,
	pageBytes   = 1 << 20 // bytes of them,
	maxPages    = 400     // and how often
	maxTurns    = 8
)

// Result is what became of a request.
type Result struct {
	Conversation id.ConversationID
	Imported     int
	Duplicates   int    // of the request's messages, stored before
	LastSeq      uint64 // of the conversation
}

// Direct imports messages of the direct conversation of a and b, which is made if there is none. Every
// error is a *code.Error.
func (s *Service) Direct(ctx context.Context, a, b id.UserID, messages []Message) (Result, error) {
	for _, u := range []id.UserID{a, b} {
		ok, err := s.cfg.Users.Exists(ctx, u)
		if err != nil {
			return Result{}, msgstore.Outcome(fmt.Errorf("look up user: %w", err))
		}
		if !ok {
			return Result{}, code.Newf(code.NoSuchUser, "no such user: %q", string(u))
		}
	}
	for i := range messages {
		if u := messages[i].Sender; u != a && u != b && u != id.System {
			return Result{}, code.Newf(code.BadRequest, "message %d is of somebody else than the two", i)
		}
	}
	users := []id.UserID{a, b}
	if a == b {
		users = users[:1]
	}
	return s.run(ctx, id.Direct(a, b), users, messages)
}

// Group imports messages of a group, which exists; their senders needn't be members any more.
func (s *Service) Group(ctx context.Context, conv id.ConversationID, messages []Message) (Result, error) {
	if conv.Kind() != id.KindGroup {
		return Result{}, code.New(code.NoSuchConversation)
	}
	return s.run(ctx, conv, nil, messages)
}

// Open returns nil if conv takes history, which it does until somebody has written there.
func (s *Service) Open(ctx context.Context, conv id.ConversationID) error {
	h, _, err := s.timeline.Head(ctx, conv)
	if err != nil {
		return msgstore.Outcome(err)
	}
	return s.open(ctx, conv, h.LastSeq)
}

// open is Open for a conversation whose last message is seq.
func (s *Service) open(ctx context.Context, conv id.ConversationID, seq uint64) error {
	if seq == 0 {
		return nil
	}
	last, _, _, err := s.timeline.Range(ctx, conv, seq, seq, 1, 0)
	if err != nil {
		return msgstore.Outcome(err)
	}
	if v, _, err := packet.NextMessage(last); err == nil && v.ID.Worker() == id.ImportWorker {
		return nil
	}
	return code.Newf(code.Forbidden, "people have begun to write in this conversation: history comes before")
}

type name struct {
	sender id.UserID
	msgID  id.ClientMsgID
}

// check refuses what can be told of the messages by themselves.
func (s *Service) check(messages []Message) error {
	if len(messages) == 0 || len(messages) > MaxMessages {
		return code.Newf(code.BadRequest, "1 to %d messages come at once", MaxMessages)
	}
	now, seen := s.cfg.Now(), make(map[name]bool, len(messages))
	for i := range messages {
		m := &messages[i]
		n := name{m.Sender, m.Send.ClientMsgID}
		switch {
		case !m.Sender.Valid():
			return code.Newf(code.BadRequest, "message %d has no sender", i)
		case m.At < 0 || m.At > now:
			return code.Newf(code.BadRequest, "message %d is not of the past", i)
		case i > 0 && m.At < messages[i-1].At:
			return code.Newf(code.BadRequest, "message %d is older than the one before it", i)
		case m.Send.ClientMsgID.UnixMilli() > now+maxAhead:
			return code.Newf(code.BadRequest, "the client message id of message %d is ahead of time", i)
		case seen[n]:
			return code.Newf(code.BadRequest, "message %d is there twice", i)
		}
		seen[n] = true
	}
	return nil
}

// run imports messages into conv; users are those of a direct conversation that may have to be made.
func (s *Service) run(ctx context.Context, conv id.ConversationID, users []id.UserID, messages []Message) (Result, error) {
	if err := s.check(messages); err != nil {
		return Result{}, err
	}
	if err := s.sides(ctx, conv, users); err != nil {
		return Result{}, msgstore.Outcome(err)
	}
	res := Result{Conversation: conv}
	seq, err := s.cfg.Sequencer.Change(ctx, conv, func(ctx context.Context, h msgstore.Head) (*Change, error) {
		ch := &Change{}
		if !h.Exists() {
			if users == nil {
				return nil, code.New(code.NoSuchConversation)
			}
			ch.Create, ch.Rows = true, func(tx *kv.Tx, _ uint64) {
				m := msgstore.Member{Intervals: []msgstore.Interval{{Joined: 1}}}
				for _, u := range users {
					s.members.Put(tx, conv, u, &m)
				}
			}
		}
		known, err := s.known(ctx, conv, &h, messages)
		if err != nil {
			return nil, err
		}
		for i := range messages {
			if known[i] {
				continue
			}
			if len(ch.Messages) == 0 {
				if err := s.open(ctx, conv, h.LastSeq); err != nil {
					return nil, err
				}
			}
			if len(ch.Messages) == 0 && h.LastSeq > 0 && max(messages[i].At, id.Epoch) < h.LastTime-late {
				return nil, code.Newf(code.BadRequest, "message %d is older than what is there, and isn't known", i)
			}
			ch.Messages = append(ch.Messages, messages[i])
		}
		res.Imported, res.Duplicates, res.LastSeq = len(ch.Messages), len(messages)-len(ch.Messages), h.LastSeq
		if len(ch.Messages) == 0 {
			return nil, nil
		}
		return ch, nil
	})
	if err != nil {
		return Result{}, msgstore.Outcome(err)
	}
	res.LastSeq = max(res.LastSeq, seq)
	return res, nil
}

// known tells which of messages are stored. Their times there are never below their own and
// ascend, so they are looked for from the first one's time on.
func (s *Service) known(ctx context.Context, conv id.ConversationID, h *msgstore.Head, messages []Message) ([]bool, error) {
	out := make([]bool, len(messages))
	at := max(messages[0].At, id.Epoch)
	if h.LastSeq < h.FirstSeq || at > h.LastTime {
		return out, nil
	}
	want := make(map[name]int, len(messages))
	for i := range messages {
		want[name{messages[i].Sender, messages[i].Send.ClientMsgID}] = i
	}
	low, high := h.FirstSeq, h.LastSeq // the first message that isn't older than at is in low..high
	for low < high {
		middle := low + (high-low)/2
		got, _, _, err := s.timeline.Range(ctx, conv, middle, middle, 1, 0)
		if err != nil {
			return nil, err
		}
		v, _, err := packet.NextMessage(got)
		if err != nil {
			return nil, fmt.Errorf("message %d of %s: %w", middle, conv, msgstore.ErrCorrupt)
		}
		if v.ID.UnixMilli() < at {
			low = middle + 1
		} else {
			high = middle
		}
	}
	for page := 0; low <= h.LastSeq && len(want) > 0; page++ {
		if page == maxPages {
			return nil, code.Newf(code.BadRequest, "this was imported too long ago to be told from what is new: go on where the conversation ends")
		}
		got, _, last, err := s.timeline.Range(ctx, conv, low, h.LastSeq, pageSeqs, pageBytes)
		if err != nil {
			return nil, err
		}
		for len(got) > 0 {
			v, rest, err := packet.NextMessage(got)
			if err != nil {
				return nil, fmt.Errorf("a message of %s: %w", conv, msgstore.ErrCorrupt)
			}
			got = rest
			n := name{id.UserID(v.Sender), v.ClientMsgID}
			i, ok := want[n]
			if !ok {
				continue
			}
			if string(v.Body) != string(messages[i].Send.Tail) {
				return nil, code.Newf(code.IDConflict, "message %d is known with another content", i)
			}
			out[i] = true
			delete(want, n)
		}
		low = last + 1
	}
	return out, nil
}

// sides puts conv in the lists of users who don't have it there yet. They lie elsewhere than the
// conversation, and nobody heeds them before it stands.
func (s *Service) sides(ctx context.Context, conv id.ConversationID, users []id.UserID) error {
	for turn := 0; ; turn++ {
		var txs []*kv.Tx
		for _, u := range users {
			_, raw, err := s.inbox.Get(ctx, u, conv)
			if err != nil {
				return err
			}
			if raw == nil {
				tx := new(kv.Tx)
				s.inbox.Replace(tx, u, conv, nil, &msgstore.UserSide{Changed: s.cfg.Now()})
				txs = append(txs, tx)
			}
		}
		if len(txs) == 0 {
			return nil
		}
		s.cfg.Store.Commit(ctx, txs...)
		var failed error
		for _, tx := range txs {
			if tx.Err != nil {
				failed = fmt.Errorf("write users' sides of %s: %w", conv, tx.Err)
			}
		}
		if failed == nil {
			return nil
		}
		if turn == maxTurns || !errors.Is(failed, kv.ErrConflict) {
			return failed
		}
	}
}
