//go:build unix

package remote_test

import (
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"testing"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/services/remote"
	"github.com/gochat-im/gochat/services/rpc"
)

// counted lets its sender go on when all of a batch is answered.
type counted struct {
	mu   sync.Mutex
	left int
	done chan struct{}
}

func (c *counted) Acked(*packet.Pending, packet.Ack) { c.answered() }
func (c *counted) Refused(*packet.Pending, *code.Error) {
	c.answered()
}

func (c *counted) answered() {
	c.mu.Lock()
	c.left--
	last := c.left == 0
	c.mu.Unlock()
	if last {
		c.done <- struct{}{}
	}
}

func cpu() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e3
}

// What a message costs more because its owner is another node: CPU of both ends, in connections
// that each send a window of messages and wait for their acks. The services behind ack at once.
func BenchmarkSends(b *testing.B) {
	quiet := slog.New(slog.DiscardHandler)
	for _, window := range []int{1, 8, 32} {
		for _, where := range []string{"here", "elsewhere"} {
			b.Run(fmt.Sprintf("window=%d/%s", window, where), func(b *testing.B) {
				n := start(b, 1, func(c *rpc.Config) {
					c.Logger = quiet
					c.Logic.Conversations = nobodyWaits{}
				})
				v := newView(b, edgeNode)
				agree(b, []view{v, n.view}, n)
				cfg := remote.LogicConfig{Router: v.Router, Pool: pool(b, func(c *remote.PoolConfig) { c.Logger = quiet })}
				if where == "here" {
					cfg.Router, cfg.Local = n.Router, &remote.Local{Authenticator: n.services, Conversations: nobodyWaits{}, Signals: n.services}
				}
				l, err := remote.NewLogic(cfg)
				if err != nil {
					b.Fatal(err)
				}
				const lanes = 200
				per := b.N/(lanes*window) + 1
				before := cpu()
				b.ResetTimer()
				var all sync.WaitGroup
				for i := range lanes {
					all.Go(func() {
						o := &packet.Origin{User: "alice", Device: "phone", Conn: uint64(i + 1)}
						c := &counted{done: make(chan struct{}, 1)}
						batch := make([]packet.Pending, window)
						conv := id.NewGroup()
						for j := range batch {
							batch[j] = text(o, "bob", uint64(j+1), c)
							batch[j].ToUser, batch[j].Conversation = "", conv
						}
						for range per {
							c.left = window
							for j := range batch {
								batch[j].Reply = c
							}
							l.Send(batch)
							<-c.done
						}
					})
				}
				all.Wait()
				b.StopTimer()
				b.ReportMetric((cpu()-before)/float64(per*lanes*window), "cpu-µs/msg")
			})
		}
	}
}
