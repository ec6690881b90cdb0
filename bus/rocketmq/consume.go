package rocketmq

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	rocket "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/consumer"
	"github.com/apache/rocketmq-client-go/v2/hooks"
	"github.com/apache/rocketmq-client-go/v2/primitive"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/packet"
)

const (
	atOnce      = 256 // packs of one topic in the hands of a group's goroutine
	pullPacks   = 32
	keptPacks   = 256 // pulled and not handled, a queue
	keptMiB     = 16  // of them
	startPause  = time.Second
	settle      = 50 * time.Millisecond
	readTimeout = 10 * time.Second

	// replayed is the property of packs that came out of the dead letters.
	replayed = "gochat-replayed"
)

// Subscribe runs h as a consumer of group until ctx ends, and returns nil then. While the
// brokers are away it tries to start again and again. It returns an error if the group has a
// subscriber in this process already. When it returns h is not being called.
func (b *Bus) Subscribe(ctx context.Context, group string, h bus.Handler) error {
	if !topicName.MatchString(group) {
		return fmt.Errorf("rocketmq: group %q", group)
	}
	b.mu.Lock()
	if b.groups[group] {
		b.mu.Unlock()
		return fmt.Errorf("rocketmq: group %q has a subscriber in this process", group)
	}
	b.groups[group] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.groups, group)
		b.mu.Unlock()
	}()
	log := b.log.With("group", group)
	for ctx.Err() == nil {
		s := newSubscription(b, group, h, log)
		c, err := s.start(ctx)
		if err == nil {
			s.run(ctx)
			s.end(c)
			return nil
		}
		if ctx.Err() != nil {
			return nil
		}
		log.Warn("a consumer could not be started, trying again", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(startPause):
		}
	}
	return nil
}

// subscription is a consumer from its start to its end.
type subscription struct {
	b     *Bus
	group string
	*funnel

	stopping atomic.Bool
	ended    chan struct{} // closed when the library has let go of all queues
}

func newSubscription(b *Bus, group string, h bus.Handler, log *slog.Logger) *subscription {
	s := &subscription{b: b, group: groupName(b.cfg.Topic, group), ended: make(chan struct{})}
	s.funnel = newFunnel(&b.cfg, h, log)
	if group == b.cfg.Watched {
		s.funnel.seen = s.report
	}
	return s
}

// report tells the publishers of marks that what they published came through.
func (s *subscription) report(marks []Mark) {
	s.b.Saw(marks)
	if s.b.cfg.Seen == nil {
		return
	}
	others := marks[:0]
	for _, m := range marks {
		if m.Publisher != s.b.cfg.Publisher {
			others = append(others, m)
		}
	}
	if len(others) > 0 {
		s.b.cfg.Seen(others)
	}
}

func (s *subscription) start(ctx context.Context) (rocket.PushConsumer, error) {
	cfg := &s.b.cfg
	if err := s.b.brokers.joinGroup(ctx, s.group, cfg.Topic); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	c, err := rocket.NewPushConsumer(
		consumer.WithNsResolver(s.b.brokers),
		consumer.WithGroupName(s.group),
		consumer.WithInstance(instance(cfg, s.group)),
		consumer.WithCredentials(credentials(cfg)),
		consumer.WithConsumerModel(consumer.Clustering),
		consumer.WithConsumeFromWhere(consumer.ConsumeFromLastOffset),
		consumer.WithConsumerOrder(false), // ordered consumers stall when queues move
		consumer.WithStrategy(s.allocate),
		consumer.WithMaxReconsumeTimes(int32(cfg.Tries)),
		consumer.WithConsumeMessageBatchMaxSize(1), // one pack fails, and comes again, by itself
		consumer.WithConsumeGoroutineNums(atOnce),
		consumer.WithPullInterval(cfg.Pace),
		consumer.WithPullBatchSize(pullPacks),
		consumer.WithPullThresholdForQueue(keptPacks),
		consumer.WithPullThresholdSizeForQueue(keptMiB),
		consumer.WithFilterMessageHook([]hooks.FilterMessageHook{s.pulled}),
	)
	if err != nil {
		return nil, err
	}
	if err := c.Subscribe(cfg.Topic, consumer.MessageSelector{}, s.consume); err != nil {
		return nil, err
	}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return c, nil
}

// end gives the queues back. Packs that weren't handled come again, to whoever gets them.
func (s *subscription) end(c rocket.PushConsumer) {
	// The library closes the channels that its pulling goroutines write to: no more of them
	// may come that far, and those that are there get some time.
	s.stopping.Store(true)
	time.Sleep(settle)
	if err := c.Shutdown(); err != nil {
		s.log.Warn("a consumer did not end as it should", "err", err)
	}
	close(s.ended)
}

// pulled is called with what was pulled before the library files it.
func (s *subscription) pulled(ctx *hooks.FilterMessageContext) ([]*primitive.MessageExt, error) {
	if s.stopping.Load() {
		<-s.ended
		return nil, nil
	}
	return ctx.Msg, nil
}

// allocate gives the queues of a topic to the consumers whose nodes are alive.
func (s *subscription) allocate(group, self string, all []*primitive.MessageQueue, clients []string) []*primitive.MessageQueue {
	if live := s.b.cfg.Live; live != nil {
		clients = living(clients, live())
	}
	return consumer.AllocateByAveragely(group, self, all, clients)
}

// consume takes one pack, in a goroutine of the library's, and says what became of it.
func (s *subscription) consume(ctx context.Context, messages ...*primitive.MessageExt) (consumer.ConsumeResult, error) {
	for _, m := range messages {
		u, err := s.unit(m)
		if err == nil {
			err = s.pass(u)
		}
		if err != nil {
			if s.stopping.Load() {
				<-s.ended // what is said now isn't heard, and the pack comes again
			} else {
				s.log.Warn("a pack is put back and comes again", "queue", m.Queue.String(), "offset", m.QueueOffset, "tries", m.ReconsumeTimes, "err", err)
			}
			if c, ok := primitive.GetConcurrentlyCtx(ctx); ok {
				c.DelayLevelWhenNextConsume = min(1+int(m.ReconsumeTimes), 18) // 1 s, 5 s, 10 s, 30 s, ..., 2 h
			}
			return consumer.ConsumeRetryLater, nil
		}
	}
	return consumer.ConsumeSuccess, nil
}

// unit makes a unit of a pack; what is late is read from the timeline.
func (s *subscription) unit(m *primitive.MessageExt) (*unit, error) {
	h, evs, err := parsePack(m.Body, nil)
	if err != nil {
		return nil, err
	}
	again := m.ReconsumeTimes > 0 || m.GetProperty(replayed) != ""
	late := again || time.Since(time.UnixMilli(m.StoreTimestamp)) > s.b.cfg.Late
	u := &unit{mark: h.Mark, echo: h.echo, offset: m.QueueOffset, done: make(chan error, 1)}
	if !again && !strings.HasPrefix(m.Queue.Topic, "%") {
		u.queue = *m.Queue
	}
	for i := range evs {
		if len(evs[i].Messages) > 0 && !late {
			u.evs = append(u.evs, evs[i])
			continue
		}
		if u.evs, err = s.read(u.evs, &evs[i]); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// read appends what the timeline has of ev.
func (s *subscription) read(dst []bus.Event, ev *bus.Event) ([]bus.Event, error) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	for from := ev.FirstSeq; from <= ev.LastSeq; {
		messages, last, err := s.b.cfg.Read(ctx, ev.Conversation, from, ev.LastSeq)
		if err != nil {
			return dst, fmt.Errorf("rocketmq: read %s from %d: %w", ev.Conversation, from, err)
		}
		if len(messages) > 0 {
			v, _, err := packet.NextMessage(messages)
			if err != nil {
				return dst, fmt.Errorf("rocketmq: message %d of %s: %w", from, ev.Conversation, err)
			}
			dst = append(dst, bus.Event{
				Conversation: ev.Conversation, Epoch: ev.Epoch, FirstSeq: v.Seq, LastSeq: last,
				Messages: messages, Origin: ev.Origin,
			})
		}
		if last < from {
			break
		}
		from = last + 1
	}
	return dst, nil
}
