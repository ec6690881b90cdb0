package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/gochat-im/gochat/msgstore"
	"github.com/gochat-im/gochat/msgstore/kv"
	"github.com/gochat-im/gochat/node/storage"
	"github.com/gochat-im/gochat/protocol/code"
	"github.com/gochat-im/gochat/protocol/id"
	gochat "github.com/gochat-im/gochat/sdk/go"
	"github.com/gochat-im/gochat/services/relation"
)

// members returns who is in a group, with their roles.
func (a *listener) members(conv id.ConversationID) map[id.UserID]gochat.Role {
	a.w.t.Helper()
	got := map[id.UserID]gochat.Role{}
	page, _, _, err := a.Members(a.w.ctx, conv, "", 0)
	if err != nil {
		a.w.t.Fatal(err)
	}
	for _, m := range page {
		got[m.User] = m.Role
	}
	return got
}

// sent sends a text and returns the outcome.
func (a *listener) sent(to gochat.Target, text string) (gochat.Ack, error) {
	r, err := a.Send(a.w.ctx, to, gochat.Text(text))
	if err != nil {
		return gochat.Ack{}, err
	}
	return r.Wait(a.w.ctx)
}

// A user who is deleted is signed out, has left all groups, which were handed over to who had
// been an admin, or in, for the longest, or closed; has no list any more and a profile that says so;
// the direct chats that stand stay readable and take no more messages, and the name stays taken. All that holds,
// too, when the process ends right after the deletion was begun.
func TestDeletion(t *testing.T) {
	for name, crash := range map[string]bool{"at once": false, "begun before a crash": true} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t, nil, "ann", "ben", "cay", "dan", "bob")
			ann, bob := w.device("ann", "phone"), w.device("bob", "phone")
			if _, err := bob.SetProfile(w.ctx, gochat.ProfileChange{Name: ptr("Bobby")}); err != nil {
				t.Fatal(err)
			}
			if _, err := ann.sent(gochat.ToUser("bob"), "hello"); err != nil {
				t.Fatal(err)
			}
			if _, err := bob.sent(gochat.ToUser("ann"), "hello yourself"); err != nil {
				t.Fatal(err)
			}
			if err := bob.Block(w.ctx, "dan"); err != nil {
				t.Fatal(err)
			}
			group := func(owner *listener, users ...id.UserID) id.ConversationID {
				t.Helper()
				g, err := owner.CreateGroup(w.ctx, gochat.NewGroup{Name: "g", Users: users, Open: true})
				if err != nil {
					t.Fatal(err)
				}
				return g.Conversation
			}
			hers := group(ann, "bob", "ben")
			withAdmin := group(bob, "ann", "ben")
			for _, u := range []id.UserID{"cay", "dan"} {
				if _, err := bob.AddMembers(w.ctx, withAdmin, u); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := bob.SetRole(w.ctx, withAdmin, "cay", gochat.Admin); err != nil {
				t.Fatal(err)
			}
			plain, alone := group(bob, "ann"), group(bob)
			if _, err := bob.AddMembers(w.ctx, plain, "ben"); err != nil {
				t.Fatal(err)
			}

			if crash {
				if err := w.node.logic.Accounts.BeginDelete(w.ctx, "bob"); err != nil {
					t.Fatal(err)
				}
				_, _ = ann.Close(), bob.Close()
				if err := w.node.stop(); err != nil {
					t.Fatal(err)
				}
				w.start(nil)
				ann = w.device("ann", "phone")
			} else if err := w.node.deletions.Delete(w.ctx, "bob"); err != nil {
				t.Fatal(err)
			}
			left := func() bool {
				rows, err := msgstore.NewInbox(w.node.storage.Store, msgstore.Keys{}).Scan(w.ctx, "bob", id.ConversationID{}, 0)
				if err != nil {
					t.Fatal(err)
				}
				for _, r := range rows {
					if !r.Tombstone && r.Conversation.Kind() != id.KindGroup {
						return false
					}
				}
				for _, conv := range []id.ConversationID{hers, withAdmin, plain, alone} {
					m, _, err := msgstore.NewMembers(w.node.storage.Store, msgstore.Keys{}).Get(w.ctx, conv, "bob")
					if err != nil {
						t.Fatal(err)
					}
					if m.Active() {
						return false
					}
				}
				return true
			}
			for !left() {
				select {
				case <-time.After(5 * time.Millisecond):
				case <-w.ctx.Done():
					t.Fatal("the deletion doesn't go on")
				}
			}

			for conv, want := range map[id.ConversationID]map[id.UserID]gochat.Role{
				hers:      {"ann": gochat.Owner, "ben": gochat.Member},
				withAdmin: {"cay": gochat.Owner, "ann": gochat.Member, "ben": gochat.Member, "dan": gochat.Member},
				plain:     {"ann": gochat.Owner, "ben": gochat.Member},
			} {
				got := ann.members(conv)
				if len(got) != len(want) {
					t.Errorf("members %v, want %v", got, want)
				}
				for u, r := range want {
					if got[u] != r {
						t.Errorf("%s has the role %v, want %v", u, got[u], r)
					}
				}
			}
			var refused *code.Error
			if _, err := ann.JoinGroup(w.ctx, alone); !errors.As(err, &refused) || refused.Code != code.NoSuchConversation {
				t.Errorf("joining the group that nobody is in: %v", err)
			}
			if _, err := ann.sent(gochat.ToUser("bob"), "are you there?"); !errors.As(err, &refused) || refused.Code != code.NoSuchUser {
				t.Errorf("a message to the deleted user: %v", err)
			}
			page, _, err := ann.History(w.ctx, id.Direct("ann", "bob"), 0, 0)
			if err != nil || len(page) != 2 || page[1].Sender != "bob" {
				t.Errorf("what was said: %+v, %v", page, err)
			}
			profiles, err := ann.Profiles(w.ctx, "bob")
			if err != nil || profiles["bob"].Name != relation.ErasedName {
				t.Errorf("profile: %+v, %v", profiles, err)
			}
			if _, err := ann.AddMembers(w.ctx, hers, "bob"); err == nil {
				if _, in := ann.members(hers)["bob"]; in {
					t.Error("a deleted user is brought into a group")
				}
			}
			if _, err := w.node.logic.Accounts.Register(w.ctx, "bob", "long enough", "", 0); err == nil || err.Code != code.NameTaken {
				t.Errorf("the name is given out again: %v", err)
			}
			if all, err := w.node.logic.Accounts.Gone(w.ctx, "bob", "ann"); err != nil || !slices.Equal(all, []bool{true, false}) {
				t.Errorf("gone: %v, %v", all, err)
			}
			// Long after, everything is done and nothing is left to go on with.
			tx := new(kv.Tx)
			tx.Set(msgstore.Keys{}.Deleting(nil, "bob"), msgstore.AppendDeleting(nil, 1))
			if w.node.storage.Store.Commit(w.ctx, tx); tx.Err != nil {
				t.Fatal(tx.Err)
			}
			for left := true; left; {
				if left, err = w.node.deletions.GoOn(w.ctx); err != nil {
					t.Fatal(err)
				}
			}
			if all, err := w.node.logic.Accounts.Deletions(w.ctx, nil, 10); err != nil || len(all) != 0 {
				t.Errorf("still to be deleted: %+v, %v", all, err)
			}
			if rows, err := msgstore.NewInbox(w.node.storage.Store, msgstore.Keys{}).Scan(w.ctx, "bob", id.ConversationID{}, 0); err != nil || len(rows) != 0 {
				t.Errorf("still on the user's list: %+v, %v", rows, err)
			}
			_ = ann.Close()
			if err := w.node.stop(); err != nil {
				t.Error(err)
			}
			sum, err := storage.Check(context.Background(), w.node.cfg, slog.New(slog.DiscardHandler), func(_, text string) { t.Log(text) })
			if err != nil || sum.Errors > 0 {
				t.Errorf("audit: %+v, %v", sum, err)
			}
		})
	}
}
