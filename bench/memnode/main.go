// Command memnode is a GoChat server whose store is memory: its own, or that of another memnode over loopback. Benchmarks
// measure with it what nodes cost beside what they store, and run clusters where there is no TiKV.
// What it was told is gone when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/gochat-im/gochat/bus/loopbus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/node"
	"github.com/gochat-im/gochat/node/config"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "memnode:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	file := flag.String("config", "", "the server's configuration, as gochat serve takes it; none: serve a store and a bus alone")
	serveStore := flag.String("serve-store", "", "without -config: serve a store in memory to other memnodes at this address")
	serveBus := flag.String("serve-bus", "", "the same of a bus")
	store := flag.String("store", "", "the address of a served store; none: memory of this process")
	bus := flag.String("bus", "", "the address of a served bus; none: one in the store")
	counts := flag.String("counts", "", "serve counts of what is written to this process's memory at this address, as metrics")
	flag.Parse()
	mem := &counted{Store: memory.New(memory.Config{NoStamps: *serveStore != ""})}
	if *counts != "" {
		server := &http.Server{Addr: *counts, Handler: mem}
		defer server.Close()
		go func() {
			if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				fmt.Fprintln(os.Stderr, "memnode: -counts:", err)
			}
		}()
	}
	if *file == "" {
		return serve(ctx, mem, *serveStore, *serveBus)
	}
	cfg, err := config.Load(*file, os.Environ(), nil)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	in := node.Program{Version: "memnode", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})), Level: level}
	switch {
	case !cfg.Cluster.Stored():
	case *store == "":
		in.Store = mem
	default:
		remote, err := loopkv.Open(ctx, *store)
		if err != nil {
			return err
		}
		defer remote.Close()
		in.Store, in.Bus = remote, loopbus.New(*bus)
	}
	n, err := node.New(cfg, in)
	if err != nil {
		return err
	}
	return n.Run(ctx)
}

// serve serves a store and a bus until ctx ends.
func serve(ctx context.Context, store kv.Store, storeAddr, busAddr string) error {
	s, err := loopkv.Serve(store, storeAddr)
	if err != nil {
		return err
	}
	defer s.Close()
	b, err := loopbus.Serve(busAddr)
	if err != nil {
		return err
	}
	defer b.Close()
	<-ctx.Done()
	return nil
}

// counted counts what is committed to a store.
type counted struct {
	kv.Store
	transactions, rows, bytes atomic.Uint64
}

// Commit implements kv.Store.
func (c *counted) Commit(ctx context.Context, txs ...*kv.Tx) {
	c.Store.Commit(ctx, txs...)
	for _, tx := range txs {
		if tx.Err != nil {
			continue
		}
		c.transactions.Add(1)
		for _, op := range tx.Ops() {
			if op.Kind != kv.OpRequire {
				c.rows.Add(1)
				c.bytes.Add(uint64(len(op.Key) + len(op.Value)))
			}
		}
	}
}

// ServeHTTP writes the counts as metrics.
func (c *counted) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprintf(w, "memnode_transactions_total %d\nmemnode_rows_written_total %d\nmemnode_bytes_written_total %d\n", c.transactions.Load(), c.rows.Load(), c.bytes.Load())
}
