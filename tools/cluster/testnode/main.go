// Command testnode is a node of gochat on a store and a bus that a test's process serves over loopback (loopkv, loopbus), in the
// place of those that its configuration names. Everything else is as in gochat serve.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/bus/loopbus"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/config"
	"github.com/gochat-im/gochat/web"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "testnode:", err)
		os.Exit(1)
	}
}

// openTime is how long the store may take to answer.
const openTime = 10 * time.Second

func run() error {
	file := flag.String("config", "", "configuration (YAML)")
	store := flag.String("store", "", "address of the store")
	bus := flag.String("bus", "", "address of the bus")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	load := func() (node.Config, error) { return config.Load(*file, os.Environ(), nil) }
	cfg, err := load()
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return fmt.Errorf("log.level: %w", err)
	}
	in := node.Program{
		Version: "test", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), Level: level, Web: web.Files(), Load: load,
	}
	if cfg.Cluster.Stored() {
		opening, cancel := context.WithTimeout(ctx, openTime)
		defer cancel()
		s, err := loopkv.Open(opening, *store)
		if err != nil {
			return err
		}
		defer s.Close()
		in.Store, in.Bus = s, loopbus.New(*bus)
	}
	n, err := node.New(cfg, in)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}
