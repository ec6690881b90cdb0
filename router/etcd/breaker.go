package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/sony/gobreaker/v2"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrAway is the error of requests that are refused because the last ones brought no answer.
var ErrAway = errors.New("etcd hasn't answered lately")

// Who asks etcd does so once a second, one question at a time, and goes on with what is known: little piles up while it is away. So the
// breaker opens late, and is tried soon. A request that tries may take as long as its context allows: all share
// one connection, so that another one would fare no better.
const (
	breakerFailures = 3
	breakerOpen     = 500 * time.Millisecond
)

// breaker is that of a client: of its requests, not of watches, nor of renewals of leases, which the client keeps up by itself.
type breaker struct {
	cb       *gobreaker.CircuitBreaker[struct{}]
	keptBack atomic.Uint64
}

func newBreaker(log *slog.Logger) *breaker {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &breaker{cb: gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Name: "etcd", MaxRequests: 1, Timeout: breakerOpen,
		ReadyToTrip:  func(c gobreaker.Counts) bool { return c.ConsecutiveFailures >= breakerFailures },
		IsSuccessful: heard,
		IsExcluded:   func(err error) bool { return errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled },
		OnStateChange: func(_ string, from, to gobreaker.State) {
			level := slog.LevelDebug // while it is away it is tried again and again
			if from == gobreaker.StateClosed || to == gobreaker.StateClosed {
				level = slog.LevelInfo // those who ask say what comes of it
			}
			log.Log(context.Background(), level, "etcd's breaker has changed", "breaker", to.String(), "was", from.String())
		},
	})}
}

// heard reports whether etcd answered: it may have refused what was asked. Without a leader it answers that it can't.
func heard(err error) bool {
	if err == nil {
		return true
	}
	c := status.Code(err)
	var told rpctypes.EtcdError // what etcd says itself; the client keeps the code to it
	if errors.As(err, &told) {
		c = told.Code()
	}
	return c != codes.Unavailable && c != codes.DeadlineExceeded && !errors.Is(err, context.DeadlineExceeded)
}

// through makes a request, unless the breaker refuses it.
func through[T any](b *breaker, request func() (T, error)) (reply T, err error) {
	_, err = b.cb.Execute(func() (struct{}, error) {
		var err error
		reply, err = request()
		return struct{}{}, err
	})
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		b.keptBack.Add(1)
		err = fmt.Errorf("%w: %w", ErrAway, err)
	}
	return reply, err
}

// guard has the client's requests go through a breaker.
func guard(c *clientv3.Client, log *slog.Logger) {
	b := newBreaker(log)
	c.KV, c.Lease = &guardedKV{c.KV, b}, &guardedLease{c.Lease, b}
}

type guardedKV struct {
	clientv3.KV
	b *breaker
}

func (g *guardedKV) Get(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	return through(g.b, func() (*clientv3.GetResponse, error) { return g.KV.Get(ctx, key, opts...) })
}

func (g *guardedKV) Put(ctx context.Context, key, value string, opts ...clientv3.OpOption) (*clientv3.PutResponse, error) {
	return through(g.b, func() (*clientv3.PutResponse, error) { return g.KV.Put(ctx, key, value, opts...) })
}

func (g *guardedKV) Delete(ctx context.Context, key string, opts ...clientv3.OpOption) (*clientv3.DeleteResponse, error) {
	return through(g.b, func() (*clientv3.DeleteResponse, error) { return g.KV.Delete(ctx, key, opts...) })
}

func (g *guardedKV) Txn(ctx context.Context) clientv3.Txn { return &guardedTxn{g.KV.Txn(ctx), g.b} }

// guardedTxn wraps what the builder returns again and again.
type guardedTxn struct {
	txn clientv3.Txn
	b   *breaker
}

func (g *guardedTxn) If(cs ...clientv3.Cmp) clientv3.Txn   { g.txn = g.txn.If(cs...); return g }
func (g *guardedTxn) Then(ops ...clientv3.Op) clientv3.Txn { g.txn = g.txn.Then(ops...); return g }
func (g *guardedTxn) Else(ops ...clientv3.Op) clientv3.Txn { g.txn = g.txn.Else(ops...); return g }

func (g *guardedTxn) Commit() (*clientv3.TxnResponse, error) { return through(g.b, g.txn.Commit) }

type guardedLease struct {
	clientv3.Lease
	b *breaker
}

func (g *guardedLease) Grant(ctx context.Context, ttl int64) (*clientv3.LeaseGrantResponse, error) {
	return through(g.b, func() (*clientv3.LeaseGrantResponse, error) { return g.Lease.Grant(ctx, ttl) })
}

func (g *guardedLease) TimeToLive(ctx context.Context, lease clientv3.LeaseID, opts ...clientv3.LeaseOption) (*clientv3.LeaseTimeToLiveResponse, error) {
	return through(g.b, func() (*clientv3.LeaseTimeToLiveResponse, error) { return g.Lease.TimeToLive(ctx, lease, opts...) })
}

// Breaker returns the state of the breaker of a client that Dial returned (closed, half-open or open) and how many requests it has
// kept back.
func Breaker(c *clientv3.Client) (state string, keptBack uint64) {
	g, ok := c.KV.(*guardedKV)
	if !ok {
		return gobreaker.StateClosed.String(), 0
	}
	return g.b.cb.State().String(), g.b.keptBack.Load()
}
