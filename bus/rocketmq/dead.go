package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	rocket "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/protocol/id"
)

// LettersConfig says where the dead letters of a group lie. NameServers and Group must be set.
type LettersConfig struct {
	NameServers []string
	AccessKey   string
	SecretKey   string
	Topic       string // that the group consumes; default as in Config
	Group       string
	Logger      *slog.Logger // nil: nothing is logged
}

// Letters are the dead letters of one group: packs that it failed at as often as Config.Tries
// allows. The broker keeps them as long as anything (fileReservedTime, three days by default).
// Those that were replayed aren't listed again. It is used by one goroutine at a time.
type Letters struct {
	cfg      Config
	group    string
	brokers  *remote
	route    *route
	producer rocket.Producer // from the first replay on
}

// Letter is a dead letter.
type Letter struct {
	Broker string
	Queue  int
	Offset int64     // in that queue
	Died   time.Time // when it became one
	Events []bus.Event
	Bad    error // why the events can't be read, if they can't

	mq   primitive.MessageQueue
	body []byte
}

// lettersPage is how many are pulled at once.
const lettersPage = 32

// OpenLetters connects to the name servers. There are no dead letters of a group that nobody
// has ever consumed as: that is an error.
func OpenLetters(ctx context.Context, c LettersConfig) (*Letters, error) {
	cfg := Config{
		NameServers: c.NameServers, AccessKey: c.AccessKey, SecretKey: c.SecretKey, Topic: c.Topic, Logger: c.Logger,
		Node: "letters", Publisher: 1, Read: noRead,
	}
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if !topicName.MatchString(c.Group) {
		return nil, fmt.Errorf("rocketmq: group %q", c.Group)
	}
	bridgeLog(cfg.Logger)
	l := &Letters{cfg: cfg, group: groupName(cfg.Topic, c.Group), brokers: newRemote(&cfg)}
	var err error
	if l.route, err = l.brokers.route(ctx, deadTopic(l.group)); err != nil {
		l.brokers.close()
		if answered(err, ansTopicNotExist) {
			return nil, fmt.Errorf("rocketmq: there is no group %q", c.Group)
		}
		return nil, fmt.Errorf("rocketmq: dead letters of %s: %w", c.Group, err)
	}
	return l, nil
}

func noRead(context.Context, id.ConversationID, uint64, uint64) ([]byte, uint64, error) {
	return nil, 0, errors.ErrUnsupported
}

// Close ends the connections.
func (l *Letters) Close() error {
	var err error
	if l.producer != nil {
		err = l.producer.Shutdown()
	}
	l.brokers.close()
	return err
}

// replayedGroup is the group whose position says what of another one's dead letters was replayed.
func replayedGroup(group string) string { return group + "-replayed" }

// Each calls fn for the dead letters that were not replayed yet, oldest of each queue first,
// until it returns false or an error. Events' messages are those of the time when they were
// published, and not to be shown: they may have been recalled.
func (l *Letters) Each(ctx context.Context, fn func(Letter) (more bool, err error)) error {
	for _, mq := range l.route.queues(deadTopic(l.group)) {
		addr := l.route.master(mq.BrokerName)
		if addr == "" {
			return fmt.Errorf("rocketmq: dead letters of %s: broker %s has no master", l.group, mq.BrokerName)
		}
		more, err := l.each(ctx, addr, mq, fn)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (l *Letters) each(ctx context.Context, addr string, mq primitive.MessageQueue, fn func(Letter) (bool, error)) (bool, error) {
	offset, known, err := l.brokers.position(ctx, addr, replayedGroup(l.group), mq)
	if err != nil {
		return false, err
	}
	least, err := l.brokers.offset(ctx, addr, reqMinOffset, queueFields("", mq))
	if err != nil {
		return false, err
	}
	if offset = max(offset, least); !known {
		if err := l.brokers.setPosition(ctx, addr, replayedGroup(l.group), mq, offset); err != nil {
			return false, err
		}
	}
	for {
		messages, next, err := l.brokers.pull(ctx, addr, replayedGroup(l.group), mq, offset)
		if err != nil || len(messages) == 0 && next <= offset {
			return true, err
		}
		for _, m := range messages {
			letter := Letter{
				Broker: mq.BrokerName, Queue: mq.QueueId, Offset: m.QueueOffset, Died: time.UnixMilli(m.StoreTimestamp),
				mq: mq, body: m.Body,
			}
			_, letter.Events, letter.Bad = parsePack(m.Body, nil)
			if more, err := fn(letter); err != nil || !more {
				return false, err
			}
		}
		offset = next
	}
}

// DeadLetters counts the dead letters of a group that were not replayed, as Letters has them, without reading any. A group
// that nobody has ever consumed as has none.
func (b *Bus) DeadLetters(ctx context.Context, group string) (int64, error) {
	return b.brokers.deadLetters(ctx, groupName(b.cfg.Topic, group))
}

func (r *remote) deadLetters(ctx context.Context, group string) (int64, error) {
	rt, err := r.route(ctx, deadTopic(group))
	if answered(err, ansTopicNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("rocketmq: dead letters of %s: %w", group, err)
	}
	var all int64
	for _, mq := range rt.queues(deadTopic(group)) {
		addr := rt.master(mq.BrokerName)
		if addr == "" {
			return 0, fmt.Errorf("rocketmq: dead letters of %s: broker %s has no master", group, mq.BrokerName)
		}
		done, _, err := r.position(ctx, addr, replayedGroup(group), mq)
		if err != nil {
			return 0, err
		}
		least, err := r.offset(ctx, addr, reqMinOffset, queueFields("", mq))
		if err != nil {
			return 0, err
		}
		end, err := r.offset(ctx, addr, reqMaxOffset, queueFields("", mq))
		if err != nil {
			return 0, err
		}
		all += max(end-max(done, least), 0)
	}
	return all, nil
}

// pull returns messages of mq from offset on, and where to go on; none: there are none.
func (r *remote) pull(ctx context.Context, addr, group string, mq primitive.MessageQueue, offset int64) ([]*primitive.MessageExt, int64, error) {
	f := queueFields(group, mq)
	f["queueOffset"] = strconv.FormatInt(offset, 10)
	f["maxMsgNums"] = strconv.Itoa(lettersPage)
	f["sysFlag"] = "4" // with a subscription; doesn't wait for messages
	f["commitOffset"] = "0"
	f["suspendTimeoutMillis"] = "0"
	f["subscription"] = "*"
	f["subVersion"] = "0"
	f["expressionType"] = "TAG"
	ext, body, err := r.call(ctx, addr, reqPull, f, nil)
	switch {
	case err == nil:
		next, err := strconv.ParseInt(ext["nextBeginOffset"], 10, 64)
		if err != nil {
			return nil, 0, fmt.Errorf("rocketmq: next offset in an answer: %w", err)
		}
		return primitive.DecodeMessage(body), next, nil
	case answered(err, ansPullNotFound), answered(err, ansPullOffsetMoved):
		next, _ := strconv.ParseInt(ext["nextBeginOffset"], 10, 64)
		return nil, next, nil
	}
	return nil, 0, err
}

// Replay gives a dead letter that Each has shown to the group once more, with all its tries,
// and marks it, and those before it in its queue, as replayed. Its messages are read from the timeline
// as they are by then.
func (l *Letters) Replay(ctx context.Context, letter Letter) error {
	if l.producer == nil {
		p, err := rocket.NewProducer(
			producer.WithNsResolver(l.brokers),
			producer.WithGroupName("gochat-publishers"),
			producer.WithInstanceName(instance(&l.cfg, "replay")),
			producer.WithCredentials(credentials(&l.cfg)),
			producer.WithRetry(0),
			producer.WithCompressMsgBodyOverHowmuch(1<<30),
		)
		if err == nil {
			err = p.Start()
		}
		if err != nil {
			return fmt.Errorf("rocketmq: start of the producer: %w", err)
		}
		l.producer = p
	}
	// To the group's own retries: other groups have nothing to do with it.
	m := primitive.NewMessage(retryTopic(l.group), letter.body)
	m.WithProperty(primitive.PropertyRetryTopic, l.cfg.Topic)
	m.WithProperty(replayed, "1")
	res, err := l.producer.SendSync(ctx, m)
	if err == nil && res.Status != primitive.SendOK {
		err = fmt.Errorf("status %d", res.Status)
	}
	if err != nil {
		return fmt.Errorf("rocketmq: replay %d of queue %d on %s: %w", letter.Offset, letter.Queue, letter.Broker, err)
	}
	return l.brokers.setPosition(ctx, l.route.master(letter.Broker), replayedGroup(l.group), letter.mq, letter.Offset+1)
}
