package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The unit of times in /proc/PID/stat; the kernel's ABI fixes it at 100 a second on Linux.
const clockTick = 10 * time.Millisecond

// CPU returns the user and system time that the process and all its threads have used.
func CPU(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
	}
	// The name, in parentheses, may hold anything: count fields behind it.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 13 {
		return 0, fmt.Errorf("CPU time of process %d: /proc/%d/stat has %d fields", pid, pid, len(f))
	}
	var ticks uint64
	for _, s := range f[11:13] {
		n, err := strconv.ParseUint(string(s), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("CPU time of process %d: %w", pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// OwnCPU returns the user and system time of this process.
func OwnCPU() time.Duration {
	var r unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &r) // can't fail with valid arguments
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// Memory is what a process holds in memory, in bytes.
type Memory struct {
	RSS     int64 `json:"rss_bytes"`
	Private int64 `json:"private_bytes"` // of RSS, what no other process shares; 0: the kernel doesn't say
}

// ReadMemory returns the memory of a process. Private comes from smaps_rollup, which
// walks the page tables: not for use in a measured window.
func ReadMemory(pid int) (Memory, error) {
	var m Memory
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err == nil {
		m.RSS = field(b, "Rss:")
		m.Private = field(b, "Private_Clean:") + field(b, "Private_Dirty:")
	}
	if m.RSS > 0 {
		return m, nil
	}
	if b, err = os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err != nil {
		return m, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	if m.RSS = field(b, "VmRSS:"); m.RSS == 0 {
		return m, fmt.Errorf("memory of process %d: no VmRSS", pid)
	}
	return m, nil
}

// field returns a size of /proc's "Name:   123 kB" lines in bytes, 0 if there is none.
func field(b []byte, name string) int64 {
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	return 0
}

// DiskRead returns how many bytes the kernel fetched from disks for the process, 0 if it doesn't say.
func DiskRead(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "read_bytes: "); ok {
			n, _ := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			return n
		}
	}
	return 0
}
