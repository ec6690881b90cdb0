package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Model runs random operations, one after the other, on a store that starts empty and
// on a plain map, and compares every answer. seed draws the run; it is printed if it fails.
func Model(t *testing.T, s kv.Store, steps int, seed func() uint64) {
	m := &model{t: t, s: s, seed: seed(), rows: make(map[string]string)}
	m.rng = rand.New(rand.NewPCG(m.seed, 0))
	for m.step = range steps {
		switch n := m.rng.IntN(10); {
		case n < 6:
			m.commit()
		case n < 7:
			m.get()
		case n < 8:
			m.multiGet()
		default:
			m.scan()
		}
	}
	m.compareAll()
}

type model struct {
	t     *testing.T
	s     kv.Store
	seed  uint64
	step  int
	rng   *rand.Rand
	rows  map[string]string
	stamp uint64
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d, step %d: %s", m.seed, m.step, fmt.Sprintf(format, args...))
}

// key draws from few, so that transactions meet.
func (m *model) key() string {
	k := fmt.Sprintf("%c%d", 'a'+m.rng.IntN(4), m.rng.IntN(30))
	if m.rng.IntN(20) == 0 {
		k += strings.Repeat("x", m.rng.IntN(600))
	}
	return k
}

func (m *model) value() string {
	n := 1 + m.rng.IntN(40)
	switch m.rng.IntN(20) {
	case 0:
		n = 300 + m.rng.IntN(200)
	case 1:
		n = m.rng.IntN(20_000) + 1
	}
	return strings.Repeat(string(rune('a'+m.rng.IntN(26))), n)
}

func (m *model) commit() {
	var txs []*kv.Tx
	var conflicts []bool
	var stamps []uint64
	for range 1 + m.rng.IntN(5) {
		tx, conflict := m.tx()
		txs, conflicts, stamps = append(txs, tx), append(conflicts, conflict), append(stamps, m.stamp)
	}
	m.s.Commit(ctx, txs...)
	for i, tx := range txs {
		if conflicts[i] != errors.Is(tx.Err, kv.ErrConflict) || !conflicts[i] && tx.Err != nil {
			m.fatalf("transaction %d of %d: %v, want conflict %v", i+1, len(txs), tx.Err, conflicts[i])
		}
		if tx.Err == nil && tx.Stamp != 0 && tx.Stamp != stamps[i] {
			m.fatalf("transaction %d of %d: stamp %d, want %d", i+1, len(txs), tx.Stamp, stamps[i])
		}
	}
}

// tx draws a transaction, and runs it on the map unless a requirement fails.
func (m *model) tx() (tx *kv.Tx, conflict bool) {
	tx = new(kv.Tx)
	type write struct{ key, value string }
	var writes []write
	stamped := false
	for range m.rng.IntN(7) {
		k := m.key()
		if len(m.rows) > 0 && m.rng.IntN(3) == 0 {
			k = m.existing()
		}
		switch m.rng.IntN(8) {
		case 0, 1, 2: // a requirement that mostly holds, and often the write that goes with it
			old, there := m.rows[k]
			required := nilIfEmpty(old)
			switch m.rng.IntN(12) {
			case 0:
				required = []byte(old + "!")
			case 1:
				required = nil
			}
			conflict = conflict || (required == nil) == there || required != nil && string(required) != old
			tx.Require([]byte(k), required)
			if m.rng.IntN(2) == 0 {
				v := m.value()
				tx.Set([]byte(k), []byte(v))
				writes = append(writes, write{k, v})
			}
		case 3, 4, 5:
			v := m.value()
			tx.Set([]byte(k), []byte(v))
			writes = append(writes, write{k, v})
		case 6:
			tx.Delete([]byte(k))
			writes = append(writes, write{k, ""})
		case 7:
			if m.s.Stamps() {
				v := m.value()
				tx.SetStamped([]byte(k[:1]+"/"), []byte(v))
				writes = append(writes, write{stampedKey(k[:1]+"/", m.stamp+1), v})
				stamped = true
			}
		}
	}
	if conflict {
		return tx, true
	}
	for _, w := range writes {
		if w.value == "" {
			delete(m.rows, w.key)
		} else {
			m.rows[w.key] = w.value
		}
	}
	if stamped {
		m.stamp++
	}
	return tx, false
}

func (m *model) existing() string {
	keys := m.sorted()
	return keys[m.rng.IntN(len(keys))]
}

func (m *model) sorted() []string {
	keys := make([]string, 0, len(m.rows))
	for k := range m.rows {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (m *model) get() {
	k := m.key()
	v, err := m.s.Get(ctx, []byte(k))
	if err != nil || string(v) != m.rows[k] {
		m.fatalf("get %q: %q, %v, want %q", k, v, err, m.rows[k])
	}
}

func (m *model) multiGet() {
	keys := make([][]byte, m.rng.IntN(10))
	for i := range keys {
		keys[i] = []byte(m.key())
	}
	values, err := m.s.MultiGet(ctx, keys)
	if err != nil || len(values) != len(keys) {
		m.fatalf("multi-get: %d values for %d keys, %v", len(values), len(keys), err)
	}
	for i, k := range keys {
		if string(values[i]) != m.rows[string(k)] {
			m.fatalf("multi-get of %q: %q, want %q", k, values[i], m.rows[string(k)])
		}
	}
}

func (m *model) scan() {
	span := kv.Span{Reverse: m.rng.IntN(2) == 0, Limit: m.rng.IntN(12)}
	if m.rng.IntN(4) > 0 {
		span.Start = []byte(m.key())
	}
	if m.rng.IntN(4) > 0 {
		span.End = []byte(m.key())
	}
	m.compare(span)
}

func (m *model) compareAll() {
	m.compare(kv.Span{})
	m.compare(kv.Span{Reverse: true})
}

func (m *model) compare(span kv.Span) {
	m.t.Helper()
	var keys []string
	for _, k := range m.sorted() {
		if k >= string(span.Start) && (span.End == nil || k < string(span.End)) {
			keys = append(keys, k)
		}
	}
	if span.Reverse {
		slices.Reverse(keys)
	}
	if span.Limit > 0 && len(keys) > span.Limit {
		keys = keys[:span.Limit]
	}
	i := 0
	err := m.s.Scan(ctx, span, func(k, v []byte) (bool, error) {
		if i >= len(keys) {
			return false, fmt.Errorf("a pair too many: %q", k)
		}
		if string(k) != keys[i] || !bytes.Equal(v, []byte(m.rows[keys[i]])) {
			return false, fmt.Errorf("pair %d is %q=%q, want %q=%q", i, k, v, keys[i], m.rows[keys[i]])
		}
		i++
		return true, nil
	})
	if err != nil || i != len(keys) {
		m.fatalf("scan [%q, %q) reverse %v limit %d: %d of %d pairs, %v", span.Start, span.End, span.Reverse, span.Limit, i, len(keys), err)
	}
}
