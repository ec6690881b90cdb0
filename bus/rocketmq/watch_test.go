package rocketmq

import (
	"errors"
	"testing"
	"time"

	"github.com/gochat-im/gochat/bus"
)

// a watch of one queue, whose clock the test moves.
type watching struct {
	t *testing.T
	*watch
	at time.Time
}

func newWatching(t *testing.T, set func(c *Config)) *watching {
	c := valid()
	c.Watched = "fanout"
	if set != nil {
		set(&c)
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	w := &watching{t: t, watch: newWatch(&c, 1), at: time.Unix(1000, 0)}
	w.now = func() time.Time { return w.at }
	return w
}

func valid() Config {
	return Config{NameServers: []string{"127.0.0.1:1"}, Node: "n", Publisher: 9, Read: noRead}
}

// publish publishes an event, or a probe, and returns its pack's number and whether it asks.
func (w *watching) publish(seq uint64) (uint64, bool) {
	var evs []bus.Event
	if seq > 0 {
		evs = []bus.Event{{Conversation: somewhere, FirstSeq: seq, LastSeq: seq, Messages: make([]byte, 100)}}
	}
	h := w.publishing(0, evs)
	w.published(0, &h, nil)
	return h.Number, h.echo
}

func (w *watching) saw1(number uint64) { w.saw([]Mark{{Publisher: 9, Number: number}}) }

// flowing is a watch that has seen its queue come through.
func flowing(t *testing.T, set func(c *Config)) *watching {
	w := newWatching(t, set)
	n, echo := w.publish(0)
	if !echo {
		t.Fatal("a probe asks for nothing")
	}
	w.saw1(n)
	w.stands("after the first report", false, 0, 0)
	w.at = w.at.Add(time.Minute)
	return w
}

// stands checks whether the queue is direct, and what look finds.
func (w *watching) stands(what string, direct bool, overdue, probes int) {
	w.t.Helper()
	evs, _, probe, _ := w.look()
	if w.isDirect(0) != direct || len(evs) != overdue || len(probe) != probes {
		w.t.Errorf("%s: direct %v, %d overdue, %d probes; want %v, %d, %d", what, w.isDirect(0), len(evs), len(probe), direct, overdue, probes)
	}
	w.queues[0].probing = false
}

func TestStartsDirect(t *testing.T) {
	w := newWatching(t, nil)
	w.stands("at the start", true, 0, 1)
	if n, echo := w.publish(1); n != 1 || !echo {
		t.Errorf("pack %d, asks %v", n, echo)
	}
	w.stands("asked just now", true, 0, 0)
	w.at = w.at.Add(w.cfg.SeenWithin)
	w.stands("no answer", true, 0, 1)
	w.saw([]Mark{{Publisher: 8, Number: 1}, {Publisher: 9, Queue: 7, Number: 1}, {Publisher: 9, Number: 2}})
	w.stands("reports of others, of no queue, of no pack", true, 0, 0+1)
	w.saw1(1)
	w.stands("seen", false, 0, 0)
}

func TestFlow(t *testing.T) {
	w := flowing(t, nil)
	n1, echo := w.publish(1)
	if !echo {
		t.Error("the first after a while doesn't ask")
	}
	n2, echo := w.publish(2)
	if echo {
		t.Error("two ask at a time")
	}
	w.saw1(n1)
	w.at = w.at.Add(w.cfg.EchoEvery / 2)
	w.stands("the second waits for traffic to ask", false, 0, 0)
	w.at = w.at.Add(w.cfg.EchoEvery / 2)
	w.stands("there is none", false, 0, 1)
	p, _ := w.publish(0)
	w.saw1(p)
	if len(w.queues[0].unseen) != 0 || w.bytes != 0 {
		t.Errorf("%d packs of %d bytes are kept, %d was seen after %d", len(w.queues[0].unseen), w.bytes, p, n2)
	}
	if _, _, _, idle := w.look(); !idle {
		t.Error("it isn't idle though all was seen")
	}
}

// What isn't seen in time is handed over, once, and everything after it, until something
// that was published since is seen.
func TestOverdue(t *testing.T) {
	w := flowing(t, nil)
	n, _ := w.publish(1)
	w.publish(2)
	w.at = w.at.Add(w.cfg.SeenWithin - 1)
	w.stands("not yet", false, 0, 0)
	w.at = w.at.Add(1)
	w.stands("overdue", true, 2, 1)
	w.stands("once", true, 0, 1)
	w.saw1(n)
	w.stands("an old one came through", true, 0, 1)
	w.publish(3)
	if len(w.queues[0].unseen) != 0 {
		t.Error("what is handed over directly is kept")
	}
	n, echo := w.publish(4)
	if !echo {
		t.Error("a direct queue doesn't ask")
	}
	w.saw1(n)
	w.stands("a new one came through", false, 0, 0)
}

// An error is undetermined: the queue is direct, and what was under way goes past it too.
func TestPublishError(t *testing.T) {
	w := flowing(t, nil)
	w.publish(1)
	h := w.publishing(0, []bus.Event{{Conversation: somewhere, FirstSeq: 2, LastSeq: 2}})
	w.published(0, &h, errors.New("gone"))
	w.stands("failed", true, 2, 0)
	w.saw1(h.Number)
	w.stands("it was taken after all", true, 0, 0)
	n, _ := w.publish(3)
	w.saw1(n)
	w.stands("back", false, 0, 0)
}

func TestUnseenIsBounded(t *testing.T) {
	w := flowing(t, func(c *Config) { c.UnseenBytes = 250 })
	for seq := range uint64(10) {
		w.publish(seq + 1)
	}
	if w.bytes > 250 || len(w.queues[0].unseen) != 2 {
		t.Errorf("%d packs of %d bytes are kept", len(w.queues[0].unseen), w.bytes)
	}
	w.at = w.at.Add(w.cfg.SeenWithin)
	w.stands("overdue", true, 2, 1)
	if w.bytes != 0 {
		t.Errorf("%d bytes are kept", w.bytes)
	}
}

func TestUnwatched(t *testing.T) {
	w := newWatching(t, func(c *Config) { c.Watched = "" })
	if _, echo := w.publish(1); echo {
		t.Error("it asks for reports that nobody makes")
	}
	w.stands("unwatched", false, 0, 0)
}

// What Passed is asked about has passed with any pack that was published after it; where
// there is none, a probe is.
func TestPassed(t *testing.T) {
	w := flowing(t, nil)
	n1, _ := w.publish(1)
	ev := event{somewhere, 1, 1}
	if w.passed(0, ev) {
		t.Error("passed before anything was seen")
	}
	w.saw1(n1)
	if !w.passed(0, ev) {
		t.Error("not passed with its own pack")
	}
	w.publish(2) // asks for nothing: it follows another too closely
	w.forget(&w.queues[0], 1)
	if ev = (event{somewhere, 1, 2}); w.passed(0, ev) {
		t.Error("passed with an earlier pack")
	}
	w.at = w.at.Add(w.cfg.EchoEvery)
	w.stands("nothing asks", false, 0, 1)
	p, _ := w.publish(0)
	w.saw1(p)
	if !w.passed(0, ev) {
		t.Error("not passed with a probe behind it")
	}
	w = newWatching(t, func(c *Config) { c.Watched = "" })
	if !w.passed(0, ev) {
		t.Error("unwatched, nothing passes")
	}
}
