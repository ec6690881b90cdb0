// Package measure holds the load generator's instruments: latency histograms and
// what the kernel tells about a process.
package measure

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

const highest = int64(2 * time.Minute)

// Latency is a histogram of durations from a microsecond to two minutes with
// three significant digits. Longer ones count as two minutes.
type Latency struct{ h *hdrhistogram.Histogram }

// NewLatency returns an empty histogram.
func NewLatency() *Latency {
	return &Latency{hdrhistogram.New(int64(time.Microsecond), highest, 3)}
}

// Record adds one duration in nanoseconds. It doesn't allocate.
func (l *Latency) Record(ns int64) {
	_ = l.h.RecordValue(min(max(ns, 0), highest)) // in range
}

// RecordN adds the same duration n times. It doesn't allocate.
func (l *Latency) RecordN(ns, n int64) {
	_ = l.h.RecordValues(min(max(ns, 0), highest), n) // in range
}

// Quantiles is what is reported of a histogram. The durations are in milliseconds.
type Quantiles struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// Quantiles returns the usual percentiles.
func (l *Latency) Quantiles() Quantiles {
	at := func(q float64) float64 { return float64(l.h.ValueAtQuantile(q)) / 1e6 }
	return Quantiles{Count: l.h.TotalCount(), P50: at(50), P99: at(99), P999: at(99.9), Max: float64(l.h.Max()) / 1e6}
}
