// Command rocketmq runs a RocketMQ name server and broker on loopback until it is
// interrupted: for trials of a cluster on one machine. It fetches them with Maven the first time.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/gochat-im/gochat/tools/rocketmq/local"
)

func main() {
	cache := flag.String("cache", ".cache", "where the fetched jars are kept")
	dir := flag.String("dir", ".cache/rocketmq", "data, configuration and logs")
	nameServer := flag.String("namesrv", "127.0.0.1:9876", "address of the name server")
	broker := flag.String("broker", "127.0.0.1:10911", "address of the broker; the two ports below it are used too")
	fetch := flag.Bool("fetch", false, "only fetch")
	flag.Parse()
	if err := run(*cache, *dir, *nameServer, *broker, *fetch); err != nil {
		fmt.Fprintln(os.Stderr, "rocketmq:", err)
		os.Exit(1)
	}
}

func run(cache, dir, nameServer, broker string, fetch bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cache, err := filepath.Abs(cache)
	if err != nil {
		return err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	lib, err := local.Fetch(ctx, cache, os.Stderr)
	if err != nil || fetch {
		return err
	}
	c, err := local.Start(ctx, local.Config{Dir: dir, Lib: lib, NameServer: nameServer, Broker: broker, Sync: true})
	if err != nil {
		return err
	}
	fmt.Printf("RocketMQ %s is up: name server %s, broker %s, data in %s\n", local.Version, nameServer, broker, dir)
	<-ctx.Done()
	c.Stop()
	return nil
}
