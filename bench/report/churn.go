package report

import (
	"fmt"
	"io"

	"github.com/gochat-im/gochat/bench/load"
)

// Churn is what a load of visits showed.
type Churn struct{ load.ChurnResult }

func (c *Churn) metrics() map[string]float64 {
	return map[string]float64{
		"visits": c.Visits, "cpu": c.ServerCPU, "client_cpu": c.ClientCPU,
		"connack_p50": c.Connack.P50, "connack_p99": c.Connack.P99, "sync_p50": c.Sync.P50, "sync_p99": c.Sync.P99,
		"visit_p50": c.Visit.P50, "visit_p99": c.Visit.P99,
		"rss": float64(c.Loaded.RSS), "fresh_rss": float64(c.Fresh.RSS), "rest_rss": float64(c.Rested.RSS), "goroutines": c.Goroutines,
		"refused": float64(c.Refused), "ended": float64(c.Ended), "loss": float64(c.Lost), "wrong": float64(c.Wrong),
	}
}

func (c *Churn) broken() string {
	switch {
	case c.Lost > 0 || c.Wrong > 0:
		return fmt.Sprintf("%d messages were lost, %d wrong: %s", c.Lost, c.Wrong, c.Said)
	case c.Refused > 0 || c.Ended > 0:
		return fmt.Sprintf("%d visits were refused, %d ended by the server: %s", c.Refused, c.Ended, c.Said)
	}
	return ""
}

func (c *Churn) write(w io.Writer) {
	fmt.Fprintf(w, "  visits     %s/s: CONNECT, SYNC, SENDs, away; for %.1f s\n", count(c.Visits), c.Seconds)
	fmt.Fprintf(w, "  CONNACK    %s\n  SYNC       %s\n  visit      %s\n", quantiles(&c.Connack), quantiles(&c.Sync), quantiles(&c.Visit))
	fmt.Fprintf(w, "  server     %.1f µs CPU a visit; load generator %.1f µs\n", c.ServerCPU, c.ClientCPU)
	fmt.Fprintf(w, "  memory     RSS %s fresh, %s loaded, %s rested (private %s, %s, %s); %.0f goroutines at rest\n",
		size(float64(c.Fresh.RSS)), size(float64(c.Loaded.RSS)), size(float64(c.Rested.RSS)),
		size(float64(c.Fresh.Private)), size(float64(c.Loaded.Private)), size(float64(c.Rested.Private)), c.Goroutines)
	fmt.Fprintf(w, "  verified   %s messages sent, %s fetched by SYNC: %d lost, %d wrong; %d visits refused, %d ended\n",
		count(float64(c.Sent)), count(float64(c.Fetched)), c.Lost, c.Wrong, c.Refused, c.Ended)
}
