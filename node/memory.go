package node

import (
	"context"
	"runtime/debug"
	gometrics "runtime/metrics"
	"time"
)

// When the node allocates less than quietRate, and worthTrimming was allocated since the
// last time, what a busy time left behind is given back to the system; and once more a
// little later, when what clients and the store kept for a while is let go as well.
const (
	trimEvery     = 10 * time.Second
	quietRate     = 2 << 20 // bytes a second
	worthTrimming = 16 << 20
	settleTicks   = 3 // of trimEvery
)

// trimMemory gives memory back after busy times, until ctx ends. The runtime collects
// when the heap has doubled, and a heap that tens of thousands of sign-ins have doubled stays
// so while everybody is idle: each idle connection would seem to cost twice what it does.
func (n *Node) trimMemory(ctx context.Context) error {
	t := time.NewTicker(trimEvery)
	defer t.Stop()
	sample := []gometrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	var before, trimmed uint64
	settling := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		gometrics.Read(sample)
		now := sample[0].Value.Uint64()
		quiet := now-before < quietRate*uint64(trimEvery/time.Second)
		before = now
		switch {
		case !quiet:
			continue
		case now-trimmed > worthTrimming:
			settling = settleTicks
		case settling > 0:
			if settling--; settling > 0 {
				continue
			}
		default:
			continue
		}
		if n.storage != nil {
			if err := n.storage.Relax(ctx); err != nil {
				n.log.Warn("giving the store's memory back", "err", err)
			}
		}
		debug.FreeOSMemory()
		trimmed = now
	}
}
