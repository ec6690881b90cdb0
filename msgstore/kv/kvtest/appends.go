package kvtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// AppendModel is what Appends does.
type AppendModel struct {
	Logs    int    // logs that are appended to
	Writers int    // goroutines of each store, all of which append to all logs
	Each    int    // appends of each goroutine
	Spread  string // what the logs' keys begin with is drawn from these bytes; "": "l"
	Seed    uint64
}

// Appends appends to logs as the timeline does, by a head that is read, required and written beside a row for
// each append, from every store at once: they are several processes of one store, and may have faults. A conflict and an
// unknown outcome are run again from the start, with the same token. Then nothing that was acknowledged
// may be missing or twice, and the logs may have no gaps. judge reads without faults.
func Appends(t *testing.T, m AppendModel, judge kv.Store, stores ...kv.Store) (undetermined, conflicts int) {
	t.Helper()
	if m.Spread == "" {
		m.Spread = "l"
	}
	t.Logf("append model: %+v", m)
	var (
		mu    sync.Mutex
		acked = make(map[string]uint64) // token to the number it was acknowledged with
		wg    sync.WaitGroup
	)
	for i, s := range stores {
		for w := range m.Writers {
			wg.Go(func() {
				rng := rand.New(rand.NewPCG(m.Seed, uint64(i*1000+w)))
				for n := range m.Each {
					log := rng.IntN(m.Logs)
					token := fmt.Sprintf("%d/%d/%d", i, w, n)
					seq, u, c, err := m.append(s, log, token)
					if err != nil {
						t.Errorf("append %s to log %d: %v", token, log, err)
						return
					}
					mu.Lock()
					acked[fmt.Sprintf("%d:%s", log, token)] = seq
					undetermined += u
					conflicts += c
					mu.Unlock()
				}
			})
		}
	}
	wg.Wait()
	if t.Failed() {
		return undetermined, conflicts
	}
	found := 0
	for log := range m.Logs {
		prefix := m.key(log, "m")
		var next uint64
		seen := make(map[string]uint64)
		err := judge.Scan(ctx, kv.Span{Start: prefix, End: m.key(log, "n")}, func(k, v []byte) (bool, error) {
			next++
			if seq := binary.BigEndian.Uint64(k[len(prefix):]); seq != next {
				return false, fmt.Errorf("log %d: row %d where %d was due", log, seq, next)
			}
			if first, twice := seen[string(v)]; twice {
				return false, fmt.Errorf("log %d: %s is stored as %d and %d", log, v, first, next)
			}
			seen[string(v)] = next
			if seq, ok := acked[fmt.Sprintf("%d:%s", log, v)]; !ok || seq != next {
				return false, fmt.Errorf("log %d: %s is stored as %d and was acknowledged as %d", log, v, next, seq)
			}
			found++
			return true, nil
		})
		if err != nil {
			t.Error(err)
		}
		head, err := judge.Get(ctx, m.key(log, "h"))
		if err != nil || next > 0 && (len(head) != 8 || binary.BigEndian.Uint64(head) != next) {
			t.Errorf("log %d: head %x after %d rows, %v", log, head, next, err)
		}
	}
	if found != len(acked) {
		t.Errorf("%d rows, %d acknowledged", found, len(acked))
	}
	return undetermined, conflicts
}

func (m *AppendModel) key(log int, row string) []byte {
	return fmt.Appendf(nil, "%c/append/%04d/%s", m.Spread[log%len(m.Spread)], log, row)
}

// append stores token behind the last of the log, unless it is there already, and returns its number.
func (m *AppendModel) append(s kv.Store, log int, token string) (seq uint64, undetermined, conflicts int, err error) {
	head := m.key(log, "h")
	row := func(n uint64) []byte { return binary.BigEndian.AppendUint64(m.key(log, "m"), n) }
	unknown := false // an earlier try may have stored it, or may still
	for tries := 0; ; tries++ {
		if tries == 1000 {
			return 0, undetermined, conflicts, fmt.Errorf("no end after %d tries", tries)
		}
		var last uint64
		old, err := s.Get(ctx, head)
		if retryable(err) {
			continue
		}
		if err != nil {
			return 0, undetermined, conflicts, err
		}
		if old != nil {
			last = binary.BigEndian.Uint64(old)
		}
		if unknown {
			seq = 0
			err := s.Scan(ctx, kv.Span{Start: row(1), End: row(last + 1)}, func(k, v []byte) (bool, error) {
				if bytes.Equal(v, []byte(token)) {
					seq = binary.BigEndian.Uint64(k[len(k)-8:])
				}
				return seq == 0, nil
			})
			if retryable(err) {
				continue
			}
			if err != nil || seq != 0 {
				return seq, undetermined, conflicts, err
			}
		}
		tx := new(kv.Tx)
		tx.Require(head, old)
		tx.Set(head, binary.BigEndian.AppendUint64(nil, last+1))
		tx.Set(row(last+1), []byte(token))
		s.Commit(ctx, tx)
		switch {
		case tx.Err == nil:
			return last + 1, undetermined, conflicts, nil
		case errors.Is(tx.Err, kv.ErrUndetermined):
			unknown = true
			undetermined++
		case errors.Is(tx.Err, kv.ErrConflict):
			conflicts++
		case errors.Is(tx.Err, kv.ErrUnavailable), errors.Is(tx.Err, kv.ErrFull):
		default:
			return 0, undetermined, conflicts, tx.Err
		}
	}
}

func retryable(err error) bool {
	return errors.Is(err, kv.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}
