package measure

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
)

// RSS returns the resident memory of a process in bytes. Unlike ReadMemory it is cheap
// enough to be asked for while something is measured.
func RSS(pid int) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0, fmt.Errorf("memory of process %d: /proc/%d/statm has %d fields", pid, pid, len(f))
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return pages * int64(os.Getpagesize()), nil
}
