package report

import (
	"fmt"
	"io"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/target"
)

// Scale is one round of pairs under which logic nodes came and left.
type Scale struct {
	*load.PairsResult
	Grow   target.Move `json:"grow"`
	Shrink target.Move `json:"shrink"`
}

// scaleSpans names the parts of the load, in their order.
var scaleSpans = []string{"before", "grow", "between", "shrink", "after"}

// errors counts what a client was refused. One that is cut off ends the run.
func (s *Scale) errors() int64 { return int64(s.Verify.Refused) + s.Again + int64(s.Verify.Unacked) }

func (s *Scale) metrics() map[string]float64 {
	m := pairsMetrics(s.PairsResult)
	m["errors"] = float64(s.errors())
	m["moved"], m["moved_off"] = float64(s.Grow.Moved+s.Shrink.Moved), max(s.Grow.Off(), s.Shrink.Off())
	m["still"], m["whole"] = 1e3*max(s.Grow.Still, s.Shrink.Still), 1e3*max(s.Grow.Whole, s.Shrink.Whole)
	for i, name := range scaleSpans {
		var seen load.Span
		if i < len(s.Spans) {
			seen = s.Spans[i]
		}
		m[name+"_dlv_p99"], m[name+"_dlv_max"] = seen.Delivery.P99, seen.Delivery.Max
		m[name+"_ack_p50"], m[name+"_ack_p99"], m[name+"_ack_max"] = seen.Ack.P50, seen.Ack.P99, seen.Ack.Max
	}
	return m
}

func (s *Scale) broken() string {
	switch v := &s.Verify; {
	case !v.Sound() || v.Missing > 0 || v.Unacked > 0:
		return fmt.Sprintf("the verifier found %d lost, %d doubled or out of order, %d changed, %d never came, %d unacked", v.Lost, v.Doubled, v.Corrupt, v.Missing, v.Unacked)
	case s.errors() > 0:
		return fmt.Sprintf("clients saw %d refusals of what they sent and %d of what they asked for", v.Refused, s.Again)
	}
	return ""
}

func (s *Scale) write(w io.Writer) {
	for _, m := range []*target.Move{&s.Grow, &s.Shrink} {
		fmt.Fprintf(w, "  %-10s %d slots moved, %.0f had to: %.1f %% off; the last after %.2f s, known to all nodes after %.2f s; ",
			fmt.Sprintf("%d -> %d", m.From, m.To), m.Moved, m.Ideal, m.Off(), m.Last, m.Still)
		if m.To > m.From {
			fmt.Fprintf(w, "the new ones were ready after %.2f s\n", m.Whole)
		} else {
			fmt.Fprintf(w, "those that left had ended after %.2f s\n", m.Whole)
		}
		for _, step := range m.Steps {
			fmt.Fprintf(w, "             after %.2f s %d nodes own slots: %d moved, %.0f had to\n", step.After, step.Nodes, step.Moved, step.Ideal)
		}
	}
	for i, span := range s.Spans {
		name := "more"
		if i < len(scaleSpans) {
			name = scaleSpans[i]
		}
		fmt.Fprintf(w, "  %-10s %.1f s, %s acked; ack %s; %d refused\n             delivery %s\n", name, span.Seconds, count(float64(span.Ack.Count)), quantiles(&span.Ack), span.Refused, quantiles(&span.Delivery))
	}
	fmt.Fprintf(w, "  errors     %d seen by clients, %d of them when asking for what they missed; no connection ended\n", s.errors(), s.Again)
	fmt.Fprintf(w, "  rate       %s/s sent, %s/s acked, %s/s delivered, for %.1f s\n", count(s.Sent), count(s.Acked), count(s.Delivered), s.Seconds)
	writeVerified(w, s.PairsResult)
}
