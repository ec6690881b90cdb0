package rocketmq

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/apache/rocketmq-client-go/v2/rlog"
)

// bridgeLog makes l the log of the library, which has one for the whole process and begins
// with one of its own on the standard output.
func bridgeLog(l *slog.Logger) {
	rlog.SetLogger(&bridge{log: l.With("from", "rocketmq-client"), last: make(map[string]*repeats)})
}

// bridge writes the library's log to a slog.Logger. While a broker is away the library says
// the same for every queue every few seconds: of the same message one is written in repeatAfter.
type bridge struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[string]*repeats
}

type repeats struct {
	at    time.Time
	times int // since then
}

const repeatAfter = 10 * time.Second

// fields are what is taken over of a line: others may hold whole messages.
var fields = []string{
	rlog.LogKeyProducerGroup, rlog.LogKeyConsumerGroup, rlog.LogKeyTopic, rlog.LogKeyMessageQueue, rlog.LogKeyUnderlayError,
	rlog.LogKeyBroker, rlog.LogKeyValueChangedFrom, rlog.LogKeyValueChangedTo, rlog.LogKeyQueueId, rlog.LogKeyQueueOffset,
}

func (b *bridge) write(level slog.Level, msg string, from map[string]any) {
	if !b.log.Enabled(context.Background(), level) {
		return
	}
	b.mu.Lock()
	r := b.last[msg]
	now := time.Now()
	if r != nil && now.Sub(r.at) < repeatAfter {
		r.times++
		b.mu.Unlock()
		return
	}
	times := 0
	if r != nil {
		times = r.times
	}
	if len(b.last) > 1000 { // the library makes some messages of what they are about
		clear(b.last)
	}
	b.last[msg] = &repeats{at: now}
	b.mu.Unlock()
	var args []any
	for _, k := range fields {
		switch v := from[k].(type) {
		case nil:
		case string, int, int32, int64, uint64, bool:
			args = append(args, k, v)
		case error:
			args = append(args, k, v.Error())
		}
	}
	if times > 0 {
		args = append(args, "repeated", times)
	}
	b.log.Log(context.Background(), level, msg, args...)
}

func (b *bridge) Debug(string, map[string]any)         {} // written for every pull
func (b *bridge) Info(msg string, f map[string]any)    { b.write(slog.LevelDebug, msg, f) }
func (b *bridge) Warning(msg string, f map[string]any) { b.write(slog.LevelInfo, msg, f) }
func (b *bridge) Error(msg string, f map[string]any)   { b.write(slog.LevelWarn, msg, f) }
func (b *bridge) Fatal(msg string, f map[string]any)   { b.write(slog.LevelError, msg, f) }
func (b *bridge) Level(string)                         {}
func (b *bridge) OutputPath(string) error              { return nil }
