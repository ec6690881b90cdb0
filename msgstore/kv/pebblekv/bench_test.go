package pebblekv_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/msgstore/kv/pebblekv"
)

// appends makes the transactions that appends to conversations make: per
// conversation the head required and set, a segment, a row of ids, a reference for the bus.
type appends struct {
	txs     []*kv.Tx
	seq     []uint64
	seen    [][]byte // head as it was written last
	segment []byte
	ids     []byte
}

func newAppends(conversations, messages int) *appends {
	a := &appends{
		seq:     make([]uint64, conversations),
		seen:    make([][]byte, conversations),
		segment: make([]byte, 12+180*messages),
		ids:     make([]byte, 1+24*messages),
	}
	for i := range a.segment { // text-like: compresses about as chat does
		a.segment[i] = "the quick brown fox jumps over the lazy dog, 0123456789"[(i*i>>5)%55]
	}
	for range conversations {
		a.txs = append(a.txs, new(kv.Tx))
	}
	for i := range a.ids {
		a.ids[i] = byte(i*i>>4 + i)
	}
	return a
}

// next fills the transactions of one append to each conversation.
func (a *appends) next() {
	for i, tx := range a.txs {
		var key [64]byte
		h := uint64(i+1) * 0x9e3779b97f4a7c15
		k := append(key[:0], 0, 1, 1, byte(h>>60), byte(h>>52), 0x10)
		k = binary.BigEndian.AppendUint64(k, h)
		k = binary.BigEndian.AppendUint64(k, ^h)
		conv := len(k)
		var head [80]byte
		a.seq[i] += 32
		binary.BigEndian.PutUint64(head[:], a.seq[i])
		tx.Reset()
		k = append(k, 0x50)
		tx.Require(k, a.seen[i])
		tx.Set(k, head[:])
		a.seen[i] = append(a.seen[i][:0], head[:]...)
		binary.BigEndian.PutUint64(a.segment, h^a.seq[i])
		k = binary.BigEndian.AppendUint64(append(k[:conv], 0x40), a.seq[i])
		tx.Set(k, a.segment)
		k = binary.BigEndian.AppendUint64(append(k[:conv], 0x70, 0, 0, 0, 0, 0, 0, 0, 0), a.seq[i])
		tx.Set(k, a.ids)
		tx.SetStamped([]byte{0, 1, 1, 0xff, 0xff, 1, 0, 0}, k[6:35])
	}
}

func cpu() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(0, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// BenchmarkCommit commits one append to each of 500 conversations at a time, as the
// sequencer does under load: messages in an append on the one side, CPU of everything (flushes
// and compactions included) a message on the other.
func BenchmarkCommit(b *testing.B) {
	for _, c := range []struct{ convs, messages int }{{500, 1}, {500, 8}, {500, 32}, {50, 1}, {1, 1}} {
		b.Run(fmt.Sprintf("convs=%d/messages=%d", c.convs, c.messages), func(b *testing.B) {
			var prepare, apply, sync time.Duration
			s := open(b, pebblekv.Config{Dir: b.TempDir(), Observe: pebblekv.Observe{Group: func(g pebblekv.Group) {
				prepare, apply, sync = prepare+g.Prepare, apply+g.Apply, sync+g.Sync
			}}})
			a := newAppends(c.convs, c.messages)
			ctx := context.Background()
			a.next()
			s.Commit(ctx, a.txs...)
			prepare, apply, sync = 0, 0, 0
			b.ReportAllocs()
			before := cpu()
			for b.Loop() {
				a.next()
				s.Commit(ctx, a.txs...)
				for _, tx := range a.txs {
					if tx.Err != nil {
						b.Fatal(tx.Err)
					}
				}
			}
			used := cpu() - before
			n := float64(b.N)
			txs, messages := n*float64(c.convs), n*float64(c.convs*c.messages)
			b.ReportMetric(float64(used.Nanoseconds())/messages, "cpu-ns/message")
			b.ReportMetric(float64(prepare.Nanoseconds())/txs, "prepare-ns/tx")
			b.ReportMetric(float64(apply.Nanoseconds())/txs, "apply-ns/tx")
			b.ReportMetric(float64(sync.Nanoseconds())/n, "sync-ns/group")
			b.ReportMetric(messages/b.Elapsed().Seconds(), "messages/s")
		})
	}
}

// BenchmarkSyncedBatch is the floor: one row of 400 bytes in Pebble alone, synced, one at a time.
func BenchmarkSyncedBatch(b *testing.B) {
	db, err := pebble.Open(b.TempDir(), &pebble.Options{MemTableSize: 64 << 20, Logger: quiet{}})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	value := make([]byte, 400)
	var key [8]byte
	for i := uint64(0); b.Loop(); i++ {
		binary.BigEndian.PutUint64(key[:], i)
		if err := db.Set(key[:], value, pebble.Sync); err != nil {
			b.Fatal(err)
		}
	}
}

type quiet struct{}

func (quiet) Infof(string, ...any)  {}
func (quiet) Errorf(string, ...any) {}
func (quiet) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}
