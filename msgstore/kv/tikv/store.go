// Package tikv is the kv.Store that nodes share: TiKV, by its own Go client.
//
// Transactions given by any number of goroutines are gathered by region. Those of one
// region are committed together as one transaction of TiKV's, which is one round trip
// ("1PC") while they lie in that region alone; while it is under way the next gather. Several
// regions commit in parallel. A transaction that spans regions is committed by itself.
//
// Requirements are judged here, against the values at the start of TiKV's transaction, which
// refuses it if a key that it writes has changed since: that is the contract's snapshot isolation.
//
// The client's library keeps its logger, TLS files and largest commit for the whole process; Open sets them.
package tikv

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/pingcap/kvproto/pkg/kvrpcpb"
	"github.com/tikv/client-go/v2/config"
	tikverr "github.com/tikv/client-go/v2/error"
	clientkv "github.com/tikv/client-go/v2/kv"
	"github.com/tikv/client-go/v2/oracle"
	clienttikv "github.com/tikv/client-go/v2/tikv"
	"github.com/tikv/client-go/v2/txnkv/transaction"
	"github.com/tikv/client-go/v2/txnkv/txnsnapshot"
	pd "github.com/tikv/pd/client"
	pdhttp "github.com/tikv/pd/client/http"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Store is a kv.Store on TiKV. Stamps() is false: nothing of TiKV's grows in commit order.
type Store struct {
	cfg    Config
	log    *slog.Logger
	client *clienttikv.KVStore
	pd     pd.Client
	encode func(key []byte) []byte // as regions' bounds are written

	ctx     context.Context // ends with the store
	cancel  context.CancelFunc
	inside  inside
	lanes   lanes
	breaker *breaker
	totals  totals
}

// inside counts the calls that use the client, so that Close can wait for them.
type inside struct {
	mu     sync.RWMutex
	closed bool
	calls  sync.WaitGroup
}

func (i *inside) enter() bool {
	i.mu.RLock()
	defer i.mu.RUnlock()
	if i.closed {
		return false
	}
	i.calls.Add(1)
	return true
}

func (i *inside) leave() { i.calls.Done() }

// close lets nobody in any more; false: it was closed before.
func (i *inside) close() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	was := i.closed
	i.closed = true
	return !was
}

// Open connects to the cluster; it returns when PD has answered, or ctx ended. Whoever opened the Store closes it.
func Open(ctx context.Context, c Config) (*Store, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	c = c.withDefaults()
	bridge(c.Logger)
	config.UpdateGlobal(func(g *config.Config) {
		g.Security = config.NewSecurity(c.TLS.CA, c.TLS.Cert, c.TLS.Key, nil)
	})
	type opened struct {
		s   *Store
		err error
	}
	done := make(chan opened, 1)
	go func() { // the library connects without a context, and gives up by itself after a while
		s, err := dial(c)
		done <- opened{s, err}
	}()
	select {
	case o := <-done:
		return o.s, o.err
	case <-ctx.Done():
		go func() {
			if o := <-done; o.err == nil {
				o.s.Close()
			}
		}()
		return nil, fmt.Errorf("reach PD at %v: %w: %w", c.PD, kv.ErrUnavailable, ctx.Err())
	}
}

func dial(c Config) (*Store, error) {
	plain, err := clienttikv.NewPDClient(c.PD)
	if err != nil {
		return nil, fmt.Errorf("reach PD at %v: %w: %w", c.PD, kv.ErrUnavailable, err)
	}
	codec := clienttikv.NewCodecPDClient(clienttikv.ModeTxn, plain)
	if c.Keyspace != "" {
		if codec, err = clienttikv.NewCodecPDClientWithKeyspace(clienttikv.ModeTxn, plain, c.Keyspace); err != nil {
			plain.Close()
			return nil, fmt.Errorf("keyspace %q: %w", c.Keyspace, err)
		}
	}
	security := config.GetGlobalConfig().Security
	tlsConfig, err := security.ToTLSConfig()
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("TLS files: %w", err)
	}
	safePoints, err := clienttikv.NewEtcdSafePointKV(c.PD, tlsConfig, clienttikv.WithPrefix(gcPrefix))
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("reach PD's etcd at %v: %w", c.PD, err)
	}
	rpc := clienttikv.NewRPCClient(clienttikv.WithSecurity(security), clienttikv.WithCodec(codec.GetCodec()))
	client, err := clienttikv.NewKVStore(fmt.Sprintf("tikv-%d", plain.GetClusterID(context.Background())), codec, safePoints, rpc,
		clienttikv.WithPDHTTPClient("gochat", c.PD, pdhttp.WithTLSConfig(tlsConfig)))
	if err != nil {
		plain.Close()
		return nil, errors.Join(fmt.Errorf("open client: %w", err), safePoints.Close())
	}
	s := New(client, c)
	s.pd, s.encode = codec, codec.GetCodec().EncodeRegionKey
	return s, nil
}

// New makes a Store of a client that was opened elsewhere, as a mock cluster's; of c it takes the
// logger, the limits and the callbacks. The Store closes the client. It can't collect garbage.
func New(client *clienttikv.KVStore, c Config) *Store {
	c = c.withDefaults()
	bridge(c.Logger)
	// What is larger than this silently takes two phases.
	if need := uint64(2 * kv.MaxTx); clientkv.TxnCommitBatchSize.Load() < need {
		clientkv.TxnCommitBatchSize.Store(need)
	}
	s := &Store{
		cfg:    c,
		log:    c.Logger.With("component", "tikv"),
		client: client,
		pd:     client.GetPDClient(),
		encode: func(key []byte) []byte { return key },
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.lanes.init(c.Parallel)
	s.breaker = newBreaker(c.Breaker, s.log, s.shut)
	return s
}

// Stamps tells that SetStamped does not work here.
func (s *Store) Stamps() bool { return false }

// Close ends the store when the calls that are under way have ended.
func (s *Store) Close() error {
	if !s.inside.close() {
		return kv.ErrClosed
	}
	s.inside.calls.Wait()
	s.cancel()
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("close client of TiKV: %w", err)
	}
	return nil
}

// timestamp gets one from PD: later than every commit that was acknowledged before.
func (s *Store) timestamp(ctx context.Context) (uint64, error) {
	ts, err := s.client.GetTimestampWithRetry(clienttikv.NewBackofferWithVars(ctx, transaction.TsoMaxBackoff, nil), oracle.GlobalTxnScope)
	if err != nil {
		return 0, fmt.Errorf("timestamp of PD: %w", err)
	}
	return ts, nil
}

// reading is what is committed as of one moment.
type reading struct {
	s    *Store
	ctx  context.Context
	snap *txnsnapshot.KVSnapshot
	pass *passage // for the next request; nil: it needs one of its own
}

// ask makes one request for r, unless the breaker refuses it.
func ask[T any](r *reading, request func() (T, error)) (reply T, err error) {
	p := r.pass
	if r.pass = nil; p == nil {
		if p, err = r.s.breaker.enter(1); err != nil {
			return reply, err
		}
	}
	reply, err = request()
	p.end(readJudgement(r.ctx, err))
	return reply, err
}

// release gives up the passage that wasn't used.
func (r *reading) release() {
	if r.pass != nil {
		r.pass.end(nothing)
		r.pass = nil
	}
}

// read runs fn on what is committed now.
func (s *Store) read(ctx context.Context, what string, fn func(r *reading) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if !s.inside.enter() {
		return fmt.Errorf("%s: %w", what, kv.ErrClosed)
	}
	defer s.inside.leave()
	p, err := s.breaker.enter(1)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	ts, err := s.timestamp(ctx)
	if err != nil {
		p.end(readJudgement(ctx, err))
		return readError(ctx, what, err)
	}
	r := s.at(ctx, ts)
	r.pass = p
	defer r.release()
	return fn(r)
}

// at returns what is committed as of a timestamp.
func (s *Store) at(ctx context.Context, ts uint64) *reading {
	snap := s.client.GetSnapshot(ts)
	snap.SetIsolationLevel(txnsnapshot.SI)
	return &reading{s: s, ctx: ctx, snap: snap}
}

// readError wraps what the client returned for a read.
func readError(ctx context.Context, what string, err error) error {
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s: %w: %w", what, ctxErr, err)
	}
	if errors.Is(err, kv.ErrUnavailable) { // the breaker's
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, kv.ErrUnavailable, err)
}

// Get returns key's value, nil if it has none.
func (s *Store) Get(ctx context.Context, key []byte) (value []byte, err error) {
	err = s.read(ctx, "get", func(r *reading) error {
		value, err = r.get(key)
		return err
	})
	return value, err
}

// storable tells whether a key can have a value here.
func storable(key []byte) bool {
	return len(key) > 0 && len(key) <= kv.MaxKey && !kv.Reserved(key)
}

func (r *reading) get(key []byte) ([]byte, error) {
	if !storable(key) {
		return nil, nil
	}
	entry, err := ask(r, func() (clientkv.ValueEntry, error) {
		entry, err := r.snap.Get(r.ctx, key)
		if tikverr.IsErrNotFound(err) {
			return clientkv.ValueEntry{}, nil
		}
		return entry, err
	})
	if err != nil {
		return nil, readError(r.ctx, fmt.Sprintf("get %x", key), err)
	}
	return owned(entry.Value), nil
}

// MultiGet returns the values of keys as of one moment.
func (s *Store) MultiGet(ctx context.Context, keys [][]byte) (values [][]byte, err error) {
	err = s.read(ctx, "multi-get", func(r *reading) error {
		values, err = r.multiGet(keys)
		return err
	})
	return values, err
}

func (r *reading) multiGet(keys [][]byte) ([][]byte, error) {
	values := make([][]byte, len(keys))
	some := distinct(keys)
	if len(some) == 0 {
		return values, nil
	}
	found, err := ask(r, func() (map[string]clientkv.ValueEntry, error) { return r.snap.BatchGet(r.ctx, some) })
	if err != nil {
		return nil, readError(r.ctx, "multi-get", err)
	}
	for i, k := range keys {
		if v, ok := found[string(k)]; ok {
			values[i] = owned(v.Value)
		}
	}
	return values, nil
}

// distinct returns the keys that can have values, each once.
func distinct(keys [][]byte) [][]byte {
	ask := make([][]byte, 0, len(keys))
	asked := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		if _, twice := asked[string(k)]; !twice && storable(k) {
			asked[string(k)] = struct{}{}
			ask = append(ask, k)
		}
	}
	return ask
}

// owned returns a value that shares memory with nothing; the client's snapshots keep theirs.
func owned(v []byte) []byte { return append([]byte(nil), v...) }

var _ kv.Store = (*Store)(nil)

// diskFull is how TiKV is told that a transaction makes room.
const diskFull = kvrpcpb.DiskFullOpt_AllowedOnAlmostFull
