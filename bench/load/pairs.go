package load

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// Pairs is a load of one-to-one conversations: in each pair one user sends to the other.
type Pairs struct {
	Target  Target
	Pairs   int
	Body    int           // bytes of each message's content, at least 1
	Window  int           // messages under way a sender; without Rate
	Rate    float64       // messages a second in all, sent at their time whatever the answers; 0: by Window
	Burst   int           // with Rate: messages that a pair sends at once; 0: 1
	RecvAck time.Duration // how often a recipient confirms with RECVACK; 0: whenever something came
	Warm    time.Duration
	Measure time.Duration
	Begun   func() error // called when all connections stand and the load begins; may be nil

	// Meanwhile happens while it is measured, on a goroutine of its own: in the place of Measure, the load goes on until it has returned.
	Meanwhile func(context.Context, *Spans) error
}

// PairsResult is what a load of pairs showed.
type PairsResult struct {
	Seconds   float64           `json:"seconds"`
	Sent      float64           `json:"sent_per_s"`
	Acked     float64           `json:"acked_per_s"`
	Delivered float64           `json:"delivered_per_s"`
	Ack       measure.Quantiles `json:"ack"`
	Delivery  measure.Quantiles `json:"delivery"`
	Late      measure.Quantiles `json:"late"`          // with Rate: how late the load generator itself was
	Untimed   int64             `json:"untimed"`       // deliveries so late that their sending time was forgotten
	ServerCPU float64           `json:"server_cpu_us"` // a message; 0: unknown
	ClientCPU float64           `json:"client_cpu_us"`
	RSS       int64             `json:"server_rss_bytes"`    // at the end of the load
	Processes []ProcessUse      `json:"processes,omitempty"` // of a cluster, for each message
	PerCommit float64           `json:"messages_per_commit"`
	TiKV      TiKV              `json:"tikv,omitzero"`
	Hints     int64             `json:"hints"`
	Refusals  map[string]int64  `json:"refusals,omitempty"`      // by the code's name
	Again     int64             `json:"sync_refusals,omitempty"` // SYNCs that were refused for the moment, and asked again
	Spans     []Span            `json:"spans,omitempty"`         // of Meanwhile, in order
	Verify    verify.Result     `json:"verify"`
	VerifySec float64           `json:"verify_seconds"`
}

// Patience of the phases that have no fixed length. They end as soon as they are through.
const (
	openPatience = 60 * time.Second
	stillness    = 15 * time.Second // without any progress
)

type pairsRun struct {
	Pairs
	loop    *loop.Loop
	dial    dialer
	heart   loop.Round
	confirm loop.Round // of RECVACKs
	pairs   []pair
	salt    uint16
	ready   int
	limits  *wire.Limits
	failed  error
	wallMS  int64         // the server's clock at the loop's start, Unix ms
	silence time.Duration // that the server allows
	beating bool

	phase    phase
	plan     loop.Schedule // with Rate: of the bursts
	from, to int64         // latencies of messages sent in between are recorded

	counting              bool
	sent, acked, received int64 // while counting
	progress              int64 // any ack, delivery or page, ever
	untimed, hints, pulls int64
	again                 int64
	refusals              map[code.Code]int64
	spans                 *Spans // of Meanwhile; else nil
	ack, delivery, late   *measure.Latency

	retries []retry
	walked  int // pairs whose timeline is read
}

type phase uint8

const (
	connecting phase = iota
	making           // of a group
	opening          // the first messages, which make the conversations
	loading
	draining
	waking  // slow ones read again
	walking // reading the timelines back
)

// nap is how often a load at a fixed rate looks at its connections, at most. It counts as the server's time.
const nap = 500 * time.Microsecond

type retry struct {
	at int64
	p  *pair
}

// Run connects, loads, waits for what is under way and verifies. The error is of the
// load generator or its environment, or the server's failure to go on; what the
// server did wrong otherwise is in the result.
func (cfg Pairs) Run(ctx context.Context) (*PairsResult, error) {
	if cfg.Pairs < 1 || cfg.Pairs > verify.MaxPairs || cfg.Body < 1 {
		return nil, fmt.Errorf("%d pairs with bodies of %d bytes: want at least 1 each", cfg.Pairs, cfg.Body)
	}
	cfg.Burst = max(cfg.Burst, 1)
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	defer loop.Pin()()
	r := &pairsRun{
		Pairs: cfg, loop: lp, salt: uint16(rand.Uint32()), pairs: make([]pair, cfg.Pairs), refusals: map[code.Code]int64{},
		ack: measure.NewLatency(), delivery: measure.NewLatency(), late: measure.NewLatency(),
	}
	r.dial = dialer{target: &r.Target, loop: lp}
	for i := range r.pairs {
		r.pairs[i].init(r, i)
	}
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	res := &PairsResult{}
	if err := r.load(ctx, res); err != nil {
		return nil, err
	}
	if err := r.drain(ctx); err != nil {
		return nil, err
	}
	began := lp.Now()
	if err := r.walk(ctx); err != nil {
		return nil, err
	}
	res.VerifySec = float64(lp.Now()-began) / 1e9
	r.report(res)
	return res, nil
}

func (r *pairsRun) connect(ctx context.Context) error {
	n := 2 * len(r.pairs)
	deadline := r.loop.Now() + int64(openPatience)
	for r.ready < n {
		err := r.dial.more(r.ready, n, func(i int) (*session, loop.Handler) {
			c := &r.pairs[i/2].ends[i%2]
			return &c.session, c
		})
		if err != nil {
			return err
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if r.loop.Now() > deadline {
			return failure("%d of %d connections are up after %v", r.ready, n, openPatience)
		}
	}
	if err := r.permitted(); err != nil {
		return err
	}
	r.heart = loop.NewRound(r.loop.Now(), n, r.silence/3)
	r.confirm = loop.NewRound(r.loop.Now(), len(r.pairs), max(r.RecvAck, 1))
	r.beating = true
	return nil
}

// permitted compares what is to be sent with what the server's CONNACK allows.
func (r *pairsRun) permitted() error {
	need := r.Window
	if r.Rate > 0 {
		need = r.Burst
	}
	return permitted(r.limits, r.Body, need, r.Rate/float64(len(r.pairs)))
}

// open lets each pair exchange one message, which makes its conversation.
func (r *pairsRun) open(ctx context.Context) error {
	r.phase = opening
	began := r.loop.Now()
	for i := range r.pairs {
		p := &r.pairs[i]
		p.send(r.loop.Now())
		p.sender().Flush()
	}
	return r.settle(ctx, began+int64(openPatience), func() error {
		return failure("the first messages: %s", r.outstanding())
	})
}

// settle polls until everything sent is answered and everything acked is delivered, or nothing moves any more.
func (r *pairsRun) settle(ctx context.Context, deadline int64, stuck func() error) error {
	seen, at := r.progress, r.loop.Now()
	for !r.settled() {
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		now := r.loop.Now()
		if r.progress != seen {
			seen, at = r.progress, now
		}
		if now-at > int64(stillness) || now > deadline {
			return stuck()
		}
	}
	return nil
}

func (r *pairsRun) settled() bool {
	for i := range r.pairs {
		if p := &r.pairs[i]; p.outstanding() > 0 || p.book.Mark() < p.highest {
			return false
		}
	}
	return true
}

func (r *pairsRun) outstanding() string {
	var unacked, undelivered uint64
	for i := range r.pairs {
		p := &r.pairs[i]
		unacked += p.outstanding()
		undelivered += p.highest - min(p.highest, p.book.Mark())
	}
	return fmt.Sprintf("%d are not acked and %d acked ones not delivered, and nothing moves", unacked, undelivered)
}

// load runs the load and measures its second part.
func (r *pairsRun) load(ctx context.Context, res *PairsResult) error {
	if r.Begun != nil {
		if err := r.Begun(); err != nil {
			return err
		}
	}
	r.phase = loading
	now := r.loop.Now()
	if r.Rate > 0 {
		r.loop.Nap = nap
		r.plan = loop.NewSchedule(now, r.Rate/float64(r.Burst))
	} else {
		for i := range r.pairs {
			p := &r.pairs[i]
			for range r.Window {
				p.send(r.loop.Now())
			}
			p.sender().Flush()
		}
	}
	if err := r.until(ctx, now+int64(r.Warm)/2); err != nil {
		return err
	}
	// The load stands still while the metrics of all nodes are read, and what was due meanwhile is sent at once.
	// The rest of the warm-up is for that to be over.
	stats, err := r.Target.stats(ctx)
	if err != nil {
		return err
	}
	if err := r.until(ctx, r.loop.Now()+int64(r.Warm)/2); err != nil {
		return err
	}
	server, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	client := measure.OwnCPU()
	r.from = r.loop.Now()
	r.to = r.from + int64(r.Measure)
	r.counting = true
	if r.Meanwhile != nil {
		err = r.meanwhile(ctx)
	} else {
		err = r.until(ctx, r.to)
	}
	if err != nil {
		return err
	}
	r.counting = false
	elapsed := float64(r.loop.Now()-r.from) / 1e9
	serverEnd, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	clientEnd := measure.OwnCPU()
	// As before: what was sent in time is answered before the load stands still.
	if err := r.until(ctx, r.loop.Now()+int64(r.Warm)/2); err != nil {
		return err
	}
	statsEnd, err := r.Target.stats(ctx)
	if err != nil {
		return err
	}
	n := float64(max(r.acked, 1))
	res.Seconds = elapsed
	res.Sent, res.Acked, res.Delivered = float64(r.sent)/elapsed, float64(r.acked)/elapsed, float64(r.received)/elapsed
	res.ServerCPU = float64(between(server, serverEnd).Microseconds()) / n
	res.Processes = r.Target.use(server, serverEnd, n)
	res.ClientCPU = float64((clientEnd - client).Microseconds()) / n
	res.TiKV = statsEnd.TiKV.since(stats.TiKV)
	if commits := statsEnd.Commits - stats.Commits; commits > 0 {
		res.PerCommit = (statsEnd.Stored - stats.Stored) / commits
	}
	return nil
}

// meanwhile drives the load until what happens under it has happened.
func (r *pairsRun) meanwhile(ctx context.Context) error {
	r.spans = &Spans{clock: r.loop.Now, starts: []int64{r.from}, seen: []*spanSeen{newSpanSeen()}}
	r.to = math.MaxInt64
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.Meanwhile(ctx, r.spans) }()
	for {
		select {
		case err := <-ended:
			cancel()
			r.to = r.loop.Now()
			return err
		default:
		}
		if err := r.until(ctx, r.loop.Now()+int64(20*time.Millisecond)); err != nil {
			cancel()
			<-ended // it uses what is closed when this has returned
			return err
		}
	}
}

// drain stops sending and waits for the answers.
func (r *pairsRun) drain(ctx context.Context) error {
	r.phase = draining
	r.loop.Nap = 0
	for i := range r.pairs {
		r.pairs[i].waiting = nil // never sent
	}
	// What stays unanswered is in the verifier's result.
	err := r.settle(ctx, r.loop.Now()+int64(10*time.Minute), func() error { return nil })
	for i := range r.pairs {
		r.pairs[i].confirm()
	}
	return err
}

// until drives the load up to end.
func (r *pairsRun) until(ctx context.Context, end int64) error {
	for {
		now := r.loop.Now()
		if now >= end {
			return nil
		}
		wait := min(time.Duration(end-now), 100*time.Millisecond)
		if r.Rate > 0 && r.phase == loading {
			r.sendDue(now)
			wait = min(wait, r.plan.Wait(r.loop.Now()))
		}
		if err := r.poll(ctx, wait); err != nil {
			return err
		}
	}
}

// sendDue sends what is due. The time of each message is the one it was due at, so a
// stall counts for everything that should have been sent meanwhile.
func (r *pairsRun) sendDue(now int64) {
	for {
		event, at, ok := r.plan.Due(now)
		if !ok {
			return
		}
		if r.counting {
			r.late.Record(now - at)
		}
		p := &r.pairs[int(event%int64(len(r.pairs)))]
		for range r.Burst {
			p.sendDue(at)
		}
		p.sender().Flush()
		now = r.loop.Now()
	}
}

// poll handles what has arrived, and the timers.
func (r *pairsRun) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	now := r.loop.Now()
	if r.beating {
		r.heart.Turn(now, func(i int) {
			c := &r.pairs[i/2].ends[i%2]
			c.Out = append(c.Out, ping...)
			c.Flush()
		})
		if r.RecvAck > 0 {
			r.confirm.Turn(now, func(i int) { r.pairs[i].confirm() })
		}
	}
	for len(r.retries) > 0 && r.retries[0].at <= now {
		p := r.retries[0].p
		r.retries = r.retries[1:]
		p.ask()
	}
	return ctx.Err()
}

func (r *pairsRun) fail(err error) {
	if r.failed == nil {
		r.failed = blame(err)
	}
}

// millis is the server's time at now, Unix ms.
func (r *pairsRun) millis(now int64) int64 { return r.wallMS + now/int64(time.Millisecond) }

func (r *pairsRun) report(res *PairsResult) {
	res.Ack, res.Delivery, res.Late = r.ack.Quantiles(), r.delivery.Quantiles(), r.late.Quantiles()
	res.Untimed, res.Hints, res.Again = r.untimed, r.hints, r.again
	res.Spans = r.spans.results(r.to)
	for i := range r.pairs {
		p := &r.pairs[i]
		res.Verify.Add(&p.book, p.head)
		res.Verify.Unacked += p.outstanding()
	}
	res.Verify.Pulls = uint64(r.pulls)
	for c, n := range r.refusals {
		if res.Refusals == nil {
			res.Refusals = map[string]int64{}
		}
		res.Refusals[c.String()] = n
		res.Verify.Refused += uint64(n)
	}
	if m, err := r.Target.memory(); err == nil {
		res.RSS = m.RSS
	}
}

// conversation is what a pair's messages belong to.
func conversation(a, b string) id.ConversationID { return id.Direct(id.UserID(a), id.UserID(b)) }

// Spans parts a load in times that are told apart: calm ones, and in between those in which something changes. The first is calm.
// What changes something calls Turn; the rest is the load's.
type Spans struct {
	clock func() int64

	mu     sync.Mutex
	starts []int64
	seen   []*spanSeen
}

type spanSeen struct {
	ack, delivery *measure.Latency
	refused       int64
}

func newSpanSeen() *spanSeen {
	return &spanSeen{ack: measure.NewLatency(), delivery: measure.NewLatency()}
}

// Span is what was seen in one of them.
type Span struct {
	Seconds  float64           `json:"seconds"`
	Ack      measure.Quantiles `json:"ack"`
	Delivery measure.Quantiles `json:"delivery"`
	Refused  int64             `json:"refused"`
}

// Turn begins a change, or ends it.
func (s *Spans) Turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starts, s.seen = append(s.starts, s.clock()), append(s.seen, newSpanSeen())
}

func (s *Spans) acked(from, to int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(from, to).ack.Record(to - from)
}

func (s *Spans) delivered(from, to int64) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of(from, to).delivery.Record(to - from)
}

// of is where a message counts that was sent at from and had come through at to: for the first change that it saw anything of, else for the calm.
func (s *Spans) of(from, to int64) *spanSeen {
	first, _ := slices.BinarySearch(s.starts, from+1)
	first = max(first-1, 0)
	if first%2 == 0 && first+1 < len(s.starts) && s.starts[first+1] <= to {
		first++
	}
	return s.seen[first]
}

// refuse records a refusal that came now.
func (s *Spans) refuse() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[len(s.seen)-1].refused++
}

func (s *Spans) results(end int64) (all []Span) {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, from := range s.starts {
		to := end
		if i+1 < len(s.starts) {
			to = s.starts[i+1]
		}
		all = append(all, Span{Seconds: float64(to-from) / 1e9, Ack: s.seen[i].ack.Quantiles(), Delivery: s.seen[i].delivery.Quantiles(), Refused: s.seen[i].refused})
	}
	return all
}
