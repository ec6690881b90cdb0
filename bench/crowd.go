package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// crowd is the scenario crowd: single messages to a group of more members than one process can be.
func crowd(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("crowd", out)
	var s servers
	s.flags(c)
	cluster := c.Lookup("cluster")
	cluster.DefValue = "edge*6,logic+fanout+worker"
	_ = cluster.Value.Set(cluster.DefValue)
	var cfg load.Crowd
	members := c.String("n", "20000", "members of the group, all online; several separated by commas run one after the other")
	c.IntVar(&cfg.Each, "each", 17_000, "members that one process of the load generator is, at most")
	c.IntVar(&cfg.Body, "body", 100, "bytes of each message")
	c.IntVar(&cfg.Shots, "shots", 10, "messages, each when everybody has the one before")
	c.DurationVar(&cfg.Gap, "gap", 200*time.Millisecond, "between them")
	if done, err := c.parse(args); done {
		return err
	}
	if s.addr != "" || s.running != "" {
		s.cluster = ""
	}
	sizes, err := numbers("-n", *members)
	if err != nil {
		return err
	}
	for _, n := range sizes {
		if n < 2 || cfg.Each < 1 || cfg.Body < 1 || cfg.Shots < 1 || cfg.Gap < 0 {
			return usage("-n, -each, -body and -shots: want at least 2, 1, 1 and 1; -gap: not negative")
		}
		if err := files(min(n, cfg.Each)); err != nil {
			return err
		}
	}
	if cfg.Program, err = os.Executable(); err != nil {
		return environment(fmt.Errorf("own executable: %w", err))
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	for _, n := range sizes {
		cfg.Members = n
		var raise target.Settings
		const shipped = 100_000 // members of a group
		if n > shipped {
			raise = append(raise, target.Setting{Name: "limits.group_members", Value: strconv.Itoa(n)})
		}
		r := &report.Run{Name: fmt.Sprintf("crowd/%d", n)}
		err := s.with(ctx, c, raise, func(t load.Target) error {
			cfg.Target = t
			res, err := cfg.Run(ctx)
			if err == nil {
				r.Crowd = append(r.Crowd, &report.Crowd{CrowdResult: res})
			}
			return err
		})
		if err != nil {
			return err
		}
		c.add(r)
	}
	return c.finish()
}
