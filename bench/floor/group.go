package floor

import (
	"context"
	"fmt"
	"time"
)

// shoot sends single messages, each when everybody has the one before and the server has been quiet for a while.
func (r *run) shoot(ctx context.Context) error {
	r.shooting = true
	for range r.Shots {
		c := &r.conns[0]
		at := r.loop.Now()
		next := r.front.Low() + 1
		c.send(at)
		c.Flush()
		for r.front.Low() < next || r.underway > 0 {
			if err := r.poll(ctx, 100*time.Millisecond); err != nil {
				return err
			}
			if r.loop.Now()-at > int64(30*time.Second) {
				return fmt.Errorf("floor: a message hasn't reached everybody after 30 s")
			}
		}
		for end := r.loop.Now() + int64(r.Gap); r.loop.Now() < end; {
			if err := r.poll(ctx, time.Duration(end-r.loop.Now())); err != nil {
				return err
			}
		}
	}
	r.shooting = false
	return nil
}

// has moves one connection from a seq up to another.
func (r *run) has(from, to uint64, now int64) {
	rose, ok := r.front.Move(from, to)
	if !ok {
		r.failed = fmt.Errorf("floor: a connection is at seq %d, another at %d", to, r.front.Low())
	}
	if rose && r.shooting {
		c := &r.conns[0]
		r.shots.Record(now - c.sentAt[int(c.next-1)&(len(c.sentAt)-1)])
	}
}
