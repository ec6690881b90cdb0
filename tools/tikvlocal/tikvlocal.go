// Package tikvlocal runs PD and a server of TiKV's API on loopback: for tests, and for a cluster on one machine. The
// programs are built from modules of their own (tools/pdserver, tools/tikvserver) when they aren't there yet,
// which takes some minutes and fetches their modules.
package tikvlocal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// Config says what runs where. Zero values mean the defaults, where there are any.
type Config struct {
	Bin  string // directory of the programs, see Build
	Data string // directory of the data and the logs

	PDAddr     string // of PD's clients, host:port
	PDPeerAddr string // of PD's etcd peers, host:port
	TiKVAddr   string // where the server listens, host:port
	Advertise  string // what PD tells clients of it (a proxy's address); "": TiKVAddr

	Sync bool // each commit is on the disk before it is acknowledged
}

// programs and what they are built with.
var programs = []struct{ name, tags string }{{"pdserver", "without_dashboard"}, {"tikvserver", ""}}

// Build brings the programs in bin up to date with the repository in root; where one is built for the first time it says so on out.
func Build(ctx context.Context, root, bin string, out io.Writer) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return fmt.Errorf("build servers: %w", err)
	}
	for _, p := range programs {
		path := filepath.Join(bin, p.name)
		if _, err := os.Stat(path); err != nil {
			fmt.Fprintf(out, "building tools/%s (some minutes, and modules are fetched)\n", p.name)
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-tags", p.tags, "-o", path, ".")
		cmd.Dir = filepath.Join(root, "tools", p.name)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build tools/%s: %w\n%s", p.name, err, text)
		}
	}
	return nil
}

// Cluster is a running pair.
type Cluster struct {
	PD   *Process
	TiKV *Process
}

// Process is one of the programs. Its log is in the data directory.
type Process struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // it has ended
}

// Start starts both and returns when they are ready. Whoever started them stops them.
func Start(ctx context.Context, c Config) (*Cluster, error) {
	if c.Advertise == "" {
		c.Advertise = c.TiKVAddr
	}
	pd, err := start(c, "pdserver", "--name", "pd1", "--data-dir", filepath.Join(c.Data, "pd"),
		"--client-urls", "http://"+c.PDAddr, "--peer-urls", "http://"+c.PDPeerAddr)
	if err != nil {
		return nil, err
	}
	cluster := &Cluster{PD: pd}
	if err := pd.until(ctx, func() bool { return Answers(ctx, "http://"+c.PDAddr+"/pd/api/v1/health") }); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	if err := cluster.StartTiKV(ctx, c); err != nil {
		return nil, errors.Join(err, cluster.Stop())
	}
	return cluster, nil
}

// StartTiKV starts the server (again) and returns when it is ready.
func (c *Cluster) StartTiKV(ctx context.Context, cfg Config) (err error) {
	if cfg.Advertise == "" {
		cfg.Advertise = cfg.TiKVAddr
	}
	args := []string{"-pd", cfg.PDAddr, "-addr", cfg.TiKVAddr, "-advertise", cfg.Advertise, "-data", filepath.Join(cfg.Data, "tikv")}
	if cfg.Sync {
		args = append(args, "-sync")
	}
	if c.TiKV, err = start(cfg, "tikvserver", args...); err != nil {
		return err
	}
	// It listens before it has registered: PD knows the leader of a region when its first heartbeat has come.
	return c.TiKV.until(ctx, func() bool { return Leads(ctx, cfg.PDAddr) })
}

var quick = http.Client{Timeout: time.Second}

// Answers reports whether a GET of url is answered with 200 within a second.
func Answers(ctx context.Context, url string) bool {
	return get(ctx, url, func(io.Reader) bool { return true })
}

// Leads reports whether PD, which its clients reach at pd, knows where the first region is served.
func Leads(ctx context.Context, pd string) bool {
	var known struct {
		Regions []struct {
			Leader struct {
				Store uint64 `json:"store_id"`
			} `json:"leader"`
		} `json:"regions"`
	}
	return get(ctx, "http://"+pd+"/pd/api/v1/regions", func(body io.Reader) bool {
		return json.NewDecoder(body).Decode(&known) == nil && len(known.Regions) > 0 && known.Regions[0].Leader.Store > 0
	})
}

func get(ctx context.Context, url string, good func(body io.Reader) bool) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	res, err := quick.Do(req)
	if err != nil {
		return false
	}
	defer res.Body.Close()
	return res.StatusCode == http.StatusOK && good(res.Body)
}

func start(c Config, name string, args ...string) (*Process, error) {
	if err := os.MkdirAll(c.Data, 0o755); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	log, err := os.OpenFile(filepath.Join(c.Data, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, cmd: exec.Command(filepath.Join(c.Bin, name), args...), log: log, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() {
		defer close(p.done)
		p.cmd.Wait()
		log.Close()
	}()
	return p, nil
}

// until waits for ready, asked every 50 ms, at most until ctx or the process ends.
func (p *Process) until(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready (its log is %s): %w", p.name, p.log.Name(), ctx.Err())
		case <-p.done:
			return fmt.Errorf("%s ended (its log is %s): %v", p.name, p.log.Name(), p.cmd.ProcessState)
		case <-tick.C:
		}
	}
	return nil
}

// PID is the process's.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends one: SIGSTOP and SIGCONT freeze and thaw, SIGKILL kills.
func (p *Process) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop ends the process with SIGTERM, or after 10 s SIGKILL, and waits for its end.
func (p *Process) Stop() {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.Signal(syscall.SIGKILL)
		<-p.done
	}
}

// Stop ends both.
func (c *Cluster) Stop() error {
	if c.TiKV != nil {
		c.TiKV.Stop()
	}
	c.PD.Stop()
	return nil
}
