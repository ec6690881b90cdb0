package pebblekv

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// TestRecent runs random lookups, updates and insertions on a small table and a map:
// the table may forget, but never tells what the map doesn't.
func TestRecent(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r, m := newRecent(64), make(map[string]string)
	hits := 0
	for range 200_000 {
		key := fmt.Appendf(nil, "key%d", rng.IntN(150))
		if rng.IntN(10) == 0 {
			key = append(key, bytes.Repeat([]byte("k"), rng.IntN(500))...)
		}
		h := r.hash(key)
		at := r.find(h, key)
		if at >= 0 {
			hits++
			if got := string(r.value(at)); got != m[string(key)] {
				t.Fatalf("%s is %q, want %q", key, got, m[string(key)])
			}
		}
		if rng.IntN(2) == 0 {
			value := bytes.Repeat([]byte{byte('a' + rng.IntN(26))}, rng.IntN(30))
			if rng.IntN(20) == 0 {
				value = bytes.Repeat([]byte("v"), rng.IntN(600))
			}
			m[string(key)] = string(value)
			if at >= 0 {
				r.update(at, value)
			}
		}
		if at < 0 {
			r.insert(h, key, []byte(m[string(key)]))
		}
	}
	if hits < 10_000 {
		t.Errorf("only %d hits", hits)
	}
}

// TestRecentKeepsUsed: what is asked for all the time survives others passing through.
func TestRecentKeepsUsed(t *testing.T) {
	r := newRecent(64)
	r.tick = 1<<32 - 1000 // wraps on the way
	hot := []byte("hot")
	r.insert(r.hash(hot), hot, []byte("1"))
	for i := range 10_000 {
		cold := fmt.Appendf(nil, "cold%d", i)
		r.insert(r.hash(cold), cold, []byte("1"))
		if r.find(r.hash(hot), hot) < 0 {
			t.Fatalf("forgotten after %d others", i)
		}
	}
}

// TestWritten compares the group's table with a walk over its transactions, over
// several groups, the number of which wraps.
func TestWritten(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := newRecent(8)
	w := written{epoch: 1<<32 - 3}
	for range 6 {
		w.reset()
		var group []*kv.Tx
		latest := make(map[string]string)
		for i := range 400 {
			if i%3 == 0 { // asked now and then, while the group grows
				k := fmt.Sprintf("k%d", rng.IntN(300))
				got, ok := w.last(r, group, r.hash([]byte(k)), []byte(k))
				if want, there := latest[k]; ok != there || string(got) != want {
					t.Fatalf("%s: %q, %v, want %q, %v", k, got, ok, want, there)
				}
			}
			tx := &kv.Tx{Stamp: uint64(i)}
			for range rng.IntN(4) {
				k := fmt.Sprintf("k%d", rng.IntN(300))
				tx.Require([]byte(k), []byte("x"))
				switch rng.IntN(4) {
				case 0:
					tx.Delete([]byte(k))
					latest[k] = ""
				case 1:
					tx.SetStamped([]byte("s"), []byte(k))
					latest["s"+strings.Repeat("\x00", 6)+string([]byte{byte(i >> 8), byte(i)})] = k
				default:
					v := fmt.Sprint(i)
					tx.Set([]byte(k), []byte(v))
					latest[k] = v
				}
			}
			group = append(group, tx)
		}
		for k, want := range latest {
			if got, ok := w.last(r, group, r.hash([]byte(k)), []byte(k)); !ok || string(got) != want {
				t.Fatalf("%q: %q, %v, want %q", k, got, ok, want)
			}
		}
	}
}

func TestLogFS(t *testing.T) {
	var told error
	fs := logFS{FS: vfs.NewMem(), fail: func(err error) { told = err }}
	for _, name := range []string{"dir/000001.sst", "000002.log", "dir/000003.log"} {
		_, err := fs.Create(name, vfs.WriteCategoryUnspecified)
		if (told != nil) != (err != nil && strings.HasSuffix(name, ".log")) || !errors.Is(told, err) && told != nil {
			t.Errorf("creating %s: %v, told %v", name, err, told)
		}
		told = nil
	}
	if _, err := fs.ReuseForWrite("nothing.log", "000004.log", vfs.WriteCategoryUnspecified); err == nil || told == nil {
		t.Errorf("reusing: %v, told %v", err, told)
	}
	if fs.Unwrap() != fs.FS {
		t.Error("unwraps to another")
	}
}

// TestEngineLog: what Pebble logs arrives, and what is fatal ends the goroutine that says
// so, but for a commit, which looks at the failure itself.
func TestEngineLog(t *testing.T) {
	var out bytes.Buffer
	var failed []string
	l := &engineLog{
		log:  slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})),
		fail: func(err error) { failed = append(failed, err.Error()) },
	}
	l.Infof("a %d", 1)
	l.Errorf("b %d", 2)
	if s := out.String(); !strings.Contains(s, "level=DEBUG msg=\"pebble: a 1\"") || !strings.Contains(s, "level=ERROR msg=\"pebble: b 2\"") {
		t.Errorf("logged: %s", s)
	}
	l.Fatalf("pebble: fatal commit error: %v", "c")
	returned := make(chan bool, 1)
	go func() {
		back := false
		defer func() { returned <- back }()
		l.Fatalf("MANIFEST sync failed: %v", "d")
		back = true
	}()
	if <-returned {
		t.Error("the goroutine went on")
	}
	if got := strings.Join(failed, "; "); got != "pebble: fatal commit error: c; pebble: MANIFEST sync failed: d" {
		t.Errorf("failed: %s", got)
	}
}

// BenchmarkRequire is what it costs to judge the requirement of a head that is remembered.
func BenchmarkRequire(b *testing.B) {
	s, err := Open(Config{Dir: "store", FS: vfs.NewMem(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	const heads = 5000
	txs := make([]kv.Tx, heads)
	for i := range txs {
		key, value := fmt.Appendf(nil, "conversation%011d", i), bytes.Repeat([]byte{byte(i)}, 80)
		txs[i].Require(key, value)
		s.group.recent.insert(s.group.recent.hash(key), key, value)
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		if err := s.group.judge(&txs[i%heads]); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
