package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"

	"github.com/gochat-im/gochat/bench/hostile"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// hostileFlags is the command line of hostile.
type hostileFlags struct {
	load.Pairs
	attack time.Duration
	rest   time.Duration
	settle time.Duration
	rounds int
	kinds  string
	nice   int
}

// underAttack is the scenario hostile: the same load calm and attacked, and the server's
// memory before and after.
func underAttack(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("hostile", out)
	var f hostileFlags
	var s servers
	c.StringVar(&s.path, "server", "", "the gochat binary to start; by default it is built from this source")
	c.StringVar(&s.algorithm, "alg", "EdDSA", "how the started server's tokens are signed: EdDSA or HS256")
	c.IntVar(&f.Pairs.Pairs, "pairs", 500, "pairs of users who behave")
	c.Float64Var(&f.Rate, "rate", 1000, "messages a second of all of them")
	c.IntVar(&f.Body, "body", 100, "bytes of each message")
	c.DurationVar(&f.Measure, "d", 10*time.Second, "how long the calm load is measured")
	c.DurationVar(&f.Warm, "warm", 2*time.Second, "load before that, calm or attacked")
	c.DurationVar(&f.attack, "attack", 20*time.Second, "how long the attacked load is measured")
	c.DurationVar(&f.rest, "rest", 30*time.Second, "rest after the calm load, before the memory is read")
	c.DurationVar(&f.settle, "settle", 60*time.Second, "rest after the attack, before the memory is read")
	c.IntVar(&f.rounds, "rounds", 1, "rounds, each with a fresh server; medians are compared with thresholds")
	c.StringVar(&f.kinds, "kinds", "", "only the kinds of attack whose name this regular expression finds")
	c.IntVar(&f.nice, "nice", 0, "niceness of the process of the hostile clients, which would have machines of their own")
	if done, err := c.parse(args); done {
		return err
	}
	_, badKinds := regexp.Compile(f.kinds)
	switch {
	case badKinds != nil:
		return usage("-kinds: %v", badKinds)
	case f.Pairs.Pairs < 1 || f.Body < 1 || f.rounds < 1:
		return usage("-pairs, -body and -rounds: want at least 1")
	case f.Measure <= 0 || f.attack <= 0 || f.Rate <= 0 || f.Warm < 0 || f.rest < 0 || f.settle < 0:
		return usage("-d, -attack, -rate, -warm, -rest, -settle: want more than 0, or 0 for the last three")
	case f.Rate/float64(f.Pairs.Pairs) > 20:
		return usage("-rate %.0f of %d pairs: people send less than 20 a second, and the limits stay the shipped ones", f.Rate, f.Pairs.Pairs)
	}
	if err := files(2 * f.Pairs.Pairs); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	r := &report.Run{Name: fmt.Sprintf("hostile/rate%.0f", f.Rate)}
	for range f.rounds {
		if err := f.round(ctx, &s, r); err != nil {
			return err
		}
	}
	c.add(r)
	return c.finish()
}

// round runs one calm load and one attacked one against a fresh server with shipped limits.
func (f *hostileFlags) round(ctx context.Context, s *servers, r *report.Run) error {
	server, err := target.Start(ctx, s.path, s.algorithm, nil)
	if err != nil {
		return environment(err)
	}
	defer server.Stop()
	h, attacked, err := f.against(ctx, server)
	var failed *load.Failure
	if errors.As(err, &failed) {
		if !server.Running() {
			err = fmt.Errorf("%w; the server has ended", err)
		}
		return fmt.Errorf("%w\nthe server's log ends:\n%s", err, server.Log())
	}
	if err != nil {
		return err
	}
	r.Pairs, r.Under = append(r.Pairs, attacked), append(r.Under, h)
	return nil
}

func (f *hostileFlags) against(ctx context.Context, server *target.Server) (h *report.Hostile, attacked *load.PairsResult, err error) {
	h = &report.Hostile{Settle: f.settle.Seconds()}
	rest(ctx, 2*time.Second)
	if h.Fresh, err = measure.ReadMemory(server.PID); err != nil {
		return nil, nil, &load.Failure{Err: err}
	}
	good := f.Pairs
	good.Target = load.Target{
		Addr: server.Addr, PID: server.PID, Token: server.Issuer.Token, Users: "calm",
		Stats: func(ctx context.Context) (load.Stats, error) { return target.ReadMetrics(ctx, server.HTTP) },
	}
	if h.Calm, err = good.Run(ctx); err != nil {
		return nil, nil, err
	}
	if h.Before, h.Goroutines[0], err = atRest(ctx, server, f.rest); err != nil {
		return nil, nil, err
	}

	private := server.Issuer.KeyFile
	if server.Issuer.Algorithm != "HS256" {
		private = strings.TrimSuffix(private, ".pem") + ".key"
	}
	child, err := hostile.StartChild(hostile.Config{
		Addr: server.Addr, HTTP: server.HTTP, PID: server.PID, Issuer: server.Issuer.Name, KeyFile: private, Public: server.Issuer.KeyFile,
		Users: "hostile", Kinds: f.kinds, Nice: f.nice, For: f.Warm + f.attack,
	})
	if err != nil {
		return nil, nil, err
	}
	defer child.Stop()
	good.Target.Users, good.Measure, good.Begun = "good", f.attack, child.Go
	if attacked, err = good.Run(ctx); err != nil {
		return nil, nil, err
	}
	if h.Attack, err = child.Result(); err != nil {
		return nil, nil, err
	}
	h.Goroutines[1] = h.Attack.Goroutines
	h.After, h.Goroutines[2], err = atRest(ctx, server, f.settle)
	return h, attacked, err
}

// atRest waits and reads what the server holds then.
func atRest(ctx context.Context, server *target.Server, d time.Duration) (measure.Memory, float64, error) {
	rest(ctx, d)
	m, err := measure.ReadMemory(server.PID)
	if err != nil {
		return m, 0, &load.Failure{Err: err}
	}
	s, err := target.ReadMetrics(ctx, server.HTTP)
	if err != nil && ctx.Err() == nil {
		err = &load.Failure{Err: err}
	}
	return m, s.Goroutines, err
}

func rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
