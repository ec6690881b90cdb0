package floor

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"time"
)

// ChildCommand is the hidden subcommand under which the bench binary runs again as
// the bare program: a process of its own, like the server that it stands beside.
const ChildCommand = "floor-server"

// Counters is what the child tells when asked.
type Counters struct {
	Messages int64 `json:"messages"`
	Commits  int64 `json:"commits"`
}

// RunChild is the child: it prints its address, then answers each line on in with
// its Counters on out, and ends when in does, so it never outlives its parent.
func RunChild(args []string, in io.Reader, out io.Writer) error {
	dir, err := os.MkdirTemp("", "gochat-floor")
	if err != nil {
		return fmt.Errorf("directory for the floor's store: %w", err)
	}
	defer os.RemoveAll(dir)
	s, err := NewServer(dir, len(args) > 0 && args[0] == "group")
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	if _, err := fmt.Fprintln(out, ln.Addr()); err != nil {
		return fmt.Errorf("floor: %w", err)
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var c Counters
		c.Messages, c.Commits = s.Counters()
		if err := json.NewEncoder(out).Encode(c); err != nil {
			break
		}
	}
	cancel()
	return <-done
}

// Child is a running bare program.
type Child struct {
	Addr netip.AddrPort
	PID  int

	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   *bufio.Reader
}

// StartChild runs this binary again as the bare program. Stop it.
func StartChild(group bool) (*Child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own executable: %w", err)
	}
	args := []string{ChildCommand}
	if group {
		args = append(args, "group")
	}
	cmd := exec.Command(exe, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the floor: %w", err)
	}
	c := &Child{PID: cmd.Process.Pid, cmd: cmd, stdin: stdin, out: bufio.NewReader(stdout)}
	line, err := c.out.ReadString('\n')
	if err == nil {
		c.Addr, err = netip.ParseAddrPort(line[:len(line)-1])
	}
	if err != nil {
		c.Stop()
		return nil, fmt.Errorf("the floor's address: %w", err)
	}
	return c, nil
}

// Counters asks the child.
func (c *Child) Counters() (Counters, error) {
	var k Counters
	if _, err := io.WriteString(c.stdin, "\n"); err != nil {
		return k, fmt.Errorf("ask the floor: %w", err)
	}
	line, err := c.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &k)
	}
	if err != nil {
		return k, fmt.Errorf("the floor's counters: %w", err)
	}
	return k, nil
}

// Stop ends the child and waits for it.
func (c *Child) Stop() {
	_ = c.stdin.Close()
	kill := time.AfterFunc(10*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	_ = c.cmd.Wait() // its output, if it failed, is on stderr
}
