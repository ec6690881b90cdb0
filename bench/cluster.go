package main

import (
	"context"
	"fmt"
	"io"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
)

// apart is what rpc compares with one process that is everything.
const apart = "edge,logic+fanout+worker"

// rpc is the scenario rpc: what it costs that the edge is another process. Both keep everything in memory, so
// that nothing else differs, and take turns.
func rpc(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("rpc", out)
	var p pairsFlags
	var s servers
	p.flags(c)
	s.flags(c)
	for name, value := range map[string]string{"w": "32", "d": "5s", "warm": "1s", "rounds": "5", "cluster": apart} {
		f := c.Lookup(name)
		f.DefValue = value
		_ = f.Value.Set(value) // as its type wants it
	}
	if done, err := c.parse(args); done {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	if s.addr != "" || s.running != "" || s.cluster == "" {
		return usage("rpc starts its servers: neither -addr nor -target is for it, and -cluster says which processes are compared with one")
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	for _, w := range p.windows {
		if err := p.compare(ctx, c, &s, w); err != nil {
			return err
		}
	}
	return c.finish()
}

// compare runs the rounds of one window, one process and several in turn first.
func (p *pairsFlags) compare(ctx context.Context, c *common, s *servers, window int) error {
	cfg := p.Pairs
	cfg.Window = window
	one := func(layout string, to **load.PairsResult) func() error {
		return func() error {
			return s.inMemory(ctx, c, layout, p.raise(window), func(t load.Target) (err error) {
				cfg.Target = t
				*to, err = cfg.Run(ctx)
				return err
			})
		}
	}
	r := &report.Run{Name: fmt.Sprintf("rpc/w%d", window)}
	for round := range p.rounds {
		x := &report.Apart{Layout: s.cluster}
		first, second := one("alone", &x.Alone), one(s.cluster, &x.Apart)
		if round%2 == 1 {
			first, second = second, first
		}
		for _, step := range []func() error{first, second} {
			if err := step(); err != nil {
				return err
			}
		}
		r.Apart = append(r.Apart, x)
		fmt.Fprintf(c.out, "round %d    one process %.2f µs CPU a message at %.0f/s, %s %.2f µs at %.0f/s: %.2f µs more\n",
			round+1, x.Alone.ServerCPU, x.Alone.Acked, x.Layout, x.Apart.ServerCPU, x.Apart.Acked, x.Apart.ServerCPU-x.Alone.ServerCPU)
	}
	c.add(r)
	return nil
}
