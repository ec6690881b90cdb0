package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/url"
	"time"

	"go.etcd.io/etcd/server/v3/embed"

	"github.com/gochat-im/gochat/bus/loopbus"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

// serveEtcd is an etcd of one member, until ctx ends.
func serveEtcd(ctx context.Context, fs *flag.FlagSet, args []string) error {
	addr := fs.String("addr", "", "where clients reach it, host:port of loopback")
	peers := fs.String("peers", "", "where its peers would")
	data := fs.String("data", "", "directory of what it holds")
	if err := fs.Parse(args); err != nil {
		return err
	}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel = *data, "warn"
	clients, others := []url.URL{{Scheme: "http", Host: *addr}}, []url.URL{{Scheme: "http", Host: *peers}}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls, cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = clients, clients, others, others
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.UnsafeNoFsync = true // it holds what nodes tell anew, and a busy disk must not take it away from them for half a minute
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "periodic", "1h"
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return fmt.Errorf("starting etcd: %w", err)
	}
	defer e.Close()
	select {
	case <-e.Server.ReadyNotify():
	case <-ctx.Done():
		return nil
	case <-time.After(time.Minute):
		return errors.New("etcd isn't ready after a minute")
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-e.Err():
		return fmt.Errorf("etcd: %w", err)
	}
}

// serveStore is a store in memory, until ctx ends. It has no stamps, as shared stores have none.
func serveStore(ctx context.Context, fs *flag.FlagSet, args []string) error {
	addr := fs.String("addr", "", "where nodes reach it, host:port of loopback")
	if err := fs.Parse(args); err != nil {
		return err
	}
	store := memory.New(memory.Config{NoStamps: true, Pause: func() {}})
	s, err := loopkv.Serve(store, *addr)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return errors.Join(s.Close(), store.Close())
}

// serveBus is a bus in memory, until ctx ends.
func serveBus(ctx context.Context, fs *flag.FlagSet, args []string) error {
	addr := fs.String("addr", "", "where nodes reach it, host:port of loopback")
	if err := fs.Parse(args); err != nil {
		return err
	}
	s, err := loopbus.Serve(*addr)
	if err != nil {
		return err
	}
	<-ctx.Done()
	return s.Close()
}
