package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

// scaleFlags is the command line of scale.
type scaleFlags struct {
	pairsFlags
	local.Config
	more int           // logic nodes that come and leave
	calm time.Duration // before, between and after the moves
	tail time.Duration // what counts for a move after its end
}

// scale is the scenario scale: logic nodes come and leave under a load of pairs, and nobody does anything about it.
func scale(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("scale", out)
	var f scaleFlags
	c.StringVar(&f.Binary, "server", "", "the gochat binary to start; by default it is built from this source")
	c.StringVar(&f.Stores, "stores", local.StoresTest, "what the nodes keep everything in: test: memory, of processes of its own; real: PD, TiKV's API and RocketMQ")
	c.StringVar(&f.Dir, "dir", "", "where the cluster lies, logs above all; by default somewhere that is removed")
	c.IntVar(&f.Edges, "edges", 2, "edge nodes")
	c.IntVar(&f.Logics, "logics", 3, "logic nodes at first, and in the end")
	c.IntVar(&f.more, "more", 2, "logic nodes that come, all at once, and later leave")
	c.IntVar(&f.Fanouts, "fanouts", 1, "fan-out nodes")
	c.IntVar(&f.Workers, "workers", 1, "worker nodes")
	c.IntVar(&f.Pairs.Pairs, "pairs", 300, "pairs of users; each user is one connection")
	c.IntVar(&f.Body, "body", 100, "bytes of each message")
	c.StringVar(&f.windowArg, "w", "1", "messages under way a sender")
	c.Float64Var(&f.Rate, "rate", 0, "messages a second in all, sent at their time whatever the answers; latencies count from then")
	c.DurationVar(&f.RecvAck, "recvack", time.Second, "how often a recipient confirms what came; 0: after every read")
	c.DurationVar(&f.Warm, "warm", 2*time.Second, "load before anything is measured")
	c.DurationVar(&f.calm, "calm", 5*time.Second, "load before, between and after the moves")
	c.DurationVar(&f.tail, "tail", time.Second, "load after a move that counts as part of it")
	c.IntVar(&f.rounds, "rounds", 1, "rounds, each on a cluster of its own; medians are compared with thresholds")
	if done, err := c.parse(args); done {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	// The moves are made by this process, too, beside the load's one goroutine.
	runtime.GOMAXPROCS(2)
	r := &report.Run{Name: fmt.Sprintf("scale/%d-%d-%d", f.Logics, f.Logics+f.more, f.Logics)}
	for range f.rounds {
		x, err := f.run(ctx, c)
		if err != nil {
			return err
		}
		r.Scale = append(r.Scale, x)
	}
	c.add(r)
	return c.finish()
}

func (f *scaleFlags) check() error {
	f.Burst, f.Measure = 1, time.Second // Meanwhile takes its place
	if err := f.pairsFlags.check(); err != nil {
		return err
	}
	switch {
	case len(f.windows) != 1:
		return usage("-w %q: want one number", f.windowArg)
	case f.Stores != local.StoresTest && f.Stores != local.StoresReal:
		return usage("-stores %q: want %s or %s", f.Stores, local.StoresTest, local.StoresReal)
	case f.Edges < 1 || f.Logics < 1 || f.Fanouts < 1 || f.Workers < 1 || f.more < 1:
		return usage("-edges, -logics, -fanouts, -workers and -more: want at least 1")
	case f.calm < 0 || f.tail < 0:
		return usage("-calm and -tail: negative")
	}
	return nil
}

// run is one round.
func (f *scaleFlags) run(ctx context.Context, c *common) (_ *report.Scale, err error) {
	where := f.Config
	if where.Dir == "" {
		if where.Dir, err = os.MkdirTemp("", "gochat-bench"); err != nil {
			return nil, environment(fmt.Errorf("directory for the cluster: %w", err))
		}
		defer os.RemoveAll(where.Dir)
	}
	raise := f.raise(f.windows[0])
	g, err := target.StartGrowing(ctx, where, raise)
	if err != nil {
		return nil, environment(err)
	}
	defer g.Stop()
	for _, s := range raise {
		c.raised([]string{fmt.Sprintf("%s: raised to %s", s.Name, s.Value)})
	}
	x := &report.Scale{}
	cfg := f.pairsFlags.Pairs
	cfg.Target, cfg.Window = g.Target(target.LocalPrefix+"u"), f.windows[0]
	cfg.Meanwhile = func(ctx context.Context, spans *load.Spans) (err error) {
		if err := wait(ctx, f.calm); err != nil {
			return err
		}
		spans.Turn()
		var names []string
		if names, x.Grow, err = g.Grow(ctx, f.more); err != nil {
			return fmt.Errorf("more logic nodes: %w", err)
		}
		if err := wait(ctx, f.tail); err != nil {
			return err
		}
		spans.Turn()
		if err := wait(ctx, f.calm); err != nil {
			return err
		}
		spans.Turn()
		if x.Shrink, err = g.Shrink(ctx, names...); err != nil {
			return fmt.Errorf("fewer logic nodes: %w", err)
		}
		if err := wait(ctx, f.tail); err != nil {
			return err
		}
		spans.Turn()
		return wait(ctx, f.calm)
	}
	x.PairsResult, err = cfg.Run(ctx)
	var failed *load.Failure
	if errors.As(err, &failed) {
		var logs strings.Builder
		g.Log(&logs)
		err = fmt.Errorf("%w\nthe nodes' logs end:\n%s", err, &logs)
	}
	return x, err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
