package main

import (
	"strings"
	"testing"

	"github.com/gochat-im/gochat/bench/target"
)

// TestAgainstClusters builds the real server, and the one that keeps everything in memory, and runs what is for clusters for a moment.
func TestAgainstClusters(t *testing.T) {
	dir := t.TempDir()
	path, err := target.Build(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	memnode, err := target.BuildMemory(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	binaries := func(args string) string { return args + " -memnode " + memnode + " -server" }

	r, text := bench(t, binaries("rpc -pairs 4 -w 2 -d 300ms -warm 50ms -rounds 2"), path, "-assert", "loss==0,rpc_cpu<=1M,alone_rate>0")
	if len(r.Runs) != 1 || len(r.Runs[0].Apart) != 2 || !strings.Contains(text, "(medians of 2 rounds)") {
		t.Fatalf("rpc: %+v\n%s", r, text)
	}
	for _, a := range r.Runs[0].Apart {
		if !a.Alone.Verify.Clean() || !a.Apart.Verify.Clean() || len(a.Alone.Processes) != 1 || len(a.Apart.Processes) != 2 || a.Apart.Processes[0].Name != "edge-1" || a.Apart.RSS == 0 {
			t.Errorf("rpc: %+v, %+v", a.Alone, a.Apart)
		}
	}

	// Nodes come and leave. How many slots that moves doesn't depend on how fast it goes, unless a machine is so slow that a lease lapses.
	r, text = bench(t, "scale -pairs 10 -rate 100 -warm 50ms -calm 200ms -tail 100ms -edges 1 -logics 2 -more 1 -server", path, "-assert", "errors==0,loss==0")
	if x := r.Runs[0].Scale[0]; len(x.Spans) != 5 || x.Acked == 0 || len(x.Grow.Steps) == 0 || len(x.Shrink.Steps) == 0 ||
		len(x.Grow.Steps) == 1 && (x.Grow.From != 2 || x.Grow.To != 3 || x.Grow.Off() > 10) || len(x.Shrink.Steps) == 1 && (x.Shrink.To != 2 || x.Shrink.Off() > 10) {
		t.Errorf("scale: %+v\n%s", x, text)
	}

	// Several share a store that another process serves.
	r, text = bench(t, binaries("pairs -pairs 4 -w 2 -d 300ms -warm 50ms -cluster edge*2,logic,fanout,worker"), path, "-assert", "loss==0")
	if p := r.Runs[0].Pairs[0]; !p.Verify.Clean() || len(p.Processes) != 6 || p.Processes[0].Name != "store" || p.Acked == 0 {
		t.Errorf("pairs: %+v\n%s", p, text)
	}

	r, text = bench(t, binaries("room -n 20 -writers 3 -rate 30 -for 500ms -warm 100ms -cluster edge*2,logic+fanout+worker"), path, "-assert", "declared_pct>=0")
	if x := r.Runs[0].Room[0]; !x.Book.Whole() || !x.Verify.Clean() || x.Book.Due == 0 || len(x.Processes) != 3 {
		t.Errorf("room: %+v\n%s", x.RoomResult, text)
	}

	r, text = bench(t, binaries("crowd -n 30 -each 8 -shots 2 -gap 10ms -cluster edge*2,logic+fanout+worker"), path, "-assert", "shot_max>0,corrupt==0")
	c := r.Runs[0].Crowd[0]
	if got := c.Copies.Delivered + c.Copies.Pulled; c.Members != 30 || c.Onlookers != 4 || c.Edges != 2 || c.Shots.Count != 2 || got != 3*29 || len(c.Processes) != 3 || c.Writes.Transactions == 0 {
		t.Errorf("crowd: %+v\n%s", c.CrowdResult, text)
	}
}
