//go:build e2e

package rocketmq

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
	"github.com/gochat-im/gochat/bus/bustest"
	"github.com/gochat-im/gochat/bus/rocketmq"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/services/timeline"
)

// Owners ask the bus itself who takes from its queues.
var _ timeline.Consumers = (*rocketmq.Bus)(nil)

func conv(n int) id.ConversationID {
	c := id.ConversationID{0: byte(id.KindGroup)}
	binary.BigEndian.PutUint32(c[10:], uint32(n))
	return c
}

// subscribe runs h until the returned function is called, at the latest when the test ends.
func subscribe(t *testing.T, b *rocketmq.Bus, group string, h bus.Handler) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := b.Subscribe(ctx, group, h); err != nil {
			t.Error(err)
		}
	}()
	end = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	t.Cleanup(end)
	return end
}

func eventually(t *testing.T, what string, within time.Duration, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s didn't happen within %s", what, within)
		}
	}
}

type name struct {
	conv  id.ConversationID
	first uint64
}

// ledger is what was published and how it arrived.
type ledger struct {
	mu     sync.Mutex
	said   map[name]time.Time // when publishing it was begun
	got    map[name]time.Time // when it arrived first, by the bus or past it
	came   map[name]bool      // by the bus
	direct int
	over   int
}

func newLedger() *ledger {
	return &ledger{said: make(map[name]time.Time), got: make(map[name]time.Time), came: make(map[name]bool)}
}

func (l *ledger) arrived(evs []bus.Event, byBus bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range evs {
		n := name{evs[i].Conversation, evs[i].FirstSeq}
		if _, ok := l.got[n]; !ok {
			l.got[n] = time.Now()
		}
		if byBus {
			l.came[n] = true
		}
	}
}

// missing returns how many events have not come by the bus.
func (l *ledger) missing() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.said) - len(l.came)
}

// A broker dies under publishing and comes back. What it had taken is not lost, what it
// may not have taken is published again, and nobody waits for its consumers: until they have been
// seen to be back, whoever publishes hands over directly.
func TestBrokerKilled(t *testing.T) {
	w := newWorld(t)
	l := newLedger()
	b := w.open(t, func(c *rocketmq.Config) {
		c.Watched = "fanout"
		c.SendTimeout = time.Second
		c.Overdue = func(evs []bus.Event) {
			l.arrived(evs, false)
			l.mu.Lock()
			l.over += len(evs)
			l.mu.Unlock()
		}
	})
	subscribe(t, b, "fanout", func(_ context.Context, evs []bus.Event) error {
		l.arrived(evs, true)
		return nil
	})
	if n := b.DirectQueues(); n != b.Queues() {
		t.Errorf("%d of %d queues are direct at the start: nothing was seen coming through yet", n, b.Queues())
	}
	// Without events probes tell.
	eventually(t, "all queues coming through", 60*time.Second, func() bool { return b.DirectQueues() == 0 })

	// An owner: one event after another, those that may not have been taken again later.
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	refused := 0
	wg.Go(func() {
		var marks []bus.Event
		for i := 0; ctx.Err() == nil || len(marks) > 0; i++ {
			var ev bus.Event
			if ctx.Err() == nil {
				ev = w.append(conv(i%20), 1, 100)
				l.mu.Lock()
				l.said[name{ev.Conversation, ev.FirstSeq}] = time.Now()
				l.mu.Unlock()
				marks = append(marks, ev)
			}
			bounded, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			err := b.Publish(bounded, marks)
			cancel()
			if err != nil {
				refused++
				if ev.FirstSeq != 0 {
					l.arrived([]bus.Event{ev}, false)
				}
			} else {
				for i := range marks {
					if !b.Alive(b.Queue(marks[i].Conversation)) {
						l.arrived(marks[i:i+1], false)
						l.mu.Lock()
						l.direct++
						l.mu.Unlock()
					}
				}
				marks = nil
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
	defer wg.Wait()
	defer cancel()

	eventually(t, "events coming by the bus", 30*time.Second, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.came) > 100
	})
	if n := b.DirectQueues(); n != 0 {
		t.Errorf("%d queues are direct though everything comes through", n)
	}
	t.Log("all queues come through; the broker is killed")
	killed := time.Now()
	cluster.KillBroker()
	eventually(t, "direct hand-over of all queues", 30*time.Second, func() bool { return b.DirectQueues() == b.Queues() })
	eventually(t, "an open breaker", 30*time.Second, func() bool {
		for _, state := range b.Breakers() {
			if state != "closed" {
				return true
			}
		}
		return false
	})
	start, cancelStart := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancelStart()
	if err := cluster.StartBroker(start); err != nil {
		t.Fatal(err)
	}
	up := time.Since(killed)
	eventually(t, "events coming through all queues again", 120*time.Second, func() bool { return b.DirectQueues() == 0 })
	through := time.Since(killed)
	cancel()
	wg.Wait()
	eventually(t, "everything coming by the bus", 60*time.Second, func() bool { return l.missing() == 0 })

	l.mu.Lock()
	defer l.mu.Unlock()
	var worst time.Duration
	for n, at := range l.said {
		worst = max(worst, l.got[n].Sub(at))
	}
	t.Logf("%d events; the broker was up again %s after the kill, its consumers %s after; %d calls refused, %d events handed over directly, %d overdue; the latest arrived after %s",
		len(l.said), up.Round(time.Millisecond), through.Round(time.Millisecond), refused, l.direct, l.over, worst.Round(time.Millisecond))
	if l.direct == 0 || refused == 0 {
		t.Error("nothing was handed over directly, or nothing refused: that was no test")
	}
}

// What a consumer fails at again and again becomes a dead letter, which the command lists
// and replays; what its messages are by then is what comes.
func TestDeadLetters(t *testing.T) {
	t.Parallel()
	gochat := filepath.Join(t.TempDir(), "gochat")
	if out, err := exec.Command("go", "build", "-o", gochat, "github.com/gochat-im/gochat/cmd/gochat").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	w := newWorld(t)
	b := w.open(t, func(c *rocketmq.Config) { c.Tries, c.InPlace = 1, time.Millisecond })
	var mu sync.Mutex
	mended := false
	good := 0
	var replayed []bus.Event
	subscribe(t, b, "fanout", func(_ context.Context, evs []bus.Event) error {
		mu.Lock()
		defer mu.Unlock()
		for i := range evs {
			switch {
			case evs[i].Conversation != conv(1):
				good++
			case !mended:
				return context.DeadlineExceeded
			default:
				ev := evs[i]
				ev.Messages = append([]byte(nil), ev.Messages...)
				replayed = append(replayed, ev)
			}
		}
		return nil
	})
	publish := func(n, size int) bus.Event {
		t.Helper()
		ev := w.append(conv(n), 1, size)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := b.Publish(ctx, []bus.Event{ev}); err != nil {
			t.Fatal(err)
		}
		return ev
	}
	eventually(t, "the group joining", 60*time.Second, func() bool {
		publish(2, 0)
		mu.Lock()
		defer mu.Unlock()
		return good > 0
	})
	publish(1, 500)

	dlq := func(what string) string {
		t.Helper()
		cmd := exec.Command(gochat, "bus", "dlq", what, "fanout", "--data", t.TempDir())
		cmd.Env = append(os.Environ(),
			"GOCHAT_CLUSTER__ROLES=edge", "GOCHAT_CLUSTER__NODE_ID=tool", "GOCHAT_CLUSTER__KEY_FILE=none", "GOCHAT_CLUSTER__SIGNING_KEYS=none",
			"GOCHAT_CLUSTER__RPC__LISTEN=127.0.0.1:1", "GOCHAT_CLUSTER__ETCD__ENDPOINTS=http://127.0.0.1:1",
			"GOCHAT_CLUSTER__BUS__KIND=rocketmq", "GOCHAT_CLUSTER__BUS__ROCKETMQ__TOPIC="+w.topic,
			"GOCHAT_CLUSTER__BUS__ROCKETMQ__NAME_SERVERS="+cluster.NameServer())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("dlq %s: %v\n%s", what, err, out)
		}
		return string(out)
	}
	line := conv(1).String() + " 1-1"
	eventually(t, "a dead letter", 60*time.Second, func() bool { return strings.Contains(dlq("list"), line) })
	if out := dlq("list"); !strings.Contains(out, "1 dead letters") || strings.Contains(out, "alice") {
		t.Errorf("a list of one letter, without what is in it, is\n%s", out)
	}

	// The message is changed before the letter is replayed.
	w.mu.Lock()
	changed := bustest.Messages(conv(1), 1, 1, 30)
	w.convs[conv(1)][0].messages = changed
	w.mu.Unlock()
	mu.Lock()
	mended = true
	mu.Unlock()
	if out := dlq("replay"); !strings.Contains(out, line) || !strings.Contains(out, "1 dead letters of fanout replayed") {
		t.Errorf("replaying says\n%s", out)
	}
	eventually(t, "the letter coming again", 60*time.Second, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(replayed) > 0
	})
	mu.Lock()
	defer mu.Unlock()
	if ev := replayed[0]; ev.FirstSeq != 1 || ev.LastSeq != 1 || string(ev.Messages) != string(changed) {
		t.Errorf("replayed: %d-%d of %d bytes, want what the timeline has by now", ev.FirstSeq, ev.LastSeq, len(ev.Messages))
	}
	if out := dlq("list"); strings.Contains(out, line) {
		t.Errorf("a replayed letter is listed again:\n%s", out)
	}
}

// Queues of a consumer whose node's lease has lapsed go to the others, though the broker
// takes it for alive; what it had in its hands comes to them.
func TestLapsedConsumer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	live := []string{"one", "two"}
	open := func(node string) *rocketmq.Bus {
		return w.open(t, func(c *rocketmq.Config) {
			c.Node = node
			c.Live = func() []string {
				mu.Lock()
				defer mu.Unlock()
				return live
			}
		})
	}
	frozen := make(chan struct{})
	var l [2]*ledger
	var stuck int
	buses := []*rocketmq.Bus{open("one"), open("two")}
	for i, b := range buses {
		l[i] = newLedger()
		subscribe(t, b, "fanout", func(ctx context.Context, evs []bus.Event) error {
			if i == 1 {
				select {
				case <-frozen:
					mu.Lock()
					stuck += len(evs)
					mu.Unlock()
					<-ctx.Done()
					return ctx.Err()
				default:
				}
			}
			l[i].arrived(evs, true)
			return nil
		})
	}
	came := func(i int) int {
		l[i].mu.Lock()
		defer l[i].mu.Unlock()
		return len(l[i].came)
	}
	var all []bus.Event
	publish := func() {
		t.Helper()
		evs := make([]bus.Event, 40)
		for c := range evs {
			evs[c] = w.append(conv(c), 1, 0)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := buses[0].Publish(ctx, evs); err != nil {
			t.Fatal(err)
		}
		all = append(all, evs...)
	}
	eventually(t, "both consuming", 60*time.Second, func() bool {
		publish()
		return came(0) > 0 && came(1) > 0
	})
	close(frozen)
	all = nil
	publish()
	eventually(t, "the second being stuck", 30*time.Second, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return stuck > 0
	})
	mu.Lock()
	live = []string{"one"}
	mu.Unlock()
	publish()
	eventually(t, "the first getting everything", 60*time.Second, func() bool {
		l[0].mu.Lock()
		defer l[0].mu.Unlock()
		for i := range all {
			if !l[0].came[name{all[i].Conversation, all[i].FirstSeq}] {
				return false
			}
		}
		return true
	})
}
