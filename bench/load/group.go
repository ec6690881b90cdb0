package load

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Group is a load of one group: its first members send, all are online and receive.
type Group struct {
	Target  Target
	Members int           // each one connection of its own user
	Senders int           // how many of them send
	Body    int           // bytes of each message's content, at least 1
	Window  int           // messages under way a sender: not acked, or not with everybody who reads; without Rate
	Rate    float64       // messages a second in all, sent at their time whatever the answers; 0: by Window
	Burst   int           // with Rate: messages that one sender sends at once; 0: 1
	Shots   int           // single messages before the load, each when everybody has the one before
	Gap     time.Duration // between them
	RecvAck time.Duration // how often a member confirms with RECVACK; 0: whenever something came
	Warm    time.Duration
	Measure time.Duration // 0: shots alone

	Slow    int // the last members: they stop reading when the load begins, and read again when it has ended
	Trickle int // bytes a second that a slow one reads meanwhile; 0: none

	patience time.Duration // how long a member that is behind hears nothing before it asks; 0: silentFor
}

// GroupResult is what a load of one group showed.
type GroupResult struct {
	Members     int                `json:"members"`
	Senders     int                `json:"senders"`
	Slow        int                `json:"slow"`
	Making      float64            `json:"making_s"` // how long it took to bring all members in
	Shots       measure.Quantiles  `json:"shots"`    // from sending one message to the last member's having it
	ShotAcks    measure.Quantiles  `json:"shot_acks"`
	Seconds     float64            `json:"seconds"`
	Sent        float64            `json:"sent_per_s"`
	Acked       float64            `json:"acked_per_s"`
	Delivered   float64            `json:"delivered_per_s"` // copies that came by DELIVER
	Ack         measure.Quantiles  `json:"ack"`
	Delivery    measure.Quantiles  `json:"delivery"`               // to each member that reads; of the oldest message of a frame, counted for all of them
	Whole       measure.Quantiles  `json:"whole"`                  // until it was acked and everybody who reads had it
	Late        measure.Quantiles  `json:"late"`                   // with Rate: how late the load generator itself was
	ServerCPU   float64            `json:"server_cpu_us"`          // a message; 0: unknown
	DeliveryCPU float64            `json:"server_cpu_delivery_us"` // a copy
	ClientCPU   float64            `json:"client_cpu_delivery_us"` // a copy
	Processes   []ProcessUse       `json:"processes,omitempty"`    // of a cluster, for each copy
	RestRSS     int64              `json:"server_rss_rest_bytes"`  // when all had connected
	PeakRSS     int64              `json:"server_rss_bytes"`       // the most during the load
	PerCommit   float64            `json:"messages_per_commit"`
	TiKV        TiKV               `json:"tikv,omitzero"`
	Cut         int                `json:"cut"`      // slow connections that the server ended
	Waking      float64            `json:"waking_s"` // until all slow ones held everything
	WokenRSS    int64              `json:"rss_woken_bytes"`
	Refusals    map[string]int64   `json:"refusals,omitempty"` // by the code's name
	Verify      verify.GroupResult `json:"verify"`
	VerifySec   float64            `json:"verify_seconds"`
}

// silentFor is long enough for a server that is busy, not for one that has forgotten somebody.
const silentFor = 5 * time.Second

// times are the latencies of one phase, of messages sent within it.
type times struct {
	from, to             int64
	ack, delivery, whole *measure.Latency
}

func newTimes() times {
	return times{ack: measure.NewLatency(), delivery: measure.NewLatency(), whole: measure.NewLatency()}
}

type groupRun struct {
	Group
	loop    *loop.Loop
	dial    dialer
	heart   loop.Round
	confirm loop.Round // of RECVACKs
	stale   loop.Round // of members that are behind and hear nothing
	trickle loop.Round // of slow members that read a little
	members []member
	lanes   []groupLane
	salt    uint16
	ready   int
	limits  *wire.Limits
	failed  error
	wallMS  int64 // the server's clock at the loop's start, Unix ms
	silence time.Duration
	beating bool

	conv    id.ConversationID // zero until the group is made
	base    uint64            // the last seq before the first message
	bring   bringing
	book    *verify.Group
	front   *verify.Front // of those who read
	sends   []groupSend   // by seq, a ring
	highest uint64        // seq that an ack told
	under   uint64        // messages that were sent and haven't left the window
	cache   frames

	phase    phase
	plan     loop.Schedule
	shots    times
	load     times
	now      *times // where latencies go; nil: nowhere
	counting bool

	sent, acked, received int64 // while counting
	progress              int64 // any ack, copy or page, ever
	late                  *measure.Latency
	peak                  int64
	peakAt                int64 // when memory was looked at
	refused               uint64
	refusals              map[code.Code]int64
	readers, sleepers     verify.Copies
	holes                 uint64 // seqs that an answer left out
	head                  uint64 // as the last SYNCED told

	retries groupRetries
	awake   int // slow members that hold everything again
	cut     int
	walked  bool
}

// groupLane is one sender.
type groupLane struct {
	m        *member
	index    int
	template template
	sentAt   []int64 // when each number was (to be) sent; a ring
	waiting  []int64 // with Rate: due, while as many are under way as the server allows
	unacked  uint64
}

// groupSend is what is known of the message at one seq.
type groupSend struct {
	seq    uint64
	at     int64
	sender int
	acked  bool
}

type groupRetry struct {
	at int64
	do func()
}

// groupRetries are those that wait for their time.
type groupRetries []groupRetry

// due does what is due at now; what it does may add others.
func (l *groupRetries) due(now int64) {
	for i := 0; i < len(*l); {
		if t := (*l)[i]; t.at <= now {
			*l = append((*l)[:i], (*l)[i+1:]...)
			t.do()
			continue
		}
		i++
	}
}

// reach is how far members may be from each other, in messages.
const reach = 1 << 17

func (cfg *Group) check() error {
	switch {
	case cfg.Members < 2 || cfg.Members > verify.MaxPairs || cfg.Body < 1:
		return fmt.Errorf("%d members with bodies of %d bytes: want at least 2, and 1", cfg.Members, cfg.Body)
	case cfg.Senders < 1 || cfg.Slow < 0 || cfg.Senders+cfg.Slow > cfg.Members:
		return fmt.Errorf("%d senders and %d slow ones of %d members", cfg.Senders, cfg.Slow, cfg.Members)
	case cfg.Rate == 0 && cfg.Window < 1:
		return fmt.Errorf("a window of %d: want at least 1", cfg.Window)
	case cfg.Senders*max(cfg.Window, cfg.Burst) > reach/4:
		return fmt.Errorf("%d senders with %d messages under way: want at most %d in all", cfg.Senders, max(cfg.Window, cfg.Burst), reach/4)
	}
	return nil
}

// Run connects everybody, makes the group, loads it, waits for what is under way and
// verifies. The error is of the load generator or its environment, or the server's
// failure to go on; what the server did wrong otherwise is in the result.
func (cfg Group) Run(ctx context.Context) (*GroupResult, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	cfg.Burst = max(cfg.Burst, 1)
	if cfg.patience == 0 {
		cfg.patience = silentFor
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	defer loop.Pin()()
	r := &groupRun{
		Group: cfg, loop: lp, salt: uint16(rand.Uint32()), refusals: map[code.Code]int64{},
		shots: newTimes(), load: newTimes(), late: measure.NewLatency(), sends: make([]groupSend, reach),
	}
	res := &GroupResult{Members: cfg.Members, Senders: cfg.Senders, Slow: cfg.Slow}
	r.init()
	for _, step := range []func(context.Context, *GroupResult) error{r.connect, r.make, r.open, r.shoot, r.run, r.drain, r.wake, r.walk} {
		if err := step(ctx, res); err != nil {
			return nil, err
		}
	}
	r.report(res)
	return res, nil
}

func (r *groupRun) init() {
	r.dial = dialer{target: &r.Target, loop: r.loop, sources: sources((r.Members + perSource - 1) / perSource),
		narrow: func(i int) bool { return i >= r.Members-r.Slow }}
	r.members = make([]member, r.Members)
	r.lanes = make([]groupLane, r.Senders)
	names := make([]string, r.Senders)
	for i := range r.members {
		m := &r.members[i]
		m.session.user, m.r, m.index = r.Target.user(i+1), r, i
		m.copies = &r.readers
		if i < r.Senders {
			m.lane = &r.lanes[i]
			r.lanes[i] = groupLane{m: m, index: i, sentAt: make([]int64, ring(r.Window, r.Rate))}
			names[i] = m.user
		}
		if i >= r.Members-r.Slow {
			m.slow, m.copies = true, &r.sleepers
		}
	}
	r.book = verify.NewGroup(r.salt, r.Body, names)
}

// ring is the size of the memory of when each number was sent.
func ring(window int, rate float64) int {
	n := 256
	if rate > 0 {
		n = 2048
	}
	for n < 4*window {
		n *= 2
	}
	return n
}

func (r *groupRun) connect(ctx context.Context, _ *GroupResult) error {
	for seen, at := 0, r.loop.Now(); r.ready < r.Members; {
		err := r.dial.more(r.ready, r.Members, func(i int) (*session, loop.Handler) {
			m := &r.members[i]
			return &m.session, m
		})
		if err != nil {
			return err
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if r.ready != seen {
			seen, at = r.ready, r.loop.Now()
		}
		if r.loop.Now()-at > int64(stillness) {
			return failure("%d of %d connections are up, and no more come", r.ready, r.Members)
		}
	}
	if err := r.permitted(); err != nil {
		return err
	}
	now := r.loop.Now()
	r.heart = loop.NewRound(now, r.Members, r.silence/3)
	r.confirm = loop.NewRound(now, r.Members, max(r.RecvAck, 1))
	r.stale = loop.NewRound(now, r.Members, r.patience)
	r.trickle = loop.NewRound(now, max(r.Slow, 1), time.Second/4)
	r.beating = true
	return nil
}

// permitted compares what is to be sent with what the server's CONNACK allows.
func (r *groupRun) permitted() error {
	need := r.Window
	if r.Rate > 0 {
		need = r.Burst
	}
	return permitted(r.limits, r.Body, need, r.Rate/float64(r.Senders))
}

// open sends one message to everybody: whoever isn't reached then would spoil all that follows.
func (r *groupRun) open(ctx context.Context, _ *GroupResult) error {
	r.phase = opening
	r.front = verify.NewFront(r.Members-r.Slow, r.base, reach)
	r.book.Begin(r.base)
	r.highest = r.base
	for i := range r.members {
		r.members[i].begin(r.base)
	}
	r.lanes[0].send(r.loop.Now())
	r.lanes[0].m.Flush()
	return r.settle(ctx, func() error {
		behind := 0
		for i := range r.members {
			if m := &r.members[i]; m.got.Mark < r.highest {
				behind++
			}
		}
		return failure("the first message: %d of %d members haven't got it (%d acks)", behind, r.Members, 1-min(r.under, 1))
	})
}

// settle polls until everything that was sent has left the window, or nothing moves any more.
func (r *groupRun) settle(ctx context.Context, stuck func() error) error {
	for seen, at := r.progress, r.loop.Now(); r.under > 0; {
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if r.progress != seen {
			seen, at = r.progress, r.loop.Now()
		}
		if r.loop.Now()-at > int64(stillness) {
			return stuck()
		}
	}
	return nil
}

// shoot sends single messages, with the server quiet in between.
func (r *groupRun) shoot(ctx context.Context, res *GroupResult) error {
	if r.Shots == 0 {
		return nil
	}
	r.now, r.shots.from, r.shots.to = &r.shots, r.loop.Now(), math.MaxInt64
	for i := range r.Shots {
		if err := r.until(ctx, r.loop.Now()+int64(r.Gap)); err != nil {
			return err
		}
		r.lanes[0].send(r.loop.Now())
		r.lanes[0].m.Flush()
		if err := r.settle(ctx, func() error { return failure("message %d of %d hasn't reached everybody", i+1, r.Shots) }); err != nil {
			return err
		}
	}
	r.now = nil
	res.Shots, res.ShotAcks = r.shots.whole.Quantiles(), r.shots.ack.Quantiles()
	return nil
}

func (r *groupRun) report(res *GroupResult) {
	res.Ack, res.Delivery, res.Whole, res.Late = r.load.ack.Quantiles(), r.load.delivery.Quantiles(), r.load.whole.Quantiles(), r.late.Quantiles()
	for i := range r.members {
		m := &r.members[i]
		m.copies.Due += r.highest - r.base
		m.copies.Missing += r.highest - min(r.highest, m.got.Mark)
	}
	for c, n := range r.refusals {
		if res.Refusals == nil {
			res.Refusals = map[string]int64{}
		}
		res.Refusals[c.String()] = n
	}
	res.PeakRSS, res.Cut = r.peak, r.cut
	res.Verify = r.book.Result(max(r.head, r.highest), r.holes, r.refused, r.readers, r.sleepers)
}
