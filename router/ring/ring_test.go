package ring

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
)

var add = flag.Bool("add", false, "write placements that testdata/placements.txt is without; those it has are never changed")

func equal(n int) []Member {
	ms := make([]Member, n)
	for i := range ms {
		ms[i] = Member{ID: fmt.Sprintf("logic-%d", i+1), Weight: 100}
	}
	return ms
}

// The placements below are held to for ever: nodes of different releases run side by side, and
// a different placement would have two of them own one slot for as long as that lasts.
var golden = []struct {
	name    string
	members []Member
}{
	{"one", equal(1)},
	{"two", equal(2)},
	{"three", equal(3)},
	{"five", equal(5)},
	{"weights", []Member{{"small", 50}, {"middle", 100}, {"large", 200}, {"none", 0}}},
	{"names", []Member{{"世界", 100}, {"10.0.0.1:7000", 100}, {"a", 100}, {"A", 100}, {"gochat-0.gochat.default.svc.cluster.local", 100}}},
	{"many", equal(100)},
}

// written is a placement as text: the owners of the slots as places in the sorted list of
// members, or a hash of that where it would be long.
func written(r *Ring) string {
	var b bytes.Buffer
	for i, m := range r.Members() {
		fmt.Fprintf(&b, "member %d %s weight %d owns %d\n", i, m.ID, m.Weight, r.Owned(i))
	}
	sum := sha256.New()
	for s := range id.Slot(id.SlotCount) {
		fmt.Fprintf(sum, "%d %s\n", s, r.Members()[r.Owner(s)].ID)
	}
	if len(r.Members()) <= 16 {
		for s := range id.Slot(id.SlotCount) {
			fmt.Fprintf(&b, "%x", r.Owner(s))
			if s%128 == 127 {
				b.WriteByte('\n')
			}
		}
	}
	fmt.Fprintf(&b, "sha256 %x\n", sum.Sum(nil))
	return b.String()
}

func TestPlacementsHoldForEver(t *testing.T) {
	const file = "testdata/placements.txt"
	have := map[string]string{}
	b, err := os.ReadFile(file)
	if err != nil && !*add {
		t.Fatal(err)
	}
	var name string
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if n, ok := strings.CutPrefix(lines.Text(), "placement "); ok {
			name = n
		} else if lines.Text() != "" {
			have[name] += lines.Text() + "\n"
		}
	}
	for _, g := range golden {
		got := written(New(g.members))
		want, ok := have[g.name]
		if !ok && *add {
			b = fmt.Appendf(b, "placement %s\n%s\n", g.name, got)
			continue
		}
		if got != want {
			t.Errorf("%s: the placement is not what it was:\n%s\nwant\n%s", g.name, got, want)
		}
	}
	if *add {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func random(rng *rand.Rand, n int, weights bool) []Member {
	ms := make([]Member, n)
	for i := range ms {
		ms[i] = Member{ID: fmt.Sprintf("node-%x", rng.Uint64()), Weight: 100}
		if weights {
			ms[i].Weight = 50 + rng.Uint32N(151)
		}
	}
	return ms
}

func seeded(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

func TestOrderIsNothing(t *testing.T) {
	rng := seeded(t)
	for range 20 {
		ms := random(rng, 1+rng.IntN(12), true)
		want := written(New(ms))
		rng.Shuffle(len(ms), func(i, j int) { ms[i], ms[j] = ms[j], ms[i] })
		ms = append(ms, Member{ID: ms[0].ID, Weight: 1}, Member{ID: "weightless"})
		if got := written(New(ms)); got != want {
			t.Fatalf("of the same members in another order:\n%s\nwant\n%s", got, want)
		}
	}
}

// The matching is what one gets by going through all pairs from the best one on.
func TestMatchesGreedy(t *testing.T) {
	rng := seeded(t)
	for range 10 {
		r := New(random(rng, 1+rng.IntN(20), true))
		p := placement{}
		var sum float64
		for _, m := range r.members {
			sum += float64(m.Weight)
		}
		room := make([]int, len(r.members))
		for i, m := range r.members {
			room[i] = int(math.Ceil(float64(m.Weight) * id.SlotCount * (slack + 1) / (sum * slack)))
			p.seeds, p.weights = append(p.seeds, seedOf(m)), append(p.weights, uint64(m.Weight))
		}
		var pairs []choice
		for s := range uint16(id.SlotCount) {
			c := choice{slot: s, member: -1}
			for range r.members {
				c = p.next(c)
				pairs = append(pairs, c)
			}
		}
		slices.SortFunc(pairs, func(a, b choice) int {
			if a.before(b) {
				return -1
			}
			return 1
		})
		owner := map[uint16]int32{}
		for _, c := range pairs {
			if _, ok := owner[c.slot]; !ok && room[c.member] > 0 {
				room[c.member]--
				owner[c.slot] = c.member
			}
		}
		for s, want := range owner {
			if got := r.Owner(id.Slot(s)); got != int(want) {
				t.Fatalf("slot %d of %d members: %d owns it, want %d", s, len(r.members), got, want)
			}
		}
	}
}

func TestSharesFollowWeights(t *testing.T) {
	rng := seeded(t)
	for _, n := range []int{1, 2, 3, 5, 8, 16, 50} {
		for _, weights := range []bool{false, true} {
			r := New(random(rng, n, weights))
			var sum, all float64
			for _, m := range r.Members() {
				sum += float64(m.Weight)
			}
			for i, m := range r.Members() {
				share := id.SlotCount * float64(m.Weight) / sum
				all += float64(r.Owned(i))
				if float64(r.Owned(i)) > share*(1+1.0/slack)+1 {
					t.Errorf("%d members: one of weight %d of %.0f owns %d slots, its share is %.0f", n, m.Weight, sum, r.Owned(i), share)
				}
			}
			if all != id.SlotCount {
				t.Errorf("%d members own %.0f slots", n, all)
			}
		}
	}
}

// slotsMoved counts the slots that have another owner in b than in a.
func slotsMoved(a, b *Ring) int {
	n := 0
	for s := range id.Slot(id.SlotCount) {
		i, j := a.Owner(s), b.Owner(s)
		if i < 0 || j < 0 {
			if i != j {
				n++
			}
		} else if a.members[i].ID != b.members[j].ID {
			n++
		}
	}
	return n
}

// Three nodes become five and three again, as an operator would scale them.
func TestFewSlotsMove(t *testing.T) {
	for _, c := range []struct{ from, to int }{{1, 2}, {2, 3}, {3, 4}, {3, 5}, {5, 6}, {5, 8}, {9, 10}, {16, 20}} {
		a, b := New(equal(c.from)), New(equal(c.to))
		ideal := float64(id.SlotCount*(c.to-c.from)) / float64(c.to)
		moved := slotsMoved(a, b)
		t.Logf("%d -> %d: %d slots move, ideal %.0f", c.from, c.to, moved, ideal)
		if math.Abs(float64(moved)-ideal) > ideal/10 {
			t.Errorf("%d -> %d: %d slots move, want %.0f within a tenth", c.from, c.to, moved, ideal)
		}
		if back := slotsMoved(b, New(equal(c.from))); back != moved {
			t.Errorf("%d -> %d: %d slots move, back %d", c.from, c.to, moved, back)
		}
	}
}

// Whatever the names are: a bound that holds for each ring, and a closer one for their mean.
func TestFewSlotsMoveOfAnyNames(t *testing.T) {
	rng := seeded(t)
	const rings = 200
	var sum float64
	for range rings {
		ms := random(rng, 5, false)
		moved := float64(slotsMoved(New(ms[:3]), New(ms)))
		sum += moved
		if ideal := 4096 * 2.0 / 5; math.Abs(moved-ideal) > ideal/10 {
			t.Errorf("3 -> 5: %.0f slots move, want %.0f within a tenth: %v", moved, ideal, ms)
		}
	}
	t.Logf("mean of %d rings: %.0f slots move, ideal 1638", rings, sum/rings)
	if mean := sum / rings; math.Abs(mean-1638.4) > 1638.4/50 {
		t.Errorf("3 -> 5: %.0f slots move on average, want 1638", mean)
	}
}

func TestNobodyOwnsNothing(t *testing.T) {
	for _, ms := range [][]Member{nil, {{"a", 0}}} {
		r := New(ms)
		if len(r.Members()) != 0 || r.Owner(0) != -1 || r.Owner(4095) != -1 {
			t.Errorf("%v: %d owns slot 0", ms, r.Owner(0))
		}
	}
	r := New(equal(2))
	if r.Owner(id.SlotStore) != -1 || r.Owner(id.SlotCount) != -1 {
		t.Error("a slot that there is not has an owner")
	}
	if n := slotsMoved(New(nil), r); n != id.SlotCount {
		t.Errorf("%d slots found an owner", n)
	}
	if n := slotsMoved(New(nil), New(nil)); n != 0 {
		t.Errorf("%d slots moved from nobody to nobody", n)
	}
}

func TestHeaviestCounts(t *testing.T) {
	r := New([]Member{{"a", 1 << 31}, {"b", MaxWeight}, {"b", 3}})
	if d := r.Owned(0) - r.Owned(1); d < -300 || d > 300 {
		t.Errorf("two of the highest weight own %d and %d", r.Owned(0), r.Owned(1))
	}
}

func TestLog2(t *testing.T) {
	rng := seeded(t)
	last := uint64(math.MaxUint64)
	xs := []uint64{0, 1, 2, 3, 1 << 32, 1 << 63, math.MaxUint64}
	for range 100_000 {
		xs = append(xs, rng.Uint64()>>rng.IntN(64))
	}
	slices.Sort(xs)
	for _, x := range xs {
		got := log2(x)
		want := (64 - math.Log2(float64(x|1))) * (1 << 50)
		if math.Abs(float64(got)-want) > 1<<28 {
			t.Fatalf("-log2(%d/2^64) is %d, want %.0f", x, got, want)
		}
		if got > last {
			t.Fatalf("-log2(%d/2^64) is %d, above %d", x, got, last)
		}
		last = got
	}
}

func FuzzNew(f *testing.F) {
	f.Add("a\nb\nc", uint32(1), uint32(3))
	f.Fuzz(func(t *testing.T, names string, w0, step uint32) {
		var ms []Member
		for i, n := range strings.Split(names, "\n") {
			if i == 64 {
				break
			}
			ms = append(ms, Member{ID: n, Weight: w0 + uint32(i)*step})
		}
		r := New(ms)
		all := 0
		for i := range r.Members() {
			all += r.Owned(i)
		}
		if len(r.Members()) > 0 && all != id.SlotCount {
			t.Fatalf("%d slots are owned", all)
		}
	})
}

func BenchmarkNew(b *testing.B) {
	for _, n := range []int{3, 5, 20, 100} {
		ms := equal(n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				New(ms)
			}
		})
	}
}
