package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/account"
	"github.com/gochat-im/gochat/services/hook"
)

// town is a node and its users' devices, which note what they hear.
type town struct {
	t    *testing.T
	ctx  context.Context
	data string
	node *running
}

// newTown starts a node on which users exist.
func newTown(t *testing.T, change func(*Config, *Program), users ...string) *town {
	t.Helper()
	w := &town{t: t, data: t.TempDir()}
	var cancel context.CancelFunc
	w.ctx, cancel = context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w.start(change)
	for _, u := range users {
		if _, err := w.node.logic.Accounts.Register(w.ctx, u, "long enough", "", 0); err != nil {
			t.Fatalf("registering %s: %v", u, err)
		}
	}
	return w
}

func (w *town) start(change func(*Config, *Program)) {
	w.t.Helper()
	cfg, in := Default(), Program{Version: "test", Logger: slog.New(slog.DiscardHandler)}
	cfg.Data, cfg.TCP.Listen, cfg.HTTP.Listen = w.data, "127.0.0.1:0", "127.0.0.1:0"
	cfg.Storage.Memtable = 4 << 20
	if change != nil {
		change(&cfg, &in)
	}
	n, err := New(cfg, in)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	w.node = &running{Node: n, stop: func() error {
		cancel()
		err := <-ended
		ended <- err // for the clean-up
		return err
	}}
	w.t.Cleanup(func() { _ = w.node.stop() })
}

// listener is a user's device.
type listener struct {
	*gochat.Client
	w    *town
	mu   sync.Mutex
	cond sync.Cond
	log  []string // of what it heard, in order
}

func (w *town) device(user, device string) *listener {
	w.t.Helper()
	keys, err := account.LoadKeys(w.data)
	if err != nil {
		w.t.Fatal(err)
	}
	a := &listener{w: w}
	a.cond.L = &a.mu
	a.Client, err = gochat.Open(gochat.Config{
		Address: w.node.TCPAddr().String(), Device: id.DeviceID(device), Handler: a.heard,
		Token: func(context.Context) (string, error) {
			return account.MintToken(keys, account.DefaultIssuer, id.UserID(user), "", time.Now(), time.Minute)
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = a.Close() })
	if err := a.Connected(w.ctx); err != nil {
		w.t.Fatalf("%s on %s: %v", user, device, err)
	}
	return a
}

func (a *listener) heard(e gochat.Event) {
	line := ""
	switch e := e.(type) {
	case gochat.MessageReceived:
		line = fmt.Sprintf("%d %s: %s", e.Message.Seq, e.Message.Sender, e.Message.Text)
	case gochat.ProfileChanged:
		line = fmt.Sprintf("%s is %q, version %d", e.Profile.User, e.Profile.Name, e.Profile.Version)
	case gochat.SignalReceived:
		line = fmt.Sprintf("%s signals %d", e.Sender, e.Kind)
	default:
		return
	}
	a.mu.Lock()
	a.log = append(a.log, line)
	a.mu.Unlock()
	a.cond.Broadcast()
}

// hears waits for line, and returns what was heard up to it.
func (a *listener) hears(line string) []string {
	a.w.t.Helper()
	defer context.AfterFunc(a.w.ctx, a.cond.Broadcast)()
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		if i := slices.Index(a.log, line); i >= 0 {
			return slices.Clone(a.log[:i+1])
		}
		if a.w.ctx.Err() != nil {
			a.w.t.Fatalf("%q never came; heard:\n%s", line, strings.Join(a.log, "\n"))
		}
		a.cond.Wait()
	}
}

// says sends text and returns the outcome.
func (a *listener) says(to, text string) (gochat.Ack, error) {
	a.w.t.Helper()
	r, err := a.Send(a.w.ctx, gochat.ToUser(id.UserID(to)), gochat.Text(text))
	if err != nil {
		a.w.t.Fatal(err)
	}
	return r.Wait(a.w.ctx)
}

func (w *town) want(err error, c code.Code) {
	w.t.Helper()
	var e *code.Error
	if c == 0 && err != nil || c != 0 && (!errors.As(err, &e) || e.Code != c) {
		w.t.Fatalf("got %v, want code %d", err, c)
	}
}

func (w *town) must(err error) { w.t.Helper(); w.want(err, 0) }

func TestBlocking(t *testing.T) {
	w := newTown(t, nil, "alice", "bob", "carol")
	alice, phone, bob := w.device("alice", "desk"), w.device("alice", "phone"), w.device("bob", "phone")
	_, err := bob.says("alice", "hello")
	w.must(err)
	alice.hears("1 bob: hello")

	w.must(alice.Block(w.ctx, "bob"))
	w.must(alice.Block(w.ctx, "bob")) // once more
	_, err = bob.says("alice", "still there?")
	w.want(err, code.Forbidden)
	_, err = bob.OpenDirect(w.ctx, "alice")
	w.must(err) // what stands can be read
	w.must(bob.Signal(gochat.ToUser("alice"), 1, nil))
	w.must(bob.Signal(gochat.ToConversation(id.Direct("alice", "bob")), 1, nil))
	_, err = alice.says("bob", "I don't hear you") // she may
	w.must(err)
	bob.hears("2 alice: I don't hear you")
	if list, err := phone.Blocked(w.ctx); err != nil || !slices.Equal(list, []id.UserID{"bob"}) {
		t.Errorf("blocked, asked on another device: %v, %v", list, err)
	}

	// Who has no conversation with her yet can't begin one either, and it says nothing to others.
	w.must(alice.Block(w.ctx, "carol"))
	carol := w.device("carol", "phone")
	_, err = carol.says("alice", "hi")
	w.want(err, code.Forbidden)
	_, err = carol.OpenDirect(w.ctx, "alice")
	w.want(err, code.Forbidden)
	_, err = carol.says("bob", "hi")
	w.must(err)

	w.want(alice.Block(w.ctx, "nobody"), code.NoSuchUser)
	w.want(alice.Block(w.ctx, "alice"), code.BadRequest)

	// It outlives the server, and the block's end holds at once too.
	bobsLog := bob.hears("1 carol: hi")
	_, _, _, _ = alice.Close(), phone.Close(), bob.Close(), carol.Close()
	w.must(w.node.stop())
	w.start(nil)
	alice, bob = w.device("alice", "desk"), w.device("bob", "phone")
	_, err = bob.says("alice", "and now?")
	w.want(err, code.Forbidden)
	w.must(alice.Unblock(w.ctx, "bob"))
	w.must(alice.Unblock(w.ctx, "nobody"))
	ack, err := bob.says("alice", "again")
	w.must(err)
	if ack.Seq != 3 {
		t.Errorf("what was refused took a seq: %+v", ack)
	}
	for _, line := range alice.hears("3 bob: again") {
		if strings.Contains(line, "signals") {
			t.Errorf("a blocked user's signal came through: %q", line)
		}
	}
	if slices.ContainsFunc(bobsLog, func(s string) bool { return strings.Contains(s, "blocked") }) {
		t.Errorf("bob was told of it: %q", bobsLog)
	}
	if list, err := alice.Blocked(w.ctx); err != nil || !slices.Equal(list, []id.UserID{"carol"}) {
		t.Errorf("blocked: %v, %v", list, err)
	}
	_, _ = alice.Close(), bob.Close()
	w.must(w.node.stop())
	w.audit()
}

// audit wants the stopped node's store to be sound.
func (w *town) audit() {
	w.t.Helper()
	var findings []string
	sum, err := storage.Check(w.ctx, w.node.cfg, slog.New(slog.DiscardHandler), func(_, text string) { findings = append(findings, text) })
	if err != nil || sum.Errors+sum.Warnings > 0 {
		w.t.Errorf("audit: %+v, %v, %q", sum, err, findings)
	}
}

// Bob sends as fast as he can while Alice blocks him: when she is told that it is done,
// nothing that he sends from then on gets a seq.
func TestABlockHoldsOnceItIsAnswered(t *testing.T) {
	w := newTown(t, func(c *Config, _ *Program) { c.Limits.SendsPerSecond, c.Limits.UserSendsPerSecond = 100_000, 100_000 }, "alice", "bob")
	alice, bob := w.device("alice", "desk"), w.device("bob", "phone")
	conv := id.Direct("alice", "bob")
	_, err := bob.says("alice", "first")
	w.must(err)
	for round := range 10 {
		var wg sync.WaitGroup
		stop := make(chan struct{})
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if r, err := bob.Send(w.ctx, gochat.ToUser("alice"), gochat.Text("x")); err == nil {
					_, _ = r.Wait(w.ctx)
				}
			}
		})
		w.must(alice.Block(w.ctx, "bob"))
		before, err := alice.Conversation(w.ctx, conv)
		w.must(err)
		_, err = bob.says("alice", "too late")
		w.want(err, code.Forbidden)
		close(stop)
		wg.Wait()
		after, err := alice.Conversation(w.ctx, conv)
		w.must(err)
		if after.LastSeq != before.LastSeq {
			t.Fatalf("round %d: %d messages after the block was answered", round, after.LastSeq-before.LastSeq)
		}
		w.must(alice.Unblock(w.ctx, "bob"))
		_, err = bob.says("alice", "at last")
		w.must(err)
	}
}

func TestWhoMayBeginToWrite(t *testing.T) {
	policy := func(p string) func(*Config, *Program) {
		return func(c *Config, _ *Program) { c.Contacts.Write = p }
	}
	w := newTown(t, policy("shared_group"), "alice", "bob", "carol")
	alice, bob := w.device("alice", "desk"), w.device("bob", "phone")
	_, err := alice.says("bob", "hi")
	w.want(err, code.Forbidden)
	_, err = alice.says("nobody", "hi") // as if there were one
	w.want(err, code.Forbidden)
	_, err = alice.says("alice", "a note")
	w.must(err)
	_, _ = alice.Close(), bob.Close()
	w.must(w.node.stop())

	w.start(policy("anyone"))
	alice = w.device("alice", "desk")
	_, err = alice.says("bob", "hi")
	w.must(err)
	_ = alice.Close()
	w.must(w.node.stop())

	// What stands goes on where strangers can't begin.
	w.start(policy("shared_group"))
	alice, bob = w.device("alice", "desk"), w.device("bob", "phone")
	_, err = bob.says("alice", "oh, hi")
	w.must(err)
	_, err = alice.says("carol", "hi")
	w.want(err, code.Forbidden)
	_, _ = alice.Close(), bob.Close()
	w.must(w.node.stop())

	w.start(policy("nobody"))
	alice = w.device("alice", "desk")
	for _, to := range []string{"bob", "carol"} {
		_, err = alice.says(to, "hi")
		w.want(err, code.Forbidden)
	}
	_, err = alice.says("alice", "another note")
	w.must(err)
	if page, _, err := alice.History(w.ctx, id.Direct("alice", "bob"), 0, 10); err != nil || len(page) != 2 {
		t.Errorf("what was said can be read: %v, %v", page, err)
	}
	_ = alice.Close()
	w.must(w.node.stop())
	w.audit()
}

func TestProfilesReachThoseWhoShowThem(t *testing.T) {
	w := newTown(t, nil, "alice", "bob", "carol")
	alice, phone, bob, carol := w.device("alice", "desk"), w.device("alice", "phone"), w.device("bob", "phone"), w.device("carol", "phone")
	_, err := alice.says("bob", "hi")
	w.must(err)
	_, err = carol.says("bob", "hi")
	w.must(err)

	name, avatar, ext := "Alice 好", "https://example.org/a.png", []byte{0, 255}
	p, err := alice.SetProfile(w.ctx, gochat.ProfileChange{Name: &name, Avatar: &avatar, Ext: &ext})
	w.must(err)
	if p.User != "alice" || p.Name != name || p.Avatar != avatar || !slices.Equal(p.Ext, ext) || p.Version != 1 {
		t.Fatalf("set: %+v", p)
	}
	line := `alice is "Alice 好", version 1`
	bob.hears(line)
	phone.hears(line)
	if p, err = alice.SetProfile(w.ctx, gochat.ProfileChange{Name: &name}); err != nil || p.Version != 1 {
		t.Errorf("set to what it was: %+v, %v", p, err)
	}
	found, err := carol.Profiles(w.ctx, "bob", "alice", "nobody")
	if err != nil || len(found) != 1 || found["alice"].Name != name || found["alice"].Version != 1 {
		t.Errorf("carol finds %+v, %v", found, err)
	}
	mine := "Carol"
	_, err = carol.SetProfile(w.ctx, gochat.ProfileChange{Name: &mine})
	w.must(err)
	bob.hears(`carol is "Carol", version 1`)

	// Changes that follow each other closely are told together, the last for certain.
	for i := range 20 {
		name = fmt.Sprint("Alice ", i)
		_, err = alice.SetProfile(w.ctx, gochat.ProfileChange{Name: &name})
		w.must(err)
	}
	if told := bob.hears(`alice is "Alice 19", version 21`); len(told) > 10 {
		t.Errorf("bob was told of each: %q", told)
	}
	carol.mu.Lock()
	if slices.ContainsFunc(carol.log, func(s string) bool { return strings.HasPrefix(s, "alice is") && s != line }) { // that she asked for
		t.Errorf("carol, who has nothing to do with alice, was told: %q", carol.log)
	}
	carol.mu.Unlock()

	for _, bad := range []string{"a\nb", strings.Repeat("x", 257)} {
		_, err = alice.SetProfile(w.ctx, gochat.ProfileChange{Name: &bad})
		w.want(err, code.BadRequest)
	}
	_, err = alice.SetProfile(w.ctx, gochat.ProfileChange{})
	w.want(err, code.BadRequest)
	big := make([]byte, 1025)
	_, err = alice.SetProfile(w.ctx, gochat.ProfileChange{Ext: &big})
	w.want(err, code.BadRequest)

	_, _, _, _ = alice.Close(), phone.Close(), bob.Close(), carol.Close()
	w.must(w.node.stop())
	w.audit()
}

func TestAHookJudgesBeforeStoring(t *testing.T) {
	var mu sync.Mutex
	strict := false
	judge := hook.Func(func(_ context.Context, m *hook.Message) (hook.Verdict, error) {
		mu.Lock()
		defer mu.Unlock()
		soft := strings.ReplaceAll(m.Content, "damn", "d***")
		switch {
		case strings.Contains(m.Content, "spam") || strict:
			return hook.Verdict{Refuse: true, Reason: "no advertising"}, nil
		case soft != m.Content:
			return hook.Verdict{Content: &soft}, nil
		}
		return hook.Verdict{}, nil
	})
	w := newTown(t, func(_ *Config, p *Program) { p.BeforeSend = judge }, "alice", "bob")
	alice, bob := w.device("alice", "desk"), w.device("bob", "phone")
	for i, text := range []string{"fine", "damn!", "well"} {
		ack, err := alice.says("bob", text)
		w.must(err)
		if ack.Seq != uint64(i+1) {
			t.Fatalf("%q: %+v", text, ack)
		}
	}
	_, err := alice.says("bob", "buy spam")
	w.want(err, code.Forbidden)
	if !strings.Contains(err.Error(), "no advertising") {
		t.Errorf("the reason is lost: %v", err)
	}
	_, err = alice.says("bob", "bye")
	w.must(err)
	got := bob.hears("4 alice: bye")
	if want := []string{"1 alice: fine", "2 alice: d***!", "3 alice: well", "4 alice: bye"}; !slices.Equal(got, want) {
		t.Errorf("bob heard %q, want %q", got, want)
	}
	if inbox, err := bob.Inbox(w.ctx); err != nil || len(inbox) != 1 || inbox[0].Preview != "bye" {
		t.Errorf("inbox %+v, %v", inbox, err)
	}
	_, _ = alice.Close(), bob.Close()
	w.must(w.node.stop())
	w.audit()
}

// Groups and who may write: a group that both joined opens the way, being brought into one
// against a block or by a stranger doesn't, and what was begun goes on after they left.
func TestGroupsOpenTheWay(t *testing.T) {
	w := newTown(t, func(c *Config, _ *Program) { c.Contacts.Write = "shared_group" }, "alice", "bob", "carol")
	alice, bob, carol := w.device("alice", "desk"), w.device("bob", "phone"), w.device("carol", "phone")
	made, err := alice.CreateGroup(w.ctx, gochat.NewGroup{Name: "lunch", Open: true, Users: []id.UserID{"carol"}})
	w.must(err)
	if want := []gochat.Refusal{{User: "carol", Code: code.Forbidden}}; !slices.Equal(made.Refused, want) {
		t.Fatalf("a stranger was brought in: %+v", made)
	}
	lunch := made.Conversation
	_, err = bob.JoinGroup(w.ctx, lunch)
	w.must(err)
	_, err = bob.says("alice", "we share lunch")
	w.must(err)
	_, err = carol.says("alice", "we share nothing")
	w.want(err, code.Forbidden)

	// Whoever is blocked is still heard in the group, and nowhere else.
	w.must(alice.Block(w.ctx, "bob"))
	_, err = bob.says("alice", "hello?")
	w.want(err, code.Forbidden)
	r, err := bob.Send(w.ctx, gochat.ToConversation(lunch), gochat.Text("to all"))
	w.must(err)
	_, err = r.Wait(w.ctx)
	w.must(err)
	own, err := bob.CreateGroup(w.ctx, gochat.NewGroup{Name: "bob's", Users: []id.UserID{"alice"}})
	w.must(err)
	if want := []gochat.Refusal{{User: "alice", Code: code.Forbidden}}; !slices.Equal(own.Refused, want) {
		t.Fatalf("who blocks was brought in by the blocked: %+v", own)
	}
	w.must(alice.Unblock(w.ctx, "bob"))
	_, err = bob.LeaveGroup(w.ctx, lunch)
	w.must(err)
	_, err = bob.says("alice", "what was begun goes on")
	w.must(err)
	for _, line := range []string{"1 bob: we share lunch", "3 bob: to all", "2 bob: what was begun goes on"} {
		alice.hears(line)
	}
	_, _, _ = alice.Close(), bob.Close(), carol.Close()
	w.must(w.node.stop())
	w.audit()
}

// The hook fails now and then, and changes what it lets through: every message is stored
// once, in its order, and none unjudged.
func TestAHookThatFails(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	judged, failed := 0, 0
	judge := hook.Func(func(_ context.Context, m *hook.Message) (hook.Verdict, error) {
		mu.Lock()
		defer mu.Unlock()
		if judged++; judged == 5 || rng.IntN(8) == 0 {
			failed++
			return hook.Verdict{}, errors.New("by the test")
		}
		seen := fmt.Sprintf("%s, seen %d", m.Content, rng.IntN(1000)) // another each time it is judged
		return hook.Verdict{Content: &seen}, nil
	})
	w := newTown(t, func(_ *Config, p *Program) { p.BeforeSend = judge }, "alice", "bob")
	alice, bob := w.device("alice", "desk"), w.device("bob", "phone")
	const n = 24
	var receipts []*gochat.Receipt
	for i := range n {
		r, err := alice.Send(w.ctx, gochat.ToUser("bob"), gochat.Text(fmt.Sprint("m", i+1)))
		w.must(err)
		receipts = append(receipts, r)
	}
	for i, r := range receipts {
		if ack, err := r.Wait(w.ctx); err != nil || ack.Seq != uint64(i+1) {
			t.Fatalf("message %d: %+v, %v", i+1, ack, err)
		}
	}
	page, _, err := bob.History(w.ctx, id.Direct("alice", "bob"), 0, 100)
	if err != nil || len(page) != n {
		t.Fatalf("%d messages, %v", len(page), err)
	}
	for i, m := range page {
		if !strings.HasPrefix(m.Text, fmt.Sprintf("m%d, seen ", i+1)) || strings.Count(m.Text, "seen") != 1 {
			t.Errorf("message %d is %q", i+1, m.Text)
		}
	}
	mu.Lock()
	t.Logf("the hook failed %d times", failed)
	mu.Unlock()
	_, _ = alice.Close(), bob.Close()
	w.must(w.node.stop())
	w.audit()
}
