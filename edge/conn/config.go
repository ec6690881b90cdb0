package conn

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/packet"
	"github.com/gochat-im/gochat/protocol/trace"
)

// Config holds what all connections of a process have in common. Zero values mean
// the default given with each field.
type Config struct {
	Server     string // name and version in CONNACK; "gochat"
	StoreEpoch uint64 // of the store, in CONNACK

	Packet   packet.Limits // of a message; packet.DefaultLimits
	MaxFrame int           // bytes; 128 KiB
	MaxPage  int           // messages a SYNC range or HISTORY answers; 200

	Handshake    time.Duration // from accept to CONNACK; 10 s
	Heartbeat    time.Duration // silence allowed unless the client asks for another; 60 s
	HeartbeatMin time.Duration // 15 s
	HeartbeatMax time.Duration // 10 min
	Resume       time.Duration // how long a resume token holds after its CONNACK; 10 min

	SendsPerSecond     int // of a connection, bursts of twice as many; 50
	UserSendsPerSecond int // of all connections of a user, bursts of twice as many; 100
	BytesPerSecond     int // of a connection, bursts of four times as many; 256 KiB
	FramesPerSecond    int // of a connection, of any type but RECVACK, bursts of four times as many; 4 x SendsPerSecond + 100
	MaxInflight        int // SENDs of a connection without an answer; 256

	QueueBytes  int           // outbound, beyond what is being written, before deliveries are dropped; 256 KiB
	QueueFrames int           // the same in frames; 1024
	QueueTotal  int64         // outbound of all clients that read slowly, before they are delivered nothing more; 256 MiB
	ReplyBytes  int           // outbound, before a client that asks without reading is closed; QueueBytes + 1 MiB
	Stalled     time.Duration // a client that reads nothing for this long is closed; 30 s
	Linger      time.Duration // from the last frame to the hard close; 2 s
	MaxPartial  int64         // bytes of unfinished frames of all connections; 64 MiB

	Calls       int           // service calls under way in all connections; 64 x GOMAXPROCS
	Auths       int           // authentications under way; 16 x GOMAXPROCS
	CallTimeout time.Duration // for each of them; 10 s
	InboxPage   int           // conversations in CONNACK unless the client asks otherwise, and at most; 100

	// Slow is the time from which on a SYNC or REQUEST is logged as slow; 0: none is.
	// Lines name their request if the Logger's handler is a trace.Handler.
	Slow   time.Duration
	Logger *slog.Logger // nothing is logged by default
}

// Smallest and largest values that make sense.
const (
	minMaxFrame  = 16 << 10
	maxFrameWrap = 1 << 10 // what a frame needs around a message of the largest content
)

func (c *Config) defaults() {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if c.Server == "" {
		c.Server = "gochat"
	}
	if c.Packet == (packet.Limits{}) {
		c.Packet = packet.DefaultLimits
	}
	def(&c.MaxFrame, frame.DefaultMax)
	def(&c.MaxPage, 200)
	dur(&c.Handshake, 10*time.Second)
	dur(&c.Heartbeat, time.Minute)
	dur(&c.HeartbeatMin, min(15*time.Second, c.Heartbeat))
	dur(&c.HeartbeatMax, max(10*time.Minute, c.Heartbeat))
	dur(&c.Resume, 10*time.Minute)
	def(&c.SendsPerSecond, 50)
	def(&c.UserSendsPerSecond, 2*c.SendsPerSecond)
	def(&c.BytesPerSecond, 256<<10)
	def(&c.FramesPerSecond, 4*c.SendsPerSecond+100)
	def(&c.MaxInflight, 256)
	def(&c.QueueBytes, 256<<10)
	def(&c.QueueFrames, 1024)
	def(&c.ReplyBytes, c.QueueBytes+1<<20)
	dur(&c.Stalled, 30*time.Second)
	dur(&c.Linger, 2*time.Second)
	if c.QueueTotal == 0 {
		c.QueueTotal = 256 << 20
	}
	if c.MaxPartial == 0 {
		c.MaxPartial = 64 << 20
	}
	def(&c.Calls, 64*runtime.GOMAXPROCS(0))
	def(&c.Auths, 16*runtime.GOMAXPROCS(0))
	dur(&c.CallTimeout, 10*time.Second)
	def(&c.InboxPage, 100)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Validate reports everything that is wrong with c.
func (c Config) Validate() error {
	c.defaults()
	var errs []error
	for _, f := range []struct {
		name string
		v    int64
	}{
		{"max page", int64(c.MaxPage)}, {"handshake", int64(c.Handshake)}, {"heartbeat min", int64(c.HeartbeatMin)},
		{"resume", int64(c.Resume)}, {"sends per second", int64(c.SendsPerSecond)}, {"user sends per second", int64(c.UserSendsPerSecond)},
		{"bytes per second", int64(c.BytesPerSecond)}, {"frames per second", int64(c.FramesPerSecond)}, {"max inflight", int64(c.MaxInflight)},
		{"queue bytes", int64(c.QueueBytes)}, {"queue frames", int64(c.QueueFrames)}, {"queue total", c.QueueTotal}, {"reply bytes", int64(c.ReplyBytes)},
		{"stalled", int64(c.Stalled)}, {"linger", int64(c.Linger)}, {"max partial", c.MaxPartial}, {"calls", int64(c.Calls)},
		{"auths", int64(c.Auths)}, {"call timeout", int64(c.CallTimeout)}, {"inbox page", int64(c.InboxPage)},
	} {
		if f.v <= 0 {
			errs = append(errs, fmt.Errorf("connections: %s %d: want more than 0", f.name, f.v))
		}
	}
	if c.HeartbeatMin > c.Heartbeat || c.Heartbeat > c.HeartbeatMax {
		errs = append(errs, fmt.Errorf("connections: heartbeat %v: want it within %v and %v", c.Heartbeat, c.HeartbeatMin, c.HeartbeatMax))
	}
	if c.HeartbeatMax > 12*time.Hour {
		errs = append(errs, fmt.Errorf("connections: heartbeat max %v: want at most 12h", c.HeartbeatMax))
	}
	if need := max(minMaxFrame, c.Packet.MaxContent+c.Packet.MaxExt+maxFrameWrap); c.MaxFrame < need || c.MaxFrame > frame.HardMax {
		errs = append(errs, fmt.Errorf("connections: max frame %d: want %d to %d", c.MaxFrame, need, frame.HardMax))
	}
	if c.Slow < 0 {
		errs = append(errs, fmt.Errorf("connections: slow %v: want 0 or more", c.Slow))
	}
	if c.ReplyBytes < c.QueueBytes {
		errs = append(errs, fmt.Errorf("connections: reply bytes %d: want at least the queue's %d", c.ReplyBytes, c.QueueBytes))
	}
	return errors.Join(errs...)
}

// Edge is what the connections of a process share. Make it with NewEdge.
type Edge struct {
	cfg     Config
	svc     Services
	methods map[packet.Method]Method // of svc, and those about conversations
	host    Host
	log     *slog.Logger

	allowed    atomic.Pointer[allowance] // replaced by Allow
	strikeRate rate

	calls   chan struct{} // a slot for each service call under way
	auths   chan struct{}
	partial atomic.Int64 // bytes of unfinished frames
	held    atomic.Int64 // bytes that wait for clients that read slowly

	bufs     bufferPool
	pages    pagePool
	flooders flooders
	stats    counters

	calmly trace.Pace // lines about slow calls and those that failed

	now func() int64 // ns since the process began
}

// strikes a connection may collect by being refused before it is closed as flooding,
// and how many of them are forgiven a second.
//
// A client that was refused part of what it sent has the rest of the lane refused as well,
// and sends all of it again, as it should: up to MaxInflight SENDs, twice a second. So
// SENDs that come behind a refused one, or again, count for little; for nothing they can't,
// or the resend flag would make any amount of work free.
const (
	strikesAllowed   = 1024
	strikesPerSecond = 64
	strike           = 16 // what a refusal counts,
	strikeResent     = 3  // and that of a SEND behind another one or sent again: 340 a second are forgiven
)

// NewEdge checks cfg and returns the shared part of all connections that h keeps.
func NewEdge(cfg Config, svc Services, h Host) (*Edge, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if svc.Authenticator == nil || svc.Conversations == nil || svc.Sessions == nil || svc.Signals == nil || h == nil {
		return nil, errors.New("connections: a service is missing")
	}
	cfg.defaults()
	e := &Edge{
		cfg: cfg, svc: svc, host: h, log: cfg.Logger,
		strikeRate: perSecond(strike*strikesPerSecond, strikesAllowed/strikesPerSecond),
		calls:      make(chan struct{}, cfg.Calls),
		auths:      make(chan struct{}, cfg.Auths),
	}
	e.methods = ConversationMethods(svc.Conversations, cfg.InboxPage)
	maps.Copy(e.methods, svc.Methods)
	e.Allow(Allowance{
		SendsPerSecond: cfg.SendsPerSecond, UserSendsPerSecond: cfg.UserSendsPerSecond, BytesPerSecond: cfg.BytesPerSecond,
		FramesPerSecond: cfg.FramesPerSecond, MaxInflight: cfg.MaxInflight,
	})
	e.now = trace.Now
	return e, nil
}

// Config returns the configuration with its defaults filled in.
func (e *Edge) Config() Config { return e.cfg }

// withSlot runs fn in one of the slots, waiting for it until ctx ends. The slot comes
// back even if fn panics.
func withSlot(ctx context.Context, slots chan struct{}, fn func() *code.Error) *code.Error {
	select {
	case slots <- struct{}{}:
	default:
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return code.New(code.Overloaded)
		}
	}
	defer func() { <-slots }()
	return fn()
}
