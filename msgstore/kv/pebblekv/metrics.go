package pebblekv

import (
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
)

// totals are counted since the store was opened.
type totals struct {
	groups, txs, conflicts, refused, bytes, lookUps, stalls atomic.Uint64
	full                                                    atomic.Bool
}

func (t *totals) add(g *Group) {
	if g.Txs > 0 {
		t.groups.Add(1)
		t.txs.Add(uint64(g.Txs))
		t.bytes.Add(uint64(g.Bytes))
	}
	if g.Conflicts > 0 {
		t.conflicts.Add(uint64(g.Conflicts))
	}
	if g.Refused > 0 {
		t.refused.Add(uint64(g.Refused))
	}
}

// Metrics are figures of a store; counts are since it was opened, sizes in bytes.
type Metrics struct {
	Groups    uint64 // written, each with one sync
	Txs       uint64 // stored
	Conflicts uint64
	Refused   uint64 // for other reasons
	Bytes     uint64 // written to the log by commits
	LookUps   uint64 // required keys that were not in memory
	Stalls    uint64 // times that commits waited for the engine's own work
	Full      bool   // free space is below the reserve

	DiskBytes     uint64 // of all files
	LogBytes      uint64 // of the log, until flushed
	MemTableBytes uint64
	CacheBytes    int64
	CacheHits     int64
	CacheMisses   int64
	L0Tables      int64
	DebtBytes     uint64 // estimated work of compactions that are due
	WriteAmp      float64
}

// Metrics returns the figures as of now. It takes some 100 µs: for scraping, not for each commit.
// On a closed store only the counts are set.
func (s *Store) Metrics() Metrics {
	t := &s.totals
	m := Metrics{
		Groups:    t.groups.Load(),
		Txs:       t.txs.Load(),
		Conflicts: t.conflicts.Load(),
		Refused:   t.refused.Load(),
		Bytes:     t.bytes.Load(),
		LookUps:   t.lookUps.Load(),
		Stalls:    t.stalls.Load(),
		Full:      t.full.Load(),
	}
	v, err := s.views.acquire() // keeps Close away
	if err != nil {
		return m
	}
	defer s.views.release(v)
	m.engine(s.db.Metrics())
	return m
}

func (m *Metrics) engine(p *pebble.Metrics) {
	total := p.Total()
	m.DiskBytes = p.DiskSpaceUsage()
	m.LogBytes = p.WAL.Size
	m.MemTableBytes = p.MemTable.Size
	m.CacheBytes = p.BlockCache.Size
	m.CacheHits = p.BlockCache.Hits
	m.CacheMisses = p.BlockCache.Misses
	m.L0Tables = p.Levels[0].TablesCount
	m.DebtBytes = p.Compact.EstimatedDebt
	m.WriteAmp = total.WriteAmp()
}
