package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// groupFlags is the command line of the scenarios of one group: group, hot and slow.
type groupFlags struct {
	load.Group
	members   []int // one run for each
	memberArg string
	windows   []int // the same
	windowArg string
	floor     bool
	rounds    int
	share     float64 // of slow members, percent
}

func (g *groupFlags) flags(c *common) {
	c.IntVar(&g.Body, "body", g.Body, "bytes of each message")
	c.DurationVar(&g.RecvAck, "recvack", time.Second, "how often a member confirms what came; 0: after every read")
	c.DurationVar(&g.Measure, "d", g.Measure, "how long is measured")
	c.DurationVar(&g.Warm, "warm", 2*time.Second, "load before that")
	c.IntVar(&g.rounds, "rounds", g.rounds, "rounds of each; medians are compared with thresholds")
}

// check reads the lists and looks whether all of it can be run.
func (g *groupFlags) check() (err error) {
	if g.memberArg != "" {
		if g.members, err = numbers("-n", g.memberArg); err != nil {
			return err
		}
	}
	if g.windowArg != "" {
		if g.windows, err = numbers("-w", g.windowArg); err != nil {
			return err
		}
	}
	switch {
	case len(g.members) == 0 || len(g.windows) == 0:
		return usage("-n and -w: want at least one")
	case g.Body < 1 || g.rounds < 1 || g.Shots < 0 || g.Senders < 1:
		return usage("-body, -senders and -rounds: want at least 1; -shots: at least 0")
	case g.Measure < 0 || g.Warm < 0 || g.RecvAck < 0 || g.Gap < 0 || g.Rate < 0 || g.Burst < 0:
		return usage("-d, -warm, -recvack, -gap, -rate and -burst: negative")
	case g.Measure == 0 && g.Shots == 0:
		return usage("-d 0 and -shots 0: nothing is left to do")
	}
	for _, n := range g.members {
		if n < 2 || n <= g.Senders {
			return usage("-n %d: want at least two members, and more than senders", n)
		}
		if err := files(n); err != nil {
			return err
		}
	}
	for _, w := range g.windows {
		if w > floor.MaxWindow {
			return usage("-w %d: want at most %d", w, floor.MaxWindow)
		}
	}
	return nil
}

// raise returns the limits that the load needs raised: shipped ones are made for people.
func (g *groupFlags) raise(members, window int) target.Settings {
	var s target.Settings
	const people = 20 // messages a second that any shipped configuration grants
	if g.Measure > 0 && (g.Rate == 0 || g.Rate > people || g.Burst > people) {
		s = target.Settings{
			{Name: "limits.sends_per_second", Value: strconv.Itoa(unlimited)},
			{Name: "limits.user_sends_per_second", Value: strconv.Itoa(unlimited)},
			{Name: "limits.bytes_per_second", Value: "1GiB"},
		}
	}
	const shipped = 100_000 // members of a group
	if members > shipped {
		s = append(s, target.Setting{Name: "limits.group_members", Value: strconv.Itoa(members)})
	}
	if n := max(window, g.Burst); n > 128 {
		s = append(s, target.Setting{Name: "limits.inflight", Value: strconv.Itoa(2 * n)})
	}
	return s
}

// group is the scenario group: one sender into groups of many.
func group(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("group", out)
	g := groupFlags{rounds: 1, Group: load.Group{Senders: 1, Body: 100, Measure: 10 * time.Second}}
	c.StringVar(&g.memberArg, "n", "10000", "members of the group, all online; several separated by commas run one after the other")
	c.StringVar(&g.windowArg, "w", "60", "messages of the sender under way: not acked, or not yet with every member")
	c.IntVar(&g.Shots, "shots", 30, "single messages before that, each when everybody has the one before")
	c.DurationVar(&g.Gap, "gap", 200*time.Millisecond, "between these")
	c.BoolVar(&g.floor, "floor", false, "run the bare program beside each round, for the ratio")
	return g.scenario(ctx, c, args)
}

// hot is the scenario hot: a group in which many talk at once.
func hot(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("hot", out)
	g := groupFlags{rounds: 1, Group: load.Group{Body: 100, Measure: 10 * time.Second}}
	c.StringVar(&g.memberArg, "n", "100", "members of the group, all online; several separated by commas run one after the other")
	c.IntVar(&g.Senders, "senders", 16, "how many of them send")
	c.StringVar(&g.windowArg, "w", "1,8", "messages under way a sender: not acked, or not yet with every member; several run one after the other")
	c.BoolVar(&g.floor, "floor", false, "run the bare program beside each round, for the ratio")
	return g.scenario(ctx, c, args)
}

// slow is the scenario slow: members that don't read, or hardly, and what the others notice of it.
func slow(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("slow", out)
	g := groupFlags{rounds: 7, windows: []int{1}, Group: load.Group{Senders: 1, Body: 2000, Measure: 15 * time.Second}}
	c.StringVar(&g.memberArg, "n", "10000", "members of the group, all online; several separated by commas run one after the other")
	c.Float64Var(&g.share, "slow", 5, "percent of them that stop reading when the load begins, and read again when it has ended")
	c.IntVar(&g.Trickle, "trickle", 0, "bytes a second that each of these reads meanwhile")
	c.Float64Var(&g.Rate, "rate", 30, "messages a second, sent at their time whatever the answers; 0: by -w")
	c.IntVar(&g.Burst, "burst", 15, "with -rate: messages sent at once")
	c.StringVar(&g.windowArg, "w", "60", "with -rate 0: messages of the sender under way")
	return g.scenario(ctx, c, args)
}

func (g *groupFlags) scenario(ctx context.Context, c *common, args []string) error {
	var s servers
	g.flags(c)
	s.flags(c)
	if done, err := c.parse(args); done {
		return err
	}
	if err := g.check(); err != nil {
		return err
	}
	if c.Name() == "slow" && (g.share <= 0 || g.share >= 100 || g.Trickle < 0 || g.Measure == 0) {
		return usage("-slow, -trickle and -d: want more than 0 and less than 100 percent, at least 0 bytes, more than 0 s")
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	for _, n := range g.members {
		for _, w := range g.windows {
			if err := g.run(ctx, c, &s, c.Name(), n, w); err != nil {
				return err
			}
		}
	}
	return c.finish()
}

// run runs the rounds of one size and window, what stands beside them before and after in turn.
func (g *groupFlags) run(ctx context.Context, c *common, s *servers, name string, members, window int) error {
	cfg := g.Group
	cfg.Members, cfg.Window = members, window
	r := &report.Run{Name: fmt.Sprintf("%s%d/%dx%d", name, members, cfg.Senders, window)}
	if cfg.Rate > 0 {
		r.Name = fmt.Sprintf("%s%d/rate%.0fx%d", name, members, cfg.Rate, max(cfg.Burst, 1))
	}
	var round *report.Group
	server := func(slow int, to **load.GroupResult) func() error {
		return func() error {
			return s.with(ctx, c, g.raise(members, window), func(t load.Target) (err error) {
				cfg := cfg
				cfg.Target, cfg.Slow = t, slow
				*to, err = cfg.Run(ctx)
				return err
			})
		}
	}
	for i := range g.rounds {
		round = &report.Group{}
		slow := 0
		var steps []func() error
		if g.share > 0 {
			slow = max(int(float64(members)*g.share/100), 1)
			steps = append(steps, server(0, &round.Calm))
		}
		steps = append(steps, server(slow, &round.GroupResult))
		if g.floor {
			steps = append([]func() error{func() error { return g.beside(ctx, r, cfg) }}, steps...)
		}
		if i%2 == 1 {
			steps[0], steps[len(steps)-1] = steps[len(steps)-1], steps[0]
		}
		for _, step := range steps {
			if err := step(); err != nil {
				return err
			}
		}
		r.Group = append(r.Group, round)
	}
	c.add(r)
	return nil
}

// beside runs the bare program with the same load.
func (g *groupFlags) beside(ctx context.Context, r *report.Run, cfg load.Group) error {
	l := floor.Load{Conns: cfg.Members, Senders: cfg.Senders, Window: cfg.Window, Body: cfg.Body, Warm: cfg.Warm, Measure: cfg.Measure,
		RecvAck: cfg.RecvAck, Shots: cfg.Shots, Gap: cfg.Gap}
	f, err := floor.Run(ctx, "floor", l)
	if err == nil {
		r.Floor = append(r.Floor, f)
	}
	return err
}

// shortGroups is the part of all that is about groups.
func shortGroups(ctx context.Context, c *common, s *servers) error {
	base := load.Group{Senders: 1, Body: 100, RecvAck: time.Second, Warm: time.Second, Measure: 3 * time.Second}
	announce, talk, doze := base, base, base
	announce.Shots, announce.Gap = 5, 200*time.Millisecond
	talk.Senders = 16
	doze.Body, doze.Rate, doze.Burst, doze.Measure = 2000, 60, 15, 5*time.Second
	for _, g := range []struct {
		name            string
		members, window int
		groupFlags
	}{
		{"group", 1000, 60, groupFlags{Group: announce, floor: true, rounds: 1}},
		{"hot", 100, 8, groupFlags{Group: talk, floor: true, rounds: 1}},
		{"slow", 1000, 1, groupFlags{Group: doze, share: 5, rounds: 1}},
	} {
		if err := g.run(ctx, c, s, g.name, g.members, g.window); err != nil {
			return err
		}
	}
	return nil
}
