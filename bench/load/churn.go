package load

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Churn is a load of people who look in: connect, fetch what came, write a little to another
// one, leave. Users are paired; what one writes, the other finds the next time.
type Churn struct {
	Target   Target
	Users    int     // two for each pair
	Window   int     // visits under way; without Rate
	Rate     float64 // visits a second, begun at their time whatever the others do
	Messages int     // that a visitor writes
	Body     int     // bytes of each
	Warm     time.Duration
	Measure  time.Duration
	Rest     time.Duration // after the last visit, before the memory is read
}

// ChurnResult is what a load of visits showed.
type ChurnResult struct {
	Seconds    float64           `json:"seconds"`
	Visits     float64           `json:"visits_per_s"`
	Connack    measure.Quantiles `json:"connack"`       // from when the visit was due
	Sync       measure.Quantiles `json:"sync"`          // from the request to its answer
	Visit      measure.Quantiles `json:"visit"`         // the whole of it
	ServerCPU  float64           `json:"server_cpu_us"` // a visit; 0: unknown
	ClientCPU  float64           `json:"client_cpu_us"`
	Fetched    int64             `json:"fetched"` // messages that came by SYNC
	Sent       int64             `json:"sent"`
	Fresh      measure.Memory    `json:"fresh"` // before the first visit
	Loaded     measure.Memory    `json:"loaded"`
	Rested     measure.Memory    `json:"rested"`
	Goroutines float64           `json:"goroutines"` // at rest
	Refused    int64             `json:"refused"`    // visits that the server refused
	Ended      int64             `json:"ended"`      // visits whose connection the server ended
	Lost       int64             `json:"lost"`       // messages that were acked and aren't there
	Wrong      int64             `json:"wrong"`      // that aren't what was sent, or not where they belong
	Said       string            `json:"said,omitempty"`
}

type churnRun struct {
	Churn
	loop     *loop.Loop
	visitors []visitor
	next     int     // whose turn it is
	due      []int64 // visits that are due and wait for somebody who isn't there
	busy     int
	salt     uint16
	wallMS   int64
	epoch    uint64
	failed   error
	visiting bool // new visits begin
	final    bool // visits only fetch
	plan     loop.Schedule
	sources  []netip.Addr

	counting             bool
	from, to             int64
	done                 int64
	ends                 int64 // visits that have ended, ever
	connacks, syncs, all *measure.Latency
	res                  ChurnResult
}

// visitor is one user, with what their device keeps between visits.
type visitor struct {
	session
	r     *churnRun
	index int
	conv  id.ConversationID
	mark  uint64
	token string

	sent, acked uint64 // messages to the other one
	heard       uint64 // the number of the other one's last message that came
	own         uint64 // the number of the own last message that came back in the timeline
	applied     uint64 // seq up to which everything has come

	at, asked int64 // of the visit: when it was due; when SYNC was sent
	on        bool
	waits     int // acks
	from      uint64
}

func (v *visitor) other() *visitor { return &v.r.visitors[v.index^1] }

// Run lets people visit, waits for the last of them, and verifies what everybody has got.
func (cfg Churn) Run(ctx context.Context) (*ChurnResult, error) {
	if cfg.Users < 2 || cfg.Users%2 != 0 || cfg.Rate == 0 && (cfg.Window < 1 || cfg.Window > cfg.Users) || cfg.Messages < 0 || cfg.Body < 1 {
		return nil, fmt.Errorf("%d users of whom %d visit, who write %d messages of %d bytes: want pairs, and not more visits than users",
			cfg.Users, cfg.Window, cfg.Messages, cfg.Body)
	}
	lp, err := loop.New()
	if err != nil {
		return nil, err
	}
	defer lp.Close()
	r := &churnRun{Churn: cfg, loop: lp, visitors: make([]visitor, cfg.Users), salt: uint16(rand.Uint32()),
		connacks: measure.NewLatency(), syncs: measure.NewLatency(), all: measure.NewLatency()}
	r.sources = sources(max((cfg.Users+perAddress-1)/perAddress, 32)) // each address may connect 200 times a second
	for i := range r.visitors {
		v := &r.visitors[i]
		v.r, v.index, v.user = r, i, r.Target.user(i+1)
		if v.token, err = r.Target.Token(v.user); err != nil {
			return nil, fmt.Errorf("token of %s: %w", v.user, err)
		}
		v.conv = conversation(v.user, r.Target.user((i^1)+1))
	}
	if r.res.Fresh, err = r.Target.memory(); err != nil {
		return nil, err
	}
	if err := r.load(ctx); err != nil {
		return nil, err
	}
	if err := r.look(ctx); err != nil {
		return nil, err
	}
	r.res.Connack, r.res.Sync, r.res.Visit = r.connacks.Quantiles(), r.syncs.Quantiles(), r.all.Quantiles()
	for i := range r.visitors {
		v := &r.visitors[i]
		r.res.Lost += int64(v.acked - min(v.acked, v.own) + v.acked - min(v.acked, v.other().heard))
		r.res.Sent += int64(v.acked)
	}
	return &r.res, nil
}

func (r *churnRun) load(ctx context.Context) error {
	now := r.loop.Now()
	r.visiting = true
	r.plan = loop.NewSchedule(now, max(r.Rate, 1))
	if r.Rate == 0 {
		for range r.Window {
			r.due = append(r.due, now)
		}
	}
	if err := r.until(ctx, now+int64(r.Warm)); err != nil {
		return err
	}
	server, err := r.Target.cpu()
	if err != nil {
		return err
	}
	client := measure.OwnCPU()
	r.from = r.loop.Now()
	r.to = r.from + int64(r.Measure)
	r.counting = true
	if err := r.until(ctx, r.to); err != nil {
		return err
	}
	r.counting = false
	r.res.Seconds = float64(r.loop.Now()-r.from) / 1e9
	after, err := r.Target.cpu()
	if err != nil {
		return err
	}
	n := float64(max(r.done, 1))
	r.res.Visits = float64(r.done) / r.res.Seconds
	r.res.ServerCPU, r.res.ClientCPU = float64((after-server).Microseconds())/n, float64((measure.OwnCPU()-client).Microseconds())/n
	if r.res.Loaded, err = r.Target.memory(); err != nil {
		return err
	}
	return r.finish(ctx)
}

// finish waits for the visits under way.
func (r *churnRun) finish(ctx context.Context) error {
	r.visiting, r.due = false, nil
	for seen, at := r.ends, r.loop.Now(); r.busy > 0; {
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if r.ends != seen {
			seen, at = r.ends, r.loop.Now()
		}
		if r.loop.Now()-at > int64(stillness) {
			return failure("%d visits don't come to their end", r.busy)
		}
	}
	return nil
}

// look lets everybody fetch what is left, in a last visit, and reads the memory when all have rested.
func (r *churnRun) look(ctx context.Context) error {
	end := r.loop.Now() + int64(r.Rest)
	for r.loop.Now() < end {
		if err := r.poll(ctx, min(time.Duration(end-r.loop.Now()), 100*time.Millisecond)); err != nil {
			return err
		}
	}
	var err error
	if r.res.Rested, err = r.Target.memory(); err != nil {
		return err
	}
	stats, err := r.Target.stats(ctx)
	if err != nil {
		return err
	}
	r.res.Goroutines = stats.Goroutines
	r.final = true
	for i := 0; i < len(r.visitors) || r.busy > 0; {
		for ; i < len(r.visitors) && r.busy < handshakesAtOnce/2; i++ {
			v := &r.visitors[i]
			v.mark = 0 // like a new device: whatever there is
			v.begin(r.loop.Now())
		}
		if err := r.poll(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func (r *churnRun) until(ctx context.Context, end int64) error {
	for now := r.loop.Now(); now < end; now = r.loop.Now() {
		wait := min(time.Duration(end-now), 50*time.Millisecond)
		for r.Rate > 0 {
			_, at, ok := r.plan.Due(now)
			if !ok {
				wait = min(wait, r.plan.Wait(now))
				break
			}
			r.due = append(r.due, at)
		}
		r.admit()
		if err := r.poll(ctx, wait); err != nil {
			return err
		}
	}
	return nil
}

// admit begins the visits that are due, as far as there is somebody who isn't there.
func (r *churnRun) admit() {
	for len(r.due) > 0 && r.busy < len(r.visitors) {
		v := &r.visitors[r.next]
		r.next = (r.next + 1) % len(r.visitors)
		if v.on {
			continue
		}
		at := r.due[0]
		r.due = r.due[1:]
		v.begin(at)
	}
}

func (r *churnRun) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(max(wait, 0)); err != nil {
		return err
	}
	if r.failed != nil {
		return r.failed
	}
	return ctx.Err()
}

func (r *churnRun) fail(err error) {
	if r.failed == nil {
		r.failed = blame(err)
	}
}

func (r *churnRun) wrong(format string, args ...any) {
	if r.res.Wrong++; r.res.Said == "" {
		r.res.Said = fmt.Sprintf(format, args...)
	}
}

// begin begins a visit that was due at the time.
func (v *visitor) begin(at int64) {
	r := v.r
	v.at, v.on, v.ready, v.waits = at, true, false, 0
	r.busy++
	if err := r.loop.Dial(&v.Conn, r.Target.over(&v.Conn, v), r.Target.edge(v.index), r.sources[v.index%len(r.sources)]); err != nil {
		r.fail(err)
	}
}

// end ends the visit; well: as it should.
func (v *visitor) end(well bool) {
	r := v.r
	now := r.loop.Now()
	v.on = false
	r.busy--
	r.ends++
	if well && r.counting {
		r.done++
	}
	if well && v.at >= r.from && v.at < r.to {
		r.all.Record(now - v.at)
	}
	if r.visiting && r.Rate == 0 {
		r.due = append(r.due, now)
	}
}

// Connected implements loop.Handler.
func (v *visitor) Connected() {
	out, err := packet.AppendBody(v.Out, frame.Connect, frame.FlagRequestID, 1, &wire.Connect{
		Version: 1, Token: v.token, DeviceId: "bench", DeviceKind: wire.DeviceKind_DEVICE_KIND_PHONE, Client: "gochat-bench",
		StoreEpoch: v.r.epoch, SyncMark: v.mark, InboxLimit: 20,
	})
	if err != nil {
		v.r.fail(fmt.Errorf("CONNECT: %w", err))
		return
	}
	v.Out = out
}

// Closed implements loop.Handler.
func (v *visitor) Closed(err error) {
	v.r.res.Ended++
	if v.r.res.Said == "" {
		v.r.res.Said = fmt.Sprintf("the connection of %s ended: %v", v.user, err)
	}
	v.sent = v.acked // what wasn't acked is a message nobody counts on: the next one has its number and id
	v.end(false)
}

// Input implements loop.Handler.
func (v *visitor) Input(b []byte) int {
	r := v.r
	now := r.loop.Now()
	used := 0
	for v.Alive() && r.failed == nil {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.fail(fmt.Errorf("a frame to %s: %w", v.user, err))
			return len(b)
		}
		if n == 0 {
			break
		}
		used += n
		switch f.Type {
		case frame.Connack:
			v.arrived(&f, now)
		case frame.Synced:
			v.synced(&f, now)
		case frame.SendAck:
			v.wrote(&f)
		case frame.Deliver:
			_, _, messages, err := packet.DecodeDeliver(f.Body)
			if err != nil {
				r.fail(fmt.Errorf("DELIVER to %s: %w", v.user, err))
				return len(b)
			}
			v.take(messages, false)
		case frame.Error, frame.Kick, frame.Drain:
			r.res.Refused++
			if r.res.Said == "" {
				r.res.Said = v.ended(&f).Error()
			}
			v.sent = v.acked
			v.Close()
			v.end(false)
		}
	}
	return used
}

func (v *visitor) arrived(f *frame.Frame, now int64) {
	r := v.r
	ack, err := v.connack(f)
	if err != nil {
		r.fail(err)
		return
	}
	if v.at >= r.from && v.at < r.to {
		r.connacks.Record(now - v.at)
	}
	if r.epoch == 0 {
		r.epoch = ack.StoreEpoch
		r.wallMS = int64(ack.ServerTime) - now/int64(time.Millisecond)
	}
	v.mark = ack.SyncMark
	for _, s := range ack.Conversations {
		if string(s.ConversationId) == string(v.conv[:]) && s.LastSeq > v.applied {
			v.sync(now)
			return
		}
	}
	v.write(now)
}

// sync fetches what came since the last visit.
func (v *visitor) sync(now int64) {
	v.asked, v.from = now, v.applied+1
	out, err := packet.AppendBody(v.Out, frame.Sync, frame.FlagRequestID, 2, &wire.Sync{
		Ranges: []*wire.SyncRange{{ConversationId: v.conv[:], FromSeq: v.from, Limit: 100}}})
	if err != nil {
		v.r.fail(fmt.Errorf("encode a SYNC: %w", err))
		return
	}
	v.Out = out
}

func (v *visitor) synced(f *frame.Frame, now int64) {
	r := v.r
	page, refused, err := packet.DecodeSynced(f.Body)
	if err != nil || refused != nil {
		r.fail(fmt.Errorf("SYNC of %s: %w %w", v.user, asError(err), asError(refused)))
		return
	}
	if v.asked >= r.from && v.asked < r.to {
		r.syncs.Record(now - v.asked)
	}
	if page.Conversation != v.conv || page.FromSeq != v.from {
		r.wrong("SYNCED from %d of %s, asked from %d", page.FromSeq, page.Conversation, v.from)
	}
	v.take(page.Messages, true)
	if v.applied < page.ToSeq {
		r.wrong("SYNCED up to %d holds messages up to %d", page.ToSeq, v.applied)
		v.applied = page.ToSeq
	}
	if page.ToSeq < page.LastSeq {
		v.sync(now)
		return
	}
	v.write(now)
}

// take takes messages in: each must be the next of the one who sent it.
func (v *visitor) take(messages []byte, fetched bool) {
	r := v.r
	for len(messages) > 0 {
		m, rest, err := packet.NextMessage(messages)
		if err != nil {
			r.fail(fmt.Errorf("messages to %s: %w", v.user, err))
			return
		}
		messages = rest
		if m.Seq <= v.applied {
			continue
		}
		if m.Seq != v.applied+1 {
			if fetched {
				r.wrong("message %d of %s comes after %d", m.Seq, v.conv, v.applied)
			} else {
				return // the next SYNC brings them all
			}
		}
		v.applied = m.Seq
		if fetched {
			r.res.Fetched++
		}
		from, last := v.index^1, &v.heard
		if string(m.Sender) == v.user {
			from, last = v.index, &v.own
		}
		number, ok := verify.ReadID(m.ClientMsgID, r.salt, from)
		if !ok || number != *last+1 || len(m.Content) != r.Body || !verify.SameBody(m.Content, from, number) {
			r.wrong("message %d of %s by %s is its number %d, after %d, or not as it was sent", m.Seq, v.conv, m.Sender, number, *last)
		}
		*last = max(*last, number)
	}
}

// write sends this visit's messages; without any, the visit is over.
func (v *visitor) write(now int64) {
	r := v.r
	n := r.Messages
	if r.final {
		n = 0
	}
	for range n {
		v.sent++
		text := make([]byte, r.Body)
		verify.FillBody(text, v.index, v.sent)
		var mid [16]byte
		verify.PutID(&mid, r.wallMS+now/int64(time.Millisecond), r.salt, v.index, v.sent)
		out, err := packet.AppendBody(v.Out, frame.Send, frame.FlagRequestID, uint32(v.sent), &wire.Send{
			ToUserId: v.other().user, ClientMsgId: mid[:], MsgType: 1, Content: string(text)})
		if err != nil {
			r.fail(fmt.Errorf("encode a SEND: %w", err))
			return
		}
		v.Out = out
		v.waits++
	}
	if n == 0 {
		v.leave()
	}
}

func (v *visitor) wrote(f *frame.Frame) {
	if _, err := packet.DecodeSendAck(f.Body); err != nil || uint64(f.ReqID) != v.acked+1 {
		v.r.fail(fmt.Errorf("SENDACK %d to %s, which waits for %d: %w", f.ReqID, v.user, v.acked+1, asError(err)))
		return
	}
	v.acked++
	if v.waits--; v.waits == 0 {
		v.leave()
	}
}

// leave confirms what came and closes the connection.
func (v *visitor) leave() {
	if v.applied > 0 {
		var ack [32]byte
		v.Out = frame.Append(v.Out, frame.RecvAck, 0, 0, packet.AppendConversationSeq(ack[:0], v.conv, v.applied))
		v.Flush()
	}
	v.Close()
	v.end(true)
}
