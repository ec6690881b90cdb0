package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/verify"
)

// Restart is a load of pairs whose server is restarted under them, or sends them elsewhere and ends. Each client goes and
// comes back by itself, the way that SPEC.md asks for.
type Restart struct {
	Target  Target
	Clients int     // two for each pair
	Rate    float64 // messages a second in all, written whether there is a server or not
	Body    int
	Before  time.Duration // load before the restart
	After   time.Duration // load after everybody is back

	// Again ends the server and starts it once more; it runs on a goroutine of its own. It
	// returns how long the server took to end, and until it was ready again after that.
	Again func(context.Context) (down, up time.Duration, err error)
}

// RestartResult is what a restart showed.
type RestartResult struct {
	Clients    int              `json:"clients"`
	Sources    int              `json:"source_addresses"`
	Rate       float64          `json:"rate_per_s"`
	Ended      float64          `json:"ended_s"`    // from the signal to the process's end
	Started    float64          `json:"started_s"`  // from there until it was ready
	Lost       int              `json:"lost"`       // clients whose connection ended: all of them
	Back       int              `json:"back"`       // of them
	Back50     float64          `json:"back50_s"`   // after the signal, half of them were connected again
	Back99     float64          `json:"back99_s"`   //
	Back100    float64          `json:"back100_s"`  // 0: not all came back
	PerSecond  []int            `json:"per_second"` // that came back in each second after the signal
	Attempts   []int            `json:"attempts"`   // that were made in each second
	Drained    int64            `json:"drained"`    // clients that were told DRAIN
	Moved      int              `json:"moved"`      // clients that had a session elsewhere before their connection ended
	Replaced   int              `json:"replaced"`   // of them, heard so from the server that they left, before the other one's answer
	InTime     int              `json:"in_time"`    // of those that moved, had that session before the server had ended
	Missed     int64            `json:"missed"`     // attempts to move that failed
	Closed     int64            `json:"closed"`     // clients that the server closed, or lost, before they had left or moved
	Unresumed  int64            `json:"unresumed"`  // resume tokens that weren't taken
	Resent     int64            `json:"resent"`     // messages that were sent again
	Refusals   map[string]int64 `json:"refusals,omitempty"`
	AnswerTime float64          `json:"settled_s"` // after everybody was back and the writing stopped, until everything was acked and delivered
	Verify     verify.Result    `json:"verify"`
}

// MaxPerSecond is the largest number that came back within one second.
func (r *RestartResult) MaxPerSecond() int {
	if len(r.PerSecond) == 0 {
		return 0
	}
	return slices.Max(r.PerSecond)
}

type restartRun struct {
	Restart
	loop    *loop.Loop
	clients []returning
	waiting queue
	round   loop.Round
	heart   loop.Round
	salt    uint16
	epoch   uint64
	wallMS  int64
	silence time.Duration
	failed  error

	began, ended    int64 // when the server was told to end, and had; 0: not yet
	up, returned    int
	walked          int
	attempts        []int
	progress, pulls int64
	drained, resent int64
	unresumed       int64
	missed, closed  int64
	refusals        map[string]int64
	plan            loop.Schedule
	writing         bool
}

func (r *restartRun) fail(err error) {
	if r.failed == nil {
		r.failed = blame(err)
	}
}

func (r *restartRun) millis(now int64) int64 { return r.wallMS + now/int64(time.Millisecond) }

// attempt counts a connection that is begun.
func (r *restartRun) attempt(now int64) {
	if r.began == 0 {
		return
	}
	s := int((now - r.began) / int64(time.Second))
	for len(r.attempts) <= s {
		r.attempts = append(r.attempts, 0)
	}
	r.attempts[s]++
}

// perAddress is how many of the clients share an address: people come from many.
const perAddress = 200

// backPatience bounds how long everybody may take to come back.
const backPatience = 3 * time.Minute

// Run connects, loads, has the server restarted, waits for everybody, and verifies.
func (cfg Restart) Run(ctx context.Context) (*RestartResult, error) {
	if cfg.Clients < 2 || cfg.Clients%2 != 0 || cfg.Clients/2 > verify.MaxPairs || cfg.Body < 1 || cfg.Rate <= 0 {
		return nil, fmt.Errorf("%d clients, %v messages a second of %d bytes: want pairs of clients, and more than 0", cfg.Clients, cfg.Rate, cfg.Body)
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	r := &restartRun{Restart: cfg, loop: lp, clients: make([]returning, cfg.Clients), salt: uint16(rand.Uint32()), refusals: map[string]int64{}}
	list := sources((cfg.Clients + perAddress - 1) / perAddress)
	lines := make([]line, cfg.Clients)
	for i := range r.clients {
		c := &r.clients[i]
		c.line, lines[i] = &lines[i], line{session: session{user: r.Target.user(i + 1)}, c: c}
		c.r, c.index, c.source, c.addr = r, i, list[i%len(list)], r.Target.Addr
	}
	for i := range r.clients {
		c := &r.clients[i]
		c.peer = c.other().user
		c.conv = conversation(c.user, c.peer)
		if !c.sender() {
			c.book = verify.Ledger{Pair: i / 2, Salt: r.salt, Sender: c.peer, Body: r.Body}
		}
	}
	r.round = loop.NewRound(lp.Now(), len(r.clients), time.Second)
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	res := &RestartResult{Clients: cfg.Clients, Sources: len(list), Rate: cfg.Rate}
	r.plan, r.writing = loop.NewSchedule(lp.Now(), r.Rate), true
	if err := r.until(ctx, cfg.Before, func() bool { return false }); err != nil {
		return nil, err
	}
	if err := r.restart(ctx, res); err != nil {
		return nil, err
	}
	if err := r.until(ctx, cfg.After, func() bool { return false }); err != nil {
		return nil, err
	}
	r.writing = false
	began := lp.Now()
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	res.AnswerTime = float64(lp.Now()-began) / 1e9
	if err := r.walk(ctx); err != nil {
		return nil, err
	}
	r.report(res)
	return res, nil
}

func (r *restartRun) connect(ctx context.Context) error {
	deadline := r.loop.Now() + int64(openPatience)
	for begun := 0; r.up < len(r.clients); {
		now := r.loop.Now()
		for ; begun < len(r.clients) && begun-r.up < handshakesAtOnce; begun++ {
			r.clients[begun].dial(now)
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if r.loop.Now() > deadline {
			return failure("%d of %d connections are up after %v", r.up, len(r.clients), openPatience)
		}
	}
	return nil
}

// until goes on writing for d, or until done.
func (r *restartRun) until(ctx context.Context, d time.Duration, done func() bool) error {
	now := r.loop.Now()
	for end := now + int64(d); now < end && !done(); now = r.loop.Now() {
		wait := min(time.Duration(end-now), 20*time.Millisecond)
		for r.writing {
			event, at, ok := r.plan.Due(now)
			if !ok {
				wait = min(wait, r.plan.Wait(now))
				break
			}
			r.clients[2*int(event%int64(len(r.clients)/2))].compose(at)
		}
		if err := r.poll(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// restart has the server restarted and waits until everybody is back.
func (r *restartRun) restart(ctx context.Context, res *RestartResult) error {
	type outcome struct {
		down, up time.Duration
		ended    int64
		err      error
	}
	done := make(chan outcome, 1)
	r.began = r.loop.Now()
	go func() {
		var o outcome
		o.down, o.up, o.err = r.Again(ctx)
		o.ended = r.loop.Now() - int64(o.up)
		done <- o
	}()
	var o outcome
	served := false
	err := r.until(ctx, backPatience, func() bool {
		select {
		case o = <-done:
			served = true
		default:
		}
		return o.err != nil || served && r.returned == len(r.clients)
	})
	switch {
	case err != nil:
		return err
	case o.err != nil:
		return fmt.Errorf("restart the server: %w", o.err)
	case !served:
		return failure("the server isn't back after %v", backPatience)
	}
	res.Ended, res.Started, r.ended = o.down.Seconds(), o.up.Seconds(), o.ended
	return nil
}

func (r *restartRun) settled() bool {
	for i := range r.clients {
		if c := &r.clients[i]; c.sender() && len(c.outbox) > 0 || !c.sender() && c.book.Mark() < c.head {
			return false
		}
	}
	return true
}

// settle waits until everything written is acked, and everything acked has come, or nothing moves any more.
func (r *restartRun) settle(ctx context.Context) error {
	for seen, at := r.progress, r.loop.Now(); !r.settled() && r.loop.Now()-at < int64(stillness); {
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if r.progress != seen {
			seen, at = r.progress, r.loop.Now()
		}
	}
	return nil
}

// walk reads every timeline back.
func (r *restartRun) walk(ctx context.Context) error {
	begun := 0
	for seen, at := r.progress, r.loop.Now(); r.walked < len(r.clients)/2 && r.loop.Now()-at < int64(stillness); {
		for ; begun < len(r.clients)/2 && begun-r.walked < walksAtOnce; begun++ {
			c := &r.clients[2*begun+1]
			if c.book.Sent == 0 { // nobody wrote: there is no conversation
				r.walked++
				continue
			}
			c.asking = walk
			c.head = max(c.head, 1)
			if c.ready {
				c.ask()
			}
		}
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
		if r.progress != seen {
			seen, at = r.progress, r.loop.Now()
		}
	}
	return nil
}

func (r *restartRun) report(res *RestartResult) {
	var took []float64
	for i := range r.clients {
		c := &r.clients[i]
		if c.gone != 0 {
			res.Lost++
		}
		if c.stood != 0 {
			res.Moved++
			if c.stood < c.back { // the old server lived to say so
				res.Replaced++
				res.InTime++
			} else if c.stood <= r.ended {
				res.InTime++
			}
		}
		if c.back != 0 {
			took = append(took, float64(c.back-r.began)/1e9)
		}
		if c.sender() {
			res.Verify.Unacked += uint64(len(c.outbox))
			continue
		}
		res.Verify.Add(&c.book, c.head)
	}
	slices.Sort(took)
	res.Back = len(took)
	if n := len(took); n > 0 {
		res.Back50, res.Back99 = took[(n-1)/2], took[(n-1)*99/100]
		if n == len(r.clients) {
			res.Back100 = took[n-1]
		}
		res.PerSecond = make([]int, int(took[n-1])+1)
	}
	for _, t := range took {
		res.PerSecond[int(t)]++
	}
	res.Attempts, res.Drained, res.Unresumed, res.Resent = r.attempts, r.drained, r.unresumed, r.resent
	res.Missed, res.Closed = r.missed, r.closed
	res.Verify.Pulls = uint64(r.pulls)
	if len(r.refusals) > 0 {
		res.Refusals = r.refusals
	}
}
