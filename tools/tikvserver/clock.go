package main

import (
	"context"
	"math"
	"sync/atomic"

	"github.com/pingcap/tidb/pkg/store/mockstore/unistore/pd"
)

// clock gives commits their timestamps as TiKV does: the one after the latest that anybody read at here, and none of
// PD's. The engine asks its PD client instead, on a stream of its own each time, and that with the region shut to readers.
type clock struct {
	pd.Client
	latest atomic.Uint64
}

// newClock begins with a timestamp of PD's, later than all that was read before the server started.
func newClock(ctx context.Context, client pd.Client) (*clock, error) {
	physical, logical, err := client.GetTS(ctx)
	if err != nil {
		return nil, err
	}
	c := &clock{Client: client}
	c.saw(uint64(physical)<<logicalBits + uint64(logical))
	return c, nil
}

const logicalBits = 18

// saw has commits from now on come after ts. A reader says so before it reads.
func (c *clock) saw(ts uint64) {
	if ts == math.MaxUint64 { // a read of whatever is the latest
		return
	}
	for {
		old := c.latest.Load()
		if ts <= old || c.latest.CompareAndSwap(old, ts) {
			return
		}
	}
}

func (c *clock) GetTS(context.Context) (physical, logical int64, err error) {
	ts := c.latest.Load() + 1
	return int64(ts >> logicalBits), int64(ts & (1<<logicalBits - 1)), nil
}
