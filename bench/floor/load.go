package floor

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
)

// Load says what is to be sent. All fields are needed, except as noted.
type Load struct {
	Conns   int     // connections; 2k and 2k+1 are a pair
	Senders int     // the first N connections send, to everybody (group); 0: the first of each pair
	Window  int     // messages under way a sender, at most 1024
	Rate    float64 // messages a second in all, at their time whatever the answers; 0: by Window
	Burst   int     // with Rate: messages that a sender sends at once; 0: 1
	Body    int     // bytes
	Warm    time.Duration
	Measure time.Duration
	Echo    bool          // echoes at depth 1 instead of messages
	RecvAck time.Duration // how often a recipient confirms; 0: whenever something came
	Shots   int           // for a group: single messages before the load, each when everybody has the one before
	Gap     time.Duration // between them
}

// Result is what one run of the floor showed.
type Result struct {
	Name      string            `json:"name"`
	Acked     float64           `json:"acked_per_s"` // echoes, for Echo
	Delivered float64           `json:"delivered_per_s"`
	Gaps      int64             `json:"gaps"`
	Shots     measure.Quantiles `json:"shots"` // from sending one message to the last connection's having it
	Ack       measure.Quantiles `json:"ack"`
	Delivery  measure.Quantiles `json:"delivery"`
	ServerCPU float64           `json:"server_cpu_us"` // a message (a frame, for Echo)
	ClientCPU float64           `json:"client_cpu_us"`
	PerCommit float64           `json:"messages_per_commit"`
}

// DeliveryCPU returns the server's CPU µs a delivery, the figure of large groups.
func (r *Result) DeliveryCPU() float64 {
	if r.Delivered == 0 {
		return 0
	}
	return r.ServerCPU * r.Acked / r.Delivered
}

// MaxWindow is the largest window.
const MaxWindow = 1024

// run is one run of the load; its connections share it.
type run struct {
	Load
	loop     *loop.Loop
	conns    []conn
	ready    int
	failed   error
	counting bool
	acks     int64
	dels     int64
	gaps     int64
	ack      *measure.Latency
	delivery *measure.Latency
	confirm  loop.Round
	plan     loop.Schedule // with Rate: of the bursts
	stopped  bool          // nothing more is sent
	underway int           // messages and echoes without an answer

	front    *verify.Front // of a group: what all have
	shots    *measure.Latency
	shooting bool
}

type conn struct {
	loop.Conn
	r      *run
	index  uint32
	sends  bool
	hello  bool // answered
	next   uint32
	last   uint64 // the last seq delivered
	told   uint64 // the last one confirmed
	sentAt []int64
}

// Run starts a bare program, loads it and returns what it showed.
func Run(ctx context.Context, name string, load Load) (*Result, error) {
	child, err := StartChild(load.Senders > 0)
	if err != nil {
		return nil, err
	}
	defer child.Stop()
	return load.run(ctx, name, child.Addr, child.PID, child.Counters)
}

func (load Load) run(ctx context.Context, name string, addr netip.AddrPort, pid int, counters func() (Counters, error)) (*Result, error) {
	if load.Window < 1 || load.Window > MaxWindow {
		return nil, fmt.Errorf("a window of %d: want 1 to %d", load.Window, MaxWindow)
	}
	if load.Shots > 0 && (load.Senders == 0 || load.Echo) {
		return nil, fmt.Errorf("shots are for groups")
	}
	if load.Rate > 0 && (load.Senders > 0 || load.Echo) {
		return nil, fmt.Errorf("a rate is for pairs")
	}
	if load.Body < 0 || load.Body > len(filler) {
		return nil, fmt.Errorf("bodies of %d bytes: want at most %d", load.Body, len(filler))
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	r := &run{Load: load, loop: lp, conns: make([]conn, load.Conns), ack: measure.NewLatency(), delivery: measure.NewLatency(), shots: measure.NewLatency()}
	if load.Senders > 0 && !load.Echo {
		// A message leaves the window with its ack: some may be far ahead of who reads last.
		r.front = verify.NewFront(load.Conns, 0, 1<<20)
	}
	r.confirm = loop.NewRound(lp.Now(), max(load.Conns, 1), max(load.RecvAck, 1))
	for i := range r.conns {
		c := &r.conns[i]
		c.r, c.index = r, uint32(i)
		c.sends = load.Senders == 0 && i%2 == 0 || i < load.Senders
		if c.sends {
			c.sentAt = make([]int64, ringSize(load.Window, load.Rate))
		}
		if err := lp.Dial(&c.Conn, c, addr, netip.Addr{}); err != nil {
			return nil, err
		}
	}
	deadline := lp.Now() + int64(30*time.Second)
	for r.ready < load.Conns {
		if err := r.poll(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		if lp.Now() > deadline {
			return nil, fmt.Errorf("floor: %d of %d connections stand after 30 s", r.ready, load.Conns)
		}
	}
	if err := r.shoot(ctx); err != nil {
		return nil, err
	}
	r.begin()
	if err := r.until(ctx, lp.Now()+int64(load.Warm)); err != nil {
		return nil, err
	}
	before, err := snapshot(pid, counters)
	if err != nil {
		return nil, err
	}
	r.counting = true
	start := lp.Now()
	if err := r.until(ctx, start+int64(load.Measure)); err != nil {
		return nil, err
	}
	r.counting = false
	seconds := float64(lp.Now()-start) / 1e9
	after, err := snapshot(pid, counters)
	if err != nil {
		return nil, err
	}
	r.stopped = true
	for end := lp.Now() + int64(10*time.Second); r.underway > 0 && lp.Now() < end; {
		if err := r.poll(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	n := float64(max(r.acks, 1))
	res := &Result{
		Name: name, Acked: float64(r.acks) / seconds, Delivered: float64(r.dels) / seconds, Gaps: r.gaps, Shots: r.shots.Quantiles(),
		Ack: r.ack.Quantiles(), Delivery: r.delivery.Quantiles(),
		ServerCPU: float64((after.server - before.server).Microseconds()) / n,
		ClientCPU: float64((after.client - before.client).Microseconds()) / n,
	}
	if k := after.Commits - before.Commits; k > 0 {
		res.PerCommit = float64(after.Messages-before.Messages) / float64(k)
	}
	return res, nil
}

func ringSize(window int, rate float64) int {
	n := 256
	if rate > 0 {
		n = 4096 // what may be under way when nothing waits for answers
	}
	for n < 4*window {
		n *= 2
	}
	return n
}

type state struct {
	Counters
	server, client time.Duration
}

func snapshot(pid int, counters func() (Counters, error)) (s state, err error) {
	if s.Counters, err = counters(); err != nil {
		return s, err
	}
	if s.server, err = measure.CPU(pid); err != nil {
		return s, err
	}
	s.client = measure.OwnCPU()
	return s, nil
}

// begin lets the senders send.
func (r *run) begin() {
	if r.Rate > 0 {
		r.plan = loop.NewSchedule(r.loop.Now(), r.Rate/float64(max(r.Burst, 1)))
		return
	}
	for i := range r.conns {
		if c := &r.conns[i]; c.sends && !r.Echo {
			for range r.Window {
				c.send(r.loop.Now())
			}
			c.Flush()
		}
	}
}

func (r *run) until(ctx context.Context, end int64) error {
	for r.loop.Now() < end {
		wait := 100 * time.Millisecond
		if r.Rate > 0 {
			r.sendDue()
			wait = min(wait, r.plan.Wait(r.loop.Now()))
		}
		if err := r.poll(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) sendDue() {
	for {
		event, at, ok := r.plan.Due(r.loop.Now())
		if !ok {
			return
		}
		c := &r.conns[2*int(event%int64(len(r.conns)/2))]
		for range max(r.Burst, 1) {
			c.send(at)
		}
		c.Flush()
	}
}

func (r *run) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	if r.RecvAck > 0 {
		r.confirm.Turn(r.loop.Now(), func(i int) {
			if c := &r.conns[i]; c.told < c.last {
				c.recvAck()
				c.Flush()
			}
		})
	}
	return ctx.Err()
}

func (c *conn) recvAck() {
	c.told = c.last
	c.Out = binary.BigEndian.AppendUint32(c.Out, 1+8)
	c.Out = append(c.Out, frameRecvAck)
	c.Out = binary.BigEndian.AppendUint64(c.Out, c.last)
}

func (c *conn) Connected() {
	c.Out = binary.BigEndian.AppendUint32(c.Out, 1+4)
	c.Out = append(c.Out, frameHello)
	c.Out = binary.BigEndian.AppendUint32(c.Out, c.index)
	c.echo(0)
}

func (c *conn) Closed(err error) { c.r.failed = fmt.Errorf("floor: connection %d: %w", c.index, err) }

func (c *conn) echo(now int64) {
	c.Out = binary.BigEndian.AppendUint32(c.Out, uint32(1+8+c.r.Body))
	c.Out = append(c.Out, frameEcho)
	c.Out = binary.BigEndian.AppendUint64(c.Out, uint64(now))
	c.Out = append(c.Out, filler[:c.r.Body]...)
	c.r.underway++
}

var filler [64 << 10]byte

// send puts one message into Out.
func (c *conn) send(now int64) {
	c.Out = binary.BigEndian.AppendUint32(c.Out, uint32(1+4+8+16+c.r.Body))
	c.Out = append(c.Out, frameSend)
	c.Out = binary.BigEndian.AppendUint32(c.Out, c.next)
	c.Out = binary.BigEndian.AppendUint64(c.Out, uint64(now))
	c.Out = binary.BigEndian.AppendUint64(c.Out, uint64(c.index))
	c.Out = binary.BigEndian.AppendUint64(c.Out, uint64(c.next))
	c.Out = append(c.Out, filler[:c.r.Body]...)
	c.sentAt[int(c.next)&(len(c.sentAt)-1)] = now
	c.next++
	c.r.underway++
}

func (c *conn) Input(b []byte) int {
	r := c.r
	now := r.loop.Now()
	used := 0
	delivered := false
	for len(b)-used >= headerLen {
		n := 4 + int(binary.BigEndian.Uint32(b[used:]))
		if n < headerLen || len(b)-used < n {
			break
		}
		typ, body := b[used+4], b[used+headerLen:used+n]
		used += n
		switch typ {
		case frameAck:
			if r.counting {
				r.acks++
				r.ack.Record(now - c.sentAt[int(binary.BigEndian.Uint32(body))&(len(c.sentAt)-1)])
			}
			r.underway--
			if !r.stopped && r.Rate == 0 && !r.shooting {
				c.send(now)
			}
		case frameDeliver:
			c.deliver(body, now)
			delivered = true
		case frameEcho:
			c.echoed(body, now)
		}
	}
	if delivered && r.RecvAck == 0 {
		c.recvAck()
	}
	return used
}

// deliver counts the messages of one DELIVER and takes the time of the oldest of them.
func (c *conn) deliver(body []byte, now int64) {
	r := c.r
	first := binary.BigEndian.Uint64(body)
	count := binary.BigEndian.Uint32(body[8:])
	if c.last != 0 && first != c.last+1 {
		r.gaps++
	}
	last := first + uint64(count) - 1
	if r.front != nil {
		r.has(c.last, last, now)
	}
	c.last = last
	if !r.counting {
		return
	}
	r.dels += int64(count)
	r.delivery.Record(now - int64(binary.BigEndian.Uint64(body[16:])))
}

func (c *conn) echoed(body []byte, now int64) {
	r := c.r
	if !c.hello {
		c.hello = true
		r.ready++
		if r.Echo && c.sends {
			c.echo(now)
		}
		r.underway--
		return
	}
	if r.counting {
		r.acks++
		r.ack.Record(now - int64(binary.BigEndian.Uint64(body)))
	}
	r.underway--
	if !r.stopped {
		c.echo(now)
	}
}
