package relation

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv/memory"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
)

// search reads all pages.
func (w *world) search(asker id.UserID, text string, limit int) (users []string) {
	w.t.Helper()
	cursor := ""
	for {
		found, next, err := w.svc.Search(w.ctx, of(asker), text, cursor, limit)
		w.want(err, 0)
		if len(found) > limit {
			w.t.Errorf("a page of %d", len(found))
		}
		for _, p := range found {
			users = append(users, p.UserId)
		}
		if cursor = next; cursor == "" {
			return users
		}
	}
}

func TestSearch(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	for u, name := range map[id.UserID]string{
		"u1": "Alice Liddell", "u2": "ALICIA", "u3": "Ａｌｉｃｅ", "u4": "爱丽丝", "u5": "Straße 7", "u6": "one two three four five", "ali": "",
		"u7": strings.Repeat("x", 30) + " end", "u8": "al al alice", "u9": "<script>alert(1)</script>",
	} {
		if name != "" {
			_, err := w.set(u, name)
			w.want(err, 0)
		}
		if err := w.svc.Index(w.ctx, u); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"ali", "[ali u1 u3 u8 u2]"}, // u8 once, by the first of its words
		{"ALICE", "[u1 u3 u8]"}, {"alice l", "[u1]"}, {"lidd", "[u1]"}, {"iddell", "[]"}, {"爱丽", "[u4]"}, {"丽", "[]"},
		{"strasse", "[u5]"}, {"three f", "[u6]"}, {"five", "[]"}, {"u1", "[u1]"}, {"  u1 ", "[u1]"},
		{strings.Repeat("x", 25), "[u7]"}, {strings.Repeat("x", 31), "[]"}, {"<script>", "[u9]"}, {"zzz", "[]"},
	} {
		for _, limit := range []int{50, 1} {
			got := w.search("asker", c.text, limit)
			want := strings.Fields(strings.Trim(c.want, "[]"))
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("%q, %d a page: %v, want %v", c.text, limit, got, want)
			}
		}
	}
	if got := w.search("u1", "alice l", 10); len(got) != 0 {
		t.Errorf("the asker finds %v", got)
	}
	w.want(w.block("u2", "asker", true), 0)
	w.gone["u3"] = true
	if got := fmt.Sprint(w.search("asker", "alic", 10)); got != "[u8 u1]" && got != "[u1 u8]" {
		t.Errorf("who has blocked the asker, or is gone, is found: %s", got)
	}
	for _, cursor := range []string{"?", "AAAA", "YWI", "emVicmEAdQ"} {
		_, _, err := w.svc.Search(w.ctx, of("asker"), "ali", cursor, 1)
		w.want(err, code.BadRequest)
	}
	for _, text := range []string{" ", "\x00"} {
		_, _, err := w.svc.Search(w.ctx, of("asker"), text, "", 1)
		w.want(err, code.BadRequest)
	}
	w.store.Close()
	_, _, err := w.svc.Search(w.ctx, of("asker"), "ali", "", 1)
	w.want(err, code.Unavailable)
}

// Names that have changed are found as they are, and rows of them don't stay.
func TestSearchAfterRenaming(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	rows := msgstore.NewRelations(w.store, keys)
	for _, name := range []string{"Anna", "Anna Berta", "Berta", "", "Carl"} {
		_, err := w.set("u", name)
		w.want(err, 0)
	}
	if got := w.search("asker", "carl", 5); fmt.Sprint(got) != "[u]" {
		t.Errorf("found %v", got)
	}
	for _, old := range []string{"anna", "berta"} {
		if got := w.search("asker", old, 5); len(got) != 0 {
			t.Errorf("%s: found %v", old, got)
		}
		if left, err := rows.Named(w.ctx, old, msgstore.Found{}, 10); err != nil || len(left) != 0 {
			t.Errorf("%s: rows %v, %v", old, left, err)
		}
	}
	// A row that a crash left is no harm.
	if err := rows.PutNames(w.ctx, "u", []string{"dora"}, nil); err != nil {
		t.Fatal(err)
	}
	if got := w.search("asker", "dora", 5); len(got) != 0 {
		t.Errorf("by a name that the profile denies: %v", got)
	}
	// And one that a crash took is put again.
	if err := rows.PutNames(w.ctx, "u", nil, []string{"carl"}); err != nil {
		t.Fatal(err)
	}
	if err := w.svc.Index(w.ctx, "u"); err != nil {
		t.Fatal(err)
	}
	if got := w.search("asker", "carl", 5); fmt.Sprint(got) != "[u]" {
		t.Errorf("found %v", got)
	}
}

// Whatever several devices rename at once, in the end the user is found by the name that stands.
func TestRenamingAtOnce(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}))
	for round := range 20 {
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				_, _ = w.set("u", fmt.Sprintf("name%d r%d", (i+round)%3, round%2))
			})
		}
		wg.Wait()
		ps, err := w.profiles("u")
		w.want(err, 0)
		p, _, err := msgstore.NewRelations(w.store, keys).Profile(w.ctx, "u")
		if err != nil {
			t.Fatal(err)
		}
		if got := w.search("asker", p.Name, 5); fmt.Sprint(got) != "[u]" {
			t.Fatalf("round %d: %q finds %v (%v)", round, p.Name, got, ps)
		}
	}
}

func TestSearchPolicies(t *testing.T) {
	w := newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.Search = Nobody })
	_, _, err := w.svc.Search(w.ctx, of("asker"), "ali", "", 1)
	w.want(err, code.Forbidden)
	w = newWorld(t, memory.New(memory.Config{}), func(c *Config) { c.Search = SharedGroup })
	for _, u := range []id.UserID{"anna", "anton"} {
		_, err := w.set(u, string(u))
		w.want(err, 0)
	}
	w.join(id.NewGroup(), false, "asker", "anton")
	w.join(id.NewGroup(), true, "asker", "anna")
	if got := fmt.Sprint(w.search("asker", "an", 5)); got != "[anton]" {
		t.Errorf("found %s", got)
	}
	if _, err := New(Config{Store: w.store, Users: w, Search: Nobody + 1}); err == nil {
		t.Error("an unknown policy was accepted")
	}
}
