package msgstore

import (
	"context"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore/kv/memory"
)

// A server that crashes right after every start gains a little time with each, not ten seconds.
func TestClockGainsLittleInACrashLoop(t *testing.T) {
	store := memory.New(memory.Config{})
	defer store.Close()
	wall := time.UnixMilli(1_800_000_000_000)
	last := int64(0)
	for i := range 8 {
		c, err := OpenClock(context.Background(), ClockConfig{Store: store, Wall: func() time.Time { return wall }})
		if err != nil {
			t.Fatal(err)
		}
		now := c.Now()
		if now < last {
			t.Fatalf("start %d: time ran back from %d to %d", i, last, now)
		}
		last = now
	}
	if ahead := time.Duration(last-wall.UnixMilli()) * time.Millisecond; ahead > clockAhead+7*clockAheadMore {
		t.Errorf("after 8 starts the clock is %s ahead", ahead)
	}
}
