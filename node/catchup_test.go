package node

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

// A device that was away for longer than messages are kept: it is told from where they
// are still there, gets these, and its numbers are right. Its user's other device, and
// the other side, see what it reads.
func TestADeviceBehindWhatIsKept(t *testing.T) {
	data := t.TempDir()
	n := start(t, data)
	registerAll(t, n, "ann", "ben")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connect := func(user id.UserID, device id.DeviceID) *actor {
		a := newActor(t, n, data, user, device)
		t.Cleanup(a.offline)
		a.online(ctx)
		return a
	}
	ben, phone, desk := connect("ben", "desk"), connect("ann", "phone"), connect("ann", "desk")
	conv := id.Direct("ann", "ben")
	say := func(n int) {
		t.Helper()
		for range n {
			r, err := ben.client.Send(ctx, gochat.ToUser("ann"), gochat.Text("x"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := r.Wait(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	stands := func(a *actor, want string) {
		t.Helper()
		a.until(ctx, func() string {
			c, _ := a.list.Get(conv)
			got := fmt.Sprintf("last %d, read %d, unread %d, peer read %d", c.LastSeq, c.ReadSeq, c.Unread, c.PeerReadSeq)
			if got == want {
				return ""
			}
			return got + ", want " + want
		})
	}
	say(3)
	stands(phone, "last 3, read 0, unread 3, peer read 0")
	stands(desk, "last 3, read 0, unread 3, peer read 0")
	phone.offline()
	say(7)
	stands(desk, "last 10, read 0, unread 10, peer read 0")
	if first := trim(t, n, conv, 9); first != 9 {
		t.Fatalf("the first message that is left is %d", first)
	}
	phone.online(ctx)
	stands(phone, "last 10, read 0, unread 2, peer read 0")
	phone.until(ctx, func() string {
		phone.mu.Lock()
		defer phone.mu.Unlock()
		if !slices.Equal(phone.got[conv], []uint64{1, 2, 3, 9, 10}) || phone.gone[conv] != 9 {
			return fmt.Sprintf("got %v, told that below %d all is gone", phone.got[conv], phone.gone[conv])
		}
		return ""
	})
	if read, unread, err := phone.client.MarkRead(ctx, conv, 9); err != nil || read != 9 || unread != 1 {
		t.Fatalf("read %d, %d unread, %v", read, unread, err)
	}
	for _, a := range []*actor{phone, desk} {
		stands(a, "last 10, read 9, unread 1, peer read 0")
	}
	stands(ben, "last 10, read 0, unread 0, peer read 9")
	// And whoever wasn't there hears of it later.
	ben.offline()
	if _, _, err := desk.client.MarkRead(ctx, conv, 10); err != nil {
		t.Fatal(err)
	}
	stands(phone, "last 10, read 10, unread 0, peer read 0")
	ben.online(ctx)
	stands(ben, "last 10, read 0, unread 0, peer read 10")
}
