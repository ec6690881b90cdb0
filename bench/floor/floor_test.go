package floor

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary be its own bare program.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == ChildCommand {
		if err := RunChild(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			_, _ = io.WriteString(os.Stderr, err.Error())
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func TestLoads(t *testing.T) {
	for _, c := range []struct {
		name string
		load Load
	}{
		{"pairs at window 1", Load{Conns: 20, Window: 1, Body: 100}},
		{"pairs at window 300", Load{Conns: 8, Window: 300, Body: 1000}},
		{"pairs by rate", Load{Conns: 8, Window: 1, Rate: 400, Burst: 4, Body: 10, RecvAck: 10 * time.Millisecond}},
		{"group", Load{Conns: 10, Senders: 3, Window: 2, Body: 10}},
		{"shots into a group", Load{Conns: 10, Senders: 1, Window: 60, Body: 10, Shots: 3, Gap: time.Millisecond}},
		{"echo", Load{Conns: 10, Senders: 10, Window: 1, Body: 100, Echo: true}},
	} {
		c.load.Warm, c.load.Measure = 20*time.Millisecond, 200*time.Millisecond
		r, err := Run(t.Context(), c.name, c.load)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		if r.Acked == 0 || r.Gaps != 0 || r.Ack.Count == 0 {
			t.Errorf("%s: %+v", c.name, r)
		}
		if r.Shots.Count != int64(c.load.Shots) {
			t.Errorf("%s: %d shots", c.name, r.Shots.Count)
		}
		if !c.load.Echo && (r.Delivered == 0 || r.Delivery.Count == 0 || r.PerCommit == 0) {
			t.Errorf("%s: %+v", c.name, r)
		}
		if c.load.Echo && r.DeliveryCPU() != 0 {
			t.Errorf("%s: CPU of deliveries that aren't", c.name)
		}
	}
}

func TestWrongLoads(t *testing.T) {
	for _, l := range []Load{{Conns: 2, Window: 0}, {Conns: 2, Window: 1, Rate: 1, Echo: true}, {Conns: 2, Window: MaxWindow + 1}, {Conns: 2, Window: 1, Body: 1 << 20}, {Conns: 2, Window: 1, Shots: 1}} {
		if _, err := Run(t.Context(), "wrong", l); err == nil {
			t.Errorf("%+v ran", l)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, "cancelled", Load{Conns: 2, Window: 1, Warm: time.Second, Measure: time.Second}); err == nil {
		t.Error("a cancelled load ran")
	}
}

// TestFrames speaks to the server by hand: frames in pieces, a peer that isn't there.
func TestFrames(t *testing.T) {
	child, err := StartChild(false)
	if err != nil {
		t.Fatal(err)
	}
	defer child.Stop()
	dial := func() net.Conn {
		c, err := net.Dial("tcp", child.Addr.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	frame := func(typ byte, body ...[]byte) []byte {
		b := append([]byte{0, 0, 0, 0, typ}, bytes.Join(body, nil)...)
		binary.BigEndian.PutUint32(b, uint32(len(b)-4))
		return b
	}
	read := func(c net.Conn) []byte {
		t.Helper()
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, binary.BigEndian.Uint32(head[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	u32 := func(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

	a := dial()
	message := bytes.Join([][]byte{u64(1), make([]byte, 16), []byte("hello")}, nil)
	hello := bytes.Join([][]byte{frame(frameHello, u32(0)), frame(frameEcho, []byte("are you there?"))}, nil)
	for _, b := range hello { // byte by byte
		if _, err := a.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(a); got[0] != frameEcho || string(got[1:]) != "are you there?" {
		t.Fatalf("echo %q", got)
	}
	send := func(req uint32, seq uint64) {
		t.Helper()
		if _, err := a.Write(frame(frameSend, u32(req), message)); err != nil {
			t.Fatal(err)
		}
		if got, want := read(a), frame(frameAck, u32(req), u64(seq))[4:]; !bytes.Equal(got, want) {
			t.Fatalf("ack %x, want %x", got, want)
		}
	}
	send(7, 1) // nobody to deliver to
	b := dial()
	if _, err := b.Write(bytes.Join([][]byte{frame(frameHello, u32(1)), frame(frameEcho)}, nil)); err != nil {
		t.Fatal(err)
	}
	read(b)
	send(8, 2)
	want := bytes.Join([][]byte{{frameDeliver}, u64(2), u32(1), u32(uint32(len(message))), message}, nil)
	if got := read(b); !bytes.Equal(got, want) {
		t.Fatalf("deliver %x, want %x", got, want)
	}
	k, err := child.Counters()
	if err != nil || k.Messages != 2 || k.Commits != 2 {
		t.Errorf("%+v, %v", k, err)
	}
}

func TestRaw(t *testing.T) {
	for _, rate := range []float64{0, 500} {
		r, err := RunRaw(50*time.Millisecond, rate)
		if err != nil {
			t.Fatal(err)
		}
		if r.Fdatasync.Count == 0 || r.Pebble.Count == 0 || r.Rate != rate {
			t.Errorf("%+v", r)
		}
	}
}

func TestServerOpensNoFile(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewServer(file, false); err == nil || !strings.Contains(err.Error(), "floor") {
		t.Errorf("a store in a file: %v", err)
	}
}
