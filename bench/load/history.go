package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// History is a load of clients that read pages of old messages. Conversation k belongs to
// client k modulo Clients and Peer(k), who wrote Messages messages in turn, the client the odd ones,
// as package fill leaves them.
type History struct {
	Target        Target
	Clients       int
	Conversations int
	Messages      int // of each conversation
	Body          int // bytes of each
	Salt          uint16
	Page          int     // messages asked for at a time; at most Messages
	Sync          bool    // ask with SYNC, as a client does that has a gap; else with HISTORY, as one that scrolls up
	Window        int     // requests under way a client; without Rate
	Rate          float64 // pages a second in all, asked at their time whatever the answers
	Warm, Measure time.Duration
	Settle        time.Duration // wait at most so long for a server to come to rest, which has work of its own after a start; before the load
}

// User returns the name of client i, counted from 0, and Peer that of the other user of conversation k.
func (cfg *History) User(i int) string { return cfg.Target.user(i + 1) }

// Peer is a user whose client isn't there.
func (cfg *History) Peer(k int) string { return fmt.Sprintf("%speer%07d", cfg.Target.Users, k) }

// HistoryResult is what a load of pages showed.
type HistoryResult struct {
	Seconds    float64           `json:"seconds"`
	Pages      float64           `json:"pages_per_s"`
	Bytes      float64           `json:"page_bytes"` // of a page, frame included
	Page       measure.Quantiles `json:"page"`
	Late       measure.Quantiles `json:"late"`          // with Rate: how late the load generator itself was
	ServerCPU  float64           `json:"server_cpu_us"` // a page; 0: unknown
	ClientCPU  float64           `json:"client_cpu_us"`
	DiskRead   float64           `json:"disk_bytes_per_page"` // that the server had fetched from the disk
	RSS        int64             `json:"server_rss_bytes"`
	Verified   int64             `json:"verified_pages"` // every page is
	Wrong      int64             `json:"wrong_pages"`    // not exactly the messages asked for
	WrongSaid  string            `json:"wrong,omitempty"`
	Refused    int64             `json:"refused"`
	Unanswered int64             `json:"unanswered"` // with Rate: still without an answer at the end
}

type historyRun struct {
	History
	loop     *loop.Loop
	clients  []reader
	ready    int
	silence  time.Duration
	failed   error
	rng      *rand.Rand
	convs    []id.ConversationID
	names    []string // of the peers
	asking   bool
	counting bool
	from, to int64
	plan     loop.Schedule

	pages, bytes     int64
	page, late       *measure.Latency
	verified, wrong  int64
	refused, waiting int64
	said             string
}

// reader is the connection of one client.
type reader struct {
	session
	r     *historyRun
	index int
	next  uint32
	asked []request // under way, oldest first: the server answers a connection in order
}

// request is one page under way.
type request struct {
	id       uint32
	conv     int32
	from, to uint32 // the seqs that must come
	at       int64
}

// Run connects, loads and verifies every page.
func (cfg History) Run(ctx context.Context) (*HistoryResult, error) {
	if cfg.Clients < 1 || cfg.Conversations < cfg.Clients || cfg.Page < 1 || cfg.Messages < cfg.Page || cfg.Rate == 0 && cfg.Window < 1 {
		return nil, fmt.Errorf("%d clients of %d conversations, pages of %d of %d messages: want at least a conversation a client and a page a conversation",
			cfg.Clients, cfg.Conversations, cfg.Page, cfg.Messages)
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	defer loop.Pin()()
	r := &historyRun{History: cfg, loop: lp, clients: make([]reader, cfg.Clients), rng: rand.New(rand.NewPCG(uint64(cfg.Salt), 1)),
		page: measure.NewLatency(), late: measure.NewLatency()}
	r.convs, r.names = make([]id.ConversationID, cfg.Conversations), make([]string, cfg.Conversations)
	for k := range r.convs {
		r.names[k] = cfg.Peer(k)
		r.convs[k] = conversation(cfg.User(k%cfg.Clients), r.names[k])
	}
	d := dialer{target: &r.Target, loop: lp}
	deadline := lp.Now() + int64(openPatience)
	for r.ready < cfg.Clients {
		err := d.more(r.ready, cfg.Clients, func(i int) (*session, loop.Handler) {
			c := &r.clients[i]
			c.r, c.index, c.user = r, i, cfg.User(i)
			return &c.session, c
		})
		if err != nil {
			return nil, err
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return nil, err
		}
		if lp.Now() > deadline {
			return nil, failure("%d of %d connections are up after %v", r.ready, cfg.Clients, openPatience)
		}
	}
	if err := r.settle(ctx); err != nil {
		return nil, err
	}
	return r.load(ctx)
}

// settle waits until the server takes hardly any CPU.
func (r *historyRun) settle(ctx context.Context) error {
	if r.Target.PID == 0 {
		return nil
	}
	const look = 500 * time.Millisecond
	heart := loop.NewRound(r.loop.Now(), len(r.clients), r.silence/3)
	for end, calm := r.loop.Now()+int64(r.Settle), 0; r.loop.Now() < end && calm < 3; {
		before, err := r.Target.cpu()
		if err != nil {
			return err
		}
		for until := r.loop.Now() + int64(look); r.loop.Now() < until; {
			if err := r.poll(ctx, look/10); err != nil {
				return err
			}
			heart.Turn(r.loop.Now(), func(i int) {
				c := &r.clients[i]
				c.Out = append(c.Out, ping...)
				c.Flush()
			})
		}
		after, err := r.Target.cpu()
		if err != nil {
			return err
		}
		if calm++; after-before > look/10 {
			calm = 0
		}
	}
	return nil
}

func (r *historyRun) load(ctx context.Context) (*HistoryResult, error) {
	r.asking = true
	now := r.loop.Now()
	if r.Rate > 0 {
		r.plan = loop.NewSchedule(now, r.Rate)
	} else {
		for i := range r.clients {
			for range r.Window {
				r.clients[i].ask(now)
			}
			r.clients[i].Flush()
		}
	}
	if err := r.until(ctx, now+int64(r.Warm)); err != nil {
		return nil, err
	}
	server, err := r.Target.cpu()
	if err != nil {
		return nil, err
	}
	disk := r.Target.diskRead()
	client := measure.OwnCPU()
	r.from = r.loop.Now()
	r.to = r.from + int64(r.Measure)
	r.counting = true
	if err := r.until(ctx, r.to); err != nil {
		return nil, err
	}
	r.counting = false
	elapsed := float64(r.loop.Now()-r.from) / 1e9
	serverEnd, err := r.Target.cpu()
	if err != nil {
		return nil, err
	}
	clientEnd := measure.OwnCPU()
	n := float64(max(r.pages, 1))
	res := &HistoryResult{
		Seconds: elapsed, Pages: float64(r.pages) / elapsed, Bytes: float64(r.bytes) / n,
		ServerCPU: float64((serverEnd - server).Microseconds()) / n, ClientCPU: float64((clientEnd - client).Microseconds()) / n,
		DiskRead: float64(r.Target.diskRead()-disk) / n,
	}
	r.asking = false
	for seen, at := r.verified+r.refused, r.loop.Now(); r.waiting > 0 && r.loop.Now()-at < int64(stillness); {
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
		if got := r.verified + r.refused; got != seen {
			seen, at = got, r.loop.Now()
		}
	}
	if m, err := r.Target.memory(); err == nil {
		res.RSS = m.RSS
	}
	res.Page, res.Late = r.page.Quantiles(), r.late.Quantiles()
	res.Verified, res.Wrong, res.WrongSaid, res.Refused, res.Unanswered = r.verified, r.wrong, r.said, r.refused, r.waiting
	return res, nil
}

func (r *historyRun) until(ctx context.Context, end int64) error {
	for {
		now := r.loop.Now()
		if now >= end {
			return nil
		}
		wait := min(time.Duration(end-now), 100*time.Millisecond)
		if r.Rate > 0 {
			for {
				_, at, ok := r.plan.Due(now)
				if !ok {
					break
				}
				if r.counting {
					r.late.Record(now - at)
				}
				c := &r.clients[r.rng.IntN(len(r.clients))]
				c.ask(at)
				c.Flush()
				now = r.loop.Now()
			}
			wait = min(wait, r.plan.Wait(r.loop.Now()))
		}
		if err := r.poll(ctx, wait); err != nil {
			return err
		}
	}
}

func (r *historyRun) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	return ctx.Err()
}

// ask asks for a page of one of the client's conversations, somewhere in it.
func (c *reader) ask(at int64) {
	r := c.r
	mine := (r.Conversations - c.index + r.Clients - 1) / r.Clients
	k := c.index + r.Clients*r.rng.IntN(mine)
	from := 1 + r.rng.IntN(r.Messages-r.Page+1)
	c.next++
	q := request{id: c.next, conv: int32(k), from: uint32(from), to: uint32(from + r.Page - 1), at: at}
	conv := &r.convs[k]
	var err error
	if r.Sync {
		c.Out, err = packet.AppendBody(c.Out, frame.Sync, frame.FlagRequestID, q.id, &wire.Sync{
			Ranges: []*wire.SyncRange{{ConversationId: conv[:], FromSeq: uint64(q.from), ToSeq: uint64(q.to), Limit: uint32(r.Page)}}})
	} else {
		c.Out, err = packet.AppendRequest(c.Out, q.id, packet.MethodHistory,
			&wire.HistoryRequest{ConversationId: conv[:], BeforeSeq: uint64(q.to) + 1, Limit: uint32(r.Page)})
	}
	if err != nil {
		r.failed = err
		return
	}
	c.asked = append(c.asked, q)
	r.waiting++
}

// Connected implements loop.Handler.
func (c *reader) Connected() {
	if err := c.connect(0); err != nil {
		c.r.failed = err
	}
}

// Closed implements loop.Handler.
func (c *reader) Closed(err error) {
	if c.r.failed == nil {
		c.r.failed = failure("the connection of %s ended: %w", c.user, err)
	}
}

// Input implements loop.Handler.
func (c *reader) Input(b []byte) int {
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
		case frame.Connack:
			ack, err := c.connack(&f)
			if err != nil {
				r.failed = blame(err)
				return len(b)
			}
			r.silence = time.Duration(max(ack.HeartbeatSeconds, 3)) * time.Second
			r.ready++
		case frame.Synced, frame.Response:
			c.answered(&f, n)
		case frame.Error:
			if !f.HasReqID() || !c.ready || !c.take(f.ReqID) {
				r.failed = blame(c.ended(&f))
				return len(b)
			}
			r.refused++
			if r.said == "" {
				r.said = c.refusal(&f).Error()
			}
			c.again()
		case frame.Drain, frame.Kick:
			r.failed = blame(c.ended(&f))
			return len(b)
		}
	}
}

// take removes the oldest request if it is id's.
func (c *reader) take(id uint32) bool {
	if len(c.asked) == 0 || c.asked[0].id != id {
		return false
	}
	c.asked = append(c.asked[:0], c.asked[1:]...)
	c.r.waiting--
	return true
}

func (c *reader) again() {
	if c.r.asking && c.r.Rate == 0 {
		c.ask(c.r.loop.Now())
	}
}

func (c *reader) answered(f *frame.Frame, size int) {
	r := c.r
	if len(c.asked) == 0 || c.asked[0].id != f.ReqID {
		r.failed = failure("an answer %d to %s, which didn't ask", f.ReqID, c.user)
		return
	}
	q := c.asked[0]
	c.take(q.id)
	now := r.loop.Now()
	if r.counting {
		r.pages++
		r.bytes += int64(size)
	}
	if q.at >= r.from && q.at < r.to {
		r.page.Record(now - q.at)
	}
	if err := c.verify(f, &q); err != nil {
		if r.wrong++; r.said == "" {
			r.said = fmt.Sprintf("messages %d to %d of conversation %d: %v", q.from, q.to, q.conv, err)
		}
	}
	r.verified++
	c.again()
}

// verify compares a page, byte for byte, with what was stored.
func (c *reader) verify(f *frame.Frame, q *request) error {
	r := c.r
	var page packet.Page
	if r.Sync {
		p, refused, err := packet.DecodeSynced(f.Body)
		if err != nil || refused != nil {
			return fmt.Errorf("%w %w", asError(err), asError(refused))
		}
		if p.FromSeq != uint64(q.from) || p.ToSeq != uint64(q.to) {
			return fmt.Errorf("the answer is for %d to %d", p.FromSeq, p.ToSeq)
		}
		page = p
	} else {
		_, inner, err := packet.DecodeResponse(f.Body)
		if err == nil {
			page, err = packet.DecodeHistory(inner)
		}
		if err != nil {
			return err
		}
		if page.More != (q.from > 1) {
			return fmt.Errorf("more is %v", page.More)
		}
	}
	if k := int(q.conv); page.Conversation != r.convs[k] || page.FirstSeq != 1 || page.LastSeq != uint64(r.Messages) {
		return fmt.Errorf("it is of %s, which holds %d to %d", page.Conversation, page.FirstSeq, page.LastSeq)
	}
	seq := uint64(q.from)
	for messages := page.Messages; len(messages) > 0; seq++ {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			return err
		}
		messages = rest
		sender := c.user
		if seq%2 == 0 {
			sender = r.names[q.conv]
		}
		number, ok := verify.ReadID(v.ClientMsgID, r.Salt, int(q.conv))
		if !ok || v.Seq != seq || number != seq || string(v.Sender) != sender || len(v.Content) != r.Body || !verify.SameBody(v.Content, int(q.conv), seq) {
			return fmt.Errorf("message %d where %d belongs, or not as it was sent", v.Seq, seq)
		}
	}
	if seq != uint64(q.to)+1 {
		return fmt.Errorf("it ends at %d", seq-1)
	}
	return nil
}
