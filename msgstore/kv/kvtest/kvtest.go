// Package kvtest is the conformance suite of kv.Store: what every adapter does the same way.
package kvtest

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// Run runs the suite. open returns a new empty store; it sees to its closing, which
// the suite may have done before.
func Run(t *testing.T, open func(t *testing.T) kv.Store) {
	for _, c := range []struct {
		name string
		test func(t *testing.T, s kv.Store)
	}{
		{"Empty", testEmpty},
		{"Get", testGet},
		{"Scan", testScan},
		{"ScanStops", testScanStops},
		{"OneMoment", testOneMoment},
		{"View", testView},
		{"ViewAfterScan", testViewAfterScan},
		{"ViewOneMoment", testViewOneMoment},
		{"Atomic", testAtomic},
		{"OrderInTx", testOrderInTx},
		{"OrderInCommit", testOrderInCommit},
		{"Require", testRequire},
		{"RequireAbsent", testRequireAbsent},
		{"RequireLarge", testRequireLarge},
		{"Delete", testDelete},
		{"Counter", testCounter},
		{"TwoWriters", testTwoWriters},
		{"NothingToWrite", testNothingToWrite},
		{"Stamps", testStamps},
		{"StampsConcurrent", testStampsConcurrent},
		{"StampsRequired", testStampsRequired},
		{"Ownership", testOwnership},
		{"Limits", testLimits},
		{"Invalid", testInvalid},
		{"Canceled", testCanceled},
		{"Close", testClose},
		{"Model", func(t *testing.T, s kv.Store) { Model(t, s, 2000, func() uint64 { return 1 }) }},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

var ctx = context.Background()

// commit stores one transaction that must succeed.
func commit(t *testing.T, s kv.Store, fill func(tx *kv.Tx)) *kv.Tx {
	t.Helper()
	tx := try(s, fill)
	if tx.Err != nil {
		t.Fatalf("commit: %v", tx.Err)
	}
	return tx
}

func try(s kv.Store, fill func(tx *kv.Tx)) *kv.Tx {
	tx := new(kv.Tx)
	fill(tx)
	s.Commit(ctx, tx)
	return tx
}

func set(t *testing.T, s kv.Store, pairs ...string) {
	t.Helper()
	commit(t, s, func(tx *kv.Tx) {
		for i := 0; i < len(pairs); i += 2 {
			tx.Set([]byte(pairs[i]), []byte(pairs[i+1]))
		}
	})
}

func get(t *testing.T, s kv.Store, key string) string {
	t.Helper()
	v, err := s.Get(ctx, []byte(key))
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	if v != nil && len(v) == 0 {
		t.Fatalf("get %q: an empty value that isn't nil", key)
	}
	return string(v)
}

func want(t *testing.T, s kv.Store, pairs ...string) {
	t.Helper()
	for i := 0; i < len(pairs); i += 2 {
		if v := get(t, s, pairs[i]); v != pairs[i+1] {
			t.Errorf("%q is %q, want %q", pairs[i], v, pairs[i+1])
		}
	}
}

func wantErr(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

// scan returns the pairs of a span as "k=v k=v".
func scan(t *testing.T, s kv.Store, span kv.Span) string {
	t.Helper()
	var out []string
	err := s.Scan(ctx, span, func(k, v []byte) (bool, error) {
		out = append(out, string(k)+"="+string(v))
		return true, nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	return strings.Join(out, " ")
}
