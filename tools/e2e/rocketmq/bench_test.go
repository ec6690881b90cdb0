//go:build e2e

package rocketmq

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/bustest"
)

// BenchmarkPublish is one event of about 200 bytes, published by itself and taken by the broker
// with a synchronous flush, while many others are.
func BenchmarkPublish(b *testing.B) {
	w := newWorld(b)
	p := w.open(b, nil)
	var n atomic.Uint64
	b.SetParallelism(256)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := conv(int(n.Add(1)))
		ev := bus.Event{Conversation: c, Epoch: bustest.Epoch(), FirstSeq: 1, LastSeq: 1, Messages: bustest.Messages(c, 1, 1, 160)}
		for pb.Next() {
			if err := p.Publish(context.Background(), []bus.Event{ev}); err != nil {
				b.Error(err)
				return
			}
			ev.FirstSeq, ev.LastSeq = ev.FirstSeq+1, ev.LastSeq+1
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
