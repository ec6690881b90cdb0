package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Crowd is one group of more members than one process can hold connections of: processes of
// onlookers hold them, spread over the edges, while this one sends single messages.
type Crowd struct {
	Target  Target
	Members int // online, the sender among them
	Each    int // members that a process of onlookers holds, at most
	Body    int
	Shots   int
	Gap     time.Duration // between them
	Program string        // the bench binary, which runs again as onlookers
}

// CrowdResult is what came of it.
type CrowdResult struct {
	Members    int               `json:"members"`
	Onlookers  int               `json:"processes_of_onlookers"`
	Edges      int               `json:"edges"`
	Connecting float64           `json:"connecting_s"`
	Making     float64           `json:"making_s"`   // until all were in the group
	Opening    float64           `json:"opening_ms"` // the first message, to the last member
	Shots      measure.Quantiles `json:"shots"`      // from sending one to the last member's having it
	ShotAcks   measure.Quantiles `json:"shot_acks"`
	Copies     Copies            `json:"copies"`
	Resting    Writes            `json:"resting"` // to the store a second, with everybody online and no message
	Writes     Writes            `json:"writes"`  // for each message, less what would have been written meanwhile at rest; zero: unknown
	CopyCPU    float64           `json:"server_cpu_copy_us"`
	ClientCPU  float64           `json:"client_cpu_copy_us"`
	RSS        int64             `json:"server_rss_bytes"`
	Processes  []ProcessUse      `json:"processes"` // for each copy
}

type crowd struct {
	Crowd
	session
	loop     *loop.Loop
	seen     chan seen
	children []*onlooking
	failed   error

	answer *wire.GroupChangeResponse // the latest
	again  time.Duration             // a request was refused: ask again after this
	conv   id.ConversationID
	acked  uint64 // seq
	heart  int64  // when to send a PING
}

// seen is what a process of onlookers told.
type seen struct {
	child int
	sighting
}

// onlooking is such a process.
type onlooking struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	told bool // what it saw in all
}

// Run makes the group, connects everybody, and sends the messages, each when all have the one before. The members
// aren't online yet while they are brought in, each some hundred with a message to all who are there: that would be tens of millions of copies.
func (cfg Crowd) Run(ctx context.Context) (*CrowdResult, error) {
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	r := &crowd{Crowd: cfg, loop: lp}
	res := &CrowdResult{Members: cfg.Members, Edges: 1 + len(cfg.Target.Also)}
	defer r.stop()
	if err := r.come(ctx); err != nil {
		return nil, err
	}
	began := clock()
	base, err := r.make(ctx)
	if err != nil {
		return nil, err
	}
	res.Making = seconds(began)
	began = clock()
	if err := r.start(base); err != nil {
		return nil, err
	}
	if err := r.all(ctx, func(s *seen) bool { return s.Up > 0 }); err != nil {
		return nil, err
	}
	res.Onlookers, res.Connecting = len(r.children), seconds(began)
	if err := r.shoot(ctx, base, res); err != nil {
		return nil, err
	}
	return res, r.close(ctx, res)
}

func seconds(since int64) float64 { return float64(clock()-since) / 1e9 }

// come connects the sender.
func (r *crowd) come(ctx context.Context) error {
	r.user = r.Target.user(1)
	d := dialer{target: &r.Target, loop: r.loop}
	if err := d.more(0, 1, func(int) (*session, loop.Handler) { return &r.session, r }); err != nil {
		return err
	}
	return r.until(ctx, "the sender connects", func() bool { return r.ready })
}

// start starts the onlookers, spread over the edges; base is the group's last seq.
func (r *crowd) start(base uint64) error {
	edges := append([]netip.AddrPort{r.Target.Addr}, r.Target.Also...)
	rest := r.Members - 1
	n := max((rest+r.Each-1)/r.Each, min(len(edges), rest))
	r.seen = make(chan seen, 16*n)
	source := 0
	for i := range n {
		count := rest / (n - i)
		o := Onlookers{
			Edge: edges[i%len(edges)], WS: r.Target.WS, Users: r.Target.Users, First: r.Members - rest + 1, Count: count, FirstSource: source, AtOnce: max(handshakesAtOnce/n, 1), Body: r.Body,
			Issuer: r.Target.Issuer, Key: r.Target.Key, Conversation: r.conv, Base: base,
		}
		rest -= count
		source += (count + perSource - 1) / perSource
		if err := r.child(i, o); err != nil {
			return err
		}
	}
	return nil
}

// child starts one process of onlookers.
func (r *crowd) child(i int, o Onlookers) error {
	cmd := exec.Command(r.Program, OnlookersCommand)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("start onlookers: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start onlookers: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start onlookers: %w", err)
	}
	r.children = append(r.children, &onlooking{cmd: cmd, in: in})
	go func() { // ends with the process
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s := seen{child: i}
			if err := json.Unmarshal(lines.Bytes(), &s.sighting); err != nil {
				s.Error = err.Error()
			}
			r.seen <- s
		}
		r.seen <- seen{i, sighting{Error: "they have ended"}}
	}()
	if err := json.NewEncoder(in).Encode(o); err != nil {
		return fmt.Errorf("tell onlookers who to be: %w", err)
	}
	return nil
}

// crowdPatience is how long the crowd may take for one step: connecting takes longest.
const crowdPatience = 5 * time.Minute

// all waits until each process of onlookers has told something for which is returns true.
func (r *crowd) all(ctx context.Context, is func(*seen) bool) error {
	n := 0
	return r.until(ctx, "the onlookers", func() bool {
		for {
			select {
			case s := <-r.seen:
				if s.Copies != nil {
					r.children[s.child].told = true // and ends now
				}
				if s.Error != "" && !r.children[s.child].told {
					r.failed = failure("onlookers %d: %s", s.child+1, s.Error)
					return true
				}
				if is(&s) {
					n++
				}
			default:
				return n == len(r.children)
			}
		}
	})
}

// until polls until done.
func (r *crowd) until(ctx context.Context, what string, done func() bool) error {
	for deadline := clock() + int64(crowdPatience); !done(); {
		if _, err := r.loop.Poll(5 * time.Millisecond); err != nil {
			return err
		}
		now := clock()
		if now > r.heart && r.ready {
			r.heart = now + int64(5*time.Second)
			r.Out = append(r.Out, ping...)
			r.Flush()
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if now > deadline {
			return failure("%s: not within %v", what, crowdPatience)
		}
		if r.failed != nil {
			break
		}
	}
	return r.failed
}

// make makes the group of all, and returns the last seq that tells of it.
func (r *crowd) make(ctx context.Context) (base uint64, err error) {
	key := fmt.Sprintf("crowd-%d", clock())
	for next, request := 2, uint32(1); next <= r.Members; request++ {
		var users []string
		to := next
		for bytes := 0; to <= r.Members && len(users) < packet.MaxGroupUsers; to++ {
			u := r.Target.user(to)
			if bytes += len(u) + 3; bytes > packet.MaxUsersBody-requestRoom {
				break
			}
			users = append(users, u)
		}
		if r.conv.IsZero() {
			r.Out, err = packet.AppendRequest(r.Out, request, packet.MethodGroupCreate, &wire.GroupCreateRequest{Name: "crowd", Key: key, UserIds: users})
		} else {
			r.Out, err = packet.AppendRequest(r.Out, request, packet.MethodGroupAdd, &wire.GroupUsersRequest{ConversationId: r.conv[:], UserIds: users})
		}
		if err != nil {
			return 0, fmt.Errorf("encode a request: %w", err)
		}
		r.answer, r.again = nil, 0
		r.Flush()
		if err := r.until(ctx, "the group", func() bool { return r.answer != nil || r.again > 0 }); err != nil {
			return 0, err
		}
		if wait := clock() + int64(r.again); r.again > 0 {
			if err := r.until(ctx, "the group", func() bool { return clock() > wait }); err != nil {
				return 0, err
			}
			continue
		}
		next, base = to, max(base, r.answer.Seq, 1)
	}
	return base, nil
}

// shoot sends the messages, one of which isn't counted, since it finds out who is where.
func (r *crowd) shoot(ctx context.Context, base uint64, res *CrowdResult) error {
	t, err := newTemplate(r.Body, uint16(clock()), 0, func(m *wire.Send) { m.ConversationId = r.conv[:] })
	if err != nil {
		return err
	}
	whole, acks := measure.NewLatency(), measure.NewLatency()
	shot := func(number uint64) (ack, last int64, err error) {
		began := clock()
		r.Out = t.append(r.Out, uint32(number), time.Now().UnixMilli(), number)
		r.Flush()
		err = r.until(ctx, fmt.Sprintf("the ack of message %d", number), func() bool { return r.acked == base+number })
		if err != nil {
			return 0, 0, err
		}
		ack = clock() - began
		err = r.all(ctx, func(s *seen) bool {
			if s.Seq == base+number {
				last = max(last, s.At-began)
			}
			return s.Seq == base+number
		})
		return ack, last, err
	}
	_, opening, err := shot(1)
	if err != nil {
		return err
	}
	res.Opening = float64(opening) / 1e6
	before, err := r.rest(ctx, res)
	if err != nil {
		return err
	}
	began := clock()
	cpu, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	for i := range r.Shots {
		pause := clock() + int64(r.Gap)
		if err := r.until(ctx, "the pause", func() bool { return clock() > pause }); err != nil {
			return err
		}
		ack, last, err := shot(uint64(i) + 2)
		if err != nil {
			return err
		}
		whole.Record(last)
		acks.Record(ack)
	}
	cpuEnd, err := r.Target.cpuByProcess()
	if err != nil {
		return err
	}
	after, err := r.Target.stats(ctx)
	if err != nil {
		return err
	}
	copies := float64(r.Shots) * float64(r.Members-1)
	res.Shots, res.ShotAcks = whole.Quantiles(), acks.Quantiles()
	res.Writes = after.Writes.since(before, 1).since(res.Resting.times(seconds(began)), 1/float64(r.Shots))
	res.CopyCPU = float64(between(cpu, cpuEnd).Nanoseconds()) / 1e3 / copies
	res.Processes = r.Target.use(cpu, cpuEnd, copies)
	res.RSS = r.Target.rss()
	return nil
}

// resting is how long what is written without messages is looked at: long enough for clocks and leases to show.
const resting = 5 * time.Second

// rest has nobody say anything for a moment, and returns what was written up to its end.
func (r *crowd) rest(ctx context.Context, res *CrowdResult) (Writes, error) {
	before, err := r.Target.stats(ctx)
	if err != nil {
		return Writes{}, err
	}
	began := clock()
	if err := r.until(ctx, "the rest", func() bool { return clock() > began+int64(resting) }); err != nil {
		return Writes{}, err
	}
	after, err := r.Target.stats(ctx)
	res.Resting = after.Writes.since(before.Writes, 1/seconds(began))
	return after.Writes, err
}

// close lets the onlookers tell what they saw and end.
func (r *crowd) close(ctx context.Context, res *CrowdResult) error {
	for _, c := range r.children {
		_ = c.in.Close()
	}
	err := r.all(ctx, func(s *seen) bool {
		if s.Copies != nil {
			res.Copies.add(s.Copies)
		}
		return s.Copies != nil
	})
	if res.Copies.Delivered > 0 {
		res.ClientCPU = float64(res.Copies.CPU) / float64(res.Copies.Delivered)
	}
	return err
}

// stop ends the processes.
func (r *crowd) stop() {
	for _, c := range r.children {
		_ = c.in.Close()
		_ = c.cmd.Process.Kill()
		_ = c.cmd.Wait() // killed
	}
}

// Connected implements loop.Handler.
func (r *crowd) Connected() {
	if err := r.connect(0); err != nil {
		r.failed = blame(err)
	}
}

// Closed implements loop.Handler.
func (r *crowd) Closed(err error) { r.failed = failure("the sender's connection ended: %w", err) }

// Input implements loop.Handler.
func (r *crowd) Input(b []byte) int {
	for used := 0; ; {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.failed = failure("a frame to the sender: %w", err)
			return len(b)
		}
		if n == 0 {
			return used
		}
		used += n
		if err := r.frame(&f); err != nil {
			r.failed = blame(err)
			return len(b)
		}
	}
}

func (r *crowd) frame(f *frame.Frame) error {
	switch f.Type {
	case frame.Connack:
		ack, err := r.connack(f)
		if err != nil {
			return err
		}
		return permitted(ack.Limits, r.Body, 1, 0)
	case frame.SendAck:
		ack, err := packet.DecodeSendAck(f.Body)
		if err != nil {
			return fmt.Errorf("SENDACK: %w", err)
		}
		r.acked = ack.Seq
	case frame.Response:
		method, inner, err := packet.DecodeResponse(f.Body)
		ans := new(wire.GroupChangeResponse)
		if err == nil {
			err = packet.DecodeAnswer(method, inner, ans)
		}
		if err != nil {
			return fmt.Errorf("making the group: %w", err)
		}
		if len(ans.Refused) > 0 {
			return fmt.Errorf("%d users were not brought into the group, the first with code %d", len(ans.Refused), ans.Refused[0].Code)
		}
		r.conv, _ = conversationOf(ans.ConversationId)
		r.answer = ans
	case frame.Error:
		if e := r.refusal(f); f.HasReqID() && r.ready && e.Code.Class() == code.RetrySame && r.answer == nil {
			r.again = max(e.RetryAfter, 50*time.Millisecond)
			return nil
		}
		return r.ended(f)
	case frame.Drain, frame.Kick:
		return r.ended(f)
	}
	return nil
}
