package migration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/faultkv"
	"github.com/gochat-im/gochat/msgstore/kv/loopkv"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv"
	"github.com/gochat-im/gochat/msgstore/kv/tikv/tikvtest"
	"github.com/gochat-im/gochat/msgstore/migration"
	"github.com/gochat-im/gochat/protocol/id"
)

var (
	ctx   = context.Background()
	quiet = slog.New(slog.DiscardHandler)
	from  = msgstore.Keys{}
	to    = msgstore.Keys{Keyspace: 7}
)

// fill makes a store of so many rows, and returns those that a migration takes along, by their target's keys.
func fill(t *testing.T, store kv.Store, rng *rand.Rand, rows int) map[string]string {
	t.Helper()
	if _, err := msgstore.OpenMeta(ctx, store, from, 1_700_000_000_000); err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	var tx kv.Tx
	flush := func() {
		if store.Commit(ctx, &tx); tx.Err != nil {
			t.Fatal(tx.Err)
		}
		tx.Reset()
	}
	set := func(key []byte, taken bool) {
		n := 1 + rng.IntN(300)
		if rng.IntN(200) == 0 {
			n = 1 + rng.IntN(kv.MaxValue)
		}
		value := make([]byte, n)
		for i := range value {
			value[i] = byte(rng.Uint32())
		}
		if tx.Size()+len(key)+n > kv.MaxTx {
			flush()
		}
		tx.Set(key, value)
		if taken {
			want[string(append([]byte{0, 7}, key[2:]...))] = string(value)
		}
	}
	for i := range rows {
		c := id.Named(id.KindGroup, fmt.Sprint("g", rng.IntN(rows/4+1)))
		u := id.UserID(fmt.Sprint("u", rng.IntN(rows/4+1)))
		set(from.Segment(nil, c, uint64(i+1)), true)
		set(from.UserSide(nil, u, c), true)
	}
	set(from.OutboxMark(nil, id.Named(id.KindGroup, "g1")), true)
	for _, name := range []string{"clock", "clock:3", "apikey:0011", "a later release's"} {
		set(from.StoreRow(nil, name), true)
	}
	set(from.Deleting(nil, "u3"), true)
	set(from.BusPosition(nil, "fanout", 0), false)
	for i := range 100 {
		set(append(from.BusRefs(nil, 0), 0, 0, 0, 0, 0, 0, 0, byte(i)), false)
	}
	flush()
	return want
}

// holds fails unless the target has exactly the rows of want, and those of its own.
func holds(t *testing.T, store kv.Store, want map[string]string) {
	t.Helper()
	n := 0
	err := store.Scan(ctx, kv.Span{}, func(key, value []byte) (bool, error) {
		if to.Own(key) {
			return true, nil
		}
		n++
		if v, ok := want[string(key)]; !ok || v != string(value) {
			return false, fmt.Errorf("key %x: there in the source: %v", key, ok)
		}
		return true, nil
	})
	if err != nil || n != len(want) {
		t.Errorf("%d rows, want %d: %v", n, len(want), err)
	}
}

func config(source, target kv.Store) migration.Config {
	return migration.Config{Source: source, Target: target, From: from, To: to, ID: [16]byte{1}, Logger: quiet, BatchBytes: 8 << 10, SaveBytes: 16 << 10, Pause: time.Millisecond}
}

// complete runs the migration and fails unless the target then is a store that holds want.
func complete(t *testing.T, c migration.Config, target kv.Store, want map[string]string) migration.Result {
	t.Helper()
	source, err := msgstore.OpenMeta(ctx, c.Source, from, 1)
	if err != nil {
		t.Fatal(err)
	}
	c.Progress = new(migration.Progress)
	res, err := migration.Run(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	if res.Rows != uint64(len(want)) {
		t.Errorf("%d rows were copied, want %d", res.Rows, len(want))
	}
	if p := c.Progress; !res.Earlier && (p.Phase() != migration.Complete || p.Total().Rows != res.Rows || p.Verified() != p.Total() || p.Total().Bytes != res.Bytes) {
		t.Errorf("progress ends at %v: %v, %v of %v, of %d bytes", p.Phase(), p.Copied(), p.Verified(), p.Total(), res.Bytes)
	}
	holds(t, target, want)
	meta, err := msgstore.OpenMeta(ctx, target, to, 1)
	if err != nil || meta.Epoch != res.Epoch || meta.Epoch <= source.Epoch || meta.Created != source.Created || meta.FeatureLevel != source.FeatureLevel {
		t.Errorf("the target says %+v, the source %+v, %v", meta, source, err)
	}
	return res
}

func memoryStore(stamps bool) kv.Store { return memory.New(memory.Config{NoStamps: !stamps}) }

func pebbleStore(t *testing.T) kv.Store {
	s, err := pebblekv.Open(pebblekv.Config{Dir: t.TempDir(), Logger: quiet, DiskReserve: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestMigration(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) (source, target kv.Store){
		"memory to memory": func(t *testing.T) (kv.Store, kv.Store) { return memoryStore(true), memoryStore(false) },
		"pebble to loopback": func(t *testing.T) (kv.Store, kv.Store) {
			server, err := loopkv.Serve(memoryStore(false), "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { server.Close() })
			target, err := loopkv.Open(ctx, server.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { target.Close() })
			return pebbleStore(t), target
		},
		"pebble to TiKV": func(t *testing.T) (kv.Store, kv.Store) {
			return pebbleStore(t), tikvtest.Open(t, to.SlotBounds(4)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := open(t)
			want := fill(t, source, rand.New(rand.NewPCG(1, 2)), 1500)
			if res := complete(t, config(source, target), target, want); res.Resumed || res.Earlier {
				t.Errorf("the first run: %+v", res)
			}
			if res := complete(t, config(source, target), target, want); !res.Earlier {
				t.Errorf("the second run: %+v", res)
			}
		})
	}
}

// dying is a store whose user is killed after so many commits: what is under way may be stored or not.
type dying struct {
	kv.Store
	left atomic.Int64
	kill context.CancelFunc
}

func (d *dying) Commit(ctx context.Context, txs ...*kv.Tx) {
	if d.left.Add(-1) <= 0 {
		d.kill()
	}
	d.Store.Commit(context.WithoutCancel(ctx), txs...)
	if err := ctx.Err(); err != nil {
		for _, tx := range txs {
			tx.Err = fmt.Errorf("killed: %w", kv.ErrUndetermined)
		}
	}
}

// A migration that is killed at random points, on stores that fail in all ways, ends as one that isn't.
func TestKills(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for round := range 10 {
		source, inner := memoryStore(true), memoryStore(false)
		want := fill(t, source, rng, 300+rng.IntN(1500))
		reads := faultkv.Wrap(source, faultkv.Config{Seed: rng.Uint64(), Read: 0.02})
		faulty := faultkv.Wrap(inner, faultkv.Config{Seed: rng.Uint64(), Read: 0.02, Rates: faultkv.Rates{Applied: 0.03, Lost: 0.03, Late: 0.03, Conflict: 0.02, Unavailable: 0.02, Full: 0.01}})
		kills, done := 0, false
		for !done {
			run, kill := context.WithCancel(ctx)
			target := &dying{Store: faulty, kill: kill}
			if target.left.Store(int64(1 + rng.IntN(60))); kills > 8 {
				target.left.Store(1 << 40)
			}
			_, err := migration.Run(run, config(reads, target))
			kill()
			switch {
			case err == nil:
				done = true
			case run.Err() != nil:
				kills++
				if _, err := msgstore.OpenMeta(ctx, inner, to, 1); err != nil && !errors.Is(err, msgstore.ErrCopying) {
					t.Fatalf("a node on the incomplete copy: %v", err)
				}
			default:
				t.Fatalf("round %d, after %d kills: %v", round, kills, err)
			}
		}
		faulty.Settle()
		complete(t, config(source, inner), inner, want)
	}
}

// Replies of TiKV get lost, regions move.
func TestThroughTiKVFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	source := memoryStore(true)
	want := fill(t, source, rand.New(rand.NewPCG(seed, 1)), 400)
	cluster, faults := tikvtest.New(t, to.SlotBounds(4)...), new(tikvtest.Faults)
	faults.Random(seed, tikvtest.Rates{NotLeader: 0.02, EpochNotMatch: 0.02, ServerBusy: 0.02, LoseReply: 0.02, LoseRequest: 0.02}, 6)
	target := cluster.Open(t, tikv.Config{CommitTimeout: 300 * time.Millisecond}, faults)
	complete(t, config(source, target), cluster.Open(t, tikv.Config{}, nil), want)
}

func TestRefusals(t *testing.T) {
	set := func(t *testing.T, store kv.Store, key, value []byte) {
		t.Helper()
		var tx kv.Tx
		tx.Set(key, value)
		if store.Commit(ctx, &tx); tx.Err != nil {
			t.Fatal(tx.Err)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for name, c := range map[string]struct {
		prepare func(t *testing.T, source, target kv.Store)
		want    error
	}{
		"a source of a later level": {func(t *testing.T, source, _ kv.Store) {
			m := msgstore.Meta{Epoch: 1, SlotCount: id.SlotCount, Hash: msgstore.SlotHash, FeatureLevel: msgstore.FeatureLevel + 1}
			set(t, source, from.Meta(nil), m.Append(nil))
		}, msgstore.ErrFeatureLevel},
		"a source of other slots": {func(t *testing.T, source, _ kv.Store) {
			m := msgstore.Meta{Epoch: 1, SlotCount: 7, Hash: msgstore.SlotHash, FeatureLevel: 1}
			set(t, source, from.Meta(nil), m.Append(nil))
		}, msgstore.ErrSlots},
		"a source of a later version": {func(t *testing.T, source, _ kv.Store) { set(t, source, from.Meta(nil), []byte{99}) }, msgstore.ErrVersion},
		"a source with another layout": {func(t *testing.T, source, _ kv.Store) {
			set(t, source, []byte{0, 0, msgstore.Layout + 1, 0, 0, 1}, []byte{1})
		}, migration.ErrForeign},
		"a source with a slot too high": {func(t *testing.T, source, _ kv.Store) {
			set(t, source, []byte{0, 0, msgstore.Layout, 0x10, 0, 0x20, 1}, []byte{1})
		}, migration.ErrForeign},
		"a target that is a store": {func(t *testing.T, _, target kv.Store) {
			if _, err := msgstore.OpenMeta(ctx, target, to, 5); err != nil {
				t.Fatal(err)
			}
		}, migration.ErrInUse},
		"a target with any row":       {func(t *testing.T, _, target kv.Store) { set(t, target, []byte{0, 7, 9, 9}, []byte{1}) }, migration.ErrInUse},
		"a target of a later version": {func(t *testing.T, _, target kv.Store) { set(t, target, to.Meta(nil), []byte{99}) }, msgstore.ErrVersion},
		"another keyspace's rows":     {func(t *testing.T, _, target kv.Store) { set(t, target, []byte{0, 6, 1, 1}, []byte{1}) }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			source, target := memoryStore(true), memoryStore(false)
			fill(t, source, rng, 20)
			c.prepare(t, source, target)
			if _, err := migration.Run(ctx, config(source, target)); !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
	t.Run("an empty source", func(t *testing.T) {
		if _, err := migration.Run(ctx, config(memoryStore(true), memoryStore(false))); !errors.Is(err, migration.ErrNoSource) {
			t.Error(err)
		}
	})
}

// An incomplete copy is gone on with by its own migration alone; another one removes it when told to.
func TestRestart(t *testing.T) {
	source, inner := memoryStore(true), memoryStore(false)
	want := fill(t, source, rand.New(rand.NewPCG(3, 4)), 500)
	run, kill := context.WithCancel(ctx)
	target := &dying{Store: inner, kill: kill}
	target.left.Store(30)
	if _, err := migration.Run(run, config(source, target)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	other := config(source, inner)
	other.ID = [16]byte{2}
	if _, err := migration.Run(ctx, other); !errors.Is(err, migration.ErrOtherCopy) {
		t.Errorf("another migration: %v", err)
	}
	other.Restart = true
	if res := complete(t, other, inner, want); res.Resumed {
		t.Errorf("%+v", res)
	}
	// A complete copy is data like any other.
	if _, err := migration.Run(ctx, other); err != nil {
		t.Error(err)
	}
	other.ID = [16]byte{3}
	if _, err := migration.Run(ctx, other); !errors.Is(err, migration.ErrInUse) {
		t.Errorf("onto a complete copy: %v", err)
	}
}

// What the target has too much, too little or otherwise is found, whenever it got there.
func TestDifferencesAreFound(t *testing.T) {
	for name, spoil := range map[string]func(tx *kv.Tx, key []byte){
		"another value": func(tx *kv.Tx, key []byte) { tx.Set(key, []byte("x")) },
		"missing":       func(tx *kv.Tx, key []byte) { tx.Delete(key) },
		"too many":      func(tx *kv.Tx, key []byte) { tx.Set(append(bytes.Clone(key), 1), []byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			source, inner := memoryStore(true), memoryStore(false)
			want := fill(t, source, rand.New(rand.NewPCG(3, 4)), 500)
			keys := make([]string, 0, len(want))
			for key := range want {
				keys = append(keys, key)
			}
			c := config(source, inner)
			c.Progress = new(migration.Progress)
			c.Target = &spoiled{Store: inner, progress: c.Progress, spoil: func(tx *kv.Tx) { spoil(tx, []byte(keys[0])) }}
			if _, err := migration.Run(ctx, c); !errors.Is(err, migration.ErrDiffers) {
				t.Errorf("%v", err)
			}
			if _, err := msgstore.OpenMeta(ctx, inner, to, 1); !errors.Is(err, msgstore.ErrCopying) {
				t.Errorf("a node on the copy: %v", err)
			}
			c = config(source, inner)
			c.Restart = true
			complete(t, c, inner, want)
		})
	}
}

// spoiled is a store that somebody else writes to when everything was copied.
type spoiled struct {
	kv.Store
	progress *migration.Progress
	spoil    func(tx *kv.Tx)
	once     sync.Once
}

func (s *spoiled) Scan(ctx context.Context, span kv.Span, fn func(key, value []byte) (bool, error)) error {
	if s.progress.Phase() == migration.Verifying {
		s.once.Do(func() {
			var tx kv.Tx
			s.spoil(&tx)
			s.Store.Commit(ctx, &tx)
		})
	}
	return s.Store.Scan(ctx, span, fn)
}

// A source that was served between two runs isn't mixed with what it was.
func TestChangedSource(t *testing.T) {
	source, inner := memoryStore(true), memoryStore(false)
	fill(t, source, rand.New(rand.NewPCG(5, 6)), 500)
	run, kill := context.WithCancel(ctx)
	target := &dying{Store: inner, kill: kill}
	target.left.Store(60)
	if _, err := migration.Run(run, config(source, target)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	var tx kv.Tx
	for i := range id.SlotCount / 16 {
		c := id.Named(id.KindGroup, fmt.Sprint("new", i))
		tx.Set(from.Segment(nil, c, 1), []byte("x"))
	}
	if source.Commit(ctx, &tx); tx.Err != nil {
		t.Fatal(tx.Err)
	}
	_, err := migration.Run(ctx, config(source, inner))
	if err != nil && !errors.Is(err, migration.ErrDiffers) {
		t.Error(err)
	}
	if err == nil {
		t.Error("the new rows of parts that were copied are in the target, or nobody missed them")
	}
}
