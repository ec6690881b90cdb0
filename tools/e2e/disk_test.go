//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// A disk that is nearly full: sends are refused, retryably, before the engine is in
// danger; reads go on; sends resume by themselves when there is room again.
func TestDiskNearlyFull(t *testing.T) {
	s := newServer(t, binary, "GOCHAT_STORAGE__DISK_RESERVE=64MiB", "GOCHAT_STORAGE__MEMTABLE=4MiB")
	s.wrap = smallDisk(t, s.data, 256<<20)
	s.start()
	alice, bob := signUp(s, "alice"), signUp(s, "bob")
	alice.connect(gochat.NewMemoryStore())
	bob.connect(gochat.NewMemoryStore())
	alice.send(bob, "while there is room")
	bob.until("the first message", 10*time.Second, func() bool { return len(bob.received) == 1 })

	// The server sees its own mounts: the way into them is through its process.
	filler := filepath.Join("/proc", strconv.Itoa(s.cmd.Process.Pid), "root", s.data, "filler")
	fill(t, filler, 256<<20)
	stuck := alice.send(bob, "when it is full")
	eventually(t, "a refusal for want of space", func() bool { return metric(t, s, `gochat_messages_refused_total{code="storage_full"}`) > 0 })
	alice.mu.Lock()
	if ack, ok := alice.acks[stuck]; ok {
		t.Errorf("acked as seq %d on a full disk", ack.Seq)
	}
	alice.mu.Unlock()
	history, _, err := bob.client.History(context.Background(), id.Direct("alice", "bob"), 0, 10)
	if err != nil || len(history) != 1 || history[0].Text != "while there is room" {
		t.Errorf("reading while the disk is full: %v, %v", history, err)
	}
	if !s.alive() {
		t.Fatal("the server died of a full disk")
	}

	// The file system goes with the process that mounted it, so what a start makes of so
	// little room is seen in a data directory of its own.
	tight := newServer(t, binary, "GOCHAT_STORAGE__DISK_RESERVE=64MiB", "GOCHAT_STORAGE__MEMTABLE=4MiB")
	tight.wrap = smallDisk(t, tight.data, 40<<20)
	tight.start()
	ready, err := http.Get("http://" + tight.http + "/readyz")
	if err != nil || ready.StatusCode != http.StatusOK {
		t.Errorf("started where there is no room for messages: %v, %v", ready, err)
	}
	if err == nil {
		ready.Body.Close()
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	alice.until("the ack once there is room", 60*time.Second, func() bool { _, ok := alice.acks[stuck]; return ok })
	bob.until("both messages", 10*time.Second, func() bool { return len(bob.received[id.Direct("alice", "bob")]) == 2 })
	if got := fmt.Sprint(bob.texts(alice)); got != "[while there is room when it is full]" {
		t.Errorf("bob holds %s", got)
	}
}

// smallDisk returns the command that gives the server a file system of its own at dir.
func smallDisk(t *testing.T, dir string, size int) []string {
	script := fmt.Sprintf("mount -t tmpfs -o size=%d tmpfs '%s' && exec \"$0\" \"$@\"", size, dir)
	for _, flags := range [][]string{{"-m"}, {"-r", "-m"}} {
		wrap := append(append([]string{"unshare"}, flags...), "sh", "-c", script)
		if exec.Command(wrap[0], append(wrap[1:], "true")...).Run() == nil {
			return wrap
		}
	}
	t.Fatal("this test mounts a small file system for the server alone: run it as root, or where unshare -r -m is allowed")
	return nil
}

// fill writes until the disk takes no more.
func fill(t *testing.T, path string, atMost int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	for n := 0; n < atMost; n += len(block) {
		if _, err := f.Write(block); err != nil {
			// The last megabytes stay free: a full disk is another test than a nearly full one.
			_ = f.Truncate(int64(max(n-16<<20, 0)))
			return
		}
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s didn't happen", what)
		}
	}
}

// metric returns a value that the server publishes, 0 if it isn't there yet.
func metric(t *testing.T, s *server, name string) float64 {
	t.Helper()
	res, err := http.Get("http://" + s.http + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindSubmatch(body)
	if m == nil {
		return 0
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Any other failure to write ends the process with a status of its own; what was acked
// is there after a restart, and what wasn't is sent again.
func TestWriteFailure(t *testing.T) {
	for _, fault := range []string{"write:400", "sync:150"} {
		t.Run(fault, func(t *testing.T) {
			s := newServer(t, binary)
			s.start()
			alice, bob := signUp(s, "alice"), signUp(s, "bob")
			alice.connect(gochat.NewMemoryStore())
			bob.connect(gochat.NewMemoryStore())
			s.kill()
			s.bin, s.env = faultBinary, []string{"GOCHAT_FAULT=" + fault}
			s.start()
			var sent []id.ClientMsgID
			for s.alive() && len(sent) < 5000 {
				sent = append(sent, alice.send(bob, fmt.Sprintf("%d of alice", len(sent))))
				time.Sleep(time.Millisecond)
			}
			status, err := s.wait(30 * time.Second)
			if err != nil || status != 3 {
				t.Fatalf("the server ended with status %d, %v; want 3\n%s", status, err, s.output())
			}
			acked := len(alice.acks)
			s.bin, s.env = binary, nil
			s.start()
			alice.until("all acks", time.Minute, func() bool { return len(alice.acks) == len(sent) })
			bob.until("all messages", time.Minute, func() bool { return len(bob.received[id.Direct("alice", "bob")]) == len(sent) })
			verify(t, bob, nil, alice, sent)
			verify(t, alice, sent, bob, nil)
			t.Logf("%d of %d were acked before the failure", acked, len(sent))
			_, _ = alice.client.Close(), bob.client.Close()
			s.kill()
			s.check()
		})
	}
}

// A data directory has one server.
func TestDataDirectoryIsLocked(t *testing.T) {
	s := newServer(t, binary)
	s.start()
	second := &server{t: t, bin: binary, data: s.data, tcp: freePort(t), http: freePort(t)}
	err := second.tryStart()
	if err == nil {
		second.kill()
		t.Fatal("two servers on one directory")
	}
	if !regexp.MustCompile(regexp.QuoteMeta(s.data)).MatchString(err.Error()) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the error doesn't name the directory: %v", err)
	}
}
