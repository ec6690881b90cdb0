package kvtest

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

func testEmpty(t *testing.T, s kv.Store) {
	want(t, s, "a", "")
	if got := scan(t, s, kv.Span{}); got != "" {
		t.Errorf("an empty store has %s", got)
	}
	if got := scan(t, s, kv.Span{Reverse: true}); got != "" {
		t.Errorf("an empty store has, from its end, %s", got)
	}
	values, err := s.MultiGet(ctx, nil)
	if err != nil || len(values) != 0 {
		t.Errorf("multi-get of nothing: %v, %v", values, err)
	}
	s.Commit(ctx)
}

func testGet(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "a\x00", "3")
	want(t, s, "a", "1", "b", "2", "a\x00", "3", "", "", "aa", "", "\xff\xff", "")
	values, err := s.MultiGet(ctx, [][]byte{[]byte("b"), []byte("x"), []byte("a"), []byte("b"), {}, []byte("\xff\xffstamp")})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintf("%q", values); got != `["2" "" "1" "2" "" ""]` {
		t.Errorf("multi-get: %s", got)
	}
	if values[1] != nil {
		t.Error("an absent value is not nil")
	}
	set(t, s, "a", "4")
	want(t, s, "a", "4")
}

func testScan(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "b\x00", "3", "c", "4", "\xfe\xff", "5", "\xff\xfe\xff", "6")
	if s.Stamps() {
		commit(t, s, func(tx *kv.Tx) { tx.SetStamped([]byte("\x01s"), []byte("7")); tx.Set([]byte("d"), []byte("8")) })
		commit(t, s, func(tx *kv.Tx) {
			tx.Delete([]byte("\x01s\x00\x00\x00\x00\x00\x00\x00\x01"))
			tx.Delete([]byte("d"))
		})
	}
	b := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		start, end []byte
		limit      int
		want       string
	}{
		{nil, nil, 0, "a=1 b=2 b\x00=3 c=4 \xfe\xff=5 \xff\xfe\xff=6"},
		{b("a"), b("c"), 0, "a=1 b=2 b\x00=3"},
		{b("a"), b("c\x00"), 0, "a=1 b=2 b\x00=3 c=4"},
		{b("a\x00"), b("c"), 0, "b=2 b\x00=3"},
		{b("b"), b("b"), 0, ""},
		{b("c"), b("a"), 0, ""},
		{b("d"), b("e"), 0, ""},
		{b("c"), nil, 0, "c=4 \xfe\xff=5 \xff\xfe\xff=6"},
		{b("c"), b("\xff\xff\xff"), 0, "c=4 \xfe\xff=5 \xff\xfe\xff=6"},
		{b("\xff\xff"), nil, 0, ""},
		{nil, b("b"), 0, "a=1"},
		{b("a"), b("z"), 100, "a=1 b=2 b\x00=3 c=4"},
	} {
		var pairs []string
		if c.want != "" {
			pairs = strings.Split(c.want, " ")
		}
		for limit := range 7 {
			span := kv.Span{Start: c.start, End: c.end, Limit: limit}
			w := pairs
			if limit > 0 && limit < len(w) {
				w = w[:limit]
			}
			if got := scan(t, s, span); got != strings.Join(w, " ") {
				t.Errorf("scan [%q, %q) limit %d: %q, want %q", c.start, c.end, limit, got, w)
			}
			w = slices.Clone(pairs)
			slices.Reverse(w)
			if limit > 0 && limit < len(w) {
				w = w[:limit]
			}
			span.Reverse = true
			if got := scan(t, s, span); got != strings.Join(w, " ") {
				t.Errorf("reverse scan [%q, %q) limit %d: %q, want %q", c.start, c.end, limit, got, w)
			}
		}
	}
}

func testScanStops(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "2", "c", "3")
	oops := errors.New("oops")
	for _, reverse := range []bool{false, true} {
		n := 0
		err := s.Scan(ctx, kv.Span{Reverse: reverse}, func(k, v []byte) (bool, error) { n++; return n < 2, nil })
		if err != nil || n != 2 {
			t.Errorf("reverse %v: stopped after %d pairs, %v", reverse, n, err)
		}
		n = 0
		err = s.Scan(ctx, kv.Span{Reverse: reverse}, func(k, v []byte) (bool, error) { n++; return true, oops })
		if !errors.Is(err, oops) || n != 1 {
			t.Errorf("reverse %v: error %v after %d pairs", reverse, err, n)
		}
	}
}

// testOneMoment commits within a scan, whose pairs must stay those of its beginning.
func testOneMoment(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "1", "c", "1", "d", "1")
	for _, reverse := range []bool{false, true} {
		first := ""
		err := s.Scan(ctx, kv.Span{Reverse: reverse}, func(k, v []byte) (bool, error) {
			if first == "" {
				first = string(v)
				set(t, s, "a", first+"1", "b", first+"1", "c", first+"1", "d", first+"1", "bb"+first, "1", "cc"+first, "1")
				commit(t, s, func(tx *kv.Tx) { tx.Delete([]byte("bb" + first)); tx.Delete([]byte("cc" + first)) })
			}
			if string(v) != first {
				t.Errorf("a scan that began with %q came to %q=%q", first, k, v)
			}
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	// Two rows always written together are always read together.
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		defer close(stop)
		for i := range 300 {
			v := fmt.Sprint(i)
			if tx := try(s, func(tx *kv.Tx) { tx.Set([]byte("x"), []byte(v)); tx.Set([]byte("y"), []byte(v)) }); tx.Err != nil {
				t.Errorf("commit: %v", tx.Err)
			}
		}
	})
	for running := true; running; {
		select {
		case <-stop:
			running = false
		default:
		}
		values, err := s.MultiGet(ctx, [][]byte{[]byte("x"), []byte("y")})
		if err != nil || !bytes.Equal(values[0], values[1]) {
			t.Fatalf("multi-get: %q, %v", values, err)
		}
		var last []byte
		err = s.Scan(ctx, kv.Span{Start: []byte("x")}, func(k, v []byte) (bool, error) {
			if k[0] == 'y' && !bytes.Equal(v, last) {
				t.Errorf("scan: x=%s y=%s", last, v)
			}
			last = append(last[:0], v...)
			return true, nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}
