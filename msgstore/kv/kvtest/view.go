package kvtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/msgstore/kv"
)

// view runs fn in a view that must succeed.
func view(t *testing.T, s kv.Store, start, end string, fn func(v kv.View)) {
	t.Helper()
	var e []byte
	if end != "" {
		e = []byte(end)
	}
	err := s.View(ctx, []byte(start), e, func(v kv.View) error { fn(v); return nil })
	if err != nil {
		t.Fatalf("view of [%q, %q): %v", start, end, err)
	}
}

func getIn(t *testing.T, v kv.View, key string) string {
	t.Helper()
	value, err := v.Get([]byte(key))
	if err != nil {
		t.Fatalf("get %q in a view: %v", key, err)
	}
	if value != nil && len(value) == 0 {
		t.Fatalf("get %q in a view: an empty value that isn't nil", key)
	}
	return string(value)
}

// scanIn returns the pairs of a span as "k=v k=v".
func scanIn(t *testing.T, v kv.View, span kv.Span) string {
	t.Helper()
	var out []string
	err := v.Scan(span, func(k, v []byte) (bool, error) {
		out = append(out, string(k)+"="+string(v))
		return true, nil
	})
	if err != nil {
		t.Fatalf("scan in a view: %v", err)
	}
	return strings.Join(out, " ")
}

func testView(t *testing.T, s kv.Store) {
	view(t, s, "", "", func(v kv.View) {
		if got := getIn(t, v, "a") + scanIn(t, v, kv.Span{}); got != "" {
			t.Errorf("an empty store has %s", got)
		}
	})
	set(t, s, "a", "1", "b", "2", "b\x00", "3", "c", "4", "d", "5", "\xff\xfe\xff", "6")
	commit(t, s, func(tx *kv.Tx) { tx.Delete([]byte("d")) })
	all := []string{"a=1", "b=2", "b\x00=3", "c=4", "\xff\xfe\xff=6"}
	bounds := []string{"", "a", "aa", "b", "b\x00", "c", "d", "e", "\xff\xfe\xff", "\xff\xff", "\xff\xff\xff"}
	keys := append([]string{"\x00", "\xff\xffstamp", "b\x00\x00"}, bounds...)
	within := func(pair, start, end string) bool {
		k := pair[:len(pair)-2]
		return k >= start && (end == "" || k < end)
	}
	// Every window, and in each every key and every span, one after the other in the same view.
	for _, start := range bounds {
		for _, end := range bounds {
			view(t, s, start, end, func(v kv.View) {
				for _, key := range keys {
					want := ""
					if i := slices.IndexFunc(all, func(p string) bool { return p[:len(p)-2] == key }); i >= 0 && within(all[i], start, end) {
						want = all[i][len(all[i])-1:]
					}
					if got := getIn(t, v, key); got != want {
						t.Errorf("%q in a view of [%q, %q) is %q, want %q", key, start, end, got, want)
					}
				}
				for _, from := range bounds {
					for _, to := range bounds {
						var pairs []string
						for _, p := range all {
							if within(p, start, end) && within(p, from, to) {
								pairs = append(pairs, p)
							}
						}
						span := kv.Span{Start: []byte(from), Limit: len(from)}
						if to != "" {
							span.End = []byte(to)
						}
						for range 2 {
							w := pairs
							if span.Limit > 0 && span.Limit < len(w) {
								w = w[:span.Limit]
							}
							if got := scanIn(t, v, span); got != strings.Join(w, " ") {
								t.Errorf("scan of %v in a view of [%q, %q): %q, want %q", span, start, end, got, w)
							}
							span.Reverse = true
							slices.Reverse(pairs)
						}
					}
				}
			})
		}
	}

	oops := errors.New("oops")
	if err := s.View(ctx, nil, nil, func(kv.View) error { return oops }); !errors.Is(err, oops) {
		t.Errorf("the error of a view's function became %v", err)
	}
	view(t, s, "a", "z", func(v kv.View) {
		n := 0
		if err := v.Scan(kv.Span{}, func(_, _ []byte) (bool, error) { n++; return true, oops }); !errors.Is(err, oops) || n != 1 {
			t.Errorf("error %v after %d pairs", err, n)
		}
		n = 0
		if err := v.Scan(kv.Span{}, func(_, _ []byte) (bool, error) { n++; return n < 2, nil }); err != nil || n != 2 {
			t.Errorf("stopped after %d pairs, %v", n, err)
		}
		if got := getIn(t, v, "b"); got != "2" {
			t.Errorf("after scans that stopped b is %q", got)
		}
	})
}

// testViewAfterScan gets keys before, at and behind where a scan has stopped, near and far.
func testViewAfterScan(t *testing.T, s kv.Store) {
	const keys = 24
	at := func(i int) string { return fmt.Sprintf("k%03d", i) }
	commit(t, s, func(tx *kv.Tx) {
		for i := 0; i < keys; i += 2 { // every other one is there
			tx.Set([]byte(at(i)), []byte(at(i)))
		}
	})
	view(t, s, at(2), at(keys-3), func(v kv.View) {
		for stop := -1; stop < keys; stop++ {
			for get := -1; get <= keys; get++ {
				for _, reverse := range []bool{false, true} {
					err := v.Scan(kv.Span{Start: []byte(at(4)), Reverse: reverse}, func(k, _ []byte) (bool, error) { return string(k) != at(stop), nil })
					if err != nil {
						t.Fatal(err)
					}
					want := ""
					if get >= 2 && get < keys-3 && get%2 == 0 {
						want = at(get)
					}
					for range 2 {
						if got := getIn(t, v, at(get)); got != want {
							t.Fatalf("after a scan that stopped at %s (reverse %v) %s is %q, want %q", at(stop), reverse, at(get), got, want)
						}
					}
				}
			}
		}
	})
}

// testViewOneMoment commits within a view, which must stay what it was.
func testViewOneMoment(t *testing.T, s kv.Store) {
	set(t, s, "a", "1", "b", "1", "c", "1")
	view(t, s, "a", "z", func(v kv.View) {
		look := func(when string) {
			if got := getIn(t, v, "a") + getIn(t, v, "b") + getIn(t, v, "bb") + scanIn(t, v, kv.Span{Start: []byte("b")}); got != "11b=1 c=1" {
				t.Errorf("%s: %s", when, got)
			}
		}
		look("at first")
		set(t, s, "b", "2", "bb", "2", "c", "2")
		commit(t, s, func(tx *kv.Tx) { tx.Delete([]byte("a")) })
		look("after a commit")
		want(t, s, "a", "", "b", "2")
		view(t, s, "", "", func(w kv.View) { // the new moment, beside the old one
			if got := scanIn(t, w, kv.Span{}); got != "b=2 bb=2 c=2" {
				t.Errorf("a view within a view: %s", got)
			}
		})
		look("after another view")
	})

	canceled, cancel := context.WithCancel(ctx)
	cancel()
	err := s.View(canceled, nil, nil, func(kv.View) error { return nil })
	wantErr(t, "view", err, context.Canceled)
	big := new(kv.Tx)
	for i := range 2000 {
		big.Set(fmt.Appendf(nil, "many%05d", i), []byte("1"))
	}
	if s.Commit(ctx, big); big.Err != nil {
		t.Fatal(big.Err)
	}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	err = s.View(during, nil, nil, func(v kv.View) error {
		n := 0
		return v.Scan(kv.Span{}, func(_, _ []byte) (bool, error) {
			if n++; n == 10 {
				cancel()
			}
			return true, nil
		})
	})
	wantErr(t, "scan in a view cancelled on its way", err, context.Canceled)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	err = s.View(ctx, nil, nil, func(kv.View) error { return nil })
	wantErr(t, "view", err, kv.ErrClosed)
}
