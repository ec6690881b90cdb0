// Command bench loads a GoChat server with its own protocol and says what came of it,
// beside a bare program that does the same I/O and nothing else. `go run ./bench help` lists
// the scenarios.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/hostile"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// Exit codes tell whose fault a failure is.
const (
	exitProduct     = 1 // the server: a threshold missed, a message lost, a connection ended
	exitUsage       = 2 // the command line
	exitHarness     = 3 // the load generator itself, or it was interrupted
	exitEnvironment = 4 // the machine or the server's configuration: the load couldn't begin
)

const help = `usage: bench SCENARIO [flags]

  pairs    one-to-one conversations: -w WINDOWS as fast as the answers come, or -rate R whatever they do
  idle     connections that only stay, each of its own user, with heartbeats
  history  pages of old messages, from stores that were filled one message at a time
  group    one sender into groups of -n members: single messages, then -w under way
  hot      -senders of -n members of one group at once
  slow     a group of which some don't read: what the others notice, and whether these catch up
  churn    people who look in: connect, fetch, write a little, leave
  restart  the server ends, or is killed, under its clients and starts again: how they come back
  hostile  pairs at a low rate, calm and then beside clients that misbehave in every way they can
  crowd    single messages to a group of -n members, more than one process can be, over the edges of a cluster
  room     a room of -n connections in which somebody writes -rate messages a second
  scale    pairs on a cluster to which logic nodes come and from which they leave
  rpc      pairs on an edge and the rest as two processes, beside one: what the calls between them cost
  floor    the bare program alone: pairs, groups, echoes, synced writes
  all      short versions of all but hostile, within three minutes
  issuer   write the key of a token issuer, and the configuration with which a server takes its tokens

bench SCENARIO -h lists the flags. Without -addr a server is built and started, with data that are removed afterwards.
Thresholds: -assert 'rate>=0.7*floor,cpu<=1.3*floor,w32:ack_p99<50ms,loss==0'; the metrics' names stand in -json.
Exit status: 1 the server failed or missed a threshold, 2 usage, 3 the load generator failed, 4 the environment did.
`

type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }

func (e *exit) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &exit{exitUsage, fmt.Errorf(format, args...)} }

func environment(err error) error { return &exit{exitEnvironment, err} }

// ranAsChild is the whole life of a process that was started as the floor, as the hostile clients or as onlookers,
// and reports whether this is one.
func ranAsChild() bool {
	if len(os.Args) > 1 && os.Args[1] == floor.ChildCommand {
		if err := floor.RunChild(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitEnvironment)
		}
		return true
	}
	if len(os.Args) > 1 && os.Args[1] == hostile.ChildCommand {
		if err := hostile.RunChild(os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitHarness)
		}
		return true
	}
	if len(os.Args) > 1 && os.Args[1] == load.OnlookersCommand {
		runtime.GOMAXPROCS(1)
		err := load.RunOnlookers(os.Stdin, os.Stdout, func(issuer, key string) (func(string) (string, error), error) {
			is, err := target.LoadIssuer(issuer, key)
			if err != nil {
				return nil, err
			}
			return is.Token, nil
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(exitHarness)
		}
		return true
	}
	return false
}

func main() {
	if ranAsChild() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(status(err))
}

// status is the exit code for an error.
func status(err error) int {
	var e *exit
	var failed *load.Failure
	var refused *load.Refused
	switch {
	case errors.As(err, &e):
		return e.code
	case errors.As(err, &failed):
		return exitProduct
	case errors.As(err, &refused):
		return exitEnvironment
	}
	return exitHarness
}

func run(ctx context.Context, args []string, out io.Writer) error {
	// One goroutine does the work; a second processor would only take time from the server.
	runtime.GOMAXPROCS(1)
	if len(args) == 0 {
		return usage("a scenario is missing\n%s", help)
	}
	name, args := args[0], args[1:]
	switch name {
	case "pairs":
		return pairs(ctx, args, out)
	case "idle":
		return idle(ctx, args, out)
	case "group":
		return group(ctx, args, out)
	case "hot":
		return hot(ctx, args, out)
	case "slow":
		return slow(ctx, args, out)
	case "history":
		return history(ctx, args, out)
	case "churn":
		return churn(ctx, args, out)
	case "restart":
		return restart(ctx, args, out)
	case "crowd":
		return crowd(ctx, args, out)
	case "room":
		return room(ctx, args, out)
	case "scale":
		return scale(ctx, args, out)
	case "rpc":
		return rpc(ctx, args, out)
	case "hostile":
		return underAttack(ctx, args, out)
	case "floor":
		return bare(ctx, args, out)
	case "all":
		return all(ctx, args, out)
	case "issuer":
		return issuer(args, out)
	case "help", "-h", "-help", "--help":
		_, err := io.WriteString(out, help)
		return err
	}
	return usage("no scenario %q\n%s", name, help)
}

// common is what every scenario's command line has.
type common struct {
	*flag.FlagSet
	json   string
	assert string
	cpus   string
	out    io.Writer // for people

	thresholds []report.Threshold
	report     *report.Report
}

func newCommon(name string, out io.Writer) *common {
	c := &common{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), out: out, report: report.New()}
	c.SetOutput(out)
	c.StringVar(&c.json, "json", "", "write the report as JSON to this file; -: to standard output, and nothing else there")
	c.StringVar(&c.assert, "assert", "", "thresholds, separated by commas: [run:]metric<=number, or number*metric, or number*floor")
	c.StringVar(&c.cpus, "cpus", "", "run on these CPUs only, server and load generator alike, such as 0,1 (more than two change the figures' meaning)")
	return c
}

// parse returns done for -h.
func (c *common) parse(args []string) (done bool, err error) {
	switch err := c.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return true, nil
	case err != nil:
		return true, &exit{exitUsage, err}
	case c.NArg() > 0:
		return true, usage("unexpected %q", c.Arg(0))
	}
	if c.thresholds, err = report.ParseThresholds(c.assert); err != nil {
		return true, &exit{exitUsage, err}
	}
	if c.cpus != "" {
		if err := pinTo(c.cpus); err != nil {
			return true, err
		}
	}
	if c.json == "-" {
		c.out = io.Discard
	}
	return false, nil
}

// add finishes a run and tells it.
func (c *common) add(r *report.Run) {
	if len(c.report.Runs) == 0 {
		fmt.Fprintln(c.out, "machine   ", c.report.Machine)
	}
	r.Finish()
	c.report.Runs = append(c.report.Runs, r)
	r.WriteText(c.out)
}

// finish judges and writes the report.
func (c *common) finish() error {
	if err := c.report.Judge(c.thresholds); err != nil {
		return &exit{exitUsage, err}
	}
	failures := c.report.Failures(c.out)
	if err := c.writeJSON(); err != nil {
		return environment(err)
	}
	if len(failures) > 0 {
		err := errors.New("failed:")
		for _, f := range failures {
			err = fmt.Errorf("%w\n  %s", err, f)
		}
		return &exit{exitProduct, err}
	}
	return nil
}

func (c *common) writeJSON() error {
	switch c.json {
	case "":
		return nil
	case "-":
		return c.report.WriteJSON(os.Stdout)
	}
	f, err := os.Create(c.json)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := errors.Join(c.report.WriteJSON(f), f.Close()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}
