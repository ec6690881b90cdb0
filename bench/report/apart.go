package report

import (
	"fmt"
	"io"

	"github.com/gochat-im/gochat/bench/load"
)

// Apart is one round of the same load on one process that is everything, and on several.
type Apart struct {
	Layout string            `json:"layout"` // of the several
	Alone  *load.PairsResult `json:"alone"`
	Apart  *load.PairsResult `json:"apart"`
}

func (a *Apart) metrics() map[string]float64 {
	m := pairsMetrics(a.Apart)
	m["alone_cpu"], m["alone_rate"] = a.Alone.ServerCPU, a.Alone.Acked
	m["rpc_cpu"] = a.Apart.ServerCPU - a.Alone.ServerCPU
	return m
}

func (a *Apart) broken() string {
	for name, p := range map[string]*load.PairsResult{"one process": a.Alone, a.Layout: a.Apart} {
		if v := &p.Verify; !v.Sound() || !v.Clean() {
			return fmt.Sprintf("%s: %d lost, %d doubled or out of order, %d changed, %d missing, %d unacked, %d refused", name, v.Lost, v.Doubled, v.Corrupt, v.Missing, v.Unacked, v.Refused)
		}
	}
	return ""
}

func (a *Apart) write(w io.Writer) {
	fmt.Fprintf(w, "  one process\n")
	writePairs(w, a.Alone)
	fmt.Fprintf(w, "  %s\n", a.Layout)
	writePairs(w, a.Apart)
}

// compareApart tells the medians.
func (r *Run) compareApart(w io.Writer) {
	if len(r.Apart) == 0 {
		return
	}
	m := r.Metrics
	fmt.Fprintf(w, "  calls      %.2f µs CPU a message more than one process's %.2f: %.2f%s\n", m["rpc_cpu"], m["alone_cpu"], m["cpu"], rounds(len(r.Apart)))
}
