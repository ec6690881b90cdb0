package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/tools/loopback"
)

// What a process of a cluster has in its environment: the cluster's run, and which of its processes it is.
const (
	envRun     = "GOCHATLOCAL_RUN"
	envProcess = "GOCHATLOCAL_PROCESS"
)

// state is what the directory of a cluster tells about it.
type state struct {
	Run   string            `json:"run"`   // marks the processes; a new one at each start
	Ports map[string]string `json:"ports"` // addresses by what they are of, the same at each start

	path string
	mu   sync.Mutex
}

const stateFile = "cluster.json"

func readState(dir string) (*state, error) {
	s := &state{path: filepath.Join(dir, stateFile)}
	raw, err := os.ReadFile(s.path)
	if err == nil {
		if err = json.Unmarshal(raw, s); err != nil {
			err = fmt.Errorf("local cluster: %s: %w", s.path, err)
		}
	}
	if s.Ports == nil {
		s.Ports = map[string]string{}
	}
	return s, err
}

// claim makes dir the directory of a cluster that is about to start.
func claim(dir string) (*state, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("local cluster: %w", err)
	}
	s, err := readState(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if live := s.live(); len(live) > 0 {
		var names []string
		for _, p := range live {
			names = append(names, fmt.Sprintf("%s (%d)", p.Name, p.PID))
		}
		return nil, fmt.Errorf("local cluster: processes of %s run already: %s: end them first (make cluster-down)", dir, strings.Join(names, ", "))
	}
	s.Run = rand.Text()
	return s, s.write()
}

func (s *state) write() error {
	raw, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("local cluster: %w", err)
	}
	tmp := s.path + ".new"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("local cluster: %w", err)
	}
	if err := os.Rename(tmp, s.path); err != nil {
		return fmt.Errorf("local cluster: %w", err)
	}
	return nil
}

// Live is a process of a cluster that was found running.
type Live struct {
	Name string
	PID  int
}

// live finds the processes of the run, by what is in their environment: a pid alone may be another's by now.
func (s *state) live() []Live {
	if s.Run == "" {
		return nil
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var found []Live
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil { // it is another user's, or gone, or has ended and wasn't waited for
			continue
		}
		name, mine := "", false
		for v := range bytes.SplitSeq(env, []byte{0}) {
			k, v, _ := strings.Cut(string(v), "=")
			switch k {
			case envRun:
				mine = v == s.Run
			case envProcess:
				name = v
			}
		}
		if mine {
			found = append(found, Live{name, pid})
		}
	}
	slices.SortFunc(found, func(a, b Live) int { return a.PID - b.PID })
	return found
}

// Find returns the processes that run of the cluster in dir, whoever started them, in the order of their pids.
func Find(dir string) ([]Live, error) {
	s, err := readState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return s.live(), nil
}

// Down ends what runs of the cluster in dir, whoever started it and whether that one is still there: nodes first, in good order, and what
// doesn't end is killed. What the cluster holds stays. It returns how many processes there were.
func Down(ctx context.Context, dir string, out io.Writer) (int, error) {
	s, err := readState(dir)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	} else if err != nil {
		return 0, err
	}
	all := s.live()
	count := len(all)
	var errs []error
	// Edges, the other nodes, and what those stand on, the last started first.
	for _, role := range []string{"edge", "fanout", "worker", "logic", ""} {
		var some []Live
		for _, p := range all {
			if strings.HasPrefix(p.Name, role) && (role != "" || !isNode(p.Name)) {
				some = append(some, p)
			}
		}
		if role != "" {
			errs = append(errs, s.end(ctx, some, out))
			continue
		}
		for _, p := range slices.Backward(some) {
			errs = append(errs, s.end(ctx, []Live{p}, out))
		}
	}
	// Somebody may have been starting more.
	if left := s.live(); len(left) > 0 {
		count += len(left)
		errs = append(errs, s.end(ctx, left, out))
	}
	return count, errors.Join(errs...)
}

func isNode(name string) bool {
	role, _, _ := strings.Cut(name, "-")
	return slices.Contains(Roles, role)
}

// endTime is what a process may take to end by itself.
const endTime = 90 * time.Second

// end ends processes and returns when they are gone.
func (s *state) end(ctx context.Context, some []Live, out io.Writer) error {
	for _, p := range some {
		fmt.Fprintf(out, "ending %s (%d)\n", p.Name, p.PID)
		_ = syscall.Kill(p.PID, syscall.SIGTERM)
		_ = syscall.Kill(p.PID, syscall.SIGCONT) // a frozen one hears nothing
	}
	asked, killed := time.Now(), false
	for {
		left := slices.DeleteFunc(s.live(), func(p Live) bool { return !slices.Contains(some, p) })
		if len(left) == 0 {
			return nil
		}
		if !killed && (time.Since(asked) > endTime || ctx.Err() != nil) {
			killed = true
			for _, p := range left {
				fmt.Fprintf(out, "killing %s (%d): it didn't end\n", p.Name, p.PID)
				_ = syscall.Kill(p.PID, syscall.SIGKILL)
			}
		}
		if time.Since(asked) > endTime+10*time.Second {
			return fmt.Errorf("local cluster: %s (%d) can't be killed", left[0].Name, left[0].PID)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// address returns the address of what, the same at each start; port: which one, 0 any that is free. Below: so many
// ports below it are free as well.
func (s *state) address(what string, port, below int) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if port != 0 {
		s.Ports[what] = fmt.Sprintf("127.0.0.1:%d", port)
		return s.Ports[what], s.write()
	}
	if a := s.Ports[what]; a != "" {
		return a, nil
	}
	taken := map[string]bool{}
	for _, a := range s.Ports {
		taken[a] = true
	}
	for {
		a, err := loopback.Free(below)
		if err != nil {
			return "", fmt.Errorf("local cluster: %w", err)
		}
		at := func(i int) string { return netip.AddrPortFrom(a.Addr(), a.Port()-uint16(i)).String() }
		ok := true
		for i := 0; i <= below && ok; i++ {
			ok = !taken[at(i)]
		}
		if !ok {
			continue
		}
		for i := 1; i <= below; i++ {
			s.Ports[fmt.Sprintf("%s, %d below", what, i)] = at(i)
		}
		s.Ports[what] = at(0)
		return s.Ports[what], s.write()
	}
}
