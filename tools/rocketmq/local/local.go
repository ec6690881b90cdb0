// Package local runs a RocketMQ name server and broker on this machine, for tests and
// trials. They listen on loopback, but for the broker's port for replicas, which it binds on all
// addresses whatever is configured: what is in such a broker is not secret. It needs Java 17
// and, the first time, Maven.
package local

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/gochat-im/gochat/tools/loopback"
)

// Version of RocketMQ that is fetched.
const Version = "5.3.3"

const pom = `<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>im.gochat.tools</groupId>
  <artifactId>rocketmq</artifactId>
  <version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-namesrv</artifactId><version>` + Version + `</version></dependency>
    <dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-broker</artifactId><version>` + Version + `</version></dependency>
  </dependencies>
</project>
`

// Fetch returns the folder of RocketMQ's jars below cache, an absolute path; if it isn't there
// Maven fetches them (83 MB) and what it says goes to out.
func Fetch(ctx context.Context, cache string, out io.Writer) (string, error) {
	lib := filepath.Join(cache, "rocketmq-"+Version)
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	fmt.Fprintf(out, "fetching RocketMQ %s with Maven into %s\n", Version, lib)
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("fetch RocketMQ: %w", err)
	}
	tmp, err := os.MkdirTemp(cache, "rocketmq-fetch-")
	if err != nil {
		return "", fmt.Errorf("fetch RocketMQ: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.WriteFile(filepath.Join(tmp, "pom.xml"), []byte(pom), 0o644); err != nil {
		return "", fmt.Errorf("fetch RocketMQ: %w", err)
	}
	cmd := exec.CommandContext(ctx, "mvn", "-q", "-B", "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies",
		"-DoutputDirectory="+filepath.Join(tmp, "lib"), "-DincludeScope=runtime")
	cmd.Dir, cmd.Stdout, cmd.Stderr = tmp, out, out
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("fetch RocketMQ with Maven: %w", err)
	}
	// Whole or not at all, whoever else is fetching.
	if err := os.Rename(filepath.Join(tmp, "lib"), lib); err != nil {
		if _, there := os.Stat(lib); there != nil {
			return "", fmt.Errorf("fetch RocketMQ: %w", err)
		}
	}
	return lib, nil
}

// brokerDisk is how full a disk may be, in per cent, for a broker to take anything.
const brokerDisk = 90

// usedPercent returns how full the file system of dir is, 0 if that can't be told.
func usedPercent(dir string) int {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Blocks == 0 {
		return 0
	}
	used := st.Blocks - st.Bfree
	return int((used*100 + used + st.Bavail - 1) / (used + st.Bavail))
}

// TempDir makes a new folder for a Cluster of a test, in memory where the disk of temporary
// files is too full for a broker. The caller removes it.
func TempDir() (string, error) {
	in := os.TempDir()
	if usedPercent(in) >= brokerDisk-2 {
		if _, err := os.Stat("/dev/shm"); err == nil {
			in = "/dev/shm"
		}
	}
	return os.MkdirTemp(in, "gochat-rocketmq-")
}

// Config of a Cluster. Dir and Lib must be set.
type Config struct {
	Dir string // data, configuration and logs; an absolute path. What is there is used again.
	Lib string // of Fetch

	NameServer string // address; default: a free port of loopback
	Broker     string // address; the two ports below it are used too; default as above

	BrokerHost    string        // what clients are told of the broker's address, its port being the same; default: Broker's
	BrokerHeapMiB int           // default 512
	Sync          bool          // what is published is on the disk before the broker says so; a machine's end loses nothing then
	StartTimeout  time.Duration // of each of the two. Default 60 s.
}

// Cluster is one name server and one broker, as two processes.
type Cluster struct {
	cfg        Config
	nameServer *process
	broker     *process
}

// Start starts both and returns when the broker has registered with the name server.
func Start(ctx context.Context, c Config) (*Cluster, error) {
	if !filepath.IsAbs(c.Dir) || !filepath.IsAbs(c.Lib) {
		return nil, fmt.Errorf("local RocketMQ: %q and %q are to be absolute paths", c.Dir, c.Lib)
	}
	if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("local RocketMQ: %w", err)
	}
	if used := usedPercent(c.Dir); used >= brokerDisk {
		return nil, fmt.Errorf("local RocketMQ: the disk of %s is %d %% full: from %d %% on a broker takes nothing, whatever is configured", c.Dir, used, brokerDisk)
	}
	if c.StartTimeout == 0 {
		c.StartTimeout = time.Minute
	}
	if c.NameServer == "" {
		a, err := loopback.Free(0)
		if err != nil {
			return nil, fmt.Errorf("local RocketMQ: name server: %w", err)
		}
		c.NameServer = a.String()
	}
	if c.Broker == "" {
		a, err := loopback.Free(2) // a broker that is started again finds it free
		if err != nil {
			return nil, fmt.Errorf("local RocketMQ: broker: %w", err)
		}
		c.Broker = a.String()
	}
	cl := &Cluster{cfg: c}
	if err := cl.startNameServer(ctx); err != nil {
		return nil, err
	}
	if err := cl.StartBroker(ctx); err != nil {
		cl.Stop()
		return nil, err
	}
	return cl, nil
}

// NameServer returns the name server's address.
func (c *Cluster) NameServer() string { return c.cfg.NameServer }

func (c *Cluster) startNameServer(ctx context.Context) error {
	cmd, err := NameServerCommand(c.cfg)
	if err == nil {
		c.nameServer, err = c.java(ctx, "namesrv", cmd)
	}
	return err
}

// StartBroker starts the broker again after StopBroker or KillBroker.
func (c *Cluster) StartBroker(ctx context.Context) error {
	cmd, err := BrokerCommand(c.cfg)
	if err == nil {
		c.broker, err = c.java(ctx, "broker", cmd)
	}
	return err
}

// UpText is what both say, on their standard output, when they are up.
const UpText = "boot success"

// NameServerCommand returns what runs the name server of c, whose addresses are set, and writes its configuration: for those
// who look after the process themselves.
func NameServerCommand(c Config) (*exec.Cmd, error) {
	host, port, err := net.SplitHostPort(c.NameServer)
	if err != nil {
		return nil, fmt.Errorf("local RocketMQ: name server: %w", err)
	}
	conf := fmt.Sprintf("bindAddress=%s\nlistenPort=%s\nkvConfigPath=%s\nconfigStorePath=%s\n", host, port,
		filepath.Join(c.Dir, "namesrv", "kvConfig.json"), filepath.Join(c.Dir, "namesrv", "namesrv.properties"))
	return c.command("namesrv", "org.apache.rocketmq.namesrv.NamesrvStartup", 128, conf)
}

// BrokerCommand is NameServerCommand of the broker.
func BrokerCommand(c Config) (*exec.Cmd, error) {
	host, port, err := net.SplitHostPort(c.Broker)
	if err != nil {
		return nil, fmt.Errorf("local RocketMQ: broker: %w", err)
	}
	var n int
	if _, err := fmt.Sscan(port, &n); err != nil {
		return nil, fmt.Errorf("local RocketMQ: broker: %w", err)
	}
	shown := c.BrokerHost
	if shown == "" {
		shown = host
	}
	store := filepath.Join(c.Dir, "broker", "store")
	flush := "ASYNC_FLUSH"
	if c.Sync {
		flush = "SYNC_FLUSH"
	}
	conf := fmt.Sprintf(`brokerClusterName=local
brokerName=broker-a
brokerId=0
brokerRole=ASYNC_MASTER
flushDiskType=%s
namesrvAddr=%s
brokerIP1=%s
brokerIP2=%s
bindAddress=%s
listenPort=%d
haListenPort=%d
haListenAddress=%s
storePathRootDir=%s
storePathCommitLog=%s
mappedFileSizeCommitLog=67108864
mappedFileSizeConsumeQueue=300000
maxHashSlotNum=50000
maxIndexNum=200000
diskMaxUsedSpaceRatio=95
diskSpaceWarningLevelRatio=90
diskSpaceCleanForciblyRatio=90
autoCreateTopicEnable=false
autoCreateSubscriptionGroup=true
deleteWhen=04
fileReservedTime=24
traceTopicEnable=false
timerWheelEnable=false
enablePropertyFilter=false
`, flush, c.NameServer, shown, shown, host, n, n-1, host, store, filepath.Join(store, "commitlog"))
	heap := c.BrokerHeapMiB
	if heap == 0 {
		heap = defaultBrokerHeapMiB
	}
	return c.command("broker", "org.apache.rocketmq.broker.BrokerStartup", heap, conf)
}

// command returns what runs a main class.
func (c *Config) command(name, class string, heapMiB int, conf string) (*exec.Cmd, error) {
	dir := filepath.Join(c.Dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("local RocketMQ: %w", err)
	}
	file := filepath.Join(dir, name+".conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, fmt.Errorf("local RocketMQ: %w", err)
	}
	cmd := exec.Command("java",
		fmt.Sprintf("-Xms%dm", heapMiB), fmt.Sprintf("-Xmx%dm", heapMiB), "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=256m", "-XX:-UsePerfData",
		"-Duser.home="+dir, "-Drocketmq.client.logUseSlf4j=true",
		"--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED", "--add-opens=java.base/java.nio=ALL-UNNAMED", "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
		"-cp", filepath.Join(c.Lib, "*"), class, "-c", file)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "ROCKETMQ_HOME="+dir)
	return cmd, nil
}

// java starts a command and returns when it has said that it is up.
func (c *Cluster) java(ctx context.Context, name string, cmd *exec.Cmd) (*process, error) {
	// A signal to whoever started it, such as an interrupt, is not for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := &process{cmd: cmd, name: name, up: make(chan struct{}), ended: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("local RocketMQ: %w", err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("local RocketMQ: start of the %s: %w", name, err)
	}
	go p.watch(out)
	select {
	case <-p.up:
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("local RocketMQ: the %s ended: %s", name, p.said())
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(c.cfg.StartTimeout):
		err = fmt.Errorf("not up after %s", c.cfg.StartTimeout)
	}
	p.end(syscall.SIGKILL)
	return nil, fmt.Errorf("local RocketMQ: start of the %s: %w: %s", name, err, p.said())
}

// KillBroker ends the broker as a crash would.
func (c *Cluster) KillBroker() { c.broker.end(syscall.SIGKILL) }

// StopBroker ends the broker in order, which takes it ten seconds.
func (c *Cluster) StopBroker() { c.broker.end(syscall.SIGTERM) }

// Freeze stops the broker where it is, and Thaw lets it go on.
func (c *Cluster) Freeze() error { return c.broker.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw ends Freeze.
func (c *Cluster) Thaw() error { return c.broker.cmd.Process.Signal(syscall.SIGCONT) }

// Stop ends both processes in order; what doesn't end in time is killed.
func (c *Cluster) Stop() {
	if c.broker != nil {
		c.broker.end(syscall.SIGTERM)
	}
	if c.nameServer != nil {
		c.nameServer.end(syscall.SIGTERM)
	}
}

// Kill ends both at once. What the broker took with a synchronous flush is kept.
func (c *Cluster) Kill() {
	if c.broker != nil {
		c.broker.end(syscall.SIGKILL)
	}
	if c.nameServer != nil {
		c.nameServer.end(syscall.SIGKILL)
	}
}

const defaultBrokerHeapMiB = 512

// process is a JVM and what it said last.
type process struct {
	cmd   *exec.Cmd
	name  string
	up    chan struct{} // closed when it has said boot success
	ended chan struct{} // closed when it is gone

	mu   sync.Mutex
	last []string
}

const keptLines = 50

// watch reads what the process says until it ends.
func (p *process) watch(out io.Reader) {
	up := false
	for in := bufio.NewScanner(out); in.Scan(); {
		if !up && strings.Contains(in.Text(), UpText) {
			up = true
			close(p.up)
		}
		if strings.Contains(in.Text(), " |-") { // its log's own configuration, at length
			continue
		}
		p.mu.Lock()
		if p.last = append(p.last, in.Text()); len(p.last) > keptLines {
			p.last = p.last[1:]
		}
		p.mu.Unlock()
	}
	_ = p.cmd.Wait()
	close(p.ended)
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.last, "\n")
}

// stopTimeout is what a process may take to end by itself.
const stopTimeout = 20 * time.Second

func (p *process) end(sig syscall.Signal) {
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.ended:
		return
	case <-time.After(stopTimeout):
	}
	_ = p.cmd.Process.Kill()
	<-p.ended
}
