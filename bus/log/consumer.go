package log

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	readRefs     = 256 // references read at once
	retryMin     = 10 * time.Millisecond
	retryMax     = 5 * time.Second
	storeTimeout = 5 * time.Second
)

// consumer is a group's subscriber. It is one goroutine, besides the one that stores
// its position.
type consumer struct {
	l      *Log
	group  string
	handle bus.Handler
	log    *slog.Logger
	signal chan struct{} // something was put into the ring

	done   atomic.Uint64 // offset up to which everything was handled
	stored uint64        // offset in the position's row
	late   uint64        // the log's last offset at the poll before
	evs    []bus.Event
	refs   []offsetRef
}

type offsetRef struct {
	offset uint64
	Ref
}

func (c *consumer) wake() {
	select {
	case c.signal <- struct{}{}:
	default:
	}
}

func (c *consumer) run(ctx context.Context) error {
	c.signal = make(chan struct{}, 1)
	c.l.ring.join(c) // before the log is looked at: nothing falls between
	defer c.l.ring.leave(c)
	if err := c.start(ctx); err != nil {
		return fmt.Errorf("bus log: start of group %q: %w", c.group, err)
	}
	storing, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { c.storePositions(storing) })
	defer func() {
		stop()
		wg.Wait()
	}()
	poll := time.NewTicker(c.l.cfg.PollEvery)
	defer poll.Stop()

	lag := true // there may be something in the log that doesn't come through the ring
	upTo := uint64(0)
	for ctx.Err() == nil {
		if lag {
			more, err := c.readLog(ctx, upTo)
			if err != nil {
				return nil // ctx has ended
			}
			lag = more
			continue
		}
		c.evs, lag, upTo = c.l.ring.take(c, c.done.Load(), c.evs[:0], c.l.cfg.Batch)
		if len(c.evs) > 0 {
			if c.act(ctx, c.evs) != nil {
				return nil
			}
			c.done.Store(c.evs[len(c.evs)-1].Offset)
			clear(c.evs)
			continue
		}
		if lag {
			continue
		}
		select {
		case <-ctx.Done():
		case <-c.signal:
		case <-poll.C:
			// What was in the log a whole period ago and still isn't in the ring won't be announced.
			// What is newer is on its way, with its origin, which the log doesn't hold.
			if c.late > c.done.Load() {
				lag, upTo = true, c.late+1
			}
			if last, err := c.l.last(ctx); err == nil {
				c.late = last
			}
		}
	}
	return nil
}

// start finds where to begin. A new group begins behind what is stored now, and its
// position is stored at once, so that nothing after it is swept.
func (c *consumer) start(ctx context.Context) error {
	offset, ok, err := c.l.Position(ctx, c.group)
	if err != nil {
		return err
	}
	if ok {
		c.done.Store(offset)
		c.stored = offset
		return nil
	}
	if offset, err = c.l.last(ctx); err != nil {
		return err
	}
	c.done.Store(offset)
	return c.store(ctx, offset)
}

// last returns the offset of the latest reference in the log, 0 if it is empty.
func (l *Log) last(ctx context.Context) (offset uint64, err error) {
	span := kv.Span{Start: l.prefix, End: refKey(l.prefix, ^uint64(0)), Reverse: true, Limit: 1}
	err = l.cfg.Store.Scan(ctx, span, func(key, _ []byte) (bool, error) {
		offset = binary.BigEndian.Uint64(key[len(key)-8:])
		return false, nil
	})
	return offset, err
}

func refKey(prefix []byte, offset uint64) []byte {
	key := make([]byte, len(prefix), len(prefix)+8)
	copy(key, prefix)
	return binary.BigEndian.AppendUint64(key, offset)
}

// readLog handles what stands in the log after the position, below upTo if that isn't 0.
// more: there may be more of it. The error is that of ctx.
func (c *consumer) readLog(ctx context.Context, upTo uint64) (more bool, err error) {
	after := c.done.Load()
	prefix := c.l.prefix
	span := kv.Span{Start: refKey(prefix, after+1), End: refKey(prefix, ^uint64(0)), Limit: readRefs}
	if upTo != 0 {
		span.End = refKey(prefix, upTo)
	}
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		c.refs = c.refs[:0]
		err = c.l.cfg.Store.Scan(ctx, span, func(key, value []byte) (bool, error) {
			ref, err := c.l.cfg.Rows.ParseRef(value)
			c.refs = append(c.refs, offsetRef{binary.BigEndian.Uint64(key[len(key)-8:]), ref})
			return true, err
		})
		if err == nil {
			break
		}
		if err := c.pause(ctx, wait, "the log could not be read", err); err != nil {
			return false, err
		}
	}
	for i := range c.refs {
		if err := c.readRef(ctx, &c.refs[i]); err != nil {
			return false, err
		}
		c.done.Store(c.refs[i].offset)
	}
	if len(c.refs) < readRefs {
		if upTo != 0 {
			c.done.Store(upTo - 1) // offsets below it that have no reference never get one
		}
		return false, nil
	}
	return true, nil
}

// readRef handles the messages of one reference. What retention took counts as handled.
func (c *consumer) readRef(ctx context.Context, ref *offsetRef) error {
	to := ref.FirstSeq + uint64(ref.Count) - 1
	for from, wait := ref.FirstSeq, retryMin; from <= to; {
		messages, last, err := c.l.cfg.Read(ctx, ref.Conversation, from, to)
		var first uint64
		if err == nil && len(messages) > 0 {
			var v packet.MessageView
			v, _, err = packet.NextMessage(messages)
			first = v.Seq
		}
		if err != nil {
			if err := c.pause(ctx, wait, "messages could not be read", err); err != nil {
				return err
			}
			wait = min(2*wait, retryMax)
			continue
		}
		if len(messages) > 0 {
			c.evs = append(c.evs[:0], bus.Event{
				Conversation: ref.Conversation, Epoch: ref.Epoch, FirstSeq: first, LastSeq: last,
				Messages: messages, Offset: ref.offset,
			})
			if err := c.act(ctx, c.evs); err != nil {
				return err
			}
			clear(c.evs)
		}
		if last < from {
			return nil
		}
		from = last + 1
	}
	return nil
}

// act calls the handler until it is done with evs. The error is that of ctx.
func (c *consumer) act(ctx context.Context, evs []bus.Event) error {
	for wait := retryMin; ; wait = min(2*wait, retryMax) {
		err := c.handle(ctx, evs)
		if err == nil {
			return nil
		}
		if err := c.pause(ctx, wait, "the handler failed; its events come again", err); err != nil {
			return err
		}
	}
}

func (c *consumer) pause(ctx context.Context, wait time.Duration, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	c.log.Warn(what, "offset", c.done.Load(), "err", err)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(wait/2 + rand.N(wait)):
		return nil
	}
}

// storePositions stores the position now and then, and once more when ctx ends.
func (c *consumer) storePositions(ctx context.Context) {
	tick := time.NewTicker(c.l.cfg.StoreEvery)
	defer tick.Stop()
	for ended := false; !ended; {
		select {
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		done := c.done.Load()
		if done == c.stored {
			continue
		}
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		if err := c.store(bounded, done); err != nil {
			c.log.Warn("a position could not be stored", "offset", done, "err", err)
		}
		cancel()
	}
}

func (c *consumer) store(ctx context.Context, offset uint64) error {
	tx := new(kv.Tx)
	tx.Frees = true // it lets references be swept
	tx.Set(c.l.cfg.Rows.Position(nil, c.group), c.l.cfg.Rows.AppendPosition(nil, offset))
	c.l.cfg.Store.Commit(ctx, tx)
	if tx.Err != nil {
		return fmt.Errorf("store position %d: %w", offset, tx.Err)
	}
	c.stored = offset
	return nil
}
