package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/gochat-im/gochat/bench/fill"
	"github.com/gochat-im/gochat/bench/load"
	"github.com/gochat-im/gochat/bench/report"
	"github.com/gochat-im/gochat/bench/target"
)

// historyFlags is the command line of history.
type historyFlags struct {
	load.History
	merged, unmerged bool
	cold             bool
	cache            string
	rounds           int
}

// history is the scenario history: pages of old messages from stores that were filled one message at a time.
func history(ctx context.Context, args []string, out io.Writer) error {
	c := newCommon("history", out)
	var s servers
	var h historyFlags
	c.StringVar(&s.path, "server", "", "the gochat binary to start; by default it is built from this source")
	c.StringVar(&s.algorithm, "alg", "EdDSA", "how the started server's tokens are signed: EdDSA or HS256")
	c.IntVar(&h.Conversations, "conversations", 100_000, "direct conversations in the store")
	c.IntVar(&h.Messages, "messages", 60, "messages of each, stored one by one")
	c.IntVar(&h.Body, "body", 100, "bytes of each message")
	c.IntVar(&h.Page, "page", 50, "messages of a page")
	c.IntVar(&h.Clients, "clients", 500, "connections, each of its own user, who asks for pages of its own conversations")
	c.IntVar(&h.Window, "w", 1, "requests under way a client")
	c.Float64Var(&h.Rate, "rate", 0, "pages a second in all, asked at their time whatever the answers; latencies count from then")
	c.BoolVar(&h.Sync, "sync", false, "ask with SYNC, as for a gap, instead of with HISTORY, as for scrolling back")
	c.BoolVar(&h.unmerged, "unmerged", true, "with the store as it was written")
	c.BoolVar(&h.merged, "merged", true, "with the store as the server's sweep leaves it, small segments merged")
	c.BoolVar(&h.cold, "cold", false, "a new server whose memory is limited to half of the data, and no file of the store in the kernel's cache")
	c.StringVar(&h.cache, "cache", "", "storage.cache of the server; empty: room for all messages, so that warm means in memory")
	c.DurationVar(&h.Measure, "d", 10*time.Second, "how long is measured")
	c.DurationVar(&h.Warm, "warm", 5*time.Second, "load before that; none with -cold")
	c.IntVar(&h.rounds, "rounds", 1, "rounds of each, each with a fresh server on the same store; medians are compared with thresholds")
	if done, err := c.parse(args); done {
		return err
	}
	switch {
	case h.Conversations < 1 || h.Conversations > 1<<22 || h.Page < 1 || h.Messages < h.Page || h.Body < 1 || h.Clients < 1 || h.Window < 1 || h.rounds < 1:
		return usage("-conversations, -messages, -page, -body, -clients, -w and -rounds: want at least 1, and not fewer messages than a page has")
	case h.Page > 200:
		return usage("-page %d: the server gives at most 200 messages at once", h.Page)
	case h.Clients > h.Conversations:
		return usage("-clients %d: more than conversations", h.Clients)
	case h.Measure <= 0 || h.Warm < 0 || h.Rate < 0:
		return usage("-d, -warm and -rate: negative")
	case !h.merged && !h.unmerged:
		return usage("-merged=false and -unmerged=false: nothing is left to do")
	}
	if err := files(h.Clients); err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		return err
	}
	defer s.clean()
	if err := h.run(ctx, c, &s); err != nil {
		return err
	}
	return c.finish()
}

// run fills a store of each form and loads servers with it.
func (h *historyFlags) run(ctx context.Context, c *common, s *servers) error {
	for _, form := range []struct {
		name   string
		merged bool
		wanted bool
	}{{"unmerged", false, h.unmerged}, {"merged", true, h.merged}} {
		if !form.wanted {
			continue
		}
		if err := h.form(ctx, c, s, form.name, form.merged); err != nil {
			return err
		}
	}
	return nil
}

func (h *historyFlags) form(ctx context.Context, c *common, s *servers, name string, merged bool) error {
	dir, err := os.MkdirTemp("", "gochat-bench")
	if err != nil {
		return environment(err)
	}
	defer os.RemoveAll(dir)
	cfg := h.History
	cfg.Target.Users, cfg.Salt = "u", 7
	d := fill.Direct{
		Conversations: cfg.Conversations, Messages: cfg.Messages, Body: cfg.Body, Salt: cfg.Salt, Merge: merged,
		Users: func(k int) (a, b string) { return cfg.User(k % cfg.Clients), cfg.Peer(k) },
	}
	data := filepath.Join(dir, "data")
	filled, err := d.Write(ctx, data)
	if err != nil {
		return environment(err)
	}
	r := &report.Run{Name: "history/" + name}
	if h.cold {
		r.Name += "/cold"
	}
	if h.Rate > 0 {
		r.Name += fmt.Sprintf("/rate%.0f", h.Rate)
	}
	for range h.rounds {
		res, err := h.round(ctx, c, s, data, cfg, &filled)
		if err != nil {
			return err
		}
		r.History = append(r.History, res)
	}
	c.add(r)
	return nil
}

// settleAtMost is how long a server that was started on a new store may work for itself first: it compacts what was filled in.
const settleAtMost = 60 * time.Second

// memtables is what small ones take, at most.
const memtables = 16 << 20

// settleFrom is the size of a store, in bytes, that is worth waiting for.
const settleFrom = 16 << 20

func (h *historyFlags) round(ctx context.Context, c *common, s *servers, data string, cfg load.History, filled *fill.Filled) (*report.History, error) {
	res := &report.History{Store: *filled}
	l := target.Launching{Path: s.path, Algorithm: s.algorithm, Data: data, Raise: target.Settings{
		{Name: "limits.sends_per_second", Value: strconv.Itoa(unlimited)},
		{Name: "limits.bytes_per_second", Value: "1GiB"},
	}}
	if filled.Bytes > settleFrom {
		cfg.Settle = settleAtMost
	}
	if !h.cold {
		cache := h.cache
		if cache == "" {
			each := int64(cfg.Body) + 200 // with what stands around it, and rows of other kinds
			cache = fmt.Sprintf("%dMiB", 64+int64(cfg.Conversations)*int64(cfg.Messages)*each>>20)
		}
		l.Raise = append(l.Raise, target.Setting{Name: "storage.cache", Value: cache})
	}
	if h.cold {
		// The store's files are rewritten by compactions once, with an ordinary server; then a
		// new process has half of their size in all, and the kernel keeps nothing of them.
		if err := h.compact(ctx, c, s, data, cfg); err != nil {
			return nil, err
		}
		size, err := sizeOf(data)
		if err != nil {
			return nil, environment(err)
		}
		res.Limit, res.Store.Bytes = size/2, size
		// The engine's cache and memtables lie outside of what Go's limit knows.
		cache := max(res.Limit/4, 1<<20)
		l.Env = append(l.Env, fmt.Sprintf("GOMEMLIMIT=%d", max(res.Limit-cache-memtables, res.Limit/4)))
		l.Raise = append(l.Raise, target.Setting{Name: "storage.cache", Value: strconv.FormatInt(cache, 10)},
			target.Setting{Name: "storage.memtable", Value: "4MiB"})
		cfg.Warm, cfg.Settle = 0, 0
	}
	if h.cold {
		if err := forget(data); err != nil {
			return nil, environment(err)
		}
	}
	err := s.launched(ctx, c, l, func(t load.Target, _ *target.Server) error {
		t.Users = cfg.Target.Users
		cfg.Target = t
		if h.cold {
			stop := keepForgetting(data)
			defer stop()
		}
		got, err := cfg.Run(ctx)
		if err == nil {
			res.HistoryResult = *got
		}
		return err
	})
	return res, err
}

// compact lets a server come to rest on the data.
func (h *historyFlags) compact(ctx context.Context, c *common, s *servers, data string, cfg load.History) error {
	return s.launched(ctx, c, target.Launching{Path: s.path, Algorithm: s.algorithm, Data: data}, func(t load.Target, _ *target.Server) error {
		t.Users = cfg.Target.Users
		cfg.Target, cfg.Window, cfg.Rate, cfg.Clients = t, 1, 0, 1
		cfg.Warm, cfg.Measure = 0, time.Millisecond
		_, err := cfg.Run(ctx)
		return err
	})
}

// each calls f with every file below dir. Files come and go meanwhile.
func each(dir string, f func(path string, size int64) error) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		i, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return f(path, i.Size())
	})
}

func sizeOf(dir string) (n int64, err error) {
	err = each(dir, func(_ string, size int64) error {
		n += size
		return nil
	})
	return n, err
}

// forget makes the kernel drop what it keeps of the files below dir.
func forget(dir string) error {
	return each(dir, func(path string, _ int64) error {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer f.Close()
		_ = unix.Fdatasync(int(f.Fd())) // only clean pages can be dropped
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return fmt.Errorf("drop %s from the kernel's cache: %w", path, err)
		}
		return nil
	})
}

// forgetEvery is how often the kernel drops the files again while a cold server is loaded.
const forgetEvery = 250 * time.Millisecond

func keepForgetting(dir string) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(forgetEvery)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				_ = forget(dir) // it went well a moment ago
			}
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}
