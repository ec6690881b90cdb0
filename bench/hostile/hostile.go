// Package hostile misbehaves towards a server in every way that a client can, from
// several addresses, for a bounded time, and counts what the server answered. Each kind of
// misbehaviour has a table of the answers that are right; any other is the server's failure.
package hostile

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/measure"
	"github.com/gochat-im/gochat/bench/target"
)

// Config says whom to attack. It crosses a pipe as JSON.
type Config struct {
	Addr netip.AddrPort `json:"addr"` // binary protocol
	HTTP netip.AddrPort `json:"http"`
	PID  int            `json:"pid"` // for the server's memory; 0: unknown

	Issuer  string `json:"issuer"`   // whose tokens the server takes,
	KeyFile string `json:"key_file"` // what signs them,
	Public  string `json:"public"`   // and what the server knows of it: everybody may know a public key
	Users   string `json:"users"`    // what the users' names begin with

	Kinds string        `json:"kinds"` // only those whose name this regular expression finds
	For   time.Duration `json:"for"`
	Nice  int           `json:"nice"` // how far the hostile clients' process steps back; elsewhere they would have a machine of their own
}

// Result is what the server made of it all.
type Result struct {
	Seconds    float64      `json:"seconds"`
	Kinds      []KindResult `json:"kinds"`
	PeakRSS    int64        `json:"peak_rss_bytes"`  // sampled; 0: unknown
	Goroutines float64      `json:"peak_goroutines"` // sampled
}

// KindResult is what one kind of misbehaviour met.
type KindResult struct {
	Name       string           `json:"name"`
	Conns      int64            `json:"connections"`
	Frames     int64            `json:"frames"`               // or HTTP requests, whole or not
	Answers    map[string]int64 `json:"answers"`              // see the labels
	Closed     int64            `json:"closed"`               // by the server; the other connections the client left
	Unexpected map[string]int64 `json:"unexpected,omitempty"` // of Answers, those that aren't right
	Missing    []string         `json:"missing,omitempty"`    // answers that had to come at least once
	Faults     []string         `json:"faults,omitempty"`     // of the attacker's own; the first few
}

// Labels of what isn't a frame of the server. Others are the frame's type in lower case; a code's name, for an
// ERROR with a request id; `end NAME`, for an ERROR without one; `kick NAME`; `http STATUS NAME`.
const (
	cut     = "cut"      // the connection ended without a reason
	silence = "silence"  // an answer was due and didn't come
	lingers = "lingers"  // the server told the end and didn't close
	garbled = "garbled"  // what came is no frame, or no HTTP
	moved   = "moved"    // a resend was acked with another seq, or deliveries aren't in order
	httpCut = "http cut" // an HTTP connection ended without an answer
	shared  = "http of another origin"
	hasty   = "http 429 without Retry-After"
	goodbye = "end "
)

// patience is for an answer: the machine is busy.
var patience = 20 * time.Second

// judge compares the answers with what the kind allows. long: the attack lasted long
// enough for everything that must come.
func (k *KindResult) judge(allowed, want []string, long bool) {
	for label, n := range k.Answers {
		if !slices.Contains(allowed, label) {
			if k.Unexpected == nil {
				k.Unexpected = map[string]int64{}
			}
			k.Unexpected[label] = n
		}
	}
	for _, label := range want {
		if long && k.Answers[label] == 0 {
			k.Missing = append(k.Missing, label)
		}
	}
}

// Wrong returns what the server did wrong, or "".
func (r *Result) Wrong() string {
	for i := range r.Kinds {
		switch k := &r.Kinds[i]; {
		case len(k.Unexpected) > 0:
			label := slices.Sorted(maps.Keys(k.Unexpected))[0]
			return fmt.Sprintf("%s: %d times %q, which is no right answer", k.Name, k.Unexpected[label], label)
		case len(k.Missing) > 0:
			return fmt.Sprintf("%s: never answered with %q", k.Name, k.Missing[0])
		}
	}
	return ""
}

// Unexpected counts the answers that aren't right, and the right ones that never came.
func (r *Result) Unexpected() (n int64) {
	for i := range r.Kinds {
		for _, c := range r.Kinds[i].Unexpected {
			n += c
		}
		n += int64(len(r.Kinds[i].Missing))
	}
	return n
}

// Totals adds up all kinds.
func (r *Result) Totals() (conns, frames, closed int64) {
	for i := range r.Kinds {
		k := &r.Kinds[i]
		conns, frames, closed = conns+k.Conns, frames+k.Frames, closed+k.Closed
	}
	return conns, frames, closed
}

// longEnough is when everything that has a deadline, such as a handshake, has met it.
const longEnough = 15 * time.Second

// tally is a KindResult that several clients count in.
type tally struct {
	mu sync.Mutex
	KindResult
}

func (t *tally) count(conns, frames, closed int) {
	t.mu.Lock()
	t.Conns += int64(conns)
	t.Frames += int64(frames)
	t.Closed += int64(closed)
	t.mu.Unlock()
}

func (t *tally) answer(label string) {
	t.mu.Lock()
	t.Answers[label]++
	t.mu.Unlock()
}

func (t *tally) fault(err error) {
	t.mu.Lock()
	if len(t.Faults) < 5 {
		t.Faults = append(t.Faults, err.Error())
	}
	t.mu.Unlock()
}

// attack is one run.
type attack struct {
	Config
	tokens *tokens
	until  time.Time
}

// Run attacks for cfg.For and returns when all clients have left.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	re, err := regexp.Compile(cfg.Kinds)
	if err != nil {
		return nil, fmt.Errorf("which kinds: %w", err)
	}
	return run(ctx, cfg, slices.DeleteFunc(slices.Clone(kinds), func(k kind) bool { return !re.MatchString(k.name) }))
}

func run(ctx context.Context, cfg Config, kinds []kind) (*Result, error) {
	is, err := target.LoadIssuer(cfg.Issuer, cfg.KeyFile)
	if err != nil {
		return nil, err
	}
	a := &attack{Config: cfg, until: time.Now().Add(cfg.For)}
	if a.tokens, err = newTokens(is, cfg.KeyFile, cfg.Public); err != nil {
		return nil, err
	}
	began := time.Now()
	ctx, cancel := context.WithDeadline(ctx, a.until)
	defer cancel()
	tallies := make([]*tally, len(kinds))
	var wg sync.WaitGroup
	for i := range kinds {
		k := &kinds[i]
		t := &tally{KindResult: KindResult{Name: k.name, Answers: map[string]int64{}}}
		tallies[i] = t
		for n := range k.clients {
			wg.Go(func() { a.loop(ctx, k, t, i, n) })
		}
	}
	res := &Result{}
	sampled := make(chan struct{})
	stop := make(chan struct{})
	go func() { a.sample(res, stop); close(sampled) }()
	wg.Wait()
	close(stop)
	<-sampled
	res.Seconds = time.Since(began).Seconds()
	for i, t := range tallies {
		t.judge(kinds[i].allowed, kinds[i].want, cfg.For >= longEnough)
		res.Kinds = append(res.Kinds, t.KindResult)
	}
	return res, nil
}

// loop lets one client misbehave again and again.
func (a *attack) loop(ctx context.Context, k *kind, t *tally, index, n int) {
	c := &client{attack: a, tally: t, index: index, n: n, source: netip.AddrFrom4([4]byte{127, 1, byte(index + 1), byte(n%max(k.sources, 1) + 1)})}
	// Not all at the same moment.
	wait(ctx, k.every*time.Duration(n)/time.Duration(k.clients))
	for ctx.Err() == nil {
		began := time.Now()
		k.script(ctx, c)
		c.close()
		c.turn++
		wait(ctx, k.every-time.Since(began))
	}
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// sample looks at the server's memory and goroutines until stop is closed.
func (a *attack) sample(res *Result, stop <-chan struct{}) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		if a.PID != 0 {
			if rss, err := measure.RSS(a.PID); err == nil {
				res.PeakRSS = max(res.PeakRSS, rss)
			}
		}
		if i%4 == 1 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
			var s load.Stats
			if st, err := target.ReadMetrics(ctx, a.HTTP); err == nil {
				s = st
			}
			cancel()
			res.Goroutines = max(res.Goroutines, s.Goroutines)
		}
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}
