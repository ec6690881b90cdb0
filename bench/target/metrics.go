package target

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/gochat-im/gochat/bench/load"
)

// ReadMetrics reads them from the server's HTTP interface.
func ReadMetrics(ctx context.Context, http netip.AddrPort) (load.Stats, error) {
	page, err := scrape(ctx, http)
	if err != nil {
		return load.Stats{}, fmt.Errorf("metrics of %s: %w", http, err)
	}
	return load.Stats{
		Stored:     value(page, "gochat_messages_stored_total"),
		Commits:    value(page, "gochat_commit_messages_count"),
		Goroutines: value(page, "go_goroutines"),
	}, nil
}

// value returns the first sample of the metric without labels, 0 if there is none.
func value(page, name string) float64 {
	for line := range strings.Lines(page) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return f
		}
	}
	return 0
}
