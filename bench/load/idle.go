package load

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/protocol/frame"
)

// Idle is a load of connections that do nothing but stay: each of its own user, each
// with heartbeats at the shortest interval that the server grants.
type Idle struct {
	Target Target
	Conns  int
	Beats  int           // heartbeats of each connection before the memory is read
	Rest   time.Duration // after them, heartbeats going on
}

// IdleResult is what a load of idle connections showed.
type IdleResult struct {
	Conns      int            `json:"conns"`
	ConnectsPS float64        `json:"connects_per_s"`
	Sources    int            `json:"source_addresses"`
	Heartbeat  float64        `json:"heartbeat_s"` // silence that the server allows
	Pings      int64          `json:"pings"`
	Pongs      int64          `json:"pongs"`
	Fresh      measure.Memory `json:"fresh"`     // before the first connection
	Connected  measure.Memory `json:"connected"` // when all were up
	Held       measure.Memory `json:"held"`      // at the end
	PerConn    float64        `json:"bytes_per_conn"`
	ServerCPU  float64        `json:"server_cpu_us"`       // a heartbeat
	Processes  []ProcessUse   `json:"processes,omitempty"` // of a cluster, for each heartbeat
	Goroutines float64        `json:"goroutines"`          // 0: unknown
	Lost       int            `json:"lost"`                // connections that ended
}

// perSource is how many connections one source address opens: within the bursts that
// the server's shipped limits grant one address.
const perSource = 1800

// margin is how much earlier than the server demands a client is heard.
const margin = 2 * time.Second

type idleRun struct {
	Idle
	loop   *loop.Loop
	conns  []idleConn
	ready  int
	lost   int
	pings  int64
	pongs  int64
	beat   uint32 // seconds to ask for
	failed error
}

type idleConn struct {
	session
	r *idleRun
}

// Run opens the connections, keeps them and reads the server's memory.
func (cfg Idle) Run(ctx context.Context) (*IdleResult, error) {
	if cfg.Conns < 1 {
		return nil, fmt.Errorf("%d connections: want at least 1", cfg.Conns)
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	r := &idleRun{Idle: cfg, loop: lp, conns: make([]idleConn, cfg.Conns), beat: 1}
	res := &IdleResult{Conns: cfg.Conns}
	if res.Fresh, err = r.Target.memory(); err != nil {
		return nil, err
	}
	d := dialer{target: &r.Target, loop: lp, sources: sources((cfg.Conns + perSource - 1) / perSource)}
	res.Sources = len(d.sources)
	began := lp.Now()
	for seen, at := 0, began; r.ready < cfg.Conns; {
		// The first one learns the shortest heartbeat; the others ask for it.
		upTo := cfg.Conns
		if r.ready == 0 {
			upTo = 1
		}
		err := d.more(r.ready, upTo, func(i int) (*session, loop.Handler) {
			c := &r.conns[i]
			c.r, c.user = r, r.Target.user(i+1)
			return &c.session, c
		})
		if err != nil {
			return nil, err
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
		if r.ready != seen {
			seen, at = r.ready, lp.Now()
		}
		if lp.Now()-at > int64(stillness) {
			return nil, failure("%d of %d connections are up, and no more come", r.ready, cfg.Conns)
		}
	}
	res.ConnectsPS = float64(cfg.Conns) / (float64(lp.Now()-began) / 1e9)
	if res.Connected, err = r.Target.memory(); err != nil {
		return nil, err
	}
	if err := r.hold(ctx, res); err != nil {
		return nil, err
	}
	res.Pings, res.Pongs, res.Lost = r.pings, r.pongs, r.lost
	return res, nil
}

// hold keeps the connections for the heartbeats and the rest.
func (r *idleRun) hold(ctx context.Context, res *IdleResult) error {
	silence := time.Duration(r.beat) * time.Second
	res.Heartbeat = silence.Seconds()
	interval := max(silence-margin, silence/2)
	cpu, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	now := r.loop.Now()
	h := loop.NewRound(now, r.Conns, interval)
	end := now + int64(interval)*int64(r.Beats) + int64(r.Rest)
	for now < end {
		h.Turn(now, func(i int) {
			if c := &r.conns[i]; c.Alive() {
				c.Out = append(c.Out, ping...)
				c.Flush()
				c.Shrink()
				r.pings++
			}
		})
		if err := r.poll(ctx, time.Duration(min(h.Due()-now, end-now, int64(100*time.Millisecond)))); err != nil {
			return err
		}
		now = r.loop.Now()
	}
	after, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	res.ServerCPU = float64(between(cpu, after).Microseconds()) / float64(max(r.pings, 1))
	res.Processes = r.Target.use(cpu, after, float64(max(r.pings, 1)))
	if res.Held, err = r.Target.memory(); err != nil {
		return err
	}
	res.PerConn = float64(res.Held.RSS-res.Fresh.RSS) / float64(r.Conns)
	stats, err := r.Target.stats(ctx)
	res.Goroutines = stats.Goroutines
	return err
}

func (r *idleRun) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(max(wait, 0)); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	return ctx.Err()
}

// sources returns n loopback addresses other than the usual one.
func sources(n int) []netip.Addr {
	list := make([]netip.Addr, n)
	for i := range list {
		list[i] = netip.AddrFrom4([4]byte{127, 0, byte((i + 2) >> 8), byte(i + 2)})
	}
	return list
}

// Connected implements loop.Handler.
func (c *idleConn) Connected() {
	if err := c.connect(c.r.beat); err != nil {
		c.r.failed = blame(err)
	}
}

// Closed implements loop.Handler.
func (c *idleConn) Closed(err error) {
	c.r.lost++
	if !c.ready {
		c.r.failed = failure("the connection of %s ended before it stood: %w", c.user, err)
	}
}

// Input implements loop.Handler.
func (c *idleConn) Input(b []byte) int {
	r := c.r
	used := 0
	for {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.failed = failure("a frame to %s: %w", c.user, err)
			return len(b)
		}
		if n == 0 {
			return used
		}
		used += n
		switch f.Type {
		case frame.Pong:
			r.pongs++
		case frame.Connack:
			ack, err := c.connack(&f)
			if err != nil {
				r.failed = blame(err)
				return len(b)
			}
			if r.ready == 0 {
				r.beat = max(ack.HeartbeatSeconds, ack.HeartbeatMinSeconds)
			}
			r.ready++
			c.Shrink()
		case frame.Error, frame.Drain, frame.Kick:
			r.failed = blame(c.ended(&f))
		}
	}
}
