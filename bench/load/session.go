// Package load speaks GoChat's protocol to a server, on one event loop: the
// scenarios of the benchmark, and the check of what the server made of them.
package load

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/gochat-im/gochat/bench/loop"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
)

// Target is the server under load.
type Target struct {
	Addr   netip.AddrPort
	Also   []netip.AddrPort                     // other edges of the same cluster: connections are spread over all
	WS     bool                                 // Addr is the HTTP listener: WebSockets carry the frames
	PID    int                                  // of a server on this machine; 0: its CPU and memory can't be told
	Nodes  []Process                            // of a cluster on this machine, instead of PID
	Token  func(user string) (string, error)    // an access token, signed by an issuer that the server knows
	Stats  func(context.Context) (Stats, error) // nil: the server has no metrics for us
	Issuer string                               // of the tokens, and
	Key    string                               // the file that signs them, for other processes of the load generator
	Users  string                               // what the users' names begin with
}

// Stats is what the server's metrics tell.
type Stats struct {
	Stored     float64 // messages
	Commits    float64
	Writes     Writes // to a store in memory; zero: unknown
	Goroutines float64
	TiKV       TiKV // zero: unknown
}

// TiKV is how commits were made there: by their way, and what they stored.
type TiKV struct {
	OnePhase     float64 `json:"one_phase"`
	Async        float64 `json:"async"`
	TwoPhase     float64 `json:"two_phase"`
	Transactions float64 `json:"transactions"` // stored by them
}

// Groups is the number of commits; each stores a group of transactions.
func (t TiKV) Groups() float64 { return t.OnePhase + t.Async + t.TwoPhase }

// OnePhaseShare is the part of the commits that took one phase, in percent; 0: there were none.
func (t TiKV) OnePhaseShare() float64 { return 100 * t.OnePhase / max(t.Groups(), 1) }

// PerGroup is the mean number of transactions of a commit.
func (t TiKV) PerGroup() float64 { return t.Transactions / max(t.Groups(), 1) }

// Plus adds up those of several nodes.
func (t TiKV) Plus(o TiKV) TiKV {
	return TiKV{t.OnePhase + o.OnePhase, t.Async + o.Async, t.TwoPhase + o.TwoPhase, t.Transactions + o.Transactions}
}

func (t TiKV) since(o TiKV) TiKV {
	return t.Plus(TiKV{-o.OnePhase, -o.Async, -o.TwoPhase, -o.Transactions})
}

// Writes are what was written to a store, or how much of it there is for each of something.
type Writes struct {
	Transactions float64 `json:"transactions"`
	Rows         float64 `json:"rows"`
	Bytes        float64 `json:"bytes"` // of keys and values
}

// since is what was written between o and w, times f.
func (w Writes) since(o Writes, f float64) Writes {
	return Writes{(w.Transactions - o.Transactions) * f, (w.Rows - o.Rows) * f, (w.Bytes - o.Bytes) * f}
}

func (w Writes) times(f float64) Writes { return w.since(Writes{}, f) }

func (t *Target) stats(ctx context.Context) (Stats, error) {
	if t.Stats == nil {
		return Stats{}, nil
	}
	s, err := t.Stats(ctx)
	if err != nil {
		return s, fmt.Errorf("read the server's metrics: %w", err)
	}
	return s, nil
}

// diskRead is how many bytes the server has had fetched from disks; 0: unknown.
func (t *Target) diskRead() int64 {
	if t.PID == 0 {
		return 0
	}
	return measure.DiskRead(t.PID)
}

// edge is where the i-th connection goes: users who stand side by side are at different ones.
func (t *Target) edge(i int) netip.AddrPort {
	if i %= 1 + len(t.Also); i > 0 {
		return t.Also[i-1]
	}
	return t.Addr
}

func (t *Target) user(n int) string { return fmt.Sprintf("%s%06d", t.Users, n) }

// Refused is an environment in which the scenario can't run: a server whose limits
// don't permit it, a token it doesn't take.
type Refused struct{ Reason string }

func (e *Refused) Error() string { return e.Reason }

// Failure is what the server, not the load generator, did wrong, so that the load couldn't go on.
type Failure struct{ Err error }

func (e *Failure) Error() string { return e.Err.Error() }

func (e *Failure) Unwrap() error { return e.Err }

func failure(format string, args ...any) error { return &Failure{fmt.Errorf(format, args...)} }

// blame makes err the server's failure, unless it is known to be something else.
func blame(err error) error {
	var refused *Refused
	if errors.As(err, &refused) {
		return err
	}
	return &Failure{err}
}

// maxFrame bounds what a server may send us.
const maxFrame = 1 << 20

// session is the connection of one user, up to its CONNACK.
type session struct {
	loop.Conn
	user  string
	token string
	ready bool
}

// connect puts the CONNECT into Out. heartbeat is in seconds, 0: the server's choice.
func (s *session) connect(heartbeat uint32) error {
	out, err := packet.AppendBody(s.Out, frame.Connect, frame.FlagRequestID, 1, &wire.Connect{
		Version: 1, Token: s.token, DeviceId: "bench", DeviceKind: wire.DeviceKind_DEVICE_KIND_BOT,
		Client: "gochat-bench", HeartbeatSeconds: heartbeat, InboxLimit: 1,
	})
	if err != nil {
		return fmt.Errorf("CONNECT: %w", err)
	}
	s.Out, s.token = out, ""
	return nil
}

// connack reads a CONNACK.
func (s *session) connack(f *frame.Frame) (*wire.Connack, error) {
	ack, err := packet.DecodeConnack(f.Body)
	if err != nil {
		return nil, fmt.Errorf("CONNACK of %s: %w", s.user, err)
	}
	if ack.UserId != s.user {
		return nil, fmt.Errorf("CONNACK: %q became %q", s.user, ack.UserId)
	}
	s.ready = true
	return ack, nil
}

// refusal reads an ERROR.
func (s *session) refusal(f *frame.Frame) *code.Error {
	told, _, err := packet.DecodeError(f.Body)
	if err != nil {
		return err
	}
	return told
}

// ended returns the error for a frame with which the server ends the connection.
func (s *session) ended(f *frame.Frame) error {
	if f.Type == frame.Error {
		e := s.refusal(f)
		if !s.ready {
			return &Refused{fmt.Sprintf("the server refused %s: %v", s.user, e)}
		}
		return fmt.Errorf("the server closed the connection of %s: %w", s.user, e)
	}
	return fmt.Errorf("the server sent %s to %s", f.Type, s.user)
}

var ping = frame.Append(nil, frame.Ping, 0, 0, nil)

// permitted compares what is to be sent with what the server's CONNACK allows: bodies, SENDs
// without an answer on a connection, and, unless rate is 0, SENDs a second of a connection.
func permitted(l *wire.Limits, body, underway int, rate float64) error {
	if l == nil {
		return failure("the server's CONNACK has no limits")
	}
	if l.MaxContent > 0 && body > int(l.MaxContent) {
		return &Refused{fmt.Sprintf("bodies of %d bytes: the server allows %d", body, l.MaxContent)}
	}
	if l.MaxInflight > 0 && underway > int(l.MaxInflight) {
		return &Refused{fmt.Sprintf("%d messages under way a connection: the server allows %d (limits.inflight)", underway, l.MaxInflight)}
	}
	if rate > 0 && l.SendsPerSecond > 0 && rate > float64(l.SendsPerSecond) {
		return &Refused{fmt.Sprintf("%.0f messages a second a connection: the server allows %d (limits.sends_per_second)", rate, l.SendsPerSecond)}
	}
	return nil
}

// dialer opens connections, a limited number at a time, since a server's accept
// queue and its limit on unauthenticated connections are limited, too.
type dialer struct {
	target  *Target
	loop    *loop.Loop
	sources []netip.Addr     // taken in turn; empty: the system's choice
	narrow  func(i int) bool // which connections' sockets take little that isn't read; nil: none
	most    int              // handshakes at a time; 0: handshakesAtOnce
	begun   int
}

// narrowBuffer is the receive buffer of a connection over a narrow link: between processes of one machine
// the kernel would otherwise take hundreds of kilobytes from the server for somebody who doesn't read.
const narrowBuffer = 4 << 10

// wideBuffer is what such a connection has when its owner is back on a good link: a narrow one would take seconds for what waits.
const wideBuffer = 256 << 10

const handshakesAtOnce = 200

// more dials until enough handshakes are under way; ready counts those through.
func (d *dialer) more(ready, n int, at func(i int) (*session, loop.Handler)) error {
	most := d.most
	if most == 0 {
		most = handshakesAtOnce
	}
	for d.begun < n && d.begun-ready < most {
		s, h := at(d.begun)
		token, err := d.target.Token(s.user)
		if err != nil {
			return fmt.Errorf("token of %s: %w", s.user, err)
		}
		s.token = token
		link := loop.Link{Source: d.source(d.begun)}
		if d.narrow != nil && d.narrow(d.begun) {
			link.Receive = narrowBuffer
		}
		if err := d.loop.DialOver(&s.Conn, d.target.over(&s.Conn, h), d.target.edge(d.begun), link); err != nil {
			return err
		}
		d.begun++
	}
	return nil
}

// source is the address from which the i-th connection comes.
func (d *dialer) source(i int) netip.Addr {
	if len(d.sources) == 0 {
		return netip.Addr{}
	}
	return d.sources[i%len(d.sources)]
}
