package load

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/verify"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// OnlookersCommand is the hidden subcommand under which the bench binary runs again as some of the members of a
// large group: one process may not open as many files as there are members.
const OnlookersCommand = "onlookers"

// Onlookers are members of one group that only receive, all of a process, at one edge.
type Onlookers struct {
	Edge        netip.AddrPort `json:"edge"`
	WS          bool           `json:"ws"`
	Users       string         `json:"users"`
	First       int            `json:"first"` // number of the first one's name
	Count       int            `json:"count"`
	FirstSource int            `json:"first_source"` // of the addresses that they come from, which no other process uses
	AtOnce      int            `json:"at_once"`      // handshakes
	Body        int            `json:"body"`
	Issuer      string         `json:"issuer"`
	Key         string         `json:"key"`

	Conversation id.ConversationID `json:"conversation"` // they are members of
	Base         uint64            `json:"base"`         // the last seq before the first message

	Token func(user string) (string, error) `json:"-"`
}

// sighting is what such a process tells: one of these.
type sighting struct {
	Up     int     `json:"up,omitempty"`  // members that are connected
	Seq    uint64  `json:"seq,omitempty"` // that all of its members have
	At     int64   `json:"at,omitempty"`  // when the last one got it, by the machine's monotonic clock, ns
	Error  string  `json:"error,omitempty"`
	Copies *Copies `json:"copies,omitempty"` // at the end
}

// Copies is what members saw.
type Copies struct {
	Delivered uint64 `json:"delivered"` // by DELIVER, in order, the first time
	Pulled    uint64 `json:"pulled"`
	Repeats   uint64 `json:"repeats"`
	Gaps      uint64 `json:"gaps"`
	Hints     uint64 `json:"hints"`
	Changed   uint64 `json:"changed"` // that don't say what was sent
	CPU       int64  `json:"cpu_us"`  // of these processes, from the first message on
}

func (c *Copies) add(o *Copies) {
	c.Delivered, c.Pulled, c.Repeats, c.Gaps = c.Delivered+o.Delivered, c.Pulled+o.Pulled, c.Repeats+o.Repeats, c.Gaps+o.Gaps
	c.Hints, c.Changed, c.CPU = c.Hints+o.Hints, c.Changed+o.Changed, c.CPU+o.CPU
}

// clock is the machine's monotonic clock in ns, the same for all processes.
func clock() int64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // can't fail with this clock
	return t.Nano()
}

// longBeat asks for heartbeats, in seconds, as rare as the server allows: with very many connections they are a load of their own.
const longBeat = 3600

type onlookers struct {
	Onlookers
	target  Target
	loop    *loop.Loop
	dial    dialer
	all     []onlooker
	heart   loop.Round
	silence time.Duration
	ready   int
	failed  error
	out     *json.Encoder

	have   map[uint64]int // members that have a seq which not all have
	copies Copies
	began  time.Duration // of this process's CPU, when all were connected
}

// onlooker is one member.
type onlooker struct {
	session
	r       *onlookers
	mark    uint64
	pulling bool
	again   bool
}

// RunOnlookers is the life of such a process: it reads an Onlookers from in, tells out what its
// members see, and ends when in does. token makes what signs in from the issuer's name and key file.
func RunOnlookers(in io.Reader, out io.Writer, token func(issuer, key string) (func(user string) (string, error), error)) error {
	lines := bufio.NewScanner(in)
	if !lines.Scan() {
		return fmt.Errorf("read who to be: %w", io.ErrUnexpectedEOF)
	}
	r := &onlookers{out: json.NewEncoder(out), have: map[uint64]int{}}
	err := json.Unmarshal(lines.Bytes(), &r.Onlookers)
	if err == nil {
		r.Token, err = token(r.Issuer, r.Key)
	}
	if err == nil {
		r.loop, err = loop.New()
	}
	if err != nil {
		return fmt.Errorf("read who to be: %w", err)
	}
	defer r.loop.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // ends with in
		defer cancel()
		for lines.Scan() {
		}
	}()
	if err := r.run(ctx); ctx.Err() == nil {
		return r.out.Encode(sighting{Error: err.Error()})
	}
	r.copies.CPU = (measure.OwnCPU() - r.began).Microseconds()
	return r.out.Encode(sighting{Copies: &r.copies})
}

func (r *onlookers) run(ctx context.Context) error {
	r.target = Target{Addr: r.Edge, WS: r.WS, Token: r.Token, Users: r.Users}
	n := (r.Count + perSource - 1) / perSource
	r.dial = dialer{target: &r.target, loop: r.loop, most: r.AtOnce, sources: sources(r.FirstSource + n)[r.FirstSource:]}
	r.all = make([]onlooker, r.Count)
	for seen, at := 0, r.loop.Now(); r.ready < r.Count; {
		err := r.dial.more(r.ready, r.Count, func(i int) (*session, loop.Handler) {
			o := &r.all[i]
			o.r, o.user, o.mark = r, r.target.user(r.First+i), r.Base
			return &o.session, o
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
		if r.loop.Now()-at > int64(openPatience) {
			return fmt.Errorf("%d of %d connections are up, and no more come", r.ready, r.Count)
		}
	}
	r.began = measure.OwnCPU()
	if err := r.out.Encode(sighting{Up: r.ready}); err != nil {
		return err
	}
	for {
		if err := r.poll(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// poll handles what has arrived, and the heartbeats of those who are connected, while others connect as well.
func (r *onlookers) poll(ctx context.Context, wait time.Duration) error {
	if _, err := r.loop.Poll(wait); err != nil {
		return err
	}
	if r.silence > 0 {
		r.heart.Turn(r.loop.Now(), func(i int) {
			if o := &r.all[i]; o.ready {
				o.Out = append(o.Out, ping...)
				o.Flush()
				o.Shrink()
			}
		})
	}
	if r.failed != nil {
		return r.failed
	}
	return ctx.Err()
}

func (r *onlookers) fail(err error) {
	if r.failed == nil {
		r.failed = err
	}
}

// Connected implements loop.Handler.
func (o *onlooker) Connected() {
	if err := o.connect(longBeat); err != nil {
		o.r.fail(err)
	}
}

// Closed implements loop.Handler.
func (o *onlooker) Closed(err error) {
	o.r.fail(fmt.Errorf("the connection of %s ended: %w", o.user, err))
}

// Input implements loop.Handler.
func (o *onlooker) Input(b []byte) int {
	r := o.r
	for used := 0; ; {
		f, n, err := frame.Parse(b[used:], maxFrame)
		if err != nil {
			r.fail(fmt.Errorf("a frame to %s: %w", o.user, err))
			return len(b)
		}
		if n == 0 {
			return used
		}
		used += n
		if err := o.frame(&f); err != nil {
			r.fail(err)
			return len(b)
		}
	}
}

func (o *onlooker) frame(f *frame.Frame) error {
	r := o.r
	switch f.Type {
	case frame.Connack:
		ack, err := o.connack(f)
		if err != nil {
			return err
		}
		if r.silence == 0 {
			r.silence = time.Duration(max(ack.HeartbeatSeconds, 3)) * time.Second
			r.heart = loop.NewRound(r.loop.Now(), r.Count, r.silence*2/3)
		}
		r.ready++
		o.Shrink()
	case frame.Deliver:
		conv, _, messages, err := packet.DecodeDeliver(f.Body)
		if err != nil {
			return fmt.Errorf("DELIVER: %w", err)
		}
		if conv != r.Conversation {
			return nil
		}
		return o.messages(messages, &r.copies.Delivered, true)
	case frame.Hint:
		r.copies.Hints++
		return o.pull()
	case frame.Synced:
		page, refused, err := packet.DecodeSynced(f.Body)
		if err == nil && refused != nil {
			err = refused
		}
		if err != nil {
			return fmt.Errorf("SYNCED of %s: %w", o.user, err)
		}
		if err := o.messages(page.Messages, &r.copies.Pulled, false); err != nil || f.Flags&frame.FlagMore != 0 {
			return err
		}
		o.pulling = false
		if o.again || o.mark < page.LastSeq {
			return o.pull()
		}
	case frame.Error, frame.Drain, frame.Kick:
		return o.ended(f)
	}
	return nil
}

// messages takes what a DELIVER or an answer to SYNC brought.
func (o *onlooker) messages(messages []byte, count *uint64, delivered bool) error {
	r := o.r
	for len(messages) > 0 {
		v, rest, err := packet.NextMessage(messages)
		if err != nil {
			return fmt.Errorf("a message to %s: %w", o.user, err)
		}
		messages = rest
		switch {
		case v.Seq <= r.Base:
		case v.Seq <= o.mark:
			if delivered {
				r.copies.Repeats++
			}
		case v.Seq > o.mark+1:
			r.copies.Gaps++
			return o.pull()
		default:
			if !verify.SameBody(v.Content, 0, v.Seq-r.Base) || len(v.Content) != r.Body {
				r.copies.Changed++
			}
			o.mark = v.Seq
			*count++
			if r.have[v.Seq]++; r.have[v.Seq] == r.Count {
				delete(r.have, v.Seq)
				if err := r.out.Encode(sighting{Seq: v.Seq, At: clock()}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// pull asks for what is missing, one SYNC at a time.
func (o *onlooker) pull() error {
	if o.again = o.pulling; o.pulling {
		return nil
	}
	o.pulling = true
	out, err := packet.AppendBody(o.Out, frame.Sync, frame.FlagRequestID, syncIDs,
		&wire.Sync{Ranges: []*wire.SyncRange{{ConversationId: o.r.Conversation[:], FromSeq: o.mark + 1}}})
	if err != nil {
		return fmt.Errorf("encode a SYNC: %w", err)
	}
	o.Out = out
	return nil // Input's end sends it
}
