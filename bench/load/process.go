package load

import (
	"time"

	"github.com/gochat-im/gochat/bench/measure"
)

// Process is one of those that make up what is under load.
type Process struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

// ProcessUse is what one of them took.
type ProcessUse struct {
	Name string  `json:"name"`
	CPU  float64 `json:"cpu_us"` // for each message, copy or heartbeat that the scenario counts
	RSS  int64   `json:"rss_bytes"`
}

// processes are all that are on this machine; none: their CPU and memory can't be told.
func (t *Target) processes() []Process {
	if t.PID != 0 {
		return []Process{{Name: "server", PID: t.PID}}
	}
	return t.Nodes
}

// cpuByProcess returns the CPU time that each of the processes has used. One that has ended, as nodes of a cluster may, has used none.
func (t *Target) cpuByProcess() ([]time.Duration, error) {
	list := t.processes()
	used := make([]time.Duration, len(list))
	for i, p := range list {
		var err error
		if used[i], err = measure.CPU(p.PID); err != nil && len(list) == 1 {
			return nil, err
		}
	}
	return used, nil
}

// cpu returns the CPU time that all processes together have used.
func (t *Target) cpu() (all time.Duration, err error) {
	used, err := t.cpuByProcess()
	for _, u := range used {
		all += u
	}
	return all, err
}

// use tells what each process of a cluster took between two readings of the CPU times, for each of n.
// Of a server that is one process there is nothing to tell apart.
func (t *Target) use(before, after []time.Duration, n float64) (list []ProcessUse) {
	for i, p := range t.Nodes {
		u := ProcessUse{Name: p.Name, CPU: float64(max(after[i]-before[i], 0).Nanoseconds()) / 1e3 / n}
		u.RSS, _ = measure.RSS(p.PID) // 0: it has ended
		list = append(list, u)
	}
	return list
}

// between is the sum of what all processes took between two readings.
func between(before, after []time.Duration) (all time.Duration) {
	for i := range before {
		all += max(after[i]-before[i], 0)
	}
	return all
}

// memory returns what all processes hold, together.
func (t *Target) memory() (all measure.Memory, err error) {
	list := t.processes()
	for _, p := range list {
		m, err := measure.ReadMemory(p.PID)
		if err != nil && len(list) == 1 {
			return all, err
		}
		all.RSS, all.Private = all.RSS+m.RSS, all.Private+m.Private
	}
	return all, nil
}

// rss is memory's RSS, cheap enough for a measured window; 0: it can't be told.
func (t *Target) rss() (all int64) {
	for _, p := range t.processes() {
		if n, err := measure.RSS(p.PID); err == nil {
			all += n
		}
	}
	return all
}
