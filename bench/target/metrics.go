package target

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gochat-im/gochat/bench/load"
)

// ReadMetrics adds up the metrics of one or several processes, which it reads from their HTTP interfaces.
func ReadMetrics(ctx context.Context, addrs ...netip.AddrPort) (all load.Stats, err error) {
	for _, a := range addrs {
		page, err := scrape(ctx, a)
		if err != nil {
			return all, fmt.Errorf("metrics of %s: %w", a, err)
		}
		s := stats(page)
		all.Stored, all.Commits, all.Goroutines = all.Stored+s.Stored, all.Commits+s.Commits, all.Goroutines+s.Goroutines
		all.TiKV = all.TiKV.Plus(s.TiKV)
		all.Writes.Transactions += s.Writes.Transactions
		all.Writes.Rows += s.Writes.Rows
		all.Writes.Bytes += s.Writes.Bytes
	}
	return all, nil
}

func stats(page string) load.Stats {
	return load.Stats{
		Stored:     value(page, "gochat_messages_stored_total"),
		Commits:    value(page, "gochat_commit_messages_count"),
		Goroutines: value(page, "go_goroutines"),
		TiKV: load.TiKV{
			OnePhase: value(page, `gochat_tikv_groups_total{phase="one"}`), Async: value(page, `gochat_tikv_groups_total{phase="async"}`),
			TwoPhase: value(page, `gochat_tikv_groups_total{phase="two"}`), Transactions: value(page, "gochat_tikv_transactions_total"),
		},
		Writes: load.Writes{
			Transactions: value(page, "memnode_transactions_total"), Rows: value(page, "memnode_rows_written_total"), Bytes: value(page, "memnode_bytes_written_total"),
		},
	}
}

// value returns the first sample of the metric, whose labels, if it has any, stand in its name; 0 if there is none.
func value(page, name string) float64 {
	for line := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return f
		}
	}
	return 0
}
