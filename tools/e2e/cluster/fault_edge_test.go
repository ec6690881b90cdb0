//go:build e2e && faults

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	benchload "github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/frame"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// An edge that reaches no logic node answers with errors that say what to do, acks nothing, holds its breakers open, and is
// well again by itself when it reaches them.
func (a *afflicted) cutFromLogic() {
	a.Helper()
	l := a.load
	l.goHome()
	l.start(a.rate)
	if _, ok := l.full(time.Now(), 20*time.Second); !ok {
		a.Error("edge without logic nodes: the service wasn't full before it")
	}
	raw := a.dialRaw(l.edges[0], "raw")
	if e := raw.send(1, l.people[0].name)[0]; e != nil {
		a.Errorf("a message before the cut: %v", e)
	}
	var logic []string
	var with [][]id.UserID // whose conversations with raw each of them owns
	for _, p := range a.nodes.Nodes("logic") {
		var some []id.UserID
		for _, x := range l.people {
			if a.ownerOf(id.Direct("raw", x.name)) == p {
				some = append(some, x.name)
			}
		}
		if len(some) > 0 {
			logic, with = append(logic, p.Name), append(with, some)
		}
	}
	if len(logic) < 2 {
		a.Fatalf("all conversations with raw belong to %v", logic)
	}
	began := time.Now()
	a.net.part("edge-1", logic...)
	opened := map[string]bool{} // breakers
	got := map[code.Code]int{}
	for n := 1; time.Since(began) < 8*time.Second || len(opened) < len(logic) && time.Since(began) < 15*time.Second; n++ {
		var to []id.UserID
		for _, some := range with {
			to = append(to, some[n%len(some)])
		}
		for _, e := range raw.send(uint32(100*n), to...) {
			switch {
			case e == nil:
				a.Errorf("a message, %v after the cut, was acked", time.Since(began).Round(time.Millisecond))
				continue
			case e.Code.Class() == code.Terminal:
				a.Errorf("a message was refused with %v, after which a client doesn't try again", e)
			case got[e.Code] == 0:
				a.Logf("edge without logic nodes: %v after %v", e, time.Since(began).Round(time.Millisecond))
			}
			got[e.Code]++
		}
		a.openBreakers(opened)
		time.Sleep(200 * time.Millisecond)
	}
	if len(opened) < len(logic) {
		a.Errorf("edge without logic nodes: of %d breakers opened %v", len(logic), opened)
	}
	ended := time.Now()
	a.net.heal()
	back := a.bounded("edge without logic nodes", " after its end", ended, 10*time.Second)
	l.stop()
	l.settled(20 * time.Second)
	// What was acked was said at the other edge, or before the cut.
	grace := began.Add(time.Second) // an application may hear late of what came in time
	l.mu.Lock()
	for _, s := range l.log {
		if s.by == 0 && s.acked.After(grace) && s.acked.Before(ended) {
			l.complain("%s: message %d was acked %v after the cut", s.lane.sender.name, s.n, s.acked.Sub(began).Round(time.Millisecond))
		}
	}
	l.mu.Unlock()
	l.verify()
	row := fmt.Sprintf("%-34s  %6s  %6s", "edge without logic nodes", "-", back)
	a.Log(row)
	a.table = append(a.table, row)
}

// openBreakers adds the addresses of nodes towards which the first edge's breakers are open, or tried by one call, by its metrics.
func (a *afflicted) openBreakers(open map[string]bool) {
	a.Helper()
	res, err := http.Get("http://" + a.nodes.Process("edge-1").HTTP + "/metrics")
	if err != nil {
		a.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil {
		a.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if addr, ok := strings.CutPrefix(line, "gochat_cluster_breaker{"); ok && !strings.HasSuffix(strings.TrimSpace(line), " 0") {
			addr, _, _ = strings.Cut(addr, "}")
			open[addr] = true
		}
	}
}

// raw is a client that tells what the server says, as it says it.
type raw struct {
	a    *afflicted
	conn net.Conn
	in   []byte
	user string
}

func (a *afflicted) dialRaw(edge, user string) *raw {
	a.Helper()
	c, err := net.Dial("tcp", edge)
	if err != nil {
		a.Fatal(err)
	}
	a.Cleanup(func() { _ = c.Close() })
	r := &raw{a: a, conn: c, user: user}
	token, err := a.load.token(user)
	if err != nil {
		a.Fatal(err)
	}
	r.write(packet.AppendBody(nil, frame.Connect, frame.FlagRequestID, 1, &wire.Connect{
		Version: 1, Token: token, DeviceId: "raw", DeviceKind: wire.DeviceKind_DEVICE_KIND_BOT, Client: "raw", HeartbeatSeconds: 60,
	}))
	if f := r.until(func(f *frame.Frame) bool { return f.Type == frame.Connack || f.Type == frame.Error }); f.Type != frame.Connack {
		a.Fatalf("%s got %s for an answer to CONNECT", user, f.Type)
	}
	return r
}

func (r *raw) write(b []byte, err error) {
	r.a.Helper()
	if err == nil {
		_, err = r.conn.Write(b)
	}
	if err != nil {
		r.a.Fatalf("%s: writing: %v", r.user, err)
	}
}

// until reads up to a frame that is wanted, 10 s at most.
func (r *raw) until(want func(*frame.Frame) bool) *frame.Frame {
	r.a.Helper()
	if err := r.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		r.a.Fatal(err)
	}
	buf := make([]byte, 8<<10)
	for {
		f, n, err := frame.Parse(r.in, 1<<20)
		if err == nil && n > 0 {
			r.in = r.in[n:]
			if want(&f) {
				return &f
			}
			continue
		}
		k, rerr := r.conn.Read(buf)
		if err := errors.Join(err, rerr); err != nil {
			r.a.Fatalf("%s: reading: %v", r.user, err)
		}
		r.in = append(append([]byte{}, r.in...), buf[:k]...)
	}
}

// send sends a message to each, numbered from first on, and returns how they were refused; nil: it was acked.
func (r *raw) send(first uint32, to ...id.UserID) []*code.Error {
	r.a.Helper()
	for i, who := range to {
		mid := id.NewClientMsgID(time.Now().UnixMilli())
		r.write(packet.AppendBody(nil, frame.Send, frame.FlagRequestID, first+uint32(i), &wire.Send{ToUserId: string(who), ClientMsgId: mid[:], MsgType: packet.TypeText, Content: "raw"}))
	}
	refused := make([]*code.Error, len(to))
	for range to {
		f := r.until(func(f *frame.Frame) bool { return f.HasReqID() && f.ReqID-first < uint32(len(to)) })
		if f.Type == frame.SendAck {
			continue
		}
		e, _, err := packet.DecodeError(f.Body)
		if err != nil {
			r.a.Fatalf("%s: %s: %v", r.user, f.Type, err)
		}
		refused[f.ReqID-first] = e
	}
	return refused
}

// Ten thousand clients are on an edge that is told to end while they talk: each has a session at the other one before its connection
// ends, and so all have before the edge closes a single one; nothing is lost or told to an application twice.
func TestTenThousandClientsOfAnEdgeThatDrains(t *testing.T) {
	a := newAfflicted(t, false)
	edge := a.nodes.Process("edge-1")
	addr, err := netip.ParseAddrPort(edge.TCP)
	if err != nil {
		t.Fatal(err)
	}
	res, err := benchload.Restart{
		Target: benchload.Target{Addr: addr, Token: a.issuer.Token, Users: "drained"}, Clients: 10_000, Rate: 500, Body: 100,
		Before: 3 * time.Second, After: 3 * time.Second,
		Again: func(ctx context.Context) (down, up time.Duration, err error) {
			began := time.Now()
			err = edge.Term(ctx)
			return time.Since(began), 0, err
		},
	}.Run(a.ctx)
	if err != nil {
		t.Fatal(err)
	}
	v := &res.Verify
	t.Logf("the edge ended after %.1f s; half of the clients were elsewhere after %.1f s, 99 %% after %.1f, all after %.1f; %d were told to go, %d had a session elsewhere before their connection ended (%d heard so by its end) and %d before the edge ended; %d attempts failed, %d clients were closed, %d tokens not resumed; refusals %v; elsewhere in each second %v\n%+v",
		res.Ended, res.Back50, res.Back99, res.Back100, res.Drained, res.Moved, res.Replaced, res.InTime, res.Missed, res.Closed, res.Unresumed, res.Refusals, res.PerSecond, *v)
	if n := res.Clients; int(res.Drained) != n || res.Lost != n || res.Back != n || res.Moved != n || res.InTime != n || res.Closed != 0 {
		t.Errorf("of %d clients %d were told to go, %d left, %d are elsewhere, %d were before their connection ended, %d before the edge ended, and %d were closed",
			n, res.Drained, res.Lost, res.Back, res.Moved, res.InTime, res.Closed)
	}
	if v.Lost+v.Doubled+v.Corrupt+v.Missing+v.Unacked != 0 || v.Unread != 0 {
		t.Errorf("lost %d, doubled or reordered %d, corrupt %d, missing %d, unacked %d, unread %d", v.Lost, v.Doubled, v.Corrupt, v.Missing, v.Unacked, v.Unread)
	}
}
