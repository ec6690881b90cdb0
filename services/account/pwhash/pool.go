package pwhash

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"
)

// Pool keeps child processes that compute keys, one key at a time each. They start when
// they are needed and end when they aren't for a while. It is safe for concurrent use.
type Pool struct {
	cfg  PoolConfig
	free chan *child // every child that isn't computing, running or not

	mu      sync.Mutex
	sweeper *time.Timer // stops idle ones; nil: none runs
	closed  bool
	warned  bool
}

// PoolConfig is what a Pool is made of.
type PoolConfig struct {
	Command  []string      // starts a child: a program that calls Serve on its standard input and output
	Children int           // at most; default 1
	Idle     time.Duration // after which a child ends; default 30 s
	Logger   *slog.Logger  // default: discards
}

// patience is how long one key may take. Steps back included, it takes well under a second.
const patience = 30 * time.Second

// NewPool returns a Pool without children. Close it.
func NewPool(cfg PoolConfig) *Pool {
	cfg.Children = max(cfg.Children, 1)
	if cfg.Idle == 0 {
		cfg.Idle = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pool{cfg: cfg, free: make(chan *child, cfg.Children)}
	for range cfg.Children {
		p.free <- &child{}
	}
	return p
}

// Key computes the argon2id key of n bytes, once a child is free. If none can be started
// it is computed here: signing in matters more than who waits for it.
func (p *Pool) Key(a Argon, password, salt []byte, n int) []byte {
	c := <-p.free
	defer p.release(c)
	for range 2 { // a child may have died since it was last used
		key, err := c.key(p.cfg.Command, a, password, salt, n)
		if err == nil {
			return key
		}
		c.stop()
		p.warn(err)
	}
	return a.Key(password, salt, n)
}

// warn tells of the first failure; a broken installation would otherwise log every sign-in.
func (p *Pool) warn(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.warned {
		p.warned = true
		p.cfg.Logger.Warn("hashing a password in a process of its own", "err", err)
	}
}

func (p *Pool) release(c *child) {
	c.used = time.Now()
	p.free <- c
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sweeper == nil && !p.closed {
		p.sweeper = time.AfterFunc(p.cfg.Idle, p.sweep)
	}
}

// sweep stops the children that have been idle, and comes again if others run.
func (p *Pool) sweep() {
	running := false
	for range p.cfg.Children {
		select {
		case c := <-p.free:
			if time.Since(c.used) >= p.cfg.Idle {
				c.stop()
			}
			running = running || c.cmd != nil
			p.free <- c
		default:
			running = true // it computes
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweeper = nil
	if running && !p.closed {
		p.sweeper = time.AfterFunc(p.cfg.Idle, p.sweep)
	}
}

// Close ends the children, once they have answered. Key must not be called any more.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	if p.sweeper != nil {
		p.sweeper.Stop()
	}
	p.mu.Unlock()
	for range p.cfg.Children {
		(<-p.free).stop()
	}
}

// child is one process, and belongs to who has taken it from the pool. cmd is nil while none runs.
type child struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *os.File
	used time.Time
}

func (c *child) key(command []string, a Argon, password, salt []byte, n int) ([]byte, error) {
	req, err := appendRequest(nil, a, password, salt, n)
	if err != nil {
		return nil, err
	}
	if c.cmd == nil {
		if err := c.start(command); err != nil {
			return nil, err
		}
	}
	if _, err := c.in.Write(req); err != nil {
		return nil, fmt.Errorf("pwhash: asking the child: %w", err)
	}
	if err := c.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return nil, fmt.Errorf("pwhash: limiting the child's time: %w", err)
	}
	key := make([]byte, n)
	if _, err := io.ReadFull(c.out, key); err != nil {
		return nil, fmt.Errorf("pwhash: reading the child's answer: %w", err)
	}
	return key, nil
}

func (c *child) start(command []string) error {
	if len(command) == 0 {
		return errors.New("pwhash: no command for a child")
	}
	cmd := exec.Command(command[0], command[1:]...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("pwhash: a pipe to the child: %w", err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("pwhash: a pipe from the child: %w", err)
	}
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	setGroup(cmd)
	err = cmd.Start()
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(fmt.Errorf("pwhash: starting a child: %w", err), out.Close())
	}
	c.cmd, c.in, c.out = cmd, in, out
	return nil
}

// stop ends the process, if one runs, and waits for it.
func (c *child) stop() {
	if c.cmd == nil {
		return
	}
	_ = c.in.Close()         // its sign to end
	_ = c.cmd.Process.Kill() // in case it hangs; it has nothing to lose
	_ = c.cmd.Wait()
	_ = c.out.Close()
	*c = child{used: c.used}
}
