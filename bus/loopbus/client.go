package loopbus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
)

// Bus is a process's side of a served bus. It needs no closing: an unused connection is the server's to end.
type Bus struct {
	addr string

	publishing sync.Mutex // one call at a time
	conn       net.Conn   // of it; nil: none
	watched    string     // group

	taken atomic.Uint64 // queues of the watched group that somebody took from when the server was asked last

	mu     sync.Mutex
	groups map[string]bool // subscribed
}

var (
	_ bus.Publisher  = (*Bus)(nil)
	_ bus.Subscriber = (*Bus)(nil)
)

// New returns the bus that a Server serves at addr, whether it is there or not.
func New(addr string) *Bus { return &Bus{addr: addr, groups: make(map[string]bool)} }

// Enlist implements bus.Publisher: the bus lies apart.
func (*Bus) Enlist(*kv.Tx, *bus.Event) bool { return false }

// Publish implements bus.Publisher.
func (b *Bus) Publish(ctx context.Context, evs []bus.Event) error {
	if len(evs) == 0 {
		return nil
	}
	if _, err := b.call(ctx, request{Publish: evs}); err != nil {
		return fmt.Errorf("loopbus: publishing: %w", err)
	}
	return nil
}

// call asks the server something.
func (b *Bus) call(ctx context.Context, r request) (a reply, err error) {
	b.publishing.Lock()
	defer b.publishing.Unlock()
	r.Watch = b.watched
	if b.conn == nil {
		c, err := b.dial(ctx)
		if err != nil {
			return a, err
		}
		b.conn = c
	}
	c := b.conn
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	err = json.NewEncoder(c).Encode(r)
	if err == nil {
		err = json.NewDecoder(c).Decode(&a)
	}
	if !stop() || err != nil {
		_ = c.Close()
		b.conn = nil
	}
	if err != nil {
		return a, errors.Join(err, ctx.Err())
	}
	b.taken.Store(a.Taken)
	return a, nil
}

func (b *Bus) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", b.addr)
	if err != nil {
		return nil, fmt.Errorf("loopbus: %w", err)
	}
	return c, nil
}

// reconnect is the pause before a connection that broke is made again.
const reconnect = 50 * time.Millisecond

// Subscribe implements bus.Subscriber.
func (b *Bus) Subscribe(ctx context.Context, group string, h bus.Handler) error {
	b.mu.Lock()
	taken := b.groups[group]
	b.groups[group] = true
	b.mu.Unlock()
	if taken {
		return fmt.Errorf("loopbus: group %q has a subscriber in this process", group)
	}
	defer func() {
		b.mu.Lock()
		delete(b.groups, group)
		b.mu.Unlock()
	}()
	for ctx.Err() == nil {
		b.consume(ctx, group, h)
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
	return nil
}

// consume takes events until the connection breaks, or ctx ends.
func (b *Bus) consume(ctx context.Context, group string, h bus.Handler) {
	c, err := b.dial(ctx)
	if err != nil {
		return
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	in, out := json.NewDecoder(c), json.NewEncoder(c)
	if out.Encode(request{Subscribe: group}) != nil || in.Decode(new(reply)) != nil {
		return
	}
	for ctx.Err() == nil {
		var r reply
		if in.Decode(&r) != nil {
			return
		}
		took := h(ctx, r.Events) == nil
		if out.Encode(request{Took: took}) != nil {
			return
		}
	}
}
