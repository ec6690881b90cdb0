// Command cluster runs a whole cluster on this machine, over loopback: PD, a server of TiKV's API, RocketMQ, etcd, and nodes of
// gochat in all roles. It builds and fetches what it needs the first time, into .cache.
//
//	go run ./tools/cluster up      # starts it, tells where to connect, and leaves it running
//	go run ./tools/cluster run     # the same, and ends it when it is interrupted
//	go run ./tools/cluster status  # which processes run
//	go run ./tools/cluster down    # ends what runs; what the cluster holds stays, and is used by the next up
//
// It is for trying and for tests: nothing of it survives the loss of this machine, and the server of TiKV's API is not TiKV.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/bench/target"
	"github.com/gochat-im/gochat/tools/cluster/local"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

const usage = `usage: cluster up|run|down|status [flags]; -help after one of them tells its flags`

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	fs := flag.NewFlagSet("cluster "+args[0], flag.ContinueOnError)
	switch args[0] {
	case "up", "run":
		return start(ctx, fs, args[0] == "up", args[1:], out)
	case "down", "status":
		dir := fs.String("dir", filepath.Join(".cache", "cluster"), "directory of the cluster")
		if err := fs.Parse(args[1:]); err != nil {
			return err
		}
		if args[0] == "status" {
			return status(*dir, out)
		}
		n, err := local.Down(ctx, *dir, out)
		if err == nil {
			fmt.Fprintf(out, "%d processes ended\n", n)
		}
		return err
	// What follows runs as processes of a cluster.
	case "etcd":
		return serveEtcd(ctx, fs, args[1:])
	case "store":
		return serveStore(ctx, fs, args[1:])
	case "bus":
		return serveBus(ctx, fs, args[1:])
	}
	return errors.New(usage)
}

// startTime is what a start may take, building and fetching included.
const startTime = 30 * time.Minute

func start(ctx context.Context, fs *flag.FlagSet, detach bool, args []string, out io.Writer) error {
	cfg := local.Config{Detach: detach, Out: out}
	fs.StringVar(&cfg.Dir, "dir", filepath.Join(".cache", "cluster"), "directory of the cluster: what it holds, configurations, logs")
	fs.StringVar(&cfg.Stores, "stores", local.StoresReal, "real: PD, the server of TiKV's API and RocketMQ; test: a store and a bus in memory, which need Go alone and forget everything when they end")
	fs.StringVar(&cfg.Binary, "gochat", "", "the gochat program; empty: it is built")
	fs.IntVar(&cfg.PDs, "pds", 1, "placement drivers")
	fs.IntVar(&cfg.Edges, "edges", 2, "edge nodes")
	fs.IntVar(&cfg.Logics, "logics", 3, "logic nodes")
	fs.IntVar(&cfg.Fanouts, "fanouts", 2, "fan-out nodes")
	fs.IntVar(&cfg.Workers, "workers", 1, "worker nodes")
	fs.IntVar(&cfg.TCP, "tcp", 7070, "port of edge-1 for the binary protocol, the others' being the next; 0: any that are free")
	fs.IntVar(&cfg.HTTP, "http", 8080, "port of edge-1 for HTTP, the others' being the next; 0: any that are free")
	bench := fs.Bool("bench", false, "raise the limits that benchmarks go beyond; their tokens are taken in any case")
	fs.BoolVar(&cfg.Sync, "sync", false, "each commit is on the disk before it is acknowledged")
	fs.Func("set", "a setting of all nodes, as GOCHAT_LIMITS__INFLIGHT=64; may be given several times", func(v string) error {
		if name, _, ok := strings.Cut(v, "="); !ok || !strings.HasPrefix(name, "GOCHAT_") {
			return errors.New("want GOCHAT_NAME=VALUE")
		}
		cfg.Set = append(cfg.Set, v)
		return nil
	})
	if err := fs.Parse(args); err != nil {
		return err
	}
	issuer, err := target.LocalIssuer(cfg.Dir)
	if err != nil {
		return err
	}
	cfg.More = issuer.Config()
	if *bench {
		for _, r := range target.Unlimited() {
			cfg.Set = append(cfg.Set, r.Env())
		}
	}
	began := time.Now()
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	c, err := local.Start(starting, cfg)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\nThe cluster is up after %s.\n", time.Since(began).Round(time.Second))
	invite(c, out)
	if detach {
		fmt.Fprintln(out, "It runs until: make cluster-down")
		c.Release()
		return nil
	}
	fmt.Fprintln(out, "It runs until this is interrupted.")
	<-ctx.Done()
	return c.Stop(context.WithoutCancel(ctx))
}

// invite tells where everything is and what to type next.
func invite(c *local.Cluster, out io.Writer) {
	fmt.Fprintf(out, "\n  etcd      %s\n", c.EtcdURL())
	edges := c.Nodes("edge")
	for _, e := range edges {
		fmt.Fprintf(out, "  %-8s  %s (binary protocol), http://%s (the web app, /docs, /healthz, /metrics)\n", e.Name, e.TCP, e.HTTP)
	}
	fmt.Fprintf(out, "  logs, configurations, data   %s\n", c.Dir())
	bin := c.Binary()
	if wd, err := os.Getwd(); err == nil {
		if rel, err := filepath.Rel(wd, bin); err == nil && !strings.HasPrefix(rel, "..") {
			bin = "./" + rel
		}
	}
	if len(edges) > 0 {
		a, b := edges[0], edges[len(edges)-1]
		fmt.Fprintf(out, "\nTalk to yourself across two edges, in two more terminals (each registers its user):\n\n"+
			"  %[1]s chat --profile alice --server %[2]s --http http://%[3]s\n  %[1]s chat --profile bob --server %[4]s --http http://%[5]s\n", bin, a.TCP, a.HTTP, b.TCP, b.HTTP)
	}
	fmt.Fprintf(out, "\nLook at it, and load it:\n\n  %[1]s cluster status --etcd %[2]s\n  %[1]s cluster ring --etcd %[2]s\n"+
		"  go run ./bench pairs -target %[3]s -rate 1000\n\n", bin, c.EtcdURL(), c.Dir())
}

func status(dir string, out io.Writer) error {
	all, err := local.Find(dir)
	if err != nil {
		return err
	}
	for _, p := range all {
		fmt.Fprintf(out, "%-10s %d\n", p.Name, p.PID)
	}
	fmt.Fprintf(out, "%d processes run\n", len(all))
	return nil
}
