package main

import (
	"context"
	"io"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// restart is the scenario restart: the server ends, or is killed, under its clients and starts again on the same data.
func restart(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("restart", out)
	var s servers
	var cfg load.Restart
	var drain, kill bool
	c.StringVar(&s.path, "server", "", "the gochat binary to start; by default it is built from this source")
	c.StringVar(&s.algorithm, "alg", "EdDSA", "how the started server's tokens are signed: EdDSA or HS256")
	c.IntVar(&cfg.Clients, "n", 10_000, "connected clients, two for each pair that writes")
	c.Float64Var(&cfg.Rate, "rate", 1000, "messages a second of all, written at their time whether there is a server or not")
	c.IntVar(&cfg.Body, "body", 100, "bytes of each message")
	c.DurationVar(&cfg.Before, "warm", 8*time.Second, "load before the restart")
	c.DurationVar(&cfg.After, "d", 5*time.Second, "load after everybody is back")
	c.BoolVar(&drain, "drain", true, "with SIGTERM: the server sends its clients away first")
	c.BoolVar(&kill, "kill", true, "with SIGKILL")
	if done, err := c.parse(args); done {
		return err
	}
	switch {
	case cfg.Clients < 2 || cfg.Clients%2 != 0 || cfg.Body < 1 || cfg.Rate <= 0:
		return usage("-n, -body and -rate: want an even number of clients, and more than 0")
	case cfg.Before < 0 || cfg.After < 0:
		return usage("-warm and -d: negative")
	case cfg.Rate/float64(cfg.Clients/2) > 10:
		return usage("-rate %.0f of %d pairs: people send less than 10 a second, and the limits stay the shipped ones", cfg.Rate, cfg.Clients/2)
	case !drain && !kill:
		return usage("-drain=false and -kill=false: nothing is left to do")
	}
	if err := files(cfg.Clients); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	if err := runRestarts(ctx, c, &s, cfg, drain, kill); err != nil {
		return err
	}
	return c.finish()
}

func runRestarts(ctx context.Context, c *common, s *servers, cfg load.Restart, drain, kill bool) error {
	for _, way := range []struct {
		name   string
		sig    syscall.Signal
		wanted bool
	}{{"drain", syscall.SIGTERM, drain}, {"kill", syscall.SIGKILL, kill}} {
		if !way.wanted {
			continue
		}
		r := &report.Run{Name: "restart/" + way.name}
		err := s.launched(ctx, c, target.Launching{Path: s.path, Algorithm: s.algorithm}, func(t load.Target, server *target.Server) error {
			cfg := cfg
			cfg.Target = t
			cfg.Again = func(ctx context.Context) (down, up time.Duration, err error) {
				if down, err = server.End(ctx, way.sig); err != nil {
					return 0, 0, err
				}
				began := time.Now()
				err = server.Again(ctx)
				return down, time.Since(began), err
			}
			res, err := cfg.Run(ctx)
			if err == nil {
				r.Restart = append(r.Restart, &report.Restart{RestartResult: *res})
			}
			return err
		})
		if err != nil {
			return err
		}
		c.add(r)
	}
	return nil
}

// allOfOld are the short versions of what needs a store with a past, or clients with one. They
// start servers of their own.
func allOfOld(ctx context.Context, c *common, s *servers) error {
	if s.addr != "" || s.running != "" {
		return nil
	}
	visits := load.Churn{Users: 500, Window: 32, Messages: 2, Body: 100, Warm: time.Second, Measure: 3 * time.Second, Rest: 3 * time.Second}
	if err := runChurn(ctx, c, s, visits); err != nil {
		return err
	}
	h := historyFlags{merged: true, unmerged: true, rounds: 1}
	h.History = load.History{Clients: 500, Conversations: 2000, Messages: 60, Body: 100, Page: 50, Window: 1, Warm: time.Second, Measure: 3 * time.Second}
	if err := h.run(ctx, c, s); err != nil {
		return err
	}
	return runRestarts(ctx, c, s, load.Restart{Clients: 1000, Rate: 500, Body: 100, Before: 3 * time.Second, After: 2 * time.Second}, true, true)
}
