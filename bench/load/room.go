package load

import (
	"context"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Room is a load of one room: the first of those who are in it write, all others listen.
type Room struct {
	Target  Target
	Members int     // connections in the room, each of its own user
	Writers int     // how many of them write; what these receive isn't counted
	Rate    float64 // messages a second in all, sent at their time whatever the answers
	Body    int     // bytes of each message's content, at least 1
	Name    string  // of the room, which may be there
	Warm    time.Duration
	Measure time.Duration

	patience time.Duration // how long nothing may move before a step is given up; 0: stillness
}

// RoomResult is what a load of one room showed.
type RoomResult struct {
	Members   int                `json:"members"`
	Writers   int                `json:"writers"`
	Joining   float64            `json:"joining_s"` // until all were in the room
	Seconds   float64            `json:"seconds"`
	Sent      float64            `json:"sent_per_s"`
	Acked     float64            `json:"acked_per_s"`
	Delivered float64            `json:"delivered_per_s"` // copies: messages that came by DELIVER, to those who listen
	Frames    float64            `json:"frames_per_s"`    // that brought them
	Ack       measure.Quantiles  `json:"ack"`
	Delivery  measure.Quantiles  `json:"delivery"` // of every copy
	Late      measure.Quantiles  `json:"late"`     // how late the load generator itself was
	ServerCPU float64            `json:"server_cpu_copy_us"`
	ClientCPU float64            `json:"client_cpu_copy_us"`
	Cores     float64            `json:"server_cores"` // processors that the server took
	Processes []ProcessUse       `json:"processes,omitempty"`
	RSS       int64              `json:"server_rss_bytes"`
	Refusals  map[string]int64   `json:"refusals,omitempty"`
	Book      RoomBook           `json:"book"`
	Verify    verify.GroupResult `json:"verify"`
}

// RoomBook is what became of the copies, the load's first message to its last.
type RoomBook struct {
	Due       uint64 `json:"due"`       // messages times listeners
	Delivered uint64 `json:"delivered"` // came by DELIVER, once
	Declared  uint64 `json:"declared"`  // the server said, by DELIVER or in the room's news, that they were left out for everybody
	Skipped   uint64 `json:"skipped"`   // didn't come, and only the next seq tells so
	Silent    uint64 `json:"silent"`    // of the newest, nothing has come nor been said
	Repeats   uint64 `json:"repeats"`   // came again, or after a newer one
	Overtold  uint64 `json:"overtold"`  // said to be left out beyond what was
	Hints     uint64 `json:"hints"`     // that name the room: there must be none
	Others    uint64 `json:"others"`    // HINTs that don't: what else came for a user may be lost, a call on its way to an edge, say
}

// Whole reports whether for each listener what came and what was declared is what was sent.
func (b *RoomBook) Whole() bool {
	return b.Delivered+b.Declared == b.Due && b.Repeats == 0 && b.Overtold == 0 && b.Hints == 0
}

type roomRun struct {
	Room
	loop    *loop.Loop
	dial    dialer
	heart   loop.Round
	beating bool
	all     []roomer
	lanes   []roomLane
	book    *verify.Group
	salt    uint16
	ready   int // connected
	asked   int // in the room or asking
	inside  int
	limits  *wire.Limits
	wallMS  int64
	failed  error
	retries groupRetries

	conv    id.ConversationID
	base    uint64
	highest uint64 // seq that an ack told
	open    int    // SENDs without an answer
	moved   uint64 // anything that came, ever
	writing bool
	plan    loop.Schedule

	from, to       int64 // messages due within count for the figures
	ack, delivered *measure.Latency
	late           *measure.Latency
	copies, frames int64 // within
	sent, acked    int64
	refused        uint64
	refusals       map[code.Code]int64
	books          RoomBook
	cache          [256]roomFrame
	seed           maphash.Seed

	head   uint64
	walked bool
}

// roomer is one connection in the room.
type roomer struct {
	session
	r    *roomRun
	i    int
	lane *roomLane // nil: listens
	mark uint64    // the last seq that came or that was told of
	in   bool
}

type roomLane struct {
	index    int
	template template
	sentAt   [2048]int64
}

// roomFrame is what one DELIVER says. All get the same bytes, so each is read once, and then compared.
type roomFrame struct {
	body        []byte
	first, last uint64
	out         uint64
	at          []int64 // when each was due
}

// Run brings everybody into the room, loads it, waits for what is under way and adds up. The error is of the load generator or its
// environment, or the server's failure to go on; what it did wrong otherwise is in the result.
func (cfg Room) Run(ctx context.Context) (*RoomResult, error) {
	if cfg.Writers < 1 || cfg.Members <= cfg.Writers || cfg.Members > verify.MaxPairs || cfg.Body < 1 || cfg.Rate <= 0 || cfg.Name == "" {
		return nil, fmt.Errorf("a room %q of %d, %d of them writing %.1f messages a second of %d bytes: want a name, somebody who listens, somebody who writes, and something to say",
			cfg.Name, cfg.Members, cfg.Writers, cfg.Rate, cfg.Body)
	}
	if cfg.patience == 0 {
		cfg.patience = stillness
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	defer loop.Pin()()
	r := &roomRun{
		Room: cfg, loop: lp, salt: uint16(rand.Uint32()), refusals: map[code.Code]int64{}, seed: maphash.MakeSeed(),
		ack: measure.NewLatency(), delivered: measure.NewLatency(), late: measure.NewLatency(),
	}
	res := &RoomResult{Members: cfg.Members, Writers: cfg.Writers}
	r.init()
	for _, step := range []func(context.Context, *RoomResult) error{r.connect, r.enter, r.run, r.settle, r.walk} {
		if err := step(ctx, res); err != nil {
			return nil, err
		}
	}
	r.report(res)
	return res, nil
}

func (r *roomRun) init() {
	r.dial = dialer{target: &r.Target, loop: r.loop, sources: sources((r.Members + perSource - 1) / perSource)}
	r.all = make([]roomer, r.Members)
	r.lanes = make([]roomLane, r.Writers)
	names := make([]string, r.Writers)
	for i := range r.all {
		m := &r.all[i]
		m.user, m.r, m.i = r.Target.user(i+1), r, i
		if i < r.Writers {
			m.lane, names[i] = &r.lanes[i], m.user
			m.lane.index = i
		}
	}
	r.book = verify.NewGroup(r.salt, r.Body, names)
}

// waitFor polls until done, as long as something goes on.
func (r *roomRun) waitFor(ctx context.Context, step func() error, progress func() int, done func() bool) (finished bool, err error) {
	for seen, at := progress(), r.loop.Now(); !done(); {
		if err := step(); err != nil {
			return false, err
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return false, err
		}
		if n := progress(); n != seen {
			seen, at = n, r.loop.Now()
		}
		if r.loop.Now()-at > int64(r.patience) {
			return false, nil
		}
	}
	return true, nil
}

func nothingMore() error { return nil }

func (r *roomRun) connect(ctx context.Context, _ *RoomResult) error {
	ok, err := r.waitFor(ctx, func() error {
		return r.dial.more(r.ready, r.Members, func(i int) (*session, loop.Handler) { return &r.all[i].session, &r.all[i] })
	}, func() int { return r.ready }, func() bool { return r.ready == r.Members })
	if err == nil && !ok {
		err = failure("%d of %d connections are up, and no more come", r.ready, r.Members)
	}
	if err != nil {
		return err
	}
	return permitted(r.limits, r.Body, 1, r.Rate/float64(r.Writers))
}

// Request ids of the two requests.
const (
	roomCreate = 2
	roomJoin   = 3
)

// enteringAtOnce is how many may be asking to come in.
const enteringAtOnce = 500

// enter makes the room, and has everybody come in.
func (r *roomRun) enter(ctx context.Context, res *RoomResult) error {
	began := r.loop.Now()
	r.create()
	ok, err := r.waitFor(ctx, func() error {
		for !r.conv.IsZero() && r.asked < r.Members && r.asked-r.inside < enteringAtOnce {
			r.all[r.asked].join()
			r.asked++
		}
		return nil
	}, func() int { return r.inside }, func() bool { return r.inside == r.Members })
	if err == nil && !ok {
		err = failure("%d of %d are in the room, and no more come", r.inside, r.Members)
	}
	if err != nil {
		return err
	}
	res.Joining = float64(r.loop.Now()-began) / 1e9
	r.book.Begin(r.base)
	for i := range r.all {
		r.all[i].mark = r.base
	}
	for i := range r.lanes {
		t, err := newTemplate(r.Body, r.salt, i, func(m *wire.Send) { m.ConversationId = r.conv[:] })
		if err != nil {
			return err
		}
		r.lanes[i].template = t
	}
	return nil
}

func (r *roomRun) create() {
	m := &r.all[0]
	out, err := packet.AppendRequest(m.Out, roomCreate, packet.MethodRoomCreate, &wire.RoomCreateRequest{Name: r.Name})
	if err != nil {
		r.fail(fmt.Errorf("encode a request: %w", err))
		return
	}
	m.Out = out
	m.Flush()
}

func (m *roomer) join() {
	out, err := packet.AppendRequest(m.Out, roomJoin, packet.MethodRoomJoin, &wire.ConversationRequest{ConversationId: m.r.conv[:]})
	if err != nil {
		m.r.fail(fmt.Errorf("encode a request: %w", err))
		return
	}
	m.Out = out
	m.Flush()
}

// run writes, and measures the second part of it.
func (r *roomRun) run(ctx context.Context, res *RoomResult) error {
	r.writing = true
	r.plan = loop.NewSchedule(r.loop.Now(), r.Rate)
	if err := r.until(ctx, r.loop.Now()+int64(r.Warm)); err != nil {
		return err
	}
	server, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	client := measure.OwnCPU()
	r.from = r.loop.Now()
	r.to = r.from + int64(r.Measure)
	if err := r.until(ctx, r.to); err != nil {
		return err
	}
	r.writing = false
	res.Seconds = float64(r.loop.Now()-r.from) / 1e9
	serverEnd, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	n := float64(max(r.copies, 1))
	res.ClientCPU = float64((measure.OwnCPU() - client).Nanoseconds()) / 1e3 / n
	res.ServerCPU = float64(between(server, serverEnd).Nanoseconds()) / 1e3 / n
	res.Cores = between(server, serverEnd).Seconds() / res.Seconds
	res.Processes = r.Target.use(server, serverEnd, n)
	res.Sent, res.Acked = float64(r.sent)/res.Seconds, float64(r.acked)/res.Seconds
	res.Delivered, res.Frames = float64(r.copies)/res.Seconds, float64(r.frames)/res.Seconds
	res.RSS = r.Target.rss()
	return nil
}

// until drives the load up to end.
func (r *roomRun) until(ctx context.Context, end int64) error {
	for now := r.loop.Now(); now < end; now = r.loop.Now() {
		for {
			event, at, ok := r.plan.Due(now)
			if !ok {
				break
			}
			m := &r.all[event%int64(r.Writers)]
			number := r.book.Send(m.lane.index)
			m.lane.sentAt[number%uint64(len(m.lane.sentAt))] = at
			m.Out = m.lane.template.append(m.Out, uint32(number)|sendIDs, r.wallMS+at/int64(time.Millisecond), number)
			m.Flush()
			r.open++
			if r.within(at) {
				r.sent++
				r.late.Record(r.loop.Now() - at)
			}
		}
		if err := r.poll(ctx, min(time.Duration(end-now), r.plan.Wait(r.loop.Now()), 100*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}

// sendIDs sets the request ids of SENDs apart from the others'.
const sendIDs = 1 << 30

// within reports whether what was due at that time is measured.
func (r *roomRun) within(at int64) bool { return r.from > 0 && at >= r.from && at < r.to }

// settle waits until everything is acked, and everybody has it or knows that it was left out.
func (r *roomRun) settle(ctx context.Context, _ *RoomResult) error {
	_, err := r.waitFor(ctx, nothingMore, func() int { return int(r.moved) }, func() bool {
		if r.open > 0 {
			return false
		}
		for i := r.Writers; i < len(r.all); i++ {
			if r.all[i].mark < r.highest {
				return false
			}
		}
		return true
	})
	return err // who is behind still is in the books
}

// walk has the first one read the room's history back.
func (r *roomRun) walk(ctx context.Context, _ *RoomResult) error {
	r.sync()
	_, err := r.waitFor(ctx, nothingMore, func() int { return int(r.moved) }, func() bool { return r.walked })
	return err
}

func (r *roomRun) sync() {
	m := &r.all[0]
	out, err := packet.AppendBody(m.Out, frame.Sync, frame.FlagRequestID, syncIDs,
		&wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: r.conv[:], FromSeq: r.book.Walked() + 1}}})
	if err != nil {
		r.fail(fmt.Errorf("encode a SYNC: %w", err))
		return
	}
	m.Out = out
	m.Flush()
}

func (r *roomRun) report(res *RoomResult) {
	res.Ack, res.Delivery, res.Late = r.ack.Quantiles(), r.delivered.Quantiles(), r.late.Quantiles()
	b := &r.books
	for i := r.Writers; i < len(r.all); i++ {
		b.Due += r.highest - r.base
		b.Silent += r.highest - min(r.highest, r.all[i].mark)
	}
	for c, n := range r.refusals {
		if res.Refusals == nil {
			res.Refusals = map[string]int64{}
		}
		res.Refusals[c.String()] = n
	}
	res.Book = *b
	res.Verify = r.book.Result(max(r.head, r.highest), 0, r.refused, verify.Copies{}, verify.Copies{})
}

// poll handles what has arrived, and the timers.
func (r *roomRun) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	now := r.loop.Now()
	if r.beating {
		r.heart.Turn(now, func(i int) {
			if m := &r.all[i]; m.ready {
				m.Out = append(m.Out, ping...)
				m.Flush()
			}
		})
	}
	r.retries.due(now)
	if r.failed != nil {
		return r.failed
	}
	return ctx.Err()
}

func (r *roomRun) fail(err error) {
	if r.failed == nil {
		r.failed = blame(err)
	}
}
