//go:build e2e && faults

package cluster

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// network is the cables between the processes of a test: everything they say to one another goes through a
// proxy, which knows by the caller's process who speaks to whom. A cable that is cut loses nothing and says nothing: what is
// under way waits, as TCP makes it, and new connections hang, and come to nothing.
type network struct {
	t *testing.T

	mu      sync.Mutex
	changed *sync.Cond
	cut     map[[2]string]bool
	pids    map[int]string // of the processes
	closed  bool
	ends    map[net.Conn]struct{}
	sockets sockets
}

// clients is whoever isn't one of the processes.
const clients = "clients"

func newNetwork(t *testing.T) *network {
	n := &network{t: t, cut: map[[2]string]bool{}, pids: map[int]string{}, ends: map[net.Conn]struct{}{}}
	n.changed = sync.NewCond(&n.mu)
	return n
}

// close ends all cables.
func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	for c := range n.ends {
		_ = c.Close()
	}
	n.changed.Broadcast()
	n.mu.Unlock()
}

// runs says which process a name is.
func (n *network) runs(name string, pid int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pids[pid] = name
}

// cable lays one to the process called to, which listens on target, and returns the address to call.
// listen is where the cable begins; "": on any port.
func (n *network) cable(to, listen, target string) string {
	n.t.Helper()
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp4", listen)
	if err != nil {
		n.t.Fatalf("a cable to %s: %v", to, err)
	}
	n.t.Cleanup(func() { _ = ln.Close() })
	go func() { // ends with the listener
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go n.carry(c.(*net.TCPConn), to, target)
		}
	}()
	return ln.Addr().String()
}

// carry is one connection.
func (n *network) carry(c *net.TCPConn, to, target string) {
	defer c.Close()
	from := &source{conn: c}
	if !n.keep(c) {
		return
	}
	defer n.drop(c)
	came := time.Now()
	if !n.pass(from, to) {
		return
	}
	if time.Since(came) > time.Second { // while the cable was cut: nobody has heard of it, nor hears what it wanted now
		_ = c.SetLinger(0)
		return
	}
	there, err := net.Dial("tcp4", target)
	if err != nil {
		_ = c.SetLinger(0)
		return
	}
	defer there.Close()
	if !n.keep(there) {
		return
	}
	defer n.drop(there)
	var wg sync.WaitGroup
	wg.Go(func() { n.copy(there.(*net.TCPConn), c, from, to) })
	wg.Go(func() { n.copy(c, there.(*net.TCPConn), from, to) })
	wg.Wait()
}

// copy is one direction.
func (n *network) copy(dst, src *net.TCPConn, from *source, to string) {
	buf := make([]byte, 16<<10)
	for {
		k, err := src.Read(buf)
		if !n.pass(from, to) {
			return
		}
		if k > 0 {
			if _, werr := dst.Write(buf[:k]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			// An end or a reset: both directions end, as they do when a process dies.
			_ = dst.CloseWrite()
			_ = src.CloseRead()
			return
		}
	}
}

func (n *network) keep(c net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.closed {
		n.ends[c] = struct{}{}
	}
	return !n.closed
}

func (n *network) drop(c net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.ends, c)
}

// source is who called.
type source struct {
	conn net.Conn
	once sync.Once
	pid  int // set by once; 0: the connection has ended
}

// pass waits while the cable is cut. It reports whether there is anything to go on for.
func (n *network) pass(from *source, to string) bool {
	n.mu.Lock()
	if n.closed || len(n.cut) == 0 { // it doesn't matter who it is
		defer n.mu.Unlock()
		return !n.closed
	}
	n.mu.Unlock()
	from.once.Do(func() { from.pid = n.sockets.owner(from.conn) })
	n.mu.Lock()
	defer n.mu.Unlock()
	for !n.closed {
		a := n.pids[from.pid] // it may be named when it has been calling for a while
		if a == "" {
			a = clients
		}
		if !n.cut[[2]string{a, to}] && !n.cut[[2]string{to, a}] && !n.cut[[2]string{a, ""}] && !n.cut[[2]string{to, ""}] {
			return true
		}
		n.changed.Wait()
	}
	return false
}

// part cuts what is between a and the others; without others everything that a has.
func (n *network) part(a string, others ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(others) == 0 {
		n.cut[[2]string{a, ""}] = true
	}
	for _, b := range others {
		n.cut[[2]string{a, b}] = true
	}
}

// heal mends all cables.
func (n *network) heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cut)
	n.changed.Broadcast()
}

// sockets is which process has which connection, as the kernel told it last.
type sockets struct {
	mu    sync.Mutex
	at    time.Time
	inode map[[2]string]string // by both addresses
	pid   map[string]int       // by inode
}

// owner is the process at the other end: one that this one has started, or this one.
func (s *sockets) owner(c net.Conn) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := [2]string{kernelAddr(c.RemoteAddr()), kernelAddr(c.LocalAddr())}
	for range 10 {
		if pid := s.pid[s.inode[key]]; pid != 0 {
			return pid
		}
		// The table may be older than the connection, or have been made while that was.
		time.Sleep(time.Until(s.at.Add(20 * time.Millisecond)))
		s.look()
	}
	return 0 // it has ended
}

// look asks the kernel.
func (s *sockets) look() {
	s.inode, s.pid = map[[2]string]string{}, map[string]int{}
	for _, pid := range processes() {
		dir := "/proc/" + pid + "/fd"
		list, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, e := range list {
			at, err := os.Readlink(dir + "/" + e.Name())
			if inode, ok := strings.CutPrefix(at, "socket:["); ok && err == nil {
				s.pid[strings.TrimSuffix(inode, "]")], _ = strconv.Atoi(pid)
			}
		}
	}
	table, _ := os.ReadFile("/proc/net/tcp")
	for line := range bytes.Lines(table) {
		if f := strings.Fields(string(line)); len(f) > 9 {
			s.inode[[2]string{f[1], f[2]}] = f[9]
		}
	}
	s.at = time.Now()
}

// processes are this one and those that it has started.
func processes() (pids []string) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	parent := strconv.Itoa(os.Getpid())
	pids = append(pids, parent)
	for _, e := range all {
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue // no process
		}
		// Behind the name, which may hold anything: its state, its parent.
		if f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(f) > 1 && f[1] == parent {
			pids = append(pids, e.Name())
		}
	}
	return pids
}

// kernelAddr is an address as /proc/net/tcp has it.
func kernelAddr(a net.Addr) string {
	t := a.(*net.TCPAddr)
	ip := t.IP.To4()
	return fmt.Sprintf("%s:%04X", strings.ToUpper(hex.EncodeToString([]byte{ip[3], ip[2], ip[1], ip[0]})), t.Port)
}
