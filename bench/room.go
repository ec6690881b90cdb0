package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// roomFlags is the command line of room.
type roomFlags struct {
	load.Room
	rates   []float64
	rateArg string
	budget  int
	rounds  int
}

// room is the scenario room: a few write at a rate, everybody else who is in the room listens.
func room(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("room", out)
	var f roomFlags
	var s servers
	s.flags(c)
	c.IntVar(&f.Members, "n", 10_000, "connections in the room, each of its own user")
	c.StringVar(&f.rateArg, "rate", "20", "messages a second in all, sent at their time whatever the answers; several separated by commas run one after the other")
	c.IntVar(&f.Writers, "writers", 1, "how many of those in the room write, in turn")
	c.IntVar(&f.Body, "body", 100, "bytes of each message")
	c.StringVar(&f.Name, "room", "", "the room's name; by default each run makes a new one")
	c.DurationVar(&f.Measure, "for", 30*time.Second, "how long is measured")
	c.DurationVar(&f.Warm, "warm", 3*time.Second, "load before that")
	c.IntVar(&f.budget, "budget", 0, "rooms.deliveries_per_second of the started server; 0: as shipped")
	c.IntVar(&f.rounds, "rounds", 1, "rounds of each; medians are compared with thresholds")
	if done, err := c.parse(args); done {
		return err
	}
	if err := f.check(); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	for _, rate := range f.rates {
		if err := f.run(ctx, c, &s, rate); err != nil {
			return err
		}
	}
	return c.finish()
}

func (f *roomFlags) check() error {
	for s := range strings.SplitSeq(f.rateArg, ",") {
		r, err := strconv.ParseFloat(strings.TrimSpace(s), 64)
		if err != nil || r <= 0 || r > 1000 {
			return usage("-rate %q: want messages a second, at most 1000", f.rateArg)
		}
		f.rates = append(f.rates, r)
	}
	switch {
	case f.Writers < 1 || f.Members <= f.Writers:
		return usage("-n %d -writers %d: want at least one who writes and one who listens", f.Members, f.Writers)
	case f.Body < 1 || f.rounds < 1 || f.budget < 0:
		return usage("-body and -rounds: want at least 1; -budget: at least 0")
	case f.Measure <= 0 || f.Warm < 0:
		return usage("-for and -warm: negative, or nothing")
	}
	return files(f.Members)
}

// raise returns what differs from the shipped configuration: who may make rooms, and what one writer may send.
func (f *roomFlags) raise(rate float64) target.Settings {
	s := target.Settings{{Name: "rooms.create", Value: "anyone"}}
	if f.budget > 0 {
		s = append(s, target.Setting{Name: "rooms.deliveries_per_second", Value: strconv.Itoa(f.budget)})
	}
	const people = 20 // messages a second that any shipped configuration grants
	if rate/float64(f.Writers) >= people {
		s = append(s, target.Setting{Name: "limits.sends_per_second", Value: strconv.Itoa(unlimited)},
			target.Setting{Name: "limits.user_sends_per_second", Value: strconv.Itoa(unlimited)})
	}
	return s
}

// run runs the rounds of one rate.
func (f *roomFlags) run(ctx context.Context, c *common, s *servers, rate float64) error {
	r := &report.Run{Name: fmt.Sprintf("room%d/rate%g", f.Members, rate)}
	for range f.rounds {
		cfg := f.Room
		cfg.Rate = rate
		if cfg.Name == "" {
			cfg.Name = fmt.Sprintf("bench-%08x", rand.Uint32())
		}
		err := s.with(ctx, c, f.raise(rate), func(t load.Target) error {
			cfg.Target = t
			res, err := cfg.Run(ctx)
			if err == nil {
				r.Room = append(r.Room, &report.Room{RoomResult: res})
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	c.add(r)
	return nil
}

// shortRooms is the part of all that is about rooms.
func shortRooms(ctx context.Context, c *common, s *servers) error {
	f := roomFlags{rounds: 1, Room: load.Room{Members: 1000, Writers: 2, Body: 100, Warm: time.Second, Measure: 3 * time.Second}}
	return f.run(ctx, c, s, 20)
}
