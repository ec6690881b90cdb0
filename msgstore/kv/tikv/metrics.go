package tikv

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"

	dto "github.com/prometheus/client_model/go"
	clientmetrics "github.com/tikv/client-go/v2/metrics"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// totals are counted since the store was opened.
type totals struct {
	groups, txs, bytes, conflicts, reruns     atomic.Uint64
	undetermined, unavailable, refused        atomic.Uint64
	onePhase, onePhaseTxs, async, twoPhase    atomic.Uint64
	twoPhaseTxs, garbageRuns, garbageFailures atomic.Uint64
	safePoint                                 atomic.Uint64
}

// add counts an attempt; of are the transactions that kind is the outcome of.
func (t *totals) add(g *Group, kind error, of int) {
	t.conflicts.Add(uint64(g.Conflicts))
	switch {
	case kind == nil && g.Mode != "":
		t.groups.Add(1)
		t.txs.Add(uint64(g.Txs))
		t.bytes.Add(uint64(g.Bytes))
		switch g.Mode {
		case OnePhase:
			t.onePhase.Add(1)
			t.onePhaseTxs.Add(uint64(g.Txs))
		case Async:
			t.async.Add(1)
		case TwoPhase:
			t.twoPhase.Add(1)
			t.twoPhaseTxs.Add(uint64(g.Txs))
		}
	case kind == nil || errors.Is(kind, kv.ErrConflict):
	case errors.Is(kind, kv.ErrUndetermined):
		t.undetermined.Add(uint64(of))
	case errors.Is(kind, kv.ErrUnavailable):
		t.unavailable.Add(uint64(of))
	default:
		t.refused.Add(uint64(of))
	}
}

// Metrics are figures of a store since it was opened.
type Metrics struct {
	Groups       uint64 // commits of TiKV's that stored something
	Txs          uint64 // transactions stored by them: Txs/Groups is the mean size of a group
	Bytes        uint64 // of keys and values
	Conflicts    uint64 // transactions whose requirements didn't hold
	Reruns       uint64 // groups that were committed again because somebody else wrote what they write
	Undetermined uint64 // transactions, as the following
	Unavailable  uint64
	Refused      uint64 // too large, or the servers' disks are full

	Breaker  string // closed, half-open or open
	KeptBack uint64 // reads and transactions that it refused; the latter are among the unavailable

	OnePhase    uint64 // groups by the way they were committed
	Async       uint64
	TwoPhase    uint64
	OnePhaseTxs uint64 // transactions of those
	TwoPhaseTxs uint64

	GarbageRuns     uint64 // rounds of garbage collection
	GarbageFailures uint64
	SafePoint       uint64 // of the last round: Unix ms
}

// Metrics returns the figures as of now.
func (s *Store) Metrics() Metrics {
	t := &s.totals
	return Metrics{
		Groups: t.groups.Load(), Txs: t.txs.Load(), Bytes: t.bytes.Load(),
		Conflicts: t.conflicts.Load(), Reruns: t.reruns.Load(), Undetermined: t.undetermined.Load(),
		Unavailable: t.unavailable.Load(), Refused: t.refused.Load(),
		Breaker: s.breaker.steps.Load().State().String(), KeptBack: s.breaker.keptBack.Load(),
		OnePhase: t.onePhase.Load(), Async: t.async.Load(), TwoPhase: t.twoPhase.Load(),
		OnePhaseTxs: t.onePhaseTxs.Load(), TwoPhaseTxs: t.twoPhaseTxs.Load(),
		GarbageRuns: t.garbageRuns.Load(), GarbageFailures: t.garbageFailures.Load(), SafePoint: t.safePoint.Load(),
	}
}

var registerClient sync.Once

// ClientMetrics gathers what the client's libraries count, names beginning with tikv_client_go_ and pd_client_. They keep it
// in prometheus.DefaultRegisterer, for the whole process; nothing else of that is gathered.
func ClientMetrics() prometheus.Gatherer {
	registerClient.Do(clientmetrics.RegisterMetrics)
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := prometheus.DefaultGatherer.Gather()
		ours := all[:0]
		for _, f := range all {
			if name := f.GetName(); strings.HasPrefix(name, "tikv_client_go_") || strings.HasPrefix(name, "pd_client_") {
				ours = append(ours, f)
			}
		}
		return ours, err
	})
}
