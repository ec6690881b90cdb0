package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// pairsFlags is the command line of pairs.
type pairsFlags struct {
	load.Pairs
	windows   []int
	windowArg string
	floor     bool
	raw       bool
	rounds    int
	faults    bool
}

func (p *pairsFlags) flags(c *common) {
	c.IntVar(&p.Pairs.Pairs, "pairs", 500, "pairs of users; each user is one connection")
	c.IntVar(&p.Body, "body", 100, "bytes of each message")
	c.StringVar(&p.windowArg, "w", "1", "messages under way a sender; several separated by commas run one after the other")
	c.Float64Var(&p.Rate, "rate", 0, "messages a second in all, sent at their time whatever the answers; latencies count from then")
	c.IntVar(&p.Burst, "burst", 1, "with -rate: messages that a pair sends at once")
	c.DurationVar(&p.RecvAck, "recvack", time.Second, "how often a recipient confirms what came; 0: after every read")
	c.DurationVar(&p.Measure, "d", 10*time.Second, "how long is measured")
	c.DurationVar(&p.Warm, "warm", 2*time.Second, "load before that")
	c.BoolVar(&p.floor, "floor", false, "run the bare program beside each round, for the ratio")
	c.BoolVar(&p.raw, "raw", false, "measure synced writes beside each round, with -rate at that pace")
	c.IntVar(&p.rounds, "rounds", 1, "rounds of each; medians are compared with thresholds")
	c.BoolVar(&p.faults, "faults", false, "faults are expected: judge only that what was acked is stored, once, in order, unchanged")
}

func (p *pairsFlags) check() error {
	for s := range strings.SplitSeq(p.windowArg, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(s))
		if err != nil || n < 1 || n > floor.MaxWindow {
			return usage("-w %q: want numbers from 1 to %d", p.windowArg, floor.MaxWindow)
		}
		p.windows = append(p.windows, n)
	}
	switch {
	case p.Pairs.Pairs < 1 || p.Body < 1 || p.rounds < 1 || p.Burst < 1:
		return usage("-pairs, -body, -burst and -rounds: want at least 1")
	case p.Measure <= 0 || p.Warm < 0 || p.Rate < 0 || p.RecvAck < 0:
		return usage("-d, -warm, -rate and -recvack: negative")
	}
	if p.Rate > 0 {
		p.windows = p.windows[:1]
	}
	return files(2 * p.Pairs.Pairs)
}

// files checks that this process may open so many connections. Go has raised its soft limit to the hard one.
func files(n int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return environment(fmt.Errorf("limit of open files: %w", err))
	}
	const others = 100
	if uint64(n+others) > lim.Max {
		return environment(fmt.Errorf("%d connections need %d open files; the limit is %d (ulimit -n)", n, n+others, lim.Max))
	}
	return nil
}

// unlimited is above any rate that a load reaches.
const unlimited = 1_000_000

// raise returns the limits that the load needs raised: shipped ones are made for people.
func (p *pairsFlags) raise(window int) target.Settings {
	const people = 20 // messages a second that any shipped configuration grants
	if p.Rate > 0 && p.Rate/float64(p.Pairs.Pairs) <= people && p.Burst <= people {
		return nil
	}
	s := target.Unlimited()
	if n := max(window, p.Burst); n > 128 {
		s = append(s, target.Setting{Name: "limits.inflight", Value: strconv.Itoa(2 * n)})
	}
	return s
}

func pairs(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("pairs", out)
	var p pairsFlags
	var s servers
	p.flags(c)
	s.flags(c)
	if done, err := c.parse(args); done {
		return err
	}
	if err := p.check(); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	for _, w := range p.windows {
		if err := p.run(ctx, c, &s, w); err != nil {
			return err
		}
	}
	return c.finish()
}

// run runs the rounds of one window (or of the rate), the bare program before and after the server in turn.
func (p *pairsFlags) run(ctx context.Context, c *common, s *servers, window int) error {
	r := &report.Run{Name: fmt.Sprintf("pairs/w%d", window), Faults: p.faults}
	if p.Rate > 0 {
		r.Name = fmt.Sprintf("pairs/rate%.0f", p.Rate)
		if p.Burst > 1 {
			r.Name += fmt.Sprintf("x%d", p.Burst)
		}
	}
	cfg := p.Pairs
	cfg.Window = window
	server := func() error {
		return s.with(ctx, c, p.raise(window), func(t load.Target) error {
			cfg.Target = t
			res, err := cfg.Run(ctx)
			if err == nil {
				r.Pairs = append(r.Pairs, res)
			}
			return err
		})
	}
	beside := func() error {
		if p.raw {
			raw, err := floor.RunRaw(rawTime, p.Rate)
			if err != nil {
				return environment(err)
			}
			r.Raw = append(r.Raw, raw)
		}
		if !p.floor {
			return nil
		}
		f, err := floor.Run(ctx, "floor", floor.Load{Conns: 2 * cfg.Pairs, Window: window, Rate: cfg.Rate, Burst: cfg.Burst, Body: cfg.Body, Warm: cfg.Warm, Measure: cfg.Measure, RecvAck: cfg.RecvAck})
		if err == nil {
			r.Floor = append(r.Floor, f)
		}
		return err
	}
	for round := range p.rounds {
		first, second := beside, server
		if round%2 == 1 {
			first, second = server, beside
		}
		if err := first(); err != nil {
			return err
		}
		if err := second(); err != nil {
			return err
		}
	}
	c.add(r)
	return nil
}

// rawTime is how long each kind of synced write is measured.
const rawTime = 2 * time.Second

func idle(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("idle", out)
	var s servers
	s.flags(c)
	var cfg load.Idle
	c.IntVar(&cfg.Conns, "n", 18_000, "connections, each of its own user")
	c.IntVar(&cfg.Beats, "beats", 2, "heartbeats of each before the memory is read")
	c.DurationVar(&cfg.Rest, "rest", 60*time.Second, "wait after them; heartbeats go on")
	if done, err := c.parse(args); done {
		return err
	}
	if cfg.Conns < 1 || cfg.Beats < 0 || cfg.Rest < 0 {
		return usage("-n, -beats, -rest: want at least 1, 0 and 0")
	}
	if err := files(cfg.Conns); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	if err := runIdle(ctx, c, &s, cfg); err != nil {
		return err
	}
	return c.finish()
}

func runIdle(ctx context.Context, c *common, s *servers, cfg load.Idle) error {
	r := &report.Run{Name: fmt.Sprintf("idle/%d", cfg.Conns)}
	err := s.with(ctx, c, nil, func(t load.Target) error {
		time.Sleep(2 * time.Second) // let a fresh server come to rest
		cfg.Target = t
		var err error
		r.Idle, err = cfg.Run(ctx)
		return err
	})
	if err != nil {
		return err
	}
	c.add(r)
	return nil
}

// bare is the scenario floor.
func bare(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("floor", out)
	windows := c.String("w", "1,8,32", "windows of 500 pairs, separated by commas; empty: none")
	groups := c.String("groups", "100,1000,10000", "members of one group, separated by commas; empty: none")
	d := c.Duration("d", 6*time.Second, "how long each is measured")
	warm := c.Duration("warm", 2*time.Second, "load before that")
	raw := c.Bool("raw", true, "measure synced writes, too")
	echo := c.Bool("echo", true, "measure echoes at depth 1, too")
	recvAck := c.Duration("recvack", time.Second, "how often a recipient confirms what came; 0: after every read")
	rate := c.Float64("rate", 250, "pace of the second measurement of synced writes, a second")
	if done, err := c.parse(args); done {
		return err
	}
	if *d <= 0 || *warm < 0 || *rate < 0 || *recvAck < 0 {
		return usage("-d, -warm, -rate and -recvack: negative")
	}
	ws, err := numbers("-w", *windows)
	if err != nil {
		return err
	}
	gs, err := numbers("-groups", *groups)
	if err != nil {
		return err
	}
	for _, n := range gs {
		if err := files(n); err != nil {
			return err
		}
	}
	if *raw {
		r := &report.Run{Name: "floor/raw"}
		for _, pace := range []float64{0, *rate} {
			w, err := floor.RunRaw(rawTime, pace)
			if err != nil {
				return environment(err)
			}
			r.Raw = append(r.Raw, w)
		}
		c.add(r)
	}
	var shapes []shape
	if *echo {
		shapes = append(shapes, shape{"echo", floor.Load{Conns: 1000, Senders: 1000, Window: 1, Echo: true}})
	}
	for _, w := range ws {
		shapes = append(shapes, shape{fmt.Sprintf("pairs/w%d", w), floor.Load{Conns: 1000, Window: w}})
	}
	for _, n := range gs {
		shapes = append(shapes, groupShapes(n)...)
	}
	for _, sh := range shapes {
		sh.load.Body, sh.load.Warm, sh.load.Measure, sh.load.RecvAck = 100, *warm, *d, *recvAck
		f, err := floor.Run(ctx, sh.name, sh.load)
		if err != nil {
			return err
		}
		c.add(&report.Run{Name: "floor/" + sh.name, Floor: []*floor.Result{f}})
	}
	return c.finish()
}

func numbers(name, list string) ([]int, error) {
	var ns []int
	for s := range strings.SplitSeq(list, ",") {
		if s = strings.TrimSpace(s); s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return nil, usage("%s %q: want numbers separated by commas", name, list)
		}
		ns = append(ns, n)
	}
	return ns, nil
}

// shape is one load of the floor.
type shape struct {
	name string
	load floor.Load
}

// groupShapes are the loads of a group: a small one is talked in, in a large one somebody announces.
// They are named members/senders x window.
func groupShapes(members int) []shape {
	type talk struct{ senders, window int }
	talks := []talk{{1, 1}, {1, 60}}
	if members <= 500 {
		n := min(16, members)
		talks = []talk{{n, 1}, {n, 8}, {1, 8 * n}}
	}
	var list []shape
	for _, t := range talks {
		list = append(list, shape{fmt.Sprintf("group%d/%dx%d", members, t.senders, t.window), floor.Load{Conns: members, Senders: t.senders, Window: t.window}})
	}
	return list
}

// all is short versions of everything, within three minutes.
func all(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("all", out)
	var s servers
	s.flags(c)
	p := pairsFlags{windows: []int{1, 8, 32}, floor: true, rounds: 1}
	p.Pairs = load.Pairs{Pairs: 500, Body: 100, Burst: 1, RecvAck: time.Second, Warm: time.Second, Measure: 4 * time.Second}
	if done, err := c.parse(args); done {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	for _, w := range p.windows {
		if err := p.run(ctx, c, &s, w); err != nil {
			return err
		}
	}
	calm := p
	calm.floor, calm.raw, calm.Rate = false, true, 250
	if err := calm.run(ctx, c, &s, 1); err != nil {
		return err
	}
	if err := shortGroups(ctx, c, &s); err != nil {
		return err
	}
	if err := shortRooms(ctx, c, &s); err != nil {
		return err
	}
	if err := runIdle(ctx, c, &s, load.Idle{Conns: 5000, Beats: 2, Rest: 10 * time.Second}); err != nil {
		return err
	}
	if err := allOfOld(ctx, c, &s); err != nil {
		return err
	}
	return c.finish()
}
