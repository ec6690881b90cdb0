package local

import (
	"os/exec"
	"strings"
	"testing"
)

func TestProcessesMayBeWokenLater(t *testing.T) {
	s := newSpawner(false)
	defer s.close()
	var out strings.Builder
	cmd := exec.Command("cat", "/proc/self/timerslack_ns")
	cmd.Stdout = &out
	if err := s.start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got != "1000000" {
		t.Errorf("a process may be woken %s ns late", got)
	}
}
