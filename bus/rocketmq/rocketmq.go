// Package rocketmq is the bus of a cluster: the port bus.Publisher and bus.Subscriber on
// one topic of RocketMQ.
//
// Events of a conversation go to one queue of the topic, picked by its slot. What is
// published while the last call for a queue is under way gathers into the next pack, so that
// a busy queue makes bigger packs and not more calls. Consumers are RocketMQ's concurrent
// ones; a group's packs pass through one goroutine, each queue's in order, so that events of
// a conversation come out of order only where RocketMQ repeats them. What comes late (again
// after an error, out of the dead letters, from before a long absence) is read from the
// timeline anew, so that what was recalled meanwhile doesn't surface.
//
// After a broker's death its consumers come back half a minute later than the publishers,
// and a frozen consumer keeps its queues for a while. So the publisher watches what comes
// through: packs ask, now and then, for a report of the consumer that handled them. Where the
// report doesn't come in time the queue isn't Alive, so that owners hand events over themselves,
// and what was published since the last report goes to Config.Overdue. It stays so until
// something that was published since has been seen.
package rocketmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	rocket "github.com/apache/rocketmq-client-go/v2"
	"github.com/apache/rocketmq-client-go/v2/primitive"
	"github.com/apache/rocketmq-client-go/v2/producer"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/protocol/id"
)

// Read returns stored messages of the range from..to in ascending order, as the repeated
// field, and up to where it answers: last, at least from, or from-1 if the conversation
// ends before from. What retention took is missing from messages.
type Read func(ctx context.Context, conv id.ConversationID, from, to uint64) (messages []byte, last uint64, err error)

// Config configures a Bus. Zero values of the numbers mean their defaults.
type Config struct {
	NameServers []string // host:port; at least one
	AccessKey   string   // and SecretKey: of RocketMQ's access control; none: it has none
	SecretKey   string

	Topic  string // default "gochat-events"; letters, digits, - and _
	Queues int    // of the topic on each broker, if it has to be created. Default 16.

	// Node names this process among the consumers of its groups: no other process has the
	// same name at the same time. Letters, digits, . - and _.
	Node string

	// Publisher names this process, and this start of it, in what it publishes. Not 0.
	Publisher uint64

	// Read reads what comes late, or was too big for a pack.
	Read Read

	// Live returns the names of the nodes that hold a lease; queues are given to these alone. A
	// change takes effect within 20 s. nil, or nobody of them known to the broker: all consumers count.
	Live func() []string

	// Watched is the group whose consumers report what comes through; none: nothing is
	// watched, and every queue is taken for alive.
	Watched string

	// Seen takes reports for other publishers, several at once: who has the publisher calls
	// Saw of its Bus. It is called from the group's goroutine and must not block; marks is the Bus's
	// again when it returns. May be nil.
	Seen func(marks []Mark)

	// Overdue is given events that were published and not seen coming through in time. It is called
	// from a goroutine of the Bus. May be nil.
	Overdue func(evs []bus.Event)

	Logger *slog.Logger // nil: nothing is logged. RocketMQ's own log is one a process: it goes to that of the Bus opened last.

	PackBytes   int           // of a pack, more or less. Default 256 KiB.
	MaxEvent    int           // messages of an event longer than this are read by the consumer. Default 1 MiB, at most 3 MiB.
	Batch       int           // events a call of a handler. Default 1,024.
	SendTimeout time.Duration // of one call of the broker; the library gives up after 3 s in any case. Default 3 s.
	InPlace     time.Duration // for so long events that fail are tried again before others: then they come again later. Default 5 s.
	Pace        time.Duration // between two requests for what stands in one queue, at least. Default 0: the next follows the last's answer at once.
	Tries       int           // that a pack comes again, until it is a dead letter. Default 16.
	Late        time.Duration // what is older when it comes is read from the timeline. Default 1 min.

	EchoEvery   time.Duration // reports are asked for this often at most. Default 400 ms.
	SeenWithin  time.Duration // a report takes so long at most. Default 1 s.
	UnseenBytes int           // of messages kept for Overdue, all queues together. Default 32 MiB.
}

var (
	topicName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)
	nodeName  = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)
)

// Validate fills in defaults and reports what is missing or out of bounds.
func (c *Config) Validate() error {
	orDefault(&c.Topic, "gochat-events")
	switch {
	case len(c.NameServers) == 0:
		return errors.New("rocketmq: no name servers")
	case (c.AccessKey == "") != (c.SecretKey == ""):
		return errors.New("rocketmq: an access key and its secret key come together")
	case !topicName.MatchString(c.Topic):
		return fmt.Errorf("rocketmq: topic %q", c.Topic)
	case !nodeName.MatchString(c.Node):
		return fmt.Errorf("rocketmq: node %q", c.Node)
	case c.Publisher == 0:
		return errors.New("rocketmq: no publisher")
	case c.Read == nil:
		return errors.New("rocketmq: read is needed")
	case c.Watched != "" && !topicName.MatchString(c.Watched):
		return fmt.Errorf("rocketmq: group %q", c.Watched)
	case c.MaxEvent > 3<<20:
		return fmt.Errorf("rocketmq: events of %d bytes are more than a broker takes", c.MaxEvent)
	case c.PackBytes > 1<<20:
		return fmt.Errorf("rocketmq: packs of %d bytes", c.PackBytes)
	}
	for _, s := range c.NameServers {
		if !strings.Contains(s, ":") {
			return fmt.Errorf("rocketmq: name server %q has no port", s)
		}
	}
	for _, n := range []int{c.Queues, c.PackBytes, c.MaxEvent, c.Batch, c.Tries, c.UnseenBytes} {
		if n < 0 {
			return fmt.Errorf("rocketmq: a limit of %d", n)
		}
	}
	for _, d := range []time.Duration{c.SendTimeout, c.InPlace, c.Late, c.EchoEvery, c.SeenWithin, c.Pace} {
		if d < 0 {
			return fmt.Errorf("rocketmq: a duration of %s", d)
		}
	}
	orDefault(&c.Queues, 16)
	orDefault(&c.PackBytes, 256<<10)
	orDefault(&c.MaxEvent, 1<<20)
	orDefault(&c.Batch, 1024)
	orDefault(&c.SendTimeout, 3*time.Second)
	orDefault(&c.InPlace, 5*time.Second)
	orDefault(&c.Tries, 16)
	orDefault(&c.Late, time.Minute)
	orDefault(&c.EchoEvery, 400*time.Millisecond)
	orDefault(&c.SeenWithin, time.Second)
	orDefault(&c.UnseenBytes, 32<<20)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

func orDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Bus is the bus on RocketMQ. It is safe for concurrent use. Its goroutines are one for each
// queue, one that watches what comes through, those of Subscribe and those of the library.
type Bus struct {
	cfg      Config
	log      *slog.Logger
	brokers  *remote
	producer rocket.Producer
	queues   []*queue // in the order that every publisher has them in
	breakers *breakers
	watch    *watch

	stop    context.CancelFunc
	stopped <-chan struct{} // closed when Close has been called
	wg      sync.WaitGroup

	mu     sync.Mutex
	groups map[string]bool // subscribed
}

var (
	_ bus.Publisher  = (*Bus)(nil)
	_ bus.Subscriber = (*Bus)(nil)
)

// Open connects to RocketMQ, creates the topic if it isn't there, and waits until it is
// known to the name servers, all until ctx ends. The Bus works until Close.
func Open(ctx context.Context, c Config) (*Bus, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	bridgeLog(c.Logger)
	b := &Bus{cfg: c, log: c.Logger, brokers: newRemote(&c), groups: make(map[string]bool)}
	route, err := b.brokers.ensureTopic(ctx, c.Topic, c.Queues)
	if err != nil {
		b.brokers.close()
		return nil, fmt.Errorf("rocketmq: topic %s: %w", c.Topic, err)
	}
	p, err := rocket.NewProducer(
		producer.WithNsResolver(b.brokers),
		producer.WithGroupName("gochat-publishers"),
		producer.WithInstanceName(instance(&c, "publisher")),
		producer.WithCredentials(credentials(&c)),
		producer.WithQueueSelector(producer.NewManualQueueSelector()),
		producer.WithRetry(0),                          // an error is undetermined: the caller decides
		producer.WithCompressMsgBodyOverHowmuch(1<<30), // messages are small and many: it costs more than it saves
	)
	if err == nil {
		err = p.Start()
	}
	if err != nil {
		b.brokers.close()
		return nil, fmt.Errorf("rocketmq: start of the producer: %w", err)
	}
	b.producer = p
	b.begin(route.queues(c.Topic))
	return b, nil
}

// begin starts what publishes to mqs.
func (b *Bus) begin(mqs []primitive.MessageQueue) {
	running, stop := context.WithCancel(context.Background())
	b.stop, b.stopped = stop, running.Done()
	b.breakers = newBreakers(b.log)
	b.watch = newWatch(&b.cfg, len(mqs))
	for i, mq := range mqs {
		q := &queue{b: b, number: uint32(i), mq: mq, breaker: b.breakers.of(mq.BrokerName), jobs: make(chan *job, queueJobs)}
		b.queues = append(b.queues, q)
		b.wg.Go(q.run)
	}
	if b.cfg.Watched != "" {
		b.wg.Go(b.runWatch)
	}
}

// Close ends publishing and waits for what is under way. Subscriptions end with their own
// contexts, before Close is called.
func (b *Bus) Close() error {
	b.stop()
	b.wg.Wait()
	err := b.producer.Shutdown()
	b.brokers.close()
	if err != nil {
		return fmt.Errorf("rocketmq: shutdown of the producer: %w", err)
	}
	return nil
}

// Enlist reports that this bus lies apart from the store.
func (b *Bus) Enlist(*kv.Tx, *bus.Event) bool { return false }

// Queues returns how many queues the topic has.
func (b *Bus) Queues() int { return len(b.queues) }

// Queue returns the queue that events of conv go to, below Queues.
func (b *Bus) Queue(conv id.ConversationID) int { return queueOf(conv.Slot(), len(b.queues)) }

// queueOf spreads slots over n queues: neighbouring slots, which one owner may have, over all of them.
func queueOf(slot id.Slot, n int) int { return int(uint32(slot)*2654435761>>16) % n }

// instance names a client of this process: unique, and beginning with the node's name.
func instance(c *Config, what string) string {
	return fmt.Sprintf("%s#%s-%x", c.Node, what, time.Now().UnixNano())
}

// nodeOf returns the node of a client's id as brokers have it: address@instance.
func nodeOf(client string) string {
	_, after, ok := strings.Cut(client, "@")
	if !ok {
		return ""
	}
	node, _, _ := strings.Cut(after, "#")
	return node
}

// living returns those of clients whose nodes are alive; all of them if that would be nobody.
func living(clients, nodes []string) []string {
	var some []string
	for _, c := range clients {
		if slices.Contains(nodes, nodeOf(c)) {
			some = append(some, c)
		}
	}
	if some == nil {
		return clients
	}
	return some
}

func credentials(c *Config) primitive.Credentials {
	return primitive.Credentials{AccessKey: c.AccessKey, SecretKey: c.SecretKey}
}
