package report

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/gochat-im/gochat/bench/load"
)

// Group is one round in one group.
type Group struct {
	*load.GroupResult
	Calm *load.GroupResult `json:"calm,omitempty"` // the same without slow members
}

func (g *Group) metrics() map[string]float64 { return groupMetrics(g.GroupResult) }

func (g *Group) broken() string {
	if g.Calm != nil {
		if s := brokenGroup(g.Calm); s != "" {
			return s + " (without slow members)"
		}
	}
	return brokenGroup(g.GroupResult)
}

func (g *Group) write(w io.Writer) {
	if g.Calm != nil {
		fmt.Fprintf(w, "  calm\n")
		writeGroup(w, g.Calm)
		fmt.Fprintf(w, "  with slow members\n")
	}
	writeGroup(w, g.GroupResult)
}

func groupMetrics(g *load.GroupResult) map[string]float64 {
	v := &g.Verify
	m := map[string]float64{
		"members": float64(g.Members), "making": g.Making,
		"rate": g.Acked, "sent": g.Sent, "acked": g.Acked, "delivered": g.Delivered,
		"ack_p50": g.Ack.P50, "ack_p99": g.Ack.P99, "ack_p999": g.Ack.P999, "ack_max": g.Ack.Max,
		"dlv_p50": g.Delivery.P50, "dlv_p99": g.Delivery.P99, "dlv_p999": g.Delivery.P999, "dlv_max": g.Delivery.Max,
		"whole_p50": g.Whole.P50, "whole_p99": g.Whole.P99, "whole_max": g.Whole.Max,
		"shot_p50": g.Shots.P50, "shot_p99": g.Shots.P99, "shot_max": g.Shots.Max, "late_p99": g.Late.P99,
		"cpu": g.ServerCPU, "dlv_cpu": g.DeliveryCPU, "client_dlv_cpu": g.ClientCPU,
		"rss": float64(g.PeakRSS), "rest_rss": float64(g.RestRSS), "per_commit": g.PerCommit, "onephase_pct": g.TiKV.OnePhaseShare(), "per_group": g.TiKV.PerGroup(),
		"loss": float64(v.Lost), "doubled": float64(v.Doubled), "corrupt": float64(v.Corrupt), "refused": float64(v.Refused), "unacked": float64(v.Unacked),
		"missing": float64(v.Members.Missing + v.Slow.Missing), "gaps": float64(v.Members.Gaps), "repeats": float64(v.Members.Repeats),
		"pulls": float64(v.Members.Pulls), "hints": float64(v.Members.Hints), "delivered_pct": v.Members.Share(),
	}
	if g.Slow > 0 {
		m["cut"], m["waking"], m["slow_hints"], m["slow_pulled"] = float64(g.Cut), g.Waking, float64(v.Slow.Hints), float64(v.Slow.Pulled)
		m["woken_rss"] = float64(g.WokenRSS)
	}
	return m
}

// finishGroup computes the ratios to the runs without slow members.
func (r *Run) finishGroup(rounds []map[string]float64) {
	var ratios []map[string]float64
	for i, g := range r.Group {
		if g.Calm == nil {
			continue
		}
		m := map[string]float64{}
		for name, v := range groupMetrics(g.Calm) {
			if mine, ok := rounds[i][name]; ok && v > 0 {
				m[name] = mine / v
			}
		}
		ratios = append(ratios, m)
	}
	if len(ratios) > 0 {
		r.ToCalm = medians(ratios)
	}
}

// brokenGroup returns why a run in a group fails whatever the thresholds, or "".
func brokenGroup(g *load.GroupResult) string {
	switch v := &g.Verify; {
	case !v.Sound():
		unread := ""
		if v.Unread {
			unread = ", the timeline unread"
		}
		return fmt.Sprintf("the verifier found %d lost, %d doubled or out of order, %d changed%s", v.Lost, v.Doubled, v.Corrupt, unread)
	case !v.Clean():
		return fmt.Sprintf("%.3f %% of the copies delivered once, %d missing (%d of slow members), %d unacked, %d refused; want 99.9 %% and none",
			v.Members.Share(), v.Members.Missing+v.Slow.Missing, v.Slow.Missing, v.Unacked, v.Refused)
	}
	return ""
}

func writeGroup(w io.Writer, g *load.GroupResult) {
	fmt.Fprintf(w, "  group      %s members, brought in within %.1f s\n", count(float64(g.Members)), g.Making)
	if g.Shots.Count > 0 {
		fmt.Fprintf(w, "  shots      %d, each to the last member: p50 %s p99 %s max %s ms; acked: p50 %s ms\n",
			g.Shots.Count, ms(g.Shots.P50), ms(g.Shots.P99), ms(g.Shots.Max), ms(g.ShotAcks.P50))
	}
	if g.Seconds > 0 {
		fmt.Fprintf(w, "  rate       %s/s sent, %s/s acked, %s copies/s delivered, for %.1f s\n", count(g.Sent), count(g.Acked), count(g.Delivered), g.Seconds)
		fmt.Fprintf(w, "  ack        %s\n  delivery   %s\n  to all     %s\n", quantiles(&g.Ack), quantiles(&g.Delivery), quantiles(&g.Whole))
		if g.Late.Count > 0 {
			fmt.Fprintf(w, "  sent late  %s\n", quantiles(&g.Late))
		}
		fmt.Fprintf(w, "  server     %.3f µs CPU a copy, %.1f a message, RSS at most %s (%s at rest)", g.DeliveryCPU, g.ServerCPU, size(float64(g.PeakRSS)), size(float64(g.RestRSS)))
		if g.PerCommit > 0 {
			fmt.Fprintf(w, ", %s messages a commit", count(g.PerCommit))
		}
		fmt.Fprintf(w, "; load generator %.3f µs a copy\n", g.ClientCPU)
		writeTiKV(w, &g.TiKV)
		writeProcesses(w, "copy", g.Processes)
	}
	v := &g.Verify
	fmt.Fprintf(w, "  verified   %s messages read back in %.1f s: %d lost, %d doubled, %d changed; %.3f %% of %s copies came by DELIVER, once\n",
		count(float64(v.Stored)), g.VerifySec, v.Lost, v.Doubled, v.Corrupt, v.Members.Share(), count(float64(v.Members.Due)))
	fmt.Fprintf(w, "             raw: %d repeats, %d gaps, %d hints, %d pulls for %d copies, %d never came, %d duplicate acks, %d unacked, %d refused\n",
		v.Members.Repeats, v.Members.Gaps, v.Members.Hints, v.Members.Pulls, v.Members.Pulled, v.Members.Missing, v.Duplicates, v.Unacked, v.Refused)
	if len(g.Refusals) > 0 {
		var list []string
		for name, n := range g.Refusals {
			list = append(list, fmt.Sprintf("%d %s", n, name))
		}
		slices.Sort(list)
		fmt.Fprintf(w, "             refused: %s\n", strings.Join(list, ", "))
	}
	if g.Slow > 0 {
		fmt.Fprintf(w, "  slow       %d members: %d were cut off; awake, they held everything after %.1f s (RSS %s then): %s copies came by DELIVER, %s by %d pulls after %d hints; %d never came\n",
			g.Slow, g.Cut, g.Waking, size(float64(g.WokenRSS)), count(float64(v.Slow.Delivered)), count(float64(v.Slow.Pulled)), v.Slow.Pulls, v.Slow.Hints, v.Slow.Missing)
	}
}

// compareGroups says how the rounds of a group compare.
func (r *Run) compareGroups(w io.Writer) {
	if len(r.Group) > 0 && len(r.Ratios) > 0 {
		fmt.Fprintf(w, "  to floor   %.0f %% of its copies at %.2f times its server CPU a copy", 100*r.Ratios["delivered"], r.Ratios["dlv_cpu"])
		if v, ok := r.Ratios["shot_p50"]; ok {
			fmt.Fprintf(w, ", shots in %.2f times", v)
		}
		fmt.Fprintf(w, "%s\n", rounds(len(r.Group)))
	}
	if len(r.Group) > 0 && len(r.ToCalm) > 0 {
		fmt.Fprintf(w, "  to calm    delivery p50 %.2f, p99 %.2f times; RSS %.2f times%s\n", r.ToCalm["dlv_p50"], r.ToCalm["dlv_p99"], r.ToCalm["rss"], rounds(len(r.Group)))
	}
	if len(r.Group) > 1 {
		m := r.Metrics
		fmt.Fprintf(w, "  medians    %s copies/s at %.3f µs, %s messages/s, ack p50 %s p99 %s, delivery p99 %s, shots p50 %s max %s ms\n",
			count(m["delivered"]), m["dlv_cpu"], count(m["rate"]), ms(m["ack_p50"]), ms(m["ack_p99"]), ms(m["dlv_p99"]), ms(m["shot_p50"]), ms(m["shot_max"]))
	}
}
