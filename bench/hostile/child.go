package hostile

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// ChildCommand is the hidden subcommand under which the bench binary runs again as the
// hostile clients: a process of its own, so that the good load's clock isn't theirs.
const ChildCommand = "hostile-clients"

// RunChild is the child: it reads its Config, waits for another line, attacks, and
// writes its Result. It ends early when in does, so it never outlives its parent.
func RunChild(in io.Reader, out io.Writer) error {
	lines := bufio.NewReader(in)
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read what to attack: %w", err)
	}
	var cfg Config
	if err := json.Unmarshal(line, &cfg); err != nil {
		return fmt.Errorf("read what to attack: %w", err)
	}
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, cfg.Nice); err != nil {
		return fmt.Errorf("lower the priority: %w", err)
	}
	if _, err := lines.ReadBytes('\n'); err != nil {
		return nil // called off
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		_, _ = lines.ReadBytes('\n')
		cancel()
	}()
	res, err := Run(ctx, cfg)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(res); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}

// Child is a process of hostile clients.
type Child struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	out   io.Reader
}

// StartChild runs this binary again as hostile clients, which wait for Go. Stop it.
func StartChild(cfg Config) (*Child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own executable: %w", err)
	}
	c := &Child{cmd: exec.Command(exe, ChildCommand)}
	c.cmd.Stderr = os.Stderr
	if c.stdin, err = c.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start the hostile clients: %w", err)
	}
	if c.out, err = c.cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("start the hostile clients: %w", err)
	}
	if err := c.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the hostile clients: %w", err)
	}
	if err := json.NewEncoder(c.stdin).Encode(cfg); err != nil {
		c.Stop()
		return nil, fmt.Errorf("tell the hostile clients whom to attack: %w", err)
	}
	return c, nil
}

// Go lets them begin.
func (c *Child) Go() error {
	if _, err := io.WriteString(c.stdin, "\n"); err != nil {
		return fmt.Errorf("let the hostile clients begin: %w", err)
	}
	return nil
}

// Result waits until they are through.
func (c *Child) Result() (*Result, error) {
	var r Result
	if err := json.NewDecoder(c.out).Decode(&r); err != nil {
		return nil, fmt.Errorf("what the hostile clients saw: %w", err)
	}
	return &r, nil
}

// Stop ends the child and waits for it.
func (c *Child) Stop() {
	_ = c.stdin.Close()
	kill := time.AfterFunc(30*time.Second, func() { _ = c.cmd.Process.Kill() })
	defer kill.Stop()
	_ = c.cmd.Wait() // its output, if it failed, is on stderr
}
