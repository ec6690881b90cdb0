package session

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

func open(t testing.TB, cfg Config) *Directory {
	t.Helper()
	d, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func conns(d *Directory, u id.UserID) []uint64 {
	var out []uint64
	d.Each(u, func(conn uint64, _ id.DeviceID) { out = append(out, conn) })
	return out
}

func TestRegister(t *testing.T) {
	type step struct {
		do           string // reg, unreg
		user, device string
		conn         uint64
		replaced     uint64
		left         []uint64 // of user, latest first
	}
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"one device", []step{
			{"reg", "alice", "phone", 1, 0, []uint64{1}},
			{"unreg", "alice", "", 1, 0, nil},
			{"unreg", "alice", "", 1, 0, nil},
		}},
		{"the same device replaces, and the older one's leaving takes nothing along", []step{
			{"reg", "alice", "phone", 1, 0, []uint64{1}},
			{"reg", "alice", "phone", 2, 1, []uint64{2}},
			{"unreg", "alice", "", 1, 0, []uint64{2}},
			{"unreg", "alice", "", 2, 0, nil},
		}},
		{"devices stand beside each other, latest first", []step{
			{"reg", "alice", "phone", 1, 0, []uint64{1}},
			{"reg", "alice", "desk", 2, 0, []uint64{2, 1}},
			{"reg", "alice", "web", 3, 0, []uint64{3, 2, 1}},
			{"reg", "alice", "desk", 4, 2, []uint64{4, 3, 1}},
			{"unreg", "alice", "", 3, 0, []uint64{4, 1}},
			{"unreg", "alice", "", 1, 0, []uint64{4}},
		}},
		{"too many: the oldest gives way", []step{
			{"reg", "alice", "a", 1, 0, []uint64{1}},
			{"reg", "alice", "b", 2, 0, []uint64{2, 1}},
			{"reg", "alice", "c", 3, 0, []uint64{3, 2, 1}},
			{"reg", "alice", "d", 4, 1, []uint64{4, 3, 2}},
			{"reg", "alice", "b", 5, 2, []uint64{5, 4, 3}},
			{"reg", "alice", "e", 6, 3, []uint64{6, 5, 4}},
		}},
		{"users don't meet", []step{
			{"reg", "alice", "phone", 1, 0, []uint64{1}},
			{"reg", "alice0", "phone", 2, 0, []uint64{2}},
			{"unreg", "alice0", "", 1, 0, []uint64{2}},
			{"unreg", "alice", "", 2, 0, []uint64{1}},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := open(t, Config{DevicesPerUser: 3})
			for i, s := range tc.steps {
				u := id.UserID(s.user)
				switch s.do {
				case "reg":
					if old, ousted := d.Register(u, id.DeviceID(s.device), 1, s.conn); old+ousted != s.replaced || old != 0 && ousted != 0 {
						got := []uint64{old, ousted}
						t.Fatalf("step %d: replaced %d, want %d", i, got, s.replaced)
					}
					if got, kind := d.Find(u, id.DeviceID(s.device)); got != s.conn || kind != 1 {
						t.Fatalf("step %d: Find gives %d of kind %d, want %d", i, got, kind, s.conn)
					}
				case "unreg":
					d.Unregister(u, s.conn)
				}
				if got := conns(d, u); !slices.Equal(got, s.left) {
					t.Fatalf("step %d: %v left, want %v", i, got, s.left)
				}
			}
		})
	}
}

// One of a kind: the newest phone ousts the phone and leaves the desktop alone; a device that
// comes back as another kind is counted as what it says it is now.
func TestPerKind(t *testing.T) {
	const phone, desktop = 1, 3
	d := open(t, Config{DevicesPerUser: 3, PerKind: 1})
	for i, s := range []struct {
		device           id.DeviceID
		kind             uint8
		replaced, ousted uint64
		left             []uint64
	}{
		{"a", phone, 0, 0, []uint64{1}},
		{"b", desktop, 0, 0, []uint64{2, 1}},
		{"c", phone, 0, 1, []uint64{3, 2}},
		{"c", phone, 3, 0, []uint64{4, 2}},
		{"c", desktop, 4, 2, []uint64{5}},
		{"d", 0, 0, 0, []uint64{6, 5}},
		{"e", 0, 0, 6, []uint64{7, 5}},
		{"f", phone, 0, 0, []uint64{8, 7, 5}},
		{"g", 4, 0, 5, []uint64{9, 8, 7}}, // too many in all
	} {
		r, o := d.Register("alice", s.device, s.kind, uint64(i+1))
		if got := conns(d, "alice"); r != s.replaced || o != s.ousted || !slices.Equal(got, s.left) {
			t.Fatalf("step %d: replaced %d, ousted %d, left %v; want %+v", i, r, o, got, s)
		}
	}
}

func TestFindOfNobody(t *testing.T) {
	d := open(t, Config{})
	if c, _ := d.Find("nobody", "phone"); c != 0 {
		t.Fatalf("found connection %d of nobody", c)
	}
	d.Register("alice", "phone", 1, 7)
	if c, _ := d.Find("alice", "desk"); c != 0 {
		t.Fatalf("found connection %d of a device that never registered", c)
	}
}

func TestConfig(t *testing.T) {
	for _, n := range []int{-1, MaxDevices + 1} {
		if _, err := New(Config{PerKind: min(n, -1)}); !errors.Is(err, ErrConfig) {
			t.Errorf("a negative PerKind: %v, want ErrConfig", err)
		}
		if _, err := New(Config{DevicesPerUser: n}); !errors.Is(err, ErrConfig) {
			t.Errorf("%d devices: %v, want ErrConfig", n, err)
		}
	}
}

// TestModel compares random operations with a plain model. The seed is printed.
func TestModel(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	type sess struct {
		device id.DeviceID
		kind   uint8
		conn   uint64
	}
	const limit, perKind = 6, 3
	d := open(t, Config{DevicesPerUser: limit, PerKind: perKind})
	model := map[id.UserID][]sess{} // oldest first
	var next uint64
	for step := range 60_000 {
		u := id.UserID(fmt.Sprint("u", rng.IntN(600)))
		if step%20_000 == 19_999 { // everybody leaves: the shards give their memory back
			for u, ss := range model {
				for _, s := range ss {
					d.Unregister(u, s.conn)
				}
			}
			clear(model)
		}
		switch rng.IntN(5) {
		case 0, 1, 2:
			next++
			dev := id.DeviceID(fmt.Sprint("d", rng.IntN(10)))
			kind := uint8(rng.IntN(3))
			var replaced, ousted uint64
			ss := model[u]
			if i := slices.IndexFunc(ss, func(s sess) bool { return s.device == dev }); i >= 0 {
				replaced = ss[i].conn
				ss = slices.Delete(ss, i, i+1)
			}
			same, first := 0, -1
			for i, s := range ss {
				if s.kind == kind {
					if same++; first < 0 {
						first = i
					}
				}
			}
			if same < perKind {
				first = 0
			}
			if same == perKind || len(ss) == limit {
				ousted = ss[first].conn
				ss = slices.Delete(ss, first, first+1)
			}
			model[u] = append(ss, sess{dev, kind, next})
			if r, o := d.Register(u, dev, kind, next); r != replaced || o != ousted {
				t.Fatalf("step %d: replaced %d and ousted %d, want %d and %d", step, r, o, replaced, ousted)
			}
		case 3, 4:
			ss := model[u]
			if len(ss) == 0 {
				d.Unregister(u, next+1)
				continue
			}
			i := rng.IntN(len(ss))
			d.Unregister(u, ss[i].conn)
			if ss = slices.Delete(ss, i, i+1); len(ss) == 0 {
				delete(model, u)
			} else {
				model[u] = ss
			}
		}
		want := make([]uint64, 0, limit)
		for _, s := range slices.Backward(model[u]) {
			want = append(want, s.conn)
		}
		if got := conns(d, u); !slices.Equal(got, want) {
			t.Fatalf("step %d: %s has %v, want %v", step, u, got, want)
		}
	}
	total := 0
	for ss := range maps.Values(model) {
		total += len(ss)
	}
	if d.Len() != total {
		t.Fatalf("%d sessions, want %d", d.Len(), total)
	}
}

func TestConcurrent(t *testing.T) {
	d := open(t, Config{})
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 2000 {
				u := id.UserID(fmt.Sprint("u", i%50))
				conn := uint64(g*10_000 + i + 1)
				d.Register(u, id.DeviceID(fmt.Sprint("d", g)), 1, conn)
				d.Each(u, func(_ uint64, device id.DeviceID) { d.Find(u, device) }) // calling back in must not deadlock
				d.Unregister(u, conn)
			}
		})
	}
	wg.Wait()
	if d.Len() != 0 {
		t.Fatalf("%d sessions left", d.Len())
	}
}

func TestAllocations(t *testing.T) {
	d := open(t, Config{})
	for i := range MaxDevices / 4 {
		d.Register("many", id.DeviceID(fmt.Sprint("d", i)), 1, uint64(i+1))
	}
	d.Register("one", "phone", 1, 100)
	var sum uint64
	fn := func(conn uint64, _ id.DeviceID) { sum += conn }
	for _, u := range []id.UserID{"one", "many", "nobody"} {
		if n := testing.AllocsPerRun(100, func() { d.Each(u, fn) }); n != 0 {
			t.Errorf("Each of %s: %v allocations", u, n)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		d.Register("one", "phone", 1, 101)
		d.Unregister("one", 101)
		d.Register("one", "phone", 1, 102)
	}); n != 0 {
		t.Errorf("coming and going: %v allocations", n)
	}
}

// TestMemory holds what a session costs: the strings aside, which the connection owns as well.
func TestMemory(t *testing.T) {
	const n = 18_000
	users, devices := make([]id.UserID, n), make([]id.DeviceID, n)
	for i := range n {
		users[i], devices[i] = id.UserID(fmt.Sprintf("user-%06d", i)), id.DeviceID(fmt.Sprintf("device-%06d", i))
	}
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	d := open(t, Config{})
	for i := range n {
		d.Register(users[i], devices[i], 1, uint64(i+1))
	}
	each := (float64(heap()) - float64(before)) / n
	t.Logf("%.1f bytes a session at %d users", each, n)
	if each > 120 {
		t.Errorf("%.1f bytes a session, want at most 120", each)
	}
	runtime.KeepAlive(d)
	runtime.KeepAlive(users)
	runtime.KeepAlive(devices)
}

func BenchmarkEach(b *testing.B) {
	d := open(b, Config{})
	users := make([]id.UserID, 1000)
	for i := range users {
		users[i] = id.UserID(fmt.Sprintf("user-%06d", i))
		d.Register(users[i], "phone", 1, uint64(i+1))
	}
	var sum uint64
	fn := func(conn uint64, _ id.DeviceID) { sum += conn }
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		d.Each(users[i%len(users)], fn)
		i++
	}
}
