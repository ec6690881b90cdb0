package tcp_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gochat-im/gochat/edge/certs"
	"github.com/gochat-im/gochat/edge/certs/certtest"
	"github.com/gochat-im/gochat/edge/conn"
	"github.com/gochat-im/gochat/edge/conn/conntest"
	"github.com/gochat-im/gochat/edge/hub"
	"github.com/gochat-im/gochat/edge/tcp"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// serverEnv makes the test binary a server of its own, so that its CPU time and memory
// can be told from the client's.
const serverEnv = "GOCHAT_EDGE_BENCH_SERVER"

// tlsEnv is the directory of the certificate that this server has, if it has one.
const tlsEnv = "GOCHAT_EDGE_BENCH_TLS"

func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		if err := serveBench(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// committer stores nothing but syncs a file for each round of messages, as a store
// would: that is what gives batches their size.
type committer struct {
	*conntest.Services
	hub  *hub.Hub
	file *os.File

	mu    sync.Mutex
	cond  *sync.Cond
	queue [][]packet.Pending
}

func (c *committer) Send(batch []packet.Pending) {
	c.mu.Lock()
	c.queue = append(c.queue, batch)
	if len(c.queue) == 1 {
		c.cond.Signal()
	}
	c.mu.Unlock()
}

func (c *committer) run() {
	var work [][]packet.Pending
	var msgs, out, page []byte
	page = make([]byte, 4096)
	seq := uint64(0)
	for {
		c.mu.Lock()
		for len(c.queue) == 0 {
			c.cond.Wait()
		}
		work, c.queue = c.queue, work[:0]
		c.mu.Unlock()
		_, _ = c.file.WriteAt(page, 0)
		_ = syscall.Fdatasync(int(c.file.Fd()))
		for i, batch := range work {
			work[i] = nil
			msgs = msgs[:0]
			from := batch[0].From
			for j := range batch {
				p := &batch[j]
				seq++
				mid := id.MakeMessageID(id.Epoch+int64(seq), 1, 0)
				msgs = packet.AppendMessage(msgs, seq, mid, from.User, p.Tail)
				p.Reply.Acked(p, packet.Ack{Seq: seq, MessageID: mid})
			}
			if to := c.Connection(batch[0].ToUser, "d"); to != 0 {
				out = packet.AppendDeliver(out[:0], id.ConversationID{1}, nil, msgs)
				c.hub.Deliver(to, out)
			}
		}
		c.hub.Flush()
	}
}

// serveBench serves until its standard input ends. A line "n" on it asks for numbers.
func serveBench() error {
	c := &committer{Services: conntest.New()}
	c.cond = sync.NewCond(&c.mu)
	svc := c.For()
	svc.Conversations = c
	h, err := hub.New(hub.Config{ConnectsPerAddress: 1e6, PerAddress: 1e6, Strangers: 1e5, StrangersPerAddress: 1e5, Conn: conn.Config{
		SendsPerSecond: 1e9, UserSendsPerSecond: 1e9, BytesPerSecond: 1e9, FramesPerSecond: 1e9, HeartbeatMax: time.Hour, Heartbeat: time.Hour}}, svc)
	if err != nil {
		return err
	}
	c.hub, c.Out = h, h
	if c.file, err = os.CreateTemp("", "edge-bench"); err != nil {
		return err
	}
	defer os.Remove(c.file.Name())
	read, _ := strconv.Atoi(os.Getenv("GOCHAT_EDGE_BENCH_READ"))
	tc := tcp.Config{Listen: "127.0.0.1:0", Hub: h, ReadBuffer: read}
	if dir := os.Getenv(tlsEnv); dir != "" {
		source, err := certs.Open(certs.Config{CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem"})
		if err != nil {
			return err
		}
		tc.TLS = source.TLS()
	}
	s, err := tcp.New(tc)
	if err != nil {
		return err
	}
	go func() { _ = s.Run(context.Background()) }()
	go func() { _ = h.Run(context.Background()) }()
	go c.run()
	fmt.Println(s.Addr())
	if name := os.Getenv("GOCHAT_EDGE_BENCH_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		if in.Text() == "gc" {
			runtime.GC()
		}
		var u syscall.Rusage
		_ = syscall.Getrusage(0, &u)
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		st := h.Stats()
		fmt.Println(u.Utime.Nano()+u.Stime.Nano(), m.Mallocs, st.Writes, st.ShortWrites, st.Connections, rss(), m.HeapInuse+m.StackInuse, runtime.NumGoroutine())
	}
	return nil
}

// rss is the resident memory of this process in bytes.
func rss() int {
	b, _ := os.ReadFile("/proc/self/statm")
	f := strings.Fields(string(b))
	if len(f) < 2 {
		return 0
	}
	n, _ := strconv.Atoi(f[1])
	return n * os.Getpagesize()
}

type child struct {
	tb   testing.TB
	in   io.WriteCloser
	out  *bufio.Scanner
	addr string
}

func spawn(tb testing.TB, env ...string) *child {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), serverEnv+"=1"), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	c := &child{tb: tb, in: in, out: bufio.NewScanner(out)}
	if !c.out.Scan() {
		tb.Fatal("the server did not start")
	}
	c.addr = c.out.Text()
	return c
}

type numbers struct{ cpu, mallocs, writes, short, conns, rss, heap, goroutines int64 }

func (c *child) ask(what string) (n numbers) {
	c.tb.Helper()
	fmt.Fprintln(c.in, what)
	if !c.out.Scan() {
		c.tb.Fatal("the server is gone")
	}
	if _, err := fmt.Sscan(c.out.Text(), &n.cpu, &n.mallocs, &n.writes, &n.short, &n.conns, &n.rss, &n.heap, &n.goroutines); err != nil {
		c.tb.Fatal(err)
	}
	return n
}

// loader is a client of many connections in one goroutine.
type loader struct {
	tb    testing.TB
	epoll int
	peers []*peer
	buf   []byte
}

type peer struct {
	fd        int
	to        string
	rest, out []byte
	inflight  int
	seq       uint32
}

func newLoader(tb testing.TB, addr string, n int, name func(i int) (user, to string)) *loader {
	tb.Helper()
	l := &loader{tb: tb, buf: make([]byte, 256<<10)}
	var err error
	if l.epoll, err = syscall.EpollCreate1(0); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { syscall.Close(l.epoll) })
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	for i := range n {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			tb.Fatal(err)
		}
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}); err != nil {
			tb.Fatal(err)
		}
		_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
		tb.Cleanup(func() { syscall.Close(fd) })
		user, to := name(i)
		// As long as with a signed token.
		hello := conntest.ConnectFrame(&wire.Connect{Version: 1, Token: "user:" + user, DeviceId: "d", ResumeToken: strings.Repeat("r", 300)})
		if _, err := syscall.Write(fd, hello); err != nil {
			tb.Fatal(err)
		}
		k, err := syscall.Read(fd, l.buf)
		if err != nil || k < 2 || frame.Type(l.buf[2]) != frame.Connack && frame.Type(l.buf[1]) != frame.Connack {
			tb.Fatalf("login %d: %x, %v", i, l.buf[:max(k, 0)], err)
		}
		_ = syscall.SetNonblock(fd, true)
		ev := syscall.EpollEvent{Events: syscall.EPOLLIN, Fd: int32(i)}
		if err := syscall.EpollCtl(l.epoll, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
			tb.Fatal(err)
		}
		l.peers = append(l.peers, &peer{fd: fd, to: to})
	}
	return l
}

// send queues k messages.
func (p *peer) send(k int, body *wire.Send) {
	for range k {
		p.seq++
		binary.BigEndian.PutUint32(body.ClientMsgId[12:], p.seq)
		body.ToUserId = p.to
		b, _ := body.Marshal(nil)
		p.out = frame.Append(p.out, frame.Send, frame.FlagRequestID, p.seq, b)
		p.inflight++
	}
}

func (p *peer) flush() error {
	for len(p.out) > 0 {
		n, err := syscall.Write(p.fd, p.out)
		if err != nil && err != syscall.EAGAIN {
			return err
		}
		p.out = p.out[:copy(p.out, p.out[max(n, 0):])]
	}
	return nil
}

// pairs sends n messages with a window and returns when all are acked and delivered.
func (l *loader) pairs(n, window int) (delivered int) {
	mid := conntest.MsgID(1)
	body := &wire.Send{ClientMsgId: mid[:], MsgType: 1, Content: strings.Repeat("x", 100)}
	left, acked := n, 0
	for i, p := range l.peers {
		if i%2 == 0 {
			k := min(window, left)
			left -= k
			p.send(k, body)
			if err := p.flush(); err != nil {
				l.tb.Fatal(err)
			}
		}
	}
	events := make([]syscall.EpollEvent, 256)
	for acked < n || delivered < n {
		k, err := syscall.EpollWait(l.epoll, events, 10_000)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || k == 0 {
			l.tb.Fatalf("%d of %d acked, %d delivered: %v", acked, n, delivered, err)
		}
		for _, ev := range events[:k] {
			p := l.peers[ev.Fd]
			m, err := syscall.Read(p.fd, l.buf)
			if err != nil || m == 0 {
				l.tb.Fatalf("read %d, %v", m, err)
			}
			in := l.buf[:m]
			if len(p.rest) > 0 {
				in = append(p.rest, in...)
			}
			got := 0
			for {
				f, size, err := frame.Parse(in, frame.HardMax)
				if err != nil {
					l.tb.Fatal(err)
				}
				if size == 0 {
					break
				}
				switch f.Type {
				case frame.SendAck:
					got++
				case frame.Deliver:
					_, _, msgs, err := packet.DecodeDeliver(f.Body)
					for err == nil && len(msgs) > 0 {
						_, msgs, err = packet.NextMessage(msgs)
						delivered++
					}
					if err != nil {
						l.tb.Fatal(err)
					}
				default:
					l.tb.Fatal(conntest.Describe(&f))
				}
				in = in[size:]
			}
			p.rest = append(p.rest[:0], in...)
			acked += got
			p.inflight -= got
			if k := min(got, left); k > 0 {
				left -= k
				p.send(k, body)
				if err := p.flush(); err != nil {
					l.tb.Fatal(err)
				}
			}
		}
	}
	return delivered
}

// BenchmarkPairs is the edge's own cost a message: 500 pairs, a service that only syncs
// a file, client and server in two processes. server-ns/op is the server's CPU time.
func BenchmarkPairs(b *testing.B) {
	for _, window := range []int{1, 8, 32} {
		b.Run(fmt.Sprint("window=", window), func(b *testing.B) {
			c := spawn(b)
			l := newLoader(b, c.addr, 1000, func(i int) (string, string) { return fmt.Sprint("u", i), fmt.Sprint("u", i^1) })
			l.pairs(500*window*4, window)
			before := c.ask("n")
			b.ResetTimer()
			l.pairs(b.N, window)
			b.StopTimer()
			after := c.ask("n")
			n := float64(b.N)
			b.ReportMetric(float64(after.cpu-before.cpu)/n, "server-ns/op")
			b.ReportMetric(float64(after.mallocs-before.mallocs)/n, "server-allocs/op")
			b.ReportMetric(float64(after.writes-before.writes)/n, "writes/op")
			b.ReportMetric(float64(after.short-before.short), "short")
			b.ReportMetric(n/b.Elapsed().Seconds(), "msg/s")
		})
	}
}

// TestIdleMemory prints what an idle connection costs this server. GOCHAT_EDGE_IDLE is
// the number of connections, GOCHAT_EDGE_BENCH_READ the size of a read buffer.
func TestIdleMemory(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("GOCHAT_EDGE_IDLE"))
	if n == 0 {
		n = 1000
	}
	c := spawn(t)
	before := c.ask("gc")
	l := newLoader(t, c.addr, n, func(i int) (string, string) { return fmt.Sprint("user-", i), "" })
	ping := frame.Append(nil, frame.Ping, 0, 0, nil)
	for range 2 {
		// One after the other, as from many clients: netpoll's poller keeps 1.3 KB for as
		// many events as ever came at once.
		for _, p := range l.peers {
			p.out = append(p.out, ping...)
			if err := p.flush(); err != nil {
				t.Fatal(err)
			}
			for {
				k, err := syscall.Read(p.fd, l.buf)
				if err == syscall.EAGAIN {
					time.Sleep(50 * time.Microsecond)
					continue
				}
				if err != nil || k == 0 {
					t.Fatalf("read %d, %v", k, err)
				}
				break
			}
		}
	}
	c.ask("gc")
	after := c.ask("gc")
	if after.conns != int64(n) {
		t.Fatalf("%d connections, want %d", after.conns, n)
	}
	if more := after.goroutines - before.goroutines; more > 20 {
		t.Errorf("%d goroutines more for %d connections", more, n)
	}
	t.Logf("%d idle connections: %d bytes of RSS each, %d of heap and stacks, %d goroutines",
		n, (after.rss-before.rss)/int64(n), (after.heap-before.heap)/int64(n), after.goroutines)
}

// TestIdleMemoryOverTLS is the same with TLS.
func TestIdleMemoryOverTLS(t *testing.T) {
	n, _ := strconv.Atoi(os.Getenv("GOCHAT_EDGE_IDLE"))
	if n == 0 {
		n = 300
	}
	dir := t.TempDir()
	_, _, trust := certtest.Write(t, dir, "idle")
	c := spawn(t, tlsEnv+"="+dir)
	before := c.ask("gc")
	var clients []*conntest.Client
	for i := range n {
		nc, err := tls.Dial("tcp", c.addr, trust)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { nc.Close() })
		cl := &conntest.Client{W: nc}
		if _, err := cl.Login(fmt.Sprint("user-", i), "d"); err != nil {
			t.Fatal(err)
		}
		clients = append(clients, cl)
	}
	for _, cl := range clients {
		if err := cl.Write(frame.Append(nil, frame.Ping, 0, 0, nil)); err != nil {
			t.Fatal(err)
		}
		if f, err := cl.Next(patience); err != nil || f.Type != frame.Pong {
			t.Fatalf("%v, %v", f.Type, err)
		}
	}
	c.ask("gc")
	after := c.ask("gc")
	if more := after.goroutines - before.goroutines; more > 20 {
		t.Errorf("%d goroutines more for %d connections", more, n)
	}
	t.Logf("%d idle connections: %d bytes of RSS each, %d of heap and stacks, %d goroutines",
		n, (after.rss-before.rss)/int64(n), (after.heap-before.heap)/int64(n), after.goroutines)
}
