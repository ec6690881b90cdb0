package report

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/gochat-im/gochat/bench/hostile"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
)

// Hostile is what happened around a load of pairs under attack.
type Hostile struct {
	Calm       *load.PairsResult `json:"calm"` // the same load before the attack
	Attack     *hostile.Result   `json:"attack"`
	Fresh      measure.Memory    `json:"fresh"`      // before any load
	Before     measure.Memory    `json:"before"`     // at rest after the calm load
	After      measure.Memory    `json:"after"`      // at rest after the attack
	Settle     float64           `json:"settle_s"`   // how long that rest was
	Goroutines [3]float64        `json:"goroutines"` // before, at most, after
}

// finishHostile adds what belongs to the attack to the metrics of the loads beside it.
func (r *Run) finishHostile(attacked []map[string]float64) {
	var rounds, ratios []map[string]float64
	for i, h := range r.Under {
		m := hostileMetrics(h)
		rounds = append(rounds, m)
		calm := pairsMetrics(h.Calm)
		calm["rss"], calm["goroutines"] = float64(h.Before.RSS), h.Goroutines[0]
		ratio := map[string]float64{}
		for name, base := range calm {
			v, ok := m[name]
			if !ok && i < len(attacked) {
				v, ok = attacked[i][name]
			}
			if ok && base > 0 {
				ratio[name] = v / base
			}
		}
		ratios = append(ratios, ratio)
	}
	maps.Copy(r.Metrics, medians(rounds))
	r.ToCalm = medians(ratios)
}

func hostileMetrics(h *Hostile) map[string]float64 {
	m := map[string]float64{
		"rss": float64(h.After.RSS), "rss_before": float64(h.Before.RSS), "rss_peak": 0,
		"goroutines": h.Goroutines[2], "goroutines_peak": h.Goroutines[1], "calm_p50": 0, "calm_p99": 0,
		"unexpected": 0, "hostile_conns": 0, "hostile_frames": 0,
	}
	if h.Calm != nil {
		m["calm_p50"], m["calm_p99"] = h.Calm.Ack.P50, h.Calm.Ack.P99
	}
	if a := h.Attack; a != nil {
		conns, frames, _ := a.Totals()
		m["rss_peak"], m["unexpected"] = float64(a.PeakRSS), float64(a.Unexpected())
		m["hostile_conns"], m["hostile_frames"] = float64(conns), float64(frames)
	}
	return m
}

func (h *Hostile) broken() string {
	if v := &h.Calm.Verify; !v.Clean() {
		return fmt.Sprintf("before the attack %.3f %% delivered in order and once, %d missing, %d unacked, %d refused; want 99.9 %% and none",
			v.DeliveredShare(), v.Missing, v.Unacked, v.Refused)
	}
	return h.Attack.Wrong()
}

func writeHostile(w io.Writer, h *Hostile, p *load.PairsResult) {
	a := h.Attack
	conns, frames, closed := a.Totals()
	fmt.Fprintf(w, "  attack     %.1f s, %s connections, %s closed by the server, %s frames and requests\n\n",
		a.Seconds, count(float64(conns)), count(float64(closed)), count(float64(frames)))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "    kind\tconnections\tframes\tclosed\tanswers\n")
	for i := range a.Kinds {
		k := &a.Kinds[i]
		fmt.Fprintf(t, "    %s\t%s\t%s\t%s\t%s\n", k.Name, count(float64(k.Conns)), count(float64(k.Frames)), count(float64(k.Closed)), answers(k))
	}
	_ = t.Flush() // the report's writer tells its errors elsewhere
	for i := range a.Kinds {
		for _, f := range a.Kinds[i].Faults {
			fmt.Fprintf(w, "    the attacker itself failed: %s: %s\n", a.Kinds[i].Name, f)
		}
	}
	fmt.Fprintf(w, "\n  ack p99    %s ms calm, %s ms attacked: %.2f times\n", ms(h.Calm.Ack.P99), ms(p.Ack.P99), ratio(p.Ack.P99, h.Calm.Ack.P99))
	fmt.Fprintf(w, "  memory     RSS %s fresh, %s before, %s at most, %s after %.0f s: %.2f times (private %s, then %s)\n",
		size(float64(h.Fresh.RSS)), size(float64(h.Before.RSS)), size(float64(a.PeakRSS)), size(float64(h.After.RSS)), h.Settle,
		ratio(float64(h.After.RSS), float64(h.Before.RSS)), size(float64(h.Before.Private)), size(float64(h.After.Private)))
	fmt.Fprintf(w, "  goroutines %.0f before, %.0f at most, %.0f after\n", h.Goroutines[0], h.Goroutines[1], h.Goroutines[2])
}

// answers lists them, the most frequent first, the wrong ones marked.
func answers(k *hostile.KindResult) string {
	labels := slices.SortedFunc(maps.Keys(k.Answers), func(a, b string) int {
		if d := k.Answers[b] - k.Answers[a]; d != 0 {
			return int(d)
		}
		return strings.Compare(a, b)
	})
	var list []string
	for _, l := range labels {
		s := fmt.Sprintf("%s %s", count(float64(k.Answers[l])), l)
		if k.Unexpected[l] > 0 {
			s = "WRONG: " + s
		}
		list = append(list, s)
	}
	for _, l := range k.Missing {
		list = append(list, "MISSING: "+l)
	}
	return strings.Join(list, ", ")
}

func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}
