//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

var seed = flag.Uint64("seed", uint64(time.Now().UnixNano()), "seed of random tests")

// Kills under load, of one server more than twenty. Whatever was acked is there, in its place; what
// wasn't arrives in the end; every recipient gets every message once and in order.
func TestKillsUnderLoad(t *testing.T) { everywhere(t, testKillsUnderLoad) }

func testKillsUnderLoad(t *testing.T, s *server) {
	const pairs, window = 6, 16
	t.Logf("replay with -seed %d", *seed)
	rng := rand.New(rand.NewPCG(*seed, 1))

	people := make([]*person, 2*pairs)
	for i := range people {
		people[i] = signUp(s, fmt.Sprintf("user%d", i))
	}
	for _, p := range people {
		p.connect(gochat.NewMemoryStore())
	}
	sent := make([][]id.ClientMsgID, len(people)) // by sender, in order
	stop, stopped := make(chan struct{}), make(chan struct{}, len(people))
	for i, p := range people {
		go func() { // ends with stop
			defer func() { stopped <- struct{}{} }()
			peer := people[i^1]
			for n := 0; ; n++ {
				for {
					select {
					case <-stop:
						return
					default:
					}
					p.mu.Lock()
					waiting, wake := n-len(p.acks), p.wake
					p.mu.Unlock()
					if waiting < window {
						break
					}
					select {
					case <-wake:
					case <-time.After(20 * time.Millisecond):
					}
				}
				sent[i] = append(sent[i], p.send(peer, fmt.Sprintf("%d of %s", n, p.name)))
			}
		}()
	}

	// Eight kills from outside at random moments, five at each fault point. Nodes of a cluster are killed all at once, at random moments.
	faults := []string{"", "", "", "", "", "", "", ""}
	if s.nodes != nil {
		faults = faults[:4]
	} else {
		for range 5 {
			faults = append(faults, "committed", "acked", "flushed")
		}
	}
	rng.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
	count := map[string]int{}
	s.kill()
	for i, fault := range faults {
		s.bin, s.env = binary, nil
		if fault != "" {
			s.bin, s.env = faultBinary, []string{fmt.Sprintf("GOCHAT_FAULT=%s:%d", fault, 1+rng.IntN(60))}
		}
		if err := s.tryStart(); err != nil && s.alive() {
			t.Fatal(err)
		}
		if fault == "" {
			time.Sleep(time.Duration(rng.IntN(700)) * time.Millisecond)
			s.kill()
		} else if _, err := s.wait(30 * time.Second); err != nil {
			t.Fatalf("fault %d, %s: %v", i, fault, err)
		}
		count[fault]++
	}
	t.Logf("%d kills: %d at random moments, %d between commit and ack, %d between ack and fan-out, %d while acks were leaving",
		len(faults), count[""], count["committed"], count["acked"], count["flushed"])

	s.bin, s.env = binary, nil
	s.start()
	close(stop)
	for range people {
		<-stopped
	}
	for i, p := range people {
		p.until("the last ack", time.Minute, func() bool { return len(p.acks)+len(p.failed) == len(sent[i]) })
	}
	total := 0
	for i, p := range people {
		peer := people[i^1]
		p.until("the last message", time.Minute, func() bool {
			return len(p.received[id.Direct(p.name, peer.name)]) >= len(sent[i])+len(sent[i^1])
		})
		total += len(sent[i])
		verify(t, p, sent[i], peer, sent[i^1])
	}
	t.Logf("%d messages", total)
	for _, p := range people {
		_ = p.client.Close()
	}
	s.kill()
	s.check()
}

// verify checks what p was told of its conversation with peer.
func verify(t *testing.T, p *person, own []id.ClientMsgID, peer *person, others []id.ClientMsgID) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for c, err := range p.failed {
		t.Errorf("%s: message %s was refused for good: %v", p.name, c, err)
	}
	got := p.received[id.Direct(p.name, peer.name)]
	if len(got) != len(own)+len(others) {
		t.Errorf("%s holds %d messages, want %d", p.name, len(got), len(own)+len(others))
	}
	next := map[id.UserID]int{}
	for i, m := range got {
		if m.Seq != uint64(i+1) {
			t.Fatalf("%s: message %d has seq %d", p.name, i+1, m.Seq)
		}
		n := next[m.Sender]
		next[m.Sender]++
		if want := fmt.Sprintf("%d of %s", n, m.Sender); m.Text != want {
			t.Fatalf("%s: seq %d is %q, want %q", p.name, m.Seq, m.Text, want)
		}
		want := others
		if m.Sender == p.name {
			want = own
			ack := p.acks[m.ClientMsgID]
			if ack.Seq != m.Seq || ack.MessageID != m.ID {
				t.Errorf("%s: message %s was acked as seq %d, id %d, and is seq %d, id %d", p.name, m.ClientMsgID, ack.Seq, ack.MessageID, m.Seq, m.ID)
			}
		}
		if n < len(want) && want[n] != m.ClientMsgID {
			t.Errorf("%s: seq %d has id %s, want %s", p.name, m.Seq, m.ClientMsgID, want[n])
		}
	}
}
