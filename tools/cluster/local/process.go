package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Process is one process of a cluster, over all its starts. What it is doesn't change; its methods may be called by any
// goroutine, one at a time of those that start and end it.
type Process struct {
	Name string
	Role string // of a node; empty: it is what nodes stand on

	Addr   string // where others reach it: a node's calls, clients of everything else
	TCP    string // of an edge: clients
	HTTP   string // of a node: /metrics and /readyz, and an edge's clients
	Data   string // its directory
	Config string // a node's configuration; empty: it has none
	Log    string // what it says, of all its starts

	number  int // of nodes and PDs
	c       *Cluster
	command func() (*exec.Cmd, error)
	ready   func(ctx context.Context, since time.Time, said []byte) bool // asked every 50 ms; said is since the start

	mu     sync.Mutex
	cmd    *exec.Cmd     // nil: never started
	done   chan struct{} // cmd has ended
	since  time.Time
	offset int64 // of the log, at the start
}

// Start starts the process, after Kill and Term again, and returns when it is ready.
func (p *Process) Start(ctx context.Context) error {
	if p.Running() {
		return fmt.Errorf("local cluster: %s runs already", p.Name)
	}
	began := time.Now()
	if err := p.launch(); err != nil {
		return fmt.Errorf("local cluster: starting %s: %w", p.Name, err)
	}
	if err := p.Ready(ctx); err != nil {
		return err
	}
	fmt.Fprintf(p.c.cfg.Out, "%s is ready after %s (%d)\n", p.Name, time.Since(began).Round(10*time.Millisecond), p.PID())
	return nil
}

// collect is how far a Go program's memory grows before it is collected, unless the environment says: by three times. There are ten
// programs with a few dozen megabytes in use each, and every collection takes a processor from all others for some 20 ms.
const collect = "300"

// share is how many Go programs run on a processor's worth of Go's each. With as many as the machine has every one
// wakes threads for work that another one's thread has to leave the processor for. Not so those in which a thread
// waits with it in its hands: an edge's for its poller, a store's for its disk.
const share = 4

// spreads reports whether p uses whatever processors there are.
func (p *Process) spreads() bool {
	return p.Role == "edge" || p.Name == TiKV || p.Name == Store || p.Name == Bus
}

func (p *Process) launch() error {
	cmd, err := p.command()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.Data, 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	st, err := log.Stat()
	if err != nil {
		return err
	}
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	// What a node's settings say comes later, and holds.
	if os.Getenv("GOGC") == "" {
		cmd.Env = append([]string{"GOGC=" + collect}, cmd.Env...)
	}
	if os.Getenv("GOMAXPROCS") == "" && !p.spreads() {
		cmd.Env = append([]string{"GOMAXPROCS=" + strconv.Itoa(max(1, runtime.NumCPU()/share))}, cmd.Env...)
	}
	cmd.Env = append(cmd.Env, envRun+"="+p.c.state.Run, envProcess+"="+p.Name)
	done, since := make(chan struct{}), time.Now()
	if err := p.c.spawn.start(cmd); err != nil {
		return err
	}
	go func() { // ends with the process
		_ = cmd.Wait()
		close(done)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.done, p.since, p.offset = cmd, done, since, st.Size()
	return nil
}

// Ready returns when the process is, since its last start.
func (p *Process) Ready(ctx context.Context) error {
	p.mu.Lock()
	done, since, offset := p.done, p.since, p.offset
	p.mu.Unlock()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		said, err := os.ReadFile(p.Log)
		if err != nil {
			return fmt.Errorf("local cluster: %s: %w", p.Name, err)
		}
		said = said[min(offset, int64(len(said))):]
		if p.ready(ctx, since, said) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("local cluster: %s isn't ready: %w; its log, %s, ends with:\n%s", p.Name, ctx.Err(), p.Log, tail(said))
		case <-done:
			return fmt.Errorf("local cluster: %s ended (%s); its log, %s, ends with:\n%s", p.Name, p.cmd.ProcessState, p.Log, tail(said))
		case <-tick.C:
		}
	}
}

// tail returns the end of a log.
func tail(said []byte) []byte { return said[max(0, len(said)-2000):] }

// PID is the process's, 0 if it doesn't run.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return 0
	}
	return p.cmd.Process.Pid
}

// Running reports whether the process runs, be it frozen.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running()
}

func (p *Process) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Done is closed when the process, as it was started last, has ended; nil: it never was.
func (p *Process) Done() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// Signal sends a signal. Not to a process that has ended: that is an error.
func (p *Process) Signal(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.running() {
		return fmt.Errorf("local cluster: %s doesn't run", p.Name)
	}
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("local cluster: signal to %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process as kill -9 does and returns when it is gone.
func (p *Process) Kill() {
	if p.Signal(syscall.SIGKILL) == nil {
		<-p.Done()
	}
}

// Freeze stops the process where it is: connections to it stay, and nothing answers.
func (p *Process) Freeze() error { return p.Signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (p *Process) Thaw() error { return p.Signal(syscall.SIGCONT) }

// Term ends the process in good order, by SIGTERM. One that doesn't end within 90 s (an edge waits for its clients), or before ctx does, is killed, which is an
// error, as is another exit status than 0 of a node. One that doesn't run is none.
func (p *Process) Term(ctx context.Context) error {
	if p.Signal(syscall.SIGTERM) != nil {
		return nil
	}
	_ = p.Thaw()
	ctx, cancel := context.WithTimeout(ctx, endTime)
	defer cancel()
	select {
	case <-p.Done():
	case <-ctx.Done():
		p.Kill()
		return fmt.Errorf("local cluster: %s didn't end and was killed (its log is %s)", p.Name, p.Log)
	}
	if s := p.cmd.ProcessState; p.Role != "" && s.ExitCode() != 0 {
		return fmt.Errorf("local cluster: %s ended with %s (its log is %s)", p.Name, s, p.Log)
	}
	return nil
}

// Restart is Term and Start.
func (p *Process) Restart(ctx context.Context) error {
	return errors.Join(p.Term(ctx), p.Start(ctx))
}

// spawner starts processes, all from one thread: the system ends them, unless they are detached, with the thread
// that started them.
type spawner struct {
	detach bool
	ask    chan func()
	once   sync.Once
}

func newSpawner(detach bool) *spawner {
	s := &spawner{detach: detach, ask: make(chan func())}
	go func() { // ends with close, and the thread with it
		runtime.LockOSThread()
		slacken()
		for fn := range s.ask {
			fn()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) (err error) {
	cmd.SysProcAttr = processAttr(s.detach)
	done := make(chan struct{})
	s.ask <- func() { err = cmd.Start(); close(done) }
	<-done
	return err
}

func (s *spawner) close() { s.once.Do(func() { close(s.ask) }) }

// listens reports whether somebody takes connections at addr.
func listens(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// add makes p one of the cluster's.
func (c *Cluster) add(p *Process) *Process {
	p.c = c
	c.mu.Lock()
	defer c.mu.Unlock()
	c.procs = append(slices.DeleteFunc(c.procs, func(o *Process) bool { return o.Name == p.Name }), p)
	return p
}
