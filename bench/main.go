package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"runtime"
	"time"

	"github.com/gochat-im/gochat/bench/floor"
	"github.com/gochat-im/gochat/bench/loop"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == floor.ChildCommand {
		if err := floor.RunChild(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(4)
		}
		return
	}
	runtime.GOMAXPROCS(1)
	loop.Pin()
	var l floor.Load
	var conns, senders, w int
	flag.IntVar(&conns, "conns", 1000, "")
	flag.IntVar(&senders, "senders", 0, "")
	flag.IntVar(&w, "w", 1, "")
	flag.Parse()
	l = floor.Load{Conns: conns, Senders: senders, Window: w, Body: 100, Warm: 2 * time.Second, Measure: 6 * time.Second}
	r, err := floor.Run(context.Background(), fmt.Sprint("w", w), l)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Printf("ours acks %.0f del %.0f gaps %d p50 %.1f p99 %.1f cli %.2f | srv %.2f us, %.0f/commit\n", r.Acked, r.Delivered, r.Gaps, r.Ack.P50, r.Ack.P99, r.ClientCPU, r.ServerCPU, r.PerCommit)
}
