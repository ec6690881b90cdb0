// Package remote implements the ports of edges, and of whoever else needs another
// node, by asking the router: what this node is responsible for is a call of its own services, the
// rest a call of the node that is.
package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudwego/kitex/client"
	"github.com/cloudwego/kitex/client/callopt"
	"github.com/cloudwego/kitex/pkg/kerrors"
	kitex "github.com/cloudwego/kitex/pkg/remote"
	"github.com/cloudwego/kitex/pkg/remote/codec"
	"github.com/cloudwego/kitex/pkg/remote/trans/gonet"
	"github.com/cloudwego/kitex/pkg/transmeta"
	"github.com/cloudwego/kitex/transport"
	"github.com/sony/gobreaker/v2"

	"github.com/gochat-im/gochat/kitex_gen/edge/edge"
	"github.com/gochat-im/gochat/kitex_gen/logic/logic"
	"github.com/gochat-im/gochat/kitex_gen/node"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/services/link"
)

// PoolConfig is what a Pool is made of. Zero means the default that stands with each field.
type PoolConfig struct {
	Self string    // id of this node; required
	Keys link.Keys // of the cluster; required

	Timeout  time.Duration // of a call whose context allows more; default 10 s
	Connect  time.Duration // for a connection and its handshake; default 2 s
	MaxCalls int           // under way to one node, which is the number of connections to it, too; what comes beyond waits; default 64

	Failures uint32        // in a row after which a node's breaker opens; default 5
	Silence  time.Duration // since the last answer of a node, after which two in a row are enough: a node that hangs, or can't be reached, fails few calls, but slowly; default 3 s
	Open     time.Duration // how long it stays open before a call may try; default 1 s

	Retries int // calls a second that may be made once more, and twice as many at once; default 50; negative: none

	Logger *slog.Logger // default: discards
}

// Validate reports what is wrong.
func (c *PoolConfig) Validate() error {
	var errs []error
	if c.Self == "" {
		errs = append(errs, errors.New("remote: this node has no id"))
	}
	if err := c.Keys.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("remote: %w", err))
	}
	if min(c.Timeout, c.Connect, c.Open, c.Silence) < 0 || c.MaxCalls < 0 {
		errs = append(errs, errors.New("remote: a limit is negative"))
	}
	return errors.Join(errs...)
}

func (c *PoolConfig) setDefaults() {
	dur := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	dur(&c.Timeout, 10*time.Second)
	dur(&c.Connect, 2*time.Second)
	dur(&c.Open, time.Second)
	dur(&c.Silence, 3*time.Second)
	if c.MaxCalls == 0 {
		c.MaxCalls = 64
	}
	if c.Failures == 0 {
		c.Failures = 5
	}
	if c.Retries == 0 {
		c.Retries = 50
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// Pool calls other nodes: one Kitex client for each service, to any node, on connections that
// are kept, with a circuit breaker for each node. It is safe for concurrent use.
type Pool struct {
	cfg   PoolConfig
	conns *conns
	logic logic.Client
	edge  edge.Client
	retry budget

	mu    sync.RWMutex
	peers map[string]*peer // by address

	done chan struct{}
	once sync.Once
}

// peer is a node that was called.
type peer struct {
	addr    string
	opts    []callopt.Option // shared, read only
	slots   chan struct{}
	breaker *gobreaker.CircuitBreaker[struct{}]
	used    atomic.Int64 // Unix seconds of the last call
	heard   atomic.Int64 // Unix nanoseconds of the last answer; at first: of the first call
	life    atomic.Pointer[life]

	calls, failed, shed atomic.Uint64
}

// life lasts from a node's coming until a while after its leaving; calls end with it.
type life struct {
	context.Context
	end context.CancelFunc
}

func newLife() *life {
	ctx, end := context.WithCancel(context.Background())
	return &life{ctx, end}
}

// NewPool returns a Pool. One goroutine of it closes unused connections, until Close.
func NewPool(cfg PoolConfig) (*Pool, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg.setDefaults()
	_, conf, err := cfg.Keys.TLS()
	if err != nil {
		return nil, fmt.Errorf("remote: %w", err)
	}
	link.BridgeLogs(cfg.Logger)
	p := &Pool{
		cfg: cfg, conns: &conns{tls: conf, connect: cfg.Connect, idle: make(map[string][]*connection), dialing: make(map[string]*dialing)},
		peers: make(map[string]*peer), done: make(chan struct{}),
	}
	p.retry.rate = cfg.Retries
	if p.logic, err = logic.NewClient("logic", p.options()...); err != nil {
		return nil, fmt.Errorf("remote: making the client of logic: %w", err)
	}
	if p.edge, err = edge.NewClient("edge", p.options()...); err != nil {
		return nil, fmt.Errorf("remote: making the client of edges and the directory: %w", err)
	}
	go p.run()
	return p, nil
}

// options are those of every service's client.
func (p *Pool) options() []client.Option {
	return []client.Option{
		client.WithTransportProtocol(transport.TTHeader),
		client.WithMetaHandler(transmeta.ClientTTHeaderHandler),
		client.WithTransHandlerFactory(gonet.NewCliTransHandlerFactory()),
		client.WithDialer(dialer{}),
		client.WithConnPool(p.conns),
		client.WithCodec(codec.NewDefaultCodecWithSizeLimit(link.MaxMessage)),
	}
}

// Close closes the connections. Calls that are under way come to their end; nobody may call any more.
func (p *Pool) Close() {
	p.once.Do(func() {
		close(p.done)
		p.conns.closeAll()
	})
}

// forgetPeer is after how many seconds without a call a node's breaker and counts are forgotten.
const forgetPeer = 3600

func (p *Pool) run() {
	ticks := time.NewTicker(30 * time.Second)
	defer ticks.Stop()
	for {
		select {
		case <-p.done:
			return
		case now := <-ticks.C:
			p.conns.sweep(now)
			p.mu.Lock()
			for addr, n := range p.peers {
				if now.Unix()-n.used.Load() > forgetPeer && len(n.slots) == 0 {
					delete(p.peers, addr)
				}
			}
			p.mu.Unlock()
		}
	}
}

func (p *Pool) peer(addr string) *peer {
	p.mu.RLock()
	n := p.peers[addr]
	p.mu.RUnlock()
	if n != nil {
		return n
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n = p.peers[addr]; n != nil {
		return n
	}
	n = &peer{addr: addr, opts: []callopt.Option{callopt.WithHostPort(addr)}, slots: make(chan struct{}, p.cfg.MaxCalls)}
	n.used.Store(time.Now().Unix())
	n.heard.Store(time.Now().UnixNano())
	n.life.Store(newLife())
	log := p.cfg.Logger
	n.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: addr, MaxRequests: 1, Timeout: p.cfg.Open,
		ReadyToTrip: func(c gobreaker.Counts) bool {
			return c.ConsecutiveFailures >= p.cfg.Failures || c.ConsecutiveFailures >= 2 && time.Since(time.Unix(0, n.heard.Load())) >= p.cfg.Silence
		},
		IsSuccessful: func(err error) bool { return err == nil },
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) },
		OnStateChange: func(addr string, from, to gobreaker.State) {
			log.Warn("calls to a node", "addr", addr, "breaker", to.String(), "was", from.String())
		},
	})
	p.peers[addr] = n
	return n
}

// lastAnswers is for how long a node that left may still answer the calls that it has: one that leaves in order does.
const lastAnswers = 500 * time.Millisecond

// Left tells that the node at addr is no longer one of the cluster. Calls of it that are under way half a second later end with
// Undetermined: one that is frozen, or cut off, would hold up what has another owner by now until their time is over.
// Calls that begin later are not concerned. It does not block.
func (p *Pool) Left(addr string) {
	p.mu.RLock()
	n := p.peers[addr]
	p.mu.RUnlock()
	if n != nil {
		time.AfterFunc(lastAnswers, n.life.Swap(newLife()).end)
	}
}

// shut reports whether calls to the node at addr are kept back now, because the last ones failed.
func (p *Pool) shut(addr string) bool {
	p.mu.RLock()
	n := p.peers[addr]
	p.mu.RUnlock()
	return n != nil && n.breaker.State() == gobreaker.StateOpen
}

// PeerStats are counts of the calls to one node.
type PeerStats struct {
	Addr    string
	Breaker string // closed, half-open or open
	Busy    int    // calls under way
	Calls   uint64
	Failed  uint64 // of them: no answer came
	Shed    uint64 // calls that the open breaker kept back
}

// Stats returns the counts of every node that was called lately, in no order, and how many connections are open.
func (p *Pool) Stats() (peers []PeerStats, open int) {
	p.mu.RLock()
	for _, n := range p.peers {
		peers = append(peers, PeerStats{
			Addr: n.addr, Breaker: n.breaker.State().String(), Busy: len(n.slots),
			Calls: n.calls.Load(), Failed: n.failed.Load(), Shed: n.shed.Load(),
		})
	}
	p.mu.RUnlock()
	p.conns.mu.Lock()
	defer p.conns.mu.Unlock()
	return peers, p.conns.open
}

// replied is a reply: all have a failure.
type replied interface{ GetFailure() *node.Failure }

// Unsent reports whether err, of a call, means that nothing of it was done: it never left, or was refused before any work.
func Unsent(err error) bool { return errors.Is(err, errUnsent) }

// invoke makes one call of the node at addr. c is the part of req that says who calls. The call ends with
// ctx and never later than the Pool's Timeout; the other side is told the same deadline, and of the cancellation.
//
// Errors are a *link.WrongNode or a *code.Error: the other side's, or Unavailable if the call was never sent (Unsent), or
// Undetermined if it was, and no answer came.
func invoke[Q any, R replied](ctx context.Context, p *Pool, addr string, c *node.Call, req Q, do func(context.Context, Q, ...callopt.Option) (R, error)) (R, error) {
	n := p.peer(addr)
	n.used.Store(time.Now().Unix())
	var reply R
	left, ms := link.Left(ctx, p.cfg.Timeout)
	c.TimeoutMs = ms
	ctx, cancel := context.WithTimeout(ctx, left)
	defer cancel()
	life := n.life.Load()
	defer context.AfterFunc(life, cancel)()
	select {
	case n.slots <- struct{}{}:
	default:
		select {
		case n.slots <- struct{}{}:
		case <-ctx.Done():
			return reply, unsent(code.Overloaded, ctx.Err())
		}
	}
	defer func() { <-n.slots }()
	var failure error // of a call that was answered
	_, err := n.breaker.Execute(func() (_ struct{}, err error) {
		n.calls.Add(1)
		reply, err = do(context.WithValue(context.Background(), calling{}, ctx), req, n.opts...)
		var told *kitex.TransError
		switch {
		case err == nil:
			failure = link.ErrorOf(reply.GetFailure())
		case errors.As(err, &told) && code.Code(told.TypeID()) == code.Overloaded: // before any work
			failure = unsent(code.Overloaded, errors.New("the node has too many calls under way"))
			err = nil
		case errors.As(err, &told) && code.Code(told.TypeID()) == code.Internal:
			failure = code.Wrap(code.Internal, errors.New("the node failed"))
			err = nil
		case errors.As(err, &told) && (told.TypeID() == kitex.UnknownService || told.TypeID() == kitex.UnknownMethod):
			failure = unsent(code.Unavailable, err)
			err = nil
		case life.Err() != nil:
			err = fmt.Errorf("%w: %w", errLeft, err)
		case errors.Is(context.Cause(ctx), context.Canceled):
			err = fmt.Errorf("calling %s: %w: %w", addr, context.Canceled, err)
		}
		if err == nil {
			n.heard.Store(time.Now().UnixNano())
		}
		return struct{}{}, err
	})
	switch {
	case err == nil:
		return reply, failure
	case errors.Is(err, gobreaker.ErrOpenState), errors.Is(err, gobreaker.ErrTooManyRequests):
		n.shed.Add(1)
		e := code.Wrap(code.Unavailable, fmt.Errorf("calling %s: %w: %w", addr, errUnsent, err))
		e.RetryAfter = max(e.RetryAfter, p.cfg.Open)
		return reply, e
	}
	n.failed.Add(1)
	if errors.Is(err, kerrors.ErrGetConnection) {
		return reply, unsent(code.Unavailable, err)
	}
	return reply, code.Wrap(code.Undetermined, fmt.Errorf("calling %s: %w", addr, err))
}

var errLeft = errors.New("the node has left the cluster")

func unsent(c code.Code, cause error) *code.Error {
	return code.Wrap(c, fmt.Errorf("%w: %w", errUnsent, cause))
}

// budget bounds retries: what fails because of an overload must not be made worse by trying again.
type budget struct {
	rate int

	mu   sync.Mutex
	left float64
	at   time.Time
}

// take reports whether one more retry is allowed.
func (b *budget) take() bool {
	if b.rate <= 0 {
		return false
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at.IsZero() {
		b.left = 2 * float64(b.rate)
	} else {
		b.left = min(2*float64(b.rate), b.left+now.Sub(b.at).Seconds()*float64(b.rate))
	}
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
