package report

import (
	"fmt"
	"io"

	"github.com/gochat-im/gochat/bench/load"
)

// Crowd is one round in a group of more members than one process can be.
type Crowd struct{ *load.CrowdResult }

func (c *Crowd) metrics() map[string]float64 {
	return map[string]float64{
		"members": float64(c.Members), "connecting": c.Connecting, "making": c.Making, "opening": c.Opening,
		"shot_p50": c.Shots.P50, "shot_p99": c.Shots.P99, "shot_max": c.Shots.Max, "ack_p50": c.ShotAcks.P50, "ack_p99": c.ShotAcks.P99, "ack_max": c.ShotAcks.Max,
		"rows": c.Writes.Rows, "transactions": c.Writes.Transactions, "bytes": c.Writes.Bytes, "dlv_cpu": c.CopyCPU, "client_dlv_cpu": c.ClientCPU, "rss": float64(c.RSS),
		"hints": float64(c.Copies.Hints), "gaps": float64(c.Copies.Gaps), "repeats": float64(c.Copies.Repeats), "corrupt": float64(c.Copies.Changed),
	}
}

func (c *Crowd) broken() string {
	if c.Copies.Changed > 0 {
		return fmt.Sprintf("%d copies don't say what was sent", c.Copies.Changed)
	}
	return ""
}

func (c *Crowd) write(w io.Writer) {
	fmt.Fprintf(w, "  crowd      %s members in %d processes at %d edges; in the group within %.1f s, connected within %.1f s\n",
		count(float64(c.Members)), c.Onlookers, c.Edges, c.Making, c.Connecting)
	fmt.Fprintf(w, "  shots      %d, each to the last member: p50 %s p99 %s max %s ms; acked: p50 %s max %s ms; the first of all %s ms\n",
		c.Shots.Count, ms(c.Shots.P50), ms(c.Shots.P99), ms(c.Shots.Max), ms(c.ShotAcks.P50), ms(c.ShotAcks.Max), ms(c.Opening))
	fmt.Fprintf(w, "  server     %.3f µs CPU a copy, RSS %s", c.CopyCPU, size(float64(c.RSS)))
	fmt.Fprintf(w, "; load generator %.3f µs a copy\n", c.ClientCPU)
	if s := &c.Writes; s.Transactions > 0 {
		fmt.Fprintf(w, "  stored     %.2f transactions, %.2f rows, %.0f bytes a message, beside %.1f transactions, %.1f rows a second without any\n",
			s.Transactions, s.Rows, s.Bytes, c.Resting.Transactions, c.Resting.Rows)
	}
	writeProcesses(w, "copy", c.Processes)
	v := &c.Copies
	fmt.Fprintf(w, "  verified   %s copies came by DELIVER in order, once, %s by SYNC; %d repeats, %d gaps, %d hints, %d changed\n",
		count(float64(v.Delivered)), count(float64(v.Pulled)), v.Repeats, v.Gaps, v.Hints, v.Changed)
}
