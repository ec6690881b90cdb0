package hook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/gochat-im/gochat/kitex_gen/wire"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

// ledger is a sequencer that notes what it is given.
type ledger struct {
	mu   sync.Mutex
	cond sync.Cond
	got  map[id.ConversationID][]packet.Pending
	n    int
}

func newLedger() *ledger {
	l := &ledger{got: map[id.ConversationID][]packet.Pending{}}
	l.cond.L = &l.mu
	return l
}

func (l *ledger) Append(conv id.ConversationID, batch []packet.Pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.got[conv] = append(l.got[conv], batch...)
	l.n += len(batch)
	l.cond.Broadcast()
}

// of waits for n messages of conv.
func (l *ledger) of(conv id.ConversationID, n int) []packet.Pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.got[conv]) < n {
		l.cond.Wait()
	}
	return l.got[conv]
}

var alice = &packet.Origin{User: "alice", Device: "phone", Conn: 1}

func message(t *testing.T, text string) packet.Pending {
	t.Helper()
	body, err := (&wire.Send{ToUserId: "bob", ClientMsgId: idBytes(), MsgType: 1, Content: text}).Marshal(nil)
	if err != nil {
		t.Fatal(err)
	}
	p := packet.Pending{From: alice}
	if err := packet.DecodeSend(&p.Send, body, &packet.DefaultLimits); err != nil {
		t.Fatal(err)
	}
	return p
}

func idBytes() []byte {
	c := id.NewClientMsgID(1_800_000_000_000)
	return c[:]
}

func gate(t *testing.T, l *ledger, hook Func, change ...func(*Config)) *Gate {
	t.Helper()
	cfg := Config{Hook: hook, Next: l, Logger: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func TestVerdicts(t *testing.T) {
	conv := id.Direct("alice", "bob")
	l := newLedger()
	g := gate(t, l, func(_ context.Context, m *Message) (Verdict, error) {
		if m.Conversation != conv || m.Sender != "alice" || m.Device != "phone" || m.Type != 1 || !m.ClientMsgID.Valid() || len(m.Fields) == 0 {
			t.Errorf("asked about %+v", m)
		}
		switch m.Content {
		case "refuse":
			return Verdict{Refuse: true}, nil
		case "because":
			return Verdict{Refuse: true, Reason: strings.Repeat("好", 200)}, nil
		case "damn":
			soft := "d***"
			return Verdict{Content: &soft}, nil
		}
		return Verdict{}, nil
	})
	var batch []packet.Pending
	for _, text := range []string{"fine", "refuse", "because", "damn"} {
		batch = append(batch, message(t, text))
	}
	hash := batch[3].BodyHash
	g.Append(conv, nil)
	g.Append(conv, batch)
	got := l.of(conv, 4)
	if got[0].Refusal != nil || string(got[0].Content) != "fine" {
		t.Errorf("fine: %v, %q", got[0].Refusal, got[0].Content)
	}
	if e := got[1].Refusal; e == nil || e.Code != code.Forbidden || e.Reason == "" {
		t.Errorf("refuse: %v", e)
	}
	if e := got[2].Refusal; e == nil || e.Code != code.Forbidden || len(e.Reason) > 256 || !utf8.ValidString(e.Reason) {
		t.Errorf("because: %v", e)
	}
	if p := got[3]; p.Refusal != nil || string(p.Content) != "d***" || p.BodyHash != hash {
		t.Errorf("damn: %v, %q", p.Refusal, p.Content)
	}
}

// Many senders and slow verdicts: each conversation's messages come out as they went in.
func TestOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	busy := map[id.ConversationID]bool{}
	l := newLedger()
	g := gate(t, l, func(_ context.Context, m *Message) (Verdict, error) {
		mu.Lock()
		if busy[m.Conversation] {
			t.Error("two messages of one conversation at once")
		}
		busy[m.Conversation] = true
		nap := rng.IntN(3) == 0
		mu.Unlock()
		if nap {
			time.Sleep(time.Duration(len(m.Content)) * 10 * time.Microsecond)
		}
		mu.Lock()
		busy[m.Conversation] = false
		mu.Unlock()
		return Verdict{}, nil
	}, func(c *Config) { c.Workers = 3 })
	const convs, each = 10, 60
	var wg sync.WaitGroup
	for k := range convs {
		wg.Go(func() {
			for i := 0; i < each; i += 2 {
				a, b := message(t, fmt.Sprint(i)), message(t, fmt.Sprint(i+1))
				g.Append(id.Named(id.KindGroup, fmt.Sprint(k)), []packet.Pending{a, b})
			}
		})
	}
	wg.Wait()
	for k := range convs {
		for i, p := range l.of(id.Named(id.KindGroup, fmt.Sprint(k)), each) {
			if string(p.Content) != fmt.Sprint(i) || p.Refusal != nil {
				t.Fatalf("conversation %d: message %d is %q, %v", k, i, p.Content, p.Refusal)
			}
		}
	}
	g.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.waiting != 0 || len(g.byConv) != 0 || g.workers != 0 || len(g.ready) != 0 {
		t.Errorf("left behind: %d waiting, %d queues, %d workers", g.waiting, len(g.byConv), g.workers)
	}
}

func TestFailures(t *testing.T) {
	conv := id.Direct("alice", "bob")
	invalid, asked := "\xFF", 0
	for name, hook := range map[string]Func{
		"error":     func(context.Context, *Message) (Verdict, error) { return Verdict{}, errors.New("away") },
		"time":      func(ctx context.Context, _ *Message) (Verdict, error) { <-ctx.Done(); return Verdict{}, ctx.Err() },
		"malformed": func(context.Context, *Message) (Verdict, error) { return Verdict{Content: &invalid}, nil },
	} {
		for _, open := range []bool{false, true} {
			t.Run(fmt.Sprint(name, " open=", open), func(t *testing.T) {
				asked = 0
				l := newLedger()
				g := gate(t, l, func(ctx context.Context, m *Message) (Verdict, error) {
					asked++
					return hook(ctx, m)
				}, func(c *Config) { c.FailOpen, c.Timeout = open, 5*time.Millisecond })
				batch := []packet.Pending{message(t, "a"), message(t, "b"), message(t, "c")}
				batch[1].Refusal = code.New(code.BadRequest) // what was said before stays
				g.Append(conv, batch)
				for i, p := range l.of(conv, 3) {
					want := code.Code(0)
					switch {
					case i == 1:
						want = code.BadRequest
					case !open:
						want = code.Unavailable
					}
					if (p.Refusal == nil) != (want == 0) || p.Refusal != nil && p.Refusal.Code != want {
						t.Errorf("message %d: %v, want %v", i, p.Refusal, want)
					}
				}
				g.Close()
				if asked != 1 {
					t.Errorf("asked %d times, want once: what waits would wait for every failure", asked)
				}
			})
		}
	}
}

// What is too much goes on in its place, refused and unjudged; so does what is waiting when
// the gate closes.
func TestOverloadAndClose(t *testing.T) {
	conv, other := id.Direct("alice", "bob"), id.Direct("alice", "carol")
	asked, l := make(chan string, 16), newLedger()
	g := gate(t, l, func(ctx context.Context, m *Message) (Verdict, error) {
		asked <- m.Content
		<-ctx.Done()
		return Verdict{}, ctx.Err()
	}, func(c *Config) { c.Waiting, c.Timeout, c.FailOpen = 2, time.Hour, true })
	g.Append(conv, []packet.Pending{message(t, "a")})
	<-asked
	g.Append(conv, []packet.Pending{message(t, "b")})
	g.Append(conv, []packet.Pending{message(t, "c")})
	g.Append(other, []packet.Pending{message(t, "d")})
	if p := l.of(other, 1)[0]; p.Refusal == nil || p.Refusal.Code != code.Overloaded {
		t.Errorf("another conversation's: %v", p.Refusal)
	}
	g.Close()
	got := l.of(conv, 3)
	for i, want := range []code.Code{code.Unavailable, code.Unavailable, code.Overloaded} {
		if e := got[i].Refusal; string(got[i].Content) != string(rune('a'+i)) || e == nil || e.Code != want {
			t.Errorf("message %d: %q, %v, want %v", i, got[i].Content, e, want)
		}
	}
	g.Append(conv, []packet.Pending{message(t, "late")})
	if p := l.of(conv, 4)[3]; p.Refusal == nil || p.Refusal.Code != code.Unavailable {
		t.Errorf("after the end: %v", p.Refusal)
	}
	if len(asked) != 0 {
		t.Errorf("asked about %q too", <-asked)
	}
}

func TestValidate(t *testing.T) {
	for name, cfg := range map[string]Config{
		"nothing":  {},
		"negative": {Hook: Func(nil), Next: newLedger(), Workers: -1},
	} {
		if _, err := New(cfg); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
