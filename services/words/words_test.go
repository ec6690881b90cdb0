package words

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	"github.com/gochat-im/gochat/protocol/packet"
)

func lists(t testing.TB, text string) *Lists {
	t.Helper()
	l, err := (*Lists)(nil).With("a", text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestFindAndMask(t *testing.T) {
	m := lists(t, "# a comment\n\nhe\nshe\nhers\nDamn it\n  傻瓜  \r\n法轮\n轮子大\nſtraße\nΣΑΣ\nna\u200bive\nａｂｃ\nx\n").Matcher()
	if m.Words() != 12 {
		t.Errorf("%d words", m.Words())
	}
	for _, c := range []struct{ text, masked string }{
		{"", ""},
		{"good day", "good day"},
		{"ushers", "u*****"}, // he, she and hers
		{"usher", "u***r"},
		{"DAMN IT!", "*******!"},
		{"damn  it", "damn  it"},
		{"你是傻瓜吗", "你是**吗"},
		{"傻 瓜", "傻 瓜"},
		{"法轮子大的", "****的"}, // two that overlap
		{"轮子", "轮子"},
		{"Straße", "******"},
		{"ÅSΣασ", "ÅS***"},
		{"σας σασ", "*** ***"},
		{"a\u200bna\u200bi\u200bve\u200b b", "a\u200b*****\u200b b"}, // what nobody sees is no way around
		{"\ufeff", "\ufeff"},
		{"ABC ａＢＣ abc", "*** *** ***"},
		{"xx", "**"},
		{"😀x😀", "😀*😀"},
		{"h\xffe", "h\xffe"},
	} {
		found := m.Find([]byte(c.text))
		if got := m.Mask(c.text); got != c.masked || found != (c.text != c.masked) {
			t.Errorf("%q: found %v, masked %q, want %q", c.text, found, got, c.masked)
		}
	}
}

// Against the plain way to look for words, on an alphabet so small that they overlap all the time.
func TestAgainstPlainSearch(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	alphabet := []rune("abß中")
	random := func(n int) []rune {
		out := make([]rune, n)
		for i := range out {
			out[i] = alphabet[rng.IntN(len(alphabet))]
		}
		return out
	}
	for range 300 {
		var list []string
		for range 1 + rng.IntN(12) {
			list = append(list, string(random(1+rng.IntN(6))))
		}
		m := lists(t, strings.Join(list, "\n")).Matcher()
		for range 20 {
			text := random(rng.IntN(30))
			want, found := append([]rune(nil), text...), false
			for i := range text {
				for _, w := range list {
					if n := utf8.RuneCountInString(w); i+n <= len(text) && string(text[i:i+n]) == w {
						found = true
						for k := range n {
							want[i+k] = '*'
						}
					}
				}
			}
			if got := m.Mask(string(text)); got != string(want) || m.Find([]byte(string(text))) != found {
				t.Fatalf("words %q in %q: found %v, %q; want %v, %q", list, string(text), !found, got, found, string(want))
			}
		}
	}
}

func FuzzMask(f *testing.F) {
	m := lists(f, "he\nshe\n傻瓜\nk\n").Matcher()
	f.Add("she 傻\u200b瓜 \xff")
	f.Fuzz(func(t *testing.T, text string) {
		masked := m.Mask(text)
		if len(masked) > len(text) || utf8.ValidString(text) && !utf8.ValidString(masked) || m.Find([]byte(masked)) {
			t.Errorf("%q becomes %q", text, masked)
		}
		if !m.Find([]byte(text)) && masked != text {
			t.Errorf("%q has no word and becomes %q", text, masked)
		}
	})
}

func TestBadListsAreRefused(t *testing.T) {
	var many strings.Builder
	for i := range MaxRunes/8 + 1 {
		fmt.Fprintf(&many, "%08d\n", i)
	}
	for what, text := range map[string]string{
		"UTF-8": "a\n\xff", "bytes": strings.Repeat("a\n", MaxText/2+1), "line 2 has 65": "a\n" + strings.Repeat("好", MaxWord+1), "control": "a\x00b",
		"nobody sees": "a\n\u200b\u200b", "characters": many.String(),
	} {
		if what == "characters" && len(text) > MaxText {
			text = strings.ReplaceAll(text, "\n0", "\n")
		}
		l, err := (*Lists)(nil).With("a", text)
		if _, cerr := Check(text); !errors.Is(err, ErrList) || !errors.Is(cerr, ErrList) || l != nil || what != "characters" && !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v, %v", what, err, cerr)
		}
	}
	// Together they may be too many, though each is fine; what there is stays.
	l, n := (*Lists)(nil), 0
	for ; ; n++ {
		var b strings.Builder
		for i := range 10_000 {
			fmt.Fprintf(&b, "%c%c%08d\n", 'a'+n%26, 'a'+n/26, i)
		}
		next, err := l.With(fmt.Sprint(n), b.String())
		if err != nil {
			if !errors.Is(err, ErrList) {
				t.Error(err)
			}
			break
		}
		l = next
	}
	if n != 5 || l.Matcher().Words() != 50_000 || !l.Matcher().Find([]byte("..AA00009999..")) {
		t.Errorf("%d lists of %d words", n, l.Matcher().Words())
	}
	l = l.Without("0")
	if l.Matcher().Words() != 40_000 || l.Matcher().Find([]byte("AA00009999")) {
		t.Error("a list that was removed is in force")
	}
	l = nil
	for i := range MaxLists {
		var err error
		if l, err = l.With(fmt.Sprint(i), "w"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := l.With("one more", "w"); !errors.Is(err, ErrList) {
		t.Errorf("too many lists: %v", err)
	}
	if _, err := l.With("0", "v"); err != nil {
		t.Errorf("one in place of another: %v", err)
	}
	if l, err := l.With("", "own"); err != nil {
		t.Errorf("the one without a name is beside them: %v", err)
	} else if _, err := l.With("0", "v"); err != nil {
		t.Errorf("one in place of another, beside the one without a name: %v", err)
	}
	if (*Lists)(nil).Without("x").Matcher() != nil || lists(t, "# nothing\n").Matcher() != nil {
		t.Error("no words, and a matcher")
	}
}

// sink is a sequencer that keeps what it was given last.
type sink struct{ last []packet.Pending }

func (s *sink) Append(_ id.ConversationID, batch []packet.Pending) { s.last = batch }

func said(text string, kind uint32) packet.Pending {
	p := packet.Pending{}
	p.Type = kind
	p.Content = []byte(text)
	return p
}

func TestFilter(t *testing.T) {
	s := new(sink)
	f := NewFilter(s)
	conv := id.Direct("alice", "bob")
	pass := func(batch ...packet.Pending) []packet.Pending {
		f.Append(conv, batch)
		return s.last
	}
	if got := pass(said("damn", packet.TypeText)); got[0].Refusal != nil {
		t.Error("refused without a list")
	}
	m := lists(t, "damn").Matcher()
	f.Use(m, false)
	before := said("damn", packet.TypeText)
	before.Refusal = code.New(code.Muted)
	got := pass(said("fine", packet.TypeText), said("Oh DAMN", packet.TypeText), said("damn", packet.TypeImage), said("damn", packet.TypeOwn), before)
	for i, want := range []code.Code{0, code.Forbidden, 0, 0, code.Muted} {
		if e := got[i].Refusal; (e == nil) != (want == 0) || e != nil && (e.Code != want || strings.Contains(e.Error(), "damn")) {
			t.Errorf("message %d: %v, want %v", i, e, want)
		}
	}
	if st := f.Stats(); st != (Stats{Words: 1, Refused: 1}) {
		t.Errorf("%+v", st)
	}
	f.Use(m, true)
	masked := said("oh damn", packet.TypeText)
	masked.Tail = append([]byte{5 << 3, 1, 6<<3 | 2, byte(len(masked.Content))}, masked.Content...)
	if got := pass(masked); got[0].Refusal != nil || string(got[0].Content) != "oh ****" {
		t.Errorf("masked: %v, %q", got[0].Refusal, got[0].Content)
	}
	f.Use(nil, true)
	if got := pass(said("damn", packet.TypeText)); got[0].Refusal != nil || string(got[0].Content) != "damn" {
		t.Error("judged without a list")
	}
	if st := f.Stats(); st != (Stats{Refused: 1, Masked: 1}) {
		t.Errorf("%+v", st)
	}
}

// Lists change while messages pass: each message meets one of them, whole.
func TestListsChangeUnderway(t *testing.T) {
	f := NewFilter(new(sink))
	a, b := lists(t, "aaa\nbbb").Matcher(), lists(t, "aaa\nccc").Matcher()
	f.Use(a, false)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			own := NewFilter(new(sink))
			for range 500 {
				own.rule.Store(f.rule.Load())
				batch := []packet.Pending{said("x aaa", packet.TypeText), said("y", packet.TypeText)}
				own.Append(id.Direct("alice", "bob"), batch)
				if batch[0].Refusal == nil || batch[1].Refusal != nil {
					t.Error("a message passed between two lists")
				}
			}
		})
	}
	for i := range 500 {
		f.Use(map[bool]*Matcher{true: a, false: b}[i%2 == 0], false)
	}
	wg.Wait()
}

func TestCleanTextAllocatesNothing(t *testing.T) {
	f := NewFilter(new(sink))
	f.Use(lists(t, "damn\n傻瓜\nпривет\n").Matcher(), true)
	batch := []packet.Pending{said("Nothing to see here, move along. 你好，世界！ ПРИВ дам", packet.TypeText)}
	conv := id.Direct("alice", "bob")
	if n := testing.AllocsPerRun(100, func() { f.Append(conv, batch) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFind(b *testing.B) {
	var text strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&text, "w%dord\n词%c%c\n", i, rune(0x4e00+i%5000), rune(0x5e00+i%3000))
	}
	m := lists(b, text.String()).Matcher()
	for name, s := range map[string]string{
		"ascii":   strings.Repeat("the quick brown fox walks over w123or ", 25),
		"chinese": strings.Repeat("今天天气很好，我们一起去公园散步吧。词语", 16),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(s)))
			b.ReportAllocs()
			for b.Loop() {
				if m.Find([]byte(s)) {
					b.Fatal("found")
				}
			}
		})
	}
}
