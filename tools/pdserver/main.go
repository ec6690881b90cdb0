// PD registers patterns that the mux of Go 1.22 and later panics on.
//
//go:debug httpmuxgo121=1

// Pdserver runs the placement driver of TiKV: the real one, built from its published module, without its
// dashboard. It is what tests and a cluster on one machine use; in production run the pd-server
// of a TiKV release.
//
// It takes the flags of pd-server (client-urls, peer-urls, data-dir, name, initial-cluster, join, log-file…);
// without any it listens on loopback alone. Ready is when GET /pd/api/v1/health of a client
// URL answers 200. SIGTERM and SIGINT end it.
//
// Build it with CGO_ENABLED=0 and -tags without_dashboard.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/pingcap/log"
	"github.com/spf13/pflag"
	"github.com/tikv/pd/pkg/autoscaling"
	"github.com/tikv/pd/pkg/schedule/schedulers"
	"github.com/tikv/pd/pkg/utils/logutil"
	"github.com/tikv/pd/server"
	"github.com/tikv/pd/server/api"
	"github.com/tikv/pd/server/apiv2"
	"github.com/tikv/pd/server/config"
	"github.com/tikv/pd/server/join"

	// PD asks for its timestamp and scheduling APIs in its registry.
	_ "github.com/tikv/pd/pkg/mcs/resourcemanager/server/install"
	_ "github.com/tikv/pd/pkg/mcs/scheduling/server/install"
	_ "github.com/tikv/pd/pkg/mcs/tso/server/install"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "pdserver:", err)
		os.Exit(1)
	}
}

// flags are those that PD's configuration reads, by the names and defaults that it knows.
func flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("pdserver", pflag.ContinueOnError)
	for _, name := range []string{"version", "config-check", "force-new-cluster"} {
		f.Bool(name, false, "as in pd-server")
	}
	for _, name := range []string{
		"config", "name", "data-dir", "client-urls", "advertise-client-urls", "peer-urls", "advertise-peer-urls",
		"initial-cluster", "join", "metrics-addr", "log-file", "cacert", "cert", "key",
	} {
		f.String(name, "", "as in pd-server")
	}
	f.StringP("log-level", "L", "warn", "debug, info, warn, error, fatal")
	return f
}

// patrol is how often PD looks for regions that something is to be done for, unless configured: a hundred times
// a second, which is most of what it takes when nothing happens. Here they are few, on one store.
const patrol = 10 * time.Millisecond

func run(args []string) error {
	f := flags()
	if err := f.Parse(args); err != nil {
		return err
	}
	schedulers.Register()
	cfg := config.NewConfig()
	if err := cfg.Parse(f); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if cfg.Schedule.PatrolRegionInterval.Duration == patrol {
		cfg.Schedule.PatrolRegionInterval.Duration = time.Second
	}
	if err := logutil.SetupLogger(cfg.Log, &cfg.Logger, &cfg.LogProps, cfg.Security.RedactInfoLog); err != nil {
		return fmt.Errorf("logger: %w", err)
	}
	log.ReplaceGlobals(cfg.Logger, cfg.LogProps)
	defer log.Sync()
	if err := join.PrepareJoinCluster(cfg); err != nil {
		return fmt.Errorf("join cluster: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s, err := server.CreateServer(ctx, cfg, nil, api.NewHandler, apiv2.NewV2Handler, autoscaling.NewHandler)
	if err != nil {
		return fmt.Errorf("create server: %w", err)
	}
	if err := s.Run(); err != nil {
		return fmt.Errorf("run server: %w", err)
	}
	<-ctx.Done()
	s.Close()
	return nil
}
