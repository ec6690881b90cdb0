// Package log is the bus of a node that needs no broker: a log in the store itself.
//
// What an append publishes is one small reference in the append's own transaction, so
// that a message is on the bus exactly if it is stored. The store gives references their
// offsets in commit order, without holes that fill up later. Consumers of this process
// are handed the events themselves, from a ring in memory that all of them share; a
// consumer that comes later, or falls out of the ring, reads the references and then the
// messages. Either way it gets every event once and in the order of offsets, unless the
// process dies: then what came after its last stored position comes again.
//
// The ring is only a shortcut: an event from it is used if its offset follows the one
// before, and whatever may lie in a gap is read from the log. So it does not matter
// whether all events were announced, or in which order.
package log

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Ref is an append as the log names it.
type Ref struct {
	Conversation id.ConversationID
	Epoch        uint64
	FirstSeq     uint64
	Count        uint32
}

// Rows says where the log lies in the store and how its rows are written. Its methods
// append to dst and return it.
type Rows interface {
	// Refs is the beginning of the keys of references; 8 bytes of offset follow.
	Refs(dst []byte) []byte

	AppendRef(dst []byte, r *Ref) []byte
	ParseRef(value []byte) (Ref, error)

	// Position is the key of the position of a group: the offset up to which it is done.
	Position(dst []byte, group string) []byte

	AppendPosition(dst []byte, offset uint64) []byte
	ParsePosition(value []byte) (offset uint64, err error)
}

// Read returns stored messages of the range from..to in ascending order, as the repeated
// field, and up to where it answers: last, at least from, or from-1 if the conversation
// ends before from. What retention took is missing from messages.
type Read func(ctx context.Context, conv id.ConversationID, from, to uint64) (messages []byte, last uint64, err error)

// Config configures a Log. Zero values of the numbers mean their defaults.
type Config struct {
	Store  kv.Store // must give stamps
	Rows   Rows
	Read   Read
	Logger *slog.Logger // nil: nothing is logged

	Queue      int           // events kept in memory for consumers that lag. Default 16,384.
	QueueBytes int           // bytes of their messages. Default 64 MiB.
	Batch      int           // events a call of a handler. Default 1,024.
	StoreEvery time.Duration // positions are stored this often. Default 1 s.
	PollEvery  time.Duration // the log is looked at this often for what nobody announced. Default 1 s.
}

func (c *Config) validate() error {
	switch {
	case c.Store == nil || c.Rows == nil || c.Read == nil:
		return errors.New("bus log: store, rows and read are needed")
	case !c.Store.Stamps():
		return errors.New("bus log: the store gives no stamps, so it can't hold a log")
	case c.Queue < 0 || c.QueueBytes < 0 || c.Batch < 0 || c.StoreEvery < 0 || c.PollEvery < 0:
		return errors.New("bus log: a limit is below zero")
	}
	orDefault(&c.Queue, 1<<14)
	orDefault(&c.QueueBytes, 64<<20)
	orDefault(&c.Batch, 1024)
	orDefault(&c.StoreEvery, time.Second)
	orDefault(&c.PollEvery, time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func orDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// Log is the embedded bus. It is safe for concurrent use and needs no closing: its
// goroutines are those of Subscribe.
type Log struct {
	cfg     Config
	prefix  []byte // of references
	ring    ring
	scratch sync.Pool

	mu     sync.Mutex
	groups map[string]bool // subscribed
}

var (
	_ bus.Publisher  = (*Log)(nil)
	_ bus.Subscriber = (*Log)(nil)
)

// New returns the log that lies in the store of c.
func New(c Config) (*Log, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	l := &Log{cfg: c, prefix: c.Rows.Refs(nil), groups: make(map[string]bool)}
	l.scratch.New = func() any { return new(scratch) }
	l.ring.init(c.Queue, c.QueueBytes)
	return l, nil
}

// Enlist adds a reference to ev to the append's transaction.
func (l *Log) Enlist(tx *kv.Tx, ev *bus.Event) bool {
	sc := l.scratch.Get().(*scratch)
	sc.ref = Ref{ev.Conversation, ev.Epoch, ev.FirstSeq, uint32(ev.LastSeq - ev.FirstSeq + 1)}
	sc.row = l.cfg.Rows.AppendRef(sc.row[:0], &sc.ref)
	tx.SetStamped(l.prefix, sc.row)
	l.scratch.Put(sc)
	return true
}

// scratch is what one Enlist needs: on the stack it would escape through Rows.
type scratch struct {
	ref Ref
	row []byte
}

// Publish hands events that are stored, with their offsets, to the consumers of this
// process. It never fails.
func (l *Log) Publish(_ context.Context, evs []bus.Event) error {
	l.ring.put(evs)
	return nil
}

// Subscribe runs h as the consumer group until ctx ends, and returns nil then. It returns
// an error if the group has a subscriber already or its position can't be read.
func (l *Log) Subscribe(ctx context.Context, group string, h bus.Handler) error {
	l.mu.Lock()
	if l.groups[group] {
		l.mu.Unlock()
		return fmt.Errorf("bus log: group %q has a subscriber in this process", group)
	}
	l.groups[group] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.groups, group)
		l.mu.Unlock()
	}()
	c := &consumer{l: l, group: group, handle: h, log: l.cfg.Logger.With("group", group)}
	return c.run(ctx)
}

// Position returns the stored position of a group; false: it has none yet.
func (l *Log) Position(ctx context.Context, group string) (offset uint64, ok bool, err error) {
	v, err := l.cfg.Store.Get(ctx, l.cfg.Rows.Position(nil, group))
	if err != nil || v == nil {
		return 0, false, err
	}
	offset, err = l.cfg.Rows.ParsePosition(v)
	return offset, err == nil, err
}
