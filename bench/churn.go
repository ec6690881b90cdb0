package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// churn is the scenario churn: people who look in, again and again.
func churn(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("churn", out)
	var s servers
	s.flags(c)
	var cfg load.Churn
	c.IntVar(&cfg.Users, "n", 2000, "users, two for each pair who write to each other")
	c.IntVar(&cfg.Window, "w", 64, "visits under way at once")
	c.Float64Var(&cfg.Rate, "rate", 0, "visits a second, begun at their time whatever the others do; latencies count from then")
	c.IntVar(&cfg.Messages, "messages", 2, "messages that each visitor writes")
	c.IntVar(&cfg.Body, "body", 100, "bytes of each message")
	c.DurationVar(&cfg.Measure, "d", 10*time.Second, "how long is measured")
	c.DurationVar(&cfg.Warm, "warm", 2*time.Second, "load before that")
	c.DurationVar(&cfg.Rest, "rest", 20*time.Second, "rest after the last visit, before the memory is read")
	if done, err := c.parse(args); done {
		return err
	}
	switch {
	case cfg.Users < 2 || cfg.Users%2 != 0 || cfg.Window < 1 || cfg.Body < 1 || cfg.Messages < 0 || cfg.Rate < 0:
		return usage("-n, -w, -body, -messages and -rate: want an even number of users, and nothing negative")
	case cfg.Rate == 0 && cfg.Window > cfg.Users:
		return usage("-w %d: more visits at once than users", cfg.Window)
	case cfg.Measure <= 0 || cfg.Warm < 0 || cfg.Rest < 0:
		return usage("-d, -warm and -rest: negative")
	}
	if err := files(cfg.Users); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	if err := runChurn(ctx, c, &s, cfg); err != nil {
		return err
	}
	return c.finish()
}

func runChurn(ctx context.Context, c *common, s *servers, cfg load.Churn) error {
	r := &report.Run{Name: fmt.Sprintf("churn/w%d", cfg.Window)}
	if cfg.Rate > 0 {
		r.Name = fmt.Sprintf("churn/rate%.0f", cfg.Rate)
	}
	// One user looks in far more often than people do, and all come from a few addresses.
	raise := target.Settings{
		{Name: "limits.connects_per_address", Value: strconv.Itoa(unlimited)},
		{Name: "limits.sends_per_second", Value: strconv.Itoa(unlimited)},
		{Name: "limits.user_sends_per_second", Value: strconv.Itoa(unlimited)},
	}
	err := s.with(ctx, c, raise, func(t load.Target) error {
		time.Sleep(2 * time.Second) // let a fresh server come to rest
		cfg.Target = t
		res, err := cfg.Run(ctx)
		if err == nil {
			r.Churn = append(r.Churn, &report.Churn{ChurnResult: *res})
		}
		return err
	})
	if err != nil {
		return err
	}
	c.add(r)
	return nil
}
