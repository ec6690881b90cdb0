package report

import (
	"fmt"
	"io"

	"github.com/gochat-im/gochat/bench/fill"
	"github.com/gochat-im/gochat/bench/load"
)

// History is what a load of pages showed, and of which store.
type History struct {
	Store fill.Filled `json:"store"`
	Limit int64       `json:"memory_limit_bytes,omitempty"` // of a cold server
	load.HistoryResult
}

func (h *History) metrics() map[string]float64 {
	return map[string]float64{
		"pages": h.Pages, "cpu": h.ServerCPU, "client_cpu": h.ClientCPU, "page_p50": h.Page.P50, "page_p99": h.Page.P99, "page_p999": h.Page.P999,
		"page_max": h.Page.Max, "page_bytes": h.Bytes, "late_p99": h.Late.P99, "disk_per_page": h.DiskRead, "rss": float64(h.RSS),
		"wrong": float64(h.Wrong), "refused": float64(h.Refused), "unanswered": float64(h.Unanswered),
	}
}

func (h *History) broken() string {
	switch {
	case h.Wrong > 0:
		return fmt.Sprintf("%d of %d pages were wrong: %s", h.Wrong, h.Verified, h.WrongSaid)
	case h.Refused > 0 || h.Unanswered > 0:
		return fmt.Sprintf("%d pages were refused, %d not answered: %s", h.Refused, h.Unanswered, h.WrongSaid)
	case h.Verified == 0:
		return "no page came"
	}
	return ""
}

func (h *History) write(w io.Writer) {
	s := &h.Store
	fmt.Fprintf(w, "  store      %s messages in %s segments, %s, filled in %.0f s\n", count(float64(s.Messages)), count(float64(s.Rows)), size(float64(s.Bytes)), s.Seconds)
	if h.Limit > 0 {
		fmt.Fprintf(w, "  cold       a new process that may have %s (GOMEMLIMIT and the engine's cache); the files are dropped from the kernel's cache before and four times a second meanwhile\n", size(float64(h.Limit)))
	}
	fmt.Fprintf(w, "  pages      %s/s of %s bytes, for %.1f s\n", count(h.Pages), count(h.Bytes), h.Seconds)
	fmt.Fprintf(w, "  latency    %s\n", quantiles(&h.Page))
	if h.Late.Count > 0 {
		fmt.Fprintf(w, "  asked late %s\n", quantiles(&h.Late))
	}
	fmt.Fprintf(w, "  server     %.2f µs CPU a page, %s RSS, %s bytes a page from the disk; load generator %.2f µs a page\n",
		h.ServerCPU, size(float64(h.RSS)), count(h.DiskRead), h.ClientCPU)
	fmt.Fprintf(w, "  verified   %s pages, every message: %d wrong; %d refused, %d not answered\n", count(float64(h.Verified)), h.Wrong, h.Refused, h.Unanswered)
}
