package node

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gochat-im/gochat/protocol/code"
	gochat "github.com/gochat-im/gochat/sdk/go"
)

func TestTheOperatorBansAndDeletes(t *testing.T) {
	data := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	n := start(t, data)
	signUp(t, n, "alice", "bob", "carol")
	bob := device(t, n, data, "bob", func(gochat.Message) {})
	alice := device(t, n, data, "alice", func(gochat.Message) {})
	for _, c := range []*gochat.Client{alice, bob} {
		if err := c.Connected(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ask := operator(t, data)
	var ans UserAnswer
	if err := ask("/gc/user", UserRequest{User: "bob"}, &ans); err != nil || ans.Closed != "" || ans.Registered == nil || len(ans.Devices) == 0 {
		t.Fatalf("bob is %+v, %v", ans, err)
	}
	if err := ask("/gc/ban", UserRequest{User: "bob", Reason: "spam"}, &ans); err != nil || ans.Closed != "banned" || ans.Reason != "spam" {
		t.Fatalf("bob is %+v, %v", ans, err)
	}
	// His connection ends, and what stands is that he is banned, not only signed out.
	for n.edge.Hub.Count() > 1 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	again := device(t, n, data, "bob", func(gochat.Message) {})
	var refused *code.Error
	if err := again.Connected(ctx); !errors.As(err, &refused) || refused.Code != code.Banned {
		t.Errorf("a banned user connects: %v", err)
	}
	if seq := say(ctx, t, alice, "bob", "for when you are back"); seq != 1 {
		t.Errorf("seq %d", seq)
	}
	if err := ask("/gc/unban", UserRequest{User: "bob"}, &ans); err != nil {
		t.Fatal(err)
	}
	if err := ask("/gc/delete", UserRequest{User: "carol"}, &ans); err != nil {
		t.Fatal(err)
	}
	r, err := alice.Send(ctx, gochat.ToUser("carol"), gochat.Text("hello?"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Wait(ctx); !errors.As(err, &refused) || refused.Code != code.NoSuchUser {
		t.Errorf("a message to a deleted user: %v", err)
	}
	for name, in := range map[string]UserRequest{"no name": {}, "a name too long": {User: strings.Repeat("x", 65)}} {
		if err := ask("/gc/ban", in, nil); err == nil || !strings.Contains(err.Error(), "400") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
