package remote

import (
	"context"
	"errors"
	"runtime"
	"testing"
)

// Who finds no connection dials, up to a bound; beyond it everybody gets what is brought back, or the turn of a dial that has ended, in the order in which they came.
func TestFewDialAtATime(t *testing.T) {
	p := &conns{idle: map[string][]*connection{}, dialing: map[string]*dialing{}}
	const node = "node"
	for range maxDials {
		if c, err := p.wait(t.Context(), node); c != nil || err != nil {
			t.Fatalf("%v, %v, want a turn to dial", c, err)
		}
	}
	type got struct {
		c   *connection
		err error
	}
	waits := func(ctx context.Context) chan got {
		before := waiting(p, node)
		done := make(chan got, 1)
		go func() {
			c, err := p.wait(ctx, node)
			done <- got{c, err}
		}()
		for waiting(p, node) == before {
			runtime.Gosched()
		}
		return done
	}
	first, second, third := waits(t.Context()), waits(t.Context()), waits(t.Context())
	c := &connection{address: node}
	p.keep(c)
	if g := <-first; g.c != c || g.err != nil {
		t.Errorf("the first got %v, %v, want what was brought back", g.c, g.err)
	}
	p.dialed(node)
	if g := <-second; g.c != nil || g.err != nil {
		t.Errorf("the second got %v, %v, want a turn to dial", g.c, g.err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	fourth := waits(ctx)
	cancel()
	if g := <-fourth; !errors.Is(g.err, context.Canceled) {
		t.Errorf("who was called off got %v, %v", g.c, g.err)
	}
	if n := waiting(p, node); n != 1 {
		t.Errorf("%d wait, want the third alone", n)
	}
	p.dialed(node)
	if g := <-third; g.c != nil || g.err != nil {
		t.Errorf("the third got %v, %v, want a turn to dial", g.c, g.err)
	}
	for range maxDials {
		p.dialed(node)
	}
	if len(p.dialing) != 0 {
		t.Error("nobody dials, and it isn't known")
	}
	p.keep(c)
	if len(p.idle[node]) != 1 {
		t.Error("a connection that nobody waited for isn't kept")
	}
}

func waiting(p *conns, node string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.dialing[node]; d != nil {
		return len(d.waiting)
	}
	return 0
}
